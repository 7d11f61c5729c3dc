//! The driver side of a split ring.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_defs::desc_flag::{INDIRECT, NEXT};
use virtio_defs::needs_event;
use virtio_defs::split::{
    AVAIL_NO_INTERRUPT, Desc, RING_OFFSET, USED_NO_NOTIFY, UsedElem, avail_event_offset, used_event_offset,
};

use super::{Buffer, DriverError, Layout};

/// A descriptor's entry in the driver's own books; the device never sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Shadow {
    token: u32,
    /// Descriptors of the chain that begins here; 0 when none does.
    chain: u16,
    /// The next descriptor of the chain.
    next: u16,
}

#[derive(Debug)]
pub(super) struct SplitDriver {
    desc: *mut Desc,
    avail: *mut u8,
    used: *mut u8,
    size: u16,
    mask: u16,
    shadow: Box<[Shadow]>,
    /// Free descriptors, first in, first out: chains that come back in order are handed out in ring order, as
    /// `IN_ORDER` demands.
    free: Box<[u16]>,
    free_head: u16,
    free_count: u16,
    /// Heads in the order in which they were added, by available index; kept for `IN_ORDER`.
    order: Box<[u16]>,
    /// Where the next head goes; `published` of them were shown.
    next_avail: u16,
    published: u16,
    next_used: u16,
    event_idx: bool,
    in_order: bool,
}

// SAFETY: the pointers lead into memory that the `Driver` keeps; accesses are atomic or ordered by the indices.
unsafe impl Send for SplitDriver {}

impl SplitDriver {
    /// # Safety
    /// `start` must point to zeroed memory of the layout's size that outlives the driver.
    pub(super) unsafe fn new(
        start: *mut u8,
        layout: &Layout,
        size: u16,
        event_idx: bool,
        in_order: bool,
    ) -> SplitDriver {
        assert!(size.is_power_of_two(), "split rings have a power of two of entries, not {size}");
        // SAFETY: the offsets are inside the layout.
        let (desc, avail, used) =
            unsafe { (start.add(layout.desc), start.add(layout.driver), start.add(layout.device)) };
        let mut driver = SplitDriver {
            desc: desc.cast(),
            avail,
            used,
            size,
            mask: size - 1,
            shadow: vec![Shadow::default(); size as usize].into(),
            free: (0..size).collect(),
            free_head: 0,
            free_count: size,
            order: vec![0; size as usize].into(),
            next_avail: 0,
            published: 0,
            next_used: 0,
            event_idx,
            in_order,
        };
        driver.refuse_calls();
        driver
    }

    #[inline(always)]
    fn u16_at(&self, area: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: callers name aligned offsets inside the areas.
        unsafe { AtomicU16::from_ptr(area.add(offset).cast()) }
    }

    pub(super) fn free(&self) -> usize {
        self.free_count.into()
    }

    pub(super) fn outstanding(&self) -> usize {
        self.next_avail.wrapping_sub(self.next_used).into()
    }

    #[inline(always)]
    fn alloc(&mut self) -> u16 {
        let id = self.free[(self.free_head & self.mask) as usize];
        self.free_head = self.free_head.wrapping_add(1);
        self.free_count -= 1;
        id
    }

    #[inline(always)]
    fn write(&mut self, id: u16, addr: u64, len: u32, flags: u16, next: u16) {
        // SAFETY: ids are below the size. The device doesn't look before the available index says so.
        unsafe { self.desc.add(id as usize).write_volatile(Desc { addr, len, flags, next }) };
    }

