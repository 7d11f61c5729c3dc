//! The switch as the control thread has it: configuration, bridges, ports, workers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bridging::{BridgePorts, PortVlan, VlanSet};
use packet::HugePages;
use pipeline::FlowMod;
use port::PortId;
use switch_config::{Config, VlanMode};
use worker::{CacheSizes, FaultReport, FaultSink, Idle, PuntQueue, Sorted};

use crate::bridges::{Bridge, file_rules, now, rule_changes};
use crate::dataplane::{Begin, BridgeSetup, Dataplane, PortSetup, WorkersSetup};
use crate::dpaa2::{Hardware, RunningDpaa2};
use crate::guests::Guests;
use crate::partitions::Divisions;
use crate::ports::{OpenPort, RunningDriver, RunningPort, placement};

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
    pub guests: Guests,
    /// What DPAA2 ports are on.
    pub hardware: Hardware,
    /// Queues that are divided among owners.
    pub divisions: Divisions,
    /// Held while the configuration changes: changes take turns.
    pub changing: Arc<tokio::sync::Mutex<()>>,
    /// A successor is taking over: nothing may change that it is told only once.
    pub is_handed_over: bool,
    /// How the ports came here, if from another process.
    pub taken_over: Option<control::TakeOverRow>,
    /// Listening sockets for a successor.
    pub listeners: Listeners,
    next_uid: u64,
}

/// Duplicates of the listening sockets.
#[derive(Default)]
pub(crate) struct Listeners {
    pub control: Option<OwnedFd>,
    pub metrics: Option<(SocketAddr, OwnedFd)>,
}

impl Switch {
    /// Starts workers, bridges and ports.
    ///
    /// # Errors
    /// Whatever can't be had, by name.
    pub fn start(config: Config, path: PathBuf, faults: &FaultSink) -> anyhow::Result<Switch> {
        let mut switch = Switch::prepare(&config, path, faults, Begin::AtOnce)?;
        switch.set_bridges(&config);
        switch.set_rules(&config)?;
        switch.config = config.clone();
        // Bridges come before ports: a port that is attached may have frames at once.
        switch.publish();
        for port in &config.ports {
            let port = OpenPort::open(port, &config, &switch.hardware)?;
            switch.run_port(port, &config);
        }
        switch.publish();
        Ok(switch)
    }

