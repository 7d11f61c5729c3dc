//! Control's side of the workers: it starts them, hands them queues and planes, and reads their counters.
//!
//! Every change is the same three steps: build the new [`Plane`], give it to every worker, go on when all have
//! it. What only the old plane referred to is freed here, on the control thread, never by a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use bridging::{BridgePorts, Fdb};
use packet::HugePages;
use port::{PortCounters, PortId, RxQueue, TxQueue};
use sandbox::{Capabilities, Role};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Done, FaultSink, Idle, Mailbox, Part, Pending, Plane, PortPlane,
    PuntQueue, Rules, RxSlot, TxPort, Worker, WorkerConfig, WorkerStats,
};

use crate::hurry::Hurry;

/// How the workers are made.
pub struct WorkersSetup {
    /// The core of each.
    pub cores: Vec<usize>,
    /// When they sleep.
    pub idle: Idle,
    /// Bounds of their caches.
    pub caches: CacheSizes,
    /// Memory for frames made in software.
    pub huge_pages: HugePages,
    /// Buffers for them, each worker.
    pub buffers: u32,
}

/// A bridge as the workers are to see it.
#[derive(Clone)]
pub struct BridgeSetup {
    /// Its rules.
    pub rules: Arc<dyn Rules>,
    /// Its ports with their VLAN modes.
    pub ports: Arc<BridgePorts>,
    /// Its MAC table.
    pub fdb: Arc<Fdb>,
}

/// A port as the workers are to see it.
#[derive(Clone, Copy, Debug)]
pub struct PortSetup {
    /// Index of its bridge.
    pub bridge: u16,
    /// Longest frame that may leave, in bytes.
    pub frame_max: u32,
    /// Up, as far as the operator is concerned.
    pub admin_up: bool,
}

struct WorkerHandle {
    core: usize,
    mailbox: Mailbox,
    stats: Arc<WorkerStats>,
    thread: Option<JoinHandle<()>>,
    /// What the thread of a worker that was started held waits for.
    gate: Option<Sender<()>>,
    /// What lets such a thread begin at once when the gate opens; the thread sends it.
    hurry: Option<Receiver<Hurry>>,
    queues: usize,
}

struct PortState {
    setup: PortSetup,
    counters: Vec<Arc<PortCounters>>,
    tx: BTreeMap<u16, Arc<TxPort>>,
    /// Receive queue number to the worker that serves it.
    rx: BTreeMap<u16, usize>,
    /// Where the operator wants each receive queue.
    placement: BTreeMap<u16, usize>,
    /// What it has to do with divided queues.
    part: Option<Part>,
    /// Counters of what partitions deliver, or have delivered, to it.
    delivered: Vec<Arc<PortCounters>>,
}

/// The workers, and the switch as they see it.
pub struct Dataplane {
    workers: Vec<WorkerHandle>,
    bridges: Vec<BridgePlane>,
    ports: BTreeMap<PortId, PortState>,
    plane: Arc<Plane>,
    clock: Clock,
    huge_pages: bool,
    /// While the workers are held: the receive queues they are to have, each with its worker.
    held: Option<Vec<(usize, RxSlot)>>,
}

/// Whether workers that are started begin at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// They do.
    AtOnce,
    /// They wait for [`Dataplane::release`], without using their cores.
    Held,
}

impl Dataplane {
    /// Starts a pinned thread on each core.
    ///
    /// # Errors
    /// No memory or huge pages, no threads, a core the process may not use.
    pub fn start(
        setup: &WorkersSetup,
        punts: &Arc<PuntQueue>,
        faults: &FaultSink,
        begin: Begin,
    ) -> std::io::Result<Dataplane> {
        let clock = Clock::start();
        let mut workers = Vec::new();
        let mut huge_pages = true;
        for (index, &core) in setup.cores.iter().enumerate() {
            let stats = Arc::new(WorkerStats::default());
            let config = WorkerConfig {
                index,
                idle: setup.idle,
                caches: setup.caches,
                huge_pages: setup.huge_pages,
                buffers: setup.buffers,
                clock,
            };
            let (worker, mailbox) = Worker::new(config, stats.clone(), punts.clone(), faults.clone())?;
            huge_pages &= worker.has_huge_pages();
            let (gate, opened) = std::sync::mpsc::channel();
            let (hurries, hurry) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new().name(format!("worker{index}")).spawn(move || {
                pin(core);
                if begin == Begin::Held {
                    // Before the privilege for it is gone. Nobody takes it only when the switch never comes to run.
                    let _ = hurries.send(Hurry::start());
                }
                // Nothing that a worker does needs a privilege.
                match sandbox::enter(Role::Worker, Capabilities::NONE) {
                    Ok(given_up) if index == 0 => tracing::info!("sandbox: each {given_up}"),
                    Ok(_) => {}
                    Err(error) => tracing::warn!("sandbox: worker {index} keeps its privileges: {error}"),
                }
                // A gate that goes without opening belongs to a switch that never came to run.
                if begin == Begin::AtOnce || opened.recv().is_ok() {
                    worker.run();
                }
            })?;
            let (gate, hurry) = match begin {
                Begin::AtOnce => (None, None),
                Begin::Held => (Some(gate), Some(hurry)),
            };
            let thread = Some(thread);
            workers.push(WorkerHandle { core, mailbox, stats, thread, gate, hurry, queues: 0 });
        }
        Ok(Dataplane {
            workers,
            bridges: Vec::new(),
            ports: BTreeMap::new(),
            plane: Arc::new(Plane::default()),
            clock,
            huge_pages,
            held: (begin == Begin::Held).then(Vec::new),
        })
    }

