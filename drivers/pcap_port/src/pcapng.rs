//! pcapng (draft-ietf-opsawg-pcapng): blocks of type, length, body, length; sections of either byte order.

use crate::Malformed;
use crate::blocks::{Endian, Piece};
use crate::capture::{FRAME_MAX, Found, LINK_ETHERNET};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Type, length in front, length behind.
const FRAMING_LEN: usize = 12;
const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;
const OPTION_PACKET_FLAGS: u16 = 2;
const OPTION_NAME: u16 = 2;
const OPTION_APPLICATION: u16 = 4;

pub(crate) fn is_magic(magic: &[u8; 4]) -> bool {
    // The same in both byte orders.
    *magic == SECTION.to_be_bytes()
}

/// What packets refer to.
struct Interface {
    offset: usize,
    link: u16,
    snap_len: u32,
    units_per_second: u64,
    offset_seconds: i64,
}

/// Passes each frame to `found`. Blocks that are not about frames are skipped.
pub(crate) fn parse(bytes: &[u8], found: &mut impl FnMut(Found)) -> Result<(), Malformed> {
    let mut file = Piece { bytes, offset: 0, endian: Endian::Little };
    let mut interfaces: Vec<Interface> = vec![];
    let mut at = 0;
    while at < bytes.len() {
        if file.u32(at, "a block header is cut")? == SECTION {
            file.endian = byte_order(&file, at)?;
            interfaces.clear();
        }
        let body = block_body(&file, at)?;
        match file.u32(at, "block type")? {
            SECTION => match body.u16(4, "a section header is cut")? {
                1 => {}
                other => return Err(body.bad_value(4, "unknown version of pcapng", other.into())),
            },
            INTERFACE => interfaces.push(interface(&body)?),
            ENHANCED_PACKET => found(enhanced_packet(&body, &interfaces)?),
            SIMPLE_PACKET => found(simple_packet(&body, &interfaces)?),
            _ => {}
        }
        at += body.bytes.len() + FRAMING_LEN;
    }
    Ok(())
}

fn byte_order(file: &Piece<'_>, at: usize) -> Result<Endian, Malformed> {
    let magic = file.piece(at + 8, 4, "a section header is cut")?.bytes;
    if magic == BYTE_ORDER.to_le_bytes() {
        Ok(Endian::Little)
    } else if magic == BYTE_ORDER.to_be_bytes() {
        Ok(Endian::Big)
    } else {
        Err(file.malformed(at + 8, "no byte-order magic in a section header"))
    }
}

/// What lies between a block's lengths, which must agree.
fn block_body<'a>(file: &Piece<'a>, at: usize) -> Result<Piece<'a>, Malformed> {
    let len = file.u32(at + 4, "a block header is cut")?;
    let whole = len as usize;
    if whole < FRAMING_LEN || !whole.is_multiple_of(4) {
        return Err(file.bad_value(at + 4, "impossible block length", len.into()));
    }
    let block = file.piece(at, whole, "a block is cut by the end of the file")?;
    let again = block.u32(whole - 4, "block length")?;
    if again != len {
        return Err(block.bad_value(whole - 4, "a block's lengths differ", again.into()));
    }
    block.piece(8, whole - FRAMING_LEN, "block")
}

fn interface(body: &Piece<'_>) -> Result<Interface, Malformed> {
    let cut = "an interface block is cut";
    let mut interface = Interface {
        offset: body.offset,
        link: body.u16(0, cut)?,
        snap_len: body.u32(4, cut)?,
        units_per_second: 1_000_000,
        offset_seconds: 0,
    };
    let mut at = 8;
    // The list may end without its end marker.
    while at + 4 <= body.bytes.len() {
        let (code, len) = (body.u16(at, cut)?, usize::from(body.u16(at + 2, cut)?));
        let value = body.piece(at + 4, len, "an option is longer than its block")?;
        match code {
            OPTION_END => break,
            OPTION_TIME_RESOLUTION if len == 1 => interface.units_per_second = resolution(&value)?,
            OPTION_TIME_OFFSET if len == 8 => {
                let halves = (u64::from(value.u32(0, cut)?), u64::from(value.u32(4, cut)?));
                let value = match body.endian {
                    Endian::Little => halves.1 << 32 | halves.0,
                    Endian::Big => halves.0 << 32 | halves.1,
                };
                interface.offset_seconds = value.cast_signed();
            }
            _ => {}
        }
        at += 4 + len.next_multiple_of(4);
    }
    Ok(interface)
}

