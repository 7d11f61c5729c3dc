//! What it takes to get from one configuration to another while the switch runs.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use crate::config::{Bridge, Config, Driver, Flow, Guest, Partition, Port};
use crate::types::{BridgeName, GuestName, PartitionName, PortName};

/// What is different, in the order in which it is to be done: what goes first, then what changes, then what comes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Each can be done while the switch runs.
    pub changes: Vec<Change>,
    /// What can't: with any of these nothing at all is done.
    pub refused: Vec<Fixed>,
}

impl Diff {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refused.is_empty()
    }
}

/// One by one, a line each.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        for fixed in &self.refused {
            writeln!(f, "! {fixed}")?;
        }
        Ok(())
    }
}

/// Something that can be changed while the switch runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A guest that Ringway plays leaves.
    GuestRemoved(GuestName),
    /// A rule goes.
    FlowRemoved(Flow),
    /// A port goes.
    PortRemoved(PortName),
    /// A bridge goes, its ports and rules went before.
    BridgeRemoved(BridgeName),
    /// A bridge's limits change; what it learned stays, as far as there is room.
    BridgeChanged {
        /// What it is to be.
        bridge: Bridge,
        /// Keys that differ.
        keys: Vec<&'static str>,
    },
    /// A port changes as it is: its guest notices nothing but the change itself.
    PortChanged {
        /// What it is to be.
        port: Port,
        /// Keys that differ.
        keys: Vec<&'static str>,
    },
    /// A port is removed and added again: its guest is disconnected and connects anew.
    ///
    /// Take all of them out before any comes in: two may swap their sockets.
    PortReplaced {
        /// What it is to be.
        port: Port,
        /// Keys that differ, and need this.
        keys: Vec<&'static str>,
    },
    /// A partition goes.
    PartitionRemoved(PartitionName),
    /// A partition changes.
    PartitionChanged {
        /// What it is to be.
        partition: Partition,
        /// Keys that differ.
        keys: Vec<&'static str>,
    },
    /// A partition comes.
    PartitionAdded(Partition),
    /// A bridge comes.
    BridgeAdded(Bridge),
    /// A port comes.
    PortAdded(Port),
    /// A rule comes.
    FlowAdded(Flow),
    /// A guest that Ringway plays comes; a changed one leaves and comes again.
    GuestAdded(Guest),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::GuestRemoved(name) => write!(f, "- guest {name}"),
            Change::FlowRemoved(flow) => write!(f, "- flow on {}: {}", flow.bridge, flow.text),
            Change::PortRemoved(name) => write!(f, "- port {name}"),
            Change::BridgeRemoved(name) => write!(f, "- bridge {name}"),
            Change::BridgeChanged { bridge, keys } => {
                write!(f, "~ bridge {}: {}", bridge.name, keys.join(", "))
            }
            Change::PortChanged { port, keys } => write!(f, "~ port {}: {}", port.name, keys.join(", ")),
            Change::PortReplaced { port, keys } => {
                write!(f, "~ port {} (its peer is disconnected): {}", port.name, keys.join(", "))
            }
            Change::PartitionRemoved(name) => write!(f, "- partition {name}"),
            Change::PartitionChanged { partition, keys } => {
                write!(f, "~ partition {}: {}", partition.name, keys.join(", "))
            }
            Change::PartitionAdded(partition) => write!(
                f,
                "+ partition {} of {} ({}), queues {}",
                partition.name, partition.port, partition.owner, partition.queues
            ),
            Change::BridgeAdded(bridge) => write!(f, "+ bridge {}", bridge.name),
            Change::PortAdded(port) => {
                write!(f, "+ port {} on {} ({})", port.name, port.bridge, port.driver.word())
            }
            Change::FlowAdded(flow) => write!(f, "+ flow on {}: {}", flow.bridge, flow.text),
            Change::GuestAdded(guest) => write!(f, "+ guest {} ({})", guest.name, guest.role.kind()),
        }
    }
}

/// A key that can't change while the switch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Its path.
    pub key: &'static str,
    /// Why not, and what to do instead.
    pub reason: &'static str,
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can't change while the switch runs: {}", self.key, self.reason)
    }
}

