//! Extraction against two judges: frames built by somebody else's encoder, whose fields are known, and a slow,
//! obvious parser that reads a frame byte by byte, on anything.

use std::collections::BTreeMap;

use etherparse::{
    ArpEthIpv4Packet, ArpHardwareId, ArpOperation, EtherType, Icmpv4Type, Icmpv6Type, PacketBuilder,
    SingleVlanHeader, VlanId,
};
use flow::{Field, FlowKey, KeySlot, Layers, PRESENT, extract, extract_l2, frag, fuzz_extract};
use packet::HEAD_MAX;
use proptest::prelude::*;

const DST: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
const SRC: [u8; 6] = [0x06, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

/// The key as a worker makes it: 64 bytes first, more only when asked for.
fn key_of(frame: &[u8]) -> (FlowKey, Layers) {
    let mut slot = KeySlot::EMPTY;
    let mut layers = extract(&frame[..frame.len().min(64)], frame.len(), 9, &mut slot);
    if layers.needs_more() {
        layers = extract(&frame[..frame.len().min(HEAD_MAX)], frame.len(), 9, &mut slot);
    }
    (*slot.key(), layers)
}

/// The reference: a map of fields, filled from a cursor that takes bytes off the front.
struct Reference {
    fields: BTreeMap<Field, u128>,
}

struct Bytes<'a> {
    rest: &'a [u8],
    /// Bytes the layer has, which may be more than there are to read.
    size: usize,
}

impl Bytes<'_> {
    fn peek(&self, at: usize, n: usize) -> Option<u128> {
        if at + n > self.size {
            return None;
        }
        let bytes = self.rest.get(at..at + n)?;
        Some(bytes.iter().fold(0, |value, &b| value << 8 | b as u128))
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        if n > self.size {
            return None;
        }
        self.rest = self.rest.get(n..)?;
        self.size -= n;
        Some(())
    }
}

impl Reference {
    fn parse(frame: &[u8], in_port: u32) -> FlowKey {
        let mut reference = Reference { fields: BTreeMap::from([(Field::InPort, in_port as u128)]) };
        let mut bytes = Bytes { rest: &frame[..frame.len().min(HEAD_MAX)], size: frame.len() };
        let _ = reference.ethernet(&mut bytes);
        let mut key = FlowKey::default();
        for (field, value) in reference.fields {
            key.set(field, value);
        }
        key
    }

    fn put(&mut self, field: Field, value: u128) {
        self.fields.insert(field, value);
    }

    fn ethernet(&mut self, bytes: &mut Bytes) -> Option<()> {
        bytes.peek(0, 14)?;
        self.put(Field::EthDst, bytes.peek(0, 6)?);
        self.put(Field::EthSrc, bytes.peek(6, 6)?);
        bytes.skip(12)?;
        for field in [Field::VlanTci, Field::VlanTci2] {
            let tagged = matches!(bytes.peek(0, 2)?, 0x8100 | 0x88a8 | 0x9100);
            if !tagged || bytes.peek(0, 6).is_none() {
                break;
            }
            self.put(field, bytes.peek(2, 2)? | PRESENT as u128);
            bytes.skip(4)?;
        }
        let mut ethertype = bytes.peek(0, 2)?;
        bytes.skip(2)?;
        if ethertype < 0x600 {
            ethertype = 0x5ff;
            if bytes.peek(0, 6) == Some(0xaaaa_0300_0000) && bytes.peek(6, 2).is_some_and(|t| t >= 0x600) {
                ethertype = bytes.peek(6, 2)?;
                bytes.skip(8)?;
            }
        }
        self.put(Field::EthType, ethertype);
        match ethertype {
            0x0800 => self.ipv4(bytes),
            0x86dd => self.ipv6(bytes),
            0x0806 | 0x8035 => self.arp(bytes),
            _ => None,
        }
    }

