//! What devices need of the machine they are in.

use std::io;

use virtqueue::EventFd;

/// The machine, as devices see it.
pub trait Platform: Send + Sync {
    /// Signals `event` whenever the guest rings.
    ///
    /// # Errors
    /// The hypervisor refuses.
    fn attach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;

    /// Ends what [`attach_doorbell`](Self::attach_doorbell) began.
    fn detach_doorbell(&self, doorbell: Doorbell, event: &EventFd);

    /// Makes an interrupt vector, masked.
    ///
    /// # Errors
    /// There are no more.
    fn create_vector(&self) -> io::Result<Box<dyn Vector>>;
}

/// What the guest writes to ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Doorbell {
    /// Where to: a physical address.
    pub address: u64,
    /// Which word; anything if `None`.
    pub datum: Option<u32>,
}

/// What a device writes to interrupt a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
    /// The device's number on its bus: bus, device and function.
    pub requester: u32,
}

/// An interrupt vector: signalling its event interrupts the guest, or once it is unmasked.
pub trait Vector: Send + Sync {
    /// What to signal.
    fn event(&self) -> &EventFd;

    /// Sends this message for each signal from now on.
    ///
    /// # Errors
    /// The hypervisor refuses.
    fn unmask(&self, message: Message) -> io::Result<()>;

    /// Remembers signals from now on.
    ///
    /// # Errors
    /// The hypervisor refuses.
    fn mask(&self) -> io::Result<()>;
}
