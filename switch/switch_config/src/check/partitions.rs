//! Tables that divide a port's queues: what single partitions can't tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use flow::{Field, FlowMask};
use flow_text::{Match, NoPorts, Ports};

use super::{Checker, Names, Unique, net_port};
use crate::config::{Driver, Partition, PartitionHardware, Port, TxShare};
use crate::keys::{PartitionKeys, VmKeys};
use crate::read::At;
use crate::types::{Dpbp, OwnerWord, PartitionName, PortName, QueueRange, shorten};

/// Partitions of a port at most.
pub const PARTITIONS_MAX: usize = 32;
/// Matches of a port's partitions at most: this bounds what a look-up costs in software, and is what the QoS table of a
/// DPAA2 interface holds.
pub const MATCHES_MAX: usize = 64;
/// Partitions of a DPAA2 interface at most: each is a traffic class with a pool of its own.
const CLASSES_MAX: usize = 8;
/// Queues of a traffic class: sizes that hardware distributes over.
const CLASS_QUEUES: &[u16] = &[1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32];

/// A machine as far as partitions are concerned: its name, the ports of its devices, the partitions these name.
pub(super) struct Machine {
    name: String,
    ports: Vec<PortName>,
    partitions: Vec<At<PartitionName>>,
}

impl Machine {
    pub(super) fn of(keys: &[VmKeys]) -> Vec<Machine> {
        let machine = |keys: &VmKeys| {
            let nets = || keys.net.iter().flat_map(|at| &at.value.items);
            Some(Machine {
                name: keys.name.as_ref()?.value.clone(),
                ports: nets().filter_map(|net| Some(net_port(net)?.value)).collect(),
                partitions: nets().filter_map(|net| net.partition.clone()).collect(),
            })
        };
        keys.iter().filter_map(machine).collect()
    }
}

/// Which bits of a frame partitions may look at: what DPAA2 hardware makes keys of.
fn allowed_fields() -> FlowMask {
    let mut mask = FlowMask::default();
    for field in [
        Field::EthDst,
        Field::EthSrc,
        Field::EthType,
        Field::IpProto,
        Field::TpSrc,
        Field::TpDst,
        Field::Ipv4Src,
        Field::Ipv4Dst,
        Field::Ipv6Src,
        Field::Ipv6Dst,
        Field::VlanTci,
    ] {
        mask.add(field, field.full());
    }
    // DSCP without ECN.
    mask.add(Field::IpTos, 0xfc);
    mask
}

const ALLOWED: &str = "dl_dst, dl_src, dl_vlan, dl_vlan_pcp, dl_type, arp_spa, arp_tpa, nw_src, nw_dst, ipv6_src, ipv6_dst, nw_proto, \
     nw_tos, tp_src, tp_dst and the words for protocols";

