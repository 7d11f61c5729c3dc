//! The model of DPAA2 below programs that know nothing of it: its control socket, the preload library that shows it to them,
//! and a stock `dpdk-testpmd` on it.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Process, target_dir, wait_until};

const PROMPT: &str = "testpmd> ";
const START_LIMIT: Duration = Duration::from_secs(40);
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// The preload library.
///
/// # Errors
/// It isn't built.
pub fn shim() -> Result<PathBuf> {
    let shim = target_dir().join("release/libdpaa2_shim.so");
    ensure!(shim.exists(), "{} isn't built", shim.display());
    Ok(shim)
}

/// The control socket of a model. All its methods fail when the model is gone or answers with an error.
#[derive(Clone)]
pub struct Control(PathBuf);

impl Control {
    /// Of a model whose socket is at this path.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Of a model that will live in the process of a program below the preload library, and what tells it so.
    ///
    /// # Errors
    /// The description can't be written.
    pub fn of_own_model(dir: &Path, board: &str) -> Result<(Self, Vec<String>)> {
        let (description, control) = (dir.join("board.toml"), dir.join("control"));
        std::fs::write(&description, board)?;
        let environment = vec![
            format!("DPAA2_MODEL={}", description.display()),
            format!("DPAA2_MODEL_CONTROL={}", control.display()),
        ];
        Ok((Self(control), environment))
    }

    /// Counters and audit.
    ///
    /// # Errors
    /// See [`Control`].
    pub fn report(&self) -> Result<Value> {
        self.ask("report")
    }

    /// Asks the model.
    ///
    /// # Errors
    /// See [`Control`].
    pub fn ask(&self, line: &str) -> Result<Value> {
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
    ///
    /// # Errors
    /// See [`Control`].
    pub fn counter(&self, dpni: usize, name: &str) -> Result<u64> {
        let report = self.report()?;
        report["interfaces"][format!("dpni.{dpni}")][name]
            .as_u64()
            .with_context(|| format!("no counter {name}"))
    }

    /// Waits until an interface's counter is more than `least`.
    ///
    /// # Errors
    /// See [`Control`]; it isn't within 15 seconds.
    pub fn reaches(&self, dpni: usize, name: &str, least: u64) -> Result<u64> {
        wait_until(&format!("{name} of dpni.{dpni} above {least}"), COMMAND_LIMIT, || {
            let value = self.counter(dpni, name)?;
            Ok((value > least).then_some(value))
        })
    }

    /// Puts a frame on a MAC's wire.
    ///
    /// # Errors
    /// See [`Control`].
    pub fn put(&self, dpmac: usize, frame: &[u8]) -> Result<()> {
        let hex = frame.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        self.ask(&format!("put dpmac.{dpmac} {hex}")).map(drop)
    }

    /// The oldest frame that was sent to a MAC's wire.
    ///
    /// # Errors
    /// See [`Control`].
    pub fn take(&self, dpmac: usize) -> Result<Option<Vec<u8>>> {
        let answer = self.ask(&format!("take dpmac.{dpmac}"))?;
        let Some(text) = answer["frame"].as_str() else { return Ok(None) };
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16);
        Ok(Some((0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>()?))
    }
}

/// What a testpmd on a model is started with.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Variables that tell it which model to use, and which of its containers.
    pub environment: &'a [String],
    /// Cores that forward.
    pub cores: usize,
    /// Packet buffers of its pool.
    pub buffers: u64,
    /// More arguments for DPDK itself.
    pub dpdk: &'a [&'a str],
    /// More arguments for testpmd, behind `--`.
    pub arguments: &'a [&'a str],
}

/// A testpmd that finds a model's interfaces as it would find those of a board.
pub struct OnModel {
    /// It.
    pub process: Process,
    /// The model below it.
    pub model: Control,
}

impl OnModel {
    /// Starts it, in `dir`, where its log is `NAME.log`, and waits for its prompt.
    ///
    /// # Errors
    /// It doesn't start, or finds no interface.
    pub fn start(name: &str, dir: &Path, model: Control, options: &Options<'_>) -> Result<Self> {
        // stdbuf's own preload library must stay in the list, or counters would appear only at the end.
        let preload = format!("LD_PRELOAD={}:$LD_PRELOAD exec \"$@\"", shim()?.display());
        let mut args = options.environment.to_vec();
        args.push(format!("TMPDIR={}", dir.display()));
        let lcores: Vec<String> = (0..=options.cores).map(|core| format!("{core}@{}", core % 2)).collect();
        args.extend(["stdbuf", "-oL", "sh", "-c", &preload, "sh", "dpdk-testpmd"].map(String::from));
        args.extend(
            ["--no-huge", "-m", "128", "--no-pci", "--no-telemetry", "--iova-mode=va"].map(String::from),
        );
        args.push(format!("--lcores={}", lcores.join(",")));
        args.push(format!("--file-prefix={name}-{}", std::process::id()));
        args.extend(options.dpdk.iter().map(|argument| (*argument).to_owned()));
        args.extend(["--".into(), "-i".into(), format!("--nb-cores={}", options.cores)]);
        args.push(format!("--total-num-mbufs={}", options.buffers));
        args.extend(options.arguments.iter().map(|argument| (*argument).to_owned()));
        let process = Process::start(name, dir, "env", &args)?;
        let mut this = Self { process, model };
        let log = this.process.expect("prompt of testpmd", 0, START_LIMIT, |log| log.contains(PROMPT))?;
        ensure!(!log.contains("No probed ethernet devices"), "testpmd has no port:\n{log}");
        Ok(this)
    }

    /// Types a line at the prompt and returns what is printed until the next one.
    ///
    /// # Errors
    /// There is none within 15 seconds.
    pub fn command(&mut self, line: &str) -> Result<String> {
        let from = self.process.log().len();
        self.process.say(line)?;
        // The line is echoed first; other threads may print behind the next prompt.
        let is_back = |new: &str| new.split_once('\n').is_some_and(|(_, answer)| answer.contains(PROMPT));
        self.process.expect(line, from, COMMAND_LIMIT, is_back)
    }

    /// As [`OnModel::command`], for commands that print nothing when they succeed.
    ///
    /// # Errors
    /// It complains.
    pub fn succeed(&mut self, line: &str) -> Result<()> {
        let said = self.command(line)?;
        let complaint =
            ["error", "Bad", "fail", "Invalid", "not supported"].iter().find(|word| said.contains(**word));
        ensure!(complaint.is_none(), "`{line}`: {said}");
        Ok(())
    }

    /// Leaves in order; the model's last report.
    ///
    /// # Errors
    /// It doesn't end within 15 seconds.
    pub fn quit(mut self) -> Result<Value> {
        let report = self.model.report()?;
        self.process.say("quit")?;
        self.process.wait(COMMAND_LIMIT)?;
        Ok(report)
    }
}
