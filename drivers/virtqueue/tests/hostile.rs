//! What a hostile guest can do to its own ring, and that this is all.
//!
//! The patterns of the faults found in DPDK's vhost library that concern rings are named at the tests that
//! replay them; those of the messages are tested with the memory tables and the protocol.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest_memory::{MemMap, RegionSpec};
use packet::{Burst, Offload};
use port::{DropReason, PortCounters, QueueFault, RxQueue};
use support::*;
use virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};
use virtio_defs::packed::avail_flags;
use virtio_defs::{feature, net};
use virtqueue::driver::Layout;
use virtqueue::{RingConfig, RingError, VirtioRx, VirtioTx};

/// A guest that writes its rings by hand. Both rings of [`Guest`] are reached; `ring` is an offset.
struct Hostile {
    guest: Guest,
    size: u16,
    packed: bool,
    ring: usize,
    available: u16,
}

/// Addresses of the ring on which the guest transmits, and of the one on which it receives.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    Transmits,
    Receives,
}

impl Hostile {
    fn new(size: u16, features: u64, which: Which) -> Hostile {
        let guest = Guest::new(size, features);
        let ring = if which == Which::Transmits { guest.tx.offset() } else { guest.rx.offset() };
        Hostile { guest, size, packed: features & feature::RING_PACKED != 0, ring, available: 0 }
    }

    fn layout(&self) -> Layout {
        Layout::new(self.size, self.packed)
    }

    /// Writes a descriptor; `link` is `next` or the buffer's id.
    fn desc(&self, at: usize, index: u16, addr: u64, len: u32, flags: u16, link: u16) {
        let (third, fourth) = if self.packed { (link, flags) } else { (flags, link) };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&third.to_le_bytes());
        bytes[14..].copy_from_slice(&fourth.to_le_bytes());
        self.guest.write(at + index as usize * 16, &bytes);
    }

    /// Makes a chain available: in a packed ring as consecutive descriptors, in a split one as a linked list from
    /// entry 0.
    fn offer(&mut self, chain: &[(u64, u32, u16)]) {
        for (k, &(addr, len, flags)) in chain.iter().enumerate() {
            if self.packed {
                let flags = flags | avail_flags(true);
                self.desc(self.ring, self.available + k as u16, addr, len, flags, 0);
            } else {
                self.desc(self.ring, k as u16, addr, len, flags, k as u16 + 1);
            }
        }
        if self.packed {
            self.available += chain.len() as u16;
        } else {
            self.avail_entry(self.available, 0);
            self.available += 1;
            self.avail_idx(self.available);
        }
    }

    fn avail_entry(&self, at: u16, head: u16) {
        let entry = self.ring + self.layout().driver + 4 + (at % self.size) as usize * 2;
        self.guest.write(entry, &head.to_le_bytes());
    }

    fn avail_idx(&self, idx: u16) {
        self.guest.write(self.ring + self.layout().driver + 2, &idx.to_le_bytes());
    }

    /// What happens when the switch receives from it.
    fn received(&self) -> Result<usize, QueueFault> {
        let counters = PortCounters::default();
        let mut queue = self.guest.rx_queue();
        let first = receive(&mut queue, &counters).map(|frames| frames.len());
        if first.is_err() {
            assert_eq!(receive(&mut queue, &counters).map(|f| f.len()), first, "a fault stays");
            assert_eq!(queue.fault(), first.err());
        }
        first
    }

    /// What happens when the switch sends to it.
    fn sent_to(&self) -> Result<(), QueueFault> {
        let counters = PortCounters::default();
        let mut queue = self.guest.tx_queue();
        let sent = transmit(&mut queue, &[(frame(0, 60), Offload::default())], &counters);
        assert_eq!(drops(&counters), if sent.is_err() { vec![(DropReason::PortDown, 1)] } else { vec![] });
        if sent.is_err() {
            assert_eq!(counters.tx_frames.get(), 0);
            assert_eq!(transmit(&mut queue, &[(frame(0, 60), Offload::default())], &counters), sent);
        }
        sent
    }
}

