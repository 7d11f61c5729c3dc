//! A PC without its past: no firmware, no legacy devices but the serial port and what the kernel emulates.

mod acpi;
pub(crate) mod boot;
pub mod layout;

use std::sync::Arc;

use kvm::{KvmError, Vcpu, Vm};

/// Makes the machine's processors; with the last one the machine can be interrupted.
///
/// # Errors
/// The kernel refuses.
pub fn create_processors(vm: &Arc<Vm>, count: u32) -> Result<Vec<Vcpu>, KvmError> {
    (0..count).map(|index| vm.create_vcpu(index)).collect()
}
