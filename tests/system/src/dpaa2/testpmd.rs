//! Stock `dpdk-testpmd`, with DPDK's own DPAA2 driver, on the model of the hardware: somebody else's driver as the judge of
//! the model that judges ours.
//!
//! testpmd runs unmodified below the preload library; the model lives in its process. What testpmd counts itself (its
//! streams, not the port statistics it reads from the model) must be what the model counted; the model's audit must be clean
//! and every buffer accounted for.

use anyhow::{Context as _, Result, ensure};
use lab::dpaa2::{Control, OnModel, Options, shim};
use lab::{Process, wait_until};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{COMMAND_LIMIT, NEEDS, OWN, Served, Wiring, board, check, udp};
use crate::{Context, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("dpaa2/testpmd-lx2160a-io", NEEDS, |c| Forward::on("lx2160a").run(c)),
    Scenario::new("dpaa2/testpmd-lx2160a-mac-2-ports", NEEDS, |c| {
        Forward::on("lx2160a").ports(2).mac().run(c)
    }),
    Scenario::new("dpaa2/testpmd-lx2160a-2-cores", NEEDS, |c| {
        Forward::on("lx2160a").ports(2).cores(2).run(c)
    }),
    Scenario::new("dpaa2/testpmd-ls2088a-io", NEEDS, |c| Forward::on("ls2088a").run(c)),
    Scenario::new("dpaa2/testpmd-ls2088a-mac-2-ports-2-cores", NEEDS, |c| {
        Forward::on("ls2088a").ports(2).cores(2).mac().run(c)
    }),
    Scenario::new("dpaa2/testpmd-ls1088a-io", NEEDS, |c| Forward::on("ls1088a").run(c)),
    Scenario::new("dpaa2/testpmd-ls1088a-mac-2-ports-2-cores", NEEDS, |c| {
        Forward::on("ls1088a").ports(2).cores(2).mac().run(c)
    }),
    Scenario::new("dpaa2/testpmd-lx2160a-scatter-gather", NEEDS, |c| scatter_gather(c, "lx2160a")),
    Scenario::new("dpaa2/testpmd-ls2088a-scatter-gather", NEEDS, |c| scatter_gather(c, "ls2088a")),
    Scenario::new("dpaa2/testpmd-ls1088a-scatter-gather", NEEDS, |c| scatter_gather(c, "ls1088a")),
    Scenario::new("dpaa2/testpmd-lx2160a-9000-bytes", NEEDS, |c| jumbo(c, "lx2160a")),
    Scenario::new("dpaa2/testpmd-ls2088a-9000-bytes", NEEDS, |c| jumbo(c, "ls2088a")),
    Scenario::new("dpaa2/testpmd-ls1088a-9000-bytes", NEEDS, |c| jumbo(c, "ls1088a")),
    Scenario::new("dpaa2/testpmd-lx2160a-rss", NEEDS, |c| rss(c, "lx2160a")),
    Scenario::new("dpaa2/testpmd-ls2088a-rss", NEEDS, |c| rss(c, "ls2088a")),
    Scenario::new("dpaa2/testpmd-ls1088a-rss", NEEDS, |c| rss(c, "ls1088a")),
    Scenario::new("dpaa2/testpmd-lx2160a-filters", NEEDS, |c| filters(c, "lx2160a")),
    Scenario::new("dpaa2/testpmd-ls2088a-filters", NEEDS, |c| filters(c, "ls2088a")),
    Scenario::new("dpaa2/testpmd-ls1088a-filters", NEEDS, |c| filters(c, "ls1088a")),
    Scenario::new("dpaa2/testpmd-lx2160a-flow-rules", NEEDS, |c| flow_rules(c, "lx2160a")),
    Scenario::new("dpaa2/testpmd-ls2088a-flow-rules", NEEDS, |c| flow_rules(c, "ls2088a")),
    Scenario::new("dpaa2/testpmd-ls1088a-flow-rules", NEEDS, |c| flow_rules(c, "ls1088a")),
    Scenario::new("dpaa2/testpmd-flow-rules-by-field", NEEDS, flow_fields),
    Scenario::new("dpaa2/testpmd-flow-rules-by-class", NEEDS, flow_classes),
    Scenario::new("dpaa2/testpmd-driver-modes", NEEDS, driver_modes),
    Scenario::new("dpaa2/testpmd-link-interrupt", NEEDS, link_interrupt),
    Scenario::new("dpaa2/testpmd-stop-start", NEEDS, stop_start),
    Scenario::new("dpaa2/testpmd-two-processes", NEEDS, two_processes),
    Scenario::new("dpaa2/event-selftest", NEEDS, event_selftest),
];

