//! The packed virtqueue (virtio 1.2, section 2.8): one ring that both sides write, two event areas.

/// A descriptor, available or used (section 2.8.13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Desc {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Its length; in a used descriptor the bytes written.
    pub len: u32,
    /// The driver's name for the buffer. In a chain the last descriptor's counts.
    pub id: u16,
    /// [`desc_flag`](crate::desc_flag), [`AVAIL`] and [`USED`].
    pub flags: u16,
}
const _: () = assert!(size_of::<Desc>() == 16 && align_of::<Desc>() == 16);

/// Flag: equals the driver's wrap counter when the descriptor was made available (section 2.8.1).
pub const AVAIL: u16 = 1 << 7;
/// Flag: equals [`AVAIL`] in a used descriptor, its opposite in an available one (section 2.8.1).
pub const USED: u16 = 1 << 15;

/// Event suppression: what one side wants to be told (section 2.8.14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(4))]
pub struct Event {
    /// Position in the ring (bits 0 to 14) and wrap counter (bit 15), for [`EVENT_DESC`].
    pub off_wrap: u16,
    /// [`EVENT_ENABLE`], [`EVENT_DISABLE`] or [`EVENT_DESC`].
    pub flags: u16,
}
const _: () = assert!(size_of::<Event>() == 4);

/// Notify always.
pub const EVENT_ENABLE: u16 = 0;
/// Never notify.
pub const EVENT_DISABLE: u16 = 1;
/// Notify when the descriptor at `off_wrap` is passed; needs the feature `EVENT_IDX`.
pub const EVENT_DESC: u16 = 2;

/// Bytes of the descriptor ring.
pub const fn desc_bytes(size: u16) -> usize {
    size as usize * size_of::<Desc>()
}

/// Flags of a descriptor that is available in the round of `wrap`, without its other flags.
#[inline(always)]
pub const fn avail_flags(wrap: bool) -> u16 {
    if wrap { AVAIL } else { USED }
}

/// Flags of a descriptor that is used in the round of `wrap`, without its other flags.
#[inline(always)]
pub const fn used_flags(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

/// Whether a descriptor with these flags is available in the round of `wrap`.
#[inline(always)]
pub const fn is_avail(flags: u16, wrap: bool) -> bool {
    flags & (AVAIL | USED) == avail_flags(wrap)
}

/// Whether a descriptor with these flags is used in the round of `wrap`.
#[inline(always)]
pub const fn is_used(flags: u16, wrap: bool) -> bool {
    flags & (AVAIL | USED) == used_flags(wrap)
}
