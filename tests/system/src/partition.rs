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
const ON_KVM: &[Need] = &[Need::Ringway, Need::Root, Need::Tun, Need::Kvm];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("partition/flows-lx2160a", NEEDS, |c| flows(c, Wire::Dpaa2("lx2160a"))),
    Scenario::new("partition/flows-ls2088a", NEEDS, |c| flows(c, Wire::Dpaa2("ls2088a"))),
    Scenario::new("partition/flows-ls1088a", NEEDS, |c| flows(c, Wire::Dpaa2("ls1088a"))),
    Scenario::new("partition/flows-tap", NEEDS, |c| flows(c, Wire::Tap)),
    Scenario::new("partition/micro-guests-lx2160a", ON_KVM, |c| micro_guests(c, Wire::Dpaa2("lx2160a"))),
    Scenario::new("partition/micro-guests-ls2088a", ON_KVM, |c| micro_guests(c, Wire::Dpaa2("ls2088a"))),
    Scenario::new("partition/micro-guests-ls1088a", ON_KVM, |c| micro_guests(c, Wire::Dpaa2("ls1088a"))),
    Scenario::new("partition/micro-guests-tap", ON_KVM, |c| micro_guests(c, Wire::Tap)),
    Scenario::new("partition/stalled-owner", &[Need::Ringway], stalled_owner),
    Scenario::new("partition/table-change-under-load", &[Need::Ringway], table_change),
    Scenario::new("partition/steering-seen-by-testpmd", &[Need::Ringway], crate::dpaa2::steering),
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

    /// Frames of a partition that were dropped since its owner was there.
    fn dropped(&self, name: &str) -> Result<u64> {
        let row = self.partition(name)?;
        let drops = row["drops"].as_object().into_iter().flatten();
        Ok(drops.filter(|(reason, _)| *reason != "port-down").filter_map(|(_, n)| n.as_u64()).sum())
    }

    /// Frames that a partition's owner gets in a while.
    fn delivered_in(&self, name: &str, time: Duration) -> Result<u64> {
        let before = self.count(name, "delivered")?;
        std::thread::sleep(time);
        Ok(self.count(name, "delivered")? - before)
    }

    /// Waits for more than `least` frames.
    fn wait_count(&self, name: &str, key: &str, least: u64) -> Result<()> {
        let what = format!("more than {least} frames of {name}, {key}");
        wait_until(&what, DEMO_LIMIT, || Ok((self.count(name, key)? > least).then_some(())))
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

/// The ports of the station and of two owners.
const GUESTS: [&str; 3] = ["station", "one", "two"];

/// A bridge with a divided port called `wire`, and these ports of guests.
fn config(dir: &Path, wire: &str, guests: &[&str], partitions: &str) -> String {
    let mut text = format!(
        "[workers]\ncores = [0]\n[control]\nsocket = \"{}\"\n[[bridge]]\nname = \"br0\"\n{wire}\n",
        dir.join("ctl.sock").display()
    );
    for port in guests {
        let socket = dir.join(format!("{port}.sock"));
        let _ = write!(
            text,
            "[[port]]\nname = \"{port}\"\nbridge = \"br0\"\ndriver = \"vhost-user\"\nsocket = \"{}\"\n",
            socket.display()
        );
    }
    text + partitions
}

/// The bridge's own address, two owners (each a `kind` of its name), the rest for the bridge. With pools, where there is hardware for
/// them. `matches` says which frames are for a host.
fn partitions(kind: &str, hosts: [u8; 3], pools: bool, matches: impl Fn(u8) -> String) -> String {
    let mut text = String::new();
    let [one, two] = ["one", "two"].map(|name| format!("{kind}:{name}"));
    let rows = [("host", "bridge", "0"), ("one", &one, "1-2"), ("two", &two, "3-4")];
    for (at, ((name, owner, queues), host)) in rows.into_iter().zip(hosts).enumerate() {
        let pool = if pools { format!("dpbp = \"dpbp.{}\"\npool = 512\n", at + 3) } else { String::new() };
        let _ = write!(
            text,
            "[[partition]]\nname = \"{name}\"\nport = \"wire\"\nqueues = \"{queues}\"\nowner = \"{owner}\"\n{pool}\
             matches = {}\n",
            matches(host)
        );
    }
    text + "[[partition]]\nname = \"rest\"\nport = \"wire\"\nmatches = \"any\"\nqueues = 5\nowner = \"bridge\"\n"
}

/// Frames for a host are told by its IP address, in ARP, too.
fn by_ip(network: &str) -> impl Fn(u8) -> String {
    move |host| format!("[\"ip,nw_dst={network}.{host}\", \"arp,arp_tpa={network}.{host}\"]")
}

/// Ends a guest and returns what it has to report.
fn report(mut guest: Process) -> Result<Value> {
    guest.signal(Signal::TERM)?;
    guest.wait(START_LIMIT)?;
    let log = guest.log();
    Ok(serde_json::from_str(&log[log.find("{").context("no report")?..])?)
}

/// The kernel outside pings a host, and gets every answer.
fn ping_from(outside: &Namespace, host: u8) -> Result<()> {
    let ping = ["busybox", "ping", "-c", "5", "-i", "0.2", "-W", "5", &ip(host)];
    let said = outside.run(&ping, COMMAND_LIMIT)?;
    ensure!(said.contains(" 0% packet loss"), "from outside to {}:\n{said}", ip(host));
    Ok(())
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

/// A port that is a TAP device in a namespace.
fn tap(device: &str, outside: &Namespace) -> String {
    format!(
        "[[port]]\nname = \"wire\"\nbridge = \"br0\"\ndriver = \"tap\"\ndevice = \"{device}\"\nnetns = \"{}\"\n\
         queues = 2\n",
        outside.name()
    )
}

/// A name for the device outside.
fn device() -> String {
    format!("rwp{}", std::process::id() % 100_000)
}

/// The six ways between host, guests and wire, both directions of each.
fn flows(context: &Context, wire: Wire) -> Result<()> {
    let dir = &context.dir;
    let outside = Namespace::create("outside")?;
    let device = device();
    let (port, pools) = match wire {
        Wire::Tap => (tap(&device, &outside), false),
        Wire::Dpaa2(soc) => (dpaa2(dir, soc, &format!("{{ kind = \"tap\", name = \"{device}\" }}"))?, true),
    };
    let partitions = partitions("port", [STATION, ONE, TWO], pools, by_ip("10.9.0"));
    let running = Running::start(dir, &config(dir, &port, &GUESTS, &partitions))?;
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
    for port in GUESTS {
        running.wait_up(port)?;
    }
    for target in [STATION, ONE, TWO] {
        ping_from(&outside, target)?;
    }
    for (name, guest) in GUESTS.into_iter().zip(guests) {
        let report = report(guest)?;
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

/// Micro-guests in virtual machines own queues: frames from the wire and from the bridge to one of them and back, and between both
/// of them. The wire is a generator of the model, or a kernel in a namespace.
fn micro_guests(context: &Context, wire: Wire) -> Result<()> {
    let dir = &context.dir;
    let outside = Namespace::create("outside")?;
    let device = device();
    let (port, pools) = match wire {
        Wire::Tap => (tap(&device, &outside), false),
        Wire::Dpaa2(soc) => {
            let end = format!(
                "{{ kind = \"generator\", size = 64, flows = 8, rate = 2000, destination = \"{}\", hosts = 2 }}",
                mac(STATION)
            );
            (dpaa2(dir, soc, &end)?, true)
        }
    };
    let by_mac = |host| format!("\"dl_dst={}\"", mac(host));
    let partitions = partitions("vm", [STATION, ONE, TWO], pools, by_mac);
    let mut text = config(dir, &port, &["station"], &partitions);
    let to_one = format!("cmdline = \"to={} size=64 window=64\"\n", mac(ONE));
    for (name, kernel, host, cmdline) in [("one", "reflect", ONE, ""), ("two", "generate", TWO, &*to_one)] {
        let _ = write!(
            text,
            "[[vm]]\nname = \"{name}\"\nkernel = \"builtin:{kernel}\"\nmemory = \"32M\"\n{cmdline}\
             net = [{{ partition = \"{name}\", mac = \"{}\" }}]\n",
            mac(host)
        );
    }
    let mut running = Running::start(dir, &text)?;
    let judged = match wire {
        Wire::Dpaa2(_) => judge_generator(&running),
        Wire::Tap => judge_kernel(&running, &outside, &device),
    };
    let judged = judged.and_then(|()| judge_micro_guests(context, &running, wire));
    // The end by SIGINT is that of its machines, too.
    running.switch.signal(Signal::INT)?;
    let status = running.switch.wait(START_LIMIT)?;
    judged?;
    ensure!(status.success(), "the switch ended with {status}:\n{}", running.switch.log());
    Ok(())
}

/// The generator's frames get to the host and to one, and what one sends back gets to the wire.
fn judge_generator(running: &Running) -> Result<()> {
    running.wait_up("one")?;
    for (name, key) in [("host", "matched"), ("one", "delivered")] {
        running.wait_count(name, key, 2000)?;
    }
    wait_until("what came from the wire to go back there", DEMO_LIMIT, || {
        let hardware = running.show("hardware")?;
        Ok((hardware[0]["counters"]["egress_all_frames"].as_u64() > Some(1000)).then_some(()))
    })
}

/// The kernel outside pings the host, and sends one frames that come back as they were, but for their Ethernet addresses: it
/// counts them, and drops what is from an address of its own.
fn judge_kernel(running: &Running, outside: &Namespace, device: &str) -> Result<()> {
    outside.configure(device, &format!("{}/24", ip(OUTSIDE)), 1500)?;
    let (ip_one, mac_one) = (ip(ONE), mac(ONE));
    outside.run(&["ip", "neigh", "replace", &ip_one, "lladdr", &mac_one, "dev", device], COMMAND_LIMIT)?;
    let address = format!("{}/24", ip(STATION));
    let host =
        running.guest("station", &["--mode", "host", "--address", &address, "--mac", &mac(STATION)])?;
    ["station", "one"].into_iter().try_for_each(|port| running.wait_up(port))?;
    ping_from(outside, STATION)?;
    report(host)?;
    let received = || -> Result<u64> {
        let count = format!("/sys/class/net/{device}/statistics/rx_packets");
        Ok(outside.run(&["cat", &count], COMMAND_LIMIT)?.trim().parse()?)
    };
    let before = received()?;
    // It is told of no answer, as said above.
    let ping = format!("busybox ping -c 5 -i 0.2 -W 1 {ip_one} || true");
    outside.run(&["sh", "-c", &ping], COMMAND_LIMIT)?;
    wait_until(
        "frames that one sends back",
        COMMAND_LIMIT,
        || Ok((received()? >= before + 5).then_some(())),
    )?;
    for name in ["host", "one"] {
        ensure!(running.count(name, "matched")? >= 5, "{}", running.partition(name)?);
    }
    Ok(())
}

/// The host and two exchange frames with one.
fn judge_micro_guests(context: &Context, running: &Running, wire: Wire) -> Result<()> {
    running.wait_up("two")?;
    let station = running.guest(
        "station",
        &["--mode", "generate", "--mac", &mac(STATION), "--to", &mac(ONE), "--rate", "2000"],
    )?;
    running.wait_up("station")?;
    // Two gets nothing from outside: what it gets is what one has sent back.
    for (name, key) in [("one", "sent"), ("two", "delivered"), ("two", "sent")] {
        running.wait_count(name, key, 2000)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let report = report(station)?;
    ensure!(report["received"].as_u64() > Some(500), "{report}");
    // The generator on the wire has its frames sorted to the host, too.
    let from_wire = report["foreign"].as_u64() > Some(500);
    ensure!(from_wire || matches!(wire, Wire::Tap), "{report}");
    let rows = running.show("partitions")?;
    let delivered: Vec<_> = rows.as_array().into_iter().flatten().map(|row| &row["delivered"]).collect();
    context.note(format!("delivered: {delivered:?}"));
    Ok(())
}

/// Sinks on both owners and on the bridge, the model's wire at full load: to 192.168.1.2, .3 and .4 in turn, at the stations'
/// Ethernet addresses.
struct Loaded {
    running: Running,
    station: Process,
    one: Process,
    two: Process,
}

impl Loaded {
    fn start(dir: &Path, flows: u16) -> Result<Loaded> {
        let end = format!(
            "{{ kind = \"generator\", size = 64, flows = {flows}, burst = 48, destination = \"{}\", hosts = 3 }}",
            mac(STATION)
        );
        let port = dpaa2(dir, "lx2160a", &end)?;
        let partitions = partitions("port", [2, 3, 4], true, by_ip("192.168.1"));
        let running = Running::start(dir, &config(dir, &port, &GUESTS, &partitions))?;
        let sink = |port: &str, host: u8| running.guest(port, &["--mode", "sink", "--mac", &mac(host)]);
        let (station, one, two) = (sink("station", STATION)?, sink("one", ONE)?, sink("two", TWO)?);
        for port in GUESTS {
            running.wait_up(port)?;
        }
        let this = Loaded { running, station, one, two };
        ["host", "one", "two"].into_iter().try_for_each(|name| this.gets_more(name, 10_000))?;
        Ok(this)
    }

    /// Waits until a partition's owner got so many frames more.
    fn gets_more(&self, name: &str, frames: u64) -> Result<()> {
        let had = self.running.count(name, "delivered")?;
        wait_until(&format!("frames for {name}"), START_LIMIT, || {
            Ok((self.running.count(name, "delivered")? > had + frames).then_some(()))
        })
    }

    /// What a partition's owner gets in a second: the median of three.
    fn rate(&self, name: &str) -> Result<u64> {
        let mut rates = [0; 3];
        for rate in &mut rates {
            *rate = self.running.delivered_in(name, Duration::from_secs(1))?;
        }
        rates.sort_unstable();
        Ok(rates[1])
    }

    /// Ends a sink, which has got nobody else's frames.
    fn end(sink: Process) -> Result<()> {
        let report = report(sink)?;
        ensure!(report["misdirected"] == 0 && report["foreign"].as_u64() > Some(1000), "{report}");
        Ok(())
    }
}

/// An owner that stands still uses up its own pool, and its frames are dropped and counted, while the wire goes on at full load:
/// another one gets what it got before, and loses nothing. Neither does it when that owner is killed.
fn stalled_owner(context: &Context) -> Result<()> {
    let loaded = Loaded::start(&context.dir, 64)?;
    let running = &loaded.running;
    let (mut share, mut others_lost) = (0.0, 0);
    // Something else on this machine may take the processor in one of both measurements, or from the other owner.
    for _ in 0..6 {
        let before = loaded.rate("two")?;
        let others_had = running.dropped("two")?;
        loaded.one.signal(Signal::STOP)?;
        let lost = || -> Result<u64> {
            Ok(running.partition("one")?["drops"]["rx-queue-full"].as_u64().unwrap_or(0))
        };
        let had = lost()?;
        wait_until("the stalled owner's frames to be dropped", START_LIMIT, || {
            Ok((lost()? > had + 1000).then_some(()))
        })?;
        let dropped = lost()?;
        let after = loaded.rate("two")?;
        ensure!(lost()? > dropped + 1000, "the wire stands still: {}", running.partition("one")?);
        share = after as f64 / before.max(1) as f64;
        // It goes on where it stood.
        loaded.one.signal(Signal::CONT)?;
        loaded.gets_more("one", 10_000)?;
        others_lost = running.dropped("two")? - others_had;
        if share >= 0.95 && others_lost == 0 {
            break;
        }
    }
    let (one, two) = (running.partition("one")?, running.partition("two")?);
    ensure!(others_lost == 0, "two lost {others_lost} frames: {two}");
    ensure!(share >= 0.95, "with one stalled, two gets {:.0} % of what it got before", 100.0 * share);
    ensure!(one["drops"]["tx-full"].is_null(), "what one had no room for waited: {one}");
    context.note(format!(
        "another owner's rate with one stalled: {:.0} % of before, none lost; of the stalled one's: {}",
        100.0 * share,
        one["drops"]
    ));
    let Loaded { running, station, mut one, two } = loaded;
    let others_had = running.dropped("two")?;
    one.kill()?;
    running.delivered_in("two", Duration::from_millis(500))?;
    ensure!(running.dropped("two")? == others_had, "two lost frames when another owner was killed");
    Loaded::end(two)?;
    Loaded::end(station)?;
    running.stop()
}

/// Addresses change hands while frames come at full rate: nobody gets a frame that isn't for it, others lose none.
fn table_change(context: &Context) -> Result<()> {
    let loaded = Loaded::start(&context.dir, 16)?;
    let running = &loaded.running;
    let change = |more: &str, host: u8| {
        let words =
            format!("matches=[{more}\"ip,nw_dst=192.168.1.{host}\", \"arp,arp_tpa=192.168.1.{host}\"]");
        let keys = ["queues=1-2", "owner=port:one", "dpbp=dpbp.4", "pool=512"];
        let args = [&["partition", "mod", "one", "port=wire", &words][..], &keys].concat();
        running.ringway(&args).map(drop)
    };
    // The address of one is nobody's own for a while, and its own again; matches that look at more come and go in front of
    // those of others.
    let more = "\"udp,tp_dst=7\", \"dl_vlan=9\", \"udp6,ipv6_dst=fd00::7\", ";
    for (round, (more, host)) in
        [("", 77), ("", 3), (more, 77), ("", 3), (more, 3), ("", 3)].into_iter().enumerate()
    {
        change(more, host)?;
        if host != 3 {
            // What was in its queues before is its own yet.
            wait_until("one's queues to be empty", START_LIMIT, || {
                Ok(is_empty(running, "one")?.then_some(()))
            })?;
            std::thread::sleep(Duration::from_millis(50));
        }
        let got = running.delivered_in("one", Duration::from_millis(300))?;
        ensure!((got > 0) == (host == 3), "round {round}: one got {got} frames");
        ensure!(running.partition("one")?["sorted"] == "hardware", "round {round}: hardware doesn't sort");
        loaded.gets_more("two", 1000)?;
        ensure!(running.dropped("two")? == 0, "round {round}: {}", running.partition("two")?);
    }
    ensure!(running.dropped("one")? == 0, "{}", running.partition("one")?);
    let Loaded { running, station, one, two } = loaded;
    context
        .note(format!("{} frames for an owner not touched, none lost", running.count("two", "delivered")?));
    Loaded::end(one)?;
    Loaded::end(two)?;
    drop(station);
    running.stop()
}

/// Whether nothing waits in a partition's queues.
fn is_empty(running: &Running, name: &str) -> Result<bool> {
    let row = running.partition(name)?;
    let queues = row["each_queue"].as_array().context("queues")?;
    Ok(queues.iter().all(|queue| queue["depth"] == 0))
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
