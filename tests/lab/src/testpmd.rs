//! `dpdk-testpmd` at its prompt: a guest that moves frames, or the barest forwarder.
//!
//! Facts that shaped this (DPDK 22.11):
//! - `--single-file-segments` makes it offer one memory region; without it there would be one per page.
//! - Without huge pages it needs `--no-huge`, which excludes `--in-memory`.
//! - Its main lcore sleeps at the prompt, forwarding takes another one: `--lcores` puts both where they belong.
//! - Output to a file is block buffered; `stdbuf -oL` makes counters appear when they are printed.
//! - virtio-user in server mode blocks at start until its peer has connected, and takes a peer that comes back only by
//!   way of the interrupt for link changes.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Pages, Process};

/// What makes a virtio-user port listen.
const SERVER: &str = ",server=1";
const PROMPT: &str = "testpmd> ";
const START_LIMIT: Duration = Duration::from_secs(40);
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// One virtio-user port: the driver's side of a vhost-user connection.
#[derive(Clone, Debug)]
pub struct VirtioUser {
    /// Socket path.
    pub socket: PathBuf,
    /// Listens and waits for the switch instead of connecting to it.
    pub server: bool,
    /// Queue pairs.
    pub queues: u16,
    /// Packed instead of split rings.
    pub packed: bool,
    /// Accepts VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// Accepts mergeable receive buffers.
    pub mergeable: bool,
    /// Uses the vector receive and transmit functions (needs `mergeable` off; for packed rings also AVX-512).
    pub vectorized: bool,
    /// Descriptors per ring.
    pub queue_size: u16,
}

impl VirtioUser {
    /// A client with one pair of split rings of 1,024 descriptors that accepts what is offered by default.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_path_buf(),
            server: false,
            queues: 1,
            packed: false,
            in_order: true,
            mergeable: true,
            vectorized: false,
            queue_size: 1024,
        }
    }

    fn vdev(&self, index: usize) -> String {
        let mut text = format!(
            "net_virtio_user{index},path={},queues={},queue_size={},mac=02:00:00:00:00:{:02x},in_order={},mrg_rxbuf={}",
            self.socket.display(),
            self.queues,
            self.queue_size,
            index + 1,
            u8::from(self.in_order),
            u8::from(self.mergeable),
        );
        for (wanted, option) in
            [(self.server, SERVER), (self.packed, ",packed_vq=1"), (self.vectorized, ",vectorized=1")]
        {
            if wanted {
                text.push_str(option);
            }
        }
        text
    }
}

/// How a testpmd is started.
#[derive(Clone, Debug)]
pub struct TestpmdOptions {
    /// Name of its log and of DPDK's runtime directory.
    pub name: String,
    /// Core that forwards.
    pub core: usize,
    /// Cores the prompt may run on.
    pub main_cores: Vec<usize>,
    /// Page size of its packet memory.
    pub pages: Pages,
    /// `--vdev` arguments.
    pub vdevs: Vec<String>,
    /// Receive and transmit queues per port.
    pub queues: u16,
    /// Packet buffers in the pool.
    pub buffers: u32,
    /// More arguments for testpmd itself, behind `--`.
    pub arguments: Vec<String>,
}

impl TestpmdOptions {
    /// One testpmd with these virtio-user ports.
    pub fn guest(name: &str, core: usize, ports: &[VirtioUser]) -> Self {
        Self {
            name: name.to_owned(),
            core,
            main_cores: vec![0, 1],
            pages: Pages::Small,
            vdevs: ports.iter().enumerate().map(|(index, port)| port.vdev(index)).collect(),
            queues: ports.iter().map(|port| port.queues).max().unwrap_or(1),
            buffers: 16_384,
            arguments: Vec::new(),
        }
    }

    fn command_line(&self) -> Vec<String> {
        let words = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut args: Vec<String> =
            ["-oL", "dpdk-testpmd", "--no-pci", "--no-telemetry"].map(String::from).into();
        match self.pages {
            // 2.4 KB a buffer would do if memory were contiguous, which small pages are not.
            Pages::Small => {
                args.extend(["--no-huge".into(), "-m".into(), (64 + self.buffers / 128).to_string()])
            }
            Pages::Huge => args.push("--in-memory".into()),
        }
        args.push("--single-file-segments".into());
        args.push("--force-max-simd-bitwidth=512".into());
        args.push("--log-level=pmd.net.virtio.init:info".into());
        args.push(format!("--lcores=0@({}),1@{}", words(&self.main_cores), self.core));
        args.push(format!("--file-prefix={}-{}", self.name, std::process::id()));
        for vdev in &self.vdevs {
            args.extend(["--vdev".into(), vdev.clone()]);
        }
        args.extend(
            ["--", "-i", "--nb-cores=1", "--disable-link-check", "--record-core-cycles"].map(String::from),
        );
        if !self.vdevs.iter().any(|vdev| vdev.contains(SERVER)) {
            args.push("--no-lsc-interrupt".into());
        }
        args.push(format!("--total-num-mbufs={}", self.buffers));
        args.push(format!("--rxq={}", self.queues));
        args.push(format!("--txq={}", self.queues));
        args.extend(self.arguments.iter().cloned());
        args
    }
}

