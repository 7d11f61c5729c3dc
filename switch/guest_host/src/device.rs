//! A network device made of rings and buffers in memory of our own: what a guest's driver sees.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use guest_memory::SharedMemory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_defs::net::feature::{CSUM, HOST_TSO4, MRG_RXBUF};
use virtio_defs::net::{HEADER_BYTES, Header};
use virtio_defs::{feature, split};
use virtqueue::EventFd;
use virtqueue::driver::{Buffer, Driver, DriverConfig, DriverError, Layout};

use crate::clock::SECOND;
use crate::config::GuestConfig;
use crate::frame::{FRAME_MAX, Frame, decode, encode};
use crate::run::GuestError;

/// Guest-physical address of the memory's first byte. Not 0, so that a forgotten translation shows.
const GPA: u64 = 1 << 32;
/// Bytes of a receive buffer when frames may be spread over several.
const MERGEABLE_BYTES: usize = 2048;
/// Most transmit buffers of a pair when each holds a frame to be segmented.
const LARGE_SLOTS: usize = 64;
/// Used buffers taken from a ring at once.
const TAKE_MAX: usize = 64;

/// Counts over the guest's life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub sent: u64,
    pub received: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Frames whose buffers didn't fit together.
    pub bad: u64,
}

/// Rings and buffers. Without a switch they keep what is in them.
pub struct Device {
    memory: Arc<SharedMemory>,
    features: u64,
    ring_size: u16,
    pairs: Vec<Pair>,
    rx_buffer_bytes: usize,
    tx_buffer_bytes: usize,
    call: EventFd,
    /// Where the next receive begins to look, so that no pair starves.
    turn: usize,
    totals: Totals,
}

struct Pair {
    rx: Driver,
    tx: Driver,
    rx_kick: EventFd,
    tx_kick: EventFd,
    /// Buffers the switch has filled: number and bytes.
    used: VecDeque<(u32, u32)>,
    /// Transmit buffers that are free.
    free: Vec<u32>,
    /// Offsets of the buffers in the memory.
    rx_at: usize,
    tx_at: usize,
}

impl Device {
    /// Makes memory and rings for the features agreed on, all receive buffers offered.
    pub fn new(config: &GuestConfig, features: u64, pairs: u16) -> Result<Device, GuestError> {
        let size = config.ring_size;
        let layout = Layout::new(size, features & feature::RING_PACKED != 0);
        // Room for an Ethernet header with one tag.
        let plain = (HEADER_BYTES + usize::from(config.mtu) + 18).next_multiple_of(64);
        let rx_buffer_bytes = if features & MRG_RXBUF != 0 { MERGEABLE_BYTES } else { plain };
        let segments = features & HOST_TSO4 != 0;
        let (slots, tx_buffer_bytes) = if segments {
            (LARGE_SLOTS.min(size.into()), (HEADER_BYTES + FRAME_MAX).next_multiple_of(64))
        } else {
            (usize::from(size), plain)
        };
        let ring_bytes = layout.bytes.next_multiple_of(4096);
        let rx_bytes = usize::from(size) * rx_buffer_bytes;
        let pair_bytes = (2 * ring_bytes + rx_bytes + slots * tx_buffer_bytes).next_multiple_of(4096);
        let bytes = pair_bytes * usize::from(pairs);
        let memory = Arc::new(SharedMemory::new(c"ringway-guest", bytes as u64)?);
        let mut this = Device {
            features,
            ring_size: size,
            pairs: Vec::new(),
            rx_buffer_bytes,
            tx_buffer_bytes,
            call: EventFd::create().map_err(GuestError::System)?,
            turn: 0,
            totals: Totals::default(),
            memory,
        };
        let driver = DriverConfig { size, features, gpa: GPA };
        for pair in 0..usize::from(pairs) {
            let start = pair * pair_bytes;
            let ring = |n: usize| Driver::new(Arc::clone(&this.memory), start + n * ring_bytes, driver);
            this.pairs.push(Pair {
                rx: ring(0),
                tx: ring(1),
                rx_kick: EventFd::create().map_err(GuestError::System)?,
                tx_kick: EventFd::create().map_err(GuestError::System)?,
                used: VecDeque::with_capacity(TAKE_MAX),
                free: (0..slots as u32).rev().collect(),
                rx_at: start + 2 * ring_bytes,
                tx_at: start + 2 * ring_bytes + rx_bytes,
            });
            for buffer in 0..u32::from(size) {
                this.offer(pair, buffer);
            }
        }
        this.flush();
        Ok(this)
    }

