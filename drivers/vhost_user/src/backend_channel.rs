//! The channel on which the back-end asks the front-end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::codec::{Decoder, Outgoing};
use crate::message::{BackendCode, Header};
use crate::socket::{self, ReceiveError, Received};

/// Makes both ends of a channel: the back-end's descriptor (to be sent with `SET_BACKEND_REQ_FD`) and the
/// front-end's handle.
///
/// # Errors
/// No more descriptors.
pub fn channel_pair() -> io::Result<(OwnedFd, FrontendChannel)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((theirs.into(), FrontendChannel { socket: ours, decoder: Decoder::new() }))
}

/// The back-end's end. Never blocks: a front-end that doesn't read its channel loses requests, not us.
#[derive(Debug)]
pub struct BackendChannel {
    socket: UnixStream,
}

impl BackendChannel {
    /// Wraps the descriptor received with `SET_BACKEND_REQ_FD`.
    ///
    /// # Errors
    /// It can't be made non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let socket = UnixStream::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Tells the front-end that configuration space has changed. It will read it.
    ///
    /// # Errors
    /// The channel is full or closed. A request is smaller than a socket's smallest unit, so none is sent in part.
    pub fn config_changed(&self) -> io::Result<()> {
        socket::send(
            &self.socket,
            &Outgoing::<OwnedFd>::new(BackendCode::CONFIG_CHANGE_MSG.0, 0, &[], vec![]),
        )
    }
}

impl AsFd for BackendChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a back-end asks.
#[derive(Debug, PartialEq, Eq)]
pub enum BackendRequest {
    /// Configuration space has changed.
    ConfigChanged,
    /// Something else, refused if it wants an answer.
    Other(BackendCode),
}

/// The front-end's end; non-blocking.
#[derive(Debug)]
pub struct FrontendChannel {
    socket: UnixStream,
    decoder: Decoder,
}

impl FrontendChannel {
    /// The next request, `None` when there is none now. Answers it where an answer is wanted.
    ///
    /// # Errors
    /// The channel is broken or closed.
    pub fn next_request(&mut self) -> Result<Option<BackendRequest>, ReceiveError> {
        let message = match socket::receive(&self.socket, &mut self.decoder)? {
            Received::Message(message) => message,
            Received::WouldBlock => return Ok(None),
            Received::Closed => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        };
        let request = match BackendCode(message.header.code) {
            BackendCode::CONFIG_CHANGE_MSG => BackendRequest::ConfigChanged,
            other => BackendRequest::Other(other),
        };
        if message.header.flags & Header::NEED_REPLY != 0 {
            let refused = u64::from(request != BackendRequest::ConfigChanged);
            let reply =
                Outgoing::<OwnedFd>::new(message.header.code, Header::REPLY, &refused.to_ne_bytes(), vec![]);
            socket::send(&self.socket, &reply)?;
        }
        Ok(Some(request))
    }
}

impl AsFd for FrontendChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_change_arrives_and_a_closed_channel_is_noticed() {
        let (fd, mut front) = channel_pair().unwrap();
        let back = BackendChannel::new(fd).unwrap();
        assert!(front.next_request().unwrap().is_none());
        back.config_changed().unwrap();
        assert_eq!(front.next_request().unwrap(), Some(BackendRequest::ConfigChanged));
        drop(back);
        assert!(front.next_request().is_err());
    }

    #[test]
    fn a_front_end_that_never_reads_does_not_block_the_back_end() {
        let (fd, _front) = channel_pair().unwrap();
        let back = BackendChannel::new(fd).unwrap();
        let error = (0..1_000_000).find_map(|_| back.config_changed().err()).expect("full at last");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
