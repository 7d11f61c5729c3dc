//! The life of a machine's process.

use std::fs::File;
use std::io::{Read, Seek};
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devices::EventFd;
use devices::pci::Bus;
use devices::serial::Serial;
use devices::virtio::blk::dataplane::DataplaneBlk;
use devices::virtio::blk::inline::InlineBlk;
use devices::virtio::blk::vhost_user::VhostUserBlk;
use devices::virtio::console::Keyboard;
use devices::virtio::net::tap::{Place, TapDevice, TapNet};
use devices::virtio::net::vhost_net::VhostNet;
use devices::virtio::net::vhost_user::{Options, VhostUserNet};
use devices::virtio::{self, Device, Memory, Notifier, blk, mmio, net};
use disk::{Disk, DiskError};
use kvm::Hypervisor;
use machine::boot::{self, Boot, BootFile};
use machine::layout;
use machine::memory::{self, Pages};
use machine::virtio::{SLOT_BYTES, SLOTS_MAX, slots};
use micro_guest::mailbox::{self, Mailbox};
use sandbox::{Capabilities, Role, User};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryRegion,
};
use vmm_config::{DiskBackend, Image, Kernel, MemorySize, NetBackend, Transport, Vm};

use crate::board::{self, Board};
use crate::console::{Console, Consoles, Which};
use crate::control;
use crate::exits::{self, Exits, VcpuExits};
use crate::life::{End, EndKind};
use crate::platform::KvmPlatform;
use crate::protocol::{Answer, GuestCounts, Request, State, Status};
use crate::vcpu::{Vcpus, pin_to};

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
    /// Somebody types at a console.
    Typed(Which, Vec<u8>),
    /// The process was told to end.
    Terminate,
}

/// An event of a machine's n-th life, counted from 1; 0: of none in particular.
pub type Tagged = (u64, Event);

/// A device, and what tells its guest of changes.
type Backend = (Box<dyn Device>, Notifier);

/// How long a guest that was asked to power off may take: the micro-guest, and others.
const PATIENCE_BUILTIN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long those who watch a console may take to hear the end.
const LAST_WORDS: Duration = Duration::from_millis(200);
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
    let devices =
        config.net.len() + config.disks.len() + usize::from(config.virtio_console) + usize::from(config.rng);
    ensure!(
        config.transport == Transport::Pci || devices <= SLOTS_MAX,
        "{devices} virtio devices are more than the {SLOTS_MAX} interrupt lines that a machine has for them: leave some \
         out, or let them be on PCI (transport = \"pci\")"
    );
    let readable = |what: &str, path: &Path| {
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
    for disk in &config.disks {
        match open_image(disk) {
            // By this machine itself, maybe, which a former switch has started.
            Err(error) if matches!(error.downcast_ref(), Some(DiskError::InUse(_))) => {}
            opened => drop(opened?),
        }
    }
    if let Some(group) = &config.cgroup {
        File::options().write(true).open(members_of(group)).map(drop).with_context(|| outside(group))?;
    }
    if let Some(user) = &config.user {
        User::named(user)?;
    }
    if let Some(dir) = &config.chroot {
        ensure!(dir.is_dir(), "chroot: there is no folder {}", dir.display());
    }
    let is_confined = config.user.is_some() || config.chroot.is_some();
    ensure!(
        !is_confined || rustix::process::geteuid().is_root(),
        "`user` and `chroot` are for machines that root starts: run as root, or leave them out"
    );
    ensure_available(config, &ProcFile::open("/proc/meminfo"), config.memory)
}

/// The file by which a process joins a control group (cgroups(7)).
fn members_of(group: &Path) -> PathBuf {
    group.join("cgroup.procs")
}

fn outside(group: &Path) -> String {
    format!(
        "control group {} can't be joined: make it, and let this user write to its cgroup.procs",
        group.display()
    )
}

/// # Errors
/// There isn't so much memory to be had.
fn ensure_available(config: &Vm, meminfo: &ProcFile, size: MemorySize) -> anyhow::Result<()> {
    // Memory that can be had without swapping.
    let available = meminfo.bytes_of("MemAvailable:");
    ensure!(
        config.huge_pages || available.is_none_or(|available| size.bytes() <= available),
        "{size} of memory is more than this host has free ({} MiB)",
        available.unwrap_or(0) >> 20
    );
    Ok(())
}

