//! Sends frames back where they came from.

use headers::{Ethernet, Ipv4, Ipv6, MacAddr, VlanTag, ethertype, protocol};
use virtio_defs::net::Header;
use virtqueue::driver::DriverError;

use crate::Probe;
use crate::device::Device;
use crate::frame::{FRAME_MAX, Frame};
use crate::report::Report;
use crate::run::{Actor, Turn};

/// Frames in a turn.
const TURN_MAX: usize = 64;

pub struct Reflect {
    mac: MacAddr,
    frame: Frame,
    foreign: u64,
    is_stopping: bool,
    idle_turns: u32,
}

impl Reflect {
    pub fn new(mac: [u8; 6]) -> Reflect {
        Reflect { mac: MacAddr(mac), frame: Frame::new(), foreign: 0, is_stopping: false, idle_turns: 0 }
    }
}

impl Actor for Reflect {
    fn turn(&mut self, device: &mut Device, _now: u64) -> Result<Turn, DriverError> {
        let mut turn = Turn::default();
        for _ in 0..TURN_MAX {
            // Received only when it can be sent: what doesn't fit waits where the switch sees it.
            if device.room(0)? == 0 {
                turn.wants_room = true;
                break;
            }
            if !device.next(&mut self.frame, FRAME_MAX)? {
                break;
            }
            turn.worked = true;
            if self.frame.bytes().len() <= device.frame_max() && turn_round(self.frame.bytes_mut(), self.mac)
            {
                let header =
                    Header { num_buffers: 0, flags: self.frame.header.flags & 1, ..self.frame.header };
                let sent = device.send(0, &header, self.frame.bytes())?;
                assert!(sent, "there was room");
            } else {
                self.foreign += 1;
            }
        }
        self.idle_turns = if turn.worked { 0 } else { self.idle_turns.saturating_add(1) };
        // What came just now may be the last but one.
        turn.done = self.is_stopping && self.idle_turns > 20 && device.unsent()? == 0;
        Ok(turn)
    }

    fn stop(&mut self, _now: u64) {
        self.is_stopping = true;
        self.idle_turns = 0;
    }

    fn report(&self, report: &mut Report) {
        report.foreign = self.foreign;
    }
}

/// Exchanges addresses and ports. False, and nothing to be sent, for a frame that isn't IP or not for us; of those
/// to everybody only numbered ones go back, so that no two reflectors keep each other busy.
fn turn_round(frame: &mut [u8], mac: MacAddr) -> bool {
    let is_probe = Probe::of_frame(frame).is_some();
    let Some((eth, rest)) = Ethernet::split_mut(frame) else { return false };
    let is_ours = eth.dst == mac || eth.dst.is_multicast() && is_probe;
    if !is_ours || eth.src == mac || eth.src.is_multicast() {
        return false;
    }
    (eth.dst, eth.src) = (eth.src, mac);
    let mut kind = eth.ethertype.get();
    let mut rest = rest;
    while ethertype::is_vlan(kind) {
        let Some((tag, next)) = VlanTag::split_mut(rest) else { return false };
        (kind, rest) = (tag.ethertype.get(), next);
    }
    // All that changes places is summed alike, so every checksum stays right.
    match kind {
        ethertype::IPV4 => {
            let Some((ip, _)) = Ipv4::split_mut(rest) else { return false };
            (ip.src, ip.dst) = (ip.dst, ip.src);
            let (protocol, l4) = (ip.protocol, ip.header_len());
            if !ip.is_later_fragment() {
                swap_ports(protocol, rest.get_mut(l4..));
            }
        }
        ethertype::IPV6 => {
            let Some((ip, next)) = Ipv6::split_mut(rest) else { return false };
            (ip.src, ip.dst) = (ip.dst, ip.src);
            swap_ports(ip.next_header, Some(next));
        }
        _ => return false,
    }
    true
}

fn swap_ports(protocol: u8, transport: Option<&mut [u8]>) {
    if matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
        && let Some(ports) = transport.and_then(|t| t.first_chunk_mut::<4>())
    {
        ports.rotate_left(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Template;
    use headers::checksum::checksum;
    use std::net::Ipv4Addr;

    const ME: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn probe(to: MacAddr) -> Vec<u8> {
        let ip = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
        Template::new(OTHER, to.0, ip, 60, 1).frame(7, 8, 9).to_vec()
    }

    #[test]
    fn addresses_and_ports_change_places_and_checksums_hold() {
        let before = probe(ME);
        let mut frame = before.clone();
        assert!(turn_round(&mut frame, ME));
        assert_eq!((&frame[..6], &frame[6..12]), (&OTHER[..], &ME.0[..]));
        assert_eq!((&frame[26..30], &frame[30..34]), (&before[30..34], &before[26..30]));
        assert_eq!((&frame[34..36], &frame[36..38]), (&before[36..38], &before[34..36]));
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(Probe::of_frame(&frame), Probe::of_frame(&before));
    }

    #[test]
    fn tags_stay_and_what_is_behind_them_is_turned() {
        let mut frame = probe(ME);
        frame.splice(12..12, [0x81, 0, 0, 5]);
        assert!(turn_round(&mut frame, ME));
        assert_eq!(frame[12..16], [0x81, 0, 0, 5]);
        assert_eq!(frame[30..34], [198, 18, 0, 2]);
    }

    #[test]
    fn frames_to_all_go_back_only_when_numbered_and_come_from_us() {
        let mut frame = probe(MacAddr::BROADCAST);
        assert!(turn_round(&mut frame, ME));
        assert_eq!(frame[6..12], ME.0);
        let mut other = probe(MacAddr::BROADCAST);
        other[42] = 0;
        assert!(!turn_round(&mut other, ME));
    }

    #[test]
    fn frames_for_others_from_ourselves_and_without_ip_are_left() {
        let mut for_another = probe(MacAddr([2, 0, 0, 0, 0, 5]));
        let mut from_us = probe(ME);
        from_us[6..12].copy_from_slice(&ME.0);
        let mut arp = probe(ME);
        arp[13] = 6;
        for frame in [&mut for_another, &mut from_us, &mut arp, &mut vec![0; 13]] {
            assert!(!turn_round(frame, ME));
        }
        for len in 0..60 {
            turn_round(&mut probe(ME)[..len], ME);
        }
    }
}
