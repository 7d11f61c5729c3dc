//! A PC without its past: no firmware, no legacy devices but the serial port and what the kernel emulates.

mod acpi;
pub mod boot;
pub mod layout;
