//! The PCI bus: one bus, up to 31 devices of one function each beside the host bridge.

mod config;
mod msix;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use config::{Capability, ConfigSpace, Identity};
pub use msix::{Msix, VECTORS_MAX};

/// A device on the bus.
pub trait Function: Send {
    /// Reads configuration space; all bytes are inside its first 4 KiB.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// Writes configuration space.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// The addresses it answers to at present: start and length.
    fn window(&self) -> Option<(u64, u64)>;

    /// Reads from its addresses.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes to its addresses.
    fn write(&mut self, offset: u64, data: &[u8]);

    /// Back to the state after power-on.
    fn reset(&mut self);

    /// The guest's memory has grown. Returns when whoever works in it knows.
    fn memory_grown(&mut self) {}
}

/// Bytes of a function's configuration space.
const CONFIG_BYTES: usize = 4096;
/// Devices on the bus.
const DEVICES: usize = 32;

/// A device, shared by the processors that use it.
pub type Shared = Arc<Mutex<dyn Function>>;

/// The bus.
pub struct Bus {
    bridge: Mutex<ConfigSpace>,
    devices: Vec<Shared>,
    /// What was written to the address port.
    address: Mutex<u32>,
}

/// The bus has no place for one more device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a machine has {} PCI devices at most", DEVICES - 1)]
pub struct Full;

impl Default for Bus {
    fn default() -> Bus {
        // A host bridge; the identity is the one other monitors use for theirs.
        let identity =
            Identity { vendor: 0x8086, device: 0x0d57, class: 0x06_0000, subsystem_vendor: 0, subsystem: 0 };
        Bus { bridge: Mutex::new(ConfigSpace::new(&identity)), devices: Vec::new(), address: Mutex::new(0) }
    }
}

impl Bus {
    /// Puts a device on the bus and returns its number there: bus, device, function.
    ///
    /// # Errors
    /// The bus is full.
    pub fn add(&mut self, device: Shared) -> Result<u32, Full> {
        if self.devices.len() == DEVICES - 1 {
            return Err(Full);
        }
        self.devices.push(device);
        Ok((self.devices.len() as u32) << 3)
    }

    /// The number that [`add`](Self::add) will return next.
    pub fn next_number(&self) -> u32 {
        (self.devices.len() as u32 + 1) << 3
    }

    /// Back to the state after power-on, with all devices.
    pub fn reset(&self) {
        *lock(&self.address) = 0;
        self.devices.iter().for_each(|device| lock(device).reset());
    }

    /// Tells every device that the guest's memory has grown.
    pub fn memory_grown(&self) {
        self.devices.iter().for_each(|device| lock(device).memory_grown());
    }

    /// Reads from an address of the PCI window. Where no device answers, all bits are set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.answering(address, data.len(), |device, offset| device.read(offset, data));
    }

    /// Writes to an address of the PCI window.
    pub fn write(&self, address: u64, data: &[u8]) {
        self.answering(address, data.len(), |device, offset| device.write(offset, data));
    }

    fn answering(&self, address: u64, len: usize, access: impl FnOnce(&mut dyn Function, u64)) {
        for device in &self.devices {
            let mut device = lock(device);
            if let Some((start, bytes)) = device.window()
                && let Some(offset) = address.checked_sub(start)
                && offset < bytes
                && bytes - offset >= len as u64
            {
                return access(&mut *device, offset);
            }
        }
    }

    /// Reads from the memory-mapped configuration space, `offset` bytes behind its start (PCI Express 5.0, 7.2.2).
    pub fn read_ecam(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.config(offset, data.len(), |access| match access {
            Access::Bridge(config, at) => config.read(at, data),
            Access::Device(device, at) => device.read_config(at, data),
        });
    }

    /// Writes to the memory-mapped configuration space.
    pub fn write_ecam(&self, offset: u64, data: &[u8]) {
        self.config(offset, data.len(), |access| match access {
            Access::Bridge(config, at) => config.write(at, data),
            Access::Device(device, at) => device.write_config(at, data),
        });
    }

    fn config(&self, offset: u64, len: usize, access: impl FnOnce(Access<'_>)) {
        let (bdf, at) = (offset >> 12, (offset % CONFIG_BYTES as u64) as usize);
        if at + len > CONFIG_BYTES {
            return;
        }
        match bdf {
            0 => access(Access::Bridge(&mut lock(&self.bridge), at)),
            // Device numbers are above the three bits of the function, and there is one bus.
            _ if bdf & 7 == 0 && bdf < 256 => {
                if let Some(device) = self.devices.get((bdf as usize >> 3) - 1) {
                    access(Access::Device(&mut *lock(device), at));
                }
            }
            _ => {}
        }
    }

    /// Reads by the pair of ports, from byte `offset` of them (PCI 3.0, section 3.2.2.3.2).
    pub fn read_port(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let address = *lock(&self.address);
        match offset {
            0 if data.len() == 4 => data.copy_from_slice(&address.to_le_bytes()),
            4..8 if address >> 31 == 1 => self.read_ecam(ecam_offset(address, offset), data),
            _ => {}
        }
    }

    /// Writes by the pair of ports.
    pub fn write_port(&self, offset: u16, data: &[u8]) {
        match (offset, <[u8; 4]>::try_from(data)) {
            (0, Ok(word)) => *lock(&self.address) = u32::from_le_bytes(word),
            (4..8, _) => {
                let address = *lock(&self.address);
                if address >> 31 == 1 {
                    self.write_ecam(ecam_offset(address, offset), data);
                }
            }
            _ => {}
        }
    }
}

