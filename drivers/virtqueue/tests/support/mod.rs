//! A guest made of two driver-side rings and its memory, and the switch's queues on them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unsafe_code, reason = "the guest's memory is reached by pointers; offsets are asserted")]

use std::sync::Arc;

use guest_memory::{MemMap, RegionSpec, SharedMemory};
use packet::{Burst, Offload};
use port::{DropReason, PortCounters, QueueFault, Received, RxQueue, Selection, TxQueue};
use virtio_defs::{feature, net};
use virtqueue::driver::{Buffer, Driver, DriverConfig};
use virtqueue::{RingConfig, VirtioRx, VirtioTx};

/// Where the guest's memory begins in its own address space, and in its front-end's.
pub const GPA: u64 = 0x1_0000_0000;
pub const USER: u64 = 0x7f00_0000_0000;
const MEMORY: usize = 16 << 20;
const RX_RING: usize = 1 << 20;
/// Offset of the first byte that is no ring.
pub const DATA: usize = 2 << 20;

pub const SPLIT: u64 = feature::VERSION_1;
pub const PACKED: u64 = feature::VERSION_1 | feature::RING_PACKED;
pub const BOTH: [u64; 2] = [SPLIT, PACKED];
pub const HOST_OFFLOADS: u64 =
    net::feature::CSUM | net::feature::HOST_TSO4 | net::feature::HOST_TSO6 | net::feature::HOST_ECN;
pub const GUEST_OFFLOADS: u64 =
    net::feature::GUEST_CSUM | net::feature::GUEST_TSO4 | net::feature::GUEST_TSO6 | net::feature::GUEST_ECN;

pub struct Guest {
    pub memory: Arc<SharedMemory>,
    pub map: Arc<MemMap>,
    /// The ring it transmits on.
    pub tx: Driver,
    /// The ring it receives on.
    pub rx: Driver,
    pub features: u64,
    next: usize,
}

impl Guest {
    pub fn new(size: u16, features: u64) -> Guest {
        let memory = Arc::new(SharedMemory::new(c"guest", MEMORY as u64).unwrap());
        let map = Arc::new(
            MemMap::new(&[RegionSpec {
                gpa: GPA,
                len: MEMORY as u64,
                user_va: USER,
                fd: memory.fd(),
                offset: 0,
            }])
            .unwrap(),
        );
        let config = DriverConfig { size, features, gpa: GPA };
        let tx = Driver::new(memory.clone(), 0, config);
        let rx = Driver::new(memory.clone(), RX_RING, config);
        Guest { memory, map, tx, rx, features, next: DATA }
    }

    pub fn tx_config(&self) -> RingConfig {
        config(&self.tx)
    }

    pub fn rx_config(&self) -> RingConfig {
        config(&self.rx)
    }

    /// The switch's receive queue, on the ring the guest transmits on.
    pub fn rx_queue(&self) -> VirtioRx {
        VirtioRx::new(self.tx_config(), self.map.clone()).unwrap()
    }

    /// The switch's transmit queue, on the ring the guest receives on.
    pub fn tx_queue(&self) -> VirtioTx {
        VirtioTx::new(self.rx_config(), self.map.clone()).unwrap()
    }

