//! Software portals.

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dpio;
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::{Disabled, Enabled, Object, State, Stateful};

/// A software portal as the MC sees it: switched on and off, fed by channels. What goes through it isn't the MC's
/// business.
#[derive(Debug)]
pub struct Dpio<S: State = Disabled>(Stateful<S>);

stateful!(Dpio, dpio);

impl Dpio<Enabled> {
    /// Stops it. It is closed if that fails.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn disable(self) -> Result<Dpio<Disabled>, McError> {
        self.0.disable().map(Dpio)
    }
}

impl<S: State> Dpio<S> {
    /// Says which cluster's cache it writes into: the chip's first number, plus processor divided by processors per
    /// cluster. A hint.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn set_stashing_destination(&self, destination: u8) -> Result<(), McError> {
        self.handle().execute(&dpio::SetStashingDestination { destination })
    }

    /// Lets it dequeue by itself from a DPCON's channel. Gives the channel's bit among the sources of the static dequeue
    /// command (SDQCR).
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn add_static_dequeue_channel(&self, dpcon_id: u32) -> Result<u8, McError> {
        let channel = self.handle().execute(&dpio::AddStaticDequeueChannel { dpcon_id: dpcon_id.into() })?;
        Ok(channel.channel_index)
    }

    /// Ends what [`Dpio::add_static_dequeue_channel`] began.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn remove_static_dequeue_channel(&self, dpcon_id: u32) -> Result<(), McError> {
        self.handle().execute(&dpio::RemoveStaticDequeueChannel { dpcon_id: dpcon_id.into() })
    }
}
