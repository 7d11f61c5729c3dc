//! Running the tables for one frame.

use action::Op;
use flow::{Field, FlowKey, FlowMask, PRESENT, WORDS};
use flow_text::{Action, Needs, SetField};

use crate::rule::{Rule, add_vlans};
use crate::{RuleSlot, Snapshot};

/// How deep resubmits may nest (as in Open vSwitch).
pub const DEPTH_MAX: usize = 64;
/// Most look-ups in one evaluation.
pub const LOOKUPS_MAX: usize = 4096;
/// Most operations that an evaluation makes.
pub const OPS_MAX: usize = 4096;

/// What the tables say about a frame. Kept by the caller, so that its buffers are used again.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// What to do, in order; empty drops.
    pub ops: Vec<Op>,
    /// The rules that matched, in order, once for each time.
    pub rules: Vec<RuleSlot>,
    /// Every bit of the frame's key that all this depends on: a key that agrees in them is evaluated the same.
    pub mask: FlowMask,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an evaluation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The operations stand.
    #[default]
    Done,
    /// A table had no rule for the frame. What rules before that applied at once stands; the action set is not
    /// executed.
    NoRule,
    /// The rules lead too deep ([`DEPTH_MAX`]) or too far ([`LOOKUPS_MAX`], [`OPS_MAX`]); nothing is done.
    LimitExceeded,
}

/// A limit was exceeded.
struct Limit;

impl Snapshot {
    /// Runs the tables for a frame with this key. What `out` held is replaced.
    ///
    /// Allocates nothing once the buffers of `out` have grown.
    ///
    /// The key knows two VLAN tags: a third one, below two that were popped, is not matched on.
    pub fn evaluate(&self, key: &FlowKey, out: &mut Evaluation) {
        out.ops.clear();
        out.rules.clear();
        out.mask = FlowMask::default();
        let mut run = Run {
            snapshot: self,
            key: *key,
            written: FlowMask::default(),
            vlans_moved: false,
            below: Below::default(),
            ttl_moved: false,
            set: ActionSet::default(),
            lookups: 0,
            out,
        };
        let outcome = match run.tables(0, None, 0) {
            Ok(true) => run.finish().map(|()| Outcome::Done),
            Ok(false) => Ok(Outcome::NoRule),
            Err(Limit) => Err(Limit),
        };
        out.outcome = outcome.unwrap_or_else(|Limit| {
            out.ops.clear();
            Outcome::LimitExceeded
        });
    }
}

struct Run<'s, 'o> {
    snapshot: &'s Snapshot,
    /// The frame's key as it is by now.
    key: FlowKey,
    /// Bits of `key` that rules wrote: they say nothing about the frame.
    written: FlowMask,
    /// Tags were pushed or popped: unwritten bits of either tag derive from both of the frame's tags.
    vlans_moved: bool,
    below: Below,
    /// The TTL was decremented: each unwritten bit derives from all bits of the frame's.
    ttl_moved: bool,
    set: ActionSet,
    lookups: usize,
    out: &'o mut Evaluation,
}

/// Tags under the two that the key has room for, pushed down there by rules: four of 16 bits, and which of their
/// bits were written.
#[derive(Default)]
struct Below {
    tags: u64,
    written: u64,
}

/// The action set: one action of a kind, executed in OpenFlow's order.
#[derive(Default)]
struct ActionSet {
    pop_vlan: bool,
    push_vlan: Option<u16>,
    /// The VLAN ID or priority is set even if that takes a tag to be pushed.
    need_vlan: bool,
    dec_ttl: bool,
    values: FlowKey,
    mask: FlowMask,
    output: Option<Op>,
}

