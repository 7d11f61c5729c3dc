//! A console: what the guest wrote last is kept, those who watch get what it writes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes kept for those who come late, or don't keep up.
const KEPT: usize = 64 << 10;
/// Watchers at a time.
const WATCHERS_MAX: usize = 8;
/// Bytes sent to a watcher at a time.
const PIECE: usize = 4096;

/// The console. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was written, a watcher has gone on, or it has ended.
    changed: Condvar,
}

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
    /// Bytes that were ever written: the last of them is the last that is kept.
    written: u64,
    /// By number, how many of these bytes each watcher has got.
    watchers: BTreeMap<u64, u64>,
    record: Option<File>,
}

/// Somebody watches as long as this is there.
#[derive(Debug)]
pub struct Watching {
    console: Console,
    number: u64,
}

impl Console {
    /// A console that is recorded in a file, too.
    pub fn new(record: Option<File>) -> Console {
        let state = State { record, ..State::default() };
        Console(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the kept text and from now on everything to `watcher`, from a thread that may wait for it: a guest doesn't
    /// wait for those who watch it. One who falls behind by more than what is kept misses the rest.
    ///
    /// # Errors
    /// There are too many, or no thread is left.
    pub fn watch(&self, watcher: impl Write + Send + 'static) -> io::Result<Watching> {
        let number = {
            let mut state = self.state();
            if state.watchers.len() == WATCHERS_MAX {
                return Err(io::Error::other("enough others watch this console"));
            }
            let number = state.watchers.last_key_value().map_or(0, |(last, _)| last + 1);
            state.watchers.insert(number, 0);
            number
        };
        let watching = Watching { console: self.clone(), number };
        let console = self.clone();
        std::thread::Builder::new().name("watcher".into()).spawn(move || console.send_to(watcher, number))?;
        Ok(watching)
    }

    fn send_to(&self, mut watcher: impl Write, number: u64) {
        while let Some((text, upto)) = self.next_for(number) {
            if watcher.write_all(&text).is_err() {
                // Gone; whoever reads from it learns it, too.
                return;
            }
            if let Some(got) = self.state().watchers.get_mut(&number) {
                *got = upto;
            }
            self.0.changed.notify_all();
        }
    }

    /// Waits for what a watcher hasn't got yet. Returns a piece of it, and how many bytes it has got with that; `None`
    /// when it watches no longer.
    fn next_for(&self, number: u64) -> Option<(Vec<u8>, u64)> {
        let has_all = |state: &mut State| state.watchers.get(&number) == Some(&state.written);
        let state = self.0.changed.wait_while(self.state(), has_all).unwrap_or_else(PoisonError::into_inner);
        let got = *state.watchers.get(&number)?;
        let oldest = state.written - state.kept.len() as u64;
        let from = got.max(oldest);
        let text: Vec<u8> = state.kept.iter().skip((from - oldest) as usize).take(PIECE).copied().collect();
        let upto = from + text.len() as u64;
        Some((text, upto))
    }

    /// Waits until all who watch have got everything, so long at most.
    pub fn settle(&self, limit: Duration) {
        let behind = |state: &mut State| state.watchers.values().any(|&got| got < state.written);
        // Whoever still is behind then misses the end.
        drop(self.0.changed.wait_timeout_while(self.state(), limit, behind));
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        if let Some(record) = &mut state.record {
            // A full disk costs the record, not the guest.
            let _ = record.write_all(bytes);
        }
        let excess = (state.kept.len() + bytes.len()).saturating_sub(KEPT);
        let drop = excess.min(state.kept.len());
        state.kept.drain(..drop);
        state.kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        state.written += bytes.len() as u64;
        if !state.watchers.is_empty() {
            self.0.changed.notify_all();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.console.state().watchers.remove(&self.number);
        self.console.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_late_watcher_sees_what_was_written_before() {
        let mut console = Console::default();
        console.write_all(b"before ").unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let _watching = console.watch(theirs).unwrap();
        console.write_all(b"after").unwrap();
        let mut text = [0; 12];
        ours.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"before after");
    }

    #[test]
    fn a_watcher_that_is_slow_for_a_while_misses_nothing_however_small_the_pieces() {
        let mut console = Console::default();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let _watching = console.watch(theirs).unwrap();
        let text: Vec<u8> = (0..10_000).map(|n| n as u8).collect();
        text.iter().for_each(|byte| console.write_all(&[*byte]).unwrap());
        let mut read = vec![0; text.len()];
        ours.read_exact(&mut read).unwrap();
        assert_eq!(read, text);
        console.settle(Duration::from_secs(60));
        assert_eq!(console.state().watchers.values().copied().collect::<Vec<_>>(), [10_000]);
    }

    #[test]
    fn a_watcher_that_reads_nothing_does_not_stop_the_guest() {
        let mut console = Console::default();
        let (_silent, theirs) = UnixStream::pair().unwrap();
        let _watching = console.watch(theirs).unwrap();
        for _ in 0..100 {
            console.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        assert_eq!(console.state().kept.len(), KEPT);
        // Nor does it stop its end.
        console.settle(Duration::from_millis(1));
    }

    #[test]
    fn who_has_gone_leaves_room_for_another() {
        let console = Console::default();
        let watch = || console.watch(io::sink());
        let all: Vec<_> = (0..WATCHERS_MAX).map(|_| watch().unwrap()).collect();
        assert!(watch().is_err());
        drop(all);
        watch().unwrap();
    }
}
