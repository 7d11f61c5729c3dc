//! How far apart two cores are right now.
//!
//! A hypervisor moves virtual cores without notice. Between cores that share a cache a line goes back and forth in 65 to
//! 280 ns, between others in 360 to 420 ns, and a switch whose peer is far is 1.5 to 3 times slower. Two threads of one core
//! (about 25 ns) share its execution units and are slow in another way. Figures of different states must never be pooled,
//! so each benchmark run is labelled by a ping-pong before and after it.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Round trips above this are "far". It lies in the gap between the two groups seen on AMD and Intel servers.
const FAR_NS: f64 = 320.0;

/// Round trips below this are between two threads of one core.
const SIBLINGS_NS: f64 = 45.0;

/// State of the two cores during one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Two threads of one core, before and after.
    Siblings,
    /// Near before and after.
    Near,
    /// Far before and after.
    Far,
    /// It changed meanwhile: the run says nothing.
    Mixed,
}

impl Placement {
    /// Judges two round-trip times in nanoseconds.
    pub fn of(before_ns: f64, after_ns: f64) -> Self {
        let state = |ns: f64| match ns {
            ns if ns < SIBLINGS_NS => Self::Siblings,
            ns if ns > FAR_NS => Self::Far,
            _ => Self::Near,
        };
        let (before, after) = (state(before_ns), state(after_ns));
        if before == after { before } else { Self::Mixed }
    }
}

impl std::fmt::Display for Placement {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Siblings => "siblings",
            Self::Near => "near",
            Self::Far => "far",
            Self::Mixed => "mixed",
        })
    }
}

/// A cache line of its own (two, for adjacent-line prefetch).
#[repr(align(128))]
struct Line(AtomicU64);

/// Median time in nanoseconds for a cache line to travel from `core_a` to `core_b` and back.
///
/// Takes about 20 ms on idle cores. If a core is shared with somebody the figure is meaningless, but bounded.
///
/// # Errors
/// When a core does not exist or may not be used.
pub fn ping_pong_ns(core_a: usize, core_b: usize) -> Result<f64> {
    const ROUNDS: u64 = 25;
    const TRIPS: u64 = 2_000;
    let (there, back, give_up) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)), AtomicBool::new(false));
    let wait_for = |line: &Line, value: u64| {
        while line.0.load(Ordering::Acquire) != value && !give_up.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let pin_or_give_up = |core| pin(core).inspect_err(|_| give_up.store(true, Ordering::Relaxed));
    let mut samples = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let answerer = scope.spawn(|| -> Result<()> {
            pin_or_give_up(core_b)?;
            for value in 1..=ROUNDS * TRIPS {
                wait_for(&there, value);
                back.0.store(value, Ordering::Release);
            }
            Ok(())
        });
        let asker = scope.spawn(|| -> Result<Vec<f64>> {
            pin_or_give_up(core_a)?;
            let mut samples = Vec::new();
            for round in 0..ROUNDS {
                let start = Instant::now();
                for value in round * TRIPS + 1..=(round + 1) * TRIPS {
                    there.0.store(value, Ordering::Release);
                    wait_for(&back, value);
                }
                samples.push(start.elapsed().as_nanos() as f64 / TRIPS as f64);
            }
            Ok(samples)
        });
        let samples = asker.join().expect("the asker does not panic");
        answerer.join().expect("the answerer does not panic")?;
        samples
    })?;
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

/// Keeps the calling thread on a core.
///
/// # Errors
/// When there is no such core, or it isn't ours.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("pinning a thread to core {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_counts_only_when_it_held_from_start_to_end() {
        assert_eq!(Placement::of(70.0, 250.0), Placement::Near);
        assert_eq!(Placement::of(410.0, 380.0), Placement::Far);
        assert_eq!(Placement::of(24.0, 23.0), Placement::Siblings);
        assert_eq!(Placement::of(210.0, 410.0), Placement::Mixed);
        assert_eq!(Placement::of(24.0, 110.0), Placement::Mixed);
    }
}
