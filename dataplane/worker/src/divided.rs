//! What happens to frames that come from, or go to, a port whose queues are divided.

use flow::{KeySlot, extract};
use packet::{BURST_MAX, Burst, HEAD_MAX};
use port::{DropReason, PortId};

use crate::engine::{ALL, Actor, Engine, Ingress};
use crate::partition::{PARTITIONS_MAX, Part, Partition, Partitions, QueueCounters, Spread};
use crate::plane::{Plane, PortPlane};
use crate::stats::Stage;

/// Frames that are left for the bridge.
enum Left {
    None,
    /// These bits, as if they had come from this port; their keys are there.
    Some(u32, PortId),
    /// All of them, and nothing has been looked at yet.
    Untouched,
}

impl Engine {
    /// The way of a burst that came from a divided port, or from an owner of its queues.
    #[inline(never)]
    pub(crate) fn divided(&mut self, burst: &mut Burst, from: &Ingress<'_>) {
        let Engine { plane, act, slots, .. } = self;
        let left = match plane.port(from.port).and_then(|port| port.part.as_ref()) {
            Some(Part::Divided(table)) => act.sort_received(plane, burst, table, slots, from),
            Some(Part::Owner(of)) => act.route_sent(plane, burst, *of, slots, from),
            None => Left::Untouched,
        };
        match left {
            Left::None => {}
            Left::Untouched => self.bridge(burst, from),
            Left::Some(frames, port) => {
                let from = Ingress { port, queue: from.queue, counters: from.counters };
                self.classify_and_act::<true>(burst, frames, &from);
            }
        }
    }

    /// Whether frames of this receive queue had better wait where they are: hardware has sorted them for an owner, and that
    /// one has no room now.
    #[inline(always)]
    pub(crate) fn holds_back(&mut self, port: PortId, queue: usize) -> bool {
        !self.act.short.is_empty() && self.is_owner_short(port, queue)
    }

    #[cold]
    fn is_owner_short(&mut self, port: PortId, queue: usize) -> bool {
        let Some(PortPlane { part: Some(Part::Divided(table)), .. }) = self.plane.port(port) else {
            return false;
        };
        let Some((owner, partition)) = table.of_queue(queue).and_then(|p| Some((p.owner?, p))) else {
            return false;
        };
        let Some(at) = self.act.short.iter().position(|&short| short == owner) else { return false };
        let has_room = self.plane.port(owner).is_none_or(|port| {
            port.tx
                .iter()
                .all(|tx| tx.failed() || tx.of(self.act.index).with(|q| q.has_room(wanted(partition))))
        });
        if has_room {
            self.act.short.swap_remove(at);
        }
        !has_room
    }

    /// Whether the worker may sleep while nothing comes from this queue.
    pub(crate) fn may_sleep(&self, port: PortId, queue: usize) -> bool {
        let part = |port| self.plane.port(port).and_then(|port| port.part.as_ref());
        match part(port) {
            Some(Part::Divided(table)) => !table.is_polled(queue),
            Some(Part::Owner(of)) => match part(*of) {
                Some(Part::Divided(table)) => !table.of_owner(port).is_some_and(|p| p.is_polled),
                _ => true,
            },
            None => true,
        }
    }
}

/// Who gets frames.
#[derive(Clone, Copy)]
struct Recipient<'a> {
    owner: PortId,
    partition: &'a Partition,
    /// Which of the partition's queues they came by, if hardware has sorted them.
    queue: Option<usize>,
    /// Whether what comes for it can wait in hardware.
    can_wait: bool,
}

