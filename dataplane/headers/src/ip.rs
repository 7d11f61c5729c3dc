//! IPv4, IPv6 and its extension headers.

use crate::{U16, U32, header};

/// IP protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

header! {
    /// IPv4 header (RFC 791) without options.
    Ipv4, 20 {
        /// Version 4 bits, header length in 32-bit words 4 bits.
        version_ihl: u8,
        /// DSCP 6 bits, ECN 2 bits.
        tos: u8,
        /// Header and payload in bytes.
        total_len: U16,
        /// Identification.
        id: U16,
        /// Flags 3 bits ([`Ipv4::DF`], [`Ipv4::MF`]), fragment offset 13 bits in units of 8 bytes.
        flags_offset: U16,
        /// Time to live.
        ttl: u8,
        /// See [`protocol`].
        protocol: u8,
        /// Header checksum.
        checksum: U16,
        /// Source.
        src: U32,
        /// Destination.
        dst: U32,
    }
}

impl Ipv4 {
    /// Do not fragment.
    pub const DF: u16 = 0x4000;
    /// More fragments follow.
    pub const MF: u16 = 0x2000;

    /// Header length in bytes as the header says it, options included: 0 to 60.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        (self.version_ihl & 0xf) as usize * 4
    }

    /// Bytes of options. `None` when the header says it is shorter than the 20 bytes it has at least.
    #[inline]
    pub fn options_len(&self) -> Option<usize> {
        self.header_len().checked_sub(Self::LEN)
    }

    /// Whether version and lengths fit each other and `available` bytes (from the header's start).
    #[inline(always)]
    pub fn is_sane(&self, available: usize) -> bool {
        let (header, total) = (self.header_len(), self.total_len.get() as usize);
        self.version_ihl >> 4 == 4 && header >= Self::LEN && header <= total && total <= available
    }

    /// Whether it is a fragment (first, middle or last).
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.flags_offset.get() & 0x3fff != 0
    }

    /// Whether it is a fragment that is not the first.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.flags_offset.get() & 0x1fff != 0
    }
}

header! {
    /// IPv6 header (RFC 8200).
    Ipv6, 40 {
        /// Version 4 bits, traffic class 8, flow label 20.
        version_class_label: U32,
        /// Bytes after this header.
        payload_len: U16,
        /// See [`protocol`].
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source.
        src: [u8; 16],
        /// Destination.
        dst: [u8; 16],
    }
}

impl Ipv6 {
    /// DSCP 6 bits, ECN 2 bits.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    /// Writes the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let other = self.version_class_label.get() & !(0xff << 20);
        self.version_class_label = (other | (class as u32) << 20).into();
    }

    /// Whether version and length fit `available` bytes (from the header's start).
    #[inline(always)]
    pub fn is_sane(&self, available: usize) -> bool {
        self.version_class_label.get() >> 28 == 6 && Self::LEN + self.payload_len.get() as usize <= available
    }
}

/// What an IPv6 fragment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// There is no such header, or it describes a whole packet (RFC 6946).
    None,
    /// The first of several.
    First,
    /// One without the start of the payload.
    Later,
}

/// Where a chain of extension headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of what follows; [`protocol::FRAGMENT`] for a later fragment, of which more can't be known.
    pub protocol: u8,
    /// Length of all extension headers in bytes.
    pub len: usize,
    /// Fragmentation.
    pub fragment: Fragment,
}

/// Why a chain has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// The bytes end inside the chain, and the packet's payload with them.
    Broken,
    /// The chain goes on in the packet, but past the bytes that are there.
    NeedsMore,
}

