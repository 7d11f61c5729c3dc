//! What should happen to a burst: the rules evaluated anew for each frame, no cache, no shortcut.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use action::{Op, apply};
use bridging::{BridgePorts, PortVlan, TagOp};
use flow::{KeySlot, PRESENT, extract};
use headers::Segmentation;
use headers::checksum::complete_checksum;
use packet::{Gso, HEAD_MAX, HugePages, OwnedBurst};
use pipeline::{Evaluation, Outcome, Snapshot};
use port::{Accepts, DropReason, PortCounters, WireFrame};

use crate::frames;
use crate::observe::{Counted, TxId};
use crate::stations::{Stations, number};

/// Longest frame that the workers make in software.
const MADE_MAX: usize = 10_240;

/// The counters of a port for one worker, and what they should say.
pub struct Tally {
    pub port: u16,
    pub worker: usize,
    pub real: Arc<PortCounters>,
    pub expected: RefCell<Counted>,
}

impl Tally {
    fn count_drop(&self, reason: DropReason) {
        self.expected.borrow_mut().drops[reason as usize] += 1;
    }

    /// Takes what a queue counted.
    pub fn add(&self, counted: &Counted) {
        let sum = self.expected.borrow().plus(counted);
        *self.expected.borrow_mut() = sum;
    }
}

/// What rules should have counted on one worker, by slot.
pub type Credits = BTreeMap<u32, Credit>;

/// What a rule should have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    pub frames: u64,
    pub bytes: u64,
    /// Second of the last frame.
    pub last: u32,
}

/// The switch as a worker sees it.
#[derive(Default)]
pub struct View {
    pub bridges: Vec<ViewBridge>,
    pub ports: Vec<Option<ViewPort>>,
}

pub struct ViewBridge {
    pub snapshot: Arc<Snapshot>,
    pub ports: Arc<BridgePorts>,
    pub stations: Rc<RefCell<Stations>>,
    /// By worker.
    pub credits: Rc<RefCell<Vec<Credits>>>,
}

pub struct ViewPort {
    pub bridge: usize,
    pub frame_max: usize,
    pub up: bool,
    pub tx: Vec<(TxId, Accepts)>,
    /// By worker.
    pub tallies: Vec<Rc<Tally>>,
}

/// A frame handed to the controller: its port, its length, what is kept of it.
pub type ExpectedPunt = (u16, u32, Vec<u8>);

/// What the model keeps from burst to burst.
pub struct Model {
    scratch: OwnedBurst,
    evaluation: Evaluation,
    pub punts: VecDeque<ExpectedPunt>,
    pub punts_max: usize,
}

/// A burst to be judged.
pub struct Job<'a> {
    pub view: &'a View,
    pub worker: usize,
    pub port: u16,
    pub queue: u16,
    pub from: &'a Tally,
    pub now_secs: u32,
    /// Queues that reported a fault before this burst.
    pub failed: &'a BTreeSet<TxId>,
    /// Numbers of the frames that were seen to leave, whole or in part.
    pub left: &'a BTreeSet<u64>,
}

/// What should leave, by queue and in order, and whether that is all that can be said.
#[derive(Default)]
pub struct Predicted {
    pub outputs: BTreeMap<TxId, VecDeque<WireFrame>>,
    /// Two answers were right and the counters alone tell which was given.
    pub unsure: bool,
}

#[derive(PartialEq, Eq)]
enum Forward {
    Drop(DropReason),
    To(u16, TagOp),
    Flood(u16),
}

/// The outermost tag with the mark of presence, or 0, as matches see it.
fn tci(bytes: &[u8]) -> u16 {
    let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
    match [at(12), at(13)] {
        [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00] => u16::from_be_bytes([at(14), at(15)]) | PRESENT,
        _ => 0,
    }
}

fn address(bytes: &[u8], at: usize) -> u64 {
    number(*bytes[at..].first_chunk().expect("a frame has addresses"))
}

impl Model {
    pub fn new(punts_max: usize) -> Model {
        let scratch = OwnedBurst::new(1, 1 << 17, HugePages::Off).expect("memory for the model");
        Model { scratch, evaluation: Evaluation::default(), punts: VecDeque::new(), punts_max }
    }