/// Counters of one testpmd port since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames transmitted.
    pub tx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
}

/// A running testpmd.
pub struct Testpmd {
    process: Process,
}

impl Testpmd {
    /// Starts one and waits for its first prompt.
    ///
    /// # Errors
    /// When it ends or does not get ready.
    pub fn start(dir: &Path, options: &TestpmdOptions) -> Result<Self> {
        let process = Process::start(&options.name, dir, "stdbuf", &options.command_line())?;
        let mut testpmd = Self { process };
        testpmd.wait_ready()?;
        Ok(testpmd)
    }

    /// Starts one without waiting: virtio-user in server mode gets to its prompt only when its peer connects.
    /// Call [`Testpmd::wait_ready`] later.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(dir: &Path, options: &TestpmdOptions) -> Result<Self> {
        Ok(Self { process: Process::start(&options.name, dir, "stdbuf", &options.command_line())? })
    }

    /// Waits for the first prompt.
    ///
    /// # Errors
    /// When it ends, finds no port or does not get ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let log = self.process.expect("prompt of testpmd", 0, START_LIMIT, |log| log.ends_with(PROMPT))?;
        if log.contains("No probed ethernet devices") {
            bail!("testpmd has no port:\n{}", self.process.tail());
        }
        Ok(())
    }

    /// The process, for its log and id.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Types `line` and returns what is printed until the next prompt.
    ///
    /// # Errors
    /// When the prompt does not come back.
    pub fn command(&mut self, line: &str) -> Result<String> {
        let from = self.process.log().len();
        self.process.say(line)?;
        // The line is echoed first, so a prompt behind a newline is the next one.
        self.process.expect(line, from, COMMAND_LIMIT, |new| new.contains('\n') && new.ends_with(PROMPT))
    }

    /// Counters of all ports, by port number.
    ///
    /// # Errors
    /// When they cannot be read from the output.
    pub fn stats(&mut self) -> Result<Vec<PortStats>> {
        let text = self.command("show port stats all")?;
        let ports = parse_stats(&text);
        if ports.is_empty() {
            bail!("no port statistics in:\n{text}");
        }
        Ok(ports)
    }

    /// Sends `bursts` bursts of `size`-byte frames from every port, and everything that comes in out again at the other port.
    ///
    /// A switch may drop the first frames while the second port is still being connected; then they are sent again.
    ///
    /// # Errors
    /// When nothing comes back within five seconds.
    pub fn circulate(&mut self, size: u32, bursts: u32) -> Result<()> {
        let before = self.received()?;
        self.command(&format!("set txpkts {size}"))?;
        self.command("set fwd io")?;
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.command(&format!("start tx_first {bursts}"))?;
            std::thread::sleep(Duration::from_millis(100));
            if self.received()? > before {
                return Ok(());
            }
            self.command("stop")?;
            if Instant::now() > deadline {
                bail!("no frame came back");
            }
        }
    }

    /// Frames received by all ports.
    ///
    /// # Errors
    /// As [`Testpmd::stats`].
    pub fn received(&mut self) -> Result<u64> {
        Ok(self.stats()?.iter().map(|port| port.rx_frames).sum())
    }

    /// Receives what still lies in the rings after `stop`, without sending anything, until no counter moves for 300 ms.
    ///
    /// # Errors
    /// When frames keep coming, or the prompt is lost.
    pub fn drain(&mut self) -> Result<Vec<PortStats>> {
        self.command("set fwd rxonly")?;
        self.command("start")?;
        let deadline = Instant::now() + COMMAND_LIMIT;
        let mut last = self.stats()?;
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.stats()?;
            if now == last {
                break;
            }
            if Instant::now() > deadline {
                bail!("frames keep coming after everybody stopped sending: {last:?} then {now:?}");
            }
            last = now;
        }
        self.command("stop")?;
        Ok(last)
    }

    /// Stops and closes all ports and counts the packet buffers that are back in the pool. Nothing but
    /// [`Testpmd::quit`] is of use afterwards.
    ///
    /// # Errors
    /// When they cannot be read from the output.
    pub fn close_and_count_buffers(&mut self) -> Result<u32> {
        self.command("port stop all")?;
        self.command("port close all")?;
        let text = self.command("dump_mempool")?;
        parse_buffers(&text).with_context(|| format!("no buffers in:\n{text}"))
    }

    /// Cycles spent in bursts that moved frames and the frames received in them, since forwarding started.
    ///
    /// # Errors
    /// When nothing was forwarded yet.
    pub fn busy(&mut self) -> Result<(u64, u64)> {
        let text = self.command("show fwd stats all")?;
        parse_busy(&text).with_context(|| format!("no cycles per packet in:\n{text}"))
    }

    /// Leaves by `quit`, so that it hangs up in order.
    ///
    /// # Errors
    /// When it does not end.
    pub fn quit(mut self) -> Result<()> {
        self.process.say("quit")?;
        self.process.wait(COMMAND_LIMIT)?;
        Ok(())
    }
}

