//! The hash table under the caches: bounded, without allocation after construction, compact while it holds
//! little.
//!
//! Buckets are cache lines of eight tags and record numbers; records lie densely in another array, so memory in
//! use follows the number of entries and not the capacity (both arrays are zero pages until touched). A key may
//! be in two buckets: its first, and when that was full its second; a flag in the first says whether any of its
//! keys had to go there. The number of buckets grows one by one with the entries (linear hashing), so that no
//! insertion ever pauses for a rehash and a thousand flows stay in the nearest cache.

use packet::copy::prefetch_read;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut, transmute_ref};

const SLOTS: usize = 8;
/// Entries per bucket that the table aims at.
const LOAD: usize = 4;
const BUCKETS_MIN: u32 = 8;
/// Places for hashes that asked to be admitted, at least.
const DOOR_MIN: usize = 1 << 16;
const LINE_WORDS: usize = 8;
/// Hash bits: 0-23 choose the first bucket, 24-47 the second, 48-63 are the tag.
const ADDRESS_BITS: u32 = 24;
/// Most records of a table.
pub(crate) const CAPACITY_MAX: usize = LOAD << (ADDRESS_BITS - 1);

/// No record.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Bucket {
    /// Four a word, the first in the lowest bits; 0 for a free slot.
    tags: [u64; 2],
    records: [u32; SLOTS],
    /// The bucket is empty, whatever it holds, when this isn't the table's.
    generation: u32,
    /// Not 0: a key of this bucket may be in its second one.
    spilled: u32,
    reserved: [u32; 2],
}
const _: () = assert!(size_of::<Bucket>() == LINE_WORDS * 8);

impl Bucket {
    fn empty(generation: u32) -> Self {
        Self { tags: [0; 2], records: [0; SLOTS], generation, spilled: 0, reserved: [0; 2] }
    }

    /// The slots with this tag: all tags of a word compared at once.
    #[inline(always)]
    fn matching(&self, tag: u16) -> Matching {
        const LOW_BITS: u64 = 0x7fff_7fff_7fff_7fff;
        let wanted = tag as u64 * 0x0001_0001_0001_0001;
        let [low, high] = self.tags.map(|tags| {
            // The top bit of a lane stays clear only where all its bits are: adding never carries out of it.
            let differs = tags ^ wanted;
            !(((differs & LOW_BITS) + LOW_BITS) | differs) & !LOW_BITS
        });
        Matching(low >> 15 | high >> 14)
    }

    fn tag(&self, slot: usize) -> u16 {
        (self.tags[slot / 4] >> (slot % 4 * 16)) as u16
    }

    fn set(&mut self, slot: usize, tag: u16, record: u32) {
        let shift = slot % 4 * 16;
        let word = &mut self.tags[slot / 4];
        *word = *word & !(0xffff << shift) | (tag as u64) << shift;
        self.records[slot] = record;
    }
}

/// Slots of a bucket. Bits 0, 16, 32, 48 are slots 0 to 3, the next higher ones 4 to 7.
#[derive(Clone, Copy)]
struct Matching(u64);

impl Iterator for Matching {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        (self.0 != 0).then(|| {
            self.0 &= self.0 - 1;
            (bit >> 4 | (bit & 1) << 2) % SLOTS
        })
    }
}

/// Words in whole cache lines. Zero pages until written.
struct Lines {
    words: Vec<u64>,
    base: usize,
}

impl Lines {
    fn new(lines: usize) -> Self {
        // Asking for aligned memory would have the allocator write zeros all over it.
        let words = vec![0u64; (lines + 1) * LINE_WORDS];
        let base = words.as_ptr().align_offset(LINE_WORDS * 8);
        Self { words, base }
    }

    #[inline(always)]
    fn tail(&self, at: usize) -> &[u64] {
        &self.words[self.base + at..]
    }

    #[inline(always)]
    fn tail_mut(&mut self, at: usize) -> &mut [u64] {
        &mut self.words[self.base + at..]
    }

    #[inline(always)]
    fn prefetch(&self, at: usize) {
        prefetch_read(self.words.as_ptr().wrapping_add(self.base + at).cast());
    }
}

pub(crate) struct Table {
    buckets: Lines,
    records: Lines,
    /// The tags of hashes that asked to be admitted, each in the place its low bits say: the last one of each place.
    door: Vec<u16>,
    /// Words from one record to the next.
    stride: usize,
    capacity: usize,
    len: usize,
    /// Buckets in use, between `wide / 2 + 1` and `wide + 1`.
    used: u32,
    wide: u32,
    generation: u32,
    random: u32,
}

