//! The device side of the ring on which a guest receives: frames go there.

use std::sync::Arc;

use guest_memory::MemMap;
use packet::copy::{block, copy, copy_ahead, prefetch_write};
use packet::{BURST_MAX, Burst, Offload, START};
use port::{Accepts, DropReason, PortCounters, QueueFault, Selection, TxQueue};
use virtio_defs::feature;
use virtio_defs::net::{self, HEADER_BYTES};

use crate::chain::{Access, CHAIN_MAX, Piece, Walk};
use crate::core::{AnyRing, Core, queue_setters, with_ring};
use crate::net_header::to_words;
use crate::ring::{Done, Peeked, Ring};
use crate::{RingConfig, RingError};

/// A transmit queue of the switch on a guest's receive ring.
///
/// A frame for which the guest's buffers are too small is dropped, and the buffers stay where they are, for the next
/// frame that fits: given back empty, a guest would refill them with others of the same size, one interrupt each.
///
/// [`transmit`](TxQueue::transmit) publishes the burst; the guest is interrupted, if it wants that, in
/// [`flush`](TxQueue::flush), once for all bursts of a loop turn.
#[derive(Debug)]
pub struct VirtioTx {
    core: Core,
    ring: AnyRing,
    scratch: Scratch,
    accepts: Accepts,
    /// Something was published that the driver has not been considered for an interrupt for.
    unsignalled: bool,
}

/// What one frame is spread over, when that is more than one descriptor.
#[derive(Debug)]
struct Scratch {
    done: Vec<Done>,
    pieces: Vec<Piece>,
}

// SAFETY: the raw pointers in `pieces` are scratch of one `transmit` and not followed after it.
unsafe impl Send for Scratch {}

impl VirtioTx {
    /// Starts a ring.
    ///
    /// # Errors
    /// Size, alignment or place of the ring is not allowed, or version 1 was not negotiated.
    pub fn new(config: RingConfig, map: Arc<MemMap>) -> Result<VirtioTx, RingError> {
        let csum = config.has(net::feature::GUEST_CSUM);
        let accepts = Accepts {
            partial_checksum: csum,
            tso4: csum && config.has(net::feature::GUEST_TSO4),
            tso6: csum && config.has(net::feature::GUEST_TSO6),
            tso_ecn: csum && config.has(net::feature::GUEST_ECN),
        };
        let (core, ring) = Core::new(config, map)?;
        let scratch =
            Scratch { done: Vec::with_capacity(2 * CHAIN_MAX), pieces: Vec::with_capacity(2 * CHAIN_MAX) };
        Ok(VirtioTx { core, ring, scratch, accepts, unsignalled: false })
    }

    fn idle(&self) -> bool {
        true
    }

    queue_setters!();
}

impl TxQueue for VirtioTx {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let Selection { burst, which } = frames;
        let mut tally = Tally::default();
        let outcome = match self.core.fault {
            Some(fault) => Err(fault),
            None => self.transmit_all(burst, which, &mut tally),
        };
        if outcome.is_err() {
            // What a broken ring was given counts as given only when it was published before.
            let left = which.len() as u64 - tally.frames - tally.full - tally.small;
            counters.dropped(DropReason::PortDown, left);
        }
        self.unsignalled |= tally.frames > 0;
        counters.sent(tally.frames, tally.bytes);
        if tally.full | tally.small != 0 {
            counters.dropped(DropReason::TxFull, tally.full);
            counters.dropped(DropReason::TxBufferTooSmall, tally.small);
        }
        outcome
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }

    fn has_room(&mut self, frames: usize) -> bool {
        with_ring!(&mut self.ring, r => has_room(r, frames)).unwrap_or(true)
    }

    fn flush(&mut self, counters: &PortCounters) -> Result<(), QueueFault> {
        if let Some(fault) = self.core.fault {
            return Err(fault);
        }
        if std::mem::take(&mut self.unsignalled) {
            with_ring!(&mut self.ring, r => self.core.call(r, counters));
        }
        Ok(())
    }
}

