//! How long a frame is on its way: at fixed rates, at shares of the maximum, and out of idle sleep.

use anyhow::Result;
use lab::switch::System;

use crate::measure::{ALL, Bench, Measure, Outcome, figures, one_way, work_since};
use crate::rules::Rules;
use crate::section::{Figures, LATENCY, Section, WAKE};
use crate::traffic::{Headers, StreamResult};

const SIZE: usize = 64;

/// How fast frames are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Frames per second.
    Rate(f64),
    /// Share of what the same load gets through.
    Share(f64),
}

/// Latency at several paces.
pub(crate) struct Latency {
    /// Packed instead of split rings.
    pub packed: bool,
    /// Rows.
    pub cases: Vec<(String, Pace)>,
}

impl Measure for Latency {
    fn section(&self) -> &'static Section {
        &LATENCY
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
        let plan = bench.plan(dir.path(), 2, Rules::PortToPort.flow_strings());
        let mut switch = system.start(&plan)?;
        let mut traffic = bench.traffic(&plan, self.packed)?;
        let mut outcomes = Vec::new();
        for (name, pace) in self.cases.iter().filter(|(name, _)| wanted(name)) {
            let outcome = bench.judged(switch.as_mut(), Some(traffic.pid()), |_| {
                let rate = match *pace {
                    Pace::Rate(rate) => rate,
                    Pace::Share(share) => {
                        let all = one_way(bench.seconds(1.0), None, SIZE, Headers::Flows(1), true);
                        share * 1e6 * traffic.phase(&all)?.streams[0].mpps()
                    }
                };
                let phase = one_way(bench.seconds(2.0), Some(rate), SIZE, Headers::Flows(1), true);
                Ok(latency_figures(&traffic.phase(&phase)?.streams[0]))
            })?;
            outcomes.push((name.clone(), outcome));
        }
        drop(traffic);
        switch.stop()?;
        Ok(outcomes)
    }
}

/// Rate, percentiles and loss; not numbers when nothing was measured.
pub(crate) fn latency_figures(result: &StreamResult) -> Figures {
    let latency = result.latency.clone().filter(|latency| latency.count > 0);
    let us = |of: fn(&crate::traffic::Latency) -> f64| latency.as_ref().map_or(f64::NAN, of);
    figures([
        ("mpps", result.mpps()),
        ("p50_us", us(|l| l.p50_us)),
        ("p99_us", us(|l| l.p99_us)),
        ("p999_us", us(|l| l.p999_us)),
        ("max_us", us(|l| l.max_us)),
        ("stall_us", us(|l| l.stall_us)),
        ("lost_percent", result.lost_percent()),
    ])
}

/// The first frame after a while.
pub(crate) struct Wake;

/// The name of its row.
pub(crate) const WAKE_NAME: &str = "64-split-first-frame";

impl Measure for Wake {
    fn section(&self) -> &'static Section {
        &WAKE
    }

    fn names(&self) -> Vec<String> {
        vec![WAKE_NAME.to_owned()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let plan = bench.plan(dir.path(), 2, Rules::PortToPort.flow_strings());
        let mut switch = system.start(&plan)?;
        let mut traffic = bench.traffic(&plan, false)?;
        let outcome = bench.judged(switch.as_mut(), Some(traffic.pid()), |switch| {
            let before = switch.work()?;
            let phase = one_way(bench.seconds(4.0), Some(200.0), SIZE, Headers::Flows(1), true);
            let result = traffic.phase(&phase)?;
            let work = work_since(before, switch.work()?);
            let mut found = latency_figures(&result.streams[0]);
            let asleep = 100.0 * work.sleeps as f64 / work.frames as f64;
            found.insert("sleeps_percent".to_owned(), asleep.min(100.0));
            Ok(found)
        })?;
        drop(traffic);
        switch.stop()?;
        Ok(vec![(WAKE_NAME.to_owned(), outcome)])
    }
}
