//! The switch on the model: with its own VFIO code below the preload library, beside DPDK on the same model, and with the
//! model as its file says.

use anyhow::{Context as _, Result, ensure};
use lab::dpaa2::{Control, shim};
use lab::switch::{Ringway, ringway_binary};
use lab::{Namespace, Process, Testpmd, TestpmdOptions, VirtioUser, run_to_end, wait_until, workspace_root};
use pcap_port::Capture;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::testpmd::{Streams, quit, restart_ports, settle, start_on};
use super::{COMMAND_LIMIT, NEEDS, Served, Wiring, board, check, udp};
use crate::traffic::{NamespaceHost, ping};
use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("dpaa2/ringway-fslmc-through-vfio", NEEDS, fslmc),
    Scenario::new("dpaa2/ringway-on-vfio-lx2160a", NEEDS, |c| on_vfio(c, "lx2160a")),
    Scenario::new("dpaa2/ringway-on-vfio-ls2088a", NEEDS, |c| on_vfio(c, "ls2088a")),
    Scenario::new("dpaa2/ringway-on-vfio-ls1088a", NEEDS, |c| on_vfio(c, "ls1088a")),
    Scenario::new("dpaa2/ringway-link-change", NEEDS, link_change),
    Scenario::new("dpaa2/ringway-take-over", NEEDS, take_over),
    Scenario::new("dpaa2/ringway-and-testpmd-on-one-model", NEEDS, with_testpmd),
    Scenario::new("dpaa2/wire-ends", &[Need::Ringway, Need::Root, Need::Tun], wire_ends),
    Scenario::new("dpaa2/example", NEEDS, example),
];

const EXAMPLE_LIMIT: Duration = Duration::from_secs(30);
/// Stations on the wires.
const LEFT: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
const RIGHT: [u8; 6] = [2, 0, 0, 0, 0xbb, 1];

/// A file with one bridge, whose ports leave checksums as they are, and a port `wireN` on each dpni.N; received frames lie in `dpbp.N` of the first pool, those to be
/// sent in the one behind it.
fn file(dir: &Path, fslmc: &str, dpnis: &[u32], first_pool: u32) -> String {
    let pools = [first_pool, first_pool + 1];
    let mut text = format!(
        "[workers]\ncores = [0]\n[control]\nsocket = \"{}\"\n[fslmc]\n{fslmc}\n",
        dir.join("ctl.sock").display()
    );
    for pool in pools {
        let _ = write!(text, "[[fslmc.pool]]\ndpbp = \"dpbp.{pool}\"\nbuffers = 1024\n");
    }
    text.push_str("[[bridge]]\nname = \"br0\"\n");
    for dpni in dpnis {
        let _ = write!(
            text,
            "[[port]]\nname = \"wire{dpni}\"\nbridge = \"br0\"\ndriver = \"dpaa2\"\nmtu = 9000\nchecksums = false\n\
             dpni = \"dpni.{dpni}\"\npool = \"dpbp.{}\"\ntx_pool = \"dpbp.{}\"\n",
            pools[0], pools[1]
        );
    }
    text
}

/// What makes a program use a model through the preload library.
fn preload(dir: &Path, model: Vec<String>) -> Result<Vec<String>> {
    let mut environment = model;
    environment.push(format!("TMPDIR={}", dir.display()));
    environment.push(format!("LD_PRELOAD={}", shim()?.display()));
    Ok(environment)
}

/// Runs `ringway WORDS…` below the preload library.
fn ringway_below(environment: &[String], words: &[&str]) -> Result<String> {
    let binary = ringway_binary().display().to_string();
    let args: Vec<&str> =
        environment.iter().chain([&binary]).map(String::as_str).chain(words.iter().copied()).collect();
    run_to_end("env", &args, COMMAND_LIMIT)
}

/// Waits until a port is there and has its link: after a take-over it comes a little later than the others.
fn has_link(switch: &Ringway, port: &str) -> Result<()> {
    wait_until(&format!("the link of {port}"), COMMAND_LIMIT, || {
        Ok(switch.port(port).ok().filter(|row| row["state"] == "up").map(drop))
    })
}

