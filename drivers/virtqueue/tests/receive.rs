//! What the switch promises about frames a guest sends.

mod support;

use packet::{Burst, Offload};
use port::{Armed, DropReason, PortCounters, Received, RxQueue};
use support::*;
use virtio_defs::feature;
use virtqueue::EventFd;

#[test]
fn frames_arrive_in_order_and_intact_over_many_rounds_of_the_ring() {
    for features in BOTH {
        for size in [1, 2, 4, 64, 256] {
            let (mut guest, counters) = (Guest::new(size, features), PortCounters::default());
            let mut queue = guest.rx_queue();
            let mut sent = vec![];
            let mut arrived = vec![];
            for n in 0..1000 {
                let frame = frame(n, 14 + n % 300);
                if !guest.send(&frame) {
                    guest.tx.publish();
                    arrived.extend(receive_all(&mut queue, &counters));
                    guest.sent();
                    assert!(guest.send(&frame));
                }
                sent.push(frame);
            }
            guest.tx.publish();
            arrived.extend(receive_all(&mut queue, &counters));
            assert_eq!(arrived, sent, "ring of {size}, features {features:#x}");
            assert_eq!(counters.rx_frames.get(), 1000);
            assert_eq!(counters.rx_bytes.get(), sent.iter().map(|f| f.len() as u64).sum::<u64>());
            guest.sent();
            assert_eq!(guest.tx.outstanding(), 0, "every buffer came back");
        }
    }
}

#[test]
fn buffers_stay_with_the_switch_until_the_burst_is_released() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        guest.send(&frame(1, 60));
        guest.tx.publish();
        let mut burst = Burst::new();
        let received = Received::poll(&mut queue, &mut burst, &counters).unwrap();
        assert_eq!(guest.sent(), 0);
        drop(received);
        assert_eq!(guest.sent(), 1);
    }
}

#[test]
fn a_chain_may_be_cut_anywhere_even_in_the_header() {
    // CVE-2022-2132: a header spread over more than two descriptors.
    for features in BOTH {
        for indirect in [false, true] {
            let features = features | feature::INDIRECT_DESC | HOST_OFFLOADS;
            let (mut guest, counters) = (Guest::new(64, features), PortCounters::default());
            let mut queue = guest.rx_queue();
            let header = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
            for cuts in [
                &[12][..],
                &[4, 8],
                &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
                &[11, 2],
                &[13],
                &[12, 1, 1, 1],
                &[0, 12, 0, 20],
            ] {
                let sent = frame(cuts.len(), 500);
                assert!(guest.send_cut(&header, &sent, cuts, indirect));
                guest.tx.publish();
                let got = receive(&mut queue, &counters).unwrap();
                assert_eq!(got.len(), 1, "cuts {cuts:?}");
                assert_eq!(got[0].0, sent, "cuts {cuts:?}");
                assert_eq!((got[0].1.csum_start, got[0].1.csum_offset), (34, 6));
                assert_eq!(guest.sent(), 1);
            }
            assert_eq!(drops(&counters), []);
        }
    }
}

#[test]
fn the_longest_frame_passes_and_a_longer_one_is_dropped() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        for (len, arrives) in [(13, 0), (14, 1), (virtqueue::FRAME_MAX, 1), (virtqueue::FRAME_MAX + 1, 0)] {
            for cuts in [&[][..], &[12]] {
                guest.send_cut(&[0; 12], &frame(0, len), cuts, false);
                guest.tx.publish();
                assert_eq!(receive(&mut queue, &counters).unwrap().len(), arrives, "{len}");
                assert_eq!(guest.sent(), 1);
            }
        }
        assert_eq!(drops(&counters), [(DropReason::Runt, 2), (DropReason::BadChain, 2)]);
        assert_eq!(counters.rx_frames.get(), 8);
    }
}

#[test]
fn a_chain_without_a_whole_header_is_dropped_and_given_back() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        for len in [0, 1, 11] {
            guest.send_cut(&[], &frame(0, len), &[], false);
        }
        guest.send(&frame(1, 60));
        guest.tx.publish();
        let got = receive(&mut queue, &counters).unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0, frame(1, 60));
        assert_eq!(guest.sent(), 4);
        assert_eq!(drops(&counters), [(DropReason::BadChain, 3)]);
    }
}

