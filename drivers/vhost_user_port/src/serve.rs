//! The port's life around its socket: waiting, conversing, waiting again.
//!
//! Runs on a current-thread runtime (`spawn_local`). Everything but reading and writing is done in place, so a
//! message has had its effect before the next one is read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::time::Duration;

use port::QueueFault;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vhost_user::Decoder;
use vhost_user::socket::{self, ReceiveError, Received, Sending};

use crate::config::PortConfig;
use crate::host::{Direction, QueueHost};
use crate::session::{End, Refusal, Session};
use crate::socket_file::{SocketError, SocketFile, listen_at};
use crate::takeover::{ImportError, SessionState};

/// First wait before a client tries to connect again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait, after doubling.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketMode {
    /// This port; front-ends connect to it, one at a time.
    Server,
    /// The front-end; this port connects, again and again.
    Client,
}

/// A port's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSocket {
    /// Its file.
    pub path: PathBuf,
    /// Who listens.
    pub mode: SocketMode,
    /// Permission bits of the file in server mode; the umask's when not given.
    pub permissions: Option<u32>,
    /// The number of the user it belongs to in server mode; this process's own when not given.
    pub owner: Option<u32>,
}

/// How serving a port came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The port was [stopped](PortControl::stop), or nobody can control it any more.
    Stopped,
    /// A successor has the port: its connection and socket file live on.
    Released,
}

/// Why a port can't be handed over.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The process has no descriptor left.
    #[error("file descriptor: {0}")]
    Io(#[from] io::Error),
    /// A queue is lost.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The port isn't served any more.
    #[error("the port is gone")]
    Gone,
    /// The front-end doesn't read an answer that it has asked for.
    #[error("an answer to the front-end is under way")]
    Busy,
}

/// A port as a value: its session and sockets, by their place in the list of descriptors beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPort {
    /// The session. Its descriptors come first.
    pub session: SessionState,
    /// The connection to the front-end.
    pub socket: Option<usize>,
    /// The listening socket in server mode.
    pub listener: Option<usize>,
    /// Bytes of a message that has begun.
    pub begun: Vec<u8>,
    /// Its descriptors.
    pub begun_fds: Vec<usize>,
}

/// The open sockets that a port is served on: [listening](PortSocket::listen) anew, or
/// [taken over](SavedPort::import) from another process.
#[derive(Debug)]
pub struct Sockets {
    socket: Option<OwnedFd>,
    listener: Option<Listener>,
    decoder: Decoder,
}

#[derive(Debug)]
enum Listener {
    Made(StdListener, SocketFile),
    TakenOver(OwnedFd),
}

impl PortSocket {
    /// Opens what can be opened before a front-end is there: in server mode the listening socket. It closes, and its
    /// file goes, when the result is dropped.
    ///
    /// # Errors
    /// Somebody else listens there, another file is in the way, or the system refuses.
    pub fn listen(&self) -> Result<Sockets, SocketError> {
        let listener = match self.mode {
            SocketMode::Server => {
                let (listener, file) = listen_at(&self.path, self.permissions, self.owner)?;
                Some(Listener::Made(listener, file))
            }
            SocketMode::Client => None,
        };
        Ok(Sockets { socket: None, listener, decoder: Decoder::new() })
    }
}

impl Sockets {
    /// Whether these bytes, and nothing else, have been read of a message that isn't complete.
    pub fn has_begun(&self, bytes: &[u8]) -> bool {
        self.decoder.parts().0 == bytes
    }
}

impl SavedPort {
    /// Goes on with a saved port: the session to prepare, and the sockets to give to [`serve`].
    ///
    /// # Errors
    /// The state is of another version, doesn't fit the configuration or is damaged.
    pub fn import(&self, config: PortConfig, fds: Vec<OwnedFd>) -> Result<(Session, Sockets), ImportError> {
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut take = |n: usize| fds.get_mut(n).and_then(Option::take).ok_or(ImportError::Descriptor(n));
        let socket = self.socket.map(&mut take).transpose()?;
        let listener = self.listener.map(&mut take).transpose()?.map(Listener::TakenOver);
        let begun = self.begun_fds.iter().map(|&n| take(n)).collect::<Result<Vec<_>, _>>()?;
        let decoder = Decoder::from_parts(&self.begun, begun)?;
        let session = Session::import(config, &self.session, fds.into_iter().map_while(|fd| fd).collect())?;
        if session.is_connected() != socket.is_some() {
            return Err(ImportError::NoSocket);
        }
        Ok((session, Sockets { socket, listener, decoder }))
    }
}

