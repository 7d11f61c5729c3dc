//! The transmit queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dpaa2_defs::fd::{Fd, Format, OFFSET_MAX, SgEntry};
use dpaa2_defs::qbman::release::BUFFERS_MAX;
use fslmc_bus::{Bus, DmaMemory};
use headers::checksum::{Sum, complete_checksum};
use packet::{BURST_MAX, Burst, copy};
use port::{Accepts, DropReason, PortCounters, QueueFault, Selection, TxQueue};
use zerocopy::{FromBytes, IntoBytes};

use crate::buffers::{Buffers, DATA_OFFSET, SEGMENTS_MAX};
use crate::counters::add;
use crate::port::Shared;
use crate::returns::Returns;
use crate::rx::fault_of;
use crate::worker_portal::WorkerPortal;

/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
/// Looks at a full enqueue ring before frames are dropped: some 20 µs, in which hardware takes more than a ring.
const FULL_RING_LOOKS: u32 = 2000;
/// Offset of the state in a congestion message.
const CONGESTION_STATE: usize = 2;

/// What a transmit queue is made of.
pub(crate) struct TxParts<B: Bus> {
    pub fqid: u32,
    /// Where hardware says whether the queue is congested.
    pub congestion: Arc<DmaMemory<B>>,
}

impl<B: Bus> Clone for TxParts<B> {
    fn clone(&self) -> Self {
        TxParts { fqid: self.fqid, congestion: self.congestion.clone() }
    }
}

/// Sends to one frame queue of the interface through the portal of one worker. Each worker has an object of its own for the
/// queue, so none waits for another.
///
/// A burst is one write of the producer index (QBMan 5.0) however many frames it has. Frames received from an
/// interface of the same container are sent as they are: their descriptor moves, and hardware gives their buffers
/// back to the pool they came from. Others are copied into buffers acquired from this queue's pool, where hardware
/// returns them too.
pub(crate) struct Dpaa2Tx<B: Bus> {
    portal: Arc<WorkerPortal<B>>,
    fqid: u32,
    buffers: Arc<Buffers<B>>,
    /// Buffers acquired and not used yet.
    free: Returns,
    /// Hardware writes here whether the queue is congested.
    congestion: Arc<DmaMemory<B>>,
    fds: Box<[Fd; BURST_MAX]>,
    /// For each descriptor, which frame of the burst it is.
    frames: [Described; BURST_MAX],
    fault: Option<QueueFault>,
    shared: Arc<Shared<B>>,
}

/// A frame that has a descriptor.
#[derive(Clone, Copy, Default)]
struct Described {
    index: u8,
    /// Whether the descriptor is the received one.
    is_moved: bool,
    len: u32,
}

impl<B: Bus> Dpaa2Tx<B> {
    pub fn new(
        parts: TxParts<B>,
        portal: Arc<WorkerPortal<B>>,
        buffers: Arc<Buffers<B>>,
        shared: Arc<Shared<B>>,
    ) -> Dpaa2Tx<B> {
        let TxParts { fqid, congestion } = parts;
        let free = Returns::new(buffers.bpid());
        let fds = Box::new([Fd::default(); BURST_MAX]);
        let frames = [Described::default(); BURST_MAX];
        Dpaa2Tx { portal, fqid, buffers, free, congestion, fds, frames, fault: None, shared }
    }

    /// Whether hardware says that the queue holds too many frames.
    #[inline(always)]
    fn is_congested(&self) -> bool {
        // SAFETY: the message is 16 bytes of our memory; hardware writes it, hence volatile.
        let state = unsafe { self.congestion.as_ptr().add(CONGESTION_STATE).read_volatile() };
        state != 0
    }

    /// A descriptor for frame `i` and whether it is the received one, or why there is none.
    #[inline(always)]
    fn describe(&mut self, burst: &Burst, i: usize, frame_max: usize) -> Result<(Fd, bool), DropReason> {
        let len = burst.frame_len(i);
        if len < FRAME_MIN {
            return Err(DropReason::Runt);
        }
        if len > frame_max {
            return Err(DropReason::TooLong);
        }
        if burst.may_take(i)
            && burst.owner() == self.shared.hardware.number
            && let Some(fd) = self.move_over(burst, i)
        {
            return Ok((fd, true));
        }
        self.copy(burst, i, len).map(|fd| (fd, false))
    }

