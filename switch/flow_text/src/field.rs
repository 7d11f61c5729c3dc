//! The fields by name.

use flow::{Field, PRESENT, frag};

/// Ethernet type of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// Ethernet type of ARP.
pub const ETH_ARP: u16 = 0x0806;
/// Ethernet type of reverse ARP.
pub const ETH_RARP: u16 = 0x8035;
/// Ethernet type of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;

/// What must be known of a frame before a field means anything (ovs-fields(7), "Prerequisites").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A VLAN tag.
    Vlan,
    /// ARP or RARP.
    Arp,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// IPv4 or IPv6.
    Ip,
    /// IPv4, ARP or RARP.
    Ipv4OrArp,
    /// IPv4, IPv6, ARP or RARP.
    IpOrArp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// TCP, UDP, SCTP, or ICMP with type and code in their place.
    Ports,
    /// ICMP of IPv4 or IPv6.
    Icmp,
    /// ICMP of IPv6.
    Icmp6,
    /// Neighbour solicitation.
    NdSolicit,
    /// Neighbour advertisement.
    NdAdvert,
    /// Either of the two.
    Nd,
}

impl Needs {
    /// Whether it holds. `look` gives the named bits of a field, or `None` where they are not known; what it is
    /// asked for is all that the answer depends on.
    pub fn met(self, mut look: impl FnMut(Field, u128) -> Option<u128>) -> bool {
        if self == Needs::Nothing {
            return true;
        }
        if self == Needs::Vlan {
            return look(Field::VlanTci, PRESENT.into()) == Some(PRESENT.into());
        }
        const V4: u128 = ETH_IPV4 as u128;
        const V6: u128 = ETH_IPV6 as u128;
        const ARPS: [u128; 2] = [ETH_ARP as u128, ETH_RARP as u128];
        let Some(eth) = look(Field::EthType, Field::EthType.full()) else { return false };
        match self {
            Needs::Nothing | Needs::Vlan => return true,
            Needs::Arp => return ARPS.contains(&eth),
            Needs::Ipv4 => return eth == V4,
            Needs::Ipv6 => return eth == V6,
            Needs::Ip => return eth == V4 || eth == V6,
            Needs::Ipv4OrArp => return eth == V4 || ARPS.contains(&eth),
            Needs::IpOrArp => return eth == V4 || eth == V6 || ARPS.contains(&eth),
            _ if eth != V4 && eth != V6 => return false,
            _ => {}
        }
        let Some(proto) = look(Field::IpProto, 0xff) else { return false };
        let icmp = proto == if eth == V4 { 1 } else { 58 };
        let transport = match self {
            Needs::Tcp => proto == 6,
            Needs::Udp => proto == 17,
            Needs::Sctp => proto == 132,
            Needs::Ports => icmp || [6, 17, 132].contains(&proto),
            Needs::Icmp => icmp,
            _ => icmp && eth == V6,
        };
        // A later fragment has none of these headers. Not knowing is fine: rules rarely say.
        if !transport || look(Field::IpFrag, frag::LATER.into()).is_some_and(|bits| bits != 0) {
            return false;
        }
        let types: &[u128] = match self {
            Needs::NdSolicit => &[135],
            Needs::NdAdvert => &[136],
            Needs::Nd => &[135, 136],
            _ => return true,
        };
        look(Field::TpSrc, 0xffff).is_some_and(|t| types.contains(&t))
            && look(Field::TpDst, 0xffff).is_none_or(|code| code == 0)
    }

    /// The words that establish it, for error messages.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Needs::Nothing => "nothing",
            Needs::Vlan => "a VLAN tag: dl_vlan, vlan_tci=0x1000/0x1000, or an earlier push_vlan",
            Needs::Arp => "arp or rarp",
            Needs::Ipv4 => "ip (or tcp, udp, sctp, icmp)",
            Needs::Ipv6 => "ipv6 (or tcp6, udp6, sctp6, icmp6)",
            Needs::Ip => "ip or ipv6 (or tcp, udp, tcp6, ...)",
            Needs::Ipv4OrArp => "ip (or tcp, udp, ...) or arp",
            Needs::IpOrArp => "ip, ipv6 or arp",
            Needs::Tcp => "tcp or tcp6",
            Needs::Udp => "udp or udp6",
            Needs::Sctp => "sctp or sctp6",
            Needs::Ports => "tcp, udp, sctp, icmp, or one of them with 6",
            Needs::Icmp => "icmp or icmp6",
            Needs::Icmp6 => "icmp6",
            Needs::NdSolicit => "icmp6,icmp_type=135",
            Needs::NdAdvert => "icmp6,icmp_type=136",
            Needs::Nd => "icmp6,icmp_type=135 or icmp6,icmp_type=136",
        }
    }
}

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    Decimal,
    Hex,
    Port,
    Mac,
    Ipv4,
    Ipv6,
    Frag,
    Flags,
}

