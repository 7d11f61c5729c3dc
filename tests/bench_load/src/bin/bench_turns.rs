//! A worker between two guests (or several workers, in turn, each with a queue pair of both), a fixed number of frames: what `cargo xtask bench --instructions` counts, and
//! `cargo xtask bench partition` times.
//!
//! Everything is in one thread and deterministic: guest A sends a burst, the worker takes a turn, guest B takes the burst. Time
//! is virtual. Counted is only what happens inside [`counted_turn`].

use std::sync::Arc;

use action::Op;
use anyhow::{Context as _, Result, bail, ensure};
use bridging::{BridgePorts, Fdb, FdbLimits, PortVlan};
use clap::Parser;
use flow::{Field, FlowKey, FlowMask, OrderedMatches};
use guest_memory::{MemMap, RegionSpec, SharedMemory};
use packet::{BURST_MAX, HugePages};
use port::{PortCounters, PortId};
use virtio_defs::feature::{IN_ORDER, RING_PACKED, VERSION_1};
use virtio_defs::net::HEADER_BYTES;
use virtio_defs::net::feature::MRG_RXBUF;
use virtqueue::driver::{Buffer, Driver, DriverConfig, Layout};
use virtqueue::{RingConfig, VirtioRx, VirtioTx};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Idle, Mailbox, Part, Partition, Partitions, Plane, PortPlane,
    PuntQueue, Queues, Rules, RxSlot, Sorted, Source, Spread, TxPort, Verdict, Worker, WorkerConfig,
};

const RING: u16 = 256;
const BUFFER: usize = 2048;
const GPA: u64 = 1 << 32;
/// Ticks of the virtual clock in a second, and in a turn.
const HZ: u64 = 1_000_000_000;
const TURN: u64 = 1_000;
/// Turns before counting begins: learning, caches, buffers touched.
const WARM_UP: usize = 64;

/// Moves frames from one guest to another through a worker.
#[derive(Parser)]
struct Arguments {
    /// `split` or `packed`.
    ring: String,
    /// What decides: `p2p` (a rule that looks at the port only), `normal` (learning), `rule` (one that looks at the destination
    /// address), `direct` (the port's queue belongs to the guest), `sorted` (a table of queues' owners in software).
    rules: Decides,
    /// Bytes of a frame.
    bytes: usize,
    /// Frames, a multiple of the burst.
    frames: usize,
    /// Prints the cycles of a frame: the median over turns.
    #[arg(long)]
    cycles: bool,
    /// Workers, each with a queue pair of each guest.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    workers: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Decides {
    P2p,
    Normal,
    Rule,
    Direct,
    Sorted,
}

/// One turn of the worker, under a name of its own.
#[inline(never)]
fn counted_turn(worker: &mut Worker, now: u64) -> usize {
    worker.turn(now)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let features = match arguments.ring.as_str() {
        "split" => VERSION_1 | MRG_RXBUF | IN_ORDER,
        "packed" => VERSION_1 | MRG_RXBUF | IN_ORDER | RING_PACKED,
        other => bail!("rings are split or packed, not {other}"),
    };
    let pairs =
        |first: u64| (0..u64::from(arguments.workers)).map(move |n| Guest::new(first + 2 * n, features));
    let mut guests = [pairs(1).collect::<Result<Vec<_>>>()?, pairs(2).collect::<Result<Vec<_>>>()?];
    let mut workers = workers_between(&guests, arguments.rules)?;
    let mut now = HZ;
    let frames = [udp_frame(arguments.bytes, 2, 1), udp_frame(arguments.bytes, 1, 2)];
    let [a, b] = &mut guests;
    // B is learned by a frame of its own.
    b[0].send(&frames[1], 1);
    workers[0].turn(now);
    ensure!(a[0].receive()? == 1, "the first frame did not arrive");
    let mut spent = vec![];
    for turn in 0..WARM_UP + arguments.frames / BURST_MAX {
        now += TURN;
        let n = turn % workers.len();
        let (worker, a) = (&mut workers[n], &mut a[n]);
        a.send(&frames[0], BURST_MAX);
        let before = packet::cycles::now();
        let moved = if turn < WARM_UP { worker.turn(now) } else { counted_turn(worker, now) };
        spent.push(packet::cycles::now() - before);
        // A table in software chooses the pair by the flow.
        let mut received = 0;
        for b in b.iter_mut() {
            received += b.receive()?;
        }
        ensure!(
            (moved, received) == (BURST_MAX, BURST_MAX),
            "{moved} frames were moved, {received} received"
        );
    }
    if arguments.cycles {
        let counted = &mut spent[WARM_UP..];
        counted.sort_unstable();
        println!("{:.2}", counted[counted.len() / 2] as f64 / BURST_MAX as f64);
    }
    Ok(())
}

