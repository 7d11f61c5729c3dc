//! Guest memory: sealed memory files, mapped, each with its place in the guest.

use std::ffi::CStr;
use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

use crate::layout;

/// What the pages of guest memory are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Small pages, taken when they are first touched.
    #[default]
    Small,
    /// Pages of 2 MiB of the kernel's pool.
    Huge,
}

/// Why memory couldn't be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The system refuses.
    #[error("{bytes} bytes of guest memory: {call}: {source}")]
    System {
        /// How many bytes were asked for.
        bytes: u64,
        /// The call that failed.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The range is taken or senseless.
    #[error("guest memory at {address:#x} with {bytes:#x} bytes doesn't fit")]
    Place {
        /// Where it was to be.
        address: u64,
        /// How long.
        bytes: u64,
    },
}

/// Makes a guest's memory of `bytes`, a multiple of 2 MiB, in as many regions as the machine's map needs.
///
/// # Errors
/// There isn't so much.
pub fn create(bytes: u64, pages: Pages) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::new();
    for (address, bytes) in layout::ram(bytes) {
        regions.push(region(c"ringway-vm", address, bytes, pages)?);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::Place { address: 0, bytes })
}

/// `memory` and a region more, behind all others.
///
/// # Errors
/// There isn't so much.
pub fn grow(memory: &GuestMemoryMmap, bytes: u64, pages: Pages) -> Result<GuestMemoryMmap, MemoryError> {
    let address = layout::hot_memory_start(memory.last_addr().0 + 1);
    let new = region(c"ringway-vm-hot", address, bytes, pages)?;
    memory.insert_region(new.into()).map_err(|_| MemoryError::Place { address, bytes })
}

/// All bytes of the memory.
pub fn bytes(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().map(GuestMemoryRegion::len).sum()
}

fn region(name: &CStr, address: u64, bytes: u64, pages: Pages) -> Result<GuestRegionMmap, MemoryError> {
    let system = |call| move |e: rustix::io::Errno| MemoryError::System { bytes, call, source: e.into() };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let flags = match pages {
        Pages::Small => flags,
        Pages::Huge => flags | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
    };
    let fd = memfd_create(name, flags).map_err(system("memfd_create"))?;
    ftruncate(&fd, bytes).map_err(system("ftruncate"))?;
    // Whoever gets the file can't shorten it under our feet.
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).map_err(system("fcntl(F_ADD_SEALS)"))?;
    let file = FileOffset::new(File::from(fd), 0);
    let place = || MemoryError::Place { address, bytes };
    let length = usize::try_from(bytes).map_err(|_| place())?;
    GuestRegionMmap::from_range(GuestAddress(address), length, Some(file)).map_err(|_| MemoryError::System {
        bytes,
        call: "mmap",
        source: io::Error::last_os_error(),
    })
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn memory_has_the_bytes_asked_for_and_each_region_a_file() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        assert_eq!(bytes(&memory), 4 << 20);
        assert!(memory.iter().all(|region| region.file_offset().is_some()));
    }

    #[test]
    fn added_memory_lies_behind_and_leaves_the_rest_alone() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        let at = GuestAddress(layout::MAILBOX);
        memory.write_obj(7u32, at).unwrap();
        let grown = grow(&memory, 2 << 20, Pages::Small).unwrap();
        assert_eq!(bytes(&grown), 6 << 20);
        assert_eq!(grown.read_obj::<u32>(at).unwrap(), 7);
        assert!(grown.last_addr() > memory.last_addr());
    }

    #[test]
    fn memory_beyond_the_gap_goes_on_above_4_gib() {
        let regions = layout::ram(5 << 30);
        assert_eq!(regions.iter().map(|(_, bytes)| bytes).sum::<u64>(), 5 << 30);
        assert!(regions.len() == 1 || regions[1].0 == 4 << 30);
    }
}
