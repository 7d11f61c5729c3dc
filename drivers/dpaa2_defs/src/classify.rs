//! Classification in DMA memory: which bytes of a frame make a key, keys and masks of table entries, and the
//! hash over a key.
//!
//! Source: NXP mc-utils' `fsl_dpkg.h` and `fsl_net.h`, DPDK's `fsl_dpkg.h`, `dpaa2_flow.c` and
//! `dpaa2_tlu_hash.c`. The Management Complex reads these during a command only; the memory may be used again
//! when the command is answered.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most extracts of a key (20 since MC 10.40, 10 before).
pub const EXTRACTS_MAX: usize = 20;
/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 56;
/// Alignment of key configurations, keys and masks that drivers use (a cache line).
pub const ALIGNMENT: usize = 64;

/// A key-extract configuration: hash distribution, flow steering and the QoS table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeyConfig {
    /// Number of extracts in use.
    pub count: u8,
    /// Reserved.
    pub reserved: [u8; 7],
    /// The extracts, in the order of their bytes in the key.
    pub extracts: [Extract; EXTRACTS_MAX],
}
const _: () = assert!(size_of::<KeyConfig>() == 8 + 24 * EXTRACTS_MAX);

impl KeyConfig {
    /// A configuration of these extracts; `None` when there are more than [`EXTRACTS_MAX`].
    pub fn new(extracts: &[Extract]) -> Option<KeyConfig> {
        let mut all = [Extract::default(); EXTRACTS_MAX];
        all.get_mut(..extracts.len())?.copy_from_slice(extracts);
        Some(KeyConfig { count: extracts.len() as u8, reserved: [0; 7], extracts: all })
    }

    /// The extracts in use; `None` when the count says more than there can be.
    pub fn extracts(&self) -> Option<&[Extract]> {
        self.extracts.get(..usize::from(self.count))
    }
}

/// One extract, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Extract {
    /// Protocol, for header extracts: a [`Protocol`].
    pub protocol: Protocol,
    /// How a header extract is meant, in bits 3:0.
    pub header_mode: HeaderMode,
    /// Bytes, for all but full fields.
    pub size: u8,
    /// First byte, for all but full fields.
    pub offset: u8,
    /// One bit: the field of the protocol.
    pub field: U32,
    /// Which of several headers of the protocol, 0 for the first.
    pub header_index: u8,
    /// Constant (not used by drivers).
    pub constant: u8,
    /// Repetitions (not used by drivers).
    pub repeats: u8,
    /// Byte masks in use, 0 to 4.
    pub mask_count: u8,
    /// Where the bytes come from, in bits 3:0.
    pub kind: ExtractKind,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Masks of single bytes of the extract.
    pub masks: [ByteMask; 4],
}
const _: () = assert!(size_of::<Extract>() == 24);
const _: () = assert!(core::mem::offset_of!(Extract, kind) == 12);
const _: () = assert!(core::mem::offset_of!(Extract, masks) == 16);

/// A mask over one byte of an extract.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ByteMask {
    /// The bits that are kept.
    pub mask: u8,
    /// Which byte of the extract.
    pub offset: u8,
}

/// Where the bytes of an extract come from.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct ExtractKind(pub u8);

impl ExtractKind {
    /// A protocol's header.
    pub const HEADER: ExtractKind = ExtractKind(0);
    /// The frame, from its first byte.
    pub const DATA: ExtractKind = ExtractKind(1);
    /// The parse results.
    pub const PARSE: ExtractKind = ExtractKind(3);
}

/// How a header extract selects its bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct HeaderMode(pub u8);

impl HeaderMode {
    /// Size and offset count from the start of the header.
    pub const FROM_HEADER: HeaderMode = HeaderMode(0);
    /// Size and offset count from the start of the field.
    pub const FROM_FIELD: HeaderMode = HeaderMode(1);
    /// The whole field.
    pub const FULL_FIELD: HeaderMode = HeaderMode(2);
}

/// A protocol, as header extracts name it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Protocol(pub u8);

