//! The device side of the ring on which a guest transmits: frames come from here.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use guest_memory::MemMap;
use packet::copy::prefetch_read;
use packet::{BURST_MAX, Burst, Offload, Segment};
use port::{Armed, DropReason, PortCounters, QueueFault, RxQueue};
use virtio_defs::feature;
use virtio_defs::net::HEADER_BYTES;

use crate::chain::{Access, CHAIN_MAX, Piece, Walk};
use crate::core::{AnyRing, Core, queue_setters, with_ring};
use crate::net_header::{FRAME_MAX, from_words, is_empty, judge};
use crate::ring::{Done, Peeked, Ring};
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
    /// Scratch for one that is not a single descriptor.
    pieces: Vec<Piece>,
    segments: Vec<Segment>,
}

// SAFETY: the raw pointers in `pieces` and `segments` are scratch of one `receive` and not followed after it.
unsafe impl Send for Taken {}

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
            pieces: Vec::with_capacity(CHAIN_MAX),
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

/// Takes up to a burst of chains. Runs of the usual kind, one descriptor each, are taken in passes over all of them, so
/// that a later pass finds in the cache what an earlier one prefetched; the others one by one.
///
/// On an error nothing was received: the burst is empty.
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
    let room = burst.room();
    let mut tally = Tally::default();
    loop {
        let count = taken.count;
        let fast = match usual::<R, OFFLOADS>(core, ring, taken, burst, &mut tally, room - count) {
            Ok(fast) => fast,
            Err(error) => return Err(abandon(burst, error)),
        };
        taken.count += fast;
        // What stopped the run is unusual, or nothing. An idle ring ends here at once.
        if taken.count == room
            || !match unusual::<R, OFFLOADS>(core, ring, taken, burst, &mut tally) {
                Ok(more) => more,
                Err(error) => return Err(abandon(burst, error)),
            }
        {
            break;
        }
    }
    if taken.count > 0 {
        tally.count(taken.count as u64, counters);
    }
    Ok(())
}

#[cold]
fn abandon(burst: &mut Burst, error: RingError) -> RingError {
    burst.clear();
    error
}

