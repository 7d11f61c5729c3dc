//! The configuration file: types, checks, differences, schema.
//!
//! A file is TOML. [`parse`] (or [`load`]) makes a [`Config`] of it, in which contradictions can't be written, or
//! [`ConfigErrors`] with everything that is wrong, each with the key's path and line:
//!
//! ```
//! use switch_config::{Context, parse};
//!
//! let config = parse("[[bridge]]\nname = 'br0'\n", &Context::default()).unwrap();
//! assert_eq!(config.bridges[0].name.as_str(), "br0");
//!
//! let errors = parse("[[bridge]]\nnane = 'br0'\n", &Context::default()).unwrap_err();
//! assert_eq!(errors.all()[1].to_string(), "line 2, column 1: bridge[0].nane: unknown key `nane`; did you mean `name`? \
//!     (allowed: name, mac_ageing_s, mac_limit, mac_limit_per_port)");
//! ```
//!
//! # A new key
//!
//! Add it to its section in `keys.rs` (that makes the reader and the schema), to the type in `config.rs`, convert
//! it in `check.rs`, print it in `print.rs`, and say in `diff.rs` whether it can change while the switch runs.
//! A new section is one more entry of `File`. Tests parse every example and print and parse it again.

mod check;
mod config;
mod diff;
mod error;
mod flows;
mod fuzz;
mod keys;
mod load;
mod print;
mod read;
mod schema;
mod types;

pub use check::{Context, MATCHES_MAX, PARTITIONS_MAX, PORTS_MAX};
pub use config::*;
pub use diff::{Change, Diff, Fixed, diff};
pub use error::{ConfigError, ConfigErrors, LoadError};
pub use flows::PortNumbers;
pub use fuzz::fuzz_config;
pub use keys::DEFAULT_CONTROL_SOCKET;
pub use load::{FILE_BYTES_MAX, load, parse, parse_file, read as read_file, this_machine};
pub use print::{PartitionPlace, print, print_port, print_with_partition};
pub use schema::schema;
pub use types::{
    BridgeName, CpuId, CpuSet, Dpbp, Dpni, Dprc, EtherAddr, FileMode, GuestName, HostAddr, IfName, Invalid,
    MacAddr, Mtu, NetnsName, OwnerWord, PartitionName, PortName, PortNumber, QueuePairs, QueueRange,
    SocketPath, VlanId,
};
