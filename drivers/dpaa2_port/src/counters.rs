//! What the driver itself counts of a port, beside the frames.

use std::sync::atomic::{AtomicU64, Ordering};

use dpaa2_defs::annotation::fas;

/// Counters of a port, shared by its queues. Each stands for something rare, so they are plain atomics.
#[derive(Debug)]
pub(crate) struct DriverCounters {
    /// Frames with an error, by the bits of the frame annotation status.
    errors: [AtomicU64; fas::ERROR_NAMES.len()],
    /// Frame descriptors that can't be.
    pub bad_descriptors: AtomicU64,
    /// Buffers nobody can name any more; at least so many, since a bad descriptor counts as one.
    pub lost_buffers: AtomicU64,
    /// Frames taken over from another interface without a copy.
    pub moved: AtomicU64,
    /// Turns in which the transmit queue was congested.
    pub congested: AtomicU64,
}

impl Default for DriverCounters {
    fn default() -> Self {
        Self {
            errors: std::array::from_fn(|_| AtomicU64::new(0)),
            bad_descriptors: AtomicU64::new(0),
            lost_buffers: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            congested: AtomicU64::new(0),
        }
    }
}

impl DriverCounters {
    /// Counts each error of a frame's status.
    #[cold]
    pub fn errors(&self, status: u32) {
        for (counter, (bit, ..)) in self.errors.iter().zip(fas::ERROR_NAMES) {
            if status & bit != 0 {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Every counter with its name.
    pub fn all(&self) -> Vec<(String, u64)> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let errors = self.errors.iter().zip(fas::ERROR_NAMES);
        let mut all: Vec<_> =
            errors.map(|(counter, (_, name, _))| (format!("error-{name}"), value(counter))).collect();
        for (name, counter) in [
            ("bad-descriptors", &self.bad_descriptors),
            ("lost-buffers", &self.lost_buffers),
            ("moved-frames", &self.moved),
            ("congested-turns", &self.congested),
        ] {
            all.push((name.to_owned(), value(counter)));
        }
        all
    }
}

/// Adds to a counter that is rarely touched.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
