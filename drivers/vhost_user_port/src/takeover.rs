//! A connected device as a value, for another process to go on with.
//!
//! The old process exports while its rings run, so the new one can map memory and prepare without haste. Then
//! it [suspends](Session::suspend) and exports again (positions are exact now), and the new one resumes. Either
//! step may fail: the old process resumes as if nothing had happened.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use guest_memory::{DirtyLog, MapError, MemMap, RegionSpec, TableError};
use serde::{Deserialize, Serialize};
use vhost_user::{BackendChannel, DecodeError, Inflight, LogArea, MemoryRegion, ProtocolFeatures, VringAddr};
use virtio_defs::QUEUE_SIZE_MAX;

use crate::config::PortConfig;
use crate::session::{Log, Refusal, Region, Session};
use crate::vring::{self, Kick, Vring};

/// Version of [`SessionState`] written here. Raised when a field changes its meaning; a new field with a default
/// needs no new version.
pub const STATE_VERSION: u32 = 1;

/// Everything about a session but its descriptors, which it names by their place in the list beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// [`STATE_VERSION`] of the writer.
    pub version: u32,
    /// The port's name.
    pub name: String,
    /// Whether a front-end is connected. The rest is of no meaning otherwise.
    pub connected: bool,
    /// Virtio features in force.
    pub features: u64,
    /// Protocol features in force.
    pub protocol: u64,
    /// Device status register.
    pub status: u8,
    /// MTU told by the front-end.
    pub mtu: Option<u16>,
    /// Whether the link is up.
    pub link_up: bool,
    /// How often a front-end has connected.
    pub connections: u64,
    /// Messages handled: with the same number, nothing but ring positions has changed.
    pub messages: u64,
    /// The memory table.
    pub regions: Vec<RegionState>,
    /// The vrings, by index; those that nothing is known of may be left out at the end.
    pub vrings: Vec<VringSaved>,
    /// The dirty log.
    pub log: Option<AreaState>,
    /// The record of in-flight descriptors.
    pub inflight: Option<InflightState>,
    /// The channel for our own requests.
    pub channel: Option<usize>,
}

/// A memory region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionState {
    /// First guest-physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// First address in the front-end.
    pub user_addr: u64,
    /// Start in the file, in bytes.
    pub mmap_offset: u64,
    /// Its file.
    pub fd: usize,
}

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaState {
    /// Length in bytes.
    pub size: u64,
    /// Start in the file, in bytes.
    pub offset: u64,
    /// The file.
    pub fd: usize,
}

/// The record of in-flight descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InflightState {
    /// Where it lies.
    pub area: AreaState,
    /// Number of queues.
    pub queues: u16,
    /// Entries of each.
    pub queue_size: u16,
}

/// How the driver tells of new buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KickState {
    /// The ring isn't started.
    #[default]
    Unset,
    /// The ring is polled.
    Poll,
    /// By this event.
    Event(usize),
}

/// Addresses of a vring in the front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddrState {
    /// Flags of SET_VRING_ADDR.
    pub flags: u32,
    /// Descriptor table, or the packed ring.
    pub desc: u64,
    /// Used ring, or the device's event area.
    pub used: u64,
    /// Available ring, or the driver's event area.
    pub avail: u64,
    /// Guest address for the log.
    pub log: u64,
}

/// A vring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VringSaved {
    /// Entries.
    pub size: Option<u16>,
    /// Where it lies.
    pub addr: Option<AddrState>,
    /// Where to go on, as in SET_VRING_BASE. Exact only when the session was suspended.
    pub base: Option<u32>,
    /// How the driver kicks.
    pub kick: KickState,
    /// The driver's interrupt.
    pub call: Option<usize>,
    /// The front-end's error event.
    pub err: Option<usize>,
    /// Whether it is enabled.
    pub enabled: bool,
}

