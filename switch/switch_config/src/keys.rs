//! The keys of a file: names, types, defaults, and what they mean. The JSON schema is made from this page.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::{
    DiskQueues, DriverKind, Feature, Flows, FrameSize, HashField, HugePages, Loops, Pace, PartitionMapping,
    Rate, Receive, RingSize, RoleKind, SocketMode, TxShare, VmCpus, Window,
};
use crate::read::{
    At, FromToml, List, Node, Place, Reader, from_integer, from_string, integer, section, text, words,
};
use crate::types::{
    BridgeName, CpuId, Dpbp, Dpni, Dprc, EtherAddr, FileMode, GuestName, HostAddr, IfName, Invalid, MacAddr,
    Mtu, NAME_RULE, NetnsName, OwnerWord, PartitionName, PortName, PortNumber, QueuePairs, QueueRange,
    SocketPath, VlanId, number_type, shorten,
};

/// The control socket's path when the file names none.
pub const DEFAULT_CONTROL_SOCKET: &str = "/tmp/ringway.sock";

section! {
    /// A Ringway switch. Everything left out has a default; a bridge without flows does NORMAL (it learns and
    /// forwards).
    File {
        /// The poll loops.
        workers: WorkersKeys, optional;
        /// Memory of the switch itself.
        memory: MemoryKeys, optional;
        /// The control socket and the metrics endpoint.
        control: ControlKeys, optional;
        /// The DPAA2 hardware that ports with driver = "dpaa2" are on.
        fslmc: FslmcKeys, optional;
        /// The bridges.
        bridge: List<BridgeKeys>, optional;
        /// The ports.
        port: List<PortKeys>, optional;
        /// Who owns which of a port's queues.
        partition: List<PartitionKeys>, optional;
        /// The rules.
        flow: List<FlowKeys>, optional;
        /// Guests that Ringway itself plays, for demos and tests.
        guest: List<GuestKeys>, optional;
        /// Virtual machines, each a process of its own.
        vm: List<VmKeys>, optional;
    }

    /// The poll loops.
    WorkersKeys {
        /// One worker is pinned to each of these processors. Leave other processes off them.
        cores: List<At<CpuId>>, default(List::first_core());
        /// What a worker does without traffic.
        idle: IdleKind, default(IdleKind::Sleep);
        /// With idle = "sleep": microseconds a worker polls on after the last frame before it sleeps. It doesn't
        /// sleep while one of its queues can't wake it (a capture being replayed).
        sleep_after_us: Micros, default(Micros::SLEEP_AFTER);
        /// Entries of each worker's exact-match cache, rounded up to a power of two.
        cache_flows: CacheEntries, default(CacheEntries::FLOWS);
        /// Megaflows in each worker's cache at most.
        cache_megaflows: CacheEntries, default(CacheEntries::MEGAFLOWS);
        /// Different masks among megaflows at most. This bounds what a look-up costs, whatever is sent.
        cache_masks: CacheMasks, default(CacheMasks::DEFAULT);
    }

    /// Memory of the switch itself; guests bring their own.
    MemoryKeys {
        /// Whether buffers lie in huge pages (`sysctl vm.nr_hugepages=N` reserves some): fewer TLB misses.
        huge_pages: HugePages, default(HugePages::Auto);
        /// Buffers in each worker's pool, for frames that can't stay in a guest's memory: those that wait for a
        /// TAP device, and segments made in software. Memory is used when a buffer is, not before.
        pool_buffers: PoolBuffers, default(PoolBuffers::DEFAULT);
    }

    /// The control socket and the metrics endpoint.
    ControlKeys {
        /// Where `ringway show` and the others reach the switch.
        socket: String, default(DEFAULT_CONTROL_SOCKET.to_owned());
        /// Permissions of the socket, in octal. Whatever they are, only root and the user that runs the switch
        /// are answered.
        mode: FileMode, default(FileMode::OWNER_ONLY);
        /// Address and port where `GET /metrics` is answered in Prometheus' text format. Off when left out.
        prometheus: Listen, optional;
        /// Allows an address that other machines reach: metrics tell who talks how much.
        prometheus_public: bool, default(false);
    }

    /// The DPAA2 hardware of a Layerscape chip: one container of objects.
    FslmcKeys {
        /// How it is reached.
        bus: BusKind, required;
        /// The container.
        container: Dprc, required;
        /// bus = "model": the file that describes the modelled board. A relative path starts at the folder of this file.
        board: String, optional;
        /// Sizes of buffer pools that differ from the default.
        pool: List<PoolKeys>, optional;
    }

    /// A buffer pool of DPAA2.
    PoolKeys {
        /// The pool.
        dpbp: Dpbp, required;
        /// How many buffers it is filled with.
        buffers: PoolBuffers, default(PoolBuffers::DEFAULT);
        /// Bytes of a buffer, the 128 in front of a frame included; rounded up to 256. Longer frames lie in several.
        buffer_bytes: BufferBytes, default(BufferBytes::DEFAULT);
    }

    /// A bridge.
    BridgeKeys {
        /// Its name.
        name: BridgeName, required;
        /// Seconds after which a learned address is forgotten when no frame came from it.
        mac_ageing_s: AgeingSeconds, default(AgeingSeconds::DEFAULT);
        /// Addresses the bridge learns at most.
        mac_limit: MacLimit, default(MacLimit::BRIDGE);
        /// Addresses learned on one port at most, so that one guest can't use up the table.
        mac_limit_per_port: MacLimit, default(MacLimit::PORT);
    }

    /// A port of a bridge. Keys that belong to one driver say so.
    PortKeys {
        /// Its name, in flow strings too.
        name: PortName, required;
        /// The bridge it belongs to.
        bridge: BridgeName, required;
        /// What moves its frames.
        driver: DriverKind, required;
        /// Its number in flow strings; ports without one get the free numbers from 1 in the order of the file.
        number: PortNumber, optional;
        /// How it takes part in VLANs. Left out: `access` if there is a `tag`, `trunk` otherwise.
        vlan_mode: VlanModeKind, optional;
        /// The VLAN of an access port, or of untagged frames for the native modes.
        tag: VlanId, optional;
        /// The VLANs of a trunk: numbers, or ranges such as "100-199"; 0 stands for untagged frames. All when
        /// left out.
        trunks: List<VlanRange>, optional;
        /// The longest IP packet it takes, in bytes.
        mtu: Mtu, default(Mtu::ETHERNET);
        /// Whether it is up. Nothing goes in or out by a port that is down.
        up: bool, default(true);
        /// Queue pairs it has.
        queues: QueuePairs, default(QueuePairs::ONE);
        /// Cores (listed in `[workers]`) that receive from its queues, taken in turn. Spread evenly when left
        /// out.
        workers: List<At<CpuId>>, optional;
        /// vhost-user: the socket. A relative path starts at the folder of this file.
        socket: String, optional;
        /// vhost-user: which side listens. "server" when left out.
        mode: SocketMode, optional;
        /// vhost-user with mode = "server": permissions of the socket, in octal; the umask's when left out. A guest
        /// of another user (libvirt's, say) needs more than that.
        permissions: FileMode, optional;
        /// vhost-user: the Ethernet address offered to the guest; made from its number when left out. Some
        /// front-ends (QEMU) have their own. dpaa2: the interface's address; that of its MAC when left out.
        mac: MacAddr, optional;
        /// vhost-user: features that are not offered.
        features_off: List<Feature>, optional;
        /// tap: the kernel's name for the interface; the port's name when left out.
        device: IfName, optional;
        /// tap: the network namespace of the interface, by name.
        netns: NetnsName, optional;
        /// tap: whether the interface stays when the switch ends. No when left out.
        persistent: bool, optional;
        /// dpaa2: the network interface in the container of `[fslmc]`.
        dpni: Dpni, optional;
        /// dpaa2: the buffer pool for frames it receives. Ports may share one.
        pool: Dpbp, optional;
        /// dpaa2: the buffer pool for frames of others that it sends; `pool` when left out. With one of its own, what
        /// waits to be sent can't use up the buffers for what is received.
        tx_pool: Dpbp, optional;
        /// dpaa2: whether hardware checks the checksums of received frames, which drops those with wrong ones, and writes
        /// those of sent ones. Yes when left out.
        checksums: bool, optional;
        /// dpaa2: whether it receives frames for whatever unicast address. Yes when left out.
        promiscuous: bool, optional;
        /// dpaa2: whether it receives frames for whatever group address. Yes when left out; otherwise broadcast and `macs` only.
        all_multicast: bool, optional;
        /// dpaa2: addresses it receives beside its own.
        macs: List<At<EtherAddr>>, optional;
        /// dpaa2: the only VLANs whose frames it receives, beside untagged ones; all when left out.
        vlan_filter: List<VlanRange>, optional;
        /// dpaa2: the header fields whose hash spreads frames over its receive queues. Addresses, protocol and ports when
        /// left out.
        hash: List<HashField>, optional;
        /// dpaa2: KiB that may wait in a receive queue before frames are dropped. 1024 when left out.
        rx_queue_kib: QueueKib, optional;
        /// dpaa2: Mbit/s that it sends at most. The link's rate when left out.
        tx_mbps: Mbps, optional;
        /// pcap: the capture (pcap or pcapng) that is replayed. A relative path starts at the folder of this file.
        read: String, optional;
        /// pcap: the file that takes what is sent to the port, as pcapng.
        write: String, optional;
        /// pcap: how fast it is replayed: "timestamps", "max" or frames per second. By timestamps when left out.
        rate: Pace, optional;
        /// pcap: how often it is replayed: a number or "forever". Once when left out.
        repeat: Loops, optional;
    }

    /// A part of a port's queues, and who owns it. A port's partitions are its table: a frame belongs to the first whose
    /// `matches` it meets.
    PartitionKeys {
        /// Its name.
        name: PartitionName, required;
        /// The port whose queues these are.
        port: PortName, required;
        /// Which frames belong to it: a match in the words of flow strings such as "ip,nw_dst=10.0.0.1", or a list of them;
        /// "any" for what no other partition matches, in the last one of a port.
        matches: MatchTexts, required;
        /// Its queues, counted from 0 over the port: a number or a range such as "4-7". A port's partitions cover its
        /// queues without gaps.
        queues: QueueRange, required;
        /// Who gets its frames: "bridge" (that of the port), "port:NAME" (a vhost-user port), or "vm:NAME" (a virtual machine
        /// of this file).
        owner: OwnerWord, required;
        /// Which of the owner's queue pairs gets a frame.
        mapping: PartitionMapping, default(PartitionMapping::Pairs);
        /// Whether workers poll for its frames or sleep until there are some.
        receive: Receive, default(Receive::Interrupt);
        /// The only source address that its owner may send from.
        source_mac: MacAddr, optional;
        /// The only IP addresses that its owner may send from, in IP and ARP.
        source_ip: List<At<Address>>, optional;
        /// dpaa2: its share of the wire beside the others', or "strict" to go before all of them. 100 when left out.
        tx_share: TxShare, optional;
        /// dpaa2: Mbit/s that its owner sends at most, in a transmit channel of its own; instead of `tx_share`.
        tx_mbps: Mbps, optional;
        /// dpaa2: the buffer pool its frames lie in. One partition of a port may leave it out and uses the port's.
        dpbp: Dpbp, optional;
        /// dpaa2: how many buffers `dpbp` is filled with: more than as many of its frames never wait. 4096 when left out.
        pool: PoolBuffers, optional;
    }

    /// A rule of a bridge.
    FlowKeys {
        /// The bridge.
        bridge: BridgeName, required;
        /// The rule as `ovs-ofctl add-flow` takes it, such as "priority=10,in_port=vm0,ip,actions=output:vm1".
        flow: String, required;
    }

    /// A virtual machine, started with the switch. It goes on while the switch is restarted.
    VmKeys {
        /// Its name: letters, digits, `-`, `_`, `.`.
        name: String, required;
        /// What it starts: a kernel's path, or "builtin:reflect", "builtin:forward", "builtin:generate",
        /// "builtin:sink", "builtin:read" for the micro-guest.
        kernel: String, required;
        /// The initial file system's path.
        initrd: String, optional;
        /// The kernel's command line.
        cmdline: String, default(String::new());
        /// How many processors it has.
        cpus: VmCpus, default(VmCpus::ONE);
        /// Processors of this machine that its processors are pinned to, in turn. Not pinned when left out.
        pins: List<At<CpuId>>, optional;
        /// Its memory, such as "64M" or "2G".
        memory: String, default("64M".to_owned());
        /// Whether its memory comes from huge pages of 2 MiB.
        huge_pages: bool, default(false);
        /// How its guest reaches virtio devices: on the PCI bus, or by registers in memory.
        transport: VmTransport, default(VmTransport::Pci);
        /// Its network devices.
        net: List<VmNetKeys>, optional;
        /// Its disks.
        disk: List<VmDiskKeys>, optional;
        /// Whether it has a virtio console beside the serial port: `ringway vm console NAME --virtio`.
        virtio_console: bool, default(false);
        /// Whether it has an entropy device.
        rng: bool, default(false);
        /// The folder of the control group that its process joins, such as "/sys/fs/cgroup/machines/vm1".
        cgroup: String, optional;
        /// The user that its process becomes once everything is open. The sockets of its ports belong to that user. The
        /// user of the switch when left out.
        user: String, optional;
        /// The folder that its process sees as the root of the file system once everything is open: one above the sockets
        /// that it connects to, such as that of the control socket.
        chroot: String, optional;
        /// When it is started again.
        restart: VmRestart, default(VmRestart::OnFailure);
    }

    /// A network device of a virtual machine.
    VmNetKeys {
        /// The port of the switch it is one side of: a vhost-user port of this file, or a new one of this name. With
        /// the kernel's back-ends the name of a TAP device, which is made if there is none. (Either this or `partition`.)
        port: PortName, optional;
        /// The partition it owns, whose `owner` is this machine: a new port of the partition's name.
        partition: PartitionName, optional;
        /// With a new port: the bridge it belongs to. The file's first when left out.
        bridge: BridgeName, optional;
        /// What moves its frames.
        backend: VmNetBackend, default(VmNetBackend::VhostUser);
        /// Queue pairs; those of the port when left out, 1 with a new port.
        queues: QueuePairs, optional;
        /// Its Ethernet address; that of the port when left out.
        mac: MacAddr, optional;
        /// Most entries of its rings, a power of two.
        ring_size: RingSize, default(RingSize::VM);
    }

    /// A disk of a virtual machine.
    VmDiskKeys {
        /// What does its work.
        backend: VmDiskBackend, default(VmDiskBackend::Dataplane);
        /// The image: a file, byte for byte, or a block device. (Not with backend "vhost-user-blk".)
        path: String, optional;
        /// With backend "vhost-user-blk": where the back-end listens.
        socket: String, optional;
        /// Whether the guest can't write to it.
        read_only: bool, optional;
        /// Whether it is read and written past the host's page cache.
        direct: bool, optional;
        /// How many queues it has. One of backend "inline" has 1.
        queues: DiskQueues, default(DiskQueues::ONE);
        /// With backend "dataplane": the processor of this machine its thread is pinned to.
        pin: CpuId, optional;
    }

    /// A guest that Ringway itself plays: the driver side of a vhost-user port. Keys that belong to one role say so.
    GuestKeys {
        /// Its name.
        name: GuestName, required;
        /// What it does.
        role: RoleKind, required;
        /// The vhost-user port of this file that it attaches to. (Either this or `socket`.)
        port: PortName, optional;
        /// The socket it attaches to.
        socket: String, optional;
        /// With `socket`: which side the guest is. "client" (it connects) when left out.
        mode: SocketMode, optional;
        /// Its Ethernet address; made from its place in the file when left out.
        mac: MacAddr, optional;
        /// Whether it asks for packed rings.
        packed: bool, default(false);
        /// Queue pairs it asks for.
        queues: QueuePairs, default(QueuePairs::ONE);
        /// The longest IP packet it sends, in bytes.
        mtu: Mtu, default(Mtu::ETHERNET);
        /// Entries of each ring, a power of two.
        ring_size: RingSize, default(RingSize::DEFAULT);
        /// Whether it asks for checksum and segmentation offloads.
        offloads: bool, default(true);
        /// host: its address with the length of its network's prefix, such as "10.0.0.1/24".
        address: HostAddr, optional;
        /// host: the router for addresses of other networks.
        gateway: Address, optional;
        /// host: pings this address without end.
        ping: Address, optional;
        /// host: milliseconds from ping to ping. 100 when left out.
        ping_interval_ms: Millis, optional;
        /// host: sends a TCP stream without end to the host with this address.
        stream_to: Address, optional;
        /// generate: the Ethernet address it sends to. Broadcast when left out.
        to: MacAddr, optional;
        /// generate: frames per second, or "max". 1000 when left out.
        rate: Rate, optional;
        /// generate: bytes of a frame, without FCS. 60 when left out.
        size: FrameSize, optional;
        /// generate: different flows it sends in turn. 1 when left out.
        flows: Flows, optional;
        /// generate: frames that may be on their way to a reflector and back at most. Without it only `rate` counts.
        window: Window, optional;
        /// generate: the source of its IPv4 packets. 198.18.0.1 when left out.
        ip_src: Ipv4Address, optional;
        /// generate: their destination. 198.18.0.2 when left out.
        ip_dst: Ipv4Address, optional;
    }
}

