//! The device side of the ring on which a guest transmits: frames come from here.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use guest_memory::MemMap;
use packet::copy::prefetch_read;
use packet::{BURST_MAX, Burst, Offload, Segment};
use port::{Armed, DropReason, PortCounters, QueueFault, RxQueue};
use virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};
use virtio_defs::feature;
use virtio_defs::net::HEADER_BYTES;

use crate::chain::{CHAIN_MAX, Piece, Walk};
use crate::core::{AnyRing, Core, queue_setters, with_ring};
use crate::net_header::{FRAME_MAX, from_words, is_empty, judge};
use crate::ring::{Done, Ring};
use crate::{RingConfig, RingError};

/// Bytes of an Ethernet header: the shortest frame.
const FRAME_MIN: usize = 14;

/// A receive queue of the switch on a guest's transmit ring.
///
/// Frames stay in the guest's buffers until the burst is released; the buffers go back in ring order. The memory
/// table is held meanwhile, so what was received stays mapped whatever the guest does.
#[derive(Debug)]
pub struct VirtioRx {
    core: Core,
    ring: AnyRing,
    taken: Taken,
    /// Kicks drained from the event since the last `receive`, to be counted there.
    kicks: u64,
    armed: bool,
}

/// The chains of the burst in hand.
#[derive(Debug)]
struct Taken {
    count: usize,
    done: [Done; BURST_MAX],
    /// Pieces of those that are not a single one.
    pieces: Vec<Piece>,
    segments: Vec<Segment>,
}

// SAFETY: the raw pointers in `pieces` and `segments` are scratch of one `receive` and not followed after it.
unsafe impl Send for Taken {}

/// A chain between the two passes over a burst: one piece, or (with a null pointer) a range of `Taken::pieces`.
#[derive(Clone, Copy)]
struct Staged {
    ptr: *const u8,
    len: u32,
    /// For a range: where it begins, and whether all of it is listed.
    first_piece: u16,
    pieces: u16,
    listed: bool,
}

impl VirtioRx {
    /// Starts a ring.
    ///
    /// # Errors
    /// Size, alignment or place of the ring is not allowed, or version 1 was not negotiated.
    pub fn new(config: RingConfig, map: Arc<MemMap>) -> Result<VirtioRx, RingError> {
        let (core, ring) = Core::new(config, map)?;
        let taken = Taken {
            count: 0,
            done: [Done::default(); BURST_MAX],
            pieces: Vec::with_capacity(BURST_MAX * CHAIN_MAX),
            segments: Vec::with_capacity(CHAIN_MAX),
        };
        Ok(VirtioRx { core, ring, taken, kicks: 0, armed: false })
    }

    fn idle(&self) -> bool {
        self.taken.count == 0
    }

    queue_setters!();
}

impl RxQueue for VirtioRx {
    #[inline]
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        if let Some(fault) = self.core.fault {
            return Err(fault);
        }
        if self.kicks > 0 {
            counters.kicks.add(std::mem::take(&mut self.kicks));
        }
        let (core, taken) = (&mut self.core, &mut self.taken);
        let received = if core.config.host_offloads() {
            with_ring!(&mut self.ring, r => receive::<_, true>(core, r, taken, burst, counters))
        } else {
            with_ring!(&mut self.ring, r => receive::<_, false>(core, r, taken, burst, counters))
        };
        match received {
            Ok(()) if self.core.map.faulted() => Err(self.core.fail(RingError::MemoryGone(0))),
            Ok(()) => Ok(()),
            Err(error) => Err(self.core.fail(error)),
        }
    }

    #[inline]
    fn release(&mut self, _burst: &mut Burst, counters: &PortCounters) {
        let count = std::mem::take(&mut self.taken.count);
        if count == 0 || self.core.fault.is_some() {
            return;
        }
        let done = &self.taken.done[..count];
        with_ring!(&mut self.ring, r => release(&self.core, r, done, counters));
    }

    fn arm(&mut self) -> Armed {
        if self.core.fault.is_some() {
            return Armed::Ready;
        }
        self.armed = true;
        if with_ring!(&mut self.ring, r => r.ask_for_kicks()) { Armed::Ready } else { Armed::Waiting }
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) && self.core.fault.is_none() {
            with_ring!(&mut self.ring, r => r.refuse_kicks());
            self.kicks += u64::from(self.core.kick().is_some_and(|k| k.drain()));
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.core.kick().map(|k| k.as_fd())
    }
}

