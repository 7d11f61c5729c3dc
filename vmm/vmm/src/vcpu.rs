//! A processor's thread: runs the guest, serves its exits, stops when told.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm::{Exit, KvmError, Vcpu};
use sandbox::{Capabilities, Role};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::board::{Board, Effect};
use crate::exits::{ExitKind, ExitTable, Exits};
use crate::machine_process::{Event, Tagged};

/// What processors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Stand still, in this process.
    Pause,
    /// Run the guest.
    Run,
    /// End the thread.
    End,
}

/// The order in force, for all processors of a machine.
#[derive(Debug)]
pub struct Orders {
    order: AtomicU8,
    /// Processors that stand still.
    standing: AtomicU32,
    changed: Condvar,
    guard: Mutex<()>,
}

impl Orders {
    pub fn new() -> Arc<Orders> {
        Arc::new(Orders {
            order: AtomicU8::new(Order::Pause as u8),
            standing: AtomicU32::new(0),
            changed: Condvar::new(),
            guard: Mutex::new(()),
        })
    }

    fn is(&self, order: Order) -> bool {
        self.order.load(Ordering::Acquire) == order as u8
    }

    fn set(&self, order: Order) {
        let _guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        self.order.store(order as u8, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits while the order is to pause; false when it is to end.
    fn obey(&self) -> bool {
        if self.is(Order::Pause) {
            let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
            self.standing.fetch_add(1, Ordering::AcqRel);
            let guard = self.changed.wait_while(guard, |()| self.is(Order::Pause));
            self.standing.fetch_sub(1, Ordering::AcqRel);
            drop(guard);
        }
        !self.is(Order::End)
    }
}

/// All processors of a machine.
pub struct Vcpus {
    threads: Vec<JoinHandle<()>>,
    orders: Arc<Orders>,
    /// One for each processor.
    pub exits: Vec<Exits>,
}

/// Lets a blocked `KVM_RUN` return: its interruption is the purpose.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Vcpus {
    /// Makes a thread for each processor; they stand still until [`resume`](Self::resume).
    ///
    /// # Errors
    /// No threads.
    pub fn start(
        vcpus: Vec<Vcpu>,
        pins: &[u32],
        board: &Arc<Board>,
        events: &Sender<Tagged>,
        generation: u64,
    ) -> io::Result<Vcpus> {
        register_signal_handler(SIGRTMIN(), on_kick).map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        let orders = Orders::new();
        let mut threads = Vec::new();
        let mut exits = Vec::new();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let table = Arc::new(ExitTable::default());
            exits.push(Exits::new(table.clone(), &vcpu));
            let pin = (!pins.is_empty()).then(|| pins[index % pins.len()]);
            let (board, events, orders) = (board.clone(), events.clone(), orders.clone());
            let thread = std::thread::Builder::new().name(format!("vcpu-{index}")).spawn(move || {
                if let Some(pin) = pin {
                    pin_to(pin);
                }
                if let Err(error) = sandbox::enter(Role::Vcpu, Capabilities::NONE) {
                    tracing::warn!(%error, "a processor's thread keeps its privileges");
                }
                if let Some(end) = run(vcpu, &board, &orders, &table) {
                    // The main thread is gone only when the process ends.
                    let _ = events.send((generation, end));
                }
            })?;
            threads.push(thread);
        }
        Ok(Vcpus { threads, orders, exits })
    }

    /// Lets the guest run.
    pub fn resume(&self) {
        self.orders.set(Order::Run);
    }

    /// Stops the guest where it is. Returns when all processors stand still.
    pub fn pause(&self) {
        self.orders.set(Order::Pause);
        let standing = || {
            let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
            self.orders.standing.load(Ordering::Acquire) as usize + ended >= self.threads.len()
        };
        self.kick_until(standing);
    }

