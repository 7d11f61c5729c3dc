//! Queues with an onlooker: what a worker receives and sends goes into a log, in the order in which it happens.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use packet::Burst;
use port::{Accepts, Armed, DropReason, PortCounters, QueueFault, RxQueue, Selection, TxQueue, WireFrame};

/// A receive queue of the run; no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RxId(pub u32);

/// A transmit queue of the run; no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxId(pub u32);

/// What a queue did to its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub copies: u64,
    pub punted: u64,
    pub injected: u64,
    pub kicks: u64,
    pub calls: u64,
    pub drops: [u64; DropReason::COUNT],
}

impl Counted {
    /// What the counters say now.
    pub fn read(c: &PortCounters) -> Counted {
        let mut drops = [0; DropReason::COUNT];
        for &reason in DropReason::ALL {
            drops[reason as usize] = c.drops(reason);
        }
        Counted {
            rx_frames: c.rx_frames.get(),
            rx_bytes: c.rx_bytes.get(),
            tx_frames: c.tx_frames.get(),
            tx_bytes: c.tx_bytes.get(),
            copies: c.copies.get(),
            punted: c.punted.get(),
            injected: c.injected.get(),
            kicks: c.kicks.get(),
            calls: c.calls.get(),
            drops,
        }
    }

    fn combine(&self, other: &Counted, f: impl Fn(u64, u64) -> u64) -> Counted {
        Counted {
            rx_frames: f(self.rx_frames, other.rx_frames),
            rx_bytes: f(self.rx_bytes, other.rx_bytes),
            tx_frames: f(self.tx_frames, other.tx_frames),
            tx_bytes: f(self.tx_bytes, other.tx_bytes),
            copies: f(self.copies, other.copies),
            punted: f(self.punted, other.punted),
            injected: f(self.injected, other.injected),
            kicks: f(self.kicks, other.kicks),
            calls: f(self.calls, other.calls),
            drops: std::array::from_fn(|at| f(self.drops[at], other.drops[at])),
        }
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Counted) -> Counted {
        self.combine(before, |now, before| now - before)
    }

    /// Both together.
    pub fn plus(&self, other: &Counted) -> Counted {
        self.combine(other, |a, b| a + b)
    }

    /// Frames dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Frames dropped for whatever reason.
    pub fn all_drops(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Frames that came, and frames that went: equal over all ports of a bridge.
    pub fn balance(&self) -> (u64, u64) {
        (self.rx_frames + self.copies + self.injected, self.tx_frames + self.punted + self.all_drops())
    }
}

/// Something a queue did for a worker.
#[derive(Debug)]
pub enum Event {
    /// It was asked for a burst.
    Received { rx: RxId, frames: Vec<WireFrame>, counted: Counted, fault: Option<QueueFault> },
    /// It was given frames.
    Transmitted { tx: TxId, frames: Vec<WireFrame>, counted: Counted, fault: Option<QueueFault> },
    /// It finished what a turn left to be done, or something else that only counts.
    Counted { tx: bool, queue: u32, counted: Counted, fault: Option<QueueFault> },
}

/// What happened since it was taken last. Locked by one thread only; the queues it is in have to be `Send`.
pub type Log = Arc<Mutex<Vec<Event>>>;

fn contents(burst: &Burst, i: usize) -> WireFrame {
    let mut bytes = vec![0; burst.frame_len(i)];
    burst.read(i, 0, &mut bytes);
    WireFrame { bytes, offload: *burst.offload(i) }
}

fn note(log: &Log, event: Event) {
    log.lock().expect("no holder panics").push(event);
}

/// A receive queue with an onlooker.
pub struct ObservedRx {
    pub inner: Box<dyn RxQueue>,
    pub id: RxId,
    pub log: Log,
}

impl RxQueue for ObservedRx {
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        let before = Counted::read(counters);
        let result = self.inner.receive(burst, counters);
        let frames = (0..burst.len()).map(|i| contents(burst, i)).collect();
        let counted = Counted::read(counters).since(&before);
        note(&self.log, Event::Received { rx: self.id, frames, counted, fault: result.err() });
        result
    }

    fn release(&mut self, burst: &mut Burst, counters: &PortCounters) {
        let before = Counted::read(counters);
        self.inner.release(burst, counters);
        let counted = Counted::read(counters).since(&before);
        note(&self.log, Event::Counted { tx: false, queue: self.id.0, counted, fault: None });
    }

    fn arm(&mut self) -> Armed {
        self.inner.arm()
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}

/// A transmit queue with an onlooker.
pub struct ObservedTx {
    pub inner: Box<dyn TxQueue>,
    pub id: TxId,
    pub log: Log,
}

impl TxQueue for ObservedTx {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let Selection { burst, which } = frames;
        let before = Counted::read(counters);
        let sent = which.iter().map(|&i| contents(burst, i.into())).collect();
        let result = self.inner.transmit(Selection { burst, which }, counters);
        let counted = Counted::read(counters).since(&before);
        note(&self.log, Event::Transmitted { tx: self.id, frames: sent, counted, fault: result.err() });
        result
    }

    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }

    fn flush(&mut self, counters: &PortCounters) -> Result<(), QueueFault> {
        let before = Counted::read(counters);
        let result = self.inner.flush(counters);
        let counted = Counted::read(counters).since(&before);
        note(&self.log, Event::Counted { tx: true, queue: self.id.0, counted, fault: result.err() });
        result
    }
}
