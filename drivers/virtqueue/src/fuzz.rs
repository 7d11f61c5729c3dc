//! Entry points for fuzzers: what a guest can write, as bytes. The tests replay a corpus through them.
//!
//! A guest starts with honest rings and chains on them; the input then says, step by step, what it overwrites and when
//! the switch looks. So a short input already reaches deep, and a finding is a few steps long.

use std::cell::RefCell;
use std::sync::Arc;

use guest_memory::{MemMap, RegionSpec, SharedMemory};
use packet::{BURST_MAX, Burst, Offload};
use port::{DropReason, PortCounters, RxQueue, Selection, TxQueue};
use virtio_defs::{feature, net};

use crate::driver::{Buffer, Driver, DriverConfig};
use crate::net_header::judge;
use crate::{FRAME_MAX, RingConfig, VirtioRx, VirtioTx};

const GPA: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000;
const MEMORY: usize = 64 << 10;
const SIZE: u16 = 16;
const RX_RING: usize = 4096;
const DATA: usize = 8192;

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
    let features = feature::VERSION_1 | layout | chosen;

    let (memory, map) = guest();
    let config = DriverConfig { size: SIZE, features, gpa: GPA };
    let (mut sender, mut receiver) =
        (Driver::new(memory.clone(), 0, config), Driver::new(memory.clone(), RX_RING, config));
    let ring = |driver: &Driver| {
        let (desc, avail, used) = driver.user_addresses(USER);
        RingConfig::new(SIZE, desc, avail, used, features)
    };
    let mut rx = VirtioRx::new(ring(&sender), map.clone()).expect("an honest start");
    let mut tx = VirtioTx::new(ring(&receiver), map).expect("an honest start");
    for n in 0..6u64 {
        let at = GPA + DATA as u64 + n * 1024;
        sender.add(&[Buffer::readable(at, 12), Buffer::readable(at + 12, 100)], 0);
        sender.add_indirect(
            &[Buffer::readable(at, 6), Buffer::readable(at + 6, 200)],
            0x8000 + n as usize * 32,
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