type Export = Result<(SavedPort, Vec<OwnedFd>), ExportError>;

#[derive(Debug)]
enum Command {
    SetLink(bool),
    SetMtu(u16),
    Fault { pair: u16, direction: Direction, fault: QueueFault },
    Export(oneshot::Sender<Export>),
    Suspend(oneshot::Sender<Export>),
    Resume,
    Settle(oneshot::Sender<()>),
    Release,
    Stop,
}

/// Steers a served port. Calls take effect in order; those to a port that is gone do nothing.
#[derive(Clone, Debug)]
pub struct PortControl {
    commands: mpsc::UnboundedSender<Command>,
}

/// The receiving end of a [`PortControl`], for [`serve`].
#[derive(Debug)]
pub struct Commands(mpsc::UnboundedReceiver<Command>);

/// Makes the two ends of a port's control.
pub fn control() -> (PortControl, Commands) {
    let (tx, rx) = mpsc::unbounded_channel();
    (PortControl { commands: tx }, Commands(rx))
}

impl PortControl {
    fn send(&self, command: Command) {
        // Nobody there: the port is gone, and with it what the command was about.
        let _ = self.commands.send(command);
    }

    /// Sets the link up or down.
    pub fn set_link(&self, up: bool) {
        self.send(Command::SetLink(up));
    }

    /// Changes the MTU that the guest is told.
    pub fn set_mtu(&self, mtu: u16) {
        self.send(Command::SetMtu(mtu));
    }

    /// Passes on what a worker found broken.
    pub fn queue_fault(&self, pair: u16, direction: Direction, fault: QueueFault) {
        self.send(Command::Fault { pair, direction, fault });
    }

    /// The port as a value; it keeps running.
    ///
    /// # Errors
    /// No descriptors left, or the port is gone.
    pub async fn export(&self) -> Export {
        self.ask(Command::Export).await
    }

    /// Takes all queues back, reads no more messages, and returns the port with exact positions.
    ///
    /// # Errors
    /// As [`export`](Self::export); then the port runs on.
    pub async fn suspend(&self) -> Export {
        self.ask(Command::Suspend).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Export>) -> Command) -> Export {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer));
        answered.await.unwrap_or(Err(ExportError::Gone))
    }

    /// Goes on after [`suspend`](Self::suspend).
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Waits until every call before this one has had its effect, or the port is gone.
    pub async fn settle(&self) {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Settle(answer));
        // An error says that the port is gone.
        let _ = answered.await;
    }

    /// Ends serving without a word to the front-end: a successor has the port. Only after
    /// [`suspend`](Self::suspend), so that no ring is served twice.
    pub fn release(&self) {
        self.send(Command::Release);
    }

    /// Ends serving: the connection is closed, the socket's file removed.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }
}

/// Serves a port until it is stopped or released. A session that was taken over [resumes](Session::resume) at once.
///
/// # Errors
/// The runtime refuses a descriptor. Nothing that a front-end does ends this function.
pub async fn serve(
    socket: PortSocket,
    session: Session,
    host: impl QueueHost,
    commands: Commands,
    sockets: Sockets,
) -> io::Result<Served> {
    let mut decoder = sockets.decoder;
    let stream = sockets.socket.map(stream_from).transpose()?;
    let listener = match sockets.listener {
        Some(Listener::Made(listener, file)) => Some((UnixListener::from_std(listener)?, file)),
        Some(Listener::TakenOver(fd)) => Some(listener_from(fd, &socket)?),
        None => None,
    };
    let (listener, file) = listener.unzip();
    let mut server = Server { session, host, commands: commands.0, socket, listener, suspended: false };
    let served = server.run(stream, &mut decoder).await;
    if served == Served::Released
        && let Some(file) = file
    {
        file.leave();
    }
    Ok(served)
}

fn stream_from(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn listener_from(fd: OwnedFd, socket: &PortSocket) -> io::Result<(UnixListener, SocketFile)> {
    let listener = StdListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok((UnixListener::from_std(listener)?, SocketFile::adopt(&socket.path)))
}

/// What a command asks of the loop it came in by.
enum Then {
    Continue,
    End(End),
    Leave(Served),
}

/// What the conversation is doing, to be told to a successor.
struct Conversation<'a> {
    stream: &'a UnixStream,
    decoder: &'a Decoder,
    /// An answer is not sent yet, or not all of it.
    answering: bool,
}

