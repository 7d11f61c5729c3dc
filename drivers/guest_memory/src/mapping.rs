//! One mapped file range that survives being shortened.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::sigbus::{self, Guard};

/// Longest range that is mapped, in bytes.
const LEN_MAX: u64 = 1 << 44;
/// `f_type` of a huge page file system (linux/magic.h).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Why a range of a file could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Zero length, longer than any guest, or offset and length overflow.
    #[error("a range of {len:#x} bytes at offset {offset:#x} makes no sense")]
    Range {
        /// Offset in the file, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The file is shorter than the range.
    #[error("the range ends at {end:#x}, the file at {size:#x}")]
    FileTooShort {
        /// End of the range in the file.
        end: u64,
        /// Size of the file.
        size: u64,
    },
    /// The descriptor is not a memory file (memfd, tmpfs, hugetlbfs or another regular file).
    #[error("the descriptor is no regular file")]
    NotAFile,
    /// The process has too many mappings of this kind.
    #[error("too many guarded mappings (the limit is {})", sigbus::GUARDED_MAX)]
    TooMany,
    /// A system call failed.
    #[error("{call}: {source}")]
    Os {
        /// Its name.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl MapError {
    fn last(call: &'static str) -> Self {
        MapError::Os { call, source: io::Error::last_os_error() }
    }
}

/// A range of a file, mapped shared, readable and writable, until dropped.
///
/// The pages may be taken away by whoever else holds the file: then the whole range reads as zeros and
/// [`faulted`](Self::faulted) is true; it stays mapped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    mapped: usize,
    start: NonNull<u8>,
    len: usize,
    guard: Option<Guard>,
}

// SAFETY: the mapping is plain memory that stays where it is until drop; all access is by raw pointers whose users
// expect others to write at the same time.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on. The offset need not be a multiple of a page.
    ///
    /// # Errors
    /// The range is senseless or not inside the file, or the system refuses; nothing stays mapped.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Mapping, MapError> {
        let range = MapError::Range { offset, len };
        let Some(end) = offset.checked_add(len) else { return Err(range) };
        if len == 0 || len > LEN_MAX || end > i64::MAX as u64 {
            return Err(range);
        }
        let (size, page) = file_shape(fd)?;
        if size < end {
            return Err(MapError::FileTooShort { end, size });
        }
        // Mappings of huge page files begin and end at huge pages.
        let shift = offset % page;
        let Some(mapped) = (len + shift).checked_next_multiple_of(page) else { return Err(range) };
        let mapped = mapped as usize;
        // SAFETY: a new mapping at an address of the kernel's choice; touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                (offset - shift) as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(MapError::last("mmap"));
        }
        let base = NonNull::new(base.cast::<u8>()).expect("the kernel never maps page zero unasked");
        // SAFETY: shift < page <= mapped.
        let start = unsafe { base.add(shift as usize) };
        let mut mapping = Mapping { base, mapped, start, len: len as usize, guard: None };
        // A guest's memory doesn't belong into our core dump. Only a hint: old kernels may refuse.
        // SAFETY: the range was mapped just now.
        unsafe { libc::madvise(base.as_ptr().cast(), mapped, libc::MADV_DONTDUMP) };
        mapping.guard = Some(Guard::new(base.as_ptr() as usize, mapped).ok_or(MapError::TooMany)?);
        Ok(mapping)
    }

    /// The first byte. Valid as long as the mapping lives.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length of the range in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the pages were taken away and replaced by zeros.
    #[inline]
    pub fn faulted(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::faulted)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Unguarded first: once unmapped, the addresses may belong to somebody else.
        self.guard = None;
        // SAFETY: exactly what `new` mapped; whoever holds a pointer into it holds the mapping too.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

/// Size and page size of a memory file, in bytes.
fn file_shape(fd: BorrowedFd<'_>) -> Result<(u64, u64), MapError> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: fstat and fstatfs fill the structures they are given, for which all zeros is a valid value.
    let (stat, fs) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &mut stat) != 0 {
            return Err(MapError::last("fstat"));
        }
        let mut fs: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(fd, &mut fs) != 0 {
            return Err(MapError::last("fstatfs"));
        }
        (stat, fs)
    };
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(MapError::NotAFile);
    }
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between libcs")]
    let page = if fs.f_type as i64 == HUGETLBFS_MAGIC { (fs.f_bsize as u64).max(page) } else { page };
    Ok((stat.st_size as u64, page))
}
