//! What the switch promises about frames a guest receives.

mod support;

use std::sync::Arc;

use guest_memory::{DirtyLog, SharedMemory};
use packet::{Burst, Offload};
use port::{Accepts, DropReason, PortCounters, Received, Selection, TxQueue};
use support::*;
use virtio_defs::{feature, net};
use virtqueue::EventFd;

#[test]
fn frames_arrive_in_order_and_intact_over_many_rounds_of_the_ring() {
    for features in BOTH {
        for in_order in [0, feature::IN_ORDER] {
            let (mut guest, counters) = (Guest::new(64, features | in_order), PortCounters::default());
            let mut queue = guest.tx_queue();
            for round in 0..50 {
                while guest.post(&[600]) {}
                guest.rx.publish();
                let sent: Vec<_> = (0..40).map(|n| frame(round * 40 + n, 14 + (n * 13) % 500)).collect();
                transmit_plain(&mut queue, &sent, &counters);
                assert_eq!(guest.frames(), sent);
            }
            assert_eq!(counters.tx_frames.get(), 2000);
            assert_eq!(drops(&counters), []);
        }
    }
}

#[test]
fn a_plain_frame_gets_a_header_of_zeros_and_one_buffer_and_nothing_is_written_behind_it() {
    for features in BOTH {
        for len in [14, 60, 64, 65, 127, 128, 129, 1514] {
            let (mut guest, counters) = (Guest::new(8, features), PortCounters::default());
            let mut queue = guest.tx_queue();
            guest.post(&[2000]);
            guest.rx.publish();
            transmit_plain(&mut queue, &[frame(1, len)], &counters);
            let [(at, used)] = guest.received()[..] else { panic!("one buffer") };
            assert_eq!(used, 12 + len);
            assert_eq!(guest.read(at, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!(guest.read(at + 12, len), frame(1, len));
            assert!(guest.read(at + 12 + len, 2000 - 12 - len).iter().all(|&b| b == 0xEE));
        }
    }
}

#[test]
fn a_frame_passes_from_guest_to_guest_with_and_without_its_head_loaded() {
    for features in BOTH {
        let (mut a, mut b) = (Guest::new(64, features), Guest::new(64, features));
        let counters = PortCounters::default();
        let (mut from, mut to) = (a.rx_queue(), b.tx_queue());
        let sent: Vec<_> = (0..30).map(|n| frame(n, 60 + 47 * n)).collect();
        for (n, frame) in sent.iter().enumerate() {
            assert!(a.send_cut(&[0; 12], frame, &[12, 30][..n % 3], false));
            assert!(b.post(&[2048]));
        }
        a.tx.publish();
        b.rx.publish();
        let mut burst = Burst::new();
        let mut received = Received::poll(&mut from, &mut burst, &counters).unwrap();
        let burst = received.burst();
        for i in (0..30).step_by(2) {
            burst.load_head(i, 64);
        }
        let which: Vec<u8> = (0..30).collect();
        to.transmit(Selection { burst, which: &which }, &counters).unwrap();
        drop(received);
        assert_eq!(b.frames(), sent);
        assert_eq!(a.sent(), 30);
    }
}

#[test]
fn offloads_are_passed_on_to_a_guest_that_takes_them() {
    let tso = Offload { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 };
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features | GUEST_OFFLOADS), PortCounters::default());
        let mut queue = guest.tx_queue();
        let all = Accepts { partial_checksum: true, tso4: true, tso6: true, tso_ecn: true };
        assert_eq!(queue.accepts(), all);
        guest.post(&[4000]);
        guest.rx.publish();
        transmit(&mut queue, &[(frame(0, 3000), tso)], &counters).unwrap();
        let [(at, _)] = guest.received()[..] else { panic!("one buffer") };
        assert_eq!(guest.read(at, 12), [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0]);
    }
    let plain = Guest::new(8, SPLIT | net::feature::GUEST_TSO4);
    assert_eq!(plain.tx_queue().accepts(), Accepts::default(), "segmentation needs checksums");
}

#[test]
fn a_checked_checksum_is_not_told_to_a_guest_that_did_not_ask() {
    let (mut guest, counters) = (Guest::new(8, SPLIT), PortCounters::default());
    let mut queue = guest.tx_queue();
    guest.post(&[100]);
    guest.rx.publish();
    let valid = Offload { flags: Offload::DATA_VALID, ..Offload::default() };
    transmit(&mut queue, &[(frame(0, 60), valid)], &counters).unwrap();
    let [(at, _)] = guest.received()[..] else { panic!("one buffer") };
    assert_eq!(guest.read(at, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn a_full_ring_drops_the_rest_of_the_burst_in_order() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(16, features), PortCounters::default());
        let mut queue = guest.tx_queue();
        for _ in 0..10 {
            guest.post(&[200]);
        }
        guest.rx.publish();
        let sent: Vec<_> = (0..25).map(|n| frame(n, 60)).collect();
        transmit_plain(&mut queue, &sent, &counters);
        assert_eq!(guest.frames(), sent[..10]);
        assert_eq!(drops(&counters), [(DropReason::TxFull, 15)]);
        assert_eq!(counters.tx_frames.get(), 10);
    }
}

