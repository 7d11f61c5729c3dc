//! The control side: changing rules.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flow::{Field, FlowMask};
use flow_text::{Action, Counters, FlowChange, FlowFilter, FlowSpec, Instructions, MAX_TABLE, Match};

use crate::RuleSlot;
use crate::rule::{Reach, Rule, add_vlans};
use crate::snapshot::{Concern, REMEMBERED, Snapshot};
use crate::stats::{Credit, RuleStats, SLOTS_MAX};
use crate::table::Table;

/// Most changes in one step that are remembered one by one; of more, only that anything may have changed.
const CONCERNS_MAX: usize = 256;

/// A change of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowMod {
    /// Adds a rule, in place of one of the same table, match and priority.
    Add(FlowSpec),
    /// Changes what rules do. They keep their age; hard timeouts start anew (as in Open vSwitch).
    Modify {
        /// Which, and what to.
        change: FlowChange,
        /// Only the one of this very match and priority.
        strict: bool,
    },
    /// Removes rules.
    Delete {
        /// Which.
        filter: FlowFilter,
        /// Only the one of this very match and priority.
        strict: bool,
    },
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Tables are 0 to 254.
    #[error("there is no table {0}; the last one is {MAX_TABLE}")]
    NoTable(u8),
    /// `goto_table` has to lead forward.
    #[error("goto_table:{to} in table {from}: it goes on in a later table, up to {MAX_TABLE}")]
    GotoTable {
        /// The rule's table.
        from: u8,
        /// Where it goes on.
        to: u8,
    },
    /// `resubmit` can't be in the action set.
    #[error("resubmit is not an action of the action set")]
    NotInSet,
    /// `check_overlap` was asked for.
    #[error("another flow of table {table} and priority {priority} matches some of the same frames")]
    Overlap {
        /// The table of both.
        table: u8,
        /// The priority of both.
        priority: u16,
    },
    /// No place for another rule.
    #[error("there are {SLOTS_MAX} flows already")]
    Full,
}

/// A list of changes is refused, as a whole: nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change {index}: {error}")]
pub struct Refused {
    /// The first change that can't be made, counted from 0.
    pub index: usize,
    /// Why.
    pub error: TableError,
}

/// How many rules a list of changes touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Added, replacements included.
    pub added: usize,
    /// Modified.
    pub modified: usize,
    /// Removed, replaced ones not counted.
    pub removed: usize,
}

/// Why a rule is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No frame for `idle_timeout` seconds.
    Idle,
    /// `hard_timeout` seconds have passed.
    Hard,
}

/// A rule that has run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedRule {
    /// The rule.
    pub spec: FlowSpec,
    /// Why it went.
    pub why: Why,
    /// What it had counted.
    pub counters: Counters,
}

/// A rule as `dump-flows` shows it.
#[derive(Clone, Copy, Debug)]
pub struct RuleView<'a> {
    /// The rule.
    pub spec: &'a FlowSpec,
    /// Its place in [`RuleStats`].
    pub slot: RuleSlot,
    /// What it has counted.
    pub counters: Counters,
}

/// A rule with its times, for another process to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// The rule.
    pub spec: FlowSpec,
    /// When it was added.
    pub created: Duration,
    /// When it was added or last modified.
    pub modified: Duration,
}

/// What identifies a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    table: u8,
    priority: u16,
    match_: Match,
}

impl Identity {
    fn of(spec: &FlowSpec) -> Identity {
        Identity { table: spec.table, priority: spec.priority, match_: spec.match_ }
    }
}

/// How to take a step back.
enum Undo {
    /// Put this rule (back) where it stood.
    Put(Arc<Rule>),
    /// Remove the rule that was put.
    Take(Arc<Rule>),
}

/// The rules of one bridge.
pub struct Tables {
    tables: Vec<Table>,
    rules: HashMap<Identity, Arc<Rule>>,
    /// Identities of rules with a timeout.
    timed: HashSet<Identity>,
    looks: Counted,
    writes: Counted,
    /// Bits that rules of the current snapshot write.
    written: FlowMask,
    stats: Arc<RuleStats>,
    slots: u32,
    free: Vec<RuleSlot>,
    /// Slots of removed rules, with the first version that doesn't have them.
    retired: VecDeque<(u64, RuleSlot)>,
    version: u64,
    snapshot: Arc<Snapshot>,
}

