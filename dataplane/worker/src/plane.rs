//! What a worker knows of the switch: one immutable value, replaced between two bursts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use action::Op;
use bridging::{BridgePorts, Fdb};
use flow::{FlowKey, FlowMask};
use port::{Accepts, PortCounters, PortId, TxQueue};

use crate::partition::Part;

/// The switch as its workers see it. Control builds a new one for each change and hands it to every worker; a
/// change is acknowledged to its author when all of them have it.
#[derive(Default)]
pub struct Plane {
    /// Bridges; a port names its bridge by index.
    pub bridges: Vec<BridgePlane>,
    /// Ports by [`PortId`]; numbers without a port have `None`.
    pub ports: Vec<Option<PortPlane>>,
}

impl Plane {
    /// The port with this number.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> Option<&PortPlane> {
        self.ports.get(id.0 as usize)?.as_ref()
    }
}

/// One bridge.
#[derive(Clone)]
pub struct BridgePlane {
    /// Its rules.
    pub rules: Arc<dyn Rules>,
    /// Its ports with their VLAN modes.
    pub ports: Arc<BridgePorts>,
    /// Its MAC table.
    pub fdb: Arc<Fdb>,
}

/// One port.
#[derive(Clone)]
pub struct PortPlane {
    /// Index of its bridge.
    pub bridge: u16,
    /// Longest frame that may leave through it, in bytes without tags: MTU + 14.
    pub frame_max: u32,
    /// Set down by the operator: what arrives and what should leave is dropped.
    pub admin_up: bool,
    /// Transmit queues; none while nobody is connected.
    pub tx: Vec<Arc<TxPort>>,
    /// Counters, one set a worker.
    pub counters: Vec<Arc<PortCounters>>,
    /// What it has to do with queues that are divided among owners.
    pub part: Option<Part>,
}

/// A transmit queue that any worker may use: one object that they take turns on, or one for each worker.
///
/// Taken once per burst with `try_lock` in a spin: the holder copies one burst and lets go, and no worker ever
/// sleeps in the kernel for it.
pub struct TxPort {
    /// One for all workers, or as many as there are workers.
    queues: Vec<Mutex<Box<dyn TxQueue>>>,
    index: u16,
    accepts: Accepts,
    failed: AtomicBool,
}

impl TxPort {
    /// Makes the port's queue number `index` available to workers.
    pub fn new(index: u16, queue: Box<dyn TxQueue>) -> Arc<TxPort> {
        TxPort::of_each_worker(index, vec![queue])
    }

    /// Makes the port's queue number `index` available to workers, where each has an object of its own that leads there.
    ///
    /// # Panics
    /// Without any.
    pub fn of_each_worker(index: u16, queues: Vec<Box<dyn TxQueue>>) -> Arc<TxPort> {
        let accepts = queues.first().expect("a queue has an object").accepts();
        let queues = queues.into_iter().map(Mutex::new).collect();
        Arc::new(TxPort { queues, index, accepts, failed: AtomicBool::new(false) })
    }

    /// Which of the port's queues this is.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// What the queue takes without help.
    pub fn accepts(&self) -> Accepts {
        self.accepts
    }

    /// Whether the queue reported a fault: it is not used any more.
    #[inline(always)]
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Notes the fault; true for the first one to do so.
    pub(crate) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::Relaxed)
    }

    /// The queue as this worker uses it.
    #[inline(always)]
    pub(crate) fn of(&self, worker: usize) -> WorkerTx<'_> {
        let queue = self.queues.get(worker).unwrap_or(&self.queues[0]);
        WorkerTx { queue, accepts: self.accepts }
    }

    /// Takes the queue back. `None` while a worker's plane still refers to it, or when each worker has its own.
    pub fn into_queue(self: Arc<Self>) -> Option<Box<dyn TxQueue>> {
        let mut queues = Arc::try_unwrap(self).ok()?.queues;
        let only = queues.pop().filter(|_| queues.is_empty())?;
        Some(only.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// A transmit queue as one worker uses it.
#[derive(Clone, Copy)]
pub(crate) struct WorkerTx<'a> {
    queue: &'a Mutex<Box<dyn TxQueue>>,
    /// What the queue takes without help.
    pub accepts: Accepts,
}

impl WorkerTx<'_> {
    /// Runs `f` with the queue.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(&mut dyn TxQueue) -> R) -> R {
        loop {
            if let Ok(mut queue) = self.queue.try_lock() {
                return f(&mut **queue);
            }
            std::hint::spin_loop();
        }
    }
}

/// The rules of one bridge: an immutable snapshot.
pub trait Rules: Send + Sync {
    /// Runs the pipeline for `key`. Buffers in `verdict` are reused; whatever they held is replaced.
    fn evaluate(&self, key: &FlowKey, verdict: &mut Verdict);

    /// All bits that any rule looks at.
    fn fields(&self) -> FlowMask;

    /// Changes whenever a verdict may: cached ones of another version are void, but for what
    /// [`changes_since`](Self::changes_since) says.
    fn version(&self) -> u64;

    /// Calls `concern` for each change of rules since an earlier version, with bits that a frame must have on
    /// arrival for its verdict to be another now. False when that isn't known: then any verdict may be.
    fn changes_since(&self, version: u64, concern: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool;

    /// Credits frames to a rule that a verdict named.
    fn credit(&self, worker: usize, rule: u32, frames: u64, bytes: u64, now_secs: u32);
}

/// What the rules say about a frame.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What to do, in order; empty drops.
    pub ops: Vec<Op>,
    /// The rules that matched, for their counters.
    pub rules: Vec<u32>,
    /// Every bit of the frame's key that the verdict depends on.
    pub mask: FlowMask,
    /// How evaluation ended.
    pub outcome: Outcome,
}

/// How an evaluation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The operations stand.
    #[default]
    Done,
    /// A table without a matching rule ended it; operations before that stand.
    NoRule,
    /// Too deep or too many operations; nothing is done.
    Limit,
}
