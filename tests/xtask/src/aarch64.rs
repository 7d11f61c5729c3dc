//! `cargo xtask aarch64`: everything built for 64-bit Arm; unit tests under QEMU's user-mode emulation, or, where they
//! need of the kernel what that hasn't, on an emulated machine; there, too, the switch and virtual machines under KVM.

use anyhow::{Context as _, Result, bail};
use lab::{ArmFiles, ArmHost, Guest, packages, run_to_end, target_dir, workspace_root};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use system::{Tally, arm};

use crate::cargo;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const COMPILER: &str = "aarch64-linux-gnu-gcc";
const STRIP: &str = "aarch64-linux-gnu-strip";
const EMULATOR: &str = "qemu-aarch64-static";
/// Where the emulator finds the shared libraries of Debian's cross compiler.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// How long one crate's tests may take.
const TESTS_LIMIT: Duration = Duration::from_secs(600);
const STRIP_LIMIT: Duration = Duration::from_secs(60);

/// Where tests run that can't run under user-mode emulation. All others do.
enum Elsewhere {
    /// On the emulated machine.
    Machine,
    /// Only on a machine with more in it.
    Nowhere,
}

/// Tests, as `package/target`, and what they need that user-mode emulation hasn't.
const ELSEWHERE: &[(&str, Elsewhere, &str)] = &[
    ("sandbox/roles", Elsewhere::Machine, "filters of system calls"),
    ("sandbox/sandbox", Elsewhere::Machine, "memory that the kernel takes back"),
    ("ringway/command", Elsewhere::Machine, "to start the command, which the host's kernel can't"),
    ("ringway/reload", Elsewhere::Machine, "to start the command, which the host's kernel can't"),
    ("switchd/switchd", Elsewhere::Machine, "io_uring"),
    ("devices/local_devices", Elsewhere::Machine, "io_uring"),
    (
        "tap_port/tap_port",
        Elsewhere::Nowhere,
        "reads of sockets that don't wait, which came after the machine's kernel",
    ),
    ("disk/disk", Elsewhere::Machine, "io_uring"),
    ("vhost_user/vhost_user", Elsewhere::Machine, "to be told of descriptors that were cut off"),
    ("tap_port/namespaces", Elsewhere::Nowhere, "iproute2 for network namespaces"),
];

/// A program that cargo has built.
struct Built {
    /// `package/target`.
    name: String,
    is_test: bool,
    program: PathBuf,
    /// The package's folder, in which its tests run.
    folder: PathBuf,
}

/// Everything, or with a filter only the cases on the machine whose names contain it. Returns whether all of it passed.
///
/// # Errors
/// When something it stands on cannot be had: a package, a toolchain, a build.
pub fn run(filter: Option<&str>) -> Result<bool> {
    let start = Instant::now();
    packages::ensure(packages::FOR_AARCH64)?;
    ensure_target()?;
    println!("step build for {TARGET} ...");
    let built = build(filter.is_none())?;
    println!("step build for {TARGET} ... ok ({:.0} s)", start.elapsed().as_secs_f64());
    let mut tally = Tally { passed: 1, ..Tally::default() };
    let tests = || built.iter().filter(|built| built.is_test);
    let elsewhere = |built: &Built| ELSEWHERE.iter().find(|(name, ..)| *name == built.name);
    for test in tests() {
        tally += match elsewhere(test) {
            None => run_emulated(test)?,
            Some((name, Elsewhere::Nowhere, need)) => {
                println!("tests {name} ... left out: they need {need}");
                Tally { skipped: 1, ..Tally::default() }
            }
            Some((name, Elsewhere::Machine, need)) => {
                println!("tests {name} ... on the machine: they need {need}");
                Tally::default()
            }
        };
    }
    let for_machine: Vec<_> =
        tests().filter(|test| matches!(elsewhere(test), Some((_, Elsewhere::Machine, _)))).collect();
    let ringway = built.iter().find(|built| !built.is_test && built.program.ends_with("ringway"));
    let ringway = &ringway.context("cargo has built no ringway")?.program;
    tally += on_machine(ringway, &for_machine, filter.unwrap_or(""))?;
    println!("took {:.0} s", start.elapsed().as_secs_f64());
    println!("{tally}");
    Ok(tally.failed == 0)
}

/// Sees to it that the compiler has a standard library for the target.
fn ensure_target() -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let library = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let library = library.context("running rustc")?.stdout;
    if Path::new(String::from_utf8_lossy(&library).trim()).exists() {
        return Ok(());
    }
    match Command::new("rustup").args(["target", "add", TARGET]).current_dir(workspace_root()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`rustup target add {TARGET}` ended with {status}"),
        Err(_) => bail!(
            "this Rust compiler has no standard library for {TARGET}, and there is no rustup to install it: install \
             the one of exactly the compiler's version"
        ),
    }
}