/// Why a state can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Written by a version that this one doesn't know.
    #[error("state of version {0}, this program knows {STATE_VERSION}")]
    Version(u32),
    /// A number in it contradicts the port's configuration, or itself.
    #[error("{what} {value} is not allowed")]
    Value {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// It names a descriptor that isn't there, or names one twice.
    #[error("file descriptor {0} is missing or used twice")]
    Descriptor(usize),
    /// A descriptor is of the wrong kind.
    #[error("file descriptor: {0}")]
    Io(#[from] io::Error),
    /// The memory table.
    #[error(transparent)]
    Memory(#[from] TableError),
    /// The dirty log.
    #[error("dirty log: {0}")]
    Log(#[from] MapError),
    /// The message that had begun.
    #[error("begun message: {0}")]
    Begun(#[from] DecodeError),
    /// A connected session without its connection, or the reverse.
    #[error("session and socket don't belong together")]
    NoSocket,
    /// Something the front-end itself would have been refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Collects duplicates of descriptors and numbers them.
#[derive(Default)]
struct Exporter {
    fds: Vec<OwnedFd>,
}

impl Exporter {
    fn add(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.fds.push(fd.try_clone_to_owned()?);
        Ok(self.fds.len() - 1)
    }

    fn add_if(&mut self, fd: Option<BorrowedFd<'_>>) -> io::Result<Option<usize>> {
        fd.map(|fd| self.add(fd)).transpose()
    }
}

/// Hands descriptors out by number, each once.
struct Importer {
    fds: Vec<Option<OwnedFd>>,
}

impl Importer {
    fn take(&mut self, number: usize) -> Result<OwnedFd, ImportError> {
        self.fds.get_mut(number).and_then(Option::take).ok_or(ImportError::Descriptor(number))
    }

    fn take_if(&mut self, number: Option<usize>) -> Result<Option<OwnedFd>, ImportError> {
        number.map(|number| self.take(number)).transpose()
    }
}

impl Session {
    /// The session as a value, and duplicates of all descriptors it names. Changes nothing.
    ///
    /// While rings run, their [`base`](VringSaved::base) is where they started.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn export(&self) -> io::Result<(SessionState, Vec<OwnedFd>)> {
        let connection = &self.connection;
        let mut out = Exporter::default();
        let mut regions = vec![];
        for Region { place, fd } in &connection.regions {
            let fd = out.add(fd.as_fd())?;
            let &MemoryRegion { guest_addr, size, user_addr, mmap_offset } = place;
            regions.push(RegionState { guest_addr, size, user_addr, mmap_offset, fd });
        }
        let mut vrings = vec![];
        for vring in &connection.vrings {
            vrings.push(save_vring(vring, &mut out)?);
        }
        let log = match &connection.log {
            Some(log) => {
                let fd = out.add(log.fd.as_fd())?;
                Some(AreaState { size: log.area.size, offset: log.area.offset, fd })
            }
            None => None,
        };
        let inflight = match &connection.inflight {
            Some(record) => {
                let fd = out.add(record.fd.as_fd())?;
                let place = record.place;
                let area = AreaState { size: place.mmap_size, offset: place.mmap_offset, fd };
                Some(InflightState { area, queues: place.num_queues, queue_size: place.queue_size })
            }
            None => None,
        };
        let channel = out.add_if(connection.channel.as_ref().map(AsFd::as_fd))?;
        let state = SessionState {
            version: STATE_VERSION,
            name: self.name().to_owned(),
            connected: self.connected,
            features: connection.features,
            protocol: connection.protocol.0,
            status: connection.status,
            mtu: connection.mtu,
            link_up: self.link_up,
            connections: self.connections,
            messages: self.messages,
            regions,
            vrings,
            log,
            inflight,
            channel,
        };
        Ok((state, out.fds))
    }

    /// Goes on with an exported session under this configuration. No ring runs before [`resume`](Session::resume).
    ///
    /// # Errors
    /// The state is of another version, doesn't fit the configuration or is damaged.
    pub fn import(
        config: PortConfig,
        state: &SessionState,
        fds: Vec<OwnedFd>,
    ) -> Result<Session, ImportError> {
        if state.version != STATE_VERSION {
            return Err(ImportError::Version(state.version));
        }
        let value = |what, value| Err(ImportError::Value { what, value });
        let mut session = Session::new(state.name.as_str(), config);
        session.link_up = state.link_up;
        session.connections = state.connections;
        session.messages = state.messages;
        if !state.connected {
            return Ok(session);
        }
        session.connected = true;
        if state.features & !session.config.offered() != 0 {
            return value("feature set", state.features);
        }
        if ProtocolFeatures(state.protocol).without(session.config.offered_protocol()).0 != 0 {
            return value("protocol feature set", state.protocol);
        }
        if state.vrings.len() > session.connection.vrings.len() {
            return value("number of vrings", state.vrings.len() as u64);
        }
        let mut from = Importer { fds: fds.into_iter().map(Some).collect() };
        let connection = &mut session.connection;
        connection.features = state.features;
        connection.protocol = ProtocolFeatures(state.protocol);
        connection.status = state.status;
        connection.mtu = state.mtu;
        for region in &state.regions {
            let &RegionState { guest_addr, size, user_addr, mmap_offset, fd } = region;
            let place = MemoryRegion { guest_addr, size, user_addr, mmap_offset };
            connection.regions.push(Region { place, fd: from.take(fd)? });
        }
        let specs: Vec<RegionSpec<'_>> = connection.regions.iter().map(Region::spec).collect();
        connection.memory = Arc::new(MemMap::new(&specs)?);
        for (index, (vring, saved)) in connection.vrings.iter_mut().zip(&state.vrings).enumerate() {
            *vring = restore_vring(index, saved, &mut from)?;
        }
        if let Some(AreaState { size, offset, fd }) = state.log {
            let fd = from.take(fd)?;
            let map = Arc::new(DirtyLog::new(fd.as_fd(), offset, size)?);
            connection.log = Some(Log { area: LogArea { size, offset }, fd, map });
        }
        connection.channel = from.take_if(state.channel)?.map(BackendChannel::new).transpose()?;
        if let Some(InflightState { area, queues, queue_size }) = state.inflight {
            let fd = from.take(area.fd)?;
            let place = Inflight {
                mmap_size: area.size,
                mmap_offset: area.offset,
                num_queues: queues,
                queue_size,
                padding: 0,
            };
            let record = session.map_inflight(place, fd)?;
            session.connection.inflight = Some(record);
        }
        Ok(session)
    }

    /// Takes the ring positions of a later export of the same session, made when it was suspended. Returns
    /// `false`, and changes nothing, when more than positions is new: then all of it must be imported.
    pub fn import_positions(&mut self, state: &SessionState) -> bool {
        let same = self.connections == state.connections
            && self.messages == state.messages
            && self.connected == state.connected
            && self.link_up == state.link_up
            && self.connection.mtu == state.mtu;
        if same {
            for (vring, saved) in self.connection.vrings.iter_mut().zip(&state.vrings) {
                vring.base = saved.base;
            }
        }
        same
    }
}

fn save_vring(vring: &Vring, out: &mut Exporter) -> io::Result<VringSaved> {
    let [kick, call, err] = vring.fds();
    let addr = |&VringAddr { index: _, flags, desc, used, avail, log }: &VringAddr| AddrState {
        flags,
        desc,
        used,
        avail,
        log,
    };
    Ok(VringSaved {
        size: vring.size,
        addr: vring.addr.as_ref().map(addr),
        base: vring.base,
        kick: match (&vring.kick, out.add_if(kick)?) {
            (_, Some(number)) => KickState::Event(number),
            (Kick::Unset, None) => KickState::Unset,
            (_, None) => KickState::Poll,
        },
        call: out.add_if(call)?,
        err: out.add_if(err)?,
        enabled: vring.enabled,
    })
}

fn restore_vring(index: usize, saved: &VringSaved, from: &mut Importer) -> Result<Vring, ImportError> {
    if let Some(size) = saved.size
        && (size == 0 || size > QUEUE_SIZE_MAX)
    {
        return Err(ImportError::Value { what: "vring size", value: size.into() });
    }
    let addr = |AddrState { flags, desc, used, avail, log }| VringAddr {
        index: index as u32,
        flags,
        desc,
        used,
        avail,
        log,
    };
    let kick = match saved.kick {
        KickState::Unset => Kick::Unset,
        KickState::Poll => Kick::Poll,
        KickState::Event(number) => vring::event(Some(from.take(number)?))?.map_or(Kick::Poll, Kick::Event),
    };
    Ok(Vring {
        size: saved.size,
        addr: saved.addr.map(addr),
        base: saved.base,
        kick,
        call: vring::event(from.take_if(saved.call)?)?,
        err: vring::event(from.take_if(saved.err)?)?,
        enabled: saved.enabled,
        ..Vring::default()
    })
}
