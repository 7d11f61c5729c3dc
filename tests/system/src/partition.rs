//! One port, several owners of its queues: every way a frame can go, owners that stand still, tables that change.
//!
//! A host outside (a kernel in a namespace, or a guest of the test) is on the wire; one station is on the bridge, two
//! guests own queues. All of them answer ARP and pings themselves, so a reply tells both directions of a way.

use anyhow::{Context as _, Result, bail, ensure};
use lab::switch::ringway_binary;
use lab::{Namespace, Process, run_to_end, wait_until, workspace_root};
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Context, Need, Scenario};

const NEEDS: &[Need] = &[Need::Ringway, Need::Root, Need::Tun];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("partition/flows-lx2160a", NEEDS, |c| flows(c, Wire::Dpaa2("lx2160a"))),
    Scenario::new("partition/flows-ls2088a", NEEDS, |c| flows(c, Wire::Dpaa2("ls2088a"))),
    Scenario::new("partition/flows-ls1088a", NEEDS, |c| flows(c, Wire::Dpaa2("ls1088a"))),
    Scenario::new("partition/flows-tap", NEEDS, |c| flows(c, Wire::Tap)),
    Scenario::new("partition/stalled-owner", &[Need::Ringway], stalled_owner),
    Scenario::new("partition/table-change-under-load", &[Need::Ringway], table_change),
    Scenario::new("partition/demo", &[Need::Ringway], demo),
];

const START_LIMIT: Duration = Duration::from_secs(20);
const COMMAND_LIMIT: Duration = Duration::from_secs(15);
const DEMO_LIMIT: Duration = Duration::from_secs(90);
/// Addresses end in these.
const OUTSIDE: u8 = 9;
const STATION: u8 = 1;
const ONE: u8 = 2;
const TWO: u8 = 3;

/// What the divided port is.
#[derive(Clone, Copy)]
enum Wire {
    Tap,
    /// On the model of this chip.
    Dpaa2(&'static str),
}

/// A switch that runs a file, and guests of the test on its sockets.
struct Running {
    dir: PathBuf,
    switch: Process,
}

impl Running {
    fn start(dir: &Path, toml: &str) -> Result<Running> {
        let file = dir.join("ringway.toml");
        std::fs::write(&file, toml)?;
        let args = ["run", &file.to_string_lossy(), "--json"].map(String::from);
        let switch = Process::start("ringway", dir, &ringway_binary().to_string_lossy(), &args)?;
        let mut this = Running { dir: dir.to_owned(), switch };
        wait_until("the control socket", START_LIMIT, || {
            ensure!(this.switch.is_running()?, "the switch ended:\n{}", this.switch.log());
            Ok(this.show("status").ok())
        })?;
        Ok(this)
    }

    fn ringway(&self, args: &[&str]) -> Result<String> {
        let socket = self.dir.join("ctl.sock");
        let mut all = args.to_vec();
        let socket = socket.to_string_lossy();
        all.extend(["--socket", &socket]);
        run_to_end(&ringway_binary().to_string_lossy(), &all, COMMAND_LIMIT)
    }

    fn show(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ringway(&["show", what, "--json"])?)?)
    }

    fn partition(&self, name: &str) -> Result<Value> {
        let rows = self.show("partitions")?;
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name)).cloned();
        row.with_context(|| format!("no partition {name} in {rows}"))
    }

    fn count(&self, name: &str, key: &str) -> Result<u64> {
        let row = self.partition(name)?;
        row[key].as_u64().with_context(|| format!("no {key} in {row}"))
    }

    /// A guest at a port's socket.
    fn guest(&self, port: &str, args: &[&str]) -> Result<Process> {
        let socket = self.dir.join(format!("{port}.sock"));
        let mut all = vec!["guest".to_owned(), "--json".into(), "--socket".into()];
        all.push(socket.to_string_lossy().into_owned());
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        Process::start(port, &self.dir, &ringway_binary().to_string_lossy(), &all)
    }

    fn wait_up(&self, port: &str) -> Result<()> {
        wait_until(&format!("port {port}"), START_LIMIT, || {
            let rows = self.show("ports")?;
            let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == port));
            Ok(row.filter(|row| row["state"] == "up").map(drop))
        })
    }

    fn stop(mut self) -> Result<()> {
        let status = self.switch.terminate(START_LIMIT)?;
        ensure!(status.success(), "the switch ended with {status}:\n{}", self.switch.log());
        Ok(())
    }
}

