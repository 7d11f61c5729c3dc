//! The portal on plain memory, against bytes captured from DPDK's portal code run in the same way.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpaa2_defs::fd::Fd;
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_defs::qbman::management::{AboutFq, Acquire, Command, ConfigureChannel, QueryFqState};
use fslmc_bus::{
    Bus, BusError, CommandPortal, Device, DeviceInfo, PortalError as McError, RegionInfo, Window,
};
use proptest::prelude::*;

use crate::{Portal, PortalConfig, PortalError, Pushed, Results, Settled, Source};

const LX2160A: u32 = 0x0500_0000;
const LS2088A: u32 = 0x0401_0000;

/// A window over plain memory that remembers stores.
#[derive(Clone)]
struct Plain(Arc<Mutex<PlainState>>);

struct PlainState {
    bytes: Vec<u8>,
    stores: Vec<(usize, u64)>,
}

impl Plain {
    fn new() -> Plain {
        Plain(Arc::new(Mutex::new(PlainState { bytes: vec![0; 64 << 10], stores: vec![] })))
    }

    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        self.0.lock().unwrap().bytes[at..at + len].to_vec()
    }

    fn poke(&self, at: usize, bytes: &[u8]) {
        self.0.lock().unwrap().bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn register(&self, at: usize) -> u32 {
        self.read32(at)
    }

    /// Stores since the last call.
    fn stores(&self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.0.lock().unwrap().stores)
    }

    fn store(&self, at: usize, bytes: &[u8], value: u64) {
        self.poke(at, bytes);
        self.0.lock().unwrap().stores.push((at, value));
    }
}

impl Window for Plain {
    fn window_len(&self) -> usize {
        64 << 10
    }
    fn read32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset, 4).try_into().unwrap())
    }
    fn write32(&self, offset: usize, value: u32) {
        self.store(offset, &value.to_le_bytes(), value.into());
    }
    fn read64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset, 8).try_into().unwrap())
    }
    fn write64(&self, offset: usize, value: u64) {
        self.store(offset, &value.to_le_bytes(), value);
    }
}

/// A bus that maps memory and has no objects.
#[derive(Clone)]
struct MemoryOnly;

impl Bus for MemoryOnly {
    type Device = Never;
    fn container(&self) -> ObjectId {
        ObjectType::DPRC.with_id(1)
    }
    fn objects(&self) -> Result<Vec<ObjectId>, BusError> {
        Ok(vec![])
    }
    fn open(&self, object: ObjectId) -> Result<Never, BusError> {
        Err(BusError::NoObject { object, container: self.container() })
    }
    unsafe fn map_dma(&self, _: NonNull<u8>, _: usize, _: u64) -> Result<(), BusError> {
        Ok(())
    }
    fn unmap_dma(&self, _: u64, _: usize) -> Result<(), BusError> {
        Ok(())
    }
    fn dma_page_size(&self) -> usize {
        4096
    }
}

enum Never {}

impl Device for Never {
    type Window = Plain;
    type CommandPortal = Never;
    fn object(&self) -> ObjectId {
        match *self {}
    }
    fn info(&self) -> DeviceInfo {
        match *self {}
    }
    fn region(&self, _: u32) -> Result<RegionInfo, BusError> {
        match *self {}
    }
    fn map(&self, _: u32) -> Result<Plain, BusError> {
        match *self {}
    }
    fn command_portal(&self) -> Result<Never, BusError> {
        match *self {}
    }
    fn arm_irq(&self, _: u32, _: BorrowedFd<'_>) -> Result<(), BusError> {
        match *self {}
    }
    fn disarm_irq(&self, _: u32) -> Result<(), BusError> {
        match *self {}
    }
    fn reset(&self) -> Result<(), BusError> {
        match *self {}
    }
}

impl CommandPortal for Never {
    fn execute(&mut self, _: &[u64; 8], _: Duration) -> Result<[u64; 8], McError> {
        match *self {}
    }
}

fn portal(qbman_version: u32) -> (Portal<Plain>, Plain, Plain) {
    let (cinh, cena) = (Plain::new(), Plain::new());
    if qbman_version == LX2160A {
        cena.poke(0, &[0xff; 64 << 10]);
    }
    let config = PortalConfig { qbman_version, portal_id: 9 };
    let portal = Portal::new(cinh.clone(), cena.clone(), config).unwrap();
    (portal, cinh, cena)
}

