//! `ringway vm`: the machines of a switch, each asked on a control socket of its own.

use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::exit;
use std::time::Duration;

use anyhow::{Context, bail};
use control::table::{Table, grouped, scaled};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use vmm::exits::{VcpuExits, merge_metrics};
use vmm::protocol::{Answer, Request, Status};
use vmm::{Client, ClientError};

use crate::args::{SwitchArgs, VmAction, VmArgs};
use crate::failure::{Outcome, Verdict};
use crate::output;

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// What ends a console: Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Does what was asked for.
pub fn vm(args: &VmArgs) -> Outcome {
    let ask = |name: &str, request: Request| {
        connect(&args.switch, name)?.ask(&request).map_err(anyhow::Error::from)
    };
    let done = |name: &str, request: Request| ask(name, request).map(|_| Verdict::Good);
    match &args.action {
        VmAction::Become => become_machine(),
        VmAction::Keep => vmm::keeper::keep().map(|()| Verdict::Good),
        VmAction::List { json } => list(&args.switch, *json),
        VmAction::Show { name, json } => {
            let status = connect(&args.switch, name)?.status()?;
            if *json { output::json(&status) } else { output::text(&machines(&[status])) }
        }
        VmAction::Console { name, virtio: false } => console(connect(&args.switch, name)?.console()?, name),
        VmAction::Console { name, virtio: true } => {
            console(connect(&args.switch, name)?.virtio_console()?, name)
        }
        VmAction::Pause { name } => done(name, Request::Pause),
        VmAction::Resume { name } => done(name, Request::Resume),
        VmAction::AddMemory { name, size } => done(name, Request::AddMemory { size: *size }),
        VmAction::Reset { name } => done(name, Request::Reset),
        VmAction::Stop { name, force } => stop(&args.switch, name, *force),
        VmAction::Exits { name, prometheus: true, .. } => match ask(name, Request::Metrics)? {
            Answer::Metrics(text) => output::text(&merge_metrics([text.as_str()])),
            _ => Err(ClientError::Mismatch.into()),
        },
        VmAction::Exits { name, reset, json, watch, .. } => exits(&args.switch, name, *reset, *json, *watch),
    }
}

/// Becomes a machine. Doesn't return: the exit code is the machine's.
fn become_machine() -> Outcome {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let config = serde_json::from_str(&text).context("the machine's description")?;
    let end = vmm::run(config);
    exit(end.exit_code().into())
}

/// The control socket of the switch whose machines are meant.
fn switch_socket(args: &SwitchArgs) -> anyhow::Result<PathBuf> {
    Ok(match &args.file {
        Some(file) => {
            let config = switch_config::load(file, &switch_config::Context::default())?;
            config.control.socket.as_path().to_owned()
        }
        None => args.socket.clone(),
    })
}

fn connect(args: &SwitchArgs, name: &str) -> anyhow::Result<Client> {
    let path = vmm_config::control_path(&switch_socket(args)?, name);
    Client::connect(&path).with_context(|| {
        format!(
            "there is no machine `{name}`, or it doesn't run; if its switch has a control socket of its own, say \
             --file with the switch's file, or --socket"
        )
    })
}

fn list(args: &SwitchArgs, json: bool) -> Outcome {
    let socket = switch_socket(args)?;
    let folder = match socket.parent() {
        Some(folder) if folder.as_os_str().is_empty() => ".".into(),
        Some(folder) => folder.to_owned(),
        None => bail!("{} is no path of a control socket", socket.display()),
    };
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("can't list {}", folder.display()))? {
        let file_name = entry?.file_name();
        if vmm_config::name_of_control(&socket, &file_name.to_string_lossy()).is_none() {
            continue;
        }
        // A socket that nobody listens on is what a killed machine leaves behind; one that ends doesn't answer.
        rows.extend(Client::connect(&folder.join(&file_name)).and_then(|mut client| client.status()));
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if json { output::json(&rows) } else { output::text(&machines(&rows)) }
}

fn machines(rows: &[Status]) -> String {
    let mut table = Table::new([
        "MACHINE",
        "STATE",
        "KERNEL",
        ">CPUS",
        ">MEMORY",
        ">OVERHEAD",
        ">PID",
        ">UP",
        ">SENT",
        ">RECEIVED",
        ">LOST",
        "PORTS",
    ]);
    for row in rows {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let count = |count: Option<u64>| count.map_or("-".to_owned(), grouped);
        table.row([
            row.name.clone(),
            row.state.name().to_owned(),
            row.kernel.clone(),
            row.cpus.to_string(),
            mib(row.memory_bytes),
            mib(row.overhead_bytes),
            row.pid.to_string(),
            format!("{} s", row.uptime_us / 1_000_000),
            count(row.guest.map(|guest| guest.sent)),
            count(row.guest.map(|guest| guest.received)),
            count(row.guest.map(|guest| guest.lost)),
            row.ports.join(", "),
        ]);
    }
    table.to_string()
}

