//! A switch of two ports whose frames go from one to the other, over real sockets, and guests on threads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest_host::{GuestConfig, GuestError, Report, Role, SocketMode, run};
use packet::Burst;
use port::{PortCounters, Received, RxQueue, Selection, TxQueue};
use vhost_user_port::{
    PortConfig, PortControl, PortSocket, PortState, QueueHost, Served, Session, SocketMode as PortMode,
    control, serve,
};

#[derive(Default)]
struct Queues {
    rx: Vec<Option<Box<dyn RxQueue>>>,
    tx: Vec<Option<Box<dyn TxQueue>>>,
}

/// The queues of one port; clones share them.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Queues>>);

fn place<Q: ?Sized>(queues: &mut Vec<Option<Box<Q>>>, pair: u16) -> &mut Option<Box<Q>> {
    if queues.len() <= pair.into() {
        queues.resize_with(usize::from(pair) + 1, || None);
    }
    &mut queues[usize::from(pair)]
}

impl QueueHost for Shared {
    fn attach_rx(&mut self, pair: u16, queue: Box<dyn RxQueue>) {
        *place(&mut self.0.lock().unwrap().rx, pair) = Some(queue);
    }

    fn detach_rx(&mut self, pair: u16) -> Option<Box<dyn RxQueue>> {
        place(&mut self.0.lock().unwrap().rx, pair).take()
    }

    fn attach_tx(&mut self, pair: u16, queue: Box<dyn TxQueue>) {
        *place(&mut self.0.lock().unwrap().tx, pair) = Some(queue);
    }

    fn detach_tx(&mut self, pair: u16) -> Option<Box<dyn TxQueue>> {
        place(&mut self.0.lock().unwrap().tx, pair).take()
    }

    fn state_changed(&mut self, _: PortState) {}

    fn announce(&mut self, _: [u8; 6]) {}
}

struct Port {
    queues: Shared,
    control: PortControl,
    counters: PortCounters,
    thread: Option<JoinHandle<Served>>,
}

impl Port {
    fn serve(path: PathBuf, mode: PortMode) -> Port {
        let queues = Shared::default();
        let (control, commands) = control();
        let host = queues.clone();
        let socket = PortSocket { path, mode, permissions: None, owner: None };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let sockets = socket.listen().unwrap();
            let session = Session::new("port", PortConfig::default());
            runtime.block_on(serve(socket, session, host, commands, sockets)).unwrap()
        });
        Port { queues, control, counters: PortCounters::default(), thread: Some(thread) }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.control.stop();
        let _ = self.thread.take().unwrap().join();
    }
}

/// What the wire between the ports does to a frame, by its number since the start.
pub type Wire = fn(u64) -> Fate;

/// What becomes of a frame.
#[derive(Clone, Copy)]
pub enum Fate {
    Once,
    Never,
    Twice,
}

/// Moves frames between two ports until it is dropped.
pub struct Switch {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    pub fn new(dir: &Path) -> Switch {
        Self::with(dir, PortMode::Server, |_| Fate::Once)
    }

    pub fn with(dir: &Path, mode: PortMode, wire: Wire) -> Switch {
        let ends = Arc::new(AtomicBool::new(false));
        let ports = ["a", "b"].map(|name| Port::serve(dir.join(name), mode));
        let stop = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut burst = Burst::new();
            let mut frames = 0;
            while !stop.load(Ordering::Relaxed) {
                let moved = forward(&ports[0], &ports[1], &mut burst, &mut frames, wire)
                    + forward(&ports[1], &ports[0], &mut burst, &mut frames, wire);
                if moved == 0 {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        Switch { ends, thread: Some(thread) }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Frames wait in the sender's ring while the receiver isn't there.
fn forward(from: &Port, to: &Port, burst: &mut Burst, frames: &mut u64, wire: Wire) -> usize {
    let (mut rx, mut tx) = (from.queues.0.lock().unwrap(), to.queues.0.lock().unwrap());
    let mut moved = 0;
    for (rx, tx) in rx.rx.iter_mut().zip(&mut tx.tx) {
        let (Some(rx), Some(tx)) = (rx, tx) else { continue };
        let mut received = Received::poll(&mut **rx, burst, &from.counters).unwrap();
        let burst = received.burst();
        moved += burst.len();
        let mut which = vec![];
        for i in 0..burst.len() as u8 {
            let copies = match wire(*frames) {
                Fate::Once => 1,
                Fate::Never => 0,
                Fate::Twice => 2,
            };
            which.extend(std::iter::repeat_n(i, copies));
            // Announcements don't count: numbers are those of the guests' real frames.
            *frames += u64::from(!is_announcement(burst, i.into()));
        }
        tx.transmit(Selection { burst, which: &which }, &to.counters).unwrap();
        tx.flush(&to.counters).unwrap();
    }
    moved
}

fn is_announcement(burst: &Burst, i: usize) -> bool {
    let mut kind = [0; 2];
    burst.read(i, 12, &mut kind);
    kind == [0x80, 0x35]
}

/// A guest on a thread of its own.
pub struct Guest {
    stop: Arc<AtomicBool>,
    received: Arc<Mutex<guest_host::Progress>>,
    thread: JoinHandle<Result<Report, GuestError>>,
}

impl Guest {
    pub fn start(config: GuestConfig) -> Guest {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Mutex::new(guest_host::Progress::default()));
        let (its_stop, its_progress) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            run(&config, &its_stop, |p| *its_progress.lock().unwrap() = p.clone())
        });
        Guest { stop, received: progress, thread }
    }

    pub fn progress(&self) -> guest_host::Progress {
        self.received.lock().unwrap().clone()
    }

    /// Waits for progress; fails after half a minute.
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&guest_host::Progress) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so(&self.progress()) {
            assert!(Instant::now() < deadline, "waiting for {what}: {:#?}", self.progress());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it and returns its report.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until it ends by itself.
    pub fn join(self) -> Report {
        self.thread.join().unwrap().unwrap()
    }
}

/// Guest `n` (0 or 1) of the switch in `dir`.
pub fn config(dir: &Path, n: u8, role: Role) -> GuestConfig {
    let socket = dir.join(["a", "b"][usize::from(n)]);
    let mac = [2, 0, 0, 0, 0, n];
    GuestConfig { mac, ..GuestConfig::new(format!("guest{n}"), socket, SocketMode::Client, role) }
}
