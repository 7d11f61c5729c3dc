//! Places in a table whose first entry that matches counts, chosen so that a change moves as few entries as it can.
//!
//! Hardware moves no entries: one that is to stand elsewhere has to be taken out first, and meanwhile its frames go
//! astray. So entries stand apart from each other, and new ones go between those that stay.

use crate::Match;

/// A place for each entry of a table, in ascending order. `old` are the entries in force with their places, in
/// ascending order; `room` is how many places there are, at least as many as entries.
pub(crate) fn places(old: &[(u16, &Match)], new: &[&Match], room: u16) -> Vec<u16> {
    assert!(new.len() <= room.into(), "{} entries in a table for {room}", new.len());
    let before: Vec<Option<u16>> = new
        .iter()
        .map(|entry| old.iter().find(|(_, other)| other == entry).map(|(place, _)| *place))
        .collect();
    let mut stays = ascending(&before);
    loop {
        match between(&before, &stays, old, room) {
            Ok(places) => return places,
            // One of those that have no room between them gives way; with none left there is room for all.
            Err(entry) => stays[entry] = false,
        }
    }
}

/// Places of the entries that don't stay between those that do; else which of these is in the way.
fn between(
    before: &[Option<u16>],
    stays: &[bool],
    old: &[(u16, &Match)],
    room: u16,
) -> Result<Vec<u16>, usize> {
    let is_taken = |place: u16| old.iter().any(|(other, _)| *other == place);
    let mut places = Vec::with_capacity(before.len());
    let mut from = 0;
    while places.len() < before.len() {
        let first = places.len();
        let until = (first..before.len()).find(|&i| stays[i]).unwrap_or(before.len());
        let end = before.get(until).copied().flatten().unwrap_or(room);
        let count = until - first;
        let untouched: Vec<u16> = (from..end).filter(|&place| !is_taken(place)).collect();
        let choice = if untouched.len() >= count { untouched } else { (from..end).collect() };
        if choice.len() < count {
            return Err(first.checked_sub(1).unwrap_or(until));
        }
        places.extend(spread(&choice, count));
        if until < before.len() {
            places.push(end);
        }
        from = end.saturating_add(1);
    }
    Ok(places)
}

/// So many of these places, as far apart as they can be.
fn spread(places: &[u16], count: usize) -> impl Iterator<Item = u16> {
    (0..count).map(move |i| places[(2 * i + 1) * places.len() / (2 * count)])
}

/// Which of these numbers belong to the longest ascending row of them.
fn ascending(numbers: &[Option<u16>]) -> Vec<bool> {
    // The longest row that ends at each, and who comes before it there.
    let mut rows: Vec<(usize, Option<usize>)> = vec![];
    for (i, number) in numbers.iter().enumerate() {
        let before =
            (0..i).filter(|&j| numbers[j].is_some() && numbers[j] < *number).max_by_key(|&j| rows[j].0);
        let len = if number.is_some() { before.map_or(1, |j| rows[j].0 + 1) } else { 0 };
        rows.push((len, before));
    }
    let mut belongs = vec![false; numbers.len()];
    let mut last = (0..numbers.len()).filter(|&i| rows[i].0 > 0).max_by_key(|&i| rows[i].0);
    while let Some(i) = last {
        belongs[i] = true;
        last = rows[i].1;
    }
    belongs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u8) -> Match {
        Match { key: vec![n], mask: vec![0xff] }
    }

    /// Places of entries after those of others.
    fn change(old: &[(u16, u8)], new: &[u8], room: u16) -> Vec<u16> {
        let old: Vec<_> = old.iter().map(|&(place, n)| (place, entry(n))).collect();
        let old: Vec<_> = old.iter().map(|(place, entry)| (*place, entry)).collect();
        let new: Vec<_> = new.iter().map(|&n| entry(n)).collect();
        places(&old, &new.iter().collect::<Vec<_>>(), room)
    }

    #[test]
    fn entries_stand_apart_and_those_that_stay_keep_their_places() {
        assert_eq!(change(&[], &[1, 2, 3, 4], 64), [8, 24, 40, 56]);
        let old = [(8, 1), (24, 2), (40, 3), (56, 4)];
        assert_eq!(change(&old, &[1, 2, 3, 4], 64), [8, 24, 40, 56]);
        assert_eq!(change(&old, &[1, 3, 4], 64), [8, 40, 56], "one went");
        assert_eq!(change(&old, &[9, 1, 2, 8, 3, 4, 7], 64), [4, 8, 24, 32, 40, 56, 60], "some came");
        let [one, new, rest @ ..] = &change(&old, &[1, 9, 3, 4], 64)[..] else { panic!("four") };
        assert_eq!((*one, rest), (8, &[40, 56][..]));
        assert!((9..40).contains(new) && *new != 24, "beside the one that goes: {new}");
    }

    #[test]
    fn the_fewest_entries_change_places() {
        let old = [(8, 1), (24, 2), (40, 3), (56, 4)];
        assert_eq!(change(&old, &[4, 1, 2, 3], 64), [4, 8, 24, 40]);
        let reversed = change(&old, &[4, 3, 2, 1], 64);
        assert!(reversed.is_sorted_by(|a, b| a < b), "{reversed:?}");
    }

    #[test]
    fn a_full_table_is_used_up_to_its_last_place() {
        assert_eq!(
            change(&[(0, 1), (1, 2), (2, 3)], &[1, 9, 3], 3),
            [0, 1, 2],
            "in place of the one that goes"
        );
        assert_eq!(change(&[(0, 1), (1, 2)], &[1, 9, 2], 3), [0, 1, 2], "no room between them");
        assert_eq!(change(&[(4, 1), (5, 2), (9, 3)], &[1, 8, 2, 3], 10), [1, 3, 5, 9], "one gives way");
        assert_eq!(change(&[], &[1, 2, 3], 3), [0, 1, 2]);
    }
}
