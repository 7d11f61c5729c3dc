//! The switch's end: one task a connection, a line in, a line out.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::protocol::{
    Answer, REQUEST_BYTES_MAX, Refusal, RefusalKind, Request, parse_request, response_line,
};
use crate::socket::{ControlSocket, peer};

/// Connections at a time at most; further ones wait.
pub const CONNECTIONS_MAX: usize = 32;

/// A client that doesn't take its answer for this long is left.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What answers requests: the switch.
pub trait Handler {
    /// Does what is asked; what it changes is in force when this returns.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Answer, Refusal>>;

    /// Goes on with a connection that was answered [`Answer::HandOver`]. Hangs up, unless defined otherwise.
    fn hand_over(&self, _stream: UnixStream) -> impl Future<Output = ()> {
        async {}
    }
}

/// Answers clients until dropped. Runs on a current-thread runtime inside a `LocalSet`.
///
/// Only root and the user of this process are answered; others are told so. A line that is no request is answered with a refusal, and
/// the connection goes on.
///
/// # Errors
/// The socket can't be used with this runtime.
pub async fn serve<H: Handler + 'static>(socket: &ControlSocket, handler: Rc<H>) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener().try_clone()?)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with this future.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let slot = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                connections.spawn_local(async move {
                    let _slot = slot;
                    if let Err(error) = converse(stream, &*handler).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: that can pass.
                tracing::warn!(%error, "can't accept a control connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one client until it goes.
async fn converse<H: Handler>(mut stream: UnixStream, handler: &H) -> io::Result<()> {
    let peer = peer(&stream)?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid != own && peer.uid != 0 {
        tracing::warn!(%peer, "a control connection was refused: only root and the switch's own user may");
        let what =
            format!("user {} may not: only root and user {own}, who runs the switch, are answered", peer.uid);
        let mut response = response_line(0, Err(Refusal::new(RefusalKind::Denied, what)));
        response.push(b'\n');
        tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(&response)).await??;
        return Ok(());
    }
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        let (id, result) = match read_line(&mut reader, &mut line).await? {
            Line::End => return Ok(()),
            Line::TooLong => {
                let message = format!("a request has at most {REQUEST_BYTES_MAX} bytes");
                (0, Err(Refusal::new(RefusalKind::TooLong, message)))
            }
            Line::Read => match parse_request(&line) {
                (id, Ok(request)) => (id, handler.handle(request).await),
                (id, Err(refusal)) => (id, Err(refusal)),
            },
        };
        let hands_over = matches!(result, Ok(Answer::HandOver { .. }));
        let mut response = response_line(id, result);
        response.push(b'\n');
        tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&response)).await??;
        if hands_over {
            // A client that has more to say before the first note doesn't speak this protocol: it would be lost.
            if reader.buffer().is_empty() {
                handler.hand_over(stream).await;
            }
            return Ok(());
        }
    }
}

enum Line {
    /// It is in the buffer, without its end.
    Read,
    /// It was longer than a request can be, and is skipped.
    TooLong,
    /// The client has gone.
    End,
}

/// Reads a line of bounded length. What follows the last line's end is no line.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut too_long = false;
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(Line::End);
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        if line.len() + part.len() > REQUEST_BYTES_MAX {
            too_long = true;
            line.clear();
        }
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(if too_long { Line::TooLong } else { Line::Read });
        }
    }
}