words! {
    /// How a virtual machine's guest reaches virtio devices.
    pub enum VmTransport {
        /// On the PCI bus.
        Pci = "pci",
        /// By registers in memory, each device with an interrupt line.
        Mmio = "mmio",
    }

    /// When a virtual machine is started again.
    pub enum VmRestart {
        /// Never.
        Never = "never",
        /// When its process or its guest has crashed.
        OnFailure = "on-failure",
        /// Also when its guest has powered off.
        Always = "always",
    }

    /// What moves the frames of a virtual machine's network device.
    pub enum VmNetBackend {
        /// The switch works on the guest's rings.
        VhostUser = "vhost-user",
        /// A TAP device, with the processor's thread moving what the guest sends. For comparison.
        TapInline = "tap-inline",
        /// A TAP device, with a thread of its own moving frames. For comparison.
        TapIothread = "tap-iothread",
        /// A TAP device, with the host's kernel working on the guest's rings. For comparison.
        VhostNet = "vhost-net",
    }

    /// What does the work of a virtual machine's disk.
    pub enum VmDiskBackend {
        /// The processor that asks, which waits.
        Inline = "inline",
        /// A thread of its own, by io_uring.
        Dataplane = "dataplane",
        /// Another process, such as qemu-storage-daemon.
        VhostUserBlk = "vhost-user-blk",
    }

    /// What a worker does without traffic.
    pub enum IdleKind {
        /// Sleeps, uses no processor, and is woken by the first frame.
        Sleep = "sleep",
        /// Polls on: the shortest latency, a processor at 100 %.
        Poll = "poll",
    }

    /// How DPAA2 hardware is reached.
    pub enum BusKind {
        /// Through the Linux kernel's vfio-fsl-mc.
        Vfio = "vfio",
        /// It is a model in this process, as `board` describes it.
        Model = "model",
    }

    /// How a port takes part in VLANs.
    pub enum VlanModeKind {
        /// Frames of one VLAN, untagged.
        Access = "access",
        /// Tagged frames of several VLANs.
        Trunk = "trunk",
        /// A trunk whose untagged frames belong to `tag`; that VLAN goes out tagged.
        NativeTagged = "native-tagged",
        /// A trunk whose untagged frames belong to `tag`; that VLAN goes out untagged.
        NativeUntagged = "native-untagged",
    }
}