/// A field as users name it: a range of bits in a [`Field`] of the key.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FieldDef {
    /// Its name; printed in `set_field`.
    pub name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    /// Where it stands in the key.
    pub field: Field,
    /// Its lowest bit in there.
    pub shift: u32,
    /// Its width.
    pub bits: u32,
    /// When it means something.
    pub needs: Needs,
    pub(crate) form: Form,
    pub(crate) maskable: bool,
    /// Whether `set_field` takes it.
    pub writable: bool,
}

impl FieldDef {
    /// All ones in its width.
    pub const fn full(&self) -> u128 {
        if self.bits == 128 { u128::MAX } else { (1 << self.bits) - 1 }
    }

    /// The field with this name.
    pub fn by_name(name: &str) -> Option<&'static FieldDef> {
        FIELDS.iter().find(|def| def.name == name || def.aliases.contains(&name))
    }
}

const RO: bool = false;
const RW: bool = true;
const EXACT: bool = false;
const MASKED: bool = true;

const fn whole(
    name: &'static str,
    aliases: &'static [&'static str],
    field: Field,
    needs: Needs,
    form: Form,
    maskable: bool,
    writable: bool,
) -> FieldDef {
    let (_, _, bits) = field.place();
    FieldDef { name, aliases, field, shift: 0, bits, needs, form, maskable, writable }
}

const fn part(def: FieldDef, shift: u32, bits: u32) -> FieldDef {
    FieldDef { shift, bits, ..def }
}

