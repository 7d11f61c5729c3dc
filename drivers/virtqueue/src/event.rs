//! Event descriptors: kicks from the driver, calls to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An eventfd, never blocking.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Takes a descriptor that a peer sent.
    ///
    /// # Errors
    /// It is a file, pipe or socket, on which a worker could be made to wait, or can't be made non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<EventFd> {
        // SAFETY: fstat fills the structure it is given, for which all zeros is a valid value.
        let kind = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd.as_raw_fd(), &mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat.st_mode & libc::S_IFMT
        };
        // Anonymous inodes, which eventfds are, have no file type.
        if kind != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an event descriptor"));
        }
        // SAFETY: plain system calls on our own descriptor.
        let set = unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(EventFd(fd))
    }

    /// Makes one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create() -> io::Result<EventFd> {
        // SAFETY: eventfd returns a new descriptor that nobody else owns.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(EventFd(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// A second descriptor for the same event, to be sent to a peer.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<EventFd> {
        self.0.try_clone().map(EventFd)
    }

    /// Makes it readable. A full counter is readable already, so failure means nothing.
    #[inline]
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes the eight bytes of a local.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Makes it unreadable and returns whether it was readable.
    #[inline]
    pub fn drain(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a local.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) == 8 }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> OwnedFd {
        event.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_readable_once_after_any_number_of_signals() {
        let event = EventFd::create().unwrap();
        assert!(!event.drain());
        event.signal();
        event.try_clone().unwrap().signal();
        assert!(event.drain());
        assert!(!event.drain());
    }

    #[test]
    fn refuses_what_a_worker_could_be_made_to_wait_for() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(EventFd::new(writer.into()).is_err());
        assert!(EventFd::new(reader.into()).is_err());
        assert!(EventFd::new(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }

    #[test]
    fn a_saturated_event_does_not_block() {
        let event = EventFd::create().unwrap();
        let max = u64::MAX - 1;
        // SAFETY: writes the eight bytes of a local.
        let written = unsafe { libc::write(event.0.as_raw_fd(), (&raw const max).cast(), 8) };
        assert_eq!(written, 8);
        event.signal();
        assert!(event.drain());
    }
}
