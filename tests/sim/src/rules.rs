//! Random rules, as an operator would write them.

use fastrand::Rng;

use crate::frames::station;

/// What rules may name, and those there were.
pub struct Vocabulary {
    /// Numbers of ports, present or not.
    ports: u16,
    /// Frames may be sent back to where they came from.
    in_port: bool,
    /// Matches so far. Each has priorities of its own: which of two rules of one priority counts is nobody's promise.
    matches: Vec<String>,
}

impl Vocabulary {
    pub fn new(ports: u16, in_port: bool) -> Vocabulary {
        Vocabulary { ports, in_port, matches: vec![] }
    }

    /// A priority for this match: one of a few, so that the same rule comes again.
    fn priority(&mut self, rng: &mut Rng, match_: &str) -> usize {
        let known = self.matches.iter().position(|known| known == match_);
        let number = known.unwrap_or_else(|| {
            self.matches.push(match_.to_owned());
            self.matches.len() - 1
        });
        assert!(number < 1000, "no run has so many rules");
        // Priority 0 is that of the rule for everything else.
        rng.usize(..4) * 1000 + number + 1
    }

    /// A match there was, with one of its priorities: what a strict change names.
    fn known(&mut self, rng: &mut Rng) -> Option<String> {
        let match_ = rng.choice(self.matches.clone())?;
        let priority = self.priority(rng, &match_);
        Some(format!("{match_},priority={priority}"))
    }
}

fn one<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// A station that frames of the run come from or go to.
pub fn any_station(rng: &mut Rng) -> [u8; 6] {
    station(rng.u8(4..40))
}

/// What a match says of a packet, and what may be done to such a packet.
const PACKETS: &[(&str, &[&str])] = &[
    ("", &[]),
    ("", &[]),
    ("ip", &["dec_ttl", "mod_nw_dst:10.0.0.77", "mod_nw_src:10.0.0.78", "mod_nw_tos:16"]),
    ("ip,nw_dst=10.0.0.1", &["dec_ttl", "mod_nw_dst:10.0.0.9"]),
    ("ip,nw_src=10.0.0.0/30", &["set_field:10.0.0.66->ip_src", "dec_ttl"]),
    ("tcp,tp_dst=80", &["mod_tp_dst:8080", "mod_nw_dst:10.0.0.5", "dec_ttl"]),
    ("tcp", &["mod_tp_src:4321", "mod_tp_dst:1234"]),
    ("udp,tp_src=1000", &["mod_tp_src:53"]),
    ("udp,tp_dst=0x50/0xfff0", &["set_field:90->udp_dst"]),
    ("ipv6", &["dec_ttl", "set_field:fd00::99->ipv6_dst"]),
    ("tcp6,tp_dst=80", &["mod_tp_dst:8080", "set_field:fd00::98->ipv6_src"]),
    ("dl_type=0x88b5", &[]),
    ("ip,nw_ttl=1", &["dec_ttl"]),
    ("ip,nw_tos=16", &["mod_nw_tos:0"]),
];

const TAGS: &[&str] =
    &["dl_vlan=5", "dl_vlan=6", "vlan_tci=0x1000/0x1000", "vlan_tci=0x0000/0x1fff", "dl_vlan_pcp=3"];

/// A match, for rules and for filters, and which line of `PACKETS` it has.
fn matching(rng: &mut Rng, words: &Vocabulary, table: u8) -> (Vec<String>, usize) {
    let mut parts = vec![];
    let packet = rng.usize(..PACKETS.len());
    if !PACKETS[packet].0.is_empty() {
        parts.push(PACKETS[packet].0.to_owned());
    }
    if rng.u8(..3) == 0 {
        parts.push(format!("in_port={}", rng.u16(1..=words.ports)));
    }
    match rng.u8(..8) {
        0 => parts.push(format!("dl_dst={}", mac(any_station(rng)))),
        1 => parts.push(format!("dl_src={}", mac(any_station(rng)))),
        2 => parts.push("dl_dst=01:00:00:00:00:00/01:00:00:00:00:00".into()),
        _ => {}
    }
    if rng.u8(..5) == 0 {
        parts.push((*one(rng, TAGS)).to_owned());
    }
    if table > 0 && rng.bool() {
        parts.push(format!("{}={}", one(rng, &["reg0", "metadata"]), rng.u8(..3)));
    }
    (parts, packet)
}

