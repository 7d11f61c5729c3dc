//! Software portals: registers, the command rings, the dequeue result ring.
//!
//! A driver's loads never need the model: what they find is kept up to date in the portal's memory, since everything
//! there changes only after a store. Interrupt hold-off times are taken to have passed as soon as a store has run to
//! its end: nothing else is going to happen in the model before the next one.

use crate::Model;
use crate::audit::Rule;
use crate::bman::Place;
use crate::memory::Region;
use crate::qman::{Cdan, ChannelId, Consumer, Destination, Fqid, PortalIndex, Rejection, Taken};
use dpaa2_defs::fd::Fd;
use dpaa2_defs::qbman::dequeue::{self, DequeueResult, Notification, Sdqcr, VolatileDequeue, notification};
use dpaa2_defs::qbman::enqueue::{self, EnqueueCommand, EnqueueResponse};
use dpaa2_defs::qbman::management::{
    self, AboutFq, Acquire, Acquired, ConfigureChannel, FqState, PoolState, QueryPool,
};
use dpaa2_defs::qbman::registers::{self as reg, Cfg, Generation, Layout, Rar, irq};
use dpaa2_defs::qbman::release::ReleaseCommand;
use dpaa2_defs::qbman::{LINE_BYTES, VB, cyclic_difference};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of each window.
pub(crate) const WINDOW_BYTES: usize = 64 << 10;
/// Entries of the dequeue result ring.
const DQRR_ENTRIES: usize = 8;
/// Channels a portal can dequeue from, its own included.
const SOURCES: usize = 16;

/// A software portal.
#[derive(Debug)]
pub(crate) struct Portal {
    pub dpio: u32,
    pub container: u32,
    /// Number of the software portal.
    pub number: u16,
    pub enabled: bool,
    /// Registers; with the direct generation also the lines of commands and rings.
    pub registers: Arc<Region>,
    /// Rings in ordinary memory, where the chip has them.
    pub memory: Option<Arc<Region>>,
    pub irq: Option<OwnedFd>,
    pub stash_destination: u8,
    /// By index of the static dequeue command; 0 is the portal's own channel.
    pub sources: [Option<ChannelId>; SOURCES],
    /// Stores are accepted and nothing happens: a fault that was injected.
    pub is_stuck: bool,
    state: State,
}

/// What "reset" returns to its beginnings.
#[derive(Debug)]
struct State {
    cfg: Cfg,
    is_configured: bool,
    sdqcr: Sdqcr,
    isr: u32,
    is_irq_asserted: bool,
    /// Consumer index with its wrap bit.
    eqcr_ci: u32,
    /// Valid bit of the next enqueue entry.
    eqcr_vb: u8,
    /// Valid bits of the next commands, once the first one has shown which it is.
    cr_vb: Option<u8>,
    vdqcr_vb: Option<u8>,
    rcr_slot: u32,
    rcr_vb: u8,
    dqrr: [Option<Delivered>; DQRR_ENTRIES],
    dqrr_pi: usize,
    dqrr_vb: u8,
    volatile: Option<Volatile>,
    notifications: VecDeque<Notification>,
}

/// An entry of the result ring that software has not consumed yet.
#[derive(Clone, Copy, Debug)]
struct Delivered {
    /// The queue that is held until then.
    held: Option<Fqid>,
}

/// A volatile dequeue whose results go to the ring.
#[derive(Clone, Copy, Debug)]
struct Volatile {
    command: VolatileDequeue,
    left: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            cfg: Cfg::default(),
            is_configured: false,
            sdqcr: Sdqcr::OFF,
            isr: 0,
            is_irq_asserted: false,
            eqcr_ci: 0,
            eqcr_vb: VB,
            cr_vb: None,
            vdqcr_vb: None,
            rcr_slot: 0,
            rcr_vb: VB,
            dqrr: [None; DQRR_ENTRIES],
            dqrr_pi: 0,
            dqrr_vb: VB,
            volatile: None,
            notifications: VecDeque::new(),
        }
    }
}

impl Portal {
    pub(crate) fn new(
        dpio: u32,
        container: u32,
        number: u16,
        local: ChannelId,
        registers: Arc<Region>,
        memory: Option<Arc<Region>>,
    ) -> Self {
        let mut sources = [None; SOURCES];
        sources[0] = Some(local);
        let mut portal = Self {
            dpio,
            container,
            number,
            enabled: false,
            registers,
            memory,
            irq: None,
            stash_destination: 0,
            sources,
            is_stuck: false,
            state: State::default(),
        };
        portal.reset();
        portal
    }

