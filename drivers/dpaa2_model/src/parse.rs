//! The parser and the key generator: what the packet processor finds out about a frame.

use dpaa2_defs::annotation::{ParseResult, faf, fas, parse, summary};
use dpaa2_defs::classify::{Extract, ExtractKind, HeaderMode, KEY_BYTES_MAX, KeyConfig, Protocol, field};
use headers::checksum::{Sum, checksum, nonzero};

/// What was found in a frame.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    /// The parse results as drivers read them.
    pub result: ParseResult,
    /// Frame annotation status: group addresses, errors, checksums that were verified.
    pub status: u32,
    /// Parse summary of LX2160A.
    pub summary: u16,
    vlan: Option<(usize, usize)>,
    ethertype: usize,
    mpls: Option<usize>,
    pppoe: Option<usize>,
    arp: Option<usize>,
    ip: Option<Ip>,
    l4: Option<(u8, usize)>,
    gtp: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ip {
    at: usize,
    is_v6: bool,
    protocol: u8,
    /// Where the protocol's number is.
    protocol_at: usize,
    /// First byte behind the header and its extensions.
    payload: usize,
    /// First byte behind the packet.
    end: usize,
    is_fragment: bool,
    is_first: bool,
    has_options: bool,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

/// Which checksums are verified on receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validate {
    pub l3: bool,
    pub l4: bool,
}

/// Parses a frame. `tpids` are further ethertypes of VLAN tags.
pub(crate) fn parse(frame: &[u8], tpids: &[u16], validate: Validate) -> Parsed {
    let mut parsed = Parsed {
        result: ParseResult([0; 48]),
        status: 0,
        summary: summary::UNKNOWN,
        vlan: None,
        ethertype: 12,
        mpls: None,
        pppoe: None,
        arp: None,
        ip: None,
        l4: None,
        gtp: None,
    };
    for offset in [
        parse::SHIM_1_OFFSET,
        parse::SHIM_2_OFFSET,
        parse::IP_PROTOCOL_OFFSET,
        parse::LLC_SNAP_OFFSET,
        parse::VLAN_FIRST_OFFSET,
        parse::VLAN_LAST_OFFSET,
        parse::PPPOE_OFFSET,
        parse::MPLS_FIRST_OFFSET,
        parse::MPLS_LAST_OFFSET,
        parse::L3_OFFSET,
        parse::IP_LAST_OFFSET,
        parse::GRE_OFFSET,
        parse::L4_OFFSET,
        parse::L5_OFFSET,
        parse::NEXT_HEADER_OFFSET,
        parse::FRAGMENT_OFFSET,
    ] {
        parsed.result.0[offset] = 0xff;
    }
    if parsed.layers(frame, tpids, validate).is_none() {
        parsed.status |= fas::PHE;
        parsed.result.set_flag(faf::PARSING_ERROR);
    }
    parsed
}

impl Parsed {
    fn set_offset(&mut self, which: usize, offset: usize) {
        self.result.0[which] = u8::try_from(offset).unwrap_or(0xff);
    }

    /// None when the frame ends inside a header.
    fn layers(&mut self, frame: &[u8], tpids: &[u16], validate: Validate) -> Option<()> {
        let mut ethertype = u16_at(frame, 12)?;
        self.result.set_flag(faf::ETHERNET);
        self.set_offset(parse::ETHERNET_OFFSET, 0);
        if frame[..6] == [0xff; 6] {
            self.result.set_flag(faf::L2_BROADCAST);
            self.status |= fas::BC;
        } else if frame[0] & 1 != 0 {
            self.result.set_flag(faf::L2_MULTICAST);
            self.status |= fas::MC;
        } else {
            self.result.set_flag(faf::L2_UNICAST);
        }
        let mut at = 12;
        while [0x8100, 0x88a8].contains(&ethertype) || tpids.contains(&ethertype) {
            let first = self.vlan.map_or(at + 2, |(first, _)| first);
            self.result.set_flag(if self.vlan.is_none() { faf::VLAN } else { faf::VLAN_MORE });
            let tci = u16_at(frame, at + 2)?;
            if tci & 0x1000 != 0 {
                self.result.set_flag(faf::VLAN_CFI);
            }
            self.vlan = Some((first, at + 2));
            at += 4;
            ethertype = u16_at(frame, at)?;
        }
        if let Some((first, last)) = self.vlan {
            self.set_offset(parse::VLAN_FIRST_OFFSET, first);
            self.set_offset(parse::VLAN_LAST_OFFSET, last);
        }
        self.ethertype = at;
        self.set_offset(parse::ETHERTYPE_OFFSET, at);
        self.result.0[..2].copy_from_slice(&ethertype.to_be_bytes());
        self.network(frame, ethertype, at + 2, validate)?;
        if let Some((first, last)) = self.vlan {
            self.summary = if first == last { summary::VLAN_ONE } else { summary::VLAN_TWO };
        }
        Some(())
    }

