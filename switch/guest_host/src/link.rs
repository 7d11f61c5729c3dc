//! The connection to the switch: made, lost and made again, under rings that stay.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use vhost_user::{Frontend, FrontendError, Inflight, MemoryRegion, Offer, ProtocolFeatures, VringAddr};
use virtio_defs::feature::{EVENT_IDX, RING_PACKED, VERSION_1, VHOST_USER_PROTOCOL};
use virtio_defs::net::feature as net;

use crate::config::{GuestConfig, Role, SocketMode};
use crate::device::{Device, timespec};
use crate::run::GuestError;

/// Longest wait for an answer: a switch that is being stopped in a debugger shouldn't keep us from ending.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

const PROTOCOL: ProtocolFeatures =
    ProtocolFeatures::MQ.or(ProtocolFeatures::REPLY_ACK).or(ProtocolFeatures::INFLIGHT_SHMFD);

/// Why the switch can't be reached now. It may come later.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody there, or the connection failed.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// The switch lacks a feature.
    #[error("the switch doesn't offer {0}")]
    Lacks(&'static str),
    /// Memory or rings can't be made.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// The vhost-user connection.
pub struct Link {
    path: PathBuf,
    listener: Option<UnixListener>,
    front: Option<Frontend>,
    /// What a restarted switch needs to know of packed rings. Kept here while it is away.
    inflight: Option<(Inflight, OwnedFd)>,
    connections: u64,
}

impl Link {
    /// Listens, as a server; does nothing yet as a client.
    pub fn new(config: &GuestConfig) -> Result<Link, GuestError> {
        let listener = match config.mode {
            SocketMode::Client => None,
            SocketMode::Server => {
                let fail = |source| GuestError::Listen { path: config.socket.clone(), source };
                Some(listen(&config.socket).map_err(fail)?)
            }
        };
        Ok(Link { path: config.socket.clone(), listener, front: None, inflight: None, connections: 0 })
    }

    /// Times a connection was made.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// The connection, if there is one.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.front.as_ref().map(AsFd::as_fd)
    }

    /// Whether the switch is still there: it has nothing to say unasked, so anything readable is its end.
    pub fn is_alive(&self) -> bool {
        let Some(front) = &self.front else { return false };
        let mut fds = [PollFd::new(front, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timespec(0))), Ok(0))
    }

    /// Hangs up.
    pub fn close(&mut self) {
        self.front = None;
    }

    /// The rings have begun anew.
    pub fn forget_positions(&mut self) {
        self.inflight = None;
    }

    /// Connects, or takes a connection that waits. False when nobody has connected yet. `device` is made when there
    /// is none, or what the switch offers no longer fits it; otherwise its rings go on where they stood.
    pub fn connect(&mut self, config: &GuestConfig, device: &mut Option<Device>) -> Result<bool, LinkError> {
        let mut front = match &self.listener {
            None => Frontend::connect(&self.path)?,
            Some(listener) => match Frontend::accept(listener) {
                Err(FrontendError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                front => front?,
            },
        };
        front.set_timeout(Some(ANSWER_TIMEOUT))?;
        front.set_owner()?;
        let offered = front.offer()?;
        let agreed =
            Offer { virtio: choose(config, offered.virtio)?, protocol: offered.protocol.and(PROTOCOL) };
        if agreed.virtio & VHOST_USER_PROTOCOL != 0 {
            front.set_protocol_features(agreed.protocol)?;
        }
        front.set_features(agreed.virtio)?;
        let pairs = if agreed.virtio & net::MQ != 0 && agreed.protocol.contains(ProtocolFeatures::MQ) {
            (front.queue_count()?).clamp(1, config.queue_pairs.into()) as u16
        } else {
            1
        };
        self.start(config, &mut front, agreed, pairs, device)?;
        self.front = Some(front);
        self.connections += 1;
        Ok(true)
    }

    fn start(
        &mut self,
        config: &GuestConfig,
        front: &mut Frontend,
        agreed: Offer,
        pairs: u16,
        device: &mut Option<Device>,
    ) -> Result<(), LinkError> {
        let packed = agreed.virtio & RING_PACKED != 0;
        let records = agreed.protocol.contains(ProtocolFeatures::INFLIGHT_SHMFD);
        let fits = |d: &Device| d.features() == agreed.virtio && d.pairs() == usize::from(pairs);
        // Where a packed ring stands is nowhere but in the in-flight record.
        let resumes = device.as_ref().is_some_and(fits) && (!packed || records && self.inflight.is_some());
        if !resumes {
            let totals = device.take().map(|d| d.totals());
            let mut new = Device::new(config, agreed.virtio, pairs)?;
            new.set_totals(totals.unwrap_or_default());
            *device = Some(new);
            self.inflight = None;
        }
        let device = device.as_ref().expect("just made, or there before");
        let (memory, guest_addr, user_addr) = device.memory();
        let region = MemoryRegion { guest_addr, size: memory.len() as u64, user_addr, mmap_offset: 0 };
        front.set_mem_table(&[(region, memory.fd())])?;
        if records {
            match &self.inflight {
                Some((place, fd)) => front.set_inflight(*place, fd.as_fd())?,
                None => self.inflight = Some(front.inflight(pairs * 2, config.ring_size)?),
            }
        }
        for index in 0..device.pairs() * 2 {
            let base = match (packed, resumes) {
                (true, _) => 0x8000_8000,
                (false, true) => device.used_index(index).into(),
                (false, false) => 0,
            };
            let ((desc, avail, used), kick, call) = device.vring(index);
            let n = index as u32;
            front.set_vring_num(n, device.ring_size().into())?;
            front.set_vring_base(n, base)?;
            front.set_vring_addr(VringAddr { index: n, flags: 0, desc, used, avail, log: 0 })?;
            front.set_vring_call(index as u8, Some(call))?;
            front.set_vring_kick(index as u8, Some(kick))?;
            if agreed.virtio & VHOST_USER_PROTOCOL != 0 {
                front.enable_vring(n)?;
            }
        }
        device.kick_all();
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // Ours: it was made when we began to listen.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Which of the features offered are wanted.
fn choose(config: &GuestConfig, offered: u64) -> Result<u64, LinkError> {
    if offered & VERSION_1 == 0 {
        return Err(LinkError::Lacks("virtio version 1"));
    }
    if config.packed && offered & RING_PACKED == 0 {
        return Err(LinkError::Lacks("packed rings"));
    }
    let mut wanted = VERSION_1 | VHOST_USER_PROTOCOL | EVENT_IDX | net::MRG_RXBUF;
    if config.packed {
        wanted |= RING_PACKED;
    }
    if config.queue_pairs > 1 {
        wanted |= net::MQ;
    }
    if config.offloads {
        wanted |= net::CSUM | net::GUEST_CSUM;
    }
    let mut agreed = offered & wanted;
    if config.offloads && matches!(config.role, Role::Host(_)) {
        if agreed & net::CSUM != 0 {
            agreed |= offered & net::HOST_TSO4;
        }
        // A segment larger than the MTU needs several receive buffers.
        if agreed & net::GUEST_CSUM != 0 && agreed & net::MRG_RXBUF != 0 {
            agreed |= offered & (net::GUEST_TSO4 | net::GUEST_TSO6);
        }
    }
    Ok(agreed)
}

/// Listens at `path`, in place of a socket that nobody listens on any more.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                _ => return Err(e),
            }
            UnixListener::bind(path)?
        }
        listener => listener?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(role: Role) -> GuestConfig {
        GuestConfig::new("guest", "/nowhere", SocketMode::Client, role)
    }

    fn host() -> Role {
        Role::Host(crate::HostRole::new([10, 0, 0, 1].into(), 24))
    }

    #[test]
    fn segmentation_is_asked_for_only_with_what_it_needs() {
        let all = u64::MAX;
        let tso = net::HOST_TSO4 | net::GUEST_TSO4;
        assert_eq!(choose(&config(host()), all).unwrap() & tso, tso);
        assert_eq!(choose(&config(host()), all & !net::CSUM).unwrap() & tso, net::GUEST_TSO4);
        assert_eq!(choose(&config(host()), all & !net::MRG_RXBUF).unwrap() & tso, net::HOST_TSO4);
        assert_eq!(choose(&config(Role::Sink), all).unwrap() & tso, 0);
        let plain = GuestConfig { offloads: false, ..config(host()) };
        assert_eq!(choose(&plain, all).unwrap() & (tso | net::CSUM | net::GUEST_CSUM), 0);
    }

    #[test]
    fn a_switch_without_what_was_asked_for_is_refused() {
        let packed = GuestConfig { packed: true, ..config(Role::Sink) };
        assert!(matches!(choose(&packed, VERSION_1), Err(LinkError::Lacks("packed rings"))));
        assert!(matches!(choose(&packed, RING_PACKED), Err(LinkError::Lacks("virtio version 1"))));
        assert_eq!(choose(&config(Role::Sink), VERSION_1).unwrap(), VERSION_1);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let first = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let config = GuestConfig { socket: path.clone(), mode: SocketMode::Server, ..config(Role::Sink) };
        drop(Link::new(&config).unwrap());
        assert!(!path.exists());
    }
}
