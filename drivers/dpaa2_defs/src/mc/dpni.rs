//! Commands of DPNI objects: network interfaces.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpni_cmd.h and fsl_dpni.h; DPDK, drivers/net/dpaa2/mc/fsl_dpni_cmd.h; Linux,
//! drivers/net/ethernet/freescale/dpaa2/dpni-cmd.h. Enable, disable, reset and irq: [`super::common`]. MACsec commands
//! (0x2a0 to 0x2b5) aren't here.
//!
//! A **queue** is named by its type, traffic class, index and (for transmission) channel. Addresses given to the MC are
//! IOVAs; it reads or writes what is there while the command runs, and not later. What is in that memory is declared in
//! [`crate::classify`].

use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::common::{Created, Enabled};

object_commands!(DPNI, open 0x801, destroy 0x981, version 0xa01);

/// Most buffer pools an interface can have.
pub const POOLS_MAX: usize = 8;
/// Most receive traffic classes.
pub const RX_TCS_MAX: usize = 8;
/// Most transmit traffic classes.
pub const TX_TCS_MAX: usize = 16;
/// Longest classification key in bytes.
pub const KEY_LEN_MAX: usize = 56;

/// How an interface was created: bits of [`Attributes::options`] and [`Create::options`].
pub mod option {
    /// Transmitted buffers always go to a pool; there are no transmit confirmations.
    pub const TX_FRM_RELEASE: u32 = 0x000001;
    /// No table of addresses: without promiscuous mode only the primary one is received.
    pub const NO_MAC_FILTER: u32 = 0x000002;
    /// Receive traffic classes have policers.
    pub const HAS_POLICING: u32 = 0x000004;
    /// One congestion group for all traffic classes.
    pub const SHARED_CONGESTION: u32 = 0x000008;
    /// Classification tables have masks and an order; without it entries match exactly.
    pub const HAS_KEY_MASKING: u32 = 0x000010;
    /// No flow steering.
    pub const NO_FS: u32 = 0x000020;
    /// Order restoration.
    pub const HAS_OPR: u32 = 0x000040;
    /// One order restoration record for each traffic class.
    pub const OPR_PER_TC: u32 = 0x000080;
    /// One transmit queue for each traffic class, whatever the number of queues.
    pub const SINGLE_SENDER: u32 = 0x000100;
    /// Software assigns congestion groups to queues.
    pub const CUSTOM_CG: u32 = 0x000200;
    /// Software assigns order restoration records.
    pub const CUSTOM_OPR: u32 = 0x000400;
    /// One hash key for all traffic classes.
    pub const SHARED_HASH_KEY: u32 = 0x000800;
    /// One flow steering table for all traffic classes.
    pub const SHARED_FS: u32 = 0x001000;
    /// Nothing is stashed.
    pub const STASHING_DIS: u32 = 0x002000;
    /// Frames can be replicated.
    pub const HAS_REPLICATION: u32 = 0x004000;

    /// The options with the names restool gives them.
    pub const NAMES: [(u32, &str); 15] = [
        (TX_FRM_RELEASE, "DPNI_OPT_TX_FRM_RELEASE"),
        (NO_MAC_FILTER, "DPNI_OPT_NO_MAC_FILTER"),
        (HAS_POLICING, "DPNI_OPT_HAS_POLICING"),
        (SHARED_CONGESTION, "DPNI_OPT_SHARED_CONGESTION"),
        (HAS_KEY_MASKING, "DPNI_OPT_HAS_KEY_MASKING"),
        (NO_FS, "DPNI_OPT_NO_FS"),
        (HAS_OPR, "DPNI_OPT_HAS_OPR"),
        (OPR_PER_TC, "DPNI_OPT_OPR_PER_TC"),
        (SINGLE_SENDER, "DPNI_OPT_SINGLE_SENDER"),
        (CUSTOM_CG, "DPNI_OPT_CUSTOM_CG"),
        (CUSTOM_OPR, "DPNI_OPT_CUSTOM_OPR"),
        (SHARED_HASH_KEY, "DPNI_OPT_SHARED_HASH_KEY"),
        (SHARED_FS, "DPNI_OPT_SHARED_FS"),
        (STASHING_DIS, "DPNI_OPT_STASHING_DIS"),
        (HAS_REPLICATION, "DPNI_OPT_HAS_REPLICATION"),
    ];
}

/// Events of the object's interrupt 0.
pub mod event {
    /// The link went up or down.
    pub const LINK_CHANGED: u32 = 0x1;
    /// It was connected or disconnected.
    pub const ENDPOINT_CHANGED: u32 = 0x2;
}

open_enum! {
    /// What a queue is for.
    pub enum QueueType: u8 {
        /// Received frames.
        RX = 0 "rx",
        /// Frames to transmit.
        TX = 1 "tx",
        /// Transmitted frames come back on it.
        TX_CONFIRM = 2 "tx-confirm",
        /// Received frames with errors.
        RX_ERROR = 3 "rx-error",
    }
}

open_enum! {
    /// Where frames of a queue go, in dpni, dpci, dpseci and dpdmai commands.
    pub enum Destination: u8 {
        /// Nowhere: the queue is parked, and asked by volatile dequeues.
        NONE = 0 "none",
        /// A DPIO is notified.
        DPIO = 1 "dpio",
        /// The channel of a DPCON.
        DPCON = 2 "dpcon",
    }
}

open_enum! {
    /// What a threshold counts.
    pub enum Units: u8 {
        /// Bytes.
        BYTES = 0 "bytes",
        /// Frames.
        FRAMES = 1 "frames",
    }
}

open_enum! {
    /// What a threshold is about.
    pub enum CongestionPoint: u8 {
        /// One queue.
        QUEUE = 0 "queue",
        /// A traffic class, or the interface with [`option::SHARED_CONGESTION`].
        GROUP = 1 "group",
        /// A congestion group that software assigned.
        CONGESTION_GROUP = 2 "congestion group",
    }
}

open_enum! {
    /// What hardware does to frames: [`SetOffload`].
    pub enum Offload: u8 {
        /// Checks IP header checksums.
        RX_L3_CHECKSUM = 0 "rx-l3-checksum",
        /// Checks TCP and UDP checksums.
        RX_L4_CHECKSUM = 1 "rx-l4-checksum",
        /// Writes IP header checksums.
        TX_L3_CHECKSUM = 2 "tx-l3-checksum",
        /// Writes TCP and UDP checksums.
        TX_L4_CHECKSUM = 3 "tx-l4-checksum",
        /// Puts the distribution hash into the frame descriptor's flow context.
        FLC_HASH = 4 "flow-context-hash",
        /// Stashes headers.
        HEADER_STASHING = 5 "header-stashing",
        /// Stashes payload.
        PAYLOAD_STASHING = 6 "payload-stashing",
    }
}

open_enum! {
    /// How transmitted frames are confirmed.
    pub enum ConfirmationMode: u8 {
        /// To a queue for each transmit queue.
        AFFINE = 0 "affine",
        /// All to one queue.
        SINGLE = 1 "single",
        /// Not: hardware releases their buffers.
        DISABLED = 2 "disabled",
    }
}

open_enum! {
    /// What is done with frames that have an error.
    pub enum ErrorAction: u8 {
        /// They are dropped.
        DISCARD = 0 "discard",
        /// They are received like others.
        CONTINUE = 1 "continue",
        /// They go to the error queue.
        ERROR_QUEUE = 2 "error queue",
    }
}