    fn network(&mut self, frame: &[u8], ethertype: u16, mut at: usize, validate: Validate) -> Option<()> {
        match ethertype {
            0x0800 => return self.ipv4(frame, at, validate),
            0x86dd => return self.ipv6(frame, at, validate),
            0x0806 => {
                frame.get(at..at + 28)?;
                self.result.set_flag(faf::ARP);
                self.arp = Some(at);
                self.set_offset(parse::L3_OFFSET, at);
                self.summary = summary::ETHERNET;
            }
            0x8847 | 0x8848 => {
                self.result.set_flag(faf::MPLS);
                self.mpls = Some(at);
                self.set_offset(parse::MPLS_FIRST_OFFSET, at);
                let mut labels = 1;
                while frame.get(at + 2)? & 1 == 0 {
                    at += 4;
                    labels += 1;
                }
                frame.get(at..at + 4)?;
                if labels > 1 {
                    self.result.set_flag(faf::MPLS_MORE);
                }
                self.set_offset(parse::MPLS_LAST_OFFSET, at);
            }
            0x8864 => {
                frame.get(at..at + 8)?;
                self.result.set_flag(faf::PPPOE);
                self.pppoe = Some(at);
                self.set_offset(parse::PPPOE_OFFSET, at);
            }
            _ => {
                self.result.set_flag(faf::L2_UNKNOWN);
                self.summary = summary::ETHERNET;
            }
        }
        Some(())
    }

    fn ipv4(&mut self, frame: &[u8], at: usize, validate: Validate) -> Option<()> {
        let fixed = frame.get(at..at + 20)?;
        let header = usize::from(fixed[0] & 15) * 4;
        self.result.set_flag(faf::IPV4);
        self.set_offset(parse::L3_OFFSET, at);
        self.set_offset(parse::IP_LAST_OFFSET, at);
        self.set_offset(parse::IP_PROTOCOL_OFFSET, at + 9);
        let whole = frame.get(at..at + header.max(20))?;
        let total = usize::from(u16_at(frame, at + 2)?);
        if fixed[0] >> 4 != 4 || header < 20 || total < header {
            self.result.set_flag(faf::IP_ERROR);
            return None;
        }
        self.result.set_flag(match fixed[16] {
            224..240 => faf::IPV4_MULTICAST,
            255 => faf::IPV4_BROADCAST,
            _ => faf::IPV4_UNICAST,
        });
        let fragment = u16_at(frame, at + 6)?;
        if fragment & 0x2000 != 0 {
            self.result.set_flag(faf::IP_MORE_FRAGMENTS);
        }
        if fragment & 0x3fff == 0x2000 {
            self.result.set_flag(faf::IP_FIRST_FRAGMENT);
        }
        if header > 20 {
            self.result.set_flag(faf::IP_OPTIONS);
        }
        if validate.l3 {
            self.status |= fas::L3CV;
            if checksum(whole) != 0 {
                self.status |= fas::L3CE;
            }
        }
        let ip = Ip {
            at,
            is_v6: false,
            protocol: fixed[9],
            protocol_at: at + 9,
            payload: at + header,
            end: (at + total).min(frame.len()),
            is_fragment: fragment & 0x3fff != 0,
            is_first: fragment & 0x1fff == 0,
            has_options: header > 20,
        };
        self.summary = summary::IPV4 | if header > 20 { summary::OPTIONS } else { 0 };
        self.ip = Some(ip);
        if at + total > frame.len() {
            return None;
        }
        self.transport(frame, ip, validate)
    }

