//! A pair of queues in which what is sent comes back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use packet::{BURST_MAX, Burst, Offload, copy};
use port::{Accepts, Armed, DropReason, PortCounters, QueueFault, RxQueue, Selection, TxQueue};
use rustix::event::{EventfdFlags, eventfd};

/// Bytes of a buffer that is made in advance; a longer frame gets a larger one, which then stays.
const BUFFER_BYTES: usize = 2048;

/// A buffer on its way round.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    offload: Offload,
}

struct Shared {
    filled: ArrayQueue<Buffer>,
    free: ArrayQueue<Buffer>,
    /// Somebody sleeps until a frame comes.
    armed: AtomicBool,
    wake: OwnedFd,
}

/// Makes the queues of a loop port. At most `frames` frames are on their way, those of the burst in hand
/// included; more are dropped as `tx-full`.
///
/// # Errors
/// The process has no descriptor left.
///
/// # Panics
/// When `frames` is 0.
pub fn loop_queues(frames: usize) -> std::io::Result<(LoopRx, LoopTx)> {
    let shared = Arc::new(Shared {
        filled: ArrayQueue::new(frames),
        free: ArrayQueue::new(frames),
        armed: AtomicBool::new(false),
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
    });
    for _ in 0..frames {
        let buffer = Buffer { bytes: Vec::with_capacity(BUFFER_BYTES), ..Buffer::default() };
        assert!(shared.free.push(buffer).is_ok(), "there is room for every buffer");
    }
    let rx = LoopRx { shared: Arc::clone(&shared), lent: Vec::with_capacity(BURST_MAX) };
    Ok((rx, LoopTx { shared }))
}

/// Where the frames come back.
pub struct LoopRx {
    shared: Arc<Shared>,
    /// The buffers of the burst in hand.
    lent: Vec<Buffer>,
}

impl RxQueue for LoopRx {
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        let (mut frames, mut bytes) = (0, 0);
        while burst.room() > 0 {
            let Some(buffer) = self.shared.filled.pop() else { break };
            frames += 1;
            bytes += buffer.bytes.len() as u64;
            // SAFETY: the bytes are on the heap and stay there, untouched, until `release` passes the buffer on.
            unsafe { burst.push(buffer.bytes.as_ptr(), buffer.bytes.len() as u32, buffer.offload, 0) };
            self.lent.push(buffer);
        }
        if frames > 0 {
            counters.received(frames, bytes);
        }
        Ok(())
    }

    fn release(&mut self, _burst: &mut Burst, _counters: &PortCounters) {
        for buffer in self.lent.drain(..) {
            assert!(self.shared.free.push(buffer).is_ok(), "there is room for every buffer");
        }
    }

    fn arm(&mut self) -> Armed {
        self.shared.armed.store(true, Ordering::Relaxed);
        // Either the sender sees `armed`, or its frame is seen here.
        fence(Ordering::SeqCst);
        if self.shared.filled.is_empty() { Armed::Waiting } else { Armed::Ready }
    }

    fn disarm(&mut self) {
        self.shared.armed.store(false, Ordering::Relaxed);
        // Fails when nobody had woken us.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.wake.as_fd())
    }
}

/// Where the frames are sent.
pub struct LoopTx {
    shared: Arc<Shared>,
}

impl TxQueue for LoopTx {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let (mut sent, mut bytes) = (0, 0);
        for &i in frames.which {
            let Some(mut buffer) = self.shared.free.pop() else {
                counters.dropped(DropReason::TxFull, 1);
                continue;
            };
            fill(&mut buffer, frames.burst, i as usize);
            sent += 1;
            bytes += buffer.bytes.len() as u64;
            assert!(self.shared.filled.push(buffer).is_ok(), "there is room for every buffer");
        }
        counters.sent(sent, bytes);
        Ok(())
    }

    /// Everything: an offload comes back as it was sent.
    fn accepts(&self) -> Accepts {
        Accepts { partial_checksum: true, tso4: true, tso6: true, tso_ecn: true }
    }

    fn flush(&mut self, counters: &PortCounters) -> Result<(), QueueFault> {
        fence(Ordering::SeqCst);
        if self.shared.armed.load(Ordering::Relaxed)
            && !self.shared.filled.is_empty()
            && self.shared.armed.swap(false, Ordering::Relaxed)
        {
            // A full counter is readable, too.
            let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
            counters.calls.add(1);
        }
        Ok(())
    }
}

fn fill(buffer: &mut Buffer, burst: &Burst, i: usize) {
    buffer.offload = *burst.offload(i);
    buffer.bytes.clear();
    buffer.bytes.resize(burst.frame_len(i), 0);
    let mut to = &mut buffer.bytes[..];
    for part in burst.parts(i) {
        let (now, later) = to.split_at_mut(part.len as usize);
        // SAFETY: the burst promises `part.len` readable bytes, `now` holds as many, and it is ours alone.
        unsafe { copy::copy(part.ptr, now.as_mut_ptr(), now.len()) };
        to = later;
    }
}
