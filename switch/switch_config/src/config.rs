//! What a checked file says, typed: values that contradict each other can't be written.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use crate::read::words;
use crate::types::{
    BridgeName, CpuId, Dpbp, Dpni, Dprc, EtherAddr, FileMode, GuestName, HostAddr, IfName, MacAddr, Mtu,
    NetnsName, OwnerWord, PartitionName, PortName, PortNumber, QueuePairs, QueueRange, SocketPath, VlanId,
};

/// A whole configuration, checked: names are unique, every reference leads somewhere, numbers are in range.
///
/// Made by [`crate::parse`] or [`crate::load`]. [`crate::print`] writes it as a file that parses to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[workers]`
    pub workers: Workers,
    /// `[memory]`
    pub memory: Memory,
    /// `[control]`
    pub control: Control,
    /// `[fslmc]`
    pub fslmc: Option<Fslmc>,
    /// `[[bridge]]`, in the order of the file.
    pub bridges: Vec<Bridge>,
    /// `[[port]]`, in the order of the file.
    pub ports: Vec<Port>,
    /// `[[partition]]`, in the order of the file.
    pub partitions: Vec<Partition>,
    /// `[[flow]]`, in the order of the file.
    pub flows: Vec<Flow>,
    /// `[[guest]]`, in the order of the file.
    pub guests: Vec<Guest>,
    /// `[[vm]]`, in the order of the file.
    pub vms: Vec<vmm_config::Vm>,
}

impl Config {
    /// The bridge of this name.
    pub fn bridge(&self, name: &BridgeName) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name == *name)
    }

    /// The port of this name.
    pub fn port(&self, name: &PortName) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == *name)
    }

    /// The ports of a bridge, in the order of the file.
    pub fn ports_of<'a>(&'a self, bridge: &'a BridgeName) -> impl Iterator<Item = &'a Port> {
        self.ports.iter().filter(move |port| port.bridge == *bridge)
    }

    /// The partitions of a port, in order: none, or a table whose last one takes what the others don't.
    pub fn partitions_of<'a>(&'a self, port: &'a PortName) -> impl Iterator<Item = &'a Partition> {
        self.partitions.iter().filter(move |partition| partition.port == *port)
    }

    /// The port whose queues this port owns some of.
    pub fn divided_by_owner(&self, owner: &PortName) -> Option<&PortName> {
        let owned = self.partitions.iter().find(|partition| partition.owner_port.as_ref() == Some(owner))?;
        Some(&owned.port)
    }
}

/// The poll loops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker is pinned to each; at least one, no duplicates.
    pub cores: Vec<CpuId>,
    /// What a worker does without traffic.
    pub idle: Idle,
    /// Sizes of each worker's caches.
    pub caches: Caches,
}

/// What a worker does when its queues have nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the shortest latency, a core at 100 %.
    Poll,
    /// Sleeps until a queue notifies; not while it has a queue that can't (a replayed capture, say).
    Sleep {
        /// Polls on this long after the last frame before it does.
        after: Duration,
    },
}

/// Memory of the switch itself; guests bring their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether pools lie in huge pages.
    pub huge_pages: HugePages,
    /// Buffers in each worker's pool.
    pub pool_buffers: u32,
}