    /// The received descriptor of frame `i`, with what was done to its head written into its buffer. `None` when
    /// the buffer has no room for that.
    #[inline(always)]
    fn move_over(&self, burst: &Burst, i: usize) -> Option<Fd> {
        // SAFETY: the burst's owner says that its tokens are addresses of descriptors, which the receiving queue
        // keeps until the burst is released.
        let received = unsafe { *(burst.token(i) as *const Fd) };
        let pool = self.shared.hardware.pools.of(received.bpid())?;
        let (addr, offset, len) = (received.addr.get(), received.offset(), received.len());
        if !burst.is_edited(i) {
            // Annotation and context are of the receiving interface: only where the frame lies is kept.
            return Some(Fd::single(addr, offset, len, received.bpid()).with_format(received.format()));
        }
        let head = burst.head(i);
        let moved = |offset: u16| -> Option<u16> {
            let at = i64::from(offset) + burst.replaced(i) as i64 - head.len() as i64;
            u16::try_from(at).ok().filter(|&at| at <= OFFSET_MAX)
        };
        let write_head = |pool: &Buffers<B>, addr: u64, at: u16| -> Option<()> {
            let to = pool.data(addr, at, head.len() as u32)?;
            // SAFETY: the buffer has this many bytes there, and nobody else has the frame.
            unsafe { copy::copy(head.as_ptr(), to.as_ptr(), head.len()) };
            Some(())
        };
        let frame_len = burst.frame_len(i) as u32;
        if received.format() == Format::Single {
            let at = moved(offset)?;
            write_head(pool, addr, at)?;
            return Some(Fd::single(addr, at, frame_len, received.bpid()));
        }
        // The first entry of the table changes with the head.
        let table = pool.data(addr, offset, size_of::<SgEntry>() as u32)?;
        // SAFETY: 16 bytes of a buffer that is ours until it is sent.
        let bytes: [u8; size_of::<SgEntry>()] = unsafe { table.cast::<[u8; 16]>().read_volatile() };
        let mut entry = SgEntry::read_from_bytes(&bytes).ok()?;
        let rest = entry.len().checked_sub(burst.replaced(i) as u32)?;
        let at = moved(entry.offset())?;
        write_head(self.shared.hardware.pools.of(entry.bpid())?, entry.addr.get(), at)?;
        let flags = entry.offset.get() & !OFFSET_MAX;
        entry.offset = (flags | at).into();
        entry.len = (rest + head.len() as u32).into();
        // SAFETY: as above.
        unsafe { copy::copy(entry.as_bytes().as_ptr(), table.as_ptr(), bytes.len()) };
        Some(Fd::scatter_gather(addr, offset, frame_len, received.bpid()))
    }

    /// Copies frame `i` into buffers of the pool.
    #[inline(always)]
    fn copy(&mut self, burst: &Burst, i: usize, len: usize) -> Result<Fd, DropReason> {
        let room = self.buffers.data_bytes();
        if len > room {
            return self.copy_scattered(burst, i, len, room);
        }
        let addr = self.take_buffer().ok_or(DropReason::PoolEmpty)?;
        let Some(to) = self.buffers.data(addr, DATA_OFFSET, len as u32) else {
            return Err(self.foreign_buffer(addr));
        };
        let mut at = to;
        for part in burst.parts(i) {
            // SAFETY: the parts are `len` bytes together, and the buffer, which is ours alone, has that many.
            unsafe {
                copy::copy(part.ptr, at.as_ptr(), part.len as usize);
                at = at.add(part.len as usize);
            }
        }
        let request = burst.offload(i);
        if request.needs_csum() {
            // SAFETY: `len` bytes that were just written, in a buffer that is ours alone until it is enqueued.
            let frame = unsafe { std::slice::from_raw_parts_mut(to.as_ptr(), len) };
            let written_by_hardware = self.shared.checksums && is_plain_transport(frame, request.csum_start);
            if !written_by_hardware
                && complete_checksum(frame, request.csum_start, request.csum_offset).is_err()
            {
                self.free.push(addr);
                return Err(DropReason::BadOffload);
            }
        }
        Ok(Fd::single(addr, DATA_OFFSET, len as u32, self.buffers.bpid()))
    }

