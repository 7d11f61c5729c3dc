//! A block of lines on a terminal that is drawn again and again in place, with log lines above it.
//!
//! It is drawn on standard error, where the log goes: one stream, so the two can't overwrite each other, and standard
//! output keeps nothing but results.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines of the block on the screen now.
static DRAWN: Mutex<usize> = Mutex::new(0);

/// Whether somebody looks at standard error.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Draws the block in place of the one before. Does nothing without a terminal.
pub fn draw(block: &str) {
    if is_terminal() {
        let mut drawn = drawn();
        replace(&mut drawn, block.as_bytes());
        *drawn = block.lines().count();
    }
}

/// Takes the block off the screen.
pub fn clear() {
    replace(&mut drawn(), b"");
}

fn drawn() -> MutexGuard<'static, usize> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes over the block; it counts as gone then.
fn replace(drawn: &mut usize, bytes: &[u8]) {
    let mut out = erase(*drawn).into_bytes();
    out.extend_from_slice(bytes);
    *drawn = 0;
    // A terminal that went away is no reason to end the switch.
    let _ = io::stderr().lock().write_all(&out);
}

/// Moves to the first of the lines drawn and clears from there (ECMA-48: CPL, ED).
fn erase(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}F\x1b[J") }
}

/// Writes log lines above the block, which is drawn again when its time comes.
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        replace(&mut drawn(), line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_drawn_is_erased() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(3), "\x1b[3F\x1b[J");
    }
}
