//! Configuration space of a function (PCI 3.0, chapter 6).

/// What a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass and interface: 24 bits.
    pub class: u32,
    /// Subsystem's vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// Bytes of the part that every function has.
const BYTES: usize = 256;
const COMMAND: usize = 4;
const STATUS: usize = 6;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
const COMMAND_MEMORY: u8 = 2;
const STATUS_CAPABILITIES: u8 = 0x10;

/// Configuration space: bytes, and which bits of them can be written.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
    window_bytes: u64,
    next: usize,
    last_pointer: usize,
    /// What the space is after power-on.
    initial: Option<Box<[u8; BYTES]>>,
}

/// A capability to be added: what follows its two bytes of type and link.
#[derive(Clone, Copy, Debug)]
pub struct Capability<'a> {
    /// Its type.
    pub id: u8,
    /// Its bytes from the third on.
    pub body: &'a [u8],
    /// Which bits of the body can be written; shorter than the body if the rest can't.
    pub writable: &'a [u8],
}

impl ConfigSpace {
    /// A space without addresses and capabilities.
    pub fn new(identity: &Identity) -> ConfigSpace {
        let mut this = ConfigSpace {
            bytes: [0; BYTES],
            writable: [0; BYTES],
            window_bytes: 0,
            next: FIRST_CAPABILITY,
            last_pointer: CAPABILITIES,
            initial: None,
        };
        this.put(0, &identity.vendor.to_le_bytes());
        this.put(2, &identity.device.to_le_bytes());
        // Revision 1: a virtio device without a past (virtio 1.2, section 4.1.2.1).
        this.put(8, &[1]);
        this.put(9, &identity.class.to_le_bytes()[..3]);
        this.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        this.put(0x2e, &identity.subsystem.to_le_bytes());
        // Command: memory, master, no INTx. Cache line size and interrupt line are the guest's notes.
        this.writable[COMMAND] = COMMAND_MEMORY | 4;
        this.writable[COMMAND + 1] = 4;
        this.writable[0x0c] = 0xff;
        this.writable[0x3c] = 0xff;
        this
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Gives the function 32-bit memory addresses: `bytes`, a power of two, at `start`.
    pub fn set_window(&mut self, start: u64, bytes: u64) {
        assert!(bytes.is_power_of_two() && start.is_multiple_of(bytes) && start + bytes <= 1 << 32);
        self.window_bytes = bytes;
        self.put(BAR0, &(start as u32).to_le_bytes());
        self.writable[BAR0..BAR0 + 4].copy_from_slice(&(!(bytes as u32 - 1)).to_le_bytes());
    }

    /// Adds a capability and returns where it begins.
    ///
    /// # Panics
    /// When the space is full: capabilities are fixed when the device is written.
    pub fn add_capability(&mut self, capability: &Capability<'_>) -> usize {
        let at = self.next;
        let end = at + 2 + capability.body.len();
        assert!(end <= BYTES, "no room for a capability");
        self.put(at, &[capability.id, 0]);
        self.put(at + 2, capability.body);
        self.writable[at + 2..at + 2 + capability.writable.len()].copy_from_slice(capability.writable);
        self.bytes[self.last_pointer] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.last_pointer = at + 1;
        self.next = end.next_multiple_of(4);
        at
    }

    /// Remembers the present state as that after power-on.
    pub fn finish(&mut self) {
        self.initial = Some(Box::new(self.bytes));
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        if let Some(initial) = &self.initial {
            self.bytes = **initial;
        }
    }

    /// The addresses the function answers to, while it may.
    pub fn window(&self) -> Option<(u64, u64)> {
        let enabled = self.bytes[COMMAND] & COMMAND_MEMORY != 0 && self.window_bytes != 0;
        enabled.then(|| (u64::from(self.u32(BAR0) & !0xf), self.window_bytes))
    }

    /// A word; `at` is inside.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    /// A half word; `at` is inside.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// Reads; behind the first 256 bytes is nothing.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        for (at, byte) in (at..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes what can be written.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        for (at, &byte) in (at..).zip(data) {
            if let (Some(old), Some(&mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !mask | byte & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity = Identity { vendor: 1, device: 2, class: 0x02_0000, subsystem_vendor: 3, subsystem: 4 };
        let mut space = ConfigSpace::new(&identity);
        space.set_window(0xc000_0000, 0x8000);
        space.add_capability(&Capability { id: 9, body: &[1; 14], writable: &[] });
        space.add_capability(&Capability { id: 0x11, body: &[2; 10], writable: &[0, 0xc0] });
        space.finish();
        space
    }

    #[test]
    fn capabilities_are_linked_and_only_their_writable_bits_change() {
        let mut space = space();
        let first = usize::from(space.bytes[CAPABILITIES]);
        let second = usize::from(space.bytes[first + 1]);
        assert_eq!((space.bytes[first], space.bytes[second], space.bytes[second + 1]), (9, 0x11, 0));
        space.write(second + 2, &[0xff; 10]);
        assert_eq!(space.u16(second + 2), 0xc202);
    }

    #[test]
    fn writing_ones_to_the_address_shows_its_size() {
        let mut space = space();
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.u32(BAR0), 0xffff_8000);
        space.reset();
        assert_eq!(space.u32(BAR0), 0xc000_0000);
    }

    #[test]
    fn identity_can_not_be_written() {
        let mut space = space();
        let before = space.bytes;
        space.write(0, &[0xff; 4]);
        space.write(8, &[0xff; 4]);
        assert_eq!(space.bytes, before);
    }
}
