//! `cargo xtask bench`.

use anyhow::{Context as _, Result};
use lab::packages;
use lab::switch::System;
use std::path::PathBuf;

use crate::{Through, cargo};

/// What to measure and where to put it.
#[derive(clap::Args)]
pub struct Arguments {
    /// A few cases, fewer runs: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Writes every figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Systems to measure; all three when left out.
    #[arg(long = "system", value_enum, value_name = "SYSTEM")]
    systems: Vec<Through>,
    /// Core of the system under test.
    #[arg(long, default_value_t = 0)]
    switch_core: usize,
    /// Core of the load.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Runs every system on 4 KiB pages even if huge pages can be had.
    #[arg(long)]
    small_pages: bool,
    /// Only cases whose names contain one of these words.
    cases: Vec<String>,
}

/// Measures, prints the table and writes the file.
///
/// # Errors
/// When a package, the build or a system under test fails, or the file cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure(&[packages::FOR_TESTS, packages::FOR_BENCH].concat())?;
    let mut systems: Vec<System> = arguments.systems.iter().map(|&system| system.into()).collect();
    if systems.is_empty() {
        systems = vec![System::Ringway, System::OvsDpdk, System::Testpmd];
    }
    if systems.contains(&System::Ringway) {
        cargo::build_ringway()?;
    }
    let report = bench::run(&bench::Options {
        systems,
        quick: arguments.quick,
        cases: arguments.cases.clone(),
        switch_core: arguments.switch_core,
        load_core: arguments.load_core,
        huge_pages: !arguments.small_pages,
    })?;
    print!("{report}");
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
