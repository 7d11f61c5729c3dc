//! The boundary between the worker and whatever moves frames: [`RxQueue`] and [`TxQueue`].
//!
//! A port is a set of queues. Receive and transmit queues are separate objects, because a worker holds a
//! burst borrowed from one while it sends on another. A call is made per burst, never per frame.
//!
//! # Life of a burst
//!
//! ```text
//! receive(&mut burst)            frames lie in the sender's buffers, borrowed
//!   ... parse, look up, act ...  on the burst's own scratch heads
//!   other.transmit(selection)    the receiver's buffers get their copy
//! release(&mut burst)            the sender has its buffers back
//! ```
//!
//! [`Received`] ties the two ends together: it borrows both the queue and the burst, and releases on drop, so
//! no frame outlives its burst.
//!
//! # A new kind of port
//!
//! Implement the two traits, count with [`PortCounters`] (once per burst), report what a peer broke as a
//! [`QueueFault`] and never panic on what a peer wrote.

mod counters;
mod inject;
mod queue;
mod wire;

pub use counters::{Counter, DropReason, PortCounters};
pub use inject::InjectRx;
pub use queue::{Accepts, Armed, PortId, QueueFault, Received, RxQueue, Selection, TxQueue};
pub use wire::{Wire, WireFrame, WireRx, WireTx};
