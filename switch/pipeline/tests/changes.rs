//! Changing rules: what OpenFlow says about it, transactions, time, slots.

use std::time::Duration;

use flow::{Field, FlowKey, FlowMask};
use flow_text::{FlowFilter, NoPorts, parse_add, parse_del, parse_mod};
use pipeline::{Evaluation, FlowMod, Refused, TableError, Tables, Why};

fn add(text: &str) -> FlowMod {
    FlowMod::Add(parse_add(text, &NoPorts).unwrap())
}

fn modify(text: &str, strict: bool) -> FlowMod {
    FlowMod::Modify { change: parse_mod(text, &NoPorts).unwrap(), strict }
}

fn del(text: &str, strict: bool) -> FlowMod {
    FlowMod::Delete { filter: parse_del(text, &NoPorts).unwrap(), strict }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn with(flows: &[&str]) -> Tables {
    let mut tables = Tables::new(2);
    tables.apply(&flows.iter().map(|text| add(text)).collect::<Vec<_>>(), at(0)).unwrap();
    tables
}

fn flows(tables: &Tables) -> Vec<String> {
    tables.dump(&FlowFilter::default(), at(0)).iter().map(|view| view.spec.to_string()).collect()
}

fn frames(tables: &Tables) -> Vec<u64> {
    tables.dump(&FlowFilter::default(), at(0)).iter().map(|view| view.counters.frames).collect()
}

fn count(tables: &Tables, at: usize, frames: u64, second: u32) {
    let slot = tables.dump(&FlowFilter::default(), Duration::ZERO)[at].slot;
    tables.stats().add(0, slot, frames, frames * 60, second);
}

#[test]
fn a_rule_of_the_same_match_and_priority_is_replaced_and_counts_on() {
    let mut tables = with(&["in_port=1,actions=1"]);
    count(&tables, 0, 5, 1);
    tables.apply(&[add("in_port=1,cookie=9,actions=2")], at(1)).unwrap();
    assert_eq!(flows(&tables), ["cookie=0x9, in_port=1 actions=output:2"]);
    assert_eq!(frames(&tables), [5]);
    tables.apply(&[add("in_port=1,reset_counts,actions=2")], at(1)).unwrap();
    assert_eq!(frames(&tables), [0]);
    tables.apply(&[add("in_port=1,priority=7,actions=3")], at(1)).unwrap();
    assert_eq!(tables.len(), 2, "another priority is another rule");
}

#[test]
fn modify_changes_narrower_rules_and_strictly_only_the_very_one() {
    let mut tables = with(&["ip,actions=1", "ip,in_port=1,priority=9,actions=1", "arp,actions=1"]);
    count(&tables, 0, 5, 1);
    assert_eq!(tables.apply(&[modify("ip,actions=2", false)], at(1)).unwrap().modified, 2);
    assert_eq!(
        flows(&tables),
        ["ip actions=output:2", "arp actions=output:1", "priority=9,ip,in_port=1 actions=output:2"]
    );
    assert_eq!(frames(&tables), [5, 0, 0], "counters go on");
    assert_eq!(tables.apply(&[modify("ip,actions=3", true)], at(1)).unwrap().modified, 1);
    assert_eq!(tables.apply(&[modify("ip,priority=8,actions=3", true)], at(1)).unwrap().modified, 0);
    tables.apply(&[modify("ip,reset_counts,cookie=4,actions=3", true)], at(1)).unwrap();
    assert_eq!(frames(&tables), [0, 0, 0]);
    assert!(flows(&tables).contains(&"cookie=0x4, ip actions=output:3".into()), "{:?}", flows(&tables));
}

#[test]
fn delete_takes_table_cookie_and_out_port_into_account() {
    let all = [
        "table=1,cookie=0x11,ip,actions=1",
        "table=2,cookie=0x21,ip,in_port=1,actions=2",
        "cookie=0x12,actions=write_actions(2)",
    ];
    let left = |filter: &str, strict| {
        let mut tables = with(&all);
        tables.apply(&[del(filter, strict)], at(0)).unwrap();
        tables.dump(&FlowFilter::default(), at(0)).iter().map(|view| view.spec.cookie).collect::<Vec<_>>()
    };
    assert_eq!(left("", false), []);
    assert_eq!(left("table=1", false), [0x12, 0x21]);
    assert_eq!(left("ip", false), [0x12]);
    assert_eq!(left("ip", true), [0x12, 0x21]);
    assert_eq!(left("cookie=0x1/0xf", false), [0x12]);
    assert_eq!(left("out_port=2", false), [0x11]);
    assert_eq!(left("", true), [0x11, 0x21]);
    assert_eq!(left("priority=1", true), [0x12, 0x11, 0x21]);
}

#[test]
fn a_list_with_one_bad_change_changes_nothing() {
    let mut tables = with(&["in_port=1,actions=1", "in_port=2,idle_timeout=5,actions=1"]);
    count(&tables, 0, 5, 1);
    let before = (flows(&tables), frames(&tables), tables.version());
    let refused = tables.apply(
        &[
            del("", false),
            add("in_port=3,actions=1"),
            add("in_port=1,reset_counts,actions=2"),
            modify("in_port=3,actions=7", false),
            modify("table=7,actions=goto_table:9", false),
            add("check_overlap,ip,actions=2"),
        ],
        at(1),
    );
    let overlap = TableError::Overlap { table: 0, priority: 32768 };
    assert_eq!(refused, Err(Refused { index: 5, error: overlap }));
    assert_eq!((flows(&tables), frames(&tables), tables.version()), before);
    assert_eq!(tables.expire(at(6)).len(), 1, "timeouts are as before, too");
}

#[test]
fn instructions_that_do_not_fit_their_table_are_refused() {
    let mut tables = with(&["table=5,actions=1"]);
    let refused = tables.apply(&[modify("actions=goto_table:5", false)], at(0)).unwrap_err();
    assert_eq!(refused.error, TableError::GotoTable { from: 5, to: 5 });
    let mut spec = parse_add("actions=1", &NoPorts).unwrap();
    spec.table = 255;
    assert_eq!(tables.apply(&[FlowMod::Add(spec)], at(0)).unwrap_err().error, TableError::NoTable(255));
}

#[test]
fn check_overlap_looks_at_other_rules_of_the_same_priority_only() {
    let mut tables = with(&["ip,actions=1"]);
    for text in [
        "check_overlap,ip,actions=2",
        "check_overlap,priority=1,in_port=1,actions=1",
        "check_overlap,arp,actions=1",
        "check_overlap,table=1,actions=1",
    ] {
        tables.apply(&[add(text)], at(0)).unwrap();
    }
    assert!(tables.apply(&[add("check_overlap,in_port=1,actions=1")], at(0)).is_err());
}

#[test]
fn rules_go_when_their_time_has_come_and_not_before() {
    let mut tables = with(&[
        "in_port=1,idle_timeout=10,actions=1",
        "in_port=2,hard_timeout=20,actions=1",
        "in_port=3,actions=1",
    ]);
    assert_eq!(tables.expire(at(9)), []);
    count(&tables, 0, 1, 9);
    assert_eq!(tables.expire(at(19)), [], "used ten seconds ago at most");
    let gone = tables.expire(at(20));
    let mut why: Vec<_> = gone.iter().map(|rule| (rule.why, rule.counters.frames)).collect();
    why.sort_by_key(|&(why, _)| why == Why::Hard);
    assert_eq!(why, [(Why::Idle, 1), (Why::Hard, 0)]);
    assert_eq!(flows(&tables), ["in_port=3 actions=output:1"]);
}

#[test]
fn a_modified_rule_starts_its_hard_timeout_anew_and_keeps_its_age() {
    let mut tables = with(&["hard_timeout=20,actions=1"]);
    tables.apply(&[modify("actions=2", false)], at(15)).unwrap();
    assert_eq!(tables.expire(at(34)), []);
    assert_eq!(tables.dump(&FlowFilter::default(), at(34))[0].counters.age, at(34));
    assert_eq!(tables.expire(at(35)).len(), 1);
}

#[test]
fn a_snapshot_does_not_change_any_more() {
    let mut tables = with(&["actions=1"]);
    let before = tables.snapshot();
    tables.apply(&[del("", false)], at(0)).unwrap();
    let mut out = Evaluation::default();
    before.evaluate(&FlowKey::default(), &mut out);
    assert_eq!(out.ops.len(), 1);
    tables.snapshot().evaluate(&FlowKey::default(), &mut out);
    assert_eq!(out.ops.len(), 0);
    assert!(tables.version() > before.version());
}

#[test]
fn nothing_changed_is_no_new_version() {
    let mut tables = with(&["actions=1"]);
    let version = tables.version();
    assert_eq!(tables.apply(&[del("in_port=9", false)], at(0)).unwrap().removed, 0);
    assert_eq!(tables.expire(at(1000)), []);
    assert_eq!(tables.version(), version);
}

#[test]
fn a_slot_is_used_again_only_after_every_worker_has_let_go_of_it() {
    let mut tables = with(&["in_port=1,actions=1"]);
    let slot = tables.dump(&FlowFilter::default(), at(0))[0].slot;
    let had_it = tables.version();
    tables.apply(&[del("", false)], at(0)).unwrap();
    let without = tables.version();
    let next = |tables: &mut Tables, port: u32| {
        tables.apply(&[add(&format!("in_port={port},actions=1"))], at(0)).unwrap();
        let of_port = parse_del(&format!("in_port={port}"), &NoPorts).unwrap();
        tables.dump(&of_port, at(0))[0].slot
    };
    tables.release_retired(had_it);
    assert_ne!(next(&mut tables, 2), slot);
    // A worker that is late counts a last frame, to nobody's harm.
    tables.stats().add(1, slot, 1, 60, 1);
    tables.release_retired(without);
    assert_eq!(next(&mut tables, 3), slot);
    assert_eq!(frames(&tables), [0, 0]);
}

#[test]
fn a_snapshot_says_which_frames_changes_concern() {
    let mut tables = with(&["ip,actions=set_field:10.0.0.1->ip_dst,goto_table:1"]);
    let since = tables.version();
    tables.apply(&[add("table=1,ip,in_port=3,nw_dst=10.0.0.1,actions=1")], at(0)).unwrap();
    let snapshot = tables.snapshot();
    let mut seen = Vec::new();
    assert!(snapshot.changes_since(since, |key, mask| seen.push((*key, *mask))));
    let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
    key.set(Field::EthType, 0x800);
    key.set(Field::InPort, 3);
    mask.add(Field::EthType, 0xffff);
    mask.add(Field::InPort, 0xffff_ffff);
    assert_eq!(seen, [(key, mask)], "what rules write may be anything on arrival");
    assert!(snapshot.changes_since(snapshot.version(), |_, _| panic!("nothing since")));
    for port in 0..100 {
        tables.apply(&[add(&format!("in_port={port},actions=1"))], at(0)).unwrap();
    }
    assert!(!tables.snapshot().changes_since(since, |_, _| {}), "too long ago");
}

#[test]
fn a_change_behind_resubmit_or_dec_ttl_concerns_frames_of_any_port_or_ttl() {
    let mut tables = with(&["actions=resubmit(5,1)", "priority=1,ip,actions=dec_ttl,goto_table:1"]);
    let since = tables.version();
    tables.apply(&[add("table=1,ip,in_port=5,nw_ttl=63,actions=1")], at(0)).unwrap();
    let mut seen = Vec::new();
    assert!(tables.snapshot().changes_since(since, |_, mask| seen.push(*mask)));
    let mut eth = FlowMask::default();
    eth.add(Field::EthType, 0xffff);
    assert_eq!(seen, [eth]);
}

#[test]
fn a_large_list_of_changes_concerns_every_frame() {
    let mut tables = with(&["actions=1"]);
    let since = tables.version();
    let many: Vec<FlowMod> = (0..1000).map(|port| add(&format!("in_port={port},actions=1"))).collect();
    tables.apply(&many, at(0)).unwrap();
    let mut seen = Vec::new();
    assert!(tables.snapshot().changes_since(since, |key, mask| seen.push((*key, *mask))));
    assert_eq!(seen, [(FlowKey::default(), FlowMask::default())]);
}

#[test]
fn rules_go_on_elsewhere_with_their_counters_and_times() {
    let mut old = with(&[
        "table=1,priority=7,tcp,actions=drop",
        "cookie=3,idle_timeout=10,in_port=1,actions=2",
        "hard_timeout=10,in_port=2,actions=resubmit(,1)",
    ]);
    count(&old, 0, 5, 8);
    old.apply(&[modify("in_port=2,actions=1", true)], at(4)).unwrap();
    let (rules, credits): (Vec<_>, Vec<_>) = old.saved().into_iter().unzip();
    let mut new = Tables::new(1);
    new.restore(&rules).unwrap();
    for (rule, credit) in rules.iter().zip(&credits) {
        assert!(new.add_credit(&rule.spec, *credit));
    }
    assert_eq!(flows(&new), flows(&old));
    assert_eq!(frames(&new), frames(&old));
    assert_eq!(new.saved(), old.saved());
    for tables in [&mut old, &mut new] {
        assert!(tables.expire(at(13)).is_empty());
        assert_eq!(tables.expire(at(14)).len(), 1, "ten seconds after it was modified");
        assert_eq!(tables.expire(at(19)).len(), 1, "ten seconds after its last frame");
    }
}

#[test]
fn rules_that_cannot_stand_are_not_restored_in_part() {
    let (mut rules, _): (Vec<_>, Vec<_>) =
        with(&["in_port=1,actions=2", "in_port=2,actions=1"]).saved().into_iter().unzip();
    rules[1].spec.instructions.goto_table = Some(0);
    let mut new = Tables::new(1);
    let refused = new.restore(&rules).unwrap_err();
    assert_eq!((refused.index, refused.error), (1, TableError::GotoTable { from: 0, to: 0 }));
    assert!(new.is_empty());
}