impl Tables {
    /// Tables without rules, with counters for this many workers.
    pub fn new(workers: usize) -> Tables {
        let stats = Arc::new(RuleStats::new(workers));
        Tables {
            tables: Vec::new(),
            rules: HashMap::new(),
            timed: HashSet::new(),
            looks: Counted::default(),
            writes: Counted::default(),
            written: FlowMask::default(),
            slots: 0,
            free: Vec::new(),
            retired: VecDeque::new(),
            version: 0,
            snapshot: Arc::new(Snapshot {
                version: 0,
                tables: Box::default(),
                fields: FlowMask::default(),
                stats: stats.clone(),
                recent: VecDeque::new(),
            }),
            stats,
        }
    }

    /// Tables of a bridge that was given no rules: one of the lowest priority does `NORMAL`.
    pub fn with_default_normal(workers: usize) -> Tables {
        let mut tables = Tables::new(workers);
        let normal = FlowSpec {
            priority: 0,
            instructions: Instructions::apply([Action::Normal]),
            ..FlowSpec::default()
        };
        let added = tables.apply(&[FlowMod::Add(normal)], Duration::ZERO);
        assert!(added.is_ok(), "an empty table has room for a rule");
        tables
    }

    /// The rules as they are now. Costs nothing but a count.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// The version of the [snapshot](Self::snapshot); a list of changes that changes something makes it one more.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<RuleStats> {
        &self.stats
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Makes all these changes, one after the other, or none of them.
    ///
    /// # Errors
    /// The first change that can't be made.
    pub fn apply(&mut self, changes: &[FlowMod], now: Duration) -> Result<Applied, Refused> {
        let mut step = Step::default();
        for (index, change) in changes.iter().enumerate() {
            let done = match change {
                FlowMod::Add(spec) => self.add(spec, now, &mut step),
                FlowMod::Modify { change, strict } => self.modify(change, *strict, now, &mut step),
                FlowMod::Delete { filter, strict } => {
                    for rule in self.chosen(filter, *strict) {
                        self.take(&Identity::of(&rule.spec), &mut step);
                        step.applied.removed += 1;
                    }
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.roll_back(step);
                return Err(Refused { index, error });
            }
        }
        let applied = step.applied;
        self.publish(step);
        Ok(applied)
    }

    /// Removes the rules whose time has run out.
    pub fn expire(&mut self, now: Duration) -> Vec<RemovedRule> {
        let mut step = Step::default();
        let mut removed = Vec::new();
        let due: Vec<(Identity, Why)> =
            self.timed.iter().filter_map(|id| Some((*id, self.due(self.rules.get(id)?, now)?))).collect();
        for (id, why) in due {
            if let Some(rule) = self.take(&id, &mut step) {
                removed.push(RemovedRule {
                    spec: rule.spec.clone(),
                    why,
                    counters: self.counters(&rule, now),
                });
            }
        }
        self.publish(step);
        removed
    }

    fn due(&self, rule: &Rule, now: Duration) -> Option<Why> {
        let (hard, idle) = (rule.spec.hard_timeout, rule.spec.idle_timeout);
        let passed =
            |from: Duration, timeout: u16| timeout != 0 && now >= from + Duration::from_secs(timeout.into());
        if passed(rule.modified, hard) {
            return Some(Why::Hard);
        }
        // Counters are read last: most rules are not old enough anyway.
        let idle = passed(rule.created, idle) && passed(self.last_used(rule), idle);
        idle.then_some(Why::Idle)
    }

    /// The end of the second in which a frame was last counted, or when the rule was added.
    fn last_used(&self, rule: &Rule) -> Duration {
        let credit = self.stats.read(rule.slot);
        match credit.frames {
            0 => rule.created,
            _ => Duration::from_secs(u64::from(credit.last_used) + 1).max(rule.created),
        }
    }

    fn counters(&self, rule: &Rule, now: Duration) -> Counters {
        let credit = self.stats.read(rule.slot);
        Counters {
            age: now.saturating_sub(rule.created),
            frames: credit.frames,
            bytes: credit.bytes,
            idle_seconds: now.saturating_sub(self.last_used(rule)).as_secs(),
        }
    }

    /// The rules that a (non-strict) filter chooses, by table and priority, with their counters.
    pub fn dump(&self, filter: &FlowFilter, now: Duration) -> Vec<RuleView<'_>> {
        let mut views: Vec<RuleView<'_>> = self
            .rules
            .values()
            .filter(|rule| chooses(filter, &rule.spec))
            .map(|rule| RuleView { spec: &rule.spec, slot: rule.slot, counters: self.counters(rule, now) })
            .collect();
        // Equal in both: in the order in which they were added, as far as slots tell.
        views.sort_by_key(|view| (view.spec.table, std::cmp::Reverse(view.spec.priority), view.slot));
        views
    }

