//! The device side of a split ring (virtio 1.2, section 2.7).

use std::sync::atomic::{AtomicU16, Ordering, fence};

use guest_memory::MemMap;
use virtio_defs::split::{
    AVAIL_NO_INTERRUPT, Desc, RING_OFFSET, USED_NO_NOTIFY, UsedElem, avail_bytes, avail_event_offset,
    desc_bytes, used_bytes, used_event_offset,
};
use virtio_defs::{QUEUE_SIZE_MAX, feature, needs_event};

use crate::ring::{Done, Head, Peeked, Raw, Ring};
use crate::{RingConfig, RingError};

/// Pointers resolved once; all of them stay valid as long as the memory map beside the ring.
#[derive(Debug)]
pub(crate) struct SplitRing {
    desc: *const Desc,
    avail: *mut u8,
    used: *mut u8,
    size: u16,
    mask: u16,
    next_avail: u16,
    /// The available index as read last; not more than `size` ahead of `next_avail`.
    avail_seen: u16,
    next_used: u16,
    /// The used index when the driver was last considered for an interrupt.
    signalled: u16,
    event_idx: bool,
}

// SAFETY: the pointers lead into a memory map that the queue holds; accesses are volatile or atomic.
unsafe impl Send for SplitRing {}

impl SplitRing {
    pub(crate) fn new(config: &RingConfig, map: &MemMap) -> Result<SplitRing, RingError> {
        let size = config.size;
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(RingError::Size(size.into()));
        }
        let (desc, avail, used) = areas(config, map)?;
        if config.base > u16::MAX.into() {
            return Err(RingError::Base(config.base.into()));
        }
        let mut ring = SplitRing {
            desc,
            avail,
            used,
            size,
            mask: size - 1,
            next_avail: config.base as u16,
            avail_seen: config.base as u16,
            next_used: 0,
            signalled: 0,
            event_idx: config.has(feature::EVENT_IDX),
        };
        ring.next_used = ring.used_idx().load(Ordering::Relaxed);
        ring.signalled = ring.next_used;
        // The used index is where the last device left off, ours or another: all complete in order what they took,
        // so exactly the chains after it are owed. What the front-end remembers can be older, when the last
        // device was killed (DPDK's virtio-user then says 0), so it doesn't count.
        ring.next_avail = ring.next_used;
        ring.avail_seen = ring.next_used;
        if let Some(inflight) = &config.inflight {
            inflight.start_split(size);
        }
        Ok(ring)
    }

    #[inline(always)]
    fn u16_at(&self, area: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: callers name 2-byte aligned offsets inside areas checked by `new`; the map keeps them mapped.
        unsafe { AtomicU16::from_ptr(area.add(offset).cast()) }
    }

    #[inline(always)]
    fn used_idx(&self) -> &AtomicU16 {
        self.u16_at(self.used, 2)
    }

    #[inline(always)]
    fn avail_idx(&self) -> &AtomicU16 {
        self.u16_at(self.avail, 2)
    }

    /// Reads descriptor `index`, which is below the ring's size.
    #[inline(always)]
    fn read(&self, index: u16, id: u16) -> Head {
        // SAFETY: index < size, so both aligned words are inside the table.
        let (addr, rest) = unsafe {
            let words = self.desc.add(index as usize).cast::<u64>();
            (words.read_volatile(), words.add(1).read_volatile())
        };
        Head { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16, id }
    }

    #[inline(always)]
    fn publish(&mut self, n: u16) {
        self.next_used = self.next_used.wrapping_add(n);
        self.used_idx().store(self.next_used, Ordering::Release);
    }
}

fn areas(config: &RingConfig, map: &MemMap) -> Result<(*const Desc, *mut u8, *mut u8), RingError> {
    let desc = area(map, config.desc_addr, 16, desc_bytes(config.size))?;
    let avail = area(map, config.driver_addr, 2, avail_bytes(config.size))?;
    let used = area(map, config.device_addr, 4, used_bytes(config.size))?;
    Ok((desc.cast(), avail, used))
}

/// Writes an entry of a used ring.
///
/// # Safety
/// `used` must be a used ring with more than `entry` entries.
#[inline(always)]
unsafe fn write_used(used: *mut u8, entry: u16, done: Done) {
    // SAFETY: the caller's promise. Entries are 4-byte aligned. The driver doesn't look at this one before the index
    // says so.
    unsafe {
        used.add(RING_OFFSET + usize::from(entry) * size_of::<UsedElem>())
            .cast::<u64>()
            .write_unaligned(done.used_elem())
    };
}

/// Resolves a ring area.
pub(crate) fn area(map: &MemMap, addr: u64, align: u64, bytes: usize) -> Result<*mut u8, RingError> {
    let host = map.translate_user(addr, bytes as u64).ok_or(RingError::RingUnmapped(addr))?;
    // Both must hold: the address by the specification, the pointer for our accesses.
    if !addr.is_multiple_of(align) || !(host.as_ptr() as u64).is_multiple_of(align) {
        return Err(RingError::Misaligned(addr));
    }
    Ok(host.as_ptr())
}

impl Ring for SplitRing {
    const TABLE_LINKED: bool = true;
    const SLOT_PER_DESC: bool = false;
    const FLAGS_SHIFT: u32 = 32;

    #[inline(always)]
    fn size(&self) -> u16 {
        self.size
    }

    #[inline(always)]
    fn refresh(&mut self) -> Result<(), RingError> {
        let idx = self.avail_idx().load(Ordering::Acquire);
        if idx.wrapping_sub(self.next_avail) > self.size {
            return Err(RingError::AvailJump(idx.into()));
        }
        self.avail_seen = idx;
        Ok(())
    }

