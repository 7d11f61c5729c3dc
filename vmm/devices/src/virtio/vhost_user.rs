//! A device whose queues another process works on: the switch, or the back-end of a disk. This side only introduces
//! them to each other.
//!
//! A thread keeps the connection. It connects again without end when the back-end goes away, and tells it everything
//! anew; the guest's rings go on where they were.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use sandbox::Role;
use vhost_user::{Frontend, FrontendError, Inflight, MemoryRegion, Offer, ProtocolFeatures, VringAddr};
use virtio_defs::feature::{RING_PACKED, VHOST_USER_PROTOCOL};
use virtio_defs::{packed, split};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use super::{Notifier, Queue, Session, StartError};
use crate::EventFd;
use crate::thread::Commands;

/// Protocol features used by every device.
const PROTOCOL: ProtocolFeatures = ProtocolFeatures::REPLY_ACK
    .or(ProtocolFeatures::MQ)
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

/// What a kind of device has of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    /// Features that are between the guest and this side: the back-end needn't know.
    pub own: u64,
    /// Queues that the back-end must have, as it counts them: a network device's in pairs.
    pub queues: u16,
    /// Queues that are used until [`Link::use_queues`].
    pub used_first: u16,
    /// Told to the back-end.
    pub mtu: Option<u16>,
    /// Bytes of the device's configuration that are the back-end's.
    pub config_bytes: usize,
}

/// A connection, kept by a thread.
pub(crate) struct Link {
    state: Arc<LinkState>,
    commands: Commands<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What a back-end said when it was reached first.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Features it has.
    pub features: u64,
    /// The device's configuration.
    pub config: Vec<u8>,
}

/// What the link's thread and the device share.
#[derive(Debug, Default)]
struct LinkState {
    up: AtomicBool,
    found: Mutex<Option<Found>>,
}

enum Command {
    Start(Session, SyncSender<Result<(), StartError>>),
    Stop(SyncSender<()>),
    /// The guest uses so many queues from now on.
    UseQueues(u16, SyncSender<()>),
    StopQueue(u16, SyncSender<()>),
    StartQueue(Queue, SyncSender<Result<(), StartError>>),
    MemoryGrown(SyncSender<()>),
    End,
}

impl Link {
    /// Begins to look for the back-end that listens on `socket`. `reached` is called once, on the link's thread, when it is
    /// found; before that the guest must not look at the device.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new(
        socket: PathBuf,
        profile: Profile,
        notifier: Notifier,
        reached: impl FnOnce() + Send + 'static,
    ) -> io::Result<Link> {
        let (sender, inbox) = channel();
        let commands = Commands { sender, wake: EventFd::create()? };
        let state = Arc::new(LinkState::default());
        let keeper = Keeper {
            socket,
            profile,
            link: state.clone(),
            reached: Some(Box::new(reached)),
            notifier,
            inbox,
            wake: commands.wake.try_clone()?,
            session: None,
            used: profile.used_first,
            inflight: None,
            resumes: false,
        };
        let thread = crate::thread::spawn("vhost-user", Role::Device, move || keeper.run())?;
        Ok(Link { state, commands, thread: Some(thread) })
    }

    /// Whether the back-end is there.
    pub fn is_up(&self) -> bool {
        self.state.up.load(Ordering::Acquire)
    }

    /// What the back-end said, once it was reached.
    pub fn found(&self) -> Option<Found> {
        self.state.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the back-end work on these queues, now or when it is reached.
    ///
    /// # Errors
    /// They can't be worked with.
    pub fn start(&self, session: Session) -> Result<(), StartError> {
        self.commands.ask(|answer| Command::Start(session, answer)).unwrap_or_else(|| Err(ended()))
    }

    /// Ends that.
    pub fn stop(&self) {
        self.commands.ask(Command::Stop);
    }

    /// The guest uses the first so many queues; whether that was heard.
    pub fn use_queues(&self, count: u16) -> bool {
        self.commands.ask(|answer| Command::UseQueues(count, answer)).is_some()
    }

    /// Ends the work on one queue.
    pub fn stop_queue(&self, index: u16) {
        self.commands.ask(|answer| Command::StopQueue(index, answer));
    }

    /// Begins the work on one queue again.
    ///
    /// # Errors
    /// It can't be worked with.
    pub fn start_queue(&self, queue: Queue) -> Result<(), StartError> {
        self.commands.ask(|answer| Command::StartQueue(queue, answer)).unwrap_or_else(|| Err(ended()))
    }

    /// Tells the back-end of memory that was added.
    pub fn memory_grown(&self) {
        self.commands.ask(Command::MemoryGrown);
    }
}

