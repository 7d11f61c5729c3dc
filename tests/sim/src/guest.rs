//! A guest: the driver side of its rings on memory of this process, and what it remembers of its buffers.

use std::collections::VecDeque;
use std::sync::Arc;

use fastrand::Rng;
use guest_memory::{MemMap, RegionSpec, SharedMemory};
use packet::Offload;
use port::WireFrame;
use virtio_defs::{feature, net};
use virtqueue::driver::{Buffer, Driver, DriverConfig};
use virtqueue::{EventFd, RingConfig, VirtioRx, VirtioTx};

const GPA: u64 = 0x4000_0000;
const USER: u64 = 0x7f00_0000_0000;
const HEADER: usize = 12;
/// Bytes of a pair's parts: its two rings, what it sends from, what it receives into.
const RING: usize = 32 << 10;
const TX_AREA: usize = 384 << 10;
const RX_AREA: usize = 1 << 20;
const PAIR: usize = 2 * RING + TX_AREA + RX_AREA;
/// A receive buffer for any frame there can be.
const LARGE: usize = 66 << 10;

/// How a guest is made.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    pub features: u64,
    /// Entries of each ring.
    pub size: u16,
    pub pairs: usize,
    /// Bytes of a receive buffer, header included.
    pub buffer: usize,
    /// In how many descriptors it is given.
    pub parts: usize,
}

impl GuestSpec {
    /// A random one.
    pub fn random(rng: &mut Rng) -> GuestSpec {
        let packed = rng.bool();
        let mut features = feature::VERSION_1 | if packed { feature::RING_PACKED } else { 0 };
        for bit in [
            feature::EVENT_IDX,
            feature::IN_ORDER,
            feature::INDIRECT_DESC,
            net::feature::MRG_RXBUF,
            net::feature::CSUM,
            net::feature::GUEST_CSUM,
        ] {
            features |= if rng.bool() { bit } else { 0 };
        }
        if features & net::feature::CSUM != 0 {
            for bit in [net::feature::HOST_TSO4, net::feature::HOST_TSO6] {
                features |= if rng.bool() { bit } else { 0 };
            }
        }
        if features & net::feature::GUEST_CSUM != 0 {
            for bit in [net::feature::GUEST_TSO4, net::feature::GUEST_TSO6] {
                features |= if rng.bool() { bit } else { 0 };
            }
        }
        let sizes: &[u16] = if packed { &[4, 7, 16, 33, 64, 256] } else { &[4, 8, 16, 64, 256] };
        let size = sizes[rng.usize(..sizes.len())];
        let large = features & net::feature::MRG_RXBUF == 0
            && features & (net::feature::GUEST_TSO4 | net::feature::GUEST_TSO6) != 0;
        let buffer = match rng.u8(..8) {
            _ if large => LARGE,
            0 => 200,
            1 => 700,
            2 => 4096,
            _ => 1536 + HEADER,
        };
        GuestSpec { features, size, pairs: rng.usize(1..=2), buffer, parts: rng.usize(1..=3) }
    }

    pub fn has(&self, bits: u64) -> bool {
        self.features & bits == bits
    }
}

/// A guest that is connected.
pub struct Guest {
    pub spec: GuestSpec,
    memory: Arc<SharedMemory>,
    map: Arc<MemMap>,
    pub pairs: Vec<Pair>,
}

/// Its end of a pair of queues.
pub struct Pair {
    tx: Driver,
    rx: Driver,
    /// Where the pair begins in the memory.
    at: usize,
    /// Chains the switch has: number, offset and length of the memory behind each.
    sent: VecDeque<(u32, usize, usize)>,
    next_number: u32,
    next_place: usize,
    free_slots: Vec<u32>,
    /// A frame of which some buffers have come: what is there, how many are missing.
    partial: Option<(WireFrame, u16)>,
    pub tx_kick: EventFd,
    tx_call: EventFd,
    rx_call: EventFd,
    rx_kick: EventFd,
    /// The driver asked to be told of frames, and looks at nothing until it is.
    pub waits: bool,
}

/// The driver found something that no device may do.
pub type Broken = String;

