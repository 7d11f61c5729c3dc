//! The benchmark: Ringway beside OVS-DPDK and a forwarding testpmd, same load, same minutes, same machine.
//!
//! The system under test polls on one core, one testpmd with two virtio-user ports loads it from another. A [`Group`] is what
//! one start of system and load can measure; groups are run in rounds, the systems taking turns within a round, so that
//! a slow drift of the machine meets all of them. Each run is a [`Run`], labelled near, far, siblings or mixed by a ping-pong between the
//! cores before and after it ([`Placement`](lab::Placement)); states are never pooled, and rounds go on until every system has
//! enough runs in one state. Runs during which somebody else had the cores are left out and counted.
//!
//! The figure to compare is busy cycles per frame, from each system's own counters: at 64 bytes the load saturates
//! before a good switch does, and then Mpps is a lower bound.

mod cases;
mod measure;
mod report;

pub use cases::{Case, Group, Rules};
pub use report::Report;

use anyhow::{Result, bail};
use lab::switch::System;
use lab::{HugePages, Pages, Placement};
use std::collections::BTreeMap;

use measure::{Idle, Run};

/// 2 MiB pages reserved: OVS-DPDK's pool of 262,144 buffers takes 800 MB, the load little.
const HUGE_PAGES: u64 = 1024;

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Systems side by side.
    pub systems: Vec<System>,
    /// Only a few cases with few runs: under five minutes.
    pub quick: bool,
    /// Only cases whose names contain one of these; empty means all.
    pub cases: Vec<String>,
    /// Core of the system under test.
    pub switch_core: usize,
    /// Core of the load.
    pub load_core: usize,
    /// Huge pages if they can be had, or never.
    pub huge_pages: bool,
}

impl Options {
    /// Runs wanted of each system in one placement.
    fn runs(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// Rounds after which a group ends even if the placement kept changing.
    fn rounds_max(&self) -> usize {
        if self.quick { 3 } else { 15 }
    }
}

/// Results by case, system and placement.
pub(crate) type Runs = BTreeMap<(String, System, Placement), Vec<Run>>;

/// Runs the benchmark; progress goes to standard error.
///
/// # Errors
/// When no case matches, or a system does not start.
pub fn run(options: &Options) -> Result<Report> {
    let reserved = if options.huge_pages { HugePages::reserve(HUGE_PAGES)? } else { None };
    let pages = if reserved.is_some() { Pages::Huge } else { Pages::Small };
    if options.huge_pages && pages == Pages::Small {
        eprintln!("no huge pages to be had: every system runs on 4 KiB pages");
    }
    let groups = cases::select(options.quick, &options.cases);
    let idle_wanted =
        options.cases.is_empty() || options.cases.iter().any(|word| "idle".contains(word.as_str()));
    if groups.is_empty() && !idle_wanted {
        bail!("no case is named like {:?}; there are: {}", options.cases, cases::names().join(" "));
    }
    let mut runs = Runs::new();
    let mut disturbed = 0;
    for group in &groups {
        for round in 0..options.rounds_max() {
            if round >= options.runs() && is_complete(&runs, group, options) {
                break;
            }
            run_round(options, pages, group, round, &mut runs, &mut disturbed)?;
        }
    }
    let mut idle = BTreeMap::new();
    if idle_wanted {
        for &system in &options.systems {
            eprintln!("idle: {}", system.name());
            idle.insert(system, measure::idle(options, pages, system)?);
        }
    }
    Ok(Report::new(pages, &runs, idle, disturbed))
}

fn run_round(
    options: &Options,
    pages: Pages,
    group: &Group,
    round: usize,
    runs: &mut Runs,
    disturbed: &mut u64,
) -> Result<()> {
    let count = options.systems.len();
    for turn in 0..count {
        // Another system goes first in each round.
        let system = options.systems[(turn + round) % count];
        for (case, outcome) in measure::session(options, pages, group, system)? {
            match outcome {
                Ok(run) => {
                    let (mpps, cycles) = (run.mpps, run.cycles_per_frame);
                    eprintln!(
                        "{case:<28} {:<9} round {round} {:<8} {mpps:6.2} Mpps {cycles:7.1} cycles",
                        system.name(),
                        run.placement.to_string(),
                    );
                    runs.entry((case, system, run.placement)).or_default().push(run);
                }
                Err(reason) => {
                    eprintln!("{case:<28} {:<9} round {round} left out: {reason}", system.name());
                    *disturbed += 1;
                }
            }
        }
    }
    Ok(())
}

/// Says whether each case of the group has enough runs of every system in one and the same placement.
fn is_complete(runs: &Runs, group: &Group, options: &Options) -> bool {
    let enough = |case: &Case, placement: Placement| {
        options.systems.iter().all(|&system| {
            runs.get(&(case.name.clone(), system, placement)).is_some_and(|runs| runs.len() >= options.runs())
        })
    };
    let states = [Placement::Siblings, Placement::Near, Placement::Far];
    group.cases.iter().all(|case| states.iter().any(|&state| enough(case, state)))
}

/// Idle figures by system.
pub(crate) type Idles = BTreeMap<System, Idle>;