fn results() -> Results<MemoryOnly> {
    Results::new(&MemoryOnly).unwrap()
}

fn frames(n: u64) -> Vec<Fd> {
    (1..=n).map(|i| Fd::single(0x1000 * i, 128, 64, 5)).collect()
}

/// Writes a result as hardware does.
fn answer(results: &mut Results<MemoryOnly>, i: usize, stat: u8, token: u8, addr: u64) {
    let mut line = [0u8; 64];
    (line[0], line[1], line[7]) = (0x60, stat, token);
    line[32..40].copy_from_slice(&addr.to_le_bytes());
    let to = results.iova() as usize + 64 * i;
    // SAFETY: in identity-mapped memory of this process, owned by `results`.
    unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), to as *mut u8, 64) };
}

#[test]
fn start_up_writes_what_dpdk_writes() {
    let (_, cinh, cena) = portal(LX2160A);
    assert_eq!(cinh.register(0xd00), 0x0081_b8ff);
    assert_eq!((cinh.register(0x800), cinh.register(0xc00), cinh.register(0xb00)), (0x100, 0x100, 0));
    assert!(cena.bytes(0, 64 << 10).iter().all(|&b| b == 0));
    let (_, cinh, cena) = portal(LS2088A);
    assert_eq!(cinh.register(0xd00), 0x0081_3a3f);
    let stored: Vec<usize> = cinh.stores().iter().map(|&(at, _)| at).collect();
    assert_eq!(stored, [0xd00, 0xb00], "no producer index in direct mode");
    assert!(cena.stores().is_empty());
}

#[test]
fn a_portal_with_results_of_the_past_is_refused() {
    let cinh = Plain::new();
    cinh.poke(0xa00, &[3]);
    let config = PortalConfig { qbman_version: LS2088A, portal_id: 9 };
    let error = Portal::new(cinh, Plain::new(), config).err();
    assert_eq!(error, Some(PortalError::NotClean(3)));
}

#[test]
fn three_frames_are_one_doorbell_on_5_0() {
    let (mut portal, cinh, cena) = portal(LX2160A);
    cinh.stores();
    assert_eq!(portal.enqueue(0x1234, &frames(3)).unwrap(), 3);
    assert_eq!(cinh.stores(), [(0x800, 0x103)]);
    assert_eq!(cena.bytes(0, 64), captured_entry());
    assert_eq!([cena.bytes(64, 1), cena.bytes(128, 1)], [[2], [2]]);
}

/// The first of three frames, enqueued to 0x1234.
fn captured_entry() -> [u8; 64] {
    let mut entry = [0; 64];
    entry[..10].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12]);
    entry[32..48].copy_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 5, 0, 0x80, 0]);
    entry
}

#[test]
fn three_frames_are_three_valid_bits_written_last_on_4_1() {
    let (mut portal, cinh, cena) = portal(LS2088A);
    cinh.stores();
    assert_eq!(portal.enqueue(0x1234, &frames(3)).unwrap(), 3);
    assert!(cinh.stores().is_empty());
    assert_eq!(cena.bytes(0, 64), captured_entry());
    let stores = cena.stores();
    let last: Vec<_> = stores[stores.len() - 3..].iter().map(|&(at, value)| (at, value)).collect();
    assert_eq!(last, [(0, 2), (64, 2), (128, 2)]);
    assert!(stores[..stores.len() - 3].iter().all(|&(at, _)| at % 64 != 0));
}

#[test]
fn a_full_ring_takes_no_more_until_hardware_has_moved_on() {
    let (mut portal, cinh, cena) = portal(LX2160A);
    assert_eq!(portal.enqueue(1, &frames(40)).unwrap(), 32);
    assert_eq!(cinh.register(0x800), 0x1a0);
    assert_eq!(portal.enqueue(1, &frames(3)).unwrap(), 0);
    cena.poke(0x1840, &[0x20]);
    assert_eq!(portal.enqueue(1, &frames(3)).unwrap(), 3);
    assert_eq!((cinh.register(0x800), cena.bytes(0, 1)[0]), (0x1a3, 0x82));
    assert_eq!(portal.enqueues_under_way().unwrap(), 3);
}

