//! What a worker counts about itself: plain counters, read by the control thread whenever it likes.

use port::Counter;

/// Stages of the path a frame takes, as far as cycles are attributed to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the sender's ring.
    Receive,
    /// Copying heads and extracting keys.
    Parse,
    /// Caches and rules.
    Lookup,
    /// Executing what was decided, up to the choice of output.
    Act,
    /// Writing to receivers' rings.
    Transmit,
    /// Giving buffers back to the sender.
    Release,
}

impl Stage {
    /// Every stage, in the order a frame meets them.
    pub const ALL: [Stage; 6] =
        [Stage::Receive, Stage::Parse, Stage::Lookup, Stage::Act, Stage::Transmit, Stage::Release];

    /// Its name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Parse => "parse",
            Stage::Lookup => "lookup",
            Stage::Act => "act",
            Stage::Transmit => "transmit",
            Stage::Release => "release",
        }
    }
}

/// Upper bounds of the burst-size histogram's buckets.
pub const BURST_BUCKETS: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// Upper bounds of the cycles-per-frame histogram's buckets; one more for everything above.
pub const CYCLE_BUCKETS: [u64; 8] = [32, 64, 128, 256, 512, 1024, 4096, 16384];

/// Counters of one worker. Cycles are ticks of [`packet::cycles::now`].
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct WorkerStats {
    /// Ticks of bursts that moved frames.
    pub busy_cycles: Counter,
    /// Ticks of polls that found nothing, sleep included.
    pub idle_cycles: Counter,
    /// Frames received.
    pub frames: Counter,
    /// Bursts that were not empty.
    pub bursts: Counter,
    /// Loop turns.
    pub turns: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
    /// Bursts by number of frames, see [`BURST_BUCKETS`].
    pub burst_sizes: [Counter; BURST_BUCKETS.len()],
    /// Bursts by cycles per frame, see [`CYCLE_BUCKETS`].
    pub frame_cycles: [Counter; CYCLE_BUCKETS.len() + 1],
    /// Frames decided by their port alone.
    pub shortcut_hits: Counter,
    /// Frames decided by the exact-match cache.
    pub exact_hits: Counter,
    /// Frames decided by a megaflow.
    pub megaflow_hits: Counter,
    /// Frames decided by the rules.
    pub misses: Counter,
    /// Times the caches were emptied: rules changed, or no room for another verdict.
    pub cache_flushes: Counter,
    /// Frames of bursts whose stages were timed.
    pub stage_frames: Counter,
    /// Ticks by [`Stage`], while asked for.
    pub stages: [Counter; Stage::ALL.len()],
}

impl WorkerStats {
    /// Books a burst that was not empty.
    #[inline]
    pub(crate) fn burst(&self, frames: u64, cycles: u64) {
        self.busy_cycles.add(cycles);
        self.frames.add(frames);
        self.bursts.add(1);
        // 1, 2, 3-4, 5-8, 9-16, 17-32.
        let size = (64 - (frames - 1).leading_zeros()) as usize;
        self.burst_sizes[size.min(BURST_BUCKETS.len() - 1)].add(1);
        let per_frame = cycles / frames;
        let bucket =
            CYCLE_BUCKETS.iter().position(|&limit| per_frame <= limit).unwrap_or(CYCLE_BUCKETS.len());
        self.frame_cycles[bucket].add(1);
    }

    /// Books ticks of a stage.
    #[inline]
    pub(crate) fn stage(&self, stage: Stage, cycles: u64) {
        self.stages[stage as usize].add(cycles);
    }
}
