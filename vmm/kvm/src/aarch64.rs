//! 64-bit Arm: the interrupt controller, the registers with which a processor starts.

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_IRQ_ROUTING_IRQCHIP, KVM_REG_ARM_CORE,
    KVM_REG_ARM64, KVM_REG_SIZE_U64, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr, kvm_device_type,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
    kvm_irq_routing_entry, kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{DeviceFd, Kvm, VmFd};

use crate::{KvmError, Vcpu, Vm};

/// How the first processor starts: at EL1, with interrupts masked and without address translation (Linux,
/// `Documentation/arch/arm64/booting.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First instruction.
    pub pc: u64,
    /// Register 0: where the device tree lies.
    pub x0: u64,
}

/// Where the guest finds the parts of its interrupt controller (GICv3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicPlaces {
    /// The distributor, 64 KiB.
    pub distributor: u64,
    /// The redistributors, 128 KiB for each processor.
    pub redistributors: u64,
    /// The interrupt translation service, 128 KiB.
    pub translation: u64,
}

/// Interrupts of each processor's own; lines are counted from behind them.
const PRIVATE_INTERRUPTS: u32 = 32;
/// Interrupt lines of a machine, counted from 0. The controller's interrupts are a multiple of 32.
pub const LINES: u32 = 32;
/// First interrupt number that is a message; those below are lines.
pub(crate) const FIRST_MESSAGE: u32 = LINES;

/// What all processors of a machine have in common.
#[derive(Debug)]
pub(crate) struct Processors {
    init: kvm_vcpu_init,
}

impl Processors {
    pub fn new(_: &Kvm, vm: &VmFd) -> Result<Processors, KvmError> {
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).map_err(KvmError::of("KVM_ARM_PREFERRED_TARGET"))?;
        // The kernel answers the guest's calls of firmware: processors on and off, power-off, reset (PSCI).
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        Ok(Processors { init })
    }
}

/// Each line is a shared interrupt of the same number, counted from 0: what KVM sets up itself, to be said again
/// whenever a message is added.
pub(crate) fn line_routes() -> Vec<kvm_irq_routing_entry> {
    let route = |gsi: u32| {
        let mut route = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        (route.u.irqchip.irqchip, route.u.irqchip.pin) = (0, gsi);
        route
    };
    (0..LINES).map(route).collect()
}

impl Vm {
    /// Makes the interrupt controller. To be called once, when all processors are there, and before the first
    /// [line](Vm::attach_line) is attached.
    ///
    /// # Errors
    /// The kernel refuses: it has no GICv3, or a part lies where it can't.
    pub fn create_gic(&self, places: &GicPlaces) -> Result<(), KvmError> {
        let interrupts = PRIVATE_INTERRUPTS + LINES;
        // The controller belongs to the machine: it stays when the descriptor that made it is closed.
        let gic = self.create_device(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)?;
        set(&gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &places.distributor)?;
        set(&gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &places.redistributors)?;
        set(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &interrupts)?;
        set(&gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &())?;
        let its = self.create_device(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)?;
        set(&its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, &places.translation)?;
        set(&its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &())
    }

    fn create_device(&self, type_: kvm_device_type) -> Result<DeviceFd, KvmError> {
        let mut device = kvm_create_device { type_, fd: 0, flags: 0 };
        self.fd.create_device(&mut device).map_err(KvmError::of("KVM_CREATE_DEVICE"))
    }
}

/// Sets an attribute of a device; the kernel takes as much of `value` as the attribute has.
fn set<T>(device: &DeviceFd, group: u32, attr: u32, value: &T) -> Result<(), KvmError> {
    let attr = kvm_device_attr { flags: 0, group, attr: attr.into(), addr: &raw const *value as u64 };
    device.set_device_attr(&attr).map_err(KvmError::of("KVM_SET_DEVICE_ATTR"))
}

/// The name by which KVM knows a register of `user_pt_regs` (Linux, `Documentation/virt/kvm/api.rst`, 4.68).
const fn core_register(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

const X0: u64 = core_register(std::mem::offset_of!(user_pt_regs, regs));
const PC: u64 = core_register(std::mem::offset_of!(user_pt_regs, pc));
const PSTATE: u64 = core_register(std::mem::offset_of!(user_pt_regs, pstate));

/// EL1 with its own stack pointer; debug, SError, IRQ and FIQ masked (Arm ARM, C5.2.19).
const PSTATE_EL1: u64 = 0x3c5;

impl Vcpu {
    /// What holds for every processor, before it is known how it starts.
    pub(crate) fn prepare(&self) -> Result<(), KvmError> {
        let mut init = self.vm.processors.init;
        if self.index > 0 {
            // Until another one switches it on.
            init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        self.fd.vcpu_init(&init).map_err(KvmError::of("KVM_ARM_VCPU_INIT"))
    }

    /// Sets the registers with which the first processor starts. The others wait for the first one's call.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_entry(&self, entry: &Entry) -> Result<(), KvmError> {
        for (register, value) in [(PSTATE, PSTATE_EL1), (PC, entry.pc), (X0, entry.x0)] {
            self.fd.set_one_reg(register, &value.to_le_bytes()).map_err(KvmError::of("KVM_SET_ONE_REG"))?;
        }
        Ok(())
    }

    /// Ticks of the processor's cycle counter in a millisecond.
    ///
    /// # Errors
    /// None here.
    pub fn tick_khz(&self) -> Result<u32, KvmError> {
        let hz: u64;
        // SAFETY: reads a register that is the same for host and guest, and that Linux lets everybody read.
        unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack)) };
        Ok((hz / 1000) as u32)
    }

    /// Where the processor stands, in words.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn position(&self) -> Result<String, KvmError> {
        let get = |register| {
            let mut value = [0; 8];
            self.fd.get_one_reg(register, &mut value).map_err(KvmError::of("KVM_GET_ONE_REG"))?;
            Ok(u64::from_le_bytes(value))
        };
        Ok(format!("instruction {:#x}, state {:#x}", get(PC)?, get(PSTATE)?))
    }
}