    /// Takes everything from the workers, between two bursts: no frame moves until [`release`](Self::release), and
    /// none is lost in between. Meanwhile queues come and go as usual, planes take effect at the release.
    pub fn hold(&mut self) {
        if self.held.is_some() {
            return;
        }
        // Everything is asked for before anything is waited for: each worker is disturbed once.
        let mut asked = Vec::new();
        for (&port, state) in &self.ports {
            for (&queue_index, &worker) in &state.rx {
                let command = Command::RemoveRx { port, queue_index };
                asked.push((worker, self.workers[worker].mailbox.post(command)));
            }
        }
        self.plane = Arc::new(Plane::default());
        self.broadcast(|| Command::SetPlane(self.plane.clone()));
        let mut held = Vec::new();
        for (worker, pending) in asked {
            if let Some(Done::Queue(Some(slot))) = pending.wait() {
                held.push((worker, slot));
            }
        }
        self.held = Some(held);
    }

    /// Lets the workers go on, or begin, with everything they are to have now. Returns when they do.
    pub fn release(&mut self) {
        let Some(held) = self.held.take() else { return };
        for worker in &mut self.workers {
            if let Some(gate) = worker.gate.take() {
                // The thread waits for it, unless it is gone: then nothing it is told matters.
                let _ = gate.send(());
            }
        }
        self.plane = Arc::new(self.current_plane());
        let planes = self.workers.iter().map(|w| w.mailbox.post(Command::SetPlane(self.plane.clone())));
        let mut pending: Vec<Pending> = planes.collect();
        for (worker, slot) in held {
            pending.push(self.workers[worker].mailbox.post(Command::AddRx(slot)));
        }
        for answer in pending {
            answer.wait();
        }
        for worker in &mut self.workers {
            worker.hurry = None;
        }
    }

    /// The time base of workers and MAC tables.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether every worker's memory for frames made in software is of huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Core and counters of each worker.
    pub fn workers(&self) -> impl Iterator<Item = (usize, &WorkerStats)> {
        self.workers.iter().map(|w| (w.core, &*w.stats))
    }

    /// How many workers there are.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Counters of a port: one set a worker, then those of the partitions that deliver to it.
    pub fn counters(&self, port: PortId) -> Vec<Arc<PortCounters>> {
        let all = |p: &PortState| p.counters.iter().chain(&p.delivered).cloned().collect();
        self.ports.get(&port).map_or(vec![], all)
    }

    /// Says what ports have to do with divided queues; those that aren't named have nothing. Takes effect with
    /// [`publish`](Self::publish).
    pub fn set_parts(&mut self, mut parts: BTreeMap<PortId, (Part, Vec<Arc<PortCounters>>)>) {
        for (id, port) in &mut self.ports {
            let (part, delivered) = parts.remove(id).unzip();
            port.part = part;
            for counters in delivered.into_iter().flatten() {
                if !port.delivered.iter().any(|known| Arc::ptr_eq(known, &counters)) {
                    port.delivered.push(counters);
                }
            }
        }
    }

    /// Receive queues of a port and the core that serves each.
    pub fn placement(&self, port: PortId) -> Vec<(u16, usize)> {
        let cores = |(&queue, &worker): (&u16, &usize)| (queue, self.workers[worker].core);
        self.ports.get(&port).map_or(vec![], |p| p.rx.iter().map(cores).collect())
    }

    /// Replaces the bridges. Takes effect with [`publish`](Self::publish).
    pub fn set_bridges(&mut self, bridges: impl IntoIterator<Item = BridgeSetup>) {
        let plane = |b: BridgeSetup| BridgePlane { rules: b.rules, ports: b.ports, fdb: b.fdb };
        self.bridges = bridges.into_iter().map(plane).collect();
    }

