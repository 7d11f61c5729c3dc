//! Commands of DPBP objects: buffer pools.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpbp_cmd.h; DPDK, drivers/bus/fslmc/mc/fsl_dpbp_cmd.h. Enable, disable, reset and
//! irq: [`super::common`].

use zerocopy::little_endian::{U16, U32, U64};

use super::common::Created;

object_commands!(DPBP, open 0x804, destroy 0x984, version 0xa04);

layout! {
    /// Creates a pool. With the token of its container.
    pub struct Create: 0 {}
}
command!(Create, "create", 0x904, v 1, Created);

layout! {
    /// Asks what the object is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 1, Attributes);

layout! {
    /// What the object is.
    pub struct Attributes: 8 {
        reserved0: U16 => 0,
        /// The pool's number in hardware: in frame descriptors, for acquire and release.
        bpid: U16 => 2,
        /// Number of the object.
        id: U32 => 4,
    }
}

layout! {
    /// Thresholds at which the pool's state is written to memory.
    pub struct SetNotifications: 40 {
        /// Few buffers: begins below this many free ones; 0 for never.
        depletion_entry: U32 => 0,
        /// Few buffers: ends above this many.
        depletion_exit: U32 => 4,
        /// Many buffers: begins above this many.
        surplus_entry: U32 => 8,
        /// Many buffers: ends below this many.
        surplus_exit: U32 => 12,
        /// See [`notification_option`].
        options: U32 => 16,
        reserved20: U32 => 20,
        /// The user's own value, in the message.
        context: U64 => 24,
        /// Where the message goes, an IOVA.
        message_iova: U64 => 32,
    }
}
command!(SetNotifications, "set notifications", 0x1b0, v 2, ());

layout! {
    /// Asks for the thresholds. The answer has the fields of what set them.
    pub struct GetNotifications: 0 {}
}
command!(GetNotifications, "get notifications", 0x1b1, v 2, SetNotifications);

/// Bits of [`SetNotifications::options`].
pub mod notification_option {
    /// The write is coherent with caches.
    pub const COHERENT_WRITE: u32 = 0x1;
    /// The packet processor is told.
    pub const TO_WRIOP: u32 = 0x1_0000;
    /// The offload engine is told.
    pub const TO_AIOP: u32 = 0x2_0000;
}

layout! {
    /// Asks how many buffers are in the pool.
    pub struct GetFreeBuffers: 0 {}
}
command!(GetFreeBuffers, "get number of free buffers", 0x1b2, v 1, FreeBuffers);

layout! {
    /// How many buffers are in the pool.
    pub struct FreeBuffers: 4 {
        /// The number.
        count: U32 => 0,
    }
}
