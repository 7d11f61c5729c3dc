//! The one function that makes a flow key of a frame.
//!
//! What a header says is taken as Open vSwitch takes it (`miniflow_extract` in its `lib/flow.c`): a layer whose
//! lengths contradict each other, or the frame, contributes zeros, and so does all above it; nothing is an
//! error. Two VLAN tags are parsed; a third is the Ethernet type. Beyond [`HEAD_MAX`] bytes a frame is not
//! looked at: an extension header chain longer than that is a broken one.

use headers::{
    Arp, ChainError, Fragment, Icmp, Ipv4, Ipv6, LLC_SNAP_LEN, NdOptions, NeighborDiscovery, Sctp, TYPE_MIN,
    TYPE_NONE, Tcp, Udp, VlanTag, ethertype, icmpv6, protocol, walk_extensions,
};
use packet::HEAD_MAX;

use crate::{FlowKey, PRESENT, frag};

/// Words that only [`KeySlot::extended`] keys have.
const EXTENDED_WORDS: std::ops::Range<usize> = 5..13;

/// Place for the key of a frame, used again for frame after frame.
///
/// What [`extract`] doesn't set is zero: words 5-12 are cleared only when the frame before had them, words
/// 13-17 are nobody's to write here. So an ordinary frame costs five words, not eighteen.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct KeySlot {
    extended: bool,
    key: FlowKey,
}

impl Default for KeySlot {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl KeySlot {
    /// An all-zero key.
    pub const EMPTY: KeySlot = KeySlot { extended: false, key: FlowKey([0; crate::WORDS]) };

    /// The key.
    #[inline(always)]
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Whether words 5-12 may be other than zero (IPv6, ARP).
    #[inline(always)]
    pub fn extended(&self) -> bool {
        self.extended
    }

    #[inline(always)]
    fn store(&mut self, words: [u64; 5]) {
        if self.extended {
            self.clear_extended();
        }
        for (word, value) in self.key.0.iter_mut().zip(words) {
            *word = value;
        }
    }

    #[cold]
    fn clear_extended(&mut self) {
        self.key.0[EXTENDED_WORDS].fill(0);
        self.extended = false;
    }
}

/// Where a frame's layers lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Offset of what follows the Ethernet header, its tags and any SNAP header; 0 in a runt.
    pub l3: u8,
    /// Offset of the transport header, when [`Layers::L4`] is there.
    pub l4: u8,
    /// VLAN tags parsed: 0 to 2.
    pub tags: u8,
    /// Offset of the address in the neighbour discovery option that is in the key; 0 for none.
    pub nd_link_layer: u8,
    /// Which layers are there and whole: [`Layers::IPV4`] and so on.
    pub present: u16,
}

impl Layers {
    /// More of the frame is needed, up to [`HEAD_MAX`] bytes. Nothing else is set, nor is the key.
    pub const MORE: u16 = 1 << 15;
    /// An IPv4 header.
    pub const IPV4: u16 = 1 << 0;
    /// An IPv6 header.
    pub const IPV6: u16 = 1 << 1;
    /// ARP or RARP for Ethernet and IPv4.
    pub const ARP: u16 = 1 << 2;
    /// A TCP header.
    pub const TCP: u16 = 1 << 3;
    /// A UDP header.
    pub const UDP: u16 = 1 << 4;
    /// An SCTP header.
    pub const SCTP: u16 = 1 << 5;
    /// An ICMP header.
    pub const ICMP: u16 = 1 << 6;
    /// An ICMPv6 header.
    pub const ICMPV6: u16 = 1 << 7;
    /// A neighbour solicitation or advertisement, up to its target at least.
    pub const ND: u16 = 1 << 8;
    /// Any transport header of those above.
    pub const L4: u16 = Self::TCP | Self::UDP | Self::SCTP | Self::ICMP | Self::ICMPV6;

    const NEEDS_MORE: Layers = Layers { l3: 0, l4: 0, tags: 0, nd_link_layer: 0, present: Self::MORE };

    /// Whether any of these layers is there.
    #[inline(always)]
    pub fn has(&self, layers: u16) -> bool {
        self.present & layers != 0
    }

    /// Whether the call must be repeated with a longer head. Never true for a head of [`HEAD_MAX`] bytes or of
    /// the whole frame.
    #[inline(always)]
    pub fn needs_more(&self) -> bool {
        self.present & Self::MORE != 0
    }
}

