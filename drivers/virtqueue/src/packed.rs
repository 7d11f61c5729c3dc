//! The device side of a packed ring (virtio 1.2, section 2.8).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use guest_memory::MemMap;
use packet::BURST_MAX;
use virtio_defs::packed::{
    AVAIL, Desc, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Event, USED, avail_flags, desc_bytes, is_avail,
    used_flags,
};
use virtio_defs::{QUEUE_SIZE_MAX, desc_flag, feature, needs_event};

use crate::ring::{Done, Head, Peeked, Raw, Ring};
use crate::split::area;
use crate::{InflightQueue, RingConfig, RingError, packed_scan};

/// A position in the ring with its wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) slot: u16,
    pub(crate) wrap: bool,
}

impl Position {
    #[inline(always)]
    pub(crate) fn from_bits(bits: u16) -> Position {
        Position { slot: bits & 0x7fff, wrap: bits >> 15 == 1 }
    }

    #[inline(always)]
    pub(crate) fn bits(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }

    /// `n` slots (at most `size`) further in a ring of `size`.
    #[inline(always)]
    pub(crate) fn plus(self, n: u16, size: u16) -> Position {
        let slot = u32::from(self.slot) + u32::from(n);
        if slot >= u32::from(size) {
            Position { slot: (slot - u32::from(size)) as u16, wrap: !self.wrap }
        } else {
            Position { slot: slot as u16, wrap: self.wrap }
        }
    }

    /// `n` slots (at most `size`) back in a ring of `size`.
    fn minus(self, n: u16, size: u16) -> Position {
        match self.slot.checked_sub(n) {
            Some(slot) => Position { slot, wrap: self.wrap },
            None => Position { slot: self.slot + (size - n), wrap: !self.wrap },
        }
    }
}

/// Pointers resolved once; all of them stay valid as long as the memory map beside the ring.
#[derive(Debug)]
pub(crate) struct PackedRing {
    desc: *mut Desc,
    driver_event: *mut Event,
    device_event: *mut Event,
    size: u16,
    next: Position,
    used: Position,
    /// Entries completed since the driver was last considered for an interrupt, at most `size`.
    unsignalled: u16,
    event_idx: bool,
    /// Whether the ring itself tells where it stands: there is no record of it.
    tells: bool,
    inflight: Option<InflightQueue>,
}

// SAFETY: the pointers lead into a memory map that the queue holds; accesses are volatile or atomic.
unsafe impl Send for PackedRing {}

impl PackedRing {
    pub(crate) fn new(config: &RingConfig, map: &MemMap) -> Result<PackedRing, RingError> {
        let size = config.size;
        if size == 0 || size > QUEUE_SIZE_MAX {
            return Err(RingError::Size(size.into()));
        }
        let (desc, driver_event, device_event) = areas(config, map)?;
        let mut next = Position::from_bits(config.base as u16);
        if let Some(inflight) = &config.inflight {
            // SAFETY: the ring holds `size` descriptors, checked above, as long as the map lives.
            next = unsafe { inflight.recover_packed(desc, size) }.unwrap_or(next);
        }
        if next.slot >= size {
            return Err(RingError::Base(config.base.into()));
        }
        if let Some(inflight) = &config.inflight {
            inflight.start_packed(size, next);
        }
        let mut ring = PackedRing {
            desc,
            driver_event,
            device_event,
            size,
            next,
            used: next,
            unsignalled: 0,
            event_idx: config.has(feature::EVENT_IDX),
            tells: config.inflight.is_none() && !config.has(feature::IN_ORDER),
            inflight: config.inflight.clone(),
        };
        ring.go_on();
        Ok(ring)
    }

