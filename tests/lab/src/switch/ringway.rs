//! Ringway itself, as its users run it: a configuration file, one process, its own `show` commands.

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Decided, Plan, PortCounters, PortKind, Switch, Work};
use crate::{Pages, Process, run_to_end, target_dir, wait_until};

const START_LIMIT: Duration = Duration::from_secs(20);
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// For a port to follow what was done to it.
const PORT_LIMIT: Duration = Duration::from_secs(10);
/// A second is promised; what is above is the machine's business.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Starts what follows the first argument, with that one as the file for standard output.
const START: &str = "out=$1; shift; exec \"$@\" > \"$out\"";
const TAKE_OVER: &str = "out=$1; shift; exec \"$@\" --take-over > \"$out\"";

/// The release binary the tests run, built beforehand by `cargo xtask`.
pub fn ringway_binary() -> PathBuf {
    target_dir().join("release/ringway")
}

/// A running `ringway run`.
pub struct Ringway {
    process: Process,
    control: PathBuf,
    names: Vec<String>,
    summary: PathBuf,
    dir: PathBuf,
    environment: Vec<String>,
    starts: u32,
}

impl Ringway {
    /// Writes `ringway.toml` into the plan's directory, starts the switch and waits until its control socket answers.
    ///
    /// # Errors
    /// When it does not get ready; its log is quoted.
    pub fn start(plan: &Plan) -> Result<Self> {
        Self::start_with(plan, "")
    }

    /// As [`Ringway::start`], with `extra` at the end of the configuration.
    ///
    /// # Errors
    /// As [`Ringway::start`].
    pub fn start_with(plan: &Plan, extra: &str) -> Result<Self> {
        let mut ringway = Self::start_in(&plan.dir, &(toml_of(plan) + extra), &[])?;
        ringway.names = plan.ports.iter().map(|port| port.name.clone()).collect();
        Ok(ringway)
    }

    /// As [`Ringway::start`], with a configuration whose control socket is `ctl.sock` in `dir`, and with these variables
    /// (`NAME=value`) in its environment. [`Switch::counters`] has no rows: there is no plan.
    ///
    /// # Errors
    /// As [`Ringway::start`].
    pub fn start_in(dir: &Path, toml: &str, environment: &[String]) -> Result<Self> {
        std::fs::write(dir.join("ringway.toml"), toml)?;
        let summary = dir.join("summary.json");
        let process = Self::run(dir, "ringway", &summary, environment, START)?;
        let mut ringway = Self {
            process,
            control: dir.join("ctl.sock"),
            names: Vec::new(),
            summary,
            dir: dir.to_path_buf(),
            environment: environment.to_vec(),
            starts: 1,
        };
        ringway.wait_ready()?;
        Ok(ringway)
    }

    fn run(dir: &Path, name: &str, summary: &Path, environment: &[String], script: &str) -> Result<Process> {
        let file = dir.join("ringway.toml");
        // Log lines go to standard error, the final summary to standard output: keep them apart.
        let mut args: Vec<String> = ["-c", script, "sh"].map(String::from).into();
        args.push(summary.display().to_string());
        args.push("env".into());
        args.extend_from_slice(environment);
        args.push(ringway_binary().display().to_string());
        args.extend(["run", &file.display().to_string(), "--json"].map(String::from));
        Process::start(name, dir, "sh", &args)
    }

    /// Starts another process, with this configuration instead of its own if given, that takes over. Returns when
    /// that one answers and the old one has ended.
    ///
    /// # Errors
    /// The take-over fails, or the old process doesn't end as it should.
    pub fn take_over(&mut self, toml: Option<&str>) -> Result<()> {
        if let Some(toml) = toml {
            std::fs::write(self.dir.join("ringway.toml"), toml)?;
        }
        self.starts += 1;
        let name = format!("ringway-{}", self.starts);
        let successor = Self::run(&self.dir, &name, &self.summary, &self.environment, TAKE_OVER)?;
        let mut old = std::mem::replace(&mut self.process, successor);
        let status = old
            .wait(START_LIMIT)
            .with_context(|| format!("logs of both:\n{}\n---\n{}\n---", old.tail(), self.process.tail()))?;
        if !status.success() {
            bail!("the old process ended with {status}; its log:\n{}", old.tail());
        }
        self.wait_ready()
    }

