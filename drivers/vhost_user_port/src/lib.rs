//! A switch port on vhost-user: the back-end's side of a connection.
//!
//! ```text
//!  front-end (VMM, DPDK, our own guest)
//!     | Unix socket: messages with file descriptors
//!  serve()        waits for or makes the connection, reads messages no faster than a budget allows
//!     | Message
//!  Session        the state of the device: features, memory table, rings. No I/O but on descriptors it was given.
//!     | attach_rx, detach_rx, ...: a queue is taken out, changed and given back
//!  QueueHost      the switch: passes queues to and from its workers
//! ```
//!
//! - [`Session::handle`] takes one message at a time and answers it or refuses it as the specification says. A
//!   refusal is answered where the front-end asked for an answer, and ends the connection where it didn't.
//! - A ring runs while it has memory, size, base, addresses, a kick and is enabled. Whatever changes under a running
//!   ring, the queue is first taken back from its worker ([`QueueHost`]), so nothing is ever pulled away
//!   under a frame, and `GET_VRING_BASE` answers after the worker has let go.
//! - What a worker finds broken comes in by [`Session::queue_fault`]: that port's connection ends with the
//!   reason kept in its [`PortState`]; all its descriptors and mappings are freed.
//! - [`Session::export`] and [`Session::import`] hand a connected device to another process.
//!
//! Vring 2p is where the guest of pair p receives (our [`port::TxQueue`]), 2p+1 where it sends (our [`port::RxQueue`]).
//!
//! Known deviation: the specification lets a back-end process and discard what a guest sends on a started
//! but disabled ring. Here such a ring rests (as with DPDK's back-end): its frames wait until it is enabled.

mod config;
mod config_space;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod host;
pub mod limits;
mod serve;
mod session;
mod socket_file;
mod state;
mod takeover;
mod vring;

pub use config::{MTU_MIN, OFFERED, OFFERED_PROTOCOL, PortConfig, QUEUE_PAIRS_MAX, feature_names};
pub use host::{Direction, QueueHost};
pub use serve::{
    Commands, ExportError, PortControl, PortSocket, SavedPort, Served, SocketMode, Sockets, control, serve,
};
pub use session::{End, Refusal, Session};
pub use socket_file::SocketError;
pub use state::{Phase, PortState, VringView};
pub use takeover::{
    AddrState, AreaState, ImportError, InflightState, KickState, RegionState, STATE_VERSION, SessionState,
    VringSaved,
};