    /// Ends the threads.
    pub fn end(&mut self) {
        self.orders.set(Order::End);
        self.kick_until(|| self.threads.iter().all(JoinHandle::is_finished));
        for thread in self.threads.drain(..) {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }

    /// Interrupts the processors until `done`. More than once, because a signal may come between a processor's look
    /// at its orders and its way into the guest.
    fn kick_until(&self, done: impl Fn() -> bool) {
        while !done() {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                let _ = thread.kill(SIGRTMIN());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.end();
    }
}

/// Pins the calling thread, or says that it can't be.
pub fn pin_to(cpu: u32) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu as usize);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "a thread of the machine can't be pinned");
    }
}

/// Runs a processor until its machine ends; `None` when it was told to.
fn run(mut vcpu: Vcpu, board: &Board, orders: &Orders, exits: &ExitTable) -> Option<Event> {
    let mut last = Instant::now();
    let mut elapsed = || {
        let now = Instant::now();
        let ns = now.duration_since(last).as_nanos() as u64;
        last = now;
        ns
    };
    loop {
        if !orders.obey() {
            return None;
        }
        elapsed();
        let exit = vcpu.run();
        exits.add(ExitKind::Guest, elapsed());
        let (kind, effect) = match exit {
            Ok(exit) => match serve(exit, board) {
                Served::On(kind, effect) => (kind, effect),
                Served::Crash(why) => return Some(Event::GuestCrashed(describe(&vcpu, &why))),
                Served::End(event) => return Some(event),
            },
            Err(KvmError { call, source }) => {
                return Some(Event::GuestCrashed(describe(&vcpu, &format!("{call}: {source}"))));
            }
        };
        exits.add(kind, elapsed());
        match effect {
            Effect::None => {}
            #[cfg(target_arch = "x86_64")]
            Effect::PowerOff => return Some(Event::PowerOff),
            #[cfg(target_arch = "x86_64")]
            Effect::Reset => return Some(Event::Reset),
            Effect::Exit(code) => return Some(Event::Exit(code)),
        }
    }
}

enum Served {
    On(ExitKind, Effect),
    Crash(String),
    End(Event),
}

fn serve(exit: Exit<'_>, board: &Board) -> Served {
    let on = |kind| Served::On(kind, Effect::None);
    match exit {
        #[cfg(target_arch = "x86_64")]
        Exit::PortRead { port, data } => {
            board.read_port(port, data);
            on(ExitKind::PortRead)
        }
        #[cfg(target_arch = "x86_64")]
        Exit::PortWrite { port, data } => Served::On(ExitKind::PortWrite, board.write_port(port, data)),
        Exit::MmioRead { address, data } => {
            board.read_mmio(address, data);
            on(ExitKind::MmioRead)
        }
        Exit::MmioWrite { address, data } => Served::On(ExitKind::MmioWrite, board.write_mmio(address, data)),
        Exit::Halt => on(ExitKind::Halt),
        Exit::Interrupted => on(ExitKind::Interrupted),
        Exit::PowerOff => Served::End(Event::PowerOff),
        Exit::Reset => Served::End(Event::Reset),
        // What a PC does on a triple fault; some kernels reset that way.
        Exit::Shutdown => Served::Crash("triple fault".into()),
        Exit::Crash => Served::Crash("the guest says that it crashed".into()),
        Exit::InternalError { suberror, data } => {
            Served::Crash(format!("KVM can't go on: suberror {suberror}, {data:x?}"))
        }
        Exit::FailedEntry { reason } => {
            Served::Crash(format!("the processor refuses the guest's state: {reason:#x}"))
        }
        Exit::Other(what) => Served::Crash(format!("unexpected exit: {what}")),
    }
}

fn describe(vcpu: &Vcpu, why: &str) -> String {
    match vcpu.position() {
        Ok(position) => format!("{why} (processor {}, {position})", vcpu.index()),
        Err(_) => format!("{why} (processor {})", vcpu.index()),
    }
}
