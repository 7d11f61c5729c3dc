//! Matches on flow keys as a table of traffic classes: what the worker's classifier does frame by frame, hardware does with
//! the same outcome, or the table is refused.
//!
//! Keys are made of header fields. Fields of fixed size come first; IP addresses, of which hardware gives 4 bytes or 16, come
//! last, sources before destinations, so that nothing stands behind them that they could shift (as DPDK's `dpaa2_flow.c`
//! does). A header that a frame hasn't got gives zeros.

use std::fmt;

use dpaa2_defs::annotation::{faf, parse};
use dpaa2_defs::classify::{Extract, KEY_BYTES_MAX, Protocol, field};
use dpaa2_defs::mc::dpni::option;
use dpaa2_defs::mc::object::ObjectType;
use dpaa2_mc::Dpni;
use flow::{Field, FlowKey, FlowMask, PRESENT};
use fslmc_bus::Bus;

use crate::{ClassEntry, ClassTable, Dpaa2, Dpaa2Error, Match};

const IPV4: u128 = 0x0800;
const ARP: u128 = 0x0806;
const IPV6: u128 = 0x86dd;

/// Why hardware can't classify as the matches say; software can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInHardware {
    /// A match looks at a field that keys aren't made of.
    Field(Field),
    /// A field means something in hardware only together with a protocol that the match doesn't name.
    Protocol(Field),
    /// The fields take more than [`KEY_BYTES_MAX`] bytes.
    TooLong(usize),
    /// The table compares whole keys, and this match (by its place) leaves bits of them open.
    Masked(usize),
}

impl fmt::Display for NotInHardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotInHardware::Field(field) => write!(f, "its keys have no {field:?}"),
            NotInHardware::Protocol(field) => {
                write!(f, "{field:?} in such frames is nothing its keys are made of")
            }
            NotInHardware::TooLong(bytes) => {
                write!(f, "the fields take {bytes} bytes, its keys have {KEY_BYTES_MAX}")
            }
            NotInHardware::Masked(place) => write!(
                f,
                "it compares whole keys, and match {place} leaves bits of them open: without masks all matches name the \
                 same fields in full"
            ),
        }
    }
}

/// What an interface can classify by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classification {
    /// Traffic classes of reception.
    pub classes: u8,
    /// Receive queues of each.
    pub queues: u8,
    /// Entries of the table that chooses the class.
    pub entries: u8,
    /// Whether that table has masks.
    pub masked: bool,
}

impl<B: Bus> Dpaa2<B> {
    /// Asks what an interface of the container, which no port uses, can classify by.
    ///
    /// # Errors
    /// There is no such interface, or the firmware doesn't say.
    pub fn classification(&self, dpni: u32) -> Result<Classification, Dpaa2Error> {
        let (_device, dpni) = self.0.take(ObjectType::DPNI.with_id(dpni), Dpni::open)?;
        let has = dpni.attributes()?;
        Ok(Classification {
            classes: has.rx_tcs,
            queues: has.queues,
            entries: has.qos_entries,
            masked: has.options.get() & option::HAS_KEY_MASKING != 0,
        })
    }
}

/// The fields of a key, in the order of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    EthDst,
    EthSrc,
    EthType,
    /// Whether there is a VLAN tag: a bit of the parse results.
    Tagged,
    VlanTci,
    IpProto,
    IpTos,
    TpSrc,
    TpDst,
    ArpSpa,
    ArpTpa,
    IpSrc,
    IpDst,
}

impl Part {
    const ALL: [Part; 13] = [
        Part::EthDst,
        Part::EthSrc,
        Part::EthType,
        Part::Tagged,
        Part::VlanTci,
        Part::IpProto,
        Part::IpTos,
        Part::TpSrc,
        Part::TpDst,
        Part::ArpSpa,
        Part::ArpTpa,
        Part::IpSrc,
        Part::IpDst,
    ];

    /// Whether tables with masks have it in their keys even if no match of theirs looks at it.
    fn is_usual(self) -> bool {
        !matches!(self, Part::EthSrc | Part::ArpSpa)
    }