    /// All rules with what they have counted, in the order of [`dump`](Self::dump): the same as long as no rule
    /// comes, goes or changes.
    pub fn saved(&self) -> Vec<(SavedRule, Credit)> {
        let mut rules: Vec<&Arc<Rule>> = self.rules.values().collect();
        rules.sort_by_key(|rule| (rule.spec.table, std::cmp::Reverse(rule.spec.priority), rule.slot));
        let saved = |rule: &Arc<Rule>| SavedRule {
            spec: rule.spec.clone(),
            created: rule.created,
            modified: rule.modified,
        };
        rules.into_iter().map(|rule| (saved(rule), self.stats.read(rule.slot))).collect()
    }

    /// Adds rules as they were saved, with their times.
    ///
    /// # Errors
    /// The first rule that can't stand; nothing has changed then.
    pub fn restore(&mut self, rules: &[SavedRule]) -> Result<(), Refused> {
        let mut step = Step::default();
        for (index, SavedRule { spec, created, modified }) in rules.iter().enumerate() {
            let place = match spec.table {
                0..=MAX_TABLE => check(spec.table, &spec.instructions),
                table => Err(TableError::NoTable(table)),
            };
            match place.and_then(|()| self.new_slot(&mut step)) {
                Ok(slot) => {
                    let (spec, created, modified) = (spec.clone(), *created, *modified);
                    self.put(Rule { slot, reach: Reach::of(&spec), spec, created, modified }, &mut step);
                }
                Err(error) => {
                    self.roll_back(step);
                    return Err(Refused { index, error });
                }
            }
        }
        self.publish(step);
        Ok(())
    }

    /// Adds to what the rule of this table, priority and match has counted, as if worker 0 had. Only while no worker
    /// counts; returns whether there is such a rule.
    pub fn add_credit(&self, spec: &FlowSpec, credit: Credit) -> bool {
        let Some(rule) = self.rules.get(&Identity::of(spec)) else { return false };
        if credit.frames > 0 {
            self.stats.add(0, rule.slot, credit.frames, credit.bytes, credit.last_used);
        }
        true
    }

    /// Slots of rules removed before `version` may be used again: every worker holds a snapshot of it or a later
    /// one.
    pub fn release_retired(&mut self, version: u64) {
        while let Some((_, slot)) = self.retired.pop_front_if(|(removed, _)| *removed <= version) {
            self.free.push(slot);
        }
    }

    fn add(&mut self, spec: &FlowSpec, now: Duration, step: &mut Step) -> Result<(), TableError> {
        if spec.table > MAX_TABLE {
            return Err(TableError::NoTable(spec.table));
        }
        check(spec.table, &spec.instructions)?;
        let id = Identity::of(spec);
        let overlaps = |other: &Identity| {
            *other != id
                && (other.table, other.priority) == (id.table, id.priority)
                && other.match_.overlaps(&id.match_)
        };
        let same = self.rules.get(&id).map(|rule| rule.slot);
        if spec.flags.check_overlap && self.rules.keys().any(overlaps) {
            return Err(TableError::Overlap { table: spec.table, priority: spec.priority });
        }
        let slot = match same {
            Some(slot) if !spec.flags.reset_counts => slot,
            _ => self.new_slot(step)?,
        };
        self.put(
            Rule { slot, reach: Reach::of(spec), spec: spec.clone(), created: now, modified: now },
            step,
        );
        step.applied.added += 1;
        Ok(())
    }

