//! Virtio network devices (virtio 1.2, section 5.1).

use crate::arch;
use crate::console::print;
use crate::memory::Memory;
use crate::options::Options;
use crate::pci::{self, Function};
use crate::ring;
use crate::virtio::{Device, Queue};
use crate::virtio_defs::desc_flag::WRITE;
use crate::virtio_defs::feature::{INDIRECT_DESC, RING_RESET};
use crate::virtio_defs::net::feature::{CTRL_VQ, MAC, MQ};

/// PCI device number: 0x1040 and the device type.
const DEVICE_NET: u16 = 0x1041;
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

/// Starts a device and appends its queue pairs to `ports`.
fn start(
    number: usize,
    function: Function,
    options: &Options,
    memory: &mut Memory,
    ports: &mut Ports,
) -> Result<(), &'static str> {
    let mut wanted = MAC;
    if options.queues > 1 {
        wanted |= CTRL_VQ | MQ | INDIRECT_DESC;
    }
    let device = Device::negotiate(function, wanted, options)?;
    let several = CTRL_VQ | MQ | INDIRECT_DESC;
    let has =
        if device.features & several == several { device.config.read::<u16>(CONFIG_PAIRS) } else { 1 };
    let pairs = has.min(options.queues).min((PORTS_MAX - ports.1) as u16);
    let mut mac = [0; 6];
    for (offset, byte) in (0..).zip(&mut mac) {
        *byte = device.config.read::<u8>(offset);
    }
    let first = ports.1;
    for pair in 0..pairs {
        let (rx, tx) = (device.queue(2 * pair, memory)?, device.queue(2 * pair + 1, memory)?);
        ports.push(Port { place: (number, pair), mac, rx, tx });
    }
    let control = if has > 1 { Some(device.queue(2 * has, memory)?) } else { None };
    device.run();
    if device.features & RING_RESET != 0 {
        for port in ports.as_mut_slice()[first..].iter_mut().flatten() {
            for queue in [&mut port.rx, &mut port.tx] {
                device.take_back(queue);
                *queue = device.queue(queue.number(), memory)?;
            }
        }
    }
    if let Some(mut control) = control {
        set_pairs(&mut control, pairs, device.is_packed(), memory)?;
    }
    let [a, b, c, d, e, f] = mac;
    let layout = if device.is_packed() { "packed" } else { "split" };
    for Port { place: (_, pair), rx, tx, .. } in ports.as_slice()[first..].iter().flatten() {
        print!(
            "micro-guest: port {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, queue pair {pair}, {layout} rings of \
             {} and {}\n",
            rx.size, tx.size
        );
    }
    Ok(())
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
    control.ring.add_indirect(ring::table(&buffers, is_packed, memory), 32, 0);
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
