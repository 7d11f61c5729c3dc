//! What tests and benchmarks with third parties stand on.
//!
//! Everything here drives other people's programs from outside, as an operator would: [`Process`] owns one child with its
//! log, [`Testpmd`] a `dpdk-testpmd` at its prompt, [`Guest`] a QEMU virtual machine at its serial console, [`EmulatedHost`] and
//! [`ArmHost`] those in which Ringway runs itself, with KVM, [`Namespace`] a network namespace. [`PlayedGuest`] and [`Hostile`](hostile::Hostile) are guests without a machine, in the test's own
//! process: one keeps the rules and counts, the other breaks them. A [`Switch`](switch::Switch) is whatever forwards between sockets: Ringway, OVS-DPDK or a forwarding
//! testpmd, set up from one [`Plan`](switch::Plan), so that a scenario or a benchmark is written once.
//!
//! Rules kept throughout: every wait has a deadline; a child dies with its owner; a log is quoted when something fails.

mod arm_host;
pub mod disk;
pub mod dpaa2;
mod emulated_host;
mod footprint;
mod guest;
mod guest_image;
pub mod hostile;
mod huge_pages;
mod monitor;
mod namespace;
pub mod packages;
mod placement;
mod played;
mod process;
pub mod switch;
mod testpmd;

pub use arm_host::{ArmFiles, ArmHost};
pub use emulated_host::{EmulatedHost, HOST_DIR};
pub use footprint::Footprint;
pub use guest::{Guest, GuestOptions, Migration, Output, until};
pub use guest_image::{GuestImage, shared_libraries};
pub use huge_pages::HugePages;
pub use namespace::Namespace;
pub use placement::{Placement, pin, ping_pong_ns};
pub use played::{Felt, PlayedGuest, Traffic, TrafficOptions};
pub use process::{
    Paused, Process, cpu_time, other_threads_run, poll_thread_wait, resident_bytes, run_to_end, stolen_time,
};
pub use testpmd::{PortStats, Testpmd, TestpmdOptions, VirtioUser};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Page size the programs under test take their packet memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// Ordinary 4 KiB pages; needs nothing.
    Small,
    /// 2 MiB pages reserved beforehand, see [`HugePages`].
    Huge,
}

/// The root of the checkout.
pub fn workspace_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/lab lies two levels below the root")
        .to_path_buf()
}

/// The directory build products go to: `CARGO_TARGET_DIR`, or `target` in the checkout.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from)
}

/// Polls `probe` until it yields a value.
///
/// # Errors
/// When `limit` has passed; the message names `what`. An error of `probe` ends the wait at once.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            anyhow::bail!("{what}: not within {:.0} s", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
