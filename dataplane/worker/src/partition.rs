//! Queues of a port that are divided among owners.
//!
//! A port with [`Partitions`] has a table: which frames belong to which partition, and who owns it. What belongs to the
//! bridge goes on as ever. What belongs to another port goes there at once, past all rules; what that port sends goes by
//! the same table: to other owners, or out by the divided port. Hardware that knows the table has sorted its frames into
//! queues before they come here, and nothing of them is looked at.

use std::net::IpAddr;
use std::sync::Arc;

use flow::{Field, FlowKey, OrderedMatches};
use port::{Counter, PortCounters, PortId};

/// Most partitions of a port.
pub const PARTITIONS_MAX: usize = 32;

/// What a port has to do with divided queues.
#[derive(Clone)]
pub enum Part {
    /// Its queues are divided.
    Divided(Arc<Partitions>),
    /// It owns queues of this port, which is divided.
    Owner(PortId),
}

/// Who gets the frames of a port.
pub struct Partitions {
    matches: OrderedMatches,
    partitions: Vec<Partition>,
    /// By receive queue, where hardware knows the table.
    by_queue: Vec<u8>,
    /// The partition whose transmit queues the bridge uses.
    of_bridge: usize,
}

/// Who sorts the frames of a divided port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sorted {
    /// The worker, one by one.
    BySoftware,
    /// Hardware: the queue a frame comes by says whose it is.
    ByHardware,
}

/// Queues that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// The first.
    pub first: u16,
    /// How many, at least one.
    pub count: u16,
}

/// A part of a port's queues, and whose it is.
#[derive(Clone)]
pub struct Partition {
    /// Who gets its frames; none for the bridge.
    pub owner: Option<PortId>,
    /// Which of the owner's queues gets a frame.
    pub spread: Spread,
    /// Its receive queues.
    pub queues: Queues,
    /// The transmit queues of the port that are its own.
    pub tx: Queues,
    /// What its owner may send from.
    pub source: Source,
    /// Whether workers that serve it never sleep.
    pub is_polled: bool,
    /// Counters, one set a worker.
    pub counters: Vec<Arc<PartitionCounters>>,
    /// Counters of each of its receive queues, one set a worker.
    pub of_queues: Vec<Vec<Arc<QueueCounters>>>,
}

/// Which of the owner's queues gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The one of the same number as the frame's in the partition; in turn, if there are fewer.
    ByQueue,
    /// The one that a hash of the frame's flow says.
    ByFlow,
}

/// What an owner may send from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its only Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Its only IP addresses; any if empty.
    pub ip: Vec<IpAddr>,
}

impl Source {
    /// Whether a frame with this key is its own: its Ethernet source, and what IP, ARP and neighbour discovery say of
    /// the sender.
    pub fn permits(&self, key: &FlowKey) -> bool {
        self.permits_mac(key) && self.permits_ip(key)
    }

    fn permits_mac(&self, key: &FlowKey) -> bool {
        let Some(mac) = self.mac else { return true };
        let [a, b, c, d, e, f] = mac;
        let mac = u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
        let arp = key.get(Field::ArpSha);
        key.get(Field::EthSrc) == mac && (arp == 0 || !is_arp(key) || arp == mac)
    }

    fn permits_ip(&self, key: &FlowKey) -> bool {
        if self.ip.is_empty() {
            return true;
        }
        match key.get(Field::EthType) {
            0x0800 | 0x0806 => {
                let from = key.get(Field::Ipv4Src) as u32;
                self.ip.iter().any(|ip| matches!(ip, IpAddr::V4(ip) if ip.to_bits() == from))
            }
            0x86dd => {
                let from = key.get(Field::Ipv6Src);
                self.ip.iter().any(|ip| matches!(ip, IpAddr::V6(ip) if ip.to_bits() == from))
            }
            _ => true,
        }
    }
}

fn is_arp(key: &FlowKey) -> bool {
    matches!(key.get(Field::EthType), 0x0806 | 0x8035)
}

