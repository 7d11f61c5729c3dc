//! What a guest finds when it starts: where memory and devices are, the tables that say so, the kernel in its place.
//!
//! - [`memory`] makes guest memory: shared, so that a switch can map it too.
//! - [`layout`] is the map of the machine: where memory is, and where what the guest sees as devices is.
//! - [`boot::load`] puts kernel, initial file system, command line and tables into memory and says how the first
//!   processor starts.
//!
//! The parts that differ between machine types are in modules named after those.

pub mod memory;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{boot, layout};