/// Word of a record that holds its hash; the other is the cache's, the key's follow.
const HASH_WORD: usize = 1;
/// Words of a record before its key.
pub(crate) const KEY_WORD: usize = 2;

/// What became of an insertion.
pub(crate) struct Placed {
    pub(crate) record: u32,
    /// Whether another entry had to go for it.
    pub(crate) evicted: bool,
}

impl Table {
    /// A table of up to `capacity` records of up to `key_words_max` words.
    pub(crate) fn new(capacity: usize, key_words_max: usize) -> Self {
        let capacity = capacity.clamp(1, CAPACITY_MAX);
        let buckets = capacity.div_ceil(LOAD).max(BUCKETS_MIN as usize);
        let record_words = capacity * stride(key_words_max);
        let mut table = Self {
            buckets: Lines::new(buckets),
            records: Lines::new(record_words.div_ceil(LINE_WORDS)),
            door: vec![0; capacity.next_power_of_two().max(DOOR_MIN)],
            stride: stride(key_words_max),
            capacity,
            len: 0,
            used: BUCKETS_MIN,
            wide: BUCKETS_MIN - 1,
            generation: 0,
            random: 1,
        };
        table.clear();
        table
    }

    /// Forgets all entries; records have this many key words from now on. Costs nothing.
    pub(crate) fn rebuild(&mut self, key_words: usize) {
        self.stride = stride(key_words);
        self.clear();
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.used = BUCKETS_MIN;
        self.wide = BUCKETS_MIN - 1;
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            // Once in four billion: buckets of the first generation would come to life again.
            self.buckets.words.fill(0);
            self.generation = 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes reserved; touched are only those of entries once held.
    pub(crate) fn reserved_bytes(&self) -> usize {
        (self.buckets.words.len() + self.records.words.len()) * 8 + self.door.len() * 2
    }

    #[inline(always)]
    fn address(&self, bits: u64) -> u32 {
        let address = bits as u32 & self.wide;
        if address < self.used { address } else { address & (self.wide >> 1) }
    }

    #[inline(always)]
    fn first(&self, hash: u64) -> u32 {
        self.address(hash & ((1 << ADDRESS_BITS) - 1))
    }

    #[inline(always)]
    fn second(&self, hash: u64) -> u32 {
        self.address(hash >> ADDRESS_BITS & ((1 << ADDRESS_BITS) - 1))
    }

    #[inline(always)]
    fn bucket(&self, bucket: u32) -> &Bucket {
        let line: &[u64; LINE_WORDS] =
            self.buckets.tail(bucket as usize * LINE_WORDS).first_chunk().expect("a bucket in use");
        transmute_ref!(line)
    }

    #[inline(always)]
    fn bucket_mut(&mut self, bucket: u32) -> &mut Bucket {
        let line: &mut [u64; LINE_WORDS] =
            self.buckets.tail_mut(bucket as usize * LINE_WORDS).first_chunk_mut().expect("a bucket in use");
        transmute_mut!(line)
    }

    #[inline(always)]
    pub(crate) fn prefetch_bucket(&self, hash: u64) {
        self.buckets.prefetch(self.first(hash) as usize * LINE_WORDS);
    }

    #[inline(always)]
    pub(crate) fn prefetch_record(&self, record: u32) {
        self.records.prefetch(record as usize * self.stride);
    }

    #[inline(always)]
    pub(crate) fn record(&self, record: u32) -> &[u64] {
        &self.records.tail(record as usize * self.stride)[..self.stride]
    }

    #[inline(always)]
    pub(crate) fn record_mut(&mut self, record: u32) -> &mut [u64] {
        let stride = self.stride;
        &mut self.records.tail_mut(record as usize * stride)[..stride]
    }

    /// The first record whose tag is the hash's, or [`NONE`]: nearly always the one that is looked for.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: u64) -> u32 {
        let bucket = self.bucket(self.first(hash));
        if bucket.generation != self.generation {
            return NONE;
        }
        if let Some(slot) = bucket.matching(tag(hash)).next() {
            return bucket.records[slot];
        }
        if bucket.spilled != 0 { self.candidate_in_second(hash) } else { NONE }
    }

    #[inline(never)]
    fn candidate_in_second(&self, hash: u64) -> u32 {
        let bucket = self.bucket(self.second(hash));
        if bucket.generation != self.generation {
            return NONE;
        }
        bucket.matching(tag(hash)).next().map_or(NONE, |slot| bucket.records[slot])
    }