    /// Returns registers and rings to their power-on state.
    pub(crate) fn reset(&mut self) {
        self.state = State::default();
        self.enabled = false;
        self.sources[1..].fill(None);
        let zeros = [0; WINDOW_BYTES];
        self.registers.write(0, &zeros);
        if let Some(memory) = &self.memory {
            memory.write(0, &zeros);
        }
        // The first lap of a zeroed ring must have its valid bits set.
        self.registers.set_u32(reg::QBMAN_CINH_SWP_EQCR_PI as usize, VB.into());
        self.publish_rar();
    }

    fn generation(&self) -> Generation {
        if self.state.cfg.memory_backed { Generation::MemoryBacked } else { Generation::Direct }
    }

    fn layout(&self) -> Layout {
        self.generation().layout()
    }

    /// Where rings and commands are.
    fn lines(&self) -> &Region {
        match &self.memory {
            Some(memory) if self.state.cfg.memory_backed => memory,
            _ => &self.registers,
        }
    }

    fn line<T: FromBytes + IntoBytes + KnownLayout + Immutable>(&self, offset: u32) -> T {
        let mut value = T::new_zeroed();
        self.lines().read(offset as usize, value.as_mut_bytes());
        value
    }

    fn publish_rar(&self) {
        let rar = Rar::allotted(self.state.rcr_slot, self.state.rcr_vb);
        self.registers.set_u32(reg::QBMAN_CINH_SWP_RAR as usize, rar.0);
    }

    fn register(&self, offset: u32) -> u32 {
        self.registers.u32(offset as usize)
    }

    fn has_ring_space(&self) -> bool {
        self.state.dqrr[self.state.dqrr_pi].is_none()
    }

    /// Puts an entry into the result ring; there must be space.
    fn deliver(&mut self, entry: &[u8], held: Option<Fqid>) {
        let index = self.state.dqrr_pi;
        let mut line = [0; LINE_BYTES];
        line[..entry.len()].copy_from_slice(entry);
        line[0] = line[0] & !VB | self.state.dqrr_vb;
        self.lines().publish(self.layout().dqrr as usize + index * LINE_BYTES, &line, 0);
        self.state.dqrr[index] = Some(Delivered { held });
        self.state.dqrr_pi = (index + 1) % DQRR_ENTRIES;
        if self.state.dqrr_pi == 0 {
            self.state.dqrr_vb ^= VB;
        }
        self.registers.set_u32(reg::QBMAN_CINH_SWP_DQPI as usize, self.state.dqrr_pi as u32);
    }

    /// Sets status bits and sends the interrupt when one becomes due.
    fn raise(&mut self, bits: u32) {
        self.state.isr |= bits & !self.register(reg::QBMAN_CINH_SWP_ISDR);
        self.registers.set_u32(reg::QBMAN_CINH_SWP_ISR as usize, self.state.isr);
        let due = self.state.isr & self.register(reg::QBMAN_CINH_SWP_IER) != 0
            && self.register(reg::QBMAN_CINH_SWP_IIR) == 0;
        if due
            && !self.state.is_irq_asserted
            && let Some(irq) = &self.irq
        {
            crate::signal(irq);
        }
        self.state.is_irq_asserted = due;
    }

    fn name(&self) -> String {
        format!("dpio.{}", self.dpio)
    }
}

fn first_bytes(line: &[u8; LINE_BYTES]) -> [u8; 16] {
    std::array::from_fn(|i| line[i])
}

impl Model {
    fn portal_violation(&mut self, portal: PortalIndex, rule: Rule, what: impl std::fmt::Display) {
        let name = self.portals[portal].name();
        self.audit.violation(rule, format!("{name}: {what}"));
    }

    /// Carries out what a store into the windows of a portal asks for. The bytes are in memory already.
    pub(crate) fn portal_store(&mut self, portal: PortalIndex, offset: usize, len: usize) {
        if self.portals[portal].is_stuck {
            return;
        }
        let offset = offset as u32;
        if offset < reg::QBMAN_CINH_SWP_EQCR_PI {
            // A line is complete when its first byte is written; before that nothing happens.
            if offset.is_multiple_of(LINE_BYTES as u32) {
                self.line_store(portal, offset);
            }
        } else if !offset.is_multiple_of(4) || len != 4 {
            self.portal_violation(
                portal,
                Rule::Known,
                format_args!("{len} bytes stored at register {offset:#x}"),
            );
        } else {
            let value = self.portals[portal].register(offset);
            self.register_store(portal, offset, value);
        }
    }

