//! Memory of our own that others map too.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use crate::mapping::{MapError, Mapping};

/// A memfd, mapped. Its descriptor goes to whoever shall map it too.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    mapping: Mapping,
}

impl SharedMemory {
    /// Makes `len` zero bytes; `name` shows in `/proc/*/maps`.
    ///
    /// # Errors
    /// The system refuses the file or the mapping.
    pub fn new(name: &CStr, len: u64) -> Result<SharedMemory, MapError> {
        let os = |call| MapError::Os { call, source: io::Error::last_os_error() };
        // SAFETY: memfd_create takes a C string and returns a new descriptor that nobody else owns.
        let fd = unsafe {
            let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            if fd < 0 {
                return Err(os("memfd_create"));
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: plain system calls on our own descriptor. Sealing the size keeps peers from raising SIGBUS here.
        unsafe {
            if libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) != 0 {
                return Err(os("ftruncate"));
            }
            if libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) != 0 {
                return Err(os("fcntl(F_ADD_SEALS)"));
            }
        }
        let mapping = Mapping::new(fd.as_fd(), 0, len)?;
        Ok(SharedMemory { fd, mapping })
    }

    /// The file, to be sent to a peer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The first byte, page-aligned. Valid as long as this lives.
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    /// Copies bytes out. Peers may write there meanwhile: what was copied is to be judged, not what lies there.
    ///
    /// # Panics
    /// When the range isn't inside the memory.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        // SAFETY: the range is mapped (checked) and sealed against shrinking; `out` is no part of it, since nobody
        // makes references to shared memory.
        unsafe { self.start().as_ptr().add(offset).copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// When the range isn't inside the memory.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { self.start().as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "{len} bytes at {offset} are not inside {} bytes", self.len());
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_all_who_map_the_file() {
        let memory = SharedMemory::new(c"test-shared", 4096).unwrap();
        memory.write(4090, b"abcdef");
        let mut out = [0; 3];
        memory.read(4093, &mut out);
        assert_eq!(&out, b"def");
        let other = Mapping::new(memory.fd(), 0, 4096).unwrap();
        // SAFETY: the mapping has 4,096 bytes and nobody writes now.
        let byte = unsafe { other.start().as_ptr().add(4090).read_volatile() };
        assert_eq!(byte, b'a');
    }

    #[test]
    #[should_panic(expected = "4 bytes at 4093 are not inside 4096 bytes")]
    fn a_copy_past_the_end_is_refused() {
        SharedMemory::new(c"test-shared", 4096).unwrap().write(4093, &[0; 4]);
    }
}
