//! Network by vhost-user: the switch works on the guest's rings. The guest sees its link go down and come back with it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use virtio_defs::feature::{RING_RESET, VERSION_1};
use virtio_defs::net::feature as net;

use super::control::{self, Command as ControlCommand, ControlQueue};
use super::{Config, RINGS_AND_OFFLOADS, config_bytes, map_of};
use crate::virtio::vhost_user::{Link, Profile};
use crate::virtio::{Device, Kind, Memory, Notifier, Queue, Session, StartError};

/// Features that are between the guest and this side: the switch needn't know.
const OWN: u64 = net::MAC | net::STATUS | net::MTU | net::CTRL_VQ | net::MQ | RING_RESET;

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
    link: Link,
    notifier: Notifier,
    /// While the guest's driver is ready.
    control: Option<(u16, ControlQueue)>,
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
        let config = options.config;
        let mut queue_sizes = vec![options.queue_size; 2 * usize::from(config.pairs)];
        if config.pairs > 1 {
            queue_sizes.push(control::QUEUE_SIZE);
        }
        let profile =
            Profile { own: OWN, queues: config.pairs, used_first: 2, mtu: config.mtu, config_bytes: 0 };
        let link = Link::new(options.socket, profile, notifier.clone(), reached)?;
        Ok(VhostUserNet { config, queue_sizes, link, notifier, control: None })
    }
}

impl Device for VhostUserNet {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        let offered = self.link.found().map(|found| found.features);
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
        let bytes = config_bytes(&self.config, self.link.is_up());
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
        self.link.start(session)
    }

    fn stop(&mut self) {
        self.control = None;
        self.link.stop();
    }

    fn memory_grown(&mut self, memory: &Memory) {
        self.link.memory_grown();
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
                self.link.use_queues(2 * pairs)
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
            _ => self.link.stop_queue(index),
        }
    }

    fn start_queue(&mut self, queue: Queue) -> Result<(), StartError> {
        if queue.index >= 2 * self.config.pairs {
            return Err(StartError("a control queue is not started again without the device".into()));
        }
        self.link.start_queue(queue)
    }
}