fn fault<T>(error: RingError) -> Result<T, QueueFault> {
    Err(error.into())
}

const BUFFER: u64 = GPA + DATA as u64;

/// A chain, as the transmitting and as the receiving ring see it, and the fault it must give.
fn both_ways(features: u64, chain: &[(u64, u32, u16)], expected: RingError) {
    let mut transmits = Hostile::new(64, features, Which::Transmits);
    transmits.offer(chain);
    assert_eq!(transmits.received(), fault(expected), "transmitting, features {features:#x}");
    let writable: Vec<_> = chain.iter().map(|&(a, l, f)| (a, l, f | WRITE)).collect();
    let mut receives = Hostile::new(64, features, Which::Receives);
    receives.offer(&writable);
    let expected = match expected {
        RingError::IndirectRefused(flags) => RingError::IndirectRefused(flags | u64::from(WRITE)),
        RingError::IndirectWithNext(flags) => RingError::IndirectWithNext(flags | u64::from(WRITE)),
        other => other,
    };
    assert_eq!(receives.sent_to(), fault(expected), "receiving, features {features:#x}");
}

/// The flags as they stand in a descriptor of the ring.
fn in_ring(features: u64, flags: u16) -> u64 {
    let ring = if features & feature::RING_PACKED != 0 { avail_flags(true) } else { 0 };
    u64::from(flags | ring)
}

#[test]
fn a_buffer_outside_the_memory_is_a_fault() {
    // CVE-2020-10725: the translation of a buffer of a packed batch was not checked.
    for features in BOTH {
        let end = GPA + Guest::new(1, features).memory.len() as u64;
        for addr in [0, GPA - 1, end, u64::MAX, u64::MAX - 99] {
            both_ways(features, &[(addr, 100, 0)], RingError::Unmapped(addr));
        }
    }
}

#[test]
fn a_buffer_that_runs_out_of_the_memory_is_a_fault() {
    // CVE-2018-1059: only the start of a buffer was translated.
    for features in BOTH {
        let end = GPA + Guest::new(1, features).memory.len() as u64;
        both_ways(features, &[(end - 71, 100, 0)], RingError::Unmapped(end - 71));
        let mut hostile = Hostile::new(64, features, Which::Transmits);
        hostile.offer(&[(BUFFER, u32::MAX, 0)]);
        assert_eq!(hostile.received(), fault(RingError::Unmapped(BUFFER)));
    }
}

#[test]
fn an_entry_past_the_descriptor_table_is_a_fault() {
    for which in [Which::Transmits, Which::Receives] {
        for head in [64, 65, 0x7fff, 0xffff] {
            let hostile = Hostile::new(64, SPLIT, which);
            hostile.avail_entry(0, head);
            hostile.avail_idx(1);
            let expected = RingError::HeadOutOfRange(head.into());
            match which {
                Which::Transmits => assert_eq!(hostile.received(), fault(expected)),
                Which::Receives => assert_eq!(hostile.sent_to(), fault(expected)),
            }
        }
    }
}

#[test]
fn an_available_index_past_the_ring_is_a_fault() {
    for idx in [65, 1000, 0x8000, 0xffff] {
        let hostile = Hostile::new(64, SPLIT, Which::Transmits);
        hostile.avail_idx(idx);
        assert_eq!(hostile.received(), fault(RingError::AvailJump(idx.into())));
        let hostile = Hostile::new(64, SPLIT, Which::Receives);
        hostile.avail_idx(idx);
        assert_eq!(hostile.sent_to(), fault(RingError::AvailJump(idx.into())));
    }
}

