//! A guest's port: rings and buffers, driven by polling.

use anyhow::{Context as _, Result, bail};
use guest_memory::SharedMemory;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vhost_user::{Frontend, MemoryRegion, Offer, ProtocolFeatures, VringAddr};
use virtio_defs::feature::{IN_ORDER, RING_PACKED, VERSION_1, VHOST_USER_PROTOCOL};
use virtio_defs::net::HEADER_BYTES;
use virtio_defs::net::feature::MRG_RXBUF;
use virtqueue::EventFd;
use virtqueue::driver::{Buffer, Driver, DriverConfig, Layout};

use crate::frames::Template;

/// Entries of a ring: those of the testpmd load.
pub const RING: u16 = 1024;
/// Guest-physical address of the memory's first byte.
const GPA: u64 = 1 << 32;
/// A buffer holds one frame; the frame begins at a cache line, its header lies just before, as DPDK has it.
const BUFFER: usize = 2048;
const FRAME_AT: usize = 64;
/// Longest frame that fits.
pub const FRAME_MAX: usize = BUFFER - FRAME_AT;
/// A switch that is just starting has its hands full.
const ANSWER: Duration = Duration::from_secs(30);
/// Most frames sent or received at once.
pub const BATCH: usize = 32;

/// A connected port.
pub struct Port {
    /// Kept open: the switch takes its end for the guest's.
    _front: Frontend,
    memory: Arc<SharedMemory>,
    rx: Driver,
    tx: Driver,
    rx_kick: EventFd,
    tx_kick: EventFd,
    /// Never signalled: calls are refused. Rings without one are not started by every back-end.
    _call: EventFd,
    /// Transmit buffers the switch does not have.
    free: Vec<u32>,
    /// Receive buffers just taken.
    taken: Vec<u32>,
    rx_at: usize,
    tx_at: usize,
    /// Last byte of the Ethernet address, the others are those of testpmd's virtio-user ports.
    pub address: u8,
}

impl Port {
    /// Connects to a switch that listens at `socket`; all receive buffers are offered.
    pub fn connect(socket: &Path, index: usize, packed: bool) -> Result<Port> {
        let mut front = Frontend::connect(socket)?;
        front.set_timeout(Some(ANSWER))?;
        let packed_bit = if packed { RING_PACKED } else { 0 };
        let wanted = VERSION_1 | VHOST_USER_PROTOCOL | MRG_RXBUF | IN_ORDER | packed_bit;
        let agreed = front.negotiate(Offer { virtio: wanted, protocol: ProtocolFeatures::REPLY_ACK })?;
        if agreed.virtio & (VERSION_1 | packed_bit) != VERSION_1 | packed_bit {
            bail!("the switch offers {:#x} only", agreed.virtio);
        }
        let layout = Layout::new(RING, packed);
        let ring_bytes = layout.bytes.next_multiple_of(4096);
        let area = usize::from(RING) * BUFFER;
        let bytes = 2 * ring_bytes + 2 * area;
        let memory = Arc::new(SharedMemory::new(c"bench-load", bytes as u64)?);
        let config = DriverConfig { size: RING, features: agreed.virtio, gpa: GPA };
        let ring = |n: usize| Driver::new(Arc::clone(&memory), n * ring_bytes, config);
        let (rx_at, tx_at) = (2 * ring_bytes, 2 * ring_bytes + area);
        let (rx, tx) = (ring(0), ring(1));
        let mut port = Port {
            _front: front,
            memory,
            rx,
            tx,
            rx_kick: EventFd::create()?,
            tx_kick: EventFd::create()?,
            _call: EventFd::create()?,
            free: (0..u32::from(RING)).rev().collect(),
            taken: Vec::with_capacity(RING.into()),
            rx_at,
            tx_at,
            address: u8::try_from(index + 1).context("that many ports")?,
        };
        for buffer in 0..u32::from(RING) {
            port.offer(buffer);
        }
        port.rx.publish();
        port.start(packed)?;
        Ok(port)
    }

