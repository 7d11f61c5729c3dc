//! x86-64: interrupt chips, CPUID, the registers with which a processor starts.

use kvm_bindings::{
    CpuId, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_irq_routing_entry, kvm_msr_entry, kvm_pit_config,
    kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::{KvmError, Vcpu};

/// Three pages that KVM uses on Intel's processors; below 4 GiB, where no memory is.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// One more.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// Interrupt lines of a machine, counted from 0: the pins of the I/O APIC.
pub const LINES: u32 = 24;

/// How a processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// In which mode.
    pub mode: Mode,
    /// First instruction.
    pub rip: u64,
    /// Linux's 64-bit protocol: where the boot parameters lie.
    pub rsi: u64,
    /// PVH: where the start information lies.
    pub rbx: u64,
    /// Stack.
    pub rsp: u64,
    /// Where the descriptor table with the segments of [`Entry::gdt`] lies.
    pub gdt_address: u64,
}

/// The mode in which a processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64 bits, paging on with this page table (Linux, `Documentation/arch/x86/boot.rst`, "64-bit boot protocol").
    Long {
        /// The top page table.
        cr3: u64,
    },
    /// 32 bits without paging (Xen, `docs/misc/pvh.pandoc`).
    Protected,
}

/// Selector of the code segment, as Linux's boot protocol wants it.
const CODE: u16 = 0x10;
/// Selector of the data segment.
const DATA: u16 = 0x18;
/// Selector of the task segment.
const TASK: u16 = 0x20;

impl Entry {
    /// The descriptor table to be written at [`gdt_address`](Self::gdt_address).
    pub fn gdt(&self) -> [u64; 6] {
        // Intel SDM, volume 3, section 3.4.5: base, limit and flags of flat segments; 7.2.3: a task segment of 16 bytes.
        let code = match self.mode {
            Mode::Long { .. } => 0x00af_9b00_0000_ffff,
            Mode::Protected => 0x00cf_9b00_0000_ffff,
        };
        [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0]
    }
}

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: (!long).into(),
        s: 1,
        l: long.into(),
        g: 1,
        ..Default::default()
    }
}

/// First interrupt number that is a message; those below are lines.
pub(crate) const FIRST_MESSAGE: u32 = LINES;

/// What all processors of a machine have in common.
#[derive(Debug)]
pub(crate) struct Processors {
    cpuid: CpuId,
}

impl Processors {
    /// Makes the machine's interrupt chips, too: they have to be there before the first processor.
    pub fn new(kvm: &Kvm, vm: &VmFd) -> Result<Processors, KvmError> {
        create_chips(vm)?;
        Ok(Processors { cpuid: cpuid_base(kvm)? })
    }
}