    fn arp(&mut self, bytes: &mut Bytes) -> Option<()> {
        bytes.peek(0, 28)?;
        if bytes.peek(0, 6)? == 0x0001_0800_0604 {
            let op = bytes.peek(6, 2)?;
            self.put(Field::IpProto, if op > 255 { 0 } else { op });
            self.put(Field::ArpSha, bytes.peek(8, 6)?);
            self.put(Field::Ipv4Src, bytes.peek(14, 4)?);
            self.put(Field::ArpTha, bytes.peek(18, 6)?);
            self.put(Field::Ipv4Dst, bytes.peek(24, 4)?);
        }
        None
    }

    fn ipv4(&mut self, bytes: &mut Bytes) -> Option<()> {
        bytes.peek(0, 20)?;
        let header = (bytes.peek(0, 1)? & 15) as usize * 4;
        let total = bytes.peek(2, 2)? as usize;
        if bytes.peek(0, 1)? >> 4 != 4 || header < 20 || total < header || total > bytes.size {
            return None;
        }
        self.put(Field::IpTos, bytes.peek(1, 1)?);
        self.put(Field::IpTtl, bytes.peek(8, 1)?);
        self.put(Field::IpProto, bytes.peek(9, 1)?);
        self.put(Field::Ipv4Src, bytes.peek(12, 4)?);
        self.put(Field::Ipv4Dst, bytes.peek(16, 4)?);
        let (more, offset) = (bytes.peek(6, 2)? & 0x2000 != 0, bytes.peek(6, 2)? & 0x1fff);
        if more || offset != 0 {
            self.put(Field::IpFrag, frag::ANY as u128);
        }
        if offset != 0 {
            self.put(Field::IpFrag, (frag::ANY | frag::LATER) as u128);
            return None;
        }
        let protocol = bytes.peek(9, 1)?;
        bytes.size = total;
        bytes.skip(header)?;
        self.transport(bytes, protocol)
    }

    fn ipv6(&mut self, bytes: &mut Bytes) -> Option<()> {
        bytes.peek(0, 40)?;
        let payload = bytes.peek(4, 2)? as usize;
        if bytes.peek(0, 1)? >> 4 != 6 || 40 + payload > bytes.size {
            return None;
        }
        self.put(Field::Ipv6Src, bytes.peek(8, 16)?);
        self.put(Field::Ipv6Dst, bytes.peek(24, 16)?);
        let (tos, ttl, mut next) = (bytes.peek(0, 2)? >> 4 & 0xff, bytes.peek(7, 1)?, bytes.peek(6, 1)?);
        bytes.size = 40 + payload;
        bytes.skip(40)?;
        let mut fragment = 0;
        while matches!(next, 0 | 43 | 44 | 51 | 60) {
            bytes.peek(0, 8)?;
            let len = bytes.peek(1, 1)? as usize;
            if next == 44 {
                let (more, offset) = (bytes.peek(3, 1)? & 1 != 0, bytes.peek(2, 2)? >> 3);
                if more || offset != 0 {
                    fragment |= frag::ANY;
                }
                if offset != 0 {
                    fragment |= frag::LATER;
                    break;
                }
                next = bytes.peek(0, 1)?;
                bytes.skip(8)?;
            } else {
                let bytes_len = if next == 51 { (len + 2) * 4 } else { (len + 1) * 8 };
                next = bytes.peek(0, 1)?;
                bytes.skip(bytes_len)?;
            }
        }
        self.put(Field::IpTos, tos);
        self.put(Field::IpTtl, ttl);
        self.put(Field::IpProto, next);
        self.put(Field::IpFrag, fragment as u128);
        if fragment & frag::LATER != 0 { None } else { self.transport(bytes, next) }
    }

    fn transport(&mut self, bytes: &mut Bytes, protocol: u128) -> Option<()> {
        let (header, port) = match protocol {
            6 => (20, 2),
            17 => (8, 2),
            132 => (12, 2),
            1 => (8, 1),
            58 => (4, 1),
            _ => return None,
        };
        if bytes.size < header {
            return None;
        }
        let flags = if protocol == 6 { bytes.peek(12, 2)? & 0xfff } else { 0 };
        let (src, dst) = (bytes.peek(0, port)?, bytes.peek(port, port)?);
        self.put(Field::TpSrc, src);
        self.put(Field::TpDst, dst);
        self.put(Field::TcpFlags, flags);
        if protocol == 58 { self.neighbor(bytes) } else { None }
    }

