//! Frame descriptors: what QBMan queues, and what WRIOP reads and writes.
//!
//! Source: DPDK's `dpaa2_hw_pvt.h`, Linux' `include/soc/fsl/dpaa2-fd.h`. Everything is little-endian.
//!
//! ```text
//! ADDR ─> [software annotation 0 or 64][hardware annotation][rest of the headroom]
//! ADDR + OFFSET ─> data, LEN bytes                    (or the scatter-gather table)
//! ```

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Address bits that hardware uses of a frame descriptor's ADDR.
pub const ADDRESS_BITS: u32 = 49;
/// Largest value of OFFSET (12 bits).
pub const OFFSET_MAX: u16 = 0xfff;
/// Largest buffer pool id (14 bits).
pub const BPID_MAX: u16 = 0x3fff;

/// FRC: the frame annotation status is valid.
pub const FRC_FASV: u32 = 0x8000;
/// FRC: the egress action descriptor is valid.
pub const FRC_FAEADV: u32 = 0x4000;
/// FRC: the parse results are valid.
pub const FRC_FAPRV: u32 = 0x2000;
/// FRC: the ingress action descriptor is valid.
pub const FRC_FAIADV: u32 = 0x1000;
/// FRC: the software opaque value is valid.
pub const FRC_FASWOV: u32 = 0x0800;
/// FRC: the ingress classification descriptor is valid.
pub const FRC_FAICFDV: u32 = 0x0400;

/// CTRL: every error bit.
pub const CTRL_ERR_MASK: u32 = 0xff;
/// CTRL: the format is not supported.
pub const CTRL_UFD: u32 = 0x04;
/// CTRL: system bus error.
pub const CTRL_SBE: u32 = 0x08;
/// CTRL: flow context error.
pub const CTRL_FLC: u32 = 0x10;
/// CTRL: frame size error.
pub const CTRL_FSE: u32 = 0x20;
/// CTRL: an error that the frame annotation status explains.
pub const CTRL_FAERR: u32 = 0x40;
/// CTRL: the annotation is present, 128 bytes of it (ASAL = 2 units of 64 bytes).
pub const CTRL_ASAL_128: u32 = 0x0002_0000;
/// CTRL: pass-through annotation, 64 bytes of software annotation are present.
pub const CTRL_PTA: u32 = 0x0080_0000;

/// What ADDR + OFFSET points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The frame's data.
    Single,
    /// A frame list (compound frame).
    List,
    /// A scatter-gather table.
    ScatterGather,
    /// A value that is not defined.
    Reserved,
}

impl Format {
    const fn from_bits(bits: u16) -> Format {
        match bits & 3 {
            0 => Format::Single,
            1 => Format::List,
            2 => Format::ScatterGather,
            _ => Format::Reserved,
        }
    }

    const fn bits(self) -> u16 {
        match self {
            Format::Single => 0,
            Format::List => 1,
            Format::ScatterGather => 2,
            Format::Reserved => 3,
        }
    }
}

const BPID_IVP: u16 = 1 << 14;
const BPID_BMT: u16 = 1 << 15;
const OFFSET_FORMAT_SHIFT: u16 = 12;
const OFFSET_SL: u16 = 1 << 14;
const OFFSET_FINAL: u16 = 1 << 15;
/// Length bits that are valid with the short-length flag set.
const SHORT_LENGTH_MASK: u32 = 0x3_ffff;

/// A frame descriptor, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Fd {
    /// ADDR: IOVA of the buffer. Hardware uses [`ADDRESS_BITS`].
    pub addr: U64,
    /// LEN: frame length, see [`Fd::len`].
    pub len: U32,
    /// BPID in 13:0, IVP 14, BMT 15.
    pub bpid: U16,
    /// OFFSET in 11:0, FMT 13:12, SL 14.
    pub offset: U16,
    /// FRC: annotation valid bits, on LX2160A also the parse summary in the upper half.
    pub frc: U32,
    /// CTRL: errors, annotation length, drop priority.
    pub ctrl: U32,
    /// FLC: flow context. With the FLCTYPE offload its upper half is the hash.
    pub flc: U64,
}
const _: () = assert!(size_of::<Fd>() == 32);
const _: () = assert!(core::mem::offset_of!(Fd, bpid) == 12);
const _: () = assert!(core::mem::offset_of!(Fd, frc) == 16);
const _: () = assert!(core::mem::offset_of!(Fd, flc) == 24);