/// A rule as `add-flow` takes it.
pub fn rule(rng: &mut Rng, words: &mut Vocabulary) -> String {
    let table = if rng.bool() { 0 } else { rng.u8(..4) };
    let (mut parts, packet) = matching(rng, words, table);
    parts.push(format!("table={table}"));
    let match_ = parts.join(",");
    let priority = words.priority(rng, &match_);
    let mut parts = vec![match_, format!("priority={priority}")];
    if rng.u8(..8) == 0 {
        parts.push(format!("idle_timeout={}", rng.u8(1..5)));
    }
    if rng.u8(..8) == 0 {
        parts.push(format!("hard_timeout={}", rng.u8(1..9)));
    }
    format!("{},actions={}", parts.join(","), actions(rng, words, table, packet))
}

fn actions(rng: &mut Rng, words: &Vocabulary, table: u8, packet: usize) -> String {
    if rng.u8(..3) == 0 {
        let simple = ["normal".to_owned(), "drop".to_owned(), format!("output:{}", rng.u16(1..=words.ports))];
        return one(rng, &simple).clone();
    }
    let mut list = vec![];
    for _ in 0..rng.u8(1..5) {
        let edits = PACKETS[packet].1;
        list.push(match rng.u8(..14) {
            0..=2 => format!("output:{}", rng.u16(1..=words.ports)),
            3 => "normal".into(),
            4 => (*one(rng, &["flood", "all"])).into(),
            5 if words.in_port => "in_port".into(),
            6 => format!("controller(max_len={})", rng.u16(..200)),
            7 if !edits.is_empty() => (*one(rng, edits)).into(),
            8 if !edits.is_empty() => (*one(rng, edits)).into(),
            9 => format!("mod_dl_dst:{}", mac(any_station(rng))),
            10 => format!("load:{}->NXM_NX_REG0[]", rng.u8(..3)),
            11 => (*one(rng, &["push_vlan:0x8100", "push_vlan:0x88a8"])).into(),
            12 => (*one(rng, &["strip_vlan", "mod_vlan_vid:5", "mod_vlan_vid:7"])).into(),
            13 => format!("resubmit(,{})", rng.u8(..4)),
            _ => format!("mod_dl_src:{}", mac(any_station(rng))),
        });
    }
    match rng.u8(..6) {
        0 => list.push(format!("write_actions(output:{})", rng.u16(1..=words.ports))),
        1 => list.push(format!("write_metadata:{}", rng.u8(..3))),
        _ => {}
    }
    if table < 3 && rng.u8(..3) == 0 {
        list.push(format!("goto_table:{}", rng.u8(table + 1..=3)));
    }
    list.join(",")
}

/// A rule's new actions, as `mod-flows` takes them.
pub fn change(rng: &mut Rng, words: &mut Vocabulary, strict: bool) -> String {
    if strict && let Some(known) = words.known(rng) {
        return format!("{known},actions={}", actions(rng, words, 0, 0));
    }
    let (mut parts, packet) = matching(rng, words, 0);
    parts.push("table=0".into());
    format!("{},actions={}", parts.join(","), actions(rng, words, 0, packet))
}

/// Rules to be removed, as `del-flows` takes them.
pub fn filter(rng: &mut Rng, words: &mut Vocabulary, strict: bool) -> String {
    if strict && let Some(known) = words.known(rng) {
        return known;
    }
    let (mut parts, _) = matching(rng, words, 0);
    if rng.bool() {
        parts.push(format!("table={}", rng.u8(..4)));
    }
    if rng.u8(..4) == 0 {
        parts.push(format!("out_port={}", rng.u16(1..=words.ports)));
    }
    parts.join(",")
}