/// Whether there are buffers for so many frames, or half a ring of them.
fn has_room<R: Ring>(ring: &mut R, frames: usize) -> Result<bool, RingError> {
    ring.refresh()?;
    let half = ring.size() / 2;
    Ok(ring.has_available(u16::try_from(frames).map_or(half, |frames| frames.min(half))))
}

impl VirtioTx {
    #[inline(always)]
    fn transmit_all(&mut self, burst: &Burst, which: &[u8], tally: &mut Tally) -> Result<(), QueueFault> {
        let (core, scratch) = (&mut self.core, &mut self.scratch);
        let requests = self.accepts.partial_checksum && burst.has_requests();
        let sent = match (&mut self.ring, requests) {
            (AnyRing::Split(r), true) => transmit::<_, true>(core, r, scratch, burst, which, tally),
            (AnyRing::Split(r), false) => transmit::<_, false>(core, r, scratch, burst, which, tally),
            (AnyRing::Packed(r), true) => transmit::<_, true>(core, r, scratch, burst, which, tally),
            (AnyRing::Packed(r), false) => transmit::<_, false>(core, r, scratch, burst, which, tally),
        };
        if self.core.map.faulted() {
            *tally = Tally::default();
            return Err(self.core.fail(RingError::MemoryGone(0)));
        }
        sent.map_err(|error| self.core.fail(error))
    }
}

/// Bytes from which on a frame is fetched whole while the one before it is copied, for all of a burst.
const LONG: usize = 256;

/// What happened to the frames, to be counted once.
#[derive(Default)]
struct Tally {
    frames: u64,
    bytes: u64,
    full: u64,
    small: u64,
}

/// Sends all frames for which there are buffers. Runs of the usual kind, one descriptor each that has room, are
/// sent in passes over all of them: find and prefetch the buffers, fill them, publish. The others one by one.
#[inline(always)]
fn transmit<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    scratch: &mut Scratch,
    burst: &Burst,
    which: &[u8],
    tally: &mut Tally,
) -> Result<(), RingError> {
    ring.refresh()?;
    let mut left = which;
    while !left.is_empty() {
        let sent = usual::<R, OFFLOADS>(core, ring, burst, left, tally)?;
        left = &left[sent..];
        // What stopped the run: a burst's length, a frame or buffer of another kind, or an empty ring.
        let Some((&frame, rest)) = left.split_first() else { break };
        if !unusual::<R, OFFLOADS>(core, ring, scratch, burst, frame.into(), tally)? {
            tally.full += left.len() as u64;
            break;
        }
        left = rest;
    }
    Ok(())
}

/// Sends a run of frames, each into one descriptor that has room for it, and returns how many.
#[inline(always)]
fn usual<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    burst: &Burst,
    which: &[u8],
    tally: &mut Tally,
) -> Result<usize, RingError> {
    let mut peeked = Peeked::new();
    let n = ring.peek(&mut peeked, which.len().min(BURST_MAX))?;
    let mut ptrs = [std::ptr::null_mut::<u8>(); BURST_MAX];
    let mut done = [Done::default(); BURST_MAX];
    let mut cache = core.cache;
    let mut count = 0;
    let mut bytes = 0;
    let found = peeked.heads[..n].iter().zip(&peeked.done).zip(which);
    for (((head, peeked), &frame), (ptr, done)) in found.zip(ptrs.iter_mut().zip(&mut done)) {
        // SAFETY: `peek` filled the first `n` of both.
        let (head, peeked) = unsafe { (head.assume_init(), peeked.assume_init()) };
        let need = HEADER_BYTES + burst.frame_len(frame.into());
        if !head.is_single::<R>(true) || (head.len() as usize) < need {
            break;
        }
        let Some(at) = cache.translate_gpa(&core.map, head.addr, need as u64) else { break };
        let at = at.as_ptr();
        // The frame usually begins a cache line of its own, behind the header's.
        prefetch_write(at);
        prefetch_write(at.wrapping_add(HEADER_BYTES));
        *ptr = at;
        *done = peeked.with_len(need as u32);
        bytes += need as u64;
        count += 1;
    }
    core.cache = cache;
    if count == 0 {
        return Ok(0);
    }
    let is_long = burst.longest() >= LONG;
    for (k, (&frame, &ptr)) in which.iter().zip(&ptrs[..count]).enumerate() {
        let header = header::<OFFLOADS>(burst.offload(frame.into()), 1);
        let next = (k + 1).min(count - 1);
        let ahead = is_long.then(|| (burst.source(which[next].into()), ptrs[next].cast_const()));
        // SAFETY: there is room for header and frame, found above.
        unsafe { fill(burst, frame.into(), &header, ptr, ahead) };
    }
    ring.advance(count as u16);
    ring.complete(&done[..count]);
    tally.frames += count as u64;
    tally.bytes += bytes - (count * HEADER_BYTES) as u64;
    if core.logging {
        let pieces = peeked.heads.iter().zip(&done[..count]).map(|(head, done)| {
            // SAFETY: `peek` filled them.
            (unsafe { head.assume_init() }.addr, done.len())
        });
        log_written(core, ring, pieces, count as u16);
    }
    Ok(count)
}

