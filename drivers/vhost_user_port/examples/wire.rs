//! Two vhost-user ports joined by a wire: what comes in at one goes out at the other. For trying front-ends.
//!
//! `wire [--client] SOCKET0 SOCKET1 [SECONDS]`
//!
//! One thread polls all queues, the main thread serves the sockets and prints what has passed, once a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use packet::Burst;
use port::{DropReason, PortCounters, QueueFault, Received, RxQueue, Selection, TxQueue};
use tokio::sync::mpsc;
use vhost_user_port::{
    Direction, PortConfig, PortSocket, PortState, QueueHost, Session, SocketMode, control, serve,
};

/// The queues of one port, by pair.
#[derive(Default)]
struct Queues {
    rx: Vec<Option<Box<dyn RxQueue>>>,
    tx: Vec<Option<Box<dyn TxQueue>>>,
}

/// Both ports' queues. The lock is held for a turn of the poll loop, so a queue changes hands between bursts.
#[derive(Default)]
struct Wire {
    ends: [Queues; 2],
}

struct Fault {
    port: usize,
    pair: u16,
    direction: Direction,
    fault: QueueFault,
}

struct Host {
    port: usize,
    wire: Arc<Mutex<Wire>>,
    state: Rc<RefCell<PortState>>,
}

impl Host {
    fn with<R>(&self, f: impl FnOnce(&mut Queues) -> R) -> R {
        f(&mut self.wire.lock().expect("the poll thread doesn't panic").ends[self.port])
    }
}

fn put<Q: ?Sized>(queues: &mut Vec<Option<Box<Q>>>, pair: u16, queue: Box<Q>) {
    let pair = usize::from(pair);
    if queues.len() <= pair {
        queues.resize_with(pair + 1, || None);
    }
    queues[pair] = Some(queue);
}

impl QueueHost for Host {
    fn attach_rx(&mut self, pair: u16, queue: Box<dyn RxQueue>) {
        self.with(|q| put(&mut q.rx, pair, queue));
    }

    fn detach_rx(&mut self, pair: u16) -> Option<Box<dyn RxQueue>> {
        self.with(|q| q.rx.get_mut(usize::from(pair))?.take())
    }

    fn attach_tx(&mut self, pair: u16, queue: Box<dyn TxQueue>) {
        self.with(|q| put(&mut q.tx, pair, queue));
    }

    fn detach_tx(&mut self, pair: u16) -> Option<Box<dyn TxQueue>> {
        self.with(|q| q.tx.get_mut(usize::from(pair))?.take())
    }

    fn state_changed(&mut self, state: PortState) {
        println!(
            "port {}: {:?}, {} pairs, {} regions, {:?} {:?}{}",
            self.port,
            state.phase,
            state.queue_pairs,
            state.memory_regions,
            state.features,
            state.protocol,
            state.last_error.as_ref().map(|e| format!(", last: {e}")).unwrap_or_default(),
        );
        *self.state.borrow_mut() = state;
    }

    fn announce(&mut self, mac: [u8; 6]) {
        println!("port {}: announce {mac:02x?}", self.port);
    }
}

fn poll(
    wire: &Mutex<Wire>,
    counters: &[PortCounters; 2],
    stop: &AtomicBool,
    faults: &mpsc::UnboundedSender<Fault>,
) {
    let mut burst = Burst::new();
    let all: Vec<u8> = (0..packet::BURST_MAX as u8).collect();
    while !stop.load(Ordering::Relaxed) {
        let mut wire = wire.lock().expect("the control thread doesn't panic");
        let [a, b] = &mut wire.ends;
        turn(0, a, b, &mut burst, &all, counters, faults);
        turn(1, b, a, &mut burst, &all, counters, faults);
        drop(wire);
        std::hint::spin_loop();
    }
}

