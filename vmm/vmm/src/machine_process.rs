//! The life of a machine's process.

use std::fs::File;
use std::mem::offset_of;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devices::EventFd;
use devices::pci::Bus;
use devices::serial::Serial;
use devices::virtio::net::tap::{Place, TapDevice, TapNet};
use devices::virtio::net::vhost_net::VhostNet;
use devices::virtio::net::vhost_user::{Options, VhostUserNet};
use devices::virtio::{Device, Memory, Notifier, Transport, net};
use kvm::Hypervisor;
use machine::boot::{self, Boot};
use machine::layout;
use machine::memory::{self, Pages};
use micro_guest::mailbox::{self, Mailbox};
use sandbox::{Capabilities, Role};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryRegion,
};
use vmm_config::{Kernel, MemorySize, NetBackend, Vm};

use crate::board::{self, Board};
use crate::console::Console;
use crate::control;
use crate::exits::{self, Exits, VcpuExits};
use crate::life::{End, EndKind};
use crate::platform::KvmPlatform;
use crate::protocol::{Answer, GuestCounts, Request, State, Status};
use crate::vcpu::Vcpus;

/// What reaches the main thread.
pub enum Event {
    /// The guest has powered off.
    PowerOff,
    /// The guest wants to start anew.
    Reset,
    /// The guest has ended with a code.
    Exit(u8),
    /// The guest has failed for good.
    GuestCrashed(String),
    /// The switch was reached by every device that needs it.
    Reached,
    /// Somebody asks.
    Asked(Request, SyncSender<Answer>),
    /// Somebody types.
    Typed(Vec<u8>),
    /// The process was told to end.
    Terminate,
}

/// An event of a machine's n-th life, counted from 1; 0: of none in particular.
pub type Tagged = (u64, Event);

/// How long a guest that was asked to power off may take: the micro-guest, and others.
const PATIENCE_BUILTIN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces of memory that can be added: each is a region that the switch maps, too.
const ADDED_MAX: usize = 16;

/// Says what is in the way of starting this machine here, without starting it.
///
/// # Errors
/// Something is missing; the message says what to do.
pub fn check(config: &Vm) -> anyhow::Result<()> {
    let hypervisor = Hypervisor::open()?;
    ensure!(
        config.cpus.get() as usize <= hypervisor.max_vcpus(),
        "{} processors are more than the {} this hypervisor allows",
        config.cpus.get(),
        hypervisor.max_vcpus()
    );
    let readable = |what: &str, path: &std::path::Path| {
        File::open(path).map(drop).with_context(|| format!("{what} {} can't be read", path.display()))
    };
    if let Kernel::File(path) = &config.kernel {
        readable("kernel", path)?;
    }
    if let Some(path) = &config.initrd {
        readable("initial file system", path)?;
    }
    for net in &config.net {
        let device = |path: &str, remedy: &str| {
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .map(drop)
                .with_context(|| format!("network device {} can't open {path}: {remedy}", net.port))
        };
        if !net.backend.is_switch() {
            device("/dev/net/tun", "load the kernel module tun, or give the container the device")?;
        }
        if net.backend == NetBackend::VhostNet {
            device("/dev/vhost-net", "load the kernel module vhost_net, or choose another back-end")?;
        }
    }
    ensure_available(config, config.memory)
}

/// # Errors
/// There isn't so much memory to be had.
fn ensure_available(config: &Vm, size: MemorySize) -> anyhow::Result<()> {
    let available = available_memory();
    ensure!(
        config.huge_pages || available.is_none_or(|available| size.bytes() <= available),
        "{size} of memory is more than this host has free ({} MiB)",
        available.unwrap_or(0) >> 20
    );
    Ok(())
}

fn pages(config: &Vm) -> Pages {
    if config.huge_pages { Pages::Huge } else { Pages::Small }
}

/// The TAP devices of a machine, in the order of its network devices.
fn open_taps(config: &Vm) -> anyhow::Result<Vec<Option<Arc<TapDevice>>>> {
    let open = |net: &vmm_config::Net| match net.backend.is_switch() {
        true => Ok(None),
        false => Ok(Some(Arc::new(TapDevice::open(&net.port)?))),
    };
    config.net.iter().map(open).collect()
}

