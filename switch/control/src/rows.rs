//! What the switch says about itself: rows of numbers. Tables, JSON, the summary and metrics are made of these.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// Its name.
    pub name: String,
    /// Its number in flow strings.
    pub number: u16,
    /// The bridge it belongs to.
    pub bridge: String,
    /// What moves its frames: `vhost-user`, `tap`, `dpaa2`, `pcap`, `null`, `loop`.
    pub driver: String,
    /// Whether frames can pass.
    pub state: PortState,
    /// Why not, or what went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The longest IP packet it takes, in bytes.
    pub mtu: u16,
    /// Frames received from it.
    pub rx_frames: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Frames sent to it.
    pub tx_frames: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Frames made of received ones beyond the first output.
    pub copies: u64,
    /// Frames handed to the controller queue.
    pub punted: u64,
    /// Frames the switch itself sent.
    pub injected: u64,
    /// Notifications received from the guest or device.
    pub kicks: u64,
    /// Notifications sent to it.
    pub calls: u64,
    /// Frames dropped, by reason; reasons without any are left out.
    pub drops: BTreeMap<String, u64>,
    /// Receive queues that run.
    pub queues: Vec<QueueRow>,
    /// What it has used of its bounds.
    pub limits: Vec<LimitRow>,
}

impl PortRow {
    /// Frames dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

/// What the hardware below a port says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareRow {
    /// The port.
    pub port: String,
    /// Its object: `dpni.1`.
    pub object: String,
    /// Its primary Ethernet address.
    pub mac: String,
    /// Whether its link is up.
    pub is_up: bool,
    /// The link's rate in Mbit/s.
    pub rate_mbps: u32,
    /// The longest frame it takes, in bytes without FCS.
    pub frame_max: u16,
    /// Every counter of its own and of its driver, by name; those of classes with their number.
    pub counters: BTreeMap<String, u64>,
}

/// Whether frames can pass a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// They can.
    Up,
    /// Nobody is at the other end yet, or any more.
    #[default]
    Waiting,
    /// Its operator set it down.
    Down,
    /// The peer broke a rule, or the device failed.
    Failed,
}

impl PortState {
    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            PortState::Up => "up",
            PortState::Waiting => "waiting",
            PortState::Down => "down",
            PortState::Failed => "failed",
        }
    }
}

/// A receive queue and who serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Its index in the port.
    pub queue: u16,
    /// The core of the worker that receives from it.
    pub core: u16,
}

/// Something a guest or peer can use up, and how much of it there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRow {
    /// What: `macs`, `memory-bytes`, `messages-per-second`, …
    pub name: String,
    /// How much is used, where that is known; of what is limited by time, in the last second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// How much there is.
    pub limit: u64,
    /// How often there was no more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A partition of a port's queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRow {
    /// Its name.
    pub name: String,
    /// The port that is divided.
    pub port: String,
    /// Which frames belong to it, any one of these: matches, or `any`.
    pub rule: Vec<String>,
    /// Its queues, such as `4-7`.
    pub queues: String,
    /// Who gets its frames: `bridge`, `port:NAME`, `vm:NAME`.
    pub owner: String,
    /// Who sorts the port's frames: `hardware` or `software`.
    pub sorted: String,
    /// Its buffers, where hardware has a pool of them for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolLevel>,
    /// Each of its queues.
    pub each_queue: Vec<PartitionQueueRow>,
    /// Frames that came for it; not those that hardware dropped.
    pub matched: u64,
    /// Bytes of them.
    pub matched_bytes: u64,
    /// Those that its owner got.
    pub delivered: u64,
    /// Those that were dropped, by reason; `rx-queue-full` by hardware.
    pub drops: BTreeMap<String, u64>,
    /// Frames its owner sent.
    pub sent: u64,
    /// Frames its owner may not send.
    pub refused: u64,
}

/// A receive queue of a partition. Where software sorts, the owner's queues share its frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionQueueRow {
    /// Its number.
    pub queue: u16,
    /// Frames that came for it.
    pub matched: u64,
    /// Those that its owner got.
    pub delivered: u64,
    /// Those that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Frames that wait in it, where hardware has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u64>,
}

/// A pool of buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLevel {
    /// Its name: `dpbp.2`.
    pub name: String,
    /// Buffers that it was filled with.
    pub buffers: u64,
    /// Those in it now.
    pub free: u64,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The bridge it belongs to.
    pub bridge: String,
    /// Its table.
    pub table: u8,
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// Frames it matched.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Seconds since it was added.
    pub age_s: u64,
    /// Seconds since it last matched.
    pub idle_s: u64,
    /// The rule as `ovs-ofctl` prints it: `flow add` takes it.
    pub flow: String,
}