    /// Goes on where the ring itself tells that its device stood, whatever the front-end remembers.
    fn go_on(&mut self) {
        if !self.tells {
            return;
        }
        let flags = |slot| (self.word(slot).load(Ordering::Acquire) >> 48) as u16;
        let Some(found) = packed_scan::find(self.size, flags) else { return };
        if let Some(head) = found.unfinished {
            let head_word = self.word(head.slot).load(Ordering::Relaxed);
            let (len, flags) = (head_word as u32, (head_word >> 48) as u16);
            let id = self.id_of_chain(head.slot);
            self.mark_used(found.position.minus(found.unmarked, self.size), found.unmarked);
            let word = packed_scan::completed(len, id, flags, head.wrap);
            self.word(head.slot).store(word, Ordering::Release);
        }
        (self.next, self.used) = (found.position, found.position);
    }

    /// The id of the chain that begins in `slot`: that of its last descriptor.
    fn id_of_chain(&self, slot: u16) -> u16 {
        let mut at = Position { slot, wrap: true };
        for _ in 1..self.size {
            if (self.word(at.slot).load(Ordering::Relaxed) >> 48) as u16 & desc_flag::NEXT == 0 {
                break;
            }
            at = at.plus(1, self.size);
        }
        (self.word(at.slot).load(Ordering::Relaxed) >> 32) as u16
    }

    /// Marks entries as used, with nothing else of them changed: what is read of the ring later tells where it stands.
    #[cold]
    fn mark_used(&self, mut at: Position, count: u16) {
        for _ in 0..count {
            let word = self.word(at.slot);
            let old = word.load(Ordering::Relaxed);
            let flags = packed_scan::mark_used((old >> 48) as u16, at.wrap);
            word.store(old & !(0xffff << 48) | u64::from(flags) << 48, Ordering::Relaxed);
            at = at.plus(1, self.size);
        }
    }

    /// Length, id and flags of the descriptor in `slot`, as one word: the driver's last store to a descriptor
    /// is in it, so whoever sees the flags sees the rest.
    #[inline(always)]
    fn word(&self, slot: u16) -> &AtomicU64 {
        // SAFETY: slot < size; the second word of a 16-byte aligned descriptor inside the ring.
        unsafe { AtomicU64::from_ptr(self.desc.add(slot as usize).cast::<u64>().add(1)) }
    }

    #[inline(always)]
    fn head(&self, slot: u16, rest: u64) -> Head {
        // SAFETY: slot < size; the first word of the descriptor.
        let addr = unsafe { self.desc.add(slot as usize).cast::<u64>().read_volatile() };
        Head { addr, len: rest as u32, id: (rest >> 32) as u16, flags: (rest >> 48) as u16, next: 0 }
    }

    #[inline(always)]
    fn event(&self, event: *mut Event) -> &AtomicU32 {
        // SAFETY: both event areas are 4-byte aligned and inside the map.
        unsafe { AtomicU32::from_ptr(event.cast()) }
    }

    fn set_device_event(&self, flags: u16, off_wrap: u16) {
        let value = u32::from(off_wrap) | u32::from(flags) << 16;
        self.event(self.device_event).store(value, Ordering::Relaxed);
    }

    fn available(&self) -> bool {
        is_avail((self.word(self.next.slot).load(Ordering::Acquire) >> 48) as u16, self.next.wrap)
    }
}

fn areas(config: &RingConfig, map: &MemMap) -> Result<(*mut Desc, *mut Event, *mut Event), RingError> {
    let desc = area(map, config.desc_addr, 16, desc_bytes(config.size))?;
    let driver_event = area(map, config.driver_addr, 4, size_of::<Event>())?;
    let device_event = area(map, config.device_addr, 4, size_of::<Event>())?;
    Ok((desc.cast(), driver_event.cast(), device_event.cast()))
}

/// The second word of a used descriptor.
#[inline(always)]
pub(crate) fn used_word(done: Done, wrap: bool) -> u64 {
    // The flag WRITE says that `len` counts.
    let flags = used_flags(wrap) | if done.len() > 0 { desc_flag::WRITE } else { 0 };
    done.used_word() | u64::from(flags) << 48
}

impl Ring for PackedRing {
    const TABLE_LINKED: bool = false;
    const SLOT_PER_DESC: bool = true;
    const FLAGS_SHIFT: u32 = 48;

    #[inline(always)]
    fn size(&self) -> u16 {
        self.size
    }