/// Units per second: a negative power of ten or, with the highest bit set, of two.
fn resolution(value: &Piece<'_>) -> Result<u64, Malformed> {
    let code = value.bytes[0];
    let exponent = u32::from(code & 0x7f);
    let base: u64 = if code & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(exponent)
        .ok_or_else(|| value.bad_value(0, "a time resolution is finer than 64 bits allow", code.into()))
}

fn enhanced_packet(body: &Piece<'_>, interfaces: &[Interface]) -> Result<Found, Malformed> {
    let cut = "a packet block is cut";
    let number = body.u32(0, cut)?;
    let Some(interface) = interfaces.get(number as usize) else {
        return Err(body.bad_value(0, "a packet refers to an interface that is not there", number.into()));
    };
    let time = u64::from(body.u32(4, cut)?) << 32 | u64::from(body.u32(8, cut)?);
    let (len, original_len) = (body.u32(12, cut)?, body.u32(16, cut)?);
    let nanoseconds = u128::from(time) * 1_000_000_000 / u128::from(interface.units_per_second);
    let nanoseconds = i128::try_from(nanoseconds).unwrap_or(i128::MAX)
        + i128::from(interface.offset_seconds) * 1_000_000_000;
    let time_ns = u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX);
    frame(body, interface, 20, len, original_len, Some(time_ns))
}

fn simple_packet(body: &Piece<'_>, interfaces: &[Interface]) -> Result<Found, Malformed> {
    let original_len = body.u32(0, "a packet block is cut")?;
    let Some(interface) = interfaces.first() else {
        return Err(body.malformed(0, "a packet before any interface"));
    };
    let len = match interface.snap_len {
        0 => original_len,
        snap_len => original_len.min(snap_len),
    };
    frame(body, interface, 4, len, original_len, None)
}

fn frame(
    body: &Piece<'_>,
    interface: &Interface,
    at: usize,
    len: u32,
    original_len: u32,
    time_ns: Option<u64>,
) -> Result<Found, Malformed> {
    if u32::from(interface.link) != LINK_ETHERNET {
        let what = "link type is not Ethernet (1)";
        return Err(Malformed { offset: interface.offset as u64, what, value: Some(interface.link.into()) });
    }
    if len > FRAME_MAX {
        return Err(body.bad_value(at, "a frame is longer than 262144 bytes", len.into()));
    }
    let data = body.piece(at, len as usize, "a frame is longer than its block")?;
    Ok(Found { offset: data.offset, len, original_len, time_ns })
}

/// Appends a block, its parts written by `body`. Little-endian.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    pad(out, start);
    let len = (out.len() + 4 - start) as u32;
    out.extend(len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
}

fn pad(out: &mut Vec<u8>, start: usize) {
    out.resize(start + (out.len() - start).next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let start = out.len();
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out, start);
}

/// Appends what a file begins with: a section, and one Ethernet interface whose times are nanoseconds.
/// `interface` is cut to 255 bytes.
pub(crate) fn write_start(out: &mut Vec<u8>, interface: &str, snap_len: u32) {
    block(out, SECTION, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        out.extend([1, 0, 0, 0]);
        // The section's length is not known.
        out.extend([0xff; 8]);
        option(out, OPTION_APPLICATION, concat!("Ringway ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, OPTION_END, &[]);
    });
    block(out, INTERFACE, |out| {
        out.extend((LINK_ETHERNET as u16).to_le_bytes());
        out.extend([0; 2]);
        out.extend(snap_len.to_le_bytes());
        let name_len = (0..=interface.len().min(255)).rev().find(|&n| interface.is_char_boundary(n));
        option(out, OPTION_NAME, &interface.as_bytes()[..name_len.unwrap_or(0)]);
        option(out, OPTION_TIME_RESOLUTION, &[9]);
        option(out, OPTION_END, &[]);
    });
}

/// Appends a packet whose `len` bytes `data` appends. `flags`: bits 0 and 1 are the direction; 0 leaves them out.
pub(crate) fn write_packet(
    out: &mut Vec<u8>,
    time_ns: u64,
    (len, original_len): (u32, u32),
    flags: u32,
    data: impl FnOnce(&mut Vec<u8>),
) {
    block(out, ENHANCED_PACKET, |out| {
        out.extend([0; 4]);
        out.extend(((time_ns >> 32) as u32).to_le_bytes());
        out.extend((time_ns as u32).to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend(original_len.to_le_bytes());
        let start = out.len();
        data(out);
        assert_eq!(out.len() - start, len as usize, "a packet block's data is as long as it says");
        pad(out, start);
        if flags != 0 {
            option(out, OPTION_PACKET_FLAGS, &flags.to_le_bytes());
            option(out, OPTION_END, &[]);
        }
    });
}
