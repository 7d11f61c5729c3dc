//! Where NORMAL sends a frame.

use std::sync::Arc;

use flow::PRESENT;
use port::{DropReason, PortId};

use crate::fdb::{Fdb, Learned};
use crate::vlan::{PortVlan, TagOp};

/// What NORMAL looks at: the first 16 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthHead {
    first: u64,
    second: u64,
}

impl EthHead {
    /// Reads it from a frame's head. `None` for a runt.
    #[inline(always)]
    pub fn of(head: &[u8]) -> Option<EthHead> {
        if let Some(bytes) = head.first_chunk() {
            return Some(EthHead::from(bytes));
        }
        // 14 or 15 bytes: an Ethernet header with nothing, or half a tag, behind.
        let mut padded = [0; 16];
        padded.get_mut(..head.len()).filter(|p| p.len() >= 14)?.copy_from_slice(head);
        EthHead::of(&padded)
    }

    /// Destination address.
    #[inline(always)]
    pub fn dst(self) -> u64 {
        self.first >> 16
    }

    /// Source address.
    #[inline(always)]
    pub fn src(self) -> u64 {
        (self.first & 0xffff) << 32 | self.second >> 32
    }

    /// Outermost tag with [`PRESENT`], or 0.
    #[inline(always)]
    pub fn tci(self) -> u16 {
        match (self.second >> 16) as u16 {
            0x8100 | 0x88a8 | 0x9100 => self.second as u16 | PRESENT,
            _ => 0,
        }
    }
}

impl From<&[u8; 16]> for EthHead {
    #[inline(always)]
    fn from(bytes: &[u8; 16]) -> EthHead {
        let bytes = u128::from_be_bytes(*bytes);
        EthHead { first: (bytes >> 64) as u64, second: bytes as u64 }
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nowhere.
    Drop(DropReason),
    /// To one port.
    Unicast {
        /// The port.
        port: PortId,
        /// What to do to the tag first.
        tag: TagOp,
    },
    /// To each member of the VLAN but the port it came from.
    Flood {
        /// The VLAN.
        vlan: u16,
    },
}

/// The ports of a bridge and their VLAN modes. Immutable; a change makes a new one.
#[derive(Clone, Debug, Default)]
pub struct BridgePorts {
    ports: Vec<PortId>,
    vlans: Vec<Option<Arc<PortVlan>>>,
}

impl BridgePorts {
    /// The table of these ports.
    pub fn new(ports: impl IntoIterator<Item = (PortId, Arc<PortVlan>)>) -> BridgePorts {
        let mut this = BridgePorts::default();
        for (id, vlan) in ports {
            let slots = this.vlans.len().max(id.0 as usize + 1);
            this.vlans.resize(slots, None);
            this.vlans[id.0 as usize] = Some(vlan);
            this.ports.push(id);
        }
        this
    }

    /// Every port.
    pub fn iter(&self) -> impl Iterator<Item = PortId> {
        self.ports.iter().copied()
    }

    /// A port's VLAN mode.
    #[inline(always)]
    pub fn vlan(&self, port: PortId) -> Option<&PortVlan> {
        self.vlans.get(port.0 as usize)?.as_deref()
    }

    /// The members of a VLAN but `except`, with what to do to the tag of a frame that has `tci`.
    pub fn members(&self, vlan: u16, tci: u16, except: PortId) -> impl Iterator<Item = (PortId, TagOp)> {
        let others = self.iter().filter(move |&port| port != except);
        others.filter_map(move |port| Some((port, self.vlan(port)?.egress(vlan, tci)?)))
    }
}

/// Addresses 01-80-c2-00-00-00 to -0f: for the link, not for a bridge to forward (IEEE 802.1Q, table 8-1).
const RESERVED: u64 = 0x0180_c200_0000;

/// Learns where a frame came from and finds where it goes.
pub fn normal(ports: &BridgePorts, fdb: &Fdb, eth: EthHead, in_port: PortId, now_secs: u32) -> Forward {
    let tci = eth.tci();
    let Some(vlan) = ports.vlan(in_port).and_then(|mode| mode.ingress(tci)) else {
        return Forward::Drop(DropReason::VlanIn);
    };
    let (dst, src) = (eth.dst(), eth.src());
    if dst & !0xf == RESERVED {
        return Forward::Drop(DropReason::Reserved);
    }
    let _: Learned = fdb.learn(vlan, src, in_port, now_secs);
    let known = if dst >> 40 & 1 == 0 { fdb.lookup(vlan, dst) } else { None };
    let Some(port) = known else { return Forward::Flood { vlan } };
    if port == in_port {
        return Forward::Drop(DropReason::Hairpin);
    }
    match ports.vlan(port).and_then(|mode| mode.egress(vlan, tci)) {
        Some(tag) => Forward::Unicast { port, tag },
        None => Forward::Drop(DropReason::VlanOut),
    }
}

const MEMO_ENTRIES: usize = 64;

#[derive(Clone, Copy)]
struct Memo {
    eth: EthHead,
    /// The input port below, the epoch above.
    stamp: u64,
    forward: Forward,
}

/// A worker's memory of its last answers for one bridge.
///
/// An answer holds for an epoch: while the table's generation and the second stay what they are. Every second each
/// source is learned anew, so that ageing sees it.
pub struct NormalMemo {
    entries: Box<[Memo; MEMO_ENTRIES]>,
    epoch: u64,
    of: (u64, u32),
}

impl Default for NormalMemo {
    fn default() -> Self {
        Self::new()
    }
}

impl NormalMemo {
    const EMPTY: Memo =
        Memo { eth: EthHead { first: 0, second: 0 }, stamp: 0, forward: Forward::Drop(DropReason::NoOutput) };

