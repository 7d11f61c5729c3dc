//! The receive queue: frames the host sends.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};

use io_uring::opcode;
use packet::{BURST_MAX, Burst, Pool};
use port::{Armed, DropReason, PortCounters, QueueFault, RxQueue};

use crate::header;
use crate::ring::{CURRENT_POSITION, Ring};
use crate::sys::HEADER_LEN;

/// Bytes of a buffer: the largest frame the kernel makes (64 KiB and link headers) with room to tell one that
/// was cut. Not a multiple of the page size, or all frames would begin in the same cache sets.
pub(crate) const BUFFER_BYTES: usize = 65_600;
/// Buffers: all of a burst's can be borrowed at a time, and none is needed beside them.
pub(crate) const BUFFERS: u32 = BURST_MAX as u32;
/// Requests at a time: the reads and the poll.
pub(crate) const ENTRIES: u32 = 2 * BUFFERS;
/// Reads at a time while more comes. Each of them that finds nothing costs some 100 ns.
const READS_MAX: usize = BURST_MAX;
/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;

pub(crate) struct TapRx {
    ring: Ring,
    /// Buffers are taken when a read is posted, and given back when it fails or its frame is released.
    memory: ManuallyDrop<Pool>,
    /// Whether a read that finds nothing fails, so that several can be tried.
    nowait: bool,
    /// Reads to post next time: follows what arrives.
    ask: usize,
    /// Reads posted and not completed.
    reading: usize,
    fault: Option<QueueFault>,
}

impl TapRx {
    pub fn new(ring: Ring, memory: Pool, nowait: bool) -> Self {
        // The first turn only arms the poll.
        Self { ring, memory: ManuallyDrop::new(memory), nowait, ask: 0, reading: 0, fault: None }
    }

    /// Posts reads and the next poll, in this order: the poll fires at once if the reads left something.
    fn post(&mut self, room: usize) {
        for _ in 0..self.ask.min(room.saturating_sub(self.reading)) {
            let Some(buffer) = self.memory.take() else { break };
            let bytes = self.memory.bytes_mut(buffer);
            let read = opcode::Read::new(self.ring.fd(), bytes.as_mut_ptr(), BUFFER_BYTES as u32)
                .offset(CURRENT_POSITION)
                .rw_flags(if self.nowait { libc::RWF_NOWAIT } else { 0 })
                .build();
            // SAFETY: the buffer was just taken from the pool and is not given back, or looked at, before the
            // read's completion; the pool is only unmapped after `settle`.
            unsafe { self.ring.push(read, buffer) };
            self.reading += 1;
        }
        self.ring.arm();
    }

    /// Appends the frames of completed reads to the burst. Returns how many reads brought one.
    fn reap(&mut self, burst: &mut Burst, counters: &PortCounters) -> usize {
        let Self { ring, memory, reading, fault, .. } = self;
        let (mut frames, mut bytes) = (0, 0);
        ring.reap(|buffer, result| {
            *reading -= 1;
            let Ok(len) = usize::try_from(result) else {
                memory.give(buffer);
                *fault = fault.or(fault_of(-result));
                return;
            };
            frames += 1;
            bytes += len.saturating_sub(HEADER_LEN) as u64;
            if let Err(reason) = append(burst, memory.bytes_mut(buffer), len, buffer) {
                memory.give(buffer);
                counters.dropped(reason, 1);
            }
        });
        if frames > 0 {
            counters.received(frames as u64, bytes);
        }
        frames
    }
}

/// Appends the frame that was read into `buffer`, or says why not.
fn append(burst: &mut Burst, buffer: &[u8], len: usize, token: u32) -> Result<(), DropReason> {
    if len >= BUFFER_BYTES {
        return Err(DropReason::BadChain);
    }
    let Some((header, frame)) = buffer[..len].split_first_chunk::<HEADER_LEN>() else {
        return Err(DropReason::Runt);
    };
    if frame.len() < FRAME_MIN {
        return Err(DropReason::Runt);
    }
    let offload = header::decode(header);
    if !header::is_consistent(&offload, frame.len()) {
        return Err(DropReason::BadOffload);
    }
    // SAFETY: the frame lies in a buffer that is not given back, hence not read into, before the burst's release.
    unsafe { burst.push(frame.as_ptr(), frame.len() as u32, offload, u64::from(token)) };
    Ok(())
}

fn fault_of(errno: i32) -> Option<QueueFault> {
    match errno {
        // Nothing there; interrupted; or the thread that had posted it ended.
        libc::EAGAIN | libc::EINTR | libc::ECANCELED => None,
        libc::EBADFD => Some(QueueFault { what: "the TAP device was removed", value: errno as u64 }),
        _ => Some(QueueFault { what: "reading from the TAP device failed", value: errno as u64 }),
    }
}

