//! What peers send.

use fastrand::Rng;

use crate::frames::{Network, Shape, Transport, station};
use crate::rules::any_station;

/// What a sender may leave to others, and how much it sends at once.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    pub checksum: bool,
    pub tso4: bool,
    pub tso6: bool,
    /// Longest frame, in bytes.
    pub frame_max: usize,
}

/// Where frames go.
fn destination(rng: &mut Rng) -> [u8; 6] {
    match rng.u8(..16) {
        0 => [0xff; 6],
        1 => [0x33, 0x33, 0, 0, 0, 1],
        // For the link only: not forwarded by a bridge.
        2 => [0x01, 0x80, 0xc2, 0, 0, 3],
        // Nobody has it.
        3 => station(250),
        _ => any_station(rng),
    }
}

fn tags(rng: &mut Rng) -> Vec<(u16, u16)> {
    let mut tci = || {
        let vlan = [0, 5, 5, 6, 7][rng.usize(..5)];
        // Now and then a priority, or the drop eligible bit.
        vlan | if rng.u8(..4) == 0 { rng.u16(..16) << 12 } else { 0 }
    };
    let (outer, inner) = (tci(), tci());
    match rng.u8(..10) {
        0..=5 => vec![],
        6 | 7 => vec![(0x8100, outer)],
        8 => vec![(0x88a8, outer)],
        _ => vec![(0x88a8, outer), (0x8100, inner)],
    }
}

/// A flow of a port: its stations are those of the port, or now and then one that roams.
pub fn flow(rng: &mut Rng, port: u16, can: &Abilities) -> Shape {
    let src = match rng.u8(..10) {
        0 => station(rng.u8(36..40)),
        // Not an address of a station; never learned.
        1 if rng.u8(..4) == 0 => [0; 6],
        _ => station((port as u8 * 3 + rng.u8(..3)).clamp(4, 35)),
    };
    let ports = [80, 81, 1000, 8080, 53];
    let pair = (ports[rng.usize(..5)], ports[rng.usize(..5)]);
    let network = match rng.u8(..10) {
        0..=5 => Network::V4 {
            src: rng.u8(1..9),
            dst: rng.u8(1..9),
            ttl: [0, 1, 2, 64][rng.usize(..4)].max(rng.u8(..64)),
            tos: if rng.u8(..4) == 0 { 16 } else { 0 },
        },
        6..=8 => Network::V6 { src: rng.u8(1..9), dst: rng.u8(1..9), ttl: [1, 2, 64][rng.usize(..3)] },
        _ => Network::Other(0x88b5),
    };
    let transport = match (network, rng.u8(..8)) {
        (Network::Other(_), _) | (_, 0) => Transport::None,
        (_, 1..=4) => Transport::Tcp { src: pair.0, dst: pair.1 },
        _ => Transport::Udp { src: pair.0, dst: pair.1 },
    };
    let tso = match network {
        Network::V4 { .. } => can.tso4,
        Network::V6 { .. } => can.tso6,
        Network::Other(_) => false,
    };
    let segment = (tso && matches!(transport, Transport::Tcp { .. }) && rng.u8(..3) == 0)
        .then(|| [100, 536, 1000, 1448][rng.usize(..4)]);
    let most = can.frame_max.saturating_sub(100);
    let payload = match segment {
        Some(size) => {
            let long = if rng.u8(..20) == 0 { 60_000 } else { 8000 };
            rng.usize(24..(usize::from(size) * 12).min(long).min(most).max(25))
        }
        None => match rng.u8(..10) {
            0..=5 => rng.usize(24..200),
            6..=8 => rng.usize(24..1500),
            _ => rng.usize(24..9000),
        }
        .min(most),
    };
    let partial = segment.is_some()
        || (can.checksum
            && !matches!(network, Network::Other(_))
            && transport != Transport::None
            && rng.bool());
    Shape { dst: destination(rng), src, tags: tags(rng), network, transport, payload, partial, segment }
}