    fn ipv6(&mut self, frame: &[u8], at: usize, validate: Validate) -> Option<()> {
        let fixed = frame.get(at..at + 40)?;
        self.result.set_flag(faf::IPV6);
        self.set_offset(parse::L3_OFFSET, at);
        self.set_offset(parse::IP_LAST_OFFSET, at);
        self.result.set_flag(if fixed[24] == 0xff { faf::IPV6_MULTICAST } else { faf::IPV6_UNICAST });
        if fixed[0] >> 4 != 6 {
            self.result.set_flag(faf::IP_ERROR);
            return None;
        }
        let total = 40 + usize::from(u16_at(frame, at + 4)?);
        let (mut protocol, mut protocol_at, mut payload) = (fixed[6], at + 6, at + 40);
        let (mut is_fragment, mut is_first) = (false, true);
        // Hop-by-hop, routing, fragment, destination options; each is at least 8 bytes, so the frame bounds the walk.
        while [0, 43, 44, 60].contains(&protocol) {
            let extension = frame.get(payload..payload + 8)?;
            self.result.set_flag(faf::IP_OPTIONS);
            let length = match protocol {
                44 => {
                    let fragment = u16::from_be_bytes([extension[2], extension[3]]);
                    is_fragment = fragment & 0xfff9 != 0;
                    is_first = fragment >> 3 == 0;
                    self.set_offset(parse::FRAGMENT_OFFSET, payload);
                    8
                }
                43 => {
                    self.result.set_flag(faf::IPV6_ROUTING);
                    self.set_offset(parse::ROUTING_1_OFFSET, payload);
                    8 + 8 * usize::from(extension[1])
                }
                _ => 8 + 8 * usize::from(extension[1]),
            };
            protocol = extension[0];
            protocol_at = payload;
            payload += length;
        }
        let has_options = payload > at + 40;
        self.set_offset(parse::IP_PROTOCOL_OFFSET, protocol_at);
        let end = (at + total).min(frame.len());
        let ip =
            Ip { at, is_v6: true, protocol, protocol_at, payload, end, is_fragment, is_first, has_options };
        self.summary = summary::IPV6 | if has_options { summary::OPTIONS } else { 0 };
        if validate.l3 {
            // There is no checksum to be wrong.
            self.status |= fas::L3CV;
        }
        self.ip = Some(ip);
        if at + total > frame.len() {
            return None;
        }
        self.transport(frame, ip, validate)
    }

    fn transport(&mut self, frame: &[u8], ip: Ip, validate: Validate) -> Option<()> {
        self.result.0[..2].copy_from_slice(&u16::from(ip.protocol).to_be_bytes());
        if !ip.is_first {
            return Some(());
        }
        let at = ip.payload;
        let body = frame.get(at..ip.end).unwrap_or_default();
        let (header, flag, summary) = match ip.protocol {
            TCP => (20, faf::TCP, summary::TCP),
            UDP => (8, faf::UDP, summary::UDP),
            SCTP => (12, faf::SCTP, summary::SCTP),
            1 => (8, faf::ICMP, summary::ICMP),
            58 => (4, faf::ICMPV6, summary::ICMP),
            2 => (8, faf::IGMP, 0),
            47 => (4, faf::GRE, 0),
            50 => (8, faf::ESP, 0),
            51 => (12, faf::AH, 0),
            136 => (8, faf::UDP_LITE, 0),
            _ => {
                self.result.set_flag(faf::IP_UNKNOWN_PROTOCOL);
                self.result.set_flag(faf::L3_UNKNOWN);
                return Some(());
            }
        };
        self.result.set_flag(flag);
        self.set_offset(parse::L4_OFFSET, at);
        if body.len() < header {
            return None;
        }
        self.l4 = Some((ip.protocol, at));
        if summary == 0 {
            self.summary = dpaa2_defs::annotation::summary::UNKNOWN;
        } else {
            self.summary |= summary;
        }
        match ip.protocol {
            TCP => {
                self.result.set_flag(faf::L4_UNKNOWN);
                if body[12] >> 4 > 5 {
                    self.result.set_flag(faf::TCP_OPTIONS);
                }
                if body[13] & 0x3f != 0 {
                    self.result.set_flag(faf::TCP_CONTROL_HIGH);
                }
                if body[13] & 0xc0 != 0 || body[12] & 1 != 0 {
                    self.result.set_flag(faf::TCP_CONTROL_LOW);
                }
            }
            UDP => {
                if u16_at(body, 2)? == 2152 && body.len() >= 16 {
                    self.result.set_flag(faf::GTP);
                    self.gtp = Some(at + 8);
                    self.set_offset(parse::L5_OFFSET, at + 8);
                } else {
                    self.result.set_flag(faf::L4_UNKNOWN);
                }
            }
            50 | 51 => {
                self.result.set_flag(faf::IPSEC);
                self.set_offset(parse::L5_OFFSET, at);
            }
            _ => {}
        }
        let has_checksum = ip.protocol == TCP || ip.protocol == UDP && body[6..8] != [0, 0];
        if validate.l4 && has_checksum && !ip.is_fragment {
            self.status |= fas::L4CV;
            if pseudo_header(frame, ip).bytes(body).finish() != 0 {
                self.status |= fas::L4CE;
            }
        }
        Some(())
    }

