//! What the two ring layouts have in common for the device.

use std::fmt;
use std::mem::MaybeUninit;

use guest_memory::MemMap;
use packet::BURST_MAX;
use virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};

use crate::{RingConfig, RingError};

/// A descriptor as read once from the ring or an indirect table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `virtio_defs::desc_flag` and others.
    pub flags: u16,
    /// The name under which its chain is completed. Of a packed chain the last descriptor's counts.
    pub id: u16,
    /// Split: the table index of the successor.
    pub next: u16,
}

/// A descriptor as the fast path keeps it: the two words read from the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in the low half; flags where [`Ring::FLAGS_SHIFT`] says.
    pub word: u64,
}

/// The descriptors of a burst, and how each is given back when it is a chain of its own.
pub(crate) struct Peeked {
    pub heads: [MaybeUninit<Raw>; BURST_MAX],
    pub done: [MaybeUninit<Done>; BURST_MAX],
}

impl Peeked {
    #[inline(always)]
    pub(crate) fn new() -> Peeked {
        Peeked {
            heads: [const { MaybeUninit::uninit() }; BURST_MAX],
            done: [const { MaybeUninit::uninit() }; BURST_MAX],
        }
    }
}

impl Raw {
    /// Length in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        self.word as u32
    }

    /// Whether it is a chain of one descriptor that the device writes, or reads.
    #[inline(always)]
    pub(crate) fn is_single<R: Ring>(self, write: bool) -> bool {
        let kind = u64::from(NEXT | INDIRECT | WRITE) << R::FLAGS_SHIFT;
        self.word & kind == if write { u64::from(WRITE) << R::FLAGS_SHIFT } else { 0 }
    }
}

/// A chain to be given back, in one word: the fast path moves it through registers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Done(u64);

impl Done {
    /// A chain by its name and the ring entries it took, with nothing written into it.
    #[inline(always)]
    pub(crate) fn new(id: u16, slots: u16) -> Done {
        Done(u64::from(id) | u64::from(slots) << 16)
    }

    /// The same with `len` bytes written. Not to be called twice.
    #[inline(always)]
    pub(crate) fn with_len(self, len: u32) -> Done {
        Done(self.0 | u64::from(len) << 32)
    }

    /// The chain's name.
    #[inline(always)]
    pub(crate) fn id(self) -> u16 {
        self.0 as u16
    }

    /// Ring entries it took: 1 in a split ring, its descriptors in a packed one.
    #[inline(always)]
    pub(crate) fn slots(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bytes written into it.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As the second word of a used descriptor, without flags.
    #[inline(always)]
    pub(crate) fn used_word(self) -> u64 {
        self.0 >> 32 | (self.0 & 0xffff) << 32
    }

    /// As an entry of a used ring: name and length, 32 bits each.
    #[inline(always)]
    pub(crate) fn used_elem(self) -> u64 {
        self.0 & 0xffff_ffff_0000_ffff
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {}: {} entries, {} bytes", self.id(), self.slots(), self.len())
    }
}

/// The device side of a ring. Positions move forward only, but for [`rewind`](Ring::rewind).
pub(crate) trait Ring {
    /// Whether the entries of an indirect table are linked by `next` (split) or simply follow each other (packed).
    const TABLE_LINKED: bool;
    /// Whether each descriptor of a chain takes a ring entry (packed), or the chain takes one (split).
    const SLOT_PER_DESC: bool;
    /// Where the flags are in [`Raw::word`].
    const FLAGS_SHIFT: u32;

    /// Entries of the ring.
    fn size(&self) -> u16;

    /// Looks for new entries.
    fn refresh(&mut self) -> Result<(), RingError>;

    /// Reads up to `want` (at most a burst) available descriptors from the position on, without taking them, and
    /// returns how many: so many entries of both arrays are filled. Successors of a packed chain come as descriptors of their own: stop at one that is not
    /// [`Raw::is_single`].
    ///
    /// # Errors
    /// The first entry is broken. A later one is reported when it is the first.
    fn peek(&self, into: &mut Peeked, want: usize) -> Result<usize, RingError>;

    /// Whether so many entries (at most the ring's size) are there to be taken.
    fn has_available(&self, entries: u16) -> bool;

    /// Takes `n` of the descriptors that were peeked at.
    fn advance(&mut self, n: u16);

    /// Takes the next available descriptor, if there is one.
    fn take(&mut self) -> Result<Option<Head>, RingError>;

    /// Reads the successor of a descriptor with `NEXT`.
    fn follow(&mut self, from: &Head) -> Result<Head, RingError>;

    /// The position of the next descriptor to take.
    fn position(&self) -> u16;

    /// Goes back to a [`position`](Ring::position): what was taken since was not taken.
    fn rewind(&mut self, position: u16);

    /// Gives chains back, in the order in which they were taken, and publishes them at once.
    fn complete(&mut self, done: &[Done]);

    /// The same with a single entry for all of them (feature `IN_ORDER`); lengths are not told.
    fn complete_in_order(&mut self, done: &[Done]);

    /// Whether the driver wants an interrupt for what was completed since the last call of this function.
    fn wants_call(&mut self) -> bool;

    /// Asks for kicks, and returns whether something was available before the driver could see that.
    fn ask_for_kicks(&mut self) -> bool;

    /// Says that no kicks are wanted.
    fn refuse_kicks(&mut self);

    /// Finds the ring's areas in another memory table and goes on there.
    fn move_to(&mut self, config: &RingConfig, map: &MemMap) -> Result<(), RingError>;

    /// The position in the form of GET_VRING_BASE.
    fn base(&self) -> u32;

    /// Calls `mark` with the offset and length of each part of the used ring (split) or of the descriptor ring
    /// (packed) that the last completion of `slots` entries wrote.
    fn written(&self, slots: u16, mark: &mut dyn FnMut(u64, u64));
}
