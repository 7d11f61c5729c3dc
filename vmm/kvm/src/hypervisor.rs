//! `/dev/kvm`.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm};
use vm_memory::GuestMemoryMmap;

use crate::{KvmError, OpenError, Vm};

/// Version of the interface that every kernel since 2.6.22 speaks.
const API_VERSION: i32 = 12;

/// The hypervisor.
#[derive(Debug)]
pub struct Hypervisor {
    pub(crate) kvm: Kvm,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks that it can do what is needed.
    ///
    /// # Errors
    /// It isn't there, may not be opened or lacks something; the message says what to do.
    pub fn open() -> Result<Hypervisor, OpenError> {
        let kvm = Kvm::new().map_err(|error| {
            let error = io::Error::from_raw_os_error(error.errno());
            match error.kind() {
                io::ErrorKind::NotFound => OpenError::Missing,
                io::ErrorKind::PermissionDenied => OpenError::Forbidden,
                _ => OpenError::Other(error),
            }
        })?;
        if kvm.get_api_version() != API_VERSION {
            return Err(OpenError::Version(kvm.get_api_version()));
        }
        let needed = [
            (Cap::Irqchip, "an interrupt controller (KVM_CAP_IRQCHIP)"),
            (Cap::Irqfd, "interrupts by event descriptor (KVM_CAP_IRQFD)"),
            (Cap::Ioeventfd, "doorbells by event descriptor (KVM_CAP_IOEVENTFD)"),
            (Cap::UserMemory, "memory slots (KVM_CAP_USER_MEMORY)"),
            (Cap::ImmediateExit, "immediate exits (KVM_CAP_IMMEDIATE_EXIT)"),
        ];
        match needed.into_iter().find(|&(cap, _)| !kvm.check_extension(cap)) {
            Some((_, name)) => Err(OpenError::Lacks(name)),
            None => Ok(Hypervisor { kvm }),
        }
    }

    /// Most processors a machine can have.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Makes a machine with this memory and its interrupt controllers, without processors.
    ///
    /// # Errors
    /// The kernel refuses: see [`Vm::map_memory`].
    pub fn create_vm(&self, memory: &GuestMemoryMmap) -> Result<Arc<Vm>, KvmError> {
        Vm::new(self, memory).map(Arc::new)
    }
}
