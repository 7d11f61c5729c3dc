//! Threads of devices: each begins by giving up what it doesn't need.

use std::io;
use std::thread::JoinHandle;

use sandbox::{Capabilities, Role};

/// Starts a thread that keeps no privilege, and of the system calls those of `role`.
///
/// # Errors
/// There are no more threads.
pub(crate) fn spawn(
    name: &str,
    role: Role,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(error) = sandbox::enter(role, Capabilities::NONE) {
            tracing::warn!(%error, "a device's thread keeps its privileges");
        }
        work();
    })
}
