//! One queue's io_uring: what was given to it and what came back.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use port::QueueFault;

/// The offset of requests on what has no positions.
pub(crate) const CURRENT_POSITION: u64 = u64::MAX;

/// Marks the readiness poll's completion; other requests have smaller tags.
const POLL: u64 = u64::MAX;
/// Marks the completion of the poll's removal.
const REMOVAL: u64 = u64::MAX - 1;

/// How long a queue that is dropped waits for the kernel to let go of its requests, and how often.
const SETTLE_WAIT: Timespec = Timespec::new().nsec(50_000_000);
const SETTLE_TRIES: usize = 4;

pub(crate) struct Ring {
    uring: IoUring,
    queue: Arc<OwnedFd>,
    /// Requests in the submission queue that the kernel has not seen.
    unsubmitted: usize,
    /// Requests the kernel has seen and not completed, the poll included.
    in_flight: usize,
    /// Whether the poll is one of either.
    armed: bool,
}

impl Ring {
    /// Makes a ring for `entries` requests on `queue`, which must be non-blocking.
    ///
    /// Completions may reach any thread (no `SINGLE_ISSUER`, no `DEFER_TASKRUN`, no `COOP_TASKRUN`): control
    /// makes the queue and moves it from worker to worker.
    pub fn new(queue: Arc<OwnedFd>, entries: u32) -> io::Result<Ring> {
        let uring = IoUring::builder().dontfork().build(entries)?;
        // Bounded waits need this one; Linux 5.11.
        if !uring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Ring { uring, queue, unsubmitted: 0, in_flight: 0, armed: false })
    }

    /// The descriptor, for requests.
    pub fn fd(&self) -> Fd {
        Fd(self.queue.as_raw_fd())
    }

    /// The descriptor, for others.
    pub fn queue(&self) -> &OwnedFd {
        &self.queue
    }

    /// Whether the queue's readiness is being waited for (or nobody has looked at the answer yet).
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Whether the kernel holds, or is about to be given, no request but the poll.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.unsubmitted + self.in_flight == usize::from(self.armed)
    }

    /// Requests waiting for [`submit`](Self::submit).
    #[inline]
    pub fn unsubmitted(&self) -> usize {
        self.unsubmitted
    }

    /// Requests the submission queue has room for.
    #[inline]
    pub fn room(&self) -> usize {
        self.uring.params().sq_entries() as usize - self.unsubmitted
    }

    /// Adds a request.
    ///
    /// # Panics
    /// When there is no [`room`](Self::room).
    ///
    /// # Safety
    /// The memory the request names must stay mapped, and be used by nobody else in a way that conflicts with
    /// the request, until its completion was [reaped](Self::reap) or [`settle`](Self::settle) said so. `tag`
    /// must be below `u32::MAX`.
    #[inline]
    pub unsafe fn push(&mut self, request: squeue::Entry, tag: u32) {
        // SAFETY: passed on to the caller.
        unsafe { self.push_tagged(request.user_data(u64::from(tag))) }
    }

    /// # Safety
    /// As [`push`](Self::push).
    #[inline]
    unsafe fn push_tagged(&mut self, request: squeue::Entry) {
        // SAFETY: passed on to the caller.
        let pushed = unsafe { self.uring.submission().push(&request) };
        assert!(pushed.is_ok(), "requests are counted against the room there is");
        self.unsubmitted += 1;
    }

    /// Adds the readiness poll, unless it is there.
    #[inline]
    pub fn arm(&mut self) {
        if !self.armed {
            let poll = opcode::PollAdd::new(self.fd(), libc::POLLIN as u32).build().user_data(POLL);
            // SAFETY: a poll names no memory.
            unsafe { self.push_tagged(poll) };
            self.armed = true;
        }
    }

    /// Hands all requests to the kernel: one system call, none when there is no request.
    ///
    /// # Errors
    /// The ring is broken. A kernel short of memory for requests is none: they wait for the next call.
    #[inline]
    pub fn submit(&mut self) -> Result<(), QueueFault> {
        if self.unsubmitted == 0 {
            return Ok(());
        }
        match self.uring.submit() {
            Ok(accepted) => {
                self.accepted(accepted);
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                code => Err(QueueFault { what: "io_uring_enter failed", value: code.unwrap_or(0) as u64 }),
            },
        }
    }

    fn accepted(&mut self, requests: usize) {
        self.unsubmitted = self.unsubmitted.saturating_sub(requests);
        self.in_flight += requests;
    }

    /// Forgets the requests that the kernel has not seen, after [`submit`](Self::submit) failed for good, and
    /// returns how many there were.
    pub fn abandon(&mut self) -> usize {
        std::mem::take(&mut self.unsubmitted)
    }

    /// Passes tag and result of each completed request to `done`, in the order of completion. No system call.
    #[inline]
    pub fn reap(&mut self, mut done: impl FnMut(u32, i32)) {
        for entry in self.uring.completion() {
            self.in_flight -= 1;
            match entry.user_data() {
                POLL => self.armed = false,
                REMOVAL => {}
                tag => done(tag as u32, entry.result()),
            }
        }
    }

    /// Takes the poll back and waits, a bounded time, until the kernel holds no request. Returns whether it lets
    /// go of all memory.
    ///
    /// Without this a closed ring would hold the device open until the kernel gets around to clear it up.
    pub fn settle(&mut self) -> bool {
        if self.armed && self.room() > 0 {
            let removal = opcode::PollRemove::new(POLL).build().user_data(REMOVAL);
            // SAFETY: a removal names no memory.
            unsafe { self.push_tagged(removal) };
        }
        for _ in 0..SETTLE_TRIES {
            // What was never submitted is nothing to the kernel; only a poll's removal has to get there.
            if self.armed && self.submit().is_err() {
                break;
            }
            self.reap(|_, _| {});
            if self.in_flight == 0 {
                return true;
            }
            let wait = SubmitArgs::new().timespec(&SETTLE_WAIT);
            // A time-out or an interruption just uses up a try.
            if let Ok(accepted) = self.uring.submitter().submit_with_args(1, &wait) {
                self.accepted(accepted);
            }
            self.reap(|_, _| {});
        }
        self.in_flight == 0
    }
}