impl<'a> Recipient<'a> {
    /// The owner of a partition, if it isn't the bridge.
    fn of(table: &Partitions, partition: &'a Partition) -> Option<Recipient<'a>> {
        let can_wait = table.is_sorted_by_hardware();
        Some(Recipient { owner: partition.owner?, partition, queue: None, can_wait })
    }
}

/// The room an owner must have for its frames not to wait: every worker may bring a burst before it sees what the others
/// brought.
fn wanted(partition: &Partition) -> usize {
    BURST_MAX * partition.counters.len()
}

impl Actor {
    /// Counts frames that came for a queue of a partition.
    #[inline]
    fn count<'a>(
        &self,
        partition: &'a Partition,
        queue: usize,
        burst: &Burst,
        which: &[u8],
    ) -> &'a QueueCounters {
        let of = &partition.of_queues[self.index];
        let counters = &of[queue % of.len()];
        counters.matched.add(which.len() as u64);
        counters.matched_bytes.add(which.iter().map(|&i| burst.frame_len(i.into()) as u64).sum());
        counters
    }

    /// Hands frames to the owner of a partition, to its queue of number `lane`, in turn if it has fewer.
    #[inline]
    fn deliver(
        &mut self,
        plane: &Plane,
        burst: &mut Burst,
        to: Recipient<'_>,
        which: &[u8],
        lane: usize,
        from: &Ingress<'_>,
    ) {
        let Recipient { owner, partition, queue, can_wait } = to;
        let counters = &self.count(partition, queue.unwrap_or(lane), burst, which).delivered;
        let Some(port) = plane.port(owner) else {
            from.counters.dropped(DropReason::NoOutput, which.len() as u64);
            return;
        };
        let from = Ingress { port: from.port, queue: lane, counters: from.counters };
        self.send_to(burst, (owner, port), counters, which, &from);
        if can_wait && let [_, ..] = port.tx.as_slice() {
            let tx = &port.tx[lane % port.tx.len()];
            if !tx.failed() && !tx.of(self.index).with(|q| q.has_room(wanted(partition))) {
                self.note_short(owner);
            }
        }
    }

    /// Notes that an owner has no room for another burst: what comes for it waits in hardware, in a pool of its own, until
    /// it has.
    #[cold]
    fn note_short(&mut self, owner: PortId) {
        if !self.short.contains(&owner) && self.short.len() < self.short.capacity() {
            self.short.push(owner);
        }
    }

    /// What hardware has sorted goes to its owner unseen; the rest is sorted here.
    fn sort_received(
        &mut self,
        plane: &Plane,
        burst: &mut Burst,
        table: &Partitions,
        slots: &mut [KeySlot; BURST_MAX],
        from: &Ingress<'_>,
    ) -> Left {
        let frames = burst.len();
        if let Some(partition) = table.of_queue(from.queue) {
            let lane = from.queue - usize::from(partition.queues.first);
            let Some(to) = Recipient::of(table, partition) else {
                self.count(partition, lane, burst, &ALL[..frames]);
                return Left::Untouched;
            };
            let to = Recipient { queue: Some(lane), ..to };
            if partition.spread == Spread::ByQueue {
                self.deliver(plane, burst, to, &ALL[..frames], lane, from);
            } else {
                self.parse(burst, slots, from.port);
                self.deliver_by_flow(plane, burst, to, |i| slots[i].key().flow_hash(), u32::MAX, from);
            }
            return Left::None;
        }
        self.parse(burst, slots, from.port);
        self.stamp(Stage::Parse);
        let mut of = [0u32; PARTITIONS_MAX];
        for (i, slot) in slots.iter().enumerate().take(frames) {
            of[table.find(slot.key())] |= 1 << i;
        }
        self.stamp(Stage::Lookup);
        let mut left = 0;
        for (number, partition) in table.partitions().iter().enumerate().filter(|&(n, _)| of[n] != 0) {
            match Recipient::of(table, partition) {
                None => {
                    let (which, len) = list(of[number]);
                    self.count(partition, 0, burst, &which[..len]);
                    left |= of[number];
                }
                Some(owner) => {
                    self.deliver_by_flow(
                        plane,
                        burst,
                        owner,
                        |i| slots[i].key().flow_hash(),
                        of[number],
                        from,
                    );
                }
            }
        }
        if left == 0 { Left::None } else { Left::Some(left, from.port) }
    }

    /// What an owner sends: to other owners if a match of theirs says so, else out by the divided port.
    fn route_sent(
        &mut self,
        plane: &Plane,
        burst: &mut Burst,
        of: PortId,
        slots: &mut [KeySlot; BURST_MAX],
        from: &Ingress<'_>,
    ) -> Left {
        let frames = burst.len();
        let divided = plane.port(of);
        let (Some(port), Some(Part::Divided(table))) = (divided, divided.and_then(|port| port.part.as_ref()))
        else {
            from.counters.dropped(DropReason::NoOutput, frames as u64);
            return Left::None;
        };
        let Some(own) = table.of_owner(from.port) else {
            from.counters.dropped(DropReason::NoOutput, frames as u64);
            return Left::None;
        };
        self.parse(burst, slots, of);
        self.stamp(Stage::Parse);
        let counters = &own.counters[self.index];
        let mut to = [0u32; PARTITIONS_MAX];
        let (mut out, mut refused, mut back) = (0u32, 0, 0);
        for (i, slot) in slots.iter().enumerate().take(frames) {
            if !table.permits(from.port, slot.key()) {
                refused += 1;
                continue;
            }
            let number = table.find(slot.key());
            if table.is_default(number) {
                out |= 1 << i;
            } else if table.get(number).owner == Some(from.port) {
                back += 1;
            } else {
                to[number] |= 1 << i;
            }
        }
        self.stamp(Stage::Lookup);
        counters.sent.add(frames as u64 - refused);
        if refused + back > 0 {
            counters.refused.add(refused);
            from.counters.dropped(DropReason::ForeignSource, refused);
            from.counters.dropped(DropReason::Hairpin, back);
        }
        if out != 0 {
            let (which, len) = list(out);
            burst.allow_take_of(out);
            self.send_out(burst, (of, port), own, &which[..len], from);
        }
        let mut left = 0;
        for (number, partition) in table.partitions().iter().enumerate().filter(|&(n, _)| to[n] != 0) {
            match Recipient::of(table, partition) {
                None => {
                    let (which, len) = list(to[number]);
                    self.count(partition, 0, burst, &which[..len]);
                    left |= to[number];
                }
                Some(owner) => {
                    self.deliver_by_flow(
                        plane,
                        burst,
                        owner,
                        |i| slots[i].key().flow_hash(),
                        to[number],
                        from,
                    );
                }
            }
        }
        if left == 0 { Left::None } else { Left::Some(left, of) }
    }

    /// Hands the frames whose bits are set to the owner of a partition, each to the queue that its flow belongs to.
    fn deliver_by_flow(
        &mut self,
        plane: &Plane,
        burst: &mut Burst,
        to: Recipient<'_>,
        hash: impl Fn(usize) -> u32,
        frames: u32,
        from: &Ingress<'_>,
    ) {
        let frames = frames & u32::MAX >> (BURST_MAX - burst.len());
        let lanes = match to.partition.spread {
            Spread::ByQueue => to.partition.queues.count.into(),
            Spread::ByFlow => u32::MAX,
        };
        let queues = plane.port(to.owner).map_or(1, |port| port.tx.len());
        if queues <= 1 || lanes == 1 {
            let (which, len) = list(frames);
            self.deliver(plane, burst, to, &which[..len], 0, from);
            return;
        }
        let mut of = [0u32; BURST_MAX];
        for i in (0..BURST_MAX).filter(|i| frames & 1 << i != 0) {
            let lane = hash(i) % lanes;
            of[lane as usize % queues.min(BURST_MAX)] |= 1 << i;
        }
        for (lane, &frames) in of.iter().enumerate().filter(|(_, frames)| **frames != 0) {
            let (which, len) = list(frames);
            self.deliver(plane, burst, to, &which[..len], lane, from);
        }
    }

    /// Sends frames out by a divided port, through the transmit queues of a partition.
    fn send_out(
        &mut self,
        burst: &mut Burst,
        (to, port): (PortId, &PortPlane),
        partition: &Partition,
        which: &[u8],
        from: &Ingress<'_>,
    ) {
        let queue = usize::from(partition.tx.first) + from.queue % usize::from(partition.tx.count);
        let from = Ingress { port: from.port, queue, counters: from.counters };
        self.send_to(burst, (to, port), &port.counters[self.index], which, &from);
    }

    /// Sends what the bridge has for a divided port: to owners if a match of theirs says so, else out.
    #[inline(never)]
    pub(crate) fn send_divided(
        &mut self,
        plane: &Plane,
        burst: &mut Burst,
        to: PortId,
        table: &Partitions,
        which: &[u8],
        from: &Ingress<'_>,
    ) {
        let Some(port) = plane.port(to) else { return };
        let mut hashes = [0; BURST_MAX];
        let (mut out, mut owned) = (0u32, [0u32; PARTITIONS_MAX]);
        for &frame in which {
            let i = usize::from(frame);
            burst.load_head(i, HEAD_MAX);
            extract(burst.head(i), burst.frame_len(i), to.0.into(), &mut self.slot);
            let number = table.find(self.slot.key());
            if table.is_default(number) || table.get(number).owner.is_none() {
                out |= 1 << i;
            } else {
                owned[number] |= 1 << i;
                hashes[i] = self.slot.key().flow_hash();
            }
        }
        if out != 0 {
            let (which, len) = list(out);
            self.send_out(burst, (to, port), table.of_bridge(), &which[..len], from);
        }
        for (number, partition) in table.partitions().iter().enumerate().filter(|&(n, _)| owned[n] != 0) {
            if let Some(owner) = Recipient::of(table, partition) {
                self.deliver_by_flow(plane, burst, owner, |i| hashes[i], owned[number], from);
            }
        }
    }
}

/// The frames whose bits are set, in order.
#[inline]
fn list(mut bits: u32) -> ([u8; BURST_MAX], usize) {
    let (mut which, mut len) = ([0; BURST_MAX], 0);
    while bits != 0 {
        which[len] = bits.trailing_zeros() as u8;
        len += 1;
        bits &= bits - 1;
    }
    (which, len)
}