#[test]
fn a_frame_is_spread_over_mergeable_buffers_and_over_chains() {
    for features in BOTH {
        let features = features | net::feature::MRG_RXBUF;
        for shape in [&[100][..], &[30, 70], &[1, 1, 98], &[5, 0, 95]] {
            let (mut guest, counters) = (Guest::new(256, features), PortCounters::default());
            let mut queue = guest.tx_queue();
            for _ in 0..40 {
                assert!(guest.post(shape));
            }
            guest.rx.publish();
            transmit_plain(&mut queue, &[frame(1, 1000), frame(2, 60), frame(3, 88)], &counters);
            let used = guest.received();
            let lens: Vec<usize> = used.iter().map(|u| u.1).collect();
            assert_eq!(lens, [100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 12, 72, 100]);
            // A posted chain lies in one stretch of memory.
            let bytes: Vec<u8> = used[..11].iter().flat_map(|&(at, len)| guest.read(at, len)).collect();
            assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 0]);
            assert_eq!(bytes[12..], frame(1, 1000));
            assert_eq!(guest.read(used[11].0 + 12, 60), frame(2, 60));
            assert_eq!(guest.read(used[12].0 + 12, 88), frame(3, 88));
            assert_eq!(drops(&counters), []);
        }
    }
}

#[test]
fn without_mergeable_buffers_a_chain_takes_one_frame() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(64, features), PortCounters::default());
        let mut queue = guest.tx_queue();
        guest.post(&[12, 500, 500]);
        guest.post(&[12, 60]);
        guest.rx.publish();
        transmit_plain(&mut queue, &[frame(1, 900), frame(2, 60)], &counters);
        let used = guest.received();
        assert_eq!(used.len(), 2);
        assert_eq!(guest.read(used[0].0 + 12, 900), frame(1, 900));
        assert_eq!(guest.read(used[1].0 + 12, 60), frame(2, 60));
    }
}

#[test]
fn a_frame_too_long_for_its_buffer_is_dropped_and_the_buffer_serves_the_next_one() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(8, features), PortCounters::default());
        let mut queue = guest.tx_queue();
        guest.post(&[100]);
        guest.rx.publish();
        transmit_plain(&mut queue, &[frame(1, 89), frame(2, 88)], &counters);
        assert_eq!(guest.frames(), [frame(2, 88)]);
        assert_eq!(drops(&counters), [(DropReason::TxBufferTooSmall, 1)]);
    }
}

#[test]
fn too_few_mergeable_buffers_lose_the_frame_and_none_of_the_buffers() {
    for features in BOTH {
        let (mut guest, counters) =
            (Guest::new(8, features | net::feature::MRG_RXBUF), PortCounters::default());
        let mut queue = guest.tx_queue();
        guest.post(&[100]);
        guest.post(&[100]);
        guest.rx.publish();
        transmit_plain(&mut queue, &[frame(1, 300), frame(2, 188)], &counters);
        let used = guest.received();
        assert_eq!(used.iter().map(|u| u.1).collect::<Vec<_>>(), [100, 100]);
        assert_eq!(drops(&counters), [(DropReason::TxFull, 1)]);
    }
}

#[test]
fn buffers_of_nothing_cost_a_bounded_search() {
    for features in BOTH {
        let (mut guest, counters) =
            (Guest::new(4096, features | net::feature::MRG_RXBUF), PortCounters::default());
        let mut queue = guest.tx_queue();
        while guest.post(&[1]) {}
        guest.rx.publish();
        transmit_plain(&mut queue, &[frame(1, 1500)], &counters);
        assert_eq!(drops(&counters), [(DropReason::TxBufferTooSmall, 1)]);
        assert_eq!(guest.received(), []);
    }
}

