//! Containers, and commands without a token.

use super::{Answer, Dprc, api_version, commands};
use crate::Model;
use dpaa2_defs::mc::dpmng::{GetSocVersion, GetVersion, SocVersion, Version};
use dpaa2_defs::mc::dprc::{self, object_state, option, region_flag};
use dpaa2_defs::mc::header::{Frame, Status};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_defs::mc::{dpbp, dpci, dpcon, dpio, dpmcp, dpni};

impl Model {
    /// Commands to the firmware itself.
    pub(super) fn mng_command(&mut self, container: u32, request: &Frame) -> Answer {
        let firmware = self.description.firmware;
        let svr = self.description.soc.svr();
        commands!(request;
            GetVersion => |_| Ok(Version {
                revision: firmware.revision.into(),
                major: firmware.major.into(),
                minor: firmware.minor.into(),
            }),
            GetSocVersion => |_| Ok(SocVersion { svr: svr.into(), pvr: 0x410f_d083.into() }),
            dprc::GetContainerId => |_| Ok(dprc::ContainerId { id: container.into() }),
        )
    }

    pub(super) fn dprc_command(&mut self, id: u32, request: &Frame) -> Answer {
        commands!(request;
            dprc::GetAttributes => |_| {
                let dprc = self.mc.containers.get(&id).ok_or(Status::CONFIGURATION)?;
                Ok(dprc::Attributes {
                    id: id.into(),
                    icid: u32::from(dprc.icid).into(),
                    options: dprc.options.into(),
                    portal_id: dprc.portal_id.into(),
                })
            },
            dprc::ResetContainer => |c| {
                let child = c.child_id.get();
                if child != id && self.mc.objects.get(&ObjectType::DPRC.with_id(child)).is_none_or(|o| o.container != id) {
                    return Err(Status::CONFIGURATION);
                }
                self.reset_container(child);
                Ok(())
            },
            dprc::SetIrq => |c| {
                self.allowed(id, option::IRQ_CFG_ALLOWED)?;
                self.set_msi(ObjectType::DPRC.with_id(id), c.index, c.msi_data.get(), c.msi_address.get())
            },
            dprc::GetIrq => |c| self.get_msi(ObjectType::DPRC.with_id(id), c.index),
            dprc::CreateContainer => |c| self.create_container(id, &c),
            dprc::Destroy => |c| {
                let child = ObjectType::DPRC.with_id(c.id.get());
                if self.mc.objects.get(&child).is_none_or(|object| object.container != id) {
                    return Err(Status::CONFIGURATION);
                }
                let inside: Vec<ObjectId> = self.mc.objects_in(child.id).map(|(object, _)| object).collect();
                for object in inside {
                    self.destroy(child.id, object)?;
                }
                self.mc.containers.remove(&child.id);
                self.forget_object(child);
                Ok(())
            },
            dprc::SetResourceQuota => |_| self.allowed(id, option::ALLOC_ALLOWED),
            dprc::GetResourceQuota => |_| Ok(dprc::ResourceQuota { quota: 0xffff.into(), ..Default::default() }),
            dprc::Assign => |c| {
                let objects = (0..c.count.get().min(0x1_0000)).map(|i| c.object_type.with_id(c.base.get().wrapping_add(i)));
                let plugged = c.options.get() & dprc::assign_option::PLUGGED != 0;
                self.assign(id, id, c.container_id.get(), objects.collect(), plugged)
            },
            dprc::Unassign => |c| {
                let objects = (0..c.count.get().min(0x1_0000)).map(|i| c.object_type.with_id(c.base.get().wrapping_add(i)));
                self.assign(id, c.child_id.get(), id, objects.collect(), false)
            },
            dprc::GetObjectCount => |_| {
                let count = self.mc.objects_in(id).count() as u32;
                Ok(dprc::ObjectCount { count: count.into(), ..Default::default() })
            },
            dprc::GetObject => |c| {
                let object = self.mc.objects_in(id).nth(c.index.get() as usize).map(|(object, _)| object);
                object.map(|object| self.descriptor(object)).ok_or(Status::CONFIGURATION)
            },
            dprc::GetObjectDescriptor => |c| {
                let object = c.object_type.with_id(c.object_id.get());
                self.mc.objects.get(&object).filter(|known| known.container == id).ok_or(Status::CONFIGURATION)?;
                Ok(self.descriptor(object))
            },
            dprc::GetResourceCount => |_| Ok(dprc::ResourceCount { count: 0.into() }),
            dprc::GetPoolCount => |_| Ok(dprc::PoolCount { count: 0.into() }),
            dprc::GetObjectRegion => |c| {
                let version = request.header.id().version;
                self.object_region(id, c.object_type.with_id(c.object_id.get()), c.index, version)
            },
            dprc::SetObjectIrq => |c| {
                self.allowed(id, option::IRQ_CFG_ALLOWED)?;
                let object = c.object_type.with_id(c.object_id.get());
                self.set_msi(object, c.index, c.msi_data.get(), c.msi_address.get())
            },
            dprc::GetObjectIrq => |c| self.get_msi(c.object_type.with_id(c.object_id.get()), c.index),
            dprc::SetObjectLabel => |c| {
                let object = c.object_type.with_id(c.object_id.get());
                let known = self.mc.objects.get_mut(&object).filter(|known| known.container == id);
                known.ok_or(Status::CONFIGURATION)?.label = c.label;
                Ok(())
            },
            dprc::Connect => |c| {
                self.allowed(id, option::TOPOLOGY_CHANGES_ALLOWED)?;
                let a = c.endpoint1_type.with_id(c.endpoint1_id.get());
                let b = c.endpoint2_type.with_id(c.endpoint2_id.get());
                self.connect(a, b)
            },
            dprc::Disconnect => |c| {
                self.allowed(id, option::TOPOLOGY_CHANGES_ALLOWED)?;
                self.disconnect(c.object_type.with_id(c.id.get()))
            },
            dprc::SetLocked => |c| {
                self.mc.containers.get_mut(&c.child_id.get()).ok_or(Status::CONFIGURATION)?.is_locked = c.locked & 1 != 0;
                Ok(())
            },
            dprc::GetConnection => |c| {
                let object = c.object_type.with_id(c.id.get());
                self.mc.objects.get(&object).ok_or(Status::CONFIGURATION)?;
                let not = dprc::Connection::NOT_CONNECTED;
                let mut connection = dprc::Connection { state: not.into(), ..Default::default() };
                if let Some(peer) = self.mc.peer(object) {
                    connection.peer_id = peer.id.into();
                    connection.peer_type = peer.object_type;
                    let up = match object.object_type {
                        ObjectType::DPNI => self.ni_index(object.id).is_some_and(|index| self.link_is_up(index)),
                        _ => true,
                    };
                    connection.state = i32::from(up).into();
                }
                Ok(connection)
            },
            dpni::Create => |c| self.created(id, ObjectType::DPNI, |model, number| model.create_dpni(number, id, &c)),
            dpio::Create => |c| {
                if c.channel_mode > 1 {
                    return Err(Status::CONFIGURATION);
                }
                self.created(id, ObjectType::DPIO, |model, number| model.create_dpio(number, id))
            },
            dpbp::Create => |_| self.created(id, ObjectType::DPBP, |model, number| model.create_dpbp(number, id)),
            dpcon::Create => |c| {
                if c.priorities != 2 && c.priorities != 8 {
                    return Err(Status::CONFIGURATION);
                }
                self.created(id, ObjectType::DPCON, |model, number| model.create_dpcon(number, id, c.priorities))
            },
            dpci::Create => |c| {
                if !(1..=4).contains(&c.priorities) {
                    return Err(Status::CONFIGURATION);
                }
                self.created(id, ObjectType::DPCI, |model, number| model.create_dpci(number, id, c.priorities))
            },
            dpmcp::Create => |_| self.created(id, ObjectType::DPMCP, |model, number| model.create_dpmcp(number, id)),
            dpni::Destroy => |c| self.destroy_by_owner(id, ObjectType::DPNI.with_id(c.id.get())),
            dpio::Destroy => |c| self.destroy_by_owner(id, ObjectType::DPIO.with_id(c.id.get())),
            dpbp::Destroy => |c| self.destroy_by_owner(id, ObjectType::DPBP.with_id(c.id.get())),
            dpcon::Destroy => |c| self.destroy_by_owner(id, ObjectType::DPCON.with_id(c.id.get())),
            dpci::Destroy => |c| self.destroy_by_owner(id, ObjectType::DPCI.with_id(c.id.get())),
            dpmcp::Destroy => |c| self.destroy_by_owner(id, ObjectType::DPMCP.with_id(c.id.get())),
        )
    }

