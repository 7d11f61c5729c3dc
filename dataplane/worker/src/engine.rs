//! What happens to a burst between receive and release: decide, act, transmit.

use std::sync::Arc;

use action::{Op, apply, pop_vlan, push_vlan};
use bridging::{EthHead, Forward, NormalMemo, TagOp, normal};
use flow::{KeySlot, Layers, extract};
use packet::{BURST_MAX, Burst, HEAD_FIRST, HEAD_MAX, START, cycles};
use port::{DropReason, PortCounters, PortId, Selection};

use crate::cache::{BridgeCache, CacheSizes, Kind};
use crate::mailbox::{FaultReport, FaultSink};
use crate::offloads::Offloads;
use crate::outputs::Outputs;
use crate::partition::Part;
use crate::plane::{BridgePlane, Plane, PortPlane, Rules};
use crate::poll::WorkerConfig;
use crate::punt::{Punt, PuntQueue};
use crate::stats::{Stage, WorkerStats};

const ETH_P_8021Q: u16 = 0x8100;
/// How often counters are passed on to the rules, per second.
const CREDITS_PER_SEC: u64 = 100;

pub(crate) const ALL: [u8; BURST_MAX] = {
    let mut all = [0; BURST_MAX];
    let mut i = 0;
    while i < BURST_MAX {
        all[i] = i as u8;
        i += 1;
    }
    all
};

/// Where a burst came from.
pub(crate) struct Ingress<'a> {
    pub port: PortId,
    pub queue: usize,
    pub counters: &'a PortCounters,
}

pub(crate) struct Engine {
    pub(crate) plane: Arc<Plane>,
    caches: Vec<BridgeCache>,
    sizes: CacheSizes,
    pub(crate) act: Actor,
    pub(crate) slots: Box<[KeySlot; BURST_MAX]>,
    decisions: [u32; BURST_MAX],
    credit_at: u64,
    credit_every: u64,
    insert_budget: InsertBudget,
}

/// The half that executes; apart from the half that decides, so both can be borrowed at once.
pub(crate) struct Actor {
    pub(crate) index: usize,
    out: Outputs,
    pub(crate) layers: [Layers; BURST_MAX],
    /// One a bridge.
    memos: Vec<NormalMemo>,
    offloads: Offloads,
    stats: Arc<WorkerStats>,
    punts: Arc<PuntQueue>,
    faults: FaultSink,
    now_secs: u32,
    /// Ports (as queue references) sent to in this turn, to be flushed at its end.
    unflushed: Vec<(PortId, u16)>,
    time_stages: bool,
    mark: u64,
    /// Owners of partitions that had no room for another burst when they got one: at most so many as it has capacity for.
    pub(crate) short: Vec<PortId>,
    /// For keys of frames on their way out.
    pub(crate) slot: KeySlot,
}

/// How many flows a port may put into the caches: beyond, what they don't know is answered by the rules but not
/// remembered, so that one port's traffic doesn't wash out the flows of others.
struct InsertBudget {
    per_ms: u32,
    left: Vec<u32>,
    refill_at: u64,
    refill_every: u64,
}

/// Owners whose frames can wait at once; those of others are dropped when there is no room.
const SHORT_MAX: usize = 128;
/// See `InsertBudget`.
pub const INSERTS_PER_MS: u32 = 256;
const INSERTS_BURST: u32 = 8192;

impl InsertBudget {
    fn take(&mut self, port: PortId) -> bool {
        let left = &mut self.left[port.0 as usize];
        let granted = *left > 0;
        *left = left.saturating_sub(1);
        granted
    }

    fn refill(&mut self, now: u64) {
        if now >= self.refill_at {
            self.refill_at = now + self.refill_every;
            for left in &mut self.left {
                *left = (*left + self.per_ms).min(INSERTS_BURST);
            }
        }
    }
}

