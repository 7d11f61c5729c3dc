//! A guest's memory table.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::mapping::{MapError, Mapping};
use crate::sigbus;

/// Most regions of a table (the vhost-user specification's slots; what QEMU can hot-plug).
pub const REGIONS_MAX: usize = 509;

/// Why a memory table was refused.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// More than [`REGIONS_MAX`] regions.
    #[error("{0} memory regions are more than {REGIONS_MAX}")]
    TooMany(usize),
    /// Address and length don't fit into 64 bits, or the length is zero.
    #[error(
        "memory region at {gpa:#x} with {len:#x} bytes, in the front-end at {user_va:#x}, makes no sense"
    )]
    Range {
        /// Guest-physical address.
        gpa: u64,
        /// Address in the front-end.
        user_va: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Two regions share addresses.
    #[error("memory regions at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// No region has exactly this place (when one is to be removed).
    #[error("there is no memory region at {gpa:#x} with {len:#x} bytes")]
    NoSuchRegion {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The region's file can't be mapped.
    #[error("memory region at {gpa:#x}: {source}")]
    Map {
        /// Guest-physical address.
        gpa: u64,
        /// Why.
        source: MapError,
    },
}

/// A region as the front-end describes it.
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec<'fd> {
    /// Guest-physical address of its first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where the front-end has it mapped: the address space of ring addresses.
    pub user_va: u64,
    /// The memory file.
    pub fd: BorrowedFd<'fd>,
    /// Where the region begins in the file.
    pub offset: u64,
}

/// A region, ready for translation. Plain data: the map beside it keeps the memory.
#[derive(Clone, Copy, Debug)]
struct Place {
    gpa: u64,
    len: u64,
    user_va: u64,
    host: NonNull<u8>,
}

impl Place {
    /// Offset of `addr` when `len` bytes from there are inside. `base` is the region's start in that address space.
    #[inline(always)]
    fn offset(&self, base: u64, addr: u64, len: u64) -> Option<usize> {
        let offset = addr.wrapping_sub(base);
        // `len <= self.len - offset` can't underflow after the first test, and sums of guest values never appear.
        (offset < self.len && len <= self.len - offset).then_some(offset as usize)
    }

    #[inline(always)]
    fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: `offset` came from `offset()`, so it is below the mapping's length.
        unsafe { self.host.add(offset) }
    }
}

/// A guest's memory: immutable, shared as an `Arc`. Changing it makes another one ([`add`](Self::add),
/// [`remove`](Self::remove)) that shares the mappings which stay.
#[derive(Debug, Default)]
pub struct MemMap {
    places: Vec<Place>,
    mappings: Vec<Arc<Mapping>>,
}

// SAFETY: `Place` holds pointers into the mappings beside it, which are Send and Sync and outlive it.
unsafe impl Send for MemMap {}
// SAFETY: as above; nothing changes after construction.
unsafe impl Sync for MemMap {}

impl MemMap {
    /// Maps all regions of a table.
    ///
    /// # Errors
    /// Any region is senseless, overlaps another or can't be mapped; then nothing stays mapped.
    pub fn new(regions: &[RegionSpec<'_>]) -> Result<MemMap, TableError> {
        if regions.len() > REGIONS_MAX {
            return Err(TableError::TooMany(regions.len()));
        }
        let mut map = MemMap::default();
        for region in regions {
            map.insert(region)?;
        }
        Ok(map)
    }

    /// This table and one region more.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn add(&self, region: &RegionSpec<'_>) -> Result<MemMap, TableError> {
        if self.places.len() == REGIONS_MAX {
            return Err(TableError::TooMany(REGIONS_MAX + 1));
        }
        let mut map = MemMap { places: self.places.clone(), mappings: self.mappings.clone() };
        map.insert(region)?;
        Ok(map)
    }

    /// This table without the region at these addresses.
    ///
    /// # Errors
    /// There is no region with exactly this place.
    pub fn remove(&self, gpa: u64, user_va: u64, len: u64) -> Result<MemMap, TableError> {
        let at = self
            .places
            .iter()
            .position(|p| p.gpa == gpa && p.user_va == user_va && p.len == len)
            .ok_or(TableError::NoSuchRegion { gpa, len })?;
        let mut map = MemMap { places: self.places.clone(), mappings: self.mappings.clone() };
        map.places.remove(at);
        map.mappings.remove(at);
        Ok(map)
    }

