//! Network by vhost-user: the switch works on the guest's rings, this side only introduces them to each other.
//!
//! A thread keeps the connection. It connects again without end when the switch goes away, and tells it everything
//! anew; the guest sees its link go down and come back, and its rings go on where they were.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use vhost_user::{Frontend, FrontendError, Inflight, MemoryRegion, Offer, ProtocolFeatures, VringAddr};
use virtio_defs::feature::{RING_PACKED, RING_RESET, VERSION_1, VHOST_USER_PROTOCOL};
use virtio_defs::net::feature as net;
use virtio_defs::{packed, split};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use super::control::{self, Command as ControlCommand, ControlQueue};
use super::{Config, RINGS_AND_OFFLOADS, config_bytes, map_of};
use crate::EventFd;
use crate::virtio::{Device, Kind, Memory, Notifier, Queue, Session, StartError};

/// Features that are between the guest and this side: the switch needn't know.
const OWN: u64 = net::MAC | net::STATUS | net::MTU | net::CTRL_VQ | net::MQ | RING_RESET;
/// Protocol features used.
const PROTOCOL: ProtocolFeatures = ProtocolFeatures::REPLY_ACK
    .or(ProtocolFeatures::MQ)
    .or(ProtocolFeatures::MTU)
    .or(ProtocolFeatures::INFLIGHT_SHMFD)
    .or(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .or(ProtocolFeatures::STATUS);

/// How long the switch may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts to connect: the first, and what it grows to.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// The driver is ready.
const STATUS_RUNNING: u8 = 1 | 2 | 4 | 8;

/// What a network device by vhost-user is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the guest is told.
    pub config: Config,
    /// Where the switch listens.
    pub socket: PathBuf,
    /// Entries of a queue at most.
    pub queue_size: u16,
}

/// A network device whose back-end is a switch.
pub struct VhostUserNet {
    config: Config,
    /// Pairs of queues, and with several of them the control queue.
    queue_sizes: Vec<u16>,
    link: Arc<LinkState>,
    notifier: Notifier,
    /// While the guest's driver is ready.
    control: Option<(u16, ControlQueue)>,
    commands: Sender<Command>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
}

/// What the link's thread and the device share.
#[derive(Debug, Default)]
struct LinkState {
    up: AtomicBool,
    /// What the switch offered when it was reached first.
    offered: Mutex<Option<u64>>,
}

enum Command {
    Start(Session, SyncSender<Result<(), StartError>>),
    Stop(SyncSender<()>),
    /// The guest uses so many queue pairs from now on.
    SetPairs(u16, SyncSender<()>),
    StopQueue(u16, SyncSender<()>),
    StartQueue(Queue, SyncSender<Result<(), StartError>>),
    MemoryGrown(SyncSender<()>),
    End,
}

impl VhostUserNet {
    /// Makes the device and begins to look for the switch. `reached` is called once, on a thread of the device's, when it
    /// is found; before that the guest must not look at the device.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new(
        options: Options,
        notifier: Notifier,
        reached: impl FnOnce() + Send + 'static,
    ) -> io::Result<VhostUserNet> {
        let (commands, inbox) = channel();
        let wake = EventFd::create()?;
        let link = Arc::new(LinkState::default());
        let pairs = options.config.pairs;
        let mut queue_sizes = vec![options.queue_size; 2 * usize::from(pairs)];
        if pairs > 1 {
            queue_sizes.push(control::QUEUE_SIZE);
        }
        let keeper = Keeper {
            socket: options.socket,
            config: options.config,
            link: link.clone(),
            reached: Some(Box::new(reached)),
            notifier: notifier.clone(),
            inbox,
            wake: wake.try_clone()?,
            session: None,
            pairs: 1,
            inflight: None,
            resumes: false,
        };
        let thread = crate::thread::spawn("vhost-user", move || keeper.run())?;
        Ok(VhostUserNet {
            config: options.config,
            queue_sizes,
            link,
            notifier,
            control: None,
            commands,
            wake,
            thread: Some(thread),
        })
    }

    fn tell<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.commands.send(command(answer)).ok()?;
        self.wake.signal();
        answered.recv().ok()
    }
}