impl Engine {
    pub fn new(
        config: &WorkerConfig,
        stats: Arc<WorkerStats>,
        punts: Arc<PuntQueue>,
        faults: FaultSink,
    ) -> std::io::Result<Engine> {
        let hz = config.clock.hz();
        Ok(Engine {
            plane: Arc::new(Plane::default()),
            caches: Vec::new(),
            sizes: config.caches,
            act: Actor {
                index: config.index,
                out: Outputs::new(),
                layers: [Layers::default(); BURST_MAX],
                memos: Vec::new(),
                offloads: Offloads::new(config.buffers, config.huge_pages)?,
                stats,
                punts,
                faults,
                now_secs: 0,
                unflushed: Vec::with_capacity(256),
                time_stages: false,
                mark: 0,
                short: Vec::with_capacity(SHORT_MAX),
                slot: KeySlot::EMPTY,
            },
            slots: Box::new(std::array::from_fn(|_| KeySlot::EMPTY)),
            decisions: [0; BURST_MAX],
            credit_at: 0,
            credit_every: hz / CREDITS_PER_SEC,
            insert_budget: InsertBudget {
                per_ms: INSERTS_PER_MS,
                left: Vec::new(),
                refill_at: 0,
                refill_every: hz / 1000,
            },
        })
    }

    pub fn has_huge_pages(&self) -> bool {
        self.act.offloads.has_huge_pages()
    }

    pub fn free_buffers(&self) -> usize {
        self.act.offloads.free_buffers()
    }

    /// Adopts a new view of the switch.
    pub fn set_plane(&mut self, plane: Arc<Plane>) {
        self.credit();
        self.plane = plane;
        self.caches.resize_with(self.plane.bridges.len(), || BridgeCache::new(self.sizes));
        let ports = self.plane.ports.len();
        for (cache, bridge) in self.caches.iter_mut().zip(&self.plane.bridges) {
            if cache.adopt(&*bridge.rules, ports) {
                self.act.stats.cache_flushes.add(1);
            }
        }
        self.act.memos.resize_with(self.plane.bridges.len(), NormalMemo::new);
        self.act.memos.iter_mut().for_each(NormalMemo::clear);
        self.act.out.resize(ports);
        self.insert_budget.left.resize(ports, INSERTS_BURST);
    }

    pub fn time_stages(&mut self, on: bool) {
        self.act.time_stages = on;
    }

    /// Passes frame counts on to the rules.
    pub fn credit(&mut self) {
        for (cache, bridge) in self.caches.iter_mut().zip(&self.plane.bridges) {
            cache.credit(&*bridge.rules, self.act.index, self.act.now_secs);
        }
    }

    #[inline(always)]
    pub fn begin_turn(&mut self, now: u64, now_secs: u32) {
        self.act.now_secs = now_secs;
        self.insert_budget.refill(now);
    }

    /// Ends a turn: what transmit left to be done, and now and then the rules' counters.
    #[inline(always)]
    pub fn end_turn(&mut self, now: u64, idle: bool) {
        self.act.flush(&self.plane, idle);
        if now >= self.credit_at {
            self.credit_at = now + self.credit_every;
            self.credit();
        }
    }

    #[inline(always)]
    pub fn begin_burst(&mut self) {
        if self.act.time_stages {
            self.act.mark = cycles::now();
        }
    }

    #[inline(always)]
    pub fn end_burst(&mut self, frames: usize) {
        self.act.stamp(Stage::Release);
        if self.act.time_stages {
            self.act.stats.stage_frames.add(frames as u64);
        }
    }

    /// Decides and does everything for the frames of one burst.
    #[inline(always)]
    pub fn process(&mut self, burst: &mut Burst, from: &Ingress<'_>) {
        self.act.stamp(Stage::Receive);
        let plane: &Plane = &self.plane;
        let Some(port) = plane.port(from.port) else {
            from.counters.dropped(DropReason::NoOutput, burst.len() as u64);
            return;
        };
        if !port.admin_up {
            from.counters.dropped(DropReason::AdminDown, burst.len() as u64);
            return;
        }
        if port.part.is_some() {
            self.divided(burst, from);
            return;
        }
        self.bridge(burst, from);
    }

