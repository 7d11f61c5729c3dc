//! A virtio network device on PCI, started as virtio 1.2, sections 3.1.1, 4.1.4 and 5.1.5 say.

use crate::arch;
use crate::console::print;
use crate::memory::Memory;
use crate::options::Options;
use crate::pci::{self, Function};
use crate::ring::{Areas, BrokenRing, Ring, area_bytes};
use crate::virtio_defs::feature::{RING_PACKED, VERSION_1};
use crate::virtio_defs::net::feature::MAC;

/// PCI device number: 0x1040 and the device type.
const DEVICE_NET: u16 = 0x1041;
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
}

/// Device status (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
}

/// Most ports a guest uses.
const PORTS_MAX: usize = 4;

/// The ports found.
pub struct Ports([Option<Port>; PORTS_MAX], usize);

impl Ports {
    /// Each of them.
    pub fn as_slice(&self) -> &[Option<Port>] {
        &self.0[..self.1]
    }

    /// Each of them, to be used.
    pub fn as_mut_slice(&mut self) -> &mut [Option<Port>] {
        &mut self.0[..self.1]
    }
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
    /// Shows the device what was added, and rings if it wants that.
    pub fn publish(&mut self) {
        if self.ring.publish() {
            self.kicks += 1;
            // SAFETY: the device's notification register for this queue.
            unsafe { arch::write(self.doorbell, self.number) };
        }
    }

    /// Takes a buffer back.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        match self.ring.take() {
            Ok(taken) => taken,
            Err(BrokenRing) => panic!("the device of queue {} broke its ring", self.number),
        }
    }
}

/// A network device that runs.
pub struct Port {
    /// Its address.
    pub mac: [u8; 6],
    /// Where it receives.
    pub rx: Queue,
    /// Where it sends.
    pub tx: Queue,
}

/// Finds and starts the network devices of the bus.
pub fn find_all(options: &Options, memory: &mut Memory) -> Ports {
    let mut ports = Ports([const { None }; PORTS_MAX], 0);
    for function in pci::virtio(options.ecam, DEVICE_NET).take(PORTS_MAX) {
        match Port::start(function, options, memory) {
            Ok(port) => {
                ports.0[ports.1] = Some(port);
                ports.1 += 1;
            }
            Err(why) => print!("micro-guest: a network device is not usable: {why}\n"),
        }
    }
    ports
}

#[derive(Clone, Copy)]
struct Registers(u64);

impl Registers {
    fn read<T: Copy>(self, offset: u64) -> T {
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

impl Port {
    fn start(function: Function, options: &Options, memory: &mut Memory) -> Result<Port, &'static str> {
        let (registers, _) = function.structure(CFG_COMMON).ok_or("no common configuration")?;
        let (notify, multiplier) = function.structure(CFG_NOTIFY).ok_or("no notification area")?;
        let (config, _) = function.structure(CFG_DEVICE).ok_or("no device configuration")?;
        function.enable();
        let registers = Registers(registers);
        // Section 3.1.1, steps 1 to 3.
        registers.write(common::STATUS, 0u8);
        while registers.read::<u8>(common::STATUS) != 0 {
            arch::relax();
        }
        let mut so_far = status::ACKNOWLEDGE | status::DRIVER;
        registers.write(common::STATUS, so_far);
        // Steps 4 to 6.
        let mut wanted = VERSION_1 | MAC;
        if options.packed {
            wanted |= RING_PACKED;
        }
        let features = registers.features() & wanted;
        if features & VERSION_1 == 0 {
            return Err("it is of the time before version 1");
        }
        registers.set_features(features);
        so_far |= status::FEATURES_OK;
        registers.write(common::STATUS, so_far);
        if registers.read::<u8>(common::STATUS) & status::FEATURES_OK == 0 {
            return Err("it refuses the features");
        }
        // Step 7.
        let is_packed = features & RING_PACKED != 0;
        let mut queue = |number: u16| -> Result<Queue, &'static str> {
            registers.write(common::QUEUE_SELECT, number);
            let most = registers.read::<u16>(common::QUEUE_SIZE).min(options.ring);
            if most == 0 {
                return Err("a queue is missing");
            }
            let size = 1 << most.ilog2();
            registers.write(common::QUEUE_SIZE, size);
            let areas = area_bytes(size, is_packed).map(|bytes| memory.take(bytes).as_mut_ptr());
            let areas = Areas { desc: areas[0], driver: areas[1], device: areas[2] };
            let (free, tokens) = (memory.table(size.into()), memory.table(size.into()));
            registers.write_u64(common::QUEUE_DESC, areas.desc as u64);
            registers.write_u64(common::QUEUE_DRIVER, areas.driver as u64);
            registers.write_u64(common::QUEUE_DEVICE, areas.device as u64);
            let offset = u64::from(registers.read::<u16>(common::QUEUE_NOTIFY_OFF));
            let doorbell = (notify + offset * u64::from(multiplier)) as *mut u16;
            registers.write(common::QUEUE_ENABLE, 1u16);
            // SAFETY: the areas were taken for this ring just now.
            let ring = unsafe { Ring::new(size, is_packed, areas, free, tokens) };
            Ok(Queue { ring, size, number, doorbell, kicks: 0 })
        };
        let (rx, tx) = (queue(0)?, queue(1)?);
        let mut mac = [0; 6];
        for (offset, byte) in (0..).zip(&mut mac) {
            *byte = Registers(config).read::<u8>(offset);
        }
        // Step 8.
        registers.write(common::STATUS, so_far | status::DRIVER_OK);
        let [a, b, c, d, e, f] = mac;
        let layout = if is_packed { "packed" } else { "split" };
        print!(
            "micro-guest: port {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, {layout} rings of {} and {}\n",
            rx.size, tx.size
        );
        Ok(Port { mac, rx, tx })
    }
}