    /// The record for which `is_it` holds, or [`NONE`].
    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&[u64]) -> bool) -> u32 {
        let first = self.bucket(self.first(hash));
        if first.generation != self.generation {
            return NONE;
        }
        let found = self.find_in(first, hash, &is_it);
        if found != NONE || first.spilled == 0 {
            return found;
        }
        let second = self.bucket(self.second(hash));
        if second.generation == self.generation { self.find_in(second, hash, &is_it) } else { NONE }
    }

    #[inline(always)]
    fn find_in(&self, bucket: &Bucket, hash: u64, is_it: &impl Fn(&[u64]) -> bool) -> u32 {
        let mut records = bucket.matching(tag(hash)).map(|slot| bucket.records[slot]);
        records.find(|&record| is_it(self.record(record))).unwrap_or(NONE)
    }

    /// Whether this hash asked before, not too many others ago. Traffic that never says the same twice is kept out so, with
    /// one access to little memory, and neither takes the places of others nor wears out the processor's caches.
    pub(crate) fn admits(&mut self, hash: u64) -> bool {
        let place = hash as usize & (self.door.len() - 1);
        if self.door[place] == tag(hash) {
            return true;
        }
        // Two that ask in turn at one place would keep each other out for ever, if each always took it.
        if self.random() & 1 != 0 {
            self.door[place] = tag(hash);
        }
        false
    }

    /// Makes a record for a key that isn't there, to be filled by the caller; at another entry's expense when the
    /// table is full, or both buckets are and none of their entries can move.
    pub(crate) fn place(&mut self, hash: u64) -> Placed {
        if self.len >= self.used as usize * LOAD && self.used as usize * LOAD < self.capacity {
            self.split();
        }
        let (first, second) = (self.first(hash), self.second(hash));
        self.freshen(first);
        self.freshen(second);
        let mut evicted = true;
        let (bucket, slot, record) = match self.place_in_free_slot(first, second) {
            None => {
                let slot = self.random() % SLOTS;
                (first, slot, self.bucket(first).records[slot])
            }
            Some((bucket, slot)) if self.len == self.capacity => (bucket, slot, self.evict()),
            Some((bucket, slot)) => {
                evicted = false;
                self.len += 1;
                (bucket, slot, self.len as u32 - 1)
            }
        };
        self.bucket_mut(bucket).set(slot, tag(hash), record);
        if bucket != first {
            self.bucket_mut(first).spilled = 1;
        }
        self.record_mut(record)[HASH_WORD] = hash;
        Placed { record, evicted }
    }

    /// Takes a random record from its entry. Random needs no note of who was used when, and no pattern of traffic
    /// defeats it altogether.
    fn evict(&mut self) -> u32 {
        let record = (self.random() % self.len) as u32;
        let hash = self.record(record)[HASH_WORD];
        for bucket in [self.first(hash), self.second(hash)] {
            let bucket = self.bucket_mut(bucket);
            let held =
                (0..SLOTS).find(|&slot| bucket.records[slot] == record && bucket.tag(slot) == tag(hash));
            if let Some(slot) = held {
                bucket.set(slot, 0, 0);
                return record;
            }
        }
        unreachable!("record {record} is in neither of its buckets");
    }

    fn random(&mut self) -> usize {
        // An xorshift generator: quality doesn't matter, cost does.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random as usize
    }

    fn place_in_free_slot(&mut self, first: u32, second: u32) -> Option<(u32, usize)> {
        [first, second]
            .into_iter()
            .find_map(|bucket| Some((bucket, self.free_slot(bucket)?)))
            .or_else(|| self.vacate(first))
            .or_else(|| self.vacate(second))
    }

    fn free_slot(&self, bucket: u32) -> Option<usize> {
        self.bucket(bucket).matching(0).next()
    }

    /// Moves one entry of a full bucket to the other bucket it may be in, if any of them has room there.
    fn vacate(&mut self, full: u32) -> Option<(u32, usize)> {
        for slot in 0..SLOTS {
            let record = self.bucket(full).records[slot];
            let hash = self.record(record)[HASH_WORD];
            let (first, second) = (self.first(hash), self.second(hash));
            let other = if first == full { second } else { first };
            self.freshen(other);
            let Some(free) = self.free_slot(other) else { continue };
            self.bucket_mut(other).set(free, tag(hash), record);
            if other != first {
                self.bucket_mut(first).spilled = 1;
            }
            return Some((full, slot));
        }
        None
    }

    /// Empties the bucket if it is one of an earlier generation.
    fn freshen(&mut self, bucket: u32) {
        let generation = self.generation;
        let bucket = self.bucket_mut(bucket);
        if bucket.generation != generation {
            *bucket = Bucket::empty(generation);
        }
    }

    /// Brings one more bucket into use and moves to it what now belongs there.
    fn split(&mut self) {
        if self.used > self.wide {
            self.wide = self.wide * 2 + 1;
        }
        let (old_at, new_at) = (self.used & (self.wide >> 1), self.used);
        self.used += 1;
        let old = *self.bucket(old_at);
        if old.generation != self.generation {
            return;
        }
        let mut halves = [Bucket::empty(self.generation); 2];
        // Keys of either half may be in second buckets: nobody knows which.
        halves[0].spilled = old.spilled;
        halves[1].spilled = old.spilled;
        let mut filled = [0; 2];
        for slot in (0..SLOTS).filter(|&slot| old.tag(slot) != 0) {
            let hash = self.record(old.records[slot])[HASH_WORD];
            let first = self.first(hash);
            let home = if first == old_at || first == new_at { first } else { self.second(hash) };
            let half = (home == new_at) as usize;
            halves[half].set(filled[half], old.tag(slot), old.records[slot]);
            filled[half] += 1;
        }
        *self.bucket_mut(old_at) = halves[0];
        *self.bucket_mut(new_at) = halves[1];
    }
}

