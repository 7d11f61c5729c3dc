//! Prints what the look-ups of a frame cost, in ticks of [`packet::cycles`]. A tool to tune with; the machine's noise is in it, so the least of many runs is shown.
//!
//! `cargo run --release -p flow --example lookups`

use std::hint::black_box;

use flow::{Changes, ExactCache, Field, FlowMask, KeySlot, Megaflows, extract, extract_l2};
use packet::cycles::now;

const BURST: usize = 32;

/// Cycles per frame: the least over some runs of the mean over `bursts` bursts.
fn measure(name: &str, bursts: usize, mut run: impl FnMut(usize)) {
    measure_part(name, bursts, |burst| {
        let start = now();
        run(burst);
        now() - start
    });
}

/// As [`measure`], of what `run` says it took.
fn measure_part(name: &str, bursts: usize, mut run: impl FnMut(usize) -> u64) {
    let mut least = f64::MAX;
    for _ in 0..15 {
        let cycles: u64 = (0..bursts).map(&mut run).sum();
        least = least.min(cycles as f64 / (bursts * BURST) as f64);
    }
    println!("{name:<52} {least:7.1}");
}

fn tcp(flow: u32) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    f.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10]);
    f.extend(&flow.to_be_bytes()[1..]);
    f.extend([0, 80, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    f.resize(60, 0);
    f
}

fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, 7]);
    frame
}

fn tcp6() -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64];
    f.extend([1; 32]);
    f.extend([0, 80, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    f
}

/// Copies a burst of frames to scratch heads, then makes keys of all: the two loops of a worker.
fn extraction() {
    type Extract = fn(&[u8], usize, u32, &mut KeySlot) -> flow::Layers;
    let mut heads = vec![[0u8; 192]; BURST];
    let mut slots = vec![KeySlot::EMPTY; BURST];
    for (name, frame, parse) in [
        ("copy of the head only", tcp(1), (|_, _, _, _| Default::default()) as Extract),
        ("copy + extract TCP", tcp(1), extract as Extract),
        ("copy + extract TCP, tagged", tagged(tcp(1)), extract),
        ("copy + extract TCP over IPv6", tcp6(), extract),
        ("copy + extract_l2", tcp(1), extract_l2),
    ] {
        let frames = vec![frame; BURST];
        measure(name, 2000, |_| {
            for (head, frame) in heads.iter_mut().zip(&frames) {
                head[64..64 + frame.len()].copy_from_slice(black_box(frame));
            }
            for ((head, frame), slot) in heads.iter().zip(&frames).zip(&mut slots) {
                black_box(parse(&head[64..64 + frame.len()], frame.len(), 1, slot));
            }
        });
    }
}

fn mask_of(fields: &[Field]) -> FlowMask {
    let mut mask = FlowMask::default();
    for &field in fields {
        mask.add(field, field.full());
    }
    mask
}

/// Frames of `flows` flows, whole bursts of them, in an order that prefetchers don't guess.
fn frames(flows: usize) -> Vec<Vec<u8>> {
    let mut order: Vec<usize> = (0..flows.next_multiple_of(BURST)).map(|i| i % flows).collect();
    let mut random = 1u64;
    for i in (1..order.len()).rev() {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        order.swap(i, (random >> 33) as usize % (i + 1));
    }
    order.into_iter().map(|flow| tcp(flow as u32)).collect()
}

fn key_of(frame: &[u8]) -> KeySlot {
    let mut slot = KeySlot::EMPTY;
    extract(frame, frame.len(), 1, &mut slot);
    slot
}

fn exact_cache() {
    let four_words = mask_of(&[
        Field::InPort,
        Field::EthType,
        Field::EthDst,
        Field::IpProto,
        Field::TpDst,
        Field::Ipv4Src,
        Field::Ipv4Dst,
    ]);
    let bridge = mask_of(&[Field::InPort, Field::VlanTci, Field::EthDst, Field::EthSrc]);
    let all_five = {
        let mut mask = four_words;
        mask.union(&bridge);
        mask
    };
    for (name, mask) in [("4", four_words), ("5", all_five)] {
        for flows in [1, 1000, 100_000, 1_000_000] {
            let frames = frames(flows);
            let changes = Changes::new();
            let mut cache = ExactCache::new(2 * flows.max(512), &mask);
            for frame in &frames {
                cache.insert(key_of(frame).key(), 7, &changes);
            }
            assert_eq!((cache.len(), cache.evictions()), (flows, 0));
            let mut slots = vec![KeySlot::EMPTY; BURST];
            let mut out = [0; BURST];
            let mut missing = 0;
            let bursts = frames.len() / BURST;
            measure_part(&format!("exact hit, {name} words, {flows} flows"), bursts.max(1000), |n| {
                for (slot, frame) in slots.iter_mut().zip(&frames[n % bursts * BURST..]) {
                    extract(frame, frame.len(), 1, slot);
                }
                let start = now();
                missing |= cache.lookup_burst(&slots, u32::MAX, &changes, &mut out);
                black_box(&out);
                now() - start
            });
            assert_eq!(missing, 0);
        }
    }
}

/// What a frame costs that all masks are tried for, in vain.
fn megaflows() {
    for masks in [1, 4, 16] {
        let changes = Changes::new();
        let mut megaflows = Megaflows::new(masks + 1, 1024);
        for bits in 0..masks {
            let mut mask = mask_of(&[Field::InPort, Field::EthType, Field::TpDst]);
            mask.add(Field::Ipv4Dst, !0 << bits & 0xffff_ffff);
            assert!(megaflows.insert(&mask, key_of(&tcp(1 << 20)).key(), 1, &changes));
        }
        let keys: Vec<KeySlot> = (0..BURST as u32).map(|flow| key_of(&tcp(flow))).collect();
        measure(&format!("megaflow miss, {masks} masks"), 1000, |_| {
            for key in &keys {
                assert_eq!(black_box(megaflows.lookup(key.key(), &changes)), None);
            }
        });
    }
}

fn main() {
    println!("{:<52} cycles per frame", "");
    extraction();
    exact_cache();
    megaflows();
}