    /// Predicts what becomes of these frames, and counts it.
    pub fn burst(&mut self, job: &Job<'_>, burst: &[WireFrame]) -> Predicted {
        let mut predicted = Predicted::default();
        let drop_all = |reason| burst.iter().for_each(|_| job.from.count_drop(reason));
        let Some(port) = job.view.ports.get(usize::from(job.port)).and_then(Option::as_ref) else {
            drop_all(DropReason::NoOutput);
            return predicted;
        };
        if !port.up {
            drop_all(DropReason::AdminDown);
            return predicted;
        }
        let bridge = &job.view.bridges[port.bridge];
        bridge.stations.borrow_mut().begin_burst();
        for frame in burst {
            self.frame(job, bridge, frame, &mut predicted);
        }
        predicted
    }

    fn frame(&mut self, job: &Job<'_>, bridge: &ViewBridge, frame: &WireFrame, out: &mut Predicted) {
        let head = &frame.bytes[..frame.bytes.len().min(HEAD_MAX)];
        let mut slot = KeySlot::EMPTY;
        extract(head, frame.bytes.len(), job.port.into(), &mut slot);
        bridge.snapshot.evaluate(slot.key(), &mut self.evaluation);
        for &rule in &self.evaluation.rules {
            let mut credits = bridge.credits.borrow_mut();
            let credit = credits[job.worker].entry(rule).or_default();
            credit.frames += 1;
            credit.bytes += frame.bytes.len() as u64;
            credit.last = job.now_secs;
        }
        let ops = std::mem::take(&mut self.evaluation.ops);
        match (self.evaluation.outcome, ops.as_slice()) {
            (Outcome::LimitExceeded, _) => job.from.count_drop(DropReason::PipelineLimit),
            (Outcome::NoRule, []) => job.from.count_drop(DropReason::NoRule),
            (Outcome::Done, []) => job.from.count_drop(DropReason::Rule),
            // OpenFlow 1.3.5, section 5.12: a frame doesn't go back but by IN_PORT.
            (_, [Op::Output(to)]) if *to == job.port => job.from.count_drop(DropReason::Hairpin),
            (_, [Op::Output(to)]) => send(job, *to, frame, out),
            (_, [Op::Normal]) => only_normal(job, bridge, frame, out),
            (_, ops) => self.program(job, bridge, frame, ops, out),
        }
        self.evaluation.ops = ops;
    }

    fn program(
        &mut self,
        job: &Job<'_>,
        bridge: &ViewBridge,
        frame: &WireFrame,
        ops: &[Op],
        out: &mut Predicted,
    ) {
        self.scratch.clear();
        self.scratch.push(frame.offload, |bytes| {
            bytes[..frame.bytes.len()].copy_from_slice(&frame.bytes);
            frame.bytes.len()
        });
        let burst = self.scratch.burst();
        burst.load_head(0, HEAD_MAX);
        let mut slot = KeySlot::EMPTY;
        let mut layers = extract(burst.head(0), burst.frame_len(0), job.port.into(), &mut slot);
        let mut current = frame.clone();
        let mut outputs = 0;
        let mut reason = DropReason::Rule;
        for op in ops {
            match *op {
                Op::Output(to) if to == job.port => {}
                Op::Output(to) => {
                    send(job, to, &current, out);
                    outputs += 1;
                }
                Op::InPort => {
                    send(job, job.port, &current, out);
                    outputs += 1;
                }
                Op::Normal if current.bytes.len() >= 14 => {
                    let forward = forward(job, bridge, &current, false);
                    outputs += deliver(job, bridge, &current, &forward, out);
                }
                Op::Normal => {}
                Op::Flood | Op::All => {
                    for to in bridge.ports.iter().filter(|to| to.0 != job.port) {
                        send(job, to.0, &current, out);
                        outputs += 1;
                    }
                }
                Op::Controller { max_len } => {
                    outputs += 1;
                    if self.punts.len() < self.punts_max {
                        let kept = current.bytes.len().min(max_len.into()).min(worker::PUNT_BYTES);
                        let len = current.bytes.len() as u32;
                        self.punts.push_back((job.port, len, current.bytes[..kept].to_vec()));
                        job.from.expected.borrow_mut().punted += 1;
                    } else {
                        job.from.count_drop(DropReason::ControllerFull);
                    }
                }
                Op::Set { .. } | Op::PushVlan(_) | Op::PopVlan | Op::DecTtl => {
                    if let Err(why) = apply(op, burst, 0, &mut layers) {
                        reason = why;
                        break;
                    }
                    current.bytes.resize(burst.frame_len(0), 0);
                    burst.read(0, 0, &mut current.bytes);
                    current.offload = *burst.offload(0);
                }
            }
        }
        finish(job, outputs, reason);
    }
}

