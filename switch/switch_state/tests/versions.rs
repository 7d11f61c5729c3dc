//! What any version promises, on states that were written once and are kept.

use proptest::prelude::*;
use switch_state::{Address, Bridge, Credit, OLDEST, ParseError, Stage, State, VERSION, fuzz_state};

/// Written by a switch of version 1, of which a take-over began.
const VERSION_1: &[u8] = include_bytes!("states/version_1.bin");
/// As version 2 writes it. Should this fail to be read, or read as something else, the version must be raised.
const VERSION_2: &[u8] = include_bytes!("states/version_2.bin");

fn with_version(version: u32) -> Vec<u8> {
    let mut bytes = VERSION_2.to_vec();
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes
}

#[test]
fn every_version_that_is_promised_reads_as_the_same_switch() {
    assert_eq!((OLDEST, VERSION), (1, 2), "a state of each version is kept here");
    let old = State::parse(VERSION_1).unwrap();
    let new = State::parse(VERSION_2).unwrap();
    assert_eq!(old, new);
    assert_eq!(new.stage, Stage::Held { since_ns: 123_456_789_012 });
    assert_eq!(new.ports.len(), 3);
    let bridge = &new.bridges[0];
    assert_eq!(bridge.credits, [Credit { frames: 1000, bytes: 60_000, last_used_secs: 77 }]);
    let mac = [2, 0, 0, 0, 0, 0x0a];
    assert_eq!(bridge.addresses, [Address { vlan: 7, mac, port: 1, seen_secs: 78 }]);
}

#[test]
fn what_is_written_is_the_current_version() {
    assert_eq!(State::parse(VERSION_1).unwrap().to_bytes(), VERSION_2);
}

#[test]
fn other_versions_are_refused_by_number() {
    for version in [0, VERSION + 1, u32::MAX] {
        let error = State::parse(&with_version(version)).unwrap_err();
        assert!(matches!(error, ParseError::Version { found } if found == version), "{error}");
    }
}

#[test]
fn members_of_later_programs_are_skipped() {
    let text = br#"{"program":"9.9","pid":1,"stage":"running","bridges":[],"ports":[],"mood":"good"}"#;
    let mut bytes = VERSION_2[..12].to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text);
    assert_eq!(State::parse(&bytes).unwrap().program, "9.9");
}

#[test]
fn a_state_cut_anywhere_is_refused() {
    for len in 0..VERSION_2.len() {
        assert!(State::parse(&VERSION_2[..len]).is_err(), "{len} bytes");
    }
    let longer = [VERSION_2, b"x"].concat();
    assert!(matches!(State::parse(&longer), Err(ParseError::Length { .. })));
}

#[test]
fn a_count_beyond_the_end_takes_no_memory() {
    let mut bytes = VERSION_2.to_vec();
    let text = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[16 + text..20 + text].fill(0xff);
    assert!(matches!(State::parse(&bytes), Err(ParseError::Length { .. })));
}

proptest! {
    #[test]
    fn any_table_comes_back(
        addresses in prop::collection::vec((any::<[u8; 6]>(), any::<[u16; 2]>(), any::<u32>()), 0..50),
        credits in prop::collection::vec((any::<[u64; 2]>(), any::<u32>()), 0..50),
    ) {
        let mut state = State::parse(VERSION_2).unwrap();
        let address = |(mac, [vlan, port], seen_secs): (_, [u16; 2], _)| Address { vlan, mac, port, seen_secs };
        let credit = |([frames, bytes], last_used_secs): ([u64; 2], _)| Credit { frames, bytes, last_used_secs };
        state.bridges.push(Bridge {
            name: "more".into(),
            addresses: addresses.into_iter().map(address).collect(),
            credits: credits.into_iter().map(credit).collect(),
            ..Bridge::default()
        });
        prop_assert_eq!(State::parse(&state.to_bytes()).unwrap(), state);
    }

    #[test]
    fn any_bytes_are_answered(
        at in 0..VERSION_2.len(),
        bytes in prop::collection::vec(any::<u8>(), 0..32),
        old in any::<bool>(),
    ) {
        let mut data = if old { VERSION_1 } else { VERSION_2 }.to_vec();
        let end = (at + bytes.len()).min(data.len());
        data[at.min(end)..end].copy_from_slice(&bytes[..end - at.min(end)]);
        fuzz_state(&data);
        fuzz_state(&bytes);
    }
}
