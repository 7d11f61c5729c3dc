//! Device memory, mapped.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::Window;

/// A mapped region. The mapping keeps the device open, also when its descriptor is closed.
#[derive(Debug)]
pub struct MmioWindow {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to the thread that made it, and only this value refers to it.
unsafe impl Send for MmioWindow {}

impl MmioWindow {
    /// Maps `len` bytes of a device from `offset` on.
    pub(super) fn map(device: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let offset = offset.try_into().map_err(|_| io::Error::other("offset past the end of a file"))?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, device.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: NonNull::new(start.cast()).expect("a mapping isn't at address 0"), len })
    }

    /// The address of an access, checked.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(size_of::<T>()) && offset < self.len && self.len - offset >= size_of::<T>(),
            "an access outside the window"
        );
        // SAFETY: the offset is within the mapping, checked above.
        unsafe { self.start.add(offset).as_ptr().cast() }
    }
}

impl Window for MmioWindow {
    fn window_len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: `at` gives an aligned address within the mapping, which lives as long as `self`.
        u32::from_le(unsafe { self.at::<u32>(offset).read_volatile() })
    }

    #[inline(always)]
    fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as in `read32`; the mapping is writable, and nothing in this process has references into it.
        unsafe { self.at::<u32>(offset).write_volatile(value.to_le()) }
    }

    #[inline(always)]
    fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as in `read32`.
        u64::from_le(unsafe { self.at::<u64>(offset).read_volatile() })
    }

    #[inline(always)]
    fn write64(&self, offset: usize, value: u64) {
        // SAFETY: as in `write32`.
        unsafe { self.at::<u64>(offset).write_volatile(value.to_le()) }
    }

    /// A store to a register window leaves the processor at once and alone, so half as many cost half as much. Volatile
    /// accesses of 128 bits aren't promised to be one instruction; these are.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    fn write128(&self, offset: usize, words: [u64; 2]) {
        let to = self.at::<u128>(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `write32`; the address is a multiple of 16, and SSE2 is part of the architecture.
        unsafe {
            let value = std::arch::x86_64::_mm_set_epi64x(words[1] as i64, words[0] as i64);
            std::arch::asm!("movdqa xmmword ptr [{to}], {value}", to = in(reg) to, value = in(xmm_reg) value,
                options(nostack, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as in `write32`.
        unsafe {
            std::arch::asm!("stp {first}, {second}, [{to}]", to = in(reg) to, first = in(reg) words[0].to_le(),
                second = in(reg) words[1].to_le(), options(nostack, preserves_flags));
        }
    }
}

impl Drop for MmioWindow {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping that `map` made, and nothing outlives this value that refers to it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn window() -> MmioWindow {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("of a page");
        MmioWindow::map(file.as_fd(), 0, 4096).expect("mapped")
    }

    #[test]
    fn words_are_little_endian_and_keep_their_place() {
        let window = window();
        window.write_words(64, &[0x0807_0605_0403_0201, 0x1817_1615_1413_1211]);
        assert_eq!(window.read32(64), 0x0403_0201);
        assert_eq!(window.read_words(64), [0x0807_0605_0403_0201, 0x1817_1615_1413_1211]);
        window.write128(128, [0x2827_2625_2423_2221, 0x3837_3635_3433_3231]);
        assert_eq!((window.read32(128), window.read32(140)), (0x2423_2221, 0x3837_3635));
        // From an odd word on, and an even number of them left.
        window.write_words(200, &[1, 2, 3, 4]);
        assert_eq!(window.read_words(192), [0, 1, 2, 3, 4, 0]);
        window.write32(4092, 7);
        assert_eq!(window.read64(4088), 7 << 32);
    }

    #[test]
    #[should_panic(expected = "outside the window")]
    fn an_access_past_the_end_stops_the_program() {
        window().read64(4096 - 4);
    }
}
