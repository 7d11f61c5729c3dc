//! A switch that is killed loses no descriptor and gives none back twice.

mod support;

use packet::Burst;
use port::{PortCounters, RxQueue};
use support::*;
use virtio_defs::feature;
use virtqueue::driver::Buffer;
use virtqueue::{InflightQueue, InflightRegion, VirtioRx, VirtioTx};

fn region(features: u64, size: u16) -> InflightRegion {
    InflightRegion::create(2, size, features & feature::RING_PACKED != 0).unwrap()
}

#[test]
fn what_was_taken_and_not_given_back_is_taken_again_by_the_successor() {
    for features in BOTH {
        for in_order in [0, feature::IN_ORDER] {
            let (mut guest, counters) = (Guest::new(16, features | in_order), PortCounters::default());
            let region = region(features, 16);
            // The front-end remembers where the ring began, not where it is.
            let start = |guest: &Guest, inflight: Option<InflightQueue>| {
                let config = virtqueue::RingConfig { inflight, ..guest.tx_config() };
                VirtioRx::new(config, guest.map.clone()).unwrap()
            };
            let mut first = start(&guest, region.queue(0));
            for round in 0..7 {
                let sent: Vec<_> = (0..5).map(|n| frame(round + n, 60)).collect();
                sent.iter().for_each(|f| assert!(guest.send_cut(&[0; 12], f, &[12, 10][..round % 3], false)));
                guest.tx.publish();
                assert_eq!(receive_all(&mut first, &counters), sent);
                assert_eq!(guest.sent(), 5);
            }
            let sent: Vec<_> = (0..4).map(|n| frame(n, 99)).collect();
            sent.iter().for_each(|f| assert!(guest.send(f)));
            guest.tx.publish();
            let mut burst = Burst::new();
            first.receive(&mut burst, &counters).unwrap();
            assert_eq!(burst.len(), 4);
            // Killed here: nothing of it runs again.
            std::mem::forget(first);

            // The successor maps the region that the front-end kept.
            let fd = region.fd().unwrap();
            let packed = features & feature::RING_PACKED != 0;
            let again = InflightRegion::map(fd, 0, region.bytes(), 2, 16, packed).unwrap();
            let mut second = start(&guest, again.queue(0));
            assert_eq!(receive_all(&mut second, &counters), sent);
            assert_eq!(guest.sent(), 4);
            assert_eq!(guest.tx.outstanding(), 0);
        }
    }
}

#[test]
fn after_an_orderly_stop_the_front_end_s_position_counts() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(16, features), PortCounters::default());
        let region = region(features, 16);
        let mut config = guest.tx_config();
        config.inflight = region.queue(0);
        let mut queue = VirtioRx::new(config, guest.map.clone()).unwrap();
        guest.send(&frame(0, 60));
        guest.tx.publish();
        receive_all(&mut queue, &counters);
        drop(queue.into_state());
        // The guest's driver was reset: a fresh ring, and the same region.
        let mut guest = Guest::new(16, features);
        let mut config = guest.tx_config();
        config.inflight = region.queue(0);
        let mut queue = VirtioRx::new(config, guest.map.clone()).unwrap();
        guest.send(&frame(1, 60));
        guest.tx.publish();
        assert_eq!(receive_all(&mut queue, &counters), [frame(1, 60)]);
    }
}

#[test]
fn a_region_full_of_noise_starts_a_ring_inside_its_bounds_or_not_at_all() {
    // The region comes back from a front-end, which may have written anything into it.
    for features in BOTH {
        let region = region(features, 16);
        let fd = region.fd().unwrap();
        let memory = guest_memory::Mapping::new(fd, 0, region.bytes()).unwrap();
        let mut seed = 12345u64;
        for _ in 0..300 {
            for at in 0..memory.len() {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                #[allow(unsafe_code, reason = "written as a front-end would")]
                // SAFETY: inside the mapping.
                unsafe {
                    memory.start().as_ptr().add(at).write_volatile((seed >> 33) as u8)
                };
            }
            #[allow(unsafe_code, reason = "written as a front-end would")]
            // SAFETY: inside the mapping: the version and size of a running packed ring, then small positions.
            unsafe {
                memory.start().as_ptr().add(8).cast::<[u16; 2]>().write_volatile([0x5257, 16]);
                memory.start().as_ptr().add(16).cast::<[u8; 8]>().write_volatile([
                    (seed >> 40) as u8 & 31,
                    (seed >> 41) as u8 & 0x80,
                    (seed >> 42) as u8 & 31,
                    (seed >> 43) as u8 & 0x80,
                    (seed >> 44) as u8 & 31,
                    0,
                    0,
                    0,
                ]);
            }
            let mut guest = Guest::new(16, features);
            for n in 0..8 {
                guest.send(&frame(n, 60));
            }
            guest.tx.publish();
            let mut config = guest.tx_config();
            config.inflight = region.queue(0);
            if let Ok(mut queue) = VirtioRx::new(config, guest.map.clone()) {
                let _ = receive(&mut queue, &PortCounters::default());
            }
        }
    }
}

