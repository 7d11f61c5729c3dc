//! Port numbers and names.

use std::collections::BTreeMap;

/// Largest number of an ordinary port (OpenFlow 1.0 `OFPP_MAX` - 1).
pub const MAX_PORT: u16 = 0xfeff;
/// The input port (in `output`).
pub(crate) const PORT_IN_PORT: u16 = 0xfff8;
/// The learning bridge (in `output`).
pub(crate) const PORT_NORMAL: u16 = 0xfffa;
/// All ports of the VLAN (in `output`).
pub(crate) const PORT_FLOOD: u16 = 0xfffb;
/// All ports (in `output`).
pub(crate) const PORT_ALL: u16 = 0xfffc;
/// The controller as a port.
pub const PORT_CONTROLLER: u16 = 0xfffd;
/// The bridge's own port.
pub const LOCAL: u16 = 0xfffe;
/// Not a port.
pub const NO_PORT: u16 = 0xffff;

/// Every reserved port with its names; the first is the one printed.
pub(crate) const RESERVED: &[(u16, &[&str])] = &[
    (PORT_IN_PORT, &["IN_PORT"]),
    (PORT_NORMAL, &["NORMAL"]),
    (PORT_FLOOD, &["FLOOD"]),
    (PORT_ALL, &["ALL"]),
    (PORT_CONTROLLER, &["CONTROLLER"]),
    (LOCAL, &["LOCAL"]),
    (NO_PORT, &["ANY", "NONE"]),
];

/// The ports that names in a flow string stand for.
pub trait Ports {
    /// Number of the port with this name.
    fn number(&self, name: &str) -> Option<u16>;
    /// Name of the port with this number.
    fn name(&self, number: u16) -> Option<&str>;
    /// All names, for error messages.
    fn names(&self) -> Vec<&str>;
}

/// No names: ports are written as numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPorts;

impl Ports for NoPorts {
    fn number(&self, _: &str) -> Option<u16> {
        None
    }

    fn name(&self, _: u16) -> Option<&str> {
        None
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Ports for BTreeMap<String, u16> {
    fn number(&self, name: &str) -> Option<u16> {
        self.get(name).copied()
    }

    fn name(&self, number: u16) -> Option<&str> {
        self.iter().find(|&(_, &n)| n == number).map(|(name, _)| name.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}
