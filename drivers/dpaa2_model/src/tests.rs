//! What hardware does, seen from both sides: commands and portal stores in, frames and memory out.

use crate::qman::Fqid;
use crate::*;
use dpaa2_defs::annotation::{RxAnnotation, faf, fas};
use dpaa2_defs::classify::{self, Extract, KeyConfig, Protocol, field};
use dpaa2_defs::fd::{self, Fd, Format, SgEntry};
use dpaa2_defs::mc::common::{Enable, GetIrqStatus, Openable, SetIrqEnable, SetIrqMask};
use dpaa2_defs::mc::dpni::{self, *};
use dpaa2_defs::mc::header::{Command, Status};
use dpaa2_defs::mc::{dpbp, dpcon, dpio};
use dpaa2_defs::qbman::dequeue::{DequeueResult, Sdqcr, VolatileDequeue};
use dpaa2_defs::qbman::enqueue::EnqueueCommand;
use dpaa2_defs::qbman::management::{Acquire, ConfigureChannel};
use dpaa2_defs::qbman::registers::*;
use dpaa2_defs::qbman::release::ReleaseCommand;
use zerocopy::{Immutable, KnownLayout};

const IOVA: u64 = 0x10_0000;
const MEMORY: usize = 1 << 20;
const BUFFER: u16 = 2048;

/// An interface on a quiet wire, one pool, a portal, and memory.
struct Rig {
    model: Model,
    memory: &'static mut [u64],
    dpni: u16,
    bpid: u16,
}

fn board(soc: &str, dpni: &str) -> String {
    format!(
        "soc = '{soc}'\n[[container]]\nid = 2\ndpio = 2\ndpbp = 2\ndpcon = 1\n\
         [[container.dpni]]\nid = 1\nmac = '02:00:00:00:00:01'\n{dpni}\n\
         [[dpmac]]\nid = 1\n[[connection]]\na = 'dpni.1'\nb = 'dpmac.1'"
    )
}

impl Rig {
    /// Everything but an enabled interface.
    fn bare(soc: &str, dpni: &str) -> Self {
        let mut model = Model::new(&Description::from_toml(&board(soc, dpni)).unwrap()).unwrap();
        let memory = Box::leak(vec![0u64; MEMORY / 8].into_boxed_slice());
        // SAFETY: leaked, so it stays; the tests reach it through the model only.
        assert!(unsafe { model.dma_map(2, IOVA, MEMORY as u64, memory.as_mut_ptr().cast(), None) });
        let mut rig = Self { model, memory, dpni: 0, bpid: 1 };
        rig.dpni = rig.open::<dpni::Open>(1);
        rig
    }

    /// With an interface that receives into ten buffers.
    fn new(soc: &str, dpni: &str) -> Self {
        let mut rig = Self::bare(soc, dpni);
        for n in 0..10 {
            rig.model.bman.release(2, 1, Self::buffer(n)).unwrap();
        }
        let dpni = rig.dpni;
        let layout = SetBufferLayout {
            options: 0x3f.into(),
            flags: 7,
            data_alignment: 64.into(),
            head_room: 64.into(),
            ..SetBufferLayout::default()
        };
        rig.done(dpni, &layout);
        let mut pools = SetPools { count: 1, ..SetPools::default() };
        pools.pools[0].dpbp_id = 1.into();
        pools.buffer_sizes[0] = BUFFER.into();
        rig.done(dpni, &pools);
        rig.done(dpni, &Enable {});
        rig
    }

    fn buffer(n: u64) -> u64 {
        IOVA + 0x1_0000 + n * u64::from(BUFFER)
    }

    fn send<C: Command>(&mut self, token: u16, command: &C) -> (Status, u16, C::Response) {
        let answer = self.model.container_command(2, &Frame::request(token, command)).unwrap();
        (answer.header.status, answer.header.token.get(), answer.read())
    }

    fn done<C: Command>(&mut self, token: u16, command: &C) -> C::Response {
        let (status, _, response) = self.send(token, command);
        assert_eq!(status, Status::OK, "{}", C::NAME);
        response
    }

    fn open<C: Openable>(&mut self, id: u32) -> u16 {
        let (status, token, ()) = self.send(0, &C::with_id(id));
        assert_eq!(status, Status::OK, "open");
        token
    }

    fn queue(&mut self, queue_type: QueueType, tc: u8, index: u8) -> Fqid {
        let dpni = self.dpni;
        self.done(dpni, &GetQueue { queue_type, tc, index, channel: 0 }).fqid.get()
    }

