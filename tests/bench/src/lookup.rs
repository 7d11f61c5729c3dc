//! What a look-up costs, against the number of masks and flows, for hits and for misses.

use anyhow::Result;
use lab::switch::{Decided, System};

use crate::measure::{Bench, Measure, Outcome, cycles_per_frame, figures, one_way, work_since};
use crate::rules::{cable, masked_rules6};
use crate::section::{LOOKUP, Section};
use crate::traffic::Headers;

/// An IPv6 and a UDP header, and a payload of eight bytes.
const SIZE: usize = 70;

/// A rule for nobody that looks at everything, so that each flow is one to an exact-match cache.
const NOBODY: &str =
    "priority=2,in_port=vm0,udp6,ipv6_dst=fd0f::1,ipv6_src=fd0f::2,tp_src=9,tp_dst=9,actions=drop";

/// One number of masks.
pub(crate) struct LookUp {
    /// Rules with a mask each.
    pub masks: u32,
    /// Rows: names and what is sent.
    pub cases: Vec<(String, Headers)>,
}

impl Measure for LookUp {
    fn section(&self) -> &'static Section {
        &LOOKUP
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
        let mut rules = masked_rules6(self.masks, "vm0", "vm1");
        rules.extend([NOBODY.to_owned(), cable("vm0", "vm1")]);
        let plan = bench.plan(dir.path(), 2, rules);
        let mut switch = system.start(&plan)?;
        let mut traffic = bench.traffic(&plan, false)?;
        let mut outcomes = Vec::new();
        for (name, headers) in self.cases.iter().filter(|(name, _)| wanted(name)) {
            let outcome = bench.judged(switch.as_mut(), Some(traffic.pid()), |switch| {
                traffic.phase(&one_way(bench.seconds(1.0), None, SIZE, *headers, false))?;
                let (work, decided) = (switch.work()?, switch.decided()?);
                let result = traffic.phase(&one_way(bench.seconds(1.5), None, SIZE, *headers, false))?;
                let (work, decided) = (work_since(work, switch.work()?), since(decided, switch.decided()?));
                let all = (decided.exact + decided.megaflow + decided.miss) as f64;
                let percent = |count: u64| 100.0 * count as f64 / all;
                Ok(figures([
                    ("mpps", result.streams[0].mpps()),
                    ("cycles_per_frame", cycles_per_frame(work)),
                    ("exact_percent", percent(decided.exact)),
                    ("megaflow_percent", percent(decided.megaflow)),
                    ("miss_percent", percent(decided.miss)),
                ]))
            })?;
            outcomes.push((name.clone(), outcome));
        }
        drop(traffic);
        switch.stop()?;
        Ok(outcomes)
    }
}

fn since(before: Decided, now: Decided) -> Decided {
    Decided {
        exact: now.exact.saturating_sub(before.exact),
        megaflow: now.megaflow.saturating_sub(before.megaflow),
        miss: now.miss.saturating_sub(before.miss),
    }
}
