//! A console: what the guest wrote last is kept, those who watch get what it writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes kept for those who come late.
const KEPT: usize = 64 << 10;
/// Watchers at a time.
const WATCHERS_MAX: usize = 8;

/// The console. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<Mutex<State>>);

/// The consoles of a machine.
#[derive(Clone, Debug, Default)]
pub struct Consoles {
    /// The serial port.
    pub serial: Console,
    /// The virtio device, if it has one.
    pub virtio: Option<Console>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The serial port.
    Serial,
    /// The virtio device.
    Virtio,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<u8>,
    watchers: Vec<UnixStream>,
    record: Option<File>,
}

impl Console {
    /// A console that is recorded in a file, too.
    pub fn new(record: Option<File>) -> Console {
        Console(Arc::new(Mutex::new(State { record, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the kept text and from now on everything to `watcher`. It is dropped when it doesn't keep up: a guest
    /// doesn't wait for those who watch it.
    ///
    /// # Errors
    /// There are too many, or the socket fails.
    pub fn watch(&self, mut watcher: UnixStream) -> io::Result<()> {
        let mut state = self.state();
        if state.watchers.len() == WATCHERS_MAX {
            return Err(io::Error::other("enough others watch this console"));
        }
        watcher.set_nonblocking(true)?;
        let (a, b) = state.kept.as_slices();
        watcher.write_all(a)?;
        watcher.write_all(b)?;
        state.watchers.push(watcher);
        Ok(())
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.watchers.retain_mut(|watcher| watcher.write_all(bytes).is_ok());
        if let Some(record) = &mut state.record {
            // A full disk costs the record, not the guest.
            let _ = record.write_all(bytes);
        }
        let excess = (state.kept.len() + bytes.len()).saturating_sub(KEPT);
        let drop = excess.min(state.kept.len());
        state.kept.drain(..drop);
        state.kept.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_late_watcher_sees_what_was_written_before() {
        let mut console = Console::default();
        console.write_all(b"before ").unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        console.watch(theirs).unwrap();
        console.write_all(b"after").unwrap();
        let mut text = [0; 12];
        ours.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"before after");
    }

    #[test]
    fn a_watcher_that_reads_nothing_does_not_stop_the_guest() {
        let mut console = Console::default();
        let (_silent, theirs) = UnixStream::pair().unwrap();
        console.watch(theirs).unwrap();
        for _ in 0..100 {
            console.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        assert!(console.state().watchers.is_empty());
        assert_eq!(console.state().kept.len(), KEPT);
    }
}
