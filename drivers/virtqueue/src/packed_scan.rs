//! Where a packed ring stands, found from the ring alone.
//!
//! A front-end that keeps no in-flight record (QEMU has none for network devices) knows of a packed ring only where it
//! was last stopped in good order. When the switch is killed, the ring has moved on since. But every descriptor says in
//! which round it was made available or used, so the ring reads, from its first entry on:
//!
//! - made available in the next round (when the driver is past the ring's end already),
//! - used in this round,
//! - available in this round: **the first of these is where the device stands**,
//! - used in the round before (when the driver is not past the end).
//!
//! That holds of every entry only because [`PackedRing`](crate::packed::PackedRing) marks the later entries of a chain
//! as used, too, which no driver looks at; and not for `IN_ORDER`, where one entry stands for a whole burst. A ring with
//! traces of another device, which left them as they were, usually reads as nothing of the above: then the front-end's
//! position counts.
//!
//! A burst is completed first entry last. A process that was killed in between leaves one available entry among used
//! ones: that chain was carried out, and is completed by whoever finds it. What a receive buffer holds is not known any
//! more, so it is given back as full; Ethernet and IP know their own lengths.

use virtio_defs::desc_flag::{NEXT, WRITE};
use virtio_defs::packed::{AVAIL, USED, avail_flags, used_flags};

use crate::packed::Position;

/// Readings that are tried when the driver makes descriptors available meanwhile.
const READINGS: usize = 16;

/// How a ring is to be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the device stands.
    pub(crate) position: Position,
    /// A chain that was carried out and is not completed: its head.
    pub(crate) unfinished: Option<Position>,
    /// Entries before `position` that belong to used chains and are not marked yet.
    pub(crate) unmarked: u16,
}

/// Reads a ring of `size` entries, whose flags `flags` tells. `None` when they make no sense.
pub(crate) fn find(size: u16, flags: impl Fn(u16) -> u16) -> Option<Found> {
    (0..READINGS).find_map(|_| {
        let ring: Vec<u16> = (0..size).map(&flags).collect();
        [true, false].into_iter().find_map(|round| read(&ring, round))
    })
}

/// The flags that remain when an entry is marked as used in the round of `wrap`.
pub(crate) fn mark_used(flags: u16, wrap: bool) -> u16 {
    flags & !(AVAIL | USED) | used_flags(wrap)
}

/// An entry's completed form, of a chain that was carried out: its length, id and flags.
pub(crate) fn completed(len: u32, id: u16, flags: u16, wrap: bool) -> u64 {
    let (len, write) = if flags & WRITE != 0 { (len, WRITE) } else { (0, 0) };
    u64::from(len) | u64::from(id) << 32 | u64::from(used_flags(wrap) | write) << 48
}

struct Reader<'a> {
    ring: &'a [u16],
    at: usize,
}

impl Reader<'_> {
    fn is(&self, ahead: usize, state: u16) -> bool {
        self.ring.get(self.at + ahead).is_some_and(|flags| flags & (AVAIL | USED) == state)
    }

    /// Goes on as long as entries are in this state, and returns past how many.
    fn pass(&mut self, state: u16) -> usize {
        let start = self.at;
        while self.is(0, state) {
            self.at += 1;
        }
        self.at - start
    }

    /// As [`pass`](Self::pass), over a chain the driver is about to make available: its head comes last, and is in state
    /// `before` until then.
    fn pass_all(&mut self, state: u16, before: u16) -> usize {
        let passed = self.pass(state);
        if self.is(0, before) && self.is(1, state) {
            self.at += 1;
            return passed + 1 + self.pass(state);
        }
        passed
    }

    /// Goes past the entries of a chain of which the one before is part.
    fn pass_chain(&mut self, state: u16) -> u16 {
        let mut count = 0;
        while self.ring[self.at - 1] & NEXT != 0 && self.is(0, state) {
            self.at += 1;
            count += 1;
        }
        count
    }
}