number_type! {
    /// A time in microseconds.
    Micros(u32) = 0..=1_000_000, "time in microseconds";
    /// A time in milliseconds.
    Millis(u32) = 1..=3_600_000, "time in milliseconds";
    /// Buffers in a pool.
    PoolBuffers(u32) = 256..=4_194_304, "number of buffers";
    /// Bytes of a buffer.
    BufferBytes(u32) = 1024..=32_768, "number of bytes";
    /// KiB in a queue.
    QueueKib(u32) = 16..=65_536, "number of KiB";
    /// A rate.
    Mbps(u32) = 1..=400_000, "rate in Mbit/s";
    /// A time in seconds; as in OVS at least 15.
    AgeingSeconds(u32) = 15..=86_400, "time in seconds";
    /// Addresses learned at most.
    MacLimit(u32) = 1..=1_048_576, "number of addresses";
    /// Entries in a cache.
    CacheEntries(u32) = 64..=4_194_304, "number of entries";
    /// Masks in a cache.
    CacheMasks(u32) = 1..=64, "number of masks";
}

impl Micros {
    const SLEEP_AFTER: Micros = Self::new(50).expect("in range");
}

impl Millis {
    pub(crate) const PING: Millis = Self::new(100).expect("in range");
}

impl PoolBuffers {
    pub(crate) const DEFAULT: PoolBuffers = Self::new(4096).expect("in range");
}

