//! A toy switch that echoes, and a guest to talk to it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest_memory::SharedMemory;
use packet::Burst;
use port::{PortCounters, QueueFault, Received, RxQueue, Selection, TxQueue};
use vhost_user::{Frontend, MemoryRegion, Offer, ProtocolFeatures, VRING_F_LOG, VringAddr};
use vhost_user_port::{
    Direction, OFFERED, OFFERED_PROTOCOL, Phase, PortConfig, PortControl, PortSocket, PortState, QueueHost,
    Served, Session, SocketMode, Sockets, control, serve,
};
use virtio_defs::feature;
use virtqueue::EventFd;
use virtqueue::driver::{Buffer, Driver, DriverConfig};

/// Where a guest's memory begins for itself, and for its front-end.
pub const GPA: u64 = 0x1_0000_0000;
pub const USER_VA: u64 = 0x7f00_0000_0000;
pub const MEMORY_BYTES: usize = 16 << 20;
const RING_BYTES: usize = 64 << 10;
const BUFFERS_AT: usize = 2 << 20;
const BUFFER_BYTES: usize = 2048;
const HEADER: usize = 12;

/// What the switch has of a port.
#[derive(Default)]
pub struct Inside {
    pub rx: Vec<Option<Box<dyn RxQueue>>>,
    pub tx: Vec<Option<Box<dyn TxQueue>>>,
    pub state: PortState,
    pub announced: Vec<[u8; 6]>,
    /// Times a queue was attached or detached.
    pub moves: usize,
}

/// The switch's side of a port; clones share it.
#[derive(Clone, Default)]
pub struct ToySwitch(Arc<Mutex<Inside>>);

impl ToySwitch {
    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn state(&self) -> PortState {
        self.inside().state.clone()
    }

    /// Waits for a state; fails after some seconds.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&PortState) -> bool) -> PortState {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.state();
            if wanted(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "waiting for {what}: {state:#?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends every frame that waits back to where it came from. Returns how many.
    pub fn echo(&self, counters: &PortCounters) -> Result<usize, (u16, Direction, QueueFault)> {
        let mut inside = self.inside();
        let inside = &mut *inside;
        let mut burst = Burst::new();
        let all: Vec<u8> = (0..packet::BURST_MAX as u8).collect();
        let mut count = 0;
        for (pair, (rx, tx)) in inside.rx.iter_mut().zip(&mut inside.tx).enumerate() {
            let (Some(rx), Some(tx)) = (rx, tx) else { continue };
            let fault = |direction| move |fault| (pair as u16, direction, fault);
            let mut received =
                Received::poll(&mut **rx, &mut burst, counters).map_err(fault(Direction::Rx))?;
            let burst = received.burst();
            let n = burst.len();
            if n > 0 {
                tx.transmit(Selection { burst, which: &all[..n] }, counters).map_err(fault(Direction::Tx))?;
                tx.flush(counters).map_err(fault(Direction::Tx))?;
            }
            count += n;
        }
        Ok(count)
    }
}

fn put<Q: ?Sized>(queues: &mut Vec<Option<Box<Q>>>, pair: u16, queue: Box<Q>) {
    let pair = usize::from(pair);
    if queues.len() <= pair {
        queues.resize_with(pair + 1, || None);
    }
    assert!(queues[pair].replace(queue).is_none(), "pair {pair} was attached twice");
}

impl QueueHost for ToySwitch {
    fn attach_rx(&mut self, pair: u16, queue: Box<dyn RxQueue>) {
        let mut inside = self.inside();
        inside.moves += 1;
        put(&mut inside.rx, pair, queue);
    }

    fn detach_rx(&mut self, pair: u16) -> Option<Box<dyn RxQueue>> {
        let mut inside = self.inside();
        inside.moves += 1;
        inside.rx.get_mut(usize::from(pair))?.take()
    }

    fn attach_tx(&mut self, pair: u16, queue: Box<dyn TxQueue>) {
        let mut inside = self.inside();
        inside.moves += 1;
        put(&mut inside.tx, pair, queue);
    }

    fn detach_tx(&mut self, pair: u16) -> Option<Box<dyn TxQueue>> {
        let mut inside = self.inside();
        inside.moves += 1;
        inside.tx.get_mut(usize::from(pair))?.take()
    }

    fn state_changed(&mut self, state: PortState) {
        self.inside().state = state;
    }

    fn announce(&mut self, mac: [u8; 6]) {
        self.inside().announced.push(mac);
    }
}

/// A port served on a thread of its own.
pub struct Port {
    pub switch: ToySwitch,
    pub control: PortControl,
    pub counters: PortCounters,
    pub path: PathBuf,
    thread: Option<JoinHandle<std::io::Result<Served>>>,
}

impl Port {
    pub fn server(path: &Path) -> Port {
        Port::with(path, SocketMode::Server, PortConfig::default())
    }

