//! Virtio over PCI (virtio 1.2, section 4.1): one window with all structures, MSI-X, no INTx.
//!
//! | offset | bytes | structure |
//! |---|---|---|
//! | 0x0000 | 64 | common configuration |
//! | 0x1000 | 1 | interrupt status, always 0 |
//! | 0x2000 | 4 KiB | device configuration |
//! | 0x3000 | 4 a queue | notifications |
//! | 0x4000 | 16 a vector | MSI-X table |
//! | 0x5000 | 8 | MSI-X pending bits |

use std::io;
use std::sync::Arc;

use virtio_defs::QUEUE_SIZE_MAX;
use virtio_defs::feature::{ACCESS_PLATFORM, NOTIFICATION_DATA, RING_RESET, VERSION_1};

use super::{Device, Kind, Memory, Notifier, Queue, Session};
use crate::EventFd;
use crate::pci::{Capability, ConfigSpace, Function, Identity, Msix};
use crate::platform::Platform;

const WINDOW_BYTES: u64 = 0x8000;
const COMMON: u64 = 0x0000;
const COMMON_BYTES: u64 = 64;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const PAGE: u64 = 0x1000;
/// Distance of the queues' notification registers.
const NOTIFY_STEP: u32 = 4;

const VENDOR: u16 = 0x1af4;
/// PCI device number of device type 0.
const DEVICE_BASE: u16 = 0x1040;
const NO_VECTOR: u16 = 0xffff;

/// Types of structures (section 4.1.4).
mod cfg {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}
const CAP_VENDOR: u8 = 9;

/// Device status (section 2.1).
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// A queue as the driver has set it up so far.
struct QueueState {
    size_max: u16,
    size: u16,
    vector: u16,
    enabled: bool,
    desc: u64,
    driver: u64,
    device: u64,
    kick: EventFd,
    /// Signalled in place of an interrupt when the driver wants none.
    unheard: EventFd,
}

impl QueueState {
    fn reset(&mut self) {
        (self.size, self.vector, self.enabled) = (self.size_max, NO_VECTOR, false);
        (self.desc, self.driver, self.device) = (0, 0, 0);
        self.kick.drain();
    }
}

/// A virtio device on the PCI bus.
pub struct Transport {
    config: ConfigSpace,
    /// Where in configuration space the MSI-X capability and the access window of section 4.1.4.9 begin.
    msix_at: usize,
    access_at: usize,
    msix: Msix,
    device: Box<dyn Device>,
    notifier: Notifier,
    platform: Arc<dyn Platform>,
    memory: Memory,
    queues: Vec<QueueState>,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
    status: u8,
    running: bool,
    /// Where the doorbells are attached.
    doorbells: Option<u64>,
}

impl Transport {
    /// Puts `device` on the bus under the number `requester`, with its window at `address`.
    ///
    /// # Errors
    /// There are no vectors or descriptors left.
    pub fn new(
        device: Box<dyn Device>,
        notifier: Notifier,
        platform: Arc<dyn Platform>,
        memory: Memory,
        requester: u32,
        address: u64,
    ) -> io::Result<Transport> {
        let queues = device.queue_sizes().iter().map(|&size_max| {
            Ok(QueueState {
                size_max,
                size: size_max,
                vector: NO_VECTOR,
                enabled: false,
                desc: 0,
                driver: 0,
                device: 0,
                kick: EventFd::create()?,
                unheard: EventFd::create()?,
            })
        });
        let queues = queues.collect::<io::Result<Vec<_>>>()?;
        // One for the configuration, one for each queue.
        let msix = Msix::new(queues.len() + 1, requester, &*platform)?;
        let mut config = ConfigSpace::new(&identity(device.kind()));
        config.set_window(address, WINDOW_BYTES);
        let structure = |config: &mut ConfigSpace, kind: u8, at: u64, bytes: u64, more: &[u8]| {
            // Length of the capability, type, window 0, id and padding, offset, length.
            let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
            body.extend((at as u32).to_le_bytes());
            body.extend((bytes as u32).to_le_bytes());
            body.extend(more);
            let writable: &[u8] = match kind {
                cfg::PCI => &[
                    0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    0xff,
                ],
                _ => &[],
            };
            config.add_capability(&Capability { id: CAP_VENDOR, body: &body, writable })
        };
        structure(&mut config, cfg::COMMON, COMMON, COMMON_BYTES, &[]);
        structure(&mut config, cfg::ISR, ISR, 1, &[]);
        structure(&mut config, cfg::DEVICE, DEVICE, PAGE, &[]);
        let notify_bytes = u64::from(NOTIFY_STEP) * queues.len() as u64;
        structure(&mut config, cfg::NOTIFY, NOTIFY, notify_bytes, &NOTIFY_STEP.to_le_bytes());
        let access_at = structure(&mut config, cfg::PCI, 0, 0, &[0; 4]);
        let body = msix.capability(TABLE as u32, PENDING as u32);
        let msix_at = config.add_capability(&Msix::describe(&body));
        config.finish();
        Ok(Transport {
            config,
            msix_at,
            access_at,
            msix,
            device,
            notifier,
            platform,
            memory,
            queues,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            status: 0,
            running: false,
            doorbells: None,
        })
    }

