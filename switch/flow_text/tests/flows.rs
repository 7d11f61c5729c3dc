//! What is read, what is refused and how it is said, what is printed.

use std::collections::BTreeMap;

use flow::{Field, PRESENT};
use flow_text::{
    Action, Counters, FlowFilter, Instructions, Match, NoPorts, ParseError, fuzz_flow, parse_add, parse_del,
    parse_match, parse_mod,
};

fn ports() -> BTreeMap<String, u16> {
    [("vm0", 1), ("vm1", 2), ("7up", 7), ("normal", 9), ("a,b", 10)].map(|(name, n)| (name.into(), n)).into()
}

fn refused(text: &str) -> ParseError {
    match parse_add(text, &ports()) {
        Err(error) => {
            assert_eq!(&text[error.span.clone()], error.word, "{text}");
            error
        }
        Ok(flow) => panic!("{text} is taken as {flow}"),
    }
}

#[test]
fn flows_are_printed_as_ovs_ofctl_prints_them() {
    for line in include_str!("vectors/canonical.tsv").lines().filter(|line| !line.starts_with('#')) {
        let (text, printed) = line.split_once('\t').expect("two columns");
        let flow = parse_add(text, &ports()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(flow.to_string(), printed, "{text}");
        assert_eq!(
            parse_add(printed, &NoPorts).unwrap_or_else(|e| panic!("{printed}: {e}")),
            flow,
            "{printed}"
        );
    }
}

#[test]
fn ports_are_known_by_number_name_quoted_name_and_reserved_name() {
    let flow =
        parse_add(r#"in_port=vm0,actions=vm1,"vm1",output:vm1,2,output:LOCAL,local"#, &ports()).unwrap();
    assert_eq!(flow.match_, Match::default().with(Field::InPort, 1));
    let expected = [2, 2, 2, 2, 0xfffe, 0xfffe].map(Action::Output);
    assert_eq!(flow.instructions, Instructions::apply(expected));
    assert_eq!(
        flow.shown(&ports()).to_string(),
        "in_port=vm0 actions=output:vm1,output:vm1,output:vm1,output:vm1,LOCAL,LOCAL"
    );
}

#[test]
fn a_port_name_that_would_read_as_something_else_is_printed_as_its_number() {
    let flow = parse_add(r#"in_port=7,actions=output:9,output:"a,b""#, &ports()).unwrap();
    assert_eq!(flow.shown(&ports()).to_string(), "in_port=7 actions=output:9,output:10");
    assert_eq!(
        parse_add("actions=normal", &ports()).unwrap().instructions,
        Instructions::apply([Action::Normal])
    );
    assert_eq!(
        parse_add("actions=7up", &ports()).unwrap().instructions,
        Instructions::apply([Action::Output(7)])
    );
}

#[test]
fn the_second_tag_of_a_qinq_frame_is_matched_by_the_inner_words() {
    let text = "dl_vlan=5,inner_vlan=6,inner_vlan_pcp=1 actions=pop_vlan,set_field:4103->vlan_vid";
    let flow = parse_add(text, &NoPorts).unwrap();
    assert_eq!(flow.match_.known(Field::VlanTci2, 0xffff), Some(u128::from(1 << 13 | PRESENT | 6)));
    assert_eq!(flow.to_string(), text);
    let untagged = parse_match("inner_vlan_tci=0", &NoPorts).unwrap();
    assert_eq!(untagged.to_string(), "inner_vlan_tci=0x0000");
}

#[test]
fn untagged_can_be_said_in_both_ways() {
    let a = parse_match("dl_vlan=0xffff", &NoPorts).unwrap();
    assert_eq!(a, parse_match("vlan_tci=0", &NoPorts).unwrap());
    assert_eq!(a.to_string(), "vlan_tci=0x0000");
}

#[test]
fn a_dumped_line_can_be_added_again() {
    let flow = parse_add("table=1,cookie=7,priority=3,idle_timeout=5,tcp,in_port=1,actions=normal", &NoPorts)
        .unwrap();
    let counters =
        Counters { age: std::time::Duration::from_millis(1250), frames: 3, bytes: 180, idle_seconds: 1 };
    let line = flow.dump_line(&NoPorts, counters).to_string();
    assert_eq!(
        line,
        "cookie=0x7, duration=1.250s, table=1, n_packets=3, n_bytes=180, idle_timeout=5, idle_age=1, \
         priority=3,tcp,in_port=1 actions=NORMAL"
    );
    assert_eq!(parse_add(&line, &NoPorts).unwrap(), flow);
}

#[test]
fn errors_point_at_the_word_and_say_what_is_allowed() {
    let error = refused("priority=7,tpc,actions=normal");
    assert_eq!((error.span.clone(), error.word.as_str()), (11..14, "tpc"));
    assert!(error.allowed.as_deref().unwrap().contains("tcp6"), "{error}");

    let error = refused("in_port=vm7,actions=normal");
    assert_eq!(error.word, "vm7");
    assert!(error.to_string().contains("no such port") && error.to_string().contains("vm0"), "{error}");

    let error = refused("ip,nw_dst=10.0.0.0/33,actions=normal");
    assert_eq!(error.to_string(), "`33` at 19..21: number too large; allowed: 0 to 32");

    let error = refused("actions=output:1,note:00.11");
    assert_eq!((error.word.as_str(), error.problem.as_str()), ("note", "not supported"));
}

#[test]
fn every_refused_flow_names_its_word() {
    for (text, word) in [
        ("", ""),
        ("in_port=1", "in_port=1"),
        ("actions=foo", "foo"),
        ("actions=output", "output"),
        ("actions=output:", "output:"),
        ("actions=output:99999", "99999"),
        ("actions=output:0xfff8x", "0xfff8x"),
        ("actions=output:any", "any"),
        ("actions=output(port=1,max_len=100)", "output(port=1,max_len=100)"),
        ("actions=output:reg0", "reg0"),
        ("actions=output:NXM_NX_REG0[0..15]", "NXM_NX_REG0[0..15]"),
        ("in_port=99999,actions=drop", "99999"),
        ("in_port=normal,actions=drop", "normal"),
        ("in_port=1/1,actions=drop", "1/1"),
        ("foo=1,actions=drop", "foo"),
        ("mpls,actions=drop", "mpls"),
        ("reg8=1,actions=drop", "reg8"),
        ("importance=5,actions=drop", "importance"),
        ("ip=1,actions=drop", "1"),
        ("ip,nw_tos=3,actions=drop", "3"),
        ("ip,nw_tos=256,actions=drop", "256"),
        ("ip,nw_ecn=4,actions=drop", "4"),
        ("ip,nw_proto=6/3,actions=drop", "3"),
        ("dl_type=0x800/0xff00,actions=drop", "0xff00"),
        ("arp_op=1,actions=drop", "arp_op"),
        ("arp,arp_op=300,actions=drop", "300"),
        ("nw_dst=1.2.3.4,actions=drop", "nw_dst"),
        ("tcp_dst=80,actions=drop", "tcp_dst"),
        ("dl_type=0x0800,tcp_dst=80,actions=drop", "tcp_dst"),
        ("ip,tp_dst=80,actions=drop", "tp_dst"),
        ("udp,tcp_src=5,actions=drop", "tcp_src"),
        ("ip,arp_spa=1.1.1.1,actions=drop", "arp_spa"),
        ("ipv6,nw_src=1.2.3.4,actions=drop", "nw_src"),
        ("ipv6,ipv6_src=1.2.3.4,actions=drop", "1.2.3.4"),
        ("ipv6,ipv6_src=::/129,actions=drop", "129"),
        ("ip,nw_src=1.2.3,actions=drop", "1.2.3"),
        ("dl_src=00:11:22:33:44,actions=drop", "00:11:22:33:44"),
        ("dl_src=00:11:22:33:44:55:66,actions=drop", "00:11:22:33:44:55:66"),
        ("dl_vlan=4096,actions=drop", "4096"),
        ("dl_vlan_pcp=8,actions=drop", "8"),
        ("vlan_vid=10,actions=drop", "vlan_vid=10"),
        ("vlan_tci=5,actions=drop", "vlan_tci=5"),
        ("tcp,tcp_flags=+syn+foo,actions=drop", "foo"),
        ("tcp,tcp_flags=+syn-syn,actions=drop", "syn"),
        ("tcp,tcp_flags=-,actions=drop", ""),
        ("tcp,tcp_flags=0x1000,actions=drop", "0x1000"),
        ("ip,ip_frag=foo,actions=drop", "foo"),
        ("icmp,icmp_type=256,actions=drop", "256"),
        ("icmp,tp_src=256,actions=drop", "tp_src"),
        ("icmp6,icmp_type=1,nd_target=::1,actions=drop", "nd_target"),
        ("icmp6,icmp_type=136,nd_sll=00:11:22:33:44:55,actions=drop", "nd_sll"),
        ("icmp6,icmp_type=135,icmp_code=1,nd_target=::3,actions=drop", "nd_target"),
        ("tcp,tp_src=65536,actions=drop", "65536"),
        ("tcp,tp_src=+5,actions=drop", "+5"),
        ("reg0=0x100000000,actions=drop", "0x100000000"),
        (
            "reg0=0xfffffffffffffffffffffffffffffffffffffff,actions=drop",
            "0xfffffffffffffffffffffffffffffffffffffff",
        ),
        ("priority=65536,actions=drop", "65536"),
        ("table=255,actions=drop", "255"),
        ("idle_timeout=65536,actions=drop", "65536"),
        ("cookie=1/1,actions=drop", "1"),
        ("out_port=2,actions=drop", "out_port"),
        ("actions=drop,1", "drop"),
        ("actions=goto_table:3,1", "1"),
        ("actions=write_metadata:5,1", "1"),
        ("actions=clear_actions,clear_actions", "clear_actions"),
        ("table=5,actions=goto_table:5", "5"),
        ("actions=write_actions(resubmit(,1))", "resubmit(,1)"),
        ("actions=resubmit(,)", "resubmit(,)"),
        ("actions=resubmit(3,255)", "255"),
        ("actions=set_field:1->in_port", "in_port"),
        ("ip,actions=set_field:6->nw_proto", "nw_proto"),
        ("actions=set_field:5", "5"),
        ("actions=set_field:80->tcp_dst", "tcp_dst"),
        ("tcp,actions=set_field:80->udp_dst", "udp_dst"),
        ("actions=set_field:4106->vlan_vid", "vlan_vid"),
        ("dl_vlan=1,actions=pop_vlan,set_field:4106->vlan_vid", "vlan_vid"),
        ("actions=mod_nw_src:1.2.3.4", "mod_nw_src"),
        ("ip,actions=mod_tp_src:1", "mod_tp_src"),
        ("actions=mod_vlan_vid:4096", "4096"),
        ("actions=push_vlan:0x9100", "0x9100"),
        ("actions=dec_ttl", "dec_ttl"),
        ("ip,actions=dec_ttl(1,2)", "dec_ttl(1,2)"),
        ("actions=load:500->reg0[0..3]", "500"),
        ("actions=load:5->reg0[3..1]", "3"),
        ("actions=load:5->reg0[0..32]", "32"),
        ("actions=load:5->reg0", "5->reg0"),
        ("actions=controller(reason=no_match)", "reason=no_match"),
        ("actions=controller(max_len=1", "controller(max_len=1"),
        ("actions=apply_actions(1)", "apply_actions"),
        ("actions=group:1", "group"),
        ("actions=move:reg0[]->reg1[]", "move"),
        ("actions=normal:1", "1"),
        ("actions=\"vm0", "\"vm0"),
    ] {
        assert_eq!(refused(text).word, word, "{text}: {}", refused(text));
    }
}

#[test]
fn a_change_takes_a_new_cookie_and_a_cookie_to_look_for() {
    let change = parse_mod("cookie=1/-1,cookie=2,table=3,ip,actions=dec_ttl,normal", &NoPorts).unwrap();
    assert_eq!(
        (change.filter.cookie, change.cookie, change.filter.table),
        (Some((1, u64::MAX)), Some(2), Some(3))
    );
    assert_eq!(change.instructions.to_string(), "dec_ttl,NORMAL");
    assert_eq!(parse_mod("idle_timeout=3,actions=drop", &NoPorts).unwrap_err().word, "idle_timeout=3");
    assert_eq!(parse_mod("ip", &NoPorts).unwrap_err().problem, "the change says no actions");
}

#[test]
fn a_filter_is_read_and_printed() {
    assert_eq!(parse_del("", &NoPorts), Ok(FlowFilter::default()));
    let text = "cookie=0x5/0xff,table=2,out_port=LOCAL,priority=7,ip,in_port=3";
    assert_eq!(parse_del(text, &NoPorts).unwrap().to_string(), text);
    assert_eq!(parse_del("ip,actions=drop", &NoPorts).unwrap_err().word, "actions=drop");
}

#[test]
fn masked_loads_are_set_field_of_the_bits() {
    let load = parse_add("actions=load:0x5->NXM_NX_REG0[4..7],load:1->metadata[63]", &NoPorts).unwrap();
    assert_eq!(
        load.to_string(),
        "actions=set_field:0x50/0xf0->reg0,set_field:0x8000000000000000/0x8000000000000000->metadata"
    );
    let ttl = parse_add("ip,actions=load:3->NXM_NX_IP_TTL[0..3]", &NoPorts).unwrap();
    assert_eq!(parse_add(&ttl.to_string(), &NoPorts).unwrap(), ttl);
}

#[test]
fn any_mask_can_be_printed() {
    let mut m = Match::default();
    for &field in Field::ALL {
        m.set(field, field.full(), 0x11);
    }
    assert!(m.to_string().contains("nw_proto=0x11/0x11,nw_tos=0x10/0x10,nw_ecn=0x1/0x1"), "{m}");
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn words() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "ip",
            "tcp",
            "udp6",
            "icmp",
            "icmp6",
            "arp",
            "ipv6",
            "sctp",
            "rarp",
            "in_port=3",
            "in_port=LOCAL",
            "reg1=5/7",
            "metadata=0x10",
            "dl_vlan=7",
            "dl_vlan_pcp=2",
            "vlan_tci=0",
            "vlan_vid=0x1001/0x1001",
            "inner_vlan=9",
            "nw_src=10.0.0.1",
            "nw_dst=10.0.0.0/9",
            "nw_dst=1.0.0.1/255.0.0.255",
            "arp_op=2",
            "arp_sha=1:2:3:4:5:6",
            "ipv6_src=fe80::/10",
            "nw_tos=8",
            "nw_ecn=1",
            "nw_ttl=64",
            "ip_frag=first",
            "tp_src=80",
            "tp_dst=0x50/0xf0",
            "tcp_flags=+syn-ack",
            "icmp_type=135",
            "icmp_code=0",
            "nd_target=::1",
            "nd_sll=1:2:3:4:5:6",
            "priority=7",
            "cookie=9",
            "table=2",
            "idle_timeout=3",
            "dl_src=1:2:3:4:5:6/ff:ff:ff:00:00:00",
            "reset_counts",
        ]);
        let action = prop::sample::select(vec![
            "1",
            "output:2",
            "in_port",
            "normal",
            "flood",
            "all",
            "controller:64",
            "set_field:1->reg0",
            "load:3->reg1[2..5]",
            "mod_dl_src:1:2:3:4:5:6",
            "mod_vlan_vid:5",
            "mod_vlan_pcp:1",
            "push_vlan:0x88a8",
            "set_field:4097->vlan_vid",
            "pop_vlan",
            "mod_nw_dst:1.2.3.4",
            "mod_tp_dst:9",
            "dec_ttl",
            "resubmit(,4)",
            "resubmit(3,4)",
            "clear_actions",
            "write_actions(2,pop_vlan)",
            "write_metadata:1/3",
            "goto_table:9",
            "set_field:9->icmp_type",
            "set_field:1/3->nw_ttl",
            "resubmit:in_port",
        ]);
        (prop::collection::vec(word, 0..7), prop::collection::vec(action, 0..5))
            .prop_map(|(words, actions)| format!("{},actions={}", words.join(","), actions.join(",")))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn what_was_read_reads_the_same_when_printed(text in words()) {
            fuzz_flow(text.as_bytes());
        }

        #[test]
        fn no_bytes_break_the_parser(data in prop::collection::vec(any::<u8>(), 0..80)) {
            fuzz_flow(&data);
        }

        #[test]
        fn damaged_flows_do_not_break_the_parser(text in words(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut data = text.into_bytes();
            let at = at.index(data.len());
            data[at] = byte;
            fuzz_flow(&data);
        }
    }
}
