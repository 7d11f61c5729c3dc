//! Queues divided among owners: each frame reaches its owner and nobody else, and an owner without room is alone with that.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use action::Op;
use bridging::{BridgePorts, Fdb, FdbLimits};
use flow::{Field, FlowKey, FlowMask, OrderedMatches};
use packet::{HugePages, Offload};
use port::{Accepts, DropReason, PortCounters, PortId, Wire, WireFrame};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Done, Idle, Mailbox, Part, Partition, Partitions, Plane,
    PortPlane, PuntQueue, Queues, Rules, RxSlot, Sorted, Source, Spread, TxPort, Verdict, Worker,
    WorkerConfig, WorkerStats,
};

/// The port that is divided; a station on the bridge; two owners, the second of which has two queues.
const NIC: usize = 1;
const STATION: usize = 2;
const ONE: usize = 3;
const TWO: usize = 4;
/// Wires: one for each queue. The divided port has four.
const WIRES: [(usize, u16); 8] =
    [(NIC, 0), (NIC, 1), (NIC, 2), (NIC, 3), (STATION, 0), (ONE, 0), (TWO, 0), (TWO, 1)];

/// What comes from the port goes to the station, and back.
struct Cable;

impl Rules for Cable {
    fn evaluate(&self, key: &FlowKey, verdict: &mut Verdict) {
        *verdict = Verdict::default();
        // Looks at headers, so that no shortcut decides.
        verdict.mask.add(Field::InPort, Field::InPort.full());
        verdict.mask.add(Field::TpDst, Field::TpDst.full());
        let to = if key.get(Field::InPort) == NIC as u128 { STATION } else { NIC };
        verdict.ops = vec![Op::Output(to as u16)];
    }

    fn fields(&self) -> FlowMask {
        let mut mask = FlowMask::default();
        mask.add(Field::TpDst, Field::TpDst.full());
        mask
    }

    fn version(&self) -> u64 {
        1
    }

    fn changes_since(&self, _version: u64, _concern: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool {
        false
    }

    fn credit(&self, _worker: usize, _rule: u32, _frames: u64, _bytes: u64, _now: u32) {}
}

struct Bench {
    worker: Worker,
    mailbox: Mailbox,
    wires: Vec<Wire>,
    counters: Vec<Arc<PortCounters>>,
    tx: Vec<Arc<TxPort>>,
    table: Arc<Partitions>,
}

fn partition(owner: Option<usize>, first: u16, count: u16) -> Partition {
    Partition {
        owner: owner.map(|port| PortId(port as u16)),
        spread: Spread::ByQueue,
        queues: Queues { first, count },
        tx: Queues { first, count },
        source: Source::default(),
        is_polled: false,
        counters: vec![Arc::default()],
        of_queues: vec![(0..count).map(|_| Arc::default()).collect()],
    }
}

/// What became of the frames of a partition: counters of each of its queues.
fn delivered(partition: &Partition) -> impl Iterator<Item = &PortCounters> {
    partition.of_queues[0].iter().map(|counters| &*counters.delivered)
}

fn dropped(partition: &Partition, reason: DropReason) -> u64 {
    delivered(partition).map(|counters| counters.drops(reason)).sum()
}

/// 10.0.0.1 is the bridge's, 10.0.0.2 is one's, 10.0.0.3 is two's, which has two queues; the rest is the bridge's.
fn rows() -> Vec<Partition> {
    vec![partition(None, 0, 1), partition(Some(ONE), 1, 1), partition(Some(TWO), 2, 2), partition(None, 0, 1)]
}

fn table(rows: Vec<Partition>, sorted: Sorted) -> Arc<Partitions> {
    let matches: Vec<_> = (1..=3u8)
        .map(|host| {
            let (mut key, mut mask) = (FlowKey::default(), FlowMask::default());
            for (field, value) in [(Field::EthType, 0x800), (Field::Ipv4Dst, 0x0a00_0000 + u128::from(host))]
            {
                key.set(field, value);
                mask.add(field, field.full());
            }
            (key, mask, host - 1)
        })
        .collect();
    let matches = matches.iter().map(|(key, mask, partition)| (key, mask, *partition));
    let default = rows.len() as u8 - 1;
    Arc::new(Partitions::new(OrderedMatches::new(matches, default), rows, sorted))
}

fn bench(table: Arc<Partitions>) -> Bench {
    let config = WorkerConfig {
        index: 0,
        idle: Idle::Poll,
        caches: CacheSizes { flows: 64, megaflows: 64, megaflow_masks: 4, verdicts: 64 },
        huge_pages: HugePages::Off,
        buffers: 32,
        clock: Clock::virtual_time(1_000_000_000, 1000),
    };
    let stats = Arc::<WorkerStats>::default();
    let faults = Arc::new(|fault| panic!("{fault:?}"));
    let (mut worker, mailbox) = Worker::new(config, stats, Arc::new(PuntQueue::new(4)), faults).unwrap();
    let counters: Vec<Arc<PortCounters>> = (0..=TWO).map(|_| Arc::default()).collect();
    let (mut wires, mut tx) = (vec![], vec![]);
    for (port, queue_index) in WIRES {
        let (wire, rx_queue, tx_queue) = Wire::new(1000, Accepts::default()).unwrap();
        let port_id = PortId(port as u16);
        let queue = Box::new(rx_queue);
        mailbox.post(Command::AddRx(RxSlot {
            port: port_id,
            queue_index,
            queue,
            counters: counters[port].clone(),
        }));
        tx.push(TxPort::new(queue_index, Box::new(tx_queue)));
        wires.push(wire);
    }
    worker.turn(0);
    let mut bench = Bench { worker, mailbox, wires, counters, tx, table: table.clone() };
    bench.publish(table);
    bench
}

impl Bench {
    fn publish(&mut self, table: Arc<Partitions>) {
        self.table = table.clone();
        let mut ports = vec![None];
        for port in NIC..=TWO {
            let of = WIRES.iter().zip(&self.tx).filter(|((of, _), _)| *of == port);
            ports.push(Some(PortPlane {
                bridge: 0,
                frame_max: 1522,
                admin_up: true,
                tx: of.map(|(_, tx)| tx.clone()).collect(),
                counters: vec![self.counters[port].clone()],
                part: match port {
                    NIC => Some(Part::Divided(table.clone())),
                    STATION => None,
                    _ => Some(Part::Owner(PortId(NIC as u16))),
                },
            }));
        }
        let bridge = BridgePlane {
            rules: Arc::new(Cable),
            ports: Arc::new(BridgePorts::new([])),
            fdb: Arc::new(Fdb::new(FdbLimits { addresses: 64, per_port: 64 }, 16, 7)),
        };
        let pending = self.mailbox.post(Command::SetPlane(Arc::new(Plane { bridges: vec![bridge], ports })));
        self.worker.turn(0);
        assert!(matches!(pending.wait(), Some(Done::Applied)));
    }

