//! The driver side of a virtqueue, over memory of our own: for tests, fuzzers and the guest tool.
//!
//! ```
//! use std::sync::Arc;
//! use guest_memory::SharedMemory;
//! use virtqueue::driver::{Buffer, Driver, DriverConfig, Layout};
//!
//! let layout = Layout::new(256, false);
//! let memory = Arc::new(SharedMemory::new(c"guest", 1 << 20)?);
//! let config = DriverConfig { size: 256, features: 1 << 32, gpa: 0 };
//! let mut ring = Driver::new(memory, 0, config);
//! assert!(ring.add(&[Buffer::readable(0x10000, 76)], 7));
//! let kick = ring.publish();       // once per burst
//! ring.poll(32, |token, written| println!("{token} is back, {written} bytes"))?;
//! # let _ = (layout, kick);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The device is trusted as little as a guest is: what it writes is checked ([`DriverError`]).

mod packed;
mod split;

use std::sync::Arc;

use guest_memory::SharedMemory;
use virtio_defs::{feature, packed as packed_defs, split as split_defs};

use packed::PackedDriver;
use split::SplitDriver;

/// Where a ring's areas lie from the ring's start, in bytes. Each begins a cache line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The descriptor table or packed ring.
    pub desc: usize,
    /// The available ring, or the driver's event suppression.
    pub driver: usize,
    /// The used ring, or the device's event suppression.
    pub device: usize,
    /// Bytes of all, a multiple of a cache line.
    pub bytes: usize,
}

impl Layout {
    /// The layout of a ring of `size` entries. Its start must be aligned to a cache line.
    pub const fn new(size: u16, packed: bool) -> Layout {
        const LINE: usize = 64;
        let (desc, driver, device) = if packed {
            (packed_defs::desc_bytes(size), size_of::<packed_defs::Event>(), size_of::<packed_defs::Event>())
        } else {
            (split_defs::desc_bytes(size), split_defs::avail_bytes(size), split_defs::used_bytes(size))
        };
        let driver_at = desc.next_multiple_of(LINE);
        let device_at = (driver_at + driver).next_multiple_of(LINE);
        Layout {
            desc: 0,
            driver: driver_at,
            device: device_at,
            bytes: (device_at + device).next_multiple_of(LINE),
        }
    }
}

/// What a driver's ring is made from.
#[derive(Clone, Copy, Debug)]
pub struct DriverConfig {
    /// Entries; a power of two for a split ring.
    pub size: u16,
    /// The features negotiated with the device.
    pub features: u64,
    /// Guest-physical address of the memory's first byte: what is added to an offset to make a buffer's address.
    pub gpa: u64,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

impl Buffer {
    /// A buffer for the device to read.
    pub fn readable(addr: u64, len: u32) -> Buffer {
        Buffer { addr, len, writable: false }
    }

    /// A buffer for the device to write.
    pub fn writable(addr: u64, len: u32) -> Buffer {
        Buffer { addr, len, writable: true }
    }

    fn flags(&self) -> u16 {
        if self.writable { virtio_defs::desc_flag::WRITE } else { 0 }
    }
}

/// What a device broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// A used entry names no chain that the device has.
    #[error("the device gave back chain {0}, which it doesn't have")]
    NotOutstanding(u32),
    /// The used index moved past what was made available.
    #[error("the used index moved to {0}, past the available one")]
    UsedJump(u16),
}

/// The driver side of a ring. Chains are named by the caller's tokens.
#[derive(Debug)]
pub struct Driver {
    ring: AnyDriver,
    memory: Arc<SharedMemory>,
    offset: usize,
    config: DriverConfig,
}

#[derive(Debug)]
enum AnyDriver {
    Split(SplitDriver),
    Packed(PackedDriver),
}

impl Driver {
    /// Starts a ring `offset` bytes into `memory`. Its [`Layout`] is zeroed first. Calls are suppressed.
    ///
    /// # Panics
    /// When the layout doesn't fit there, isn't aligned to a cache line, or the size is not allowed.
    pub fn new(memory: Arc<SharedMemory>, offset: usize, config: DriverConfig) -> Driver {
        let packed = config.features & feature::RING_PACKED != 0;
        let layout = Layout::new(config.size, packed);
        assert!(offset.is_multiple_of(64), "rings begin at a cache line");
        assert!(
            offset.checked_add(layout.bytes).is_some_and(|end| end <= memory.len()),
            "a ring of {} bytes at {offset} needs more memory",
            layout.bytes
        );
        assert!(config.size > 0 && config.size <= virtio_defs::QUEUE_SIZE_MAX, "size {}", config.size);
        // SAFETY: the range is inside the memory; a ring that starts has no device yet.
        let start = unsafe {
            let start = memory.start().as_ptr().add(offset);
            start.write_bytes(0, layout.bytes);
            start
        };
        let event_idx = config.features & feature::EVENT_IDX != 0;
        let in_order = config.features & feature::IN_ORDER != 0;
        // SAFETY: zeroed memory of the layout's size, cache line aligned, kept by `memory`.
        let ring = unsafe {
            if packed {
                AnyDriver::Packed(PackedDriver::new(start, &layout, config.size, event_idx, in_order))
            } else {
                AnyDriver::Split(SplitDriver::new(start, &layout, config.size, event_idx, in_order))
            }
        };
        Driver { ring, memory, offset, config }
    }

