//! The model of DPAA2 below programs that know nothing of it: DPDK, and the switch with its own VFIO code.

mod switch;
mod testpmd;

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Process, target_dir, wait_until};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Need, Scenario};

const NEEDS: &[Need] = &[Need::Ringway];
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    testpmd::SCENARIOS.iter().chain(switch::SCENARIOS)
}

/// The preload library.
fn shim() -> Result<PathBuf> {
    let shim = target_dir().join("release/libdpaa2_shim.so");
    ensure!(shim.exists(), "{} isn't built", shim.display());
    Ok(shim)
}

/// How a board's dpnis are wired.
#[derive(Clone, Copy)]
enum Wiring {
    /// Each to a MAC whose wire gives back what is sent.
    Looped,
    /// Each to a MAC whose wire the scenario holds.
    Held,
    /// Two, to each other.
    Together,
}

fn board(soc: &str, ports: usize, wiring: Wiring) -> String {
    let mut text =
        format!("soc = \"{soc}\"\n[[container]]\nid = 2\ndpio = 10\ndpbp = 4\ndpcon = 8\ndpci = 4\n");
    for id in 1..=ports {
        let _ = write!(text, "[[container.dpni]]\nid = {id}\nmac = \"02:00:00:00:00:{id:02x}\"\n");
    }
    let end = match wiring {
        Wiring::Looped => "loop",
        Wiring::Held => "quiet",
        Wiring::Together => {
            text.push_str("[[connection]]\na = \"dpni.1\"\nb = \"dpni.2\"\n");
            return text;
        }
    };
    for id in 1..=ports {
        let _ = write!(text, "[[dpmac]]\nid = {id}\nend = {{ kind = \"{end}\" }}\n");
        let _ = write!(text, "[[connection]]\na = \"dpni.{id}\"\nb = \"dpmac.{id}\"\n");
    }
    text
}

/// The control socket of a model.
#[derive(Clone)]
struct Control(PathBuf);

impl Control {
    /// Of a model that will live in the process of a program below the preload library, and what tells it so.
    fn of_own_model(dir: &Path, board: &str) -> Result<(Self, Vec<String>)> {
        let (description, control) = (dir.join("board.toml"), dir.join("control"));
        std::fs::write(&description, board)?;
        let environment = vec![
            format!("DPAA2_MODEL={}", description.display()),
            format!("DPAA2_MODEL_CONTROL={}", control.display()),
        ];
        Ok((Self(control), environment))
    }

    /// Counters and audit.
    fn report(&self) -> Result<Value> {
        self.ask("report")
    }

    /// Asks the model.
    fn ask(&self, line: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.0).context("the model's control socket")?;
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer: Value =
            serde_json::from_str(&answer).with_context(|| format!("answer to `{line}`: {answer}"))?;
        if let Some(error) = answer.get("error") {
            bail!("model: `{line}`: {error}");
        }
        Ok(answer)
    }

    /// A counter of an interface.
    fn counter(&self, dpni: usize, name: &str) -> Result<u64> {
        let report = self.report()?;
        report["interfaces"][format!("dpni.{dpni}")][name]
            .as_u64()
            .with_context(|| format!("no counter {name}"))
    }

    /// Waits until an interface's counter is more than `least`.
    fn reaches(&self, dpni: usize, name: &str, least: u64) -> Result<u64> {
        wait_until(&format!("{name} of dpni.{dpni} above {least}"), COMMAND_LIMIT, || {
            let value = self.counter(dpni, name)?;
            Ok((value > least).then_some(value))
        })
    }

    /// Puts a frame on a MAC's wire.
    fn put(&self, dpmac: usize, frame: &[u8]) -> Result<()> {
        let hex = frame.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        self.ask(&format!("put dpmac.{dpmac} {hex}")).map(drop)
    }

    /// The oldest frame that was sent to a MAC's wire.
    fn take(&self, dpmac: usize) -> Result<Option<Vec<u8>>> {
        let answer = self.ask(&format!("take dpmac.{dpmac}"))?;
        let Some(text) = answer["frame"].as_str() else { return Ok(None) };
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16);
        Ok(Some((0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>()?))
    }
}

/// A model in a process of its own.
struct Served {
    process: Process,
    socket: PathBuf,
    model: Control,
}

impl Served {
    fn start(dir: &Path, board: &str) -> Result<Self> {
        let (description, socket, control) = (dir.join("board.toml"), dir.join("model"), dir.join("control"));
        std::fs::write(&description, board)?;
        let program = target_dir().join("release/dpaa2-model");
        let args = [&description, &socket, &control].map(|path| path.display().to_string());
        let process = Process::start("model", dir, &program.display().to_string(), &args)?;
        wait_until("the model's socket", COMMAND_LIMIT, || Ok(socket.exists().then_some(())))?;
        Ok(Self { process, socket, model: Control(control) })
    }

    /// What tells the preload library to use it.
    fn variable(&self) -> String {
        format!("DPAA2_MODEL=unix:{}", self.socket.display())
    }

    fn stop(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// The audit: no rule broken, no buffer lost.
fn check(report: &Value) -> Result<()> {
    ensure!(report["violations_total"] == 0, "audit: {:#}", report["violations"]);
    for pool in report["pools"].as_array().context("pools in the report")? {
        let count = |name: &str| pool[name].as_u64().unwrap_or(u64::MAX);
        let places = count("free") + count("queued") + count("software");
        ensure!(count("seen") == places, "buffers were lost: {pool}");
    }
    Ok(())
}

/// A UDP frame over IPv4 with right checksums.
fn udp(destination: [u8; 6], to: [u8; 4], ports: (u16, u16), tag: Option<u16>) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0xee, 1]);
    if let Some(tag) = tag {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend([0x08, 0x00]);
    let mut ip = vec![0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1];
    ip.extend(to);
    let sum = ip.chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend([0, 26, 0, 0]);
    frame.resize(frame.len() + 18, 0xa5);
    frame
}

/// The address of dpmac.1, which the connected interface takes over when DPDK asks for it.
const OWN: [u8; 6] = [0x02, 0x4d, 0, 0, 0, 1];
