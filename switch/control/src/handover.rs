//! Notes with file descriptors, between a running switch and its successor.
//!
//! They follow the answer to [`Request::TakeOver`](crate::Request::TakeOver) on the same connection:
//!
//! ```text
//!   successor            running switch
//!      | take-over ----------> |          as a line, answered by a line; notes from here on
//!      | <------------- State  |          it goes on forwarding
//!      |                       |          (the successor prepares everything that is slow)
//!      | Ready --------------> |          it holds its workers
//!      | <-------------- Held  |          the state again: now exact
//!      | Accept -------------> |          the successor could go on at once
//!      | <------------- Yours  |          from here on the switch is the successor's
//!      | <------ (end of file) |          the old process has let go of everything
//! ```
//!
//! Either side may send `Failed` with the reason, or hang up, before `Yours`: then the old switch goes on.
//!
//! A note is a header of 12 bytes (kind, three zeros, length of its text, number of descriptors; little endian), its
//! text, and for each 64 descriptors a zero byte that carries them. A state is too large for a socket's buffer: it
//! lies in an anonymous file, the first descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::client::{ClientError, unreachable};
use crate::protocol::{Answer, REQUEST_BYTES_MAX, Request, RequestLine, ResponseLine, ResultLine, VERSION};

/// Bytes of a note's text at most.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Descriptors of a note at most.
pub const DESCRIPTORS_MAX: usize = 1 << 16;

const HEADER_BYTES: usize = 12;
/// Descriptors that go with one byte; the kernel takes up to 253 (`SCM_MAX_FD`).
const CHUNK: usize = 64;

/// What a note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NoteKind {
    /// The switch, while it runs.
    State = 1,
    /// The successor has prepared everything.
    Ready = 2,
    /// The switch, standing still.
    Held = 3,
    /// The successor can go on; its text has the names of the ports it goes on with, a line each.
    Accept = 4,
    /// It may.
    Yours = 5,
    /// It can't, or may not; the text says why.
    Failed = 6,
}

impl NoteKind {
    const ALL: [NoteKind; 6] = [
        NoteKind::State,
        NoteKind::Ready,
        NoteKind::Held,
        NoteKind::Accept,
        NoteKind::Yours,
        NoteKind::Failed,
    ];
}

