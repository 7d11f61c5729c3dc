//! The board: which device answers to which address. One file for each processor type, with the same names inside.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use machine::layout;
use machine::virtio::SLOTS_MAX;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{Board, micro_guest_words};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{Board, micro_guest_words};

/// Behind the last register of virtio devices that aren't on the PCI bus.
const VIRTIO_END: u64 = layout::VIRTIO + SLOTS_MAX as u64 * layout::VIRTIO_STEP;

/// What an access comes to, beside its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: go on.
    None,
    /// The guest powers off.
    #[cfg(target_arch = "x86_64")]
    PowerOff,
    /// The guest resets.
    #[cfg(target_arch = "x86_64")]
    Reset,
    /// The guest ends with a code.
    Exit(u8),
}

/// A board's part when all its virtio devices are on the PCI bus.
#[cfg(test)]
fn no_virtio() -> devices::virtio::mmio::Bank {
    devices::virtio::mmio::Bank::new(layout::VIRTIO_STEP, Vec::new())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use devices::pci::Bus;
    use devices::serial::Serial;
    use devices::virtio::mmio::{Bank, Transport};
    use devices::virtio::{Memory, Notifier, rng::Rng};
    use devices::{Doorbell, EventFd, Platform, Vector};
    use machine::virtio::slots;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    struct Unplugged;

    impl Platform for Unplugged {
        fn attach_doorbell(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn detach_doorbell(&self, _: Doorbell, _: &EventFd) {}
        fn create_vector(&self) -> io::Result<Box<dyn Vector>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn virtio_devices_without_a_bus_answer_in_the_slots_that_the_guest_is_told_of() {
        let event = || EventFd::create().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        let devices = slots().take(2).map(|slot| {
            let (notifier, memory) = (Notifier::default(), Memory::new(memory.clone()));
            let device = Box::new(Rng::default());
            Transport::new(device, notifier, Arc::new(Unplugged), memory, event(), slot.address).unwrap()
        });
        let bank = Bank::new(layout::VIRTIO_STEP, devices.collect());
        let serial = Serial::new(event(), Box::new(io::sink()));
        let board = Board::new(serial, Bus::default(), bank, event());
        let answers = slots().map(|slot| {
            assert_eq!(board.write_mmio(slot.address + 0x70, &1u32.to_le_bytes()), Effect::None);
            [0, 0x70].map(|register| {
                let mut word = [0; 4];
                board.read_mmio(slot.address + register, &mut word);
                word
            })
        });
        let there = [*b"virt", [1, 0, 0, 0]];
        let expected = (0..SLOTS_MAX).map(|slot| if slot < 2 { there } else { [[0xff; 4]; 2] });
        assert!(answers.eq(expected));
    }
}
