//! Layouts and numbers of virtio 1.2: rings, the network header, feature bits. No code that touches memory.
//!
//! - [`split`]: descriptor, available and used ring (section 2.7).
//! - [`packed`]: descriptor and event suppression (section 2.8).
//! - [`net`]: the header in front of each frame and the network device's feature bits (section 5.1).
//! - [`blk`]: requests, feature bits and answers of the block device (section 5.2).
//! - [`feature`]: ring and transport feature bits (section 6), and what vhost-user adds.
//!
//! All fields are little-endian (virtio 1.2, section 1.4). The structs hold plain integers, so the crate
//! refuses to compile for a big-endian host instead of being wrong there.

#[cfg(not(target_endian = "little"))]
compile_error!("virtio fields are little-endian; these definitions are for little-endian hosts");

pub mod blk;
pub mod net;
pub mod packed;
pub mod split;

/// Most entries a queue can have (virtio 1.2, sections 2.7 and 2.8).
pub const QUEUE_SIZE_MAX: u16 = 32768;

/// Flags of a descriptor that split and packed rings share (virtio 1.2, sections 2.7.5 and 2.8.1).
pub mod desc_flag {
    /// The buffer goes on in the next descriptor.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer; without it, the device reads it.
    pub const WRITE: u16 = 2;
    /// The descriptor describes a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Feature bits that do not belong to a device type, as masks.
pub mod feature {
    /// Dirty logging is on. A vhost bit, never shown to the guest (vhost-user specification, "Migration").
    pub const VHOST_LOG_ALL: u64 = 1 << 26;
    /// Tables of descriptors are allowed (virtio 1.2, section 6).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are suppressed by position instead of by flag (section 2.7.7, 2.8.10).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Protocol features can be negotiated. A vhost-user bit, never shown to the guest.
    pub const VHOST_USER_PROTOCOL: u64 = 1 << 30;
    /// The device follows version 1 of the specification.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device's accesses are translated by an IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// The packed layout is used (section 2.8).
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order in which they were made available (section 2.7.9, 2.8.17).
    pub const IN_ORDER: u64 = 1 << 35;
    /// Memory accesses are ordered as hardware needs it.
    pub const ORDER_PLATFORM: u64 = 1 << 36;
    /// The driver passes extra data in its notifications.
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    /// Single queues can be reset.
    pub const RING_RESET: u64 = 1 << 40;
}

/// Whether an event index asks for a notification when a ring index moved from `old` to `new`
/// (virtio 1.2, section 2.7.10.1): the entry at `event` was among those passed.
#[inline(always)]
pub const fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::needs_event;

    #[test]
    fn an_event_index_asks_once_when_it_is_passed() {
        assert!(needs_event(5, 6, 5));
        assert!(needs_event(5, 9, 2));
        assert!(!needs_event(5, 5, 2), "not reached yet");
        assert!(!needs_event(5, 9, 6), "passed before");
        assert!(!needs_event(5, 6, 6), "nothing moved");
        assert!(needs_event(0xffff, 3, 0xfffe), "over the wrap");
    }
}