    #[cold]
    #[inline(never)]
    fn copy_scattered(&mut self, burst: &Burst, i: usize, len: usize, room: usize) -> Result<Fd, DropReason> {
        let pieces = len.div_ceil(room);
        if pieces > SEGMENTS_MAX {
            return Err(DropReason::TooLong);
        }
        let mut taken = [0; SEGMENTS_MAX + 1];
        for n in 0..=pieces {
            let Some(addr) = self.take_buffer() else {
                taken[..n].iter().for_each(|&addr| self.free.push(addr));
                return Err(DropReason::PoolEmpty);
            };
            taken[n] = addr;
            if self.buffers.buffer(addr).is_none() {
                taken[..n].iter().for_each(|&addr| self.free.push(addr));
                return Err(self.foreign_buffer(addr));
            }
        }
        let (table, data) = (taken[0], &taken[1..=pieces]);
        let bpid = self.buffers.bpid();
        let mut whole = Writer { buffers: &self.buffers, data, room, at: 0 };
        for part in burst.parts(i) {
            whole.write(part.ptr, part.len as usize);
        }
        let request = burst.offload(i);
        if request.needs_csum()
            && !whole.complete_checksum(len, request.csum_start.into(), request.csum_offset.into())
        {
            taken[..=pieces].iter().for_each(|&addr| self.free.push(addr));
            return Err(DropReason::BadOffload);
        }
        for (n, &addr) in data.iter().enumerate() {
            let mut entry = SgEntry::new(addr, DATA_OFFSET, (len - n * room).min(room) as u32, bpid);
            if n + 1 == pieces {
                entry = entry.last();
            }
            let at = DATA_OFFSET + (n * size_of::<SgEntry>()) as u16;
            let to = self.buffers.data(table, at, size_of::<SgEntry>() as u32);
            let to = to.expect("a table of SEGMENTS_MAX entries fits in the smallest buffer");
            // SAFETY: 16 bytes of a buffer that is ours alone.
            unsafe { copy::copy(entry.as_bytes().as_ptr(), to.as_ptr(), size_of::<SgEntry>()) };
        }
        Ok(Fd::scatter_gather(table, DATA_OFFSET, len as u32, bpid))
    }

    /// A free buffer, acquired in sevens.
    #[inline(always)]
    fn take_buffer(&mut self) -> Option<u64> {
        if self.free.len() == 0 {
            self.acquire();
        }
        self.free.pop()
    }

    #[inline(never)]
    fn acquire(&mut self) {
        let mut addrs = [0; BUFFERS_MAX];
        // All or nothing: a pool that doesn't have seven may have one.
        for want in [BUFFERS_MAX, 1] {
            match self.portal.serving().io.portal.acquire(self.buffers.bpid(), &mut addrs[..want]) {
                Ok(0) => {}
                Ok(n) => {
                    addrs[..n].iter().for_each(|&addr| self.free.push(addr));
                    return;
                }
                Err(error) => {
                    self.fault = Some(fault_of(error));
                    return;
                }
            }
        }
    }

    /// The pool gave an address that is none of its buffers.
    #[cold]
    fn foreign_buffer(&mut self, addr: u64) -> DropReason {
        self.fault = Some(QueueFault { what: "the buffer pool gave memory that isn't its own", value: addr });
        DropReason::Device
    }

    /// Enqueues descriptors in order, waiting a little when the ring is full. Returns how many were taken.
    #[inline(always)]
    fn enqueue(&mut self, count: usize) -> usize {
        let (mut sent, mut looks) = (0, 0);
        let mut serving = self.portal.serving();
        let portal = &mut serving.io.portal;
        while sent < count {
            match portal.enqueue(self.fqid, &self.fds[sent..count]) {
                Ok(0) => {
                    looks += 1;
                    if looks > FULL_RING_LOOKS {
                        break;
                    }
                    std::hint::spin_loop();
                }
                Ok(n) => {
                    sent += n;
                    looks = 0;
                }
                Err(error) => {
                    self.fault = Some(fault_of(error));
                    break;
                }
            }
        }
        sent
    }

    /// Gives the buffers of a descriptor that was made here and not enqueued back.
    #[cold]
    fn unmake(&mut self, fd: Fd) {
        let Self { buffers, free, .. } = self;
        if fd.format() == Format::ScatterGather {
            buffers.each_entry(&fd, |entry| {
                free.push(entry.addr.get());
                true
            });
        }
        free.push(fd.addr.get());
    }
}

/// Writes a frame over several buffers.
struct Writer<'a, B: Bus> {
    buffers: &'a Buffers<B>,
    /// Addresses of buffers, all of them of the pool.
    data: &'a [u64],
    room: usize,
    at: usize,
}

