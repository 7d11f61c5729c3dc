//! Objects but containers and interfaces, and what all have: interrupts, a life.

use super::{Answer, CommandPortal, Dpci, Dpcon, commands};
use crate::Model;
use crate::memory::Region;
use crate::portal::{Portal, WINDOW_BYTES};
use crate::qman::{Cdan, ChannelId, Consumer, Destination, Fqid};
use dpaa2_defs::mc::common::{
    ClearIrqStatus, Disable, Enable, Enabled, GetIrqEnable, GetIrqMask, GetIrqStatus, IrqEvents, IsEnabled,
    Reset, SetIrqEnable, SetIrqMask,
};
use dpaa2_defs::mc::header::{Frame, Status};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_defs::mc::{dpbp, dpci, dpcon, dpio, dpmac, dpmcp, dpni};
use std::io;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// QBMan's clock in Hz.
const QBMAN_CLOCK_HZ: u32 = 700_000_000;
/// Software portals a chip has; drivers index tables of this size with a portal's number.
const PORTALS_MAX: usize = 64;

impl Model {
    pub(super) fn irq_command(&mut self, object: ObjectId, request: &Frame) -> Answer {
        let Some(known) = self.mc.objects.get_mut(&object) else { return Err(Status::CONFIGURATION) };
        let irq = &mut known.irq;
        let valid = |index: u8| if index == 0 { Ok(()) } else { Err(Status::CONFIGURATION) };
        commands!(request;
            SetIrqEnable => |c| { valid(c.index)?; irq.enabled = c.enable & 1 != 0; Ok(()) },
            GetIrqEnable => |c| { valid(c.index)?; Ok(Enabled::from(irq.enabled)) },
            SetIrqMask => |c| { valid(c.index)?; irq.mask = c.mask.get(); Ok(()) },
            GetIrqMask => |c| { valid(c.index)?; Ok(IrqEvents { events: irq.mask.into() }) },
            GetIrqStatus => |c| {
                valid(c.index)?;
                // DPDK asks with 0 and wants everything.
                let wanted = match c.events.get() { 0 => u32::MAX, events => events };
                Ok(IrqEvents { events: (irq.status & wanted).into() })
            },
            ClearIrqStatus => |c| { valid(c.index)?; irq.status &= !c.events.get(); Ok(()) },
        )
    }

    pub(super) fn dpio_command(&mut self, id: u32, request: &Frame) -> Answer {
        let Some(index) = self.portals.iter().position(|portal| portal.dpio == id) else {
            return Err(Status::CONFIGURATION);
        };
        let version = self.description.soc.qbman_version();
        commands!(request;
            Enable => |_| { self.portals[index].enabled = true; Ok(()) },
            Disable => |_| { self.portals[index].enabled = false; Ok(()) },
            IsEnabled => |_| Ok(self.portals[index].enabled.into()),
            Reset => |_| { self.reset_portal(index); Ok(()) },
            dpio::GetAttributes => |_| {
                let portal = &self.portals[index];
                let number = u64::from(portal.number);
                Ok(dpio::Attributes {
                    id: id.into(),
                    portal_id: portal.number.into(),
                    priorities: 8,
                    channel_mode: dpio::ChannelMode::LOCAL.0,
                    cena_offset: (number * 0x1_0000).into(),
                    cinh_offset: (0x400_0000 + number * 0x1_0000).into(),
                    qbman_version: version.into(),
                    qbman_clock: QBMAN_CLOCK_HZ.into(),
                    ..Default::default()
                })
            },
            dpio::SetStashingDestination => |c| { self.portals[index].stash_destination = c.destination; Ok(()) },
            dpio::GetStashingDestination => |_| {
                Ok(dpio::StashingDestination { destination: self.portals[index].stash_destination })
            },
            dpio::SetStashingDestinationByCore => |c| { self.portals[index].stash_destination = c.core_id / 2; Ok(()) },
            dpio::AddStaticDequeueChannel => |c| {
                let container = self.portals[index].container;
                let dpcon = self.dpcons.get(&c.dpcon_id.get()).filter(|dpcon| dpcon.container == container);
                let channel = dpcon.ok_or(Status::CONFIGURATION)?.channel;
                self.subscribe(index, channel)
            },
            dpio::RemoveStaticDequeueChannel => |c| {
                let channel = self.dpcons.get(&c.dpcon_id.get()).ok_or(Status::CONFIGURATION)?.channel;
                self.unsubscribe(index, channel);
                Ok(())
            },
        )
    }

