//! The result: a table for the terminal, JSON for machines.

use lab::switch::System;
use lab::{Pages, Placement};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

use crate::measure::{Idle, Run};
use crate::{Idles, Runs};

/// Median and spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "a row exists because there was a run");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }
}

/// One case, one system, one placement.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    system: &'static str,
    placement: Placement,
    runs: usize,
    mpps: Spread,
    cycles_per_frame: Spread,
    /// How many times fewer busy cycles than OVS-DPDK, medians of the same case and placement.
    ratio_to_ovs_dpdk: Option<f64>,
    /// The same against testpmd.
    ratio_to_testpmd: Option<f64>,
    ping_pong_ns: Spread,
}

/// Where and when.
#[derive(Clone, Debug, Serialize)]
struct Machine {
    processor: String,
    kernel: String,
    unix_time_s: u64,
    pages: Pages,
}

/// Everything measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    machine: Machine,
    cases: Vec<Row>,
    idle: BTreeMap<&'static str, Idle>,
    /// Runs left out because others had the cores, or nothing came through.
    left_out: u64,
}

impl Report {
    pub(crate) fn new(pages: Pages, runs: &Runs, idle: Idles, left_out: u64) -> Self {
        let cycles = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.cycles_per_frame));
        let rows = runs.iter().map(|((name, system, placement), list)| {
            let own = cycles(list);
            let ratio_to = |other: System| {
                let others = runs.get(&(name.clone(), other, *placement))?;
                Some(cycles(others).median / own.median)
            };
            Row {
                name: name.clone(),
                system: system.name(),
                placement: *placement,
                runs: list.len(),
                mpps: Spread::of(list.iter().map(|run| run.mpps)),
                cycles_per_frame: own,
                ratio_to_ovs_dpdk: ratio_to(System::OvsDpdk),
                ratio_to_testpmd: ratio_to(System::Testpmd),
                ping_pong_ns: Spread::of(list.iter().flat_map(|run| run.ping_pong_ns)),
            }
        });
        let mut cases: Vec<_> = rows.collect();
        cases.sort_by(|a, b| (&a.name, a.placement, a.system).cmp(&(&b.name, b.placement, b.system)));
        let idle = idle.into_iter().map(|(system, figures)| (system.name(), figures)).collect();
        Self { machine: Machine::this(pages), cases, idle, left_out }
    }
}

impl Machine {
    fn this(pages: Pages) -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split_once(": "));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            kernel: kernel.trim().to_owned(),
            unix_time_s: now.map_or(0, |since| since.as_secs()),
            pages,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = match self.machine.pages {
            Pages::Huge => "2 MiB",
            Pages::Small => "4 KiB",
        };
        writeln!(out, "{}, Linux {}, {pages} pages", self.machine.processor, self.machine.kernel)?;
        writeln!(
            out,
            "cycles: TSC cycles per frame in rounds that moved frames; x OVS, x testpmd: times fewer cycles"
        )?;
        writeln!(
            out,
            "{:<28} {:<8} {:<9} {:>4} {:>7} {:>15} {:>7} {:>17} {:>6} {:>9}",
            "case",
            "cores",
            "system",
            "runs",
            "Mpps",
            "[min..max]",
            "cycles",
            "[min..max]",
            "x OVS",
            "x testpmd"
        )?;
        for row in &self.cases {
            let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let mpps = format!("[{:.2}..{:.2}]", row.mpps.min, row.mpps.max);
            let cycles = format!("[{:.1}..{:.1}]", row.cycles_per_frame.min, row.cycles_per_frame.max);
            writeln!(
                out,
                "{:<28} {:<8} {:<9} {:>4} {:>7.2} {mpps:>15} {:>7.1} {cycles:>17} {:>6} {:>9}",
                row.name,
                row.placement.to_string(),
                row.system,
                row.runs,
                row.mpps.median,
                row.cycles_per_frame.median,
                ratio(row.ratio_to_ovs_dpdk),
                ratio(row.ratio_to_testpmd),
            )?;
        }
        for (system, idle) in &self.idle {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            write!(out, "idle: {system:<9} {:8.1} MiB resident", mib(idle.resident_bytes))?;
            if let Some(bytes) = idle.resident_bytes_huge_pages {
                write!(out, " ({:.1} MiB beside huge pages)", mib(bytes))?;
            }
            writeln!(out, ", {:.1} % of a core", idle.cpu_percent)?;
        }
        if self.left_out > 0 {
            writeln!(out, "{} runs were left out because the cores were not ours alone", self.left_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(placement: Placement, cycles_per_frame: f64) -> Run {
        Run { placement, ping_pong_ns: [100.0, 110.0], mpps: 10.0, cycles_per_frame }
    }

    #[test]
    fn medians_are_of_the_middle_and_states_are_not_pooled() {
        let mut runs = Runs::new();
        let mut add = |system, placement, values: &[f64]| {
            let list = values.iter().map(|&cycles| run(placement, cycles)).collect();
            runs.insert(("64-split-p2p".to_owned(), system, placement), list);
        };
        add(System::OvsDpdk, Placement::Near, &[150.0, 160.0, 155.0]);
        add(System::Ringway, Placement::Near, &[50.0, 51.0]);
        add(System::Ringway, Placement::Far, &[90.0]);
        let report = Report::new(Pages::Small, &runs, BTreeMap::new(), 0);
        let near =
            report.cases.iter().find(|row| row.system == "ringway" && row.placement == Placement::Near);
        let near = near.unwrap();
        assert_eq!(near.cycles_per_frame, Spread { median: 50.5, min: 50.0, max: 51.0 });
        assert!((near.ratio_to_ovs_dpdk.unwrap() - 155.0 / 50.5).abs() < 1e-9);
        assert_eq!(near.ratio_to_testpmd, None);
        let far = report.cases.iter().find(|row| row.placement == Placement::Far).unwrap();
        assert_eq!(far.ratio_to_ovs_dpdk, None, "a far run has no near run to be compared with");
        assert!(report.to_string().contains("64-split-p2p"));
    }
}
