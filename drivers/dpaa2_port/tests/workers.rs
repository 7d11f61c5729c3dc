//! Interfaces behind workers, as the switch has them: what moves without a copy, and queues that change workers.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use action::Op;
use bridging::{BridgePorts, Fdb, FdbLimits, PortVlan};
use common::{Board, SOCS, bytes, frame, small};
use dpaa2_port::{Dpaa2Handle, Dpaa2Queues, PortConfig, RxClass, TxShare};
use flow::{FlowKey, FlowMask};
use packet::{Burst, HugePages};
use port::{PortCounters, PortId, QueueFault, RxQueue, Selection, TxQueue};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Done, Idle, Mailbox, Plane, PortPlane, PuntQueue, Rules, RxSlot,
    TxPort, Verdict, Worker, WorkerConfig,
};

const HZ: u64 = 1_000_000_000;

/// The same for all frames.
struct Always(Vec<Op>);

impl Rules for Always {
    fn evaluate(&self, _key: &FlowKey, verdict: &mut Verdict) {
        *verdict = Verdict { ops: self.0.clone(), rules: vec![0], ..Verdict::default() };
    }
    fn fields(&self) -> FlowMask {
        FlowMask::default()
    }
    fn version(&self) -> u64 {
        1
    }
    fn changes_since(&self, _version: u64, _concern: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool {
        false
    }
    fn credit(&self, _worker: usize, _rule: u32, _frames: u64, _bytes: u64, _now_secs: u32) {}
}

/// A port that keeps what is sent there.
struct Keeps(Arc<std::sync::Mutex<Vec<Vec<u8>>>>);

impl TxQueue for Keeps {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        let kept = frames.which.iter().map(|&i| bytes(frames.burst, i.into()));
        self.0.lock().unwrap().extend(kept);
        counters.sent(frames.which.len() as u64, 0);
        Ok(())
    }
    fn accepts(&self) -> port::Accepts {
        port::Accepts::default()
    }
    fn flush(&mut self, _counters: &PortCounters) -> Result<(), QueueFault> {
        Ok(())
    }
}

fn worker(index: usize) -> (Worker, Mailbox) {
    let config = WorkerConfig {
        index,
        idle: Idle::Poll,
        caches: CacheSizes { flows: 1024, megaflows: 64, megaflow_masks: 4, verdicts: 64 },
        huge_pages: HugePages::Off,
        buffers: 256,
        clock: Clock::virtual_time(HZ, 1000),
    };
    let faults = Arc::new(|fault| panic!("{fault:?}"));
    Worker::new(config, Arc::default(), Arc::new(PuntQueue::new(4)), faults).unwrap()
}

