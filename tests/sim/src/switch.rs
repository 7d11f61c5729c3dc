//! The switch under test, as its control thread has it, and beside each part what the model knows of it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bridging::{BridgePorts, Fdb, FdbLimits, PortVlan};
use packet::HugePages;
use pipeline::{BridgeRules, Tables};
use port::{PortCounters, PortId, QueueFault, RxQueue, TxQueue, WireFrame};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Done, FaultReport, FaultSink, Idle, Mailbox, Pending, Plane,
    PortPlane, PuntQueue, RxSlot, TxPort, Worker, WorkerConfig, WorkerStats,
};

use crate::frames;
use crate::model::{Credit, Credits, ExpectedPunt, Job, Model, Tally, View, ViewBridge, ViewPort};
use crate::observe::{Counted, Event, Log, ObservedRx, ObservedTx, RxId, TxId};
use crate::stations::Stations;

/// Virtual nanoseconds are the ticks of the workers' counter.
pub const HZ: u64 = 1_000_000_000;
/// The second at which the counter stood at 0.
const BASE_SECS: u32 = 1000;
/// Port numbers are below this.
pub const PORTS: usize = 24;
/// The queue number of frames of the switch's own.
pub const INJECT_QUEUE: u16 = u16::MAX;

/// Marks flows of a peer that may break its rings, and with them their order.
pub const BROKEN_FLOW: u32 = 1 << 31;

/// Something that must not be.
pub type Violation = String;

/// A frame that was sent to the switch, and whether its queue is to drop it.
#[derive(Debug)]
pub struct Sent {
    pub frame: WireFrame,
    pub refused: bool,
}

/// What is on its way from a peer to the switch. Outlives the queue when a ring is stopped and goes on.
#[derive(Default)]
pub struct Inbound {
    pub sent: VecDeque<Sent>,
    /// How many of them the switch can see.
    pub visible: usize,
    pub kick_lost: bool,
    /// Its peer broke the rules: nothing is promised of it any more.
    pub broken: bool,
}

/// Frames a queue was given at once.
struct Group {
    frames: VecDeque<WireFrame>,
    /// How many of them it counted as sent and the peer hasn't seen.
    sent: u64,
    /// Their sender keeps to the rules: what it sent is right by itself, too.
    honest: bool,
}

/// What is on its way from the switch to a peer.
#[derive(Default)]
pub struct Outbound {
    groups: VecDeque<Group>,
    /// By flow: the number of the last frame that arrived.
    last: HashMap<u32, u32>,
    pub broken: bool,
}

impl Outbound {
    /// Frames that were sent and not seen yet.
    pub fn pending(&self) -> u64 {
        self.groups.iter().map(|group| group.sent).sum()
    }

    /// Judges a frame that arrived.
    ///
    /// # Errors
    /// It was not sent, or not in this order, or has changed on its way.
    pub fn arrived(&mut self, frame: &WireFrame) -> Result<(), Violation> {
        if self.broken {
            return Ok(());
        }
        while self.groups.front().is_some_and(|group| group.sent == 0) {
            self.groups.pop_front();
        }
        let Some(Group { frames, sent, honest }) = self.groups.front_mut() else {
            return Err(format!("a frame arrived that nobody sent: {}", describe(frame)));
        };
        *sent -= 1;
        loop {
            match frames.pop_front() {
                None => return Err(format!("a frame arrived out of order, or changed: {}", describe(frame))),
                Some(expected) if expected == *frame => break,
                Some(_) => {}
            }
        }
        if !*honest {
            return Ok(());
        }
        frames::check(frame).map_err(|what| format!("{what}: {}", describe(frame)))?;
        if let Some(tail) = frames::tail(&frame.bytes)
            && tail.flow & BROKEN_FLOW == 0
        {
            let last = self.last.entry(tail.flow).or_insert(tail.seq);
            if *last > tail.seq {
                return Err(format!("frame {} of flow {} arrived after {last}", tail.seq, tail.flow));
            }
            *last = tail.seq;
        }
        Ok(())
    }
}

/// A frame in a few words.
pub fn describe(frame: &WireFrame) -> String {
    let WireFrame { bytes, offload } = frame;
    let head = &bytes[..bytes.len().min(42)];
    let tail = frames::tail(bytes)
        .map_or("no tail".into(), |t| format!("frame {} flow {} seq {}", t.id, t.flow, t.seq));
    format!("{tail}, {} bytes, {offload}, {head:02x?}", bytes.len())
}

/// A receive queue that a worker has.
pub struct RxInfo {
    pub port: u16,
    pub queue: u16,
    pub worker: usize,
    pub tally: Rc<Tally>,
    pub lane: Rc<RefCell<Inbound>>,
    pub injects: bool,
}