    fn wire(&self, port: usize, queue: u16) -> &Wire {
        &self.wires[WIRES.iter().position(|&at| at == (port, queue)).unwrap()]
    }

    fn send(&self, port: usize, queue: u16, bytes: Vec<u8>) {
        self.wire(port, queue).send(WireFrame { bytes, offload: Offload::default() });
    }

    /// Turns until nothing moves, then checks that every frame is accounted for.
    fn run(&mut self) {
        while self.worker.turn(0) > 0 {}
        let delivered = self.table.partitions().iter().flat_map(delivered);
        let all: Vec<&PortCounters> = self.counters.iter().map(|c| &**c).chain(delivered).collect();
        let sum = |f: &dyn Fn(&PortCounters) -> u64| all.iter().map(|c| f(c)).sum::<u64>();
        let drops = |c: &PortCounters| DropReason::ALL.iter().map(|&r| c.drops(r)).sum::<u64>();
        assert_eq!(
            sum(&|c| c.rx_frames.get()),
            sum(&|c| c.tx_frames.get() + drops(c)),
            "received = sent + dropped"
        );
    }

    fn seen(&self, port: usize, queue: u16) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wire(port, queue).receive()).map(|frame| frame.bytes).collect()
    }

    /// How many frames each wire got, in the order of `WIRES`.
    fn got(&self) -> [usize; 8] {
        WIRES.map(|(port, queue)| self.seen(port, queue).len())
    }
}

fn to(host: u8, flow: u16) -> Vec<u8> {
    from_to([10, 0, 0, 9], host, flow)
}

fn from_to(src: [u8; 4], host: u8, flow: u16) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, host]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src[3]]);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&src);
    frame[30..34].copy_from_slice(&[10, 0, 0, host]);
    frame[34..36].copy_from_slice(&flow.to_be_bytes());
    frame[38..40].copy_from_slice(&26u16.to_be_bytes());
    frame
}

