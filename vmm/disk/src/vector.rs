//! Ranges of guest memory as the kernel takes them.

use std::io;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// Most ranges of one operation (Linux, `UIO_MAXIOV`).
const RANGES_MAX: usize = 1024;
/// Most bytes of an operation that has to be copied because the guest's buffers are not aligned.
const COPIED_MAX: u64 = 16 << 20;

/// Memory from which, or to which, an operation is done: the guest's, or a copy that is aligned as direct I/O needs it.
pub(crate) struct Vector {
    ranges: Vec<libc::iovec>,
    /// Index of the first range that isn't done.
    first: usize,
    bytes_left: u64,
    copy: Option<Vec<Page>>,
}

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// What zeros are written from.
static ZEROS: Page = Page([0; 4096]);

pub(crate) fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl Vector {
    /// The buffers themselves. The pointers in it are good as long as `memory`'s regions are mapped.
    pub fn of_guest(memory: &GuestMemoryMmap, buffers: &[Buffer]) -> io::Result<Vector> {
        let mut ranges = Vec::with_capacity(buffers.len());
        for buffer in buffers.iter().filter(|buffer| buffer.len > 0) {
            for slice in memory.get_slices(GuestAddress(buffer.address), buffer.len as usize) {
                let slice = slice.map_err(|_| invalid("a buffer is no memory"))?;
                let base = slice.ptr_guard_mut().as_ptr().cast();
                ranges.push(libc::iovec { iov_base: base, iov_len: slice.len() });
            }
        }
        if ranges.len() > RANGES_MAX {
            return Err(invalid("too many buffers"));
        }
        Ok(Vector { ranges, first: 0, bytes_left: total(buffers), copy: None })
    }

    /// As [`of_guest`](Self::of_guest), or a copy to be filled where a buffer isn't aligned to `alignment`.
    pub fn aligned(memory: &GuestMemoryMmap, buffers: &[Buffer], alignment: u64) -> io::Result<Vector> {
        let is_aligned = |buffer: &Buffer| (buffer.address | u64::from(buffer.len)).is_multiple_of(alignment);
        if buffers.iter().all(is_aligned) {
            return Self::of_guest(memory, buffers);
        }
        let bytes = total(buffers);
        if bytes > COPIED_MAX {
            return Err(invalid("too much to be copied"));
        }
        let mut pages = vec![ZEROS.clone(); (bytes as usize).div_ceil(size_of::<Page>())];
        let ranges = vec![libc::iovec { iov_base: pages.as_mut_ptr().cast(), iov_len: bytes as usize }];
        Ok(Vector { ranges, first: 0, bytes_left: bytes, copy: Some(pages) })
    }

    /// So many zeros, to be written.
    pub fn of_zeros(bytes: u64) -> io::Result<Vector> {
        let zeros = std::ptr::from_ref(&ZEROS).cast_mut().cast();
        let full = bytes / size_of::<Page>() as u64;
        if full >= 64 * RANGES_MAX as u64 {
            return Err(invalid("too many zeros"));
        }
        let range = |len| libc::iovec { iov_base: zeros, iov_len: len };
        let mut ranges = vec![range(size_of::<Page>()); full as usize];
        ranges.push(range((bytes % size_of::<Page>() as u64) as usize));
        Ok(Vector { ranges, first: 0, bytes_left: bytes, copy: None })
    }

    /// Fills the copy, if there is one, from the guest's buffers.
    pub fn copy_in(&mut self, memory: &GuestMemoryMmap, buffers: &[Buffer]) -> io::Result<()> {
        self.each_piece(buffers, |at, bytes| memory.read_slice(bytes, GuestAddress(at)))
    }

    /// Fills the guest's buffers from the copy, if there is one.
    pub fn copy_out(&mut self, memory: &GuestMemoryMmap, buffers: &[Buffer]) -> io::Result<()> {
        self.each_piece(buffers, |at, bytes| memory.write_slice(bytes, GuestAddress(at)))
    }

    fn each_piece<E>(
        &mut self,
        buffers: &[Buffer],
        mut act: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> io::Result<()> {
        let Some(pages) = &mut self.copy else { return Ok(()) };
        let mut place = 0;
        for buffer in buffers {
            let (mut at, mut left) = (buffer.address, buffer.len as usize);
            while left > 0 {
                let (page, offset) = (place / size_of::<Page>(), place % size_of::<Page>());
                let count = left.min(size_of::<Page>() - offset);
                let piece = &mut pages[page].0[offset..offset + count];
                act(at, piece).map_err(|_| invalid("a buffer is no memory"))?;
                (at, left, place) = (at.wrapping_add(count as u64), left - count, place + count);
            }
        }
        Ok(())
    }

    /// The ranges not done yet, as many as one call takes.
    pub fn ranges(&self) -> &[libc::iovec] {
        let left = &self.ranges[self.first..];
        &left[..left.len().min(RANGES_MAX)]
    }

    pub fn is_done(&self) -> bool {
        self.bytes_left == 0
    }

    /// Takes away the first `bytes`.
    pub fn advance(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes as u64);
        let mut left = bytes;
        while let Some(range) = self.ranges.get_mut(self.first) {
            if left < range.iov_len {
                range.iov_base = range.iov_base.wrapping_byte_add(left);
                range.iov_len -= left;
                return;
            }
            left -= range.iov_len;
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        // Two regions that touch.
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)]).unwrap()
    }

    #[test]
    fn a_buffer_over_two_regions_is_two_ranges_and_one_beyond_memory_is_refused() {
        let vector = Vector::of_guest(&memory(), &[Buffer { address: 0x3000, len: 0x2000 }]).unwrap();
        assert_eq!(vector.ranges().iter().map(|range| range.iov_len).collect::<Vec<_>>(), [0x1000, 0x1000]);
        for bad in [0x7001, 0x10_0000, u64::MAX - 10] {
            assert!(Vector::of_guest(&memory(), &[Buffer { address: bad, len: 0x1000 }]).is_err());
        }
    }

    #[test]
    fn what_was_done_is_taken_away_across_ranges() {
        let mut vector = Vector::of_zeros(4096 + 512).unwrap();
        vector.advance(4000);
        assert_eq!(vector.ranges().iter().map(|range| range.iov_len).collect::<Vec<_>>(), [96, 512]);
        vector.advance(96 + 512);
        assert!(vector.is_done());
    }

    #[test]
    fn buffers_that_are_not_aligned_are_copied_both_ways() {
        let memory = memory();
        memory.write_slice(&[7; 1024], GuestAddress(0x11)).unwrap();
        let buffers = [Buffer { address: 0x11, len: 512 }, Buffer { address: 0x211, len: 512 }];
        let mut vector = Vector::aligned(&memory, &buffers, 512).unwrap();
        vector.copy_in(&memory, &buffers).unwrap();
        let to = [Buffer { address: 0x2001, len: 1024 }];
        vector.copy_out(&memory, &to).unwrap();
        let mut back = [0; 1024];
        memory.read_slice(&mut back, GuestAddress(0x2001)).unwrap();
        assert_eq!(back, [7; 1024]);
    }

    #[test]
    fn a_guest_can_not_make_us_copy_without_bound() {
        let buffers = [Buffer { address: 1, len: u32::MAX }; 4];
        assert!(Vector::aligned(&memory(), &buffers, 512).is_err());
        assert!(Vector::of_zeros(u64::MAX).is_err());
    }
}
