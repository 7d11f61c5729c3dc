//! Stores, lines and instructions of each driver.

use anyhow::{Context as _, Result, ensure};
use lab::{Process, run_to_end, target_dir, wait_until};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BURSTS, Cost, What};
use crate::instructions;

const LIMIT: Duration = Duration::from_secs(60);
const START_LIMIT: Duration = Duration::from_secs(40);
const COMMAND_LIMIT: Duration = Duration::from_secs(15);
const PROMPT: &str = "testpmd> ";
/// Turns of our driver that are counted: buffers come and go in sevens, so a multiple of 7.
const TURNS: u32 = 1400;
/// Frames of DPDK's driver that are counted, at least.
const FRAMES: u64 = 20_000;

/// What a frame costs with our driver.
pub(super) fn ringway(soc: &str, what: What, burst: u32) -> Result<Cost> {
    let program = target_dir().join("release/bench_dpaa2");
    let (burst, turns) = (burst.to_string(), TURNS.to_string());
    let text = run_to_end(&program.to_string_lossy(), &[soc, what.name(), &burst, &turns], LIMIT)?;
    let counted: Value = serde_json::from_str(&text).with_context(|| format!("from bench_dpaa2: {text}"))?;
    let count = |name: &str| counted[name].as_f64().with_context(|| format!("no {name} in {text}"));
    let frames = count("frames")?;
    Ok(Cost { stores: count("stores")? / frames, lines: count("lines")? / frames })
}

/// Our driver's instructions for a frame, counted by callgrind.
pub(super) fn instructions(soc: &str, what: What, burst: u32) -> Result<f64> {
    let program = target_dir().join("release/bench_dpaa2");
    // Accesses to windows are the model's part: entering them switches counting off, leaving them on again. Outside of turns
    // that is the other way round, so what is the same however many turns there are is taken off.
    let excluded = ["*ModelWindow*store*", "*ModelWindow*load*"];
    let total = |turns: u32| {
        let arguments = [soc, what.name(), &burst.to_string(), &turns.to_string()];
        instructions::count(&program, &excluded, &arguments)
    };
    let (few, many) = (total(7)?, total(7 + TURNS)?);
    Ok(many.saturating_sub(few) as f64 / f64::from(burst * TURNS))
}

/// What a frame costs with DPDK's driver, for each burst.
pub(super) fn dpdk(soc: &str, what: What) -> Result<[Option<Cost>; BURSTS.len()]> {
    let dir = tempfile::Builder::new().prefix("rw-bench-").tempdir()?;
    let mut testpmd = OnModel::start(dir.path(), &board(soc, what))?;
    let mut costs = [None; BURSTS.len()];
    for (burst, cost) in BURSTS.into_iter().zip(&mut costs) {
        *cost = Some(testpmd.cost(what, burst)?);
    }
    testpmd.quit()?;
    Ok(costs)
}

/// An interface whose wire brings what the driver is to receive.
fn board(soc: &str, what: What) -> String {
    let end = match what {
        What::Forward => "{ kind = \"loop\" }",
        What::Receive => "{ kind = \"generator\", burst = 64 }",
        What::Transmit => "{ kind = \"quiet\" }",
    };
    format!(
        r#"
        soc = "{soc}"
        [[container]]
        id = 2
        dpio = 8
        dpbp = 4
        [[container.dpni]]
        id = 1
        mac = "02:00:00:00:00:01"
        [[dpmac]]
        id = 1
        end = {end}
        [[connection]]
        a = "dpni.1"
        b = "dpmac.1"
        "#
    )
}

/// A testpmd whose DPAA2 is a model in its process.
struct OnModel {
    process: Process,
    control: PathBuf,
}

impl OnModel {
    fn start(dir: &Path, board: &str) -> Result<Self> {
        let (description, control) = (dir.join("board.toml"), dir.join("control"));
        std::fs::write(&description, board)?;
        let shim = target_dir().join("release/libdpaa2_shim.so");
        ensure!(shim.exists(), "{} isn't built", shim.display());
        let args = [
            format!("DPAA2_MODEL={}", description.display()),
            format!("DPAA2_MODEL_CONTROL={}", control.display()),
            format!("TMPDIR={}", dir.display()),
            format!("LD_PRELOAD={}", shim.display()),
            "DPRC=dprc.2".into(),
            "dpdk-testpmd".into(),
            "--no-huge".into(),
            "-m".into(),
            "128".into(),
            "--no-pci".into(),
            "--no-telemetry".into(),
            "--iova-mode=va".into(),
            "--lcores=0@0,1@1".into(),
            format!("--file-prefix=bench-{}", std::process::id()),
            "--".into(),
            "-i".into(),
            "--nb-cores=1".into(),
            "--total-num-mbufs=4096".into(),
        ];
        let process = Process::start("testpmd", dir, "env", &args)?;
        let mut this = Self { process, control };
        let log = this.process.expect("prompt of testpmd", 0, START_LIMIT, |log| log.contains(PROMPT))?;
        ensure!(!log.contains("No probed ethernet devices"), "testpmd has no port:\n{log}");
        Ok(this)
    }

    fn command(&mut self, line: &str) -> Result<()> {
        let from = self.process.log().len();
        self.process.say(line)?;
        // The line is echoed first.
        let is_back = |new: &str| new.split_once('\n').is_some_and(|(_, answer)| answer.contains(PROMPT));
        self.process.expect(line, from, COMMAND_LIMIT, is_back).map(drop)
    }

    fn ask(&self, line: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.control).context("the model's control socket")?;
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("answer to `{line}`: {answer}"))
    }

    /// Frames moved, stores and lines so far.
    fn counts(&self, what: What) -> Result<[u64; 3]> {
        let report = self.ask("report")?;
        let frames = match what {
            What::Forward | What::Transmit => &report["enqueues"],
            What::Receive => &report["interfaces"]["dpni.1"]["rx_frames"],
        };
        let all = [frames, &report["stores"], &report["lines"]].map(Value::as_u64);
        all.into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.try_into().ok())
            .context("counts of the model")
    }

    /// Waits until so many more frames were moved and returns the counts then.
    fn after(&self, what: What, frames: u64) -> Result<[u64; 3]> {
        let goal = self.counts(what)?[0] + frames;
        wait_until("frames of testpmd", LIMIT, || {
            Ok(Some(self.counts(what)?).filter(|counts| counts[0] >= goal))
        })
    }

    fn cost(&mut self, what: What, burst: u32) -> Result<Cost> {
        let mode = match what {
            What::Forward => "io",
            What::Receive => "rxonly",
            What::Transmit => "txonly",
        };
        self.command(&format!("set burst {burst}"))?;
        self.command(&format!("set fwd {mode}"))?;
        // Frames enough in the loop that no poll finds it empty.
        self.command(if what == What::Forward { "start tx_first 4" } else { "start" })?;
        // Caches of buffers are as full as they get.
        self.after(what, FRAMES / 4)?;
        self.ask("count-lines")?;
        self.after(what, FRAMES / 4)?;
        let before = self.counts(what)?;
        let after = self.after(what, FRAMES)?;
        self.command("stop")?;
        let [frames, stores, lines] = std::array::from_fn(|i| (after[i] - before[i]) as f64);
        Ok(Cost { stores: stores / frames, lines: lines / frames })
    }

    fn quit(mut self) -> Result<()> {
        let violations = self.ask("report")?["violations_total"].clone();
        ensure!(violations == 0, "{violations} rules were broken");
        self.process.say("quit")?;
        self.process.wait(COMMAND_LIMIT)?;
        Ok(())
    }
}
