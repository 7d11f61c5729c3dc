//! A virtio device on PCI, started as virtio 1.2, sections 3.1.1 and 4.1.4 say.

use crate::arch;
use crate::memory::Memory;
use crate::options::Options;
use crate::pci::Function;
use crate::ring::{Areas, BrokenRing, Ring, area_bytes};
use crate::virtio_defs::feature::{RING_PACKED, RING_RESET, VERSION_1};

/// Types of structures (section 4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_DEVICE: u8 = 4;

/// Offsets in the common configuration (section 4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const STATUS: u64 = 20;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY_OFF: u64 = 30;
    pub const QUEUE_DESC: u64 = 32;
    pub const QUEUE_DRIVER: u64 = 40;
    pub const QUEUE_DEVICE: u64 = 48;
    pub const QUEUE_RESET: u64 = 58;
}

/// Device status (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
}

/// A queue and its doorbell.
pub struct Queue {
    /// The ring.
    pub ring: Ring,
    /// Entries.
    pub size: u16,
    number: u16,
    doorbell: *mut u16,
    /// Times it was rung.
    pub kicks: u64,
}

impl Queue {
    /// Which of the device's queues it is.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Shows the device what was added, and rings if it wants that.
    pub fn publish(&mut self) {
        if self.ring.publish() {
            self.kicks += 1;
            self.ring_doorbell();
        }
    }

    /// Rings, whether there is something new or not.
    pub fn ring_doorbell(&self) {
        // SAFETY: the device's notification register for this queue.
        unsafe { arch::write(self.doorbell, self.number) };
    }

    /// Takes a buffer back.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        match self.ring.take() {
            Ok(taken) => taken,
            Err(BrokenRing) => panic!("the device of queue {} broke its ring", self.number),
        }
    }
}

/// A block of registers.
#[derive(Clone, Copy)]
pub struct Registers(u64);

impl Registers {
    /// The register at this offset.
    pub fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: the device's own description says that its registers are here.
        unsafe { arch::read((self.0 + offset) as *const T) }
    }

    fn write<T: Copy>(self, offset: u64, value: T) {
        // SAFETY: as in `read`.
        unsafe { arch::write((self.0 + offset) as *mut T, value) };
    }

    /// 64-bit registers are written in halves (section 4.1.3.1).
    fn write_u64(self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }

    fn features(self) -> u64 {
        self.write(common::DEVICE_FEATURE_SELECT, 0u32);
        let low = u64::from(self.read::<u32>(common::DEVICE_FEATURE));
        self.write(common::DEVICE_FEATURE_SELECT, 1u32);
        u64::from(self.read::<u32>(common::DEVICE_FEATURE)) << 32 | low
    }

    fn set_features(self, features: u64) {
        self.write(common::DRIVER_FEATURE_SELECT, 0u32);
        self.write(common::DRIVER_FEATURE, features as u32);
        self.write(common::DRIVER_FEATURE_SELECT, 1u32);
        self.write(common::DRIVER_FEATURE, (features >> 32) as u32);
    }
}

/// A device whose driver this is.
pub struct Device {
    registers: Registers,
    /// The notification area, and how far its registers are apart.
    notify: (u64, u32),
    /// The device's own configuration.
    pub config: Registers,
    /// What was agreed on.
    pub features: u64,
    /// Most entries of a ring.
    ring: u16,
}

impl Device {
    /// Begins with a device: steps 1 to 6 of section 3.1.1. Of `wanted` and what the command line says of rings, it gets
    /// what it has.
    pub fn negotiate(function: Function, mut wanted: u64, options: &Options) -> Result<Device, &'static str> {
        let (registers, _) = function.structure(CFG_COMMON).ok_or("no common configuration")?;
        let notify = function.structure(CFG_NOTIFY).ok_or("no notification area")?;
        let (config, _) = function.structure(CFG_DEVICE).ok_or("no device configuration")?;
        function.enable();
        let registers = Registers(registers);
        registers.write(common::STATUS, 0u8);
        while registers.read::<u8>(common::STATUS) != 0 {
            arch::relax();
        }
        registers.write(common::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        wanted |= VERSION_1;
        if options.packed {
            wanted |= RING_PACKED;
        }
        if options.requeue {
            wanted |= RING_RESET;
        }
        let features = registers.features() & wanted;
        if features & VERSION_1 == 0 {
            return Err("it is of the time before version 1");
        }
        registers.set_features(features);
        registers.write(common::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        if registers.read::<u8>(common::STATUS) & status::FEATURES_OK == 0 {
            return Err("it refuses the features");
        }
        Ok(Device { registers, notify, config: Registers(config), features, ring: options.ring })
    }

    /// Whether its rings are packed.
    pub fn is_packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    /// Sets up a queue.
    pub fn queue(&self, number: u16, memory: &mut Memory) -> Result<Queue, &'static str> {
        let Device { registers, notify: (notify, multiplier), .. } = *self;
        registers.write(common::QUEUE_SELECT, number);
        let most = registers.read::<u16>(common::QUEUE_SIZE).min(self.ring);
        if most == 0 {
            return Err("a queue is missing");
        }
        let size = 1 << most.ilog2();
        registers.write(common::QUEUE_SIZE, size);
        let areas = area_bytes(size, self.is_packed()).map(|bytes| memory.take(bytes).as_mut_ptr());
        let areas = Areas { desc: areas[0], driver: areas[1], device: areas[2] };
        let (free, tokens) = (memory.table(size.into()), memory.table(size.into()));
        registers.write_u64(common::QUEUE_DESC, areas.desc as u64);
        registers.write_u64(common::QUEUE_DRIVER, areas.driver as u64);
        registers.write_u64(common::QUEUE_DEVICE, areas.device as u64);
        let offset = u64::from(registers.read::<u16>(common::QUEUE_NOTIFY_OFF));
        let doorbell = (notify + offset * u64::from(multiplier)) as *mut u16;
        // SAFETY: the areas were taken for this ring just now. It is written before the device may look at it.
        let ring = unsafe { Ring::new(size, self.is_packed(), areas, free, tokens) };
        registers.write(common::QUEUE_ENABLE, 1u16);
        Ok(Queue { ring, size, number, doorbell, kicks: 0 })
    }

    /// Lets it run: the last step.
    pub fn run(&self) {
        let so_far = self.registers.read::<u8>(common::STATUS);
        self.registers.write(common::STATUS, so_far | status::DRIVER_OK);
    }

    /// Takes a queue from the device, which runs (section 4.1.4.3.2).
    pub fn take_back(&self, queue: &Queue) {
        self.registers.write(common::QUEUE_SELECT, queue.number);
        self.registers.write(common::QUEUE_RESET, 1u16);
        while self.registers.read::<u16>(common::QUEUE_RESET) != 0 {
            arch::relax();
        }
    }
}