/// Packet buffers of testpmd's pool.
const BUFFERS: u64 = 4096;

/// Starts a testpmd on a model in its own process.
fn start(dir: &Path, board: &str, cores: usize, arguments: &[&str]) -> Result<OnModel> {
    start_with(dir, board, cores, &[], arguments)
}

/// As [`start`], with more arguments for DPDK itself.
fn start_with(dir: &Path, board: &str, cores: usize, dpdk: &[&str], arguments: &[&str]) -> Result<OnModel> {
    let (control, mut environment) = Control::of_own_model(dir, board)?;
    environment.push("DPRC=dprc.2".into());
    let options = Options { environment: &environment, cores, dpdk, arguments, ..OPTIONS };
    start_below("testpmd", dir, control, options)
}

/// Starts a testpmd on a container of a model in another process, with more arguments for DPDK itself and for testpmd.
pub(super) fn start_on(
    dir: &Path,
    served: &Served,
    container: u32,
    dpdk: &[&str],
    arguments: &[&str],
) -> Result<OnModel> {
    let environment = [served.variable(), format!("DPRC=dprc.{container}")];
    let name = format!("testpmd-{container}");
    let options = Options { environment: &environment, dpdk, arguments, ..OPTIONS };
    start_below(&name, dir, served.model.clone(), options)
}

const OPTIONS: Options<'static> =
    Options { environment: &[], cores: 1, buffers: BUFFERS, dpdk: &[], arguments: &[] };

fn start_below(name: &str, dir: &Path, model: Control, options: Options<'_>) -> Result<OnModel> {
    // What is left in the queues between two starts is to be counted, not thrown away.
    let arguments = [&["--no-flush-rx"], options.arguments].concat();
    OnModel::start(name, dir, model, &Options { arguments: &arguments, ..options })
}

fn create_flow(testpmd: &mut OnModel, rule: &str) -> Result<()> {
    let said = testpmd.command(&format!("flow create 0 {rule}"))?;
    ensure!(said.contains("created"), "`{rule}`: {said}");
    Ok(())
}

/// Stops and starts all ports.
pub(super) fn restart_ports(testpmd: &mut OnModel) -> Result<()> {
    testpmd.command("port stop all")?;
    let said = testpmd.command("port start all")?;
    ensure!(!said.contains("Fail"), "{said}");
    Ok(())
}

/// Waits until a forwarding testpmd has taken everything out of the queues and looked at it.
pub(super) fn settle(testpmd: &OnModel) -> Result<()> {
    let dequeues = |report: &Value| report["dequeues"].as_u64().unwrap_or(0);
    let report = wait_until("empty queues", COMMAND_LIMIT, || {
        let report = testpmd.model.report()?;
        Ok((report["queued_frames"] == 0).then_some(report))
    })?;
    // The driver keeps one more result per queue until it has asked for the next one.
    let seen = dequeues(&report) + 50;
    wait_until("more polls", COMMAND_LIMIT, || Ok((dequeues(&testpmd.model.report()?) > seen).then_some(())))
}

/// Stops forwarding and takes what is left out of the queues; gives what all streams received and sent since `start`.
fn stop_and_drain(testpmd: &mut OnModel) -> Result<Streams> {
    let mut streams = Streams::read(&testpmd.command("stop")?);
    testpmd.succeed("set fwd rxonly")?;
    testpmd.command("start")?;
    settle(testpmd)?;
    streams += Streams::read(&testpmd.command("stop")?);
    Ok(streams)
}

/// Leaves in order and looks at what the model has to say.
pub(super) fn quit(testpmd: OnModel) -> Result<Value> {
    let report = testpmd.quit()?;
    check(&report)?;
    Ok(report)
}