    fn neighbor(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (option, field) = match bytes.peek(0, 2)? {
            0x8700 => (1, Field::ArpSha),
            0x8800 => (2, Field::ArpTha),
            _ => return None,
        };
        let target = bytes.peek(8, 16)?;
        bytes.skip(24)?;
        let mut addresses = Vec::new();
        while let (Some(kind), Some(units)) = (bytes.peek(0, 1), bytes.peek(1, 1)) {
            if kind == option && units == 1 && bytes.peek(0, 8).is_some() {
                addresses.push(bytes.peek(2, 6)?);
            }
            if units == 0 || bytes.skip(units as usize * 8).is_none() {
                break;
            }
        }
        // An address of zeros counts as none, here as in Open vSwitch.
        let first = addresses.iter().position(|&a| a != 0);
        if first.is_some_and(|first| addresses.len() > first + 1) {
            return None;
        }
        self.put(Field::NdTarget, target);
        self.put(field, first.map_or(0, |first| addresses[first]));
        None
    }
}

fn assert_agrees(frame: &[u8]) {
    let expected = Reference::parse(frame, 9);
    let (key, _) = key_of(frame);
    for &field in Field::ALL {
        assert_eq!(key.get(field), expected.get(field), "{field:?} of {frame:02x?}");
    }
    fuzz_extract(frame);
}

/// Asserts these fields, and that every other one is zero; then that the reference says the same, for the frame
/// and for all it can be cut to.
fn assert_fields(frame: &[u8], fields: &[(Field, u128)]) {
    let (key, _) = key_of(frame);
    let mut expected = FlowKey::default();
    expected.set(Field::InPort, 9);
    expected.set(Field::EthDst, 0x0211_2233_4455);
    expected.set(Field::EthSrc, 0x06aa_bbcc_ddee);
    for &(field, value) in fields {
        expected.set(field, value);
    }
    for &field in Field::ALL {
        assert_eq!(key.get(field), expected.get(field), "{field:?}");
    }
    for len in 0..=frame.len() {
        assert_agrees(&frame[..len]);
    }
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(SRC, DST)
}

macro_rules! built {
    ($builder:expr $(, $payload:expr)?) => {{
        let mut frame = Vec::new();
        $builder.write(&mut frame $(, $payload)?).unwrap();
        frame
    }};
}

#[test]
fn a_tcp_frame_has_its_five_words() {
    let frame =
        built!(ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63).tcp(1000, 2000, 5, 6).syn().ns(), &[7; 10]);
    assert_fields(
        &frame,
        &[
            (Field::EthType, 0x800),
            (Field::IpProto, 6),
            (Field::IpTtl, 63),
            (Field::Ipv4Src, 0x0a00_0001),
            (Field::Ipv4Dst, 0x0a00_0002),
            (Field::TpSrc, 1000),
            (Field::TpDst, 2000),
            (Field::TcpFlags, 0x102),
        ],
    );
    let (_, layers) = key_of(&frame);
    assert_eq!(
        layers,
        Layers { l3: 14, l4: 34, tags: 0, nd_link_layer: 0, present: Layers::IPV4 | Layers::TCP }
    );
}

#[test]
fn both_tags_of_a_double_tagged_frame_are_in_the_key() {
    let vid = |n| VlanId::try_new(n).unwrap();
    let frame = built!(
        ethernet().double_vlan(vid(100), vid(200)).ipv4([1, 2, 3, 4], [5, 6, 7, 8], 64).udp(53, 5353),
        &[1, 2, 3]
    );
    assert_fields(
        &frame,
        &[
            (Field::VlanTci, 100 | PRESENT as u128),
            (Field::VlanTci2, 200 | PRESENT as u128),
            (Field::EthType, 0x800),
            (Field::IpProto, 17),
            (Field::IpTtl, 64),
            (Field::Ipv4Src, 0x0102_0304),
            (Field::Ipv4Dst, 0x0506_0708),
            (Field::TpSrc, 53),
            (Field::TpDst, 5353),
        ],
    );
    assert_eq!((key_of(&frame).1.l3, key_of(&frame).1.tags), (22, 2));
}

