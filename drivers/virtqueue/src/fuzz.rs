//! Entry points for fuzzers: what a guest can write, as bytes. The tests replay a corpus through them.
//!
//! A guest starts with honest rings and chains on them; the input then says, step by step, what it overwrites and when
//! the switch looks. So a short input already reaches deep, and a finding is a few steps long.

use std::cell::RefCell;
use std::sync::Arc;

use guest_memory::{Mapping, MemMap, RegionSpec, SharedMemory};
use packet::{BURST_MAX, Burst, Offload};
use port::{DropReason, PortCounters, RxQueue, Selection, TxQueue};
use virtio_defs::{feature, net};

use crate::driver::{Buffer, Driver, DriverConfig};
use crate::net_header::judge;
use crate::{FRAME_MAX, InflightRegion, RingConfig, VirtioRx, VirtioTx};

const GPA: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000;
const MEMORY: usize = 64 << 10;
const SIZE: u16 = 16;
const RX_RING: usize = 4096;
const DATA: usize = 8192;
/// Where indirect tables lie.
const TABLE: usize = 0x8000;

thread_local! {
    /// The guest's memory, made once: mapping it for each input would be most of the work.
    static GUEST: RefCell<Option<(Arc<SharedMemory>, Arc<MemMap>)>> = const { RefCell::new(None) };
}

fn guest() -> (Arc<SharedMemory>, Arc<MemMap>) {
    GUEST.with_borrow_mut(|guest| {
        let (memory, map) = guest.get_or_insert_with(|| {
            let memory = Arc::new(SharedMemory::new(c"fuzz", MEMORY as u64).expect("memory for fuzzing"));
            let region =
                RegionSpec { gpa: GPA, len: MEMORY as u64, user_va: USER, fd: memory.fd(), offset: 0 };
            let map = Arc::new(MemMap::new(&[region]).expect("a map for fuzzing"));
            (memory, map)
        });
        (memory.clone(), map.clone())
    })
}

/// Runs an input against a split ring's two queues.
pub fn fuzz_split(data: &[u8]) {
    run(data, 0);
}

/// Runs an input against a packed ring's two queues.
pub fn fuzz_packed(data: &[u8]) {
    run(data, feature::RING_PACKED);
}

/// Hands the input to the switch as the contents of indirect tables, on a split and on a packed ring: the first byte says
/// how long the table claims to be, the rest lies where the table is.
pub fn fuzz_indirect(data: &[u8]) {
    let Some((&[low, high], table)) = data.split_first_chunk::<2>() else { return };
    let claimed = u32::from(u16::from_le_bytes([low, high]));
    let table = &table[..table.len().min(MEMORY - TABLE)];
    for layout in [0, feature::RING_PACKED] {
        let features = feature::VERSION_1 | feature::INDIRECT_DESC | net::feature::MRG_RXBUF | layout;
        let (memory, mut ends) = ends(features);
        poke(&memory, TABLE, table);
        for driver in [&mut ends.sender, &mut ends.receiver] {
            // Twice the same table, with chains of the ordinary kind around: what is behind a bad one matters too.
            for _ in 0..2 {
                let at = GPA + DATA as u64;
                driver.add(&[Buffer { writable: driver.offset() != 0, ..Buffer::readable(at, 112) }], 0);
                driver.add_table(GPA + TABLE as u64, claimed, 0);
            }
            driver.publish();
        }
        let (counters, mut burst) = (PortCounters::default(), Burst::new());
        for _ in 0..3 {
            receive(&mut ends.rx, &mut ends.tx, &mut burst, &counters);
        }
    }
}