/// What testpmd's own streams counted, by receive queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    /// Port, queue, frames received, frames sent.
    rows: Vec<(usize, usize, u64, u64)>,
}

impl std::ops::AddAssign for Streams {
    fn add_assign(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }
}

impl Streams {
    pub(super) fn read(text: &str) -> Self {
        let number = |line: &str, label: &str| -> Option<u64> {
            line.split_once(label)?
                .1
                .split(|c: char| !c.is_ascii_digit())
                .find(|part| !part.is_empty())?
                .parse()
                .ok()
        };
        let mut rows = Vec::new();
        let mut stream = None;
        for line in text.lines() {
            if let (Some(port), Some(queue)) = (number(line, "RX Port="), number(line, "/Queue=")) {
                stream = Some((port as usize, queue as usize));
            } else if let (Some((port, queue)), Some(rx)) = (stream, number(line, "RX-packets:")) {
                rows.push((port, queue, rx, number(line, "TX-packets:").unwrap_or(0)));
                stream = None;
            }
        }
        Self { rows }
    }

    fn received(&self) -> u64 {
        self.rows.iter().map(|row| row.2).sum()
    }

    fn sent(&self) -> u64 {
        self.rows.iter().map(|row| row.3).sum()
    }

    pub(super) fn received_by(&self, port: usize, queue: usize) -> u64 {
        self.rows.iter().filter(|row| (row.0, row.1) == (port, queue)).map(|row| row.2).sum()
    }
}

/// Frames forwarded in circles.
struct Forward {
    soc: &'static str,
    ports: usize,
    cores: usize,
    mode: &'static str,
}

impl Forward {
    fn on(soc: &'static str) -> Self {
        Self { soc, ports: 1, cores: 1, mode: "io" }
    }
    fn ports(self, ports: usize) -> Self {
        Self { ports, ..self }
    }
    fn cores(self, cores: usize) -> Self {
        Self { cores, ..self }
    }
    fn mac(self) -> Self {
        Self { mode: "mac", ..self }
    }

    fn run(&self, context: &Context) -> Result<()> {
        let wiring = if self.ports == 2 { Wiring::Together } else { Wiring::Looped };
        let board = board(self.soc, self.ports, wiring);
        // Two queues, so that testpmd prints what its streams counted.
        let mut testpmd = start(&context.dir, &board, self.cores, &["--rxq=2", "--txq=2"])?;
        testpmd.succeed(&format!("set fwd {}", self.mode))?;
        testpmd.command("start tx_first")?;
        let enough = 2_000;
        for dpni in 1..=self.ports {
            testpmd.model.reaches(dpni, "rx_frames", enough)?;
        }
        let streams = stop_and_drain(&mut testpmd)?;
        let mut model = (0, 0);
        for dpni in 1..=self.ports {
            model.0 += testpmd.model.counter(dpni, "rx_frames")?;
            model.1 += testpmd.model.counter(dpni, "tx_frames")?;
            for lost in ["rx_discarded", "rx_filtered", "rx_no_buffer", "tx_discarded"] {
                ensure!(testpmd.model.counter(dpni, lost)? == 0, "dpni.{dpni}: {lost}");
            }
        }
        let counted = (streams.received(), streams.sent());
        // What starts the circle is sent by no stream.
        let first = 32 * 2 * self.ports as u64;
        ensure!(counted.0 == model.0, "testpmd received {}, the model delivered {}", counted.0, model.0);
        ensure!(
            counted.1 + first == model.1 || counted.1 == model.1,
            "testpmd sent {}, the model {}",
            counted.1,
            model.1
        );
        let report = quit(testpmd)?;
        let stores = report["stores"].as_u64().unwrap_or(0);
        context.note(format!("{} frames received and {} sent, {stores} stores", model.0, model.1));
        Ok(())
    }
}

fn scatter_gather(context: &Context, soc: &str) -> Result<()> {
    let arguments = ["--rxq=2", "--txq=2", "--tx-offloads=0x8000"];
    let mut testpmd = start(&context.dir, &board(soc, 1, Wiring::Looped), 1, &arguments)?;
    testpmd.succeed("set txpkts 64,128,200")?;
    testpmd.command("start tx_first")?;
    testpmd.model.reaches(1, "rx_frames", 2_000)?;
    let streams = stop_and_drain(&mut testpmd)?;
    let (frames, bytes) = (testpmd.model.counter(1, "rx_frames")?, testpmd.model.counter(1, "rx_bytes")?);
    ensure!(bytes == frames * 392, "{frames} frames have {bytes} bytes");
    ensure!(streams.received() == frames, "testpmd received {} of {frames}", streams.received());
    quit(testpmd).map(drop)
}

