//! Divided queues as the control thread has them: from the file to what workers see, and what is shown of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::{PartitionQueueRow, PartitionRow, PoolLevel};
use dpaa2_port::PoolAccount;
use flow::OrderedMatches;
use port::{DropReason, PortCounters, PortId};
use switch_config::{Config, PartitionMapping, PartitionName, PortName, Receive};
use worker::{Part, Partition, PartitionCounters, Partitions, QueueCounters, Queues, Sorted, Source, Spread};

use crate::dpaa2::{Hardware, Waiting, class_of, tx_order};

/// Why hardware drops frames of a partition: so many of it wait that its pool would soon be empty.
const CLASS_FULL: &str = "rx-queue-full";

/// The counters of every partition there has been since the switch was started, by owner (what was delivered to one stays
/// with it), and which ports' hardware sorts.
#[derive(Default)]
pub(crate) struct Divisions {
    counters: BTreeMap<(PartitionName, Option<PortName>), Counters>,
    sorting: BTreeSet<PortName>,
}

/// A partition's counters, with one owner: a set for each worker.
#[derive(Default)]
struct Counters {
    whole: Vec<Arc<PartitionCounters>>,
    /// By the number of the queue.
    queues: BTreeMap<u16, Vec<Arc<QueueCounters>>>,
}

impl Counters {
    /// Frames that came for these queues, and bytes of them.
    fn matched<'a>(of: impl Iterator<Item = &'a Arc<QueueCounters>>) -> (u64, u64) {
        of.fold((0, 0), |sum, c| (sum.0 + c.matched.get(), sum.1 + c.matched_bytes.get()))
    }

    /// Frames that were dropped instead of delivered, by reason.
    fn drops<'a>(of: impl Iterator<Item = &'a Arc<QueueCounters>> + Clone) -> BTreeMap<String, u64> {
        let dropped = |&reason: &DropReason| {
            let n: u64 = of.clone().map(|c| c.delivered.drops(reason)).sum();
            (n > 0).then(|| (reason.name().to_owned(), n))
        };
        DropReason::ALL.iter().filter_map(dropped).collect()
    }
}

impl Divisions {
    /// Says whether the hardware of a port sorts its frames by the table that is in force. Takes effect with the next
    /// tables.
    pub fn set_sorted(&mut self, port: &PortName, sorted: Sorted) {
        match sorted {
            Sorted::ByHardware => self.sorting.insert(port.clone()),
            Sorted::BySoftware => self.sorting.remove(port),
        };
    }

    /// Who sorts the frames of a port.
    pub fn sorted(&self, port: &PortName) -> Sorted {
        if self.sorting.contains(port) { Sorted::ByHardware } else { Sorted::BySoftware }
    }

    /// What ports have to do with divided queues; for owners with the counters of what is delivered to them.
    pub fn parts(
        &mut self,
        config: &Config,
        workers: usize,
    ) -> BTreeMap<PortId, (Part, Vec<Arc<PortCounters>>)> {
        let mut parts: BTreeMap<PortId, (Part, Vec<_>)> = BTreeMap::new();
        for port in &config.ports {
            let table: Vec<_> = config.partitions_of(&port.name).collect();
            if table.is_empty() {
                continue;
            }
            let id = PortId(port.number.get());
            let order = tx_order(&table);
            let tx = |n: usize| table[n].hardware.and(order.iter().position(|&at| at == n));
            let partitions: Vec<_> =
                table.iter().enumerate().map(|(n, p)| self.partition(config, tx(n), p, workers)).collect();
            for partition in &partitions {
                let Some(owner) = partition.owner else { continue };
                let (_, delivered) = parts.entry(owner).or_insert_with(|| (Part::Owner(id), vec![]));
                delivered.extend(partition.of_queues.iter().flatten().map(|c| c.delivered.clone()));
            }
            let divided = Partitions::new(matches_of(&table), partitions, self.sorted(&port.name));
            parts.insert(id, (Part::Divided(Arc::new(divided)), vec![]));
        }
        parts
    }

