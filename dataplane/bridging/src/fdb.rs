//! The MAC table: which port an address was last seen on, per VLAN.
//!
//! A fixed table of buckets with four entries of two words; an address may stand in either of two buckets. An
//! entry's key word holds address, VLAN and state, its value word port and time:
//!
//! ```text
//! key    mac 48 | vlan 12 | tag 3 | valid 1           value    seconds 32 | port 16 | 0 12 | static 1 | tag 3
//! ```
//!
//! # Why no worker can see a wrong port
//!
//! The port of an entry stands in one word together with a **tag**, a number that grows each time the place is
//! used for another address, and the key word holds the same tag. Who reads a key and then a value of the same
//! tag has read two halves of one entry; a place that changed hands in between shows different tags and counts
//! as not found. (Tags repeat after eight reuses of one place, each of which takes a removal by the control
//! thread and a new address: that many between two adjacent loads of one look-up do not happen, and would send
//! one frame to one wrong member of the bridge.)
//!
//! A place is taken by a compare-and-swap of its key from free to busy, filled, then published; it is given up
//! by one from valid to busy, emptied, then freed. Values change by compare-and-swap with the tag in the expected word,
//! so an update that comes late finds another tag and is lost: a lost learn is repeated by the next frame. Two
//! workers that insert one address at once each look for the other's entry after publishing their own, and keep
//! the first.
//!
//! # What a hostile guest can do
//!
//! It fills its port's share and no more: nothing is ever evicted for a newcomer. Bucket numbers depend on a
//! secret, so it can't choose addresses that crowd out somebody else's.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use port::PortId;

const WAYS: usize = 4;
/// Places per entry allowed, so that full pairs of buckets are rare (below one in a thousand when the table is
/// as full as it may be).
const SPARE: usize = 4;

const VALID: u64 = 1;
const TAG_SHIFT: u32 = 1;
const TAG_MASK: u64 = 7 << TAG_SHIFT;
/// In a key that is not valid: somebody is filling or emptying the place.
const BUSY: u64 = 1 << 4;
/// In a value: set by the operator, neither aged nor moved.
const STATIC: u64 = 8;

/// Bounds of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbLimits {
    /// Addresses in all.
    pub addresses: u32,
    /// Addresses of one port: no port takes the room of the others.
    pub per_port: u32,
}

/// What became of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known on this port already (or static).
    Refreshed,
    /// New.
    New,
    /// Known on another port until now.
    Moved,
    /// Not learned: a limit is reached, or its buckets are full.
    Limited,
    /// Not an address of one station: group addresses and zero are not learned.
    Ignored,
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    /// Its VLAN, 0 for none.
    pub vlan: u16,
    /// The address.
    pub mac: [u8; 6],
    /// Where it was seen last.
    pub port: PortId,
    /// And when, in seconds of the workers' clock.
    pub seen_secs: u32,
    /// Set by the operator: it neither ages nor moves.
    pub is_static: bool,
}

/// A static entry found no room: both its buckets are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for a static entry: both buckets of the address are full")]
pub struct NoRoom;

#[repr(align(64))]
#[derive(Default)]
struct Bucket {
    keys: [AtomicU64; WAYS],
    values: [AtomicU64; WAYS],
}

#[derive(Default)]
struct PortShare {
    learned: AtomicU32,
    limit: AtomicU32,
    refused: AtomicU64,
}

/// The MAC table of a bridge, shared by its workers and the control thread. See the module's documentation for
/// what holds while they race.
pub struct Fdb {
    buckets: Box<[Bucket]>,
    mask: u64,
    seed: u64,
    multiplier: u64,
    shares: Box<[PortShare]>,
    learned: AtomicU32,
    limits: FdbLimits,
    generation: Generation,
}

/// On a line of its own: every worker reads it for every burst.
#[repr(align(64))]
struct Generation(AtomicU64);

/// A place in the table with what was read there.
#[derive(Clone, Copy)]
struct Found<'a> {
    bucket: &'a Bucket,
    way: usize,
    key: u64,
    value: u64,
}

