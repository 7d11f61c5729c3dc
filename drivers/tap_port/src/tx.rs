//! The transmit queue: frames for the host.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::opcode;
use packet::{Burst, Pool, copy};
use port::{Accepts, DropReason, PortCounters, QueueFault, Selection, TxQueue};

use crate::header;
use crate::ring::{CURRENT_POSITION, Ring};
use crate::sys::HEADER_LEN;

/// Frames that can wait for a flush. One more submits what is there.
pub(crate) const ENTRIES: u32 = 256;
/// Bytes of frames that can wait for a flush, headers included.
pub(crate) const MEMORY_BYTES: usize = 512 << 10;
/// Longest frame, as in a virtio-net header's world: 64 KiB and link headers.
const FRAME_MAX: usize = 65_535 + 14 + 8;
const FRAME_MIN: usize = 14;

pub(crate) struct TapTx {
    ring: Ring,
    /// One buffer: frames in the order of transmission.
    memory: ManuallyDrop<Pool>,
    /// How much of it is in use. Starts over when the kernel has taken every frame.
    used: usize,
    nowait: bool,
    /// Longest frame that needs no segmentation, Ethernet header included.
    plain_max: Arc<AtomicU32>,
    fault: Option<QueueFault>,
}

impl TapTx {
    pub fn new(ring: Ring, mut memory: Pool, nowait: bool, plain_max: Arc<AtomicU32>) -> Self {
        assert_eq!(memory.take(), Some(0), "the pool is one buffer of our own");
        Self { ring, memory: ManuallyDrop::new(memory), used: 0, nowait, plain_max, fault: None }
    }

    /// Makes room for `bytes`, if need be by submitting what waits. `None` when the kernel doesn't take it.
    #[inline]
    fn reserve(&mut self, bytes: usize, counters: &PortCounters) -> Option<usize> {
        if self.used + bytes > MEMORY_BYTES || self.ring.room() == 0 {
            self.push_out(counters);
            if self.used + bytes > MEMORY_BYTES || self.ring.room() == 0 {
                return None;
            }
        }
        let start = self.used;
        self.used = (start + bytes).next_multiple_of(64);
        Some(start)
    }

    #[inline]
    fn send(
        &mut self,
        burst: &Burst,
        i: usize,
        plain_max: usize,
        counters: &PortCounters,
    ) -> Option<DropReason> {
        let len = burst.frame_len(i);
        let offload = burst.offload(i);
        if len < FRAME_MIN {
            return Some(DropReason::Runt);
        }
        if len > FRAME_MAX || (len > plain_max && offload.gso_type == 0) {
            return Some(DropReason::TooLong);
        }
        let total = HEADER_LEN + len;
        let Some(start) = self.reserve(total, counters) else { return Some(DropReason::TxFull) };
        let to = &mut self.memory.bytes_mut(0)[start..start + total];
        to[..HEADER_LEN].copy_from_slice(&header::encode(offload));
        let mut at = HEADER_LEN;
        for part in burst.parts(i) {
            let to = &mut to[at..][..part.len as usize];
            // SAFETY: the burst promises `part.len` readable bytes, `to` holds as many, and it is ours alone.
            unsafe { copy::copy(part.ptr, to.as_mut_ptr(), to.len()) };
            at += to.len();
        }
        let write = opcode::Write::new(self.ring.fd(), to.as_ptr(), total as u32)
            .offset(CURRENT_POSITION)
            .rw_flags(if self.nowait { libc::RWF_NOWAIT } else { 0 })
            .build();
        // SAFETY: `used` moved past these bytes and starts over only when the ring is idle; the pool is only
        // unmapped after `settle`.
        unsafe { self.ring.push(write, len as u32) };
        None
    }

    /// Submits what waits, and counts what the kernel answered.
    fn push_out(&mut self, counters: &PortCounters) {
        if let Err(fault) = self.ring.submit() {
            self.fault = self.fault.or(Some(fault));
            counters.dropped(DropReason::Device, self.ring.abandon() as u64);
        }
        let (mut frames, mut bytes) = (0, 0);
        let fault = &mut self.fault;
        self.ring.reap(|len, result| {
            if result >= 0 && result as usize == HEADER_LEN + len as usize {
                frames += 1;
                bytes += u64::from(len);
                return;
            }
            counters.dropped(reason_of(-result), 1);
            if result == -libc::EBADFD {
                *fault = Some(QueueFault { what: "the TAP device was removed", value: libc::EBADFD as u64 });
            }
        });
        if frames > 0 {
            counters.sent(frames, bytes);
        }
        if self.ring.is_idle() {
            self.used = 0;
        }
    }
}

/// Why the kernel did not take a frame (`tun_get_user` in Linux' `drivers/net/tun.c`). Negative: a short write.
fn reason_of(errno: i32) -> DropReason {
    match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => DropReason::TxFull,
        libc::EIO => DropReason::PortDown,
        libc::EINVAL => DropReason::BadOffload,
        _ => DropReason::Device,
    }
}

impl TxQueue for TapTx {
    /// Copies the frames; they count as sent, or as dropped, when the kernel has answered in
    /// [`flush`](TxQueue::flush) (or here, when more wait than there is memory for).
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let plain_max = self.plain_max.load(Ordering::Relaxed) as usize;
        for (n, &i) in frames.which.iter().enumerate() {
            if let Some(fault) = self.fault {
                counters.dropped(DropReason::Device, (frames.which.len() - n) as u64);
                return Err(fault);
            }
            if let Some(reason) = self.send(frames.burst, i as usize, plain_max, counters) {
                counters.dropped(reason, 1);
            }
        }
        Ok(())
    }

    fn accepts(&self) -> Accepts {
        Accepts { partial_checksum: true, tso4: true, tso6: true, tso_ecn: true }
    }

    #[inline]
    fn flush(&mut self, counters: &PortCounters) -> Result<(), QueueFault> {
        if !self.ring.is_idle() {
            self.push_out(counters);
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

impl Drop for TapTx {
    fn drop(&mut self) {
        if self.ring.settle() {
            // SAFETY: this is the only place that drops the pool, and it isn't used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}
