//! A receive queue with frames that the switch itself sends, as if a port had.
//!
//! UNSAFETY: lends frames of its own burst to the worker's, as the queue contract allows.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use packet::{BURST_MAX, Burst, HugePages, Offload, OwnedBurst};

use crate::{Armed, PortCounters, QueueFault, RxQueue};

/// Frames to be sent once. Attach it to a worker, take it back, drop it.
///
/// They count as injected, not as received.
pub struct InjectRx {
    frames: OwnedBurst,
    sent: bool,
}

impl InjectRx {
    /// A queue with these frames, at most [`BURST_MAX`] of them, none longer than 2048 bytes.
    ///
    /// # Errors
    /// No memory.
    pub fn new(frames: &[&[u8]]) -> std::io::Result<InjectRx> {
        let mut burst = OwnedBurst::new(BURST_MAX as u32, 2048, HugePages::Off)?;
        for frame in frames {
            burst.push(Offload::default(), |buffer| {
                buffer[..frame.len()].copy_from_slice(frame);
                frame.len()
            });
        }
        Ok(InjectRx { frames: burst, sent: false })
    }
}

impl RxQueue for InjectRx {
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        if !std::mem::replace(&mut self.sent, true) {
            counters.injected.add(self.frames.burst().len() as u64);
            // SAFETY: `frames` lives as long as this queue, which `Received` borrows until the burst is cleared.
            unsafe { self.frames.lend(burst) };
        }
        Ok(())
    }

    fn release(&mut self, _burst: &mut Burst, _counters: &PortCounters) {}

    fn arm(&mut self) -> Armed {
        Armed::Ready
    }

    fn disarm(&mut self) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