/// Reads the ring as one whose first entry the device has last passed in `round`.
fn read(ring: &[u16], round: bool) -> Option<Found> {
    let (available, used) = (avail_flags(round), used_flags(round));
    let (next_available, last_used) = (avail_flags(!round), used_flags(!round));
    let position = |at: usize, wrap| Position { slot: at as u16, wrap };
    let mut reader = Reader { ring, at: 0 };
    let is_driver_past_the_end = reader.pass_all(next_available, used) > 0;
    reader.pass(used);
    let (mut unfinished, mut unmarked) = (None, 0);
    if reader.is(0, available) && reader.is(1, used) {
        unfinished = Some(position(reader.at, round));
        reader.at += 1;
        reader.pass(used);
        unmarked = reader.pass_chain(available);
    }
    let mut stands_at = reader.at;
    reader.pass(available);
    if !is_driver_past_the_end {
        if reader.is(0, last_used) && reader.is(1, available) {
            reader.at += 1;
            reader.pass(available);
        }
        reader.pass(last_used);
        if unfinished.is_none() && stands_at > 0 && reader.is(0, next_available) {
            // A burst that went over the ring's end: its head is in the round before.
            unfinished = Some(position(reader.at, !round));
            reader.at += 1;
            reader.pass(last_used);
            let end = std::mem::replace(&mut reader.at, stands_at);
            unmarked = reader.pass_chain(available);
            stands_at = std::mem::replace(&mut reader.at, end);
        }
    }
    (reader.at == ring.len()).then(|| {
        let position = if stands_at == ring.len() { position(0, !round) } else { position(stands_at, round) };
        Found { position, unfinished, unmarked }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring from letters: `A` and `U` available and used in the first round, `a` and `u` in the next (and the one
    /// before); `>` behind a letter: it has a successor.
    fn found(text: &str) -> Option<Found> {
        let mut ring: Vec<u16> = vec![];
        for letter in text.chars() {
            match letter {
                'A' => ring.push(avail_flags(true)),
                'a' => ring.push(avail_flags(false)),
                'U' => ring.push(used_flags(true)),
                'u' => ring.push(used_flags(false)),
                _ => *ring.last_mut().unwrap() |= NEXT,
            }
        }
        find(ring.len() as u16, |slot| ring[slot as usize])
    }

    fn stands(text: &str) -> (u16, bool) {
        let found = found(text).unwrap();
        assert_eq!((found.unfinished, found.unmarked), (None, 0), "{text}");
        (found.position.slot, found.position.wrap)
    }

    #[test]
    fn a_ring_in_its_first_round_stands_at_its_first_available_entry() {
        assert_eq!(stands("uuuu"), (0, true), "nothing has happened yet");
        assert_eq!(stands("AAuu"), (0, true));
        assert_eq!(stands("UAAu"), (1, true));
        assert_eq!(stands("UUuu"), (2, true));
        assert_eq!(stands("AAAA"), (0, true), "full");
        assert_eq!(stands("UUUU"), (0, false), "used up");
    }

    #[test]
    fn a_ring_that_the_driver_has_gone_round_stands_where_it_stands() {
        assert_eq!(stands("aUUA"), (3, true));
        assert_eq!(stands("aUUU"), (0, false));
        assert_eq!(stands("aaAA"), (2, true), "full");
        assert_eq!(stands("uaUU"), (1, false));
        assert_eq!(stands("uuUU"), (2, false));
        assert_eq!(stands("Auua"), (3, false));
        assert_eq!(stands("aaaa"), (0, false));
    }

    #[test]
    fn a_chain_whose_head_the_driver_has_yet_to_write_is_not_there() {
        assert_eq!(stands("UAuA>A>uu"), (1, true));
        assert_eq!(stands("UuA>Auuu"), (1, true));
        assert_eq!(stands("aUaaUUAA"), (6, true));
        assert_eq!(stands("UaaUUUAA"), (6, true));
    }

    #[test]
    fn a_burst_completed_but_for_its_head_is_one_to_finish() {
        let head = |slot, wrap| Some(Position { slot, wrap });
        let found_at = |text: &str| {
            let found = found(text).unwrap_or_else(|| panic!("{text}"));
            (found.position.slot, found.position.wrap, found.unfinished, found.unmarked)
        };
        assert_eq!(found_at("UAUUAAuu"), (4, true, head(1, true), 0));
        assert_eq!(found_at("aUAUUAAA"), (5, true, head(2, true), 0));
        assert_eq!(found_at("uuaaUUAU"), (2, false, head(6, true), 0), "over the ring's end");
        assert_eq!(found_at("uuaaUUUA"), (2, false, head(7, true), 0));
        assert_eq!(found_at("UA>U>A>AAuu"), (5, true, head(1, true), 2), "in the middle of a chain");
        assert_eq!(found_at("u>aaaUUUA>"), (2, false, head(7, true), 1));
    }

    #[test]
    fn what_no_device_of_this_kind_leaves_is_not_interpreted() {
        for text in ["AUAU", "UAaU", "uAuA", "AaAa", "UuUu"] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn every_position_is_found_whatever_the_driver_has_made_available_and_taken_back() {
        for size in [1u32, 2, 3, 8] {
            // Entries since the start: the device's next, the driver's next.
            for device in 0..4 * size {
                for driver in device..=device + size {
                    {
                        let wrap = |at: u32| (at / size).is_multiple_of(2);
                        let mut ring = vec![used_flags(false); size as usize];
                        for at in 0..driver {
                            let flags =
                                if at < device { used_flags(wrap(at)) } else { avail_flags(wrap(at)) };
                            ring[(at % size) as usize] = flags;
                        }
                        let found = find(size as u16, |slot| ring[slot as usize]);
                        let position = Position { slot: (device % size) as u16, wrap: wrap(device) };
                        assert_eq!(
                            found,
                            Some(Found { position, unfinished: None, unmarked: 0 }),
                            "{device} {driver} of {size}"
                        );
                    }
                }
            }
        }
    }
}