#[test]
fn frames_sorted_in_software_reach_their_owners_in_order_and_nobody_else() {
    let mut b = bench(table(rows(), Sorted::BySoftware));
    let frames: Vec<_> = (0..100).map(|n| to(1 + (n % 4) as u8, n)).collect();
    frames.iter().for_each(|frame| b.send(NIC, 0, frame.clone()));
    b.run();
    let of = |host: u8| frames.iter().filter(|f| f[33] == host).cloned().collect::<Vec<_>>();
    assert_eq!(b.seen(ONE, 0), of(2));
    let bridge = frames.iter().filter(|f| f[33] == 1 || f[33] == 4).cloned().collect::<Vec<_>>();
    assert_eq!(b.seen(STATION, 0), bridge, "the host's own and the rest");
    let (first, second) = (b.seen(TWO, 0), b.seen(TWO, 1));
    assert!(!first.is_empty() && !second.is_empty(), "flows are spread over both queues");
    assert_eq!(first.len() + second.len(), 25);
    let matched = |p: &Partition| p.of_queues[0].iter().map(|of| of.matched.get()).collect::<Vec<_>>();
    let counted: Vec<_> = b.table.partitions().iter().map(|p| matched(p).iter().sum::<u64>()).collect();
    assert_eq!(counted, [25, 25, 25, 25]);
    assert_eq!(matched(&b.table.partitions()[2]), [first.len() as u64, second.len() as u64]);
    assert_eq!(delivered(&b.table.partitions()[2]).map(|c| c.tx_frames.get()).sum::<u64>(), 25);
}

#[test]
fn a_flow_stays_in_one_queue_of_its_owner() {
    let mut b = bench(table(rows(), Sorted::BySoftware));
    for flow in [7, 8, 9, 10] {
        (0..40).for_each(|_| b.send(NIC, 0, to(3, flow)));
        b.run();
        let got = [b.seen(TWO, 0).len(), b.seen(TWO, 1).len()];
        assert!(got == [40, 0] || got == [0, 40], "{got:?}");
    }
}

#[test]
fn what_hardware_has_sorted_goes_by_its_queue_whatever_the_frame_says() {
    let mut b = bench(table(rows(), Sorted::ByHardware));
    for queue in 0..4 {
        (0..10).for_each(|_| b.send(NIC, queue, to(9, 0)));
    }
    b.run();
    assert_eq!(b.got(), [0, 0, 0, 0, 10, 10, 10, 10]);
    for (partition, queues) in [(1, 1), (2, 2), (3, 1)] {
        let of = &b.table.partitions()[partition].of_queues[0];
        assert_eq!(of.iter().map(|of| of.matched.get()).collect::<Vec<_>>(), vec![10; queues]);
    }
}

#[test]
fn queues_of_hardware_can_be_spread_by_flow_all_the_same() {
    let mut rows = rows();
    rows[2].spread = Spread::ByFlow;
    let mut b = bench(table(rows, Sorted::ByHardware));
    (0..64).for_each(|flow| b.send(NIC, 2, to(3, flow)));
    b.run();
    let [.., first, second] = b.got();
    assert!(first > 10 && second > 10 && first + second == 64, "{first} {second}");
}

#[test]
fn an_owner_sends_to_the_wire_by_its_own_queues_and_to_owners_and_the_bridge_directly() {
    for sorted in [Sorted::BySoftware, Sorted::ByHardware] {
        let mut b = bench(table(rows(), sorted));
        b.send(ONE, 0, to(77, 0));
        b.send(ONE, 0, to(3, 0));
        b.send(ONE, 0, to(1, 0));
        b.send(TWO, 0, to(77, 0));
        b.send(TWO, 1, to(77, 0));
        b.send(TWO, 1, to(2, 0));
        b.run();
        let [nic0, nic1, nic2, nic3, station, one, two0, two1] = b.got();
        assert_eq!([nic0, nic1, nic2, nic3], [0, 1, 1, 1], "each by the owner's own");
        assert_eq!((station, one, two0 + two1), (1, 1, 1));
        assert_eq!(b.table.partitions()[1].counters[0].sent.get(), 3);
    }
}

#[test]
fn what_the_bridge_has_for_the_port_goes_to_owners_or_out() {
    let mut b = bench(table(rows(), Sorted::ByHardware));
    for host in [1, 2, 3, 77] {
        b.send(STATION, 0, to(host, 0));
    }
    b.run();
    let [nic0, nic1, nic2, nic3, station, one, two0, two1] = b.got();
    assert_eq!(
        [nic0, nic1, nic2, nic3],
        [2, 0, 0, 0],
        "its own address and the rest leave by the bridge's queue"
    );
    assert_eq!((station, one, two0 + two1), (0, 1, 1));
}

