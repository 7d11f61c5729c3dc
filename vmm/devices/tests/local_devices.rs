//! Disks, console and entropy as a driver sees them: rings in memory, kicks, interrupts.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::EventFd;
use devices::virtio::blk::dataplane::DataplaneBlk;
use devices::virtio::blk::inline::InlineBlk;
use devices::virtio::console::Console;
use devices::virtio::rng::Rng;
use devices::virtio::{Device, Memory, Queue, Session};
use disk::{Disk, Options};
use virtio_defs::blk::{request, status};
use virtio_defs::desc_flag::{NEXT, WRITE};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

const ENTRIES: u16 = 16;
const VERSION_1: u64 = 1 << 32;

fn memory() -> Memory {
    GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap())
}

/// The driver's side of a split ring at `base`.
struct Ring {
    memory: Memory,
    base: u64,
    descriptors: u16,
    made: u16,
    seen: u16,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    fn new(memory: &Memory, base: u64) -> Ring {
        let event = || EventFd::create().unwrap();
        Ring { memory: memory.clone(), base, descriptors: 0, made: 0, seen: 0, kick: event(), call: event() }
    }

    fn queue(&self, index: u16) -> Queue {
        Queue {
            index,
            size: ENTRIES,
            desc: self.base,
            driver: self.base.wrapping_add(0x1000),
            device: self.base.wrapping_add(0x2000),
            kick: self.kick.try_clone().unwrap(),
            call: self.call.try_clone().unwrap(),
        }
    }

    fn put<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.memory.memory().write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Makes a chain of buffers (address, length, whether the device writes) available; returns its number.
    fn make(&mut self, chain: &[(u64, u32, bool)]) -> u16 {
        let head = self.descriptors % ENTRIES;
        for (place, &(address, len, write)) in chain.iter().enumerate() {
            let index = self.descriptors % ENTRIES;
            self.descriptors += 1;
            let more = if place + 1 < chain.len() { NEXT } else { 0 };
            let at = self.base + u64::from(index) * 16;
            self.put(address, at);
            self.put(len, at + 8);
            self.put(more | if write { WRITE } else { 0 }, at + 12);
            self.put((index + 1) % ENTRIES, at + 14);
        }
        self.put(head, self.base + 0x1004 + u64::from(self.made % ENTRIES) * 2);
        self.made += 1;
        self.put(self.made, self.base + 0x1002);
        head
    }

    /// The next used element, waited for: number of the chain, bytes written.
    fn used(&mut self) -> (u32, u32) {
        let memory = self.memory.memory();
        let deadline = Instant::now() + Duration::from_secs(20);
        while memory.read_obj::<u16>(GuestAddress(self.base + 0x2002)).unwrap() == self.seen {
            assert!(Instant::now() < deadline, "no answer");
            std::thread::sleep(Duration::from_micros(50));
        }
        let at = self.base + 0x2004 + u64::from(self.seen % ENTRIES) * 8;
        self.seen += 1;
        let word = |at| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        (word(at), word(at + 4))
    }
}

fn session(memory: &Memory, features: u64, rings: &[&Ring]) -> Session {
    let queues = (0..).zip(rings).map(|(index, ring)| ring.queue(index)).collect();
    Session { features, memory: memory.clone(), queues }
}

fn disk(path: &Path) -> Arc<Disk> {
    std::fs::write(path, vec![0; 1 << 20]).unwrap();
    Arc::new(Disk::open(&Options { path: path.into(), read_only: false, direct: false }).unwrap())
}

/// Header of a request at `at`, its status byte behind it.
fn header(ring: &Ring, at: u64, kind: u32, sector: u64) {
    ring.put(kind, at);
    ring.put(sector, at + 8);
    ring.put(0xffu8, at + 16);
}

