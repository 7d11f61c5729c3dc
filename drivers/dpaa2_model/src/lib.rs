//! DPAA2 in software: the Management Complex, the queue and buffer manager with their portals, the packet processor, and
//! wires. Drivers that work on it, ours and other people's, run against it unchanged.
//!
//! The model has no thread and no clock (but for wires that say so). It runs when something is stored into one of its windows: the store is carried
//! out to its last consequence (a frame sent, received by the connected interface and announced there) before
//! [`Model::store`] returns. Loads need no call: they find what the last store left in the windows' memory. The same stores
//! give the same results, always.
//!
//! It refuses what it doesn't know, and keeps an [audit](Model::audit) of the rules software broke.
//!
//! ```
//! use dpaa2_model::{Description, Model};
//!
//! let description = Description::from_toml(r#"
//!     soc = "lx2160a"
//!     [[container]]
//!     id = 2
//!     dpio = 1
//!     dpbp = 1
//! "#)?;
//! let model = Model::new(&description)?;
//! let objects: Vec<String> = model.objects(2).iter().map(|object| object.id.to_string()).collect();
//! assert_eq!(objects, ["dpbp.1", "dpio.1", "dpmcp.1"]);
//! # Ok::<(), dpaa2_model::DescriptionError>(())
//! ```
//!
//! What is left out, because public sources don't say how it works or no driver here needs it: order restoration, early
//! drop, policers that colour frames, soft parsers, crypto and DMA engines, time-outs of interrupts (they count as passed).

// UNSAFETY: windows of portals and DMA memory are shared with the programs that drive the model and are reached through
// raw pointers. All of it is in `memory`, behind bounds-checked copies.
#![allow(unsafe_code)]

mod audit;
mod bman;
mod bus;
mod config;
pub mod control;
mod fault;
mod lines;
mod mc;
mod memory;
mod ni;
mod parse;
mod portal;
mod qman;
pub mod remote;
mod wire;
mod wriop;

#[cfg(test)]
mod tests;

pub use audit::{AuditReport, PoolReport, Rule, Violation};
pub use bus::{COMMAND_TIMEOUT, ModelBus, ModelDevice, ModelWindow, SharedModel, lock};
pub use config::{Connection, Container, Description, DescriptionError, Dpmac, Dpni, Firmware, Soc, WireEnd};
pub use fault::Fault;
pub use memory::{DmaFault, DmaSpace, Region};
pub use ni::NiCounters;

use dpaa2_defs::mc::header::Frame;
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_defs::qbman::dequeue::{Notification, notification};
use memmap2::MmapRaw;
use qman::{Event, Fqid};
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Virtual time that passes with each store.
const STORE_NS: u64 = 20;

/// What programs did to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stores, of any kind: each would be an access to the device on a board.
    pub stores: u64,
    /// Commands to the Management Complex.
    pub commands: u64,
    /// Frames enqueued through portals.
    pub enqueues: u64,
    /// Volatile dequeues.
    pub dequeues: u64,
    /// Buffer releases, of up to 7 buffers each.
    pub releases: u64,
    /// Management commands of portals.
    pub management: u64,
    /// Cache lines written where hardware reads, once [`Model::count_lines`] was called.
    pub lines: u64,
}

/// An object as a bus shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub id: ObjectId,
    /// Number of its regions.
    pub regions: usize,
    /// Number of its interrupts.
    pub irqs: usize,
}

/// How stores into a region reach the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Each store is a call of [`Model::store`].
    Trapped,
    /// Ordinary memory: the model looks at it when a trapped store says so.
    Plain,
}

/// A region of an object.
#[derive(Clone, Debug)]
pub struct RegionHandle {
    /// Its memory; loads find what they need there.
    pub memory: Arc<Region>,
    /// How stores have to be made.
    pub access: Access,
}

/// The hardware.
#[derive(Debug)]
pub struct Model {
    description: Description,
    mc: mc::Mc,
    command_portals: Vec<mc::CommandPortal>,
    portals: Vec<portal::Portal>,
    dpcons: BTreeMap<u32, mc::Dpcon>,
    dpcis: BTreeMap<u32, mc::Dpci>,
    qman: qman::Qman,
    bman: bman::Bman,
    nis: Vec<Option<ni::Ni>>,
    macs: Vec<wire::Mac>,
    /// By container.
    dma: BTreeMap<u32, DmaSpace>,
    arriving: VecDeque<wriop::Arriving>,
    audit: audit::Audit,
    faults: fault::Faults,
    lines: lines::Lines,
    counters: Counters,
    now_ns: u64,
    is_stepped: bool,
}

