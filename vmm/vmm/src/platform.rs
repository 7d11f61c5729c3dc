//! What devices need of the machine, from KVM.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use devices::{Doorbell, EventFd, Message, Platform, Vector};
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
    fn attach_doorbell(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        self.0.attach_doorbell(doorbell.address, doorbell.datum, event.as_fd()).map_err(io_error)
    }

    fn detach_doorbell(&self, doorbell: Doorbell, event: &EventFd) {
        if let Err(error) = self.0.detach_doorbell(doorbell.address, doorbell.datum, event.as_fd()) {
            tracing::debug!(?doorbell, %error, "a doorbell was not attached");
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use kvm::x86_64::{Entry, Mode};
    use kvm::{Exit, Hypervisor};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    const ADDRESS: u64 = 0xe010_0050;
    const CODE: u64 = 0x1000;
    const GDT: u64 = 0x500;

    #[test]
    fn doorbells_at_one_address_are_told_apart_by_what_is_written() {
        let hypervisor = match Hypervisor::open() {
            Ok(hypervisor) => hypervisor,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let vm = hypervisor.create_vm(&memory).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let platform = KvmPlatform(vm);
        let doorbell = |datum| Doorbell { address: ADDRESS, datum: Some(datum) };
        let events = [0, 1, 2].map(|_| EventFd::create().unwrap());
        for (datum, event) in (0..).zip(&events) {
            platform.attach_doorbell(doorbell(datum), event).unwrap();
        }
        assert!(platform.attach_doorbell(doorbell(1), &events[0]).is_err(), "taken");
        platform.detach_doorbell(doorbell(2), &events[2]);

        // mov dword ptr [ADDRESS], datum
        let ring = |datum: u8| {
            let mut code = vec![0xc7, 0x05];
            code.extend((ADDRESS as u32).to_le_bytes());
            code.extend([datum, 0, 0, 0]);
            code
        };
        memory.write_slice(&[1, 2].map(ring).concat(), GuestAddress(CODE)).unwrap();
        let entry = Entry { mode: Mode::Protected, rip: CODE, rsi: 0, rbx: 0, rsp: 0, gdt_address: GDT };
        for (at, word) in (GDT..).step_by(8).zip(entry.gdt()) {
            memory.write_obj(word, GuestAddress(at)).unwrap();
        }
        vcpu.set_entry(&entry).unwrap();
        match vcpu.run().unwrap() {
            Exit::MmioWrite { address, data } => assert_eq!((address, data), (ADDRESS, &[2, 0, 0, 0][..])),
            other => panic!("{other:?}"),
        }
        assert_eq!(events.each_ref().map(EventFd::drain), [false, true, false]);
    }
}
