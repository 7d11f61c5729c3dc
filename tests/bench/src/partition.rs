//! What it costs to get a frame from a wire to a guest: straight from a queue that belongs to the guest, against the ways
//! through the bridge.
//!
//! `bench_turns` (`tests/bench_load`) runs a worker between two rings in one thread. All ways have the same rings, frames and
//! copies; what differs is how the worker finds out where a frame goes. They are measured in turns, and of each a run among the
//! quickest counts: what else the machine does only adds to it.

use anyhow::{Context as _, Result};
use lab::{run_to_end, target_dir};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Frames of a run.
const FRAMES: &str = "320000";
const RUNS: usize = 15;
/// Workers, in turn on one core, each with a queue of the wire and a queue pair of the guest.
const WORKERS: [&str; 2] = ["1", "2"];
const SIZES: [(&str, &str); 2] = [("64", "64"), ("1518", "1514")];
const RINGS: [&str; 2] = ["split", "packed"];

/// How a worker finds out where a frame goes, and what that is called.
const WAYS: [(&str, &str); 4] = [
    ("direct", "hardware has sorted it into the guest's queue"),
    ("sorted", "a table of owners, in software"),
    ("rule", "a rule of the bridge on the destination address"),
    ("normal", "the learning bridge"),
];

/// Busy cycles per frame of each case.
#[derive(Clone, Debug, Serialize)]
pub struct Partition {
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Serialize)]
struct Case {
    /// Workers that serve the guest.
    workers: &'static str,
    /// Bytes of a frame on the wire.
    size: &'static str,
    /// The guest's rings.
    ring: &'static str,
    /// How the worker finds out where a frame goes.
    way: &'static str,
    /// The tenth percentile of the runs.
    cycles_per_frame: f64,
    /// The lowest and the highest.
    range: [f64; 2],
    /// Frames a second that a worker's core has cycles for, in millions.
    mpps: f64,
    /// How many times cheaper the direct way is.
    direct_gain: f64,
}

/// Measures all cases on this core.
///
/// # Errors
/// When the program fails.
pub fn measure_partition(core: usize) -> Result<Partition> {
    let mut cases = vec![];
    let cases_of =
        |(size, bytes)| RINGS.into_iter().flat_map(move |ring| WORKERS.map(|n| (size, bytes, ring, n)));
    for (size, bytes, ring, workers) in SIZES.into_iter().flat_map(cases_of) {
        let mut runs = [const { vec![] }; WAYS.len()];
        for _ in 0..RUNS {
            for ((way, _), runs) in WAYS.iter().zip(&mut runs) {
                runs.push(run(core, ring, way, bytes, workers)?);
            }
        }
        runs.iter_mut().for_each(|runs| runs.sort_by(f64::total_cmp));
        // A host that gives part of its time to others slows some runs down, by half and more: most of all tells
        // what is near the least.
        let quick = |runs: &[f64]| runs[runs.len() / 10];
        let direct = quick(&runs[0]);
        for ((way, _), runs) in WAYS.iter().zip(&runs) {
            cases.push(Case {
                workers,
                size,
                ring,
                way,
                cycles_per_frame: quick(runs),
                range: [runs[0], runs[RUNS - 1]],
                mpps: packet::cycles::frequency() as f64 / quick(runs) / 1e6,
                direct_gain: quick(runs) / direct,
            });
        }
    }
    Ok(Partition { cases })
}

fn run(core: usize, ring: &str, way: &str, bytes: &str, workers: &str) -> Result<f64> {
    let program = target_dir().join("release/bench_turns");
    let (core, program) = (core.to_string(), program.to_string_lossy());
    let args = ["-c", &core, &program, ring, way, bytes, FRAMES, "--cycles", "--workers", workers];
    let text = run_to_end("taskset", &args, LIMIT)?;
    text.trim().parse().with_context(|| format!("no cycles in:\n{text}"))
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "From a wire to a guest, cycles per frame in its worker (tenth percentile of {RUNS} runs), and how many frames that is; one guest.\n"
        )?;
        writeln!(f, "| bytes | rings | workers | way | cycles | range | Mpps | direct is cheaper by |")?;
        writeln!(f, "|---|---|---:|---|---:|---|---:|---:|")?;
        for case in &self.cases {
            let Case { size, ring, workers, way, cycles_per_frame, range, mpps, direct_gain } = case;
            writeln!(
                f,
                "| {size} | {ring} | {workers} | {way} | {cycles_per_frame:.1} | {:.1}-{:.1} | {mpps:.1} | {direct_gain:.2} x |",
                range[0], range[1]
            )?;
        }
        writeln!(f)?;
        WAYS.iter().try_for_each(|(way, meaning)| writeln!(f, "{way}: {meaning}"))
    }
}
