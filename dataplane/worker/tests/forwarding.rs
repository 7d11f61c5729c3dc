//! A worker between in-process wires: what it does with frames, and that it accounts for each.

use std::sync::{Arc, Mutex};

use action::Op;
use bridging::{BridgePorts, Fdb, FdbLimits, PortVlan, VlanSet};
use flow::{Field, FlowKey, FlowMask};
use packet::{HugePages, Offload, cycles};
use port::{Accepts, DropReason, PortCounters, PortId, QueueFault, Wire, WireFrame};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Done, FaultReport, FaultSink, Idle, Mailbox, Plane, PortPlane,
    PuntQueue, Rules, RxSlot, TxPort, Verdict, Worker, WorkerConfig, WorkerStats,
};

/// Rules as a list: the first whose masked key fits decides.
struct ListRules {
    version: u64,
    rules: Vec<(FlowMask, FlowKey, Vec<Op>)>,
    /// The changes since the version before; none for not known.
    changes: Option<Vec<(FlowKey, FlowMask)>>,
    credited: Mutex<Vec<(u64, u64)>>,
}

impl Rules for ListRules {
    fn evaluate(&self, key: &FlowKey, verdict: &mut Verdict) {
        *verdict = Verdict::default();
        for (n, (mask, wanted, ops)) in self.rules.iter().enumerate() {
            verdict.mask.union(mask);
            if key.matches(wanted, mask) {
                verdict.ops = ops.clone();
                verdict.rules = vec![n as u32];
                return;
            }
        }
        verdict.outcome = worker::Outcome::NoRule;
    }

