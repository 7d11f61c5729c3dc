//! The bitmap of written pages (vhost-user specification, "Migration").

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use crate::mapping::{MapError, Mapping};

/// Bytes that one bit stands for.
const PAGE: u64 = 4096;

/// The log of pages we wrote, in memory shared with the front-end: bit `n` of byte `n / 8` is the 4 KiB page at
/// guest-physical address `n * 4096`.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
}

impl DirtyLog {
    /// Maps the `len` bytes of log in `fd` from `offset` on (SET_LOG_BASE).
    ///
    /// # Errors
    /// The range is senseless or not inside the file, or the system refuses.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DirtyLog, MapError> {
        Ok(DirtyLog { mapping: Mapping::new(fd, offset, len)? })
    }

    /// Orders the writes of a burst before the marks that follow. Without it, the front-end could take a mark away,
    /// copy the page without the bytes, and never see another mark, because ours is skipped when a bit is set.
    #[inline]
    pub fn begin(&self) {
        fence(Ordering::SeqCst);
    }

    /// Marks the pages of `len` bytes at guest-physical address `gpa`, which were written before
    /// [`begin`](Self::begin). What the log has no bit for is left out.
    #[inline]
    pub fn mark(&self, gpa: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = gpa.saturating_add(len - 1) / PAGE;
        let bits = self.mapping.len() as u64 * 8;
        for page in gpa / PAGE..=last.min(bits - 1) {
            let bit = 1 << (page % 8);
            // SAFETY: page / 8 is below the mapping's length, and the mapping lives as long as self. The front-end
            // uses the byte atomically too.
            let byte = unsafe { AtomicU8::from_ptr(self.mapping.start().add((page / 8) as usize).as_ptr()) };
            // Most pages of a burst are marked already; a locked instruction for each would cost more than the rest.
            if byte.load(Ordering::Relaxed) & bit == 0 {
                byte.fetch_or(bit, Ordering::Release);
            }
        }
    }

    /// Whether the front-end took the log's memory away.
    pub fn faulted(&self) -> bool {
        self.mapping.faulted()
    }
}
