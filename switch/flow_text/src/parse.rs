//! Reading flow strings.

use flow::{Field, PRESENT};

use crate::action::{Action, Instructions, SetField};
use crate::error::ParseError;
use crate::field::{FIELDS, FieldDef, Needs, SHORTHANDS};
use crate::matching::Match;
use crate::port::{self, Ports};
use crate::scan::{Pair, Pairs, Word};
use crate::spec::{FlowChange, FlowFilter, FlowSpec, MAX_TABLE};
use crate::value;

const UNTAGGED_OLD: u128 = 0xffff;

/// Words that Open vSwitch knows as match fields and we don't.
const UNSUPPORTED_FIELDS: &[&str] = &[
    "actset_output",
    "conj_id",
    "ct_label",
    "ct_mark",
    "ct_nw_dst",
    "ct_nw_proto",
    "ct_nw_src",
    "ct_state",
    "ct_tp_dst",
    "ct_tp_src",
    "ct_zone",
    "dp_hash",
    "eth",
    "ipv6_label",
    "mpls",
    "mpls_bos",
    "mpls_label",
    "mpls_tc",
    "mpls_ttl",
    "mplsm",
    "packet_type",
    "pkt_mark",
    "recirc_id",
    "reg10",
    "reg11",
    "reg12",
    "reg13",
    "reg14",
    "reg15",
    "reg8",
    "reg9",
    "skb_priority",
    "tun_dst",
    "tun_flags",
    "tun_gbp_id",
    "tun_id",
    "tun_ipv6_dst",
    "tun_ipv6_src",
    "tun_metadata0",
    "tun_src",
    "tun_tos",
    "tun_ttl",
    "tunnel_id",
    "xreg0",
    "xreg1",
    "xreg2",
    "xreg3",
    "xxreg0",
    "xxreg1",
];

/// Words that Open vSwitch knows as options of a flow and we don't.
const UNSUPPORTED_OPTIONS: &[&str] = &[
    "allow_hidden_fields",
    "importance",
    "no_byte_counts",
    "no_packet_counts",
    "out_group",
    "send_flow_rem",
];

/// Words that Open vSwitch knows as actions and we don't.
const UNSUPPORTED_ACTIONS: &[&str] = &[
    "bundle",
    "bundle_load",
    "check_pkt_larger",
    "clone",
    "conjunction",
    "ct",
    "ct_clear",
    "dec_mpls_ttl",
    "dec_nsh_ttl",
    "decap",
    "delete_field",
    "encap",
    "enqueue",
    "exit",
    "fin_timeout",
    "group",
    "learn",
    "meter",
    "move",
    "multipath",
    "nat",
    "note",
    "pop",
    "pop_mpls",
    "pop_queue",
    "push",
    "push_mpls",
    "sample",
    "set_mpls_label",
    "set_mpls_tc",
    "set_mpls_ttl",
    "set_queue",
    "set_tunnel",
    "set_tunnel64",
    "table",
];

const ACTIONS: &str = "a port, output:PORT, in_port, normal, flood, all, drop, controller[:MAX_LEN], \
    set_field:VALUE[/MASK]->FIELD, load:VALUE->FIELD[BITS], mod_dl_src, mod_dl_dst, mod_vlan_vid, mod_vlan_pcp, strip_vlan, \
    mod_nw_src, mod_nw_dst, mod_nw_tos, mod_nw_ecn, mod_nw_ttl, mod_tp_src, mod_tp_dst, push_vlan, pop_vlan, dec_ttl, \
    resubmit, clear_actions, write_actions(...), write_metadata, goto_table";