    fn fields(&self) -> FlowMask {
        self.rules.iter().fold(FlowMask::default(), |mut all, (mask, ..)| {
            all.union(mask);
            all
        })
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn changes_since(&self, version: u64, concern: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool {
        let Some(changes) = self.changes.as_ref().filter(|_| version + 1 == self.version) else {
            return false;
        };
        changes.iter().for_each(|(key, mask)| concern(key, mask));
        true
    }

    fn credit(&self, _worker: usize, rule: u32, frames: u64, bytes: u64, _now: u32) {
        let credited = &mut self.credited.lock().unwrap()[rule as usize];
        credited.0 += frames;
        credited.1 += bytes;
    }
}

struct Bench {
    worker: Worker,
    mailbox: Mailbox,
    wires: Vec<Wire>,
    counters: Vec<Arc<PortCounters>>,
    tx: Vec<Arc<TxPort>>,
    fdb: Arc<Fdb>,
    vlans: Vec<PortVlan>,
    stats: Arc<WorkerStats>,
    punts: Arc<PuntQueue>,
    faults: Arc<Mutex<Vec<FaultReport>>>,
    rules: Arc<ListRules>,
}

const SMALL_CACHES: CacheSizes = CacheSizes { flows: 64, megaflows: 64, megaflow_masks: 4, verdicts: 64 };

/// `Bench` with as many ports as there are VLAN modes, numbered from 1.
fn bench_with(vlans: Vec<PortVlan>, accepts: Accepts, rules: Vec<(&str, Vec<Op>)>) -> Bench {
    bench_sized(SMALL_CACHES, vlans, accepts, rules)
}

fn bench_sized(
    caches: CacheSizes,
    vlans: Vec<PortVlan>,
    accepts: Accepts,
    rules: Vec<(&str, Vec<Op>)>,
) -> Bench {
    let (stats, punts, faults) = (Arc::<WorkerStats>::default(), Arc::new(PuntQueue::new(4)), Arc::default());
    let sink: Arc<Mutex<Vec<FaultReport>>> = Arc::clone(&faults);
    let sink: FaultSink = Arc::new(move |report| sink.lock().unwrap().push(report));
    let config = WorkerConfig {
        index: 0,
        idle: Idle::Poll,
        caches,
        huge_pages: HugePages::Off,
        buffers: 32,
        clock: Clock::virtual_time(1_000_000_000, 1000),
    };
    let (mut worker, mailbox) = Worker::new(config, stats.clone(), punts.clone(), sink).unwrap();
    let (mut wires, mut counters, mut tx) = (vec![], vec![], vec![]);
    for n in 0..vlans.len() {
        let (wire, rx_queue, tx_queue) = Wire::new(1000, accepts).unwrap();
        let port_counters = Arc::<PortCounters>::default();
        let slot = RxSlot {
            port: PortId(n as u16 + 1),
            queue_index: 0,
            queue: Box::new(rx_queue),
            counters: port_counters.clone(),
        };
        mailbox.post(Command::AddRx(slot));
        tx.push(TxPort::new(0, Box::new(tx_queue)));
        wires.push(wire);
        counters.push(port_counters);
    }
    worker.turn(0);
    let fdb = Arc::new(Fdb::new(FdbLimits { addresses: 64, per_port: 64 }, 16, 7));
    let rules = Arc::new(list(1, rules));
    let mut bench = Bench {
        worker,
        mailbox,
        wires,
        counters,
        tx,
        fdb,
        vlans,
        stats,
        punts,
        faults,
        rules: rules.clone(),
    };
    bench.publish(rules);
    bench
}

fn bench(ports: usize, rules: Vec<(&str, Vec<Op>)>) -> Bench {
    bench_with(vec![PortVlan::default(); ports], Accepts::default(), rules)
}

/// Matches written as `in_port=1,tp_dst=80`.
fn list(version: u64, rules: Vec<(&str, Vec<Op>)>) -> ListRules {
    let credited = Mutex::new(vec![(0, 0); rules.len()]);
    let rule = |(text, ops): (&str, Vec<Op>)| {
        let (mut mask, mut key) = (FlowMask::default(), FlowKey::default());
        for (name, value) in text.split(',').filter_map(|part| part.split_once('=')) {
            let field = match name {
                "in_port" => Field::InPort,
                "tp_src" => Field::TpSrc,
                "tp_dst" => Field::TpDst,
                other => panic!("{other}"),
            };
            mask.add(field, field.full());
            key.set(field, value.parse().unwrap());
        }
        (mask, key, ops)
    };
    ListRules { version, rules: rules.into_iter().map(rule).collect(), changes: None, credited }
}

impl Bench {
    fn publish(&mut self, rules: Arc<ListRules>) {
        self.rules = rules.clone();
        let vlans = self.vlans.iter().enumerate();
        let ports = BridgePorts::new(vlans.map(|(n, v)| (PortId(n as u16 + 1), Arc::new(v.clone()))));
        let mut planes = vec![None];
        for (tx, counters) in self.tx.iter().zip(&self.counters) {
            planes.push(Some(PortPlane {
                bridge: 0,
                frame_max: 1522,
                admin_up: true,
                tx: vec![tx.clone()],
                counters: vec![counters.clone()],
                part: None,
            }));
        }
        let bridge = BridgePlane { rules, ports: Arc::new(ports), fdb: self.fdb.clone() };
        self.tell(Command::SetPlane(Arc::new(Plane { bridges: vec![bridge], ports: planes })));
    }

    fn tell(&mut self, command: Command) -> Done {
        let pending = self.mailbox.post(command);
        self.worker.turn(cycles::now());
        pending.wait().expect("the worker answers")
    }

    fn send(&mut self, port: usize, bytes: Vec<u8>) {
        self.wires[port - 1].send(WireFrame { bytes, offload: Offload::default() });
    }

    /// Turns until nothing waits, then checks that every frame is accounted for.
    fn run(&mut self) {
        while self.worker.turn(0) > 0 {}
        self.tell(Command::Sync);
        let sum = |f: &dyn Fn(&PortCounters) -> u64| self.counters.iter().map(|c| f(c)).sum::<u64>();
        let drops = |c: &PortCounters| DropReason::ALL.iter().map(|&r| c.drops(r)).sum::<u64>();
        assert_eq!(
            sum(&|c| c.rx_frames.get() + c.copies.get() + c.injected.get()),
            sum(&|c| c.tx_frames.get() + c.punted.get() + drops(c)),
            "received + copies + injected = sent + dropped + punted"
        );
    }

    fn seen(&self, port: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wires[port - 1].receive()).map(|f| f.bytes).collect()
    }

    fn drops(&self, port: usize, reason: DropReason) -> u64 {
        self.counters[port - 1].drops(reason)
    }
}

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const BROADCAST: [u8; 6] = [0xff; 6];

/// A UDP datagram of `len` bytes in all.
fn udp(dst: [u8; 6], src: [u8; 6], tp_dst: u16, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17]);
    frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[36..38].copy_from_slice(&tp_dst.to_be_bytes());
    frame[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
    frame
}

