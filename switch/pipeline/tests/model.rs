//! Evaluation against a plain interpreter of the same rules, and what a mask promises.

use std::collections::BTreeMap;
use std::time::Duration;

use action::Op;
use flow::{Field, FlowKey, FlowMask, PRESENT, WORDS};
use flow_text::{Action, FlowFilter, FlowSpec, NoPorts, SetField, parse_add};
use pipeline::{DEPTH_MAX, Evaluation, FlowMod, LOOKUPS_MAX, OPS_MAX, Outcome, Tables};
use proptest::prelude::*;

/// A rule list, walked through; no masks, no sharing.
struct Interpreter<'a> {
    rules: &'a [FlowSpec],
    key: FlowKey,
    /// All tags, two of them in the key.
    tags: Vec<u16>,
    set: Vec<Action>,
    lookups: usize,
    ops: Vec<Op>,
    matched: Vec<usize>,
}

struct TooMuch;

impl Interpreter<'_> {
    fn run(rules: &[FlowSpec], key: &FlowKey) -> (Vec<Op>, Vec<usize>, Outcome) {
        let tags = [Field::VlanTci, Field::VlanTci2].map(|field| key.get(field) as u16).to_vec();
        let mut i =
            Interpreter { rules, key: *key, tags, set: vec![], lookups: 0, ops: vec![], matched: vec![] };
        let outcome = match i.table(0, None, 0) {
            Ok(false) => Outcome::NoRule,
            Ok(true) if i.action_set().is_ok() => Outcome::Done,
            _ => Outcome::LimitExceeded,
        };
        if outcome == Outcome::LimitExceeded {
            i.ops.clear();
        }
        (i.ops, i.matched, outcome)
    }

    fn table(&mut self, table: u8, port: Option<u16>, depth: usize) -> Result<bool, TooMuch> {
        self.lookups += 1;
        if depth > DEPTH_MAX || self.lookups > LOOKUPS_MAX {
            return Err(TooMuch);
        }
        let mut key = self.key;
        if let Some(port) = port {
            key.set(Field::InPort, port.into());
        }
        let rules = self.rules;
        let fitting =
            rules.iter().enumerate().filter(|(_, rule)| rule.table == table && rule.match_.matches(&key));
        let Some((index, rule)) = fitting.max_by_key(|(_, rule)| rule.priority) else { return Ok(false) };
        self.matched.push(index);
        for action in &rule.instructions.apply {
            if let Action::Resubmit { port, table: to } = action {
                self.table(to.unwrap_or(table), *port, depth + 1)?;
            } else {
                self.action(action)?;
            }
        }
        if rule.instructions.clear_actions {
            self.set.clear();
        }
        for action in &rule.instructions.write {
            // What can't be done to the frame isn't kept; tags are seen to when it is done.
            if !matches!(action, Action::Set(set) if set.to.field != Field::VlanTci && !self.has(set)) {
                self.set.push(*action);
            }
        }
        if let Some((value, mask)) = rule.instructions.metadata {
            self.write(Field::Metadata, value.into(), mask.into());
        }
        match rule.instructions.goto_table {
            Some(next) => self.table(next, None, depth),
            None => Ok(true),
        }
    }

    fn has(&self, set: &SetField) -> bool {
        set.to.needs.met(|field, bits| Some(self.key.get(field) & bits))
    }

    fn write(&mut self, field: Field, value: u128, mask: u128) {
        let old = self.key.get(field);
        self.key.set(field, old & !mask | value & mask);
        if field == Field::VlanTci {
            self.tags[0] = self.key.get(field) as u16;
        }
    }

    fn op(&mut self, op: Op) -> Result<(), TooMuch> {
        self.ops.push(op);
        if self.ops.len() > OPS_MAX { Err(TooMuch) } else { Ok(()) }
    }

    fn set_field(&mut self, field: Field, value: u128, mask: u128) -> Result<(), TooMuch> {
        self.write(field, value, mask);
        if field >= Field::Metadata { Ok(()) } else { self.op(Op::Set { field, value, mask }) }
    }

    fn show_tags(&mut self) {
        self.key.set(Field::VlanTci, self.tags[0].into());
        self.key.set(Field::VlanTci2, self.tags[1].into());
    }

    fn vlan(&mut self, value: u128, mask: u128) -> Result<(), TooMuch> {
        if self.tags[0] & PRESENT == 0 {
            self.action(&Action::PushVlan(0x8100))?;
        }
        self.set_field(Field::VlanTci, value, mask)
    }

    fn action(&mut self, action: &Action) -> Result<(), TooMuch> {
        match *action {
            Action::Set(ref set) if self.has(set) => {
                let (value, mask) = set.in_key();
                self.set_field(set.to.field, value, mask)
            }
            Action::Set(_) => Ok(()),
            Action::ModVlanVid(vid) => self.vlan(vid.into(), 0xfff),
            Action::ModVlanPcp(pcp) => self.vlan(u128::from(pcp) << 13, 0xe000),
            Action::PushVlan(tpid) => {
                self.tags.insert(0, self.tags[0] | PRESENT);
                self.show_tags();
                self.op(Op::PushVlan(tpid))
            }
            Action::PopVlan => {
                self.tags.remove(0);
                self.tags.push(0);
                self.show_tags();
                self.op(Op::PopVlan)
            }
            Action::DecTtl => {
                self.key.set(Field::IpTtl, self.key.get(Field::IpTtl).saturating_sub(1));
                self.op(Op::DecTtl)
            }
            Action::Output(port) => self.op(Op::Output(port)),
            Action::InPort => self.op(Op::InPort),
            Action::Normal => self.op(Op::Normal),
            Action::Flood => self.op(Op::Flood),
            Action::All => self.op(Op::All),
            Action::Controller { max_len } => self.op(Op::Controller { max_len }),
            Action::Resubmit { .. } => unreachable!("done by the caller"),
        }
    }

    fn action_set(&mut self) -> Result<(), TooMuch> {
        let set = std::mem::take(&mut self.set);
        let last = |wanted: fn(&Action) -> bool| set.iter().rev().copied().find(wanted);
        for action in [last(|a| matches!(a, Action::PopVlan)), last(|a| matches!(a, Action::PushVlan(_)))] {
            action.map_or(Ok(()), |action| self.action(&action))?;
        }
        let pushes = last(|a| matches!(a, Action::ModVlanVid(_) | Action::ModVlanPcp(_))).is_some();
        if pushes && self.tags[0] & PRESENT == 0 {
            self.action(&Action::PushVlan(0x8100))?;
        }
        last(|a| matches!(a, Action::DecTtl)).map_or(Ok(()), |action| self.action(&action))?;
        let mut fields: BTreeMap<Field, (u128, u128)> = BTreeMap::new();
        for action in &set {
            let (field, value, mask) = match action {
                Action::Set(set) => (set.to.field, set.in_key().0, set.in_key().1),
                Action::ModVlanVid(vid) => (Field::VlanTci, (*vid).into(), 0xfff),
                Action::ModVlanPcp(pcp) => (Field::VlanTci, u128::from(*pcp) << 13, 0xe000),
                _ => continue,
            };
            let merged = fields.entry(field).or_default();
            *merged = (merged.0 & !mask | value, merged.1 | mask);
        }
        for (field, (value, mask)) in fields {
            if mask != 0 && (field != Field::VlanTci || self.tags[0] & PRESENT != 0) {
                self.set_field(field, value, mask)?;
            }
        }
        let sends = |a: &Action| {
            matches!(
                a,
                Action::Output(_)
                    | Action::InPort
                    | Action::Normal
                    | Action::Flood
                    | Action::All
                    | Action::Controller { .. }
            )
        };
        last(sends).map_or(Ok(()), |action| self.action(&action))
    }
}