/// Sends one frame into whatever buffers there are, or drops it. False: the ring has no buffer at all.
#[inline(never)]
fn unusual<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    scratch: &mut Scratch,
    burst: &Burst,
    frame: usize,
    tally: &mut Tally,
) -> Result<bool, RingError> {
    let need = HEADER_BYTES + burst.frame_len(frame);
    match gather(core, ring, scratch, need)? {
        Gathered::Nothing => return Ok(false),
        Gathered::TooFew => tally.full += 1,
        Gathered::TooSmall => tally.small += 1,
        Gathered::Room => {
            let header = header::<OFFLOADS>(burst.offload(frame), scratch.done.len() as u16);
            scatter(burst, frame, &header, &scratch.pieces);
            ring.complete(&scratch.done);
            tally.frames += 1;
            tally.bytes += (need - HEADER_BYTES) as u64;
            if core.logging {
                let slots = scratch.done.iter().fold(0u16, |n, d| n.saturating_add(d.slots()));
                log_written(core, ring, scratch.pieces.iter().map(|p| (p.gpa, p.len)), slots);
            }
        }
    }
    Ok(true)
}

/// What was found for a frame.
enum Gathered {
    /// The buffers are in the scratch.
    Room,
    /// The ring is empty.
    Nothing,
    /// The ring's buffers together are too small now.
    TooFew,
    /// The frame doesn't fit into a buffer (without mergeable ones), or into [`CHAIN_MAX`] pieces.
    TooSmall,
}

/// Takes as many chains as `need` bytes take: one, or with mergeable buffers several. Takes none when that fails.
fn gather<R: Ring>(
    core: &mut Core,
    ring: &mut R,
    scratch: &mut Scratch,
    need: usize,
) -> Result<Gathered, RingError> {
    let mergeable = core.config.has(net::feature::MRG_RXBUF);
    let start = ring.position();
    scratch.done.clear();
    scratch.pieces.clear();
    let mut left = need as u64;
    let outcome = loop {
        let Some(head) = ring.take()? else {
            break if scratch.done.is_empty() { Gathered::Nothing } else { Gathered::TooFew };
        };
        let mut walk = Walk {
            map: &core.map,
            cache: &mut core.cache,
            indirect: core.config.has(feature::INDIRECT_DESC),
            access: Access::Write,
            pieces: &mut scratch.pieces,
        };
        let chain = walk.run(ring, head)?;
        let bytes = chain.bytes.min(left);
        scratch.done.push(Done::new(chain.id, chain.slots).with_len(bytes as u32));
        left -= bytes;
        if !chain.listed || scratch.pieces.len() > CHAIN_MAX || scratch.done.len() > CHAIN_MAX {
            break Gathered::TooSmall;
        }
        if left == 0 {
            break Gathered::Room;
        }
        if !mergeable {
            break Gathered::TooSmall;
        }
    };
    if !matches!(outcome, Gathered::Room) {
        ring.rewind(start);
    }
    Ok(outcome)
}