fn tagged(frame: &[u8], vid: u16) -> Vec<u8> {
    let tag = [0x81, 0, (vid >> 8) as u8, vid as u8];
    [&frame[..12], &tag, &frame[12..]].concat()
}

#[test]
fn rules_on_the_input_port_alone_decide_without_looking_at_frames() {
    let mut b = bench(2, vec![("in_port=1", vec![Op::Output(2)]), ("", vec![])]);
    let frames: Vec<_> = (0..100).map(|n| udp(B, A, n, 60 + n as usize)).collect();
    frames.iter().for_each(|f| b.send(1, f.clone()));
    b.send(2, udp(A, B, 0, 60));
    b.run();
    assert_eq!(b.seen(2), frames, "all, unchanged, in order");
    assert_eq!(b.drops(2, DropReason::Rule), 1);
    assert_eq!(b.stats.shortcut_hits.get(), 101);
    assert_eq!(b.rules.credited.lock().unwrap()[0], (100, frames.iter().map(|f| f.len() as u64).sum()));
}

#[test]
fn output_to_the_port_a_frame_came_from_drops_it_with_and_without_a_look_at_the_frame() {
    for rule in ["in_port=1", "tp_dst=80"] {
        let mut b = bench(2, vec![(rule, vec![Op::Output(1)])]);
        b.send(1, udp(B, A, 80, 60));
        b.run();
        assert_eq!((b.seen(1).len(), b.drops(1, DropReason::Hairpin)), (0, 1), "{rule}");
    }
}

#[test]
fn headers_decide_where_rules_look_at_them_and_what_is_asked_again_is_remembered() {
    let rules = vec![("tp_dst=80", vec![Op::Output(2)]), ("tp_dst=81", vec![Op::Output(3)])];
    let mut b = bench(3, rules);
    for _ in 0..6 {
        for tp_dst in [80, 81, 82] {
            b.send(1, udp(B, A, tp_dst, 100));
        }
        b.run();
    }
    assert_eq!(b.seen(2), vec![udp(B, A, 80, 100); 6]);
    assert_eq!(b.seen(3), vec![udp(B, A, 81, 100); 6]);
    assert_eq!(b.drops(1, DropReason::NoRule), 6);
    // The second frame of each flow makes it a megaflow, the fourth an entry of its own.
    assert_eq!((b.stats.misses.get(), b.stats.megaflow_hits.get(), b.stats.exact_hits.get()), (6, 6, 6));
}

#[test]
fn a_change_of_rules_is_in_force_when_it_is_answered() {
    let mut b = bench(3, vec![("tp_dst=80", vec![Op::Output(2)])]);
    for round in 0..50u64 {
        let port = 2 + (round % 2) as u16;
        b.publish(Arc::new(list(100 + round, vec![("tp_dst=80", vec![Op::Output(port)])])));
        b.send(1, udp(B, A, 80, 60));
        b.run();
        assert_eq!(b.seen(port as usize).len(), 1, "round {round}");
        assert_eq!(b.seen(5 - port as usize).len(), 0, "round {round}");
    }
}

#[test]
fn a_change_of_rules_leaves_flows_that_it_does_not_concern_in_the_caches() {
    let rules = |version, port| {
        list(version, vec![("tp_dst=80", vec![Op::Output(2)]), ("tp_dst=81", vec![Op::Output(port)])])
    };
    let mut b = bench(3, vec![]);
    b.publish(Arc::new(rules(10, 2)));
    let send_both = |b: &mut Bench| {
        let (misses, hits) = (b.stats.misses.get(), b.stats.exact_hits.get());
        b.send(1, udp(B, A, 80, 60));
        b.send(1, udp(B, A, 81, 60));
        b.run();
        let decided = (b.stats.misses.get() - misses, b.stats.exact_hits.get() - hits);
        (b.seen(2).len(), b.seen(3).len(), decided.0, decided.1)
    };
    // What is asked again and again is in the first cache in the end.
    for _ in 0..4 {
        send_both(&mut b);
    }
    assert_eq!(send_both(&mut b), (2, 0, 0, 2));
    let mut changed = rules(11, 3);
    let (mask, key, _) = changed.rules[1].clone();
    changed.changes = Some(vec![(key, mask)]);
    let flushes = b.stats.cache_flushes.get();
    b.publish(Arc::new(changed));
    assert_eq!(send_both(&mut b), (1, 1, 1, 1), "only the changed rule's flow is decided anew");
    assert_eq!(b.stats.cache_flushes.get(), flushes);
    b.publish(Arc::new(rules(20, 2)));
    assert_eq!(send_both(&mut b), (2, 0, 2, 0), "nobody knows what changed");
    assert_eq!(b.stats.cache_flushes.get(), flushes + 1);
}

