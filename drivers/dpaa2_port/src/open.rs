//! The start-up of a port, in the order of the firmware's rules: configured while disabled, then queues, then enabled.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use dpaa2_defs::annotation::fas;
use dpaa2_defs::classify::{Extract, five_tuple};
use dpaa2_defs::mc::dpni::{
    self, ConfirmationMode, CongestionPoint, ErrorAction, Offload, QueueType, SetCongestionNotification,
    SetTxPriorities, SetTxShaping, Units, congestion_mode, event, option, stash,
};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_mc::{BufferLayout, Disabled, Dpni, McError, PoolBinding, QueueId, QueueTarget, State, Taildrop};
use dpaa2_qbman::{Results, Source};
use fslmc_bus::{Bus, BusError, Device, DmaMemory, Interrupt};
use port::{RxQueue, TxQueue};

use crate::buffers::{Buffers, DATA_OFFSET, PoolSet};
use crate::channel::Channel;
use crate::counters::DriverCounters;
use crate::handle::{Dpaa2Handle, set_vlans};
use crate::hardware::{Dpaa2, Inner};
use crate::port::{Interface, LinkWatch, Shared};
use crate::rx::{Dpaa2Rx, RxParts};
use crate::steering::{CLASSES_MAX, ClassTable, FlowTable, Steering};
use crate::tx::{Dpaa2Tx, TxParts};
use crate::worker_portal::WorkerPortal;
use crate::{Dpaa2Error, PoolConfig};

/// Bytes of annotation in front of a received frame.
const ANNOTATION_BYTES: u16 = 64;
/// The largest frame hardware and other drivers speak of, and the smallest that is worth it.
const FRAME_MAX: std::ops::RangeInclusive<u16> = 64..=10_240;
/// Frames that may wait to be sent before a queue counts as congested, and until it no longer does.
const CONGESTED_FRAMES: u32 = 512;
const RELAXED_FRAMES: u32 = 460;
/// Bytes of memory for a congestion message (`dpaa2_ethdev.c` in DPDK reserves as much).
const CONGESTION_BYTES: usize = 64;
/// What a frame counts beyond its bytes in a receive queue's limit (as DPDK and Linux set it).
const TAILDROP_OVERHEAD: i16 = 128;
/// Distribution sizes hardware knows (`fsl_dpni.h`), up to what an interface can have.
const DISTRIBUTION_SIZES: [u16; 14] = [1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 48];
/// WRIOP versions that want data at multiples of 256: unknown and 1.0.0 (Linux' `dpaa2-eth.c`).
const OLD_WRIOP: [u16; 2] = [0, 0x400];
/// The weight of transmit classes without a queue.
const TX_WEIGHT: u16 = 100;
/// How a transmit class of weighted group A is marked.
const WEIGHTED_A: u8 = 1;

/// How an interface is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Number of the DPNI.
    pub dpni: u32,
    /// Traffic classes of reception, the first ones the interface has: 1 to 8. The port's receive queues are those of
    /// class 0, then those of class 1, and so on.
    pub rx_classes: Vec<RxClass>,
    /// How frames get their class. `None`: all are of class 0.
    pub class_table: Option<ClassTable>,
    /// Tables that choose queues in a class, with their class.
    pub flow_tables: Vec<(u8, FlowTable)>,
    /// Transmit queues, each a traffic class of its own: how they share the wire. 1 to 8.
    pub tx_classes: Vec<TxShare>,
    /// The rate that transmission is limited to.
    pub tx_rate: Option<TxRate>,
    /// Pools for received frames, filled as they say: 1 to 8.
    pub rx_pools: Vec<PoolUse>,
    /// The pool for frames that are copied to be sent. `None`: the first of those for received ones.
    pub tx_pool: Option<PoolConfig>,
    /// Its primary address. `None`: that of the MAC it is connected to, or what it has.
    pub mac: Option<[u8; 6]>,
    /// Longest frame without FCS, in bytes: 64 to 10,240.
    pub frame_max: u16,
    /// Whether it receives frames for whatever unicast address.
    pub promiscuous: bool,
    /// Whether it receives frames for whatever group address. Without it: for broadcast, and for those of `macs`.
    pub all_multicast: bool,
    /// Addresses it receives beside its own, group addresses included.
    pub macs: Vec<[u8; 6]>,
    /// The only VLANs it receives, if not all.
    pub vlans: Option<Vec<u16>>,
    /// Whether hardware checks the checksums of received frames and writes those of sent ones.
    pub checksums: bool,
}