#[test]
fn a_chain_that_leaves_the_table_is_a_fault() {
    for which in [Which::Transmits, Which::Receives] {
        let mut hostile = Hostile::new(64, SPLIT, which);
        let flags = NEXT | if which == Which::Receives { WRITE } else { 0 };
        hostile.offer(&[(BUFFER, 10, flags)]);
        hostile.desc(hostile.ring, 0, BUFFER, 10, flags, 64);
        let outcome = match which {
            Which::Transmits => hostile.received().map(|_| ()),
            Which::Receives => hostile.sent_to(),
        };
        assert_eq!(outcome, fault(RingError::NextOutOfRange(64)));
    }
}

#[test]
fn a_chain_that_never_ends_is_a_fault() {
    // CVE-2022-2132: a chain that loops kept the switch busy for ever.
    for features in BOTH {
        for (size, length) in [(1, 1), (2, 2), (64, 64), (64, 3), (4096, 4096), (4096, 5)] {
            let mut hostile = Hostile::new(size, features, Which::Transmits);
            hostile.offer(&vec![(BUFFER, 1, NEXT); length]);
            let last = length as u16 - 1;
            if hostile.packed {
                // Every descriptor of the ring goes on.
                for slot in 0..size {
                    hostile.desc(hostile.ring, slot, BUFFER, 1, NEXT | avail_flags(true), 0);
                }
            } else {
                hostile.desc(hostile.ring, last, BUFFER, 1, NEXT, 0);
            }
            assert_eq!(hostile.received(), fault(RingError::ChainLoop(0)), "{size} {length}");
        }
    }
}

#[test]
fn a_chain_of_empty_buffers_ends_too() {
    for features in BOTH {
        both_ways(features, &[(0, 0, NEXT); 64], RingError::ChainLoop(0));
    }
}

#[test]
fn an_indirect_descriptor_must_be_negotiated_and_stand_alone() {
    for features in BOTH {
        let refused = RingError::IndirectRefused(in_ring(features, INDIRECT));
        both_ways(features, &[(BUFFER, 16, INDIRECT)], refused);
        let with_next = RingError::IndirectWithNext(in_ring(features, INDIRECT | NEXT));
        both_ways(features | feature::INDIRECT_DESC, &[(BUFFER, 16, INDIRECT | NEXT)], with_next);
    }
}

#[test]
fn an_indirect_table_of_no_or_half_entries_is_a_fault() {
    for features in BOTH.map(|f| f | feature::INDIRECT_DESC) {
        for len in [0, 1, 15, 17, 0xffff_ffff] {
            both_ways(features, &[(BUFFER, len, INDIRECT)], RingError::IndirectLength(len.into()));
        }
    }
}

#[test]
fn an_indirect_table_outside_the_memory_is_a_fault() {
    for features in BOTH.map(|f| f | feature::INDIRECT_DESC) {
        let end = GPA + Guest::new(1, features).memory.len() as u64;
        both_ways(features, &[(end - 8, 16, INDIRECT)], RingError::Unmapped(end - 8));
        both_ways(features, &[(u64::MAX - 7, 32, INDIRECT)], RingError::Unmapped(u64::MAX - 7));
    }
}

#[test]
fn indirect_tables_do_not_nest_loop_or_lead_outside() {
    for features in BOTH.map(|f| f | feature::INDIRECT_DESC) {
        let packed = features & feature::RING_PACKED != 0;
        let table = DATA + 4096;
        let addr = GPA + table as u64;
        let case = |entries: &[(u64, u32, u16, u16)]| {
            let mut hostile = Hostile::new(64, features, Which::Transmits);
            for (k, &(addr, len, flags, link)) in entries.iter().enumerate() {
                hostile.desc(table, k as u16, addr, len, flags, link);
            }
            hostile.offer(&[(addr, entries.len() as u32 * 16, INDIRECT)]);
            hostile.received()
        };
        assert_eq!(case(&[(addr, 16, INDIRECT, 0)]), fault(RingError::IndirectNested(addr)));
        assert_eq!(case(&[(0, 16, 0, 0)]), fault(RingError::Unmapped(0)));
        if !packed {
            let next = RingError::NextOutOfRange(2);
            assert_eq!(case(&[(BUFFER, 1, NEXT, 2), (BUFFER, 1, 0, 0)]), fault(next));
            let ring_loop = case(&[(BUFFER, 1, NEXT, 1), (BUFFER, 1, NEXT, 0)]);
            assert_eq!(ring_loop, fault(RingError::ChainLoop(0)));
        }
        assert_eq!(
            case(&vec![(BUFFER, 1, if packed { 0 } else { NEXT }, 0); 5000]),
            fault(RingError::ChainLoop(0))
        );
    }
}