/// When and how congestion is told: `mode` in congestion commands of dpni, dpseci and dpdmai.
pub mod congestion_mode {
    /// Write the message when it begins.
    pub const WRITE_ON_ENTER: u16 = 0x01;
    /// Write the message when it ends.
    pub const WRITE_ON_EXIT: u16 = 0x02;
    /// The write is coherent with caches.
    pub const COHERENT_WRITE: u16 = 0x04;
    /// Notify the destination when it begins.
    pub const NOTIFY_ON_ENTER: u16 = 0x08;
    /// Notify the destination when it ends.
    pub const NOTIFY_ON_EXIT: u16 = 0x10;
    /// Interrupts aren't coalesced.
    pub const NO_COALESCING: u16 = 0x20;
    /// Send pause frames.
    pub const FLOW_CONTROL: u16 = 0x40;
}

/// Properties of a link.
pub mod link_option {
    /// Negotiated.
    pub const AUTONEG: u64 = 0x01;
    /// One direction at a time.
    pub const HALF_DUPLEX: u64 = 0x02;
    /// Pause frames.
    pub const PAUSE: u64 = 0x04;
    /// Pause frames in one direction only.
    pub const ASYM_PAUSE: u64 = 0x08;
    /// Pause frames for each priority.
    pub const PFC: u64 = 0x10;
}

/// Rates a link supports or offers.
pub mod advertising {
    /// 10 Mbit/s.
    pub const RATE_10M: u64 = 0x01;
    /// 100 Mbit/s.
    pub const RATE_100M: u64 = 0x02;
    /// 1 Gbit/s.
    pub const RATE_1G: u64 = 0x04;
    /// Negotiation.
    pub const AUTONEG: u64 = 0x08;
    /// 10 Gbit/s.
    pub const RATE_10G: u64 = 0x10;
    /// 2.5 Gbit/s.
    pub const RATE_2_5G: u64 = 0x20;
    /// 5 Gbit/s.
    pub const RATE_5G: u64 = 0x40;
}

