//! Work on a frame that its sender left to somebody later: checksum, segmentation.

use std::fmt;

/// The request as it stands in a virtio-net header (virtio 1.2, section 5.1.6), little-endian fields.
///
/// The first 10 of the header's 12 bytes, so passing it on unchanged is one copy. Values come from a guest:
/// the receiving queue checks them against the frame before the burst sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offload {
    /// [`Offload::NEEDS_CSUM`], [`Offload::DATA_VALID`].
    pub flags: u8,
    /// Segmentation, see [`Gso`]; bit 7 is [`Offload::GSO_ECN`].
    pub gso_type: u8,
    /// Length of all headers of a frame to be segmented, in bytes. A hint.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksum starts, from the first byte of the frame.
    pub csum_start: u16,
    /// Where to put the checksum, from `csum_start`.
    pub csum_offset: u16,
}
const _: () = assert!(size_of::<Offload>() == 10);

/// How a frame is to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    None,
    /// TCP over IPv4.
    Tcp4,
    /// UDP fragmentation (not offered by us).
    Udp,
    /// TCP over IPv6.
    Tcp6,
    /// A value this specification doesn't know.
    Unknown(u8),
}

impl Offload {
    /// The checksum from `csum_start` on is to be computed and stored.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum has been checked.
    pub const DATA_VALID: u8 = 2;
    /// Flag in `gso_type`: the congestion-window-reduced bit is in the first segment only.
    pub const GSO_ECN: u8 = 0x80;

    /// Nothing is asked for (a checked checksum is no request).
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.flags & Self::NEEDS_CSUM == 0 && self.gso_type == 0
    }

    /// The segmentation asked for.
    pub fn gso(&self) -> Gso {
        match self.gso_type & !Self::GSO_ECN {
            0 => Gso::None,
            1 => Gso::Tcp4,
            3 => Gso::Udp,
            4 => Gso::Tcp6,
            other => Gso::Unknown(other),
        }
    }

    /// Whether the checksum is to be completed.
    #[inline(always)]
    pub fn needs_csum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flags={:#x} gso={:?} hdr_len={} gso_size={} csum={}+{}",
            self.flags,
            self.gso(),
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset
        )
    }
}
