//! Guests that write anything anywhere, as plain functions of their bytes: for fuzzers, and for tests with a seed.
//!
//! A guest is a list of accesses, each of a few bytes: what it does, where, how wide, and what it writes.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use disk::{Disk, Options};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_defs::feature::{INDIRECT_DESC, RING_RESET, VERSION_1};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use crate::pci::Bus;
use crate::virtio::blk::inline::InlineBlk;
use crate::virtio::console::Console;
use crate::virtio::rng::Rng;
use crate::virtio::{Device, Kind, Memory, Notifier, Queue, Session, StartError, Transport, mmio};
use crate::{Doorbell, EventFd, Message, Platform, Vector};

/// Where the first device's window begins.
const WINDOW: u64 = 0xc000_0000;
/// Bytes of the guest's memory.
const MEMORY: usize = 0x1_0000;
/// Bytes of its disk.
const DISK: u64 = 0x1_0000;

/// A machine that keeps account of its doorbells.
#[derive(Default)]
pub struct Machine(Mutex<HashSet<(Doorbell, i32)>>);

impl Machine {
    fn doorbells(&self) -> MutexGuard<'_, HashSet<(Doorbell, i32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(event: &EventFd) -> i32 {
    use std::os::fd::AsFd;
    event.as_fd().as_raw_fd()
}

impl Platform for Machine {
    fn attach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let mut doorbells = self.doorbells();
        if doorbells.iter().any(|(taken, _)| *taken == doorbell) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        doorbells.insert((doorbell, number(event)));
        Ok(())
    }

    fn detach_doorbell(&self, doorbell: Doorbell, event: &EventFd) {
        self.doorbells().remove(&(doorbell, number(event)));
    }

    fn create_vector(&self) -> io::Result<Box<dyn Vector>> {
        Ok(Box::new(Line(EventFd::create()?)))
    }
}

struct Line(EventFd);

impl Vector for Line {
    fn event(&self) -> &EventFd {
        &self.0
    }

    fn unmask(&self, _message: Message) -> io::Result<()> {
        Ok(())
    }

    fn mask(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A device that checks that it and its queues are started and stopped in turn, with nothing it hasn't offered.
#[derive(Default)]
struct Strict {
    /// The queues it works on.
    running: Option<HashSet<u16>>,
}

impl Strict {
    const FEATURES: u64 = RING_RESET | VERSION_1 | INDIRECT_DESC | 1;

    fn check(&self, queue: &Queue) {
        let max = self.queue_sizes()[usize::from(queue.index)];
        assert!((1..=max).contains(&queue.size), "a queue larger than it may be");
    }
}

impl Device for Strict {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        Self::FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 128, 64]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        crate::virtio::read_bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9], offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        assert!(self.running.is_none(), "started twice");
        assert_eq!(session.features & !Self::FEATURES, 0, "a feature that was not offered");
        session.queues.iter().for_each(|queue| self.check(queue));
        if session.queues.is_empty() {
            return Err(StartError("nothing to do".into()));
        }
        self.running = Some(session.queues.iter().map(|queue| queue.index).collect());
        Ok(())
    }

    fn stop(&mut self) {
        assert!(self.running.take().is_some(), "stopped twice");
    }

    fn stop_queue(&mut self, index: u16) {
        let running = self.running.as_mut().expect("a queue of a device that stands still");
        assert!(running.remove(&index), "a queue stopped twice");
    }

    fn start_queue(&mut self, queue: Queue) -> Result<(), StartError> {
        self.check(&queue);
        let running = self.running.as_mut().expect("a queue of a device that stands still");
        assert!(running.insert(queue.index), "a queue started twice");
        Ok(())
    }
}

/// Guest memory that holds `bytes` from its start on.
fn memory(bytes: &[u8]) -> Memory {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("a small memory");
    let count = bytes.len().min(MEMORY);
    memory.write_slice(&bytes[..count], GuestAddress(0)).expect("inside");
    GuestMemoryAtomic::new(memory)
}

fn devices() -> [Box<dyn Device>; 3] {
    [Box::new(Strict::default()), Box::new(Rng::default()), Box::new(Console::new(Box::new(io::sink())).0)]
}