/// Finds what is different.
///
/// Read `new` with [`crate::Context::after`], so that ports keep their numbers.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff { refused: fixed(old, new), changes: Vec::new() };
    let changes = &mut diff.changes;

    let (guests_gone, guests_new) = difference(&old.guests, &new.guests);
    let (flows_gone, flows_new) = difference(&old.flows, &new.flows);
    changes.extend(guests_gone.into_iter().map(|guest| Change::GuestRemoved(guest.name)));
    changes.extend(flows_gone.into_iter().map(Change::FlowRemoved));

    let gone = old.ports.iter().filter(|port| new.port(&port.name).is_none());
    changes.extend(gone.map(|port| Change::PortRemoved(port.name.clone())));
    let gone = old.bridges.iter().filter(|bridge| new.bridge(&bridge.name).is_none());
    // A port that moves to another bridge has to leave before the old one goes: it is replaced later, so the
    // bridge goes last of all.
    let bridges_gone: Vec<_> = gone.map(|bridge| Change::BridgeRemoved(bridge.name.clone())).collect();

    changes.extend(
        new.bridges.iter().filter(|b| old.bridge(&b.name).is_none()).cloned().map(Change::BridgeAdded),
    );
    for bridge in &new.bridges {
        let keys = old.bridge(&bridge.name).map(|old| bridge_keys(old, bridge)).unwrap_or_default();
        if !keys.is_empty() {
            changes.push(Change::BridgeChanged { bridge: bridge.clone(), keys });
        }
    }
    for port in &new.ports {
        match old.port(&port.name) {
            None => changes.push(Change::PortAdded(port.clone())),
            Some(before) => {
                let queues_differ = queues_of(old, port) != queues_of(new, port);
                changes.extend(port_change(before, port, queues_differ));
            }
        }
    }
    changes.extend(partition_changes(old, new));
    changes.extend(bridges_gone);
    changes.extend(flows_new.into_iter().map(Change::FlowAdded));
    changes.extend(guests_new.into_iter().map(Change::GuestAdded));
    diff
}

/// Elements of `old` that `new` hasn't got, and the other way round, each as often as that is so.
fn difference<T: Clone + Eq + Hash>(old: &[T], new: &[T]) -> (Vec<T>, Vec<T>) {
    (without(old, new), without(new, old))
}

/// The elements of `these` without one for each of `others`.
fn without<T: Clone + Eq + Hash>(these: &[T], others: &[T]) -> Vec<T> {
    let mut left: HashMap<&T, usize> = HashMap::new();
    for other in others {
        *left.entry(other).or_default() += 1;
    }
    let mut rest = Vec::new();
    for each in these {
        match left.get_mut(each) {
            Some(count) if *count > 0 => *count -= 1,
            _ => rest.push(each.clone()),
        }
    }
    rest
}

fn fixed(old: &Config, new: &Config) -> Vec<Fixed> {
    const START: &str =
        "it is set up when the switch starts, so stop it and start it again (guests reconnect)";
    let fixed = [
        ("workers.cores", old.workers.cores != new.workers.cores),
        ("workers.idle", old.workers.idle != new.workers.idle),
        ("workers.cache_flows", old.workers.caches.flows != new.workers.caches.flows),
        ("workers.cache_megaflows", old.workers.caches.megaflows != new.workers.caches.megaflows),
        ("workers.cache_masks", old.workers.caches.megaflow_masks != new.workers.caches.megaflow_masks),
        ("memory.huge_pages", old.memory.huge_pages != new.memory.huge_pages),
        ("memory.pool_buffers", old.memory.pool_buffers != new.memory.pool_buffers),
        ("control.socket", old.control.socket != new.control.socket),
        ("control.mode", old.control.mode != new.control.mode),
        ("fslmc", old.fslmc != new.fslmc),
        ("control.prometheus", old.control.prometheus != new.control.prometheus),
        ("vm", old.vms != new.vms),
    ];
    fixed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| Fixed { key, reason: START }).collect()
}

/// The keys that differ.
fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn bridge_keys(old: &Bridge, new: &Bridge) -> Vec<&'static str> {
    differing([
        ("mac_ageing_s", old.mac_ageing != new.mac_ageing),
        ("mac_limit", old.mac_limit != new.mac_limit),
        ("mac_limit_per_port", old.mac_limit_per_port != new.mac_limit_per_port),
    ])
}

/// What partitions want of a hardware port that can only be had when it is opened.
fn queues_of(config: &Config, port: &Port) -> Vec<impl PartialEq> {
    let hardware = |partition: &Partition| {
        let hardware = partition.hardware?;
        Some((partition.queues, hardware))
    };
    config.partitions_of(&port.name).filter_map(hardware).collect()
}