#[test]
fn priority_of_a_tag_is_kept_and_drop_eligible_reads_as_present() {
    let tag = SingleVlanHeader {
        pcp: 5.try_into().unwrap(),
        drop_eligible_indicator: true,
        vlan_id: VlanId::try_new(7).unwrap(),
        ether_type: EtherType(0x88cc),
    };
    let mut frame = [DST, SRC].concat();
    frame.extend([0x81, 0x00]);
    frame.extend(tag.to_bytes());
    frame.extend([0; 46]);
    assert_fields(&frame, &[(Field::VlanTci, 0xb007), (Field::EthType, 0x88cc)]);
}

#[test]
fn a_third_tag_is_the_ethernet_type() {
    let mut frame = [DST, SRC].concat();
    frame.extend([0x88, 0xa8, 0, 1, 0x91, 0x00, 0, 2, 0x81, 0x00, 0, 3, 8, 0]);
    frame.extend([0; 46]);
    assert_fields(
        &frame,
        &[
            (Field::VlanTci, 1 | PRESENT as u128),
            (Field::VlanTci2, 2 | PRESENT as u128),
            (Field::EthType, 0x8100),
        ],
    );
}

#[test]
fn icmp_type_and_code_are_in_the_ports() {
    let frame = built!(
        ethernet().ipv4([1, 1, 1, 1], [2, 2, 2, 2], 1).icmpv4(Icmpv4Type::Unknown {
            type_u8: 3,
            code_u8: 13,
            bytes5to8: [0; 4]
        }),
        &[0; 4]
    );
    assert_fields(
        &frame,
        &[
            (Field::EthType, 0x800),
            (Field::IpProto, 1),
            (Field::IpTtl, 1),
            (Field::Ipv4Src, 0x0101_0101),
            (Field::Ipv4Dst, 0x0202_0202),
            (Field::TpSrc, 3),
            (Field::TpDst, 13),
        ],
    );
}

#[test]
fn fragments_are_told_apart_and_later_ones_have_no_ports() {
    let mut frame = built!(ethernet().ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9).udp(1, 2), &[0; 40]);
    frame[20] = 0x20;
    let (first, _) = key_of(&frame);
    assert_eq!((first.get(Field::IpFrag), first.get(Field::TpDst)), (1, 2));
    frame[21] = 5;
    let (later, layers) = key_of(&frame);
    assert_eq!((later.get(Field::IpFrag), later.get(Field::TpDst), layers.l4), (3, 0, 0));
    assert_agrees(&frame);
    frame[20] = 0x40;
    frame[21] = 0;
    assert_eq!(key_of(&frame).0.get(Field::IpFrag), 0, "do not fragment is no fragment");
}

#[test]
fn ethernet_padding_is_not_taken_for_ports() {
    let mut frame = built!(ethernet().ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9).udp(1, 2), &[]);
    frame[17] = 24;
    frame.extend([0xee; 18]);
    let (key, layers) = key_of(&frame);
    assert_eq!((key.get(Field::TpSrc), layers.l4), (0, 0));
    assert_agrees(&frame);
}

#[test]
fn arp_has_addresses_and_operation() {
    let arp = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: [1, 2, 3, 4, 5, 6],
        sender_ipv4: [10, 0, 0, 1],
        target_mac: [7, 8, 9, 10, 11, 12],
        target_ipv4: [10, 0, 0, 2],
    };
    let mut frame = built!(ethernet().arp(arp.into()));
    frame.resize(60, 0);
    assert_fields(
        &frame,
        &[
            (Field::EthType, 0x806),
            (Field::IpProto, 2),
            (Field::ArpSha, 0x0102_0304_0506),
            (Field::Ipv4Src, 0x0a00_0001),
            (Field::ArpTha, 0x0708_090a_0b0c),
            (Field::Ipv4Dst, 0x0a00_0002),
        ],
    );
    let token_ring = etherparse::ArpPacket::new(
        ArpHardwareId::IEEE802_TR,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &[0; 6],
        &[1; 4],
        &[0; 6],
        &[2; 4],
    )
    .unwrap();
    let frame = built!(ethernet().arp(token_ring));
    assert_fields(&frame, &[(Field::EthType, 0x806)]);
}

