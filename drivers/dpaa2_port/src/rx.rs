//! The receive queue.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpaa2_defs::annotation::{Fas, fas};
use dpaa2_defs::fd::{CTRL_ERR_MASK, FRC_FASV, Fd, Format};
use dpaa2_defs::qbman::management::ConfigureChannel;
use dpaa2_qbman::{PortalError, Results, Settled, Source};
use fslmc_bus::Bus;
use packet::{BURST_MAX, Burst, Offload, copy};
use port::{Armed, DropReason, PortCounters, QueueFault, RxQueue};
use zerocopy::FromBytes;

use crate::buffers::{BadFd, PoolSet};
use crate::channel::Channel;
use crate::counters::add;
use crate::io::Io;
use crate::port::Shared;
use crate::returns::Returns;

/// Shortest frame: an Ethernet header.
const FRAME_MIN: u32 = 14;
/// The frame itself is damaged, whatever its headers say.
const DAMAGED: u32 = fas::FPE | fas::FLE;
/// How long a queue that is dropped waits for hardware to answer.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(50);
/// Pulls that a queue that is dropped makes at most to empty itself: more than a frame queue holds.
const DRAIN_PULLS_MAX: usize = 4096;

/// What a receive queue is made of.
pub(crate) struct RxParts<B: Bus> {
    pub io: Io<B>,
    pub results: Results<B>,
    pub source: Source,
    pub channel: Option<Channel<B>>,
}

/// Receives from one frame queue through a portal of its own.
///
/// One volatile dequeue is always under way, so that hardware fetches the next frames while the last ones are
/// forwarded: a poll costs one doorbell and reads memory only. Pushing (DQRR) was rejected for frames: it costs a
/// register write for each of them, where this costs one for up to 32. It carries what wakes a sleeping worker
/// instead: with a channel, [`arm`](RxQueue::arm) asks for one notification when the channel has a frame, and the
/// portal's interrupt announces it.
pub(crate) struct Dpaa2Rx<B: Bus> {
    // Dropped in this order: the portal is reset before the memory it writes to is freed.
    io: Io<B>,
    results: Results<B>,
    source: Source,
    pools: PoolSet<B>,
    /// Buffers on their way back, for each pool.
    returns: Vec<Returns>,
    /// Descriptors of the frames in the worker's burst; their addresses are the frames' tokens.
    fds: Box<[Fd; BURST_MAX]>,
    armed: bool,
    fault: Option<QueueFault>,
    /// The channel that the frame queue feeds, where there is one.
    _channel: Option<Channel<B>>,
    shared: Arc<Shared<B>>,
}

// SAFETY: the tokens' pointers are into `fds`, which moves with the queue only between bursts; the rest is Send.
unsafe impl<B: Bus> Send for Dpaa2Rx<B> {}

impl<B: Bus> Dpaa2Rx<B> {
    pub fn new(parts: RxParts<B>, pools: PoolSet<B>, shared: Arc<Shared<B>>) -> Dpaa2Rx<B> {
        let RxParts { io, results, source, channel } = parts;
        let returns = pools.iter().map(|pool| Returns::new(pool.bpid())).collect();
        let fds = Box::new([Fd::default(); BURST_MAX]);
        Dpaa2Rx {
            io,
            results,
            source,
            pools,
            returns,
            fds,
            armed: false,
            fault: None,
            _channel: channel,
            shared,
        }
    }

    /// Takes what has come. Returns how many frames, and whether all of the pull is there.
    #[inline(always)]
    fn take(&mut self) -> usize {
        let Self { results, fds, .. } = self;
        let mut frames = 0;
        let answered = results.take(|result| {
            if result.has_frame() {
                fds[frames] = result.fd;
                frames += 1;
            }
        });
        match answered {
            Ok(true) => self.io.portal.pull_answered(),
            Ok(false) => {}
            Err(error) => self.fault = Some(fault_of(error)),
        }
        frames
    }

    /// Appends frame `n` of those taken to the burst, or says why not.
    #[inline(always)]
    fn append(&mut self, burst: &mut Burst, n: usize) -> Result<(), DropReason> {
        let fd = self.fds[n];
        let pieces = match self.pools.pieces(&fd) {
            Ok(pieces) => pieces,
            Err(bad) => return Err(self.refuse(&fd, bad)),
        };
        let offload = match self.judge(&fd) {
            Ok(offload) => offload,
            Err(reason) => {
                self.give_back(&fd);
                return Err(reason);
            }
        };
        let token = (&raw const self.fds[n]) as u64;
        if pieces.count == 1 {
            let whole = pieces.segments[0];
            // SAFETY: the data lies in a buffer of ours, which is given back in `release` only, or taken over.
            unsafe { burst.push(whole.ptr, whole.len, offload, token) };
            return Ok(());
        }
        if burst.segment_room() < pieces.count {
            self.give_back(&fd);
            return Err(DropReason::BadChain);
        }
        // SAFETY: as above, for each segment.
        unsafe { burst.push_segments(&pieces.segments[..pieces.count], offload, token) };
        Ok(())
    }

