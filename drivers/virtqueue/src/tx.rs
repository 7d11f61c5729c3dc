//! The device side of the ring on which a guest receives: frames go there.

use std::mem::MaybeUninit;
use std::sync::Arc;

use guest_memory::MemMap;
use packet::copy::{copy, prefetch_write};
use packet::{BURST_MAX, Burst, Offload};
use port::{Accepts, DropReason, PortCounters, QueueFault, Selection, TxQueue};
use virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};
use virtio_defs::feature;
use virtio_defs::net::{self, HEADER_BYTES};

use crate::chain::{CHAIN_MAX, Piece, Walk};
use crate::core::{AnyRing, Core, queue_setters, with_ring};
use crate::net_header::to_words;
use crate::ring::{Done, Ring};
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

#[derive(Debug)]
struct Scratch {
    /// Buffers filled in this burst, in ring order.
    done: Vec<Done>,
    /// Pieces of frames that are spread over several, and of all frames while the log is on.
    pieces: Vec<Piece>,
}

// SAFETY: the raw pointers in `pieces` are scratch of one `transmit` and not followed after it.
unsafe impl Send for Scratch {}

/// A frame between the two passes: one piece, or (with a null pointer) a range of `Scratch::pieces`.
#[derive(Clone, Copy)]
struct Staged {
    ptr: *mut u8,
    frame: u8,
    /// Buffers it takes.
    buffers: u16,
    first_piece: u32,
    pieces: u32,
}

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
        let scratch = Scratch {
            done: Vec::with_capacity(BURST_MAX * CHAIN_MAX),
            pieces: Vec::with_capacity(BURST_MAX * CHAIN_MAX),
        };
        Ok(VirtioTx { core, ring, scratch, accepts, unsignalled: false })
    }

    fn idle(&self) -> bool {
        true
    }

    queue_setters!();
}

impl TxQueue for VirtioTx {
    #[inline]
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let Selection { burst, which } = frames;
        for (k, which) in which.chunks(BURST_MAX).enumerate() {
            let sent = match self.core.fault {
                Some(fault) => Err(fault),
                None => self.transmit_burst(burst, which, counters),
            };
            if let Err(fault) = sent {
                let left = frames.which.len() - k * BURST_MAX;
                counters.dropped(DropReason::PortDown, left as u64);
                return Err(fault);
            }
        }
        Ok(())
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }

    #[inline]
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

impl VirtioTx {
    /// Sends up to a burst. On an error none of it was sent, and none is counted.
    #[inline(always)]
    fn transmit_burst(
        &mut self,
        burst: &Burst,
        which: &[u8],
        counters: &PortCounters,
    ) -> Result<(), QueueFault> {
        let (core, scratch) = (&mut self.core, &mut self.scratch);
        let tally = match (&mut self.ring, self.accepts.partial_checksum) {
            (AnyRing::Split(r), true) => transmit::<_, true>(core, r, scratch, burst, which),
            (AnyRing::Split(r), false) => transmit::<_, false>(core, r, scratch, burst, which),
            (AnyRing::Packed(r), true) => transmit::<_, true>(core, r, scratch, burst, which),
            (AnyRing::Packed(r), false) => transmit::<_, false>(core, r, scratch, burst, which),
        };
        let tally = tally.map_err(|error| self.core.fail(error))?;
        if self.core.map.faulted() {
            return Err(self.core.fail(RingError::MemoryGone(0)));
        }
        self.unsignalled |= tally.frames > 0;
        counters.sent(tally.frames, tally.bytes);
        if tally.full | tally.small != 0 {
            counters.dropped(DropReason::TxFull, tally.full);
            counters.dropped(DropReason::TxBufferTooSmall, tally.small);
        }
        Ok(())
    }
}

/// What happened to a burst, to be counted once.
#[derive(Default)]
struct Tally {
    frames: u64,
    bytes: u64,
    full: u64,
    small: u64,
}

/// Finds buffers for all frames first, prefetching them, then fills them, then publishes.
#[inline(always)]
fn transmit<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    scratch: &mut Scratch,
    burst: &Burst,
    which: &[u8],
) -> Result<Tally, RingError> {
    ring.refresh()?;
    let mut staged = [const { MaybeUninit::<Staged>::uninit() }; BURST_MAX];
    let mut tally = Tally::default();
    let count = stage(core, ring, scratch, burst, which, &mut staged, &mut tally)?;
    for staged in &staged[..count] {
        // SAFETY: `stage` filled the first `count`.
        let staged = unsafe { staged.assume_init() };
        let i = staged.frame as usize;
        let header = header::<OFFLOADS>(burst.offload(i), staged.buffers);
        if staged.ptr.is_null() {
            let pieces = &scratch.pieces[staged.first_piece as usize..][..staged.pieces as usize];
            scatter(burst, i, &header, pieces);
        } else {
            // SAFETY: `stage` found room for the header and `frame_len` bytes; the frame's pieces add up to that.
            unsafe { fill(burst, i, &header, staged.ptr) };
        }
    }
    if count > 0 {
        ring.complete(&scratch.done);
        if core.logging {
            log_burst(core, ring, scratch);
        }
    }
    Ok(tally)
}