    fn insert(&mut self, region: &RegionSpec<'_>) -> Result<(), TableError> {
        let &RegionSpec { gpa, len, user_va, fd, offset } = region;
        if len == 0 || gpa.checked_add(len).is_none() || user_va.checked_add(len).is_none() {
            return Err(TableError::Range { gpa, user_va, len });
        }
        let overlap = |a: u64, a_len: u64, b: u64, b_len: u64| a < b + b_len && b < a + a_len;
        for p in &self.places {
            if overlap(gpa, len, p.gpa, p.len) || overlap(user_va, len, p.user_va, p.len) {
                return Err(TableError::Overlap(p.gpa, gpa));
            }
        }
        let mapping = Mapping::new(fd, offset, len).map_err(|source| TableError::Map { gpa, source })?;
        self.places.push(Place { gpa, len, user_va, host: mapping.start() });
        self.mappings.push(Arc::new(mapping));
        Ok(())
    }

    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.places.len()
    }

    /// Bytes of all regions.
    pub fn bytes(&self) -> u64 {
        self.places.iter().map(|p| p.len).sum()
    }

    /// Where `len` bytes from guest-physical address `gpa` are, when all of them are in one region. The pointer is
    /// valid for those bytes as long as the map lives; others may write there.
    pub fn translate_gpa(&self, gpa: u64, len: u64) -> Option<NonNull<u8>> {
        self.places.iter().find_map(|p| p.offset(p.gpa, gpa, len).map(|o| p.at(o)))
    }

    /// Where `len` bytes from the front-end's address `va` are; otherwise as [`translate_gpa`](Self::translate_gpa).
    pub fn translate_user(&self, va: u64, len: u64) -> Option<NonNull<u8>> {
        self.places.iter().find_map(|p| p.offset(p.user_va, va, len).map(|o| p.at(o)))
    }

    /// The guest-physical address of `len` bytes from the front-end's address `va`.
    pub fn user_to_gpa(&self, va: u64, len: u64) -> Option<u64> {
        self.places.iter().find_map(|p| p.offset(p.user_va, va, len).map(|o| p.gpa + o as u64))
    }

    /// As [`translate_gpa`](Self::translate_gpa) for a range that may go on in a neighbouring region: the first
    /// byte's place and how many bytes of the range follow it there (at least one).
    pub fn translate_gpa_part(&self, gpa: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        self.places.iter().find_map(|p| {
            let offset = p.offset(p.gpa, gpa, 1)?;
            Some((p.at(offset), len.min(p.len - offset as u64)))
        })
    }

    /// Whether the memory was taken away (the file shortened) and zeros stand in its place. One load in a
    /// process where nothing of the kind happened.
    #[inline(always)]
    pub fn faulted(&self) -> bool {
        sigbus::any_faulted() && self.any_mapping_faulted()
    }

    #[cold]
    fn any_mapping_faulted(&self) -> bool {
        self.mappings.iter().any(|m| m.faulted())
    }
}

/// The region of a [`MemMap`] that was hit last: a copy of its place, so that a hit needs no walk. Each queue keeps
/// its own, beside the map.
#[derive(Clone, Copy, Debug)]
pub struct RegionCache {
    place: Place,
}

// SAFETY: only a pointer kept for comparison's sake; following what `translate_gpa` returns is the caller's promise.
unsafe impl Send for RegionCache {}

impl Default for RegionCache {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl RegionCache {
    /// Holds no region: never hits.
    pub const EMPTY: RegionCache =
        RegionCache { place: Place { gpa: 0, len: 0, user_va: 0, host: NonNull::dangling() } };

    /// [`MemMap::translate_gpa`] with this as a shortcut. `map` must be the one that the cache was used with before;
    /// start from [`EMPTY`](Self::EMPTY) with another one.
    #[inline(always)]
    pub fn translate_gpa(&mut self, map: &MemMap, gpa: u64, len: u64) -> Option<NonNull<u8>> {
        match self.place.offset(self.place.gpa, gpa, len) {
            Some(offset) => Some(self.place.at(offset)),
            None => self.miss(map, gpa, len),
        }
    }

    #[cold]
    #[inline(never)]
    fn miss(&mut self, map: &MemMap, gpa: u64, len: u64) -> Option<NonNull<u8>> {
        let place = map.places.iter().find(|p| p.offset(p.gpa, gpa, len).is_some())?;
        self.place = *place;
        place.offset(place.gpa, gpa, len).map(|o| place.at(o))
    }
}

#[cfg(test)]
mod tests;
