//! Port names in flow strings.

use flow_text::Ports;

use crate::config::Port;

/// The ports of a file, as flow strings name them.
#[derive(Clone, Copy, Debug)]
pub struct PortNumbers<'a>(pub &'a [Port]);

impl Ports for PortNumbers<'_> {
    fn number(&self, name: &str) -> Option<u16> {
        self.0.iter().find(|port| port.name.as_str() == name).map(|port| port.number.get())
    }

    fn name(&self, number: u16) -> Option<&str> {
        self.0.iter().find(|port| port.number.get() == number).map(|port| port.name.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|port| port.name.as_str()).collect()
    }
}
