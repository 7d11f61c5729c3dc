//! A machine.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupts::{MsiVector, Routes};
use crate::{Hypervisor, KvmError, Vcpu, arch};

/// A machine: memory, doorbells, interrupts. Shared by its processors, which keep it.
#[derive(Debug)]
pub struct Vm {
    pub(crate) fd: VmFd,
    pub(crate) routes: Mutex<Routes>,
    /// What KVM was told to use. Keeps the mappings until the machine is gone.
    memory: Mutex<GuestMemoryMmap>,
    pub(crate) processors: arch::Processors,
}

impl Vm {
    pub(crate) fn new(hypervisor: &Hypervisor, memory: &GuestMemoryMmap) -> Result<Vm, KvmError> {
        let fd = hypervisor.kvm.create_vm().map_err(KvmError::of("KVM_CREATE_VM"))?;
        let mut mapped = GuestMemoryMmap::new();
        // Before the interrupt chips: a slot that is set behind them waits for the kernel's readers (SRCU) to have seen
        // them, which was 5 to 15 ms of a start that takes 20.
        map(&fd, &mut mapped, memory)?;
        let processors = arch::Processors::new(&hypervisor.kvm, &fd)?;
        Ok(Vm { processors, fd, routes: Mutex::new(Routes::new()), memory: Mutex::new(mapped) })
    }

    /// Shows the guest all regions of `memory`. Those shown before stay where they are: a later call adds regions.
    ///
    /// # Errors
    /// The kernel refuses a region: too many, or not aligned to pages.
    pub fn map_memory(&self, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
        map(&self.fd, &mut lock(&self.memory), memory)
    }

    /// Makes processor number `index`, 0 for the one that starts first.
    ///
    /// # Errors
    /// The kernel refuses: too many, or a number twice.
    pub fn create_vcpu(self: &Arc<Self>, index: u32) -> Result<Vcpu, KvmError> {
        Vcpu::new(self, index)
    }

    /// Signals `event` whenever the guest writes to this physical address: whatever it writes, or only when that is the
    /// word `datum`.
    ///
    /// # Errors
    /// The kernel refuses: address and datum are taken by another event.
    pub fn attach_doorbell(
        &self,
        address: u64,
        datum: Option<u32>,
        event: BorrowedFd<'_>,
    ) -> Result<(), KvmError> {
        let (event, address) = (as_event(event), IoEventAddress::Mmio(address));
        match datum {
            Some(datum) => self.fd.register_ioevent(&event, &address, datum),
            None => self.fd.register_ioevent(&event, &address, NoDatamatch),
        }
        .map_err(KvmError::of("KVM_IOEVENTFD"))
    }

    /// Ends what [`attach_doorbell`](Self::attach_doorbell) began.
    ///
    /// # Errors
    /// It wasn't attached.
    pub fn detach_doorbell(
        &self,
        address: u64,
        datum: Option<u32>,
        event: BorrowedFd<'_>,
    ) -> Result<(), KvmError> {
        let (event, address) = (as_event(event), IoEventAddress::Mmio(address));
        match datum {
            Some(datum) => self.fd.unregister_ioevent(&event, &address, datum),
            None => self.fd.unregister_ioevent(&event, &address, NoDatamatch),
        }
        .map_err(KvmError::of("KVM_IOEVENTFD"))
    }

    /// Raises an edge on an interrupt line whenever `event` is signalled.
    ///
    /// # Errors
    /// The kernel refuses: no such line.
    pub fn attach_line(&self, line: u32, event: BorrowedFd<'_>) -> Result<(), KvmError> {
        self.fd.register_irqfd(&as_event(event), line).map_err(KvmError::of("KVM_IRQFD"))
    }

    /// Makes a vector for message-signalled interrupts, masked, to be raised by `event`.
    ///
    /// # Errors
    /// All are in use, or the process has no descriptor left.
    pub fn create_msi_vector(self: &Arc<Self>, event: BorrowedFd<'_>) -> Result<MsiVector, KvmError> {
        MsiVector::new(self, event)
    }
}

/// Shows a machine the regions of `memory` that aren't among those `mapped` yet, where they are held from then on. The
/// machine's descriptors must not outlive `mapped`.
fn map(fd: &VmFd, mapped: &mut GuestMemoryMmap, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    let known = mapped.num_regions();
    let new = memory.iter().filter(|region| mapped.find_region(region.start_addr()).is_none());
    for (slot, region) in (known as u32..).zip(new) {
        let host = region.get_host_address(vm_memory::MemoryRegionAddress(0)).map_err(|_| KvmError {
            call: "KVM_SET_USER_MEMORY_REGION",
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
            flags: 0,
        };
        // SAFETY: the range is mapped, and stays so: `Vm::memory` holds it, and every processor holds the `Vm`, so no
        // descriptor of the machine outlives the mapping; before there is a `Vm`, there is no processor that could run. All
        // its bytes are plain shared memory.
        unsafe { fd.set_user_memory_region(region) }.map_err(KvmError::of("KVM_SET_USER_MEMORY_REGION"))?;
    }
    *mapped = memory.clone();
    Ok(())
}

/// The descriptor as the type that kvm-ioctls wants.
pub(crate) fn as_event(fd: BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open as long as `fd` is borrowed, and never closed by what is made here.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) })
}

/// Locks, whatever a thread that panicked left behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
