//! What can fail.

use std::io;

/// Why `/dev/kvm` can't be used. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such device.
    #[error(
        "this machine has no /dev/kvm: load the kernel module kvm (kvm_intel, kvm_amd), or switch virtualisation on \
         in the firmware or nested virtualisation in the machine around this one"
    )]
    Missing,
    /// The user may not open it.
    #[error("no permission to open /dev/kvm: add the user to its group (usually kvm) or run as root")]
    Forbidden,
    /// It can't be opened for another reason.
    #[error("/dev/kvm can't be opened: {0}")]
    Other(#[source] io::Error),
    /// It speaks another version of the interface.
    #[error("/dev/kvm speaks version {0} of its interface, not 12")]
    Version(i32),
    /// It lacks an ability.
    #[error("this /dev/kvm lacks {0}")]
    Lacks(&'static str),
}

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct KvmError {
    /// What was asked, by the kernel's name for it.
    pub call: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl KvmError {
    /// Makes one from what kvm-ioctls returns.
    pub(crate) fn of(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
        move |error| KvmError { call, source: io::Error::from_raw_os_error(error.errno()) }
    }
}
