//! PCI, as far as a driver of virtio devices needs it (PCI 3.0, chapter 6; virtio 1.2, section 4.1).

use crate::arch;

/// Most devices on the bus.
const DEVICES: u64 = 32;
const VENDOR_VIRTIO: u16 = 0x1af4;
/// Command register: answer to memory accesses, master the bus.
const COMMAND_MEMORY_MASTER: u16 = 6;
const CAP_VENDOR: u8 = 9;

/// A function's configuration space.
#[derive(Clone, Copy)]
pub struct Function(u64);

/// The functions of the bus that are virtio devices of this PCI device number.
pub fn virtio(ecam: u64, device: u16) -> impl Iterator<Item = Function> {
    (0..DEVICES)
        .map(move |number| Function(ecam + (number << 15)))
        .filter(move |function| function.read::<u16>(0) == VENDOR_VIRTIO && function.read::<u16>(2) == device)
}

/// Reads the host bridge's number: a register that the monitor answers for.
pub fn read_bridge(ecam: u64) -> u16 {
    Function(ecam).read(0)
}

impl Function {
    fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: the monitor says where the configuration space is; offsets are below 256 and aligned.
        unsafe { arch::read((self.0 + offset) as *const T) }
    }

    /// Lets the function answer to its addresses.
    pub fn enable(self) {
        let command = self.read::<u16>(4) | COMMAND_MEMORY_MASTER;
        // SAFETY: as in `read`.
        unsafe { arch::write((self.0 + 4) as *mut u16, command) };
    }

    /// Where a base address register points.
    fn bar(self, index: u8) -> u64 {
        let at = 0x10 + u64::from(index) * 4;
        let low = self.read::<u32>(at);
        let high = if low & 6 == 4 { self.read::<u32>(at + 4) } else { 0 };
        u64::from(high) << 32 | u64::from(low & !0xf)
    }

    /// The address of a virtio structure of this type, and the word that follows its description.
    pub fn structure(self, wanted: u8) -> Option<(u64, u32)> {
        let mut at = u64::from(self.read::<u8>(0x34));
        // Capabilities are four bytes long at least, which bounds their number.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            if self.read::<u8>(at) == CAP_VENDOR && self.read::<u8>(at + 3) == wanted {
                let address = self.bar(self.read::<u8>(at + 4)) + u64::from(self.read::<u32>(at + 8));
                return Some((address, self.read::<u32>(at + 16)));
            }
            at = u64::from(self.read::<u8>(at + 1) & !3);
        }
        None
    }
}
