//! The virtio-net header in front of each frame.

use packet::{Gso, Offload};

use crate::sys::HEADER_LEN;

/// Reads a header.
#[inline]
pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Offload {
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    Offload {
        flags: bytes[0],
        gso_type: bytes[1],
        hdr_len: short(2),
        gso_size: short(4),
        csum_start: short(6),
        csum_offset: short(8),
    }
}

/// Writes a header. `num_buffers` means nothing to a TAP device.
#[inline]
pub(crate) fn encode(offload: &Offload) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0] = offload.flags;
    bytes[1] = offload.gso_type;
    bytes[2..4].copy_from_slice(&offload.hdr_len.to_le_bytes());
    bytes[4..6].copy_from_slice(&offload.gso_size.to_le_bytes());
    bytes[6..8].copy_from_slice(&offload.csum_start.to_le_bytes());
    bytes[8..10].copy_from_slice(&offload.csum_offset.to_le_bytes());
    bytes
}

/// Whether what is asked for lies inside a frame of `len` bytes and is something we know. The kernel is trusted
/// more than a guest, but whoever can write to this device's ring of headers through it (a container with a raw
/// socket and `PACKET_VNET_HDR`) is not.
#[inline]
pub(crate) fn is_consistent(offload: &Offload, len: usize) -> bool {
    if offload.is_plain() {
        return true;
    }
    let checksum_ends = usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2;
    if offload.needs_csum() && checksum_ends > len {
        return false;
    }
    match offload.gso() {
        Gso::None => true,
        Gso::Tcp4 | Gso::Tcp6 => {
            offload.needs_csum() && offload.gso_size > 0 && usize::from(offload.hdr_len) <= len
        }
        Gso::Udp | Gso::Unknown(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSO: Offload =
        Offload { flags: 1, gso_type: 1, hdr_len: 66, gso_size: 1448, csum_start: 34, csum_offset: 16 };

    #[test]
    fn a_header_survives_the_round_trip() {
        assert_eq!(decode(&encode(&TSO)), TSO);
        assert_eq!(encode(&TSO), [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    }

    #[test]
    fn requests_beyond_the_frame_or_unknown_are_inconsistent() {
        assert!(is_consistent(&TSO, 60_000));
        assert!(is_consistent(&Offload::default(), 14));
        assert!(is_consistent(&Offload { flags: Offload::DATA_VALID, ..Offload::default() }, 14));
        assert!(is_consistent(&Offload { gso_type: 0x84, ..TSO }, 60_000));
        let csum = Offload { flags: 1, csum_start: 34, csum_offset: 16, ..Offload::default() };
        assert!(is_consistent(&csum, 52));
        assert!(!is_consistent(&csum, 51));
        assert!(!is_consistent(&Offload { csum_start: 65_535, csum_offset: 65_535, ..csum }, 65_535));
        assert!(!is_consistent(&Offload { gso_size: 0, ..TSO }, 60_000));
        assert!(!is_consistent(&Offload { flags: 0, ..TSO }, 60_000));
        assert!(!is_consistent(&Offload { hdr_len: 100, ..TSO }, 99));
        assert!(!is_consistent(&Offload { gso_type: 3, ..TSO }, 60_000));
        assert!(!is_consistent(&Offload { gso_type: 5, ..TSO }, 60_000));
    }
}
