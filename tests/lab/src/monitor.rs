//! QEMU's machine protocol: a line of JSON each way.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::wait_until;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to the monitor of one QEMU.
pub(crate) struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket at `path`, which QEMU may still be about to make.
    ///
    /// # Errors
    /// When nobody listens there, or what answers is no QEMU.
    pub fn connect(path: &Path) -> Result<Self> {
        let what = format!("a monitor at {}", path.display());
        let stream = wait_until(&what, CONNECT_LIMIT, || Ok(UnixStream::connect(path).ok()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut monitor = Self { lines: BufReader::new(stream) };
        let greeting = monitor.line()?;
        if greeting.get("QMP").is_none() {
            bail!("not a QEMU monitor: {greeting}");
        }
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and returns what it returns. Events that come in between are left out.
    ///
    /// # Errors
    /// When QEMU says no, or is gone.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{request}")?;
        loop {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("reading from the monitor")?;
        serde_json::from_str(&line).with_context(|| format!("the monitor said `{line}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_answer_is_found_behind_events_and_a_refusal_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            writeln!(stream, r#"{{"QMP": {{}}}}"#).unwrap();
            lines.next();
            writeln!(stream, r#"{{"return": {{}}}}"#).unwrap();
            lines.next();
            writeln!(stream, r#"{{"event": "STOP"}}"#).unwrap();
            writeln!(stream, r#"{{"return": {{"status": "active"}}}}"#).unwrap();
            lines.next();
            writeln!(stream, r#"{{"error": {{"desc": "no"}}}}"#).unwrap();
        });
        let mut monitor = Monitor::connect(&path).unwrap();
        assert_eq!(monitor.execute("query-migrate", json!({})).unwrap()["status"], "active");
        assert!(monitor.execute("migrate", json!({})).is_err());
        qemu.join().unwrap();
    }
}