fn jumbo(context: &Context, soc: &str) -> Result<()> {
    // Buffers of 2 KiB: the frames come in and go out in five pieces.
    let arguments = ["--rxq=2", "--txq=2", "--max-pkt-len=9018", "--enable-scatter", "--tx-offloads=0x8000"];
    let mut testpmd = start(&context.dir, &board(soc, 1, Wiring::Held), 1, &arguments)?;
    testpmd.succeed("set fwd io")?;
    testpmd.command("start")?;
    let mut frame = udp(OWN, [10, 1, 0, 1], (7, 7), None);
    frame.extend((0..9_000 - frame.len()).map(|i| (i % 251) as u8));
    for _ in 0..10 {
        testpmd.model.put(1, &frame)?;
    }
    testpmd.model.reaches(1, "tx_frames", 9)?;
    for n in 0..10 {
        let sent = testpmd.model.take(1)?.context("a frame that was sent")?;
        ensure!(sent == frame, "frame {n} came back changed: {} bytes", sent.len());
    }
    stop_and_drain(&mut testpmd)?;
    quit(testpmd).map(drop)
}

fn rss(context: &Context, soc: &str) -> Result<()> {
    let arguments = ["--rxq=4", "--txq=4", "--rss-udp"];
    let mut testpmd = start(&context.dir, &board(soc, 1, Wiring::Held), 1, &arguments)?;
    testpmd.succeed("set fwd rxonly")?;
    testpmd.command("start")?;
    let flows = 64;
    for round in 0..2 {
        for flow in 0..flows {
            testpmd.model.put(1, &udp(OWN, [10, 1, 0, 1], (1000 + flow, 7), None))?;
        }
        testpmd.model.reaches(1, "rx_frames", u64::from(flows) * (round + 1) - 1)?;
    }
    settle(&testpmd)?;
    let streams = Streams::read(&testpmd.command("stop")?);
    let queues: Vec<u64> = (0..4).map(|queue| streams.received_by(0, queue)).collect();
    ensure!(queues.iter().sum::<u64>() == u64::from(flows) * 2, "received by queue: {queues:?}");
    ensure!(queues.iter().all(|frames| *frames > 0), "a queue got nothing: {queues:?}");
    ensure!(queues.iter().all(|frames| frames % 2 == 0), "a flow changed its queue: {queues:?}");
    context.note(format!("64 flows on four queues: {queues:?}"));
    quit(testpmd).map(drop)
}

/// Puts frames on the wire; gives how many of them were received and how many filtered.
fn offer(model: &Control, frames: &[Vec<u8>]) -> Result<(u64, u64)> {
    let counters = || anyhow::Ok((model.counter(1, "rx_frames")?, model.counter(1, "rx_filtered")?));
    let before = counters()?;
    for frame in frames {
        model.put(1, frame)?;
    }
    let after = counters()?;
    Ok((after.0 - before.0, after.1 - before.1))
}

