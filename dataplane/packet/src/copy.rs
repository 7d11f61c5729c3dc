//! Copies between memories of which one may be written by somebody else meanwhile.
//!
//! Raw pointers only: a slice over such memory would be undefined behaviour. Which value is read when the
//! other side writes at the same time is not defined, so callers validate what they copied, never the source.
//!
//! Short frames dominate the cost (measured: a call to `memcpy` costs more than the copy), hence the inline
//! path up to [`INLINE_MAX`] bytes with overlapping tail blocks. It never writes past `len`: bytes after the
//! frame belong to its sender.

/// Longest copy done inline.
pub const INLINE_MAX: usize = 128;

/// Copies `len` bytes.
///
/// # Safety
/// `src` must be readable and `dst` writable for `len` bytes. They may overlap (a guest may give the same memory
/// to both its rings); what is copied then is not defined.
#[inline(always)]
pub unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller's promise is passed on; each inline path touches only bytes below `len`.
    unsafe {
        if len > INLINE_MAX {
            core::ptr::copy(src, dst, len);
        } else if len >= 64 {
            block::<64>(src, dst);
            // The shortest frames are 64 bytes: not twice.
            if len > 64 {
                block::<64>(src.add(len - 64), dst.add(len - 64));
            }
        } else if len >= 32 {
            block::<32>(src, dst);
            block::<32>(src.add(len - 32), dst.add(len - 32));
        } else {
            short(src, dst, len);
        }
    }
}

/// Copies as [`copy`] does, line by line, and hints with each line that the same of the next copy, `ahead` (source and
/// destination), follows soon: long frames wait for memory, and hints spread over a copy keep more of it on its way than
/// hints before it.
///
/// # Safety
/// As [`copy`]. What lies `ahead` may be any address.
#[inline]
pub unsafe fn copy_ahead(src: *const u8, dst: *mut u8, len: usize, ahead: (*const u8, *const u8)) {
    const LINE: usize = 64;
    // SAFETY: the caller's promise is passed on; each block ends at `len` or before.
    unsafe {
        if len < LINE {
            return copy(src, dst, len);
        }
        for at in (0..len).step_by(LINE) {
            prefetch_read(ahead.0.wrapping_add(at));
            prefetch_write(ahead.1.wrapping_add(at));
            let at = at.min(len - LINE);
            block::<LINE>(src.add(at), dst.add(at));
        }
    }
}

/// Copies one block of `N` bytes through registers.
///
/// # Safety
/// As [`copy`] with `len` = `N`.
#[inline(always)]
pub unsafe fn block<const N: usize>(src: *const u8, dst: *mut u8) {
    // SAFETY: the caller promises N readable and N writable bytes; unaligned access through arrays of u8.
    unsafe { dst.cast::<[u8; N]>().write(src.cast::<[u8; N]>().read()) }
}

/// # Safety
/// As [`copy`], `len` below 32.
#[inline]
unsafe fn short(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: each arm's two blocks lie inside [0, len).
    unsafe {
        if len >= 16 {
            block::<16>(src, dst);
            block::<16>(src.add(len - 16), dst.add(len - 16));
        } else if len >= 8 {
            block::<8>(src, dst);
            block::<8>(src.add(len - 8), dst.add(len - 8));
        } else if len >= 4 {
            block::<4>(src, dst);
            block::<4>(src.add(len - 4), dst.add(len - 4));
        } else {
            for i in 0..len {
                dst.add(i).write(src.add(i).read());
            }
        }
    }
}

/// Hints that the line at `p` will be read soon. Any address is allowed.
#[inline(always)]
pub fn prefetch_read(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
}

/// Hints that the line at `p` will be written soon. Any address is allowed.
#[inline(always)]
pub fn prefetch_write(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address. `prefetchw` is a no-op on CPUs without it.
    unsafe {
        core::arch::asm!("prefetchw [{0}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_every_length_and_not_one_byte_more() {
        let src: Vec<u8> = (0..600).map(|i| (i * 7 + 1) as u8).collect();
        for len in 0..=500 {
            for shift in [0usize, 1, 13] {
                let mut dst = vec![0xEE_u8; 600];
                // SAFETY: both vectors hold 600 bytes and shift + len <= 513.
                unsafe { copy(src.as_ptr().add(shift), dst.as_mut_ptr(), len) };
                assert_eq!(&dst[..len], &src[shift..shift + len], "length {len}");
                assert!(dst[len..].iter().all(|&b| b == 0xEE), "wrote past {len}");
                let mut dst = vec![0xEE_u8; 600];
                let nowhere = (std::ptr::null(), std::ptr::null());
                // SAFETY: as above.
                unsafe { copy_ahead(src.as_ptr().add(shift), dst.as_mut_ptr(), len, nowhere) };
                assert_eq!(&dst[..len], &src[shift..shift + len], "length {len}, with hints");
                assert!(dst[len..].iter().all(|&b| b == 0xEE), "wrote past {len}, with hints");
            }
        }
    }
}
