//! Printing, in the order and form of `ovs-ofctl dump-flows`.

use std::fmt::{self, Display, Formatter};

use flow::{Field, PRESENT};

use crate::action::{Action, Instructions, SetField};
use crate::field::{ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_RARP, FieldDef, SHORTHANDS};
use crate::port::{NoPorts, Ports};
use crate::value::{write_field, write_port};
use crate::{DEFAULT_PRIORITY, FlowFilter, FlowSpec, Match};

/// What a rule has counted, for [`FlowSpec::dump_line`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Time since the rule was added.
    pub age: std::time::Duration,
    /// Frames that matched.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds since the last of them (or since the rule was added).
    pub idle_seconds: u64,
}

/// Something to print with names for ports.
#[derive(Clone, Copy)]
pub struct Shown<'a, T> {
    what: &'a T,
    ports: &'a dyn Ports,
    counters: Option<Counters>,
}

macro_rules! shown {
    ($($what:ident)+) => {$(
        impl $what {
            /// For printing with the names of these ports.
            pub fn shown<'a>(&'a self, ports: &'a dyn Ports) -> Shown<'a, $what> {
                Shown { what: self, ports, counters: None }
            }
        }

        impl Display for $what {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                self.shown(&NoPorts).fmt(f)
            }
        }
    )+};
}

shown!(FlowSpec FlowFilter Match Instructions Action);

impl FlowSpec {
    /// For printing as a line of `dump-flows`: with cookie, table and counters.
    pub fn dump_line<'a>(&'a self, ports: &'a dyn Ports, counters: Counters) -> Shown<'a, FlowSpec> {
        Shown { what: self, ports, counters: Some(counters) }
    }
}

impl Display for Shown<'_, FlowSpec> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let flow = self.what;
        if flow.cookie != 0 || self.counters.is_some() {
            write!(f, "cookie={:#x}, ", flow.cookie)?;
        }
        if let Some(c) = self.counters {
            write!(f, "duration={}.{:03}s, ", c.age.as_secs(), c.age.subsec_millis())?;
        }
        if flow.table != 0 || self.counters.is_some() {
            write!(f, "table={}, ", flow.table)?;
        }
        if let Some(c) = self.counters {
            write!(f, "n_packets={}, n_bytes={}, ", c.frames, c.bytes)?;
        }
        if flow.idle_timeout != 0 {
            write!(f, "idle_timeout={}, ", flow.idle_timeout)?;
        }
        if flow.hard_timeout != 0 {
            write!(f, "hard_timeout={}, ", flow.hard_timeout)?;
        }
        for (flag, name) in
            [(flow.flags.check_overlap, "check_overlap"), (flow.flags.reset_counts, "reset_counts")]
        {
            if flag {
                write!(f, "{name} ")?;
            }
        }
        if let Some(c) = self.counters {
            write!(f, "idle_age={}, ", c.idle_seconds)?;
        }
        write_priority_and_match(f, flow.priority, &flow.match_, self.ports)?;
        write!(f, "actions={}", flow.instructions.shown(self.ports))
    }
}

/// With the space that separates them from the actions, if there is anything.
fn write_priority_and_match(
    f: &mut Formatter<'_>,
    priority: u16,
    m: &Match,
    ports: &dyn Ports,
) -> fmt::Result {
    let text = m.shown(ports).to_string();
    match (priority == DEFAULT_PRIORITY, text.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => write!(f, "{text} "),
        (false, true) => write!(f, "priority={priority} "),
        (false, false) => write!(f, "priority={priority},{text} "),
    }
}

impl Display for Shown<'_, FlowFilter> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let filter = self.what;
        let mut words = Vec::new();
        if let Some((value, mask)) = filter.cookie {
            words.push(format!("cookie={value:#x}/{mask:#x}"));
        }
        if let Some(table) = filter.table {
            words.push(format!("table={table}"));
        }
        if let Some(port) = filter.out_port {
            words.push(format!("out_port={}", PortShown(port, self.ports)));
        }
        if filter.priority != DEFAULT_PRIORITY {
            words.push(format!("priority={}", filter.priority));
        }
        let text = filter.match_.shown(self.ports).to_string();
        if !text.is_empty() {
            words.push(text);
        }
        f.write_str(&words.join(","))
    }
}

