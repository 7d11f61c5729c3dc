//! What a system uses with two ports and nobody at them.

use anyhow::Result;
use lab::switch::System;
use lab::{Pages, cpu_time, resident_bytes};
use std::time::Duration;

use crate::measure::{ALL, Bench, Measure, Outcome, figures};
use crate::rules::Rules;
use crate::section::{IDLE, Section};

/// The name of its row.
pub(crate) const NAME: &str = "idle";

const SETTLE: Duration = Duration::from_secs(2);

/// Memory and processor use.
pub(crate) struct Idle;

impl Measure for Idle {
    fn section(&self) -> &'static Section {
        &IDLE
    }

    fn systems(&self) -> &'static [System] {
        ALL
    }

    fn names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let mut plan = bench.plan(dir.path(), 2, Rules::PortToPort.flow_strings());
        plan.pages = Pages::Small;
        let mut switch = system.start(&plan)?;
        std::thread::sleep(SETTLE);
        let outcome = bench.judged(switch.as_mut(), None, |switch| {
            // The tick of processor times is 10 ms: 0.2 % of a core over five seconds.
            let time = Duration::from_secs_f64(bench.seconds(5.0));
            let before = cpu_time(switch.pid())?;
            std::thread::sleep(time);
            let used = cpu_time(switch.pid())? - before;
            let resident = resident_bytes(switch.pid())? as f64 / f64::from(1 << 20);
            let percent = 100.0 * used.as_secs_f64() / time.as_secs_f64();
            Ok(figures([("resident_mib", resident), ("cpu_percent", percent)]))
        })?;
        switch.stop()?;
        Ok(vec![(NAME.to_owned(), outcome)])
    }
}