/// Memory that can be had without swapping (`MemAvailable`).
fn available_memory() -> Option<u64> {
    kib_of("/proc/meminfo", "MemAvailable:").map(|kib| kib << 10)
}

fn kib_of(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// Gives up what the process won't need again, now that what takes a privilege is open. Threads that it starts give up
/// more: processors and devices.
fn give_up() {
    if let Err(error) = sandbox::report_violations() {
        tracing::warn!("sandbox: {error}");
    }
    match sandbox::enter(Role::Machine, Capabilities::NONE) {
        Ok(given_up) => tracing::info!("sandbox: {given_up}"),
        Err(error) => tracing::warn!("sandbox: the machine keeps its privileges: {error}"),
    }
}

/// Becomes the machine. Returns when it has ended; why, is in the result.
pub fn run(config: Vm) -> End {
    let started = Instant::now();
    let result = Process::new(config, started).and_then(|mut process| process.live());
    result.unwrap_or_else(|error| End::new(EndKind::Failed, format!("{error:#}")))
}

struct Process {
    config: Vm,
    hypervisor: Hypervisor,
    console: Console,
    events: Sender<Tagged>,
    inbox: Receiver<Tagged>,
    /// For each network device whose other end is a TAP device. They outlive resets, because opening takes privileges.
    taps: Vec<Option<Arc<TapDevice>>>,
    /// Bytes of memory that were added, piece by piece.
    added: Vec<u64>,
    /// None only between two lives.
    machine: Option<Machine>,
    /// Counts lives: a reset begins the next.
    generation: u64,
    state: State,
    /// When the guest is not waited for any longer.
    deadline: Option<Instant>,
    stop_reason: String,
    waiting: Vec<SyncSender<Answer>>,
    started: Instant,
    /// When the present life began.
    life_began: Instant,
    start_us: Option<u64>,
    _socket: control::SocketFile,
}

impl Process {
    fn new(config: Vm, started: Instant) -> anyhow::Result<Process> {
        check(&config)?;
        let hypervisor = Hypervisor::open()?;
        let (events, inbox) = channel();
        let record = match &config.log {
            Some(path) => Some(
                File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| format!("log {}", path.display()))?,
            ),
            None => None,
        };
        let console = Console::new(record);
        let (listener, socket) = control::bind(&config.control)
            .with_context(|| format!("control socket {}", config.control.display()))?;
        let taps = open_taps(&config)?;
        // Before any thread is started: each begins with what its parent has left.
        give_up();
        control::serve(listener, &console, &events)?;
        watch_signals(&events)?;
        let mut this = Process {
            taps,
            config,
            hypervisor,
            console,
            events,
            inbox,
            added: Vec::new(),
            machine: None,
            generation: 1,
            state: State::WaitingForSwitch,
            deadline: None,
            stop_reason: String::new(),
            waiting: Vec::new(),
            started,
            life_began: started,
            start_us: None,
            _socket: socket,
        };
        this.machine = Some(Machine::new(&this)?);
        Ok(this)
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("there is one but between two lives")
    }

    fn live(&mut self) -> anyhow::Result<End> {
        loop {
            let event = match self.deadline {
                None => self.inbox.recv().expect("this thread holds a sender, too"),
                Some(deadline) => {
                    match self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                        Ok(event) => event,
                        Err(RecvTimeoutError::Timeout) => {
                            let why = format!("{}; the guest did not power off in time", self.stop_reason);
                            return Ok(self.finish(End::new(EndKind::Stopped, why)));
                        }
                        Err(RecvTimeoutError::Disconnected) => {
                            unreachable!("this thread holds a sender, too")
                        }
                    }
                }
            };
            let (generation, event) = event;
            if generation != 0 && generation != self.generation {
                continue;
            }
            if let Some(end) = self.handle(event)? {
                return Ok(self.finish(end));
            }
        }
    }

    fn finish(&mut self, mut end: End) -> End {
        self.state = State::Ending;
        end.guest = self.machine.as_mut().and_then(|machine| {
            machine.vcpus.end();
            machine.guest_counts()
        });
        for waiting in self.waiting.drain(..) {
            // Who doesn't wait any more needn't know.
            let _ = waiting.send(Answer::Ended(end.clone()));
        }
        tracing::info!("{end}");
        end
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<Option<End>> {
        Ok(match event {
            // Asked to stop, the micro-guest reports its end, and another one powers off: both are what was wanted.
            Event::PowerOff if self.deadline.is_some() => Some(self.stopped()),
            Event::Exit(0) if self.deadline.is_some() => Some(self.stopped()),
            Event::PowerOff => Some(End::new(EndKind::PowerOff, "")),
            Event::Exit(code) => Some(End::new(EndKind::Exit(code), "")),
            Event::GuestCrashed(why) => Some(End::new(EndKind::Crashed, why)),
            Event::Reset if self.deadline.is_some() => Some(self.stopped()),
            Event::Reset => {
                self.reset()?;
                None
            }
            Event::Reached => {
                if self.state == State::WaitingForSwitch {
                    self.machine().vcpus.resume();
                    self.state = State::Running;
                    self.start_us = Some(self.life_began.elapsed().as_micros() as u64);
                    sandbox::release_program_pages();
                }
                None
            }
            Event::Typed(text) => {
                self.machine().board.type_in(&text);
                None
            }
            Event::Terminate => self.stop("told to end by a signal"),
            Event::Asked(request, reply) => self.answer(request, reply)?,
        })
    }

    fn stopped(&self) -> End {
        End::new(EndKind::Stopped, self.stop_reason.clone())
    }

    /// Asks the guest to end; ends at once where there is nobody to ask.
    fn stop(&mut self, why: &str) -> Option<End> {
        why.clone_into(&mut self.stop_reason);
        if self.state != State::Running || self.deadline.is_some() {
            return Some(self.stopped());
        }
        let patience = match self.config.kernel {
            Kernel::Builtin(_) => {
                self.machine().finish_micro_guest();
                PATIENCE_BUILTIN
            }
            Kernel::File(_) => {
                self.machine().board.press_power_button();
                PATIENCE
            }
        };
        self.deadline = Some(Instant::now() + patience);
        None
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        // Before the next is made: devices of the host have one user.
        self.machine = None;
        self.generation += 1;
        (self.state, self.life_began) = (State::WaitingForSwitch, Instant::now());
        self.start_us = None;
        // All of it anew: what a guest left behind in registers, memory and devices is gone for certain.
        self.machine = Some(Machine::new(self)?);
        Ok(())
    }

    /// Gives the guest more memory, behind all it has. The switch learns of it before the guest.
    fn add_memory(&mut self, size: MemorySize) -> anyhow::Result<()> {
        ensure!(self.added.len() < ADDED_MAX, "memory was added {ADDED_MAX} times, which is the most");
        ensure_available(&self.config, size)?;
        self.machine().add_memory(size.bytes(), pages(&self.config))?;
        self.added.push(size.bytes());
        Ok(())
    }

    fn answer(&mut self, request: Request, reply: SyncSender<Answer>) -> anyhow::Result<Option<End>> {
        let mut end = None;
        let answer = match request {
            Request::Show => Answer::Status(Box::new(self.status())),
            Request::Pause => match self.state {
                State::Running => {
                    self.machine().vcpus.pause();
                    self.state = State::Paused;
                    Answer::Done
                }
                state => Answer::Refused(format!("it is {}", state.name())),
            },
            Request::Resume => match self.state {
                State::Paused => {
                    self.machine().vcpus.resume();
                    self.state = State::Running;
                    Answer::Done
                }
                state => Answer::Refused(format!("it is {}", state.name())),
            },
            Request::Stop { force } => {
                if force {
                    end = Some(End::new(EndKind::Stopped, "at once, as asked"));
                } else {
                    end = self.stop("as asked");
                }
                Answer::Done
            }
            Request::Reset => {
                self.reset()?;
                Answer::Done
            }
            Request::Exits { reset } => {
                let exits = self.exits();
                if reset {
                    self.machine().vcpus.exits.iter().for_each(Exits::clear);
                }
                Answer::Exits(exits)
            }
            Request::Metrics => Answer::Metrics(exits::metrics(self.config.name.as_str(), &self.exits())),
            Request::AddMemory { size } => match self.add_memory(size) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Refused(format!("{error:#}")),
            },
            Request::Wait => {
                self.waiting.push(reply);
                return Ok(None);
            }
            Request::Console => Answer::Refused("this connection can't become a console".into()),
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
        Ok(end)
    }

    fn exits(&self) -> Vec<VcpuExits> {
        (0..).zip(&self.machine().vcpus.exits).map(|(vcpu, exits)| exits.read(vcpu)).collect()
    }

    fn status(&self) -> Status {
        let rss = |key| kib_of("/proc/self/status", key).unwrap_or(0) << 10;
        Status {
            name: self.config.name.to_string(),
            state: self.state,
            pid: std::process::id(),
            kernel: self.config.kernel.to_string(),
            cpus: self.config.cpus.get(),
            memory_bytes: memory::bytes(&self.machine().memory.memory()),
            // Guest memory is shared memory, which is counted apart.
            overhead_bytes: rss("RssAnon:") + rss("RssFile:"),
            uptime_us: self.started.elapsed().as_micros() as u64,
            resets: self.generation - 1,
            start_us: self.start_us,
            ports: self.config.net.iter().map(|net| net.port.clone()).collect(),
            guest: self.machine().guest_counts(),
        }
    }
}