    fn line_store(&mut self, index: PortalIndex, offset: u32) {
        let portal = &self.portals[index];
        if portal.state.cfg.memory_backed || !portal.state.is_configured {
            let what = format!("line {offset:#x} written through a window that isn't in use");
            return self.portal_violation(index, Rule::PortalReady, what);
        }
        let layout = portal.layout();
        let rcr_end = layout.rcr + reg::RCR_ENTRIES * LINE_BYTES as u32;
        if offset < layout.dqrr {
            self.consume_eqcr_by_valid_bit(index);
        } else if (layout.rcr..rcr_end).contains(&offset) {
            self.release(index, (offset - layout.rcr) / LINE_BYTES as u32);
        } else if offset == layout.cr {
            self.management(index);
        } else if offset == layout.vdqcr {
            self.volatile_dequeue(index);
        } else {
            self.portal_violation(index, Rule::ReadOnly, format_args!("store to line {offset:#x}"));
        }
    }

    fn register_store(&mut self, index: PortalIndex, offset: u32, value: u32) {
        let rcr_am = reg::QBMAN_CINH_SWP_RCR_AM_RT..reg::QBMAN_CINH_SWP_RCR_AM_RT + 4 * reg::RCR_ENTRIES;
        match offset {
            reg::QBMAN_CINH_SWP_CFG => {
                let state = &mut self.portals[index].state;
                state.cfg = Cfg::from_bits(value);
                state.is_configured = true;
                let memory_backed = state.cfg.memory_backed;
                if memory_backed && self.portals[index].memory.is_none() {
                    self.portal_violation(index, Rule::Known, "memory-backed mode on a chip without it");
                    self.portals[index].state.cfg.memory_backed = false;
                }
            }
            reg::QBMAN_CINH_SWP_EQCR_PI => self.consume_eqcr_up_to(index, value),
            reg::QBMAN_CINH_SWP_CR_RT => self.management(index),
            reg::QBMAN_CINH_SWP_VDQCR_RT => self.volatile_dequeue(index),
            reg::QBMAN_CINH_SWP_RCR_PI => {}
            reg::QBMAN_CINH_SWP_DCAP => self.consume_result(index, value, false),
            reg::QBMAN_CINH_SWP_SDQCR => {
                self.portals[index].state.sdqcr = Sdqcr(value);
                self.fill(index);
            }
            reg::QBMAN_CINH_SWP_ISR => {
                self.portals[index].state.isr &= !value;
                self.portals[index].state.is_irq_asserted = false;
                self.update_interrupt(index);
            }
            reg::QBMAN_CINH_SWP_IER
            | reg::QBMAN_CINH_SWP_ISDR
            | reg::QBMAN_CINH_SWP_IIR
            | reg::QBMAN_CINH_SWP_DQRR_ITR
            | reg::QBMAN_CINH_SWP_ITPR => self.update_interrupt(index),
            _ if rcr_am.contains(&offset) => self.release(index, (offset - rcr_am.start) / 4),
            _ => {
                self.portal_violation(index, Rule::Known, format_args!("store to register {offset:#x}"));
            }
        }
    }

    /// Result ring not empty means "data available", whatever the hold-off (see the module).
    fn update_interrupt(&mut self, index: PortalIndex) {
        let portal = &mut self.portals[index];
        let not_empty = portal.state.dqrr.iter().any(Option::is_some);
        portal.raise(if not_empty { irq::DQRI } else { 0 });
    }

    fn consume_eqcr_by_valid_bit(&mut self, index: PortalIndex) {
        loop {
            let portal = &self.portals[index];
            let layout = portal.layout();
            let slot = portal.state.eqcr_ci & (layout.eqcr_entries - 1);
            let command: EnqueueCommand = portal.line(layout.eqcr + slot * LINE_BYTES as u32);
            if command.verb & VB != portal.state.eqcr_vb {
                break;
            }
            self.enqueue_from(index, &command);
            self.eqcr_entry_done(index);
        }
        let portal = &self.portals[index];
        let pi = portal.state.eqcr_ci | u32::from(portal.state.eqcr_vb);
        portal.registers.set_u32(reg::QBMAN_CINH_SWP_EQCR_PI as usize, pi);
    }