fn mac(host: u8) -> String {
    format!("02:00:00:00:00:{host:02x}")
}

fn ip(host: u8) -> String {
    format!("10.9.0.{host}")
}

/// A bridge with a station, a divided port called `wire`, and two owners.
fn config(dir: &Path, wire: &str, partitions: &str) -> String {
    let mut text = format!(
        "[workers]\ncores = [0]\n[control]\nsocket = \"{}\"\n[[bridge]]\nname = \"br0\"\n{wire}\n",
        dir.join("ctl.sock").display()
    );
    for port in ["station", "one", "two"] {
        let socket = dir.join(format!("{port}.sock"));
        let _ = write!(
            text,
            "[[port]]\nname = \"{port}\"\nbridge = \"br0\"\ndriver = \"vhost-user\"\nsocket = \"{}\"\n",
            socket.display()
        );
    }
    text + partitions
}

/// The bridge's own address, two owners, the rest for the bridge. With pools, where there is hardware for them.
fn partitions(network: &str, hosts: [u8; 3], pools: bool) -> String {
    let mut text = String::new();
    let rows = [("host", "bridge", "0"), ("one", "port:one", "1-2"), ("two", "port:two", "3-4")];
    for (at, ((name, owner, queues), host)) in rows.into_iter().zip(hosts).enumerate() {
        let pool = if pools { format!("dpbp = \"dpbp.{}\"\npool = 512\n", at + 3) } else { String::new() };
        let _ = write!(
            text,
            "[[partition]]\nname = \"{name}\"\nport = \"wire\"\nqueues = \"{queues}\"\nowner = \"{owner}\"\n{pool}\
             matches = [\"ip,nw_dst={network}.{host}\", \"arp,arp_tpa={network}.{host}\"]\n"
        );
    }
    text + "[[partition]]\nname = \"rest\"\nport = \"wire\"\nmatches = \"any\"\nqueues = 5\nowner = \"bridge\"\n"
}

/// A board with one interface on one wire, and the port on it.
fn dpaa2(dir: &Path, soc: &str, end: &str) -> Result<String> {
    let board = format!(
        "soc = \"{soc}\"\n[[container]]\nid = 2\ndpio = 16\ndpbp = 6\ndpcon = 12\n[[container.dpni]]\nid = 1\n\
         mac = \"02:00:00:00:00:f1\"\nrx_tcs = 8\ntx_tcs = 8\n[[dpmac]]\nid = 1\nend = {end}\n\
         [[connection]]\na = \"dpni.1\"\nb = \"dpmac.1\"\n"
    );
    std::fs::write(dir.join("board.toml"), board)?;
    Ok("[fslmc]\nbus = \"model\"\nboard = \"board.toml\"\ncontainer = \"dprc.2\"\n[[port]]\nname = \"wire\"\n\
        bridge = \"br0\"\ndriver = \"dpaa2\"\ndpni = \"dpni.1\"\npool = \"dpbp.1\"\ntx_pool = \"dpbp.2\"\n"
        .to_owned())
}