    fn reset_portal(&mut self, index: usize) {
        self.portals[index].reset();
        for channel in self.channels() {
            self.unsubscribe(index, channel);
        }
    }

    fn channels(&self) -> Vec<ChannelId> {
        self.dpcons.values().map(|dpcon| dpcon.channel).collect()
    }

    fn subscribe(&mut self, index: usize, channel: ChannelId) -> Result<dpio::StaticDequeueChannel, Status> {
        let sources = &mut self.portals[index].sources;
        let slot = match sources.iter().position(|source| *source == Some(channel)) {
            Some(slot) => slot,
            None => sources.iter().position(Option::is_none).ok_or(Status::NO_RESOURCE)?,
        };
        sources[slot] = Some(channel);
        if let Some(channel) = self.qman.channel_mut(channel)
            && !channel.subscribers.contains(&index)
        {
            channel.subscribers.push(index);
        }
        self.fill(index);
        Ok(dpio::StaticDequeueChannel { channel_index: slot as u8 })
    }

    fn unsubscribe(&mut self, index: usize, channel: ChannelId) {
        for source in &mut self.portals[index].sources[1..] {
            if *source == Some(channel) {
                *source = None;
            }
        }
        if let Some(channel) = self.qman.channel_mut(channel) {
            channel.subscribers.retain(|other| *other != index);
        }
    }

    pub(super) fn dpbp_command(&mut self, id: u32, request: &Frame) -> Answer {
        let Some(pool) = self.bman.by_object(id) else { return Err(Status::CONFIGURATION) };
        let (bpid, container) = (pool.bpid, pool.container);
        commands!(request;
            Enable => |_| { pool.enabled = true; Ok(()) },
            Disable => |_| { pool.enabled = false; Ok(()) },
            IsEnabled => |_| Ok(pool.enabled.into()),
            Reset => |_| { self.reset_object(ObjectType::DPBP.with_id(id)); Ok(()) },
            dpbp::GetAttributes => |_| Ok(dpbp::Attributes { bpid: bpid.into(), id: id.into(), ..Default::default() }),
            dpbp::SetNotifications => |c| { pool.notify.copy_from_slice(c.as_bytes()); Ok(()) },
            dpbp::GetNotifications => |_| Ok(zerocopy::transmute!(pool.notify)),
            dpbp::GetFreeBuffers => |_| {
                Ok(dpbp::FreeBuffers { count: (self.bman.free(container, bpid) as u32).into() })
            },
        )
    }

    pub(super) fn dpcon_command(&mut self, id: u32, request: &Frame) -> Answer {
        let Some(dpcon) = self.dpcons.get_mut(&id) else { return Err(Status::CONFIGURATION) };
        let (channel, container) = (dpcon.channel, dpcon.container);
        commands!(request;
            Enable => |_| { dpcon.enabled = true; Ok(()) },
            Disable => |_| { dpcon.enabled = false; Ok(()) },
            IsEnabled => |_| Ok(dpcon.enabled.into()),
            Reset => |_| {
                dpcon.enabled = false;
                if let Some(channel) = self.qman.channel_mut(channel) {
                    channel.cdan = None;
                }
                Ok(())
            },
            dpcon::GetAttributes => |_| Ok(dpcon::Attributes {
                id: id.into(),
                channel_id: channel.into(),
                priorities: dpcon.priorities,
                ..Default::default()
            }),
            dpcon::SetNotification => |c| {
                let cdan = match c.dpio_id.get() {
                    dpcon::SetNotification::NO_DPIO => None,
                    dpio => {
                        let of_container = |portal: &Portal| portal.dpio == dpio && portal.container == container;
                        let portal = self.portals.iter().position(of_container).ok_or(Status::CONFIGURATION)?;
                        // Armed by the portal that serves it, not by this command.
                        Some(Cdan { portal, context: c.context.get(), enabled: false })
                    }
                };
                if let Some(channel) = self.qman.channel_mut(channel) {
                    channel.cdan = cdan;
                }
                Ok(())
            },
        )
    }

