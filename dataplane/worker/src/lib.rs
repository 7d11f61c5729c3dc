//! One poll loop per core.
//!
//! A [`Worker`] owns its receive queues. A turn of its loop serves each of them once: receive a burst, decide
//! for every frame, execute, transmit, release. In between it takes what control has put into its [`Mailbox`]:
//! a new [`Plane`] (everything it knows of bridges, ports and rules), a queue more or less.
//!
//! ```text
//!  receive ──> shortcut by port ────────────────┐
//!     │                                         ├─> act ──> transmit (one burst per receiver) ──> release
//!     └─> parse ─> exact ─> megaflow ─> rules ──┘
//! ```
//!
//! After its start a worker doesn't allocate, lock (but for the turn on a shared transmit queue), log or make
//! system calls while frames arrive; without frames it goes to sleep, see [`Idle`].

mod cache;
mod divided;
mod engine;
mod mailbox;
mod offloads;
mod outputs;
mod partition;
mod plane;
mod poll;
mod punt;
mod stats;

pub use cache::{CacheSizes, VERDICT_MAX};
pub use engine::INSERTS_PER_MS;
pub use mailbox::{Command, Done, FaultReport, FaultSink, Mailbox, Pending, RxSlot};
pub use partition::{
    PARTITIONS_MAX, Part, Partition, PartitionCounters, Partitions, QueueCounters, Queues, Sorted, Source,
    Spread,
};
pub use plane::{BridgePlane, Outcome, Plane, PortPlane, Rules, TxPort, Verdict};
pub use poll::{Clock, Idle, WORTH_SLEEPING_US, Worker, WorkerConfig};
pub use punt::{PUNT_BYTES, Punt, PuntQueue};
pub use stats::{BURST_BUCKETS, CYCLE_BUCKETS, Stage, WorkerStats};
