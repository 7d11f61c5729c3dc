//! Commands of DPRC objects: containers of resources.
//!
//! Source: MC API 10.40, include/dplib/fsl_dprc_cmd.h and fsl_dprc.h; Linux, drivers/bus/fsl-mc/fsl-mc-private.h. Irq:
//! [`super::common`]; interrupt 0 has the events in [`event`].

use zerocopy::little_endian::{I32, U16, U32, U64};

use super::object::{ObjectId, ObjectType, Text16};

object_commands!(DPRC, open 0x805, destroy 0x152, version 0xa05);

/// What a container's owner may do: bits of [`Attributes::options`] and [`CreateContainer::options`].
pub mod option {
    /// Create child containers.
    pub const SPAWN_ALLOWED: u32 = 0x01;
    /// Take resources from the parent's pools.
    pub const ALLOC_ALLOWED: u32 = 0x02;
    /// Create objects.
    pub const OBJ_CREATE_ALLOWED: u32 = 0x04;
    /// Connect and disconnect.
    pub const TOPOLOGY_CHANGES_ALLOWED: u32 = 0x08;
    /// It belongs to the offload engine.
    pub const AIOP: u32 = 0x20;
    /// Program message-signalled interrupts.
    pub const IRQ_CFG_ALLOWED: u32 = 0x40;
    /// Use privileged DMA.
    pub const PL_ALLOWED: u32 = 0x80;

    /// The options with the names restool gives them.
    pub const NAMES: [(u32, &str); 7] = [
        (SPAWN_ALLOWED, "DPRC_CFG_OPT_SPAWN_ALLOWED"),
        (ALLOC_ALLOWED, "DPRC_CFG_OPT_ALLOC_ALLOWED"),
        (OBJ_CREATE_ALLOWED, "DPRC_CFG_OPT_OBJ_CREATE_ALLOWED"),
        (TOPOLOGY_CHANGES_ALLOWED, "DPRC_CFG_OPT_TOPOLOGY_CHANGES_ALLOWED"),
        (AIOP, "DPRC_CFG_OPT_AIOP"),
        (IRQ_CFG_ALLOWED, "DPRC_CFG_OPT_IRQ_CFG_ALLOWED"),
        (PL_ALLOWED, "DPRC_CFG_OPT_PL_ALLOWED"),
    ];
}

/// Bits of [`Assign::options`].
pub mod assign_option {
    /// `base` is the first resource.
    pub const EXPLICIT: u32 = 0x1;
    /// `base` is an alignment.
    pub const ALIGNED: u32 = 0x2;
    /// The object becomes visible in its container.
    pub const PLUGGED: u32 = 0x4;
}

/// Bits of [`ObjectDescriptor::state`].
pub mod object_state {
    /// Somebody has opened it.
    pub const OPEN: u32 = 0x1;
    /// It may be given to a driver.
    pub const PLUGGED: u32 = 0x2;
}

/// Events of the object's interrupt 0.
pub mod event {
    /// An object was added to the container.
    pub const OBJECT_ADDED: u32 = 0x01;
    /// An object was removed from the container.
    pub const OBJECT_REMOVED: u32 = 0x02;
    /// Resources were added.
    pub const RESOURCES_ADDED: u32 = 0x04;
    /// Resources were removed.
    pub const RESOURCES_REMOVED: u32 = 0x08;
    /// A container was destroyed.
    pub const CONTAINER_DESTROYED: u32 = 0x10;
    /// An object was destroyed.
    pub const OBJECT_DESTROYED: u32 = 0x20;
    /// An object was created.
    pub const OBJECT_CREATED: u32 = 0x40;
}

layout! {
    /// Asks which container owns the portal that this goes through. Token 0.
    pub struct GetContainerId: 0 {}
}
command!(GetContainerId, "get container id", 0x830, v 1, ContainerId);

layout! {
    /// A container.
    pub struct ContainerId: 4 {
        /// Its number.
        id: U32 => 0,
    }
}

