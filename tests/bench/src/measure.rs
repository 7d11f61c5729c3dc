//! One start of a system and its load, and what is read from both.

use anyhow::Result;
use lab::switch::{Plan, Switch, System, Work};
use lab::{
    Pages, Paused, Placement, Testpmd, TestpmdOptions, VirtioUser, cpu_time, ping_pong_ns, poll_thread_wait,
    resident_bytes, stolen_time,
};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Options;
use crate::cases::{Case, Group};

/// Caches, rings and clock frequency settle before anything is read.
const WARM_UP: Duration = Duration::from_millis(700);
/// Share of the time somebody else may have had a core before a run is left out.
const DISTURBED: f64 = 0.03;
const IDLE_SETTLE: Duration = Duration::from_secs(2);
const IDLE_TIME: Duration = Duration::from_secs(6);

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// State of the cores.
    pub placement: Placement,
    /// Round trips between the cores before and after, in nanoseconds.
    pub ping_pong_ns: [f64; 2],
    /// Frames the load received, both directions together, in millions per second.
    pub mpps: f64,
    /// TSC cycles of rounds that moved frames, per frame, by the system's own counters.
    pub cycles_per_frame: f64,
}

/// A system that has nothing to do.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Idle {
    /// Resident memory in bytes on ordinary pages, two ports, no guest.
    pub resident_bytes: u64,
    /// The same where the system's packet memory lies in huge pages, which do not count as resident.
    pub resident_bytes_huge_pages: Option<u64>,
    /// Processor use in percent of one core.
    pub cpu_percent: f64,
}

/// A run that counts, or why it does not.
pub(crate) type Outcome = std::result::Result<Run, String>;

/// Starts system and load and measures the group's cases one after another.
pub(crate) fn session(
    options: &Options,
    pages: Pages,
    group: &Group,
    system: System,
) -> Result<Vec<(String, Outcome)>> {
    let dir = tempfile::Builder::new().prefix("rw-bench-").tempdir()?;
    let plan = plan(options, pages, group, dir.path());
    let mut switch = system.start(&plan)?;
    let mut load = start_load(options, pages, group, &plan)?;
    let mut outcomes = Vec::new();
    for case in &group.cases {
        let outcome = run_case(options, group, case, switch.as_mut(), &mut load)?;
        outcomes.push((case.name.clone(), outcome));
    }
    load.quit()?;
    switch.stop()?;
    Ok(outcomes)
}

fn plan(options: &Options, pages: Pages, group: &Group, dir: &Path) -> Plan {
    let mut plan = Plan::with_guests(dir, 2);
    plan.core = options.switch_core;
    plan.control_core = options.load_core;
    plan.pages = pages;
    plan.flows = group.flow_strings();
    plan
}

fn start_load(options: &Options, pages: Pages, group: &Group, plan: &Plan) -> Result<Testpmd> {
    let port = |index| VirtioUser { packed: group.packed, ..VirtioUser::new(&plan.socket(index)) };
    let mut load = TestpmdOptions::guest("load", options.load_core, &[port(0), port(1)]);
    load.pages = pages;
    load.main_cores = vec![options.switch_core, options.load_core];
    // Each port sends to the other's address, so that a learning switch knows where to.
    load.arguments =
        ["--eth-peer=0,02:00:00:00:00:02", "--eth-peer=1,02:00:00:00:00:01"].map(String::from).into();
    if group.flows > 0 {
        load.arguments.extend([format!("--flowgen-flows={}", group.flows), "--forward-mode=flowgen".into()]);
    }
    Testpmd::start(&plan.dir, &load)
}