    fn allowed(&self, container: u32, needed: u32) -> Result<(), Status> {
        let options = self.mc.containers.get(&container).map_or(0, |dprc| dprc.options);
        if options & needed == needed { Ok(()) } else { Err(Status::NO_PRIVILEGE) }
    }

    fn created(
        &mut self,
        container: u32,
        object_type: ObjectType,
        create: impl FnOnce(&mut Self, u32) -> Result<(), Status>,
    ) -> Result<dpaa2_defs::mc::common::Created, Status> {
        self.allowed(container, option::OBJ_CREATE_ALLOWED)?;
        let id = self.mc.free_id(object_type);
        create(self, id)?;
        // Until it is assigned as "plugged", no driver is to see it.
        if let Some(object) = self.mc.objects.get_mut(&object_type.with_id(id)) {
            object.is_plugged = false;
        }
        let dprc = ObjectType::DPRC.with_id(container);
        self.raise(dprc, dprc::event::OBJECT_CREATED | dprc::event::OBJECT_ADDED);
        Ok(dpaa2_defs::mc::common::Created { id: id.into() })
    }

    fn destroy_by_owner(&mut self, container: u32, object: ObjectId) -> Result<(), Status> {
        self.allowed(container, option::OBJ_CREATE_ALLOWED)?;
        self.destroy(container, object)?;
        let dprc = ObjectType::DPRC.with_id(container);
        self.raise(dprc, dprc::event::OBJECT_DESTROYED | dprc::event::OBJECT_REMOVED);
        Ok(())
    }

