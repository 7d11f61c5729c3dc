//! Guest and switch on threads of their own, sleeping when there is nothing to do: no wake-up is lost.

mod support;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use packet::Burst;
use port::{Armed, PortCounters, RxQueue, Selection, TxQueue};
use support::*;
use virtio_defs::feature;
use virtqueue::EventFd;
use virtqueue::driver::Buffer;

const FRAMES: usize = 20_000;

/// Waits until readable. A minute means that a wake-up was lost.
#[allow(unsafe_code, reason = "poll")]
fn sleep_on(fd: BorrowedFd<'_>) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&mut poll, 1, 60_000) };
    assert_eq!(ready, 1, "nobody woke us");
}

/// A guest sends to itself through the switch; each side sleeps whenever it finds nothing.
fn run(features: u64) {
    let mut guest = Guest::new(64, features);
    let (kick, call) = (EventFd::create().unwrap(), EventFd::create().unwrap());
    let (mut rx, mut tx) = (guest.rx_queue(), guest.tx_queue());
    rx.set_kick(Some(kick.try_clone().unwrap()));
    tx.set_call(Some(call.try_clone().unwrap()));
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let counters = PortCounters::default();
            let mut burst = Burst::new();
            while counters.rx_frames.get() < FRAMES as u64 {
                burst.clear();
                rx.receive(&mut burst, &counters).unwrap();
                if burst.is_empty() {
                    if rx.arm() == Armed::Waiting {
                        sleep_on(rx.event_fd().unwrap());
                    }
                    rx.disarm();
                    continue;
                }
                let which: Vec<u8> = (0..burst.len() as u8).collect();
                tx.transmit(Selection { burst: &mut burst, which: &which }, &counters).unwrap();
                tx.flush(&counters).unwrap();
                rx.release(&mut burst, &counters);
            }
            assert_eq!(drops(&counters), []);
        });
        let slot = |n: usize| DATA + n % 64 * 4096;
        let (mut sent, mut received) = (0usize, 0usize);
        let mut posted = 0;
        while received < FRAMES {
            // A receive buffer for each frame first, so that none is dropped.
            while posted < received + 60
                && guest.rx.add(&[Buffer::writable(GPA + slot(posted) as u64 + 2048, 200)], posted as u32)
            {
                posted += 1;
            }
            guest.rx.publish();
            let burst = 1 + sent % 7;
            for _ in 0..burst {
                if sent < FRAMES && sent < posted {
                    let at = slot(sent);
                    let bytes = [&[0; 12][..], &(sent as u64).to_le_bytes(), &[7; 60]].concat();
                    if !guest.tx.add(&[Buffer::readable(GPA + at as u64, 80)], 0) {
                        break;
                    }
                    guest.write(at, &bytes);
                    sent += 1;
                }
            }
            if guest.tx.publish() {
                kick.signal();
            }
            let mut got = vec![];
            let n = guest.rx.poll(64, |token, len| got.push((token as usize, len))).unwrap();
            for (token, len) in got {
                assert_eq!((token, len), (received, 80));
                let bytes = guest.read(slot(token) + 2048 + 12, 8);
                assert_eq!(bytes, (received as u64).to_le_bytes(), "in order and once");
                received += 1;
            }
            guest.tx.poll(64, |_, _| ()).unwrap();
            if n == 0 && received < sent {
                if !guest.rx.ask_for_calls() {
                    sleep_on(call.as_fd());
                }
                guest.rx.refuse_calls();
                call.drain();
            }
        }
    });
}

#[test]
fn no_wake_up_is_lost_by_flag() {
    for features in BOTH {
        run(features);
    }
}

#[test]
fn no_wake_up_is_lost_by_event_index() {
    for features in BOTH {
        run(features | feature::EVENT_IDX);
    }
}
