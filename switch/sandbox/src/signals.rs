//! Signals to the process: which of its threads they interrupt.

use std::io;
use std::mem::MaybeUninit;

/// What operators, service managers and other processes send to the process as a whole. Not in it: what a thread causes
/// itself (faults, refused system calls), and real-time signals, by which threads interrupt each other.
const TO_THE_PROCESS: [libc::c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGCHLD,
];

/// Leaves signals to the process to its other threads. The kernel lets any thread handle them that doesn't block them,
/// and handlers wake an event loop by a call that this thread is about to give up: the signal would be lost.
pub(crate) fn leave_to_others() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: they write to the set they are given, which all zeros are a value of, and know each of the signals.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        TO_THE_PROCESS.iter().for_each(|&signal| {
            libc::sigaddset(set.as_mut_ptr(), signal);
        });
        set.assume_init()
    };
    // SAFETY: the set is there, and the former one isn't asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
