//! Walking a descriptor chain: several descriptors, indirect tables, buffers over two memory regions.
//!
//! The fast case, one descriptor that is one piece of memory, never comes here.

use guest_memory::{MemMap, RegionCache};
use virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};

use crate::RingError;
use crate::ring::{Head, Ring};

/// Most pieces of memory a frame can be spread over. A chain of more is a dropped frame.
pub const CHAIN_MAX: usize = 256;

/// Most descriptors that are looked at to find a chain's end; one that goes on is taken for a loop. (QEMU's limit too.)
const WALK_MAX: u32 = 1024;

/// A piece of guest memory, mapped as long as the map it was found in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub ptr: *mut u8,
    pub gpa: u64,
    pub len: u32,
}

/// What the buffers of a chain are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The device reads all of them.
    Read,
    /// It writes all of them.
    Write,
    /// It reads the first and writes the others (virtio 1.2, section 2.7.4.2); either may be none.
    ReadThenWrite,
}

/// What a walk found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// The name under which the chain is completed.
    pub id: u16,
    /// Ring entries it takes.
    pub slots: u16,
    /// Bytes of all its buffers.
    pub bytes: u64,
    /// False when it has more than [`CHAIN_MAX`] pieces and not all were listed.
    pub listed: bool,
    /// How many of its pieces are for the device to read.
    pub readable: usize,
}

/// What a walk needs to know.
pub(crate) struct Walk<'a> {
    pub map: &'a MemMap,
    pub cache: &'a mut RegionCache,
    /// Indirect tables were negotiated.
    pub indirect: bool,
    /// What its buffers are for.
    pub access: Access,
    /// Where the pieces go.
    pub pieces: &'a mut Vec<Piece>,
}

impl Walk<'_> {
    /// Appends the pieces of the chain that begins with `head`, which was taken from `ring` just now.
    #[inline(never)]
    pub(crate) fn run<R: Ring>(&mut self, ring: &mut R, head: Head) -> Result<Chain, RingError> {
        let mut found = Found { first: self.pieces.len(), bytes: 0, listed: true, readable: 0 };
        let mut desc = head;
        let mut count = 1u32;
        loop {
            if desc.flags & INDIRECT != 0 {
                self.table::<R>(&desc, &mut found)?;
                break;
            }
            self.buffer(&desc, &mut found)?;
            if desc.flags & NEXT == 0 {
                break;
            }
            count += 1;
            if count > WALK_MAX.min(ring.size().into()) {
                return Err(RingError::ChainLoop(head.id.into()));
            }
            desc = ring.follow(&desc)?;
        }
        let slots = if R::SLOT_PER_DESC { count as u16 } else { 1 };
        let Found { bytes, listed, readable, .. } = found;
        Ok(Chain { id: desc.id, slots, bytes, listed, readable })
    }

    /// Walks an indirect table (virtio 1.2, sections 2.7.5.3 and 2.8.7).
    fn table<R: Ring>(&mut self, desc: &Head, found: &mut Found) -> Result<(), RingError> {
        if !self.indirect {
            return Err(RingError::IndirectRefused(desc.flags.into()));
        }
        if desc.flags & NEXT != 0 {
            return Err(RingError::IndirectWithNext(desc.flags.into()));
        }
        let entries = desc.len / 16;
        if entries == 0 || !desc.len.is_multiple_of(16) {
            return Err(RingError::IndirectLength(desc.len.into()));
        }
        let mut index = 0;
        for _ in 0..entries.min(WALK_MAX) {
            let entry = self.entry::<R>(desc.addr, index)?;
            if entry.flags & INDIRECT != 0 {
                return Err(RingError::IndirectNested(desc.addr));
            }
            self.buffer(&entry, found)?;
            if !R::TABLE_LINKED {
                index += 1;
                if index == entries {
                    return Ok(());
                }
            } else if entry.flags & NEXT == 0 {
                return Ok(());
            } else {
                index = entry.next.into();
                if index >= entries {
                    return Err(RingError::NextOutOfRange(entry.next.into()));
                }
            }
        }
        Err(RingError::ChainLoop(desc.id.into()))
    }

    /// Reads one entry of a table once. Tables need not be aligned; their entries have the ring's form.
    fn entry<R: Ring>(&mut self, table: u64, index: u32) -> Result<Head, RingError> {
        #[repr(C, packed)]
        #[derive(Clone, Copy)]
        struct Word(u64);
        let at = table.checked_add(u64::from(index) * 16).ok_or(RingError::Unmapped(table))?;
        let ptr = self.cache.translate_gpa(self.map, at, 16).ok_or(RingError::Unmapped(at))?.cast::<Word>();
        // SAFETY: 16 bytes are mapped there; the words have alignment 1.
        let (Word(addr), Word(rest)) = unsafe { (ptr.read_volatile(), ptr.add(1).read_volatile()) };
        let (third, fourth) = ((rest >> 32) as u16, (rest >> 48) as u16);
        let (flags, next) = if R::TABLE_LINKED { (third, fourth) } else { (fourth, 0) };
        Ok(Head { addr, len: rest as u32, flags, next, id: 0 })
    }

    fn buffer(&mut self, desc: &Head, found: &mut Found) -> Result<(), RingError> {
        let is_write = desc.flags & WRITE != 0;
        let so_far = self.pieces.len() - found.first;
        let allowed = match self.access {
            Access::Read => !is_write,
            Access::Write => is_write,
            Access::ReadThenWrite => is_write || found.readable == so_far,
        };
        if !allowed {
            return Err(RingError::WrongDirection(desc.flags.into()));
        }
        found.bytes += u64::from(desc.len);
        let (mut gpa, mut left) = (desc.addr, desc.len);
        while left > 0 {
            let (ptr, len) = match self.cache.translate_gpa(self.map, gpa, left.into()) {
                Some(ptr) => (ptr, left),
                // A buffer may cross into the next region: neighbours in the guest, not here.
                None => {
                    let (ptr, len) = self
                        .map
                        .translate_gpa_part(gpa, left.into())
                        .ok_or(RingError::Unmapped(desc.addr))?;
                    (ptr, len as u32)
                }
            };
            if self.pieces.len() - found.first == CHAIN_MAX {
                found.listed = false;
                return Ok(());
            }
            self.pieces.push(Piece { ptr: ptr.as_ptr(), gpa, len });
            found.readable += usize::from(!is_write);
            left -= len;
            // The range is mapped up to here, so the sum fits; what follows a region's end may not.
            gpa = gpa.wrapping_add(len.into());
        }
        Ok(())
    }
}

/// The state of a walk.
struct Found {
    first: usize,
    bytes: u64,
    listed: bool,
    readable: usize,
}