/// Starts a packed ring whose in-flight record and descriptors are the input: what a front-end may have made of them
/// since the switch was killed.
pub fn fuzz_recovery(data: &[u8]) {
    let features = feature::VERSION_1 | feature::RING_PACKED;
    let (memory, map) = guest();
    let driver = Driver::new(memory.clone(), 0, DriverConfig { size: SIZE, features, gpa: GPA });
    let region = InflightRegion::create(1, SIZE, true).expect("memory for fuzzing");
    let fd = region.fd().expect("it is ours");
    let record = Mapping::new(fd, 0, region.bytes()).expect("a mapping for fuzzing");
    let (in_record, in_ring) = data.split_at(data.len().min(region.bytes() as usize));
    // SAFETY: no more than the region has, and a memfd's mapping overlaps nothing of ours.
    unsafe { record.start().as_ptr().copy_from_nonoverlapping(in_record.as_ptr(), in_record.len()) };
    poke(&memory, 0, &in_ring[..in_ring.len().min(usize::from(SIZE) * 16)]);
    let (desc, avail, used) = driver.user_addresses(USER);
    let mut config = RingConfig::new(SIZE, desc, avail, used, features);
    config.inflight = region.queue(0);
    let Ok(mut rx) = VirtioRx::new(config, map) else { return };
    let (counters, mut burst) = (PortCounters::default(), Burst::new());
    for _ in 0..2 {
        burst.clear();
        // What the ring holds is a guest's affair; that it is accounted for is ours.
        let received = rx.receive(&mut burst, &counters);
        assert!(received.is_ok() || burst.is_empty());
        rx.release(&mut burst, &counters);
    }
    let base = rx.into_state().base;
    assert!(u32::from(SIZE) > base & 0x7fff && u32::from(SIZE) > base >> 16 & 0x7fff, "base {base:#x}");
}

/// Judges a header of twelve bytes against a frame length (two bytes) and features (one byte).
///
/// # Panics
/// When a request passes that a receiver could not trust.
pub fn fuzz_net_header(data: &[u8]) {
    let Some((bytes, _)) = data.split_first_chunk::<15>() else { return };
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let header = Offload {
        flags: bytes[0],
        gso_type: bytes[1],
        hdr_len: u16_at(2),
        gso_size: u16_at(4),
        csum_start: u16_at(6),
        csum_offset: u16_at(8),
    };
    let len = usize::from(u16_at(12)).max(14);
    let all = [net::feature::CSUM, net::feature::HOST_TSO4, net::feature::HOST_TSO6, net::feature::HOST_ECN];
    let features = (0..4).filter(|bit| bytes[14] >> bit & 1 == 1).map(|bit| all[bit]).sum();
    if let Some(o) = judge(&header, len, features) {
        trustworthy(&o, len);
    }
}

/// What every later stage relies on.
fn trustworthy(o: &Offload, len: usize) {
    assert_eq!(o.flags & !(Offload::NEEDS_CSUM | Offload::DATA_VALID), 0);
    if o.needs_csum() {
        assert!(usize::from(o.csum_start) + usize::from(o.csum_offset) + 2 <= len);
    }
    if o.gso_type != 0 {
        assert!(o.gso_size > 0 && o.needs_csum() && usize::from(o.hdr_len) <= len);
        assert!(usize::from(o.csum_start) + 20 <= len);
    }
}

/// Both rings of a guest, the driver's end and the switch's.
struct Ends {
    sender: Driver,
    receiver: Driver,
    rx: VirtioRx,
    tx: VirtioTx,
}

/// Fresh rings with these features, in the guest's memory.
fn ends(features: u64) -> (Arc<SharedMemory>, Ends) {
    let (memory, map) = guest();
    let config = DriverConfig { size: SIZE, features, gpa: GPA };
    let sender = Driver::new(memory.clone(), 0, config);
    let receiver = Driver::new(memory.clone(), RX_RING, config);
    let ring = |driver: &Driver| {
        let (desc, avail, used) = driver.user_addresses(USER);
        RingConfig::new(SIZE, desc, avail, used, features)
    };
    let rx = VirtioRx::new(ring(&sender), map.clone()).expect("an honest start");
    let tx = VirtioTx::new(ring(&receiver), map).expect("an honest start");
    (memory, Ends { sender, receiver, rx, tx })
}

/// The input's bytes, taken from the front.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
}

