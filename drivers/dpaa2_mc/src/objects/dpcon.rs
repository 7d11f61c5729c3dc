//! Channels that many frame queues feed.

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dpcon;
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::{Disabled, Enabled, Object, State, Stateful};

/// A channel. Its number in hardware is among its attributes.
#[derive(Debug)]
pub struct Dpcon<S: State = Disabled>(Stateful<S>);

stateful!(Dpcon, dpcon);

impl Dpcon<Enabled> {
    /// Stops it. It is closed if that fails.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn disable(self) -> Result<Dpcon<Disabled>, McError> {
        self.0.disable().map(Dpcon)
    }
}

impl<S: State> Dpcon<S> {
    /// Has a DPIO told, with this context, when a frame arrives. The portal's channel must have that many priorities.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn set_notification(&self, dpio_id: u32, priority: u8, context: u64) -> Result<(), McError> {
        self.handle().execute(&dpcon::SetNotification {
            dpio_id: dpio_id.into(),
            priority,
            context: context.into(),
            ..Default::default()
        })
    }

    /// Has nobody told.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn clear_notification(&self) -> Result<(), McError> {
        self.set_notification(dpcon::SetNotification::NO_DPIO, 0, 0)
    }
}