    /// An empty memory.
    pub fn new() -> Self {
        NormalMemo { entries: Box::new([Self::EMPTY; MEMO_ENTRIES]), epoch: 1, of: (0, 0) }
    }

    /// Forgets everything: the ports have changed.
    pub fn clear(&mut self) {
        // 48 bits: not reached in the life of a machine.
        self.epoch += 1;
    }

    /// Begins a burst, when the table has this generation: read before any look-up, so that a change since then makes the
    /// memory void, not wrong.
    #[inline(always)]
    pub fn begin(&mut self, generation: u64, now_secs: u32) {
        if self.of != (generation, now_secs) {
            self.of = (generation, now_secs);
            self.clear();
        }
    }

    #[inline(always)]
    fn slot(&self, eth: EthHead, in_port: PortId) -> usize {
        let mixed = (eth.first ^ eth.second.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 58) as usize ^ usize::from(in_port.0)) % MEMO_ENTRIES
    }

    #[inline(always)]
    fn stamp(&self, in_port: PortId) -> u64 {
        self.epoch << 16 | u64::from(in_port.0)
    }

    #[inline(always)]
    fn known(&self, eth: EthHead, in_port: PortId) -> Option<Forward> {
        let entry = &self.entries[self.slot(eth, in_port)];
        (entry.eth == eth && entry.stamp == self.stamp(in_port)).then_some(entry.forward)
    }

    /// The port a frame goes to as it is, if that is what [`normal`] said of one like it.
    #[inline(always)]
    pub fn unicast(&self, eth: EthHead, in_port: PortId) -> Option<PortId> {
        match self.known(eth, in_port) {
            Some(Forward::Unicast { port, tag: TagOp::Keep }) => Some(port),
            _ => None,
        }
    }

    /// As [`normal`], from memory if possible.
    #[inline(always)]
    pub fn normal(&mut self, ports: &BridgePorts, fdb: &Fdb, eth: EthHead, in_port: PortId) -> Forward {
        if let Some(forward) = self.known(eth, in_port) {
            return forward;
        }
        let (_, now_secs) = self.of;
        let forward = normal(ports, fdb, eth, in_port, now_secs);
        self.entries[self.slot(eth, in_port)] = Memo { eth, stamp: self.stamp(in_port), forward };
        forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FdbLimits, VlanSet};

    fn bridge(modes: Vec<PortVlan>) -> (BridgePorts, Fdb) {
        let ports = modes.into_iter().enumerate().map(|(i, m)| (PortId(i as u16 + 1), Arc::new(m)));
        (BridgePorts::new(ports), Fdb::new(FdbLimits { addresses: 64, per_port: 64 }, 8, 3))
    }

