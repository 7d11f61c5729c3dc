//! The poll loop.

use std::mem::MaybeUninit;
use std::sync::Arc;

use packet::{Burst, HugePages, cycles};
use port::{Armed, PortId, QueueFault, Received};
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::cache::CacheSizes;
use crate::engine::{Engine, Ingress};
use crate::mailbox::{Command, Done, FaultReport, FaultSink, Inbox, Mailbox, RxSlot, mailbox};
use crate::punt::PuntQueue;
use crate::stats::WorkerStats;

/// What a worker does when no queue has anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Keeps polling: the core is busy, the first frame never waits.
    Poll,
    /// Polls for this long after the last frame, then asks for notifications and sleeps. While sleeps are short, it polls
    /// on for longer, up to [`WORTH_SLEEPING_US`].
    Sleep {
        /// Microseconds.
        after_us: u64,
    },
}

/// Sleep that lasts longer is worth being woken from, which takes some 50 to 100 µs during which frames wait.
pub const WORTH_SLEEPING_US: u64 = 2_000;

/// How long a worker polls on after the last frame, in ticks. It doubles with each sleep that was too short to be worth
/// it (as guests' halt polling does in KVM, `grow_halt_poll_ns` in virt/kvm/kvm_main.c of Linux), and a long one ends that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience {
    now: u64,
    least: u64,
    worth: u64,
}

impl Patience {
    fn new(after_us: u64, hz: u64) -> Patience {
        let ticks = |us: u64| us * hz / 1_000_000;
        Patience { now: ticks(after_us), least: ticks(after_us), worth: ticks(WORTH_SLEEPING_US) }
    }

    fn slept(&mut self, ticks: u64) {
        self.now =
            if ticks < self.worth { (2 * self.now).min(self.worth).max(self.least) } else { self.least };
    }
}

/// The time base all workers and the control thread share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_cycles: u64,
    base_secs: u32,
    hz: u64,
}

impl Clock {
    /// Starts from the system's monotonic clock.
    pub fn start() -> Clock {
        let secs = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        Clock { base_cycles: cycles::now(), base_secs: secs as u32, hz: cycles::frequency() }
    }

    /// A clock that stands at `secs` when the counter is at 0, for simulations.
    pub fn virtual_time(hz: u64, secs: u32) -> Clock {
        Clock { base_cycles: 0, base_secs: secs, hz }
    }

    /// Ticks of the counter per second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Seconds (of the monotonic clock) at this reading of the counter.
    pub fn secs(&self, now: u64) -> u32 {
        self.base_secs.wrapping_add((now.saturating_sub(self.base_cycles) / self.hz) as u32)
    }
}

/// How a worker is made.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// Its number: which set of counters is its own.
    pub index: usize,
    /// When to sleep.
    pub idle: Idle,
    /// Bounds of its caches.
    pub caches: CacheSizes,
    /// Memory for frames made in software.
    pub huge_pages: HugePages,
    /// Buffers for them.
    pub buffers: u32,
    /// The shared time base.
    pub clock: Clock,
}

/// A worker. [`run`](Worker::run) is its life; simulations call [`turn`](Worker::turn) themselves.
pub struct Worker {
    rx: Vec<RxSlot>,
    /// Queues that ended with a fault, until control asks for them.
    ended: Vec<RxSlot>,
    burst: Burst,
    engine: Engine,
    inbox: Inbox,
    faults: FaultSink,
    stats: Arc<WorkerStats>,
    idle: Idle,
    clock: Clock,
    epoll: OwnedFd,
    stopped: bool,
}

