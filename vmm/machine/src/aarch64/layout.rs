//! The map of a 64-bit Arm machine.
//!
//! | from | to | |
//! |---|---|---|
//! | 0 | 128 MiB | nothing |
//! | 128 MiB | 144 MiB | interrupt controller |
//! | 144 MiB | 145 MiB | serial port, power button, exit register |
//! | 160 MiB | 162 MiB | registers of virtio devices that are not on the PCI bus |
//! | 256 MiB | 768 MiB | addresses of PCI devices |
//! | 1008 MiB | + 1 MiB | configuration space of PCI bus 0 |
//! | 1 GiB | | memory: device tree, mailbox, kernel, initial file system at the end; memory added later |

use std::ops::Range;

use kvm::aarch64::{GicPlaces, LINES};

/// The interrupt controller. Its redistributors take 128 KiB for each of 32 processors.
pub const GIC: GicPlaces =
    GicPlaces { distributor: 0x0800_0000, translation: 0x0808_0000, redistributors: 0x080a_0000 };

/// First register of the serial port.
pub const SERIAL: u64 = 0x0900_0000;
/// Its interrupt line.
pub const SERIAL_LINE: u32 = 0;
/// The pins that the power button is at: a PL061.
pub const PINS: u64 = 0x0901_0000;
/// Which pin it is.
pub const POWER_PIN: u8 = 3;
/// Interrupt line of the pins.
pub const EVENT_LINE: u32 = 1;
/// The guest ends the machine with the code it writes here.
pub const EXIT: u64 = 0x0902_0000;
/// Bytes between devices: the largest page a guest may have.
pub const DEVICE_BYTES: u64 = 0x1_0000;
/// Registers of the first virtio device that isn't on the PCI bus.
pub const VIRTIO: u64 = 0x0a00_0000;
/// From one such device's registers to the next one's.
pub const VIRTIO_STEP: u64 = DEVICE_BYTES;
/// Their interrupt lines, one each.
pub const VIRTIO_LINES: Range<u32> = EVENT_LINE + 1..LINES;

/// Addresses for PCI devices.
pub const PCI_WINDOW: u64 = 0x1000_0000;
/// Bytes of them.
pub const PCI_WINDOW_BYTES: u64 = 0x2000_0000;
/// Configuration space of PCI bus 0.
pub const ECAM: u64 = 0x3f00_0000;
/// Bytes of it.
pub const ECAM_BYTES: u64 = 1 << 20;

/// Where memory begins.
pub const MEMORY: u64 = 1 << 30;
/// The device tree: not longer than [`DEVICE_TREE_BYTES`].
pub const DEVICE_TREE: u64 = MEMORY;
/// Room for it.
pub const DEVICE_TREE_BYTES: usize = 0x1_0000;
/// The micro-guest's mailbox.
pub const MAILBOX: u64 = MEMORY + 0x10_0000;
/// Where kernels are loaded: an address that their protocol allows, a multiple of 2 MiB.
pub const KERNEL: u64 = MEMORY + (2 << 20);
/// Longest command line with its final zero (Linux, `arch/arm64/include/uapi/asm/setup.h`).
pub const COMMAND_LINE_MAX: usize = 2048;

/// The regions of a machine with so much memory: first address and length.
pub fn ram(bytes: u64) -> Vec<(u64, u64)> {
    vec![(MEMORY, bytes)]
}

/// Where memory added later begins, when all there is ends at `end`: at a multiple of 128 MiB (Linux's unit of memory
/// hot-plug with pages of 4 KiB).
pub fn hot_memory_start(end: u64) -> u64 {
    end.next_multiple_of(128 << 20)
}