fn ended() -> StartError {
    StartError("the link's thread has ended".into())
}

impl Drop for Link {
    fn drop(&mut self) {
        self.commands.send(Command::End);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// Why the back-end isn't used at present.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    #[error(
        "it has {has} queues (a port of the switch: pairs), the machine's device {wants}: give it `queues = {wants}`"
    )]
    Queues { has: u64, wants: u16 },
    #[error("the back-end no longer offers feature bits {0:#x}, which the guest uses")]
    Lost(u64),
    #[error("the back-end keeps no record by which a packed ring could go on after its restart")]
    NoRecord,
    #[error("{0}")]
    Ring(#[from] StartError),
    #[error("the back-end has hung up")]
    HungUp,
}

/// The thread that keeps the connection.
struct Keeper {
    socket: PathBuf,
    profile: Profile,
    link: Arc<LinkState>,
    /// To be called when the back-end is reached for the first time.
    reached: Option<Box<dyn FnOnce() + Send>>,
    notifier: Notifier,
    inbox: Receiver<Command>,
    wake: EventFd,
    session: Option<Session>,
    /// Queues that the guest uses: the first ones.
    used: u16,
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
                        tracing::info!(socket = %self.socket.display(), "waiting for the back-end: {text}");
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

    fn protocol(&self) -> ProtocolFeatures {
        let mtu = self.profile.mtu.map_or(ProtocolFeatures(0), |_| ProtocolFeatures::MTU);
        let config =
            if self.profile.config_bytes > 0 { ProtocolFeatures::CONFIG } else { ProtocolFeatures(0) };
        PROTOCOL.or(mtu).or(config)
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
            protocol = offered.protocol.and(self.protocol());
            front.set_protocol_features(protocol)?;
        }
        if self.profile.queues > 1 {
            let has = if protocol.contains(ProtocolFeatures::MQ) { front.queue_count()? } else { 1 };
            if has < self.profile.queues.into() {
                return Err(LinkError::Queues { has, wants: self.profile.queues });
            }
        }
        let agreed = Offer { virtio: usable(offered.virtio, protocol), protocol };
        if let Some(session) = &self.session {
            let lost = session.features & !self.profile.own & !agreed.virtio;
            if lost != 0 {
                return Err(LinkError::Lost(lost));
            }
            self.start_rings(&mut front, offered)?;
            self.set_link(true);
            tracing::info!(socket = %self.socket.display(), "link up");
        }
        let config = match self.profile.config_bytes {
            0 => Vec::new(),
            bytes => front.config(0, bytes)?,
        };
        let found = Found { features: agreed.virtio, config };
        self.link.found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
        // With no driver yet there is nothing that could be down.
        if self.session.is_none() {
            self.set_link(true);
        }
        if let Some(reached) = self.reached.take() {
            reached();
        }
        Ok((front, protocol))
    }

    /// Obeys commands until the switch hangs up (an error) or the device ends.
    fn serve(&mut self, front: &mut Frontend, protocol: ProtocolFeatures) -> Result<(), LinkError> {
        let offered = Offer { virtio: u64::MAX, protocol };
        loop {
            while let Ok(command) = self.inbox.try_recv() {
                match command {
                    Command::End => return Ok(()),
                    Command::Start(session, answer) => {
                        (self.resumes, self.inflight, self.used) = (false, None, self.profile.used_first);
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
                    Command::UseQueues(count, answer) => {
                        self.used = count;
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
                (self.resumes, self.inflight, self.used) = (false, None, self.profile.used_first);
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
            Command::UseQueues(count, answer) => {
                self.used = count;
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
        front.set_features(session.features & !self.profile.own | bit)?;
        if let Some(mtu) = self.profile.mtu
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

    /// Enables the queues that the guest uses, and no others.
    fn enable(&self, front: &mut Frontend) -> Result<(), LinkError> {
        for queue in self.session.iter().flat_map(|session| &session.queues) {
            match queue.index < self.used {
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