    pub(super) fn dpci_command(&mut self, id: u32, request: &Frame) -> Answer {
        let Some(dpci) = self.dpcis.get_mut(&id) else { return Err(Status::CONFIGURATION) };
        let (container, priorities, enabled) = (dpci.container, dpci.rx.len(), dpci.enabled);
        let peer = self.mc.peer(ObjectType::DPCI.with_id(id)).map(|peer| peer.id);
        commands!(request;
            Enable => |_| { dpci.enabled = true; Ok(()) },
            Disable => |_| { dpci.enabled = false; Ok(()) },
            IsEnabled => |_| Ok(dpci.enabled.into()),
            Reset => |_| { self.reset_object(ObjectType::DPCI.with_id(id)); Ok(()) },
            dpci::GetAttributes => |_| {
                Ok(dpci::Attributes { id: id.into(), priorities: priorities as u8, ..Default::default() })
            },
            dpci::SetRxQueue => |c| self.set_dpci_queue(id, container, &c),
            dpci::GetLinkState => |_| {
                let up = enabled && peer.is_some_and(|peer| self.dpcis.get(&peer).is_some_and(|peer| peer.enabled));
                Ok(Enabled::from(up))
            },
            dpci::GetPeerAttributes => |_| {
                let priorities = peer.and_then(|peer| self.dpcis.get(&peer)).map_or(0, |peer| peer.rx.len() as u8);
                Ok(dpci::PeerAttributes { peer_id: peer.unwrap_or(u32::MAX).into(), priorities, ..Default::default() })
            },
            dpci::GetRxQueue => |c| {
                let fqid = *dpci.rx.get(usize::from(c.queue)).ok_or(Status::CONFIGURATION)?;
                let (kind, number, priority) = dpci.destinations[usize::from(c.queue)];
                let context = self.qman.fq(fqid).map_or(0, |fq| fq.context);
                Ok(dpci::RxQueue {
                    destination_id: number.into(),
                    destination_priority: priority,
                    destination_type: kind,
                    user_context: context.into(),
                    fqid: fqid.into(),
                    ..Default::default()
                })
            },
            dpci::GetTxQueue => |c| {
                // What is sent goes straight into the peer's receive queue.
                let peer = peer.and_then(|peer| self.dpcis.get(&peer));
                let fqid = peer.and_then(|peer| peer.rx.get(usize::from(c.queue)).copied());
                Ok(dpci::TxQueue { fqid: fqid.unwrap_or(u32::MAX).into(), ..Default::default() })
            },
        )
    }

    fn set_dpci_queue(&mut self, id: u32, container: u32, c: &dpci::SetRxQueue) -> Result<(), Status> {
        let dpci = self.dpcis.get_mut(&id).ok_or(Status::CONFIGURATION)?;
        let queues: Vec<usize> = match c.queue {
            0xff => (0..dpci.rx.len()).collect(),
            queue if usize::from(queue) < dpci.rx.len() => vec![queue.into()],
            _ => return Err(Status::CONFIGURATION),
        };
        let (kind, number, priority) =
            (c.destination_type & 15, c.destination_id.get(), c.destination_priority);
        let options = c.options.get();
        let moves = options & dpci::queue_option::DESTINATION != 0;
        let fqids: Vec<Fqid> = queues.iter().map(|&queue| dpci.rx[queue]).collect();
        if moves {
            for queue in queues {
                dpci.destinations[queue] = (kind, number, priority);
            }
        }
        for fqid in fqids {
            if let Some(fq) = self.qman.fq_mut(fqid) {
                if options & dpci::queue_option::USER_CONTEXT != 0 {
                    fq.context = c.user_context.get();
                }
                if options & dpci::queue_option::HOLD_ACTIVE != 0 {
                    fq.hold_active = c.destination_type & 0x10 != 0;
                }
            }
            if moves {
                let to =
                    self.destination_of(kind, number, priority, container).ok_or(Status::CONFIGURATION)?;
                self.qman.set_destination(fqid, to);
            }
        }
        Ok(())
    }

