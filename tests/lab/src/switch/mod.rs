//! What forwards between the sockets: Ringway and its peers behind one trait, set up from one [`Plan`].

mod ovs_dpdk;
mod ringway;
mod testpmd_vhost;

pub use ovs_dpdk::OvsDpdk;
pub use ringway::{Ringway, ringway_binary, toml_of};
pub use testpmd_vhost::TestpmdVhost;

use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Pages;

/// What a switch shall be: ports, rules and where it runs. Every system is started from the same plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Directory for sockets, configuration and logs. Keep it short: a socket's path has at most 107 bytes.
    pub dir: PathBuf,
    /// Core of the one poll loop.
    pub core: usize,
    /// Core for everything else of the switch (control threads).
    pub control_core: usize,
    /// Page size of the switch's own packet memory.
    pub pages: Pages,
    /// The ports.
    pub ports: Vec<Port>,
    /// Rules in `ovs-ofctl` syntax with port names; empty means `NORMAL`.
    pub flows: Vec<String>,
}

/// A port of a [`Plan`].
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What is at its other end.
    pub kind: PortKind,
    /// Queue pairs.
    pub queues: u16,
    /// Longest IP packet in bytes.
    pub mtu: u16,
}

/// What a [`Port`] leads to.
#[derive(Clone, Debug)]
pub enum PortKind {
    /// A guest over vhost-user; `NAME.sock` in the plan's directory.
    VhostUser {
        /// Whether the switch listens (else it connects, and reconnects).
        listens: bool,
    },
    /// A DPAA2 interface of container dprc.2.
    Dpni {
        /// Its number.
        number: u32,
    },
    /// A kernel interface named like the port.
    Tap {
        /// Namespace it lies in.
        netns: String,
    },
}

impl Plan {
    /// A switch with `count` vhost-user ports `vm0`, `vm1`, … that it serves, on cores 0 and 1, doing `NORMAL`.
    pub fn with_guests(dir: &Path, count: usize) -> Self {
        let port = |index| Port {
            name: format!("vm{index}"),
            kind: PortKind::VhostUser { listens: true },
            queues: 1,
            mtu: 1500,
        };
        Self {
            dir: dir.to_path_buf(),
            core: 0,
            control_core: 1,
            pages: Pages::Small,
            ports: (0..count).map(port).collect(),
            flows: Vec::new(),
        }
    }

    /// Rules that join the first two ports like a cable.
    pub fn join_first_two(mut self) -> Self {
        let (a, b) = (&self.ports[0].name, &self.ports[1].name);
        self.flows =
            vec![format!("in_port={a},actions=output:{b}"), format!("in_port={b},actions=output:{a}")];
        self
    }

    /// Socket of a vhost-user port.
    pub fn socket(&self, port: usize) -> PathBuf {
        self.dir.join(format!("{}.sock", self.ports[port].name))
    }
}

/// Counters of one switch port since its start, seen from the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct PortCounters {
    /// Name as in the plan.
    pub name: String,
    /// Frames received from the guest or interface.
    pub rx_frames: u64,
    /// Frames sent to it.
    pub tx_frames: u64,
    /// Bytes received.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Bytes sent.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Frames dropped, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

impl PortCounters {
    /// Frames dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

/// Work of a switch's poll loop since its start, by its own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// TSC cycles of rounds that moved frames.
    pub busy_cycles: u64,
    /// TSC cycles of rounds that moved none; 0 of a system that does not count them.
    pub idle_cycles: u64,
    /// Frames received in busy rounds.
    pub frames: u64,
    /// Rounds that moved frames; 0 of a system that does not count them.
    pub bursts: u64,
    /// Times the poll loop went to sleep; 0 of a system that does not.
    pub sleeps: u64,
}

/// Which part of a switch decided how many frames since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// An exact-match cache.
    pub exact: u64,
    /// Megaflows.
    pub megaflow: u64,
    /// The rules.
    pub miss: u64,
}

/// A running switch. Dropping it kills it.
pub trait Switch {
    /// Name of the system, as in tables.
    fn system(&self) -> &'static str;

    /// Counters of every port, in the plan's order.
    ///
    /// # Errors
    /// When the system does not answer.
    fn counters(&mut self) -> Result<Vec<PortCounters>>;

    /// Work of the poll loop.
    ///
    /// # Errors
    /// When the system does not answer.
    fn work(&mut self) -> Result<Work>;

    /// What decided about frames.
    ///
    /// # Errors
    /// When the system does not answer, or does not look at frames.
    fn decided(&mut self) -> Result<Decided>;

    /// Process id of the forwarding process.
    fn pid(&self) -> u32;

    /// Ends it in order.
    ///
    /// # Errors
    /// When it has not ended within 20 s.
    fn stop(self: Box<Self>) -> Result<()>;
}

/// The systems there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum System {
    /// This project.
    Ringway,
    /// Open vSwitch with DPDK.
    OvsDpdk,
    /// testpmd forwarding between two `net_vhost` ports, without switching: the practical limit of DPDK.
    Testpmd,
}

impl System {
    /// Name in tables, options and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringway => "ringway",
            Self::OvsDpdk => "ovs-dpdk",
            Self::Testpmd => "testpmd",
        }
    }

    /// Starts it by `plan`.
    ///
    /// # Errors
    /// When it does not get ready; its log is quoted.
    pub fn start(self, plan: &Plan) -> Result<Box<dyn Switch>> {
        Ok(match self {
            Self::Ringway => Box::new(Ringway::start(plan)?),
            Self::OvsDpdk => Box::new(OvsDpdk::start(plan)?),
            Self::Testpmd => Box::new(TestpmdVhost::start(plan)?),
        })
    }
}