/// Makes the key of a frame of `frame_len` bytes that starts with `head` and came in by `in_port`.
///
/// When the result [needs more](Layers::needs_more), load [`HEAD_MAX`] bytes and call again.
#[inline]
pub fn extract(head: &[u8], frame_len: usize, in_port: u32, slot: &mut KeySlot) -> Layers {
    let untagged = head.first_chunk().and_then(|start| ordinary::<UNTAGGED>(start, frame_len, in_port));
    let ordinary = untagged
        .or_else(|| head.first_chunk().and_then(|start| ordinary::<TAGGED>(start, frame_len, in_port)));
    let Some((words, layers)) = ordinary else { return extract_any(head, frame_len, in_port, slot) };
    slot.store(words);
    layers
}

/// Ethernet, IPv4 without options, TCP: the bytes that an ordinary frame is known by.
const UNTAGGED: usize = 14 + Ipv4::LEN + Tcp::LEN;
/// The same with one tag.
const TAGGED: usize = UNTAGGED + VlanTag::LEN;

/// The key of a whole TCP or UDP packet over IPv4 without options, with one tag or none; `None` for any other
/// frame. Says what [`extract_any`] says, with every offset known beforehand: half the cycles.
#[inline(always)]
fn ordinary<const N: usize>(start: &[u8; N], frame_len: usize, in_port: u32) -> Option<([u64; 5], Layers)> {
    let tags = (N - UNTAGGED) / VlanTag::LEN;
    let l3 = 14 + tags * VlanTag::LEN;
    let (ip, transport) = Ipv4::split(&start[l3..])?;
    let (tcp, _) = Tcp::split(transport)?;
    let (layer, header_len, flags) = match ip.protocol {
        protocol::TCP => (Layers::TCP, Tcp::LEN, tcp.flags()),
        protocol::UDP => (Layers::UDP, Udp::LEN, 0),
        _ => return None,
    };
    let total_len = ip.total_len.get() as usize;
    let is_ordinary = (tags == 0 || start[12..14] == [0x81, 0x00])
        && start[l3 - 2..=l3] == [0x08, 0x00, 0x45]
        && !ip.is_fragment()
        && total_len >= Ipv4::LEN + header_len
        && l3 + total_len <= frame_len.max(N);
    if !is_ordinary {
        return None;
    }
    let dst = be64(start.first_chunk()?);
    let src_type = be64(start[6..].first_chunk()?);
    let tci = if tags == 0 { 0 } else { u16::from_be_bytes([start[14], start[15]]) | PRESENT };
    let words = [
        (in_port as u64) << 32 | (ethertype::IPV4 as u64) << 16 | tci as u64,
        dst & !0xffff,
        src_type & !0xffff | flags as u64,
        network_word(ip.protocol, ip.ttl, ip.tos, 0) | (tcp.src.get() as u64) << 16 | tcp.dst.get() as u64,
        (ip.src.get() as u64) << 32 | ip.dst.get() as u64,
    ];
    let (l4, present) = (l3 + Ipv4::LEN, Layers::IPV4 | layer);
    Some((words, Layers { l3: l3 as u8, l4: l4 as u8, tags: tags as u8, nd_link_layer: 0, present }))
}

/// The general case of [`extract`].
#[inline(never)]
fn extract_any(head: &[u8], frame_len: usize, in_port: u32, slot: &mut KeySlot) -> Layers {
    let frame = Frame::new(head, frame_len);
    let Ok((mut words, link)) = frame.link(in_port) else { return Layers::NEEDS_MORE };
    let l3 = link.end as usize;
    let mut layers = Layers { l3: link.end, tags: link.tags, ..Layers::default() };
    let more = match link.ethertype {
        ethertype::IPV4 => frame.ipv4(l3, &mut words, &mut layers),
        ethertype::IPV6 => return frame.ipv6(l3, words, layers, slot),
        ethertype::ARP | ethertype::RARP => return frame.arp(l3, words, layers, slot),
        _ => Ok(()),
    };
    if more.is_err() {
        return Layers::NEEDS_MORE;
    }
    slot.store(words);
    layers
}

/// As [`extract`] for pipelines that look at nothing above the Ethernet header and its tags: the input port,
/// Ethernet and VLAN fields are the same, all others zero.
#[inline]
pub fn extract_l2(head: &[u8], frame_len: usize, in_port: u32, slot: &mut KeySlot) -> Layers {
    let frame = Frame::new(head, frame_len);
    let Ok((words, link)) = frame.link(in_port) else { return Layers::NEEDS_MORE };
    slot.store(words);
    Layers { l3: link.end, tags: link.tags, ..Layers::default() }
}

