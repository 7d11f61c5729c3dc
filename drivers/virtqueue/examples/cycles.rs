//! Cycles per frame from one guest's transmit ring to another's receive ring: for tuning this crate.
//!
//! Both guests and the switch run on one thread, so the cache is warm and nobody else writes: this is the instruction
//! cost, the floor of what two cores will see. Only the switch's part is timed.
//!
//! `cargo run --release -p virtqueue --example cycles [-- ROUNDS [FILTER]]`
#![allow(unsafe_code, reason = "guest memory is prepared through pointers")]

use std::hint::black_box;
use std::sync::Arc;

use guest_memory::{MemMap, RegionSpec, SharedMemory};
use packet::cycles;
use packet::{BURST_MAX, Burst};
use port::{PortCounters, RxQueue, Selection, TxQueue};
use virtio_defs::{feature, net};
use virtqueue::driver::{Buffer, Driver, DriverConfig};
use virtqueue::{RingConfig, VirtioRx, VirtioTx};

const GPA: u64 = 0x1_0000_0000;
const USER: u64 = 0x7f00_0000_0000;
const SIZE: u16 = 256;
/// One buffer as DPDK lays it out: the header right in front of a payload that begins a cache line.
const STRIDE: usize = 2304;
const PAYLOAD: usize = 128;
const DATA: usize = 1 << 20;

struct Guest {
    memory: Arc<SharedMemory>,
    map: Arc<MemMap>,
    ring: Driver,
}

impl Guest {
    fn new(features: u64) -> Guest {
        let len = DATA + STRIDE * SIZE as usize;
        let memory = Arc::new(SharedMemory::new(c"cycles", len as u64).expect("memory"));
        let region = RegionSpec { gpa: GPA, len: len as u64, user_va: USER, fd: memory.fd(), offset: 0 };
        let map = Arc::new(MemMap::new(&[region]).expect("a map"));
        let ring = Driver::new(memory.clone(), 0, DriverConfig { size: SIZE, features, gpa: GPA });
        Guest { memory, map, ring }
    }

    fn config(&self) -> RingConfig {
        let (desc, driver, device) = self.ring.user_addresses(USER);
        RingConfig::new(SIZE, desc, driver, device, self.ring.config().features)
    }

    fn buffer(slot: usize) -> u64 {
        GPA + (DATA + slot * STRIDE + PAYLOAD - net::HEADER_BYTES) as u64
    }
}

/// Cycles per frame, the median burst's: receive, transmit, release.
fn measure(features: u64, len: usize, head: usize, rounds: usize) -> [f64; 3] {
    let (mut a, mut b) = (Guest::new(features), Guest::new(features));
    // SAFETY: inside the memory.
    unsafe { a.memory.start().as_ptr().add(DATA).write_bytes(0, STRIDE * SIZE as usize) };
    // Behind `dyn`, as a worker calls them.
    let rx = VirtioRx::new(a.config(), a.map.clone()).expect("rx");
    let tx = VirtioTx::new(b.config(), b.map.clone()).expect("tx");
    let mut rx: Box<dyn RxQueue> = black_box(Box::new(rx));
    let mut tx: Box<dyn TxQueue> = black_box(Box::new(tx));
    let (rx_counters, tx_counters) = (PortCounters::default(), PortCounters::default());
    let mut burst = Burst::new();
    let which: [u8; BURST_MAX] = std::array::from_fn(|i| i as u8);
    let mut slot = 0;
    let mut samples: [Vec<u64>; 3] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..rounds + rounds / 10 {
        for k in 0..BURST_MAX {
            let slot = (slot + k) % SIZE as usize;
            assert!(a.ring.add(&[Buffer::readable(Guest::buffer(slot), (len + 12) as u32)], 0));
            assert!(b.ring.add(&[Buffer::writable(Guest::buffer(slot), 2048)], 0));
        }
        slot = (slot + BURST_MAX) % SIZE as usize;
        a.ring.publish();
        b.ring.publish();
        let start = cycles::now();
        rx.receive(&mut burst, &rx_counters).expect("an honest guest");
        if head > 0 {
            for i in 0..burst.len() {
                burst.load_head(i, head);
            }
        }
        let received = cycles::now();
        tx.transmit(Selection { burst: &mut burst, which: &which }, &tx_counters).expect("an honest guest");
        tx.flush(&tx_counters).expect("an honest guest");
        let sent = cycles::now();
        rx.release(&mut burst, &rx_counters);
        burst.clear();
        let released = cycles::now();
        if round >= rounds / 10 {
            samples[0].push(received - start);
            samples[1].push(sent - received);
            samples[2].push(released - sent);
        }
        a.ring.poll(BURST_MAX, |_, _| ()).expect("our own device");
        b.ring.poll(BURST_MAX, |_, _| ()).expect("our own device");
    }
    assert_eq!(tx_counters.tx_frames.get(), ((rounds + rounds / 10) * BURST_MAX) as u64);
    samples.map(|mut s| {
        let middle = s.len() / 2;
        *s.select_nth_unstable(middle).1 as f64 / BURST_MAX as f64
    })
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(10_000);
    let filter = std::env::args().nth(2).unwrap_or_default();
    println!("{:<34} {:>8} {:>8} {:>8} {:>8}", "cycles per frame", "receive", "transmit", "release", "sum");
    let offloads = net::feature::CSUM | net::feature::GUEST_CSUM | net::feature::HOST_TSO4;
    for len in [64, 512, 1518] {
        for (name, extra, head) in [
            ("", 0, 0),
            (" offloads", offloads | net::feature::MRG_RXBUF, 0),
            (" in-order", feature::IN_ORDER, 0),
            (" head", 0, 64),
        ] {
            for (ring, bits) in [("split", 0), ("packed", feature::RING_PACKED)] {
                let name = format!("{len} {ring}{name}");
                if !name.contains(&filter) {
                    continue;
                }
                // The best of several: others share the machine.
                let best = (0..7)
                    .map(|_| measure(feature::VERSION_1 | bits | extra, len, head, rounds))
                    .min_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum()))
                    .expect("some runs");
                println!(
                    "{:<34} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                    name,
                    best[0],
                    best[1],
                    best[2],
                    best.iter().sum::<f64>()
                );
            }
        }
    }
}