#[test]
fn an_inline_disk_has_answered_when_the_doorbell_returns() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, path) = (memory(), dir.path().join("disk"));
    let mut device = InlineBlk::new(disk(&path), "name");
    let mut ring = Ring::new(&memory, 0);
    device.start(session(&memory, VERSION_1, &[&ring])).unwrap();
    assert!(device.answers_doorbell(0));
    memory.memory().write_slice(&[7; 512], GuestAddress(0x9000)).unwrap();
    header(&ring, 0x8000, request::OUT, 2);
    let write = ring.make(&[(0x8000, 16, false), (0x9000, 512, false), (0x8010, 1, true)]);
    header(&ring, 0x8100, request::IN, 2);
    let read = ring.make(&[(0x8100, 16, false), (0xa000, 512, true), (0x8110, 1, true)]);
    device.rung(0);
    assert_eq!((ring.used(), ring.used()), ((write.into(), 1), (read.into(), 513)));
    let guest = memory.memory();
    let byte = |at| guest.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!((byte(0x8010), byte(0x8110), byte(0xa1ff)), (status::OK, status::OK, 7));
    assert_eq!(std::fs::read(&path).unwrap()[1024..1536], [7; 512]);
    assert!(ring.call.drain(), "no interrupt");
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let dir = tempfile::tempdir().unwrap();
    let memory = memory();
    let mut device = InlineBlk::new(disk(&dir.path().join("disk")), "name");
    let mut ring = Ring::new(&memory, 0);
    device.start(session(&memory, VERSION_1, &[&ring])).unwrap();
    ring.put(1u16, 0x1000);
    header(&ring, 0x8000, request::FLUSH, 0);
    ring.make(&[(0x8000, 16, false), (0x8010, 1, true)]);
    device.rung(0);
    assert_eq!(ring.used().1, 1);
    assert!(!ring.call.drain());
}

#[test]
fn a_dataplane_disk_answers_on_every_queue_and_goes_on_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let memory = memory();
    let mut device = DataplaneBlk::new(disk(&dir.path().join("disk")), 2, "name", || {}).unwrap();
    for life in 0..3u64 {
        let mut rings = [Ring::new(&memory, 0), Ring::new(&memory, 0x4000)];
        memory.memory().write_slice(&[0; 0x8000], GuestAddress(0)).unwrap();
        let [first, second] = &rings;
        device.start(session(&memory, VERSION_1, &[first, second])).unwrap();
        for turn in 0..20u64 {
            for (index, ring) in rings.iter_mut().enumerate() {
                let at = 0x1_0000 + index as u64 * 0x1_0000;
                let value = (life * 40 + turn * 2) as u8 + index as u8;
                memory.memory().write_slice(&[value; 1024], GuestAddress(at + 0x1000)).unwrap();
                header(ring, at, request::OUT, turn * 4 + index as u64 * 2);
                ring.make(&[(at, 16, false), (at + 0x1000, 1024, false), (at + 16, 1, true)]);
                ring.kick.signal();
            }
            for (index, ring) in rings.iter_mut().enumerate() {
                assert_eq!(ring.used().1, 1);
                let at = 0x1_0000 + index as u64 * 0x1_0000;
                header(ring, at, request::IN, turn * 4 + index as u64 * 2);
                ring.make(&[(at, 16, false), (at + 0x2000, 1024, true), (at + 16, 1, true)]);
                ring.kick.signal();
                assert_eq!(ring.used().1, 1025);
                let value = (life * 40 + turn * 2) as u8 + index as u8;
                let mut back = [0; 1024];
                memory.memory().read_slice(&mut back, GuestAddress(at + 0x2000)).unwrap();
                assert_eq!(back, [value; 1024]);
            }
        }
        device.stop();
    }
}