#[test]
fn an_offload_that_contradicts_its_frame_drops_the_frame_only() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features | HOST_OFFLOADS), PortCounters::default());
        let mut queue = guest.rx_queue();
        // CVE-2024-11614: csum_start outside the frame.
        guest.send_cut(&[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], &frame(0, 60), &[], false);
        // Segments of no bytes.
        guest.send_cut(&[1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame(1, 2000), &[12], false);
        guest.send_cut(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0], &frame(2, 2000), &[], false);
        guest.tx.publish();
        let got = receive(&mut queue, &counters).unwrap();
        assert_eq!(got.len(), 1);
        let expected =
            Offload { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 };
        assert_eq!(got[0], (frame(2, 2000), expected));
        assert_eq!(drops(&counters), [(DropReason::BadOffload, 2)]);
        assert_eq!(guest.sent(), 3);
    }
}

#[test]
fn requests_are_ignored_when_no_offload_was_negotiated() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        guest.send_cut(&[0xff; 12], &frame(0, 60), &[], false);
        guest.tx.publish();
        assert_eq!(receive(&mut queue, &counters).unwrap(), [(frame(0, 60), Offload::default())]);
    }
}

#[test]
fn chains_of_the_most_pieces_pass_and_longer_ones_are_dropped() {
    for features in BOTH {
        for indirect in [false, true] {
            let features = features | feature::INDIRECT_DESC;
            let (mut guest, counters) = (Guest::new(1024, features), PortCounters::default());
            let mut queue = guest.rx_queue();
            for pieces in [virtqueue::CHAIN_MAX, virtqueue::CHAIN_MAX + 1] {
                guest.send_cut(&[0; 12], &frame(pieces, 1000), &vec![3; pieces - 1], indirect);
            }
            guest.send(&frame(9, 60));
            guest.tx.publish();
            let got: Vec<_> = receive_all(&mut queue, &counters);
            assert_eq!(got, [frame(virtqueue::CHAIN_MAX, 1000), frame(9, 60)]);
            assert_eq!(guest.sent(), 3);
            assert_eq!(drops(&counters), [(DropReason::BadChain, 1)]);
        }
    }
}

#[test]
fn a_burst_ends_early_when_its_segments_run_out_and_goes_on_in_the_next() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8192, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        let sent: Vec<_> = (0..30).map(|n| frame(n, 1000)).collect();
        for frame in &sent {
            assert!(guest.send_cut(&[0; 12], frame, &[5; 199], false));
        }
        guest.tx.publish();
        assert_eq!(receive_all(&mut queue, &counters), sent);
        assert_eq!(guest.sent(), 30);
    }
}