#[test]
fn more_verdicts_than_there_is_room_for_lose_no_frame_and_no_count() {
    let rules: Vec<String> = (0..200).map(|n| format!("tp_dst={n}")).collect();
    let rules = rules.iter().map(|r| (r.as_str(), vec![Op::Output(2)])).collect();
    let mut b = bench(2, rules);
    for round in 0..3 {
        for n in 0..200 {
            b.send(1, udp(B, A, (n * 7 + round) % 200, 60));
        }
        b.run();
    }
    assert_eq!(b.seen(2).len(), 600);
    assert!(b.stats.cache_flushes.get() > 1);
    assert!(b.rules.credited.lock().unwrap().iter().all(|&c| c == (3, 180)));
}

#[test]
fn an_unknown_destination_is_flooded_and_a_known_one_reached() {
    let mut b = bench(3, vec![("", vec![Op::Normal])]);
    b.send(1, udp(BROADCAST, A, 1, 60));
    b.run();
    assert_eq!((b.seen(1).len(), b.seen(2).len(), b.seen(3).len()), (0, 1, 1));
    b.send(2, udp(A, B, 1, 60));
    b.run();
    assert_eq!((b.seen(1).len(), b.seen(2).len(), b.seen(3).len()), (1, 0, 0));
    assert_eq!(b.counters[0].copies.get(), 1);
    b.send(1, vec![0; 13]);
    b.run();
    assert_eq!(b.drops(1, DropReason::Runt), 1);
}

#[test]
fn a_tag_taken_off_for_one_receiver_is_on_again_for_the_next_whatever_it_was() {
    let modes = vec![PortVlan::Trunk(VlanSet::All), PortVlan::Access(5), PortVlan::Trunk(VlanSet::All)];
    for (tpid, tci) in [(0x88a8u16, 0x0005u16), (0x9100, 0xf005), (0x8100, 0x1005)] {
        let mut b = bench_with(modes.clone(), Accepts::default(), vec![("", vec![Op::Normal])]);
        let plain = udp(BROADCAST, A, 1, 60);
        let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
        let tagged = [&plain[..12], &tag, &plain[12..]].concat();
        b.send(1, tagged.clone());
        b.run();
        assert_eq!(b.seen(2), vec![plain]);
        assert_eq!(b.seen(3), vec![tagged]);
    }
}

#[test]
fn a_burst_with_more_verdicts_than_the_cache_was_to_hold_goes_through() {
    let rules: Vec<String> = (0..32).map(|n| format!("tp_dst={n}")).collect();
    let rules = rules.iter().map(|r| (r.as_str(), vec![Op::Output(2)])).collect();
    let caches = CacheSizes { verdicts: 1, ..SMALL_CACHES };
    let mut b = bench_sized(caches, vec![PortVlan::default(); 2], Accepts::default(), rules);
    (0..32).for_each(|n| b.send(1, udp(B, A, n, 60)));
    b.run();
    assert_eq!(b.seen(2).len(), 32);
}

#[test]
fn each_receiver_of_a_flood_gets_the_tag_its_port_wants() {
    let modes =
        vec![PortVlan::Access(5), PortVlan::Trunk(VlanSet::All), PortVlan::Access(5), PortVlan::Access(6)];
    let mut b = bench_with(modes, Accepts::default(), vec![("", vec![Op::Normal])]);
    let plain = udp(BROADCAST, A, 1, 60);
    b.send(1, plain.clone());
    b.run();
    assert_eq!(b.seen(2), [tagged(&plain, 5)]);
    assert_eq!(b.seen(3), std::slice::from_ref(&plain));
    assert_eq!(b.seen(4), Vec::<Vec<u8>>::new());
    let from_trunk = udp(BROADCAST, B, 1, 60);
    b.send(2, tagged(&from_trunk, 5));
    b.run();
    assert_eq!(b.seen(1), std::slice::from_ref(&from_trunk));
    assert_eq!(b.seen(3), [from_trunk]);
    b.send(1, tagged(&plain, 5));
    b.run();
    assert_eq!(b.drops(1, DropReason::VlanIn), 1);
}

