//! A network interface: what the Management Complex configures of it.

use crate::config;
use crate::qman::{Consumer, Fqid, GroupId, Qman};
use dpaa2_defs::classify::KeyConfig;
use std::collections::BTreeMap;

/// Creation options that change what an interface does.
pub(crate) mod option {
    pub(crate) const TX_FRAME_RELEASE: u32 = 0x1;
    pub(crate) const NO_MAC_FILTER: u32 = 0x2;
    pub(crate) const HAS_POLICING: u32 = 0x4;
    pub(crate) const SHARED_CONGESTION: u32 = 0x8;
    pub(crate) const HAS_KEY_MASKING: u32 = 0x10;
    pub(crate) const NO_FS: u32 = 0x20;
    pub(crate) const SINGLE_SENDER: u32 = 0x100;
    pub(crate) const SHARED_FS: u32 = 0x1000;
}

/// Offloads by number.
pub(crate) mod offload {
    pub(crate) const RX_L3: usize = 0;
    pub(crate) const RX_L4: usize = 1;
    pub(crate) const TX_L3: usize = 2;
    pub(crate) const TX_L4: usize = 3;
    pub(crate) const FLC_TYPE: usize = 4;
    pub(crate) const COUNT: usize = 7;
}

/// Transmit confirmation is off.
pub(crate) const TX_CONFIRM_DISABLED: u8 = 2;

/// Where matching frames go past the classifier.
pub(crate) type Direct = Option<(u8, u8)>;

/// Annotation and room in front of a frame's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BufferLayout {
    /// Bits: 0 timestamp, 1 parser result, 2 frame status, 3 software opaque.
    pub pass: u8,
    pub private_size: u16,
    pub data_align: u16,
    pub head_room: u16,
    pub tail_room: u16,
    pub no_scatter_gather: bool,
}

impl BufferLayout {
    /// Where data starts in a buffer.
    pub(crate) fn data_offset(&self) -> usize {
        let annotation = if self.pass != 0 { 64 } else { 0 };
        let offset = usize::from(self.private_size) + annotation + usize::from(self.head_room);
        offset.next_multiple_of(usize::from(self.data_align).max(1))
    }
}

/// A pool an interface takes receive buffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolChoice {
    pub bpid: u16,
    pub size: u16,
    /// Traffic classes, or queue indices, that use it.
    pub mask: u8,
    pub is_backup: bool,
}

/// What a flow-steering entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steer {
    Discard,
    Queue { queue: u16, flc: Option<u64> },
    RedirectRx { token: u16, queue: u16 },
    RedirectTx { token: u16, queue: u16 },
}

/// What a QoS entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QosAction {
    pub tc: u8,
    pub queue: Option<u8>,
}

/// A key under a mask, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<A> {
    pub key: Vec<u8>,
    pub mask: Vec<u8>,
    pub action: A,
}

/// A classification table: the lowest index that matches wins.
#[derive(Clone, Debug)]
pub(crate) struct Table<A> {
    pub config: Option<KeyConfig>,
    pub entries: BTreeMap<u16, Entry<A>>,
    pub capacity: u16,
    pub hits: u64,
}

/// Why a table doesn't take an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableError {
    /// It is full, or the index is beyond it.
    Full,
    /// There is one with this key already.
    Exists,
    /// There is none with this key.
    Missing,
}

impl<A: Copy> Table<A> {
    fn new(capacity: u16) -> Self {
        Self { config: None, entries: BTreeMap::new(), capacity, hits: 0 }
    }

    /// Adds an entry: at its index where keys are masked, else at the first free one.
    pub(crate) fn add(
        &mut self,
        index: Option<u16>,
        entry: Entry<A>,
        update: bool,
    ) -> Result<(), TableError> {
        let same = self.entries.iter().find(|(_, other)| other.key == entry.key && other.mask == entry.mask);
        if let Some((&at, _)) = same {
            if !update && index != Some(at) {
                return Err(TableError::Exists);
            }
            self.entries.remove(&at);
        }
        let index = match index {
            Some(index) => index,
            None => (0..self.capacity).find(|i| !self.entries.contains_key(i)).ok_or(TableError::Full)?,
        };
        if index >= self.capacity {
            return Err(TableError::Full);
        }
        if self.entries.contains_key(&index) {
            return Err(TableError::Exists);
        }
        self.entries.insert(index, entry);
        Ok(())
    }

