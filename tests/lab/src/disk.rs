//! Disks for machines: files whose blocks say their numbers, and QEMU's storage daemon, a vhost-user-blk back-end.

use anyhow::Result;
use std::path::Path;
use std::time::Duration;

use crate::{Process, wait_until};

/// The daemon's program.
pub const STORAGE_DAEMON: &str = "/usr/bin/qemu-storage-daemon";

const BLOCK: usize = 4096;
const START_LIMIT: Duration = Duration::from_secs(20);

/// Writes a file of so many blocks of 4096 bytes, each with its number in its first eight, as the micro-guest's mode `read`
/// wants them.
///
/// # Errors
/// When it cannot be written.
pub fn write_numbered_blocks(path: &Path, blocks: u64) -> Result<()> {
    let mut bytes = Vec::with_capacity(usize::try_from(blocks)? * BLOCK);
    for block in 0..blocks {
        bytes.extend(block.to_be_bytes());
        bytes.resize(bytes.len() + BLOCK - size_of::<u64>(), 0);
    }
    Ok(std::fs::write(path, bytes)?)
}

/// What the daemon is told for a disk, whose content is `file`, to be had at `socket`.
pub fn storage_daemon_arguments(file: &Path, socket: &Path) -> [String; 4] {
    [
        "--blockdev".into(),
        format!("file,node-name=disk,filename={}", file.display()),
        "--export".into(),
        format!(
            "vhost-user-blk,id=blk,node-name=disk,addr.type=unix,addr.path={},writable=on",
            socket.display()
        ),
    ]
}

/// Starts the daemon, behind the words of `wrap`; returns when it listens.
///
/// # Errors
/// When it does not.
pub fn start_storage_daemon(dir: &Path, wrap: &[&str], file: &Path, socket: &Path) -> Result<Process> {
    let arguments = storage_daemon_arguments(file, socket);
    let daemon = Process::start_as("storage-daemon", dir, wrap, STORAGE_DAEMON, &arguments)?;
    wait_until("the storage daemon's socket", START_LIMIT, || Ok(socket.exists().then_some(())))?;
    Ok(daemon)
}
