//! Virtual machines of the switch's own making, under KVM: micro-guests that poll and never leave the guest.

use anyhow::{Context as _, Result, bail, ensure};
use lab::disk::{start_storage_daemon, write_numbered_blocks};
use lab::switch::{Plan, Ringway, ringway_binary};
use lab::{Namespace, Process, run_to_end, wait_until, workspace_root};
use serde_json::Value;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::command_line::balance;
use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("vmm/two-machines-lose-nothing", NEEDS, two_machines),
    Scenario::new("vmm/forward-between-two-ports-split", NEEDS, |c| forward(c, "")),
    Scenario::new("vmm/forward-between-two-ports-packed", NEEDS, |c| forward(c, "packed=on")),
    Scenario::new("vmm/sink-accounts-for-every-frame", NEEDS, sink),
    Scenario::new("vmm/machine-killed-under-load", NEEDS, machine_killed),
    Scenario::new("vmm/switch-killed-under-load", NEEDS, |c| switch_killed(c, "")),
    Scenario::new("vmm/switch-killed-under-load-packed", NEEDS, |c| switch_killed(c, "packed=on")),
    Scenario::new("vmm/confined-to-a-user-and-a-folder", NEEDS_ROOT, confined),
    Scenario::new("vmm/take-over-starts-no-machine-twice", NEEDS, take_over),
    Scenario::new("vmm/pause-and-resume", NEEDS, pause_and_resume),
    Scenario::new("vmm/no-exits-in-steady-state", NEEDS, no_exits),
    Scenario::new("vmm/memory-added-under-load", NEEDS, memory_added),
    Scenario::new("vmm/several-queue-pairs-split", NEEDS, |c| queue_pairs(c, "")),
    Scenario::new("vmm/several-queue-pairs-packed", NEEDS, |c| queue_pairs(c, "packed=on")),
    Scenario::new("vmm/queues-taken-back-split", NEEDS, |c| queues_taken_back(c, "")),
    Scenario::new("vmm/queues-taken-back-packed", NEEDS, |c| queues_taken_back(c, "packed=on")),
    Scenario::new("vmm/back-end-tap-inline", NEEDS_TAP, |c| taps(c, "tap-inline", "")),
    Scenario::new("vmm/back-end-tap-iothread", NEEDS_TAP, |c| taps(c, "tap-iothread", "")),
    Scenario::new("vmm/back-end-tap-iothread-packed", NEEDS_TAP, |c| taps(c, "tap-iothread", "packed=on")),
    Scenario::new("vmm/back-end-vhost-net", NEEDS_VHOST_NET, |c| taps(c, "vhost-net", "")),
    Scenario::new("vmm/disk-inline", NEEDS, |c| disk(c, "inline")),
    Scenario::new("vmm/disk-dataplane", NEEDS, |c| disk(c, "dataplane")),
    Scenario::new("vmm/disk-vhost-user-blk", NEEDS, |c| disk(c, "vhost-user-blk")),
    Scenario::new("vmm/asked-on-the-command-line", NEEDS, command_line),
    Scenario::new("vmm/started-again-as-the-file-says", NEEDS, restart_policy),
    Scenario::new("vmm/what-can-not-start-says-why", NEEDS, mistakes),
    Scenario::new("vmm/demo", NEEDS, demo),
];

const NEEDS: &[Need] = &[Need::Ringway, Need::Kvm];
const NEEDS_ROOT: &[Need] = &[Need::Ringway, Need::Kvm, Need::Root];
const NEEDS_TAP: &[Need] = &[Need::Ringway, Need::Kvm, Need::Root, Need::Tun];
const NEEDS_VHOST_NET: &[Need] = &[Need::Ringway, Need::Kvm, Need::Root, Need::Tun, Need::VhostNet];

/// For machines to come up, links to come back, counters to move.
const LIMIT: Duration = Duration::from_secs(30);
/// Frames that pass, in one direction and in the other together.
const FRAMES: u64 = 10_000_000;
/// For all of them.
const FRAMES_LIMIT: Duration = Duration::from_secs(100);

/// The generator's address, and the reflector's.
const GEN: &str = "02:00:00:00:00:01";
const ECHO: &str = "02:00:00:00:00:02";