    /// What receive queue {tc, index} holds.
    fn received(&mut self, tc: u8, index: u8) -> Vec<Fd> {
        let fqid = self.queue(QueueType::RX, tc, index);
        self.model.qman.drain(fqid)
    }

    fn arrive(&mut self, frame: &[u8]) {
        assert!(self.model.put_on_wire(1, frame));
    }

    fn read<T: zerocopy::FromBytes + IntoBytes + KnownLayout + Immutable>(&self, iova: u64) -> T {
        let mut value = T::new_zeroed();
        self.model.dma(2).read(iova, value.as_mut_bytes()).unwrap();
        value
    }

    fn bytes(&self, iova: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.model.dma(2).read(iova, &mut bytes).unwrap();
        bytes
    }

    fn write(&self, iova: u64, bytes: &[u8]) {
        self.model.dma(2).write(iova, bytes).unwrap();
    }

    /// Writes data into buffer `n`, taken from the pool, and gives its descriptor.
    fn frame_to_send(&mut self, n: u64, data: &[u8]) -> Fd {
        let address = Self::buffer(100 + n);
        self.write(address + 128, data);
        let _ = self.model.bman.release(2, self.bpid, address);
        assert_eq!(self.model.bman.take(2, self.bpid, bman::Place::Software), Some(address));
        Fd::single(address, 128, data.len() as u32, self.bpid)
    }

    fn counters(&self) -> NiCounters {
        self.model.ni_counters(1).unwrap()
    }

    fn assert_clean(&self) {
        let audit = self.model.audit();
        assert!(audit.is_clean(), "{audit}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        assert_eq!(self.memory.len(), MEMORY / 8);
    }
}

/// IPv4 and UDP with right checksums; `source_port` tells flows apart.
fn udp(source_port: u16, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let (ip_len, udp_len) = ((28 + payload) as u16, (8 + payload) as u16);
    frame.extend([
        0x45,
        0,
        (ip_len >> 8) as u8,
        ip_len as u8,
        0,
        0,
        0,
        0,
        64,
        17,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        1,
        0,
        1,
    ]);
    frame.extend(source_port.to_be_bytes());
    frame.extend([0, 7, (udp_len >> 8) as u8, udp_len as u8, 0, 0]);
    frame.extend((0..payload).map(|i| i as u8));
    parse::fill_checksums(&mut frame, true, true);
    frame
}

#[test]
fn a_frame_lies_in_its_buffer_as_the_layout_says() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    for offload in [Offload::RX_L3_CHECKSUM, Offload::RX_L4_CHECKSUM] {
        rig.done(dpni, &SetOffload { offload, value: 1.into(), ..SetOffload::default() });
    }
    let frame = udp(1000, 18);
    rig.arrive(&frame);
    let received = rig.received(0, 0);
    let [fd] = received[..] else { panic!("{received:?}") };
    assert_eq!((fd.len(), fd.offset(), fd.bpid(), fd.format()), (60, 128, 1, Format::Single));
    assert_eq!(fd.frc.get() & 0xffff, fd::FRC_FASV | fd::FRC_FAPRV);
    assert_eq!(rig.bytes(fd.addr.get() + 128, 60), frame);
    let annotation: RxAnnotation = rig.read(fd.addr.get());
    assert_eq!(annotation.fas.status.get(), fas::L3CV | fas::L4CV);
    let result = annotation.parse.to_result();
    for flag in [faf::ETHERNET, faf::L2_UNICAST, faf::IPV4, faf::IPV4_UNICAST, faf::UDP] {
        assert!(result.flag(flag), "flag {flag}");
    }
    // What DPDK compares to see a plain IPv4/UDP frame without parsing.
    assert_eq!(annotation.parse.0[1].get(), 1 << 61 | 1 << 60 | 1 << 25 | 1 << 10);
    assert_eq!((rig.counters().rx_frames, rig.counters().rx_bytes), (1, 60));
    rig.assert_clean();
}