impl RxQueue for TapRx {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        let mut frames = self.reap(burst, counters);
        if self.fault.is_none() && (!self.ring.is_armed() || self.ring.unsubmitted() > 0) {
            if self.ring.unsubmitted() == 0 {
                self.post(burst.room());
            }
            let asked = self.reading;
            self.fault = self.ring.submit().err();
            frames += self.reap(burst, counters);
            self.ask = match frames {
                _ if !self.nowait => 1,
                frames if frames < asked => asked.midpoint(frames).max(1),
                _ => (2 * asked).clamp(1, READS_MAX),
            };
        }
        match self.fault {
            // Frames that came before the fault are forwarded first.
            Some(fault) if burst.is_empty() => Err(fault),
            _ => Ok(()),
        }
    }

    #[inline]
    fn release(&mut self, burst: &mut Burst, _counters: &PortCounters) {
        // Backwards, so that the next burst uses the same buffers in the same order.
        for i in (0..burst.len()).rev() {
            self.memory.give(burst.token(i) as u32);
        }
    }

    fn arm(&mut self) -> Armed {
        if self.reading > 0 || self.ring.unsubmitted() > 0 {
            return Armed::Ready;
        }
        self.ring.reap(|_, _| unreachable!("no read is posted"));
        // A frame that arrives from here on wakes through the device's descriptor.
        if self.ring.is_armed() { Armed::Waiting } else { Armed::Ready }
    }

    fn disarm(&mut self) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.queue().as_fd())
    }
}

impl Drop for TapRx {
    fn drop(&mut self) {
        if self.ring.settle() {
            // SAFETY: this is the only place that drops the pool, and it isn't used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::HugePages;
    use port::Received;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;

    /// A datagram socket behaves like a TAP device: a read is a frame. Anybody may have one.
    fn queue_and_host(nowait: bool) -> (TapRx, UnixDatagram) {
        let (ours, host) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ring = Ring::new(Arc::new(ours.into()), ENTRIES).unwrap();
        (TapRx::new(ring, Pool::new(BUFFERS, BUFFER_BYTES, HugePages::Off).unwrap(), nowait), host)
    }

    fn with_header(header: [u8; HEADER_LEN], frame: &[u8]) -> Vec<u8> {
        [&header[..], frame].concat()
    }

    fn poll(rx: &mut TapRx, counters: &PortCounters) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        let mut received = Received::poll(rx, &mut burst, counters).unwrap();
        let burst = received.burst();
        (0..burst.len())
            .map(|i| {
                let mut frame = vec![0; burst.frame_len(i)];
                burst.read(i, 0, &mut frame);
                frame
            })
            .collect()
    }

    #[test]
    fn frames_come_in_order_in_few_turns_and_one_by_one_on_kernels_without_nowait() {
        for (nowait, turns_max) in [(true, 12), (false, 60)] {
            let (mut rx, host) = queue_and_host(nowait);
            let counters = PortCounters::default();
            assert!(poll(&mut rx, &counters).is_empty());
            assert_eq!(rx.arm(), Armed::Waiting);
            let mut got = vec![];
            let mut turns = 0;
            for first in (0..50).step_by(10) {
                for n in first..first + 10 {
                    host.send(&with_header([0; HEADER_LEN], &[n; 60])).unwrap();
                }
                while got.len() < usize::from(first) + 10 {
                    let frames = poll(&mut rx, &counters);
                    turns += usize::from(!frames.is_empty());
                    got.extend(frames.iter().map(|frame| frame[0]));
                }
                assert_eq!(rx.reading, 0, "no read is left behind to take a frame");
            }
            assert_eq!(got, (0..50).collect::<Vec<u8>>());
            assert!(turns <= turns_max, "{turns} turns");
            assert_eq!((counters.rx_frames.get(), counters.rx_bytes.get()), (50, 50 * 60));
            assert_eq!(rx.memory.free(), BUFFERS as usize);
        }
    }

    #[test]
    fn frames_that_are_cut_or_ask_for_nonsense_are_counted_and_dropped() {
        let (mut rx, host) = queue_and_host(true);
        let counters = PortCounters::default();
        let past_the_end = [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0, 0, 0];
        host.send(&[0; 5]).unwrap();
        host.send(&with_header([0; HEADER_LEN], &[1; 13])).unwrap();
        host.send(&with_header(past_the_end, &[2; 60])).unwrap();
        host.send(&vec![0; BUFFER_BYTES + 1]).unwrap();
        host.send(&with_header([0; HEADER_LEN], &[3; 14])).unwrap();
        let mut got = vec![];
        while counters.rx_frames.get() < 5 {
            got.extend(poll(&mut rx, &counters));
        }
        assert_eq!(got, [[3; 14]]);
        assert_eq!(counters.drops(DropReason::Runt), 2);
        assert_eq!(counters.drops(DropReason::BadOffload), 1);
        assert_eq!(counters.drops(DropReason::BadChain), 1);
        assert_eq!(rx.memory.free(), BUFFERS as usize);
    }

    #[test]
    fn an_idle_queue_enters_the_kernel_once() {
        let (mut rx, _host) = queue_and_host(true);
        let counters = PortCounters::default();
        let mut burst = Burst::new();
        rx.receive(&mut burst, &counters).unwrap();
        for _ in 0..1000 {
            rx.receive(&mut burst, &counters).unwrap();
            assert!(rx.ring.is_armed() && rx.ring.unsubmitted() == 0 && rx.reading == 0);
        }
    }
}