/// A switch and its machines, which end with it.
struct Machines {
    switch: Ringway,
    names: Vec<&'static str>,
}

impl Drop for Machines {
    /// Machines outlive a switch that is killed, as it will be when a scenario fails.
    fn drop(&mut self) {
        for name in &self.names {
            // Those that have ended need no more.
            let _ = self.vm(&["stop", name, "--force"]);
        }
    }
}

/// A `[[vm]]` of the micro-guest with one port `NAME-p0`.
fn vm(name: &str, kernel: &str, mac: &str, cmdline: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\nkernel = \"builtin:{kernel}\"\nmemory = \"64M\"\n\
         cmdline = \"ring=4096 {cmdline}\"\n\
         net = [{{ port = \"{name}-p0\", mac = \"{mac}\", ring_size = 4096 }}]\n"
    )
}

/// A generator with so many frames on their way that a ring holds them twice, and a burst: those that the reflector has not
/// taken back yet, and those that come meanwhile. And a reflector.
fn pair(cmdline: &str) -> String {
    let generate = format!("to={ECHO} size=64 window=2000 {cmdline}");
    vm("echo", "reflect", ECHO, cmdline) + &vm("gen", "generate", GEN, &generate)
}

impl Machines {
    fn start(context: &Context, toml: &str, names: &[&'static str]) -> Result<Machines> {
        let switch = Ringway::start_with(&Plan::with_guests(&context.dir, 0), toml)?;
        Ok(Machines { switch, names: names.to_vec() })
    }

    /// A generator and a reflector under way.
    fn start_pair(context: &Context, cmdline: &str) -> Result<Machines> {
        let machines = Machines::start(context, &pair(cmdline), &["gen", "echo"])?;
        machines.wait_received(1000)?;
        Ok(machines)
    }

    /// Runs `ringway vm ARGS…`.
    fn vm(&self, args: &[&str]) -> Result<String> {
        self.switch.command(&[&["vm"], args].concat())
    }

    fn machine(&self, name: &str) -> Result<Value> {
        let text = self.vm(&["show", name, "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("`vm show {name}` printed:\n{text}"))
    }

    fn pids(&self) -> Result<Vec<Value>> {
        self.names.iter().map(|name| Ok(self.machine(name)?["pid"].clone())).collect()
    }

    /// What a micro-guest has counted.
    fn count(&self, name: &str, what: &str) -> Result<u64> {
        let status = self.machine(name)?;
        status["guest"][what].as_u64().with_context(|| format!("no {what} in {status}"))
    }

    /// Waits until the generator has received so many frames more than it has now.
    fn wait_received(&self, more: u64) -> Result<()> {
        let mut first = None;
        wait_until(&format!("{more} frames"), LIMIT, || {
            // A machine that is about to start can't be asked yet.
            let now = self.count("gen", "received").unwrap_or(0);
            let start = *first.get_or_insert(now);
            // A machine that was started again counts from zero.
            let moved = if now >= start { now - start } else { now };
            Ok((moved >= more).then_some(()))
        })
    }

    /// Sends a machine's process a signal that nobody can handle.
    fn kill(&self, name: &str) -> Result<()> {
        let pid = self.machine(name)?["pid"].as_i64().context("no process")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    }

    /// Stops the machines, senders first, then the switch.
    fn stop(mut self) -> Result<()> {
        for name in std::mem::take(&mut self.names) {
            self.vm(&["stop", name])?;
        }
        // Not to be dropped with an empty list of machines, but ended in order.
        let Machines { switch, .. } = &mut self;
        balance(&switch.show("ports")?, 0)?;
        switch.process().signal(rustix::process::Signal::TERM)?;
        let status = switch.process().wait(LIMIT)?;
        ensure!(status.success(), "the switch ended with {status}");
        Ok(())
    }
}

/// Nothing is missing, came twice, or out of order.
fn lost_nothing(machines: &Machines) -> Result<()> {
    for what in ["lost", "disordered", "foreign"] {
        ensure!(machines.count("gen", what)? == 0, "{what}: {}", machines.machine("gen")?);
    }
    Ok(())
}

fn two_machines(context: &Context) -> Result<()> {
    let machines = Machines::start_pair(context, "")?;
    let start = Instant::now();
    let passed =
        || Ok::<_, anyhow::Error>(machines.count("gen", "sent")? + machines.count("gen", "received")?);
    while passed()? < FRAMES {
        ensure!(start.elapsed() < FRAMES_LIMIT, "{} frames in {FRAMES_LIMIT:?}", passed()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    lost_nothing(&machines)?;
    context.note(format!("{FRAMES} frames in {:.1} s, none lost", start.elapsed().as_secs_f64()));
    machines.stop()
}

/// Generator on one bridge, reflector on another; what joins them is a machine with a port on each.
fn forward(context: &Context, rings: &str) -> Result<()> {
    let mut toml = "[[bridge]]\nname = \"br1\"\n".to_owned();
    let net = |port: &str, bridge: &str, mac: &str| {
        format!("{{ port = \"{port}\", bridge = \"{bridge}\", mac = \"{mac}\", ring_size = 4096 }}")
    };
    let machine = |name: &str, kernel: &str, cmdline: &str, nets: &[String]| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"builtin:{kernel}\"\nmemory = \"64M\"\n\
             cmdline = \"ring=4096 {cmdline}\"\nnet = [{}]\n",
            nets.join(", ")
        )
    };
    toml += &machine("echo", "reflect", "", &[net("echo-p0", "br1", ECHO)]);
    let both = [net("fwd-p0", "br0", "02:00:00:00:00:10"), net("fwd-p1", "br1", "02:00:00:00:00:11")];
    toml += &machine("fwd", "forward", rings, &both);
    let generate = format!("to={ECHO} size=64 window=2000 {rings}");
    toml += &machine("gen", "generate", &generate, &[net("gen-p0", "br0", GEN)]);
    let machines = Machines::start(context, &toml, &["gen", "fwd", "echo"])?;
    machines.wait_received(200_000)?;
    lost_nothing(&machines)?;
    let (received, forwarded) = (machines.count("gen", "received")?, machines.count("fwd", "sent")?);
    ensure!(forwarded >= 2 * received, "{received} came back, {forwarded} were forwarded");
    let layout = if rings.is_empty() { "split" } else { "packed" };
    let console = std::fs::read_to_string(context.dir.join("ctl-vm-fwd.log"))?;
    ensure!(console.matches(&format!("{layout} rings of 4096")).count() == 2, "{console}");
    machines.stop()
}

/// A generator that waits for nobody: what the sink doesn't have, the switch says it dropped.
fn sink(context: &Context) -> Result<()> {
    const SENT: u64 = 500_000;
    let toml = vm("sink", "sink", ECHO, "packed=on")
        + &vm("gen", "generate", GEN, &format!("to={ECHO} window=0 count={SENT}"));
    let machines = Machines::start(context, &toml, &["sink"])?;
    let port = machines.switch.wait_for_port("gen-p0", "all frames sent", |row| row["rx_frames"] == SENT)?;
    let sunk = wait_until("quiet", LIMIT, || {
        let before = machines.count("sink", "received")?;
        std::thread::sleep(Duration::from_millis(200));
        Ok((machines.count("sink", "received")? == before).then_some(before))
    })?;
    let ports = machines.switch.port("sink-p0")?;
    ensure!(ports["tx_frames"] == sunk, "the sink has {sunk}: {ports}");
    let status = machines.machine("sink")?;
    let guest = |what: &str| status["guest"][what].as_u64().unwrap_or(u64::MAX);
    ensure!(guest("disordered") == 0 && guest("foreign") == 0, "{status}");
    ensure!(sunk > 0 && guest("lost") <= SENT - sunk, "{status}");
    context.note(format!("{SENT} sent without waiting, {sunk} arrived, the others are accounted for"));
    drop(port);
    machines.stop()
}

fn machine_killed(context: &Context) -> Result<()> {
    let machines = Machines::start_pair(context, "")?;
    let before = machines.machine("echo")?["pid"].clone();
    let gen_before = machines.machine("gen")?["pid"].clone();
    machines.kill("echo")?;
    // Its keeper starts it again, its port takes it back, the other machine goes on.
    wait_until("the machine's second life", LIMIT, || {
        Ok(machines.machine("echo").is_ok_and(|echo| echo["pid"] != before).then_some(()))
    })?;
    machines.wait_received(10_000)?;
    ensure!(machines.machine("gen")?["pid"] == gen_before, "the other machine is another one, too");
    machines.stop()
}

fn switch_killed(context: &Context, cmdline: &str) -> Result<()> {
    let mut machines = Machines::start_pair(context, cmdline)?;
    let before = machines.pids()?;
    let turns = machines.count("gen", "turns")?;
    machines.switch.kill_and_start_again()?;
    machines.wait_received(10_000)?;
    let after = machines.pids()?;
    ensure!(before == after, "other processes: {before:?}, {after:?}");
    ensure!(machines.count("gen", "turns")? > turns, "the guest did not go on");
    ensure!(machines.machine("gen")?["resets"] == 0, "the guest began anew");
    context.note(format!("lost with the switch: {} frames", machines.count("gen", "lost")?));
    machines.stop()
}

/// A process of root's makes itself one of nobody's, with one folder to see: it serves, is asked, comes back to a switch
/// that was killed and to a reset, and leaves nothing behind.
fn confined(context: &Context) -> Result<()> {
    std::fs::set_permissions(&context.dir, std::fs::Permissions::from_mode(0o755))?;
    let keys = format!("user = \"nobody\"\nchroot = \"{}\"\nkernel =", context.dir.display());
    let toml = pair("").replace("kernel =", &keys);
    let mut machines = Machines::start(context, &toml, &["gen", "echo"])?;
    machines.wait_received(1000)?;
    let nobody = run_to_end("id", &["-u", "nobody"], LIMIT)?;
    let group = run_to_end("id", &["-g", "nobody"], LIMIT)?;
    let expect_confined = |machines: &Machines| -> Result<()> {
        for pid in machines.pids()? {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            for (key, number) in [("Uid:", nobody.trim()), ("Gid:", group.trim())] {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).context("a line")?;
                ensure!(line.split_whitespace().all(|word| word == number), "{key}{line}");
            }
            let root = std::fs::read_link(format!("/proc/{pid}/root"))?;
            ensure!(root == context.dir.canonicalize()?, "its root is {}", root.display());
        }
        Ok(())
    };
    expect_confined(&machines)?;
    ensure!(machines.machine("gen")?["overhead_bytes"].as_u64() > Some(0), "it can't tell its memory");
    machines.switch.kill_and_start_again()?;
    machines.wait_received(10_000)?;
    machines.vm(&["reset", "echo"])?;
    machines.wait_received(10_000)?;
    machines.vm(&["add-memory", "echo", "16M"])?;
    machines.kill("gen")?;
    wait_until("the machine's second life", LIMIT, || Ok(expect_confined(&machines).ok()))?;
    machines.wait_received(10_000)?;
    machines.stop()?;
    let left =
        std::fs::read_dir(&context.dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = left.filter(|name| name.contains("-vm-") && name.ends_with(".sock")).collect();
    ensure!(left.is_empty(), "sockets left behind: {left:?}");
    let error =
        refused(&context.dir, &vm("a", "sink", GEN, "").replace("kernel =", "chroot = \"/mnt\"\nkernel ="))?;
    ensure!(error.contains("is not below /mnt"), "{error}");
    Ok(())
}

fn take_over(context: &Context) -> Result<()> {
    let mut machines = Machines::start_pair(context, "")?;
    let before = machines.pids()?;
    machines.switch.take_over(None)?;
    machines.wait_received(10_000)?;
    let after = machines.pids()?;
    ensure!(before == after, "other processes: {before:?}, {after:?}");
    lost_nothing(&machines)?;
    // The new switch's keeper has them: it starts one again that is killed.
    machines.kill("echo")?;
    wait_until("the machine's second life", LIMIT, || {
        Ok(machines.pids().is_ok_and(|pids| pids != after).then_some(()))
    })?;
    machines.wait_received(10_000)?;
    machines.stop()
}

fn pause_and_resume(context: &Context) -> Result<()> {
    let machines = Machines::start_pair(context, "")?;
    machines.vm(&["pause", "gen"])?;
    let turns = machines.count("gen", "turns")?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(machines.count("gen", "turns")? == turns, "a paused guest runs");
    ensure!(machines.machine("gen")?["state"] == "paused");
    ensure!(machines.vm(&["pause", "gen"]).is_err(), "paused twice");
    machines.vm(&["resume", "gen"])?;
    machines.wait_received(10_000)?;
    machines.stop()
}

fn no_exits(context: &Context) -> Result<()> {
    let machines = Machines::start_pair(context, "")?;
    for name in ["gen", "echo"] {
        machines.vm(&["exits", name, "--reset"])?;
    }
    machines.wait_received(100_000)?;
    for name in ["gen", "echo"] {
        let text = machines.vm(&["exits", name, "--json"])?;
        let exits: Value = serde_json::from_str(&text)?;
        let rows = exits[0]["rows"].as_array().context("no processor")?;
        ensure!(rows.is_empty(), "{name} left its poll loop: {text}");
    }
    let kicks = machines.count("gen", "kicks")?;
    context.note(format!("no exit to user space; {kicks} doorbells in the kernel since the start"));
    machines.stop()
}

/// The generator sends from memory that its machine did not have at its start, and the switch finds the frames there.
fn memory_added(context: &Context) -> Result<()> {
    let machines = Machines::start_pair(context, "")?;
    machines.vm(&["add-memory", "gen", "64M"])?;
    wait_until("frames from the new memory", LIMIT, || {
        Ok((machines.count("gen", "moved")? == 4096 * 2048).then_some(()))
    })?;
    machines.wait_received(100_000)?;
    lost_nothing(&machines)?;
    let status = machines.machine("gen")?;
    ensure!(status["memory_bytes"] == 128 << 20, "{status}");
    ensure!(machines.vm(&["add-memory", "gen", "1T"]).is_err(), "more than there is");
    // A switch that comes later learns of all of it at once; a guest that begins anew has all of it.
    let mut machines = machines;
    machines.switch.kill_and_start_again()?;
    machines.wait_received(100_000)?;
    machines.vm(&["reset", "gen"])?;
    machines.wait_received(1000)?;
    let status = machines.machine("gen")?;
    ensure!(status["memory_bytes"] == 128 << 20 && status["resets"] == 1, "{status}");
    machines.stop()
}

/// Both machines use two of the three queue pairs that their devices have.
fn queue_pairs(context: &Context, rings: &str) -> Result<()> {
    let toml = pair(&format!("queues=2 {rings}")).replace("net = [{", "net = [{ queues = 3,");
    let machines = Machines::start(context, &toml, &["gen", "echo"])?;
    machines.wait_received(100_000)?;
    lost_nothing(&machines)?;
    for name in ["gen", "echo"] {
        let console = std::fs::read_to_string(context.dir.join(format!("ctl-vm-{name}.log")))?;
        ensure!(console.contains("queue pair 1") && !console.contains("queue pair 2"), "{console}");
        let port = machines.switch.port(&format!("{name}-p0"))?;
        ensure!(port["queues"].as_array().map(Vec::len) == Some(2), "not two of them are used: {port}");
    }
    machines.stop()
}

/// Each queue is reset by the guest while the device runs, and set up again elsewhere in its memory.
fn queues_taken_back(context: &Context, rings: &str) -> Result<()> {
    let machines = Machines::start_pair(context, &format!("requeue=on {rings}"))?;
    machines.wait_received(100_000)?;
    lost_nothing(&machines)?;
    machines.stop()
}

/// Two machines whose network devices end at TAP devices, joined by a bridge of the kernel's.
fn taps(context: &Context, backend: &str, rings: &str) -> Result<()> {
    let namespace = Namespace::create("taps")?;
    let ip = |args: &[&str]| namespace.run(&[&["ip"], args].concat(), LIMIT).map(drop);
    // The kernel says nothing of its own on these interfaces.
    namespace.run(&["sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1"], LIMIT)?;
    namespace.run(&["sysctl", "-q", "net.ipv6.conf.default.disable_ipv6=1"], LIMIT)?;
    ip(&["link", "add", "br0", "type", "bridge"])?;
    ip(&["link", "set", "br0", "up"])?;
    for tap in ["gen-p0", "echo-p0"] {
        ip(&["tuntap", "add", "dev", tap, "mode", "tap", "multi_queue", "vnet_hdr"])?;
        ip(&["link", "set", tap, "master", "br0"])?;
    }
    let file = context.dir.join("taps.toml");
    let machines = pair(rings).replace("net = [{", &format!("net = [{{ backend = \"{backend}\","));
    // As many as wait in a TAP device's own queue.
    let machines = machines.replace("window=2000", "window=256");
    std::fs::write(
        &file,
        format!("[control]\nsocket = \"ctl.sock\"\n[[bridge]]\nname = \"br0\"\n{machines}"),
    )?;
    let file = file.to_string_lossy().into_owned();
    let binary = ringway_binary().to_string_lossy().into_owned();
    let args = ["run", &file].map(String::from);
    let mut switch = Process::start_as("ringway", &context.dir, &namespace.wrap(), &binary, &args)?;
    let vm = |args: &[&str]| run_to_end(&binary, &[&["vm"], args, &["--file", &file]].concat(), LIMIT);
    let generator = || -> Result<Value> { Ok(serde_json::from_str(&vm(&["show", "gen", "--json"])?)?) };
    let came_back = |frames: u64| {
        wait_until("frames there and back", LIMIT, || {
            let status = generator().ok();
            Ok(status.filter(|status| status["guest"]["received"].as_u64() > Some(frames)))
        })
    };
    // What comes before the kernel's bridge has seen that both interfaces are up is lost there.
    let counted = came_back(1000).and_then(|first| Ok((first, came_back(20_000)?)));
    for name in ["gen", "echo"] {
        // Also when something went wrong: machines outlive the switch.
        let stopped = vm(&["stop", name]);
        if counted.is_ok() {
            stopped?;
        }
    }
    let (first, status) = counted?;
    let (before, now) = (&first["guest"], &status["guest"]);
    ensure!(now["lost"] == before["lost"] && now["disordered"] == 0, "{first}\n{status}");
    ensure!(switch.terminate(LIMIT)?.success(), "the switch did not end in order");
    context.note(format!("{} frames sent", status["guest"]["sent"]));
    Ok(())
}

fn command_line(context: &Context) -> Result<()> {
    let mut machines = Machines::start_pair(context, "")?;
    let list = machines.vm(&["list"])?;
    ensure!(list.contains("gen ") && list.contains("echo ") && list.contains("builtin:reflect"), "{list}");
    let list: Value = serde_json::from_str(&machines.vm(&["list", "--json"])?)?;
    ensure!(list[0]["name"] == "echo" && list[1]["ports"][0] == "gen-p0", "{list}");
    ensure!(machines.vm(&["show", "gen"])?.contains("running"), "not running");

    // The start has left exits: the console's bytes are port writes.
    let table = machines.vm(&["exits", "gen"])?;
    ensure!(table.contains("port-write") && table.contains("guest"), "{table}");
    let metrics = machines.vm(&["exits", "gen", "--prometheus"])?;
    ensure!(
        metrics.contains("ringway_vm_exits_total{vm=\"gen\",vcpu=\"0\",kind=\"port-write\"}"),
        "{metrics}"
    );
    let exits: Value = serde_json::from_str(&machines.vm(&["exits", "gen", "--json", "--reset"])?)?;
    let row = &exits[0]["rows"][0];
    ensure!(row["count"].as_u64() > Some(0) && row["p99_ns"].as_u64() >= row["p50_ns"].as_u64(), "{exits}");
    let again: Value = serde_json::from_str(&machines.vm(&["exits", "gen", "--json"])?)?;
    ensure!(again[0]["rows"].as_array().is_some_and(Vec::is_empty), "counted on after a reset: {again}");
    let watched = follow(context, &machines, "watch", &["exits", "gen", "--json", "--watch"], |process| {
        process.expect("two looks", 0, LIMIT, |log| log.lines().count() >= 2).map(drop)
    })?;
    ensure!(watched.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{watched}");

    // The console shows what was said before it was opened; Ctrl-] closes it.
    let said = follow(context, &machines, "console", &["console", "echo"], |process| {
        process.expect("the guest's words", 0, LIMIT, |log| log.contains("micro-guest: port"))?;
        process.say("\u{1d}")?;
        ensure!(process.wait(LIMIT)?.success(), "the console ended with an error");
        Ok(())
    })?;
    ensure!(said.contains("micro-guest: Reflect"), "{said}");

    machines.vm(&["reset", "gen"])?;
    machines.wait_received(1000)?;
    ensure!(machines.machine("gen")?["resets"] == 1, "{}", machines.machine("gen")?);

    ensure!(machines.vm(&["stop", "gen"])?.contains("stopped"), "not stopped");
    machines.names.retain(|name| *name != "gen");
    let list: Value = serde_json::from_str(&machines.vm(&["list", "--json"])?)?;
    ensure!(list.as_array().map(Vec::len) == Some(1), "{list}");
    // It may be ending yet.
    wait_until("the machine to be gone", LIMIT, || {
        let error = machines.vm(&["show", "gen"]).err().context("a machine that is gone answers")?;
        Ok(format!("{error:#}").contains("no machine `gen`").then_some(()))
    })?;
    machines.stop()
}

/// Runs a `ringway vm` command that goes on by itself, until `work` is done with it, and returns what it printed.
fn follow(
    context: &Context,
    machines: &Machines,
    name: &str,
    args: &[&str],
    work: impl FnOnce(&mut Process) -> Result<()>,
) -> Result<String> {
    let socket = machines.switch.control_socket().to_string_lossy().into_owned();
    let args = [&["vm"], args, &["--socket", &socket]].concat();
    let args: Vec<String> = args.into_iter().map(String::from).collect();
    let mut process = Process::start(name, &context.dir, &ringway_binary().to_string_lossy(), &args)?;
    work(&mut process)?;
    Ok(process.log())
}

/// A micro-guest reads a disk over and over: each block is the one it asked for.
fn disk(context: &Context, backend: &str) -> Result<()> {
    const BLOCKS: u64 = 64;
    let (file, socket) = (context.dir.join("disk"), context.dir.join("blk.sock"));
    write_numbered_blocks(&file, BLOCKS)?;
    let daemon = match backend {
        "vhost-user-blk" => Some(start_storage_daemon(&context.dir, &[], &file, &socket)?),
        _ => None,
    };
    let what = match &daemon {
        Some(_) => format!("socket = \"{}\"", socket.display()),
        None => format!("path = \"{}\"", file.display()),
    };
    let toml = format!(
        "[[vm]]\nname = \"reader\"\nkernel = \"builtin:read\"\nmemory = \"64M\"\ncmdline = \"window=16\"\n\
         disk = [{{ {what}, backend = \"{backend}\" }}]\n"
    );
    let machines = Machines::start(context, &toml, &["reader"])?;
    wait_until("the disk read ten times over", LIMIT, || {
        let received = machines.count("reader", "received").unwrap_or(0);
        Ok((received >= 10 * BLOCKS).then_some(()))
    })?;
    for (count, what) in [("lost", "requests failed"), ("foreign", "blocks were others than asked for")] {
        let wrong = machines.count("reader", count)?;
        ensure!(wrong == 0, "{wrong} {what}");
    }
    context.note(format!("{} blocks", machines.count("reader", "received")?));
    Ok(())
}

/// One that ends by itself and always comes again, one that is killed and never does.
fn restart_policy(context: &Context) -> Result<()> {
    let with =
        |text: String, policy: &str| text.replace("kernel =", &format!("restart = \"{policy}\"\nkernel ="));
    let toml = with(vm("echo", "reflect", ECHO, ""), "never")
        + &with(vm("gen", "generate", GEN, &format!("to={ECHO} count=300000")), "always");
    let machines = Machines::start(context, &toml, &["gen", "echo"])?;
    let mut seen = std::collections::BTreeSet::new();
    wait_until("three lives of the one", LIMIT, || {
        let pid = machines.machine("gen").ok().and_then(|gen_| gen_["pid"].as_i64());
        seen.extend(pid);
        Ok((seen.len() >= 3).then_some(()))
    })?;
    machines.kill("echo")?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(machines.machine("echo").is_err(), "started again against the file's word");
    Ok(())
}

/// Each machine that can't be started says why, and what to do; the switch and the others run.
fn mistakes(context: &Context) -> Result<()> {
    let mut toml = vm("good", "reflect", ECHO, "");
    let mut bad = |name: &str, kernel: &str, memory: &str| {
        // Writing to a String cannot fail.
        let _ = write!(toml, "[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"{memory}\"\n");
    };
    bad("lost", "/nowhere/vmlinux", "64M");
    bad("huge", "builtin:sink", "1T");
    bad("nobody", "builtin:sink\"\nuser = \"nobody-of-this-name", "64M");
    let vhost_net = "backend = \"vhost-net\", port = \"none-p0\"";
    let _ = writeln!(toml, "[[vm]]\nname = \"none\"\nkernel = \"builtin:sink\"\nnet = [{{ {vhost_net} }}]");
    let mut machines = Machines::start(context, &toml, &["good"])?;
    let log = machines.switch.process().log();
    for words in [
        "kernel /nowhere/vmlinux can't be read",
        "1024G of memory is more than this host has free",
        "there is no user `nobody-of-this-name` here",
    ] {
        ensure!(log.contains(words), "`{words}` is not in the log:\n{log}");
    }
    wait_until("the one that can run", LIMIT, || Ok(machines.machine("good").ok()))?;
    let list: Value = serde_json::from_str(&machines.vm(&["list", "--json"])?)?;
    ensure!(list.as_array().map(Vec::len) == Some(1), "{list}");

    // Names that overlap, and a port that two machines want, are errors of the file: nothing starts.
    let both = [vm("a", "sink", GEN, ""), vm("a", "sink", ECHO, "")].concat();
    let error = refused(&context.dir, &both)?;
    ensure!(error.contains("`a`") && error.contains("`a-p0`"), "{error}");
    let error = refused(&context.dir, &vm("a", "fly", GEN, ""))?;
    ensure!(error.contains("builtin:reflect"), "what there is isn't said: {error}");
    machines.stop()
}

/// What `ringway check` says about a file with these machines, which is wrong.
fn refused(dir: &Path, toml: &str) -> Result<String> {
    let file = dir.join("wrong.toml");
    std::fs::write(&file, format!("[control]\nsocket = \"wrong.sock\"\n[[bridge]]\nname = \"br0\"\n{toml}"))?;
    let checked = run_to_end(&ringway_binary().to_string_lossy(), &["check", &file.to_string_lossy()], LIMIT);
    match checked {
        Ok(text) => bail!("nothing wrong with it: {text}\n{toml}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// The file that README shows: all that is sent comes back.
fn demo(context: &Context) -> Result<()> {
    let file = context.dir.join("demo-vm.toml");
    let toml = std::fs::read_to_string(workspace_root().join("configs/demo-vm.toml"))?;
    // The command's own place may be some other switch's.
    let socket = context.dir.join("control.sock");
    std::fs::write(&file, toml.replace("/tmp/ringway.sock", &socket.to_string_lossy()))?;
    let text = run_to_end(
        &ringway_binary().to_string_lossy(),
        &["run", &file.to_string_lossy(), "--for", "4", "--json"],
        LIMIT,
    )?;
    let summary: Value = serde_json::from_str(&text).with_context(|| format!("the summary is:\n{text}"))?;
    let guests = summary["guests"].as_array().context("no guests")?;
    let guest = |name: &str| guests.iter().find(|row| row["name"] == name).context("a machine is missing");
    let (sender, echo) = (guest("gen")?, guest("echo")?);
    ensure!(sender["sent"].as_u64() > Some(10_000), "{summary}");
    ensure!(sender["lost"] == 0 && sender["sent"] == sender["received"], "{summary}");
    ensure!(echo["received"] == sender["sent"] && echo["sent"] == sender["sent"], "{summary}");
    balance(&summary["ports"], 0)?;
    context.note(format!("{} frames there and back", sender["sent"]));
    Ok(())
}
