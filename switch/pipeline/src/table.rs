//! The rules of one table: a tuple space, persistent.
//!
//! Rules are grouped by mask; in a group, the masked key is looked up by hash. Groups are probed by falling
//! highest priority until no other can do better, so a look-up costs at most one probe per mask that the
//! operator's rules have, whatever the frames; most of those that find nothing are over after a hash and one bit
//! of a filter. The groups' maps are hash tries whose nodes are shared between
//! versions: a change copies the few nodes on the way to one leaf, and a snapshot copies nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use flow::{FlowKey, FlowMask, MaskWords, WORDS};
use packet::copy::prefetch_read;

use crate::filter::Filter;
use crate::rule::Rule;

/// Bits of the hash that choose a branch.
const RADIX_BITS: u32 = 4;
/// A leaf with more entries is split.
const LEAF_MAX: usize = 8;
/// Groups looked at together, so that waiting for their memory overlaps.
const STAGE: usize = 8;

/// A table as control keeps it.
#[derive(Default)]
pub(crate) struct Table {
    view: View,
    /// How many rules of each mask have each priority.
    priorities: HashMap<FlowMask, BTreeMap<u16, usize>>,
}

impl Table {
    pub fn insert(&mut self, rule: Arc<Rule>) {
        let mask = *rule.spec.match_.mask();
        *self.priorities.entry(mask).or_default().entry(rule.spec.priority).or_default() += 1;
        self.view.change(&mask, self.highest(&mask), |group| group.insert(rule));
    }

    pub fn remove(&mut self, rule: &Arc<Rule>) {
        let mask = *rule.spec.match_.mask();
        if let Some(priorities) = self.priorities.get_mut(&mask)
            && let Some(count) = priorities.get_mut(&rule.spec.priority)
        {
            *count -= 1;
            if *count == 0 {
                priorities.remove(&rule.spec.priority);
            }
            if priorities.is_empty() {
                self.priorities.remove(&mask);
            }
        }
        self.view.change(&mask, self.highest(&mask), |group| group.remove(rule));
    }

    /// The highest priority with this mask; none when there is no such rule.
    fn highest(&self, mask: &FlowMask) -> Option<u16> {
        self.priorities.get(mask)?.last_key_value().map(|(&priority, _)| priority)
    }

    /// The table as it is now.
    pub fn view(&self) -> View {
        self.view.clone()
    }
}

/// A table as snapshots keep it: a clone shares everything.
#[derive(Clone, Default)]
pub(crate) struct View {
    groups: Arc<Groups>,
}

#[derive(Clone, Default)]
struct Groups {
    /// By highest priority, falling.
    list: Vec<Arc<Group>>,
    /// For each of the list, what most frames fail at that none of its rules is for.
    screens: Vec<Screen>,
}

/// A look at two words of a key before a group is touched: where all its rules ask for the same bits, a frame must have
/// them. So most groups cost a frame that is none of theirs a few cycles, and no memory but this.
#[derive(Clone)]
struct Screen {
    /// Of the key's first word (port, Ethernet type, VLAN), and of the one at `place`.
    mask: [u64; 2],
    value: [u64; 2],
    /// The other word that the rules have most in common in.
    place: u8,
    /// As the group's.
    highest: u16,
}

impl Screen {
    #[inline(always)]
    fn lets_through(&self, key: &FlowKey) -> bool {
        let [first, other] = self.differences(key);
        first | other == 0
    }

    #[inline(always)]
    fn differences(&self, key: &FlowKey) -> [u64; 2] {
        let other = key.0[usize::from(self.place) % WORDS];
        [(key.0[0] ^ self.value[0]) & self.mask[0], (other ^ self.value[1]) & self.mask[1]]
    }

    /// Adds the bits that a key was not let through for, unless some of those seen already say so. Those of one nibble do:
    /// fewer bits serve more frames, and single ones would make many more different masks.
    #[inline(always)]
    fn add_reason(&self, key: &FlowKey, seen: &mut FlowMask) {
        let [first, other] = self.differences(key);
        let at = usize::from(self.place) % WORDS;
        if first & seen.0[0] | other & seen.0[at] != 0 {
            return;
        }
        let (place, differs, mask) = match first {
            0 => (at, other, self.mask[1]),
            _ => (0, first, self.mask[0]),
        };
        let highest = 63 & !3 & !differs.leading_zeros();
        seen.0[place] |= mask & 0xf << highest;
    }
}

