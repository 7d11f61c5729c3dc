//! An interrupt as an event descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{BusError, Device};

/// An armed interrupt: its descriptor becomes readable when it fires. Disarmed when dropped.
#[derive(Debug)]
pub struct Interrupt<D: Device> {
    device: D,
    index: u32,
    event: OwnedFd,
}

impl<D: Device> Interrupt<D> {
    /// Arms an interrupt of an object. `device` is kept open for as long as the interrupt is armed; it may be shared
    /// with other users (an `Arc` of a device is a device).
    ///
    /// # Errors
    /// There is no such interrupt, or no descriptor to be had.
    pub fn arm(device: D, index: u32) -> Result<Self, BusError> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(BusError::system("eventfd", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        device.arm_irq(index, event.as_fd())?;
        Ok(Self { device, index, event })
    }

    /// Whether it has fired since the last time this was asked. Never blocks.
    pub fn take(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: `count` has the 8 bytes that a read from an eventfd writes.
        let read = unsafe { libc::read(self.event.as_raw_fd(), (&raw mut count).cast(), 8) };
        read == 8 && count != 0
    }

    /// The device it is of.
    pub fn device(&self) -> &D {
        &self.device
    }
}

/// The descriptor to poll.
impl<D: Device> AsFd for Interrupt<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl<D: Device> Drop for Interrupt<D> {
    fn drop(&mut self) {
        // Nothing to do about a failure: closing the device disarms it too.
        let _ = self.device.disarm_irq(self.index);
    }
}
