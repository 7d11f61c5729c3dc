//! Instructions per frame, counted by valgrind's callgrind: a figure without noise.
//!
//! The program `bench_turns` (`tests/bench_load`) drives a worker and its rings with a fixed number of frames; callgrind counts what
//! is executed inside the worker's turns, not what its guests do. The same program gives the same number on every run, so a rise is
//! the code's, or the compiler's.

use anyhow::{Context as _, Result};
use lab::{run_to_end, target_dir, workspace_root};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A rise above this is pointed out.
const RISE_PERCENT: f64 = 3.0;
const LIMIT: Duration = Duration::from_secs(60);
/// Frames of each measurement.
const FRAMES: u64 = 32_000;
/// The function inside which instructions are counted.
const COUNTED: &str = "*counted_turn*";

/// Instructions per frame by case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instructions {
    /// As `64-split-p2p`.
    per_frame: BTreeMap<String, f64>,
    /// Values to compare with.
    #[serde(skip)]
    kept: BTreeMap<String, f64>,
}

/// Counts all cases and reads the values kept in the checkout, if there are any.
///
/// # Errors
/// When valgrind or the program fail, or the file cannot be read.
pub fn count_instructions() -> Result<Instructions> {
    let mut counted = Instructions::default();
    for ring in ["split", "packed"] {
        for rules in ["p2p", "normal"] {
            for (size, bytes) in [("64", 64), ("1518", 1514)] {
                let program = target_dir().join("release/bench_turns");
                let total = count(&program, &[], &[ring, rules, &bytes.to_string(), &FRAMES.to_string()])?;
                counted
                    .per_frame
                    .insert(format!("{size}-{ring}-{rules}"), round(total as f64 / FRAMES as f64));
            }
        }
    }
    let file = kept_file();
    if file.exists() {
        let kept: Instructions = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        counted.kept = kept.per_frame;
    }
    Ok(counted)
}

/// Counts the instructions that a program executes inside its function `counted_turn`, without those inside the functions
/// that match a pattern of `excluded`.
///
/// # Errors
/// When valgrind or the program fail.
pub(crate) fn count(program: &Path, excluded: &[&str], arguments: &[&str]) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let out = format!("--callgrind-out-file={}", dir.path().join("callgrind.out").display());
    let toggles: Vec<String> =
        [COUNTED].iter().chain(excluded).map(|pattern| format!("--toggle-collect={pattern}")).collect();
    let program = program.to_string_lossy();
    let mut all = vec!["--tool=callgrind", "--log-fd=1", &out, "--collect-atstart=no"];
    all.extend(toggles.iter().map(String::as_str));
    all.push(&program);
    all.extend(arguments);
    let text = run_to_end("valgrind", &all, LIMIT)?;
    collected(&text).with_context(|| format!("no count in:\n{text}"))
}

impl Instructions {
    /// Writes the values to the checkout, to be committed and compared with.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self) -> Result<()> {
        let file = kept_file();
        std::fs::write(&file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("writing {}", file.display()))
    }

    /// By how many percent a case's value is above the kept one.
    fn rise(&self, case: &str) -> Option<f64> {
        let (now, kept) = (self.per_frame.get(case)?, self.kept.get(case)?);
        Some(100.0 * (now / kept - 1.0))
    }
}

impl fmt::Display for Instructions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "instructions per frame (callgrind)")?;
        for (case, now) in &self.per_frame {
            write!(out, "{case:<20} {now:8.1}")?;
            if let (Some(kept), Some(rise)) = (self.kept.get(case), self.rise(case)) {
                write!(out, "  kept {kept:8.1}  {rise:+6.1} %")?;
                if rise > RISE_PERCENT {
                    write!(out, "  ROSE by more than {RISE_PERCENT} %")?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

fn kept_file() -> PathBuf {
    workspace_root().join("tests/bench/instructions.json")
}

/// Reads `Collected : 1234` as callgrind prints it at its end.
fn collected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once("Collected :")?.1.split_whitespace().next()?.parse().ok())
}

/// One digit behind the point: less is not worth a difference in the file.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrind_is_understood() {
        let text = "==7== \n==7== Events    : Ir\n==7== Collected : 4242\n==7== \n";
        assert_eq!(collected(text), Some(4242));
        assert_eq!(collected("nothing"), None);
    }

    #[test]
    fn only_a_rise_of_more_than_three_percent_is_pointed_out() {
        let values = |list: &[(&str, f64)]| list.iter().map(|&(name, v)| (name.to_owned(), v)).collect();
        let counted = Instructions {
            per_frame: values(&[("a", 102.9), ("b", 104.0), ("c", 50.0), ("d", 1.0)]),
            kept: values(&[("a", 100.0), ("b", 100.0), ("c", 100.0)]),
        };
        let text = counted.to_string();
        let pointed_out: Vec<_> = text.lines().filter(|line| line.contains("ROSE")).collect();
        assert_eq!(pointed_out.len(), 1, "{text}");
        assert!(pointed_out[0].starts_with('b') && pointed_out[0].contains("+4.0 %"));
    }
}
