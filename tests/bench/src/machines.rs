//! `cargo xtask bench vmm`: what a machine costs to start and to keep, what leaving its guest costs, how many frames
//! two machines exchange by each network back-end, and how fast one reads a disk by each of their back-ends.
//!
//! A micro-guest sends as fast as it can, another counts what arrives; or what it sends comes back to itself. By vhost-user
//! they meet at the switch; TAP devices are joined by a bridge of the kernel, in a namespace of its own. Back-ends take
//! turns; guests, rings and frames are the same. Guests' processors are on one core, the other is the back-end's: two
//! guests that poll share theirs, by time slices. Ratios say more than rates.

use anyhow::{Context as _, Result, bail, ensure};
use lab::disk::{STORAGE_DAEMON, start_storage_daemon, write_numbered_blocks};
use lab::switch::{Plan, Ringway, Switch as _, Work, ringway_binary};
use lab::{Namespace, wait_until};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vmm::Client;
use vmm::protocol::Status;
use vmm_config::{BuiltinMode, Disk, DiskBackend, Image, Kernel, Net, NetBackend, Restart, Transport, Vm};

use crate::measure::work_since;
use crate::report::{Place, Spread};

/// For a machine to come up, or for the first frames.
const LIMIT: Duration = Duration::from_secs(20);
/// How long frames are counted.
const COUNTED: Duration = Duration::from_secs(2);
/// Between two questions to a machine.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// Before counting begins.
const WARM_UP: Duration = Duration::from_millis(500);
/// Entries of a guest's rings where frames are counted: a guest that has the core should not run out of them before its
/// time slice ends.
const LONG_RING: u16 = 32768;
/// Entries where its start is timed.
const RING: u16 = 1024;
/// Core of the guests' processors.
const GUEST_CORE: u32 = 1;
/// Core of what serves them, where it can be told.
const BACKEND_CORE: u32 = 0;
/// Blocks of a disk.
const DISK_BLOCKS: u64 = 4096;
/// Times a guest is left to see what that takes.
const EXITS: u32 = 20_000;

const GEN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SINK: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// How to measure.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// Runs of each.
    pub runs: usize,
    /// What was typed, for the report.
    pub command: String,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachinesReport {
    place: Place,
    runs: usize,
    /// From the start of the process until the guest runs, in milliseconds, the switch's port attached.
    first_instruction_ms: Spread,
    /// From the start of the process until the switch has the guest's first frame.
    first_frame_ms: Spread,
    /// Resident memory of the process beyond the guest's, in MiB, while frames pass.
    overhead_mib: Spread,
    /// Reading a register that the process answers for, in nanoseconds, from the guest and back.
    register_exit_ns: Spread,
    /// Ringing a doorbell that the kernel passes on.
    doorbell_ns: Spread,
    rates: Vec<Rate>,
    disks: Vec<DiskRate>,
    /// Back-ends that can't run here, and why.
    left_out: BTreeMap<String, String>,
}

/// Frames from machine to machine by one back-end.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rate {
    backend: String,
    way: Way,
    /// Bytes of a frame with its FCS.
    bytes: u16,
    /// Millions of frames that arrived, a second.
    mpps: Spread,
    /// Nanoseconds of a processor that the back-ends took for a frame that arrived: the worker's thread while it moved
    /// frames, or the threads of both machines that aren't processors of guests. None where a guest's own thread does it.
    backend_ns: Option<Spread>,
    /// How many times those of `tap-iothread`, by medians.
    ratio_to_tap_iothread: Option<f64>,
    /// How many times less of a processor than `tap-iothread`, by medians.
    backend_ratio_to_tap_iothread: Option<f64>,
}

/// Blocks of 4096 bytes that a machine reads from a file that the page cache holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct DiskRate {
    backend: String,
    /// Requests under way.
    depth: u16,
    /// Thousands of blocks a second.
    kiops: Spread,
    /// How many times those of `inline` at this depth, by medians.
    ratio_to_inline: f64,
}

/// Where frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// To another machine, which only counts them.
    Across,
    /// Back to the machine that sent them, which keeps a window of them under way.
    Back,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Way::Across => "to another machine",
            Way::Back => "back to the same",
        })
    }
}