    /// Descriptors free for [`add`](Self::add).
    pub fn free(&self) -> usize {
        match &self.ring {
            AnyDriver::Split(ring) => ring.free(),
            AnyDriver::Packed(ring) => ring.free(),
        }
    }

    /// Chains the device has.
    pub fn outstanding(&self) -> usize {
        match &self.ring {
            AnyDriver::Split(ring) => ring.outstanding(),
            AnyDriver::Packed(ring) => ring.outstanding(),
        }
    }

    /// Adds a chain, to be seen by the device after [`publish`](Self::publish). False when there aren't enough free
    /// descriptors.
    ///
    /// # Panics
    /// When there is no buffer.
    #[inline]
    pub fn add(&mut self, buffers: &[Buffer], token: u32) -> bool {
        assert!(!buffers.is_empty(), "a chain has buffers");
        match &mut self.ring {
            AnyDriver::Split(ring) => ring.add(buffers, token),
            AnyDriver::Packed(ring) => ring.add(buffers, token),
        }
    }

    /// Adds a chain through an indirect table, which is written `table` bytes into the memory (16 bytes a buffer, kept
    /// until the chain is back).
    ///
    /// # Panics
    /// When there is no buffer, or the table doesn't fit into the memory.
    pub fn add_indirect(&mut self, buffers: &[Buffer], table: usize, token: u32) -> bool {
        assert!(!buffers.is_empty(), "a chain has buffers");
        let bytes = buffers.len() * 16;
        assert!(
            table.checked_add(bytes).is_some_and(|end| end <= self.memory.len()),
            "a table inside the memory"
        );
        let split = matches!(self.ring, AnyDriver::Split(_));
        for (k, buffer) in buffers.iter().enumerate() {
            let &Buffer { addr, len, .. } = buffer;
            // SAFETY: the table is inside the memory; tables need not be aligned.
            unsafe {
                let entry = self.memory.start().as_ptr().add(table + k * 16);
                if split {
                    let more = if k + 1 == buffers.len() { 0 } else { virtio_defs::desc_flag::NEXT };
                    let desc =
                        split_defs::Desc { addr, len, flags: buffer.flags() | more, next: k as u16 + 1 };
                    entry.cast::<split_defs::Desc>().write_unaligned(desc);
                } else {
                    let desc = packed_defs::Desc { addr, len, id: 0, flags: buffer.flags() };
                    entry.cast::<packed_defs::Desc>().write_unaligned(desc);
                }
            }
        }
        self.add_table(self.config.gpa + table as u64, bytes as u32, token)
    }

    /// Adds a chain through whatever lies `bytes` long at guest-physical address `table`.
    pub(crate) fn add_table(&mut self, table: u64, bytes: u32, token: u32) -> bool {
        match &mut self.ring {
            AnyDriver::Split(ring) => ring.add_table(table, bytes, token),
            AnyDriver::Packed(ring) => ring.add_table(table, bytes, token),
        }
    }

    /// Shows the device all chains added since the last call, and returns whether it wants a kick for them.
    #[inline]
    pub fn publish(&mut self) -> bool {
        match &mut self.ring {
            AnyDriver::Split(ring) => ring.publish(),
            AnyDriver::Packed(ring) => ring.publish(),
        }
    }

    /// Takes back up to `max` chains and returns how many. `each` gets the token and the bytes written; with `IN_ORDER`
    /// and a device that completes bursts by one entry, the bytes are told for the last of them only.
    ///
    /// # Errors
    /// The device broke the ring; the chains before that were taken back.
    #[inline]
    pub fn poll(&mut self, max: usize, each: impl FnMut(u32, u32)) -> Result<usize, DriverError> {
        match &mut self.ring {
            AnyDriver::Split(ring) => ring.poll(max, each),
            AnyDriver::Packed(ring) => ring.poll(max, each),
        }
    }

    /// Asks to be called when the next chain comes back. True: one is there already.
    pub fn ask_for_calls(&mut self) -> bool {
        match &mut self.ring {
            AnyDriver::Split(ring) => ring.ask_for_calls(),
            AnyDriver::Packed(ring) => ring.ask_for_calls(),
        }
    }

    /// Says that no calls are wanted.
    pub fn refuse_calls(&mut self) {
        match &mut self.ring {
            AnyDriver::Split(ring) => ring.refuse_calls(),
            AnyDriver::Packed(ring) => ring.refuse_calls(),
        }
    }

    /// The memory the ring lies in.
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Where the ring begins in the memory, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What the ring was made from.
    pub fn config(&self) -> &DriverConfig {
        &self.config
    }

    /// The ring's areas as a back-end is told them (SET_VRING_ADDR), when it knows the memory's first byte as
    /// `user_va`: descriptors, driver area, device area.
    pub fn user_addresses(&self, user_va: u64) -> (u64, u64, u64) {
        let layout = Layout::new(self.config.size, matches!(self.ring, AnyDriver::Packed(_)));
        let start = user_va + self.offset as u64;
        (start + layout.desc as u64, start + layout.driver as u64, start + layout.device as u64)
    }
}