/// The header's first eight bytes and the other four.
#[inline(always)]
fn header<const OFFLOADS: bool>(offload: &Offload, buffers: u16) -> (u64, u32) {
    let (low, high) = if OFFLOADS { to_words(offload) } else { (0, 0) };
    (low, u32::from(high) | u32::from(buffers) << 16)
}

/// Writes header and frame to one piece of memory, and, where a source and a destination are said to be next, hints that
/// they are (see [`copy_ahead`]).
///
/// # Safety
/// `HEADER_BYTES + burst.frame_len(i)` bytes must be writable at `to`.
#[inline(always)]
unsafe fn fill(
    burst: &Burst,
    i: usize,
    header: &(u64, u32),
    to: *mut u8,
    ahead: Option<(*const u8, *const u8)>,
) {
    // SAFETY: as `copy`.
    let copy_most = |src, dst, len| unsafe {
        match ahead {
            Some(ahead) => copy_ahead(src, dst, len, ahead),
            None => copy(src, dst, len),
        }
    };
    // SAFETY: the header's bytes, then the frame's, both inside what the caller promised. A burst's pieces are
    // readable until it is released, and never the receiver's buffer: one is the guest's to read, the other to write;
    // a guest that gives the same memory twice gets what it asked for (see `copy`: bytes, no references).
    unsafe {
        to.cast::<u64>().write_unaligned(header.0);
        to.add(8).cast::<u32>().write_unaligned(header.1);
        let mut to = to.add(HEADER_BYTES);
        if let Some(whole) = burst.whole(i) {
            copy_most(whole.ptr, to, whole.len as usize);
        } else if let Some((whole, start)) = burst.started(i) {
            copy_most(whole.ptr, to, whole.len as usize);
            block::<START>(start.as_ptr(), to);
        } else if let Some((head, rest)) = burst.halves(i) {
            copy(head.ptr, to, head.len as usize);
            if rest.len > 0 {
                copy_most(rest.ptr, to.add(head.len as usize), rest.len as usize);
            }
        } else {
            for part in burst.parts(i) {
                copy(part.ptr, to, part.len as usize);
                to = to.add(part.len as usize);
            }
        }
    }
}

/// Writes header and frame over several pieces, which have room for both.
#[cold]
#[inline(never)]
fn scatter(burst: &Burst, i: usize, header: &(u64, u32), pieces: &[Piece]) {
    let mut bytes = [0u8; HEADER_BYTES];
    bytes[..8].copy_from_slice(&header.0.to_le_bytes());
    bytes[8..].copy_from_slice(&header.1.to_le_bytes());
    let header = packet::Segment { ptr: bytes.as_ptr(), len: HEADER_BYTES as u32 };
    let mut pieces = pieces.iter().copied();
    let (mut to, mut room) = (std::ptr::null_mut::<u8>(), 0usize);
    for part in std::iter::once(header).chain(burst.parts(i)) {
        let (mut from, mut left) = (part.ptr, part.len as usize);
        while left > 0 {
            if room == 0 {
                let piece = pieces.next().expect("the pieces were counted to hold the frame");
                (to, room) = (piece.ptr, piece.len as usize);
                continue;
            }
            let n = left.min(room);
            // SAFETY: n bytes are left in the part and in the piece.
            unsafe {
                copy(from, to, n);
                (from, to) = (from.add(n), to.add(n));
            }
            (left, room) = (left - n, room - n);
        }
    }
}

/// Marks what was written: address and length of each piece, and the ring. A chain's pieces are marked whole: more than
/// needed, never less.
#[cold]
#[inline(never)]
fn log_written<R: Ring>(core: &Core, ring: &R, pieces: impl Iterator<Item = (u64, u32)>, slots: u16) {
    let Some(log) = &core.config.log else { return };
    log.begin();
    for (gpa, len) in pieces {
        log.mark(gpa, len.into());
    }
    core.log_ring(ring, slots);
}
