//! The driver side of a virtqueue for buffers of one descriptor, in memory mapped at its physical address.

use core::sync::atomic::{AtomicU16, Ordering, fence};

use crate::memory::Memory;
use crate::virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};
use crate::virtio_defs::{packed, split};

/// What a device did that no device may do: a buffer that it wasn't given came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenRing;

/// Where a ring's three areas lie.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// Descriptor table or packed ring.
    pub desc: *mut u8,
    /// Available ring, or the driver's event suppression.
    pub driver: *mut u8,
    /// Used ring, or the device's event suppression.
    pub device: *mut u8,
}

/// Bytes of each area of a ring: descriptors, driver's, device's.
pub fn area_bytes(size: u16, is_packed: bool) -> [usize; 3] {
    if is_packed {
        [packed::desc_bytes(size), size_of::<packed::Event>(), size_of::<packed::Event>()]
    } else {
        [split::desc_bytes(size), split::avail_bytes(size), split::used_bytes(size)]
    }
}

/// Makes a table of buffers, in the ring's form, for [`Ring::add_indirect`]: address, bytes, flags of each. Its address.
pub fn table(buffers: &[(u64, u32, u16)], is_packed: bool, memory: &mut Memory) -> u64 {
    let table = memory.take(buffers.len() * size_of::<split::Desc>()).as_mut_ptr();
    for (index, &(addr, len, flags)) in (0u16..).zip(buffers) {
        // SAFETY: the table has room for as many descriptors of either form, and is aligned to a cache line.
        unsafe {
            if is_packed {
                let entry = packed::Desc { addr, len, id: 0, flags };
                table.cast::<packed::Desc>().add(index.into()).write_volatile(entry);
            } else {
                let is_last = usize::from(index) + 1 == buffers.len();
                let flags = if is_last { flags } else { flags | NEXT };
                let entry = split::Desc { addr, len, flags, next: index + 1 };
                table.cast::<split::Desc>().add(index.into()).write_volatile(entry);
            }
        }
    }
    table as u64
}

/// A virtqueue that is polled: it never asks for an interrupt.
pub struct Ring {
    size: u16,
    areas: Areas,
    is_packed: bool,
    /// Names of free descriptors (split) or buffers (packed), as a stack.
    free: &'static mut [u16],
    free_count: usize,
    /// What the caller called the buffer of that name; [`NONE`] while it is free.
    tokens: &'static mut [u32],
    /// Split: the next available index. Packed: the next position.
    next: u16,
    /// Split: what the device can see. Packed: whether there is something to tell it.
    published: u16,
    unpublished: bool,
    /// Split: the next used index. Packed: the next position to be used.
    next_used: u16,
    avail_wrap: bool,
    used_wrap: bool,
}

const NONE: u32 = u32::MAX;

impl Ring {
    /// Makes a ring of `size` entries, a power of two, on zeroed areas.
    ///
    /// # Safety
    /// The areas have the bytes that [`area_bytes`] says, aligned to 16, and belong to this ring and its device only.
    pub unsafe fn new(
        size: u16,
        is_packed: bool,
        areas: Areas,
        free: &'static mut [u16],
        tokens: &'static mut [u32],
    ) -> Ring {
        for (name, place) in (0..size).rev().zip(free.iter_mut()) {
            *place = name;
        }
        tokens.fill(NONE);
        let ring = Ring {
            size,
            areas,
            is_packed,
            free,
            free_count: size.into(),
            tokens,
            next: 0,
            published: 0,
            unpublished: false,
            next_used: 0,
            avail_wrap: true,
            used_wrap: true,
        };
        if is_packed {
            ring.word(ring.areas.driver, 2).store(packed::EVENT_DISABLE, Ordering::Relaxed);
        } else {
            ring.word(ring.areas.driver, 0).store(split::AVAIL_NO_INTERRUPT, Ordering::Relaxed);
        }
        ring
    }

    /// Where its areas lie.
    pub fn areas(&self) -> Areas {
        self.areas
    }

    /// How many buffers can be added.
    pub fn room(&self) -> usize {
        self.free_count
    }

    /// Buffers the device has.
    pub fn outstanding(&self) -> usize {
        usize::from(self.size) - self.free_count
    }

    fn word(&self, area: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: `new` was promised the area; all offsets used here are inside it and even.
        unsafe { AtomicU16::from_ptr(area.add(offset).cast()) }
    }