/// One count of frames.
#[derive(Clone, Copy, Debug)]
struct Counted {
    mpps: f64,
    backend_ns: Option<f64>,
}

/// Measures everything.
///
/// # Errors
/// A machine doesn't start, or nothing arrives.
pub fn run(options: &MachineOptions) -> Result<MachinesReport> {
    ensure!(Path::new("/dev/kvm").exists(), "this machine has no /dev/kvm: nothing to measure");
    let mut starts = Vec::new();
    let mut exits = Vec::new();
    for run in 0..options.runs {
        starts.push(start_once().context("starting a machine")?);
        exits.push(exits_once().context("leaving a guest")?);
        eprintln!("start {run}: {:?}, exits {:?}", starts[run], exits[run]);
    }
    let mut left_out = BTreeMap::new();
    let mut counted: BTreeMap<(Way, u16, usize), Vec<Counted>> = BTreeMap::new();
    for run in 0..options.runs {
        for (way, bytes) in [(Way::Across, 64), (Way::Across, 1518), (Way::Back, 64), (Way::Back, 1518)] {
            for (index, kind) in KINDS.iter().enumerate() {
                if let Some(why) = kind.obstacle() {
                    left_out.insert(kind.name.to_owned(), why);
                    continue;
                }
                let what = format!("{}, {bytes} bytes, {way}", kind.name);
                let found = rate_once(kind, way, bytes).with_context(|| what.clone())?;
                eprintln!("{what}, run {run}: {found:?}");
                counted.entry((way, bytes, index)).or_default().push(found);
            }
        }
    }
    let spreads: BTreeMap<_, (Spread, Option<Spread>)> = counted
        .into_iter()
        .map(|(key, runs)| {
            let of_backend: Option<Vec<f64>> = runs.iter().map(|run| run.backend_ns).collect();
            let of_backend = of_backend.map(|runs| Spread::of(runs.into_iter()));
            (key, (Spread::of(runs.iter().map(|run| run.mpps)), of_backend))
        })
        .collect();
    let reference = KINDS.iter().position(|kind| kind.name == "tap-iothread").expect("one of them");
    let rates = spreads.iter().map(|(&(way, bytes, index), &(mpps, backend_ns))| {
        let reference = spreads.get(&(way, bytes, reference));
        let of_backend = |(_, of_backend): &(Spread, Option<Spread>)| of_backend.map(|ns| ns.median);
        Rate {
            backend: KINDS[index].name.to_owned(),
            way,
            bytes,
            mpps,
            backend_ns,
            ratio_to_tap_iothread: reference.map(|(r, _)| mpps.median / r.median),
            backend_ratio_to_tap_iothread: reference
                .and_then(of_backend)
                .zip(backend_ns)
                .map(|(reference, ns)| reference / ns.median),
        }
    });
    let disks = disks(options.runs, &mut left_out)?;
    Ok(MachinesReport {
        place: Place::this(&options.command),
        runs: options.runs,
        first_instruction_ms: Spread::of(starts.iter().map(|start| start.first_instruction_ms)),
        first_frame_ms: Spread::of(starts.iter().map(|start| start.first_frame_ms)),
        overhead_mib: Spread::of(starts.iter().map(|start| start.overhead_mib)),
        register_exit_ns: Spread::of(exits.iter().map(|exits| exits.0)),
        doorbell_ns: Spread::of(exits.iter().map(|exits| exits.1)),
        rates: rates.collect(),
        disks,
        left_out,
    })
}