#[test]
fn every_output_of_a_program_sees_the_frame_as_it_was_at_that_point() {
    let set = Op::Set { field: Field::EthDst, value: 0x02_00_00_00_00_77, mask: (1 << 48) - 1 };
    let ops = vec![Op::Output(2), set, Op::Output(3), Op::PushVlan(0x8100), Op::DecTtl, Op::InPort];
    let mut b = bench(3, vec![("in_port=1", ops)]);
    let frame = udp(B, A, 1, 200);
    b.send(1, frame.clone());
    b.run();
    assert_eq!(b.seen(2), std::slice::from_ref(&frame));
    let mut changed = frame.clone();
    changed[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    assert_eq!(b.seen(3), [changed.clone()]);
    let back = &b.seen(1)[0];
    assert_eq!(back.len(), 204);
    assert_eq!(back[16..][8 + 2], 63, "TTL behind the new tag");
    assert_eq!(back[..12], changed[..12]);
    assert_eq!(b.counters[0].copies.get(), 2);
}

#[test]
fn a_frame_without_output_is_dropped_with_a_reason() {
    let rules = vec![
        ("tp_dst=1", vec![Op::Output(1)]),
        ("tp_dst=2", vec![Op::Output(9)]),
        ("tp_dst=3", vec![Op::DecTtl, Op::Output(2)]),
    ];
    let mut b = bench(2, rules);
    let mut expired = udp(B, A, 3, 60);
    expired[22] = 1;
    for frame in [udp(B, A, 1, 60), udp(B, A, 2, 60), expired] {
        b.send(1, frame);
    }
    b.run();
    assert_eq!(b.drops(1, DropReason::Hairpin), 1);
    assert_eq!(b.drops(1, DropReason::NoOutput), 1);
    assert_eq!(b.drops(1, DropReason::TtlExpired), 1);
}

#[test]
fn the_controller_queue_is_bounded() {
    let mut b = bench(2, vec![("in_port=1", vec![Op::Controller { max_len: 20 }])]);
    for n in 0..6 {
        b.send(1, udp(B, A, n, 60));
    }
    b.run();
    assert_eq!(b.punts.len(), 4);
    assert_eq!(b.punts.pop().unwrap().bytes().len(), 20);
    assert_eq!(b.drops(1, DropReason::ControllerFull), 2);
}

#[test]
fn a_full_receiver_costs_only_frames_for_it() {
    let mut b = bench(3, vec![("tp_dst=2", vec![Op::Output(2)]), ("tp_dst=3", vec![Op::Output(3)])]);
    b.wires[1].set_room(5);
    for n in 0..60 {
        b.send(1, udp(B, A, 2 + n % 2, 60));
    }
    b.run();
    assert_eq!((b.seen(2).len(), b.seen(3).len()), (5, 30));
    assert_eq!(b.drops(2, DropReason::TxFull), 25);
}

#[test]
fn a_frame_longer_than_the_receivers_mtu_is_dropped() {
    let mut b = bench(2, vec![("in_port=1", vec![Op::Output(2)])]);
    b.send(1, udp(B, A, 1, 1522));
    b.send(1, udp(B, A, 1, 1523));
    b.run();
    assert_eq!(b.seen(2).len(), 1);
    assert_eq!(b.drops(2, DropReason::TooLong), 1);
}

#[test]
fn a_checksum_is_completed_for_a_receiver_that_does_not_do_it() {
    let partial =
        Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Offload::default() };
    for takes in [false, true] {
        let accepts = Accepts { partial_checksum: takes, ..Accepts::default() };
        let mut b =
            bench_with(vec![PortVlan::default(); 2], accepts, vec![("in_port=1", vec![Op::Output(2)])]);
        let mut before = udp(B, A, 1, 60);
        // The pseudo-header's sum, as a sender leaves it.
        before[40..42].copy_from_slice(&(0x0a00u16 + 1 + 0x0a00 + 2 + 17 + 26).to_be_bytes());
        b.send(1, udp(B, A, 7, 60));
        b.wires[0].send(WireFrame { bytes: before.clone(), offload: partial });
        b.send(1, udp(B, A, 8, 60));
        b.run();
        let frames: Vec<_> = std::iter::from_fn(|| b.wires[1].receive()).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].bytes, udp(B, A, 7, 60), "order is kept around it");
        assert_eq!(frames[2].bytes, udp(B, A, 8, 60));
        if takes {
            assert_eq!((&frames[1].bytes, frames[1].offload), (&before, partial));
        } else {
            assert!(frames[1].offload.is_plain());
            let words = frames[1].bytes[34..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
            let pseudo: u32 = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 26;
            let sum = pseudo + words.sum::<u32>();
            assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "a right checksum sums to all ones");
        }
    }
}

