//! The portals of the workers: one each, which all queues that a worker serves use in turn.
//!
//! A portal has one volatile dequeue under way at a time. So the receive queues of a worker take turns: who has got all its
//! frames asks for those of the queue that is polled next, and hardware fetches them while the first ones are forwarded. However
//! many queues there are, each poll finds its frames in memory and costs one doorbell.
//!
//! One portal is enough for a worker: enqueues are fetched from their ring in order and at once, and a second portal would
//! only have a second dequeue under way, which the worker couldn't look at any sooner.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dpaa2_defs::fd::Fd;
use dpaa2_defs::qbman::management::ConfigureChannel;
use dpaa2_qbman::{PortalError, Results, Settled, Source};
use fslmc_bus::{Bus, BusError};
use packet::BURST_MAX;

use crate::io::Io;

/// Most receive queues of one worker.
const SEATS_MAX: usize = 256;
/// How long hardware may take for a dequeue: it takes microseconds.
pub(crate) const PULL_TIMEOUT: Duration = Duration::from_millis(500);
/// Looks at a dequeue without an answer between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 4096;
/// How long a queue that leaves waits for its dequeue.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(50);

/// The portal of one worker. Only its own thread uses it, which the lock proves: it is never waited for while frames move.
pub(crate) struct WorkerPortal<B: Bus> {
    serving: Mutex<Serving<B>>,
    /// Becomes readable when one of the queues that asked for it has a frame.
    event: Option<OwnedFd>,
    /// The DPIO's number.
    dpio: u32,
}

impl<B: Bus> WorkerPortal<B> {
    pub fn new(io: Io<B>) -> Result<WorkerPortal<B>, BusError> {
        let event = io.interrupt.as_ref().map(|interrupt| interrupt.as_fd().try_clone_to_owned()).transpose();
        let event = event.map_err(|cause| BusError::system("an event descriptor", cause))?;
        let dpio = io.id();
        let seats = Vec::with_capacity(SEATS_MAX);
        let serving = Serving { io, seats, pulling: None, last: 0, wait: Wait::default(), is_armed: false };
        Ok(WorkerPortal { serving: Mutex::new(serving), event, dpio })
    }

    /// The DPIO's number.
    pub fn dpio(&self) -> u32 {
        self.dpio
    }

    /// A descriptor of one's own of the event, if the portal has one.
    pub fn event(&self) -> Option<OwnedFd> {
        self.event.as_ref()?.try_clone().ok()
    }

    #[inline(always)]
    pub fn serving(&self) -> MutexGuard<'_, Serving<B>> {
        self.serving.lock().expect("no holder panics")
    }
}

/// A portal and the receive queues that take turns on it.
pub(crate) struct Serving<B: Bus> {
    pub io: Io<B>,
    /// Never grows past its capacity.
    seats: Vec<Option<Seat<B>>>,
    /// Whose dequeue is under way.
    pulling: Option<usize>,
    /// Who was polled last.
    last: usize,
    wait: Wait,
    is_armed: bool,
}

/// A receive queue's place.
struct Seat<B: Bus> {
    results: Results<B>,
    source: Source,
    /// Who was polled after it the last time: the next to ask for.
    follower: usize,
    /// Frames that came for it while others were polled and it was not.
    aside: Vec<Fd>,
    /// Whether it takes frames now.
    is_open: bool,
}

/// How long there has been no answer.
#[derive(Default)]
struct Wait {
    looks: u32,
    since: Option<Instant>,
}

impl Wait {
    /// Notes that there is none yet. The clock is looked at only now and then.
    #[inline(always)]
    fn look(&mut self) -> Result<(), PortalError> {
        self.looks += 1;
        if self.looks < LOOKS_PER_CLOCK { Ok(()) } else { self.look_at_the_clock() }
    }

    #[cold]
    fn look_at_the_clock(&mut self) -> Result<(), PortalError> {
        self.looks = 0;
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < PULL_TIMEOUT { Ok(()) } else { Err(PortalError::NoResult) }
    }
}

impl<B: Bus> Serving<B> {
    /// Gives a receive queue a place; its results come back when there is none left.
    pub fn sit(&mut self, results: Results<B>, source: Source) -> Result<usize, Results<B>> {
        let free = self.seats.iter().position(Option::is_none);
        let at = match free {
            Some(at) => at,
            None if self.seats.len() < SEATS_MAX => {
                self.seats.push(None);
                self.seats.len() - 1
            }
            None => return Err(results),
        };
        self.seats[at] =
            Some(Seat { results, source, follower: at, aside: Vec::with_capacity(BURST_MAX), is_open: true });
        Ok(at)
    }

    /// Ends a queue's turn-taking. Frames that its dequeue brings yet are appended to `fds` from `count` on. Gives the
    /// results' memory back; none when hardware doesn't answer and may still write there: then it stays here until the
    /// portal is reset.
    pub fn leave(&mut self, seat: usize, fds: &mut [Fd; BURST_MAX], count: &mut usize) -> Option<Results<B>> {
        let started = Instant::now();
        *count += self.take_aside(seat, &mut fds[*count..]);
        while self.pulling == Some(seat) {
            match self.take(seat, &mut fds[*count..]) {
                Ok(frames) => *count += frames,
                Err(_) => return None,
            }
            if started.elapsed() > SETTLE_TIMEOUT {
                return None;
            }
        }
        let left = self.seats[seat].take().map(|seat| seat.results);
        // A portal that fails says so to the next one that polls.
        let _ = self.ask(seat);
        left
    }