#[inline(always)]
fn stage<R: Ring>(
    core: &mut Core,
    ring: &mut R,
    scratch: &mut Scratch,
    burst: &Burst,
    which: &[u8],
    staged: &mut [MaybeUninit<Staged>; BURST_MAX],
    tally: &mut Tally,
) -> Result<usize, RingError> {
    scratch.done.clear();
    scratch.pieces.clear();
    let map: &MemMap = &core.map;
    let mut cache = core.cache;
    let mut count = 0;
    for (k, &frame) in which.iter().enumerate() {
        let need = HEADER_BYTES + burst.frame_len(frame as usize);
        let before = ring.position();
        let Some(head) = ring.take()? else {
            tally.full += (which.len() - k) as u64;
            break;
        };
        let simple = head.flags & (NEXT | INDIRECT | WRITE) == WRITE && head.len as usize >= need;
        if simple && let Some(ptr) = cache.translate_gpa(map, head.addr, need as u64) {
            let ptr = ptr.as_ptr();
            prefetch_write(ptr);
            prefetch_write(ptr.wrapping_add(64));
            staged[count].write(Staged { ptr, frame, buffers: 1, first_piece: 0, pieces: 0 });
            scratch.done.push(Done { id: head.id, slots: 1, len: need as u32 });
            if core.logging {
                scratch.pieces.push(Piece { ptr, gpa: head.addr, len: need as u32 });
            }
        } else {
            ring.rewind(before);
            let mut gather = Gather { core_features: core.config.features, map, cache: &mut cache, scratch };
            match gather.run(ring, need)? {
                Gathered::Room { buffers, first_piece } => {
                    let pieces = (scratch.pieces.len() - first_piece) as u32;
                    let first_piece = first_piece as u32;
                    staged[count].write(Staged {
                        ptr: std::ptr::null_mut(),
                        frame,
                        buffers,
                        first_piece,
                        pieces,
                    });
                }
                Gathered::Empty => {
                    tally.full += 1;
                    continue;
                }
                Gathered::TooSmall => {
                    tally.small += 1;
                    continue;
                }
            }
        }
        count += 1;
        tally.bytes += (need - HEADER_BYTES) as u64;
    }
    tally.frames = count as u64;
    core.cache = cache;
    Ok(count)
}

/// Finds several pieces of memory for one frame.
struct Gather<'a> {
    core_features: u64,
    map: &'a MemMap,
    cache: &'a mut guest_memory::RegionCache,
    scratch: &'a mut Scratch,
}

enum Gathered {
    /// The buffers' pieces are in the scratch from here on.
    Room { buffers: u16, first_piece: usize },
    /// The ring has not enough buffers now.
    Empty,
    /// The frame doesn't fit into a buffer (without mergeable ones), or into [`CHAIN_MAX`] pieces.
    TooSmall,
}

impl Gather<'_> {
    /// Takes as many chains as `need` bytes take: one, or with mergeable buffers several. Takes none when that fails.
    #[cold]
    #[inline(never)]
    fn run<R: Ring>(&mut self, ring: &mut R, need: usize) -> Result<Gathered, RingError> {
        let mergeable = self.core_features & net::feature::MRG_RXBUF != 0;
        let start = ring.position();
        let (first_piece, first_done) = (self.scratch.pieces.len(), self.scratch.done.len());
        let mut left = need as u64;
        let outcome = loop {
            let Some(head) = ring.take()? else { break Gathered::Empty };
            let mut walk = Walk {
                map: self.map,
                cache: self.cache,
                indirect: self.core_features & feature::INDIRECT_DESC != 0,
                write: true,
                pieces: &mut self.scratch.pieces,
            };
            let chain = walk.run(ring, head)?;
            let bytes = chain.bytes.min(left);
            self.scratch.done.push(Done { id: chain.id, slots: chain.slots, len: bytes as u32 });
            left -= bytes;
            let buffers = self.scratch.done.len() - first_done;
            let pieces = self.scratch.pieces.len() - first_piece;
            if !chain.listed || pieces > CHAIN_MAX || buffers > CHAIN_MAX {
                break Gathered::TooSmall;
            }
            if left == 0 {
                break Gathered::Room { buffers: buffers as u16, first_piece };
            }
            if !mergeable {
                break Gathered::TooSmall;
            }
        };
        if !matches!(outcome, Gathered::Room { .. }) {
            ring.rewind(start);
            self.scratch.pieces.truncate(first_piece);
            self.scratch.done.truncate(first_done);
        }
        Ok(outcome)
    }
}

/// The header's first eight bytes and the other four.
#[inline(always)]
fn header<const OFFLOADS: bool>(offload: &Offload, buffers: u16) -> (u64, u32) {
    let (low, high) = if OFFLOADS { to_words(offload) } else { (0, 0) };
    (low, u32::from(high) | u32::from(buffers) << 16)
}

/// Writes header and frame to one piece of memory.
///
/// # Safety
/// `HEADER_BYTES + burst.frame_len(i)` bytes must be writable at `to`.
#[inline(always)]
unsafe fn fill(burst: &Burst, i: usize, header: &(u64, u32), to: *mut u8) {
    // SAFETY: the header's bytes, then the frame's, both inside what the caller promised. A burst's pieces are
    // readable until it is released, and never the receiver's buffer: one is the guest's to read, the other to write;
    // a guest that gives the same memory twice gets what it asked for (see `copy`: bytes, no references).
    unsafe {
        to.cast::<u64>().write_unaligned(header.0);
        to.add(8).cast::<u32>().write_unaligned(header.1);
        let mut to = to.add(HEADER_BYTES);
        if let Some(whole) = burst.whole(i) {
            copy(whole.ptr, to, whole.len as usize);
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

/// Marks what the burst wrote. A chain's pieces are marked whole: more than needed, never less.
#[cold]
fn log_burst<R: Ring>(core: &Core, ring: &R, scratch: &Scratch) {
    let Some(log) = &core.config.log else { return };
    log.begin();
    for piece in &scratch.pieces {
        log.mark(piece.gpa, piece.len.into());
    }
    core.log_ring(ring, scratch.done.iter().fold(0, |n, d| d.slots.saturating_add(n)));
}