#[expect(missing_docs, reason = "each name is the whole documentation there is")]
impl Protocol {
    pub const NONE: Protocol = Protocol(0);
    pub const PAYLOAD: Protocol = Protocol(1);
    pub const ETHERNET: Protocol = Protocol(2);
    pub const VLAN: Protocol = Protocol(3);
    pub const IPV4: Protocol = Protocol(4);
    pub const IPV6: Protocol = Protocol(5);
    /// Either version: addresses have 4 or 16 bytes.
    pub const IP: Protocol = Protocol(6);
    pub const TCP: Protocol = Protocol(7);
    pub const UDP: Protocol = Protocol(8);
    pub const UDP_LITE: Protocol = Protocol(9);
    pub const SCTP: Protocol = Protocol(11);
    pub const PPPOE: Protocol = Protocol(13);
    pub const LLC_SNAP: Protocol = Protocol(21);
    pub const MPLS: Protocol = Protocol(24);
    pub const IPSEC_AH: Protocol = Protocol(25);
    pub const IPSEC_ESP: Protocol = Protocol(26);
    pub const GRE: Protocol = Protocol(29);
    pub const ICMP: Protocol = Protocol(32);
    pub const ARP: Protocol = Protocol(34);
    pub const ICMPV6: Protocol = Protocol(38);
    pub const GTP: Protocol = Protocol(42);
}

/// Field bits by protocol, with the bytes a full field gives.
#[expect(missing_docs, reason = "each name is the whole documentation there is")]
pub mod field {
    /// 6 bytes.
    pub const ETHERNET_DESTINATION: u32 = 0x01;
    /// 6 bytes.
    pub const ETHERNET_SOURCE: u32 = 0x02;
    pub const ETHERNET_LENGTH: u32 = 0x04;
    /// 2 bytes: the last ethertype, behind VLAN tags.
    pub const ETHERNET_TYPE: u32 = 0x08;

    pub const VLAN_PRIORITY: u32 = 0x01;
    pub const VLAN_CFI: u32 = 0x02;
    pub const VLAN_ID: u32 = 0x04;
    /// 2 bytes: priority, CFI and id.
    pub const VLAN_TCI: u32 = 0x07;
    pub const VLAN_LENGTH: u32 = 0x08;
    pub const VLAN_TYPE: u32 = 0x10;

    pub const IP_VERSION: u32 = 0x01;
    pub const IP_DSCP: u32 = 0x04;
    pub const IP_ECN: u32 = 0x08;
    /// 1 byte.
    pub const IP_PROTOCOL: u32 = 0x10;
    /// 4 or 16 bytes.
    pub const IP_SOURCE: u32 = 0x20;
    /// 4 or 16 bytes.
    pub const IP_DESTINATION: u32 = 0x40;
    pub const IP_TOS: u32 = 0x80;
    pub const IP_ID: u32 = 0x100;

    pub const IPV4_VERSION: u32 = 0x01;
    pub const IPV4_HEADER_LENGTH: u32 = 0x02;
    pub const IPV4_TOS: u32 = 0x04;
    pub const IPV4_TOTAL_LENGTH: u32 = 0x08;
    pub const IPV4_ID: u32 = 0x10;
    pub const IPV4_DF: u32 = 0x20;
    pub const IPV4_MF: u32 = 0x40;
    pub const IPV4_FRAGMENT_OFFSET: u32 = 0x80;
    pub const IPV4_TTL: u32 = 0x100;
    pub const IPV4_PROTOCOL: u32 = 0x200;
    pub const IPV4_CHECKSUM: u32 = 0x400;
    pub const IPV4_SOURCE: u32 = 0x800;
    pub const IPV4_DESTINATION: u32 = 0x1000;

    pub const IPV6_VERSION: u32 = 0x01;
    pub const IPV6_TRAFFIC_CLASS: u32 = 0x02;
    /// 16 bytes.
    pub const IPV6_SOURCE: u32 = 0x04;
    /// 16 bytes.
    pub const IPV6_DESTINATION: u32 = 0x08;
    pub const IPV6_NEXT_HEADER: u32 = 0x10;
    pub const IPV6_FLOW_LABEL: u32 = 0x20;
    pub const IPV6_HOP_LIMIT: u32 = 0x40;

