//! Frames get the class and the queue that the tables say, on each generation of hardware.

mod common;

use common::{Board, SOCS, TestPort, frame, small, udp};
use dpaa2_model::Fault;
use dpaa2_port::classify::{Extract, Protocol, field};
use dpaa2_port::{
    ClassEntry, ClassTable, FlowEntry, FlowTable, Match, Miss, PoolConfig, PoolUse, PortConfig, RxClass,
    TxRate, TxShare,
};
use packet::{Burst, HugePages, Offload, OwnedBurst};
use port::{Received, Selection};

const FOUR_CLASSES: &str = "rx_tcs = 4\nqueues = 4\nqos_entries = 16\nfs_entries = 4";

/// Four classes with these numbers of queues, and a pool of 64 buffers for each class but the first, which has 256.
fn classes(queues: &[u16]) -> PortConfig {
    let pool = |class: usize| PoolUse {
        pool: PoolConfig { buffers: if class == 0 { 256 } else { 64 }, ..PoolConfig::new(class as u32 + 1) },
        classes: 1 << class,
    };
    PortConfig {
        rx_classes: queues.iter().map(|&queues| RxClass::new(queues)).collect(),
        rx_pools: (0..queues.len()).map(pool).collect(),
        checksums: false,
        ..small(1)
    }
}

fn destination() -> Vec<Extract> {
    vec![Extract::full_field(Protocol::IP, field::IP_DESTINATION)]
}

fn source_port() -> Vec<Extract> {
    vec![Extract::full_field(Protocol::UDP, field::L4_SOURCE_PORT)]
}

fn to(address: [u8; 4]) -> Match {
    Match { key: address.to_vec(), mask: vec![0xff; 4] }
}

fn port(number: u16) -> Match {
    Match { key: number.to_be_bytes().to_vec(), mask: vec![0xff; 2] }
}

fn class_entry(index: u16, matches: Match, class: u8) -> ClassEntry {
    ClassEntry { index, matches, class, queue: None }
}

/// A frame to 10.0.0.`last`.
fn to_host(last: u8, source_port: u16) -> Vec<u8> {
    let mut frame = udp(source_port, 20);
    frame[33] = last;
    frame
}

/// How many frames come to each receive queue.
fn received(port: &mut TestPort) -> Vec<usize> {
    let mut burst = Burst::new();
    let mut each = vec![0; port.rx.len()];
    for _ in 0..4 {
        for (queue, count) in port.rx.iter_mut().zip(&mut each) {
            *count += Received::poll(&mut **queue, &mut burst, &port.counters).unwrap().burst().len();
        }
    }
    each
}

#[test]
fn destinations_choose_classes_with_queues_and_pools_of_their_own() {
    for soc in SOCS {
        let board = Board::described(soc, 8, FOUR_CLASSES);
        // LS1088A compares whole keys only.
        let last = if soc == "ls1088a" { 0xff } else { 0xe0 };
        let masked = Match { key: vec![10, 0, 0, 100], mask: vec![0xff, 0xff, 0xff, last] };
        let table = ClassTable {
            key: destination(),
            entries: vec![class_entry(0, to([10, 0, 0, 7]), 1), class_entry(1, masked, 2)],
            otherwise: Some(0),
        };
        let mut port = board.port_with(PortConfig { class_table: Some(table), ..classes(&[1, 2, 1]) });
        (0..8).for_each(|n| board.send(1, &to_host(7, n)));
        (0..3).for_each(|n| board.send(1, &to_host(100, n)));
        (0..2).for_each(|n| board.send(1, &to_host(1, n)));
        board.send(1, &frame(1, 64));
        let got = received(&mut port);
        assert_eq!((got[0], got[1] + got[2], got[3]), (3, 8, 3), "{soc}: {got:?}");

        // The pool of class 1 is exhausted: its frames are lost, nobody else's.
        (0..200).for_each(|n| board.send(1, &to_host(7, n)));
        (0..60).for_each(|n| board.send(1, &to_host(100, n)));
        let mut all = [0; 4];
        for _ in 0..8 {
            received(&mut port).iter().zip(&mut all).for_each(|(n, sum)| *sum += n);
        }
        assert_eq!((all[1] + all[2], all[3]), (64, 60), "{soc}");
        assert_eq!(port.counter("ingress_nobuffer_discards"), 200 - 64);
        board.close(vec![port]);
    }
}

