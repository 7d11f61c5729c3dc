//! A switch port on DPAA2: a network interface (DPNI) of a Layerscape chip, driven from user space.
//!
//! [`Dpaa2::open`] takes over a container of objects on a bus, for workers on given cores; [`Dpaa2::pool`] fills buffer pools;
//! [`Dpaa2::open_port`] configures an interface and enables it. Its queues go to the workers, a
//! [`Dpaa2Handle`] stays with control for what is asked and changed later.
//!
//! ```no_run
//! # fn example<B: fslmc_bus::Bus>(bus: B) -> Result<(), dpaa2_port::Dpaa2Error> {
//! use dpaa2_port::{Dpaa2, PortConfig};
//!
//! let hardware = Dpaa2::open(bus, &[2, 3])?;
//! let port = hardware.open_port(&PortConfig::new(1, 1))?;
//! let handle = port.handle();
//! let queues = port.into_queues();
//! println!("{:?}: {} and {} queues", handle.status()?, queues.rx.len(), queues.tx.len());
//! # Ok(()) }
//! ```
//!
//! # What it takes of a container
//!
//! | objects | for |
//! |---|---|
//! | 1 dpmcp | all commands |
//! | 1 dpio for each worker, 1 for control | a portal has one user: the thread of its worker, whose queues take turns on it (`worker_portal`) |
//! | 1 dpcon for each receive queue (if there are any) | idle sleep; without one the queue is polled, and its worker never sleeps |
//! | 1 dpbp for each pool | a pool may serve several ports; a port can have its own for what it sends |
//!
//! # How frames move
//!
//! - **Receive**: on each portal a volatile dequeue of up to 32 frames (16 before QBMan 5.0) is always under way, for the
//!   queue that is polled next; a poll looks at the memory it writes to and asks for the next. See `rx`.
//! - **Transmit**: one burst into the enqueue ring, one doorbell. A frame that came from an interface of the same
//!   container and goes nowhere else is not copied: its descriptor moves, with what the rules wrote into its head. It is
//!   copied after all when its buffer has no room for a longer head, as that of a frame over several buffers. See `tx`.
//! - **Buffers** come from hardware pools and go back there: by hardware when a frame was sent, by the receive queue,
//!   seven at a time, when a frame was copied. Whatever happens to a frame, its buffer has one holder.
//!
//! # Damaged frames
//!
//! All errors hardware finds are marked and received; damaged frames are dropped here (`rx-error`) and every error is
//! counted by its kind in [`Dpaa2Handle::statistics`]. With [`PortConfig::checksums`] that includes wrong checksums: hardware
//! then writes the checksums of all frames it sends, and would make a wrong one look right.
//!
//! UNSAFETY: buffers lie in DMA memory that hardware writes; frames are lent to bursts and filled in through raw
//! pointers (`buffers`, `rx`, `tx`).
#![allow(unsafe_code)]

mod buffers;
mod channel;
mod counters;
mod error;
mod handle;
mod hardware;
mod io;
mod matches;
mod open;
mod places;
mod port;
mod returns;
mod rx;
mod steering;
mod tx;
mod worker_portal;

pub use error::Dpaa2Error;
pub use handle::{Dpaa2Handle, Dpaa2Status, LinkStatus};
pub use hardware::{Dpaa2, PoolAccount, PoolConfig};
pub use matches::{Classification, NotInHardware, class_table};
pub use open::{Dpaa2Port, Dpaa2Queues, PoolUse, PortConfig, RxClass, TxRate, TxShare};
pub use steering::{ClassEntry, ClassTable, FlowEntry, FlowTable, Match, Miss};

#[doc(no_inline)]
pub use dpaa2_defs::classify;