    fn create_container(
        &mut self,
        id: u32,
        c: &dprc::CreateContainer,
    ) -> Result<dprc::CreatedContainer, Status> {
        self.allowed(id, option::SPAWN_ALLOWED)?;
        let child = self.mc.free_id(ObjectType::DPRC);
        let icid = match c.icid.get() {
            dprc::CreateContainer::ANY_ICID => {
                (1..).find(|icid| self.mc.containers.values().all(|d| d.icid != *icid))
            }
            icid => {
                u16::try_from(icid).ok().filter(|icid| self.mc.containers.values().all(|d| d.icid != *icid))
            }
        };
        let icid = icid.ok_or(Status::NO_RESOURCE)?;
        self.add_container(child, id, icid, c.options.get()).map_err(|_| Status::NO_MEMORY)?;
        if let Some(object) = self.mc.objects.get_mut(&ObjectType::DPRC.with_id(child)) {
            object.label = c.label;
        }
        Ok(dprc::CreatedContainer { child_id: child.into(), ..Default::default() })
    }

    /// Adds a container with its portal.
    pub(crate) fn add_container(
        &mut self,
        id: u32,
        parent: u32,
        icid: u16,
        options: u32,
    ) -> std::io::Result<()> {
        let object = ObjectType::DPRC.with_id(id);
        self.add_command_portal(object, id)?;
        self.mc.add(object, parent);
        self.mc.containers.insert(id, Dprc { icid, options, portal_id: id, is_locked: false });
        self.dma.insert(id, crate::memory::DmaSpace::default());
        Ok(())
    }

    fn assign(
        &mut self,
        caller: u32,
        from: u32,
        to: u32,
        objects: Vec<ObjectId>,
        is_plugged: bool,
    ) -> Result<(), Status> {
        let is_own = |id: u32| {
            id == caller
                || self.mc.objects.get(&ObjectType::DPRC.with_id(id)).is_some_and(|o| o.container == caller)
        };
        if !is_own(from) || !is_own(to) {
            return Err(Status::CONFIGURATION);
        }
        for object in &objects {
            let known = self.mc.objects.get(object).ok_or(Status::CONFIGURATION)?;
            if known.container != from && known.container != to {
                return Err(Status::CONFIGURATION);
            }
            if known.container != to && self.mc.is_open(*object) {
                return Err(Status::BUSY);
            }
        }
        for object in objects {
            self.move_object(object, to);
            if let Some(known) = self.mc.objects.get_mut(&object) {
                known.is_plugged = is_plugged;
            }
        }
        Ok(())
    }

    fn descriptor(&self, object: ObjectId) -> dprc::ObjectDescriptor {
        let version = api_version(object.object_type);
        let known = &self.mc.objects[&object];
        let open = if self.mc.is_open(object) { object_state::OPEN } else { 0 };
        let plugged = if known.is_plugged { object_state::PLUGGED } else { 0 };
        dprc::ObjectDescriptor {
            id: object.id.into(),
            vendor: dprc::ObjectDescriptor::VENDOR_NXP.into(),
            irqs: 1,
            regions: self.region_count(object) as u8,
            state: (open | plugged).into(),
            version_major: version.major,
            version_minor: version.minor,
            object_type: object.object_type,
            label: known.label,
            ..Default::default()
        }
    }

