//! What a ring is made from.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use guest_memory::DirtyLog;
use virtio_defs::{feature, net};

use crate::InflightQueue;
use crate::event::EventFd;

/// Everything about a ring but the memory it lies in. A stopped queue gives it back with its position in
/// [`base`](Self::base), ready to be started again, here or in another process.
#[derive(Debug)]
pub struct RingConfig {
    /// Entries: 1 to 32768, a power of two for a split ring.
    pub size: u16,
    /// The descriptor table or packed ring, as an address in the front-end.
    pub desc_addr: u64,
    /// The available ring, or the driver's event suppression; an address in the front-end.
    pub driver_addr: u64,
    /// The used ring, or the device's event suppression; an address in the front-end.
    pub device_addr: u64,
    /// Where to go on, in the form of vhost-user's SET_VRING_BASE. Packed: bits 0 to 14 the next available position,
    /// bit 15 its wrap counter; 16 to 31 the same of the used position, ignored on the way in, because a stopped
    /// queue has completed all it took. Split: the next available index; for the same reason a ring goes on at the
    /// used index in its memory, which is right after a crash too.
    pub base: u32,
    /// The features negotiated with the driver, and `VHOST_LOG_ALL`.
    pub features: u64,
    /// Where to mark written pages; used while `features` holds `VHOST_LOG_ALL`.
    pub log: Option<Arc<DirtyLog>>,
    /// Guest-physical address of the used ring for the log (SET_VRING_ADDR with the log flag). `None`: found by the
    /// memory table.
    pub used_log_gpa: Option<u64>,
    /// Becomes readable when the driver kicks.
    pub kick: Option<EventFd>,
    /// Written to interrupt the driver.
    pub call: Option<EventFd>,
    /// This ring's part of the in-flight region.
    pub inflight: Option<InflightQueue>,
}

impl RingConfig {
    /// A ring at the start of its life, without descriptors, log and in-flight region.
    pub fn new(size: u16, desc_addr: u64, driver_addr: u64, device_addr: u64, features: u64) -> RingConfig {
        let base = if features & feature::RING_PACKED != 0 { 0x8000_8000 } else { 0 };
        RingConfig {
            size,
            desc_addr,
            driver_addr,
            device_addr,
            base,
            features,
            log: None,
            used_log_gpa: None,
            kick: None,
            call: None,
            inflight: None,
        }
    }

    /// Whether all of `bits` were negotiated.
    #[inline(always)]
    pub fn has(&self, bits: u64) -> bool {
        self.features & bits == bits
    }

    /// Whether any request in a header from the driver can be honoured.
    pub(crate) fn host_offloads(&self) -> bool {
        self.features & (net::feature::CSUM | net::feature::HOST_TSO4 | net::feature::HOST_TSO6) != 0
    }

    /// Takes descriptors as a message brought them.
    ///
    /// # Errors
    /// One of them is no event descriptor.
    pub fn set_events(&mut self, kick: Option<OwnedFd>, call: Option<OwnedFd>) -> std::io::Result<()> {
        self.kick = kick.map(EventFd::new).transpose()?;
        self.call = call.map(EventFd::new).transpose()?;
        Ok(())
    }
}