    /// Bytes of a device's window.
    pub const WINDOW_BYTES: u64 = WINDOW_BYTES;

    /// What the driver may choose from.
    fn offered(&self) -> u64 {
        // These two need a transport's help that this one doesn't give.
        (self.device.features() | VERSION_1) & !(NOTIFICATION_DATA | ACCESS_PLATFORM)
    }

    fn selected(&mut self) -> Option<&mut QueueState> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// The common configuration as it reads now (section 4.1.4.3).
    fn common(&self) -> [u8; COMMON_BYTES as usize] {
        let half = |word: u64, select: u32| match select {
            0 => word as u32,
            1 => (word >> 32) as u32,
            _ => 0,
        };
        let broken = if self.notifier.is_broken() { status::NEEDS_RESET } else { 0 };
        let mut image = [0; COMMON_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.device_feature_select.to_le_bytes());
        put(4, &half(self.offered(), self.device_feature_select).to_le_bytes());
        put(8, &self.driver_feature_select.to_le_bytes());
        put(12, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(16, &self.config_vector.to_le_bytes());
        put(18, &(self.queues.len() as u16).to_le_bytes());
        put(20, &[self.status | broken]);
        put(21, &[self.notifier.generation()]);
        put(22, &self.queue_select.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(24, &queue.size.to_le_bytes());
            put(26, &queue.vector.to_le_bytes());
            put(28, &u16::from(queue.enabled).to_le_bytes());
            put(30, &self.queue_select.to_le_bytes());
            put(32, &queue.desc.to_le_bytes());
            put(40, &queue.driver.to_le_bytes());
            put(48, &queue.device.to_le_bytes());
        }
        image
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let settled = self.status & status::FEATURES_OK != 0;
        let vectors = self.msix.count() as u16;
        let vector = if (value as u16) < vectors { value as u16 } else { NO_VECTOR };
        match (offset, data.len()) {
            (0, 4) => self.device_feature_select = value as u32,
            (8, 4) => self.driver_feature_select = value as u32,
            (12, 4) if !settled => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | value << shift;
            }
            (16, 2) => {
                self.config_vector = vector;
                let event = self.msix.event(vector).and_then(|event| event.try_clone().ok());
                self.notifier.set_vector(event);
            }
            (20, 1) => self.write_status(value as u8),
            (22, 2) => self.queue_select = value as u16,
            (24..=28 | 32..56, _) => self.write_queue(offset, data.len(), value, vector),
            (58, 2) if value == 1 => self.reset_queue(),
            _ => {}
        }
    }

    fn write_queue(&mut self, offset: u64, len: usize, value: u64, vector: u16) {
        // While the device works, only a queue that was reset may be set up (section 4.1.4.3.2).
        let running = self.running;
        let may_enable = !running || self.driver_features & RING_RESET != 0;
        let Some(queue) = self.selected() else { return };
        // A queue that works is left alone (section 4.1.4.3.2).
        if queue.enabled && offset != 26 {
            return;
        }
        match (offset, len) {
            (24, 2) if (1..=queue.size_max).contains(&(value as u16)) => queue.size = value as u16,
            (26, 2) if !running || !queue.enabled => queue.vector = vector,
            (28, 2) if value == 1 && may_enable => {
                queue.enabled = true;
                if running {
                    self.start_queue();
                }
            }
            (32..56, 4 | 8) => {
                let field = match offset & !7 {
                    32 => &mut queue.desc,
                    40 => &mut queue.driver,
                    _ => &mut queue.device,
                };
                *field = match (offset % 8, len) {
                    (0, 8) => value,
                    (0, 4) => *field & !0xffff_ffff | value,
                    (4, 4) => *field & 0xffff_ffff | value << 32,
                    _ => *field,
                };
            }
            _ => {}
        }
    }

