//! The other side of a machine's control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::protocol::{Answer, LINE_MAX, Request, Status};

/// Why a machine can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("nobody listens at {path}")]
    Absent {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the machine's control socket: {0}")]
    Io(#[from] io::Error),
    /// It said something that isn't an answer.
    #[error("the machine's answer makes no sense: {0}")]
    Answer(#[from] serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It answered something else.
    #[error("the machine answered something else")]
    Mismatch,
}

/// A connection to a machine's control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ClientError::Absent { path: path.to_owned(), source })?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Waits for answers so long at most; without end if `None`.
    ///
    /// # Errors
    /// A timeout of zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        Ok(self.stream.get_ref().set_read_timeout(timeout)?)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The connection fails, or the machine refuses.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        (&mut self.stream).take(LINE_MAX as u64).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_slice(&answer)? {
            Answer::Refused(why) => Err(ClientError::Refused(why)),
            answer => Ok(answer),
        }
    }

    /// Asks what the machine is and does.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Show)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(ClientError::Mismatch),
        }
    }

    /// Becomes the console: what the guest writes can be read, what is written is typed.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn console(self) -> Result<BufReader<UnixStream>, ClientError> {
        self.become_console(&Request::Console)
    }

    /// As [`console`](Self::console), for the console that is a virtio device.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); the machine has none.
    pub fn virtio_console(self) -> Result<BufReader<UnixStream>, ClientError> {
        self.become_console(&Request::VirtioConsole)
    }

    fn become_console(mut self, request: &Request) -> Result<BufReader<UnixStream>, ClientError> {
        match self.ask(request)? {
            Answer::Done => Ok(self.stream),
            _ => Err(ClientError::Mismatch),
        }
    }
}
