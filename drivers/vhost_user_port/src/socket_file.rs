//! The listening socket's file: made, replaced when stale, removed at the end.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// Why a port can't listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens there.
    #[error("{path}: process {pid} ({command}) listens there already")]
    LiveOwner {
        /// The socket's file.
        path: PathBuf,
        /// The process.
        pid: i32,
        /// Its command name.
        command: String,
    },
    /// A file that is no socket is in the way; it is left alone.
    #[error("{0} exists and is no socket")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The socket's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket and the file that belongs to it, which goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode of our file: another owner's is not removed.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok().map(|m| (m.dev(), m.ino()));
        if found.is_some() && found == self.identity {
            // Nothing can be done about a failure, and nothing depends on success: a stale file is replaced.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl SocketFile {
    /// The file of a listening socket that another process made.
    pub fn adopt(path: &Path) -> Self {
        let identity = fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()));
        Self { path: path.to_owned(), identity }
    }

    /// Leaves the file where it is.
    pub fn leave(mut self) {
        self.identity = None;
    }
}

/// Listens at `path`, with these permission bits when given, otherwise as the umask has it; the file belongs to `owner`
/// when given.
///
/// # Errors
/// Somebody else listens there, another file is in the way, or the system refuses.
pub(crate) fn listen_at(
    path: &Path,
    mode: Option<u32>,
    owner: Option<u32>,
) -> Result<(UnixListener, SocketFile), SocketError> {
    let io = |source: Errno| SocketError::Io { path: path.to_owned(), source: source.into() };
    let address = SocketAddrUnix::new(path).map_err(io)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(io)?;
    if let Some(mode) = mode {
        // Before bind: the file never has more permissions than it shall have.
        fchmod(&socket, Mode::from_raw_mode(mode & 0o777)).map_err(io)?;
    }
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path)?;
            bind(&socket, &address).map_err(io)?;
        }
        other => other.map_err(io)?,
    }
    let file = SocketFile::adopt(path);
    if let Some(mode) = mode {
        // The umask has taken bits away.
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))
            .map_err(|source| SocketError::Io { path: path.to_owned(), source })?;
    }
    if owner.is_some() {
        std::os::unix::fs::lchown(path, owner, None)
            .map_err(|source| SocketError::Io { path: path.to_owned(), source })?;
    }
    listen(&socket, 8).map_err(io)?;
    Ok((UnixListener::from(socket), file))
}

/// Removes a socket file behind which nobody listens.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let (pid, command) = owner(stream.as_fd());
            Err(SocketError::LiveOwner { path: path.to_owned(), pid, command })
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io),
        Err(e) => Err(io(e)),
    }
}

/// Who listens at the other end: process number and command name.
fn owner(stream: impl AsFd) -> (i32, String) {
    let pid = rustix::net::sockopt::socket_peercred(stream).map_or(0, |c| c.pid.as_raw_nonzero().get());
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let command = command.trim_end();
    (pid, if command.is_empty() { "unknown".to_owned() } else { command.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_its_permissions_and_goes_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, file) = listen_at(&path, Some(0o622), None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o622);
        UnixStream::connect(&path).expect("somebody listens");
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, _file) = listen_at(&path, None, None).unwrap();
        UnixStream::connect(&path).expect("somebody listens");
    }

    #[test]
    fn a_live_owner_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _owner = UnixListener::bind(&path).unwrap();
        let error = listen_at(&path, None, None).unwrap_err();
        let SocketError::LiveOwner { pid, command, .. } = &error else { panic!("{error}") };
        assert_eq!(*pid, std::process::id() as i32);
        assert_eq!(*command, fs::read_to_string("/proc/self/comm").unwrap().trim_end());
        UnixStream::connect(&path).expect("the owner still listens");
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(listen_at(&path, None, None), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_successors_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, file) = listen_at(&path, None, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop((listener, file));
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        let path = Path::new("/tmp").join("x".repeat(200));
        assert!(matches!(listen_at(&path, None, None), Err(SocketError::Io { .. })));
    }
}
