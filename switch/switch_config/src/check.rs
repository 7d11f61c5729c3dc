//! From keys to a [`Config`]: what single keys can't tell. Every finding is booked, none ends the search.

mod partitions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::config::*;
use crate::flows::PortNumbers;
use crate::keys::*;
use crate::read::{At, FromToml, List, Node, Place, Reader, quoted, unknown_word};
use crate::types::{
    BridgeName, CpuId, CpuSet, EtherAddr, IfName, MacAddr, Mtu, PartitionName, PortName, PortNumber,
    QueuePairs, SocketPath, VlanId, shorten,
};

pub use partitions::{MATCHES_MAX, PARTITIONS_MAX};

/// What a file is checked against besides itself.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Processors of the machine; any will do if `None`.
    pub cpus: Option<CpuSet>,
    /// The folder where relative paths start; they stay as they are if `None`.
    pub base: Option<PathBuf>,
    /// Numbers that ports without a `number` keep, because they have them already.
    pub numbers: BTreeMap<PortName, PortNumber>,
}

impl Context {
    /// The same, for a file that succeeds `running`: its ports keep their numbers, wherever they now stand in
    /// the file.
    pub fn after(mut self, running: &Config) -> Self {
        self.numbers = running.ports.iter().map(|port| (port.name.clone(), port.number)).collect();
        self
    }
}

/// Ports in a file at most.
pub const PORTS_MAX: usize = 1024;

pub(crate) fn check(file: File, context: &Context, reader: &mut Reader<'_>) -> Option<Config> {
    let mut checker = Checker { context, sockets: Unique::default(), reader };
    let workers = table(file.workers, &file.place, checker.reader);
    let cores = workers.cores.as_ref().and_then(|cores| checker.cores(cores));
    let memory = table(file.memory, &file.place, checker.reader);
    let control = table(file.control, &file.place, checker.reader);
    let control = checker.control(control);
    let has_fslmc = file.fslmc.is_some();
    let fslmc = file.fslmc.map(|keys| checker.fslmc(keys));
    let bridge_keys = list(file.bridge);
    let mut port_keys = list(file.port);
    let vm_keys = list(file.vm);
    let partition_keys = list(file.partition);
    let base = control.as_ref().map(|control| control.socket.as_path().to_owned());
    port_keys.extend(implied_ports(&vm_keys, &port_keys, &bridge_keys, &partition_keys, base.as_deref()));
    let bridge_names = Names::of(bridge_keys.iter().map(|keys| &keys.name), "bridge", checker.reader);
    let port_names = Names::of(port_keys.iter().map(|keys| &keys.name), "port", checker.reader);

    let ports = checker.ports(port_keys, &bridge_names, cores.as_deref(), has_fslmc);
    let flows = list(file.flow)
        .into_iter()
        .filter_map(|keys| checker.flow(keys, &bridge_names, &port_names, &ports))
        .collect();
    let guests = checker.guests(list(file.guest), &port_names, &ports);
    let machines = partitions::Machine::of(&vm_keys);
    let partitions = checker.partitions(partition_keys, &port_names, &ports, &machines);
    let vms = checker.vms(vm_keys, &ports, base.as_deref());
    let ports = owned(ports, &vms);
    Some(Config {
        workers: Workers { cores: cores?, idle: idle(&workers)?, caches: caches(&workers)? },
        memory: Memory {
            huge_pages: memory.huge_pages?.value,
            pool_buffers: memory.pool_buffers?.value.get(),
        },
        control: control?,
        fslmc: match fslmc {
            Some(fslmc) => Some(fslmc?),
            None => None,
        },
        bridges: bridge_keys.into_iter().filter_map(bridge).collect(),
        ports,
        partitions,
        flows,
        guests,
        vms,
    })
}

/// Sockets belong to the users of the machines that connect to them.
fn owned(mut ports: Vec<Port>, vms: &[vmm_config::Vm]) -> Vec<Port> {
    for vm in vms {
        let sockets: Vec<_> = vm.sockets().collect();
        for port in &mut ports {
            if let Driver::VhostUser(vhost) = &mut port.driver
                && sockets.contains(&vhost.socket.as_path())
            {
                vhost.owner.clone_from(&vm.user);
            }
        }
    }
    ports
}

/// The ports that virtual machines name and the file doesn't list: vhost-user, with a socket beside the control socket.
fn implied_ports(
    vms: &[VmKeys],
    ports: &[PortKeys],
    bridges: &[BridgeKeys],
    partitions: &[PartitionKeys],
    control: Option<&Path>,
) -> Vec<PortKeys> {
    let listed: BTreeSet<_> = ports.iter().filter_map(|keys| Some(&keys.name.as_ref()?.value)).collect();
    let first_bridge = bridges.first().and_then(|keys| keys.name.as_ref());
    // The owner of a partition belongs to the bridge of the port that is divided.
    let divided_bridge = |partition: &PartitionName| {
        let named = |keys: &&PartitionKeys| keys.name.as_ref().is_some_and(|at| at.value == *partition);
        let port = &partitions.iter().find(named)?.port.as_ref()?.value;
        ports.iter().find(|keys| keys.name.as_ref().is_some_and(|at| at.value == *port))?.bridge.as_ref()
    };
    let nets = vms.iter().flat_map(|vm| vm.net.iter().flat_map(|at| &at.value.items));
    let of_switch = |net: &&VmNetKeys| {
        net.backend.as_ref().is_some_and(|backend| backend.value == VmNetBackend::VhostUser)
    };
    let nets = nets.filter(of_switch);
    let implied = nets.filter_map(|net| {
        let name = net_port(net).filter(|name| !listed.contains(&name.value))?;
        let bridge = net.partition.as_ref().and_then(|at| divided_bridge(&at.value)).or(first_bridge);
        let place = &net.place;
        let at = |value| At { value, place: place.clone() };
        let socket = vmm_config::port_path(control?, name.value.as_str());
        Some(PortKeys {
            place: place.clone(),
            name: Some(name),
            bridge: net.bridge.clone().or_else(|| Some(At { place: place.clone(), ..bridge?.clone() })),
            driver: Some(At { value: DriverKind::VhostUser, place: place.clone() }),
            mtu: Some(At { value: Mtu::ETHERNET, place: place.clone() }),
            up: Some(At { value: true, place: place.clone() }),
            queues: Some(net.queues.clone().unwrap_or(At { value: QueuePairs::ONE, place: place.clone() })),
            socket: Some(at(socket.to_string_lossy().into_owned())),
            ..PortKeys::default()
        })
    });
    implied.collect()
}

