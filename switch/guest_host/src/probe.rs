//! The numbered, time-stamped frames of a generator.

use std::net::Ipv4Addr;

use headers::checksum::checksum;
use headers::{Ethernet, Ipv4, MacAddr, Udp, VlanTag, ethertype, protocol};

/// Where the UDP payload of a frame without tags begins.
const PAYLOAD: usize = Ethernet::LEN + Ipv4::LEN + Udp::LEN;
const MAGIC: [u8; 2] = *b"RW";

/// UDP port that numbered frames are sent to; "discard" (RFC 863).
pub const PROBE_PORT: u16 = 9;
/// First UDP source port of a generator's flows.
const FLOW_PORT: u16 = 1024;

/// What stands at the start of the UDP payload of a generator's frame, big-endian, 18 bytes: all that the shortest
/// Ethernet frame has room for.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `RW` |
/// | 2..4 | run |
/// | 4..6 | flow |
/// | 6..10 | number |
/// | 10..18 | time |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which generator sent it: a number it chose when it started.
    pub run: u16,
    /// Which of its flows it belongs to.
    pub flow: u16,
    /// Its number in the flow.
    pub number: u32,
    /// When it was sent: nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}

impl Probe {
    /// Bytes it takes.
    pub const LEN: usize = 18;

    /// Bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2..4].copy_from_slice(&self.run.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flow.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.number.to_be_bytes());
        bytes[10..].copy_from_slice(&self.time_ns.to_be_bytes());
        bytes
    }

    /// From the start of a UDP payload. `None` when it is something else.
    pub fn decode(payload: &[u8]) -> Option<Probe> {
        let bytes = payload.first_chunk::<{ Self::LEN }>()?;
        if bytes[..2] != MAGIC {
            return None;
        }
        Some(Probe {
            run: u16::from_be_bytes([bytes[2], bytes[3]]),
            flow: u16::from_be_bytes([bytes[4], bytes[5]]),
            number: u32::from_be_bytes(*bytes[6..].first_chunk()?),
            time_ns: u64::from_be_bytes(*bytes[10..].first_chunk()?),
        })
    }

    /// From a frame: UDP over IPv4, with any tags. `None` when it is something else.
    pub fn of_frame(frame: &[u8]) -> Option<Probe> {
        // The common case without looking further.
        let l3 = match frame.get(12..14)? {
            [0x08, 0x00] => Ethernet::LEN,
            _ => past_tags(frame)?,
        };
        let (ip, _) = Ipv4::split(frame.get(l3..)?)?;
        if ip.protocol != protocol::UDP || ip.is_later_fragment() {
            return None;
        }
        Probe::decode(frame.get(l3 + ip.header_len() + Udp::LEN..)?)
    }
}

/// Where the IPv4 header of a tagged frame begins.
fn past_tags(frame: &[u8]) -> Option<usize> {
    let mut at = Ethernet::LEN;
    let mut kind = u16::from_be_bytes([frame[12], frame[13]]);
    while ethertype::is_vlan(kind) {
        kind = VlanTag::split(frame.get(at..)?)?.0.ethertype.get();
        at += VlanTag::LEN;
    }
    (kind == ethertype::IPV4).then_some(at)
}

/// A frame to be sent again and again with another flow, number and time.
pub struct Template {
    frame: Vec<u8>,
    run: u16,
}

impl Template {
    /// A frame of `size` bytes.
    ///
    /// # Panics
    /// When the size is below 60 or above what an IPv4 packet holds.
    pub fn new(mac: [u8; 6], to: [u8; 6], ip: (Ipv4Addr, Ipv4Addr), size: usize, run: u16) -> Template {
        assert!(size >= PAYLOAD + Probe::LEN, "{size} bytes don't hold a probe");
        let ip_len = u16::try_from(size - Ethernet::LEN).expect("an IPv4 packet's length");
        let mut frame = vec![0; size];
        // A pattern that differs from byte to byte, for those who look at the wire.
        frame[PAYLOAD..].iter_mut().zip(0u8..=255).for_each(|(byte, n)| *byte = n);
        let (eth, rest) = Ethernet::split_mut(&mut frame).expect("long enough");
        (eth.dst, eth.src, eth.ethertype) = (MacAddr(to), MacAddr(mac), ethertype::IPV4.into());
        let (header, rest) = Ipv4::split_mut(rest).expect("long enough");
        header.version_ihl = 0x45;
        header.total_len = ip_len.into();
        header.ttl = 64;
        header.protocol = protocol::UDP;
        (header.src, header.dst) = (ip.0.to_bits().into(), ip.1.to_bits().into());
        header.checksum = checksum(header.as_bytes()).into();
        let (udp, _) = Udp::split_mut(rest).expect("long enough");
        // No UDP checksum, which IPv4 allows: the frame's FCS, or the memory bus, is what is measured.
        udp.dst = PROBE_PORT.into();
        udp.length = (ip_len - Ipv4::LEN as u16).into();
        Template { frame, run }
    }

    /// The frame with this number.
    #[inline]
    pub fn frame(&mut self, flow: u16, number: u32, time_ns: u64) -> &[u8] {
        let port = FLOW_PORT.wrapping_add(flow);
        self.frame[PAYLOAD - Udp::LEN..][..2].copy_from_slice(&port.to_be_bytes());
        let probe = Probe { run: self.run, flow, number, time_ns };
        self.frame[PAYLOAD..][..Probe::LEN].copy_from_slice(&probe.encode());
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Probe = Probe { run: 0x1234, flow: 3, number: 0xdead_beef, time_ns: 0x0102_0304_0506_0708 };

    fn template(size: usize) -> Template {
        let ip = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
        Template::new([2, 0, 0, 0, 0, 1], [0xff; 6], ip, size, PROBE.run)
    }

    #[test]
    fn a_probe_is_eighteen_known_bytes() {
        let bytes = [0x52, 0x57, 0x12, 0x34, 0, 3, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(PROBE.encode(), bytes);
        assert_eq!(Probe::decode(&bytes), Some(PROBE));
        assert_eq!(Probe::decode(&bytes[..17]), None);
        assert_eq!(Probe::decode(b"not a probe, but long enough"), None);
    }

    #[test]
    fn frames_of_every_size_carry_it_and_are_right_to_the_last_checksum() {
        for size in [60, 64, 1514, 9018] {
            let frame = template(size).frame(PROBE.flow, PROBE.number, PROBE.time_ns).to_vec();
            assert_eq!(frame.len(), size);
            assert_eq!(Probe::of_frame(&frame), Some(PROBE));
            let (ip, _) = Ipv4::split(&frame[14..]).unwrap();
            assert!(ip.is_sane(size - 14));
            assert_eq!(checksum(ip.as_bytes()), 0);
        }
    }

    #[test]
    fn tags_and_options_do_not_hide_it_and_other_frames_are_none() {
        let frame = template(100).frame(PROBE.flow, PROBE.number, PROBE.time_ns).to_vec();
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]);
        assert_eq!(Probe::of_frame(&tagged), Some(PROBE));
        let mut options = frame.clone();
        options.splice(34..34, [1; 8]);
        options[14] = 0x47;
        assert_eq!(Probe::of_frame(&options), Some(PROBE));
        for change in [(12, 0x86), (23, 6), (42, b'X')] {
            let mut other = frame.clone();
            other[change.0] = change.1;
            assert_eq!(Probe::of_frame(&other), None);
        }
        for len in 0..60 {
            assert_eq!(Probe::of_frame(&frame[..len]).is_some(), len >= 60);
            assert_eq!(Probe::of_frame(&tagged[..len]), None);
        }
    }
}
