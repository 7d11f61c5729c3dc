//! The network device (virtio 1.2, section 5.1), with its back-ends.

mod control;
pub mod tap;
pub mod vhost_net;
pub mod vhost_user;

use std::os::fd::AsFd;

use guest_memory::{MemMap, RegionSpec};
use virtio_defs::feature::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, RING_PACKED, VERSION_1};
use virtio_defs::net::feature as net;
use virtqueue::RingConfig;
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use super::{Memory, Queue, StartError};

/// Features of rings, and work on frames that can be left to the other side: what every back-end may offer.
const RINGS_AND_OFFLOADS: u64 = VERSION_1
    | RING_PACKED
    | EVENT_IDX
    | INDIRECT_DESC
    | IN_ORDER
    | net::CSUM
    | net::GUEST_CSUM
    | net::GUEST_TSO4
    | net::GUEST_TSO6
    | net::GUEST_ECN
    | net::HOST_TSO4
    | net::HOST_TSO6
    | net::HOST_ECN
    | net::MRG_RXBUF;

/// What the guest is told of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Longest IP packet; told to the guest.
    pub mtu: Option<u16>,
    /// Queue pairs, 1 or more.
    pub pairs: u16,
}

/// The device configuration (section 5.1.4).
pub(crate) fn config_bytes(config: &Config, link_up: bool) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..6].copy_from_slice(&config.mac);
    bytes[6] = link_up.into();
    bytes[8..10].copy_from_slice(&config.pairs.to_le_bytes());
    bytes[10..].copy_from_slice(&config.mtu.unwrap_or(0).to_le_bytes());
    bytes
}

/// The guest's memory for rings that this process works on. Their addresses are the guest's own.
fn map_of(memory: &Memory) -> Result<MemMap, StartError> {
    let memory = memory.memory();
    let regions: Option<Vec<_>> = memory
        .iter()
        .map(|region| {
            let file = region.file_offset()?;
            let gpa = region.start_addr().0;
            let fd = file.file().as_fd();
            Some(RegionSpec { gpa, len: region.len(), user_va: gpa, fd, offset: file.start() })
        })
        .collect();
    let regions = regions.ok_or_else(|| StartError("memory without a file".into()))?;
    MemMap::new(&regions).map_err(|error| StartError(error.to_string()))
}

/// A queue as a ring in that memory.
fn ring_config(queue: &Queue, features: u64) -> Result<RingConfig, StartError> {
    let no_descriptor = |error: std::io::Error| StartError(format!("descriptors: {error}"));
    let mut config = RingConfig::new(queue.size, queue.desc, queue.driver, queue.device, features);
    config.kick = Some(queue.kick.try_clone().map_err(no_descriptor)?);
    config.call = Some(queue.call.try_clone().map_err(no_descriptor)?);
    Ok(config)
}
