//! A page of guest memory in which guest and monitor leave each other words. Both sides compile this file.
//!
//! The guest stores its counters there on every turn, the monitor reads them whenever it likes: neither leaves what
//! it is doing for that. Each field has one writer.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// First word of a mailbox that its guest has found.
pub const MAGIC: u32 = 0x676d_7772;

/// The page.
#[repr(C)]
pub struct Mailbox {
    /// [`MAGIC`] when the guest has come up. Written by the guest.
    pub magic: AtomicU32,
    /// [`RUN`] or [`FINISH`]. Written by the monitor.
    pub request: AtomicU32,
    /// Frames sent. Written by the guest, as all that follow.
    pub sent: AtomicU64,
    /// Frames received.
    pub received: AtomicU64,
    /// Frames that were numbered and are missing.
    pub lost: AtomicU64,
    /// Frames that were numbered and came twice or out of order.
    pub disordered: AtomicU64,
    /// Frames of nobody's numbering.
    pub foreign: AtomicU64,
    /// Turns of the poll loop.
    pub turns: AtomicU64,
    /// Doorbells rung.
    pub kicks: AtomicU64,
    /// Bytes of added memory that frames are sent from.
    pub moved: AtomicU64,
    /// First address of memory that was added last. Written by the monitor, before the following.
    pub added: AtomicU64,
    /// Its bytes; 0 while there is none. Written by the monitor.
    pub added_bytes: AtomicU64,
}

/// Go on.
pub const RUN: u32 = 0;
/// Send nothing more, wait for what is under way, report and power off.
pub const FINISH: u32 = 1;

const _: () = assert!(size_of::<Mailbox>() == 88);