    #[inline(always)]
    fn peek(&self, into: &mut Peeked, want: usize) -> Result<usize, RingError> {
        let n = usize::from(self.avail_seen.wrapping_sub(self.next_avail)).min(want);
        // Locals, because everything behind a pointer would be read again after each volatile access.
        let (desc, avail, mask, size, next) = (self.desc, self.avail, self.mask, self.size, self.next_avail);
        for (k, (head, done)) in into.heads[..n].iter_mut().zip(&mut into.done).enumerate() {
            let entry = usize::from(next.wrapping_add(k as u16) & mask);
            // SAFETY: the masked entry is inside the available ring, which is 2-byte aligned.
            let id = unsafe { avail.add(RING_OFFSET + entry * 2).cast::<u16>().read_volatile() };
            if id >= size {
                return if k > 0 { Ok(k) } else { Err(RingError::HeadOutOfRange(id.into())) };
            }
            // SAFETY: id < size, so both aligned words are inside the table.
            let (addr, word) = unsafe {
                let words = desc.add(id as usize).cast::<u64>();
                (words.read_volatile(), words.add(1).read_volatile())
            };
            head.write(Raw { addr, word });
            done.write(Done::new(id, 1));
        }
        Ok(n)
    }

    #[inline(always)]
    fn has_available(&self, entries: u16) -> bool {
        self.avail_seen.wrapping_sub(self.next_avail) >= entries
    }

    #[inline(always)]
    fn advance(&mut self, n: u16) {
        self.next_avail = self.next_avail.wrapping_add(n);
    }

    #[inline(always)]
    fn take(&mut self) -> Result<Option<Head>, RingError> {
        if self.next_avail == self.avail_seen {
            return Ok(None);
        }
        let entry = (self.next_avail & self.mask) as usize;
        // SAFETY: the masked entry is inside the available ring, which is 2-byte aligned.
        let id = unsafe { self.avail.add(RING_OFFSET + entry * 2).cast::<u16>().read_volatile() };
        if id >= self.size {
            return Err(RingError::HeadOutOfRange(id.into()));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(self.read(id, id)))
    }

    #[inline]
    fn follow(&mut self, from: &Head) -> Result<Head, RingError> {
        if from.next >= self.size {
            return Err(RingError::NextOutOfRange(from.next.into()));
        }
        Ok(self.read(from.next, from.id))
    }

    #[inline(always)]
    fn position(&self) -> u16 {
        self.next_avail
    }

    #[inline(always)]
    fn rewind(&mut self, position: u16) {
        self.next_avail = position;
    }

    #[inline(always)]
    fn complete(&mut self, done: &[Done]) {
        let (used, mask, next) = (self.used, self.mask, self.next_used);
        for (k, &d) in done.iter().enumerate() {
            // SAFETY: the used ring is this ring's own.
            unsafe { write_used(used, next.wrapping_add(k as u16) & mask, d) };
        }
        self.publish(done.len() as u16);
    }

    #[inline(always)]
    fn complete_in_order(&mut self, done: &[Done]) {
        if let Some(&last) = done.last() {
            // SAFETY: the used ring is this ring's own, and the entry masked.
            unsafe { write_used(self.used, self.next_used & self.mask, last) };
            self.publish(done.len() as u16);
        }
    }

    #[inline]
    fn wants_call(&mut self) -> bool {
        // The index just published must be visible before the driver's wish is read: it does the reverse.
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.signalled, self.next_used);
        if self.event_idx {
            let event = self.u16_at(self.avail, used_event_offset(self.size)).load(Ordering::Relaxed);
            needs_event(event, self.next_used, old)
        } else {
            self.u16_at(self.avail, 0).load(Ordering::Relaxed) & AVAIL_NO_INTERRUPT == 0
        }
    }

    fn ask_for_kicks(&mut self) -> bool {
        if self.event_idx {
            let event = self.u16_at(self.used, avail_event_offset(self.size));
            event.store(self.next_avail, Ordering::Relaxed);
        } else {
            self.u16_at(self.used, 0).store(0, Ordering::Relaxed);
        }
        // The wish must be visible before the index is read again: the driver does the reverse.
        fence(Ordering::SeqCst);
        self.avail_idx().load(Ordering::Acquire) != self.next_avail
    }

    fn refuse_kicks(&mut self) {
        if self.event_idx {
            // An index that was passed already: the next one to match it is a whole round of 65536 away.
            let passed = self.next_avail.wrapping_sub(1);
            self.u16_at(self.used, avail_event_offset(self.size)).store(passed, Ordering::Relaxed);
        } else {
            self.u16_at(self.used, 0).store(USED_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    fn move_to(&mut self, config: &RingConfig, map: &MemMap) -> Result<(), RingError> {
        (self.desc, self.avail, self.used) = areas(config, map)?;
        Ok(())
    }

    fn base(&self) -> u32 {
        self.next_avail.into()
    }

    fn written(&self, slots: u16, mark: &mut dyn FnMut(u64, u64)) {
        let elem = size_of::<UsedElem>() as u64;
        let first = self.next_used.wrapping_sub(slots) & self.mask;
        let before_wrap = slots.min(self.size - first);
        mark(0, RING_OFFSET as u64);
        mark(RING_OFFSET as u64 + u64::from(first) * elem, u64::from(before_wrap) * elem);
        mark(RING_OFFSET as u64, u64::from(slots - before_wrap) * elem);
    }
}
