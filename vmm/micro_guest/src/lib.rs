//! The micro-guest: a virtual machine's whole software in some tens of kilobytes, for demos, tests and benchmarks.
//!
//! It stands for a data-plane workload: after a start of a few milliseconds it polls its network devices in
//! unprivileged code and never leaves the guest: no interrupts, no doorbells while the switch polls too. [`IMAGE`] is
//! to be loaded like a kernel; its command line says what to do (see `guest/options.rs`); a
//! [`Mailbox`](mailbox::Mailbox) page shows its counters to the monitor.
//!
//! The build script compiles `guest/` with the same rustc as this crate.
#[path = "../guest/mailbox.rs"]
pub mod mailbox;

/// The guest, for this crate's machine type: an ELF executable (x86-64), an Image (64-bit Arm).
pub const IMAGE: &[u8] = include_bytes!(env!("MICRO_GUEST_IMAGE"));

/// What the guest can do, as `mode=` on its command line says it.
pub const MODES: [&str; 5] = ["reflect", "forward", "generate", "sink", "read"];