    /// Decides and does everything for the frames of a burst that belongs to the port's bridge.
    #[inline(always)]
    pub(crate) fn bridge(&mut self, burst: &mut Burst, from: &Ingress<'_>) {
        let plane: &Plane = &self.plane;
        let Some(port) = plane.port(from.port) else { return };
        let Some(bridge) = plane.bridges.get(port.bridge as usize) else {
            from.counters.dropped(DropReason::NoOutput, burst.len() as u64);
            return;
        };
        let cache = &mut self.caches[port.bridge as usize];
        if let Some(decision) = cache.shortcut(&*bridge.rules, from.port) {
            let frames = burst.len();
            let bytes = (0..frames).map(|i| burst.frame_len(i) as u64).sum();
            let kind = cache.hit(decision, frames as u64, bytes);
            self.act.stats.shortcut_hits.add(frames as u64);
            match kind {
                Kind::Drop(reason) => from.counters.dropped(reason, frames as u64),
                Kind::Output(to) if to != from.port => {
                    burst.allow_take_of(u32::MAX);
                    self.act.send(plane, burst, to, &ALL[..frames], from);
                }
                Kind::Output(_) => from.counters.dropped(DropReason::Hairpin, frames as u64),
                Kind::Normal => {
                    burst.load_heads::<START>();
                    self.act.stamp(Stage::Parse);
                    self.act.normal_burst(plane, port.bridge, burst, from);
                }
                Kind::Program => {
                    for i in 0..frames {
                        burst.load_head(i, HEAD_MAX);
                        self.act.layers[i] = extract(
                            burst.head(i),
                            burst.frame_len(i),
                            from.port.0.into(),
                            &mut self.slots[i],
                        );
                    }
                    self.act.stamp(Stage::Parse);
                    for i in 0..frames {
                        self.act.program(plane, bridge, burst, i, from, cache.ops_of(decision));
                    }
                    self.act.stamp(Stage::Act);
                    self.act.send_all(plane, burst, from);
                }
            }
            return;
        }
        let all = u32::MAX >> (BURST_MAX - burst.len());
        self.classify_and_act::<false>(burst, all, from);
    }

    /// The path of frames whose headers matter: of all frames, or (`SOME`) of those whose bit is set, whose keys are there
    /// already.
    #[inline(always)]
    pub(crate) fn classify_and_act<const SOME: bool>(
        &mut self,
        burst: &mut Burst,
        wanted: u32,
        from: &Ingress<'_>,
    ) {
        let Engine { plane, caches, act, slots, decisions, insert_budget, .. } = self;
        let plane: &Plane = plane;
        let Some(port) = plane.port(from.port) else { return };
        let bridge = &plane.bridges[port.bridge as usize];
        let cache = &mut caches[port.bridge as usize];
        let frames = burst.len();
        // Two loops: parsing a head right after its copy was the costliest mistake of the prototype.
        if !SOME {
            act.parse(burst, slots, from.port);
        }
        act.stamp(Stage::Parse);
        let mut missed = cache.lookup_burst(&slots[..frames], wanted, decisions);
        act.stats.exact_hits.add(u64::from(wanted.count_ones()) - u64::from(missed.count_ones()));
        while missed != 0 {
            let i = missed.trailing_zeros() as usize;
            missed &= missed - 1;
            match find(cache, &*bridge.rules, &slots[i], act, insert_budget, from) {
                Some(decision) => decisions[i] = decision,
                None => {
                    // Decisions found for this burst so far are forgotten with the others: begin again.
                    cache.make_room(&*bridge.rules, act.index, act.now_secs);
                    act.stats.cache_flushes.add(1);
                    missed = wanted;
                }
            }
        }
        act.stamp(Stage::Lookup);
        act.begin_normal(plane, port.bridge);
        for (i, &decision) in decisions[..frames].iter().enumerate() {
            if SOME && wanted & 1 << i == 0 {
                continue;
            }
            match cache.hit(decision, 1, burst.frame_len(i) as u64) {
                Kind::Output(to) if to != from.port => {
                    burst.allow_take(i);
                    act.push(plane, burst, to, i, from);
                }
                Kind::Output(_) => from.counters.dropped(DropReason::Hairpin, 1),
                Kind::Drop(reason) => from.counters.dropped(reason, 1),
                Kind::Normal => act.normal(plane, port.bridge, burst, i, from),
                Kind::Program => act.program(plane, bridge, burst, i, from, cache.ops_of(decision)),
            }
        }
        act.stamp(Stage::Act);
        act.send_all(plane, burst, from);
    }
}

