//! Hardware that fails: nothing hangs, nothing panics, every frame is accounted for.

mod common;

use std::time::{Duration, Instant};

use common::{Board, forward, frame, small};
use dpaa2_model::Fault;
use dpaa2_port::RxClass;
use packet::{Burst, Offload};
use port::{DropReason, Received};
use proptest::prelude::*;

#[test]
fn a_portal_that_stops_answering_ends_its_queue_in_a_stated_time_and_no_other() {
    let board = Board::new("lx2160a");
    let (mut a, mut b) = (board.port(1), board.port(2));
    // dpio.1 is control's; then each port's receive and transmit portals.
    board.model(|model| model.inject(Fault::PortalStuck { dpio: 3 }));
    let frames: Vec<_> = (0..64).map(|n| (frame(n, 64), Offload::default())).collect();
    let started = Instant::now();
    let fault = a.try_transmit(&frames).expect_err("its portal takes no command");
    assert!(fault.what.contains("portal"), "{fault}");
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(a.drops(DropReason::PoolEmpty), 32, "the burst in which it failed");
    a.try_transmit(&frames[..32]).expect_err("it stays failed");
    assert_eq!(a.drops(DropReason::Device), 32);
    b.transmit(&frames);
    assert_eq!(board.sent(2).len(), 64);
    board.send(1, &frame(1, 64));
    assert_eq!(a.receive().len(), 1, "its receive queue has another portal");
    let started = Instant::now();
    drop((a, b));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_descriptor_that_names_foreign_memory_is_counted_and_costs_its_buffer_only() {
    let board = Board::new("lx2160a");
    let mut port = board.port(1);
    board.model(|model| model.inject(Fault::CorruptDescriptor { nth: 3 }));
    (0..5).for_each(|n| board.send(1, &frame(n, 64)));
    let got: Vec<_> = port.receive().into_iter().map(|(frame, _)| frame).collect();
    assert_eq!(got, [0, 1, 3, 4].map(|n| frame(n, 64)));
    assert_eq!(port.drops(DropReason::BadChain), 1);
    assert_eq!(port.counters.rx_frames.get(), 5);
    assert_eq!((port.counter("bad-descriptors"), port.counter("lost-buffers")), (1, 1));
    drop(port);
    let accounts = board.hardware.accounts().unwrap();
    assert_eq!(accounts[0].buffers - accounts[0].free, 1, "{accounts:?}");
}

#[test]
fn a_firmware_error_at_any_step_of_opening_gives_everything_back() {
    for nth in 1.. {
        let board = Board::new("lx2160a");
        board.model(|model| model.inject(Fault::CommandError { nth, status: 0x8 }));
        let opened = board
            .hardware
            .open_port(&dpaa2_port::PortConfig { rx_classes: vec![RxClass::new(2)], ..small(1) });
        match opened {
            // Errors while closing what failed to open, or of commands that may fail, are no errors of opening.
            Ok(_) if nth > 60 => break,
            Ok(port) => drop(port),
            Err(error) => assert!(error.to_string().contains("NO_RESOURCE"), "command {nth}: {error}"),
        }
        // It can be opened now.
        let port = board.port_with(dpaa2_port::PortConfig { rx_classes: vec![RxClass::new(2)], ..small(1) });
        drop(port);
        for account in board.hardware.accounts().unwrap() {
            assert_eq!(account.free, account.buffers, "command {nth}");
        }
        assert!(nth < 500, "opening a port takes fewer commands");
    }
}

#[test]
fn a_firmware_that_does_not_answer_is_an_error_in_a_stated_time() {
    let board = Board::new("lx2160a");
    board.model(|model| model.inject(Fault::CommandTimeout { nth: 5 }));
    let started = Instant::now();
    let error = board.hardware.open_port(&small(1)).err().expect("no answer").to_string();
    assert!(error.contains("didn't answer"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

/// What happens to a switch between two interfaces.
#[derive(Clone, Debug)]
enum Step {
    /// Frames arrive at dpmac.1 or dpmac.2.
    Arrive { at: u32, frames: u8, len: u16 },
    /// What came to dpni.1 goes to dpni.2.
    Forward,
    /// What came to dpni.2 is taken and dropped.
    Take,
    /// Others send through dpni.1.
    Send { frames: u8, len: u16 },
    /// Time passes on the wire.
    Wait { us: u16 },
    /// A pool is empty, or no longer.
    Empty { pool: u16, on: bool },
    /// The next descriptors are wrong.
    Corrupt { nth: u8 },
    /// A link goes.
    Link { mac: u32, up: bool },
    /// A queue sleeps.
    Sleep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..3, 1u8..60, 20u16..5000).prop_map(|(at, frames, len)| Step::Arrive { at, frames, len }),
        4 => Just(Step::Forward),
        2 => Just(Step::Take),
        3 => (1u8..80, 14u16..5000).prop_map(|(frames, len)| Step::Send { frames, len }),
        2 => (1u16..200).prop_map(|us| Step::Wait { us }),
        1 => (1u16..3, any::<bool>()).prop_map(|(pool, on)| Step::Empty { pool, on }),
        1 => (1u8..9).prop_map(|nth| Step::Corrupt { nth }),
        1 => (1u32..3, any::<bool>()).prop_map(|(mac, up)| Step::Link { mac, up }),
        1 => Just(Step::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_and_every_buffer_is_accounted_for_whatever_fails(
        soc in prop_oneof![Just("lx2160a"), Just("ls2088a")],
        dpcons in prop_oneof![Just(0u32), Just(4)],
        slow in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let board = Board::with(soc, dpcons);
        let jumbo = |dpni| dpaa2_port::PortConfig { frame_max: 4000, ..small(dpni) };
        let (mut a, mut b) = (board.port_with(jumbo(1)), board.port_with(jumbo(2)));
        if slow {
            board.model(|model| model.stop_clock());
        }
        // Frames given to a port's transmit queue, and those that were received.
        let (mut to_a, mut to_b) = (0u64, 0u64);
        for step in steps {
            match step {
                Step::Arrive { at, frames, len } => {
                    (0..frames).for_each(|n| board.send(at, &frame(n, usize::from(len))));
                }
                Step::Forward => to_b += forward(&mut a, &mut b, |burst, i| {
                    if i % 2 == 0 {
                        burst.load_head(i, 64);
                        burst.grow_front(i, 4);
                    }
                }) as u64,
                Step::Take => drop(b.receive()),
                Step::Send { frames, len } => {
                    let frames: Vec<_> = (0..frames).map(|n| (frame(n, len.into()), Offload::default())).collect();
                    a.transmit(&frames);
                    to_a += frames.len() as u64;
                }
                Step::Wait { us } => board.model(|model| model.advance(u64::from(us) * 1000)),
                Step::Empty { pool, on: true } => board.model(|model| model.inject(Fault::PoolEmpty { bpid: pool })),
                Step::Empty { pool, on: false } => board.model(|model| model.inject(Fault::PoolFilled { bpid: pool })),
                Step::Corrupt { nth } => board.model(|model| model.inject(Fault::CorruptDescriptor { nth: nth.into() })),
                Step::Link { mac, up } => drop(board.model(|model| model.set_link(mac, up))),
                Step::Sleep => {
                    a.rx[0].arm();
                    a.rx[0].disarm();
                }
            }
        }
        for pool in [1, 2] {
            board.model(|model| model.inject(Fault::PoolFilled { bpid: pool }));
            board.model(|model| model.set_link(pool.into(), true));
        }
        board.model(|model| model.advance(1_000_000_000));
        to_b += forward(&mut a, &mut b, |_, _| {}) as u64;
        board.model(|model| model.advance(1_000_000_000));
        drop(b.receive());
        let dropped = |port: &common::TestPort, reasons: &[DropReason]| -> u64 {
            reasons.iter().map(|&reason| port.drops(reason)).sum()
        };
        let sending = [DropReason::TxFull, DropReason::PoolEmpty, DropReason::TooLong, DropReason::Runt];
        // Received, as the interface counts it, is received here; dropped here is dropped with a reason.
        prop_assert_eq!(a.counter("ingress_all_frames"), a.counters.rx_frames.get());
        prop_assert_eq!(b.counter("ingress_all_frames"), b.counters.rx_frames.get());
        prop_assert_eq!(a.counters.rx_frames.get(), to_b + dropped(&a, &[DropReason::BadChain]));
        prop_assert_eq!(to_a, a.counters.tx_frames.get() + dropped(&a, &sending));
        prop_assert_eq!(to_b, b.counters.tx_frames.get() + dropped(&b, &sending));
        for port in [&a, &b] {
            prop_assert_eq!(port.counters.tx_frames.get(), port.counter("egress_all_frames") + port.counter("egress_discarded_frames"));
        }
        let lost = a.counter("lost-buffers") + b.counter("lost-buffers");
        drop((a, b));
        let missing: u64 = board.hardware.accounts().unwrap().iter().map(|a| u64::from(a.buffers - a.free)).sum();
        // A descriptor that names no buffer of ours may have had a table of up to three more.
        prop_assert!((lost..=4 * lost).contains(&missing), "{} lost, {} missing", lost, missing);
        drop(board.hardware);
        let audit = board.model.lock().unwrap().audit();
        prop_assert!(audit.violations.is_empty(), "{:?}", audit.violations);
        prop_assert_eq!((audit.open_tokens, audit.mapped_bytes), (0, 0));
    }
}

#[test]
fn frames_in_hand_when_a_queue_is_dropped_are_given_back() {
    let board = Board::new("lx2160a");
    let mut port = board.port(1);
    (0..40).for_each(|n| board.send(1, &frame(n, 64)));
    let mut burst = Burst::new();
    for _ in 0..2 {
        drop(Received::poll(&mut *port.rx[0], &mut burst, &port.counters).unwrap());
    }
    board.close(vec![port]);
}