    /// 2 bytes: the first 16 bits of a TCP, UDP, UDP-lite or SCTP header, whichever of them is named.
    pub const L4_SOURCE_PORT: u32 = 0x01;
    /// 2 bytes: the second 16 bits.
    pub const L4_DESTINATION_PORT: u32 = 0x02;
    pub const TCP_SEQUENCE: u32 = 0x04;
    pub const TCP_ACKNOWLEDGE: u32 = 0x08;
    pub const TCP_OFFSET: u32 = 0x10;
    pub const TCP_FLAGS: u32 = 0x20;
    pub const TCP_WINDOW: u32 = 0x40;
    pub const TCP_CHECKSUM: u32 = 0x80;
    pub const TCP_URGENT: u32 = 0x100;
    pub const UDP_LENGTH: u32 = 0x04;
    pub const UDP_CHECKSUM: u32 = 0x08;
    pub const SCTP_TAG: u32 = 0x04;
    pub const SCTP_CHECKSUM: u32 = 0x08;

    /// 1 byte.
    pub const ICMP_TYPE: u32 = 0x01;
    /// 1 byte.
    pub const ICMP_CODE: u32 = 0x02;
    pub const MPLS_LABEL_1: u32 = 0x01;
    pub const MPLS_LABEL_2: u32 = 0x02;
    pub const MPLS_LABEL_N: u32 = 0x04;
    /// 2 bytes.
    pub const PPPOE_SESSION_ID: u32 = 0x08;
    /// 4 bytes.
    pub const IPSEC_SPI: u32 = 0x01;
    /// 4 bytes.
    pub const GTP_TEID: u32 = 0x01;
    /// 2 bytes.
    pub const GRE_TYPE: u32 = 0x01;
    pub const ARP_OPERATION: u32 = 0x10;
    pub const ARP_SENDER_IP: u32 = 0x40;
    pub const ARP_TARGET_IP: u32 = 0x100;
}

impl Extract {
    /// A whole field of a protocol's header.
    pub fn full_field(protocol: Protocol, field: u32) -> Extract {
        let header_mode = HeaderMode::FULL_FIELD;
        Extract { protocol, header_mode, field: field.into(), ..Extract::default() }
    }

    /// `size` bytes of the parse results from byte `offset` (module `annotation::parse`).
    pub fn parse_result(offset: u8, size: u8) -> Extract {
        Extract { offset, size, kind: ExtractKind::PARSE, ..Extract::default() }
    }

    /// `size` bytes of the frame from byte `offset`.
    pub fn data(offset: u8, size: u8) -> Extract {
        Extract { offset, size, kind: ExtractKind::DATA, ..Extract::default() }
    }
}

/// The key of addresses, protocol and ports: 13 bytes for IPv4, 37 for IPv6. What DPDK and Linux hash by default.
pub fn five_tuple() -> [Extract; 5] {
    [
        Extract::full_field(Protocol::IP, field::IP_SOURCE),
        Extract::full_field(Protocol::IP, field::IP_DESTINATION),
        Extract::full_field(Protocol::IP, field::IP_PROTOCOL),
        Extract::full_field(Protocol::TCP, field::L4_SOURCE_PORT),
        Extract::full_field(Protocol::TCP, field::L4_DESTINATION_PORT),
    ]
}

/// Key and mask of a QoS or flow-steering entry as drivers keep them in DMA memory, back to back and aligned.
///
/// A frame matches when (its key & mask) == (key & mask). Bytes past the configured key are zero in both. Tables
/// without key masking compare every bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeyAndMask {
    /// Field values in network order, in the order of the extracts.
    pub key: [u8; KEY_BYTES_MAX],
    /// Reserved, so that the mask starts a cache line.
    pub reserved_38: [u8; 8],
    /// One bits are compared.
    pub mask: [u8; KEY_BYTES_MAX],
    /// Reserved.
    pub reserved_78: [u8; 8],
}
const _: () = assert!(core::mem::offset_of!(KeyAndMask, mask) == ALIGNMENT);
const _: () = assert!(size_of::<KeyAndMask>() == 2 * ALIGNMENT);

impl KeyAndMask {
    /// Offset of the mask.
    pub const MASK_OFFSET: u64 = ALIGNMENT as u64;

