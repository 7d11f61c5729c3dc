//! What the tables say about a frame.

use std::time::Duration;

use action::Op;
use flow::{Field, FlowKey, FlowMask, PRESENT};
use flow_text::{NoPorts, parse_add};
use pipeline::{DEPTH_MAX, Evaluation, FlowMod, Outcome, Tables};

fn tables(flows: &[&str]) -> Tables {
    let mut tables = Tables::new(1);
    let adds: Vec<FlowMod> =
        flows.iter().map(|text| FlowMod::Add(parse_add(text, &NoPorts).unwrap())).collect();
    tables.apply(&adds, Duration::ZERO).unwrap();
    tables
}

fn key(fields: &[(Field, u128)]) -> FlowKey {
    let mut key = FlowKey::default();
    for &(field, value) in fields {
        key.set(field, value);
    }
    key
}

fn run(flows: &[&str], fields: &[(Field, u128)]) -> Evaluation {
    let mut out = Evaluation::default();
    tables(flows).snapshot().evaluate(&key(fields), &mut out);
    out
}

fn mask(fields: &[(Field, u128)]) -> FlowMask {
    let mut mask = FlowMask::default();
    for &(field, bits) in fields {
        mask.add(field, bits);
    }
    mask
}

const IP: (Field, u128) = (Field::EthType, 0x800);
const TCP: (Field, u128) = (Field::IpProto, 6);
const TAG: u128 = PRESENT as u128;

#[test]
fn the_highest_priority_decides() {
    let flows = ["priority=1,actions=1", "priority=3,in_port=7,actions=3", "priority=2,actions=2"];
    assert_eq!(run(&flows, &[(Field::InPort, 7)]).ops, [Op::Output(3)]);
    assert_eq!(run(&flows, &[(Field::InPort, 8)]).ops, [Op::Output(2)]);
}

#[test]
fn a_frame_without_a_rule_is_dropped_and_the_outcome_says_so() {
    let out = run(&["in_port=1,actions=2"], &[(Field::InPort, 3)]);
    assert_eq!((out.outcome, out.ops.len(), out.rules.len()), (Outcome::NoRule, 0, 0));
    let out = run(&["in_port=3,actions=drop"], &[(Field::InPort, 3)]);
    assert_eq!((out.outcome, out.ops.len(), out.rules.len()), (Outcome::Done, 0, 1));
}

#[test]
fn default_normal_does_normal_and_looks_at_nothing() {
    let snapshot = Tables::with_default_normal(1).snapshot();
    let out = snapshot.shortcut(5).unwrap();
    assert_eq!((out.ops.as_slice(), out.outcome), (&[Op::Normal][..], Outcome::Done));
    assert!(out.mask.is_empty());
}

#[test]
fn a_miss_after_goto_keeps_what_was_applied_and_forgets_the_action_set() {
    let out = run(&["actions=1,write_actions(2),goto_table:3"], &[]);
    assert_eq!((out.ops.as_slice(), out.outcome), (&[Op::Output(1)][..], Outcome::NoRule));
}

#[test]
fn written_fields_are_matched_as_written_and_not_looked_at_in_the_frame() {
    let flows = [
        "table=0,ip,actions=set_field:10.0.0.1->ip_dst,set_field:7->reg0,goto_table:1",
        "table=1,ip,nw_dst=10.0.0.1,reg0=7,actions=2",
    ];
    let out = run(&flows, &[IP, (Field::Ipv4Dst, 0x01020304)]);
    assert_eq!(
        out.ops,
        [Op::Set { field: Field::Ipv4Dst, value: 0x0a000001, mask: 0xffff_ffff }, Op::Output(2)],
        "registers make no operation"
    );
    assert_eq!(out.mask, mask(&[(Field::EthType, 0xffff)]));
}

#[test]
fn partly_written_fields_are_looked_at_in_the_other_bits() {
    let flows = [
        "table=0,ip,actions=set_field:10.0.0.0/8->ip_dst,goto_table:1",
        "table=1,ip,nw_dst=10.0.0.0/16,actions=2",
    ];
    let out = run(&flows, &[IP]);
    assert_eq!(out.mask, mask(&[(Field::EthType, 0xffff), (Field::Ipv4Dst, 0x00ff_0000)]));
}

#[test]
fn a_field_is_not_set_in_a_frame_that_has_none() {
    let flows = [
        "tcp,actions=set_field:80->tcp_dst,goto_table:1",
        "table=1,tcp,tcp_dst=80,actions=2",
        "table=1,priority=1,actions=3",
    ];
    let first = run(&flows, &[IP, TCP, (Field::IpFrag, 1)]);
    assert_eq!(first.ops.last(), Some(&Op::Output(2)));
    let later = run(&flows, &[IP, TCP, (Field::IpFrag, 3)]);
    assert_eq!(later.ops, [Op::Output(3)], "a later fragment has no ports");
    assert_eq!(later.mask.get(Field::IpFrag), 2);
}