/// Accounts for a frame with this many outputs.
fn finish(job: &Job<'_>, outputs: u64, none: DropReason) {
    match outputs {
        0 => job.from.count_drop(none),
        n => job.from.expected.borrow_mut().copies += n - 1,
    }
}

/// A frame for which the learning bridge decides and nothing else.
fn only_normal(job: &Job<'_>, bridge: &ViewBridge, frame: &WireFrame, out: &mut Predicted) {
    if frame.bytes.len() < 14 {
        job.from.count_drop(DropReason::Runt);
        return;
    }
    // Learned first: both answers are those of after.
    let now = forward(job, bridge, frame, false);
    let earlier = forward(job, bridge, frame, true);
    // The burst itself has moved its destination to where it comes from. What left tells which answer was given; when
    // nothing did, the frame went nowhere for one of several reasons.
    let left = frames::tail(&frame.bytes).is_some_and(|tail| job.left.contains(&tail.id));
    let chosen = if now != earlier && left { &earlier } else { &now };
    out.unsure |= now != earlier && !left;
    match chosen {
        Forward::Drop(reason) => job.from.count_drop(*reason),
        forward => {
            let outputs = deliver(job, bridge, frame, forward, out);
            finish(job, outputs, DropReason::VlanOut);
        }
    }
}

/// What the bridge answers; the lookup as it is now, or as it was before the burst.
fn forward(job: &Job<'_>, bridge: &ViewBridge, frame: &WireFrame, before: bool) -> Forward {
    let bytes = &frame.bytes;
    let tci = tci(bytes);
    let mode = bridge.ports.vlan(port::PortId(job.port));
    let Some(vlan) = mode.and_then(|mode| mode.ingress(tci)) else {
        return Forward::Drop(DropReason::VlanIn);
    };
    let (dst, src) = (address(bytes, 0), address(bytes, 6));
    if dst & !0xf == 0x0180_c200_0000 {
        return Forward::Drop(DropReason::Reserved);
    }
    let mut stations = bridge.stations.borrow_mut();
    stations.learn(vlan, src, job.port, job.now_secs);
    let found = if before { stations.lookup_before(vlan, dst) } else { stations.lookup(vlan, dst) };
    match found.filter(|_| dst >> 40 & 1 == 0) {
        None => Forward::Flood(vlan),
        Some(port) if port == job.port => Forward::Drop(DropReason::Hairpin),
        Some(port) => {
            let egress = |mode: &PortVlan| mode.egress(vlan, tci);
            match bridge.ports.vlan(port::PortId(port)).and_then(egress) {
                Some(tag) => Forward::To(port, tag),
                None => Forward::Drop(DropReason::VlanOut),
            }
        }
    }
}

fn receivers(job: &Job<'_>, bridge: &ViewBridge, frame: &WireFrame, forward: &Forward) -> Vec<(u16, TagOp)> {
    match forward {
        Forward::Drop(_) => vec![],
        Forward::To(port, tag) => vec![(*port, *tag)],
        Forward::Flood(vlan) => {
            let others = bridge.ports.iter().filter(|port| port.0 != job.port);
            let egress = |port: port::PortId| bridge.ports.vlan(port)?.egress(*vlan, tci(&frame.bytes));
            others.filter_map(|port| Some((port.0, egress(port)?))).collect()
        }
    }
}