fn create_chips(vm: &VmFd) -> Result<(), KvmError> {
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(KvmError::of("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(TSS_ADDRESS).map_err(KvmError::of("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(KvmError::of("KVM_CREATE_IRQCHIP"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(KvmError::of("KVM_CREATE_PIT2"))
}

/// Lines 0 to 15 go to the interrupt controllers of the PC as well as to the I/O APIC, 16 to 23 to the latter only:
/// what KVM sets up itself, to be said again whenever a message is added.
pub(crate) fn line_routes() -> Vec<kvm_irq_routing_entry> {
    let route = |gsi: u32, chip: u32, pin: u32| {
        let mut route = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        route.u.irqchip.irqchip = chip;
        route.u.irqchip.pin = pin;
        route
    };
    let old = (0..16).map(|line| match line {
        0..8 => route(line, KVM_IRQCHIP_PIC_MASTER, line),
        _ => route(line, KVM_IRQCHIP_PIC_SLAVE, line - 8),
    });
    // The timer's line 0 is pin 2 of the I/O APIC.
    let new = (0..LINES).map(|line| route(line, KVM_IRQCHIP_IOAPIC, if line == 0 { 2 } else { line }));
    old.chain(new).collect()
}

/// Whether this KVM works without the processor's virtualisation: it interprets privileged code and knows less of it.
fn is_software() -> bool {
    std::path::Path::new("/sys/module/kvm_pvm").exists()
}

/// What every processor of the machine tells of itself, but for its number.
fn cpuid_base(kvm: &Kvm) -> Result<CpuId, KvmError> {
    let mut cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::of("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let software = is_software();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // "Under a hypervisor": KVM leaves the bit to us, and without it a guest finds no paravirtual clock.
                entry.ecx |= 1 << 31;
                entry.ecx |= u32::from(deadline) << 24;
                if software {
                    // CX16, XSAVE, OSXSAVE, AVX, F16C, FMA: a software KVM can't run them in privileged code.
                    entry.ecx &= !(1 << 13 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 12);
                }
            }
            // State components of XSAVE.
            0xd if software => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    Ok(cpuid)
}

/// The table with the processor's own number in it (Intel SDM, CPUID leaves 1, 4, 0xb, 0x1f; AMD 0x8000001e).
fn with_number(base: &CpuId, index: u32) -> CpuId {
    let mut cpuid = base.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // One logical processor a package; bits 24 to 31: the local APIC's number.
                entry.ebx = entry.ebx & 0xff | 8 << 8 | 1 << 16 | index << 24;
                entry.edx &= !(1 << 28);
            }
            4 => entry.eax &= !(0xfff << 14),
            0xb | 0x1f => {
                (entry.eax, entry.ebx) = match entry.index {
                    0 => (0, 1),
                    1 => (0, 1),
                    _ => (0, 0),
                };
                entry.ecx = entry.index | if entry.index < 2 { (entry.index + 1) << 8 } else { 0 };
                entry.edx = index;
            }
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
            _ => {}
        }
    }
    cpuid
}

/// Registers of the local APIC (Intel SDM, volume 3, table 12-1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery modes in a local vector.
const MODE_NMI: u32 = 4 << 8;
const MODE_EXTERNAL: u32 = 7 << 8;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
/// Memory type ranges are enabled, and memory is write-back where none says otherwise.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

impl Vcpu {
    /// What holds for every processor, before it is known how it starts.
    pub(crate) fn prepare(&self) -> Result<(), KvmError> {
        let cpuid = with_number(&self.vm.processors.cpuid, self.index);
        self.fd.set_cpuid2(&cpuid).map_err(KvmError::of("KVM_SET_CPUID2"))?;
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let msrs = Msrs::from_entries(&[
            msr(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
            msr(MSR_MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK),
        ])
        .expect("two entries fit");
        self.fd.set_msrs(&msrs).map_err(KvmError::of("KVM_SET_MSRS"))?;
        let mut lapic = self.fd.get_lapic().map_err(KvmError::of("KVM_GET_LAPIC"))?;
        for (register, value) in [(LVT_LINT0, MODE_EXTERNAL), (LVT_LINT1, MODE_NMI)] {
            for (at, byte) in (register..).zip(value.to_le_bytes()) {
                lapic.regs[at] = byte as _;
            }
        }
        self.fd.set_lapic(&lapic).map_err(KvmError::of("KVM_SET_LAPIC"))
    }

    /// Sets the registers with which the first processor starts. The others wait for the first one's signal.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_entry(&self, entry: &Entry) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(KvmError::of("KVM_GET_SREGS"))?;
        let gdt = entry.gdt();
        sregs.gdt.base = entry.gdt_address;
        sregs.gdt.limit = (size_of_val(&gdt) - 1) as u16;
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
        let long = matches!(entry.mode, Mode::Long { .. });
        sregs.cs = segment(CODE, 0xb, long);
        sregs.ds = segment(DATA, 3, false);
        (sregs.es, sregs.fs, sregs.gs, sregs.ss) = (sregs.ds, sregs.ds, sregs.ds, sregs.ds);
        sregs.tr = kvm_segment { limit: 0x67, selector: TASK, type_: 0xb, present: 1, ..Default::default() };
        match entry.mode {
            Mode::Long { cr3 } => {
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                (sregs.cr3, sregs.cr4, sregs.efer) = (cr3, CR4_PAE, EFER_LME | EFER_LMA);
            }
            Mode::Protected => (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0_PE | CR0_ET, 0, 0, 0),
        }
        self.fd.set_sregs(&sregs).map_err(KvmError::of("KVM_SET_SREGS"))?;
        let regs = kvm_regs {
            rip: entry.rip,
            rsi: entry.rsi,
            rbx: entry.rbx,
            rsp: entry.rsp,
            rflags: 2,
            ..Default::default()
        };
        self.fd.set_regs(&regs).map_err(KvmError::of("KVM_SET_REGS"))
    }

    /// Ticks of the processor's cycle counter in a millisecond.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tick_khz(&self) -> Result<u32, KvmError> {
        self.fd.get_tsc_khz().map_err(KvmError::of("KVM_GET_TSC_KHZ"))
    }

    /// Where the processor stands, in words.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn position(&self) -> Result<String, KvmError> {
        let regs = self.fd.get_regs().map_err(KvmError::of("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(KvmError::of("KVM_GET_SREGS"))?;
        Ok(format!("instruction {:#x}, segment {:#x}", regs.rip, sregs.cs.selector))
    }
}
