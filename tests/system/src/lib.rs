//! Scenarios in which third parties use the switch from outside: DPDK, QEMU with Debian's kernel, kernel interfaces, a shell.
//!
//! A scenario is a plain function with a name. [`all`] lists them, [`run`] runs those a filter selects, one after another,
//! each in a directory of its own. What a scenario needs from the machine and does not find leaves it out, aloud.

pub mod arm;
mod command_line;
mod dpaa2;
mod dpdk;
mod kernel;
mod linux_guests;
mod partition;
mod resilience;
mod take_over;
mod traffic;
mod vmm;
mod vmm_linux;

use anyhow::Result;
use lab::GuestImage;
use lab::switch::System;
use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines of each log that are printed when a scenario fails.
const LOG_LINES: usize = 40;
/// Failed scenarios that are repeated, at most.
const REPEATED_MAX: usize = 3;

/// Something a scenario needs that only the machine can provide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root: network namespaces.
    Root,
    /// `/dev/net/tun`.
    Tun,
    /// Ringway itself, not one of the peers it can be replaced with.
    Ringway,
    /// A switch that learns addresses and floods.
    Learning,
    /// `/dev/kvm`.
    Kvm,
    /// `/dev/vhost-net`.
    VhostNet,
}

/// A named test of the whole.
pub struct Scenario {
    /// `family/case`.
    pub name: &'static str,
    needs: &'static [Need],
    run: fn(&Context) -> Result<()>,
}

impl Scenario {
    const fn new(name: &'static str, needs: &'static [Need], run: fn(&Context) -> Result<()>) -> Self {
        Self { name, needs, run }
    }

    /// Why it cannot run here, if so.
    fn obstacle(&self, system: System) -> Option<String> {
        self.needs.iter().find_map(|need| match need {
            Need::Root if !rustix::process::geteuid().is_root() => {
                Some("needs root for network namespaces".into())
            }
            Need::Tun if !Path::new("/dev/net/tun").exists() => {
                Some("this machine has no /dev/net/tun".into())
            }
            Need::Ringway if system != System::Ringway => Some(format!("not for {}", system.name())),
            Need::Kvm if !Path::new("/dev/kvm").exists() => Some("this machine has no /dev/kvm".into()),
            Need::VhostNet if !Path::new("/dev/vhost-net").exists() => {
                Some("this machine has no /dev/vhost-net".into())
            }
            Need::Learning if system == System::Testpmd => Some("testpmd does not switch".into()),
            _ => None,
        })
    }
}

/// What a running scenario has at hand.
pub struct Context {
    /// The switch under test; a peer when the scenario itself is being judged.
    pub system: System,
    /// Directory for sockets, configuration and logs.
    pub dir: PathBuf,
    notes: RefCell<Vec<String>>,
    image: OnceCell<GuestImage>,
}

impl Context {
    /// Adds a line to what is printed about the scenario: what was exchanged, at which rate.
    pub fn note(&self, line: impl Into<String>) {
        self.notes.borrow_mut().push(line.into());
    }

    /// The image QEMU guests boot, built on first use.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn image(&self) -> Result<&GuestImage> {
        if self.image.get().is_none() {
            let _ = self.image.set(GuestImage::ensure()?);
        }
        Ok(self.image.get().expect("just set"))
    }
}

/// How a scenario came out.
enum Outcome {
    Passed,
    Failed(anyhow::Error),
    LeftOut(String),
}

/// Numbers of scenarios, or tests, by outcome, and what is to be said of the failed ones once more at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Did what they promise.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
    /// Could not be run on this machine.
    pub skipped: u64,
    /// Name of each failed one, and the reason as far as it is known.
    pub failures: Vec<String>,
    /// Those that failed and passed when repeated, with the reason of the failure.
    pub repeated: Vec<String>,
}

