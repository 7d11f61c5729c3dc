//! What hardware there is: a system on chip, its containers, interfaces, connections and what their wires end in.
//!
//! The counterpart of the Data Path Layout a board's boot loader gives to the Management Complex.
//!
//! ```
//! let text = r#"
//!     soc = "lx2160a"
//!     [[container]]
//!     id = 2
//!     dpio = 6
//!     dpbp = 2
//!     [[container.dpni]]
//!     id = 1
//!     mac = "02:00:00:00:00:01"
//!     [[dpmac]]
//!     id = 1
//!     end = { kind = "loop" }
//!     [[connection]]
//!     a = "dpni.1"
//!     b = "dpmac.1"
//! "#;
//! let description = dpaa2_model::Description::from_toml(text)?;
//! assert_eq!(description.container[0].dpni[0].queues, 8);
//! # Ok::<(), dpaa2_model::DescriptionError>(())
//! ```

use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// All hardware of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Which chip: decides the generation of portals and the limits of classification.
    pub soc: Soc,
    /// Version the firmware reports.
    #[serde(default)]
    pub firmware: Firmware,
    /// Containers with what they hold.
    #[serde(default)]
    pub container: Vec<Container>,
    /// Ethernet MACs and what their wires end in.
    #[serde(default)]
    pub dpmac: Vec<Dpmac>,
    /// Links between interfaces and MACs, or among interfaces.
    #[serde(default)]
    pub connection: Vec<Connection>,
}

/// A system on chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Soc {
    /// QBMan 5.0: memory-backed portals, enqueue ring of 32.
    Lx2160a,
    /// QBMan 4.1: direct portals.
    Ls2088a,
    /// QBMan 4.1 as well; no masked keys, so exact-match tables only.
    Ls1088a,
}

impl Soc {
    /// System version register; drivers look at the upper half.
    pub fn svr(self) -> u32 {
        match self {
            Self::Lx2160a => 0x8736_0020,
            Self::Ls2088a => 0x8709_0110,
            Self::Ls1088a => 0x8703_0010,
        }
    }

    /// Version of the queue and buffer manager.
    pub fn qbman_version(self) -> u32 {
        match self {
            Self::Lx2160a => 0x0500_0000,
            Self::Ls2088a | Self::Ls1088a => 0x0401_0000,
        }
    }

    /// Version of the packet processor: major << 10 | minor << 5 | patch.
    pub fn wriop_version(self) -> u16 {
        match self {
            Self::Lx2160a => 0xc00,
            Self::Ls2088a => 0x421,
            Self::Ls1088a => 0x422,
        }
    }

    /// Whether portals have a window of ordinary memory for their rings.
    pub fn has_memory_backed_portals(self) -> bool {
        self == Self::Lx2160a
    }

    /// Whether tables can compare under a mask.
    pub fn has_key_masking(self) -> bool {
        self != Self::Ls1088a
    }
}

/// Version of the Management Complex' firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Firmware {
    /// Drivers want 10.
    pub major: u32,
    /// DPDK 22.11 wants at least 32, 25.11 at least 39.
    pub minor: u32,
    /// Above 0, DPDK also reads MAC counters by DMA.
    pub revision: u32,
}

impl Default for Firmware {
    fn default() -> Self {
        Self { major: 10, minor: 39, revision: 0 }
    }
}

/// A container: one isolation context, one MC portal of its own, and objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its number; 1 is the root, which always exists.
    pub id: u32,
    /// Isolation context; its own number when left out.
    pub icid: Option<u16>,
    /// What its owner may do, as the MC numbers it; when left out: spawn, allocate, create objects, change connections,
    /// configure interrupts.
    #[serde(default = "container_options")]
    pub options: u32,
    /// MC command portals.
    #[serde(default = "one")]
    pub dpmcp: u32,
    /// Software portals.
    #[serde(default)]
    pub dpio: u32,
    /// Buffer pools.
    #[serde(default)]
    pub dpbp: u32,
    /// Concentrators.
    #[serde(default)]
    pub dpcon: u32,
    /// Message queue pairs, connected two by two in the order they are numbered.
    #[serde(default)]
    pub dpci: u32,
    /// Network interfaces.
    #[serde(default)]
    pub dpni: Vec<Dpni>,
}