/// An Ethernet address as commands carry it: its last byte first.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// From an address in the order in which it is sent on the wire.
    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self([f, e, d, c, b, a])
    }

    /// The address in the order in which it is sent on the wire.
    pub const fn octets(self) -> [u8; 6] {
        Self::new(self.0).0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

layout! {
    /// Creates an interface. With the token of its container. Versions 7 and 8 have the same bytes.
    pub struct Create: 20 {
        /// See [`option`].
        options: U32 => 0,
        /// Queues of each traffic class.
        queues: u8 => 4,
        /// Traffic classes.
        tcs: u8 => 5,
        /// Addresses besides the primary one.
        mac_filter_entries: u8 => 6,
        /// Transmit channels.
        channels: u8 => 7,
        /// VLAN ids.
        vlan_filter_entries: u8 => 8,
        reserved9: u8 => 9,
        /// Entries of the QoS table.
        qos_entries: u8 => 10,
        reserved11: u8 => 11,
        /// Entries of each flow steering table.
        fs_entries: U16 => 12,
        /// Receive traffic classes, 0 for as many as `tcs`.
        rx_tcs: u8 => 14,
        reserved15: u8 => 15,
        /// Congestion groups.
        congestion_groups: u8 => 16,
        /// Order restoration records.
        order_records: U16 => 17,
        /// Length of distribution keys.
        distribution_key_size: u8 => 19,
    }
}
command!(Create, "create", 0x901, v 7 of 8, Created);

layout! {
    /// Asks what the interface is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 6, Attributes);

layout! {
    /// What the interface is.
    pub struct Attributes: 21 {
        /// See [`option`].
        options: U32 => 0,
        /// Queues of each traffic class.
        queues: u8 => 4,
        /// Receive traffic classes.
        rx_tcs: u8 => 5,
        /// Addresses besides the primary one.
        mac_filter_entries: u8 => 6,
        /// Transmit traffic classes.
        tx_tcs: u8 => 7,
        /// VLAN ids, 0 for no filter.
        vlan_filter_entries: u8 => 8,
        /// Transmit channels.
        channels: u8 => 9,
        /// Entries of the QoS table.
        qos_entries: u8 => 10,
        reserved11: u8 => 11,
        /// Entries of each flow steering table.
        fs_entries: U16 => 12,
        /// Order restoration records.
        order_records: U16 => 14,
        /// Longest key of the QoS table in bytes.
        qos_key_size: u8 => 16,
        /// Longest key of flow steering in bytes.
        fs_key_size: u8 => 17,
        /// Version of the packet processor: major in bits 15:10, minor in 9:5, patch in 4:0.
        wriop_version: U16 => 18,
        /// Congestion groups.
        congestion_groups: u8 => 20,
    }
}

layout! {
    /// A buffer pool of an interface.
    pub struct Pool: 4 {
        /// Number of the DPBP.
        dpbp_id: U16 => 0,
        /// Which traffic classes use it, or which queue indices: see [`SetPools::options`]. 0 for all.
        priority_mask: u8 => 2,
        reserved3: u8 => 3,
    }
}

layout! {
    /// Binds buffer pools to the interface. Only while it is disabled.
    ///
    /// Version 1 has numbers of 32 bits in place of the pools; read as this, they are pools for all traffic classes.
    pub struct SetPools: 52 {
        /// How many of the pools count.
        count: u8 => 0,
        /// Bit i: pool i is used when the others are empty.
        backup_mask: u8 => 1,
        reserved2: u8 => 2,
        /// Masks are of traffic classes (0) or of queue indices (1).
        options: u8 => 3,
        /// The pools.
        pools: [Pool; POOLS_MAX] => 4,
        /// Size of each pool's buffers in bytes.
        buffer_sizes: [U16; POOLS_MAX] => 36,
    }
}
command!(SetPools, "set pools", 0x200, v 3, ());

layout! {
    /// Says what to do with frames that have certain errors.
    pub struct SetErrorsBehavior: 5 {
        /// Which errors: bits of the frame annotation status.
        errors: U32 => 0,
        /// An [`ErrorAction`] in bits 3:0; bit 4: mark the error in the frame's annotation.
        flags: u8 => 4,
    }
}
command!(SetErrorsBehavior, "set errors behaviour", 0x20b, v 1, ());

impl SetErrorsBehavior {
    /// In `flags`: the frame's annotation says what is wrong.
    pub const MARK: u8 = 0x10;
}

layout! {
    /// Asks for a queueing destination.
    pub struct GetQdid: 1 {
        /// Of which kind of queues.
        queue_type: QueueType => 0,
    }
}
command!(GetQdid, "get qdid", 0x210, v 1, Qdid);

layout! {
    /// A queueing destination.
    pub struct Qdid: 2 {
        /// Its number.
        qdid: U16 => 0,
    }
}

layout! {
    /// Asks for storage profiles.
    pub struct GetStorageProfiles: 0 {}
}
command!(GetStorageProfiles, "get storage profile info", 0x211, v 1, StorageProfiles);

layout! {
    /// Storage profiles.
    pub struct StorageProfiles: 4 {
        /// Their numbers.
        spids: [U16; 2] => 0,
    }
}

layout! {
    /// Asks how many bytes there must be in front of data to transmit.
    pub struct GetTxDataOffset: 0 {}
}
command!(GetTxDataOffset, "get tx data offset", 0x212, v 1, TxDataOffset);

layout! {
    /// How many bytes there must be in front of data to transmit.
    pub struct TxDataOffset: 2 {
        /// In bytes.
        offset: U16 => 0,
    }
}

layout! {
    /// Asks whether there is a link.
    pub struct GetLinkState: 0 {}
}
command!(GetLinkState, "get link state", 0x215, v 2, LinkState);

layout! {
    /// The link.
    pub struct LinkState: 40 {
        reserved0: U32 => 0,
        /// Bit 0 up, bit 1 valid.
        flags: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// In Mbit/s.
        rate: U32 => 8,
        reserved12: U32 => 12,
        /// See [`link_option`].
        options: U64 => 16,
        /// See [`advertising`] (version 2).
        supported: U64 => 24,
        /// See [`advertising`] (version 2).
        advertising: U64 => 32,
    }
}

impl LinkState {
    /// In `flags`: frames pass.
    pub const UP: u8 = 0x1;
    /// In `flags`: the state is known.
    pub const VALID: u8 = 0x2;

    /// Whether frames pass.
    pub const fn is_up(&self) -> bool {
        self.flags & Self::UP != 0
    }
}

layout! {
    /// Sets the longest frame that is received.
    pub struct SetMaxFrameLength: 2 {
        /// In bytes, without the frame check sequence.
        length: U16 => 0,
    }
}
command!(SetMaxFrameLength, "set max frame length", 0x216, v 1, ());

layout! {
    /// Asks for the longest frame that is received.
    pub struct GetMaxFrameLength: 0 {}
}
command!(GetMaxFrameLength, "get max frame length", 0x217, v 1, MaxFrameLength);

layout! {
    /// The longest frame that is received.
    pub struct MaxFrameLength: 2 {
        /// In bytes, without the frame check sequence.
        length: U16 => 0,
    }
}

layout! {
    /// Says which link is wanted.
    pub struct SetLinkConfiguration: 32 {
        reserved0: [u8; 8] => 0,
        /// In Mbit/s.
        rate: U32 => 8,
        reserved12: U32 => 12,
        /// See [`link_option`].
        options: U64 => 16,
        /// See [`advertising`] (version 2).
        advertising: U64 => 24,
    }
}
command!(SetLinkConfiguration, "set link configuration", 0x21a, v 2, ());

layout! {
    /// Asks which link is wanted. The answer has the fields of what set it.
    pub struct GetLinkConfiguration: 0 {}
}
command!(GetLinkConfiguration, "get link configuration", 0x278, v 1, SetLinkConfiguration);

layout! {
    /// Limits the rate of transmission.
    pub struct SetTxShaping: 20 {
        /// In bytes.
        committed_burst: U16 => 0,
        /// In bytes.
        excess_burst: U16 => 2,
        reserved4: U32 => 4,
        /// In Mbit/s.
        committed_rate: U32 => 8,
        /// In Mbit/s.
        excess_rate: U32 => 12,
        /// Bit 0: both limits are coupled; bit 1: of the whole interface.
        options: u8 => 16,
        /// Of which channel.
        channel: u8 => 17,
        /// Bytes to add to each frame, 11 bits, 0 for 24.
        overhead: U16 => 18,
    }
}
command!(SetTxShaping, "set tx shaping", 0x21b, v 3, ());

impl SetTxShaping {
    /// In `options`: what the committed rate leaves goes to the excess rate.
    pub const COUPLED: u8 = 0x1;
    /// In `options`: of the whole interface, which must be connected to a MAC.
    pub const WHOLE_INTERFACE: u8 = 0x2;
}

layout! {
    /// Receives all group addresses, or not.
    pub struct SetMulticastPromiscuous: 1 {
        /// Bit 0.
        enable: u8 => 0,
    }
}
command!(SetMulticastPromiscuous, "set multicast promiscuous", 0x220, v 1, ());

layout! {
    /// Asks whether all group addresses are received.
    pub struct GetMulticastPromiscuous: 0 {}
}
command!(GetMulticastPromiscuous, "get multicast promiscuous", 0x221, v 1, Enabled);

layout! {
    /// Receives all unicast addresses, or not.
    pub struct SetUnicastPromiscuous: 1 {
        /// Bit 0.
        enable: u8 => 0,
    }
}
command!(SetUnicastPromiscuous, "set unicast promiscuous", 0x222, v 1, ());

layout! {
    /// Asks whether all unicast addresses are received.
    pub struct GetUnicastPromiscuous: 0 {}
}
command!(GetUnicastPromiscuous, "get unicast promiscuous", 0x223, v 1, Enabled);

layout! {
    /// Sets the interface's own address.
    pub struct SetPrimaryMac: 8 {
        reserved0: [u8; 2] => 0,
        /// The address.
        address: MacAddress => 2,
    }
}
command!(SetPrimaryMac, "set primary mac", 0x224, v 1, ());

layout! {
    /// Asks for the interface's own address.
    pub struct GetPrimaryMac: 0 {}
}
command!(GetPrimaryMac, "get primary mac", 0x225, v 1, MacAddressField);

layout! {
    /// An address.
    pub struct MacAddressField: 8 {
        reserved0: [u8; 2] => 0,
        /// The address.
        address: MacAddress => 2,
    }
}

layout! {
    /// Receives an address.
    pub struct AddMacFilter: 10 {
        /// Bit 0: frames with this address go to the queue below (version 2).
        flags: u8 => 0,
        reserved1: u8 => 1,
        /// The address.
        address: MacAddress => 2,
        /// Traffic class (version 2).
        tc: u8 => 8,
        /// Index of the queue in it (version 2).
        queue: u8 => 9,
    }
}
command!(AddMacFilter, "add mac filter", 0x226, v 2, ());

layout! {
    /// Ends what [`AddMacFilter`] began.
    pub struct RemoveMacFilter: 8 {
        reserved0: [u8; 2] => 0,
        /// The address.
        address: MacAddress => 2,
    }
}
command!(RemoveMacFilter, "remove mac filter", 0x227, v 1, ());

layout! {
    /// Removes all added addresses of a kind.
    pub struct ClearMacFilters: 1 {
        /// Bit 0 unicast, bit 1 multicast.
        flags: u8 => 0,
    }
}
command!(ClearMacFilters, "clear mac filters", 0x228, v 1, ());

layout! {
    /// Receives only the VLANs that were added, or all.
    pub struct EnableVlanFilter: 1 {
        /// Bit 0.
        enable: u8 => 0,
    }
}
command!(EnableVlanFilter, "enable vlan filter", 0x230, v 1, ());

layout! {
    /// Receives a VLAN.
    pub struct AddVlanId: 6 {
        /// Bit 0: its frames go to the queue below.
        flags: u8 => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Index of the queue in it.
        queue: u8 => 2,
        reserved3: u8 => 3,
        /// The VLAN.
        vlan_id: U16 => 4,
    }
}
command!(AddVlanId, "add vlan id", 0x231, v 2, ());

layout! {
    /// Ends what [`AddVlanId`] began.
    pub struct RemoveVlanId: 6 {
        reserved0: [u8; 4] => 0,
        /// The VLAN.
        vlan_id: U16 => 4,
    }
}
command!(RemoveVlanId, "remove vlan id", 0x232, v 1, ());

layout! {
    /// Removes all VLANs.
    pub struct ClearVlanFilters: 0 {}
}
command!(ClearVlanFilters, "clear vlan filters", 0x233, v 1, ());

layout! {
    /// Distributes a traffic class over queues, the old way: [`SetRxHashDistribution`] and [`SetRxFsDistribution`] replace
    /// it since version 7.5 of the commands.
    pub struct SetRxTcDistribution: 56 {
        /// Number of queues.
        size: U16 => 0,
        /// Traffic class.
        tc: u8 => 2,
        /// Bits 3:0: 0 none, 1 hash, 2 flow steering; bits 7:4, when no entry matches: 0 drop, 1 the queue below, 2 hash.
        modes: u8 => 3,
        reserved4: u8 => 4,
        /// Bit 7: keep the hash key; bit 6: keep the entries.
        keep: u8 => 5,
        /// Index of the queue for what matches nothing.
        default_queue: U16 => 6,
        reserved8: [u8; 40] => 8,
        /// Where the key's configuration is, an IOVA.
        key_config_iova: U64 => 48,
    }
}
command!(SetRxTcDistribution, "set rx tc distribution", 0x235, v 4, ());

layout! {
    /// Limits the rate of a receive traffic class. Also what [`GetRxTcPolicing`] answers, without `tc`.
    pub struct SetRxTcPolicing: 24 {
        /// Bits 3:0: 0 none, 1 pass through, 2 RFC 2698, 3 RFC 4115; bits 7:4, the colour at the start: 0 green, 1 yellow,
        /// 2 red.
        mode_and_colour: u8 => 0,
        /// Bits 3:0: 0 bytes of layer 3, 1 frames, 2 bytes of layer 2.
        units: u8 => 1,
        /// Traffic class.
        tc: u8 => 2,
        reserved3: u8 => 3,
        /// 1 colours that are there count, 2 drop red ones, 4 keep counters.
        options: U32 => 4,
        /// Committed information rate.
        cir: U32 => 8,
        /// Committed burst size.
        cbs: U32 => 12,
        /// Excess information rate.
        eir: U32 => 16,
        /// Excess burst size.
        ebs: U32 => 20,
    }
}
command!(SetRxTcPolicing, "set rx tc policing", 0x23e, v 1 of 2, ());

layout! {
    /// Asks for the limit of a receive traffic class.
    pub struct GetRxTcPolicing: 3 {
        reserved0: [u8; 2] => 0,
        /// Traffic class.
        tc: u8 => 2,
    }
}
command!(GetRxTcPolicing, "get rx tc policing", 0x251, v 1, SetRxTcPolicing);

layout! {
    /// Sets up the QoS table, which chooses the traffic class. Needs more than one of them.
    pub struct SetQosTable: 56 {
        reserved0: [u8; 2] => 0,
        /// Index of the queue for what matches nothing (version 3).
        default_queue: U16 => 2,
        /// Traffic class for what matches nothing.
        default_tc: u8 => 4,
        /// See [`qos_table_flag`].
        flags: u8 => 5,
        reserved6: [u8; 42] => 6,
        /// Where the key's configuration is, an IOVA.
        key_config_iova: U64 => 48,
    }
}
command!(SetQosTable, "set qos table", 0x240, v 2 of 3, ());

/// Bits of [`SetQosTable::flags`].
pub mod qos_table_flag {
    /// Drop what matches nothing.
    pub const DISCARD_ON_MISS: u8 = 0x1;
    /// Keep the entries that are there.
    pub const KEEP_ENTRIES: u8 = 0x2;
    /// The default queue counts (version 3).
    pub const DEFAULT_QUEUE: u8 = 0x4;
}

layout! {
    /// Adds an entry to the QoS table.
    pub struct AddQosEntry: 24 {
        /// See [`qos_entry_flag`] (version 2).
        flags: u8 => 0,
        /// Index of a queue (version 2).
        queue: u8 => 1,
        /// Traffic class for what matches.
        tc: u8 => 2,
        /// Length of key and mask in bytes.
        key_size: u8 => 3,
        /// Place in the table, if it has masks: the lowest that matches counts.
        index: U16 => 4,
        reserved6: U16 => 6,
        /// Where the key is, an IOVA.
        key_iova: U64 => 8,
        /// Where the mask is, an IOVA.
        mask_iova: U64 => 16,
    }
}
command!(AddQosEntry, "add qos entry", 0x241, v 2, ());

/// Bits of [`AddQosEntry::flags`].
pub mod qos_entry_flag {
    /// The queue counts too.
    pub const QUEUE: u8 = 0x1;
    /// Replace an entry with the same key.
    pub const UPDATE: u8 = 0x2;
}

layout! {
    /// Removes an entry of the QoS table, named by its content.
    pub struct RemoveQosEntry: 24 {
        reserved0: [u8; 3] => 0,
        /// Length of key and mask in bytes.
        key_size: u8 => 3,
        reserved4: U32 => 4,
        /// Where the key is, an IOVA.
        key_iova: U64 => 8,
        /// Where the mask is, an IOVA.
        mask_iova: U64 => 16,
    }
}
command!(RemoveQosEntry, "remove qos entry", 0x242, v 1, ());

layout! {
    /// Removes all entries of the QoS table.
    pub struct ClearQosTable: 0 {}
}
command!(ClearQosTable, "clear qos table", 0x243, v 1, ());

layout! {
    /// Adds an entry to a flow steering table.
    pub struct AddFsEntry: 49 {
        /// See [`fs_entry_option`].
        options: U16 => 0,
        /// Traffic class.
        tc: u8 => 2,
        /// Length of key and mask in bytes.
        key_size: u8 => 3,
        /// Place in the table, if it has masks: the lowest that matches counts.
        index: U16 => 4,
        /// Index of the queue for what matches.
        queue: U16 => 6,
        /// Where the key is, an IOVA.
        key_iova: U64 => 8,
        /// Where the mask is, an IOVA.
        mask_iova: U64 => 16,
        /// Flow context for what matches.
        flc: U64 => 24,
        /// Other interfaces, by their open tokens (version 2: one, version 3: several).
        redirect_tokens: [U16; 8] => 32,
        /// How many of the tokens count (version 3).
        token_count: u8 => 48,
    }
}
command!(AddFsEntry, "add fs entry", 0x244, v 2 of 3, ());

/// Bits of [`AddFsEntry::options`].
pub mod fs_entry_option {
    /// Drop what matches, whatever else is said.
    pub const DISCARD: u16 = 0x01;
    /// The flow context counts.
    pub const SET_FLC: u16 = 0x02;
    /// The flow context's low 6 bits say what is stashed.
    pub const STASH_CONTROL: u16 = 0x04;
    /// Goes to another interface, as if received there.
    pub const REDIRECT_RX: u16 = 0x08;
    /// Goes to another interface, to be transmitted.
    pub const REDIRECT_TX: u16 = 0x10;
    /// Goes to several interfaces, to be transmitted.
    pub const REPLICATE_TX: u16 = 0x20;
    /// Replace an entry with the same key.
    pub const UPDATE: u16 = 0x40;
}

layout! {
    /// Removes an entry of a flow steering table, named by its content.
    pub struct RemoveFsEntry: 24 {
        reserved0: [u8; 2] => 0,
        /// Traffic class.
        tc: u8 => 2,
        /// Length of key and mask in bytes.
        key_size: u8 => 3,
        reserved4: U32 => 4,
        /// Where the key is, an IOVA.
        key_iova: U64 => 8,
        /// Where the mask is, an IOVA.
        mask_iova: U64 => 16,
    }
}
command!(RemoveFsEntry, "remove fs entry", 0x245, v 1, ());

layout! {
    /// Removes all entries of a flow steering table.
    pub struct ClearFsEntries: 3 {
        reserved0: [u8; 2] => 0,
        /// Traffic class.
        tc: u8 => 2,
    }
}
command!(ClearFsEntries, "clear fs entries", 0x246, v 1, ());

layout! {
    /// Says in which order transmit traffic classes are served.
    pub struct SetTxPriorities: 40 {
        /// Bit 0: the groups are separate.
        flags: U16 => 0,
        /// Priority of weighted group A.
        group_a_priority: u8 => 2,
        /// Priority of weighted group B.
        group_b_priority: u8 => 3,
        /// Of which channel.
        channel: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// 4 bits for each traffic class, the lower one first: 0 strict, 1 in group A, 2 in group B.
        modes: [u8; 4] => 8,
        reserved12: [u8; 12] => 12,
        /// Weights of traffic classes, 100 to 10000.
        weights: [U16; 8] => 24,
    }
}
command!(SetTxPriorities, "set tx priorities", 0x250, v 3, ());

layout! {
    /// Asks for a page of counters. See [`StatisticsPage`].
    pub struct GetStatistics: 3 {
        /// Which.
        page: u8 => 0,
        /// See [`StatisticsParameter`]: channel or queue in bits 15:8, traffic class in bits 7:0.
        parameter: U16 => 1,
    }
}
command!(GetStatistics, "get statistics", 0x25d, v 4, Statistics);

layout! {
    /// A page of counters; those it doesn't have are 0.
    pub struct Statistics: 56 {
        /// The counters.
        counters: [U64; 7] => 0,
    }
}

/// A page of counters: what its counters are called, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatisticsPage {
    /// Its number, for [`GetStatistics::page`].
    pub number: u8,
    /// Which parameter it takes.
    pub parameter: StatisticsParameter,
    /// Names of its first counters; the others aren't used.
    pub names: &'static [&'static str],
}