struct PortShown<'a>(u16, &'a dyn Ports);

impl Display for PortShown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_port(f, self.0, self.1)
    }
}

struct ValueShown<'a> {
    def: &'a FieldDef,
    value: u128,
    mask: u128,
    ports: &'a dyn Ports,
}

impl Display for ValueShown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_field(f, self.def, self.value, self.mask, self.ports)
    }
}

/// Collects the words of a match.
struct Words<'a> {
    m: &'a Match,
    ports: &'a dyn Ports,
    words: Vec<String>,
}

impl Words<'_> {
    /// Adds `name=value` in the form of the field `like`, if any of its bits matter.
    fn field(&mut self, name: &str, like: &str) {
        let Some(def) = FieldDef::by_name(like) else { return };
        let mask = self.m.mask().get(def.field) >> def.shift;
        // ICMP types are 8 bits in a 16-bit place; the match may be on all 16.
        let mask = if mask & def.full() == def.full() { def.full() } else { mask };
        if mask != 0 {
            let value = self.m.key().get(def.field) >> def.shift;
            self.words.push(format!("{name}={}", ValueShown { def, value, mask, ports: self.ports }));
        }
    }

    fn vlan(&mut self, field: Field, vid: &str, pcp: &str, tci: &str) {
        let value = self.m.key().get(field) as u16;
        let mask = self.m.mask().get(field) as u16;
        let tagged = value & mask & PRESENT != 0;
        match mask {
            0 => {}
            0x1fff if tagged => self.words.push(format!("{vid}={}", value & 0xfff)),
            0xf000 if tagged => self.words.push(format!("{pcp}={}", value >> 13)),
            0xffff if tagged => self.words.push(format!("{vid}={},{pcp}={}", value & 0xfff, value >> 13)),
            0xffff => self.words.push(format!("{tci}={value:#06x}")),
            _ => self.words.push(format!("{tci}={value:#06x}/{mask:#06x}")),
        }
    }
}

impl Display for Shown<'_, Match> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let m = self.what;
        let mut w = Words { m, ports: self.ports, words: Vec::new() };
        let eth = m.known(Field::EthType, Field::EthType.full()).map(|v| v as u16);
        let proto = m.known(Field::IpProto, 0xff).map(|v| v as u8);
        let ip = matches!(eth, Some(ETH_IPV4 | ETH_IPV6));
        let arp = matches!(eth, Some(ETH_ARP | ETH_RARP));

        let word_for = |proto: Option<u8>| SHORTHANDS.iter().find(|&&(_, e, p)| Some(e) == eth && p == proto);
        let exact = word_for(proto).filter(|_| proto.is_some() && ip);
        let shorthand = exact.or_else(|| word_for(None));
        if let Some((word, ..)) = shorthand {
            w.words.push((*word).into());
        }
        for reg in ["reg0", "reg1", "reg2", "reg3", "reg4", "reg5", "reg6", "reg7", "metadata", "in_port"] {
            w.field(reg, reg);
        }
        w.vlan(Field::VlanTci, "dl_vlan", "dl_vlan_pcp", "vlan_tci");
        w.vlan(Field::VlanTci2, "inner_vlan", "inner_vlan_pcp", "inner_vlan_tci");
        w.field("dl_src", "eth_src");
        w.field("dl_dst", "eth_dst");
        match eth {
            Some(eth) if shorthand.is_none() => w.words.push(format!("dl_type={eth:#06x}")),
            Some(_) => {}
            None => w.field("dl_type", "eth_type"),
        }
        w.field("ipv6_src", "ipv6_src");
        w.field("ipv6_dst", "ipv6_dst");
        w.field(if arp { "arp_spa" } else { "nw_src" }, "nw_src");
        w.field(if arp { "arp_tpa" } else { "nw_dst" }, "nw_dst");
        if exact.is_none() {
            w.field(if arp { "arp_op" } else { "nw_proto" }, "nw_proto");
        }
        if arp {
            w.field("arp_sha", "arp_sha");
            w.field("arp_tha", "arp_tha");
        }
        // DSCP is shown in its place in the byte, as OpenFlow 1.0 has it.
        let tos = m.mask().get(Field::IpTos);
        match tos & 0xfc {
            0 => {}
            0xfc => w.words.push(format!("nw_tos={}", m.key().get(Field::IpTos) & 0xfc)),
            part => w.words.push(format!("nw_tos={:#x}/{part:#x}", m.key().get(Field::IpTos) & part)),
        }
        if tos & 3 == 3 {
            w.words.push(format!("nw_ecn={}", m.key().get(Field::IpTos) & 3));
        } else if tos & 3 != 0 {
            w.words.push(format!("nw_ecn={:#x}/{:#x}", m.key().get(Field::IpTos) & tos & 3, tos & 3));
        }
        w.field("nw_ttl", "nw_ttl");
        w.field("nw_frag", "ip_frag");
        if matches!((eth, proto), (Some(ETH_IPV4), Some(1)) | (Some(ETH_IPV6), Some(58))) {
            w.field("icmp_type", "icmp_type");
            w.field("icmp_code", "icmp_code");
        } else {
            w.field("tp_src", "tp_src");
            w.field("tp_dst", "tp_dst");
        }
        w.field("nd_target", "nd_target");
        if !arp {
            w.field("nd_sll", "nd_sll");
            w.field("nd_tll", "nd_tll");
        }
        w.field("tcp_flags", "tcp_flags");
        f.write_str(&w.words.join(","))
    }
}