impl Fd {
    /// A frame in one buffer of pool `bpid`.
    pub fn single(addr: u64, offset: u16, len: u32, bpid: u16) -> Fd {
        Fd {
            addr: addr.into(),
            len: len.into(),
            bpid: (bpid & BPID_MAX).into(),
            offset: (offset & OFFSET_MAX).into(),
            ..Fd::default()
        }
    }

    /// A frame of `len` bytes in all whose scatter-gather table lies at `addr + offset`, in a buffer of pool
    /// `bpid`.
    pub fn scatter_gather(addr: u64, offset: u16, len: u32, bpid: u16) -> Fd {
        Fd::single(addr, offset, len, bpid).with_format(Format::ScatterGather)
    }

    /// The same with another format.
    pub fn with_format(mut self, format: Format) -> Fd {
        let cleared = self.offset.get() & !(3 << OFFSET_FORMAT_SHIFT);
        self.offset = (cleared | format.bits() << OFFSET_FORMAT_SHIFT).into();
        self
    }

    /// The same with IVP set: hardware releases nothing after the frame is sent.
    pub fn without_release(mut self) -> Fd {
        self.bpid = (self.bpid.get() | BPID_IVP).into();
        self
    }

    /// Frame length in bytes; all segments of a scatter-gather frame.
    pub fn len(&self) -> u32 {
        let short = self.offset.get() & OFFSET_SL != 0;
        if short { self.len.get() & SHORT_LENGTH_MASK } else { self.len.get() }
    }

    /// Whether the frame has no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer pool, without its flags.
    pub fn bpid(&self) -> u16 {
        self.bpid.get() & BPID_MAX
    }

    /// IVP: BPID is not valid and the buffer must not be released by hardware.
    pub fn is_ivp(&self) -> bool {
        self.bpid.get() & BPID_IVP != 0
    }

    /// BMT: the address bypasses translation.
    pub fn is_bmt(&self) -> bool {
        self.bpid.get() & BPID_BMT != 0
    }

    /// Where the data (or the table) starts, from ADDR.
    pub fn offset(&self) -> u16 {
        self.offset.get() & OFFSET_MAX
    }

    /// What lies at ADDR + OFFSET.
    pub fn format(&self) -> Format {
        Format::from_bits(self.offset.get() >> OFFSET_FORMAT_SHIFT)
    }
}

/// One entry of a scatter-gather table, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SgEntry {
    /// IOVA of the buffer.
    pub addr: U64,
    /// Length in bytes; 17 bits with SL.
    pub len: U32,
    /// BPID in 13:0, IVP 14, BMT 15.
    pub bpid: U16,
    /// Offset in 11:0, format 13:12, SL 14, final 15.
    pub offset: U16,
}
const _: () = assert!(size_of::<SgEntry>() == 16);

/// What an entry of a scatter-gather table refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgFormat {
    /// A buffer.
    Single,
    /// The data of a frame.
    FrameData,
    /// The rest of the table.
    Extension,
    /// A value that is not defined.
    Reserved,
}

impl SgEntry {
    /// `len` bytes at `addr + offset` in a buffer of pool `bpid`.
    pub fn new(addr: u64, offset: u16, len: u32, bpid: u16) -> SgEntry {
        SgEntry {
            addr: addr.into(),
            len: len.into(),
            bpid: (bpid & BPID_MAX).into(),
            offset: (offset & OFFSET_MAX).into(),
        }
    }

    /// The same, the last of its table.
    pub fn last(mut self) -> SgEntry {
        self.offset = (self.offset.get() | OFFSET_FINAL).into();
        self
    }

