//! Divided queues as the control thread has them: from the file to what workers see, and what is shown of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::{PartitionRow, PoolLevel};
use dpaa2_port::PoolAccount;
use flow::OrderedMatches;
use port::{DropReason, PortCounters, PortId};
use switch_config::{Config, PartitionMapping, PartitionName, PortName, Receive};
use worker::{Part, Partition, PartitionCounters, Partitions, Queues, Sorted, Source, Spread};

use crate::dpaa2::{Hardware, tx_order};

/// The counters of every partition there has been since the switch was started, by owner (what was delivered to one stays
/// with it), and which ports' hardware sorts.
#[derive(Default)]
pub(crate) struct Divisions {
    counters: BTreeMap<(PartitionName, Option<PortName>), Vec<Arc<PartitionCounters>>>,
    sorting: BTreeSet<PortName>,
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
                delivered.extend(partition.counters.iter().map(|c| c.delivered.clone()));
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
        let counters = counters.or_insert_with(|| (0..workers).map(|_| Arc::default()).collect());
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
            counters: counters.clone(),
        }
    }

    /// A row for each partition: what workers counted, and what hardware says of pools and queues. `depths` tells how many
    /// frames wait in each queue of a port.
    pub fn rows(
        &self,
        config: &Config,
        hardware: &Hardware,
        depths: impl Fn(&PortName) -> Vec<u32>,
    ) -> Vec<PartitionRow> {
        let accounts = if self.sorting.is_empty() { vec![] } else { hardware.accounts() };
        let depths: BTreeMap<_, _> = self.sorting.iter().map(|port| (port, depths(port))).collect();
        let row = |partition: &switch_config::Partition| {
            let queues = usize::from(partition.queues.first())..=usize::from(partition.queues.last());
            let depths = depths.get(&partition.port).and_then(|depths| depths.get(queues));
            let queue_depths = depths.unwrap_or_default().iter().map(|&depth| depth.into()).collect();
            PartitionRow { queue_depths, ..self.row(config, partition, &accounts) }
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
        let counters = self.counters.get(&key).map_or(&[][..], |counters| counters);
        let sum = |f: fn(&PartitionCounters) -> u64| counters.iter().map(|c| f(c)).sum::<u64>();
        let dropped = |&reason: &DropReason| {
            let n: u64 = counters.iter().map(|c| c.delivered.drops(reason)).sum();
            (n > 0).then(|| (reason.name().to_owned(), n))
        };
        let matched = sum(|c| c.matched.get());
        let drops: BTreeMap<_, _> = DropReason::ALL.iter().filter_map(dropped).collect();
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
            queue_depths: vec![],
            matched,
            matched_bytes: sum(|c| c.matched_bytes.get()),
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
