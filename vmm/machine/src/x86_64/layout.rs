//! The map of an x86-64 machine.
//!
//! | from | to | |
//! |---|---|---|
//! | 0 | 640 KiB | memory: descriptor table, start information, boot parameters, page tables, mailbox, command line |
//! | 640 KiB | 1 MiB | reserved; the ACPI tables |
//! | 1 MiB | 3 GiB at most | memory: kernel, initial file system at the end |
//! | 3 GiB | 3.5 GiB | addresses of PCI devices |
//! | 3.5 GiB | + 1 MiB | configuration space of PCI bus 0 |
//! | 3.5 GiB + 1 MiB | + 72 KiB | registers of virtio devices that are not on the bus |
//! | 3.98 GiB | | I/O APIC, local APIC, pages of KVM's |
//! | 4 GiB | | memory beyond 3 GiB, memory added later |

use std::ops::Range;

use kvm::x86_64::LINES;

/// First address that isn't memory below 4 GiB.
pub const GAP_START: u64 = 3 << 30;
/// Where memory goes on.
pub const GAP_END: u64 = 4 << 30;

/// Descriptor table of the first processor.
pub const GDT: u64 = 0x500;
/// PVH's start information, and the memory map it points to.
pub const PVH_INFO: u64 = 0x6000;
/// Linux's boot parameters.
pub const BOOT_PARAMS: u64 = 0x7000;
/// First stack.
pub const STACK: u64 = 0x8ff0;
/// Page tables that map the first 4 GiB at their own addresses: 6 pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The micro-guest's mailbox.
pub const MAILBOX: u64 = 0x1_0000;
/// Command line, up to [`COMMAND_LINE_MAX`] bytes.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line with its final zero.
pub const COMMAND_LINE_MAX: usize = 2048;
/// End of the memory below what a PC has at 640 KiB.
pub const LOW_END: u64 = 0x9_fc00;
/// ACPI tables, the root pointer first.
pub const ACPI: u64 = 0xe_0000;
/// End of the room for them.
pub const ACPI_END: u64 = RESET_ENTRY;
/// Where a PC's firmware is entered in real mode: the last resort of a kernel that wants to restart.
pub const RESET_ENTRY: u64 = 0xf_fff0;
/// Where kernels are loaded.
pub const HIGH_START: u64 = 0x10_0000;

/// Addresses for PCI devices.
pub const PCI_WINDOW: u64 = GAP_START;
/// Bytes of them.
pub const PCI_WINDOW_BYTES: u64 = 0x2000_0000;
/// Configuration space of PCI bus 0.
pub const ECAM: u64 = 0xe000_0000;
/// Bytes of it.
pub const ECAM_BYTES: u64 = 1 << 20;
/// Registers of the first virtio device that isn't on the bus.
pub const VIRTIO: u64 = ECAM + ECAM_BYTES;
/// From one such device's registers to the next one's.
pub const VIRTIO_STEP: u64 = 0x1000;
/// Their interrupt lines, one each.
pub const VIRTIO_LINES: Range<u32> = EVENT_LINE + 1..LINES;
/// The I/O APIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// First port of the serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt line.
pub const SERIAL_LINE: u32 = 4;
/// ACPI's sleep control and status registers (ACPI 6.5, section 4.8.3.7).
pub const SLEEP_PORT: u16 = 0x600;
/// What the guest writes there to power off: sleep type 5, enable.
pub const SLEEP_OFF: u8 = 5 << 2 | 1 << 5;
/// The reset register.
pub const RESET_PORT: u16 = 0xcf9;
/// What the guest writes there to reset.
pub const RESET_VALUE: u8 = 6;
/// The event device: what happened since it was asked last, bit by bit. Reading clears.
pub const EVENT_PORT: u16 = 0x608;
/// Its interrupt line.
pub const EVENT_LINE: u32 = 5;
/// Bit of the event device: the power button was pressed.
pub const EVENT_POWER: u8 = 1;
/// The guest ends the machine with the code it writes here.
pub const EXIT_PORT: u16 = 0xf4;
/// Addresses of PCI configuration by port: address and data.
pub const PCI_ADDRESS_PORT: u16 = 0xcf8;
/// As [`PCI_ADDRESS_PORT`].
pub const PCI_DATA_PORT: u16 = 0xcfc;

/// The regions of a machine with so much memory: first address and length.
pub fn ram(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(GAP_START);
    let high = bytes - low;
    if high == 0 { vec![(0, low)] } else { vec![(0, low), (GAP_END, high)] }
}

/// Where memory added later begins, when all there is ends at `end`: above 4 GiB, at a multiple of 128 MiB (Linux's
/// unit of memory hot-plug).
pub fn hot_memory_start(end: u64) -> u64 {
    end.max(GAP_END).next_multiple_of(128 << 20)
}
