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
        let said = outside
            .run(&["busybox", "ping", "-c", "5", "-i", "0.2", "-W", "5", &ip(target)], COMMAND_LIMIT)?;
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
