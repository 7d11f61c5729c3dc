//! Where virtio devices are that aren't on a bus: each in a slot of its own, which is a block of registers (virtio 1.2,
//! section 4.2) and an interrupt line.

use crate::layout;

/// Bytes of registers in a slot.
pub const SLOT_BYTES: u64 = 0x1000;

/// How many slots there are.
pub const SLOTS_MAX: usize = (layout::VIRTIO_LINES.end - layout::VIRTIO_LINES.start) as usize;

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First address of the registers.
    pub address: u64,
    /// The interrupt line: edges.
    pub line: u32,
}

/// All slots, the first device's first.
pub fn slots() -> impl Iterator<Item = Slot> {
    let addresses = (layout::VIRTIO..).step_by(layout::VIRTIO_STEP as usize);
    addresses.zip(layout::VIRTIO_LINES).map(|(address, line)| Slot { address, line })
}