    fn eth(dst: u64, src: u64, tag: Option<u16>) -> EthHead {
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&dst.to_be_bytes()[2..]);
        frame[6..12].copy_from_slice(&src.to_be_bytes()[2..]);
        if let Some(vid) = tag {
            frame[12..14].copy_from_slice(&[0x81, 0]);
            frame[14..16].copy_from_slice(&vid.to_be_bytes());
        } else {
            frame[12..14].copy_from_slice(&[8, 0]);
        }
        EthHead::of(&frame).unwrap()
    }

    const A: u64 = 0x02_00_00_00_00_0a;
    const B: u64 = 0x02_00_00_00_00_0b;
    const ALL: u64 = 0xffff_ffff_ffff;

    #[test]
    fn fields_are_read_from_tagged_untagged_and_shortest_heads() {
        let head = eth(A, B, Some(5));
        assert_eq!((head.dst(), head.src(), head.tci()), (A, B, PRESENT | 5));
        assert_eq!(eth(A, B, None).tci(), 0);
        let mut frame = [0; 14];
        frame[5] = 1;
        assert_eq!(EthHead::of(&frame).unwrap().dst(), 1);
        assert_eq!(EthHead::of(&frame[..13]), None);
        assert_eq!(EthHead::of(&[]), None);
    }

    #[test]
    fn unknown_destinations_are_flooded_and_known_ones_reached() {
        let (ports, fdb) = bridge(vec![PortVlan::default(); 3]);
        assert_eq!(normal(&ports, &fdb, eth(ALL, A, None), PortId(1), 0), Forward::Flood { vlan: 0 });
        let to_a = normal(&ports, &fdb, eth(A, B, None), PortId(2), 0);
        assert_eq!(to_a, Forward::Unicast { port: PortId(1), tag: TagOp::Keep });
        let members: Vec<_> = ports.members(0, 0, PortId(1)).collect();
        assert_eq!(members, [(PortId(2), TagOp::Keep), (PortId(3), TagOp::Keep)]);
    }

    #[test]
    fn a_frame_is_not_sent_back_where_it_came_from() {
        let (ports, fdb) = bridge(vec![PortVlan::default(); 2]);
        normal(&ports, &fdb, eth(ALL, A, None), PortId(1), 0);
        let back = normal(&ports, &fdb, eth(A, B, None), PortId(1), 0);
        assert_eq!(back, Forward::Drop(DropReason::Hairpin));
    }

    #[test]
    fn link_local_group_addresses_are_not_forwarded() {
        let (ports, fdb) = bridge(vec![PortVlan::default(); 2]);
        for last in 0..16 {
            let forward = normal(&ports, &fdb, eth(RESERVED + last, A, None), PortId(1), 0);
            assert_eq!(forward, Forward::Drop(DropReason::Reserved));
        }
        let forward = normal(&ports, &fdb, eth(RESERVED + 16, A, None), PortId(1), 0);
        assert_eq!(forward, Forward::Flood { vlan: 0 });
    }

    #[test]
    fn vlans_are_kept_apart_and_tags_follow_the_ports_modes() {
        let trunk = PortVlan::Trunk(VlanSet::All);
        let (ports, fdb) = bridge(vec![PortVlan::Access(5), PortVlan::Access(6), trunk]);
        assert_eq!(normal(&ports, &fdb, eth(ALL, A, None), PortId(1), 0), Forward::Flood { vlan: 5 });
        let members: Vec<_> = ports.members(5, 0, PortId(1)).collect();
        assert_eq!(members, [(PortId(3), TagOp::Push(5))]);
        let from_trunk = normal(&ports, &fdb, eth(A, B, Some(5)), PortId(3), 0);
        assert_eq!(from_trunk, Forward::Unicast { port: PortId(1), tag: TagOp::Pop });
        assert_eq!(normal(&ports, &fdb, eth(A, B, Some(6)), PortId(3), 0), Forward::Flood { vlan: 6 });
        let tagged = normal(&ports, &fdb, eth(ALL, A, Some(5)), PortId(1), 0);
        assert_eq!(tagged, Forward::Drop(DropReason::VlanIn));
    }

    #[test]
    fn the_memo_never_answers_what_the_table_would_not() {
        let (ports, fdb) = bridge(vec![PortVlan::default(); 3]);
        let mut memo = NormalMemo::new();
        let mut ask = |dst, src, port, now| {
            memo.begin(fdb.generation(), now);
            let (eth, port) = (eth(dst, src, None), PortId(port));
            let answer = memo.normal(&ports, &fdb, eth, port);
            let quick = match answer {
                Forward::Unicast { port, tag: TagOp::Keep } => Some(port),
                _ => None,
            };
            assert_eq!(memo.unicast(eth, port), quick);
            answer
        };
        assert_eq!(ask(B, A, 1, 0), Forward::Flood { vlan: 0 });
        ask(A, B, 2, 0);
        let to_b = Forward::Unicast { port: PortId(2), tag: TagOp::Keep };
        assert_eq!(ask(B, A, 1, 0), to_b);
        assert_eq!(ask(B, A, 1, 0), to_b);
        ask(A, B, 3, 0);
        assert_eq!(ask(B, A, 1, 0), Forward::Unicast { port: PortId(3), tag: TagOp::Keep }, "B moved");
        ask(B, A, 1, 250);
        fdb.expire(400, 300);
        assert_eq!(fdb.lookup(0, A), Some(PortId(1)), "refreshed through the memo");
        assert_eq!(ask(B, A, 1, 250), Forward::Flood { vlan: 0 }, "B has aged");
    }
}