    /// Removes the entry with this key.
    pub(crate) fn remove(&mut self, key: &[u8], mask: &[u8]) -> Result<(), TableError> {
        let index =
            self.entries.iter().find(|(_, entry)| entry.key == key && entry.mask == mask).map(|(&i, _)| i);
        index.and_then(|index| self.entries.remove(&index)).map(drop).ok_or(TableError::Missing)
    }

    /// The action of the first entry that matches.
    pub(crate) fn look_up(&mut self, key: &[u8]) -> Option<A> {
        let found =
            self.entries.values().find(|e| dpaa2_defs::classify::key_matches(key, &e.key, &e.mask))?.action;
        self.hits += 1;
        Some(found)
    }
}

/// Distribution of one traffic class.
#[derive(Clone, Debug)]
pub(crate) struct TcDistribution {
    pub hash: Option<KeyConfig>,
    pub hash_size: u16,
    pub steering_enabled: bool,
    pub steering: Table<Steer>,
    /// 0xffff drops.
    pub miss_queue: u16,
}

/// A policer: kept and reported; every frame is green (rates need a clock frames don't have here).
pub(crate) type Policer = [u8; 24];

/// Counters as statistics pages give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NiCounters {
    /// Frames put into receive queues.
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Those of them to group addresses but broadcast.
    pub rx_multicast_frames: u64,
    /// Bytes of them.
    pub rx_multicast_bytes: u64,
    /// Those of them to all.
    pub rx_broadcast_frames: u64,
    /// Bytes of them.
    pub rx_broadcast_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Those of them to group addresses but broadcast.
    pub tx_multicast_frames: u64,
    /// Bytes of them.
    pub tx_multicast_bytes: u64,
    /// Those of them to all.
    pub tx_broadcast_frames: u64,
    /// Bytes of them.
    pub tx_broadcast_bytes: u64,
    /// Dropped by MAC or VLAN filters.
    pub rx_filtered: u64,
    /// Dropped: too long, errors, classification, tail drop.
    pub rx_discarded: u64,
    /// Dropped for lack of a buffer.
    pub rx_no_buffer: u64,
    /// Dropped on the way out.
    pub tx_discarded: u64,
    /// Confirmed to software.
    pub tx_confirmed: u64,
    /// Came while the interface was disabled; the Management Complex has no counter for them.
    pub rx_while_disabled: u64,
}

/// Frames and bytes of a transmit class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassCounters {
    pub frames: u64,
    pub bytes: u64,
    pub rejected_frames: u64,
    pub rejected_bytes: u64,
}

/// How transmit classes share the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TxSchedule {
    /// Per class: 0 strict, 1 weighted group A, 2 weighted group B.
    pub modes: [u8; 16],
    pub weights: [u16; 16],
    pub priority_a: u8,
    pub priority_b: u8,
    pub separate_groups: bool,
}

/// An interface.
#[derive(Debug)]
pub(crate) struct Ni {
    pub id: u32,
    pub container: u32,
    pub attributes: config::Dpni,
    pub options: u32,
    pub qdid: u16,
    pub rx: Vec<Fqid>,
    pub rx_error: Fqid,
    pub tx: Vec<Fqid>,
    pub tx_confirm: Vec<Fqid>,
    pub tc_groups: Vec<GroupId>,
    pub own_groups: Vec<GroupId>,
    /// By channel and class.
    pub tx_groups: Vec<GroupId>,
    /// Frames and bytes by channel and class.
    pub classes: Vec<ClassCounters>,
    pub counters: NiCounters,
    /// Time of the wire's end of the frame being sent.
    pub busy_until_ns: u64,
    /// Until when each transmit channel has used up its own rate.
    pub spent_until_ns: Vec<u64>,
    /// Bytes sent per class, divided by its weight: the smallest goes next.
    pub served: Vec<u64>,
    pub next_channel: usize,
    pub settings: Settings,
}