    pub(super) fn dpmcp_command(&mut self, id: u32, request: &Frame) -> Answer {
        commands!(request;
            Reset => |_| Ok(()),
            dpmcp::GetAttributes => |_| Ok(dpmcp::Attributes { options: 0.into(), id: id.into() }),
        )
    }

    pub(super) fn dpmac_command(&mut self, id: u32, request: &Frame) -> Answer {
        let Some(index) = self.macs.iter().position(|mac| mac.id == id) else {
            return Err(Status::CONFIGURATION);
        };
        let mac = &mut self.macs[index];
        commands!(request;
            Reset => |_| Ok(()),
            dpmac::GetAttributes => |_| Ok(dpmac::Attributes {
                interface: dpmac::EthernetInterface(mac.interface),
                link_type: dpmac::LinkType::FIXED,
                mac_id: (id as u16).into(),
                max_rate: mac.rate.into(),
                ..Default::default()
            }),
            dpmac::GetLinkConfiguration => |_| Ok(dpmac::LinkConfiguration {
                rate: mac.rate.into(),
                advertising: mac.advertising.into(),
                ..Default::default()
            }),
            dpmac::SetLinkState => |c| {
                let mac = &mut self.macs[index];
                mac.supported = c.supported.get();
                mac.advertising = c.advertising.get();
                if c.rate.get() > 0 {
                    mac.rate = c.rate.get();
                }
                self.set_mac_link(index, c.state & 1 != 0);
                Ok(())
            },
            dpmac::GetCounter => |c| {
                if usize::from(c.id) >= dpmac::COUNTERS.len() {
                    return Err(Status::CONFIGURATION);
                }
                Ok(dpmac::Counter { value: mac.counter(c.id.into()).into(), ..Default::default() })
            },
            dpmac::GetMacAddress => |_| Ok(dpni::MacAddressField {
                address: dpni::MacAddress::new(mac.address()),
                ..Default::default()
            }),
            dpmac::SetProtocol => |c| { mac.interface = c.interface.0; Ok(()) },
            dpmac::GetStatistics => |c| {
                let (ids, values, count) = (c.ids_iova.get(), c.values_iova.get(), c.count.get());
                let container = self.macs[index].container;
                self.mac_statistics(index, container, ids, values, count)
            },
        )
    }

    /// Answers a list of counters by DMA.
    pub(super) fn mac_statistics(
        &mut self,
        index: usize,
        container: u32,
        ids: u64,
        values: u64,
        count: u32,
    ) -> Result<(), Status> {
        let limit = dpmac::COUNTERS.len() as u32;
        if count > limit {
            return Err(Status::CONFIGURATION);
        }
        for i in 0..u64::from(count) {
            let mut id = [0; 4];
            self.dma(container).read(ids.wrapping_add(4 * i), &mut id).map_err(|_| Status::DMA)?;
            let id = u32::from_le_bytes(id);
            if id >= limit {
                return Err(Status::CONFIGURATION);
            }
            let value = self.macs[index].counter(id as usize).to_le_bytes();
            self.dma(container).write(values.wrapping_add(8 * i), &value).map_err(|_| Status::DMA)?;
        }
        Ok(())
    }

    /// Takes a MAC's link up or down.
    pub(crate) fn set_mac_link(&mut self, index: usize, is_up: bool) {
        if std::mem::replace(&mut self.macs[index].is_up, is_up) == is_up {
            return;
        }
        let mac = ObjectType::DPMAC.with_id(self.macs[index].id);
        self.raise(mac, dpmac::event::LINK_CHANGED);
        if let Some(peer) = self.mc.peer(mac) {
            self.raise(peer, dpni::event::LINK_CHANGED);
        }
    }

    pub(crate) fn add_command_portal(&mut self, object: ObjectId, container: u32) -> io::Result<()> {
        let region = Arc::new(Region::new(WINDOW_BYTES)?);
        self.command_portals.push(CommandPortal { object, container, region });
        Ok(())
    }