/// Adds 1 to an event descriptor: an interrupt.
pub(crate) fn signal(event: &OwnedFd) {
    // A full counter is a pending interrupt already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

impl Model {
    /// Makes hardware as described.
    ///
    /// # Errors
    /// What is wrong with the description, or what the system refuses.
    pub fn new(description: &Description) -> Result<Self, DescriptionError> {
        description.check()?;
        let mut model = Self {
            description: description.clone(),
            mc: mc::Mc::default(),
            command_portals: Vec::new(),
            portals: Vec::new(),
            dpcons: BTreeMap::new(),
            dpcis: BTreeMap::new(),
            qman: qman::Qman::default(),
            bman: bman::Bman::default(),
            nis: Vec::new(),
            macs: Vec::new(),
            dma: BTreeMap::new(),
            arriving: VecDeque::new(),
            audit: audit::Audit::default(),
            faults: fault::Faults::default(),
            lines: lines::Lines::default(),
            counters: Counters::default(),
            now_ns: 0,
            is_stepped: false,
        };
        let memory = |cause| DescriptionError::System { what: "memory for portals".into(), cause };
        model.add_container(1, 1, 1, u32::MAX).map_err(memory)?;
        for container in &description.container {
            let icid = container.icid.unwrap_or(container.id as u16);
            model.add_container(container.id, 1, icid, container.options).map_err(memory)?;
            model.populate(container)?;
        }
        for dpmac in &description.dpmac {
            model.macs.push(wire::Mac::new(dpmac)?);
            model.mc.add(ObjectType::DPMAC.with_id(dpmac.id), dpmac.container);
        }
        for connection in &description.connection {
            let (a, b) = connection.ends()?;
            if model.connect(a, b).is_err() {
                return Err(DescriptionError::Value {
                    object: a.to_string(),
                    what: format!("can't be connected with {b}"),
                });
            }
        }
        // Connections were made before any driver was there to be told.
        for object in model.mc.objects.values_mut() {
            object.irq.status = 0;
        }
        Ok(model)
    }

    fn populate(&mut self, container: &Container) -> Result<(), DescriptionError> {
        let id = container.id;
        type Create = fn(&mut Model, u32, u32) -> Result<(), dpaa2_defs::mc::header::Status>;
        let kinds: [(ObjectType, u32, Create); 5] = [
            (ObjectType::DPMCP, container.dpmcp, Self::create_dpmcp),
            (ObjectType::DPIO, container.dpio, Self::create_dpio),
            (ObjectType::DPBP, container.dpbp, Self::create_dpbp),
            (ObjectType::DPCON, container.dpcon, |model, number, id| model.create_dpcon(number, id, 8)),
            (ObjectType::DPCI, container.dpci, |model, number, id| model.create_dpci(number, id, 2)),
        ];
        for (object_type, count, create) in kinds {
            for _ in 0..count {
                let number = self.mc.free_id(object_type);
                create(self, number, id).map_err(|status| DescriptionError::Value {
                    object: format!("dprc.{id}"),
                    what: format!("{count} of {object_type} can't be had ({status})"),
                })?;
            }
        }
        let dpcis: Vec<ObjectId> = self
            .mc
            .objects_in(id)
            .map(|(object, _)| object)
            .filter(|o| o.object_type == ObjectType::DPCI)
            .collect();
        for pair in dpcis.chunks_exact(2) {
            // Both are new, so they can be.
            let _ = self.connect(pair[0], pair[1]);
        }
        for dpni in &container.dpni {
            self.add_dpni(dpni, id);
        }
        Ok(())
    }

    /// What it was made from.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The containers, ascending, the root first.
    pub fn containers(&self) -> Vec<u32> {
        self.mc.containers.keys().copied().collect()
    }

    /// The plugged objects in a container, by type and number.
    pub fn objects(&self, container: u32) -> Vec<ObjectInfo> {
        self.mc
            .objects_in(container)
            .filter(|(id, object)| object.is_plugged && *id != ObjectType::DPRC.with_id(container))
            .filter_map(|(id, _)| self.object(id))
            .collect()
    }

    /// One object.
    pub fn object(&self, id: ObjectId) -> Option<ObjectInfo> {
        self.mc.objects.get(&id)?;
        Some(ObjectInfo { id, regions: self.region_count(id), irqs: 1 })
    }

    fn region_count(&self, object: ObjectId) -> usize {
        match object.object_type {
            ObjectType::DPRC | ObjectType::DPMCP => 1,
            ObjectType::DPIO if self.description.soc.has_memory_backed_portals() => 3,
            ObjectType::DPIO => 2,
            _ => 0,
        }
    }

    /// The container that holds an object.
    pub fn container_of(&self, object: ObjectId) -> Option<u32> {
        match object.object_type {
            ObjectType::DPRC => self.mc.containers.contains_key(&object.id).then_some(object.id),
            _ => self.mc.objects.get(&object).map(|object| object.container),
        }
    }

    /// A region of an object. A container's is its command portal.
    pub fn region(&self, object: ObjectId, index: usize) -> Option<RegionHandle> {
        let trapped =
            |memory: &Arc<Region>| RegionHandle { memory: Arc::clone(memory), access: Access::Trapped };
        if object.object_type == ObjectType::DPIO {
            let portal = self.portals.iter().find(|portal| portal.dpio == object.id)?;
            return match index {
                // Rings of a direct portal are reached through either window, at the same offsets.
                0 | 1 => Some(trapped(&portal.registers)),
                2 => {
                    let memory = Arc::clone(portal.memory.as_ref()?);
                    Some(RegionHandle { memory, access: Access::Plain })
                }
                _ => None,
            };
        }
        let portal = self.command_portals.iter().find(|portal| portal.object == object)?;
        (index == 0).then(|| trapped(&portal.region))
    }

    /// Carries out a store into a trapped region, with everything that follows from it. Stores that aren't inside one have
    /// no effect.
    pub fn store(&mut self, object: ObjectId, region: usize, offset: usize, bytes: &[u8]) {
        self.counters.stores += 1;
        self.now_ns += STORE_NS;
        if object.object_type == ObjectType::DPIO {
            let Some(index) = self.portals.iter().position(|portal| portal.dpio == object.id) else { return };
            if region < 2 && self.portals[index].registers.write(offset, bytes) {
                self.portal_store(index, offset, bytes.len());
            }
        } else if let Some(index) = self.command_portals.iter().position(|portal| portal.object == object)
            && region == 0
            && self.command_portals[index].region.write(offset, bytes)
        {
            self.command_store(index, offset);
        }
        self.run();
    }

    /// Sends a command through a container's own portal. `None` when it isn't answered.
    pub fn container_command(&mut self, container: u32, request: &Frame) -> Option<Frame> {
        let object = ObjectType::DPRC.with_id(container);
        let index = self.command_portals.iter().position(|portal| portal.object == object)?;
        let response = self.command(index, request);
        self.run();
        response
    }

    /// Lets a container's hardware reach `len` bytes at `host`. False when the range overlaps one, is empty or wraps, or
    /// there is no such container.
    ///
    /// # Safety
    /// `host` must stay readable and writable for `len` bytes until the range is unmapped or the model is dropped, or `keep`
    /// must own the mapping; nobody may hold references into it.
    pub unsafe fn dma_map(
        &mut self,
        container: u32,
        iova: u64,
        len: u64,
        host: *mut u8,
        keep: Option<Arc<MmapRaw>>,
    ) -> bool {
        let Some(space) = self.dma.get_mut(&container) else { return false };
        // SAFETY: the caller's promise, passed on.
        unsafe { space.map(iova, len, host, keep) }
    }

    /// Takes a range back. Returns the bytes that were mapped of it.
    pub fn dma_unmap(&mut self, container: u32, iova: u64, len: u64) -> u64 {
        self.bman.unmapped(container, iova, len);
        self.dma.get_mut(&container).map_or(0, |space| space.unmap(iova, len))
    }

    /// A program that used a container is gone, or has closed it: its objects are reset, its tokens closed, its memory
    /// unmapped. The audit keeps how much was left to do.
    pub fn release_container(&mut self, container: u32) {
        let objects: Vec<ObjectId> = self.mc.objects_in(container).map(|(object, _)| object).collect();
        for object in objects {
            self.close_tokens_of(object);
            if object.object_type != ObjectType::DPRC {
                self.reset_object(object);
                self.set_irq(object, None);
            }
        }
        self.close_tokens_of(ObjectType::DPRC.with_id(container));
        self.bman.unmapped(container, 0, u64::MAX);
        if let Some(space) = self.dma.get_mut(&container) {
            self.audit.abandoned_bytes += space.mapped();
            space.clear();
        }
        self.run();
    }

    /// Resets an object, as closing its last descriptor does with VFIO. False when there is none such.
    pub fn reset(&mut self, object: ObjectId) -> bool {
        let known = self.mc.objects.contains_key(&object);
        self.reset_object(object);
        self.run();
        known
    }

    /// Sets where an object's interrupt goes, or ends it. False when there is no such object.
    pub fn set_irq(&mut self, object: ObjectId, event: Option<OwnedFd>) -> bool {
        if object.object_type == ObjectType::DPIO {
            let portal = self.portals.iter_mut().find(|portal| portal.dpio == object.id);
            return portal.map(|portal| portal.irq = event).is_some();
        }
        self.mc.objects.get_mut(&object).map(|known| known.irq.event = event).is_some()
    }

    /// Looks at wires that bring frames by themselves, for programs that sleep.
    pub fn poll(&mut self) {
        self.poll_wires();
        self.run();
    }

    /// Lets time pass only by [`Model::advance`] from now on: frames leave at the wire's rate, so transmit queues fill up.
    /// Without it each frame's time passes when it is sent.
    pub fn stop_clock(&mut self) {
        self.is_stepped = true;
    }

    /// Lets virtual time pass, and frames leave.
    pub fn advance(&mut self, ns: u64) {
        let end = self.now_ns + ns;
        loop {
            let next = self.nis.iter().flatten().filter_map(|ni| self.next_to_leave(ni)).min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now_ns = self.now_ns.max(next),
                None => break,
            }
            for index in 0..self.nis.len() {
                self.egress(index);
            }
            self.run();
        }
        self.now_ns = end;
        self.poll();
    }

    /// When the next of an interface's frames may leave, if there is one.
    fn next_to_leave(&self, ni: &ni::Ni) -> Option<u64> {
        let of_channel = ni.tx.len() / usize::from(ni.attributes.channels);
        let has_frames = |fqid: &qman::Fqid| self.qman.fq(*fqid).is_some_and(|fq| fq.frames() > 0);
        let channels = ni.tx.chunks(of_channel).zip(&ni.spent_until_ns);
        let pending = channels.filter(|(queues, _)| queues.iter().any(has_frames));
        pending.map(|(_, spent)| ni.busy_until_ns.max(*spent)).min()
    }

    /// Virtual time.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Puts a frame (without FCS) on a MAC's wire, towards the interface. False when there is no such MAC.
    pub fn put_on_wire(&mut self, dpmac: u32, frame: &[u8]) -> bool {
        let Some(mac) = self.macs.iter_mut().find(|mac| mac.id == dpmac) else { return false };
        if let wire::End::Quiet { waiting, .. } | wire::End::Loop { waiting } = &mut mac.end {
            waiting.push_back(frame.to_vec());
        }
        self.poll();
        true
    }

    /// Takes the oldest frame that was sent to a quiet wire.
    pub fn take_from_wire(&mut self, dpmac: u32) -> Option<Vec<u8>> {
        match &mut self.macs.iter_mut().find(|mac| mac.id == dpmac)?.end {
            wire::End::Quiet { sent, .. } => sent.pop_front(),
            _ => None,
        }
    }

    /// Takes a MAC's link up or down. False when there is no such MAC.
    pub fn set_link(&mut self, dpmac: u32, is_up: bool) -> bool {
        let Some(index) = self.macs.iter().position(|mac| mac.id == dpmac) else { return false };
        self.set_mac_link(index, is_up);
        self.run();
        true
    }

    /// Makes something go wrong.
    pub fn inject(&mut self, fault: Fault) {
        if let Fault::PortalStuck { dpio } | Fault::PortalMoves { dpio } = fault
            && let Some(portal) = self.portals.iter_mut().find(|portal| portal.dpio == dpio)
        {
            portal.is_stuck = matches!(fault, Fault::PortalStuck { .. });
        }
        self.faults.add(fault);
    }

    /// What programs did.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Counters of an interface.
    pub fn ni_counters(&self, dpni: u32) -> Option<NiCounters> {
        self.ni_index(dpni).and_then(|index| self.nis[index].as_ref()).map(|ni| ni.counters)
    }

    /// All interfaces by number, with their counters.
    pub fn interfaces(&self) -> Vec<(u32, NiCounters)> {
        self.nis.iter().flatten().map(|ni| (ni.id, ni.counters)).collect()
    }

    /// Frames that wait in the receive queues of an interface, by traffic class and index.
    pub fn rx_queue_frames(&self, dpni: u32) -> Vec<usize> {
        let ni = self.ni_index(dpni).and_then(|index| self.nis[index].as_ref());
        ni.map_or_else(Vec::new, |ni| {
            ni.rx.iter().map(|&fqid| self.qman.fq(fqid).map_or(0, qman::Fq::frames)).collect()
        })
    }

    /// Commands that were sent: object type (`-` for none), number, version, how often.
    pub fn commands_seen(&self) -> impl Iterator<Item = (&str, u16, u8, u64)> {
        self.mc.seen.iter().map(|((kind, id, version), count)| (kind.as_str(), *id, *version, *count))
    }

    /// The state of the rules.
    pub fn audit(&self) -> AuditReport {
        AuditReport {
            violations: self.audit.kept().to_vec(),
            violations_total: self.audit.total(),
            pools: self.bman.report(),
            open_tokens: self.mc.open_tokens(),
            queued_frames: self.qman.queued_frames(),
            mapped_bytes: self.dma.values().map(DmaSpace::mapped).sum(),
            abandoned_tokens: self.audit.abandoned_tokens,
            abandoned_bytes: self.audit.abandoned_bytes,
        }
    }

    pub(crate) fn dma(&self, container: u32) -> &DmaSpace {
        static NOTHING: DmaSpace = DmaSpace::nothing();
        self.dma.get(&container).unwrap_or(&NOTHING)
    }

    /// The queue behind a queueing destination.
    pub(crate) fn queue_of_destination(&self, qdid: u16, priority: u8, bin: u16) -> Fqid {
        let (index, channel) = (usize::from(qdid & 0xfff), (qdid >> 12) as u8);
        let ni = self.nis.get(index).and_then(Option::as_ref);
        ni.and_then(|ni| ni.tx_queue(channel, priority, bin)).unwrap_or(0)
    }

    /// Carries on until nothing is left to do.
    fn run(&mut self) {
        loop {
            while let Some(arriving) = self.arriving.pop_front() {
                self.ingress(arriving);
            }
            let events = self.qman.take_events();
            if events.is_empty() {
                if self.arriving.is_empty() {
                    return;
                }
                continue;
            }
            for event in events {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::QueueData(portal, fqid, context) => self.notify_queue(portal, fqid, context),
            Event::ChannelData(portal, channel, context) => self.notify_channel(portal, channel, context),
            Event::Fill(portal) => self.fill(portal),
            Event::Egress(ni) => self.egress(ni),
            Event::Congestion(group, congested) => self.tell_congestion(group, congested),
        }
    }

    fn tell_congestion(&mut self, group: qman::GroupId, congested: bool) {
        use qman::congestion_mode as mode;
        let Some((container, notice)) = self.qman.group(group).and_then(|g| Some((g.container, g.notice?)))
        else {
            return;
        };
        let message = |verb: u8| Notification {
            verb,
            state: u8::from(congested),
            resource_id: u32::from(group).into(),
            context: notice.context.into(),
            ..Notification::default()
        };
        let write = if congested { mode::WRITE_ON_ENTER } else { mode::WRITE_ON_EXIT };
        if notice.mode & write != 0
            && let Err(fault) = self.dma(container).publish(
                notice.address,
                message(notification::VERB_CSCN_MEMORY).as_bytes(),
                2,
            )
        {
            self.audit.violation(Rule::DmaMapped, format!("congestion message: {fault}"));
        }
        let notify = if congested { mode::NOTIFY_ON_ENTER } else { mode::NOTIFY_ON_EXIT };
        if notice.mode & notify != 0 && notice.destination_type == 1 {
            let of_container =
                |p: &portal::Portal| p.dpio == notice.destination_id && p.container == container;
            if let Some(portal) = self.portals.iter().position(of_container) {
                self.notify_with(portal, message(notification::VERB_CSCN));
            }
        }
    }
}
