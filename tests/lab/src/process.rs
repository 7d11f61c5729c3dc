//! A child process with a log, that does not outlive its owner.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait_until;

/// Unit of processor times in `/proc`: USER_HZ is 100 in every Linux ABI we run on.
const TICK: Duration = Duration::from_millis(10);

/// From SIGKILL to the end of a process with little memory.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Lines of a log that go into an error message.
const TAIL_LINES: usize = 12;

/// A running child, leader of its own process group.
///
/// Standard output and standard error go to one log file. Dropping it kills the whole group and waits for the child. It also
/// gets a parent-death signal, so that a test run which is itself killed leaves nothing behind.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `args`; `NAME.log` in `dir` gets what it prints.
    ///
    /// # Errors
    /// When the log cannot be created or the program cannot be started.
    pub fn start(name: &str, dir: &Path, program: &str, args: &[String]) -> Result<Self> {
        Self::start_as(name, dir, &[], program, args)
    }

    /// As [`Process::start`], below the command `wrap` (for instance `ip netns exec NAME`).
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_as(name: &str, dir: &Path, wrap: &[&str], program: &str, args: &[String]) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        // setpriv arms the parent-death signal and then becomes the program: one process, no unsafe code of ours.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(wrap)
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, stdin, log })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes `line` and a newline to the child's standard input.
    ///
    /// # Errors
    /// When the child has gone.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        // At once: a child that ends at the line's first byte doesn't read the rest.
        let written = stdin.write_all(format!("{line}\n").as_bytes());
        written.with_context(|| format!("{}: writing `{line}`", self.name))
    }

    /// Everything printed so far. Bytes that are not UTF-8 are replaced.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines printed, for an error message.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Waits until `found` says yes to what was printed from byte `from` on, and returns that text.
    ///
    /// # Errors
    /// When the time is over or the child ends first; the end of its log is quoted.
    pub fn expect(
        &mut self,
        what: &str,
        from: usize,
        limit: Duration,
        found: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let result = wait_until(what, limit, || {
            let ended = self.child.try_wait()?;
            let log = self.log();
            let new = log.get(from..).unwrap_or_default();
            if found(new) {
                return Ok(Some(new.to_owned()));
            }
            if let Some(status) = ended {
                bail!("{what}: {} ended first ({status})", self.name);
            }
            Ok(None)
        });
        result.with_context(|| format!("log of {}:\n{}\n---", self.name, self.tail()))
    }

    /// Says whether the child still runs.
    ///
    /// # Errors
    /// When the system refuses to tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends `signal` to the child alone.
    ///
    /// # Errors
    /// When it has gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.as_pid()?, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Waits for the child's end.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        wait_until(&what, limit, || Ok(self.child.try_wait()?))
            .with_context(|| format!("log of {}:\n{}\n---", self.name, self.tail()))
    }

    /// Asks the child to end with SIGTERM and waits for it.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Kills the child alone, as the kernel's out-of-memory killer would, and waits until it is gone.
    ///
    /// # Errors
    /// When it has gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(KILL_LIMIT)?;
        Ok(())
    }

    fn as_pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.pid())?).context("a child has a positive id")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Ok(pid) = self.as_pid() {
                // Already gone is what we want: nothing to report.
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Runs `program` to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started, takes longer than `limit`, or fails; what it printed is quoted.
pub fn run_to_end(program: &str, args: &[&str], limit: Duration) -> Result<String> {
    let seconds = limit.as_secs().max(1).to_string();
    let output = Command::new("timeout")
        .args(["--kill-after=2", &seconds, program])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed ({}):\n{text}{errors}", args.join(" "), output.status);
    }
    Ok(text)
}

/// Resident memory of process `pid` in bytes, huge pages not counted (`VmRSS` in `/proc/PID/status`).
///
/// # Errors
/// When the process has gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS line")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Processor time process `pid` has used, user and system, all threads (fields 14 and 15 of `/proc/PID/stat`).
///
/// # Errors
/// When the process has gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no command name")?.1;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let field = |index: usize| -> Result<u32> { Ok(fields.get(index).context("short line")?.parse()?) };
    // The text after the name starts with field 3.
    Ok(TICK * (field(11)? + field(12)?))
}