    fn modify(
        &mut self,
        change: &FlowChange,
        strict: bool,
        now: Duration,
        step: &mut Step,
    ) -> Result<(), TableError> {
        for rule in self.chosen(&change.filter, strict) {
            let mut spec = rule.spec.clone();
            spec.instructions = change.instructions.clone();
            spec.cookie = change.cookie.unwrap_or(spec.cookie);
            check(spec.table, &spec.instructions)?;
            let slot = if change.reset_counts { self.new_slot(step)? } else { rule.slot };
            self.put(
                Rule { slot, reach: Reach::of(&spec), spec, created: rule.created, modified: now },
                step,
            );
            step.applied.modified += 1;
        }
        Ok(())
    }

    fn chosen(&self, filter: &FlowFilter, strict: bool) -> Vec<Arc<Rule>> {
        if !strict {
            return self.rules.values().filter(|rule| chooses(filter, &rule.spec)).cloned().collect();
        }
        let tables = filter.table.map_or(0..=MAX_TABLE, |table| table..=table);
        tables
            .filter_map(|table| {
                self.rules.get(&Identity { table, priority: filter.priority, match_: filter.match_ })
            })
            .filter(|rule| chooses(filter, &rule.spec))
            .cloned()
            .collect()
    }

    fn new_slot(&mut self, step: &mut Step) -> Result<RuleSlot, TableError> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots as usize == SLOTS_MAX => return Err(TableError::Full),
            None => {
                self.slots += 1;
                self.slots - 1
            }
        };
        self.stats.clear(slot);
        step.taken.push(slot);
        Ok(slot)
    }

    /// Puts a rule into its table, in place of one of the same identity.
    fn put(&mut self, rule: Rule, step: &mut Step) {
        let rule = Arc::new(rule);
        step.undo.push(match self.place(rule.clone()) {
            Some(old) => {
                if old.slot != rule.slot {
                    step.given_up.push(old.slot);
                }
                Undo::Put(old)
            }
            None => Undo::Take(rule.clone()),
        });
        step.note(&rule.spec.match_);
    }

    /// Removes a rule from its table.
    fn take(&mut self, id: &Identity, step: &mut Step) -> Option<Arc<Rule>> {
        let rule = self.displace(id)?;
        step.note(&rule.spec.match_);
        step.given_up.push(rule.slot);
        step.undo.push(Undo::Put(rule.clone()));
        Some(rule)
    }

    fn place(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let id = Identity::of(&rule.spec);
        let old = self.displace(&id);
        let table = usize::from(id.table);
        if self.tables.len() <= table {
            self.tables.resize_with(table + 1, Table::default);
        }
        self.looks.add(rule.reach.looks);
        self.writes.add(rule.reach.writes);
        if rule.spec.idle_timeout != 0 || rule.spec.hard_timeout != 0 {
            self.timed.insert(id);
        }
        self.tables[table].insert(rule.clone());
        self.rules.insert(id, rule);
        old
    }

    fn displace(&mut self, id: &Identity) -> Option<Arc<Rule>> {
        let rule = self.rules.remove(id)?;
        self.timed.remove(id);
        self.tables[usize::from(id.table)].remove(&rule);
        self.looks.remove(&rule.reach.looks);
        self.writes.remove(&rule.reach.writes);
        Some(rule)
    }

    fn roll_back(&mut self, step: Step) {
        for undo in step.undo.into_iter().rev() {
            match undo {
                Undo::Put(rule) => {
                    self.place(rule);
                }
                Undo::Take(rule) => {
                    self.displace(&Identity::of(&rule.spec));
                }
            }
        }
        // No snapshot has named them.
        self.free.extend(step.taken);
    }

    /// Makes the snapshot after a step.
    fn publish(&mut self, step: Step) {
        if step.undo.is_empty() {
            return;
        }
        self.version += 1;
        self.retired.extend(step.given_up.iter().map(|&slot| (self.version, slot)));
        let mut fields = self.looks.union();
        let moved = self.writes.union();
        // What was written before counts as well: frames were decided under it.
        let mut written = std::mem::replace(&mut self.written, moved);
        written.union(&moved);
        let mut vlans = FlowMask::default();
        add_vlans(&mut vlans);
        // Where tags are pushed or popped, a look at one of them may be a look at the other; where TTLs are
        // decremented, a look at one bit is a look at all.
        let among = |field| fields.get(field) != 0 && moved.get(field) != 0;
        let (tags, ttl) = (among(Field::VlanTci) || among(Field::VlanTci2), among(Field::IpTtl));
        if tags {
            fields.union(&vlans);
        }
        if ttl {
            fields.add(Field::IpTtl, Field::IpTtl.full());
        }
        let mut recent = self.snapshot.recent.clone();
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back((self.version, step.concerns(&written)));
        self.snapshot = Arc::new(Snapshot {
            version: self.version,
            tables: self.tables.iter().map(Table::view).collect(),
            fields,
            stats: self.stats.clone(),
            recent,
        });
    }
}