    fn consume_eqcr_up_to(&mut self, index: PortalIndex, doorbell: u32) {
        let portal = &mut self.portals[index];
        let layout = portal.layout();
        if !portal.state.cfg.memory_backed {
            return self.portal_violation(index, Rule::ReadOnly, "store to EQCR_PI of a direct portal");
        }
        let pi = doorbell & layout.eqcr_pi_mask();
        let new = cyclic_difference(layout.eqcr_entries, portal.state.eqcr_ci, pi);
        if new == 0 {
            // Initialisation: says which polarity the first lap will have.
            portal.state.eqcr_vb = doorbell as u8 & VB;
            return;
        }
        if new > layout.eqcr_entries || doorbell & reg::RT_MODE == 0 {
            let what = format!("EQCR_PI {doorbell:#x} with {new} entries after the consumer index");
            return self.portal_violation(index, Rule::RingDiscipline, what);
        }
        for _ in 0..new {
            let portal = &self.portals[index];
            let slot = portal.state.eqcr_ci & (layout.eqcr_entries - 1);
            let command: EnqueueCommand = portal.line(layout.eqcr + slot * LINE_BYTES as u32);
            if command.verb & VB != portal.state.eqcr_vb {
                self.portal_violation(
                    index,
                    Rule::RingDiscipline,
                    format_args!("entry {slot} with the old valid bit"),
                );
            }
            self.enqueue_from(index, &command);
            self.eqcr_entry_done(index);
        }
        let next = self.portals[index].state.eqcr_vb;
        if doorbell as u8 & VB != next {
            self.portal_violation(
                index,
                Rule::RingDiscipline,
                format_args!("EQCR_PI {doorbell:#x}: valid bit"),
            );
        }
    }

    fn eqcr_entry_done(&mut self, index: PortalIndex) {
        let portal = &mut self.portals[index];
        let layout = portal.layout();
        portal.state.eqcr_ci = (portal.state.eqcr_ci + 1) & layout.eqcr_pi_mask();
        if portal.state.eqcr_ci & (layout.eqcr_entries - 1) == 0 {
            portal.state.eqcr_vb ^= VB;
        }
        portal.lines().set_u32(layout.eqcr_ci as usize, portal.state.eqcr_ci);
        portal.registers.set_u32(reg::QBMAN_CINH_SWP_EQCR_CI as usize, portal.state.eqcr_ci);
    }

    fn enqueue_from(&mut self, index: PortalIndex, command: &EnqueueCommand) {
        let container = self.portals[index].container;
        if !self.portals[index].enabled {
            self.portal_violation(index, Rule::PortalReady, "enqueue on a portal that isn't enabled");
        }
        if command.verb & enqueue::VERB_ORP != 0 {
            self.portal_violation(index, Rule::Known, "order restoration is not modelled");
        }
        let policy = command.verb & enqueue::VERB_RESPONSE_MASK;
        let mut fqid = 0;
        let mut outcome = Ok(());
        if policy != enqueue::VERB_RESPONSE_NEVER || command.target.get() != 0 {
            self.counters.enqueues += 1;
            fqid = self.enqueue_target(command);
            self.check_frame(index, fqid, &command.fd);
            self.own_frame(container, &command.fd, Place::Queue);
            self.command_line();
            self.frame_given(container, &command.fd);
            outcome = match self.qman.fq(fqid).filter(|fq| fq.container == container) {
                Some(_) => self.qman.enqueue(fqid, command.fd),
                None => Err(Rejection::NoQueue),
            };
            match outcome {
                Ok(()) => {}
                Err(Rejection::NoQueue) => {
                    let what = format!("enqueue to {:#x}: no such queue", command.target.get());
                    self.portal_violation(index, Rule::Existence, what);
                    self.discard(container, &command.fd);
                }
                Err(_) => {
                    self.count_egress_rejection(fqid, &command.fd);
                    self.discard(container, &command.fd);
                }
            }
        }
        let respond = policy == enqueue::VERB_RESPONSE_ALWAYS
            || policy == enqueue::VERB_RESPONSE_REJECTS && outcome.is_err();
        if respond && command.response_address.get() != 0 {
            let response = EnqueueResponse {
                verb: command.verb,
                dca: command.dca,
                sequence: command.sequence,
                order_id: command.order_id,
                result: if outcome.is_ok() { enqueue::ENQUEUE_OK } else { 0 },
                target: command.target,
                tag: command.tag,
                qd_bin: command.qd_bin,
                qd_priority: command.qd_priority,
                fqid: [fqid as u8, (fqid >> 8) as u8, (fqid >> 16) as u8],
                response_id: command.response_id,
                response_address: command.response_address,
                fd: command.fd,
                ..EnqueueResponse::default()
            };
            let address = command.response_address.get();
            self.dma_publish(index, address, response.as_bytes(), 23);
        }
        if command.dca & enqueue::DCA_ENABLE != 0 {
            let park = command.dca & enqueue::DCA_PARK != 0;
            self.consume_result(index, (command.dca & enqueue::DCA_INDEX_MASK).into(), park);
        }
    }

    fn enqueue_target(&self, command: &EnqueueCommand) -> Fqid {
        if command.verb & enqueue::VERB_TARGET_QD == 0 {
            return command.target.get() & 0xff_ffff;
        }
        self.queue_of_destination(command.target.get() as u16, command.qd_priority, command.qd_bin.get())
    }