fn filters(context: &Context, soc: &str) -> Result<()> {
    let arguments = ["--rxq=2", "--txq=2"];
    let mut testpmd = start(&context.dir, &board(soc, 1, Wiring::Held), 1, &arguments)?;
    testpmd.succeed("set fwd rxonly")?;
    testpmd.command("start")?;
    let to = |mac: [u8; 6], tag: Option<u16>| udp(mac, [10, 1, 0, 1], (7, 7), tag);
    let (other, group) = ([2, 0, 0, 0, 0, 0x99], [1, 0, 0x5e, 0, 0, 1]);
    let all = [to(OWN, None), to(other, None), to(group, None), to([0xff; 6], None)];
    ensure!(offer(&testpmd.model, &all)? == (4, 0), "promiscuous mode admits everything");
    testpmd.succeed("set promisc 0 off")?;
    ensure!(offer(&testpmd.model, &all)? == (1, 3), "only the own address");
    testpmd.succeed("set allmulti 0 on")?;
    ensure!(offer(&testpmd.model, &all)? == (3, 1), "group addresses too");
    testpmd.succeed("set allmulti 0 off")?;
    testpmd.succeed("mac_addr add 0 02:00:00:00:00:99")?;
    ensure!(offer(&testpmd.model, &all)? == (2, 2), "the added address too");
    testpmd.succeed("mac_addr remove 0 02:00:00:00:00:99")?;
    ensure!(offer(&testpmd.model, &all)? == (1, 3), "no longer the added address");
    let tagged = [to(OWN, None), to(OWN, Some(5)), to(OWN, Some(6))];
    ensure!(offer(&testpmd.model, &tagged)? == (3, 0), "no VLAN filter");
    testpmd.succeed("vlan set filter on 0")?;
    testpmd.succeed("rx_vlan add 5 0")?;
    ensure!(offer(&testpmd.model, &tagged)? == (2, 1), "VLAN 5 and untagged");
    testpmd.succeed("rx_vlan rm 5 0")?;
    ensure!(offer(&testpmd.model, &tagged)? == (1, 2), "untagged only");
    stop_and_drain(&mut testpmd)?;
    quit(testpmd).map(drop)
}

fn flow_rules(context: &Context, soc: &str) -> Result<()> {
    let arguments = ["--rxq=4", "--txq=4"];
    let mut testpmd = start(&context.dir, &board(soc, 1, Wiring::Held), 1, &arguments)?;
    testpmd.succeed("set fwd rxonly")?;
    for rule in [
        "group 0 priority 1 ingress pattern ipv4 dst is 10.1.0.1 / end actions queue index 3 / end",
        "group 0 priority 2 ingress pattern ipv4 dst is 10.2.0.1 / end actions queue index 1 / end",
    ] {
        create_flow(&mut testpmd, rule)?;
    }
    testpmd.command("start")?;
    for _ in 0..5 {
        testpmd.model.put(1, &udp(OWN, [10, 1, 0, 1], (7, 7), None))?;
    }
    for _ in 0..3 {
        testpmd.model.put(1, &udp(OWN, [10, 2, 0, 1], (7, 7), None))?;
    }
    settle(&testpmd)?;
    let streams = Streams::read(&testpmd.command("stop")?);
    let queues: Vec<u64> = (0..4).map(|queue| streams.received_by(0, queue)).collect();
    ensure!(queues == [0, 3, 0, 5], "received by queue: {queues:?}");
    testpmd.succeed("flow destroy 0 rule 0")?;
    testpmd.command("start")?;
    testpmd.model.put(1, &udp(OWN, [10, 1, 0, 1], (7, 7), None))?;
    settle(&testpmd)?;
    let streams = Streams::read(&testpmd.command("stop")?);
    // This release of the driver has the hardware drop what no rule of the table matches.
    ensure!(streams.received() == 0, "the rule still steers: {streams:?}");
    ensure!(testpmd.model.counter(1, "rx_discarded")? == 1, "what no rule matches is dropped");
    quit(testpmd).map(drop)
}