/// Where the machine's process, when it is confined, finds what is at `path`.
fn inside(config: &Vm, path: &Path) -> PathBuf {
    let below = config.chroot.as_ref().and_then(|dir| path.strip_prefix(dir).ok());
    below.map_or_else(|| path.to_owned(), |below| Path::new("/").join(below))
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

/// A file of the proc file system, which says something else each time it is read. Opened early: later its path may be
/// out of reach.
struct ProcFile(Option<File>);

impl ProcFile {
    fn open(path: &str) -> ProcFile {
        ProcFile(File::open(path).ok())
    }

    /// The number behind `key`, in KiB there.
    fn bytes_of(&self, key: &str) -> Option<u64> {
        let mut file = self.0.as_ref()?;
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
        let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(rest.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }
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
    consoles: Consoles,
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
    /// The disks' images, opened once: a reset doesn't let go of them.
    images: Vec<Option<Arc<Disk>>>,
    /// Opened once, too.
    kernel: boot::Kernel,
    initrd: Option<BootFile>,
    meminfo: ProcFile,
    own_status: ProcFile,
    _socket: control::SocketFile,
}

impl Process {
    fn new(config: Vm, started: Instant) -> anyhow::Result<Process> {
        check(&config)?;
        if let Some(group) = &config.cgroup {
            // First of all: memory counts for the group a process is in when it takes it.
            std::fs::write(members_of(group), std::process::id().to_string())
                .with_context(|| outside(group))?;
        }
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
        let virtio = config.virtio_console.then(Console::default);
        let consoles = Consoles { serial: Console::new(record), virtio };
        let (listener, mut socket) = control::bind(&config.control)
            .with_context(|| format!("control socket {}", config.control.display()))?;
        let taps = open_taps(&config)?;
        let images = config.disks.iter().map(open_image).collect::<anyhow::Result<Vec<_>>>()?;
        let kernel = match &config.kernel {
            Kernel::File(path) => boot::Kernel::File(BootFile::open(path)?),
            Kernel::Builtin(_) => boot::Kernel::Builtin(micro_guest::IMAGE),
        };
        let initrd = config.initrd.as_deref().map(BootFile::open).transpose()?;
        let (meminfo, own_status) = (ProcFile::open("/proc/meminfo"), ProcFile::open("/proc/self/status"));
        let user = config.user.as_deref().map(User::named).transpose()?;
        sandbox::confine(config.chroot.as_deref(), user.as_ref())?;
        socket.is_now_at(inside(&config, &config.control));
        // Before any thread is started: each begins with what its parent has left.
        give_up();
        control::serve(listener, &consoles, &events)?;
        watch_signals(&events)?;
        let mut this = Process {
            taps,
            config,
            hypervisor,
            consoles,
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
            images,
            kernel,
            initrd,
            meminfo,
            own_status,
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
        for console in self.consoles.virtio.iter().chain([&self.consoles.serial]) {
            console.settle(LAST_WORDS);
        }
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
            Event::Typed(which, text) => {
                let machine = self.machine();
                match (which, &machine.keyboard) {
                    (Which::Serial, _) => machine.board.type_in(&text),
                    (Which::Virtio, Some(keyboard)) => keyboard.type_in(&text),
                    (Which::Virtio, None) => {}
                }
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
        ensure_available(&self.config, &self.meminfo, size)?;
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
            Request::Console | Request::VirtioConsole => {
                Answer::Refused("this connection can't become a console".into())
            }
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
        Ok(end)
    }

    fn exits(&self) -> Vec<VcpuExits> {
        (0..).zip(&self.machine().vcpus.exits).map(|(vcpu, exits)| exits.read(vcpu)).collect()
    }

    fn status(&self) -> Status {
        let rss = |key| self.own_status.bytes_of(key).unwrap_or(0);
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
    /// Of the virtio console, if there is one.
    keyboard: Option<Keyboard>,
    memory: Memory,
    vm: Arc<kvm::Vm>,
    is_micro_guest: bool,
}

impl Machine {
    fn new(process: &Process) -> anyhow::Result<Machine> {
        let Process { config, hypervisor, consoles, events, generation, kernel, initrd, .. } = process;
        let mut memory = memory::create(config.memory.bytes(), pages(config))?;
        for &bytes in &process.added {
            memory = memory::grow(&memory, bytes, pages(config))?;
        }
        let shared: Memory = GuestMemoryAtomic::new(memory.clone());
        // They look for the switch while the rest of the machine is made.
        let (backends, keyboard) = backends(process, &shared)?;
        let vm = hypervisor.create_vm(&memory)?;
        let vcpus = machine::create_processors(&vm, config.cpus.get())?;
        let platform = Arc::new(KvmPlatform(vm.clone()));

        let serial = Serial::new(line(&vm, layout::SERIAL_LINE)?, Box::new(consoles.serial.clone()));
        let event_line = line(&vm, layout::EVENT_LINE)?;

        let (on_bus, in_slots) = match config.transport {
            Transport::Pci => (backends, Vec::new()),
            Transport::Mmio => (Vec::new(), backends),
        };
        let virtio_slots = in_slots.len();
        let bus = bus(on_bus, &platform, &shared)?;
        let bank = bank(in_slots, &platform, &shared)?;
        let board = Board::new(serial, bus, bank, event_line);

        let boot = Boot {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            command_line: command_line(config, vcpus[0].tick_khz()?),
            cpus: config.cpus.get(),
            virtio_slots,
        };
        let entry = boot::load(&memory, &boot)?;
        vcpus[0].set_entry(&entry)?;
        let vcpus = Vcpus::start(vcpus, &config.pins, &board, events, *generation)?;
        let is_micro_guest = matches!(config.kernel, Kernel::Builtin(_));
        Ok(Machine { vcpus, board, keyboard, memory: shared, vm, is_micro_guest })
    }

    fn add_memory(&self, bytes: u64, pages: Pages) -> anyhow::Result<()> {
        let grown = memory::grow(&self.memory.memory(), bytes, pages)?;
        let start = grown.iter().last().context("memory has regions")?.start_addr().0;
        self.vm.map_memory(&grown)?;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(grown);
        self.board.memory_grown();
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

/// An event that raises an edge on an interrupt line.
fn line(vm: &kvm::Vm, number: u32) -> anyhow::Result<EventFd> {
    let event = EventFd::create()?;
    vm.attach_line(number, event.as_fd())?;
    Ok(event)
}

/// The PCI bus with these devices.
fn bus(backends: Vec<Backend>, platform: &Arc<KvmPlatform>, memory: &Memory) -> anyhow::Result<Bus> {
    let mut bus = Bus::default();
    let mut window = layout::PCI_WINDOW;
    for (backend, notifier) in backends {
        let (platform, memory, number) = (platform.clone(), memory.clone(), bus.next_number());
        let transport = virtio::Transport::new(backend, notifier, platform, memory, number, window)?;
        window += virtio::Transport::WINDOW_BYTES;
        bus.add(Arc::new(Mutex::new(transport)))?;
    }
    Ok(bus)
}

const _: () = assert!(mmio::Transport::BYTES == SLOT_BYTES);

/// These devices in slots of their own.
fn bank(backends: Vec<Backend>, platform: &Arc<KvmPlatform>, memory: &Memory) -> anyhow::Result<mmio::Bank> {
    let mut devices = Vec::new();
    for ((backend, notifier), slot) in backends.into_iter().zip(slots()) {
        let line = line(&platform.0, slot.line)?;
        let (platform, memory) = (platform.clone(), memory.clone());
        devices.push(mmio::Transport::new(backend, notifier, platform, memory, line, slot.address)?);
    }
    Ok(mmio::Bank::new(layout::VIRTIO_STEP, devices))
}

/// Sends [`Event::Reached`] when nobody has it any more: every device that looks for another process keeps one until it
/// has found that.
struct Sought {
    events: Sender<Tagged>,
    generation: u64,
}

impl Drop for Sought {
    fn drop(&mut self) {
        // The main thread is gone only when the process ends.
        let _ = self.events.send((self.generation, Event::Reached));
    }
}

/// The devices of a machine, each with what tells its guest of changes, and what types at its virtio console.
/// [`Event::Reached`] is sent when every one that needs the switch, or a disk's back-end, has found it.
fn backends(process: &Process, memory: &Memory) -> anyhow::Result<(Vec<Backend>, Option<Keyboard>)> {
    let Process { config, consoles, events, generation, .. } = process;
    let sought = Arc::new(Sought { events: events.clone(), generation: *generation });
    let mut backends: Vec<Backend> = Vec::new();
    for (device, tap) in config.net.iter().zip(&process.taps) {
        let notifier = Notifier::default();
        let told = net::Config { mac: device.mac, mtu: device.mtu, pairs: device.queues };
        let queue_size = device.queue_size;
        let tap = || tap.clone().expect("opened for these back-ends");
        let tap_net = |place| TapNet::new(told, queue_size, place, tap(), notifier.clone());
        let backend: Box<dyn Device> = match &device.backend {
            NetBackend::VhostUser { socket } => {
                let options = Options { config: told, socket: inside(config, socket), queue_size };
                let sought = sought.clone();
                Box::new(VhostUserNet::new(options, notifier.clone(), move || drop(sought))?)
            }
            NetBackend::TapInline => Box::new(tap_net(Place::Inline)?),
            NetBackend::TapIothread => Box::new(tap_net(Place::OwnThread)?),
            NetBackend::VhostNet => {
                Box::new(VhostNet::new(told, queue_size, tap(), memory, notifier.clone())?)
            }
        };
        backends.push((backend, notifier));
    }
    for (number, (disk, image)) in config.disks.iter().zip(&process.images).enumerate() {
        let notifier = Notifier::default();
        let backend = disk_device(config, disk, image.as_ref(), number, &notifier, &sought)?;
        backends.push((backend, notifier));
    }
    let mut keyboard = None;
    if let Some(console) = &consoles.virtio {
        let (device, keys) = virtio::console::Console::new(Box::new(console.clone()));
        backends.push((Box::new(device), Notifier::default()));
        keyboard = Some(keys);
    }
    if config.rng {
        backends.push((Box::<virtio::rng::Rng>::default(), Notifier::default()));
    }
    Ok((backends, keyboard))
}

/// The image of a disk that has one here.
fn open_image(disk: &vmm_config::Disk) -> anyhow::Result<Option<Arc<Disk>>> {
    let image = match &disk.backend {
        DiskBackend::Inline(image) | DiskBackend::Dataplane { image, .. } => image,
        DiskBackend::VhostUserBlk { .. } => return Ok(None),
    };
    let Image { path, read_only, direct } = image.clone();
    Ok(Some(Arc::new(Disk::open(&disk::Options { path, read_only, direct })?)))
}

/// A disk's device. The guest can read its name: `disk0` and so on.
fn disk_device(
    config: &Vm,
    disk: &vmm_config::Disk,
    image: Option<&Arc<Disk>>,
    number: usize,
    notifier: &Notifier,
    sought: &Arc<Sought>,
) -> anyhow::Result<Box<dyn Device>> {
    let name = format!("disk{number}");
    let image = || image.cloned().context("a disk without an image");
    Ok(match &disk.backend {
        DiskBackend::Inline(_) => Box::new(InlineBlk::new(image()?, &name)),
        DiskBackend::Dataplane { pin, .. } => {
            let pin = *pin;
            let pinned = move || pin.iter().for_each(|&cpu| pin_to(cpu));
            Box::new(DataplaneBlk::new(image()?, disk.queues, &name, pinned)?)
        }
        DiskBackend::VhostUserBlk { socket } => {
            let options = blk::vhost_user::Options { socket: inside(config, socket), queues: disk.queues };
            let sought = sought.clone();
            Box::new(VhostUserBlk::new(options, notifier.clone(), move || drop(sought))?)
        }
    })
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