/// Reads by each back-end in turn.
fn disks(runs: usize, left_out: &mut BTreeMap<String, String>) -> Result<Vec<DiskRate>> {
    let mut found: BTreeMap<(u16, usize), Vec<f64>> = BTreeMap::new();
    for run in 0..runs {
        for depth in [1, 32] {
            for (index, &backend) in DISK_KINDS.iter().enumerate() {
                if backend == "vhost-user-blk" && !Path::new(STORAGE_DAEMON).exists() {
                    left_out.insert(backend.to_owned(), format!("this machine has no {STORAGE_DAEMON}"));
                    continue;
                }
                let kiops = disk_once(backend, depth).with_context(|| format!("a disk by {backend}"))?;
                eprintln!("{backend}, {depth} under way, run {run}: {kiops:.1} thousand blocks a second");
                found.entry((depth, index)).or_default().push(kiops);
            }
        }
    }
    let spreads: BTreeMap<_, _> =
        found.into_iter().map(|(key, runs)| (key, Spread::of(runs.into_iter()))).collect();
    let reference = DISK_KINDS.iter().position(|&kind| kind == "inline").expect("one of them");
    let rate = |(&(depth, index), &kiops): (&(u16, usize), &Spread)| DiskRate {
        backend: DISK_KINDS[index].to_owned(),
        depth,
        kiops,
        ratio_to_inline: kiops.median / spreads[&(depth, reference)].median,
    };
    Ok(spreads.iter().map(rate).collect())
}

const DISK_KINDS: &[&str] = &["inline", "dataplane", "vhost-user-blk"];

/// Thousands of blocks a second.
fn disk_once(backend: &str, depth: u16) -> Result<f64> {
    let dir = tempfile::Builder::new().prefix("rw-").tempdir()?;
    let (path, socket) = (dir.path().join("disk"), dir.path().join("blk.sock"));
    write_numbered_blocks(&path, DISK_BLOCKS)?;
    let mut daemon = None;
    let image = Image { path: path.clone(), read_only: false, direct: false };
    let backend = match backend {
        "inline" => DiskBackend::Inline(image),
        "dataplane" => DiskBackend::Dataplane { image, pin: Some(BACKEND_CORE) },
        _ => {
            let core = BACKEND_CORE.to_string();
            daemon = Some(start_storage_daemon(dir.path(), &["taskset", "-c", &core], &path, &socket)?);
            DiskBackend::VhostUserBlk { socket }
        }
    };
    let device = Device::Disk(Disk { backend, queues: 1 });
    let window = format!("window={depth}");
    let mut machine = Machine::start(dir.path(), &[], BuiltinMode::Read, device, &window)?;
    machine.wait("the first blocks", |status| frames_of(status, |guest| guest.received) > 0)?;
    std::thread::sleep(WARM_UP);
    let (blocks, time) = count_received(&machine)?;
    let wrong = frames_of(&machine.status()?, |guest| guest.lost + guest.foreign);
    ensure!(wrong == 0, "{wrong} blocks were not read, or are not those asked for");
    drop((machine, daemon));
    Ok(blocks as f64 / time.as_secs_f64() / 1e3)
}

/// A network back-end.
struct Kind {
    name: &'static str,
    /// `None`: by vhost-user.
    tap: Option<NetBackend>,
    needs: &'static [&'static str],
}

const KINDS: &[Kind] = &[
    Kind { name: "vhost-user", tap: None, needs: &[] },
    Kind { name: "tap-inline", tap: Some(NetBackend::TapInline), needs: &["/dev/net/tun"] },
    Kind { name: "tap-iothread", tap: Some(NetBackend::TapIothread), needs: &["/dev/net/tun"] },
    Kind { name: "vhost-net", tap: Some(NetBackend::VhostNet), needs: &["/dev/net/tun", "/dev/vhost-net"] },
];

impl Kind {
    fn obstacle(&self) -> Option<String> {
        let missing = self.needs.iter().find(|path| !Path::new(path).exists())?;
        Some(format!("this machine has no {missing}"))
    }
}

