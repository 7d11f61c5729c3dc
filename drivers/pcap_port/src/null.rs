//! Queues of a port with nobody behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use packet::{Burst, Offload};
use port::{Accepts, Armed, PortCounters, QueueFault, RxQueue, Selection, TxQueue};
use rustix::event::{EventfdFlags, eventfd};

/// Discards every frame, counted as sent.
#[derive(Debug, Default)]
pub struct NullTx;

impl TxQueue for NullTx {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let bytes = frames.which.iter().map(|&i| frames.burst.frame_len(i as usize) as u64).sum();
        counters.sent(frames.which.len() as u64, bytes);
        Ok(())
    }

    fn accepts(&self) -> Accepts {
        Accepts { partial_checksum: true, tso4: true, tso6: true, tso_ecn: true }
    }

    fn flush(&mut self, _counters: &PortCounters) -> Result<(), QueueFault> {
        Ok(())
    }
}

/// Never receives, and never keeps a worker awake.
#[derive(Debug)]
pub struct NullRx {
    /// Never readable.
    silence: OwnedFd,
}

impl NullRx {
    /// Makes one.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> std::io::Result<NullRx> {
        Ok(NullRx { silence: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }
}

impl RxQueue for NullRx {
    fn receive(&mut self, _burst: &mut Burst, _counters: &PortCounters) -> Result<(), QueueFault> {
        Ok(())
    }

    fn release(&mut self, _burst: &mut Burst, _counters: &PortCounters) {}

    fn arm(&mut self) -> Armed {
        Armed::Waiting
    }

    fn disarm(&mut self) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.silence.as_fd())
    }
}

/// Receives one frame over and over, a full burst at a time: load for benchmarks. Must be polled.
#[derive(Debug)]
pub struct GenerateRx {
    frame: Box<[u8]>,
    left: Option<u64>,
}

impl GenerateRx {
    /// Receives `frame` so many times; `None`: without end.
    ///
    /// # Panics
    /// When the frame has no Ethernet header, or more than 64 KiB beside it.
    pub fn new(frame: Vec<u8>, count: Option<u64>) -> GenerateRx {
        assert!((14..=65_557).contains(&frame.len()), "a frame of {} bytes", frame.len());
        GenerateRx { frame: frame.into_boxed_slice(), left: count }
    }
}

impl RxQueue for GenerateRx {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        let frames = self.left.unwrap_or(u64::MAX).min(burst.room() as u64);
        for _ in 0..frames {
            // SAFETY: the frame is immutable and owned by this queue, which outlives the burst's frames.
            unsafe { burst.push(self.frame.as_ptr(), self.frame.len() as u32, Offload::default(), 0) };
        }
        self.left = self.left.map(|left| left - frames);
        counters.received(frames, frames * self.frame.len() as u64);
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

#[cfg(test)]
mod tests {
    use super::*;
    use port::Received;

    #[test]
    fn a_generator_fills_bursts_until_its_count_and_a_sink_counts_them() {
        let (rx_counters, tx_counters) = (PortCounters::default(), PortCounters::default());
        let mut burst = Burst::new();
        let mut rx = GenerateRx::new(vec![7; 60], Some(70));
        let mut sizes = vec![];
        loop {
            let mut received = Received::poll(&mut rx, &mut burst, &rx_counters).unwrap();
            let n = received.burst().len();
            if n == 0 {
                break;
            }
            sizes.push(n);
            let which: Vec<u8> = (0..n as u8).collect();
            NullTx.transmit(Selection { burst: received.burst(), which: &which }, &tx_counters).unwrap();
        }
        assert_eq!(sizes, [32, 32, 6]);
        assert_eq!((rx_counters.rx_frames.get(), rx_counters.rx_bytes.get()), (70, 4200));
        assert_eq!((tx_counters.tx_frames.get(), tx_counters.tx_bytes.get()), (70, 4200));
    }

    #[test]
    fn a_null_port_lets_its_worker_sleep() {
        let mut rx = NullRx::new().unwrap();
        let mut burst = Burst::new();
        rx.receive(&mut burst, &PortCounters::default()).unwrap();
        assert!(burst.is_empty());
        assert_eq!(rx.arm(), Armed::Waiting);
        assert!(rx.event_fd().is_some());
    }
}