/// What `add-flow` takes: a rule, with `actions=` at its end.
pub fn parse_add(text: &str, ports: &dyn Ports) -> Result<FlowSpec, ParseError> {
    let whole = Word { text, start: 0 };
    let mut flow = FlowSpec::default();
    let mut matching = Matching::new(ports);
    let mut actions = None;
    let mut pairs = Pairs::new(whole);
    while let Some(pair) = pairs.next(is_actions)? {
        match pair.key.text {
            "actions" | "action" => actions = Some(value_of(pair)?),
            "table" => flow.table = table(value_of(pair)?)?,
            "priority" => flow.priority = short(value_of(pair)?)?,
            "cookie" => {
                let word = value_of(pair)?;
                if let Some((_, mask)) = word.split_once("/") {
                    return Err(mask.error("an added flow takes a cookie without mask"));
                }
                flow.cookie = cookie(word)?;
            }
            "idle_timeout" => flow.idle_timeout = short(value_of(pair)?)?,
            "hard_timeout" => flow.hard_timeout = short(value_of(pair)?)?,
            "check_overlap" => flow.flags.check_overlap = flag(pair)?,
            "reset_counts" => flow.flags.reset_counts = flag(pair)?,
            name if is_statistic(name) => {}
            _ => matching.word(
                pair,
                "table, priority, cookie, idle_timeout, hard_timeout, check_overlap, reset_counts, actions",
            )?,
        }
    }
    flow.match_ = matching.finish()?;
    let actions =
        actions.ok_or_else(|| whole.error_allowed("the flow says no actions", "actions=... at its end"))?;
    flow.instructions = instructions(actions, &flow.match_, Some(flow.table), ports)?;
    Ok(flow)
}

/// What `mod-flows` takes: `cookie=VALUE/MASK` chooses flows, `cookie=VALUE` is the new one.
pub fn parse_mod(text: &str, ports: &dyn Ports) -> Result<FlowChange, ParseError> {
    let whole = Word { text, start: 0 };
    let mut change = FlowChange::default();
    let mut matching = Matching::new(ports);
    let mut actions = None;
    let mut pairs = Pairs::new(whole);
    while let Some(pair) = pairs.next(is_actions)? {
        match pair.key.text {
            "actions" | "action" => actions = Some(value_of(pair)?),
            "table" => change.filter.table = Some(table(value_of(pair)?)?),
            "priority" => change.filter.priority = short(value_of(pair)?)?,
            "cookie" => {
                let word = value_of(pair)?;
                match word.split_once("/") {
                    Some(_) => change.filter.cookie = Some(masked_cookie(word)?),
                    None => change.cookie = Some(cookie(word)?),
                }
            }
            "out_port" => change.filter.out_port = Some(out_port(value_of(pair)?, ports)?),
            "reset_counts" => change.reset_counts = flag(pair)?,
            "idle_timeout" | "hard_timeout" => {
                return Err(pair.whole.error("a change keeps the timeouts of its flows"));
            }
            name if is_statistic(name) => {}
            _ => matching.word(pair, "table, priority, cookie, out_port, reset_counts, actions")?,
        }
    }
    change.filter.match_ = matching.finish()?;
    let actions =
        actions.ok_or_else(|| whole.error_allowed("the change says no actions", "actions=... at its end"))?;
    change.instructions = instructions(actions, &change.filter.match_, change.filter.table, ports)?;
    Ok(change)
}

/// What `del-flows` takes. The empty text means all flows.
pub fn parse_del(text: &str, ports: &dyn Ports) -> Result<FlowFilter, ParseError> {
    let mut filter = FlowFilter::default();
    let mut matching = Matching::new(ports);
    let mut pairs = Pairs::new(Word { text, start: 0 });
    while let Some(pair) = pairs.next(is_actions)? {
        match pair.key.text {
            "actions" | "action" => {
                return Err(pair.whole.error("no actions here: flows are chosen by table, match and cookie"));
            }
            "table" => filter.table = Some(table(value_of(pair)?)?),
            "priority" => filter.priority = short(value_of(pair)?)?,
            "cookie" => filter.cookie = Some(masked_cookie(value_of(pair)?)?),
            "out_port" => filter.out_port = Some(out_port(value_of(pair)?, ports)?),
            name if is_statistic(name) => {}
            _ => matching.word(pair, "table, priority, cookie, out_port")?,
        }
    }
    filter.match_ = matching.finish()?;
    Ok(filter)
}

