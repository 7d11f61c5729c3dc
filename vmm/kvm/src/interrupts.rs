//! Message-signalled interrupts: an event descriptor on one side, an address and a datum on the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};

use crate::arch::{self, FIRST_MESSAGE};
use crate::vm::{as_event, lock};
use crate::{KvmError, Vm};

/// Interrupt numbers that are messages (KVM takes 4,096 routes).
const MESSAGES_MAX: u32 = 2048;

/// What a device writes to interrupt a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
    /// Who: the device's number on its bus; of importance with an interrupt translation service.
    pub device: u32,
}

/// The machine's interrupt routes: one table, replaced as a whole.
#[derive(Debug)]
pub(crate) struct Routes {
    lines: Vec<kvm_irq_routing_entry>,
    /// By number above [`FIRST_MESSAGE`].
    messages: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Free,
    Taken(Option<MsiMessage>),
}

impl Routes {
    pub fn new() -> Routes {
        Routes { lines: arch::line_routes(), messages: Vec::new() }
    }

    fn take(&mut self) -> Option<u32> {
        let index = match self.messages.iter().position(|slot| matches!(slot, Slot::Free)) {
            Some(index) => index,
            None if self.messages.len() < MESSAGES_MAX as usize => {
                self.messages.push(Slot::Free);
                self.messages.len() - 1
            }
            None => return None,
        };
        self.messages[index] = Slot::Taken(None);
        Some(FIRST_MESSAGE + index as u32)
    }

    fn slot(&mut self, gsi: u32) -> &mut Slot {
        &mut self.messages[(gsi - FIRST_MESSAGE) as usize]
    }

    /// The table as the kernel takes it.
    fn table(&self) -> Vec<kvm_irq_routing_entry> {
        let messages = self.messages.iter().zip(FIRST_MESSAGE..).filter_map(|(slot, gsi)| match slot {
            Slot::Taken(Some(message)) => Some(message_route(gsi, message)),
            _ => None,
        });
        self.lines.iter().copied().chain(messages).collect()
    }
}

fn message_route(gsi: u32, message: &MsiMessage) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    route.u.msi.address_lo = message.address as u32;
    route.u.msi.address_hi = (message.address >> 32) as u32;
    route.u.msi.data = message.data;
    #[cfg(target_arch = "aarch64")]
    {
        route.flags = kvm_bindings::KVM_MSI_VALID_DEVID;
        route.u.msi.__bindgen_anon_1.devid = message.device;
    }
    route
}

/// A vector: signalling its event sends its message to a processor, without a turn through this process.
///
/// While it is masked, signals are remembered in the event and delivered once, when it is unmasked.
#[derive(Debug)]
pub struct MsiVector {
    vm: Arc<Vm>,
    gsi: u32,
    event: OwnedFd,
    unmasked: Mutex<bool>,
}

impl MsiVector {
    pub(crate) fn new(vm: &Arc<Vm>, event: BorrowedFd<'_>) -> Result<MsiVector, KvmError> {
        let call = "KVM_IRQFD";
        let event = event.try_clone_to_owned().map_err(|source| KvmError { call: "dup", source })?;
        let gsi = lock(&vm.routes)
            .take()
            .ok_or_else(|| KvmError { call, source: std::io::ErrorKind::QuotaExceeded.into() })?;
        Ok(MsiVector { vm: vm.clone(), gsi, event, unmasked: Mutex::new(false) })
    }

    /// Sends this message from now on; what was signalled while masked is sent now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unmask(&self, message: MsiMessage) -> Result<(), KvmError> {
        let mut unmasked = lock(&self.unmasked);
        {
            let mut routes = lock(&self.vm.routes);
            *routes.slot(self.gsi) = Slot::Taken(Some(message));
            set_routes(&self.vm, &routes)?;
        }
        if !*unmasked {
            self.vm
                .fd
                .register_irqfd(&as_event(self.event.as_fd()), self.gsi)
                .map_err(KvmError::of("KVM_IRQFD"))?;
            *unmasked = true;
        }
        Ok(())
    }

    /// Remembers signals from now on instead of sending.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mask(&self) -> Result<(), KvmError> {
        let mut unmasked = lock(&self.unmasked);
        if *unmasked {
            self.vm
                .fd
                .unregister_irqfd(&as_event(self.event.as_fd()), self.gsi)
                .map_err(KvmError::of("KVM_IRQFD"))?;
            *unmasked = false;
        }
        Ok(())
    }
}

impl Drop for MsiVector {
    fn drop(&mut self) {
        // Nobody is left to be told of a failure, and the number is not given out again unless this worked.
        if self.mask().is_ok() {
            *lock(&self.vm.routes).slot(self.gsi) = Slot::Free;
        }
    }
}

fn set_routes(vm: &Vm, routes: &Routes) -> Result<(), KvmError> {
    let call = "KVM_SET_GSI_ROUTING";
    let table = KvmIrqRouting::from_entries(&routes.table())
        .map_err(|_| KvmError { call, source: std::io::ErrorKind::QuotaExceeded.into() })?;
    vm.fd.set_gsi_routing(&table).map_err(KvmError::of(call))
}