#[test]
fn a_wrong_checksum_discards_marks_or_goes_to_the_error_queue() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    rig.done(
        dpni,
        &SetOffload { offload: Offload::RX_L4_CHECKSUM, value: 1.into(), ..SetOffload::default() },
    );
    let mut frame = udp(1000, 18);
    frame[50] ^= 1;
    rig.arrive(&frame);
    assert_eq!(rig.counters().rx_discarded, 1);
    rig.done(dpni, &SetErrorsBehavior { errors: fas::L4CE.into(), flags: 1 | SetErrorsBehavior::MARK });
    rig.arrive(&frame);
    let fd = rig.received(0, 0)[0];
    assert_eq!(fd.ctrl.get(), fd::CTRL_FAERR);
    assert_ne!(rig.read::<RxAnnotation>(fd.addr.get()).fas.status.get() & fas::L4CE, 0);
    rig.done(dpni, &SetErrorsBehavior { errors: fas::L4CE.into(), flags: 2 });
    rig.arrive(&frame);
    let errors = rig.queue(QueueType::RX_ERROR, 0, 0);
    assert_eq!(rig.model.qman.drain(errors).len(), 1);
    rig.assert_clean();
}

#[test]
fn a_frame_larger_than_a_buffer_is_scattered_or_has_no_buffer() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    rig.done(dpni, &SetMaxFrameLength { length: 10_000.into() });
    let frame = udp(1000, 4_000);
    rig.arrive(&frame);
    let fd = rig.received(0, 0)[0];
    assert_eq!((fd.format(), fd.len() as usize), (Format::ScatterGather, frame.len()));
    let mut data = Vec::new();
    for i in 0.. {
        let entry: SgEntry = rig.read(fd.addr.get() + 128 + 16 * i);
        data.extend(rig.bytes(entry.addr.get() + u64::from(entry.offset()), entry.len() as usize));
        if entry.is_final() {
            break;
        }
    }
    assert_eq!(data, frame);
    // Six buffers are left, of which this one needs six with its table.
    rig.arrive(&udp(1000, 9_000));
    assert_eq!(rig.counters().rx_frames, 2);
    rig.arrive(&frame);
    assert_eq!(rig.counters().rx_no_buffer, 1);
    rig.assert_clean();
}

#[test]
fn each_class_takes_buffers_from_its_own_pools() {
    let mut rig = Rig::bare("lx2160a", "rx_tcs = 2");
    let dpni = rig.dpni;
    for (n, bpid) in [(0, 1), (1, 1), (2, 2)] {
        rig.model.bman.release(2, bpid, Rig::buffer(n)).unwrap();
    }
    let mut pools = SetPools { count: 2, ..SetPools::default() };
    for (i, (dpbp, mask)) in [(1, 1), (2, 2)].into_iter().enumerate() {
        pools.pools[i] = dpni::Pool { dpbp_id: dpbp.into(), priority_mask: mask, reserved3: 0 };
        pools.buffer_sizes[i] = BUFFER.into();
    }
    rig.done(dpni, &pools);
    rig.done(dpni, &Enable {});
    let config = KeyConfig::new(&[Extract::full_field(Protocol::UDP, field::L4_SOURCE_PORT)]).unwrap();
    rig.write(IOVA, config.as_bytes());
    rig.done(dpni, &SetQosTable { key_config_iova: IOVA.into(), ..SetQosTable::default() });
    rig.write(IOVA + 0x1000, &[5000u16.to_be_bytes(), [0xff; 2]].concat());
    let entry = AddQosEntry {
        tc: 1,
        key_size: 2,
        key_iova: (IOVA + 0x1000).into(),
        mask_iova: (IOVA + 0x1002).into(),
        ..AddQosEntry::default()
    };
    rig.done(dpni, &entry);
    for port in [5000, 5000, 1, 1] {
        rig.arrive(&udp(port, 18));
    }
    assert_eq!(
        rig.received(1, 0).iter().map(Fd::bpid).collect::<Vec<_>>(),
        [2],
        "the second has no buffer left"
    );
    assert_eq!(
        rig.received(0, 0).iter().map(Fd::bpid).collect::<Vec<_>>(),
        [1, 1],
        "and others don't suffer"
    );
    assert_eq!(rig.counters().rx_no_buffer, 1);
    rig.assert_clean();
}