fn stop(args: &SwitchArgs, name: &str, force: bool) -> Outcome {
    let mut waiting = connect(args, name)?;
    connect(args, name)?.ask(&Request::Stop { force })?;
    match waiting.ask(&Request::Wait) {
        Ok(Answer::Ended(end)) => output::text(&format!("{name} {end}\n")),
        Ok(_) => Err(ClientError::Mismatch.into()),
        // It was gone, or about to go, before it could be asked.
        Err(ClientError::Io(_) | ClientError::Refused(_)) => output::text(&format!("{name} stopped\n")),
        Err(error) => Err(error.into()),
    }
}

fn exits(args: &SwitchArgs, name: &str, reset: bool, json: bool, watch: bool) -> Outcome {
    let mut client = connect(args, name)?;
    loop {
        let Answer::Exits(rows) = client.ask(&Request::Exits { reset })? else {
            return Err(ClientError::Mismatch.into());
        };
        let outcome = match (json, watch) {
            (true, true) => output::json_line(&rows),
            (true, false) => output::json(&rows),
            (false, _) => output::text(&exit_table(&rows)),
        };
        if !watch {
            return outcome;
        }
        outcome?;
        std::thread::sleep(WATCH_EVERY);
    }
}

fn exit_table(vcpus: &[VcpuExits]) -> String {
    let mut table =
        Table::new([">VCPU", "KIND", ">COUNT", ">MIN", ">MEAN", ">P50", ">P99", ">MAX", ">STDDEV", ">SUM"]);
    for VcpuExits { vcpu, rows, .. } in vcpus {
        for row in rows {
            let time = |ns: f64| format!("{}s", unit(ns / 1e9));
            table.row([
                vcpu.to_string(),
                row.kind.name().to_owned(),
                grouped(row.count),
                time(row.min_ns as f64),
                time(row.mean_ns),
                time(row.p50_ns as f64),
                time(row.p99_ns as f64),
                time(row.max_ns as f64),
                time(row.stddev_ns),
                time(row.sum_ns as f64),
            ]);
        }
    }
    table.to_string() + &kernel_table(vcpus)
}

/// What the kernel counted, where it tells.
fn kernel_table(vcpus: &[VcpuExits]) -> String {
    if vcpus.iter().all(|vcpu| vcpu.kernel.is_empty()) {
        return String::new();
    }
    let mut table = Table::new([">VCPU", "COUNTED BY THE KERNEL", ">COUNT"]);
    for VcpuExits { vcpu, kernel, .. } in vcpus {
        for (name, count) in kernel {
            table.row([vcpu.to_string(), name.clone(), grouped(*count)]);
        }
    }
    format!("\n{table}")
}

/// A time with three digits and a prefix: `1.23 m`, `45.6 u`.
fn unit(seconds: f64) -> String {
    let (scale, prefix) = match seconds {
        0.0 => (1.0, ""),
        ..1e-6 => (1e9, "n"),
        ..1e-3 => (1e6, "u"),
        ..1.0 => (1e3, "m"),
        _ => (1.0, ""),
    };
    format!("{} {prefix}", scaled(seconds * scale))
}

/// Ties the terminal to the machine's console until Ctrl-] or either side's end.
fn console(mut stream: BufReader<UnixStream>, name: &str) -> Outcome {
    let early = stream.buffer().to_vec();
    let mut stdout = io::stdout().lock();
    stdout.write_all(&early)?;
    let stream: &mut UnixStream = stream.get_mut();
    let raw = RawTerminal::begin()?;
    if raw.0.is_some() {
        eprint!("console of {name}; Ctrl-] ends it\r\n");
    }
    let mut stdin_open = true;
    let mut buffer = [0; 4096];
    loop {
        let stdin = io::stdin();
        let mut fds = vec![PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
        if stdin_open {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(Verdict::Good);
            }
            stdout.write_all(&buffer[..count])?;
            stdout.flush()?;
        }
        if stdin_open && ready[1] {
            let count = stdin.lock().read(&mut buffer)?;
            let typed = &buffer[..count];
            let upto = typed.iter().position(|&byte| byte == ESCAPE);
            stream.write_all(&typed[..upto.unwrap_or(count)])?;
            if upto.is_some() {
                return Ok(Verdict::Good);
            }
            // Without more to type, what the guest says is still of interest.
            stdin_open = count > 0;
        }
    }
}

/// The terminal passing each key on as it is typed, until dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn begin() -> anyhow::Result<RawTerminal> {
        if !io::stdin().is_terminal() {
            return Ok(RawTerminal(None));
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(RawTerminal(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal may have gone away.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!([0.0, 5e-8, 2.5e-5, 0.0125, 3.0].map(unit), ["0 ", "50 n", "25 u", "12 m", "3 "]);
    }
}
