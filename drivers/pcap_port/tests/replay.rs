//! Replaying: pace, loops, sleep; and the loop port.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use packet::{Burst, HugePages, Offload, OwnedBurst};
use pcap_port::{Capture, Pace, PcapRx, Speed, loop_queues};
use port::{Armed, DropReason, PortCounters, Received, RxQueue, Selection, TxQueue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const MS: u64 = 1_000_000;

/// A capture of frames at these milliseconds; each consists of its number, 60 times.
fn capture(at_ms: &[u32]) -> Arc<Capture> {
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    for (i, ms) in at_ms.iter().enumerate() {
        for value in [1 + ms / 1000, ms % 1000 * 1000, 60, 60] {
            file.extend(value.to_le_bytes());
        }
        file.extend([i as u8; 60]);
    }
    Arc::new(Capture::parse(file).unwrap())
}

fn receive(rx: &mut dyn RxQueue, counters: &PortCounters) -> Vec<u8> {
    let mut burst = Burst::new();
    let mut received = Received::poll(rx, &mut burst, counters).unwrap();
    let burst = received.burst();
    (0..burst.len())
        .map(|i| {
            let mut frame = vec![0; burst.frame_len(i)];
            burst.read(i, 0, &mut frame);
            assert!(frame.iter().all(|&b| b == frame[0]));
            frame[0]
        })
        .collect()
}

/// A replay whose clock the test owns, in nanoseconds.
fn replay(capture: &Arc<Capture>, pace: Pace, loops: Option<u64>) -> (PcapRx, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(7_000_000_000));
    let clock = Arc::clone(&now);
    let rx = PcapRx::with_clock(Arc::clone(capture), pace, loops, move || clock.load(Ordering::Relaxed));
    (rx, now)
}

#[test]
fn unpaced_frames_come_in_full_bursts_as_often_as_asked() {
    let capture = capture(&[0; 50]);
    let (mut rx, _) = replay(&capture, Pace::Unpaced, Some(2));
    let counters = PortCounters::default();
    let bursts: Vec<usize> = (0..5).map(|_| receive(&mut rx, &counters).len()).collect();
    assert_eq!(bursts, [32, 32, 32, 4, 0]);
    assert!(rx.is_finished());
    assert_eq!((counters.rx_frames.get(), counters.rx_bytes.get()), (100, 6000));
    assert_eq!(rx.arm(), Armed::Waiting);
}

#[test]
fn recorded_gaps_are_kept_and_scaled_and_loops_are_a_mean_gap_apart() {
    let capture = capture(&[0, 10, 40]);
    let counters = PortCounters::default();
    for (factor, scale) in [(1.0, 1), (0.5, 2)] {
        let pace = Pace::Recorded(Speed::new(factor).unwrap());
        let (mut rx, now) = replay(&capture, pace, Some(2));
        let mut at = |ms: u64| {
            now.store(7_000_000_000 + ms * scale * MS, Ordering::Relaxed);
            receive(&mut rx, &counters)
        };
        assert_eq!(at(0), [0]);
        assert_eq!(at(9), []);
        assert_eq!(at(10), [1]);
        assert_eq!(at(39), []);
        assert_eq!(at(40), [2]);
        assert_eq!(at(59), []);
        assert_eq!(at(60), [0]);
        assert_eq!(at(1000), [1, 2], "late frames follow at once");
        assert_eq!(at(5000), []);
    }
}

#[test]
fn a_fixed_rate_is_kept_whatever_the_recorded_times() {
    let capture = capture(&[0, 900, 901]);
    let (mut rx, now) = replay(&capture, Pace::FramesPerSecond(NonZeroU64::new(1000).unwrap()), None);
    let counters = PortCounters::default();
    for ms in 0..100 {
        now.store(7_000_000_000 + ms * MS, Ordering::Relaxed);
        assert_eq!(receive(&mut rx, &counters), [(ms % 3) as u8]);
        assert_eq!(receive(&mut rx, &counters), []);
    }
}

#[test]
fn speeds_that_make_no_sense_are_not_speeds() {
    for factor in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300] {
        assert_eq!(Speed::new(factor), None);
    }
    assert_eq!(Speed::new(1.0), Some(Speed::RECORDED));
}

#[test]
fn an_empty_capture_and_no_loops_are_finished_at_once() {
    for (capture, loops) in [(capture(&[]), None), (capture(&[]), Some(3)), (capture(&[0]), Some(0))] {
        let (mut rx, _) = replay(&capture, Pace::Unpaced, loops);
        assert!(rx.is_finished());
        assert_eq!(receive(&mut rx, &PortCounters::default()), []);
    }
}

#[test]
fn frames_without_an_ethernet_header_are_counted_and_dropped() {
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    file.extend([0, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 13, 0, 0, 0]);
    file.extend([1; 13]);
    let capture = Arc::new(Capture::parse(file).unwrap());
    let (mut rx, _) = replay(&capture, Pace::Unpaced, Some(1));
    let counters = PortCounters::default();
    assert_eq!(receive(&mut rx, &counters), []);
    assert_eq!((counters.rx_frames.get(), counters.drops(DropReason::Runt)), (1, 1));
}

