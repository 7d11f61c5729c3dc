//! Layouts: the header and the payloads.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Longest payload taken, in bytes. The longest legal one is a memory table of [`FDS_MAX`] regions, 1,032 bytes.
pub const PAYLOAD_MAX: usize = 4096;
/// Most descriptors taken with one message. The specification's memory table has 8; some front-ends send 32.
pub const FDS_MAX: usize = 32;
/// Most bytes of configuration space in one message (QEMU's `VHOST_USER_MAX_CONFIG_SIZE`).
pub const CONFIG_MAX: usize = 256;
/// Flag of [`VringAddr`]: log the writes to the used ring (`VHOST_VRING_F_LOG`).
pub const VRING_F_LOG: u32 = 1;

/// The header in front of each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What is asked or answered: a [`RequestCode`] or a [`BackendCode`].
    pub code: u32,
    /// Version and flags.
    pub flags: u32,
    /// Bytes of the payload.
    pub size: u32,
}

impl Header {
    /// The protocol's version, in the flags' lowest two bits.
    pub const VERSION: u32 = 1;
    /// Mask of the version.
    pub const VERSION_MASK: u32 = 3;
    /// Flag: this is an answer.
    pub const REPLY: u32 = 1 << 2;
    /// Flag: an answer is wanted, also where the request has none of its own.
    pub const NEED_REPLY: u32 = 1 << 3;
}

macro_rules! codes {
    ($(#[doc = $doc:literal])+ $type:ident { $($name:ident = $value:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub u32);

        #[allow(missing_docs)] // The names are the specification's.
        impl $type {
            $(pub const $name: $type = $type($value);)+

            /// Every code the specification names.
            pub const ALL: &'static [$type] = &[$($type::$name,)+];

            /// The specification's name without its prefix.
            pub fn name(self) -> Option<&'static str> {
                match self { $($type::$name => Some(stringify!($name)),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() { Some(name) => f.write_str(name), None => write!(f, "request {}", self.0) }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

codes! {
    /// What a front-end asks (section "Front-end message types").
    RequestCode {
        GET_FEATURES = 1,
        SET_FEATURES = 2,
        SET_OWNER = 3,
        RESET_OWNER = 4,
        SET_MEM_TABLE = 5,
        SET_LOG_BASE = 6,
        SET_LOG_FD = 7,
        SET_VRING_NUM = 8,
        SET_VRING_ADDR = 9,
        SET_VRING_BASE = 10,
        GET_VRING_BASE = 11,
        SET_VRING_KICK = 12,
        SET_VRING_CALL = 13,
        SET_VRING_ERR = 14,
        GET_PROTOCOL_FEATURES = 15,
        SET_PROTOCOL_FEATURES = 16,
        GET_QUEUE_NUM = 17,
        SET_VRING_ENABLE = 18,
        SEND_RARP = 19,
        NET_SET_MTU = 20,
        SET_BACKEND_REQ_FD = 21,
        IOTLB_MSG = 22,
        SET_VRING_ENDIAN = 23,
        GET_CONFIG = 24,
        SET_CONFIG = 25,
        CREATE_CRYPTO_SESSION = 26,
        CLOSE_CRYPTO_SESSION = 27,
        POSTCOPY_ADVISE = 28,
        POSTCOPY_LISTEN = 29,
        POSTCOPY_END = 30,
        GET_INFLIGHT_FD = 31,
        SET_INFLIGHT_FD = 32,
        GPU_SET_SOCKET = 33,
        RESET_DEVICE = 34,
        VRING_KICK = 35,
        GET_MAX_MEM_SLOTS = 36,
        ADD_MEM_REG = 37,
        REM_MEM_REG = 38,
        SET_STATUS = 39,
        GET_STATUS = 40,
        GET_SHARED_OBJECT = 41,
        SET_DEVICE_STATE_FD = 42,
        CHECK_DEVICE_STATE = 43,
        GET_SHMEM_CONFIG = 44,
    }
}

codes! {
    /// What a back-end asks on its own channel (section "Back-end message types").
    BackendCode {
        IOTLB_MSG = 1,
        CONFIG_CHANGE_MSG = 2,
        VRING_HOST_NOTIFIER_MSG = 3,
        VRING_CALL = 4,
        VRING_ERR = 5,
        SHARED_OBJECT_ADD = 6,
        SHARED_OBJECT_REMOVE = 7,
        SHARED_OBJECT_LOOKUP = 8,
    }
}

/// A number for a vring ("vring state description").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringState {
    /// Which vring.
    pub index: u32,
    /// Its size, base, or 0/1 for disable/enable.
    pub num: u32,
}

/// Where a vring lies ("vring address description"). Addresses are the front-end's own ("user addresses").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringAddr {
    /// Which vring.
    pub index: u32,
    /// [`VRING_F_LOG`] or 0.
    pub flags: u32,
    /// Descriptor table, or the packed ring.
    pub desc: u64,
    /// Used ring, or the device's event area of a packed ring.
    pub used: u64,
    /// Available ring, or the driver's event area of a packed ring.
    pub avail: u64,
    /// Guest address under which writes to the used ring are logged.
    pub log: u64,
}

/// A piece of guest memory ("memory region description"). Its descriptor comes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRegion {
    /// First guest-physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// First address as the front-end sees it.
    pub user_addr: u64,
    /// Where it starts in the descriptor's file, in bytes.
    pub mmap_offset: u64,
}

/// Where the dirty log lies in its descriptor's file ("log description").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LogArea {
    /// Length in bytes.
    pub size: u64,
    /// Start in the file, in bytes.
    pub offset: u64,
}

/// The record of in-flight descriptors ("inflight description").
///
/// 20 bytes and 4 of padding: front-ends send the C struct, whose size is 24.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Inflight {
    /// Length in bytes.
    pub mmap_size: u64,
    /// Start in the file, in bytes.
    pub mmap_offset: u64,
    /// How many vrings.
    pub num_queues: u16,
    /// Size of each.
    pub queue_size: u16,
    /// Reserved.
    pub padding: u32,
}

/// The fixed part of "virtio device config space".
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ConfigHeader {
    pub offset: u32,
    pub size: u32,
    pub flags: u32,
}

/// The fixed part of "memory regions description".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RegionsHeader {
    pub count: u32,
    pub padding: u32,
}

/// An access to the device's configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigAccess {
    /// First byte in the configuration space.
    pub offset: u32,
    /// 0: by the guest's driver, 1: by a live migration.
    pub flags: u32,
    /// The bytes: what to write, or room for as many to be read. At most [`CONFIG_MAX`].
    pub data: Vec<u8>,
}

impl ConfigAccess {
    /// Value of [`flags`](Self::flags) for writes of a live migration.
    pub const LIVE_MIGRATION: u32 = 1;
}

const _: () = assert!(size_of::<Header>() == 12);
const _: () = assert!(size_of::<VringState>() == 8);
const _: () = assert!(size_of::<VringAddr>() == 40);
const _: () = assert!(size_of::<MemoryRegion>() == 32);
const _: () = assert!(size_of::<LogArea>() == 16);
const _: () = assert!(size_of::<Inflight>() == 24);
const _: () = assert!(size_of::<ConfigHeader>() == 12);