impl Guest {
    pub fn new(spec: GuestSpec, rng: &mut Rng) -> Guest {
        let len = spec.pairs * PAIR;
        let memory = Arc::new(SharedMemory::new(c"sim", len as u64).expect("memory for a guest"));
        // Two regions, neighbours for the guest; a frame may lie across the border.
        let border = 2 * RING + rng.usize(1..TX_AREA / 4096) * 4096;
        let map = Arc::new(map(&memory, border));
        let config = DriverConfig { size: spec.size, features: spec.features, gpa: GPA };
        let slots = (RX_AREA / spec.buffer).min(spec.size.into()) as u32;
        let event = || EventFd::create().expect("an event");
        let pairs = (0..spec.pairs).map(|n| {
            let at = n * PAIR;
            Pair {
                tx: Driver::new(memory.clone(), at, config),
                rx: Driver::new(memory.clone(), at + RING, config),
                at,
                sent: VecDeque::new(),
                next_number: 0,
                next_place: 0,
                free_slots: (0..slots).rev().collect(),
                partial: None,
                tx_kick: event(),
                tx_call: event(),
                rx_call: event(),
                rx_kick: event(),
                waits: false,
            }
        });
        Guest { pairs: pairs.collect(), spec, memory, map }
    }

    /// The switch's receive queue on the ring that pair `n` sends on.
    pub fn rx_queue(&self, n: usize) -> VirtioRx {
        let pair = &self.pairs[n];
        let config = ring(&pair.tx, &pair.tx_kick, &pair.tx_call);
        VirtioRx::new(config, self.map.clone()).expect("an honest ring")
    }

    /// The switch's transmit queue on the ring that pair `n` receives on.
    pub fn tx_queue(&self, n: usize) -> VirtioTx {
        let pair = &self.pairs[n];
        let config = ring(&pair.rx, &pair.rx_kick, &pair.rx_call);
        VirtioTx::new(config, self.map.clone()).expect("an honest ring")
    }

    /// The memory table of now.
    pub fn map(&self) -> Arc<MemMap> {
        self.map.clone()
    }

    /// Sends another table of the same memory, cut elsewhere.
    pub fn change_map(&mut self, rng: &mut Rng) -> Arc<MemMap> {
        let border = 2 * RING + rng.usize(1..TX_AREA / 4096) * 4096;
        self.map = Arc::new(map(&self.memory, border));
        self.map.clone()
    }

    /// Puts a frame into the ring of pair `n`; false when there is no room. The switch sees it after `publish`.
    pub fn send(&mut self, n: usize, frame: &WireFrame, rng: &mut Rng) -> bool {
        let pair = &mut self.pairs[n];
        let bytes = [&header(&frame.offload)[..], &frame.bytes].concat();
        let cuts = match rng.u8(..8) {
            0 => vec![HEADER],
            1 => vec![rng.usize(1..bytes.len()), rng.usize(1..bytes.len()), rng.usize(1..bytes.len())],
            2 => vec![rng.usize(1..=HEADER), bytes.len() - 1],
            _ => vec![],
        };
        let indirect = self.spec.has(feature::INDIRECT_DESC) && rng.u8(..4) == 0;
        let mut ends: Vec<usize> = cuts;
        ends.push(bytes.len());
        ends.sort_unstable();
        ends.dedup();
        // A gap behind each piece, so that pieces don't join by chance; the table, if any, comes first.
        let table = if indirect { ends.len() * 16 } else { 0 };
        // A whole number of descriptors, so that every table is aligned like one.
        let need = (table + bytes.len() + ends.len() * 3).next_multiple_of(16);
        let Some(place) = pair.place(need) else { return false };
        let mut at = pair.at + 2 * RING + place + table;
        let (mut begin, mut buffers) = (0, vec![]);
        for end in ends {
            self.memory.write(at, &bytes[begin..end]);
            buffers.push(Buffer::readable(GPA + at as u64, (end - begin) as u32));
            at += end - begin + 3;
            begin = end;
        }
        let number = pair.next_number;
        let added = if indirect {
            pair.tx.add_indirect(&buffers, pair.at + 2 * RING + place, number)
        } else {
            pair.tx.add(&buffers, number)
        };
        if added {
            pair.next_number += 1;
            pair.next_place = place + need;
            pair.sent.push_back((number, place, need));
        }
        added
    }

    /// Shows the switch what was put into the ring of pair `n`; true if it wants to be kicked.
    pub fn publish(&mut self, n: usize) -> bool {
        self.pairs[n].tx.publish()
    }