fn parse_stats(text: &str) -> Vec<PortStats> {
    let mut ports = Vec::new();
    for line in text.lines() {
        if line.contains("NIC statistics for port") {
            ports.push(PortStats::default());
        }
        let Some(port) = ports.last_mut() else { continue };
        let number = |label: &str| -> Option<u64> {
            line.split_once(label)?.1.split_whitespace().next()?.parse().ok()
        };
        for (label, field) in [
            ("RX-packets:", &mut port.rx_frames),
            ("TX-packets:", &mut port.tx_frames),
            ("RX-bytes:", &mut port.rx_bytes),
            ("TX-bytes:", &mut port.tx_bytes),
        ] {
            if let Some(value) = number(label) {
                *field = value;
            }
        }
    }
    ports
}

/// Reads `dump_mempool` of the one pool: buffers in the caches of its threads, and in the pool itself.
fn parse_buffers(text: &str) -> Option<u32> {
    let number =
        |label: &str| -> Option<u32> { text.split_once(label)?.1.split_whitespace().next()?.parse().ok() };
    Some(number("total_cache_count=")? + number("common_pool_count=")?)
}

fn parse_busy(text: &str) -> Option<(u64, u64)> {
    let number = |label: &str| -> Option<u64> {
        let digits = text.split_once(label)?.1;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some((number("(total cycles=")?, number("total io packets=").or_else(|| number("total RX packets="))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "show port stats all\n\n  ######## NIC statistics for port 0  ########\n  \
        RX-packets: 15808      RX-missed: 0          RX-bytes:  1011712\n  RX-errors: 0\n  RX-nombuf:  0\n  \
        TX-packets: 15840      TX-errors: 0          TX-bytes:  1013760\n\n  Throughput (since last show)\n  \
        Rx-pps:         3870          Rx-bps:      1981736\n  \
        ######## NIC statistics for port 1  ########\n  RX-packets: 7  RX-missed: 0  RX-bytes:  448\n  \
        TX-packets: 0  TX-errors: 0  TX-bytes:  0\ntestpmd> ";

    #[test]
    fn statistics_are_read_port_by_port() {
        let ports = parse_stats(STATS);
        assert_eq!(
            ports,
            [
                PortStats { rx_frames: 15808, tx_frames: 15840, rx_bytes: 1_011_712, tx_bytes: 1_013_760 },
                PortStats { rx_frames: 7, tx_frames: 0, rx_bytes: 448, tx_bytes: 0 },
            ]
        );
    }

    #[test]
    fn busy_cycles_are_read_and_their_absence_is_seen() {
        let text = "  CPU cycles/packet=273.67 (total cycles=8478735566 / total io packets=30981664) at 2500 MHz Clock";
        assert_eq!(parse_busy(text), Some((8_478_735_566, 30_981_664)));
        assert_eq!(parse_busy("no frames"), None);
    }

    #[test]
    fn buffers_are_those_in_the_pool_and_in_its_caches() {
        let text =
            "    cache_count[0]=250\n    total_cache_count=614\n  common_pool_count=15770\n  no statistics\n";
        assert_eq!(parse_buffers(text), Some(16384));
        assert_eq!(parse_buffers("mempool not found"), None);
    }

    #[test]
    fn a_port_asks_for_the_rings_it_was_told_to() {
        let port =
            VirtioUser { packed: true, server: true, mergeable: false, ..VirtioUser::new(Path::new("/t/s")) };
        let vdev = port.vdev(0);
        assert!(vdev.starts_with("net_virtio_user0,path=/t/s,queues=1,queue_size=1024,"), "{vdev}");
        assert!(vdev.contains("mrg_rxbuf=0") && vdev.ends_with(",server=1,packed_vq=1"), "{vdev}");
    }
}