/// A machine's process, which ends with it.
struct Machine {
    child: Child,
    control: PathBuf,
    log: PathBuf,
    started: Instant,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a machine has.
enum Device {
    Net(Net),
    Disk(Disk),
}

impl Machine {
    /// Starts a micro-guest with one device.
    fn start(
        dir: &Path,
        wrap: &[&str],
        mode: BuiltinMode,
        device: Device,
        command_line: &str,
    ) -> Result<Machine> {
        let mut command_line = command_line.to_owned();
        let (mut net, mut disks) = (Vec::new(), Vec::new());
        match device {
            Device::Net(device) => {
                command_line += &format!(" ring={}", device.queue_size);
                net.push(device);
            }
            Device::Disk(device) => disks.push(device),
        }
        let name = mode.word();
        let control = dir.join(format!("{name}.sock"));
        let log = dir.join(format!("{name}.log"));
        let config = Vm {
            name: name.parse()?,
            kernel: Kernel::Builtin(mode),
            initrd: None,
            command_line,
            cpus: 1.try_into()?,
            pins: vec![GUEST_CORE],
            memory: "256M".parse()?,
            huge_pages: false,
            transport: Transport::Pci,
            net,
            disks,
            virtio_console: false,
            rng: false,
            cgroup: None,
            user: None,
            chroot: None,
            restart: Restart::Never,
            control: control.clone(),
            log: Some(log.clone()),
        };
        let text = serde_json::to_vec(&config)?;
        let binary = ringway_binary().to_string_lossy().into_owned();
        let words: Vec<&str> = wrap.iter().copied().chain([binary.as_str(), "vm", "become"]).collect();
        let stderr = std::fs::File::create(dir.join(format!("{name}.err")))?;
        let started = Instant::now();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("starting {}", words[0]))?;
        child.stdin.take().context("a pipe")?.write_all(&text)?;
        Ok(Machine { child, control, log, started })
    }

    fn status(&self) -> Result<Status> {
        Ok(Client::connect(&self.control)?.status()?)
    }

    /// Asks until it is as `wanted` says, in short intervals: what passes is being timed, and asking takes time, too.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<(Status, Duration)> {
        loop {
            if let Ok(status) = self.status()
                && wanted(&status)
            {
                return Ok((status, self.started.elapsed()));
            }
            std::thread::sleep(ASK_EVERY);
            if self.child.try_wait()?.is_some() || self.started.elapsed() > LIMIT {
                let log = std::fs::read_to_string(self.log.with_extension("err")).unwrap_or_default();
                bail!("{what}: the machine doesn't come to it; its log:\n{log}");
            }
        }
    }
}

fn frames_of(status: &Status, count: impl Fn(vmm::protocol::GuestCounts) -> u64) -> u64 {
    status.guest.map_or(0, count)
}

fn device(port: &str, backend: NetBackend, mac: [u8; 6], ring: u16) -> Device {
    Device::Net(Net { port: port.to_owned(), backend, mac, queues: 1, queue_size: ring, mtu: None })
}

/// Frames or blocks that come, and in which time.
fn count_received(machine: &Machine) -> Result<(u64, Duration)> {
    let received = || Ok::<_, anyhow::Error>(frames_of(&machine.status()?, |guest| guest.received));
    let (before, start) = (received()?, Instant::now());
    std::thread::sleep(COUNTED);
    Ok((received()? - before, start.elapsed()))
}

/// One start.
#[derive(Clone, Copy, Debug)]
struct Start {
    first_instruction_ms: f64,
    first_frame_ms: f64,
    overhead_mib: f64,
}

fn start_once() -> Result<Start> {
    let dir = tempfile::Builder::new().prefix("rw-").tempdir()?;
    let plan = Plan::with_guests(dir.path(), 1);
    let switch = Ringway::start(&plan)?;
    let backend = NetBackend::VhostUser { socket: plan.socket(0) };
    let net = device("vm0", backend, GEN, RING);
    let mut machine = Machine::start(dir.path(), &[], BuiltinMode::Generate, net, "window=0")?;
    let sent = |status: &Status| frames_of(status, |guest| guest.sent) > 0;
    let (status, sending) = machine.wait("its first frame", sent)?;
    // The machine tells when, by its own clock: asking would only tell that it had been.
    let start = Duration::from_micros(status.start_us.context("a guest that sends has started")?);
    let running = sending.saturating_sub(Duration::from_micros(status.uptime_us)) + start;
    std::thread::sleep(WARM_UP);
    let status = machine.status()?;
    drop(machine);
    switch.finish()?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Start {
        first_instruction_ms: ms(running),
        first_frame_ms: ms(sending),
        overhead_mib: status.overhead_bytes as f64 / f64::from(1 << 20),
    })
}

