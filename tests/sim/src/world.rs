//! A run: peers, faults and changes, chosen one after the other by the seed.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bridging::{PortVlan, VlanSet};
use fastrand::Rng;
use flow_text::{NoPorts, parse_add, parse_del, parse_mod};
use packet::Offload;
use pipeline::{FlowMod, Why};
use port::{Accepts, InjectRx, RxQueue, TxQueue, Wire, WireFrame};
use virtio_defs::net;
use virtqueue::{RingConfig, VirtioRx, VirtioTx};
use worker::CacheSizes;

use crate::frames::{self, Shape, station};
use crate::guest::{Guest, GuestSpec};
use crate::rules::{self, Vocabulary};
use crate::stations::number;
use crate::switch::{
    Answer, BROKEN_FLOW, HZ, INJECT_QUEUE, Inbound, Outbound, PORTS, Room, Sent, Switch, Violation,
    take_apart,
};
use crate::trace::Trace;
use crate::traffic::{self, Abilities};

/// Steps of a run.
const STEPS: usize = 260;
/// Ports of a run are numbered from 1 to this; rules name one more.
const PORTS_MAX: u16 = 9;

/// What is done in a step, with how often it is done in an average run.
const ACTIONS: &[(Action, u32)] = &[
    (Action::Send, 60),
    (Action::Turn, 50),
    (Action::Receive, 40),
    (Action::Time, 12),
    (Action::Rules, 8),
    (Action::Doze, 6),
    (Action::Faults, 6),
    (Action::AskForCalls, 4),
    (Action::Connect, 5),
    (Action::Suspend, 4),
    (Action::Resume, 6),
    (Action::Punts, 3),
    (Action::Disconnect, 2),
    (Action::NewMemory, 2),
    (Action::MoveQueue, 2),
    (Action::PortAdd, 2),
    (Action::PortDel, 1),
    (Action::PortChange, 3),
    (Action::Announce, 1),
    (Action::Station, 1),
    (Action::Check, 3),
    (Action::Scribble, 2),
    (Action::Storm, 1),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Send,
    Turn,
    Receive,
    Time,
    Rules,
    Doze,
    Faults,
    AskForCalls,
    Connect,
    Suspend,
    Resume,
    Punts,
    Disconnect,
    NewMemory,
    MoveQueue,
    PortAdd,
    PortDel,
    PortChange,
    Announce,
    Station,
    Check,
    Scribble,
    Storm,
}

impl Action {
    /// Whether it can happen while control waits for its workers.
    fn needs_no_control(self) -> bool {
        matches!(self, Action::Send | Action::Turn | Action::Receive | Action::Doze | Action::AskForCalls)
    }
}

struct Flow {
    id: u32,
    next: u32,
    shape: Shape,
    queue: usize,
}

/// What is at the other end of a port.
struct Peer {
    kind: Kind,
    inbound: Vec<Rc<RefCell<Inbound>>>,
    outbound: Vec<Rc<RefCell<Outbound>>>,
    flows: Vec<Flow>,
    can: Abilities,
    /// Rings that are stopped: what is needed to go on.
    stopped_rx: BTreeMap<u16, RingConfig>,
    stopped_tx: BTreeMap<u16, RingConfig>,
}

enum Kind {
    Wire { wire: Wire, room: usize },
    Guest(Box<Guest>),
}

/// What a run came to, for those who count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Frames the switch received.
    pub frames: u64,
    /// Frames peers received.
    pub arrived: u64,
    /// Changes of rules that were acknowledged.
    pub rules_in_force: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.frames += other.frames;
        self.arrived += other.arrived;
        self.rules_in_force += other.rules_in_force;
    }
}

/// The run.
pub struct World {
    rng: Rng,
    trace: Trace,
    switch: Switch,
    peers: BTreeMap<u16, Peer>,
    weights: Vec<u32>,
    words: Vocabulary,
    /// One guest in the run may break its rings.
    hostile: Option<u16>,
    lose_kicks: bool,
    last_tick: u32,
    next_frame: u64,
    next_flow: u32,
    summary: Summary,
}

macro_rules! trace {
    ($world:expr, $($arg:tt)*) => { $world.trace.line(format_args!($($arg)*)) };
}