    /// Id of the outermost VLAN tag.
    pub(crate) fn vlan_id(&self, frame: &[u8]) -> Option<u16> {
        Some(u16_at(frame, self.vlan?.0)? & 0xfff)
    }

    /// The key a configuration makes of this frame, at most [`KEY_BYTES_MAX`] bytes. A header that isn't there gives
    /// zeros (inferred: the sources don't say what hardware gives).
    pub(crate) fn key(&self, frame: &[u8], config: &KeyConfig) -> Vec<u8> {
        let mut key = Vec::with_capacity(KEY_BYTES_MAX);
        for extract in config.extracts().unwrap_or_default() {
            let start = key.len();
            self.extract(frame, extract, &mut key);
            for mask in extract.masks.iter().take(usize::from(extract.mask_count)) {
                if let Some(byte) = key.get_mut(start + usize::from(mask.offset)) {
                    *byte &= mask.mask;
                }
            }
        }
        key.truncate(KEY_BYTES_MAX);
        key
    }

    fn extract(&self, frame: &[u8], extract: &Extract, key: &mut Vec<u8>) {
        let (offset, size) = (usize::from(extract.offset), usize::from(extract.size));
        let mut push = |source: &[u8], from: usize, size: usize| {
            key.extend((from..from + size).map(|i| source.get(i).copied().unwrap_or(0)));
        };
        match extract.kind {
            ExtractKind::DATA => push(frame, offset, size),
            ExtractKind::PARSE => push(&self.result.0, offset, size),
            _ => {
                let field = Field::of(extract.protocol, extract.field.get());
                let at = self.header(extract.protocol);
                match (extract.header_mode, field) {
                    (HeaderMode::FROM_HEADER, _) => {
                        push(at.map_or(&[], |_| frame), at.unwrap_or(0) + offset, size)
                    }
                    (HeaderMode::FROM_FIELD, Some(field)) => {
                        let (from, _) = field.place(self);
                        push(at.map_or(&[], |_| frame), at.unwrap_or(0) + from + offset, size);
                    }
                    (_, Some(field)) => {
                        let (from, size) = field.place(self);
                        let start = at.unwrap_or(0) + from;
                        let mut bytes: Vec<u8> =
                            (start..start + size).map(|i| frame.get(i).copied().unwrap_or(0)).collect();
                        if at.is_none() {
                            bytes.fill(0);
                        }
                        field.trim(&mut bytes);
                        push(&bytes, 0, size);
                    }
                    (_, None) => {}
                }
            }
        }
    }

    /// Where a protocol's header begins.
    fn header(&self, protocol: Protocol) -> Option<usize> {
        let l4 = |numbers: &[u8]| self.l4.filter(|(number, _)| numbers.contains(number)).map(|(_, at)| at);
        match protocol {
            Protocol::ETHERNET => Some(0),
            Protocol::VLAN => self.vlan.map(|(first, _)| first),
            Protocol::IP => self.ip.map(|ip| ip.at),
            Protocol::IPV4 => self.ip.filter(|ip| !ip.is_v6).map(|ip| ip.at),
            Protocol::IPV6 => self.ip.filter(|ip| ip.is_v6).map(|ip| ip.at),
            // Ports are the first words of whichever of these follows: drivers name TCP or UDP for all of them.
            Protocol::TCP | Protocol::UDP | Protocol::UDP_LITE | Protocol::SCTP => l4(&[TCP, UDP, SCTP, 136]),
            Protocol::ICMP => l4(&[1]),
            Protocol::ICMPV6 => l4(&[58]),
            Protocol::IPSEC_ESP => l4(&[50]),
            Protocol::IPSEC_AH => l4(&[51]),
            Protocol::GRE => l4(&[47]),
            Protocol::MPLS => self.mpls,
            Protocol::PPPOE => self.pppoe,
            Protocol::ARP => self.arp,
            Protocol::GTP => self.gtp,
            _ => None,
        }
    }
}