    /// What hardware found out about the frame.
    #[inline(always)]
    fn judge(&self, fd: &Fd) -> Result<Offload, DropReason> {
        if fd.len() < FRAME_MIN {
            return Err(DropReason::Runt);
        }
        let mut offload = Offload::default();
        if !self.shared.checksums && fd.ctrl.get() & CTRL_ERR_MASK == 0 {
            return Ok(offload);
        }
        let status = self.status(fd);
        if status & fas::ERRORS != 0 {
            self.shared.counters.errors(status);
        }
        // With checksums written on transmit, a wrong one would be made to look right.
        let wrong = if self.shared.checksums { fas::L3CE | fas::L4CE } else { 0 };
        if status & (DAMAGED | wrong) != 0 {
            return Err(DropReason::RxError);
        }
        if status & (fas::L3CV | fas::L4CV) == fas::L3CV | fas::L4CV {
            offload.flags |= Offload::DATA_VALID;
        }
        Ok(offload)
    }

    /// The frame annotation status; 0 when there is none.
    #[inline(always)]
    fn status(&self, fd: &Fd) -> u32 {
        if fd.frc.get() & FRC_FASV == 0 {
            return 0;
        }
        let pool = self.pools.of(fd.bpid());
        let annotation = pool.and_then(|(_, pool)| pool.data(fd.addr.get(), 0, size_of::<Fas>() as u32));
        let Some(annotation) = annotation else { return 0 };
        // SAFETY: the first bytes of a buffer of ours, copied out at once.
        let bytes: [u8; size_of::<Fas>()] = unsafe { annotation.cast::<[u8; 8]>().read_volatile() };
        Fas::read_from_bytes(&bytes).map_or(0, |fas| fas.status.get())
    }

    #[cold]
    fn refuse(&mut self, fd: &Fd, bad: BadFd) -> DropReason {
        let counters = &self.shared.counters;
        add(&counters.bad_descriptors, 1);
        match (bad, self.pools.of(fd.bpid())) {
            (BadFd::Content, Some((at, _))) => self.returns[at].push(fd.addr.get()),
            _ => add(&counters.lost_buffers, 1),
        }
        DropReason::BadChain
    }

    /// Gives all buffers of a frame back.
    #[inline(always)]
    fn give_back(&mut self, fd: &Fd) {
        give_back(&self.pools, &mut self.returns, &self.shared, fd);
    }

    /// Whether a pool takes buffers so slowly that no more frames should come.
    #[inline(always)]
    fn is_behind(&self) -> bool {
        self.returns.iter().any(Returns::is_behind)
    }

    #[inline(always)]
    fn has_returns(&self) -> bool {
        self.returns.iter().any(|returns| returns.len() > 0)
    }

    /// Gives buffers back: groups of seven, or all.
    #[inline(always)]
    fn flush(&mut self, all: bool) -> Result<(), PortalError> {
        for returns in &mut self.returns {
            if all {
                returns.flush_all(&mut self.io.portal)?;
            } else {
                returns.flush(&mut self.io.portal)?;
            }
        }
        Ok(())
    }

    /// Has the next frames fetched, if none are being fetched.
    #[inline(always)]
    fn ask(&mut self) {
        if self.fault.is_some() || self.io.portal.is_pulling() || self.is_behind() {
            return;
        }
        let frames = self.io.portal.pull_max();
        if let Err(error) = self.io.portal.pull(self.source, frames, &mut self.results) {
            self.fault = Some(fault_of(error));
        }
    }

    /// Gives back every frame that is left in the queue, once its interface has stopped.
    fn drain(&mut self) {
        // What is under way may have been answered before the last frames came: only a pull that is asked for now says
        // that there are no more.
        let mut left = self.finish_pull();
        for _ in 0..DRAIN_PULLS_MAX {
            // A pool that takes nothing stops the draining: `ask` asks for no more.
            let _ = self.flush(true);
            if left.is_none() {
                return;
            }
            self.ask();
            if !self.io.portal.is_pulling() {
                return;
            }
            left = self.finish_pull().filter(|&frames| frames > 0);
        }
    }

    /// Waits for the answer to the pull under way and gives its frames back. Returns how many; `None` when it doesn't come
    /// to an end.
    fn finish_pull(&mut self) -> Option<usize> {
        let started = Instant::now();
        let mut frames = 0;
        while self.io.portal.is_pulling() {
            let taken = self.take();
            for n in 0..taken {
                let fd = self.fds[n];
                match self.pools.pieces(&fd) {
                    Ok(_) => self.give_back(&fd),
                    Err(bad) => {
                        self.refuse(&fd, bad);
                    }
                }
            }
            frames += taken;
            if self.fault.is_some() || started.elapsed() > SETTLE_TIMEOUT {
                return None;
            }
        }
        Some(frames)
    }
}

