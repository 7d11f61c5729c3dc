//! Decisions for all frames that look alike as far as the rules looked.

use crate::changes::Changes;
use crate::table::{KEY_WORD, NONE, Table};
use crate::{FlowKey, FlowMask, MaskWords, WORDS};

/// Look-ups from one ranking of the masks to the next: rare enough to cost nothing, often enough to follow the
/// traffic.
const RANK_EVERY: u32 = 4096;
/// Masks whose buckets are fetched together.
const STAGE: usize = 8;

/// The second cache: a decision with the mask of the bits it was made from, so that it serves every frame with
/// the same ones.
///
/// A tuple space whose masks are derived from traffic, so their number is capped: a miss costs at most that many
/// probes, whatever anybody sends, and what doesn't fit is refused and left to the rules. The masks hit most are
/// probed first; when there are as many as may be, those not hit for some thousand look-ups make room. Entries are
/// bounded too: when they are used up, a random one goes. No allocation after construction.
///
/// ```
/// use flow::{Changes, Field, FlowKey, FlowMask, Megaflows};
///
/// let (mut megaflows, changes) = (Megaflows::new(16, 1024), Changes::new());
/// let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
/// mask.add(Field::TpDst, Field::TpDst.full());
/// key.set(Field::TpDst, 80);
/// assert!(megaflows.insert(&mask, &key, 7, &changes));
/// key.set(Field::TpSrc, 4242); // No rule looked there.
/// assert_eq!(megaflows.lookup(&key, &changes), Some(7));
/// key.set(Field::TpDst, 81);
/// assert_eq!(megaflows.lookup(&key, &changes), None);
/// ```
pub struct Megaflows {
    table: Table,
    /// Most used first, as of the last ranking.
    masks: Vec<Mask>,
    masks_max: usize,
    /// Name of the next mask. Never used twice, so that entries of a mask given up match none.
    next_name: u64,
    /// Until the masks are ranked.
    lookups_left: u32,
    epoch: u64,
}

/// Whether a decision is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes: it was asked about before, lately.
    Now,
    /// Not the first time.
    Later,
    /// Its mask is one more than there may be.
    Never,
}

struct Mask {
    words: MaskWords,
    /// Tells masks apart without looking at all of their words, nearly always.
    fingerprint: u64,
    name: u64,
    /// Since the last ranking.
    hits: u32,
}

/// Where a record holds the name of its mask and, behind it, the masked words.
const NAME_WORD: usize = KEY_WORD;
const FIRST_WORD: usize = KEY_WORD + 1;

impl Megaflows {
    /// Reserves memory for `capacity` entries of at most `masks_max` different masks.
    pub fn new(masks_max: usize, capacity: usize) -> Self {
        Self {
            table: Table::new(capacity, WORDS + 1),
            masks: Vec::with_capacity(masks_max),
            masks_max,
            next_name: 0,
            lookups_left: RANK_EVERY,
            epoch: 0,
        }
    }

    /// Forgets all entries and masks; takes no time.
    pub fn clear(&mut self) {
        self.table.clear();
        self.masks.clear();
    }

    /// Entries held, those included that changes or a mask given up have made worthless since.
    #[expect(clippy::len_without_is_empty, reason = "a figure for statistics")]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Masks in use.
    pub fn masks(&self) -> usize {
        self.masks.len()
    }

    /// The decision for a key, if one is known that is still good. At most one probe per mask in use.
    pub fn lookup(&mut self, key: &FlowKey, changes: &Changes) -> Option<u32> {
        let seen = self.seen(changes);
        self.lookups_left -= 1;
        if self.lookups_left == 0 {
            self.rank();
        }
        for masks in self.masks.chunks_mut(STAGE) {
            let mut hashes = [0; STAGE];
            for (hash, mask) in hashes.iter_mut().zip(&*masks) {
                *hash = mask.hash(key);
                self.table.prefetch_bucket(*hash);
            }
            for (&hash, mask) in hashes.iter().zip(masks) {
                let at = mask.find(&self.table, hash, key);
                if at == NONE {
                    continue;
                }
                let record = self.table.record(at);
                let (decision, since) = (record[0] as u32, record[0] >> 32);
                if since != seen && changes.concern(self.epoch + since, &mask.words, &record[FIRST_WORD..]) {
                    // Another mask's entry may have been made since.
                    continue;
                }
                self.table.record_mut(at)[0] = seen << 32 | decision as u64;
                mask.hits += 1;
                return Some(decision);
            }
        }
        None
    }

    /// Whether it is worth keeping a decision for all keys that agree with this one in the bits of `mask`.
    pub fn admission(&mut self, mask: &FlowMask, key: &FlowKey) -> Admission {
        let Some(i) = self.mask(mask) else { return Admission::Never };
        let hash = self.masks[i].hash(key);
        if self.table.admits(hash) { Admission::Now } else { Admission::Later }
    }

