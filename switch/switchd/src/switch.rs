//! The switch as the control thread has it: configuration, bridges, ports, workers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bridging::{BridgePorts, PortVlan, VlanSet};
use packet::HugePages;
use pipeline::FlowMod;
use port::PortId;
use switch_config::{Config, VlanMode};
use worker::{CacheSizes, FaultReport, FaultSink, Idle, PuntQueue};

use crate::bridges::{Bridge, file_rules, now, rule_changes};
use crate::dataplane::{BridgeSetup, Dataplane, PortSetup, WorkersSetup};
use crate::ports::{RunningPort, placement};

/// Frames that wait for a controller at most.
const PUNTS_MAX: usize = 256;
/// Bytes of a frame beyond its MTU: Ethernet header and two tags.
const LINK_HEADER_MAX: u32 = 14 + 8;

/// The running switch.
pub(crate) struct Switch {
    pub path: PathBuf,
    pub config: Config,
    pub plane: Rc<RefCell<Dataplane>>,
    pub bridges: Vec<Bridge>,
    pub ports: BTreeMap<PortId, RunningPort>,
    pub punts: Arc<PuntQueue>,
    pub started: Instant,
    pub notices: Vec<String>,
    next_uid: u64,
}

impl Switch {
    /// Starts workers, bridges and ports.
    ///
    /// # Errors
    /// Whatever can't be had, by name.
    pub fn start(config: Config, path: PathBuf, faults: &FaultSink) -> anyhow::Result<Switch> {
        let punts = Arc::new(PuntQueue::new(PUNTS_MAX));
        let setup = WorkersSetup {
            cores: config.workers.cores.iter().map(|core| usize::from(core.get())).collect(),
            idle: match config.workers.idle {
                switch_config::Idle::Poll => Idle::Poll,
                switch_config::Idle::Sleep { after } => Idle::Sleep { after_us: after.as_micros() as u64 },
            },
            caches: CacheSizes {
                flows: config.workers.caches.flows,
                megaflows: config.workers.caches.megaflows,
                megaflow_masks: config.workers.caches.megaflow_masks,
                ..CacheSizes::default()
            },
            huge_pages: match config.memory.huge_pages {
                switch_config::HugePages::Auto => HugePages::Auto,
                switch_config::HugePages::Require => HugePages::Require,
                switch_config::HugePages::Off => HugePages::Off,
            },
            buffers: config.memory.pool_buffers,
        };
        let plane = Dataplane::start(&setup, &punts, faults).map_err(|error| {
            anyhow::anyhow!("workers: {error} (huge pages are reserved with `sysctl vm.nr_hugepages=N`)")
        })?;
        let mut notices = vec![];
        if !plane.has_huge_pages() && setup.huge_pages == HugePages::Auto {
            notices.push(
                "no huge pages: frames that are segmented or completed in software cost some more TLB misses; \
                 reserve some with `sysctl vm.nr_hugepages=64`"
                    .to_owned(),
            );
        }
        if !crate::runtime::uring_works() {
            notices.push("no io_uring: the control thread uses epoll; TAP ports can't be opened".to_owned());
        }
        let mut switch = Switch {
            path,
            config: Config { bridges: vec![], ports: vec![], flows: vec![], ..config.clone() },
            plane: Rc::new(RefCell::new(plane)),
            bridges: vec![],
            ports: BTreeMap::new(),
            punts,
            started: Instant::now(),
            notices,
            next_uid: 1,
        };
        switch.set_bridges(&config);
        switch.set_rules(&config)?;
        switch.config = config.clone();
        // Bridges come before ports: a port that is attached may have frames at once.
        switch.publish();
        for port in &config.ports {
            switch.add_port(port, &config)?;
        }
        switch.publish();
        Ok(switch)
    }

    /// Makes the bridges those of the configuration; those that stay keep their rules and addresses.
    fn set_bridges(&mut self, config: &Config) {
        let workers = self.plane.borrow().worker_count();
        let mut old: Vec<Bridge> = std::mem::take(&mut self.bridges);
        for wanted in &config.bridges {
            let bridge = match old.iter().position(|b| b.config == *wanted) {
                Some(i) => old.swap_remove(i),
                None => {
                    self.next_uid += 1;
                    Bridge::new(wanted, workers, self.next_uid, seed())
                }
            };
            self.bridges.push(bridge);
        }
    }

