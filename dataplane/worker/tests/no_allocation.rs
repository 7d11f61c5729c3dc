//! A worker that runs doesn't allocate: neither for frames it knows nor for those it has to ask the rules about.
#![allow(unsafe_code, reason = "an allocator that counts, and a burst that borrows through pointers")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use action::Op;
use bridging::{BridgePorts, Fdb, FdbLimits, PortVlan};
use flow::{Field, FlowKey, FlowMask};
use packet::{BURST_MAX, Burst, HugePages, Offload};
use port::{Accepts, Armed, PortCounters, PortId, QueueFault, RxQueue, Selection, TxQueue};
use worker::{
    BridgePlane, CacheSizes, Clock, Command, Idle, Outcome, Plane, PortPlane, PuntQueue, Rules, RxSlot,
    TxPort, Verdict, Worker, WorkerConfig, WorkerStats,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator does the work; counting doesn't allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; `ptr` came from `alloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const FRAME_BYTES: usize = 60;

/// An endless supply of UDP frames over `flows` addresses.
struct Source {
    frames: Vec<[u8; FRAME_BYTES]>,
    flows: u32,
    next: u32,
}

impl Source {
    fn new(flows: u32) -> Source {
        let mut frame = [0; FRAME_BYTES];
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 0, 1]);
        frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 46]);
        (frame[22], frame[23]) = (64, 17);
        Source { frames: vec![frame; BURST_MAX], flows, next: 0 }
    }
}

impl RxQueue for Source {
    fn receive(&mut self, burst: &mut Burst, counters: &PortCounters) -> Result<(), QueueFault> {
        for frame in &mut self.frames {
            frame[30..34].copy_from_slice(&(self.next % self.flows).to_be_bytes());
            // Every 16th has a source address of its own to learn.
            frame[11] = if self.next.is_multiple_of(16) { (self.next / 16) as u8 } else { 1 };
            self.next = self.next.wrapping_add(1);
            // SAFETY: the frames stay where they are until the burst is released.
            unsafe { burst.push(frame.as_ptr(), FRAME_BYTES as u32, Offload::default(), 0) };
        }
        counters.received(BURST_MAX as u64, (BURST_MAX * FRAME_BYTES) as u64);
        Ok(())
    }

    fn release(&mut self, _: &mut Burst, _: &PortCounters) {}

    fn arm(&mut self) -> Armed {
        Armed::Ready
    }

    fn disarm(&mut self) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct Sink;

impl TxQueue for Sink {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        counters.sent(frames.which.len() as u64, 0);
        Ok(())
    }

    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    fn flush(&mut self, _: &PortCounters) -> Result<(), QueueFault> {
        Ok(())
    }
}

/// One rule that looks at a field and does the same for every value.
struct OneRule {
    field: Field,
    ops: Vec<Op>,
}

impl Rules for OneRule {
    fn evaluate(&self, _: &FlowKey, verdict: &mut Verdict) {
        verdict.ops.clear();
        verdict.ops.extend_from_slice(&self.ops);
        verdict.rules.clear();
        verdict.rules.push(0);
        verdict.mask = self.fields();
        verdict.outcome = Outcome::Done;
    }

    fn fields(&self) -> FlowMask {
        let mut mask = FlowMask::default();
        mask.add(self.field, self.field.full());
        mask
    }

    fn version(&self) -> u64 {
        1
    }

    fn changes_since(&self, _: u64, _: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool {
        false
    }

    fn credit(&self, _: usize, _: u32, _: u64, _: u64, _: u32) {}
}

/// Allocations in a thousand turns after the first few, and the frames they moved.
fn allocations(field: Field, ops: &[Op], flows: u32) -> (u64, u64) {
    const HZ: u64 = 1_000_000_000;
    let config = WorkerConfig {
        index: 0,
        idle: Idle::Poll,
        caches: CacheSizes { flows: 1024, megaflows: 512, megaflow_masks: 4, verdicts: 64 },
        huge_pages: HugePages::Off,
        buffers: 32,
        clock: Clock::virtual_time(HZ, 1000),
    };
    let (stats, punts) = (Arc::<WorkerStats>::default(), Arc::new(PuntQueue::new(4)));
    let (mut worker, mailbox) = Worker::new(config, stats, punts, Arc::new(|_| ())).unwrap();
    let counters = [Arc::<PortCounters>::default(), Arc::default()];
    let ids = [PortId(1), PortId(2)];
    let port = |n: usize, tx| {
        Some(PortPlane {
            bridge: 0,
            frame_max: 1522,
            admin_up: true,
            tx,
            counters: vec![counters[n].clone()],
            part: None,
        })
    };
    let plane = Plane {
        bridges: vec![BridgePlane {
            rules: Arc::new(OneRule { field, ops: ops.to_vec() }),
            ports: Arc::new(BridgePorts::new(ids.map(|id| (id, Arc::new(PortVlan::default()))))),
            fdb: Arc::new(Fdb::new(FdbLimits { addresses: 64, per_port: 64 }, 8, 7)),
        }],
        ports: vec![None, port(0, vec![]), port(1, vec![TxPort::new(0, Box::new(Sink))])],
    };
    let pending = [
        mailbox.post(Command::SetPlane(Arc::new(plane))),
        mailbox.post(Command::AddRx(RxSlot {
            port: ids[0],
            queue_index: 0,
            queue: Box::new(Source::new(flows)),
            counters: counters[0].clone(),
        })),
    ];
    worker.turn(0);
    for answer in pending {
        answer.wait();
    }
    let mut turns = 1u64..;
    // A hundred turns a second, so that the second, and with it what is learned, changes now and then.
    let mut run = |count: u64| {
        for turn in turns.by_ref().take(count as usize) {
            worker.turn(turn * HZ / 100);
        }
    };
    run(10);
    let (before, moved) = (ALLOCATIONS.get(), counters[1].tx_frames.get());
    run(1000);
    (ALLOCATIONS.get() - before, counters[1].tx_frames.get() - moved)
}

const FRAMES: u64 = 1000 * BURST_MAX as u64;

#[test]
fn frames_of_one_verdict_per_port_cost_no_allocation() {
    assert_eq!(allocations(Field::InPort, &[Op::Output(2)], 1), (0, FRAMES));
}

#[test]
fn frames_that_are_learned_and_flooded_cost_no_allocation() {
    assert_eq!(allocations(Field::InPort, &[Op::Normal], 1), (0, FRAMES));
}

#[test]
fn frames_of_known_flows_cost_no_allocation() {
    assert_eq!(allocations(Field::Ipv4Dst, &[Op::Output(2)], 500), (0, FRAMES));
}

#[test]
fn frames_that_the_rules_are_asked_about_cost_no_allocation() {
    assert_eq!(allocations(Field::Ipv4Dst, &[Op::Output(2)], u32::MAX), (0, FRAMES));
}

#[test]
fn frames_that_are_edited_cost_no_allocation() {
    let set = Op::Set { field: Field::EthSrc, value: 7, mask: Field::EthSrc.full() };
    let ops = [Op::PushVlan(0x8100), set, Op::DecTtl, Op::Output(2)];
    assert_eq!(allocations(Field::InPort, &ops, 1), (0, FRAMES));
}