/// Two passes, so that the second finds in the cache what the first one prefetched.
#[inline(always)]
fn receive<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    taken: &mut Taken,
    burst: &mut Burst,
    counters: &PortCounters,
) -> Result<(), RingError> {
    assert_eq!(taken.count, 0, "the last burst was released");
    ring.refresh()?;
    let mut staged = [const { MaybeUninit::<Staged>::uninit() }; BURST_MAX];
    let count = stage(core, ring, taken, burst, &mut staged)?;
    taken.count = count;
    let mut tally = Tally::default();
    for staged in &staged[..count] {
        // SAFETY: `stage` filled the first `count`.
        let staged = unsafe { staged.assume_init() };
        let len = (staged.len as usize).wrapping_sub(HEADER_BYTES);
        let fast = !staged.ptr.is_null() && len.wrapping_sub(FRAME_MIN) <= FRAME_MAX - FRAME_MIN;
        if !fast {
            unusual::<OFFLOADS>(core, taken, &staged, burst, &mut tally);
            continue;
        }
        tally.bytes += len as u64;
        // SAFETY: `staged.len` bytes are mapped from ptr on, more than the header's; the words have alignment 1.
        let (low, high) = if OFFLOADS { unsafe { read_header(staged.ptr) } } else { (0, 0) };
        let offload = if OFFLOADS && !is_empty(low, high) {
            match judge(&from_words(low, high), len, core.config.features) {
                Some(offload) => offload,
                None => {
                    tally.bad_offload += 1;
                    continue;
                }
            }
        } else {
            Offload::default()
        };
        // SAFETY: the frame follows the header in the same piece, mapped as long as `core.map`, which outlives the
        // burst: set_memory and into_state refuse while it is out, and a queue that is dropped takes its burst along.
        unsafe { burst.push(staged.ptr.add(HEADER_BYTES), len as u32, offload, 0) };
    }
    if count > 0 {
        tally.count(count as u64, counters);
    }
    Ok(())
}