fn count(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or(0)
}

/// Frames of several lengths, each with a number in it; the longest take several buffers.
fn frames(from: [u8; 6], to: [u8; 6], longest: usize) -> Vec<Vec<u8>> {
    let lengths = [60, 61, 64, 127, 128, 256, 1000, 1514, 2176, 2177, 4096, 9014];
    let lengths = lengths.into_iter().filter(|len| *len <= longest).cycle();
    let frame = |(number, len): (usize, usize)| {
        let mut frame = udp(to, [10, 1, 0, 1], (1000, 9), None);
        frame[6..12].copy_from_slice(&from);
        let have = frame.len();
        // The IP packet ends where it ended: what follows is padding, which has to arrive all the same.
        frame.extend((have..len).map(|i| (i * 7 + number) as u8));
        frame[50..52].copy_from_slice(&(number as u16).to_be_bytes());
        frame.truncate(len.max(60));
        frame
    };
    (0..48).zip(lengths).map(frame).collect()
}

/// Puts frames on one MAC's wire and waits until they have left, whole and in order, by another one's.
fn pass(model: &Control, from: usize, to: usize, frames: &[Vec<u8>]) -> Result<()> {
    for frame in frames {
        model.put(from, frame)?;
    }
    for (number, frame) in frames.iter().enumerate() {
        let what = format!("frame {number} from dpmac.{from} at dpmac.{to}");
        let taken = wait_until(&what, COMMAND_LIMIT, || model.take(to))?;
        ensure!(
            taken == *frame,
            "{what} has {} bytes instead of {}, or was changed: {taken:02x?}",
            taken.len(),
            frame.len()
        );
    }
    Ok(())
}

/// Nothing broken, and nothing left behind by a program that has ended.
fn check_closed(report: &Value) -> Result<()> {
    check(report)?;
    for left in ["open_tokens", "mapped_bytes", "queued_frames", "abandoned_tokens", "abandoned_bytes"] {
        ensure!(report[left] == 0, "{left}: {report:#}");
    }
    Ok(())
}

fn check_sandbox(log: &str) -> Result<()> {
    for role in ["control", "each worker"] {
        ensure!(log.contains(&format!("sandbox: {role}:")), "no sandbox of {role}:\n{log}");
    }
    ensure!(!log.contains("refused the system call"), "{log}");
    Ok(())
}

/// Ringway's own VFIO code finds the container, what it holds, and nothing in the way.
fn fslmc(context: &Context) -> Result<()> {
    let report = context.dir.join("report.json");
    for soc in ["lx2160a", "ls2088a"] {
        let (_, mut model) = Control::of_own_model(&context.dir, &board(soc, 1, Wiring::Held))?;
        model.truncate(1);
        model.push(format!("DPAA2_MODEL_REPORT={}", report.display()));
        let environment = preload(&context.dir, model)?;
        for (words, expected) in [
            (&["fslmc", "list"][..], "dpmac.1"),
            (&["fslmc", "show", "dpni.1"], "02:4d:00:00:00:01"),
            (&["fslmc", "check"], "dprc.2 can be opened"),
        ] {
            let said = ringway_below(&environment, words)?;
            ensure!(said.contains(expected), "`ringway {}`: {said}", words.join(" "));
            check_closed(&serde_json::from_str(&std::fs::read_to_string(&report)?)?)?;
        }
    }
    Ok(())
}

