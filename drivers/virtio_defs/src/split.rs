//! The split virtqueue (virtio 1.2, section 2.7): three areas.
//!
//! | area | alignment | bytes for `n` entries |
//! |---|---|---|
//! | descriptor table | 16 | 16 `n` |
//! | available ring (driver area) | 2 | 6 + 2 `n` |
//! | used ring (device area) | 4 | 6 + 8 `n` |

/// A descriptor (section 2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Desc {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// [`desc_flag`](crate::desc_flag).
    pub flags: u16,
    /// Index of the next descriptor, with the flag `NEXT`.
    pub next: u16,
}
const _: () = assert!(size_of::<Desc>() == 16 && align_of::<Desc>() == 16);

/// What the available and used rings begin with (sections 2.7.6 and 2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RingHead {
    /// [`AVAIL_NO_INTERRUPT`] or [`USED_NO_NOTIFY`].
    pub flags: u16,
    /// Where the writer will put the next entry, counted modulo 65536.
    pub idx: u16,
}
const _: () = assert!(size_of::<RingHead>() == 4);

/// An entry of the used ring (section 2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UsedElem {
    /// Index of the chain's first descriptor.
    pub id: u32,
    /// Bytes written into the chain.
    pub len: u32,
}
const _: () = assert!(size_of::<UsedElem>() == 8);

/// Flag in the available ring: the driver wants no interrupts (section 2.7.6).
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// Flag in the used ring: the device wants no kicks (section 2.7.8).
pub const USED_NO_NOTIFY: u16 = 1;

/// Offset of the first entry in the available and in the used ring.
pub const RING_OFFSET: usize = size_of::<RingHead>();

/// Bytes of the descriptor table.
pub const fn desc_bytes(size: u16) -> usize {
    size as usize * size_of::<Desc>()
}

/// Bytes of the available ring with its `used_event`.
pub const fn avail_bytes(size: u16) -> usize {
    RING_OFFSET + size as usize * 2 + 2
}

/// Bytes of the used ring with its `avail_event`.
pub const fn used_bytes(size: u16) -> usize {
    RING_OFFSET + size as usize * size_of::<UsedElem>() + 2
}

/// Offset of `used_event` in the available ring (section 2.7.7).
pub const fn used_event_offset(size: u16) -> usize {
    avail_bytes(size) - 2
}

/// Offset of `avail_event` in the used ring (section 2.7.10).
pub const fn avail_event_offset(size: u16) -> usize {
    used_bytes(size) - 2
}