#[test]
fn a_change_of_a_table_touches_only_the_entries_that_differ() {
    let board = Board::described("lx2160a", 8, FOUR_CLASSES);
    let mut port = board.port_with(classes(&[1, 1, 1]));
    // "set qos table", "add qos entry", "remove qos entry".
    let seen = || {
        let count = |id| {
            board.model(|model| model.commands_seen().filter(|seen| seen.1 == id).map(|seen| seen.3).sum())
        };
        [0x240, 0x241, 0x242].map(count) as [u64; 3]
    };
    let table = |entries: Vec<ClassEntry>, otherwise| ClassTable { key: destination(), entries, otherwise };
    let three: Vec<_> = (0..3u8).map(|n| class_entry(n.into(), to([10, 0, 0, n]), 1)).collect();
    port.handle.set_class_table(Some(&table(three.clone(), Some(0)))).unwrap();
    assert_eq!(seen(), [1, 3, 0]);
    // One goes, one gets another class, one is new, one stays.
    let changed = vec![
        three[0].clone(),
        ClassEntry { class: 2, ..three[1].clone() },
        class_entry(9, to([10, 0, 0, 9]), 2),
    ];
    port.handle.set_class_table(Some(&table(changed.clone(), Some(0)))).unwrap();
    assert_eq!(seen(), [1, 5, 1]);
    (0..10).for_each(|host| board.send(1, &to_host(host, 1)));
    assert_eq!(received(&mut port), [7, 1, 2]);
    // What matches nothing is dropped now; entries stay.
    port.handle.set_class_table(Some(&table(changed, None))).unwrap();
    assert_eq!(seen(), [2, 5, 1]);
    (0..10).for_each(|host| board.send(1, &to_host(host, 1)));
    assert_eq!(received(&mut port), [0, 1, 2]);
    port.handle.set_class_table(None).unwrap();
    (0..10).for_each(|host| board.send(1, &to_host(host, 1)));
    assert_eq!(received(&mut port), [10, 0, 0]);
    board.close(vec![port]);
}

#[test]
fn entries_that_stay_are_not_touched_when_others_come_in_front_of_them() {
    let board = Board::described("lx2160a", 8, FOUR_CLASSES);
    let mut port = board.port_with(classes(&[1, 1, 1]));
    let table = |hosts: &[u8]| ClassTable {
        key: destination(),
        entries: (0..).zip(hosts).map(|(n, &host)| class_entry(n, to([10, 0, 0, host]), 1)).collect(),
        otherwise: Some(0),
    };
    let changes = || {
        let seen = |id| {
            board.model(|model| model.commands_seen().filter(|seen| seen.1 == id).map(|seen| seen.3).sum())
        };
        [0x240, 0x241, 0x242].map(seen) as [u64; 3]
    };
    port.handle.set_class_table(Some(&table(&[5, 6]))).unwrap();
    for (hosts, expected) in [
        (&[1, 2, 5, 6][..], [1, 4, 0]),
        (&[2, 5, 4, 6], [1, 5, 1]),
        // There is no room between two of them: one moves.
        (&[2, 3, 5, 4, 6], [1, 7, 2]),
        (&[5, 6], [1, 7, 5]),
    ] {
        assert!(port.handle.can_follow(&table(hosts)));
        port.handle.set_class_table(Some(&table(hosts))).unwrap();
        assert_eq!(changes(), expected, "{hosts:?}");
        (0..8).for_each(|host| board.send(1, &to_host(host, 1)));
        assert_eq!(received(&mut port), [8 - hosts.len(), hosts.len(), 0], "{hosts:?}");
    }
    let other = ClassTable { key: source_port(), entries: vec![], otherwise: Some(0) };
    assert!(!port.handle.can_follow(&other), "it looks at another field");
    board.close(vec![port]);
}

