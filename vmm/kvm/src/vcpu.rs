//! A processor.

use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::{KvmError, Vm};

/// A processor. Runs in the thread that calls [`run`](Self::run).
#[derive(Debug)]
pub struct Vcpu {
    // Closed before `vm` can unmap the memory.
    pub(crate) fd: VcpuFd,
    pub(crate) vm: Arc<Vm>,
    pub(crate) index: u32,
}

/// Why the guest's processor stopped.
#[derive(Debug)]
pub enum Exit<'a> {
    /// It reads a port: to be filled in. More bytes than the port is wide are that many reads of it.
    #[cfg(target_arch = "x86_64")]
    PortRead {
        /// Which port.
        port: u16,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// It wrote a port.
    #[cfg(target_arch = "x86_64")]
    PortWrite {
        /// Which port.
        port: u16,
        /// What.
        data: &'a [u8],
    },
    /// It reads where no memory is: to be filled in.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// Where the answer goes, 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// It wrote where no memory is.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// What, 1 to 8 bytes.
        data: &'a [u8],
    },
    /// It waits for an interrupt, and no interrupt controller of the kernel's could wake it.
    Halt,
    /// It has failed for good (a triple fault).
    Shutdown,
    /// The guest asked the firmware to end.
    PowerOff,
    /// The guest asked the firmware to start again.
    Reset,
    /// The guest said that it crashed.
    Crash,
    /// A signal came, or an immediate exit was asked for.
    Interrupted,
    /// The kernel can't go on: usually an instruction it can't emulate.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// What the kernel adds to it; for an emulation failure the instruction's bytes among it.
        data: Vec<u64>,
    },
    /// The processor refused the guest's state.
    FailedEntry {
        /// The hardware's code.
        reason: u64,
    },
    /// Anything else, by KVM's name or number.
    Other(String),
}

impl Vcpu {
    pub(crate) fn new(vm: &Arc<Vm>, index: u32) -> Result<Vcpu, KvmError> {
        let fd = vm.fd.create_vcpu(index.into()).map_err(KvmError::of("KVM_CREATE_VCPU"))?;
        let this = Vcpu { fd, vm: vm.clone(), index };
        this.prepare()?;
        Ok(this)
    }

    /// The processor's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Runs the guest until it needs something. What the last exit asked for is taken from its buffer first.
    ///
    /// # Errors
    /// The kernel can't run it.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        // The borrow checker can't see that this ends in the arm that returns (it holds `self` for all arms), so the
        // kinds without data are told apart by a pointer taken before.
        let page: *const kvm_bindings::kvm_run = self.fd.get_kvm_run();
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                return Ok(Exit::Interrupted);
            }
            Err(error) => return Err(KvmError::of("KVM_RUN")(error)),
        };
        Ok(match exit {
            #[cfg(target_arch = "x86_64")]
            VcpuExit::IoIn(port, data) => Exit::PortRead { port, data },
            #[cfg(target_arch = "x86_64")]
            VcpuExit::IoOut(port, data) => Exit::PortWrite { port, data },
            VcpuExit::MmioRead(address, data) => Exit::MmioRead { address, data },
            VcpuExit::MmioWrite(address, data) => Exit::MmioWrite { address, data },
            VcpuExit::Hlt => Exit::Halt,
            VcpuExit::Shutdown => Exit::Shutdown,
            VcpuExit::Intr => Exit::Interrupted,
            VcpuExit::SystemEvent(kind, _) => match kind {
                kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Exit::PowerOff,
                kvm_bindings::KVM_SYSTEM_EVENT_RESET => Exit::Reset,
                kvm_bindings::KVM_SYSTEM_EVENT_CRASH => Exit::Crash,
                other => Exit::Other(format!("system event {other}")),
            },
            VcpuExit::InternalError => {
                // SAFETY: the page stays mapped as long as `self.fd`, and the kernel filled this member of the union
                // when it returned the reason matched here.
                let internal = unsafe { (*page).__bindgen_anon_1.internal };
                let count = (internal.ndata as usize).min(internal.data.len());
                Exit::InternalError { suberror: internal.suberror, data: internal.data[..count].to_vec() }
            }
            VcpuExit::FailEntry(reason, _) => Exit::FailedEntry { reason },
            VcpuExit::Unsupported(reason) => Exit::Other(format!("reason {reason}")),
            other => Exit::Other(format!("{other:?}")),
        })
    }

    /// Makes the next [`run`](Self::run) return [`Exit::Interrupted`] once what the last exit asked for is taken.
    pub fn exit_at_once(&mut self, yes: bool) {
        self.fd.set_kvm_immediate_exit(yes.into());
    }
}
