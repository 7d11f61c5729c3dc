//! 2 MiB pages for the duration of a run.

use anyhow::{Context as _, Result};
use std::path::Path;

const COUNT_FILE: &str = "/proc/sys/vm/nr_hugepages";

/// Pages reserved until drop, when the former number is put back.
pub struct HugePages {
    before: u64,
}

impl HugePages {
    /// Tries to have `count` pages of 2 MiB.
    ///
    /// Returns `None` when this is not ours to do (not root) or memory is too fragmented: the caller says so and goes on
    /// with small pages.
    ///
    /// # Errors
    /// When the kernel's counter cannot be read.
    pub fn reserve(count: u64) -> Result<Option<Self>> {
        if !Path::new(COUNT_FILE).exists() {
            return Ok(None);
        }
        let before = current()?;
        if before < count && std::fs::write(COUNT_FILE, count.to_string()).is_err() {
            return Ok(None);
        }
        let reserved = Self { before };
        Ok((current()? >= count).then_some(reserved))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Best effort: without the right to write we had not changed it either.
        let _ = std::fs::write(COUNT_FILE, self.before.to_string());
    }
}

fn current() -> Result<u64> {
    let text = std::fs::read_to_string(COUNT_FILE).context(COUNT_FILE)?;
    Ok(text.trim().parse()?)
}
