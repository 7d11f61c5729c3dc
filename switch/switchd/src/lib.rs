//! The running switch: the control thread and what it owns.
//!
//! [`Dataplane`] is control's side of the workers: threads, planes, queues.

mod dataplane;

pub use dataplane::{BridgeSetup, Dataplane, PortSetup, WorkersSetup};
