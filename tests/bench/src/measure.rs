//! What all measurements share: starting a system, judging the machine around a run, reading counters.

use anyhow::Result;
use lab::switch::{Plan, Switch, System, Work};
use lab::{Pages, Paused, Placement, other_threads_run, ping_pong_ns, poll_thread_wait, stolen_time};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Options;
use crate::section::{Figures, Section};
use crate::traffic::{Headers, Phase, Stream, Traffic, TrafficOptions};

/// Share of the time somebody else may have had a core before a run is left out.
const DISTURBED: f64 = 0.03;

/// All systems, and those that look at frames.
pub(crate) const ALL: &[System] = &[System::Ringway, System::OvsDpdk, System::Testpmd];
pub(crate) const SWITCHES: &[System] = &[System::Ringway, System::OvsDpdk];

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// State of the cores.
    pub placement: Placement,
    /// Round trips between the cores before and after, in nanoseconds.
    pub ping_pong_ns: [f64; 2],
    /// What was found.
    pub figures: Figures,
}

/// A run that counts, or one that does not.
pub(crate) type Outcome = std::result::Result<Run, LeftOut>;

/// A run that does not count.
#[derive(Clone, Debug)]
pub(crate) struct LeftOut {
    /// Why.
    pub why: String,
    /// What was found nevertheless, for who watches.
    pub figures: Figures,
}

/// What one start of a system can tell.
pub(crate) trait Measure {
    /// The kind of its rows.
    fn section(&self) -> &'static Section;

    /// Systems it makes sense for.
    fn systems(&self) -> &'static [System] {
        SWITCHES
    }

    /// Its rows.
    fn names(&self) -> Vec<String>;

    /// Starts the system and finds the figures of those rows that are `wanted`.
    ///
    /// # Errors
    /// When system or load fail.
    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>>;
}

/// A measurement and the rows wanted of it.
pub(crate) struct Group {
    measure: Box<dyn Measure>,
    wanted: Vec<String>,
}

impl Group {
    /// The rows for which `is_wanted`; `None` when there is none.
    pub(crate) fn of(measure: Box<dyn Measure>, is_wanted: impl Fn(&str) -> bool) -> Option<Self> {
        let wanted: Vec<String> = measure.names().into_iter().filter(|name| is_wanted(name)).collect();
        (!wanted.is_empty()).then_some(Self { measure, wanted })
    }

    /// Names of the rows.
    pub(crate) fn names(&self) -> &[String] {
        &self.wanted
    }

    pub(crate) fn section(&self) -> &'static Section {
        self.measure.section()
    }

    pub(crate) fn systems(&self) -> &'static [System] {
        self.measure.systems()
    }

    pub(crate) fn measure(&self, bench: &Bench<'_>, system: System) -> Result<Vec<(String, Outcome)>> {
        self.measure.measure(bench, system, &|name| self.wanted.iter().any(|wanted| wanted == name))
    }
}

/// Options and what was found out at the start.
pub(crate) struct Bench<'a> {
    pub options: &'a Options,
    pub pages: Pages,
}