    /// Takes back what the switch has received from pair `n`, in order, and makes a mess of it.
    ///
    /// # Errors
    /// The switch gave back something else than the oldest.
    pub fn reclaim(&mut self, n: usize) -> Result<usize, Broken> {
        let pair = &mut self.pairs[n];
        let (sent, memory, begin) = (&mut pair.sent, &self.memory, pair.at + 2 * RING);
        let mut wrong = None;
        let taken = pair.tx.poll(usize::MAX, |number, _| {
            let oldest = sent.pop_front();
            match oldest {
                Some((oldest, at, len)) if oldest == number => {
                    memory.write(begin + at, &vec![0xdb; len.min(64)])
                }
                _ => wrong = Some(format!("chain {number} came back, the oldest out is {oldest:?}")),
            }
        });
        match (taken, wrong) {
            (Ok(taken), None) => Ok(taken),
            (Ok(_), Some(wrong)) => Err(wrong),
            (Err(error), _) => Err(error.to_string()),
        }
    }

    /// Gives the switch up to `max` empty buffers of pair `n`; returns how many.
    pub fn post(&mut self, n: usize, max: usize) -> usize {
        let GuestSpec { buffer, parts, .. } = self.spec;
        let pair = &mut self.pairs[n];
        let mut posted = 0;
        while posted < max {
            let Some(slot) = pair.free_slots.pop() else { break };
            let at = pair.at + 2 * RING + TX_AREA + slot as usize * buffer;
            let mut ends = [HEADER, buffer / 2, buffer];
            let ends = &mut ends[3 - parts..];
            let mut begin = 0;
            let mut buffers = vec![];
            for &mut end in ends {
                buffers.push(Buffer::writable(GPA + (at + begin) as u64, (end - begin) as u32));
                begin = end;
            }
            self.memory.write(at, &vec![0xee; buffer.min(128)]);
            if !pair.rx.add(&buffers, slot) {
                pair.free_slots.push(slot);
                break;
            }
            posted += 1;
        }
        if pair.rx.publish() {
            // The switch never sleeps on a ring it sends into.
            pair.rx_kick.signal();
        }
        posted
    }

