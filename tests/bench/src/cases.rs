//! What is measured: frame sizes, ring layouts, rules, numbers of flows and masks.

use std::fmt::Write as _;

/// Rules the switch gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// One rule per port that looks at the input port only.
    PortToPort,
    /// None: learning and forwarding by address.
    Normal,
    /// This many rules per port with a mask each, see [`masked_rules`].
    Masks(u32),
}

/// One row of the result.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique.
    pub name: String,
    /// Frame size in bytes as handed to virtio, without FCS.
    pub size: u32,
}

/// Cases that one start of switch and load can measure.
#[derive(Clone, Debug)]
pub struct Group {
    /// Packed instead of split rings.
    pub packed: bool,
    /// Rules.
    pub rules: Rules,
    /// Flows the load sends; 0 means its plain frames, all alike, that go round and round.
    pub flows: u32,
    /// The rows.
    pub cases: Vec<Case>,
}

/// Ethernet's 1518 bytes count the FCS, which virtio does not carry; 64 and 512 are sent as such, as everybody does.
const SIZES: [(&str, u32); 3] = [("64", 64), ("512", 512), ("1518", 1514)];

impl Group {
    /// Rules in `ovs-ofctl` syntax for ports `vm0` and `vm1`.
    pub fn flow_strings(&self) -> Vec<String> {
        match self.rules {
            Rules::Normal => Vec::new(),
            Rules::PortToPort => [("vm0", "vm1"), ("vm1", "vm0")]
                .map(|(from, to)| format!("in_port={from},actions=output:{to}"))
                .into(),
            Rules::Masks(count) => {
                let mut rules = masked_rules(count, "vm0", "vm1");
                rules.extend(masked_rules(count, "vm1", "vm0"));
                rules
            }
        }
    }
}

/// Rules from `from` to `to` that share flowgen's traffic evenly among `count` masks (a power of two up to 64).
///
/// flowgen's frames differ in the low bits of `nw_dst` only. Rule `i` asks for the low bits to be `i`, and for `i` further bits
/// that are the same in all frames. Priorities fall with `i` and each rule's bits contain those of the rules before, so that
/// a megaflow made from rule `i` and all rules above it still has a mask of its own.
fn masked_rules(count: u32, from: &str, to: &str) -> Vec<String> {
    assert!(count.is_power_of_two() && count <= 64, "more would need more constant bits than are used here");
    (0..count)
        .map(|i| {
            // Constant in flowgen's frames (app/test-pmd/flowgen.c): nw_src 10.254.0.0 and the upper half of nw_dst 10.253.x.y.
            let (dst_bits, src_bits) = (i.min(15), i.saturating_sub(15).min(32));
            let port_bits = i.saturating_sub(47);
            let dst_mask = upper_bits(dst_bits) | (count - 1);
            let dst = (u32::from_be_bytes([10, 253, 0, 0]) & upper_bits(dst_bits)) | i;
            let mut rule = format!("priority={},in_port={from},udp", 1000 - i);
            write_masked(&mut rule, "nw_dst", dst, dst_mask);
            write_masked(&mut rule, "nw_src", u32::from_be_bytes([10, 254, 0, 0]), upper_bits(src_bits));
            if port_bits > 0 {
                // flowgen sends from port 1000 (cfg_udp_src).
                let mask = (0xffff_0000u32 >> port_bits) & 0xffff;
                write!(rule, ",tp_src={:#x}/{mask:#x}", 1000 & mask).expect("memory");
            }
            rule + &format!(",actions=output:{to}")
        })
        .collect()
}

/// A mask of the `count` most significant bits.
fn upper_bits(count: u32) -> u32 {
    u32::MAX.checked_shl(32 - count).unwrap_or(0)
}

fn write_masked(rule: &mut String, field: &str, value: u32, mask: u32) {
    if mask != 0 {
        let (value, mask) = (std::net::Ipv4Addr::from(value & mask), std::net::Ipv4Addr::from(mask));
        write!(rule, ",{field}={value}/{mask}").expect("memory");
    }
}

/// All groups of the full benchmark, or of the quick one.
fn groups(quick: bool) -> Vec<Group> {
    let mut groups = Vec::new();
    for (rules, word) in [(Rules::PortToPort, "p2p"), (Rules::Normal, "normal")] {
        for (packed, ring) in [(false, "split"), (true, "packed")] {
            if quick && rules == Rules::Normal && packed {
                continue;
            }
            let sizes = SIZES
                .iter()
                .filter(|(name, _)| !quick || *name == "64" || (*name == "1518" && word == "p2p"));
            let case =
                |(name, size): &(&str, u32)| Case { name: format!("{name}-{ring}-{word}"), size: *size };
            groups.push(Group { packed, rules, flows: 0, cases: sizes.map(case).collect() });
        }
    }
    for (flows, word) in [(1, "1"), (1_000, "1k"), (100_000, "100k")] {
        for masks in [1, 16, 64] {
            if quick && (flows, masks) != (100_000, 64) {
                continue;
            }
            let name = format!("64-split-{word}-flows-{masks}-masks");
            groups.push(Group {
                packed: false,
                rules: Rules::Masks(masks),
                flows,
                cases: vec![Case { name, size: 64 }],
            });
        }
    }
    groups
}

/// The groups with the cases whose names contain one of `words`; all when there are none.
pub(crate) fn select(quick: bool, words: &[String]) -> Vec<Group> {
    // Who names a case wants it, quick or not.
    let mut groups = groups(quick && words.is_empty());
    if !words.is_empty() {
        for group in &mut groups {
            group.cases.retain(|case| words.iter().any(|word| case.name.contains(word.as_str())));
        }
        groups.retain(|group| !group.cases.is_empty());
    }
    groups
}

/// Names of all cases.
pub(crate) fn names() -> Vec<String> {
    let measured = groups(false).into_iter().flat_map(|group| group.cases).map(|case| case.name);
    measured.chain(["idle".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_masked_rule_has_a_mask_of_its_own() {
        for count in [1, 16, 64] {
            let masks: BTreeSet<String> = masked_rules(count, "a", "b")
                .iter()
                .map(|rule| {
                    let fields = rule.split(',').filter_map(|field| field.split_once('/'));
                    fields
                        .map(|(field, mask)| format!("{}{mask} ", field.split('=').next().unwrap()))
                        .collect()
                })
                .collect();
            assert_eq!(masks.len() as u32, count);
        }
    }

    #[test]
    fn one_mask_is_no_mask_beside_port_and_protocol() {
        assert_eq!(masked_rules(1, "a", "b"), ["priority=1000,in_port=a,udp,actions=output:b"]);
    }

    #[test]
    fn the_rule_of_a_low_part_matches_flowgen_frames_with_it() {
        let rule = &masked_rules(64, "a", "b")[63];
        assert!(
            rule.contains(",nw_dst=10.252.0.63/255.254.0.63,nw_src=10.254.0.0/255.255.255.255,tp_src="),
            "{rule}"
        );
    }

    #[test]
    fn case_names_are_unique_and_quick_ones_are_among_them() {
        let all: Vec<_> = names();
        let unique: BTreeSet<_> = all.iter().cloned().collect();
        assert_eq!(unique.len(), all.len());
        let quick = groups(true).into_iter().flat_map(|group| group.cases);
        assert!(quick.map(|case| case.name).all(|name| unique.contains(&name)));
    }
}