/// What a page of counters is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticsParameter {
    /// The whole interface.
    None,
    /// A transmit channel's traffic class.
    ChannelAndTc,
    /// A receive traffic class; with [`option::CUSTOM_CG`] a queue of it, whose index is in bits 15:8.
    RxTcAndQueue,
    /// A receive traffic class.
    RxTc,
}

/// All pages, at the index of their number. The counters have the names that restool prints.
///
/// Source: MC API 10.40, include/dplib/fsl_dpni.h (union dpni_statistics); restool, dpni_commands.c.
pub const STATISTICS_PAGES: [StatisticsPage; 7] = [
    StatisticsPage {
        number: 0,
        parameter: StatisticsParameter::None,
        names: &[
            "ingress_all_frames",
            "ingress_all_bytes",
            "ingress_multicast_frames",
            "ingress_multicast_bytes",
            "ingress_broadcast_frames",
            "ingress_broadcast_bytes",
        ],
    },
    StatisticsPage {
        number: 1,
        parameter: StatisticsParameter::None,
        names: &[
            "egress_all_frames",
            "egress_all_bytes",
            "egress_multicast_frames",
            "egress_multicast_bytes",
            "egress_broadcast_frames",
            "egress_broadcast_bytes",
        ],
    },
    StatisticsPage {
        number: 2,
        parameter: StatisticsParameter::None,
        names: &[
            "ingress_filtered_frames",
            "ingress_discarded_frames",
            "ingress_nobuffer_discards",
            "egress_discarded_frames",
            "egress_confirmed_frames",
        ],
    },
    StatisticsPage {
        number: 3,
        parameter: StatisticsParameter::ChannelAndTc,
        names: &["ceetm_dequeue_bytes", "ceetm_dequeue_frames", "ceetm_reject_bytes", "ceetm_reject_frames"],
    },
    StatisticsPage {
        number: 4,
        parameter: StatisticsParameter::RxTcAndQueue,
        names: &["cgr_reject_frames", "cgr_reject_bytes"],
    },
    StatisticsPage {
        number: 5,
        parameter: StatisticsParameter::RxTc,
        names: &[
            "policer_cnt_red",
            "policer_cnt_yellow",
            "policer_cnt_green",
            "policer_cnt_re_red",
            "policer_cnt_re_yellow",
        ],
    },
    StatisticsPage { number: 6, parameter: StatisticsParameter::None, names: &["tx_pending_frames_cnt"] },
];

