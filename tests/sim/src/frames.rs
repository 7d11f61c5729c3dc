//! Frames that tell at their end who sent them, and the checks a receiver makes on its own.
//!
//! Checksums are computed here the long way, by none of the code under test.

use packet::Offload;
use port::WireFrame;

/// What ends each frame: marks, flow, sequence number in the flow, payload length, number of the frame.
pub const TAIL: usize = 24;
const MAGIC: [u8; 4] = *b"SiMu";

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// An address of a station: locally administered.
pub fn station(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// What a flow's frames look like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub dst: [u8; 6],
    pub src: [u8; 6],
    /// Types and TCIs of the tags, outermost first.
    pub tags: Vec<(u16, u16)>,
    pub network: Network,
    pub transport: Transport,
    /// Bytes behind all headers, tail included.
    pub payload: usize,
    /// The checksum is left to the receiver.
    pub partial: bool,
    /// TCP payload bytes per segment, when the frame is to be segmented.
    pub segment: Option<u16>,
}

/// The network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    V4 {
        src: u8,
        dst: u8,
        ttl: u8,
        tos: u8,
    },
    V6 {
        src: u8,
        dst: u8,
        ttl: u8,
    },
    /// None: only an Ethernet type.
    Other(u16),
}

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp { src: u16, dst: u16 },
    Udp { src: u16, dst: u16 },
    None,
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    pub flow: u32,
    pub seq: u32,
    pub id: u64,
    pub payload: u32,
}