#[test]
fn buffers_of_the_wrong_direction_are_a_fault() {
    for features in BOTH {
        let flags = in_ring(features, WRITE);
        let mut hostile = Hostile::new(64, features, Which::Transmits);
        hostile.offer(&[(BUFFER, 100, WRITE)]);
        assert_eq!(hostile.received(), fault(RingError::WrongDirection(flags)));
        let flags = in_ring(features, 0);
        let mut hostile = Hostile::new(64, features, Which::Receives);
        hostile.offer(&[(BUFFER, 100, 0)]);
        assert_eq!(hostile.sent_to(), fault(RingError::WrongDirection(flags)));
    }
}

#[test]
fn enormous_chains_of_real_memory_are_dropped_and_nothing_else() {
    for features in BOTH {
        let counters = PortCounters::default();
        let mut hostile = Hostile::new(64, features, Which::Transmits);
        // 60 buffers of 14 MiB each.
        let mut chain = vec![(BUFFER, 14 << 20, NEXT); 60];
        chain.push((BUFFER, 14 << 20, 0));
        hostile.offer(&chain);
        let mut queue = hostile.guest.rx_queue();
        assert_eq!(receive(&mut queue, &counters).unwrap().len(), 0);
        assert_eq!(drops(&counters), [(DropReason::BadChain, 1)]);
    }
}

#[test]
fn the_frames_before_a_broken_chain_are_not_half_received() {
    for features in BOTH {
        let (mut guest, counters) = (Guest::new(64, features), PortCounters::default());
        let mut queue = guest.rx_queue();
        guest.send(&frame(0, 60));
        guest.tx.add(&[virtqueue::driver::Buffer::readable(0, 100)], 0);
        guest.tx.publish();
        let mut burst = Burst::new();
        assert!(queue.receive(&mut burst, &counters).is_err());
        assert!(burst.is_empty());
        queue.release(&mut burst, &counters);
        assert_eq!(counters.rx_frames.get(), 0);
        assert_eq!(guest.sent(), 0, "a dead ring is left alone");
    }
}

#[test]
fn rings_with_impossible_shapes_do_not_start() {
    // CVE-2020-10723 and CVE-2019-14818 are of this kind: numbers of a ring taken as they came.
    for features in BOTH {
        let guest = Guest::new(64, features);
        let good = || guest.tx_config();
        let try_new = |config: RingConfig| VirtioRx::new(config, guest.map.clone()).map(|_| ()).unwrap_err();
        for size in [0, 32769, 0xffff] {
            assert_eq!(try_new(RingConfig { size, ..good() }), RingError::Size(size.into()));
        }
        if features == SPLIT {
            assert_eq!(try_new(RingConfig { size: 63, ..good() }), RingError::Size(63));
            assert_eq!(try_new(RingConfig { base: 0x1_0000, ..good() }), RingError::Base(0x1_0000));
        } else {
            assert_eq!(try_new(RingConfig { base: 0x8040, ..good() }), RingError::Base(0x8040));
        }
        let desc_addr = good().desc_addr + 8;
        assert_eq!(try_new(RingConfig { desc_addr, ..good() }), RingError::Misaligned(desc_addr));
        let driver_addr = good().driver_addr + 1;
        assert_eq!(try_new(RingConfig { driver_addr, ..good() }), RingError::Misaligned(driver_addr));
        let device_addr = good().device_addr + 2;
        assert_eq!(try_new(RingConfig { device_addr, ..good() }), RingError::Misaligned(device_addr));
        for outside in [0, USER - 16, USER + guest.memory.len() as u64 - 2, u64::MAX - 15] {
            let error = RingError::RingUnmapped(outside);
            assert_eq!(try_new(RingConfig { desc_addr: outside, ..good() }), error);
            assert_eq!(try_new(RingConfig { driver_addr: outside, ..good() }), error);
            assert_eq!(try_new(RingConfig { device_addr: outside, ..good() }), error);
        }
        let legacy = features & !feature::VERSION_1;
        assert_eq!(try_new(RingConfig { features: legacy, ..good() }), RingError::Legacy(legacy));
    }
}

