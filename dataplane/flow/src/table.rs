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
    /// 0 for a free slot.
    tags: [u16; SLOTS],
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
        Self { tags: [0; SLOTS], records: [0; SLOTS], generation, spilled: 0, reserved: [0; 2] }
    }

    /// One bit for each slot with this tag.
    #[inline(always)]
    fn matching(&self, tag: u16) -> u32 {
        (0..SLOTS).fold(0, |bits, slot| bits | ((self.tags[slot] == tag) as u32) << slot)
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
    fn from(&self, at: usize) -> &[u64] {
        &self.words[self.base + at..]
    }

    #[inline(always)]
    fn from_mut(&mut self, at: usize) -> &mut [u64] {
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
        (self.buckets.words.len() + self.records.words.len()) * 8
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
            self.buckets.from(bucket as usize * LINE_WORDS).first_chunk().expect("a bucket in use");
        transmute_ref!(line)
    }

    #[inline(always)]
    fn bucket_mut(&mut self, bucket: u32) -> &mut Bucket {
        let line: &mut [u64; LINE_WORDS] =
            self.buckets.from_mut(bucket as usize * LINE_WORDS).first_chunk_mut().expect("a bucket in use");
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
        &self.records.from(record as usize * self.stride)[..self.stride]
    }

    #[inline(always)]
    pub(crate) fn record_mut(&mut self, record: u32) -> &mut [u64] {
        let stride = self.stride;
        &mut self.records.from_mut(record as usize * stride)[..stride]
    }

    /// The first record whose tag is the hash's, or [`NONE`]: nearly always the one that is looked for.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: u64) -> u32 {
        let bucket = self.bucket(self.first(hash));
        if bucket.generation != self.generation {
            return NONE;
        }
        let matching = bucket.matching(tag(hash));
        if matching != 0 {
            return bucket.records[matching.trailing_zeros() as usize % SLOTS];
        }
        if bucket.spilled != 0 { self.candidate_in_second(hash) } else { NONE }
    }

    #[inline(never)]
    fn candidate_in_second(&self, hash: u64) -> u32 {
        let bucket = self.bucket(self.second(hash));
        if bucket.generation != self.generation {
            return NONE;
        }
        let matching = bucket.matching(tag(hash));
        if matching != 0 { bucket.records[matching.trailing_zeros() as usize % SLOTS] } else { NONE }
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
        let mut matching = bucket.matching(tag(hash));
        while matching != 0 {
            let record = bucket.records[matching.trailing_zeros() as usize % SLOTS];
            if is_it(self.record(record)) {
                return record;
            }
            matching &= matching - 1;
        }
        NONE
    }

    /// Makes a record for a key that isn't there, to be filled by the caller, at another entry's expense when
    /// the table or both buckets are full. `None` when it is full and has nothing to give up there.
    pub(crate) fn place(&mut self, hash: u64) -> Option<Placed> {
        if self.len >= self.used as usize * LOAD && self.used as usize * LOAD < self.capacity {
            self.split();
        }
        let generation = self.generation;
        let (first, second) = (self.first(hash), self.second(hash));
        for bucket in [first, second] {
            let bucket = self.bucket_mut(bucket);
            if bucket.generation != generation {
                *bucket = Bucket::empty(generation);
            }
        }
        let placed = if self.len < self.capacity { self.place_in_free_slot(first, second) } else { None };
        let (bucket, slot, record, evicted) = match placed {
            Some((bucket, slot)) => {
                self.len += 1;
                (bucket, slot, self.len as u32 - 1, false)
            }
            None => {
                let (bucket, slot) = self.victim(first, second)?;
                (bucket, slot, self.bucket(bucket).records[slot], true)
            }
        };
        let place = self.bucket_mut(bucket);
        place.tags[slot] = tag(hash);
        place.records[slot] = record;
        if bucket != first {
            self.bucket_mut(first).spilled = 1;
        }
        self.record_mut(record)[HASH_WORD] = hash;
        Some(Placed { record, evicted })
    }

    fn place_in_free_slot(&self, first: u32, second: u32) -> Option<(u32, usize)> {
        [first, second].into_iter().find_map(|bucket| {
            let free = self.bucket(bucket).matching(0);
            (free != 0).then(|| (bucket, free.trailing_zeros() as usize))
        })
    }

    /// A random entry of the first bucket, or of the second when that has none. Random needs no note of who was
    /// used when, and no pattern of traffic defeats it altogether.
    fn victim(&mut self, first: u32, second: u32) -> Option<(u32, usize)> {
        self.random = self.random.wrapping_mul(0x915f_77f5).wrapping_add(0x2545_f491);
        let start = self.random >> 29;
        [first, second].into_iter().find_map(|bucket| {
            let taken = !self.bucket(bucket).matching(0) & 0xff;
            let turned = (taken | taken << 8) >> start;
            (taken != 0).then(|| (bucket, (start + turned.trailing_zeros()) as usize % SLOTS))
        })
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
        for slot in (0..SLOTS).filter(|&slot| old.tags[slot] != 0) {
            let hash = self.record(old.records[slot])[HASH_WORD];
            let first = self.first(hash);
            let home = if first == old_at || first == new_at { first } else { self.second(hash) };
            let half = (home == new_at) as usize;
            halves[half].tags[filled[half]] = old.tags[slot];
            halves[half].records[filled[half]] = old.records[slot];
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
