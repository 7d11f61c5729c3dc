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

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }
}