    /// Makes the rules those of the configuration; those that stay keep their counters.
    fn set_rules(&mut self, config: &Config) -> anyhow::Result<()> {
        for bridge in &mut self.bridges {
            let old = match self.config.bridges.contains(&bridge.config) && !bridge.tables.is_empty() {
                true => file_rules(&self.config, &bridge.config),
                false => vec![],
            };
            let changes = rule_changes(&old, &file_rules(config, &bridge.config));
            bridge.tables.apply(&changes, now())?;
        }
        Ok(())
    }

    fn add_port(&mut self, port: &switch_config::Port, config: &Config) -> anyhow::Result<()> {
        let id = PortId(port.number.get());
        self.register(port, config);
        match RunningPort::start(id, port, &self.plane) {
            Ok(running) => {
                self.ports.insert(id, running);
                Ok(())
            }
            Err(error) => {
                self.plane.borrow_mut().remove_port(id);
                Err(error)
            }
        }
    }

    /// Makes a port known to the workers, or its changes.
    fn register(&self, port: &switch_config::Port, config: &Config) {
        let cores: Vec<usize> = config.workers.cores.iter().map(|core| usize::from(core.get())).collect();
        let bridge = config.bridges.iter().position(|b| b.name == port.bridge).unwrap_or(0);
        let setup = PortSetup {
            bridge: bridge as u16,
            frame_max: u32::from(port.mtu.get()) + LINK_HEADER_MAX,
            admin_up: port.up,
        };
        self.plane.borrow_mut().set_port(PortId(port.number.get()), setup, placement(port, &cores));
    }

    /// Makes the workers see everything as it is now; what this replaces is in force nowhere when it returns.
    pub fn publish(&mut self) {
        let mut setups = vec![];
        for bridge in &self.bridges {
            let members = self.config.ports.iter().filter(|port| port.bridge == bridge.config.name);
            let ports = members.map(|port| (PortId(port.number.get()), Arc::new(vlan_mode(&port.vlan))));
            setups.push(BridgeSetup {
                rules: bridge.rules(),
                ports: Arc::new(BridgePorts::new(ports)),
                fdb: bridge.fdb.clone(),
            });
        }
        let mut plane = self.plane.borrow_mut();
        plane.set_bridges(setups);
        plane.publish();
        for bridge in &mut self.bridges {
            let version = bridge.tables.version();
            bridge.tables.release_retired(version);
        }
    }

    /// Ages addresses and rules. Called every second.
    pub fn expire(&mut self) {
        let now = now();
        let mut rules_changed = false;
        for bridge in &mut self.bridges {
            bridge.fdb.expire(now.as_secs() as u32, bridge.config.mac_ageing.as_secs() as u32);
            rules_changed |= !bridge.tables.expire(now).is_empty();
        }
        if rules_changed {
            self.publish();
        }
    }

    /// What a worker found broken.
    pub fn queue_fault(&mut self, report: FaultReport) {
        let plane = self.plane.clone();
        if let Some(port) = self.ports.get_mut(&report.port) {
            port.queue_fault(report.queue_index, report.receiving, report.fault, &plane);
        }
    }

    /// Changes rules of a bridge; in force when this returns.
    ///
    /// # Errors
    /// The tables' refusal; nothing has changed then.
    pub fn change_rules(
        &mut self,
        bridge: usize,
        change: FlowMod,
    ) -> Result<pipeline::Applied, pipeline::Refused> {
        // Counters of removed rules are shown no more, but idle time must be exact.
        self.plane.borrow().sync();
        let applied = self.bridges[bridge].tables.apply(&[change], now())?;
        self.publish();
        Ok(applied)
    }

    /// Why a configuration can't be put into force while the switch runs.
    fn fixed(&self, new: &Config) -> Option<&'static str> {
        match () {
            () if new.workers != self.config.workers => Some("[workers]"),
            () if new.memory != self.config.memory => Some("[memory]"),
            () if new.control != self.config.control => Some("[control]"),
            () => None,
        }
    }
}

