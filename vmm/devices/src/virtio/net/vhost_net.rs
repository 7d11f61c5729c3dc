//! Network by the host's kernel: vhost-net works on the guest's rings, with a TAP device at the other end.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use port::Accepts;
use vhost_net::{Kernel, Ring, VhostNetError};
use virtio_defs::feature::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, RING_PACKED, VERSION_1};
use virtio_defs::net::feature as net;

use super::tap::TapDevice;
use super::{Config, RINGS_AND_OFFLOADS, config_bytes};
use crate::virtio::{Device, Kind, Memory, Notifier, Session, StartError};

/// Features that are the kernel's rings' own; all others are the TAP device's.
const RINGS: u64 = VERSION_1 | RING_PACKED | EVENT_IDX | INDIRECT_DESC | IN_ORDER | net::MRG_RXBUF;

/// A network device whose back-end is the host's kernel.
pub struct VhostNet {
    config: Config,
    queue_sizes: [u16; 2],
    features: u64,
    tap: Arc<TapDevice>,
    notifier: Notifier,
    kernel: Kernel,
    running: bool,
}

impl VhostNet {
    /// Makes the device. Nothing moves before the guest's driver is ready.
    ///
    /// # Errors
    /// This kernel has no vhost-net, or it may not be used.
    pub fn new(
        config: Config,
        queue_size: u16,
        tap: Arc<TapDevice>,
        memory: &Memory,
        notifier: Notifier,
    ) -> Result<VhostNet, VhostNetError> {
        let kernel = Kernel::open(memory)?;
        let features = RINGS_AND_OFFLOADS & !(RINGS & !kernel.features()?);
        let queue_sizes = [queue_size; 2];
        Ok(VhostNet { config, queue_sizes, features, tap, notifier, kernel, running: false })
    }
}

impl Device for VhostNet {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        let mtu = if self.config.mtu.is_some() { net::MTU } else { 0 };
        self.features | net::MAC | net::STATUS | mtu
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        crate::virtio::read_bytes(&config_bytes(&self.config, true), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError(error.to_string());
        let features = session.features;
        let csum = features & net::GUEST_CSUM != 0;
        let accepts = Accepts {
            partial_checksum: csum,
            tso4: csum && features & net::GUEST_TSO4 != 0,
            tso6: csum && features & net::GUEST_TSO6 != 0,
            tso_ecn: csum && features & net::GUEST_ECN != 0,
        };
        let tap: File = self.tap.open_for_kernel(accepts).map_err(|error| failed(&error))?;
        let rings: Vec<_> = session
            .queues
            .iter()
            .map(|queue| Ring {
                index: queue.index.into(),
                size: queue.size,
                desc: queue.desc,
                driver: queue.driver,
                device: queue.device,
                kick: queue.kick.as_fd(),
                call: queue.call.as_fd(),
            })
            .collect();
        self.kernel.start(features & RINGS, &rings, &tap).map_err(|error| failed(&error))?;
        self.running = true;
        Ok(())
    }

    fn stop(&mut self) {
        self.kernel.stop();
        self.running = false;
    }

    fn memory_grown(&mut self, _memory: &Memory) {
        if self.running
            && let Err(error) = self.kernel.tell_memory()
        {
            tracing::warn!(%error, "a network device doesn't see the memory that was added");
            self.notifier.needs_reset();
        }
    }
}