fn bus(machine: &Arc<Machine>, memory: &Memory) -> Bus {
    let mut bus = Bus::default();
    for (device, at) in devices().into_iter().zip((WINDOW..).step_by(Transport::WINDOW_BYTES as usize)) {
        let (platform, number) = (machine.clone(), bus.next_number());
        let transport = Transport::new(device, Notifier::default(), platform, memory.clone(), number, at);
        let transport = transport.expect("descriptors enough");
        bus.add(Arc::new(Mutex::new(transport))).expect("three fit");
    }
    bus
}

fn bank(machine: &Arc<Machine>, memory: &Memory) -> mmio::Bank {
    let blocks = devices().into_iter().zip((WINDOW..).step_by(mmio::Transport::BYTES as usize));
    let blocks = blocks.map(|(device, at)| {
        let (platform, line) = (machine.clone(), EventFd::create()?);
        mmio::Transport::new(device, Notifier::default(), platform, memory.clone(), line, at)
    });
    let blocks = blocks.collect::<io::Result<_>>().expect("descriptors enough");
    mmio::Bank::new(mmio::Transport::BYTES, blocks)
}

/// Takes `N` bytes off the front; missing ones are zero.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let count = N.min(data.len());
    bytes[..count].copy_from_slice(&data[..count]);
    *data = &data[count..];
    bytes
}

/// One access of a guest.
fn access(bus: &Bus, data: &mut &[u8]) {
    let [what, width, a, b] = take(data);
    let offset = u64::from(u16::from_le_bytes([a, b]));
    let value: [u8; 8] = take(data);
    let written = &value[..usize::from(width) % 9];
    let mut read = value;
    let read = &mut read[..usize::from(width) % 9];
    match what % 8 {
        0 => bus.read_ecam(offset << (what >> 6), read),
        1 => bus.write_ecam(offset << (what >> 6), written),
        2 => bus.read_port((offset % 8) as u16, read),
        3 => bus.write_port((offset % 8) as u16, written),
        4 => bus.read(WINDOW + offset + u64::from(what >> 6) * 0x8000, read),
        // Mostly inside the devices' windows; else wherever it likes.
        5 | 6 => bus.write(WINDOW + offset + u64::from(what >> 6) * 0x8000, written),
        _ if what > 250 => bus.reset(),
        _ => bus.write(u64::from_le_bytes(value), written),
    }
}

/// Accesses to configuration space, by port and by memory, and to whatever windows the guest has moved where.
///
/// # Panics
/// A promise is broken.
pub fn fuzz_pci(data: &[u8]) {
    let machine = Arc::new(Machine::default());
    let bus = bus(&machine, &memory(data));
    let mut rest = data;
    while !rest.is_empty() {
        access(&bus, &mut rest);
    }
    drop(bus);
    assert!(machine.doorbells().is_empty(), "a doorbell outlives its device");
}

/// Accesses to the virtio structures of devices whose memory is enabled.
///
/// # Panics
/// A promise is broken.
pub fn fuzz_virtio_pci(data: &[u8]) {
    let machine = Arc::new(Machine::default());
    let bus = bus(&machine, &memory(data));
    for device in 1..4 {
        // Memory and master enabled (PCI 3.0, section 6.2.2).
        bus.write_ecam(device << 15 | 4, &[6, 0]);
    }
    let mut rest = data;
    while !rest.is_empty() {
        let [place, width, value @ ..] = take::<10>(&mut rest);
        let [device, offset, _] = take::<3>(&mut rest);
        // The registers of the common configuration, of notifications and of the vectors are near their starts.
        let page = u64::from(place % 8) * 0x1000;
        let at = WINDOW + u64::from(device % 3) * Transport::WINDOW_BYTES + page + u64::from(offset);
        let width = usize::from(width) % 9;
        bus.write(at, &value[..width]);
        bus.read(at, &mut [0; 8][..width]);
    }
    drop(bus);
    assert!(machine.doorbells().is_empty(), "a doorbell outlives its device");
}

