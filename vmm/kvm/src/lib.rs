//! The Linux hypervisor (KVM), as far as a virtual machine monitor needs it. No other crate knows its interface.
//!
//! - [`Hypervisor`] is `/dev/kvm`. Opening it says what to do where it can't be used.
//! - [`Vm`] is a machine: [memory](Vm::map_memory), doorbells (writes that signal an event without an exit),
//!   interrupt [lines](Vm::attach_line) and [messages](MsiVector).
//! - [`Vcpu`] is a processor: [`Vcpu::run`] returns an [`Exit`].
//!
//! ```no_run
//! use kvm::{Exit, Hypervisor};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let hypervisor = Hypervisor::open()?;
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)])?;
//! let vm = hypervisor.create_vm(&memory)?;
//! let mut vcpu = vm.create_vcpu(0)?;
//! loop {
//!     match vcpu.run()? {
//!         Exit::MmioWrite { address, data } => println!("{data:?} -> {address:#x}"),
//!         Exit::Halt => break,
//!         _ => {}
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! UNSAFETY: a memory slot makes KVM write into this process; the [`Vm`] keeps what it was given mapped until the last
//! descriptor of the machine is closed. Fields of the shared `kvm_run` page are read after the exit that fills them.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
mod error;
mod hypervisor;
mod interrupts;
mod stats;
mod vcpu;
mod vm;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

// What differs between processor types: `Processors`, `FIRST_MESSAGE` and `line_routes` for the rest of this crate;
// `LINES`, `Entry`, and `prepare`, `set_entry`, `tick_khz` and `position` of a `Vcpu`.
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use error::{KvmError, OpenError};
pub use hypervisor::Hypervisor;
pub use interrupts::{MsiMessage, MsiVector};
pub use stats::KernelStats;
pub use vcpu::{Exit, Vcpu};
pub use vm::Vm;