/// A list of changes in the making.
#[derive(Default)]
struct Step {
    applied: Applied,
    undo: Vec<Undo>,
    /// Slots taken for new rules.
    taken: Vec<RuleSlot>,
    /// Slots of rules that went.
    given_up: Vec<RuleSlot>,
    /// Matches of rules that came, went or changed.
    touched: Vec<Match>,
}

impl Step {
    fn note(&mut self, m: &Match) {
        // One more than can be remembered says that there were too many.
        if self.touched.len() <= CONCERNS_MAX {
            self.touched.push(*m);
        }
    }

    /// What frames look like on arrival that may be decided otherwise now; `written` are bits that rules change.
    fn concerns(&self, written: &FlowMask) -> Arc<[Concern]> {
        if self.touched.len() > CONCERNS_MAX {
            return [Concern::default()].into();
        }
        let on_arrival = |m: &Match| {
            let mut mask = *m.mask();
            for (mask, written) in mask.0.iter_mut().zip(written.0) {
                *mask &= !written;
            }
            (m.key().masked(&mask), mask)
        };
        self.touched.iter().map(on_arrival).collect()
    }
}

/// Masks with how many rules have each, and their union.
#[derive(Default)]
struct Counted {
    counts: HashMap<FlowMask, usize>,
    union: FlowMask,
    /// A mask is gone: the union may be too large.
    stale: bool,
}

impl Counted {
    fn add(&mut self, mask: FlowMask) {
        *self.counts.entry(mask).or_default() += 1;
        self.union.union(&mask);
    }

    fn remove(&mut self, mask: &FlowMask) {
        if let Some(count) = self.counts.get_mut(mask) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(mask);
                self.stale = true;
            }
        }
    }

    fn union(&mut self) -> FlowMask {
        if std::mem::take(&mut self.stale) {
            self.union = FlowMask::default();
            for mask in self.counts.keys() {
                self.union.union(mask);
            }
        }
        self.union
    }
}

/// Whether a filter, used non-strictly, means this rule.
fn chooses(filter: &FlowFilter, spec: &FlowSpec) -> bool {
    filter.table.is_none_or(|table| table == spec.table)
        && filter.cookie.is_none_or(|(value, mask)| spec.cookie & mask == value & mask)
        && filter.out_port.is_none_or(|port| spec.instructions.outputs_to(port))
        && filter.match_.covers(&spec.match_)
}

/// Whether these instructions can stand in this table.
fn check(table: u8, instructions: &Instructions) -> Result<(), TableError> {
    if let Some(to) = instructions.goto_table
        && (to <= table || to > MAX_TABLE)
    {
        return Err(TableError::GotoTable { from: table, to });
    }
    for action in &instructions.apply {
        if let Action::Resubmit { table: Some(to), .. } = *action
            && to > MAX_TABLE
        {
            return Err(TableError::NoTable(to));
        }
    }
    if instructions.write.iter().any(|action| matches!(action, Action::Resubmit { .. })) {
        return Err(TableError::NotInSet);
    }
    Ok(())
}