/// A guest whose memory file can still be shortened, unlike [`Guest`]'s.
fn truncatable(features: u64) -> (Guest, std::fs::File, Arc<MemMap>) {
    let guest = Guest::new(64, features);
    let file = tempfile();
    file.set_len(guest.memory.len() as u64).unwrap();
    let region = RegionSpec {
        gpa: GPA,
        len: guest.memory.len() as u64,
        user_va: USER,
        fd: std::os::fd::AsFd::as_fd(&file),
        offset: 0,
    };
    let map = Arc::new(MemMap::new(&[region]).unwrap());
    (guest, file, map)
}

/// A memory file nobody sealed.
fn tempfile() -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: memfd_create returns a new descriptor.
    #[allow(unsafe_code)]
    unsafe {
        std::fs::File::from_raw_fd(libc::memfd_create(c"truncatable".as_ptr(), libc::MFD_CLOEXEC))
    }
}

/// Copies the guest's memory into its truncatable twin: what the guest prepared, the switch will find.
fn publish(guest: &Guest, file: &std::fs::File) {
    use std::os::unix::fs::FileExt;
    file.write_all_at(&guest.read(0, guest.memory.len()), 0).unwrap();
}

#[test]
fn memory_that_is_truncated_while_frames_are_borrowed_stops_that_guest_only() {
    for features in BOTH {
        let counters = PortCounters::default();
        let (mut guest, file, map) = truncatable(features);
        let mut queue = VirtioRx::new(guest.tx_config(), map).unwrap();
        for n in 0..10 {
            guest.send(&frame(n, 1000));
        }
        guest.tx.publish();
        publish(&guest, &file);
        let mut other = Guest::new(64, features);
        let mut to = other.tx_queue();
        for _ in 0..20 {
            other.post(&[2000]);
        }
        other.rx.publish();

        let mut burst = Burst::new();
        queue.receive(&mut burst, &counters).unwrap();
        assert_eq!(burst.len(), 10);
        file.set_len(0).unwrap();
        let which: Vec<u8> = (0..10).collect();
        use port::{Selection, TxQueue};
        to.transmit(Selection { burst: &mut burst, which: &which }, &counters).unwrap();
        queue.release(&mut burst, &counters);
        assert_eq!(other.frames(), vec![vec![0; 1000]; 10], "zeros stand for what is gone");
        assert_eq!(receive(&mut queue, &counters).map(|_| ()), fault(RingError::MemoryGone(0)));
        transmit_plain(&mut to, &[frame(5, 100)], &counters);
        assert_eq!(other.frames(), [frame(5, 100)]);
    }
}

#[test]
fn a_receiver_whose_memory_is_truncated_is_stopped() {
    for features in BOTH {
        let counters = PortCounters::default();
        let (mut guest, file, map) = truncatable(features);
        let mut queue = VirtioTx::new(guest.rx_config(), map).unwrap();
        for _ in 0..20 {
            guest.post(&[2000]);
        }
        guest.rx.publish();
        publish(&guest, &file);
        // The rings stay, the buffers go.
        file.set_len(DATA as u64).unwrap();
        let sent = transmit(&mut queue, &[(frame(0, 60), Offload::default())], &counters);
        assert_eq!(sent, fault(RingError::MemoryGone(0)));
        assert_eq!(drops(&counters), [(DropReason::PortDown, 1)]);
    }
}