    /// The same with IVP set: hardware doesn't release this buffer.
    pub fn without_release(mut self) -> SgEntry {
        self.bpid = (self.bpid.get() | BPID_IVP).into();
        self
    }

    /// Bytes of data.
    pub fn len(&self) -> u32 {
        let short = self.offset.get() & OFFSET_SL != 0;
        if short { self.len.get() & 0x1_ffff } else { self.len.get() }
    }

    /// Whether the entry has no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the data starts, from the address.
    pub fn offset(&self) -> u16 {
        self.offset.get() & OFFSET_MAX
    }

    /// The buffer pool, without its flags.
    pub fn bpid(&self) -> u16 {
        self.bpid.get() & BPID_MAX
    }

    /// IVP: the buffer must not be released by hardware.
    pub fn is_ivp(&self) -> bool {
        self.bpid.get() & BPID_IVP != 0
    }

    /// Whether this is the last entry.
    pub fn is_final(&self) -> bool {
        self.offset.get() & OFFSET_FINAL != 0
    }

    /// What the entry refers to.
    pub fn format(&self) -> SgFormat {
        match self.offset.get() >> OFFSET_FORMAT_SHIFT & 3 {
            0 => SgFormat::Single,
            1 => SgFormat::FrameData,
            2 => SgFormat::Extension,
            _ => SgFormat::Reserved,
        }
    }
}

/// One entry of a frame list (compound frames of SEC and qDMA), 32 bytes. Output first, then input.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FrameListEntry {
    /// Address, length, pool, offset and format as in a scatter-gather entry; bit 15 of the offset is final.
    pub data: SgEntry,
    /// FRC.
    pub frc: U32,
    /// CTRL.
    pub ctrl: U32,
    /// FLC.
    pub flc: U64,
}
const _: () = assert!(size_of::<FrameListEntry>() == 32);

impl FrameListEntry {
    /// What the entry's address points to; a frame list counts formats as a frame descriptor does.
    pub fn format(&self) -> Format {
        Format::from_bits(self.data.offset.get() >> OFFSET_FORMAT_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_buffer_frame_is_laid_out_as_captured_from_dpdk() {
        let fd = Fd::single(0x1000, 128, 64, 5);
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 5, 0, 0x80, 0]);
        assert_eq!(fd.as_bytes(), bytes);
        assert_eq!(Fd::read_from_bytes(&bytes).unwrap(), fd);
        assert_eq!((fd.offset(), fd.len(), fd.bpid(), fd.format()), (128, 64, 5, Format::Single));
    }

    #[test]
    fn flags_do_not_leak_into_fields() {
        let fd = Fd::scatter_gather(0x7f00_0000_1000, 0xfff, 9000, 0x3fff).without_release();
        assert_eq!((fd.offset(), fd.len(), fd.bpid()), (0xfff, 9000, 0x3fff));
        assert_eq!(fd.format(), Format::ScatterGather);
        assert!(fd.is_ivp() && !fd.is_bmt());
        // Byte 15: format 2 in bits 5:4 beside offset 11:8.
        assert_eq!(fd.as_bytes()[15], 0x2f);
        assert_eq!(fd.as_bytes()[13], 0x7f);
    }

    #[test]
    fn a_short_length_hides_its_upper_bits() {
        let mut fd = Fd::single(0, 0, 0xfffc_0040, 0);
        assert_eq!(fd.len(), 0xfffc_0040);
        fd.offset = OFFSET_SL.into();
        assert_eq!(fd.len(), 0x40);
    }

    #[test]
    fn the_last_entry_of_a_table_has_the_top_bit() {
        let entry = SgEntry::new(0x2000, 64, 1500, 7).last();
        assert_eq!(entry.as_bytes(), [0, 0x20, 0, 0, 0, 0, 0, 0, 0xdc, 5, 0, 0, 7, 0, 0x40, 0x80]);
        assert!(entry.is_final() && !entry.is_ivp() && !entry.is_empty());
        assert_eq!((entry.offset(), entry.bpid(), entry.format()), (64, 7, SgFormat::Single));
        assert!(entry.without_release().is_ivp());
    }
}