/// A match alone: what stands between priority and actions.
pub fn parse_match(text: &str, ports: &dyn Ports) -> Result<Match, ParseError> {
    let mut matching = Matching::new(ports);
    let mut pairs = Pairs::new(Word { text, start: 0 });
    while let Some(pair) = pairs.next(|_| false)? {
        matching.word(pair, "")?;
    }
    matching.finish()
}

fn is_actions(key: &str) -> bool {
    key == "actions" || key == "action"
}

/// Words of a dump that say nothing about the rule: taken, so that a dumped line can be added again.
fn is_statistic(key: &str) -> bool {
    matches!(key, "duration" | "n_packets" | "n_bytes" | "idle_age" | "hard_age")
}

fn value_of(pair: Pair<'_>) -> Result<Word<'_>, ParseError> {
    match pair.value {
        Some(value) if pair.separator == Some('=') => Ok(value),
        _ => Err(pair.whole.error_allowed("needs a value", format!("{}=...", pair.key.text))),
    }
}

fn flag(pair: Pair<'_>) -> Result<bool, ParseError> {
    match pair.value {
        None => Ok(true),
        Some(value) => Err(value.error(format!("{} takes no value", pair.key.text))),
    }
}

fn short(word: Word<'_>) -> Result<u16, ParseError> {
    Ok(value::number(word, 0xffff)? as u16)
}

fn table(word: Word<'_>) -> Result<u8, ParseError> {
    Ok(value::number(word, MAX_TABLE.into())? as u8)
}

fn cookie(word: Word<'_>) -> Result<u64, ParseError> {
    match word.text {
        "-1" => Ok(u64::MAX),
        _ => Ok(value::number(word, u64::MAX.into())? as u64),
    }
}

/// A cookie to look for; without mask, exactly this one.
fn masked_cookie(word: Word<'_>) -> Result<(u64, u64), ParseError> {
    match word.split_once("/") {
        None => Ok((cookie(word)?, u64::MAX)),
        Some((value, mask)) => {
            let mask = cookie(mask)?;
            Ok((cookie(value)? & mask, mask))
        }
    }
}

fn out_port(word: Word<'_>, ports: &dyn Ports) -> Result<u16, ParseError> {
    match value::port(word, ports)? {
        number @ (0..=port::MAX_PORT | port::LOCAL | port::PORT_CONTROLLER) => Ok(number),
        _ => Err(word.error_allowed("not a port to output to", value::port_words(ports))),
    }
}

/// A match being read.
struct Matching<'a> {
    ports: &'a dyn Ports,
    m: Match,
    /// What was named, to check prerequisites once everything is known.
    named: Vec<(&'static FieldDef, Word<'a>)>,
    vlan: Option<Word<'a>>,
}