#[test]
fn a_full_direct_ring_takes_no_more_until_hardware_has_moved_on() {
    let (mut portal, _, cena) = self::portal(LS2088A);
    assert_eq!(portal.enqueue(1, &frames(9)).unwrap(), 8);
    assert_eq!(portal.enqueue(1, &frames(3)).unwrap(), 0);
    cena.poke(0x840, &[8]);
    assert_eq!(portal.enqueue(1, &frames(3)).unwrap(), 3);
    assert_eq!([cena.bytes(0, 1), cena.bytes(64, 1), cena.bytes(128, 1)], [[0x82]; 3]);
    assert_eq!(cena.bytes(192, 1), [2]);
}

#[test]
fn a_consumer_index_that_cannot_be_is_an_error() {
    for (version, at) in [(LX2160A, 0x1840), (LS2088A, 0x840)] {
        let (mut portal, _, cena) = portal(version);
        assert_eq!(portal.enqueue(1, &frames(2)).unwrap(), 2);
        cena.poke(at, &[7]);
        assert!(matches!(portal.enqueue(1, &frames(40)), Err(PortalError::Broken { .. })));
    }
}

#[test]
fn a_pull_is_written_as_captured_and_only_one_is_under_way() {
    let (mut portal, cinh, cena) = portal(LX2160A);
    let mut results = results();
    cinh.stores();
    portal.pull(Source::Fq(0x4321), 16, &mut results).unwrap();
    let mut expected = vec![0xb9, 0x0f, 0x0a, 0, 0x21, 0x43, 0, 0];
    expected.extend(results.iova().to_le_bytes());
    assert_eq!(cena.bytes(0x1780, 16), expected);
    assert_eq!(cinh.stores(), [(0x940, 0x100)]);
    assert_eq!(portal.pull(Source::Fq(0x4321), 16, &mut results), Err(PortalError::PullBusy));

    answer(&mut results, 0, 0x13, 10, 0x7000);
    let mut seen = vec![];
    assert!(results.take(|result| seen.push(result.fd.addr.get())).unwrap());
    portal.pull_answered();
    assert_eq!(seen, [0x7000]);
    portal.pull(Source::Fq(0x4321), 16, &mut results).unwrap();
    assert_eq!(cena.bytes(0x1780, 1), [0x39]);
    assert!(!results.take(|_| panic!("the first answer's token is gone")).unwrap());
}

#[test]
fn a_direct_pull_writes_its_valid_bit_last() {
    let (mut portal, cinh, cena) = portal(LS2088A);
    let mut results = results();
    cinh.stores();
    cena.stores();
    portal.pull(Source::Channel(0x22), 40, &mut results).unwrap();
    let stores = cena.stores();
    assert_eq!(stores.iter().map(|&(at, _)| at).collect::<Vec<_>>(), [0x788, 0x780]);
    assert_eq!(cena.bytes(0x780, 8), [0xb2, 15, 10, 0, 0x22, 0, 0, 0], "16 frames at most");
    assert!(cinh.stores().is_empty());
}

#[test]
fn results_are_taken_as_they_come() {
    let (mut portal, ..) = portal(LX2160A);
    let mut results = results();
    portal.pull(Source::Fq(1), 32, &mut results).unwrap();
    let mut seen = vec![];
    assert_eq!(results.settled(), Settled::Waiting);
    answer(&mut results, 0, 0x12, 10, 1);
    answer(&mut results, 1, 0x12, 10, 2);
    assert_eq!(results.settled(), Settled::Frames);
    assert!(!results.take(|result| seen.push(result.fd.addr.get())).unwrap());
    assert!(!results.take(|_| panic!("nothing new")).unwrap());
    answer(&mut results, 2, 0x13, 10, 3);
    assert!(results.take(|result| seen.push(result.fd.addr.get())).unwrap());
    assert_eq!(seen, [1, 2, 3]);
    assert!(!results.is_waiting());
}

#[test]
fn an_empty_answer_has_no_frame() {
    let (mut portal, ..) = portal(LX2160A);
    let mut results = results();
    portal.pull(Source::Fq(1), 32, &mut results).unwrap();
    answer(&mut results, 0, 0x03, 10, 0);
    assert!(results.take(|result| assert!(!result.has_frame())).unwrap());
}