fn rules() -> impl Strategy<Value = Vec<FlowSpec>> {
    let matches = prop::sample::select(vec![
        "ip",
        "tcp",
        "udp",
        "icmp",
        "ipv6",
        "tcp6",
        "arp",
        "in_port=1",
        "in_port=2",
        "reg0=1",
        "reg0=2/2",
        "reg1=1/1",
        "metadata=1/1",
        "dl_vlan=1",
        "dl_vlan=2",
        "vlan_tci=0",
        "vlan_tci=0x1000/0x1000",
        "dl_vlan_pcp=1",
        "inner_vlan=1",
        "inner_vlan_tci=0",
        "nw_src=0.0.0.1",
        "nw_dst=0.0.0.2/0.0.0.2",
        "nw_tos=4",
        "nw_ecn=1",
        "nw_ttl=1",
        "nw_ttl=2",
        "ip_frag=later",
        "ip_frag=no",
        "tp_src=1",
        "tp_dst=2/2",
        "tcp_flags=+fin",
        "dl_src=0:0:0:0:0:1",
        "dl_dst=0:0:0:0:0:2/0:0:0:0:0:2",
        "arp_op=1",
        "ipv6_src=::1",
    ]);
    let actions = prop::sample::select(vec![
        "1",
        "2",
        "in_port",
        "normal",
        "flood",
        "all",
        "controller:64",
        "set_field:1->reg0",
        "load:1->reg0[1]",
        "set_field:3->reg1",
        "mod_dl_src:0:0:0:0:0:1",
        "set_field:0:0:0:0:0:2/0:0:0:0:0:3->eth_dst",
        "mod_vlan_vid:1",
        "mod_vlan_pcp:1",
        "push_vlan:0x8100",
        "push_vlan:0x88a8",
        "set_field:4098->vlan_vid",
        "set_field:1->vlan_pcp",
        "pop_vlan",
        "pop_vlan",
        "mod_nw_src:0.0.0.1",
        "mod_nw_dst:0.0.0.2",
        "set_field:0.0.0.1/0.0.0.1->ip_dst",
        "mod_tp_src:1",
        "mod_tp_dst:2",
        "dec_ttl",
        "dec_ttl,load:1->nw_ttl[0]",
        "push_vlan:0x8100,pop_vlan",
        "push_vlan:0x8100,push_vlan:0x88a8,set_field:4098->vlan_vid,pop_vlan",
        "mod_nw_ttl:2",
        "load:1->nw_ttl[0]",
        "mod_nw_tos:4",
        "set_field:1->arp_op",
        "resubmit(,1)",
        "resubmit(,2)",
        "resubmit(,3)",
        "resubmit(2,1)",
        "resubmit:1",
    ]);
    let ends = prop::sample::select(vec![
        "",
        "",
        "",
        "clear_actions",
        "write_actions(1)",
        "write_actions(2,pop_vlan)",
        "write_actions(mod_vlan_vid:2,flood)",
        "write_actions(push_vlan:0x8100,set_field:4097->vlan_vid)",
        "write_actions(set_field:1->reg0,set_field:2->reg1)",
        "write_metadata:1",
        "write_metadata:2/2,goto_table:3",
        "goto_table:1",
        "goto_table:2",
        "goto_table:3",
        "clear_actions,write_actions(in_port)",
        "write_actions(1),goto_table:2",
        "write_actions(set_field:4097->vlan_vid)",
    ]);
    let base =
        prop::sample::select(vec!["", "", "ip", "ip", "tcp", "tcp", "udp", "icmp", "ipv6", "tcp6", "arp"]);
    let words = prop::collection::vec(matches, 0..3);
    let rule = (0u8..4, base, words, prop::collection::vec(actions, 0..6), ends);
    prop::collection::vec(rule, 1..20).prop_map(|rules| {
        // Priorities differ, so that there is one right answer.
        rules.into_iter().enumerate().map(|(priority, drawn)| fitting(priority, drawn)).collect()
    })
}

