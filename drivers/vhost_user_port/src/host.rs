//! The seam to the switch.

use std::fmt;

use port::{RxQueue, TxQueue};
use serde::{Deserialize, Serialize};

use crate::state::PortState;

/// Which way frames go through a queue, as the switch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the guest.
    Rx,
    /// To the guest.
    Tx,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Rx => "rx",
            Direction::Tx => "tx",
        })
    }
}

/// Takes a port's queues to the workers and back. The calls are synchronous: when one returns, the worker has
/// the queue, or has let go of it between two bursts (microseconds).
pub trait QueueHost {
    /// Gives a receive queue to a worker.
    fn attach_rx(&mut self, pair: u16, queue: Box<dyn RxQueue>);

    /// Takes a receive queue back, the very one that was attached; also after its worker reported a fault.
    /// `None` when there is none.
    fn detach_rx(&mut self, pair: u16) -> Option<Box<dyn RxQueue>>;

    /// Gives a transmit queue to the workers.
    fn attach_tx(&mut self, pair: u16, queue: Box<dyn TxQueue>);

    /// Takes a transmit queue back; otherwise as [`detach_rx`](Self::detach_rx).
    fn detach_tx(&mut self, pair: u16) -> Option<Box<dyn TxQueue>>;

    /// Something that is shown of the port has changed.
    fn state_changed(&mut self, state: PortState);

    /// The guest with this address has moved here: tell the network (by a reverse ARP sent as if by the port).
    fn announce(&mut self, mac: [u8; 6]);
}