/// The six ways between host, guests and wire, both directions of each.
fn flows(context: &Context, wire: Wire) -> Result<()> {
    let dir = &context.dir;
    let outside = Namespace::create("outside")?;
    let device = format!("rwp{}", std::process::id() % 100_000);
    let (port, pools) = match wire {
        Wire::Tap => {
            let text = format!(
                "[[port]]\nname = \"wire\"\nbridge = \"br0\"\ndriver = \"tap\"\ndevice = \"{device}\"\nnetns = \"{}\"\n\
                 queues = 2\n",
                outside.name()
            );
            (text, false)
        }
        Wire::Dpaa2(soc) => (dpaa2(dir, soc, &format!("{{ kind = \"tap\", name = \"{device}\" }}"))?, true),
    };
    let running =
        Running::start(dir, &config(dir, &port, &partitions("10.9.0", [STATION, ONE, TWO], pools)))?;
    if pools {
        run_to_end("ip", &["link", "set", &device, "netns", outside.name()], COMMAND_LIMIT)?;
    }
    outside.configure(&device, &format!("{}/24", ip(OUTSIDE)), 1500)?;
    let host = |port: &str, own: u8, ping: u8| {
        let (address, mac, ping) = (format!("{}/24", ip(own)), mac(own), ip(ping));
        let host = ["--mode", "host", "--address", &address, "--mac", &mac];
        running.guest(port, &[&host[..], &["--ping", &ping, "--ping-interval", "0.1"]].concat())
    };
    // Host to wire, guest to host, guest to guest; the wire to all of them below.
    let guests = [host("station", STATION, OUTSIDE)?, host("one", ONE, STATION)?, host("two", TWO, ONE)?];
    for port in ["station", "one", "two"] {
        running.wait_up(port)?;
    }
    for target in [STATION, ONE, TWO] {
        let said = outside.run(&["ping", "-c", "5", "-i", "0.2", "-W", "5", &ip(target)], COMMAND_LIMIT)?;
        ensure!(said.contains(" 0% packet loss"), "from outside to {}:\n{said}", ip(target));
    }
    for (name, mut guest) in ["station", "one", "two"].into_iter().zip(guests) {
        guest.signal(Signal::TERM)?;
        guest.wait(START_LIMIT)?;
        let log = guest.log();
        let report: Value = serde_json::from_str(&log[log.find("{").context("no report")?..])?;
        let answered = report["pings"][0]["received"].as_u64().unwrap_or(0);
        ensure!(answered >= 5, "{name} got {answered} answers to its pings: {report}");
    }
    let rows = running.show("partitions")?;
    for row in rows.as_array().context("rows")? {
        let sorted = if matches!(wire, Wire::Tap) { "software" } else { "hardware" };
        ensure!(row["sorted"] == sorted, "{row}");
        ensure!(row["name"] == "rest" || row["matched"].as_u64() > Some(5), "{row}");
    }
    running.stop()
}

/// Sinks on both owners and on the bridge, the model's wire at full load.
fn under_load(dir: &Path, flows: u16) -> Result<(Running, [Process; 3])> {
    let end = format!(
        "{{ kind = \"generator\", size = 64, flows = {flows}, burst = 48, destination = \"02:00:00:00:00:01\", hosts = 3 }}"
    );
    let port = dpaa2(dir, "lx2160a", &end)?;
    let running = Running::start(dir, &config(dir, &port, &partitions("192.168.1", [2, 3, 4], true)))?;
    let sinks = ["station", "one", "two"].map(|port| running.guest(port, &["--mode", "sink"]));
    let [station, one, two] = sinks;
    let sinks = [station?, one?, two?];
    for port in ["station", "one", "two"] {
        running.wait_up(port)?;
    }
    let enough = |name: &'static str| {
        wait_until("frames for each owner", START_LIMIT, || {
            Ok((running.count(name, "delivered")? > 10_000).then_some(()))
        })
    };
    enough("host")?;
    enough("one")?;
    enough("two")?;
    Ok((running, sinks))
}