/// A network interface as it is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dpni {
    /// Its number.
    pub id: u32,
    /// Its primary address; all zeros when left out.
    pub mac: Option<String>,
    /// Creation options, as `restool` and the MC number them. Left out: masked keys where the chip has them.
    pub options: Option<u32>,
    /// Receive queues per traffic class, and transmit queues per class unless "single sender" is among the options.
    #[serde(default = "eight")]
    pub queues: u8,
    /// Receive traffic classes, 1 to 8.
    #[serde(default = "one_u8")]
    pub rx_tcs: u8,
    /// Transmit traffic classes, 1 to 16.
    #[serde(default = "eight")]
    pub tx_tcs: u8,
    /// Transmit channels, 1 to 16.
    #[serde(default = "one_u8")]
    pub channels: u8,
    /// Entries of the MAC filter beside the primary address.
    #[serde(default = "eighty")]
    pub mac_filters: u8,
    /// Entries of the VLAN filter.
    #[serde(default = "sixteen")]
    pub vlan_filters: u8,
    /// Entries of the QoS table.
    #[serde(default = "sixty_four")]
    pub qos_entries: u8,
    /// Entries of each class' flow-steering table.
    #[serde(default = "sixty_four_u16")]
    pub fs_entries: u16,
    /// Congestion groups of its own.
    #[serde(default)]
    pub congestion_groups: u8,
}

fn container_options() -> u32 {
    0x4f
}
fn one() -> u32 {
    1
}
fn one_u8() -> u8 {
    1
}
fn eight() -> u8 {
    8
}
fn sixteen() -> u8 {
    16
}
fn sixty_four() -> u8 {
    64
}
fn sixty_four_u16() -> u16 {
    64
}
fn eighty() -> u8 {
    80
}

impl Dpni {
    /// An interface with the defaults a description has.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            mac: None,
            options: None,
            queues: eight(),
            rx_tcs: 1,
            tx_tcs: eight(),
            channels: 1,
            mac_filters: eighty(),
            vlan_filters: sixteen(),
            qos_entries: sixty_four(),
            fs_entries: sixty_four_u16(),
            congestion_groups: 0,
        }
    }
}

/// An Ethernet MAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dpmac {
    /// Its number.
    pub id: u32,
    /// The container that holds it; the root when left out, as on boards.
    #[serde(default = "one")]
    pub container: u32,
    /// Line rate in Mbit/s.
    #[serde(default = "ten_gigabit")]
    pub rate: u32,
    /// What the other end of its cable is.
    #[serde(default)]
    pub end: WireEnd,
}

fn ten_gigabit() -> u32 {
    10_000
}

/// The far end of a MAC's wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum WireEnd {
    /// Takes what is sent and sends nothing. Frames can be put on and taken off through the model's interface.
    #[default]
    Quiet,
    /// Gives back what is sent.
    Loop,
    /// A TAP device of this machine.
    Tap {
        /// The device's name.
        name: String,
    },
    /// Captures.
    Pcap {
        /// Frames to receive from, once.
        replay: Option<PathBuf>,
        /// Where sent frames are recorded.
        record: Option<PathBuf>,
    },
    /// Sends UDP frames as fast as they are taken, over a wire with flow control: nothing is lost on it, but for frames of
    /// receive queues that software leaves alone while it serves others. Those don't stop the wire.
    Generator {
        /// Frame length in bytes without FCS, 64 to 10,240.
        #[serde(default = "sixty_four_u16")]
        size: u16,
        /// Number of UDP flows, one source port each.
        #[serde(default = "sixteen_u16")]
        flows: u16,
        /// Frames in all; endless when left out.
        count: Option<u64>,
        /// Frames that wait at the interface at most: each look at the wire brings as many as are missing.
        #[serde(default = "thirty_two")]
        burst: u16,
        /// Frames a second at most, by this machine's clock; without limit when left out.
        rate: Option<u32>,
        /// Destination address; the connected interface's when left out.
        destination: Option<String>,
        /// Hosts that it sends to in turn: the last octets of Ethernet and IP destination count up from the first one's.
        #[serde(default = "one_u8")]
        hosts: u8,
    },
}

fn sixteen_u16() -> u16 {
    16
}
fn thirty_two() -> u16 {
    32
}

/// A link. An interface may be linked with itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// One end, such as `dpni.1`.
    pub a: String,
    /// The other, such as `dpmac.1`.
    pub b: String,
}

