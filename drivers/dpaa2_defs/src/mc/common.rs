//! Commands that objects of several types have under the same number, and what such answers share.

use zerocopy::little_endian::{U16, U32};

use super::header::Command;
use super::object::ObjectType;

/// The `open` command of an object type.
pub trait Openable: Command<Response = ()> {
    /// The type it opens.
    const OBJECT_TYPE: ObjectType;
    /// The same type's `get API version`.
    type GetApiVersion: Command<Response = ApiVersion> + Default;
    /// Opens the object with this number.
    fn with_id(id: u32) -> Self;
}

layout! {
    /// Version of the commands of an object type.
    pub struct ApiVersion: 4 {
        /// Changes when commands become incompatible.
        major: U16 => 0,
        /// Changes when commands are added.
        minor: U16 => 2,
    }
}

impl ApiVersion {
    /// Whether it is this version or a later one.
    pub fn is_at_least(&self, major: u16, minor: u16) -> bool {
        (self.major.get(), self.minor.get()) >= (major, minor)
    }
}

impl core::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

layout! {
    /// The number of an object that was created.
    pub struct Created: 4 {
        /// Number of the object.
        id: U32 => 0,
    }
}

layout! {
    /// Puts the object to work.
    pub struct Enable: 0 {}
}
command!(Enable, "enable", 0x002, v 1, ());

layout! {
    /// Stops the object. A dpni is still emptying its queues when this ends: ask [`IsEnabled`] until it isn't.
    pub struct Disable: 0 {}
}
command!(Disable, "disable", 0x003, v 1, ());

layout! {
    /// Puts the object back into the state after its creation.
    pub struct Reset: 0 {}
}
command!(Reset, "reset", 0x005, v 1, ());

layout! {
    /// Asks whether the object works.
    pub struct IsEnabled: 0 {}
}
command!(IsEnabled, "is enabled", 0x006, v 1, Enabled);

layout! {
    /// A yes or no.
    pub struct Enabled: 1 {
        /// Bit 0.
        enabled: u8 => 0,
    }
}

impl Enabled {
    /// Whether it is a yes.
    pub fn get(&self) -> bool {
        self.enabled & 1 != 0
    }
}

impl From<bool> for Enabled {
    fn from(enabled: bool) -> Self {
        Self { enabled: enabled.into() }
    }
}

layout! {
    /// Lets an interrupt of the object fire, or not.
    pub struct SetIrqEnable: 5 {
        /// Bit 0.
        enable: u8 => 0,
        reserved1: [u8; 3] => 1,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(SetIrqEnable, "set irq enable", 0x012, v 1, ());

layout! {
    /// Asks whether an interrupt may fire.
    pub struct GetIrqEnable: 5 {
        reserved0: [u8; 4] => 0,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(GetIrqEnable, "get irq enable", 0x013, v 1, Enabled);

layout! {
    /// Chooses the events that make an interrupt fire.
    pub struct SetIrqMask: 5 {
        /// The events, one bit each; which, depends on the object type.
        mask: U32 => 0,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(SetIrqMask, "set irq mask", 0x014, v 1, ());

layout! {
    /// Asks for the events that make an interrupt fire.
    pub struct GetIrqMask: 5 {
        reserved0: [u8; 4] => 0,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(GetIrqMask, "get irq mask", 0x015, v 1, IrqEvents);

layout! {
    /// Asks which events have happened.
    pub struct GetIrqStatus: 5 {
        /// The events to ask for.
        events: U32 => 0,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(GetIrqStatus, "get irq status", 0x016, v 1, IrqEvents);

layout! {
    /// Events, one bit each.
    pub struct IrqEvents: 4 {
        /// The bits.
        events: U32 => 0,
    }
}

layout! {
    /// Forgets events.
    pub struct ClearIrqStatus: 5 {
        /// The events to forget.
        events: U32 => 0,
        /// Which interrupt.
        index: u8 => 4,
    }
}
command!(ClearIrqStatus, "clear irq status", 0x017, v 1, ());

layout! {
    /// Ends the use of a token.
    pub struct Close: 0 {}
}
command!(Close, "close", 0x800, v 1, ());
