//! One virtual machine: its process, from start to end, and how others talk to it.
//!
//! - [`run`] is the whole life of a machine's process: it becomes the machine that a [`vmm_config::Vm`] describes and
//!   returns how that ended. `ringway` re-executes itself for each machine, so a machine that fails, or is broken
//!   into, is one process.
//! - [`protocol`] is what can be asked of a machine through its control socket, [`Client`] asks.
//! - [`exits`] are the statistics of its processors.
//! - [`keeper`] starts machines for a switch, and again when they fail.
//!
//! Threads: one a processor; one a network device, which keeps its link; one for the control socket and one for each
//! connection to it; the main thread, which decides. Events reach the main thread through one channel.

mod board;
mod client;
mod console;
mod control;
pub mod exits;
pub mod keeper;
mod life;
mod machine_process;
mod platform;
pub mod protocol;
mod vcpu;

pub use client::{Client, ClientError};
pub use life::{End, EndKind};
pub use machine_process::{check, run};
