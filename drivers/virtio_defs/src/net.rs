//! The network device (virtio 1.2, section 5.1).

/// What stands in front of each frame (section 5.1.6), in the 12-byte form of version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`HDR_NEEDS_CSUM`], [`HDR_DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCP4`], [`GSO_TCP6`], perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of headers to be repeated in front of each segment. A hint.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the checksum starts, from the frame's first byte.
    pub csum_start: u16,
    /// Where to store it, from `csum_start`.
    pub csum_offset: u16,
    /// Buffers the frame was spread over; 1 without mergeable buffers; 0 from driver to device.
    pub num_buffers: u16,
}
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = 12;

/// Header flag: the checksum from `csum_start` on is to be completed.
pub const HDR_NEEDS_CSUM: u8 = 1;
/// Header flag: the checksum was checked.
pub const HDR_DATA_VALID: u8 = 2;

/// No segmentation.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCP4: u8 = 1;
/// UDP fragmentation.
pub const GSO_UDP: u8 = 3;
/// TCP over IPv6.
pub const GSO_TCP6: u8 = 4;
/// Flag beside the type: the congestion-window-reduced bit belongs to the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// Feature bits of the network device (section 5.1.3), as masks.
pub mod feature {
    /// The device completes checksums of frames from the driver.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames with incomplete checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device gives a maximum MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device has an address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TCP over IPv4 to be segmented.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TCP over IPv6 to be segmented.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The driver takes such frames with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The driver takes UDP to be fragmented.
    pub const GUEST_UFO: u64 = 1 << 10;
    /// The device segments TCP over IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device segments TCP over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The device takes such frames with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// The device fragments UDP.
    pub const HOST_UFO: u64 = 1 << 14;
    /// A frame may be spread over several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device tells the link's state.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// The driver can announce itself after a migration.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// There are several queue pairs.
    pub const MQ: u64 = 1 << 22;
}

/// Bit of the configuration's `status`: the link is up (section 5.1.4).
pub const STATUS_LINK_UP: u16 = 1;
/// Bit of the configuration's `status`: the driver should announce itself (section 5.1.4).
pub const STATUS_ANNOUNCE: u16 = 2;