    fn start(&mut self, packed: bool) -> Result<()> {
        let user = self.memory.start().as_ptr() as u64;
        let region =
            MemoryRegion { guest_addr: GPA, size: self.memory.len() as u64, user_addr: user, mmap_offset: 0 };
        let front = &mut self._front;
        front.set_mem_table(&[(region, self.memory.fd())])?;
        for (index, ring, kick) in [(0u8, &self.rx, &self.rx_kick), (1, &self.tx, &self.tx_kick)] {
            let n = u32::from(index);
            let (desc, avail, used) = ring.user_addresses(user);
            front.set_vring_num(n, RING.into())?;
            front.set_vring_base(n, if packed { 0x8000_8000 } else { 0 })?;
            front.set_vring_addr(VringAddr { index: n, flags: 0, desc, used, avail, log: 0 })?;
            front.set_vring_call(index, Some(self._call.as_fd()))?;
            front.set_vring_kick(index, Some(kick.as_fd()))?;
            front.enable_vring(n)?;
        }
        self.rx_kick.signal();
        self.tx_kick.signal();
        Ok(())
    }

    fn offer(&mut self, buffer: u32) {
        let at = self.rx_at + buffer as usize * BUFFER + FRAME_AT - HEADER_BYTES;
        let room = (BUFFER - FRAME_AT + HEADER_BYTES) as u32;
        let added = self.rx.add(&[Buffer::writable(GPA + at as u64, room)], buffer);
        assert!(added, "there are as many buffers as entries");
    }

    /// Writes the frame into every transmit buffer, so that sending changes only what differs.
    pub fn fill(&mut self, frame: &[u8]) {
        assert!(frame.len() <= FRAME_MAX, "{} bytes", frame.len());
        for buffer in 0..usize::from(RING) {
            let at = self.tx_at + buffer * BUFFER + FRAME_AT;
            self.memory.write(at - HEADER_BYTES, &[0; HEADER_BYTES]);
            self.memory.write(at, frame);
        }
    }

    /// Sends up to `count` frames and returns how many the ring took.
    #[inline]
    pub fn send(&mut self, count: usize, template: &mut Template, stamp: Option<u64>) -> Result<usize> {
        if self.free.len() < count {
            let free = &mut self.free;
            self.tx.poll(2 * BATCH, |buffer, _| free.push(buffer))?;
        }
        let count = count.min(self.free.len());
        for _ in 0..count {
            let buffer = self.free.pop().expect("counted");
            let at = self.tx_at + buffer as usize * BUFFER + FRAME_AT;
            template.vary(|offset, bytes| self.memory.write(at + offset, bytes));
            if let Some(time) = stamp {
                self.memory.write(at + template.stamp_at(), &time.to_le_bytes());
            }
            let start = GPA + (at - HEADER_BYTES) as u64;
            let len = (HEADER_BYTES + template.len()) as u32;
            let added = self.tx.add(&[Buffer::readable(start, len)], buffer);
            assert!(added, "there are as many buffers as entries");
        }
        if count > 0 && self.tx.publish() {
            self.tx_kick.signal();
        }
        Ok(count)
    }

    /// Receives up to [`BATCH`] frames, or a few more, and returns how many; `each` gets the stamps when there is one at `stamp_at`.
    #[inline]
    pub fn receive(&mut self, stamp_at: Option<usize>, mut each: impl FnMut(u64)) -> Result<usize> {
        let buffers = &mut self.taken;
        buffers.clear();
        // One used entry may stand for several frames.
        self.rx.poll(BATCH, |buffer, _| buffers.push(buffer))?;
        if let Some(offset) = stamp_at {
            // All reads first: each misses the cache, and together they take hardly longer than one.
            let mut stamps = [0; BATCH];
            for chunk in buffers.chunks(BATCH) {
                for (stamp, &buffer) in stamps.iter_mut().zip(chunk) {
                    let mut bytes = [0; 8];
                    let at = self.rx_at + buffer as usize * BUFFER + FRAME_AT + offset;
                    self.memory.read(at, &mut bytes);
                    *stamp = u64::from_le_bytes(bytes);
                }
                stamps[..chunk.len()].iter().for_each(|&stamp| each(stamp));
            }
        }
        let taken = std::mem::take(&mut self.taken);
        taken.iter().for_each(|&buffer| self.offer(buffer));
        let count = taken.len();
        self.taken = taken;
        if count > 0 && self.rx.publish() {
            self.rx_kick.signal();
        }
        Ok(count)
    }

    /// Frames sent that the switch has not given back.
    pub fn unsent(&mut self) -> Result<usize> {
        let free = &mut self.free;
        self.tx.poll(usize::MAX, |buffer, _| free.push(buffer))?;
        Ok(self.tx.outstanding())
    }
}
