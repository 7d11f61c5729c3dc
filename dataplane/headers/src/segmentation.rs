//! TCP segmentation for a receiver that doesn't do it: one long frame becomes several of the size that its
//! sender named.

use std::fmt;

use crate::checksum::{Sum, checksum};
use crate::{Ethernet, Ipv4, Ipv6, Tcp, U16, VlanTag, ethertype, protocol, tcp_flags};

/// Most segments of one frame. With 64 KiB of payload that is 64 bytes a segment, an eighth of what the shortest
/// ordinary path takes; without a bound a guest that asks for single bytes would keep its worker busy for long.
pub const SEGMENTS_MAX: usize = 1024;

/// Most VLAN tags before the IP header.
const TAGS_MAX: usize = 2;

/// Why a frame can't be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSegmentation {
    /// The frame ends inside its Ethernet or IP header.
    Short {
        /// The frame's length in bytes.
        frame_len: usize,
    },
    /// What follows Ethernet and up to two VLAN tags isn't IPv4 or IPv6.
    NotIp {
        /// The type that stands there.
        ethertype: u16,
    },
    /// Version and lengths of the IP header contradict each other or the frame.
    BadIp,
    /// It is a fragment.
    Fragment,
    /// The payload isn't TCP, or is behind an extension header that segments can't simply repeat.
    NotTcp {
        /// The [`protocol`] that stands there.
        protocol: u8,
    },
    /// The checksum starts elsewhere than the TCP header.
    ChecksumStart {
        /// Where it starts.
        start: usize,
        /// Where the TCP header is.
        tcp: usize,
    },
    /// The TCP header is shorter than 20 bytes or longer than the packet.
    BadTcp,
    /// Segments of no bytes.
    NoSize,
    /// More than [`SEGMENTS_MAX`].
    TooMany {
        /// How many it would be.
        segments: usize,
    },
}

impl fmt::Display for BadSegmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { frame_len } => write!(f, "a frame of {frame_len} bytes ends inside its headers"),
            Self::NotIp { ethertype } => write!(f, "Ethernet type {ethertype:#06x} is not IP"),
            Self::BadIp => f.write_str("the lengths in the IP header contradict each other or the frame"),
            Self::Fragment => f.write_str("a fragment can't be segmented"),
            Self::NotTcp { protocol } => write!(f, "IP protocol {protocol} is not TCP"),
            Self::ChecksumStart { start, tcp } => {
                write!(f, "the checksum starts at {start}, the TCP header at {tcp}")
            }
            Self::BadTcp => f.write_str("the length of the TCP header doesn't fit the packet"),
            Self::NoSize => f.write_str("segments of no bytes"),
            Self::TooMany { segments } => write!(f, "{segments} segments, at most {SEGMENTS_MAX} are made"),
        }
    }
}

impl std::error::Error for BadSegmentation {}