    pub(crate) fn create_dpmcp(&mut self, id: u32, container: u32) -> Result<(), Status> {
        let object = ObjectType::DPMCP.with_id(id);
        self.add_command_portal(object, container).map_err(|_| Status::NO_MEMORY)?;
        self.mc.add(object, container);
        Ok(())
    }

    pub(crate) fn create_dpio(&mut self, id: u32, container: u32) -> Result<(), Status> {
        let number =
            (0..PORTALS_MAX as u16).find(|number| self.portals.iter().all(|portal| portal.number != *number));
        let number = number.ok_or(Status::NO_RESOURCE)?;
        let registers = Arc::new(Region::new(WINDOW_BYTES).map_err(|_| Status::NO_MEMORY)?);
        let memory = if self.description.soc.has_memory_backed_portals() {
            Some(Arc::new(Region::new(WINDOW_BYTES).map_err(|_| Status::NO_MEMORY)?))
        } else {
            None
        };
        let local = self.qman.add_channel(container);
        self.portals.push(Portal::new(id, container, number, local, registers, memory));
        self.mc.add(ObjectType::DPIO.with_id(id), container);
        Ok(())
    }

    pub(crate) fn create_dpbp(&mut self, id: u32, container: u32) -> Result<(), Status> {
        self.bman.add(id, container).ok_or(Status::NO_RESOURCE)?;
        self.mc.add(ObjectType::DPBP.with_id(id), container);
        Ok(())
    }

    pub(crate) fn create_dpcon(&mut self, id: u32, container: u32, priorities: u8) -> Result<(), Status> {
        let channel = self.qman.add_channel(container);
        self.dpcons.insert(id, Dpcon { container, channel, priorities, enabled: false });
        self.mc.add(ObjectType::DPCON.with_id(id), container);
        Ok(())
    }

    pub(crate) fn create_dpci(&mut self, id: u32, container: u32, priorities: u8) -> Result<(), Status> {
        let rx: Vec<Fqid> =
            (0..priorities).map(|_| self.qman.add_fq(container, Consumer::Software)).collect();
        let destinations = vec![(0, 0, 0); rx.len()];
        self.dpcis.insert(id, Dpci { container, enabled: false, rx, destinations });
        self.mc.add(ObjectType::DPCI.with_id(id), container);
        Ok(())
    }

    /// Ends an object of a container.
    pub(super) fn destroy(&mut self, container: u32, object: ObjectId) -> Result<(), Status> {
        let known = self.mc.objects.get(&object).filter(|known| known.container == container);
        known.ok_or(Status::CONFIGURATION)?;
        if self.mc.is_open(object) {
            return Err(Status::BUSY);
        }
        match object.object_type {
            ObjectType::DPNI => {
                if let Some(index) = self.ni_index(object.id) {
                    let queues: Vec<Fqid> = self.nis[index].iter().flat_map(crate::ni::Ni::queues).collect();
                    for fqid in queues {
                        self.remove_queue(container, fqid);
                    }
                    self.nis[index] = None;
                }
            }
            ObjectType::DPIO => {
                // Indices of other portals stay what they are: the portal is only made unreachable.
                if let Some(index) = self.portals.iter().position(|portal| portal.dpio == object.id) {
                    self.reset_portal(index);
                    self.portals[index].dpio = u32::MAX;
                }
            }
            ObjectType::DPBP => self.bman.remove(object.id),
            ObjectType::DPCON => drop(self.dpcons.remove(&object.id)),
            ObjectType::DPCI => {
                for fqid in self.dpcis.remove(&object.id).into_iter().flat_map(|dpci| dpci.rx) {
                    self.remove_queue(container, fqid);
                }
            }
            ObjectType::DPMCP => self.command_portals.retain(|portal| portal.object != object),
            _ => return Err(Status::UNSUPPORTED),
        }
        self.forget_object(object);
        Ok(())
    }

    fn remove_queue(&mut self, container: u32, fqid: Fqid) {
        for fd in self.qman.remove_fq(fqid) {
            self.discard(container, &fd);
        }
    }

    pub(super) fn forget_object(&mut self, object: ObjectId) {
        self.mc.connections.retain(|&(a, b)| a != object && b != object);
        self.mc.objects.remove(&object);
        self.command_portals.retain(|portal| portal.object != object);
    }

