//! The client's end: blocking, one request at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::{
    Answer, RESPONSE_BYTES_MAX, Refusal, Request, RequestLine, ResponseLine, ResultLine, VERSION,
};

/// The switch answers within this, or the connection is given up.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no switch answers at {path}: is it running, and is this its control.socket?")]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is another user's.
    #[error("{path} may not be used by this user: try as the user that runs the switch, or as root")]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The switch said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke.
    #[error("the switch at {path} went away: {cause}")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// How.
        cause: io::Error,
    },
    /// What came is no response.
    #[error("what answers at {path} doesn't speak this protocol: {what}")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Why a connection can't be made.
pub(crate) fn unreachable(path: &Path, cause: io::Error) -> ClientError {
    let path = path.to_owned();
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path },
        io::ErrorKind::PermissionDenied => ClientError::Denied { path },
        _ => ClientError::Lost { path, cause },
    }
}

/// A connection to a switch.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    next_id: u64,
}

impl Client {
    /// Connects to the switch whose control socket is at `path`.
    ///
    /// # Errors
    /// No switch listens there, or this user may not connect.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let connect = || -> io::Result<UnixStream> {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        match connect() {
            Ok(stream) => Ok(Client { stream: BufReader::new(stream), path: path.to_owned(), next_id: 1 }),
            Err(cause) => Err(unreachable(path, cause)),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The switch refuses, or the connection breaks.
    pub fn call(&mut self, request: Request) -> Result<Answer, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let line = RequestLine { version: VERSION, id, request };
        let mut bytes = serde_json::to_vec(&line).expect("requests can be written as JSON");
        bytes.push(b'\n');
        let sent = self.stream.get_mut().write_all(&bytes);
        // Who may not ask is told so and hung up on, which may be before the request is sent.
        let response = match (sent, self.read_line()) {
            (_, Ok(line)) => line,
            (Err(cause), Err(_)) => return Err(self.lost(cause)),
            (Ok(()), Err(error)) => return Err(error),
        };
        let response: ResponseLine =
            serde_json::from_slice(&response).map_err(|error| self.garbled(error.to_string()))?;
        // A line that couldn't be read as a request is answered without its id.
        if response.id != id && response.id != 0 {
            return Err(self.garbled(format!("an answer to request {}, not {id}", response.id)));
        }
        match response.result {
            ResultLine::Ok(answer) => Ok(answer),
            ResultLine::Error(refusal) => Err(refusal.into()),
        }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let limit = RESPONSE_BYTES_MAX as u64 + 1;
        let read = (&mut self.stream).take(limit).read_until(b'\n', &mut line);
        read.map_err(|cause| self.lost(cause))?;
        if line.pop() == Some(b'\n') {
            return Ok(line);
        }
        if line.len() >= RESPONSE_BYTES_MAX {
            return Err(self.garbled(format!("a line of more than {RESPONSE_BYTES_MAX} bytes")));
        }
        Err(self.lost(io::ErrorKind::UnexpectedEof.into()))
    }

    fn lost(&self, cause: io::Error) -> ClientError {
        ClientError::Lost { path: self.path.clone(), cause }
    }

    fn garbled(&self, what: String) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), what }
    }
}
