//! What can be done to a frame: [`Op`]s, and their execution on a burst's heads.
//!
//! The pipeline flattens everything a frame's rules say (apply, write_actions, resubmit, goto_table) into one
//! list of operations, which a cache keeps and a worker executes.

mod edit;
mod vlan;

pub use edit::apply;
pub use vlan::{has_tag, pop_vlan, push_vlan};

use flow::Field;

/// One step of what is done to a frame. A program is a list of them; an empty one drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sends to this port; not back to the port the frame came from.
    Output(u16),
    /// Sends back to the port the frame came from.
    InPort,
    /// The learning bridge decides.
    Normal,
    /// To all ports of the frame's VLAN but the one it came from.
    Flood,
    /// To all ports of the bridge but the one it came from.
    All,
    /// Hands the frame's first `max_len` bytes to the controller queue.
    Controller {
        /// Most bytes handed over.
        max_len: u16,
    },
    /// Writes the bits of `mask` in a header field (no-op on a frame without that header).
    Set {
        /// The field; one that stands in the packet.
        field: Field,
        /// Its new bits.
        value: u128,
        /// Which bits are written.
        mask: u128,
    },
    /// Pushes a tag with this Ethernet type, VLAN 0 or a copy of the tag that was outermost.
    PushVlan(u16),
    /// Removes the outermost tag; no-op without one.
    PopVlan,
    /// Decrements TTL or hop limit; the frame is dropped when it was 1 or less.
    DecTtl,
}