/// Table, protocol, words of the match, actions, instructions.
type Drawn<'a> = (u8, &'a str, Vec<&'a str>, Vec<&'a str>, &'a str);

/// The rule, without those of the words that don't fit to the others.
fn fitting(priority: usize, (table, base, words, actions, end): Drawn<'_>) -> FlowSpec {
    let start = format!("table={table},priority={priority},{base}");
    let read = |m: &str, actions: &str| parse_add(&format!("{start}{m},actions={actions}"), &NoPorts);
    let append = |mut list: String, word: &str, fits: &dyn Fn(&str) -> bool| {
        let len = list.len();
        list.push_str(&format!(",{word}"));
        if !fits(&list) {
            list.truncate(len);
        }
        list
    };
    let m = words.iter().fold(String::new(), |m, word| append(m, word, &|m| read(m, "drop").is_ok()));
    let actions = actions
        .iter()
        .chain([&end])
        .fold(String::new(), |list, action| append(list, action, &|list| read(&m, list).is_ok()));
    read(&m, &actions).expect("each part was tried")
}

/// Small values in every field, so that rules match.
fn keys() -> impl Strategy<Value = FlowKey> {
    let values = prop::collection::vec(0u8..4, Field::ALL.len());
    (values, 0usize..6, 0usize..6, 0u16..3).prop_map(|(values, eth, proto, tags)| {
        let mut key = FlowKey::default();
        for (&field, value) in Field::ALL.iter().zip(values) {
            key.set(field, value.into());
        }
        key.set(Field::EthType, [0x800, 0x800, 0x800, 0x86dd, 0x806, 0x88cc][eth]);
        key.set(Field::IpProto, [6, 6, 6, 1, 17, 58][proto]);
        for (field, there) in [(Field::VlanTci, tags > 0), (Field::VlanTci2, tags > 1)] {
            let tci = key.get(field) & 3;
            key.set(field, if there { tci | u128::from(PRESENT) | tci << 13 } else { 0 });
        }
        for field in Field::ALL.iter().filter(|&&field| field >= Field::Metadata) {
            key.set(*field, 0);
        }
        key
    })
}