/// Nanoseconds of a register's read, and of a doorbell.
fn exits_once() -> Result<(f64, f64)> {
    let dir = tempfile::Builder::new().prefix("rw-").tempdir()?;
    let plan = Plan::with_guests(dir.path(), 1);
    let switch = Ringway::start(&plan)?;
    let net = device("vm0", NetBackend::VhostUser { socket: plan.socket(0) }, SINK, RING);
    let machine = Machine::start(dir.path(), &[], BuiltinMode::Sink, net, &format!("exits={EXITS}"))?;
    let line = wait_until("the guest's figures", LIMIT, || {
        let console = std::fs::read_to_string(&machine.log).unwrap_or_default();
        let line = console.lines().find(|line| line.contains("exits: register") && line.ends_with("ns"));
        Ok(line.map(str::to_owned))
    })?;
    drop(machine);
    switch.finish()?;
    let after = |word: &str| -> Result<f64> {
        let (_, rest) = line.split_once(word).with_context(|| format!("no {word} in `{line}`"))?;
        let number: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        Ok(number.parse()?)
    };
    Ok((after("register")?, after("doorbell")?))
}

/// Counts frames that arrive.
fn rate_once(kind: &Kind, way: Way, bytes: u16) -> Result<Counted> {
    let dir = tempfile::Builder::new().prefix("rw-").tempdir()?;
    match &kind.tap {
        None => {
            let mut plan = Plan::with_guests(dir.path(), 2);
            if way == Way::Back {
                plan.flows = vec!["in_port=vm0,actions=in_port".to_owned()];
            }
            let mut switch = Ringway::start(&plan)?;
            let net = |index, mac| {
                device("port", NetBackend::VhostUser { socket: plan.socket(index) }, mac, LONG_RING)
            };
            let machines = Machines::start(dir.path(), &[], way, bytes, [net(0, GEN), net(1, SINK)])?;
            let mut took = || -> Result<(u64, Work)> {
                let thread = threads_ns(switch.pid(), |name| name.starts_with("worker"))?;
                Ok((thread, switch.work()?))
            };
            let (before, work) = took()?;
            let (frames, time) = machines.count()?;
            let (after, now) = took()?;
            drop(machines);
            switch.finish()?;
            // The thread may be kept from its core in rounds of either kind alike.
            let work = work_since(work, now);
            let busy = work.busy_cycles as f64 / (work.busy_cycles + work.idle_cycles) as f64;
            Ok(Counted::of(frames, time, Some((after - before) as f64 * busy)))
        }
        Some(backend) => {
            let namespace = Namespace::create("taps")?;
            let run = |command: &str| {
                let words: Vec<&str> = command.split(' ').collect();
                namespace.run(&words, LIMIT).map(drop)
            };
            run("ip link add br0 type bridge")?;
            run("ip link set br0 up")?;
            for tap in ["gen", "sink"] {
                run(&format!("ip tuntap add dev {tap} mode tap multi_queue vnet_hdr"))?;
                run(&format!("ip link set {tap} master br0"))?;
            }
            // What the bridge would otherwise learn from the first frame that comes back: there may be none.
            let to = match way {
                Way::Across => "sink",
                Way::Back => "gen",
            };
            run(&format!("bridge fdb add {} dev {to} master static", text_of(SINK)))?;
            run(&format!("bridge link set dev {to} hairpin on"))?;
            let nets = [("gen", GEN), ("sink", SINK)]
                .map(|(port, mac)| device(port, backend.clone(), mac, LONG_RING));
            let machines = Machines::start(dir.path(), &namespace.wrap(), way, bytes, nets)?;
            let before = machines.backends_ns()?;
            let (frames, time) = machines.count()?;
            let took = machines.backends_ns()? - before;
            let has_threads = !matches!(backend, NetBackend::TapInline);
            Ok(Counted::of(frames, time, has_threads.then_some(took as f64)))
        }
    }
}