    /// These values under this mask; `None` when their lengths differ or exceed [`KEY_BYTES_MAX`].
    pub fn new(key: &[u8], mask: &[u8]) -> Option<KeyAndMask> {
        let mut this = KeyAndMask::read_from_bytes(&[0; 2 * ALIGNMENT]).ok()?;
        this.key.get_mut(..key.len())?.copy_from_slice(key);
        this.mask.get_mut(..mask.len())?.copy_from_slice(mask);
        (key.len() == mask.len()).then_some(this)
    }
}

/// Whether a frame's key matches an entry under its mask. What one side doesn't have counts as zero.
pub fn key_matches(frame: &[u8], key: &[u8], mask: &[u8]) -> bool {
    let at = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or(0);
    (0..mask.len()).all(|i| (at(frame, i) ^ at(key, i)) & mask[i] == 0)
}

/// The early-drop (WRED) block of "set early drop", as it lies in DMA memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EarlyDrop {
    /// Bit 0 enable, bits 3:2 units.
    pub flags: u8,
    /// Reserved.
    pub reserved_01: [u8; 7],
    /// Green, yellow and red.
    pub colours: [EarlyDropColour; 3],
}
const _: () = assert!(size_of::<EarlyDrop>() == 8 + 3 * 32);

/// Early drop of one colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EarlyDropColour {
    /// Probability, 1 to 100.
    pub probability: u8,
    /// Reserved.
    pub reserved_01: [u8; 7],
    /// Above, everything is dropped.
    pub max_threshold: U64,
    /// Below, nothing is.
    pub min_threshold: U64,
    /// Reserved (after the last colour it is past what drivers write).
    pub reserved_18: [u8; 8],
}
const _: () = assert!(size_of::<EarlyDropColour>() == 32);

/// A congestion message as QBMan writes it to "message address" (and a state change notification): 16 bytes used.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CongestionMessage {
    /// 0x27.
    pub verb: u8,
    /// Status.
    pub stat: u8,
    /// Not zero: congested.
    pub state: u8,
    /// Reserved.
    pub reserved_03: u8,
    /// The congestion group.
    pub resource_id: U32,
    /// As given with "set congestion notification".
    pub context: U64,
}
const _: () = assert!(size_of::<CongestionMessage>() == 16);

/// Header of a dumped table ("dump table"), followed by its entries.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct TableDumpHeader {
    /// Which table.
    pub table_type: U16,
    /// Entries in use.
    pub entries: U16,
    /// Entries it can have.
    pub entries_max: U16,
    /// What a miss does.
    pub default_action: u8,
    /// How entries are compared.
    pub match_type: u8,
    /// Reserved.
    pub reserved_08: [u8; 24],
}
const _: () = assert!(size_of::<TableDumpHeader>() == 32);

/// The table that chooses the traffic class, as a table type of "dump table". (`enum dpni_table_type`: flow steering 1, MAC
/// filter 2, QoS 3, VLAN filter 4. Not in the public headers at hand: whoever reads a dump compares
/// [`TableDumpHeader::entries_max`] with the table that was meant.)
pub const TABLE_QOS: u16 = 3;

/// An entry of a dumped table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TableDumpEntry {
    /// The key, zeros behind it.
    pub key: [u8; KEY_BYTES_MAX],
    /// One bits are compared.
    pub mask: [u8; KEY_BYTES_MAX],
    /// What happens with frames that match.
    pub action: u8,
    /// With what.
    pub results: [U16; 3],
    /// Reserved.
    pub reserved_77: [u8; 21],
}
const _: () = assert!(size_of::<TableDumpEntry>() == 140);

/// The 32-bit hash over a key, as the table look-up unit computes it. A distribution takes it modulo its size.
///
/// Source: `dpaa2_tlu_hash.c` of DPDK (`rte_pmd_dpaa2_get_tlu_hash`): a reflected CRC-32 without inversions, then
/// four rounds of shifts, substitution and permutation.
pub fn hash(key: &[u8]) -> u32 {
    (0..4).fold(crc(key), |x, _| permute(substitute(mix(x))))
}