impl<B: Bus> Writer<'_, B> {
    /// Memory for the frame's bytes from `at` on, and how many bytes of it lie in this buffer.
    fn place(&self, at: usize) -> (*mut u8, usize) {
        let buffer = self.buffers.buffer(self.data[at / self.room]).expect("checked when it was taken");
        let within = at % self.room;
        // SAFETY: DATA_OFFSET + room is a buffer's length, and within < room.
        (unsafe { buffer.as_ptr().add(usize::from(DATA_OFFSET) + within) }, self.room - within)
    }

    fn write(&mut self, mut from: *const u8, mut len: usize) {
        while len > 0 {
            let (to, room) = self.place(self.at);
            let n = len.min(room);
            // SAFETY: the burst promises `len` readable bytes; there are `room` writable ones.
            unsafe {
                copy::copy(from, to, n);
                from = from.add(n);
            }
            self.at += n;
            len -= n;
        }
    }

    /// Completes the checksum of a frame of `len` bytes; false when the request doesn't fit it.
    fn complete_checksum(&mut self, len: usize, start: usize, offset: usize) -> bool {
        let field = start + offset;
        // Buffers hold an even number of bytes, so only an odd start would put words across two of them.
        if field + 2 > len || !start.is_multiple_of(2) || !offset.is_multiple_of(2) {
            return false;
        }
        let (mut sum, mut at) = (Sum::default(), start);
        while at < len {
            let (from, room) = self.place(at);
            let n = room.min(len - at);
            // SAFETY: these bytes were just written, in a buffer that is ours alone.
            sum = sum.bytes(unsafe { std::slice::from_raw_parts(from, n) });
            at += n;
        }
        let checksum = match sum.finish() {
            0 => 0xffff,
            checksum => checksum,
        };
        let (to, _) = self.place(field);
        // SAFETY: as above; `field` is even, so both bytes are in this buffer.
        unsafe { to.cast::<[u8; 2]>().write_unaligned(checksum.to_be_bytes()) };
        true
    }
}

/// Whether this is TCP or UDP right behind an IP header without options, fragments or extensions, at most two tags,
/// and the checksum asked for is theirs: then hardware writes it.
fn is_plain_transport(frame: &[u8], csum_start: u16) -> bool {
    let word = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut at = 12;
    for _ in 0..2 {
        if matches!(word(at), Some(0x8100 | 0x88a8)) {
            at += 4;
        }
    }
    let l3 = at + 2;
    let (protocol, l4) = match word(at) {
        Some(0x0800) if frame.get(l3) == Some(&0x45) && word(l3 + 6).is_some_and(|f| f & 0x3fff == 0) => {
            (frame.get(l3 + 9), l3 + 20)
        }
        Some(0x86dd) => (frame.get(l3 + 6), l3 + 40),
        _ => return false,
    };
    matches!(protocol, Some(6 | 17)) && usize::from(csum_start) == l4
}

impl<B: Bus> TxQueue for Dpaa2Tx<B> {
    #[inline]
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let Selection { burst, which } = frames;
        if let Some(fault) = self.fault {
            counters.dropped(DropReason::Device, which.len() as u64);
            return Err(fault);
        }
        if self.is_congested() {
            add(&self.shared.counters.congested, 1);
            counters.dropped(DropReason::TxFull, which.len() as u64);
            return Ok(());
        }
        let frame_max = self.shared.frame_max.load(Ordering::Relaxed) as usize;
        let mut described = 0;
        for &i in which {
            match self.describe(burst, i.into(), frame_max) {
                Ok((fd, is_moved)) => {
                    self.fds[described] = fd;
                    self.frames[described] = Described { index: i, is_moved, len: fd.len() };
                    described += 1;
                }
                Err(reason) => counters.dropped(reason, 1),
            }
        }
        let sent = if described > 0 { self.enqueue(described) } else { 0 };
        let (mut bytes, mut moved) = (0, 0);
        for n in 0..described {
            let Described { index, is_moved, len } = self.frames[n];
            if n < sent {
                bytes += u64::from(len);
                if is_moved {
                    burst.take(index.into());
                    moved += 1;
                }
            } else if !is_moved {
                self.unmake(self.fds[n]);
            }
        }
        counters.sent(sent as u64, bytes);
        if moved > 0 {
            add(&self.shared.counters.moved, moved);
        }
        if sent < described {
            counters.dropped(DropReason::TxFull, (described - sent) as u64);
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    fn accepts(&self) -> Accepts {
        Accepts { partial_checksum: true, ..Accepts::default() }
    }

    #[inline]
    fn flush(&mut self, _counters: &PortCounters) -> Result<(), QueueFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

impl<B: Bus> Drop for Dpaa2Tx<B> {
    /// Gives unused buffers back. What is in the worker's enqueue ring yet hardware takes within microseconds; every worker
    /// has acknowledged since that it doesn't use the queue any more.
    fn drop(&mut self) {
        self.shared.hardware.control().io.give_all(&mut self.free, &self.shared.counters);
    }
}