layout! {
    /// Sets all counters to 0.
    pub struct ResetStatistics: 0 {}
}
command!(ResetStatistics, "reset statistics", 0x25e, v 1, ());

layout! {
    /// Asks for a queue.
    pub struct GetQueue: 4 {
        /// What it is for.
        queue_type: QueueType => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Index in the traffic class.
        index: u8 => 2,
        /// Transmit channel.
        channel: u8 => 3,
    }
}
command!(GetQueue, "get queue", 0x25f, v 3, Queue);

layout! {
    /// A queue.
    pub struct Queue: 41 {
        reserved0: [u8; 8] => 0,
        /// Number of the destination.
        destination_id: U32 => 8,
        reserved12: [u8; 2] => 12,
        /// Priority there.
        destination_priority: u8 => 14,
        /// See [`queue_flag`].
        flags: u8 => 15,
        /// Flow context of its frames.
        flc: U64 => 16,
        /// The user's own value, with each frame.
        user_context: U64 => 24,
        /// Number of the frame queue: what portal commands name.
        fqid: U32 => 32,
        /// The queue's bin within the queueing destination.
        qdbin: U16 => 36,
        reserved38: U16 => 38,
        /// Congestion group, if the flag says so.
        congestion_group: u8 => 40,
    }
}

/// Bits of `flags` in [`Queue`] and [`SetQueue`]; bits 3:0 are a [`Destination`].
pub mod queue_flag {
    /// What of the flags is the destination.
    pub const DESTINATION_MASK: u8 = 0x0f;
    /// The congestion group is valid.
    pub const CONGESTION_GROUP: u8 = 0x20;
    /// The flow context's low 6 bits say what is stashed: see [`super::stash`].
    pub const STASH_CONTROL: u8 = 0x40;
    /// The queue holds its order until a frame is done with.
    pub const HOLD_ACTIVE: u8 = 0x80;
}

/// What is stashed into a processor's cache with a frame: bits of a flow context with stash control.
pub mod stash {
    /// Units of 64 bytes of the context that the flow context's address names, 0 to 3.
    pub const fn context(units: u64) -> u64 {
        units & 3
    }
    /// Units of 64 bytes of the frame's annotation, 0 to 3.
    pub const fn annotation(units: u64) -> u64 {
        (units & 3) << 2
    }
    /// Units of 64 bytes of the frame's data, 0 to 3.
    pub const fn data(units: u64) -> u64 {
        (units & 3) << 4
    }
}

layout! {
    /// Sets up a queue. Of transmit queues everything is ignored.
    pub struct SetQueue: 34 {
        /// What it is for.
        queue_type: QueueType => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Index in the traffic class.
        index: u8 => 2,
        /// Which of the fields count: see [`set_queue_option`].
        options: u8 => 3,
        reserved4: U32 => 4,
        /// Number of the destination.
        destination_id: U32 => 8,
        reserved12: [u8; 2] => 12,
        /// Priority there.
        destination_priority: u8 => 14,
        /// See [`queue_flag`].
        flags: u8 => 15,
        /// Flow context of its frames.
        flc: U64 => 16,
        /// The user's own value, with each frame.
        user_context: U64 => 24,
        /// Congestion group.
        congestion_group: u8 => 32,
        /// Transmit channel.
        channel: u8 => 33,
    }
}
command!(SetQueue, "set queue", 0x260, v 3, ());

/// Bits of [`SetQueue::options`].
pub mod set_queue_option {
    /// The user context counts.
    pub const USER_CONTEXT: u8 = 0x01;
    /// The destination counts.
    pub const DESTINATION: u8 = 0x02;
    /// The flow context and its stash control count.
    pub const FLC: u8 = 0x04;
    /// The flag to hold the order counts.
    pub const HOLD_ACTIVE: u8 = 0x08;
    /// The congestion group counts.
    pub const SET_CONGESTION_GROUP: u8 = 0x40;
    /// The queue leaves its congestion group.
    pub const CLEAR_CONGESTION_GROUP: u8 = 0x80;
}