/// A queue pair of a guest, its driver's side: two rings and their memory.
struct Guest {
    memory: Arc<SharedMemory>,
    rx: Driver,
    tx: Driver,
    free: Vec<u32>,
    rx_at: usize,
    tx_at: usize,
    user: u64,
}

impl Guest {
    fn new(number: u64, features: u64) -> Result<Guest> {
        let layout = Layout::new(RING, features & RING_PACKED != 0);
        let ring_bytes = layout.bytes.next_multiple_of(4096);
        let area = usize::from(RING) * BUFFER;
        let memory = Arc::new(SharedMemory::new(c"bench-turns", (2 * ring_bytes + 2 * area) as u64)?);
        let config = DriverConfig { size: RING, features, gpa: GPA };
        let rx = Driver::new(Arc::clone(&memory), 0, config);
        let tx = Driver::new(Arc::clone(&memory), ring_bytes, config);
        let (rx_at, tx_at) = (2 * ring_bytes, 2 * ring_bytes + area);
        let user = number << 40;
        let free = (0..u32::from(RING)).rev().collect();
        let mut guest = Guest { memory, rx, tx, free, rx_at, tx_at, user };
        for buffer in 0..u32::from(RING) {
            guest.offer(buffer);
        }
        guest.rx.publish();
        Ok(guest)
    }

    fn offer(&mut self, buffer: u32) {
        let at = self.rx_at + buffer as usize * BUFFER;
        assert!(self.rx.add(&[Buffer::writable(GPA + at as u64, BUFFER as u32)], buffer), "there is room");
    }

    fn send(&mut self, frame: &[u8], count: usize) {
        let free = &mut self.free;
        self.tx.poll(usize::MAX, |buffer, _| free.push(buffer)).expect("the worker keeps the rules");
        for _ in 0..count {
            let buffer = self.free.pop().expect("the ring is larger than a burst");
            let at = self.tx_at + buffer as usize * BUFFER;
            self.memory.write(at, &[0; HEADER_BYTES]);
            self.memory.write(at + HEADER_BYTES, frame);
            let len = (HEADER_BYTES + frame.len()) as u32;
            assert!(self.tx.add(&[Buffer::readable(GPA + at as u64, len)], buffer), "there is room");
        }
        self.tx.publish();
    }

    fn receive(&mut self) -> Result<usize> {
        let mut buffers = Vec::new();
        self.rx.poll(usize::MAX, |buffer, _| buffers.push(buffer))?;
        buffers.iter().for_each(|&buffer| self.offer(buffer));
        self.rx.publish();
        Ok(buffers.len())
    }

    fn map(&self) -> Result<Arc<MemMap>> {
        let len = self.memory.len() as u64;
        let region = RegionSpec { gpa: GPA, len, user_va: self.user, fd: self.memory.fd(), offset: 0 };
        Ok(Arc::new(MemMap::new(&[region])?))
    }

    fn ring(&self, driver: &Driver) -> RingConfig {
        let (desc, avail, used) = driver.user_addresses(self.user);
        RingConfig::new(RING, desc, avail, used, driver.config().features)
    }
}