    /// An offset of `len` fresh bytes, going round in the memory behind the rings.
    pub fn place(&mut self, len: usize) -> usize {
        if self.next + len > MEMORY {
            self.next = DATA;
        }
        let at = self.next;
        self.next += len;
        at
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        write(&self.memory, offset, bytes);
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= MEMORY);
        let mut out = vec![0; len];
        // SAFETY: inside the memory, asserted.
        unsafe { std::ptr::copy(self.memory.start().as_ptr().add(offset), out.as_mut_ptr(), len) };
        out
    }

    /// Puts header and frame into memory cut into the given lengths (the last one takes the rest), and adds the chain.
    pub fn send_cut(&mut self, header: &[u8], frame: &[u8], cuts: &[usize], indirect: bool) -> bool {
        let bytes = [header, frame].concat();
        let mut buffers = vec![];
        let mut at = 0;
        let mut lengths: Vec<usize> = cuts.to_vec();
        lengths.push(usize::MAX);
        for cut in lengths {
            let n = cut.min(bytes.len() - at);
            let offset = self.place(n + 3);
            self.write(offset, &bytes[at..at + n]);
            buffers.push(Buffer::readable(GPA + offset as u64, n as u32));
            at += n;
            if at == bytes.len() {
                break;
            }
        }
        if indirect {
            let table = self.place(buffers.len() * 16);
            self.tx.add_indirect(&buffers, table, frame.len() as u32)
        } else {
            self.tx.add(&buffers, frame.len() as u32)
        }
    }

    /// Adds a frame in one buffer, with an empty header.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.send_cut(&[0; 12], frame, &[], false)
    }

    /// Gives the device a chain of receive buffers. The token is the first one's offset.
    pub fn post(&mut self, lens: &[usize]) -> bool {
        let mut first = None;
        let mut buffers = vec![];
        for &len in lens {
            let offset = self.place(len);
            first.get_or_insert(offset);
            self.write(offset, &vec![0xEE; len]);
            buffers.push(Buffer::writable(GPA + offset as u64, len as u32));
        }
        self.rx.add(&buffers, first.unwrap() as u32)
    }

    /// Takes back what the device received from the guest: how many chains.
    pub fn sent(&mut self) -> usize {
        self.tx.poll(usize::MAX, |_, _| ()).unwrap()
    }

    /// Takes back filled single-buffer chains: offset and length.
    pub fn received(&mut self) -> Vec<(usize, usize)> {
        let mut out = vec![];
        self.rx.poll(usize::MAX, |token, len| out.push((token as usize, len as usize))).unwrap();
        out
    }

    /// Frames received in buffers of their own, without headers.
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        let received = self.received();
        received.into_iter().map(|(at, len)| self.read(at + 12, len - 12)).collect()
    }
}

/// Writes into a guest's memory.
pub fn write(memory: &SharedMemory, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= memory.len());
    // SAFETY: inside the memory, asserted.
    unsafe { std::ptr::copy(bytes.as_ptr(), memory.start().as_ptr().add(offset), bytes.len()) };
}

/// The configuration with which a back-end starts on a driver's ring.
pub fn config(driver: &Driver) -> RingConfig {
    let (desc, avail, used) = driver.user_addresses(USER);
    let config = driver.config();
    RingConfig::new(config.size, desc, avail, used, config.features)
}

/// A frame of `len` bytes that says which one it is.
pub fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number * 31 + i * 7 + i / 256) as u8).collect()
}

pub fn contents(burst: &Burst, i: usize) -> Vec<u8> {
    let mut out = vec![0; burst.frame_len(i)];
    burst.read(i, 0, &mut out);
    out
}

/// Receives one burst, returning frames and their offloads, and releases it.
pub fn receive(
    queue: &mut dyn RxQueue,
    counters: &PortCounters,
) -> Result<Vec<(Vec<u8>, Offload)>, QueueFault> {
    let mut burst = Burst::new();
    let mut received = Received::poll(queue, &mut burst, counters)?;
    let burst = received.burst();
    Ok((0..burst.len()).map(|i| (contents(burst, i), *burst.offload(i))).collect())
}

/// Receives until nothing comes.
pub fn receive_all(queue: &mut dyn RxQueue, counters: &PortCounters) -> Vec<Vec<u8>> {
    let mut out = vec![];
    loop {
        let burst = receive(queue, counters).expect("an honest guest");
        if burst.is_empty() {
            return out;
        }
        out.extend(burst.into_iter().map(|(frame, _)| frame));
    }
}

/// Sends frames that lie in ordinary memory.
pub fn transmit(
    queue: &mut dyn TxQueue,
    frames: &[(Vec<u8>, Offload)],
    counters: &PortCounters,
) -> Result<(), QueueFault> {
    for frames in frames.chunks(packet::BURST_MAX) {
        let mut burst = Burst::new();
        for (frame, offload) in frames {
            // SAFETY: the frames outlive the burst.
            unsafe { burst.push(frame.as_ptr(), frame.len() as u32, *offload, 0) };
        }
        let which: Vec<u8> = (0..frames.len() as u8).collect();
        queue.transmit(Selection { burst: &mut burst, which: &which }, counters)?;
    }
    queue.flush(counters)
}

/// As [`transmit`] without offloads.
pub fn transmit_plain(queue: &mut dyn TxQueue, frames: &[Vec<u8>], counters: &PortCounters) {
    let frames: Vec<_> = frames.iter().map(|f| (f.clone(), Offload::default())).collect();
    transmit(queue, &frames, counters).expect("an honest guest");
}

/// All drops, by reason.
pub fn drops(counters: &PortCounters) -> Vec<(DropReason, u64)> {
    DropReason::ALL.iter().map(|&r| (r, counters.drops(r))).filter(|&(_, n)| n > 0).collect()
}
