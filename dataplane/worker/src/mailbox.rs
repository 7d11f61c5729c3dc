//! How control talks to a worker: commands taken between two bursts, each answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use port::{PortCounters, PortId, QueueFault, RxQueue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use crate::Plane;

/// A receive queue as a worker serves it.
pub struct RxSlot {
    /// The port the frames come in by.
    pub port: PortId,
    /// Which of the port's queues this is; frames leave by the receiver's queue of the same number, modulo how
    /// many it has, so a flow stays in one queue.
    pub queue_index: u16,
    /// The queue.
    pub queue: Box<dyn RxQueue>,
    /// The port's counters of this worker.
    pub counters: Arc<PortCounters>,
}

/// What a worker can be told.
pub enum Command {
    /// From now on the switch looks like this. Answered when it does.
    SetPlane(Arc<Plane>),
    /// Serve this queue too.
    AddRx(RxSlot),
    /// Give this queue back, between two of its bursts.
    RemoveRx {
        /// The port.
        port: PortId,
        /// The queue's number.
        queue_index: u16,
    },
    /// Time the stages of each burst, or stop doing so.
    TimeStages(bool),
    /// Credit everything to the rules' counters now.
    Sync,
    /// End the loop.
    Stop,
}

/// The answer to a command.
pub enum Done {
    /// It is in force.
    Applied,
    /// The queue asked for, if the worker had it.
    Queue(Option<RxSlot>),
}

/// A queue that ended with a fault.
#[derive(Clone, Copy, Debug)]
pub struct FaultReport {
    /// Its port.
    pub port: PortId,
    /// Its number.
    pub queue_index: u16,
    /// Whether frames were being received from it (or sent to it).
    pub receiving: bool,
    /// What was wrong.
    pub fault: QueueFault,
}

/// Where workers report faults to; called on the worker's thread, once per queue that ends.
pub type FaultSink = Arc<dyn Fn(FaultReport) + Send + Sync>;

pub(crate) struct Mail {
    pub command: Command,
    pub done: Sender<Done>,
}

/// An answer that is under way.
pub struct Pending(Receiver<Done>);

/// How long control polls for an answer before it sleeps: a worker that isn't asleep answers between two bursts, and where
/// every core is busy waking up takes a time slice of somebody's.
const POLL: Duration = Duration::from_micros(200);

impl Pending {
    /// Waits for the answer. `None` if the worker ended without giving one.
    pub fn wait(self) -> Option<Done> {
        let start = Instant::now();
        while start.elapsed() < POLL {
            match self.0.try_recv() {
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                answer => return answer.ok(),
            }
        }
        self.0.recv().ok()
    }
}

/// Control's end.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Mail>,
    wake: Arc<OwnedFd>,
}

/// The worker's end.
pub(crate) struct Inbox {
    pub receiver: Receiver<Mail>,
    pub wake: Arc<OwnedFd>,
}

/// Makes both ends.
pub(crate) fn mailbox() -> std::io::Result<(Mailbox, Inbox)> {
    let (sender, receiver) = bounded(256);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((Mailbox { sender, wake: wake.clone() }, Inbox { receiver, wake }))
}

impl Mailbox {
    /// Sends a command without waiting for its answer.
    pub fn post(&self, command: Command) -> Pending {
        let (done, answer) = bounded(1);
        // A send error means the worker has ended; the answer's channel is closed then, which `wait` reports.
        let _ = self.sender.send(Mail { command, done });
        // EAGAIN means the counter is at its maximum: the worker is about to wake anyway.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        Pending(answer)
    }

    /// Sends a command and waits for its answer.
    pub fn call(&self, command: Command) -> Option<Done> {
        self.post(command).wait()
    }
}
