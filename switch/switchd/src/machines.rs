//! The virtual machines of the file: `[[vm]]`.
//!
//! A keeper process starts and watches them, because the switch gives up its right to start processes when it begins.
//! Machines outlive a switch that is killed or told to end by SIGTERM: they wait for the next one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use control::GuestRow;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use vmm::exits::merge_metrics;
use vmm::keeper::{Kept, STOP};
use vmm::protocol::{Answer, LINE_MAX, Request};

/// The keeper of the file's machines, if it has any.
pub(crate) struct Machines(Option<Child>);

impl Machines {
    /// Starts the machines that can be started here; says which can't, and why.
    ///
    /// # Errors
    /// The keeper can't be started.
    pub fn start(configs: &[vmm_config::Vm]) -> anyhow::Result<Machines> {
        let possible = |config: &&vmm_config::Vm| match vmm::check(config) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    "machine {} is not started, its ports stay without a guest: {error:#}",
                    config.name
                );
                false
            }
        };
        let configs: Vec<_> = configs.iter().filter(possible).collect();
        if configs.is_empty() {
            return Ok(Machines(None));
        }
        let mut child = Command::new("/proc/self/exe")
            .args(["vm", "keep"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the keeper of the machines")?;
        let mut line = serde_json::to_vec(&configs)?;
        line.push(b'\n');
        child.stdin.as_mut().expect("piped").write_all(&line).context("the keeper of the machines")?;
        Ok(Machines(Some(child)))
    }

    /// Stops the machines and returns what each did.
    pub fn stop(mut self) -> Vec<GuestRow> {
        let Some(child) = &mut self.0 else { return Vec::new() };
        match tell_to_stop(child) {
            Ok(kept) => kept.iter().map(row).collect(),
            Err(error) => {
                tracing::warn!("machines may go on: {error:#}");
                Vec::new()
            }
        }
    }
}

/// How long a machine may take to tell what it counts.
const METRICS_LIMIT: Duration = Duration::from_millis(500);

/// The exits of the machines at these control sockets, in Prometheus' text format. Those that don't answer are left out.
pub(crate) async fn metrics(sockets: &[PathBuf]) -> String {
    let mut texts = Vec::new();
    for socket in sockets {
        match tokio::time::timeout(METRICS_LIMIT, metrics_of(socket)).await {
            Ok(Ok(text)) => texts.push(text),
            Ok(Err(error)) => tracing::debug!(socket = %socket.display(), %error, "no metrics of a machine"),
            Err(_) => tracing::debug!(socket = %socket.display(), "no metrics of a machine in time"),
        }
    }
    merge_metrics(texts.iter().map(String::as_str))
}

async fn metrics_of(socket: &Path) -> anyhow::Result<String> {
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&Request::Metrics)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    tokio::io::BufReader::new(stream.take(LINE_MAX as u64)).read_until(b'\n', &mut answer).await?;
    match serde_json::from_slice(&answer)? {
        Answer::Metrics(text) => Ok(text),
        _ => bail!("it answered something else"),
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // Without input the keeper ends, and the machines go on.
        if let Some(mut child) = self.0.take() {
            drop(child.stdin.take());
            // A keeper that can't be waited for is gone.
            let _ = child.wait();
        }
    }
}

fn tell_to_stop(child: &mut Child) -> anyhow::Result<Vec<Kept>> {
    let stdin = child.stdin.as_mut().context("the keeper has no input")?;
    stdin.write_all(format!("{STOP}\n").as_bytes()).context("the keeper is gone")?;
    let mut line = String::new();
    let stdout = child.stdout.as_mut().context("the keeper has no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    serde_json::from_str(&line).context("the keeper's answer")
}

fn row(kept: &Kept) -> GuestRow {
    let counts = kept.counts().unwrap_or_default();
    let end = kept.end.as_ref().map_or("did not end in time".to_owned(), ToString::to_string);
    let restarts = match kept.restarts {
        0 => String::new(),
        times => format!(", started again {times} times"),
    };
    GuestRow {
        name: kept.name.clone(),
        role: kept.kernel.clone(),
        sent: counts.sent,
        received: counts.received,
        lost: counts.lost,
        bits_per_second: None,
        note: Some(format!("machine: {end}{restarts}")),
    }
}