enum Access<'a> {
    Bridge(&'a mut ConfigSpace, usize),
    Device(&'a mut dyn Function, usize),
}

/// Where in the memory-mapped space the register of an address port is.
fn ecam_offset(address: u32, port: u16) -> u64 {
    u64::from(address >> 8 & 0xffff) << 12 | u64::from(address & 0xfc) | u64::from(port & 3)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(ConfigSpace, Vec<(u64, Vec<u8>)>);

    impl Function for Echo {
        fn read_config(&mut self, offset: usize, data: &mut [u8]) {
            self.0.read(offset, data);
        }
        fn write_config(&mut self, offset: usize, data: &[u8]) {
            self.0.write(offset, data);
        }
        fn window(&self) -> Option<(u64, u64)> {
            self.0.window()
        }
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.1.push((offset, data.to_vec()));
        }
        fn reset(&mut self) {}
    }

    const BASE: u64 = 0xc000_0000;

    fn bus() -> Bus {
        let identity =
            Identity { vendor: 0x1af4, device: 0x1041, class: 0x02_0000, subsystem_vendor: 1, subsystem: 2 };
        let mut config = ConfigSpace::new(&identity);
        config.set_window(BASE, 0x8000);
        let mut bus = Bus::default();
        assert_eq!(bus.add(Arc::new(Mutex::new(Echo(config, vec![])))), Ok(8));
        bus
    }

    fn read(bus: &Bus, offset: u64) -> u32 {
        let mut data = [0; 4];
        bus.read_ecam(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_device_is_found_by_memory_and_by_ports() {
        let bus = bus();
        assert_eq!(read(&bus, 1 << 15), 0x1041_1af4);
        assert_eq!(read(&bus, 2 << 15), u32::MAX, "nobody there");
        assert_eq!(read(&bus, 1 << 15 | 1 << 12), u32::MAX, "no second function");
        bus.write_port(0, &0x8000_0800u32.to_le_bytes());
        let mut data = [0; 2];
        bus.read_port(6, &mut data);
        assert_eq!(data, 0x1041u16.to_le_bytes());
    }

    #[test]
    fn a_device_answers_only_where_and_when_it_was_told_to() {
        let bus = bus();
        let mut data = [0; 2];
        bus.read(BASE + 5, &mut data);
        assert_eq!(data, [0xff; 2], "not enabled");
        bus.write_ecam(1 << 15 | 4, &2u16.to_le_bytes());
        bus.read(BASE + 5, &mut data);
        assert_eq!(data, [5; 2]);
        bus.read(BASE + 0x7fff, &mut data);
        assert_eq!(data, [0xff; 2], "an access that leaves the window");
        bus.write_ecam(1 << 15 | 0x10, &0xd000_0000u32.to_le_bytes());
        bus.read(0xd000_0007, &mut data);
        assert_eq!(data, [7; 2], "moved");
    }

    #[test]
    fn the_bus_takes_31_devices() {
        let mut bus = bus();
        let device = bus.devices[0].clone();
        (0..30).for_each(|_| assert!(bus.add(device.clone()).is_ok()));
        assert_eq!(bus.add(device), Err(Full));
    }

    #[test]
    fn no_access_anywhere_does_harm() {
        let bus = bus();
        for offset in (0..1 << 20).step_by(0x7f1).chain([0xfff, 0x1fff, 0x8fff, u64::MAX >> 1]) {
            for len in [1, 2, 4, 8] {
                bus.write_ecam(offset, &[0xa5; 8][..len]);
                bus.read_ecam(offset, &mut [0; 8][..len]);
                bus.read(offset, &mut [0; 8][..len]);
                bus.write_port(offset as u16, &[0xff; 8][..len]);
                bus.read_port(offset as u16, &mut [0; 8][..len]);
            }
        }
    }
}
