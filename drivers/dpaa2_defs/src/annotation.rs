//! The hardware annotation of a buffer: frame annotation status, timestamp, parse results, egress action.
//!
//! It starts at ADDR plus the size of the software annotation. Source: DPDK's `dpaa2_hw_dpni_annot.h`, Linux'
//! `dpaa2-eth.h`.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of hardware annotation on receive.
pub const RX_ANNOTATION_BYTES: usize = 64;
/// Bytes of hardware annotation on transmit.
pub const TX_ANNOTATION_BYTES: usize = 128;

/// What receive writes: 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RxAnnotation {
    /// Status, policer and interface profile.
    pub fas: Fas,
    /// Nanoseconds.
    pub timestamp: U64,
    /// Parse results.
    pub parse: ParseResultWords,
}
const _: () = assert!(size_of::<RxAnnotation>() == RX_ANNOTATION_BYTES);
const _: () = assert!(core::mem::offset_of!(RxAnnotation, parse) == 0x10);

/// Frame annotation status, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Fas {
    /// Reserved.
    pub reserved: u8,
    /// Policer profile id.
    pub ppid: u8,
    /// Interface profile id.
    pub ifpid: U16,
    /// Status: the bits of module [`fas`].
    pub status: U32,
}
const _: () = assert!(size_of::<Fas>() == 8);

/// Bits of the frame annotation status; the error mask of "set errors behaviour" uses the same.
pub mod fas {
    /// Would have been discarded, but went to the error queue.
    pub const DISC: u32 = 0x8000_0000;
    /// MACsec frame.
    pub const MS: u32 = 0x4000_0000;
    /// PTP frame.
    pub const PTP: u32 = 0x0800_0000;
    /// Layer 2 multicast.
    pub const MC: u32 = 0x0400_0000;
    /// Layer 2 broadcast.
    pub const BC: u32 = 0x0200_0000;
    /// Key size error.
    pub const KSE: u32 = 0x0004_0000;
    /// Extract out of the frame's header.
    pub const EOFHE: u32 = 0x0002_0000;
    /// Too many chained look-ups.
    pub const MNLE: u32 = 0x0001_0000;
    /// Invalid table id.
    pub const TIDE: u32 = 0x0000_8000;
    /// Policer initialisation entry error.
    pub const PIEE: u32 = 0x0000_4000;
    /// Frame length error.
    pub const FLE: u32 = 0x0000_2000;
    /// Frame physical error (CRC and the like).
    pub const FPE: u32 = 0x0000_1000;
    /// Parser time exceeded.
    pub const PTE: u32 = 0x0000_0080;
    /// Invalid soft parser instruction.
    pub const ISP: u32 = 0x0000_0040;
    /// Header error.
    pub const PHE: u32 = 0x0000_0020;
    /// Block limit error.
    pub const BLE: u32 = 0x0000_0010;
    /// The layer 3 checksum was verified.
    pub const L3CV: u32 = 0x0000_0008;
    /// The layer 3 checksum is wrong.
    pub const L3CE: u32 = 0x0000_0004;
    /// The layer 4 checksum was verified.
    pub const L4CV: u32 = 0x0000_0002;
    /// The layer 4 checksum is wrong.
    pub const L4CE: u32 = 0x0000_0001;

    /// Every bit that says something is wrong with the frame.
    pub const ERRORS: u32 =
        KSE | EOFHE | MNLE | TIDE | PIEE | FLE | FPE | PTE | ISP | PHE | BLE | L3CE | L4CE;

    /// Each error bit with its name in counters and a description, worst first.
    pub const ERROR_NAMES: &[(u32, &str, &str)] = &[
        (FPE, "frame-physical", "physical error, such as a wrong FCS"),
        (FLE, "frame-length", "frame length error"),
        (PHE, "parse-header", "a header's fields contradict each other or the frame ends inside it"),
        (BLE, "parse-block-limit", "headers reach past what the parser looks at"),
        (PTE, "parse-time", "the parser took too long"),
        (ISP, "soft-parser", "invalid soft parser instruction"),
        (L3CE, "l3-checksum", "wrong IPv4 header checksum"),
        (L4CE, "l4-checksum", "wrong TCP or UDP checksum"),
        (KSE, "key-size", "classification key too long"),
        (EOFHE, "key-extract", "key extract outside of the frame's headers"),
        (MNLE, "lookup-chain", "too many chained look-ups"),
        (TIDE, "table-id", "invalid classification table"),
        (PIEE, "policer", "policer entry not initialised"),
    ];
}

