//! A port that is a pair of in-process queues: what tests and simulations plug into a worker.
//!
//! UNSAFETY: lends frames of its own burst to the worker's, as the queue contract allows.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use packet::{BURST_MAX, HugePages, Offload, OwnedBurst};

use crate::{Accepts, Armed, DropReason, PortCounters, QueueFault, RxQueue, Selection, TxQueue};

/// A frame on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireFrame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What its sender left to be done.
    pub offload: Offload,
}

#[derive(Default)]
struct State {
    to_switch: VecDeque<WireFrame>,
    from_switch: VecDeque<WireFrame>,
    room: usize,
    fault: Option<QueueFault>,
}

/// The far end of the wire: what a test sends and sees.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

impl Wire {
    /// Makes a wire on which at most `room` frames wait to be seen, and the queues at its near end.
    ///
    /// # Errors
    /// No memory.
    pub fn new(room: usize, accepts: Accepts) -> std::io::Result<(Wire, WireRx, WireTx)> {
        let state = Arc::new(Mutex::new(State { room, ..State::default() }));
        let frames = OwnedBurst::new(BURST_MAX as u32, 1 << 17, HugePages::Off)?;
        let rx = WireRx { state: state.clone(), held: frames };
        let tx = WireTx { state: state.clone(), accepts };
        Ok((Wire(state), rx, tx))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Sends a frame to the switch.
    pub fn send(&self, frame: WireFrame) {
        self.state().to_switch.push_back(frame);
    }

    /// Takes a frame that the switch sent.
    pub fn receive(&self) -> Option<WireFrame> {
        self.state().from_switch.pop_front()
    }

    /// Frames that the switch hasn't taken yet.
    pub fn waiting(&self) -> usize {
        self.state().to_switch.len()
    }

    /// Changes how many frames wait to be seen at most.
    pub fn set_room(&self, room: usize) {
        self.state().room = room;
    }

    /// Makes both queues report this fault from now on.
    pub fn break_with(&self, fault: QueueFault) {
        self.state().fault = Some(fault);
    }
}

/// The near end, receiving.
pub struct WireRx {
    state: Arc<Mutex<State>>,
    held: OwnedBurst,
}

impl RxQueue for WireRx {
    fn receive(&mut self, burst: &mut packet::Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        let mut state = self.state.lock().expect("no holder of the lock panics");
        if let Some(fault) = state.fault {
            return Err(fault);
        }
        let mut bytes = 0;
        while self.held.has_room() && burst.room() > self.held.burst().len() {
            let Some(frame) = state.to_switch.pop_front() else { break };
            bytes += frame.bytes.len() as u64;
            self.held.push(frame.offload, |buffer| {
                buffer[..frame.bytes.len()].copy_from_slice(&frame.bytes);
                frame.bytes.len()
            });
        }
        counters.received(self.held.burst().len() as u64, bytes);
        // SAFETY: `held` is cleared in `release` only, and `Received` clears the burst right after.
        unsafe { self.held.lend(burst) };
        Ok(())
    }

    fn release(&mut self, _burst: &mut packet::Burst, _counters: &PortCounters) {
        self.held.clear();
    }

    fn arm(&mut self) -> Armed {
        Armed::Ready
    }

    fn disarm(&mut self) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The near end, sending.
pub struct WireTx {
    state: Arc<Mutex<State>>,
    accepts: Accepts,
}

impl TxQueue for WireTx {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let mut state = self.state.lock().expect("no holder of the lock panics");
        if let Some(fault) = state.fault {
            counters.dropped(DropReason::PortDown, frames.which.len() as u64);
            return Err(fault);
        }
        for &i in frames.which {
            if state.from_switch.len() >= state.room {
                counters.dropped(DropReason::TxFull, 1);
                continue;
            }
            let i = i as usize;
            let mut bytes = vec![0; frames.burst.frame_len(i)];
            frames.burst.read(i, 0, &mut bytes);
            counters.sent(1, bytes.len() as u64);
            state.from_switch.push_back(WireFrame { bytes, offload: *frames.burst.offload(i) });
        }
        Ok(())
    }

    fn has_room(&mut self, frames: usize) -> bool {
        let state = self.state.lock().expect("no holder of the lock panics");
        state.from_switch.len() + frames.min(state.room / 2) <= state.room
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }

    fn flush(&mut self, _counters: &PortCounters) -> Result<(), QueueFault> {
        Ok(())
    }
}
