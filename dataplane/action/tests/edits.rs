//! Edits change what they are told, keep every checksum right, and touch nothing else.

use action::{Op, apply, pop_vlan, push_vlan};
use flow::{Field, KeySlot, Layers, extract};
use headers::checksum::complete_checksum;
use packet::{Burst, HEAD_MAX, Offload};
use port::DropReason;
use proptest::prelude::*;

/// A burst with this one frame, parsed.
fn burst_of(frame: &[u8], offload: Offload) -> (Burst, Layers) {
    let mut burst = Burst::new();
    // SAFETY: the callers' frames outlive the burst, which is used before they return.
    #[expect(unsafe_code, reason = "a burst borrows through pointers")]
    unsafe {
        burst.push(frame.as_ptr(), frame.len() as u32, offload, 0);
    }
    burst.load_head(0, HEAD_MAX);
    let layers = extract(burst.head(0), frame.len(), 1, &mut KeySlot::EMPTY.clone());
    (burst, layers)
}

fn bytes(burst: &Burst) -> Vec<u8> {
    let mut out = vec![0; burst.frame_len(0)];
    burst.read(0, 0, &mut out);
    out
}

fn field(frame: &[u8], field: Field) -> u128 {
    let mut slot = KeySlot::EMPTY.clone();
    extract(&frame[..frame.len().min(HEAD_MAX)], frame.len(), 1, &mut slot);
    slot.key().get(field)
}

/// One operation applied to a copy of the frame.
fn edited(frame: &[u8], op: Op) -> Vec<u8> {
    let (mut burst, mut layers) = burst_of(frame, Offload::default());
    apply(&op, &mut burst, 0, &mut layers).unwrap();
    bytes(&burst)
}

fn ones_sum(parts: &[&[u8]]) -> u16 {
    let all: Vec<u8> = parts.concat();
    let sum: u64 = all.chunks(2).map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0))).sum();
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether the IPv4 header's and the transport's checksums are what they would be computed as from nothing.
fn checksums_are_right(frame: &[u8], l3: usize) -> bool {
    let (header_ok, protocol, l4, end, pseudo) = if frame[l3] >> 4 == 4 {
        let header = usize::from(frame[l3] & 15) * 4;
        let end = l3 + usize::from(u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]));
        let ok = ones_sum(&[&frame[l3..l3 + header]]) == 0;
        let mut pseudo = frame[l3 + 12..l3 + 20].to_vec();
        pseudo.extend([0, frame[l3 + 9]]);
        pseudo.extend(((end - l3 - header) as u16).to_be_bytes());
        (ok, frame[l3 + 9], l3 + header, end, pseudo)
    } else {
        let length = u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]);
        let mut pseudo = frame[l3 + 8..l3 + 40].to_vec();
        pseudo.extend(u32::from(length).to_be_bytes());
        pseudo.extend([0, 0, 0, frame[l3 + 6]]);
        (true, frame[l3 + 6], l3 + 40, l3 + 40 + usize::from(length), pseudo)
    };
    let segment = &frame[l4..end];
    header_ok
        && match protocol {
            6 | 58 => ones_sum(&[&pseudo, segment]) == 0,
            17 => segment[6..8] == [0, 0] || ones_sum(&[&pseudo, segment]) == 0,
            1 => ones_sum(&[segment]) == 0,
            132 => {
                let mut zeroed = segment.to_vec();
                zeroed[8..12].fill(0);
                segment[8..12] == crc32c::crc32c(&zeroed).to_le_bytes()
            }
            _ => true,
        }
}

/// An IPv4 packet in an Ethernet frame, its checksums not yet there.
fn ipv4(protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0x28, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6]);
    frame[16..18].copy_from_slice(&(20 + segment.len() as u16).to_be_bytes());
    let sum = ones_sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(segment);
    frame
}

fn ipv6(protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x62, 0x80, 0, 9];
    frame.extend((segment.len() as u16).to_be_bytes());
    frame.extend([protocol, 64]);
    frame.extend((0..32).map(|i| 0x20 + i));
    frame.extend(segment);
    frame
}