fn turn(
    port: usize,
    from: &mut Queues,
    to: &mut Queues,
    burst: &mut Burst,
    all: &[u8],
    counters: &[PortCounters; 2],
    faults: &mpsc::UnboundedSender<Fault>,
) {
    let report = |port, pair, direction, fault| {
        // The receiver lives as long as the program.
        let _ = faults.send(Fault { port, pair, direction, fault });
    };
    for pair in 0..from.rx.len() {
        let Some(rx) = &mut from.rx[pair] else { continue };
        let mut received = match Received::poll(&mut **rx, burst, &counters[port]) {
            Ok(received) => received,
            Err(fault) => {
                report(port, pair as u16, Direction::Rx, fault);
                continue;
            }
        };
        let burst = received.burst();
        let count = burst.len();
        if count == 0 {
            continue;
        }
        let targets = to.tx.iter().filter(|q| q.is_some()).count();
        let Some(target) = pair.checked_rem(targets) else {
            counters[1 - port].dropped(DropReason::PortDown, count as u64);
            continue;
        };
        let (out, tx) = to
            .tx
            .iter_mut()
            .enumerate()
            .filter_map(|(i, q)| Some((i, q.as_mut()?)))
            .nth(target)
            .expect("counted");
        let sent = tx
            .transmit(Selection { burst, which: &all[..count] }, &counters[1 - port])
            .and_then(|()| tx.flush(&counters[1 - port]));
        if let Err(fault) = sent {
            report(1 - port, out as u16, Direction::Tx, fault);
        }
    }
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mode = if args.first().is_some_and(|a| a == "--client") {
        args.remove(0);
        SocketMode::Client
    } else {
        SocketMode::Server
    };
    let [first, second, rest @ ..] = &args[..] else {
        eprintln!("usage: wire [--client] SOCKET0 SOCKET1 [SECONDS]");
        std::process::exit(2);
    };
    let seconds: u64 = rest.first().map_or(u64::MAX, |s| s.parse().expect("a number of seconds"));

    let wire = Arc::new(Mutex::new(Wire::default()));
    let counters: Arc<[PortCounters; 2]> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (faults, mut reports) = mpsc::unbounded_channel();
    let poller = {
        let (wire, counters, stop) = (Arc::clone(&wire), Arc::clone(&counters), Arc::clone(&stop));
        std::thread::spawn(move || poll(&wire, &counters, &stop, &faults))
    };

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut controls = vec![];
        let mut tasks = vec![];
        for (port, path) in [first, second].into_iter().enumerate() {
            let socket = PortSocket { path: path.into(), mode, permissions: None, owner: None };
            let session = Session::new(format!("port{port}"), PortConfig::default());
            let host = Host { port, wire: Arc::clone(&wire), state: Rc::default() };
            let (handle, commands) = control();
            controls.push(handle);
            let sockets = socket.listen().expect("a socket to listen at");
            tasks.push(tokio::task::spawn_local(serve(socket, session, host, commands, sockets)));
        }
        // Made once: an interrupt between two turns of the loop must not be missed.
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut last = [0; 2];
        let mut left = seconds;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    for (port, c) in counters.iter().enumerate() {
                        let rx = c.rx_frames.get();
                        let drops: Vec<_> = DropReason::ALL.iter().filter(|&&r| c.drops(r) > 0)
                            .map(|&r| format!("{} {}", r.name(), c.drops(r))).collect();
                        println!("port {port}: rx {rx} (+{}) tx {} calls {} kicks {} drops {drops:?}",
                            rx - last[port], c.tx_frames.get(), c.calls.get(), c.kicks.get());
                        last[port] = rx;
                    }
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                }
                Some(Fault { port, pair, direction, fault }) = reports.recv() => {
                    controls[port].queue_fault(pair, direction, fault);
                }
                _ = &mut interrupted => break,
            }
        }
        for handle in controls {
            handle.stop();
        }
        for task in tasks {
            match task.await.expect("serving doesn't panic") {
                Ok(_) => {}
                Err(error) => eprintln!("{error}"),
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    poller.join().expect("the poll thread doesn't panic");
}
