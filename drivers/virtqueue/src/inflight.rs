//! The in-flight region (vhost-user, INFLIGHT_SHMFD): what a successor needs after the switch was killed.
//!
//! Our bursts are completed in ring order, so what was taken and not completed is always everything from the used
//! position on. For a **split** ring that position is in guest memory already, published with one store: nothing
//! needs to be recorded. In a **packed** ring it is nowhere, and a burst of used descriptors overwrites the
//! driver's, of which the first is the commit point. (Without a record, `packed_scan` reads from the ring what can be
//! read from it; a burst cut short is then finished, not undone.) So a packed ring's part holds a journal:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | features (the specification's header; unused) |
//! | 8..10 | version: 1 split, 0x5257 packed while running, 0 otherwise |
//! | 10..12 | entries of the ring |
//! | 16..24 | step: start position, end position, number of saved descriptors (16 bits each) |
//! | 32.. | saved descriptors, 32 bytes each: slot, then the 16 bytes of the descriptor |
//!
//! A step with start = end says where the ring stands. Otherwise the process died while it completed a burst: if
//! the first descriptor still is the driver's, the others are put back and the burst never happened; if not, it
//! was complete. The journal's format is ours (hence the version), its size the specification's; front-ends
//! only keep it.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, compiler_fence};

use guest_memory::{MapError, Mapping, SharedMemory};
use virtio_defs::QUEUE_SIZE_MAX;
use virtio_defs::packed::{Desc, is_avail};

use crate::packed::Position;
use crate::ring::Done;

/// Most queues of a region.
pub(crate) const QUEUES_MAX: u16 = 256;
const VERSION_OFFSET: usize = 8;
const DESC_NUM_OFFSET: usize = 10;
const STEP_OFFSET: usize = 16;
const STATES_OFFSET: usize = 32;
const SPLIT_STATE_BYTES: usize = 16;
const PACKED_STATE_BYTES: usize = 32;
const SPLIT_VERSION: u16 = 1;
const PACKED_VERSION: u16 = 0x5257;

/// Why an in-flight region was refused.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// No queue, too many, or queues of an impossible size.
    #[error("{queues} queues of {size} entries can't be recorded")]
    Shape {
        /// Number of queues.
        queues: u16,
        /// Entries of each.
        size: u16,
    },
    /// The region is smaller than its queues need.
    #[error("{len:#x} bytes are too few, {need:#x} needed")]
    TooSmall {
        /// Its length in bytes.
        len: u64,
        /// What is needed, in bytes.
        need: u64,
    },
    /// The memory can't be made or mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

#[derive(Debug)]
enum Memory {
    Ours(SharedMemory),
    Theirs(Mapping),
}

impl Memory {
    fn start(&self) -> NonNull<u8> {
        match self {
            Memory::Ours(memory) => memory.start(),
            Memory::Theirs(mapping) => mapping.start(),
        }
    }
}

/// The region of a device: one part for each queue.
#[derive(Clone, Debug)]
pub struct InflightRegion {
    memory: Arc<Memory>,
    queues: u16,
    size: u16,
    packed: bool,
}

impl InflightRegion {
    /// Makes a region (GET_INFLIGHT_FD).
    ///
    /// # Errors
    /// The shape is impossible, or the system refuses the memory.
    pub fn create(queues: u16, size: u16, packed: bool) -> Result<InflightRegion, InflightError> {
        let need = Self::check(queues, size, packed)?;
        let memory = Arc::new(Memory::Ours(SharedMemory::new(c"ringway-inflight", need)?));
        Ok(InflightRegion { memory, queues, size, packed })
    }

    /// Maps a region that a front-end kept (SET_INFLIGHT_FD).
    ///
    /// # Errors
    /// The shape is impossible, the region too small, or it can't be mapped.
    pub fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        queues: u16,
        size: u16,
        packed: bool,
    ) -> Result<InflightRegion, InflightError> {
        let need = Self::check(queues, size, packed)?;
        if len < need || !offset.is_multiple_of(8) {
            return Err(InflightError::TooSmall { len, need });
        }
        let memory = Arc::new(Memory::Theirs(Mapping::new(fd, offset, need)?));
        Ok(InflightRegion { memory, queues, size, packed })
    }

    fn check(queues: u16, size: u16, packed: bool) -> Result<u64, InflightError> {
        if queues == 0 || queues > QUEUES_MAX || size == 0 || size > QUEUE_SIZE_MAX {
            return Err(InflightError::Shape { queues, size });
        }
        Ok(queue_bytes(size, packed) as u64 * u64::from(queues))
    }

    /// The memory file, to be sent to the front-end; `None` for one it sent us.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &*self.memory {
            Memory::Ours(memory) => Some(memory.fd()),
            Memory::Theirs(_) => None,
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        queue_bytes(self.size, self.packed) as u64 * u64::from(self.queues)
    }

    /// The part of queue `index`, if the region has one.
    pub fn queue(&self, index: u16) -> Option<InflightQueue> {
        (index < self.queues).then(|| InflightQueue {
            memory: self.memory.clone(),
            offset: index as usize * queue_bytes(self.size, self.packed),
            size: self.size,
            packed: self.packed,
        })
    }
}

