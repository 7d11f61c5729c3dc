//! The MAC table, shared by all workers.
//!
//! Lock-free: an entry is two atomic words in a bucket of one cache line. The key word (address, VLAN, state) is
//! claimed by compare-and-swap and published after the value word (port, time), so who reads key, value and
//! the same key again has a pair that belonged together. A race between workers can lose a learn or learn an
//! address twice (the copy further back is never found and ages out); it can't invent a port.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use port::PortId;

/// Entries in a bucket: one cache line.
const WAYS: usize = 4;
/// Buckets an address can be in, one after the other.
const PROBES: usize = 2;
/// Key word: the entry is in use.
const VALID: u64 = 1 << 63;
/// Key word: somebody is filling the entry.
const CLAIMED: u64 = 1 << 62;

/// What became of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known on this port already.
    Refreshed,
    /// New.
    New,
    /// Known on another port until now.
    Moved,
    /// Not learned: a limit is reached, or its buckets are full.
    Limited,
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The address.
    pub mac: [u8; 6],
    /// Its VLAN.
    pub vlan: u16,
    /// Where it was seen last.
    pub port: PortId,
    /// And when, in seconds of the workers' clock.
    pub seen_secs: u32,
}

/// Bounds of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbLimits {
    /// Addresses in all.
    pub addresses: u32,
    /// Addresses of one port: no port takes the room of the others.
    pub per_port: u32,
}

#[derive(Default)]
struct Entry {
    key: AtomicU64,
    value: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket([Entry; WAYS]);

/// The MAC table of a bridge.
pub struct Fdb {
    buckets: Box<[Bucket]>,
    seed: u64,
    limits: FdbLimits,
    count: AtomicU32,
    per_port: Box<[AtomicU32]>,
    generation: Generation,
}

/// On a line of its own: every worker reads it for every frame.
#[derive(Default)]
#[repr(align(64))]
struct Generation(AtomicU64);

fn pack(port: PortId, secs: u32) -> u64 {
    u64::from(port.0) << 32 | u64::from(secs)
}

fn unpack(value: u64) -> (PortId, u32) {
    (PortId((value >> 32) as u16), value as u32)
}

impl Fdb {
    /// An empty table for ports numbered below `ports`. `seed` makes its hash unpredictable.
    pub fn new(limits: FdbLimits, ports: usize, seed: u64) -> Fdb {
        // Half full at the limit, so that a full bucket is rare.
        let buckets = (limits.addresses as usize * 2).div_ceil(WAYS).next_power_of_two().max(PROBES);
        Fdb {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            seed: seed | 1,
            limits,
            count: AtomicU32::new(0),
            per_port: (0..ports).map(|_| AtomicU32::new(0)).collect(),
            generation: Generation::default(),
        }
    }

    /// Changes whenever an answer of [`lookup`](Self::lookup) may.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation.0.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.0.fetch_add(1, Ordering::Release);
    }

    /// Addresses known.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline(always)]
    fn entries_for(&self, key: u64) -> impl Iterator<Item = &Entry> {
        let product =
            u128::from(key ^ self.seed) * u128::from(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let first = ((product >> 64) as u64 ^ product as u64) as usize;
        let mask = self.buckets.len() - 1;
        (0..PROBES).flat_map(move |p| &self.buckets[first.wrapping_add(p) & mask].0)
    }

    #[inline(always)]
    fn find(&self, key: u64) -> Option<(&Entry, u64)> {
        for entry in self.entries_for(key) {
            if entry.key.load(Ordering::Acquire) == key {
                let value = entry.value.load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                if entry.key.load(Ordering::Relaxed) == key {
                    return Some((entry, value));
                }
            }
        }
        None
    }

    /// Where the address was seen last. `mac` in the low 48 bits.
    #[inline]
    pub fn lookup(&self, vlan: u16, mac: u64) -> Option<PortId> {
        self.find(key(vlan, mac)).map(|(_, value)| unpack(value).0)
    }

    /// Notes that a frame from this address came in by `port`. Group addresses and zero are not learned.
    #[inline]
    pub fn learn(&self, vlan: u16, mac: u64, port: PortId, now_secs: u32) -> Learned {
        if mac >> 40 & 1 != 0 || mac == 0 {
            return Learned::Limited;
        }
        let key = key(vlan, mac);
        let new = pack(port, now_secs);
        let Some((entry, old)) = self.find(key) else { return self.insert(key, port, new) };
        if old == new {
            return Learned::Refreshed;
        }
        let (old_port, _) = unpack(old);
        if old_port == port {
            // Lost if another worker wrote meanwhile: it was seen by that one.
            let _ = entry.value.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
            return Learned::Refreshed;
        }
        if !self.admit(port) {
            return Learned::Limited;
        }
        if entry.value.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.leave(port);
            return Learned::Refreshed;
        }
        self.leave(old_port);
        self.changed();
        Learned::Moved
    }

