//! Frame and byte counters of rules.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::RuleSlot;

/// Slots in a chunk.
const CHUNK: usize = 1024;
/// Chunks there can be.
const CHUNKS: usize = 4096;

/// Most rules of a bridge.
pub(crate) const SLOTS_MAX: usize = CHUNK * CHUNKS;

/// What the rules of a bridge have counted.
///
/// Every worker writes cells of its own with plain loads and stores; control reads their sum. Chunks are added as
/// rules are, and never go away.
pub struct RuleStats {
    workers: usize,
    chunks: Box<[OnceLock<Box<[Cell]>>]>,
}

#[derive(Default)]
struct Cell {
    frames: AtomicU64,
    bytes: AtomicU64,
    last_used: AtomicU32,
}

/// What a rule has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Second of the last of them; 0 when there was none.
    pub last_used: u32,
}

impl RuleStats {
    pub(crate) fn new(workers: usize) -> RuleStats {
        RuleStats { workers: workers.max(1), chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    /// How many workers it has cells for.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Cells of a worker lie together, so that workers don't write to each other's cache lines.
    fn place(worker: usize, slot: RuleSlot) -> (usize, usize) {
        (slot as usize / CHUNK, worker * CHUNK + slot as usize % CHUNK)
    }

    /// Makes room for the slot, with everything at zero. Nobody may be counting in it.
    pub(crate) fn clear(&self, slot: RuleSlot) {
        let (chunk, _) = Self::place(0, slot);
        let cells =
            self.chunks[chunk].get_or_init(|| (0..self.workers * CHUNK).map(|_| Cell::default()).collect());
        for worker in 0..self.workers {
            let cell = &cells[Self::place(worker, slot).1];
            cell.frames.store(0, Relaxed);
            cell.bytes.store(0, Relaxed);
            cell.last_used.store(0, Relaxed);
        }
    }

    /// Counts frames of a rule that an evaluation named. Only `worker` itself may call this with its number.
    ///
    /// # Panics
    /// If `worker` is not below [`workers`](Self::workers).
    #[inline]
    pub fn add(&self, worker: usize, slot: RuleSlot, frames: u64, bytes: u64, now_secs: u32) {
        assert!(worker < self.workers);
        let (chunk, cell) = Self::place(worker, slot);
        // A rule's chunk is there before any snapshot names the rule.
        let Some(cells) = self.chunks.get(chunk).and_then(OnceLock::get) else { return };
        let cell = &cells[cell];
        cell.frames.store(cell.frames.load(Relaxed).wrapping_add(frames), Relaxed);
        cell.bytes.store(cell.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        cell.last_used.store(now_secs, Relaxed);
    }

    /// The sum over all workers.
    pub fn read(&self, slot: RuleSlot) -> Credit {
        let mut sum = Credit::default();
        let (chunk, _) = Self::place(0, slot);
        let Some(cells) = self.chunks.get(chunk).and_then(OnceLock::get) else { return sum };
        for worker in 0..self.workers {
            let cell = &cells[Self::place(worker, slot).1];
            sum.frames += cell.frames.load(Relaxed);
            sum.bytes += cell.bytes.load(Relaxed);
            sum.last_used = sum.last_used.max(cell.last_used.load(Relaxed));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_count_is_summed_and_cleared() {
        let stats = RuleStats::new(2);
        for slot in [0, 1023, 1024] {
            stats.clear(slot);
        }
        stats.add(0, 1023, 2, 120, 5);
        stats.add(1, 1023, 1, 60, 4);
        stats.add(1, 1024, 7, 7, 7);
        assert_eq!(stats.read(1023), Credit { frames: 3, bytes: 180, last_used: 5 });
        stats.clear(1023);
        assert_eq!(stats.read(1023), Credit::default());
        assert_eq!(stats.read(1024).frames, 7);
    }

    #[test]
    fn a_slot_that_was_never_used_reads_as_nothing() {
        assert_eq!(RuleStats::new(1).read(u32::MAX), Credit::default());
    }
}