fn v6(last: u8) -> [u8; 16] {
    let mut address = [0x20; 16];
    address[15] = last;
    address
}

#[test]
fn an_ipv6_frame_fills_the_extended_words() {
    let frame = built!(ethernet().ipv6(v6(1), v6(2), 47).tcp(1, 2, 3, 4).fin(), &[0; 30]);
    assert_fields(
        &frame,
        &[
            (Field::EthType, 0x86dd),
            (Field::IpProto, 6),
            (Field::IpTtl, 47),
            (Field::Ipv6Src, u128::from_be_bytes(v6(1))),
            (Field::Ipv6Dst, u128::from_be_bytes(v6(2))),
            (Field::TpSrc, 1),
            (Field::TpDst, 2),
            (Field::TcpFlags, 1),
        ],
    );
}

fn solicitation(options: &[u8]) -> Vec<u8> {
    let mut body = v6(9).to_vec();
    body.extend(options);
    let kind = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    built!(ethernet().ipv6(v6(1), v6(2), 255).icmpv6(kind), &body)
}

#[test]
fn neighbour_discovery_has_target_and_link_layer_address() {
    let frame = solicitation(&[14, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf]);
    assert_fields(
        &frame,
        &[
            (Field::EthType, 0x86dd),
            (Field::IpProto, 58),
            (Field::IpTtl, 255),
            (Field::Ipv6Src, u128::from_be_bytes(v6(1))),
            (Field::Ipv6Dst, u128::from_be_bytes(v6(2))),
            (Field::TpSrc, 135),
            (Field::NdTarget, u128::from_be_bytes(v6(9))),
            (Field::ArpSha, 0x0a0b_0c0d_0e0f),
        ],
    );
    let (_, layers) = key_of(&frame);
    assert!(layers.has(Layers::ND));
    assert_eq!(frame[layers.nd_link_layer as usize..][..6], [0xa, 0xb, 0xc, 0xd, 0xe, 0xf]);
}

#[test]
fn a_link_layer_option_given_twice_discredits_the_message() {
    let frame = solicitation(&[1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 2]);
    let (key, layers) = key_of(&frame);
    assert_eq!((key.get(Field::NdTarget), key.get(Field::ArpSha), key.get(Field::TpSrc)), (0, 0, 135));
    assert!(!layers.has(Layers::ND));
    assert_agrees(&frame);
}

#[test]
fn a_frame_without_type_and_one_with_a_snap_header() {
    let mut frame = [DST, SRC].concat();
    frame.extend([0, 46, 0x42, 0x42, 3]);
    frame.resize(60, 0);
    assert_fields(&frame, &[(Field::EthType, 0x5ff)]);
    frame[14..22].copy_from_slice(&[0xaa, 0xaa, 3, 0, 0, 0, 0x88, 0xcc]);
    assert_fields(&frame, &[(Field::EthType, 0x88cc)]);
    assert_eq!(key_of(&frame).1.l3, 22);
}

#[test]
fn nothing_of_an_ipv6_frame_is_left_for_the_next_one() {
    let mut slot = KeySlot::EMPTY;
    let frame = solicitation(&[1, 1, 0, 0, 0, 0, 0, 1]);
    extract(&frame, frame.len(), 1, &mut slot);
    assert!(slot.extended());
    let plain = built!(ethernet().ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9).udp(1, 2), &[0; 40]);
    for reuse in [extract, extract_l2] {
        let (mut used, mut fresh) = (slot.clone(), KeySlot::EMPTY);
        reuse(&plain, plain.len(), 1, &mut used);
        reuse(&plain, plain.len(), 1, &mut fresh);
        assert_eq!(used.key(), fresh.key());
        assert!(!used.extended());
    }
}

