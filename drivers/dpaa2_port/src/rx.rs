//! The receive queue.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dpaa2_defs::annotation::{Fas, fas};
use dpaa2_defs::fd::{CTRL_ERR_MASK, FRC_FASV, Fd, Format};
use dpaa2_qbman::{PortalError, Results, Source};
use fslmc_bus::Bus;
use packet::{BURST_MAX, Burst, Offload, copy};
use port::{Armed, DropReason, PortCounters, QueueFault, RxQueue};
use zerocopy::FromBytes;

use crate::buffers::{BadFd, PoolSet};
use crate::channel::Channel;
use crate::counters::add;
use crate::port::Shared;
use crate::returns::Returns;
use crate::worker_portal::WorkerPortal;

/// Shortest frame: an Ethernet header.
const FRAME_MIN: u32 = 14;
/// Pulls that a queue that is dropped makes at most to empty itself: more than a frame queue holds.
const DRAIN_PULLS_MAX: usize = 4096;
/// The frame itself is damaged, whatever its headers say.
const DAMAGED: u32 = fas::FPE | fas::FLE;

/// What a receive queue is made of.
pub(crate) struct RxParts<B: Bus> {
    pub results: Results<B>,
    pub source: Source,
    pub channel: Option<Channel<B>>,
}

/// Receives from one frame queue through the portal of the worker that serves it.
///
/// Frames come by volatile dequeue: a poll takes what hardware has written to memory and has the next frames fetched, of this
/// queue or of the one that is polled next (see `worker_portal`). Pushing (DQRR) was rejected for frames: it costs a
/// register write for each of them, where this costs one for up to 32. It carries what wakes a sleeping worker
/// instead: with a channel, [`arm`](RxQueue::arm) asks for one notification when the channel has a frame, and the
/// portal's interrupt announces it.
pub(crate) struct Dpaa2Rx<B: Bus> {
    /// Where the worker that serves it has its portal, once there is one.
    portal: Option<Arc<WorkerPortal<B>>>,
    /// Its place there.
    seat: Option<usize>,
    /// Where results go; with the seat while there is one.
    results: Option<Results<B>>,
    event: Option<OwnedFd>,
    source: Source,
    pools: PoolSet<B>,
    /// Buffers on their way back, for each pool.
    returns: Vec<Returns>,
    /// Descriptors of the frames in the worker's burst; their addresses are the frames' tokens.
    fds: Box<[Fd; BURST_MAX]>,
    /// So many of them came when the last worker gave the queue up, and are to be received yet.
    kept: usize,
    is_armed: bool,
    fault: Option<QueueFault>,
    /// The channel that the frame queue feeds, where there is one.
    channel: Option<Channel<B>>,
    shared: Arc<Shared<B>>,
}

// SAFETY: the tokens' pointers are into `fds`, which moves with the queue only between bursts; the rest is Send.
unsafe impl<B: Bus> Send for Dpaa2Rx<B> {}

impl<B: Bus> Dpaa2Rx<B> {
    pub fn new(parts: RxParts<B>, pools: PoolSet<B>, shared: Arc<Shared<B>>) -> Dpaa2Rx<B> {
        let RxParts { results, source, channel } = parts;
        let returns = pools.iter().map(|pool| Returns::new(pool.bpid())).collect();
        Dpaa2Rx {
            portal: None,
            seat: None,
            results: Some(results),
            event: None,
            source,
            pools,
            returns,
            fds: Box::new([Fd::default(); BURST_MAX]),
            kept: 0,
            is_armed: false,
            fault: None,
            channel,
            shared,
        }
    }