#[test]
fn a_dataplane_disk_takes_as_much_as_the_ring_holds_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let memory = memory();
    let mut device = DataplaneBlk::new(disk(&dir.path().join("disk")), 1, "name", || {}).unwrap();
    let mut ring = Ring::new(&memory, 0);
    device.start(session(&memory, device.features(), &[&ring])).unwrap();
    for n in 0..5u64 {
        header(&ring, 0x8000 + n * 0x100, request::IN, n);
        let at = 0x8000 + n * 0x100;
        ring.make(&[(at, 16, false), (0x2_0000 + n * 512, 512, true), (at + 16, 1, true)]);
    }
    // A request that is none, among them.
    ring.make(&[(0x8000, 16, false)]);
    ring.kick.signal();
    let mut written: Vec<u32> = (0..6).map(|_| ring.used().1).collect();
    written.sort_unstable();
    assert_eq!(written, [0, 513, 513, 513, 513, 513]);
    device.stop();
}

#[test]
fn a_ring_that_is_no_memory_is_refused_by_every_device() {
    let dir = tempfile::tempdir().unwrap();
    let memory = memory();
    let devices: [Box<dyn Device>; 4] = [
        Box::new(InlineBlk::new(disk(&dir.path().join("a")), "a")),
        Box::new(DataplaneBlk::new(disk(&dir.path().join("b")), 1, "b", || {}).unwrap()),
        Box::new(Rng::default()),
        Box::new(Console::new(Box::new(std::io::sink())).0),
    ];
    for mut device in devices {
        for base in [0xf_f000, 1 << 40, !0xfff, 8] {
            assert!(device.start(session(&memory, VERSION_1, &[&Ring::new(&memory, base)])).is_err());
        }
    }
}

#[test]
fn entropy_fills_what_it_is_given_up_to_a_bound() {
    let memory = memory();
    let mut device = Rng::default();
    let mut ring = Ring::new(&memory, 0);
    device.start(session(&memory, VERSION_1, &[&ring])).unwrap();
    ring.make(&[(0x8000, 64, true)]);
    ring.make(&[(0x1_0000, 0x8_0000, true)]);
    device.rung(0);
    assert_eq!((ring.used().1, ring.used().1), (64, 4096));
    let mut bytes = [0; 64];
    memory.memory().read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
    assert_ne!(bytes, [0; 64]);
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_console_passes_text_both_ways_and_keeps_what_was_typed_early() {
    let (memory, paper) = (memory(), Paper::default());
    let (mut device, keyboard) = Console::new(Box::new(paper.clone()));
    let (mut receive, mut transmit) = (Ring::new(&memory, 0), Ring::new(&memory, 0x4000));
    keyboard.type_in(b"early");
    device.start(session(&memory, VERSION_1, &[&receive, &transmit])).unwrap();
    memory.memory().write_slice(b"hello", GuestAddress(0x8000)).unwrap();
    transmit.make(&[(0x8000, 5, false)]);
    device.rung(1);
    assert_eq!((transmit.used().1, paper.0.lock().unwrap().as_slice()), (0, &b"hello"[..]));
    receive.make(&[(0x9000, 3, true)]);
    receive.make(&[(0xa000, 100, true)]);
    device.rung(0);
    assert_eq!((receive.used().1, receive.used().1), (3, 2));
    receive.make(&[(0xb000, 100, true)]);
    device.rung(0);
    keyboard.type_in(b"late");
    assert_eq!(receive.used().1, 4);
    let mut text = [0; 4];
    memory.memory().read_slice(&mut text, GuestAddress(0xb000)).unwrap();
    assert_eq!(&text, b"late");
}

#[test]
fn a_guest_that_reads_nothing_fills_a_bounded_buffer() {
    let memory = memory();
    let (mut device, keyboard) = Console::new(Box::new(std::io::sink()));
    (0..100).for_each(|_| keyboard.type_in(&[b'x'; 1000]));
    let (mut receive, transmit) = (Ring::new(&memory, 0), Ring::new(&memory, 0x4000));
    device.start(session(&memory, VERSION_1, &[&receive, &transmit])).unwrap();
    receive.make(&[(0x1_0000, 0x8_0000, true)]);
    device.rung(0);
    assert_eq!(receive.used().1, 4096);
}