struct Server<H> {
    session: Session,
    host: H,
    commands: mpsc::UnboundedReceiver<Command>,
    socket: PortSocket,
    listener: Option<UnixListener>,
    suspended: bool,
}

impl<H: QueueHost> Server<H> {
    async fn run(&mut self, mut stream: Option<UnixStream>, decoder: &mut Decoder) -> Served {
        self.session.show(&mut self.host);
        if stream.is_some()
            && let Err(refusal) = self.session.resume(&mut self.host)
        {
            tracing::warn!(port = self.session.name(), %refusal, "a port taken over can't go on");
        }
        let mut backoff = Duration::ZERO;
        loop {
            let connected = match stream.take() {
                Some(stream) => stream,
                None => match self.connection(&mut backoff).await {
                    Ok(stream) => {
                        self.session.connected(&mut self.host);
                        stream
                    }
                    Err(served) => return served,
                },
            };
            let messages = self.session.messages;
            let ended = self.converse(&connected, decoder).await;
            *decoder = Decoder::new();
            match ended {
                Ok(served) => {
                    match served {
                        Served::Stopped => self.session.disconnected(&End::Closed, &mut self.host),
                        Served::Released => self.abandon(),
                    }
                    return served;
                }
                Err(end) => self.session.disconnected(&end, &mut self.host),
            }
            // A front-end that takes a connection and says nothing isn't there yet.
            backoff = if self.session.messages > messages { Duration::ZERO } else { longer(backoff) };
        }
    }

    /// Takes the queues back from the workers before they are dropped.
    fn abandon(&mut self) {
        if let Err(refusal) = self.session.suspend(&mut self.host) {
            tracing::warn!(port = self.session.name(), %refusal, "a queue was not given back");
        }
    }

    /// Waits for a front-end, however long it takes. A client waits `backoff` first, and longer after each failure.
    async fn connection(&mut self, backoff: &mut Duration) -> Result<UnixStream, Served> {
        // Connections, too, are paid for: a front-end that only connects and hangs up is slowed down.
        let mut not_before = Instant::now() + self.session.wait_to_read(std::time::Instant::now());
        if self.listener.is_none() {
            not_before += *backoff;
        }
        loop {
            let (listener, path) = (self.listener.as_ref(), &self.socket.path);
            let next = async {
                sleep_until(not_before).await;
                match listener {
                    Some(listener) => listener.accept().await.map(|(stream, _)| stream),
                    None => UnixStream::connect(path).await,
                }
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match self.command(command, None) {
                    Then::Continue | Then::End(_) => {}
                    Then::Leave(served) => return Err(served),
                },
                stream = next, if !self.suspended => match stream {
                    Ok(stream) => return Ok(stream),
                    // Nobody listens; or no descriptors are left, or the front-end was gone before it was accepted.
                    Err(error) => {
                        tracing::debug!(port = self.session.name(), %error, "no connection");
                        *backoff = longer(*backoff);
                        not_before = Instant::now() + *backoff;
                    }
                },
            }
        }
    }

    /// Handles messages until the connection ends (`Err`) or the port does (`Ok`).
    async fn converse(&mut self, stream: &UnixStream, decoder: &mut Decoder) -> Result<Served, End> {
        let mut sending: Option<Sending> = None;
        let mut granted: Option<Instant> = None;
        loop {
            let may_read_at = *granted
                .get_or_insert_with(|| Instant::now() + self.session.wait_to_read(std::time::Instant::now()));
            let begun = decoder.parts().0.len();
            tokio::select! {
                biased;
                // First, so that no command finds an answer unsent that the socket would have taken.
                sent = send(stream, &mut sending), if sending.is_some() => {
                    sent.map_err(End::Send)?;
                }
                command = self.commands.recv() => {
                    let conversation = Conversation { stream, decoder, answering: sending.is_some() };
                    match self.command(command, Some(conversation)) {
                        Then::Continue => {}
                        Then::End(end) => return Err(end),
                        Then::Leave(served) => return Ok(served),
                    }
                }
                received = receive(stream, decoder, may_read_at), if sending.is_none() && !self.suspended => {
                    match received? {
                        Received::Message(message) => {
                            granted = None;
                            sending = self.session.handle(message, &mut self.host)?.map(Sending::new);
                        }
                        Received::Closed => return Err(End::HungUp),
                        Received::WouldBlock => {
                            // A message in many small pieces is paid for by the piece.
                            if decoder.parts().0.len() != begun {
                                granted = None;
                            }
                        }
                    }
                }
            }
        }
    }