/// A traffic class of reception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxClass {
    /// Its receive queues.
    pub queues: u16,
    /// The header fields whose hash spreads its frames over them; without any, all go to the first.
    pub spread_by: Vec<Extract>,
    /// Bytes that may wait in each of its queues before frames are dropped.
    pub queue_bytes: u32,
    /// Frames that may wait in all of its queues together before more are dropped, and counted for the class. No
    /// such limit if none, or if the interface was created with one congestion group for all classes.
    pub frames: Option<u32>,
}

impl RxClass {
    /// So many queues with flows spread over them, 1 MiB in each.
    pub fn new(queues: u16) -> RxClass {
        RxClass { queues, spread_by: five_tuple().to_vec(), queue_bytes: 1 << 20, frames: None }
    }
}

/// How a transmit queue shares the wire with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxShare {
    /// It goes before all queues behind it.
    Strict,
    /// It gets this part of what the strict ones leave, relative to the others: 100 to 10,000.
    Weight(u16),
    /// It has a channel of its own, which takes turns with that of all others and sends at most so much.
    Limited(TxRate),
}

/// A limit of transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxRate {
    /// Mbit/s.
    pub mbps: u32,
    /// Bytes that may go at once.
    pub burst_bytes: u16,
}

/// A pool for received frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The pool.
    pub pool: PoolConfig,
    /// The traffic classes whose frames use it, bit by bit; 0 for all.
    pub classes: u8,
}

impl PortConfig {
    /// The defaults: one queue each way, one pool (`dpbp`) for both, frames of up to 1,522 bytes, promiscuous, checksums
    /// in hardware.
    pub fn new(dpni: u32, dpbp: u32) -> PortConfig {
        PortConfig {
            dpni,
            rx_classes: vec![RxClass::new(1)],
            class_table: None,
            flow_tables: vec![],
            tx_classes: vec![TxShare::EQUAL],
            tx_rate: None,
            rx_pools: vec![PoolUse { pool: PoolConfig::new(dpbp), classes: 0 }],
            tx_pool: None,
            mac: None,
            frame_max: 1522,
            promiscuous: true,
            all_multicast: true,
            macs: vec![],
            vlans: None,
            checksums: true,
        }
    }

    /// What of this an interface can't be.
    fn check(&self, has: &dpni::Attributes) -> Result<(), String> {
        let classes = self.rx_classes.len();
        if !(1..=usize::from(has.rx_tcs).min(CLASSES_MAX)).contains(&classes) {
            return Err(format!("{classes} traffic classes; it can have 1 to {}", has.rx_tcs));
        }
        for class in &self.rx_classes {
            class.check(has)?;
        }
        self.check_tx(has)?;
        if !(1..=dpni::POOLS_MAX).contains(&self.rx_pools.len()) {
            return Err(format!("{} pools; it can have 1 to {}", self.rx_pools.len(), dpni::POOLS_MAX));
        }
        if !FRAME_MAX.contains(&self.frame_max) {
            return Err(format!("frames of {} bytes; it can have {FRAME_MAX:?}", self.frame_max));
        }
        let macs = self.macs.len() + usize::from(!self.all_multicast);
        if macs > has.mac_filter_entries.into() {
            return Err(format!(
                "{macs} addresses, broadcast among them; its filter holds {}",
                has.mac_filter_entries
            ));
        }
        let vlans = self.vlans.as_ref().map_or(0, Vec::len);
        if vlans > has.vlan_filter_entries.into() {
            return Err(format!("{vlans} VLANs; its filter holds {}", has.vlan_filter_entries));
        }
        Ok(())
    }
}