    /// Takes what has come for a queue, and has the next frames fetched for whoever is next. `is_open` says whether the
    /// queue itself takes more. Returns how many frames there are.
    #[inline(always)]
    pub fn poll(
        &mut self,
        seat: usize,
        is_open: bool,
        fds: &mut [Fd; BURST_MAX],
    ) -> Result<usize, PortalError> {
        if let Some(Some(last)) = self.seats.get_mut(self.last) {
            last.follower = seat;
        }
        self.last = seat;
        if let Some(Some(this)) = self.seats.get_mut(seat) {
            this.is_open = is_open;
        }
        let aside = self.take_aside(seat, fds);
        let frames = match self.pulling {
            // What is aside and what comes yet are of one dequeue.
            Some(whose) if whose == seat => aside + self.take(seat, &mut fds[aside..])?,
            Some(whose) => {
                self.set_aside(whose)?;
                aside
            }
            None => aside,
        };
        self.ask(seat)?;
        Ok(frames)
    }

    /// Sets aside what has come for a queue that is not polled now (its frames may have to wait), so that it doesn't keep the
    /// portal from others.
    #[cold]
    fn set_aside(&mut self, seat: usize) -> Result<(), PortalError> {
        let mut fds = [Fd::default(); BURST_MAX];
        let frames = self.take(seat, &mut fds)?;
        if let Some(Some(this)) = self.seats.get_mut(seat) {
            this.aside.extend_from_slice(&fds[..frames]);
        }
        Ok(())
    }

    /// Takes what was set aside for a queue.
    #[inline(always)]
    fn take_aside(&mut self, seat: usize, fds: &mut [Fd]) -> usize {
        let Some(Some(this)) = self.seats.get_mut(seat) else { return 0 };
        let frames = this.aside.len();
        if frames > 0 {
            fds[..frames].copy_from_slice(&this.aside);
            this.aside.clear();
        }
        frames
    }

    /// Takes what has come of the dequeue under way.
    #[inline(always)]
    fn take(&mut self, seat: usize, fds: &mut [Fd]) -> Result<usize, PortalError> {
        let Some(Some(this)) = self.seats.get_mut(seat) else { return Ok(0) };
        let mut frames = 0;
        let answered = this.results.take(|result| {
            if result.has_frame() {
                fds[frames] = result.fd;
                frames += 1;
            }
        })?;
        if answered {
            self.io.portal.pull_answered();
            self.pulling = None;
            self.wait = Wait::default();
        } else {
            self.wait.look()?;
        }
        Ok(frames)
    }

    /// Has frames fetched for the queue that comes after this one, if none are being fetched.
    #[inline(always)]
    fn ask(&mut self, after: usize) -> Result<(), PortalError> {
        if self.pulling.is_some() || self.seats.is_empty() {
            return Ok(());
        }
        let count = self.seats.len();
        let mut at = match self.seats.get(after) {
            Some(Some(seat)) => seat.follower,
            _ => after + 1,
        };
        for _ in 0..count {
            if at >= count {
                at = 0;
            }
            if let Some(seat) = &mut self.seats[at]
                && seat.is_open
                && seat.aside.is_empty()
            {
                let frames = self.io.portal.pull_max();
                self.io.portal.pull(seat.source, frames, &mut seat.results)?;
                self.pulling = Some(at);
                return Ok(());
            }
            at += 1;
        }
        Ok(())
    }

    /// Asks for a notification when a queue's channel has a frame. False when one of the queues here has something to be
    /// looked at first.
    pub fn arm(&mut self, channel: u16) -> Result<bool, PortalError> {
        if self.seats.iter().flatten().any(|seat| !seat.aside.is_empty()) {
            return Ok(false);
        }
        if let Some(seat) = self.pulling {
            let Some(Some(this)) = self.seats.get_mut(seat) else { return Ok(false) };
            match this.results.settled() {
                Settled::Idle | Settled::Empty => {
                    self.io.portal.pull_answered();
                    self.pulling = None;
                    self.wait = Wait::default();
                }
                Settled::Waiting => {
                    self.wait.look()?;
                    return Ok(false);
                }
                Settled::Frames => return Ok(false),
            }
        }
        let mut is_notified = false;
        while let Some((index, _)) = self.io.portal.next_pushed() {
            self.io.portal.consume(index);
            is_notified = true;
        }
        // It may be that of a queue which was armed just now, and its interrupt was taken back with it.
        if is_notified {
            return Ok(false);
        }
        self.io.portal.rearm_interrupt();
        self.is_armed = true;
        // A channel that has a frame by now notifies at once, so none is missed.
        self.io.portal.command(&ConfigureChannel::notify(channel, 0))?;
        Ok(true)
    }

    /// The worker polls again.
    pub fn disarm(&mut self) {
        if std::mem::take(&mut self.is_armed) {
            self.io.portal.inhibit_interrupt();
            // All queues are polled from now on: notifications have said what they are for.
            while let Some((index, _)) = self.io.portal.next_pushed() {
                self.io.portal.consume(index);
            }
        }
    }
}