#[test]
fn a_distribution_takes_the_hash_of_the_key_modulo_its_size() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    let config = KeyConfig::new(&classify::five_tuple()).unwrap();
    rig.write(IOVA, config.as_bytes());
    let hash = SetRxHashDistribution {
        size: 7.into(),
        enable: 1,
        key_config_iova: IOVA.into(),
        ..Default::default()
    };
    rig.done(dpni, &hash);
    rig.done(dpni, &SetOffload { offload: Offload::FLC_HASH, value: 1.into(), ..SetOffload::default() });
    rig.arrive(&udp(1000, 18));
    let key = [10, 0, 0, 1, 10, 1, 0, 1, 17, 0x03, 0xe8, 0, 7];
    let expected = classify::hash(&key);
    let received = rig.received(0, (expected % 7) as u8);
    assert_eq!(received.iter().map(|fd| fd.flc.get() >> 32).collect::<Vec<_>>(), [u64::from(expected)]);
    assert_eq!(rig.send(dpni, &SetRxHashDistribution { size: 5.into(), ..hash }).0, Status::CONFIGURATION);
    rig.assert_clean();
}

#[test]
fn exact_match_tables_compare_every_bit_and_masks_need_a_chip_that_has_them() {
    for (soc, steered) in [("ls2088a", true), ("ls1088a", false)] {
        let mut rig = Rig::new(soc, "");
        let dpni = rig.dpni;
        let config = KeyConfig::new(&[Extract::full_field(Protocol::IP, field::IP_DESTINATION)]).unwrap();
        rig.write(IOVA, config.as_bytes());
        rig.done(
            dpni,
            &SetRxFsDistribution { enable: 1, key_config_iova: IOVA.into(), ..Default::default() },
        );
        rig.write(IOVA + 0x1000, &[10, 1, 0, 0, 255, 255, 0, 0]);
        let entry = AddFsEntry {
            key_size: 4,
            queue: 3.into(),
            key_iova: (IOVA + 0x1000).into(),
            mask_iova: (IOVA + 0x1004).into(),
            ..AddFsEntry::default()
        };
        rig.done(dpni, &entry);
        rig.arrive(&udp(1000, 18));
        assert_eq!(rig.received(0, 3).len(), usize::from(steered), "{soc}");
        assert_eq!(rig.received(0, 0).len(), usize::from(!steered), "{soc}");
    }
}

#[test]
fn a_sent_frame_gets_its_checksums_and_its_buffer_returns_to_the_pool() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    rig.done(dpni, &SetTxConfirmationMode { mode: ConfirmationMode::DISABLED, ..Default::default() });
    for offload in [Offload::TX_L3_CHECKSUM, Offload::TX_L4_CHECKSUM] {
        rig.done(dpni, &SetOffload { offload, value: 1.into(), ..SetOffload::default() });
    }
    let right = udp(1000, 18);
    let mut frame = right.clone();
    frame[24..26].fill(0);
    frame[40..42].fill(0);
    let free = rig.model.bman.free(2, 1);
    let fd = rig.frame_to_send(0, &frame);
    let tx = rig.queue(QueueType::TX, 0, 0);
    rig.model.qman.enqueue(tx, fd).unwrap();
    rig.model.poll();
    assert_eq!(rig.model.take_from_wire(1), Some(right));
    assert_eq!(rig.model.bman.free(2, 1), free + 1);
    assert_eq!(rig.counters().tx_frames, 1);
    rig.assert_clean();
}

#[test]
fn a_frame_is_confirmed_where_that_is_asked_for() {
    let mut rig = Rig::new("lx2160a", "");
    let fd = rig.frame_to_send(0, &udp(1000, 18));
    let (tx, confirm) = (rig.queue(QueueType::TX, 0, 0), rig.queue(QueueType::TX_CONFIRM, 0, 0));
    rig.model.qman.enqueue(tx, fd).unwrap();
    rig.model.poll();
    assert_eq!(rig.model.qman.drain(confirm), [fd]);
    assert_eq!(rig.counters().tx_confirmed, 1);
    let outside = Fd::single(0xdead_0000, 0, 60, 1);
    rig.model.qman.enqueue(tx, outside).unwrap();
    rig.model.poll();
    let confirmed = rig.model.qman.drain(confirm)[0];
    assert_eq!(confirmed.ctrl.get() & fd::CTRL_ERR_MASK, fd::CTRL_SBE);
    assert_eq!(rig.model.audit().violations[0].rule, Rule::DmaMapped);
}