/// A TCP frame over IPv4 or IPv6 to be sent in segments; everything in it has been checked.
///
/// ```
/// # let mut frame = [0u8; 54 + 250];
/// # frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 1, 34, 0, 0, 0, 0, 64, 6]);
/// # frame[46] = 0x50;
/// let segmentation = headers::Segmentation::new(&frame, 34, 100)?;
/// let mut segments = segmentation.segments();
/// let mut lengths = vec![];
/// while segments.len() > 0 {
///     let mut out = [0; 1514];
///     lengths.push(segments.write_next(&mut out));
/// }
/// assert_eq!(lengths, [154, 154, 104]);
/// # Ok::<(), headers::BadSegmentation>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Segmentation<'a> {
    /// Up to the end of the IP packet: padding behind it is no payload.
    packet: &'a [u8],
    /// Where the IP header is.
    ip: usize,
    version: Version,
    /// Where the TCP header is.
    tcp: usize,
    /// Where the payload is.
    payload: usize,
    /// Payload bytes per segment.
    size: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl<'a> Segmentation<'a> {
    /// Checks a whole frame whose TCP header is at `csum_start`, to be cut into `gso_size` payload bytes each (the
    /// fields of the virtio-net header, virtio 1.2, section 5.1.6).
    ///
    /// # Errors
    /// [`BadSegmentation`], whatever the bytes are.
    pub fn new(frame: &'a [u8], csum_start: u16, gso_size: u16) -> Result<Self, BadSegmentation> {
        let (ethertype, ip) = network_header(frame)?;
        let (version, tcp, end) = match ethertype {
            ethertype::IPV4 => ipv4(frame, ip)?,
            ethertype::IPV6 => ipv6(frame, ip)?,
            ethertype => return Err(BadSegmentation::NotIp { ethertype }),
        };
        let start = usize::from(csum_start);
        if start != tcp {
            return Err(BadSegmentation::ChecksumStart { start, tcp });
        }
        let packet = &frame[..end];
        let (header, _) = Tcp::split(&packet[tcp..]).ok_or(BadSegmentation::BadTcp)?;
        let payload = tcp + header.header_len();
        if header.header_len() < Tcp::LEN || payload > end {
            return Err(BadSegmentation::BadTcp);
        }
        let size = usize::from(gso_size);
        if size == 0 {
            return Err(BadSegmentation::NoSize);
        }
        let segments = (end - payload).div_ceil(size).max(1);
        if segments > SEGMENTS_MAX {
            return Err(BadSegmentation::TooMany { segments });
        }
        Ok(Self { packet, ip, version, tcp, payload, size, count: segments })
    }

    /// Length of the longest segment in bytes, headers and VLAN tags included.
    pub fn segment_max(&self) -> usize {
        self.packet.len().min(self.payload + self.size)
    }

    /// The segments, in order. At least one.
    pub fn segments(&self) -> Segments<'a> {
        Segments { of: *self, next: 0 }
    }
}

/// The type behind the VLAN tags and where what it names starts.
fn network_header(frame: &[u8]) -> Result<(u16, usize), BadSegmentation> {
    let short = BadSegmentation::Short { frame_len: frame.len() };
    let (ethernet, mut rest) = Ethernet::split(frame).ok_or(short)?;
    let mut ethertype = ethernet.ethertype.get();
    for _ in 0..TAGS_MAX {
        if !ethertype::is_vlan(ethertype) {
            break;
        }
        let (tag, behind) = VlanTag::split(rest).ok_or(short)?;
        (ethertype, rest) = (tag.ethertype.get(), behind);
    }
    Ok((ethertype, frame.len() - rest.len()))
}

/// Where TCP starts and the packet ends.
fn ipv4(frame: &[u8], ip: usize) -> Result<(Version, usize, usize), BadSegmentation> {
    let (header, _) = Ipv4::split(&frame[ip..]).ok_or(BadSegmentation::Short { frame_len: frame.len() })?;
    if !header.is_sane(frame.len() - ip) {
        return Err(BadSegmentation::BadIp);
    }
    if header.is_fragment() {
        return Err(BadSegmentation::Fragment);
    }
    if header.protocol != protocol::TCP {
        return Err(BadSegmentation::NotTcp { protocol: header.protocol });
    }
    Ok((Version::V4, ip + header.header_len(), ip + usize::from(header.total_len.get())))
}

/// Where TCP starts and the packet ends.
///
/// Options for the hops and the destination are repeated in each segment. Others can't be: authentication covers
/// the payload, and with a routing header the checksum is over another destination.
fn ipv6(frame: &[u8], ip: usize) -> Result<(Version, usize, usize), BadSegmentation> {
    let (header, _) = Ipv6::split(&frame[ip..]).ok_or(BadSegmentation::Short { frame_len: frame.len() })?;
    if !header.is_sane(frame.len() - ip) {
        return Err(BadSegmentation::BadIp);
    }
    let mut at = ip + Ipv6::LEN;
    let end = at + usize::from(header.payload_len.get());
    let mut next = header.next_header;
    while let protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS = next {
        let &[protocol, units] =
            frame[..end].get(at..).and_then(|options| options.first_chunk()).ok_or(BadSegmentation::BadIp)?;
        at += 8 * (usize::from(units) + 1);
        next = protocol;
    }
    match next {
        _ if at > end => Err(BadSegmentation::BadIp),
        protocol::TCP => Ok((Version::V6, at, end)),
        protocol::FRAGMENT => Err(BadSegmentation::Fragment),
        protocol => Err(BadSegmentation::NotTcp { protocol }),
    }
}

