//! Entry points for fuzzers: frames as bytes.

use crate::checksum::{Sum, complete_checksum, nonzero};
use crate::{Fragment, Icmp, Ipv4, Ipv6, NdOptions, Segmentation, Tcp, walk_extensions};

/// Segments a frame (behind two bytes of checksum start and two of segment size) and checks what a receiver relies on:
/// the payload is whole and in order, lengths and checksums are right.
///
/// # Panics
/// When they aren't.
pub fn fuzz_segmentation(data: &[u8]) {
    let Some((steer, frame)) = data.split_first_chunk::<4>() else { return };
    let csum_start = u16::from_le_bytes([steer[0], steer[1]]);
    let size = u16::from_le_bytes([steer[2], steer[3]]);
    let Ok(segmentation) = Segmentation::new(frame, csum_start, size) else { return };
    let tcp = usize::from(csum_start);
    let payload_at = tcp + Tcp::split(&frame[tcp..]).expect("it was accepted").0.header_len();
    let mut segments = segmentation.segments();
    let count = segments.len();
    let mut payload = vec![];
    for number in 0..count {
        let mut out = vec![0xa5; segmentation.segment_max()];
        let len = segments.write_next(&mut out);
        assert!(len <= frame.len() && len <= payload_at + usize::from(size));
        assert!(number + 1 == count || len == payload_at + usize::from(size), "only the last may be shorter");
        out.truncate(len);
        assert_eq!(checked_transport(&out, tcp), 0, "a checksum is wrong");
        payload.extend_from_slice(&out[payload_at..]);
    }
    assert_eq!(segments.write_next(&mut []), 0, "nothing is left");
    assert_eq!(payload, frame[payload_at..][..payload.len()]);
}

/// The sum over a segment's IPv4 header and over its TCP part with the pseudo header: 0 when both are right.
fn checked_transport(segment: &[u8], tcp: usize) -> u16 {
    // The IP header is where its lengths say that the segment ends; try what stands behind 0, 1 and 2 tags.
    for ip in [14, 18, 22] {
        let Some(packet) = segment.get(ip..) else { break };
        match packet[0] >> 4 {
            4 if is_ip(segment, ip) => {
                let header = Ipv4::split(packet).expect("it was accepted").0.header_len();
                let sum = Sum::default().bytes(&packet[..header]).finish();
                let transport = &segment[tcp..];
                let pseudo = Sum::default().pseudo_header(&packet[12..20], 6, transport.len());
                return sum | pseudo.bytes(transport).finish();
            }
            6 if is_ip(segment, ip) => {
                let transport = &segment[tcp..];
                let pseudo = Sum::default().pseudo_header(&packet[8..40], 6, transport.len());
                return pseudo.bytes(transport).finish();
            }
            _ => {}
        }
    }
    panic!("a segment without an IP header");
}

/// Whether an IP header stands at `at`, by the type before it.
fn is_ip(frame: &[u8], at: usize) -> bool {
    matches!(frame[at - 2..at], [0x08, 0x00] | [0x86, 0xdd])
}

/// Looks at any bytes through every view with a length in it, walks extension headers and options, completes a
/// checksum.
///
/// # Panics
/// When a view claims bytes that aren't there, or a completed checksum doesn't add up.
pub fn fuzz_headers(data: &[u8]) {
    let Some((steer, bytes)) = data.split_first_chunk::<6>() else { return };
    let [start, offset, payload_len] = [0, 2, 4].map(|at| u16::from_le_bytes([steer[at], steer[at + 1]]));
    if let Some((header, rest)) = Ipv4::split(bytes) {
        assert_eq!(header.options_len().is_some(), header.header_len() >= Ipv4::LEN);
        assert!(!header.is_sane(bytes.len()) || header.header_len() <= Ipv4::LEN + rest.len());
    }
    if let Some((header, rest)) = Ipv6::split(bytes) {
        assert!(!header.is_sane(bytes.len()) || usize::from(header.payload_len.get()) <= rest.len());
    }
    for protocol in [0, 43, 44, 51, 60, steer[0]] {
        if let Ok(chain) = walk_extensions(bytes, payload_len.into(), protocol) {
            assert!(chain.len <= bytes.len());
            assert!(chain.fragment == Fragment::None || chain.len >= 8);
        }
    }
    if let Some((_, rest)) = Icmp::split(bytes) {
        // An option has at least eight bytes, so there is an end to them.
        assert!(NdOptions::new(rest).count() <= rest.len() / 8);
    }
    let mut frame = bytes.to_vec();
    if complete_checksum(&mut frame, start, offset).is_ok() {
        let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
        assert_eq!(
            (&frame[..at], &frame[at + 2..]),
            (&bytes[..at], &bytes[at + 2..]),
            "only the sum changes"
        );
        if offset.is_multiple_of(2) {
            let stored = u16::from_be_bytes([frame[at], frame[at + 1]]);
            let mut unsummed = frame[start..].to_vec();
            unsummed[usize::from(offset)..][..2].copy_from_slice(&bytes[at..at + 2]);
            assert_eq!(stored, nonzero(Sum::default().bytes(&unsummed).finish()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_segments_a_frame() {
        let mut frame = [0u8; 54 + 250];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 1, 34, 0, 0, 0, 0, 64, 6]);
        frame[46] = 0x50;
        fuzz_segmentation(&[&[34, 0, 100, 0][..], &frame].concat());
        fuzz_headers(&[&[14, 0, 10, 0, 0, 1][..], &frame].concat());
        fuzz_headers(&[&[0; 6][..], &frame[14..]].concat());
    }
}