/// Parse results as they lie in memory: six little-endian words, each with the first of its bytes on top.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ParseResultWords(pub [U64; 6]);

impl ParseResultWords {
    /// The array that key extracts and the parser's documentation mean.
    pub fn to_result(&self) -> ParseResult {
        let mut bytes = [0; 48];
        for (to, word) in bytes.chunks_exact_mut(8).zip(&self.0) {
            to.copy_from_slice(&word.get().to_be_bytes());
        }
        ParseResult(bytes)
    }
}

/// Parse results in network order. Key extracts of type "parse" count bytes of this array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseResult(pub [u8; 48]);

impl Default for ParseResult {
    fn default() -> Self {
        ParseResult([0; 48])
    }
}

/// Byte numbers of [`ParseResult`]. Those called `..._OFFSET` hold where a header starts in the frame.
pub mod parse {
    /// Next header (2 bytes).
    pub const NEXT_HEADER: usize = 0;
    /// User flags (2 bytes).
    pub const FAF_EXTENSION: usize = 2;
    /// The 96 frame attribute flags (12 bytes).
    pub const FAF: usize = 4;
    /// First shim.
    pub const SHIM_1_OFFSET: usize = 16;
    /// Second shim.
    pub const SHIM_2_OFFSET: usize = 17;
    /// First IP protocol id.
    pub const IP_PROTOCOL_OFFSET: usize = 18;
    /// Ethernet header.
    pub const ETHERNET_OFFSET: usize = 19;
    /// LLC-SNAP header.
    pub const LLC_SNAP_OFFSET: usize = 20;
    /// TCI of the first VLAN tag.
    pub const VLAN_FIRST_OFFSET: usize = 21;
    /// TCI of the last VLAN tag.
    pub const VLAN_LAST_OFFSET: usize = 22;
    /// Last ethertype.
    pub const ETHERTYPE_OFFSET: usize = 23;
    /// PPPoE header.
    pub const PPPOE_OFFSET: usize = 24;
    /// First MPLS label.
    pub const MPLS_FIRST_OFFSET: usize = 25;
    /// Last MPLS label.
    pub const MPLS_LAST_OFFSET: usize = 26;
    /// First layer 3 header (IP or ARP).
    pub const L3_OFFSET: usize = 27;
    /// Last IP header.
    pub const IP_LAST_OFFSET: usize = 28;
    /// GRE header.
    pub const GRE_OFFSET: usize = 29;
    /// Layer 4 header.
    pub const L4_OFFSET: usize = 30;
    /// Layer 5 header (GTP, ESP).
    pub const L5_OFFSET: usize = 31;
    /// First IPv6 routing header.
    pub const ROUTING_1_OFFSET: usize = 32;
    /// Second IPv6 routing header.
    pub const ROUTING_2_OFFSET: usize = 33;
    /// Next header.
    pub const NEXT_HEADER_OFFSET: usize = 34;
    /// IPv6 fragment header.
    pub const FRAGMENT_OFFSET: usize = 35;
    /// Gross running sum (2 bytes).
    pub const GROSS_RUNNING_SUM: usize = 36;
    /// Running sum (2 bytes).
    pub const RUNNING_SUM: usize = 38;
    /// Why the parser stopped.
    pub const ERROR_CODE: usize = 40;
    /// Next header after the fragment header.
    pub const FRAGMENT_NEXT_OFFSET: usize = 41;
    /// Last IP protocol id.
    pub const IP_PROTOCOL_LAST_OFFSET: usize = 42;
    /// Soft parser context (5 bytes).
    pub const SOFT_CONTEXT: usize = 43;
}