#[test]
fn frames_beyond_what_may_wait_in_a_class_are_counted_for_it() {
    for soc in SOCS {
        let board = Board::described(soc, 8, FOUR_CLASSES);
        let table = ClassTable {
            key: destination(),
            entries: vec![class_entry(0, to([10, 0, 0, 7]), 1)],
            otherwise: Some(0),
        };
        let mut config = PortConfig { class_table: Some(table), ..classes(&[1, 2]) };
        config.rx_classes[1].frames = Some(40);
        let mut port = board.port_with(config);
        (0..100).for_each(|n| board.send(1, &to_host(7, n)));
        (0..100).for_each(|n| board.send(1, &to_host(1, n)));
        assert_eq!(port.handle.rx_class_drops().unwrap(), [0, 60], "{soc}");
        assert_eq!(port.counter("ingress_nobuffer_discards"), 0);
        let mut all = [0; 3];
        for _ in 0..4 {
            received(&mut port).iter().zip(&mut all).for_each(|(n, sum)| *sum += n);
        }
        assert_eq!((all[0], all[1] + all[2]), (100, 40), "{soc}");
        board.close(vec![port]);
    }
}

#[test]
fn an_entry_that_the_firmware_took_but_hasnt_got_is_an_error_that_names_it() {
    let board = Board::described("lx2160a", 8, FOUR_CLASSES);
    let mut port = board.port_with(classes(&[1, 1]));
    let table = |host| ClassTable {
        key: destination(),
        entries: vec![class_entry(0, to([10, 0, 0, host]), 1)],
        otherwise: Some(0),
    };
    port.handle.set_class_table(Some(&table(7))).unwrap();
    // The addition of the new entry is answered, but not carried out.
    board.model(|model| model.inject(Fault::CommandError { nth: 1, status: 0 }));
    let error = port.handle.set_class_table(Some(&table(8))).unwrap_err().to_string();
    assert!(error.starts_with("dpni.1: a class table of 1 entries (it says 0)"), "{error}");
    // Its removal isn't: there are as many as there should be, but not the right one.
    port.handle.set_class_table(Some(&table(7))).unwrap();
    board.model(|model| {
        model.inject(Fault::CommandError { nth: 1, status: 0 });
        model.inject(Fault::CommandError { nth: 2, status: 0 });
    });
    let error = port.handle.set_class_table(Some(&table(8))).unwrap_err().to_string();
    assert!(error.contains("class entry") && error.contains("0a, 00, 00, 08"), "{error}");
    // Set again, all of it is written anew.
    port.handle.set_class_table(Some(&table(8))).unwrap();
    (0..10).for_each(|host| board.send(1, &to_host(host, 1)));
    assert_eq!(received(&mut port), [9, 1]);
    board.close(vec![port]);
}

#[test]
fn flows_choose_queues_of_their_class_and_the_others_are_spread_sent_on_or_dropped() {
    for soc in SOCS {
        let board = Board::described(soc, 8, FOUR_CLASSES);
        let mut port = board.port_with(classes(&[4]));
        let entries = vec![
            FlowEntry { index: 0, matches: self::port(100), queue: Some(3) },
            FlowEntry { index: 1, matches: self::port(200), queue: None },
        ];
        let table = |otherwise| FlowTable { key: source_port(), entries: entries.clone(), otherwise };
        let send =
            |numbers: std::ops::Range<u16>| numbers.for_each(|number| board.send(1, &to_host(2, number)));
        port.handle.set_flow_table(0, Some(&table(Miss::Queue(1)))).unwrap();
        send(95..105);
        send(195..205);
        assert_eq!(received(&mut port), [0, 18, 0, 1], "{soc}");
        port.handle.set_flow_table(0, Some(&table(Miss::Drop))).unwrap();
        send(95..105);
        send(195..205);
        assert_eq!(received(&mut port), [0, 0, 0, 1], "{soc}");
        port.handle.set_flow_table(0, Some(&table(Miss::Spread))).unwrap();
        (0..20).for_each(|_| board.send(1, &to_host(2, 100)));
        assert_eq!(received(&mut port), [0, 0, 0, 20], "{soc}");
        send(300..364);
        assert!(received(&mut port).iter().all(|&frames| frames > 4), "{soc}");
        port.handle.set_flow_table(0, None).unwrap();
        send(0..64);
        send(200..201);
        let got = received(&mut port);
        assert!(got.iter().sum::<usize>() == 65 && got.iter().all(|&frames| frames > 4), "{soc}: {got:?}");
        board.close(vec![port]);
    }
}