/// The port that a network device is one side of: that of a partition has the partition's name.
fn net_port(net: &VmNetKeys) -> Option<At<PortName>> {
    let partition = || {
        let at = net.partition.as_ref()?;
        Some(At { value: at.value.as_str().parse().ok()?, place: at.place.clone() })
    };
    net.port.clone().or_else(partition)
}

/// The keys of a table; with every default if the file doesn't have it.
fn table<T: FromToml>(keys: Option<At<T>>, file: &Place, reader: &mut Reader<'_>) -> T {
    if let Some(keys) = keys {
        return keys.value;
    }
    let empty = DeValue::Table(DeTable::new());
    let node = Node { value: &empty, place: file.clone() };
    T::from_toml(node, reader).expect("an empty table is a table")
}

fn list<T>(keys: Option<At<List<T>>>) -> Vec<T> {
    keys.map(|keys| keys.value.items).unwrap_or_default()
}

fn idle(keys: &WorkersKeys) -> Option<Idle> {
    let after = Duration::from_micros(keys.sleep_after_us.as_ref()?.value.get().into());
    Some(match keys.idle.as_ref()?.value {
        IdleKind::Poll => Idle::Poll,
        IdleKind::Sleep => Idle::Sleep { after },
    })
}

fn caches(keys: &WorkersKeys) -> Option<Caches> {
    Some(Caches {
        flows: keys.cache_flows.as_ref()?.value.get().next_power_of_two(),
        megaflows: keys.cache_megaflows.as_ref()?.value.get(),
        megaflow_masks: keys.cache_masks.as_ref()?.value.get(),
    })
}

fn bridge(keys: BridgeKeys) -> Option<Bridge> {
    let mac_limit = keys.mac_limit?.value.get();
    Some(Bridge {
        name: keys.name?.value,
        mac_ageing: Duration::from_secs(keys.mac_ageing_s?.value.get().into()),
        mac_limit,
        mac_limit_per_port: keys.mac_limit_per_port?.value.get().min(mac_limit),
    })
}

/// Values that may be there once, each with the place that has it.
struct Unique<T>(BTreeMap<T, (String, usize)>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Unique<T> {
    /// Books an error if the value is taken.
    fn claim(&mut self, value: T, shown: impl Display, place: &Place, reader: &mut Reader<'_>) {
        let line = reader.line(place);
        if let Some((path, line)) = self.0.get(&value) {
            let what = format!("`{shown}` is taken by {path} in line {line}");
            reader.error(place, what, Some("a value of its own".to_owned()));
        } else {
            self.0.insert(value, (place.path.clone(), line));
        }
    }
}

/// The names that others may refer to.
struct Names<T> {
    what: &'static str,
    known: BTreeSet<T>,
    /// A name couldn't be read: references may mean that one.
    some_unread: bool,
}

impl<T: Ord + Clone + AsRef<str> + Display> Names<T> {
    fn of<'a>(
        names: impl Iterator<Item = &'a Option<At<T>>>,
        what: &'static str,
        reader: &mut Reader<'_>,
    ) -> Self
    where
        T: 'a,
    {
        let mut this = Self { what, known: BTreeSet::new(), some_unread: false };
        let mut unique = Unique::default();
        for name in names {
            match name {
                Some(at) => {
                    unique.claim(at.value.clone(), &at.value, &at.place, reader);
                    this.known.insert(at.value.clone());
                }
                None => this.some_unread = true,
            }
        }
        this
    }

    /// Books an error if there is no such name.
    fn require(&self, name: &At<T>, reader: &mut Reader<'_>) {
        if self.known.contains(&name.value) || self.some_unread {
            return;
        }
        let words: Vec<&str> = self.known.iter().map(AsRef::as_ref).collect();
        let (what, allowed) = if words.is_empty() {
            (
                format!("there is no {} in this file", self.what),
                format!("add a [[{}]] with this name", self.what),
            )
        } else {
            let unknown = unknown_word(self.what, name.value.as_ref(), &words);
            (unknown.what, unknown.allowed)
        };
        reader.missing(&name.place, what, Some(allowed));
    }
}

struct Checker<'a, 'r, 't> {
    context: &'a Context,
    sockets: Unique<SocketPath>,
    reader: &'r mut Reader<'t>,
}

