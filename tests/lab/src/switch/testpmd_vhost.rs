//! testpmd between `net_vhost` ports: two ports joined like a cable, no look at the frames.

use anyhow::{Result, bail};
use std::path::Path;

use super::{Decided, Plan, PortCounters, PortKind, Switch, Work};
use crate::{Testpmd, TestpmdOptions};

/// A forwarding testpmd.
pub struct TestpmdVhost {
    testpmd: Testpmd,
    names: Vec<String>,
    pid: u32,
}

impl TestpmdVhost {
    /// Starts it; rules of the plan are not looked at.
    ///
    /// # Errors
    /// When the plan has anything but two vhost-user ports, or testpmd does not get ready.
    pub fn start(plan: &Plan) -> Result<Self> {
        let mut vdevs = Vec::new();
        for (index, port) in plan.ports.iter().enumerate() {
            let PortKind::VhostUser { listens } = port.kind else {
                bail!("testpmd forwards between vhost-user ports only")
            };
            let socket = plan.socket(index);
            remove_stale(&socket)?;
            let client = if listens { "" } else { ",client=1" };
            vdevs.push(format!("net_vhost{index},iface={},queues={}{client}", socket.display(), port.queues));
        }
        let options = TestpmdOptions {
            name: "testpmd-vhost".into(),
            core: plan.core,
            main_cores: vec![plan.control_core],
            pages: plan.pages,
            vdevs,
            queues: plan.ports.iter().map(|port| port.queues).max().unwrap_or(1),
            buffers: 32_768,
            arguments: ["--forward-mode=io", "--auto-start"].map(String::from).into(),
        };
        let mut testpmd = Testpmd::start(&plan.dir, &options)?;
        let pid = testpmd.process().pid();
        Ok(Self { testpmd, names: plan.ports.iter().map(|port| port.name.clone()).collect(), pid })
    }
}

impl Switch for TestpmdVhost {
    fn system(&self) -> &'static str {
        "testpmd"
    }

    fn counters(&mut self) -> Result<Vec<PortCounters>> {
        let stats = self.testpmd.stats()?;
        let named = self.names.iter().zip(stats).map(|(name, port)| PortCounters {
            name: name.clone(),
            rx_frames: port.rx_frames,
            tx_frames: port.tx_frames,
            rx_bytes: port.rx_bytes,
            tx_bytes: port.tx_bytes,
            ..PortCounters::default()
        });
        Ok(named.collect())
    }

    fn work(&mut self) -> Result<Work> {
        let (busy_cycles, frames) = self.testpmd.busy()?;
        Ok(Work { busy_cycles, frames, ..Work::default() })
    }

    fn decided(&mut self) -> Result<Decided> {
        bail!("testpmd does not look at frames")
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.testpmd.quit()
    }
}

/// Removes a socket file a killed predecessor left: `net_vhost` would refuse to bind.
fn remove_stale(socket: &Path) -> Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