/// The way of a frame that the exact-match cache doesn't know. `None` when there is no room for its verdict.
#[inline(never)]
fn find(
    cache: &mut BridgeCache,
    rules: &dyn Rules,
    slot: &KeySlot,
    act: &mut Actor,
    budget: &mut InsertBudget,
    from: &Ingress<'_>,
) -> Option<u32> {
    let key = slot.key();
    let mut may_keep = || {
        let granted = budget.take(from.port);
        if granted { &from.counters.cached } else { &from.counters.uncached }.add(1);
        granted
    };
    if let Some(decision) = cache.megaflow(key, &mut may_keep) {
        act.stats.megaflow_hits.add(1);
        return Some(decision);
    }
    act.stats.misses.add(1);
    cache.miss(rules, key, &mut may_keep)
}

impl Actor {
    /// Makes the keys of a burst.
    #[inline(always)]
    pub(crate) fn parse(&mut self, burst: &mut Burst, slots: &mut [KeySlot; BURST_MAX], in_port: PortId) {
        burst.load_heads::<HEAD_FIRST>();
        for (i, slot) in slots.iter_mut().enumerate().take(burst.len()) {
            let len = burst.frame_len(i);
            let mut layers = extract(burst.head(i), len, in_port.0.into(), slot);
            if layers.needs_more() {
                burst.load_head(i, HEAD_MAX);
                layers = extract(burst.head(i), len, in_port.0.into(), slot);
            }
            self.layers[i] = layers;
        }
    }

    /// Books the time since the last stamp, while asked for.
    #[inline(always)]
    pub(crate) fn stamp(&mut self, stage: Stage) {
        if self.time_stages {
            let now = cycles::now();
            self.stats.stage(stage, now.saturating_sub(self.mark));
            self.mark = now;
        }
    }

    /// Chooses an output for frame `i`.
    #[inline(always)]
    fn push(&mut self, plane: &Plane, burst: &mut Burst, to: PortId, i: usize, from: &Ingress<'_>) {
        if to.0 as usize >= plane.ports.len() {
            from.counters.dropped(DropReason::NoOutput, 1);
            return;
        }
        if self.out.push(to, i).is_err() {
            self.send_all(plane, burst, from);
            let pushed = self.out.push(to, i);
            assert!(pushed.is_ok(), "empty lists take a frame");
        }
    }

    /// Sends everything chosen so far.
    #[inline(always)]
    fn send_all(&mut self, plane: &Plane, burst: &mut Burst, from: &Ingress<'_>) {
        while let Some((to, which, len)) = self.out.pop() {
            self.send(plane, burst, to, &which[..len], from);
        }
    }

    /// Sends frames to one port, in order.
    #[inline(always)]
    fn send(&mut self, plane: &Plane, burst: &mut Burst, to: PortId, which: &[u8], from: &Ingress<'_>) {
        let Some(port) = plane.port(to) else {
            from.counters.dropped(DropReason::NoOutput, which.len() as u64);
            return;
        };
        if let Some(Part::Divided(table)) = &port.part {
            self.send_divided(plane, burst, to, table, which, from);
            return;
        }
        self.send_to(burst, (to, port), &port.counters[self.index], which, from);
    }

