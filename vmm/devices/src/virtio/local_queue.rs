//! A split queue that this process works on, for devices that are not in a hurry for each frame.

use std::ops::Deref;
use std::sync::atomic::Ordering;

use virtio_defs::feature::EVENT_IDX;
use virtio_queue::{DescriptorChain, Queue as Ring, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use super::{Memory, Queue, Session, StartError};
use crate::EventFd;

/// Driver's flag in the available ring: no interrupts, please (section 2.7.7).
const NO_INTERRUPT: u16 = 1;

/// A queue with its events.
pub(crate) struct LocalQueue {
    ring: Ring,
    /// What was agreed on with the driver.
    pub features: u64,
    /// Signalled by the driver.
    pub kick: EventFd,
    call: EventFd,
}

impl LocalQueue {
    /// The queue that the driver has set up.
    pub fn new(queue: Queue, features: u64, memory: &GuestMemoryMmap) -> Result<LocalQueue, StartError> {
        let bad =
            || StartError(format!("queue {} with {} entries is no ring in memory", queue.index, queue.size));
        let entries = queue.size.checked_next_power_of_two().ok_or_else(bad)?;
        let mut ring = Ring::new(entries).map_err(|_| bad())?;
        ring.set_size(queue.size);
        ring.set_event_idx(features & EVENT_IDX != 0);
        ring.try_set_desc_table_address(GuestAddress(queue.desc)).map_err(|_| bad())?;
        ring.try_set_avail_ring_address(GuestAddress(queue.driver)).map_err(|_| bad())?;
        ring.try_set_used_ring_address(GuestAddress(queue.device)).map_err(|_| bad())?;
        ring.set_ready(true);
        if ring.size() != queue.size || !ring.is_valid(memory) {
            return Err(bad());
        }
        Ok(LocalQueue { ring, features, kick: queue.kick, call: queue.call })
    }

    /// The queue of a device that has only one, and the memory it is in. None: the driver uses none.
    pub fn only(session: Session) -> Result<Option<(LocalQueue, Memory)>, StartError> {
        let Session { features, memory, mut queues } = session;
        let Some(queue) = queues.pop() else { return Ok(None) };
        let queue = LocalQueue::new(queue, features, &memory.memory())?;
        Ok(Some((queue, memory)))
    }

    /// The next chain of buffers, if the driver has made one available.
    pub fn pop<M>(&mut self, memory: M) -> Option<DescriptorChain<M>>
    where
        M: Clone + Deref<Target = GuestMemoryMmap>,
    {
        self.ring.pop_descriptor_chain(memory)
    }

    /// Gives a chain back, of which so many bytes were written. A driver that took its ring away gets nothing.
    pub fn give_back(&mut self, memory: &GuestMemoryMmap, head: u16, written: u32) {
        let _ = self.ring.add_used(memory, head, written);
    }

    /// Interrupts the driver if it wants that for what was given back since the last time.
    pub fn notify(&mut self, memory: &GuestMemoryMmap) {
        let wanted = if self.features & EVENT_IDX != 0 {
            self.ring.needs_notification(memory).unwrap_or(true)
        } else {
            // What was given back is seen before the flag is read: the driver reads and writes in the other order.
            std::sync::atomic::fence(Ordering::SeqCst);
            let flags = memory.load::<u16>(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed);
            flags.is_ok_and(|flags| flags & NO_INTERRUPT == 0)
        };
        if wanted {
            self.call.signal();
        }
    }

    /// Asks the driver for kicks again; whether there is something to be popped already.
    pub fn want_kicks(&mut self, memory: &GuestMemoryMmap) -> bool {
        self.ring.enable_notification(memory).unwrap_or(false)
    }

    /// Tells the driver that kicks are not needed for now.
    pub fn want_no_kicks(&mut self, memory: &GuestMemoryMmap) {
        // A driver that kicks none the less costs a turn.
        let _ = self.ring.disable_notification(memory);
    }
}
