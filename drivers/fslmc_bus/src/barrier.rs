//! Ordering between this processor and devices.
//!
//! On aarch64 memory is weakly ordered and devices are observers in the outer shareable domain, so ordinary fences
//! (inner shareable) aren't enough. On x86 loads are ordered among each other and so are stores, and uncached stores
//! don't pass earlier ones: keeping the compiler from moving them is all there is to do.
//!
//! Source: Linux, Documentation/memory-barriers.txt ("dma_wmb", "dma_rmb"), arch/arm64/include/asm/barrier.h.

/// Makes stores before it visible to devices, and loads before it happen, before any store after it: before the store
/// that gives a descriptor, a command or a buffer to hardware, a doorbell included.
///
/// Loads count, because what was read is given back, too: a buffer to its pool, an entry of a ring. A barrier for stores
/// alone (`dmb oshst`, which is what Linux takes there) lets a processor read such memory after hardware has it again.
#[inline(always)]
pub fn before_handover() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no memory and no register.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
}

/// Makes loads after it happen after the loads before it: after reading from memory that hardware has handed something
/// over (a valid bit, a token), before reading what it handed over.
#[inline(always)]
pub fn after_takeover() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no memory and no register.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Acquire);
}