    /// Takes up to `max` filled buffers of pair `n` and returns the frames that are complete.
    ///
    /// # Errors
    /// The switch broke the ring or a header.
    pub fn receive(&mut self, n: usize, max: usize) -> Result<Vec<WireFrame>, Broken> {
        let buffer = self.spec.buffer;
        let mergeable = self.spec.has(net::feature::MRG_RXBUF);
        let pair = &mut self.pairs[n];
        let mut used = vec![];
        pair.rx.poll(max, |slot, written| used.push((slot, written as usize))).map_err(|e| e.to_string())?;
        let mut frames = vec![];
        for (slot, written) in used {
            if pair.free_slots.contains(&slot) {
                return Err(format!("buffer {slot} came back twice"));
            }
            pair.free_slots.push(slot);
            if written > buffer {
                return Err(format!("{written} bytes in a buffer of {buffer}"));
            }
            let mut bytes = vec![0; written];
            self.memory.read(pair.at + 2 * RING + TX_AREA + slot as usize * buffer, &mut bytes);
            let (frame, left) = match pair.partial.take() {
                Some((mut frame, left)) => {
                    frame.bytes.extend(bytes);
                    (frame, left - 1)
                }
                None => {
                    let Some((header, frame)) = bytes.split_first_chunk::<HEADER>() else {
                        return Err(format!("a frame of {written} bytes, header included"));
                    };
                    let buffers = u16::from_le_bytes([header[10], header[11]]);
                    if buffers == 0 || (!mergeable && buffers != 1) {
                        return Err(format!("a frame in {buffers} buffers"));
                    }
                    (WireFrame { bytes: frame.to_vec(), offload: offload(header) }, buffers - 1)
                }
            };
            if left > 0 {
                pair.partial = Some((frame, left));
            } else {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// Buffers of pair `n` that the switch has to put frames in, and the bytes of each.
    pub fn room(&self, n: usize) -> (usize, usize) {
        (self.pairs[n].rx.outstanding(), self.spec.buffer)
    }

    /// What pair `n` has out after everything should have come back.
    ///
    /// # Errors
    /// Something is missing.
    pub fn check_returned(&self, n: usize) -> Result<(), Broken> {
        let pair = &self.pairs[n];
        let size = usize::from(self.spec.size);
        if pair.tx.outstanding() != 0 || !pair.sent.is_empty() {
            return Err(format!("{} chains that were sent never came back", pair.tx.outstanding()));
        }
        if pair.tx.free() != size {
            return Err(format!("{} of {size} descriptors are free, nothing is out", pair.tx.free()));
        }
        if pair.partial.is_some() {
            return Err("a frame came in part only".into());
        }
        let slots = (RX_AREA / self.spec.buffer).min(size);
        if pair.free_slots.len() + pair.rx.outstanding() != slots {
            return Err(format!(
                "of {slots} receive buffers {} are here and {} out",
                pair.free_slots.len(),
                pair.rx.outstanding()
            ));
        }
        Ok(())
    }

    /// Asks pair `n` to be called; false when there is something already.
    pub fn ask_for_calls(&mut self, n: usize) -> bool {
        let pair = &mut self.pairs[n];
        pair.rx_call.drain();
        pair.waits = !pair.rx.ask_for_calls();
        if !pair.waits {
            pair.rx.refuse_calls();
        }
        pair.waits
    }

    /// Whether pair `n` was called since it asked; it stops waiting then.
    pub fn was_called(&mut self, n: usize) -> bool {
        let pair = &mut self.pairs[n];
        let called = pair.rx_call.drain();
        if called {
            self.stop_waiting(n);
        }
        called
    }

    /// Looks by itself from now on.
    pub fn stop_waiting(&mut self, n: usize) {
        let pair = &mut self.pairs[n];
        pair.waits = false;
        pair.rx.refuse_calls();
    }

    /// Overwrites something in the rings, as a broken or hostile guest does; says what.
    pub fn scribble(&mut self, rng: &mut Rng) -> String {
        let pair = &self.pairs[rng.usize(..self.pairs.len())];
        let ring = pair.at + if rng.bool() { RING } else { 0 };
        let size = usize::from(self.spec.size);
        let (what, at, bytes) = match rng.u8(..4) {
            0 => {
                let addr = if rng.bool() { rng.u64(..) } else { GPA + rng.u64(..(PAIR + 4096) as u64) };
                let len = if rng.bool() { rng.u32(..) } else { rng.u32(..70_000) };
                let rest = [rng.u16(..), rng.u16(..)].map(|v| if rng.bool() { v & 0x8087 } else { v });
                let mut bytes = addr.to_le_bytes().to_vec();
                bytes.extend(len.to_le_bytes());
                bytes.extend(rest.iter().flat_map(|v| v.to_le_bytes()));
                ("a descriptor", ring + rng.usize(..size) * 16, bytes)
            }
            1 => {
                // Flags, index and first entries of the available ring; event suppression of a packed one.
                let driver = (size * 16).next_multiple_of(64);
                let value = if rng.bool() { rng.u16(..) } else { rng.u16(..300) };
                ("the driver's area", ring + driver + rng.usize(..8) * 2, value.to_le_bytes().to_vec())
            }
            2 => ("a byte of the ring", ring + rng.usize(..size * 16), vec![rng.u8(..)]),
            _ => ("a byte behind the ring", ring + rng.usize(size * 16..RING), vec![rng.u8(..)]),
        };
        self.memory.write(at, &bytes);
        format!("{what} at {at:#x}: {bytes:02x?}")
    }
}

impl Pair {
    /// An offset in the sending area with `need` bytes that no chain under way uses.
    fn place(&mut self, need: usize) -> Option<usize> {
        let Some(&(_, oldest, _)) = self.sent.front() else { return (need <= TX_AREA).then_some(0) };
        let next = self.next_place;
        if next > oldest {
            if next + need <= TX_AREA { Some(next) } else { (need < oldest).then_some(0) }
        } else {
            (next + need < oldest).then_some(next)
        }
    }
}

fn map(memory: &SharedMemory, border: usize) -> MemMap {
    let len = memory.len();
    let region = |from: usize, to: usize| RegionSpec {
        gpa: GPA + from as u64,
        len: (to - from) as u64,
        user_va: USER + from as u64,
        fd: memory.fd(),
        offset: from as u64,
    };
    MemMap::new(&[region(border, len), region(0, border)]).expect("two regions of a memory file")
}

fn ring(driver: &Driver, kick: &EventFd, call: &EventFd) -> RingConfig {
    let (desc, avail, used) = driver.user_addresses(USER);
    let config = driver.config();
    let mut ring = RingConfig::new(config.size, desc, avail, used, config.features);
    ring.kick = Some(kick.try_clone().expect("a descriptor"));
    ring.call = Some(call.try_clone().expect("a descriptor"));
    ring
}

/// The header in front of a frame that asks for this.
fn header(o: &Offload) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    (bytes[0], bytes[1]) = (o.flags, o.gso_type);
    for (at, value) in [(2, o.hdr_len), (4, o.gso_size), (6, o.csum_start), (8, o.csum_offset)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn offload(header: &[u8; HEADER]) -> Offload {
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    Offload {
        flags: header[0],
        gso_type: header[1],
        hdr_len: number(2),
        gso_size: number(4),
        csum_start: number(6),
        csum_offset: number(8),
    }
}