impl Found<'_> {
    #[inline(always)]
    fn port(&self) -> PortId {
        port_of(self.value)
    }

    #[inline(always)]
    fn is_static(&self) -> bool {
        self.value & STATIC != 0
    }

    /// Replaces the value, unless somebody else did.
    #[inline]
    fn replace(&self, value: u64) -> bool {
        let place = &self.bucket.values[self.way];
        place.compare_exchange(self.value, value, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[inline(always)]
fn port_of(value: u64) -> PortId {
    PortId((value >> 16) as u16)
}

#[inline(always)]
fn tag_of(key: u64) -> u64 {
    (key & TAG_MASK) >> TAG_SHIFT
}

#[inline(always)]
fn value_of(port: PortId, now: u32, tag: u64) -> u64 {
    (now as u64) << 32 | (port.0 as u64) << 16 | tag
}

/// Address and VLAN as they stand in a key word.
#[inline(always)]
fn identity(vlan: u16, mac: u64) -> u64 {
    mac << 16 | (vlan as u64 & 0xfff) << 4 | VALID
}

/// Whether an address may be that of one station.
#[inline(always)]
fn is_station(mac: u64) -> bool {
    mac & 1 << 40 == 0 && mac != 0
}

impl Fdb {
    /// An empty table for ports numbered below `ports`. `seed` makes its hash unpredictable.
    pub fn new(limits: FdbLimits, ports: usize, seed: u64) -> Fdb {
        let buckets = (limits.addresses.max(1) as usize * SPARE).div_ceil(WAYS).next_power_of_two();
        let share = || PortShare { limit: AtomicU32::new(limits.per_port), ..PortShare::default() };
        Fdb {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            mask: buckets as u64 - 1,
            seed,
            multiplier: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd6e8_feb8_6659_fd93 | 1,
            shares: (0..ports).map(|_| share()).collect(),
            learned: AtomicU32::new(0),
            limits,
            generation: Generation(AtomicU64::new(1)),
        }
    }

    /// Changes with every answer of [`lookup`](Self::lookup) that may change. Who read it *before* looking up
    /// may use what it found for as long as the number stays.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation.0.load(Ordering::Acquire)
    }

    /// The port on which `mac` (a 48-bit number) was last seen in `vlan`.
    #[inline(always)]
    pub fn lookup(&self, vlan: u16, mac: u64) -> Option<PortId> {
        self.find(identity(vlan, mac)).map(|found| found.port())
    }

    /// Notes that `mac` was seen on `port` at second `now`. Writes only when that is news.
    #[inline(always)]
    pub fn learn(&self, vlan: u16, mac: u64, port: PortId, now: u32) -> Learned {
        let id = identity(vlan, mac);
        if !is_station(mac) {
            return Learned::Ignored;
        }
        if let Some(found) = self.find(id)
            && (found.port() == port || found.is_static())
        {
            if now > (found.value >> 32) as u32 && !found.is_static() {
                // Lost when somebody else writes at the same time, who knows as well as we do.
                found.replace(value_of(port, now, found.value & 7));
            }
            return Learned::Refreshed;
        }
        self.learn_news(id, port, now)
    }

    /// Inserts or moves.
    #[inline(never)]
    fn learn_news(&self, id: u64, port: PortId, now: u32) -> Learned {
        if !self.reserve_on(port) {
            return self.refuse(port);
        }
        if let Some(found) = self.find(id) {
            if found.port() == port || found.is_static() {
                self.release_on(port);
                return Learned::Refreshed;
            }
            if !found.replace(value_of(port, now, found.value & 7)) {
                // Another worker's news came first. Ours will come again with the next frame.
                self.release_on(port);
                return Learned::Refreshed;
            }
            self.release_on(found.port());
            self.bump();
            return Learned::Moved;
        }
        if self.learned.fetch_add(1, Ordering::Relaxed) >= self.limits.addresses {
            self.learned.fetch_sub(1, Ordering::Relaxed);
            self.release_on(port);
            return self.refuse(port);
        }
        if !self.insert(id, |tag| value_of(port, now, tag)) {
            self.learned.fetch_sub(1, Ordering::Relaxed);
            self.release_on(port);
            return self.refuse(port);
        }
        self.bump();
        Learned::New
    }

    #[cold]
    fn refuse(&self, port: PortId) -> Learned {
        if let Some(share) = self.shares.get(port.0 as usize) {
            share.refused.fetch_add(1, Ordering::Relaxed);
        }
        Learned::Limited
    }

    /// Sets an address that neither ages nor moves; it takes the place of a learned one. Control thread only.
    ///
    /// # Errors
    /// No room.
    pub fn set_static(&self, vlan: u16, mac: [u8; 6], port: PortId) -> Result<(), NoRoom> {
        let id = identity(vlan, number(mac));
        loop {
            let Some(found) = self.find(id) else {
                if !self.insert(id, |tag| value_of(port, 0, tag) | STATIC) {
                    return Err(NoRoom);
                }
                break;
            };
            if found.replace(value_of(port, 0, found.value & 7) | STATIC) {
                if !found.is_static() {
                    self.forget_learned(found.port());
                }
                break;
            }
        }
        self.bump();
        Ok(())
    }

    /// Takes over an entry of another table, as far as there is room; returns whether there was. Control thread only.
    pub fn put(&self, entry: FdbEntry) -> bool {
        if entry.is_static {
            return self.set_static(entry.vlan, entry.mac, entry.port).is_ok();
        }
        let learned = self.learn(entry.vlan, number(entry.mac), entry.port, entry.seen_secs);
        !matches!(learned, Learned::Limited | Learned::Ignored)
    }

    /// Removes an address, static or learned, and returns whether it was there. Control thread only.
    pub fn remove(&self, vlan: u16, mac: [u8; 6]) -> bool {
        let found = self.find(identity(vlan, number(mac)));
        let removed = found.is_some_and(|f| self.vacate(f.bucket, f.way, f.key));
        if removed {
            self.bump();
        }
        removed
    }

    /// Removes learned addresses that were not seen for more than `max_age` seconds, and returns how many.
    /// Control thread only.
    pub fn expire(&self, now: u32, max_age: u32) -> usize {
        self.remove_where(|e| !e.is_static && now.saturating_sub(e.seen_secs) > max_age)
    }

    /// Removes the learned addresses of a port that went away or changed its VLANs. Control thread only.
    pub fn flush(&self, port: PortId) -> usize {
        self.remove_where(|e| !e.is_static && e.port == port)
    }

    /// Removes all learned addresses. Control thread only.
    pub fn flush_all(&self) -> usize {
        self.remove_where(|e| !e.is_static)
    }

    /// All addresses, by VLAN and address.
    pub fn entries(&self) -> Vec<FdbEntry> {
        let mut all: Vec<FdbEntry> = self.places().map(entry_of).collect();
        all.sort_unstable();
        all
    }

    /// Addresses learned, static ones not counted.
    pub fn len(&self) -> usize {
        self.learned.load(Ordering::Relaxed) as usize
    }

    /// Whether no address is learned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Learned addresses of one port.
    pub fn learned_on(&self, port: PortId) -> u32 {
        self.shares.get(port.0 as usize).map_or(0, |s| s.learned.load(Ordering::Relaxed))
    }

    /// Most learned addresses of one port.
    pub fn port_limit(&self, port: PortId) -> u32 {
        self.shares.get(port.0 as usize).map_or(0, |s| s.limit.load(Ordering::Relaxed))
    }

    /// Sets how many addresses may be learned on a port. Those it has stay.
    pub fn set_port_limit(&self, port: PortId, limit: u32) {
        if let Some(share) = self.shares.get(port.0 as usize) {
            share.limit.store(limit, Ordering::Relaxed);
        }
    }

    /// How often an address was not learned on this port for want of room.
    pub fn refused_on(&self, port: PortId) -> u64 {
        self.shares.get(port.0 as usize).map_or(0, |s| s.refused.load(Ordering::Relaxed))
    }

    fn bump(&self) {
        self.generation.0.fetch_add(1, Ordering::AcqRel);
    }

    #[inline(always)]
    fn buckets_of(&self, id: u64) -> [&Bucket; 2] {
        let product = (id ^ self.seed) as u128 * self.multiplier as u128;
        let hash = (product >> 64) as u64 ^ product as u64;
        [&self.buckets[(hash & self.mask) as usize], &self.buckets[((hash >> 32) & self.mask) as usize]]
    }

    #[inline(always)]
    fn find(&self, id: u64) -> Option<Found<'_>> {
        for bucket in self.buckets_of(id) {
            for way in 0..WAYS {
                let key = bucket.keys[way].load(Ordering::Acquire);
                if key & !TAG_MASK == id {
                    let value = bucket.values[way].load(Ordering::Acquire);
                    if value & 7 == tag_of(key) {
                        return Some(Found { bucket, way, key, value });
                    }
                }
            }
        }
        None
    }

    /// Takes a free place, fills and publishes it; false when there is none.
    fn insert(&self, id: u64, value: impl Fn(u64) -> u64) -> bool {
        let places = self.buckets_of(id).into_iter().flat_map(|b| (0..WAYS).map(move |way| (b, way)));
        for (bucket, way) in places {
            let key = &bucket.keys[way];
            let free = key.load(Ordering::Relaxed);
            if free & (VALID | BUSY) != 0 {
                continue;
            }
            let tag = (tag_of(free) + 1) & 7;
            let busy = BUSY | tag << TAG_SHIFT;
            if key.compare_exchange(free, busy, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                bucket.values[way].store(value(tag), Ordering::Release);
                // Sequentially consistent, as are the loads of the search for twins: of two workers that
                // insert one address, at least one sees the other's.
                key.store(id | tag << TAG_SHIFT, Ordering::SeqCst);
                self.remove_twins(id);
                return true;
            }
        }
        false
    }

    /// Leaves one entry of those with this identity: the static one, or else the first.
    fn remove_twins(&self, id: u64) {
        let [first, second] = self.buckets_of(id);
        let twins = |is_wanted: &dyn Fn(u64) -> bool| -> Option<(&Bucket, usize, u64)> {
            let buckets = if std::ptr::eq(first, second) { &[first][..] } else { &[first, second][..] };
            buckets.iter().flat_map(|b| (0..WAYS).map(move |way| (*b, way))).find_map(|(bucket, way)| {
                let key = bucket.keys[way].load(Ordering::SeqCst);
                let value = bucket.values[way].load(Ordering::Acquire);
                (key & !TAG_MASK == id && is_wanted(value)).then_some((bucket, way, key))
            })
        };
        let Some(kept) = twins(&|value| value & STATIC != 0).or_else(|| twins(&|_| true)) else { return };
        for bucket in [first, second] {
            for way in 0..WAYS {
                let key = bucket.keys[way].load(Ordering::SeqCst);
                if key & !TAG_MASK == id && !(std::ptr::eq(bucket, kept.0) && way == kept.1) {
                    self.vacate(bucket, way, key);
                }
            }
        }
    }

    /// Gives a place up, unless somebody else did.
    fn vacate(&self, bucket: &Bucket, way: usize, key: u64) -> bool {
        let tag = tag_of(key);
        let busy = BUSY | tag << TAG_SHIFT;
        if bucket.keys[way].compare_exchange(key, busy, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // The value left behind has the next tag: whoever read our key finds no value to it, and no late
        // update can change it. What we get is the last word on which port the entry counted for.
        let value = bucket.values[way].swap((tag + 1) & 7, Ordering::AcqRel);
        if value & STATIC == 0 {
            self.forget_learned(port_of(value));
        }
        bucket.keys[way].store(tag << TAG_SHIFT, Ordering::Release);
        true
    }

    fn reserve_on(&self, port: PortId) -> bool {
        let Some(share) = self.shares.get(port.0 as usize) else { return false };
        let granted = share.learned.fetch_add(1, Ordering::Relaxed) < share.limit.load(Ordering::Relaxed);
        if !granted {
            share.learned.fetch_sub(1, Ordering::Relaxed);
        }
        granted
    }

    fn release_on(&self, port: PortId) {
        self.shares[port.0 as usize].learned.fetch_sub(1, Ordering::Relaxed);
    }

    fn forget_learned(&self, port: PortId) {
        self.release_on(port);
        self.learned.fetch_sub(1, Ordering::Relaxed);
    }

    fn places(&self) -> impl Iterator<Item = Found<'_>> {
        self.buckets.iter().flat_map(|bucket| (0..WAYS).map(move |way| (bucket, way))).filter_map(
            |(bucket, way)| {
                let key = bucket.keys[way].load(Ordering::Acquire);
                let value = bucket.values[way].load(Ordering::Acquire);
                (key & VALID != 0 && value & 7 == tag_of(key)).then_some(Found { bucket, way, key, value })
            },
        )
    }

    fn remove_where(&self, is_unwanted: impl Fn(&FdbEntry) -> bool) -> usize {
        let unwanted = self.places().filter(|&found| is_unwanted(&entry_of(found)));
        let removed = unwanted.filter(|found| self.vacate(found.bucket, found.way, found.key)).count();
        if removed > 0 {
            self.bump();
        }
        removed
    }
}