#[test]
fn tables_that_do_not_fit_are_refused_and_change_nothing() {
    let board = Board::described("lx2160a", 8, FOUR_CLASSES);
    let mut port = board.port_with(classes(&[1, 2]));
    let table = |entries: Vec<ClassEntry>| ClassTable { key: destination(), entries, otherwise: Some(1) };
    let good = table(vec![class_entry(0, to([10, 0, 0, 2]), 0)]);
    port.handle.set_class_table(Some(&good)).unwrap();
    let error =
        |entries| port.handle.set_class_table(Some(&table(entries))).expect_err("it doesn't fit").to_string();
    let twice = vec![class_entry(0, to([10, 0, 0, 2]), 0), class_entry(0, to([10, 0, 0, 3]), 0)];
    let long = Match { key: vec![0; 57], mask: vec![0; 57] };
    for (said, entries) in [
        ("dpni.1: class 2; it has 2", vec![class_entry(0, to([10, 0, 0, 2]), 2)]),
        ("class entry 16; it has room for 16", vec![class_entry(16, to([10, 0, 0, 2]), 1)]),
        ("class entry 0 is there twice", twice),
        ("57 bytes of key", vec![class_entry(0, long, 1)]),
        (
            "queue 2 of a class that has 2",
            vec![ClassEntry { queue: Some(2), ..class_entry(0, to([10, 0, 0, 2]), 1) }],
        ),
    ] {
        let error = error(entries);
        assert!(error.contains(said), "{error}");
    }
    let flows = FlowTable { key: source_port(), entries: vec![], otherwise: Miss::Queue(5) };
    let error = port.handle.set_flow_table(1, Some(&flows)).expect_err("queue 5 of 2").to_string();
    assert!(error.contains("queue 5 of a class that has 2"), "{error}");
    let error = port.handle.set_flow_table(4, Some(&flows)).expect_err("class 4 of 2").to_string();
    assert!(error.contains("class 4; it has 2"), "{error}");
    (0..3).for_each(|_| board.send(1, &to_host(2, 1)));
    assert_eq!(received(&mut port)[0], 3, "the good table is in force");
    board.close(vec![port]);

    let board = Board::described("lx2160a", 8, "options = 0\nrx_tcs = 2");
    let masked = Match { key: vec![10, 0, 0, 0], mask: vec![0xff, 0, 0, 0] };
    let config = PortConfig { class_table: Some(table(vec![class_entry(0, masked, 1)])), ..classes(&[1, 1]) };
    let error = board.hardware.open_port(&config).err().expect("no masks").to_string();
    assert!(error.contains("created without key masking"), "{error}");
    let one = PortConfig { class_table: Some(good), ..classes(&[1]) };
    let error = board.hardware.open_port(&one).err().expect("one class").to_string();
    assert!(error.contains("needs more than one"), "{error}");
}

#[test]
fn the_limit_of_a_class_can_be_changed_while_it_runs() {
    let board = Board::described("lx2160a", 8, FOUR_CLASSES);
    let mut port = board.port_with(classes(&[1]));
    port.handle.set_rx_queue_bytes(0, 20_000).unwrap();
    (0..200).for_each(|_| board.send(1, &frame(1, 1000)));
    let few = received(&mut port)[0];
    assert!((10..60).contains(&few), "{few}");
    port.handle.set_rx_queue_bytes(0, 1 << 20).unwrap();
    (0..200).for_each(|_| board.send(1, &frame(1, 1000)));
    let all: usize = (0..3).map(|_| received(&mut port)[0]).sum();
    assert_eq!(all, 200);
    assert!(port.handle.set_rx_queue_bytes(1, 1).is_err());
    board.close(vec![port]);
}

/// Sends `frames` frames of 1,000 bytes on a transmit queue.
fn send_on(port: &mut TestPort, queue: usize, frames: usize, n: u8) {
    let mut made = OwnedBurst::new(32, 2048, HugePages::Off).unwrap();
    for _ in 0..frames {
        made.push(Offload::default(), |to| {
            to[..1000].copy_from_slice(&frame(n, 1000));
            1000
        });
    }
    let which: Vec<u8> = (0..frames as u8).collect();
    port.tx[queue].transmit(Selection { burst: made.burst(), which: &which }, &port.counters).unwrap();
}