/// Time the busiest thread of process `pid` (of a poll-mode program: the one that polls) has spent waiting for a core
/// somebody else had.
///
/// # Errors
/// When the process has gone, or the kernel does not keep scheduler statistics.
pub fn poll_thread_wait(pid: u32) -> Result<Duration> {
    Ok(threads(pid)?.into_iter().max().unwrap_or_default().1)
}

/// Time all threads of process `pid` but the busiest have run.
///
/// # Errors
/// As [`poll_thread_wait`].
pub fn other_threads_run(pid: u32) -> Result<Duration> {
    let mut threads = threads(pid)?;
    threads.sort();
    threads.pop();
    Ok(threads.into_iter().map(|(ran, _)| ran).sum())
}

/// Each thread of a process: time run, time waited for a core. From `/proc/PID/task/*/schedstat`.
fn threads(pid: u32) -> Result<Vec<(Duration, Duration)>> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let mut fields = stat.split_whitespace().map(str::parse);
        let mut time = || anyhow::Ok(Duration::from_nanos(fields.next().context("a short schedstat")??));
        threads.push((time()?, time()?));
    }
    Ok(threads)
}

/// Time the hypervisor has kept a core from this machine since its start (`steal` in `/proc/stat`).
///
/// # Errors
/// When there is no such core.
pub fn stolen_time(core: usize) -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let label = format!("cpu{core}");
    let line = stat.lines().map(str::split_whitespace).find(|fields| fields.clone().next() == Some(&label));
    let ticks = line.with_context(|| format!("no {label}"))?.nth(8).context("no steal time")?;
    Ok(TICK * ticks.parse()?)
}

/// Holds a process still until dropped, with SIGSTOP and SIGCONT.
pub struct Paused(Pid);

impl Paused {
    /// Stops process `pid` and waits until it stands.
    ///
    /// # Errors
    /// When it has gone.
    pub fn new(pid: u32) -> Result<Self> {
        let paused = Self(Pid::from_raw(i32::try_from(pid)?).context("a process has a positive id")?);
        kill_process(paused.0, Signal::STOP)?;
        wait_until("a stop of the process", Duration::from_secs(2), || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(()))
        })?;
        Ok(paused)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(dir: &Path, script: &str) -> Process {
        Process::start("sh", dir, "sh", &["-c".into(), script.into()]).unwrap()
    }

    #[test]
    fn a_line_said_is_heard_and_its_answer_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut cat = sh(dir.path(), "exec cat");
        cat.say("hello").unwrap();
        let heard = cat.expect("echo", 0, Duration::from_secs(5), |log| log.contains("hello")).unwrap();
        assert_eq!(heard, "hello\n");
    }

    #[test]
    fn the_end_of_a_child_ends_the_wait_and_quotes_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sh(dir.path(), "echo out of luck; exit 3");
        let error = child.expect("luck", 0, Duration::from_secs(5), |log| log.contains("never")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("out of luck") && text.contains("ended first"), "{text}");
    }

    #[test]
    fn dropping_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sh(dir.path(), "sleep 300 & echo pid $!; wait");
        let said = child.expect("pid", 0, Duration::from_secs(5), |log| log.contains('\n')).unwrap();
        let grandchild = said.trim().strip_prefix("pid ").unwrap().to_owned();
        drop(child);
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z")).then_some(()))
        };
        wait_until("end of the grandchild", Duration::from_secs(5), gone).unwrap();
    }

    #[test]
    fn a_command_that_takes_too_long_is_an_error() {
        let error = run_to_end("sleep", &["30"], Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("failed"), "{error}");
    }

    #[test]
    fn a_paused_child_says_nothing_until_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut cat = sh(dir.path(), "exec cat");
        let paused = Paused::new(cat.pid()).unwrap();
        cat.say("hello").unwrap();
        cat.expect("silence", 0, Duration::from_millis(200), |log| log.contains("hello")).unwrap_err();
        drop(paused);
        cat.expect("echo", 0, Duration::from_secs(5), |log| log.contains("hello")).unwrap();
    }

    #[test]
    fn own_memory_and_time_can_be_read() {
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
        cpu_time(std::process::id()).unwrap();
        poll_thread_wait(std::process::id()).unwrap();
        stolen_time(0).unwrap();
        assert!(stolen_time(100_000).is_err());
    }
}
