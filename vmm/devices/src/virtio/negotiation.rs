//! What a driver does with a device before and beside its rings, whichever registers it does that by (virtio 1.2,
//! sections 2.1, 2.2, 2.6 and 3.1).
//!
//! A transport is registers, doorbells and interrupts around a [`Negotiation`]: it passes on what the driver writes,
//! shows what the driver reads, says [where the doorbells are](Negotiation::move_doorbells), and what is
//! [signalled](Calls) to interrupt the driver.

use std::io;
use std::sync::Arc;

use virtio_defs::feature::{ACCESS_PLATFORM, NOTIFICATION_DATA, RING_RESET, VERSION_1};

use super::{Device, Memory, Notifier, Queue, Session};
use crate::EventFd;
use crate::platform::{Doorbell, Platform};

/// Device status (section 2.1).
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// What is signalled to interrupt the driver.
pub(super) trait Calls {
    /// For a queue that there is.
    fn call(&self, queue: u16) -> &EventFd;
}

/// Where the doorbells of a device are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doorbells {
    /// One for each queue, the first at this address.
    Apart {
        /// That of queue 0.
        first: u64,
        /// From one to the next, in bytes.
        step: u64,
    },
    /// One for all, at this address: the queue's number is written to it.
    Shared(u64),
}

impl Doorbells {
    fn of(self, queue: u16) -> Doorbell {
        match self {
            Doorbells::Apart { first, step } => {
                Doorbell { address: first + u64::from(queue) * step, datum: None }
            }
            Doorbells::Shared(address) => Doorbell { address, datum: Some(queue.into()) },
        }
    }
}

/// The areas of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum Area {
    Desc,
    Driver,
    Device,
}

/// A queue as the driver has set it up so far.
pub(super) struct QueueState {
    pub size_max: u16,
    pub size: u16,
    pub enabled: bool,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
    kick: EventFd,
}

impl QueueState {
    fn new(size_max: u16) -> io::Result<QueueState> {
        let kick = EventFd::create()?;
        Ok(QueueState { size_max, size: size_max, enabled: false, desc: 0, driver: 0, device: 0, kick })
    }

    fn reset(&mut self) {
        (self.size, self.enabled) = (self.size_max, false);
        (self.desc, self.driver, self.device) = (0, 0, 0);
        self.kick.drain();
    }
}

/// A device, and how far its driver has come with it.
pub(super) struct Negotiation {
    pub device: Box<dyn Device>,
    pub notifier: Notifier,
    /// Which half of the features the driver sees, and which it sets.
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    /// The queue that the driver sets up.
    pub queue_select: u16,
    platform: Arc<dyn Platform>,
    memory: Memory,
    queues: Vec<QueueState>,
    features: u64,
    status: u8,
    running: bool,
    /// They are attached while the device runs.
    doorbells: Option<Doorbells>,
}

