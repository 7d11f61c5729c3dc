//! The key's layout.
//!
//! Order is design: words 0-4 hold everything an IPv4 or plain Ethernet frame has, so the common case touches
//! 40 bytes; words 5-12 are for IPv6, ARP and neighbour discovery, the rest is what only the pipeline sets.
//!
//! ```text
//! word  0  in_port 32 | eth_type 16 | vlan_tci 16        (tci: pcp 3, present 1, vid 12; 0 = untagged)
//!       1  eth_dst 48 | vlan_tci2 16                     (inner tag of QinQ)
//!       2  eth_src 48 | tcp_flags 16
//!       3  ip_proto 8 | ip_ttl 8 | ip_tos 8 | ip_frag 8 | tp_src 16 | tp_dst 16   (proto: low 8 bits of arp_op)
//!       4  ipv4_src 32 | ipv4_dst 32                     (arp_spa, arp_tpa for ARP)
//!     5,6  ipv6_src        7,8  ipv6_dst        9,10  nd_target
//!      11  arp_sha / nd_sll 48 | 0
//!      12  arp_tha / nd_tll 48 | 0
//!      13  metadata       14..17  reg0-reg7, two a word
//! ```
//!
//! The first field named stands in the most significant bits. Values are numbers in host order. ICMP type and
//! code are in `tp_src` and `tp_dst`.

/// Words in a key.
pub const WORDS: usize = 18;

/// In a VLAN TCI: a tag is there (the place of the DEI bit, as in OpenFlow's `OFPVID_PRESENT`).
pub const PRESENT: u16 = 0x1000;

/// Values of [`Field::IpFrag`].
pub mod frag {
    /// The frame is a fragment.
    pub const ANY: u8 = 1;
    /// It is not the first one (so it has no ports).
    pub const LATER: u8 = 2;
}

/// What a frame is, for the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey(pub [u64; WORDS]);

/// Which bits of a key matter. The same layout; a set bit is one that is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowMask(pub [u64; WORDS]);

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal, $shift:literal, $bits:literal;)+) => {
        /// A range of bits in a key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Field { $($(#[doc = $doc])+ $variant,)+ }

        impl Field {
            /// Every field once, in key order; aliases of the same bits (ARP, ICMP, ND names) are not fields.
            pub const ALL: &'static [Field] = &[$(Field::$variant,)+];

            /// First word, shift of the lowest bit in it, width in bits. 128-bit fields take two words, the
            /// more significant first.
            pub const fn place(self) -> (usize, u32, u32) {
                match self { $(Field::$variant => ($word, $shift, $bits),)+ }
            }
        }
    };
}

fields! {
    /// Number of the port the frame came in by.
    InPort = 0, 32, 32;
    /// Ethernet type after any VLAN tags; 802.3 frames without SNAP have 0x05ff.
    EthType = 0, 16, 16;
    /// Outer VLAN tag, 0 or with [`PRESENT`].
    VlanTci = 0, 0, 16;
    /// Destination address.
    EthDst = 1, 16, 48;
    /// Inner VLAN tag, 0 or with [`PRESENT`].
    VlanTci2 = 1, 0, 16;
    /// Source address.
    EthSrc = 2, 16, 48;
    /// TCP flags, 12 bits.
    TcpFlags = 2, 0, 16;
    /// IP protocol; for ARP the operation's low 8 bits.
    IpProto = 3, 56, 8;
    /// TTL or hop limit.
    IpTtl = 3, 48, 8;
    /// DSCP (6 bits) and ECN (2 bits).
    IpTos = 3, 40, 8;
    /// See [`frag`].
    IpFrag = 3, 32, 8;
    /// TCP, UDP or SCTP source port; ICMP type.
    TpSrc = 3, 16, 16;
    /// TCP, UDP or SCTP destination port; ICMP code.
    TpDst = 3, 0, 16;
    /// IPv4 source, ARP sender protocol address.
    Ipv4Src = 4, 32, 32;
    /// IPv4 destination, ARP target protocol address.
    Ipv4Dst = 4, 0, 32;
    /// IPv6 source.
    Ipv6Src = 5, 0, 128;
    /// IPv6 destination.
    Ipv6Dst = 7, 0, 128;
    /// Neighbour discovery target.
    NdTarget = 9, 0, 128;
    /// ARP sender hardware address; ND source link-layer address.
    ArpSha = 11, 16, 48;
    /// ARP target hardware address; ND target link-layer address.
    ArpTha = 12, 16, 48;
    /// Metadata, set by the pipeline.
    Metadata = 13, 0, 64;
    /// Register 0.
    Reg0 = 14, 32, 32;
    /// Register 1.
    Reg1 = 14, 0, 32;
    /// Register 2.
    Reg2 = 15, 32, 32;
    /// Register 3.
    Reg3 = 15, 0, 32;
    /// Register 4.
    Reg4 = 16, 32, 32;
    /// Register 5.
    Reg5 = 16, 0, 32;
    /// Register 6.
    Reg6 = 17, 32, 32;
    /// Register 7.
    Reg7 = 17, 0, 32;
}