/// Numbers of frame attribute flags: flag n is bit 7 - n mod 8 of byte 4 + n/8 of [`ParseResult`].
#[expect(missing_docs, reason = "each name is the whole documentation there is")]
pub mod faf {
    pub const SHIM_ERROR: u8 = 8;
    pub const PARSING_ERROR: u8 = 9;
    pub const ETHERNET: u8 = 10;
    pub const L2_UNICAST: u8 = 11;
    pub const L2_MULTICAST: u8 = 12;
    pub const L2_BROADCAST: u8 = 13;
    pub const BPDU: u8 = 14;
    pub const ETHERNET_ERROR: u8 = 17;
    pub const LLC_SNAP: u8 = 18;
    pub const VLAN: u8 = 21;
    pub const VLAN_MORE: u8 = 22;
    pub const VLAN_CFI: u8 = 23;
    pub const VLAN_ERROR: u8 = 24;
    pub const PPPOE: u8 = 25;
    pub const MPLS: u8 = 27;
    pub const MPLS_MORE: u8 = 28;
    pub const ARP: u8 = 30;
    pub const ARP_ERROR: u8 = 31;
    pub const L2_UNKNOWN: u8 = 32;
    pub const IPV4: u8 = 34;
    pub const IPV4_UNICAST: u8 = 35;
    pub const IPV4_MULTICAST: u8 = 36;
    pub const IPV4_BROADCAST: u8 = 37;
    pub const IPV4_LAST: u8 = 38;
    pub const IPV4_LAST_UNICAST: u8 = 39;
    pub const IPV4_LAST_MULTICAST: u8 = 40;
    pub const IPV4_LAST_BROADCAST: u8 = 41;
    pub const IPV6: u8 = 42;
    pub const IPV6_UNICAST: u8 = 43;
    pub const IPV6_MULTICAST: u8 = 44;
    pub const IPV6_LAST: u8 = 45;
    pub const IPV6_LAST_UNICAST: u8 = 46;
    pub const IPV6_LAST_MULTICAST: u8 = 47;
    pub const IP_OPTIONS: u8 = 48;
    pub const IP_UNKNOWN_PROTOCOL: u8 = 49;
    pub const IP_MORE_FRAGMENTS: u8 = 50;
    pub const IP_FIRST_FRAGMENT: u8 = 51;
    pub const IP_ERROR: u8 = 52;
    pub const IP_LAST_OPTIONS: u8 = 53;
    pub const IP_LAST_UNKNOWN_PROTOCOL: u8 = 54;
    pub const IP_LAST_MORE_FRAGMENTS: u8 = 55;
    pub const IP_LAST_FIRST_FRAGMENT: u8 = 56;
    pub const ICMP: u8 = 57;
    pub const IGMP: u8 = 58;
    pub const ICMPV6: u8 = 59;
    pub const UDP_LITE: u8 = 60;
    pub const IP_LAST_ERROR: u8 = 61;
    pub const GRE: u8 = 65;
    pub const GRE_ERROR: u8 = 67;
    pub const L3_UNKNOWN: u8 = 68;
    pub const UDP: u8 = 70;
    pub const UDP_ERROR: u8 = 71;
    pub const TCP: u8 = 72;
    pub const TCP_OPTIONS: u8 = 73;
    /// TCP control bits 6 to 11.
    pub const TCP_CONTROL_HIGH: u8 = 74;
    /// TCP control bits 3 to 5.
    pub const TCP_CONTROL_LOW: u8 = 75;
    pub const TCP_ERROR: u8 = 76;
    pub const IPSEC: u8 = 77;
    pub const ESP: u8 = 78;
    pub const AH: u8 = 79;
    pub const SCTP: u8 = 81;
    pub const SCTP_ERROR: u8 = 82;
    pub const DCCP: u8 = 83;
    pub const L4_UNKNOWN: u8 = 85;
    pub const GTP: u8 = 87;
    pub const IPV6_ROUTING: u8 = 95;
}

impl ParseResult {
    /// Whether flag `n` (of module [`faf`]) is set.
    ///
    /// # Panics
    /// When `n` is 96 or more.
    pub fn flag(&self, n: u8) -> bool {
        assert!(n < 96, "there are 96 frame attribute flags");
        self.0[parse::FAF + usize::from(n / 8)] & 0x80 >> (n % 8) != 0
    }

    /// Sets flag `n`.
    ///
    /// # Panics
    /// When `n` is 96 or more.
    pub fn set_flag(&mut self, n: u8) {
        assert!(n < 96, "there are 96 frame attribute flags");
        self.0[parse::FAF + usize::from(n / 8)] |= 0x80 >> (n % 8);
    }

    /// As it lies in memory.
    pub fn to_words(&self) -> ParseResultWords {
        let mut words = ParseResultWords::default();
        for (word, from) in words.0.iter_mut().zip(self.0.chunks_exact(8)) {
            *word = u64::from_be_bytes(from.try_into().expect("chunks of 8")).into();
        }
        words
    }
}

