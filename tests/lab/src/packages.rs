//! The Debian packages the tests need, and how they get onto a fresh machine.

use anyhow::{Context as _, Result, bail};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Packages the system scenarios run.
///
/// `dpdk-testpmd` is in `dpdk-dev`, whose dependencies include every driver.
pub const FOR_TESTS: &[&str] = &[
    "dpdk-dev",
    "qemu-system-x86",
    "busybox-static",
    "cpio",
    "kmod",
    "iperf3",
    "iproute2",
    "ethtool",
    "util-linux",
    "xz-utils",
    "valgrind",
];

/// Packages the benchmark needs on top of [`FOR_TESTS`].
pub const FOR_BENCH: &[&str] = &["openvswitch-switch-dpdk"];

/// Packages that building and running for 64-bit Arm needs.
pub const FOR_AARCH64: &[&str] = &[
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-user-static",
    "qemu-system-arm",
    "qemu-system-common",
    "cpio",
    "kmod",
    "util-linux",
];

/// Attempts before a download counts as failed; mirrors have bad moments.
const ATTEMPTS: u32 = 4;

/// Names those of `wanted` that are not installed.
///
/// # Errors
/// When `dpkg-query` is not there (not a Debian system).
pub fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .stderr(Stdio::null())
        .output()
        .context("running dpkg-query (the tests with third parties need Debian packages)")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = |name: &str| {
        listed
            .lines()
            .any(|line| line.split_once(' ').is_some_and(|(n, status)| n == name && status == "installed"))
    };
    Ok(wanted.iter().copied().filter(|name| !installed(name)).collect())
}

/// Installs those of `wanted` that are missing.
///
/// # Errors
/// When not root (the message is the command to run), or when apt fails in every attempt.
pub fn ensure(wanted: &[&str]) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these Debian packages are missing and installing them needs root; run\n  \
             apt-get update && apt-get install -y --no-install-recommends {}",
            missing.join(" ")
        );
    }
    eprintln!("installing {}", missing.join(" "));
    apt(&["update"])?;
    // Services of the packages must not start: their programs are run by hand, with their own directories.
    let mut install = vec!["install", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"];
    install.extend(&missing);
    apt(&install)
}

/// Downloads package `name` as a file into `dir`, without installing it.
///
/// # Errors
/// When apt fails in every attempt.
pub fn download(name: &str, dir: &std::path::Path) -> Result<()> {
    let attempt = || {
        let status = Command::new("apt-get")
            .args(["-q", "download", name])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("running apt-get download")?;
        Ok(status.success())
    };
    if attempt()? {
        return Ok(());
    }
    // A fresh machine has no package lists yet.
    apt(&["update"])?;
    with_retries(&format!("apt-get download {name}"), attempt)
}

/// Makes packages of another machine type known; some of those are unpacked, none is installed.
///
/// # Errors
/// When not root (the message is the command to run), or when apt fails in every attempt.
pub fn ensure_architecture(name: &str) -> Result<()> {
    let known = Command::new("dpkg").arg("--print-foreign-architectures").output().context("running dpkg")?;
    if String::from_utf8_lossy(&known.stdout).lines().any(|line| line == name) {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("packages for {name} are not known here; run as root: dpkg --add-architecture {name}");
    }
    let status = Command::new("dpkg").args(["--add-architecture", name]).status().context("running dpkg")?;
    if !status.success() {
        bail!("`dpkg --add-architecture {name}` ended with {status}");
    }
    apt(&["update"])
}

fn apt(args: &[&str]) -> Result<()> {
    with_retries(&format!("apt-get {}", args.join(" ")), || {
        let status = Command::new("apt-get")
            .arg("-q")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("running apt-get")?;
        Ok(status.success())
    })
}

fn with_retries(what: &str, mut attempt: impl FnMut() -> Result<bool>) -> Result<()> {
    for count in 1..=ATTEMPTS {
        if attempt()? {
            return Ok(());
        }
        if count < ATTEMPTS {
            eprintln!("`{what}` failed, trying again");
            std::thread::sleep(Duration::from_secs(u64::from(5 * count)));
        }
    }
    bail!("`{what}` failed {ATTEMPTS} times");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_package_is_missing_and_dpkg_itself_is_not() {
        let found = missing(&["dpkg", "no-such-package-of-ours"]).unwrap();
        assert_eq!(found, ["no-such-package-of-ours"]);
    }
}
