//! The words of a key that a mask looks at, and their hash.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use crate::{FlowKey, FlowMask, WORDS};

/// Random numbers of this process, so that nobody can aim collisions at it.
static SEEDS: LazyLock<[u64; WORDS + 2]> = LazyLock::new(|| {
    let random = RandomState::new();
    std::array::from_fn(|i| random.hash_one(i))
});

/// A [`FlowMask`] as the list of words it has bits in: hashing and comparing keys touch only those.
#[derive(Clone, Debug)]
#[repr(C)] // So that a mask of few words is in few cache lines.
pub struct MaskWords {
    seeds: &'static [u64; WORDS + 2],
    len: u8,
    /// Places in a key, ascending.
    index: [u8; WORDS],
    mask: [u64; WORDS],
}

impl MaskWords {
    /// Lists the words of `mask`.
    pub fn new(mask: &FlowMask) -> Self {
        let mut words = Self { seeds: &SEEDS, len: 0, index: [0; WORDS], mask: [0; WORDS] };
        for (index, &mask) in mask.0.iter().enumerate().filter(|(_, mask)| **mask != 0) {
            words.index[words.len()] = index as u8;
            words.mask[words.len()] = mask;
            words.len += 1;
        }
        words
    }

    /// How many words: 0 to [`WORDS`].
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "a mask of no words is one like any other")]
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// The mask.
    pub fn mask(&self) -> FlowMask {
        let mut mask = FlowMask::default();
        self.add_to(&mut mask);
        mask
    }

    /// Adds the mask's bits to another mask.
    #[inline]
    pub fn add_to(&self, mask: &mut FlowMask) {
        for j in 0..self.len() {
            mask.0[self.index[j] as usize] |= self.mask[j];
        }
    }

    /// Place and mask of listed word `j`.
    #[inline(always)]
    pub(crate) fn place(&self, j: usize) -> (usize, u64) {
        (self.index[j] as usize, self.mask[j])
    }

    /// The key's listed word `j`, masked.
    #[inline(always)]
    pub fn word(&self, key: &FlowKey, j: usize) -> u64 {
        key.0[self.index[j] as usize] & self.mask[j]
    }

    /// Hash of the key's masked words.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hash_first::<0>(key)
    }

    /// As [`hash`](Self::hash) when there are `N` words (0: as many as there are), so that the loop unrolls.
    ///
    /// Pairs of words are xored with secret numbers, multiplied to 128 bits and folded; the products don't wait
    /// for each other.
    #[inline(always)]
    pub(crate) fn hash_first<const N: usize>(&self, key: &FlowKey) -> u64 {
        let len = self.count::<N>();
        let mut sum = self.seeds[WORDS];
        let mut j = 0;
        while j + 1 < len {
            let pair = fold(self.word(key, j) ^ self.seeds[j], self.word(key, j + 1) ^ self.seeds[j + 1]);
            sum = sum.wrapping_add(pair);
            j += 2;
        }
        if j < len {
            sum = sum.wrapping_add(fold(self.word(key, j) ^ self.seeds[j], self.seeds[j + 1]));
        }
        fold(sum, self.seeds[WORDS + 1] | 1)
    }

    /// Whether the key's masked words are these.
    #[inline(always)]
    pub(crate) fn equals<const N: usize>(&self, key: &FlowKey, words: &[u64]) -> bool {
        let len = self.count::<N>();
        let words = &words[..len];
        (0..len).fold(0, |differs, j| differs | self.word(key, j) ^ words[j]) == 0
    }

    #[inline(always)]
    fn count<const N: usize>(&self) -> usize {
        if N == 0 { self.len() } else { N }
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Field;
    use std::collections::HashSet;

    fn mask(fields: &[Field]) -> FlowMask {
        let mut mask = FlowMask::default();
        for &field in fields {
            mask.add(field, field.full());
        }
        mask
    }

    #[test]
    fn only_bits_of_the_mask_decide() {
        let words = MaskWords::new(&mask(&[Field::EthDst, Field::TpDst, Field::Ipv6Dst]));
        assert_eq!(words.len(), 4);
        let mut a = FlowKey::default();
        a.set(Field::EthDst, 77);
        let mut b = a;
        b.set(Field::EthSrc, 1);
        b.set(Field::TpSrc, 1);
        b.set(Field::VlanTci2, 1);
        assert_eq!(words.hash(&a), words.hash(&b));
        b.set(Field::TpDst, 1);
        assert_ne!(words.hash(&a), words.hash(&b));
        assert_eq!(words.mask(), mask(&[Field::EthDst, Field::TpDst, Field::Ipv6Dst]));
    }

    #[test]
    fn neighbouring_keys_spread_over_the_low_and_the_high_bits() {
        let words = MaskWords::new(&mask(&[Field::InPort, Field::Ipv4Src, Field::Ipv4Dst, Field::TpDst]));
        let mut low = HashSet::new();
        let mut high = HashSet::new();
        for i in 0..4096u128 {
            let mut key = FlowKey::default();
            key.set(Field::Ipv4Src, 0x0a00_0000 + i % 64);
            key.set(Field::TpDst, i / 64);
            let hash = words.hash(&key);
            low.insert(hash & 0xffff);
            high.insert(hash >> 48);
        }
        // 4096 random draws of 65,536 leave about 3,970 different ones.
        assert!(low.len() > 3850 && high.len() > 3850, "{} {}", low.len(), high.len());
    }
}
