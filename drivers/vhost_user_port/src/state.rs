//! What is shown of a port.

use serde::Serialize;

/// How far a port has come with its front-end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No front-end is connected.
    #[default]
    Waiting,
    /// Connected, no ring runs.
    Negotiating,
    /// At least one ring runs.
    Running,
}

/// A vring, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VringView {
    /// Its index: even ones receive in the guest, odd ones send.
    pub index: u16,
    /// Entries.
    pub size: u32,
    /// Whether it is given to a worker.
    pub running: bool,
    /// Why it can't run although the front-end started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A port's state, as `show ports` displays it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortState {
    /// How far it has come.
    pub phase: Phase,
    /// Virtio features in force, by name.
    pub features: Vec<&'static str>,
    /// Protocol features in force, by name.
    pub protocol: Vec<&'static str>,
    /// Queue pairs of which both rings run.
    pub queue_pairs: u16,
    /// Most queue pairs of the port.
    pub queue_pairs_max: u16,
    /// The vrings that the front-end has told us of.
    pub vrings: Vec<VringView>,
    /// Memory regions.
    pub memory_regions: usize,
    /// Most memory regions.
    pub memory_regions_max: u64,
    /// Bytes of guest memory mapped.
    pub memory_bytes: u64,
    /// Most bytes of guest memory.
    pub memory_bytes_max: u64,
    /// Whether writes to guest memory are logged for a live migration.
    pub logging: bool,
    /// Whether the link is up, as far as it depends on the operator.
    pub link_up: bool,
    /// The MTU in force.
    pub mtu: u16,
    /// How often a front-end has connected.
    pub connections: u64,
    /// Messages handled.
    pub messages: u64,
    /// Most messages a second that are read.
    pub messages_per_second_max: u32,
    /// Most log lines a second that the guest can cause.
    pub log_lines_per_second_max: u32,
    /// Requests refused.
    pub refused: u64,
    /// Why the last connection ended, or the last request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