    /// Gives an object to another container.
    pub(super) fn move_object(&mut self, object: ObjectId, container: u32) {
        let mut queues = Vec::new();
        let mut channels = Vec::new();
        match object.object_type {
            ObjectType::DPNI => {
                if let Some(ni) = self.ni_index(object.id).and_then(|index| self.nis[index].as_mut()) {
                    ni.container = container;
                    queues = ni.queues().collect();
                }
            }
            ObjectType::DPIO => {
                if let Some(portal) = self.portals.iter_mut().find(|portal| portal.dpio == object.id) {
                    portal.container = container;
                    channels.extend(portal.sources[0]);
                }
            }
            ObjectType::DPBP => {
                if let Some(pool) = self.bman.by_object(object.id) {
                    pool.container = container;
                }
            }
            ObjectType::DPCON => {
                if let Some(dpcon) = self.dpcons.get_mut(&object.id) {
                    dpcon.container = container;
                    channels.push(dpcon.channel);
                }
            }
            ObjectType::DPCI => {
                if let Some(dpci) = self.dpcis.get_mut(&object.id) {
                    dpci.container = container;
                    queues = dpci.rx.clone();
                }
            }
            ObjectType::DPMAC => {
                if let Some(mac) = self.macs.iter_mut().find(|mac| mac.id == object.id) {
                    mac.container = container;
                }
            }
            _ => {
                if let Some(portal) = self.command_portals.iter_mut().find(|portal| portal.object == object) {
                    portal.container = container;
                }
            }
        }
        for fqid in queues {
            if let Some(fq) = self.qman.fq_mut(fqid) {
                fq.container = container;
            }
        }
        for channel in channels {
            if let Some(channel) = self.qman.channel_mut(channel) {
                channel.container = container;
            }
        }
        if let Some(known) = self.mc.objects.get_mut(&object) {
            known.container = container;
        }
    }

    /// Puts an object into its state after creation, as "reset" does.
    pub(crate) fn reset_object(&mut self, object: ObjectId) {
        match object.object_type {
            ObjectType::DPNI => {
                if let Some(index) = self.ni_index(object.id) {
                    self.reset_ni(index);
                }
            }
            ObjectType::DPIO => {
                if let Some(index) = self.portals.iter().position(|portal| portal.dpio == object.id) {
                    self.reset_portal(index);
                }
            }
            ObjectType::DPBP => {
                if let Some(pool) = self.bman.by_object(object.id) {
                    pool.enabled = false;
                    let bpid = pool.bpid;
                    self.bman.forget(bpid);
                }
            }
            ObjectType::DPCON => {
                if let Some(dpcon) = self.dpcons.get_mut(&object.id) {
                    dpcon.enabled = false;
                    if let Some(channel) = self.qman.channel_mut(dpcon.channel) {
                        channel.cdan = None;
                    }
                }
            }
            ObjectType::DPCI => {
                let rx = self.dpcis.get_mut(&object.id).map(|dpci| {
                    dpci.enabled = false;
                    dpci.destinations.fill((0, 0, 0));
                    dpci.rx.clone()
                });
                for fqid in rx.into_iter().flatten() {
                    self.qman.set_destination(fqid, Destination::Parked);
                }
            }
            ObjectType::DPRC => self.reset_container(object.id),
            _ => {}
        }
    }

    /// Resets everything in a container and closes what is open there, but the container's own portal.
    pub(super) fn reset_container(&mut self, id: u32) {
        let objects: Vec<ObjectId> = self.mc.objects_in(id).map(|(object, _)| object).collect();
        for object in objects.iter().filter(|object| object.object_type != ObjectType::DPRC) {
            self.reset_object(*object);
        }
        self.mc.tokens.retain(|_, token| !objects.contains(&token.object));
    }

    /// Closes every token that was opened through a portal.
    pub(crate) fn close_tokens_of(&mut self, portal: ObjectId) {
        let before = self.mc.open_tokens();
        self.mc.tokens.retain(|_, token| token.portal != portal);
        self.audit.abandoned_tokens += before - self.mc.open_tokens();
    }
}