impl<'a> Matching<'a> {
    fn new(ports: &'a dyn Ports) -> Matching<'a> {
        Matching { ports, m: Match::default(), named: Vec::new(), vlan: None }
    }

    /// Takes a protocol word or `field=value`. `options` are the words allowed here besides fields.
    fn word(&mut self, pair: Pair<'a>, options: &str) -> Result<(), ParseError> {
        let name = pair.key.text;
        if let Some(&(_, eth, proto)) = SHORTHANDS.iter().find(|(word, ..)| *word == name) {
            flag(pair)?;
            self.m.set(Field::EthType, eth.into(), Field::EthType.full());
            if let Some(proto) = proto {
                self.m.set(Field::IpProto, proto.into(), 0xff);
            }
            return Ok(());
        }
        if UNSUPPORTED_FIELDS.contains(&name) || UNSUPPORTED_OPTIONS.contains(&name) {
            return Err(pair.key.error("not supported"));
        }
        match name {
            "dl_vlan" => self.vlan_id(Field::VlanTci, pair),
            "dl_vlan_pcp" | "vlan_pcp" => self.vlan_pcp(Field::VlanTci, pair),
            "inner_vlan" => self.vlan_id(Field::VlanTci2, pair),
            "inner_vlan_pcp" => self.vlan_pcp(Field::VlanTci2, pair),
            "nw_tos" => {
                let def = FieldDef::by_name("ip_dscp").ok_or_else(|| pair.key.error("not supported"))?;
                let word = value_of(pair)?;
                if word.text == "*" {
                    self.m.clear(def.field, 0xfc);
                } else {
                    self.m.set(def.field, tos(word)?, 0xfc);
                }
                self.named.push((def, pair.key));
                Ok(())
            }
            _ => match FieldDef::by_name(name) {
                Some(def) => self.field(def, pair),
                None => {
                    let fields: Vec<&str> = FIELDS.iter().map(|def| def.name).collect();
                    let words: Vec<&str> = SHORTHANDS.iter().map(|(word, ..)| *word).collect();
                    let comma = if options.is_empty() { "" } else { ", " };
                    Err(pair.key.error_allowed(
                        "no such field",
                        format!(
                            "{options}{comma}{}, {}, dl_vlan, dl_vlan_pcp, inner_vlan, inner_vlan_pcp, nw_tos",
                            words.join(", "),
                            fields.join(", ")
                        ),
                    ))
                }
            },
        }
    }

    fn field(&mut self, def: &'static FieldDef, pair: Pair<'a>) -> Result<(), ParseError> {
        let word = value_of(pair)?;
        // An ICMP type is matched on all 16 bits of its place, so that it equals the same said with tp_src.
        let full = if def.bits == 8 && matches!(def.field, Field::TpSrc | Field::TpDst) {
            0xffff
        } else {
            def.full()
        };
        // Said again, a field replaces what was said before.
        self.m.clear(def.field, full << def.shift);
        if word.text != "*" {
            let (value, mask) = value::field(word, def, def.maskable, self.ports)?;
            let mask = if mask == def.full() { full } else { mask };
            self.m.set(def.field, value << def.shift, mask << def.shift);
        }
        if matches!(def.field, Field::VlanTci | Field::VlanTci2) {
            self.vlan = Some(pair.whole);
        } else {
            self.named.push((def, pair.key));
        }
        Ok(())
    }

    fn vlan_id(&mut self, field: Field, pair: Pair<'a>) -> Result<(), ParseError> {
        let word = value_of(pair)?;
        if word.text == "*" {
            self.m.clear(field, 0x1fff);
            return Ok(());
        }
        match value::number(word, 0xffff)? {
            vid @ 0..=0xfff => self.m.set(field, vid | u128::from(PRESENT), 0x1fff),
            // OpenFlow 1.0's way to say "no tag".
            UNTAGGED_OLD => self.m.set(field, 0, 0xffff),
            _ => return Err(word.error_allowed("not a VLAN ID", "0 to 4095, 0xffff for untagged")),
        }
        self.vlan = Some(pair.whole);
        Ok(())
    }

    fn vlan_pcp(&mut self, field: Field, pair: Pair<'a>) -> Result<(), ParseError> {
        let word = value_of(pair)?;
        if word.text == "*" {
            self.m.clear(field, 0xe000);
            return Ok(());
        }
        let pcp = value::number(word, 7)?;
        self.m.set(field, pcp << 13 | u128::from(PRESENT), 0xf000);
        self.vlan = Some(pair.whole);
        Ok(())
    }

    fn finish(self) -> Result<Match, ParseError> {
        for &(def, word) in &self.named {
            let bits = def.full() << def.shift;
            if self.m.mask().get(def.field) & bits == 0 {
                continue;
            }
            if !def.needs.met(|field, bits| self.m.known(field, bits)) {
                return Err(word.error_allowed(
                    "the flow doesn't say that its frames have this field",
                    format!("it together with {}", def.needs.words()),
                ));
            }
            let icmp = Needs::Icmp.met(|field, bits| self.m.known(field, bits));
            if icmp && def.needs == Needs::Ports && self.m.known(def.field, 0xffff).is_none_or(|v| v > 0xff) {
                return Err(word.error_allowed("an ICMP type or code", "0 to 255, without mask"));
            }
        }
        for field in [Field::VlanTci, Field::VlanTci2] {
            let (value, mask) = (self.m.key().get(field) as u16, self.m.mask().get(field) as u16);
            if mask & PRESENT != 0 && value & PRESENT == 0 && value != 0 {
                let word = self.vlan.unwrap_or(Word { text: "", start: 0 });
                return Err(word.error_allowed(
                    "asks for a VLAN in frames without tag",
                    format!("dl_vlan=ID, or the value with the bit {PRESENT:#x} that says a tag is there"),
                ));
            }
        }
        Ok(self.m)
    }
}

/// A type of service byte without ECN.
fn tos(word: Word<'_>) -> Result<u128, ParseError> {
    let value = value::number(word, 0xff)?;
    if value & 3 != 0 {
        return Err(word.error_allowed("the two low bits are not DSCP", "a multiple of 4; nw_ecn for ECN"));
    }
    Ok(value)
}

/// What an actions list needs to know of its flow.
struct Context<'a> {
    m: &'a Match,
    ports: &'a dyn Ports,
}