/// A learned address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbRow {
    /// The bridge that learned it.
    pub bridge: String,
    /// The VLAN it was seen in; 0 without one.
    pub vlan: u16,
    /// The address.
    pub mac: String,
    /// The port it is behind.
    pub port: String,
    /// Seconds since it was last seen.
    pub age_s: u64,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its core.
    pub core: u16,
    /// Cycles of the core's counter in a second.
    pub cycles_per_second: u64,
    /// Cycles of loop turns that moved frames.
    pub busy_cycles: u64,
    /// Cycles of turns that found nothing, sleep included.
    pub idle_cycles: u64,
    /// Frames received.
    pub frames: u64,
    /// Bursts that were not empty.
    pub bursts: u64,
    /// Loop turns.
    pub turns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Bursts by number of frames.
    pub burst_sizes: Vec<Bucket>,
    /// Bursts by cycles per frame.
    pub frame_cycles: Vec<Bucket>,
    /// Frames of bursts whose stages were timed.
    pub stage_frames: u64,
    /// Cycles of those by stage, in the order a frame meets them.
    pub stages: Vec<StageRow>,
    /// Receive queues it serves, as `port/queue`.
    pub queues: Vec<String>,
}

/// One bucket of a histogram: not cumulative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The largest value in it; without bound if `None`.
    pub up_to: Option<u64>,
    /// How many values are in it.
    pub count: u64,
}

/// Cycles that frames spent in a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRow {
    /// The stage.
    pub name: String,
    /// Cycles.
    pub cycles: u64,
}

/// The caches of a worker: which of them decided how many frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRow {
    /// The worker's core.
    pub core: u16,
    /// Frames decided by their port alone.
    pub shortcut_hits: u64,
    /// Frames decided by the exact-match cache.
    pub exact_hits: u64,
    /// Frames decided by a megaflow.
    pub megaflow_hits: u64,
    /// Frames decided by the rules.
    pub misses: u64,
    /// Times the caches were emptied.
    pub flushes: u64,
}

/// A frame that a rule sent to the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PuntRow {
    /// The port it came in by.
    pub port: String,
    /// Its whole length in bytes.
    pub frame_bytes: u32,
    /// Its first bytes, in hexadecimal.
    pub head: String,
}

/// A bridge, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeRow {
    /// Its name.
    pub name: String,
    /// How many ports it has.
    pub ports: u64,
    /// How many rules it has.
    pub rules: u64,
    /// How many addresses it has learned.
    pub addresses: u64,
}

/// A guest that Ringway plays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestRow {
    /// Its name.
    pub name: String,
    /// What it does: `host`, `reflect`, `generate`, `sink`.
    pub role: String,
    /// Units it sent: frames, or what its role counts.
    pub sent: u64,
    /// Units it received.
    pub received: u64,
    /// Units that should have come and didn't.
    pub lost: u64,
    /// Payload it received, in bits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<f64>,
    /// Anything else worth knowing, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigText {
    /// The file it was read from.
    pub path: Option<PathBuf>,
    /// TOML that parses to it, defaults included.
    pub text: String,
}

/// The switch, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The file it runs.
    pub path: Option<PathBuf>,
    /// Its bridges.
    pub bridges: Vec<BridgeRow>,
    /// What it does without, and what that costs.
    pub notices: Vec<String>,
    /// How it came by its ports, if it took them over from a running switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<TakeOverRow>,
}

/// A take-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOverRow {
    /// The process that ran the switch before.
    pub pid: u32,
    /// Its release.
    pub version: String,
    /// Ports that went on.
    pub ports: u64,
    /// How long no worker forwarded frames, in microseconds.
    pub pause_us: u64,
    /// How long it took altogether, in microseconds.
    pub total_us: u64,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its bridges.
    pub bridges: Vec<BridgeRow>,
    /// Its ports.
    pub ports: Vec<PortRow>,
    /// Its workers.
    pub workers: Vec<WorkerRow>,
    /// Their caches.
    pub caches: Vec<CacheRow>,
    /// Partitions of its ports' queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionRow>,
}

/// What a run comes to: printed when it ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How long it ran.
    pub seconds: f64,
    /// Its ports.
    pub ports: Vec<PortRow>,
    /// Its workers.
    pub workers: Vec<WorkerRow>,
    /// Partitions of its ports' queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionRow>,
    /// Guests it played.
    pub guests: Vec<GuestRow>,
}
