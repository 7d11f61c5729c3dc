//! Development tasks. `cargo xtask --help` lists them.

mod aarch64;
mod bench;
mod cargo;
mod fuzz;
mod sim;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use lab::packages;
use lab::switch::System;
use std::process::ExitCode;

/// Development tasks of Ringway.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Formatting, lints, every crate's tests, then the scenarios with third parties.
    ///
    /// Installs missing Debian packages first (needs root). The last line is `N passed, N failed, N skipped`.
    Test {
        /// Runs only the scenarios whose names contain this, and no other tests.
        filter: Option<String>,
        /// Runs the scenarios through a peer instead of Ringway, to judge the scenarios themselves.
        #[arg(long, value_enum, default_value_t = Through::Ringway)]
        through: Through,
        /// Only lists the scenarios.
        #[arg(long)]
        list: bool,
    },
    /// Formatting and every crate's own tests: no root, no packages, under two minutes.
    Quick,
    /// Ringway, OVS-DPDK and testpmd side by side: busy cycles per frame, Mpps, idle memory and processor use.
    ///
    /// Installs missing Debian packages first (needs root). Wants both cores for itself.
    Bench(bench::Arguments),
    /// The fuzz targets under libFuzzer: executions and findings of each.
    ///
    /// Inputs that reach something new are kept in `target/fuzz/corpus`, findings in `target/fuzz/findings`.
    Fuzz(fuzz::Arguments),
    /// The whole switch in one thread, in virtual time, with seeded faults.
    ///
    /// `--seeds N` goes through N seeds; `--seed N` replays one and shows what it does; `--help` lists the rest.
    #[command(disable_help_flag = true)]
    Sim {
        /// Passed on to the simulation.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// For 64-bit Arm: builds everything, runs unit tests emulated, then switch and virtual machines on an emulated machine.
    ///
    /// Installs missing Debian packages and the Rust target first (needs root). The last line is as that of `test`.
    Aarch64 {
        /// Runs only the cases on the machine whose names contain this, and no unit tests.
        filter: Option<String>,
    },
    /// Prints the Debian packages that tests and benchmarks install.
    CiPackages,
}

/// What takes the switch's place in scenarios.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Through {
    Ringway,
    OvsDpdk,
    Testpmd,
}

impl From<Through> for System {
    fn from(through: Through) -> Self {
        match through {
            Through::Ringway => Self::Ringway,
            Through::OvsDpdk => Self::OvsDpdk,
            Through::Testpmd => Self::Testpmd,
        }
    }
}

fn main() -> Result<ExitCode> {
    let success = match Arguments::parse().task {
        Task::Test { list: true, filter, .. } => {
            test::list(filter.as_deref().unwrap_or(""));
            true
        }
        Task::Test { filter, through, .. } => test::run(filter.as_deref(), through.into())?,
        Task::Quick => test::quick()?,
        Task::Bench(arguments) => {
            bench::run(&arguments)?;
            true
        }
        Task::Fuzz(arguments) => fuzz::run(&arguments)?,
        Task::Sim { arguments } => sim::run(&arguments)?,
        Task::Aarch64 { filter } => aarch64::run(filter.as_deref())?,
        Task::CiPackages => {
            println!("{}", [packages::FOR_TESTS, packages::FOR_BENCH].concat().join("\n"));
            true
        }
    };
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