    /// Sends frames to this very port, in order: those for a port, or for a partition's owner, whose counters say which.
    #[inline(always)]
    pub(crate) fn send_to(
        &mut self,
        burst: &mut Burst,
        (to, port): (PortId, &PortPlane),
        counters: &PortCounters,
        which: &[u8],
        from: &Ingress<'_>,
    ) {
        let frames = which.len() as u64;
        if !port.admin_up {
            counters.dropped(DropReason::AdminDown, frames);
            return;
        }
        let queue = match port.tx.len() {
            0 => {
                counters.dropped(DropReason::PortDown, frames);
                return;
            }
            1 => 0,
            n => from.queue % n,
        };
        let tx = &port.tx[queue];
        if tx.failed() {
            counters.dropped(DropReason::PortDown, frames);
            return;
        }
        let limit = port.frame_max as usize;
        let plain = |&i: &u8| burst.frame_len(i as usize) <= limit && burst.offload(i as usize).is_plain();
        let as_is = (burst.longest() <= limit && !burst.has_requests()) || which.iter().all(plain);
        let result = if as_is {
            tx.of(self.index).with(|q| q.transmit(Selection { burst, which }, counters))
        } else {
            self.offloads.transmit(tx.of(self.index), burst, which, limit, counters, from.counters)
        };
        match result {
            Ok(()) if self.unflushed.last() != Some(&(to, queue as u16)) => {
                if self.unflushed.len() < self.unflushed.capacity() {
                    self.unflushed.push((to, queue as u16));
                }
            }
            Ok(()) => {}
            Err(fault) => {
                if tx.fail() {
                    let report = FaultReport { port: to, queue_index: tx.index(), receiving: false, fault };
                    (self.faults)(report);
                }
            }
        }
        self.stamp(Stage::Transmit);
    }

    /// Lets transmit queues finish their work of this turn; all of them when there was nothing else to do.
    #[inline(always)]
    fn flush(&mut self, plane: &Plane, idle: bool) {
        while let Some((to, queue)) = self.unflushed.pop() {
            self.flush_queue(plane, to, queue as usize);
        }
        if idle {
            for id in 0..plane.ports.len() {
                let queues = plane.ports[id].as_ref().map_or(0, |p| p.tx.len());
                for queue in 0..queues {
                    self.flush_queue(plane, PortId(id as u16), queue);
                }
            }
        }
    }

    #[inline]
    fn flush_queue(&mut self, plane: &Plane, to: PortId, queue: usize) {
        let Some(port) = plane.port(to) else { return };
        let Some(tx) = port.tx.get(queue) else { return };
        if tx.failed() {
            return;
        }
        if let Err(fault) = tx.of(self.index).with(|q| q.flush(&port.counters[self.index]))
            && tx.fail()
        {
            let report = FaultReport { port: to, queue_index: tx.index(), receiving: false, fault };
            (self.faults)(report);
        }
    }
}

impl Actor {
    /// Executes a verdict's operations on frame `i`.
    #[inline(never)]
    fn program(
        &mut self,
        plane: &Plane,
        bridge: &BridgePlane,
        burst: &mut Burst,
        i: usize,
        from: &Ingress<'_>,
        ops: &[Op],
    ) {
        burst.load_head(i, HEAD_MAX);
        let mut outputs = 0;
        for (at, op) in ops.iter().enumerate() {
            match *op {
                Op::Output(to) if to == from.port.0 => {}
                Op::Output(to) => {
                    if outputs == 0 && at + 1 == ops.len() {
                        burst.allow_take(i);
                    }
                    self.push(plane, burst, PortId(to), i, from);
                    outputs += 1;
                }
                Op::InPort => {
                    self.push(plane, burst, from.port, i, from);
                    outputs += 1;
                }
                Op::Normal => outputs += self.normal_outputs(plane, bridge, burst, i, from),
                Op::Flood | Op::All => {
                    for to in bridge.ports.iter().filter(|&to| to != from.port) {
                        self.push(plane, burst, to, i, from);
                        outputs += 1;
                    }
                }
                Op::Controller { max_len } => {
                    outputs += 1;
                    match self.punts.push(Punt::copy(burst, i, max_len, from.port)) {
                        Ok(()) => from.counters.punted.add(1),
                        Err(_) => from.counters.dropped(DropReason::ControllerFull, 1),
                    }
                }
                Op::Set { .. } | Op::PushVlan(_) | Op::PopVlan | Op::DecTtl => {
                    // Outputs so far get the frame as it was.
                    self.send_all(plane, burst, from);
                    if let Err(reason) = apply(op, burst, i, &mut self.layers[i]) {
                        self.finish(from, outputs, reason);
                        return;
                    }
                }
            }
        }
        self.finish(from, outputs, DropReason::Rule);
    }