    #[cold]
    fn insert(&self, key: u64, port: PortId, value: u64) -> Learned {
        if self.count.load(Ordering::Relaxed) >= self.limits.addresses || !self.admit(port) {
            return Learned::Limited;
        }
        for entry in self.entries_for(key) {
            if entry.key.load(Ordering::Relaxed) == 0
                && entry.key.compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                entry.value.store(value, Ordering::Relaxed);
                entry.key.store(key, Ordering::Release);
                self.count.fetch_add(1, Ordering::Relaxed);
                self.changed();
                return Learned::New;
            }
        }
        self.leave(port);
        Learned::Limited
    }

    fn admit(&self, port: PortId) -> bool {
        let Some(count) = self.per_port.get(port.0 as usize) else { return false };
        let within = |n: u32| (n < self.limits.per_port).then_some(n + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    fn leave(&self, port: PortId) {
        if let Some(count) = self.per_port.get(port.0 as usize) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets addresses not seen for `max_age_secs`, and returns how many.
    pub fn expire(&self, now_secs: u32, max_age_secs: u32) -> usize {
        // A worker's second may be one ahead of the caller's.
        self.forget(|_, seen| (now_secs.wrapping_sub(seen) as i32) > max_age_secs as i32)
    }

    /// Forgets what was learned on a port, and returns how many addresses that were.
    pub fn flush(&self, port: PortId) -> usize {
        self.forget(|p, _| p == port)
    }

    /// Called by the control thread alone.
    fn forget(&self, which: impl Fn(PortId, u32) -> bool) -> usize {
        let mut forgotten = 0;
        for entry in self.buckets.iter().flat_map(|b| &b.0) {
            let key = entry.key.load(Ordering::Acquire);
            let (port, seen) = unpack(entry.value.load(Ordering::Relaxed));
            if key & VALID != 0 && which(port, seen) {
                entry.key.store(0, Ordering::Release);
                self.count.fetch_sub(1, Ordering::Relaxed);
                // The port the value names now: a move since the read above took the count along.
                self.leave(unpack(entry.value.load(Ordering::Relaxed)).0);
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            self.changed();
        }
        forgotten
    }

    /// Everything that is known, in no order.
    pub fn entries(&self) -> Vec<FdbEntry> {
        let entries = self.buckets.iter().flat_map(|b| &b.0);
        entries
            .filter_map(|entry| {
                let key = entry.key.load(Ordering::Acquire);
                let (port, seen_secs) = unpack(entry.value.load(Ordering::Relaxed));
                let mac = key.to_be_bytes()[2..].try_into().expect("eight bytes less two");
                let vlan = (key >> 48) as u16 & 0x0fff;
                (key & VALID != 0).then_some(FdbEntry { mac, vlan, port, seen_secs })
            })
            .collect()
    }
}

fn key(vlan: u16, mac: u64) -> u64 {
    VALID | u64::from(vlan & 0x0fff) << 48 | mac & 0xffff_ffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(addresses: u32, per_port: u32) -> Fdb {
        Fdb::new(FdbLimits { addresses, per_port }, 8, 0x1234_5678_9abc_def1)
    }

    #[test]
    fn an_address_is_found_where_it_was_seen_last_in_its_own_vlan() {
        let fdb = table(100, 100);
        assert_eq!(fdb.learn(0, 0x02_00_00_00_00_01, PortId(1), 10), Learned::New);
        assert_eq!(fdb.lookup(0, 0x02_00_00_00_00_01), Some(PortId(1)));
        assert_eq!(fdb.lookup(5, 0x02_00_00_00_00_01), None);
        let before = fdb.generation();
        assert_eq!(fdb.learn(0, 0x02_00_00_00_00_01, PortId(1), 11), Learned::Refreshed);
        assert_eq!(fdb.generation(), before, "a refresh changes no answer");
        assert_eq!(fdb.learn(0, 0x02_00_00_00_00_01, PortId(2), 11), Learned::Moved);
        assert_ne!(fdb.generation(), before);
        assert_eq!(fdb.lookup(0, 0x02_00_00_00_00_01), Some(PortId(2)));
        assert_eq!(fdb.len(), 1);
    }

    #[test]
    fn group_addresses_and_zero_are_not_learned() {
        let fdb = table(100, 100);
        for mac in [0x01_00_5e_00_00_01, 0xffff_ffff_ffff, 0] {
            assert_eq!(fdb.learn(0, mac, PortId(1), 0), Learned::Limited);
        }
        assert!(fdb.is_empty());
    }

    #[test]
    fn one_port_cannot_take_the_room_of_another() {
        let fdb = table(1000, 50);
        let learned = (1..=500u64).filter(|&m| fdb.learn(0, m, PortId(1), 0) == Learned::New).count();
        assert_eq!(learned, 50);
        assert_eq!(fdb.learn(0, 0x99_0000, PortId(2), 0), Learned::New);
        fdb.flush(PortId(1));
        assert_eq!(fdb.learn(0, 0x77_0000, PortId(1), 0), Learned::New, "flushing gives the room back");
    }

    #[test]
    fn old_addresses_are_forgotten_and_young_ones_stay() {
        let fdb = table(100, 100);
        fdb.learn(0, 0x10, PortId(1), 100);
        fdb.learn(0, 0x20, PortId(1), 390);
        assert_eq!(fdb.expire(401, 300), 1);
        assert_eq!(fdb.lookup(0, 0x10), None);
        assert_eq!(fdb.lookup(0, 0x20), Some(PortId(1)));
        assert_eq!(fdb.expire(389, 300), 0, "seen in the future is not old");
    }

    #[test]
    fn entries_list_what_was_learned() {
        let fdb = table(100, 100);
        fdb.learn(7, 0x02_aa_bb_cc_dd_ee, PortId(3), 42);
        let entry =
            FdbEntry { mac: [2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee], vlan: 7, port: PortId(3), seen_secs: 42 };
        assert_eq!(fdb.entries(), [entry]);
    }

    #[test]
    fn racing_learners_never_invent_a_port_for_an_address() {
        // Address m is only ever learned on port m % 4.
        let fdb = table(64, 64);
        std::thread::scope(|scope| {
            for t in 0..2u64 {
                let fdb = &fdb;
                scope.spawn(move || {
                    for round in 0..20_000u64 {
                        let mac = 1 + (round * 7 + t * 3) % 200;
                        fdb.learn(0, mac, PortId((mac % 4) as u16), (round / 100) as u32);
                        if let Some(port) = fdb.lookup(0, mac) {
                            assert_eq!(u64::from(port.0), mac % 4);
                        }
                    }
                });
            }
            for port in (0..4).cycle().take(2_000) {
                fdb.flush(PortId(port));
            }
        });
        for port in 0..4 {
            fdb.flush(PortId(port));
        }
        assert!(fdb.is_empty());
    }
}