#[test]
fn a_worker_sleeps_between_frames_that_are_far_apart() {
    let mut rx = PcapRx::new(capture(&[0, 100]), Pace::Recorded(Speed::RECORDED), Some(1));
    let counters = PortCounters::default();
    assert_eq!(rx.arm(), Armed::Ready);
    assert_eq!(receive(&mut rx, &counters), [0]);
    assert_eq!(rx.arm(), Armed::Waiting);
    assert!(wait(&rx, 5000));
    rx.disarm();
    assert_eq!(receive(&mut rx, &counters), [1]);
    assert_eq!(rx.arm(), Armed::Waiting);
    assert!(!wait(&rx, 50), "nothing is left to wake for");
}

fn wait(rx: &dyn RxQueue, ms: u64) -> bool {
    let timeout = Timespec::try_from(Duration::from_millis(ms)).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(rx.event_fd().unwrap(), PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

fn send(tx: &mut dyn TxQueue, frames: &[&[u8]], counters: &PortCounters) {
    let mut made = OwnedBurst::new(32, 70_000, HugePages::Off).unwrap();
    for frame in frames {
        made.push(Offload { gso_size: frame.len() as u16, ..Offload::default() }, |buffer| {
            buffer[..frame.len()].copy_from_slice(frame);
            frame.len()
        });
    }
    let which: Vec<u8> = (0..frames.len() as u8).collect();
    tx.transmit(Selection { burst: made.burst(), which: &which }, counters).unwrap();
    tx.flush(counters).unwrap();
}

#[test]
fn a_loop_gives_back_what_was_sent_and_drops_what_has_no_room() {
    let (mut rx, mut tx) = loop_queues(4).unwrap();
    let (sent, received) = (PortCounters::default(), PortCounters::default());
    for round in 0..3 {
        send(&mut tx, &[&[1; 60], &[2; 9000], &[3; 65_000], &[4; 14], &[5; 60], &[6; 60]], &sent);
        let mut burst = Burst::new();
        let mut back = Received::poll(&mut rx, &mut burst, &received).unwrap();
        let burst = back.burst();
        let lens: Vec<usize> = (0..burst.len()).map(|i| burst.frame_len(i)).collect();
        assert_eq!(lens, [60, 9000, 65_000, 14]);
        assert!((0..4).all(|i| usize::from(burst.offload(i).gso_size) == lens[i]));
        let mut last = [0; 14];
        burst.read(3, 0, &mut last);
        assert_eq!(last, [4; 14]);
        // The burst in hand still has the buffers.
        send(&mut tx, &[&[7; 60]], &sent);
        assert_eq!(sent.drops(DropReason::TxFull), 3 * (round + 1));
        drop(back);
        assert_eq!(receive(&mut rx, &received), []);
    }
    assert_eq!(sent.tx_frames.get(), received.rx_frames.get());
    assert_eq!(sent.tx_bytes.get(), received.rx_bytes.get());
}

#[test]
fn a_loop_wakes_its_sleeping_receiver_once() {
    let (mut rx, mut tx) = loop_queues(8).unwrap();
    let counters = PortCounters::default();
    send(&mut tx, &[&[1; 60]], &counters);
    assert!(!wait(&rx, 0), "nobody sleeps: no notification");
    assert_eq!(rx.arm(), Armed::Ready);
    rx.disarm();
    assert_eq!(receive(&mut rx, &counters), [1]);

    assert_eq!(rx.arm(), Armed::Waiting);
    send(&mut tx, &[&[2; 60]], &counters);
    send(&mut tx, &[&[3; 60]], &counters);
    assert!(wait(&rx, 1000));
    assert_eq!(counters.calls.get(), 1);
    rx.disarm();
    assert!(!wait(&rx, 0));
    assert_eq!(receive(&mut rx, &counters), [2, 3]);
}

#[test]
fn a_loop_may_have_its_ends_in_two_threads() {
    const FRAMES: u64 = 20_000;
    let (mut rx, mut tx) = loop_queues(64).unwrap();
    let receiver = std::thread::spawn(move || {
        let counters = PortCounters::default();
        let mut expected = 0_u64;
        let mut burst = Burst::new();
        while expected < FRAMES {
            let mut received = Received::poll(&mut rx, &mut burst, &counters).unwrap();
            for i in 0..received.burst().len() {
                let mut number = [0; 8];
                received.burst().read(i, 0, &mut number);
                assert_eq!(u64::from_be_bytes(number), expected);
                expected += 1;
            }
            drop(received);
            std::thread::yield_now();
        }
    });
    let counters = PortCounters::default();
    let mut made = OwnedBurst::new(32, 64, HugePages::Off).unwrap();
    let mut next = 0_u64;
    while next < FRAMES {
        made.clear();
        made.push(Offload::default(), |buffer| {
            buffer[..8].copy_from_slice(&next.to_be_bytes());
            64
        });
        tx.transmit(Selection { burst: made.burst(), which: &[0] }, &counters).unwrap();
        if counters.tx_frames.get() > next {
            next += 1;
        } else {
            std::thread::yield_now();
        }
    }
    receiver.join().unwrap();
}
