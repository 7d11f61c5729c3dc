//! What a process holds on behalf of others: descriptors and mapped memory files.

use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt;

/// Open descriptors and mapped memory files of a process, counted by kind. Two are equal when nothing was gained or
/// lost between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    descriptors: BTreeMap<String, usize>,
    mappings: BTreeMap<String, usize>,
}

impl Footprint {
    /// That of process `pid` now.
    ///
    /// # Errors
    /// When the process has gone.
    pub fn of(pid: u32) -> Result<Self> {
        let mut footprint = Self::default();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            // A descriptor may be closed while we look.
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            *footprint.descriptors.entry(kind(&target.to_string_lossy())).or_default() += 1;
        }
        for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
            if let Some(at) = line.find("/memfd:") {
                *footprint.mappings.entry(line[at..].to_owned()).or_default() += 1;
            }
        }
        Ok(footprint)
    }

    /// Open descriptors, all kinds.
    pub fn descriptors(&self) -> usize {
        self.descriptors.values().sum()
    }

    /// Mapped ranges of memory files.
    pub fn mappings(&self) -> usize {
        self.mappings.values().sum()
    }

    /// What this has that `before` had not, or the reverse.
    pub fn difference(&self, before: &Self) -> String {
        let mut text = String::new();
        for (mine, theirs) in [(&self.descriptors, &before.descriptors), (&self.mappings, &before.mappings)] {
            for kind in mine.keys().chain(theirs.keys().filter(|kind| !mine.contains_key(*kind))) {
                let count = |of: &BTreeMap<String, usize>| of.get(kind).copied().unwrap_or(0);
                if count(mine) != count(theirs) {
                    text += &format!("{kind}: {} instead of {}; ", count(mine), count(theirs));
                }
            }
        }
        text
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} descriptors, {} mapped memory files", self.descriptors(), self.mappings())
    }
}

/// The kind of a descriptor: sockets and pipes without their numbers.
fn kind(target: &str) -> String {
    match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
        _ => target.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_more_is_noticed_and_named() {
        // Of another process, since tests of this one open and close files at the same time.
        let dir = tempfile::tempdir().unwrap();
        let args = ["-c".into(), "read x; exec 9</dev/zero; echo open; read x".into()];
        let mut shell = crate::Process::start("sh", dir.path(), "sh", &args).unwrap();
        let limit = std::time::Duration::from_secs(5);
        shell.expect("start", 0, limit, |_| true).unwrap();
        crate::wait_until("a shell", limit, || {
            Ok(Footprint::of(shell.pid())?.descriptors.contains_key("pipe").then_some(()))
        })
        .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = Footprint::of(shell.pid()).unwrap();
        shell.say("").unwrap();
        shell.expect("an open file", 0, limit, |log| log.contains("open")).unwrap();
        let after = Footprint::of(shell.pid()).unwrap();
        assert_eq!(after.descriptors(), before.descriptors() + 1);
        assert_eq!(after.difference(&before), "/dev/zero: 1 instead of 0; ");
    }

    #[test]
    fn sockets_are_alike_and_memory_files_are_told_by_name() {
        assert_eq!(kind("socket:[1234]"), "socket");
        assert_eq!(kind("anon_inode:[eventfd]"), "anon_inode:[eventfd]");
        assert_eq!(kind("/memfd:guest (deleted)"), "/memfd:guest (deleted)");
    }
}
