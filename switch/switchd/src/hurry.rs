//! Threads that come before all others for a moment.

use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::{Pid, gettid};

/// The highest priority of an ordinary thread (setpriority(2)).
const FIRST: i32 = -20;

/// A thread comes before everything else on its core until this is dropped, by any thread, where the process may ask
/// for that (CAP_SYS_NICE). While frames rest, each wait for another thread would otherwise cost a time slice.
pub(crate) struct Hurry {
    thread: Pid,
    before: Option<i32>,
}

impl Hurry {
    /// Begins, for the calling thread.
    pub fn start() -> Hurry {
        let thread = gettid();
        let before = getpriority_process(Some(thread)).ok();
        let hurries = setpriority_process(Some(thread), FIRST).is_ok();
        Hurry { thread, before: before.filter(|_| hurries) }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Less is always allowed; a thread that has ended needs nothing.
            let _ = setpriority_process(Some(self.thread), before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_back_what_it_had() {
        let priority = || getpriority_process(Some(gettid())).unwrap();
        let before = priority();
        let hurry = Hurry::start();
        if hurry.before.is_some() {
            assert_eq!(priority(), FIRST);
        }
        drop(hurry);
        assert_eq!(priority(), before);
    }
}