impl Checker<'_, '_, '_> {
    fn base(&self) -> Option<&Path> {
        self.context.base.as_deref()
    }

    fn cores(&mut self, cores: &At<List<At<CpuId>>>) -> Option<Vec<CpuId>> {
        if cores.value.items.is_empty() && cores.value.complete {
            self.reader.error(&cores.place, "no core is listed", Some("at least one".to_owned()));
        }
        let mut unique = Unique::default();
        for core in &cores.value.items {
            unique.claim(core.value, core.value, &core.place, self.reader);
            if let Some(cpus) = self.context.cpus.as_ref().filter(|cpus| !cpus.contains(core.value)) {
                let what = format!("this machine has no processor {}", core.value);
                self.reader.error(&core.place, what, Some(cpus.to_string()));
            }
        }
        cores.value.complete.then(|| cores.value.items.iter().map(|core| core.value).collect())
    }

    fn control(&mut self, keys: ControlKeys) -> Option<Control> {
        let socket = self.socket(&keys.socket?);
        let public = keys.prometheus_public?.value;
        if let Some(at) = keys.prometheus.as_ref().filter(|at| !at.value.0.ip().is_loopback() && !public) {
            self.reader.error(
                &at.place,
                format!("other machines reach {}", at.value.0),
                Some(
                    "a loopback address such as \"127.0.0.1:9090\", or `prometheus_public = true`".to_owned(),
                ),
            );
        }
        let prometheus = keys.prometheus.map(|at| at.value.0);
        Some(Control { socket: socket?, mode: keys.mode?.value, prometheus })
    }

    /// A socket that the switch itself makes or connects to.
    fn socket(&mut self, path: &At<String>) -> Option<SocketPath> {
        let socket = self.socket_unclaimed(path)?;
        self.sockets.claim(socket.clone(), &socket, &path.place, self.reader);
        Some(socket)
    }

    fn socket_unclaimed(&mut self, path: &At<String>) -> Option<SocketPath> {
        let socket = socket_path(&path.value, self.base());
        socket.map_err(|invalid| self.reader.invalid(&path.place, invalid)).ok()
    }

    fn file(&mut self, path: &At<String>) -> Option<PathBuf> {
        if path.value.is_empty() || path.value.contains('\0') {
            self.reader.error(&path.place, "this is no file's path", None);
            return None;
        }
        Some(file_path(&path.value, self.base()))
    }

    /// Books each of these keys as one that belongs to something else.
    fn misplaced(&mut self, keys: &[(Option<&Place>, &str, &[&str])], chosen: &str, choice: &str) {
        for (place, key, owners) in keys {
            if let Some(place) = place.filter(|_| !owners.contains(&chosen)) {
                let what = format!("`{key}` has no meaning with {choice} = \"{chosen}\"");
                self.reader.error(place, what, Some(format!("{choice} = {}", quoted(owners))));
            }
        }
    }

    fn ports(
        &mut self,
        keys: Vec<PortKeys>,
        bridges: &Names<BridgeName>,
        cores: Option<&[CpuId]>,
        has_fslmc: bool,
    ) -> Vec<Port> {
        if let Some(excess) = keys.get(PORTS_MAX) {
            let what = format!("{} ports are too many", keys.len());
            self.reader.error(&excess.place, what, Some(format!("at most {PORTS_MAX}")));
        }
        let mut numbers = self.numbers(&keys).into_iter();
        let mut devices = Unique::default();
        let mut captures = Unique::default();
        let mut interfaces = Unique::default();
        let mut macs = Unique::default();
        let ports = keys.into_iter().filter_map(|keys| {
            let number = numbers.next().expect("one for each port");
            if let Some(bridge) = &keys.bridge {
                bridges.require(bridge, self.reader);
            }
            let vlan = self.vlan(&keys);
            let placement = self.placement(&keys, cores);
            let driver = self.driver(&keys, number, &mut macs);
            if let (Some(Driver::Dpaa2(dpaa2)), Some(dpni)) = (&driver, &keys.dpni) {
                interfaces.claim(dpaa2.dpni, dpaa2.dpni, &dpni.place, self.reader);
                if !has_fslmc {
                    let what = "driver = \"dpaa2\" needs the section `[fslmc]`";
                    self.reader.missing(&keys.place, what, Some("`bus` and `container`".to_owned()));
                }
            }
            match (&driver, &keys.device, &keys.write) {
                (Some(Driver::Tap(tap)), device, _) => {
                    let place = device.as_ref().map_or(&keys.place, |at| &at.place);
                    devices.claim((tap.netns.clone(), tap.device.clone()), &tap.device, place, self.reader);
                }
                (Some(Driver::Pcap(Pcap { write: Some(path), .. })), _, Some(at)) => {
                    captures.claim(path.clone(), path.display(), &at.place, self.reader);
                }
                _ => {}
            }
            Some(Port {
                name: keys.name?.value,
                number,
                bridge: keys.bridge?.value,
                vlan: vlan?,
                mtu: keys.mtu?.value,
                up: keys.up?.value,
                queues: keys.queues?.value,
                placement: placement?,
                driver: driver?,
            })
        });
        ports.collect()
    }

    /// A number for each port: its own, the one it had, or the first free one.
    fn numbers(&mut self, keys: &[PortKeys]) -> Vec<PortNumber> {
        let mut unique = Unique::default();
        let mut taken = BTreeSet::new();
        for at in keys.iter().filter_map(|keys| keys.number.as_ref()) {
            unique.claim(at.value, at.value, &at.place, self.reader);
            taken.insert(at.value);
        }
        let mut numbers: Vec<Option<PortNumber>> = Vec::new();
        for keys in keys {
            let own = keys.number.as_ref().map(|at| at.value);
            let had = || self.context.numbers.get(&keys.name.as_ref()?.value).copied();
            numbers.push(own.or_else(|| had().filter(|number| taken.insert(*number))));
        }
        // A number that a removed port had is free, but one that a listed port keeps is not.
        let mut free = (1..).map_while(PortNumber::new).filter(|number| !taken.contains(number));
        let last = PortNumber::new(*PortNumber::RANGE.end()).expect("in range");
        // Past the last number the file has too many ports, which is booked already.
        numbers.into_iter().map(|number| number.or_else(|| free.next()).unwrap_or(last)).collect()
    }

    fn vlan(&mut self, keys: &PortKeys) -> Option<VlanMode> {
        let mode = keys.vlan_mode.as_ref().map(|at| at.value);
        let mode =
            mode.unwrap_or(if keys.tag.is_some() { VlanModeKind::Access } else { VlanModeKind::Trunk });
        let place = keys.vlan_mode.as_ref().map_or(&keys.place, |at| &at.place);
        let tag = keys.tag.as_ref().map(|at| at.value);
        if mode != VlanModeKind::Trunk && tag.is_none() {
            let what = format!("vlan_mode = \"{mode}\" needs a `tag`");
            self.reader.missing(place, what, Some("tag = 0 to 4094".to_owned()));
        }
        let needs_tag: &[&str] = &["access", "native-tagged", "native-untagged"];
        let needs_trunks: &[&str] = &["trunk", "native-tagged", "native-untagged"];
        self.misplaced(
            &[
                (keys.tag.as_ref().map(|at| &at.place), "tag", needs_tag),
                (keys.trunks.as_ref().map(|at| &at.place), "trunks", needs_trunks),
            ],
            mode.word(),
            "vlan_mode",
        );
        let trunks = match &keys.trunks {
            None => VlanSet::All,
            Some(at) if at.value.items.is_empty() && at.value.complete => {
                let allowed = "at least one VLAN, or no `trunks` at all for all VLANs";
                self.reader.error(&at.place, "no VLAN is listed", Some(allowed.to_owned()));
                VlanSet::All
            }
            Some(at) => VlanSet::Some(
                at.value.items.iter().flat_map(|range| range.0.clone()).filter_map(VlanId::new).collect(),
            ),
        };
        Some(match mode {
            VlanModeKind::Access => VlanMode::Access { tag: tag? },
            VlanModeKind::Trunk => VlanMode::Trunk { trunks },
            VlanModeKind::NativeTagged => VlanMode::NativeTagged { tag: tag?, trunks },
            VlanModeKind::NativeUntagged => VlanMode::NativeUntagged { tag: tag?, trunks },
        })
    }

    fn placement(&mut self, keys: &PortKeys, cores: Option<&[CpuId]>) -> Option<Placement> {
        let Some(at) = &keys.workers else { return Some(Placement::Even) };
        if at.value.items.is_empty() && at.value.complete {
            let allowed = "at least one core, or no `workers` at all for an even spread";
            self.reader.error(&at.place, "no core is listed", Some(allowed.to_owned()));
            return None;
        }
        let queues = usize::from(keys.queues.as_ref()?.value.get());
        if at.value.items.len() > queues {
            let what = format!("{} cores for {queues} queue pairs", at.value.items.len());
            self.reader.error(&at.place, what, Some(format!("at most {queues}, or more `queues`")));
        }
        let mut unique = Unique::default();
        for core in &at.value.items {
            unique.claim(core.value, core.value, &core.place, self.reader);
            if let Some(cores) = cores.filter(|cores| !cores.contains(&core.value)) {
                let listed: Vec<_> = cores.iter().map(CpuId::to_string).collect();
                let what = format!("core {} has no worker", core.value);
                self.reader.error(
                    &core.place,
                    what,
                    Some(format!("one of workers.cores: {}", listed.join(", "))),
                );
            }
        }
        Some(Placement::Cores(at.value.items.iter().map(|core| core.value).collect()))
    }

    fn driver(&mut self, keys: &PortKeys, number: PortNumber, macs: &mut Unique<MacAddr>) -> Option<Driver> {
        fn place<T>(at: &Option<At<T>>) -> Option<&Place> {
            at.as_ref().map(|at| &at.place)
        }
        let kind = keys.driver.as_ref()?.value;
        self.misplaced(
            &[
                (place(&keys.socket), "socket", &["vhost-user"]),
                (place(&keys.mode), "mode", &["vhost-user"]),
                (place(&keys.permissions), "permissions", &["vhost-user"]),
                (place(&keys.mac), "mac", &["vhost-user", "dpaa2"]),
                (place(&keys.features_off), "features_off", &["vhost-user"]),
                (place(&keys.device), "device", &["tap"]),
                (place(&keys.netns), "netns", &["tap"]),
                (place(&keys.persistent), "persistent", &["tap"]),
                (place(&keys.dpni), "dpni", &["dpaa2"]),
                (place(&keys.pool), "pool", &["dpaa2"]),
                (place(&keys.tx_pool), "tx_pool", &["dpaa2"]),
                (place(&keys.checksums), "checksums", &["dpaa2"]),
                (place(&keys.promiscuous), "promiscuous", &["dpaa2"]),
                (place(&keys.all_multicast), "all_multicast", &["dpaa2"]),
                (place(&keys.macs), "macs", &["dpaa2"]),
                (place(&keys.vlan_filter), "vlan_filter", &["dpaa2"]),
                (place(&keys.hash), "hash", &["dpaa2"]),
                (place(&keys.rx_queue_kib), "rx_queue_kib", &["dpaa2"]),
                (place(&keys.tx_mbps), "tx_mbps", &["dpaa2"]),
                (place(&keys.read), "read", &["pcap"]),
                (place(&keys.write), "write", &["pcap"]),
                (place(&keys.rate), "rate", &["pcap"]),
                (place(&keys.repeat), "repeat", &["pcap"]),
            ],
            kind.word(),
            "driver",
        );
        match kind {
            DriverKind::VhostUser => self.vhost_user(keys, number, macs).map(Driver::VhostUser),
            DriverKind::Tap => self.tap(keys).map(Driver::Tap),
            DriverKind::Pcap => self.pcap(keys).map(Driver::Pcap),
            DriverKind::Dpaa2 => self.dpaa2(keys, macs).map(Driver::Dpaa2),
            DriverKind::Null => Some(Driver::Null),
            DriverKind::Loop => Some(Driver::Loop),
        }
    }

    fn vhost_user(
        &mut self,
        keys: &PortKeys,
        number: PortNumber,
        macs: &mut Unique<MacAddr>,
    ) -> Option<VhostUser> {
        let features_off: BTreeSet<Feature> =
            keys.features_off.iter().flat_map(|at| at.value.items.iter().copied()).collect();
        if let (Some(off), Some(queues)) = (&keys.features_off, &keys.queues)
            && queues.value.get() > 1
            && features_off.contains(&Feature::Mq)
        {
            let what = format!("{} queue pairs need the feature `mq`", queues.value);
            self.reader.error(&off.place, what, Some("queues = 1, or `mq` offered".to_owned()));
        }
        let Some(socket) = &keys.socket else {
            self.reader.missing(
                &keys.place,
                "driver = \"vhost-user\" needs the key `socket`",
                Some("the path of a Unix socket".to_owned()),
            );
            return None;
        };
        let mode = keys.mode.as_ref().map_or(SocketMode::Server, |at| at.value);
        if let Some(at) = &keys.mac {
            macs.claim(at.value, at.value, &at.place, self.reader);
        }
        if let Some(at) = keys.permissions.as_ref().filter(|_| mode == SocketMode::Client) {
            let what = "the guest makes the socket, and sets its permissions";
            self.reader.error(&at.place, what, Some("mode = \"server\"".to_owned()));
        }
        Some(VhostUser {
            socket: self.socket(socket)?,
            mode,
            permissions: keys.permissions.as_ref().map(|at| at.value),
            owner: None,
            mac: keys.mac.as_ref().map_or_else(|| generated_mac(0, number.get()), |at| at.value),
            features_off,
        })
    }

    fn tap(&mut self, keys: &PortKeys) -> Option<Tap> {
        let device = match (&keys.device, &keys.name) {
            (Some(device), _) => device.value.clone(),
            (None, None) => return None,
            (None, Some(name)) => match name.value.as_str().parse() {
                Ok(device) => device,
                Err(_) => {
                    let what = format!("`{}` is too long for a network interface", name.value);
                    self.reader.error(&name.place, what, Some(format!("give a `device`: {}", IfName::RULE)));
                    return None;
                }
            },
        };
        Some(Tap {
            device,
            netns: keys.netns.as_ref().map(|at| at.value.clone()),
            persistent: keys.persistent.as_ref().is_some_and(|at| at.value),
        })
    }

    fn dpaa2(&mut self, keys: &PortKeys, macs: &mut Unique<MacAddr>) -> Option<Dpaa2> {
        for (missing, key, allowed) in [
            (keys.dpni.is_none(), "dpni", "an interface of the container, such as \"dpni.1\""),
            (keys.pool.is_none(), "pool", "a buffer pool of the container, such as \"dpbp.1\""),
        ] {
            if missing {
                let what = format!("driver = \"dpaa2\" needs the key `{key}`");
                self.reader.missing(&keys.place, &what, Some(allowed.to_owned()));
            }
        }
        if let Some(at) = &keys.mac {
            macs.claim(at.value, at.value, &at.place, self.reader);
        }
        let (promiscuous, all_multicast) = (is_on(&keys.promiscuous), is_on(&keys.all_multicast));
        let own = keys.mac.as_ref().map(|at| EtherAddr::from(at.value));
        let mut more = Vec::new();
        for at in keys.macs.iter().flat_map(|at| &at.value.items) {
            let is_received = if at.value.is_group() { all_multicast } else { promiscuous };
            let what = if is_received {
                let key = if at.value.is_group() { "all_multicast" } else { "promiscuous" };
                (
                    format!("{} is received without being listed", at.value),
                    Some(format!("{key} = false, or not this address")),
                )
            } else if Some(at.value) == own || more.contains(&at.value) {
                (format!("{} is listed twice", at.value), None)
            } else {
                more.push(at.value);
                continue;
            };
            self.reader.error(&at.place, what.0, what.1);
        }
        let vlan_filter = keys.vlan_filter.as_ref().map(|at| self.vlan_filter(at));
        let hash = keys.hash.as_ref().map_or_else(|| HashField::DEFAULT.to_vec(), |at| self.hash(at));
        let pool = keys.pool.as_ref()?.value;
        Some(Dpaa2 {
            dpni: keys.dpni.as_ref()?.value,
            pool,
            tx_pool: keys.tx_pool.as_ref().map_or(pool, |at| at.value),
            mac: keys.mac.as_ref().map(|at| at.value),
            checksums: is_on(&keys.checksums),
            promiscuous,
            all_multicast,
            macs: more,
            vlan_filter: vlan_filter.flatten(),
            hash,
            rx_queue_bytes: keys.rx_queue_kib.as_ref().map_or(QueueKib::DEFAULT, |at| at.value).get() << 10,
            tx_mbps: keys.tx_mbps.as_ref().map(|at| at.value.get()),
        })
    }

    /// The VLANs that hardware lets pass: its filter has places for single ones.
    fn vlan_filter(&mut self, at: &At<List<VlanRange>>) -> Option<BTreeSet<VlanId>> {
        const PLACES: usize = 16;
        let vlans: BTreeSet<u16> = at.value.items.iter().flat_map(|range| range.0.clone()).collect();
        let what = if vlans.contains(&0) {
            "untagged frames pass anyway".to_owned()
        } else if vlans.is_empty() || vlans.len() > PLACES {
            format!("{} VLANs in a filter of hardware", vlans.len())
        } else {
            return Some(vlans.into_iter().filter_map(VlanId::new).collect());
        };
        self.reader.error(&at.place, what, Some(format!("1 to {PLACES} VLANs, or no `vlan_filter` at all")));
        None
    }

    fn hash(&mut self, at: &At<List<HashField>>) -> Vec<HashField> {
        let fields: BTreeSet<HashField> = at.value.items.iter().copied().collect();
        if fields.is_empty() || fields.len() < at.value.items.len() {
            let what = if fields.is_empty() { "a hash of nothing" } else { "a field is listed twice" };
            self.reader.error(&at.place, what.to_owned(), Some("each field once, at least one".to_owned()));
        }
        fields.into_iter().collect()
    }

    fn fslmc(&mut self, keys: At<FslmcKeys>) -> Option<Fslmc> {
        let At { value: keys, place } = keys;
        let bus = match (keys.bus?.value, &keys.board) {
            (BusKind::Vfio, None) => Some(FslmcBus::Vfio),
            (BusKind::Vfio, Some(board)) => {
                let what = "`board` has no meaning with bus = \"vfio\"";
                self.reader.error(&board.place, what, Some("bus = \"model\"".to_owned()));
                None
            }
            (BusKind::Model, Some(board)) => self.file(board).map(|board| FslmcBus::Model { board }),
            (BusKind::Model, None) => {
                let what = "bus = \"model\" needs the key `board`";
                self.reader.missing(&place, what, Some("a file that describes the hardware".to_owned()));
                None
            }
        };
        let mut unique = Unique::default();
        let pools = list(keys.pool).into_iter().filter_map(|keys| {
            let dpbp = keys.dpbp?;
            unique.claim(dpbp.value, dpbp.value, &dpbp.place, self.reader);
            let (buffers, buffer_bytes) = (keys.buffers?.value.get(), keys.buffer_bytes?.value.get());
            Some(Pool { dpbp: dpbp.value, buffers, buffer_bytes })
        });
        let pools = pools.collect();
        Some(Fslmc { bus: bus?, container: keys.container?.value, pools })
    }

    fn pcap(&mut self, keys: &PortKeys) -> Option<Pcap> {
        if let Some(queues) = keys.queues.as_ref().filter(|at| at.value != crate::QueuePairs::ONE) {
            let what = format!("a capture has one queue pair, not {}", queues.value);
            self.reader.error(&queues.place, what, Some("1".to_owned()));
        }
        if keys.read.is_none() && keys.write.is_none() {
            let allowed = "`read`, `write` or both".to_owned();
            self.reader.missing(&keys.place, "driver = \"pcap\" needs a capture file", Some(allowed));
        }
        if keys.read.is_none() {
            for (place, key) in [
                (keys.rate.as_ref().map(|at| &at.place), "rate"),
                (keys.repeat.as_ref().map(|at| &at.place), "repeat"),
            ] {
                if let Some(place) = place {
                    let what = format!("`{key}` has no meaning without `read`");
                    self.reader.error(place, what, None);
                }
            }
        }
        let read = match &keys.read {
            Some(at) => Some(self.file(at)?),
            None => None,
        };
        let write = match &keys.write {
            Some(at) => Some(self.file(at)?),
            None => None,
        };
        if let Some(at) = keys.write.as_ref().filter(|_| read.is_some() && read == write) {
            self.reader.error(
                &at.place,
                "this is the file that is replayed",
                Some("another file".to_owned()),
            );
        }
        let replay = read.map(|file| Replay {
            file,
            pace: keys.rate.as_ref().map_or(Pace::Timestamps, |at| at.value),
            loops: keys.repeat.as_ref().map_or(Loops::Times(std::num::NonZeroU64::MIN), |at| at.value),
        });
        Some(Pcap { replay, write })
    }

    fn flow(
        &mut self,
        keys: FlowKeys,
        bridges: &Names<BridgeName>,
        port_names: &Names<PortName>,
        ports: &[Port],
    ) -> Option<Flow> {
        if let Some(bridge) = &keys.bridge {
            bridges.require(bridge, self.reader);
        }
        let flow = keys.flow?;
        // With a port missing from the list, a right name would be reported as unknown.
        if !self.reader.is_damaged()
            && !port_names.some_unread
            && ports.len() == port_names.known.len()
            && let Err(error) = flow_text::parse_add(&flow.value, &PortNumbers(ports))
        {
            let what = format!("`{}`: {}", shorten(&error.word), error.problem);
            self.reader.error(&flow.place, what, error.allowed);
        }
        Some(Flow { bridge: keys.bridge?.value, text: flow.value })
    }

    fn guests(&mut self, keys: Vec<GuestKeys>, names: &Names<PortName>, ports: &[Port]) -> Vec<Guest> {
        Names::of(keys.iter().map(|keys| &keys.name), "guest", self.reader);
        let mut sockets = Unique::default();
        let mut macs = Unique::default();
        let mut addresses = Unique::default();
        let guests = keys.into_iter().enumerate().filter_map(|(index, keys)| {
            let attachment = self.attachment(&keys, names, ports);
            if let (Some((socket, _)), Some(place)) = (
                &attachment,
                keys.port.as_ref().map(|at| &at.place).or(keys.socket.as_ref().map(|at| &at.place)),
            ) {
                sockets.claim(socket.clone(), socket, place, self.reader);
            }
            if let Some(at) = &keys.mac {
                macs.claim(at.value, at.value, &at.place, self.reader);
            }
            if let Some(at) = &keys.address {
                addresses.claim(at.value.addr, at.value.addr, &at.place, self.reader);
            }
            if let Some(at) = keys.ring_size.as_ref().filter(|at| !at.value.get().is_power_of_two()) {
                let what = format!("{} is no power of two", at.value);
                self.reader.error(&at.place, what, Some("8, 16, 32, ... 32768".to_owned()));
            }
            let role = self.role(&keys);
            let (socket, mode) = attachment?;
            Some(Guest {
                name: keys.name?.value,
                socket,
                mode,
                mac: keys.mac.map_or_else(|| generated_mac(1, index as u16 + 1), |at| at.value),
                packed: keys.packed?.value,
                queues: keys.queues?.value,
                mtu: keys.mtu?.value,
                ring_size: keys.ring_size?.value,
                offloads: keys.offloads?.value,
                role: role?,
            })
        });
        guests.collect()
    }

    fn vms(&mut self, keys: Vec<VmKeys>, ports: &[Port], control: Option<&Path>) -> Vec<vmm_config::Vm> {
        let mut names = Unique::default();
        let mut used = Unique::default();
        let vms = keys.into_iter().filter_map(|keys| {
            if let Some(at) = &keys.name {
                names.claim(at.value.clone(), &at.value, &at.place, self.reader);
            }
            let name: Option<vmm_config::VmName> = self.word(keys.name.as_ref());
            let kernel: Option<vmm_config::Kernel> = self.word(keys.kernel.as_ref());
            let memory: Option<vmm_config::MemorySize> = self.word(keys.memory.as_ref());
            let kernel = match kernel? {
                vmm_config::Kernel::File(_) => vmm_config::Kernel::File(self.file(keys.kernel.as_ref()?)?),
                builtin => builtin,
            };
            let initrd = match &keys.initrd {
                Some(at) => Some(self.file(at)?),
                None => None,
            };
            let cgroup = match &keys.cgroup {
                Some(at) => Some(self.file(at)?),
                None => None,
            };
            let chroot = match &keys.chroot {
                Some(at) => Some(self.file(at)?),
                None => None,
            };
            keys.pins.iter().flat_map(|at| &at.value.items).for_each(|pin| self.processor(pin));
            if let Some(at) = keys.transport.as_ref().filter(|at| at.value == VmTransport::Mmio)
                && matches!(kernel, vmm_config::Kernel::Builtin(_))
            {
                let what = "the built-in guest drives virtio devices on PCI only";
                let remedy = "\"pci\", or a kernel that drives virtio over registers in memory";
                self.reader.error(&at.place, what, Some(remedy.to_owned()));
            }
            let disks = keys.disk.map(|at| at.value.items).unwrap_or_default();
            let disks: Vec<_> = disks.iter().filter_map(|disk| self.vm_disk(disk)).collect();
            let nets = keys.net.map(|at| at.value.items).unwrap_or_default();
            let net: Vec<_> = nets.iter().filter_map(|net| self.vm_net(net, ports, &mut used)).collect();
            let name = name?;
            let control = control?;
            let vm = vmm_config::Vm {
                kernel,
                initrd,
                command_line: keys.cmdline?.value,
                cpus: i64::from(keys.cpus?.value.get()).try_into().ok()?,
                pins: keys
                    .pins
                    .iter()
                    .flat_map(|at| &at.value.items)
                    .map(|at| at.value.get().into())
                    .collect(),
                memory: memory?,
                huge_pages: keys.huge_pages?.value,
                transport: match keys.transport?.value {
                    VmTransport::Pci => vmm_config::Transport::Pci,
                    VmTransport::Mmio => vmm_config::Transport::Mmio,
                },
                net,
                disks,
                virtio_console: keys.virtio_console?.value,
                rng: keys.rng?.value,
                cgroup,
                user: keys.user.map(|at| at.value),
                chroot,
                restart: match keys.restart?.value {
                    VmRestart::Never => vmm_config::Restart::Never,
                    VmRestart::OnFailure => vmm_config::Restart::OnFailure,
                    VmRestart::Always => vmm_config::Restart::Always,
                },
                control: vmm_config::control_path(control, name.as_str()),
                log: Some(vmm_config::control_path(control, name.as_str()).with_extension("log")),
                name,
            };
            if let Some((at, dir)) = keys.chroot.as_ref().zip(vm.chroot.as_ref()) {
                self.reachable(at, dir, &vm);
            }
            Some(vm)
        });
        vms.collect()
    }

    /// Books sockets of a machine that aren't below the folder it sees as its root, and a device that it couldn't open.
    fn reachable(&mut self, chroot: &At<String>, dir: &Path, vm: &vmm_config::Vm) {
        for socket in std::iter::once(vm.control.as_path()).chain(vm.sockets()) {
            if !socket.starts_with(dir) {
                let what =
                    format!("socket {} of the machine is not below {}", socket.display(), dir.display());
                let remedy = "a folder above all its sockets, or sockets below this one".to_owned();
                self.reader.error(&chroot.place, what, Some(remedy));
            }
        }
        if vm.net.iter().any(|net| net.backend == vmm_config::NetBackend::VhostNet) {
            let what = "the machine opens /dev/vhost-net at each start, which it can't reach with a `chroot`";
            self.reader.error(&chroot.place, what, Some("another back-end, or no `chroot`".to_owned()));
        }
    }

    /// Books a processor that this machine doesn't have.
    fn processor(&mut self, pin: &At<CpuId>) {
        if let Some(cpus) = self.context.cpus.as_ref().filter(|cpus| !cpus.contains(pin.value)) {
            let what = format!("this machine has no processor {}", pin.value);
            self.reader.error(&pin.place, what, Some(cpus.to_string()));
        }
    }

    fn vm_disk(&mut self, keys: &VmDiskKeys) -> Option<vmm_config::Disk> {
        let backend = keys.backend.as_ref()?.value;
        let images = ["inline", "dataplane"];
        self.misplaced(
            &[
                (keys.path.as_ref().map(|at| &at.place), "path", &images),
                (keys.read_only.as_ref().map(|at| &at.place), "read_only", &images),
                (keys.direct.as_ref().map(|at| &at.place), "direct", &images),
                (keys.socket.as_ref().map(|at| &at.place), "socket", &["vhost-user-blk"]),
                (keys.pin.as_ref().map(|at| &at.place), "pin", &["dataplane"]),
            ],
            backend.word(),
            "backend",
        );
        let queues = keys.queues.as_ref()?;
        if backend == VmDiskBackend::Inline && queues.value != DiskQueues::ONE {
            let what = "a disk on the processor's own thread has one queue";
            self.reader.error(&queues.place, what, Some("1, or backend = \"dataplane\"".to_owned()));
        }
        keys.pin.iter().for_each(|pin| self.processor(pin));
        let (key, path) = match backend {
            VmDiskBackend::VhostUserBlk => ("socket", &keys.socket),
            VmDiskBackend::Inline | VmDiskBackend::Dataplane => ("path", &keys.path),
        };
        let Some(path) = path else {
            self.reader.missing(&keys.place, format!("the disk has no `{key}`"), None);
            return None;
        };
        let path = self.file(path)?;
        let is = |at: &Option<At<bool>>| at.as_ref().is_some_and(|at| at.value);
        let image =
            |path| vmm_config::Image { path, read_only: is(&keys.read_only), direct: is(&keys.direct) };
        let backend = match backend {
            VmDiskBackend::Inline => vmm_config::DiskBackend::Inline(image(path)),
            VmDiskBackend::Dataplane => vmm_config::DiskBackend::Dataplane {
                image: image(path),
                pin: keys.pin.as_ref().map(|at| at.value.get().into()),
            },
            VmDiskBackend::VhostUserBlk => vmm_config::DiskBackend::VhostUserBlk { socket: path },
        };
        Some(vmm_config::Disk { backend, queues: queues.value.get() })
    }

    /// A word of the file as one of the types of `vmm_config`.
    fn word<T: std::str::FromStr<Err = vmm_config::Invalid>>(
        &mut self,
        at: Option<&At<String>>,
    ) -> Option<T> {
        let at = at?;
        let parsed: Result<T, vmm_config::Invalid> = at.value.parse();
        parsed
            .map_err(|invalid| {
                self.reader.error(&at.place, invalid.problem(), Some(invalid.allowed().to_owned()))
            })
            .ok()
    }

    fn vm_net(
        &mut self,
        keys: &VmNetKeys,
        ports: &[Port],
        used: &mut Unique<PortName>,
    ) -> Option<vmm_config::Net> {
        match (&keys.port, &keys.partition) {
            (None, None) => {
                let allowed = "the name of a port as `port`, or of a partition as `partition`";
                self.reader.missing(
                    &keys.place,
                    "the device is attached to nothing",
                    Some(allowed.to_owned()),
                );
            }
            (Some(_), Some(at)) => {
                self.reader.error(
                    &at.place,
                    "the device has a `port` already",
                    Some("one of the two".to_owned()),
                );
            }
            _ => {}
        }
        let name = &net_port(keys)?;
        used.claim(name.value.clone(), &name.value, &name.place, self.reader);
        if let Some(at) = keys.ring_size.as_ref().filter(|at| !at.value.get().is_power_of_two()) {
            let what = format!("{} is no power of two", at.value);
            self.reader.error(&at.place, what, Some("8, 16, 32, ... 32768".to_owned()));
        }
        let backend = match keys.backend.as_ref()?.value {
            VmNetBackend::VhostUser => return self.vm_port(keys, name, ports),
            VmNetBackend::TapInline => vmm_config::NetBackend::TapInline,
            VmNetBackend::TapIothread => vmm_config::NetBackend::TapIothread,
            VmNetBackend::VhostNet => vmm_config::NetBackend::VhostNet,
        };
        self.vm_tap(keys, name, ports, backend, used.0.len() as u16)
    }

    /// A device whose other end is a TAP device of the host's.
    fn vm_tap(
        &mut self,
        keys: &VmNetKeys,
        name: &At<PortName>,
        ports: &[Port],
        backend: vmm_config::NetBackend,
        number: u16,
    ) -> Option<vmm_config::Net> {
        let text = name.value.as_str();
        if text.parse::<IfName>().is_err() {
            let what = format!("`{text}` can't be the name of a TAP device");
            self.reader.error(&name.place, what, Some(IfName::RULE.to_owned()));
        }
        if ports.iter().any(|port| port.name == name.value) {
            let what = format!("port `{text}` is one of the switch, not a TAP device of the machine's own");
            self.reader.error(
                &name.place,
                what,
                Some("another name, or backend = \"vhost-user\"".to_owned()),
            );
        }
        if let Some(bridge) = &keys.bridge {
            let what = "a TAP device belongs to no bridge of the switch";
            let allowed = "no `bridge`; the host's own: `ip link set DEVICE master BRIDGE`";
            self.reader.error(&bridge.place, what, Some(allowed.to_owned()));
        }
        if let Some(queues) = keys.queues.as_ref().filter(|queues| queues.value.get() > 1) {
            let what = "several queue pairs need the switch";
            self.reader.error(&queues.place, what, Some("1 with this back-end".to_owned()));
        }
        Some(vmm_config::Net {
            port: text.to_owned(),
            backend,
            mac: keys.mac.as_ref().map_or_else(|| generated_mac(2, number), |at| at.value).bytes(),
            queues: 1,
            queue_size: keys.ring_size.as_ref()?.value.get(),
            mtu: None,
        })
    }

    /// A device whose other end is a port of the switch.
    fn vm_port(&mut self, keys: &VmNetKeys, name: &At<PortName>, ports: &[Port]) -> Option<vmm_config::Net> {
        let port = ports.iter().find(|port| port.name == name.value)?;
        let vhost = match &port.driver {
            Driver::VhostUser(vhost) if vhost.mode == SocketMode::Server => vhost,
            _ => {
                let what = format!("port `{}` is none that a machine can connect to", port.name);
                let allowed = "a port with driver = \"vhost-user\" and mode = \"server\", or a new name";
                self.reader.error(&name.place, what, Some(allowed.to_owned()));
                return None;
            }
        };
        if let Some(bridge) = keys.bridge.as_ref().filter(|bridge| bridge.value != port.bridge) {
            let what = format!("port `{}` belongs to bridge `{}`", port.name, port.bridge);
            self.reader.error(&bridge.place, what, Some("no `bridge` beside a port of the file".to_owned()));
        }
        let queues = keys.queues.as_ref().map_or(port.queues, |at| at.value);
        if let Some(at) = keys.queues.as_ref().filter(|at| at.value.get() > port.queues.get()) {
            let what = format!("port `{}` has {} queue pairs", port.name, port.queues);
            self.reader.error(&at.place, what, Some(format!("1 to {}", port.queues)));
        }
        Some(vmm_config::Net {
            port: name.value.as_str().to_owned(),
            backend: vmm_config::NetBackend::VhostUser { socket: vhost.socket.as_path().to_owned() },
            mac: keys.mac.as_ref().map_or(vhost.mac, |at| at.value).bytes(),
            queues: queues.get(),
            queue_size: keys.ring_size.as_ref()?.value.get(),
            mtu: Some(port.mtu.get()),
        })
    }

    fn attachment(
        &mut self,
        keys: &GuestKeys,
        names: &Names<PortName>,
        ports: &[Port],
    ) -> Option<(SocketPath, SocketMode)> {
        let either = || Some("the name of a vhost-user port as `port`, or a path as `socket`".to_owned());
        match (&keys.port, &keys.socket) {
            (None, None) => {
                self.reader.missing(&keys.place, "the guest is attached to nothing", either());
                None
            }
            (Some(_), Some(socket)) => {
                self.reader.error(&socket.place, "the guest has a `port` already", either());
                None
            }
            (None, Some(socket)) => {
                let mode = keys.mode.as_ref().map_or(SocketMode::Client, |at| at.value);
                Some((self.socket_unclaimed(socket)?, mode))
            }
            (Some(name), None) => {
                if let Some(mode) = &keys.mode {
                    let what = "`mode` follows from the port's";
                    self.reader.error(&mode.place, what, Some("`mode` with `socket` only".to_owned()));
                }
                names.require(name, self.reader);
                let port = ports.iter().find(|port| port.name == name.value)?;
                let Driver::VhostUser(vhost) = &port.driver else {
                    let what = format!("port `{}` has driver = \"{}\"", port.name, port.driver.word());
                    self.reader.error(
                        &name.place,
                        what,
                        Some("a port with driver = \"vhost-user\"".to_owned()),
                    );
                    return None;
                };
                let mode = match vhost.mode {
                    SocketMode::Server => SocketMode::Client,
                    SocketMode::Client => SocketMode::Server,
                };
                Some((vhost.socket.clone(), mode))
            }
        }
    }

    fn role(&mut self, keys: &GuestKeys) -> Option<Role> {
        fn place<T>(at: &Option<At<T>>) -> Option<&Place> {
            at.as_ref().map(|at| &at.place)
        }
        let kind = keys.role.as_ref()?.value;
        self.misplaced(
            &[
                (place(&keys.address), "address", &["host"]),
                (place(&keys.gateway), "gateway", &["host"]),
                (place(&keys.ping), "ping", &["host"]),
                (place(&keys.ping_interval_ms), "ping_interval_ms", &["host"]),
                (place(&keys.stream_to), "stream_to", &["host"]),
                (place(&keys.to), "to", &["generate"]),
                (place(&keys.rate), "rate", &["generate"]),
                (place(&keys.size), "size", &["generate"]),
                (place(&keys.flows), "flows", &["generate"]),
                (place(&keys.window), "window", &["generate"]),
                (place(&keys.ip_src), "ip_src", &["generate"]),
                (place(&keys.ip_dst), "ip_dst", &["generate"]),
            ],
            kind.word(),
            "role",
        );
        match kind {
            RoleKind::Host => self.host(keys).map(Role::Host),
            RoleKind::Reflect => Some(Role::Reflect),
            RoleKind::Sink => Some(Role::Sink),
            RoleKind::Generate => self.generate(keys).map(Role::Generate),
        }
    }

    fn host(&mut self, keys: &GuestKeys) -> Option<HostRole> {
        let Some(address) = &keys.address else {
            self.reader.missing(
                &keys.place,
                "role = \"host\" needs the key `address`",
                Some(crate::HostAddr::RULE.to_owned()),
            );
            return None;
        };
        for at in [&keys.gateway, &keys.ping, &keys.stream_to].into_iter().flatten() {
            if at.value.0.is_ipv4() != address.value.addr.is_ipv4() {
                let what = format!("`{}` can't be reached from `{}`", at.value.0, address.value);
                self.reader.error(&at.place, what, Some("an address of the same family".to_owned()));
            }
        }
        if let Some(at) = keys.ping_interval_ms.as_ref().filter(|_| keys.ping.is_none()) {
            self.reader.error(&at.place, "`ping_interval_ms` has no meaning without `ping`", None);
        }
        let interval = keys.ping_interval_ms.as_ref().map_or(Millis::PING, |at| at.value);
        let interval = Duration::from_millis(interval.get().into());
        Some(HostRole {
            address: address.value,
            gateway: keys.gateway.as_ref().map(|at| at.value.0),
            ping: keys.ping.as_ref().map(|at| (at.value.0, interval)),
            stream_to: keys.stream_to.as_ref().map(|at| at.value.0),
        })
    }

    fn generate(&mut self, keys: &GuestKeys) -> Option<GenerateRole> {
        let size = keys.size.as_ref().map_or(FrameSize::SMALLEST, |at| at.value);
        let longest = keys.mtu.as_ref()?.value.get() + 14;
        if let Some(at) = keys.size.as_ref().filter(|at| at.value.get() > longest) {
            let what = format!("a frame of {} bytes doesn't fit the guest's MTU", at.value);
            self.reader.error(&at.place, what, Some(format!("60 to {longest}, or a larger `mtu`")));
        }
        Some(GenerateRole {
            to: keys.to.as_ref().map(|at| at.value),
            rate: keys.rate.as_ref().map_or(Rate::DEFAULT, |at| at.value),
            size,
            flows: keys.flows.as_ref().map_or(Flows::ONE, |at| at.value),
            window: keys.window.as_ref().map(|at| at.value),
            ip: (
                keys.ip_src.as_ref().map_or(GenerateRole::IP.0, |at| at.value.0),
                keys.ip_dst.as_ref().map_or(GenerateRole::IP.1, |at| at.value.0),
            ),
        })
    }
}

/// A locally administered address: "RW", then what it is for, then a number.
fn generated_mac(kind: u8, number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr::new([0x02, 0x52, 0x57, kind, high, low]).expect("a unicast address")
}

/// A switch that is on when it is left out.
fn is_on(key: &Option<At<bool>>) -> bool {
    key.as_ref().is_none_or(|at| at.value)
}

impl HashField {
    /// Addresses, protocol and ports.
    const DEFAULT: [HashField; 5] =
        [HashField::IpSrc, HashField::IpDst, HashField::IpProto, HashField::L4Src, HashField::L4Dst];
}