#[test]
fn an_answer_without_frames_can_be_settled_without_taking_it() {
    let (mut portal, ..) = portal(LX2160A);
    let mut results = results();
    assert_eq!(results.settled(), Settled::Idle);
    for _ in 0..2 {
        portal.pull(Source::Fq(1), 32, &mut results).unwrap();
        assert_eq!(results.settled(), Settled::Waiting);
        answer(&mut results, 0, 0x83, 10, 0);
        assert_eq!(results.settled(), Settled::Empty);
        portal.pull_answered();
        assert_eq!(results.settled(), Settled::Idle);
    }
}

#[test]
fn results_nobody_asked_for_are_errors() {
    let (mut portal, ..) = portal(LX2160A);
    let mut results = results();
    portal.pull(Source::Fq(1), 2, &mut results).unwrap();
    answer(&mut results, 0, 0x12, 11, 1);
    assert!(matches!(results.take(|_| {}), Err(PortalError::Broken { .. })));

    let mut results = self::results();
    portal.pull_answered();
    portal.pull(Source::Fq(1), 2, &mut results).unwrap();
    answer(&mut results, 0, 0x12, 10, 1);
    answer(&mut results, 1, 0x12, 10, 2);
    assert!(matches!(results.take(|_| {}), Err(PortalError::Broken { .. })), "two, and neither is the last");
}

#[test]
fn a_release_is_written_into_the_slot_it_was_given() {
    for version in [LX2160A, LS2088A] {
        let (mut portal, cinh, cena) = portal(version);
        let rcr = if version == LX2160A { 0x1400 } else { 0x400 };
        cinh.poke(0xcc0, &0x182_u32.to_le_bytes());
        cinh.stores();
        portal.release(5, &[0x0111_1000, 0x0222_2000, 0x0333_3000]).unwrap();
        let line = cena.bytes(rcr + 128, 64);
        assert_eq!(line[..12], [0xa3, 0, 5, 0, 0, 0, 0, 0, 0, 0x10, 0x11, 1]);
        assert_eq!(line[24..28], [0, 0x30, 0x33, 3]);
        assert_eq!(cena.stores().last(), Some(&(rcr + 128, 0x0005_00a3)));
        let doorbells = if version == LX2160A { vec![(0x9c8, 0x100)] } else { vec![] };
        assert_eq!(cinh.stores(), doorbells);
        cinh.poke(0xcc0, &0x82_u32.to_le_bytes());
        assert_eq!(portal.release(5, &[1]), Err(PortalError::ReleaseBusy));
    }
}

#[test]
fn management_commands_are_written_as_captured_and_alternate_their_valid_bit() {
    for (version, cr, answers) in [(LX2160A, 0x1600, [0x1680, 0x1680]), (LS2088A, 0x600, [0x740, 0x700])] {
        let (mut portal, cinh, cena) = portal(version);
        let mut line = [0; 64];
        line[..5].copy_from_slice(&[0xb0, 0xf0, 0, 0, 2]);
        (line[8], line[17]) = (0x40, 0x10);
        cena.poke(answers[0], &line);
        let mut buffers = [0; 2];
        cinh.stores();
        assert_eq!(portal.acquire(5, &mut buffers), Ok(2));
        assert_eq!(buffers, [0x40, 0x1000]);
        assert_eq!(cena.bytes(cr, 5), [0xb0, 0, 5, 0, 2]);
        assert_eq!(!cinh.stores().is_empty(), version == LX2160A);

        cena.poke(answers[1], &[0x46, 0xf0, 0x77, 0]);
        portal.command(&ConfigureChannel::notify(0x77, 0x00ab_cdef)).unwrap();
        let captured = [0x46, 0, 0x77, 0, 5, 1, 0, 0, 0xef, 0xcd, 0xab, 0, 0, 0, 0, 0];
        assert_eq!(cena.bytes(cr, 16), captured);
    }
}

#[test]
fn a_command_without_an_answer_is_an_error_in_a_stated_time_and_the_last() {
    let (mut portal, ..) = portal(LX2160A);
    let verb = QueryFqState::VERB;
    assert_eq!(portal.command(&QueryFqState(AboutFq::new(1))), Err(PortalError::Timeout { verb }));
    assert_eq!(portal.acquire(5, &mut [0; 7]), Err(PortalError::Stuck));
}