#[test]
fn classes_share_the_wire_as_scheduled() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    rig.done(dpni, &SetTxConfirmationMode { mode: ConfirmationMode::DISABLED, ..Default::default() });
    // Class 0 strict, 1 and 2 weighted one to three.
    let mut schedule =
        SetTxPriorities { group_a_priority: 1, modes: [0x10, 0x01, 0, 0], ..Default::default() };
    (schedule.weights[1], schedule.weights[2]) = (100.into(), 300.into());
    rig.done(dpni, &schedule);
    rig.model.stop_clock();
    let queues: Vec<Fqid> = (0..3).map(|tc| rig.queue(QueueType::TX, tc, 0)).collect();
    for tc in [1, 2, 0] {
        let tx = queues[usize::from(tc)];
        for n in 0..8 {
            let mut frame = udp(1000, 18);
            frame[0] = tc;
            let fd = rig.frame_to_send(u64::from(tc) * 8 + n, &frame);
            rig.model.qman.enqueue(tx, fd).unwrap();
        }
    }
    rig.model.advance(1_000_000);
    let order: Vec<u8> = std::iter::from_fn(|| rig.model.take_from_wire(1)).map(|frame| frame[0]).collect();
    assert_eq!(order.len(), 24);
    assert_eq!(order[..8], [0; 8], "strict priority goes first");
    let heavy = order[8..16].iter().filter(|tc| **tc == 2).count();
    assert_eq!(heavy, 6, "three of four: {order:?}");
    assert!(rig.model.now_ns() >= 24 * 67, "84 bytes take 67 ns at 10 Gbit/s");
    rig.assert_clean();
}

#[test]
fn congestion_is_written_to_memory_when_it_begins_and_when_it_ends() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    rig.done(dpni, &SetTxConfirmationMode { mode: ConfirmationMode::DISABLED, ..Default::default() });
    let notice = SetCongestionNotification {
        queue_type: QueueType::TX,
        point: CongestionPoint::QUEUE,
        mode: 7.into(),
        type_and_units: 0x10,
        message_iova: IOVA.into(),
        context: 0x77.into(),
        entry: 3.into(),
        exit: 1.into(),
        ..Default::default()
    };
    rig.done(dpni, &notice);
    rig.model.stop_clock();
    let tx = rig.queue(QueueType::TX, 0, 0);
    for n in 0..4 {
        let fd = rig.frame_to_send(n, &udp(1000, 18));
        rig.model.qman.enqueue(tx, fd).unwrap();
    }
    rig.model.run();
    let message: Notification = rig.read(IOVA);
    assert_eq!((message.verb, message.state, message.context.get()), (0x27, 1, 0x77));
    rig.model.advance(1_000_000);
    assert_eq!(rig.read::<Notification>(IOVA).state, 0);
}

#[test]
fn the_link_is_up_when_both_ends_are_and_changes_are_announced() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    rig.done(dpni, &SetIrqMask { mask: 1.into(), index: 0 });
    rig.done(dpni, &SetIrqEnable { enable: 1, ..Default::default() });
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    rig.model.set_irq("dpni.1".parse().unwrap(), Some(event.try_clone().unwrap()));
    assert!(rig.done(dpni, &GetLinkState {}).is_up());
    rig.model.set_link(1, false);
    assert!(!rig.done(dpni, &GetLinkState {}).is_up());
    assert_eq!(rustix::io::read(&event, &mut [0; 8]), Ok(8));
    let status = rig.done(dpni, &GetIrqStatus { events: u32::MAX.into(), index: 0 });
    assert_eq!(status.events.get() & dpni::event::LINK_CHANGED, dpni::event::LINK_CHANGED);
    let fd = rig.frame_to_send(0, &udp(1000, 18));
    let tx = rig.queue(QueueType::TX, 0, 0);
    rig.model.qman.enqueue(tx, fd).unwrap();
    rig.model.poll();
    assert_eq!(rig.counters().tx_discarded, 1, "nothing is sent over a dead link");
}

/// A portal, driven as drivers do.
struct Portal<'a> {
    rig: &'a mut Rig,
    layout: Layout,
    window: usize,
}

impl Rig {
    fn portal(&mut self) -> Portal<'_> {
        let generation = Generation::of(self.model.description.soc.qbman_version());
        let token = self.open::<dpio::Open>(1);
        self.done(token, &Enable {});
        let window = generation.cena_region() as usize;
        let mut portal = Portal { rig: self, layout: generation.layout(), window };
        portal.register(QBMAN_CINH_SWP_CFG, Cfg::stashing(generation).to_bits());
        if window == 2 {
            portal.register(QBMAN_CINH_SWP_EQCR_PI, RT_MODE);
            portal.register(QBMAN_CINH_SWP_RCR_PI, RT_MODE);
        }
        portal.register(QBMAN_CINH_SWP_SDQCR, 0);
        portal
    }
}