/// Every field that can be named. Names of the same bits under another protocol are fields of their own here.
pub static FIELDS: &[FieldDef] = {
    use Field::*;
    use Form::{Decimal, Flags, Frag, Hex, Ipv4, Ipv6, Mac, Port};
    use Needs as N;
    &[
        whole("in_port", &["NXM_OF_IN_PORT"], InPort, N::Nothing, Port, EXACT, RO),
        whole("metadata", &["OXM_OF_METADATA"], Metadata, N::Nothing, Hex, MASKED, RW),
        whole("reg0", &["NXM_NX_REG0"], Reg0, N::Nothing, Hex, MASKED, RW),
        whole("reg1", &["NXM_NX_REG1"], Reg1, N::Nothing, Hex, MASKED, RW),
        whole("reg2", &["NXM_NX_REG2"], Reg2, N::Nothing, Hex, MASKED, RW),
        whole("reg3", &["NXM_NX_REG3"], Reg3, N::Nothing, Hex, MASKED, RW),
        whole("reg4", &["NXM_NX_REG4"], Reg4, N::Nothing, Hex, MASKED, RW),
        whole("reg5", &["NXM_NX_REG5"], Reg5, N::Nothing, Hex, MASKED, RW),
        whole("reg6", &["NXM_NX_REG6"], Reg6, N::Nothing, Hex, MASKED, RW),
        whole("reg7", &["NXM_NX_REG7"], Reg7, N::Nothing, Hex, MASKED, RW),
        whole(
            "eth_src",
            &["dl_src", "NXM_OF_ETH_SRC", "OXM_OF_ETH_SRC"],
            EthSrc,
            N::Nothing,
            Mac,
            MASKED,
            RW,
        ),
        whole(
            "eth_dst",
            &["dl_dst", "NXM_OF_ETH_DST", "OXM_OF_ETH_DST"],
            EthDst,
            N::Nothing,
            Mac,
            MASKED,
            RW,
        ),
        whole(
            "eth_type",
            &["dl_type", "NXM_OF_ETH_TYPE", "OXM_OF_ETH_TYPE"],
            EthType,
            N::Nothing,
            Hex,
            EXACT,
            RO,
        ),
        whole("vlan_tci", &["NXM_OF_VLAN_TCI"], VlanTci, N::Nothing, Hex, MASKED, RO),
        part(whole("vlan_vid", &["OXM_OF_VLAN_VID"], VlanTci, N::Vlan, Decimal, MASKED, RW), 0, 13),
        part(whole("vlan_pcp", &["OXM_OF_VLAN_PCP"], VlanTci, N::Vlan, Decimal, EXACT, RW), 13, 3),
        whole("inner_vlan_tci", &[], VlanTci2, N::Nothing, Hex, MASKED, RO),
        whole("ip_src", &["NXM_OF_IP_SRC", "OXM_OF_IPV4_SRC"], Ipv4Src, N::Ipv4, Ipv4, MASKED, RW),
        whole("ip_dst", &["NXM_OF_IP_DST", "OXM_OF_IPV4_DST"], Ipv4Dst, N::Ipv4, Ipv4, MASKED, RW),
        // The OpenFlow 1.0 names stand for the ARP addresses too.
        whole("nw_src", &[], Ipv4Src, N::Ipv4OrArp, Ipv4, MASKED, RO),
        whole("nw_dst", &[], Ipv4Dst, N::Ipv4OrArp, Ipv4, MASKED, RO),
        whole("ipv6_src", &["NXM_NX_IPV6_SRC", "OXM_OF_IPV6_SRC"], Ipv6Src, N::Ipv6, Ipv6, MASKED, RW),
        whole("ipv6_dst", &["NXM_NX_IPV6_DST", "OXM_OF_IPV6_DST"], Ipv6Dst, N::Ipv6, Ipv6, MASKED, RW),
        whole(
            "nw_proto",
            &["ip_proto", "NXM_OF_IP_PROTO", "OXM_OF_IP_PROTO"],
            IpProto,
            N::IpOrArp,
            Decimal,
            EXACT,
            RO,
        ),
        part(whole("ip_dscp", &["OXM_OF_IP_DSCP"], IpTos, N::Ip, Decimal, EXACT, RW), 2, 6),
        part(
            whole("nw_ecn", &["ip_ecn", "NXM_NX_IP_ECN", "OXM_OF_IP_ECN"], IpTos, N::Ip, Decimal, EXACT, RW),
            0,
            2,
        ),
        whole("nw_ttl", &["NXM_NX_IP_TTL"], IpTtl, N::Ip, Decimal, EXACT, RW),
        part(whole("ip_frag", &["nw_frag", "NXM_NX_IP_FRAG"], IpFrag, N::Ip, Frag, EXACT, RO), 0, 2),
        whole("arp_op", &["NXM_OF_ARP_OP", "OXM_OF_ARP_OP"], IpProto, N::Arp, Decimal, EXACT, RW),
        whole("arp_spa", &["NXM_OF_ARP_SPA", "OXM_OF_ARP_SPA"], Ipv4Src, N::Arp, Ipv4, MASKED, RW),
        whole("arp_tpa", &["NXM_OF_ARP_TPA", "OXM_OF_ARP_TPA"], Ipv4Dst, N::Arp, Ipv4, MASKED, RW),
        whole("arp_sha", &["NXM_NX_ARP_SHA", "OXM_OF_ARP_SHA"], ArpSha, N::Arp, Mac, MASKED, RW),
        whole("arp_tha", &["NXM_NX_ARP_THA", "OXM_OF_ARP_THA"], ArpTha, N::Arp, Mac, MASKED, RW),
        whole("tcp_src", &["NXM_OF_TCP_SRC", "OXM_OF_TCP_SRC"], TpSrc, N::Tcp, Decimal, MASKED, RW),
        whole("tcp_dst", &["NXM_OF_TCP_DST", "OXM_OF_TCP_DST"], TpDst, N::Tcp, Decimal, MASKED, RW),
        part(whole("tcp_flags", &["NXM_NX_TCP_FLAGS"], TcpFlags, N::Tcp, Flags, MASKED, RO), 0, 12),
        whole("udp_src", &["NXM_OF_UDP_SRC", "OXM_OF_UDP_SRC"], TpSrc, N::Udp, Decimal, MASKED, RW),
        whole("udp_dst", &["NXM_OF_UDP_DST", "OXM_OF_UDP_DST"], TpDst, N::Udp, Decimal, MASKED, RW),
        whole("sctp_src", &["OXM_OF_SCTP_SRC"], TpSrc, N::Sctp, Decimal, MASKED, RW),
        whole("sctp_dst", &["OXM_OF_SCTP_DST"], TpDst, N::Sctp, Decimal, MASKED, RW),
        whole("tp_src", &[], TpSrc, N::Ports, Decimal, MASKED, RO),
        whole("tp_dst", &[], TpDst, N::Ports, Decimal, MASKED, RO),
        part(
            whole(
                "icmp_type",
                &["NXM_OF_ICMP_TYPE", "OXM_OF_ICMPV4_TYPE"],
                TpSrc,
                N::Icmp,
                Decimal,
                EXACT,
                RW,
            ),
            0,
            8,
        ),
        part(
            whole(
                "icmp_code",
                &["NXM_OF_ICMP_CODE", "OXM_OF_ICMPV4_CODE"],
                TpDst,
                N::Icmp,
                Decimal,
                EXACT,
                RW,
            ),
            0,
            8,
        ),
        part(
            whole(
                "icmpv6_type",
                &["NXM_NX_ICMPV6_TYPE", "OXM_OF_ICMPV6_TYPE"],
                TpSrc,
                N::Icmp6,
                Decimal,
                EXACT,
                RW,
            ),
            0,
            8,
        ),
        part(
            whole(
                "icmpv6_code",
                &["NXM_NX_ICMPV6_CODE", "OXM_OF_ICMPV6_CODE"],
                TpDst,
                N::Icmp6,
                Decimal,
                EXACT,
                RW,
            ),
            0,
            8,
        ),
        whole("nd_target", &["NXM_NX_ND_TARGET", "OXM_OF_IPV6_ND_TARGET"], NdTarget, N::Nd, Ipv6, MASKED, RW),
        whole("nd_sll", &["NXM_NX_ND_SLL", "OXM_OF_IPV6_ND_SLL"], ArpSha, N::NdSolicit, Mac, MASKED, RW),
        whole("nd_tll", &["NXM_NX_ND_TLL", "OXM_OF_IPV6_ND_TLL"], ArpTha, N::NdAdvert, Mac, MASKED, RW),
    ]
};

