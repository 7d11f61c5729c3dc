//! Entry point for fuzzers: memory tables as a front-end may send them.

use crate::{MemMap, RegionCache, RegionSpec, SharedMemory};

/// Bytes of the file that all regions lie in. Shorter than what regions may ask for: a guest says anything.
const FILE_BYTES: u64 = 1 << 18;

/// A region as it was accepted: guest-physical address, front-end address, length.
type Accepted = (u64, u64, u64);

/// Adds and removes regions as the input says, and compares each translation with a plain list.
///
/// A step is a byte and three numbers, each a byte that says how big and up to eight bytes.
///
/// # Panics
/// When the table and the list disagree, or a translation leads out of the mapping.
pub fn fuzz_memory_table(data: &[u8]) {
    let memory = SharedMemory::new(c"fuzz", FILE_BYTES).expect("a memory file");
    let mut map = MemMap::default();
    let mut list: Vec<Accepted> = vec![];
    let mut input = data.iter().copied();
    while let (Some(step), Some(a), Some(b), Some(c)) =
        (input.next(), number(&mut input), number(&mut input), number(&mut input))
    {
        match step % 4 {
            0 | 1 => {
                let offset = u64::from(step >> 2) * 4096;
                let spec = RegionSpec { gpa: a, len: b, user_va: c, fd: memory.fd(), offset };
                let added = map.add(&spec);
                let free = |at: u64, of: fn(&Accepted) -> u64| {
                    at.checked_add(b)
                        .is_some_and(|end| list.iter().all(|r| of(r) + r.2 <= at || end <= of(r)))
                };
                let possible = b > 0 && free(a, |r| r.0) && free(c, |r| r.1);
                assert!(possible || added.is_err(), "a region that overlaps, or wraps, was accepted");
                if let Ok(added) = added {
                    assert!(offset + b <= FILE_BYTES, "more was mapped than there is");
                    list.push((a, c, b));
                    map = added;
                }
            }
            2 => {
                // By number, or one that isn't there.
                let named = list.get(a as usize).copied().unwrap_or((a, c, b));
                let at = list.iter().position(|&r| r == named);
                let removed = map.remove(named.0, named.1, named.2);
                assert_eq!(removed.is_ok(), at.is_some());
                if let (Some(at), Ok(removed)) = (at, removed) {
                    list.remove(at);
                    map = removed;
                }
            }
            _ => judge(&map, &list, a, b),
        }
        assert_eq!(map.regions(), list.len());
        assert_eq!(map.bytes(), list.iter().map(|r| r.2).sum());
    }
    for &(gpa, user_va, len) in &list {
        judge(&map, &list, gpa, len);
        judge(&map, &list, gpa + len - 1, 1);
        judge(&map, &list, gpa, len + 1);
        assert_eq!(map.user_to_gpa(user_va, len), Some(gpa));
    }
}

/// Compares what the table says of a range with what the list says, and reads both ends.
fn judge(map: &MemMap, list: &[Accepted], at: u64, len: u64) {
    let inside = |start: u64, have: u64| at >= start && at - start < have && len <= have - (at - start);
    let by_gpa = list.iter().find(|r| inside(r.0, r.2));
    let mut cache = RegionCache::EMPTY;
    let found = map.translate_gpa(at, len);
    assert_eq!(found.is_some(), by_gpa.is_some());
    for _ in 0..2 {
        assert_eq!(cache.translate_gpa(map, at, len), found);
    }
    assert_eq!(map.translate_user(at, len).is_some(), list.iter().any(|r| inside(r.1, r.2)));
    if let Some(start) = found {
        for offset in [0, len.saturating_sub(1)] {
            // SAFETY: the table says that `len` bytes are mapped there, and if none, at least the first is.
            unsafe { start.add(offset as usize).read_volatile() };
        }
    }
    match map.translate_gpa_part(at, len) {
        None => assert!(!list.iter().any(|r| at >= r.0 && at - r.0 < r.2)),
        Some((_, part)) => assert!(part <= len && (part > 0 || len == 0)),
    }
}

/// A number of up to eight bytes; small ones and those near the ends of the address space are short.
fn number(input: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let form = input.next()?;
    let value = (0..form & 7).try_fold(0u64, |value, _| Some(value << 8 | u64::from(input.next()?)))?;
    // Bits 3 and 4: pages instead of bytes; counted down from the end.
    let value = if form & 8 != 0 { value << 12 } else { value };
    Some(if form & 16 != 0 { 0u64.wrapping_sub(value) } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_reaches_tables_with_regions_and_refuses_bad_ones() {
        // Two neighbours of four pages, one that overlaps, one that wraps; a look-up over the border; one removed.
        let neighbours = [0, 0x8, 0x9, 4, 0x9, 100, 0, 0x9, 4, 0x9, 4, 0x9, 104];
        let bad = [0, 0x9, 2, 0x9, 4, 0x9, 200, 0, 0x19, 1, 0x9, 4, 0x9, 200];
        let asked = [3, 0x9, 3, 0x9, 2, 0, 2, 0, 0, 0];
        fuzz_memory_table(&[&neighbours[..], &bad, &asked].concat());
    }
}
