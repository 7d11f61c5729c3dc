//! Operations that change a frame.

use flow::{Field, Layers};
use headers::checksum::{nonzero, update_bytes};
use packet::{Burst, HEAD_MAX};
use port::DropReason;

use crate::{Op, pop_vlan, push_vlan};

/// Longest field, and a byte on either side to make it whole words.
const EDIT_MAX: usize = 18;

/// Changes frame `i` as `op` says, checksums included, and `layers` with it.
///
/// A frame without the header that an operation is about stays as it is. Operations that make outputs are not for
/// this function; it does nothing for them.
///
/// # Errors
/// The frame is to be dropped: its TTL has run out, or there is no room for another tag.
pub fn apply(op: &Op, burst: &mut Burst, i: usize, layers: &mut Layers) -> Result<(), DropReason> {
    burst.load_head(i, HEAD_MAX);
    match *op {
        Op::Set { field, value, mask } => Edit { burst, i, layers: *layers }.set(field, value, mask),
        Op::PushVlan(tpid) => {
            let head = burst.head(i);
            // A new outer tag inherits what the old one said (OpenFlow 1.3, section 5.12).
            let tci = if crate::has_tag(head) { u16::from_be_bytes([head[14], head[15]]) } else { 0 };
            if !push_vlan(burst, i, tpid, tci) {
                return Err(DropReason::TooLong);
            }
            shift(layers, 4);
        }
        Op::PopVlan => {
            if pop_vlan(burst, i).is_some() {
                shift(layers, -4);
            }
        }
        Op::DecTtl => return Edit { burst, i, layers: *layers }.decrement_ttl(),
        Op::Output(_) | Op::InPort | Op::Normal | Op::Flood | Op::All | Op::Controller { .. } => {}
    }
    Ok(())
}

/// Moves every offset by one tag.
fn shift(layers: &mut Layers, by: i8) {
    let moved = |offset: u8| if offset == 0 { 0 } else { offset.saturating_add_signed(by) };
    layers.l3 = moved(layers.l3);
    layers.l4 = moved(layers.l4);
    layers.nd_link_layer = moved(layers.nd_link_layer);
    layers.tags = layers.tags.saturating_add_signed(by.signum());
}

/// Which checksums cover a piece of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Covered {
    /// None.
    No,
    /// The IPv4 header's, and through the pseudo-header the transport's.
    Ipv4Address,
    /// The IPv4 header's.
    Ipv4,
    /// The transport's, through the pseudo-header.
    Ipv6Address,
    /// The transport's.
    Transport,
}

struct Edit<'a> {
    burst: &'a mut Burst,
    i: usize,
    layers: Layers,
}