/// Sum of the pseudo-header of TCP and UDP.
fn pseudo_header(frame: &[u8], ip: Ip) -> Sum {
    let addresses = if ip.is_v6 { ip.at + 8..ip.at + 40 } else { ip.at + 12..ip.at + 20 };
    Sum::default().pseudo_header(&frame[addresses], ip.protocol, ip.end - ip.payload)
}

/// A field of a header that keys can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// At an offset, with a length.
    Plain(usize, usize),
    /// Two bytes of which only these bits count.
    Masked(usize, u16),
    /// One byte of which only these bits count, shifted down.
    Bits(usize, u8, u32),
    IpSource,
    IpDestination,
    IpProtocol,
    IpTos,
    Ethertype,
    MplsLabel(usize),
}

impl Field {
    fn of(protocol: Protocol, bits: u32) -> Option<Self> {
        use Field::{Bits, Masked, Plain};
        Some(match (protocol, bits) {
            (Protocol::ETHERNET, field::ETHERNET_DESTINATION) => Plain(0, 6),
            (Protocol::ETHERNET, field::ETHERNET_SOURCE) => Plain(6, 6),
            (Protocol::ETHERNET, field::ETHERNET_TYPE) => Self::Ethertype,
            (Protocol::VLAN, field::VLAN_TCI) => Plain(0, 2),
            (Protocol::VLAN, field::VLAN_ID) => Masked(0, 0x0fff),
            (Protocol::VLAN, field::VLAN_PRIORITY) => Bits(0, 0xe0, 5),
            (Protocol::VLAN, field::VLAN_CFI) => Bits(0, 0x10, 4),
            (Protocol::IP, field::IP_SOURCE) => Self::IpSource,
            (Protocol::IP, field::IP_DESTINATION) => Self::IpDestination,
            (Protocol::IP, field::IP_PROTOCOL) => Self::IpProtocol,
            (Protocol::IP, field::IP_TOS) => Self::IpTos,
            (Protocol::IPV4, field::IPV4_TOS) => Plain(1, 1),
            (Protocol::IPV4, field::IPV4_TOTAL_LENGTH) => Plain(2, 2),
            (Protocol::IPV4, field::IPV4_ID) => Plain(4, 2),
            (Protocol::IPV4, field::IPV4_TTL) => Plain(8, 1),
            (Protocol::IPV4, field::IPV4_PROTOCOL) => Plain(9, 1),
            (Protocol::IPV4, field::IPV4_CHECKSUM) => Plain(10, 2),
            (Protocol::IPV4, field::IPV4_SOURCE) => Plain(12, 4),
            (Protocol::IPV4, field::IPV4_DESTINATION) => Plain(16, 4),
            (Protocol::IPV6, field::IPV6_NEXT_HEADER) => Plain(6, 1),
            (Protocol::IPV6, field::IPV6_HOP_LIMIT) => Plain(7, 1),
            (Protocol::IPV6, field::IPV6_SOURCE) => Plain(8, 16),
            (Protocol::IPV6, field::IPV6_DESTINATION) => Plain(24, 16),
            (Protocol::TCP | Protocol::UDP | Protocol::UDP_LITE | Protocol::SCTP, field::L4_SOURCE_PORT) => {
                Plain(0, 2)
            }
            (
                Protocol::TCP | Protocol::UDP | Protocol::UDP_LITE | Protocol::SCTP,
                field::L4_DESTINATION_PORT,
            ) => Plain(2, 2),
            (Protocol::TCP, field::TCP_FLAGS) => Plain(13, 1),
            (Protocol::TCP, field::TCP_SEQUENCE) => Plain(4, 4),
            (Protocol::TCP, field::TCP_ACKNOWLEDGE) => Plain(8, 4),
            (Protocol::TCP, field::TCP_WINDOW) => Plain(14, 2),
            (Protocol::UDP, field::UDP_LENGTH) => Plain(4, 2),
            (Protocol::UDP, field::UDP_CHECKSUM) => Plain(6, 2),
            (Protocol::SCTP, field::SCTP_TAG) => Plain(4, 4),
            (Protocol::ICMP | Protocol::ICMPV6, field::ICMP_TYPE) => Plain(0, 1),
            (Protocol::ICMP | Protocol::ICMPV6, field::ICMP_CODE) => Plain(1, 1),
            (Protocol::MPLS, field::MPLS_LABEL_1) => Self::MplsLabel(0),
            (Protocol::MPLS, field::MPLS_LABEL_2) => Self::MplsLabel(1),
            (Protocol::MPLS, field::MPLS_LABEL_N) => Self::MplsLabel(2),
            (Protocol::PPPOE, field::PPPOE_SESSION_ID) => Plain(2, 2),
            (Protocol::IPSEC_ESP, field::IPSEC_SPI) => Plain(0, 4),
            (Protocol::IPSEC_AH, field::IPSEC_SPI) => Plain(4, 4),
            (Protocol::GTP, field::GTP_TEID) => Plain(4, 4),
            (Protocol::GRE, field::GRE_TYPE) => Plain(2, 2),
            (Protocol::ARP, field::ARP_OPERATION) => Plain(6, 2),
            (Protocol::ARP, field::ARP_SENDER_IP) => Plain(14, 4),
            (Protocol::ARP, field::ARP_TARGET_IP) => Plain(24, 4),
            _ => return None,
        })
    }

