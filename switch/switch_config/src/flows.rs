//! Checks flow strings with the port names of the file.

use std::collections::BTreeMap;

use crate::config::Port;

/// Whether the string is a rule, and its ports are there.
pub(crate) fn check(text: &str, ports: &[Port]) -> Result<(), String> {
    let names: BTreeMap<String, u16> =
        ports.iter().map(|port| (port.name.as_str().to_owned(), port.number.get())).collect();
    flow_text::parse_add(text, &names).map(|_| ()).map_err(|error| error.to_string())
}
