//! The exact-match cache: one hash, one bucket, one record.

use packet::BURST_MAX;

use crate::changes::Changes;
use crate::table::{KEY_WORD, NONE, Table};
use crate::{FlowKey, FlowMask, KeySlot, MaskWords, WORDS};

/// Decisions for frames seen before, found by the bits of the key that any rule of the bridge looks at.
///
/// One per worker and bridge. A decision is a number whose meaning is the caller's. Memory is reserved at
/// construction and touched as entries come; nothing is allocated later. When it is full, a random entry of the
/// same bucket goes.
///
/// ```
/// use flow::{Changes, ExactCache, Field, FlowKey, FlowMask};
///
/// let mut mask = FlowMask::default();
/// mask.add(Field::InPort, Field::InPort.full());
/// let (mut cache, mut changes) = (ExactCache::new(1024, &mask), Changes::new());
/// let mut key = FlowKey::default();
/// key.set(Field::InPort, 3);
/// cache.insert(&key, 42, &changes);
/// key.set(Field::TpDst, 80); // No rule looks there.
/// assert_eq!(cache.lookup(&key, &changes), Some(42));
/// changes.push(&key, &mask); // A rule for port 3 is new: what was decided before counts no more.
/// assert_eq!(cache.lookup(&key, &changes), None);
/// ```
pub struct ExactCache {
    mask: MaskWords,
    table: Table,
    /// What the 32 bits that entries keep of the change count are counted from.
    epoch: u64,
    evictions: u64,
}

/// First word of a record: decision in the low half, changes it has seen in the high half.
fn entry(decision: u32, seen: u32) -> u64 {
    (seen as u64) << 32 | decision as u64
}

impl ExactCache {
    /// Reserves memory for `capacity` entries whose keys are looked at through `mask`.
    pub fn new(capacity: usize, mask: &FlowMask) -> Self {
        let mask = MaskWords::new(mask);
        let mut table = Table::new(capacity, WORDS);
        table.rebuild(mask.len());
        Self { mask, table, epoch: 0, evictions: 0 }
    }

    /// Forgets all entries and looks through another mask from now on. Needed whenever a rule looks at a bit
    /// that no rule before it did.
    pub fn rebuild(&mut self, mask: &FlowMask) {
        self.mask = MaskWords::new(mask);
        self.table.rebuild(self.mask.len());
    }

    /// Forgets all entries; takes no time.
    pub fn clear(&mut self) {
        self.table.clear();
    }

    /// The mask that keys are looked at through.
    pub fn mask(&self) -> FlowMask {
        self.mask.mask()
    }

    /// Entries held, those included that changes have made worthless since.
    #[expect(clippy::len_without_is_empty, reason = "a figure for statistics")]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Most entries held.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Entries that had to go for others, since construction.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Bytes of address space reserved; memory is used as entries come.
    pub fn reserved_bytes(&self) -> usize {
        self.table.reserved_bytes()
    }

    /// Looks up the keys whose bits are set in `wanted`, writes their decisions to the same places of `out` and
    /// returns the bits of those it doesn't have.
    ///
    /// # Panics
    /// When `wanted` has a bit beyond `keys`.
    #[inline]
    pub fn lookup_burst(
        &mut self,
        keys: &[KeySlot],
        wanted: u32,
        changes: &Changes,
        out: &mut [u32; BURST_MAX],
    ) -> u32 {
        match self.mask.len() {
            1 => self.burst::<1>(keys, wanted, changes, out),
            2 => self.burst::<2>(keys, wanted, changes, out),
            3 => self.burst::<3>(keys, wanted, changes, out),
            4 => self.burst::<4>(keys, wanted, changes, out),
            5 => self.burst::<5>(keys, wanted, changes, out),
            _ => self.burst::<0>(keys, wanted, changes, out),
        }
    }

    /// The stages of [`lookup_burst`](Self::lookup_burst); each touches only what the one before prefetched.
    #[inline(never)]
    fn burst<const N: usize>(
        &mut self,
        keys: &[KeySlot],
        wanted: u32,
        changes: &Changes,
        out: &mut [u32; BURST_MAX],
    ) -> u32 {
        let seen = self.seen(changes);
        let mut hashes = [0u64; BURST_MAX];
        for i in bits(wanted) {
            hashes[i] = self.mask.hash_first::<N>(keys[i].key());
            self.table.prefetch_bucket(hashes[i]);
        }
        let mut candidates = [NONE; BURST_MAX];
        for i in bits(wanted) {
            candidates[i] = self.table.candidate(hashes[i]);
            if candidates[i] != NONE {
                self.table.prefetch_record(candidates[i]);
            }
        }
        let mut missing = 0;
        for i in bits(wanted) {
            let key = keys[i].key();
            let candidate = candidates[i];
            if candidate == NONE {
                missing |= 1 << i;
                continue;
            }
            let record = self.table.record(candidate);
            if self.mask.equals::<N>(key, &record[KEY_WORD..]) && (record[0] >> 32) as u32 == seen {
                out[i] = record[0] as u32;
                continue;
            }
            match self.lookup_slowly(key, hashes[i], seen, changes) {
                Some(decision) => out[i] = decision,
                None => missing |= 1 << i,
            }
        }
        missing
    }

