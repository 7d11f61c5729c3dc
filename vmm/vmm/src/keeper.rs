//! Keeps machines: starts each as a process, or finds it running, and starts it again as its policy says.
//!
//! A keeper is a process of its own, started by the switch before that gives up its privileges, starting processes
//! among them. It reads its orders from standard input: first a line of JSON, the machines; then [`STOP`], upon which
//! it stops them and prints a line of JSON, a [`Kept`] for each. When its input ends (the switch has ended, or was
//! killed) it ends too, and leaves the machines running: the next switch's keeper finds them.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use vmm_config::{BuiltinMode, Kernel, Restart, Vm};

use crate::client::{Client, ClientError};
use crate::life::{End, EndKind};
use crate::protocol::{Answer, GuestCounts, Request};

/// The line that tells a keeper to stop its machines.
pub const STOP: &str = "stop";

/// How long a machine may take until its control socket is there.
const APPEAR: Duration = Duration::from_secs(10);
/// How long machines that send are held back for those that answer.
const ANSWERING: Duration = Duration::from_secs(3);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Before a machine is started again: the first time, and what it grows to.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// A machine that lived so long begins with the short wait again.
const LIVED: Duration = Duration::from_secs(10);
/// How long machines may take to stop.
const STOPPING: Duration = Duration::from_secs(5);

/// What became of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// What it ran.
    pub kernel: String,
    /// How it ended; `None` if it runs on.
    pub end: Option<End>,
    /// Times it was started again.
    pub restarts: u64,
}

impl Kept {
    /// What the micro-guest counted, if that was what ran.
    pub fn counts(&self) -> Option<GuestCounts> {
        self.end.as_ref()?.guest
    }
}

struct Machine {
    config: Vm,
    kept: Mutex<Kept>,
    stopping: AtomicBool,
}

/// Is a keeper, until its input ends or tells it to stop. Doesn't return.
///
/// # Errors
/// The first line isn't a list of machines.
pub fn keep() -> anyhow::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let configs: Vec<Vm> = serde_json::from_str(&line).context("the list of machines")?;
    let mut machines: Vec<(Arc<Machine>, JoinHandle<()>)> = Vec::new();
    // Those that answer come first: what is sent to them before they listen is lost.
    let (senders, others): (Vec<Vm>, Vec<Vm>) = configs.into_iter().partition(sends);
    let answering = others.len();
    for config in others.into_iter().chain(senders) {
        if machines.len() == answering && !machines.is_empty() {
            wait_until_answering(&machines);
        }
        let kept =
            Kept { name: config.name.to_string(), kernel: config.kernel.to_string(), end: None, restarts: 0 };
        let machine = Arc::new(Machine { config, kept: Mutex::new(kept), stopping: AtomicBool::new(false) });
        let theirs = machine.clone();
        let name = format!("keep-{}", machine.config.name);
        machines.push((machine, std::thread::Builder::new().name(name).spawn(move || theirs.supervise())?));
    }
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            exit(0);
        }
        if line.trim() == STOP {
            let mut out = serde_json::to_vec(&stop_all(machines))?;
            out.push(b'\n');
            io::stdout().write_all(&out)?;
            exit(0);
        }
    }
}

/// Which file is at `path`, if any.
fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

/// Whether a machine sends on its own account.
fn sends(config: &Vm) -> bool {
    config.kernel == Kernel::Builtin(BuiltinMode::Generate)
}

