//! The devices of a virtual machine, one folder a device.
//!
//! - [`pci::Bus`] is what the guest's accesses to PCI addresses reach; each device on it is a [`pci::Function`].
//! - [`virtio::Device`] is what a virtio device is made of; [`virtio::Transport`] puts one on the PCI bus,
//!   [`virtio::mmio::Transport`] behind registers of its own.
//! - [`serial::Serial`] is the serial port, [`pins::Pins`] what a power button is at on boards without ACPI.
//! - [`Platform`] is what they need of the machine: doorbells and interrupt vectors. So nothing here knows the
//!   hypervisor, and everything runs in tests without one.
//!
//! Whatever the guest writes, to whichever register, is taken from it as bytes, judged, and at worst without effect.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod pci;
pub mod pins;
mod platform;
pub mod serial;
mod thread;
pub mod virtio;

pub use platform::{Doorbell, Message, Platform, Vector};
pub use virtqueue::EventFd;
