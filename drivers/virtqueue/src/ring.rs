//! What the two ring layouts have in common for the device.

use guest_memory::MemMap;

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

/// A chain to be given back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// Its name.
    pub id: u16,
    /// Ring entries it took: 1 in a split ring, its descriptors in a packed one.
    pub slots: u16,
    /// Bytes written into it.
    pub len: u32,
}

/// The device side of a ring. Positions move forward only, but for [`rewind`](Ring::rewind).
pub(crate) trait Ring {
    /// Whether the entries of an indirect table are linked by `next` (split) or simply follow each other (packed).
    const TABLE_LINKED: bool;
    /// Whether each descriptor of a chain takes a ring entry (packed), or the chain takes one (split).
    const SLOT_PER_DESC: bool;

    /// Entries of the ring.
    fn size(&self) -> u16;

    /// Looks for new entries.
    fn refresh(&mut self) -> Result<(), RingError>;

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