#[test]
fn impossible_regions_are_refused() {
    // CVE-2020-10726 and CVE-2019-14818 are about what such requests left behind: here everything is owned.
    for (queues, size) in [(0, 16), (257, 16), (1, 0), (1, 0xffff)] {
        assert!(InflightRegion::create(queues, size, false).is_err(), "{queues} {size}");
    }
    let small = InflightRegion::create(1, 16, false).unwrap();
    let fd = small.fd().unwrap();
    assert!(InflightRegion::map(fd, 0, small.bytes(), 2, 16, false).is_err());
    assert!(InflightRegion::map(fd, 0, small.bytes(), 1, 16, true).is_err());
    assert!(InflightRegion::map(fd, 4, small.bytes(), 1, 16, false).is_err());
    assert!(InflightRegion::map(fd, 1 << 40, small.bytes(), 1, 16, false).is_err());
    assert!(small.queue(1).is_none());
}

/// Runs the switch in a child process that is killed at any moment, again and again, while the guest goes on. The
/// guest's driver refuses a descriptor that comes back twice.
#[test]
fn kills_at_any_moment_lose_no_descriptor_and_repeat_none() {
    for features in BOTH {
        for in_order in [0, feature::IN_ORDER] {
            kill_again_and_again(features | in_order, Some(region(features, 64)));
        }
    }
}

/// QEMU's network devices have no in-flight record: their front-end remembers where a ring began, and no more.
#[test]
fn without_a_record_the_rings_themselves_tell_where_they_stand() {
    for features in BOTH {
        kill_again_and_again(features, None);
    }
}

#[allow(unsafe_code, reason = "fork and kill")]
fn kill_again_and_again(features: u64, region: Option<InflightRegion>) {
    let mut guest = Guest::new(64, features);
    let counters = PortCounters::default();
    let data = std::array::from_fn::<_, 64, _>(|n| GPA + (DATA + n * 2048) as u64);
    let mut n = 0;
    let mut feed = |guest: &mut Guest| {
        n += 1;
        // One and two descriptors, in turn.
        let at = data[n % 64];
        let chain = [Buffer::readable(at, 12), Buffer::readable(at + 12, 60)];
        let whole = [Buffer::readable(at, 72)];
        guest.tx.add(if n % 3 == 0 { &chain } else { &whole }, n as u32)
            | guest.rx.add(&[Buffer::writable(at + 1024, 100)], n as u32)
    };
    let start = |guest: &Guest| {
        let record = |index| region.as_ref().and_then(|region| region.queue(index));
        let rx = virtqueue::RingConfig { inflight: record(0), ..guest.tx_config() };
        let tx = virtqueue::RingConfig { inflight: record(1), ..guest.rx_config() };
        (VirtioRx::new(rx, guest.map.clone()).unwrap(), VirtioTx::new(tx, guest.map.clone()).unwrap())
    };
    let (mut back, mut filled) = (0, 0);
    for round in 0..60u64 {
        let (mut rx, mut tx) = start(&guest);
        let mut burst = Burst::new();
        // SAFETY: the child only polls the rings, which allocates nothing, until it is killed.
        let child = unsafe { libc::fork() };
        if child == 0 {
            loop {
                burst.clear();
                if rx.receive(&mut burst, &counters).is_ok() {
                    let which: [u8; 32] = std::array::from_fn(|i| i as u8);
                    let which = &which[..burst.len()];
                    use port::TxQueue;
                    let _ = tx.transmit(port::Selection { burst: &mut burst, which }, &counters);
                    rx.release(&mut burst, &counters);
                }
            }
        }
        assert!(child > 0);
        // The parent's copies are the child's memory image, not queues of their own.
        std::mem::forget((rx, tx));
        let until = std::time::Instant::now() + std::time::Duration::from_micros(200 + round * 37 % 900);
        while std::time::Instant::now() < until {
            while feed(&mut guest) {}
            guest.tx.publish();
            guest.rx.publish();
            back += guest.tx.poll(64, |_, _| ()).expect("no descriptor comes back twice");
            filled += guest.rx.poll(64, |_, _| ()).expect("no descriptor comes back twice");
        }
        // SAFETY: our own child.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
        }
    }
    let (mut rx, mut tx) = start(&guest);
    while guest.tx.outstanding() > 0 {
        let frames = receive_all(&mut rx, &counters);
        transmit_plain(&mut tx, &frames, &counters);
        let n = guest.tx.poll(64, |_, _| ()).unwrap();
        assert!(n > 0, "{} descriptors are lost", guest.tx.outstanding());
        back += n;
    }
    transmit_plain(&mut tx, &vec![frame(0, 60); guest.rx.outstanding()], &counters);
    filled += guest.rx.poll(64, |_, _| ()).unwrap();
    assert_eq!(guest.rx.outstanding(), 0, "receive buffers are lost");
    assert!(back > 0 && filled > 0);
}
