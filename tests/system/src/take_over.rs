//! A new process takes over from the running one: what the guests feel, what goes on, and what becomes of a take-over
//! that fails.

use anyhow::{Context as _, Result, bail, ensure};
use lab::switch::{Plan, PortKind, Ringway, Switch as _, ringway_binary, toml_of};
use lab::{Namespace, Process, Traffic, TrafficOptions};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command_line::balance;
use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/take-over-under-load", &[Need::Ringway], |c| under_load(c, &[])),
    Scenario::new("resilience/take-over-under-load-packed", &[Need::Ringway], |c| {
        under_load(c, &["--packed"])
    }),
    Scenario::new("resilience/take-over-that-fails", &[Need::Ringway], that_fails),
    Scenario::new("resilience/take-over-with-another-file", &[Need::Ringway], with_another_file),
    Scenario::new(
        "resilience/take-over-of-a-tap-device",
        &[Need::Ringway, Need::Root, Need::Tun],
        of_a_tap_device,
    ),
];

/// Frames a second.
const RATE: &str = "500000";
/// Frames on their way at most: what piles up in 40 ms at this rate, and still fits the rings.
const WINDOW: &str = "20000";
const RING_SIZE: &str = "32768";
/// How long the generator sends.
const SECONDS: u64 = 5;
const GUEST_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1200);

/// Two take-overs, one after the other, while two guests exchange half a million frames a second.
fn under_load(context: &Context, guest_options: &[&str]) -> Result<()> {
    let plan = Plan::with_guests(&context.dir, 2).join_first_two();
    let mut switch = Ringway::start(&plan)?;
    let mut reflector = Guest::start(&plan, 1, &["--mode", "reflect", "--mac", REFLECTOR], guest_options)?;
    switch.wait_for_port("vm1", "up", |row| row["state"] == "up")?;
    let generate = ["--mode", "generate", "--to", REFLECTOR, "--rate", RATE, "--window", WINDOW];
    let seconds = SECONDS.to_string();
    let args: Vec<&str> = generate.into_iter().chain(["--for", &seconds]).collect();
    let mut generator = Guest::start(&plan, 0, &args, guest_options)?;
    switch.wait_for_port("vm0", "under traffic", |row| row["rx_frames"].as_u64() > Some(100_000))?;

    let mut pauses = vec![];
    for _ in 0..2 {
        let before = switch.port("vm0")?;
        switch.take_over(None)?;
        let status = switch.show("status")?;
        let taken = &status["taken_over"];
        ensure!(taken["ports"] == 2, "not both ports went on: {status}");
        let us = taken["pause_us"].as_u64().context("a pause")?;
        pauses.push(format!("{:.1} ms", us as f64 / 1000.0));
        let after = switch.port("vm0")?;
        let grew = after["rx_frames"].as_u64() > before["rx_frames"].as_u64();
        ensure!(grew && after["state"] == "up", "counters don't go on:\n{before}\n{after}");
        std::thread::sleep(PAUSE);
    }
    let sent = generator.report()?;
    reflector.process.signal(rustix::process::Signal::TERM)?;
    let reflected = reflector.report()?;
    for (what, wanted) in [("lost", 0), ("duplicated", 0), ("reordered", 0), ("ring_faults", 0)] {
        ensure!(sent[what] == wanted, "{what}: {sent}");
    }
    ensure!(sent["connections"] == 1 && reflected["connections"] == 1, "a guest was disconnected: {sent}");
    let ports = switch.counters()?;
    let frames = sent["sent"].as_u64().context("frames sent")?;
    // A guest that connects announces itself with a frame that it doesn't count.
    let counted = ports[0].rx_frames;
    ensure!(counted == frames + 1, "{frames} sent, {counted} counted over three processes");
    let flows = switch.show("flows")?;
    let credited: u64 = flows.as_array().into_iter().flatten().filter_map(|row| row["frames"].as_u64()).sum();
    let received: u64 = ports.iter().map(|port| port.rx_frames).sum();
    ensure!(credited == received, "rules were credited {credited} of {received} frames: {flows}");
    balance(&switch.show("ports")?, 0)?;
    context.note(format!(
        "{frames} frames at {:.0} a second and back, none lost; frames rested for {}; the longest way was {:.1} ms",
        sent["sent_pps"].as_f64().unwrap_or(0.0),
        pauses.join(" and "),
        sent["latency"]["max_us"].as_f64().unwrap_or(0.0) / 1000.0
    ));
    switch.finish().map(drop)
}