impl Tally {
    /// The outcome of one step called `name`.
    pub fn of_step(name: &str, passed: bool) -> Self {
        let failures = if passed { Vec::new() } else { vec![name.to_owned()] };
        Self { passed: passed.into(), failed: (!passed).into(), failures, ..Self::default() }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.repeated.extend(other.repeated);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for failure in &self.repeated {
            writeln!(out, "PASSED ONLY WHEN REPEATED: {failure}")?;
        }
        for failure in &self.failures {
            writeln!(out, "FAILED: {failure}")?;
        }
        write!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Every scenario, in the order they run: cheap ones first.
pub fn all() -> Vec<Scenario> {
    let families = [
        command_line::SCENARIOS,
        dpdk::SCENARIOS,
        kernel::SCENARIOS,
        linux_guests::SCENARIOS,
        partition::SCENARIOS,
        take_over::SCENARIOS,
        vmm::SCENARIOS,
        vmm_linux::SCENARIOS,
    ];
    let copy = |s: &Scenario| Scenario::new(s.name, s.needs, s.run);
    let others = dpaa2::scenarios().chain(resilience::scenarios());
    families.into_iter().flatten().chain(others).map(copy).collect()
}

/// Runs the scenarios whose names contain `filter` through `system`, and prints how each came out.
///
/// Third parties have patience of their own, so a machine whose processors are taken away for seconds fails a scenario
/// now and then. What failed is therefore repeated once at the end, and said to have been; unless that is more than
/// [`REPEATED_MAX`]: then something is broken.
pub fn run(filter: &str, system: System) -> Tally {
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    let scenarios = all();
    for scenario in scenarios.iter().filter(|scenario| scenario.name.contains(filter)) {
        match run_and_report(scenario, system) {
            Outcome::Passed => tally.passed += 1,
            Outcome::Failed(error) => {
                failed.push((scenario, format!("scenario {}: {error:#}", scenario.name)))
            }
            Outcome::LeftOut(_) => tally.skipped += 1,
        }
    }
    let repeat = failed.len() <= REPEATED_MAX;
    for (scenario, failure) in failed {
        if repeat && matches!(run_and_report(scenario, system), Outcome::Passed) {
            tally.passed += 1;
            tally.repeated.push(failure);
        } else {
            tally.failed += 1;
            tally.failures.push(failure);
        }
    }
    tally
}

fn run_and_report(scenario: &Scenario, system: System) -> Outcome {
    let start = Instant::now();
    eprintln!("scenario {} ...", scenario.name);
    let (outcome, notes) = run_one(scenario, system);
    report(scenario.name, &outcome, start.elapsed());
    for note in notes {
        println!("    {note}");
    }
    outcome
}

fn run_one(scenario: &Scenario, system: System) -> (Outcome, Vec<String>) {
    if let Some(reason) = scenario.obstacle(system) {
        return (Outcome::LeftOut(reason), Vec::new());
    }
    // Unix socket paths are short: stay near the root of the file system.
    let dir = match tempfile::Builder::new().prefix("rw-").tempdir() {
        Ok(dir) => dir,
        Err(error) => return (Outcome::Failed(error.into()), Vec::new()),
    };
    let context =
        Context { system, dir: dir.path().to_path_buf(), notes: RefCell::default(), image: OnceCell::new() };
    let result = (scenario.run)(&context);
    let notes = context.notes.into_inner();
    match result {
        Ok(()) => (Outcome::Passed, notes),
        Err(error) => {
            print_logs(dir.path());
            println!("logs and configuration are kept in {}", dir.keep().display());
            (Outcome::Failed(error), notes)
        }
    }
}

fn report(name: &str, outcome: &Outcome, took: Duration) {
    let seconds = took.as_secs_f64();
    match outcome {
        Outcome::Passed => println!("scenario {name} ... ok ({seconds:.1} s)"),
        Outcome::LeftOut(reason) => println!("scenario {name} ... left out: {reason}"),
        Outcome::Failed(error) => println!("scenario {name} ... FAILED ({seconds:.1} s)\n{error:#}"),
    }
}

fn print_logs(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = std::fs::read(&path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        println!("--- end of {}", path.display());
        println!("{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_have_a_family() {
        let scenarios = all();
        let names: BTreeSet<_> = scenarios.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), scenarios.len());
        assert!(names.iter().all(|name| name.contains('/')));
    }

    #[test]
    fn a_peer_is_not_asked_what_only_ringway_can_do() {
        let scenario = Scenario::new("x/y", &[Need::Ringway], |_| Ok(()));
        assert!(scenario.obstacle(System::Testpmd).is_some());
        assert!(scenario.obstacle(System::Ringway).is_none());
    }
}