    /// The features negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Queue pairs.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Entries of a ring.
    pub fn ring_size(&self) -> u16 {
        self.ring_size
    }

    /// Whether the switch computes checksums.
    pub fn computes_checksums(&self) -> bool {
        self.features & CSUM != 0
    }

    /// What was sent and received.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Goes on counting from here.
    pub fn set_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    /// The memory, to be shown to the switch: its file, guest-physical and user address.
    pub fn memory(&self) -> (&SharedMemory, u64, u64) {
        (&self.memory, GPA, self.memory.start().as_ptr() as u64)
    }

    /// A vring by its number in the protocol: its ring areas' user addresses, its kick, and the call of all.
    pub fn vring(&self, index: usize) -> ((u64, u64, u64), BorrowedFd<'_>, BorrowedFd<'_>) {
        let pair = &self.pairs[index / 2];
        let (ring, kick) =
            if index.is_multiple_of(2) { (&pair.rx, &pair.rx_kick) } else { (&pair.tx, &pair.tx_kick) };
        (ring.user_addresses(self.memory.start().as_ptr() as u64), kick.as_fd(), self.call.as_fd())
    }

    /// Where the switch stood in a split ring: its used index. What is behind it was taken and not completed, if
    /// taken at all, and is to be done again.
    pub fn used_index(&self, index: usize) -> u16 {
        let pair = &self.pairs[index / 2];
        let ring = if index.is_multiple_of(2) { &pair.rx } else { &pair.tx };
        let layout = Layout::new(self.ring_size, false);
        let mut bytes = [0; 2];
        let at = ring.offset() + layout.device + std::mem::offset_of!(split::RingHead, idx);
        self.memory.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Copies the next received frame, at most `limit` bytes of it, into `frame`. False when there is none.
    pub fn next(&mut self, frame: &mut Frame, limit: usize) -> Result<bool, DriverError> {
        for _ in 0..self.pairs.len() {
            loop {
                match self.next_of(self.turn, frame, limit)? {
                    Next::Frame => return Ok(true),
                    Next::Bad => self.totals.bad += 1,
                    Next::None => break,
                }
            }
            self.turn = (self.turn + 1) % self.pairs.len();
        }
        Ok(false)
    }

    fn next_of(&mut self, pair: usize, frame: &mut Frame, limit: usize) -> Result<Next, DriverError> {
        let Pair { rx, used, rx_at, .. } = &mut self.pairs[pair];
        if used.is_empty() {
            rx.poll(TAKE_MAX, |buffer, bytes| used.push_back((buffer, bytes)))?;
        }
        let Some(&(first, first_bytes)) = used.front() else { return Ok(Next::None) };
        let mut header = [0; HEADER_BYTES];
        self.memory.read(*rx_at + first as usize * self.rx_buffer_bytes, &mut header);
        let header = decode(&header);
        let buffers = if self.features & MRG_RXBUF != 0 { usize::from(header.num_buffers) } else { 1 };
        if used.len() < buffers && buffers <= usize::from(self.ring_size) {
            rx.poll(self.ring_size.into(), |buffer, bytes| used.push_back((buffer, bytes)))?;
            if used.len() < buffers {
                // The rest is on its way.
                return Ok(Next::None);
            }
        }
        let mut good = buffers > 0 && buffers <= used.len() && first_bytes as usize >= HEADER_BYTES;
        let (mut len, mut copied) = (0, 0);
        for n in 0..buffers.clamp(1, self.pairs[pair].used.len()) {
            let Pair { used, rx_at, .. } = &mut self.pairs[pair];
            let Some((buffer, bytes)) = used.pop_front() else { break };
            let skip = if n == 0 { HEADER_BYTES } else { 0 };
            let bytes = bytes as usize;
            good &= bytes <= self.rx_buffer_bytes && len + bytes.saturating_sub(skip) <= FRAME_MAX;
            if good {
                len += bytes - skip;
                let wanted = len.min(limit) - copied;
                let at = *rx_at + buffer as usize * self.rx_buffer_bytes + skip;
                self.memory.read(at, &mut frame.storage()[copied..copied + wanted]);
                copied += wanted;
            }
            self.offer(pair, buffer);
        }
        if !good {
            return Ok(Next::Bad);
        }
        (frame.copied, frame.header) = (copied, header);
        self.totals.received += 1;
        self.totals.received_bytes += len as u64;
        Ok(Next::Frame)
    }

    fn offer(&mut self, pair: usize, buffer: u32) {
        let Pair { rx, rx_at, .. } = &mut self.pairs[pair];
        let at = *rx_at + buffer as usize * self.rx_buffer_bytes;
        let added = rx.add(&[Buffer::writable(GPA + at as u64, self.rx_buffer_bytes as u32)], buffer);
        assert!(added, "there are as many buffers as entries");
    }

    /// How many frames can be sent on a pair.
    pub fn room(&mut self, pair: usize) -> Result<usize, DriverError> {
        let Pair { tx, free, .. } = &mut self.pairs[pair];
        if free.is_empty() {
            tx.poll(usize::MAX, |slot, _| free.push(slot))?;
        }
        Ok(free.len())
    }

    /// Sends a frame, with the next [`flush`](Self::flush) at the latest. False when the ring is full.
    ///
    /// # Panics
    /// When the frame is longer than the features allow.
    pub fn send(&mut self, pair: usize, header: &Header, frame: &[u8]) -> Result<bool, DriverError> {
        assert!(HEADER_BYTES + frame.len() <= self.tx_buffer_bytes, "a frame of {} bytes", frame.len());
        if self.room(pair)? == 0 {
            return Ok(false);
        }
        let Pair { tx, free, tx_at, .. } = &mut self.pairs[pair];
        let slot = free.pop().expect("there is room");
        let at = *tx_at + slot as usize * self.tx_buffer_bytes;
        self.memory.write(at, &encode(header));
        self.memory.write(at + HEADER_BYTES, frame);
        let added = tx.add(&[Buffer::readable(GPA + at as u64, (HEADER_BYTES + frame.len()) as u32)], slot);
        assert!(added, "there are at most as many slots as entries");
        self.totals.sent += 1;
        self.totals.sent_bytes += frame.len() as u64;
        Ok(true)
    }

    /// The longest frame that can be sent or, without mergeable buffers, received.
    pub fn frame_max(&self) -> usize {
        self.tx_buffer_bytes - HEADER_BYTES
    }

    /// Frames sent that the switch has not taken yet.
    pub fn unsent(&mut self) -> Result<usize, DriverError> {
        let mut unsent = 0;
        for Pair { tx, free, .. } in &mut self.pairs {
            tx.poll(usize::MAX, |slot, _| free.push(slot))?;
            unsent += tx.outstanding();
        }
        Ok(unsent)
    }

    /// Shows the switch what was sent, and the receive buffers that are free again.
    pub fn flush(&mut self) {
        for pair in &mut self.pairs {
            if pair.rx.publish() {
                pair.rx_kick.signal();
            }
            if pair.tx.publish() {
                pair.tx_kick.signal();
            }
        }
    }

    /// Wakes a switch that has just come: it may have missed a kick.
    pub fn kick_all(&self) {
        for pair in &self.pairs {
            pair.rx_kick.signal();
            pair.tx_kick.signal();
        }
    }

    /// Sleeps until a frame comes, room in a transmit ring if `for_room`, something on `socket`, or the timeout.
    pub fn wait(&mut self, socket: BorrowedFd<'_>, timeout_ns: u64, for_room: bool) {
        let mut ready = false;
        for pair in &mut self.pairs {
            ready |= !pair.used.is_empty() || pair.rx.ask_for_calls();
            ready |= for_room && pair.tx.ask_for_calls();
        }
        if !ready {
            let mut fds = [
                PollFd::from_borrowed_fd(self.call.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(socket, PollFlags::IN),
            ];
            let timeout = timespec(timeout_ns);
            // Interrupted or not, what there is to do shows on the next turn.
            let _ = poll(&mut fds, Some(&timeout));
        }
        self.call.drain();
        for pair in &mut self.pairs {
            pair.rx.refuse_calls();
            pair.tx.refuse_calls();
        }
    }
}

enum Next {
    Frame,
    Bad,
    None,
}

/// A time span as the system wants it.
pub fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / SECOND) as i64, tv_nsec: (ns % SECOND) as i64 }
}