    /// Takes the selected queue from the device (section 4.1.4.3.2, `queue_reset`). Done when this returns, so the
    /// register always reads as 0.
    fn reset_queue(&mut self) {
        let index = self.queue_select;
        let allowed = self.running && self.driver_features & RING_RESET != 0;
        if !allowed || self.selected().is_none_or(|queue| !queue.enabled) {
            return;
        }
        self.device.stop_queue(index);
        self.detach_doorbell(index);
        self.queues[usize::from(index)].reset();
    }

    /// Gives the selected queue, which was reset and set up again, to the device.
    fn start_queue(&mut self) {
        let index = self.queue_select;
        let started = self
            .queue(index)
            .map_err(|error| error.to_string())
            .and_then(|queue| self.device.start_queue(queue).map_err(|error| error.to_string()));
        match started {
            Ok(()) => self.attach_doorbell(index),
            Err(error) => self.fail(&error),
        }
    }

    /// A queue as the driver has set it up, for the device.
    fn queue(&self, index: u16) -> io::Result<Queue> {
        let queue = &self.queues[usize::from(index)];
        let call = self.msix.event(queue.vector).unwrap_or(&queue.unheard);
        Ok(Queue {
            index,
            size: queue.size,
            desc: queue.desc,
            driver: queue.driver,
            device: queue.device,
            kick: queue.kick.try_clone()?,
            call: call.try_clone()?,
        })
    }

    fn fail(&self, error: &str) {
        tracing::warn!(device = ?self.device.kind(), %error, "the guest's driver has set up what can't work");
        self.notifier.needs_reset();
    }

    fn write_status(&mut self, new: u8) {
        if new == 0 {
            return self.reset_device();
        }
        // Bits are added one by one, and none is taken back but by a reset (section 2.1.1).
        let added = new & !self.status & !status::NEEDS_RESET;
        self.status |= added & !(status::FEATURES_OK | status::DRIVER_OK);
        if added & status::FEATURES_OK != 0 {
            let features = self.driver_features;
            if features & !self.offered() == 0 && features & VERSION_1 != 0 {
                self.status |= status::FEATURES_OK;
            }
        }
        if added & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            self.status |= status::DRIVER_OK;
            self.start_device();
        }
    }

    fn start_device(&mut self) {
        let enabled = (0..).zip(&self.queues).filter(|(_, queue)| queue.enabled);
        let queues = enabled.map(|(index, _)| self.queue(index)).collect::<io::Result<Vec<_>>>();
        let started = queues.map_err(|error| error.to_string()).and_then(|queues| {
            let session = Session { features: self.driver_features, memory: self.memory.clone(), queues };
            self.device.start(session).map_err(|error| error.to_string())
        });
        match started {
            Ok(()) => {
                self.running = true;
                self.place_doorbells();
            }
            Err(error) => self.fail(&error),
        }
    }

    fn reset_device(&mut self) {
        if self.running {
            self.device.stop();
            self.running = false;
        }
        self.place_doorbells();
        self.queues.iter_mut().for_each(QueueState::reset);
        self.notifier.set_vector(None);
        self.notifier.repaired();
        (self.device_feature_select, self.driver_feature_select, self.driver_features) = (0, 0, 0);
        (self.config_vector, self.queue_select, self.status) = (NO_VECTOR, 0, 0);
    }

    /// Attaches the doorbells where they are now, if the device runs; detaches them from where they were.
    fn place_doorbells(&mut self) {
        let wanted = self.config.window().filter(|_| self.running).map(|(start, _)| start);
        if wanted == self.doorbells {
            return;
        }
        let enabled = |this: &Transport| -> Vec<u16> {
            (0..).zip(&this.queues).filter(|(_, queue)| queue.enabled).map(|(index, _)| index).collect()
        };
        enabled(self).into_iter().for_each(|index| self.detach_doorbell(index));
        self.doorbells = wanted;
        enabled(self).into_iter().for_each(|index| self.attach_doorbell(index));
    }

    /// Where a queue's doorbell is to be attached, if it is.
    fn doorbell(&self, index: u16) -> Option<u64> {
        let start = self.doorbells.filter(|_| !self.device.answers_doorbell(index))?;
        Some(start + NOTIFY + u64::from(index) * u64::from(NOTIFY_STEP))
    }

    fn attach_doorbell(&self, index: u16) {
        let Some(address) = self.doorbell(index) else { return };
        if let Err(error) = self.platform.attach_doorbell(address, &self.queues[usize::from(index)].kick) {
            // Slower, but right: the write comes here and is passed on.
            tracing::debug!(index, %error, "a doorbell rings through the monitor");
        }
    }

    fn detach_doorbell(&self, index: u16) {
        if let Some(address) = self.doorbell(index) {
            self.platform.detach_doorbell(address, &self.queues[usize::from(index)].kick);
        }
    }

    /// The window in configuration space through which a guest without memory access reaches the structures.
    fn access_window(&self) -> (u64, usize) {
        let at = self.access_at;
        (u64::from(self.config.u32(at + 8)), self.config.u32(at + 12) as usize)
    }

    fn touches_access_data(&self, offset: usize, len: usize) -> Option<(u64, usize)> {
        let data_at = self.access_at + 16;
        let (start, bytes) = self.access_window();
        let valid = matches!(bytes, 1 | 2 | 4) && start.is_multiple_of(bytes as u64) && start < WINDOW_BYTES;
        (valid && offset == data_at && len <= 4).then_some((start, bytes))
    }
}