    #[inline(always)]
    fn refresh(&mut self) -> Result<(), RingError> {
        Ok(())
    }

    #[inline(always)]
    fn peek(&self, into: &mut Peeked, want: usize) -> Result<usize, RingError> {
        const FLIP: u64 = ((AVAIL | USED) as u64) << 48;
        let (desc, size) = (self.desc.cast::<u64>(), usize::from(self.size));
        // Not more than once round, whatever the driver does to the flags meanwhile.
        let want = want.min(size).min(BURST_MAX);
        let mut slot = usize::from(self.next.slot);
        let mut available = u64::from(avail_flags(self.next.wrap)) << 48;
        for (k, (head, done)) in into.heads[..want].iter_mut().zip(&mut into.done).enumerate() {
            // SAFETY: slot < size: an aligned descriptor of the ring. Its second word is loaded first, with Acquire:
            // the flags in it say whether the rest is there.
            let (addr, word) = unsafe {
                let words = desc.add(slot * 2);
                let word = AtomicU64::from_ptr(words.add(1)).load(Ordering::Acquire);
                (words.read_volatile(), word)
            };
            if word & FLIP != available {
                return Ok(k);
            }
            head.write(Raw { addr, word });
            done.write(Done::new((word >> 32) as u16, 1));
            slot += 1;
            if slot == size {
                slot = 0;
                available ^= FLIP;
            }
        }
        Ok(want)
    }

    /// Drivers make descriptors available in the ring's order: the last one speaks for all.
    #[inline(always)]
    fn has_available(&self, entries: u16) -> bool {
        let last = self.next.plus(entries.saturating_sub(1), self.size);
        let rest = self.word(last.slot).load(Ordering::Acquire);
        is_avail((rest >> 48) as u16, last.wrap)
    }

    #[inline(always)]
    fn advance(&mut self, n: u16) {
        self.next = self.next.plus(n, self.size);
    }

    #[inline(always)]
    fn take(&mut self) -> Result<Option<Head>, RingError> {
        let slot = self.next.slot;
        let rest = self.word(slot).load(Ordering::Acquire);
        if !is_avail((rest >> 48) as u16, self.next.wrap) {
            return Ok(None);
        }
        self.next = self.next.plus(1, self.size);
        Ok(Some(self.head(slot, rest)))
    }

    #[inline]
    fn follow(&mut self, _from: &Head) -> Result<Head, RingError> {
        // The driver makes a chain's first descriptor available last, so its others are there.
        let slot = self.next.slot;
        let rest = self.word(slot).load(Ordering::Relaxed);
        self.next = self.next.plus(1, self.size);
        Ok(self.head(slot, rest))
    }

    #[inline(always)]
    fn position(&self) -> u16 {
        self.next.bits()
    }

    #[inline(always)]
    fn rewind(&mut self, position: u16) {
        self.next = Position::from_bits(position);
    }

    /// The first descriptor's flags are stored last: the burst appears as a whole.
    #[inline(always)]
    fn complete(&mut self, done: &[Done]) {
        const FLIP: u64 = ((AVAIL | USED) as u64) << 48;
        let Some((&first, rest)) = done.split_first() else { return };
        let start = self.used;
        if let Some(inflight) = &self.inflight {
            // SAFETY: every slot named is below the size of the ring, whose descriptors the map keeps.
            unsafe { inflight.begin_packed(self.desc, self.size, start, done) };
        }
        let (desc, size) = (self.desc.cast::<u64>(), u32::from(self.size));
        // All chains of a ring are written, or none: what holds for the first one holds for all.
        let first_word = used_word(first, start.wrap);
        let mut flags = first_word & 0xffff << 48;
        if self.tells && first.slots() > 1 {
            self.mark_used(start.plus(1, self.size), first.slots() - 1);
        }
        let (mut slot, mut last_slots, mut total) = (u32::from(start.slot), first.slots(), 0u32);
        for &d in rest {
            slot += u32::from(last_slots);
            total += u32::from(last_slots);
            if slot >= size {
                slot -= size;
                flags ^= FLIP;
            }
            // SAFETY: slot < size: a chain has at most `size` entries. The second word of an aligned descriptor.
            let word = unsafe { AtomicU64::from_ptr(desc.add(slot as usize * 2 + 1)) };
            last_slots = d.slots();
            let is_marked = self.tells && last_slots > 1;
            // Drivers ignore this flag in a used descriptor (section 2.8.6); a successor of ours does not.
            let more = if is_marked { u64::from(desc_flag::NEXT) << 48 } else { 0 };
            word.store(d.used_word() | flags | more, Ordering::Relaxed);
            if is_marked {
                let at = Position { slot: slot as u16, wrap: (flags >> 48) as u16 & AVAIL != 0 };
                self.mark_used(at.plus(1, self.size), last_slots - 1);
            }
        }
        total += u32::from(last_slots);
        self.word(start.slot).store(first_word, Ordering::Release);
        let wrap = (flags ^ first_word) & FLIP != 0;
        self.used = Position { slot: slot as u16, wrap: start.wrap ^ wrap }.plus(last_slots, self.size);
        self.unsignalled = (u32::from(self.unsignalled) + total).min(size) as u16;
        if let Some(inflight) = &self.inflight {
            inflight.commit_packed(self.used);
        }
    }