/// Walks IPv6 extension headers (RFC 8200 section 4: hop-by-hop, routing, destination options, authentication,
/// fragment). `bytes` starts behind the fixed header; `payload_len` is what the packet has there in all.
///
/// At most `bytes.len() / 8` steps.
///
/// # Errors
/// [`ChainError`] says which bytes are missing.
#[inline]
pub fn walk_extensions(bytes: &[u8], payload_len: usize, next_header: u8) -> Result<Chain, ChainError> {
    let mut chain = Chain { protocol: next_header, len: 0, fragment: Fragment::None };
    loop {
        let unit = match chain.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::FRAGMENT => {
                8
            }
            protocol::AH => 4,
            _ => return Ok(chain),
        };
        let Some(start) = bytes.get(chain.len..).and_then(|b| b.first_chunk::<8>()) else {
            return Err(missing(chain.len + 8, payload_len));
        };
        if chain.protocol == protocol::FRAGMENT {
            let offset_more = u16::from_be_bytes([start[2], start[3]]) & 0xfff9;
            if offset_more >> 3 != 0 {
                chain.fragment = Fragment::Later;
                return Ok(Chain { len: chain.len + 8, ..chain });
            }
            if offset_more != 0 {
                chain.fragment = Fragment::First;
            }
            chain.len += 8;
        } else {
            // Length fields: 8-byte units beyond the first; for AH, 4-byte units minus 2.
            let units = start[1] as usize + if unit == 8 { 1 } else { 2 };
            chain.len += units * unit;
        }
        if chain.len > bytes.len() {
            return Err(missing(chain.len, payload_len));
        }
        chain.protocol = start[0];
    }
}

fn missing(end: usize, payload_len: usize) -> ChainError {
    if end <= payload_len { ChainError::NeedsMore } else { ChainError::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_headers_are_walked_to_the_transport() {
        let mut bytes = [0u8; 8 + 16 + 12 + 8];
        bytes[0] = protocol::ROUTING;
        bytes[8] = protocol::AH;
        bytes[9] = 1;
        bytes[24] = protocol::FRAGMENT;
        bytes[25] = 1;
        bytes[36] = protocol::TCP;
        bytes[39] = 1;
        let chain = walk_extensions(&bytes, 100, protocol::HOP_BY_HOP);
        assert_eq!(chain, Ok(Chain { protocol: protocol::TCP, len: 44, fragment: Fragment::First }));
        bytes[38] = 0x10;
        let chain = walk_extensions(&bytes, 100, protocol::HOP_BY_HOP);
        assert_eq!(chain, Ok(Chain { protocol: protocol::FRAGMENT, len: 44, fragment: Fragment::Later }));
    }

    #[test]
    fn a_chain_past_the_bytes_is_told_from_one_past_the_packet() {
        let bytes = [protocol::TCP, 3, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk_extensions(&bytes, 32, protocol::HOP_BY_HOP), Err(ChainError::NeedsMore));
        assert_eq!(walk_extensions(&bytes, 31, protocol::HOP_BY_HOP), Err(ChainError::Broken));
        assert_eq!(walk_extensions(&[], 0, protocol::AH), Err(ChainError::Broken));
        assert_eq!(walk_extensions(&[], 0, protocol::UDP).unwrap().len, 0);
    }

    #[test]
    fn an_atomic_fragment_is_no_fragment() {
        let chain = walk_extensions(&[protocol::UDP, 0, 0, 0, 1, 2, 3, 4], 8, protocol::FRAGMENT).unwrap();
        assert_eq!(chain, Chain { protocol: protocol::UDP, len: 8, fragment: Fragment::None });
    }

    #[test]
    fn an_ipv4_header_must_fit_itself_and_the_frame() {
        let mut bytes = [0u8; 20];
        (bytes[0], bytes[3]) = (0x45, 28);
        let sane = |b: &[u8; 20], n| Ipv4::split(b).unwrap().0.is_sane(n);
        assert!(sane(&bytes, 28));
        assert!(!sane(&bytes, 27), "longer than the frame");
        bytes[0] = 0x44;
        assert!(!sane(&bytes, 28), "header shorter than 20");
        bytes[0] = 0x48;
        assert!(!sane(&bytes, 28), "header longer than the packet");
        bytes[0] = 0x65;
        assert!(!sane(&bytes, 28), "not version 4");
    }
}
