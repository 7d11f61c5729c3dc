//! Memory a model shares with the programs that drive it: portal windows, and what they map for DMA.
//!
//! All access is by copy, volatile, and checked against the bounds: the other side may write at any time.

use memmap2::MmapRaw;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Memory of one window of a portal: a sealed-size memory file that another process, or another view, can map too.
#[derive(Debug)]
pub struct Region {
    file: File,
    map: MmapRaw,
}

impl Region {
    /// Makes a zeroed region of `len` bytes.
    ///
    /// # Errors
    /// When the system has no memory files or no memory.
    pub fn new(len: usize) -> io::Result<Self> {
        let file = File::from(memfd_create(c"dpaa2-portal", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, len as u64)?;
        let map = MmapRaw::map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// The memory file, for another mapping of it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it holds nothing; a region of a portal never is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Start of the model's own view, valid for [`Region::len`] bytes while the region lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Copies out `into.len()` bytes from `offset`; false when they aren't all inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let inside = offset.checked_add(into.len()).is_some_and(|end| end <= self.len());
        if inside {
            // SAFETY: source range is inside the mapping by the check; the destination is ours.
            unsafe { copy_volatile(self.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
        }
        inside
    }

    /// Copies `bytes` to `offset`; false when they wouldn't all be inside.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len());
        if inside {
            // SAFETY: destination range is inside the mapping by the check; the source is ours.
            unsafe { copy_volatile(bytes.as_ptr(), self.as_ptr().add(offset), bytes.len()) };
        }
        inside
    }

    /// Reads the 32-bit register at `offset`, 0 outside.
    pub fn u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Sets the 32-bit register at `offset`.
    pub fn set_u32(&self, offset: usize, value: u32) {
        let inside = self.write(offset, &value.to_le_bytes());
        debug_assert!(inside, "register {offset:#x} is inside its window");
    }

    /// Writes a line so that its byte `last` appears after all others: the byte its reader polls.
    pub fn publish(&self, offset: usize, line: &[u8], last: usize) {
        let mut first = line.to_vec();
        let mut old = [0];
        self.read(offset + last, &mut old);
        first[last] = old[0];
        if self.write(offset, &first) {
            // SAFETY: inside by the write before; bytes are always aligned.
            unsafe { AtomicU8::from_ptr(self.as_ptr().add(offset + last)) }
                .store(line[last], Ordering::Release);
        }
    }
}

/// Copies in the largest aligned units, each volatile.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they don't overlap.
unsafe fn copy_volatile(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0;
    while done < len {
        // SAFETY: `done < len`, so all three accesses stay inside both ranges; alignment is checked for the wide one.
        unsafe {
            let (source, target) = (from.add(done), to.add(done));
            let aligned = source.addr() | target.addr();
            if len - done >= 8 && aligned.is_multiple_of(8) {
                ptr::write_volatile(target.cast::<u64>(), ptr::read_volatile(source.cast::<u64>()));
                done += 8;
            } else if len - done >= 4 && aligned.is_multiple_of(4) {
                ptr::write_volatile(target.cast::<u32>(), ptr::read_volatile(source.cast::<u32>()));
                done += 4;
            } else {
                ptr::write_volatile(target, ptr::read_volatile(source));
                done += 1;
            }
        }
    }
}

/// Binds an open `/dev/net/tun` to a TAP device, without packet information in front of frames.
pub(crate) fn attach_tap(file: &File, name: &str) -> io::Result<()> {
    const IFF_TAP: libc::c_int = 0x2;
    const IFF_NO_PI: libc::c_int = 0x1000;
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    // SAFETY: a zeroed request is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (IFF_TAP | IFF_NO_PI) as libc::c_short;
    // SAFETY: the request outlives the call, and its name ends with NUL.
    match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An access to an address nobody mapped for DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DMA {access} of {len} bytes at {iova:#x}: not mapped")]
pub struct DmaFault {
    /// First address of the access.
    pub iova: u64,
    /// Its length.
    pub len: usize,
    /// "read" or "write".
    pub access: &'static str,
}

/// What one container's hardware may reach: I/O addresses and where they lie in this process.
#[derive(Debug, Default)]
pub struct DmaSpace {
    ranges: BTreeMap<u64, DmaRange>,
}

#[derive(Debug)]
struct DmaRange {
    len: u64,
    host: *mut u8,
    /// Keeps the mapping behind `host` alive, where this process made it.
    keep: Option<Arc<MmapRaw>>,
}

// SAFETY: the pointers are only used through `read` and `write`, which copy with volatile accesses; whoever mapped
// them promised that they stay valid until unmapped, from any thread.
unsafe impl Send for DmaSpace {}
// SAFETY: as above; a shared space only copies.
unsafe impl Sync for DmaSpace {}

impl DmaSpace {
    /// A space nothing is mapped in.
    pub(crate) const fn nothing() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Maps `len` bytes at `host` to `iova`. A range adjoining its predecessor in both spaces is merged with it.
    /// False when it overlaps a mapping, is empty, or wraps.
    ///
    /// # Safety
    /// `host` must stay readable and writable for `len` bytes until the range is unmapped or the space is dropped,
    /// or `keep` must own the mapping.
    pub unsafe fn map(&mut self, iova: u64, len: u64, host: *mut u8, keep: Option<Arc<MmapRaw>>) -> bool {
        let Some(end) = iova.checked_add(len).filter(|_| len > 0) else { return false };
        if self.ranges.range(..end).next_back().is_some_and(|(start, range)| start + range.len > iova) {
            return false;
        }
        if let Some((start, range)) = self.ranges.range_mut(..iova).next_back() {
            let same_owner = match (&range.keep, &keep) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            if same_owner && start + range.len == iova && range.host.wrapping_add(range.len as usize) == host
            {
                range.len += len;
                return true;
            }
        }
        self.ranges.insert(iova, DmaRange { len, host, keep });
        true
    }

    /// Removes every mapping of `[iova, iova + len)`, splitting ranges that reach beyond it. Returns the bytes removed.
    pub fn unmap(&mut self, iova: u64, len: u64) -> u64 {
        let Some(end) = iova.checked_add(len) else { return 0 };
        let touched: Vec<u64> = self
            .ranges
            .range(..end)
            .filter(|(start, range)| *start + range.len > iova)
            .map(|(start, _)| *start)
            .collect();
        let mut removed = 0;
        for start in touched {
            let Some(range) = self.ranges.remove(&start) else { continue };
            let range_end = start + range.len;
            if start < iova {
                let head = DmaRange { len: iova - start, host: range.host, keep: range.keep.clone() };
                self.ranges.insert(start, head);
            }
            if range_end > end {
                let host = range.host.wrapping_add((end - start) as usize);
                self.ranges.insert(end, DmaRange { len: range_end - end, host, keep: range.keep });
            }
            removed += range_end.min(end) - start.max(iova);
        }
        removed
    }

    /// Removes every mapping.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Bytes that are mapped.
    pub fn mapped(&self) -> u64 {
        self.ranges.values().map(|range| range.len).sum()
    }

    /// Copies `into.len()` bytes from `iova`.
    ///
    /// # Errors
    /// When not all of them are mapped; part of them may have been copied then.
    pub fn read(&self, iova: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let fault = DmaFault { iova, len: into.len(), access: "read" };
        self.pieces(iova, into.len(), fault, |host, at, len| {
            // SAFETY: `pieces` gives ranges that are mapped, which the mapper promised to be readable.
            unsafe { copy_volatile(host, into[at..].as_mut_ptr(), len) };
        })
    }

    /// Copies `bytes` to `iova`.
    ///
    /// # Errors
    /// When not all of the range is mapped; part of it may have been written then.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaFault> {
        let fault = DmaFault { iova, len: bytes.len(), access: "write" };
        self.pieces(iova, bytes.len(), fault, |host, at, len| {
            // SAFETY: `pieces` gives ranges that are mapped, which the mapper promised to be writable.
            unsafe { copy_volatile(bytes[at..].as_ptr(), host, len) };
        })
    }

    /// Writes `line` to `iova` so that its byte `last` appears after all others.
    ///
    /// # Errors
    /// As [`DmaSpace::write`].
    pub fn publish(&self, iova: u64, line: &[u8], last: usize) -> Result<(), DmaFault> {
        self.write(iova, &line[..last])?;
        self.write(iova + last as u64 + 1, &line[last + 1..])?;
        std::sync::atomic::fence(Ordering::Release);
        self.write(iova + last as u64, &line[last..=last])
    }

    fn pieces(
        &self,
        iova: u64,
        len: usize,
        fault: DmaFault,
        mut copy: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < len {
            let at = iova.checked_add(done as u64).ok_or(fault)?;
            let (start, range) = self.ranges.range(..=at).next_back().ok_or(fault)?;
            let inside = at - start;
            let piece = (len - done).min(range.len.saturating_sub(inside) as usize);
            if piece == 0 {
                return Err(fault);
            }
            copy(range.host.wrapping_add(inside as usize), done, piece);
            done += piece;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(backing: &mut [u8], iova: u64) -> DmaSpace {
        let mut space = DmaSpace::default();
        // SAFETY: the tests keep `backing` alive for as long as they use the space.
        assert!(unsafe { space.map(iova, backing.len() as u64, backing.as_mut_ptr(), None) });
        space
    }

    #[test]
    fn what_is_mapped_can_be_reached_and_nothing_else() {
        let mut backing = vec![0; 4096];
        let space = space(&mut backing, 0x10_000);
        assert_eq!(space.write(0x10_010, &[1, 2, 3]), Ok(()));
        let mut out = [0; 3];
        assert_eq!(space.read(0x10_010, &mut out), Ok(()));
        assert_eq!(out, [1, 2, 3]);
        assert!(space.read(0x0f_fff, &mut out).is_err());
        assert!(space.read(0x10_ffe, &mut out).is_err());
        assert!(space.write(u64::MAX - 1, &out).is_err());
    }

    #[test]
    fn adjoining_pages_are_one_range_and_overlaps_are_refused() {
        let mut backing = vec![0; 3 * 4096];
        let mut space = DmaSpace::default();
        for page in 0..3 {
            // SAFETY: `backing` outlives the space.
            assert!(unsafe {
                space.map(page * 4096, 4096, backing.as_mut_ptr().wrapping_add(page as usize * 4096), None)
            });
        }
        assert_eq!((space.ranges.len(), space.mapped()), (1, 3 * 4096));
        // SAFETY: as above.
        assert!(!unsafe { space.map(4096, 4096, backing.as_mut_ptr(), None) });
    }

    #[test]
    fn unmapping_the_middle_leaves_both_ends() {
        let mut backing = vec![0; 3 * 4096];
        let mut space = space(&mut backing, 0);
        assert_eq!(space.unmap(4096, 4096), 4096);
        assert_eq!(space.mapped(), 2 * 4096);
        assert!(space.write(4095, &[1]).is_ok());
        assert!(space.write(4096, &[1]).is_err());
        assert!(space.write(8192, &[7]).is_ok());
        assert_eq!(backing[8192], 7);
    }

    #[test]
    fn a_region_refuses_what_lies_outside() {
        let region = Region::new(4096).unwrap();
        assert!(region.write(4092, &[1, 2, 3, 4]));
        assert!(!region.write(4093, &[1, 2, 3, 4]));
        assert_eq!(region.u32(4092), 0x0403_0201);
        assert_eq!(region.u32(usize::MAX), 0);
    }
}