#[test]
fn the_action_set_is_executed_last_and_in_openflow_order() {
    let flows = [
        "ip,actions=write_actions(output:9,set_field:1.1.1.1->ip_src,dec_ttl,push_vlan:0x8100,pop_vlan),write_metadata:5,goto_table:1",
        "table=1,metadata=5,actions=1,write_actions(output:2)",
    ];
    let out = run(&flows, &[IP]);
    assert_eq!(
        out.ops,
        [
            Op::Output(1),
            Op::PopVlan,
            Op::PushVlan(0x8100),
            Op::DecTtl,
            Op::Set { field: Field::Ipv4Src, value: 0x01010101, mask: 0xffff_ffff },
            Op::Output(2),
        ]
    );
    assert_eq!(out.mask, mask(&[(Field::EthType, 0xffff)]), "metadata was written, and a push needs no look");
}

#[test]
fn clear_actions_empties_the_set_and_a_new_one_can_be_written() {
    let flows = [
        "actions=write_actions(1,push_vlan:0x8100),goto_table:1",
        "table=1,actions=clear_actions,write_actions(2)",
    ];
    assert_eq!(run(&flows, &[]).ops, [Op::Output(2)]);
}

#[test]
fn resubmit_does_the_other_rules_actions_and_comes_back() {
    let flows = [
        "in_port=1,actions=resubmit(5,1),resubmit(,2),resubmit:6,4",
        "in_port=6,actions=9",
        "table=1,in_port=5,actions=set_field:3->reg1,1,resubmit(,3)",
        "table=2,reg1=3,actions=2",
        "table=3,in_port=1,actions=3",
    ];
    let out = run(&flows, &[(Field::InPort, 1)]);
    let expected = [1, 3, 2, 9, 4].map(Op::Output);
    assert_eq!((out.ops.as_slice(), out.outcome), (&expected[..], Outcome::Done));
    assert_eq!(out.rules.len(), 5);
}

#[test]
fn a_port_named_in_resubmit_is_not_looked_at_in_the_frame() {
    let out =
        run(&["priority=1,actions=resubmit(5,1)", "table=1,in_port=5,actions=1"], &[(Field::InPort, 3)]);
    assert_eq!(out.ops, [Op::Output(1)]);
    assert!(out.mask.is_empty());
}

#[test]
fn a_resubmit_that_finds_nothing_does_nothing() {
    let out = run(&["actions=resubmit(,9),1"], &[]);
    assert_eq!((out.ops.as_slice(), out.outcome), (&[Op::Output(1)][..], Outcome::Done));
}

#[test]
fn rules_that_lead_too_deep_or_too_far_do_nothing() {
    let out = run(&["actions=1,resubmit(,0)"], &[]);
    assert_eq!((out.ops.len(), out.outcome), (0, Outcome::LimitExceeded));
    assert_eq!(out.rules.len(), DEPTH_MAX + 1);

    let wide: Vec<String> =
        (0..30).map(|t| format!("table={t},actions=1,resubmit(,{}),resubmit(,{})", t + 1, t + 1)).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let out = run(&wide, &[]);
    assert_eq!((out.ops.len(), out.outcome), (0, Outcome::LimitExceeded));
}

#[test]
fn mod_vlan_pushes_a_tag_only_where_there_is_none() {
    let flows = ["actions=mod_vlan_vid:5,mod_vlan_pcp:3,2"];
    let set = [
        Op::Set { field: Field::VlanTci, value: 5, mask: 0xfff },
        Op::Set { field: Field::VlanTci, value: 3 << 13, mask: 0xe000 },
        Op::Output(2),
    ];
    let untagged = run(&flows, &[]);
    assert_eq!(untagged.ops[0], Op::PushVlan(0x8100));
    assert_eq!(untagged.ops[1..], set);
    assert_eq!(untagged.mask, mask(&[(Field::VlanTci, TAG)]));
    let tagged = run(&flows, &[(Field::VlanTci, TAG | 9)]);
    assert_eq!(tagged.ops, set);
    assert!(tables(&flows).snapshot().shortcut(1).is_none(), "it depends on the tag");
}

#[test]
fn a_popped_frame_is_matched_by_its_inner_tag() {
    let flows = [
        "table=0,actions=pop_vlan,goto_table:1",
        "table=1,dl_vlan=7,actions=7",
        "table=1,priority=1,actions=1",
    ];
    let qinq = [(Field::VlanTci, TAG | 5), (Field::VlanTci2, TAG | 7)];
    let out = run(&flows, &qinq);
    assert_eq!(out.ops, [Op::PopVlan, Op::Output(7)]);
    assert_eq!(out.mask, mask(&[(Field::VlanTci, 0xffff), (Field::VlanTci2, 0xffff)]));
    assert_eq!(run(&flows, &[(Field::VlanTci, TAG | 7)]).ops, [Op::PopVlan, Op::Output(1)]);
}