/// How much a transmit queue takes, as far as it can be told from outside.
#[derive(Clone, Copy, Debug)]
pub enum Room {
    /// So many frames (a wire).
    Frames(u64),
    /// So many buffers of so many bytes; whether a frame may take several.
    Buffers {
        count: u64,
        bytes: usize,
        mergeable: bool,
    },
    Unknown,
}

/// A transmit queue that workers have.
pub struct TxInfo {
    pub port: u16,
    pub lane: Rc<RefCell<Outbound>>,
}

/// A command that a worker hasn't taken yet.
struct Mail {
    pending: Pending,
    view: Option<Rc<View>>,
    added: Option<RxId>,
    removed: Option<RxId>,
    answer: Rc<RefCell<Option<Done>>>,
}

pub struct SimWorker {
    worker: Worker,
    mailbox: Mailbox,
    view: Rc<View>,
    mail: VecDeque<Mail>,
    serves: BTreeSet<RxId>,
    pub asleep: bool,
    buffers: usize,
}

pub struct SimBridge {
    pub tables: Tables,
    pub fdb: Arc<Fdb>,
    pub stations: Rc<RefCell<Stations>>,
    /// What rules should have counted, by worker.
    credits: Rc<RefCell<Vec<Credits>>>,
    /// As much of it as workers must have passed on by now.
    passed_on: Vec<Credits>,
    /// Which rule has which slot.
    slots: BTreeMap<u32, Identity>,
    pub max_age: u32,
    uid: u64,
}

/// Table, priority and match: what tells one rule from another.
type Identity = (u8, u16, flow_text::Match);

/// A port without its peer.
pub struct SimPort {
    pub bridge: usize,
    pub mtu: usize,
    pub up: bool,
    pub vlan: PortVlan,
    tallies: Vec<Rc<Tally>>,
    rx: BTreeMap<u16, RxId>,
    tx: BTreeMap<u16, (TxId, Arc<TxPort>)>,
}

impl SimPort {
    /// Numbers of its receive queues.
    pub fn rx_queues(&self) -> Vec<u16> {
        self.rx.keys().copied().collect()
    }

    /// Numbers of its transmit queues.
    pub fn tx_queues(&self) -> Vec<u16> {
        self.tx.keys().copied().collect()
    }
}

/// The switch, and the model of it.
pub struct Switch {
    pub now: u64,
    clock: Clock,
    pub workers: Vec<SimWorker>,
    pub bridges: Vec<SimBridge>,
    pub ports: BTreeMap<u16, SimPort>,
    pub rx: BTreeMap<RxId, RxInfo>,
    pub tx: BTreeMap<TxId, TxInfo>,
    /// What transmit queues take, known at the beginning of a turn.
    pub rooms: BTreeMap<TxId, Room>,
    failed: BTreeSet<TxId>,
    tallies: Vec<Rc<Tally>>,
    model: Model,
    log: Log,
    punts: Arc<PuntQueue>,
    faults: Arc<Mutex<Vec<FaultReport>>>,
    next_id: u32,
    pub frames_received: u64,
}

impl Switch {
    pub fn new(workers: usize, caches: CacheSizes, buffers: u32, punts_max: usize) -> Switch {
        let punts = Arc::new(PuntQueue::new(punts_max));
        let faults: Arc<Mutex<Vec<FaultReport>>> = Arc::default();
        let clock = Clock::virtual_time(HZ, BASE_SECS);
        let reports = faults.clone();
        let sink: FaultSink = Arc::new(move |report| reports.lock().expect("no holder panics").push(report));
        let workers = (0..workers).map(|index| {
            let idle = Idle::Sleep { after_us: 0 };
            let config = WorkerConfig { index, idle, caches, huge_pages: HugePages::Off, buffers, clock };
            let stats = Arc::<WorkerStats>::default();
            let made = Worker::new(config, stats, punts.clone(), sink.clone());
            let (worker, mailbox) = made.expect("memory for a worker");
            SimWorker {
                buffers: worker.free_buffers(),
                worker,
                mailbox,
                view: Rc::default(),
                mail: VecDeque::new(),
                serves: BTreeSet::new(),
                asleep: false,
            }
        });
        Switch {
            now: 0,
            clock,
            workers: workers.collect(),
            bridges: vec![],
            ports: BTreeMap::new(),
            rx: BTreeMap::new(),
            tx: BTreeMap::new(),
            rooms: BTreeMap::new(),
            failed: BTreeSet::new(),
            tallies: vec![],
            model: Model::new(punts_max),
            log: Log::default(),
            punts,
            faults,
            next_id: 0,
            frames_received: 0,
        }
    }