impl Bench<'_> {
    /// A directory for one start; sockets lie in it, so its path is short.
    pub(crate) fn dir(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("rw-bench-").tempdir()?)
    }

    /// A switch with this many vhost-user ports.
    pub(crate) fn plan(&self, dir: &Path, ports: usize, flows: Vec<String>) -> Plan {
        let mut plan = Plan::with_guests(dir, ports);
        plan.core = self.options.switch_core;
        plan.control_core = self.options.load_core;
        plan.pages = self.pages;
        plan.flows = flows;
        plan
    }

    /// The own load at all ports of a plan.
    pub(crate) fn traffic(&self, plan: &Plan, packed: bool) -> Result<Traffic> {
        let sockets = (0..plan.ports.len()).map(|port| plan.socket(port)).collect();
        Traffic::start(&plan.dir, &TrafficOptions { core: self.options.load_core, sockets, packed })
    }

    /// Seconds of a phase: this many, or less when quick.
    pub(crate) fn seconds(&self, full: f64) -> f64 {
        if self.options.quick { full / 2.0 } else { full }
    }

    /// Takes figures with the machine judged around them. `load` is the process that polls on the load's core, which is
    /// to hold still before and after.
    pub(crate) fn judged(
        &self,
        switch: &mut dyn Switch,
        load: Option<u32>,
        take: impl FnOnce(&mut dyn Switch) -> Result<Figures>,
    ) -> Result<Outcome> {
        let before_ns = self.ping_pong(switch)?;
        let watch = self.watch(switch.pid(), load)?;
        let figures = take(switch)?;
        let others = watch.others_share()?;
        let after_ns = self.ping_pong(switch)?;
        if others > DISTURBED {
            let why = format!("others had {:.0} % of a core meanwhile", others * 100.0);
            return Ok(Err(LeftOut { why, figures }));
        }
        if let Some((name, _)) = figures.iter().find(|(_, value)| !value.is_finite()) {
            return Ok(Err(LeftOut { why: format!("no {name}: no frame came through"), figures }));
        }
        let placement = Placement::of(before_ns, after_ns);
        Ok(Ok(Run { placement, ping_pong_ns: [before_ns, after_ns], figures }))
    }

    fn watch(&self, switch: u32, load: Option<u32>) -> Result<Watch> {
        let mut polling = vec![(switch, self.options.switch_core)];
        polling.extend(load.map(|pid| (pid, self.options.load_core)));
        let helpers_before = other_threads_run(switch)?;
        let mut watch = Watch { before: Vec::new(), switch, helpers_before, start: Instant::now(), polling };
        watch.before = watch.kept_off()?;
        Ok(watch)
    }

    /// Measures between the cores while the switch holds still.
    fn ping_pong(&self, switch: &dyn Switch) -> Result<f64> {
        let _still = Paused::new(switch.pid())?;
        ping_pong_ns(self.options.switch_core, self.options.load_core)
    }
}

/// How long threads that poll did not have their cores.
struct Watch {
    before: Vec<Duration>,
    /// The switch, whose other threads are part of it, and what they had run.
    switch: u32,
    helpers_before: Duration,
    start: Instant,
    polling: Vec<(u32, usize)>,
}

impl Watch {
    fn kept_off(&self) -> Result<Vec<Duration>> {
        let one = |&(pid, core): &(u32, usize)| Ok(poll_thread_wait(pid)? + stolen_time(core)?);
        self.polling.iter().map(one).collect()
    }

    /// The larger share of the time so far.
    fn others_share(&self) -> Result<f64> {
        let seconds = self.start.elapsed().as_secs_f64();
        let after = self.kept_off()?;
        let helpers = other_threads_run(self.switch)?.saturating_sub(self.helpers_before);
        let waited = self.before.iter().zip(after);
        let waited = waited.map(|(before, after)| after.saturating_sub(*before + helpers).as_secs_f64());
        Ok(waited.fold(0.0, f64::max) / seconds)
    }
}

/// What a switch's poll loop did between two readings.
pub(crate) fn work_since(before: Work, now: Work) -> Work {
    Work {
        busy_cycles: now.busy_cycles.saturating_sub(before.busy_cycles),
        idle_cycles: now.idle_cycles.saturating_sub(before.idle_cycles),
        frames: now.frames.saturating_sub(before.frames),
        bursts: now.bursts.saturating_sub(before.bursts),
        sleeps: now.sleeps.saturating_sub(before.sleeps),
    }
}

/// Busy cycles per frame; not a number when there was none.
pub(crate) fn cycles_per_frame(work: Work) -> f64 {
    if work.frames == 0 { f64::NAN } else { work.busy_cycles as f64 / work.frames as f64 }
}

/// Figures from pairs.
pub(crate) fn figures<const N: usize>(pairs: [(&str, f64); N]) -> Figures {
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A phase of one stream from the first port to the second.
pub(crate) fn one_way(
    seconds: f64,
    rate: Option<f64>,
    size: usize,
    headers: Headers,
    stamped: bool,
) -> Phase {
    Phase { seconds, streams: vec![Stream { from: 0, to: 1, rate, size, headers, stamped }] }
}
