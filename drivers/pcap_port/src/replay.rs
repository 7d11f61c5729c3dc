//! The receive queue that replays a capture.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use packet::{Burst, Offload};
use port::{Armed, DropReason, PortCounters, QueueFault, RxQueue};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::Capture;

/// How fast a capture is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// By its time stamps, so many times as fast.
    Recorded(Speed),
    /// So many frames a second.
    FramesPerSecond(NonZeroU64),
    /// As fast as the worker takes them.
    Unpaced,
}

/// How many times as fast as recorded: positive and finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed(f64);

impl Speed {
    /// As recorded.
    pub const RECORDED: Speed = Speed(1.0);

    /// A factor from a billionth to a billion, `None` for any other.
    pub fn new(factor: f64) -> Option<Speed> {
        (1e-9..=1e9).contains(&factor).then_some(Speed(factor))
    }
}

/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
/// Sooner than this the next frame is polled for, not slept for.
const SLEEP_MIN_NS: u64 = 50_000;
/// From the start of one loop to the next when a capture has no gap to go by.
const LOOP_DEFAULT_NS: u64 = 1_000_000_000;

/// Replays a capture, once or again and again. Time starts with the first call of `receive`.
pub struct PcapRx {
    capture: Arc<Capture>,
    pace: Pace,
    /// Loops to begin after this one. `None`: without end.
    loops_left: Option<u64>,
    /// The next frame of this loop.
    next: usize,
    /// Frames replayed in all.
    replayed: u64,
    /// When this loop began, by the capture's own clock.
    loop_start_ns: u64,
    start_ns: Option<u64>,
    clock: Box<dyn FnMut() -> u64 + Send>,
    /// Fires when the next frame is due. `None` when the process had no descriptor left: then it must be polled.
    timer: Option<OwnedFd>,
}

impl PcapRx {
    /// Replays `capture` so many times in a row; `None`: without end.
    ///
    /// Frames that are late, since the worker was busy or slept, follow as fast as it takes them. The next loop
    /// begins one mean gap after the last frame (one second for a capture of a single moment).
    pub fn new(capture: Arc<Capture>, pace: Pace, loops: Option<u64>) -> PcapRx {
        let start = Instant::now();
        Self::with_clock(capture, pace, loops, move || start.elapsed().as_nanos() as u64)
    }

    /// As [`new`](Self::new), with a clock of the caller's: nanoseconds that never decrease. Read once a burst.
    pub fn with_clock(
        capture: Arc<Capture>,
        pace: Pace,
        loops: Option<u64>,
        clock: impl FnMut() -> u64 + Send + 'static,
    ) -> PcapRx {
        let (next, loops_left) = match loops {
            // Nothing to replay: at its end from the beginning.
            Some(0) => (capture.frames(), Some(0)),
            _ if capture.frames() == 0 => (0, Some(0)),
            Some(n) => (0, Some(n - 1)),
            None => (0, None),
        };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        PcapRx {
            capture,
            pace,
            loops_left,
            next,
            replayed: 0,
            loop_start_ns: 0,
            start_ns: None,
            clock: Box::new(clock),
            timer: timerfd_create(TimerfdClockId::Monotonic, flags).ok(),
        }
    }

    /// Whether every frame of every loop was received.
    pub fn is_finished(&self) -> bool {
        self.next == self.capture.frames() && self.loops_left == Some(0)
    }

    /// Time since the start, or nothing to compare with when there is no pace.
    fn elapsed_ns(&mut self) -> u64 {
        if self.pace == Pace::Unpaced {
            return u64::MAX;
        }
        let now = (self.clock)();
        now.saturating_sub(*self.start_ns.get_or_insert(now))
    }

    /// When the next frame is due, after the start.
    fn due_ns(&self) -> u64 {
        match self.pace {
            Pace::Unpaced => 0,
            Pace::FramesPerSecond(rate) => {
                let due = u128::from(self.replayed) * 1_000_000_000 / u128::from(rate.get());
                u64::try_from(due).unwrap_or(u64::MAX)
            }
            Pace::Recorded(Speed(factor)) => {
                let at = self.loop_start_ns.saturating_add(self.capture.at_ns(self.next));
                (at as f64 / factor) as u64
            }
        }
    }

    fn step(&mut self) {
        self.replayed += 1;
        self.next += 1;
        if self.next == self.capture.frames() && self.loops_left != Some(0) {
            self.next = 0;
            self.loops_left = self.loops_left.map(|n| n - 1);
            self.loop_start_ns = self.loop_start_ns.saturating_add(loop_ns(&self.capture));
        }
    }

    /// Sets the timer to fire in `ns`, or (0) not at all.
    fn set_timer(&self, ns: u64) -> rustix::io::Result<()> {
        let Some(timer) = &self.timer else { return Ok(()) };
        let it_value = Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).map(|_| ())
    }
}

/// How long one loop takes: the capture, and one mean gap.
fn loop_ns(capture: &Capture) -> u64 {
    let gaps = capture.frames().saturating_sub(1) as u64;
    match capture.duration_ns() {
        0 => LOOP_DEFAULT_NS,
        duration => duration.saturating_add(duration / gaps.max(1)),
    }
}

impl RxQueue for PcapRx {
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        if self.is_finished() {
            return Ok(());
        }
        let now = self.elapsed_ns();
        let (mut frames, mut bytes, mut runts) = (0, 0, 0);
        // Bounded by the burst in frames taken, runts included.
        for _ in 0..burst.room() {
            if self.is_finished() || self.due_ns() > now {
                break;
            }
            let frame = self.capture.frame(self.next);
            frames += 1;
            bytes += frame.len() as u64;
            if frame.len() < FRAME_MIN {
                runts += 1;
            } else {
                // SAFETY: the capture is immutable and owned by this queue, which outlives the burst's frames.
                unsafe { burst.push(frame.as_ptr(), frame.len() as u32, Offload::default(), 0) };
            }
            self.step();
        }
        if frames > 0 {
            counters.received(frames, bytes);
            counters.dropped(DropReason::Runt, runts);
        }
        Ok(())
    }

    fn release(&mut self, _burst: &mut Burst, _counters: &PortCounters) {}

    fn arm(&mut self) -> Armed {
        if self.is_finished() {
            return Armed::Waiting;
        }
        let wait = self.due_ns().saturating_sub(self.elapsed_ns());
        if wait < SLEEP_MIN_NS || self.set_timer(wait).is_err() { Armed::Ready } else { Armed::Waiting }
    }

    fn disarm(&mut self) {
        // A timer that fires for nothing wakes a sleeper once.
        let _ = self.set_timer(0);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().map(|timer| timer.as_fd())
    }
}