    /// The second it is.
    pub fn secs(&self) -> u32 {
        self.clock.secs(self.now)
    }

    /// The time of tables and timeouts.
    pub fn time(&self) -> Duration {
        Duration::from_secs(BASE_SECS.into()) + Duration::from_nanos(self.now)
    }

    pub fn add_bridge(&mut self, per_port: u32, max_age: u32, seed: u64) {
        let limits = FdbLimits { addresses: 4096, per_port };
        self.bridges.push(SimBridge {
            tables: Tables::new(self.workers.len()),
            fdb: Arc::new(Fdb::new(limits, PORTS, seed)),
            stations: Rc::new(RefCell::new(Stations::new(per_port))),
            credits: Rc::new(RefCell::new(vec![Credits::default(); self.workers.len()])),
            passed_on: vec![Credits::default(); self.workers.len()],
            slots: BTreeMap::new(),
            max_age,
            uid: self.bridges.len() as u64 + 1,
        });
    }

    pub fn add_port(&mut self, id: u16, bridge: usize, mtu: usize, vlan: PortVlan) {
        let tally = |worker| {
            let real = Arc::<PortCounters>::default();
            Rc::new(Tally { port: id, worker, real, expected: RefCell::default() })
        };
        let tallies: Vec<Rc<Tally>> = (0..self.workers.len()).map(tally).collect();
        self.tallies.extend(tallies.iter().cloned());
        let port = SimPort { bridge, mtu, up: true, vlan, tallies, rx: BTreeMap::new(), tx: BTreeMap::new() };
        self.ports.insert(id, port);
    }

    /// Takes a port without queues away.
    pub fn remove_port(&mut self, id: u16) {
        self.ports.remove(&id);
    }

    /// Builds what workers are to know, and what the model is to think of it.
    fn plane(&self) -> (Arc<Plane>, Rc<View>) {
        let (mut plane, mut view) = (Plane::default(), View::default());
        for (index, bridge) in self.bridges.iter().enumerate() {
            let members = self.ports.iter().filter(|(_, port)| port.bridge == index);
            let ports = members.map(|(&id, port)| (PortId(id), Arc::new(port.vlan.clone())));
            let ports = Arc::new(BridgePorts::new(ports));
            let snapshot = bridge.tables.snapshot();
            let rules = Arc::new(BridgeRules::new(snapshot.clone(), bridge.uid));
            plane.bridges.push(BridgePlane { rules, ports: ports.clone(), fdb: bridge.fdb.clone() });
            let (stations, credits) = (bridge.stations.clone(), bridge.credits.clone());
            view.bridges.push(ViewBridge { snapshot, ports, stations, credits });
        }
        for (&id, port) in &self.ports {
            let slots = usize::from(id) + 1;
            plane.ports.resize_with(slots, || None);
            view.ports.resize_with(slots, || None);
            plane.ports[usize::from(id)] = Some(PortPlane {
                bridge: port.bridge as u16,
                frame_max: port.mtu as u32 + 22,
                admin_up: port.up,
                tx: port.tx.values().map(|(_, tx)| tx.clone()).collect(),
                counters: port.tallies.iter().map(|tally| tally.real.clone()).collect(),
                part: None,
            });
            view.ports[usize::from(id)] = Some(ViewPort {
                bridge: port.bridge,
                frame_max: port.mtu + 22,
                up: port.up,
                tx: port.tx.values().map(|(id, tx)| (*id, tx.accepts())).collect(),
                tallies: port.tallies.clone(),
            });
        }
        (Arc::new(plane), Rc::new(view))
    }

    fn post(&mut self, worker: usize, command: Command, mail: impl FnOnce(&mut Mail)) -> Answer {
        let answer = Answer::default();
        let w = &mut self.workers[worker];
        let pending = w.mailbox.post(command);
        let mut entry = Mail { pending, view: None, added: None, removed: None, answer: answer.0.clone() };
        mail(&mut entry);
        w.mail.push_back(entry);
        answer
    }

    /// Tells a worker how the switch looks now. In force when it has had a turn.
    pub fn post_plane(&mut self, worker: usize) -> Answer {
        let (plane, view) = self.plane();
        self.post(worker, Command::SetPlane(plane), |mail| mail.view = Some(view))
    }

    /// Asks a worker for exact counters of rules.
    pub fn post_sync(&mut self, worker: usize) -> Answer {
        self.post(worker, Command::Sync, |_| {})
    }