impl PortConfig {
    fn check_tx(&self, has: &dpni::Attributes) -> Result<(), String> {
        let tx_max = u16::from(has.tx_tcs).min(8);
        if !(1..=tx_max.into()).contains(&self.tx_classes.len()) {
            return Err(format!("{} transmit queues; it can have 1 to {tx_max}", self.tx_classes.len()));
        }
        let limited = self.tx_classes.iter().filter(|share| share.is_limited()).count();
        let channels = usize::from(has.channels).saturating_sub(1);
        if limited > channels {
            return Err(format!(
                "{limited} transmit queues with a rate of their own; it can have {channels}, one for each channel but the first"
            ));
        }
        let weights = self.tx_classes.iter().filter_map(|share| match share {
            TxShare::Strict | TxShare::Limited(_) => None,
            TxShare::Weight(weight) => Some(*weight),
        });
        for weight in weights {
            if !TxShare::WEIGHTS.contains(&weight) {
                return Err(format!(
                    "a transmit queue with weight {weight}; allowed are {:?}",
                    TxShare::WEIGHTS
                ));
            }
        }
        let mut first_weighted = self.shares().skip_while(|share| *share == TxShare::Strict);
        if first_weighted.any(|share| share == TxShare::Strict) {
            return Err("a strict transmit queue behind a weighted one; strict ones come first".to_owned());
        }
        Ok(())
    }

    /// Those of the first channel.
    fn shares(&self) -> impl Iterator<Item = TxShare> {
        self.tx_classes.iter().copied().filter(|share| !share.is_limited())
    }

    /// Channel and traffic class of a transmit queue.
    fn tx_place(&self, queue: usize) -> (u8, u8) {
        let limited = self.tx_classes[..queue].iter().filter(|share| share.is_limited()).count();
        if self.tx_classes[queue].is_limited() {
            (1 + limited as u8, 0)
        } else {
            (0, (queue - limited) as u8)
        }
    }
}

impl RxClass {
    fn check(&self, has: &dpni::Attributes) -> Result<(), String> {
        let max = u16::from(has.queues).min(*DISTRIBUTION_SIZES.last().expect("there are some"));
        if !(1..=max).contains(&self.queues) || !DISTRIBUTION_SIZES.contains(&self.queues) {
            let sizes: Vec<_> =
                DISTRIBUTION_SIZES.iter().filter(|&&n| n <= max).map(u16::to_string).collect();
            return Err(format!("{} receive queues; it can have {}", self.queues, sizes.join(", ")));
        }
        Ok(())
    }
}

impl TxShare {
    /// The same as all others that have it.
    pub const EQUAL: TxShare = TxShare::Weight(100);
    /// What a weight can be.
    const WEIGHTS: std::ops::RangeInclusive<u16> = 100..=10_000;

    fn is_limited(self) -> bool {
        matches!(self, TxShare::Limited(_))
    }
}

/// An interface that is open and enabled, and whose queues nobody polls yet.
pub struct Dpaa2Port {
    handle: Dpaa2Handle,
    queues: Dpaa2Queues,
}

/// The queues of a port, for the workers. A receive queue that is dropped stops the interface; when the last queue and
/// the last handle are dropped it is reset.
pub struct Dpaa2Queues {
    /// Those frames come from.
    pub rx: Vec<Box<dyn RxQueue>>,
    /// Those frames go to, each as one object for each worker.
    pub tx: Vec<Vec<Box<dyn TxQueue>>>,
}

impl Dpaa2Port {
    /// What stays with control.
    pub fn handle(&self) -> Dpaa2Handle {
        self.handle.clone()
    }

    /// The queues.
    pub fn into_queues(self) -> Dpaa2Queues {
        self.queues
    }
}