impl Field {
    /// All ones in the field's width.
    pub const fn full(self) -> u128 {
        let (_, _, bits) = self.place();
        if bits == 128 { u128::MAX } else { (1 << bits) - 1 }
    }
}

#[inline]
fn get(words: &[u64; WORDS], field: Field) -> u128 {
    let (word, shift, bits) = field.place();
    if bits == 128 {
        (words[word] as u128) << 64 | words[word + 1] as u128
    } else {
        (words[word] >> shift) as u128 & field.full()
    }
}

#[inline]
fn set(words: &mut [u64; WORDS], field: Field, value: u128) {
    let (word, shift, bits) = field.place();
    if bits == 128 {
        words[word] = (value >> 64) as u64;
        words[word + 1] = value as u64;
    } else {
        let full = field.full() as u64;
        words[word] = words[word] & !(full << shift) | (value as u64 & full) << shift;
    }
}

impl FlowKey {
    /// The field's value.
    #[inline]
    pub fn get(&self, field: Field) -> u128 {
        get(&self.0, field)
    }

    /// Sets the field; bits beyond its width are ignored.
    #[inline]
    pub fn set(&mut self, field: Field, value: u128) {
        set(&mut self.0, field, value);
    }

    /// The bits that `mask` selects, the others zero.
    #[inline]
    pub fn masked(&self, mask: &FlowMask) -> FlowKey {
        FlowKey(std::array::from_fn(|w| self.0[w] & mask.0[w]))
    }

    /// A hash over addresses, protocol and ports: the same for all frames of a flow.
    #[inline]
    pub fn flow_hash(&self) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        // Protocol and ports without TTL, TOS and fragment bits; addresses of all layers, without the bits beside them.
        let words = [self.0[1] >> 16, self.0[2] >> 16, self.0[3] & 0xff00_0000_ffff_ffff, self.0[4]];
        let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
        let mut hash = words.into_iter().fold(0, mix);
        if self.0[5] | self.0[7] != 0 {
            hash = self.0[5..9].iter().fold(hash, |hash, &word| mix(hash, word));
        }
        (hash >> 32) as u32
    }

    /// Whether the selected bits are those of `other` (which is masked already).
    #[inline]
    pub fn matches(&self, other: &FlowKey, mask: &FlowMask) -> bool {
        (0..WORDS).all(|w| (self.0[w] & mask.0[w]) == other.0[w])
    }
}

impl FlowMask {
    /// The field's mask.
    #[inline]
    pub fn get(&self, field: Field) -> u128 {
        get(&self.0, field)
    }

    /// Adds these bits of the field.
    #[inline]
    pub fn add(&mut self, field: Field, bits: u128) {
        let old = get(&self.0, field);
        set(&mut self.0, field, old | bits);
    }

    /// Adds all bits of another mask.
    #[inline]
    pub fn union(&mut self, other: &FlowMask) {
        for w in 0..WORDS {
            self.0[w] |= other.0[w];
        }
    }

    /// Whether it selects nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    /// Whether every bit of `other` is in this mask.
    pub fn contains(&self, other: &FlowMask) -> bool {
        (0..WORDS).all(|w| other.0[w] & !self.0[w] == 0)
    }
}

/// The Ethernet types under which the field means something; empty for all.
pub fn prerequisite(field: Field) -> &'static [u16] {
    use Field::*;
    match field {
        IpProto | Ipv4Src | Ipv4Dst | IpTtl | IpTos | IpFrag | TpSrc | TpDst | TcpFlags => {
            &[0x0800, 0x86dd, 0x0806]
        }
        Ipv6Src | Ipv6Dst | NdTarget => &[0x86dd],
        ArpSha | ArpTha => &[0x0806, 0x86dd],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap_and_fill_what_the_layout_says() {
        let mut all = FlowMask::default();
        for &field in Field::ALL {
            assert_eq!(all.get(field), 0, "{field:?} overlaps an earlier field");
            all.add(field, field.full());
            assert_eq!(all.get(field), field.full());
        }
        let unused: u32 = all.0.iter().map(|w| w.count_zeros()).sum();
        assert_eq!(unused, 32, "the two spare halves behind arp_sha and arp_tha");
    }

    #[test]
    fn the_hash_of_a_flow_depends_on_addresses_protocol_and_ports_only() {
        for &field in Field::ALL {
            let mut key = FlowKey([0x0123_4567_89ab_cdef; WORDS]);
            let before = key.flow_hash();
            key.set(field, key.get(field) ^ 1);
            let counts =
                matches!(field, Field::EthSrc | Field::EthDst | Field::IpProto | Field::TpSrc | Field::TpDst)
                    || matches!(field, Field::Ipv4Src | Field::Ipv4Dst | Field::Ipv6Src | Field::Ipv6Dst);
            assert_eq!(key.flow_hash() != before, counts, "{field:?}");
        }
    }

    #[test]
    fn setting_a_field_changes_that_field_only() {
        for &field in Field::ALL {
            let mut key = FlowKey([u64::MAX; WORDS]);
            key.set(field, 0);
            for &other in Field::ALL {
                assert_eq!(key.get(other), if other == field { 0 } else { other.full() });
            }
        }
    }
}