/// Takes a run of chains of one descriptor, at most `room`, and returns how many.
#[inline(always)]
fn usual<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    taken: &mut Taken,
    burst: &mut Burst,
    tally: &mut Tally,
    room: usize,
) -> Result<usize, RingError> {
    let mut peeked = Peeked::new();
    let n = ring.peek(&mut peeked, room)?;
    let mut ptrs = [std::ptr::null::<u8>(); BURST_MAX];
    let mut cache = core.cache;
    let mut count = 0;
    let mut bytes = 0;
    let out = taken.done[taken.count..].iter_mut();
    for (((head, done), ptr), out) in peeked.heads[..n].iter().zip(&peeked.done).zip(&mut ptrs).zip(out) {
        // SAFETY: `peek` filled the first `n` of both.
        let (head, done) = unsafe { (head.assume_init(), done.assume_init()) };
        let valid = FRAME_MIN + HEADER_BYTES..=FRAME_MAX + HEADER_BYTES;
        if !head.is_single::<R>(false) || !valid.contains(&(head.len() as usize)) {
            break;
        }
        let Some(at) = cache.translate_gpa(&core.map, head.addr, head.len().into()) else { break };
        let at = at.as_ptr().cast_const();
        *out = done;
        count += 1;
        let len = head.len() - HEADER_BYTES as u32;
        bytes += u64::from(len);
        // The frame usually begins a cache line of its own, behind the header's.
        prefetch_read(at.wrapping_add(HEADER_BYTES));
        if OFFLOADS {
            prefetch_read(at);
            *ptr = at;
        } else {
            // SAFETY: the frame follows the header in the same piece, mapped as long as `core.map`, which outlives the
            // burst: set_memory and into_state refuse while it is out, and a queue that is dropped takes its burst along.
            unsafe { burst.push(at.add(HEADER_BYTES), len, Offload::default(), 0) };
        }
    }
    core.cache = cache;
    tally.bytes += bytes;
    ring.advance(count as u16);
    if !OFFLOADS {
        return Ok(count);
    }
    for (head, &ptr) in peeked.heads.iter().zip(&ptrs[..count]) {
        // SAFETY: `peek` filled them.
        let len = unsafe { head.assume_init() }.len() - HEADER_BYTES as u32;
        // SAFETY: the descriptor's bytes are mapped, and they are more than a header's.
        let (low, high) = unsafe { read_header(ptr) };
        let mut offload = Offload::default();
        if !is_empty(low, high) {
            match judge(&from_words(low, high), len as usize, core.config.features) {
                Some(judged) => offload = judged,
                None => {
                    tally.bad_offload += 1;
                    continue;
                }
            }
        }
        // SAFETY: as above.
        unsafe { burst.push(ptr.add(HEADER_BYTES), len, offload, 0) };
    }
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

/// Takes one chain of any kind. False: there is none, or the burst has no room for its pieces.
#[inline(never)]
fn unusual<R: Ring, const OFFLOADS: bool>(
    core: &mut Core,
    ring: &mut R,
    taken: &mut Taken,
    burst: &mut Burst,
    tally: &mut Tally,
) -> Result<bool, RingError> {
    let before = ring.position();
    let Some(head) = ring.take()? else { return Ok(false) };
    taken.pieces.clear();
    let mut walk = Walk {
        map: &core.map,
        cache: &mut core.cache,
        indirect: core.config.has(feature::INDIRECT_DESC),
        access: Access::Read,
        pieces: &mut taken.pieces,
    };
    let chain = walk.run(ring, head)?;
    if taken.pieces.len() > burst.segment_room() {
        // Next time; a first chain always has room.
        ring.rewind(before);
        return Ok(false);
    }
    taken.done[taken.count] = Done::new(chain.id, chain.slots);
    taken.count += 1;
    let Some(len) = chain.bytes.checked_sub(HEADER_BYTES as u64) else {
        tally.bad_chain += 1;
        return Ok(true);
    };
    tally.bytes += len;
    if len < FRAME_MIN as u64 {
        tally.runts += 1;
    } else if len > FRAME_MAX as u64 || !chain.listed {
        tally.bad_chain += 1;
    } else {
        let header = split_header(&taken.pieces, &mut taken.segments);
        let mut offload = Offload::default();
        if OFFLOADS {
            // SAFETY: the array holds more than ten bytes.
            let (low, high) = unsafe { read_header(header.as_ptr()) };
            match judge(&from_words(low, high), len as usize, core.config.features) {
                Some(judged) => offload = judged,
                None => {
                    tally.bad_offload += 1;
                    return Ok(true);
                }
            }
        }
        // SAFETY: as for `push` in `usual`; at least FRAME_MIN bytes follow the header, so there is a segment.
        unsafe { burst.push_segments(&taken.segments, offload, 0) };
    }
    Ok(true)
}

/// Copies the header out of the pieces, in any number of which it may lie (CVE-2022-2132), and lists what follows it.
fn split_header(pieces: &[Piece], frame: &mut Vec<Segment>) -> [u8; HEADER_BYTES] {
    let mut header = [0u8; HEADER_BYTES];
    let mut have = 0;
    frame.clear();
    for piece in pieces {
        let n = (HEADER_BYTES - have).min(piece.len as usize);
        // SAFETY: n bytes of the piece are mapped, and fit into the header's rest.
        unsafe { packet::copy::copy(piece.ptr, header[have..].as_mut_ptr(), n) };
        have += n;
        if n < piece.len as usize {
            // SAFETY: n is below the piece's length.
            let ptr = unsafe { piece.ptr.add(n) };
            frame.push(Segment { ptr, len: piece.len - n as u32 });
        }
    }
    header
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
    core.log_ring(ring, done.iter().fold(0, |n, d| d.slots().saturating_add(n)));
}
