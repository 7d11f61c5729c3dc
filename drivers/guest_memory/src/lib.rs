//! Memory that somebody else may write, or take away, at any time.
//!
//! - [`MemMap`]: a guest's memory table, made from the file descriptors of a vhost-user front-end. Immutable and
//!   shared as an `Arc`; a change makes a new one that shares what stays.
//! - [`RegionCache`]: the region hit last, kept by each queue, for the fast path.
//! - [`DirtyLog`]: the bitmap of written pages a front-end reads during a live migration.
//! - [`SharedMemory`]: memory of our own that is shared with others (the driver side of a ring, in-flight records).
//!
//! What is here translates addresses and promises that the result stays mapped as long as the owner lives. It
//! says nothing of the contents: those are read once, with volatile or atomic accesses or by `packet::copy`,
//! into a local that is then judged. There is no `&[u8]` over any of it.
//!
//! # When the memory goes away
//!
//! Whoever holds the file descriptor can shorten the file; touching a page past the new end raises SIGBUS. The
//! first mapping installs a handler which puts zero pages in place of the whole mapping and notes it, so the access
//! goes on and [`MemMap::faulted`] says so afterwards, once per burst. Accesses elsewhere go to the
//! handler that was installed before.
//!
//! UNSAFETY: maps memory, installs a signal handler and hands out raw pointers into the mappings.
#![allow(unsafe_code)]

mod dirty_log;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod mapping;
mod mem_map;
mod shared;
mod sigbus;

pub use dirty_log::DirtyLog;
pub use mapping::{MapError, Mapping};
pub use mem_map::{MemMap, REGIONS_MAX, RegionCache, RegionSpec, TableError};
pub use shared::SharedMemory;
