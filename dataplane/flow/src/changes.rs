//! What changed in a bridge's rules since a cached decision was made.
//!
//! Forgetting every cached decision on every change would make each flow miss a thousand times a second when
//! rules change that often. Instead a decision carries the number of changes it has seen; when it is used and
//! there are newer ones, it is compared with each of those and stays unless one could concern it.

use crate::{FlowKey, FlowMask, MaskWords};

/// Changes remembered. A decision not used for longer than that is made anew.
const REMEMBERED: usize = 256;

/// The latest changes of a bridge's rules.
#[derive(Clone, Debug)]
pub struct Changes {
    count: u64,
    /// The count up to which nothing counts any more.
    forgotten: u64,
    latest: Vec<(FlowKey, FlowMask)>,
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

impl Changes {
    /// No changes so far.
    pub fn new() -> Self {
        Self { count: 0, forgotten: 0, latest: Vec::with_capacity(REMEMBERED) }
    }

    /// Notes a change that concerns only frames with these masked bits: a rule added, removed or modified, with
    /// its match.
    ///
    /// Keys are compared as they are extracted. The caller leaves out of the mask what a frame may have otherwise
    /// by the time it meets the rule: metadata, registers, and fields that any rule of the bridge sets.
    pub fn push(&mut self, key: &FlowKey, mask: &FlowMask) {
        let change = (key.masked(mask), *mask);
        if self.latest.len() < REMEMBERED {
            // Not full means never wrapped: the place is the next one.
            self.latest.push(change);
        } else {
            self.latest[self.count as usize % REMEMBERED] = change;
        }
        self.count += 1;
    }

    /// Notes a change that may concern any frame.
    pub fn push_all(&mut self) {
        self.push(&FlowKey::default(), &FlowMask::default());
        self.forgotten = self.count;
    }

    /// How many changes there were: a decision made now is good from here on.
    #[inline(always)]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether a decision for these masked words that was good at `since` may be good no more.
    pub(crate) fn concern(&self, since: u64, mask: &MaskWords, words: &[u64]) -> bool {
        if since < self.forgotten || self.count.wrapping_sub(since) > REMEMBERED as u64 {
            return true;
        }
        (since..self.count).any(|n| {
            let (key, changed) = &self.latest[n as usize % REMEMBERED];
            (0..mask.len()).all(|j| {
                let (index, bits) = mask.place(j);
                (words[j] ^ key.0[index]) & changed.0[index] & bits == 0
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Field;

    fn port(number: u128) -> (FlowKey, FlowMask) {
        let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
        key.set(Field::InPort, number);
        mask.add(Field::InPort, Field::InPort.full());
        (key, mask)
    }

    fn concern(changes: &Changes, since: u64, key: &FlowKey, mask: &FlowMask) -> bool {
        let words = MaskWords::new(mask);
        let masked: Vec<u64> = (0..words.len()).map(|j| words.word(key, j)).collect();
        changes.concern(since, &words, &masked)
    }

    #[test]
    fn a_change_concerns_decisions_it_overlaps_and_no_others() {
        let mut changes = Changes::new();
        let (key, mask) = port(1);
        changes.push(&key, &mask);
        assert!(concern(&changes, 0, &key, &mask));
        assert!(!concern(&changes, 1, &key, &mask), "made after the change");
        assert!(!concern(&changes, 0, &port(2).0, &mask));
        let mut elsewhere = FlowMask::default();
        elsewhere.add(Field::TpDst, 1);
        assert!(concern(&changes, 0, &port(2).0, &elsewhere), "a decision that didn't look at the port");
        assert!(concern(&changes, 0, &FlowKey::default(), &FlowMask::default()));
    }

    #[test]
    fn what_was_not_used_for_longer_than_is_remembered_counts_no_more() {
        let mut changes = Changes::new();
        let (key, mask) = port(1);
        for _ in 0..REMEMBERED {
            changes.push(&key, &mask);
        }
        assert!(!concern(&changes, 0, &port(2).0, &mask));
        changes.push(&key, &mask);
        assert!(concern(&changes, 0, &port(2).0, &mask));
        assert!(!concern(&changes, 1, &port(2).0, &mask));
        assert!(concern(&changes, changes.count() + 1, &port(2).0, &mask), "from a future that isn't ours");
    }

    #[test]
    fn a_change_of_everything_concerns_everything_before_it() {
        let mut changes = Changes::new();
        changes.push_all();
        assert!(concern(&changes, 0, &port(2).0, &port(2).1));
        assert!(!concern(&changes, 1, &port(2).0, &port(2).1));
    }
}
