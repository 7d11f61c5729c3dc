//! One frame, copied out of the rings, and the checksum work that virtio headers pass between guests.

use headers::checksum::{Sum, complete_checksum};
use headers::{Ethernet, Ipv4, Ipv6, Tcp, Udp, ethertype, protocol};
use virtio_defs::net::{self, HEADER_BYTES, Header};

/// Longest frame: the longest IP packet behind an Ethernet header with two tags.
pub const FRAME_MAX: usize = 65_535 + 14 + 8;

/// A frame with its virtio header, in memory that is used again and again.
pub struct Frame {
    bytes: Box<[u8]>,
    /// Bytes of the frame that were copied.
    pub(crate) copied: usize,
    /// What its sender left to be done.
    pub header: Header,
}

impl Frame {
    pub fn new() -> Frame {
        Frame { bytes: vec![0; FRAME_MAX].into(), copied: 0, header: Header::default() }
    }

    /// The bytes copied.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.copied]
    }

    /// The bytes copied, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.copied]
    }

    /// All memory, to be filled from the start.
    pub(crate) fn storage(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Computes the checksum if its sender left that open. False when the request doesn't fit the frame.
    ///
    /// Of a frame still to be segmented the pseudo-header's part is computed, too: Linux takes such a frame as it is,
    /// and switches on DPDK leave that part without the length, as network cards want it
    /// (`rte_ipv4_phdr_cksum` in lib/net/rte_ip.h).
    pub fn complete_checksum(&mut self) -> bool {
        let Header { flags, csum_start, csum_offset, gso_type, .. } = self.header;
        if flags & net::HDR_NEEDS_CSUM == 0 {
            return true;
        }
        if gso_type != net::GSO_NONE {
            request_offload(self.bytes_mut(), None);
        }
        complete_checksum(self.bytes_mut(), csum_start, csum_offset).is_ok()
    }
}

