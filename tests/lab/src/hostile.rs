//! A front-end that writes what it likes, into its rings and onto the wire.

use anyhow::{Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use vhost_user::{Frontend, Header, MemoryRegion, Offer, Outgoing, ProtocolFeatures, RequestCode, VringAddr};
use virtio_defs::feature;
use virtio_defs::packed::avail_flags;
use virtqueue::EventFd;
use virtqueue::driver::Layout;

/// Guest-physical address of its memory.
pub const GPA: u64 = 1 << 32;
/// The address under which the front-end knows its memory.
pub const USER: u64 = 0x7f00_0000_0000;
/// Bytes of its memory.
pub const MEMORY_BYTES: u64 = 4 << 20;
/// Guest-physical address of the part that is left for buffers, [`BUFFER_BYTES`] long.
pub const BUFFERS: u64 = GPA + BUFFERS_AT;
/// Bytes from [`BUFFERS`] to the end of its memory.
pub const BUFFER_BYTES: u64 = MEMORY_BYTES - BUFFERS_AT;
/// Entries of its rings.
pub const RING_SIZE: u16 = 64;

const BUFFERS_AT: u64 = 1 << 20;
const RING_BYTES: u64 = 64 << 10;
/// How long it waits for answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A ring of its one queue pair, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Vring 0: the switch sends to the guest.
    Receives,
    /// Vring 1: the guest sends.
    Transmits,
}

/// A descriptor: address, length in bytes, flags.
pub type Descriptor = (u64, u32, u16);

/// A connection to the switch, with memory and rings that are written by hand.
pub struct Hostile {
    /// The connection.
    pub front: Frontend,
    /// Whether its rings are packed.
    pub packed: bool,
    memory: File,
    available: [u16; 2],
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
}

impl Hostile {
    /// Negotiates all that is offered but `without`; protocol features only those in `protocol`.
    ///
    /// # Errors
    /// The switch hangs up, or does not offer what is needed.
    pub fn new(mut front: Frontend, packed: bool, protocol: ProtocolFeatures, without: u64) -> Result<Self> {
        front.set_timeout(Some(ANSWER_LIMIT))?;
        let layout = if packed { 0 } else { feature::RING_PACKED };
        let virtio = !(layout | without | feature::VHOST_LOG_ALL);
        let agreed = front.negotiate(Offer { virtio, protocol })?;
        ensure!(!packed || agreed.virtio & feature::RING_PACKED != 0, "no packed rings");
        let memory = File::from(memfd_create("hostile-guest", MemfdFlags::CLOEXEC)?);
        memory.set_len(MEMORY_BYTES)?;
        let events = || -> std::io::Result<[EventFd; 2]> { Ok([EventFd::create()?, EventFd::create()?]) };
        Ok(Self { front, packed, memory, available: [0; 2], kicks: events()?, calls: events()? })
    }

    /// Its memory file, to be sent once more or shortened.
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// Its memory as one region.
    pub fn region(&self) -> MemoryRegion {
        MemoryRegion { guest_addr: GPA, size: MEMORY_BYTES, user_addr: USER, mmap_offset: 0 }
    }

    /// Shows its memory.
    ///
    /// # Errors
    /// The switch hangs up or refuses.
    pub fn show_memory(&mut self) -> Result<()> {
        Ok(self.front.set_mem_table(&[(self.region(), self.memory.as_fd())])?)
    }

    /// Shows its memory, starts both rings, empty, and waits until the switch has done its part.
    ///
    /// # Errors
    /// The switch hangs up or refuses.
    pub fn start(&mut self) -> Result<()> {
        self.show_memory()?;
        for ring in [Ring::Receives, Ring::Transmits] {
            self.start_ring(ring, RING_SIZE.into())?;
        }
        self.settle()
    }

    /// Waits until everything said before has been handled.
    ///
    /// # Errors
    /// The switch has hung up.
    pub fn settle(&mut self) -> Result<()> {
        self.front.offer()?;
        Ok(())
    }

    /// Starts one ring that says it has `size` entries.
    ///
    /// # Errors
    /// As [`Hostile::start`].
    pub fn start_ring(&mut self, ring: Ring, size: u32) -> Result<()> {
        let n = ring as u32;
        self.front.set_vring_num(n, size)?;
        self.front.set_vring_base(n, if self.packed { 0x8000_8000 } else { 0 })?;
        self.front.set_vring_addr(self.ring_addr(ring))?;
        self.front.set_vring_call(n as u8, Some(self.calls[ring as usize].as_fd()))?;
        self.front.set_vring_kick(n as u8, Some(self.kicks[ring as usize].as_fd()))?;
        self.front.enable_vring(n)?;
        Ok(())
    }