/// The whole switch, sandbox and all, on `bus = "vfio"`: frames of all lengths both ways, counters of switch, hardware and
/// model agree, and nothing is left behind.
fn on_vfio(context: &Context, soc: &str) -> Result<()> {
    let report = context.dir.join("report.json");
    let (model, mut environment) = Control::of_own_model(&context.dir, &board(soc, 2, Wiring::Held))?;
    environment.push(format!("DPAA2_MODEL_REPORT={}", report.display()));
    let environment = preload(&context.dir, environment)?;
    let toml = file(&context.dir, "bus = \"vfio\"\ncontainer = \"dprc.2\"", &[1, 2], 1);
    let mut switch = Ringway::start_in(&context.dir, &toml, &environment)?;
    ["wire1", "wire2"].iter().try_for_each(|port| has_link(&switch, port))?;
    let there = frames(LEFT, RIGHT, 9014);
    let back = frames(RIGHT, LEFT, 9014);
    pass(&model, 1, 2, &there)?;
    pass(&model, 2, 1, &back)?;
    let hardware = switch.show("hardware")?;
    for (dpni, sent) in [(1, &there), (2, &back)] {
        let (port, bytes) = (format!("wire{dpni}"), sent.iter().map(Vec::len).sum::<usize>() as u64);
        let row = switch.port(&port)?;
        let counted = (count(&row, "rx_frames"), count(&row, "rx_bytes"), count(&row, "tx_frames"));
        ensure!(counted == (sent.len() as u64, bytes, sent.len() as u64), "{row}");
        ensure!(row["drops"] == serde_json::json!({}), "{row}");
        let found = hardware.as_array().into_iter().flatten().find(|row| row["port"] == port.as_str());
        let own = found.with_context(|| format!("{port} has no hardware: {hardware}"))?;
        let counters = &own["counters"];
        let by_hardware = (count(counters, "ingress_all_frames"), count(counters, "egress_all_frames"));
        ensure!(by_hardware == (counted.0, counted.2) && own["is_up"] == true, "{own:#}");
        let by_model = (model.counter(dpni, "rx_frames")?, model.counter(dpni, "tx_frames")?);
        ensure!(by_model == by_hardware, "dpni.{dpni}: {by_model:?} instead of {by_hardware:?}");
    }
    let stores = model.report()?["stores"].as_u64().unwrap_or(0);
    context.note(format!(
        "{} frames up to 9,014 bytes, {stores} stores since the start",
        there.len() + back.len()
    ));
    check_sandbox(&switch.process().log())?;
    switch.finish()?;
    check_closed(&serde_json::from_str(&std::fs::read_to_string(&report)?)?)
}

/// A link that goes down is logged and shown, and what was learned there is sent elsewhere at once.
fn link_change(context: &Context) -> Result<()> {
    let (model, environment) = Control::of_own_model(&context.dir, &board("lx2160a", 3, Wiring::Held))?;
    let environment = preload(&context.dir, environment)?;
    let toml = file(&context.dir, "bus = \"vfio\"\ncontainer = \"dprc.2\"", &[1, 2, 3], 1);
    let mut switch = Ringway::start_in(&context.dir, &toml, &environment)?;
    ["wire1", "wire2", "wire3"].iter().try_for_each(|port| has_link(&switch, port))?;
    let (from_left, to_left) = (frames(LEFT, [0xff; 6], 60), frames(RIGHT, LEFT, 60));
    pass(&model, 1, 2, &from_left[..1])?;
    model.take(3)?.context("a broadcast frame goes everywhere")?;
    pass(&model, 2, 1, &to_left[..1])?;
    ensure!(model.take(3)?.is_none(), "the station is known behind wire1");
    let from = switch.process().log().len();
    model.ask("link dpmac.1 down")?;
    let down = switch.wait_for_port("wire1", "no link", |row| row["state"] == "down")?;
    ensure!(down["reason"] == "no link", "{down}");
    switch.process().expect("a line about the link", from, COMMAND_LIMIT, |log| log.contains("link down"))?;
    pass(&model, 2, 3, &to_left[1..2])?;
    model.ask("link dpmac.1 up")?;
    has_link(&switch, "wire1")?;
    pass(&model, 1, 2, &from_left[1..2])?;
    pass(&model, 2, 1, &to_left[2..3])?;
    switch.finish().map(drop)
}

