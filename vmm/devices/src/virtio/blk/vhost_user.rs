//! A disk by vhost-user: another process, such as `qemu-storage-daemon`, works on the guest's rings.
//!
//! While it is away the guest's requests wait. What it had taken and not answered is done again by the next.

use std::io;
use std::path::PathBuf;

use virtio_defs::blk::{CONFIG_BYTES, feature};
use virtio_defs::feature::{EVENT_IDX, INDIRECT_DESC, RING_PACKED, VERSION_1};

use super::QUEUE_SIZE;
use crate::virtio::vhost_user::{Link, Profile};
use crate::virtio::{Device, Kind, Memory, Notifier, Session, StartError, read_bytes};

/// Features that a guest may use if the back-end has them.
const PASSED_ON: u64 = VERSION_1
    | RING_PACKED
    | EVENT_IDX
    | INDIRECT_DESC
    | feature::SIZE_MAX
    | feature::SEG_MAX
    | feature::RO
    | feature::BLK_SIZE
    | feature::FLUSH
    | feature::TOPOLOGY
    | feature::MQ
    | feature::DISCARD
    | feature::WRITE_ZEROES;
/// Where the configuration says how many queues the device has.
const QUEUES_AT: usize = 34;

/// What a block device by vhost-user is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the back-end listens.
    pub socket: PathBuf,
    /// Queues, of which the back-end must have as many.
    pub queues: u16,
}

/// A block device whose back-end is another process.
pub struct VhostUserBlk {
    queue_sizes: Vec<u16>,
    link: Link,
}

impl VhostUserBlk {
    /// Makes the device and begins to look for the back-end. `reached` is called once, on a thread of the device's, when it
    /// is found; before that the guest must not look at the device.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new(
        options: Options,
        notifier: Notifier,
        reached: impl FnOnce() + Send + 'static,
    ) -> io::Result<VhostUserBlk> {
        let queues = options.queues;
        let profile = Profile { own: 0, queues, used_first: queues, mtu: None, config_bytes: CONFIG_BYTES };
        let link = Link::new(options.socket, profile, notifier, reached)?;
        Ok(VhostUserBlk { queue_sizes: vec![QUEUE_SIZE; options.queues.into()], link })
    }
}

impl Device for VhostUserBlk {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        let one_queue = if self.queue_sizes.len() == 1 { feature::MQ } else { 0 };
        self.link.found().map_or(VERSION_1, |found| found.features & PASSED_ON & !one_queue)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let Some(mut found) = self.link.found() else { return };
        // The guest may use the queues that there are here, however many the back-end has.
        let queues = (self.queue_sizes.len() as u16).to_le_bytes();
        if let Some(field) = found.config.get_mut(QUEUES_AT..QUEUES_AT + 2) {
            field.copy_from_slice(&queues);
        }
        read_bytes(&found.config, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.link.start(session)
    }

    fn stop(&mut self) {
        self.link.stop();
    }

    fn memory_grown(&mut self, _memory: &Memory) {
        self.link.memory_grown();
    }
}
