//! Threads of devices: each begins by giving up what it doesn't need.

use std::io;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sandbox::{Capabilities, Role};

use crate::EventFd;

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

/// Tells a device's thread what to do, and wakes it.
pub(crate) struct Commands<C> {
    pub sender: Sender<C>,
    pub wake: EventFd,
}

impl<C> Commands<C> {
    /// Gives a command. One for a thread that has ended is lost.
    pub fn send(&self, command: C) {
        let _ = self.sender.send(command);
        self.wake.signal();
    }

    /// Gives a command and waits for the answer. None: the thread has ended.
    pub fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> C) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.send(command(answer));
        answered.recv().ok()
    }
}
