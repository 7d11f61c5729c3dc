//! Whose rights a process has, and what it sees of the file system.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, chdir, chroot, initgroups, setresgid, setresuid};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// Why a process stays who it is and where it is.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// There is no such user.
    #[error("there is no user `{0}` here: make one, for instance with `adduser --system --group {0}`")]
    Unknown(String),
    /// The database of users can't be read.
    #[error("user `{name}` can't be looked up: {cause}")]
    LookUp {
        /// The name.
        name: String,
        /// What is in the way.
        cause: io::Error,
    },
    /// The kernel doesn't let the process.
    #[error("becoming user `{name}`: {cause}; only root can become another user")]
    Become {
        /// The name.
        name: String,
        /// Its answer.
        cause: io::Error,
    },
    /// The kernel doesn't let the process, or there is no such folder.
    #[error("folder {dir} as root of the file system: {cause}")]
    Root {
        /// The folder.
        dir: PathBuf,
        /// The kernel's answer.
        cause: io::Error,
    },
}

impl User {
    /// The user of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<User, ConfineError> {
        match nix::unistd::User::from_name(name) {
            Ok(Some(user)) => Ok(User { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            // Where there is no database at all, either.
            Ok(None) | Err(Errno::ENOENT | Errno::ESRCH) => Err(ConfineError::Unknown(name.to_owned())),
            Err(errno) => Err(ConfineError::LookUp { name: name.to_owned(), cause: errno.into() }),
        }
    }

    /// Its number.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// Makes the process see nothing of the file system but what is below `dir`, and become `user`, with that user's groups.
/// What is open stays open. To be called before other threads are there.
///
/// # Errors
/// The kernel refuses; what was done before stays done.
pub fn confine(dir: Option<&Path>, user: Option<&User>) -> Result<(), ConfineError> {
    let refused = |user: &User, cause: nix::Error| ConfineError::Become {
        name: user.name.clone(),
        cause: cause.into(),
    };
    // In this order: groups are in a file that isn't below `dir`, and only root may choose a root.
    if let Some(user) = user {
        let name = CString::new(user.name.as_str()).map_err(|_| ConfineError::Unknown(user.name.clone()))?;
        initgroups(&name, Gid::from_raw(user.gid)).map_err(|cause| refused(user, cause))?;
    }
    if let Some(dir) = dir {
        chroot(dir)
            .and_then(|()| chdir("/"))
            .map_err(|cause| ConfineError::Root { dir: dir.to_owned(), cause: cause.into() })?;
    }
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        setresgid(gid, gid, gid)
            .and_then(|()| setresuid(uid, uid, uid))
            .map_err(|cause| refused(user, cause))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_is_not_there_is_named_with_a_remedy() {
        let error = User::named("nobody-of-this-name").unwrap_err().to_string();
        assert!(error.contains("nobody-of-this-name") && error.contains("adduser"), "{error}");
        assert_eq!(User::named("root").unwrap().uid(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_root() {
        let error = confine(Some(Path::new("/nonexistent")), None).unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
