//! The host kernel as a network device's back-end (`/dev/vhost-net`): it works on the guest's rings itself and moves
//! frames to and from a TAP device.
//!
//! [`Kernel`] is one such back-end, and what it does is given to it with [`Kernel::start`]. The interface is that of Linux'
//! `include/uapi/linux/vhost.h`, through the `vhost` crate.
//!
//! UNSAFETY: that crate wants event descriptors in a type that can be made from a raw descriptor only.
#![allow(unsafe_code)]

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Where the kernel's back-end is.
pub const PATH: &str = "/dev/vhost-net";

/// Why the kernel doesn't work on the rings.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct VhostNetError {
    /// What was asked, by the kernel's name for it.
    call: &'static str,
    #[source]
    source: vhost::Error,
}

fn failed(call: &'static str) -> impl Fn(vhost::Error) -> VhostNetError {
    move |source| VhostNetError { call, source }
}

/// A ring that the guest's driver has set up. Addresses are guest-physical.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    /// 0: the guest receives on it; 1: it transmits.
    pub index: usize,
    /// Entries, a power of two.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub driver: u64,
    /// Used ring.
    pub device: u64,
    /// Signalled by the driver.
    pub kick: BorrowedFd<'a>,
    /// To be signalled for the driver.
    pub call: BorrowedFd<'a>,
}

/// A back-end in the kernel.
pub struct Kernel {
    net: Net<GuestMemoryAtomic<GuestMemoryMmap>>,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    rings: Vec<usize>,
}

impl Kernel {
    /// Opens a back-end that does nothing yet.
    ///
    /// # Errors
    /// There is no such device, or it may not be opened.
    pub fn open(memory: &GuestMemoryAtomic<GuestMemoryMmap>) -> Result<Kernel, VhostNetError> {
        let net = Net::new(memory.clone()).map_err(failed(PATH))?;
        Ok(Kernel { net, memory: memory.clone(), rings: Vec::new() })
    }

    /// The features of rings that the kernel knows.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn features(&self) -> Result<u64, VhostNetError> {
        self.net.get_features().map_err(failed("VHOST_GET_FEATURES"))
    }

    /// Lets the kernel work on these rings, with a TAP device at the other end.
    ///
    /// # Errors
    /// The kernel refuses: a ring lies outside of memory, say. It works on none of them.
    pub fn start(&mut self, features: u64, rings: &[Ring<'_>], tap: &File) -> Result<(), VhostNetError> {
        self.net.set_owner().map_err(failed("VHOST_SET_OWNER"))?;
        let started = self.start_all(features, rings, tap);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn start_all(&mut self, features: u64, rings: &[Ring<'_>], tap: &File) -> Result<(), VhostNetError> {
        self.net.set_features(features).map_err(failed("VHOST_SET_FEATURES"))?;
        self.tell_memory()?;
        rings.iter().try_for_each(|ring| self.start_ring(ring, tap))
    }

    /// Ends it: when this returns, the kernel touches the rings no more.
    pub fn stop(&mut self) {
        for index in self.rings.drain(..) {
            // What fails here is ended by the next call, or by closing the descriptor.
            let _ = self.net.set_backend(index, None);
        }
        let _ = self.net.reset_owner();
    }

    /// Tells the kernel about memory that has grown.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tell_memory(&self) -> Result<(), VhostNetError> {
        let memory = self.memory.memory();
        let regions = memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region);
        let regions = regions.collect::<Result<Vec<_>, _>>().map_err(failed("VHOST_SET_MEM_TABLE"))?;
        self.net.set_mem_table(&regions).map(drop).map_err(failed("VHOST_SET_MEM_TABLE"))
    }

    fn start_ring(&mut self, ring: &Ring<'_>, tap: &File) -> Result<(), VhostNetError> {
        let Ring { index, size, desc, driver, device, kick, call } = *ring;
        self.net.set_vring_num(index, size).map_err(failed("VHOST_SET_VRING_NUM"))?;
        self.net.set_vring_base(index, 0).map_err(failed("VHOST_SET_VRING_BASE"))?;
        let place = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: desc,
            used_ring_addr: device,
            avail_ring_addr: driver,
            log_addr: None,
        };
        self.net.set_vring_addr(index, &place).map_err(failed("VHOST_SET_VRING_ADDR"))?;
        self.net.set_vring_kick(index, &event(kick)).map_err(failed("VHOST_SET_VRING_KICK"))?;
        self.net.set_vring_call(index, &event(call)).map_err(failed("VHOST_SET_VRING_CALL"))?;
        self.net.set_backend(index, Some(tap)).map_err(failed("VHOST_NET_SET_BACKEND"))?;
        self.rings.push(index);
        Ok(())
    }
}

/// The descriptor as the type that the `vhost` crate wants.
fn event(fd: BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open as long as `fd` is borrowed, and never closed by what is made here.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        match Kernel::open(&memory) {
            Ok(kernel) => assert_ne!(kernel.features().unwrap() & 1 << 32, 0, "version 1 of virtio"),
            Err(error) => assert!(error.to_string().starts_with(PATH), "{error}"),
        }
    }
}