impl Negotiation {
    /// Nothing has been said yet.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(
        device: Box<dyn Device>,
        notifier: Notifier,
        platform: Arc<dyn Platform>,
        memory: Memory,
    ) -> io::Result<Negotiation> {
        let queues = device.queue_sizes().iter().map(|&size_max| QueueState::new(size_max));
        let queues = queues.collect::<io::Result<_>>()?;
        Ok(Negotiation {
            device,
            notifier,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            platform,
            memory,
            queues,
            features: 0,
            status: 0,
            running: false,
            doorbells: None,
        })
    }

    /// What the driver may choose from.
    fn offered(&self) -> u64 {
        // These two need a transport's help that none here gives.
        (self.device.features() | VERSION_1) & !(NOTIFICATION_DATA | ACCESS_PLATFORM)
    }

    /// The selected half of what the driver may choose from.
    pub fn device_features(&self) -> u32 {
        half(self.offered(), self.device_feature_select)
    }

    /// The selected half of what it has chosen.
    pub fn driver_features(&self) -> u32 {
        half(self.features, self.driver_feature_select)
    }

    /// Takes the selected half of its choice, until that is settled.
    pub fn choose_features(&mut self, value: u32) {
        if self.status & status::FEATURES_OK == 0 {
            set_half(&mut self.features, self.driver_feature_select, value);
        }
    }

    /// The device's status as the driver sees it.
    pub fn status(&self) -> u8 {
        let broken = if self.notifier.is_broken() { status::NEEDS_RESET } else { 0 };
        self.status | broken
    }

    /// Whether the driver has said that it is ready.
    pub fn is_driver_ok(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    /// Adds bits to the status. (What the driver writes to take them back, 0, is a [reset](Self::reset).)
    pub fn add_status(&mut self, new: u8, calls: &dyn Calls) {
        // Bits are added one by one, and none is taken back but by a reset (section 2.1.1).
        let added = new & !self.status & !status::NEEDS_RESET;
        self.status |= added & !(status::FEATURES_OK | status::DRIVER_OK);
        if added & status::FEATURES_OK != 0
            && self.features & !self.offered() == 0
            && self.features & VERSION_1 != 0
        {
            self.status |= status::FEATURES_OK;
        }
        if added & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            self.status |= status::DRIVER_OK;
            self.start(calls);
        }
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The queue that the driver has selected, if there is such a one.
    pub fn selected(&self) -> Option<&QueueState> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The same, if it may be set up: one that works is left alone (section 4.1.4.3.2).
    fn adjustable(&mut self) -> Option<&mut QueueState> {
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }

    /// Whether the device works on the selected queue.
    pub fn is_at_work(&self) -> bool {
        self.running && self.selected().is_some_and(|queue| queue.enabled)
    }

    /// Sets the selected queue's size; one that it can't have is no size.
    pub fn set_queue_size(&mut self, size: u32) {
        if let Some(queue) = self.adjustable()
            && (1..=u32::from(queue.size_max)).contains(&size)
        {
            queue.size = size as u16;
        }
    }

    /// The address of an area of the selected queue, if it may be set.
    pub fn area(&mut self, area: Area) -> Option<&mut u64> {
        let queue = self.adjustable()?;
        Some(match area {
            Area::Desc => &mut queue.desc,
            Area::Driver => &mut queue.driver,
            Area::Device => &mut queue.device,
        })
    }

    /// Enables the selected queue. While the device works, only one that was reset can be (section 2.6.1.2.1).
    pub fn enable_queue(&mut self, calls: &dyn Calls) {
        let (running, may_be_alone) = (self.running, self.features & RING_RESET != 0);
        let Some(queue) = self.adjustable().filter(|_| !running || may_be_alone) else { return };
        queue.enabled = true;
        if running {
            self.start_queue(calls);
        }
    }

    /// Takes the selected queue from the working device, if that was agreed on (section 2.6.1); returns whether it did.
    /// It is done when this returns.
    pub fn reset_queue(&mut self) -> bool {
        let index = self.queue_select;
        if !self.is_at_work() || self.features & RING_RESET == 0 {
            return false;
        }
        self.device.stop_queue(index);
        self.detach_doorbell(index);
        self.queues[usize::from(index)].reset();
        true
    }

    /// Takes back that the selected queue is enabled: before the device works, or with [a reset](Self::reset_queue) of it.
    pub fn disable_queue(&mut self) {
        if self.running {
            self.reset_queue();
        } else if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
            queue.enabled = false;
        }
    }

    /// Gives the selected queue, which was reset and set up again, to the device.
    fn start_queue(&mut self, calls: &dyn Calls) {
        let index = self.queue_select;
        let started = self
            .queue(index, calls)
            .map_err(|error| error.to_string())
            .and_then(|queue| self.device.start_queue(queue).map_err(|error| error.to_string()));
        match started {
            Ok(()) => self.attach_doorbell(index),
            Err(error) => self.fail(&error),
        }
    }

    /// A queue as the driver has set it up, for the device.
    fn queue(&self, index: u16, calls: &dyn Calls) -> io::Result<Queue> {
        let queue = &self.queues[usize::from(index)];
        Ok(Queue {
            index,
            size: queue.size,
            desc: queue.desc,
            driver: queue.driver,
            device: queue.device,
            kick: queue.kick.try_clone()?,
            call: calls.call(index).try_clone()?,
        })
    }

    fn enabled(&self) -> impl Iterator<Item = u16> {
        (0..).zip(&self.queues).filter(|(_, queue)| queue.enabled).map(|(index, _)| index)
    }

    fn start(&mut self, calls: &dyn Calls) {
        let queues = self.enabled().map(|index| self.queue(index, calls)).collect::<io::Result<Vec<_>>>();
        let started = queues.map_err(|error| error.to_string()).and_then(|queues| {
            let session = Session { features: self.features, memory: self.memory.clone(), queues };
            self.device.start(session).map_err(|error| error.to_string())
        });
        match started {
            Ok(()) => {
                self.running = true;
                self.enabled().for_each(|index| self.attach_doorbell(index));
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &str) {
        tracing::warn!(device = ?self.device.kind(), %error, "the guest's driver has set up what can't work");
        self.notifier.needs_reset();
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        if self.running {
            self.device.stop();
            self.enabled().for_each(|index| self.detach_doorbell(index));
            self.running = false;
        }
        self.queues.iter_mut().for_each(QueueState::reset);
        self.notifier.set_vector(None);
        self.notifier.repaired();
        (self.device_feature_select, self.driver_feature_select, self.features) = (0, 0, 0);
        (self.queue_select, self.status) = (0, 0);
    }

    /// Tells the device that the guest's memory has grown.
    pub fn memory_grown(&mut self) {
        self.device.memory_grown(&self.memory);
    }

    /// Says where the doorbells are from now on; nowhere if `None`.
    pub fn move_doorbells(&mut self, place: Option<Doorbells>) {
        if place == self.doorbells {
            return;
        }
        self.enabled().for_each(|index| self.detach_doorbell(index));
        self.doorbells = place;
        self.enabled().for_each(|index| self.attach_doorbell(index));
    }

    /// The driver rings a queue, and that has come here: the device answers, or its event is signalled.
    pub fn ring(&mut self, index: u16) {
        if self.running && self.device.answers_doorbell(index) {
            self.device.rung(index);
        } else if let Some(queue) = self.queues.get(usize::from(index)) {
            queue.kick.signal();
        }
    }

    /// A queue's doorbell, if it is to be attached.
    fn doorbell(&self, index: u16) -> Option<Doorbell> {
        let place = self.doorbells.filter(|_| self.running && !self.device.answers_doorbell(index))?;
        Some(place.of(index))
    }

    fn attach_doorbell(&self, index: u16) {
        let Some(doorbell) = self.doorbell(index) else { return };
        if let Err(error) = self.platform.attach_doorbell(doorbell, &self.queues[usize::from(index)].kick) {
            // Slower, but right: the write comes here and is passed on.
            tracing::debug!(index, %error, "a doorbell rings through the monitor");
        }
    }

    fn detach_doorbell(&self, index: u16) {
        if let Some(doorbell) = self.doorbell(index) {
            self.platform.detach_doorbell(doorbell, &self.queues[usize::from(index)].kick);
        }
    }
}

impl Drop for Negotiation {
    fn drop(&mut self) {
        self.reset();
    }
}

/// One half of a word of 64 bits: 0 the lower, 1 the upper; there are no others, and they read as 0.
fn half(word: u64, select: u32) -> u32 {
    match select {
        0 => word as u32,
        1 => (word >> 32) as u32,
        _ => 0,
    }
}

/// Sets one half of such a word.
pub(super) fn set_half(word: &mut u64, select: u32, value: u32) {
    match select {
        0 => *word = *word & !0xffff_ffff | u64::from(value),
        1 => *word = *word & 0xffff_ffff | u64::from(value) << 32,
        _ => {}
    }
}