words! {
    /// Whether memory is to come from huge pages.
    pub enum HugePages {
        /// When the kernel has some to give.
        Auto = "auto",
        /// Or the switch doesn't start.
        Require = "require",
        /// Not even if there are.
        Off = "off",
    }

    /// Which side of a vhost-user socket listens.
    pub enum SocketMode {
        /// The port listens, the guest connects.
        Server = "server",
        /// The guest listens, the port connects (and reconnects).
        Client = "client",
    }

    /// A header field that goes into the hash by which hardware spreads frames over receive queues.
    pub enum HashField {
        /// Ethernet destination.
        EthDst = "eth-dst",
        /// Ethernet source.
        EthSrc = "eth-src",
        /// Ethernet type, behind tags.
        EthType = "eth-type",
        /// Tag of the outermost VLAN.
        Vlan = "vlan",
        /// IP source address.
        IpSrc = "ip-src",
        /// IP destination address.
        IpDst = "ip-dst",
        /// IP protocol.
        IpProto = "ip-proto",
        /// TCP, UDP or SCTP source port.
        L4Src = "l4-src",
        /// TCP, UDP or SCTP destination port.
        L4Dst = "l4-dst",
    }

    /// An offer of a vhost-user port that can be withheld. Names as QEMU's virtio-net properties.
    pub enum Feature {
        /// Frames of the guest may need a checksum completed.
        Csum = "csum",
        /// Frames to the guest may.
        GuestCsum = "guest_csum",
        /// TCP/IPv4 frames of the guest may exceed the MTU.
        HostTso4 = "host_tso4",
        /// TCP/IPv6 frames of the guest may exceed the MTU.
        HostTso6 = "host_tso6",
        /// Those may carry ECN's congestion-window-reduced flag.
        HostEcn = "host_ecn",
        /// TCP/IPv4 frames to the guest may exceed the MTU.
        GuestTso4 = "guest_tso4",
        /// TCP/IPv6 frames to the guest may exceed the MTU.
        GuestTso6 = "guest_tso6",
        /// Those may carry ECN's congestion-window-reduced flag.
        GuestEcn = "guest_ecn",
        /// A frame to the guest may span several of its buffers.
        MrgRxbuf = "mrg_rxbuf",
        /// Link state is told to the guest.
        Status = "status",
        /// More than one queue pair.
        Mq = "mq",
        /// The guest can be asked to announce itself.
        GuestAnnounce = "guest_announce",
        /// The port's MTU is told to the guest.
        HostMtu = "host_mtu",
        /// Chains may lie in a table of their own.
        IndirectDesc = "indirect_desc",
        /// Notifications are asked for by ring index.
        EventIdx = "event_idx",
        /// Buffers are used in the order they were made available.
        InOrder = "in_order",
        /// The packed ring layout.
        Packed = "packed",
    }
}

/// The control socket and the metrics endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Where `ringway show` and the others reach the switch.
    pub socket: SocketPath,
    /// Permissions of the socket. The peer's user must be the switch's or root all the same.
    pub mode: FileMode,
    /// Where `GET /metrics` is answered; a loopback address unless the file says `prometheus_public = true`.
    pub prometheus: Option<SocketAddr>,
}

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its name, unique.
    pub name: BridgeName,
    /// A learned address is forgotten after this long without a frame from it.
    pub mac_ageing: Duration,
    /// Addresses it learns at most.
    pub mac_limit: u32,
    /// Addresses learned on one port at most.
    pub mac_limit_per_port: u32,
}

/// Sizes of the caches that each worker keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Entries of the exact-match cache, a power of two.
    pub flows: u32,
    /// Megaflows at most.
    pub megaflows: u32,
    /// Different masks among them at most: this bounds what a look-up costs.
    pub megaflow_masks: u32,
}

/// A port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, unique in the file.
    pub name: PortName,
    /// Its number in flow strings, unique in the file.
    pub number: PortNumber,
    /// The bridge it belongs to.
    pub bridge: BridgeName,
    /// VLANs for the action `NORMAL`.
    pub vlan: VlanMode,
    /// The longest IP packet it takes.
    pub mtu: Mtu,
    /// Whether its operator wants it up.
    pub up: bool,
    /// Queue pairs it has (offers, for vhost-user).
    pub queues: QueuePairs,
    /// Which workers receive from its queues.
    pub placement: Placement,
    /// What moves its frames.
    pub driver: Driver,
}

/// Which workers receive from a port's queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Spread over all workers, each queue to the one with the fewest.
    Even,
    /// Queue `n` on the worker of core `cores[n % cores.len()]`; never empty, all of them workers' cores.
    Cores(Vec<CpuId>),
}

/// How a port takes part in VLANs, as OVS's `vlan_mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// Carries frames of one VLAN, untagged.
    Access {
        /// The VLAN.
        tag: VlanId,
    },
    /// Carries frames of these VLANs tagged (and of VLAN 0 untagged).
    Trunk {
        /// The VLANs.
        trunks: VlanSet,
    },
    /// A trunk; untagged frames that come in belong to `tag`, whose frames go out tagged.
    NativeTagged {
        /// The VLAN of untagged frames.
        tag: VlanId,
        /// The VLANs beside it.
        trunks: VlanSet,
    },
    /// A trunk; untagged frames that come in belong to `tag`, whose frames go out untagged.
    NativeUntagged {
        /// The VLAN of untagged frames.
        tag: VlanId,
        /// The VLANs beside it.
        trunks: VlanSet,
    },
}