layout! {
    /// Asks when frames are dropped because there are too many.
    pub struct GetTaildrop: 4 {
        /// Of what.
        point: CongestionPoint => 0,
        /// What the queue is for.
        queue_type: QueueType => 1,
        /// Traffic class.
        tc: u8 => 2,
        /// Index of the queue, or number of the congestion group.
        index: u8 => 3,
    }
}
command!(GetTaildrop, "get taildrop", 0x261, v 2, Taildrop);

layout! {
    /// When frames are dropped because there are too many.
    pub struct Taildrop: 16 {
        reserved0: [u8; 8] => 0,
        /// Bit 0: they are; bits 7:1: lower part of the overhead.
        enable_and_overhead_low: u8 => 8,
        /// Bits 4:0: upper part of the overhead.
        overhead_high: u8 => 9,
        /// What the threshold counts.
        units: Units => 10,
        reserved11: u8 => 11,
        /// More than this are too many.
        threshold: U32 => 12,
    }
}

layout! {
    /// Says when frames are dropped because there are too many.
    pub struct SetTaildrop: 16 {
        /// Of what.
        point: CongestionPoint => 0,
        /// What the queue is for.
        queue_type: QueueType => 1,
        /// Traffic class.
        tc: u8 => 2,
        /// Index of the queue, or number of the congestion group.
        index: u8 => 3,
        /// Transmit channel.
        channel: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// Bit 0: they are dropped; bits 7:1: lower part of the overhead.
        enable_and_overhead_low: u8 => 8,
        /// Bits 4:0: upper part of the overhead.
        overhead_high: u8 => 9,
        /// What the threshold counts.
        units: Units => 10,
        reserved11: u8 => 11,
        /// More than this are too many.
        threshold: U32 => 12,
    }
}
command!(SetTaildrop, "set taildrop", 0x262, v 3, ());

/// The two bytes of a taildrop command for an overhead (bytes counted for each frame besides its own, 12 bits signed)
/// with dropping switched on.
pub const fn taildrop_overhead(overhead: i16) -> (u8, u8) {
    let bits = overhead as u16;
    (((bits & 0x7f) << 1) as u8 | 1, (bits >> 7 & 0x1f) as u8)
}

/// The overhead in the two bytes of a taildrop command: what [`taildrop_overhead`] was given.
pub const fn overhead_of(enable_and_overhead_low: u8, overhead_high: u8) -> i16 {
    let bits = (enable_and_overhead_low as u16) >> 1 | (overhead_high as u16 & 0x1f) << 7;
    // 12 bits with sign.
    ((bits << 4) as i16) >> 4
}

layout! {
    /// Asks for the address of the MAC that the interface is connected to.
    pub struct GetPortMac: 0 {}
}
command!(GetPortMac, "get port mac", 0x263, v 1, MacAddressField);

layout! {
    /// Asks what is in front of and behind a frame in its buffer.
    pub struct GetBufferLayout: 1 {
        /// Of which kind of queues.
        queue_type: QueueType => 0,
    }
}
command!(GetBufferLayout, "get buffer layout", 0x264, v 2, BufferLayout);

layout! {
    /// What is in front of and behind a frame in its buffer.
    pub struct BufferLayout: 16 {
        reserved0: [u8; 6] => 0,
        /// See [`buffer_layout_flag`].
        flags: u8 => 6,
        reserved7: u8 => 7,
        /// Bytes at the buffer's start that are the driver's own.
        private_data_size: U16 => 8,
        /// The frame's data begins at a multiple of this.
        data_alignment: U16 => 10,
        /// Bytes in front of the frame.
        head_room: U16 => 12,
        /// Bytes behind the frame.
        tail_room: U16 => 14,
    }
}

layout! {
    /// Says what is in front of and behind a frame in its buffer. Only while the interface is disabled.
    pub struct SetBufferLayout: 16 {
        /// Of which kind of queues.
        queue_type: QueueType => 0,
        reserved1: [u8; 3] => 1,
        /// Which of the fields count: see [`buffer_layout_option`].
        options: U16 => 4,
        /// See [`buffer_layout_flag`].
        flags: u8 => 6,
        reserved7: u8 => 7,
        /// Bytes at the buffer's start that are the driver's own.
        private_data_size: U16 => 8,
        /// The frame's data begins at a multiple of this.
        data_alignment: U16 => 10,
        /// Bytes in front of the frame.
        head_room: U16 => 12,
        /// Bytes behind the frame.
        tail_room: U16 => 14,
    }
}
command!(SetBufferLayout, "set buffer layout", 0x265, v 2, ());

/// Bits of [`SetBufferLayout::options`].
pub mod buffer_layout_option {
    /// The timestamp flag counts.
    pub const TIMESTAMP: u16 = 0x001;
    /// The parser result flag counts.
    pub const PARSER_RESULT: u16 = 0x002;
    /// The frame status flag counts.
    pub const FRAME_STATUS: u16 = 0x004;
    /// The private data's size counts.
    pub const PRIVATE_DATA_SIZE: u16 = 0x008;
    /// The alignment counts.
    pub const DATA_ALIGNMENT: u16 = 0x010;
    /// The head room counts.
    pub const HEAD_ROOM: u16 = 0x020;
    /// The tail room counts.
    pub const TAIL_ROOM: u16 = 0x040;
    /// The opaque flag counts.
    pub const SW_OPAQUE: u16 = 0x080;
    /// No frames over several buffers.
    pub const NO_SG: u16 = 0x100;
}

/// Bits of `flags` in [`BufferLayout`] and [`SetBufferLayout`]: what hardware writes in front of a frame.
pub mod buffer_layout_flag {
    /// When it was received.
    pub const TIMESTAMP: u8 = 0x1;
    /// What the parser found.
    pub const PARSER_RESULT: u8 = 0x2;
    /// What is wrong with it.
    pub const FRAME_STATUS: u8 = 0x4;
    /// Software's own value.
    pub const SW_OPAQUE: u8 = 0x8;
}

layout! {
    /// Says how transmitted frames are confirmed.
    pub struct SetTxConfirmationMode: 5 {
        /// Transmit channel (version 2).
        channel: u8 => 0,
        reserved1: [u8; 3] => 1,
        /// How.
        mode: ConfirmationMode => 4,
    }
}
command!(SetTxConfirmationMode, "set tx confirmation mode", 0x266, v 2, ());

layout! {
    /// Asks how transmitted frames are confirmed.
    pub struct GetTxConfirmationMode: 1 {
        /// Transmit channel (version 2).
        channel: u8 => 0,
    }
}
command!(GetTxConfirmationMode, "get tx confirmation mode", 0x26d, v 2, TxConfirmationMode);

layout! {
    /// How transmitted frames are confirmed.
    pub struct TxConfirmationMode: 5 {
        reserved0: U32 => 0,
        /// How.
        mode: ConfirmationMode => 4,
    }
}

layout! {
    /// Says what to do when there are too many frames.
    pub struct SetCongestionNotification: 40 {
        /// What the queue is for.
        queue_type: QueueType => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Transmit channel.
        channel: u8 => 2,
        /// Of what.
        point: CongestionPoint => 3,
        /// Congestion group.
        congestion_group: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// Number of the destination.
        destination_id: U32 => 8,
        /// See [`congestion_mode`].
        mode: U16 => 12,
        /// Priority at the destination.
        destination_priority: u8 => 14,
        /// A [`Destination`] in bits 3:0, [`Units`] in bits 5:4.
        type_and_units: u8 => 15,
        /// Where the message goes, an IOVA; a multiple of 16.
        message_iova: U64 => 16,
        /// The user's own value, in the message.
        context: U64 => 24,
        /// Begins above this; 0 for never.
        entry: U32 => 32,
        /// Ends below this.
        exit: U32 => 36,
    }
}
command!(SetCongestionNotification, "set congestion notification", 0x267, v 3, ());

