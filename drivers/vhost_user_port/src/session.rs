//! The state of a device and what each message does to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use guest_memory::{DirtyLog, MapError, MemMap, RegionSpec, TableError};
use port::QueueFault;
use vhost_user::socket::ReceiveError;
use vhost_user::{
    BackendChannel, CONFIG_MAX, ConfigAccess, Header, Inflight, LogArea, MemoryRegion, Message, MessageError,
    Outgoing, ProtocolFeatures, Reply, Request, RequestCode, VringAddr, VringState,
};
use virtio_defs::{QUEUE_SIZE_MAX, feature};
use virtqueue::{InflightError, InflightRegion};

use crate::config::{MTU_MIN, PortConfig, feature_names};
use crate::config_space::config_space;
use crate::host::{Direction, QueueHost};
use crate::limits::{Budget, LogLimit, Spent};
use crate::state::{Phase, PortState, VringView};
use crate::vring::{self, Kick, Shared, Vring};

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It belongs to a feature that wasn't offered.
    #[error("{0} is not offered")]
    NotOffered(&'static str),
    /// It belongs to a feature that wasn't negotiated.
    #[error("{0} was not negotiated")]
    NotNegotiated(&'static str),
    /// Feature bits that weren't offered.
    #[error("feature bits {0:#x} were not offered")]
    Features(u64),
    /// The vring's index is too high.
    #[error("there is no vring {0}")]
    NoSuchVring(u32),
    /// A ring's place or size can't change while it runs.
    #[error("vring {0} is running: its {1} can't change")]
    Running(u32, &'static str),
    /// A number outside its range.
    #[error("{what} {value:#x} is not allowed")]
    Value {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// The memory table.
    #[error(transparent)]
    Memory(#[from] TableError),
    /// The dirty log.
    #[error("dirty log: {0}")]
    Log(#[from] MapError),
    /// The record of in-flight descriptors.
    #[error("in-flight record: {0}")]
    Inflight(#[from] InflightError),
    /// A descriptor that isn't what it should be, or none left in this process.
    #[error("file descriptor: {0}")]
    Descriptor(#[from] io::Error),
    /// The specification has it, this back-end doesn't.
    #[error("not supported")]
    Unsupported,
    /// The worker didn't give the queue back.
    #[error("the queue of vring {0} is lost")]
    QueueLost(usize),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The front-end hung up between two messages.
    #[error("the front-end hung up")]
    HungUp,
    /// The stream or socket is broken.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// A message isn't what its code says.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A request was refused and the front-end didn't ask for an answer.
    #[error("{code} refused: {refusal}")]
    Refused {
        /// Which request.
        code: RequestCode,
        /// Why.
        refusal: Refusal,
    },
    /// The guest broke a ring, or its memory went away.
    #[error("queue pair {pair}, {direction}: {fault}")]
    Queue {
        /// Which pair.
        pair: u16,
        /// Which of its queues.
        direction: Direction,
        /// What was broken.
        fault: QueueFault,
    },
    /// An answer could not be sent.
    #[error("answer not sent: {0}")]
    Send(io::Error),
    /// The device could not go on after it was suspended.
    #[error("not resumed: {0}")]
    NotResumed(Refusal),
    /// The operator took the port away.
    #[error("the port was closed")]
    Closed,
}

type Outcome = Result<Option<Reply>, Refusal>;

/// A region as the front-end gave it. The descriptor is kept for a successor.
#[derive(Debug)]
pub(crate) struct Region {
    pub place: MemoryRegion,
    pub fd: OwnedFd,
}

impl Region {
    /// The same piece of the same file at the same addresses.
    fn is_same(&self, other: &Region) -> bool {
        let file = |r: &Region| rustix::fs::fstat(&r.fd).map(|stat| (stat.st_dev, stat.st_ino));
        self.place == other.place && file(self).is_ok_and(|mine| file(other) == Ok(mine))
    }

    pub fn spec(&self) -> RegionSpec<'_> {
        RegionSpec {
            gpa: self.place.guest_addr,
            len: self.place.size,
            user_va: self.place.user_addr,
            fd: self.fd.as_fd(),
            offset: self.place.mmap_offset,
        }
    }
}

/// The dirty log as the front-end gave it.
#[derive(Debug)]
pub(crate) struct Log {
    pub area: LogArea,
    pub fd: OwnedFd,
    pub map: Arc<DirtyLog>,
}

/// The record of in-flight descriptors, made by us or given back by the front-end.
#[derive(Debug)]
pub(crate) struct InflightRecord {
    pub place: Inflight,
    pub fd: OwnedFd,
    pub region: InflightRegion,
}

/// Everything that one connection has brought. Dropping it closes all descriptors and unmaps all memory.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub features: u64,
    pub protocol: ProtocolFeatures,
    pub status: u8,
    pub mtu: Option<u16>,
    pub vrings: Vec<Vring>,
    pub regions: Vec<Region>,
    pub memory: Arc<MemMap>,
    pub log: Option<Log>,
    pub inflight: Option<InflightRecord>,
    pub channel: Option<BackendChannel>,
}

impl Connection {
    fn new(vrings: usize) -> Self {
        Self { vrings: (0..vrings).map(|_| Vring::default()).collect(), ..Self::default() }
    }

    pub fn logging(&self) -> bool {
        self.features & feature::VHOST_LOG_ALL != 0 && self.log.is_some()
    }
}

/// A port's device, over all its connections.
#[derive(Debug)]
pub struct Session {
    name: String,
    pub(crate) config: PortConfig,
    pub(crate) link_up: bool,
    pub(crate) connected: bool,
    pub(crate) connection: Connection,
    pub(crate) connections: u64,
    pub(crate) messages: u64,
    refused: u64,
    last_error: Option<String>,
    shown: PortState,
    budget: Budget,
    log_lines: LogLimit,
}

impl Session {
    /// A port without a connection, link up. `name` is for log lines.
    ///
    /// # Panics
    /// When the configuration asks for no queue pair or more than [`crate::QUEUE_PAIRS_MAX`].
    pub fn new(name: impl Into<String>, config: PortConfig) -> Self {
        let pairs = config.queue_pairs;
        assert!((1..=crate::QUEUE_PAIRS_MAX).contains(&pairs), "a port with {pairs} queue pairs");
        Self {
            name: name.into(),
            link_up: true,
            connected: false,
            connection: Connection::new(usize::from(pairs) * 2),
            connections: 0,
            messages: 0,
            refused: 0,
            last_error: None,
            shown: PortState::default(),
            budget: Budget::new(config.messages_per_second),
            log_lines: LogLimit::new(config.log_lines_per_second),
            config,
        }
    }

    /// The port's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a front-end is connected.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// How long to wait before one more message may be read. Each call is for one message.
    pub fn wait_to_read(&mut self, now: Instant) -> Duration {
        let wait = self.budget.reserve(now);
        let spent = self.log_lines.spent();
        spent.messages.fetch_add(1, Relaxed);
        if !wait.is_zero() {
            spent.messages_delayed.fetch_add(1, Relaxed);
        }
        wait
    }

    /// What the guest has made us spend; may be read while the session is served.
    pub fn spent(&self) -> Arc<Spent> {
        Arc::clone(self.log_lines.spent())
    }

    /// A front-end has connected. (Any earlier connection must have [ended](Self::disconnected).)
    pub fn connected(&mut self, host: &mut dyn QueueHost) {
        assert!(!self.connected, "a second connection at the same time");
        self.connected = true;
        self.connections += 1;
        if let Some(suppressed) = self.log_lines.permit(Instant::now()) {
            tracing::info!(
                port = self.name,
                connection = self.connections,
                suppressed,
                "front-end connected"
            );
        }
        self.show(host);
    }

    /// The connection has ended: takes all queues back and frees everything it brought.
    pub fn disconnected(&mut self, end: &End, host: &mut dyn QueueHost) {
        if let End::Queue { pair, direction, .. } = *end
            && let Some(vring) = self.connection.vrings.get(vring::index(pair, direction))
            && let Some(err) = &vring.err
        {
            err.signal();
        }
        for (index, vring) in self.connection.vrings.iter_mut().enumerate() {
            vring.abandon(index, host);
        }
        self.connection = Connection::new(self.connection.vrings.len());
        self.connected = false;
        self.last_error = Some(end.to_string());
        if let Some(suppressed) = self.log_lines.permit(Instant::now()) {
            tracing::info!(port = self.name, reason = %end, suppressed, "front-end disconnected");
        }
        self.show(host);
    }

    /// A worker reports what a guest broke. The connection is to be ended with what this returns; `None` when the
    /// queue doesn't run any more, so that the report is about an earlier connection.
    pub fn queue_fault(&self, pair: u16, direction: Direction, fault: QueueFault) -> Option<End> {
        let running = self.connection.vrings.get(vring::index(pair, direction)).is_some_and(|v| v.running);
        running.then_some(End::Queue { pair, direction, fault })
    }

    /// Handles a message and returns the answer to send, if there is one.
    ///
    /// # Errors
    /// The connection is to be closed: call [`disconnected`](Self::disconnected) with the error.
    pub fn handle(&mut self, message: Message, host: &mut dyn QueueHost) -> Result<Option<Outgoing>, End> {
        self.messages += 1;
        let need_reply = message.header.flags & Header::NEED_REPLY != 0;
        let request = Request::parse(message)?;
        let code = request.code();
        tracing::debug!(port = self.name, %code, "request");
        let outcome = self.apply(request, host);
        // Looked at afterwards: the request that negotiates REPLY_ACK may itself ask for an answer.
        let wants_ack = need_reply && self.negotiated(ProtocolFeatures::REPLY_ACK);
        let reply = match outcome {
            Ok(Some(reply)) => Some(reply),
            Ok(None) => wants_ack.then_some(Reply::ACK),
            Err(refusal) => {
                self.refused += 1;
                if !wants_ack || has_own_reply(code) {
                    return Err(End::Refused { code, refusal });
                }
                let error = format!("{code} refused: {refusal}");
                if let Some(suppressed) = self.log_lines.permit(Instant::now()) {
                    tracing::warn!(port = self.name, suppressed, "{error}");
                }
                self.last_error = Some(error);
                Some(Reply::REFUSED)
            }
        };
        self.show(host);
        Ok(reply.map(|reply| reply.encode(code)))
    }

    fn apply(&mut self, request: Request, host: &mut dyn QueueHost) -> Outcome {
        use ProtocolFeatures as P;
        match request {
            Request::GetFeatures => Ok(Some(Reply::U64(self.config.offered()))),
            Request::SetFeatures(features) => self.set_features(features, host),
            Request::SetOwner => Ok(None),
            Request::ResetOwner => self.disable_all(host),
            Request::GetProtocolFeatures => Ok(Some(Reply::U64(self.config.offered_protocol().0))),
            Request::SetProtocolFeatures(features) => {
                let more = ProtocolFeatures(features).without(self.config.offered_protocol());
                if more.0 != 0 {
                    return Err(Refusal::Features(more.0));
                }
                self.connection.protocol = ProtocolFeatures(features);
                Ok(None)
            }
            Request::GetQueueNum => {
                self.need_offered(P::MQ, "MQ")?;
                // Front-ends compare it with queue pairs (QEMU, net/vhost-user.c); so do DPDK's.
                Ok(Some(Reply::U64(self.config.queue_pairs.into())))
            }
            Request::SetMemTable(regions) => self.set_mem_table(regions, host),
            Request::GetMaxMemSlots => {
                self.need(P::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
                Ok(Some(Reply::U64(self.config.memory_slots())))
            }
            Request::AddMemReg(place, fd) => self.add_region(Region { place, fd }, host),
            Request::RemMemReg(place) => self.remove_region(&place, host),
            Request::SetVringNum(state) => self.set_vring_size(state, host),
            Request::SetVringAddr(addr) => self.set_vring_addr(addr, host),
            Request::SetVringBase(state) => {
                let vring = self.vring(state.index)?;
                if vring.running {
                    return Err(Refusal::Running(state.index, "base"));
                }
                vring.base = Some(state.num);
                self.start(state.index as usize, host)?;
                Ok(None)
            }
            Request::GetVringBase(state) => self.vring_base(state.index, host),
            Request::SetVringKick(file) => {
                let kick = vring::event(file.fd)?.map_or(Kick::Poll, Kick::Event);
                self.change_vring(file.index.into(), host, |vring| vring.kick = kick)
            }
            Request::SetVringCall(file) => {
                let call = vring::event(file.fd)?;
                self.change_vring(file.index.into(), host, |vring| vring.call = call)
            }
            Request::SetVringErr(file) => {
                let err = vring::event(file.fd)?;
                self.vring(file.index.into())?.err = err;
                Ok(None)
            }
            Request::SetVringEnable(state) => {
                let enabled = match state.num {
                    0 => false,
                    1 => true,
                    other => return Err(Refusal::Value { what: "enable", value: other.into() }),
                };
                if self.vring(state.index)?.enabled == enabled {
                    return Ok(None);
                }
                self.change_vring(state.index, host, |vring| vring.enabled = enabled)
            }
            Request::SetLogBase(area, fd) => self.set_log_base(area, fd, host),
            // Its event may tell the front-end that the log was written; QEMU never sends one, and polls.
            Request::SetLogFd(_) => self.need(P::LOG_SHMFD, "LOG_SHMFD").map(|()| None),
            Request::GetInflightFd(wanted) => self.make_inflight(wanted, host),
            Request::SetInflightFd(place, fd) => self.set_inflight(place, fd, host),
            Request::SendRarp(mac) => {
                self.need_offered(P::RARP, "RARP")?;
                host.announce(mac);
                Ok(None)
            }
            Request::NetSetMtu(mtu) => {
                self.need_offered(P::MTU, "MTU")?;
                let valid = u16::try_from(mtu).ok().filter(|&mtu| mtu >= MTU_MIN);
                self.connection.mtu = Some(valid.ok_or(Refusal::Value { what: "MTU", value: mtu })?);
                Ok(None)
            }
            Request::SetBackendReqFd(fd) => {
                self.need_offered(P::BACKEND_REQ, "BACKEND_REQ")?;
                self.connection.channel = Some(BackendChannel::new(fd)?);
                Ok(None)
            }
            Request::GetConfig(access) => self.read_config(access),
            Request::SetConfig(access) => {
                self.need(P::CONFIG, "CONFIG")?;
                // All fields are read-only for a driver of version 1; a migration may bring its source's along.
                if access.flags != ConfigAccess::LIVE_MIGRATION {
                    return Err(Refusal::Value {
                        what: "write to read-only configuration at",
                        value: access.offset.into(),
                    });
                }
                Ok(None)
            }
            Request::ResetDevice => {
                self.need_offered(P::RESET_DEVICE, "RESET_DEVICE")?;
                self.reset(host)
            }
            Request::SetStatus(status) => {
                self.need(P::STATUS, "STATUS")?;
                let status =
                    u8::try_from(status).map_err(|_| Refusal::Value { what: "status", value: status })?;
                self.connection.status = status;
                Ok(None)
            }
            Request::GetStatus => {
                self.need(P::STATUS, "STATUS")?;
                Ok(Some(Reply::U64(self.connection.status.into())))
            }
            Request::Other(_) => Err(Refusal::Unsupported),
        }
    }

    // ---- features ----

    fn negotiated(&self, feature: ProtocolFeatures) -> bool {
        self.connection.protocol.contains(feature)
    }

    fn need(&self, feature: ProtocolFeatures, name: &'static str) -> Result<(), Refusal> {
        if self.negotiated(feature) { Ok(()) } else { Err(Refusal::NotNegotiated(name)) }
    }

    /// For requests that the specification allows as soon as the feature was offered.
    fn need_offered(&self, feature: ProtocolFeatures, name: &'static str) -> Result<(), Refusal> {
        if self.config.offered_protocol().contains(feature) { Ok(()) } else { Err(Refusal::NotOffered(name)) }
    }

    fn set_features(&mut self, features: u64, host: &mut dyn QueueHost) -> Outcome {
        let more = features & !self.config.offered();
        if more != 0 {
            return Err(Refusal::Features(more));
        }
        if features == self.connection.features {
            return Ok(None);
        }
        self.stop_all(host)?;
        let logged = self.connection.features & feature::VHOST_LOG_ALL != 0;
        self.connection.features = features;
        if logged && features & feature::VHOST_LOG_ALL == 0 {
            // The migration is over or was given up: the next one brings its own log.
            self.connection.log = None;
        }
        self.start_ready(host)
    }

    // ---- rings ----

    fn vring(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        self.connection.vrings.get_mut(index as usize).ok_or(Refusal::NoSuchVring(index))
    }

    fn set_vring_size(&mut self, VringState { index, num }: VringState, host: &mut dyn QueueHost) -> Outcome {
        let size = u16::try_from(num).ok().filter(|&n| n > 0 && n <= QUEUE_SIZE_MAX);
        let size = size.ok_or(Refusal::Value { what: "vring size", value: num.into() })?;
        let vring = self.vring(index)?;
        if vring.running && vring.size != Some(size) {
            return Err(Refusal::Running(index, "size"));
        }
        vring.size = Some(size);
        self.start(index as usize, host)?;
        Ok(None)
    }

    fn set_vring_addr(&mut self, addr: VringAddr, host: &mut dyn QueueHost) -> Outcome {
        let vring = self.vring(addr.index)?;
        let place = |a: &VringAddr| (a.desc, a.avail, a.used);
        // A migration sends the addresses again to switch logging of the used ring on and off.
        if vring.running && vring.addr.as_ref().map(place) != Some(place(&addr)) {
            return Err(Refusal::Running(addr.index, "address"));
        }
        if vring.addr == Some(addr) {
            return Ok(None);
        }
        self.change_vring(addr.index, host, |vring| vring.addr = Some(addr))
    }

    fn vring_base(&mut self, index: u32, host: &mut dyn QueueHost) -> Outcome {
        let vring = self.vring(index)?;
        if !vring.stop(index as usize, host) {
            return Err(Refusal::QueueLost(index as usize));
        }
        // Stopped until the next kick descriptor comes.
        vring.kick = Kick::Unset;
        vring.problem = None;
        Ok(Some(Reply::Vring(VringState { index, num: vring.base.unwrap_or(0) })))
    }

    /// Changes a vring with its queue taken back, and starts it when it can be.
    fn change_vring(
        &mut self,
        index: u32,
        host: &mut dyn QueueHost,
        change: impl FnOnce(&mut Vring),
    ) -> Outcome {
        let vring = self.vring(index)?;
        if !vring.stop(index as usize, host) {
            return Err(Refusal::QueueLost(index as usize));
        }
        change(vring);
        self.start(index as usize, host)?;
        Ok(None)
    }

    fn stop_all(&mut self, host: &mut dyn QueueHost) -> Result<(), Refusal> {
        let mut lost = None;
        for (index, vring) in self.connection.vrings.iter_mut().enumerate() {
            if !vring.stop(index, host) {
                lost = Some(index);
            }
        }
        lost.map_or(Ok(()), |index| Err(Refusal::QueueLost(index)))
    }

    /// Starts every ring that can run and doesn't.
    pub(crate) fn start_ready(&mut self, host: &mut dyn QueueHost) -> Outcome {
        for index in 0..self.connection.vrings.len() {
            self.start(index, host)?;
        }
        Ok(None)
    }

    fn start(&mut self, index: usize, host: &mut dyn QueueHost) -> Result<(), Refusal> {
        let connection = &mut self.connection;
        let features = connection.features;
        let vring = &mut connection.vrings[index];
        if vring.running || !vring.is_ready(features) || connection.memory.regions() == 0 {
            return Ok(());
        }
        let log = connection.log.as_ref().map(|log| &log.map);
        let inflight = connection.inflight.as_ref().and_then(|record| record.region.queue(index as u16));
        let shared = Shared { features, memory: &connection.memory, log, inflight };
        vring.start(index, shared, host)?;
        if let Some(problem) = vring.problem {
            self.last_error = Some(format!("vring {index} can't start: {problem}"));
        }
        Ok(())
    }

    fn disable_all(&mut self, host: &mut dyn QueueHost) -> Outcome {
        self.stop_all(host)?;
        for vring in &mut self.connection.vrings {
            vring.enabled = false;
        }
        Ok(None)
    }

    /// Back to the state before features were set; memory and channels stay.
    fn reset(&mut self, host: &mut dyn QueueHost) -> Outcome {
        self.stop_all(host)?;
        let connection = &mut self.connection;
        connection.vrings.fill_with(Vring::default);
        connection.features = 0;
        connection.status = 0;
        connection.log = None;
        connection.inflight = None;
        Ok(None)
    }

    // ---- memory ----

    /// Replaces the memory of all rings: they are taken back, and those still inside it go on.
    fn use_memory(&mut self, memory: MemMap, host: &mut dyn QueueHost) -> Outcome {
        self.stop_all(host)?;
        self.connection.memory = Arc::new(memory);
        self.start_ready(host)
    }

    /// Addresses are not endless: one guest must not use up those of the others.
    fn check_memory<'a>(&self, regions: impl IntoIterator<Item = &'a Region>) -> Result<(), Refusal> {
        let total = regions.into_iter().fold(0u64, |sum, region| sum.saturating_add(region.place.size));
        match total > self.config.memory_bytes_max {
            true => Err(Refusal::Value { what: "guest memory of", value: total }),
            false => Ok(()),
        }
    }

    fn set_mem_table(&mut self, table: Vec<(MemoryRegion, OwnedFd)>, host: &mut dyn QueueHost) -> Outcome {
        let regions: Vec<Region> = table.into_iter().map(|(place, fd)| Region { place, fd }).collect();
        self.check_memory(&regions)?;
        let specs: Vec<RegionSpec<'_>> = regions.iter().map(Region::spec).collect();
        let memory = MemMap::new(&specs)?;
        drop(specs);
        self.use_memory(memory, host)?;
        self.connection.regions = regions;
        Ok(None)
    }

    fn add_region(&mut self, region: Region, host: &mut dyn QueueHost) -> Outcome {
        self.need(ProtocolFeatures::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
        // QEMU says it once for each queue pair, over the one connection (7.2, `hw/virtio/vhost-user.c`).
        if self.connection.regions.iter().any(|known| known.is_same(&region)) {
            return Ok(None);
        }
        self.check_memory(self.connection.regions.iter().chain([&region]))?;
        let memory = self.connection.memory.add(&region.spec())?;
        self.use_memory(memory, host)?;
        self.connection.regions.push(region);
        Ok(None)
    }

    fn remove_region(&mut self, place: &MemoryRegion, host: &mut dyn QueueHost) -> Outcome {
        self.need(ProtocolFeatures::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
        let memory = self.connection.memory.remove(place.guest_addr, place.user_addr, place.size)?;
        self.use_memory(memory, host)?;
        let key = |r: &MemoryRegion| (r.guest_addr, r.user_addr, r.size);
        self.connection.regions.retain(|r| key(&r.place) != key(place));
        Ok(None)
    }

    fn set_log_base(&mut self, area: LogArea, fd: OwnedFd, host: &mut dyn QueueHost) -> Outcome {
        self.need(ProtocolFeatures::LOG_SHMFD, "LOG_SHMFD")?;
        let map = Arc::new(DirtyLog::new(fd.as_fd(), area.offset, area.size)?);
        if self.connection.features & feature::VHOST_LOG_ALL == 0 {
            self.connection.log = Some(Log { area, fd, map });
        } else {
            self.stop_all(host)?;
            self.connection.log = Some(Log { area, fd, map });
            self.start_ready(host)?;
        }
        Ok(Some(Reply::ACK))
    }

    fn make_inflight(&mut self, wanted: Inflight, host: &mut dyn QueueHost) -> Outcome {
        self.need(ProtocolFeatures::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
        self.check_inflight(&wanted)?;
        let packed = self.connection.features & feature::RING_PACKED != 0;
        let region = InflightRegion::create(wanted.num_queues, wanted.queue_size, packed)?;
        let fd = region.fd().expect("a region made here has a file").try_clone_to_owned()?;
        let place = Inflight { mmap_size: region.bytes(), mmap_offset: 0, padding: 0, ..wanted };
        let sent = fd.try_clone()?;
        self.stop_all(host)?;
        self.connection.inflight = Some(InflightRecord { place, fd, region });
        self.start_ready(host)?;
        Ok(Some(Reply::Inflight(place, sent)))
    }

    fn set_inflight(&mut self, place: Inflight, fd: OwnedFd, host: &mut dyn QueueHost) -> Outcome {
        self.need(ProtocolFeatures::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
        self.check_inflight(&place)?;
        let record = self.map_inflight(place, fd)?;
        self.stop_all(host)?;
        self.connection.inflight = Some(record);
        self.start_ready(host)
    }

    pub(crate) fn map_inflight(&self, place: Inflight, fd: OwnedFd) -> Result<InflightRecord, Refusal> {
        let packed = self.connection.features & feature::RING_PACKED != 0;
        let region = InflightRegion::map(
            fd.as_fd(),
            place.mmap_offset,
            place.mmap_size,
            place.num_queues,
            place.queue_size,
            packed,
        )?;
        Ok(InflightRecord { place, fd, region })
    }

    fn check_inflight(&self, place: &Inflight) -> Result<(), Refusal> {
        let value = |what, value: u16| Err(Refusal::Value { what, value: value.into() });
        if place.num_queues == 0 || usize::from(place.num_queues) > self.connection.vrings.len() {
            return value("number of in-flight queues", place.num_queues);
        }
        if place.queue_size == 0 || place.queue_size > QUEUE_SIZE_MAX {
            return value("size of in-flight queues", place.queue_size);
        }
        Ok(())
    }

    // ---- configuration space ----

    fn mtu(&self) -> u16 {
        self.connection.mtu.unwrap_or(self.config.mtu)
    }

    fn read_config(&self, access: ConfigAccess) -> Outcome {
        self.need(ProtocolFeatures::CONFIG, "CONFIG")?;
        let space = config_space(self.config.mac, self.link_up, self.config.queue_pairs, self.mtu());
        let start = access.offset as usize;
        let bytes = start.checked_add(access.data.len()).and_then(|end| space.get(start..end));
        Ok(Some(match bytes {
            Some(bytes) if !bytes.is_empty() => {
                Reply::Config(ConfigAccess { data: bytes.to_vec(), ..access })
            }
            _ => Reply::NoConfig,
        }))
    }

    /// Sets the link up or down; a front-end that can be told is told.
    pub fn set_link(&mut self, up: bool, host: &mut dyn QueueHost) {
        if self.link_up != up {
            self.link_up = up;
            self.config_changed();
            self.show(host);
        }
    }

    /// Changes the MTU in configuration space; a front-end that can be told is told.
    pub fn set_mtu(&mut self, mtu: u16, host: &mut dyn QueueHost) {
        if self.mtu() != mtu || self.config.mtu != mtu {
            self.config.mtu = mtu;
            self.connection.mtu = None;
            self.config_changed();
            self.show(host);
        }
    }

    fn config_changed(&mut self) {
        if !self.negotiated(ProtocolFeatures::CONFIG) {
            return;
        }
        if let Some(channel) = &self.connection.channel
            && let Err(error) = channel.config_changed()
            && let Some(suppressed) = self.log_lines.permit(Instant::now())
        {
            tracing::warn!(port = self.name, %error, suppressed, "the front-end could not be told of a change");
        }
    }

    // ---- hand-over ----

    /// Takes all queues back, for a while ([`resume`](Self::resume)) or for good; positions are then exact. No
    /// message may be handled meanwhile.
    ///
    /// # Errors
    /// A queue is lost.
    pub fn suspend(&mut self, host: &mut dyn QueueHost) -> Result<(), Refusal> {
        self.stop_all(host)
    }

    /// Starts every ring that was running or has become ready.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn resume(&mut self, host: &mut dyn QueueHost) -> Result<(), Refusal> {
        self.start_ready(host)?;
        self.show(host);
        Ok(())
    }

    // ---- display ----

    /// The port's state now.
    pub fn state(&self) -> PortState {
        let connection = &self.connection;
        let vrings: Vec<VringView> = connection
            .vrings
            .iter()
            .enumerate()
            .filter(|(_, vring)| vring.is_known())
            .map(|(index, vring)| VringView {
                index: index as u16,
                size: vring.size.unwrap_or(0).into(),
                running: vring.running,
                problem: vring.problem.map(|problem| problem.to_string()),
            })
            .collect();
        let phase = match (self.connected, connection.vrings.iter().any(|vring| vring.running)) {
            (false, _) => Phase::Waiting,
            (true, false) => Phase::Negotiating,
            (true, true) => Phase::Running,
        };
        PortState {
            phase,
            features: feature_names(connection.features),
            protocol: connection.protocol.names(),
            queue_pairs: connection.vrings.chunks(2).filter(|pair| pair.iter().all(|v| v.running)).count()
                as u16,
            queue_pairs_max: self.config.queue_pairs,
            vrings,
            memory_regions: connection.memory.regions(),
            memory_regions_max: self.config.memory_slots(),
            memory_bytes: connection.memory.bytes(),
            memory_bytes_max: self.config.memory_bytes_max,
            logging: connection.logging(),
            link_up: self.link_up,
            mtu: self.mtu(),
            connections: self.connections,
            messages: self.messages,
            messages_per_second_max: self.config.messages_per_second,
            log_lines_per_second_max: self.config.log_lines_per_second,
            refused: self.refused,
            last_error: self.last_error.clone(),
        }
    }

    /// Tells the host when anything but the count of messages differs from what it was told last.
    pub(crate) fn show(&mut self, host: &mut dyn QueueHost) {
        let state = self.state();
        self.shown.messages = state.messages;
        if state != self.shown {
            self.shown = state.clone();
            host.state_changed(state);
        }
    }
}

/// Requests whose answer is not a mere acknowledgement: a refusal can't be told by one.
fn has_own_reply(code: RequestCode) -> bool {
    use RequestCode as C;
    matches!(
        code,
        C::GET_FEATURES
            | C::GET_PROTOCOL_FEATURES
            | C::GET_QUEUE_NUM
            | C::GET_VRING_BASE
            | C::GET_CONFIG
            | C::GET_INFLIGHT_FD
            | C::GET_MAX_MEM_SLOTS
            | C::GET_STATUS
            | C::SET_LOG_BASE
    )
}

const _: () = assert!(CONFIG_MAX >= 17, "the network device's configuration fits into a message");