/// A successor opens the container when the running switch has closed it: no other program can, and nothing is left open.
fn take_over(context: &Context) -> Result<()> {
    let served = Served::start(&context.dir, &board("lx2160a", 2, Wiring::Held))?;
    let environment = preload(&context.dir, vec![served.variable()])?;
    let toml = file(&context.dir, "bus = \"vfio\"\ncontainer = \"dprc.2\"", &[1, 2], 1);
    let mut switch = Ringway::start_in(&context.dir, &toml, &environment)?;
    let (there, back) = (frames(LEFT, RIGHT, 9014), frames(RIGHT, LEFT, 9014));
    ["wire1", "wire2"].iter().try_for_each(|port| has_link(&switch, port))?;
    pass(&served.model, 1, 2, &there)?;
    let refused = ringway_below(&environment, &["fslmc", "check"]).expect_err("the container is in use");
    ensure!(format!("{refused:#}").contains("IOMMU group 2 is in use"), "{refused:#}");
    switch.take_over(None)?;
    ["wire1", "wire2"].iter().try_for_each(|port| has_link(&switch, port))?;
    pass(&served.model, 2, 1, &back)?;
    let row = switch.port("wire1")?;
    let (received, sent) = (count(&row, "rx_frames"), count(&row, "tx_frames"));
    ensure!((received, sent) == (there.len() as u64, back.len() as u64), "counters go on: {row}");
    check_sandbox(&switch.process().log())?;
    switch.finish()?;
    check_closed(&served.model.report()?)?;
    let said = ringway_below(&environment, &["fslmc", "check"])?;
    ensure!(said.contains("dprc.2 can be opened"), "{said}");
    served.stop()
}