layout! {
    /// Asks what is done when there are too many frames. The answer has the fields of what set it, from `destination_id`
    /// on.
    pub struct GetCongestionNotification: 5 {
        /// What the queue is for.
        queue_type: QueueType => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Transmit channel.
        channel: u8 => 2,
        /// Of what.
        point: CongestionPoint => 3,
        /// Congestion group.
        congestion_group: u8 => 4,
    }
}
command!(GetCongestionNotification, "get congestion notification", 0x268, v 3, SetCongestionNotification);

layout! {
    /// Says with which probability frames are dropped as queues fill.
    pub struct SetEarlyDrop: 16 {
        /// What the queue is for.
        queue_type: QueueType => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Transmit channel.
        channel: u8 => 2,
        reserved3: [u8; 5] => 3,
        /// Where thresholds and probabilities are, an IOVA.
        config_iova: U64 => 8,
    }
}
command!(SetEarlyDrop, "set early drop", 0x269, v 3, ());

layout! {
    /// Has thresholds and probabilities of early drop written to memory.
    pub struct GetEarlyDrop: 16 {
        /// What the queue is for.
        queue_type: QueueType => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Transmit channel.
        channel: u8 => 2,
        reserved3: [u8; 5] => 3,
        /// Where they go, an IOVA.
        config_iova: U64 => 8,
    }
}
command!(GetEarlyDrop, "get early drop", 0x26a, v 3, ());

layout! {
    /// Asks for the setting of an offload.
    pub struct GetOffload: 4 {
        reserved0: [u8; 3] => 0,
        /// Which.
        offload: Offload => 3,
    }
}
command!(GetOffload, "get offload", 0x26b, v 2, OffloadValue);

layout! {
    /// The setting of an offload.
    pub struct OffloadValue: 8 {
        reserved0: U32 => 0,
        /// 0 for off.
        value: U32 => 4,
    }
}

layout! {
    /// Sets an offload.
    pub struct SetOffload: 8 {
        reserved0: [u8; 3] => 0,
        /// Which.
        offload: Offload => 3,
        /// 0 for off.
        value: U32 => 4,
    }
}
command!(SetOffload, "set offload", 0x26c, v 2, ());

layout! {
    /// How order is restored; part of commands of dpni, dpci and dpseci.
    pub struct OrderRestoration: 5 {
        /// Loose ordering.
        loose: u8 => 0,
        /// Advance when resources are exhausted.
        advance_on_exhaustion: u8 => 1,
        /// Window for late frames: 0 none, 1 of 32, 2 like `window`, 3 of 8192.
        late_window: u8 => 2,
        /// Advance by itself.
        auto_advance: u8 => 3,
        /// Length of the window: 32 << n frames, n up to 5.
        window: u8 => 4,
    }
}

layout! {
    /// Creates, assigns or ends an order restoration record.
    pub struct SetOrderRestoration: 16 {
        /// Number of the record.
        record_id: u8 => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Index of the queue.
        index: u8 => 2,
        /// Bits 1 create, 2 retire, 4 assign.
        options: u8 => 3,
        reserved4: [u8; 7] => 4,
        /// How it restores.
        record: OrderRestoration => 11,
    }
}
command!(SetOrderRestoration, "set order-restoration record", 0x26e, v 2, ());

layout! {
    /// Asks for an order restoration record.
    pub struct GetOrderRestoration: 4 {
        /// How to ask.
        flags: u8 => 0,
        /// Traffic class.
        tc: u8 => 1,
        /// Index of the queue.
        index: u8 => 2,
        /// Number of the record.
        record_id: u8 => 3,
    }
}
command!(GetOrderRestoration, "get order-restoration record", 0x26f, v 2, OrderRestorationRecord);

layout! {
    /// State of an order restoration record.
    pub struct OrderRestorationRecord: 46 {
        reserved0: [u8; 8] => 0,
        /// Bit 0 ends, bit 1 works.
        flags: u8 => 8,
        reserved9: [u8; 2] => 9,
        /// How it restores.
        record: OrderRestoration => 11,
        /// Next expected sequence number.
        next_expected: U16 => 16,
        reserved18: U16 => 18,
        /// Next dispensed sequence number.
        next_dispensed: U16 => 20,
        reserved22: U16 => 22,
        /// Sequence number at the tail.
        tail_sequence: U16 => 24,
        /// Whether the tail isn't the last of its sequence.
        tail_not_last: u8 => 26,
        reserved27: u8 => 27,
        /// Sequence number at the head.
        head_sequence: U16 => 28,
        /// Whether the head isn't the last of its sequence.
        head_not_last: u8 => 30,
        reserved31: u8 => 31,
        /// Head of the list.
        head_pointer: U16 => 32,
        reserved34: U16 => 34,
        /// Tail of the list.
        tail_pointer: U16 => 36,
        reserved38: U16 => 38,
        /// Number within the object.
        virtual_id: U16 => 40,
        reserved42: U16 => 42,
        /// Number in hardware.
        hardware_id: U16 => 44,
    }
}

layout! {
    /// Loads a program of the parser.
    pub struct LoadSoftSequence: 24 {
        /// 0 for received, 1 for transmitted frames.
        destination: u8 => 0,
        reserved1: [u8; 7] => 1,
        /// Where in the parser's memory.
        offset: U16 => 8,
        reserved10: U16 => 10,
        /// Length in bytes.
        size: U16 => 12,
        reserved14: U16 => 14,
        /// Where the program is, an IOVA.
        iova: U64 => 16,
    }
}
command!(LoadSoftSequence, "load soft sequence", 0x270, v 1, ());

layout! {
    /// Starts a program of the parser.
    pub struct EnableSoftSequence: 32 {
        /// 0 for received, 1 for transmitted frames.
        destination: u8 => 0,
        reserved1: [u8; 7] => 1,
        /// Where in the parser's memory.
        offset: U16 => 8,
        /// After which protocol.
        header_examination: U16 => 10,
        /// Whether the parser starts there.
        set_start: u8 => 12,
        reserved13: [u8; 3] => 13,
        /// Where its parameters go.
        parameter_offset: u8 => 16,
        reserved17: [u8; 3] => 17,
        /// Their length in bytes.
        parameter_size: u8 => 20,
        reserved21: [u8; 3] => 21,
        /// Where its parameters are, an IOVA.
        parameter_iova: U64 => 24,
    }
}
command!(EnableSoftSequence, "enable soft sequence", 0x271, v 1, ());

layout! {
    /// Has the list of parser programs written to memory: 33 entries of 8 bytes.
    pub struct GetSoftSequenceLayout: 16 {
        /// 0 for received, 1 for transmitted frames.
        source: u8 => 0,
        reserved1: [u8; 7] => 1,
        /// Where it goes, an IOVA.
        iova: U64 => 8,
    }
}
command!(GetSoftSequenceLayout, "get soft sequence layout", 0x272, v 1, ());

layout! {
    /// Steers flows of a traffic class to queues by the entries of its table.
    pub struct SetRxFsDistribution: 16 {
        /// Number of queues.
        size: U16 => 0,
        /// Bit 0. Switching it off clears the table.
        enable: u8 => 2,
        /// Traffic class.
        tc: u8 => 3,
        /// Index of the queue for what matches nothing and isn't hashed, [`SetRxFsDistribution::DROP`] for none.
        miss_queue: U16 => 4,
        reserved6: U16 => 6,
        /// Where the key's configuration is, an IOVA.
        key_config_iova: U64 => 8,
    }
}
command!(SetRxFsDistribution, "set rx fs distribution", 0x273, v 2, ());

