//! `cargo xtask fuzz`.
//!
//! libFuzzer with coverage feedback and AddressSanitizer, on the stable toolchain: what cargo-fuzz does, but for its
//! demand of a nightly one. The coverage instrumentation is an ordinary code generation option; the sanitizer's runtime
//! comes with every toolchain, and only its flag is reserved for nightly ones, unless `RUSTC_BOOTSTRAP` is set. Nothing but
//! these binaries is built that way.
//!
//! A finding is fixed with its input added to `tests/fuzz/corpus/<target>`, under a name that says what it is. Of the inputs
//! that merely reach something new, `<binary> -merge=1 tests/fuzz/corpus/<target> target/fuzz/corpus/<target>` adds those that
//! the committed ones don't make superfluous.

use anyhow::{Context as _, Result, bail};
use lab::{packages, workspace_root};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

/// How cargo-fuzz instruments code.
const FLAGS: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Zsanitizer=address";
/// Longest time one input may take, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;

/// How long, and what.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long it takes, split evenly over the targets.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only targets whose names contain one of these words.
    targets: Vec<String>,
}

/// What one target did.
struct Outcome {
    executions: u64,
    coverage: u64,
    /// What the fuzzer last said, when it stopped at a finding.
    finding: Option<String>,
}

/// Runs the targets, as many at a time as there are cores, and prints what each did. Returns whether nothing was found.
///
/// # Errors
/// When the targets can't be built or started.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let folder = workspace_root().join("tests/fuzz");
    let wanted = |name: &String| {
        arguments.targets.is_empty() || arguments.targets.iter().any(|word| name.contains(word))
    };
    let names: Vec<String> = target_names(&folder)?.into_iter().filter(wanted).collect();
    if names.is_empty() {
        bail!("no target has such a name; there are: {}", target_names(&folder)?.join(" "));
    }
    let work = work_folder();
    let binaries = build(&folder, &work)?;
    let cores = thread::available_parallelism().map_or(1, usize::from).min(names.len());
    let seconds = (arguments.minutes * 60 * cores as u64 / names.len() as u64).max(1);
    println!("{} targets, {seconds} s each, {cores} at a time", names.len());
    let (queue, outcomes) = (Mutex::new(VecDeque::from(names)), Mutex::new(vec![]));
    let next = || queue.lock().expect("no holder panics").pop_front();
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let outcome = fuzz(&name, &binaries.join(&name), &folder, &work, seconds);
                    print_outcome(&name, &outcome);
                    outcomes.lock().expect("no holder panics").push(outcome);
                }
            });
        }
    });
    let outcomes: Vec<Outcome> =
        outcomes.into_inner().expect("no holder panics").into_iter().collect::<Result<_>>()?;
    let executions: u64 = outcomes.iter().map(|outcome| outcome.executions).sum();
    let findings = outcomes.iter().filter(|outcome| outcome.finding.is_some()).count();
    println!("{executions} executions, {findings} findings");
    Ok(findings == 0)
}

/// Beside the other artefacts: binaries, inputs found, findings, logs.
fn work_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(workspace_root().join("target"), PathBuf::from);
    target.join("fuzz")
}

fn target_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    for entry in fs::read_dir(folder.join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Builds all binaries and returns where they are.
fn build(folder: &Path, work: &Path) -> Result<PathBuf> {
    if Command::new("c++").arg("--version").stdout(Stdio::null()).status().is_err() {
        packages::ensure(&["g++"])?;
    }
    let version = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let mut command = crate::cargo::command(&["build", "--release", "--quiet", "--target", host]);
    command.arg("--manifest-path").arg(folder.join("Cargo.toml")).arg("--target-dir").arg(work);
    // With --target the flags are for the targets only, not for build scripts.
    command.env("RUSTFLAGS", FLAGS).env("RUSTC_BOOTSTRAP", "1");
    if !command.status().context("running cargo build")?.success() {
        bail!("the fuzz targets don't build");
    }
    Ok(work.join(host).join("release"))
}

/// Runs one target for so long, or until it finds something.
fn fuzz(name: &str, binary: &Path, folder: &Path, work: &Path, seconds: u64) -> Result<Outcome> {
    let found = work.join("corpus").join(name);
    let (findings, logs) = (work.join("findings"), work.join("logs"));
    for path in [&found, &findings, &logs] {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    }
    let log = logs.join(name);
    let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let status = Command::new(binary)
        .args([&found, &folder.join("corpus").join(name)])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
        .args(["-print_final_stats=1", "-rss_limit_mb=4096"])
        // SIGBUS is the switch's own business: guests truncate their memory.
        .env("ASAN_OPTIONS", "handle_sigbus=0:detect_leaks=0")
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("running {}", binary.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    Ok(Outcome {
        executions: statistic(&text, "stat::number_of_executed_units:"),
        coverage: text.rsplit("cov: ").next().map_or(0, first_number),
        finding: (!status.success()).then(|| finding(&text)),
    })
}

fn statistic(log: &str, label: &str) -> u64 {
    log.lines().find_map(|line| line.strip_prefix(label)).map_or(0, first_number)
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The lines of a log that say what was found and where it was put.
fn finding(log: &str) -> String {
    let telling = ["panicked at", "ERROR:", "SUMMARY:", "Test unit written to"];
    let mut lines: Vec<&str> = vec![];
    let mut after_panic = false;
    for line in log.lines() {
        if after_panic || telling.iter().any(|words| line.contains(words)) {
            lines.push(line);
        }
        after_panic = line.contains("panicked at");
    }
    if lines.is_empty() {
        log.lines().last().unwrap_or("it said nothing").to_owned()
    } else {
        lines.join("\n")
    }
}

fn print_outcome(name: &str, outcome: &Result<Outcome>) {
    match outcome {
        Ok(Outcome { executions, coverage, finding: None }) => {
            println!("{name:20} {executions:>12} executions, {coverage:>5} edges, nothing found");
        }
        Ok(Outcome { executions, finding: Some(finding), .. }) => {
            println!("{name:20} {executions:>12} executions, FOUND:\n{finding}");
        }
        Err(error) => println!("{name:20} {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_says_is_read() {
        let log = "#5 NEW cov: 12 ft: 13\n#9 DONE cov: 345 ft: 7\nstat::number_of_executed_units: 99\n";
        assert_eq!(statistic(log, "stat::number_of_executed_units:"), 99);
        assert_eq!(log.rsplit("cov: ").next().map_or(0, first_number), 345);
        let log = "x\nthread panicked at a.rs:1:2:\nno frame\ny\nTest unit written to /f/crash-1\n";
        assert_eq!(finding(log), "thread panicked at a.rs:1:2:\nno frame\nTest unit written to /f/crash-1");
    }
}
