//! What devices need of the machine, from KVM.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use devices::{EventFd, Message, Platform, Vector};
use kvm::{KvmError, MsiMessage, MsiVector, Vm};

/// A KVM machine as devices see it.
pub struct KvmPlatform(pub Arc<Vm>);

struct KvmVector {
    event: EventFd,
    vector: MsiVector,
}

fn io_error(error: KvmError) -> io::Error {
    io::Error::new(error.source.kind(), error)
}

impl Platform for KvmPlatform {
    fn attach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.0.attach_doorbell(address, event.as_fd()).map_err(io_error)
    }

    fn detach_doorbell(&self, address: u64, event: &EventFd) {
        if let Err(error) = self.0.detach_doorbell(address, event.as_fd()) {
            tracing::debug!(address, %error, "a doorbell was not attached");
        }
    }

    fn create_vector(&self) -> io::Result<Box<dyn Vector>> {
        let event = EventFd::create()?;
        let vector = self.0.create_msi_vector(event.as_fd()).map_err(io_error)?;
        Ok(Box::new(KvmVector { event, vector }))
    }
}

impl Vector for KvmVector {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn unmask(&self, message: Message) -> io::Result<()> {
        let Message { address, data, requester } = message;
        self.vector.unmask(MsiMessage { address, data, device: requester }).map_err(io_error)
    }

    fn mask(&self) -> io::Result<()> {
        self.vector.mask().map_err(io_error)
    }
}
