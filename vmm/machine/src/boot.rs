//! What a machine is to start, and what can be wrong with it.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::arch::boot::load;
use crate::{arch, layout};

/// A file that was opened while its path could still be reached. It is read again at every start.
#[derive(Clone, Debug)]
pub struct BootFile {
    path: PathBuf,
    file: Arc<File>,
}

impl BootFile {
    /// Opens it.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(path: &Path) -> Result<BootFile, BootError> {
        let path = path.to_owned();
        match File::open(&path) {
            Ok(file) => Ok(BootFile { path, file: Arc::new(file) }),
            Err(source) => Err(BootError::File { path, source }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its beginning, to be read, and its length.
    pub(crate) fn beginning(&self) -> Result<(File, u64), BootError> {
        let begin = || {
            let mut file = self.file.try_clone()?;
            file.rewind()?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        };
        begin().map_err(|source| BootError::File { path: self.path.clone(), source })
    }
}

/// Where a kernel comes from.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A file.
    File(BootFile),
    /// Bytes of this program.
    Builtin(&'static [u8]),
}

/// What a machine is to start.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial file system.
    pub initrd: Option<BootFile>,
    /// The command line.
    pub command_line: String,
    /// Processors.
    pub cpus: u32,
    /// Virtio devices that aren't on the PCI bus: they are in the first [slots](crate::virtio::slots).
    pub virtio_slots: usize,
}

/// Why a kernel can't be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel is of no known format.
    #[error("{0} is {expected}", expected = arch::boot::NOT_A_KERNEL)]
    Format(PathBuf),
    /// The kernel can't be put into memory.
    #[error("{path} can't be loaded: {why}")]
    Load {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The initial file system is too long.
    #[error(
        "{path} has {bytes} bytes; there is room for {room} behind the kernel: give the machine more memory"
    )]
    Initrd {
        /// Which.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// How much fits.
        room: u64,
    },
    /// The command line is too long.
    #[error("the command line has {0} bytes; {max} are allowed", max = layout::COMMAND_LINE_MAX - 1)]
    CommandLine(usize),
    /// There is less memory than the tables need.
    #[error("the machine has too little memory to start: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}
