//! Buffer pools.

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dpbp;
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::{Disabled, Enabled, Object, State, Stateful};

/// A buffer pool. Its number in hardware, the bpid, is among its attributes.
#[derive(Debug)]
pub struct Dpbp<S: State = Disabled>(Stateful<S>);

stateful!(Dpbp, dpbp);

impl Dpbp<Enabled> {
    /// Stops it. What is in it stays there. It is closed if that fails.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn disable(self) -> Result<Dpbp<Disabled>, McError> {
        self.0.disable().map(Dpbp)
    }
}

impl<S: State> Dpbp<S> {
    /// How many buffers are in it.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn free_buffers(&self) -> Result<u32, McError> {
        self.handle().execute(&dpbp::GetFreeBuffers {}).map(|free| free.count.get())
    }
}