#[test]
fn a_guest_is_interrupted_once_per_flush_and_only_if_it_wants_that() {
    for features in BOTH {
        for event_idx in [0, feature::EVENT_IDX] {
            let (mut guest, counters) = (Guest::new(64, features | event_idx), PortCounters::default());
            let call = EventFd::create().unwrap();
            let mut queue = guest.tx_queue();
            queue.set_call(Some(call.try_clone().unwrap()));
            let mut round = |guest: &mut Guest| {
                while guest.post(&[100]) {}
                guest.rx.publish();
                transmit_plain(&mut queue, &vec![frame(0, 60); 20], &counters);
                guest.received();
                queue.flush(&counters).unwrap();
                call.drain()
            };
            assert!(!round(&mut guest));
            assert!(!guest.rx.ask_for_calls());
            assert!(round(&mut guest));
            assert_eq!(counters.calls.get(), 1);
            guest.rx.refuse_calls();
            for _ in 0..20 {
                assert!(!round(&mut guest));
            }
        }
    }
}

#[test]
fn the_ring_asks_for_no_kicks() {
    for features in BOTH {
        for event_idx in [0, feature::EVENT_IDX] {
            let mut guest = Guest::new(64, features | event_idx);
            let _queue = guest.tx_queue();
            guest.post(&[100]);
            assert!(!guest.rx.publish());
        }
    }
}

#[test]
fn a_stopped_ring_goes_on_where_it_was() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(16, features), PortCounters::default());
        let mut config = guest.rx_config();
        for round in 0..40 {
            let mut queue = virtqueue::VirtioTx::new(config, guest.map.clone()).unwrap();
            while guest.post(&[100]) {}
            guest.rx.publish();
            let sent: Vec<_> = (0..5).map(|n| frame(round * 5 + n, 70)).collect();
            transmit_plain(&mut queue, &sent, &counters);
            assert_eq!(guest.frames(), sent, "round {round}");
            config = queue.into_state();
        }
    }
}

/// Offsets of the memory's pages that changed between two looks, and those the log holds.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    (0..before.len() / 4096).filter(|&p| before[p * 4096..][..4096] != after[p * 4096..][..4096]).collect()
}

#[test]
fn every_page_that_was_written_is_in_the_dirty_log() {
    for features in BOTH {
        for shape in [&[2048][..], &[100, 1000, 948]] {
            let (mut guest, counters) = (
                Guest::new(256, features | feature::VHOST_LOG_ALL | net::feature::MRG_RXBUF),
                PortCounters::default(),
            );
            let memory = SharedMemory::new(c"log", 1 << 20).unwrap();
            let log = Arc::new(DirtyLog::new(memory.fd(), 0, 1 << 20).unwrap());
            let (mut rx, mut tx) = (guest.rx_queue(), guest.tx_queue());
            rx.set_log(Some(log.clone()), None);
            tx.set_log(Some(log), None);
            for n in 0..60 {
                guest.send(&frame(n, 100));
            }
            for _ in 0..70 {
                guest.post(shape);
            }
            guest.tx.publish();
            guest.rx.publish();
            let before = guest.read(0, guest.memory.len());
            let frames = receive_all(&mut rx, &counters);
            transmit_plain(&mut tx, &frames, &counters);
            transmit_plain(&mut tx, &[frame(77, 9000)], &counters);
            assert_eq!(drops(&counters), []);
            let written = changed(&before, &guest.read(0, guest.memory.len()));
            let first = (GPA / 4096) as usize;
            let marked: Vec<usize> = (0..guest.memory.len() / 4096)
                .filter(|p| {
                    let bit = first + p;
                    #[allow(unsafe_code, reason = "the log is read as the front-end would")]
                    // SAFETY: the log has bits for all of the memory.
                    let byte = unsafe { memory.start().as_ptr().add(bit / 8).read_volatile() };
                    byte >> (bit % 8) & 1 == 1
                })
                .collect();
            for page in &written {
                assert!(marked.contains(page), "page {page} was written and not marked");
            }
            assert!(marked.len() <= written.len() + 8, "{} marked, {} written", marked.len(), written.len());
        }
    }
}

#[test]
fn nothing_is_logged_until_the_feature_says_so() {
    let (mut guest, counters) = (Guest::new(16, SPLIT), PortCounters::default());
    let memory = SharedMemory::new(c"log", 1 << 20).unwrap();
    let mut tx = guest.tx_queue();
    tx.set_log(Some(Arc::new(DirtyLog::new(memory.fd(), 0, 1 << 20).unwrap())), None);
    let mut send = |tx: &mut virtqueue::VirtioTx| {
        guest.post(&[100]);
        guest.rx.publish();
        transmit_plain(tx, &[frame(0, 60)], &counters);
        #[allow(unsafe_code, reason = "the log is read as the front-end would")]
        // SAFETY: inside the log.
        (0..1 << 20).any(|i| unsafe { memory.start().as_ptr().add(i).read_volatile() } != 0)
    };
    assert!(!send(&mut tx));
    tx.set_log_all(true);
    assert!(send(&mut tx));
}