    /// Adds a port or changes it. Takes effect with [`publish`](Self::publish). `placement` says which worker
    /// is to serve which receive queue; the others go where there are fewest.
    pub fn set_port(&mut self, id: PortId, setup: PortSetup, placement: BTreeMap<u16, usize>) {
        let workers = self.workers.len();
        let port = self.ports.entry(id).or_insert_with(|| PortState {
            setup,
            counters: (0..workers).map(|_| Arc::default()).collect(),
            tx: BTreeMap::new(),
            rx: BTreeMap::new(),
            placement: BTreeMap::new(),
            part: None,
            delivered: Vec::new(),
        });
        port.setup = setup;
        port.placement = placement;
    }

    /// Moves a port's receive queues to the workers that `placement` names.
    pub fn place(&mut self, id: PortId, placement: BTreeMap<u16, usize>) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        let moving: Vec<u16> = port
            .rx
            .iter()
            .filter(|(queue, worker)| placement.get(queue) != Some(worker))
            .map(|(&q, _)| q)
            .collect();
        port.placement = placement;
        for queue_index in moving {
            if let Some(queue) = self.detach_rx(id, queue_index) {
                self.attach_rx(id, queue_index, queue);
            }
        }
    }

    /// Removes a port and drops its queues.
    pub fn remove_port(&mut self, id: PortId) {
        let Some(port) = self.ports.get(&id) else { return };
        let queues: Vec<u16> = port.rx.keys().copied().collect();
        for queue in queues {
            drop(self.detach_rx(id, queue));
        }
        self.ports.remove(&id);
        self.publish();
    }

    /// Forgets the addresses that were learned on a port.
    pub fn forget_addresses(&self, id: PortId) {
        self.bridges.iter().for_each(|bridge| {
            bridge.fdb.flush(id);
        });
    }

    /// Makes every worker see the switch as it is now; returns when all do. While they are held, the release
    /// will.
    pub fn publish(&mut self) {
        if self.held.is_none() {
            let plane = Arc::new(self.current_plane());
            self.broadcast(|| Command::SetPlane(plane.clone()));
            self.plane = plane;
        }
    }

    fn current_plane(&self) -> Plane {
        let mut ports: Vec<Option<PortPlane>> = Vec::new();
        for (id, port) in &self.ports {
            ports.resize_with(id.0 as usize + 1, || None);
            ports[id.0 as usize] = Some(PortPlane {
                bridge: port.setup.bridge,
                frame_max: port.setup.frame_max,
                admin_up: port.setup.admin_up,
                tx: port.tx.values().cloned().collect(),
                counters: port.counters.clone(),
                part: port.part.clone(),
            });
        }
        Plane { bridges: self.bridges.clone(), ports }
    }

    /// Makes the rules' counters exact.
    pub fn sync(&self) {
        self.broadcast(|| Command::Sync);
    }

    /// Switches the timing of stages on or off.
    pub fn time_stages(&self, on: bool) {
        self.broadcast(|| Command::TimeStages(on));
    }

    fn broadcast(&self, command: impl Fn() -> Command) {
        if self.workers.iter().any(|w| w.gate.is_some()) {
            // Nobody would answer, and nothing is in force that could be told of.
            return;
        }
        let pending: Vec<_> = self.workers.iter().map(|w| w.mailbox.post(command())).collect();
        for answer in pending {
            answer.wait();
        }
    }

    /// Gives a receive queue to a worker.
    pub fn attach_rx(&mut self, id: PortId, queue_index: u16, mut queue: Box<dyn RxQueue>) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        let fewest =
            (0..self.workers.len()).min_by_key(|&w| self.workers[w].queues).expect("there is a worker");
        let worker = *port.placement.get(&queue_index).unwrap_or(&fewest);
        port.rx.insert(queue_index, worker);
        self.workers[worker].queues += 1;
        queue.assign(worker);
        let slot = RxSlot { port: id, queue_index, queue, counters: port.counters[worker].clone() };
        match &mut self.held {
            Some(held) => held.push((worker, slot)),
            None => drop(self.workers[worker].mailbox.call(Command::AddRx(slot))),
        }
    }

    /// Takes a receive queue back from its worker.
    pub fn detach_rx(&mut self, id: PortId, queue_index: u16) -> Option<Box<dyn RxQueue>> {
        let worker = self.ports.get_mut(&id)?.rx.remove(&queue_index)?;
        self.workers[worker].queues -= 1;
        if let Some(held) = &mut self.held {
            let at = held.iter().position(|(_, s)| s.port == id && s.queue_index == queue_index)?;
            return Some(held.swap_remove(at).1.queue);
        }
        match self.workers[worker].mailbox.call(Command::RemoveRx { port: id, queue_index })? {
            Done::Queue(slot) => slot.map(|s| s.queue),
            Done::Applied => None,
        }
    }

    /// Makes a transmit queue available to all workers.
    pub fn attach_tx(&mut self, id: PortId, queue_index: u16, queue: Box<dyn TxQueue>) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        port.tx.insert(queue_index, TxPort::new(queue_index, queue));
        self.publish();
    }

    /// Makes a transmit queue available to all workers, where each has an object of its own that leads there.
    pub fn attach_tx_of_each_worker(&mut self, id: PortId, queue_index: u16, queues: Vec<Box<dyn TxQueue>>) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        port.tx.insert(queue_index, TxPort::of_each_worker(queue_index, queues));
        self.publish();
    }

    /// Takes a transmit queue back from all workers.
    pub fn detach_tx(&mut self, id: PortId, queue_index: u16) -> Option<Box<dyn TxQueue>> {
        let tx = self.ports.get_mut(&id)?.tx.remove(&queue_index)?;
        self.publish();
        tx.into_queue()
    }

    /// Ends the workers. Their queues are dropped.
    pub fn stop(&mut self) {
        // Tells workers only that began: others end because their gate goes.
        self.broadcast(|| Command::Stop);
        for worker in &mut self.workers {
            worker.gate = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has said so on standard error already.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Pins the calling thread; a core that is not there leaves it where the scheduler puts it.
fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    if core < rustix::thread::CpuSet::MAX_CPU {
        set.set(core);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::warn!(core, %error, "can't pin a worker to its core: it runs wherever the scheduler puts it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridges::{Bridge, now};
    use pcap_port::NullTx;
    use pipeline::FlowMod;
    use port::InjectRx;
    use std::time::{Duration, Instant};

    fn start(begin: Begin) -> Dataplane {
        let setup = WorkersSetup {
            cores: vec![0],
            idle: Idle::Sleep { after_us: 50 },
            caches: CacheSizes::default(),
            huge_pages: HugePages::Off,
            buffers: 64,
        };
        let faults: FaultSink = Arc::new(|fault| panic!("{fault:?}"));
        Dataplane::start(&setup, &Arc::new(PuntQueue::new(1)), &faults, begin).unwrap()
    }

    /// Ports 1 and 2 on a bridge that sends what comes from 1 to 2.
    fn join(plane: &mut Dataplane) {
        let config = switch_config::parse("[[bridge]]\nname = \"br0\"", &switch_config::Context::default());
        let mut bridge = Bridge::new(&config.unwrap().bridges[0], 1, 1, 1);
        let rule = flow_text::parse_add("in_port=1,actions=output:2", &flow_text::NoPorts).unwrap();
        bridge.tables.apply(&[FlowMod::Add(rule)], now()).unwrap();
        let ports = Arc::new(BridgePorts::new([]));
        plane.set_bridges([BridgeSetup { rules: bridge.rules(), ports, fdb: bridge.fdb.clone() }]);
        for id in [PortId(1), PortId(2)] {
            let setup = PortSetup { bridge: 0, frame_max: 1522, admin_up: true };
            plane.set_port(id, setup, BTreeMap::new());
            plane.attach_tx(id, 0, Box::new(NullTx));
        }
        plane.publish();
    }

    fn sent(plane: &Dataplane) -> u64 {
        plane.counters(PortId(2)).iter().map(|c| c.tx_frames.get()).sum()
    }

    fn wait_for(plane: &Dataplane, frames: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while sent(plane) < frames {
            assert!(Instant::now() < deadline, "{} of {frames} frames were sent", sent(plane));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn workers_that_never_began_end() {
        let mut plane = start(Begin::Held);
        join(&mut plane);
        drop(plane);
    }

    #[test]
    fn what_comes_while_workers_are_held_moves_when_they_are_released() {
        for begin in [Begin::AtOnce, Begin::Held] {
            let mut plane = start(begin);
            join(&mut plane);
            plane.hold();
            let frame = [2; 60];
            plane.attach_rx(PortId(1), 0, Box::new(InjectRx::new(&[&frame, &frame]).unwrap()));
            plane.attach_rx(PortId(1), 1, Box::new(InjectRx::new(&[&frame]).unwrap()));
            assert!(plane.detach_rx(PortId(1), 1).is_some(), "a held queue can be taken back");
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(sent(&plane), 0);
            plane.release();
            wait_for(&plane, 2);
            // And again, while the queue is with a worker.
            plane.hold();
            assert!(plane.detach_rx(PortId(1), 0).is_some() && plane.detach_tx(PortId(2), 0).is_some());
            plane.release();
            assert_eq!(sent(&plane), 2);
        }
    }
}