#[inline(always)]
fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// Words of a record with this many key words: a divisor of a cache line or whole lines.
fn stride(key_words: usize) -> usize {
    match key_words + KEY_WORD {
        0..=4 => 4,
        words => words.next_multiple_of(LINE_WORDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn insert(table: &mut Table, hash: u64, key: u64) -> Placed {
        let placed = table.place(hash);
        table.record_mut(placed.record)[KEY_WORD] = key;
        placed
    }

    fn find(table: &Table, hash: u64, key: u64) -> bool {
        table.find(hash, |record| record[KEY_WORD] == key) != NONE
    }

    #[test]
    fn sixteen_keys_of_one_hash_fit_and_the_next_takes_the_place_of_one() {
        let mut table = Table::new(1000, 1);
        // First and second bucket differ.
        let hash = 0xbeef_0000_0300_0001;
        for key in 0..16 {
            assert!(!insert(&mut table, hash, key).evicted);
        }
        assert!((0..16).all(|key| find(&table, hash, key)));
        assert!(insert(&mut table, hash, 16).evicted);
        assert!(find(&table, hash, 16));
        assert_eq!((0..17).filter(|&key| find(&table, hash, key)).count(), 16);
        assert_eq!(table.len(), 16);
    }

    #[test]
    fn an_entry_moves_to_its_other_bucket_for_one_that_has_no_choice() {
        let mut table = Table::new(1000, 1);
        // Buckets 1 and 2, then bucket 1 and nothing else.
        for key in 0..8 {
            insert(&mut table, 0x0001_0000_0200_0001 | key << 48, key);
        }
        let placed = insert(&mut table, 0x0001_0000_0100_0001, 100);
        assert!(!placed.evicted);
        assert!(find(&table, 0x0001_0000_0100_0001, 100));
        assert!((0..8).all(|key| find(&table, 0x0001_0000_0200_0001 | key << 48, key)));
    }

    #[test]
    fn a_generation_that_comes_round_does_not_bring_entries_back() {
        let mut table = Table::new(1000, 1);
        insert(&mut table, 5, 5);
        let old = table.generation;
        table.generation = u32::MAX;
        table.clear();
        assert_eq!(table.generation, old);
        assert!(!find(&table, 5, 5));
    }

    proptest! {
        /// Few different hashes, so that buckets overflow and tags agree.
        #[test]
        fn entries_are_found_unless_evicted_and_never_mistaken(
            capacity in 1usize..200,
            keys in proptest::collection::vec((any::<bool>(), 0u64..400), 1..400),
            spread in 1u64..64,
        ) {
            let mut table = Table::new(capacity, 1);
            let mut records = std::collections::HashMap::new();
            for (clear, key) in keys {
                if clear && key == 0 {
                    table.clear();
                    records.clear();
                }
                let hash = (key % spread).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if find(&table, hash, key) {
                    continue;
                }
                let placed = insert(&mut table, hash, key);
                let before = records.insert(placed.record, (hash, key));
                prop_assert_eq!(before.is_some(), placed.evicted);
                prop_assert!(table.len() <= capacity && table.len() == records.len());
                for &(hash, key) in records.values() {
                    prop_assert!(find(&table, hash, key));
                }
            }
        }
    }
}
