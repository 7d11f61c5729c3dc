//! 64-bit Arm: no firmware; a device tree says what there is.

pub(crate) mod boot;
mod device_tree;
pub mod layout;

use std::sync::Arc;

use kvm::{KvmError, Vcpu, Vm};

/// Makes the machine's processors; with the last one the machine can be interrupted.
///
/// # Errors
/// The kernel refuses.
pub fn create_processors(vm: &Arc<Vm>, count: u32) -> Result<Vec<Vcpu>, KvmError> {
    let vcpus = (0..count).map(|index| vm.create_vcpu(index)).collect::<Result<_, _>>()?;
    vm.create_gic(&layout::GIC)?;
    Ok(vcpus)
}