impl BufferBytes {
    const DEFAULT: BufferBytes = Self::new(2304).expect("in range");
}

impl QueueKib {
    pub(crate) const DEFAULT: QueueKib = Self::new(1024).expect("in range");
}

impl AgeingSeconds {
    const DEFAULT: AgeingSeconds = Self::new(300).expect("in range");
}

impl MacLimit {
    const BRIDGE: MacLimit = Self::new(8192).expect("in range");
    const PORT: MacLimit = Self::new(1024).expect("in range");
}

impl CacheEntries {
    const FLOWS: CacheEntries = Self::new(131_072).expect("in range");
    const MEGAFLOWS: CacheEntries = Self::new(65_536).expect("in range");
}

impl CacheMasks {
    const DEFAULT: CacheMasks = Self::new(16).expect("in range");
}

impl QueuePairs {
    /// One receive and one transmit queue.
    pub const ONE: QueuePairs = Self::new(1).expect("in range");
}

impl List<At<CpuId>> {
    fn first_core() -> Self {
        let value = CpuId::new(0).expect("in range");
        Self { items: vec![At { value, place: Place::default() }], complete: true }
    }
}

impl serde::Serialize for List<At<CpuId>> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.items.iter().map(|core| core.value))
    }
}

from_integer! {
    CpuId; VlanId; PortNumber; Mtu; QueuePairs; FrameSize; Flows; RingSize; VmCpus; DiskQueues; Window;
    Micros; Millis; PoolBuffers; BufferBytes; QueueKib; Mbps; AgeingSeconds; MacLimit; CacheEntries; CacheMasks;
}

