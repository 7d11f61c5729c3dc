//! The learning bridge: what the action NORMAL does.
//!
//! - [`Fdb`]: the MAC table, shared by all workers without locks.
//! - [`PortVlan`]: how a port takes part in VLANs; [`BridgePorts`]: the ports of a bridge.
//! - [`normal`]: learns the source, finds the destination, says where a frame goes ([`Forward`]).
//! - [`NormalMemo`]: a worker's memory of its last answers, which most frames repeat.
//!
//! Pure: time is handed in, in seconds.

mod fdb;
mod normal;
mod vlan;

pub use fdb::{Fdb, FdbEntry, FdbLimits, Learned, NoRoom};
pub use normal::{BridgePorts, EthHead, Forward, NormalMemo, normal};
pub use vlan::{PortVlan, TagOp, VlanSet};
