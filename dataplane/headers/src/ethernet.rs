//! Ethernet, VLAN tags, ARP.

use std::fmt;
use std::str::FromStr;

use crate::{U16, U32, header};

/// An Ethernet address.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
    zerocopy::Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// The address as the low 48 bits of a number, first byte most significant (as flow keys hold it).
    #[inline(always)]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address in the low 48 bits of `bits`.
    #[inline(always)]
    pub const fn from_u64(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Whether it names a group (broadcast included).
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it is one of 01-80-c2-00-00-00 to -0f, which bridges do not forward (IEEE 802.1Q, table 8-1).
    #[inline]
    pub const fn is_link_reserved(self) -> bool {
        self.to_u64() & !0xf == 0x0180_c200_0000
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not an Ethernet address: six hexadecimal bytes separated by colons are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an Ethernet address is six hexadecimal bytes separated by colons, as in 02:00:00:00:00:01",
        )
    }
}

impl std::error::Error for ParseMacError {}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let mut parts = s.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(MacAddr(bytes)) }
    }
}

/// Smallest value of the type field that is a type; smaller ones are lengths (IEEE 802.3, 3.2.6).
pub const TYPE_MIN: u16 = 0x0600;
/// Stands for the type of frames that have none.
pub const TYPE_NONE: u16 = 0x05ff;
/// Length of the LLC and SNAP header (IEEE 802) with its Ethernet type at the end.
pub const LLC_SNAP_LEN: usize = 8;

/// Ethernet types.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP; also what announces a migrated guest.
    pub const RARP: u16 = 0x8035;
    /// Customer VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Service VLAN tag as used before 802.1ad.
    pub const OLD_SERVICE_VLAN: u16 = 0x9100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;

    /// Whether the type announces a VLAN tag.
    #[inline(always)]
    pub const fn is_vlan(ethertype: u16) -> bool {
        matches!(ethertype, VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN)
    }
}

header! {
    /// Ethernet header.
    Ethernet, 14 {
        /// Destination.
        dst: MacAddr,
        /// Source.
        src: MacAddr,
        /// Type of what follows, or a length below [`TYPE_MIN`].
        ethertype: U16,
    }
}

header! {
    /// What a VLAN tag adds, seen from behind its own type field: control information and the next type.
    VlanTag, 4 {
        /// Priority 3 bits, DEI 1, VLAN id 12.
        tci: U16,
        /// Type of what follows.
        ethertype: U16,
    }
}

impl VlanTag {
    /// VLAN id, 12 bits.
    #[inline]
    pub fn vid(&self) -> u16 {
        self.tci.get() & 0xfff
    }

    /// Priority, 3 bits.
    #[inline]
    pub fn pcp(&self) -> u8 {
        (self.tci.get() >> 13) as u8
    }
}

header! {
    /// ARP for Ethernet and IPv4 (RFC 826).
    Arp, 28 {
        /// Hardware type, 1 for Ethernet.
        hardware_type: U16,
        /// Protocol type, 0x0800 for IPv4.
        protocol_type: U16,
        /// 6 for Ethernet.
        hardware_len: u8,
        /// 4 for IPv4.
        protocol_len: u8,
        /// 1 request, 2 reply, 3 reverse request, 4 reverse reply.
        operation: U16,
        /// Sender hardware address.
        sha: MacAddr,
        /// Sender protocol address.
        spa: U32,
        /// Target hardware address.
        tha: MacAddr,
        /// Target protocol address.
        tpa: U32,
    }
}

impl Arp {
    /// Whether the addresses are those of Ethernet and IPv4, as this layout supposes.
    #[inline]
    pub fn is_ethernet_ipv4(&self) -> bool {
        self.as_bytes()[..6] == [0, 1, 8, 0, 6, 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_parse_and_anything_else_is_refused() {
        let mac: MacAddr = "02:0a:FF:00:10:01".parse().unwrap();
        assert_eq!(mac, MacAddr([2, 10, 255, 0, 16, 1]));
        assert_eq!(mac.to_string(), "02:0a:ff:00:10:01");
        assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        for bad in
            ["", "1:2:3:4:5", "1:2:3:4:5:6:7", "1:2:3:4:5:100", "1:2:3:4:5:+6", "1:2:3:4:5:g", "1:2::4:5:6"]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseMacError), "{bad}");
        }
    }

    #[test]
    fn the_sixteen_link_addresses_are_reserved_and_their_neighbours_are_not() {
        for last in 0..16 {
            assert!(MacAddr([1, 0x80, 0xc2, 0, 0, last]).is_link_reserved());
        }
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 16]).is_link_reserved());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 1, 0]).is_link_reserved());
        assert!(!MacAddr::BROADCAST.is_link_reserved());
    }

    #[test]
    fn a_view_needs_all_its_bytes() {
        assert!(Ethernet::split(&[0; 13]).is_none());
        let (_, rest) = Ethernet::split(&[0; 15]).unwrap();
        assert_eq!(rest.len(), 1);
    }
}