from_string! {
    PortName: NAME_RULE, { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,62}$" };
    PartitionName: NAME_RULE, { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,62}$" };
    OwnerWord: OwnerWord::RULE, { "type": "string", "pattern": "^(bridge|port:.+|vm:.+)$" };
    BridgeName: NAME_RULE, { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,62}$" };
    GuestName: NAME_RULE, { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,62}$" };
    IfName: IfName::RULE, { "type": "string", "minLength": 1, "maxLength": 15 };
    NetnsName: NetnsName::RULE, { "type": "string", "minLength": 1, "maxLength": 255 };
    Dprc: Dprc::RULE, { "type": "string", "pattern": "^dprc\\.[0-9]{1,5}$" };
    Dpni: Dpni::RULE, { "type": "string", "pattern": "^dpni\\.[0-9]{1,5}$" };
    Dpbp: Dpbp::RULE, { "type": "string", "pattern": "^dpbp\\.[0-9]{1,5}$" };
    EtherAddr: EtherAddr::RULE, { "type": "string", "pattern": "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$" };
    MacAddr: MacAddr::RULE, { "type": "string", "pattern": "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$" };
    HostAddr: HostAddr::RULE, { "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" };
    FileMode: FileMode::RULE, { "type": "string", "pattern": "^[0-7]{3,4}$" };
    Listen: Listen::RULE, { "type": "string", "pattern": "^.+:[0-9]{1,5}$" };
    Ipv4Address: Ipv4Address::RULE, { "type": "string", "format": "ipv4" };
    Address: Address::RULE, { "type": "string", "pattern": "^[0-9A-Fa-f:.]+$" };
}