fn partition_changes(old: &Config, new: &Config) -> Vec<Change> {
    let find = |config: &Config, name: &PartitionName| config.partitions.iter().position(|p| p.name == *name);
    let gone = old.partitions.iter().filter(|partition| find(new, &partition.name).is_none());
    let mut changes: Vec<_> = gone.map(|gone| Change::PartitionRemoved(gone.name.clone())).collect();
    // Who goes before whom decides, too: compared with those that are in both.
    let order = |config: &Config, other: &Config, port: &PortName| -> Vec<PartitionName> {
        let both = config.partitions_of(port).filter(|partition| find(other, &partition.name).is_some());
        both.map(|partition| partition.name.clone()).collect()
    };
    for partition in &new.partitions {
        let Some(before) = find(old, &partition.name).map(|at| &old.partitions[at]) else {
            changes.push(Change::PartitionAdded(partition.clone()));
            continue;
        };
        let moved = |name| order(old, new, name).iter().position(|p| *p == partition.name);
        let place = order(new, old, &partition.port).iter().position(|p| *p == partition.name);
        let keys = differing([
            ("port", before.port != partition.port),
            ("matches", before.matches != partition.matches),
            ("queues", before.queues != partition.queues),
            ("owner", before.owner != partition.owner || before.owner_port != partition.owner_port),
            ("mapping", before.mapping != partition.mapping),
            ("receive", before.receive != partition.receive),
            ("source_mac", before.source_mac != partition.source_mac),
            ("source_ip", before.source_ip != partition.source_ip),
            ("dpbp, pool, tx_share, tx_mbps", before.hardware != partition.hardware),
            ("its place", before.port == partition.port && moved(&partition.port) != place),
        ]);
        if !keys.is_empty() {
            changes.push(Change::PartitionChanged { partition: partition.clone(), keys });
        }
    }
    changes
}

fn port_change(old: &Port, new: &Port, queues_differ: bool) -> Option<Change> {
    let mut replacing = differing([
        ("number", old.number != new.number),
        ("queues", old.queues != new.queues),
        ("queues, pools and shares of its partitions", queues_differ),
    ]);
    replacing.extend(driver_keys(&old.driver, &new.driver));
    if !replacing.is_empty() {
        return Some(Change::PortReplaced { port: new.clone(), keys: replacing });
    }
    let keys = differing([
        ("bridge", old.bridge != new.bridge),
        ("vlan", old.vlan != new.vlan),
        ("mtu", old.mtu != new.mtu),
        ("up", old.up != new.up),
        ("workers", old.placement != new.placement),
    ]);
    (!keys.is_empty()).then(|| Change::PortChanged { port: new.clone(), keys })
}

fn driver_keys(old: &Driver, new: &Driver) -> Vec<&'static str> {
    match (old, new) {
        (Driver::VhostUser(old), Driver::VhostUser(new)) => differing([
            ("socket", old.socket != new.socket),
            ("mode", old.mode != new.mode),
            ("permissions", old.permissions != new.permissions),
            ("the machine's user", old.owner != new.owner),
            ("mac", old.mac != new.mac),
            ("features_off", old.features_off != new.features_off),
        ]),
        (Driver::Tap(old), Driver::Tap(new)) => differing([
            ("device", old.device != new.device),
            ("netns", old.netns != new.netns),
            ("persistent", old.persistent != new.persistent),
        ]),
        (Driver::Pcap(old), Driver::Pcap(new)) => {
            differing([("read, rate, repeat", old.replay != new.replay), ("write", old.write != new.write)])
        }
        (Driver::Dpaa2(old), Driver::Dpaa2(new)) => differing([
            ("dpni", old.dpni != new.dpni),
            ("pool", old.pool != new.pool),
            ("tx_pool", old.tx_pool != new.tx_pool),
            ("mac", old.mac != new.mac),
            ("checksums", old.checksums != new.checksums),
            ("promiscuous", old.promiscuous != new.promiscuous),
            ("all_multicast", old.all_multicast != new.all_multicast),
            ("macs", old.macs != new.macs),
            ("vlan_filter", old.vlan_filter != new.vlan_filter),
            ("hash", old.hash != new.hash),
            ("rx_queue_kib", old.rx_queue_bytes != new.rx_queue_bytes),
            ("tx_mbps", old.tx_mbps != new.tx_mbps),
        ]),
        (Driver::Null, Driver::Null) | (Driver::Loop, Driver::Loop) => Vec::new(),
        _ => vec!["driver"],
    }
}
