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

use super::negotiation::{Area, Calls, Doorbells, Negotiation, set_half};
use super::{Device, Kind, Memory, Notifier, VENDOR};
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

/// The device's vectors, and what they are for.
struct Interrupts {
    msix: Msix,
    /// The configuration's.
    config: u16,
    queues: Vec<QueueInterrupt>,
}

struct QueueInterrupt {
    vector: u16,
    /// Signalled in place of an interrupt when the driver wants none.
    unheard: EventFd,
}

impl Interrupts {
    /// No vector is for anything any more.
    fn forget(&mut self) {
        self.config = NO_VECTOR;
        self.queues.iter_mut().for_each(|queue| queue.vector = NO_VECTOR);
    }
}

impl Calls for Interrupts {
    fn call(&self, queue: u16) -> &EventFd {
        let queue = &self.queues[usize::from(queue)];
        self.msix.event(queue.vector).unwrap_or(&queue.unheard)
    }
}

/// A virtio device on the PCI bus.
pub struct Transport {
    negotiation: Negotiation,
    config: ConfigSpace,
    /// Where in configuration space the MSI-X capability and the access window of section 4.1.4.9 begin.
    msix_at: usize,
    access_at: usize,
    interrupts: Interrupts,
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
        let negotiation = Negotiation::new(device, notifier, platform.clone(), memory)?;
        let count = usize::from(negotiation.queue_count());
        // One for the configuration, one for each queue.
        let msix = Msix::new(count + 1, requester, &*platform)?;
        let queue = || Ok(QueueInterrupt { vector: NO_VECTOR, unheard: EventFd::create()? });
        let queues = std::iter::repeat_with(queue).take(count).collect::<io::Result<_>>()?;
        let interrupts = Interrupts { msix, config: NO_VECTOR, queues };
        let mut config = ConfigSpace::new(&identity(negotiation.device.kind()));
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
        let notify_bytes = u64::from(NOTIFY_STEP) * count as u64;
        structure(&mut config, cfg::NOTIFY, NOTIFY, notify_bytes, &NOTIFY_STEP.to_le_bytes());
        let access_at = structure(&mut config, cfg::PCI, 0, 0, &[0; 4]);
        let body = interrupts.msix.capability(TABLE as u32, PENDING as u32);
        let msix_at = config.add_capability(&Msix::describe(&body));
        config.finish();
        Ok(Transport { negotiation, config, msix_at, access_at, interrupts })
    }

    /// Bytes of a device's window.
    pub const WINDOW_BYTES: u64 = WINDOW_BYTES;

    /// The common configuration as it reads now (section 4.1.4.3).
    fn common(&self) -> [u8; COMMON_BYTES as usize] {
        let driver = &self.negotiation;
        let mut image = [0; COMMON_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &driver.device_feature_select.to_le_bytes());
        put(4, &driver.device_features().to_le_bytes());
        put(8, &driver.driver_feature_select.to_le_bytes());
        put(12, &driver.driver_features().to_le_bytes());
        put(16, &self.interrupts.config.to_le_bytes());
        put(18, &driver.queue_count().to_le_bytes());
        put(20, &[driver.status()]);
        put(21, &[driver.notifier.generation()]);
        put(22, &driver.queue_select.to_le_bytes());
        if let Some(queue) = driver.selected() {
            put(24, &queue.size.to_le_bytes());
            put(26, &self.interrupts.queues[usize::from(driver.queue_select)].vector.to_le_bytes());
            put(28, &u16::from(queue.enabled).to_le_bytes());
            put(30, &driver.queue_select.to_le_bytes());
            put(32, &queue.desc.to_le_bytes());
            put(40, &queue.driver.to_le_bytes());
            put(48, &queue.device.to_le_bytes());
        }
        image
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let driver = &mut self.negotiation;
        match (offset, data.len()) {
            (0, 4) => driver.device_feature_select = value as u32,
            (8, 4) => driver.driver_feature_select = value as u32,
            (12, 4) => driver.choose_features(value as u32),
            (16, 2) => {
                let vector = self.vector(value as u16);
                self.interrupts.config = vector;
                let event = self.interrupts.msix.event(vector).and_then(|event| event.try_clone().ok());
                self.negotiation.notifier.set_vector(event);
            }
            (20, 1) if value == 0 => self.reset_device(),
            (20, 1) => driver.add_status(value as u8, &self.interrupts),
            (22, 2) => driver.queue_select = value as u16,
            (24, 2) => driver.set_queue_size(value as u32),
            (26, 2) => self.set_queue_vector(value as u16),
            (28, 2) if value == 1 => driver.enable_queue(&self.interrupts),
            (32..56, 4 | 8) => self.write_area(offset, data.len(), value),
            // Done when this returns, so the register always reads as 0.
            (58, 2) if value == 1 => self.reset_queue(),
            _ => {}
        }
    }

    /// What is kept of a vector that the driver names: only one that there is.
    fn vector(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.interrupts.msix.count() { vector } else { NO_VECTOR }
    }

    fn set_queue_vector(&mut self, vector: u16) {
        let vector = self.vector(vector);
        if self.negotiation.is_at_work() {
            return;
        }
        if let Some(queue) = self.interrupts.queues.get_mut(usize::from(self.negotiation.queue_select)) {
            queue.vector = vector;
        }
    }

    fn write_area(&mut self, offset: u64, len: usize, value: u64) {
        let area = match offset & !7 {
            32 => Area::Desc,
            40 => Area::Driver,
            _ => Area::Device,
        };
        let Some(address) = self.negotiation.area(area) else { return };
        match (offset % 8, len) {
            (0, 8) => *address = value,
            (0, 4) => set_half(address, 0, value as u32),
            (4, 4) => set_half(address, 1, value as u32),
            _ => {}
        }
    }

    fn reset_queue(&mut self) {
        if self.negotiation.reset_queue() {
            self.interrupts.queues[usize::from(self.negotiation.queue_select)].vector = NO_VECTOR;
        }
    }

    fn reset_device(&mut self) {
        self.negotiation.reset();
        self.interrupts.forget();
    }

    fn place_doorbells(&mut self) {
        let place = self
            .config
            .window()
            .map(|(start, _)| Doorbells::Apart { first: start + NOTIFY, step: NOTIFY_STEP.into() });
        self.negotiation.move_doorbells(place);
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
        self.interrupts.msix.set_control(self.config.u16(self.msix_at + 2));
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
            DEVICE => self.negotiation.device.read_config(inside, data),
            TABLE => self.interrupts.msix.read_table(inside, data),
            PENDING => self.interrupts.msix.read_pending(inside, data),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let inside = offset % PAGE;
        match offset & !(PAGE - 1) {
            COMMON => self.write_common(inside, data),
            DEVICE => self.negotiation.device.write_config(inside as usize, data),
            NOTIFY if inside.is_multiple_of(NOTIFY_STEP.into()) => {
                self.negotiation.ring((inside / u64::from(NOTIFY_STEP)) as u16);
            }
            TABLE => self.interrupts.msix.write_table(inside as usize, data),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.reset_device();
        self.interrupts.msix.reset();
        self.config.reset();
        self.place_doorbells();
    }

    fn memory_grown(&mut self) {
        self.negotiation.memory_grown();
    }
}

const _: () = assert!(QUEUE_SIZE_MAX as u64 <= 1 << 15);
