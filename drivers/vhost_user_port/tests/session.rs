//! What each message does to a session, message by message, without a socket.

mod common;

use std::os::fd::{AsFd, OwnedFd};

use common::*;
use port::QueueFault;
use vhost_user::{
    ConfigAccess, HEADER_LEN, Header, Inflight, LogArea, MemoryRegion, Message, ProtocolFeatures, Request,
    RequestCode, VringAddr, VringFile, VringState, channel_pair,
};
use vhost_user_port::{Direction, End, Phase, PortConfig, Session};
use virtio_defs::{feature, net};
use virtqueue::EventFd;
use zerocopy::{FromBytes, IntoBytes};

/// A connected session, its switch and a guest's memory.
struct Rig {
    session: Session,
    switch: ToySwitch,
    memory: GuestMemory,
    wants: Wants,
}

/// What became of a request.
#[derive(Debug)]
enum Answer {
    Silence,
    Payload(Vec<u8>, Vec<OwnedFd>),
    End(End),
}

impl Answer {
    fn u64(&self) -> u64 {
        match self {
            Answer::Payload(bytes, _) => u64::read_from_bytes(bytes).expect("a number"),
            other => panic!("{other:?}"),
        }
    }

    fn reason(&self) -> String {
        match self {
            Answer::End(end) => end.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

impl Rig {
    fn new(wants: Wants) -> Rig {
        Rig::with(wants, PortConfig::default())
    }

    fn with(wants: Wants, config: PortConfig) -> Rig {
        let mut switch = ToySwitch::default();
        let mut session = Session::new("port", config);
        session.connected(&mut switch);
        let mut rig = Rig { session, switch, memory: GuestMemory::new(wants), wants };
        rig.expect_done(Request::SetProtocolFeatures(wants.protocol.0));
        rig.expect_done(Request::SetFeatures(wants.features));
        rig
    }

    fn raw(&mut self, message: Message) -> Answer {
        match self.session.handle(message, &mut self.switch) {
            Ok(None) => Answer::Silence,
            Ok(Some(out)) => Answer::Payload(out.bytes[HEADER_LEN..].to_vec(), out.fds),
            Err(end) => {
                self.session.disconnected(&end, &mut self.switch);
                Answer::End(end)
            }
        }
    }

    /// Sends without asking for an answer.
    fn tell(&mut self, request: Request) -> Answer {
        self.raw(message(request, false))
    }

    /// Sends and asks for an answer.
    fn ask(&mut self, request: Request) -> Answer {
        self.raw(message(request, true))
    }

    fn expect_done(&mut self, request: Request) {
        let code = request.code();
        let answer = self.tell(request);
        assert!(matches!(answer, Answer::Silence), "{code}: {answer:?}");
    }

    fn expect_refused(&mut self, request: Request) {
        let code = request.code();
        let answer = self.ask(request);
        assert!(
            matches!(&answer, Answer::Payload(p, _) if p.len() == 8) && answer.u64() != 0,
            "{code}: {answer:?}"
        );
    }

    fn mem_table(&self) -> Request {
        Request::SetMemTable(vec![(self.memory.region(), self.memory.fd())])
    }

    fn base(&self) -> u32 {
        if self.wants.features & feature::RING_PACKED != 0 { 0x8000 } else { 0 }
    }

    /// The messages that start a vring, in the usual order.
    fn vring_start(&self, index: usize) -> Vec<Request> {
        let n = index as u32;
        vec![
            Request::SetVringNum(VringState { index: n, num: self.wants.size.into() }),
            Request::SetVringBase(VringState { index: n, num: self.base() }),
            Request::SetVringAddr(self.memory.vring_addr(index, false)),
            Request::SetVringKick(VringFile { index: index as u8, fd: Some(event()) }),
            Request::SetVringEnable(VringState { index: n, num: 1 }),
        ]
    }

    fn start(&mut self) {
        self.expect_done(self.mem_table());
        for index in 0..self.wants.pairs * 2 {
            for request in self.vring_start(index) {
                self.expect_done(request);
            }
        }
        assert_eq!(usize::from(self.session.state().queue_pairs), self.wants.pairs);
    }

    /// Moves frames through all pairs.
    fn ping(&mut self) {
        let counters = port::PortCounters::default();
        for pair in 0..self.wants.pairs {
            for slot in 0..5 {
                assert!(self.memory.send(pair, slot, &[slot as u8; 80]));
                assert_eq!(self.switch.echo(&counters).unwrap(), 1);
                assert_eq!(self.memory.receive(pair), [[slot as u8; 80]]);
                assert_eq!(self.memory.reap(pair), 0);
            }
        }
    }

    fn running(&self, index: u16) -> bool {
        self.session.state().vrings.iter().any(|v| v.index == index && v.running)
    }
}

fn message(request: Request, need_reply: bool) -> Message {
    let sent = request.encode(need_reply);
    let header = Header::read_from_bytes(&sent.bytes[..HEADER_LEN]).unwrap();
    Message { header, payload: sent.bytes[HEADER_LEN..].to_vec(), fds: sent.fds }
}

fn event() -> OwnedFd {
    EventFd::create().unwrap().into()
}

fn region(n: u64, size: u64) -> MemoryRegion {
    MemoryRegion { guest_addr: n << 32, size, user_addr: n << 32, mmap_offset: 0 }
}

#[test]
fn everything_is_offered_that_is_not_masked() {
    let mut rig = Rig::new(Wants::split());
    assert_eq!(rig.tell(Request::GetFeatures).u64(), PortConfig::default().offered());
    assert_eq!(rig.tell(Request::GetProtocolFeatures).u64(), PortConfig::default().offered_protocol().0);
    assert_eq!(rig.tell(Request::GetQueueNum).u64(), 8);
    assert_eq!(rig.tell(Request::GetMaxMemSlots).u64(), 509);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut rig = Rig::new(Wants::split());
    rig.expect_refused(Request::SetFeatures(feature::ACCESS_PLATFORM | feature::VERSION_1));
    rig.expect_refused(Request::SetProtocolFeatures(ProtocolFeatures::PAGEFAULT.0));
    let config = PortConfig { features: !net::feature::MRG_RXBUF, ..PortConfig::default() };
    let wants = Wants { features: Wants::split().features & !net::feature::MRG_RXBUF, ..Wants::split() };
    let mut rig = Rig::with(wants, config);
    rig.expect_refused(Request::SetFeatures(Wants::split().features));
}

#[test]
fn a_refusal_is_answered_where_an_answer_was_asked_for_and_ends_the_connection_otherwise() {
    let bad = || Request::SetVringNum(VringState { index: 0, num: 0 });
    let mut rig = Rig::new(Wants::split());
    rig.expect_refused(bad());
    let state = rig.session.state();
    assert_eq!((state.refused, state.phase), (1, Phase::Negotiating));
    assert_eq!(state.last_error.as_deref(), Some("SET_VRING_NUM refused: vring size 0x0 is not allowed"));
    assert_eq!(rig.tell(bad()).reason(), "SET_VRING_NUM refused: vring size 0x0 is not allowed");
    assert_eq!(rig.session.state().phase, Phase::Waiting);

    // Without REPLY_ACK the flag means nothing.
    let wants = Wants { protocol: ProtocolFeatures(0), ..Wants::split() };
    let mut rig = Rig::new(wants);
    assert!(matches!(rig.ask(Request::SetOwner), Answer::Silence));
    assert!(matches!(rig.ask(bad()), Answer::End(_)));
}

#[test]
fn every_message_of_the_specification_is_answered_or_refused() {
    for code in RequestCode::ALL {
        let mut rig = Rig::new(Wants::split());
        let header = Header { code: code.0, flags: 1 | Header::NEED_REPLY, size: 0 };
        // An empty message: right for some, of the wrong size for most, unsupported for the rest.
        match rig.raw(Message { header, payload: vec![], fds: vec![] }) {
            Answer::Payload(payload, _) => assert_eq!(payload.len(), 8, "{code}"),
            Answer::End(End::Message(_)) => {}
            other => panic!("{code}: {other:?}"),
        }
    }
    let mut rig = Rig::new(Wants::split());
    for code in [0, 45, 1000, u32::MAX] {
        rig.expect_refused(Request::Other(RequestCode(code)));
    }
    let unsupported = Request::Other(RequestCode::POSTCOPY_ADVISE);
    assert_eq!(rig.tell(unsupported).reason(), "POSTCOPY_ADVISE refused: not supported");
}

#[test]
fn requests_of_features_that_were_not_negotiated_are_refused() {
    let protocol = ProtocolFeatures::REPLY_ACK;
    let mut rig = Rig::new(Wants { protocol, ..Wants::split() });
    let fd = rig.memory.fd();
    rig.expect_refused(Request::AddMemReg(region(1, 4096), fd));
    rig.expect_refused(Request::RemMemReg(region(1, 4096)));
    rig.expect_refused(Request::SetStatus(1));
    let fd = rig.memory.fd();
    rig.expect_refused(Request::SetInflightFd(Inflight::default(), fd));
    let access = ConfigAccess { offset: 0, flags: 1, data: vec![0] };
    rig.expect_refused(Request::SetConfig(access));
    assert!(matches!(rig.ask(Request::GetStatus), Answer::End(_)), "no acknowledgement can say no here");
}

#[test]
fn a_guest_gets_no_more_addresses_than_its_share() {
    let share = MEMORY_BYTES as u64;
    let config = PortConfig { memory_bytes_max: share, ..PortConfig::default() };
    let mut rig = Rig::with(Wants::split(), config);
    rig.expect_done(rig.mem_table());
    let fd = rig.memory.fd();
    rig.expect_refused(Request::AddMemReg(region(7, 4096), fd));
    let table = [(region(0, share), rig.memory.fd()), (region(7, u64::MAX / 2), rig.memory.fd())];
    rig.expect_refused(Request::SetMemTable(table.into()));
    assert_eq!(rig.session.state().memory_bytes, share, "what it had stays");
}

#[test]
fn what_a_guest_makes_us_spend_is_counted() {
    let config = PortConfig { messages_per_second: 10, ..PortConfig::default() };
    let mut session = Session::new("port", config);
    let spent = session.spent();
    let now = std::time::Instant::now();
    let waits = (0..15).filter(|_| !session.wait_to_read(now).is_zero()).count();
    let counted = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((counted(&spent.messages), counted(&spent.messages_delayed)), (15, 5));
    assert_eq!(waits, 5);
}

#[test]
fn a_ring_starts_with_the_last_of_what_it_needs_in_any_order() {
    let orders = permutations(6);
    assert_eq!(orders.len(), 720);
    for wants in [Wants::split(), Wants::packed()] {
        let mut rig = Rig::new(wants);
        for order in &orders {
            let mut requests = rig.vring_start(1);
            requests.push(rig.mem_table());
            let mut requests: Vec<Option<Request>> = requests.into_iter().map(Some).collect();
            for (step, &which) in order.iter().enumerate() {
                assert!(!rig.running(1), "started too early in {order:?}");
                let request = requests[which].take().unwrap();
                rig.expect_done(request);
                assert_eq!(rig.running(1), step == 5, "{order:?} after step {step}");
            }
            // Everything anew.
            rig.expect_done(Request::ResetDevice);
            rig.expect_done(Request::SetMemTable(vec![]));
            rig.expect_done(Request::SetFeatures(wants.features));
        }
    }
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = vec![];
    for shorter in permutations(n - 1) {
        for at in 0..n {
            let mut longer = shorter.clone();
            longer.insert(at, n - 1);
            all.push(longer);
        }
    }
    all
}

#[test]
fn the_base_is_answered_after_the_queue_came_back_and_with_wrap_bits() {
    let mut rig = Rig::new(Wants::packed());
    rig.start();
    for _ in 0..20 {
        rig.ping();
    }
    for index in [1u32, 0] {
        // The number is of no meaning in the request; DPDK sends left-overs in it.
        let answer = rig.tell(Request::GetVringBase(VringState { index, num: 0xdead }));
        let Answer::Payload(bytes, _) = answer else { panic!("{answer:?}") };
        let state = VringState::read_from_bytes(&bytes).unwrap();
        // 100 frames through 64 entries: position 36 in the second round, in which the wrap counter is 0.
        assert_eq!((state.index, state.num), (index, 36 << 16 | 36));
        assert!(rig.switch.inside().rx.iter().flatten().count() <= 1);
    }
    assert!(rig.switch.inside().tx.iter().flatten().next().is_none());
    assert!(rig.switch.inside().rx.iter().flatten().next().is_none());
}

#[test]
fn the_base_of_a_ring_that_never_ran_is_what_was_set() {
    let mut rig = Rig::new(Wants::packed());
    rig.expect_done(Request::SetVringBase(VringState { index: 5, num: 0x8007 }));
    let Answer::Payload(bytes, _) = rig.tell(Request::GetVringBase(VringState { index: 5, num: 0 })) else {
        panic!("an answer")
    };
    assert_eq!(VringState::read_from_bytes(&bytes).unwrap().num, 0x8007);
}

#[test]
fn a_ring_moved_while_it_runs_is_refused_and_runs_on() {
    let mut rig = Rig::new(Wants::split());
    rig.start();
    let moved = VringAddr { desc: USER_VA + (1 << 20), ..rig.memory.vring_addr(1, false) };
    rig.expect_refused(Request::SetVringAddr(moved));
    rig.expect_refused(Request::SetVringNum(VringState { index: 1, num: 128 }));
    rig.expect_refused(Request::SetVringBase(VringState { index: 1, num: 3 }));
    rig.ping();
    assert!(
        rig.tell(Request::SetVringAddr(moved))
            .reason()
            .contains("vring 1 is running: its address can't change")
    );
    assert_eq!(rig.session.state().phase, Phase::Waiting);
    assert!(rig.switch.inside().rx.iter().flatten().next().is_none());
}

#[test]
fn a_new_call_or_kick_while_a_ring_runs_is_used_from_then_on() {
    let mut rig = Rig::new(Wants::split());
    rig.start();
    let call = EventFd::create().unwrap();
    for index in 0..2 {
        let fd = Some(call.try_clone().unwrap().into());
        rig.expect_done(Request::SetVringCall(VringFile { index, fd }));
        rig.expect_done(Request::SetVringKick(VringFile { index, fd: Some(event()) }));
    }
    rig.ping();
    rig.expect_done(Request::SetVringCall(VringFile { index: 0, fd: None }));
    rig.ping();
}

#[test]
fn a_descriptor_that_is_no_event_is_refused() {
    let mut rig = Rig::new(Wants::split());
    let (reader, _writer) = std::io::pipe().unwrap();
    rig.expect_refused(Request::SetVringKick(VringFile { index: 0, fd: Some(reader.into()) }));
    let file = rig.memory.fd();
    rig.expect_refused(Request::SetVringCall(VringFile { index: 0, fd: Some(file) }));
}

#[test]
fn a_ring_outside_the_memory_table_does_not_start_and_says_why() {
    let mut rig = Rig::new(Wants::split());
    rig.expect_done(rig.mem_table());
    for (index, desc) in [(0, USER_VA - 16), (1, u64::MAX - 15), (2, USER_VA + MEMORY_BYTES as u64 - 16)] {
        for request in rig.vring_start(1) {
            rig.expect_done(match request {
                Request::SetVringAddr(addr) => Request::SetVringAddr(VringAddr { index, desc, ..addr }),
                Request::SetVringNum(s) => Request::SetVringNum(VringState { index, ..s }),
                Request::SetVringBase(s) => Request::SetVringBase(VringState { index, ..s }),
                Request::SetVringEnable(s) => Request::SetVringEnable(VringState { index, ..s }),
                Request::SetVringKick(file) => {
                    Request::SetVringKick(VringFile { index: index as u8, ..file })
                }
                other => other,
            });
        }
        let state = rig.session.state();
        let vring = state.vrings.iter().find(|v| u32::from(v.index) == index).unwrap();
        assert!(!vring.running && vring.problem.is_some(), "{vring:?}");
        assert!(state.last_error.unwrap().contains("can't start"));
    }
}

#[test]
fn a_driver_without_version_1_gets_no_ring() {
    let wants = Wants { features: Wants::split().features & !feature::VERSION_1, ..Wants::split() };
    let mut rig = Rig::new(wants);
    rig.expect_done(rig.mem_table());
    for request in rig.vring_start(0) {
        rig.expect_done(request);
    }
    assert!(!rig.running(0));
    assert!(rig.session.state().last_error.unwrap().contains("version 1 was not negotiated"));
}

#[test]
fn senseless_memory_tables_are_refused_and_the_old_one_stays() {
    let mut rig = Rig::new(Wants::split());
    rig.start();
    let good = rig.memory.region();
    let tables: &[&[MemoryRegion]] = &[
        &[region(1, 0)],
        &[region(1, 1 << 40)],
        &[region(1, u64::MAX)],
        &[MemoryRegion { guest_addr: u64::MAX - 4095, ..region(1, 8192) }],
        &[MemoryRegion { user_addr: u64::MAX - 4095, ..region(1, 8192) }],
        &[MemoryRegion { mmap_offset: u64::MAX - 4095, ..region(1, 8192) }],
        &[MemoryRegion { mmap_offset: MEMORY_BYTES as u64, ..region(1, 4096) }],
        &[region(1, 8192), MemoryRegion { user_addr: 77 << 32, ..region(1, 4096) }],
        &[region(1, 8192), MemoryRegion { guest_addr: 77 << 32, ..region(1, 4096) }],
        &[good, good],
    ];
    for table in tables {
        let table = table.iter().map(|&r| (r, rig.memory.fd())).collect();
        rig.expect_refused(Request::SetMemTable(table));
        let fd = rig.memory.fd();
        let overlapping = MemoryRegion { user_addr: good.user_addr ^ (1 << 40), ..good };
        rig.expect_refused(Request::AddMemReg(overlapping, fd));
        assert_eq!(rig.session.state().memory_bytes, MEMORY_BYTES as u64);
        rig.ping();
    }
    // Not memory at all.
    let (reader, _writer) = std::io::pipe().unwrap();
    rig.expect_refused(Request::SetMemTable(vec![(region(1, 4096), reader.into())]));
    rig.expect_refused(Request::AddMemReg(region(1, 4096), event()));
    rig.ping();
}

#[test]
fn logging_is_switched_on_and_off_while_rings_run() {
    for wants in [Wants::split(), Wants::packed()] {
        let mut rig = Rig::new(wants);
        rig.start();
        rig.ping();
        let log_bytes = (GPA + MEMORY_BYTES as u64) / 4096 / 8 + 64;
        let log = guest_memory::SharedMemory::new(c"test-guest-log", log_bytes).unwrap();
        let file = std::fs::File::from(log.fd().try_clone_to_owned().unwrap());
        let dirty = || {
            let mut bytes = vec![0; log_bytes as usize];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
            let first = GPA / 4096;
            let pages: Vec<u64> = (0..MEMORY_BYTES as u64 / 4096)
                .filter(|p| bytes[((first + p) / 8) as usize] & 1 << ((first + p) % 8) != 0)
                .collect();
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; log_bytes as usize], 0).unwrap();
            pages
        };
        let fd = log.fd().try_clone_to_owned().unwrap();
        assert_eq!(rig.tell(Request::SetLogBase(LogArea { size: log_bytes, offset: 0 }, fd)).u64(), 0);
        rig.ping();
        assert_eq!(dirty(), [0u64; 0], "nothing before LOG_ALL");

        rig.expect_done(Request::SetFeatures(wants.features | feature::VHOST_LOG_ALL));
        for index in 0..2 {
            rig.expect_done(Request::SetVringAddr(rig.memory.vring_addr(index, true)));
        }
        assert!(rig.session.state().logging);
        rig.ping();
        let pages = dirty();
        assert!(pages.iter().any(|p| (512..1024).contains(p)), "a receive buffer: {pages:?}");
        assert!(pages.iter().any(|&p| p < 16), "the receive ring: {pages:?}");
        assert!(pages.iter().any(|&p| (16..32).contains(&p)), "the transmit ring: {pages:?}");
        assert!(pages.iter().all(|&p| p < 1024), "nothing else: {pages:?}");

        rig.expect_done(Request::SetFeatures(wants.features));
        for index in 0..2 {
            rig.expect_done(Request::SetVringAddr(rig.memory.vring_addr(index, false)));
        }
        rig.ping();
        assert_eq!(dirty(), [0u64; 0], "nothing after LOG_ALL");
        assert!(!rig.session.state().logging);
    }
}

#[test]
fn a_status_is_kept_and_must_be_a_byte() {
    let mut rig = Rig::new(Wants::split());
    rig.expect_done(Request::SetStatus(0x0b));
    assert_eq!(rig.tell(Request::GetStatus).u64(), 0x0b);
    rig.expect_refused(Request::SetStatus(0x100));
}

#[test]
fn an_mtu_is_bounded() {
    let mut rig = Rig::new(Wants::split());
    for mtu in [0, 67, 65536, u64::MAX] {
        rig.expect_refused(Request::NetSetMtu(mtu));
    }
    rig.expect_done(Request::NetSetMtu(9000));
    assert_eq!(rig.session.state().mtu, 9000);
}

#[test]
fn configuration_is_read_inside_its_space_only_and_never_written_by_a_driver() {
    let mut rig = Rig::new(Wants::split());
    let access = |offset, len, flags| ConfigAccess { offset, flags, data: vec![0; len] };
    let Answer::Payload(bytes, _) = rig.tell(Request::GetConfig(access(6, 6, 0))) else {
        panic!("an answer")
    };
    assert_eq!(bytes[12..], [1, 0, 8, 0, 0xdc, 5], "link up, 8 pairs, MTU 1500");
    for (offset, len) in [(256, 1), (250, 7), (u32::MAX, 1), (0, 0)] {
        let answer = rig.tell(Request::GetConfig(access(offset, len, 0)));
        assert!(matches!(&answer, Answer::Payload(p, _) if p.is_empty()), "{offset}+{len}: {answer:?}");
    }
    rig.expect_refused(Request::SetConfig(access(0, 6, 0)));
    rig.expect_done(Request::SetConfig(access(0, 6, ConfigAccess::LIVE_MIGRATION)));
}

#[test]
fn a_link_change_is_told_only_to_those_who_can_hear_it() {
    let wants = Wants { protocol: ProtocolFeatures::REPLY_ACK, ..Wants::split() };
    for (wants, told) in [(Wants::split(), true), (wants, false)] {
        let mut rig = Rig::new(wants);
        let (fd, mut front) = channel_pair().unwrap();
        rig.expect_done(Request::SetBackendReqFd(fd));
        rig.session.set_link(true, &mut rig.switch.clone());
        assert!(front.next_request().unwrap().is_none(), "it was up before");
        rig.session.set_link(false, &mut rig.switch.clone());
        assert_eq!(front.next_request().unwrap().is_some(), told);
    }
}

#[test]
fn a_queue_fault_ends_the_connection_and_signals_the_front_end() {
    let mut rig = Rig::new(Wants::split());
    rig.start();
    let err = EventFd::create().unwrap();
    let fd = Some(err.try_clone().unwrap().into());
    rig.expect_done(Request::SetVringErr(VringFile { index: 0, fd }));
    let fault = QueueFault { what: "broken", value: 5 };
    assert!(rig.session.queue_fault(3, Direction::Rx, fault).is_none(), "pair 3 doesn't run");
    let end = rig.session.queue_fault(0, Direction::Tx, fault).unwrap();
    rig.session.disconnected(&end, &mut rig.switch);
    assert!(err.drain());
    let state = rig.session.state();
    assert_eq!(state.last_error.as_deref(), Some("queue pair 0, tx: broken (0x5)"));
    assert_eq!((state.phase, state.memory_regions), (Phase::Waiting, 0));
}

#[test]
fn a_session_goes_on_in_another_with_a_running_ring() {
    for wants in [Wants::split(), Wants::packed()] {
        let mut rig = Rig::new(wants);
        rig.start();
        let fd = Some(event());
        rig.expect_done(Request::SetVringCall(VringFile { index: 1, fd }));
        let shape = Inflight { num_queues: 2, queue_size: 64, ..Inflight::default() };
        assert!(matches!(rig.tell(Request::GetInflightFd(shape)), Answer::Payload(_, fds) if fds.len() == 1));
        rig.expect_done(Request::NetSetMtu(2000));
        rig.ping();
        rig.session.suspend(&mut rig.switch).unwrap();
        let (state, fds) = rig.session.export().unwrap();
        let text = serde_json::to_string(&state).unwrap();
        let state = serde_json::from_str(&text).unwrap();
        let mut next = Session::import(PortConfig::default(), &state, fds).unwrap();
        assert_eq!(next.state().phase, Phase::Negotiating);
        next.resume(&mut rig.switch).unwrap();
        rig.session = next;
        rig.ping();
        let shown = rig.session.state();
        assert_eq!((shown.mtu, shown.connections, shown.phase), (2000, 1, Phase::Running));
        let (again, _) = rig.session.export().unwrap();
        assert_eq!(again.regions, state.regions);
    }
}

#[test]
fn a_damaged_state_is_refused() {
    let mut rig = Rig::new(Wants::packed());
    rig.start();
    type Damage = fn(&mut vhost_user_port::SessionState);
    let damages: &[Damage] = &[
        |s| s.version = 0,
        |s| s.version = 999,
        |s| s.features = u64::MAX,
        |s| s.protocol = u64::MAX,
        |s| s.regions[0].fd = 99,
        |s| s.regions[0].size = u64::MAX,
        |s| s.regions.push(s.regions[0]),
        |s| s.vrings[0].size = Some(40000),
        |s| s.vrings.extend_from_within(..),
        |s| s.channel = Some(0),
    ];
    for (n, damage) in damages.iter().enumerate() {
        let (mut state, fds) = rig.session.export().unwrap();
        damage(&mut state);
        let imported = Session::import(PortConfig::default(), &state, fds);
        assert!(imported.is_err(), "damage {n}");
    }
    let (state, fds) = rig.session.export().unwrap();
    let smaller = PortConfig { queue_pairs: 4, ..PortConfig::default() };
    assert!(Session::import(smaller, &state, fds).is_err(), "more vrings than the port has now");
}

#[test]
fn positions_of_a_later_export_fit_only_when_nothing_else_changed() {
    let mut rig = Rig::new(Wants::split());
    rig.start();
    let (state, fds) = rig.session.export().unwrap();
    let mut next = Session::import(PortConfig::default(), &state, fds).unwrap();
    rig.ping();
    rig.session.suspend(&mut rig.switch).unwrap();
    let (state, _) = rig.session.export().unwrap();
    assert!(next.import_positions(&state));
    next.resume(&mut rig.switch).unwrap();
    rig.ping();

    let (state, fds) = next.export().unwrap();
    let mut third = Session::import(PortConfig::default(), &state, fds).unwrap();
    rig.session = next;
    rig.expect_done(Request::SetVringCall(VringFile { index: 1, fd: Some(event()) }));
    rig.session.suspend(&mut rig.switch).unwrap();
    assert!(!third.import_positions(&rig.session.export().unwrap().0), "a call descriptor is new");
}

// ---- patterns of the published weaknesses of another back-end ----

/// CVE-2019-14818: descriptors that a message shouldn't carry were never closed.
#[test]
fn descriptors_that_a_message_should_not_carry_end_the_connection_and_are_closed() {
    for code in RequestCode::ALL {
        let mut rig = Rig::new(Wants::split());
        let (reader, writer) = std::io::pipe().unwrap();
        let fds = (0..9).map(|_| reader.try_clone().unwrap().into()).collect();
        drop(reader);
        let header = Header { code: code.0, flags: 1, size: 8 };
        let answer = rig.raw(Message { header, payload: vec![0; 8], fds });
        assert!(matches!(answer, Answer::End(_)), "{code}: {answer:?}");
        // A pipe without a reader refuses a write: all nine are closed.
        let error = std::io::Write::write(&mut &writer, &[1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{code}");
    }
}

/// CVE-2020-10722: the log's size and offset overflowed, and a smaller area was mapped than was used.
#[test]
fn a_log_whose_size_and_offset_overflow_ends_the_connection() {
    for (size, offset) in [(u64::MAX, 1), (4096, u64::MAX - 4095), (1 << 63, 1 << 63), (0, 0), (4097, 0)] {
        let mut rig = Rig::new(Wants::split());
        let log = guest_memory::SharedMemory::new(c"test-guest-log", 4096).unwrap();
        let fd = log.fd().try_clone_to_owned().unwrap();
        // The answer to this request can't say no, so there is none.
        let answer = rig.ask(Request::SetLogBase(LogArea { size, offset }, fd));
        assert!(matches!(answer, Answer::End(End::Refused { .. })), "{size:#x}+{offset:#x}: {answer:?}");
    }
}

/// CVE-2020-10723: a vring index was cut to 16 bits after it was checked.
#[test]
fn vring_indices_are_checked_in_full_width() {
    for index in [16, 255, 256, 0x1_0000, 0x1_0001, u32::MAX] {
        let mut rig = Rig::new(Wants::split());
        let state = VringState { index, num: 1 };
        rig.expect_refused(Request::SetVringNum(state));
        rig.expect_refused(Request::SetVringBase(state));
        rig.expect_refused(Request::SetVringEnable(state));
        rig.expect_refused(Request::SetVringAddr(VringAddr { index, ..rig.memory.vring_addr(0, false) }));
        if let Ok(index) = u8::try_from(index) {
            rig.expect_refused(Request::SetVringKick(VringFile { index, fd: Some(event()) }));
            rig.expect_refused(Request::SetVringCall(VringFile { index, fd: None }));
            rig.expect_refused(Request::SetVringErr(VringFile { index, fd: Some(event()) }));
        }
        assert!(rig.session.state().vrings.is_empty());
        assert!(matches!(rig.ask(Request::GetVringBase(state)), Answer::End(_)));
    }
}

/// CVE-2020-10726: each request for an in-flight record kept another file and mapping.
#[test]
fn asking_for_in_flight_records_again_and_again_keeps_one() {
    let mut rig = Rig::new(Wants::packed());
    let ask = Inflight { num_queues: 16, queue_size: 256, ..Inflight::default() };
    let mut last = None;
    for _ in 0..1000 {
        let Answer::Payload(bytes, fds) = rig.tell(Request::GetInflightFd(ask)) else { panic!("an answer") };
        last = Some((Inflight::read_from_bytes(&bytes).unwrap(), fds));
    }
    let (place, mut fds) = last.unwrap();
    assert!(place.mmap_size >= 16 * 256 * 32, "{place:?}");
    let fd = fds.pop().unwrap();
    // Ours is the only one left, and its front-end may give it back.
    rig.expect_done(Request::SetInflightFd(place, fd.try_clone().unwrap()));
    let (state, kept) = rig.session.export().unwrap();
    assert!(state.inflight.is_some());
    assert_eq!(kept.len(), 1);
}

/// CVE-2020-10726 and its kind: shapes of in-flight records that can't be.
#[test]
fn impossible_in_flight_records_are_refused() {
    for (num_queues, queue_size) in [(0, 64), (17, 64), (u16::MAX, 64), (2, 0), (2, u16::MAX)] {
        let mut rig = Rig::new(Wants::packed());
        let shape = Inflight { num_queues, queue_size, ..Inflight::default() };
        let fd = rig.memory.fd();
        rig.expect_refused(Request::SetInflightFd(Inflight { mmap_size: 1 << 20, ..shape }, fd));
        assert!(matches!(rig.ask(Request::GetInflightFd(shape)), Answer::End(_)));
    }
    let mut rig = Rig::new(Wants::packed());
    for (mmap_size, mmap_offset) in [(0, 0), (64, 0), (1 << 20, u64::MAX), (1 << 20, 1), (1 << 20, 1 << 40)] {
        let fd = rig.memory.fd();
        let place = Inflight { mmap_size, mmap_offset, num_queues: 2, queue_size: 64, padding: 0 };
        rig.expect_refused(Request::SetInflightFd(place, fd));
    }
}

/// The pattern of several: fields of a message that contradict its length.
#[test]
fn a_memory_table_that_announces_more_regions_than_it_has_ends_the_connection() {
    for count in [2u32, 8, 32, 33, 0xffff, u32::MAX] {
        let mut rig = Rig::new(Wants::split());
        rig.start();
        let mut message = message(rig.mem_table(), true);
        message.payload[..4].copy_from_slice(count.as_bytes());
        assert!(matches!(rig.raw(message), Answer::End(End::Message(_))), "{count}");
        assert_eq!(rig.session.state().memory_regions, 0);
    }
}

#[test]
fn removing_a_region_takes_its_exact_place() {
    let mut rig = Rig::new(Wants::split());
    rig.start();
    let good = rig.memory.region();
    rig.expect_refused(Request::RemMemReg(MemoryRegion { size: good.size - 1, ..good }));
    rig.expect_refused(Request::RemMemReg(MemoryRegion { user_addr: good.user_addr + 4096, ..good }));
    rig.ping();
    rig.expect_done(Request::RemMemReg(MemoryRegion { mmap_offset: 12345, ..good }));
    assert_eq!(rig.session.state().phase, Phase::Negotiating);
    let fd = rig.memory.memory.fd().as_fd().try_clone_to_owned().unwrap();
    rig.expect_done(Request::AddMemReg(good, fd));
    rig.ping();
}
