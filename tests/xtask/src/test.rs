//! `cargo xtask test` and `cargo xtask quick`.

use anyhow::Result;
use lab::packages;
use lab::switch::System;
use std::time::Instant;
use system::Tally;

use crate::cargo;

/// Prints the names of the scenarios that contain `filter`.
pub fn list(filter: &str) {
    for scenario in system::all().iter().filter(|scenario| scenario.name.contains(filter)) {
        println!("{}", scenario.name);
    }
}

/// Everything, or with a filter only scenarios. Returns whether all of it passed.
///
/// # Errors
/// When something the tests stand on cannot be had: a package, a tool, a build.
pub fn run(filter: Option<&str>, system: System) -> Result<bool> {
    let start = Instant::now();
    let mut tally = Tally::default();
    if filter.is_none() {
        tally += crates_tests()?;
    }
    let wanted = match system {
        System::OvsDpdk => [packages::FOR_TESTS, packages::FOR_BENCH].concat(),
        System::Ringway | System::Testpmd => packages::FOR_TESTS.to_vec(),
    };
    packages::ensure(&wanted)?;
    if system == System::Ringway {
        cargo::build_release()?;
        println!("built, {:.0} s after the start", start.elapsed().as_secs_f64());
    }
    tally += system::run(filter.unwrap_or(""), system);
    if filter.is_none() && system == System::Ringway {
        tally += instructions()?;
    }
    println!("took {:.0} s", start.elapsed().as_secs_f64());
    println!("{tally}");
    Ok(tally.failed == 0)
}

/// Shows what a frame costs in instructions, beside the values kept in the checkout. A rise is shown, it fails nothing.
fn instructions() -> Result<Tally> {
    let counted = bench::count_instructions();
    match &counted {
        Ok(counted) => print!("{counted}"),
        Err(error) => println!("instructions per frame ... FAILED: {error:#}"),
    }
    Ok(Tally::of_step("instructions per frame", counted.is_ok()))
}

/// What needs neither root nor packages.
///
/// # Errors
/// When cargo cannot be run.
pub fn quick() -> Result<bool> {
    let mut tally = cargo::step("fmt", &["fmt", "--all", "--check"])?;
    tally += cargo::test(&["--workspace", "--quiet"])?;
    println!("{tally}");
    Ok(tally.failed == 0)
}

fn crates_tests() -> Result<Tally> {
    let mut tally = cargo::step("fmt", &["fmt", "--all", "--check"])?;
    // The profile of the tests, so that dependencies are checked once and built once.
    tally += cargo::step(
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--profile",
            "test",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ],
    )?;
    tally += cargo::test(&["--workspace", "--no-fail-fast"])?;
    tally += crate::sim::step()?;
    Ok(tally)
}