#[test]
fn a_broken_queue_is_reported_once_and_the_others_go_on() {
    let mut b = bench(3, vec![("in_port=1", vec![Op::Output(2)]), ("", vec![Op::Output(1)])]);
    b.wires[1].break_with(QueueFault { what: "test", value: 7 });
    b.send(1, udp(B, A, 1, 60));
    b.send(3, udp(B, A, 1, 60));
    b.run();
    b.send(1, udp(B, A, 1, 60));
    b.run();
    let faults = b.faults.lock().unwrap().clone();
    let mut sides: Vec<_> = faults.iter().map(|f| (f.port.0, f.receiving)).collect();
    sides.sort();
    assert_eq!(sides, [(2, false), (2, true)]);
    assert_eq!(b.seen(1).len(), 1);
    assert_eq!(b.drops(2, DropReason::PortDown), 2);
    drop(faults);
    let Done::Queue(queue) = b.tell(Command::RemoveRx { port: PortId(2), queue_index: 0 }) else { panic!() };
    assert!(queue.is_some(), "control gets a broken queue back too");
}

#[test]
fn a_queue_taken_out_is_not_served_until_it_is_given_back() {
    let mut b = bench(2, vec![("in_port=1", vec![Op::Output(2)])]);
    let Done::Queue(Some(slot)) = b.tell(Command::RemoveRx { port: PortId(1), queue_index: 0 }) else {
        panic!()
    };
    b.send(1, udp(B, A, 1, 60));
    b.run();
    assert_eq!(b.wires[0].waiting(), 1);
    b.tell(Command::AddRx(slot));
    b.run();
    assert_eq!(b.seen(2).len(), 1);
}

/// A TCP frame over IPv4 with this much payload, each byte different from its neighbours, as a sender with
/// offloads leaves it.
fn tcp(payload: u16) -> Vec<u8> {
    let mut frame = udp(B, A, 80, 54);
    frame[16..18].copy_from_slice(&(40 + payload).to_be_bytes());
    frame[23] = 6;
    frame[38..42].copy_from_slice(&1000u32.to_be_bytes());
    // ACK, PSH.
    frame[46..48].copy_from_slice(&[0x50, 0x18]);
    frame.extend((0..payload).map(|n| (n % 251) as u8));
    frame
}

fn tso4(gso_size: u16) -> Offload {
    Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type: 1,
        hdr_len: 54,
        gso_size,
        csum_start: 34,
        csum_offset: 16,
    }
}

#[test]
fn a_long_tcp_frame_is_segmented_for_a_receiver_that_does_not_take_it_whole() {
    let rules = vec![("in_port=1", vec![Op::Output(2)])];
    let mut b = bench_with(vec![PortVlan::default(); 2], Accepts::default(), rules);
    // More segments than fit a burst, or the worker's buffers, at once.
    let whole = tcp(60_000);
    b.send(1, udp(B, A, 7, 60));
    b.wires[0].send(WireFrame { bytes: whole.clone(), offload: tso4(1000) });
    b.send(1, udp(B, A, 8, 60));
    b.run();
    let frames: Vec<_> = std::iter::from_fn(|| b.wires[1].receive()).collect();
    assert_eq!(frames.len(), 62);
    assert_eq!(frames[0].bytes, udp(B, A, 7, 60), "order is kept around it");
    assert_eq!(frames[61].bytes, udp(B, A, 8, 60));
    let mut carried: Vec<u8> = vec![];
    for (n, segment) in frames[1..61].iter().enumerate() {
        assert!(segment.offload.is_plain());
        assert_eq!(segment.bytes.len(), 1054);
        assert_eq!(segment.bytes[..16], whole[..16]);
        assert_eq!(segment.bytes[38..42], (1000 + carried.len() as u32).to_be_bytes());
        assert_eq!(segment.bytes[47], if n == 59 { 0x18 } else { 0x10 }, "PSH in the last only");
        let pseudo = headers::checksum::Sum::default().pseudo_header(&segment.bytes[26..34], 6, 1020);
        assert_eq!(pseudo.bytes(&segment.bytes[34..]).finish(), 0);
        carried.extend(&segment.bytes[54..]);
    }
    assert_eq!(carried, whole[54..]);
    assert_eq!(b.counters[0].copies.get(), 59);
}

