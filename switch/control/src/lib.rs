//! The control socket: requests, answers, both ends; tables and metrics from the same rows.
//!
//! The protocol is a line of JSON each way over a Unix stream socket (`docs/control.md`):
//!
//! ```text
//! > {"version":1,"id":1,"request":"show-ports"}
//! < {"version":1,"id":1,"ok":{"ports":[{"name":"vm0", ...}]}}
//! > {"version":1,"id":2,"request":{"flow-add":{"bridge":"br0","flow":"in_port=vm9,actions=drop"}}}
//! < {"version":1,"id":2,"error":{"kind":"invalid","message":"..."}}
//! ```
//!
//! [`Client`] asks; [`serve`] answers with a [`Handler`], the switch. The [rows] in answers are also what
//! [tables](table) for people, the [`Summary`] of a run and [metrics](mod@metrics) are made of.

pub mod client;
pub mod handover;
pub mod metrics;
mod protocol;
pub mod rows;
mod server;
mod socket;
pub mod table;

pub use client::{Client, ClientError};
pub use protocol::{
    Answer, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Refusal, RefusalKind, Request, VERSION, fuzz_request,
};
pub use rows::{
    BridgeRow, Bucket, CacheRow, ConfigText, FdbRow, FlowRow, GuestRow, HardwareRow, LimitRow,
    PartitionQueueRow, PartitionRow, PoolLevel, PortRow, PortState, PuntRow, QueueRow, Snapshot, StageRow,
    Status, Summary, TakeOverRow, WorkerRow,
};
pub use server::{CONNECTIONS_MAX, Handler, serve};
pub use socket::{BindError, ControlSocket};