    /// Where a ring lies.
    pub fn ring_addr(&self, ring: Ring) -> VringAddr {
        let layout = self.layout();
        let start = USER + Self::ring_at(ring);
        VringAddr {
            index: ring as u32,
            flags: 0,
            desc: start,
            avail: start + layout.driver as u64,
            used: start + layout.device as u64,
            log: 0,
        }
    }

    fn ring_at(ring: Ring) -> u64 {
        ring as u64 * RING_BYTES
    }

    fn layout(&self) -> Layout {
        Layout::new(RING_SIZE, self.packed)
    }

    /// Writes into its memory, `at` bytes from its start.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.memory.write_all_at(bytes, at)?)
    }

    /// Writes descriptor `index` of a table `at` bytes into its memory; `link` is the next one, or the buffer's id in a
    /// packed ring.
    ///
    /// # Errors
    /// As [`Hostile::write`].
    pub fn descriptor(&self, at: u64, index: u16, descriptor: Descriptor, link: u16) -> Result<()> {
        let (addr, len, flags) = descriptor;
        let (third, fourth) = if self.packed { (link, flags) } else { (flags, link) };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&third.to_le_bytes());
        bytes[14..].copy_from_slice(&fourth.to_le_bytes());
        // The half with the flags of a packed ring goes last: it is what makes a descriptor available.
        self.write(at + u64::from(index) * 16, &bytes[..8])?;
        self.write(at + u64::from(index) * 16 + 8, &bytes[8..])
    }

    /// Writes a descriptor of a ring; in a packed ring as an available one of the first round.
    ///
    /// # Errors
    /// As [`Hostile::write`].
    pub fn ring_descriptor(&self, ring: Ring, index: u16, descriptor: Descriptor, link: u16) -> Result<()> {
        let (addr, len, flags) = descriptor;
        let flags = if self.packed { flags | avail_flags(true) } else { flags };
        self.descriptor(Self::ring_at(ring), index, (addr, len, flags), link)
    }

    /// Makes a chain available and kicks: consecutive descriptors of a packed ring, a linked list from entry 0 of a
    /// split one.
    ///
    /// # Errors
    /// As [`Hostile::write`].
    pub fn offer(&mut self, ring: Ring, chain: &[Descriptor]) -> Result<()> {
        let start = self.available[ring as usize];
        if self.packed {
            // From the last to the first: the chain is complete when its head is there.
            for (k, &descriptor) in chain.iter().enumerate().rev() {
                self.ring_descriptor(ring, start + k as u16, descriptor, start)?;
            }
            self.available[ring as usize] += chain.len() as u16;
        } else {
            for (k, &descriptor) in chain.iter().enumerate() {
                self.ring_descriptor(ring, k as u16, descriptor, k as u16 + 1)?;
            }
            self.available_entry(ring, start, 0)?;
            self.available[ring as usize] += 1;
            self.available_index(ring, start + 1)?;
        }
        self.kick(ring);
        Ok(())
    }

    /// Writes an entry of a split ring's available ring.
    ///
    /// # Errors
    /// As [`Hostile::write`].
    pub fn available_entry(&self, ring: Ring, at: u16, head: u16) -> Result<()> {
        let at = Self::ring_at(ring) + self.layout().driver as u64 + 4 + u64::from(at % RING_SIZE) * 2;
        self.write(at, &head.to_le_bytes())
    }

    /// Writes a split ring's available index.
    ///
    /// # Errors
    /// As [`Hostile::write`].
    pub fn available_index(&self, ring: Ring, index: u16) -> Result<()> {
        self.write(Self::ring_at(ring) + self.layout().driver as u64 + 2, &index.to_le_bytes())
    }

    /// Kicks a ring.
    pub fn kick(&self, ring: Ring) {
        self.kicks[ring as usize].signal();
    }

    /// Sends a message made by hand: any code, any payload, any descriptors.
    ///
    /// # Errors
    /// The switch has hung up already.
    pub fn message(&self, code: RequestCode, payload: &[u8], fds: Vec<OwnedFd>) -> Result<()> {
        self.message_of_size(code, payload.len() as u32, payload, fds)
    }

    /// As [`Hostile::message`], with a header that announces `size` bytes.
    ///
    /// # Errors
    /// As [`Hostile::message`].
    pub fn message_of_size(
        &self,
        code: RequestCode,
        size: u32,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        for word in [code.0, Header::VERSION, size] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(payload);
        vhost_user::socket::send(self.front.as_fd(), &Outgoing { bytes, fds })?;
        Ok(())
    }

    /// Descriptors of its memory file, to send too many of them.
    ///
    /// # Errors
    /// This process has none left.
    pub fn descriptors(&self, count: usize) -> Result<Vec<OwnedFd>> {
        (0..count).map(|_| Ok(self.memory.as_fd().try_clone_to_owned()?)).collect()
    }
}