/// A switch that does the same with all frames: `dpni.1` and `dpni.2` are its ports 1 and 2, port 3 keeps what it gets.
struct Switch {
    board: Board,
    handles: [Dpaa2Handle; 2],
    rx: [Vec<Box<dyn RxQueue>>; 2],
    counters: [Vec<Arc<PortCounters>>; 3],
    plane: Arc<Plane>,
    kept: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl Switch {
    fn new(soc: &str, queues: u16, ops: Vec<Op>) -> Switch {
        let board = Board::new(soc);
        let counters = || -> Vec<Arc<PortCounters>> { (0..3).map(|_| Arc::default()).collect() };
        let all_counters = [counters(), counters(), counters()];
        let mut ports = vec![None];
        let mut opened = [1, 2].map(|dpni| {
            let config = PortConfig {
                rx_classes: vec![RxClass::new(queues)],
                tx_classes: vec![TxShare::EQUAL; queues.into()],
                ..small(dpni)
            };
            let port = board.hardware.open_port(&config).unwrap();
            let handle = port.handle();
            let Dpaa2Queues { rx, tx } = port.into_queues();
            let tx = tx.into_iter().zip(0..).map(|(of_each, n)| TxPort::of_each_worker(n, of_each));
            ports.push(Some(port_plane(tx.collect(), &all_counters[dpni as usize - 1])));
            (handle, rx)
        });
        let kept = Arc::default();
        ports.push(Some(port_plane(
            vec![TxPort::new(0, Box::new(Keeps(Arc::clone(&kept))))],
            &all_counters[2],
        )));
        let vlans = [1, 2, 3].map(|id| (PortId(id), Arc::new(PortVlan::default())));
        let bridge = BridgePlane {
            rules: Arc::new(Always(ops)),
            ports: Arc::new(BridgePorts::new(vlans)),
            fdb: Arc::new(Fdb::new(FdbLimits { addresses: 64, per_port: 64 }, 16, 7)),
        };
        let plane = Arc::new(Plane { bridges: vec![bridge], ports });
        let rx = opened.each_mut().map(|(_, rx)| std::mem::take(rx));
        let handles = opened.map(|(handle, _)| handle);
        Switch { board, handles, rx, counters: all_counters, plane, kept }
    }

    /// All receive queues on one worker.
    fn start(&mut self) -> (Worker, Mailbox) {
        let (mut worker, mailbox) = worker(0);
        tell(&mailbox, &mut worker, Command::SetPlane(self.plane.clone()));
        for port in 0..2 {
            for (queue_index, mut queue) in self.rx[port].drain(..).enumerate() {
                queue.assign(0);
                let counters = self.counters[port][0].clone();
                let (port, queue_index) = (PortId(port as u16 + 1), queue_index as u16);
                tell(&mailbox, &mut worker, Command::AddRx(RxSlot { port, queue_index, queue, counters }));
            }
        }
        (worker, mailbox)
    }

    fn counter(&self, port: usize, name: &str) -> u64 {
        let all = self.handles[port].statistics().unwrap();
        all.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("there is a counter {name}")).1
    }

    /// Asserts that nothing is left and no rule was broken.
    fn close(self) {
        let Switch { board, plane, handles, rx, .. } = self;
        drop((rx, plane, handles));
        board.close(vec![]);
    }
}

fn port_plane(tx: Vec<Arc<TxPort>>, counters: &[Arc<PortCounters>]) -> PortPlane {
    PortPlane { bridge: 0, frame_max: 1522, admin_up: true, tx, counters: counters.to_vec(), part: None }
}

fn tell(mailbox: &Mailbox, worker: &mut Worker, command: Command) {
    let pending = mailbox.post(command);
    worker.turn(HZ);
    pending.wait().unwrap();
}

/// Turns until nothing has moved for a while.
fn run(worker: &mut Worker) {
    let mut idle = 0;
    while idle < 8 {
        idle = if worker.turn(HZ) > 0 { 0 } else { idle + 1 };
    }
}

#[test]
fn frames_for_one_interface_move_there_without_a_copy() {
    for soc in SOCS {
        let mut switch = Switch::new(soc, 1, vec![Op::Output(2)]);
        let (mut worker, _mailbox) = switch.start();
        for round in 0..10u8 {
            let frames: Vec<_> = (0..50).map(|n| frame(n + round, 100)).collect();
            frames.iter().for_each(|frame| switch.board.send(1, frame));
            run(&mut worker);
            assert_eq!(switch.board.sent(2), frames, "{soc}, round {round}");
        }
        assert_eq!((switch.counter(1, "moved-frames"), switch.counters[1][0].tx_frames.get()), (500, 500));
        drop(worker);
        switch.close();
    }
}

#[test]
fn what_the_rules_write_moves_with_the_frame() {
    let mut switch = Switch::new("lx2160a", 1, vec![Op::PushVlan(0x8100), Op::Output(2)]);
    let (mut worker, _mailbox) = switch.start();
    let original = frame(1, 100);
    switch.board.send(1, &original);
    run(&mut worker);
    let mut tagged = original.clone();
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    assert_eq!(switch.board.sent(2), [tagged]);
    assert_eq!(switch.counter(1, "moved-frames"), 1);
    drop(worker);
    switch.close();
}

