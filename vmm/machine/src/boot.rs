//! What a machine is to start, and what can be wrong with it.

use std::io;
use std::path::PathBuf;

pub use crate::arch::boot::load;
use crate::{arch, layout};

/// Where a kernel comes from.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A file.
    File(PathBuf),
    /// Bytes of this program.
    Builtin(&'static [u8]),
}

/// What a machine is to start.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial file system.
    pub initrd: Option<PathBuf>,
    /// The command line.
    pub command_line: String,
    /// Processors.
    pub cpus: u32,
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
