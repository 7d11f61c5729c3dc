//! What a worker remembers of the rules: verdicts, and which frames they are for.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use action::Op;
use flow::{Admission, Changes, ExactCache, Field, FlowKey, FlowMask, KeySlot, Megaflows};
use packet::BURST_MAX;
use port::{DropReason, PortId};

use crate::plane::{Outcome, Rules, Verdict};

/// Most operations, and most rules, in a verdict; rules that make longer ones get [`Outcome::Limit`].
pub const VERDICT_MAX: usize = 4096;

/// Bounds of a worker's caches, per bridge. Memory is touched as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSizes {
    /// Flows in the exact-match cache.
    pub flows: u32,
    /// Megaflows.
    pub megaflows: u32,
    /// Different masks among them; a frame that misses costs at most this many look-ups before the rules.
    pub megaflow_masks: u32,
    /// Different verdicts (sets of matched rules); as many as a burst can need at least.
    pub verdicts: u32,
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self { flows: 131_072, megaflows: 65_536, megaflow_masks: 16, verdicts: 131_072 }
    }
}

/// What to do with a frame, in the form that is quickest to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Drop it.
    Drop(DropReason),
    /// Send it unchanged to this port.
    Output(PortId),
    /// Let the learning bridge decide, nothing else.
    Normal,
    /// Execute the operations.
    Program,
}

/// A remembered verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub kind: Kind,
    ops: (u32, u32),
    rules: (u32, u32),
    /// Not yet credited to the rules.
    frames: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortcut {
    Unknown,
    No,
    Yes(u32),
}

/// The caches of one bridge.
pub(crate) struct BridgeCache {
    version: u64,
    sizes: CacheSizes,
    exact: ExactCache,
    megaflows: Megaflows,
    changes: Changes,
    decisions: Vec<Decision>,
    ops: Vec<Op>,
    rules: Vec<u32>,
    /// Hash of the matched rules to the decision made from them.
    by_rules: HashMap<u64, u32>,
    dirty: Vec<u32>,
    shortcuts: Vec<Shortcut>,
    verdict: Verdict,
}