impl World {
    /// The start of the run of a seed.
    pub fn new(seed: u64, trace: Trace) -> World {
        let mut rng = Rng::with_seed(seed);
        let workers = rng.usize(1..=3);
        let caches = CacheSizes {
            flows: [16, 64, 1024][rng.usize(..3)],
            megaflows: [16, 256][rng.usize(..2)],
            megaflow_masks: rng.u32(1..=6),
            verdicts: [4, 32, 512][rng.usize(..3)],
        };
        let (buffers, punts) = ([32, 40, 64][rng.usize(..3)], [2, 16, 64][rng.usize(..3)]);
        let mut switch = Switch::new(workers, caches, buffers, punts);
        for _ in 0..rng.usize(1..=2) {
            let (per_port, max_age) = ([2, 5, 1000][rng.usize(..3)], [5, 30, 300][rng.usize(..3)]);
            switch.add_bridge(per_port, max_age, rng.u64(..));
        }
        // Each run has its own habits; some things don't happen in it at all.
        let weights = ACTIONS.iter().map(|(action, usual)| match rng.u8(..6) {
            0 if !action.needs_no_control() => 0,
            1 => usual * 3,
            _ => *usual,
        });
        let weights = weights.collect();
        let hostile = (rng.u8(..3) == 0).then(|| rng.u16(1..=PORTS_MAX));
        let words = Vocabulary::new(PORTS_MAX + 1, hostile.is_none());
        trace.line(format_args!(
            "{workers} workers, {} bridges, {caches:?}, hostile {hostile:?}",
            switch.bridges.len()
        ));
        let last_tick = switch.secs();
        World {
            lose_kicks: rng.u8(..3) == 0,
            rng,
            trace,
            switch,
            peers: BTreeMap::new(),
            weights,
            words,
            hostile,
            last_tick,
            next_frame: 0,
            next_flow: 0,
            summary: Summary::default(),
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What must not be, in words.
    pub fn run(&mut self) -> Result<Summary, Violation> {
        self.start()?;
        for _ in 0..STEPS {
            let action = self.choose(|_| true);
            self.act(action)?;
        }
        self.end()?;
        self.summary.frames = self.switch.frames_received;
        Ok(self.summary)
    }

    fn start(&mut self) -> Result<(), Violation> {
        for bridge in 0..self.switch.bridges.len() {
            let mut changes = vec![];
            if self.rng.u8(..4) > 0 {
                changes.push("table=0,priority=0,actions=normal".to_owned());
            }
            for _ in 0..self.rng.u8(..6) {
                changes.push(rules::rule(&mut self.rng, &mut self.words));
            }
            for text in changes {
                self.add_rule(bridge, &text);
            }
        }
        for _ in 0..self.rng.u8(2..6) {
            self.port_add()?;
        }
        self.publish()?;
        for _ in 0..8 {
            self.connect()?;
        }
        Ok(())
    }

    fn choose(&mut self, may: impl Fn(Action) -> bool) -> Action {
        let allowed: u32 =
            ACTIONS.iter().zip(&self.weights).filter(|((a, _), _)| may(*a)).map(|(_, weight)| weight).sum();
        let mut at = self.rng.u32(..allowed);
        for ((action, _), weight) in ACTIONS.iter().zip(&self.weights).filter(|((a, _), _)| may(*a)) {
            match at.checked_sub(*weight) {
                None => return *action,
                Some(less) => at = less,
            }
        }
        unreachable!("the weights were added up")
    }

    fn act(&mut self, action: Action) -> Result<(), Violation> {
        self.switch.now += self.rng.u64(..20_000);
        match action {
            Action::Send => self.send(),
            Action::Turn => {
                let worker = self.rng.usize(..self.switch.workers.len());
                self.turn(worker)
            }
            Action::Receive => self.receive(),
            Action::Time => self.pass_time(),
            Action::Rules => self.change_rules(),
            Action::Doze => {
                let worker = self.rng.usize(..self.switch.workers.len());
                if !self.switch.workers[worker].asleep && self.switch.doze(worker)? {
                    trace!(self, "worker {worker} sleeps");
                }
                Ok(())
            }
            Action::Faults => self.see_to_faults(),
            Action::AskForCalls => {
                self.ask_for_calls();
                Ok(())
            }
            Action::Connect => self.connect(),
            Action::Suspend => self.suspend(),
            Action::Resume => self.resume(),
            Action::Punts => {
                let taken = self.switch.drain_punts()?;
                trace!(self, "controller takes {taken}");
                Ok(())
            }
            Action::Disconnect => match self.any_peer() {
                Some(port) => self.disconnect(port),
                None => Ok(()),
            },
            Action::NewMemory => self.new_memory(),
            Action::MoveQueue => self.move_queue(),
            Action::PortAdd => {
                self.port_add()?;
                self.publish()
            }
            Action::PortDel => self.port_del(),
            Action::PortChange => self.port_change(),
            Action::Announce => self.announce(),
            Action::Station => {
                self.station();
                Ok(())
            }
            Action::Check => self.check(),
            Action::Scribble => {
                self.scribble();
                Ok(())
            }
            Action::Storm => self.storm(),
        }
    }

    fn any_port(&mut self) -> Option<u16> {
        let ports: Vec<u16> = self.switch.ports.keys().copied().collect();
        self.rng.choice(ports)
    }

    fn any_peer(&mut self) -> Option<u16> {
        let ports: Vec<u16> = self.peers.keys().copied().collect();
        self.rng.choice(ports)
    }

    // --- Workers ---

    fn turn(&mut self, worker: usize) -> Result<(), Violation> {
        self.switch.rooms = self.rooms();
        let frames = self.switch.turn(worker)?;
        if frames > 0 {
            trace!(self, "worker {worker} turns, {frames} frames");
        }
        Ok(())
    }

    /// What each queue takes, as far as its peer knows.
    fn rooms(&self) -> BTreeMap<crate::observe::TxId, Room> {
        let mut rooms = BTreeMap::new();
        for (&port, peer) in &self.peers {
            for (n, lane) in peer.outbound.iter().enumerate() {
                let Some(id) = self.switch.tx_id(port, n as u16) else { continue };
                let lane = lane.borrow();
                let room = match &peer.kind {
                    _ if lane.broken => Room::Unknown,
                    Kind::Wire { room, .. } => Room::Frames((*room as u64).saturating_sub(lane.pending())),
                    Kind::Guest(guest) if lane.pending() == 0 => {
                        let (count, bytes) = guest.room(n);
                        let mergeable = guest.spec.has(net::feature::MRG_RXBUF);
                        Room::Buffers { count: count as u64, bytes, mergeable }
                    }
                    Kind::Guest(_) => Room::Unknown,
                };
                rooms.insert(id, room);
            }
        }
        rooms
    }

    /// Waits for answers, as control does; meanwhile everybody else goes on.
    fn wait(&mut self, worker: usize, answer: &Answer) -> Result<(), Violation> {
        while !answer.is_there() {
            if self.rng.u8(..3) == 0 {
                let action = self.choose(Action::needs_no_control);
                self.act(action)?;
            } else {
                self.turn(worker)?;
            }
        }
        Ok(())
    }

    /// Makes every worker see the switch as it is now; they get to know it in any order.
    fn publish(&mut self) -> Result<(), Violation> {
        let mut order: Vec<usize> = (0..self.switch.workers.len()).collect();
        self.rng.shuffle(&mut order);
        let together = self.rng.bool();
        let mut answers = vec![];
        for &worker in &order {
            answers.push((worker, self.switch.post_plane(worker)));
            if !together && self.rng.bool() {
                let action = self.choose(Action::needs_no_control);
                self.act(action)?;
            }
        }
        for (worker, answer) in answers {
            self.wait(worker, &answer)?;
        }
        self.switch.acknowledged();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Violation> {
        for worker in 0..self.switch.workers.len() {
            let answer = self.switch.post_sync(worker);
            while !answer.is_there() {
                self.turn(worker)?;
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Violation> {
        self.sync()?;
        self.switch.check_tables()
    }

    fn pass_time(&mut self) -> Result<(), Violation> {
        let nanos = match self.rng.u8(..20) {
            0 => self.rng.u64(1..400) * HZ,
            1..=6 => self.rng.u64(HZ / 4..2 * HZ),
            _ => self.rng.u64(..5_000_000),
        };
        self.switch.now += nanos;
        let secs = self.switch.secs();
        if secs != self.last_tick {
            self.last_tick = secs;
            trace!(self, "it is second {secs}");
            self.tick()?;
        }
        Ok(())
    }

    /// What control does every second: ageing and timeouts.
    fn tick(&mut self) -> Result<(), Violation> {
        self.sync()?;
        let (secs, now) = (self.switch.secs(), self.switch.time());
        let mut changed = false;
        for n in 0..self.switch.bridges.len() {
            let bridge = &mut self.switch.bridges[n];
            bridge.fdb.expire(secs, bridge.max_age);
            bridge.stations.borrow_mut().expire(secs, bridge.max_age);
            let before: Vec<_> = bridge
                .tables
                .dump(&flow_text::FlowFilter::default(), now)
                .iter()
                .map(|rule| (rule.spec.clone(), rule.slot, rule.counters.age.as_secs()))
                .collect();
            let removed = bridge.tables.expire(now);
            for (spec, slot, age) in before {
                let gone = removed.iter().find(|r| r.spec == spec);
                let used = self.switch.last_used(n, slot).unwrap_or(0);
                let recently = used > 0 && secs < used + u32::from(spec.idle_timeout);
                match gone {
                    Some(gone) if gone.why == Why::Idle && recently => {
                        return Err(format!(
                            "rule {spec} went for idleness, a frame used it in second {used}"
                        ));
                    }
                    None if spec.hard_timeout > 0 && age > u64::from(spec.hard_timeout) + 20_000 => {
                        return Err(format!("rule {spec} is {age} s old and still there"));
                    }
                    Some(gone) => self.trace.line(format_args!("rule {spec} has run out: {:?}", gone.why)),
                    None => {}
                }
            }
            changed |= !removed.is_empty();
            self.switch.rules_changed(n);
        }
        if changed {
            self.publish()?;
        }
        self.switch.check_tables()
    }

    // --- Rules ---

    fn add_rule(&mut self, bridge: usize, text: &str) {
        let Ok(spec) = parse_add(text, &NoPorts) else {
            trace!(self, "bridge {bridge}: {text}: not a rule");
            return;
        };
        let now = self.switch.time();
        let applied = self.switch.bridges[bridge].tables.apply(&[FlowMod::Add(spec)], now);
        trace!(self, "bridge {bridge}: add {text}: {applied:?}");
        self.switch.rules_changed(bridge);
    }

    /// One change or several at once; in force when this returns, which every frame sent later is held to.
    fn change_rules(&mut self) -> Result<(), Violation> {
        self.check()?;
        let bridge = self.rng.usize(..self.switch.bridges.len());
        let mut changes = vec![];
        for _ in 0..self.rng.u8(1..4) {
            let strict = self.rng.u8(..4) == 0;
            let (text, change) = match self.rng.u8(..8) {
                0 | 1 => {
                    let text = rules::filter(&mut self.rng, &mut self.words, strict);
                    let filter = parse_del(&text, &NoPorts);
                    (text, filter.ok().map(|filter| FlowMod::Delete { filter, strict }))
                }
                2 => {
                    let text = rules::change(&mut self.rng, &mut self.words, strict);
                    let change = parse_mod(&text, &NoPorts);
                    (text, change.ok().map(|change| FlowMod::Modify { change, strict }))
                }
                _ => {
                    let text = rules::rule(&mut self.rng, &mut self.words);
                    let spec = parse_add(&text, &NoPorts);
                    (text, spec.ok().map(FlowMod::Add))
                }
            };
            let form = match &change {
                None => "not a rule",
                Some(FlowMod::Add(_)) => "add",
                Some(FlowMod::Modify { .. }) => "mod",
                Some(FlowMod::Delete { .. }) => "del",
            };
            trace!(self, "bridge {bridge}: {form}{} {text}", if strict { " strict" } else { "" });
            changes.extend(change);
        }
        let now = self.switch.time();
        let applied = self.switch.bridges[bridge].tables.apply(&changes, now);
        trace!(self, "bridge {bridge}: {applied:?}");
        self.switch.rules_changed(bridge);
        self.publish()?;
        self.summary.rules_in_force += 1;
        Ok(())
    }

    // --- Ports ---

    fn vlan_mode(&mut self) -> PortVlan {
        match self.rng.u8(..8) {
            0 => PortVlan::Access(5),
            1 => PortVlan::Access(6),
            2 => PortVlan::Trunk(VlanSet::of([5, 7])),
            3 => PortVlan::NativeTagged(5, VlanSet::of([6])),
            4 => PortVlan::NativeUntagged(6, VlanSet::of([5, 7])),
            _ => PortVlan::default(),
        }
    }

    fn port_add(&mut self) -> Result<(), Violation> {
        let free: Vec<u16> = (1..=PORTS_MAX).filter(|id| !self.switch.ports.contains_key(id)).collect();
        let Some(id) = self.rng.choice(free) else { return Ok(()) };
        assert!(usize::from(id) < PORTS);
        let bridge = self.rng.usize(..self.switch.bridges.len());
        let mtu = [1500, 1500, 1500, 600, 9000][self.rng.usize(..5)];
        let vlan = self.vlan_mode();
        trace!(self, "port {id} on bridge {bridge}, MTU {mtu}, {}", vlan_name(&vlan));
        self.switch.add_port(id, bridge, mtu, vlan);
        Ok(())
    }

    fn port_del(&mut self) -> Result<(), Violation> {
        let Some(id) = self.any_port() else { return Ok(()) };
        self.disconnect(id)?;
        trace!(self, "port {id} is removed");
        self.switch.remove_port(id);
        self.publish()?;
        for bridge in &self.switch.bridges {
            bridge.fdb.flush(port::PortId(id));
            bridge.stations.borrow_mut().flush(id);
        }
        Ok(())
    }

    fn port_change(&mut self) -> Result<(), Violation> {
        let Some(id) = self.any_port() else { return Ok(()) };
        let mode = self.vlan_mode();
        let mtu = [1500, 600, 9000][self.rng.usize(..3)];
        let port = self.switch.ports.get_mut(&id).expect("chosen from what is there");
        match self.rng.u8(..3) {
            0 => port.up = !port.up,
            1 => port.mtu = mtu,
            _ => port.vlan = mode,
        }
        trace!(self, "port {id}: up {}, MTU {}, {}", port.up, port.mtu, vlan_name(&port.vlan));
        self.publish()
    }

    fn station(&mut self) {
        let Some(port) = self.any_port() else { return };
        let bridge = &self.switch.bridges[self.switch.ports[&port].bridge];
        let mac = rules::any_station(&mut self.rng);
        let vlan = [0, 5, 6][self.rng.usize(..3)];
        let mut stations = bridge.stations.borrow_mut();
        if self.rng.bool() {
            let set = bridge.fdb.set_static(vlan, mac, port::PortId(port));
            assert!(set.is_ok(), "the table has room");
            stations.set_static(vlan, number(mac), port);
            self.trace.line(format_args!("station {mac:02x?} in VLAN {vlan} is at port {port}"));
        } else {
            let there = bridge.fdb.remove(vlan, mac);
            assert_eq!(there, stations.remove(vlan, number(mac)));
            self.trace.line(format_args!("station {mac:02x?} in VLAN {vlan} is forgotten: {there}"));
        }
    }

    /// A frame of the switch's own, as if a port had sent it.
    fn announce(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_port() else { return Ok(()) };
        let mut frame = vec![0xff; 6];
        frame.extend(station(port as u8 * 3));
        frame.extend([0x80, 0x35]);
        frame.resize(60, 0);
        let queue = InjectRx::new(&[&frame]).expect("memory for a frame");
        let lane = Rc::new(RefCell::new(Inbound::default()));
        let sent = Sent { frame: WireFrame { bytes: frame, offload: Offload::default() }, refused: false };
        lane.borrow_mut().sent.push_back(sent);
        lane.borrow_mut().visible = 1;
        let worker = self.rng.usize(..self.switch.workers.len());
        trace!(self, "port {port} is announced by worker {worker}");
        let answer = self.switch.post_rx(port, INJECT_QUEUE, worker, Box::new(queue), lane);
        self.wait(worker, &answer)?;
        let queue = self.take_rx(port, INJECT_QUEUE)?;
        assert!(queue.is_some(), "the queue comes back");
        Ok(())
    }

    // --- Peers ---

    fn connect(&mut self) -> Result<(), Violation> {
        let absent: Vec<u16> =
            self.switch.ports.keys().filter(|id| !self.peers.contains_key(id)).copied().collect();
        let Some(port) = self.rng.choice(absent) else { return Ok(()) };
        let wire = self.hostile != Some(port) && self.rng.u8(..3) == 0;
        let (kind, queues, can) = if wire { self.make_wire(port) } else { self.make_guest(port) };
        let lanes = || (0..queues).map(|_| Rc::default());
        let mut peer = Peer {
            kind,
            inbound: lanes().collect(),
            outbound: (0..queues).map(|_| Rc::default()).collect(),
            flows: vec![],
            can,
            stopped_rx: BTreeMap::new(),
            stopped_tx: BTreeMap::new(),
        };
        for _ in 0..self.rng.usize(1..6) {
            peer.flows.push(self.new_flow(port, &can, queues));
        }
        let queues: Vec<(Box<dyn RxQueue>, Box<dyn TxQueue>)> = match &mut peer.kind {
            Kind::Guest(guest) => (0..queues)
                .map(|n| {
                    let posted = guest.post(n, self.rng.usize(..40));
                    self.trace.line(format_args!("port {port}.{n} has {posted} buffers"));
                    let (rx, tx): (Box<dyn RxQueue>, Box<dyn TxQueue>) =
                        (Box::new(guest.rx_queue(n)), Box::new(guest.tx_queue(n)));
                    (rx, tx)
                })
                .collect(),
            Kind::Wire { wire, room } => {
                let accepts = Accepts {
                    partial_checksum: self.rng.bool(),
                    tso4: self.rng.bool(),
                    tso6: self.rng.bool(),
                    tso_ecn: false,
                };
                let (end, rx, tx) = Wire::new(*room, accepts).expect("memory for a wire");
                *wire = end;
                vec![(Box::new(rx), Box::new(tx))]
            }
        };
        let lanes: Vec<_> = peer.inbound.iter().cloned().zip(peer.outbound.iter().cloned()).collect();
        self.peers.insert(port, peer);
        for (n, ((rx, tx), (inbound, outbound))) in queues.into_iter().zip(lanes).enumerate() {
            self.switch.add_tx(port, n as u16, tx, outbound);
            self.publish()?;
            self.give_rx(port, n as u16, rx, inbound)?;
        }
        Ok(())
    }

    fn make_wire(&mut self, port: u16) -> (Kind, usize, Abilities) {
        let room = [4, 40, 1000][self.rng.usize(..3)];
        let (wire, ..) = Wire::new(room, Accepts::default()).expect("memory for a wire");
        let offloads = self.rng.bool();
        trace!(self, "port {port} is a wire for {room} frames, offloads {offloads}");
        let can = Abilities { checksum: offloads, tso4: offloads, tso6: offloads, frame_max: 65_000 };
        (Kind::Wire { wire, room }, 1, can)
    }

    fn make_guest(&mut self, port: u16) -> (Kind, usize, Abilities) {
        let spec = GuestSpec::random(&mut self.rng);
        trace!(self, "port {port} is a guest: {spec:x?}");
        let queues = spec.pairs;
        let can = Abilities {
            checksum: spec.has(net::feature::CSUM),
            tso4: spec.has(net::feature::HOST_TSO4),
            tso6: spec.has(net::feature::HOST_TSO6),
            frame_max: 65_000,
        };
        (Kind::Guest(Box::new(Guest::new(spec, &mut self.rng))), queues, can)
    }

    fn new_flow(&mut self, port: u16, can: &Abilities, queues: usize) -> Flow {
        self.next_flow += 1;
        let shape = traffic::flow(&mut self.rng, port, can);
        let queue = self.rng.usize(..queues);
        trace!(self, "port {port}.{queue} has flow {}: {shape:x?}", self.next_flow);
        let broken = if self.hostile == Some(port) { BROKEN_FLOW } else { 0 };
        Flow { id: self.next_flow | broken, next: 0, shape, queue }
    }

    fn give_rx(
        &mut self,
        port: u16,
        queue: u16,
        rx: Box<dyn RxQueue>,
        lane: Rc<RefCell<Inbound>>,
    ) -> Result<(), Violation> {
        let worker = self.rng.usize(..self.switch.workers.len());
        trace!(self, "worker {worker} serves {port}.{queue}");
        let answer = self.switch.post_rx(port, queue, worker, rx, lane);
        self.wait(worker, &answer)
    }

    /// Takes a receive queue from its worker.
    fn take_rx(&mut self, port: u16, queue: u16) -> Result<Option<Box<dyn RxQueue>>, Violation> {
        let Some((worker, answer)) = self.switch.post_remove_rx(port, queue) else { return Ok(None) };
        self.wait(worker, &answer)?;
        let observed = answer.into_rx().ok_or(format!("worker {worker} doesn't give {port}.{queue} back"))?;
        Ok(Some(observed.inner))
    }

    /// Takes a transmit queue from all workers.
    fn take_tx(&mut self, port: u16, queue: u16) -> Result<Option<Box<dyn TxQueue>>, Violation> {
        let Some((_, tx)) = self.switch.remove_tx(port, queue) else { return Ok(None) };
        self.publish()?;
        Ok(Some(take_apart(tx)?.inner))
    }

    /// The peer is gone at once; its port waits for another.
    fn disconnect(&mut self, port: u16) -> Result<(), Violation> {
        trace!(self, "port {port} loses its peer");
        // Whatever it had under way is nobody's loss but its own.
        let peer = self.peers.remove(&port);
        if let Some(peer) = &peer {
            peer.outbound.iter().for_each(|lane| lane.borrow_mut().broken = true);
        }
        let Some(sim_port) = self.switch.ports.get(&port) else { return Ok(()) };
        let (rx, tx) = (sim_port.rx_queues(), sim_port.tx_queues());
        for queue in rx {
            drop(self.take_rx(port, queue)?);
        }
        for queue in tx {
            drop(self.take_tx(port, queue)?);
        }
        Ok(())
    }

    /// Stops one ring or both of a pair, as GET_VRING_BASE does.
    fn suspend(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_peer() else { return Ok(()) };
        let queues = self.switch.ports[&port].rx_queues();
        let Some(queue) = self.rng.choice(queues) else { return Ok(()) };
        if !matches!(self.peers[&port].kind, Kind::Guest(_)) {
            return Ok(());
        }
        let which = self.rng.u8(1..4);
        if which & 1 != 0
            && let Some(rx) = self.take_rx(port, queue)?
        {
            let state = ring_of::<VirtioRx>(rx).into_state();
            trace!(self, "ring {port}.{queue} rx is stopped at {:#x}", state.base);
            self.peers.get_mut(&port).expect("chosen above").stopped_rx.insert(queue, state);
        }
        if which & 2 != 0
            && let Some(tx) = self.take_tx(port, queue)?
        {
            let state = ring_of_tx(tx).into_state();
            trace!(self, "ring {port}.{queue} tx is stopped at {:#x}", state.base);
            self.peers.get_mut(&port).expect("chosen above").stopped_tx.insert(queue, state);
        }
        Ok(())
    }

    /// Starts a stopped ring where it was.
    fn resume(&mut self) -> Result<(), Violation> {
        let stopped: Vec<u16> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.stopped_rx.is_empty() || !peer.stopped_tx.is_empty())
            .map(|(&port, _)| port)
            .collect();
        let Some(port) = self.rng.choice(stopped) else { return Ok(()) };
        let peer = self.peers.get_mut(&port).expect("chosen from what is there");
        let Kind::Guest(guest) = &peer.kind else { return Ok(()) };
        if let Some((queue, state)) = peer.stopped_rx.pop_first() {
            let lane = peer.inbound[usize::from(queue)].clone();
            match VirtioRx::new(state, guest.map()) {
                Ok(rx) => {
                    trace!(self, "ring {port}.{queue} rx goes on");
                    self.give_rx(port, queue, Box::new(rx), lane)?;
                }
                Err(error) if lane.borrow().broken => {
                    trace!(self, "ring {port}.{queue} rx doesn't start: {error}")
                }
                Err(error) => {
                    return Err(format!("ring {port}.{queue} of an honest guest doesn't go on: {error}"));
                }
            }
        } else if let Some((queue, state)) = peer.stopped_tx.pop_first() {
            let lane = peer.outbound[usize::from(queue)].clone();
            match VirtioTx::new(state, guest.map()) {
                Ok(tx) => {
                    trace!(self, "ring {port}.{queue} tx goes on");
                    self.switch.add_tx(port, queue, Box::new(tx), lane);
                    self.publish()?;
                }
                Err(error) if lane.borrow().broken => {
                    trace!(self, "ring {port}.{queue} tx doesn't start: {error}")
                }
                Err(error) => {
                    return Err(format!("ring {port}.{queue} of an honest guest doesn't go on: {error}"));
                }
            }
        }
        Ok(())
    }

    /// A guest sends another memory table: its queues are taken out, changed, and given back.
    fn new_memory(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_peer() else { return Ok(()) };
        let Some(Peer { kind: Kind::Guest(guest), inbound, outbound, .. }) = self.peers.get_mut(&port) else {
            return Ok(());
        };
        let (inbound, outbound) = (inbound.clone(), outbound.clone());
        let map = guest.change_map(&mut self.rng);
        trace!(self, "port {port} has another memory table");
        for queue in self.switch.ports[&port].rx_queues() {
            let Some(rx) = self.take_rx(port, queue)? else { continue };
            let mut rx = ring_of::<VirtioRx>(rx);
            rx.set_memory(map.clone()).map_err(|error| error.to_string())?;
            self.give_rx(port, queue, rx, inbound[usize::from(queue)].clone())?;
        }
        for queue in self.switch.ports[&port].tx_queues() {
            let Some(tx) = self.take_tx(port, queue)? else { continue };
            let mut tx = ring_of_tx(tx);
            tx.set_memory(map.clone()).map_err(|error| error.to_string())?;
            self.switch.add_tx(port, queue, tx, outbound[usize::from(queue)].clone());
            self.publish()?;
        }
        Ok(())
    }

    /// Another worker gets a receive queue.
    fn move_queue(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_peer() else { return Ok(()) };
        let queues = self.switch.ports[&port].rx_queues();
        let Some(queue) = self.rng.choice(queues) else { return Ok(()) };
        let lane = self.peers[&port].inbound[usize::from(queue)].clone();
        if let Some(rx) = self.take_rx(port, queue)? {
            self.give_rx(port, queue, rx, lane)?;
        }
        Ok(())
    }

    /// Control hears of broken rings: their ports stop.
    fn see_to_faults(&mut self) -> Result<(), Violation> {
        for report in self.switch.take_faults() {
            trace!(self, "port {} queue {}: {}", report.port, report.queue_index, report.fault);
            if self.hostile != Some(report.port.0) {
                return Err(format!("a queue of port {} ended: {}", report.port, report.fault));
            }
            if self.peers.contains_key(&report.port.0) {
                self.disconnect(report.port.0)?;
            }
        }
        Ok(())
    }

    fn scribble(&mut self) {
        let Some(port) = self.hostile else { return };
        let Some(peer) = self.peers.get_mut(&port) else { return };
        let Kind::Guest(guest) = &mut peer.kind else { return };
        peer.inbound.iter().for_each(|lane| lane.borrow_mut().broken = true);
        peer.outbound.iter().for_each(|lane| lane.borrow_mut().broken = true);
        for _ in 0..self.rng.u8(1..5) {
            let what = guest.scribble(&mut self.rng);
            self.trace.line(format_args!("port {port} overwrites {what}"));
        }
    }

    // --- Traffic ---

    fn send(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_peer() else { return Ok(()) };
        if self.rng.u8(..10) == 0 {
            let peer = &self.peers[&port];
            let (can, queues) = (peer.can, peer.inbound.len());
            let flow = self.new_flow(port, &can, queues);
            let flows = &mut self.peers.get_mut(&port).expect("chosen above").flows;
            flows.push(flow);
            if flows.len() > 8 {
                flows.remove(0);
            }
        }
        let most = if self.rng.u8(..4) == 0 { 70 } else { 8 };
        let count = self.rng.usize(1..most);
        let hold_back = self.rng.u8(..8) == 0;
        let lose_kick = self.lose_kicks && self.rng.u8(..3) == 0;
        let peer = self.peers.get_mut(&port).expect("chosen above");
        let first = self.next_frame;
        let mut queued = 0;
        for _ in 0..count {
            let flow_count = peer.flows.len();
            let flow = &mut peer.flows[self.rng.usize(..flow_count)];
            let mut frame = frames::build(&flow.shape, self.next_frame, flow.id, flow.next);
            let mut refused = false;
            if matches!(peer.kind, Kind::Guest(_)) {
                match self.rng.u16(..200) {
                    0 => {
                        frame.bytes.truncate(self.rng.usize(1..14));
                        frame.offload = Offload::default();
                        refused = true;
                    }
                    1 if peer.can.checksum => {
                        // A checksum outside the frame.
                        frame.offload =
                            Offload { flags: 1, csum_start: 60_000, csum_offset: 9, ..Offload::default() };
                        refused = true;
                    }
                    _ => {}
                }
            }
            let queue = flow.queue;
            let sent = match &mut peer.kind {
                Kind::Wire { wire, .. } => {
                    wire.send(frame.clone());
                    true
                }
                Kind::Guest(guest) => guest.send(queue, &frame, &mut self.rng),
            };
            if sent {
                flow.next += 1;
                self.next_frame += 1;
                queued += 1;
                peer.inbound[queue].borrow_mut().sent.push_back(Sent { frame, refused });
            }
        }
        trace!(
            self,
            "port {port} sends {queued} frames from {first}, hold back {hold_back}, lose kick {lose_kick}"
        );
        if hold_back && matches!(peer.kind, Kind::Guest(_)) {
            return Ok(());
        }
        Self::show(peer, lose_kick);
        Ok(())
    }

    /// Lets the switch see what was sent.
    fn show(peer: &mut Peer, lose_kick: bool) {
        for (n, lane) in peer.inbound.iter().enumerate() {
            let mut lane = lane.borrow_mut();
            if let Kind::Guest(guest) = &mut peer.kind
                && guest.publish(n)
            {
                match lose_kick {
                    true => lane.kick_lost = true,
                    false => guest.pairs[n].tx_kick.signal(),
                }
            }
            lane.visible = lane.sent.len();
        }
    }

    fn receive(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_peer() else { return Ok(()) };
        let most = [1, 8, 1000][self.rng.usize(..3)];
        let post = self.rng.usize(..40);
        self.receive_at(port, most, post)
    }

    fn receive_at(&mut self, port: u16, most: usize, post: usize) -> Result<(), Violation> {
        let peer = self.peers.get_mut(&port).expect("the caller looked");
        let mut arrived = 0;
        for n in 0..peer.outbound.len() {
            let mut lane = peer.outbound[n].borrow_mut();
            match &mut peer.kind {
                Kind::Wire { wire, .. } => {
                    for _ in 0..most {
                        let Some(frame) = wire.receive() else { break };
                        lane.arrived(&frame)?;
                        arrived += 1;
                    }
                }
                Kind::Guest(guest) => {
                    let honest = |what| format!("{port}.{n}: {what}");
                    let back = guest.reclaim(n);
                    let frames = match guest.pairs[n].waits && !guest.was_called(n) {
                        true if lane.pending() > 0 && !lane.broken => {
                            Err(format!("waits to be called, {} frames are there", lane.pending()))
                        }
                        true => Ok(vec![]),
                        false => guest.receive(n, most),
                    };
                    if lane.broken {
                        continue;
                    }
                    back.map_err(honest)?;
                    for frame in frames.map_err(honest)? {
                        lane.arrived(&frame).map_err(honest)?;
                        arrived += 1;
                    }
                    guest.post(n, post);
                }
            }
        }
        self.summary.arrived += arrived;
        if arrived > 0 {
            trace!(self, "port {port} receives {arrived} frames");
        }
        Ok(())
    }

    fn ask_for_calls(&mut self) {
        let Some(port) = self.any_peer() else { return };
        let Some(Peer { kind: Kind::Guest(guest), .. }) = self.peers.get_mut(&port) else { return };
        let n = self.rng.usize(..guest.pairs.len());
        let waits = guest.ask_for_calls(n);
        trace!(self, "port {port}.{n} asks to be called: waits {waits}");
    }

    /// More new flows than a port may put into the caches: the rest is answered all the same.
    fn storm(&mut self) -> Result<(), Violation> {
        let Some(port) = self.any_peer() else { return Ok(()) };
        let peer = self.peers.get_mut(&port).expect("chosen above");
        let Kind::Wire { wire, .. } = &peer.kind else { return Ok(()) };
        let long = self.rng.u8(..40) == 0;
        let count = if long { 9000 } else { 300 };
        trace!(self, "port {port} sends {count} frames of as many flows");
        let mut shape = peer.flows[0].shape.clone();
        (shape.segment, shape.payload) = (None, 24);
        for n in 0..count {
            shape.src = [2, 1, 0, 0, (n >> 8) as u8, n as u8];
            let frame = frames::build(&shape, self.next_frame, BROKEN_FLOW - 1 - n, 0);
            self.next_frame += 1;
            wire.send(frame.clone());
            let mut lane = peer.inbound[0].borrow_mut();
            lane.sent.push_back(Sent { frame, refused: false });
            lane.visible += 1;
        }
        Ok(())
    }

    // --- The end ---

    /// Everybody takes what is there until nothing moves; then everything must be where it belongs.
    fn end(&mut self) -> Result<(), Violation> {
        trace!(self, "the end begins");
        self.see_to_faults()?;
        if let Some(port) = self.hostile
            && self.peers.get(&port).is_some_and(|peer| peer.inbound[0].borrow().broken)
        {
            self.disconnect(port)?;
        }
        while self.peers.values().any(|peer| !peer.stopped_rx.is_empty() || !peer.stopped_tx.is_empty()) {
            self.resume()?;
        }
        let ports: Vec<u16> = self.peers.keys().copied().collect();
        let mut quiet = 0;
        while quiet < 3 {
            let before = (self.switch.frames_received, self.summary.arrived);
            for &port in &ports {
                let peer = self.peers.get_mut(&port).expect("none is removed");
                Self::show(peer, false);
                for (n, lane) in peer.inbound.iter().enumerate() {
                    if let Kind::Guest(guest) = &mut peer.kind {
                        // A kick that was lost is made up for sooner or later.
                        if std::mem::take(&mut lane.borrow_mut().kick_lost) {
                            guest.pairs[n].tx_kick.signal();
                        }
                    }
                }
            }
            for worker in 0..self.switch.workers.len() {
                self.turn(worker)?;
            }
            for &port in &ports {
                self.receive_at(port, usize::MAX, usize::MAX)?;
            }
            self.switch.drain_punts()?;
            quiet = if before == (self.switch.frames_received, self.summary.arrived) { quiet + 1 } else { 0 };
        }
        self.see_to_faults()?;
        self.check()?;
        self.switch.check_buffers()?;
        for (port, peer) in &self.peers {
            for (n, lane) in peer.inbound.iter().enumerate() {
                if !lane.borrow().sent.is_empty() {
                    return Err(format!("{} frames of {port}.{n} never came in", lane.borrow().sent.len()));
                }
            }
            for (n, lane) in peer.outbound.iter().enumerate() {
                if lane.borrow().pending() > 0 {
                    return Err(format!("{} frames for {port}.{n} never arrived", lane.borrow().pending()));
                }
                if let Kind::Guest(guest) = &peer.kind {
                    guest.check_returned(n).map_err(|what| format!("{port}.{n}: {what}"))?;
                }
            }
        }
        for port in ports {
            self.disconnect(port)?;
        }
        self.check()
    }
}

/// A receive queue as what it was made as.
fn ring_of<T: Any>(queue: Box<dyn RxQueue>) -> Box<T> {
    let queue: Box<dyn Any> = queue;
    queue.downcast().expect("guests have rings")
}

fn ring_of_tx(queue: Box<dyn TxQueue>) -> Box<VirtioTx> {
    let queue: Box<dyn Any> = queue;
    queue.downcast().expect("guests have rings")
}

fn vlan_name(mode: &PortVlan) -> String {
    match mode {
        PortVlan::Trunk(VlanSet::All) => "trunk of all".into(),
        PortVlan::Access(vlan) => format!("access to {vlan}"),
        PortVlan::Trunk(_) => "trunk of 5 and 7".into(),
        PortVlan::NativeTagged(vlan, _) => format!("trunk, native {vlan} tagged"),
        PortVlan::NativeUntagged(vlan, _) => format!("trunk, native {vlan} untagged"),
    }
}
