//! The queue traits and what passes through them.

use std::any::Any;
use std::fmt;
use std::os::fd::BorrowedFd;

use packet::Burst;

use crate::PortCounters;

/// The number of a port, as rules and tables name it (an OpenFlow port number below 65,280).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer broke the rules of a queue, or the queue's device failed: the queue does nothing more.
///
/// The worker reports it to the control thread once; that port stops, the others don't notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFault {
    /// What was broken, in a few words a user understands.
    pub what: &'static str,
    /// The offending value.
    pub value: u64,
}

impl fmt::Display for QueueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x})", self.what, self.value)
    }
}

impl std::error::Error for QueueFault {}

/// What a call to [`RxQueue::arm`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Nothing waits; the queue's event descriptor becomes readable when something does.
    Waiting,
    /// Frames are there already: poll again instead of sleeping.
    Ready,
}

/// Where frames come from. Owned by one worker. (`Any`: control takes it back as the type it made.)
pub trait RxQueue: Any + Send {
    /// Appends frames to `burst` (empty on entry), up to its room, and counts them.
    ///
    /// A frame that can't be forwarded whatever the rules say (malformed chain, inconsistent offload) is
    /// counted as received and dropped here, and its buffer completed with the burst.
    ///
    /// # Errors
    /// The peer broke the ring or took its memory away. Frames already in the burst are dropped by the caller.
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault>;

    /// Gives the buffers of the last burst back to the sender. Called once after each `receive`.
    fn release(&mut self, burst: &mut Burst, counters: &PortCounters);

    /// Worker number `worker` is going to serve the queue. Control calls this before it hands the queue over, so it may
    /// take its time.
    fn assign(&mut self, _worker: usize) {}

    /// The worker that served the queue gives it up, and calls this on its own thread: what the queue has of the worker's
    /// goes back, and frames under way are kept for the next one.
    fn unassign(&mut self) {}

    /// Asks for a notification when the next frame arrives.
    fn arm(&mut self) -> Armed;

    /// No more notifications wanted: the worker polls.
    fn disarm(&mut self);

    /// The descriptor that becomes readable on a notification; `None` for queues that must be polled.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// What a transmit queue takes as it is. The worker completes or segments frames for one that doesn't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Checksum to be completed by the receiver (`NEEDS_CSUM`).
    pub partial_checksum: bool,
    /// TCP over IPv4 frames larger than the MTU.
    pub tso4: bool,
    /// TCP over IPv6 frames larger than the MTU.
    pub tso6: bool,
    /// Those with ECN's congestion-window-reduced flag.
    pub tso_ecn: bool,
}

/// Frames of a burst chosen for one output, in order: indices into the burst.
pub struct Selection<'a> {
    /// The burst that owns them.
    pub burst: &'a mut Burst,
    /// Which of its frames to send, each below `burst.len()`.
    pub which: &'a [u8],
}

/// Where frames go. Driven by one worker at a time.
pub trait TxQueue: Any + Send {
    /// Sends the selected frames in order and counts each as sent or dropped with a reason.
    ///
    /// The frames are complete when this returns: copied, or taken over (see [`packet::Burst::take`]).
    ///
    /// # Errors
    /// The peer broke the ring or took its memory away; what was not sent is counted as dropped.
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault>;

    /// What frames this queue takes without help.
    fn accepts(&self) -> Accepts;

    /// Whether the queue would take so many frames of the usual kind now, or half of what it ever takes. Asked for queues
    /// that frames can wait for elsewhere; a queue that drops nothing, or can't tell, says yes. A broken one does as
    /// well: `transmit` says so.
    fn has_room(&mut self, _frames: usize) -> bool {
        true
    }

    /// Finishes what `transmit` left to be done per loop turn (submissions, completions, deferred
    /// notifications). Called once a turn, also when nothing was sent.
    ///
    /// # Errors
    /// As `transmit`.
    fn flush(&mut self, counters: &PortCounters) -> Result<(), QueueFault>;
}

/// A received burst: its frames can be used as long as this lives; dropping it gives the buffers back.
pub struct Received<'b> {
    burst: &'b mut Burst,
    queue: &'b mut dyn RxQueue,
    counters: &'b PortCounters,
}

impl<'b> Received<'b> {
    /// Receives a burst from `queue` into `burst`.
    ///
    /// # Errors
    /// The queue's fault; whatever the burst held is released.
    #[inline]
    pub fn poll(
        queue: &'b mut dyn RxQueue,
        burst: &'b mut Burst,
        counters: &'b PortCounters,
    ) -> Result<Received<'b>, QueueFault> {
        burst.clear();
        let received = queue.receive(burst, counters);
        let this = Received { burst, queue, counters };
        match received {
            Ok(()) => Ok(this),
            Err(fault) => {
                this.counters.dropped(crate::DropReason::SenderGone, this.burst.len() as u64);
                Err(fault)
            }
        }
    }

    /// The frames.
    #[inline]
    pub fn burst(&mut self) -> &mut Burst {
        self.burst
    }
}

impl Drop for Received<'_> {
    #[inline]
    fn drop(&mut self) {
        self.queue.release(self.burst, self.counters);
        self.burst.clear();
    }
}
