//! The control socket of a machine.

use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, sync_channel};

use crate::console::{Console, Consoles, Which};
use crate::machine_process::{Event, Tagged};
use crate::protocol::{Answer, LINE_MAX, Request};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;

/// The socket's file: goes with it.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl SocketFile {
    /// The process sees another file system: its file has this path there.
    pub fn is_now_at(&mut self, path: PathBuf) {
        self.0 = path;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the socket.
///
/// # Errors
/// It can't be made; a machine of this name is there already.
pub fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = listen(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok((listener, SocketFile(path.to_owned())))
}

/// Answers requests, on threads of its own.
///
/// # Errors
/// No thread is left.
pub fn serve(listener: UnixListener, consoles: &Consoles, events: &Sender<Tagged>) -> io::Result<()> {
    let (consoles, events) = (consoles.clone(), events.clone());
    let connections = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, say: that passes.
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            };
            if connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
                connections.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (consoles, events, count) = (consoles.clone(), events.clone(), connections.clone());
            let started = std::thread::Builder::new().name("connection".into()).spawn(move || {
                // A client that is gone, or talks nonsense, has only itself to blame.
                let _ = converse(stream, &consoles, &events);
                count.fetch_sub(1, Ordering::AcqRel);
            });
            if started.is_err() {
                connections.fetch_sub(1, Ordering::AcqRel);
            }
        }
    })?;
    Ok(())
}

/// Binds, in place of a socket that nobody listens on any more.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

fn converse(stream: UnixStream, consoles: &Consoles, events: &Sender<Tagged>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let count = (&mut reader).take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Console) => return watch(reader, &consoles.serial, Which::Serial, events),
            Ok(Request::VirtioConsole) if let Some(console) = &consoles.virtio => {
                return watch(reader, console, Which::Virtio, events);
            }
            Ok(Request::VirtioConsole) => Answer::Refused("it has no virtio console".into()),
            Ok(request) => {
                let (reply, replied) = sync_channel(1);
                let told = events.send((0, Event::Asked(request, reply)));
                match told.ok().and_then(|()| replied.recv().ok()) {
                    Some(answer) => answer,
                    None => Answer::Refused("the machine is ending".into()),
                }
            }
            Err(error) => Answer::Refused(format!("no request: {error}")),
        };
        send(reader.get_mut(), &answer)?;
    }
}

fn send(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn watch(
    mut reader: BufReader<UnixStream>,
    console: &Console,
    which: Which,
    events: &Sender<Tagged>,
) -> io::Result<()> {
    send(reader.get_mut(), &Answer::Done)?;
    let watching = console.watch(reader.get_ref().try_clone()?)?;
    let mut buffer = [0; 512];
    let result = loop {
        match reader.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                if events.send((0, Event::Typed(which, buffer[..count].to_vec()))).is_err() {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    drop(watching);
    // Else a thread that writes to one who doesn't read would stay. A connection that is gone can't be shut down.
    let _ = reader.get_ref().shutdown(Shutdown::Both);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock");
        drop(UnixListener::bind(&path).unwrap());
        let first = bind(&path).unwrap();
        let second = bind(&path).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn nonsense_is_refused_and_the_connection_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.sock");
        let (events, inbox) = std::sync::mpsc::channel::<Tagged>();
        let (listener, _file) = bind(&path).unwrap();
        serve(listener, &Consoles::default(), &events).unwrap();
        std::thread::spawn(move || {
            while let Ok((_, event)) = inbox.recv() {
                if let Event::Asked(_, reply) = event {
                    reply.send(Answer::Done).unwrap();
                }
            }
        });
        let mut stream = BufReader::new(UnixStream::connect(&path).unwrap());
        stream.get_mut().write_all(b"{\"fly\":1}\n\xff\xfe\n\"pause\"\n").unwrap();
        let answers: Vec<String> = stream.by_ref().lines().take(3).map(Result::unwrap).collect();
        assert!(
            answers[0].starts_with("{\"refused\"") && answers[1].starts_with("{\"refused\""),
            "{answers:?}"
        );
        assert_eq!(answers[2], "\"done\"");
    }
}