    /// Starts another process that is to take over under the limits that `limits` (shell commands) sets, and can't.
    /// Returns what it says.
    ///
    /// # Errors
    /// It can.
    pub fn fail_to_take_over(&mut self, limits: &str) -> Result<String> {
        self.starts += 1;
        let name = format!("ringway-{}", self.starts);
        let unused = self.dir.join("unused.json");
        let script = format!("{limits}; {TAKE_OVER}");
        let mut process = Self::run(&self.dir, &name, &unused, &self.environment, &script)?;
        let status = process.wait(START_LIMIT)?;
        if status.success() {
            bail!("it ended with {status}; its log:\n{}", process.tail());
        }
        Ok(process.log())
    }

    /// Kills the switch with SIGKILL and starts another one with the same file at once. Returns when that one answers;
    /// its log is another file.
    ///
    /// # Errors
    /// As [`Ringway::start`].
    pub fn kill_and_start_again(&mut self) -> Result<()> {
        self.process.kill()?;
        self.starts += 1;
        let name = format!("ringway-{}", self.starts);
        self.process = Self::run(&self.dir, &name, &self.summary, &self.environment, START)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = wait_until("an answer of ringway", START_LIMIT, || {
            if !self.process.is_running()? {
                bail!("ringway ended");
            }
            Ok(self.control.exists().then(|| self.show("ports").ok()).flatten())
        });
        ready.with_context(|| format!("log of ringway:\n{}\n---", self.process.tail())).map(drop)
    }

    /// The process, for signals and its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Path of the control socket.
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// Runs `ringway ARGS… --socket …` and returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        let socket = self.control.to_string_lossy().into_owned();
        let binary = ringway_binary().to_string_lossy().into_owned();
        let args: Vec<&str> = args.iter().copied().chain(["--socket", &socket]).collect();
        run_to_end(&binary, &args, COMMAND_LIMIT)
    }

    /// `ringway show WHAT --json`.
    ///
    /// # Errors
    /// When it fails or does not print JSON.
    pub fn show(&self, what: &str) -> Result<Value> {
        let text = self.command(&["show", what, "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("`show {what} --json` printed:\n{text}"))
    }

    /// The row of `show ports` of one port.
    ///
    /// # Errors
    /// As [`Ringway::show`]; or when there is no such port.
    pub fn port(&self, name: &str) -> Result<Value> {
        let shown = self.show("ports")?;
        let found = rows(&shown, "ports")?.as_array().into_iter().flatten().find(|row| row["name"] == name);
        found.cloned().with_context(|| format!("no port {name} in {shown}"))
    }

    /// Waits until the row of a port is as `wanted` says, and returns it.
    ///
    /// # Errors
    /// As [`Ringway::port`]; or after ten seconds, with the row as it is then.
    pub fn wait_for_port(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_until(what, PORT_LIMIT, || {
            last = self.port(name)?;
            Ok(wanted(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("port {name}: {last}"))
    }

    /// Ends it with SIGTERM and returns the final summary it printed.
    ///
    /// # Errors
    /// When it does not end in time, ends with an error, or prints no JSON.
    pub fn finish(mut self) -> Result<Value> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(STOP_LIMIT)?;
        if !status.success() {
            bail!("ringway ended with {status}; its log:\n{}", self.process.tail());
        }
        let text = std::fs::read_to_string(&self.summary)?;
        serde_json::from_str(&text).with_context(|| format!("the summary is:\n{text}"))
    }
}

impl Switch for Ringway {
    fn system(&self) -> &'static str {
        "ringway"
    }

    fn counters(&mut self) -> Result<Vec<PortCounters>> {
        let shown = self.show("ports")?;
        let rows: Vec<PortCounters> = serde_json::from_value(rows(&shown, "ports")?.clone())?;
        let find = |name: &String| {
            rows.iter()
                .find(|row| row.name == *name)
                .cloned()
                .with_context(|| format!("no port {name} in {shown}"))
        };
        self.names.iter().map(find).collect()
    }

    fn work(&mut self) -> Result<Work> {
        let shown = self.show("workers")?;
        let sum = |key: &str| sum(rows(&shown, "workers")?, key);
        Ok(Work {
            busy_cycles: sum("busy_cycles")?,
            idle_cycles: sum("idle_cycles")?,
            frames: sum("frames")?,
            bursts: sum("bursts")?,
            sleeps: sum("sleeps")?,
        })
    }

    fn decided(&mut self) -> Result<Decided> {
        let shown = self.show("caches")?;
        let sum = |key: &str| sum(rows(&shown, "caches")?, key);
        Ok(Decided { exact: sum("exact_hits")?, megaflow: sum("megaflow_hits")?, miss: sum("misses")? })
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.finish().map(drop)
    }
}

/// The rows of `show`, which are either the whole answer or its member `key`.
fn rows<'a>(shown: &'a Value, key: &str) -> Result<&'a Value> {
    if shown.is_array() { Ok(shown) } else { shown.get(key).with_context(|| format!("no {key} in {shown}")) }
}