impl<B: Bus> Dpaa2<B> {
    /// Opens an interface of the container, configures and enables it.
    ///
    /// # Errors
    /// Something is missing in the container, the firmware refuses, or the configuration doesn't fit the interface.
    /// What was taken is given back.
    pub fn open_port(&self, config: &PortConfig) -> Result<Dpaa2Port, Dpaa2Error> {
        let hardware = &self.0;
        let object = ObjectType::DPNI.with_id(config.dpni);
        let (device, dpni) = hardware.take(object, Dpni::open)?;
        let mut opening = Opening { hardware, config, object, dpni: dpni.reset()? };
        let attributes = opening.dpni.attributes()?;
        config.check(&attributes).map_err(|what| Dpaa2Error::Config { object, what })?;

        opening.set_address()?;
        let (rx_pools, tx_pool) = opening.set_buffers(&attributes)?;
        opening.set_filters()?;
        opening.set_offloads()?;
        let mut rx = vec![];
        for (class, has) in config.rx_classes.iter().enumerate() {
            for index in 0..has.queues {
                rx.push(opening.rx_queue(QueueId::rx(class as u8, index as u8), has, rx.len())?);
            }
        }
        opening.limit_classes(&attributes)?;
        let steering = opening.steer(attributes)?;
        let tx: Vec<_> =
            (0..config.tx_classes.len()).map(|i| opening.tx_queue(i)).collect::<Result<_, _>>()?;
        opening.share_the_wire()?;
        opening.read_back(&attributes)?;
        let (device, link_event) = opening.watch_link(device)?;

        let shared = Arc::new(Shared {
            interface: Mutex::new(Interface::Running(opening.dpni.enable()?)),
            hardware: hardware.clone(),
            checksums: config.checksums,
            frame_max: AtomicU32::new(config.frame_max.into()),
            counters: DriverCounters::default(),
            link_event,
            device: Mutex::new(device),
            rx_classes: config.rx_classes.clone(),
            steering: Mutex::new(steering),
        });
        let rx = rx.into_iter().map(|parts| -> Box<dyn RxQueue> {
            Box::new(Dpaa2Rx::new(parts, PoolSet::new(rx_pools.clone()), shared.clone()))
        });
        let tx = tx.into_iter().map(|parts| {
            let of = |portal: &Arc<WorkerPortal<B>>| -> Box<dyn TxQueue> {
                Box::new(Dpaa2Tx::new(parts.clone(), portal.clone(), tx_pool.clone(), shared.clone()))
            };
            hardware.workers.iter().map(of).collect()
        });
        let queues = Dpaa2Queues { rx: rx.collect(), tx: tx.collect() };
        Ok(Dpaa2Port { handle: Dpaa2Handle(shared), queues })
    }
}

/// A port on its way up: one method a step.
struct Opening<'a, B: Bus> {
    hardware: &'a Arc<Inner<B>>,
    config: &'a PortConfig,
    object: ObjectId,
    dpni: Dpni<Disabled>,
}

type Pools<B> = (Vec<Arc<Buffers<B>>>, Arc<Buffers<B>>);

