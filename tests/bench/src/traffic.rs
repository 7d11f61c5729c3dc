//! The load of the bench's own: one polling thread that plays several guests, told what to send phase by phase.
//!
//! The program is `bench_load` (`tests/bench_load`); these are the lines it reads and writes, and a handle on it. One thread
//! sends and receives, so a frame's time on its way is measured by one clock, and one core is enough for any number of ports.

use anyhow::{Context as _, Result, bail};
use lab::Process;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks a result among the lines printed.
pub const RESULT: &str = "result ";
/// Printed when all ports are connected.
pub const READY: &str = "ready";

/// Beyond a phase's own time: draining, and a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is sent for some time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// How long.
    pub seconds: f64,
    /// From where to where. A port sends at most one stream and receives at most one.
    pub streams: Vec<Stream>,
}

/// Frames from one port to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// Index of the sending port.
    pub from: usize,
    /// Index of the receiving port.
    pub to: usize,
    /// Frames per second; as many as the ring takes when `None`.
    pub rate: Option<f64>,
    /// Bytes of a frame as handed to virtio, without FCS.
    pub size: usize,
    /// What is in them.
    pub headers: Headers,
    /// Writes the time into each frame and finds latencies.
    pub stamped: bool,
}

/// Headers of a stream's frames. All are UDP from port 1000 to 1001 with source address 10.254.0.0 or fd00::1, but for what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Headers {
    /// IPv4, destinations 10.253.0.0 and up, one after the other. The frames of testpmd's flowgen.
    Flows(u32),
    /// IPv6, destinations fd01:: and up, one after the other.
    Flows6(u32),
    /// IPv4 with random addresses and ports.
    Random,
    /// IPv6 with random addresses and ports.
    Random6,
}

/// What came of a phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PhaseResult {
    /// By stream, in the phase's order.
    pub streams: Vec<StreamResult>,
    /// Share of the time for which the load did not have its core.
    pub away: f64,
}

/// What came of a stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamResult {
    /// Frames the switch was given.
    pub sent: u64,
    /// Frames received until the end of the phase.
    pub received_in_time: u64,
    /// Frames received, also while draining.
    pub received: u64,
    /// Seconds of the phase as it was.
    pub seconds: f64,
    /// Latencies of a stamped stream.
    pub latency: Option<Latency>,
}

impl StreamResult {
    /// Frames received per second, in millions.
    pub fn mpps(&self) -> f64 {
        self.received_in_time as f64 / self.seconds / 1e6
    }

    /// Share of the frames sent that did not come, in percent.
    pub fn lost_percent(&self) -> f64 {
        100.0 * self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64
    }
}

/// Times from a frame's publication to its receipt, in microseconds. Frames that were on their way while the load did not
/// have its core are left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Frames measured.
    pub count: u64,
    /// Frames left out.
    pub left_out: u64,
    /// Half are shorter.
    pub p50_us: f64,
    /// 99 of 100 are shorter.
    pub p99_us: f64,
    /// 999 of 1,000 are shorter.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The longest a frame was certainly kept: the longest latency or, of a frame left out, its time on the way up to the moment
    /// the load lost its core.
    pub stall_us: f64,
}

/// How the load is started.
#[derive(Clone, Debug)]
pub struct TrafficOptions {
    /// Core it polls on.
    pub core: usize,
    /// Sockets of its ports.
    pub sockets: Vec<PathBuf>,
    /// Packed instead of split rings.
    pub packed: bool,
}

/// A running load.
pub(crate) struct Traffic {
    process: Process,
}

impl Traffic {
    /// Starts it and waits until every port is connected.
    ///
    /// # Errors
    /// When it ends or does not get ready.
    pub(crate) fn start(dir: &Path, options: &TrafficOptions) -> Result<Self> {
        let program = lab::target_dir().join("release/bench_load");
        let mut args = vec![format!("--core={}", options.core)];
        if options.packed {
            args.push("--packed".into());
        }
        args.extend(options.sockets.iter().map(|socket| socket.display().to_string()));
        let mut process = Process::start("bench_load", dir, &program.to_string_lossy(), &args)?;
        process
            .expect("connections of the load", 0, PATIENCE, |log| log.lines().any(|line| line == READY))?;
        Ok(Self { process })
    }

    /// Runs a phase to its end.
    ///
    /// # Errors
    /// When the load ends meanwhile.
    pub(crate) fn phase(&mut self, phase: &Phase) -> Result<PhaseResult> {
        let from = self.process.log().len();
        self.process.say(&serde_json::to_string(phase)?)?;
        // Looking for its end again and again would take time from the very cores that are measured.
        std::thread::sleep(Duration::from_secs_f64(phase.seconds));
        let log = self.process.expect("result of a phase", from, PATIENCE, |log| result_of(log).is_some())?;
        let line = result_of(&log).context("a result was seen")?;
        let result: PhaseResult = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if result.streams.len() != phase.streams.len() {
            bail!("{} streams were sent, {} reported", phase.streams.len(), result.streams.len());
        }
        Ok(result)
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// The first result among complete lines.
fn result_of(log: &str) -> Option<&str> {
    let complete = &log[..log.rfind('\n')?];
    complete.lines().find_map(|line| line.strip_prefix(RESULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_taken_when_its_line_is_complete() {
        assert_eq!(result_of("result {\"a\""), None);
        assert_eq!(result_of("noise\nresult {}\nmore"), Some("{}"));
    }

    #[test]
    fn loss_is_what_was_sent_and_did_not_come() {
        let result = StreamResult {
            sent: 200,
            received: 199,
            received_in_time: 150,
            seconds: 0.5,
            ..StreamResult::default()
        };
        assert_eq!((result.lost_percent(), result.mpps()), (0.5, 0.0003));
    }
}