/// A type of `std::net`, read from a string.
macro_rules! net_type {
    ($($(#[doc = $doc:literal])+ $name:ident($type:ty), $rule:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name(pub $type);

        impl $name {
            const RULE: &str = $rule;
        }

        impl std::str::FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.parse().map(Self).map_err(|_| Invalid::new(format!("`{}` is no address", shorten(text)), Self::RULE))
            }
        }
    )+};
}

net_type! {
    /// An IP address and TCP port to listen on.
    Listen(SocketAddr), "an IP address and port, such as \"127.0.0.1:9090\" or \"[::1]:9090\"";
    /// An IP address.
    Address(IpAddr), "an IP address, such as \"10.0.0.2\"";
    /// An IPv4 address.
    Ipv4Address(Ipv4Addr), "an IPv4 address, such as \"10.0.0.2\"";
}

/// VLANs from one to another; both may be the same.
#[derive(Clone, Debug)]
pub(crate) struct VlanRange(pub RangeInclusive<u16>);

impl VlanRange {
    const RULE: &str = "a VLAN (0 to 4094; 0: untagged frames) or a range such as \"100-199\"";
}

impl FromToml for VlanRange {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(vlan) = integer(node.value) {
            let vlan = VlanId::try_from(vlan);
            return vlan.map(|v| Self(v.get()..=v.get())).map_err(|e| reader.invalid(&node.place, e)).ok();
        }
        let range = text(&node, Self::RULE, reader)?;
        let parse = || {
            let (first, last) = range.split_once('-')?;
            let vlan = |text: &str| text.trim().parse().ok().and_then(VlanId::new).map(VlanId::get);
            let (first, last) = (vlan(first)?, vlan(last)?);
            (first <= last).then_some(Self(first..=last))
        };
        parse().or_else(|| {
            reader.error(
                &node.place,
                format!("`{}` is no range of VLANs", shorten(range)),
                Some(Self::RULE.to_owned()),
            );
            None
        })
    }
}

