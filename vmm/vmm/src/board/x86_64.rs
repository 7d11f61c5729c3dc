//! The board of an x86-64 machine: ports and addresses.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use devices::EventFd;
use devices::pci::Bus;
use devices::serial::{REGISTERS, Serial};
use devices::virtio::mmio::Bank;
use machine::layout;

use super::{Effect, VIRTIO_END};

/// The devices, shared by the processors.
pub struct Board {
    pub serial: Mutex<Serial>,
    pci: Bus,
    /// Virtio devices that aren't on the bus.
    virtio: Bank,
    /// What happened that the guest's firmware has to be told.
    events: AtomicU8,
    /// Interrupts the guest for that.
    event_line: EventFd,
}

/// Who answers to an address, and which of their addresses it is.
enum Place {
    Config(u64),
    Virtio(u64),
    Pci,
}

fn place(address: u64) -> Place {
    const ECAM_END: u64 = layout::ECAM + layout::ECAM_BYTES;
    match address {
        layout::ECAM..ECAM_END => Place::Config(address - layout::ECAM),
        layout::VIRTIO..VIRTIO_END => Place::Virtio(address - layout::VIRTIO),
        _ => Place::Pci,
    }
}

impl Board {
    pub fn new(serial: Serial, pci: Bus, virtio: Bank, event_line: EventFd) -> Arc<Board> {
        Arc::new(Board { serial: Mutex::new(serial), pci, virtio, events: AtomicU8::new(0), event_line })
    }

    /// Tells the devices that the guest's memory has grown.
    pub fn memory_grown(&self) {
        self.pci.memory_grown();
        self.virtio.memory_grown();
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.events.fetch_or(layout::EVENT_POWER, Ordering::AcqRel);
        self.event_line.signal();
    }

    /// Types at the serial console.
    pub fn type_in(&self, text: &[u8]) {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner).type_in(text);
    }

    /// Answers a read from a port; all ones where nobody is.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        const SERIAL_END: u16 = layout::SERIAL_PORT + REGISTERS;
        match port {
            layout::SERIAL_PORT..SERIAL_END => {
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                serial.read((port - layout::SERIAL_PORT) as u8, data);
            }
            layout::PCI_ADDRESS_PORT..=0xcff => self.pci.read_port(port - layout::PCI_ADDRESS_PORT, data),
            layout::EVENT_PORT => data.fill(self.events.swap(0, Ordering::AcqRel)),
            layout::SLEEP_PORT | KEYBOARD_STATUS | TIMER_GATE => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// Takes a write to a port.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Effect {
        const SERIAL_END: u16 = layout::SERIAL_PORT + REGISTERS;
        let first = data.first().copied().unwrap_or(0);
        match port {
            layout::SERIAL_PORT..SERIAL_END => {
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                serial.write((port - layout::SERIAL_PORT) as u8, data);
            }
            layout::EXIT_PORT => return Effect::Exit(first),
            layout::SLEEP_PORT if first == layout::SLEEP_OFF => return Effect::PowerOff,
            // Shares its port with the PCI address register, which takes only whole words.
            layout::RESET_PORT if data.len() == 1 && first & 4 != 0 => return Effect::Reset,
            layout::RESET_PORT if data.len() == 1 => {}
            KEYBOARD_STATUS if first == KEYBOARD_RESET => return Effect::Reset,
            layout::PCI_ADDRESS_PORT..=0xcff => self.pci.write_port(port - layout::PCI_ADDRESS_PORT, data),
            _ => {}
        }
        Effect::None
    }

    /// Answers a read from where no memory is.
    pub fn read_mmio(&self, address: u64, data: &mut [u8]) {
        match place(address) {
            Place::Config(offset) => self.pci.read_ecam(offset, data),
            Place::Virtio(offset) => self.virtio.read(offset, data),
            Place::Pci => self.pci.read(address, data),
        }
    }

    /// Takes a write to where no memory is.
    pub fn write_mmio(&self, address: u64, data: &[u8]) -> Effect {
        match place(address) {
            Place::Config(offset) => self.pci.write_ecam(offset, data),
            Place::Virtio(offset) => self.virtio.write(offset, data),
            Place::Pci => self.pci.write(address, data),
        }
        Effect::None
    }
}

/// What of the board the micro-guest is told: nothing, its ports are every PC's.
pub fn micro_guest_words() -> String {
    String::new()
}

/// The keyboard controller's command port: kernels pulse the processor's reset line through it.
const KEYBOARD_STATUS: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
/// The old timer's gate, which kernels poll; it reads as nothing under way.
const TIMER_GATE: u16 = 0x61;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::no_virtio;

    fn board() -> Arc<Board> {
        let event = || EventFd::create().unwrap();
        Board::new(Serial::new(event(), Box::new(std::io::sink())), Bus::default(), no_virtio(), event())
    }

    #[test]
    fn the_ways_to_end_are_told_apart() {
        let board = board();
        assert_eq!(board.write_port(layout::EXIT_PORT, &[3]), Effect::Exit(3));
        assert_eq!(board.write_port(layout::SLEEP_PORT, &[layout::SLEEP_OFF]), Effect::PowerOff);
        assert_eq!(board.write_port(layout::SLEEP_PORT, &[1 << 5]), Effect::None, "another sleep state");
        assert_eq!(board.write_port(layout::RESET_PORT, &[layout::RESET_VALUE]), Effect::Reset);
        assert_eq!(board.write_port(0x64, &[0xfe]), Effect::Reset);
    }

    #[test]
    fn the_power_button_is_seen_once() {
        let board = board();
        board.press_power_button();
        let read = || {
            let mut data = [0];
            board.read_port(layout::EVENT_PORT, &mut data);
            data[0]
        };
        assert_eq!((read(), read()), (layout::EVENT_POWER, 0));
        assert!(board.event_line.drain());
    }

    #[test]
    fn every_port_and_any_width_is_harmless() {
        let board = board();
        for port in 0..=u16::MAX {
            for len in [0, 1, 2, 4, 7] {
                board.read_port(port, &mut [0; 7][..len]);
                board.write_port(port, &[0x55; 7][..len]);
            }
        }
    }
}