    /// Keeps a decision, good as of now for every key that agrees with this one in the bits of `mask`. Returns
    /// false when it can't, for being the first of a mask more than there may be.
    pub fn insert(&mut self, mask: &FlowMask, key: &FlowKey, decision: u32, changes: &Changes) -> bool {
        let seen = self.seen(changes);
        let Some(i) = self.mask(mask) else { return false };
        let mask = &self.masks[i];
        let (words, hash) = (&mask.words, mask.hash(key));
        let mut at = mask.find(&self.table, hash, key);
        if at == NONE {
            at = self.table.place(hash).record;
            let record = self.table.record_mut(at);
            record[NAME_WORD] = mask.name;
            for j in 0..words.len() {
                record[FIRST_WORD + j] = words.word(key, j);
            }
        }
        self.table.record_mut(at)[0] = seen << 32 | decision as u64;
        true
    }

    #[cold]
    fn rank(&mut self) {
        self.lookups_left = RANK_EVERY;
        self.masks.sort_unstable_by_key(|mask| std::cmp::Reverse(mask.hits));
        if self.masks.len() == self.masks_max {
            self.masks.retain(|mask| mask.hits > 0);
        }
        for mask in &mut self.masks {
            mask.hits = 0;
        }
    }

    fn mask(&mut self, mask: &FlowMask) -> Option<usize> {
        let fingerprint = fingerprint(mask);
        let known = self
            .masks
            .iter()
            .position(|known| known.fingerprint == fingerprint && known.words.mask() == *mask);
        if known.is_some() || self.masks.len() == self.masks_max {
            return known;
        }
        // It counts as hit once: it is new, not unused.
        self.masks.push(Mask { fingerprint, words: MaskWords::new(mask), name: self.next_name, hits: 1 });
        self.next_name += 1;
        Some(self.masks.len() - 1)
    }

    /// As in the exact cache: changes counted in the 32 bits that entries have for it.
    fn seen(&mut self, changes: &Changes) -> u64 {
        match changes.count().checked_sub(self.epoch) {
            Some(seen) if seen <= u32::MAX as u64 => seen,
            _ => {
                self.clear();
                self.epoch = changes.count();
                0
            }
        }
    }
}

