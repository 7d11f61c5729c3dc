//! Rules the switches get.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Priority of a masked rule; the first of them has it, each further one less.
const MASKED: u32 = 1000;

/// Rules of a switch whose first two ports are `vm0` and `vm1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// One rule per port that looks at the input port only.
    PortToPort,
    /// None: learning and forwarding by address.
    Normal,
    /// This many rules per port with a mask each, see [`masked_rules`].
    Masks(u32),
}

impl Rules {
    /// In `ovs-ofctl` syntax.
    pub(crate) fn flow_strings(self) -> Vec<String> {
        match self {
            Self::Normal => Vec::new(),
            Self::PortToPort => [("vm0", "vm1"), ("vm1", "vm0")].map(|(from, to)| cable(from, to)).into(),
            Self::Masks(count) => {
                let mut rules = masked_rules(count, "vm0", "vm1");
                rules.extend(masked_rules(count, "vm1", "vm0"));
                rules
            }
        }
    }
}

/// Everything from one port to another.
pub(crate) fn cable(from: &str, to: &str) -> String {
    format!("priority=1,in_port={from},actions=output:{to}")
}

/// Rules from `from` to `to` that share flowgen's traffic evenly among `count` masks (a power of two up to 64).
///
/// The frames (testpmd's flowgen, [`Headers::Flows`](crate::traffic::Headers)) differ in the low bits of `nw_dst` only. Rule `i`
/// asks for the low bits to be `i`, and for `i` further bits that are the same in all frames. Priorities fall with `i` and each
/// rule's bits contain those of the rules before, so that a megaflow made from rule `i` and all rules above it still has a mask of
/// its own.
pub(crate) fn masked_rules(count: u32, from: &str, to: &str) -> Vec<String> {
    assert!(count.is_power_of_two() && count <= 64, "more would need more constant bits than IPv4 has");
    (0..count)
        .map(|i| {
            // Constant: nw_src 10.254.0.0 and the upper half of nw_dst 10.253.x.y, but for its last bit, which changes beyond
            // 65,536 flows.
            let (dst_bits, src_bits) = (i.min(15), i.saturating_sub(15).min(32));
            let port_bits = i.saturating_sub(47);
            let dst_mask = upper_bits(dst_bits) | (count - 1);
            let dst = (u32::from_be_bytes([10, 253, 0, 0]) & upper_bits(dst_bits)) | i;
            let mut rule = format!("priority={},in_port={from},udp", MASKED - i);
            write_v4(&mut rule, "nw_dst", dst, dst_mask);
            write_v4(&mut rule, "nw_src", u32::from_be_bytes([10, 254, 0, 0]), upper_bits(src_bits));
            write_port(&mut rule, "tp_src", 1000, port_bits);
            rule + &format!(",actions=output:{to}")
        })
        .collect()
}

/// As [`masked_rules`] for [`Headers::Flows6`](crate::traffic::Headers) of up to 2^20 flows and up to 256 masks. Each rule asks for the
/// lower byte of the destination port too, so that frames with random headers are for none of them.
pub(crate) fn masked_rules6(count: u32, from: &str, to: &str) -> Vec<String> {
    assert!(count.is_power_of_two() && count <= 256, "more would need more constant bits than there are");
    let destination = u128::from(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0));
    let source = u128::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    let upper = |bits: u32| u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    (0..count)
        .map(|i| {
            let bits = skip_short(i);
            let (dst_bits, rest) = (bits.min(108), skip_short(bits.saturating_sub(108)));
            let (src_bits, rest) = (rest.min(128), rest.saturating_sub(128));
            let (sport_bits, dport_bits) = (rest.min(16), rest.saturating_sub(16));
            let mut rule = format!("priority={},in_port={from},udp6", MASKED - i);
            write_v6(
                &mut rule,
                "ipv6_dst",
                destination & upper(dst_bits) | u128::from(i),
                upper(dst_bits) | u128::from(count - 1),
            );
            write_v6(&mut rule, "ipv6_src", source, upper(src_bits));
            write_port(&mut rule, "tp_src", 1000, sport_bits);
            let mask = upper_port_bits(dport_bits) | 0xff;
            write!(rule, ",tp_dst={:#x}/{mask:#x}", 1001 & mask).expect("memory");
            rule + &format!(",actions=output:{to}")
        })
        .collect()
}

/// No bits, or three at least: the mask `8000::ff` is a prefix of 8000 bits to ovs-ofctl.
fn skip_short(bits: u32) -> u32 {
    if bits == 0 { 0 } else { bits + 2 }
}

/// A mask of the `count` most significant bits.
fn upper_bits(count: u32) -> u32 {
    u32::MAX.checked_shl(32 - count).unwrap_or(0)
}

fn upper_port_bits(count: u32) -> u32 {
    (0xffff_0000 >> count) & 0xffff
}

fn write_v4(rule: &mut String, field: &str, value: u32, mask: u32) {
    if mask != 0 {
        let (value, mask) = (Ipv4Addr::from(value & mask), Ipv4Addr::from(mask));
        write!(rule, ",{field}={value}/{mask}").expect("memory");
    }
}

fn write_v6(rule: &mut String, field: &str, value: u128, mask: u128) {
    if mask != 0 {
        let (value, mask) = (Ipv6Addr::from(value & mask), Ipv6Addr::from(mask));
        write!(rule, ",{field}={value}/{mask}").expect("memory");
    }
}

fn write_port(rule: &mut String, field: &str, value: u32, bits: u32) {
    if bits > 0 {
        let mask = upper_port_bits(bits);
        write!(rule, ",{field}={:#x}/{mask:#x}", value & mask).expect("memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn masks_of(rules: &[String]) -> BTreeSet<String> {
        let masks = |rule: &String| {
            let fields = rule.split(',').filter_map(|field| field.split_once('/'));
            fields.map(|(field, mask)| format!("{}{mask} ", field.split('=').next().unwrap())).collect()
        };
        rules.iter().map(masks).collect()
    }

    #[test]
    fn every_masked_rule_has_a_mask_of_its_own() {
        for count in [1, 16, 64] {
            assert_eq!(masks_of(&masked_rules(count, "a", "b")).len() as u32, count);
        }
        for count in [1, 16, 64, 256] {
            assert_eq!(masks_of(&masked_rules6(count, "a", "b")).len() as u32, count);
        }
    }

    #[test]
    fn one_mask_is_no_mask_beside_port_and_protocol() {
        assert_eq!(masked_rules(1, "a", "b"), ["priority=1000,in_port=a,udp,actions=output:b"]);
    }

    #[test]
    fn the_rule_of_a_low_part_matches_frames_with_it() {
        let rule = &masked_rules(64, "a", "b")[63];
        assert!(
            rule.contains(",nw_dst=10.252.0.63/255.254.0.63,nw_src=10.254.0.0/255.255.255.255,tp_src="),
            "{rule}"
        );
        let rule = &masked_rules6(256, "a", "b")[255];
        assert!(
            rule.contains(",ipv6_dst=fd01::ff/ffff:ffff:ffff:ffff:ffff:ffff:fff0:ff,ipv6_src=fd00::1/ffff"),
            "{rule}"
        );
        assert!(rule.contains(",tp_src=0x3e8/0xffff,tp_dst=0x2e9/0xfeff"), "{rule}");
    }
}