    /// Before the first [`normal`](Self::normal) of a burst.
    #[inline(always)]
    fn begin_normal(&mut self, plane: &Plane, bridge: u16) {
        let generation = plane.bridges[bridge as usize].fdb.generation();
        self.memos[bridge as usize].begin(generation, self.now_secs);
    }

    /// A burst whose whole verdict is NORMAL: usually all of it goes to one port, as it is.
    #[inline(always)]
    fn normal_burst(&mut self, plane: &Plane, bridge: u16, burst: &mut Burst, from: &Ingress<'_>) {
        self.begin_normal(plane, bridge);
        let frames = burst.len();
        let memo = &self.memos[bridge as usize];
        let known = |eth: EthHead| memo.unicast(eth, from.port);
        let first = burst.start::<START>(0).map(EthHead::from);
        if let Some(to) = first.and_then(known)
            && let Some(mut last) = first
            && (1..frames).all(|i| {
                // Frames often follow others of their kind.
                let Some(eth) = burst.start::<START>(i).map(EthHead::from) else { return false };
                let alike = eth == last || known(eth) == Some(to);
                last = eth;
                alike
            })
        {
            self.stamp(Stage::Act);
            burst.allow_take_of(u32::MAX);
            self.send(plane, burst, to, &ALL[..frames], from);
            return;
        }
        for i in 0..frames {
            self.normal(plane, bridge, burst, i, from);
        }
        self.stamp(Stage::Act);
        self.send_all(plane, burst, from);
    }

    /// A frame whose whole verdict is NORMAL.
    #[inline(always)]
    fn normal(&mut self, plane: &Plane, bridge: u16, burst: &mut Burst, i: usize, from: &Ingress<'_>) {
        let Some(eth) = EthHead::of(burst.head(i)) else {
            from.counters.dropped(DropReason::Runt, 1);
            return;
        };
        let memo = &mut self.memos[bridge as usize];
        let bridge = &plane.bridges[bridge as usize];
        match memo.normal(&bridge.ports, &bridge.fdb, eth, from.port) {
            Forward::Unicast { port, tag: TagOp::Keep } => {
                burst.allow_take(i);
                self.push(plane, burst, port, i, from);
            }
            Forward::Drop(reason) => from.counters.dropped(reason, 1),
            forward => self.forward(plane, bridge, burst, i, from, forward, eth.tci()),
        }
    }

    /// NORMAL among other operations: returns the number of outputs it made.
    fn normal_outputs(
        &mut self,
        plane: &Plane,
        bridge: &BridgePlane,
        burst: &mut Burst,
        i: usize,
        from: &Ingress<'_>,
    ) -> u64 {
        let Some(eth) = EthHead::of(burst.head(i)) else { return 0 };
        match normal(&bridge.ports, &bridge.fdb, eth, from.port, self.now_secs) {
            Forward::Drop(_) => 0,
            forward => self.outputs_of(plane, bridge, burst, i, from, forward, eth.tci()),
        }
    }