impl BridgeCache {
    pub fn new(sizes: CacheSizes) -> Self {
        // Fewer than one burst needs at once would be made room for without end.
        let sizes = CacheSizes { verdicts: sizes.verdicts.max(BURST_MAX as u32), ..sizes };
        let verdicts = sizes.verdicts as usize;
        Self {
            version: u64::MAX,
            sizes,
            exact: ExactCache::new(sizes.flows as usize, &FlowMask::default()),
            megaflows: Megaflows::new(sizes.megaflow_masks as usize, sizes.megaflows as usize),
            changes: Changes::new(),
            decisions: Vec::with_capacity(verdicts),
            // Room for a burst of the longest verdicts whatever the sizes.
            ops: Vec::with_capacity((4 * verdicts).max(BURST_MAX * VERDICT_MAX)),
            rules: Vec::with_capacity((8 * verdicts).max(BURST_MAX * VERDICT_MAX)),
            by_rules: HashMap::with_capacity(verdicts),
            dirty: Vec::with_capacity(verdicts),
            shortcuts: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    /// Adopts these rules; what was remembered of others is forgotten as far as a change may concern it. True if
    /// that is everything.
    pub fn adopt(&mut self, rules: &dyn Rules, ports: usize) -> bool {
        self.shortcuts.resize(ports.max(self.shortcuts.len()), Shortcut::Unknown);
        if self.version == rules.version() {
            return false;
        }
        let changes = &mut self.changes;
        let known = rules.changes_since(self.version, &mut |key, mask| changes.push(key, mask));
        self.version = rules.version();
        let mut fields = rules.fields();
        fields.add(Field::InPort, Field::InPort.full());
        if known && self.exact.mask().contains(&fields) {
            self.shortcuts.fill(Shortcut::Unknown);
            return false;
        }
        self.exact.rebuild(&fields);
        self.forget();
        true
    }

    /// Empties everything. Frames must have been [credited](Self::credit).
    fn forget(&mut self) {
        assert!(self.dirty.is_empty(), "frames would be lost from the rules' counters");
        self.exact.clear();
        self.megaflows.clear();
        self.decisions.clear();
        self.ops.clear();
        self.rules.clear();
        self.by_rules.clear();
        self.shortcuts.fill(Shortcut::Unknown);
    }

    /// The decision for all frames of this port, if it depends on nothing else.
    #[inline(always)]
    pub fn shortcut(&mut self, rules: &dyn Rules, port: PortId) -> Option<u32> {
        match self.shortcuts[port.0 as usize] {
            Shortcut::Yes(decision) => Some(decision),
            Shortcut::No => None,
            Shortcut::Unknown => self.find_shortcut(rules, port),
        }
    }

    #[cold]
    fn find_shortcut(&mut self, rules: &dyn Rules, port: PortId) -> Option<u32> {
        let mut key = FlowKey::default();
        key.set(Field::InPort, u128::from(port.0));
        let mut in_port_only = FlowMask::default();
        in_port_only.add(Field::InPort, Field::InPort.full());
        rules.evaluate(&key, &mut self.verdict);
        if !in_port_only.contains(&self.verdict.mask) {
            self.shortcuts[port.0 as usize] = Shortcut::No;
            return None;
        }
        let decision = self.remember()?;
        self.shortcuts[port.0 as usize] = Shortcut::Yes(decision);
        Some(decision)
    }

    /// Asks the rules. What is asked again is remembered, if `may_keep`: in a megaflow, or where there can't be one for this
    /// flow.
    #[cold]
    pub fn miss(
        &mut self,
        rules: &dyn Rules,
        key: &FlowKey,
        may_keep: &mut impl FnMut() -> bool,
    ) -> Option<u32> {
        rules.evaluate(key, &mut self.verdict);
        let decision = self.remember()?;
        let mut mask = self.verdict.mask;
        mask.add(Field::InPort, Field::InPort.full());
        match self.megaflows.admission(&mask, key) {
            Admission::Now if may_keep() => {
                self.megaflows.insert(&mask, key, decision, &self.changes);
            }
            Admission::Never => self.keep(key, decision, may_keep),
            Admission::Now | Admission::Later => {}
        }
        Some(decision)
    }

    /// Remembers the decision for this flow, if it isn't asked about for the first time.
    fn keep(&mut self, key: &FlowKey, decision: u32, may_keep: &mut impl FnMut() -> bool) {
        if self.exact.admits(key) && may_keep() {
            self.exact.insert(key, decision, &self.changes);
        }
    }

    /// The decisions of the frames whose bits are set in `wanted`; returns those that are not known.
    #[inline(always)]
    pub fn lookup_burst(&mut self, keys: &[KeySlot], wanted: u32, out: &mut [u32; BURST_MAX]) -> u32 {
        self.exact.lookup_burst(keys, wanted, &self.changes, out)
    }

    /// A decision known for all frames that look like this one as far as any rule looked.
    pub fn megaflow(&mut self, key: &FlowKey, may_keep: &mut impl FnMut() -> bool) -> Option<u32> {
        let decision = self.megaflows.lookup(key, &self.changes)?;
        self.keep(key, decision, may_keep);
        Some(decision)
    }

    /// Finds or makes the decision for `self.verdict`. `None` when there is no room: [`make_room`] first.
    ///
    /// [`make_room`]: Self::make_room
    fn remember(&mut self) -> Option<u32> {
        let verdict = &self.verdict;
        let mut hasher = DefaultHasher::new();
        (&verdict.rules, verdict.outcome as u8).hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(&known) = self.by_rules.get(&hash)
            && self.rules_of(known) == verdict.rules
            && self.ops_of(known) == verdict.ops
        {
            return Some(known);
        }
        if self.decisions.len() == self.sizes.verdicts as usize
            || self.ops.len() + verdict.ops.len() > self.ops.capacity()
            || self.rules.len() + verdict.rules.len() > self.rules.capacity()
        {
            return None;
        }
        let kind = match (verdict.outcome, verdict.ops.as_slice()) {
            (Outcome::Limit, _) => Kind::Drop(DropReason::PipelineLimit),
            (Outcome::NoRule, []) => Kind::Drop(DropReason::NoRule),
            (Outcome::Done, []) => Kind::Drop(DropReason::Rule),
            (_, [Op::Output(port)]) => Kind::Output(PortId(*port)),
            (_, [Op::Normal]) => Kind::Normal,
            _ => Kind::Program,
        };
        let index = self.decisions.len() as u32;
        let ops = (self.ops.len() as u32, verdict.ops.len() as u32);
        let rules = (self.rules.len() as u32, verdict.rules.len() as u32);
        self.ops.extend_from_slice(&verdict.ops);
        self.rules.extend_from_slice(&verdict.rules);
        self.decisions.push(Decision { kind, ops, rules, frames: 0, bytes: 0 });
        self.by_rules.insert(hash, index);
        Some(index)
    }

    /// Forgets everything, after crediting, so that the next verdict fits.
    #[cold]
    pub fn make_room(&mut self, rules: &dyn Rules, worker: usize, now_secs: u32) {
        self.credit(rules, worker, now_secs);
        self.forget();
    }

    /// The decision's kind, with these frames counted to it.
    #[inline(always)]
    pub fn hit(&mut self, decision: u32, frames: u64, bytes: u64) -> Kind {
        let d = &mut self.decisions[decision as usize];
        if d.frames == 0 {
            self.dirty.push(decision);
        }
        d.frames += frames;
        d.bytes += bytes;
        d.kind
    }

    /// The decision's operations.
    #[inline(always)]
    pub fn ops_of(&self, decision: u32) -> &[Op] {
        let (start, len) = self.decisions[decision as usize].ops;
        &self.ops[start as usize..][..len as usize]
    }

    fn rules_of(&self, decision: u32) -> &[u32] {
        let (start, len) = self.decisions[decision as usize].rules;
        &self.rules[start as usize..][..len as usize]
    }

    /// Passes what was counted on to the rules.
    pub fn credit(&mut self, rules: &dyn Rules, worker: usize, now_secs: u32) {
        while let Some(decision) = self.dirty.pop() {
            let d = &mut self.decisions[decision as usize];
            let (frames, bytes) = (std::mem::take(&mut d.frames), std::mem::take(&mut d.bytes));
            for &rule in self.rules_of(decision) {
                rules.credit(worker, rule, frames, bytes, now_secs);
            }
        }
    }
}