impl Worker {
    /// Makes a worker and control's end of its mailbox. Faults of its queues are reported to `faults`.
    ///
    /// # Errors
    /// No memory (or no huge pages, when required), no file descriptors.
    pub fn new(
        config: WorkerConfig,
        stats: Arc<WorkerStats>,
        punts: Arc<PuntQueue>,
        faults: FaultSink,
    ) -> std::io::Result<(Worker, Mailbox)> {
        let (mailbox, inbox) = mailbox()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, inbox.wake.as_fd())?;
        let engine = Engine::new(&config, stats.clone(), punts, faults.clone())?;
        let worker = Worker {
            rx: Vec::with_capacity(64),
            ended: Vec::new(),
            burst: Burst::new(),
            engine,
            inbox,
            faults,
            stats,
            idle: config.idle,
            clock: config.clock,
            epoll,
            stopped: false,
        };
        Ok((worker, mailbox))
    }

    /// Whether the memory for frames made in software is of huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.engine.has_huge_pages()
    }

    /// Buffers for frames made in software that none is in: all of them between two turns.
    pub fn free_buffers(&self) -> usize {
        self.engine.free_buffers()
    }

    /// Polls until told to stop.
    pub fn run(mut self) {
        let mut now = cycles::now();
        let mut last_frame = now;
        let after_us = if let Idle::Sleep { after_us } = self.idle { after_us } else { 0 };
        let mut patience = Patience::new(after_us, self.clock.hz());
        while !self.stopped {
            let moved = self.turn(now);
            let end = cycles::now();
            if moved > 0 {
                last_frame = end;
            } else if self.idle != Idle::Poll
                && !self.stopped
                && end.saturating_sub(last_frame) > patience.now
                && self.sleep()
            {
                last_frame = cycles::now();
                let slept = last_frame.saturating_sub(end);
                patience.slept(slept);
                self.stats.idle_cycles.add(slept);
            }
            now = cycles::now();
        }
    }

    /// Whether [`Command::Stop`] was taken.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Serves every queue once and returns how many frames were received. `now` is the counter's reading.
    #[inline]
    pub fn turn(&mut self, now: u64) -> usize {
        if !self.inbox.receiver.is_empty() {
            self.take_mail();
        }
        self.engine.begin_turn(now, self.clock.secs(now));
        let mut moved = 0;
        let mut before = now;
        let mut i = 0;
        while i < self.rx.len() {
            let Some(frames) = self.serve(i) else { continue };
            let after = cycles::now();
            let spent = after.saturating_sub(before);
            if frames > 0 {
                self.stats.burst(frames as u64, spent);
                moved += frames;
            } else {
                self.stats.idle_cycles.add(spent);
            }
            before = after;
            i += 1;
        }
        self.engine.end_turn(now, moved == 0);
        self.stats.turns.add(1);
        moved
    }

    /// One burst of queue `i`. `None` when the queue ended and another has taken its place.
    #[inline(always)]
    fn serve(&mut self, i: usize) -> Option<usize> {
        let slot = &mut self.rx[i];
        if self.engine.holds_back(slot.port, slot.queue_index.into()) {
            return Some(0);
        }
        self.engine.begin_burst();
        let from = Ingress { port: slot.port, queue: slot.queue_index as usize, counters: &slot.counters };
        let fault = match Received::poll(&mut *slot.queue, &mut self.burst, &slot.counters) {
            Ok(mut received) => {
                let frames = received.burst().len();
                if frames > 0 {
                    self.engine.process(received.burst(), &from);
                    drop(received);
                    self.engine.end_burst(frames);
                }
                return Some(frames);
            }
            Err(fault) => fault,
        };
        self.end(i, fault);
        None
    }

    /// Stops serving queue `i` and says why.
    #[cold]
    fn end(&mut self, i: usize, fault: QueueFault) {
        let slot = self.take_out(i);
        (self.faults)(FaultReport { port: slot.port, queue_index: slot.queue_index, receiving: true, fault });
        self.ended.push(slot);
    }

    fn take_mail(&mut self) {
        // Counters are exact whenever control has an answer in hand.
        self.engine.credit();
        let mut value = [0; 8];
        let _ = rustix::io::read(&*self.inbox.wake, &mut value);
        while let Ok(mail) = self.inbox.receiver.try_recv() {
            let done = match mail.command {
                Command::SetPlane(plane) => {
                    self.engine.set_plane(plane);
                    Done::Applied
                }
                Command::AddRx(slot) => {
                    self.add(slot);
                    Done::Applied
                }
                Command::RemoveRx { port, queue_index } => Done::Queue(self.remove(port, queue_index)),
                Command::TimeStages(on) => {
                    self.engine.time_stages(on);
                    Done::Applied
                }
                Command::Sync => Done::Applied,
                Command::Stop => {
                    self.stopped = true;
                    Done::Applied
                }
            };
            // Control may have given up waiting; the command is in force all the same.
            let _ = mail.done.send(done);
        }
    }

    fn add(&mut self, mut slot: RxSlot) {
        slot.queue.disarm();
        if let Some(fd) = slot.queue.event_fd() {
            // Without a notification the queue is still polled; only sleep would miss it, so don't sleep.
            if watch(&self.epoll, fd).is_err() {
                self.idle = Idle::Poll;
            }
        }
        self.rx.push(slot);
    }

    fn remove(&mut self, port: PortId, queue_index: u16) -> Option<RxSlot> {
        let is_it = |slot: &RxSlot| slot.port == port && slot.queue_index == queue_index;
        if let Some(i) = self.rx.iter().position(is_it) {
            return Some(self.take_out(i));
        }
        let i = self.ended.iter().position(is_it)?;
        Some(self.ended.swap_remove(i))
    }

    /// Stops serving queue `i`.
    fn take_out(&mut self, i: usize) -> RxSlot {
        let mut slot = self.rx.swap_remove(i);
        if let Some(fd) = slot.queue.event_fd() {
            // Not there only if watching it failed.
            let _ = epoll::delete(&self.epoll, fd);
        }
        slot.queue.unassign();
        slot
    }

    /// Asks every queue for a notification and waits for one, or for mail. False when there was no need, or a
    /// queue can only be polled.
    #[cold]
    fn sleep(&mut self) -> bool {
        let wait = self.arm();
        if wait {
            self.stats.sleeps.add(1);
            self.wait(None);
        }
        self.disarm();
        wait
    }

    /// Asks every queue for a notification. True when the worker may sleep until there is [one](Self::is_notified);
    /// simulations do so in virtual time.
    pub fn arm(&mut self) -> bool {
        self.engine.credit();
        let mut wait = true;
        for slot in &mut self.rx {
            wait &= self.engine.may_sleep(slot.port, slot.queue_index.into());
            wait &= slot.queue.event_fd().is_some() && slot.queue.arm() == Armed::Waiting;
        }
        wait && self.inbox.receiver.is_empty()
    }

    /// Whether there was a notification, or mail, since this was asked last.
    pub fn is_notified(&self) -> bool {
        self.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Waits for a notification, at most so long. An interrupted wait is a notification like any other.
    fn wait(&self, at_most: Option<&Timespec>) -> bool {
        let mut events = [const { MaybeUninit::uninit() }; 16];
        epoll::wait(&self.epoll, &mut events, at_most).map_or(true, |(notified, _)| !notified.is_empty())
    }

    /// Tells every queue that it is polled again.
    pub fn disarm(&mut self) {
        for slot in &mut self.rx {
            slot.queue.disarm();
        }
    }
}

/// Edge-triggered: a notification wakes once and needs no read to be over.
fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_keep_coming_are_polled_for_and_rare_ones_slept_for() {
        let mut patience = Patience::new(50, 1_000_000);
        let slept = |patience: &mut Patience, ticks| {
            patience.slept(ticks);
            patience.now
        };
        let grown: Vec<u64> = (0..7).map(|_| slept(&mut patience, 700)).collect();
        assert_eq!(grown, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(slept(&mut patience, 5_000), 50);
        // Whoever wants longer than that has it.
        let mut patience = Patience::new(10_000, 1_000_000);
        assert_eq!((slept(&mut patience, 1), slept(&mut patience, 5_000)), (10_000, 10_000));
        // Nothing at all stays nothing at all.
        let mut patience = Patience::new(0, 1_000_000);
        assert_eq!(slept(&mut patience, 1), 0);
    }
}