    /// Offset in the header, and length.
    fn place(self, parsed: &Parsed) -> (usize, usize) {
        let is_v6 = parsed.ip.is_some_and(|ip| ip.is_v6);
        match self {
            Self::Plain(offset, size) => (offset, size),
            Self::Masked(offset, _) => (offset, 2),
            Self::Bits(offset, ..) => (offset, 1),
            Self::IpSource => {
                if is_v6 {
                    (8, 16)
                } else {
                    (12, 4)
                }
            }
            Self::IpDestination => {
                if is_v6 {
                    (24, 16)
                } else {
                    (16, 4)
                }
            }
            Self::IpProtocol => (parsed.ip.map_or(0, |ip| ip.protocol_at - ip.at), 1),
            Self::IpTos => (if is_v6 { 0 } else { 1 }, 1),
            Self::Ethertype => (parsed.ethertype, 2),
            Self::MplsLabel(n) => (4 * n, 4),
        }
    }

    /// Leaves only the field's own bits.
    fn trim(self, bytes: &mut [u8]) {
        match (self, bytes) {
            (Self::Masked(_, mask), [high, low]) => {
                let [mask_high, mask_low] = mask.to_be_bytes();
                *high &= mask_high;
                *low &= mask_low;
            }
            (Self::Bits(_, mask, shift), [byte]) => *byte = (*byte & mask) >> shift,
            _ => {}
        }
    }
}

/// Whether the key generator can carry out a configuration.
pub(crate) fn is_supported(config: &KeyConfig) -> bool {
    let Some(extracts) = config.extracts() else { return false };
    extracts.iter().all(|extract| {
        let known = match extract.kind {
            ExtractKind::DATA => extract.size > 0,
            ExtractKind::PARSE => {
                extract.size > 0 && usize::from(extract.offset) + usize::from(extract.size) <= 48
            }
            ExtractKind::HEADER => match extract.header_mode {
                HeaderMode::FROM_HEADER => extract.size > 0,
                HeaderMode::FROM_FIELD | HeaderMode::FULL_FIELD => {
                    Field::of(extract.protocol, extract.field.get()).is_some()
                }
                _ => false,
            },
            _ => false,
        };
        known && extract.mask_count <= 4 && extract.header_index == 0
    })
}

/// Writes the checksums the packet processor generates on transmit.
pub(crate) fn fill_checksums(frame: &mut [u8], l3: bool, l4: bool) {
    let parsed = parse(frame, &[], Validate::default());
    let Some(ip) = parsed.ip.filter(|_| parsed.status & fas::PHE == 0) else { return };
    if l3 && !ip.is_v6 {
        let header = ip.at..ip.payload;
        frame[ip.at + 10..ip.at + 12].fill(0);
        let sum = checksum(&frame[header]);
        frame[ip.at + 10..ip.at + 12].copy_from_slice(&sum.to_be_bytes());
    }
    if let (true, false, Some((protocol @ (TCP | UDP), at))) = (l4, ip.is_fragment, parsed.l4) {
        let place = at + if protocol == TCP { 16 } else { 6 };
        if frame.get(place..place + 2).is_none() || place + 2 > ip.end {
            return;
        }
        frame[place..place + 2].fill(0);
        let sum = pseudo_header(frame, ip).bytes(&frame[at..ip.end]).finish();
        let sum = if protocol == UDP { nonzero(sum) } else { sum };
        frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
}