#[test]
fn tags_pushed_and_popped_leave_the_frames_own_ones() {
    let flows = [
        "actions=push_vlan:0x8100,push_vlan:0x8100,set_field:4105->vlan_vid,pop_vlan,pop_vlan,goto_table:1",
        "table=1,dl_vlan=5,inner_vlan=7,actions=7",
    ];
    let out = run(&flows, &[(Field::VlanTci, TAG | 5), (Field::VlanTci2, TAG | 7)]);
    assert_eq!(out.ops.last(), Some(&Op::Output(7)));
}

#[test]
fn a_pushed_tag_can_be_rewritten_without_looking_at_the_frame() {
    let flows = [
        "in_port=1,actions=push_vlan:0x88a8,set_field:4105->vlan_vid,set_field:0->vlan_pcp,goto_table:1",
        "table=1,dl_vlan=9,actions=2",
    ];
    let snapshot = tables(&flows).snapshot();
    assert_eq!(snapshot.shortcut(1).unwrap().ops.last(), Some(&Op::Output(2)));
    assert!(snapshot.shortcut(2).is_some_and(|out| out.outcome == Outcome::NoRule));
}

#[test]
fn a_decremented_ttl_is_matched_as_it_is_then() {
    let flows = ["ip,actions=dec_ttl,goto_table:1", "table=1,ip,nw_ttl=63,actions=1"];
    let out = run(&flows, &[IP, (Field::IpTtl, 64)]);
    assert_eq!(out.ops, [Op::DecTtl, Op::Output(1)]);
    assert_eq!(out.mask.get(Field::IpTtl), 0xff);
    let unseen = run(&["ip,actions=dec_ttl,1"], &[IP]);
    assert_eq!(unseen.mask.get(Field::IpTtl), 0);
}

#[test]
fn a_bit_of_a_decremented_ttl_depends_on_all_bits_of_the_frames() {
    let flows = ["ip,actions=dec_ttl,load:1->nw_ttl[0],goto_table:1", "table=1,ip,nw_ttl=3,actions=1"];
    let out = run(&flows, &[IP, (Field::IpTtl, 4)]);
    assert_eq!(out.ops.last(), Some(&Op::Output(1)));
    assert_eq!(out.mask.get(Field::IpTtl), 0xff);
}

#[test]
fn the_action_set_holds_only_what_the_frame_has() {
    let flows = ["tcp,actions=write_actions(set_field:80->tcp_dst,1)"];
    assert_eq!(run(&flows, &[IP, TCP]).ops.len(), 2);
    assert_eq!(run(&flows, &[IP, TCP, (Field::IpFrag, 3)]).ops, [Op::Output(1)]);
}

#[test]
fn shortcuts_are_for_ports_whose_rules_look_at_nothing_else() {
    let snapshot = tables(&["in_port=1,actions=2", "in_port=2,actions=1"]).snapshot();
    assert_eq!(snapshot.shortcut(1).unwrap().ops, [Op::Output(2)]);
    assert_eq!(snapshot.shortcut(3).unwrap().outcome, Outcome::NoRule);
    let snapshot = tables(&["in_port=1,actions=2", "in_port=3,ip,actions=2"]).snapshot();
    assert!(snapshot.shortcut(3).is_none());
}

#[test]
fn fields_name_what_actions_look_at_too() {
    let fields = tables(&["in_port=1,actions=mod_vlan_vid:5"]).snapshot().fields();
    assert_eq!(
        fields,
        mask(&[(Field::InPort, 0xffff_ffff), (Field::VlanTci, 0xffff), (Field::VlanTci2, 0xffff)])
    );
    let fields = tables(&["tcp,actions=set_field:5->tcp_src"]).snapshot().fields();
    assert_eq!(fields, mask(&[(Field::EthType, 0xffff), (Field::IpProto, 0xff), (Field::IpFrag, 2)]));
}

#[test]
fn evaluating_again_allocates_nothing_new_and_keeps_nothing_old() {
    let snapshot = tables(&["in_port=1,actions=1,2,3", "in_port=2,actions=4"]).snapshot();
    let mut out = Evaluation::default();
    snapshot.evaluate(&key(&[(Field::InPort, 1)]), &mut out);
    let buffer = out.ops.as_ptr();
    snapshot.evaluate(&key(&[(Field::InPort, 2)]), &mut out);
    assert_eq!((out.ops.as_slice(), out.ops.as_ptr()), (&[Op::Output(4)][..], buffer));
}
