//! A short table in which the first match counts.

use crate::{FlowKey, FlowMask, WORDS};

/// Matches in order, each with what it stands for: for tables of a few dozen entries at most, all of which a look-up may
/// have to compare. An entry costs one comparison for each word of a key that it looks at.
#[derive(Clone, Debug, Default)]
pub struct OrderedMatches {
    entries: Vec<Entry>,
    terms: Vec<Term>,
    default: u8,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Past its last term.
    end: u16,
    value: u8,
}

/// A word of a key, the bits looked at, what they must be.
#[derive(Clone, Copy, Debug)]
struct Term {
    word: usize,
    mask: u64,
    wanted: u64,
}

impl OrderedMatches {
    /// The table of these matches; what none of them is for gets `default`.
    ///
    /// # Panics
    /// With more than 2048 matches.
    pub fn new<'a>(
        matches: impl IntoIterator<Item = (&'a FlowKey, &'a FlowMask, u8)>,
        default: u8,
    ) -> OrderedMatches {
        let mut this = OrderedMatches { entries: vec![], terms: vec![], default };
        for (key, mask, value) in matches {
            let words = (0..WORDS).filter(|&word| mask.0[word] != 0);
            this.terms.extend(words.map(|word| {
                let mask = mask.0[word];
                Term { word, mask, wanted: key.0[word] & mask }
            }));
            let end = this.terms.len().try_into().expect("a short table");
            this.entries.push(Entry { end, value });
        }
        this
    }

    /// What the first match stands for.
    #[inline]
    pub fn find(&self, key: &FlowKey) -> u8 {
        let mut start = 0;
        for entry in &self.entries {
            let end = usize::from(entry.end);
            if self.terms[start..end].iter().all(|term| key.0[term.word] & term.mask == term.wanted) {
                return entry.value;
            }
            start = end;
        }
        self.default
    }

    /// What frames get that nothing matches.
    pub fn default_value(&self) -> u8 {
        self.default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Field;

    fn matching(fields: &[(Field, u128)]) -> (FlowKey, FlowMask) {
        let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
        for &(field, value) in fields {
            key.set(field, value);
            mask.add(field, field.full());
        }
        (key, mask)
    }

    #[test]
    fn the_first_match_counts_and_the_default_is_for_the_rest() {
        let wide = matching(&[(Field::EthType, 0x800)]);
        let narrow = matching(&[(Field::EthType, 0x800), (Field::Ipv4Dst, 7), (Field::IpProto, 6)]);
        let table = OrderedMatches::new([(&narrow.0, &narrow.1, 1), (&wide.0, &wide.1, 2)], 9);
        assert_eq!(table.find(&narrow.0), 1);
        assert_eq!(table.find(&wide.0), 2);
        assert_eq!(table.find(&FlowKey::default()), 9);
        let table = OrderedMatches::new([(&wide.0, &wide.1, 2), (&narrow.0, &narrow.1, 1)], 9);
        assert_eq!(table.find(&narrow.0), 2);
    }

    #[test]
    fn a_match_on_nothing_takes_everything() {
        let table = OrderedMatches::new([(&FlowKey::default(), &FlowMask::default(), 4)], 9);
        assert_eq!(table.find(&FlowKey([u64::MAX; WORDS])), 4);
        assert_eq!(OrderedMatches::new([], 9).find(&FlowKey::default()), 9);
    }
}