    /// Looks up one key.
    pub fn lookup(&mut self, key: &FlowKey, changes: &Changes) -> Option<u32> {
        let seen = self.seen(changes);
        self.lookup_slowly(key, self.mask.hash(key), seen, changes)
    }

    /// For what the burst doesn't find at once: two keys with one tag, or changes to be compared with.
    #[inline(never)]
    fn lookup_slowly(&mut self, key: &FlowKey, hash: u64, seen: u32, changes: &Changes) -> Option<u32> {
        let at = self.table.find(hash, |record| self.mask.equals::<0>(key, &record[KEY_WORD..]));
        if at == NONE {
            return None;
        }
        let record = self.table.record(at);
        let (decision, since) = (record[0] as u32, (record[0] >> 32) as u32);
        if since != seen {
            if changes.concern(self.epoch + since as u64, &self.mask, &record[KEY_WORD..]) {
                return None;
            }
            self.table.record_mut(at)[0] = entry(decision, seen);
        }
        Some(decision)
    }

    /// Whether it is worth keeping a decision for this key: it was asked about before, lately.
    pub fn admits(&mut self, key: &FlowKey) -> bool {
        self.table.admits(self.mask.hash(key))
    }

    /// Keeps a decision that is good as of now. Takes the place of an earlier one for the same key.
    pub fn insert(&mut self, key: &FlowKey, decision: u32, changes: &Changes) {
        let seen = self.seen(changes);
        let hash = self.mask.hash(key);
        let found = self.table.find(hash, |record| self.mask.equals::<0>(key, &record[KEY_WORD..]));
        if found != NONE {
            self.table.record_mut(found)[0] = entry(decision, seen);
            return;
        }
        let placed = self.table.place(hash);
        self.evictions += placed.evicted as u64;
        let record = self.table.record_mut(placed.record);
        record[0] = entry(decision, seen);
        for j in 0..self.mask.len() {
            record[KEY_WORD + j] = self.mask.word(key, j);
        }
    }

    #[inline(always)]
    fn seen(&mut self, changes: &Changes) -> u32 {
        // After 2^32 changes, or with another bridge's: begin again, lest old entries look new.
        match changes.count().checked_sub(self.epoch).map(u32::try_from) {
            Some(Ok(seen)) => seen,
            _ => {
                self.clear();
                self.epoch = changes.count();
                0
            }
        }
    }
}