fn deliver(
    job: &Job<'_>,
    bridge: &ViewBridge,
    frame: &WireFrame,
    forward: &Forward,
    out: &mut Predicted,
) -> u64 {
    let receivers = receivers(job, bridge, frame, forward);
    for (to, tag) in &receivers {
        send(job, *to, &retagged(frame, *tag), out);
    }
    receivers.len() as u64
}

/// A copy of the frame with another outermost tag: its priority stays.
fn retagged(frame: &WireFrame, tag: TagOp) -> WireFrame {
    let mut frame = frame.clone();
    let rest = tci(&frame.bytes) & 0xe000;
    let moved = match tag {
        TagOp::Keep => 0,
        TagOp::Pop => {
            frame.bytes.drain(12..16);
            -4
        }
        TagOp::Push(vlan) => {
            let tag = [[0x81, 0x00], (vlan | rest).to_be_bytes()].concat();
            frame.bytes.splice(12..12, tag);
            4
        }
        TagOp::SetVid(vlan) => {
            frame.bytes[14..16].copy_from_slice(&(vlan | rest).to_be_bytes());
            0
        }
    };
    if frame.offload.needs_csum() {
        frame.offload.csum_start = frame.offload.csum_start.wrapping_add_signed(moved);
    }
    if frame.offload.gso_type != 0 {
        frame.offload.hdr_len = frame.offload.hdr_len.wrapping_add_signed(moved);
    }
    frame
}

/// The queue by which a frame would leave through a port, if one is working.
fn live_queue(job: &Job<'_>, to: u16) -> Option<TxId> {
    let port = job.view.ports.get(usize::from(to))?.as_ref()?;
    let queues = port.tx.len();
    if !port.up || queues == 0 {
        return None;
    }
    let (id, _) = port.tx[usize::from(job.queue) % queues];
    (!job.failed.contains(&id)).then_some(id)
}

/// A frame on its way out: counted as dropped, or added to what a queue should be given.
fn send(job: &Job<'_>, to: u16, frame: &WireFrame, out: &mut Predicted) {
    let Some(port) = job.view.ports.get(usize::from(to)).and_then(Option::as_ref) else {
        return job.from.count_drop(DropReason::NoOutput);
    };
    let tally = &port.tallies[job.worker];
    if !port.up {
        return tally.count_drop(DropReason::AdminDown);
    }
    let Some(id) = live_queue(job, to) else { return tally.count_drop(DropReason::PortDown) };
    let accepts = port.tx[usize::from(job.queue) % port.tx.len()].1;
    let (offload, len, limit) = (&frame.offload, frame.bytes.len(), port.frame_max);
    let queue = out.outputs.entry(id).or_default();
    let takes = match offload.gso() {
        Gso::None if len > limit => return tally.count_drop(DropReason::TooLong),
        Gso::None if !offload.needs_csum() || accepts.partial_checksum => {
            return queue.push_back(frame.clone());
        }
        Gso::None => {
            let mut bytes = frame.bytes.clone();
            if complete_checksum(&mut bytes, offload.csum_start, offload.csum_offset).is_err() {
                return tally.count_drop(DropReason::BadOffload);
            }
            return queue.push_back(WireFrame { bytes, ..WireFrame::default() });
        }
        Gso::Tcp4 => accepts.tso4,
        Gso::Tcp6 => accepts.tso6,
        Gso::Udp | Gso::Unknown(_) => false,
    };
    let segment = usize::from(offload.hdr_len) + usize::from(offload.gso_size);
    if takes && segment <= limit {
        return queue.push_back(frame.clone());
    }
    match Segmentation::new(&frame.bytes, offload.csum_start, offload.gso_size) {
        Err(_) => tally.count_drop(DropReason::BadOffload),
        Ok(s) if s.segment_max() > limit.min(MADE_MAX) => tally.count_drop(DropReason::TooLong),
        Ok(s) => {
            let mut segments = s.segments();
            job.from.expected.borrow_mut().copies += segments.len() as u64 - 1;
            while segments.len() > 0 {
                let mut bytes = vec![0; s.segment_max()];
                let len = segments.write_next(&mut bytes);
                bytes.truncate(len);
                queue.push_back(WireFrame { bytes, ..WireFrame::default() });
            }
        }
    }
}
