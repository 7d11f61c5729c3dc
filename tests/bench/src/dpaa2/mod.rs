//! What DPAA2 drivers cost the hardware and their processor: `cargo xtask bench dpaa2`.
//!
//! Ours and DPDK's move 64-byte frames on the same model of the hardware, which counts what would cost something on a board:
//! stores to the device, and cache lines written where hardware reads. Both are exact and depend on no clock. Instructions are
//! ours only, by callgrind, without the model. Rates are of whole switches on the model, so mostly of the model.

mod counts;
mod rates;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};

use crate::report::Machine;

/// Chips with their generation of portals: one memory-backed, two direct ones.
const SOCS: [&str; 3] = ["lx2160a", "ls2088a", "ls1088a"];
const WHATS: [What; 3] = [What::Forward, What::Receive, What::Transmit];
/// Frames a poll.
const BURSTS: [u32; 3] = [1, 8, 32];

/// What is done with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// Received ones are sent.
    Forward,
    /// Received ones are freed.
    Receive,
    /// New ones are sent.
    Transmit,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Forward => "forward",
            What::Receive => "receive",
            What::Transmit => "transmit",
        }
    }
}

/// What one driver costs, a frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Cost {
    /// Stores to the device.
    stores: f64,
    /// Cache lines written where hardware reads.
    lines: f64,
}

/// A way to move frames, with both drivers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CostRow {
    soc: String,
    what: What,
    burst: u32,
    ringway: Cost,
    /// Without it when testpmd failed.
    dpdk: Option<Cost>,
    /// Our driver's instructions a frame, without the model; where they are counted.
    instructions: Option<f64>,
}

impl CostRow {
    /// Whether ours costs more than DPDK's. What DPDK does now and then, unlike ours, makes a difference below 1 %.
    fn is_above(&self) -> bool {
        let above = |ours: f64, theirs: f64| ours > 1.01 * theirs;
        self.dpdk.is_some_and(|dpdk| {
            above(self.ringway.stores, dpdk.stores) || above(self.ringway.lines, dpdk.lines)
        })
    }
}

/// How many frames a switch moves on the model.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RateRow {
    /// From where to where.
    path: String,
    /// Which switch, and how it reaches the model.
    system: String,
    /// Thousand frames a second.
    kfps: f64,
}

/// Everything found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dpaa2Report {
    machine: Machine,
    costs: Vec<CostRow>,
    rates: Vec<RateRow>,
    /// What could not be measured, and why.
    failures: Vec<String>,
}

/// Measures everything; progress goes to standard error. `command` is what was typed.
///
/// # Errors
/// When our own driver can't be measured. What fails of others is noted in the report.
pub fn run(command: &str) -> Result<Dpaa2Report> {
    let mut report = Dpaa2Report {
        machine: Machine::of(command, lab::Pages::Small),
        costs: vec![],
        rates: vec![],
        failures: vec![],
    };
    for soc in SOCS {
        for what in WHATS {
            let dpdk = counts::dpdk(soc, what).unwrap_or_else(|error| {
                report.failures.push(format!("dpdk-testpmd, {soc}, {}: {error:#}", what.name()));
                [None; BURSTS.len()]
            });
            for (burst, dpdk) in BURSTS.into_iter().zip(dpdk) {
                let ringway = counts::ringway(soc, what, burst)?;
                // Both direct generations run the same code.
                let instructions = match soc {
                    "ls1088a" => None,
                    _ => Some(counts::instructions(soc, what, burst)?),
                };
                let row = CostRow { soc: soc.to_owned(), what, burst, ringway, dpdk, instructions };
                eprintln!("{}", cells(&row).join("  "));
                report.costs.push(row);
            }
        }
    }
    for (path, system, measure) in rates::ALL {
        match measure() {
            Ok(kfps) => {
                eprintln!("{path}  {system}  {kfps:.0} kframes/s");
                report.rates.push(RateRow { path: (*path).to_owned(), system: (*system).to_owned(), kfps });
            }
            Err(error) => report.failures.push(format!("{path}, {system}: {error:#}")),
        }
    }
    Ok(report)
}

const TITLES: [&str; 9] =
    ["chip", "what", "burst", "stores", "DPDK", "lines", "DPDK", "instructions", "above DPDK"];

fn cells(row: &CostRow) -> Vec<String> {
    let text = |value: f64| format!("{value:.3}");
    let theirs = |of: fn(&Cost) -> f64| row.dpdk.as_ref().map_or("-".to_owned(), |cost| text(of(cost)));
    vec![
        row.soc.clone(),
        row.what.name().to_owned(),
        row.burst.to_string(),
        text(row.ringway.stores),
        theirs(|cost| cost.stores),
        text(row.ringway.lines),
        theirs(|cost| cost.lines),
        row.instructions.map_or("-".to_owned(), |count| format!("{count:.0}")),
        if row.is_above() { "ABOVE" } else { "" }.to_owned(),
    ]
}

impl Dpaa2Report {
    /// Whether our driver costs more than DPDK's somewhere, or something could not be measured.
    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty() || self.costs.iter().any(CostRow::is_above)
    }

    /// The tables for docs/benchmarks.md.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let table = |text: &mut String, titles: &[&str], rows: &[Vec<String>]| {
            // Writing to a String cannot fail.
            let mut line = |cells: Vec<&str>| writeln!(text, "| {} |", cells.join(" | ")).expect("memory");
            line(titles.to_vec());
            line(vec!["---"; titles.len()]);
            rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
        };
        let rows: Vec<_> = self.costs.iter().map(cells).collect();
        text.push_str("\nA frame of 64 bytes costs:\n\n");
        table(&mut text, &TITLES, &rows);
        let rows: Vec<_> = self
            .rates
            .iter()
            .map(|row| vec![row.path.clone(), row.system.clone(), format!("{:.0}", row.kfps)])
            .collect();
        text.push_str("\nWhole switches on the modelled LX2160A, 64 bytes:\n\n");
        table(&mut text, &["path", "system", "thousand frames a second"], &rows);
        for failure in &self.failures {
            text.push_str(&format!("\nNot measured: {failure}\n"));
        }
        text
    }
}

impl fmt::Display for Dpaa2Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.markdown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, theirs: Option<f64>) -> CostRow {
        let cost = |stores| Cost { stores, lines: 1.0 };
        CostRow {
            soc: "lx2160a".to_owned(),
            what: What::Forward,
            burst: 8,
            ringway: cost(ours),
            dpdk: theirs.map(cost),
            instructions: None,
        }
    }

    #[test]
    fn a_row_above_dpdk_is_pointed_out() {
        let machine = Machine::of("cargo xtask bench dpaa2", lab::Pages::Small);
        let report = |costs| Dpaa2Report { machine: machine.clone(), costs, rates: vec![], failures: vec![] };
        let good = report(vec![row(0.25, Some(0.25)), row(1.0, None), row(0.2501, Some(0.25))]);
        assert!(!good.has_failures() && !good.to_string().contains("ABOVE"), "{good}");
        let bad = report(vec![row(0.26, Some(0.25))]);
        assert!(
            bad.has_failures()
                && bad.to_string().contains("| 0.260 | 0.250 |")
                && bad.to_string().contains("ABOVE")
        );
    }
}