/// A set of VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanSet {
    /// Each there is, and untagged frames.
    All,
    /// These (0: untagged frames); never empty.
    Some(BTreeSet<VlanId>),
}

impl VlanSet {
    /// Whether the VLAN is one of them.
    pub fn contains(&self, vlan: VlanId) -> bool {
        match self {
            VlanSet::All => true,
            VlanSet::Some(set) => set.contains(&vlan),
        }
    }
}

/// What moves a port's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A guest's virtio rings.
    VhostUser(VhostUser),
    /// A kernel network interface.
    Tap(Tap),
    /// Capture files.
    Pcap(Pcap),
    /// A network interface of DPAA2.
    Dpaa2(Dpaa2),
    /// Receives nothing, takes everything.
    Null,
    /// Receives what is sent to it.
    Loop,
}

impl Driver {
    /// The word for it in the file.
    pub fn word(&self) -> &'static str {
        self.kind().word()
    }

    /// Which driver it is, without its settings.
    pub fn kind(&self) -> DriverKind {
        match self {
            Driver::VhostUser(_) => DriverKind::VhostUser,
            Driver::Tap(_) => DriverKind::Tap,
            Driver::Pcap(_) => DriverKind::Pcap,
            Driver::Dpaa2(_) => DriverKind::Dpaa2,
            Driver::Null => DriverKind::Null,
            Driver::Loop => DriverKind::Loop,
        }
    }
}

words! {
    /// What moves a port's frames.
    pub enum DriverKind {
        /// A guest's virtio rings.
        VhostUser = "vhost-user",
        /// A kernel network interface.
        Tap = "tap",
        /// Capture files: replays one, writes one, or both.
        Pcap = "pcap",
        /// A network interface of DPAA2 hardware.
        Dpaa2 = "dpaa2",
        /// Receives nothing, takes everything.
        Null = "null",
        /// Receives what is sent to it.
        Loop = "loop",
    }
}

/// A vhost-user port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUser {
    /// The socket, unique in the file.
    pub socket: SocketPath,
    /// Which side listens.
    pub mode: SocketMode,
    /// Permissions of the socket in server mode; the umask's if `None`.
    pub permissions: Option<FileMode>,
    /// The user whose the socket is in server mode: that of the machine it is for. The switch's own if `None`.
    pub owner: Option<String>,
    /// The Ethernet address offered to the guest.
    pub mac: MacAddr,
    /// Features that are not offered.
    pub features_off: BTreeSet<Feature>,
}

/// A TAP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The kernel's name for it, unique in its namespace.
    pub device: IfName,
    /// The network namespace it is in; the switch's own if `None`.
    pub netns: Option<NetnsName>,
    /// Whether the interface stays when the switch ends.
    pub persistent: bool,
}

/// A port on a DPAA2 network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpaa2 {
    /// The interface, unique in the file.
    pub dpni: Dpni,
    /// The pool for frames it receives.
    pub pool: Dpbp,
    /// The pool for frames of others that it sends.
    pub tx_pool: Dpbp,
    /// Its Ethernet address; that of its MAC if `None`.
    pub mac: Option<MacAddr>,
    /// Whether hardware checks and writes checksums.
    pub checksums: bool,
    /// Whether it receives frames for whatever unicast address.
    pub promiscuous: bool,
    /// Whether it receives frames for whatever group address.
    pub all_multicast: bool,
    /// Addresses it receives beside its own.
    pub macs: Vec<EtherAddr>,
    /// The only VLANs whose frames it receives, if not all.
    pub vlan_filter: Option<BTreeSet<VlanId>>,
    /// The fields whose hash spreads frames over its receive queues.
    pub hash: Vec<HashField>,
    /// Bytes that may wait in a receive queue.
    pub rx_queue_bytes: u32,
    /// Mbit/s that it sends at most.
    pub tx_mbps: Option<u32>,
}

/// The DPAA2 hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fslmc {
    /// How it is reached.
    pub bus: FslmcBus,
    /// The container.
    pub container: Dprc,
    /// Pools that are filled in another way than by default; each once.
    pub pools: Vec<Pool>,
}