/// Counters of a partition as seen by one worker.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PartitionCounters {
    /// Frames that its owner sent, those it may not send left out.
    pub sent: Counter,
    /// Frames that its owner may not send.
    pub refused: Counter,
}

/// Counters of a partition's receive queue as seen by one worker. Where software sorts, the queue of a frame is that of its
/// owner which it goes to, and the bridge has the first only.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct QueueCounters {
    /// Frames that came for it, whoever sent them.
    pub matched: Counter,
    /// Bytes of them.
    pub matched_bytes: Counter,
    /// What became of those that came for an owner's port: sent there, or dropped.
    pub delivered: Arc<PortCounters>,
}

impl Partitions {
    /// A table. `matches` says which partition a frame belongs to.
    ///
    /// # Panics
    /// Without partitions, with more than [`PARTITIONS_MAX`], when `matches` speaks of others, or a queue has no counters.
    pub fn new(matches: OrderedMatches, partitions: Vec<Partition>, sorted: Sorted) -> Partitions {
        assert!((1..=PARTITIONS_MAX).contains(&partitions.len()), "{} partitions", partitions.len());
        assert!(usize::from(matches.default_value()) < partitions.len(), "everything has a partition");
        for partition in &partitions {
            let has_all = |of: &Vec<_>| of.len() == usize::from(partition.queues.count);
            assert!(partition.of_queues.iter().all(has_all), "each queue has its counters");
        }
        let mut by_queue = vec![];
        if sorted == Sorted::ByHardware {
            let queues = partitions.iter().map(|p| p.queues.first + p.queues.count).max().unwrap_or(0);
            by_queue.resize(queues.into(), matches.default_value());
            for (number, partition) in partitions.iter().enumerate() {
                let Queues { first, count } = partition.queues;
                by_queue[first.into()..(first + count).into()].fill(number as u8);
            }
        }
        let default = usize::from(matches.default_value());
        let of_bridge = partitions.iter().position(|partition| partition.owner.is_none()).unwrap_or(default);
        Partitions { matches, partitions, by_queue, of_bridge }
    }

    /// The partitions, in order.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition of what comes by a receive queue, if its number says that.
    #[inline]
    pub(crate) fn of_queue(&self, queue: usize) -> Option<&Partition> {
        Some(&self.partitions[usize::from(*self.by_queue.get(queue)?)])
    }

    /// Whether hardware knows the table.
    #[inline]
    pub(crate) fn is_sorted_by_hardware(&self) -> bool {
        !self.by_queue.is_empty()
    }

    /// The number of the partition that a frame belongs to.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey) -> usize {
        self.matches.find(key).into()
    }

    /// Whether this partition takes what no other one matches.
    #[inline]
    pub(crate) fn is_default(&self, number: usize) -> bool {
        number == usize::from(self.matches.default_value())
    }

    /// The partition with this number.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> &Partition {
        &self.partitions[number]
    }

    /// The partition whose transmit queues an owner uses: its first.
    pub(crate) fn of_owner(&self, owner: PortId) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.owner == Some(owner))
    }

    /// The one whose transmit queues the bridge uses.
    pub(crate) fn of_bridge(&self) -> &Partition {
        &self.partitions[self.of_bridge]
    }

    /// Whether an owner may send a frame with this key: one of its partitions permits it.
    pub(crate) fn permits(&self, owner: PortId, key: &FlowKey) -> bool {
        let mut own = self.partitions.iter().filter(|partition| partition.owner == Some(owner));
        own.any(|partition| partition.source.permits(key))
    }

    /// Whether workers that receive from this queue of the port never sleep.
    pub(crate) fn is_polled(&self, queue: usize) -> bool {
        match self.of_queue(queue) {
            Some(partition) => partition.is_polled,
            None => self.partitions.iter().any(|partition| partition.is_polled),
        }
    }
}
