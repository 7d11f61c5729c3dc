use flow::{Field, FlowKey, FlowMask};

/// Which frames a rule is for: those whose key has these bits. Bits of the key outside the mask are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    key: FlowKey,
    mask: FlowMask,
}

impl Match {
    /// The match on the bits of `mask`, with their values in `key`.
    pub fn new(key: &FlowKey, mask: FlowMask) -> Match {
        Match { key: key.masked(&mask), mask }
    }

    /// This match with a whole field added (or replaced).
    pub fn with(mut self, field: Field, value: u128) -> Match {
        self.set(field, value, field.full());
        self
    }

    /// Adds or replaces the `bits` of a field.
    pub fn set(&mut self, field: Field, value: u128, bits: u128) {
        let old = self.key.get(field);
        self.key.set(field, old & !bits | value & bits);
        self.mask.add(field, bits);
    }

    /// Forgets the `bits` of a field: any value matches.
    pub(crate) fn clear(&mut self, field: Field, bits: u128) {
        let mask = self.mask.get(field) & !bits;
        let mut cleared = FlowMask::default();
        for &other in Field::ALL {
            cleared.add(other, if other == field { mask } else { self.mask.get(other) });
        }
        *self = Match::new(&self.key, cleared);
    }

    /// The bits that matter, the others zero.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Which bits matter.
    pub fn mask(&self) -> &FlowMask {
        &self.mask
    }

    /// The field's value when all its `bits` matter.
    pub fn known(&self, field: Field, bits: u128) -> Option<u128> {
        (self.mask.get(field) & bits == bits).then(|| self.key.get(field) & bits)
    }

    /// Whether a frame with this key is meant.
    pub fn matches(&self, key: &FlowKey) -> bool {
        key.matches(&self.key, &self.mask)
    }

    /// Whether every frame that `other` matches is matched by this one too.
    pub fn covers(&self, other: &Match) -> bool {
        other.mask.contains(&self.mask) && other.key.matches(&self.key, &self.mask)
    }

    /// Whether some frame is matched by both.
    pub fn overlaps(&self, other: &Match) -> bool {
        (0..flow::WORDS).all(|w| {
            let both = self.mask.0[w] & other.mask.0[w];
            self.key.0[w] & both == other.key.0[w] & both
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_match_covers_a_narrower_one_and_not_the_other_way_round() {
        let mut wide = Match::default();
        wide.set(Field::Ipv4Dst, 0x0a00_0000, 0xff00_0000);
        let narrow = Match::default().with(Field::Ipv4Dst, 0x0a00_0001).with(Field::InPort, 3);
        assert!(wide.covers(&narrow) && !narrow.covers(&wide));
        assert!(wide.covers(&wide));
        assert!(!Match::default().with(Field::InPort, 4).covers(&narrow));
    }

    #[test]
    fn matches_overlap_unless_a_common_bit_differs() {
        let port = Match::default().with(Field::InPort, 1);
        let vlan = Match::default().with(Field::VlanTci, 0);
        assert!(port.overlaps(&vlan));
        assert!(!port.overlaps(&Match::default().with(Field::InPort, 2)));
    }

    #[test]
    fn clearing_bits_keeps_the_rest() {
        let mut m = Match::default().with(Field::VlanTci, 0xf00a).with(Field::InPort, 7);
        m.clear(Field::VlanTci, 0xe000);
        assert_eq!(m.known(Field::VlanTci, 0x1fff), Some(0x100a));
        assert_eq!(m.known(Field::VlanTci, 0xffff), None);
        assert_eq!(m.known(Field::InPort, 0xffff_ffff), Some(7));
    }
}