fn run(data: &[u8], layout: u64) {
    let mut input = Input(data);
    let Some([choice]) = input.take() else { return };
    let choices = [
        feature::EVENT_IDX,
        feature::IN_ORDER,
        feature::INDIRECT_DESC,
        net::feature::MRG_RXBUF,
        net::feature::CSUM | net::feature::HOST_TSO4 | net::feature::HOST_TSO6 | net::feature::HOST_ECN,
        net::feature::GUEST_CSUM | net::feature::GUEST_TSO4,
    ];
    let chosen: u64 =
        choices.iter().enumerate().filter(|(bit, _)| choice >> bit & 1 == 1).map(|(_, f)| f).sum();
    let (memory, Ends { mut sender, mut receiver, mut rx, mut tx }) =
        ends(feature::VERSION_1 | layout | chosen);
    for n in 0..6u64 {
        let at = GPA + DATA as u64 + n * 1024;
        sender.add(&[Buffer::readable(at, 12), Buffer::readable(at + 12, 100)], 0);
        sender.add_indirect(
            &[Buffer::readable(at, 6), Buffer::readable(at + 6, 200)],
            TABLE + n as usize * 32,
            0,
        );
        receiver.add(&[Buffer::writable(at + 512, 30), Buffer::writable(at + 600, 300)], 0);
        receiver.add(&[Buffer::writable(at + 512, 200)], 0);
    }
    sender.publish();
    receiver.publish();

    let counters = PortCounters::default();
    let mut burst = Burst::new();
    let frame = [0x5a; 700];
    while let Some([step]) = input.take() {
        match step & 7 {
            // The switch receives, looks at every byte, and sends it back.
            0 | 1 => receive(&mut rx, &mut tx, &mut burst, &counters),
            2 => {
                let mut own = Burst::new();
                for len in [60, 700, usize::from(step) + 14] {
                    // SAFETY: the frame outlives the burst.
                    unsafe { own.push(frame.as_ptr(), len as u32, Offload::default(), 0) };
                }
                // The outcome is the counters', a fault stays; neither matters here.
                let _ = tx.transmit(Selection { burst: &mut own, which: &[0, 1, 2] }, &counters);
                let _ = tx.flush(&counters);
            }
            3 => {
                rx.arm();
                rx.disarm();
            }
            // The guest overwrites: a descriptor of either ring, or anything anywhere.
            4 | 5 => {
                let Some(bytes) = input.take::<16>() else { break };
                let ring = if step & 1 == 0 { 0 } else { RX_RING };
                poke(&memory, ring + usize::from(step >> 3 & 15) * 16, &bytes);
            }
            6 => {
                let Some([low, high, value]) = input.take() else { break };
                poke(&memory, usize::from(u16::from_le_bytes([low, high])) % MEMORY, &[value]);
            }
            _ => {
                let Some([low, high]) = input.take() else { break };
                let driver = if step & 8 == 0 { 0 } else { RX_RING } + SIZE as usize * 16;
                poke(&memory, driver + usize::from(step >> 4) * 2, &[low, high]);
            }
        }
    }
    receive(&mut rx, &mut tx, &mut burst, &counters);
}

fn receive(rx: &mut VirtioRx, tx: &mut VirtioTx, burst: &mut Burst, counters: &PortCounters) {
    burst.clear();
    let before = PortTotals::of(counters);
    let received = rx.receive(burst, counters);
    let after = PortTotals::of(counters);
    let dropped = after.dropped - before.dropped;
    assert!(received.is_ok() || burst.is_empty());
    assert_eq!(
        after.received - before.received,
        burst.len() as u64 + dropped,
        "every frame is accounted for"
    );
    let which: Vec<u8> = (0..burst.len() as u8).collect();
    for &i in &which {
        let i = usize::from(i);
        let len = burst.frame_len(i);
        assert!((14..=FRAME_MAX).contains(&len));
        trustworthy(burst.offload(i), len);
        if i % 2 == 1 {
            burst.load_head(i, 64);
        }
    }
    let _ = tx.transmit(Selection { burst, which: &which }, counters);
    let _ = tx.flush(counters);
    rx.release(burst, counters);
    assert!(which.len() <= BURST_MAX);
}