    /// Looks at a descriptor software hands over: is its buffer software's, is it mapped?
    fn check_frame(&mut self, index: PortalIndex, fqid: Fqid, fd: &Fd) {
        let container = self.portals[index].container;
        let address = fd.addr.get();
        match self.bman.place(container, address) {
            Place::Software => {}
            place => {
                let what = format!("enqueue of a frame in buffer {address:#x}, which is in {place:?}");
                self.portal_violation(index, Rule::OneOwner, what);
            }
        }
        // Messages between programs may carry anything; a frame to send names the pool that gets its buffer.
        let is_sent = self.qman.fq(fqid).is_some_and(|fq| matches!(fq.consumer, Consumer::Egress { .. }));
        if is_sent && !fd.is_ivp() && self.bman.get(container, fd.bpid()).is_none() {
            let what = format!("enqueue of a frame of pool {}, which doesn't exist", fd.bpid());
            self.portal_violation(index, Rule::Existence, what);
        }
    }

    fn dma_publish(&mut self, index: PortalIndex, iova: u64, line: &[u8], last: usize) {
        let container = self.portals[index].container;
        if let Err(fault) = self.dma(container).publish(iova, line, last) {
            self.portal_violation(index, Rule::DmaMapped, fault);
        }
    }

    fn release(&mut self, index: PortalIndex, slot: u32) {
        let portal = &mut self.portals[index];
        let command: ReleaseCommand = portal.line(portal.layout().rcr + slot * LINE_BYTES as u32);
        let expected = (portal.state.rcr_slot, portal.state.rcr_vb);
        if (slot, command.verb & VB) != expected {
            let what = format!("release in slot {slot}, verb {:#x}, RAR gave {expected:?}", command.verb);
            return self.portal_violation(index, Rule::RingDiscipline, what);
        }
        portal.state.rcr_slot = (slot + 1) % reg::RCR_ENTRIES;
        if portal.state.rcr_slot == 0 {
            portal.state.rcr_vb ^= VB;
        }
        portal.publish_rar();
        let container = portal.container;
        self.counters.releases += 1;
        self.command_line();
        if command.verb & 0x20 == 0 || command.count() == 0 {
            return self.portal_violation(
                index,
                Rule::Known,
                format_args!("release with verb {:#x}", command.verb),
            );
        }
        for buffer in &command.buffers[..command.count()] {
            let (bpid, address) = (command.bpid.get(), buffer.get());
            self.buffer_given(container, address);
            if let Err(place) = self.bman.release(container, bpid, address) {
                let (rule, what) = match place {
                    Some(place) => {
                        (Rule::OneOwner, format!("release of {address:#x}, which is in {place:?}"))
                    }
                    None => (Rule::Existence, format!("release to pool {bpid}, which doesn't exist")),
                };
                self.portal_violation(index, rule, what);
            }
            let mut probe = [0];
            if let Err(fault) = self.dma(container).read(address, &mut probe) {
                self.portal_violation(index, Rule::DmaMapped, format_args!("released buffer: {fault}"));
            }
        }
    }

    fn management(&mut self, index: PortalIndex) {
        let portal = &mut self.portals[index];
        let layout = portal.layout();
        let line: [u8; LINE_BYTES] = portal.line(layout.cr);
        let vb = line[0] & VB;
        let expected = portal.state.cr_vb.replace(vb ^ VB).unwrap_or(VB);
        self.counters.management += 1;
        self.command_line();
        if vb != expected {
            let what = format!("management command {:#x} with the old valid bit", line[0]);
            self.portal_violation(index, Rule::RingDiscipline, what);
        }
        let mut response = self.management_response(index, line[0] & !VB, &line);
        response[0] = line[0];
        let portal = &self.portals[index];
        if layout.rr[0] != layout.rr[1] {
            // The other response line is stale from here on; a driver must not take it for the next answer.
            portal.lines().write(layout.rr_of(vb ^ VB) as usize, &[0]);
        }
        portal.lines().publish(layout.rr_of(vb) as usize, &response, 0);
    }

