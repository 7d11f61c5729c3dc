//! The buffers of a pool: memory that hardware fills and empties, and who says which address is one.

use std::ptr::NonNull;
use std::sync::Arc;

use dpaa2_defs::fd::{Fd, Format, SgEntry, SgFormat};
use fslmc_bus::{Bus, BusError, DmaMemory};
use packet::Segment;
use zerocopy::FromBytes;

/// Where data starts in a buffer, unless a frame's headers grew or shrank: 64 bytes of annotation and 64 for
/// headers to grow (a burst's headroom).
pub(crate) const DATA_OFFSET: u16 = 128;
/// Buffers start at multiples of this: what data alignment wants on the oldest WRIOP.
pub(crate) const BUFFER_ALIGN: usize = 256;
/// Most segments of a frame: 10,240 bytes in the smallest buffers.
pub(crate) const SEGMENTS_MAX: usize = 32;

/// The memory of one pool's buffers.
pub(crate) struct Buffers<B: Bus> {
    memory: DmaMemory<B>,
    bpid: u16,
    buffer_bytes: u32,
    count: u32,
}

/// A frame descriptor that can't be: it names memory that isn't a buffer of the pool, or more than one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadFd {
    /// What it says about the data is wrong; its buffer is known and can be given back.
    Content,
    /// Its buffer, or that of an entry, is unknown.
    Buffer,
}

/// Where the data of a frame lies.
pub(crate) struct Pieces {
    pub segments: [Segment; SEGMENTS_MAX],
    pub count: usize,
}

impl<B: Bus> Buffers<B> {
    /// Maps memory for `count` buffers of `buffer_bytes`, a multiple of [`BUFFER_ALIGN`].
    pub fn new(bus: &B, bpid: u16, count: u32, buffer_bytes: u32) -> Result<Buffers<B>, BusError> {
        let memory = DmaMemory::new(bus, count as usize * buffer_bytes as usize)?;
        Ok(Buffers { memory, bpid, buffer_bytes, count })
    }

    pub fn bpid(&self) -> u16 {
        self.bpid
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Bytes of data in a buffer whose data starts at [`DATA_OFFSET`].
    pub fn data_bytes(&self) -> usize {
        self.buffer_bytes as usize - usize::from(DATA_OFFSET)
    }

    /// The address of each buffer.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + use<'_, B> {
        (0..u64::from(self.count)).map(|i| self.memory.iova() + i * u64::from(self.buffer_bytes))
    }

    /// The memory of the buffer at this address; `None` when there is no buffer.
    #[inline(always)]
    pub fn buffer(&self, addr: u64) -> Option<NonNull<u8>> {
        let at = addr.wrapping_sub(self.memory.iova());
        if at >= u64::from(self.count) * u64::from(self.buffer_bytes) {
            return None;
        }
        // Pools are smaller than 4 GiB (checked where they are made); 32-bit division is the cheap one.
        if !(at as u32).is_multiple_of(self.buffer_bytes) {
            return None;
        }
        // SAFETY: `at` is below the memory's length.
        Some(unsafe { self.memory.as_ptr().add(at as usize) })
    }

    /// The memory at `offset` in the buffer at `addr`, if there are `len` bytes of it.
    #[inline(always)]
    pub fn data(&self, addr: u64, offset: u16, len: u32) -> Option<NonNull<u8>> {
        let buffer = self.buffer(addr)?;
        if u64::from(offset) + u64::from(len) > u64::from(self.buffer_bytes) {
            return None;
        }
        // SAFETY: the offset was just seen to lie in the buffer.
        Some(unsafe { buffer.add(usize::from(offset)) })
    }
}

/// The pools that a port's received frames lie in.
pub(crate) struct PoolSet<B: Bus>(Vec<Arc<Buffers<B>>>);

impl<B: Bus> PoolSet<B> {
    pub fn new(pools: Vec<Arc<Buffers<B>>>) -> PoolSet<B> {
        PoolSet(pools)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Buffers<B>>> {
        self.0.iter()
    }

    /// The pool of this number, and its place in the set.
    #[inline(always)]
    pub fn of(&self, bpid: u16) -> Option<(usize, &Buffers<B>)> {
        self.0.iter().position(|pool| pool.bpid() == bpid).map(|at| (at, &*self.0[at]))
    }

    /// Where the data of a received frame lies.
    #[inline(always)]
    pub fn pieces(&self, fd: &Fd) -> Result<Pieces, BadFd> {
        let addr = fd.addr.get();
        let Some((_, pool)) = self.of(fd.bpid()) else { return Err(BadFd::Buffer) };
        if pool.buffer(addr).is_none() {
            return Err(BadFd::Buffer);
        }
        let mut pieces =
            Pieces { segments: [Segment { ptr: std::ptr::null(), len: 0 }; SEGMENTS_MAX], count: 0 };
        match fd.format() {
            Format::Single => {
                let data = pool.data(addr, fd.offset(), fd.len()).ok_or(BadFd::Content)?;
                pieces.segments[0] = Segment { ptr: data.as_ptr(), len: fd.len() };
                pieces.count = 1;
                Ok(pieces)
            }
            Format::ScatterGather => self.gather(pool, fd, pieces),
            Format::List | Format::Reserved => Err(BadFd::Content),
        }
    }

    #[cold]
    fn gather(&self, table: &Buffers<B>, fd: &Fd, mut pieces: Pieces) -> Result<Pieces, BadFd> {
        let mut total = 0u64;
        let whole = table.each_entry(fd, |entry| {
            if entry.format() != SgFormat::Single || entry.is_empty() {
                return false;
            }
            let data = self
                .of(entry.bpid())
                .and_then(|(_, pool)| pool.data(entry.addr.get(), entry.offset(), entry.len()));
            let Some(data) = data else { return false };
            pieces.segments[pieces.count] = Segment { ptr: data.as_ptr(), len: entry.len() };
            pieces.count += 1;
            total += u64::from(entry.len());
            true
        });
        // The entries' buffers can't be trusted either, so nothing is given back: a leak that is counted is better
        // than a buffer given back twice.
        if whole && total == u64::from(fd.len()) { Ok(pieces) } else { Err(BadFd::Buffer) }
    }
}

impl<B: Bus> Buffers<B> {
    /// Calls `each` with the entries of the frame's table up to the last. False when `each` says so, or there is no
    /// last one.
    pub fn each_entry(&self, fd: &Fd, mut each: impl FnMut(&SgEntry) -> bool) -> bool {
        const ENTRY: u32 = size_of::<SgEntry>() as u32;
        let room = self.buffer_bytes.saturating_sub(fd.offset().into()) / ENTRY;
        for i in 0..room.min(SEGMENTS_MAX as u32) {
            let at = u32::from(fd.offset()) + i * ENTRY;
            let Some(entry) = u16::try_from(at).ok().and_then(|at| self.data(fd.addr.get(), at, ENTRY))
            else {
                return false;
            };
            // SAFETY: 16 bytes of a buffer of ours; hardware may write there, hence copied out at once.
            let bytes: [u8; ENTRY as usize] = unsafe { entry.cast::<[u8; 16]>().read_volatile() };
            let entry = SgEntry::read_from_bytes(&bytes).expect("16 bytes are an entry");
            if !each(&entry) {
                return false;
            }
            if entry.is_final() {
                return true;
            }
        }
        false
    }
}
