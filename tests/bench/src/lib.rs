//! The benchmark: Ringway beside OVS-DPDK and a forwarding testpmd, same load, same minutes, same machine.
//!
//! A system under test polls on one core, a load drives it from another: one testpmd with two virtio-user ports, or
//! [`bench_load`](traffic) where flows, pace, times or more ports matter. A [`Measure`](measure::Measure) is what one start of
//! system and load can tell, as rows; measures are run in rounds, the systems taking turns within a round, so that a slow drift of
//! the machine meets all of them. Each run is labelled near, far, siblings or mixed by a ping-pong between the cores before and
//! after it ([`Placement`](lab::Placement)); states are never pooled, and rounds go on until every system has enough runs in one
//! state, within a bound. Runs during which somebody else had the cores are left out and counted.
//!
//! The figure to compare is busy cycles per frame, from each system's own counters: at 64 bytes the load saturates
//! before a good switch does, and then Mpps is a lower bound.
//!
//! | to add | go to |
//! |---|---|
//! | a row of an existing kind | [`cases`] |
//! | a kind of measurement | a module beside [`forwarding`], then [`cases`] |
//! | a column | [`section`] |

mod bare_copy;
mod cases;
mod changes;
mod dpaa2;
mod fairness;
mod forwarding;
mod idle;
mod instructions;
mod latency;
mod lookup;
mod machines;
mod measure;
mod partition;
mod production;
mod report;
mod rules;
mod section;
mod stream;
pub mod traffic;

pub use dpaa2::{Dpaa2Report, run as run_dpaa2};
pub use instructions::{Instructions, count_instructions};
pub use machines::{MachineOptions, MachinesReport};
pub use partition::{Partition, measure_partition};
pub use report::Report;

use anyhow::{Result, bail};
use lab::switch::System;
use lab::{HugePages, Pages, Placement};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use measure::{Bench, Group, Run};

/// 2 MiB pages reserved: OVS-DPDK's pool of 262,144 buffers takes 800 MB, the load little.
const HUGE_PAGES: u64 = 1024;
/// A quick benchmark begins no second round of anything after this: it is to end within five minutes.
const QUICK_LIMIT: Duration = Duration::from_secs(220);
/// A system that fails so often in a group is not started for it again.
const FAILURES_MAX: usize = 2;

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Systems side by side.
    pub systems: Vec<System>,
    /// Only a few cases with few runs: under five minutes.
    pub quick: bool,
    /// Only cases whose names contain one of these; empty means all.
    pub only: Vec<String>,
    /// Runs wanted of each system in one placement; 5, or 3 when quick, unless given.
    pub runs: Option<usize>,
    /// Core of the system under test.
    pub switch_core: usize,
    /// Core of the load.
    pub load_core: usize,
    /// Huge pages if they can be had, or never.
    pub huge_pages: bool,
    /// What was typed, for the report.
    pub command: String,
}

impl Options {
    fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// Rounds after which a group ends even if the placement kept changing.
    fn rounds_max(&self) -> usize {
        if self.quick { self.runs() } else { 3 * self.runs() }
    }
}

/// Results by case, system and placement.
pub(crate) type Runs = BTreeMap<(String, System, Placement), Vec<Run>>;

/// Everything found so far.
#[derive(Default)]
pub(crate) struct Results {
    /// Runs that count.
    runs: Runs,
    /// Runs left out.
    left_out: u64,
    /// What copying frames of each size costs, found before each group.
    bare_copies: Vec<[f64; bare_copy::SIZES.len()]>,
    /// Starts and sessions that failed, once each.
    failures: Vec<String>,
}