#[test]
fn what_is_learned_sends_bursts_that_move() {
    let mut switch = Switch::new("lx2160a", 1, vec![Op::Normal]);
    let (mut worker, _mailbox) = switch.start();
    let between = |from: u8, to: u8| {
        let mut frame = frame(from, 100);
        (frame[5], frame[11]) = (to, from);
        frame
    };
    // What is for an address nobody knows goes everywhere, copied.
    switch.board.send(2, &between(0xb, 0xa));
    run(&mut worker);
    assert_eq!((switch.board.sent(1).len(), switch.kept.lock().unwrap().len()), (1, 1));
    assert_eq!(switch.counter(0, "moved-frames"), 0);
    (0..64).for_each(|_| switch.board.send(1, &between(0xa, 0xb)));
    run(&mut worker);
    assert_eq!((switch.board.sent(2).len(), switch.kept.lock().unwrap().len()), (64, 1));
    assert_eq!(switch.counter(1, "moved-frames"), 64);
    drop(worker);
    switch.close();
}

#[test]
fn a_frame_for_several_ports_is_copied_for_each() {
    let mut switch = Switch::new("lx2160a", 1, vec![Op::Output(3), Op::Output(2)]);
    let (mut worker, _mailbox) = switch.start();
    let frames: Vec<_> = (0..40).map(|n| frame(n, 100)).collect();
    frames.iter().for_each(|frame| switch.board.send(1, frame));
    run(&mut worker);
    assert_eq!(switch.board.sent(2), frames);
    assert_eq!(*switch.kept.lock().unwrap(), frames);
    assert_eq!(switch.counter(1, "moved-frames"), 0);
    drop(worker);
    switch.close();
}

#[test]
fn all_queues_of_a_worker_take_turns_on_its_portal() {
    for soc in SOCS {
        let mut switch = Switch::new(soc, 4, vec![Op::Output(3)]);
        let (mut worker, mailbox) = switch.start();
        let flows = |n: u16| common::udp(n, 40);
        let mut expected = 0;
        // In whatever order the worker has them: it fills the gap of one that goes with the last one.
        for removed in [None, Some((PortId(1), 2)), Some((PortId(2), 0))] {
            if let Some((port, queue_index)) = removed {
                let pending = mailbox.post(Command::RemoveRx { port, queue_index });
                worker.turn(HZ);
                let Some(Done::Queue(Some(mut slot))) = pending.wait() else { panic!("the queue") };
                slot.queue.assign(0);
                tell(&mailbox, &mut worker, Command::AddRx(slot));
            }
            for n in 0..100 {
                switch.board.send(1, &flows(n));
                switch.board.send(2, &flows(n));
            }
            run(&mut worker);
            expected += 200;
            assert_eq!(switch.kept.lock().unwrap().len(), expected, "{soc}");
        }
        drop(worker);
        switch.close();
    }
}

#[test]
fn frames_under_way_when_a_queue_changes_workers_are_received_by_the_next_one() {
    for soc in SOCS {
        let mut switch = Switch::new(soc, 1, vec![Op::Output(2)]);
        let (mut first, first_mail) = switch.start();
        let (mut second, second_mail) = worker(1);
        tell(&second_mail, &mut second, Command::SetPlane(switch.plane.clone()));
        let frames: Vec<_> = (0..20).map(|n| frame(n, 100)).collect();
        // A turn asks for them; what it asked for has come when the queue goes.
        frames[..10].iter().for_each(|frame| switch.board.send(1, frame));
        first.turn(HZ);
        first.turn(HZ);
        frames[10..].iter().for_each(|frame| switch.board.send(1, frame));
        let pending = first_mail.post(Command::RemoveRx { port: PortId(1), queue_index: 0 });
        first.turn(HZ);
        let Some(Done::Queue(Some(mut slot))) = pending.wait() else { panic!("the queue") };
        slot.queue.assign(1);
        slot.counters = switch.counters[0][1].clone();
        tell(&second_mail, &mut second, Command::AddRx(slot));
        run(&mut second);
        assert_eq!(switch.board.sent(2), frames, "{soc}");
        let received = [0, 1].map(|worker: usize| switch.counters[0][worker].rx_frames.get());
        assert!(received[1] > 0 && received[0] + received[1] == 20, "{received:?}");
        run(&mut first);
        drop((first, second));
        switch.close();
    }
}

