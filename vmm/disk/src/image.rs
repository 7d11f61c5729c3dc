//! An image, and what is done with it at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock};
use rustix::io::Errno;
use vm_memory::GuestMemoryMmap;

use crate::vector::{Buffer, Vector};
use crate::{Operation, SECTOR};

/// What is to be opened, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A file or block device.
    pub path: PathBuf,
    /// It is never written.
    pub read_only: bool,
    /// Past the host's page cache.
    pub direct: bool,
}

/// Why an image can't be used. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened or asked.
    #[error("disk {path}: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its file system doesn't do direct I/O.
    #[error("disk {0}: its file system can't do direct I/O: leave `direct` out, or move the image")]
    Direct(PathBuf),
    /// It is a directory, a pipe, or the like.
    #[error("disk {0} is neither a file nor a block device")]
    Kind(PathBuf),
    /// It holds no sector.
    #[error("disk {0} is empty: make it as long as the disk is to be (truncate --size=1G)")]
    Empty(PathBuf),
    /// Somebody else writes to it.
    #[error("disk {0} is in use by another machine: give each its own image, or make it read-only for all")]
    InUse(PathBuf),
}

/// An image.
#[derive(Debug)]
pub struct Disk {
    file: File,
    bytes: u64,
    block_bytes: u32,
    read_only: bool,
    direct: bool,
}

/// Block sizes tried for direct I/O.
const BLOCK_SMALL: u32 = 512;
const BLOCK_LARGE: u32 = 4096;

impl Disk {
    /// Opens an image, and locks it against a second machine that would write to it.
    ///
    /// # Errors
    /// Each with what to do about it.
    pub fn open(options: &Options) -> Result<Disk, DiskError> {
        let path = || options.path.clone();
        let failed = |source| DiskError::Open { path: path(), source };
        let mut flags = OpenOptions::new();
        flags.read(true).write(!options.read_only);
        let flag = if options.direct { libc::O_DIRECT } else { 0 };
        let mut file = flags
            .custom_flags(flag | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&options.path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) if options.direct => DiskError::Direct(path()),
                _ => failed(error),
            })?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind(path()));
        }
        let operation = match options.read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&file, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(DiskError::InUse(path())),
            Err(error) => return Err(failed(error.into())),
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)? / SECTOR * SECTOR;
        if bytes == 0 {
            return Err(DiskError::Empty(path()));
        }
        let mut disk = Disk {
            file,
            bytes,
            block_bytes: BLOCK_SMALL,
            read_only: options.read_only,
            direct: options.direct,
        };
        if options.direct && !disk.reads(BLOCK_SMALL) {
            disk.block_bytes = BLOCK_LARGE;
            if !disk.reads(BLOCK_LARGE) {
                return Err(DiskError::Direct(path()));
            }
        }
        Ok(disk)
    }

    /// Whether so many bytes can be read at once: how large the blocks of direct I/O are is not told otherwise.
    fn reads(&self, bytes: u32) -> bool {
        let Ok(vector) = Vector::of_zeros(u64::from(BLOCK_LARGE)) else { return false };
        let mut probe = vector.ranges()[0];
        let mut block = vec![0u8; 2 * BLOCK_LARGE as usize];
        let offset = block.as_ptr().align_offset(BLOCK_LARGE as usize);
        probe.iov_base = block[offset..].as_mut_ptr().cast();
        probe.iov_len = bytes as usize;
        // SAFETY: the range lies inside `block`, which outlives the call, and nobody else has it.
        unsafe { libc::preadv(self.file.as_raw_fd(), &probe, 1, 0) >= 0 }
    }

    /// Bytes of the disk, a multiple of [`SECTOR`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of a block: what can be written by itself.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Whether it is never written.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Memory for a transfer of these buffers.
    pub(crate) fn vector(&self, memory: &GuestMemoryMmap, buffers: &[Buffer]) -> io::Result<Vector> {
        if self.direct {
            Vector::aligned(memory, buffers, self.block_bytes.into())
        } else {
            Vector::of_guest(memory, buffers)
        }
    }

    /// Reads from byte `offset` on into all of `buffers`.
    ///
    /// # Errors
    /// A buffer is no memory, or the file fails or ends; some of the buffers may be filled then.
    pub fn read(&self, memory: &GuestMemoryMmap, buffers: &[Buffer], offset: u64) -> io::Result<()> {
        let mut vector = self.vector(memory, buffers)?;
        let mut at = offset;
        while !vector.is_done() {
            let ranges = vector.ranges();
            // SAFETY: the ranges are guest memory, which `memory` keeps mapped meanwhile, or a copy that `vector`
            // holds. The kernel writes plain bytes.
            let count = unsafe {
                libc::preadv(self.file.as_raw_fd(), ranges.as_ptr(), ranges.len() as i32, at as libc::off_t)
            };
            at += progress(count, &mut vector)?;
        }
        vector.copy_out(memory, buffers)
    }

    /// Writes all of `buffers` from byte `offset` on; with `through`, to the medium.
    ///
    /// # Errors
    /// A buffer is no memory, or the file fails; some may be written then.
    pub fn write(
        &self,
        memory: &GuestMemoryMmap,
        buffers: &[Buffer],
        offset: u64,
        through: bool,
    ) -> io::Result<()> {
        let mut vector = self.vector(memory, buffers)?;
        vector.copy_in(memory, buffers)?;
        self.write_vector(vector, offset, through)
    }

    fn write_vector(&self, mut vector: Vector, offset: u64, through: bool) -> io::Result<()> {
        let mut at = offset;
        while !vector.is_done() {
            let ranges = vector.ranges();
            // SAFETY: as in `read`; the kernel only reads the bytes.
            let count = unsafe {
                libc::pwritev2(
                    self.file.as_raw_fd(),
                    ranges.as_ptr(),
                    ranges.len() as i32,
                    at as libc::off_t,
                    if through { libc::RWF_DSYNC } else { 0 },
                )
            };
            at += progress(count, &mut vector)?;
        }
        Ok(())
    }

    /// Brings everything that was written to the medium.
    ///
    /// # Errors
    /// The file fails.
    pub fn flush(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    /// Gives the space of a range back where the file system can; what is read there afterwards is undefined.
    ///
    /// # Errors
    /// The file fails.
    pub fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        discarded(self.allocate(Operation::Discard.mode(), offset, bytes))
    }

    /// Makes a range zero, and with `unmap` gives its space back.
    ///
    /// # Errors
    /// The file fails.
    pub fn write_zeroes(&self, offset: u64, bytes: u64, unmap: bool) -> io::Result<()> {
        match self.allocate(Operation::WriteZeroes { unmap }.mode(), offset, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.write_vector(Vector::of_zeros(bytes)?, offset, false)
            }
            done => done,
        }
    }

    fn allocate(&self, mode: i32, offset: u64, bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        Ok(fallocate(&self.file, flags, offset, bytes)?)
    }
}