impl JsonSchema for VlanRange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "VlanRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"oneOf": [
            {"type": "integer", "minimum": 0, "maximum": 4094},
            {"type": "string", "pattern": "^[0-9]{1,4}-[0-9]{1,4}$"},
        ]})
    }
}

/// A match or a list of them.
#[derive(Clone, Debug)]
pub(crate) struct MatchTexts(pub List<At<String>>);

impl FromToml for MatchTexts {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.value {
            toml::de::DeValue::Array(_) => List::from_toml(node, reader).map(Self),
            _ => {
                let place = node.place.clone();
                let value = text(&node, "a match, or a list of matches", reader)?.to_owned();
                Some(Self(List { items: vec![At { value, place }], complete: true }))
            }
        }
    }
}

impl JsonSchema for MatchTexts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MatchTexts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
    }
}

impl FromToml for QueueRange {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        let range = match integer(node.value) {
            Some(number) => QueueRange::from_number(number),
            None => text(&node, QueueRange::RULE, reader)?.parse(),
        };
        range.map_err(|invalid| reader.invalid(&node.place, invalid)).ok()
    }
}

impl JsonSchema for QueueRange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "QueueRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"oneOf": [
            {"type": "integer", "minimum": 0, "maximum": QueueRange::LAST},
            {"type": "string", "pattern": "^[0-9]{1,3}(-[0-9]{1,3})?$"},
        ]})
    }
}

impl FromToml for TxShare {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        let share = match (integer(node.value), node.value) {
            (Some(weight), _) => u16::try_from(weight).ok().filter(|w| TxShare::WEIGHTS.contains(w)),
            (None, toml::de::DeValue::String(word)) if word == "strict" => return Some(TxShare::Strict),
            _ => None,
        };
        if share.is_none() {
            reader.error(&node.place, "this is no share of a wire", Some(TxShare::RULE.to_owned()));
        }
        share.map(TxShare::Weight)
    }
}

impl JsonSchema for TxShare {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TxShare".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"oneOf": [{"type": "integer", "minimum": 100, "maximum": 10_000}, {"const": "strict"}]})
    }
}

/// Reads a type that is a positive number or one of a few words.
macro_rules! number_or_word {
    ($($type:ident::$number:ident, $rule:literal, { $($word:literal => $value:expr),+ })+) => {$(
        impl FromToml for $type {
            fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
                let word = match node.value {
                    toml::de::DeValue::String(word) => word.as_ref(),
                    value => {
                        let number = integer(value).and_then(|n| u64::try_from(n).ok()).and_then(NonZeroU64::new);
                        if number.is_none() {
                            reader.error(&node.place, "this is no positive number", Some($rule.to_owned()));
                        }
                        return number.map($type::$number);
                    }
                };
                match word {
                    $($word => Some($value),)+
                    _ => {
                        let what = format!("unknown word `{}`", shorten(word));
                        reader.error(&node.place, what, Some($rule.to_owned()));
                        None
                    }
                }
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"oneOf": [{"type": "integer", "minimum": 1}, {"enum": [$($word),+]}]})
            }
        }
    )+};
}

number_or_word! {
    Pace::Pps, "\"timestamps\", \"max\" or frames per second", { "timestamps" => Pace::Timestamps, "max" => Pace::Max }
    Rate::Pps, "\"max\" or frames per second", { "max" => Rate::Max }
    Loops::Times, "\"forever\" or a number of times", { "forever" => Loops::Forever }
}

/// The socket's path, checked.
pub(crate) fn socket_path(path: &str, base: Option<&std::path::Path>) -> Result<SocketPath, Invalid> {
    if path.is_empty() {
        return Err(Invalid::new("the path is empty", SocketPath::RULE));
    }
    SocketPath::new(file_path(path, base))
}

/// A path; a relative one starts at `base`.
pub(crate) fn file_path(path: &str, base: Option<&std::path::Path>) -> std::path::PathBuf {
    match base {
        Some(base) => base.join(path),
        None => path.into(),
    }
}