fn watch_signals(events: &Sender<Tagged>) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let events = events.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // A terminal that goes away is nothing to a machine.
            if signal != SIGHUP && events.send((0, Event::Terminate)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// One life of the machine, from power-on to the next reset.
struct Machine {
    // The processors end first: they use all the others.
    vcpus: Vcpus,
    board: Arc<Board>,
    memory: Memory,
    vm: Arc<kvm::Vm>,
    is_micro_guest: bool,
}

impl Machine {
    fn new(process: &Process) -> anyhow::Result<Machine> {
        let Process { config, hypervisor, console, events, generation, .. } = process;
        let mut memory = memory::create(config.memory.bytes(), pages(config))?;
        for &bytes in &process.added {
            memory = memory::grow(&memory, bytes, pages(config))?;
        }
        let shared: Memory = GuestMemoryAtomic::new(memory.clone());
        // They look for the switch while the rest of the machine is made.
        let backends = backends(process, &shared)?;
        let vm = hypervisor.create_vm(&memory)?;
        let vcpus = machine::create_processors(&vm, config.cpus.get())?;
        let platform = Arc::new(KvmPlatform(vm.clone()));

        let line = |number| -> anyhow::Result<EventFd> {
            use std::os::fd::AsFd;
            let event = EventFd::create()?;
            vm.attach_line(number, event.as_fd())?;
            Ok(event)
        };
        let serial = Serial::new(line(layout::SERIAL_LINE)?, Box::new(console.clone()));
        let event_line = line(layout::EVENT_LINE)?;

        let mut bus = Bus::default();
        let mut window = layout::PCI_WINDOW;
        for (backend, notifier) in backends {
            let transport = Transport::new(
                backend,
                notifier,
                platform.clone(),
                shared.clone(),
                bus.next_number(),
                window,
            )?;
            window += Transport::WINDOW_BYTES;
            bus.add(Arc::new(Mutex::new(transport)))?;
        }
        let board = Board::new(serial, bus, event_line);

        let boot = Boot {
            kernel: match &config.kernel {
                Kernel::File(path) => boot::Kernel::File(path.clone()),
                Kernel::Builtin(_) => boot::Kernel::Builtin(micro_guest::IMAGE),
            },
            initrd: config.initrd.clone(),
            command_line: command_line(config, vcpus[0].tick_khz()?),
            cpus: config.cpus.get(),
        };
        let entry = boot::load(&memory, &boot)?;
        vcpus[0].set_entry(&entry)?;
        let vcpus = Vcpus::start(vcpus, &config.pins, &board, events, *generation)?;
        let is_micro_guest = matches!(config.kernel, Kernel::Builtin(_));
        Ok(Machine { vcpus, board, memory: shared, vm, is_micro_guest })
    }

    fn add_memory(&self, bytes: u64, pages: Pages) -> anyhow::Result<()> {
        let grown = memory::grow(&self.memory.memory(), bytes, pages)?;
        let start = grown.iter().last().context("memory has regions")?.start_addr().0;
        self.vm.map_memory(&grown)?;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(grown);
        self.board.pci.memory_grown();
        let tell = |offset: usize, value: u64| {
            let at = GuestAddress(layout::MAILBOX + offset as u64);
            // The page is there: the machine has more memory than that.
            let _ = self.memory.memory().store(value, at, Ordering::Release);
        };
        if self.is_micro_guest {
            tell(offset_of!(Mailbox, added), start);
            tell(offset_of!(Mailbox, added_bytes), bytes);
        }
        Ok(())
    }

    fn finish_micro_guest(&self) {
        let at = GuestAddress(layout::MAILBOX + offset_of!(Mailbox, request) as u64);
        // The page is there: the machine has more memory than that.
        let _ = self.memory.memory().store(mailbox::FINISH, at, Ordering::Release);
    }

    fn guest_counts(&self) -> Option<GuestCounts> {
        let memory = self.memory.memory();
        let word = |offset: usize| {
            let at = GuestAddress(layout::MAILBOX + offset as u64);
            memory.load::<u64>(at, Ordering::Relaxed).unwrap_or(0)
        };
        let magic = word(offset_of!(Mailbox, magic)) as u32;
        (self.is_micro_guest && magic == mailbox::MAGIC).then(|| GuestCounts {
            sent: word(offset_of!(Mailbox, sent)),
            received: word(offset_of!(Mailbox, received)),
            lost: word(offset_of!(Mailbox, lost)),
            disordered: word(offset_of!(Mailbox, disordered)),
            foreign: word(offset_of!(Mailbox, foreign)),
            turns: word(offset_of!(Mailbox, turns)),
            kicks: word(offset_of!(Mailbox, kicks)),
            moved: word(offset_of!(Mailbox, moved)),
        })
    }
}

/// The devices of a machine, each with what tells its guest of changes. When every one that needs the switch has found it,
/// [`Event::Reached`] is sent.
fn backends(process: &Process, memory: &Memory) -> anyhow::Result<Vec<(Box<dyn Device>, Notifier)>> {
    let Process { config, events, generation, .. } = process;
    let on_switch = config.net.iter().filter(|device| device.backend.is_switch()).count();
    let sought = Arc::new(AtomicUsize::new(on_switch));
    if on_switch == 0 {
        // This thread holds the other end.
        let _ = events.send((*generation, Event::Reached));
    }
    let mut backends: Vec<(Box<dyn Device>, Notifier)> = Vec::new();
    for (device, tap) in config.net.iter().zip(&process.taps) {
        let notifier = Notifier::default();
        let told = net::Config { mac: device.mac, mtu: device.mtu, pairs: device.queues };
        let queue_size = device.queue_size;
        let tap = || tap.clone().expect("opened for these back-ends");
        let tap_net = |place| TapNet::new(told, queue_size, place, tap(), notifier.clone());
        let backend: Box<dyn Device> = match &device.backend {
            NetBackend::VhostUser { socket } => {
                let options = Options { config: told, socket: socket.clone(), queue_size };
                let (events, generation, sought) = (events.clone(), *generation, sought.clone());
                let reached = move || {
                    if sought.fetch_sub(1, Ordering::AcqRel) == 1 {
                        // The main thread is gone only when the process ends.
                        let _ = events.send((generation, Event::Reached));
                    }
                };
                Box::new(VhostUserNet::new(options, notifier.clone(), reached)?)
            }
            NetBackend::TapInline => Box::new(tap_net(Place::Inline)?),
            NetBackend::TapIothread => Box::new(tap_net(Place::OwnThread)?),
            NetBackend::VhostNet => {
                Box::new(VhostNet::new(told, queue_size, tap(), memory, notifier.clone())?)
            }
        };
        backends.push((backend, notifier));
    }
    Ok(backends)
}

/// The guest's command line: what the user says, and for the micro-guest what it can't find out.
fn command_line(config: &Vm, tick_khz: u32) -> String {
    match config.kernel {
        Kernel::File(_) => config.command_line.clone(),
        Kernel::Builtin(mode) => {
            let (start, bytes) = layout::ram(config.memory.bytes())[0];
            format!(
                "{} mode={} ecam={:#x} mailbox={:#x} memory={:#x} tick_khz={tick_khz} {}",
                config.command_line,
                mode.word(),
                layout::ECAM,
                layout::MAILBOX,
                start + bytes,
                board::micro_guest_words(),
            )
        }
    }
}