#[test]
fn a_long_tcp_frame_passes_unchanged_to_a_receiver_that_takes_it_whole() {
    let rules = vec![("in_port=1", vec![Op::Output(2)])];
    let accepts = Accepts { partial_checksum: true, tso4: true, ..Accepts::default() };
    let mut b = bench_with(vec![PortVlan::default(); 2], accepts, rules);
    let sent = WireFrame { bytes: tcp(60_000), offload: tso4(1000) };
    b.wires[0].send(sent.clone());
    b.run();
    let seen = b.wires[1].receive().expect("the frame");
    assert_eq!((seen.bytes, seen.offload), (sent.bytes, sent.offload));
    assert!(b.wires[1].receive().is_none());
    assert_eq!(b.counters[0].copies.get(), 0);
}

#[test]
fn a_segmentation_that_cannot_be_done_costs_that_frame_only() {
    let rules = vec![("in_port=1", vec![Op::Output(2)])];
    let mut b = bench_with(vec![PortVlan::default(); 2], Accepts::default(), rules);
    let no_tcp = WireFrame { bytes: udp(B, A, 1, 4000), offload: tso4(1000) };
    let elsewhere = WireFrame { bytes: tcp(4000), offload: Offload { csum_start: 50, ..tso4(1000) } };
    let single_bytes = WireFrame { bytes: tcp(4000), offload: tso4(1) };
    let too_long = WireFrame { bytes: tcp(4000), offload: tso4(1469) };
    for frame in [no_tcp, elsewhere, single_bytes, too_long] {
        b.wires[0].send(frame);
    }
    b.send(1, udp(B, A, 7, 60));
    b.run();
    assert_eq!(b.seen(2), [udp(B, A, 7, 60)]);
    assert_eq!(b.drops(2, DropReason::BadOffload), 3);
    assert_eq!(b.drops(2, DropReason::TooLong), 1);
}

#[test]
fn a_flow_that_differs_only_where_no_rule_looked_is_decided_by_a_megaflow() {
    let rules = vec![("tp_dst=80", vec![Op::Output(2)]), ("tp_src=5", vec![Op::Output(3)])];
    let mut b = bench(3, rules);
    let from = |tp_src: u8, tp_dst| {
        let mut frame = udp(B, A, tp_dst, 60);
        frame[35] = tp_src;
        frame
    };
    for tp_src in [4, 5, 6, 7] {
        b.send(1, from(tp_src, 80));
    }
    // Here the second rule looked.
    for tp_src in [5, 6] {
        b.send(1, from(tp_src, 81));
    }
    b.run();
    assert_eq!(b.seen(2), [4, 5, 6, 7].map(|tp_src| from(tp_src, 80)));
    assert_eq!(b.seen(3), [from(5, 81)]);
    assert_eq!(b.drops(1, DropReason::NoRule), 1);
    // Two that look alike as far as the rules looked make a megaflow.
    assert_eq!((b.stats.misses.get(), b.stats.megaflow_hits.get(), b.stats.exact_hits.get()), (4, 2, 0));
}

#[test]
fn a_worker_told_to_stop_ends_whether_it_was_asleep_or_about_to_sleep() {
    for round in 0..100 {
        let config = WorkerConfig {
            index: 0,
            idle: Idle::Sleep { after_us: round * 10 },
            caches: CacheSizes { flows: 64, megaflows: 64, megaflow_masks: 4, verdicts: 64 },
            huge_pages: HugePages::Off,
            buffers: 32,
            clock: Clock::start(),
        };
        let sink: FaultSink = Arc::new(|_| {});
        let (worker, mailbox) =
            Worker::new(config, Arc::default(), Arc::new(PuntQueue::new(4)), sink).unwrap();
        let thread = std::thread::spawn(move || worker.run());
        // Sometimes before it has slept for the first time, sometimes after.
        std::thread::sleep(std::time::Duration::from_micros(round * 7));
        mailbox.call(Command::Stop);
        // A worker that sleeps after the command never ends, and this test with it.
        thread.join().unwrap();
    }
}
