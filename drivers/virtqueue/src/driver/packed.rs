//! The driver side of a packed ring.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use virtio_defs::desc_flag::{INDIRECT, NEXT};
use virtio_defs::needs_event;
use virtio_defs::packed::{Desc, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Event, avail_flags, is_used};

use super::{Buffer, DriverError, Layout};
use crate::packed::Position;

/// A buffer id's entry in the driver's own books.
#[derive(Clone, Copy, Debug, Default)]
struct Shadow {
    token: u32,
    /// Ring entries of the chain with this id; 0 when there is none.
    slots: u16,
}

#[derive(Debug)]
pub(super) struct PackedDriver {
    desc: *mut Desc,
    driver_event: *mut Event,
    device_event: *mut Event,
    size: u16,
    shadow: Box<[Shadow]>,
    /// Free ids, last in, first out.
    ids: Vec<u16>,
    /// Ids in the order in which they were added, a ring of `size`; kept for `IN_ORDER`.
    order: Box<[u16]>,
    order_head: usize,
    chains: usize,
    free: u16,
    next: Position,
    used: Position,
    /// Where the first chain not yet shown begins, with the word that will show it.
    hidden: Option<(u16, u64)>,
    /// Entries added since the last `publish`.
    added: u16,
    event_idx: bool,
    in_order: bool,
}

// SAFETY: the pointers lead into memory that the `Driver` keeps; accesses are atomic or ordered by the flags.
unsafe impl Send for PackedDriver {}

impl PackedDriver {
    /// # Safety
    /// `start` must point to zeroed memory of the layout's size that outlives the driver.
    pub(super) unsafe fn new(
        start: *mut u8,
        layout: &Layout,
        size: u16,
        event_idx: bool,
        in_order: bool,
    ) -> PackedDriver {
        // SAFETY: the offsets are inside the layout.
        let (desc, driver_event, device_event) =
            unsafe { (start.add(layout.desc), start.add(layout.driver), start.add(layout.device)) };
        let first = Position { slot: 0, wrap: true };
        let mut driver = PackedDriver {
            desc: desc.cast(),
            driver_event: driver_event.cast(),
            device_event: device_event.cast(),
            size,
            shadow: vec![Shadow::default(); size as usize].into(),
            ids: (0..size).rev().collect(),
            order: vec![0; size as usize].into(),
            order_head: 0,
            chains: 0,
            free: size,
            next: first,
            used: first,
            hidden: None,
            added: 0,
            event_idx,
            in_order,
        };
        driver.refuse_calls();
        driver
    }

    #[inline(always)]
    fn word(&self, slot: u16) -> &AtomicU64 {
        // SAFETY: slots are below the size; the second word of an aligned descriptor.
        unsafe { AtomicU64::from_ptr(self.desc.add(slot as usize).cast::<u64>().add(1)) }
    }

    fn event(&self, event: *mut Event) -> &AtomicU32 {
        // SAFETY: both event areas are 4-byte aligned.
        unsafe { AtomicU32::from_ptr(event.cast()) }
    }

    pub(super) fn free(&self) -> usize {
        self.free.into()
    }

    pub(super) fn outstanding(&self) -> usize {
        self.chains
    }

    /// Writes the next descriptor. The first one since the last `publish` keeps the flags of its last round.
    #[inline(always)]
    fn write(&mut self, addr: u64, len: u32, id: u16, flags: u16) {
        let slot = self.next.slot;
        // SAFETY: slot < size. The device doesn't look before the flags say so.
        unsafe { self.desc.add(slot as usize).cast::<u64>().write_volatile(addr) };
        let flags = flags | avail_flags(self.next.wrap);
        let word = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
        if self.hidden.is_none() {
            self.hidden = Some((slot, word));
        } else {
            self.word(slot).store(word, Ordering::Relaxed);
        }
        self.next = self.next.plus(1, self.size);
    }

    #[inline(always)]
    fn offer(&mut self, id: u16, slots: u16, token: u32) {
        self.shadow[id as usize] = Shadow { token, slots };
        let mut at = self.order_head + self.chains;
        if at >= self.order.len() {
            at -= self.order.len();
        }
        self.order[at] = id;
        self.chains += 1;
        self.free -= slots;
        self.added += slots;
    }

