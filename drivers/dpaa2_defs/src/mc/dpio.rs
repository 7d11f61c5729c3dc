//! Commands of DPIO objects: software portals of the queue and buffer managers (QBMan).
//!
//! Source: MC API 10.40, include/dplib/fsl_dpio_cmd.h; DPDK, drivers/bus/fslmc/mc/fsl_dpio_cmd.h. Enable, disable, reset and
//! irq: [`super::common`].

use zerocopy::little_endian::{U16, U32, U64};

use super::common::Created;

object_commands!(DPIO, open 0x803, destroy 0x983, version 0xa03);

open_enum! {
    /// Whether a portal has a channel of its own, to be notified on.
    pub enum ChannelMode: u8 {
        /// It hasn't.
        NONE = 0 "none",
        /// It has: static dequeue source 0.
        LOCAL = 1 "local channel",
    }
}

layout! {
    /// Creates a portal object. With the token of its container.
    pub struct Create: 5 {
        reserved0: [u8; 2] => 0,
        /// A [`ChannelMode`] in bits 1:0.
        channel_mode: u8 => 2,
        reserved3: u8 => 3,
        /// Priorities of the channel, 1 to 8.
        priorities: u8 => 4,
    }
}
command!(Create, "create", 0x903, v 1, Created);

layout! {
    /// Asks what the object is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 1, Attributes);

layout! {
    /// What the object is.
    pub struct Attributes: 36 {
        /// Number of the object.
        id: U32 => 0,
        /// Index of the software portal in hardware.
        portal_id: U16 => 4,
        /// Priorities of its channel.
        priorities: u8 => 6,
        /// A [`ChannelMode`] in bits 3:0.
        channel_mode: u8 => 7,
        /// Offset of the cache-enabled window in the portals' physical space.
        cena_offset: U64 => 8,
        /// Offset of the cache-inhibited window in the portals' physical space.
        cinh_offset: U64 => 16,
        /// Version of the hardware: see [`qbman_version`].
        qbman_version: U32 => 24,
        reserved28: U32 => 28,
        /// Clock of the hardware in Hz.
        qbman_clock: U32 => 32,
    }
}

/// Versions of QBMan, compared without their lower 16 bits.
pub mod qbman_version {
    /// What of the number is compared.
    pub const MASK: u32 = 0xffff_0000;
    /// Direct portals, dequeue ring of 4.
    pub const V4_0: u32 = 0x0400_0000;
    /// Direct portals, dequeue ring of 8: LS2088A, LS1088A.
    pub const V4_1: u32 = 0x0401_0000;
    /// Memory-backed portals: LX2160A.
    pub const V5_0: u32 = 0x0500_0000;
}

layout! {
    /// Says which cluster's cache the portal writes into. A hint.
    pub struct SetStashingDestination: 1 {
        /// First number of the chip, plus processor divided by processors per cluster.
        destination: u8 => 0,
    }
}
command!(SetStashingDestination, "set stashing destination", 0x120, v 1, ());

layout! {
    /// Asks which cluster's cache the portal writes into.
    pub struct GetStashingDestination: 0 {}
}
command!(GetStashingDestination, "get stashing destination", 0x121, v 1, StashingDestination);

layout! {
    /// Which cluster's cache the portal writes into.
    pub struct StashingDestination: 1 {
        /// See [`SetStashingDestination::destination`].
        destination: u8 => 0,
    }
}

layout! {
    /// Lets the portal dequeue by itself from a DPCON's channel.
    pub struct AddStaticDequeueChannel: 4 {
        /// Number of the DPCON.
        dpcon_id: U32 => 0,
    }
}
command!(AddStaticDequeueChannel, "add static dequeue channel", 0x122, v 1, StaticDequeueChannel);

layout! {
    /// Where the channel is found in the portal.
    pub struct StaticDequeueChannel: 1 {
        /// Its bit among the sources of the static dequeue command register (SDQCR).
        channel_index: u8 => 0,
    }
}

layout! {
    /// Ends what [`AddStaticDequeueChannel`] began.
    pub struct RemoveStaticDequeueChannel: 4 {
        /// Number of the DPCON.
        dpcon_id: U32 => 0,
    }
}
command!(RemoveStaticDequeueChannel, "remove static dequeue channel", 0x123, v 1, ());

layout! {
    /// Says where the stashing destination comes from. Newer firmware only.
    pub struct SetStashingSource: 1 {
        /// The source.
        source: u8 => 0,
    }
}
command!(SetStashingSource, "set stash destination source", 0x124, v 1, ());

layout! {
    /// Asks where the stashing destination comes from. Newer firmware only.
    pub struct GetStashingSource: 0 {}
}
command!(GetStashingSource, "get stash destination source", 0x125, v 1, StashingSource);

layout! {
    /// Where the stashing destination comes from.
    pub struct StashingSource: 1 {
        /// The source.
        source: u8 => 0,
    }
}

layout! {
    /// Says into which processor's cache the portal writes. Newer firmware only.
    pub struct SetStashingDestinationByCore: 1 {
        /// Number of the processor.
        core_id: u8 => 0,
    }
}
command!(SetStashingDestinationByCore, "set stash destination by core", 0x126, v 1, ());
