//! Commands of DPMCP objects: MC command portals.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpmcp_cmd.h. Irq and reset: [`super::common`].

use zerocopy::little_endian::U32;

use super::common::Created;

object_commands!(DPMCP, open 0x80b, destroy 0x98b, version 0xa0b);

layout! {
    /// Creates a portal object. With the token of its container.
    pub struct Create: 8 {
        /// Number of the portal, [`Create::ANY_PORTAL`] for one from the pool.
        portal_id: U32 => 0,
        /// Bit 0: refuse commands of high priority (version 2).
        options: U32 => 4,
    }
}
command!(Create, "create", 0x90b, v 2, Created);

impl Create {
    /// Any free portal.
    pub const ANY_PORTAL: u32 = u32::MAX;
}

layout! {
    /// Asks what the object is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 2, Attributes);

layout! {
    /// What the object is.
    pub struct Attributes: 8 {
        /// See [`Create::options`].
        options: U32 => 0,
        /// Number of the object.
        id: U32 => 4,
    }
}