impl View {
    /// Changes the group of this mask, whose highest priority is `highest` then; none removes it.
    fn change(&mut self, mask: &FlowMask, highest: Option<u16>, change: impl FnOnce(&mut Group)) {
        let groups = Arc::make_mut(&mut self.groups);
        let old = groups.list.iter().position(|group| group.mask == *mask);
        if let (Some(at), Some(highest)) = (old, highest)
            && groups.list[at].highest == highest
        {
            change(Arc::make_mut(&mut groups.list[at]));
            groups.screens[at] = groups.list[at].screen();
            return;
        }
        let old = old.map(|at| groups.list.remove(at));
        if let Some(highest) = highest {
            let mut group = old.unwrap_or_else(|| Arc::new(Group::new(*mask)));
            let changed = Arc::make_mut(&mut group);
            changed.highest = highest;
            change(changed);
            let at = groups.list.partition_point(|other| other.highest >= highest);
            groups.list.insert(at, group);
        }
        groups.list_anew();
    }

    /// The rule for this key; the bits looked at are added to `seen`. Of several of the same priority, any.
    pub fn find(&self, key: &FlowKey, seen: &mut FlowMask) -> Option<&Rule> {
        let mut best: Option<&Rule> = None;
        let Groups { list, screens } = &*self.groups;
        'stages: for (stage, screens) in list.chunks(STAGE).zip(screens.chunks(STAGE)) {
            let mut candidates = 0u32;
            for (i, (screen, group)) in screens.iter().zip(stage).enumerate() {
                if screen.lets_through(key) {
                    candidates |= 1 << i;
                    group.prefetch();
                }
            }
            let mut hashes = [0; STAGE];
            for (i, (hash, group)) in hashes.iter_mut().zip(stage).enumerate() {
                if candidates & 1 << i != 0 {
                    *hash = group.words.hash(key);
                    group.filter.prefetch(*hash);
                }
            }
            for (i, (&hash, screen)) in hashes.iter().zip(screens).enumerate() {
                if best.is_some_and(|best| best.spec.priority >= screen.highest) {
                    break 'stages;
                }
                if candidates & 1 << i == 0 {
                    screen.add_reason(key, seen);
                    continue;
                }
                stage[i].words.add_to(seen);
                if stage[i].filter.may_hold(hash)
                    && let Some(rule) = stage[i].find(hash, key)
                    && best.is_none_or(|best| best.spec.priority < rule.spec.priority)
                {
                    best = Some(rule);
                }
            }
        }
        best
    }
}

impl Groups {
    /// After the list has changed.
    fn list_anew(&mut self) {
        self.screens = self.list.iter().map(|group| group.screen()).collect();
    }
}

/// The rules of one mask.
#[derive(Clone)]
#[repr(C)] // What every look-up reads comes first.
struct Group {
    /// The hashes of its rules, and of some that are gone.
    filter: Filter,
    words: MaskWords,
    root: Arc<Node>,
    rules: usize,
    highest: u16,
    mask: FlowMask,
    /// A key that one of its rules is or was for, and the bits in which all others are or were the same.
    example: FlowKey,
    common: FlowMask,
}

#[derive(Clone)]
enum Node {
    /// Sorted by priority, falling.
    Leaf(Vec<Entry>),
    Branch([Option<Arc<Node>>; 1 << RADIX_BITS]),
}

#[derive(Clone)]
struct Entry {
    hash: u64,
    rule: Arc<Rule>,
}

impl Group {
    fn new(mask: FlowMask) -> Group {
        Group {
            words: MaskWords::new(&mask),
            filter: Filter::for_values(0),
            root: empty(),
            rules: 0,
            highest: 0,
            mask,
            example: FlowKey::default(),
            common: mask,
        }
    }

    /// Asks for what hashing takes: two lines, for masks of the usual few words.
    #[inline(always)]
    fn prefetch(&self) {
        let start: *const u8 = std::ptr::from_ref(self).cast();
        prefetch_read(start);
        prefetch_read(start.wrapping_add(64));
    }

    fn screen(&self) -> Screen {
        let place = (1..WORDS).max_by_key(|&w| self.common.0[w].count_ones()).unwrap_or_default();
        let words = [0, place];
        Screen {
            mask: words.map(|w| self.common.0[w]),
            value: words.map(|w| self.example.0[w] & self.common.0[w]),
            place: place as u8,
            highest: self.highest,
        }
    }

