//! Prints what the evaluation of a frame costs for rules of many masks, in ticks of [`packet::cycles`]: a frame
//! that no rule is for, and one that the last mask has a rule for. The least of some runs is shown.
//!
//! `cargo run --release -p pipeline --example masks`

use std::hint::black_box;
use std::time::Duration;

use flow::{Field, FlowKey};
use flow_text::{Action, FlowSpec, Instructions, Match};
use packet::cycles::now;
use pipeline::{Evaluation, FlowMod, Tables};

const FRAMES: usize = 4096;

fn main() {
    println!("{:>6} {:>12} {:>10} {:>10}", "masks", "rules/mask", "no rule", "last rule");
    for masks in [1, 16, 64, 256] {
        for rules in [1, 100] {
            let adds: Vec<FlowMod> =
                (0..masks * rules).map(|n| FlowMod::Add(spec(n % masks, n / masks))).collect();
            let mut tables = Tables::new(1);
            tables.apply(&adds, Duration::ZERO).expect("the rules fit");
            let [miss, hit] = [0x0b00_0000, 0x0a00_0000].map(|net| {
                let keys: Vec<FlowKey> = (0..FRAMES).map(|n| key(net, masks - 1, n % rules)).collect();
                let snapshot = tables.snapshot();
                let mut out = Evaluation::default();
                let runs = (0..9).map(|_| {
                    let start = now();
                    for key in &keys {
                        snapshot.evaluate(key, &mut out);
                        black_box(&out);
                    }
                    (now() - start) / FRAMES as u64
                });
                runs.min().expect("some runs")
            });
            println!("{masks:>6} {rules:>12} {miss:>10} {hit:>10}");
        }
    }
}

/// Masks differ in the length of a network prefix and in the bits of a port.
fn spec(mask: usize, rule: usize) -> FlowSpec {
    let frame = key(0x0a00_0000, mask, rule);
    let mut match_ = Match::default();
    match_.set(Field::EthType, frame.get(Field::EthType), 0xffff);
    let (net, port) = (0xffff_ffff << (mask % 16) & 0xffff_ffff, 0xffff << (mask / 16) & 0xffff);
    match_.set(Field::Ipv4Dst, frame.get(Field::Ipv4Dst) & net, net);
    match_.set(Field::TpDst, frame.get(Field::TpDst) & port, port);
    let instructions = Instructions { apply: vec![Action::Output(1)], ..Instructions::default() };
    // All of one priority, so that no mask may be left out.
    FlowSpec { priority: 100, match_, instructions, ..FlowSpec::default() }
}

/// The frame that a rule is for, in the net of all rules or in another.
fn key(net: u32, mask: usize, rule: usize) -> FlowKey {
    let mut key = FlowKey::default();
    key.set(Field::InPort, 1);
    key.set(Field::EthType, 0x0800);
    key.set(Field::Ipv4Dst, (net + ((rule as u32) << 16)).into());
    key.set(Field::TpDst, (mask as u128) << 8);
    key
}
