//! Commands of DPCI objects: message queues between two owners.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpci_cmd.h; DPDK, drivers/bus/fslmc/mc/fsl_dpci_cmd.h. Enable, disable, reset and
//! irq: [`super::common`].

use zerocopy::little_endian::{U32, U64};

use super::common::Created;
use super::dpni::{OrderRestoration, OrderRestorationRecord};

object_commands!(DPCI, open 0x807, destroy 0x987, version 0xa07);

/// Events of the object's interrupt 0.
pub mod event {
    /// The peer was enabled or disabled.
    pub const LINK_CHANGED: u32 = 1;
    /// It was connected to a peer.
    pub const CONNECTED: u32 = 2;
    /// It lost its peer.
    pub const DISCONNECTED: u32 = 4;
}

/// Bits of [`SetRxQueue::options`]. The same in DPSECI and DPDMAI but for the last.
pub mod queue_option {
    /// The user context counts.
    pub const USER_CONTEXT: u32 = 1;
    /// The destination counts.
    pub const DESTINATION: u32 = 2;
    /// The queue holds its order until a frame is done with.
    pub const HOLD_ACTIVE: u32 = 4;
}

layout! {
    /// Creates an object. With the token of its container.
    pub struct Create: 20 {
        /// Number of its priorities, 1 to 4.
        priorities: u8 => 0,
        reserved1: [u8; 15] => 1,
        /// Options (version 2).
        options: U32 => 16,
    }
}
command!(Create, "create", 0x907, v 2, Created);

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
        reserved4: [u8; 2] => 4,
        /// Number of its priorities.
        priorities: u8 => 6,
        reserved7: u8 => 7,
    }
}

layout! {
    /// Says where what arrives on a queue goes.
    pub struct SetRxQueue: 20 {
        /// Number of the destination.
        destination_id: U32 => 0,
        /// Priority there.
        destination_priority: u8 => 4,
        /// Which queue, 0xff for all.
        queue: u8 => 5,
        /// A [`super::dpni::Destination`] in bits 3:0; bit 4: hold its order.
        destination_type: u8 => 6,
        reserved7: u8 => 7,
        /// The user's own value, with each frame.
        user_context: U64 => 8,
        /// See [`queue_option`].
        options: U32 => 16,
    }
}
command!(SetRxQueue, "set rx queue", 0x0e0, v 1, ());

layout! {
    /// Asks whether both ends are enabled.
    pub struct GetLinkState: 0 {}
}
command!(GetLinkState, "get link state", 0x0e1, v 1, super::common::Enabled);

layout! {
    /// Asks who is at the other end.
    pub struct GetPeerAttributes: 0 {}
}
command!(GetPeerAttributes, "get peer attributes", 0x0e2, v 1, PeerAttributes);

layout! {
    /// Who is at the other end.
    pub struct PeerAttributes: 9 {
        /// Number of the other DPCI, 0xffff_ffff for none.
        peer_id: U32 => 0,
        reserved4: [u8; 4] => 4,
        /// Number of its priorities.
        priorities: u8 => 8,
    }
}

layout! {
    /// Asks for a receive queue.
    pub struct GetRxQueue: 6 {
        reserved0: [u8; 5] => 0,
        /// Which.
        queue: u8 => 5,
    }
}
command!(GetRxQueue, "get rx queue", 0x0e3, v 1, RxQueue);

layout! {
    /// A receive queue.
    pub struct RxQueue: 20 {
        /// Number of the destination.
        destination_id: U32 => 0,
        /// Priority there.
        destination_priority: u8 => 4,
        reserved5: u8 => 5,
        /// A [`super::dpni::Destination`] in bits 3:0.
        destination_type: u8 => 6,
        reserved7: u8 => 7,
        /// The user's own value.
        user_context: U64 => 8,
        /// Number of the frame queue.
        fqid: U32 => 16,
    }
}

layout! {
    /// Asks for a transmit queue.
    pub struct GetTxQueue: 6 {
        reserved0: [u8; 5] => 0,
        /// Which.
        queue: u8 => 5,
    }
}
command!(GetTxQueue, "get tx queue", 0x0e4, v 1, TxQueue);

layout! {
    /// A transmit queue: a receive queue of the peer.
    pub struct TxQueue: 8 {
        reserved0: [u8; 4] => 0,
        /// Number of the frame queue, 0xffff_ffff when not connected.
        fqid: U32 => 4,
    }
}

layout! {
    /// Creates, assigns or ends an order restoration record.
    pub struct SetOrderRestoration: 16 {
        reserved0: [u8; 2] => 0,
        /// Which queue.
        index: u8 => 2,
        /// Bits 1 create, 2 retire, 4 assign.
        options: u8 => 3,
        reserved4: [u8; 7] => 4,
        /// How it restores.
        record: OrderRestoration => 11,
    }
}
command!(SetOrderRestoration, "set order-restoration record", 0x0e5, v 1, ());

layout! {
    /// Asks for an order restoration record.
    pub struct GetOrderRestoration: 3 {
        reserved0: [u8; 2] => 0,
        /// Which queue.
        index: u8 => 2,
    }
}
command!(GetOrderRestoration, "get order-restoration record", 0x0e6, v 1, OrderRestorationRecord);