/// Delivered and dropped frames of a partition over so long.
fn over(running: &Running, name: &str, time: Duration) -> Result<(u64, u64)> {
    let drops = |row: &Value| -> u64 {
        row["drops"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum()
    };
    let before = running.partition(name)?;
    std::thread::sleep(time);
    let after = running.partition(name)?;
    let delivered = |row: &Value| row["delivered"].as_u64().unwrap_or(0);
    Ok((delivered(&after) - delivered(&before), drops(&after) - drops(&before)))
}

/// An owner that stands still uses up its own pool; another one gets what it got before, and loses nothing.
fn stalled_owner(context: &Context) -> Result<()> {
    let (running, [station, one, two]) = under_load(&context.dir, 64)?;
    let time = Duration::from_secs(3);
    let (before, lost_before) = over(&running, "two", time)?;
    one.signal(Signal::STOP)?;
    let exhausted = wait_until("the pool of the stalled owner to be used up", START_LIMIT, || {
        let row = running.partition("one")?;
        Ok((row["pool"]["free"].as_u64() < Some(64)).then_some(row))
    })?;
    let (after, lost_after) = over(&running, "two", time)?;
    let stalled = running.partition("one")?;
    ensure!(lost_before + lost_after == 0, "two lost {lost_before} and {lost_after} frames");
    ensure!(after * 2 > before, "two got {after} frames after {before}");
    ensure!(running.partition("two")?["pool"]["free"].as_u64() > Some(64), "its pool isn't its own");
    context.note(format!(
        "another owner's rate with one stalled: {:.0} % of before; the stalled one's pool: {} of {} free, {} frames dropped in \
         its rings",
        100.0 * after as f64 / before.max(1) as f64,
        exhausted["pool"]["free"],
        exhausted["pool"]["buffers"],
        stalled["drops"]
    ));
    // It goes on where it stood.
    one.signal(Signal::CONT)?;
    let had = running.count("one", "delivered")?;
    wait_until("the stalled owner to go on", START_LIMIT, || {
        Ok((running.count("one", "delivered")? > had + 10_000).then_some(()))
    })?;
    // One that is killed is no different.
    let mut one = one;
    one.kill()?;
    let (_, lost) = over(&running, "two", Duration::from_secs(1))?;
    ensure!(lost == 0, "two lost {lost} frames when another owner was killed");
    drop((station, two));
    running.stop()
}

/// Addresses change hands while frames come at full rate: nobody gets a frame that isn't for it, others lose none.
fn table_change(context: &Context) -> Result<()> {
    let (running, [station, one, two]) = under_load(&context.dir, 16)?;
    let matches = |name: &str, host: u8, queues: &str, pool: u8| {
        let words = format!("matches=[\"ip,nw_dst=192.168.1.{host}\", \"arp,arp_tpa=192.168.1.{host}\"]");
        let (owner, dpbp) = (format!("owner=port:{name}"), format!("dpbp=dpbp.{pool}"));
        let args = ["partition", "mod", name, "port=wire", &words, queues, &owner, &dpbp, "pool=512"];
        running.ringway(&args).map(drop)
    };
    let lost_before = over(&running, "two", Duration::ZERO)?.1;
    for round in 0..6 {
        // The address of one is nobody's own for a while, and its own again.
        matches("one", if round % 2 == 0 { 77 } else { 3 }, "queues=1-2", 4)?;
        std::thread::sleep(Duration::from_millis(300));
        let sorted = wait_until("hardware to sort again", START_LIMIT, || {
            let row = running.partition("one")?;
            Ok((row["sorted"] == "hardware").then_some(row))
        })?;
        let (delivered, _) = over(&running, "one", Duration::from_millis(500))?;
        let should = round % 2 == 1;
        ensure!((delivered > 0) == should, "round {round}: one got {delivered} frames: {sorted}");
        let (delivered, lost) = over(&running, "two", Duration::from_millis(200))?;
        ensure!(delivered > 0 && lost == 0, "round {round}: two got {delivered} and lost {lost} frames");
    }
    let row = running.partition("two")?;
    ensure!(row["drops"].as_object().is_none_or(serde_json::Map::is_empty) && lost_before == 0, "{row}");
    drop((station, one, two));
    running.stop()
}

/// The example of the documentation: three owners, two of them machines.
fn demo(context: &Context) -> Result<()> {
    let file = workspace_root().join("configs/partition-demo.toml");
    let args = ["run", &file.to_string_lossy(), "--for", "6", "--json"].map(String::from);
    let mut process = Process::start("demo", &context.dir, &ringway_binary().to_string_lossy(), &args)?;
    let status = process.wait(DEMO_LIMIT)?;
    let log = process.log();
    ensure!(status.success(), "the demo ended with {status}:\n{log}");
    let summary = log.find("{\n").or_else(|| log.find("{\"")).context("the demo printed no summary")?;
    let mut values = serde_json::Deserializer::from_str(&log[summary..]).into_iter::<Value>();
    let Some(summary) = values.next().transpose()? else { bail!("the demo printed no summary") };
    let rows = summary["partitions"].as_array().context("no partitions in the summary")?;
    ensure!(rows.len() == 3, "{} partitions", rows.len());
    for row in rows {
        ensure!(row["sorted"] == "hardware" && row["matched"].as_u64() > Some(1000), "{row}");
    }
    let owners: Vec<_> = rows.iter().map(|row| format!("{} {}", row["owner"], row["delivered"])).collect();
    context.note(format!("delivered: {}", owners.join(", ")));
    Ok(())
}
