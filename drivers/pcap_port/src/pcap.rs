//! The classic format (draft-ietf-opsawg-pcap): a header of 24 bytes, then records of a 16-byte header and data.

use crate::Malformed;
use crate::blocks::{Endian, Piece};
use crate::capture::{FRAME_MAX, Found, LINK_ETHERNET};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const HEADER_LEN: usize = 24;
const RECORD_LEN: usize = 16;

fn dialect(magic: &[u8; 4]) -> Option<(Endian, u64)> {
    let (little, big) = (u32::from_le_bytes(*magic), u32::from_be_bytes(*magic));
    match (little, big) {
        (MICROSECONDS, _) => Some((Endian::Little, 1000)),
        (NANOSECONDS, _) => Some((Endian::Little, 1)),
        (_, MICROSECONDS) => Some((Endian::Big, 1000)),
        (_, NANOSECONDS) => Some((Endian::Big, 1)),
        _ => None,
    }
}

pub(crate) fn is_magic(magic: &[u8; 4]) -> bool {
    dialect(magic).is_some()
}

/// Passes each frame to `found`. The bytes begin with a [magic](is_magic) number.
pub(crate) fn parse(bytes: &[u8], found: &mut impl FnMut(Found)) -> Result<(), Malformed> {
    let magic = bytes.first_chunk().and_then(dialect);
    let (endian, ns_per_unit) = magic.expect("the caller recognised the format by it");
    let file = Piece { bytes, offset: 0, endian };
    let header = file.piece(0, HEADER_LEN, "the file header is cut")?;
    match header.u16(4, "version")? {
        2 => {}
        other => return Err(file.bad_value(4, "unknown version of pcap", other.into())),
    }
    // Link type in the lower half; above it, if flagged, how many 16-bit words of FCS follow each frame.
    let link = header.u32(20, "link type")?;
    if link & 0xffff != LINK_ETHERNET {
        return Err(file.bad_value(20, "link type is not Ethernet (1)", (link & 0xffff).into()));
    }
    let fcs_len = if link & 0x0400_0000 != 0 { (link >> 28) * 2 } else { 0 };

    let mut at = HEADER_LEN;
    while at < bytes.len() {
        let record = file.piece(at, RECORD_LEN, "a record header is cut")?;
        let (seconds, fraction) = (record.u32(0, "time")?, record.u32(4, "time")?);
        let (len, original_len) = (record.u32(8, "length")?, record.u32(12, "length")?);
        if len > FRAME_MAX {
            return Err(record.bad_value(8, "a frame is longer than 262144 bytes", len.into()));
        }
        let data = file.piece(at + RECORD_LEN, len as usize, "a frame is cut by the end of the file")?;
        // A frame captured in full ends in its FCS.
        let fcs = fcs_len.saturating_sub(original_len.saturating_sub(len)).min(len);
        found(Found {
            offset: data.offset,
            len: len - fcs,
            original_len: original_len.saturating_sub(fcs_len),
            time_ns: Some(u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * ns_per_unit),
        });
        at += RECORD_LEN + len as usize;
    }
    Ok(())
}
