//! Runs cargo and reads from its output how the tests came out.

use anyhow::{Context as _, Result, bail};
use lab::workspace_root;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;
use system::Tally;

/// A cargo command in the root of the checkout.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace_root());
    command
}

/// Runs a cargo command that either succeeds or not, and says how it went. Left out where the toolchain came without it.
///
/// # Errors
/// When cargo cannot be started.
pub fn step(name: &str, args: &[&str]) -> Result<Tally> {
    let has_it =
        command(&args[..1]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
    if !has_it {
        println!("step {name} ... left out: this toolchain has no `cargo {}`", args[0]);
        return Ok(Tally { skipped: 1, ..Tally::default() });
    }
    println!("step {name} ...");
    let start = Instant::now();
    let status = command(args).status().with_context(|| format!("running cargo {}", args.join(" ")))?;
    let outcome = if status.success() { "ok" } else { "FAILED" };
    println!("step {name} ... {outcome} ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(Tally::of_step(name, status.success()))
}

/// Lines of a failed test's own output that are said once more at the end.
const REASON_LINES: usize = 4;

/// Runs `cargo test` with `args`, passes its output on, and sums up the result lines.
///
/// A run that fails without a failed test (it did not compile, or a test binary was killed) counts as one failure.
///
/// # Errors
/// When cargo cannot be started.
pub fn test(args: &[&str]) -> Result<Tally> {
    let args: Vec<_> = ["test"].iter().chain(args).copied().collect();
    let mut child = command(&args).stdout(Stdio::piped()).spawn().context("running cargo test")?;
    let Some(output) = child.stdout.take() else { bail!("standard output was asked for as a pipe") };
    let mut tally = Tally::default();
    let mut reason_lines = 0_usize;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        tally += parse_result(&line).unwrap_or_default();
        reason_lines = reason_lines.saturating_sub(1);
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            tally.failures.push(format!("test {name}"));
            reason_lines = REASON_LINES + 1;
        } else if reason_lines > 0
            && !line.is_empty()
            && let Some(failure) = tally.failures.last_mut()
        {
            failure.push_str("\n    ");
            failure.push_str(&line);
        }
    }
    if !child.wait()?.success() && tally.failed == 0 {
        tally += Tally::of_step("cargo test, without a failed test: see above", false);
    }
    Ok(tally)
}

/// Builds for speed what scenarios and benchmarks run: the switch, the loads, hardware's model and its preload library.
/// Always all of them, so that every command finds what another has built.
///
/// # Errors
/// When it does not compile.
pub fn build_release() -> Result<()> {
    let args = "build --release --quiet -p ringway -p bench_load -p dpaa2_model -p dpaa2_shim";
    let status = command(&args.split(' ').collect::<Vec<_>>()).status().context("running cargo build")?;
    if !status.success() {
        bail!("`cargo {args}` failed");
    }
    Ok(())
}

/// Reads `test result: ok. 16 passed; 0 failed; 0 ignored; …`.
pub fn parse_result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |label: &str| -> Option<u64> {
        counts.split("; ").find_map(|part| part.strip_suffix(label)?.trim().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
        ..Tally::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read_and_others_are_not() {
        let line = "test result: FAILED. 16 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.0s";
        let expected = Tally { passed: 16, failed: 2, skipped: 1, ..Tally::default() };
        assert_eq!(parse_result(line), Some(expected));
        assert_eq!(parse_result("test flow::tests::x ... ok"), None);
    }
}
