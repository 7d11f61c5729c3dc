//! A cheap "certainly not" before a look-up.

use packet::copy::prefetch_read;

/// Bits per value held: about one look-up in sixteen that should be answered "no" isn't.
const BITS_PER_VALUE: usize = 16;
/// Most words: beyond half a million values the filter says "maybe" more and more often, but a change of rules
/// never copies more than this.
const WORDS_MAX: usize = 1 << 17;
const WORDS_MIN: usize = 4;

/// A set of hashes that forgets which they were (a Bloom filter with one bit a value). Values can't be removed.
#[derive(Clone)]
pub(crate) struct Filter {
    /// A power of two of them.
    bits: Box<[u64]>,
    held: usize,
}

impl Filter {
    /// An empty filter with room for `values`.
    pub fn for_values(values: usize) -> Filter {
        let words = (values * BITS_PER_VALUE).div_ceil(64).next_power_of_two().clamp(WORDS_MIN, WORDS_MAX);
        Filter { bits: vec![0; words].into(), held: 0 }
    }

    /// Values added, those added twice counted twice.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether it would answer better if it were made anew for what it holds.
    pub fn is_crowded(&self) -> bool {
        self.bits.len() < WORDS_MAX && self.held * BITS_PER_VALUE > self.bits.len() * 64
    }

    pub fn add(&mut self, hash: u64) {
        let (word, bit) = self.place(hash);
        self.bits[word] |= bit;
        self.held += 1;
    }

    /// Whether the hash may have been added. False is certain.
    #[inline(always)]
    pub fn may_hold(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        self.bits[word] & bit != 0
    }

    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch_read(self.bits.as_ptr().wrapping_add(self.place(hash).0).cast());
    }

    /// From the hash's high bits: the low ones are the way through the trie.
    #[inline(always)]
    fn place(&self, hash: u64) -> (usize, u64) {
        ((hash >> 32) as usize & (self.bits.len() - 1), 1 << (hash >> 58))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn what_was_added_is_never_denied_and_most_of_the_rest_is() {
        for values in [0, 1, 10, 1000, 100_000] {
            let mut filter = Filter::for_values(values);
            (0..values as u64).for_each(|n| filter.add(hash(n)));
            assert!((0..values as u64).all(|n| filter.may_hold(hash(n))));
            let taken_for_held = (0..10_000).filter(|n| filter.may_hold(hash(1_000_000 + n))).count();
            assert!(taken_for_held < 1000, "{taken_for_held} of 10000 with {values} held");
            assert!(!filter.is_crowded());
        }
    }

    #[test]
    fn a_filter_that_holds_more_than_it_was_made_for_says_so() {
        let mut filter = Filter::for_values(100);
        let mut n = 0;
        while !filter.is_crowded() {
            filter.add(hash(n));
            n += 1;
        }
        assert!((100..=256).contains(&filter.held()), "{} held", filter.held());
    }
}