/// The segments of a frame that are still to be written.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    of: Segmentation<'a>,
    next: usize,
}

impl Segments<'_> {
    /// How many are still to come.
    #[expect(clippy::len_without_is_empty, reason = "a count of what is to be done, not a collection")]
    pub fn len(&self) -> usize {
        self.of.count - self.next
    }

    /// Writes the next segment to the start of `out` and returns its length in bytes; 0 when none is left.
    ///
    /// Headers are those of the frame but for what must differ: IP length, identification and checksum, TCP
    /// sequence number and checksum; FIN and PSH are in the last segment only, CWR in the first only.
    ///
    /// # Panics
    /// When `out` is shorter than [`Segmentation::segment_max`].
    pub fn write_next(&mut self, out: &mut [u8]) -> usize {
        let of = self.of;
        if self.len() == 0 {
            return 0;
        }
        let (index, first, last) = (self.next, self.next == 0, self.len() == 1);
        self.next += 1;
        let skipped = index * of.size;
        let from = of.payload + skipped;
        let to = of.packet.len().min(from + of.size);
        let len = of.payload + (to - from);
        let out = &mut out[..len];
        out[..of.payload].copy_from_slice(&of.packet[..of.payload]);
        out[of.payload..].copy_from_slice(&of.packet[from..to]);

        // A packet of 65,535 bytes was checked to have these lengths and at most SEGMENTS_MAX segments.
        let (before, transport) = out.split_at_mut(of.tcp);
        let transport_len = transport.len();
        let ip = &mut before[of.ip..];
        let addresses = match of.version {
            Version::V4 => {
                let total_len = (ip.len() + transport_len) as u16;
                let (header, _) = Ipv4::split_mut(ip).expect("checked");
                header.total_len = total_len.into();
                header.id = header.id.get().wrapping_add(index as u16).into();
                header.checksum = U16::ZERO;
                let sum = checksum(ip);
                Ipv4::split_mut(ip).expect("checked").0.checksum = sum.into();
                &ip[12..20]
            }
            Version::V6 => {
                let payload_len = (ip.len() - Ipv6::LEN + transport_len) as u16;
                Ipv6::split_mut(ip).expect("checked").0.payload_len = payload_len.into();
                &ip[8..40]
            }
        };
        let pseudo = Sum::default().pseudo_header(addresses, protocol::TCP, transport_len);

        let (header, _) = Tcp::split_mut(transport).expect("checked");
        header.seq = header.seq.get().wrapping_add(skipped as u32).into();
        let only_last = if last { 0 } else { tcp_flags::FIN | tcp_flags::PSH };
        let only_first = if first { 0 } else { tcp_flags::CWR };
        header.set_flags(header.flags() & !(only_last | only_first));
        header.checksum = U16::ZERO;
        let sum = pseudo.bytes(transport).finish();
        Tcp::split_mut(transport).expect("checked").0.checksum = sum.into();
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tcp_flags::{ACK, CWR, ECE, FIN, PSH};

    /// A frame as a sender with offloads makes it, and where its TCP header is.
    struct Frame {
        bytes: Vec<u8>,
        csum_start: u16,
    }

    #[derive(Clone, Debug)]
    struct Shape {
        tags: usize,
        v6: bool,
        /// In 8-byte units: IPv4 options, or IPv6 destination options.
        ip_options: usize,
        /// In 4-byte units.
        tcp_options: usize,
        flags: u16,
        seq: u32,
        id: u16,
        padding: usize,
    }

    const PLAIN: Shape =
        Shape { tags: 0, v6: false, ip_options: 0, tcp_options: 0, flags: ACK, seq: 1, id: 2, padding: 0 };

    fn shape() -> impl Strategy<Value = Shape> {
        let options = (0usize..=2, any::<bool>(), 0usize..=5, 0usize..=10);
        (options, 0u16..0x1000, any::<u32>(), any::<u16>(), 0usize..20).prop_map(
            |((tags, v6, ip_options, tcp_options), flags, seq, id, padding)| Shape {
                tags,
                v6,
                ip_options,
                tcp_options,
                flags,
                seq,
                id,
                padding,
            },
        )
    }

    fn frame(shape: &Shape, payload: &[u8]) -> Frame {
        let mut bytes: Vec<u8> = (1..=12).collect();
        let tags = [[0x88, 0xa8, 0x20, 7], [0x81, 0x00, 0x00, 8]];
        bytes.extend(tags[2 - shape.tags..].concat());
        let tcp_len = 20 + 4 * shape.tcp_options;
        let options_len = 8 * shape.ip_options;
        let transport_len = tcp_len + payload.len();
        if shape.v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(((options_len + transport_len) as u16).to_be_bytes());
            bytes.extend([if shape.ip_options > 0 { 60 } else { 6 }, 64]);
            bytes.extend(100..132);
            if let Some(more) = shape.ip_options.checked_sub(1) {
                // Whatever the options are, they are repeated.
                bytes.extend([6, more as u8]);
                bytes.extend(vec![1; 8 * more + 6]);
            }
        } else {
            let total_len = (20 + options_len + transport_len) as u16;
            bytes.extend([0x08, 0x00, 0x45 + 2 * shape.ip_options as u8, 0]);
            bytes.extend(total_len.to_be_bytes());
            bytes.extend(shape.id.to_be_bytes());
            bytes.extend([0x40, 0, 64, 6, 0xde, 0xad, 10, 0, 0, 1, 10, 0, 0, 2]);
            bytes.extend(vec![1; options_len]);
        }
        let csum_start = bytes.len() as u16;
        bytes.extend([0x10, 0x00, 0x00, 0x50]);
        bytes.extend(shape.seq.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(((tcp_len as u16 / 4) << 12 | shape.flags).to_be_bytes());
        bytes.extend([0xff, 0xff, 0xde, 0xad, 0, 0]);
        bytes.extend(vec![1; tcp_len - 20]);
        bytes.extend(payload);
        bytes.extend(vec![0xee; shape.padding]);
        Frame { bytes, csum_start }
    }

    fn segments(frame: &Frame, gso_size: u16) -> Vec<Vec<u8>> {
        let segmentation = Segmentation::new(&frame.bytes, frame.csum_start, gso_size).unwrap();
        let mut segments = segmentation.segments();
        let mut written = vec![];
        let mut out = vec![0x55; segmentation.segment_max()];
        while segments.len() > 0 {
            let before = segments.len();
            let len = segments.write_next(&mut out);
            assert_eq!(segments.len(), before - 1);
            written.push(out[..len].to_vec());
        }
        assert_eq!(segments.write_next(&mut out), 0, "none is left");
        let longest = written.iter().map(Vec::len).max();
        assert_eq!(longest, Some(segmentation.segment_max()));
        written
    }

    fn flags(segment: &[u8], frame: &Frame) -> u16 {
        Tcp::split(&segment[frame.csum_start.into()..]).unwrap().0.flags()
    }

    proptest! {
        #[test]
        fn segments_are_frames_that_carry_the_payload_in_order(
            shape in shape(),
            payload in proptest::collection::vec(any::<u8>(), 0..5000),
            gso_size in 5u16..2000,
        ) {
            let frame = frame(&shape, &payload);
            let segments = segments(&frame, gso_size);
            prop_assert_eq!(segments.len(), payload.len().div_ceil(gso_size.into()).max(1));
            let (ip, tcp) = (14 + 4 * shape.tags, usize::from(frame.csum_start));
            let mut carried: Vec<u8> = vec![];
            for (i, segment) in segments.iter().enumerate() {
                prop_assert_eq!(&segment[..ip], &frame.bytes[..ip], "Ethernet and VLAN tags");
                let transport = &segment[tcp..];
                if shape.v6 {
                    let (header, _) = Ipv6::split(&segment[ip..]).unwrap();
                    prop_assert_eq!(usize::from(header.payload_len.get()), segment.len() - ip - 40);
                    prop_assert_eq!(&segment[ip + 6..tcp], &frame.bytes[ip + 6..tcp]);
                } else {
                    let (header, _) = Ipv4::split(&segment[ip..]).unwrap();
                    prop_assert_eq!(usize::from(header.total_len.get()), segment.len() - ip);
                    prop_assert_eq!(header.id.get(), shape.id.wrapping_add(i as u16));
                    prop_assert_eq!(checksum(&segment[ip..tcp]), 0);
                    prop_assert_eq!(&segment[ip + 12..tcp], &frame.bytes[ip + 12..tcp]);
                }
                let addresses = if shape.v6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
                let pseudo = Sum::default().pseudo_header(&segment[addresses], 6, transport.len());
                prop_assert_eq!(pseudo.bytes(transport).finish(), 0, "TCP checksum");

                let (header, _) = Tcp::split(transport).unwrap();
                prop_assert_eq!(header.seq.get(), shape.seq.wrapping_add(carried.len() as u32));
                let mut expected = shape.flags;
                if i + 1 < segments.len() {
                    expected &= !(FIN | PSH);
                }
                if i > 0 {
                    expected &= !CWR;
                }
                prop_assert_eq!(header.flags(), expected);
                prop_assert_eq!(&transport[20..header.header_len()], &frame.bytes[tcp + 20..][..4 * shape.tcp_options]);
                let piece = &transport[header.header_len()..];
                prop_assert!(piece.len() <= gso_size.into());
                carried.extend(piece);
            }
            prop_assert_eq!(carried, payload);
        }

        #[test]
        fn no_frame_makes_it_panic(
            shape in shape(),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            csum_start in prop::option::of(any::<u16>()),
            gso_size in any::<u16>(),
        ) {
            let mut frame = frame(&shape, &payload);
            for (at, value) in changes {
                let headers = usize::from(frame.csum_start) + 20;
                frame.bytes[at.index(headers)] = value;
            }
            frame.bytes.truncate(cut.index(2 * frame.bytes.len()));
            frame.csum_start = csum_start.unwrap_or(frame.csum_start);
            if Segmentation::new(&frame.bytes, frame.csum_start, gso_size).is_ok() {
                segments(&frame, gso_size);
            }
        }
    }

    #[test]
    fn flags_that_end_are_last_and_flags_that_begin_are_first() {
        let frame = frame(&Shape { flags: ACK | ECE | CWR | PSH | FIN, ..PLAIN }, &[7; 300]);
        let segments = segments(&frame, 100);
        let flags: Vec<u16> = segments.iter().map(|s| flags(s, &frame)).collect();
        assert_eq!(flags, [ACK | ECE | CWR, ACK | ECE, ACK | ECE | PSH | FIN]);
    }

    #[test]
    fn the_longest_packet_is_segmented_and_its_sequence_wraps() {
        let shape = Shape { seq: u32::MAX - 1000, id: u16::MAX - 3, ..PLAIN };
        let payload: Vec<u8> = (0..65_495u32).map(|i| (i / 7) as u8).collect();
        let segments = segments(&frame(&shape, &payload), 1448);
        assert_eq!(segments.len(), 46);
        assert_eq!(segments.iter().flat_map(|s| &s[54..]).copied().collect::<Vec<_>>(), payload);
    }

    #[test]
    fn a_payload_that_fits_is_one_segment_without_the_padding() {
        for len in [0, 1, 100] {
            let frame = frame(&Shape { padding: 6, ..PLAIN }, &vec![7; len]);
            let segments = segments(&frame, 100);
            assert_eq!(segments.len(), 1, "{len} bytes");
            assert_eq!(segments[0].len(), 54 + len);
        }
    }

    #[test]
    fn the_number_of_segments_is_bounded() {
        let fits = frame(&PLAIN, &[7; SEGMENTS_MAX]);
        assert_eq!(segments(&fits, 1).len(), SEGMENTS_MAX);
        let more = frame(&PLAIN, &[7; SEGMENTS_MAX + 1]);
        let refused = Segmentation::new(&more.bytes, more.csum_start, 1).unwrap_err();
        assert_eq!(refused, BadSegmentation::TooMany { segments: SEGMENTS_MAX + 1 });
    }

    #[test]
    fn what_is_no_tcp_packet_is_refused_with_the_cause() {
        use BadSegmentation::*;
        let refused = |shape: &Shape, change: &dyn Fn(&mut Frame)| {
            let mut frame = frame(shape, &[7; 300]);
            change(&mut frame);
            Segmentation::new(&frame.bytes, frame.csum_start, 100).unwrap_err()
        };
        let set = |at: usize, value: u8| move |f: &mut Frame| f.bytes[at] = value;
        let v6 = Shape { v6: true, ..PLAIN };
        let v6_options = Shape { v6: true, ip_options: 1, ..PLAIN };
        let tagged = Shape { tags: 2, ..PLAIN };

        assert_eq!(refused(&PLAIN, &|f| f.bytes.truncate(13)), Short { frame_len: 13 });
        assert_eq!(refused(&PLAIN, &|f| f.bytes.truncate(33)), Short { frame_len: 33 });
        assert_eq!(refused(&tagged, &|f| f.bytes.truncate(17)), Short { frame_len: 17 });
        assert_eq!(refused(&v6, &|f| f.bytes.truncate(53)), Short { frame_len: 53 });
        assert_eq!(refused(&PLAIN, &set(13, 6)), NotIp { ethertype: 0x0806 });
        assert_eq!(refused(&tagged, &|f| f.bytes[20..22].fill(0x81)), NotIp { ethertype: 0x8181 });
        assert_eq!(refused(&PLAIN, &set(14, 0x44)), BadIp);
        assert_eq!(refused(&PLAIN, &set(14, 0x65)), BadIp);
        assert_eq!(refused(&PLAIN, &set(16, 2)), BadIp, "longer than the frame");
        assert_eq!(refused(&PLAIN, &|f| f.bytes[16..18].fill(0)), BadIp);
        assert_eq!(refused(&v6, &set(18, 2)), BadIp);
        assert_eq!(refused(&PLAIN, &set(20, 0x20)), Fragment);
        assert_eq!(refused(&PLAIN, &set(21, 1)), Fragment);
        assert_eq!(refused(&v6, &set(20, protocol::FRAGMENT)), Fragment);
        assert_eq!(refused(&PLAIN, &set(23, 17)), NotTcp { protocol: 17 });
        assert_eq!(refused(&v6, &set(20, protocol::ROUTING)), NotTcp { protocol: 43 });
        assert_eq!(refused(&v6_options, &set(55, 200)), BadIp, "options longer than the packet");
        assert_eq!(refused(&v6_options, &|f| f.bytes[18..20].fill(0)), BadIp);
        assert_eq!(refused(&PLAIN, &|f| f.csum_start = 35), ChecksumStart { start: 35, tcp: 34 });
        assert_eq!(refused(&PLAIN, &set(46, 0x40)), BadTcp);
        assert_eq!(refused(&PLAIN, &|f| f.bytes[16..18].copy_from_slice(&[0, 39])), BadTcp);
        assert_eq!(refused(&PLAIN, &|f| (f.bytes[17], f.bytes[16], f.bytes[46]) = (40, 0, 0x60)), BadTcp);
        let plain = frame(&PLAIN, &[7; 300]);
        assert_eq!(Segmentation::new(&plain.bytes, 34, 0).unwrap_err(), NoSize);
    }
}