impl Edit<'_> {
    fn set(mut self, field: Field, value: u128, mask: u128) {
        use Covered::*;
        let l = self.layers;
        let (l3, l4) = (usize::from(l.l3), usize::from(l.l4));
        match field {
            Field::EthDst => self.masked(0, 0, 6, value, mask, No),
            Field::EthSrc => self.masked(0, 6, 6, value, mask, No),
            Field::VlanTci if l.tags > 0 => {
                self.masked(0, 14, 2, value, mask & !u128::from(flow::PRESENT), No)
            }
            Field::VlanTci2 if l.tags > 1 => {
                self.masked(0, 18, 2, value, mask & !u128::from(flow::PRESENT), No)
            }
            Field::IpTos if l.has(Layers::IPV4) => self.masked(l3, 1, 1, value, mask, Ipv4),
            Field::IpTos if l.has(Layers::IPV6) => self.masked(l3, 0, 2, value << 4, mask << 4, No),
            Field::IpTtl if l.has(Layers::IPV4) => self.masked(l3, 8, 1, value, mask, Ipv4),
            Field::IpTtl if l.has(Layers::IPV6) => self.masked(l3, 7, 1, value, mask, No),
            Field::Ipv4Src if l.has(Layers::IPV4) => self.masked(l3, 12, 4, value, mask, Ipv4Address),
            Field::Ipv4Dst if l.has(Layers::IPV4) => self.masked(l3, 16, 4, value, mask, Ipv4Address),
            Field::IpProto if l.has(Layers::ARP) => self.masked(l3, 6, 2, value, mask, No),
            Field::ArpSha if l.has(Layers::ARP) => self.masked(l3, 8, 6, value, mask, No),
            Field::Ipv4Src if l.has(Layers::ARP) => self.masked(l3, 14, 4, value, mask, No),
            Field::ArpTha if l.has(Layers::ARP) => self.masked(l3, 18, 6, value, mask, No),
            Field::Ipv4Dst if l.has(Layers::ARP) => self.masked(l3, 24, 4, value, mask, No),
            Field::Ipv6Src if l.has(Layers::IPV6) => self.masked(l3, 8, 16, value, mask, Ipv6Address),
            Field::Ipv6Dst if l.has(Layers::IPV6) => self.masked(l3, 24, 16, value, mask, Ipv6Address),
            Field::TpSrc if l.has(Layers::ICMP | Layers::ICMPV6) => {
                self.masked(l4, 0, 1, value, mask, Transport)
            }
            Field::TpDst if l.has(Layers::ICMP | Layers::ICMPV6) => {
                self.masked(l4, 1, 1, value, mask, Transport)
            }
            Field::TpSrc if l.has(Layers::L4) => self.masked(l4, 0, 2, value, mask, Transport),
            Field::TpDst if l.has(Layers::L4) => self.masked(l4, 2, 2, value, mask, Transport),
            Field::NdTarget if l.has(Layers::ND) => self.masked(l4, 8, 16, value, mask, Transport),
            Field::ArpSha | Field::ArpTha if l.has(Layers::ND) && l.nd_link_layer > 0 => {
                self.masked(l4, usize::from(l.nd_link_layer) - l4, 6, value, mask, Transport);
            }
            // Not in the packet, or not in this one.
            _ => {}
        }
    }

    fn decrement_ttl(mut self) -> Result<(), DropReason> {
        use Covered::*;
        let (offset, covered) = match self.layers {
            l if l.has(Layers::IPV4) => (8, Ipv4),
            l if l.has(Layers::IPV6) => (7, No),
            _ => return Ok(()),
        };
        let l3 = usize::from(self.layers.l3);
        match self.burst.head(self.i).get(l3 + offset) {
            None => Ok(()),
            Some(0 | 1) => Err(DropReason::TtlExpired),
            Some(&ttl) => {
                self.masked(l3, offset, 1, u128::from(ttl - 1), 0xff, covered);
                Ok(())
            }
        }
    }

    /// Writes the bits of `mask` into `len` bytes at `base + offset`; `base` starts the header that checksums are
    /// counted from.
    fn masked(&mut self, base: usize, offset: usize, len: usize, value: u128, mask: u128, covered: Covered) {
        let head = self.burst.head_mut(self.i);
        // Checksums are sums of 16-bit words counted from the header's start.
        let (start, end) = (offset & !1, (offset + len).next_multiple_of(2));
        if base + end > head.len() {
            return;
        }
        let words = end - start;
        let (mut old, mut new) = ([0; EDIT_MAX], [0; EDIT_MAX]);
        old[..words].copy_from_slice(&head[base + start..base + end]);
        let (value, mask) = (value.to_be_bytes(), mask.to_be_bytes());
        for (n, byte) in head[base + offset..base + offset + len].iter_mut().enumerate() {
            let bits = mask[16 - len + n];
            *byte = *byte & !bits | value[16 - len + n] & bits;
        }
        new[..words].copy_from_slice(&head[base + start..base + end]);
        if old != new {
            self.update_checksums(&old[..words], &new[..words], covered, start);
        }
    }

    fn update_checksums(&mut self, old: &[u8], new: &[u8], covered: Covered, offset: usize) {
        let l3 = usize::from(self.layers.l3);
        if matches!(covered, Covered::Ipv4 | Covered::Ipv4Address) {
            self.update_at(l3 + 10, |sum| update_bytes(sum, old, new));
        }
        if matches!(covered, Covered::No | Covered::Ipv4) || !self.layers.has(Layers::L4) {
            return;
        }
        let pseudo = covered != Covered::Transport;
        let partial = self.burst.offload(self.i).needs_csum();
        let l4 = usize::from(self.layers.l4);
        let at = match self.layers {
            l if l.has(Layers::TCP) => 16,
            l if l.has(Layers::UDP) => 6,
            l if l.has(Layers::ICMPV6) => 2,
            l if l.has(Layers::ICMP) && !pseudo => 2,
            l if l.has(Layers::SCTP) && !pseudo => return self.update_sctp(old, new, offset),
            _ => return,
        };
        let udp = self.layers.has(Layers::UDP);
        self.update_at(l4 + at, |sum| match (partial, pseudo) {
            // What stands there is the pseudo-header's sum, not inverted; the rest is yet to be summed.
            (true, true) => !update_bytes(!sum, old, new),
            (true, false) => sum,
            (false, _) if udp && sum == 0 => 0,
            (false, _) if udp => nonzero(update_bytes(sum, old, new)),
            (false, _) => update_bytes(sum, old, new),
        });
    }

    fn update_at(&mut self, at: usize, f: impl FnOnce(u16) -> u16) {
        if let Some(bytes) = self.burst.head_mut(self.i).get_mut(at..at + 2) {
            let sum = f(u16::from_be_bytes([bytes[0], bytes[1]]));
            bytes.copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Where the IP packet ends in the frame: what follows is padding.
    fn packet_end(&self) -> usize {
        let l3 = usize::from(self.layers.l3);
        let (at, header) = if self.layers.has(Layers::IPV4) { (2, 0) } else { (4, 40) };
        let head = self.burst.head(self.i);
        let length = head.get(l3 + at..l3 + at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        self.burst.frame_len(self.i).min(l3 + header + usize::from(length))
    }

    /// CRC32c is linear: the checksum changes by the checksum (without its constants) of the change followed by
    /// zeros to the packet's end.
    fn update_sctp(&mut self, old: &[u8], new: &[u8], offset: usize) {
        let l4 = usize::from(self.layers.l4);
        let Some(zeros) = self.packet_end().checked_sub(l4 + offset + old.len()) else { return };
        let mut change = [0; EDIT_MAX];
        change.iter_mut().zip(old.iter().zip(new)).for_each(|(c, (a, b))| *c = a ^ b);
        // With all ones at the start and end inverted, zeros to begin with are what the function calls all ones.
        let delta = !crc32c::crc32c_append(!0, &change[..old.len()]);
        let delta = crc32c::crc32c_combine(delta, 0, zeros);
        if let Some(bytes) = self.burst.head_mut(self.i).get_mut(l4 + 8..l4 + 12) {
            let sum = u32::from_le_bytes(bytes.try_into().expect("four bytes")) ^ delta;
            bytes.copy_from_slice(&sum.to_le_bytes());
        }
    }
}