/// What "reset" returns to its defaults.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub enabled: bool,
    pub mac: [u8; 6],
    pub max_frame: u16,
    pub unicast_promiscuous: bool,
    pub multicast_promiscuous: bool,
    pub mac_filters: Vec<([u8; 6], Direct)>,
    pub vlan_filter: bool,
    pub vlans: Vec<(u16, Direct)>,
    pub tpids: Vec<u16>,
    pub pools: Vec<PoolChoice>,
    pub pools_by_queue: bool,
    /// By queue type: receive, transmit, transmit confirmation.
    pub layouts: [BufferLayout; 3],
    /// Errors that don't discard a frame: mask, action, mark.
    pub error_actions: Vec<(u32, u8, bool)>,
    pub offloads: [u32; offload::COUNT],
    pub tx_confirm: Vec<u8>,
    pub default_tc: u8,
    pub default_queue: Option<u16>,
    pub discard_on_qos_miss: bool,
    pub qos: Table<QosAction>,
    pub tcs: Vec<TcDistribution>,
    pub policers: Vec<Policer>,
    pub schedules: Vec<TxSchedule>,
    /// Mbit/s by channel; 0 is unlimited. The last one is the whole interface's.
    pub shapers: Vec<u32>,
    pub link_rate: u32,
    pub link_options: u64,
    pub link_advertising: u64,
    pub port_loopback: bool,
    pub ptp: [u8; 8],
}

/// Longest frame after creation: an Ethernet frame with one tag.
const DEFAULT_MAX_FRAME: u16 = 1518;

impl Settings {
    fn new(attributes: &config::Dpni) -> Self {
        let mac = attributes.mac.as_deref().and_then(config::parse_mac).unwrap_or_default();
        let distribution = TcDistribution {
            hash: None,
            hash_size: 0,
            steering_enabled: false,
            steering: Table::new(attributes.fs_entries),
            miss_queue: 0,
        };
        let layout = BufferLayout { data_align: 64, ..BufferLayout::default() };
        let channels = usize::from(attributes.channels);
        Self {
            enabled: false,
            mac,
            max_frame: DEFAULT_MAX_FRAME,
            unicast_promiscuous: false,
            multicast_promiscuous: false,
            mac_filters: Vec::new(),
            vlan_filter: false,
            vlans: Vec::new(),
            tpids: Vec::new(),
            pools: Vec::new(),
            pools_by_queue: false,
            layouts: [layout; 3],
            error_actions: Vec::new(),
            offloads: [0; offload::COUNT],
            tx_confirm: vec![0; channels],
            default_tc: 0,
            default_queue: None,
            discard_on_qos_miss: false,
            qos: Table::new(attributes.qos_entries.into()),
            tcs: vec![distribution; attributes.rx_tcs.into()],
            policers: vec![[0; 24]; attributes.rx_tcs.into()],
            schedules: vec![TxSchedule::default(); channels],
            shapers: vec![0; channels + 1],
            link_rate: 0,
            link_options: 0,
            link_advertising: 0,
            port_loopback: false,
            ptp: [0; 8],
        }
    }
}

impl Ni {
    pub(crate) fn new(
        attributes: &config::Dpni,
        options: u32,
        container: u32,
        qdid: u16,
        qman: &mut Qman,
    ) -> Self {
        let index = usize::from(qdid);
        let (queues, rx_tcs) = (usize::from(attributes.queues), usize::from(attributes.rx_tcs));
        let senders = if options & option::SINGLE_SENDER != 0 { 1 } else { queues };
        let (channels, tx_tcs) = (usize::from(attributes.channels), usize::from(attributes.tx_tcs));
        let mut software = |count: usize| -> Vec<Fqid> {
            (0..count).map(|_| qman.add_fq(container, Consumer::Software)).collect()
        };
        let rx = software(queues * rx_tcs);
        let rx_error = software(1)[0];
        let tx_confirm = software(channels * tx_tcs * senders);
        let mut tx = Vec::new();
        for channel in 0..channels {
            for tc in 0..tx_tcs {
                for _ in 0..senders {
                    let consumer = Consumer::Egress { ni: index, channel: channel as u8, tc: tc as u8 };
                    tx.push(qman.add_fq(container, consumer));
                }
            }
        }
        let groups = if options & option::SHARED_CONGESTION != 0 { 1 } else { rx_tcs };
        let tc_groups: Vec<GroupId> = (0..groups).map(|_| qman.add_group(container)).collect();
        let own_groups = (0..attributes.congestion_groups).map(|_| qman.add_group(container)).collect();
        let tx_groups = (0..channels * tx_tcs).map(|_| qman.add_group(container)).collect();
        Self {
            id: attributes.id,
            container,
            attributes: attributes.clone(),
            options,
            qdid,
            rx,
            rx_error,
            tx,
            tx_confirm,
            tc_groups,
            own_groups,
            tx_groups,
            classes: vec![ClassCounters::default(); channels * tx_tcs],
            counters: NiCounters::default(),
            busy_until_ns: 0,
            spent_until_ns: vec![0; channels],
            served: vec![0; channels * tx_tcs],
            next_channel: 0,
            settings: Settings::new(attributes),
        }
    }