/// A frame with this payload behind an IPv4 header.
fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = udp(OWN, to, (0, 0), None);
    frame.truncate(34);
    frame[23] = protocol;
    frame[26..30].copy_from_slice(&from);
    frame[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A transport header of these ports, long enough to be one of TCP.
fn ports(from: u16, to: u16) -> Vec<u8> {
    let mut header = [from.to_be_bytes(), to.to_be_bytes()].concat();
    header.resize(12, 0);
    header.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    header
}

/// Rules by every field that the driver extracts, each to a queue of its own; the keys of one table hold them all.
fn flow_fields(context: &Context) -> Result<()> {
    let (s, d) = ([10, 0, 0, 1], [10, 1, 0, 1]);
    let plain = || udp(OWN, d, (7, 7), None);
    let mut from_other = plain();
    from_other[11] = 9;
    let mut to_other = plain();
    to_other[5] = 9;
    let mut ipv6 = plain();
    ipv6.truncate(12);
    ipv6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 17, 64]);
    ipv6.extend([
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    ]);
    ipv6.extend([0, 7, 0, 7, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let tables = [
        vec![
            ("eth src is 02:00:00:00:ee:09", from_other),
            ("vlan tci is 5", udp(OWN, d, (7, 7), Some(5))),
            ("ipv4 src is 10.9.0.1", ipv4([10, 9, 0, 1], d, 17, &ports(7, 7))),
            ("ipv4 dst spec 10.8.0.0 dst mask 255.255.0.0", udp(OWN, [10, 8, 3, 4], (7, 7), None)),
            ("ipv6 dst is fd00::1", ipv6),
            ("ipv4 / udp dst is 53", udp(OWN, d, (7, 53), None)),
            ("ipv4 / tcp dst is 80", ipv4(s, d, 6, &ports(7, 80))),
        ],
        vec![
            ("eth dst is 02:4d:00:00:00:09", to_other),
            ("ipv4 proto is 47", ipv4(s, d, 47, &[0, 0, 8, 0, 0, 0, 0, 0])),
            ("ipv4 / udp src is 53", udp(OWN, d, (53, 7), None)),
            ("ipv4 / tcp src is 80", ipv4(s, d, 6, &ports(80, 7))),
            ("ipv4 / sctp dst is 80", ipv4(s, d, 132, &ports(7, 80))),
            ("ipv4 / icmp type is 8", ipv4(s, d, 1, &[8, 0, 0, 0, 0, 0, 0, 0])),
        ],
    ];
    for rules in tables {
        let arguments = ["--rxq=8", "--txq=8"];
        let mut testpmd = start(&context.dir, &board("lx2160a", 1, Wiring::Held), 1, &arguments)?;
        testpmd.succeed("set fwd rxonly")?;
        for (queue, (pattern, _)) in (1..).zip(&rules) {
            create_flow(
                &mut testpmd,
                &format!(
                    "group 0 priority {queue} ingress pattern {pattern} / end actions queue index {queue} / end"
                ),
            )?;
        }
        testpmd.command("start")?;
        for (queue, (_, frame)) in (1..).zip(&rules) {
            for _ in 0..queue {
                testpmd.model.put(1, frame)?;
            }
        }
        testpmd.model.put(1, &plain())?;
        settle(&testpmd)?;
        let streams = Streams::read(&testpmd.command("stop")?);
        for (queue, (pattern, _)) in (1..).zip(&rules) {
            let received = streams.received_by(0, queue);
            ensure!(received == queue as u64, "`{pattern}`: {received} frames in queue {queue}: {streams:?}");
        }
        ensure!(testpmd.model.counter(1, "rx_discarded")? == 1, "what no rule matches is dropped");
        quit(testpmd)?;
        std::fs::remove_file(context.dir.join("control"))?;
    }
    Ok(())
}

/// Rules of two traffic classes, which take a QoS table beside those of the classes, and one that spreads over queues.
fn flow_classes(context: &Context) -> Result<()> {
    let board = board("lx2160a", 1, Wiring::Held)
        .replace("[[dpmac]]", "rx_tcs = 2\nqueues = 4\nfs_entries = 8\n[[dpmac]]");
    let arguments = ["--rxq=8", "--txq=8"];
    let mut testpmd = start(&context.dir, &board, 1, &arguments)?;
    testpmd.succeed("set fwd rxonly")?;
    for (class, address, action) in
        [(1, "10.1.0.1", "queue index 5"), (0, "10.2.0.1", "rss types ipv4-udp end queues 0 1 2 3 end")]
    {
        create_flow(
            &mut testpmd,
            &format!(
                "group {class} priority 1 ingress pattern ipv4 dst is {address} / end actions {action} / end"
            ),
        )?;
    }
    testpmd.command("start")?;
    for flow in 0..32 {
        testpmd.model.put(1, &udp(OWN, [10, 1, 0, 1], (1000 + flow, 7), None))?;
        testpmd.model.put(1, &udp(OWN, [10, 2, 0, 1], (1000 + flow, 7), None))?;
    }
    settle(&testpmd)?;
    let streams = Streams::read(&testpmd.command("stop")?);
    let queues: Vec<u64> = (0..8).map(|queue| streams.received_by(0, queue)).collect();
    ensure!(queues[4..] == [0, 32, 0, 0], "received by queue: {queues:?}");
    ensure!(queues[..4].iter().sum::<u64>() == 32, "received by queue: {queues:?}");
    ensure!(queues[..4].iter().all(|frames| *frames > 0), "a queue got nothing: {queues:?}");
    context.note(format!("frames by queue: {queues:?}"));
    quit(testpmd).map(drop)
}

/// What arguments of the driver switch on: confirmations of what was sent, polling without a request ahead, a queue for
/// errors.
fn driver_modes(context: &Context) -> Result<()> {
    for mode in ["drv_tx_conf=1", "drv_no_prefetch=1", "drv_error_queue=1"] {
        let device = format!("--allow=fslmc:dpni.1,{mode}");
        let board = board("lx2160a", 1, Wiring::Held);
        let mut testpmd = start_with(&context.dir, &board, 1, &[&device], &["--rxq=2", "--txq=2"])?;
        testpmd.succeed("set fwd io")?;
        testpmd.command("start")?;
        for flow in 0..100 {
            testpmd.model.put(1, &udp(OWN, [10, 1, 0, 1], (1000 + flow, 7), None))?;
        }
        let sent = testpmd.model.reaches(1, "tx_frames", 99)?;
        let streams = Streams::read(&testpmd.command("stop")?);
        ensure!((streams.received(), streams.sent(), sent) == (100, 100, 100), "{mode}: {streams:?}");
        let confirmed = testpmd.model.counter(1, "tx_confirmed")?;
        let expected = if mode.starts_with("drv_tx_conf") { sent } else { 0 };
        ensure!(confirmed == expected, "{mode}: {confirmed} of {sent} frames were confirmed");
        quit(testpmd)?;
        std::fs::remove_file(context.dir.join("control"))?;
    }
    Ok(())
}

fn link_interrupt(context: &Context) -> Result<()> {
    let mut testpmd = start(&context.dir, &board("lx2160a", 1, Wiring::Held), 1, &[])?;
    ensure!(testpmd.command("show port summary 0")?.contains("up"), "the link is up at first");
    for (state, shown) in [("down", "down"), ("up", "up")] {
        let from = testpmd.process.log().len();
        testpmd.model.ask(&format!("link dpmac.1 {state}"))?;
        testpmd
            .process
            .expect("link event", from, COMMAND_LIMIT, |new| new.contains("link state change event"))?;
        let summary = testpmd.command("show port summary 0")?;
        ensure!(summary.contains(shown), "after the link went {state}: {summary}");
    }
    quit(testpmd).map(drop)
}

fn stop_start(context: &Context) -> Result<()> {
    let mut testpmd = start(&context.dir, &board("lx2160a", 1, Wiring::Looped), 1, &["--rxq=2", "--txq=2"])?;
    let mut held = Vec::new();
    for round in 1..=3 {
        let before = testpmd.model.counter(1, "rx_frames")?;
        testpmd.succeed("set fwd io")?;
        testpmd.command("start tx_first")?;
        testpmd.model.reaches(1, "rx_frames", before + 1_000)?;
        stop_and_drain(&mut testpmd)?;
        let report = testpmd.model.report()?;
        let pools = report["pools"].as_array().context("pools")?;
        held.push(pools.iter().map(|pool| pool["software"].as_u64().unwrap_or(u64::MAX)).sum::<u64>());
        testpmd.command("port stop 0").with_context(|| format!("round {round}"))?;
        let said = testpmd.command("port start 0")?;
        ensure!(!said.contains("Fail"), "round {round}: {said}");
    }
    // What lcores keep in their caches is bounded, and doesn't grow.
    ensure!(held[2] <= held[0].max(1024), "buffers with software after each round: {held:?}");
    context.note(format!("buffers with testpmd after each round: {held:?}"));
    quit(testpmd).map(drop)
}

/// Two testpmd in two processes, each with a container and addresses of its own, on connected interfaces of one model.
fn two_processes(context: &Context) -> Result<()> {
    let mut board = String::from("soc = \"lx2160a\"\n");
    for container in [2, 3] {
        let dpni = container - 1;
        let _ = write!(
            board,
            "[[container]]\nid = {container}\ndpio = 6\ndpbp = 2\n[[container.dpni]]\nid = {dpni}\n"
        );
        let _ = writeln!(board, "mac = \"02:00:00:00:00:0{dpni}\"");
    }
    board.push_str("[[connection]]\na = \"dpni.1\"\nb = \"dpni.2\"\n");
    let served = Served::start(&context.dir, &board)?;
    let arguments = ["--rxq=2", "--txq=2", "--disable-link-check"];
    let mut left = start_on(&context.dir, &served, 2, &[], &arguments)?;
    let mut right = start_on(&context.dir, &served, 3, &[], &arguments)?;
    right.command("start")?;
    left.command("start tx_first")?;
    left.model.reaches(1, "rx_frames", 1_000)?;
    let (here, there) = (stop_and_drain(&mut left)?, stop_and_drain(&mut right)?);
    for (streams, dpni, peer) in [(here, 1, 2), (there, 2, 1)] {
        let received = left.model.counter(dpni, "rx_frames")?;
        ensure!(streams.received() == received, "dpni.{dpni}: {} received of {received}", streams.received());
        ensure!(left.model.counter(peer, "tx_frames")? == received, "what dpni.{peer} sent");
    }
    context.note(format!("{} frames each way", left.model.counter(1, "rx_frames")?));
    quit(left)?;
    // The other one goes without a word; its container is left as it was found.
    right.process.kill()?;
    wait_until("the end of both programs", COMMAND_LIMIT, || {
        let report = served.model.report()?;
        check(&report)?;
        Ok((report["mapped_bytes"] == 0 && report["open_tokens"] == 0).then_some(()))
    })?;
    served.stop()
}

/// DPDK's own test of its event driver: frames pushed into result rings, consumed one by one or with an enqueue.
fn event_selftest(context: &Context) -> Result<()> {
    let (description, report) = (context.dir.join("board.toml"), context.dir.join("report.json"));
    std::fs::write(&description, board("lx2160a", 0, Wiring::Held))?;
    let shim = shim()?;
    let mut args = vec![
        format!("DPAA2_MODEL={}", description.display()),
        format!("DPAA2_MODEL_REPORT={}", report.display()),
        format!("TMPDIR={}", context.dir.display()),
        format!("LD_PRELOAD={}", shim.display()),
        "DPRC=dprc.2".into(),
    ];
    args.extend(["dpdk-test", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"].map(String::from));
    args.extend(["--iova-mode=va", "--lcores=0@0,1@1,2@0", "--vdev=event_dpaa2"].map(String::from));
    args.push(format!("--file-prefix=dpdk-test-{}", std::process::id()));
    let mut test = Process::start("dpdk-test", &context.dir, "env", &args)?;
    test.say("eventdev_selftest_dpaa2")?;
    test.say("quit")?;
    test.wait(Duration::from_secs(50))?;
    let log = test.log();
    // Its test of stopping fails with every bus: this release's stop does nothing, and what it leaves behind confuses the two
    // tests that come last.
    for name in [
        "test_simple_enqdeq_atomic",
        "test_simple_enqdeq_parallel",
        "test_multi_queue_enq_single_port_deq",
        "test_multi_queue_enq_multi_port_deq",
    ] {
        ensure!(log.contains(&format!("{name} Passed")), "{name}:\n{log}");
    }
    check(&serde_json::from_str(&std::fs::read_to_string(&report)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_streams_counted_is_read_from_the_output_of_stop() {
        let text = "  ------- Forward Stats for RX Port= 0/Queue= 1 -> TX Port= 0/Queue= 1 -------\n  \
            RX-packets: 352            TX-packets: 384            TX-dropped: 0\n\n  \
            ------- Forward Stats for RX Port= 1/Queue= 0 -> TX Port= 0/Queue= 0 -------\n  \
            RX-packets: 5              TX-packets: 0              TX-dropped: 0\n  \
            ---------------------- Forward statistics for port 0  ----------------------\n  \
            RX-packets: 999 RX-dropped: 0 RX-total: 999\n";
        let streams = Streams::read(text);
        assert_eq!((streams.received(), streams.sent()), (357, 384));
        assert_eq!(streams.received_by(0, 1), 352);
    }
}