fn run_case(
    options: &Options,
    group: &Group,
    case: &Case,
    switch: &mut dyn Switch,
    load: &mut Testpmd,
) -> Result<Outcome> {
    let before_ns = ping_pong(options, switch)?;
    if group.flows > 0 {
        load.command(&format!("set txpkts {}", case.size))?;
        load.command("set fwd flowgen")?;
        load.command("start")?;
    } else {
        load.circulate(case.size, 8)?;
    }
    std::thread::sleep(WARM_UP);
    let sample = measure(options, switch, load)?;
    load.command("stop")?;
    load.drain()?;
    let after_ns = ping_pong(options, switch)?;
    if sample.others_share > DISTURBED {
        return Ok(Err(format!("others had {:.0} % of a core meanwhile", sample.others_share * 100.0)));
    }
    if sample.received == 0 || sample.work.frames == 0 {
        return Ok(Err("no frame came through".into()));
    }
    Ok(Ok(Run {
        placement: Placement::of(before_ns, after_ns),
        ping_pong_ns: [before_ns, after_ns],
        mpps: sample.received as f64 / sample.seconds / 1e6,
        cycles_per_frame: sample.work.busy_cycles as f64 / sample.work.frames as f64,
    }))
}

/// What happened between two readings of all counters.
struct Sample {
    /// Frames the load received.
    received: u64,
    /// Between the two readings of `received`.
    seconds: f64,
    /// Work of the switch.
    work: Work,
    /// The larger share of the time for which the switch's or the load's polling thread did not have its core.
    others_share: f64,
}

fn measure(options: &Options, switch: &mut dyn Switch, load: &mut Testpmd) -> Result<Sample> {
    let time = Duration::from_millis(if options.quick { 700 } else { 1500 });
    let polling = [(switch.pid(), options.switch_core), (load.process().pid(), options.load_core)];
    let kept_off = || -> Result<[Duration; 2]> {
        let one = |(pid, core)| Ok::<_, anyhow::Error>(poll_thread_wait(pid)? + stolen_time(core)?);
        Ok([one(polling[0])?, one(polling[1])?])
    };
    let work = switch.work()?;
    let received = load.received()?;
    let start = Instant::now();
    let before = kept_off()?;
    std::thread::sleep(time);
    let after = kept_off()?;
    let others_had = (after[0].saturating_sub(before[0])).max(after[1].saturating_sub(before[1]));
    let others_share = others_had.as_secs_f64() / start.elapsed().as_secs_f64();
    let received = load.received()? - received;
    let seconds = start.elapsed().as_secs_f64();
    let now = switch.work()?;
    let work = Work { busy_cycles: now.busy_cycles - work.busy_cycles, frames: now.frames - work.frames };
    Ok(Sample { received, seconds, work, others_share })
}

/// Measures between the cores while the switch holds still; the load is at its prompt.
fn ping_pong(options: &Options, switch: &dyn Switch) -> Result<f64> {
    let _still = Paused::new(switch.pid())?;
    ping_pong_ns(options.switch_core, options.load_core)
}

/// What a system uses with two ports and nobody at them.
pub(crate) fn idle(options: &Options, pages: Pages, system: System) -> Result<Idle> {
    let group = Group { packed: false, rules: crate::Rules::PortToPort, flows: 0, cases: Vec::new() };
    let time = if options.quick { IDLE_TIME / 2 } else { IDLE_TIME };
    let watch = |pages: Pages| -> Result<(u64, f64)> {
        let dir = tempfile::Builder::new().prefix("rw-bench-").tempdir()?;
        let switch = system.start(&plan(options, pages, &group, dir.path()))?;
        std::thread::sleep(IDLE_SETTLE);
        let before = cpu_time(switch.pid())?;
        std::thread::sleep(time);
        let used = cpu_time(switch.pid())? - before;
        let resident = resident_bytes(switch.pid())?;
        switch.stop()?;
        Ok((resident, 100.0 * used.as_secs_f64() / time.as_secs_f64()))
    };
    let (resident_bytes, cpu_percent) = watch(Pages::Small)?;
    let huge = pages == Pages::Huge && !options.quick;
    let resident_bytes_huge_pages = if huge { Some(watch(Pages::Huge)?.0) } else { None };
    Ok(Idle { resident_bytes, resident_bytes_huge_pages, cpu_percent })
}