/// Runs the benchmark; progress goes to standard error, and the report so far to `each` after every group of cases.
///
/// # Errors
/// When no case matches, or `each` fails. A system that does not start is noted in the report.
pub fn run(options: &Options, mut each: impl FnMut(&Report) -> Result<()>) -> Result<Report> {
    let groups = cases::select(options);
    if groups.is_empty() {
        bail!("no case is named like {:?}; there are: {}", options.only, cases::names().join(" "));
    }
    let reserved = if options.huge_pages { HugePages::reserve(HUGE_PAGES)? } else { None };
    let pages = if reserved.is_some() { Pages::Huge } else { Pages::Small };
    if options.huge_pages && pages == Pages::Small {
        eprintln!("no huge pages to be had: every system runs on 4 KiB pages");
    }
    let bench = Bench { options, pages };
    let mut results = Results::default();
    let start = Instant::now();
    for (index, group) in groups.iter().enumerate() {
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        eprintln!("-- {}/{} after {minutes:.1} min: {}", index + 1, groups.len(), group.names().join(" "));
        results.bare_copies.push(bare_copy::cycles_per_frame(options.switch_core, pages)?);
        run_group(&bench, group, start, &mut results);
        each(&Report::new(&bench, &results))?;
    }
    remove_runtime_directories();
    Ok(Report::new(&bench, &results))
}

/// Measures machines: their start, their memory, their network back-ends.
///
/// # Errors
/// A machine doesn't start, or nothing arrives.
pub fn run_machines(options: &MachineOptions) -> Result<MachinesReport> {
    machines::run(options)
}

/// Names of all cases, in the order of the report.
pub fn names() -> Vec<String> {
    cases::names()
}

fn run_group(bench: &Bench<'_>, group: &Group, start: Instant, results: &mut Results) {
    let systems: Vec<System> =
        group.systems().iter().copied().filter(|system| bench.options.systems.contains(system)).collect();
    let mut failures: BTreeMap<System, usize> = BTreeMap::new();
    for round in 0..bench.options.rounds_max() {
        let left: Vec<System> = systems
            .iter()
            .copied()
            .filter(|system| failures.get(system).is_none_or(|&count| count < FAILURES_MAX))
            .collect();
        let is_late = bench.options.quick && round > 0 && start.elapsed() > QUICK_LIMIT;
        let is_done = round >= bench.options.runs() && is_complete(bench, group, &left, results);
        if left.is_empty() || is_late || is_done {
            break;
        }
        for turn in 0..left.len() {
            // Another system goes first in each round.
            let system = left[(turn + round) % left.len()];
            if let Err(error) = run_session(bench, group, system, round, results) {
                *failures.entry(system).or_default() += 1;
                let what = format!("{} with {}: {error:#}", group.names().join(" "), system.name());
                eprintln!("{what}");
                results.failures.push(what);
            }
        }
    }
}

fn run_session(
    bench: &Bench<'_>,
    group: &Group,
    system: System,
    round: usize,
    results: &mut Results,
) -> Result<()> {
    for (case, outcome) in group.measure(bench, system)? {
        let system_name = system.name();
        match outcome {
            Ok(run) => {
                let (placement, figures) = (run.placement, group.section().line(&run.figures));
                let [before, after] = run.ping_pong_ns;
                eprintln!(
                    "{case:<32} {system_name:<9} round {round} {placement:<5} {before:.0}-{after:.0} ns {figures}"
                );
                results.runs.entry((case, system, run.placement)).or_default().push(run);
            }
            Err(left_out) => {
                let (why, figures) = (left_out.why, group.section().line(&left_out.figures));
                eprintln!("{case:<32} {system_name:<9} round {round} left out: {why} ({figures})");
                results.left_out += 1;
            }
        }
    }
    Ok(())
}

/// Says whether each case of the group has enough runs of every system in one and the same placement.
fn is_complete(bench: &Bench<'_>, group: &Group, systems: &[System], results: &Results) -> bool {
    let enough = |case: &String, placement: Placement| {
        systems.iter().all(|&system| {
            let runs = results.runs.get(&(case.clone(), system, placement));
            runs.is_some_and(|runs| runs.len() >= bench.options.runs())
        })
    };
    let states = [Placement::Siblings, Placement::Near, Placement::Far];
    group.names().iter().all(|case| states.iter().any(|&state| enough(case, state)))
}

/// Removes what DPDK programs started from here left in their runtime directory; each has this process's id in its name.
fn remove_runtime_directories() {
    let suffix = format!("-{}", std::process::id());
    let Ok(entries) = std::fs::read_dir("/var/run/dpdk") else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(&suffix)) {
        // Best effort: an empty directory in a RAM disk.
        let _ = std::fs::remove_dir_all(entry.path());
    }
}
