//! What a guest is to be.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// TCP port on which hosts take streams.
pub const STREAM_PORT: u16 = 5201;

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Its name, for the report.
    pub name: String,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Which side the guest is.
    pub mode: SocketMode,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Asks for packed rings; split ones otherwise.
    pub packed: bool,
    /// Queue pairs it asks for, at least 1. It takes fewer when the switch has fewer.
    pub queue_pairs: u16,
    /// Entries of each ring, a power of two from 8 to 32768.
    pub ring_size: u16,
    /// Asks for checksum and, as a host, segmentation offloads.
    pub offloads: bool,
    /// The longest IP packet it sends or takes, in bytes.
    pub mtu: u16,
    /// Ends by itself after this time; by `stop` only when `None`.
    pub duration: Option<Duration>,
    /// What it does.
    pub role: Role,
}

impl GuestConfig {
    /// A guest with one pair of split rings of 256 entries, offloads, and an MTU of 1500.
    pub fn new(
        name: impl Into<String>,
        socket: impl Into<PathBuf>,
        mode: SocketMode,
        role: Role,
    ) -> GuestConfig {
        GuestConfig {
            name: name.into(),
            socket: socket.into(),
            mode,
            mac: [0x02, 0x52, 0x57, 0, 0, 1],
            packed: false,
            queue_pairs: 1,
            ring_size: 256,
            offloads: true,
            mtu: 1500,
            duration: None,
            role,
        }
    }
}

/// Which side of the socket the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketMode {
    /// It connects, again and again.
    Client,
    /// It listens, the switch connects.
    Server,
}

/// What a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The role in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Host(_) => "host",
            Role::Reflect => "reflect",
            Role::Generate(_) => "generate",
            Role::Sink => "sink",
        }
    }
}

/// A host. It answers ARP, ND, ping and UDP echo (port 7), and takes TCP streams on [`STREAM_PORT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRole {
    /// Its address.
    pub address: IpAddr,
    /// Bits of its network's prefix.
    pub prefix_len: u8,
    /// The router for addresses of other networks.
    pub gateway: Option<IpAddr>,
    /// Whom it pings, without end.
    pub ping: Vec<Ping>,
    /// Sends a TCP stream to the host with this address, without end.
    pub stream_to: Option<IpAddr>,
}

impl HostRole {
    /// A host that only answers.
    pub fn new(address: IpAddr, prefix_len: u8) -> HostRole {
        HostRole { address, prefix_len, gateway: None, ping: vec![], stream_to: None }
    }
}

/// A ping without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Whom.
    pub target: IpAddr,
    /// How often.
    pub interval: Duration,
}

/// A generator of frames: UDP over IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateRole {
    /// Ethernet address to send to.
    pub to: [u8; 6],
    /// Source and destination address.
    pub ip: (Ipv4Addr, Ipv4Addr),
    /// How fast.
    pub rate: Rate,
    /// Bytes of a frame without FCS, 60 or more.
    pub size: u16,
    /// Different flows (UDP source ports) that it sends in turn, 1 to 65536.
    pub flows: u32,
    /// Most frames that may be on their way to a reflector and back. With a window the reflector sets the pace and no
    /// ring overflows; without one the rate does.
    pub window: Option<u32>,
}

impl Default for GenerateRole {
    /// 1000 frames of 60 bytes a second to everybody, one flow, addresses of the benchmark network (RFC 2544).
    fn default() -> Self {
        GenerateRole {
            to: [0xff; 6],
            ip: (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)),
            rate: Rate::Pps(NonZeroU64::new(1000).expect("not zero")),
            size: 60,
            flows: 1,
            window: None,
        }
    }
}

/// How fast frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// So many a second.
    Pps(NonZeroU64),
    /// As many as the ring (and the window) takes.
    Max,
}