    fn partition(
        &mut self,
        config: &Config,
        tx: Option<usize>,
        partition: &switch_config::Partition,
        workers: usize,
    ) -> Partition {
        let counters = self.counters.entry((partition.name.clone(), partition.owner_port.clone()));
        let counters = counters.or_default();
        counters.whole.resize_with(workers, Arc::default);
        let numbers = partition.queues.first()..=partition.queues.last();
        for queue in numbers.clone() {
            counters.queues.entry(queue).or_default().resize_with(workers, Arc::default);
        }
        let of_worker = |worker: usize| -> Vec<Arc<QueueCounters>> {
            numbers.clone().map(|queue| counters.queues[&queue][worker].clone()).collect()
        };
        let owner = partition.owner_port.as_ref().and_then(|name| config.port(name));
        let queues = Queues { first: partition.queues.first(), count: partition.queues.count() };
        Partition {
            owner: owner.map(|port| PortId(port.number.get())),
            spread: match partition.mapping {
                PartitionMapping::Pairs => Spread::ByQueue,
                PartitionMapping::Hash => Spread::ByFlow,
            },
            queues,
            // An interface of DPAA2 has a transmit queue and class for each partition.
            tx: match tx {
                Some(queue) => Queues { first: queue as u16, count: 1 },
                None => queues,
            },
            source: Source {
                mac: partition.source_mac.map(|mac| mac.bytes()),
                ip: partition.source_ip.clone(),
            },
            is_polled: partition.receive == Receive::Poll,
            counters: counters.whole.clone(),
            of_queues: (0..workers).map(of_worker).collect(),
        }
    }

    /// A row for each partition: what workers counted, and what hardware says of pools and queues. `waiting` asks the
    /// hardware of a port.
    pub fn rows(
        &self,
        config: &Config,
        hardware: &Hardware,
        waiting: impl Fn(&PortName) -> Waiting,
    ) -> Vec<PartitionRow> {
        let accounts = if self.sorting.is_empty() { vec![] } else { hardware.accounts() };
        let waiting: BTreeMap<_, _> = self.sorting.iter().map(|port| (port, waiting(port))).collect();
        let row = |partition: &switch_config::Partition| {
            let mut row = self.row(config, partition, &accounts);
            let Some(waiting) = waiting.get(&partition.port) else { return row };
            for queue in &mut row.each_queue {
                queue.depth = waiting.depths.get(usize::from(queue.queue)).map(|&depth| depth.into());
            }
            let class = class_of(&config.partitions_of(&partition.port).collect::<Vec<_>>(), partition);
            let dropped = class.and_then(|class| waiting.dropped.get(class)).copied().unwrap_or(0);
            if dropped > 0 {
                row.drops.insert(CLASS_FULL.to_owned(), dropped);
            }
            row
        };
        config.partitions.iter().map(row).collect()
    }

    fn row(
        &self,
        config: &Config,
        partition: &switch_config::Partition,
        accounts: &[PoolAccount],
    ) -> PartitionRow {
        let dpbp = partition.hardware.and_then(|hardware| {
            let own = || match &config.port(&partition.port)?.driver {
                switch_config::Driver::Dpaa2(dpaa2) => Some(dpaa2.pool),
                _ => None,
            };
            hardware.dpbp.or_else(own)
        });
        let account = dpbp.and_then(|dpbp| accounts.iter().find(|a| a.dpbp.id == dpbp.number()));
        let key = (partition.name.clone(), partition.owner_port.clone());
        let none = Counters::default();
        let counters = self.counters.get(&key).unwrap_or(&none);
        let sum = |f: fn(&PartitionCounters) -> u64| counters.whole.iter().map(|c| f(c)).sum::<u64>();
        let all = counters.queues.values().flatten();
        let (matched, matched_bytes) = Counters::matched(all.clone());
        let drops = Counters::drops(all);
        let each_queue = (partition.queues.first()..=partition.queues.last()).map(|queue| {
            let of = counters.queues.get(&queue).map_or(&[][..], |of| of).iter();
            let (matched, drops) = (Counters::matched(of.clone()).0, Counters::drops(of));
            let delivered = matched.saturating_sub(drops.values().sum());
            PartitionQueueRow { queue, matched, delivered, drops, depth: None }
        });
        PartitionRow {
            name: partition.name.as_str().to_owned(),
            port: partition.port.as_str().to_owned(),
            rule: partition.matches.clone(),
            queues: partition.queues.to_string(),
            owner: partition.owner.to_string(),
            sorted: match self.sorted(&partition.port) {
                Sorted::ByHardware => "hardware".to_owned(),
                Sorted::BySoftware => "software".to_owned(),
            },
            pool: account.map(|account| PoolLevel {
                name: account.dpbp.to_string(),
                buffers: account.buffers.into(),
                free: account.free.into(),
            }),
            each_queue: each_queue.collect(),
            matched,
            matched_bytes,
            delivered: matched.saturating_sub(drops.values().sum()),
            drops,
            sent: sum(|c| c.sent.get()),
            refused: sum(|c| c.refused.get()),
        }
    }
}

fn matches_of(table: &[&switch_config::Partition]) -> OrderedMatches {
    let parsed: Vec<_> = table.iter().map(|partition| partition.parsed_matches()).collect();
    let numbered = parsed.iter().enumerate().flat_map(|(n, matches)| matches.iter().map(move |m| (n, m)));
    // The reader of the file takes only tables whose last partition takes the rest.
    OrderedMatches::new(numbered.map(|(n, m)| (m.key(), m.mask(), n as u8)), table.len() as u8 - 1)
}