/// Whatever goes wrong, the running switch goes on, and both say why.
fn that_fails(context: &Context) -> Result<()> {
    let plan = Plan::with_guests(&context.dir, 2).join_first_two();
    let mut switch = Ringway::start(&plan)?;
    let is_up = |row: &Value| row["state"] == "up";
    let traffic = Traffic::start(&plan.socket(0), &plan.socket(1), TrafficOptions::default(), || {
        switch.wait_for_port("vm1", "up", is_up).map(drop)
    })?;
    switch.wait_for_port("vm0", "under traffic", |row| row["rx_frames"].as_u64() > Some(1000))?;
    let pid = switch.pid();
    let says = |switch: &mut Ringway, words: &str| -> Result<()> {
        ensure!(switch.show("status")?["pid"] == pid, "another process answers");
        let log = switch.process().log();
        ensure!(log.contains(words), "`{words}` is not in the log of the running switch:\n{log}");
        Ok(())
    };

    // A file that is wrong: the running switch isn't even asked.
    let file = plan.dir.join("ringway.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("queues = 1", "queues = 0"))?;
    let log = switch.fail_to_take_over("true")?;
    ensure!(log.contains("queues"), "{log}");
    // One that asks for less than a guest has in use.
    std::fs::write(
        &file,
        text.replace("driver = \"vhost-user\"", "driver = \"vhost-user\"\nfeatures_off = [\"mrg_rxbuf\"]"),
    )?;
    let log = switch.fail_to_take_over("true")?;
    ensure!(log.contains("feature set") && log.contains("was left as it is"), "{log}");
    says(&mut switch, "feature set")?;
    std::fs::write(&file, &text)?;

    // No address space for what is to be mapped.
    let log = switch.fail_to_take_over("ulimit -v 60000")?;
    context.note(format!("without memory: {}", log.lines().last().unwrap_or("")));
    ensure!(switch.show("status")?["pid"] == pid, "another process answers");

    // A program of another time.
    let answer = Successor::ask(switch.control_socket(), 98, 99)?.answer;
    ensure!(answer["error"]["kind"] == "version", "{answer}");
    says(&mut switch, "this switch hands over states of version")?;

    // One that dies while it prepares itself, and one that dies while frames rest.
    let mut successor = Successor::ask(switch.control_socket(), 1, u32::MAX)?;
    ensure!(successor.next_note()?.0 == STATE, "no state");
    drop(successor);
    std::thread::sleep(Duration::from_millis(200));
    says(&mut switch, "the new process is gone")?;
    let mut successor = Successor::ask(switch.control_socket(), 1, u32::MAX)?;
    ensure!(successor.next_note()?.0 == STATE, "no state");
    successor.say(READY)?;
    ensure!(successor.next_note()?.0 == HELD, "the switch isn't held");
    drop(successor);
    std::thread::sleep(Duration::from_millis(200));
    says(&mut switch, "frames rested for")?;

    // One that hangs while frames rest: the switch doesn't wait for ever, nor lets it have anything later.
    let mut successor = Successor::ask(switch.control_socket(), 1, u32::MAX)?;
    ensure!(successor.next_note()?.0 == STATE, "no state");
    let refused = switch.command(&["flow", "add", "priority=1,actions=drop"]).unwrap_err();
    ensure!(format!("{refused:#}").contains("being taken over"), "{refused:#}");
    successor.say(READY)?;
    ensure!(successor.next_note()?.0 == HELD, "the switch isn't held");
    let (kind, text) = successor.next_note()?;
    ensure!(kind == FAILED && text.contains("didn't answer"), "note {kind}: {text}");
    says(&mut switch, "didn't answer")?;

    // After all that, one succeeds.
    switch.take_over(None)?;
    let felt = traffic.finish()?;
    ensure!(felt.lost == 0 && felt.duplicated == 0, "{felt:?}");
    balance(&switch.show("ports")?, 0)?;
    context.note(format!("{} frames, none lost over seven failures and a success", felt.sent));
    switch.finish().map(drop)
}

/// The new file has other ports, rules and workers; rules added by hand and addresses stay.
fn with_another_file(context: &Context) -> Result<()> {
    let mut plan = Plan::with_guests(&context.dir, 3);
    plan.flows = vec!["priority=0,actions=normal".into(), "in_port=vm2,actions=drop".into()];
    let mut switch = Ringway::start(&plan)?;
    let is_up = |row: &Value| row["state"] == "up";
    let traffic = Traffic::start(&plan.socket(0), &plan.socket(1), TrafficOptions::default(), || {
        switch.wait_for_port("vm1", "up", is_up).map(drop)
    })?;
    switch.wait_for_port("vm0", "under traffic", |row| row["rx_frames"].as_u64() > Some(1000))?;
    switch.command(&["flow", "add", "cookie=7,priority=9,idle_timeout=600,tcp,tp_dst=9,actions=drop"])?;
    let addresses = |switch: &Ringway| -> Result<Vec<String>> {
        let shown = switch.show("fdb")?;
        let row = |row: &Value| format!("{} {} {}", row["mac"], row["port"], row["vlan"]);
        Ok(shown.as_array().into_iter().flatten().map(row).collect())
    };
    let before = addresses(&switch)?;
    ensure!(before.len() == 2, "both guests are known: {before:?}");

    let mut next = Plan::with_guests(&context.dir, 2);
    next.ports.push(lab::switch::Port { name: "vm9".into(), ..plan.ports[2].clone() });
    next.ports.push(lab::switch::Port { name: "vm7".into(), ..plan.ports[2].clone() });
    next.flows = vec!["priority=0,actions=normal".into(), "in_port=vm9,actions=drop".into()];
    switch.take_over(Some(&(toml_of(&next).replace("[workers]", "[workers]\nidle = \"poll\""))))?;

    let after = addresses(&switch)?;
    ensure!(before == after, "addresses before: {before:?}, after: {after:?}");
    let shown = switch.show("ports")?;
    let names: Vec<&str> =
        shown.as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
    ensure!(names.contains(&"vm9") && names.contains(&"vm7") && !names.contains(&"vm2"), "{names:?}");
    ensure!(!plan.socket(2).exists() || names.contains(&"vm2"), "the socket of the port that is gone stays");
    UnixStream::connect(next.socket(2)).context("the new port doesn't listen")?;
    let flows = switch.show("flows")?.to_string();
    for (rule, there) in [("tp_dst=9", true), ("in_port=vm9", true), ("in_port=vm2", false)] {
        ensure!(flows.contains(rule) == there, "rule {rule}: {flows}");
    }
    let rule = switch.show("flows")?;
    let frames = rule.as_array().into_iter().flatten().map(|row| row["frames"].as_u64().unwrap_or(0)).max();
    ensure!(frames > Some(1000), "counters of rules start anew: {rule}");
    let felt = traffic.finish()?;
    ensure!(felt.lost == 0 && felt.duplicated == 0, "{felt:?}");
    context.note(format!("{} frames, none lost; the longest way was {:.1} ms", felt.sent, felt.longest_ms));
    switch.finish().map(drop)
}

/// A device in a network namespace stays the same device, and a ping through it loses nothing.
fn of_a_tap_device(context: &Context) -> Result<()> {
    let namespace = Namespace::create("takeover")?;
    let mut plan = Plan::with_guests(&context.dir, 2);
    plan.ports[1].kind = PortKind::Tap { netns: namespace.name().to_owned() };
    let mut switch = Ringway::start(&plan)?;
    namespace.configure("vm1", "10.77.0.1/24", 1500)?;
    let mut guest = Guest::start(&plan, 0, &["--mode", "host", "--address", "10.77.0.2/24"], &[])?;
    switch.wait_for_port("vm0", "up", |row| row["state"] == "up")?;
    let link = || namespace.run(&["ip", "-o", "link", "show", "dev", "vm1"], GUEST_LIMIT);
    let before = link()?;
    let args = ["-c", "busybox ping -c 1 -W 5 10.77.0.2 && busybox ping -i 0.05 -c 80 10.77.0.2"];
    let mut ping = Process::start_as("ping", &context.dir, &namespace.wrap(), "sh", &args.map(String::from))?;
    ping.expect("pings", 0, GUEST_LIMIT, |log| log.contains("seq=10 "))?;
    for _ in 0..2 {
        switch.take_over(None)?;
        let row = switch.port("vm1")?;
        ensure!(row["state"] == "up" && row["rx_frames"].as_u64() > Some(10), "{row}");
        std::thread::sleep(Duration::from_millis(500));
    }
    ping.wait(GUEST_LIMIT)?;
    let said = ping.log();
    ensure!(said.contains("80 packets received"), "{said}");
    let after = link()?;
    ensure!(before == after, "another device:\n{before}{after}");
    guest.process.signal(rustix::process::Signal::TERM)?;
    guest.report()?;
    context.note("80 pings, none lost; the same device");
    switch.finish().map(drop)
}

/// Ethernet address of the reflector.
const REFLECTOR: &str = "02:52:57:ff:00:02";

/// `ringway guest` as a process.
struct Guest {
    process: Process,
    report: PathBuf,
}

impl Guest {
    fn start(plan: &Plan, port: usize, role: &[&str], options: &[&str]) -> Result<Guest> {
        let name = format!("guest{port}");
        let report = plan.dir.join(format!("{name}.json"));
        let script = "out=$1; shift; exec \"$@\" > \"$out\"";
        let mut args: Vec<String> = ["-c", script, "sh"].map(String::from).into();
        args.push(report.display().to_string());
        args.push(ringway_binary().display().to_string());
        args.extend(["guest", "--json", "--ring-size", RING_SIZE, "--socket"].map(String::from));
        args.push(plan.socket(port).display().to_string());
        args.extend(role.iter().chain(options).map(ToString::to_string));
        Ok(Guest { process: Process::start(&name, &plan.dir, "sh", &args)?, report })
    }

    /// Waits until it ends, and returns what it has to tell.
    fn report(&mut self) -> Result<Value> {
        let status = self.process.wait(GUEST_LIMIT)?;
        if !status.success() {
            bail!("a guest ended with {status}; its log:\n{}", self.process.tail());
        }
        Ok(serde_json::from_str(&std::fs::read_to_string(&self.report)?)?)
    }
}

const STATE: u8 = 1;
const READY: u8 = 2;
const HELD: u8 = 3;
const FAILED: u8 = 6;

/// A process that begins to take over, as far as the scenario lets it. Descriptors that it is sent are closed.
struct Successor {
    stream: BufReader<UnixStream>,
    answer: Value,
}

impl Successor {
    fn ask(socket: &Path, oldest: u32, newest: u32) -> Result<Successor> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(GUEST_LIMIT))?;
        let request = serde_json::json!({"take-over": {"oldest": oldest, "newest": newest}});
        let line = serde_json::json!({"version": 1, "id": 1, "request": request});
        writeln!(stream, "{line}")?;
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        Ok(Successor { stream, answer: serde_json::from_str(&answer)? })
    }

    /// Kind and text of the next note.
    fn next_note(&mut self) -> Result<(u8, String)> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header)?;
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
        };
        // A byte comes with each 64 descriptors.
        let mut text = vec![0; number(4) + number(8).div_ceil(64)];
        self.stream.read_exact(&mut text)?;
        text.truncate(number(4));
        Ok((header[0], String::from_utf8(text)?))
    }

    fn say(&mut self, kind: u8) -> Result<()> {
        let mut note = [0; 12];
        note[0] = kind;
        Ok(self.stream.get_mut().write_all(&note)?)
    }
}