/// Stages of an instruction list; they can't go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Apply,
    Clear,
    Write,
    Metadata,
    Goto,
}

fn instructions(
    text: Word<'_>,
    m: &Match,
    in_table: Option<u8>,
    ports: &dyn Ports,
) -> Result<Instructions, ParseError> {
    let context = Context { m, ports };
    let mut out = Instructions::default();
    let mut stage = Stage::Apply;
    let mut tags = known_tags(m);
    let mut drop: Option<Word<'_>> = None;
    let mut others = false;
    let mut pairs = Pairs::new(text);
    while let Some(pair) = pairs.next(|_| false)? {
        let name = pair.key.text.to_ascii_lowercase();
        let this = match &*name {
            "clear_actions" => Stage::Clear,
            "write_actions" => Stage::Write,
            "write_metadata" => Stage::Metadata,
            "goto_table" => Stage::Goto,
            _ => Stage::Apply,
        };
        if name == "drop" {
            flag(pair)?;
            drop = Some(pair.whole);
            continue;
        }
        others = true;
        if this < stage {
            return Err(pair.whole.error_allowed(
                "stands too late",
                "this order: actions, clear_actions, write_actions, write_metadata, goto_table",
            ));
        }
        if this == stage && this != Stage::Apply {
            return Err(pair.whole.error("said twice"));
        }
        stage = this;
        match stage {
            Stage::Apply => {
                let action = context.action(pair, &mut tags)?;
                out.apply.push(action);
            }
            Stage::Clear => out.clear_actions = flag(pair)?,
            Stage::Write => out.write = context.action_set(pair, tags)?,
            Stage::Metadata => {
                let (value, mask) = metadata(argument(pair)?)?;
                out.metadata = (mask != 0).then_some((value, mask));
            }
            Stage::Goto => {
                let word = argument(pair)?;
                let to = table(word)?;
                if in_table.is_some_and(|from| to <= from) {
                    return Err(word.error_allowed(
                        "goes on in a later table only",
                        format!("{} to {MAX_TABLE}", in_table.unwrap_or(0) + 1),
                    ));
                }
                out.goto_table = Some(to);
            }
        }
    }
    match drop {
        Some(word) if others => Err(word.error("drop stands alone")),
        _ => Ok(out),
    }
}

/// How many VLAN tags a frame of this match has at least.
fn known_tags(m: &Match) -> u32 {
    let tagged = |field| m.known(field, PRESENT.into()).is_some_and(|v| v != 0);
    match (tagged(Field::VlanTci), tagged(Field::VlanTci2)) {
        (_, true) => 2,
        (true, false) => 1,
        (false, false) => 0,
    }
}

fn metadata(word: Word<'_>) -> Result<(u64, u64), ParseError> {
    let number = |word| Ok(value::number(word, u64::MAX.into())? as u64);
    match word.split_once("/") {
        None => Ok((number(word)?, u64::MAX)),
        Some((value, mask)) => {
            let mask = number(mask)?;
            Ok((number(value)? & mask, mask))
        }
    }
}