/// How DPAA2 hardware is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FslmcBus {
    /// Through the kernel.
    Vfio,
    /// It is a model in this process.
    Model {
        /// The file that describes it.
        board: PathBuf,
    },
}

/// How a buffer pool is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The pool.
    pub dpbp: Dpbp,
    /// Its buffers.
    pub buffers: u32,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

/// A port made of capture files; it replays, writes, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcap {
    /// What it receives.
    pub replay: Option<Replay>,
    /// Where what is sent to it is written, as pcapng.
    pub write: Option<PathBuf>,
}

/// The replay of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The capture, pcap or pcapng.
    pub file: PathBuf,
    /// How fast.
    pub pace: Pace,
    /// How often.
    pub loops: Loops,
}

/// How fast a capture is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As its timestamps say.
    Timestamps,
    /// So many frames a second.
    Pps(NonZeroU64),
    /// As fast as it goes.
    Max,
}

/// How often a capture is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loops {
    /// So many times.
    Times(NonZeroU64),
    /// Until the switch ends.
    Forever,
}

/// A part of a port's queues, and who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name, unique.
    pub name: PartitionName,
    /// The port that is divided.
    pub port: PortName,
    /// Which frames belong to it, as written, known to be right; [`Partition::ANY`] alone in a port's last partition.
    pub matches: Vec<String>,
    /// Its queues.
    pub queues: QueueRange,
    /// Who gets its frames, as written.
    pub owner: OwnerWord,
    /// The owner's port; `None` for the bridge.
    pub owner_port: Option<PortName>,
    /// Which of the owner's queue pairs gets a frame.
    pub mapping: PartitionMapping,
    /// Whether workers poll for its frames.
    pub receive: Receive,
    /// The only source address that the owner may send from.
    pub source_mac: Option<MacAddr>,
    /// The only IP addresses that the owner may send from; any if empty.
    pub source_ip: Vec<IpAddr>,
    /// What it needs of DPAA2 hardware, if the port is on it.
    pub hardware: Option<PartitionHardware>,
}

impl Partition {
    /// What stands for every frame.
    pub const ANY: &str = "any";

    /// Which frames belong to it, any one of these; none for every frame.
    ///
    /// # Panics
    /// When a match isn't one: the reader of the file takes only those that are.
    pub fn parsed_matches(&self) -> Vec<flow_text::Match> {
        let texts = self.matches.iter().filter(|text| *text != Self::ANY);
        let parse = |text| flow_text::parse_match(text, &flow_text::NoPorts);
        texts.map(|text| parse(text).expect("checked when the file was read")).collect()
    }
}

/// What a partition needs of DPAA2 hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionHardware {
    /// The pool its frames lie in; the port's if `None`.
    pub dpbp: Option<Dpbp>,
    /// How many buffers that is filled with, if not as `[[fslmc.pool]]` says.
    pub pool: Option<u32>,
    /// Its share of the wire.
    pub tx_share: TxShare,
}

/// A share of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxShare {
    /// In proportion to the others' weights.
    Weight(u16),
    /// Before all others.
    Strict,
    /// In turn with all others, at most so many Mbit/s.
    Limited(u32),
}

impl TxShare {
    /// Weights there are.
    pub const WEIGHTS: std::ops::RangeInclusive<u16> = 100..=10_000;
    /// The same share for all.
    pub const EQUAL: TxShare = TxShare::Weight(100);
    pub(crate) const RULE: &str = "a weight from 100 to 10000, or \"strict\"";
}

words! {
    /// Which of the owner's queue pairs gets a frame of a partition.
    pub enum PartitionMapping {
        /// Queue i of the partition goes to pair i; with fewer pairs, in turn.
        Pairs = "pairs",
        /// Each flow of any queue goes to the pair that a hash of its addresses and ports says.
        Hash = "hash",
    }

    /// How workers find the frames of a partition.
    pub enum Receive {
        /// They may sleep until there are some.
        Interrupt = "interrupt",
        /// They poll and never sleep.
        Poll = "poll",
    }
}

/// A rule of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The bridge.
    pub bridge: BridgeName,
    /// The rule as written, known to be right: `flow_text` reads it with this file's port names.
    pub text: String,
}

