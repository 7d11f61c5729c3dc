//! What the switch's process gives up once it runs: capabilities, new privileges, system calls by thread role. And a
//! machine's process: memory that only its start needed.
//!
//! A guest that breaks into a worker through a bug of ours finds a thread without any privilege, which can do little
//! but what a worker does anyway. The control thread keeps what opening ports while the switch runs requires. The
//! processes of virtual machines do the same by roles of their own.
//!
//! ```no_run
//! use sandbox::{Capabilities, Role};
//!
//! sandbox::report_violations()?;
//! let given_up = sandbox::enter(Role::Control, Capabilities::SYS_NICE)?;
//! println!("{given_up}");
//! std::thread::spawn(|| sandbox::enter(Role::Worker, Capabilities::NONE));
//! # Ok::<(), sandbox::SandboxError>(())
//! ```
//!
//! Everything here concerns the calling thread and those that it starts later. A system call that isn't allowed fails
//! with `EPERM`, and its name is written to standard error: a call that was forgotten in the list costs one
//! operation, not every guest its network. (New processes and programs are refused without that line.) (Requests to
//! io_uring are no system calls of their own: seccomp doesn't see them. What they can open and connect is bounded by the
//! capabilities, and for disks by what their rings allow.)
//!
//! UNSAFETY: the handler of SIGSYS is installed with `sigaction`, and changes the result of the refused call in the
//! registers of the interrupted thread; threads block signals with
//! `pthread_sigmask`; pages of the program are released with `madvise`.
#![allow(unsafe_code)]

mod allowed;
mod capabilities;
mod pages;
mod signals;
mod user;
mod violation;

use std::collections::BTreeSet;
use std::fmt;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

pub use capabilities::Capabilities;
pub use pages::release_program_pages;
pub use user::{ConfineError, User, confine};
pub use violation::report_violations;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens ports, speaks with front-ends and operators.
    Control,
    /// Moves frames.
    Worker,
    /// A virtual machine's own process: makes the machine and its threads, answers on its control socket.
    Machine,
    /// Runs a virtual machine's processor, and serves what the guest leaves it for.
    Vcpu,
    /// Does the work of a virtual machine's device, or speaks with the process that does.
    Device,
    /// Does the work of a virtual machine's disk, by io_uring.
    Disk,
}

impl Role {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Worker => "worker",
            Role::Machine => "machine",
            Role::Vcpu => "processor",
            Role::Device => "device",
            Role::Disk => "disk",
        }
    }

    /// Whether such threads are there to be told things, by signals as well.
    fn serves_signals(self) -> bool {
        match self {
            Role::Control | Role::Machine => true,
            Role::Worker | Role::Vcpu | Role::Device | Role::Disk => false,
        }
    }
}

/// Why a thread keeps what it should give up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel doesn't let it.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        cause: std::io::Error,
    },
    /// The filter of system calls. The kernel may have been built without.
    #[error("system calls can't be filtered: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// What a thread has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// What it is for.
    pub role: Role,
    /// Capabilities it had and hasn't any more.
    pub dropped: Capabilities,
    /// Those it has still.
    pub kept: Capabilities,
    /// How many system calls are allowed.
    pub system_calls: usize,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GivenUp { role, dropped, kept, system_calls } = self;
        let role = role.name();
        write!(f, "{role}: {} capabilities given up, kept: {kept}; no new privileges; ", dropped.count())?;
        write!(f, "{system_calls} system calls allowed")
    }
}

/// Makes the calling thread, and those it starts from now on, give up all capabilities but those in `keep`, the
/// ability to gain privileges, and all system calls that the role doesn't need. Nothing of this can be undone.
///
/// Signals that tell the process something (SIGTERM, SIGHUP, ...) interrupt threads of the roles `Control` and `Machine`
/// only: what handles them needs system calls that the others haven't.
///
/// # Errors
/// The kernel refuses. What was given up before stays given up.
pub fn enter(role: Role, keep: Capabilities) -> Result<GivenUp, SandboxError> {
    if !role.serves_signals() {
        let told = |cause| SandboxError::System { what: "leaving signals to other threads", cause };
        signals::leave_to_others().map_err(told)?;
    }
    let system = |what| move |cause: rustix::io::Errno| SandboxError::System { what, cause: cause.into() };
    let (dropped, kept) = capabilities::drop_all_but(keep).map_err(system("giving up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(system("giving up new privileges"))?;
    // Of two filters the stricter answer counts, and telling is stricter than refusing in silence.
    let allowed = allowed::of(role);
    let silent = allowed::silently_refused(role);
    let told = allowed.union(&silent).copied().collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    for program in [
        filter(silent, SeccompAction::Allow, refuse)?,
        filter(told, SeccompAction::Trap, SeccompAction::Allow)?,
    ] {
        seccompiler::apply_filter(&program)?;
    }
    Ok(GivenUp { role, dropped, kept, system_calls: allowed.len() })
}

/// A filter with one answer for these calls and another for all others.
fn filter(
    calls: BTreeSet<i64>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(seccompiler::Error::Backend)?;
    // No condition on arguments: the kernel then answers from a bitmap (Linux 5.11), at no cost to a worker.
    let rules = calls.into_iter().map(|number| (number, vec![])).collect();
    let filter = SeccompFilter::new(rules, others, these, arch).map_err(seccompiler::Error::Backend)?;
    Ok(filter.try_into().map_err(seccompiler::Error::Backend)?)
}