/// The value of `name:value`, `name=value` or `name(value)`.
fn argument(pair: Pair<'_>) -> Result<Word<'_>, ParseError> {
    match pair.value.map(Word::trim) {
        Some(value) if !value.text.is_empty() => Ok(value),
        _ => Err(pair.whole.error_allowed("needs a value", format!("{}:...", pair.key.text))),
    }
}

impl Context<'_> {
    /// One action; `tags` counts the VLAN tags that are known to be there when it is done.
    fn action(&self, pair: Pair<'_>, tags: &mut u32) -> Result<Action, ParseError> {
        let name = pair.key.text.to_ascii_lowercase();
        let plain = |action| flag(pair).map(|_| action);
        let set = |field: &str| self.set(pair, argument(pair)?, Word { text: field, ..pair.key }, *tags);
        Ok(match &*name {
            "output" => match pair.separator {
                Some('(') => return Err(pair.whole.error_allowed("not supported", "output:PORT")),
                _ => {
                    let word = argument(pair)?;
                    if FieldDef::by_name(word.text.split('[').next().unwrap_or(""))
                        .is_some_and(|def| def.name != "in_port")
                    {
                        return Err(word.error_allowed(
                            "output to the port in a field is not supported",
                            value::port_words(self.ports),
                        ));
                    }
                    self.output(word)?
                }
            },
            "in_port" => plain(Action::InPort)?,
            "normal" => plain(Action::Normal)?,
            "flood" => plain(Action::Flood)?,
            "all" => plain(Action::All)?,
            "controller" => controller(pair)?,
            "set_field" => {
                let word = argument(pair)?;
                let Some((value, field)) = word.split_once("->") else {
                    return Err(word.error_allowed("no field named", "set_field:VALUE[/MASK]->FIELD"));
                };
                self.set(pair, value.trim(), field.trim(), *tags)?
            }
            "load" => self.load(argument(pair)?, *tags)?,
            "mod_dl_src" => set("eth_src")?,
            "mod_dl_dst" => set("eth_dst")?,
            "mod_nw_src" => set("nw_src")?,
            "mod_nw_dst" => set("nw_dst")?,
            "mod_nw_tos" => set("nw_tos")?,
            "mod_nw_ecn" => set("nw_ecn")?,
            "mod_nw_ttl" => set("nw_ttl")?,
            "mod_tp_src" => set("tp_src")?,
            "mod_tp_dst" => set("tp_dst")?,
            "mod_vlan_vid" => {
                let vid = value::number(argument(pair)?, 0xfff)? as u16;
                *tags = (*tags).max(1);
                Action::ModVlanVid(vid)
            }
            "mod_vlan_pcp" => {
                let pcp = value::number(argument(pair)?, 7)? as u8;
                *tags = (*tags).max(1);
                Action::ModVlanPcp(pcp)
            }
            "push_vlan" => {
                let word = argument(pair)?;
                let eth = short(word)?;
                if eth != 0x8100 && eth != 0x88a8 {
                    return Err(word.error_allowed("not the Ethernet type of a VLAN tag", "0x8100, 0x88a8"));
                }
                *tags += 1;
                Action::PushVlan(eth)
            }
            "pop_vlan" | "strip_vlan" => {
                *tags = tags.saturating_sub(1);
                plain(Action::PopVlan)?
            }
            "dec_ttl" => {
                if pair.value.is_some() {
                    return Err(pair
                        .whole
                        .error_allowed("controllers for dec_ttl are not supported", "dec_ttl"));
                }
                if !Needs::Ip.met(|field, bits| self.m.known(field, bits)) {
                    return Err(self.lacks(pair.whole, Needs::Ip));
                }
                Action::DecTtl
            }
            "resubmit" => self.resubmit(pair)?,
            "apply_actions" => {
                return Err(pair
                    .key
                    .error("actions are applied as they stand: leave apply_actions(...) out"));
            }
            _ if UNSUPPORTED_ACTIONS.contains(&&*name) => {
                return Err(pair.key.error_allowed("not supported", ACTIONS));
            }
            _ if pair.value.is_none() => match value::port(pair.key, self.ports) {
                Ok(_) => self.output(pair.key)?,
                Err(_) => {
                    return Err(pair.key.error_allowed(
                        "no such action or port",
                        format!("{ACTIONS}; ports: {}", value::port_words(self.ports)),
                    ));
                }
            },
            _ => return Err(pair.key.error_allowed("no such action", ACTIONS)),
        })
    }

    fn output(&self, word: Word<'_>) -> Result<Action, ParseError> {
        Ok(match value::port(word, self.ports)? {
            port::PORT_IN_PORT => Action::InPort,
            port::PORT_NORMAL => Action::Normal,
            port::PORT_FLOOD => Action::Flood,
            port::PORT_ALL => Action::All,
            port::PORT_CONTROLLER => Action::Controller { max_len: u16::MAX },
            port::NO_PORT => {
                return Err(word.error_allowed("not a port to output to", value::port_words(self.ports)));
            }
            number => Action::Output(number),
        })
    }

    fn lacks(&self, word: Word<'_>, needs: Needs) -> ParseError {
        word.error_allowed(
            "the flow doesn't say that its frames have this field",
            format!("it in flows with {}", needs.words()),
        )
    }

    /// The field that a name stands for in the frames of this flow.
    fn target(&self, word: Word<'_>, tags: u32) -> Result<&'static FieldDef, ParseError> {
        let holds = |needs: Needs| needs.met(|field, bits| self.m.known(field, bits));
        let arp = holds(Needs::Arp);
        let transport = |tcp, udp, sctp| {
            [(Needs::Tcp, tcp), (Needs::Udp, udp), (Needs::Sctp, sctp)]
                .into_iter()
                .find(|&(needs, _)| holds(needs))
                .map_or(tcp, |(_, name)| name)
        };
        let name = match word.text {
            "nw_src" if arp => "arp_spa",
            "nw_src" => "ip_src",
            "nw_dst" if arp => "arp_tpa",
            "nw_dst" => "ip_dst",
            "tp_src" => transport("tcp_src", "udp_src", "sctp_src"),
            "tp_dst" => transport("tcp_dst", "udp_dst", "sctp_dst"),
            "nw_tos" => "ip_dscp",
            name => name,
        };
        let writable = || {
            let names: Vec<&str> = FIELDS.iter().filter(|def| def.writable).map(|def| def.name).collect();
            names.join(", ")
        };
        let def = match FieldDef::by_name(name) {
            Some(def) if def.writable => def,
            Some(_) => return Err(word.error_allowed("this field can't be set", writable())),
            None if UNSUPPORTED_FIELDS.contains(&name) => return Err(word.error("not supported")),
            None => return Err(word.error_allowed("no such field", writable())),
        };
        let there = if def.needs == Needs::Vlan { tags > 0 } else { holds(def.needs) };
        if there { Ok(def) } else { Err(self.lacks(word, def.needs)) }
    }

    fn set(&self, pair: Pair<'_>, value: Word<'_>, field: Word<'_>, tags: u32) -> Result<Action, ParseError> {
        // For mod_nw_src and the like the field stands for the action's name, where errors point to.
        let def = self
            .target(field, tags)
            .map_err(|error| if field.start == pair.key.start { self.renamed(error, pair) } else { error })?;
        let (value, mask) = match (field.text, def.name) {
            ("nw_tos", _) => (tos(value)? >> 2, def.full()),
            (_, "vlan_vid") => {
                let (vid, mask) = value::field(value, def, true, self.ports)?;
                (vid & 0xfff, mask & 0xfff)
            }
            _ => value::field(value, def, true, self.ports)?,
        };
        Ok(Action::Set(SetField { to: def, value, mask }))
    }

    fn renamed(&self, error: ParseError, pair: Pair<'_>) -> ParseError {
        ParseError { allowed: error.allowed, ..pair.key.error(error.problem) }
    }

    /// `VALUE->FIELD[]`, `VALUE->FIELD[BIT]` or `VALUE->FIELD[LOW..HIGH]`.
    fn load(&self, word: Word<'_>, tags: u32) -> Result<Action, ParseError> {
        const FORM: &str = "load:VALUE->FIELD[], FIELD[BIT] or FIELD[LOW..HIGH]";
        let malformed = || word.error_allowed("not a load", FORM);
        let (value, to) = word.split_once("->").ok_or_else(malformed)?;
        let (name, range) = to.trim().split_once("[").ok_or_else(malformed)?;
        let range = match range.text.strip_suffix(']') {
            Some(inner) => range.to(inner.len()),
            None => return Err(malformed()),
        };
        let def = self.target(name, tags)?;
        // The lowest 12 bits of vlan_vid are the ID; the 13th says that there is a tag.
        let width = if def.name == "vlan_vid" { 12 } else { def.bits };
        let (low, high) = match range.split_once("..") {
            None if range.text.is_empty() => (0, width - 1),
            None => {
                let bit = value::number(range, (width - 1).into())? as u32;
                (bit, bit)
            }
            Some((low, high)) => {
                let high = value::number(high, (width - 1).into())? as u32;
                (value::number(low, high.into())? as u32, high)
            }
        };
        let bits = high - low + 1;
        let ones = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
        let value = value::number(value.trim(), ones)?;
        Ok(Action::Set(SetField { to: def, value: value << low, mask: ones << low }))
    }

    fn resubmit(&self, pair: Pair<'_>) -> Result<Action, ParseError> {
        const FORM: &str = "resubmit:PORT, resubmit(PORT,TABLE), resubmit(,TABLE)";
        let word = argument(pair)?;
        let (port, to) = match word.split_once(",") {
            Some((port, to)) => (port.trim(), to.trim()),
            None => (word, Word { text: "", ..word }),
        };
        let port = match port.text {
            "" => None,
            _ => match value::port(port, self.ports)? {
                port::PORT_IN_PORT => None,
                number @ (0..=port::MAX_PORT | port::LOCAL) => Some(number),
                _ => return Err(port.error_allowed("no frame comes in there", value::port_words(self.ports))),
            },
        };
        let to = if to.text.is_empty() { None } else { Some(table(to)?) };
        if word.text.starts_with(',') && to.is_none() {
            return Err(pair.whole.error_allowed("neither port nor table", FORM));
        }
        Ok(Action::Resubmit { port, table: to })
    }

    /// The actions in `write_actions(...)`.
    fn action_set(&self, pair: Pair<'_>, tags: u32) -> Result<Vec<Action>, ParseError> {
        let Some(inside) = pair.value.filter(|_| pair.separator == Some('(')) else {
            return Err(pair.whole.error_allowed("needs a list", "write_actions(ACTION,...)"));
        };
        let mut out = Vec::new();
        // In a set, tags are pushed before fields are written, whatever the order here.
        let mut known = tags;
        let mut ahead = Pairs::new(inside);
        while let Some(pair) = ahead.next(|_| false)? {
            let name = pair.key.text.to_ascii_lowercase();
            known += u32::from(matches!(&*name, "push_vlan" | "mod_vlan_vid" | "mod_vlan_pcp"));
        }
        let mut pairs = Pairs::new(inside);
        while let Some(pair) = pairs.next(|_| false)? {
            let name = pair.key.text.to_ascii_lowercase();
            match &*name {
                "drop" => {
                    flag(pair)?;
                }
                "resubmit" | "clear_actions" | "write_actions" | "write_metadata" | "goto_table" => {
                    return Err(pair.whole.error("not an action of the action set"));
                }
                _ => {
                    let mut tags = known;
                    out.push(self.action(pair, &mut tags)?);
                }
            }
        }
        Ok(out)
    }
}

/// `controller`, `controller:MAX_LEN` or `controller(max_len=...,reason=action,id=0)`.
fn controller(pair: Pair<'_>) -> Result<Action, ParseError> {
    let mut max_len = u16::MAX;
    match pair.value {
        None => {}
        Some(value) if pair.separator == Some('(') => {
            let mut options = Pairs::new(value);
            while let Some(option) = options.next(|_| false)? {
                let word = value_of(option)?;
                match (option.key.text, word.text) {
                    ("max_len", _) => max_len = short(word)?,
                    // What they are anyway.
                    ("reason", "action") | ("id", "0") => {}
                    _ => {
                        return Err(option
                            .whole
                            .error_allowed("not supported", "max_len=BYTES, reason=action, id=0"));
                    }
                }
            }
        }
        Some(_) => max_len = short(argument(pair)?)?,
    }
    Ok(Action::Controller { max_len })
}
