//! The block device (virtio 1.2, section 5.2).

/// Feature bits of the block device, as masks (section 5.2.3).
pub mod feature {
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device can't be written.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The driver can flush; without it each write goes to the medium.
    pub const FLUSH: u64 = 1 << 9;
    /// `topology` is valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// `writeback` is valid and can be written.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// `num_queues` is valid.
    pub const MQ: u64 = 1 << 12;
    /// Ranges can be discarded.
    pub const DISCARD: u64 = 1 << 13;
    /// Ranges can be made zero.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// `size_max` is valid.
    pub const SIZE_MAX: u64 = 1 << 1;
}

/// Types of requests (section 5.2.6).
pub mod request {
    /// Reads sectors.
    pub const IN: u32 = 0;
    /// Writes sectors.
    pub const OUT: u32 = 1;
    /// Brings what was written to the medium.
    pub const FLUSH: u32 = 4;
    /// Reads the device's name, [`ID_BYTES`](super::ID_BYTES) bytes.
    pub const GET_ID: u32 = 8;
    /// Discards ranges.
    pub const DISCARD: u32 = 11;
    /// Makes ranges zero.
    pub const WRITE_ZEROES: u32 = 13;
}

/// What the device answers, the last byte of a request (section 5.2.6).
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed.
    pub const IOERR: u8 = 1;
    /// The device doesn't do this.
    pub const UNSUPP: u8 = 2;
}

/// Bytes of a sector, the unit of all positions.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a request's header: type, reserved word, first sector.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a range to be discarded or made zero: first sector, number of sectors, flags.
pub const RANGE_BYTES: usize = 16;
/// Flag of a range: its space is to be given back.
pub const RANGE_UNMAP: u32 = 1;
/// Bytes of a device's name; a shorter one ends with a zero.
pub const ID_BYTES: usize = 20;
/// Bytes of the configuration.
pub const CONFIG_BYTES: usize = 60;