impl Portal<'_> {
    fn object() -> ObjectId {
        "dpio.1".parse().unwrap()
    }

    fn register(&mut self, offset: u32, value: u32) {
        self.rig.model.store(Self::object(), 1, offset as usize, &value.to_le_bytes());
    }

    fn read_register(&self, offset: u32) -> u32 {
        self.rig.model.region(Self::object(), 1).unwrap().memory.u32(offset as usize)
    }

    fn line(&self, offset: u32) -> [u8; 64] {
        let mut line = [0; 64];
        assert!(
            self.rig
                .model
                .region(Self::object(), self.window)
                .unwrap()
                .memory
                .read(offset as usize, &mut line)
        );
        line
    }

    /// Writes a line, its first word last; with memory-backed portals a doorbell has to follow.
    fn write_line(&mut self, offset: u32, line: &[u8]) {
        if self.window == 2 {
            self.rig.model.region(Self::object(), 2).unwrap().memory.write(offset as usize, line);
            return;
        }
        for (at, word) in line.chunks(4).enumerate().rev() {
            self.rig.model.store(Self::object(), 0, offset as usize + 4 * at, word);
        }
    }

    fn doorbell(&mut self, offset: u32, value: u32) {
        if self.window == 2 {
            self.register(offset, value);
        }
    }

    fn release(&mut self, buffers: &[u64]) {
        let rar = Rar(self.read_register(QBMAN_CINH_SWP_RAR));
        let slot = rar.slot().expect("a free slot");
        let command = ReleaseCommand::new(1, buffers, rar.valid_bit());
        self.write_line(self.layout.rcr + 64 * slot, command.as_bytes());
        self.doorbell(QBMAN_CINH_SWP_RCR_AM_RT + 4 * slot, RT_MODE);
    }

    fn manage(&mut self, valid_bit: u8, command: &[u8]) -> [u8; 64] {
        let mut line = command.to_vec();
        line[0] |= valid_bit;
        self.write_line(self.layout.cr, &line);
        self.doorbell(QBMAN_CINH_SWP_CR_RT, RT_MODE);
        self.line(self.layout.rr_of(valid_bit))
    }

    fn pull(&mut self, valid_bit: u8, fqid: Fqid, frames: u32) -> Vec<DequeueResult> {
        let mut command = VolatileDequeue::from_fq(fqid, frames, 0x0a, IOVA);
        command.verb |= valid_bit;
        self.rig.write(IOVA, &[0; 64 * 32]);
        self.write_line(self.layout.vdqcr, command.as_bytes());
        self.doorbell(QBMAN_CINH_SWP_VDQCR_RT, RT_MODE);
        let results = (0..frames).map(|i| self.rig.read::<DequeueResult>(IOVA + 64 * u64::from(i)));
        results.take_while(|result| result.token == 0x0a).collect()
    }

    /// Enqueues at ring index `index` (with its wrap bit).
    fn enqueue(&mut self, index: u32, fqid: Fqid, fds: &[Fd]) {
        // A memory-backed ring begins with the valid bit the initialisation wrote: clear.
        let vb = |index: u32| {
            let odd_lap = index & self.layout.eqcr_entries != 0;
            if odd_lap == (self.window == 2) { 0x80u8 } else { 0 }
        };
        let first_vb: Vec<u8> = (0..=fds.len() as u32).map(|i| vb(index + i)).collect();
        for (i, fd) in fds.iter().enumerate() {
            let mut command = EnqueueCommand::to_fq(fqid, *fd);
            command.verb |= first_vb[i];
            let slot = (index + i as u32) & (self.layout.eqcr_entries - 1);
            self.write_line(self.layout.eqcr + 64 * slot, command.as_bytes());
        }
        let next = (index + fds.len() as u32) & self.layout.eqcr_pi_mask();
        self.doorbell(QBMAN_CINH_SWP_EQCR_PI, RT_MODE | next | u32::from(first_vb[fds.len()]));
    }
}