fn write_capture(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    // The original format, in little endian: version 2.4, microseconds, Ethernet.
    let mut bytes =
        vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    for (number, frame) in (0u32..).zip(frames) {
        for word in [0, number, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    Ok(std::fs::write(path, bytes)?)
}

fn read_capture(path: &Path) -> Result<Vec<Vec<u8>>> {
    let capture = Capture::open(path)?;
    Ok((0..capture.frames()).map(|i| capture.frame(i).to_vec()).collect())
}

/// DPDK on one interface and Ringway on the connected one: what either sends from a capture, the other one records.
fn with_testpmd(context: &Context) -> Result<()> {
    let mut board = String::from("soc = \"lx2160a\"\n");
    for (container, dpni) in [(2, 1), (3, 2)] {
        let _ = write!(
            board,
            "[[container]]\nid = {container}\ndpio = 6\ndpbp = 2\ndpcon = 2\n[[container.dpni]]\nid = {dpni}\n\
             mac = \"02:00:00:00:00:0{dpni}\"\n"
        );
    }
    board.push_str("[[connection]]\na = \"dpni.1\"\nb = \"dpni.2\"\n");
    let served = Served::start(&context.dir, &board)?;
    let path = |name: &str| context.dir.join(name);
    let (of_testpmd, of_ringway) = (frames(LEFT, RIGHT, 1514), frames(RIGHT, LEFT, 1514));
    write_capture(&path("testpmd-sends.pcap"), &of_testpmd)?;
    write_capture(&path("ringway-sends.pcap"), &of_ringway)?;
    // The other port of testpmd replays and records: io forwarding changes nothing.
    let captures = format!(
        "--vdev=net_pcap0,rx_pcap={},tx_pcap={}",
        path("testpmd-sends.pcap").display(),
        path("testpmd-got.pcap").display()
    );
    let mut testpmd = start_on(&context.dir, &served, 2, &[&captures], &["--disable-link-check"])?;
    testpmd.succeed("set fwd io")?;
    let mut toml = file(&context.dir, "bus = \"vfio\"\ncontainer = \"dprc.3\"", &[2], 3);
    let _ = write!(
        toml,
        "[[port]]\nname = \"trace\"\nbridge = \"br0\"\ndriver = \"pcap\"\nread = \"{}\"\nwrite = \"{}\"\n",
        path("ringway-sends.pcap").display(),
        path("ringway-got.pcapng").display()
    );
    let environment = preload(&context.dir, vec![served.variable()])?;
    let mut switch = Ringway::start_in(&context.dir, &toml, &environment)?;
    has_link(&switch, "wire2")?;
    testpmd.command("start")?;
    let all = (of_testpmd.len() as u64, of_ringway.len() as u64);
    switch.wait_for_port("wire2", "all frames", |row| {
        (count(row, "rx_frames"), count(row, "tx_frames")) == all
    })?;
    settle(&testpmd)?;
    testpmd.command("stop")?;
    check_sandbox(&switch.process().log())?;
    switch.finish()?;
    quit(testpmd)?;
    ensure!(
        read_capture(&path("ringway-got.pcapng"))? == of_testpmd,
        "what Ringway received isn't what testpmd sent"
    );
    ensure!(
        read_capture(&path("testpmd-got.pcap"))? == of_ringway,
        "what testpmd received isn't what Ringway sent"
    );
    context.note(format!("{} frames to Ringway, {} to testpmd, byte for byte", all.0, all.1));
    check(&served.model.report()?)?;
    served.stop()
}

/// DPDK's DPAA2 driver sends from one interface to the connected one, whose queues Ringway divides in hardware, and DPDK's virtio driver
/// owns two of the parts: its queues get what the hardware's queues got, also after the table was changed.
pub(crate) fn steering(context: &Context) -> Result<()> {
    let board = "soc = \"lx2160a\"\n[[container]]\nid = 2\ndpio = 6\ndpbp = 2\ndpcon = 2\n[[container.dpni]]\nid = 1\n\
                 mac = \"02:00:00:00:00:01\"\n[[container]]\nid = 3\ndpio = 6\ndpbp = 6\ndpcon = 8\n[[container.dpni]]\n\
                 id = 2\nmac = \"02:00:00:00:00:02\"\nrx_tcs = 8\ntx_tcs = 8\n[[connection]]\na = \"dpni.1\"\nb = \"dpni.2\"\n";
    let served = Served::start(&context.dir, board)?;
    let path = |name: &str| context.dir.join(name);
    // To the bridge, to the first owner, to the second, to nobody known.
    let sent: Vec<_> = [(1, 8), (2, 48), (3, 16), (9, 4)]
        .into_iter()
        .flat_map(|(host, flows)| {
            (0..flows).map(move |flow| udp(RIGHT, [10, 9, 0, host], (1000 + flow, 7), None))
        })
        .collect();
    write_capture(&path("sent.pcap"), &sent)?;
    let capture = format!(
        "--vdev=net_pcap0,rx_pcap={},tx_pcap={}",
        path("sent.pcap").display(),
        path("back.pcap").display()
    );
    let mut wire = start_on(&context.dir, &served, 2, &[&capture], &["--disable-link-check"])?;
    wire.succeed("set fwd io")?;

    let mut toml = file(&context.dir, "bus = \"vfio\"\ncontainer = \"dprc.3\"", &[2], 3);
    toml.push_str("[[port]]\nname = \"station\"\nbridge = \"br0\"\ndriver = \"null\"\n");
    for (port, host, queues, pool) in [("one", 2, "1-2", 5), ("two", 3, "3-4", 6)] {
        let _ = write!(
            toml,
            "[[port]]\nname = \"{port}\"\nbridge = \"br0\"\ndriver = \"vhost-user\"\nqueues = 2\nsocket = \"{}\"\n\
             [[partition]]\nname = \"{port}\"\nport = \"wire2\"\nmatches = \"ip,nw_dst=10.9.0.{host}\"\n\
             queues = \"{queues}\"\nowner = \"port:{port}\"\ndpbp = \"dpbp.{pool}\"\npool = 512\n",
            path(&format!("{port}.sock")).display()
        );
    }
    toml.push_str("[[partition]]\nname = \"rest\"\nport = \"wire2\"\nmatches = \"any\"\nqueues = 0\nowner = \"bridge\"\n");
    let environment = preload(&context.dir, vec![served.variable()])?;
    let switch = Ringway::start_in(&context.dir, &toml, &environment)?;
    let owners = ["one", "two"]
        .map(|port| VirtioUser { queues: 2, ..VirtioUser::new(&path(&format!("{port}.sock"))) });
    let mut owners = Testpmd::start(&context.dir, &TestpmdOptions::guest("owners", 1, &owners))?;
    owners.command("set fwd rxonly")?;
    ["wire2", "one", "two"].iter().try_for_each(|port| has_link(&switch, port))?;

    let mut before = switch.show("partitions")?;
    for (table, [one, two]) in [([2, 3], [48, 16]), ([9, 2], [4, 48])] {
        if table != [2, 3] {
            // The second one's address changes hands with a stranger's before the first one's is its own.
            for (name, host) in [("two", 4), ("one", table[0]), ("two", table[1])] {
                let (queues, dpbp) = if name == "one" { ("1-2", 5) } else { ("3-4", 6) };
                let [matches, queues, owner, dpbp] = [
                    format!("matches=ip,nw_dst=10.9.0.{host}"),
                    format!("queues={queues}"),
                    format!("owner=port:{name}"),
                    format!("dpbp=dpbp.{dpbp}"),
                ];
                switch.command(&[
                    "partition",
                    "mod",
                    name,
                    "port=wire2",
                    &matches,
                    &queues,
                    &owner,
                    &dpbp,
                    "pool=512",
                ])?;
            }
        }
        owners.command("start")?;
        wire.command("start")?;
        let delivered = |rows: &Value, name: &str| {
            let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == name);
            row.map_or(0, |row| count(row, "delivered"))
        };
        let rows = wait_until("all frames", COMMAND_LIMIT, || {
            let rows = switch.show("partitions")?;
            let new = |name| delivered(&rows, name) - delivered(&before, name);
            Ok((new("one") == one && new("two") == two && new("rest") == 76 - one - two).then_some(rows))
        })?;
        wire.command("stop")?;
        // It takes what lies in its rings before it stops.
        let seen = Streams::read(&owners.command("stop")?);
        for (port, name) in [(0, "one"), (1, "two")] {
            let queues = |rows: &Value| -> Vec<u64> {
                let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == name);
                let queues = row.and_then(|row| row["each_queue"].as_array());
                queues.into_iter().flatten().map(|queue| count(queue, "delivered")).collect()
            };
            let by_ringway: Vec<u64> =
                queues(&rows).iter().zip(queues(&before)).map(|(now, then)| now - then).collect();
            let by_testpmd: Vec<u64> = (0..2).map(|queue| seen.received_by(port, queue)).collect();
            ensure!(by_testpmd == by_ringway, "{name}: {by_testpmd:?} instead of {by_ringway:?}");
            ensure!(
                by_testpmd.iter().sum::<u64>() < 10 || !by_testpmd.contains(&0),
                "{name}: {by_testpmd:?}"
            );
            context.note(format!("queues of {name}: {by_testpmd:?}"));
        }
        before = rows;
        // A port that is started again replays its capture again.
        restart_ports(&mut wire)?;
    }
    owners.quit()?;
    switch.finish()?;
    quit(wire)?;
    check(&served.model.report()?)?;
    served.stop()
}