impl std::fmt::Debug for Fdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fdb {{ {} of {} addresses }}", self.len(), self.limits.addresses)
    }
}

/// The address as a number, first byte most significant.
fn number(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |number, &byte| number << 8 | byte as u64)
}

fn address(number: u64) -> [u8; 6] {
    *number.to_be_bytes().last_chunk().expect("eight bytes have six")
}

fn entry_of(found: Found<'_>) -> FdbEntry {
    FdbEntry {
        vlan: (found.key >> 4) as u16 & 0xfff,
        mac: address(found.key >> 16),
        port: found.port(),
        seen_secs: (found.value >> 32) as u32,
        is_static: found.is_static(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;

    const A: u64 = 0x02_00_00_00_00_0a;
    const P1: PortId = PortId(1);
    const P2: PortId = PortId(2);

    fn fdb(addresses: u32, per_port: u32) -> Fdb {
        Fdb::new(FdbLimits { addresses, per_port }, 64, 99)
    }

    fn station(n: u64) -> u64 {
        0x02_00_00_00_00_00 | n
    }

    #[test]
    fn an_address_is_known_per_vlan() {
        let fdb = fdb(100, 100);
        assert_eq!(fdb.learn(10, A, P1, 5), Learned::New);
        assert_eq!(fdb.learn(20, A, P2, 5), Learned::New);
        assert_eq!(fdb.lookup(10, A), Some(P1));
        assert_eq!(fdb.lookup(20, A), Some(P2));
        assert_eq!(fdb.lookup(0, A), None);
        assert_eq!(fdb.lookup(10, A + 1), None);
    }

    #[test]
    fn a_move_takes_the_address_from_the_old_port() {
        let fdb = fdb(100, 100);
        fdb.learn(0, A, P1, 5);
        assert_eq!(fdb.learn(0, A, P2, 5), Learned::Moved);
        assert_eq!(fdb.lookup(0, A), Some(P2));
        assert_eq!((fdb.learned_on(P1), fdb.learned_on(P2), fdb.len()), (0, 1, 1));
    }

    #[test]
    fn the_generation_changes_with_answers_only() {
        let fdb = fdb(100, 100);
        let mut last = fdb.generation();
        let mut changed = |fdb: &Fdb| {
            let now = fdb.generation();
            std::mem::replace(&mut last, now) != now
        };
        fdb.learn(0, A, P1, 5);
        assert!(changed(&fdb), "new");
        fdb.learn(0, A, P1, 6);
        assert!(!changed(&fdb), "refreshed");
        fdb.learn(0, A, P2, 6);
        assert!(changed(&fdb), "moved");
        assert_eq!(fdb.expire(7, 10), 0);
        assert!(!changed(&fdb), "nothing expired");
        assert_eq!(fdb.expire(100, 10), 1);
        assert!(changed(&fdb), "expired");
        fdb.set_static(0, address(A), P1).unwrap();
        assert!(changed(&fdb), "static");
        fdb.flush(P1);
        assert!(!changed(&fdb), "static ones aren't flushed");
        assert!(fdb.remove(0, address(A)));
        assert!(changed(&fdb), "removed");
    }

    #[test]
    fn only_addresses_not_seen_for_longer_than_the_age_expire() {
        let fdb = fdb(100, 100);
        for (n, seen) in [(1, 100), (2, 90), (3, 89)] {
            fdb.learn(0, station(n), P1, seen);
        }
        // A worker's clock may be a little ahead of the control thread's.
        fdb.learn(0, station(4), P1, 101);
        assert_eq!(fdb.expire(100, 10), 1);
        let left: Vec<u64> = fdb.entries().iter().map(|e| number(e.mac) & 0xff).collect();
        assert_eq!(left, [1, 2, 4]);
        assert_eq!(fdb.learned_on(P1), 3);
    }

    #[test]
    fn being_seen_again_keeps_an_address_young() {
        let fdb = fdb(100, 100);
        fdb.learn(0, A, P1, 5);
        assert_eq!(fdb.learn(0, A, P1, 50), Learned::Refreshed);
        assert_eq!(fdb.entries()[0].seen_secs, 50);
        assert_eq!(fdb.expire(60, 10), 0);
    }

    #[test]
    fn a_port_at_its_limit_learns_no_more_and_evicts_nobody() {
        let fdb = fdb(1000, 10);
        fdb.learn(0, A, P2, 1);
        for n in 100..200 {
            let expected = if n < 110 { Learned::New } else { Learned::Limited };
            assert_eq!(fdb.learn(0, station(n), P1, 1), expected);
        }
        assert_eq!((fdb.learned_on(P1), fdb.refused_on(P1)), (10, 90));
        assert_eq!(fdb.lookup(0, A), Some(P2));
        assert_eq!(fdb.learn(0, A, P1, 1), Learned::Limited, "nor does it steal addresses");
        assert_eq!(fdb.learn(0, station(300), P2, 1), Learned::New);
        fdb.set_port_limit(P1, 11);
        assert_eq!(fdb.learn(0, station(200), P1, 1), Learned::New);
    }

    #[test]
    fn the_bridge_has_a_limit_too() {
        let fdb = fdb(5, 100);
        for n in 1..=5 {
            assert_eq!(fdb.learn(0, station(n), PortId(n as u16), 1), Learned::New);
        }
        assert_eq!(fdb.learn(0, station(6), PortId(6), 1), Learned::Limited);
        assert_eq!(fdb.learned_on(PortId(6)), 0);
        assert_eq!(fdb.flush(PortId(3)), 1);
        assert_eq!(fdb.learn(0, station(6), PortId(6), 1), Learned::New);
    }

    #[test]
    fn a_full_table_still_finds_room_for_nearly_all() {
        let fdb = fdb(8192, 8192);
        let new = (1..=8192).filter(|&n| fdb.learn(7, station(n), P1, 1) == Learned::New).count();
        assert!(new > 8192 - 40, "{new} of 8192");
        let found = (1..=8192).filter(|&n| fdb.lookup(7, station(n)) == Some(P1)).count();
        assert_eq!(found, new);
        assert_eq!(fdb.entries().len(), new);
        assert_eq!(fdb.flush_all(), new);
        assert_eq!((fdb.len(), fdb.learned_on(P1)), (0, 0));
    }

    #[test]
    fn addresses_of_groups_and_zero_are_not_learned() {
        let fdb = fdb(100, 100);
        for mac in [0, 0xffff_ffff_ffff, 0x01_80_c2_00_00_00, 0x33_33_00_00_00_01] {
            assert_eq!(fdb.learn(0, mac, P1, 1), Learned::Ignored);
            assert_eq!(fdb.lookup(0, mac), None);
        }
        assert_eq!(fdb.len(), 0);
    }

    #[test]
    fn a_port_number_beyond_the_table_learns_nothing() {
        assert_eq!(fdb(100, 100).learn(0, A, PortId(64), 1), Learned::Limited);
    }

    #[test]
    fn static_entries_neither_move_nor_age_nor_count() {
        let fdb = fdb(100, 100);
        fdb.learn(3, A, P2, 1);
        fdb.set_static(3, address(A), P1).unwrap();
        assert_eq!(fdb.learned_on(P2), 0);
        assert_eq!(fdb.learn(3, A, P2, 2), Learned::Refreshed);
        assert_eq!(fdb.lookup(3, A), Some(P1));
        assert_eq!(fdb.expire(1_000_000, 1) + fdb.flush(P1) + fdb.flush_all(), 0);
        assert_eq!(fdb.len(), 0);
        let mac = address(A);
        assert_eq!(fdb.entries(), [FdbEntry { vlan: 3, mac, port: P1, seen_secs: 0, is_static: true }]);
        fdb.set_static(3, mac, P2).unwrap();
        assert_eq!(fdb.lookup(3, A), Some(P2), "the operator may move it");
        assert!(fdb.remove(3, mac));
        assert!(!fdb.remove(3, mac));
        assert_eq!(fdb.lookup(3, A), None);
    }

    #[test]
    fn the_table_behaves_like_a_map() {
        use proptest::prelude::*;
        let step = (0u64..40, 0u16..3, 1u16..5, 0u32..4, 0u8..20);
        proptest!(|(steps in proptest::collection::vec(step, 1..300))| {
            let fdb = fdb(64, 12);
            let mut model: HashMap<(u16, u64), (u16, u32)> = HashMap::new();
            let mut now = 0;
            for (n, vlan, port, wait, action) in steps {
                now += wait;
                let mac = station(n);
                match action {
                    0 => {
                        fdb.flush(PortId(port));
                        model.retain(|_, at| at.0 != port);
                    }
                    1 => {
                        fdb.expire(now, 5);
                        model.retain(|_, at| now - at.1 <= 5);
                    }
                    _ => match fdb.learn(vlan, mac, PortId(port), now) {
                        Learned::New => prop_assert!(model.insert((vlan, mac), (port, now)).is_none()),
                        Learned::Moved => prop_assert_ne!(model.insert((vlan, mac), (port, now)).unwrap().0, port),
                        Learned::Refreshed => prop_assert_eq!(model.insert((vlan, mac), (port, now)).unwrap().0, port),
                        Learned::Limited => {
                            let full = model.values().filter(|at| at.0 == port).count() == 12;
                            prop_assert!(full || model.len() >= 40, "refused with {} entries", model.len());
                        }
                        Learned::Ignored => prop_assert!(false),
                    },
                }
                let mut listed: Vec<_> = model.iter().map(|(&(vlan, mac), &(port, seen))| FdbEntry {
                    vlan, mac: address(mac), port: PortId(port), seen_secs: seen, is_static: false,
                }).collect();
                listed.sort_unstable();
                prop_assert_eq!(fdb.entries(), listed);
                prop_assert_eq!(fdb.len(), model.len());
            }
        });
    }

    /// Every station has two ports it may be on, so a wrong answer can be told from a late one.
    #[test]
    fn racing_workers_never_find_an_address_on_a_port_it_was_not_on() {
        let homes = |n: u64, vlan: u16| [PortId((n % 30) as u16 + vlan), PortId((n % 30) as u16 + vlan + 31)];
        // Few buckets: places change hands all the time.
        let fdb = fdb(16, 16);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3u64)
                .map(|worker| {
                    let (fdb, stop) = (&fdb, &stop);
                    scope.spawn(move || {
                        let mut random = worker + 1;
                        let mut found = 0;
                        for round in 0..150_000u32 {
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            let (n, vlan) = (random % 40 + 1, (random >> 32) as u16 % 2);
                            fdb.learn(vlan, station(n), homes(n, vlan)[(random >> 40) as usize % 2], round);
                            let (n, vlan) = ((random >> 8) % 40 + 1, (random >> 33) as u16 % 2);
                            if let Some(port) = fdb.lookup(vlan, station(n)) {
                                assert!(homes(n, vlan).contains(&port), "{n} in {vlan} on {port}");
                                found += 1;
                            }
                        }
                        stop.store(true, Ordering::Relaxed);
                        found
                    })
                })
                .collect();
            let mut port = 0;
            while !stop.load(Ordering::Relaxed) {
                port = (port + 1) % 64;
                fdb.flush(PortId(port));
                if port == 0 {
                    fdb.flush_all();
                }
            }
            let found: u64 = workers.into_iter().map(|w| w.join().unwrap()).sum();
            assert!(found > 0);
        });
        let entries = fdb.entries();
        let mut identities: Vec<_> = entries.iter().map(|e| (e.vlan, e.mac)).collect();
        identities.dedup();
        assert_eq!(identities.len(), entries.len(), "no twins are left");
        assert_eq!(fdb.len(), entries.len());
        for port in (0..64).map(PortId) {
            assert_eq!(fdb.learned_on(port) as usize, entries.iter().filter(|e| e.port == port).count());
        }
        fdb.flush_all();
        assert!(fdb.entries().is_empty(), "no place is stuck");
    }
}
