//! What is handed over.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vhost_user_port::SavedPort;

/// A switch. Descriptors are named by their place in the list beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Release of the program that wrote it.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// What the switch was doing.
    pub stage: Stage,
    /// Its bridges.
    pub bridges: Vec<Bridge>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The listening control socket.
    #[serde(default)]
    pub control: Option<usize>,
    /// Where metrics are asked for.
    #[serde(default)]
    pub metrics: Option<Metrics>,
}

/// What the switch was doing when it was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It was forwarding. Ring positions and counters are approximate; rules and addresses are all there.
    Running,
    /// It stood still: positions and counters are exact. Rules are left out, as they are those of the state before.
    Held {
        /// Since when, in nanoseconds of the monotonic clock.
        since_ns: u64,
    },
}

/// The listening socket of the metrics endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Its address.
    pub address: String,
    /// The socket.
    pub fd: usize,
}

/// A bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its rules, while it ran.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The rules that its file has for it, with the names of ports: the others were added since.
    #[serde(default)]
    pub file_rules: Vec<String>,
    /// What its rules counted, in the order of the rules of the state before. Filled while it stood still.
    #[serde(default, skip_serializing)]
    pub credits: Vec<Credit>,
    /// Whether `addresses` are all it has learned; otherwise they have not changed since the state before.
    #[serde(default)]
    pub addresses_follow: bool,
    /// The addresses it has learned.
    #[serde(default, skip_serializing)]
    pub addresses: Vec<Address>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As `ovs-ofctl add-flow` takes it, with the names of ports.
    pub flow: String,
    /// When it was added, in nanoseconds of the monotonic clock.
    pub created_ns: u64,
    /// When it was added or modified last.
    pub modified_ns: u64,
}

/// What a rule counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Second of the monotonic clock of the last one; 0 when there was none.
    pub last_used_secs: u32,
}

/// A learned address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Its VLAN, 0 for none.
    pub vlan: u16,
    /// The address.
    pub mac: [u8; 6],
    /// Number of the port it is behind.
    pub port: u16,
    /// Second of the monotonic clock when it was seen last.
    pub seen_secs: u32,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Its counters by name. Names that aren't known any more are skipped.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Frames dropped, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// What moves its frames.
    pub driver: Driver,
}

/// What moves the frames of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// A guest.
    VhostUser {
        /// Its socket's file.
        socket: PathBuf,
        /// Who listens there.
        mode: SessionMode,
        /// The session. Its descriptors count from `first_fd`.
        saved: Box<SavedPort>,
        /// The first of the port's descriptors.
        first_fd: usize,
        /// How many it has.
        fds: usize,
    },
    /// A TAP device.
    Tap {
        /// Its name.
        device: String,
        /// Its network namespace, if it isn't that of the process.
        #[serde(default)]
        netns: Option<String>,
        /// Its queues.
        queues: Vec<usize>,
        /// A socket of its namespace.
        socket: usize,
        /// The kernel's counters of that namespace.
        #[serde(default)]
        counters: Option<usize>,
    },
    /// Nothing that can be handed over: the successor opens its own.
    Other,
}

/// Who listens at a port's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionMode {
    /// The switch.
    Server,
    /// The guest.
    Client,
}