/// Puts another configuration into force: only what differs is touched. All of it or nothing.
///
/// # Errors
/// It can't be done while the switch runs, or a new port can't be opened; the switch goes on as before.
pub(crate) async fn reconfigure(switch: &Rc<RefCell<Switch>>, new: Config) -> anyhow::Result<Vec<String>> {
    let plane = switch.borrow().plane.clone();
    let old = switch.borrow().config.clone();
    if let Some(section) = switch.borrow().fixed(&new) {
        anyhow::bail!("{section} can't change while the switch runs: restart it; nothing was changed");
    }
    let mut done = vec![];
    // A port whose essence differs gives up its socket or device before its successor can take it.
    let gone: Vec<&switch_config::Port> =
        old.ports.iter().filter(|o| !new.ports.iter().any(|n| same_essence(o, n))).collect();
    let come: Vec<&switch_config::Port> =
        new.ports.iter().filter(|n| !old.ports.iter().any(|o| same_essence(o, n))).collect();
    let replaces =
        |n: &switch_config::Port| gone.iter().any(|g| g.number == n.number || shares_resource(g, n));
    let (late, early): (Vec<_>, Vec<_>) = come.into_iter().partition(|n| replaces(n));
    // What can fail comes first: ports that are new. Bridges they name must be there.
    let mut widened = old.clone();
    widened.bridges.extend(new.bridges.iter().filter(|n| !old.bridges.contains(n)).cloned());
    switch.borrow_mut().set_bridges(&widened);
    switch.borrow_mut().publish();
    let mut started: Vec<PortId> = vec![];
    for port in &early {
        let result = switch.borrow_mut().add_port(port, &widened);
        if let Err(error) = result {
            for id in started {
                let running = switch.borrow_mut().ports.remove(&id);
                if let Some(running) = running {
                    running.stop(&plane).await;
                }
            }
            switch.borrow_mut().set_bridges(&old);
            switch.borrow_mut().publish();
            return Err(error.context("nothing was changed"));
        }
        started.push(PortId(port.number.get()));
        done.push(format!("port {} added", port.name));
    }
    for port in &gone {
        let running = switch.borrow_mut().ports.remove(&PortId(port.number.get()));
        if let Some(running) = running {
            let fdbs: Vec<_> = switch.borrow().bridges.iter().map(|b| b.fdb.clone()).collect();
            running.stop(&plane).await;
            fdbs.iter().for_each(|fdb| {
                fdb.flush(PortId(port.number.get()));
            });
            done.push(format!("port {} removed", port.name));
        }
    }
    let mut this = switch.borrow_mut();
    let this = &mut *this;
    this.set_bridges(&new);
    for port in new.ports.iter().filter(|port| this.ports.contains_key(&PortId(port.number.get()))) {
        this.register(port, &new);
    }
    this.publish();
    for port in &late {
        match this.add_port(port, &new) {
            Ok(()) => done.push(format!("port {} added", port.name)),
            // Its predecessor is gone: say so rather than undo everything around it.
            Err(error) => done.push(format!("port {} FAILED: {error:#}", port.name)),
        }
    }
    for port in &new.ports {
        this.register(port, &new);
        if let Some(running) = this.ports.get_mut(&PortId(port.number.get()))
            && running.config != *port
        {
            running.change(port);
            done.push(format!("port {} changed", port.name));
        }
    }
    this.set_rules(&new)?;
    if old.flows != new.flows {
        done.push(format!("flows: {} before, {} now", old.flows.len(), new.flows.len()));
    }
    if old.bridges != new.bridges {
        done.push(format!("bridges: {} before, {} now", old.bridges.len(), new.bridges.len()));
    }
    this.config = new;
    this.publish();
    Ok(done)
}

/// Whether a port can become the other while it runs.
fn same_essence(a: &switch_config::Port, b: &switch_config::Port) -> bool {
    a.name == b.name
        && a.number == b.number
        && a.driver == b.driver
        && a.queues == b.queues
        && a.placement == b.placement
}

/// Whether both need the same socket or device.
fn shares_resource(a: &switch_config::Port, b: &switch_config::Port) -> bool {
    use switch_config::Driver::{Pcap, Tap, VhostUser};
    match (&a.driver, &b.driver) {
        (VhostUser(a), VhostUser(b)) => a.socket == b.socket,
        (Tap(a), Tap(b)) => a.device == b.device && a.netns == b.netns,
        (Pcap(a), Pcap(b)) => a.write == b.write,
        _ => false,
    }
}

/// A VLAN mode of the file as the bridge takes it.
fn vlan_mode(mode: &VlanMode) -> PortVlan {
    let set = |vlans: &switch_config::VlanSet| match vlans {
        switch_config::VlanSet::All => VlanSet::All,
        switch_config::VlanSet::Some(some) => VlanSet::of(some.iter().map(|v| v.get())),
    };
    match mode {
        VlanMode::Access { tag } => PortVlan::Access(tag.get()),
        VlanMode::Trunk { trunks } => PortVlan::Trunk(set(trunks)),
        VlanMode::NativeTagged { tag, trunks } => PortVlan::NativeTagged(tag.get(), set(trunks)),
        VlanMode::NativeUntagged { tag, trunks } => PortVlan::NativeUntagged(tag.get(), set(trunks)),
    }
}

/// Nobody outside can guess it: the standard library's hasher is seeded by the kernel.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}