    /// Gives the device a buffer, with the next [`publish`](Self::publish). False when the ring is full.
    ///
    /// `token` is what [`take`](Self::take) will call it; not `u32::MAX`.
    pub fn add(&mut self, address: u64, len: u32, writable: bool, token: u32) -> bool {
        self.add_descriptor(address, len, if writable { WRITE } else { 0 }, token)
    }

    /// Likewise a table of buffers, in the ring's form.
    pub fn add_indirect(&mut self, table: u64, len: u32, token: u32) -> bool {
        self.add_descriptor(table, len, INDIRECT, token)
    }

    fn add_descriptor(&mut self, address: u64, len: u32, flags: u16, token: u32) -> bool {
        if self.free_count == 0 {
            return false;
        }
        self.free_count -= 1;
        let name = self.free[self.free_count];
        self.tokens[usize::from(name)] = token;
        if self.is_packed {
            let at = self.areas.desc.cast::<packed::Desc>().wrapping_add(self.next.into());
            let flags = flags | packed::avail_flags(self.avail_wrap);
            // SAFETY: `next` is below the size. The device takes nothing before it sees the flags, written last.
            unsafe {
                (&raw mut (*at).addr).write_volatile(address);
                (&raw mut (*at).len).write_volatile(len);
                (&raw mut (*at).id).write_volatile(name);
                AtomicU16::from_ptr(&raw mut (*at).flags).store(flags, Ordering::Release);
            }
            self.next += 1;
            if self.next == self.size {
                (self.next, self.avail_wrap) = (0, !self.avail_wrap);
            }
        } else {
            let at = self.areas.desc.cast::<split::Desc>().wrapping_add(name.into());
            // SAFETY: names are below the size.
            unsafe { at.write_volatile(split::Desc { addr: address, len, flags, next: 0 }) };
            let entry = usize::from(self.next & (self.size - 1));
            self.word(self.areas.driver, split::RING_OFFSET + entry * 2).store(name, Ordering::Relaxed);
            self.next = self.next.wrapping_add(1);
        }
        self.unpublished = true;
        true
    }

    /// Shows the device what was added; whether it wants its doorbell rung for that.
    pub fn publish(&mut self) -> bool {
        if !self.unpublished {
            return false;
        }
        self.unpublished = false;
        if self.is_packed {
            fence(Ordering::SeqCst);
            return self.word(self.areas.device, 2).load(Ordering::Relaxed) != packed::EVENT_DISABLE;
        }
        self.published = self.next;
        self.word(self.areas.driver, 2).store(self.next, Ordering::Release);
        // The index must be visible before the device's wish is read: it does the reverse.
        fence(Ordering::SeqCst);
        self.word(self.areas.device, 0).load(Ordering::Relaxed) & split::USED_NO_NOTIFY == 0
    }

    /// Takes a buffer back: its token and the bytes written.
    ///
    /// # Errors
    /// The device returns what it wasn't given.
    pub fn take(&mut self) -> Result<Option<(u32, u32)>, BrokenRing> {
        let (name, len) = if self.is_packed {
            let at = self.areas.desc.cast::<packed::Desc>().wrapping_add(self.next_used.into());
            // SAFETY: `next_used` is below the size.
            let flags = unsafe { AtomicU16::from_ptr(&raw mut (*at).flags) }.load(Ordering::Acquire);
            if !packed::is_used(flags, self.used_wrap) {
                return Ok(None);
            }
            // SAFETY: as above; the flags say that these are written.
            let used =
                unsafe { ((&raw const (*at).id).read_volatile(), (&raw const (*at).len).read_volatile()) };
            self.next_used += 1;
            if self.next_used == self.size {
                (self.next_used, self.used_wrap) = (0, !self.used_wrap);
            }
            used
        } else {
            if self.word(self.areas.device, 2).load(Ordering::Acquire) == self.next_used {
                return Ok(None);
            }
            let entry = usize::from(self.next_used & (self.size - 1));
            let at = self.areas.device.wrapping_add(split::RING_OFFSET).cast::<split::UsedElem>();
            // SAFETY: the masked entry is inside the used ring.
            let used = unsafe { at.add(entry).read_volatile() };
            self.next_used = self.next_used.wrapping_add(1);
            (u16::try_from(used.id).map_err(|_| BrokenRing)?, used.len)
        };
        let token = self.tokens.get_mut(usize::from(name)).ok_or(BrokenRing)?;
        let token = core::mem::replace(token, NONE);
        if token == NONE {
            return Err(BrokenRing);
        }
        self.free[self.free_count] = name;
        self.free_count += 1;
        Ok(Some((token, len)))
    }
}
