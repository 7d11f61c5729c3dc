//! Feature bits of the protocol itself. (Virtio's, and those vhost puts among them, are in `virtio_defs`.)

use std::fmt;

/// A set of protocol features (`VHOST_USER_PROTOCOL_F_*`). Unknown bits are kept.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ProtocolFeatures(pub u64);

macro_rules! protocol_features {
    ($($(#[doc = $doc:literal])+ $name:ident = $bit:literal,)+) => {
        impl ProtocolFeatures {
            $($(#[doc = $doc])+ pub const $name: ProtocolFeatures = ProtocolFeatures(1 << $bit);)+

            /// The names of the features in the set, lowest bit first; unknown bits have none.
            pub fn names(self) -> Vec<&'static str> {
                [$((Self::$name, stringify!($name)),)+]
                    .into_iter().filter(|(f, _)| self.contains(*f)).map(|(_, name)| name).collect()
            }
        }
    };
}

protocol_features! {
    /// Several queue pairs.
    MQ = 0,
    /// The dirty log comes as a descriptor of shared memory.
    LOG_SHMFD = 1,
    /// The back-end announces a migrated guest when asked.
    RARP = 2,
    /// Any request may ask for an answer.
    REPLY_ACK = 3,
    /// The front-end may tell the MTU.
    MTU = 4,
    /// A channel for requests of the back-end.
    BACKEND_REQ = 5,
    /// Rings of the other byte order.
    CROSS_ENDIAN = 6,
    /// Sessions of crypto devices.
    CRYPTO_SESSION = 7,
    /// Post-copy migration.
    PAGEFAULT = 8,
    /// The device's configuration space is the back-end's.
    CONFIG = 9,
    /// The back-end may send descriptors on its channel.
    BACKEND_SEND_FD = 10,
    /// Doorbells mapped into the guest.
    HOST_NOTIFIER = 11,
    /// In-flight descriptors are recorded in shared memory.
    INFLIGHT_SHMFD = 12,
    /// The device can be reset by message.
    RESET_DEVICE = 13,
    /// Notifications by message instead of descriptor.
    INBAND_NOTIFICATIONS = 14,
    /// Memory regions are added and removed one by one.
    CONFIGURE_MEM_SLOTS = 15,
    /// The device status is told to the back-end.
    STATUS = 16,
    /// Memory mapped through Xen.
    XEN_MMAP = 17,
    /// Buffers shared between devices.
    SHARED_OBJECT = 18,
    /// The back-end's state can be saved and loaded.
    DEVICE_STATE = 19,
    /// In-flight descriptors needn't be drained before a ring's base is answered.
    GET_VRING_BASE_INFLIGHT = 20,
    /// Ring addresses are guest addresses.
    GPA_ADDRESSES = 21,
    /// Regions of shared memory owned by the device.
    SHMEM = 22,
}

impl ProtocolFeatures {
    /// Whether every feature of `other` is in the set.
    pub const fn contains(self, other: ProtocolFeatures) -> bool {
        self.0 & other.0 == other.0
    }

    /// The features in both sets.
    pub const fn and(self, other: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 & other.0)
    }

    /// The features in either set.
    pub const fn or(self, other: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 | other.0)
    }

    /// The features of this set that are not in `other`.
    pub const fn without(self, other: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 & !other.0)
    }
}

impl fmt::Debug for ProtocolFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProtocolFeatures({:#x} {:?})", self.0, self.names())
    }
}