fn text_of(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

impl Counted {
    fn of(frames: u64, time: Duration, backend_ns: Option<f64>) -> Counted {
        Counted {
            mpps: frames as f64 / time.as_secs_f64() / 1e6,
            backend_ns: backend_ns.map(|ns| ns / frames as f64),
        }
    }
}

/// A machine that sends, and the one that it sends to if that is another.
struct Machines {
    generator: Machine,
    sink: Option<Machine>,
}

impl Machines {
    /// Starts them; returns when frames have arrived for a while.
    fn start(dir: &Path, wrap: &[&str], way: Way, bytes: u16, [from, to]: [Device; 2]) -> Result<Machines> {
        // Sizes of guests' frames are without FCS.
        let mut generate = format!("to={} size={}", text_of(SINK), bytes - 4);
        let sink = match way {
            Way::Across => {
                generate += " window=0";
                let mut sink = Machine::start(dir, wrap, BuiltinMode::Sink, to, "")?;
                sink.wait("the sink's polling", |status| frames_of(status, |guest| guest.turns) > 0)?;
                Some(sink)
            }
            Way::Back => None,
        };
        let generator = Machine::start(dir, wrap, BuiltinMode::Generate, from, &generate)?;
        let mut machines = Machines { generator, sink };
        let receiver = machines.sink.as_mut().unwrap_or(&mut machines.generator);
        receiver.wait("the first frames", |status| frames_of(status, |guest| guest.received) > 0)?;
        std::thread::sleep(WARM_UP);
        Ok(machines)
    }

    /// Frames that arrive, and in which time.
    fn count(&self) -> Result<(u64, Duration)> {
        count_received(self.sink.as_ref().unwrap_or(&self.generator))
    }

    /// What all threads have taken so far that aren't processors of guests.
    fn backends_ns(&self) -> Result<u64> {
        let of = |machine: &Machine| threads_ns(machine.child.id(), |name| !name.starts_with("vcpu"));
        [Some(&self.generator), self.sink.as_ref()].into_iter().flatten().map(of).sum()
    }
}

/// Nanoseconds that threads of a process with these names have had a processor (proc(5), `schedstat`). Of threads that end
/// meanwhile there is nothing to be read.
fn threads_ns(pid: u32, which: impl Fn(&str) -> bool) -> Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let read = |file| std::fs::read_to_string(thread.join(file));
        let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
        if which(&name) {
            sum += text.split_whitespace().next().context("a thread's time")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

impl MachinesReport {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}; {} runs of each\n\n", self.place, self.runs);
        let mut row = |what: &str, figure: String| text += &format!("| {what} | {figure} |\n");
        row("a machine with a port of the switch", "median [min..max]".to_owned());
        row("---", "---".to_owned());
        row(
            "from exec to the guest's first instruction",
            format!("{} ms", self.first_instruction_ms.text(1)),
        );
        row("from exec to its first frame", format!("{} ms", self.first_frame_ms.text(1)));
        row("resident memory beyond the guest's", format!("{} MiB", self.overhead_mib.text(1)));
        row(
            "register read, served by the process",
            format!("{} us", self.register_exit_ns.scaled(1e-3).text(1)),
        );
        row("doorbell, served by the kernel", format!("{} us", self.doorbell_ns.scaled(1e-3).text(1)));
        text += "\n| back-end | frames go | bytes | Mpps | x tap-iothread | back-end's ns a frame | x tap-iothread |\n\
                 |---|---|---|---|---|---|---|\n";
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        for rate in &self.rates {
            text += &format!(
                "| {} | {} | {} | {} | {} | {} | {} |\n",
                rate.backend,
                rate.way,
                rate.bytes,
                rate.mpps.text(3),
                ratio(rate.ratio_to_tap_iothread),
                rate.backend_ns.map_or("-".to_owned(), |ns| ns.text(0)),
                ratio(rate.backend_ratio_to_tap_iothread)
            );
        }
        text += "\n| disk | under way | thousand blocks a second | x inline |\n|---|---|---|---|\n";
        for rate in &self.disks {
            text += &format!(
                "| {} | {} | {} | {:.2} |\n",
                rate.backend,
                rate.depth,
                rate.kiops.text(1),
                rate.ratio_to_inline
            );
        }
        for (backend, why) in &self.left_out {
            text += &format!("\n{backend} was left out: {why}.\n");
        }
        text
    }
}

impl fmt::Display for MachinesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.markdown())
    }
}