    fn extract(self) -> Extract {
        match self {
            Part::EthDst => Extract::full_field(Protocol::ETHERNET, field::ETHERNET_DESTINATION),
            Part::EthSrc => Extract::full_field(Protocol::ETHERNET, field::ETHERNET_SOURCE),
            Part::EthType => Extract::full_field(Protocol::ETHERNET, field::ETHERNET_TYPE),
            Part::Tagged => Extract::parse_result(parse::FAF as u8 + faf::VLAN / 8, 1),
            Part::VlanTci => Extract::full_field(Protocol::VLAN, field::VLAN_TCI),
            Part::IpProto => Extract::full_field(Protocol::IP, field::IP_PROTOCOL),
            Part::IpTos => Extract::full_field(Protocol::IP, field::IP_TOS),
            Part::TpSrc => Extract::full_field(Protocol::TCP, field::L4_SOURCE_PORT),
            Part::TpDst => Extract::full_field(Protocol::TCP, field::L4_DESTINATION_PORT),
            Part::ArpSpa => Extract::full_field(Protocol::ARP, field::ARP_SENDER_IP),
            Part::ArpTpa => Extract::full_field(Protocol::ARP, field::ARP_TARGET_IP),
            Part::IpSrc => Extract::full_field(Protocol::IP, field::IP_SOURCE),
            Part::IpDst => Extract::full_field(Protocol::IP, field::IP_DESTINATION),
        }
    }

    /// Bytes in the key of a frame of this kind.
    fn bytes(self, is_v6: bool) -> usize {
        match self {
            Part::EthDst | Part::EthSrc => 6,
            Part::EthType | Part::VlanTci | Part::TpSrc | Part::TpDst => 2,
            Part::Tagged | Part::IpProto | Part::IpTos => 1,
            Part::ArpSpa | Part::ArpTpa => 4,
            Part::IpSrc | Part::IpDst if is_v6 => 16,
            Part::IpSrc | Part::IpDst => 4,
        }
    }

    /// Whether frames of this Ethernet type have nothing here but zeros.
    fn is_absent(self, eth_type: Option<u128>) -> bool {
        match self {
            Part::EthDst | Part::EthSrc | Part::EthType | Part::Tagged | Part::VlanTci => false,
            Part::ArpSpa | Part::ArpTpa => eth_type.is_some_and(|eth_type| eth_type != ARP),
            _ => eth_type.is_some_and(|eth_type| eth_type != IPV4 && eth_type != IPV6),
        }
    }
}

/// A match, taken apart: values and masks of the key's parts that it looks at.
struct Parts {
    eth_type: Option<u128>,
    parts: Vec<(Part, u128, u128)>,
}

impl Parts {
    fn of(key: &FlowKey, mask: &FlowMask) -> Result<Parts, NotInHardware> {
        let full = mask.get(Field::EthType) == Field::EthType.full();
        let eth_type = full.then(|| key.get(Field::EthType));
        let mut this = Parts { eth_type, parts: vec![] };
        for &field in Field::ALL {
            let (value, bits) = (key.get(field), mask.get(field));
            if bits != 0 {
                this.add(field, value & bits, bits, key, mask)?;
            }
        }
        Ok(this)
    }

    fn add(
        &mut self,
        field: Field,
        value: u128,
        bits: u128,
        key: &FlowKey,
        mask: &FlowMask,
    ) -> Result<(), NotInHardware> {
        let is_ip = matches!(self.eth_type, Some(IPV4 | IPV6));
        let protocol = (mask.get(Field::IpProto) == 0xff).then(|| key.get(Field::IpProto));
        let part = match field {
            Field::EthDst => Part::EthDst,
            Field::EthSrc => Part::EthSrc,
            Field::EthType => Part::EthType,
            Field::VlanTci => return self.add_vlan(value, bits),
            Field::IpProto if is_ip => Part::IpProto,
            // What hardware gives for IPv6 isn't stated in the sources.
            Field::IpTos if self.eth_type == Some(IPV4) => Part::IpTos,
            Field::TpSrc if matches!(protocol, Some(6 | 17 | 132)) => Part::TpSrc,
            Field::TpDst if matches!(protocol, Some(6 | 17 | 132)) => Part::TpDst,
            Field::Ipv4Src if self.eth_type == Some(IPV4) => Part::IpSrc,
            Field::Ipv4Dst if self.eth_type == Some(IPV4) => Part::IpDst,
            Field::Ipv4Src if self.eth_type == Some(ARP) => Part::ArpSpa,
            Field::Ipv4Dst if self.eth_type == Some(ARP) => Part::ArpTpa,
            Field::Ipv6Src if self.eth_type == Some(IPV6) => Part::IpSrc,
            Field::Ipv6Dst if self.eth_type == Some(IPV6) => Part::IpDst,
            Field::IpProto | Field::IpTos | Field::TpSrc | Field::TpDst | Field::Ipv4Src | Field::Ipv4Dst => {
                return Err(NotInHardware::Protocol(field));
            }
            _ => return Err(NotInHardware::Field(field)),
        };
        self.parts.push((part, value, bits));
        Ok(())
    }