/// Runs [`extract`] on arbitrary bytes and checks what it promises: a fuzz target.
///
/// # Panics
/// When a promise is broken.
pub fn fuzz_extract(data: &[u8]) {
    let (mut slot, mut short_slot) = (KeySlot::EMPTY, KeySlot::EMPTY);
    let head = &data[..data.len().min(HEAD_MAX)];
    let layers = extract(head, data.len(), 7, &mut slot);
    assert!(!layers.needs_more(), "the longest head is enough");
    assert!(layers.l3 as usize <= head.len() && layers.l4 as usize <= head.len());
    assert!(slot.key.0[13..].iter().all(|&w| w == 0), "the pipeline's words");
    assert!(slot.extended || slot.key.0[EXTENDED_WORDS].iter().all(|&w| w == 0));
    let mut l2_slot = slot.clone();
    let l2 = extract_l2(head, data.len(), 7, &mut l2_slot);
    assert_eq!((l2.l3, l2.tags), (layers.l3, layers.tags));
    let mut expected = [slot.key.0[0], slot.key.0[1], slot.key.0[2] & !0xffff].to_vec();
    expected.resize(crate::WORDS, 0);
    assert_eq!(l2_slot.key.0[..], expected[..]);
    for len in (0..head.len()).rev() {
        // The slot still holds the key made from the longer head: what it must not leave behind.
        let short = extract(&head[..len], data.len(), 7, &mut short_slot);
        if !short.needs_more() {
            assert_eq!(
                (short, short_slot.key),
                (layers, slot.key),
                "a head of {len} bytes claims to be enough"
            );
        }
    }
}

/// A longer head is needed.
struct NeedsMore;

struct Frame<'a> {
    head: &'a [u8],
    len: usize,
}

/// What stands between the addresses and the network layer. Small enough to be returned in a register: through
/// memory, the stores of its fields and the loads of the whole would wait for each other.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Link {
    ethertype: u16,
    tci: [u16; 2],
    /// Offset of the network layer.
    end: u8,
    tags: u8,
}

impl Link {
    const NEEDS_MORE: Link = Link { ethertype: 0, tci: [0; 2], end: 0, tags: 0 };
}

#[inline(always)]
fn be64(bytes: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*bytes)
}