    #[inline(always)]
    fn offer(&mut self, head: u16, chain: u16, token: u32) {
        let shadow = &mut self.shadow[head as usize];
        (shadow.token, shadow.chain) = (token, chain);
        let entry = (self.next_avail & self.mask) as usize;
        self.order[entry] = head;
        // SAFETY: the masked entry is inside the available ring.
        unsafe { self.avail.add(RING_OFFSET + entry * 2).cast::<u16>().write_volatile(head) };
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    #[inline(always)]
    pub(super) fn add(&mut self, buffers: &[Buffer], token: u32) -> bool {
        if buffers.len() > self.free_count as usize {
            return false;
        }
        let head = self.alloc();
        let mut id = head;
        for (k, b) in buffers.iter().enumerate() {
            if k + 1 == buffers.len() {
                self.write(id, b.addr, b.len, b.flags(), 0);
            } else {
                let next = self.alloc();
                self.write(id, b.addr, b.len, b.flags() | NEXT, next);
                self.shadow[id as usize].next = next;
                id = next;
            }
        }
        self.offer(head, buffers.len() as u16, token);
        true
    }

    pub(super) fn add_table(&mut self, addr: u64, bytes: u32, token: u32) -> bool {
        if self.free_count == 0 {
            return false;
        }
        let head = self.alloc();
        self.write(head, addr, bytes, INDIRECT, 0);
        self.offer(head, 1, token);
        true
    }

    #[inline(always)]
    pub(super) fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.published, self.next_avail);
        if old == self.next_avail {
            return false;
        }
        self.u16_at(self.avail, 2).store(self.next_avail, Ordering::Release);
        // The index must be visible before the device's wish is read: it does the reverse.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.u16_at(self.used, avail_event_offset(self.size)).load(Ordering::Relaxed);
            needs_event(event, self.next_avail, old)
        } else {
            self.u16_at(self.used, 0).load(Ordering::Relaxed) & USED_NO_NOTIFY == 0
        }
    }

    #[inline(always)]
    pub(super) fn poll(&mut self, max: usize, mut each: impl FnMut(u32, u32)) -> Result<usize, DriverError> {
        let idx = self.u16_at(self.used, 2).load(Ordering::Acquire);
        let ready = idx.wrapping_sub(self.next_used);
        if ready > self.published.wrapping_sub(self.next_used) {
            return Err(DriverError::UsedJump(idx));
        }
        let n = (ready as usize).min(max);
        let mut taken = 0;
        while taken < n {
            let entry = (self.next_used & self.mask) as usize;
            // SAFETY: the masked entry is inside the used ring; entries are 4-byte aligned.
            let elem = unsafe { self.used.add(RING_OFFSET + entry * 8).cast::<UsedElem>().read_volatile() };
            if self.in_order {
                // One entry may stand for all up to its chain.
                loop {
                    let head = self.order[(self.next_used & self.mask) as usize];
                    let last = u32::from(head) == elem.id;
                    self.take_back(head, if last { elem.len } else { 0 }, &mut each)?;
                    taken += 1;
                    if last {
                        break;
                    }
                    if self.next_used == idx {
                        return Err(DriverError::NotOutstanding(elem.id));
                    }
                }
            } else {
                if elem.id >= self.size.into() {
                    return Err(DriverError::NotOutstanding(elem.id));
                }
                self.take_back(elem.id as u16, elem.len, &mut each)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    #[inline(always)]
    fn take_back(&mut self, head: u16, len: u32, each: &mut impl FnMut(u32, u32)) -> Result<(), DriverError> {
        let shadow = &mut self.shadow[head as usize];
        let (token, chain) = (shadow.token, std::mem::take(&mut shadow.chain));
        if chain == 0 {
            return Err(DriverError::NotOutstanding(head.into()));
        }
        let mut id = head;
        for _ in 0..chain {
            self.free[(self.free_head.wrapping_add(self.free_count) & self.mask) as usize] = id;
            self.free_count += 1;
            id = self.shadow[id as usize].next;
        }
        self.next_used = self.next_used.wrapping_add(1);
        each(token, len);
        Ok(())
    }

    pub(super) fn ask_for_calls(&mut self) -> bool {
        if self.event_idx {
            self.u16_at(self.avail, used_event_offset(self.size)).store(self.next_used, Ordering::Relaxed);
        } else {
            self.u16_at(self.avail, 0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.u16_at(self.used, 2).load(Ordering::Acquire) != self.next_used
    }

    pub(super) fn refuse_calls(&mut self) {
        if self.event_idx {
            let passed = self.next_used.wrapping_sub(1);
            self.u16_at(self.avail, used_event_offset(self.size)).store(passed, Ordering::Relaxed);
        } else {
            self.u16_at(self.avail, 0).store(AVAIL_NO_INTERRUPT, Ordering::Relaxed);
        }
    }
}