/// Values of the parse summary in the upper half of FRC (LX2160A, FLCTYPE offload on).
pub mod summary {
    /// Ethernet only.
    pub const ETHERNET: u16 = 0x0060;
    /// IPv4, nothing known behind it.
    pub const IPV4: u16 = 0x0000;
    /// IPv6, nothing known behind it.
    pub const IPV6: u16 = 0x0020;
    /// Added when the IP header has options or extensions.
    pub const OPTIONS: u16 = 0x0001;
    /// Added for ICMP.
    pub const ICMP: u16 = 0x0003;
    /// Added for TCP.
    pub const TCP: u16 = 0x000e;
    /// Added for SCTP.
    pub const SCTP: u16 = 0x000f;
    /// Added for UDP.
    pub const UDP: u16 = 0x0010;
    /// One VLAN tag.
    pub const VLAN_ONE: u16 = 0x0160;
    /// Two VLAN tags.
    pub const VLAN_TWO: u16 = 0x0260;
    /// No summary: look at the parse results.
    pub const UNKNOWN: u16 = 0xffff;
}

/// What transmit reads: 128 bytes, of which the egress action descriptor is defined here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TxAnnotation {
    /// Status after transmission, for a confirmed frame.
    pub fas: Fas,
    /// Nanoseconds, for a confirmed frame.
    pub timestamp: U64,
    /// Not read.
    pub reserved_10: [u8; 0x48],
    /// Egress action descriptor.
    pub faead: Faead,
    /// Not read.
    pub reserved_60: [u8; 0x20],
}
const _: () = assert!(size_of::<TxAnnotation>() == TX_ANNOTATION_BYTES);
const _: () = assert!(core::mem::offset_of!(TxAnnotation, faead) == 0x58);

/// Egress action descriptor, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Faead {
    /// Queue the frame is confirmed on.
    pub confirm_fqid: U32,
    /// The bits below.
    pub control: U32,
}
const _: () = assert!(size_of::<Faead>() == 8);

impl Faead {
    /// The fields of group 2 are valid.
    pub const A2V: u32 = 0x2000_0000;
    /// The fields of group 4 are valid.
    pub const A4V: u32 = 0x0800_0000;
    /// EBDD is valid.
    pub const EBDDV: u32 = 0x2000;
    /// UPD is valid.
    pub const UPDV: u32 = 0x1000;
    /// External buffer deallocation disabled.
    pub const EBDD: u32 = 0x20;
    /// Update prepended data.
    pub const UPD: u32 = 0x10;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lie_in_memory_where_dpdk_looks_for_them() {
        // The bit positions in the words at 0x10 (upper half is reversed there) and 0x18.
        for (flag, word, bit) in
            [(faf::IPV4, 1, 61), (faf::UDP, 1, 25), (faf::TCP, 1, 23), (faf::IPV6, 1, 53), (faf::VLAN, 0, 10)]
        {
            let mut result = ParseResult::default();
            result.set_flag(flag);
            assert!(result.flag(flag));
            let words = result.to_words();
            assert_eq!(words.0[word].get(), 1 << bit, "flag {flag}");
            assert_eq!(words.to_result(), result);
        }
    }

    #[test]
    fn ipv4_presence_is_byte_8_bit_5_for_key_extracts() {
        let mut result = ParseResult::default();
        result.set_flag(faf::IPV4);
        assert_eq!(result.0[8], 0x20);
    }

    #[test]
    fn offsets_lie_in_memory_where_the_annotation_has_them() {
        let mut result = ParseResult::default();
        result.0[parse::ETHERNET_OFFSET] = 1;
        result.0[parse::VLAN_FIRST_OFFSET] = 14;
        result.0[parse::L3_OFFSET] = 18;
        result.0[parse::L4_OFFSET] = 38;
        result.0[parse::ERROR_CODE] = 0x55;
        let annotation = RxAnnotation { parse: result.to_words(), ..RxAnnotation::default() };
        let bytes = annotation.as_bytes();
        assert_eq!((bytes[0x24], bytes[0x22], bytes[0x2c], bytes[0x29], bytes[0x3f]), (1, 14, 18, 38, 0x55));
    }

    #[test]
    fn status_and_timestamp_lie_in_front() {
        let fas = Fas { status: (fas::L3CV | fas::L4CE).into(), ..Fas::default() };
        let annotation = RxAnnotation { fas, timestamp: 7.into(), ..RxAnnotation::default() };
        assert_eq!(annotation.as_bytes()[..16], [0, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_error_bit_has_exactly_one_name() {
        let named = fas::ERROR_NAMES.iter().fold(0, |sum, (bit, ..)| {
            assert_eq!(sum & bit, 0);
            sum | bit
        });
        assert_eq!(named, fas::ERRORS);
    }
}
