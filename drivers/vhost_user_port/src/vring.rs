//! One vring: what the front-end told of it, and its queue's life.

use std::any::Any;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use guest_memory::{DirtyLog, MemMap};
use vhost_user::{VRING_F_LOG, VringAddr};
use virtio_defs::feature;
use virtqueue::{EventFd, InflightQueue, RingConfig, RingError, VirtioRx, VirtioTx};

use crate::host::{Direction, QueueHost};

/// How the driver tells of new buffers.
#[derive(Debug, Default)]
pub(crate) enum Kick {
    /// Not set: the ring is not started.
    #[default]
    Unset,
    /// Not at all; the ring is started and polled.
    Poll,
    /// By this event.
    Event(EventFd),
}

/// What the front-end told of a vring.
#[derive(Debug, Default)]
pub(crate) struct Vring {
    pub size: Option<u16>,
    pub addr: Option<VringAddr>,
    /// Where to go on; of a running ring, where it started.
    pub base: Option<u32>,
    pub kick: Kick,
    pub call: Option<EventFd>,
    pub err: Option<EventFd>,
    pub enabled: bool,
    /// Its queue is with the host.
    pub running: bool,
    /// Why it could not start.
    pub problem: Option<RingError>,
}

/// What all rings of a device share.
pub(crate) struct Shared<'a> {
    pub features: u64,
    pub memory: &'a Arc<MemMap>,
    pub log: Option<&'a Arc<DirtyLog>>,
    pub inflight: Option<InflightQueue>,
}

/// The pair and direction of a vring.
pub(crate) fn place(index: usize) -> (u16, Direction) {
    let direction = if index.is_multiple_of(2) { Direction::Tx } else { Direction::Rx };
    ((index / 2) as u16, direction)
}

/// The vring of a pair and direction.
pub(crate) fn index(pair: u16, direction: Direction) -> usize {
    usize::from(pair) * 2 + usize::from(direction == Direction::Rx)
}

/// A descriptor of a vring could not be duplicated for its queue.
pub(crate) type StartResult = std::io::Result<()>;

impl Vring {
    /// Whether the front-end has said anything of it.
    pub fn is_known(&self) -> bool {
        self.size.is_some() || self.addr.is_some() || !matches!(self.kick, Kick::Unset) || self.enabled
    }

    /// Whether the front-end has started it and everything is there.
    ///
    /// Without protocol features a ring is enabled from the start.
    pub fn is_ready(&self, features: u64) -> bool {
        let enabled = self.enabled || features & feature::VHOST_USER_PROTOCOL == 0;
        let started = !matches!(self.kick, Kick::Unset);
        enabled && started && self.size.is_some() && self.addr.is_some() && self.base.is_some()
    }

    fn ring_config(&self, shared: &mut Shared<'_>) -> std::io::Result<Option<RingConfig>> {
        let (Some(size), Some(addr), Some(base)) = (self.size, self.addr, self.base) else { return Ok(None) };
        let mut config = RingConfig::new(size, addr.desc, addr.avail, addr.used, shared.features);
        config.base = base;
        config.log = shared.log.cloned();
        config.used_log_gpa = (addr.flags & VRING_F_LOG != 0).then_some(addr.log);
        config.kick = match &self.kick {
            Kick::Event(event) => Some(event.try_clone()?),
            Kick::Poll | Kick::Unset => None,
        };
        config.call = self.call.as_ref().map(EventFd::try_clone).transpose()?;
        config.inflight = shared.inflight.take();
        Ok(Some(config))
    }

    /// Makes the ring's queue and gives it to the host. A ring that breaks the rules stays where it is, with
    /// [`problem`](Self::problem) set.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn start(&mut self, index: usize, mut shared: Shared<'_>, host: &mut dyn QueueHost) -> StartResult {
        assert!(!self.running, "vring {index} is started twice");
        let Some(config) = self.ring_config(&mut shared)? else { return Ok(()) };
        let memory = Arc::clone(shared.memory);
        let (pair, direction) = place(index);
        let started = match direction {
            Direction::Rx => VirtioRx::new(config, memory).map(|q| host.attach_rx(pair, Box::new(q))),
            Direction::Tx => VirtioTx::new(config, memory).map(|q| host.attach_tx(pair, Box::new(q))),
        };
        self.running = started.is_ok();
        self.problem = started.err();
        Ok(())
    }

    /// Takes the ring's queue back from the host and notes where it stands. Returns whether the host had it.
    pub fn stop(&mut self, index: usize, host: &mut dyn QueueHost) -> bool {
        if !self.running {
            return true;
        }
        self.running = false;
        let (pair, direction) = place(index);
        let config = match direction {
            Direction::Rx => host.detach_rx(pair).and_then(|q| stopped::<VirtioRx>(q, VirtioRx::into_state)),
            Direction::Tx => host.detach_tx(pair).and_then(|q| stopped::<VirtioTx>(q, VirtioTx::into_state)),
        };
        self.base = config.as_ref().map(|c| c.base);
        config.is_some()
    }

    /// Takes the ring's queue back because the connection has ended, and drops it as it is: nobody asks where it
    /// stands any more, so its in-flight record must go on telling.
    pub fn abandon(&mut self, index: usize, host: &mut dyn QueueHost) {
        if self.running {
            self.running = false;
            let (pair, direction) = place(index);
            match direction {
                Direction::Rx => drop(host.detach_rx(pair)),
                Direction::Tx => drop(host.detach_tx(pair)),
            }
        }
    }

    /// The descriptors to hand over, in the order kick, call, error.
    pub fn fds(&self) -> [Option<BorrowedFd<'_>>; 3] {
        use std::os::fd::AsFd;
        let kick = match &self.kick {
            Kick::Event(event) => Some(event.as_fd()),
            Kick::Poll | Kick::Unset => None,
        };
        [kick, self.call.as_ref().map(AsFd::as_fd), self.err.as_ref().map(AsFd::as_fd)]
    }
}

fn stopped<Q: 'static>(queue: Box<dyn Any>, stop: impl FnOnce(Q) -> RingConfig) -> Option<RingConfig> {
    queue.downcast::<Q>().ok().map(|q| stop(*q))
}

/// Takes a descriptor that a message brought.
///
/// # Errors
/// It is no event descriptor.
pub(crate) fn event(fd: Option<OwnedFd>) -> std::io::Result<Option<EventFd>> {
    fd.map(EventFd::new).transpose()
}
