//! The socket's file: made with its mode, taken over from the dead, never from the living.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers there.
    #[error("{path} belongs to a running switch ({owner}): stop it, or choose another control.socket")]
    Taken {
        /// The path.
        path: PathBuf,
        /// Its process and user.
        owner: String,
    },
    /// Something else has this name.
    #[error("{path} exists and is no socket: remove it, or choose another control.socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("can't make the control socket {path}: {cause}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A listening Unix socket with its file, which goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: another one in its place is not ours to remove.
    file: (u64, u64),
    /// Another process goes on with it.
    left: Cell<bool>,
}

impl ControlSocket {
    /// Listens at `path` with these permissions. A file left by a process that is gone is replaced.
    ///
    /// # Errors
    /// A living process listens there, something that is no socket has the name, or the kernel refuses.
    pub fn bind(path: &Path, mode: u32) -> Result<ControlSocket, BindError> {
        let failed = |cause: io::Error| BindError::Io { path: path.to_owned(), cause };
        clear(path)?;
        let bind = || -> io::Result<UnixListener> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            // Before anybody can connect.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            rustix::net::listen(&socket, 64)?;
            Ok(UnixListener::from(socket))
        };
        let listener = bind().map_err(failed)?;
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
            file: (meta.dev(), meta.ino()),
            left: false.into(),
        })
    }

    /// Goes on with the socket of another process, whose file is at `path`. The file stays when this is dropped,
    /// until it is [kept](Self::keep).
    ///
    /// # Errors
    /// It is no listening socket, or the file isn't there.
    pub fn adopt(listener: OwnedFd, path: &Path) -> Result<ControlSocket, BindError> {
        let failed = |cause: io::Error| BindError::Io { path: path.to_owned(), cause };
        if !rustix::net::sockopt::socket_acceptconn(&listener).map_err(|error| failed(error.into()))? {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true).map_err(failed)?;
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
            file: (meta.dev(), meta.ino()),
            left: true.into(),
        })
    }

    /// Leaves the file where it is when this is dropped: another process listens there.
    pub fn leave(&self) {
        self.left.set(true);
    }

    /// Removes the file when this is dropped: nobody else listens there any more.
    pub fn keep(&self) {
        self.left.set(false);
    }

    /// The socket, non-blocking.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file);
        if ours && !self.left.get() {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens at.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |cause| BindError::Io { path: path.to_owned(), cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let owner = peer(&stream).map_or_else(|_| "unknown".to_owned(), |peer| peer.to_string());
            Err(BindError::Taken { path: path.to_owned(), owner })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Who is at the other end of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub pid: i32,
    pub uid: u32,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

/// Asks the kernel who connected (or listened, for a client).
pub(crate) fn peer(socket: impl std::os::fd::AsFd) -> io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { pid: credentials.pid.as_raw_nonzero().get(), uid: credentials.uid.as_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_its_mode_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let socket = ControlSocket::bind(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_names_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "closing a socket leaves its file");
        let _socket = ControlSocket::bind(&path, 0o600).unwrap();
        let error = ControlSocket::bind(&path, 0o600).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(ControlSocket::bind(&path, 0o600), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_socket_that_is_handed_over_stays_until_its_last_owner_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let old = ControlSocket::bind(&path, 0o600).unwrap();
        let duplicate = || old.listener().try_clone().unwrap().into();
        drop(ControlSocket::adopt(duplicate(), &path).unwrap());
        assert!(path.exists(), "a successor that fails leaves everything");
        let new = ControlSocket::adopt(duplicate(), &path).unwrap();
        new.keep();
        old.leave();
        drop(old);
        UnixStream::connect(&path).unwrap();
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn what_does_not_listen_is_not_adopted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let _socket = ControlSocket::bind(&path, 0o600).unwrap();
        let (end, _) = UnixStream::pair().unwrap();
        assert!(ControlSocket::adopt(end.into(), &path).is_err());
    }

    #[test]
    fn a_successors_file_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let first = ControlSocket::bind(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = ControlSocket::bind(&path, 0o600).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
