//! The board of a 64-bit Arm machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::EventFd;
use devices::pci::Bus;
use devices::pins::Pins;
use devices::serial::{REGISTERS, Serial};
use devices::virtio::mmio::Bank;
use machine::layout;

use super::{Effect, VIRTIO_END};

/// The devices, shared by the processors.
pub struct Board {
    serial: Mutex<Serial>,
    pins: Mutex<Pins>,
    pci: Bus,
    /// Virtio devices that aren't on the bus.
    virtio: Bank,
}

/// Who answers to an address, and which of their addresses it is.
enum Place {
    Serial(u8),
    Pins(u64),
    Exit,
    Config(u64),
    Virtio(u64),
    Pci,
}

fn place(address: u64) -> Place {
    const SERIAL_END: u64 = layout::SERIAL + REGISTERS as u64;
    const PINS_END: u64 = layout::PINS + layout::DEVICE_BYTES;
    const ECAM_END: u64 = layout::ECAM + layout::ECAM_BYTES;
    match address {
        layout::SERIAL..SERIAL_END => Place::Serial((address - layout::SERIAL) as u8),
        layout::PINS..PINS_END => Place::Pins(address - layout::PINS),
        layout::EXIT => Place::Exit,
        layout::ECAM..ECAM_END => Place::Config(address - layout::ECAM),
        layout::VIRTIO..VIRTIO_END => Place::Virtio(address - layout::VIRTIO),
        _ => Place::Pci,
    }
}

impl Board {
    pub fn new(serial: Serial, pci: Bus, virtio: Bank, event_line: EventFd) -> Arc<Board> {
        let pins = Mutex::new(Pins::new(event_line));
        Arc::new(Board { serial: Mutex::new(serial), pins, pci, virtio })
    }

    /// Tells the devices that the guest's memory has grown.
    pub fn memory_grown(&self) {
        self.pci.memory_grown();
        self.virtio.memory_grown();
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        lock(&self.pins).press(layout::POWER_PIN);
    }

    /// Types at the serial console.
    pub fn type_in(&self, text: &[u8]) {
        lock(&self.serial).type_in(text);
    }

    /// Answers a read from where no memory is; all ones where nobody is.
    pub fn read_mmio(&self, address: u64, data: &mut [u8]) {
        match place(address) {
            Place::Serial(register) => {
                data.fill(0);
                let byte = data.len().min(1);
                lock(&self.serial).read(register, &mut data[..byte]);
            }
            Place::Pins(offset) => lock(&self.pins).read(offset, data),
            Place::Exit => data.fill(0),
            Place::Config(offset) => self.pci.read_ecam(offset, data),
            Place::Virtio(offset) => self.virtio.read(offset, data),
            Place::Pci => self.pci.read(address, data),
        }
    }

    /// Takes a write to where no memory is.
    pub fn write_mmio(&self, address: u64, data: &[u8]) -> Effect {
        match place(address) {
            Place::Serial(register) => lock(&self.serial).write(register, &data[..data.len().min(1)]),
            Place::Pins(offset) => lock(&self.pins).write(offset, data),
            Place::Exit => return Effect::Exit(data.first().copied().unwrap_or(0)),
            Place::Config(offset) => self.pci.write_ecam(offset, data),
            Place::Virtio(offset) => self.virtio.write(offset, data),
            Place::Pci => self.pci.write(address, data),
        }
        Effect::None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of the board the micro-guest is told.
pub fn micro_guest_words() -> String {
    format!("serial={:#x} exit={:#x}", layout::SERIAL, layout::EXIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::no_virtio;

    fn board() -> (Arc<Board>, EventFd) {
        let event = || EventFd::create().unwrap();
        let power = event();
        let serial = Serial::new(event(), Box::new(std::io::sink()));
        (Board::new(serial, Bus::default(), no_virtio(), power.try_clone().unwrap()), power)
    }

    #[test]
    fn a_code_ends_the_machine() {
        assert_eq!(board().0.write_mmio(layout::EXIT, &[3]), Effect::Exit(3));
    }

    #[test]
    fn the_power_button_is_seen_at_its_pin() {
        const ENABLED: u64 = layout::PINS + 0x410;
        const RISING: u64 = layout::PINS + 0x40c;
        let (board, line) = board();
        board.write_mmio(RISING, &[0xff]);
        board.write_mmio(ENABLED, &[0xff]);
        board.press_power_button();
        assert!(line.drain());
        let mut data = [0];
        board.read_mmio(layout::PINS + (4 << layout::POWER_PIN), &mut data);
        assert_eq!(data, [1 << layout::POWER_PIN]);
    }

    #[test]
    fn every_place_and_any_width_is_harmless() {
        let (board, _line) = board();
        for address in (0..1u64 << 32).step_by(0xff1).chain(layout::SERIAL..layout::EXIT).chain([u64::MAX]) {
            for len in [0, 1, 2, 4, 8] {
                board.read_mmio(address, &mut [0; 8][..len]);
                board.write_mmio(address, &[0x55; 8][..len]);
            }
        }
    }
}
