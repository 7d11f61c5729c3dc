//! Memory given out once and never taken back.

use core::slice;

unsafe extern "C" {
    /// End of the image, from the linker script.
    static __end: u8;
}

/// The addresses below this one are mapped, memory or not.
const MAPPED_END: u64 = 8 << 30;

/// What is free.
pub struct Memory {
    next: usize,
    end: usize,
}

impl Memory {
    /// All memory behind the image, up to `end`.
    pub fn behind_image(end: u64) -> Memory {
        Memory { next: &raw const __end as usize, end: end as usize }
    }

    /// Memory that was added to the machine; `None` if it isn't where this guest can reach it.
    pub fn added(start: u64, bytes: u64) -> Option<Memory> {
        let end = start.checked_add(bytes).filter(|&end| end <= MAPPED_END)?;
        Some(Memory { next: start as usize, end: end as usize })
    }

    /// Bytes that are free.
    pub fn free(&self) -> usize {
        self.end - self.next
    }

    /// Zeroed bytes, aligned to a cache line.
    pub fn take(&mut self, bytes: usize) -> &'static mut [u8] {
        let start = self.next.next_multiple_of(64);
        assert!(start + bytes <= self.end, "out of memory: this guest needs more");
        self.next = start + bytes;
        // SAFETY: the machine has memory there, zeroed by the monitor, and it is given out only once.
        unsafe { slice::from_raw_parts_mut(start as *mut u8, bytes) }
    }

    /// A table of zeros.
    pub fn table<T: Copy + Zero>(&mut self, len: usize) -> &'static mut [T] {
        let bytes = self.take(len * size_of::<T>());
        // SAFETY: aligned to a cache line, of the right length, and zero is a value of the type.
        unsafe { slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }
}

/// Types for which zero bytes are a value.
///
/// # Safety
/// They must be.
pub unsafe trait Zero {}
// SAFETY: integers.
unsafe impl Zero for u16 {}
// SAFETY: integers.
unsafe impl Zero for u32 {}
