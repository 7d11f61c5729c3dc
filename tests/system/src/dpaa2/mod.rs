//! The model of DPAA2 below programs that know nothing of it: DPDK, and the switch with its own VFIO code.

mod switch;
mod testpmd;

use anyhow::{Context as _, Result, ensure};
use lab::dpaa2::Control;
use lab::{Process, target_dir, wait_until};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Need, Scenario};

pub(crate) use switch::steering;

const NEEDS: &[Need] = &[Need::Ringway];
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    testpmd::SCENARIOS.iter().chain(switch::SCENARIOS)
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
        Ok(Self { process, socket, model: Control::at(control) })
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
