//! One TCP stream between two guests, with and without offloads.

use anyhow::{Context as _, Result};
use lab::Process;
use lab::switch::{OvsDpdk, PortKind, Ringway, Switch, System, ringway_binary};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::{Bench, Measure, Outcome, figures, work_since};
use crate::section::{STREAM, Section};

/// For the stream to begin: OVS-DPDK makes its buffers, seconds' work, when the first guest is there.
const BEGIN: Duration = Duration::from_secs(20);
/// Frames that only a stream sends.
const BEGUN: u64 = 100;
const END: Duration = Duration::from_secs(10);

/// A stream.
pub(crate) struct TcpStream {
    /// Guests and switch agree on checksum and segmentation offloads, or on none.
    pub offloads: bool,
}

impl TcpStream {
    fn name(&self) -> String {
        format!("tcp-stream-{}", if self.offloads { "tso" } else { "no-offloads" })
    }

    fn guest(&self, bench: &Bench<'_>, dir: &Path, index: usize, socket: &Path) -> Result<Process> {
        let core = bench.options.load_core.to_string();
        let mut args: Vec<String> =
            ["guest", "--mode", "host", "--json", "--server", "--socket"].map(String::from).into();
        args.push(socket.display().to_string());
        args.extend(["--address".into(), format!("10.0.0.{}/24", index + 1)]);
        args.extend(["--ring-size".into(), "1024".into()]);
        if !self.offloads {
            args.push("--no-offloads".into());
        }
        if index == 0 {
            args.extend(["--stream-to".into(), "10.0.0.2".into()]);
        }
        let program = ringway_binary().display().to_string();
        Process::start_as(&format!("guest{index}"), dir, &["taskset", "-c", &core], &program, &args)
    }
}

impl Measure for TcpStream {
    fn section(&self) -> &'static Section {
        &STREAM
    }

    fn names(&self) -> Vec<String> {
        vec![self.name()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let mut plan = bench.plan(dir.path(), 2, Vec::new());
        // OVS-DPDK's segmentation offload is for its client mode.
        for port in &mut plan.ports {
            port.kind = PortKind::VhostUser { listens: false };
        }
        // Off unless it is asked for, since it cannot be changed while OVS runs.
        let tso = ["userspace-tso-enable=true"];
        let mut switch: Box<dyn Switch> = match system {
            System::OvsDpdk => Box::new(OvsDpdk::start_with(&plan, if self.offloads { &tso } else { &[] })?),
            _ => Box::new(Ringway::start(&plan)?),
        };
        let outcome = bench.judged(switch.as_mut(), None, |switch| {
            let mut taker = self.guest(bench, dir.path(), 1, &plan.socket(1))?;
            let mut sender = self.guest(bench, dir.path(), 0, &plan.socket(0))?;
            let before = switch.work()?;
            let started = Instant::now();
            while work_since(before, switch.work()?).frames < BEGUN && started.elapsed() < BEGIN {
                std::thread::sleep(Duration::from_millis(50));
            }
            std::thread::sleep(Duration::from_secs_f64(bench.seconds(5.0)));
            let work = work_since(before, switch.work()?);
            let reports = [report(&mut sender)?, report(&mut taker)?];
            let received = &reports[1]["stream_received"];
            let number = |key: &str| received[key].as_f64().unwrap_or(f64::NAN);
            let kib = number("bytes") / 1024.0;
            Ok(figures([
                ("gbit_per_s", number("bits_per_second") / 1e9),
                ("cycles_per_kib", work.busy_cycles as f64 / kib),
            ]))
        })?;
        switch.stop()?;
        Ok(vec![(self.name(), outcome)])
    }
}

/// Ends a guest and reads what it has to tell.
fn report(guest: &mut Process) -> Result<Value> {
    guest.signal(Signal::TERM)?;
    guest.wait(END)?;
    let log = guest.log();
    let start = log.find('{').with_context(|| format!("a guest reported:\n{log}"))?;
    Ok(serde_json::from_str(&log[start..])?)
}