#[test]
fn strict_transmit_queues_go_first_and_weights_share_the_rest() {
    let board = Board::new("lx2160a");
    let mut port = board.port_with(PortConfig {
        tx_classes: vec![TxShare::Strict, TxShare::Weight(300), TxShare::Weight(100)],
        ..small(1)
    });
    board.model(|model| model.stop_clock());
    for queue in [2, 1, 0] {
        send_on(&mut port, queue, 30, queue as u8);
    }
    board.model(|model| model.advance(1_000_000_000));
    // The first frame was on its way before the others came.
    let order: Vec<usize> =
        board.sent(1).iter().map(|sent| (0..3).find(|&n| *sent == frame(n, 1000)).unwrap().into()).collect();
    assert_eq!(order.len(), 90);
    assert!(order[1..31].iter().all(|&queue| queue == 0), "{order:?}");
    let of_the_first_20 = order[31..51].iter().filter(|&&queue| queue == 1).count();
    assert!((14..=16).contains(&of_the_first_20), "three of four: {order:?}");
    board.close(vec![port]);
}

#[test]
fn transmission_keeps_to_its_rate() {
    let board = Board::new("lx2160a");
    let rate = Some(TxRate { mbps: 100, burst_bytes: 2000 });
    let mut port = board.port_with(PortConfig { tx_rate: rate, ..small(1) });
    board.model(|model| model.stop_clock());
    send_on(&mut port, 0, 30, 1);
    // 1,000 bytes take 80 us at 100 Mbit/s.
    board.model(|model| model.advance(800_000));
    let limited = board.sent(1).len();
    assert!((8..=12).contains(&limited), "{limited}");
    port.handle.set_tx_rate(None).unwrap();
    board.model(|model| model.advance(800_000));
    assert_eq!(board.sent(1).len(), 30 - limited);
    board.close(vec![port]);
}

#[test]
fn a_queue_with_a_rate_of_its_own_keeps_to_it_and_others_do_not_wait_for_it() {
    let board = Board::described("lx2160a", 8, "channels = 2");
    let limited = TxShare::Limited(TxRate { mbps: 100, burst_bytes: 2000 });
    let mut port =
        board.port_with(PortConfig { tx_classes: vec![limited, TxShare::EQUAL, TxShare::EQUAL], ..small(1) });
    board.model(|model| model.stop_clock());
    (0..3).for_each(|queue| send_on(&mut port, queue, 30, queue as u8));
    board.model(|model| model.advance(800_000));
    let sent = board.sent(1);
    let of = |queue: u8| sent.iter().filter(|bytes| **bytes == frame(queue, 1000)).count();
    assert_eq!([of(1), of(2)], [30, 30]);
    assert!((8..=12).contains(&of(0)), "{}", of(0));
    board.close(vec![port]);
}

#[test]
fn what_an_interface_cannot_have_is_said() {
    let board = Board::described("lx2160a", 8, FOUR_CLASSES);
    let error = |config: PortConfig| board.hardware.open_port(&config).err().expect("an error").to_string();
    let strict_last = vec![TxShare::EQUAL, TxShare::Strict];
    let five = PortConfig { rx_classes: vec![RxClass::new(1); 5], ..small(1) };
    for (said, config) in [
        ("5 traffic classes; it can have 1 to 4", five),
        ("a strict transmit queue behind a weighted one", PortConfig { tx_classes: strict_last, ..small(1) }),
        (
            "weight 99; allowed are 100..=10000",
            PortConfig { tx_classes: vec![TxShare::Weight(99)], ..small(1) },
        ),
        (
            "1 transmit queues with a rate of their own; it can have 0",
            PortConfig {
                tx_classes: vec![TxShare::Limited(TxRate { mbps: 1, burst_bytes: 2000 })],
                ..small(1)
            },
        ),
        (
            "9 transmit queues; it can have 1 to 8",
            PortConfig { tx_classes: vec![TxShare::EQUAL; 9], ..small(1) },
        ),
    ] {
        let error = error(config);
        assert!(error.contains(said), "{error}");
    }
}