/// What a wire can end in, by the switch's file alone: kernels behind two TAPs, a capture, a generator, another interface.
fn wire_ends(context: &Context) -> Result<()> {
    let (left, right) = (Namespace::create("left")?, Namespace::create("right")?);
    let taps = [format!("rwl{}", std::process::id()), format!("rwr{}", std::process::id())];
    let path = |name: &str| context.dir.join(name).display().to_string();
    let replayed = frames(LEFT, RIGHT, 9014);
    write_capture(&context.dir.join("replay.pcap"), &replayed)?;
    let mut board =
        String::from("soc = \"lx2160a\"\n[[container]]\nid = 2\ndpio = 14\ndpbp = 2\ndpcon = 6\n");
    for dpni in 1..=6 {
        let _ = write!(board, "[[container.dpni]]\nid = {dpni}\nmac = \"02:00:00:00:00:0{dpni}\"\n");
    }
    for (dpmac, end) in [
        (1, format!("kind = \"tap\", name = \"{}\"", taps[0])),
        (2, format!("kind = \"tap\", name = \"{}\"", taps[1])),
        (
            3,
            format!(
                "kind = \"pcap\", replay = \"{}\", record = \"{}\"",
                path("replay.pcap"),
                path("record.pcap")
            ),
        ),
        (4, "kind = \"generator\", size = 128, flows = 4, count = 500".to_owned()),
    ] {
        let _ = write!(board, "[[dpmac]]\nid = {dpmac}\nend = {{ {end} }}\n");
        let _ = write!(board, "[[connection]]\na = \"dpni.{dpmac}\"\nb = \"dpmac.{dpmac}\"\n");
    }
    board.push_str("[[connection]]\na = \"dpni.5\"\nb = \"dpni.6\"\n");
    std::fs::write(context.dir.join("board.toml"), board)?;
    let fslmc = format!("bus = \"model\"\nboard = \"{}\"\ncontainer = \"dprc.2\"", path("board.toml"));
    // Ports are opened in this order: what the capture is sent to is there before it begins.
    let mut toml = file(&context.dir, &fslmc, &[1, 2, 5, 6, 3, 4], 1);
    // The TAPs see each other. The capture goes over to dpni.6, comes back out of it, and is recorded. What is generated is
    // counted.
    for flow in [
        "in_port=wire1,actions=output:wire2",
        "in_port=wire2,actions=output:wire1",
        "in_port=wire3,actions=output:wire5",
        "in_port=wire6,actions=output:wire3",
        "in_port=wire4,actions=drop",
    ] {
        let _ = write!(toml, "[[flow]]\nbridge = \"br0\"\nflow = \"{flow}\"\n");
    }
    let mut switch = Ringway::start_in(&context.dir, &toml, &[])?;
    for (tap, namespace, address) in [(&taps[0], &left, "10.77.0.1/24"), (&taps[1], &right, "10.77.0.2/24")] {
        run_to_end("ip", &["link", "set", tap, "netns", namespace.name()], COMMAND_LIMIT)?;
        namespace.configure(tap, address, 1500)?;
    }
    let mut host = NamespaceHost::new(&left, &context.dir);
    ping(&mut host, "10.77.0.2", 56)?;
    ping(&mut host, "10.77.0.2", 1400)?;
    let generated = switch.wait_for_port("wire4", "500 frames", |row| count(row, "rx_frames") == 500)?;
    ensure!(count(&generated, "rx_bytes") == 500 * 124, "{generated}");
    let all = replayed.len() as u64;
    switch.wait_for_port("wire3", "the recorded capture", |row| count(row, "tx_frames") == all)?;
    let log = {
        let from = switch.process().log().len();
        switch.process().signal(rustix::process::Signal::TERM)?;
        switch
            .process()
            .expect("the audit", from, COMMAND_LIMIT, |log| log.contains("audit of the DPAA2 model"))?
    };
    ensure!(log.contains("audit of the DPAA2 model: clean"), "{log}");
    ensure!(
        read_capture(&context.dir.join("record.pcap"))? == replayed,
        "the record differs from the replay"
    );
    context.note(format!("pings between two TAPs, {all} frames of a capture, 500 generated"));
    Ok(())
}

