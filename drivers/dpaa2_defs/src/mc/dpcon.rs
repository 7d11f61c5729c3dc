//! Commands of DPCON objects: channels that many frame queues feed, with priorities.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpcon_cmd.h; DPDK, drivers/bus/fslmc/mc/fsl_dpcon_cmd.h. Enable, disable, reset and
//! irq: [`super::common`].

use zerocopy::little_endian::{U16, U32, U64};

use super::common::Created;

object_commands!(DPCON, open 0x808, destroy 0x988, version 0xa08);

layout! {
    /// Creates a channel. With the token of its container.
    pub struct Create: 1 {
        /// Number of its priorities: 2 or 8.
        priorities: u8 => 0,
    }
}
command!(Create, "create", 0x908, v 1, Created);

layout! {
    /// Asks what the object is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 1, Attributes);

layout! {
    /// What the object is.
    pub struct Attributes: 8 {
        /// Number of the object.
        id: U32 => 0,
        /// The channel's number in hardware: what volatile dequeues and notification commands name.
        channel_id: U16 => 4,
        /// Number of its priorities.
        priorities: u8 => 6,
        reserved7: u8 => 7,
    }
}

layout! {
    /// Has a portal told when a frame arrives on the channel.
    pub struct SetNotification: 16 {
        /// Number of the DPIO, [`SetNotification::NO_DPIO`] to end it.
        dpio_id: U32 => 0,
        /// Priority of the notification in the portal's own channel.
        priority: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// The user's own value, in the notification.
        context: U64 => 8,
    }
}
command!(SetNotification, "set notification", 0x100, v 1, ());

impl SetNotification {
    /// Nobody is told.
    pub const NO_DPIO: u32 = u32::MAX;
}