#[test]
fn both_generations_of_portals_release_acquire_enqueue_and_dequeue() {
    for soc in ["lx2160a", "ls2088a"] {
        let mut rig = Rig::new(soc, "");
        let dpni = rig.dpni;
        rig.done(dpni, &SetTxConfirmationMode { mode: ConfirmationMode::DISABLED, ..Default::default() });
        let (tx, rx) = (rig.queue(QueueType::TX, 0, 0), rig.queue(QueueType::RX, 0, 0));
        let mut portal = rig.portal();
        // More than two laps of the release ring.
        for n in 0..20 {
            portal.release(&[Rig::buffer(200 + n)]);
        }
        for (turn, n) in (0..20).rev().enumerate() {
            let vb = if turn % 2 == 0 { 0x80 } else { 0 };
            let mut command = Acquire::new(1, 1);
            command.verb = 0x30;
            let answer = portal.manage(vb, command.as_bytes());
            assert_eq!((answer[0], answer[1], answer[4]), (0x30 | vb, 0xf0, 1), "{soc}");
            assert_eq!(answer[8..16], Rig::buffer(200 + n).to_le_bytes(), "{soc}: last in, first out");
        }
        // More than a lap of the enqueue ring, in bursts of 5.
        for burst in 0..8u32 {
            let fds: Vec<Fd> =
                (0..5).map(|n| portal.rig.frame_to_send(n + 5 * u64::from(burst), &udp(1000, 18))).collect();
            let index = (burst * 5) & portal.layout.eqcr_pi_mask();
            portal.enqueue(index, tx, &fds);
            assert_eq!(
                portal.read_register(QBMAN_CINH_SWP_EQCR_CI),
                (index + 5) & portal.layout.eqcr_pi_mask()
            );
        }
        assert_eq!(portal.rig.counters().tx_frames, 40, "{soc}");
        for _ in 0..3 {
            portal.rig.arrive(&udp(1000, 18));
        }
        let results = portal.pull(0x80, rx, 2);
        assert_eq!(
            results.iter().map(|r| (r.stat, r.fq_frames.get())).collect::<Vec<_>>(),
            [(0x12, 2), (0x13, 1)]
        );
        let results = portal.pull(0, rx, 16);
        assert_eq!(
            results.iter().map(|r| r.stat).collect::<Vec<_>>(),
            [0x93],
            "{soc}: valid, last, queue empty"
        );
        let results = portal.pull(0x80, rx, 16);
        assert_eq!(results.len(), 1);
        let empty = results[0];
        assert_eq!(
            (empty.verb, empty.stat & !0x80, empty.token),
            (0x60, 0x03, 0x0a),
            "{soc}: an empty pull is answered"
        );
        rig.assert_clean();
    }
}

#[test]
fn a_channel_is_announced_once_and_its_interrupt_fires() {
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    let dpcon = rig.open::<dpcon::Open>(1);
    let channel = rig.done(dpcon, &dpcon::GetAttributes {}).channel_id.get();
    rig.done(dpcon, &dpcon::SetNotification { dpio_id: 1.into(), context: 9.into(), ..Default::default() });
    let queue = SetQueue {
        options: 3,
        destination_id: 1.into(),
        flags: 2,
        user_context: 0x55.into(),
        ..Default::default()
    };
    rig.done(dpni, &queue);
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    rig.model.set_irq("dpio.1".parse().unwrap(), Some(event.try_clone().unwrap()));
    let mut portal = rig.portal();
    portal.register(QBMAN_CINH_SWP_SDQCR, Sdqcr::sources(1).0);
    portal.register(QBMAN_CINH_SWP_IER, irq::DQRI);
    let mut arm = ConfigureChannel::notify(channel, 0xabc);
    arm.verb = 0x46;
    assert_eq!(portal.manage(0x80, arm.as_bytes())[1], 0xf0);
    assert!(rustix::io::read(&event, &mut [0; 8]).is_err(), "nothing has happened yet");
    for _ in 0..2 {
        portal.rig.arrive(&udp(1000, 18));
    }
    let entry = portal.line(portal.layout.dqrr);
    assert_eq!((entry[0], &entry[8..10]), (0xa6, &[0xbc, 0x0a][..]));
    assert_eq!(portal.line(portal.layout.dqrr + 64)[0], 0, "one notification for two frames");
    assert_eq!(rustix::io::read(&event, &mut [0; 8]), Ok(8));
    assert_eq!(portal.read_register(QBMAN_CINH_SWP_ISR) & irq::DQRI, irq::DQRI);
    portal.register(QBMAN_CINH_SWP_DCAP, 0);
    portal.register(QBMAN_CINH_SWP_ISR, irq::DQRI);
    assert_eq!(portal.read_register(QBMAN_CINH_SWP_ISR), 0);
    portal.register(QBMAN_CINH_SWP_DCAP, 0);
    assert_eq!(rig.model.audit().violations[0].rule, Rule::Consumption, "consumed twice");
}