/// Takes up to a burst of chains and finds their memory.
#[inline(always)]
fn stage<R: Ring>(
    core: &mut Core,
    ring: &mut R,
    taken: &mut Taken,
    burst: &Burst,
    staged: &mut [MaybeUninit<Staged>; BURST_MAX],
) -> Result<usize, RingError> {
    taken.pieces.clear();
    let map: &MemMap = &core.map;
    let mut cache = core.cache;
    let room = burst.room().min(BURST_MAX);
    let mut count = 0;
    while count < room {
        let before = ring.position();
        let Some(head) = ring.take()? else { break };
        if head.flags & (NEXT | INDIRECT | WRITE) == 0
            && let Some(ptr) = cache.translate_gpa(map, head.addr, head.len.into())
        {
            let ptr = ptr.as_ptr().cast_const();
            // The frame usually begins a cache line of its own, behind the header's.
            prefetch_read(ptr);
            prefetch_read(ptr.wrapping_add(64));
            staged[count].write(Staged { ptr, len: head.len, first_piece: 0, pieces: 0, listed: true });
            taken.done[count] = Done { id: head.id, slots: 1, len: 0 };
        } else {
            let first_piece = taken.pieces.len();
            let mut walk = Walk {
                map,
                cache: &mut cache,
                indirect: core.config.has(feature::INDIRECT_DESC),
                write: false,
                pieces: &mut taken.pieces,
            };
            let chain = walk.run(ring, head)?;
            if taken.pieces.len() > burst.segment_room() {
                // Next time; a first chain always has room.
                ring.rewind(before);
                break;
            }
            staged[count].write(Staged {
                ptr: std::ptr::null(),
                len: u32::try_from(chain.bytes).unwrap_or(u32::MAX),
                first_piece: first_piece as u16,
                pieces: (taken.pieces.len() - first_piece) as u16,
                listed: chain.listed,
            });
            taken.done[count] = Done { id: chain.id, slots: chain.slots, len: 0 };
        }
        count += 1;
    }
    core.cache = cache;
    Ok(count)
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Packed<T>(T);

/// Reads the ten bytes that count of a header, each once.
///
/// # Safety
/// Ten bytes must be readable at `ptr`.
#[inline(always)]
unsafe fn read_header(ptr: *const u8) -> (u64, u16) {
    // SAFETY: the caller's promise; the wrappers have alignment 1.
    unsafe {
        (ptr.cast::<Packed<u64>>().read_volatile().0, ptr.add(8).cast::<Packed<u16>>().read_volatile().0)
    }
}

/// What came in, added up to be counted once.
#[derive(Default)]
struct Tally {
    bytes: u64,
    runts: u64,
    bad_chain: u64,
    bad_offload: u64,
}

impl Tally {
    #[inline(always)]
    fn count(&self, frames: u64, counters: &PortCounters) {
        counters.received(frames, self.bytes);
        if self.runts | self.bad_chain | self.bad_offload != 0 {
            counters.dropped(DropReason::Runt, self.runts);
            counters.dropped(DropReason::BadChain, self.bad_chain);
            counters.dropped(DropReason::BadOffload, self.bad_offload);
        }
    }
}

/// A frame in several pieces, or none at all.
#[cold]
#[inline(never)]
fn unusual<const OFFLOADS: bool>(
    core: &Core,
    taken: &mut Taken,
    staged: &Staged,
    burst: &mut Burst,
    tally: &mut Tally,
) {
    let pieces = &taken.pieces[staged.first_piece as usize..][..staged.pieces as usize];
    let Some(len) = (staged.len as usize).checked_sub(HEADER_BYTES) else {
        tally.bad_chain += 1;
        return;
    };
    tally.bytes += len as u64;
    if len < FRAME_MIN {
        tally.runts += 1;
        return;
    }
    if len > FRAME_MAX || !staged.listed {
        tally.bad_chain += 1;
        return;
    }
    // The header may lie in any number of pieces (CVE-2022-2132); what follows it is the frame.
    let mut header = [0u8; HEADER_BYTES];
    let mut have = 0;
    taken.segments.clear();
    for piece in pieces {
        let n = (HEADER_BYTES - have).min(piece.len as usize);
        // SAFETY: n bytes of the piece are mapped, and fit into the header's rest.
        unsafe { packet::copy::copy(piece.ptr, header[have..].as_mut_ptr(), n) };
        have += n;
        if n < piece.len as usize {
            // SAFETY: n is below the piece's length.
            let ptr = unsafe { piece.ptr.add(n) };
            taken.segments.push(Segment { ptr, len: piece.len - n as u32 });
        }
    }
    let mut offload = Offload::default();
    if OFFLOADS {
        // SAFETY: the array holds more than ten bytes.
        let (low, high) = unsafe { read_header(header.as_ptr()) };
        match judge(&from_words(low, high), len, core.config.features) {
            Some(judged) => offload = judged,
            None => {
                tally.bad_offload += 1;
                return;
            }
        }
    }
    // SAFETY: as for `push` in `receive`; at least FRAME_MIN bytes follow the header, so there is a segment.
    unsafe { burst.push_segments(&taken.segments, offload, 0) };
}

#[inline(always)]
fn release<R: Ring>(core: &Core, ring: &mut R, done: &[Done], counters: &PortCounters) {
    if core.config.has(feature::IN_ORDER) {
        ring.complete_in_order(done);
    } else {
        ring.complete(done);
    }
    if core.logging {
        log_release(core, ring, done);
    }
    core.call(ring, counters);
}

#[cold]
fn log_release<R: Ring>(core: &Core, ring: &R, done: &[Done]) {
    let Some(log) = &core.config.log else { return };
    log.begin();
    // With IN_ORDER most entries were skipped; they are marked too: more than needed, never less.
    core.log_ring(ring, done.iter().fold(0, |n, d| d.slots.saturating_add(n)));
}
