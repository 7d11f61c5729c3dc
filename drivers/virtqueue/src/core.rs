//! What receive and transmit queues share: memory, notifications, faults.

use std::sync::Arc;

use guest_memory::{MemMap, RegionCache};
use port::{PortCounters, QueueFault};
use virtio_defs::feature;

use crate::event::EventFd;
use crate::packed::PackedRing;
use crate::ring::Ring;
use crate::split::SplitRing;
use crate::{RingConfig, RingError};

/// A ring of either layout. Matched once per burst.
#[derive(Debug)]
pub(crate) enum AnyRing {
    Split(SplitRing),
    Packed(PackedRing),
}

/// Evaluates `$body` with `$ring` bound to the ring inside.
macro_rules! with_ring {
    ($any:expr, $ring:ident => $body:expr) => {
        match $any {
            $crate::core::AnyRing::Split($ring) => $body,
            $crate::core::AnyRing::Packed($ring) => $body,
        }
    };
}
pub(crate) use with_ring;

impl AnyRing {
    pub(crate) fn new(config: &RingConfig, map: &MemMap) -> Result<AnyRing, RingError> {
        if !config.has(feature::VERSION_1) {
            return Err(RingError::Legacy(config.features));
        }
        Ok(if config.has(feature::RING_PACKED) {
            AnyRing::Packed(PackedRing::new(config, map)?)
        } else {
            AnyRing::Split(SplitRing::new(config, map)?)
        })
    }
}

/// The parts of a queue beside its ring.
#[derive(Debug)]
pub(crate) struct Core {
    pub config: RingConfig,
    pub map: Arc<MemMap>,
    pub cache: RegionCache,
    /// Set once, by the first thing that broke; nothing is read or written afterwards.
    pub fault: Option<QueueFault>,
    /// Written pages are to be logged.
    pub logging: bool,
}

impl Core {
    pub(crate) fn new(config: RingConfig, map: Arc<MemMap>) -> Result<(Core, AnyRing), RingError> {
        let mut ring = AnyRing::new(&config, &map)?;
        with_ring!(&mut ring, r => r.refuse_kicks());
        let mut core = Core { config, map, cache: RegionCache::EMPTY, fault: None, logging: false };
        core.set_logging();
        Ok((core, ring))
    }

    pub(crate) fn set_logging(&mut self) {
        self.logging = self.config.log.is_some() && self.config.has(feature::VHOST_LOG_ALL);
    }

    /// Uses another memory table from now on; the ring keeps its position.
    pub(crate) fn set_memory(&mut self, ring: &mut AnyRing, map: Arc<MemMap>) -> Result<(), RingError> {
        with_ring!(ring, r => r.move_to(&self.config, &map))?;
        self.map = map;
        self.cache = RegionCache::EMPTY;
        Ok(())
    }

    /// Notes a fault and returns it. Broken contents in memory that went away are not what is to be told.
    #[cold]
    pub(crate) fn fail(&mut self, error: RingError) -> QueueFault {
        let error = if self.map.faulted() { RingError::MemoryGone(0) } else { error };
        let fault = QueueFault::from(error);
        self.fault = Some(fault);
        fault
    }

    /// Interrupts the driver if it wants that.
    #[inline]
    pub(crate) fn call<R: Ring>(&self, ring: &mut R, counters: &PortCounters) {
        // Without a call descriptor nobody listens, and the fence inside is saved.
        if let Some(call) = &self.config.call
            && ring.wants_call()
        {
            call.signal();
            counters.calls.add(1);
        }
    }

    /// Logs what completing `slots` entries wrote to the ring. `begin` was called on the log.
    pub(crate) fn log_ring<R: Ring>(&self, ring: &R, slots: u16) {
        let Some(log) = &self.config.log else { return };
        // A packed ring has no used ring of its own: its descriptors are found by the memory table.
        let (area, base) = if R::SLOT_PER_DESC {
            (self.config.desc_addr, None)
        } else {
            (self.config.device_addr, self.config.used_log_gpa)
        };
        let Some(base) = base.or_else(|| self.map.user_to_gpa(area, 1)) else { return };
        ring.written(slots, &mut |offset, len| log.mark(base.saturating_add(offset), len));
    }

    /// The event that becomes readable when the driver kicks.
    pub(crate) fn kick(&self) -> Option<&EventFd> {
        self.config.kick.as_ref()
    }

    /// Everything needed to start the ring again.
    pub(crate) fn into_config(mut self, ring: &AnyRing) -> RingConfig {
        self.config.base = with_ring!(ring, r => r.base());
        if let Some(inflight) = &self.config.inflight {
            inflight.stop();
        }
        self.config
    }
}

/// The setters of both queue types; for use while the queue is out of its worker.
macro_rules! queue_setters {
    () => {
        /// Uses another memory table from now on; the ring goes on where it is.
        ///
        /// # Errors
        /// The ring's areas are not in the table. The queue still uses the old one.
        pub fn set_memory(
            &mut self,
            map: std::sync::Arc<guest_memory::MemMap>,
        ) -> Result<(), $crate::RingError> {
            assert!(self.idle(), "no burst is borrowed while the memory changes");
            self.core.set_memory(&mut self.ring, map)
        }

        /// Uses another descriptor for interrupts.
        pub fn set_call(&mut self, call: Option<$crate::EventFd>) {
            self.core.config.call = call;
        }

        /// Uses another descriptor for kicks.
        pub fn set_kick(&mut self, kick: Option<$crate::EventFd>) {
            self.core.config.kick = kick;
        }

        /// Uses other features: `VHOST_LOG_ALL` comes and goes while a ring runs, the rest stays as it was.
        pub fn set_log_all(&mut self, on: bool) {
            let bit = virtio_defs::feature::VHOST_LOG_ALL;
            let others = self.core.config.features & !bit;
            self.core.config.features = if on { others | bit } else { others };
            self.core.set_logging();
        }

        /// Uses another log, and the guest-physical address of the used ring for it.
        pub fn set_log(
            &mut self,
            log: Option<std::sync::Arc<guest_memory::DirtyLog>>,
            used_log_gpa: Option<u64>,
        ) {
            self.core.config.log = log;
            self.core.config.used_log_gpa = used_log_gpa;
            self.core.set_logging();
        }

        /// What the ring was made from. Its `base` is where it started, not where it is.
        pub fn config(&self) -> &$crate::RingConfig {
            &self.core.config
        }

        /// What broke the ring, if something did.
        pub fn fault(&self) -> Option<port::QueueFault> {
            self.core.fault
        }

        /// Stops the ring and returns what is needed to start it again, with its position.
        pub fn into_state(self) -> $crate::RingConfig {
            assert!(self.idle(), "no burst is borrowed when a ring stops");
            self.core.into_config(&self.ring)
        }
    };
}
pub(crate) use queue_setters;
