//! Writes a configuration as a file, every default included.

use std::fmt::{Display, Write};
use std::path::Path;

use toml::Value;

use crate::config::*;
use crate::keys::{IdleKind, VlanModeKind, VmDiskBackend, VmNetBackend, VmRestart, VmTransport};
use crate::types::MacAddr;

/// TOML that parses to the same configuration.
///
/// Everything is written out: defaults, port numbers, addresses that were made up.
pub fn print(config: &Config) -> String {
    let mut page = Page::default();
    workers(&mut page, &config.workers);
    memory(&mut page, &config.memory);
    control(&mut page, &config.control);
    if let Some(each) = &config.fslmc {
        fslmc(&mut page, each);
    }
    for each in &config.bridges {
        bridge(&mut page, each);
    }
    for each in &config.ports {
        page.header("[[port]]");
        port(&mut page, each);
    }
    for each in &config.partitions {
        page.header("[[partition]]");
        partition(&mut page, each);
    }
    for flow in &config.flows {
        page.header("[[flow]]");
        page.text("bridge", &flow.bridge);
        page.text("flow", &flow.text);
    }
    for each in &config.guests {
        guest(&mut page, each);
    }
    for each in &config.vms {
        vm(&mut page, each);
    }
    page.0
}

/// The keys of a `[[port]]`, one a line.
pub fn print_port(config: &Port) -> String {
    let mut page = Page::default();
    port(&mut page, config);
    page.0
}

/// Where a partition goes among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionPlace<'a> {
    /// In front of the last one of its port.
    BeforeDefault,
    /// In front of this one.
    Before(&'a str),
    /// Where the one of its name is now, which goes.
    Same,
}

/// The text of `config` with a partition more, or another in the place of one. `keys` are those of a `[[partition]]`, one a
/// line. `None` when there is no such place.
pub fn print_with_partition(config: &Config, keys: &str, place: PartitionPlace<'_>) -> Option<String> {
    let table: toml::Table = keys.parse().unwrap_or_default();
    let word = |key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default();
    let (name, port) = (word("name"), word("port"));
    let partitions = &config.partitions;
    let named = |name: &str| partitions.iter().position(|partition| partition.name.as_str() == name);
    let at = match place {
        PartitionPlace::BeforeDefault => {
            let last = partitions.iter().rposition(|partition| partition.port.as_str() == port);
            last.unwrap_or(partitions.len())
        }
        PartitionPlace::Before(name) => named(name)?,
        PartitionPlace::Same => named(name)?,
    };
    let mut page = Page(print(&Config { partitions: vec![], ..config.clone() }));
    for (index, each) in partitions.iter().enumerate() {
        if index == at {
            page.header("[[partition]]");
            page.line(keys);
        }
        if index != at || place != PartitionPlace::Same {
            page.header("[[partition]]");
            partition(&mut page, each);
        }
    }
    if at == partitions.len() {
        page.header("[[partition]]");
        page.line(keys);
    }
    Some(page.0)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn header(&mut self, header: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}{header}"));
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes all text");
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.line(format_args!("{key} = {}", value.into()));
    }

    fn number(&mut self, key: &str, value: impl Into<i64>) {
        self.set(key, value.into());
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.set(key, value.to_string());
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, path.display());
    }
}

fn workers(page: &mut Page, workers: &Workers) {
    page.header("[workers]");
    page.set("cores", list(workers.cores.iter().map(|core| i64::from(core.get()))));
    match workers.idle {
        Idle::Poll => page.text("idle", IdleKind::Poll),
        Idle::Sleep { after } => {
            page.text("idle", IdleKind::Sleep);
            page.set("sleep_after_us", after.as_micros() as i64);
        }
    }
    page.number("cache_flows", workers.caches.flows);
    page.number("cache_megaflows", workers.caches.megaflows);
    page.number("cache_masks", workers.caches.megaflow_masks);
}

fn memory(page: &mut Page, memory: &Memory) {
    page.header("[memory]");
    page.text("huge_pages", memory.huge_pages);
    page.number("pool_buffers", memory.pool_buffers);
}

fn control(page: &mut Page, control: &Control) {
    page.header("[control]");
    page.text("socket", &control.socket);
    page.text("mode", control.mode);
    if let Some(address) = control.prometheus {
        page.text("prometheus", address);
        page.set("prometheus_public", !address.ip().is_loopback());
    }
}

fn fslmc(page: &mut Page, fslmc: &Fslmc) {
    page.header("[fslmc]");
    match &fslmc.bus {
        FslmcBus::Vfio => page.text("bus", "vfio"),
        FslmcBus::Model { board } => {
            page.text("bus", "model");
            page.path("board", board);
        }
    }
    page.text("container", fslmc.container);
    for pool in &fslmc.pools {
        page.header("[[fslmc.pool]]");
        page.text("dpbp", pool.dpbp);
        page.number("buffers", pool.buffers);
        page.number("buffer_bytes", pool.buffer_bytes);
    }
}

