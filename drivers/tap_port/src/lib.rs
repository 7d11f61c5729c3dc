//! A switch port on a TAP device: the way to the host's own network stack, and to containers.
//!
//! [`TapPort::open`] creates a device, or attaches to one that is there, in this network namespace or in a named
//! one; [`TapPort::into_queues`] gives its queue pairs to the workers; a [`TapHandle`] stays with control for
//! what is asked and changed later. A device that Ringway created is gone when the last of these is dropped,
//! unless it was made persistent.
//!
//! ```no_run
//! use tap_port::{TapConfig, TapPort};
//!
//! let tap = TapPort::open(TapConfig { mtu: Some(9000), queues: 2, ..TapConfig::new("rw0") })?;
//! let handle = tap.handle();
//! let queues = tap.into_queues();
//! assert_eq!(queues.len(), 2);
//! println!("{:?}", handle.status()?);
//! # Ok::<(), tap_port::TapError>(())
//! ```
//!
//! # How frames move
//!
//! Each queue has an io_uring of its own. Nothing in it waits in the kernel but one readiness poll:
//!
//! - A receive queue enters the kernel only after that poll has fired. One entry then carries up to 32 reads and
//!   the next poll, so a burst costs one system call and an idle queue none.
//! - A transmit queue copies frames into its own memory and submits all of a turn's writes in one entry, at
//!   `flush`.
//!
//! Order is kept because every request says `RWF_NOWAIT`: io_uring then tries it at once, in the order of
//! submission, and answers `EAGAIN` instead of parking it behind a poll or handing it to a kernel thread
//! (`io_rw_init_file`, `io_read` and `io_write` in Linux' `io_uring/rw.c`). Reads left waiting in numbers were
//! rejected: each is a waiter of its own on the device, so one frame wakes them all; and one that
//! is left behind takes a frame from whoever goes on with the queue. TAP devices know `RWF_NOWAIT` since Linux
//! 6.4. Before, a queue reads one frame a call, after the poll has promised it.
//!
//! # Offloads
//!
//! The device is given a 12-byte virtio-net header per frame. What the **kernel sends us** depends on
//! `TUNSETOFFLOAD`: checksums left open and TCP segments of up to 64 KiB, if [`TapStatus::offloads`] says so.
//! What **we send the kernel** depends on nothing: it completes and segments whatever a header asks for, hence
//! `accepts` of a transmit queue is always everything.
//!
//! UNSAFETY: requests given to io_uring name memory that must stay where it is until they are completed; `rx`
//! and `tx` own that memory, and leak it rather than unmap it under a request. `sys` makes the ioctls that std and rustix don't know.
#![allow(unsafe_code)]

mod config;
mod device;
mod header;
mod ring;
mod rx;
mod sys;
mod tx;

pub use config::{TapConfig, TapError};
pub use device::{KernelCounters, TapFds, TapHandle, TapPort, TapStatus};