fn crc(key: &[u8]) -> u32 {
    key.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn mix(x: u32) -> u32 {
    let x = x ^ x >> 16;
    x ^ x << 16
}

fn substitute(x: u32) -> u32 {
    const S: [u32; 16] = [1, 4, 15, 10, 6, 12, 7, 9, 0, 3, 11, 2, 8, 14, 13, 5];
    (0..8).fold(0, |out, i| out | S[(x >> (4 * i) & 15) as usize] << (4 * i))
}

fn permute(x: u32) -> u32 {
    const P: [u32; 16] = [5, 9, 0, 13, 7, 2, 11, 14, 1, 4, 12, 8, 3, 15, 6, 10];
    (0..16).fold(0, |out, i| out | (x >> i & 0x0001_0001) << P[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_look_up_units() {
        let vectors: [(&[u8], u32); 7] = [
            (&[], 0xcb1c_70c9),
            (&[0], 0xcb1c_70c9),
            (&[1], 0xd65c_9251),
            (&[0, 1, 2, 3, 4, 5, 6, 7], 0x1cbb_82d2),
            (&[10, 0, 0, 1, 10, 0, 0, 2, 6], 0x99fa_8dcb),
            (&[10, 0, 0, 1, 10, 0, 0, 2, 0x11], 0x35eb_eeac),
            (&[192, 168, 1, 1, 192, 168, 1, 2, 0x11, 3, 0xe8, 7, 0xd0], 0x386d_c806),
        ];
        for (key, expected) in vectors {
            assert_eq!(hash(key), expected, "key {key:x?}");
        }
    }

    #[test]
    fn a_key_of_the_ip_destination_is_laid_out_as_captured_from_dpdk() {
        let config =
            KeyConfig::new(&[Extract::full_field(Protocol::IP, field::IP_DESTINATION)]).expect("one extract");
        let captured = [1, 0, 0, 0, 0, 0, 0, 0, 6, 2, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(config.as_bytes()[..24], captured);
        assert!(config.as_bytes()[24..].iter().all(|&b| b == 0));
        assert_eq!(config.extracts().unwrap().len(), 1);
    }

    #[test]
    fn a_configuration_with_too_many_extracts_is_refused_by_both_sides() {
        assert_eq!(KeyConfig::new(&[Extract::default(); EXTRACTS_MAX + 1]), None);
        let mut config = KeyConfig::new(&[Extract::default(); EXTRACTS_MAX]).unwrap();
        config.count += 1;
        assert_eq!(config.extracts(), None);
    }

    #[test]
    fn a_parse_extract_names_a_byte_of_the_results() {
        let extract = Extract::parse_result(8, 1);
        let mut bytes = [0; 24];
        (bytes[2], bytes[3], bytes[12]) = (1, 8, 3);
        assert_eq!(extract.as_bytes(), bytes);
    }

    #[test]
    fn keys_match_under_their_mask_only() {
        let entry = KeyAndMask::new(&[10, 1, 0, 0], &[255, 255, 0, 0]).unwrap();
        assert_eq!(entry.as_bytes()[..5], [10, 1, 0, 0, 0]);
        assert_eq!(entry.as_bytes()[64..69], [255, 255, 0, 0, 0]);
        assert!(key_matches(&[10, 1, 7, 9], &entry.key, &entry.mask));
        assert!(!key_matches(&[10, 2, 7, 9], &entry.key, &entry.mask));
        assert!(!key_matches(&[10], &entry.key, &entry.mask));
        assert_eq!(KeyAndMask::new(&[0; 57], &[0; 57]), None);
        assert_eq!(KeyAndMask::new(&[0; 3], &[0; 4]), None);
    }

    #[test]
    fn early_drop_thresholds_lie_where_the_firmware_reads_them() {
        let mut bytes = [0; 104];
        (bytes[8], bytes[16], bytes[24], bytes[40], bytes[48], bytes[80]) = (1, 2, 3, 4, 5, 6);
        let block = EarlyDrop::read_from_bytes(&bytes).unwrap();
        assert_eq!(block.colours[0].probability, 1);
        assert_eq!((block.colours[0].max_threshold.get(), block.colours[0].min_threshold.get()), (2, 3));
        assert_eq!((block.colours[1].probability, block.colours[1].max_threshold.get()), (4, 5));
        assert_eq!(block.colours[2].max_threshold.get(), 6);
    }
}
