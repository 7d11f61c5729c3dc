//! A channel between a frame queue and a portal, so that the portal can be told of frames.

use std::sync::{Arc, Weak};

use dpaa2_defs::mc::object::ObjectType;
use dpaa2_mc::{Dpcon, Enabled};
use fslmc_bus::Bus;

use crate::Dpaa2Error;
use crate::hardware::Inner;

/// A DPCON in use. Its number goes back when dropped.
pub(crate) struct Channel<B: Bus> {
    dpcon: Option<Dpcon<Enabled>>,
    id: u32,
    /// The channel's number, as portal commands name it.
    pub number: u16,
    _device: B::Device,
    hardware: Weak<Inner<B>>,
}

impl<B: Bus> Channel<B> {
    /// Takes a free DPCON, if there is one.
    pub fn open(hardware: &Arc<Inner<B>>) -> Result<Option<Channel<B>>, Dpaa2Error> {
        let Some(id) = hardware.free_dpcons.lock().expect("no holder panics").pop() else { return Ok(None) };
        let opened = Self::open_id(hardware, id);
        if opened.is_err() {
            hardware.free_dpcons.lock().expect("no holder panics").push(id);
        }
        opened.map(Some)
    }

    fn open_id(hardware: &Arc<Inner<B>>, id: u32) -> Result<Channel<B>, Dpaa2Error> {
        let (device, dpcon) = hardware.take(ObjectType::DPCON.with_id(id), Dpcon::open)?;
        let dpcon = dpcon.reset()?.enable()?;
        let number = dpcon.attributes()?.channel_id.get();
        Ok(Channel { dpcon: Some(dpcon), id, number, _device: device, hardware: Arc::downgrade(hardware) })
    }

    /// The DPCON's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Has this portal told when a frame arrives. (It asks each time: see `ConfigureChannel`.)
    pub fn notify(&self, dpio: u32) -> Result<(), Dpaa2Error> {
        let dpcon = self.dpcon.as_ref().expect("taken in drop only");
        Ok(dpcon.set_notification(dpio, 0, 0)?)
    }
}

impl<B: Bus> Drop for Channel<B> {
    fn drop(&mut self) {
        let dpcon = self.dpcon.take().expect("taken here only");
        if let Err(error) = dpcon.clear_notification().and_then(|()| dpcon.disable()).and_then(Dpcon::reset) {
            tracing::warn!("closing a channel: {error}");
        }
        if let Some(hardware) = self.hardware.upgrade() {
            hardware.free_dpcons.lock().expect("no holder panics").push(self.id);
        }
    }
}