fn bridge(page: &mut Page, bridge: &Bridge) {
    page.header("[[bridge]]");
    page.text("name", &bridge.name);
    page.set("mac_ageing_s", bridge.mac_ageing.as_secs() as i64);
    page.number("mac_limit", bridge.mac_limit);
    page.number("mac_limit_per_port", bridge.mac_limit_per_port);
}

fn port(page: &mut Page, port: &Port) {
    page.text("name", &port.name);
    page.text("bridge", &port.bridge);
    page.text("driver", port.driver.kind());
    page.number("number", port.number.get());
    vlan(page, &port.vlan);
    page.number("mtu", port.mtu.get());
    page.set("up", port.up);
    page.number("queues", port.queues.get());
    if let Placement::Cores(cores) = &port.placement {
        page.set("workers", list(cores.iter().map(|core| i64::from(core.get()))));
    }
    match &port.driver {
        Driver::VhostUser(vhost) => {
            page.text("socket", &vhost.socket);
            page.text("mode", vhost.mode);
            if let Some(permissions) = vhost.permissions {
                page.text("permissions", permissions);
            }
            page.text("mac", vhost.mac);
            page.set("features_off", list(vhost.features_off.iter().map(|feature| feature.word())));
        }
        Driver::Tap(tap) => {
            page.text("device", &tap.device);
            if let Some(netns) = &tap.netns {
                page.text("netns", netns);
            }
            page.set("persistent", tap.persistent);
        }
        Driver::Dpaa2(dpaa2) => {
            page.text("dpni", dpaa2.dpni);
            page.text("pool", dpaa2.pool);
            page.text("tx_pool", dpaa2.tx_pool);
            if let Some(mac) = dpaa2.mac {
                page.text("mac", mac);
            }
            page.set("checksums", dpaa2.checksums);
            page.set("promiscuous", dpaa2.promiscuous);
            page.set("all_multicast", dpaa2.all_multicast);
            page.set("macs", list(dpaa2.macs.iter().map(|mac| mac.to_string())));
            if let Some(vlans) = &dpaa2.vlan_filter {
                page.set("vlan_filter", list(vlans.iter().map(|vlan| i64::from(vlan.get()))));
            }
            page.set("hash", list(dpaa2.hash.iter().map(|field| field.word())));
            page.set("rx_queue_kib", i64::from(dpaa2.rx_queue_bytes >> 10));
            if let Some(mbps) = dpaa2.tx_mbps {
                page.set("tx_mbps", i64::from(mbps));
            }
        }
        Driver::Pcap(pcap) => {
            if let Some(replay) = &pcap.replay {
                page.path("read", &replay.file);
                match replay.pace {
                    Pace::Timestamps => page.text("rate", "timestamps"),
                    Pace::Max => page.text("rate", "max"),
                    Pace::Pps(pps) => page.line(format_args!("rate = {pps}")),
                }
                match replay.loops {
                    Loops::Forever => page.text("repeat", "forever"),
                    Loops::Times(times) => page.line(format_args!("repeat = {times}")),
                }
            }
            if let Some(file) = &pcap.write {
                page.path("write", file);
            }
        }
        Driver::Null | Driver::Loop => {}
    }
}

fn vlan(page: &mut Page, vlan: &VlanMode) {
    let (kind, tag, trunks) = match vlan {
        VlanMode::Access { tag } => (VlanModeKind::Access, Some(tag), None),
        VlanMode::Trunk { trunks } => (VlanModeKind::Trunk, None, Some(trunks)),
        VlanMode::NativeTagged { tag, trunks } => (VlanModeKind::NativeTagged, Some(tag), Some(trunks)),
        VlanMode::NativeUntagged { tag, trunks } => (VlanModeKind::NativeUntagged, Some(tag), Some(trunks)),
    };
    page.text("vlan_mode", kind);
    if let Some(tag) = tag {
        page.number("tag", tag.get());
    }
    if let Some(VlanSet::Some(trunks)) = trunks {
        page.set("trunks", list(trunks.iter().map(|vlan| i64::from(vlan.get()))));
    }
}

fn partition(page: &mut Page, partition: &Partition) {
    page.text("name", &partition.name);
    page.text("port", &partition.port);
    page.set("matches", list(partition.matches.iter().map(String::as_str)));
    page.text("queues", partition.queues);
    page.text("owner", &partition.owner);
    page.text("mapping", partition.mapping);
    page.text("receive", partition.receive);
    if let Some(mac) = partition.source_mac {
        page.text("source_mac", mac);
    }
    if !partition.source_ip.is_empty() {
        page.set("source_ip", list(partition.source_ip.iter().map(ToString::to_string)));
    }
    let Some(hardware) = &partition.hardware else { return };
    match hardware.tx_share {
        TxShare::Strict => page.text("tx_share", "strict"),
        TxShare::Weight(weight) => page.number("tx_share", weight),
        TxShare::Limited(mbps) => page.number("tx_mbps", mbps),
    }
    if let Some(dpbp) = hardware.dpbp {
        page.text("dpbp", dpbp);
    }
    if let Some(pool) = hardware.pool {
        page.number("pool", pool);
    }
}

