//! Virtio over registers in memory (virtio 1.2, section 4.2): a block of 4 KiB and an interrupt line for each device, no
//! bus. Version 2 of the interface only; the older one is not there.
//!
//! A line is raised by its event alone, without an exit, and who signals that may be another process. So nobody keeps the
//! interrupt status: used buffers are always said to be possible, and drivers look into their queues; a change of the
//! configuration is found by comparing with what the driver acknowledged last.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::negotiation::{Area, Calls, Doorbells, Negotiation, set_half};
use super::{Device, Memory, Notifier, VENDOR};
use crate::EventFd;
use crate::platform::Platform;

/// The registers (section 4.2.2, table 4.1). Each is a word of 32 bits.
mod register {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const QUEUE_RESET: u64 = 0x0c0;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    /// The device's configuration, to the end of the block.
    pub const CONFIG: u64 = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Bits of the interrupt status (section 4.2.2).
const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// The interrupt line, which all queues share.
struct Line(EventFd);

impl Calls for Line {
    fn call(&self, _queue: u16) -> &EventFd {
        &self.0
    }
}

/// What the driver is interrupted for besides its queues: the configuration's generation, and whether a reset is needed.
type Change = (u8, bool);

/// A virtio device behind a block of registers.
pub struct Transport {
    negotiation: Negotiation,
    line: Line,
    /// As the driver has seen it in the interrupt status.
    seen: Change,
    acknowledged: Change,
}

impl Transport {
    /// Bytes of the block.
    pub const BYTES: u64 = 0x1000;

    /// Puts `device` behind a block at `address`; signalling `line` is to interrupt the guest.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(
        device: Box<dyn Device>,
        notifier: Notifier,
        platform: Arc<dyn Platform>,
        memory: Memory,
        line: EventFd,
        address: u64,
    ) -> io::Result<Transport> {
        let mut negotiation = Negotiation::new(device, notifier, platform, memory)?;
        negotiation.move_doorbells(Some(Doorbells::Shared(address + register::QUEUE_NOTIFY)));
        let mut transport =
            Transport { negotiation, line: Line(line), seen: (0, false), acknowledged: (0, false) };
        transport.reset();
        Ok(transport)
    }