    fn find(&self, hash: u64, key: &FlowKey) -> Option<&Rule> {
        let (mut node, mut rest) = (&self.root, hash);
        while let Node::Branch(children) = &**node {
            node = children[branch(rest)].as_ref()?;
            rest >>= RADIX_BITS;
        }
        let Node::Leaf(entries) = &**node else { return None };
        let fits = |entry: &&Entry| entry.hash == hash && entry.rule.spec.match_.matches(key);
        entries.iter().find(fits).map(|entry| &*entry.rule)
    }

    fn insert(&mut self, rule: Arc<Rule>) {
        let key = rule.spec.match_.key();
        let hash = self.words.hash(key);
        if self.rules == 0 {
            self.example = *key;
        }
        for ((common, key), example) in self.common.0.iter_mut().zip(key.0).zip(self.example.0) {
            *common &= !(key ^ example);
        }
        insert(&mut self.root, 0, Entry { hash, rule });
        self.rules += 1;
        self.filter.add(hash);
        if self.filter.is_crowded() {
            self.refilter();
        }
    }

    fn remove(&mut self, rule: &Arc<Rule>) {
        let hash = self.words.hash(rule.spec.match_.key());
        remove(&mut self.root, hash, rule);
        self.rules -= 1;
        // Half of what the filter holds being gone pays for making it anew.
        if self.filter.held() > 2 * self.rules + 16 {
            self.refilter();
        }
    }

    /// Makes the filter anew, with room for as many rules again.
    fn refilter(&mut self) {
        self.filter = Filter::for_values(2 * self.rules);
        add_hashes(&self.root, &mut self.filter);
    }
}

fn add_hashes(node: &Node, filter: &mut Filter) {
    match node {
        Node::Leaf(entries) => entries.iter().for_each(|entry| filter.add(entry.hash)),
        Node::Branch(children) => children.iter().flatten().for_each(|child| add_hashes(child, filter)),
    }
}

fn branch(hash: u64) -> usize {
    hash as usize & ((1 << RADIX_BITS) - 1)
}

fn insert(node: &mut Arc<Node>, depth: u32, entry: Entry) {
    let node = Arc::make_mut(node);
    match node {
        Node::Branch(children) => {
            let child = children[branch(entry.hash >> (depth * RADIX_BITS))].get_or_insert_with(empty);
            insert(child, depth + 1, entry);
        }
        Node::Leaf(entries) => {
            let at = entries.partition_point(|other| other.rule.spec.priority >= entry.rule.spec.priority);
            entries.insert(at, entry);
            // Entries of one hash can't be told apart further down.
            let one_hash = entries.iter().all(|other| other.hash == entries[0].hash);
            if entries.len() > LEAF_MAX && !one_hash {
                let entries = std::mem::take(entries);
                let mut split = Arc::new(Node::Branch(Default::default()));
                for entry in entries {
                    insert(&mut split, depth, entry);
                }
                *node = Arc::unwrap_or_clone(split);
            }
        }
    }
}

fn empty() -> Arc<Node> {
    Arc::new(Node::Leaf(Vec::new()))
}

