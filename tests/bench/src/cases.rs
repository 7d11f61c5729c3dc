//! All rows there are.

use crate::Options;
use crate::changes::RuleChanges;
use crate::fairness::{Flood, Hostile};
use crate::forwarding::Forwarding;
use crate::idle::Idle;
use crate::latency::{Latency, Pace, Wake};
use crate::lookup::LookUp;
use crate::measure::{Group, Measure};
use crate::production::Production;
use crate::rules::Rules;
use crate::section::Section;
use crate::stream::TcpStream;
use crate::traffic::Headers;

/// Ethernet's 1518 bytes count the FCS, which virtio does not carry; 64 and 512 are sent as such, as everybody does.
const SIZES: [(&str, u32); 3] = [("64", 64), ("512", 512), ("1518", 1514)];
const RINGS: [(&str, bool); 2] = [("split", false), ("packed", true)];

/// Rows of `--quick`.
const QUICK: &[&str] = &[
    "64-split-p2p",
    "1518-split-p2p",
    "64-packed-p2p",
    "1518-packed-p2p",
    "64-split-normal",
    "64-split-100k-flows-64-masks",
    "64-split-latency-500k",
    "idle",
];

fn measures() -> Vec<Box<dyn Measure>> {
    let mut all: Vec<Box<dyn Measure>> = Vec::new();
    for (rules, word) in [(Rules::PortToPort, "p2p"), (Rules::Normal, "normal")] {
        for (ring, packed) in RINGS {
            let cases = SIZES.map(|(size, bytes)| (format!("{size}-{ring}-{word}"), bytes)).into();
            all.push(Box::new(Forwarding { packed, rules, flows: 0, cases }));
        }
    }
    for (word, flows) in [("1", 1), ("1k", 1_000), ("100k", 100_000)] {
        for masks in [1, 16, 64] {
            let cases = vec![(format!("64-split-{word}-flows-{masks}-masks"), 64)];
            all.push(Box::new(Forwarding { packed: false, rules: Rules::Masks(masks), flows, cases }));
        }
    }
    for masks in [1, 16, 64, 256] {
        let hits = [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000)]
            .map(|(word, flows)| (format!("lookup-{masks}-masks-hits-{word}-flows"), Headers::Flows6(flows)));
        let misses = (format!("lookup-{masks}-masks-misses"), Headers::Random6);
        let cases = hits.into_iter().chain([misses]).collect();
        all.push(Box::new(LookUp { masks, cases }));
    }
    for (ring, packed) in RINGS {
        let paces = [
            ("500k", Pace::Rate(500_000.0)),
            ("10%", Pace::Share(0.1)),
            ("50%", Pace::Share(0.5)),
            ("90%", Pace::Share(0.9)),
        ];
        let cases = paces.map(|(word, pace)| (format!("64-{ring}-latency-{word}"), pace)).into();
        all.push(Box::new(Latency { packed, cases }));
    }
    all.push(Box::new(Wake));
    all.push(Box::new(TcpStream { offloads: true }));
    all.push(Box::new(TcpStream { offloads: false }));
    all.push(Box::new(Flood));
    all.push(Box::new(Hostile));
    all.push(Box::new(RuleChanges));
    all.push(Box::new(Production));
    all.push(Box::new(Idle));
    all
}

/// What the options ask for.
pub(crate) fn select(options: &Options) -> Vec<Group> {
    let is_wanted = |name: &str| {
        if options.only.is_empty() {
            // Who names a case wants it, quick or not.
            return !options.quick || QUICK.contains(&name);
        }
        options.only.iter().any(|word| name.contains(word.as_str()))
    };
    measures().into_iter().filter_map(|measure| Group::of(measure, is_wanted)).collect()
}

/// The kind of a case.
///
/// # Panics
/// When there is no such case.
pub(crate) fn section_of(name: &str) -> &'static Section {
    let all = measures();
    let its = all.iter().find(|measure| measure.names().iter().any(|other| other == name));
    its.expect("rows come from cases").section()
}

/// Names of all cases.
pub(crate) fn names() -> Vec<String> {
    measures().iter().flat_map(|measure| measure.names()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn case_names_are_unique_and_quick_ones_are_among_them() {
        let all = names();
        let unique: BTreeSet<_> = all.iter().map(String::as_str).collect();
        assert_eq!(unique.len(), all.len());
        assert!(QUICK.iter().all(|name| unique.contains(name)));
    }

    #[test]
    fn a_word_selects_the_cases_whose_names_contain_it() {
        let options = Options {
            systems: Vec::new(),
            quick: true,
            only: vec!["512-split".into(), "misses".into()],
            runs: None,
            switch_core: 0,
            load_core: 1,
            huge_pages: false,
            command: String::new(),
        };
        let groups = select(&options);
        let names: Vec<_> = groups.iter().flat_map(|group| group.names()).cloned().collect();
        let expected = ["512-split-p2p", "512-split-normal", "lookup-1-masks-misses"];
        assert_eq!(names[..3], expected);
        assert_eq!(names.len(), 6);
    }
}
