//! A burst whose frames lie in buffers of its own.

use std::io;

use crate::{Burst, HugePages, Offload, Pool};

/// A burst of frames made in software (segments, completed frames), with the pool they are made in.
pub struct OwnedBurst {
    pool: Pool,
    burst: Burst,
    taken: Vec<u32>,
}

impl OwnedBurst {
    /// Maps `buffers` buffers of `buffer_bytes`.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(buffers: u32, buffer_bytes: usize, huge_pages: HugePages) -> io::Result<OwnedBurst> {
        let pool = Pool::new(buffers, buffer_bytes, huge_pages)?;
        Ok(OwnedBurst { pool, burst: Burst::new(), taken: Vec::with_capacity(crate::BURST_MAX) })
    }

    /// Whether its memory is made of huge pages.
    pub fn is_huge(&self) -> bool {
        self.pool.is_huge()
    }

    /// Buffers that no frame is in.
    pub fn free(&self) -> usize {
        self.pool.free()
    }

    /// Whether another frame fits.
    pub fn has_room(&self) -> bool {
        self.burst.room() > 0 && self.pool.free() > 0
    }

    /// Appends a frame: `write` fills a buffer and returns how many bytes of it are the frame.
    ///
    /// # Panics
    /// Without [room](Self::has_room), or when `write` returns more than there is.
    pub fn push(&mut self, offload: Offload, write: impl FnOnce(&mut [u8]) -> usize) {
        assert!(self.has_room(), "push into a full burst");
        let buffer = self.pool.take().expect("has_room says one is free");
        self.taken.push(buffer);
        let bytes = self.pool.bytes_mut(buffer);
        let len = write(bytes);
        assert!(len <= bytes.len(), "a frame of {len} bytes in a buffer of {}", bytes.len());
        let start = bytes.as_ptr();
        // SAFETY: the buffer stays taken until `clear`, which also forgets the frame; only `push` and the pool's
        // owner (this struct) write to buffers, and to taken ones no more.
        unsafe { self.burst.push(start, len as u32, offload, 0) };
    }

    /// The frames.
    pub fn burst(&mut self) -> &mut Burst {
        &mut self.burst
    }

    /// Appends the frames to another burst: what a receive queue does that makes its frames itself.
    ///
    /// # Panics
    /// When `other` has no room for them.
    ///
    /// # Safety
    /// `other` must be cleared before this burst is cleared or dropped.
    pub unsafe fn lend(&mut self, other: &mut Burst) {
        self.burst.append_to(other);
    }

    /// Forgets the frames and frees their buffers.
    pub fn clear(&mut self) {
        self.burst.clear();
        for buffer in self.taken.drain(..) {
            self.pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stay_until_cleared_and_their_buffers_are_used_again() {
        let mut made = OwnedBurst::new(2, 100, HugePages::Off).unwrap();
        for round in 0..3u8 {
            for n in 0..2u8 {
                made.push(Offload::default(), |bytes| {
                    bytes[..20].fill(round * 10 + n);
                    20
                });
            }
            assert!(!made.has_room());
            for n in 0..2u8 {
                let mut frame = [0; 20];
                made.burst().read(n as usize, 0, &mut frame);
                assert_eq!(frame, [round * 10 + n; 20]);
            }
            made.clear();
        }
    }
}