impl<'s> Run<'s, '_> {
    /// Looks up in `table` and in those that its rules go on to. Says whether every one of them had a rule.
    fn tables(&mut self, mut table: u8, mut port: Option<u16>, depth: usize) -> Result<bool, Limit> {
        if depth > DEPTH_MAX {
            return Err(Limit);
        }
        loop {
            let Some(rule) = self.look_up(table, port.take())? else { return Ok(false) };
            self.out.rules.push(rule.slot);
            let instructions = &rule.spec.instructions;
            for action in &instructions.apply {
                self.apply(action, table, depth)?;
            }
            if instructions.clear_actions {
                self.set = ActionSet::default();
            }
            for action in &instructions.write {
                self.write(action);
            }
            if let Some((value, mask)) = instructions.metadata {
                self.write_key(Field::Metadata, value.into(), mask.into());
            }
            match instructions.goto_table {
                Some(next) => table = next,
                None => return Ok(true),
            }
        }
    }

    /// The rule for the frame in `table`; with `port`, as if it had come in there.
    fn look_up(&mut self, table: u8, port: Option<u16>) -> Result<Option<&'s Rule>, Limit> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(Limit);
        }
        let Some(rules) = self.snapshot.table(table) else { return Ok(None) };
        let mut seen = FlowMask::default();
        let found = match port {
            None => rules.find(&self.key, &mut seen),
            Some(port) => {
                let real = self.key.get(Field::InPort);
                self.key.set(Field::InPort, port.into());
                let found = rules.find(&self.key, &mut seen);
                self.key.set(Field::InPort, real);
                // It was told, not looked at.
                let place = Field::InPort.place();
                seen.0[place.0] &= !((Field::InPort.full() as u64) << place.1);
                found
            }
        };
        self.note(&seen);
        Ok(found)
    }

    /// Notes which bits of `key` mattered, as bits of the frame's own key.
    fn note(&mut self, seen: &FlowMask) {
        let mut own = FlowMask::default();
        for w in 0..WORDS {
            own.0[w] = seen.0[w] & !self.written.0[w];
        }
        self.out.mask.union(&own);
        if self.vlans_moved && own.get(Field::VlanTci) | own.get(Field::VlanTci2) != 0 {
            add_vlans(&mut self.out.mask);
        }
        if self.ttl_moved && own.get(Field::IpTtl) != 0 {
            self.out.mask.add(Field::IpTtl, Field::IpTtl.full());
        }
    }

    /// The value of these bits as it is by now, noted as looked at.
    fn look(&mut self, field: Field, bits: u128) -> u128 {
        let mut seen = FlowMask::default();
        seen.add(field, bits);
        self.note(&seen);
        self.key.get(field) & bits
    }

    fn has(&mut self, needs: Needs) -> bool {
        needs.met(|field, bits| Some(self.look(field, bits)))
    }

    fn tagged(&mut self) -> bool {
        self.look(Field::VlanTci, PRESENT.into()) != 0
    }

    fn write_key(&mut self, field: Field, value: u128, mask: u128) {
        self.key.set(field, self.key.get(field) & !mask | value & mask);
        self.written.add(field, mask);
    }

    fn emit(&mut self, op: Op) -> Result<(), Limit> {
        if self.out.ops.len() == OPS_MAX {
            return Err(Limit);
        }
        self.out.ops.push(op);
        Ok(())
    }

    /// Writes bits of a field that the frame is known to have.
    fn set(&mut self, field: Field, value: u128, mask: u128) -> Result<(), Limit> {
        self.write_key(field, value, mask);
        match field {
            Field::Metadata | Field::Reg0 | Field::Reg1 | Field::Reg2 | Field::Reg3 => Ok(()),
            Field::Reg4 | Field::Reg5 | Field::Reg6 | Field::Reg7 => Ok(()),
            _ => self.emit(Op::Set { field, value, mask }),
        }
    }

    fn apply(&mut self, action: &Action, table: u8, depth: usize) -> Result<(), Limit> {
        match *action {
            Action::Set(ref set) => {
                if self.has(set.to.needs) {
                    let (value, mask) = set.in_key();
                    self.set(set.to.field, value, mask)?;
                }
                Ok(())
            }
            Action::ModVlanVid(vid) => self.mod_vlan(vid.into(), 0xfff),
            Action::ModVlanPcp(pcp) => self.mod_vlan(u128::from(pcp) << 13, 0xe000),
            Action::PushVlan(tpid) => self.push_vlan(tpid),
            Action::PopVlan => self.pop_vlan(),
            Action::DecTtl => self.dec_ttl(),
            Action::Resubmit { port, table: to } => {
                self.tables(to.unwrap_or(table), port, depth + 1)?;
                Ok(())
            }
            _ => output(action).map_or(Ok(()), |op| self.emit(op)),
        }
    }

    fn mod_vlan(&mut self, value: u128, mask: u128) -> Result<(), Limit> {
        if !self.tagged() {
            self.push_vlan(0x8100)?;
        }
        self.set(Field::VlanTci, value, mask)
    }

    fn push_vlan(&mut self, tpid: u16) -> Result<(), Limit> {
        let (outer, inner) = (self.key.get(Field::VlanTci), self.key.get(Field::VlanTci2));
        let (outer_written, inner_written) =
            (self.written.get(Field::VlanTci), self.written.get(Field::VlanTci2));
        self.below.tags = self.below.tags << 16 | inner as u64;
        self.below.written = self.below.written << 16 | inner_written as u64;
        // The new tag says what the old one did, or 0; that it is there is certain.
        let present = u128::from(PRESENT);
        self.key.set(Field::VlanTci2, outer);
        self.key.set(Field::VlanTci, outer | present);
        self.replace_written_vlans(outer_written | present, outer_written);
        self.emit(Op::PushVlan(tpid))
    }

    fn pop_vlan(&mut self) -> Result<(), Limit> {
        let inner = self.key.get(Field::VlanTci2);
        let inner_written = self.written.get(Field::VlanTci2);
        self.key.set(Field::VlanTci, inner);
        self.key.set(Field::VlanTci2, (self.below.tags & 0xffff).into());
        self.replace_written_vlans(inner_written, (self.below.written & 0xffff).into());
        self.below.tags >>= 16;
        self.below.written >>= 16;
        self.emit(Op::PopVlan)
    }

    fn replace_written_vlans(&mut self, outer: u128, inner: u128) {
        self.vlans_moved = true;
        for (field, bits) in [(Field::VlanTci, outer), (Field::VlanTci2, inner)] {
            let (word, shift, _) = field.place();
            self.written.0[word] &= !(0xffff << shift);
            self.written.add(field, bits);
        }
    }

    /// A frame whose TTL runs out is dropped when this is executed, so what the tables say of it doesn't matter.
    fn dec_ttl(&mut self) -> Result<(), Limit> {
        let ttl = self.key.get(Field::IpTtl);
        self.key.set(Field::IpTtl, ttl.saturating_sub(1));
        self.ttl_moved = true;
        self.emit(Op::DecTtl)
    }

    /// Puts an action into the action set, in place of one of the same kind.
    fn write(&mut self, action: &Action) {
        match *action {
            Action::Set(ref set) => {
                // A frame's protocols don't change, so they can be looked at now; its tags may.
                if set.to.needs == Needs::Vlan || self.has(set.to.needs) {
                    self.write_set(set);
                }
            }
            Action::ModVlanVid(vid) => {
                self.set.need_vlan = true;
                self.merge_set(Field::VlanTci, vid.into(), 0xfff);
            }
            Action::ModVlanPcp(pcp) => {
                self.set.need_vlan = true;
                self.merge_set(Field::VlanTci, u128::from(pcp) << 13, 0xe000);
            }
            Action::PushVlan(tpid) => self.set.push_vlan = Some(tpid),
            Action::PopVlan => self.set.pop_vlan = true,
            Action::DecTtl => self.set.dec_ttl = true,
            Action::Resubmit { .. } => {}
            _ => self.set.output = output(action),
        }
    }

    fn write_set(&mut self, set: &SetField) {
        let (value, mask) = set.in_key();
        self.merge_set(set.to.field, value, mask);
    }

    fn merge_set(&mut self, field: Field, value: u128, mask: u128) {
        let old = self.set.values.get(field);
        self.set.values.set(field, old & !mask | value & mask);
        self.set.mask.add(field, mask);
    }

    /// Executes the action set (OpenFlow 1.3.5, section 5.10).
    fn finish(&mut self) -> Result<(), Limit> {
        let set = std::mem::take(&mut self.set);
        if set.pop_vlan {
            self.pop_vlan()?;
        }
        if let Some(tpid) = set.push_vlan {
            self.push_vlan(tpid)?;
        }
        if set.need_vlan && !self.tagged() {
            self.push_vlan(0x8100)?;
        }
        if set.dec_ttl {
            self.dec_ttl()?;
        }
        if !set.mask.is_empty() {
            for &field in Field::ALL {
                let mask = set.mask.get(field);
                if mask != 0 && (field != Field::VlanTci || self.tagged()) {
                    self.set(field, set.values.get(field), mask)?;
                }
            }
        }
        set.output.map_or(Ok(()), |op| self.emit(op))
    }
}

/// The operation of an action that sends the frame somewhere.
fn output(action: &Action) -> Option<Op> {
    match *action {
        Action::Output(port) => Some(Op::Output(port)),
        Action::InPort => Some(Op::InPort),
        Action::Normal => Some(Op::Normal),
        Action::Flood => Some(Op::Flood),
        Action::All => Some(Op::All),
        Action::Controller { max_len } => Some(Op::Controller { max_len }),
        _ => None,
    }
}
