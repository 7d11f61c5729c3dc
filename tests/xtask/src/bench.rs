//! `cargo xtask bench`.

use anyhow::{Context as _, Result, bail};
use bench::{MachineOptions, Options, Report};
use lab::packages;
use lab::switch::System;
use std::path::{Path, PathBuf};

use crate::{Through, cargo};

/// What to measure and where to put it.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// A few cases, fewer runs: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Only cases whose names contain this; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Prints the names of all cases and ends.
    #[arg(long)]
    list: bool,
    /// Writes every figure to this file, after each group of cases.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Systems to measure; all three when left out.
    #[arg(long = "system", value_enum, value_name = "SYSTEM")]
    systems: Vec<Through>,
    /// Runs wanted of each system with the cores in one placement [default: 5, or 3 with --quick].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Core of the system under test.
    #[arg(long, default_value_t = 0)]
    switch_core: usize,
    /// Core of the load.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Runs every system on 4 KiB pages even if huge pages can be had.
    #[arg(long)]
    small_pages: bool,
    /// Counts instructions per frame by callgrind instead, compares them with the values kept in the checkout, and keeps
    /// the new ones there.
    #[arg(long, conflicts_with_all = ["quick", "only", "json", "runs"])]
    instructions: bool,
    /// Measures nothing: prints the Markdown tables of these files (written by --json).
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["quick", "only", "json", "runs"])]
    markdown: Vec<PathBuf>,
}

/// A benchmark of its own.
#[derive(clap::Subcommand)]
enum Part {
    /// What DPAA2 drivers cost, ours and DPDK's on the same model of the hardware: stores to the device, cache lines,
    /// instructions; frames a second of whole switches on it.
    Dpaa2(Subject),
    /// From a wire to a guest: past the bridge, by a table of owners, by a rule, by learning.
    Partition(Subject),
    /// Virtual machines: their start and memory, what leaving a guest takes, their network back-ends side by side.
    Vmm {
        #[command(flatten)]
        subject: Subject,
        /// Runs of each.
        #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
    },
}

#[derive(clap::Args)]
struct Subject {
    /// Writes every figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, prints the table and writes the file.
///
/// # Errors
/// When a package, the build or a system under test fails, or a file cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.part {
        Some(Part::Dpaa2(subject)) => return dpaa2(subject.json.as_deref()),
        Some(Part::Partition(subject)) => return partition(subject.json.as_deref()),
        Some(Part::Vmm { subject, runs }) => return machines(subject.json.as_deref(), *runs),
        None => {}
    }
    if arguments.list {
        println!("{}", bench::names().join("\n"));
        return Ok(());
    }
    if !arguments.markdown.is_empty() {
        let reports = arguments.markdown.iter().map(|file| read(file)).collect::<Result<_>>()?;
        print!("{}", Report::merge(reports)?.markdown());
        return Ok(());
    }
    packages::ensure(&[packages::FOR_TESTS, packages::FOR_BENCH].concat())?;
    cargo::build_release()?;
    if arguments.instructions {
        let counted = bench::count_instructions()?;
        print!("{counted}");
        return counted.keep();
    }
    measure(arguments)
}

fn machines(json: Option<&Path>, runs: u16) -> Result<()> {
    cargo::build_release()?;
    let report = bench::run_machines(&MachineOptions { runs: runs.into(), command: typed() })?;
    print!("{report}");
    json.map_or(Ok(()), |file| write(file, &report))
}

fn dpaa2(json: Option<&Path>) -> Result<()> {
    packages::ensure(&[packages::FOR_TESTS, packages::FOR_BENCH].concat())?;
    cargo::build_release()?;
    let report = bench::run_dpaa2(&typed())?;
    print!("{report}");
    if let Some(file) = json {
        write(file, &report)?;
    }
    if report.has_failures() {
        bail!("not everything could be measured, or our driver costs more than DPDK's somewhere");
    }
    Ok(())
}

fn partition(json: Option<&Path>) -> Result<()> {
    packages::ensure(packages::FOR_TESTS)?;
    cargo::build_release()?;
    let measured = bench::measure_partition(0)?;
    print!("{measured}");
    json.map_or(Ok(()), |file| write(file, &measured))
}

/// The command, for the report.
fn typed() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask {}", words.join(" "))
}

fn measure(arguments: &Arguments) -> Result<()> {
    let mut systems: Vec<System> = arguments.systems.iter().map(|&system| system.into()).collect();
    if systems.is_empty() {
        systems = vec![System::Ringway, System::OvsDpdk, System::Testpmd];
    }
    let options = Options {
        systems,
        quick: arguments.quick,
        only: arguments.only.clone(),
        runs: arguments.runs.map(usize::from),
        switch_core: arguments.switch_core,
        load_core: arguments.load_core,
        huge_pages: !arguments.small_pages,
        command: typed(),
    };
    let report = bench::run(&options, |report| match &arguments.json {
        Some(file) => write(file, report),
        None => Ok(()),
    })?;
    print!("{report}");
    if report.has_failures() {
        bail!("not everything could be measured");
    }
    Ok(())
}

fn write(file: &Path, report: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn read(file: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))
}