/// Builds frame `id`, number `seq` of flow `flow`.
pub fn build(shape: &Shape, id: u64, flow: u32, seq: u32) -> WireFrame {
    let mut payload: Vec<u8> = (0..shape.payload.max(TAIL)).map(|at| pattern(id, at)).collect();
    let tail_at = payload.len() - TAIL;
    let tail = [
        &MAGIC[..],
        &flow.to_be_bytes(),
        &seq.to_be_bytes(),
        &(payload.len() as u32).to_be_bytes(),
        &id.to_be_bytes(),
    ];
    payload[tail_at..].copy_from_slice(&tail.concat());

    let mut bytes = [shape.dst, shape.src].concat();
    for (tpid, tci) in &shape.tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    let transport = transport(shape.transport);
    let protocol = if matches!(shape.transport, Transport::Tcp { .. }) { TCP } else { UDP };
    let length = transport.len() + payload.len();
    let mut pseudo = vec![];
    match shape.network {
        Network::V4 { src, dst, ttl, tos } => {
            bytes.extend(ETH_IPV4.to_be_bytes());
            let mut header = vec![0x45, tos];
            header.extend(((20 + length) as u16).to_be_bytes());
            header.extend([
                0,
                id as u8,
                0x40,
                0,
                ttl,
                if transport.is_empty() { 0xfd } else { protocol },
                0,
                0,
            ]);
            header.extend([10, 0, 0, src, 10, 0, 0, dst]);
            pseudo.extend_from_slice(&header[12..20]);
            let sum = !fold(sum(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(header);
        }
        Network::V6 { src, dst, ttl } => {
            bytes.extend(ETH_IPV6.to_be_bytes());
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend([if transport.is_empty() { 0xfd } else { protocol }, ttl]);
            let address = |last: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
            pseudo.extend([address(src), address(dst)].concat());
            bytes.extend_from_slice(&pseudo);
        }
        Network::Other(ethertype) => bytes.extend(ethertype.to_be_bytes()),
    }
    let at = bytes.len();
    bytes.extend(&transport);
    bytes.extend(payload);
    if matches!(shape.transport, Transport::Udp { .. }) {
        bytes[at + 4..at + 6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let mut offload = Offload::default();
    if !transport.is_empty() && !matches!(shape.network, Network::Other(_)) {
        let offset = if protocol == TCP { 16 } else { 6 };
        let begin = sum(&pseudo) + u64::from(protocol) + length as u64;
        let stored = if shape.partial {
            offload.flags = Offload::NEEDS_CSUM;
            offload.csum_start = at as u16;
            offload.csum_offset = offset as u16;
            fold(begin)
        } else {
            match !fold(begin + sum(&bytes[at..])) {
                0 => 0xffff,
                sum => sum,
            }
        };
        bytes[at + offset..at + offset + 2].copy_from_slice(&stored.to_be_bytes());
        if let Some(size) = shape.segment {
            offload.gso_type = if matches!(shape.network, Network::V4 { .. }) { 1 } else { 4 };
            offload.gso_size = size;
            offload.hdr_len = (at + transport.len()) as u16;
        }
    }
    WireFrame { bytes, offload }
}

fn transport(transport: Transport) -> Vec<u8> {
    match transport {
        Transport::Tcp { src, dst } => {
            let mut header = [src.to_be_bytes(), dst.to_be_bytes()].concat();
            header.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 2, 0, 0, 0, 0, 0]);
            header
        }
        // The length is filled in when it is known.
        Transport::Udp { src, dst } => [src.to_be_bytes(), dst.to_be_bytes(), [0; 2], [0; 2]].concat(),
        Transport::None => vec![],
    }
}

/// Byte `at` of the payload of frame `id`.
fn pattern(id: u64, at: usize) -> u8 {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 ^ (at as u8).wrapping_mul(31) ^ (at >> 8) as u8
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What ends the frame, if that is a tail.
pub fn tail(bytes: &[u8]) -> Option<Tail> {
    let tail = bytes.last_chunk::<TAIL>()?;
    let number = |at: usize| u32::from_be_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    let id = u64::from_be_bytes(*tail.last_chunk().expect("a tail has more than eight bytes"));
    (tail[..4] == MAGIC).then(|| Tail { flow: number(4), seq: number(8), payload: number(12), id })
}

/// What is wrong with a frame as a station would find it: payload changed, checksum wrong.
///
/// A frame without a tail (an inner segment of a longer one) is only checked for its checksums.
///
/// # Errors
/// What is wrong, in words.
pub fn check(frame: &WireFrame) -> Result<(), String> {
    let bytes = &frame.bytes;
    if let Some(tail) = tail(bytes) {
        let tail_at = bytes.len() - TAIL;
        // In the last of several segments only what it holds of the payload is there: at most 200 bytes are compared.
        let kept = (tail.payload as usize - TAIL).min(200).min(bytes.len().saturating_sub(TAIL + 100));
        for back in 1..=kept {
            let at = tail.payload as usize - TAIL - back;
            if bytes[tail_at - back] != pattern(tail.id, at) {
                return Err(format!("payload byte {at} of frame {} has changed", tail.id));
            }
        }
    }
    checksums(frame)
}

fn checksums(frame: &WireFrame) -> Result<(), String> {
    let bytes = &frame.bytes;
    let mut at = 12;
    let ethertype = loop {
        match bytes.get(at..at + 2) {
            Some([0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00]) => at += 4,
            Some(&[high, low]) => break u16::from_be_bytes([high, low]),
            _ => return Ok(()),
        }
    };
    let ip = at + 2;
    let Some(header) = bytes.get(ip..) else { return Ok(()) };
    let (protocol, transport, end, addresses) = match ethertype {
        ETH_IPV4 if header.len() >= 20 && header[0] == 0x45 => {
            if fold(sum(&header[..20])) != 0xffff {
                return Err("the checksum of the IPv4 header is wrong".into());
            }
            let end = ip + usize::from(u16::from_be_bytes([header[2], header[3]]));
            (header[9], ip + 20, end, &header[12..20])
        }
        ETH_IPV6 if header.len() >= 40 => {
            let end = ip + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            (header[6], ip + 40, end, &header[8..40])
        }
        _ => return Ok(()),
    };
    if end != bytes.len() {
        return Err(format!("the IP header says the frame ends at {end}, it does at {}", bytes.len()));
    }
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return Ok(()),
    };
    let begin = fold(sum(addresses) + u64::from(protocol) + (end - transport) as u64);
    if frame.offload.needs_csum() {
        let request = (usize::from(frame.offload.csum_start), usize::from(frame.offload.csum_offset));
        if request != (transport, offset) {
            return Err(format!("a checksum is asked for at {request:?}, TCP or UDP is at {transport}"));
        }
        let stored = sum(&bytes[transport + offset..][..2]) as u16;
        // The two forms of zero are one number.
        if stored % 0xffff != begin % 0xffff {
            return Err("the pseudo header's part of an open checksum is wrong".into());
        }
    } else if fold(u64::from(begin) + sum(&bytes[transport..end])) != 0xffff {
        return Err("the TCP or UDP checksum is wrong".into());
    }
    Ok(())
}