#[test]
fn in_order_completes_a_burst_with_one_entry() {
    for features in BOTH {
        let features = features | feature::IN_ORDER;
        let (mut guest, counters) = (Guest::new(64, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        for round in 0..100 {
            let sent: Vec<_> = (0..20).map(|n| frame(round + n, 100)).collect();
            for (n, frame) in sent.iter().enumerate() {
                assert!(guest.send_cut(&[0; 12], frame, &[12][..n % 2], false));
            }
            guest.tx.publish();
            assert_eq!(receive_all(&mut queue, &counters), sent);
            assert_eq!(guest.sent(), 20);
        }
    }
}

#[test]
fn a_polled_ring_wants_no_kicks_and_a_sleeping_one_exactly_one() {
    for features in BOTH {
        for event_idx in [0, feature::EVENT_IDX] {
            let (mut guest, counters) = (Guest::new(64, features | event_idx), PortCounters::default());
            let mut queue = guest.rx_queue();
            for n in 0..100 {
                guest.send(&frame(n, 60));
                assert!(!guest.tx.publish(), "polled");
                receive_all(&mut queue, &counters);
                guest.sent();
            }
            assert_eq!(queue.arm(), Armed::Waiting);
            guest.send(&frame(0, 60));
            assert!(guest.tx.publish(), "asleep");
            guest.send(&frame(1, 60));
            assert_eq!(guest.tx.publish(), event_idx == 0, "an index asks once");
            assert_eq!(queue.arm(), Armed::Ready);
            queue.disarm();
            assert_eq!(receive_all(&mut queue, &counters).len(), 2);
            guest.send(&frame(2, 60));
            assert!(!guest.tx.publish(), "polled again");
        }
    }
}

#[test]
fn kicks_are_drained_and_counted() {
    let (mut guest, counters) = (Guest::new(8, SPLIT), PortCounters::default());
    let kick = EventFd::create().unwrap();
    let mut queue = guest.rx_queue();
    queue.set_kick(Some(kick.try_clone().unwrap()));
    assert!(queue.event_fd().is_some());
    assert_eq!(queue.arm(), Armed::Waiting);
    guest.send(&frame(0, 60));
    if guest.tx.publish() {
        kick.signal();
    }
    queue.disarm();
    assert!(!kick.drain(), "drained by the queue");
    receive_all(&mut queue, &counters);
    assert_eq!(counters.kicks.get(), 1);
}

#[test]
fn a_guest_is_interrupted_once_per_burst_and_only_if_it_wants_that() {
    for features in BOTH {
        for event_idx in [0, feature::EVENT_IDX] {
            let (mut guest, counters) = (Guest::new(64, features | event_idx), PortCounters::default());
            let call = EventFd::create().unwrap();
            let mut queue = guest.rx_queue();
            queue.set_call(Some(call.try_clone().unwrap()));
            let mut round = |guest: &mut Guest| {
                for n in 0..20 {
                    guest.send(&frame(n, 60));
                }
                guest.tx.publish();
                receive_all(&mut queue, &counters);
                guest.sent();
                call.drain()
            };
            assert!(!round(&mut guest), "suppressed");
            assert!(!guest.tx.ask_for_calls());
            assert!(round(&mut guest));
            assert_eq!(counters.calls.get(), 1);
            guest.tx.refuse_calls();
            for _ in 0..20 {
                assert!(!round(&mut guest), "suppressed again");
            }
        }
    }
}

#[test]
fn a_stopped_ring_goes_on_where_it_was() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(16, features), PortCounters::default());
        let mut config = guest.tx_config();
        for round in 0..40 {
            let mut queue = virtqueue::VirtioRx::new(config, guest.map.clone()).unwrap();
            let sent: Vec<_> = (0..5).map(|n| frame(round * 5 + n, 70)).collect();
            sent.iter().for_each(|f| assert!(guest.send(f)));
            guest.tx.publish();
            assert_eq!(receive_all(&mut queue, &counters), sent, "round {round}");
            assert_eq!(guest.sent(), 5);
            config = queue.into_state();
        }
    }
}

#[test]
fn the_memory_table_can_be_exchanged_between_bursts() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(16, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        guest.send(&frame(0, 60));
        guest.tx.publish();
        assert_eq!(receive_all(&mut queue, &counters).len(), 1);
        let again = guest_memory::RegionSpec {
            gpa: GPA,
            len: guest.memory.len() as u64,
            user_va: USER,
            fd: guest.memory.fd(),
            offset: 0,
        };
        queue.set_memory(std::sync::Arc::new(guest_memory::MemMap::new(&[again]).unwrap())).unwrap();
        guest.send(&frame(1, 60));
        guest.tx.publish();
        assert_eq!(receive_all(&mut queue, &counters), [frame(1, 60)]);
        let empty = std::sync::Arc::new(guest_memory::MemMap::default());
        assert!(queue.set_memory(empty).is_err(), "the ring must be inside");
        guest.send(&frame(2, 60));
        guest.tx.publish();
        assert_eq!(receive_all(&mut queue, &counters), [frame(2, 60)], "and the old table still serves");
    }
}

#[test]
fn a_buffer_may_cross_into_the_neighbouring_region() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(16, features), PortCounters::default());
        let half = guest.memory.len() as u64 / 2;
        let regions = [0, half].map(|offset| guest_memory::RegionSpec {
            gpa: GPA + offset,
            len: half,
            user_va: USER + 2 * offset,
            fd: guest.memory.fd(),
            offset,
        });
        let map = std::sync::Arc::new(guest_memory::MemMap::new(&regions).unwrap());
        let mut queue = virtqueue::VirtioRx::new(guest.tx_config(), map).unwrap();
        let at = half as usize - 100;
        guest.write(at, &[0; 12]);
        guest.write(at + 12, &frame(3, 500));
        guest.tx.add(&[virtqueue::driver::Buffer::readable(GPA + at as u64, 512)], 0);
        guest.tx.publish();
        assert_eq!(receive_all(&mut queue, &counters), [frame(3, 500)]);
    }
}