    fn command(&mut self, command: Option<Command>, conversation: Option<Conversation<'_>>) -> Then {
        match command {
            None | Some(Command::Stop) => return Then::Leave(Served::Stopped),
            Some(Command::Release) => return Then::Leave(Served::Released),
            Some(Command::SetLink(up)) => self.session.set_link(up, &mut self.host),
            Some(Command::SetMtu(mtu)) => self.session.set_mtu(mtu, &mut self.host),
            Some(Command::Fault { pair, direction, fault }) => {
                if let Some(end) = self.session.queue_fault(pair, direction, fault) {
                    return Then::End(end);
                }
            }
            // A receiver that has gone away needs no answer.
            Some(Command::Export(answer)) => drop(answer.send(self.export(conversation))),
            Some(Command::Settle(answer)) => drop(answer.send(())),
            Some(Command::Suspend(answer)) if conversation.as_ref().is_some_and(|c| c.answering) => {
                drop(answer.send(Err(ExportError::Busy)));
            }
            Some(Command::Suspend(answer)) => {
                let exported = match self.session.suspend(&mut self.host) {
                    Ok(()) => self.export(conversation),
                    Err(refusal) => Err(refusal.into()),
                };
                self.suspended = exported.is_ok();
                let undelivered = answer.send(exported).is_err();
                if !self.suspended || undelivered {
                    return self.resume();
                }
            }
            Some(Command::Resume) => return self.resume(),
        }
        Then::Continue
    }

    fn resume(&mut self) -> Then {
        self.suspended = false;
        match self.session.resume(&mut self.host) {
            Ok(()) => Then::Continue,
            Err(refusal) => Then::End(End::NotResumed(refusal)),
        }
    }

    fn export(&self, conversation: Option<Conversation<'_>>) -> Export {
        let (session, mut fds) = self.session.export()?;
        let mut add = |fd: OwnedFd| {
            fds.push(fd);
            fds.len() - 1
        };
        let mut saved = SavedPort { session, socket: None, listener: None, begun: vec![], begun_fds: vec![] };
        if let Some(Conversation { stream, decoder, .. }) = conversation {
            let (bytes, begun_fds) = decoder.parts();
            saved.socket = Some(add(stream.as_fd().try_clone_to_owned()?));
            saved.begun = bytes.to_vec();
            for fd in begun_fds {
                saved.begun_fds.push(add(fd.try_clone()?));
            }
        }
        if let Some(listener) = &self.listener {
            saved.listener = Some(add(listener.as_fd().try_clone_to_owned()?));
        }
        Ok((saved, fds))
    }
}

fn longer(backoff: Duration) -> Duration {
    (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX)
}

/// As tokio's, which rounds up to the next millisecond: a moment that has come is not waited for.
async fn sleep_until(moment: Instant) {
    if moment > Instant::now() {
        tokio::time::sleep_until(moment).await;
    }
}

/// Waits until it is time and something can be read, and reads once. May be dropped at any time.
async fn receive(
    stream: &UnixStream,
    decoder: &mut Decoder,
    not_before: Instant,
) -> Result<Received, ReceiveError> {
    sleep_until(not_before).await;
    stream.readable().await?;
    let mut received = Ok(Received::WouldBlock);
    let blocked = stream.try_io(Interest::READABLE, || {
        received = socket::receive(stream, decoder);
        match received {
            Ok(Received::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match blocked {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e.into()),
        _ => received,
    }
}

/// Sends what is to be sent, as far as the socket takes it. May be dropped at any time.
async fn send(stream: &UnixStream, sending: &mut Option<Sending>) -> io::Result<()> {
    let Some(message) = sending else { return Ok(()) };
    stream.writable().await?;
    let done = stream.try_io(Interest::WRITABLE, || match message.proceed(stream) {
        Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
        other => other,
    });
    match done {
        Ok(_) => *sending = None,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        Err(e) => return Err(e),
    }
    Ok(())
}
