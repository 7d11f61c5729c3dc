//! A new process goes on where the running one is: `ringway run FILE --take-over`.
//!
//! ```text
//!   old process (give)                      new process (take)
//!   State: everything, while it forwards -> workers (held), bridges, rules, addresses; memory mapped, devices and
//!                                           new ports opened. All that is slow or can fail.
//!   holds its workers                    <- Ready
//!   Held: ring positions, counters       -> rings started on workers that are held
//!                                        <- Accept
//!   Yours                                -> releases its workers; serves sessions and its control socket
//!   ends                                    opens what the old process had in use
//! ```
//!
//! Frames rest only from the hold to the release. Whatever goes wrong before `Yours`, on either side, is told to the
//! other one, and the old process goes on: it has given away duplicates of descriptors, never its own, and no ring is
//! served by two processes, as the new one starts after `Yours` only, and the old one does nothing after it.
//!
//! What goes on is what has the same name and the same socket or device in the file of the new process. A port the
//! new file hasn't is closed, one that only it has is opened; both files' rules are compared as on a reload, and
//! rules added by commands stay. Not handed over: frames that wait for a controller, frames inside `loop` ports and the
//! place in a replayed capture; a recorded capture goes on as a new section of its file. A container of DPAA2 objects has one
//! owner: its ports are opened when the old process has closed it, and pass no frame until then.

mod give;
mod take;

use std::os::fd::OwnedFd;
use std::time::Duration;

use port::{Counter, PortCounters};

pub(crate) use give::{Giver, Handed};
pub(crate) use take::{Predecessor, finish, take};

/// How long the new process may prepare itself; the old one forwards meanwhile.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);
/// How long either waits for the other while frames rest.
const HELD_LIMIT: Duration = Duration::from_secs(1);

/// Finds one of a port's counters.
type CounterOf = fn(&PortCounters) -> &Counter;

/// The counters of a port that go on, by the names they are handed over with.
const COUNTERS: [(&str, CounterOf); 9] = [
    ("rx_frames", |c| &c.rx_frames),
    ("rx_bytes", |c| &c.rx_bytes),
    ("tx_frames", |c| &c.tx_frames),
    ("tx_bytes", |c| &c.tx_bytes),
    ("copies", |c| &c.copies),
    ("punted", |c| &c.punted),
    ("injected", |c| &c.injected),
    ("kicks", |c| &c.kicks),
    ("calls", |c| &c.calls),
];

/// Nanoseconds of the monotonic clock, which all processes share.
fn now_ns() -> u64 {
    crate::bridges::now().as_nanos() as u64
}

/// Descriptors that came with a state, each taken once.
pub(crate) struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    fn new(fds: Vec<OwnedFd>) -> Descriptors {
        Descriptors(fds.into_iter().map(Some).collect())
    }

    /// Takes one.
    ///
    /// # Errors
    /// It isn't there, or has been taken.
    pub fn take(&mut self, number: usize) -> anyhow::Result<OwnedFd> {
        let fd = self.0.get_mut(number).and_then(Option::take);
        fd.ok_or_else(|| anyhow::anyhow!("descriptor {number} of the state is missing or used twice"))
    }

    /// Takes some that lie together.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_range(&mut self, first: usize, count: usize) -> anyhow::Result<Vec<OwnedFd>> {
        (0..count.min(self.0.len() + 1)).map(|i| self.take(first.saturating_add(i))).collect()
    }
}