/// A virtio header's bytes.
pub fn encode(header: &Header) -> [u8; HEADER_BYTES] {
    let mut bytes = [header.flags, header.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let words = [header.hdr_len, header.gso_size, header.csum_start, header.csum_offset, header.num_buffers];
    for (place, word) in bytes[2..].as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
}

/// A virtio header from its bytes.
pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Header {
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    Header {
        flags: bytes[0],
        gso_type: bytes[1],
        hdr_len: word(2),
        gso_size: word(4),
        csum_start: word(6),
        csum_offset: word(8),
        num_buffers: word(10),
    }
}

/// Leaves the TCP or UDP checksum of a frame without tags to the device, and segmentation with it when `segment`
/// says how many bytes of payload a segment may have. Other frames need nothing.
pub fn request_offload(frame: &mut [u8], segment: Option<u16>) -> Header {
    request(frame, segment).unwrap_or_default()
}

fn request(frame: &mut [u8], segment: Option<u16>) -> Option<Header> {
    let (eth, rest) = Ethernet::split_mut(frame)?;
    let (l4, transport, sum, gso_type) = match eth.ethertype.get() {
        ethertype::IPV4 => {
            let (ip, _) = Ipv4::split(rest)?;
            let header_len = ip.header_len();
            let len = usize::from(ip.total_len.get()).checked_sub(header_len)?;
            let sum = Sum::default().pseudo_header(&ip.as_bytes()[12..20], ip.protocol, len);
            (header_len, ip.protocol, sum, net::GSO_TCP4)
        }
        ethertype::IPV6 => {
            let (ip, _) = Ipv6::split(rest)?;
            let len = usize::from(ip.payload_len.get());
            let sum = Sum::default().pseudo_header(&ip.as_bytes()[8..40], ip.next_header, len);
            (Ipv6::LEN, ip.next_header, sum, net::GSO_TCP6)
        }
        _ => return None,
    };
    let (csum_offset, l4_len) = match transport {
        protocol::TCP => (Tcp::CHECKSUM_OFFSET, Tcp::split(rest.get(l4..)?)?.0.header_len()),
        protocol::UDP => (Udp::CHECKSUM_OFFSET, Udp::LEN),
        _ => return None,
    };
    rest.get_mut(l4 + csum_offset..)?.first_chunk_mut::<2>()?.copy_from_slice(&sum.partial().to_be_bytes());
    let csum_start = Ethernet::LEN + l4;
    let mut header = Header {
        flags: net::HDR_NEEDS_CSUM,
        csum_start: csum_start as u16,
        csum_offset: csum_offset as u16,
        ..Header::default()
    };
    if let Some(size) = segment {
        header.gso_type = gso_type;
        header.gso_size = size;
        header.hdr_len = (csum_start + l4_len) as u16;
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_twelve_little_endian_bytes() {
        let header = Header {
            flags: 1,
            gso_type: 4,
            hdr_len: 0x0203,
            gso_size: 0x0405,
            csum_start: 0x0607,
            csum_offset: 0x0809,
            num_buffers: 0x0a0b,
        };
        let bytes = [1, 4, 3, 2, 5, 4, 7, 6, 9, 8, 0x0b, 0x0a];
        assert_eq!(encode(&header), bytes);
        assert_eq!(decode(&bytes), header);
    }

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut frame = vec![0x5a; 14 + 20 + 20 + payload];
        let len = frame.len();
        let (eth, rest) = Ethernet::split_mut(&mut frame).unwrap();
        eth.ethertype = ethertype::IPV4.into();
        let (ip, rest) = Ipv4::split_mut(rest).unwrap();
        (ip.version_ihl, ip.protocol) = (0x45, protocol::TCP);
        ip.total_len = (len as u16 - 14).into();
        Tcp::split_mut(rest).unwrap().0.offset_flags = 0x5010.into();
        frame
    }

    fn sum_of_segment(frame: &[u8]) -> u16 {
        let sum = Sum::default().pseudo_header(&frame[26..34], protocol::TCP, frame.len() - 34);
        sum.bytes(&frame[34..]).finish()
    }

    #[test]
    fn a_checksum_left_open_and_completed_is_right() {
        let bytes = tcp4(101);
        let mut frame = Frame::new();
        frame.storage()[..bytes.len()].copy_from_slice(&bytes);
        frame.copied = bytes.len();
        frame.header = request_offload(frame.bytes_mut(), None);
        assert_eq!((frame.header.csum_start, frame.header.csum_offset, frame.header.gso_type), (34, 16, 0));
        assert_ne!(sum_of_segment(frame.bytes()), 0);
        assert!(frame.complete_checksum());
        assert_eq!(sum_of_segment(frame.bytes()), 0);
        frame.header.csum_start = 150;
        assert!(!frame.complete_checksum(), "a request outside the frame");
    }

    #[test]
    fn a_pseudo_header_without_its_length_does_not_matter_before_segmentation() {
        let bytes = tcp4(5000);
        let mut frame = Frame::new();
        frame.storage()[..bytes.len()].copy_from_slice(&bytes);
        frame.copied = bytes.len();
        frame.header = request_offload(frame.bytes_mut(), Some(1448));
        let without_length = Sum::default().pseudo_header(&bytes[26..34], protocol::TCP, 0).partial();
        frame.bytes_mut()[50..52].copy_from_slice(&without_length.to_be_bytes());
        assert!(frame.complete_checksum());
        assert_eq!(sum_of_segment(frame.bytes()), 0);
    }

    #[test]
    fn segmentation_names_headers_and_segment_size() {
        let header = request_offload(&mut tcp4(5000), Some(1448));
        assert_eq!((header.gso_type, header.gso_size, header.hdr_len), (net::GSO_TCP4, 1448, 54));
    }

    #[test]
    fn frames_without_tcp_or_udp_ask_for_nothing() {
        let mut icmp = tcp4(20);
        icmp[23] = protocol::ICMP;
        for frame in [&mut icmp[..], &mut [0; 60], &mut tcp4(0)[..40], &mut []] {
            assert_eq!(request_offload(frame, None), Header::default());
        }
    }
}