    fn management_response(
        &mut self,
        index: PortalIndex,
        verb: u8,
        line: &[u8; LINE_BYTES],
    ) -> [u8; LINE_BYTES] {
        let container = self.portals[index].container;
        let mut response = [0; LINE_BYTES];
        let failed = 0;
        response[management::RESULT_OFFSET] = management::RESULT_OK;
        match verb {
            management::VERB_ACQUIRE => {
                let command: Acquire = zerocopy::transmute!(*line);
                let (bpid, wanted) = (command.bpid.get(), usize::from(command.count));
                let mut acquired = Acquired { result: management::RESULT_OK, ..Acquired::default() };
                if self.bman.get(container, bpid).is_none() || !(1..=7).contains(&wanted) {
                    self.portal_violation(
                        index,
                        Rule::Existence,
                        format_args!("acquire of {wanted} from pool {bpid}"),
                    );
                    acquired.result = failed;
                } else if self.bman.free(container, bpid) >= wanted && !self.faults.is_pool_empty(bpid) {
                    acquired.count = wanted as u8;
                    for slot in &mut acquired.buffers[..wanted] {
                        *slot = self.bman.take(container, bpid, Place::Software).unwrap_or_default().into();
                        self.buffer_handed(container, slot.get());
                    }
                }
                response = zerocopy::transmute!(acquired);
            }
            management::VERB_CHANNEL => {
                let command: ConfigureChannel = zerocopy::transmute!(*line);
                response[2..4].copy_from_slice(command.channel.as_bytes());
                let id = command.channel.get();
                match self.qman.channel_mut(id).filter(|channel| channel.container == container) {
                    Some(channel) => {
                        let cdan =
                            channel.cdan.get_or_insert(Cdan { portal: index, context: 0, enabled: false });
                        if command.write & management::CHANNEL_WRITE_CONTEXT != 0 {
                            cdan.context = command.context.get();
                        }
                        if command.write & management::CHANNEL_WRITE_ENABLE != 0 {
                            cdan.enabled = command.control & 1 != 0;
                        }
                        self.qman.announce_channel(id);
                    }
                    None => {
                        response[1] = failed;
                        self.portal_violation(index, Rule::Existence, format_args!("no channel {id}"));
                    }
                }
            }
            management::VERB_FQ_SCHEDULE
            | management::VERB_FQ_FORCE
            | management::VERB_FQ_XON
            | management::VERB_FQ_XOFF
            | management::VERB_QUERY_FQ_STATE => {
                let command: AboutFq = zerocopy::transmute!(*line);
                let fqid = command.fqid.get() & 0xff_ffff;
                let Some(fq) = self.qman.fq(fqid).filter(|fq| fq.container == container) else {
                    response[1] = failed;
                    self.portal_violation(index, Rule::Existence, format_args!("no frame queue {fqid:#x}"));
                    return response;
                };
                match verb {
                    management::VERB_FQ_SCHEDULE | management::VERB_FQ_FORCE => self.qman.schedule(fqid),
                    management::VERB_FQ_XON => self.qman.set_off(fqid, false),
                    management::VERB_FQ_XOFF => self.qman.set_off(fqid, true),
                    _ => {
                        let state = FqState {
                            verb,
                            result: management::RESULT_OK,
                            state: u8::from(fq.is_scheduled()) | u8::from(fq.is_off) << 4,
                            frames: (fq.frames() as u32).into(),
                            bytes: (fq.bytes() as u32).into(),
                            ..FqState::new_zeroed()
                        };
                        response = zerocopy::transmute!(state);
                    }
                }
            }
            management::VERB_QUERY_POOL => {
                let command: QueryPool = zerocopy::transmute!(*line);
                let bpid = command.bpid.get();
                let free = self.bman.free(container, bpid) as u32;
                let known = self.bman.get(container, bpid).is_some();
                let state = PoolState {
                    result: if known { management::RESULT_OK } else { failed },
                    state: u8::from(free == 0),
                    free: free.into(),
                    ..PoolState::new_zeroed()
                };
                response = zerocopy::transmute!(state);
            }
            management::VERB_QUERY_CHANNEL => {
                let id = u16::from_le_bytes([line[2], line[3]]);
                match self.qman.channel(id).filter(|channel| channel.container == container) {
                    Some(channel) => {
                        let cdan = channel.cdan;
                        response[5] = u8::from(cdan.is_some_and(|cdan| cdan.enabled));
                        response[8..16].copy_from_slice(&cdan.map_or(0, |cdan| cdan.context).to_le_bytes());
                        for (i, length) in channel.work_lengths().into_iter().enumerate() {
                            response[32 + 4 * i..36 + 4 * i].copy_from_slice(&length.to_le_bytes());
                        }
                    }
                    None => response[1] = failed,
                }
            }
            _ => {
                response[1] = failed;
                self.portal_violation(index, Rule::Known, format_args!("management command {verb:#x}"));
            }
        }
        response
    }

