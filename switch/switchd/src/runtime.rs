//! The seam to the async runtime of the control thread.
//!
//! tokio-uring drives it where the kernel allows io_uring: a current-thread tokio runtime with one ring. Where it
//! doesn't (containers often filter the system call), plain current-thread tokio takes its place. Sockets go
//! through tokio's readiness in both, because vhost-user messages carry file descriptors, which tokio-uring's
//! sockets can't receive; so nothing else in the crate knows which of the two runs.

use std::future::Future;

/// Which runtime drives the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// tokio-uring.
    Uring,
    /// tokio alone.
    Epoll,
}

/// Runs a future, and the tasks it spawns with `tokio::task::spawn_local`, to its end.
///
/// # Errors
/// No file descriptors for a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<(Runtime, T)> {
    let local = tokio::task::LocalSet::new();
    if uring_works() {
        return Ok((Runtime::Uring, tokio_uring::start(local.run_until(future))));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok((Runtime::Epoll, runtime.block_on(local.run_until(future))))
}

/// tokio-uring panics where it can't make a ring, so one is tried first.
pub fn uring_works() -> bool {
    io_uring::IoUring::new(8).is_ok()
}