    fn object_region(
        &self,
        id: u32,
        object: ObjectId,
        index: u8,
        version: u8,
    ) -> Result<dprc::ObjectRegion, Status> {
        let known = self.mc.objects.get(&object).ok_or(Status::CONFIGURATION)?;
        if known.container != id || usize::from(index) >= self.region_count(object) {
            return Err(Status::CONFIGURATION);
        }
        let is_portal = object.object_type == ObjectType::DPIO;
        let (region_type, flags) = match (is_portal, index) {
            (false, _) => (dprc::RegionType::MC_PORTAL, 0),
            (true, 0) => (dprc::RegionType::QBMAN_PORTAL, region_flag::CACHEABLE),
            (true, 1) => (dprc::RegionType::QBMAN_PORTAL, 0),
            _ => (dprc::RegionType::QBMAN_MEMORY_PORTAL, region_flag::CACHEABLE | region_flag::SHAREABLE),
        };
        let size = match (version, is_portal) {
            (3.., _) => 0x1_0000,
            (_, true) => 0x1000,
            (_, false) => 64,
        };
        let block = u64::from(index) * 0x400_0000;
        let base = if is_portal { 0x8_1800_0000 } else { 0x8_0c00_0000 };
        Ok(dprc::ObjectRegion {
            offset: (block + u64::from(object.id) * 0x1_0000).into(),
            size: size.into(),
            region_type,
            flags: flags.into(),
            base_address: if version >= 2 { base } else { 0u64 }.into(),
            ..Default::default()
        })
    }

    fn set_msi(&mut self, object: ObjectId, index: u8, data: u32, address: u64) -> Result<(), Status> {
        let known = self.mc.objects.get_mut(&object).filter(|_| index == 0).ok_or(Status::CONFIGURATION)?;
        known.irq.msi[..4].copy_from_slice(&data.to_le_bytes());
        known.irq.msi[8..].copy_from_slice(&address.to_le_bytes());
        Ok(())
    }

    fn get_msi(&self, object: ObjectId, index: u8) -> Result<dprc::Irq, Status> {
        let known = self.mc.objects.get(&object).filter(|_| index == 0).ok_or(Status::CONFIGURATION)?;
        let msi = known.irq.msi;
        let data = u32::from_le_bytes([msi[0], msi[1], msi[2], msi[3]]);
        let address = u64::from_le_bytes(std::array::from_fn(|i| msi[8 + i]));
        Ok(dprc::Irq { msi_data: data.into(), msi_address: address.into(), ..Default::default() })
    }

    /// Links two objects that can be.
    pub(crate) fn connect(&mut self, a: ObjectId, b: ObjectId) -> Result<(), Status> {
        let kinds = [a.object_type, b.object_type];
        let possible = kinds == [ObjectType::DPCI; 2]
            || kinds.contains(&ObjectType::DPNI)
                && kinds.iter().all(|k| [ObjectType::DPNI, ObjectType::DPMAC].contains(k));
        let known = [a, b].iter().all(|object| self.mc.objects.contains_key(object));
        if !possible || !known {
            return Err(Status::CONFIGURATION);
        }
        if [a, b].iter().any(|&object| self.mc.peer(object).is_some()) {
            return Err(Status::BUSY);
        }
        self.mc.connections.push((a, b));
        for end in [a, b] {
            self.endpoint_changed(end);
        }
        Ok(())
    }

    fn disconnect(&mut self, object: ObjectId) -> Result<(), Status> {
        let peer = self.mc.peer(object).ok_or(Status::INVALID_STATE)?;
        self.mc.connections.retain(|&(a, b)| a != object && b != object);
        for end in [object, peer] {
            self.endpoint_changed(end);
        }
        Ok(())
    }

    fn endpoint_changed(&mut self, object: ObjectId) {
        match object.object_type {
            ObjectType::DPNI => self.raise(object, dpni::event::ENDPOINT_CHANGED | dpni::event::LINK_CHANGED),
            ObjectType::DPMAC => self.raise(object, dpaa2_defs::mc::dpmac::event::ENDPOINT_CHANGED),
            ObjectType::DPCI => self.raise(object, dpci::event::LINK_CHANGED),
            _ => {}
        }
    }
}