/// Puts the transport's checksum where it belongs.
fn summed(mut frame: Vec<u8>, l4: usize, at: usize) -> Vec<u8> {
    let l3 = 14;
    let end = frame.len();
    let segment = frame[l4..end].to_vec();
    let pseudo = match (frame[l3] >> 4, frame[l3 + 9]) {
        (4, 1) => vec![],
        (4, protocol) => {
            let mut pseudo = frame[l3 + 12..l3 + 20].to_vec();
            pseudo.extend([0, protocol]);
            pseudo.extend(((end - l4) as u16).to_be_bytes());
            pseudo
        }
        _ => {
            let mut pseudo = frame[l3 + 8..l3 + 40].to_vec();
            pseudo.extend(((end - l4) as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, frame[l3 + 6]]);
            pseudo
        }
    };
    let sum = ones_sum(&[&pseudo, &segment]);
    frame[l4 + at..l4 + at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

const PORTS: [u8; 4] = [0x12, 0x34, 0, 80];

fn tcp4() -> Vec<u8> {
    let mut tcp = PORTS.to_vec();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    tcp.extend((0..101u8).map(|i| i.wrapping_mul(3)));
    summed(ipv4(6, &tcp), 34, 16)
}

fn udp(payload: usize) -> Vec<u8> {
    let mut udp = PORTS.to_vec();
    udp.extend((8 + payload as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend((0..payload).map(|i| i as u8));
    udp
}

fn sctp4(padding: usize) -> Vec<u8> {
    let mut sctp = PORTS.to_vec();
    sctp.extend([0, 0, 0, 9, 0, 0, 0, 0, 1, 2, 0, 4]);
    let sum = crc32c::crc32c(&sctp);
    sctp[8..12].copy_from_slice(&sum.to_le_bytes());
    let mut frame = ipv4(132, &sctp);
    frame.extend(vec![0xaa; padding]);
    frame
}

fn nd() -> Vec<u8> {
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend((0..16).map(|i| 0x40 + i));
    icmp.extend([1, 1, 2, 0, 0, 0, 0, 7]);
    let mut frame = ipv6(58, &icmp);
    // Hop limit 255, as neighbour discovery must have (RFC 4861, section 7.1.1).
    frame[21] = 255;
    summed(frame, 54, 2)
}

/// Frames and the fields that can be set in them.
fn cases() -> Vec<(&'static str, Vec<u8>, Vec<Field>)> {
    use Field::*;
    let l2 = [EthDst, EthSrc];
    let with = |fields: &[Field]| l2.iter().chain(fields).copied().collect::<Vec<_>>();
    let v4 = [Ipv4Src, Ipv4Dst, IpTos, IpTtl];
    let v6 = [Ipv6Src, Ipv6Dst, IpTos, IpTtl];
    let ports = [TpSrc, TpDst];
    vec![
        ("tcp", tcp4(), with(&[&v4[..], &ports].concat())),
        ("udp", summed(ipv4(17, &udp(33)), 34, 6), with(&[&v4[..], &ports].concat())),
        ("udp6", summed(ipv6(17, &udp(40)), 54, 6), with(&[&v6[..], &ports].concat())),
        ("icmp", summed(ipv4(1, &[8, 0, 0, 0, 0, 1, 0, 2, 9]), 34, 2), with(&[&v4[..], &ports].concat())),
        ("sctp", sctp4(0), with(&[&v4[..], &ports].concat())),
        ("sctp with padding", sctp4(14), with(&[&v4[..], &ports].concat())),
        ("neighbour discovery", nd(), with(&[NdTarget, ArpSha, Ipv6Src, Ipv6Dst])),
    ]
}

fn ports_of(field: Field) -> bool {
    matches!(field, Field::TpSrc | Field::TpDst)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_set_field_has_its_value_and_every_checksum_is_right(value: u128, mask: u128) {
        for (name, frame, fields) in cases() {
            prop_assert!(checksums_are_right(&frame, 14), "{} to begin with", name);
            for which in fields {
                // ICMP's type and code are bytes.
                let full = if name == "icmp" && ports_of(which) { 0xff } else { which.full() };
                let (value, mask) = (value & full, mask & full);
                let after = edited(&frame, Op::Set { field: which, value: value & mask, mask });
                let wanted = field(&frame, which) & !mask | value & mask;
                prop_assert_eq!(after.len(), frame.len());
                prop_assert_eq!(field(&after, which), wanted, "{} {:?}", name, which);
                prop_assert!(checksums_are_right(&after, 14), "{} {:?}", name, which);
                for other in [Field::EthDst, Field::EthSrc, Field::EthType, Field::IpProto] {
                    prop_assert!(other == which || field(&after, other) == field(&frame, other));
                }
            }
        }
    }

    #[test]
    fn edits_that_follow_each_other_keep_the_checksum(ports in proptest::collection::vec(any::<u16>(), 1..20)) {
        let frame = tcp4();
        let (mut burst, mut layers) = burst_of(&frame, Offload::default());
        for port in ports {
            let op = Op::Set { field: Field::TpDst, value: port.into(), mask: 0xffff };
            apply(&op, &mut burst, 0, &mut layers).unwrap();
            prop_assert!(checksums_are_right(&bytes(&burst), 14));
        }
    }

    #[test]
    fn no_frame_is_too_strange_to_be_edited(frame in proptest::collection::vec(any::<u8>(), 14..300), value: u128) {
        for &which in Field::ALL {
            let (mut burst, mut layers) = burst_of(&frame, Offload::default());
            let _ = apply(&Op::Set { field: which, value, mask: u128::MAX }, &mut burst, 0, &mut layers);
            prop_assert_eq!(burst.frame_len(0), frame.len());
            for op in [Op::DecTtl, Op::PushVlan(0x8100), Op::PopVlan, Op::PopVlan, Op::PopVlan] {
                let _ = apply(&op, &mut burst, 0, &mut layers);
            }
        }
    }
}

#[test]
fn a_field_the_frame_does_not_have_changes_nothing() {
    let frame = tcp4();
    for which in [Field::Ipv6Src, Field::NdTarget, Field::ArpSha, Field::VlanTci, Field::Metadata] {
        let op = Op::Set { field: which, value: u128::MAX, mask: which.full() };
        assert_eq!(edited(&frame, op), frame, "{which:?}");
    }
}

#[test]
fn a_udp_checksum_that_is_not_used_stays_unused_and_one_that_is_never_becomes_zero() {
    let frame = ipv4(17, &udp(5));
    let set = |port: u16| Op::Set { field: Field::TpDst, value: port.into(), mask: 0xffff };
    assert_eq!(edited(&frame, set(99))[40..42], [0, 0]);
    let frame = summed(frame, 34, 6);
    for port in 0..=u16::MAX {
        assert_ne!(edited(&frame, set(port))[40..42], [0, 0], "port {port}");
    }
}

#[test]
fn a_checksum_left_to_be_completed_is_right_when_it_has_been() {
    let mut frame = tcp4();
    let whole = frame.clone();
    // The pseudo-header's sum, not inverted, as Linux leaves it.
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(((frame.len() - 34) as u16).to_be_bytes());
    let partial = !ones_sum(&[&pseudo]);
    frame[50..52].copy_from_slice(&partial.to_be_bytes());
    let offload =
        Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Offload::default() };
    for (which, value) in [(Field::Ipv4Dst, 0x0b0c_0d0e), (Field::TpSrc, 7), (Field::IpTtl, 3)] {
        let (mut burst, mut layers) = burst_of(&frame, offload);
        apply(&Op::Set { field: which, value, mask: which.full() }, &mut burst, 0, &mut layers).unwrap();
        let mut after = bytes(&burst);
        complete_checksum(&mut after, 34, 16).unwrap();
        assert!(checksums_are_right(&after, 14), "{which:?}");
        assert_eq!(after.len(), whole.len());
    }
}

#[test]
fn a_ttl_runs_out_and_the_frame_with_it() {
    let mut frame = tcp4();
    assert_eq!(field(&edited(&frame, Op::DecTtl), Field::IpTtl), 63);
    assert!(checksums_are_right(&edited(&frame, Op::DecTtl), 14));
    for ttl in [0, 1] {
        frame[22] = ttl;
        let (mut burst, mut layers) = burst_of(&frame, Offload::default());
        assert_eq!(apply(&Op::DecTtl, &mut burst, 0, &mut layers), Err(DropReason::TtlExpired));
    }
}

#[test]
fn tags_come_and_go_and_offsets_with_them() {
    let frame = tcp4();
    let offload =
        Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Offload::default() };
    let (mut burst, mut layers) = burst_of(&frame, offload);
    apply(&Op::PushVlan(0x8100), &mut burst, 0, &mut layers).unwrap();
    let set = Op::Set { field: Field::VlanTci, value: 0x1000 | 42, mask: 0x1fff };
    apply(&set, &mut burst, 0, &mut layers).unwrap();
    apply(&Op::PushVlan(0x88a8), &mut burst, 0, &mut layers).unwrap();
    let tagged = bytes(&burst);
    assert_eq!(tagged[12..22], [0x88, 0xa8, 0, 42, 0x81, 0, 0, 42, 8, 0], "an outer tag inherits");
    assert_eq!((burst.offload(0).csum_start, layers.l3, layers.l4), (42, 22, 42));
    assert_eq!((pop_vlan(&mut burst, 0), pop_vlan(&mut burst, 0)), (Some((0x88a8, 42)), Some((0x8100, 42))));
    assert_eq!(pop_vlan(&mut burst, 0), None);
    assert_eq!((bytes(&burst), burst.offload(0).csum_start), (frame, 34));
}

#[test]
fn a_frame_takes_only_so_many_tags() {
    let frame = tcp4();
    let (mut burst, _) = burst_of(&frame, Offload::default());
    let pushed = (0..100).take_while(|_| push_vlan(&mut burst, 0, 0x8100, 1)).count();
    assert_eq!(pushed, packet::HEADROOM / 4);
    assert_eq!(burst.frame_len(0), frame.len() + 4 * pushed, "the one that was refused did nothing");
}