    /// The key's place of the DEI bit says whether there is a tag at all.
    fn add_vlan(&mut self, value: u128, bits: u128) -> Result<(), NotInHardware> {
        let present = u128::from(PRESENT);
        if bits & present != 0 {
            let flag = u128::from(0x80u8 >> (faf::VLAN % 8));
            self.parts.push((Part::Tagged, if value & present != 0 { flag } else { 0 }, flag));
        }
        if bits & !present != 0 {
            self.parts.push((Part::VlanTci, value & !present, bits & !present));
        }
        Ok(())
    }
}

/// The table in which the first of these matches that fits gives a frame its class.
///
/// `masked` says whether the interface's table has masks (`HAS_KEY_MASKING`). Without, each match must name every field in
/// full that any of them names, but for fields that its frames can't have. With masks, tables of the usual fields all have
/// the same key, so that one can follow another while frames come.
///
/// # Errors
/// Hardware can't do the same as software.
pub fn class_table<'a>(
    matches: impl IntoIterator<Item = (&'a FlowKey, &'a FlowMask, u8)>,
    otherwise: u8,
    masked: bool,
) -> Result<ClassTable, NotInHardware> {
    let mut all = vec![];
    for (key, mask, class) in matches {
        all.push((Parts::of(key, mask)?, class));
    }
    let used = |part: &Part| all.iter().any(|(parts, _)| parts.parts.iter().any(|(other, ..)| other == part));
    // A table that has the same key as the one before can follow it entry by entry.
    let usual = |part: &Part| used(part) || masked && part.is_usual();
    let of = |which: &dyn Fn(&Part) -> bool| Part::ALL.into_iter().filter(which).collect::<Vec<_>>();
    // Keys of IPv6 frames must fit, whatever the matches are about.
    let bytes_of = |layout: &[Part]| layout.iter().map(|part| part.bytes(true)).sum();
    let mut layout = of(&usual);
    if bytes_of(&layout) > KEY_BYTES_MAX {
        layout = of(&used);
    }
    if layout.is_empty() {
        // A table without entries has a key all the same.
        layout.push(Part::EthType);
    }
    let bytes = bytes_of(&layout);
    if bytes > KEY_BYTES_MAX {
        return Err(NotInHardware::TooLong(bytes));
    }
    let mut entries = vec![];
    for (index, (parts, class)) in all.iter().enumerate() {
        let matches = entry(&layout, parts, masked).ok_or(NotInHardware::Masked(index))?;
        entries.push(ClassEntry { index: index as u16, matches, class: *class, queue: None });
    }
    let key = layout.into_iter().map(Part::extract).collect();
    Ok(ClassTable { key, entries, otherwise: Some(otherwise) })
}

/// Key and mask of a match. `None` when a table without masks can't have it.
fn entry(layout: &[Part], parts: &Parts, masked: bool) -> Option<Match> {
    let is_v6 = parts.eth_type == Some(IPV6);
    let (mut key, mut mask) = (vec![], vec![]);
    for &part in layout {
        let bytes = part.bytes(is_v6);
        let named = parts.parts.iter().find(|(other, ..)| *other == part);
        let (value, bits) = match named {
            Some(&(_, value, bits)) => (value, bits),
            None => (0, 0),
        };
        let is_whole =
            bits == u128::MAX >> (128 - 8 * bytes) || named.is_none() && part.is_absent(parts.eth_type);
        if !masked && !is_whole {
            return None;
        }
        key.extend_from_slice(&value.to_be_bytes()[16 - bytes..]);
        if masked {
            mask.extend_from_slice(&bits.to_be_bytes()[16 - bytes..]);
        } else {
            mask.resize(key.len(), 0xff);
        }
    }
    Some(Match { key, mask })
}