impl SetRxFsDistribution {
    /// What matches nothing is dropped.
    pub const DROP: u16 = 0xffff;
}

layout! {
    /// Distributes a traffic class over queues by a hash.
    pub struct SetRxHashDistribution: 16 {
        /// Number of queues: one of [`DISTRIBUTION_SIZES`].
        size: U16 => 0,
        /// Bit 0.
        enable: u8 => 2,
        /// Traffic class.
        tc: u8 => 3,
        reserved4: U32 => 4,
        /// Where the key's configuration is, an IOVA.
        key_config_iova: U64 => 8,
    }
}
command!(SetRxHashDistribution, "set rx hash distribution", 0x274, v 2, ());

/// Numbers of queues a traffic class can be distributed over.
///
/// Source: MC API 10.40, include/dplib/fsl_dpni.h.
pub const DISTRIBUTION_SIZES: [u16; 28] = [
    1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 48, 56, 64, 96, 112, 128, 192, 224, 256, 384, 448, 512, 768,
    896, 1024,
];

layout! {
    /// Recognises another number as a VLAN tag's.
    pub struct AddCustomTpid: 4 {
        reserved0: U16 => 0,
        /// The number.
        tpid: U16 => 2,
    }
}
command!(AddCustomTpid, "add custom tpid", 0x275, v 1, ());

layout! {
    /// Ends what [`AddCustomTpid`] began.
    pub struct RemoveCustomTpid: 4 {
        reserved0: U16 => 0,
        /// The number.
        tpid: U16 => 2,
    }
}
command!(RemoveCustomTpid, "remove custom tpid", 0x276, v 1, ());

layout! {
    /// Asks which other numbers are recognised as a VLAN tag's.
    pub struct GetCustomTpid: 0 {}
}
command!(GetCustomTpid, "get custom tpid", 0x277, v 1, CustomTpids);

layout! {
    /// Which other numbers are recognised as a VLAN tag's.
    pub struct CustomTpids: 4 {
        /// The first, or 0.
        tpid1: U16 => 0,
        /// The second, or 0.
        tpid2: U16 => 2,
    }
}

layout! {
    /// Has hardware write the time into transmitted precision time messages.
    pub struct SetSingleStepPtp: 8 {
        /// Bit 0: it does; bit 1: it corrects the checksum too.
        flags: U16 => 0,
        /// Where in the frame.
        offset: U16 => 2,
        /// To add to the time.
        peer_delay: U32 => 4,
    }
}
command!(SetSingleStepPtp, "set single-step ptp", 0x279, v 1, ());

layout! {
    /// Asks how hardware writes the time into transmitted precision time messages.
    pub struct GetSingleStepPtp: 0 {}
}
command!(GetSingleStepPtp, "get single-step ptp", 0x27a, v 2, SingleStepPtp);

layout! {
    /// How hardware writes the time into transmitted precision time messages.
    pub struct SingleStepPtp: 12 {
        /// Bit 0: it does; bit 1: it corrects the checksum too.
        flags: U16 => 0,
        /// Where in the frame.
        offset: U16 => 2,
        /// To add to the time.
        peer_delay: U32 => 4,
        /// Physical address of the register (version 2).
        register_base: U32 => 8,
    }
}

layout! {
    /// Sets up what is behind the interface.
    pub struct SetPortConfiguration: 8 {
        /// Which of the bits count.
        flags: U32 => 0,
        /// Bit 0: what is transmitted is received again.
        bits: U32 => 4,
    }
}
command!(SetPortConfiguration, "set port configuration", 0x27b, v 1, ());

layout! {
    /// Asks how what is behind the interface is set up. The answer has the fields of what set it.
    pub struct GetPortConfiguration: 0 {}
}
command!(GetPortConfiguration, "get port configuration", 0x27c, v 1, SetPortConfiguration);

layout! {
    /// Has the entries of a table written to memory.
    pub struct DumpTable: 20 {
        /// Which kind of table.
        table_type: U16 => 0,
        /// Which of that kind.
        index: U16 => 2,
        reserved4: U32 => 4,
        /// Where they go, an IOVA.
        iova: U64 => 8,
        /// How much room there is, in bytes.
        size: U32 => 16,
    }
}
command!(DumpTable, "dump table", 0x27d, v 1, DumpedTable);

layout! {
    /// How many entries a table has.
    pub struct DumpedTable: 2 {
        /// The number.
        entries: U16 => 0,
    }
}

layout! {
    /// Chooses a profile of the parser's programs.
    pub struct SetSoftParserProfile: 9 {
        /// Its name.
        name: [u8; 8] => 0,
        /// For which frames.
        profile_type: u8 => 8,
    }
}
command!(SetSoftParserProfile, "set soft-parser profile", 0x27e, v 1, ());

layout! {
    /// Asks for the queueing destinations of all transmit channels.
    pub struct GetQdids: 1 {
        /// Of which kind of queues.
        queue_type: QueueType => 0,
    }
}
command!(GetQdids, "get qdid of all channels", 0x27f, v 1, Qdids);

layout! {
    /// Queueing destinations.
    pub struct Qdids: 32 {
        /// One for each channel.
        qdids: [U16; 16] => 0,
    }
}

layout! {
    /// Lets the parser's programs run, or not.
    pub struct EnableSoftParser: 2 {
        /// For which frames.
        profile_type: u8 => 0,
        /// 1 for yes.
        enable: u8 => 1,
    }
}
command!(EnableSoftParser, "enable soft parser", 0x280, v 1, ());

layout! {
    /// Says how frames of one transmit queue are confirmed.
    pub struct SetQueueTxConfirmationMode: 5 {
        /// Transmit channel.
        channel: u8 => 0,
        /// Index of the queue.
        index: u8 => 1,
        reserved2: [u8; 2] => 2,
        /// How.
        mode: ConfirmationMode => 4,
    }
}
command!(SetQueueTxConfirmationMode, "set queue tx confirmation mode", 0x281, v 1, ());

layout! {
    /// Asks how frames of one transmit queue are confirmed.
    pub struct GetQueueTxConfirmationMode: 2 {
        /// Transmit channel.
        channel: u8 => 0,
        /// Index of the queue.
        index: u8 => 1,
    }
}
command!(GetQueueTxConfirmationMode, "get queue tx confirmation mode", 0x282, v 1, TxConfirmationMode);

layout! {
    /// Has counters of the MAC written to memory.
    pub struct GetMacStatistics: 20 {
        /// IOVA of an array of numbers of counters ([`super::dpmac::COUNTERS`]), 32 bits each.
        ids_iova: U64 => 0,
        /// IOVA of the array for the values, 64 bits each.
        values_iova: U64 => 8,
        /// Length of both arrays.
        count: U32 => 16,
    }
}
command!(GetMacStatistics, "get mac statistics", 0x283, v 1, ());

layout! {
    /// Asks which rates the MAC can have.
    pub struct GetMacSpeeds: 0 {}
}
command!(GetMacSpeeds, "get mac speed capability", 0x284, v 1, MacSpeeds);

layout! {
    /// Which rates the MAC can have.
    pub struct MacSpeeds: 4 {
        /// Bit n: [`MAC_SPEEDS`] n.
        speeds: U32 => 0,
    }
}

/// Rates of MACs in Mbit/s, at the index of their bit.
pub const MAC_SPEEDS: [u32; 10] = [10, 100, 1_000, 2_500, 5_000, 10_000, 25_000, 40_000, 50_000, 100_000];