#[test]
fn what_a_guest_rewrites_while_it_is_read_changes_nothing_but_its_own_frames() {
    for features in BOTH {
        let features = features | feature::INDIRECT_DESC | HOST_OFFLOADS | net::feature::MRG_RXBUF;
        let counters = PortCounters::default();
        let mut other = Guest::new(256, features);
        let mut to = other.tx_queue();
        let mut faults = 0;
        for round in 0..40u64 {
            let hostile = Guest::new(64, features);
            let (mut rx, mut tx) = (hostile.rx_queue(), hostile.tx_queue());
            let stop = AtomicBool::new(false);
            let (memory, rings) = (hostile.memory.clone(), [hostile.tx.offset(), hostile.rx.offset()]);
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    // Plausible noise all over both rings: addresses mostly inside, flags and links small.
                    let mut x = round * 2654435761 + 1;
                    let mut random = || {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        x
                    };
                    while !stop.load(Ordering::Relaxed) {
                        for ring in rings {
                            let index = (random() % 80) as usize;
                            let flags = (random() as u16 & 7) | avail_flags(random() & 1 == 0);
                            let addr = BUFFER + random() % 100_000;
                            let mut desc = [0; 16];
                            desc[..8].copy_from_slice(&addr.to_le_bytes());
                            desc[8..10].copy_from_slice(&(random() as u16 & 0x7f0).to_le_bytes());
                            desc[12..14].copy_from_slice(&(random() as u16 & 63).to_le_bytes());
                            desc[14..].copy_from_slice(&flags.to_le_bytes());
                            if features & feature::RING_PACKED == 0 {
                                desc[12..16].rotate_left(2);
                            }
                            write(&memory, ring + index * 16, &desc);
                            let avail = ring + Layout::new(64, false).driver;
                            if features & feature::RING_PACKED == 0 {
                                write(&memory, avail + 2, &(random() as u16 & 63).to_le_bytes());
                                write(&memory, avail + 4 + index * 2, &(random() as u16 & 63).to_le_bytes());
                            }
                        }
                    }
                });
                for n in 0..50 {
                    for _ in 0..8 {
                        other.post(&[2000]);
                    }
                    other.rx.publish();
                    let received = receive(&mut rx, &counters);
                    let sent = transmit(&mut tx, &vec![(frame(n, 300), Offload::default()); 8], &counters);
                    faults += u32::from(received.is_err()) + u32::from(sent.is_err());
                    transmit_plain(&mut to, &vec![frame(n, 700); 8], &counters);
                    assert_eq!(other.frames(), vec![frame(n, 700); 8]);
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
        assert!(faults > 0, "the noise broke something");
    }
}

#[test]
fn a_guest_may_give_the_same_memory_to_both_its_rings() {
    for features in BOTH {
        let counters = PortCounters::default();
        for shift in [0u64, 1, 12, 300] {
            let mut guest = Guest::new(16, features);
            let (mut rx, mut tx) = (guest.rx_queue(), guest.tx_queue());
            guest.tx.add(&[virtqueue::driver::Buffer::readable(BUFFER, 1500)], 0);
            guest.rx.add(&[virtqueue::driver::Buffer::writable(BUFFER + shift, 2000)], 0);
            guest.tx.publish();
            guest.rx.publish();
            let mut burst = Burst::new();
            rx.receive(&mut burst, &counters).unwrap();
            use port::{Selection, TxQueue};
            tx.transmit(Selection { burst: &mut burst, which: &[0] }, &counters).unwrap();
            rx.release(&mut burst, &counters);
            assert_eq!(guest.received().len(), 1);
        }
    }
}