    /// Reads from the block. Where no register is, and by a width that registers don't have, everything is 0.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(inside) = offset.checked_sub(register::CONFIG) {
            self.negotiation.device.read_config(inside as usize, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.register(offset).to_le_bytes();
        }
    }

    /// Writes to the block; in vain where and how there is nothing to write to.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(inside) = offset.checked_sub(register::CONFIG) {
            self.negotiation.device.write_config(inside as usize, data);
        } else if let Ok(word) = data.try_into() {
            self.set_register(offset, u32::from_le_bytes(word));
        }
    }

    fn register(&mut self, register: u64) -> u32 {
        let driver = &self.negotiation;
        match register {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => driver.device.kind() as u32,
            register::VENDOR_ID => VENDOR.into(),
            register::DEVICE_FEATURES => driver.device_features(),
            register::QUEUE_NUM_MAX => driver.selected().map_or(0, |queue| queue.size_max.into()),
            register::QUEUE_READY => driver.selected().is_some_and(|queue| queue.enabled).into(),
            register::INTERRUPT_STATUS => self.interrupt_status(),
            register::STATUS => driver.status().into(),
            // Shared memory that there isn't begins and ends nowhere.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH if register.is_multiple_of(4) => u32::MAX,
            register::CONFIG_GENERATION => driver.notifier.generation().into(),
            _ => 0,
        }
    }

    fn set_register(&mut self, register: u64, value: u32) {
        let driver = &mut self.negotiation;
        match register {
            register::DEVICE_FEATURES_SEL => driver.device_feature_select = value,
            register::DRIVER_FEATURES => driver.choose_features(value),
            register::DRIVER_FEATURES_SEL => driver.driver_feature_select = value,
            // No device has so many queues as can't be told apart then.
            register::QUEUE_SEL => driver.queue_select = value.try_into().unwrap_or(u16::MAX),
            register::QUEUE_NUM => driver.set_queue_size(value),
            register::QUEUE_READY if value == 1 => driver.enable_queue(&self.line),
            register::QUEUE_READY if value == 0 => driver.disable_queue(),
            register::QUEUE_NOTIFY => {
                if let Ok(queue) = value.try_into() {
                    driver.ring(queue);
                }
            }
            register::INTERRUPT_ACK if value & CONFIGURATION_CHANGE != 0 => self.acknowledged = self.seen,
            register::STATUS if value == 0 => self.reset(),
            register::STATUS => self.add_status(value as u8),
            register::QUEUE_DESC_LOW => self.set_area(Area::Desc, 0, value),
            register::QUEUE_DESC_HIGH => self.set_area(Area::Desc, 1, value),
            register::QUEUE_DRIVER_LOW => self.set_area(Area::Driver, 0, value),
            register::QUEUE_DRIVER_HIGH => self.set_area(Area::Driver, 1, value),
            register::QUEUE_DEVICE_LOW => self.set_area(Area::Device, 0, value),
            register::QUEUE_DEVICE_HIGH => self.set_area(Area::Device, 1, value),
            register::QUEUE_RESET if value == 1 => {
                // Done when this returns, so the register always reads as 0.
                driver.reset_queue();
            }
            _ => {}
        }
    }

    fn set_area(&mut self, area: Area, half: u32, value: u32) {
        if let Some(address) = self.negotiation.area(area) {
            set_half(address, half, value);
        }
    }

    fn add_status(&mut self, new: u8) {
        let was_ok = self.negotiation.is_driver_ok();
        self.negotiation.add_status(new, &self.line);
        if was_ok || !self.negotiation.is_driver_ok() {
            return;
        }
        // No interrupt comes before this (section 3.1.1); what has changed meanwhile is made up for.
        self.negotiation.notifier.set_vector(self.line.0.try_clone().ok());
        if self.change() != self.acknowledged {
            self.line.0.signal();
        }
    }

    fn change(&self) -> Change {
        let notifier = &self.negotiation.notifier;
        (notifier.generation(), notifier.is_broken())
    }

    fn interrupt_status(&mut self) -> u32 {
        if !self.negotiation.is_driver_ok() {
            return 0;
        }
        // Acknowledged is what the driver has seen: a change since then is to be seen by the next look.
        self.seen = self.change();
        USED_BUFFER | if self.seen == self.acknowledged { 0 } else { CONFIGURATION_CHANGE }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.negotiation.reset();
        self.seen = self.change();
        self.acknowledged = self.seen;
    }

    /// Tells the device that the guest's memory has grown.
    pub fn memory_grown(&mut self) {
        self.negotiation.memory_grown();
    }
}

/// The devices of a machine that has them behind such blocks, one after the other.
pub struct Bank {
    step: u64,
    devices: Vec<Mutex<Transport>>,
}

impl Bank {
    /// The blocks of these devices, each `step` bytes behind the one before.
    pub fn new(step: u64, devices: Vec<Transport>) -> Bank {
        assert!(step >= Transport::BYTES, "blocks that overlap");
        Bank { step, devices: devices.into_iter().map(Mutex::new).collect() }
    }

    /// Reads, `offset` bytes behind the first block's start. Where no device answers, all bits are set.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.answering(offset, data.len(), |device, inside| device.read(inside, data));
    }

    /// Writes there.
    pub fn write(&self, offset: u64, data: &[u8]) {
        self.answering(offset, data.len(), |device, inside| device.write(inside, data));
    }

    fn answering(&self, offset: u64, len: usize, access: impl FnOnce(&mut Transport, u64)) {
        let (index, inside) = (offset / self.step, offset % self.step);
        if inside + len as u64 <= Transport::BYTES
            && let Some(device) = self.devices.get(index as usize)
        {
            access(&mut device.lock().unwrap_or_else(PoisonError::into_inner), inside);
        }
    }

    /// Tells every device that the guest's memory has grown.
    pub fn memory_grown(&self) {
        for device in &self.devices {
            device.lock().unwrap_or_else(PoisonError::into_inner).memory_grown();
        }
    }
}