layout! {
    /// Asks what the container is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 1, Attributes);

layout! {
    /// What the container is.
    pub struct Attributes: 16 {
        /// Number of the container.
        id: U32 => 0,
        /// Isolation context id: what the DMA of everything in it is marked with.
        icid: U32 => 4,
        /// See [`option`].
        options: U32 => 8,
        /// Number of its command portal.
        portal_id: U32 => 12,
    }
}

layout! {
    /// Resets a container and what it holds.
    pub struct ResetContainer: 8 {
        /// Number of a child, or of the container itself.
        child_id: U32 => 0,
        /// Bit 0: leave nested containers alone (version 2).
        options: U32 => 4,
    }
}
command!(ResetContainer, "reset container", 0x005, v 2, ());

layout! {
    /// Says which message the container's interrupt sends.
    pub struct SetIrq: 20 {
        /// Content of the message.
        msi_data: U32 => 0,
        /// Which interrupt.
        index: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// Address of the message.
        msi_address: U64 => 8,
        /// The host's number for it.
        irq_number: U32 => 16,
    }
}
command!(SetIrq, "set irq", 0x010, v 1, ());

layout! {
    /// Asks which message the container's interrupt sends.
    pub struct GetIrq: 5 {
        reserved0: [u8; 4] => 0,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(GetIrq, "get irq", 0x011, v 1, Irq);

layout! {
    /// Which message an interrupt sends.
    pub struct Irq: 24 {
        /// Content of the message.
        msi_data: U32 => 0,
        reserved4: [u8; 4] => 4,
        /// Address of the message.
        msi_address: U64 => 8,
        /// The host's number for it.
        irq_number: U32 => 16,
        /// Type of the interrupt.
        irq_type: U32 => 20,
    }
}

layout! {
    /// Creates a child container.
    pub struct CreateContainer: 32 {
        /// See [`option`].
        options: U32 => 0,
        /// Isolation context id, [`CreateContainer::ANY_ICID`] for one from the pool.
        icid: U32 => 4,
        reserved8: U32 => 8,
        /// Number of its command portal, [`CreateContainer::ANY_PORTAL`] for one from the pool.
        portal_id: U32 => 12,
        /// What people call it.
        label: Text16 => 16,
    }
}
command!(CreateContainer, "create container", 0x151, v 2, CreatedContainer);

impl CreateContainer {
    /// Any free isolation context id.
    pub const ANY_ICID: u32 = 0xffff;
    /// Any free portal.
    pub const ANY_PORTAL: u32 = u32::MAX;
}

layout! {
    /// A container that was created.
    pub struct CreatedContainer: 24 {
        reserved0: [u8; 8] => 0,
        /// Its number.
        child_id: U32 => 8,
        reserved12: U32 => 12,
        /// Physical address of its command portal.
        portal_address: U64 => 16,
    }
}

layout! {
    /// Limits what a child may take.
    pub struct SetResourceQuota: 24 {
        /// Number of the child.
        child_id: U32 => 0,
        /// How many.
        quota: U16 => 4,
        reserved6: U16 => 6,
        /// Of which resource.
        resource_type: Text16 => 8,
    }
}
command!(SetResourceQuota, "set resource quota", 0x155, v 1, ());

layout! {
    /// Asks what a child may take.
    pub struct GetResourceQuota: 24 {
        /// Number of the child.
        child_id: U32 => 0,
        reserved4: U32 => 4,
        /// Of which resource.
        resource_type: Text16 => 8,
    }
}
command!(GetResourceQuota, "get resource quota", 0x156, v 1, ResourceQuota);

layout! {
    /// What a child may take.
    pub struct ResourceQuota: 6 {
        reserved0: U32 => 0,
        /// How many.
        quota: U16 => 4,
    }
}

layout! {
    /// Gives objects or resources to a child, or plugs an object of the own container.
    pub struct Assign: 32 {
        /// Number of the child, or of the container itself.
        container_id: U32 => 0,
        /// See [`assign_option`].
        options: U32 => 4,
        /// How many.
        count: U32 => 8,
        /// First number, or an alignment.
        base: U32 => 12,
        /// Of which type.
        object_type: ObjectType => 16,
    }
}
command!(Assign, "assign", 0x157, v 1, ());

layout! {
    /// Takes objects or resources from a child.
    pub struct Unassign: 32 {
        /// Number of the child.
        child_id: U32 => 0,
        /// See [`assign_option`].
        options: U32 => 4,
        /// How many.
        count: U32 => 8,
        /// First number, or an alignment.
        base: U32 => 12,
        /// Of which type.
        object_type: ObjectType => 16,
    }
}
command!(Unassign, "unassign", 0x158, v 1, ());

layout! {
    /// Asks how many objects the container holds.
    pub struct GetObjectCount: 0 {}
}
command!(GetObjectCount, "get object count", 0x159, v 1, ObjectCount);

layout! {
    /// How many objects the container holds.
    pub struct ObjectCount: 8 {
        reserved0: U32 => 0,
        /// The number.
        count: U32 => 4,
    }
}

layout! {
    /// Asks for an object by its place in the list; places move when objects come and go.
    pub struct GetObject: 4 {
        /// The place, from 0.
        index: U32 => 0,
    }
}
command!(GetObject, "get object", 0x15a, v 1, ObjectDescriptor);

layout! {
    /// An object in the container.
    pub struct ObjectDescriptor: 56 {
        reserved0: U32 => 0,
        /// Its number.
        id: U32 => 4,
        /// Its maker: 0x1957.
        vendor: U16 => 8,
        /// How many interrupts it has.
        irqs: u8 => 10,
        /// How many regions it has.
        regions: u8 => 11,
        /// See [`object_state`].
        state: U32 => 12,
        /// Version of its commands.
        version_major: U16 => 16,
        /// Version of its commands.
        version_minor: U16 => 18,
        /// Bit 0: its DMA isn't coherent.
        flags: U16 => 20,
        reserved22: U16 => 22,
        /// Its type.
        object_type: ObjectType => 24,
        /// What people call it.
        label: Text16 => 40,
    }
}

impl ObjectDescriptor {
    /// NXP's number as a maker.
    pub const VENDOR_NXP: u16 = 0x1957;

    /// The object.
    pub fn object(&self) -> ObjectId {
        self.object_type.with_id(self.id.get())
    }

    /// Whether a driver may use it.
    pub fn is_plugged(&self) -> bool {
        self.state.get() & object_state::PLUGGED != 0
    }
}

layout! {
    /// Asks how many of a resource the container has.
    pub struct GetResourceCount: 24 {
        reserved0: [u8; 8] => 0,
        /// Of which resource.
        resource_type: Text16 => 8,
    }
}
command!(GetResourceCount, "get resource count", 0x15b, v 1, ResourceCount);

layout! {
    /// How many of a resource the container has.
    pub struct ResourceCount: 4 {
        /// The number.
        count: U32 => 0,
    }
}

layout! {
    /// Asks for a range of resource numbers; the answer is what to ask with next.
    pub struct GetResourceIds: 32 {
        reserved0: [u8; 5] => 0,
        /// How far the iteration is, lower part, in bits 7:2.
        iteration_low: u8 => 5,
        /// How far the iteration is, upper part, in bit 0.
        iteration_high: u8 => 6,
        reserved7: u8 => 7,
        /// First number of the range.
        base: U32 => 8,
        /// Last number of the range.
        last: U32 => 12,
        /// Of which resource.
        resource_type: Text16 => 16,
    }
}
command!(GetResourceIds, "get resource ids", 0x15c, v 1, GetResourceIds);

layout! {
    /// Asks where a region of an object is.
    pub struct GetObjectRegion: 40 {
        /// Number of the object.
        object_id: U32 => 0,
        reserved4: [u8; 2] => 4,
        /// Which region.
        index: u8 => 6,
        reserved7: [u8; 17] => 7,
        /// Type of the object.
        object_type: ObjectType => 24,
    }
}
command!(GetObjectRegion, "get object region", 0x15e, v 3, ObjectRegion);

/// The version of [`GetObjectRegion`] for a container's API version: later ones answer more (2: the base address, 3: true
/// sizes) and are refused by older firmware.
///
/// Source: Linux, drivers/bus/fsl-mc/dprc.c.
pub const fn get_object_region_version(major: u16, minor: u16) -> u8 {
    match (major, minor) {
        (7.., _) | (6, 6..) => 3,
        (6, 3..) => 2,
        _ => 1,
    }
}

open_enum! {
    /// What is in a region.
    pub enum RegionType: u8 {
        /// An MC command portal.
        MC_PORTAL = 0 "mc portal",
        /// A QBMan portal.
        QBMAN_PORTAL = 1 "qbman portal",
        /// A QBMan portal in memory.
        QBMAN_MEMORY_PORTAL = 2 "qbman memory-backed portal",
    }
}

layout! {
    /// Where a region of an object is.
    pub struct ObjectRegion: 40 {
        reserved0: [u8; 8] => 0,
        /// From the base address, or from where the region's type begins.
        offset: U64 => 8,
        /// Length in bytes.
        size: U32 => 16,
        /// What is in it.
        region_type: RegionType => 20,
        reserved21: [u8; 3] => 21,
        /// See [`region_flag`].
        flags: U32 => 24,
        reserved28: U32 => 28,
        /// Physical address, or 0 (version 2).
        base_address: U64 => 32,
    }
}

/// Bits of [`ObjectRegion::flags`].
pub mod region_flag {
    /// It may be mapped with caching.
    pub const CACHEABLE: u32 = 0x1;
    /// Caches keep it coherent.
    pub const SHAREABLE: u32 = 0x2;
}

layout! {
    /// Says which message an object's interrupt sends. The container needs [`option::IRQ_CFG_ALLOWED`].
    pub struct SetObjectIrq: 40 {
        /// Content of the message.
        msi_data: U32 => 0,
        /// Which interrupt.
        index: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// Address of the message.
        msi_address: U64 => 8,
        /// The host's number for it.
        irq_number: U32 => 16,
        /// Number of the object.
        object_id: U32 => 20,
        /// Type of the object.
        object_type: ObjectType => 24,
    }
}
command!(SetObjectIrq, "set object irq", 0x15f, v 1, ());

layout! {
    /// Asks which message an object's interrupt sends.
    pub struct GetObjectIrq: 24 {
        /// Number of the object.
        object_id: U32 => 0,
        /// Which interrupt.
        index: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// Type of the object.
        object_type: ObjectType => 8,
    }
}
command!(GetObjectIrq, "get object irq", 0x160, v 1, Irq);

layout! {
    /// Names an object.
    pub struct SetObjectLabel: 40 {
        /// Number of the object.
        object_id: U32 => 0,
        reserved4: U32 => 4,
        /// What people shall call it.
        label: Text16 => 8,
        /// Type of the object.
        object_type: ObjectType => 24,
    }
}
command!(SetObjectLabel, "set object label", 0x161, v 1, ());

layout! {
    /// Asks for an object by its name.
    pub struct GetObjectDescriptor: 24 {
        /// Number of the object.
        object_id: U32 => 0,
        reserved4: U32 => 4,
        /// Type of the object.
        object_type: ObjectType => 8,
    }
}
command!(GetObjectDescriptor, "get object descriptor", 0x162, v 1, ObjectDescriptor);

layout! {
    /// Connects two objects.
    pub struct Connect: 56 {
        /// Number of the one object.
        endpoint1_id: U32 => 0,
        /// Its interface: 0 but for switches and demultiplexers.
        endpoint1_interface: U16 => 4,
        reserved6: U16 => 6,
        /// Number of the other object.
        endpoint2_id: U32 => 8,
        /// Its interface.
        endpoint2_interface: U16 => 12,
        reserved14: U16 => 14,
        /// Type of the one.
        endpoint1_type: ObjectType => 16,
        /// In Mbit/s, 0 for unlimited.
        max_rate: U32 => 32,
        /// In Mbit/s.
        committed_rate: U32 => 36,
        /// Type of the other.
        endpoint2_type: ObjectType => 40,
    }
}
command!(Connect, "connect", 0x167, v 1, ());

layout! {
    /// Disconnects an object.
    pub struct Disconnect: 24 {
        /// Number of the object.
        id: U32 => 0,
        /// Its interface.
        interface: U32 => 4,
        /// Its type.
        object_type: ObjectType => 8,
    }
}
command!(Disconnect, "disconnect", 0x168, v 1, ());

layout! {
    /// Asks for a kind of resource by its place in the list.
    pub struct GetPool: 4 {
        /// The place, from 0.
        index: U32 => 0,
    }
}
command!(GetPool, "get pool", 0x169, v 1, Pool);

layout! {
    /// A kind of resource.
    pub struct Pool: 24 {
        reserved0: [u8; 8] => 0,
        /// Its name.
        resource_type: Text16 => 8,
    }
}

layout! {
    /// Asks how many kinds of resources there are.
    pub struct GetPoolCount: 0 {}
}
command!(GetPoolCount, "get pool count", 0x16a, v 1, PoolCount);

layout! {
    /// How many kinds of resources there are.
    pub struct PoolCount: 4 {
        /// The number.
        count: U32 => 0,
    }
}

layout! {
    /// Forbids, or allows, changes to a child.
    pub struct SetLocked: 8 {
        /// 1 forbids.
        locked: u8 => 0,
        reserved1: [u8; 3] => 1,
        /// Number of the child.
        child_id: U32 => 4,
    }
}
command!(SetLocked, "set locked", 0x16b, v 1, ());

layout! {
    /// Asks what an object is connected to.
    pub struct GetConnection: 24 {
        /// Number of the object.
        id: U32 => 0,
        /// Its interface: 0 but for switches and demultiplexers.
        interface: U16 => 4,
        reserved6: U16 => 6,
        /// Its type.
        object_type: ObjectType => 8,
    }
}
command!(GetConnection, "get connection", 0x16c, v 1, Connection);

layout! {
    /// What an object is connected to.
    pub struct Connection: 52 {
        reserved0: [u8; 24] => 0,
        /// Number of the other object.
        peer_id: U32 => 24,
        /// Its interface.
        peer_interface: U16 => 28,
        reserved30: U16 => 30,
        /// Its type.
        peer_type: ObjectType => 32,
        /// 1 up, 0 down, -1 nothing connected.
        state: I32 => 48,
    }
}

impl Connection {
    /// [`Connection::state`]: the link is up.
    pub const UP: i32 = 1;
    /// [`Connection::state`]: connected, the link is down.
    pub const DOWN: i32 = 0;
    /// [`Connection::state`]: there is no peer.
    pub const NOT_CONNECTED: i32 = -1;

    /// The object at the other end, if there is one.
    pub fn peer(&self) -> Option<ObjectId> {
        (self.state.get() != Self::NOT_CONNECTED).then(|| self.peer_type.with_id(self.peer_id.get()))
    }
}

layout! {
    /// Asks how the MC's memory is used; for debugging only.
    pub struct GetMemoryMap: 4 {
        /// Which memory.
        partition: u8 => 0,
        /// How to list it.
        flags: u8 => 1,
        /// Which part of the list.
        page: U16 => 2,
    }
}
command!(GetMemoryMap, "get memory map", 0x16d, v 1, MemoryMap);

layout! {
    /// A part of the MC's memory.
    pub struct MemoryRange: 8 {
        /// Where it begins.
        offset: U32 => 0,
        /// Its length in bytes.
        size: U32 => 4,
    }
}

layout! {
    /// How the MC's memory is used.
    pub struct MemoryMap: 48 {
        /// How many of the ranges count.
        entries: u8 => 0,
        reserved1: u8 => 1,
        /// How many parts the list has.
        pages: U16 => 2,
        reserved4: U32 => 4,
        /// The ranges.
        ranges: [MemoryRange; 5] => 8,
    }
}