impl Display for Shown<'_, Instructions> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let i = self.what;
        let list = |actions: &[Action]| {
            let words: Vec<String> =
                actions.iter().map(|action| action.shown(self.ports).to_string()).collect();
            words.join(",")
        };
        let mut words = Vec::new();
        if !i.apply.is_empty() {
            words.push(list(&i.apply));
        }
        if i.clear_actions {
            words.push("clear_actions".into());
        }
        if !i.write.is_empty() {
            words.push(format!("write_actions({})", list(&i.write)));
        }
        match i.metadata {
            Some((value, u64::MAX)) => words.push(format!("write_metadata:{value:#x}")),
            Some((value, mask)) => words.push(format!("write_metadata:{value:#x}/{mask:#x}")),
            None => {}
        }
        if let Some(table) = i.goto_table {
            words.push(format!("goto_table:{table}"));
        }
        if words.is_empty() {
            words.push("drop".into());
        }
        f.write_str(&words.join(","))
    }
}

impl Display for Shown<'_, Action> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let port = |number| PortShown(number, self.ports);
        match *self.what {
            Action::Output(number) if number > crate::MAX_PORT => port(number).fmt(f),
            Action::Output(number) => write!(f, "output:{}", port(number)),
            Action::InPort => f.write_str("IN_PORT"),
            Action::Normal => f.write_str("NORMAL"),
            Action::Flood => f.write_str("FLOOD"),
            Action::All => f.write_str("ALL"),
            Action::Controller { max_len } => write!(f, "CONTROLLER:{max_len}"),
            Action::Set(SetField { to, value, mask }) => {
                // The presence bit belongs to the value of vlan_vid (OpenFlow 1.2+).
                let (value, mask) = match to.name {
                    "vlan_vid" if mask == 0xfff => (value | u128::from(PRESENT), to.full()),
                    _ => (value, mask),
                };
                write!(f, "set_field:{}->{}", ValueShown { def: to, value, mask, ports: self.ports }, to.name)
            }
            Action::ModVlanVid(vid) => write!(f, "mod_vlan_vid:{vid}"),
            Action::ModVlanPcp(pcp) => write!(f, "mod_vlan_pcp:{pcp}"),
            Action::PushVlan(eth) => write!(f, "push_vlan:{eth:#06x}"),
            Action::PopVlan => f.write_str("pop_vlan"),
            Action::DecTtl => f.write_str("dec_ttl"),
            Action::Resubmit { port: Some(number), table: None } => write!(f, "resubmit:{}", port(number)),
            Action::Resubmit { port: Some(number), table: Some(table) } => {
                write!(f, "resubmit({},{table})", port(number))
            }
            Action::Resubmit { port: None, table: Some(table) } => write!(f, "resubmit(,{table})"),
            Action::Resubmit { port: None, table: None } => f.write_str("resubmit:IN_PORT"),
        }
    }
}
