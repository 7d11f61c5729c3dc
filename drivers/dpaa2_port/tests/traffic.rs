//! A port moves frames, on each generation of hardware.

mod common;

use common::{Board, SOCS, bytes, forward, frame, small, udp};
use dpaa2_defs::annotation::fas;
use dpaa2_defs::classify;
use dpaa2_model::{Fault, ModelBus};
use dpaa2_port::{Dpaa2, PoolConfig, RxClass, TxShare};
use packet::{Burst, Offload};
use port::{Armed, DropReason, Received, Selection};

const PLAIN: Offload =
    Offload { flags: 0, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

#[test]
fn frames_of_the_wire_are_received_in_order_and_their_buffers_go_back() {
    for soc in SOCS {
        for dpcons in [0, 4] {
            let board = Board::with(soc, dpcons);
            let mut port = board.port(1);
            for round in 0..5u8 {
                let frames: Vec<_> = (0..100).map(|n| frame(n + round, 60 + usize::from(n))).collect();
                frames.iter().for_each(|frame| board.send(1, frame));
                let got: Vec<_> = port.receive().into_iter().map(|(bytes, _)| bytes).collect();
                assert_eq!(got, frames, "{soc}, round {round}");
            }
            assert_eq!(port.counters.rx_frames.get(), 500);
            board.close(vec![port]);
        }
    }
}

#[test]
fn frames_of_others_are_copied_to_the_wire_in_order() {
    for soc in SOCS {
        let board = Board::new(soc);
        let mut port = board.port(1);
        let frames: Vec<_> = (0..100).map(|n| (frame(n, 60 + usize::from(n)), PLAIN)).collect();
        for _ in 0..5 {
            port.transmit(&frames);
            let sent = board.sent(1);
            assert_eq!(sent, frames.iter().map(|(frame, _)| frame.clone()).collect::<Vec<_>>(), "{soc}");
        }
        assert_eq!(port.counters.tx_frames.get(), 500);
        assert_eq!(port.counter("moved-frames"), 0);
        board.close(vec![port]);
    }
}

#[test]
fn a_frame_with_one_output_to_another_interface_moves_without_a_copy() {
    for soc in SOCS {
        let board = Board::new(soc);
        let (mut a, mut b) = (board.port(1), board.port(2));
        for round in 0..10 {
            let frames: Vec<_> = (0..50).map(|n| frame(n + round, 64)).collect();
            frames.iter().for_each(|frame| board.send(1, frame));
            assert_eq!(forward(&mut a, &mut b, |_, _| {}), 50);
            assert_eq!(board.sent(2), frames, "{soc}");
        }
        assert_eq!(b.counter("moved-frames"), 500);
        assert_eq!((a.counters.rx_frames.get(), b.counters.tx_frames.get()), (500, 500));
        board.close(vec![a, b]);
    }
}

#[test]
fn what_was_done_to_a_head_moves_with_the_frame() {
    let board = Board::new("lx2160a");
    let (mut a, mut b) = (board.port(1), board.port(2));
    let original = frame(1, 200);
    for (tag, edit) in [
        // A tag is pushed, popped, or an address rewritten.
        (
            4i32,
            (|burst, i| {
                assert!(burst.grow_front(i, 4));
                burst.head_mut(i)[..16].copy_from_slice(&[9, 9, 9, 9, 9, 9, 8, 8, 8, 8, 8, 8, 0x81, 0, 0, 5]);
            }) as fn(&mut Burst, usize),
        ),
        (-4, |burst, i| burst.shrink_front(i, 4)),
        (0, |burst, i| burst.head_mut(i)[0] = 0xee),
    ] {
        board.send(1, &original);
        let mut expected = vec![];
        forward(&mut a, &mut b, |burst, i| {
            burst.load_head(i, 64);
            edit(burst, i);
            expected = bytes(burst, i);
        });
        assert_eq!(expected.len() as i32, 200 + tag);
        assert_eq!(board.sent(2), [expected]);
    }
    assert_eq!(b.counter("moved-frames"), 3);
    board.close(vec![a, b]);
}

#[test]
fn a_frame_with_several_outputs_is_copied_and_its_buffer_goes_back_once() {
    let board = Board::new("lx2160a");
    let (mut a, mut b) = (board.port(1), board.port(2));
    board.send(1, &frame(1, 100));
    let mut burst = Burst::new();
    for _ in 0..2 {
        let mut received = Received::poll(&mut *a.rx[0], &mut burst, &a.counters).unwrap();
        let burst = received.burst();
        let which: Vec<u8> = (0..burst.len() as u8).collect();
        b.tx[0].transmit(Selection { burst, which: &which }, &b.counters).unwrap();
        b.tx[0].transmit(Selection { burst, which: &which }, &b.counters).unwrap();
    }
    assert_eq!(board.sent(2), [frame(1, 100), frame(1, 100)]);
    assert_eq!(b.counter("moved-frames"), 0);
    board.close(vec![a, b]);
}

#[test]
fn long_frames_go_over_several_buffers_both_ways() {
    for soc in SOCS {
        let board = Board::new(soc);
        let jumbo = |dpni| dpaa2_port::PortConfig { frame_max: 9600, ..small(dpni) };
        let (mut a, mut b) = (board.port_with(jumbo(1)), board.port_with(jumbo(2)));
        let long = frame(3, 9000);
        board.send(1, &long);
        let got = a.receive();
        assert_eq!(got.len(), 1);
        assert!(got[0].0 == long, "{soc}: a received frame of 9,000 bytes");

        a.transmit(&[(long.clone(), PLAIN)]);
        assert!(board.sent(1) == [long.clone()], "{soc}: a copied one");

        board.send(1, &long);
        assert_eq!(forward(&mut a, &mut b, |_, _| {}), 1);
        assert!(board.sent(2) == [long.clone()], "{soc}: a moved one");

        for (grows, moved) in [(0, 2), (4, 2)] {
            board.send(1, &long);
            let mut expected = vec![];
            forward(&mut a, &mut b, |burst, i| {
                burst.load_head(i, 64);
                assert!(burst.grow_front(i, grows));
                burst.head_mut(i)[..16].fill(0x5a);
                expected = bytes(burst, i);
            });
            assert!(board.sent(2) == [expected], "{soc}: a rewritten one, {grows} bytes longer");
            // Data buffers of a table have no room in front.
            assert_eq!(b.counter("moved-frames"), moved, "{soc}");
        }
        board.close(vec![a, b]);
    }
}

#[test]
fn frames_longer_than_allowed_and_runts_are_dropped_with_their_reason() {
    let board = Board::new("lx2160a");
    let mut port = board.port(1);
    port.transmit(&[(frame(1, 1600), PLAIN), (vec![0; 13], PLAIN), (frame(2, 1522), PLAIN)]);
    assert_eq!((port.drops(DropReason::TooLong), port.drops(DropReason::Runt)), (1, 1));
    assert_eq!(board.sent(1), [frame(2, 1522)]);
    board.send(1, &frame(1, 1600));
    assert!(port.receive().is_empty());
    assert_eq!(port.counter("ingress_discarded_frames"), 1);
    port.handle.set_frame_max(1700).unwrap();
    port.transmit(&[(frame(1, 1600), PLAIN)]);
    assert_eq!(board.sent(1), [frame(1, 1600)]);
    board.close(vec![port]);
}

#[test]
fn checksums_are_checked_on_the_way_in() {
    let board = Board::new("lx2160a");
    let mut port = board.port(1);
    let good = udp(1000, 100);
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let mut wrong_ip = good.clone();
    wrong_ip[24] ^= 1;
    for frame in [&good, &wrong, &wrong_ip] {
        board.send(1, frame);
    }
    let got = port.receive();
    assert_eq!(got.len(), 1);
    assert_eq!((&got[0].0, got[0].1.flags), (&good, Offload::DATA_VALID));
    assert_eq!(port.drops(DropReason::RxError), 2);
    assert_eq!((port.counter("error-l4-checksum"), port.counter("error-l3-checksum")), (1, 1));
    assert_eq!(port.counters.rx_frames.get(), 3);
    board.close(vec![port]);

    let board = Board::new("lx2160a");
    let mut port = board.port_with(dpaa2_port::PortConfig { checksums: false, ..small(1) });
    board.send(1, &wrong);
    let got = port.receive();
    assert_eq!((&got[0].0, got[0].1.flags), (&wrong, 0), "nobody looked");
    board.close(vec![port]);
}

#[test]
fn every_error_hardware_finds_is_counted_by_its_name_and_damaged_frames_are_dropped() {
    for soc in SOCS {
        let board = Board::new(soc);
        let mut port = board.port_with(dpaa2_port::PortConfig { checksums: false, ..small(1) });
        for (n, &(bit, name, _)) in fas::ERROR_NAMES.iter().enumerate() {
            board.model(|model| model.inject(Fault::FrameError { nth: 1, status: bit }));
            board.send(1, &frame(n as u8, 64));
            // A wrong checksum is the receiver's business where hardware isn't asked to check.
            let is_damaged = matches!(bit, fas::FPE | fas::FLE);
            let dropped = port.drops(DropReason::RxError);
            assert_eq!(port.receive().len(), usize::from(!is_damaged), "{soc}: {name}");
            assert_eq!(port.drops(DropReason::RxError) - dropped, u64::from(is_damaged), "{soc}: {name}");
            for &(_, other, _) in fas::ERROR_NAMES {
                let seen = fas::ERROR_NAMES[..=n].iter().any(|(_, name, _)| *name == other);
                assert_eq!(
                    port.counter(&format!("error-{other}")),
                    u64::from(seen),
                    "{soc}: {other} after {name}"
                );
            }
        }
        board.close(vec![port]);
    }
}

#[test]
fn checksums_left_open_are_completed_by_hardware_or_by_us() {
    let whole = udp(1000, 101);
    let mut open = whole.clone();
    // As a guest leaves it: the pseudo header's sum in the field.
    let pseudo = headers::checksum::Sum::default().pseudo_header(&whole[26..34], 17, 8 + 101).partial();
    open[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let request = Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..PLAIN };
    for checksums in [true, false] {
        let board = Board::new("lx2160a");
        let mut port = board.port_with(dpaa2_port::PortConfig { checksums, ..small(1) });
        port.transmit(&[(open.clone(), request)]);
        assert_eq!(board.sent(1), std::slice::from_ref(&whole), "hardware: {checksums}");
        let past_the_end = Offload { csum_start: 4000, ..request };
        port.transmit(&[(open.clone(), past_the_end)]);
        assert_eq!(port.drops(DropReason::BadOffload), 1);
        board.close(vec![port]);
    }
}

#[test]
fn a_checksum_over_several_buffers_is_completed() {
    let board = Board::new("lx2160a");
    let mut port = board.port_with(dpaa2_port::PortConfig { checksums: false, frame_max: 9600, ..small(1) });
    let whole = udp(1000, 8001);
    let mut open = whole.clone();
    let pseudo = headers::checksum::Sum::default().pseudo_header(&whole[26..34], 17, 8 + 8001).partial();
    open[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let request = Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..PLAIN };
    port.transmit(&[(open.clone(), request), (open, Offload { csum_start: 35, ..request })]);
    assert!(board.sent(1) == [whole]);
    assert_eq!(port.drops(DropReason::BadOffload), 1);
    board.close(vec![port]);
}

#[test]
fn flows_are_spread_over_queues_by_their_hash() {
    for soc in SOCS {
        let board = Board::new(soc);
        let mut port =
            board.port_with(dpaa2_port::PortConfig { rx_classes: vec![RxClass::new(4)], ..small(1) });
        let mut burst = Burst::new();
        let mut seen = [0; 4];
        for source_port in 0..64u16 {
            let sent = udp(source_port, 20);
            let mut key = sent[26..34].to_vec();
            key.push(17);
            key.extend(&sent[34..38]);
            let expected = classify::hash(&key) as usize % 4;
            board.send(1, &sent);
            for _ in 0..2 {
                for (i, queue) in port.rx.iter_mut().enumerate() {
                    let mut received = Received::poll(&mut **queue, &mut burst, &port.counters).unwrap();
                    if !received.burst().is_empty() {
                        assert_eq!(i, expected, "{soc}: port {source_port}");
                        seen[i] += 1;
                    }
                }
            }
        }
        assert!(seen.iter().sum::<i32>() == 64 && seen.iter().all(|&n| n > 4), "{seen:?}");
        board.close(vec![port]);
    }
}

#[test]
fn several_transmit_queues_reach_the_wire() {
    let board = Board::new("lx2160a");
    let mut port =
        board.port_with(dpaa2_port::PortConfig { tx_classes: vec![TxShare::EQUAL; 3], ..small(1) });
    for queue in 0..3 {
        port.tx.swap(0, queue);
        port.transmit(&[(frame(queue as u8, 64), PLAIN)]);
        assert_eq!(board.sent(1), [frame(queue as u8, 64)]);
    }
    board.close(vec![port]);
}

fn is_readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

fn forget(fd: std::os::fd::BorrowedFd<'_>) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

#[test]
fn an_idle_queue_sleeps_until_a_frame_comes() {
    for soc in SOCS {
        let board = Board::new(soc);
        let mut port = board.port(1);
        for round in 0..20 {
            assert!(port.receive().is_empty());
            assert_eq!(port.rx[0].arm(), Armed::Waiting, "{soc}, round {round}");
            assert!(!is_readable(port.rx[0].event_fd().unwrap()), "{soc}, round {round}");
            board.send(1, &frame(1, 64));
            assert!(is_readable(port.rx[0].event_fd().unwrap()), "{soc}, round {round}");
            forget(port.rx[0].event_fd().unwrap());
            port.rx[0].disarm();
            assert_eq!(port.receive().len(), 1);
        }
        // A frame that is there already keeps the worker awake, or wakes it at once.
        board.send(1, &frame(1, 64));
        let armed = port.rx[0].arm();
        assert!(armed == Armed::Ready || is_readable(port.rx[0].event_fd().unwrap()));
        port.rx[0].disarm();
        assert_eq!(port.receive().len(), 1);
        board.close(vec![port]);
    }
}

#[test]
fn a_queue_without_a_channel_is_polled() {
    let board = Board::with("lx2160a", 0);
    let mut port = board.port(1);
    assert!(port.rx[0].event_fd().is_none());
    assert_eq!(port.rx[0].arm(), Armed::Ready);
    board.close(vec![port]);
}

#[test]
fn the_link_is_announced_and_told() {
    let board = Board::new("lx2160a");
    let port = board.port(1);
    assert!(port.handle.link().unwrap().is_up);
    assert_eq!(port.handle.link().unwrap().rate_mbps, 10_000);
    port.handle.take_link_event().unwrap();
    assert!(!is_readable(port.handle.link_event().unwrap()));
    board.model(|model| model.set_link(1, false));
    assert!(is_readable(port.handle.link_event().unwrap()));
    assert!(port.handle.take_link_event().unwrap());
    assert!(!port.handle.link().unwrap().is_up);
    assert!(!is_readable(port.handle.link_event().unwrap()));
    assert!(!port.handle.take_link_event().unwrap());
    board.close(vec![port]);
}

#[test]
fn only_frames_for_the_interface_pass_its_filters() {
    let board = Board::new("lx2160a");
    let mut port = board.port_with(dpaa2_port::PortConfig {
        promiscuous: false,
        all_multicast: false,
        vlans: None,
        mac: Some([2, 0, 0, 0, 0, 0x11]),
        ..small(1)
    });
    assert_eq!(port.handle.status().unwrap().mac, [2, 0, 0, 0, 0, 0x11]);
    let to = |mac: [u8; 6]| {
        let mut frame = frame(1, 64);
        frame[..6].copy_from_slice(&mac);
        frame
    };
    let group = [1, 0, 0x5e, 0, 0, 1];
    let each = [[2, 0, 0, 0, 0, 0x11], [0xff; 6], [2, 0, 0, 0, 0, 0x12], group];
    let received = |port: &mut common::TestPort| {
        each.iter().for_each(|&mac| board.send(1, &to(mac)));
        port.receive().len()
    };
    assert_eq!(received(&mut port), 2);
    port.handle.add_mac(group).unwrap();
    assert_eq!(received(&mut port), 3);
    port.handle.set_promiscuous(true, false).unwrap();
    assert_eq!(received(&mut port), 4);
    port.handle.remove_mac(group).unwrap();
    assert_eq!(received(&mut port), 3);
    assert_eq!(port.counter("ingress_filtered_frames"), 4);

    let tagged = |vlan: u16| {
        let mut frame = to([0xff; 6]);
        frame[12..14].copy_from_slice(&0x8100_u16.to_be_bytes());
        frame[14..16].copy_from_slice(&vlan.to_be_bytes());
        frame
    };
    port.handle.set_vlans(Some(&[5, 6])).unwrap();
    [5, 6, 7].iter().for_each(|&vlan| board.send(1, &tagged(vlan)));
    assert_eq!(port.receive().len(), 2);
    port.handle.set_vlans(None).unwrap();
    board.send(1, &tagged(7));
    assert_eq!(port.receive().len(), 1);
    board.close(vec![port]);
}

#[test]
fn an_empty_pool_costs_frames_and_not_the_port() {
    let board = Board::new("lx2160a");
    let mut port = board.port(1);
    (0..400).for_each(|_| board.send(1, &frame(1, 64)));
    let got = port.receive().len();
    let missed = port.counter("ingress_nobuffer_discards");
    assert!(missed > 100 && got as u64 + missed == 400, "{got} and {missed}");
    board.send(1, &frame(2, 64));
    assert_eq!(port.receive().len(), 1);
    board.close(vec![port]);
}

#[test]
fn a_receive_queue_that_nobody_polls_is_limited() {
    let board = Board::new("lx2160a");
    let mut port = board.port_with(dpaa2_port::PortConfig {
        rx_classes: vec![RxClass { queue_bytes: 20_000, ..RxClass::new(1) }],
        ..small(1)
    });
    (0..200).for_each(|_| board.send(1, &frame(1, 1000)));
    let got = port.receive().len() as u64;
    assert!(got < 60, "{got} frames got past the limit");
    assert_eq!(got + port.counter("ingress_discarded_frames"), 200);
    board.close(vec![port]);
}

#[test]
fn a_receive_queue_that_nobody_polls_keeps_no_other_from_the_portal() {
    let board = Board::new("lx2160a");
    let (mut a, mut b) = (board.port(1), board.port(2));
    // Frames for A are being fetched when its frames have to wait.
    board.send(1, &frame(1, 100));
    a.receive();
    b.receive();
    a.receive();
    let waiting: Vec<_> = (0..40).map(|n| frame(n, 100)).collect();
    waiting.iter().for_each(|frame| board.send(1, frame));
    for n in 0..100 {
        let sent = frame(n, 80);
        board.send(2, &sent);
        let received: Vec<_> = (0..4).flat_map(|_| b.receive()).map(|(bytes, _)| bytes).collect();
        assert_eq!(received, [sent], "frame {n}");
    }
    let received: Vec<_> = (0..8).flat_map(|_| a.receive()).map(|(bytes, _)| bytes).collect();
    assert!(received.ends_with(&waiting), "{} frames", received.len());
    board.close(vec![a, b]);
}

#[test]
fn a_slow_wire_costs_frames_at_its_own_port_only() {
    let board = Board::new("lx2160a");
    let mut port = board.port_with({
        let mut config = small(1);
        config.rx_pools[0].pool.buffers = 2048;
        config
    });
    board.model(|model| model.stop_clock());
    let frames: Vec<_> = (0..1000).map(|n| (frame(n as u8, 1000), PLAIN)).collect();
    port.transmit(&frames);
    let full = port.drops(DropReason::TxFull);
    assert!(full > 300, "{full}");
    assert_eq!(port.counters.tx_frames.get() + full, 1000);
    board.model(|model| model.advance(10_000_000));
    assert_eq!(board.sent(1).len() as u64, port.counters.tx_frames.get());
    port.transmit(&frames[..1]);
    board.model(|model| model.advance(10_000_000));
    assert_eq!(board.sent(1), [frames[0].0.clone()]);
    assert!(port.counter("congested-turns") > 0);
    board.close(vec![port]);
}

#[test]
fn a_pool_of_its_own_keeps_guests_from_starving_reception() {
    let board = Board::new("lx2160a");
    let mut config = small(1);
    config.tx_pool = Some(PoolConfig { buffers: 64, ..PoolConfig::new(3) });
    let mut port = board.port_with(config);
    board.model(|model| model.stop_clock());
    let frames: Vec<_> = (0..200).map(|n| (frame(n as u8, 100), PLAIN)).collect();
    port.transmit(&frames);
    let sent = port.counters.tx_frames.get();
    assert!((64..100).contains(&sent), "{sent} frames with 64 buffers and a few that left meanwhile");
    assert_eq!(port.drops(DropReason::PoolEmpty), 200 - sent);
    board.send(1, &frame(9, 64));
    assert_eq!(port.receive().len(), 1);
    board.model(|model| model.advance(10_000_000));
    assert_eq!(board.sent(1).len() as u64, sent);
    board.close(vec![port]);
}

#[test]
fn a_port_can_be_opened_again_and_its_objects_are_free_again() {
    let board = Board::new("ls2088a");
    for round in 0..4u8 {
        let mut ports: Vec<_> = (1..=2)
            .map(|dpni| {
                board.port_with(dpaa2_port::PortConfig { rx_classes: vec![RxClass::new(4)], ..small(dpni) })
            })
            .collect();
        board.send(1, &frame(round, 64));
        assert_eq!(ports[0].receive().len(), 1);
        // Left in the queue: given back by the close.
        board.send(2, &frame(round, 64));
    }
    let port = board.port(1);
    board.close(vec![port]);
}

#[test]
fn what_the_container_lacks_and_the_interface_cannot_is_said() {
    let board = Board::new("lx2160a");
    let error = |config| board.hardware.open_port(&config).err().map(|error| error.to_string()).unwrap();
    let five = error(dpaa2_port::PortConfig { rx_classes: vec![RxClass::new(5)], ..small(1) });
    assert!(five.contains("dpni.1: 5 receive queues; it can have 1, 2, 3, 4, 6, 7, 8"), "{five}");
    let long = error(dpaa2_port::PortConfig { frame_max: 20_000, ..small(1) });
    assert!(long.contains("frames of 20000 bytes"), "{long}");
    let missing = error(small(7));
    assert!(missing.contains("dpni.7"), "{missing}");
    let port = board.port(1);
    let model = board.model.clone();
    board.close(vec![port]);
    let bus = ModelBus::open(model, 2).unwrap();
    let many = Dpaa2::open(bus, &[0; 12]).err().expect("13 portals").to_string();
    assert!(many.contains("no free dpio") && many.contains("restool dpio create"), "{many}");
}