/// What is wrong with a description.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It isn't TOML, or has unknown or missing keys.
    #[error("the model's description can't be read")]
    Syntax(#[from] toml::de::Error),
    /// A value is out of its range.
    #[error("{object}: {what}")]
    Value {
        /// The object it belongs to.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// The system refused memory or a file.
    #[error("the system refuses {what}")]
    System {
        /// What was asked for.
        what: String,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
}

fn wrong(object: impl ToString, what: impl ToString) -> DescriptionError {
    DescriptionError::Value { object: object.to_string(), what: what.to_string() }
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// [`DescriptionError`] says where and what.
    pub fn from_toml(text: &str) -> Result<Self, DescriptionError> {
        let this: Self = toml::from_str(text)?;
        this.check()?;
        Ok(this)
    }

    /// Checks ranges, references and uniqueness.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), DescriptionError> {
        let mut known = BTreeSet::new();
        let mut add = |object: ObjectId| {
            if known.insert(object) { Ok(()) } else { Err(wrong(object, "is described twice")) }
        };
        for container in &self.container {
            if container.id < 2 {
                return Err(wrong(format!("dprc.{}", container.id), "containers are numbered from 2"));
            }
            add(ObjectType::DPRC.with_id(container.id))?;
            for dpni in &container.dpni {
                add(ObjectType::DPNI.with_id(dpni.id))?;
                self.check_dpni(dpni)?;
            }
        }
        for dpmac in &self.dpmac {
            add(ObjectType::DPMAC.with_id(dpmac.id))?;
            if dpmac.rate == 0 {
                return Err(wrong(format!("dpmac.{}", dpmac.id), "a rate of 0"));
            }
        }
        let mut connected = BTreeSet::new();
        for connection in &self.connection {
            let (a, b) = connection.ends()?;
            for end in [a, b] {
                if !known.contains(&end) {
                    return Err(wrong(end, "is connected but not described"));
                }
                if ![ObjectType::DPNI, ObjectType::DPMAC].contains(&end.object_type) {
                    return Err(wrong(end, "only dpni and dpmac can be connected here"));
                }
            }
            if a.object_type == ObjectType::DPMAC && b.object_type == ObjectType::DPMAC {
                return Err(wrong(a, "a dpmac can't be connected with a dpmac"));
            }
            if !connected.insert(a) || (a != b && !connected.insert(b)) {
                return Err(wrong(a, "is connected twice"));
            }
        }
        Ok(())
    }

    pub(crate) fn check_dpni(&self, dpni: &Dpni) -> Result<(), DescriptionError> {
        let object = format!("dpni.{}", dpni.id);
        let ranges = [
            ("queues", dpni.queues, 1, 32),
            ("rx_tcs", dpni.rx_tcs, 1, 8),
            ("tx_tcs", dpni.tx_tcs, 1, 16),
            ("channels", dpni.channels, 1, 16),
            ("mac_filters", dpni.mac_filters, 1, 80),
            ("vlan_filters", dpni.vlan_filters, 0, 16),
            ("qos_entries", dpni.qos_entries, 1, 64),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(wrong(object, format!("{key} = {value} isn't in {least} to {most}")));
            }
        }
        if !(1..=1024).contains(&dpni.fs_entries) {
            return Err(wrong(object, format!("fs_entries = {} isn't in 1 to 1024", dpni.fs_entries)));
        }
        if dpni.options.is_some_and(|options| options & 0x10 != 0) && !self.soc.has_key_masking() {
            return Err(wrong(object, "this chip has no masked keys (option 0x10)"));
        }
        if let Some(mac) = &dpni.mac {
            parse_mac(mac).ok_or_else(|| wrong(&object, format!("`{mac}` isn't a MAC address")))?;
        }
        Ok(())
    }
}

impl Connection {
    /// Both ends.
    ///
    /// # Errors
    /// One of them doesn't name an object.
    pub fn ends(&self) -> Result<(ObjectId, ObjectId), DescriptionError> {
        let end = |text: &str| text.parse().map_err(|error| wrong(text, error));
        Ok((end(&self.a)?, end(&self.b)?))
    }
}

/// Six bytes written `02:00:00:00:00:01`.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_with_errors_says_which_object() {
        for (text, part) in [
            ("soc = 'lx2160a'\n[[container]]\nid = 1", "dprc.1: containers are numbered from 2"),
            (
                "soc = 'ls1088a'\n[[container]]\nid = 2\n[[container.dpni]]\nid = 1\noptions = 0x10",
                "no masked keys",
            ),
            (
                "soc = 'lx2160a'\n[[connection]]\na = 'dpni.1'\nb = 'dpmac.1'",
                "dpni.1: is connected but not described",
            ),
            ("soc = 'lx2160a'\n[[dpmac]]\nid = 1\n[[dpmac]]\nid = 1", "dpmac.1: is described twice"),
            (
                "soc = 'lx2160a'\n[[container]]\nid = 2\n[[container.dpni]]\nid = 1\nmac = '1:2'",
                "isn't a MAC address",
            ),
            (
                "soc = 'lx2160a'\n[[container]]\nid = 2\n[[container.dpni]]\nid = 1\nqueues = 33",
                "queues = 33",
            ),
        ] {
            let error = Description::from_toml(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn unknown_keys_and_chips_are_refused() {
        assert!(Description::from_toml("soc = 'lx2160a'\ncolour = 'red'").is_err());
        assert!(Description::from_toml("soc = 'ls9999a'").is_err());
    }
}