#[test]
fn refusals_and_answers_to_other_commands_are_errors() {
    let (mut portal, _, cena) = portal(LX2160A);
    let verb = Acquire::VERB;
    cena.poke(0x1680, &[0xb0, 0xf1]);
    let refused = PortalError::Refused { verb, answer: verb, result: 0xf1 };
    assert_eq!(portal.acquire(5, &mut [0; 7]), Err(refused));
    cena.poke(0x1680, &[0x46, 0xf0]);
    let refused = PortalError::Refused { verb, answer: 0x46, result: 0xf0 };
    assert_eq!(portal.acquire(5, &mut [0; 7]), Err(refused));
    cena.poke(0x1680, &[0xb0, 0xf0, 0, 0, 7]);
    assert!(matches!(portal.acquire(5, &mut [0; 3]), Err(PortalError::Broken { .. })));
}

#[test]
fn pushed_entries_are_new_by_their_lap() {
    for (version, dqrr) in [(LX2160A, 0x800), (LS2088A, 0x200)] {
        let (mut portal, cinh, cena) = portal(version);
        portal.push_from(1);
        assert_eq!(cinh.register(0xb00), 0x21bb_0001);
        for i in 0..8u8 {
            assert!(portal.next_pushed().is_none());
            cena.poke(dqrr + 64 * usize::from(i), &[0xa6, 0, 0, 0, i]);
            let Some((index, Pushed::Notification(cdan))) = portal.next_pushed() else { panic!("a CDAN") };
            assert_eq!((index, cdan.resource_id.get()), (i, i.into()));
            portal.consume(index);
            assert_eq!(cinh.register(0xac0), i.into());
        }
        assert!(portal.next_pushed().is_none(), "an entry of the last lap");
        cena.poke(dqrr, &[0x60, 0x10]);
        assert!(matches!(portal.next_pushed(), Some((0, Pushed::Frame(frame))) if frame.has_frame()));
    }
}

#[test]
fn old_revisions_trust_the_producer_index_in_the_first_lap() {
    let (mut portal, cinh, cena) = portal(0x0400_0000);
    cena.poke(0x200, &[0xa6]);
    assert!(portal.next_pushed().is_none());
    for lap_entry in 0..4u8 {
        cinh.poke(0xa00, &[(lap_entry + 1) % 4]);
        assert_eq!(portal.next_pushed().map(|(index, _)| index), Some(lap_entry));
    }
    assert!(portal.next_pushed().is_none());
    cena.poke(0x200, &[0x26]);
    assert_eq!(portal.next_pushed().map(|(index, _)| index), Some(0));
}

proptest! {
    #[test]
    fn frames_go_in_order_and_none_is_lost_however_hardware_keeps_up(
        version in prop_oneof![Just(LX2160A), Just(LS2088A)],
        steps in proptest::collection::vec((0usize..40, 0u32..40), 1..60),
    ) {
        let (mut portal, cinh, cena) = portal(version);
        let (entries, ci_at) = if version == LX2160A { (32u32, 0x1840) } else { (8, 0x840) };
        let (mut sent, mut consumed, mut polarity) = (0u64, 0u64, 0u8);
        for (burst, consume) in steps {
            let fds: Vec<Fd> = (0..burst as u64).map(|i| Fd::single(sent + i, 0, 64, 1)).collect();
            let taken = portal.enqueue(7, &fds).unwrap() as u64;
            prop_assert!(taken <= burst as u64 && sent + taken - consumed <= u64::from(entries));
            sent += taken;
            if version == LX2160A {
                let (index, register) = (sent % 64, cinh.register(0x800));
                prop_assert!(taken == 0 || u64::from(register & 0x3f) == index);
            }
            for _ in 0..u64::from(consume).min(sent - consumed) {
                let at = (consumed % u64::from(entries)) as usize * 64;
                if consumed.is_multiple_of(u64::from(entries)) && consumed > 0 {
                    polarity ^= 0x80;
                }
                prop_assert_eq!(cena.bytes(at, 1)[0], 2 | polarity);
                prop_assert_eq!(cena.read64(at + 32), consumed);
                consumed += 1;
            }
            cena.poke(ci_at, &((consumed % u64::from(2 * entries)) as u32).to_le_bytes());
        }
    }
}
