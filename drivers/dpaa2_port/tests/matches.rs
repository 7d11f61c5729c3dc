//! The same table in hardware and in software gives every frame the same class.

mod common;

use common::{Board, small};
use dpaa2_port::{PortConfig, RxClass, class_table};
use flow::{Field, FlowKey, FlowMask, KeySlot, OrderedMatches, extract};
use packet::Burst;
use port::{PortCounters, Received, RxQueue};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const CLASSES: u8 = 4;

type Rule = (FlowKey, FlowMask, u8);

/// A match as flow strings make it: fields with their prerequisites.
fn rule() -> impl Strategy<Value = Rule> {
    let parts = (0..8u8, any::<[bool; 8]>(), 0..4u8, 0..3u128, 0..CLASSES);
    parts.prop_map(|(kind, with, host, small, class)| {
        let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
        let mut set = |field: Field, value: u128, bits: u128| {
            key.set(field, key.get(field) & !bits | value & bits);
            mask.add(field, bits);
        };
        let host = u128::from(host);
        if with[0] {
            set(Field::EthDst, 0x0200_0000_0000 + host, Field::EthDst.full());
        }
        if with[1] {
            set(Field::EthSrc, 0x0200_0000_0000 + small, 0xff);
        }
        match small {
            0 if with[2] => set(Field::VlanTci, 0x1005, 0x1fff),
            1 if with[2] => set(Field::VlanTci, 0, 0xffff),
            2 if with[2] => set(Field::VlanTci, 0xf000, 0xf000),
            _ => {}
        }
        let protocol = [6, 17, 1][small as usize];
        let prefix = |bits: u32, width: u32| (u128::MAX >> (128 - width)) & !((1u128 << (width - bits)) - 1);
        match kind {
            0..4 => {
                set(Field::EthType, 0x0800, 0xffff);
                if with[3] {
                    set(Field::Ipv4Dst, 0x0a00_0000 + host, prefix(if with[7] { 31 } else { 32 }, 32));
                }
                if with[4] {
                    set(Field::Ipv4Src, 0x0a00_0000 + small, prefix(24 + small as u32 * 4, 32));
                }
                if with[5] {
                    set(Field::IpProto, protocol, 0xff);
                    if protocol != 1 {
                        set(Field::TpDst, 80 + host, 0xffff);
                    }
                }
                if with[6] {
                    set(Field::IpTos, small << 2, 0xfc);
                }
            }
            4 | 5 => {
                set(Field::EthType, 0x0806, 0xffff);
                if with[3] {
                    set(Field::Ipv4Dst, 0x0a00_0000 + host, 0xffff_ffff);
                }
            }
            6 => {
                set(Field::EthType, 0x86dd, 0xffff);
                if with[3] {
                    set(Field::Ipv6Dst, (0xfd << 120) + host, prefix(if with[7] { 64 } else { 128 }, 128));
                }
                if with[5] && protocol != 1 {
                    set(Field::IpProto, protocol, 0xff);
                    set(Field::TpDst, 80 + host, 0xffff);
                }
            }
            _ => {}
        }
        (key, mask, class)
    })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    (0..4u8, 0..4u8, 0..4u8, 0..4u8, 0..5u8, 0..3u8, any::<bool>()).prop_map(
        |(kind, to, from, tag, dscp, protocol, more)| {
            let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from];
            for n in 0..tag.saturating_sub(1) {
                frame.extend([0x81, 0, [0, 0x20, 0xf0][usize::from(from % 3)], 5 + n]);
            }
            let protocol = [6, 17, 1][usize::from(protocol)];
            let mut transport = vec![0; 20];
            transport[1] = from;
            transport[3] = 80 + to;
            transport[12] = 0x50;
            if protocol == 17 {
                transport[4..6].copy_from_slice(&[0, 20]);
            }
            match kind {
                0 | 1 => {
                    frame.extend([
                        8,
                        0,
                        0x45,
                        dscp << 2 | u8::from(more),
                        0,
                        40,
                        0,
                        0,
                        0,
                        0,
                        64,
                        protocol,
                        0,
                        0,
                    ]);
                    // An address of another octet than the frame's, now and then.
                    frame.extend([10, 0, 0, from, 10, 0, 0, if more { to } else { to ^ 1 }]);
                    frame.extend(transport);
                }
                2 => {
                    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, from, 10, 0, 0, from]);
                    frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, to]);
                }
                _ => {
                    frame.extend([
                        0x86,
                        0xdd,
                        0x60,
                        0,
                        0,
                        0,
                        0,
                        20,
                        if protocol == 1 { 58 } else { protocol },
                        64,
                    ]);
                    for host in [from, to] {
                        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
                    }
                    frame.extend(transport);
                }
            }
            frame.resize(frame.len().max(60), 0);
            frame
        },
    )
}

fn in_software(rules: &[Rule], frame: &[u8]) -> u8 {
    let matches = rules.iter().map(|(key, mask, class)| (key, mask, *class));
    let mut slot = KeySlot::EMPTY;
    extract(frame, frame.len(), 0, &mut slot);
    OrderedMatches::new(matches, CLASSES - 1).find(slot.key())
}