    fn volatile_dequeue(&mut self, index: PortalIndex) {
        let portal = &mut self.portals[index];
        let line: [u8; LINE_BYTES] = portal.line(portal.layout().vdqcr);
        let command: VolatileDequeue = zerocopy::transmute!(first_bytes(&line));
        let vb = command.verb & VB;
        let expected = portal.state.vdqcr_vb.replace(vb ^ VB).unwrap_or(VB);
        let limit = match portal.generation() {
            Generation::MemoryBacked => dequeue::FRAMES_MAX_MEMORY_BACKED,
            Generation::Direct => dequeue::FRAMES_MAX_DIRECT,
        };
        let busy = portal.state.volatile.is_some();
        self.counters.dequeues += 1;
        self.command_line();
        for (broken, rule, what) in [
            (vb != expected, Rule::RingDiscipline, "volatile dequeue with the old valid bit"),
            (busy, Rule::VolatileDequeue, "a volatile dequeue while one is under way"),
            (command.frames() > limit, Rule::VolatileDequeue, "a volatile dequeue of too many frames"),
            (command.token == 0, Rule::VolatileDequeue, "a volatile dequeue with token 0"),
        ] {
            if broken {
                self.portal_violation(index, rule, what);
            }
        }
        if busy {
            return;
        }
        self.poll_wires();
        if command.verb & dequeue::VERB_RLS == 0 {
            self.portals[index].state.volatile = Some(Volatile { command, left: command.frames() });
            return self.fill(index);
        }
        if !command.response_address.get().is_multiple_of(LINE_BYTES as u64) {
            self.portal_violation(index, Rule::VolatileDequeue, "results at an address that isn't a line's");
        }
        let taken = self.take_volatile(index, &command, command.frames() as usize);
        let results = results(&taken, command.token, true);
        for (i, result) in results.iter().enumerate() {
            let address = command.response_address.get().wrapping_add((i * LINE_BYTES) as u64);
            self.result_line(self.portals[index].container, address);
            self.dma_publish(index, address, result.as_bytes(), dequeue::TOKEN_OFFSET);
        }
        self.portals[index].raise(irq::VDCI);
    }

    fn take_volatile(&mut self, index: PortalIndex, command: &VolatileDequeue, most: usize) -> Taken {
        let container = self.portals[index].container;
        let source = command.source.get() & 0xff_ffff;
        let taken = match command.verb & dequeue::VERB_SOURCE_MASK {
            dequeue::VERB_SOURCE_FQ => {
                let known = self.qman.fq(source).is_some_and(|fq| fq.container == container);
                if known { Some(self.qman.take_from(source, most)) } else { None }
            }
            dequeue::VERB_SOURCE_CHANNEL => {
                let id = source as ChannelId;
                let known = self.qman.channel(id).is_some_and(|channel| channel.container == container);
                if known { Some(self.qman.take_from_channel(id, most, None)) } else { None }
            }
            dequeue::VERB_SOURCE_WORK_QUEUE => {
                // A work queue's number is its channel's, times 8, plus its own.
                let (id, work) = ((source >> 3) as ChannelId, (source & 7) as usize);
                let known = self.qman.channel(id).is_some_and(|channel| channel.container == container);
                if known { Some(self.qman.take_from_work_queue(id, work, most)) } else { None }
            }
            _ => None,
        };
        let taken = taken.unwrap_or_else(|| {
            self.portal_violation(
                index,
                Rule::Existence,
                format_args!("dequeue from {source:#x}, which doesn't exist"),
            );
            Taken::default()
        });
        for fd in &taken.frames {
            self.own_frame(container, fd, Place::Software);
            self.frame_handed(container, fd);
        }
        taken
    }

    /// Fills the result ring: notifications, then a volatile dequeue, then channels that are dequeued unasked.
    pub(crate) fn fill(&mut self, index: PortalIndex) {
        if !self.portals[index].state.is_configured || self.portals[index].is_stuck {
            return;
        }
        while self.portals[index].has_ring_space() {
            let sdqcr = self.portals[index].state.sdqcr;
            let local = sdqcr.source_mask() & 1 != 0;
            if local && let Some(notification) = self.portals[index].state.notifications.pop_front() {
                self.portals[index].deliver(notification.as_bytes(), None);
            } else if let Some(volatile) = self.portals[index].state.volatile {
                self.fill_volatile(index, volatile);
            } else if !self.fill_static(index, sdqcr) {
                break;
            }
        }
        self.update_interrupt(index);
    }

    fn fill_volatile(&mut self, index: PortalIndex, volatile: Volatile) {
        let taken = self.take_volatile(index, &volatile.command, 1);
        let left = volatile.left - 1;
        let is_last = left == 0 || taken.frames_left == 0;
        for result in results(&taken, volatile.command.token, is_last) {
            self.portals[index].deliver(result.as_bytes(), None);
        }
        self.portals[index].state.volatile = if is_last { None } else { Some(Volatile { left, ..volatile }) };
        if is_last {
            self.portals[index].raise(irq::VDCI);
        }
    }

