//! Counters of a port, and the reasons for which a frame can be dropped.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer and any number of readers.
///
/// Adding is a plain load and store (no locked instruction): each worker has counters of its own and nobody
/// else writes them. Readers see a value that is at most one burst old.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Reads the value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was not forwarded. One counter each, per port.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in tables, JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// What the reason means, one line.
            pub const fn explain(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// A rule (or the table's miss action) says drop.
    Rule = "rule",
    /// No rule matched and the table has no miss rule.
    NoRule = "no-rule",
    /// The pipeline went deeper, or produced more outputs, than its limits allow.
    PipelineLimit = "pipeline-limit",
    /// Output to a port that doesn't exist, or back to the port it came from without `in_port`.
    NoOutput = "no-output",
    /// The receiving port has no running queue (guest not connected, link down).
    PortDown = "port-down",
    /// The receiver's ring or queue had no room.
    TxFull = "tx-full",
    /// Longer than the receiving port's MTU and not to be segmented.
    TooLong = "too-long",
    /// The receiver's buffers are too small for the frame.
    TxBufferTooSmall = "tx-buffer-too-small",
    /// No buffer was left in the worker's pool.
    PoolEmpty = "pool-empty",
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// The sender's offload request is inconsistent (checksum start, segment size).
    BadOffload = "bad-offload",
    /// The sender's descriptor chain holds no frame, or one that is larger than allowed.
    BadChain = "bad-chain",
    /// VLAN tag not allowed on the port it came in by.
    VlanIn = "vlan-in",
    /// The destination port is not a member of the frame's VLAN.
    VlanOut = "vlan-out",
    /// Destination address is reserved for the link (01-80-c2-00-00-0x) and not forwarded by a bridge.
    Reserved = "reserved",
    /// The destination was learned on the port the frame came from.
    Hairpin = "hairpin",
    /// TTL or hop limit reached zero.
    TtlExpired = "ttl-expired",
    /// The controller queue had no room.
    ControllerFull = "controller-full",
    /// The sender's memory or ring went away while the frame was in hand.
    SenderGone = "sender-gone",
    /// The device refused the frame (TAP write error, capture file full).
    Device = "device",
    /// The device received the frame damaged (length, checksum); the port's own counters say how.
    RxError = "rx-error",
    /// The port was set down by its operator.
    AdminDown = "admin-down",
    /// The owner of a partition sent from an address that isn't its own.
    ForeignSource = "foreign-source",
}

/// Counters of one port as seen by one worker. Summed over workers they are the port's counters.
///
/// For each bridge: received + copies + injected = sent + dropped + punted, over all its ports.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PortCounters {
    /// Frames received from the port.
    pub rx_frames: Counter,
    /// Bytes received from the port (frames without virtio header and FCS).
    pub rx_bytes: Counter,
    /// Frames sent to the port.
    pub tx_frames: Counter,
    /// Bytes sent to the port.
    pub tx_bytes: Counter,
    /// Frames made from received ones beyond the first output: flooding, several outputs, segmentation.
    pub copies: Counter,
    /// Frames handed to the controller queue.
    pub punted: Counter,
    /// Frames the switch itself sent (announcements for a migrated guest).
    pub injected: Counter,
    /// Notifications received from the guest or device.
    pub kicks: Counter,
    /// Notifications sent to the guest or device.
    pub calls: Counter,
    /// Flows of the port that a cache took in.
    pub cached: Counter,
    /// Flows that none did, because the port had used up what it may add.
    pub uncached: Counter,
    drops: [Counter; DropReason::COUNT],
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            rx_frames: Counter::default(),
            rx_bytes: Counter::default(),
            tx_frames: Counter::default(),
            tx_bytes: Counter::default(),
            copies: Counter::default(),
            punted: Counter::default(),
            injected: Counter::default(),
            kicks: Counter::default(),
            calls: Counter::default(),
            cached: Counter::default(),
            uncached: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl PortCounters {
    /// Counts `n` frames dropped for `reason`.
    #[inline]
    pub fn dropped(&self, reason: DropReason, n: u64) {
        self.drops[reason as usize].add(n);
    }

    /// Frames dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// Counts a received burst.
    #[inline]
    pub fn received(&self, frames: u64, bytes: u64) {
        self.rx_frames.add(frames);
        self.rx_bytes.add(bytes);
    }

    /// Counts a sent burst.
    #[inline]
    pub fn sent(&self, frames: u64, bytes: u64) {
        self.tx_frames.add(frames);
        self.tx_bytes.add(bytes);
    }
}