fn queue_bytes(size: u16, packed: bool) -> usize {
    let state = if packed { PACKED_STATE_BYTES } else { SPLIT_STATE_BYTES };
    (STATES_OFFSET + size as usize * state).next_multiple_of(64)
}

/// One queue's part of an [`InflightRegion`]. The memory is a front-end's to write, so all that is read is checked.
#[derive(Clone, Debug)]
pub struct InflightQueue {
    memory: Arc<Memory>,
    offset: usize,
    size: u16,
    packed: bool,
}

impl InflightQueue {
    fn at<T>(&self, offset: usize) -> *mut T {
        // SAFETY: callers stay below `queue_bytes`, and `queue` gave out parts inside the region only.
        unsafe { self.memory.start().as_ptr().add(self.offset + offset).cast() }
    }

    fn u16_at(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: an aligned field of the header; parts are multiples of 64 bytes.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }

    #[inline(always)]
    fn step(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.at(STEP_OFFSET)) }
    }

    /// The saved descriptor `k`, below `size`: slot, address word, rest.
    #[inline(always)]
    fn saved(&self, k: usize) -> *mut [u64; 3] {
        self.at(STATES_OFFSET + k * PACKED_STATE_BYTES)
    }

    /// Notes that the split ring is in use, as the specification has it.
    pub(crate) fn start_split(&self, size: u16) {
        self.u16_at(DESC_NUM_OFFSET).store(size, Ordering::Relaxed);
        self.u16_at(VERSION_OFFSET).store(SPLIT_VERSION, Ordering::Relaxed);
    }

    /// Notes where the packed ring stands.
    pub(crate) fn start_packed(&self, size: u16, position: Position) {
        self.commit_packed(position);
        self.u16_at(DESC_NUM_OFFSET).store(size, Ordering::Relaxed);
        self.u16_at(VERSION_OFFSET).store(PACKED_VERSION, Ordering::Release);
    }

    /// Notes that the ring was stopped in good order: the position is the front-end's to keep.
    pub(crate) fn stop(&self) {
        self.u16_at(VERSION_OFFSET).store(0, Ordering::Relaxed);
    }

    /// Saves what completing `done` from `start` on is going to overwrite, but for the first descriptor.
    ///
    /// # Safety
    /// `desc` must point to a ring of `size` descriptors.
    #[inline]
    pub(crate) unsafe fn begin_packed(&self, desc: *const Desc, size: u16, start: Position, done: &[Done]) {
        let mut at = start;
        let mut count = 0;
        for (k, d) in done.iter().enumerate().take(self.size as usize) {
            if k > 0 {
                // SAFETY: at.slot < size; count < self.size.
                unsafe {
                    let words = desc.add(at.slot as usize).cast::<u64>();
                    let (addr, rest) = (words.read_volatile(), words.add(1).read_volatile());
                    self.saved(count).write_volatile([at.slot.into(), addr, rest]);
                }
                count += 1;
            }
            at = at.plus(d.slots(), size);
        }
        // A killed process has done a prefix of its program order; only the compiler could change that.
        compiler_fence(Ordering::SeqCst);
        self.step().store(step_bits(start, at, count as u16), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Notes that everything up to `position` is complete.
    #[inline]
    pub(crate) fn commit_packed(&self, position: Position) {
        compiler_fence(Ordering::SeqCst);
        self.step().store(step_bits(position, position, 0), Ordering::Relaxed);
    }

    /// Where a predecessor that died left the ring, after undoing a half-done completion. `None` when it stopped
    /// in good order, or the record is not of this ring.
    ///
    /// # Safety
    /// `desc` must point to a ring of `size` descriptors.
    pub(crate) unsafe fn recover_packed(&self, desc: *mut Desc, size: u16) -> Option<Position> {
        let ours = self.packed
            && self.u16_at(VERSION_OFFSET).load(Ordering::Acquire) == PACKED_VERSION
            && self.u16_at(DESC_NUM_OFFSET).load(Ordering::Relaxed) == size
            && size <= self.size;
        if !ours {
            return None;
        }
        let step = self.step().load(Ordering::Relaxed);
        let (start, end) = (Position::from_bits(step as u16), Position::from_bits((step >> 16) as u16));
        let saved = ((step >> 32) as u16).min(size);
        if start.slot >= size || end.slot >= size {
            return None;
        }
        // SAFETY: start.slot < size; the second word of an aligned descriptor.
        let first = unsafe { desc.add(start.slot as usize).cast::<u64>().add(1).read_volatile() };
        if start == end || !is_avail((first >> 48) as u16, start.wrap) {
            return Some(end);
        }
        for k in 0..saved as usize {
            // SAFETY: k < size <= self.size; the slot is checked before it is used.
            unsafe {
                let [slot, addr, rest] = self.saved(k).read_volatile();
                if slot < u64::from(size) {
                    let words = desc.add(slot as usize).cast::<u64>();
                    words.write_volatile(addr);
                    words.add(1).write_volatile(rest);
                }
            }
        }
        Some(start)
    }
}

#[inline(always)]
fn step_bits(start: Position, end: Position, saved: u16) -> u64 {
    u64::from(start.bits()) | u64::from(end.bits()) << 16 | u64::from(saved) << 32
}
