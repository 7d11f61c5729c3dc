//! The virtio-net header that a guest puts in front of a frame: read once, judged against the frame.

use packet::{Gso, Offload};
use virtio_defs::net::feature;

/// Longest frame taken from a guest, in bytes: a TCP segment to be split, of the longest IP packet there is, behind an
/// Ethernet header with two tags.
pub const FRAME_MAX: usize = 65_535 + 14 + 8;

/// Bytes of a TCP header without options, and where its checksum is.
const TCP_BYTES: usize = 20;
const TCP_CSUM_OFFSET: u16 = 16;

/// The header's request, when it fits the frame of `frame_len` bytes and the features negotiated (virtio 1.2, sections
/// 5.1.6.2 and 5.1.6.4). Bits we don't know are left out, as are the fields no flag gives a meaning to.
#[cold]
#[inline(never)]
pub(crate) fn judge(header: &Offload, frame_len: usize, features: u64) -> Option<Offload> {
    let mut offload = Offload { flags: header.flags & Offload::DATA_VALID, ..Offload::default() };
    if header.needs_csum() {
        // Sums of two 16-bit values in usize can't overflow.
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        if features & feature::CSUM == 0 || header.csum_start < 14 || end > frame_len {
            return None;
        }
        offload.flags = Offload::NEEDS_CSUM;
        offload.csum_start = header.csum_start;
        offload.csum_offset = header.csum_offset;
    }
    let wanted = match header.gso() {
        Gso::None if header.gso_type == 0 => return Some(offload),
        Gso::Tcp4 => feature::HOST_TSO4,
        Gso::Tcp6 => feature::HOST_TSO6,
        _ => return None,
    };
    let ecn = header.gso_type & Offload::GSO_ECN != 0;
    let fits = features & wanted != 0
        && (!ecn || features & feature::HOST_ECN != 0)
        && header.gso_size != 0
        // Segmentation replaces the checksum in each segment, so its place must be known, and be TCP's.
        && header.needs_csum()
        && header.csum_offset == TCP_CSUM_OFFSET
        && usize::from(header.csum_start) + TCP_BYTES <= frame_len
        // A hint that some drivers set to the linear part of the frame; longer than the frame it is nonsense.
        && usize::from(header.hdr_len) <= frame_len;
    offload.gso_type = header.gso_type;
    offload.gso_size = header.gso_size;
    offload.hdr_len = header.hdr_len;
    fits.then_some(offload)
}

/// Whether the header asks for nothing at all, given as its first eight bytes and the two after.
#[inline(always)]
pub(crate) fn is_empty(low: u64, high: u16) -> bool {
    low | u64::from(high) == 0
}

/// The header from its first eight bytes and the two after.
#[inline(always)]
pub(crate) fn from_words(low: u64, high: u16) -> Offload {
    Offload {
        flags: low as u8,
        gso_type: (low >> 8) as u8,
        hdr_len: (low >> 16) as u16,
        gso_size: (low >> 32) as u16,
        csum_start: (low >> 48) as u16,
        csum_offset: high,
    }
}

/// The reverse of [`from_words`].
#[inline(always)]
pub(crate) fn to_words(o: &Offload) -> (u64, u16) {
    let low = u64::from(o.flags)
        | u64::from(o.gso_type) << 8
        | u64::from(o.hdr_len) << 16
        | u64::from(o.gso_size) << 32
        | u64::from(o.csum_start) << 48;
    (low, o.csum_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN;

    fn tcp4() -> Offload {
        Offload {
            flags: Offload::NEEDS_CSUM,
            gso_type: 1,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        }
    }

    #[test]
    fn honest_requests_pass_unchanged() {
        assert_eq!(judge(&tcp4(), 4000, ALL), Some(tcp4()));
        let tcp6 = Offload { gso_type: 4 | Offload::GSO_ECN, csum_start: 54, ..tcp4() };
        assert_eq!(judge(&tcp6, 4000, ALL), Some(tcp6));
        let udp =
            Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Offload::default() };
        assert_eq!(judge(&udp, 60, ALL), Some(udp));
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        // CVE-2024-11614: csum_start beyond the frame was followed.
        for (start, offset, len, good) in [
            (34, 16, 52, true),
            (34, 16, 51, false),
            (60, 6, 60, false),
            (0xffff, 0xffff, 60, false),
            (0xffff, 1, 60, false),
            (34, 0xffff, 60, false),
            (13, 16, 60, false),
        ] {
            let o = Offload { flags: 1, csum_start: start, csum_offset: offset, ..Offload::default() };
            assert_eq!(judge(&o, len, ALL).is_some(), good, "{start} + {offset} in {len}");
        }
    }

    #[test]
    fn senseless_segmentation_is_refused() {
        for bad in [
            Offload { gso_size: 0, ..tcp4() },
            Offload { flags: 0, ..tcp4() },
            Offload { csum_offset: 6, ..tcp4() },
            Offload { hdr_len: 4001, ..tcp4() },
            Offload { csum_start: 3981, ..tcp4() },
            Offload { gso_type: 3, ..tcp4() },
            Offload { gso_type: 5, ..tcp4() },
            Offload { gso_type: 0x7f, ..tcp4() },
            Offload { gso_type: Offload::GSO_ECN, ..tcp4() },
        ] {
            assert_eq!(judge(&bad, 4000, ALL), None, "{bad}");
        }
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        assert_eq!(judge(&tcp4(), 4000, ALL & !feature::HOST_TSO4), None);
        assert_eq!(judge(&tcp4(), 4000, ALL & !feature::CSUM), None);
        let ecn = Offload { gso_type: 1 | Offload::GSO_ECN, ..tcp4() };
        assert_eq!(judge(&ecn, 4000, ALL & !feature::HOST_ECN), None);
    }

    #[test]
    fn unknown_flags_and_fields_without_meaning_do_not_travel() {
        let noise = Offload { flags: 0xfc, hdr_len: 9, csum_start: 7, csum_offset: 3, ..Offload::default() };
        assert_eq!(judge(&noise, 60, ALL), Some(Offload::default()));
        let valid = Offload { flags: Offload::DATA_VALID, ..Offload::default() };
        assert_eq!(judge(&valid, 60, ALL), Some(valid));
    }

    #[test]
    fn words_are_the_header_s_bytes() {
        let o = Offload { flags: 1, gso_type: 2, hdr_len: 3, gso_size: 4, csum_start: 5, csum_offset: 6 };
        let (low, high) = to_words(&o);
        assert_eq!(low.to_le_bytes(), [1, 2, 3, 0, 4, 0, 5, 0]);
        assert_eq!(high, 6);
        assert_eq!(from_words(low, high), o);
    }
}
