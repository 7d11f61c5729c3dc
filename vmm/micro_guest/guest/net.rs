//! A virtio network device on PCI, started as virtio 1.2, sections 3.1.1, 4.1.4 and 5.1.5 say.

use crate::arch;
use crate::console::print;
use crate::memory::Memory;
use crate::options::Options;
use crate::pci::{self, Function};
use crate::ring::{Areas, BrokenRing, Ring, area_bytes};
use crate::virtio_defs::desc_flag::{NEXT, WRITE};
use crate::virtio_defs::feature::{INDIRECT_DESC, RING_PACKED, RING_RESET, VERSION_1};
use crate::virtio_defs::net::feature::{CTRL_VQ, MAC, MQ};
use crate::virtio_defs::{packed, split};

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
    pub const QUEUE_RESET: u64 = 58;
}

/// Device status (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
}

/// Where the device configuration has the number of queue pairs (section 5.1.4).
const CONFIG_PAIRS: u64 = 8;
/// Class and command of "use so many queue pairs" (section 5.1.6.5.6.1).
const SET_PAIRS: [u8; 2] = [4, 0];

/// Most ports a guest uses.
pub const PORTS_MAX: usize = 8;

/// The ports found: each queue pair of a device is one.
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

    fn push(&mut self, port: Port) {
        if let Some(place) = self.0.get_mut(self.1) {
            *place = Some(port);
            self.1 += 1;
        }
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

/// A queue pair of a network device that runs.
pub struct Port {
    /// Which device, and which of its pairs.
    pub place: (usize, u16),
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
    let devices = pci::virtio(options.ecam, DEVICE_NET).take(PORTS_MAX);
    for (number, function) in devices.enumerate() {
        let before = ports.1;
        if let Err(why) = start(number, function, options, memory, &mut ports) {
            ports.1 = before;
            print!("micro-guest: a network device is not usable: {why}\n");
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

/// Starts a device and appends its queue pairs to `ports`.
fn start(
    number: usize,
    function: Function,
    options: &Options,
    memory: &mut Memory,
    ports: &mut Ports,
) -> Result<(), &'static str> {
    let (registers, _) = function.structure(CFG_COMMON).ok_or("no common configuration")?;
    let notify = function.structure(CFG_NOTIFY).ok_or("no notification area")?;
    let (config, _) = function.structure(CFG_DEVICE).ok_or("no device configuration")?;
    let config = Registers(config);
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
    if options.queues > 1 {
        wanted |= CTRL_VQ | MQ | INDIRECT_DESC;
    }
    if options.requeue {
        wanted |= RING_RESET;
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
    let several = CTRL_VQ | MQ | INDIRECT_DESC;
    let has = if features & several == several { config.read::<u16>(CONFIG_PAIRS) } else { 1 };
    let pairs = has.min(options.queues).min((PORTS_MAX - ports.1) as u16);
    let is_packed = features & RING_PACKED != 0;
    let mut mac = [0; 6];
    for (offset, byte) in (0..).zip(&mut mac) {
        *byte = config.read::<u8>(offset);
    }
    let mut setup = Setup { registers, notify, options, is_packed, memory };
    let first = ports.1;
    for pair in 0..pairs {
        let (rx, tx) = (setup.queue(2 * pair)?, setup.queue(2 * pair + 1)?);
        ports.push(Port { place: (number, pair), mac, rx, tx });
    }
    let control = if has > 1 { Some(setup.queue(2 * has)?) } else { None };
    // Step 8.
    registers.write(common::STATUS, so_far | status::DRIVER_OK);
    if features & RING_RESET != 0 {
        for port in ports.as_mut_slice()[first..].iter_mut().flatten() {
            for queue in [&mut port.rx, &mut port.tx] {
                setup.take_back(queue.number);
                *queue = setup.queue(queue.number)?;
            }
        }
    }
    if let Some(mut control) = control {
        set_pairs(&mut control, pairs, is_packed, setup.memory)?;
    }
    let [a, b, c, d, e, f] = mac;
    let layout = if is_packed { "packed" } else { "split" };
    for Port { place: (_, pair), rx, tx, .. } in ports.as_slice()[first..].iter().flatten() {
        print!(
            "micro-guest: port {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, queue pair {pair}, {layout} rings of \
             {} and {}\n",
            rx.size, tx.size
        );
    }
    Ok(())
}

/// What setting up a queue takes.
struct Setup<'a> {
    registers: Registers,
    /// The notification area, and how far its registers are apart.
    notify: (u64, u32),
    options: &'a Options,
    is_packed: bool,
    memory: &'a mut Memory,
}

impl Setup<'_> {
    fn queue(&mut self, number: u16) -> Result<Queue, &'static str> {
        let Setup { registers, notify: (notify, multiplier), options, is_packed, memory } = self;
        registers.write(common::QUEUE_SELECT, number);
        let most = registers.read::<u16>(common::QUEUE_SIZE).min(options.ring);
        if most == 0 {
            return Err("a queue is missing");
        }
        let size = 1 << most.ilog2();
        registers.write(common::QUEUE_SIZE, size);
        let areas = area_bytes(size, *is_packed).map(|bytes| memory.take(bytes).as_mut_ptr());
        let areas = Areas { desc: areas[0], driver: areas[1], device: areas[2] };
        let (free, tokens) = (memory.table(size.into()), memory.table(size.into()));
        registers.write_u64(common::QUEUE_DESC, areas.desc as u64);
        registers.write_u64(common::QUEUE_DRIVER, areas.driver as u64);
        registers.write_u64(common::QUEUE_DEVICE, areas.device as u64);
        let offset = u64::from(registers.read::<u16>(common::QUEUE_NOTIFY_OFF));
        let doorbell = (*notify + offset * u64::from(*multiplier)) as *mut u16;
        // SAFETY: the areas were taken for this ring just now. It is written before the device may look at it.
        let ring = unsafe { Ring::new(size, *is_packed, areas, free, tokens) };
        registers.write(common::QUEUE_ENABLE, 1u16);
        Ok(Queue { ring, size, number, doorbell, kicks: 0 })
    }

    /// Takes a queue from the device, which runs (section 4.1.4.3.2).
    fn take_back(&self, number: u16) {
        self.registers.write(common::QUEUE_SELECT, number);
        self.registers.write(common::QUEUE_RESET, 1u16);
        while self.registers.read::<u16>(common::QUEUE_RESET) != 0 {
            arch::relax();
        }
    }
}

/// Tells the device how many queue pairs are used, and waits for its answer.
fn set_pairs(
    control: &mut Queue,
    pairs: u16,
    is_packed: bool,
    memory: &mut Memory,
) -> Result<(), &'static str> {
    let [low, high] = pairs.to_le_bytes();
    let command = memory.take(4);
    command.copy_from_slice(&[SET_PAIRS[0], SET_PAIRS[1], low, high]);
    let answer = memory.take(1);
    answer[0] = u8::MAX;
    let answer = answer.as_mut_ptr();
    let buffers = [(command.as_ptr() as u64, 4, 0), (answer as u64, 1, WRITE)];
    let table = memory.take(32).as_mut_ptr();
    for (index, (addr, len, flags)) in (0u16..).zip(buffers) {
        // SAFETY: the table has room for two descriptors of either form, and is aligned to a cache line.
        unsafe {
            if is_packed {
                let entry = packed::Desc { addr, len, id: 0, flags };
                table.cast::<packed::Desc>().add(index.into()).write_volatile(entry);
            } else {
                let flags = if index == 0 { flags | NEXT } else { flags };
                let entry = split::Desc { addr, len, flags, next: index + 1 };
                table.cast::<split::Desc>().add(index.into()).write_volatile(entry);
            }
        }
    }
    control.ring.add_indirect(table as u64, 32, 0);
    control.publish();
    while control.take().is_none() {
        arch::relax();
    }
    // SAFETY: a byte of ours, which the device has given back.
    match unsafe { answer.read_volatile() } {
        0 => Ok(()),
        _ => Err("it refuses the number of queue pairs"),
    }
}