#[test]
fn two_workers_send_to_each_others_interface_at_the_same_time() {
    let mut switch = Switch::new("lx2160a", 1, vec![]);
    // From either side to the other, each by its own worker.
    let mut threads = vec![];
    let plane = |to| {
        let bridge =
            BridgePlane { rules: Arc::new(Always(vec![Op::Output(to)])), ..switch.plane.bridges[0].clone() };
        Arc::new(Plane { bridges: vec![bridge], ports: switch.plane.ports.clone() })
    };
    let planes = [plane(2), plane(1)];
    let rx = switch.rx.each_mut().map(|queues| queues.remove(0));
    for ((index, mut queue), plane) in rx.into_iter().enumerate().zip(planes) {
        let (worker, mailbox) = worker(index);
        let thread = std::thread::spawn(move || worker.run());
        mailbox.call(Command::SetPlane(plane)).unwrap();
        queue.assign(index);
        let counters = switch.counters[index][index].clone();
        let slot = RxSlot { port: PortId(index as u16 + 1), queue_index: 0, queue, counters };
        mailbox.call(Command::AddRx(slot)).unwrap();
        threads.push((thread, mailbox));
    }
    let frames: Vec<_> = (0..1000u32).map(|n| frame(n as u8, 60 + n as usize % 100)).collect();
    let (mut sent, started) = ([vec![], vec![]], Instant::now());
    for chunk in frames.chunks(50) {
        for frame in chunk {
            switch.board.send(1, frame);
            switch.board.send(2, frame);
        }
        let goal = sent[0].len() + chunk.len();
        while sent.iter().any(|sent| sent.len() < goal) {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", sent.each_ref().map(Vec::len));
            sent[0].extend(switch.board.sent(1));
            sent[1].extend(switch.board.sent(2));
            std::thread::yield_now();
        }
    }
    for (thread, mailbox) in threads {
        mailbox.call(Command::Stop).unwrap();
        thread.join().unwrap();
    }
    assert!(sent[0] == frames && sent[1] == frames, "all of them, in order");
    switch.close();
}

#[test]
fn a_worker_with_idle_interfaces_sleeps_and_is_woken_by_a_frame() {
    for soc in SOCS {
        let mut switch = Switch::new(soc, 2, vec![Op::Output(3)]);
        let (mut worker, _mailbox) = switch.start();
        for round in 1..=5 {
            run(&mut worker);
            // A notification of the last round is taken first.
            assert!((0..3).any(|_| worker.arm()), "{soc}, round {round}");
            assert!(!worker.is_notified(), "{soc}, round {round}");
            switch.board.send(2, &frame(1, 64));
            assert!(worker.is_notified(), "{soc}, round {round}");
            worker.disarm();
            run(&mut worker);
            assert_eq!(switch.kept.lock().unwrap().len(), round, "{soc}");
        }
        drop(worker);
        switch.close();
    }
}

#[test]
fn a_queue_without_a_worker_is_a_fault_and_no_hang() {
    let board = Board::new("lx2160a");
    let port = board.hardware.open_port(&small(1)).unwrap();
    let Dpaa2Queues { mut rx, tx } = port.into_queues();
    let counters = PortCounters::default();
    assert!(rx[0].receive(&mut Burst::new(), &counters).unwrap_err().what.contains("no worker"));
    rx[0].assign(7);
    assert!(rx[0].receive(&mut Burst::new(), &counters).unwrap_err().what.contains("no QBMan portal"));
    drop((rx, tx));
    board.close(vec![]);
}