/// Removes the rule; says whether the node is empty then.
fn remove(node: &mut Arc<Node>, rest: u64, rule: &Arc<Rule>) -> bool {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            entries.retain(|entry| !Arc::ptr_eq(&entry.rule, rule));
            entries.is_empty()
        }
        Node::Branch(children) => {
            let child = &mut children[branch(rest)];
            if child.as_mut().is_some_and(|child| remove(child, rest >> RADIX_BITS, rule)) {
                *child = None;
            }
            children.iter().all(Option::is_none)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flow::Field;
    use flow_text::{FlowSpec, Match};
    use proptest::prelude::*;

    use super::*;
    use crate::rule::Reach;

    fn rule(slot: u32, priority: u16, match_: Match) -> Arc<Rule> {
        let spec = FlowSpec { priority, match_, ..FlowSpec::default() };
        Arc::new(Rule {
            slot,
            reach: Reach::of(&spec),
            spec,
            created: Duration::ZERO,
            modified: Duration::ZERO,
        })
    }

    fn match_of(shape: usize, value: u32) -> Match {
        let value = u128::from(value);
        match shape {
            0 => Match::default(),
            1 => Match::default().with(Field::InPort, value),
            2 => Match::default().with(Field::Ipv4Src, value).with(Field::TpDst, value % 7),
            _ => {
                let mut m = Match::default().with(Field::InPort, value % 5);
                m.set(Field::Ipv4Src, value, 0xffff_fff0);
                m
            }
        }
    }

    fn key(value: u32) -> FlowKey {
        let mut key = FlowKey::default();
        key.set(Field::InPort, value.into());
        key.set(Field::Ipv4Src, value.into());
        key.set(Field::TpDst, (value % 7).into());
        key
    }

    fn found(view: &View, value: u32) -> Option<u16> {
        view.find(&key(value), &mut FlowMask::default()).map(|rule| rule.spec.priority)
    }

    proptest! {
        #[test]
        fn the_best_of_all_rules_is_found(
            steps in prop::collection::vec((0usize..4, 0u32..400, 0u16..50, prop::bool::weighted(0.3)), 1..600),
        ) {
            let mut table = Table::default();
            let mut list: Vec<Arc<Rule>> = Vec::new();
            let mut older = (table.view(), list.clone());
            for (n, &(shape, value, priority, removes)) in steps.iter().enumerate() {
                if removes && !list.is_empty() {
                    let rule = list.swap_remove(value as usize % list.len());
                    table.remove(&rule);
                } else {
                    let rule = rule(n as u32, priority, match_of(shape, value));
                    table.insert(rule.clone());
                    list.push(rule);
                }
                if n == steps.len() / 2 {
                    older = (table.view(), list.clone());
                }
            }
            // A view taken earlier still shows what was there then.
            for (view, list) in [(&table.view(), &list), (&older.0, &older.1)] {
                for value in 0..400 {
                    let best = list.iter().filter(|rule| rule.spec.match_.matches(&key(value))).map(|rule| rule.spec.priority).max();
                    prop_assert_eq!(found(view, value), best);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn keys_that_agree_in_the_bits_seen_find_the_same(
            rules in prop::collection::vec((0usize..4, 0u32..40, 0u16..9), 1..60),
            keys in prop::collection::vec((0u32..48, any::<[u64; WORDS]>()), 1..60),
        ) {
            let mut table = Table::default();
            for (n, &(shape, value, priority)) in rules.iter().enumerate() {
                table.insert(rule(n as u32, priority, match_of(shape, value << 9)));
            }
            let view = table.view();
            let priority = |key: &FlowKey, seen: &mut FlowMask| view.find(key, seen).map(|rule| rule.spec.priority);
            for (value, noise) in keys {
                let (key, mut seen) = (key(value << 9), FlowMask::default());
                let found = priority(&key, &mut seen);
                let mut other = key;
                for ((word, noise), seen) in other.0.iter_mut().zip(noise).zip(seen.0) {
                    *word ^= noise & !seen;
                }
                prop_assert_eq!(priority(&other, &mut FlowMask::default()), found);
            }
        }
    }

    #[test]
    fn frames_of_none_of_a_groups_rules_share_what_was_seen() {
        let mut table = Table::default();
        for n in 0..200 {
            table.insert(rule(n, 5, match_of(2, 0xac10_0000 + n)));
        }
        let mut masks = std::collections::BTreeSet::new();
        for n in 0..4096u32 {
            let mut seen = FlowMask::default();
            assert!(table.view().find(&key(n.wrapping_mul(0x9e37_79b9)), &mut seen).is_none());
            masks.insert(seen.0);
        }
        assert!(masks.len() <= 4, "{}", masks.len());
        assert!(masks.iter().flatten().map(|word| word.count_ones()).sum::<u32>() <= 64);
    }

    #[test]
    fn only_groups_that_may_do_better_are_looked_at() {
        let mut table = Table::default();
        let low = rule(0, 1, match_of(2, 5));
        table.insert(low.clone());
        table.insert(rule(1, 9, match_of(1, 5)));
        let mut seen = FlowMask::default();
        table.view().find(&key(5), &mut seen);
        assert_eq!(seen, *match_of(1, 5).mask());
        let mut seen = FlowMask::default();
        table.view().find(&key(6), &mut seen);
        let other = *match_of(1, 5).mask();
        assert!(!other.contains(&seen), "what the other group could have matched was looked at");
        table.remove(&low);
        let mut seen = FlowMask::default();
        table.view().find(&key(6), &mut seen);
        assert!(other.contains(&seen), "a mask without rules is gone");
    }

    #[test]
    fn many_rules_of_one_match_stand_side_by_side() {
        let mut table = Table::default();
        let rules: Vec<_> =
            (0..100).map(|priority| rule(priority.into(), priority, match_of(1, 5))).collect();
        for rule in &rules {
            table.insert(rule.clone());
        }
        for (n, rule) in rules.iter().enumerate().rev() {
            assert_eq!(found(&table.view(), 5), Some(n as u16));
            table.remove(rule);
        }
        assert_eq!(found(&table.view(), 5), None);
    }
}