    /// Every worker has the plane of now.
    pub fn acknowledged(&mut self) {
        for bridge in &mut self.bridges {
            let version = bridge.tables.version();
            bridge.tables.release_retired(version);
        }
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Gives a worker a receive queue of a port.
    pub fn post_rx(
        &mut self,
        port: u16,
        queue: u16,
        worker: usize,
        inner: Box<dyn RxQueue>,
        lane: Rc<RefCell<Inbound>>,
    ) -> Answer {
        let id = RxId(self.id());
        let sim_port = self.ports.get_mut(&port).expect("the port is there");
        let tally = sim_port.tallies[worker].clone();
        let injects = queue == INJECT_QUEUE;
        sim_port.rx.insert(queue, id);
        let counters = tally.real.clone();
        self.rx.insert(id, RxInfo { port, queue, worker, tally, lane, injects });
        let observed = Box::new(ObservedRx { inner, id, log: self.log.clone() });
        let slot = RxSlot { port: PortId(port), queue_index: queue, queue: observed, counters };
        self.post(worker, Command::AddRx(slot), |mail| mail.added = Some(id))
    }

    /// Asks for a receive queue back.
    pub fn post_remove_rx(&mut self, port: u16, queue: u16) -> Option<(usize, Answer)> {
        let id = self.ports.get_mut(&port)?.rx.remove(&queue)?;
        let worker = self.rx[&id].worker;
        let command = Command::RemoveRx { port: PortId(port), queue_index: queue };
        Some((worker, self.post(worker, command, |mail| mail.removed = Some(id))))
    }

    /// Makes a transmit queue a part of the next plane.
    pub fn add_tx(
        &mut self,
        port: u16,
        queue: u16,
        inner: Box<dyn TxQueue>,
        lane: Rc<RefCell<Outbound>>,
    ) -> TxId {
        let id = TxId(self.id());
        let observed = Box::new(ObservedTx { inner, id, log: self.log.clone() });
        let port_number = port;
        let port = self.ports.get_mut(&port).expect("the port is there");
        port.tx.insert(queue, (id, TxPort::new(queue, observed)));
        self.tx.insert(id, TxInfo { port: port_number, lane });
        id
    }

    /// Leaves a transmit queue out of the next plane. It can be taken apart when that is acknowledged.
    pub fn remove_tx(&mut self, port: u16, queue: u16) -> Option<(TxId, Arc<TxPort>)> {
        self.ports.get_mut(&port)?.tx.remove(&queue)
    }

    /// The transmit queue by its number.
    pub fn tx_id(&self, port: u16, queue: u16) -> Option<TxId> {
        self.ports.get(&port)?.tx.get(&queue).map(|(id, _)| *id)
    }

    /// Faults that workers reported since this was asked last.
    pub fn take_faults(&self) -> Vec<FaultReport> {
        std::mem::take(&mut *self.faults.lock().expect("no holder panics"))
    }

    /// Puts a worker to sleep, if it may.
    ///
    /// # Errors
    /// It says that nothing waits while something does.
    pub fn doze(&mut self, worker: usize) -> Result<bool, Violation> {
        let w = &mut self.workers[worker];
        // What was signalled while it polled doesn't count.
        w.asleep = w.worker.arm();
        if !w.asleep {
            w.worker.disarm();
            return Ok(false);
        }
        for id in &self.workers[worker].serves {
            let lane = self.rx[id].lane.borrow();
            if lane.visible > 0 && !lane.broken {
                return Err(format!("worker {worker} goes to sleep with {} frames in {id:?}", lane.visible));
            }
        }
        Ok(true)
    }

    /// One turn of a worker, if it is awake or woken, and the comparison with the model. Returns the frames received.
    ///
    /// # Errors
    /// Any difference.
    pub fn turn(&mut self, worker: usize) -> Result<usize, Violation> {
        if self.workers[worker].asleep {
            if !self.workers[worker].worker.is_notified() {
                self.check_sleep(worker)?;
                return Ok(0);
            }
            self.wake(worker);
        }
        self.log.lock().expect("no holder panics").clear();
        let mut mail = std::mem::take(&mut self.workers[worker].mail);
        if !mail.is_empty() {
            // Counters are exact when control has an answer.
            for bridge in &mut self.bridges {
                bridge.passed_on[worker] = bridge.credits.borrow()[worker].clone();
            }
        }
        let frames = self.workers[worker].worker.turn(self.now);
        for mail in mail.drain(..) {
            *mail.answer.borrow_mut() = mail.pending.wait();
            let w = &mut self.workers[worker];
            w.view = mail.view.unwrap_or_else(|| w.view.clone());
            w.serves.extend(mail.added);
            if let Some(id) = mail.removed {
                w.serves.remove(&id);
            }
        }
        let events = std::mem::take(&mut *self.log.lock().expect("no holder panics"));
        let judged = self.judge(worker, &events).and_then(|sure| self.compare(sure));
        judged.map_err(|what| format!("{what}\nin this turn of worker {worker}:\n{}", self.tell(&events)))?;
        self.frames_received += frames as u64;
        Ok(frames)
    }

    /// What happened, a line for each call of a queue that moved a frame.
    fn tell(&self, events: &[Event]) -> String {
        let mut out = String::new();
        for event in events {
            let (what, queue, port, frames, counted, fault) = match event {
                Event::Received { rx, frames, counted, fault } => {
                    ("received from", rx.0, self.rx[rx].port, frames, counted, fault)
                }
                Event::Transmitted { tx, frames, counted, fault } => {
                    ("gave to", tx.0, self.tx[tx].port, frames, counted, fault)
                }
                Event::Counted { .. } => continue,
            };
            if frames.is_empty() && fault.is_none() {
                continue;
            }
            let drops: Vec<_> = port::DropReason::ALL
                .iter()
                .filter(|&&reason| counted.dropped(reason) > 0)
                .map(|&reason| format!("{} {}", counted.dropped(reason), reason.name()))
                .collect();
            let _ = writeln!(out, "  {what} queue {queue} of port {port}, drops {drops:?}, fault {fault:?}:");
            for frame in frames {
                let _ = writeln!(out, "    {}", describe(frame));
            }
        }
        out
    }

    /// Ends a worker's sleep, as it does itself when it was notified.
    pub fn wake(&mut self, worker: usize) {
        let w = &mut self.workers[worker];
        if std::mem::take(&mut w.asleep) {
            w.worker.disarm();
        }
    }

    /// Nothing may wait for a worker that sleeps on.
    fn check_sleep(&self, worker: usize) -> Result<(), Violation> {
        if !self.workers[worker].mail.is_empty() {
            return Err(format!("worker {worker} sleeps, there is mail for it"));
        }
        for id in &self.workers[worker].serves {
            let lane = self.rx[id].lane.borrow();
            if lane.visible > 0 && !lane.kick_lost && !lane.broken {
                return Err(format!("worker {worker} sleeps, {} frames wait in {id:?}", lane.visible));
            }
        }
        Ok(())
    }

    /// Goes through what a turn did, burst by burst. False when counters can't be predicted this time.
    fn judge(&mut self, worker: usize, events: &[Event]) -> Result<bool, Violation> {
        let mut sure = true;
        let mut served = BTreeSet::new();
        let mut at = 0;
        while at < events.len() {
            let Event::Received { rx, frames, counted, fault } = &events[at] else {
                sure &= self.other(worker, &events[at], &mut BTreeMap::new(), true)?;
                at += 1;
                continue;
            };
            let end = events[at + 1..].iter().position(|e| matches!(e, Event::Received { .. }));
            let end = end.map_or(events.len(), |n| at + 1 + n);
            if !served.insert(*rx) {
                return Err(format!("{rx:?} was served twice in one turn"));
            }
            self.received(*rx, frames, counted, fault.as_ref())?;
            let honest = !self.rx[rx].lane.borrow().broken;
            let mut outputs = BTreeMap::new();
            if fault.is_none() {
                let left = ids_that_left(&events[at + 1..end]);
                let info = &self.rx[rx];
                let view = self.workers[worker].view.clone();
                let job = Job {
                    view: &view,
                    worker,
                    port: info.port,
                    queue: info.queue,
                    from: &info.tally,
                    now_secs: self.clock.secs(self.now),
                    failed: &self.failed,
                    left: &left,
                };
                let predicted = self.model.burst(&job, frames);
                sure &= !predicted.unsure;
                outputs = predicted.outputs;
            }
            for event in &events[at + 1..end] {
                sure &= self.other(worker, event, &mut outputs, honest)?;
            }
            for (tx, frames) in &outputs {
                if let Some(frame) = frames.front()
                    && !self.failed.contains(tx)
                {
                    return Err(format!(
                        "from {rx:?}: {} frames were not sent to {tx:?}, first {}",
                        frames.len(),
                        describe(frame)
                    ));
                }
            }
            at = end;
        }
        if let Some(id) = self.workers[worker].serves.iter().find(|id| !served.contains(id)) {
            // A queue that ended with a fault isn't served any more.
            if !self.rx[id].lane.borrow().broken {
                return Err(format!("{id:?} was not served"));
            }
        }
        Ok(sure)
    }

    /// Compares what a receive queue handed over with what its peer sent.
    fn received(
        &mut self,
        rx: RxId,
        frames: &[WireFrame],
        counted: &Counted,
        fault: Option<&QueueFault>,
    ) -> Result<(), Violation> {
        let info = &self.rx[&rx];
        info.tally.add(counted);
        let mut lane = info.lane.borrow_mut();
        let refused = counted.all_drops();
        let expected = frames.len() as u64 + refused;
        let came = if info.injects { counted.injected } else { counted.rx_frames };
        if came != expected && fault.is_none() {
            return Err(format!(
                "{rx:?} counted {came} frames, {} came and {refused} were refused",
                frames.len()
            ));
        }
        if let Some(fault) = fault {
            if !lane.broken {
                return Err(format!("{rx:?} of an honest peer ended: {fault}"));
            }
            info.tally.expected.borrow_mut().drops[port::DropReason::SenderGone as usize] +=
                frames.len() as u64;
            return Ok(());
        }
        if lane.broken {
            return Ok(());
        }
        lane.kick_lost = false;
        let mut bytes = 0;
        let mut left = refused;
        let mut take = |lane: &mut Inbound| -> Option<WireFrame> {
            loop {
                let sent = lane.sent.front().filter(|_| lane.visible > 0)?;
                if sent.refused && left == 0 {
                    return None;
                }
                lane.visible -= 1;
                let sent = lane.sent.pop_front()?;
                bytes += sent.frame.bytes.len() as u64;
                if !sent.refused {
                    return Some(sent.frame);
                }
                left -= 1;
            }
        };
        for frame in frames {
            match take(&mut lane) {
                Some(sent) if sent == *frame => {}
                Some(sent) => {
                    return Err(format!(
                        "{rx:?} received something else than was sent:\n  sent     {}\n  received {}",
                        describe(&sent),
                        describe(frame)
                    ));
                }
                None => return Err(format!("{rx:?} received a frame nobody sent: {}", describe(frame))),
            }
        }
        while left > 0 {
            if lane.sent.front().is_none_or(|sent| !sent.refused) {
                return Err(format!("{rx:?} refused {left} frames that are good"));
            }
            lane.sent.pop_front();
            lane.visible -= 1;
            left -= 1;
        }
        // Bytes of refused frames are counted or not, depending on what is wrong with them.
        if refused == 0 && !info.injects && counted.rx_bytes != bytes {
            return Err(format!("{rx:?} counted {} bytes, {bytes} came", counted.rx_bytes));
        }
        Ok(())
    }

    /// Judges what a transmit queue was given, or takes what another call counted. False when a fault makes the engine's
    /// counters unpredictable.
    fn other(
        &mut self,
        worker: usize,
        event: &Event,
        outputs: &mut BTreeMap<TxId, VecDeque<WireFrame>>,
        honest: bool,
    ) -> Result<bool, Violation> {
        match event {
            Event::Received { .. } => unreachable!("handled by the caller"),
            Event::Counted { tx: false, queue, counted, .. } => {
                self.rx[&RxId(*queue)].tally.add(counted);
                Ok(true)
            }
            Event::Counted { tx: true, queue, counted, fault } => {
                let id = TxId(*queue);
                self.tally_of(id, worker).add(counted);
                if fault.is_some() {
                    self.fault(id)?;
                }
                Ok(true)
            }
            Event::Transmitted { tx, frames, counted, fault } => {
                self.tally_of(*tx, worker).add(counted);
                let expected = outputs.entry(*tx).or_default();
                for frame in frames {
                    match expected.pop_front() {
                        Some(expected) if expected == *frame => {}
                        Some(expected) => {
                            return Err(format!(
                                "{tx:?} was given another frame than the rules say:\n  expected {}\n  given    {}",
                                describe(&expected),
                                describe(frame)
                            ));
                        }
                        None => {
                            return Err(format!("the rules send nothing to {tx:?}: {}", describe(frame)));
                        }
                    }
                }
                let (sent, dropped) = (counted.tx_frames, counted.all_drops());
                if sent + dropped != frames.len() as u64 {
                    return Err(format!("{tx:?} was given {}, sent {sent}, dropped {dropped}", frames.len()));
                }
                if fault.is_some() {
                    self.fault(*tx)?;
                } else {
                    self.check_room(*tx, frames, counted)?;
                }
                let mut lane = self.tx[tx].lane.borrow_mut();
                if !lane.broken && sent > 0 {
                    lane.groups.push_back(Group { frames: frames.iter().cloned().collect(), sent, honest });
                }
                Ok(fault.is_none())
            }
        }
    }

    fn tally_of(&self, tx: TxId, worker: usize) -> Rc<Tally> {
        let view = &self.workers[worker].view;
        let port = view.ports[usize::from(self.tx[&tx].port)].as_ref();
        port.expect("a queue that is used has a port").tallies[worker].clone()
    }

    fn fault(&mut self, tx: TxId) -> Result<(), Violation> {
        self.failed.insert(tx);
        if !self.tx[&tx].lane.borrow().broken {
            return Err(format!("{tx:?} of an honest peer ended with a fault"));
        }
        Ok(())
    }

    /// No frame is dropped for want of room when there was some.
    fn check_room(&mut self, tx: TxId, frames: &[WireFrame], counted: &Counted) -> Result<(), Violation> {
        let full = counted.dropped(port::DropReason::TxFull);
        let small = counted.dropped(port::DropReason::TxBufferTooSmall);
        if full + small != counted.all_drops() {
            return Err(format!("{tx:?} dropped for another reason than want of room: {counted:?}"));
        }
        let Some(room) = self.rooms.get_mut(&tx) else { return Ok(()) };
        match *room {
            Room::Unknown => {}
            Room::Frames(left) => {
                let wanted = (frames.len() as u64).saturating_sub(left);
                if (full, small) != (wanted, 0) {
                    return Err(format!(
                        "{tx:?} has room for {left} of {}, and dropped {full}",
                        frames.len()
                    ));
                }
                *room = Room::Frames(left - counted.tx_frames);
            }
            Room::Buffers { count, bytes, mergeable } => {
                let need = |frame: &WireFrame| (12 + frame.bytes.len()).div_ceil(bytes) as u64;
                let fits = |frame: &&WireFrame| need(frame) == 1 || (mergeable && need(frame) <= 80);
                let needed: u64 = frames.iter().filter(fits).map(need).sum();
                let too_long = frames.iter().filter(|frame| !fits(frame)).count() as u64;
                if needed < count {
                    // One is left over even for a frame that doesn't fit to be judged by.
                    if full > 0 && (too_long == 0 || !mergeable) {
                        return Err(format!(
                            "{tx:?} has {count} buffers, {needed} are needed, {full} were dropped"
                        ));
                    }
                    if small != too_long && !mergeable {
                        return Err(format!(
                            "{tx:?}: {too_long} frames don't fit a buffer, {small} were dropped so"
                        ));
                    }
                    *room = if too_long == 0 || !mergeable {
                        Room::Buffers { count: count - needed, bytes, mergeable }
                    } else {
                        Room::Unknown
                    };
                } else {
                    *room = Room::Unknown;
                }
            }
        }
        Ok(())
    }

    /// Compares all counters with what they should say.
    fn compare(&self, sure: bool) -> Result<(), Violation> {
        for tally in &self.tallies {
            let real = Counted::read(&tally.real);
            let mut expected = tally.expected.borrow_mut();
            if !sure {
                *expected = real;
            } else if real != *expected {
                let what = differences(&real, &expected);
                return Err(format!("port {} on worker {} counts {what}", tally.port, tally.worker));
            }
        }
        let (came, went) = self.balance();
        if came != went {
            return Err(format!("{came} frames came or were made, {went} are accounted for"));
        }
        Ok(())
    }

    fn balance(&self) -> (u64, u64) {
        let balances = self.tallies.iter().map(|tally| Counted::read(&tally.real).balance());
        balances.fold((0, 0), |sum, balance| (sum.0 + balance.0, sum.1 + balance.1))
    }

    /// Takes what waits for the controller.
    ///
    /// # Errors
    /// It isn't what should wait there.
    pub fn drain_punts(&mut self) -> Result<usize, Violation> {
        let mut count = 0;
        while let Some(punt) = self.punts.pop() {
            let got: ExpectedPunt = (punt.port.0, punt.frame_len, punt.bytes().to_vec());
            let expected = self.model.punts.pop_front();
            if expected.as_ref() != Some(&got) {
                return Err(format!("the controller got {got:02x?}, expected {expected:02x?}"));
            }
            count += 1;
        }
        match self.model.punts.len() {
            0 => Ok(count),
            missing => Err(format!("{missing} frames for the controller are missing")),
        }
    }

    /// Compares MAC tables and the rules' counters.
    ///
    /// # Errors
    /// Any difference.
    pub fn check_tables(&self) -> Result<(), Violation> {
        for (n, bridge) in self.bridges.iter().enumerate() {
            let (real, expected) = (bridge.fdb.entries(), bridge.stations.borrow().entries());
            if real != expected {
                let odd = real.iter().find(|e| !expected.contains(e));
                let missing = expected.iter().find(|e| !real.contains(e));
                return Err(format!("bridge {n} knows {odd:?}, and doesn't know {missing:?}"));
            }
            for port in 0..PORTS as u16 {
                let learned = bridge.stations.borrow().learned_on(port);
                if bridge.fdb.learned_on(PortId(port)) as usize != learned {
                    let counted = bridge.fdb.learned_on(PortId(port));
                    return Err(format!(
                        "bridge {n} counts {counted} stations on port {port}, there are {learned}"
                    ));
                }
            }
            for rule in bridge.tables.dump(&flow_text::FlowFilter::default(), self.time()) {
                let sum = |credits: &[Credits]| {
                    let of = credits.iter().filter_map(|c| c.get(&rule.slot));
                    of.fold((0, 0), |sum, c| (sum.0 + c.frames, sum.1 + c.bytes))
                };
                let (least, most) = (sum(&bridge.passed_on), sum(&bridge.credits.borrow()));
                let counted = (rule.counters.frames, rule.counters.bytes);
                if counted.0 < least.0 || counted.0 > most.0 || counted.1 < least.1 || counted.1 > most.1 {
                    return Err(format!(
                        "bridge {n}: rule {} has counted {counted:?} frames and bytes; {least:?} were passed on, \
                         {most:?} came",
                        rule.spec
                    ));
                }
            }
        }
        Ok(())
    }

    /// Notes which rules have which slots now; those that are new have counted nothing.
    pub fn rules_changed(&mut self, bridge: usize) {
        let now = self.time();
        let bridge = &mut self.bridges[bridge];
        let dump = bridge.tables.dump(&flow_text::FlowFilter::default(), now);
        let identity = |spec: &flow_text::FlowSpec| (spec.table, spec.priority, spec.match_);
        let slots: BTreeMap<u32, Identity> =
            dump.iter().map(|rule| (rule.slot, identity(rule.spec))).collect();
        for (slot, identity) in &slots {
            if bridge.slots.get(slot) != Some(identity) {
                bridge.credits.borrow_mut().iter_mut().chain(&mut bridge.passed_on).for_each(|credits| {
                    credits.remove(slot);
                });
            }
        }
        bridge.slots = slots;
    }

    /// The second in which a rule was last used, as far as control can know.
    pub fn last_used(&self, bridge: usize, slot: u32) -> Option<u32> {
        let used = |credits: &Credits| credits.get(&slot).map(|credit: &Credit| credit.last);
        self.bridges[bridge].passed_on.iter().filter_map(used).max()
    }

    /// Ends the run: every buffer of the workers is back.
    ///
    /// # Errors
    /// One is missing.
    pub fn check_buffers(&self) -> Result<(), Violation> {
        for (n, w) in self.workers.iter().enumerate() {
            let free = w.worker.free_buffers();
            if free != w.buffers {
                return Err(format!("worker {n} has {free} of {} buffers", w.buffers));
            }
        }
        Ok(())
    }
}

/// An answer that is under way: there when the worker has had its turn.
#[derive(Clone, Default)]
pub struct Answer(Rc<RefCell<Option<Done>>>);

impl Answer {
    /// Whether it has come.
    pub fn is_there(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// The queue it brings.
    pub fn into_rx(self) -> Option<Box<ObservedRx>> {
        match self.0.take()? {
            Done::Queue(slot) => {
                let queue: Box<dyn Any> = slot?.queue;
                Some(queue.downcast().expect("all queues are observed"))
            }
            Done::Applied => None,
        }
    }
}

/// The transmit queue, when no worker refers to it any more.
///
/// # Errors
/// One still does.
pub fn take_apart(tx: Arc<TxPort>) -> Result<Box<ObservedTx>, Violation> {
    let queue = tx.into_queue().ok_or("a worker still has a queue that was taken from its plane")?;
    let queue: Box<dyn Any> = queue;
    Ok(queue.downcast().expect("all queues are observed"))
}

fn ids_that_left(events: &[Event]) -> BTreeSet<u64> {
    let frames = events.iter().filter_map(|event| match event {
        Event::Transmitted { frames, .. } => Some(frames),
        _ => None,
    });
    frames.flatten().filter_map(|frame| frames::tail(&frame.bytes)).map(|tail| tail.id).collect()
}

fn differences(real: &Counted, expected: &Counted) -> String {
    let mut out = vec![];
    let mut compare = |name: &str, real: u64, expected: u64| {
        if real != expected {
            out.push(format!("{name} {real} instead of {expected}"));
        }
    };
    compare("received", real.rx_frames, expected.rx_frames);
    compare("received bytes", real.rx_bytes, expected.rx_bytes);
    compare("sent", real.tx_frames, expected.tx_frames);
    compare("sent bytes", real.tx_bytes, expected.tx_bytes);
    compare("copies", real.copies, expected.copies);
    compare("punted", real.punted, expected.punted);
    compare("injected", real.injected, expected.injected);
    compare("kicks", real.kicks, expected.kicks);
    compare("calls", real.calls, expected.calls);
    for &reason in port::DropReason::ALL {
        compare(reason.name(), real.dropped(reason), expected.dropped(reason));
    }
    out.join(", ")
}