/// Workers with the guests as ports 1 and 2 of a bridge: each serves a queue pair of both.
fn workers_between(guests: &[Vec<Guest>; 2], decides: Decides) -> Result<Vec<Worker>> {
    let count = guests[0].len();
    let mut workers = vec![];
    for index in 0..count {
        let config = WorkerConfig {
            index,
            idle: Idle::Poll,
            caches: CacheSizes { flows: 1024, megaflows: 64, megaflow_masks: 4, verdicts: 64 },
            huge_pages: HugePages::Off,
            buffers: 256,
            clock: Clock::virtual_time(HZ, 1000),
        };
        let punts = Arc::new(PuntQueue::new(4));
        let faults = Arc::new(|fault| panic!("{fault:?}"));
        workers.push(Worker::new(config, Arc::default(), punts, faults)?);
    }
    let mut planes = vec![None];
    for (pairs, id) in guests.iter().zip(1..) {
        let counters: Vec<_> = (0..count).map(|_| Arc::<PortCounters>::default()).collect();
        let mut tx = vec![];
        for (n, ((guest, (worker, mailbox)), counters)) in
            pairs.iter().zip(&mut workers).zip(&counters).enumerate()
        {
            let map = guest.map()?;
            let queue = Box::new(VirtioRx::new(guest.ring(&guest.tx), Arc::clone(&map))?);
            let (port, queue_index) = (PortId(id), n as u16);
            let slot = RxSlot { port, queue_index, queue, counters: Arc::clone(counters) };
            tell(mailbox, worker, Command::AddRx(slot))?;
            tx.push(TxPort::new(queue_index, Box::new(VirtioTx::new(guest.ring(&guest.rx), map)?)));
        }
        planes.push(Some(PortPlane {
            bridge: 0,
            frame_max: 1514,
            admin_up: true,
            tx,
            counters,
            part: part(id, count as u16, decides),
        }));
    }
    let ports = [PortId(1), PortId(2)].map(|id| (id, Arc::new(PortVlan::default())));
    let bridge = BridgePlane {
        rules: Arc::new(TwoPorts { decides }),
        ports: Arc::new(BridgePorts::new(ports)),
        fdb: Arc::new(Fdb::new(FdbLimits { addresses: 64, per_port: 64 }, 16, 7)),
    };
    let plane = Arc::new(Plane { bridges: vec![bridge], ports: planes });
    for (worker, mailbox) in &mut workers {
        tell(mailbox, worker, Command::SetPlane(plane.clone()))?;
    }
    Ok(workers.into_iter().map(|(worker, _)| worker).collect())
}

fn tell(mailbox: &Mailbox, worker: &mut Worker, command: Command) -> Result<()> {
    let pending = mailbox.post(command);
    worker.turn(HZ);
    pending.wait().context("the worker did not answer")?;
    Ok(())
}

/// Port 2 owns queues of port 1, one for each worker, if so asked for: its address is matched, the rest is the bridge's.
fn part(id: u16, workers: u16, decides: Decides) -> Option<Part> {
    let sorted = match decides {
        Decides::Direct => Sorted::ByHardware,
        Decides::Sorted => Sorted::BySoftware,
        _ => return None,
    };
    if id == 2 {
        return Some(Part::Owner(PortId(1)));
    }
    let counters = || (0..workers).map(|_| Arc::default()).collect();
    let partition = |owner, first, count: u16| Partition {
        owner,
        spread: Spread::ByQueue,
        queues: Queues { first, count },
        tx: Queues { first: 0, count: workers },
        source: Source::default(),
        is_polled: false,
        counters: counters(),
        of_queues: (0..workers).map(|_| (0..count).map(|_| Arc::default()).collect()).collect(),
    };
    let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
    for (field, value) in [(Field::EthType, 0x800), (Field::Ipv4Dst, 0x0a00_0002)] {
        key.set(field, value);
        mask.add(field, field.full());
    }
    let partitions = vec![partition(Some(PortId(2)), 0, workers), partition(None, workers, 1)];
    let matches = OrderedMatches::new([(&key, &mask, 0)], 1);
    Some(Part::Divided(Arc::new(Partitions::new(matches, partitions, sorted))))
}

/// NORMAL for everything, or from each port to the other.
struct TwoPorts {
    decides: Decides,
}

impl Rules for TwoPorts {
    fn evaluate(&self, key: &FlowKey, verdict: &mut Verdict) {
        let op = match (self.decides, key.get(Field::InPort)) {
            (Decides::Normal, _) => Op::Normal,
            (_, 1) => Op::Output(2),
            (_, _) => Op::Output(1),
        };
        *verdict = Verdict { ops: vec![op], rules: vec![0], mask: self.fields(), ..Verdict::default() };
    }

    fn fields(&self) -> FlowMask {
        let mut mask = FlowMask::default();
        if self.decides != Decides::Normal {
            mask.add(Field::InPort, Field::InPort.full());
        }
        if self.decides == Decides::Rule {
            mask.add(Field::EthType, Field::EthType.full());
            mask.add(Field::Ipv4Dst, Field::Ipv4Dst.full());
        }
        mask
    }

    fn version(&self) -> u64 {
        1
    }

    fn changes_since(&self, _version: u64, _concern: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool {
        false
    }

    fn credit(&self, _worker: usize, _rule: u32, _frames: u64, _bytes: u64, _now_secs: u32) {}
}

/// A UDP frame between two addresses.
fn udp_frame(bytes: usize, to: u8, from: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, 0];
    frame.extend(((bytes - 14) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to, 0x03, 0xe8, 0x03, 0xe9]);
    frame.resize(bytes, 0);
    frame
}