impl Device for VhostUserNet {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        let offered = *self.link.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let mtu = if self.config.mtu.is_some() { net::MTU } else { 0 };
        let several = if self.config.pairs > 1 { net::CTRL_VQ | net::MQ } else { 0 };
        offered.unwrap_or(VERSION_1) & RINGS_AND_OFFLOADS
            | net::MAC
            | net::STATUS
            | RING_RESET
            | mtu
            | several
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let bytes = config_bytes(&self.config, self.link.up.load(Ordering::Acquire));
        crate::virtio::read_bytes(&bytes, offset, data);
    }

    fn start(&mut self, mut session: Session) -> Result<(), StartError> {
        self.control = None;
        // With MQ behind all pairs, without behind the only one that is used (section 5.1.2).
        let pairs = if session.features & net::MQ != 0 { self.config.pairs } else { 1 };
        if session.features & net::CTRL_VQ != 0 {
            let index = 2 * pairs;
            if let Some(queue) = session.queues.iter().find(|queue| queue.index == index) {
                let map = Arc::new(map_of(&session.memory)?);
                self.control = Some((index, ControlQueue::new(queue, session.features, map)?));
            }
        }
        session.queues.retain(|queue| queue.index < 2 * pairs);
        self.tell(|answer| Command::Start(session, answer)).unwrap_or_else(|| Err(ended()))
    }

    fn stop(&mut self) {
        self.control = None;
        self.tell(Command::Stop);
    }

    fn memory_grown(&mut self, memory: &Memory) {
        self.tell(Command::MemoryGrown);
        if let Some((_, control)) = &mut self.control
            && let Err(error) = map_of(memory).and_then(|map| control.set_memory(Arc::new(map)))
        {
            tracing::warn!(%error, "a control queue doesn't see the memory that was added");
        }
    }

    fn answers_doorbell(&self, queue: u16) -> bool {
        self.control.as_ref().is_some_and(|(index, _)| *index == queue)
    }

    fn rung(&mut self, _queue: u16) {
        let Some((index, mut control)) = self.control.take() else { return };
        let served = control.serve(|command| match command {
            ControlCommand::SetPairs(pairs) if (1..=self.config.pairs).contains(&pairs) => {
                self.tell(|answer| Command::SetPairs(pairs, answer)).is_some()
            }
            _ => false,
        });
        self.control = Some((index, control));
        if let Err(fault) = served {
            tracing::warn!(%fault, "a network device's control queue stops");
            self.notifier.needs_reset();
        }
    }

    fn stop_queue(&mut self, index: u16) {
        match &self.control {
            Some((control, _)) if *control == index => self.control = None,
            _ => {
                self.tell(|answer| Command::StopQueue(index, answer));
            }
        }
    }

    fn start_queue(&mut self, queue: Queue) -> Result<(), StartError> {
        if queue.index >= 2 * self.config.pairs {
            return Err(StartError("a control queue is not started again without the device".into()));
        }
        self.tell(|answer| Command::StartQueue(queue, answer)).unwrap_or_else(|| Err(ended()))
    }
}

fn ended() -> StartError {
    StartError("the link's thread has ended".into())
}

impl Drop for VhostUserNet {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::End);
        self.wake.signal();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// Why the switch isn't used at present.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    #[error("the port has {has} queue pairs, the machine's device {wants}: give the port `queues = {wants}`")]
    Pairs { has: u64, wants: u16 },
    #[error("the switch no longer offers feature bits {0:#x}, which the guest uses")]
    Lost(u64),
    #[error("the switch keeps no record by which a packed ring could go on after its restart")]
    NoRecord,
    #[error("{0}")]
    Ring(#[from] StartError),
    #[error("the switch has hung up")]
    HungUp,
}

