//! What can be asked of a machine: a line of JSON each way, on its control socket.
//!
//! After an answer to [`Request::Console`] the connection is the console itself, both ways, without framing.

use serde::{Deserialize, Serialize};
use vmm_config::MemorySize;

use crate::exits::VcpuExits;
use crate::life::End;

/// Bytes of a line at most.
pub const LINE_MAX: usize = 64 << 10;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What it is and does.
    Show,
    /// Stop the guest where it is.
    Pause,
    /// Let it run on.
    Resume,
    /// End: by the guest's own means, or at once.
    Stop {
        /// Doesn't ask the guest.
        force: bool,
    },
    /// Start anew.
    Reset,
    /// Exit statistics.
    Exits {
        /// Begin anew after this answer.
        reset: bool,
    },
    /// Exit statistics as Prometheus metrics.
    Metrics,
    /// Become the console.
    Console,
    /// Give the guest more memory.
    AddMemory {
        /// How much.
        size: MemorySize,
    },
    /// Wait for the end.
    Wait,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// What the machine is and does.
    Status(Box<Status>),
    /// Exit statistics.
    Exits(Vec<VcpuExits>),
    /// Metrics, as text.
    Metrics(String),
    /// It has ended.
    Ended(End),
    /// No, and why.
    Refused(String),
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its devices look for the switch.
    WaitingForSwitch,
    /// The guest runs.
    Running,
    /// The guest stands still.
    Paused,
    /// It is about to end.
    Ending,
}

impl State {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            State::WaitingForSwitch => "waiting for the switch",
            State::Running => "running",
            State::Paused => "paused",
            State::Ending => "ending",
        }
    }
}

/// What a machine is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Its process.
    pub pid: u32,
    /// What it has started.
    pub kernel: String,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes its process needs beside that.
    pub overhead_bytes: u64,
    /// Microseconds since its process began.
    pub uptime_us: u64,
    /// Times the guest was reset.
    pub resets: u64,
    /// From when its process began to the guest's first instruction, in microseconds; after a reset, from that.
    pub start_us: Option<u64>,
    /// Names of the switch's ports it is one side of.
    pub ports: Vec<String>,
    /// What the micro-guest counts, when it is what runs.
    pub guest: Option<GuestCounts>,
}

/// What the micro-guest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCounts {
    /// Frames sent.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Numbered frames that are missing.
    pub lost: u64,
    /// Numbered frames that came twice or out of order.
    pub disordered: u64,
    /// Frames of somebody else's.
    pub foreign: u64,
    /// Turns of its poll loop.
    pub turns: u64,
    /// Doorbells it rang.
    pub kicks: u64,
    /// Bytes of added memory that it sends frames from.
    pub moved: u64,
}