/// Gives all buffers of a good frame back.
#[inline(always)]
fn give_back<B: Bus>(pools: &PoolSet<B>, returns: &mut [Returns], shared: &Shared<B>, fd: &Fd) {
    let Some((at, pool)) = pools.of(fd.bpid()) else {
        add(&shared.counters.lost_buffers, 1);
        return;
    };
    if fd.format() == Format::ScatterGather {
        let whole = pool.each_entry(fd, |entry| {
            let known = pools.of(entry.bpid()).filter(|(_, pool)| pool.buffer(entry.addr.get()).is_some());
            if let Some((at, _)) = known {
                returns[at].push(entry.addr.get());
            }
            known.is_some()
        });
        if !whole {
            add(&shared.counters.lost_buffers, 1);
        }
    }
    returns[at].push(fd.addr.get());
}

/// What a portal's error means to the worker.
pub(crate) fn fault_of(error: PortalError) -> QueueFault {
    match error {
        PortalError::Timeout { verb } => {
            QueueFault { what: "the QBMan portal doesn't answer a command", value: verb.into() }
        }
        PortalError::Stuck => QueueFault { what: "the QBMan portal doesn't answer", value: 0 },
        PortalError::Refused { verb, result, .. } => QueueFault {
            what: "the QBMan portal refused a command",
            value: u64::from(verb) << 8 | u64::from(result),
        },
        PortalError::Broken { what, value } => QueueFault { what, value },
        PortalError::NotEnabled
        | PortalError::NotClean(_)
        | PortalError::WindowTooSmall { .. }
        | PortalError::ReleaseBusy
        | PortalError::PullBusy => QueueFault { what: "the QBMan portal was used wrongly", value: 0 },
    }
}

impl<B: Bus> RxQueue for Dpaa2Rx<B> {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        let frames = self.take();
        if frames == 0 {
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            // An idle pool gets its last buffers too.
            if self.has_returns() {
                self.flush(true).map_err(fault_of)?;
            }
            self.ask();
            return Ok(());
        }
        for fd in &self.fds[..frames] {
            // The annotation, if it is looked at, and the headers; addresses are checked before they are used.
            if self.shared.checksums {
                copy::prefetch_read(fd.addr.get() as *const u8);
            }
            copy::prefetch_read(fd.addr.get().wrapping_add(fd.offset().into()) as *const u8);
        }
        let mut bytes = 0;
        burst.set_owner(self.shared.hardware.number);
        for n in 0..frames {
            bytes += u64::from(self.fds[n].len());
            if let Err(reason) = self.append(burst, n) {
                counters.dropped(reason, 1);
            }
        }
        counters.received(frames as u64, bytes);
        self.ask();
        Ok(())
    }

    #[inline]
    fn release(&mut self, burst: &mut Burst, _counters: &PortCounters) {
        let Self { pools, returns, shared, .. } = self;
        for i in 0..burst.len() {
            if burst.is_taken(i) {
                continue;
            }
            // SAFETY: the token is the address of an element of `fds`, put there by `append` for this burst.
            let fd = unsafe { &*(burst.token(i) as *const Fd) };
            give_back(pools, returns, shared, fd);
        }
        if let Err(error) = self.flush(false) {
            self.fault = Some(fault_of(error));
        }
    }

    fn arm(&mut self) -> Armed {
        let Source::Channel(channel) = self.source else { return Armed::Ready };
        if self.fault.is_some() || self.has_returns() {
            return Armed::Ready;
        }
        match self.results.settled() {
            Settled::Idle => {}
            Settled::Empty => self.io.portal.pull_answered(),
            Settled::Waiting | Settled::Frames => return Armed::Ready,
        }
        while let Some((index, _)) = self.io.portal.next_pushed() {
            self.io.portal.consume(index);
        }
        self.io.portal.rearm_interrupt();
        // A channel that has a frame by now notifies at once, so none is missed.
        match self.io.portal.command(&ConfigureChannel::notify(channel, 0)) {
            Ok(_) => {
                self.armed = true;
                Armed::Waiting
            }
            Err(error) => {
                self.fault = Some(fault_of(error));
                Armed::Ready
            }
        }
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            self.io.portal.inhibit_interrupt();
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        match self.source {
            Source::Channel(_) => self.io.interrupt.as_ref().map(AsFd::as_fd),
            Source::Fq(_) => None,
        }
    }
}

impl<B: Bus> Drop for Dpaa2Rx<B> {
    /// Stops the interface, so that no frame comes any more, and gives every buffer back.
    fn drop(&mut self) {
        self.shared.stop();
        self.drain();
        for returns in &mut self.returns {
            self.io.give_all(returns, &self.shared.counters);
        }
    }
}