impl Checker<'_, '_, '_> {
    pub(super) fn partitions(
        &mut self,
        keys: Vec<PartitionKeys>,
        port_names: &Names<PortName>,
        ports: &[Port],
        machines: &[Machine],
    ) -> Vec<Partition> {
        let names = Names::of(keys.iter().map(|keys| &keys.name), "partition", self.reader);
        for named in machines.iter().flat_map(|machine| &machine.partitions) {
            names.require(named, self.reader);
        }
        let mut tables: BTreeMap<PortName, Vec<&PartitionKeys>> = BTreeMap::new();
        for keys in &keys {
            if let Some(port) = &keys.port {
                port_names.require(port, self.reader);
                tables.entry(port.value.clone()).or_default().push(keys);
            }
        }
        let mut pools = Unique::default();
        for (name, table) in &tables {
            let port = ports.iter().find(|port| port.name == *name);
            self.table(table, port, &mut pools);
        }
        let divided: BTreeSet<PortName> = tables.into_keys().collect();
        let mut divided_by = BTreeMap::new();
        let mut partitions = vec![];
        for keys in keys {
            let owner = self.owner(&keys, ports, machines);
            if let (Some(Some(owner)), Some(port), Some(at)) = (&owner, &keys.port, &keys.owner) {
                let other = divided_by.entry(owner.clone()).or_insert_with(|| port.value.clone());
                if *other != port.value {
                    let what = format!("port `{owner}` owns queues of port `{other}` already");
                    self.reader.error(&at.place, what, Some("queues of one port for each owner".to_owned()));
                }
                if divided.contains(owner) {
                    let what = format!("the queues of port `{owner}` are divided themselves");
                    self.reader.error(&at.place, what, Some("a port without partitions".to_owned()));
                }
            }
            let hardware = self.hardware(&keys, ports);
            let source_ip = self.source_ip(&keys);
            let complete = || {
                Some(Partition {
                    name: keys.name?.value,
                    port: keys.port?.value,
                    matches: keys.matches?.value.0.items.into_iter().map(|at| at.value).collect(),
                    queues: keys.queues?.value,
                    owner: keys.owner?.value,
                    owner_port: owner?,
                    mapping: keys.mapping?.value,
                    receive: keys.receive?.value,
                    source_mac: keys.source_mac.map(|at| at.value),
                    source_ip,
                    hardware,
                })
            };
            partitions.extend(complete());
        }
        partitions
    }

    /// The partitions of one port, in order.
    fn table(&mut self, table: &[&PartitionKeys], port: Option<&Port>, pools: &mut Unique<Dpbp>) {
        let last = table.last().expect("a table has an entry");
        let is_hardware = matches!(port, Some(Port { driver: Driver::Dpaa2(_), .. }));
        let most = if is_hardware { CLASSES_MAX } else { PARTITIONS_MAX };
        if let Some(excess) = table.get(most) {
            let what = format!("{} partitions are too many for the port", table.len());
            self.reader.error(&excess.place, what, Some(format!("at most {most}")));
        }
        self.matches(table, last);
        self.queues(table, is_hardware);
        let Some(Port { driver: Driver::Dpaa2(dpaa2), .. }) = port else { return };
        let mut without_pool = 0;
        for keys in table {
            match &keys.dpbp {
                Some(at) if at.value == dpaa2.pool || at.value == dpaa2.tx_pool => {
                    let what = format!("`{}` is a pool of the port itself", at.value);
                    self.reader.error(&at.place, what, Some("a pool of its own".to_owned()));
                }
                Some(at) => pools.claim(at.value, at.value, &at.place, self.reader),
                None => {
                    without_pool += 1;
                    if without_pool > 1 {
                        let what = "another partition uses the port's pool already";
                        self.reader.missing(&keys.place, what, Some("a `dpbp` of its own".to_owned()));
                    }
                    if let Some(pool) = &keys.pool {
                        let what = "`pool` has no meaning without `dpbp`";
                        let allowed = "[[fslmc.pool]] for the port's own pool";
                        self.reader.error(&pool.place, what, Some(allowed.to_owned()));
                    }
                }
            }
        }
    }

    fn matches(&mut self, table: &[&PartitionKeys], last: &PartitionKeys) {
        let mut earlier: Vec<(Match, String)> = vec![];
        let (mut count, mut has_default) = (0, false);
        for keys in table {
            let Some(at) = &keys.matches else {
                has_default |= std::ptr::eq(*keys, last);
                continue;
            };
            let texts = &at.value.0;
            if texts.items.is_empty() && texts.complete {
                let allowed = "at least one match, or \"any\" in the port's last partition";
                self.reader.error(&at.place, "no match is listed", Some(allowed.to_owned()));
            }
            for text in &texts.items {
                if text.value == Partition::ANY {
                    has_default = true;
                    if !std::ptr::eq(*keys, last) || texts.items.len() > 1 {
                        let allowed = "\"any\" alone, in the last partition of the port";
                        self.reader.error(&text.place, "nothing could follow this", Some(allowed.to_owned()));
                    }
                    continue;
                }
                count += 1;
                if count == MATCHES_MAX + 1 {
                    let what = "the partitions of the port have too many matches";
                    self.reader.error(&text.place, what, Some(format!("{MATCHES_MAX} in all")));
                }
                let Some(found) = self.one_match(text) else { continue };
                if let Some((_, path)) = earlier.iter().find(|(wide, _)| wide.covers(&found)) {
                    let what = format!("no frame comes this far: {path} takes them all");
                    self.reader.error(&text.place, what, Some("the narrower match first".to_owned()));
                }
                earlier.push((found, text.place.path.clone()));
            }
        }
        if !has_default {
            let what = "nobody gets the frames that no partition of the port matches";
            let allowed = "a last partition with match = \"any\"";
            self.reader.missing(&last.place, what, Some(allowed.to_owned()));
        }
    }

    fn one_match(&mut self, text: &At<String>) -> Option<Match> {
        match flow_text::parse_match(&text.value, &NoPorts as &dyn Ports) {
            Ok(found) if found.mask().is_empty() => {
                let what = format!("`{}` matches every frame", shorten(&text.value));
                self.reader.error(&text.place, what, Some("\"any\"".to_owned()));
                None
            }
            Ok(found) if !allowed_fields().contains(found.mask()) => {
                let what = format!("`{}` looks at what partitions can't match on", shorten(&text.value));
                self.reader.error(&text.place, what, Some(ALLOWED.to_owned()));
                None
            }
            Ok(found) => Some(found),
            Err(error) => {
                let what = format!("`{}`: {}", shorten(&error.word), error.problem);
                self.reader.error(&text.place, what, error.allowed);
                None
            }
        }
    }

    /// Ranges neither overlap nor leave queues to nobody.
    fn queues(&mut self, table: &[&PartitionKeys], is_hardware: bool) {
        let mut ranges: Vec<&At<QueueRange>> = vec![];
        let mut unread = false;
        for keys in table {
            let Some(at) = &keys.queues else {
                unread = true;
                continue;
            };
            if let Some(other) = ranges.iter().find(|other| other.value.overlaps(at.value)) {
                let what =
                    format!("queues {} overlap those of {} ({})", at.value, other.place.path, other.value);
                self.reader.error(&at.place, what, Some("queues that no other partition has".to_owned()));
                unread = true;
            }
            if is_hardware && !CLASS_QUEUES.contains(&at.value.count()) {
                let sizes: Vec<_> = CLASS_QUEUES.iter().map(u16::to_string).collect();
                let what = format!("hardware can't spread frames over {} queues", at.value.count());
                self.reader.error(&at.place, what, Some(format!("{} queues", sizes.join(", "))));
            }
            ranges.push(at);
        }
        if unread || self.reader.is_damaged() {
            return;
        }
        ranges.sort_by_key(|at| at.value.first());
        let mut next = 0;
        for at in ranges {
            let first = at.value.first();
            if first > next {
                let gap = QueueRange::new(next, first - 1).expect("below a queue there is");
                let what = format!("queues {gap} belong to no partition of the port");
                self.reader.error(&at.place, what, Some(format!("a range that begins at {next}")));
            }
            next = at.value.last() + 1;
        }
    }

    /// The owner's port: `None` inside for the bridge, outside when there is none.
    fn owner(
        &mut self,
        keys: &PartitionKeys,
        ports: &[Port],
        machines: &[Machine],
    ) -> Option<Option<PortName>> {
        let at = keys.owner.as_ref()?;
        let name = match &at.value {
            OwnerWord::Bridge => return Some(None),
            OwnerWord::Port(name) => name.clone(),
            OwnerWord::Vm(vm) => self.machine_port(keys, at, vm, machines)?,
        };
        for machine in machines {
            let is_other = !matches!(&at.value, OwnerWord::Vm(vm) if *vm == machine.name);
            if is_other
                && keys
                    .name
                    .as_ref()
                    .is_some_and(|own| machine.partitions.iter().any(|at| at.value == own.value))
            {
                let what = format!("a network device of machine `{}` names this partition", machine.name);
                self.reader.error(&at.place, what, Some(format!("owner = \"vm:{}\"", machine.name)));
                return None;
            }
        }
        let Some(port) = ports.iter().find(|port| port.name == name) else {
            let known: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
            let what = format!("there is no port `{name}`");
            self.reader.missing(&at.place, what, Some(known.join(", ")));
            return None;
        };
        if !matches!(port.driver, Driver::VhostUser(_)) {
            let what = format!("port `{name}` has driver = \"{}\"", port.driver.word());
            let allowed = "a port with driver = \"vhost-user\"";
            self.reader.error(&at.place, what, Some(allowed.to_owned()));
            return None;
        }
        let divided = keys.port.as_ref().and_then(|at| ports.iter().find(|port| port.name == at.value));
        if let Some(divided) = divided.filter(|divided| divided.bridge != port.bridge) {
            let what = format!("port `{name}` belongs to bridge `{}`", port.bridge);
            let allowed = format!("a port of bridge `{}`, as `{}` is", divided.bridge, divided.name);
            self.reader.error(&at.place, what, Some(allowed));
        }
        Some(Some(name))
    }

    fn machine_port(
        &mut self,
        keys: &PartitionKeys,
        at: &At<OwnerWord>,
        vm: &str,
        machines: &[Machine],
    ) -> Option<PortName> {
        let Some(machine) = machines.iter().find(|machine| machine.name == vm) else {
            let known: Vec<_> = machines.iter().map(|machine| machine.name.as_str()).collect();
            let what = format!("there is no machine `{}`", shorten(vm));
            let allowed =
                if known.is_empty() { "a [[vm]] of this name".to_owned() } else { known.join(", ") };
            self.reader.missing(&at.place, what, Some(allowed));
            return None;
        };
        let own = keys.name.as_ref().map(|at| at.value.as_str());
        let named = machine.ports.iter().find(|port| Some(port.as_str()) == own);
        match (named, machine.ports.as_slice()) {
            (Some(port), _) | (None, [port]) => Some(port.clone()),
            _ => {
                let what = format!("machine `{vm}` has {} network devices", machine.ports.len());
                let allowed = "the device that is meant has `partition` with this partition's name";
                self.reader.error(&at.place, what, Some(allowed.to_owned()));
                None
            }
        }
    }

    fn source_ip(&mut self, keys: &PartitionKeys) -> Vec<IpAddr> {
        let listed: Vec<_> = keys.source_ip.iter().flat_map(|at| &at.value.items).collect();
        if let Some(at) = keys.source_ip.as_ref().filter(|at| at.value.items.is_empty() && at.value.complete)
        {
            let allowed = "at least one address, or no `source_ip` at all";
            self.reader.error(&at.place, "no address is listed", Some(allowed.to_owned()));
        }
        if let Some(OwnerWord::Bridge) = keys.owner.as_ref().map(|at| &at.value) {
            let places =
                [keys.source_mac.as_ref().map(|at| &at.place), keys.source_ip.as_ref().map(|at| &at.place)];
            for place in places.into_iter().flatten() {
                let what = "what a bridge sends isn't checked";
                self.reader.error(place, what, Some("owner = \"port:...\" or \"vm:...\"".to_owned()));
            }
        }
        let unique: BTreeSet<IpAddr> = listed.iter().map(|at| at.value.0).collect();
        unique.into_iter().collect()
    }

    fn tx_share(&mut self, keys: &PartitionKeys) -> TxShare {
        match (&keys.tx_share, &keys.tx_mbps) {
            (Some(_), Some(rate)) => {
                let what =
                    "a partition with a rate has a transmit channel of its own, and no share of another one";
                self.reader.error(&rate.place, what, Some("either `tx_share` or `tx_mbps`".to_owned()));
                TxShare::EQUAL
            }
            (Some(share), None) => share.value,
            (None, Some(rate)) => TxShare::Limited(rate.value.get()),
            (None, None) => TxShare::EQUAL,
        }
    }

    /// What belongs to DPAA2 hardware.
    fn hardware(&mut self, keys: &PartitionKeys, ports: &[Port]) -> Option<PartitionHardware> {
        let port = ports.iter().find(|port| keys.port.as_ref().is_some_and(|at| at.value == port.name))?;
        if !matches!(port.driver, Driver::Dpaa2(_)) {
            for (place, key) in [
                (keys.dpbp.as_ref().map(|at| &at.place), "dpbp"),
                (keys.pool.as_ref().map(|at| &at.place), "pool"),
                (keys.tx_share.as_ref().map(|at| &at.place), "tx_share"),
                (keys.tx_mbps.as_ref().map(|at| &at.place), "tx_mbps"),
            ] {
                if let Some(place) = place {
                    let what =
                        format!("`{key}` has no meaning on a port with driver = \"{}\"", port.driver.word());
                    let allowed =
                        "driver = \"dpaa2\"; elsewhere the owner's own receive buffers are its pool";
                    self.reader.error(place, what, Some(allowed.to_owned()));
                }
            }
            return None;
        }
        Some(PartitionHardware {
            dpbp: keys.dpbp.as_ref().map(|at| at.value),
            pool: keys.pool.as_ref().map(|at| at.value.get()),
            tx_share: self.tx_share(keys),
        })
    }
}