/// The thread that keeps the connection.
struct Keeper {
    socket: PathBuf,
    config: Config,
    link: Arc<LinkState>,
    /// To be called when the switch is reached for the first time.
    reached: Option<Box<dyn FnOnce() + Send>>,
    notifier: Notifier,
    inbox: Receiver<Command>,
    wake: EventFd,
    session: Option<Session>,
    /// Queue pairs that the guest uses.
    pairs: u16,
    inflight: Option<(Inflight, OwnedFd)>,
    /// The rings were in use by a switch before: they don't begin at their start.
    resumes: bool,
}

impl Keeper {
    fn run(mut self) {
        let mut retry = RETRY_FIRST;
        let mut said = String::new();
        loop {
            match self.connect() {
                Ok((mut front, protocol)) => {
                    retry = RETRY_FIRST;
                    said.clear();
                    match self.serve(&mut front, protocol) {
                        Ok(()) => return,
                        Err(error) => tracing::info!(socket = %self.socket.display(), "link down: {error}"),
                    }
                    self.set_link(false);
                }
                Err(error) => {
                    // Each reason once, however often it is tried.
                    let text = error.to_string();
                    if text != said {
                        tracing::info!(socket = %self.socket.display(), "waiting for the switch: {text}");
                        said = text;
                    }
                }
            }
            match self.inbox.recv_timeout(retry) {
                Ok(command) => {
                    if !self.obey_alone(command) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => retry = (retry * 2).min(RETRY_MAX),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn set_link(&self, up: bool) {
        if self.link.up.swap(up, Ordering::AcqRel) != up {
            self.notifier.config_changed();
        }
    }

    /// Connects and, if the guest's driver is ready, starts its rings.
    fn connect(&mut self) -> Result<(Frontend, ProtocolFeatures), LinkError> {
        let mut front = Frontend::connect(&self.socket)?;
        front.set_timeout(Some(ANSWER_TIMEOUT))?;
        front.set_owner()?;
        let offered = front.offer()?;
        let mut protocol = ProtocolFeatures(0);
        if offered.virtio & VHOST_USER_PROTOCOL != 0 {
            protocol = offered.protocol.and(PROTOCOL);
            front.set_protocol_features(protocol)?;
        }
        if self.config.pairs > 1 {
            let has = if protocol.contains(ProtocolFeatures::MQ) { front.queue_count()? } else { 1 };
            if has < self.config.pairs.into() {
                return Err(LinkError::Pairs { has, wants: self.config.pairs });
            }
        }
        let agreed = Offer { virtio: usable(offered.virtio, protocol), protocol };
        if let Some(session) = &self.session {
            let lost = session.features & !OWN & !agreed.virtio;
            if lost != 0 {
                return Err(LinkError::Lost(lost));
            }
            self.start_rings(&mut front, offered)?;
            self.set_link(true);
            tracing::info!(socket = %self.socket.display(), "link up");
        }
        self.link.offered.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(agreed.virtio);
        // With no driver yet there is nothing that could be down.
        if self.session.is_none() {
            self.set_link(true);
        }
        if let Some(reached) = self.reached.take() {
            reached();
        }
        Ok((front, offered.protocol.and(PROTOCOL)))
    }

    /// Obeys commands until the switch hangs up (an error) or the device ends.
    fn serve(&mut self, front: &mut Frontend, protocol: ProtocolFeatures) -> Result<(), LinkError> {
        let offered = Offer { virtio: u64::MAX, protocol };
        loop {
            while let Ok(command) = self.inbox.try_recv() {
                match command {
                    Command::End => return Ok(()),
                    Command::Start(session, answer) => {
                        (self.resumes, self.inflight, self.pairs) = (false, None, 1);
                        if let Err(error) = check(&session) {
                            let _ = answer.send(Err(error));
                            continue;
                        }
                        self.session = Some(session);
                        // A switch that refuses is one to be connected to again; the guest needn't know.
                        let started = self.start_rings(front, offered);
                        let _ = answer.send(Ok(()));
                        started?;
                        self.set_link(true);
                    }
                    Command::Stop(answer) => {
                        let stopped = self.stop_rings(front);
                        self.session = None;
                        let _ = answer.send(());
                        stopped?;
                    }
                    Command::SetPairs(pairs, answer) => {
                        self.pairs = pairs;
                        let enabled = self.enable(front);
                        let _ = answer.send(());
                        enabled?;
                    }
                    Command::StopQueue(index, answer) => {
                        let stopped = front.vring_base(index.into());
                        self.forget_queue(index);
                        let _ = answer.send(());
                        stopped?;
                    }
                    Command::StartQueue(queue, answer) => {
                        let index = queue.index;
                        let added = self.add_queue(queue);
                        let started = match added {
                            Ok(()) => self.start_ring(front, index, false).and_then(|()| self.enable(front)),
                            Err(_) => Ok(()),
                        };
                        let _ = answer.send(added);
                        started?;
                    }
                    Command::MemoryGrown(answer) => {
                        let told = self.tell_memory(front, protocol);
                        let _ = answer.send(());
                        told?;
                    }
                }
            }
            let mut fds = [
                PollFd::from_borrowed_fd(front.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            ];
            // Interrupted or not, the next turn sees what there is.
            let _ = poll(&mut fds, None);
            if !fds[0].revents().is_empty() {
                // Between requests the switch has nothing to say on this socket.
                return Err(LinkError::HungUp);
            }
            self.wake.drain();
        }
    }

    /// Obeys while there is no switch; false at the end.
    fn obey_alone(&mut self, command: Command) -> bool {
        self.wake.drain();
        match command {
            Command::End => return false,
            Command::Start(session, answer) => {
                (self.resumes, self.inflight, self.pairs) = (false, None, 1);
                let checked = check(&session);
                if checked.is_ok() {
                    self.session = Some(session);
                }
                let _ = answer.send(checked);
            }
            Command::Stop(answer) => {
                self.session = None;
                let _ = answer.send(());
            }
            Command::SetPairs(pairs, answer) => {
                self.pairs = pairs;
                let _ = answer.send(());
            }
            Command::StopQueue(index, answer) => {
                self.forget_queue(index);
                let _ = answer.send(());
            }
            Command::StartQueue(queue, answer) => {
                let _ = answer.send(self.add_queue(queue));
            }
            Command::MemoryGrown(answer) => {
                let _ = answer.send(());
            }
        }
        true
    }

    /// Order as other front-ends have it: features, memory, record of what is in flight, rings, enable.
    fn start_rings(&mut self, front: &mut Frontend, offered: Offer) -> Result<(), LinkError> {
        let Some(session) = &self.session else { return Ok(()) };
        let protocol = front.protocol_features();
        let is_packed = session.features & RING_PACKED != 0;
        let records = protocol.contains(ProtocolFeatures::INFLIGHT_SHMFD);
        if is_packed && self.resumes && !(records && self.inflight.is_some()) {
            return Err(LinkError::NoRecord);
        }
        let speaks_protocol = offered.virtio & VHOST_USER_PROTOCOL != 0;
        let bit = if speaks_protocol { VHOST_USER_PROTOCOL } else { 0 };
        front.set_features(session.features & !OWN | bit)?;
        if let Some(mtu) = self.config.mtu
            && protocol.contains(ProtocolFeatures::MTU)
        {
            front.set_mtu(mtu)?;
        }
        let memory = session.memory.memory();
        front.set_mem_table(&table(&memory).map_err(LinkError::Ring)?)?;
        if records {
            match &self.inflight {
                Some((place, fd)) => front.set_inflight(*place, fd.as_fd())?,
                None => {
                    let size = session.queues.iter().map(|queue| queue.size).max().unwrap_or(1);
                    let count = session.queues.iter().map(|queue| queue.index + 1).max().unwrap_or(0);
                    let (place, fd) = front.inflight(count, size)?;
                    front.set_inflight(place, fd.as_fd())?;
                    self.inflight = Some((place, fd));
                }
            }
        }
        for queue in &session.queues {
            self.start_ring(front, queue.index, self.resumes)?;
        }
        if speaks_protocol {
            self.enable(front)?;
        }
        if protocol.contains(ProtocolFeatures::STATUS) {
            front.set_status(STATUS_RUNNING)?;
        }
        for queue in &session.queues {
            // Kicks may have been for a switch that is gone, interrupts lost with it.
            queue.kick.signal();
            if self.resumes {
                queue.call.signal();
            }
        }
        self.resumes = true;
        Ok(())
    }

    /// Tells where a ring is, and where it goes on.
    fn start_ring(&self, front: &mut Frontend, index: u16, resumes: bool) -> Result<(), LinkError> {
        let Some(session) = &self.session else { return Ok(()) };
        let Some(queue) = session.queues.iter().find(|queue| queue.index == index) else { return Ok(()) };
        let is_packed = session.features & RING_PACKED != 0;
        let memory = session.memory.memory();
        let areas = Areas::of(queue, is_packed, &memory)?;
        let base = match (is_packed, resumes) {
            // Both wrap counters begin at 1; after a restart the record says where the ring stood.
            (true, _) => 0x8000_8000,
            // What the switch has taken and not completed is done again.
            (false, true) => u32::from(used_index(queue, &memory)?),
            (false, false) => 0,
        };
        let (place, index) = (index as u8, u32::from(index));
        front.set_vring_num(index, queue.size.into())?;
        front.set_vring_base(index, base)?;
        front.set_vring_addr(VringAddr {
            index,
            flags: 0,
            desc: areas.desc,
            used: areas.device,
            avail: areas.driver,
            log: 0,
        })?;
        front.set_vring_call(place, Some(queue.call.as_fd()))?;
        Ok(front.set_vring_kick(place, Some(queue.kick.as_fd()))?)
    }

    /// Enables the queues of the pairs that the guest uses, and no others.
    fn enable(&self, front: &mut Frontend) -> Result<(), LinkError> {
        for queue in self.session.iter().flat_map(|session| &session.queues) {
            match queue.index < 2 * self.pairs {
                true => front.enable_vring(queue.index.into())?,
                false => front.disable_vring(queue.index.into())?,
            }
        }
        Ok(())
    }

    /// A queue that the guest has taken back. What the record says about it is no longer so.
    fn forget_queue(&mut self, index: u16) {
        let Some(session) = &mut self.session else { return };
        session.queues.retain(|queue| queue.index != index);
        if let Some((place, record)) = &self.inflight {
            let bytes = place.mmap_size / u64::from(place.num_queues.max(1));
            let zeros = vec![0; usize::try_from(bytes).unwrap_or(0)];
            let at = place.mmap_offset + u64::from(index) * bytes;
            if let Err(error) = rustix::io::pwrite(record, &zeros, at) {
                tracing::debug!(%error, "the record of a queue's descriptors stays as it is");
            }
        }
    }

    fn add_queue(&mut self, queue: Queue) -> Result<(), StartError> {
        let Some(session) = &mut self.session else {
            return Err(StartError("the device isn't started".into()));
        };
        check_queue(&queue, session.features, &session.memory.memory())?;
        session.queues.push(queue);
        Ok(())
    }

    fn stop_rings(&mut self, front: &mut Frontend) -> Result<(), LinkError> {
        for queue in self.session.iter().flat_map(|session| &session.queues) {
            front.vring_base(queue.index.into())?;
        }
        if front.protocol_features().contains(ProtocolFeatures::STATUS) {
            front.set_status(0)?;
        }
        Ok(())
    }

    /// Tells the switch about the last region of a memory that has grown.
    fn tell_memory(&self, front: &mut Frontend, protocol: ProtocolFeatures) -> Result<(), LinkError> {
        let Some(session) = &self.session else { return Ok(()) };
        let memory = session.memory.memory();
        let regions = table(&memory).map_err(LinkError::Ring)?;
        match regions.last() {
            Some((region, fd)) if protocol.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) => {
                front.add_mem_region(*region, *fd)?;
            }
            _ => front.set_mem_table(&regions)?,
        }
        Ok(())
    }
}

/// What of the switch's offer can be used.
fn usable(offered: u64, protocol: ProtocolFeatures) -> u64 {
    if protocol.contains(ProtocolFeatures::INFLIGHT_SHMFD) { offered } else { offered & !RING_PACKED }
}

/// Whether all rings lie in the guest's memory.
fn check(session: &Session) -> Result<(), StartError> {
    let memory = session.memory.memory();
    session.queues.iter().try_for_each(|queue| check_queue(queue, session.features, &memory))
}

fn check_queue(queue: &Queue, features: u64, memory: &GuestMemoryMmap) -> Result<(), StartError> {
    let is_packed = features & RING_PACKED != 0;
    if !is_packed && !queue.size.is_power_of_two() {
        return Err(StartError(format!("queue {} with {} entries", queue.index, queue.size)));
    }
    Areas::of(queue, is_packed, memory).map(drop)
}

/// Where a ring's areas are in this process, which is what the protocol calls their addresses.
struct Areas {
    desc: u64,
    driver: u64,
    device: u64,
}

impl Areas {
    fn of(queue: &Queue, is_packed: bool, memory: &GuestMemoryMmap) -> Result<Areas, StartError> {
        let size = queue.size;
        let [desc, driver, device] = if is_packed {
            let event = size_of::<packed::Event>();
            [(queue.desc, packed::desc_bytes(size)), (queue.driver, event), (queue.device, event)]
        } else {
            [
                (queue.desc, split::desc_bytes(size)),
                (queue.driver, split::avail_bytes(size)),
                (queue.device, split::used_bytes(size)),
            ]
        };
        let host = |(address, bytes): (u64, usize)| {
            let fits = memory.to_region_addr(GuestAddress(address)).is_some_and(|(region, offset)| {
                offset.0.checked_add(bytes as u64).is_some_and(|end| end <= region.len())
            });
            let host = fits.then(|| memory.get_host_address(GuestAddress(address)).ok()).flatten();
            host.map(|pointer| pointer as u64).ok_or_else(|| {
                StartError(format!("queue {}: {bytes} bytes at {address:#x} are no memory", queue.index))
            })
        };
        Ok(Areas { desc: host(desc)?, driver: host(driver)?, device: host(device)? })
    }
}

/// The used index of a split ring.
fn used_index(queue: &Queue, memory: &GuestMemoryMmap) -> Result<u16, StartError> {
    let at = GuestAddress(queue.device + std::mem::offset_of!(split::RingHead, idx) as u64);
    memory.load(at, Ordering::Acquire).map_err(|error| StartError(error.to_string()))
}

type Table<'a> = Vec<(MemoryRegion, std::os::fd::BorrowedFd<'a>)>;

/// The memory table as the protocol has it.
fn table(memory: &GuestMemoryMmap) -> Result<Table<'_>, StartError> {
    memory
        .iter()
        .map(|region| {
            let file = region.file_offset().ok_or_else(|| StartError("memory without a file".into()))?;
            let host = region.get_host_address(MemoryRegionAddress(0));
            let host = host.map_err(|error| StartError(error.to_string()))?;
            let place = MemoryRegion {
                guest_addr: region.start_addr().0,
                size: region.len(),
                user_addr: host as u64,
                mmap_offset: file.start(),
            };
            Ok((place, file.file().as_fd()))
        })
        .collect()
}