fn identity(kind: Kind) -> Identity {
    let class = match kind {
        Kind::Net => 0x02_0000,
        Kind::Block => 0x01_0000,
        Kind::Console => 0x07_8000,
        // Unclassified, as other monitors have it.
        Kind::Rng => 0x00_ff00,
    };
    Identity {
        vendor: VENDOR,
        device: DEVICE_BASE + kind as u16,
        class,
        subsystem_vendor: VENDOR,
        subsystem: DEVICE_BASE,
    }
}

impl Function for Transport {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if let Some((start, bytes)) = self.touches_access_data(offset, data.len()) {
            let mut value = [0; 4];
            Function::read(self, start, &mut value[..bytes]);
            let count = data.len();
            data.copy_from_slice(&value[..count]);
            return;
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        if let Some((start, bytes)) = self.touches_access_data(offset, data.len())
            && data.len() >= bytes
        {
            Function::write(self, start, &data[..bytes]);
        }
        self.msix.set_control(self.config.u16(self.msix_at + 2));
        self.place_doorbells();
    }

    fn window(&self) -> Option<(u64, u64)> {
        self.config.window()
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let inside = (offset % PAGE) as usize;
        match offset & !(PAGE - 1) {
            COMMON => super::read_bytes(&self.common(), inside, data),
            DEVICE => self.device.read_config(inside, data),
            TABLE => self.msix.read_table(inside, data),
            PENDING => self.msix.read_pending(inside, data),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let inside = offset % PAGE;
        match offset & !(PAGE - 1) {
            COMMON => self.write_common(inside, data),
            DEVICE => self.device.write_config(inside as usize, data),
            NOTIFY if inside.is_multiple_of(NOTIFY_STEP.into()) => {
                let index = (inside / u64::from(NOTIFY_STEP)) as u16;
                if self.running && self.device.answers_doorbell(index) {
                    self.device.rung(index);
                } else if let Some(queue) = self.queues.get(usize::from(index)) {
                    queue.kick.signal();
                }
            }
            TABLE => self.msix.write_table(inside as usize, data),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.reset_device();
        self.msix.reset();
        self.config.reset();
    }

    fn memory_grown(&mut self) {
        self.device.memory_grown(&self.memory);
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.reset_device();
    }
}

const _: () = assert!(QUEUE_SIZE_MAX as u64 <= 1 << 15);