/// Rounds after which every queue has had its turns on the portal: one to ask for a frame and one to take it.
const ROUNDS: usize = 4 * CLASSES as usize;

/// Whether a frame has come from a receive queue.
fn has_frame(queue: &mut dyn RxQueue) -> bool {
    let (mut burst, counters) = (Burst::new(), PortCounters::default());
    !Received::poll(queue, &mut burst, &counters).expect("a queue that works").burst().is_empty()
}

/// The class of each frame: a receive queue each, in order.
fn in_hardware(soc: &str, table: dpaa2_port::ClassTable, frames: &[Vec<u8>]) -> Vec<Option<u8>> {
    let board = Board::described(soc, 8, "rx_tcs = 8");
    let config = PortConfig {
        rx_classes: (0..CLASSES).map(|_| RxClass::new(1)).collect(),
        class_table: Some(table),
        checksums: false,
        ..small(1)
    };
    let mut port = board.port_with(config);
    let mut classes = vec![];
    for frame in frames {
        board.send(1, frame);
        let class = (0..ROUNDS).find_map(|_| {
            (0..CLASSES).zip(&mut port.rx).find_map(|(class, queue)| has_frame(&mut **queue).then_some(class))
        });
        classes.push(class);
    }
    board.close(vec![port]);
    classes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn hardware_with_masks_and_software_agree_on_random_tables_and_frames(
        rules in prop::collection::vec(rule(), 0..12),
        frames in prop::collection::vec(frame(), 1..24),
    ) {
        let matches = rules.iter().map(|(key, mask, class)| (key, mask, *class));
        let Ok(mut table) = class_table(matches, CLASSES - 1, true) else { return Ok(()) };
        // An interface refuses the same match twice; the second one never counts.
        let mut seen = vec![];
        table.entries.retain(|entry| {
            let is_new = !seen.contains(&entry.matches);
            seen.push(entry.matches.clone());
            is_new
        });
        let expected: Vec<_> = frames.iter().map(|frame| Some(in_software(&rules, frame))).collect();
        prop_assert_eq!(in_hardware("lx2160a", table, &frames), expected);
    }
}

#[test]
fn tables_of_whole_keys_hold_matches_that_name_the_same_fields() {
    let host = |eth_type: u128, host: u128, class: u8| {
        let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
        for (field, value) in [(Field::EthType, eth_type), (Field::Ipv4Dst, 0x0a00_0000 + host)] {
            key.set(field, value);
            mask.add(field, field.full());
        }
        (key, mask, class)
    };
    let rules =
        [host(0x800, 0, 0), host(0x806, 0, 0), host(0x800, 1, 1), host(0x806, 1, 1), host(0x800, 2, 2)];
    let matches = || rules.iter().map(|(key, mask, class)| (key, mask, *class));
    let table = class_table(matches(), CLASSES - 1, false).expect("whole addresses of IPv4 and ARP");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let frames: Vec<_> = (0..60).map(|_| frame().new_tree(&mut runner).unwrap().current()).collect();
    let expected: Vec<_> = frames.iter().map(|frame| Some(in_software(&rules, frame))).collect();
    assert_eq!(in_hardware("ls1088a", table, &frames), expected);
    // A prefix isn't a whole address.
    let mut wide = rules;
    wide[0].1 = FlowMask::default();
    wide[0].1.add(Field::EthType, 0xffff);
    wide[0].1.add(Field::Ipv4Dst, 0xffff_ff00);
    let matches = wide.iter().map(|(key, mask, class)| (key, mask, *class));
    assert_eq!(class_table(matches, 3, false), Err(dpaa2_port::NotInHardware::Masked(0)));
}

#[test]
fn what_keys_are_not_made_of_is_refused() {
    let with = |fields: &[(Field, u128)]| {
        let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
        for &(field, value) in fields {
            key.set(field, value);
            mask.add(field, field.full());
        }
        class_table([(&key, &mask, 0)], 1, true)
    };
    use dpaa2_port::NotInHardware as No;
    assert_eq!(with(&[(Field::TcpFlags, 2)]), Err(No::Field(Field::TcpFlags)));
    let icmp = [(Field::EthType, 0x800), (Field::IpProto, 1), (Field::TpSrc, 8)];
    assert_eq!(with(&icmp), Err(No::Protocol(Field::TpSrc)));
    let arp = [(Field::EthType, 0x806), (Field::IpProto, 1)];
    assert_eq!(with(&arp), Err(No::Protocol(Field::IpProto)));
    let everything = [(Field::EthDst, 1), (Field::EthSrc, 1), (Field::VlanTci, 0), (Field::EthType, 0x86dd)];
    let ports =
        [(Field::IpProto, 6), (Field::TpSrc, 1), (Field::TpDst, 1), (Field::Ipv6Src, 1), (Field::Ipv6Dst, 1)];
    assert!(with(&[&everything[..], &ports].concat()).is_ok(), "54 bytes");
}
