//! Memory that hardware reaches.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use crate::{Bus, BusError};

/// Zeroed memory of this process, mapped for the hardware of a container. The I/O virtual address of a byte is its
/// address in this process. Unmapped for the hardware, then freed, when dropped.
///
/// Hardware (or the model) may write it at any time, so there are no references into it: users go through pointers,
/// with volatile accesses or copies.
#[derive(Debug)]
pub struct DmaMemory<B: Bus> {
    bus: B,
    start: NonNull<u8>,
    len: usize,
    huge_pages: bool,
}

// SAFETY: the memory belongs to the whole process; the pointer is only handed out.
unsafe impl<B: Bus> Send for DmaMemory<B> {}
// SAFETY: as above; `&self` gives out the pointer and numbers.
unsafe impl<B: Bus> Sync for DmaMemory<B> {}

/// Length and alignment of huge pages that are tried first.
const HUGE_PAGE: usize = 2 << 20;

impl<B: Bus> DmaMemory<B> {
    /// Allocates at least `len` bytes, rounded up to whole pages: huge ones of 2 MiB if `len` fills one and the
    /// system has them, else ordinary ones.
    ///
    /// # Errors
    /// No memory, or the bus can't map it ([`BusError::Dma`]: often the memlock limit).
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn new(bus: &B, len: usize) -> Result<Self, BusError> {
        assert!(len > 0, "no memory asked for");
        let huge = if len >= HUGE_PAGE { allocate(len.next_multiple_of(HUGE_PAGE), true).ok() } else { None };
        let (start, len, huge_pages) = match huge {
            Some((start, len)) => (start, len, true),
            None => {
                let (start, len) = allocate(len.next_multiple_of(bus.dma_page_size()), false)
                    .map_err(|cause| BusError::system(format!("allocating {len} bytes for DMA"), cause))?;
                (start, len, false)
            }
        };
        // SAFETY: the memory is ours, only reachable through pointers, and unmapped for DMA in `drop` before it is freed.
        let mapped = unsafe { bus.map_dma(start, len, start.as_ptr() as u64) };
        if let Err(error) = mapped {
            // SAFETY: the range was just mapped and nobody has seen it.
            unsafe { libc::munmap(start.as_ptr().cast(), len) };
            return Err(error);
        }
        Ok(Self { bus: bus.clone(), start, len, huge_pages })
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// The first byte's I/O virtual address.
    pub fn iova(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Whether it lies in huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.huge_pages
    }
}

impl<B: Bus> Drop for DmaMemory<B> {
    fn drop(&mut self) {
        if self.bus.unmap_dma(self.iova(), self.len).is_err() {
            // Hardware may still reach it: better leaked than given to something else.
            return;
        }
        // SAFETY: the range is ours, hardware no longer reaches it, and pointers into it end with their owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Maps zeroed shared memory. Shared and with a descriptor behind it: a fork must not turn pages that hardware writes into
/// copies, and a model in another process can be given the same pages.
fn allocate(len: usize, huge: bool) -> io::Result<(NonNull<u8>, usize)> {
    let huge = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
    // SAFETY: the name is a string that ends with NUL.
    let fd = unsafe { libc::memfd_create(c"dpaa2-dma".as_ptr(), libc::MFD_CLOEXEC | huge) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(len as u64)?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok((NonNull::new(start.cast()).expect("a mapping isn't at address 0"), len))
}
