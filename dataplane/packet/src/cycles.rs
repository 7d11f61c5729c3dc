//! The cycle counter: what workers measure themselves with.

use std::time::{Duration, Instant};

/// Reads the counter: TSC on x86-64, the virtual count on aarch64. Some 10 ns; once a burst, not once a frame.
#[inline(always)]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC is available on every x86-64 and has no precondition.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let count: u64;
        // SAFETY: reading CNTVCT_EL0 is allowed to user space by Linux and has no side effect.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
        count
    }
}

/// Counter ticks per second, measured against the monotonic clock for 20 ms.
pub fn frequency() -> u64 {
    let (t0, c0) = (Instant::now(), now());
    std::thread::sleep(Duration::from_millis(20));
    let (t1, c1) = (Instant::now(), now());
    let ticks = u128::from(c1.wrapping_sub(c0)) * 1_000_000_000 / (t1 - t0).as_nanos().max(1);
    u64::try_from(ticks).unwrap_or(1_000_000_000).max(1)
}