    /// Back to creation's defaults; the primary address stays, as do counters.
    pub(crate) fn reset(&mut self) {
        let mac = self.settings.mac;
        self.settings = Settings { mac, ..Settings::new(&self.attributes) };
    }

    /// Transmit queues per class.
    pub(crate) fn senders(&self) -> usize {
        self.tx.len() / (usize::from(self.attributes.channels) * usize::from(self.attributes.tx_tcs))
    }

    pub(crate) fn rx_queue(&self, tc: u8, index: u16) -> Option<Fqid> {
        let queues = usize::from(self.attributes.queues);
        (usize::from(index) < queues && tc < self.attributes.rx_tcs)
            .then(|| self.rx[usize::from(tc) * queues + usize::from(index)])
    }

    fn tx_position(&self, channel: u8, tc: u8, index: u16) -> Option<usize> {
        let senders = self.senders();
        let valid =
            channel < self.attributes.channels && tc < self.attributes.tx_tcs && usize::from(index) < senders;
        let class = usize::from(channel) * usize::from(self.attributes.tx_tcs) + usize::from(tc);
        valid.then_some(class * senders + usize::from(index))
    }

    pub(crate) fn tx_queue(&self, channel: u8, tc: u8, index: u16) -> Option<Fqid> {
        self.tx_position(channel, tc, index).map(|position| self.tx[position])
    }

    pub(crate) fn tx_confirm_queue(&self, channel: u8, tc: u8, index: u16) -> Option<Fqid> {
        self.tx_position(channel, tc, index).map(|position| self.tx_confirm[position])
    }

    /// All its queues.
    pub(crate) fn queues(&self) -> impl Iterator<Item = Fqid> {
        self.rx.iter().chain(&self.tx).chain(&self.tx_confirm).chain([&self.rx_error]).copied()
    }

    /// Whether a destination address passes.
    pub(crate) fn admits(&self, destination: [u8; 6]) -> Option<Direct> {
        let settings = &self.settings;
        if self.options & option::NO_MAC_FILTER == 0
            && let Some((_, direct)) = settings.mac_filters.iter().find(|(mac, _)| *mac == destination)
        {
            return Some(*direct);
        }
        let is_group = destination[0] & 1 != 0;
        let promiscuous =
            if is_group { settings.multicast_promiscuous } else { settings.unicast_promiscuous };
        (promiscuous || destination == settings.mac).then_some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_starts_where_the_layout_says() {
        let dpdk = BufferLayout { pass: 7, data_align: 64, head_room: 64, ..BufferLayout::default() };
        assert_eq!(dpdk.data_offset(), 128);
        let odd = BufferLayout {
            pass: 0,
            private_size: 10,
            data_align: 16,
            head_room: 1,
            ..BufferLayout::default()
        };
        assert_eq!(odd.data_offset(), 16);
    }

    #[test]
    fn a_table_is_searched_by_index_and_keeps_to_its_size() {
        let mut table: Table<u8> = Table::new(2);
        let entry = |key: u8, mask: u8, action: u8| Entry { key: vec![key], mask: vec![mask], action };
        assert_eq!(table.add(Some(1), entry(0, 0, 9), false), Ok(()));
        assert_eq!(table.add(Some(0), entry(5, 255, 7), false), Ok(()));
        assert_eq!(table.add(Some(2), entry(6, 255, 7), false), Err(TableError::Full));
        assert_eq!(table.add(None, entry(5, 255, 8), false), Err(TableError::Exists));
        assert_eq!((table.look_up(&[5]), table.look_up(&[6])), (Some(7), Some(9)));
        assert_eq!(table.remove(&[5], &[255]), Ok(()));
        assert_eq!(table.remove(&[5], &[255]), Err(TableError::Missing));
        assert_eq!(table.look_up(&[5]), Some(9));
    }
}