#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn new(head: &'a [u8], frame_len: usize) -> Self {
        Self { head: &head[..head.len().min(HEAD_MAX)], len: frame_len.max(head.len()) }
    }

    /// Whether a longer head could be had.
    #[inline(always)]
    fn is_cut(&self) -> bool {
        self.head.len() < self.len && self.head.len() < HEAD_MAX
    }

    /// For bytes that the frame has but not the head: whether to ask for them or to do without.
    #[inline]
    fn do_without(&self) -> Result<(), NeedsMore> {
        if self.is_cut() { Err(NeedsMore) } else { Ok(()) }
    }

    /// Words 0 to 2 (two zeros behind) and where the network layer is.
    #[inline(always)]
    fn link(&self, in_port: u32) -> Result<([u64; 5], Link), NeedsMore> {
        let port = (in_port as u64) << 32;
        let Some(start) = self.head.first_chunk::<14>() else {
            if self.len >= 14 {
                self.do_without()?;
            }
            return Ok(([port, 0, 0, 0, 0], Link::default()));
        };
        // Two overlapping loads hold all fields: destination and two bytes, source and type.
        let dst = be64(start.first_chunk().expect("14 bytes have 8"));
        let src_type = be64(start.last_chunk().expect("14 bytes have 8"));
        let ethertype = src_type as u16;
        let link = if ethertype >= TYPE_MIN && !ethertype::is_vlan(ethertype) {
            Link { ethertype, end: 14, ..Link::default() }
        } else {
            let link = self.tags(ethertype);
            if link.end == Link::NEEDS_MORE.end {
                return Err(NeedsMore);
            }
            link
        };
        let first = port | (link.ethertype as u64) << 16 | link.tci[0] as u64;
        Ok(([first, dst & !0xffff | link.tci[1] as u64, src_type & !0xffff, 0, 0], link))
    }

    /// Tags, and the type behind them or in a SNAP header; or [`Link::NEEDS_MORE`].
    #[inline(never)]
    fn tags(&self, ethertype: u16) -> Link {
        let mut link = Link { ethertype, end: 14, ..Link::default() };
        while ethertype::is_vlan(link.ethertype) && (link.tags as usize) < link.tci.len() {
            let end = link.end as usize;
            let Some((tag, _)) = VlanTag::split(&self.head[end..]) else {
                if end + VlanTag::LEN <= self.len && self.is_cut() {
                    return Link::NEEDS_MORE;
                }
                break;
            };
            link.tci[link.tags as usize] = tag.tci.get() | PRESENT;
            link.ethertype = tag.ethertype.get();
            link.tags += 1;
            link.end += VlanTag::LEN as u8;
        }
        if link.ethertype < TYPE_MIN {
            // A length: the type is in the SNAP header, if there is one.
            link.ethertype = TYPE_NONE;
            let end = link.end as usize;
            match part::<LLC_SNAP_LEN>(self.head, end) {
                Some(&[0xaa, 0xaa, 0x03, 0, 0, 0, a, b]) if u16::from_be_bytes([a, b]) >= TYPE_MIN => {
                    link.ethertype = u16::from_be_bytes([a, b]);
                    link.end += LLC_SNAP_LEN as u8;
                }
                None if end + LLC_SNAP_LEN <= self.len && self.is_cut() => return Link::NEEDS_MORE,
                _ => {}
            }
        }
        link
    }

    #[inline(always)]
    fn ipv4(&self, l3: usize, words: &mut [u64; 5], layers: &mut Layers) -> Result<(), NeedsMore> {
        let available = self.len - l3;
        let rest = &self.head[l3..];
        let Some((ip, _)) = Ipv4::split(rest) else {
            return if available >= Ipv4::LEN { self.do_without() } else { Ok(()) };
        };
        if !ip.is_sane(available) {
            return Ok(());
        }
        layers.present |= Layers::IPV4;
        words[4] = (ip.src.get() as u64) << 32 | ip.dst.get() as u64;
        let fragment = match (ip.is_fragment(), ip.is_later_fragment()) {
            (false, _) => 0,
            (true, false) => frag::ANY,
            (true, true) => frag::ANY | frag::LATER,
        };
        words[3] = network_word(ip.protocol, ip.ttl, ip.tos, fragment);
        if fragment & frag::LATER != 0 {
            return Ok(());
        }
        let header_len = ip.header_len();
        let transport_len = ip.total_len.get() as usize - header_len;
        self.transport(ip.protocol, l3 + header_len, transport_len, words, layers)
    }

    #[inline(always)]
    fn transport(
        &self,
        protocol: u8,
        l4: usize,
        len: usize,
        words: &mut [u64; 5],
        layers: &mut Layers,
    ) -> Result<(), NeedsMore> {
        // What is read of the header, and how much of it must be in the packet to count.
        let (read, header_len, layer) = match protocol {
            protocol::TCP => (14, Tcp::LEN, Layers::TCP),
            protocol::UDP => (4, Udp::LEN, Layers::UDP),
            protocol::SCTP => (4, Sctp::LEN, Layers::SCTP),
            protocol::ICMP => (2, 8, Layers::ICMP),
            protocol::ICMPV6 => (2, Icmp::LEN, Layers::ICMPV6),
            _ => return Ok(()),
        };
        if len < header_len {
            return Ok(());
        }
        let Some(bytes) = self.head.get(l4..l4 + read) else { return self.do_without() };
        match layer {
            Layers::ICMP | Layers::ICMPV6 => words[3] |= (bytes[0] as u64) << 16 | bytes[1] as u64,
            _ => words[3] |= u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as u64,
        }
        if layer == Layers::TCP {
            words[2] |= (u16::from_be_bytes([bytes[12], bytes[13]]) & 0xfff) as u64;
        }
        layers.l4 = l4 as u8;
        layers.present |= layer;
        Ok(())
    }

    #[inline(never)]
    fn ipv6(&self, l3: usize, mut words: [u64; 5], mut layers: Layers, slot: &mut KeySlot) -> Layers {
        let available = self.len - l3;
        let Some((ip, rest)) = Ipv6::split(&self.head[l3..]) else {
            if available >= Ipv6::LEN && self.is_cut() {
                return Layers::NEEDS_MORE;
            }
            slot.store(words);
            return layers;
        };
        if !ip.is_sane(available) {
            slot.store(words);
            return layers;
        }
        layers.present |= Layers::IPV6;
        let payload_len = ip.payload_len.get() as usize;
        let payload = &rest[..rest.len().min(payload_len)];
        let mut neighbor = Neighbor::default();
        match walk_extensions(payload, payload_len, ip.next_header) {
            Ok(chain) => {
                let fragment = match chain.fragment {
                    Fragment::None => 0,
                    Fragment::First => frag::ANY,
                    Fragment::Later => frag::ANY | frag::LATER,
                };
                words[3] = network_word(chain.protocol, ip.hop_limit, ip.traffic_class(), fragment);
                let l4 = l3 + Ipv6::LEN + chain.len;
                let len = payload_len - chain.len;
                if fragment & frag::LATER == 0
                    && self.transport(chain.protocol, l4, len, &mut words, &mut layers).is_err()
                {
                    return Layers::NEEDS_MORE;
                }
                if layers.has(Layers::ICMPV6) {
                    let Ok(found) = self.neighbor(l4, len) else { return Layers::NEEDS_MORE };
                    neighbor = found;
                }
            }
            Err(ChainError::NeedsMore) if self.is_cut() => return Layers::NEEDS_MORE,
            Err(_) => {}
        }
        if neighbor.is_there {
            layers.present |= Layers::ND;
            layers.nd_link_layer = neighbor.link_layer_at;
        }
        slot.store(words);
        let (src, dst) = (halves(&ip.src), halves(&ip.dst));
        let target = halves(&neighbor.target);
        let extended = [src[0], src[1], dst[0], dst[1], target[0], target[1], neighbor.sll, neighbor.tll];
        slot.key.0[EXTENDED_WORDS].copy_from_slice(&extended);
        slot.extended = true;
        layers
    }

    /// Neighbour discovery in the ICMPv6 message of `len` bytes at `l4`.
    fn neighbor(&self, l4: usize, len: usize) -> Result<Neighbor, NeedsMore> {
        let mut found = Neighbor::default();
        let message = &self.head[l4..self.head.len().min(l4 + len)];
        let Some((icmp, _)) = Icmp::split(message) else { return self.do_without().map(|()| found) };
        let wanted = match (icmp.kind, icmp.code) {
            (icmpv6::NEIGHBOR_SOLICITATION, 0) => icmpv6::SOURCE_LINK_LAYER,
            (icmpv6::NEIGHBOR_ADVERTISEMENT, 0) => icmpv6::TARGET_LINK_LAYER,
            _ => return Ok(found),
        };
        if message.len() < len {
            self.do_without()?;
        }
        let Some((nd, options)) = NeighborDiscovery::split(message) else { return Ok(found) };
        let mut address = 0;
        for option in NdOptions::new(options).filter(|o| o.kind == wanted) {
            let Some(link_layer) = option.link_layer() else { continue };
            if address != 0 {
                // The same option twice: Open vSwitch disbelieves the whole message.
                return Ok(found);
            }
            address = link_layer.to_u64() << 16;
            found.link_layer_at = (l4 + NeighborDiscovery::LEN + option.offset + 2) as u8;
        }
        found.is_there = true;
        found.target = nd.target;
        *(if wanted == icmpv6::SOURCE_LINK_LAYER { &mut found.sll } else { &mut found.tll }) = address;
        Ok(found)
    }

    #[inline(never)]
    fn arp(&self, l3: usize, mut words: [u64; 5], mut layers: Layers, slot: &mut KeySlot) -> Layers {
        let arp = match Arp::split(&self.head[l3..]) {
            Some((arp, _)) if arp.is_ethernet_ipv4() => arp,
            None if self.len - l3 >= Arp::LEN && self.is_cut() => return Layers::NEEDS_MORE,
            _ => {
                slot.store(words);
                return layers;
            }
        };
        layers.present |= Layers::ARP;
        // Operations past 255 don't fit the field; as in Open vSwitch they are 0.
        words[3] = (u8::try_from(arp.operation.get()).unwrap_or(0) as u64) << 56;
        words[4] = (arp.spa.get() as u64) << 32 | arp.tpa.get() as u64;
        slot.store(words);
        slot.key.0[11] = arp.sha.to_u64() << 16;
        slot.key.0[12] = arp.tha.to_u64() << 16;
        slot.extended = true;
        layers
    }
}

#[derive(Default)]
struct Neighbor {
    is_there: bool,
    target: [u8; 16],
    sll: u64,
    tll: u64,
    link_layer_at: u8,
}

#[inline(always)]
fn network_word(protocol: u8, ttl: u8, tos: u8, fragment: u8) -> u64 {
    (protocol as u64) << 56 | (ttl as u64) << 48 | (tos as u64) << 40 | (fragment as u64) << 32
}

fn halves(address: &[u8; 16]) -> [u64; 2] {
    let bits = u128::from_be_bytes(*address);
    [(bits >> 64) as u64, bits as u64]
}