#[test]
fn an_owner_sends_from_its_own_addresses_only_if_asked_for() {
    let mut rows = rows();
    rows[1].source =
        Source { mac: Some([2, 0, 0, 0, 0, 2]), ip: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))] };
    let mut b = bench(table(rows, Sorted::BySoftware));
    b.send(ONE, 0, from_to([10, 0, 0, 2], 77, 0));
    b.send(ONE, 0, from_to([10, 0, 1, 2], 77, 0));
    b.send(ONE, 0, from_to([10, 0, 0, 3], 77, 0));
    b.send(TWO, 0, from_to([10, 0, 0, 2], 77, 0));
    b.run();
    assert_eq!((b.seen(NIC, 1).len(), b.seen(NIC, 2).len()), (1, 1));
    assert_eq!(b.counters[ONE].drops(DropReason::ForeignSource), 2);
    assert_eq!(b.table.partitions()[1].counters[0].refused.get(), 2);
}

#[test]
fn an_arp_message_with_anothers_addresses_is_a_foreign_source() {
    let source = Source { mac: Some([2, 0, 0, 0, 0, 2]), ip: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))] };
    let key = |eth: u128, sha: u128, spa: u128| {
        let mut key = FlowKey::default();
        for (field, value) in
            [(Field::EthType, 0x806), (Field::EthSrc, eth), (Field::ArpSha, sha), (Field::Ipv4Src, spa)]
        {
            key.set(field, value);
        }
        key
    };
    let (mac, ip) = (0x0200_0000_0002, 0x0a00_0002);
    assert!(source.permits(&key(mac, mac, ip)));
    assert!(!source.permits(&key(mac, mac + 1, ip)));
    assert!(!source.permits(&key(mac, mac, ip + 1)));
    assert!(!source.permits(&key(mac + 1, mac, ip)));
}

#[test]
fn a_full_owner_loses_its_own_frames_and_nobody_elses() {
    let mut b = bench(table(rows(), Sorted::BySoftware));
    b.wire(ONE, 0).set_room(5);
    for n in 0..300 {
        b.send(NIC, 0, to(1 + (n % 4) as u8, n));
    }
    b.run();
    assert_eq!(b.seen(ONE, 0).len(), 5);
    assert_eq!(b.seen(STATION, 0).len(), 150);
    assert_eq!(b.seen(TWO, 0).len() + b.seen(TWO, 1).len(), 75);
    assert_eq!(dropped(&b.table.partitions()[1], DropReason::TxFull), 70);
}

#[test]
fn frames_in_hardware_wait_there_for_an_owner_without_room() {
    let mut b = bench(table(rows(), Sorted::ByHardware));
    b.wire(ONE, 0).set_room(80);
    for n in 0..300 {
        b.send(NIC, 1, to(2, n));
        b.send(NIC, 2, to(3, n));
    }
    b.run();
    assert_eq!(b.seen(TWO, 0).len(), 300, "others don't wait");
    assert_eq!(b.wire(NIC, 1).waiting(), 300 - 64, "a third burst wouldn't fit");
    // With room again, all that waited comes.
    let mut got = b.seen(ONE, 0).len();
    assert_eq!(got, 64);
    while b.wire(NIC, 1).waiting() > 0 {
        b.run();
        got += b.seen(ONE, 0).len();
    }
    assert_eq!(got, 300);
    assert_eq!(dropped(&b.table.partitions()[1], DropReason::TxFull), 0);
}

#[test]
fn frames_of_an_owner_that_is_gone_are_dropped_with_a_reason() {
    for sorted in [Sorted::BySoftware, Sorted::ByHardware] {
        let mut b = bench(table(rows(), sorted));
        b.tx[5] = TxPort::new(1, Box::new(Wire::new(10, Accepts::default()).unwrap().2));
        b.tx.truncate(5);
        let table = b.table.clone();
        b.publish(table);
        b.send(NIC, 1, to(2, 0));
        b.send(NIC, 0, to(1, 0));
        b.run();
        assert_eq!(dropped(&b.table.partitions()[1], DropReason::PortDown), 1);
        assert_eq!(b.seen(STATION, 0).len(), 1);
    }
}

#[test]
fn a_change_of_owner_is_in_force_when_it_is_answered() {
    let original = rows();
    let mut b = bench(table(original.clone(), Sorted::BySoftware));
    for round in 0..20 {
        // The counters go on.
        let mut rows = original.clone();
        if round % 2 == 1 {
            (rows[1].owner, rows[2].owner) = (rows[2].owner, rows[1].owner);
        }
        b.publish(table(rows, Sorted::BySoftware));
        (0..20).for_each(|n| b.send(NIC, 0, to(2, n)));
        b.run();
        let [.., one, two0, two1] = b.got();
        assert_eq!((one, two0 + two1), if round % 2 == 1 { (0, 20) } else { (20, 0) }, "round {round}");
    }
}