#[test]
fn an_ordinary_ipv4_frame_never_needs_more_than_64_bytes() {
    let mut slot = KeySlot::EMPTY;
    let vid = |n| VlanId::try_new(n).unwrap();
    let frame = built!(
        ethernet().double_vlan(vid(1), vid(2)).ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9).tcp(1, 2, 3, 4),
        &[0; 1000]
    );
    assert!(!extract(&frame[..64], frame.len(), 1, &mut slot).needs_more());
}

/// Frames with plausible headers, wrong here and there: what random bytes would hardly ever hit.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let tags = proptest::collection::vec(
        (proptest::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), any::<u16>()),
        0..4,
    );
    let ipv4 = (4u8..9, any::<[u8; 19]>(), 0usize..80, 0u8..8).prop_map(|(ihl, rest, more, kind)| {
        let mut b = vec![0x40 | ihl];
        b.extend(rest);
        let total = (ihl as usize * 4 + more) as u16;
        b[2..4].copy_from_slice(&total.to_be_bytes());
        b[9] = [1, 6, 17, 132, 58, 6, 6, 2][kind as usize];
        if kind < 6 {
            b[6] &= 0x40;
            b[7] = 0;
        }
        (0x0800, b)
    });
    let extension = (0u8..6, 0u8..4, any::<[u8; 6]>());
    let ipv6 =
        (any::<[u8; 40]>(), proptest::collection::vec(extension, 0..5), 0u16..150, 0u8..5, any::<[u8; 4]>())
            .prop_map(|(mut b, extensions, payload, last, icmp)| {
                b[0] = 0x60 | b[0] & 15;
                b[4..6].copy_from_slice(&payload.to_be_bytes());
                let mut b = b.to_vec();
                let mut next = 6;
                for (kind, len, rest) in extensions {
                    b[next] = [0, 43, 44, 51, 60, 59][kind as usize];
                    next = b.len();
                    b.extend([0, len]);
                    b.extend(rest);
                    let len = match kind {
                        2 => 8,
                        3 => (len as usize + 2) * 4,
                        _ => (len as usize + 1) * 8,
                    };
                    b.resize(next + len, 0);
                    if kind == 2 && rest[0] & 1 == 0 {
                        b[next + 2] = 0;
                        b[next + 3] &= 7;
                    }
                }
                b[next] = [6, 17, 58, 58, 132][last as usize];
                if last == 2 || last == 3 {
                    b.extend([133 + last, if icmp[0] < 200 { 0 } else { 1 }]);
                }
                (0x86dd, b)
            });
    let arp = (any::<bool>(), any::<[u8; 20]>(), 0u16..300, 0u8..9).prop_map(|(reverse, rest, op, wrong)| {
        let mut b = vec![0, 1, 8, 0, 6, 4];
        b.extend(op.to_be_bytes());
        b.extend(rest);
        if wrong < 6 {
            b[wrong as usize] ^= 1;
        }
        (if reverse { 0x8035 } else { 0x0806 }, b)
    });
    let other = (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..20));
    let snap = (0x600u16..0x900).prop_map(|t| {
        let mut b = vec![0xaa, 0xaa, 3, 0, 0, 0];
        b.extend(t.to_be_bytes());
        (0x100, b)
    });
    let network = prop_oneof![4 => ipv4, 4 => ipv6, 2 => arp, 1 => other, 1 => snap];
    // Small bytes look like lengths and option types more often than random ones.
    let tail = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..120),
        proptest::collection::vec(0u8..4, 0..120)
    ];
    (tags, network, tail, any::<proptest::sample::Index>(), any::<bool>()).prop_map(
        |(tags, (ethertype, network), tail, cut, whole)| {
            let mut frame = [DST, SRC].concat();
            for (kind, tci) in tags {
                frame.extend(kind.to_be_bytes());
                frame.extend(tci.to_be_bytes());
            }
            frame.extend(u16::to_be_bytes(ethertype));
            frame.extend(network);
            frame.extend(tail);
            if !whole {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn plausible_frames_read_as_the_reference_reads_them(frame in frames()) {
        assert_agrees(&frame);
    }

    #[test]
    fn arbitrary_bytes_read_as_the_reference_reads_them(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert_agrees(&frame);
    }
}