/// The numbers of the bits that are set.
#[inline(always)]
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        (set != 0).then(|| {
            set &= set - 1;
            bit as usize
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, extract};

    fn mask(fields: &[Field]) -> FlowMask {
        let mut mask = FlowMask::default();
        for &field in fields {
            mask.add(field, field.full());
        }
        mask
    }

    fn key(flow: u32) -> FlowKey {
        let mut key = FlowKey::default();
        key.set(Field::InPort, 1);
        key.set(Field::Ipv4Dst, flow.into());
        key.set(Field::EthSrc, 0xff);
        key
    }

    const FIELDS: &[Field] = &[Field::InPort, Field::EthDst, Field::Ipv4Dst, Field::TpDst];

    #[test]
    fn a_hundred_thousand_flows_are_all_held() {
        let changes = Changes::new();
        let mut cache = ExactCache::new(1 << 17, &mask(FIELDS));
        for flow in 0..100_000 {
            cache.insert(&key(flow), flow * 3, &changes);
        }
        assert_eq!((cache.len(), cache.evictions()), (100_000, 0));
        assert!((0..100_000).all(|flow| cache.lookup(&key(flow), &changes) == Some(flow * 3)));
        assert_eq!(cache.lookup(&key(100_000), &changes), None);
    }

    #[test]
    fn a_full_cache_keeps_its_bound_and_never_gives_a_wrong_answer() {
        let changes = Changes::new();
        let mut cache = ExactCache::new(1000, &mask(FIELDS));
        for flow in 0..20_000 {
            cache.insert(&key(flow), flow + 1, &changes);
            assert_eq!(cache.lookup(&key(flow), &changes), Some(flow + 1), "the newest is there");
        }
        let held = (0..20_000).filter(|&flow| match cache.lookup(&key(flow), &changes) {
            Some(decision) => {
                assert_eq!(decision, flow + 1);
                true
            }
            None => false,
        });
        assert_eq!(held.count(), cache.len());
        assert!(cache.len() <= 1000 && cache.len() > 900, "{} held", cache.len());
        assert_eq!(cache.len() as u64 + cache.evictions(), 20_000);
    }

    #[test]
    fn an_entry_inserted_again_is_replaced() {
        let changes = Changes::new();
        let mut cache = ExactCache::new(10, &mask(FIELDS));
        cache.insert(&key(1), 1, &changes);
        cache.insert(&key(1), 2, &changes);
        assert_eq!((cache.lookup(&key(1), &changes), cache.len()), (Some(2), 1));
    }

    #[test]
    fn a_cleared_cache_is_empty_and_usable() {
        let changes = Changes::new();
        let mut cache = ExactCache::new(5000, &mask(FIELDS));
        for round in 0..3 {
            for flow in 0..4000 {
                cache.insert(&key(flow), round, &changes);
            }
            assert!((0..4000).all(|flow| cache.lookup(&key(flow), &changes) == Some(round)));
            cache.clear();
            assert!((0..4000).all(|flow| cache.lookup(&key(flow), &changes).is_none()));
            assert_eq!(cache.len(), 0);
        }
    }

    #[test]
    fn a_rebuilt_cache_looks_through_its_new_mask() {
        let changes = Changes::new();
        let mut cache = ExactCache::new(100, &mask(&[Field::InPort]));
        cache.insert(&key(1), 1, &changes);
        assert_eq!(cache.lookup(&key(2), &changes), Some(1), "the address is not looked at");
        cache.rebuild(&mask(Field::ALL));
        assert_eq!(cache.lookup(&key(1), &changes), None);
        cache.insert(&key(1), 1, &changes);
        assert_eq!(cache.lookup(&key(2), &changes), None);
        assert_eq!(cache.mask(), mask(Field::ALL));
    }

    #[test]
    fn a_burst_is_answered_as_its_keys_one_by_one_and_only_those_wanted() {
        let changes = Changes::new();
        for fields in 0..=8 {
            let fields = &[
                Field::EthDst,
                Field::InPort,
                Field::TcpFlags,
                Field::IpProto,
                Field::Ipv4Src,
                Field::Ipv6Dst,
                Field::NdTarget,
                Field::ArpSha,
            ][..fields];
            let mut cache = ExactCache::new(1000, &mask(fields));
            let mut keys = vec![KeySlot::EMPTY; BURST_MAX];
            for (i, slot) in keys.iter_mut().enumerate() {
                let mut frame = [0u8; 60];
                frame[5] = i as u8;
                extract(&frame, 60, i as u32 % 3, slot);
                if i % 5 != 0 {
                    cache.insert(slot.key(), i as u32 + 100, &changes);
                }
            }
            let wanted = 0xff0f_3ffe;
            let mut out = [7; BURST_MAX];
            let missing = cache.lookup_burst(&keys, wanted, &changes, &mut out);
            for i in 0..BURST_MAX {
                let expected = cache.lookup(keys[i].key(), &changes).filter(|_| wanted >> i & 1 != 0);
                assert_eq!(expected.is_none() && wanted >> i & 1 != 0, missing >> i & 1 != 0);
                assert_eq!(out[i], expected.unwrap_or(7));
            }
        }
    }

    #[test]
    fn a_change_ends_what_it_concerns_and_the_rest_lives() {
        let mut changes = Changes::new();
        let mut cache = ExactCache::new(100, &mask(FIELDS));
        let mut slots = vec![KeySlot::EMPTY; 1];
        extract(&[0; 60], 60, 1, &mut slots[0]);
        cache.insert(slots[0].key(), 9, &changes);
        cache.insert(&key(1), 1, &changes);
        cache.insert(&key(2), 2, &changes);
        changes.push(&key(1), &mask(&[Field::Ipv4Dst]));
        let mut out = [0; BURST_MAX];
        assert_eq!(cache.lookup(&key(1), &changes), None);
        assert_eq!(cache.lookup(&key(2), &changes), Some(2));
        assert_eq!(cache.lookup_burst(&slots, 1, &changes, &mut out), 0);
        assert_eq!(out[0], 9);
        cache.insert(&key(1), 3, &changes);
        assert_eq!(cache.lookup(&key(1), &changes), Some(3), "decided after the change");
        changes.push_all();
        assert_eq!(cache.lookup_burst(&slots, 1, &changes, &mut out), 1);
        assert_eq!(cache.lookup(&key(2), &changes), None);
    }
}