fn load(rules: &[FlowSpec]) -> Tables {
    let mut tables = Tables::new(1);
    let adds: Vec<FlowMod> = rules.iter().cloned().map(FlowMod::Add).collect();
    tables.apply(&adds, Duration::ZERO).unwrap();
    tables
}

/// The rules that an evaluation named, as indices into the list: priorities are those.
fn indices(tables: &Tables, out: &Evaluation) -> Vec<usize> {
    let views = tables.dump(&FlowFilter::default(), Duration::ZERO);
    let priority = |slot: &u32| views.iter().find(|view| view.slot == *slot).unwrap().spec.priority;
    out.rules.iter().map(|slot| priority(slot).into()).collect()
}

fn mix(mask: &FlowMask, chosen: &FlowKey, rest: &FlowKey) -> FlowKey {
    FlowKey(std::array::from_fn(|w| chosen.0[w] & mask.0[w] | rest.0[w] & !mask.0[w]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn tables_say_what_a_plain_interpreter_says(rules in rules(), keys in prop::collection::vec(keys(), 8)) {
        let tables = load(&rules);
        let snapshot = tables.snapshot();
        let mut out = Evaluation::default();
        for key in keys {
            snapshot.evaluate(&key, &mut out);
            let (ops, matched, outcome) = Interpreter::run(&rules, &key);
            let matched: Vec<usize> = matched.iter().map(|&index| rules[index].priority.into()).collect();
            prop_assert_eq!(&out.ops, &ops);
            prop_assert_eq!(indices(&tables, &out), matched);
            prop_assert_eq!(out.outcome, outcome);
        }
    }

    #[test]
    fn keys_that_agree_in_the_mask_are_decided_the_same(
        rules in rules(),
        key in keys(),
        others in prop::collection::vec(prop_oneof![keys(), any::<[u64; WORDS]>().prop_map(FlowKey)], 8),
    ) {
        let snapshot = load(&rules).snapshot();
        let (mut out, mut again) = (Evaluation::default(), Evaluation::default());
        snapshot.evaluate(&key, &mut out);
        prop_assert!(snapshot.fields().contains(&out.mask));
        for other in others {
            snapshot.evaluate(&mix(&out.mask, &key, &other), &mut again);
            prop_assert_eq!((&again.ops, &again.rules, again.outcome), (&out.ops, &out.rules, out.outcome));
        }
    }

    #[test]
    fn a_change_concerns_every_frame_that_is_decided_otherwise_after_it(
        before in rules(),
        change in rules(),
        adds in 0usize..3,
        removes in 0usize..3,
        keys in prop::collection::vec(keys(), 16),
    ) {
        let mut tables = load(&before);
        let old = tables.snapshot();
        let delete = |spec: &FlowSpec| FlowMod::Delete {
            filter: FlowFilter {
                table: Some(spec.table),
                priority: spec.priority,
                match_: spec.match_,
                ..FlowFilter::default()
            },
            strict: true,
        };
        let mut changes: Vec<FlowMod> = change.into_iter().take(adds).map(FlowMod::Add).collect();
        changes.extend(before.iter().take(removes).map(delete));
        tables.apply(&changes, Duration::ZERO).unwrap();
        let new = tables.snapshot();
        let (mut a, mut b) = (Evaluation::default(), Evaluation::default());
        for key in keys {
            old.evaluate(&key, &mut a);
            new.evaluate(&key, &mut b);
            let mut concerned = false;
            prop_assert!(new.changes_since(old.version(), |value, mask| concerned |= key.matches(value, mask)));
            prop_assert!(concerned || (&a.ops, &a.rules, a.outcome) == (&b.ops, &b.rules, b.outcome));
        }
    }
}