fn guest(page: &mut Page, guest: &Guest) {
    page.header("[[guest]]");
    page.text("name", &guest.name);
    page.text("role", guest.role.kind());
    page.text("socket", &guest.socket);
    page.text("mode", guest.mode);
    page.text("mac", guest.mac);
    page.set("packed", guest.packed);
    page.number("queues", guest.queues.get());
    page.number("mtu", guest.mtu.get());
    page.number("ring_size", guest.ring_size.get());
    page.set("offloads", guest.offloads);
    match &guest.role {
        Role::Host(host) => {
            page.text("address", host.address);
            if let Some(gateway) = host.gateway {
                page.text("gateway", gateway);
            }
            if let Some((target, interval)) = host.ping {
                page.text("ping", target);
                page.set("ping_interval_ms", interval.as_millis() as i64);
            }
            if let Some(target) = host.stream_to {
                page.text("stream_to", target);
            }
        }
        Role::Generate(generate) => {
            if let Some(to) = generate.to {
                page.text("to", to);
            }
            match generate.rate {
                Rate::Max => page.text("rate", "max"),
                Rate::Pps(pps) => page.line(format_args!("rate = {pps}")),
            }
            page.number("size", generate.size.get());
            page.number("flows", generate.flows.get());
            if let Some(window) = generate.window {
                page.number("window", window.get());
            }
            page.text("ip_src", generate.ip.0);
            page.text("ip_dst", generate.ip.1);
        }
        Role::Reflect | Role::Sink => {}
    }
}

fn vm(page: &mut Page, vm: &vmm_config::Vm) {
    page.header("[[vm]]");
    page.text("name", &vm.name);
    page.text("kernel", &vm.kernel);
    if let Some(initrd) = &vm.initrd {
        page.text("initrd", initrd.display());
    }
    page.text("cmdline", &vm.command_line);
    page.number("cpus", vm.cpus.get());
    if !vm.pins.is_empty() {
        page.set("pins", list(vm.pins.iter().map(|&pin| i64::from(pin))));
    }
    page.text("memory", vm.memory);
    page.set("huge_pages", vm.huge_pages);
    let transport = match vm.transport {
        vmm_config::Transport::Pci => VmTransport::Pci,
        vmm_config::Transport::Mmio => VmTransport::Mmio,
    };
    page.text("transport", transport);
    let net = vm.net.iter().map(|net| {
        let backend = match &net.backend {
            vmm_config::NetBackend::VhostUser { socket: _ } => VmNetBackend::VhostUser,
            vmm_config::NetBackend::TapInline => VmNetBackend::TapInline,
            vmm_config::NetBackend::TapIothread => VmNetBackend::TapIothread,
            vmm_config::NetBackend::VhostNet => VmNetBackend::VhostNet,
        };
        let mut table = toml::Table::new();
        table.insert("port".to_owned(), net.port.clone().into());
        table.insert("backend".to_owned(), backend.word().into());
        table.insert("queues".to_owned(), i64::from(net.queues).into());
        if let Some(mac) = MacAddr::new(net.mac) {
            table.insert("mac".to_owned(), mac.to_string().into());
        }
        table.insert("ring_size".to_owned(), i64::from(net.queue_size).into());
        Value::Table(table)
    });
    page.set("net", list(net));
    if !vm.disks.is_empty() {
        page.set("disk", list(vm.disks.iter().map(|disk| Value::Table(vm_disk(disk)))));
    }
    page.set("virtio_console", vm.virtio_console);
    page.set("rng", vm.rng);
    if let Some(cgroup) = &vm.cgroup {
        page.path("cgroup", cgroup);
    }
    if let Some(user) = &vm.user {
        page.text("user", user);
    }
    if let Some(chroot) = &vm.chroot {
        page.path("chroot", chroot);
    }
    let restart = match vm.restart {
        vmm_config::Restart::Never => VmRestart::Never,
        vmm_config::Restart::OnFailure => VmRestart::OnFailure,
        vmm_config::Restart::Always => VmRestart::Always,
    };
    page.text("restart", restart);
}

fn vm_disk(disk: &vmm_config::Disk) -> toml::Table {
    use vmm_config::DiskBackend;
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: Value| drop(table.insert(key.to_owned(), value));
    let path = |path: &std::path::Path| Value::String(path.display().to_string());
    let (backend, image) = match &disk.backend {
        DiskBackend::Inline(image) => (VmDiskBackend::Inline, Some(image)),
        DiskBackend::Dataplane { image, pin } => {
            if let Some(pin) = pin {
                put("pin", i64::from(*pin).into());
            }
            (VmDiskBackend::Dataplane, Some(image))
        }
        DiskBackend::VhostUserBlk { socket } => {
            put("socket", path(socket));
            (VmDiskBackend::VhostUserBlk, None)
        }
    };
    put("backend", backend.word().into());
    if let Some(image) = image {
        put("path", path(&image.path));
        put("read_only", image.read_only.into());
        put("direct", image.direct.into());
    }
    put("queues", i64::from(disk.queues).into());
    table
}

fn list<T: Into<Value>>(values: impl Iterator<Item = T>) -> Value {
    Value::Array(values.map(Into::into).collect())
}
