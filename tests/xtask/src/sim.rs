//! `cargo xtask sim`, and its part of `cargo xtask test`.

use anyhow::{Context as _, Result};
use system::Tally;

use crate::cargo;

/// Seeds that every run of the tests goes through: about half a minute on two cores.
const SEEDS: &str = "2000";

/// Runs the simulation's own command with these arguments, with the artefacts of the tests. Returns whether it passed.
///
/// # Errors
/// When cargo can't be started.
pub fn run(arguments: &[String]) -> Result<bool> {
    let mut command = cargo::command(&["run", "--quiet", "--profile", "test", "--package", "sim", "--"]);
    Ok(command.args(arguments).status().context("running cargo run")?.success())
}

/// The part that belongs to the tests.
///
/// # Errors
/// When cargo can't be started.
pub fn step() -> Result<Tally> {
    println!("step sim ...");
    let passed = run(&["--seeds".to_owned(), SEEDS.to_owned()])?;
    println!("step sim ... {}", if passed { "ok" } else { "FAILED" });
    Ok(Tally::of_step("sim", passed))
}
