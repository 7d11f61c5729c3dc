//! Standard output: results and nothing else.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Outcome, Verdict};

/// Writes these bytes.
pub fn bytes(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(Verdict::Good)
}

/// Writes a text.
pub fn text(text: &str) -> Outcome {
    bytes(text.as_bytes())
}

/// Writes a value as JSON: over several lines for people, in one for programs.
pub fn json(value: &impl Serialize) -> Outcome {
    if io::stdout().is_terminal() {
        let mut line = serde_json::to_vec_pretty(value)?;
        line.push(b'\n');
        bytes(&line)
    } else {
        json_line(value)
    }
}

/// Writes a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> Outcome {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    bytes(&line)
}