    /// Takes one frame of the first channel that has one. False when none has.
    fn fill_static(&mut self, index: PortalIndex, sdqcr: Sdqcr) -> bool {
        let container = self.portals[index].container;
        for source in 0..SOURCES {
            if sdqcr.source_mask() & 1 << source == 0 {
                continue;
            }
            let Some(channel) = self.portals[index].sources[source] else { continue };
            let taken = match self.qman.take_held(index, channel, 1) {
                Some(taken) => taken,
                None => self.qman.take_from_channel(channel, 1, Some(index)),
            };
            let Some(fd) = taken.frames.first() else { continue };
            self.own_frame(container, fd, Place::Software);
            let mut result = result_of(&taken, 0, sdqcr.token());
            result.stat &= !dequeue::STAT_VOLATILE;
            let held = taken.held.then_some(taken.fqid);
            self.portals[index].deliver(result.as_bytes(), held);
            return true;
        }
        false
    }

    fn consume_result(&mut self, index: PortalIndex, value: u32, park: bool) {
        let entry = self.portals[index].state.dqrr.get_mut(value as usize).and_then(Option::take);
        match entry {
            Some(delivered) => {
                if let Some(fqid) = delivered.held {
                    self.qman.consumed(index, fqid, park);
                }
                self.fill(index);
            }
            None => self.portal_violation(
                index,
                Rule::Consumption,
                format_args!("entry {value} wasn't delivered"),
            ),
        }
    }

    /// Queues a notification for a portal.
    fn notify(&mut self, index: PortalIndex, verb: u8, resource: u32, context: u64) {
        let (resource_id, context) = (resource.into(), context.into());
        self.notify_with(index, Notification { verb, resource_id, context, ..Notification::default() });
    }

    pub(crate) fn notify_with(&mut self, index: PortalIndex, notification: Notification) {
        self.portals[index].state.notifications.push_back(notification);
        self.fill(index);
    }

    /// Channel or queue data is available.
    pub(crate) fn notify_queue(&mut self, index: PortalIndex, fqid: Fqid, context: u64) {
        self.notify(index, notification::VERB_FQDAN, fqid, context);
    }

    pub(crate) fn notify_channel(&mut self, index: PortalIndex, channel: ChannelId, context: u64) {
        self.notify(index, notification::VERB_CDAN, channel.into(), context);
    }

    /// A portal's own channel gets a frame queue's notifications.
    pub(crate) fn destination_of(
        &self,
        kind: u8,
        id: u32,
        priority: u8,
        container: u32,
    ) -> Option<Destination> {
        match kind {
            0 => Some(Destination::Parked),
            1 => {
                let index = self.portals.iter().position(|p| p.dpio == id && p.container == container)?;
                Some(Destination::Notify(index))
            }
            2 => {
                let dpcon = self.dpcons.get(&id).filter(|dpcon| dpcon.container == container)?;
                Some(Destination::Channel(dpcon.channel, priority))
            }
            _ => None,
        }
    }
}

/// The results of a volatile dequeue: one per frame, or one that says there is none.
fn results(taken: &Taken, token: u8, is_last: bool) -> Vec<DequeueResult> {
    let mut results: Vec<DequeueResult> =
        (0..taken.frames.len()).map(|i| result_of(taken, i, token)).collect();
    if results.is_empty() {
        let stat = dequeue::STAT_VOLATILE | dequeue::STAT_FQ_EMPTY;
        results.push(DequeueResult {
            verb: dequeue::VERB_DEQUEUE,
            stat,
            token,
            fqid: taken.fqid.into(),
            context: taken.context.into(),
            ..DequeueResult::default()
        });
    }
    if is_last && let Some(last) = results.last_mut() {
        last.stat |= dequeue::STAT_EXPIRED;
    }
    results
}

fn result_of(taken: &Taken, i: usize, token: u8) -> DequeueResult {
    let behind = (taken.frames.len() - 1 - i) as u32;
    let behind_bytes: u32 = taken.frames[i + 1..].iter().map(Fd::len).sum();
    let mut stat = dequeue::STAT_VOLATILE | dequeue::STAT_VALID_FRAME;
    if taken.frames_left + behind == 0 {
        stat |= dequeue::STAT_FQ_EMPTY;
    }
    if taken.held {
        stat |= dequeue::STAT_HELD_ACTIVE;
    }
    DequeueResult {
        verb: dequeue::VERB_DEQUEUE,
        stat,
        token,
        fqid: taken.fqid.into(),
        fq_bytes: taken.bytes_left.wrapping_add(behind_bytes).into(),
        fq_frames: (taken.frames_left + behind).into(),
        context: taken.context.into(),
        fd: taken.frames[i],
        ..DequeueResult::default()
    }
}