    pub fn with(path: &Path, mode: SocketMode, config: PortConfig) -> Port {
        let sockets = Port::socket(path, mode).listen().unwrap();
        Port::start(path, mode, move || (Session::new("port", config), sockets))
    }

    pub fn socket(path: &Path, mode: SocketMode) -> PortSocket {
        PortSocket { path: path.to_owned(), mode, permissions: None, owner: None }
    }

    pub fn start(
        path: &Path,
        mode: SocketMode,
        session: impl FnOnce() -> (Session, Sockets) + Send + 'static,
    ) -> Port {
        let switch = ToySwitch::default();
        let (control, commands) = control();
        let socket = Port::socket(path, mode);
        let host = switch.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (session, sockets) = session();
            runtime.block_on(serve(socket, session, host, commands, sockets))
        });
        Port {
            switch,
            control,
            counters: PortCounters::default(),
            path: path.to_owned(),
            thread: Some(thread),
        }
    }

    /// Echoes what waits, and passes faults on as a switch does.
    pub fn echo(&self) -> usize {
        match self.switch.echo(&self.counters) {
            Ok(count) => count,
            Err((pair, direction, fault)) => {
                self.control.queue_fault(pair, direction, fault);
                0
            }
        }
    }

    pub fn join(mut self) -> std::io::Result<Served> {
        self.thread.take().expect("joined once").join().expect("serving doesn't panic")
    }

    pub fn stop(self) {
        self.control.stop();
        assert_eq!(self.join().unwrap(), Served::Stopped);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a guest wants.
#[derive(Clone, Copy)]
pub struct Wants {
    pub features: u64,
    pub protocol: ProtocolFeatures,
    pub pairs: usize,
    pub size: u16,
}

impl Wants {
    pub fn split() -> Wants {
        let features = OFFERED & !(feature::RING_PACKED | feature::VHOST_LOG_ALL);
        Wants { features, protocol: OFFERED_PROTOCOL, pairs: 1, size: 64 }
    }

    pub fn packed() -> Wants {
        Wants { features: OFFERED & !feature::VHOST_LOG_ALL, ..Wants::split() }
    }
}

/// Memory and rings of a guest.
pub struct GuestMemory {
    pub memory: Arc<SharedMemory>,
    file: File,
    /// By vring index.
    rings: Vec<Driver>,
    size: u16,
}

impl GuestMemory {
    pub fn new(wants: Wants) -> GuestMemory {
        let memory = Arc::new(SharedMemory::new(c"test-guest", MEMORY_BYTES as u64).unwrap());
        let file = File::from(memory.fd().try_clone_to_owned().unwrap());
        let config = DriverConfig { size: wants.size, features: wants.features, gpa: GPA };
        let rings = (0..wants.pairs * 2)
            .map(|index| Driver::new(Arc::clone(&memory), index * RING_BYTES, config))
            .collect();
        let mut this = GuestMemory { memory, file, rings, size: wants.size };
        for pair in 0..wants.pairs {
            for k in 0..u32::from(wants.size) {
                assert!(this.offer(pair, k));
            }
            this.rings[pair * 2].publish();
        }
        this
    }

    pub fn region(&self) -> MemoryRegion {
        MemoryRegion { guest_addr: GPA, size: MEMORY_BYTES as u64, user_addr: USER_VA, mmap_offset: 0 }
    }

    pub fn fd(&self) -> OwnedFd {
        self.memory.fd().try_clone_to_owned().unwrap()
    }

    pub fn vring_addr(&self, index: usize, logged: bool) -> VringAddr {
        let (desc, avail, used) = self.rings[index].user_addresses(USER_VA);
        let flags = if logged { VRING_F_LOG } else { 0 };
        VringAddr { index: index as u32, flags, desc, used, avail, log: used - USER_VA + GPA }
    }

    fn buffer(&self, index: usize, k: u32) -> usize {
        BUFFERS_AT + (index * usize::from(self.size) + k as usize) * BUFFER_BYTES
    }

    fn offer(&mut self, pair: usize, k: u32) -> bool {
        let at = self.buffer(pair * 2, k);
        self.rings[pair * 2].add(&[Buffer::writable(GPA + at as u64, BUFFER_BYTES as u32)], k)
    }

    /// Sends a frame; false when the ring is full.
    pub fn send(&mut self, pair: usize, slot: u32, frame: &[u8]) -> bool {
        let index = pair * 2 + 1;
        let at = self.buffer(index, slot);
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(frame);
        self.file.write_all_at(&bytes, at as u64).unwrap();
        let added = self.rings[index].add(&[Buffer::readable(GPA + at as u64, bytes.len() as u32)], slot);
        self.rings[index].publish();
        added
    }

    /// Sends what lies at a guest-physical address, header included.
    pub fn send_from(&mut self, pair: usize, gpa: u64, len: u32) {
        assert!(self.rings[pair * 2 + 1].add(&[Buffer::readable(gpa, len)], 0));
        self.rings[pair * 2 + 1].publish();
    }

    /// Takes back what was sent; returns how many frames are on their way.
    pub fn reap(&mut self, pair: usize) -> usize {
        self.rings[pair * 2 + 1].poll(1024, |_, _| ()).unwrap();
        self.rings[pair * 2 + 1].outstanding()
    }

    /// Frames received since the last call.
    pub fn receive(&mut self, pair: usize) -> Vec<Vec<u8>> {
        let mut got = vec![];
        self.rings[pair * 2].poll(1024, |k, len| got.push((k, len))).unwrap();
        let frames = got
            .iter()
            .map(|&(k, len)| {
                let mut bytes = vec![0; len as usize];
                self.file.read_exact_at(&mut bytes, self.buffer(pair * 2, k) as u64).unwrap();
                bytes.split_off(HEADER)
            })
            .collect();
        for (k, _) in got {
            assert!(self.offer(pair, k));
        }
        self.rings[pair * 2].publish();
        frames
    }

    pub fn write_at(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }
}

/// A guest with its front-end.
pub struct Guest {
    pub front: Frontend,
    pub memory: GuestMemory,
    pub wants: Wants,
    pub kicks: Vec<EventFd>,
    pub calls: Vec<EventFd>,
    serial: u32,
}

impl Guest {
    /// Connects and negotiates.
    pub fn connect(path: &Path, wants: Wants) -> Guest {
        Guest::new(Frontend::connect(path).unwrap(), wants)
    }

    pub fn accept(listener: &UnixListener, wants: Wants) -> Guest {
        Guest::new(Frontend::accept(listener).unwrap(), wants)
    }

    pub fn new(front: Frontend, wants: Wants) -> Guest {
        Guest::with_memory(front, wants, GuestMemory::new(wants))
    }

    pub fn with_memory(mut front: Frontend, wants: Wants, memory: GuestMemory) -> Guest {
        let agreed = front.negotiate(Offer { virtio: wants.features, protocol: wants.protocol }).unwrap();
        assert_eq!(agreed.virtio, wants.features);
        let events = || (0..wants.pairs * 2).map(|_| EventFd::create().unwrap()).collect::<Vec<_>>();
        Guest { front, memory, wants, kicks: events(), calls: events(), serial: 0 }
    }

    /// Does what a front-end does when its driver is ready.
    pub fn start(&mut self) {
        let fd = self.memory.fd();
        self.front.set_mem_table(&[(self.memory.region(), fd.as_fd())]).unwrap();
        for index in 0..self.wants.pairs * 2 {
            let base = if self.wants.features & feature::RING_PACKED != 0 { 0x8000 } else { 0 };
            self.start_vring(index, base);
        }
    }

    pub fn start_vring(&mut self, index: usize, base: u32) {
        let n = index as u32;
        self.front.set_vring_call(index as u8, Some(self.calls[index].as_fd())).unwrap();
        self.front.set_vring_num(n, self.wants.size.into()).unwrap();
        self.front.set_vring_base(n, base).unwrap();
        self.front.set_vring_addr(self.memory.vring_addr(index, false)).unwrap();
        self.front.set_vring_kick(index as u8, Some(self.kicks[index].as_fd())).unwrap();
        self.front.enable_vring(n).unwrap();
    }

    /// Stops all rings and returns where they stood.
    pub fn stop(&mut self) -> Vec<u32> {
        (0..self.wants.pairs as u32 * 2).map(|index| self.front.vring_base(index).unwrap()).collect()
    }

    /// Sends `count` frames on each pair through the echoing port and expects each back once, in order.
    pub fn ping(&mut self, port: &Port, count: u32) {
        self.ping_with(count, || {
            port.echo();
        });
    }

    pub fn ping_with(&mut self, count: u32, mut turn: impl FnMut()) {
        for pair in 0..self.wants.pairs {
            let mut expected = vec![];
            for _ in 0..count {
                self.serial += 1;
                let mut frame = vec![pair as u8; 60 + (self.serial % 1000) as usize];
                frame[14..18].copy_from_slice(&self.serial.to_le_bytes());
                let deadline = Instant::now() + Duration::from_secs(10);
                while !self.memory.send(pair, self.serial % u32::from(self.wants.size), &frame) {
                    turn();
                    self.memory.reap(pair);
                    assert!(Instant::now() < deadline, "the ring stays full");
                }
                expected.push(frame);
                let mut got = vec![];
                while got.is_empty() {
                    turn();
                    got = self.memory.receive(pair);
                    assert!(Instant::now() < deadline, "frame {} of pair {pair} is lost", self.serial);
                }
                assert_eq!(got, [expected.pop().unwrap()]);
                while self.memory.reap(pair) > 0 {
                    turn();
                }
            }
        }
    }
}

pub fn running(state: &PortState) -> bool {
    state.phase == Phase::Running
}

pub fn waiting(state: &PortState) -> bool {
    state.phase == Phase::Waiting
}

/// Descriptors open in this process.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Mappings of this process that belong to a guest's memory or an in-flight record.
pub fn guest_mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:test-guest") || line.contains("ringway-inflight")).count()
}