/// A guest that Ringway plays, the driver side of a vhost-user socket: for demos and tests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guest {
    /// Its name, unique.
    pub name: GuestName,
    /// The socket it uses.
    pub socket: SocketPath,
    /// Which side listens: the guest's own mode, the opposite of the port's.
    pub mode: SocketMode,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Whether it asks for packed rings.
    pub packed: bool,
    /// Queue pairs it asks for.
    pub queues: QueuePairs,
    /// Its MTU.
    pub mtu: Mtu,
    /// Entries of each ring.
    pub ring_size: RingSize,
    /// Whether it asks for checksum and segmentation offloads.
    pub offloads: bool,
    /// What it does.
    pub role: Role,
}

words! {
    /// What a guest does.
    pub enum RoleKind {
        /// A host with an IP address: answers ARP, ND and ping, can ping and send a TCP stream.
        Host = "host",
        /// Sends IP frames that are for it back where they came from.
        Reflect = "reflect",
        /// Sends numbered, time-stamped UDP frames.
        Generate = "generate",
        /// Receives those, counts loss and latency.
        Sink = "sink",
    }
}

/// What a guest does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A host with an IP address.
    Host(HostRole),
    /// Sends IP frames that are for it back where they came from.
    Reflect,
    /// Sends numbered, time-stamped UDP frames.
    Generate(GenerateRole),
    /// Receives those, counts loss and latency.
    Sink,
}

impl Role {
    /// Which role it is, without its settings.
    pub fn kind(&self) -> RoleKind {
        match self {
            Role::Host(_) => RoleKind::Host,
            Role::Reflect => RoleKind::Reflect,
            Role::Generate(_) => RoleKind::Generate,
            Role::Sink => RoleKind::Sink,
        }
    }
}

/// A host with an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostRole {
    /// Its address and network.
    pub address: HostAddr,
    /// The router for addresses of other networks.
    pub gateway: Option<IpAddr>,
    /// Pings this address without end, so often.
    pub ping: Option<(IpAddr, Duration)>,
    /// Sends a TCP stream to the host with this address, without end.
    pub stream_to: Option<IpAddr>,
}

/// A generator of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GenerateRole {
    /// The Ethernet address it sends to; broadcast if `None`.
    pub to: Option<MacAddr>,
    /// How fast.
    pub rate: Rate,
    /// Bytes of a frame, without FCS.
    pub size: FrameSize,
    /// Different flows (UDP source ports) it sends in turn.
    pub flows: Flows,
    /// Frames on their way to a reflector and back at most.
    pub window: Option<Window>,
    /// Source and destination of its packets.
    pub ip: (Ipv4Addr, Ipv4Addr),
}

/// How fast frames are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rate {
    /// So many frames a second.
    Pps(NonZeroU64),
    /// As fast as it goes.
    Max,
}

crate::types::number_type! {
    /// Bytes of a generated frame, without FCS.
    FrameSize(u16) = 60..=9018, "frame size";
    /// How many flows are generated.
    Flows(u32) = 1..=65536, "number of flows";
    /// How many frames may be under way.
    Window(u32) = 1..=1_048_576, "number of frames";
    /// Entries of a ring; the reader of a file takes powers of two only.
    RingSize(u16) = 8..=32768, "ring size";
    /// How many processors a virtual machine has.
    VmCpus(u32) = 1..=32, "number of processors";
    /// Queues of a virtual machine's disk.
    DiskQueues(u16) = 1..=8, "number of queues";
}

impl Rate {
    /// What a generator does unless told.
    pub const DEFAULT: Rate = Rate::Pps(NonZeroU64::new(1000).expect("not zero"));
}

impl FrameSize {
    /// The shortest Ethernet frame.
    pub const SMALLEST: FrameSize = Self::new(60).expect("in range");
}

impl Flows {
    /// A single flow.
    pub const ONE: Flows = Self::new(1).expect("in range");
}

impl VmCpus {
    /// What a virtual machine has unless told.
    pub const ONE: VmCpus = Self::new(1).expect("in range");
}

impl DiskQueues {
    /// One.
    pub const ONE: DiskQueues = Self::new(1).expect("in range");
}

impl RingSize {
    /// What a virtual machine's network device has unless told.
    pub const VM: RingSize = Self::new(1024).expect("in range");
    /// What front-ends commonly have.
    pub const DEFAULT: RingSize = Self::new(256).expect("in range");
}

impl GenerateRole {
    /// Addresses of the network for benchmarks (RFC 2544).
    pub const IP: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
}