/// Protocol words: Ethernet type and IP protocol.
pub(crate) const SHORTHANDS: &[(&str, u16, Option<u8>)] = &[
    ("ip", ETH_IPV4, None),
    ("icmp", ETH_IPV4, Some(1)),
    ("tcp", ETH_IPV4, Some(6)),
    ("udp", ETH_IPV4, Some(17)),
    ("sctp", ETH_IPV4, Some(132)),
    ("arp", ETH_ARP, None),
    ("rarp", ETH_RARP, None),
    ("ipv6", ETH_IPV6, None),
    ("tcp6", ETH_IPV6, Some(6)),
    ("udp6", ETH_IPV6, Some(17)),
    ("sctp6", ETH_IPV6, Some(132)),
    ("icmp6", ETH_IPV6, Some(58)),
];

/// TCP flags from the lowest bit (ovs-fields(7)).
pub(crate) const TCP_FLAGS: [&str; 12] =
    ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"];

/// Words of `ip_frag`: value and mask.
pub(crate) const FRAGS: &[(&str, u8, u8)] = &[
    ("no", 0, frag::ANY | frag::LATER),
    ("yes", frag::ANY, frag::ANY),
    ("first", frag::ANY, frag::ANY | frag::LATER),
    ("later", frag::ANY | frag::LATER, frag::ANY | frag::LATER),
    ("not_later", 0, frag::LATER),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_ranges_fit_their_field() {
        let mut seen = HashSet::new();
        for def in FIELDS {
            for name in def.aliases.iter().chain([&def.name]) {
                assert!(seen.insert(*name), "{name} twice");
            }
            let (_, _, bits) = def.field.place();
            assert!(def.shift + def.bits <= bits, "{}", def.name);
        }
    }

    #[test]
    fn every_field_of_the_key_can_be_named() {
        for &field in Field::ALL {
            assert!(FIELDS.iter().any(|def| def.field == field), "{field:?} has no name");
        }
    }
}