/// Builds the command, and with `all` every crate with its tests.
fn build(all: bool) -> Result<Vec<Built>> {
    let what: &[&str] = match all {
        true => &["test", "--no-run", "--workspace", "--lib", "--bins", "--tests"],
        false => &["build", "--profile", "test", "--package", "ringway"],
    };
    let mut child = cargo::command(what)
        .args(["--target", TARGET, "--message-format", "json-render-diagnostics"])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CC_aarch64_unknown_linux_gnu", COMPILER)
        .stdout(Stdio::piped())
        .spawn()
        .context("running cargo")?;
    let output = child.stdout.take().context("standard output was asked for as a pipe")?;
    let mut built = vec![];
    for line in BufReader::new(output).lines() {
        built.extend(parse_artifact(&line?));
    }
    if !child.wait()?.success() {
        bail!("it doesn't compile for {TARGET}");
    }
    Ok(built)
}

/// Reads a line of cargo's about something built, if that can be run.
fn parse_artifact(line: &str) -> Option<Built> {
    let message: Value = serde_json::from_str(line).ok()?;
    let program = PathBuf::from(message["executable"].as_str()?);
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let package = folder.file_name()?.to_string_lossy().into_owned();
    let name = format!("{package}/{}", message["target"]["name"].as_str()?);
    Some(Built { name, is_test: message["profile"]["test"].as_bool()?, program, folder })
}

/// Runs tests under user-mode emulation.
fn run_emulated(test: &Built) -> Result<Tally> {
    println!("tests {} ...", test.name);
    let output = Command::new("timeout")
        .args(["--kill-after=5", &TESTS_LIMIT.as_secs().to_string(), EMULATOR, "-L", LIBRARIES])
        .arg(&test.program)
        .current_dir(&test.folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {EMULATOR}"))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok(judge(&test.name, &text, output.status.success()))
}

/// Sums up what a test program printed, and shows that if it failed.
fn judge(name: &str, text: &str, success: bool) -> Tally {
    let mut tally = Tally::default();
    text.lines().filter_map(|line| cargo::parse_result(line.trim_end())).for_each(|result| tally += result);
    if !success {
        tally.failed = tally.failed.max(1);
        println!("{text}");
    }
    println!("tests {name} ... {}: {tally}", if success { "ok" } else { "FAILED" });
    tally
}

/// Boots the machine, and runs there these tests and the cases whose names contain `filter`.
fn on_machine(ringway: &Path, tests: &[&Built], filter: &str) -> Result<Tally> {
    let work = target_dir().join("arm-host");
    std::fs::create_dir_all(&work)?;
    let stripped = |program: &Path| -> Result<PathBuf> {
        let name = program.file_name().context("a program has a name")?;
        let to = work.join(name).with_extension("stripped");
        let (from, to_text) = (program.to_string_lossy(), to.to_string_lossy());
        run_to_end(STRIP, &["-o", &to_text, &from], STRIP_LIMIT)?;
        Ok(to)
    };
    let mut files: ArmFiles = vec![(stripped(ringway)?, "/bin/ringway".into())];
    // Tests find the command, and their own files, where they were compiled.
    files.push((files[0].0.clone(), ringway.to_path_buf()));
    let root = workspace_root();
    files.push((root.join("configs"), root.join("configs")));
    for test in tests {
        files.push((stripped(&test.program)?, test.program.clone()));
        files.push((test.folder.clone(), test.folder.clone()));
    }
    files.extend(arm::files(&work)?);
    println!("booting the machine ...");
    let image = ArmHost::build(&files)?;
    let mut machine = image.boot(&work)?;
    let mut tally = Tally::default();
    for test in tests {
        let command = format!("(cd {} && {})", test.folder.display(), test.program.display());
        let output = machine.try_run(&command, TESTS_LIMIT)?;
        tally += judge(&test.name, &output.text, output.status == 0);
    }
    tally += arm::run(filter, &mut machine);
    Guest::power_off(machine)?;
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_has_built_is_told_from_what_it_says_else() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/switch/sandbox/Cargo.toml",
            "target":{"name":"roles"},"profile":{"test":true},"executable":"/t/roles-1"}"#;
        let built = parse_artifact(&line.replace('\n', "")).unwrap();
        assert_eq!((built.name.as_str(), built.is_test), ("sandbox/roles", true));
        assert_eq!(built.folder, Path::new("/w/switch/sandbox"));
        assert!(parse_artifact(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(parse_artifact("Compiling").is_none());
    }
}
