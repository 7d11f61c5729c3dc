//! Frames through a switch as fast as they go, both ways, by a testpmd at its two ports.

use anyhow::Result;
use lab::switch::{Plan, Switch, System};
use lab::{Testpmd, TestpmdOptions, VirtioUser};
use std::time::{Duration, Instant};

use crate::measure::{ALL, Bench, Measure, Outcome, cycles_per_frame, figures, work_since};
use crate::rules::Rules;
use crate::section::{FLOWS, FORWARDING, Figures, Section};

/// Caches, rings and clock frequency settle before anything is read.
const WARM_UP: Duration = Duration::from_millis(700);
/// With more flows than this, all are to be seen once before anything is read.
const WARM_UP_FLOWS: u32 = 100_000;

/// Frames as fast as they go.
pub(crate) struct Forwarding {
    /// Packed instead of split rings.
    pub packed: bool,
    /// Rules.
    pub rules: Rules,
    /// Flows the load sends; 0 means its plain frames, all alike, that go round and round.
    pub flows: u32,
    /// Rows: names and frame sizes in bytes as handed to virtio.
    pub cases: Vec<(String, u32)>,
}

impl Measure for Forwarding {
    fn section(&self) -> &'static Section {
        if self.flows > 0 { &FLOWS } else { &FORWARDING }
    }

    fn systems(&self) -> &'static [System] {
        ALL
    }

    fn names(&self) -> Vec<String> {
        self.cases.iter().map(|(name, _)| name.clone()).collect()
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let plan = bench.plan(dir.path(), 2, self.rules.flow_strings());
        let mut switch = system.start(&plan)?;
        let mut load = self.start_load(bench, &plan)?;
        let mut outcomes = Vec::new();
        for (name, size) in self.cases.iter().filter(|(name, _)| wanted(name)) {
            let load_pid = load.process().pid();
            let outcome = bench.judged(switch.as_mut(), Some(load_pid), |switch| {
                self.run(bench, *size, switch, &mut load)
            })?;
            outcomes.push((name.clone(), outcome));
        }
        load.quit()?;
        switch.stop()?;
        Ok(outcomes)
    }
}

impl Forwarding {
    fn start_load(&self, bench: &Bench<'_>, plan: &Plan) -> Result<Testpmd> {
        let port = |index| VirtioUser { packed: self.packed, ..VirtioUser::new(&plan.socket(index)) };
        let mut load = TestpmdOptions::guest("load", bench.options.load_core, &[port(0), port(1)]);
        load.pages = bench.pages;
        load.main_cores = vec![bench.options.switch_core, bench.options.load_core];
        // Each port sends to the other's address, so that a learning switch knows where to.
        load.arguments =
            ["--eth-peer=0,02:00:00:00:00:02", "--eth-peer=1,02:00:00:00:00:01"].map(String::from).into();
        if self.flows > 0 {
            load.arguments
                .extend([format!("--flowgen-flows={}", self.flows), "--forward-mode=flowgen".into()]);
        }
        Testpmd::start(&plan.dir, &load)
    }

    fn run(
        &self,
        bench: &Bench<'_>,
        size: u32,
        switch: &mut dyn Switch,
        load: &mut Testpmd,
    ) -> Result<Figures> {
        if self.flows > 0 {
            load.command(&format!("set txpkts {size}"))?;
            load.command("set fwd flowgen")?;
            load.command("start")?;
        } else {
            load.circulate(size, 8)?;
        }
        std::thread::sleep(WARM_UP);
        if self.flows >= WARM_UP_FLOWS {
            std::thread::sleep(WARM_UP);
        }
        let time = Duration::from_secs_f64(bench.seconds(1.5));
        let work = switch.work()?;
        let received = load.received()?;
        let start = Instant::now();
        std::thread::sleep(time);
        let received = load.received()? - received;
        let seconds = start.elapsed().as_secs_f64();
        let work = work_since(work, switch.work()?);
        load.command("stop")?;
        load.drain()?;
        let mpps = if received == 0 { f64::NAN } else { received as f64 / seconds / 1e6 };
        let mut figures = figures([("mpps", mpps), ("cycles_per_frame", cycles_per_frame(work))]);
        if work.idle_cycles > 0 {
            let all = work.busy_cycles + work.idle_cycles;
            figures.insert("busy_percent".to_owned(), 100.0 * work.busy_cycles as f64 / all as f64);
        }
        if work.bursts > 0 {
            figures.insert("burst".to_owned(), work.frames as f64 / work.bursts as f64);
        }
        Ok(figures)
    }
}