/// Waits, not long, until the micro-guests among these machines poll.
fn wait_until_answering(machines: &[(Arc<Machine>, JoinHandle<()>)]) {
    let deadline = Instant::now() + ANSWERING;
    let polls = |machine: &Machine| {
        let status = Client::connect(&machine.config.control).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.guest.is_some_and(|guest| guest.turns > 0))
    };
    let builtin = |machine: &Machine| matches!(machine.config.kernel, Kernel::Builtin(_));
    while machines.iter().any(|(machine, _)| builtin(machine) && !polls(machine)) && Instant::now() < deadline
    {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Stops those that send on their own account first, so that what is under way still arrives.
fn stop_all(machines: Vec<(Arc<Machine>, JoinHandle<()>)>) -> Vec<Kept> {
    for round in [true, false] {
        let deadline = Instant::now() + STOPPING;
        let of_round = || machines.iter().filter(|(machine, _)| sends(&machine.config) == round);
        of_round().for_each(|(machine, _)| machine.stop(false));
        while of_round().any(|(_, thread)| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        of_round().filter(|(_, thread)| !thread.is_finished()).for_each(|(machine, _)| machine.stop(true));
    }
    let deadline = Instant::now() + STOPPING;
    while machines.iter().any(|(_, thread)| !thread.is_finished()) && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
    machines.iter().map(|(machine, _)| machine.kept().clone()).collect()
}

impl Machine {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, force: bool) {
        self.stopping.store(true, Ordering::Release);
        // One that isn't there needn't be stopped.
        let _ =
            Client::connect(&self.config.control).and_then(|mut client| client.ask(&Request::Stop { force }));
    }

    /// Starts the machine, waits for its end, and again.
    fn supervise(&self) {
        let mut pause = AGAIN_FIRST;
        loop {
            let started = Instant::now();
            let end = self.one_life().unwrap_or_else(|error| End::new(EndKind::Failed, format!("{error:#}")));
            let again = match self.config.restart {
                Restart::Never => false,
                Restart::OnFailure => end.is_failure(),
                Restart::Always => end.kind != EndKind::Stopped,
            };
            let name = &self.config.name;
            let is_last = !again || self.stopping.load(Ordering::Acquire);
            match (is_last, end.is_failure()) {
                (true, false) => tracing::info!("machine {name}: {end}"),
                (true, true) => tracing::warn!("machine {name}: {end}"),
                (false, _) => tracing::warn!("machine {name}: {end}; it is started again"),
            }
            self.kept().end = Some(end);
            if is_last {
                return;
            }
            if started.elapsed() >= LIVED {
                pause = AGAIN_FIRST;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(AGAIN_MAX);
            let mut kept = self.kept();
            (kept.end, kept.restarts) = (None, kept.restarts + 1);
        }
    }

    fn one_life(&self) -> anyhow::Result<End> {
        let path = &self.config.control;
        let (client, mut child) = match Client::connect(path) {
            // A former switch has started it.
            Ok(client) => (client, None),
            Err(_) => {
                let mut child = self.spawn()?;
                let deadline = Instant::now() + APPEAR;
                let client = loop {
                    match Client::connect(path) {
                        Ok(client) => break client,
                        Err(_) if child.try_wait()?.is_none() && Instant::now() < deadline => {
                            std::thread::sleep(LOOK_EVERY);
                        }
                        Err(_) => return self.end_of(&mut child),
                    }
                };
                (client, Some(child))
            }
        };
        let socket = inode(path);
        let end = self.wait_for_end(client, &mut child);
        // A process that was killed leaves its socket, and so does one that may not remove it. Another one there belongs
        // to another life.
        if end.is_ok() && socket.is_some() && inode(path) == socket {
            let _ = std::fs::remove_file(path);
        }
        end
    }

    /// Waits until the machine has ended, which was started here if there is a child.
    fn wait_for_end(&self, mut client: Client, child: &mut Option<Child>) -> anyhow::Result<End> {
        let answer = client.ask(&Request::Wait);
        match (answer, child) {
            (Ok(Answer::Ended(end)), child) => {
                if let Some(child) = child {
                    child.wait()?;
                }
                Ok(end)
            }
            (_, Some(child)) => self.end_of(child),
            (Err(ClientError::Io(_)), None) => Ok(End::new(EndKind::Crashed, "its process was killed")),
            (Ok(_), None) => Err(ClientError::Mismatch.into()),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = match &self.config.log {
            Some(path) => File::options()
                .append(true)
                .create(true)
                .open(path)
                .with_context(|| format!("log {}", path.display()))?
                .into(),
            None => Stdio::null(),
        };
        // A group of its own: a Ctrl-C is for the switch, which ends its machines in order.
        let mut child = Command::new("/proc/self/exe")
            .args(["vm", "become"])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting its process")?;
        let text = serde_json::to_vec(&self.config)?;
        child.stdin.take().expect("piped").write_all(&text)?;
        Ok(child)
    }

    /// What the process that never said why it ended died of.
    fn end_of(&self, child: &mut Child) -> anyhow::Result<End> {
        let status = child.wait()?;
        let log = self.config.log.as_ref().map_or(String::new(), |log| format!("; see {}", log.display()));
        Ok(match (status.code(), status.signal()) {
            (Some(121), _) => End::new(EndKind::Failed, format!("it could not be started{log}")),
            (Some(code), _) => End::new(EndKind::Failed, format!("its process ended with code {code}{log}")),
            (None, Some(signal)) => {
                End::new(EndKind::Crashed, format!("its process was killed by signal {signal}"))
            }
            (None, None) => End::new(EndKind::Crashed, "its process is gone"),
        })
    }
}