struct PortTotals {
    received: u64,
    dropped: u64,
}

impl PortTotals {
    fn of(counters: &PortCounters) -> PortTotals {
        let dropped = [DropReason::Runt, DropReason::BadChain, DropReason::BadOffload];
        PortTotals {
            received: counters.rx_frames.get(),
            dropped: dropped.iter().map(|&r| counters.drops(r)).sum(),
        }
    }
}

fn poke(memory: &SharedMemory, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= MEMORY);
    // SAFETY: inside the memory, asserted.
    unsafe { std::ptr::copy(bytes.as_ptr(), memory.start().as_ptr().add(at), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs with the shape the targets expect, from a seed.
    fn corpus(inputs: usize, mut seed: u64, mut each: impl FnMut(&[u8])) {
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..inputs {
            let mut input = vec![random() as u8];
            for _ in 0..random() % 30 {
                let step = random() as u8;
                input.push(step);
                match step & 7 {
                    4 | 5 => {
                        // Descriptors that are nearly right.
                        let addr = GPA + random() % (MEMORY as u64 + 100);
                        let flags = random() as u16 & 0x8087;
                        let id = random() as u16 % (SIZE + 2);
                        let len = if random() % 8 == 0 { random() as u32 } else { random() as u32 % 2000 };
                        input.extend(addr.to_le_bytes());
                        input.extend(len.to_le_bytes());
                        let pair = if random() % 2 == 0 { [flags, id] } else { [id, flags] };
                        input.extend(pair.iter().flat_map(|v| v.to_le_bytes()));
                    }
                    6 => input.extend(&random().to_le_bytes()[..3]),
                    7 => input.extend((random() as u16 % 40).to_le_bytes()),
                    _ => {}
                }
            }
            each(&input);
        }
    }

    #[test]
    fn the_corpus_breaks_nothing_in_a_split_ring() {
        corpus(20_000, 0x9e37_79b9_7f4a_7c15, fuzz_split);
    }

    #[test]
    fn the_corpus_breaks_nothing_in_a_packed_ring() {
        corpus(20_000, 0xc2b2_ae3d_27d4_eb4f, fuzz_packed);
    }

    #[test]
    fn an_indirect_table_of_two_buffers_is_a_frame_and_any_other_is_survived() {
        let entry = |addr: u64, len: u32, flags: u16, next: u16| {
            [&addr.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
        };
        let at = GPA + DATA as u64;
        let good = [vec![32, 0], entry(at, 12, 1, 1), entry(at + 64, 60, 0, 0)].concat();
        fuzz_indirect(&good);
        let mut random = 0x2545_f491_4f6c_dd1du64;
        for _ in 0..2000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut bad = good.clone();
            let place = random as usize % bad.len();
            bad[place] ^= 1 << (random >> 32 & 7);
            fuzz_indirect(&bad);
        }
    }

    #[test]
    fn any_record_of_a_killed_predecessor_is_survived() {
        let mut record = vec![0u8; 32 + 32 * usize::from(SIZE)];
        record[8..10].copy_from_slice(&0x5257u16.to_le_bytes());
        record[10..12].copy_from_slice(&SIZE.to_le_bytes());
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..2000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            record[16..24].copy_from_slice(&(random & 0x001f_801f_801f).to_le_bytes());
            record[32 + 32 * (random as usize >> 48 & 15)] = (random >> 40) as u8;
            fuzz_recovery(&record);
        }
    }

    #[test]
    fn no_header_passes_that_could_not_be_trusted() {
        let mut seed = 88_172_645_463_325_252u64;
        for _ in 0..200_000 {
            let mut input = [0u8; 15];
            for chunk in input.chunks_mut(8) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                chunk.copy_from_slice(&seed.to_le_bytes()[..chunk.len()]);
            }
            // Small values are the interesting ones.
            for high in [3, 5, 7, 9, 13] {
                input[high] &= 7;
            }
            input[0] &= 7;
            input[1] &= 0x87;
            fuzz_net_header(&input);
        }
    }
}
