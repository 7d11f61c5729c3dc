//! Virtqueues, split and packed, over shared memory: the device side as queues of a switch port, and the
//! [driver side](driver).
//!
//! - [`VirtioRx`] takes frames from the ring on which the guest transmits ([`port::RxQueue`]).
//! - [`VirtioTx`] puts frames into the ring on which the guest receives ([`port::TxQueue`]).
//! - [`RequestQueue`] is the device side of a queue that asks for something, such as a control queue.
//! - All are made from a [`RingConfig`] and an `Arc<MemMap>`, and give the former back when they stop.
//! - [`RingError`] has a variant for each way in which a guest can break a ring. It reaches the worker as a
//!   [`port::QueueFault`]; the queue does nothing more.
//!
//! # What a burst costs the guest's cache lines
//!
//! Descriptors are read and prefetched for all frames of a burst before any is copied; one index is published per
//! burst and one decision about an interrupt made. While a queue is polled, the ring says that no kick is wanted.
//!
//! # Hostile guests
//!
//! Everything a guest writes is read once into a local, with volatile or atomic accesses, and only that local is
//! judged and used. Walks are bounded ([`CHAIN_MAX`]). A descriptor that breaks the specification is a
//! fault; a chain that merely holds no valid frame is a dropped frame.
//!
//! UNSAFETY: follows pointers into guest memory, each checked against the memory table held beside it.
#![allow(unsafe_code)]

mod chain;
mod config;
mod core;
pub mod driver;
mod error;
mod event;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod inflight;
mod net_header;
mod packed;
mod packed_scan;
mod request;
mod ring;
mod rx;
mod split;
mod tx;

pub use chain::CHAIN_MAX;
pub use config::RingConfig;
pub use error::RingError;
pub use event::EventFd;
pub use inflight::{InflightError, InflightQueue, InflightRegion};
pub use net_header::FRAME_MAX;
pub use request::{Request, RequestQueue};
pub use rx::VirtioRx;
pub use tx::VirtioTx;