/// A file system that can't discard has discarded: nothing was promised.
pub(crate) fn discarded(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::Unsupported { Ok(()) } else { Err(error) })
}

fn progress(count: isize, vector: &mut Vector) -> io::Result<u64> {
    match usize::try_from(count) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            vector.advance(count);
            Ok(count as u64)
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    pub fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    /// An image of 1 MiB.
    pub fn image(direct: bool) -> (tempfile::NamedTempFile, Result<Disk, DiskError>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = Disk::open(&Options { path: file.path().into(), read_only: false, direct });
        (file, disk)
    }

    #[test]
    fn what_was_written_is_read_and_lies_where_it_was_written() {
        let (file, disk) = image(false);
        let (disk, memory) = (disk.unwrap(), memory());
        memory.write_slice(&[1; 512], GuestAddress(0)).unwrap();
        memory.write_slice(&[2; 512], GuestAddress(0x2000)).unwrap();
        let buffers = [Buffer { address: 0, len: 512 }, Buffer { address: 0x2000, len: 512 }];
        disk.write(&memory, &buffers, 4096, true).unwrap();
        disk.flush().unwrap();
        let on_disk = std::fs::read(file.path()).unwrap();
        assert_eq!((on_disk[4096], on_disk[4608], on_disk[5120]), (1, 2, 0));
        disk.read(&memory, &[Buffer { address: 0x5000, len: 1024 }], 4096).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x5200)).unwrap(), 2);
    }

    #[test]
    fn direct_io_takes_buffers_however_they_lie() {
        let (_file, disk) = image(true);
        let disk = match disk {
            Ok(disk) => disk,
            // The file system has no direct I/O, and says so in words.
            Err(error) => return assert!(matches!(error, DiskError::Direct(_)), "{error}"),
        };
        let (memory, block) = (memory(), disk.block_bytes());
        memory.write_slice(&vec![9; block as usize], GuestAddress(0x101)).unwrap();
        disk.write(&memory, &[Buffer { address: 0x101, len: block }], 0, false).unwrap();
        disk.read(&memory, &[Buffer { address: 0x8000, len: block }], 0).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x8000 + u64::from(block) - 1)).unwrap(), 9);
    }

    #[test]
    fn zeroed_and_discarded_ranges_leave_their_neighbours_alone() {
        let (file, disk) = image(false);
        let disk = disk.unwrap();
        for unmap in [false, true] {
            std::fs::write(file.path(), vec![5; 1 << 20]).unwrap();
            disk.write_zeroes(4096, 8192, unmap).unwrap();
            let bytes = std::fs::read(file.path()).unwrap();
            assert_eq!(bytes.iter().position(|&byte| byte == 0), Some(4096));
            assert_eq!(bytes.iter().filter(|&&byte| byte == 0).count(), 8192);
        }
        disk.discard(0, 4096).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap().len(), 1 << 20);
    }

    #[test]
    fn mistakes_are_told_by_what_to_do_about_them() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            |path: PathBuf| Disk::open(&Options { path, read_only: false, direct: false }).unwrap_err();
        assert!(matches!(open(dir.path().join("missing")), DiskError::Open { .. }));
        assert!(matches!(open(dir.path().into()), DiskError::Open { .. } | DiskError::Kind(_)));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(matches!(open(empty), DiskError::Empty(_)));
    }

    #[test]
    fn an_image_is_written_by_one_and_read_by_many() {
        let (file, first) = image(false);
        let open = |read_only| Disk::open(&Options { path: file.path().into(), read_only, direct: false });
        assert!(matches!(open(false), Err(DiskError::InUse(_))));
        assert!(matches!(open(true), Err(DiskError::InUse(_))));
        drop(first);
        let (_a, _b) = (open(true).unwrap(), open(true).unwrap());
    }

    #[test]
    fn an_image_that_was_cut_is_an_error_of_the_read() {
        let (file, disk) = image(false);
        file.as_file().set_len(0).unwrap();
        let error = disk.unwrap().read(&memory(), &[Buffer { address: 0, len: 512 }], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
