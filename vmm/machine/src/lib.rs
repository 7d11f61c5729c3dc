//! What a guest finds when it starts: where memory and devices are, the tables that say so, the kernel in its place.
//!
//! - [`memory`] makes guest memory: shared, so that a switch can map it too.
//! - [`layout`] is the map of the machine: where memory is, and where what the guest sees as devices is.
//! - [`boot::load`] puts kernel, initial file system, command line and tables into memory and says how the first
//!   processor starts.
//! - [`virtio`] says where virtio devices are when they aren't on the PCI bus.
//! - [`create_processors`] makes the processors, and what interrupts them.
//!
//! The parts that differ between machine types are in modules named after those, with the same names inside.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64/mod.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod arch;
pub mod boot;
pub mod memory;
pub mod virtio;

pub use arch::{create_processors, layout};
