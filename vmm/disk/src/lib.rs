//! Disk images: a file or block device, read and written straight from and to guest memory.
//!
//! - [`Disk`] is an image. Its methods return when the work is done.
//! - [`DiskRing`] does the same by io_uring, many operations at a time, and waits for event descriptors besides.
//! - [`Buffer`]s are ranges of guest memory. They are looked up when an operation begins; one that is no memory is
//!   an error of that operation.
//!
//! ```
//! use disk::{Buffer, Disk, Options};
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//!
//! let file = tempfile::NamedTempFile::new()?;
//! file.as_file().set_len(4096)?;
//! let disk = Disk::open(&Options { path: file.path().into(), read_only: false, direct: false })?;
//! let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)])?;
//! memory.write_slice(b"hello", GuestAddress(0x100))?;
//! disk.write(&memory, &[Buffer { address: 0x100, len: 512 }], 1024, false)?;
//! disk.read(&memory, &[Buffer { address: 0x800, len: 512 }], 1024)?;
//! let mut text = [0; 5];
//! memory.read_slice(&mut text, GuestAddress(0x800))?;
//! assert_eq!(&text, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! UNSAFETY: the kernel is given addresses of guest memory. Each is looked up in a memory that is kept as long as the
//! kernel may use it, and no reference to the bytes is ever made: the guest may change them at any time.
#![allow(unsafe_code)]

mod image;
mod ring;
mod vector;

pub use image::{Disk, DiskError, Options};
pub use ring::{Completion, DiskRing, Operation};
pub use vector::Buffer;

/// Bytes of a sector, the unit of virtio's disks whatever the block size.
pub const SECTOR: u64 = 512;