    #[inline(always)]
    fn complete_in_order(&mut self, done: &[Done]) {
        let Some(&last) = done.last() else { return };
        let start = self.used;
        let end = done.iter().fold(start, |p, d| p.plus(d.slots(), self.size));
        if let Some(inflight) = &self.inflight {
            // SAFETY: as in `complete`.
            unsafe { inflight.begin_packed(self.desc, self.size, start, done) };
        }
        self.word(start.slot).store(used_word(last, start.wrap), Ordering::Release);
        let total = done.iter().fold(0u16, |n, d| n.saturating_add(d.slots()));
        self.used = end;
        self.unsignalled = self.unsignalled.saturating_add(total).min(self.size);
        if let Some(inflight) = &self.inflight {
            inflight.commit_packed(self.used);
        }
    }

    #[inline]
    fn wants_call(&mut self) -> bool {
        // What was published must be visible before the driver's wish is read: it does the reverse.
        fence(Ordering::SeqCst);
        let moved = std::mem::take(&mut self.unsignalled);
        let event = self.event(self.driver_event).load(Ordering::Relaxed);
        let (off_wrap, flags) = (event as u16, (event >> 16) as u16 & 3);
        match flags {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => {
                let event = Position::from_bits(off_wrap);
                let mut at = event.slot;
                if event.wrap != self.used.wrap {
                    at = at.wrapping_sub(self.size);
                }
                needs_event(at, self.used.slot, self.used.slot.wrapping_sub(moved))
            }
            _ => true,
        }
    }

    fn ask_for_kicks(&mut self) -> bool {
        if self.event_idx {
            self.set_device_event(EVENT_DESC, self.next.bits());
        } else {
            self.set_device_event(EVENT_ENABLE, 0);
        }
        // The wish must be visible before the ring is read again: the driver does the reverse.
        fence(Ordering::SeqCst);
        self.available()
    }

    fn refuse_kicks(&mut self) {
        self.set_device_event(EVENT_DISABLE, 0);
    }

    fn move_to(&mut self, config: &RingConfig, map: &MemMap) -> Result<(), RingError> {
        (self.desc, self.driver_event, self.device_event) = areas(config, map)?;
        Ok(())
    }

    fn base(&self) -> u32 {
        u32::from(self.next.bits()) | u32::from(self.used.bits()) << 16
    }

    fn written(&self, slots: u16, mark: &mut dyn FnMut(u64, u64)) {
        let desc = size_of::<Desc>() as u64;
        let slots = slots.min(self.size);
        let first = if self.used.slot >= slots {
            self.used.slot - slots
        } else {
            self.used.slot + (self.size - slots)
        };
        let before_wrap = slots.min(self.size - first);
        mark(u64::from(first) * desc, u64::from(before_wrap) * desc);
        mark(0, u64::from(slots - before_wrap) * desc);
    }
}