/// The sum of a number over all rows.
fn sum(rows: &Value, key: &str) -> Result<u64> {
    let rows = rows.as_array().context("rows are an array")?;
    rows.iter().map(|row| row[key].as_u64().with_context(|| format!("no {key} in {row}"))).sum()
}

/// The configuration file for a plan: one bridge `br0` with everything on it.
pub fn toml_of(plan: &Plan) -> String {
    let mut text = String::new();
    let huge_pages = match plan.pages {
        Pages::Small => "off",
        Pages::Huge => "auto",
    };
    // Writing to a String cannot fail.
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory");
    line(format_args!("[workers]\ncores = [{}]\n", plan.core));
    line(format_args!("[memory]\nhuge_pages = \"{huge_pages}\"\n"));
    line(format_args!("[control]\nsocket = \"{}\"\n", plan.dir.join("ctl.sock").display()));
    line(format_args!("[[bridge]]\nname = \"br0\"\n"));
    for (index, port) in plan.ports.iter().enumerate() {
        line(format_args!("[[port]]\nname = \"{}\"\nbridge = \"br0\"", port.name));
        match &port.kind {
            PortKind::VhostUser { listens } => line(format_args!(
                "driver = \"vhost-user\"\nsocket = \"{}\"\nmode = \"{}\"",
                plan.socket(index).display(),
                if *listens { "server" } else { "client" },
            )),
            // Each has a pool of its own.
            PortKind::Dpni { number } => {
                line(format_args!("driver = \"dpaa2\"\ndpni = \"dpni.{number}\"\npool = \"dpbp.{number}\"",))
            }
            PortKind::Tap { netns } => {
                line(format_args!("driver = \"tap\"\ndevice = \"{}\"\nnetns = \"{netns}\"", port.name))
            }
        }
        line(format_args!("queues = {}\nmtu = {}\n", port.queues, port.mtu));
    }
    for flow in &plan.flows {
        line(format_args!("[[flow]]\nbridge = \"br0\"\nflow = \"{flow}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_becomes_the_file_a_user_would_write() {
        let mut plan = Plan::with_guests(Path::new("/t"), 2).join_first_two();
        plan.ports[1].kind = PortKind::Tap { netns: "blue".into() };
        let text = toml_of(&plan);
        assert!(
            text.contains(
                "name = \"vm0\"\nbridge = \"br0\"\ndriver = \"vhost-user\"\nsocket = \"/t/vm0.sock\""
            )
        );
        assert!(text.contains("driver = \"tap\"\ndevice = \"vm1\"\nnetns = \"blue\""));
        assert!(text.contains("flow = \"in_port=vm0,actions=output:vm1\""));
    }

    #[test]
    fn rows_are_found_bare_and_wrapped() {
        let bare = serde_json::json!([1]);
        let wrapped = serde_json::json!({"ports": [1]});
        assert_eq!(rows(&bare, "ports").unwrap(), rows(&wrapped, "ports").unwrap());
        assert!(rows(&serde_json::json!({}), "ports").is_err());
    }
}