/// Accesses to the registers of devices that are on no bus.
///
/// # Panics
/// A promise is broken.
pub fn fuzz_virtio_mmio(data: &[u8]) {
    let machine = Arc::new(Machine::default());
    let bank = bank(&machine, &memory(data));
    let mut rest = data;
    while !rest.is_empty() {
        let [device, width, a, b, value @ ..] = take::<8>(&mut rest);
        // Registers and a little of the configuration, or anything in the blocks and behind them.
        let inside = match device >> 7 {
            0 => u64::from(a) | u64::from(b & 1) << 8,
            _ => u64::from(u16::from_le_bytes([a, b])),
        };
        let at = u64::from(device % 4) * mmio::Transport::BYTES + inside;
        // Most accesses are of the width that registers have.
        let width = if width < 128 { 4 } else { usize::from(width) % 9 };
        let written = [value, value].concat();
        bank.write(at, &written[..width]);
        bank.read(at, &mut [0; 8][..width]);
    }
    drop(bank);
    assert!(machine.doorbells().is_empty(), "a doorbell outlives its device");
}

/// A disk whose driver has written anything into its ring and buffers. What it has written to the disk lies inside it.
///
/// # Panics
/// A promise is broken.
pub fn fuzz_blk(data: &[u8]) {
    let mut rest = data;
    let [flags, entries, kicks, ..] = take::<4>(&mut rest);
    let file = memfd_create(c"fuzz-disk", MemfdFlags::CLOEXEC).expect("a memory file");
    ftruncate(&file, DISK).expect("a small file");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    let options = Options { path, read_only: flags & 1 != 0, direct: false };
    let disk = Arc::new(Disk::open(&options).expect("a file of this process"));
    let mut device = InlineBlk::new(disk, "fuzz");
    let memory = memory(rest);
    let event = || EventFd::create().expect("descriptors enough");
    let queue = Queue {
        index: 0,
        size: 1 << (entries % 9),
        desc: 0,
        driver: 0x1000,
        device: 0x2000,
        kick: event(),
        call: event(),
    };
    let features = device.features() & !u64::from(flags & 2);
    if device.start(Session { features, memory, queues: vec![queue] }).is_ok() {
        (0..kicks % 4).for_each(|_| device.rung(0));
        device.stop();
    }
    let bytes = rustix::fs::fstat(&file).expect("a file").st_size;
    assert_eq!(bytes as u64, DISK, "the disk has grown or shrunk");
    if options.read_only {
        let mut content = vec![0; DISK as usize];
        rustix::io::pread(&file, &mut content, 0).expect("a file");
        assert!(content.iter().all(|&byte| byte == 0), "a read-only disk was written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes from a seed (xorshift).
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(len)
        .collect()
    }

    #[test]
    fn a_guest_that_writes_anything_anywhere_breaks_only_itself() {
        for seed in 1..200 {
            let data = noise(seed * 0x9e37_79b9, 2000);
            fuzz_pci(&data);
            fuzz_virtio_pci(&data);
            fuzz_virtio_mmio(&data);
            fuzz_blk(&data);
        }
    }

    #[test]
    fn every_register_takes_every_width_while_the_device_runs_and_before() {
        let machine = Arc::new(Machine::default());
        let bus = bus(&machine, &memory(&[]));
        for value in [0u64, u64::MAX, 0x0f0f_0f0f_0f0f_0f0f] {
            // Structures begin at pages, and none that is not memory is longer.
            for at in (0..3 * Transport::WINDOW_BYTES).filter(|at| at % 0x1000 < 0x100) {
                for width in [1, 2, 4, 8] {
                    bus.write_ecam(at, &value.to_le_bytes()[..width]);
                    bus.write(WINDOW + at, &value.to_le_bytes()[..width]);
                    bus.read(WINDOW + at, &mut [0; 8][..width]);
                    bus.read_ecam(at, &mut [0; 8][..width]);
                }
            }
        }
        drop(bus);
        assert!(machine.doorbells().is_empty());
        let bank = bank(&machine, &memory(&[]));
        for value in [0u64, u64::MAX, 0x0f0f_0f0f_0f0f_0f0f] {
            for at in 0..4 * mmio::Transport::BYTES {
                for width in [1, 2, 4, 8] {
                    bank.write(at, &value.to_le_bytes()[..width]);
                    bank.read(at, &mut [0; 8][..width]);
                }
            }
        }
        drop(bank);
        assert!(machine.doorbells().is_empty());
    }
}