impl<B: Bus> Opening<'_, B> {
    /// The configured address, else the MAC's, else its own stays. (`dpaa2_dev_init` in DPDK's `dpaa2_ethdev.c`)
    fn set_address(&self) -> Result<(), Dpaa2Error> {
        let mac = match self.config.mac {
            Some(mac) => mac,
            None => self.dpni.port_mac()?,
        };
        if mac != [0; 6] {
            self.dpni.set_primary_mac(mac)?;
        }
        Ok(())
    }

    /// Where frames lie in buffers, which buffers, and how long frames are. (`dpaa2_eth_set_buffer_layout` in Linux'
    /// `dpaa2-eth.c`; DPDK's `dpaa2_attach_bp_list`)
    fn set_buffers(&mut self, has: &dpni::Attributes) -> Result<Pools<B>, Dpaa2Error> {
        let data_alignment = if OLD_WRIOP.contains(&has.wriop_version.get()) { 256 } else { 64 };
        let received = BufferLayout {
            timestamp: Some(false),
            parser_result: Some(false),
            frame_status: Some(true),
            private_data_size: Some(0),
            data_alignment: Some(data_alignment),
            head_room: Some(DATA_OFFSET - ANNOTATION_BYTES),
            tail_room: Some(0),
        };
        self.dpni.set_buffer_layout(QueueType::RX, &received)?;
        let sent = BufferLayout { frame_status: Some(true), ..BufferLayout::default() };
        self.dpni.set_buffer_layout(QueueType::TX, &sent)?;
        self.dpni.set_buffer_layout(QueueType::TX_CONFIRM, &sent)?;
        let needed = self.dpni.tx_data_offset()?;
        if needed > DATA_OFFSET {
            let what = format!("it wants {needed} bytes in front of sent frames; there are {DATA_OFFSET}");
            return Err(Dpaa2Error::Config { object: self.object, what });
        }
        let mut rx_pools = vec![];
        let mut bindings = vec![];
        for PoolUse { pool, classes } in &self.config.rx_pools {
            let buffers = self.hardware.pool(*pool)?;
            let buffer_size = buffers.buffer_bytes() as u16;
            bindings.push(PoolBinding { dpbp_id: pool.dpbp, buffer_size, tc_mask: *classes, backup: false });
            rx_pools.push(buffers);
        }
        self.dpni.set_pools(&bindings)?;
        let tx_pool = match self.config.tx_pool {
            Some(pool) => self.hardware.pool(pool)?,
            None => rx_pools[0].clone(),
        };
        self.dpni.set_max_frame_length(self.config.frame_max)?;
        Ok((rx_pools, tx_pool))
    }

    /// Which frames are received.
    fn set_filters(&self) -> Result<(), Dpaa2Error> {
        self.dpni.set_unicast_promiscuous(self.config.promiscuous)?;
        self.dpni.set_multicast_promiscuous(self.config.all_multicast)?;
        if !self.config.all_multicast {
            // Broadcast is filtered like any group address (Linux' `dpaa2-eth.c` adds it as well).
            self.dpni.add_mac_filter([0xff; 6])?;
        }
        for &mac in &self.config.macs {
            self.dpni.add_mac_filter(mac)?;
        }
        match &self.config.vlans {
            Some(vlans) => Ok(set_vlans(&self.dpni, Some(vlans))?),
            None => Ok(()),
        }
    }

    /// Frames with errors are marked and received; checksums are checked and written, or not.
    fn set_offloads(&self) -> Result<(), Dpaa2Error> {
        self.dpni.set_errors_behavior(fas::ERRORS, ErrorAction::CONTINUE, true)?;
        for offload in [
            Offload::RX_L3_CHECKSUM,
            Offload::RX_L4_CHECKSUM,
            Offload::TX_L3_CHECKSUM,
            Offload::TX_L4_CHECKSUM,
        ] {
            self.dpni.set_offload(offload, self.config.checksums)?;
        }
        Ok(())
    }

    /// A receive queue: its channel if there is one, its limit. (`dpaa2_dev_rx_queue_setup` in DPDK)
    fn rx_queue(&self, queue: QueueId, class: &RxClass, number: usize) -> Result<RxParts<B>, Dpaa2Error> {
        let channel = Channel::open(self.hardware)?;
        let target = match &channel {
            Some(channel) => QueueTarget::Dpcon { id: channel.id(), priority: 0 },
            None => QueueTarget::Parked,
        };
        // The first bytes of a frame are read at once; its annotation too where checksums are looked at.
        let stashed = stash::data(1) | stash::annotation(self.config.checksums.into());
        self.dpni.set_queue(queue, target, number as u64, stashed)?;
        self.dpni.set_taildrop(queue, limit(class.queue_bytes))?;
        let source = match &channel {
            Some(channel) => Source::Channel(channel.number),
            None => Source::Fq(self.dpni.queue(queue)?.fqid.get()),
        };
        let results = Results::new(&self.hardware.bus)?;
        Ok(RxParts { results, source, channel })
    }

    /// How many frames may wait in each class.
    fn limit_classes(&self, has: &dpni::Attributes) -> Result<(), Dpaa2Error> {
        if has.options.get() & option::SHARED_CONGESTION != 0 {
            return Ok(());
        }
        for (class, how) in self.config.rx_classes.iter().enumerate() {
            if let Some(threshold) = how.frames {
                self.dpni.set_class_taildrop(class as u8, Taildrop::Frames { threshold })?;
            }
        }
        Ok(())
    }

    /// How frames get class and queue.
    fn steer(&self, attributes: dpni::Attributes) -> Result<Steering<B>, Dpaa2Error> {
        let classes = &self.config.rx_classes;
        let mut steering = Steering::new(&self.hardware.bus, self.object, attributes)?;
        for (class, has) in classes.iter().enumerate() {
            steering.spread(&self.dpni, class as u8, has)?;
        }
        steering.set_classes(&self.dpni, classes, self.config.class_table.as_ref())?;
        for (class, table) in &self.config.flow_tables {
            steering.set_flows(&self.dpni, classes, *class, Some(table))?;
        }
        Ok(steering)
    }

    /// A transmit queue: hardware returns buffers to their pools, and says when too many frames wait.
    /// (`dpaa2_dev_tx_queue_setup` in DPDK: one queue a traffic class, since congestion is told for classes)
    fn tx_queue(&self, queue: usize) -> Result<TxParts<B>, Dpaa2Error> {
        let (channel, tc) = self.config.tx_place(queue);
        if tc == 0 {
            self.dpni.set_tx_confirmation(channel, ConfirmationMode::DISABLED)?;
        }
        let fqid = self.dpni.queue(QueueId { channel, ..QueueId::tx(tc) })?.fqid.get();
        let congestion = DmaMemory::new(&self.hardware.bus, CONGESTION_BYTES)?;
        let mode = congestion_mode::WRITE_ON_ENTER
            | congestion_mode::WRITE_ON_EXIT
            | congestion_mode::COHERENT_WRITE;
        self.dpni.set_congestion_notification(&SetCongestionNotification {
            queue_type: QueueType::TX,
            tc,
            channel,
            point: CongestionPoint::QUEUE,
            mode: mode.into(),
            type_and_units: Units::FRAMES.0 << 4,
            message_iova: congestion.iova().into(),
            entry: CONGESTED_FRAMES.into(),
            exit: RELAXED_FRAMES.into(),
            ..Default::default()
        })?;
        Ok(TxParts { fqid, congestion: Arc::new(congestion) })
    }

    /// By default the first class goes before all others.
    fn share_the_wire(&self) -> Result<(), Dpaa2Error> {
        let classes: Vec<_> = self.config.shares().collect();
        if classes.len() > 1 {
            let mut command = SetTxPriorities { weights: [TX_WEIGHT.into(); 8], ..Default::default() };
            for (n, share) in classes.iter().enumerate() {
                if let TxShare::Weight(weight) = share {
                    command.modes[n / 2] |= WEIGHTED_A << (4 * (n % 2));
                    command.weights[n] = (*weight).into();
                }
            }
            let strict = classes.iter().filter(|&&share| share == TxShare::Strict).count();
            command.group_a_priority = strict as u8;
            self.dpni.set_tx_priorities(&command)?;
        }
        for (queue, share) in self.config.tx_classes.iter().enumerate() {
            if let TxShare::Limited(rate) = share {
                let (channel, _) = self.config.tx_place(queue);
                limit_rate(&self.dpni, Some(channel), Some(*rate))?;
            }
        }
        match self.config.tx_rate {
            Some(rate) => Ok(limit_rate(&self.dpni, None, Some(rate))?),
            None => Ok(()),
        }
    }

    /// Compares what was set with what the firmware says of it. Of pools, distributions, priorities and shaping it says nothing:
    /// there are no commands for that.
    fn read_back(&self, has: &dpni::Attributes) -> Result<(), Dpaa2Error> {
        let config = self.config;
        if let Some(mac) = config.mac {
            self.same("address", mac, self.dpni.primary_mac()?)?;
        }
        self.same("longest frame", config.frame_max, self.dpni.max_frame_length()?)?;
        self.same("promiscuous mode", config.promiscuous, self.dpni.is_unicast_promiscuous()?)?;
        self.same("multicast promiscuous mode", config.all_multicast, self.dpni.is_multicast_promiscuous()?)?;
        let mut number = 0;
        for (class, how) in config.rx_classes.iter().enumerate() {
            for index in 0..how.queues {
                let (queue, name) =
                    (QueueId::rx(class as u8, index as u8), format!("queue {index} of class {class}"));
                self.same(&format!("number of {name}"), number, self.dpni.queue(queue)?.user_context.get())?;
                self.same_limit(&name, limit(how.queue_bytes), self.dpni.taildrop(queue)?)?;
                number += 1;
            }
            if let Some(threshold) = how.frames
                && has.options.get() & option::SHARED_CONGESTION == 0
            {
                let found = self.dpni.class_taildrop(class as u8)?;
                self.same_limit(&format!("class {class}"), Taildrop::Frames { threshold }, found)?;
            }
        }
        Ok(())
    }

    fn same<T: PartialEq + fmt::Debug>(&self, what: &str, set: T, found: T) -> Result<(), Dpaa2Error> {
        if set == found {
            return Ok(());
        }
        Err(Dpaa2Error::ReadBack { object: self.object, what: format!("{what} {set:?} (it says {found:?})") })
    }

    /// Hardware keeps eight digits of a limit.
    fn same_limit(&self, of: &str, set: Taildrop, found: Taildrop) -> Result<(), Dpaa2Error> {
        let close = |set: u32, found: u32| set.abs_diff(found) <= set >> 7;
        match (set, found) {
            (Taildrop::Bytes { threshold, .. }, Taildrop::Bytes { threshold: found, .. })
            | (Taildrop::Frames { threshold }, Taildrop::Frames { threshold: found })
                if close(threshold, found) =>
            {
                Ok(())
            }
            _ => self.same(&format!("limit of {of}"), set, found),
        }
    }

    /// Has the link's changes announced.
    fn watch_link(&self, device: B::Device) -> Result<(LinkWatch<B>, Option<OwnedFd>), Dpaa2Error> {
        if device.info().irqs == 0 {
            return Ok((LinkWatch::No { _device: device }, None));
        }
        let interrupt = Interrupt::arm(device, 0)?;
        let event = interrupt.as_fd().try_clone_to_owned();
        let event = event.map_err(|cause| BusError::system("an event descriptor", cause))?;
        self.dpni.arm_events(event::LINK_CHANGED | event::ENDPOINT_CHANGED)?;
        Ok((LinkWatch::Interrupt(interrupt), Some(event)))
    }
}

/// Frames beyond so many bytes are dropped.
pub(crate) fn limit(bytes: u32) -> Taildrop {
    Taildrop::Bytes { threshold: bytes, overhead: TAILDROP_OVERHEAD }
}

/// Limits transmission of a channel, or of the whole interface, or no longer.
pub(crate) fn limit_rate<S: State>(
    dpni: &Dpni<S>,
    channel: Option<u8>,
    rate: Option<TxRate>,
) -> Result<(), McError> {
    let (mbps, burst_bytes) = rate.map_or((0, 0), |rate| (rate.mbps, rate.burst_bytes));
    dpni.set_tx_shaping(&SetTxShaping {
        committed_burst: burst_bytes.into(),
        committed_rate: mbps.into(),
        options: if channel.is_none() { SetTxShaping::WHOLE_INTERFACE } else { 0 },
        channel: channel.unwrap_or(0),
        ..Default::default()
    })
}