    #[inline(always)]
    pub(super) fn add(&mut self, buffers: &[Buffer], token: u32) -> bool {
        if buffers.len() > self.free as usize {
            return false;
        }
        let Some(id) = self.ids.pop() else { return false };
        for (k, b) in buffers.iter().enumerate() {
            let more = if k + 1 == buffers.len() { 0 } else { NEXT };
            self.write(b.addr, b.len, id, b.flags() | more);
        }
        self.offer(id, buffers.len() as u16, token);
        true
    }

    pub(super) fn add_table(&mut self, addr: u64, bytes: u32, token: u32) -> bool {
        if self.free == 0 {
            return false;
        }
        let Some(id) = self.ids.pop() else { return false };
        self.write(addr, bytes, id, INDIRECT);
        self.offer(id, 1, token);
        true
    }

    #[inline(always)]
    pub(super) fn publish(&mut self) -> bool {
        let Some((slot, word)) = self.hidden.take() else { return false };
        // Everything after the first is written; this store shows all of it.
        self.word(slot).store(word, Ordering::Release);
        fence(Ordering::SeqCst);
        let added = std::mem::take(&mut self.added);
        let event = self.event(self.device_event).load(Ordering::Relaxed);
        match (event >> 16) as u16 & 3 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => {
                let event = Position::from_bits(event as u16);
                let at = if event.wrap == self.next.wrap {
                    event.slot
                } else {
                    event.slot.wrapping_sub(self.size)
                };
                needs_event(at, self.next.slot, self.next.slot.wrapping_sub(added))
            }
            _ => true,
        }
    }

    #[inline(always)]
    pub(super) fn poll(&mut self, max: usize, mut each: impl FnMut(u32, u32)) -> Result<usize, DriverError> {
        let mut taken = 0;
        while taken < max && self.chains > 0 {
            let word = self.word(self.used.slot).load(Ordering::Acquire);
            if !is_used((word >> 48) as u16, self.used.wrap) {
                break;
            }
            let (id, len) = ((word >> 32) as u16, word as u32);
            if self.in_order {
                // One entry may stand for all up to its chain.
                loop {
                    let oldest = self.order[self.order_head];
                    let last = oldest == id;
                    self.take_back(oldest, if last { len } else { 0 }, &mut each)?;
                    taken += 1;
                    if last {
                        break;
                    }
                    if self.chains == 0 {
                        return Err(DriverError::NotOutstanding(id.into()));
                    }
                }
            } else {
                self.take_back(id, len, &mut each)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    #[inline(always)]
    fn take_back(&mut self, id: u16, len: u32, each: &mut impl FnMut(u32, u32)) -> Result<(), DriverError> {
        let Some(shadow) = self.shadow.get_mut(id as usize) else {
            return Err(DriverError::NotOutstanding(id.into()));
        };
        let Shadow { token, slots } = std::mem::take(shadow);
        if slots == 0 {
            return Err(DriverError::NotOutstanding(id.into()));
        }
        self.ids.push(id);
        self.order_head += 1;
        if self.order_head == self.order.len() {
            self.order_head = 0;
        }
        self.chains -= 1;
        self.free += slots;
        self.used = self.used.plus(slots, self.size);
        each(token, len);
        Ok(())
    }

    pub(super) fn ask_for_calls(&mut self) -> bool {
        let (flags, at) = if self.event_idx { (EVENT_DESC, self.used.bits()) } else { (EVENT_ENABLE, 0) };
        self.event(self.driver_event).store(u32::from(at) | u32::from(flags) << 16, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let flags = (self.word(self.used.slot).load(Ordering::Acquire) >> 48) as u16;
        self.chains > 0 && is_used(flags, self.used.wrap)
    }

    pub(super) fn refuse_calls(&mut self) {
        self.event(self.driver_event).store(u32::from(EVENT_DISABLE) << 16, Ordering::Relaxed);
    }
}
