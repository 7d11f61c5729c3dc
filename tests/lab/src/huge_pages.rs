//! 2 MiB pages for the duration of a run.

use anyhow::{Context as _, Result};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const COUNT_FILE: &str = "/proc/sys/vm/nr_hugepages";

/// Pages reserved until drop, when the former number is put back. It is also put back when this process is killed: a
/// shell waits for the end of a pipe that only we hold.
pub struct HugePages {
    guard: Child,
}

impl HugePages {
    /// Tries to have `count` pages of 2 MiB.
    ///
    /// Returns `None` when this is not ours to do (not root) or memory is too fragmented: the caller says so and goes on
    /// with small pages.
    ///
    /// # Errors
    /// When the kernel's counter cannot be read, or no shell be started.
    pub fn reserve(count: u64) -> Result<Option<Self>> {
        if !Path::new(COUNT_FILE).exists() {
            return Ok(None);
        }
        let before = current()?;
        let script = format!("read end; echo {before} > {COUNT_FILE} 2>/dev/null");
        let guard = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the terminal's group, not to this one.
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        let reserved = Self { guard };
        if before < count && std::fs::write(COUNT_FILE, count.to_string()).is_err() {
            return Ok(None);
        }
        Ok((current()? >= count).then_some(reserved))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // The end of its input, and then of the shell; best effort, as is what it does.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn current() -> Result<u64> {
    let text = std::fs::read_to_string(COUNT_FILE).context(COUNT_FILE)?;
    Ok(text.trim().parse()?)
}