    /// Makes a switch that has workers and nothing else yet.
    ///
    /// # Errors
    /// No memory, threads or huge pages.
    pub fn prepare(
        config: &Config,
        path: PathBuf,
        faults: &FaultSink,
        begin: Begin,
    ) -> anyhow::Result<Switch> {
        let punts = Arc::new(PuntQueue::new(PUNTS_MAX));
        let setup = WorkersSetup {
            cores: cores(config),
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
        let plane = Dataplane::start(&setup, &punts, faults, begin).map_err(|error| {
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
        Ok(Switch {
            path,
            config: Config {
                bridges: vec![],
                ports: vec![],
                partitions: vec![],
                flows: vec![],
                ..config.clone()
            },
            plane: Rc::new(RefCell::new(plane)),
            bridges: vec![],
            ports: BTreeMap::new(),
            punts,
            started: Instant::now(),
            notices,
            guests: Guests::none(),
            hardware: Hardware::new(config.fslmc.as_ref(), setup.cores),
            divisions: Divisions::default(),
            changing: Arc::default(),
            is_handed_over: false,
            taken_over: None,
            listeners: Listeners::default(),
            next_uid: 1,
        })
    }

    /// Makes the bridges those of the configuration; those that stay keep their rules and, as far as their limits
    /// allow, their addresses.
    pub fn set_bridges(&mut self, config: &Config) {
        let workers = self.plane.borrow().worker_count();
        let mut old: Vec<Bridge> = std::mem::take(&mut self.bridges);
        for wanted in &config.bridges {
            let bridge = match old.iter().position(|b| b.config.name == wanted.name) {
                Some(i) => {
                    let mut bridge = old.swap_remove(i);
                    bridge.change(wanted, seed());
                    bridge
                }
                None => {
                    self.next_uid += 1;
                    Bridge::new(wanted, workers, self.next_uid, seed())
                }
            };
            self.bridges.push(bridge);
        }
    }

    /// Makes the rules those of the configuration; those that stay keep their counters.
    pub fn set_rules(&mut self, config: &Config) -> anyhow::Result<()> {
        for bridge in &mut self.bridges {
            let old = match self.config.bridge(&bridge.config.name) {
                Some(_) => file_rules(&self.config, &bridge.config),
                None => vec![],
            };
            let changes = rule_changes(&old, &file_rules(config, &bridge.config));
            bridge.tables.apply(&changes, now())?;
        }
        Ok(())
    }

    /// Lets an open port move frames.
    pub fn run_port(&mut self, port: OpenPort, config: &Config) {
        self.register(port.config(), config);
        self.divisions.set_sorted(&port.config().name, port.sorted());
        self.divide(config);
        let running = port.run(&self.plane);
        self.ports.insert(running.id, running);
    }

    /// Tells the data plane which ports' queues are divided. Takes effect with what is published next: a queue that is
    /// attached, or [`publish`](Self::publish).
    fn divide(&mut self, config: &Config) {
        let workers = self.plane.borrow().worker_count();
        let parts = self.divisions.parts(config, workers);
        self.plane.borrow_mut().set_parts(parts);
    }

    /// Has the hardware of a divided port sort as the configuration says.
    ///
    /// # Errors
    /// The port isn't on hardware that can, or the firmware refuses.
    pub fn sort(&self, name: &switch_config::PortName) -> anyhow::Result<()> {
        let (running, dpaa2) = self.hardware_of(&self.config, name).context("the port has no hardware")?;
        self.hardware.sort(running, dpaa2, &self.config.partitions_of(name).collect::<Vec<_>>())
    }

    /// Whether the hardware of a divided port, which sorts, can go over to the partitions of a configuration meanwhile.
    pub fn can_follow(&self, name: &switch_config::PortName, config: &Config) -> bool {
        let Some((running, dpaa2)) = self.hardware_of(config, name) else { return false };
        let partitions: Vec<_> = config.partitions_of(name).collect();
        self.divisions.sorted(name) == Sorted::ByHardware
            && self.hardware.can_follow(running, dpaa2, &partitions)
    }

    /// A running port on hardware, and what a configuration says of it.
    fn hardware_of<'a>(
        &'a self,
        config: &'a Config,
        name: &switch_config::PortName,
    ) -> Option<(&'a RunningDpaa2, &'a switch_config::Dpaa2)> {
        let port = config.port(name)?;
        match (&port.driver, &self.ports.get(&PortId(port.number.get()))?.driver) {
            (switch_config::Driver::Dpaa2(dpaa2), RunningDriver::Dpaa2(running)) => Some((running, dpaa2)),
            _ => None,
        }
    }

    /// Says who sorts the frames of a divided port from now on.
    pub fn sorted(&mut self, name: &switch_config::PortName, by: Sorted) {
        self.divisions.set_sorted(name, by);
        self.publish();
    }

    /// Puts into force what can change while a port runs. The workers see it with the next
    /// [`publish`](Self::publish).
    pub fn change_port(&mut self, port: &switch_config::Port, old: &Config) {
        let id = PortId(port.number.get());
        let Some(running) = self.ports.get_mut(&id) else { return };
        let elsewhere = running.config.bridge != port.bridge || running.config.vlan != port.vlan;
        if running.config.placement != port.placement {
            self.plane.borrow_mut().place(id, placement(port, &cores(old)));
        }
        running.change(port);
        if elsewhere {
            // What was learned where it was is not true any more.
            self.bridges.iter().for_each(|bridge| {
                bridge.fdb.flush(id);
            });
        }
    }

    /// Makes a port known to the workers, or its changes.
    pub fn register(&self, port: &switch_config::Port, config: &Config) {
        let bridge = config.bridges.iter().position(|b| b.name == port.bridge).unwrap_or(0);
        let setup = PortSetup {
            bridge: bridge as u16,
            frame_max: u32::from(port.mtu.get()) + LINK_HEADER_MAX,
            admin_up: port.up,
        };
        self.plane.borrow_mut().set_port(PortId(port.number.get()), setup, placement(port, &cores(config)));
    }

    /// Makes the workers see everything as it is now; what this replaces is in force nowhere when it returns.
    pub fn publish(&mut self) {
        let mut setups = vec![];
        for bridge in &self.bridges {
            // An owner's frames go by a table: the bridge sees it behind the port that is divided.
            let is_owner = |port: &switch_config::Port| self.config.divided_by_owner(&port.name).is_some();
            let members = self.config.ports_of(&bridge.config.name).filter(|port| !is_owner(port));
            let ports = members.map(|port| (PortId(port.number.get()), Arc::new(vlan_mode(&port.vlan))));
            setups.push(BridgeSetup {
                rules: bridge.rules(),
                ports: Arc::new(BridgePorts::new(ports)),
                fdb: bridge.fdb.clone(),
            });
        }
        let mut plane = self.plane.borrow_mut();
        plane.set_bridges(setups);
        let workers = plane.worker_count();
        plane.set_parts(self.divisions.parts(&self.config, workers));
        plane.publish();
        for bridge in &mut self.bridges {
            let version = bridge.tables.version();
            bridge.tables.release_retired(version);
        }
    }

    /// Closes the hardware of ports that are gone: another process can open it then.
    pub fn close_hardware(&mut self) {
        self.hardware = Hardware::new(None, vec![]);
    }

    /// Ages addresses and rules. Called every second.
    pub fn expire(&mut self) {
        let plane = self.plane.clone();
        for port in self.ports.values_mut() {
            port.measure(&plane.borrow().counters(port.id));
        }
        if self.is_handed_over {
            // The successor will.
            return;
        }
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
        let applied = self.bridges[bridge].tables.apply(&[change], now())?;
        self.publish();
        Ok(applied)
    }
}

/// The core of each worker.
fn cores(config: &Config) -> Vec<usize> {
    config.workers.cores.iter().map(|core| usize::from(core.get())).collect()
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
