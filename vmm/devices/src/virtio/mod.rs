//! Virtio devices (virtio 1.2): what one is made of, and the transports that show it to the guest.
//!
//! A [`Device`] knows nothing of registers. A transport negotiates for it, and when the guest's driver is ready
//! hands it a [`Session`]: features, memory, queues. From then on the device works on threads of its own, or lets
//! another process work, until [`Device::stop`]. There are two: [`Transport`] puts a device on the PCI bus,
//! [`mmio::Transport`] behind a block of registers.

pub mod blk;
pub mod console;
mod local_queue;
pub mod mmio;
mod negotiation;
pub mod net;
pub mod rng;
mod transport;
pub mod vhost_user;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

pub use transport::Transport;

use crate::EventFd;

/// Who made the devices, as the guest reads it: the vendor of all virtio devices on PCI (section 4.1.2).
const VENDOR: u16 = 0x1af4;

/// Device types (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Network.
    Net = 1,
    /// Block.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy.
    Rng = 4,
}

/// The guest's memory as it is at present: regions may be added.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A queue that the guest's driver has set up. Addresses are guest-physical, and no more than what the driver said.
#[derive(Debug)]
pub struct Queue {
    /// Which of the device's queues.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Descriptor table or packed ring.
    pub desc: u64,
    /// Driver area.
    pub driver: u64,
    /// Device area.
    pub device: u64,
    /// Signalled by the driver.
    pub kick: EventFd,
    /// To be signalled for the driver.
    pub call: EventFd,
}

/// What a device works with, from the driver's readiness to the reset.
#[derive(Debug)]
pub struct Session {
    /// The features negotiated.
    pub features: u64,
    /// The guest's memory.
    pub memory: Memory,
    /// The queues enabled.
    pub queues: Vec<Queue>,
}

/// Why a device can't start. The guest sees that the device needs a reset.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A virtio device.
pub trait Device: Send {
    /// Its type.
    fn kind(&self) -> Kind;

    /// The features it offers, transport and ring features among them.
    fn features(&self) -> u64;

    /// The most entries of each of its queues.
    fn queue_sizes(&self) -> &[u16];

    /// Reads its configuration; bytes behind its end are left alone.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes its configuration. Most devices have none that can be written.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// Begins to work.
    ///
    /// # Errors
    /// What the driver has set up can't be worked with.
    fn start(&mut self, session: Session) -> Result<(), StartError>;

    /// Ends the session: when this returns, nobody uses its queues and its memory any more.
    fn stop(&mut self);

    /// The guest's memory has grown. Returns when whoever works on the queues knows.
    fn memory_grown(&mut self, _memory: &Memory) {}

    /// Whether the doorbell of this queue is answered by [`rung`](Self::rung) instead of signalling the queue's event.
    fn answers_doorbell(&self, _queue: u16) -> bool {
        false
    }

    /// The driver rings such a queue; called by the processor's thread, which waits.
    fn rung(&mut self, _queue: u16) {}

    /// Ends the work on one queue, for a device that offers `RING_RESET`: when this returns, nobody uses it any more.
    fn stop_queue(&mut self, _index: u16) {}

    /// Begins to work on one queue again, which the driver has set up anew.
    ///
    /// # Errors
    /// It can't be worked with.
    fn start_queue(&mut self, queue: Queue) -> Result<(), StartError> {
        Err(StartError(format!("queue {} can't be started alone", queue.index)))
    }
}

/// How a device tells the driver that its configuration has changed, or that it is broken. Shared by the transport and
/// the device's threads.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Arc<NotifierState>);

#[derive(Debug, Default)]
struct NotifierState {
    generation: AtomicU8,
    needs_reset: AtomicBool,
    vector: Mutex<Option<EventFd>>,
}

impl Notifier {
    /// The configuration has changed.
    pub fn config_changed(&self) {
        self.0.generation.fetch_add(1, Ordering::Release);
        self.signal();
    }

    /// The device can't go on (section 2.1.2).
    pub fn needs_reset(&self) {
        self.0.needs_reset.store(true, Ordering::Release);
        self.signal();
    }

    fn signal(&self) {
        let vector = self.0.vector.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = &*vector {
            event.signal();
        }
    }

    fn set_vector(&self, event: Option<EventFd>) {
        *self.0.vector.lock().unwrap_or_else(PoisonError::into_inner) = event;
    }

    fn generation(&self) -> u8 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn is_broken(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    fn repaired(&self) {
        self.0.needs_reset.store(false, Ordering::Release);
    }
}

/// Reads from the bytes of a configuration structure.
pub(crate) fn read_bytes(structure: &[u8], offset: usize, data: &mut [u8]) {
    if let Some(rest) = structure.get(offset..) {
        let count = data.len().min(rest.len());
        data[..count].copy_from_slice(&rest[..count]);
    }
}