impl Mask {
    /// Masks have hashes of their own, lest keys that agree where two masks overlap crowd the same bucket.
    #[inline(always)]
    fn hash(&self, key: &FlowKey) -> u64 {
        self.words.hash(key) ^ self.name.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[inline(always)]
    fn find(&self, table: &Table, hash: u64, key: &FlowKey) -> u32 {
        table.find(hash, |record| {
            record[NAME_WORD] == self.name && self.words.equals::<0>(key, &record[FIRST_WORD..])
        })
    }
}

fn fingerprint(mask: &FlowMask) -> u64 {
    mask.0.iter().fold(0, |sum: u64, &word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Field;
    use proptest::prelude::*;

    fn mask(fields: &[Field]) -> FlowMask {
        let mut mask = FlowMask::default();
        for &field in fields {
            mask.add(field, field.full());
        }
        mask
    }

    fn key(port: u32, dst: u32, tp: u16) -> FlowKey {
        let mut key = FlowKey::default();
        key.set(Field::InPort, port.into());
        key.set(Field::Ipv4Dst, dst.into());
        key.set(Field::TpDst, tp.into());
        key
    }

    #[test]
    fn one_entry_serves_all_keys_that_agree_where_it_looked() {
        let changes = Changes::new();
        let mut megaflows = Megaflows::new(4, 100);
        assert!(megaflows.insert(&mask(&[Field::InPort]), &key(1, 2, 3), 7, &changes));
        assert_eq!(megaflows.lookup(&key(1, 99, 88), &changes), Some(7));
        assert_eq!(megaflows.lookup(&key(2, 2, 3), &changes), None);
        assert!(megaflows.insert(&mask(&[Field::InPort]), &key(1, 5, 5), 8, &changes));
        assert_eq!(megaflows.lookup(&key(1, 2, 3), &changes), Some(8), "decided later");
        assert_eq!((megaflows.len(), megaflows.masks()), (1, 1));
    }

    #[test]
    fn masks_beyond_the_cap_are_refused_and_nothing_else_suffers() {
        let changes = Changes::new();
        let mut megaflows = Megaflows::new(8, 100);
        let prefix = |bits: u32| {
            let mut mask = FlowMask::default();
            mask.add(Field::Ipv4Dst, !0 << bits & 0xffff_ffff);
            mask
        };
        for bits in 0..32 {
            assert_eq!(megaflows.insert(&prefix(bits), &key(1, 1 << bits, 0), bits, &changes), bits < 8);
        }
        assert_eq!(megaflows.masks(), 8);
        assert!((0..8).all(|bits| megaflows.lookup(&key(1, 1 << bits, 0), &changes) == Some(bits)));
    }

    #[test]
    fn masks_no_longer_hit_make_room_and_their_entries_are_dead() {
        let changes = Changes::new();
        let mut megaflows = Megaflows::new(2, 100);
        let (used, unused, new) = (mask(&[Field::InPort]), mask(&[Field::Ipv4Dst]), mask(&[Field::TpDst]));
        megaflows.insert(&unused, &key(0, 5, 0), 5, &changes);
        megaflows.insert(&used, &key(1, 0, 0), 1, &changes);
        megaflows.rank();
        assert_eq!(megaflows.masks(), 2, "a new one isn't given up at once");
        assert_eq!(megaflows.lookup(&key(1, 0, 0), &changes), Some(1));
        megaflows.rank();
        assert_eq!(megaflows.masks(), 1);
        assert_eq!(megaflows.lookup(&key(9, 5, 0), &changes), None);
        assert!(megaflows.insert(&new, &key(0, 0, 3), 3, &changes));
        assert_eq!(megaflows.lookup(&key(9, 5, 3), &changes), Some(3));
        assert!(!megaflows.insert(&unused, &key(0, 5, 0), 5, &changes));
    }

    #[test]
    fn a_change_ends_the_entries_it_overlaps() {
        let mut changes = Changes::new();
        let mut megaflows = Megaflows::new(4, 100);
        let (port, dst) = (mask(&[Field::InPort]), mask(&[Field::InPort, Field::Ipv4Dst]));
        megaflows.insert(&port, &key(1, 0, 0), 1, &changes);
        megaflows.insert(&dst, &key(2, 5, 0), 2, &changes);
        changes.push(&key(0, 6, 0), &mask(&[Field::Ipv4Dst]));
        assert_eq!(megaflows.lookup(&key(1, 0, 0), &changes), None, "it may be for 6 too");
        assert_eq!(megaflows.lookup(&key(2, 5, 0), &changes), Some(2));
        changes.push_all();
        assert_eq!(megaflows.lookup(&key(2, 5, 0), &changes), None);
    }

    #[test]
    fn masks_hit_most_come_first_in_time() {
        let changes = Changes::new();
        let mut megaflows = Megaflows::new(3, 64);
        let (port, dst) = (mask(&[Field::InPort]), mask(&[Field::Ipv4Dst]));
        megaflows.insert(&port, &key(1, 0, 0), 1, &changes);
        megaflows.insert(&dst, &key(0, 1, 0), 2, &changes);
        for _ in 0..=RANK_EVERY {
            assert_eq!(megaflows.lookup(&key(0, 1, 0), &changes), Some(2));
        }
        assert_eq!(megaflows.masks[0].words.mask(), dst);
        assert_eq!(megaflows.lookup(&key(1, 0, 0), &changes), Some(1));
    }

    #[test]
    fn what_is_asked_about_twice_is_worth_keeping_and_random_traffic_is_not() {
        let mut megaflows = Megaflows::new(1, 1024);
        let port = mask(&[Field::InPort]);
        assert_eq!(megaflows.admission(&port, &key(1, 2, 3)), Admission::Later);
        assert_eq!(megaflows.admission(&port, &key(1, 9, 9)), Admission::Now, "the same where it matters");
        let dst = mask(&[Field::Ipv4Dst]);
        assert_eq!(megaflows.admission(&dst, &key(1, 2, 3)), Admission::Never);
        let admitted =
            (2..100_000).filter(|&n| megaflows.admission(&port, &key(n, 0, 0)) != Admission::Later);
        assert!(admitted.count() < 100);
    }

    proptest! {
        /// Against a list: what is found is what was last inserted for one of the matching entries.
        #[test]
        fn a_decision_found_is_one_that_was_made_for_such_a_key(
            steps in proptest::collection::vec((0usize..6, 0u32..4, 0u32..4, 0u16..4, 0u32..100), 1..200),
            capacity in 1usize..60,
        ) {
            let changes = Changes::new();
            let mut megaflows = Megaflows::new(3, capacity);
            let masks = [
                mask(&[Field::InPort]),
                mask(&[Field::Ipv4Dst]),
                mask(&[Field::InPort, Field::TpDst]),
                mask(&[Field::Ipv4Dst, Field::TpDst]),
                mask(&[]),
            ];
            let mut list: Vec<(usize, FlowKey, u32)> = Vec::new();
            for (shape, port, dst, tp, decision) in steps {
                let key = key(port, dst, tp);
                if let Some(mask) = masks.get(shape) {
                    if megaflows.insert(mask, &key, decision, &changes) {
                        list.retain(|(s, k, _)| *s != shape || !key.matches(k, mask));
                        list.push((shape, key.masked(mask), decision));
                        prop_assert!(megaflows.lookup(&key, &changes).is_some());
                    }
                } else {
                    megaflows.rank();
                }
                let found = megaflows.lookup(&key, &changes);
                let possible = list.iter().any(|(s, k, d)| key.matches(k, &masks[*s]) && Some(*d) == found);
                prop_assert!(possible || found.is_none());
                prop_assert!(megaflows.len() <= capacity && megaflows.masks() <= 3);
            }
        }
    }
}