#[test]
fn frames_are_pushed_until_the_ring_is_full_and_go_on_when_consumed() {
    let mut rig = Rig::new("ls2088a", "");
    let dpni = rig.dpni;
    rig.done(dpni, &SetQueue { options: 2, destination_id: 1.into(), flags: 2, ..Default::default() });
    let token = rig.open::<dpio::Open>(1);
    let index = rig.done(token, &dpio::AddStaticDequeueChannel { dpcon_id: 1.into() }).channel_index;
    let mut portal = rig.portal();
    portal.register(QBMAN_CINH_SWP_SDQCR, Sdqcr::sources(1 << index).0);
    for _ in 0..10 {
        portal.rig.arrive(&udp(1000, 18));
    }
    let verbs =
        |portal: &Portal<'_>| (0..8).map(|n| portal.line(portal.layout.dqrr + 64 * n)[0]).collect::<Vec<_>>();
    assert_eq!(verbs(&portal), [0xe0; 8]);
    assert_eq!(portal.rig.model.rx_queue_frames(1)[0], 2, "two wait");
    portal.register(QBMAN_CINH_SWP_DCAP, 1);
    portal.register(QBMAN_CINH_SWP_DCAP, 0);
    assert_eq!(verbs(&portal)[..3], [0x60, 0x60, 0xe0], "the second lap has its valid bits clear");
    rig.assert_clean();
}

#[test]
fn the_audit_sees_what_hardware_would_answer_with_corruption() {
    let mut rig = Rig::new("lx2160a", "");
    let rx = rig.queue(QueueType::RX, 0, 0);
    let mut portal = rig.portal();
    portal.release(&[Rig::buffer(0)]);
    portal.release(&[0xdead_0000]);
    portal.pull(0x80, rx, 1);
    portal.pull(0x80, rx, 1);
    portal.register(QBMAN_CINH_SWP_EQCR_PI, RT_MODE | 0x3f);
    portal.register(0x8c0, 1);
    let rules: Vec<Rule> = rig.model.audit().violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(
        rules,
        [Rule::OneOwner, Rule::DmaMapped, Rule::RingDiscipline, Rule::RingDiscipline, Rule::Known],
        "{}",
        rig.model.audit()
    );
}

#[test]
fn injected_faults_happen_and_end() {
    let mut rig = Rig::new("lx2160a", "");
    rig.model.inject(Fault::PoolEmpty { bpid: 1 });
    rig.arrive(&udp(1000, 18));
    assert_eq!(rig.counters().rx_no_buffer, 1);
    rig.model.inject(Fault::PoolFilled { bpid: 1 });
    rig.model.inject(Fault::CorruptDescriptor { nth: 2 });
    rig.arrive(&udp(1000, 18));
    rig.arrive(&udp(1000, 18));
    let received = rig.received(0, 0);
    assert!(received[0].addr.get() < IOVA + MEMORY as u64);
    assert!(received[1].addr.get() > IOVA + MEMORY as u64);
    let rx = rig.queue(QueueType::RX, 0, 0);
    let mut portal = rig.portal();
    portal.rig.model.inject(Fault::PortalStuck { dpio: 1 });
    assert!(portal.pull(0x80, rx, 1).is_empty(), "no answer");
    portal.rig.model.inject(Fault::PortalMoves { dpio: 1 });
    assert_eq!(portal.pull(0x80, rx, 1).len(), 1);
}

#[test]
fn configuration_is_refused_in_the_wrong_state() {
    let mut rig = Rig::bare("lx2160a", "");
    let dpni = rig.dpni;
    assert_eq!(rig.send(dpni, &Enable {}).0, Status::INVALID_STATE, "no pools");
    let mut rig = Rig::new("lx2160a", "");
    let dpni = rig.dpni;
    assert_eq!(rig.send(dpni, &SetPools::default()).0, Status::INVALID_STATE, "enabled");
    assert_eq!(rig.send(dpni, &SetBufferLayout::default()).0, Status::INVALID_STATE, "enabled");
    assert_eq!(rig.send(dpni, &SetMaxFrameLength { length: 20_000.into() }).0, Status::CONFIGURATION);
    assert_eq!(
        rig.send(dpni, &AddVlanId { vlan_id: 4096.into(), ..Default::default() }).0,
        Status::CONFIGURATION
    );
    let dpbp = rig.open::<dpbp::Open>(1);
    assert_eq!(rig.send(dpbp, &GetLinkState {}).0, Status::UNSUPPORTED, "not a command of a pool");
}