/// The example of the documentation: nothing is lost that isn't counted, and the audit is clean.
fn example(context: &Context) -> Result<()> {
    let config = workspace_root().join("configs/dpaa2-model.toml").display().to_string();
    let args = ["run", &config, "--for", "3", "--json"].map(String::from);
    let mut process =
        Process::start("example", &context.dir, &ringway_binary().display().to_string(), &args)?;
    let status = process.wait(EXAMPLE_LIMIT)?;
    let log = process.log();
    ensure!(status.success() && log.contains("audit of the DPAA2 model: clean"), "it ended with {status}");
    let summary = log.lines().rev().find(|line| line.starts_with('{')).context("no summary")?;
    let summary: Value = serde_json::from_str(summary)?;
    let ports = summary["ports"].as_array().context("ports in the summary")?;
    let sum = |key: &str| ports.iter().map(|port| count(port, key)).sum::<u64>();
    let dropped: u64 = ports
        .iter()
        .flat_map(|port| port["drops"].as_object())
        .flat_map(|d| d.values())
        .filter_map(Value::as_u64)
        .sum();
    let (came, went) =
        (sum("rx_frames") + sum("copies") + sum("injected"), sum("tx_frames") + dropped + sum("punted"));
    ensure!(came == went, "received, copied and injected {came}; sent, dropped and punted {went}");
    for port in ports {
        ensure!(port["state"] == "up" && count(port, "tx_frames") > 0, "{port}");
    }
    context.note(format!("{} frames, {dropped} dropped", sum("rx_frames")));
    Ok(())
}