    /// Takes what has come and has more fetched. Returns how many frames there are.
    #[inline(always)]
    fn take(&mut self) -> Result<usize, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.kept > 0 {
            return Ok(std::mem::take(&mut self.kept));
        }
        let is_open = !self.is_behind();
        let Some(portal) = &self.portal else { return Err(NOBODY) };
        let mut serving = portal.serving();
        let seat = match self.seat {
            Some(seat) => seat,
            None => {
                let results = self.results.take().ok_or(NOBODY)?;
                let seat = serving.sit(results, self.source).map_err(|results| {
                    self.results = Some(results);
                    QueueFault { what: "a worker has too many DPAA2 queues", value: 0 }
                })?;
                *self.seat.insert(seat)
            }
        };
        let taken = serving.poll(seat, is_open, &mut self.fds);
        taken.map_err(|error| *self.fault.insert(fault_of(error)))
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
        let Some(portal) = &self.portal else { return Ok(()) };
        let mut serving = portal.serving();
        for returns in &mut self.returns {
            if all {
                returns.flush_all(&mut serving.io.portal)?;
            } else {
                returns.flush(&mut serving.io.portal)?;
            }
        }
        Ok(())
    }

    /// Gives back every frame that is left in the queue, once its interface has stopped, and all buffers.
    fn drain(&mut self) {
        let shared = self.shared.clone();
        let mut control = shared.hardware.control();
        for _ in 0..DRAIN_PULLS_MAX {
            // Frames that don't come, and pools that take nothing, end it.
            let Some(frames @ 1..) = control.fetch(self.source, &mut self.fds) else { break };
            for n in 0..frames {
                let fd = self.fds[n];
                self.discard(&fd);
            }
            for returns in &mut self.returns {
                let _ = returns.flush_all(&mut control.io.portal);
            }
            if self.is_behind() {
                break;
            }
        }
        for returns in &mut self.returns {
            control.io.give_all(returns, &shared.counters);
        }
    }

    /// Gives the buffers of a frame that nobody receives back.
    fn discard(&mut self, fd: &Fd) {
        match self.pools.pieces(fd) {
            Ok(_) => self.give_back(fd),
            Err(bad) => {
                self.refuse(fd, bad);
            }
        }
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
        PortalError::NoResult => QueueFault { what: "the QBMan portal doesn't answer a dequeue", value: 0 },
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
        let frames = self.take()?;
        if frames == 0 {
            // An idle pool gets its last buffers too.
            if self.has_returns() {
                self.flush(true).map_err(fault_of)?;
            }
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
        if self.returns.iter().any(Returns::has_group)
            && let Err(error) = self.flush(false)
        {
            self.fault = Some(fault_of(error));
        }
    }

    fn assign(&mut self, worker: usize) {
        assert!(self.seat.is_none(), "the last worker gave the queue up");
        let Some(portal) = self.shared.hardware.workers.get(worker) else {
            self.fault = Some(QueueFault { what: "the worker has no QBMan portal", value: worker as u64 });
            return;
        };
        self.portal = Some(portal.clone());
        let Some(channel) = &self.channel else { return };
        self.event = portal.event();
        if let Err(error) = channel.notify(portal.dpio()) {
            tracing::warn!("a receive queue's notifications: {error}");
            self.fault =
                Some(QueueFault { what: "a receive queue can't be given to a worker", value: worker as u64 });
        }
    }

    fn unassign(&mut self) {
        self.disarm();
        let Some(portal) = self.portal.take() else { return };
        let Some(seat) = self.seat.take() else { return };
        let mut serving = portal.serving();
        self.results = serving.leave(seat, &mut self.fds, &mut self.kept);
        if self.results.is_none() {
            self.fault = Some(fault_of(PortalError::NoResult));
        }
    }

    fn arm(&mut self) -> Armed {
        let (Source::Channel(channel), Some(portal)) = (self.source, &self.portal) else {
            return Armed::Ready;
        };
        if self.fault.is_some() || self.kept > 0 || self.has_returns() {
            return Armed::Ready;
        }
        match portal.serving().arm(channel) {
            Ok(is_armed) => {
                self.is_armed |= is_armed;
                if is_armed { Armed::Waiting } else { Armed::Ready }
            }
            Err(error) => {
                self.fault = Some(fault_of(error));
                Armed::Ready
            }
        }
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.is_armed)
            && let Some(portal) = &self.portal
        {
            portal.serving().disarm();
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(AsFd::as_fd)
    }
}

impl<B: Bus> Drop for Dpaa2Rx<B> {
    /// Stops the interface, so that no frame comes any more, and gives every buffer back.
    fn drop(&mut self) {
        self.unassign();
        for n in 0..std::mem::take(&mut self.kept) {
            let fd = self.fds[n];
            self.discard(&fd);
        }
        self.shared.stop();
        self.drain();
    }
}

/// Nobody said which worker serves the queue, or its results are lost.
const NOBODY: QueueFault = QueueFault { what: "the queue belongs to no worker", value: 0 };
