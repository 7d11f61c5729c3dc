//! Ports that share a worker: a flood beside a moderate neighbour, random headers beside an established flow.

use anyhow::Result;
use lab::resident_bytes;
use lab::switch::System;

use crate::latency::latency_figures;
use crate::measure::{Bench, Measure, Outcome, cycles_per_frame, figures, work_since};
use crate::rules::{cable, masked_rules};
use crate::section::{FAIRNESS, HOSTILE, Section};
use crate::traffic::{Headers, Phase, Stream};

/// Names of the rows.
pub(crate) const FLOOD_NAME: &str = "flood-beside-neighbour";
pub(crate) const HOSTILE_NAME: &str = "random-headers-64-masks";

/// Random headers a second.
const ATTACK_RATE: f64 = 100_000.0;

/// A flood on the first two ports, its neighbour on the others.
pub(crate) struct Flood;

impl Measure for Flood {
    fn section(&self) -> &'static Section {
        &FAIRNESS
    }

    fn names(&self) -> Vec<String> {
        vec![FLOOD_NAME.to_owned()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let mut rules = masked_rules(16, "vm0", "vm1");
        rules.push(cable("vm2", "vm3"));
        let plan = bench.plan(dir.path(), 4, rules);
        let mut switch = system.start(&plan)?;
        let mut traffic = bench.traffic(&plan, false)?;
        let neighbour = Stream {
            from: 2,
            to: 3,
            rate: Some(200_000.0),
            size: 512,
            headers: Headers::Flows(1),
            stamped: true,
        };
        let flood =
            Stream { from: 0, to: 1, rate: None, size: 64, headers: Headers::Flows(100_000), stamped: false };
        let outcome = bench.judged(switch.as_mut(), Some(traffic.pid()), |switch| {
            let seconds = bench.seconds(2.0);
            let quiet = traffic.phase(&Phase { seconds, streams: vec![neighbour.clone()] })?;
            let before = switch.work()?;
            let both = traffic.phase(&Phase { seconds, streams: vec![neighbour.clone(), flood.clone()] })?;
            let work = work_since(before, switch.work()?);
            let (alone, beside) = (&quiet.streams[0], &both.streams[0]);
            let mut found = latency_figures(beside);
            let busy = work.busy_cycles as f64 / (work.busy_cycles + work.idle_cycles) as f64;
            found.extend(figures([
                ("neighbour_percent", 100.0 * beside.mpps() / alone.mpps()),
                ("quiet_p99_us", latency_figures(alone)["p99_us"]),
                ("flood_mpps", both.streams[1].mpps()),
                ("busy_percent", 100.0 * busy),
            ]));
            Ok(found)
        })?;
        drop(traffic);
        switch.stop()?;
        Ok(vec![(FLOOD_NAME.to_owned(), outcome)])
    }
}

/// An attacker on the last two ports, an established flow on the first.
pub(crate) struct Hostile;

impl Measure for Hostile {
    fn section(&self) -> &'static Section {
        &HOSTILE
    }

    fn names(&self) -> Vec<String> {
        vec![HOSTILE_NAME.to_owned()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let mut rules = masked_rules(64, "vm0", "vm1");
        rules.extend(masked_rules(64, "vm2", "vm3"));
        rules.push(cable("vm2", "vm3"));
        let plan = bench.plan(dir.path(), 4, rules);
        let mut switch = system.start(&plan)?;
        let mut traffic = bench.traffic(&plan, false)?;
        let victim =
            Stream { from: 0, to: 1, rate: None, size: 1514, headers: Headers::Flows(1), stamped: false };
        let attacker = Stream {
            from: 2,
            to: 3,
            rate: Some(ATTACK_RATE),
            size: 64,
            headers: Headers::Random,
            stamped: false,
        };
        let outcome = bench.judged(switch.as_mut(), Some(traffic.pid()), |switch| {
            let seconds = bench.seconds(2.0);
            let undisturbed = Phase { seconds, streams: vec![victim.clone()] };
            let disturbed = Phase { seconds, streams: vec![victim.clone(), attacker.clone()] };
            traffic.phase(&undisturbed)?;
            let resident = resident_bytes(switch.pid())?;
            let start = switch.work()?;
            let before = traffic.phase(&undisturbed)?;
            let middle = switch.work()?;
            let during = traffic.phase(&disturbed)?;
            let end = switch.work()?;
            let after = traffic.phase(&undisturbed)?;
            let growth = resident_bytes(switch.pid())? as f64 - resident as f64;
            let quiet = cycles_per_frame(work_since(start, middle));
            let work = work_since(middle, end);
            let (victims, attackers) = (during.streams[0].received, during.streams[1].sent);
            let attack = (work.busy_cycles as f64 - victims as f64 * quiet).max(0.0);
            let undisturbed = (before.streams[0].mpps() + after.streams[0].mpps()) / 2.0;
            Ok(figures([
                ("victim_percent", 100.0 * during.streams[0].mpps() / undisturbed),
                ("victim_mpps", during.streams[0].mpps()),
                ("attack_percent", 100.0 * attack / (work.busy_cycles + work.idle_cycles) as f64),
                ("attack_cycles", attack / attackers as f64),
                ("growth_mib", growth / f64::from(1 << 20)),
            ]))
        })?;
        drop(traffic);
        switch.stop()?;
        Ok(vec![(HOSTILE_NAME.to_owned(), outcome)])
    }
}