/// A note.
#[derive(Debug)]
pub struct Note {
    /// What it says.
    pub kind: NoteKind,
    /// Its text.
    pub text: String,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Note {
    /// A note without descriptors.
    pub fn new(kind: NoteKind, text: impl Into<String>) -> Note {
        Note { kind, text: text.into(), fds: vec![] }
    }

    /// A note with a state, and the descriptors it names.
    ///
    /// # Errors
    /// No memory, or no descriptors left.
    pub fn with_state(kind: NoteKind, state: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<Note> {
        let file = std::fs::File::from(rustix::fs::memfd_create("switch-state", MemfdFlags::CLOEXEC)?);
        file.write_all_at(state, 0)?;
        fds.insert(0, file.into());
        Ok(Note { kind, text: String::new(), fds })
    }

    /// The state that came with the note, at most `bytes_max` long, and the descriptors it names.
    ///
    /// # Errors
    /// There is none, it is too long, or can't be read.
    pub fn into_state(mut self, bytes_max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        if self.fds.is_empty() {
            return Err(damaged("a note without its state"));
        }
        let file = std::fs::File::from(self.fds.remove(0));
        let len = file.metadata()?.len();
        if len > bytes_max as u64 {
            return Err(damaged("a state that is too long"));
        }
        let mut state = vec![0; len as usize];
        file.read_exact_at(&mut state, 0)?;
        Ok((state, self.fds))
    }

    /// Sends the note.
    ///
    /// # Errors
    /// The other end has gone.
    pub async fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let mut text = self.text.as_str();
        if text.len() > TEXT_BYTES_MAX {
            text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        }
        let mut bytes = vec![self.kind as u8, 0, 0, 0];
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend((self.fds.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        stream.write_all(&bytes).await?;
        for chunk in self.fds.chunks(CHUNK) {
            stream.async_io(Interest::WRITABLE, || send_chunk(stream.as_fd(), chunk)).await?;
        }
        Ok(())
    }

    /// Waits for a note.
    ///
    /// # Errors
    /// The other end has gone, or sends something else.
    pub async fn receive(stream: &mut UnixStream) -> io::Result<Note> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
        };
        let kind = NoteKind::ALL.into_iter().find(|&kind| kind as u8 == header[0]);
        let (Some(kind), text_len, count) = (kind, number(4), number(8)) else {
            return Err(damaged("a note of an unknown kind"));
        };
        if text_len > TEXT_BYTES_MAX || count > DESCRIPTORS_MAX {
            return Err(damaged("a note that is too long"));
        }
        let mut text = vec![0; text_len];
        stream.read_exact(&mut text).await?;
        let text = String::from_utf8(text).map_err(|_| damaged("a note that is no text"))?;
        let mut fds = Vec::new();
        while fds.len() < count {
            let expected = (count - fds.len()).min(CHUNK);
            let chunk = stream.async_io(Interest::READABLE, || receive_chunk(stream.as_fd())).await?;
            if chunk.len() != expected {
                return Err(damaged("a note without its descriptors"));
            }
            fds.extend(chunk);
        }
        Ok(Note { kind, text, fds })
    }
}

/// Asks the switch at `path` to hand itself over to this process, which reads states of the versions `oldest` to
/// `newest`. Notes follow on the connection that is returned.
///
/// # Errors
/// No switch is there, or it refuses.
pub async fn ask(path: &Path, oldest: u32, newest: u32) -> Result<UnixStream, ClientError> {
    let lost = |cause| ClientError::Lost { path: path.to_owned(), cause };
    let mut stream = UnixStream::connect(path).await.map_err(|cause| unreachable(path, cause))?;
    let line = RequestLine { version: VERSION, id: 1, request: Request::TakeOver { oldest, newest } };
    let mut bytes = serde_json::to_vec(&line).expect("requests can be written as JSON");
    bytes.push(b'\n');
    // Who may not ask is told so and hung up on, which may be before the request is sent.
    let mut not_sent = stream.write_all(&bytes).await.err();
    // Byte by byte: what follows the line is a note, whose descriptors would be lost.
    let mut line = vec![];
    while line.last() != Some(&b'\n') {
        if line.len() > REQUEST_BYTES_MAX {
            return Err(ClientError::Garbled { path: path.to_owned(), what: "a line without end".into() });
        }
        let byte = stream.read_u8().await;
        line.push(byte.map_err(|cause| lost(not_sent.take().unwrap_or(cause)))?);
    }
    let response: ResponseLine = serde_json::from_slice(&line)
        .map_err(|error| ClientError::Garbled { path: path.to_owned(), what: error.to_string() })?;
    match response.result {
        ResultLine::Ok(Answer::HandOver { .. }) => Ok(stream),
        ResultLine::Ok(_) => {
            Err(ClientError::Garbled { path: path.to_owned(), what: "another answer".into() })
        }
        ResultLine::Error(refusal) => Err(refusal.into()),
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn send_chunk(stream: BorrowedFd<'_>, chunk: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = chunk.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "a chunk has room");
    let part = [io::IoSlice::new(&[0])];
    rustix::net::sendmsg(stream, &part, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

fn receive_chunk(stream: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut part = [io::IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(stream, &mut part, &mut control, flags)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = vec![];
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(fds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn notes_arrive_with_state_and_descriptors_in_order() {
        block_on(async {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            let (marked, _other) = std::io::pipe().unwrap();
            let mut fds: Vec<OwnedFd> = (0..150).map(|_| null()).collect();
            fds[70] = marked.into();
            let state = vec![7; 1 << 20];
            let note = Note::with_state(NoteKind::Held, &state, fds).unwrap();
            let (sent, received) = tokio::join!(note.send(&mut a), Note::receive(&mut b));
            sent.unwrap();
            let (received, fds) = received.unwrap().into_state(1 << 20).unwrap();
            assert_eq!(received, state);
            let is_pipe =
                |fd: &OwnedFd| rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_mode & 0o170000 == 0o010000);
            assert_eq!(fds.iter().map(is_pipe).filter(|&p| p).count(), 1);
            assert!(fds.len() == 150 && is_pipe(&fds[70]));
            Note::new(NoteKind::Accept, "vm0\nvm1").send(&mut b).await.unwrap();
            let note = Note::receive(&mut a).await.unwrap();
            assert_eq!((note.kind, note.text.as_str(), note.fds.len()), (NoteKind::Accept, "vm0\nvm1", 0));
        });
    }

    #[test]
    fn what_is_no_note_is_an_error() {
        let headers: [&[u8]; 4] = [
            &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255],
            // A descriptor is announced, a byte comes alone.
            &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        ];
        for header in headers {
            block_on(async {
                let (mut a, mut b) = UnixStream::pair().unwrap();
                a.write_all(header).await.unwrap();
                assert_eq!(Note::receive(&mut b).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
            });
        }
    }

    #[test]
    fn a_state_is_bounded_and_must_be_there() {
        let long = Note::with_state(NoteKind::State, &[0; 100], vec![]).unwrap();
        assert!(long.into_state(99).is_err());
        assert!(Note::new(NoteKind::State, "").into_state(99).is_err());
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut() {
        block_on(async {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            let note = Note::new(NoteKind::Failed, "ä".repeat(TEXT_BYTES_MAX));
            let (sent, received) = tokio::join!(note.send(&mut a), Note::receive(&mut b));
            sent.unwrap();
            assert_eq!(received.unwrap().text.len(), TEXT_BYTES_MAX);
        });
    }
}
