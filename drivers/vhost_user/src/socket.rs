//! Bytes and descriptors through a Unix socket.
//!
//! Works on blocking and non-blocking sockets alike; on the latter "would block" is an outcome, not an error.
//! Received descriptors are close-on-exec, and every one of them has an owner from the first moment, so
//! none is left open whatever happens to the message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::codec::{DecodeError, Decoder, Message, Outgoing};
use crate::message::{FDS_MAX, HEADER_LEN, PAYLOAD_MAX};

/// What reading from the socket gave.
#[derive(Debug)]
pub enum Received {
    /// A whole message.
    Message(Message),
    /// Nothing more for now.
    WouldBlock,
    /// The peer closed the connection between two messages.
    Closed,
}

/// Reading has come to an end.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream isn't vhost-user.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More descriptors were sent than there is room for.
    #[error("file descriptors were lost: more than {FDS_MAX} at once, or none left in this process")]
    Truncated,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// Reads until a message is complete or nothing is left to read.
///
/// # Errors
/// The connection is of no further use.
pub fn receive(socket: impl AsFd, decoder: &mut Decoder) -> Result<Received, ReceiveError> {
    let mut buf = [0; PAYLOAD_MAX];
    loop {
        let want = decoder.wanted().min(PAYLOAD_MAX);
        let (n, fds) = match receive_some(socket.as_fd(), &mut buf[..want]) {
            Ok(got) => got,
            Err(ReceiveError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Received::WouldBlock);
            }
            Err(e) => return Err(e),
        };
        if n == 0 {
            decoder.end()?;
            return Ok(Received::Closed);
        }
        if let Some(message) = decoder.feed(&buf[..n], fds)? {
            return Ok(Received::Message(message));
        }
    }
}

fn receive_some(socket: BorrowedFd<'_>, buf: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ReceiveError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut io = [IoSliceMut::new(buf)];
        match recvmsg(socket, &mut io, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => break Ok(0),
            other => {
                break other
                    .map(|m| if m.flags.contains(ReturnFlags::CTRUNC) { usize::MAX } else { m.bytes });
            }
        }
    }
    .map_err(io::Error::from)?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if got == usize::MAX {
        return Err(ReceiveError::Truncated);
    }
    Ok((got, fds))
}

/// Sends part of a message: `bytes`, of which the first carries `fds`. Returns how many bytes went out; when
/// it is not 0, the descriptors did too.
///
/// # Errors
/// As the system call; `WouldBlock` on a full non-blocking socket.
pub fn send_some(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "{} file descriptors in one message", fds.len());
    }
    loop {
        match sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A message on its way out through a socket that may take it in pieces.
#[derive(Debug)]
pub struct Sending {
    message: Outgoing,
    sent: usize,
}

impl Sending {
    /// Nothing is sent yet.
    pub fn new(message: Outgoing) -> Self {
        Self { message, sent: 0 }
    }

    /// Sends what the socket takes. Returns whether the message is out.
    ///
    /// # Errors
    /// As the system call, except that "would block" is `false`.
    pub fn proceed(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while self.sent < self.message.bytes.len() {
            let fds: Vec<BorrowedFd<'_>> =
                if self.sent == 0 { self.message.fds.iter().map(AsFd::as_fd).collect() } else { vec![] };
            match send_some(socket.as_fd(), &self.message.bytes[self.sent..], &fds) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// Sends a whole message through a blocking socket.
///
/// # Errors
/// As the system call.
pub fn send<F: AsFd>(socket: impl AsFd, message: &Outgoing<F>) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = message.fds.iter().map(AsFd::as_fd).collect();
    let mut sent = send_some(socket.as_fd(), &message.bytes, &fds)?;
    while sent < message.bytes.len() {
        sent += send_some(socket.as_fd(), &message.bytes[sent..], &[])?;
    }
    Ok(())
}

const _: () = assert!(HEADER_LEN <= PAYLOAD_MAX);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;
    use crate::{Request, VringFile};

    fn eventfd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd")
    }

    fn request(socket: &UnixStream, decoder: &mut Decoder) -> Request {
        match receive(socket, decoder).expect("a message") {
            Received::Message(message) => Request::parse(message).expect("a valid one"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_sent_back_to_back_keep_their_own_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        for index in 0..3 {
            send(&a, &Request::<OwnedFd>::SetFeatures(u64::from(index)).encode(false)).unwrap();
            let file = VringFile { index, fd: Some(eventfd()) };
            send(&a, &Request::SetVringKick(file).encode(false)).unwrap();
        }
        let mut decoder = Decoder::new();
        for index in 0..3 {
            assert_eq!(request(&b, &mut decoder).encode(false).fds.len(), 0);
            let Request::SetVringKick(VringFile { index: i, fd: Some(fd) }) = request(&b, &mut decoder)
            else {
                panic!("a kick")
            };
            assert_eq!(i, index);
            assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
        }
        drop(a);
        assert!(matches!(receive(&b, &mut decoder), Ok(Received::Closed)));
    }

    #[test]
    fn a_message_arriving_byte_by_byte_is_waited_for_without_blocking() {
        let (a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let mut decoder = Decoder::new();
        let message = Request::SetVringKick(VringFile { index: 1, fd: Some(eventfd()) }).encode(false);
        for (i, byte) in message.bytes.iter().enumerate() {
            assert!(matches!(receive(&b, &mut decoder), Ok(Received::WouldBlock)));
            let fds = if i == 0 { vec![message.fds[0].as_fd()] } else { vec![] };
            send_some(&a, std::slice::from_ref(byte), &fds).unwrap();
        }
        assert!(matches!(
            request(&b, &mut decoder),
            Request::SetVringKick(VringFile { index: 1, fd: Some(_) })
        ));
    }

    #[test]
    fn hanging_up_in_mid_message_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let message = Request::<OwnedFd>::SetFeatures(0).encode(false);
        send_some(&a, &message.bytes[..15], &[]).unwrap();
        drop(a);
        let mut decoder = Decoder::new();
        let error = receive(&b, &mut decoder).unwrap_err();
        assert!(matches!(error, ReceiveError::Decode(DecodeError::CutShort(15))), "{error}");
    }

    #[test]
    fn more_descriptors_than_there_is_room_for_are_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let fd = eventfd();
        let fds: Vec<BorrowedFd<'_>> = (0..FDS_MAX * 2).map(|_| fd.as_fd()).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX * 2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&a, &[IoSlice::new(&[1, 0, 0, 0])], &mut control, SendFlags::empty()).unwrap();
        assert!(matches!(receive(&b, &mut Decoder::new()), Err(ReceiveError::Truncated)));
    }

    #[test]
    fn a_message_larger_than_the_socket_takes_at_once_goes_out_in_pieces() {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let mut sent = 0;
        let mut sending = Sending::new(Request::SetLogFd(eventfd()).encode(false));
        while sending.proceed(&a).unwrap() {
            sent += 1;
            sending = Sending::new(Request::SetLogFd(eventfd()).encode(false));
        }
        let mut decoder = Decoder::new();
        for _ in 0..sent {
            assert!(matches!(request(&b, &mut decoder), Request::SetLogFd(_)));
        }
        while !sending.proceed(&a).unwrap() {}
        assert!(matches!(request(&b, &mut decoder), Request::SetLogFd(_)));
    }
}