    /// Sends a frame where NORMAL says, and accounts for it.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    fn forward(
        &mut self,
        plane: &Plane,
        bridge: &BridgePlane,
        burst: &mut Burst,
        i: usize,
        from: &Ingress<'_>,
        forward: Forward,
        tci: u16,
    ) {
        if matches!(forward, Forward::Unicast { .. }) {
            burst.allow_take(i);
        }
        // Changing a tag takes more than NORMAL looked at.
        burst.load_head(i, HEAD_FIRST);
        let outputs = self.outputs_of(plane, bridge, burst, i, from, forward, tci);
        self.finish(from, outputs, DropReason::VlanOut);
    }

    /// Sends a frame where NORMAL says, each receiver with the tag its port wants, and leaves the frame as it was.
    #[expect(clippy::too_many_arguments, reason = "as `forward`")]
    fn outputs_of(
        &mut self,
        plane: &Plane,
        bridge: &BridgePlane,
        burst: &mut Burst,
        i: usize,
        from: &Ingress<'_>,
        forward: Forward,
        tci: u16,
    ) -> u64 {
        match forward {
            Forward::Drop(_) => 0,
            Forward::Unicast { port, tag } => {
                self.push_tagged(plane, burst, port, i, from, tag, tci);
                1
            }
            Forward::Flood { vlan } => {
                let mut outputs = 0;
                for (port, tag) in bridge.ports.members(vlan, tci, from.port) {
                    self.push_tagged(plane, burst, port, i, from, tag, tci);
                    outputs += 1;
                }
                outputs
            }
        }
    }

    /// Chooses an output for frame `i` with another outermost tag. A frame that needs one is sent at once, so that
    /// it can be put back as it was.
    #[expect(clippy::too_many_arguments, reason = "as `forward`")]
    fn push_tagged(
        &mut self,
        plane: &Plane,
        burst: &mut Burst,
        to: PortId,
        i: usize,
        from: &Ingress<'_>,
        tag: TagOp,
        tci: u16,
    ) {
        if tag == TagOp::Keep {
            self.push(plane, burst, to, i, from);
            return;
        }
        self.send_all(plane, burst, from);
        let undo = retag(burst, i, tag, tci);
        self.push(plane, burst, to, i, from);
        self.send_all(plane, burst, from);
        undo.apply(burst, i);
    }

    /// Accounts for a frame with this many outputs: with none it was dropped.
    #[inline(always)]
    fn finish(&self, from: &Ingress<'_>, outputs: u64, reason: DropReason) {
        match outputs {
            0 => from.counters.dropped(reason, 1),
            1 => {}
            n => from.counters.copies.add(n - 1),
        }
    }
}

/// What puts a frame's outermost tag back as it was.
enum Undo {
    Nothing,
    Pop,
    Push { tpid: u16, tci: u16 },
    Write { tci: u16 },
}

impl Undo {
    fn apply(self, burst: &mut Burst, i: usize) {
        match self {
            Undo::Nothing => {}
            Undo::Pop => {
                pop_vlan(burst, i);
            }
            Undo::Push { tpid, tci } => {
                let pushed = push_vlan(burst, i, tpid, tci);
                assert!(pushed, "there is room where a tag was");
            }
            Undo::Write { tci } => write_tci(burst, i, tci),
        }
    }
}

/// Changes a frame's outermost tag for one receiver; returns what undoes it. The priority stays.
fn retag(burst: &mut Burst, i: usize, tag: TagOp, tci: u16) -> Undo {
    let priority = tci & 0xe000;
    match tag {
        TagOp::Keep => Undo::Nothing,
        TagOp::Pop => pop_vlan(burst, i).map_or(Undo::Nothing, |(tpid, tci)| Undo::Push { tpid, tci }),
        TagOp::Push(vlan) if push_vlan(burst, i, ETH_P_8021Q, vlan | priority) => Undo::Pop,
        TagOp::Push(_) => Undo::Nothing,
        TagOp::SetVid(vlan) => match burst.head(i).get(14..16) {
            Some(&[high, low]) => {
                write_tci(burst, i, vlan | priority);
                Undo::Write { tci: u16::from_be_bytes([high, low]) }
            }
            _ => Undo::Nothing,
        },
    }
}

fn write_tci(burst: &mut Burst, i: usize, tci: u16) {
    if let Some(bytes) = burst.head_mut(i).get_mut(14..16) {
        bytes.copy_from_slice(&tci.to_be_bytes());
    }
}
