//! A container on a bus, with the MC behind it.

use std::time::Duration;

use dpaa2_defs::mc::dprc::ObjectDescriptor;
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use fslmc_bus::{Bus, BusError, Device};

use crate::error::McError;
use crate::mc::{COMMAND_TIMEOUT, Mc};
use crate::objects::Dprc;

/// A container, opened on a bus and at the MC, with the list of what it holds.
#[derive(Debug)]
pub struct Container<B: Bus> {
    bus: B,
    mc: Mc,
    dprc: Dprc,
    objects: Vec<ObjectDescriptor>,
    /// The object whose portal carries the commands.
    portal: B::Device,
}

/// Why something couldn't be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The system is in the way.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The MC is in the way.
    #[error(transparent)]
    Mc(#[from] McError),
}

impl<B: Bus> Container<B> {
    /// Opens the container of a bus: through its first dpmcp, or, if it has none, through its own portal.
    ///
    /// # Errors
    /// The system or the MC refuses.
    pub fn open(bus: B) -> Result<Self, SetupError> {
        Self::open_with_timeout(bus, COMMAND_TIMEOUT)
    }

    /// The same, with another limit for each command: a model answers at once or never.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn open_with_timeout(bus: B, timeout: Duration) -> Result<Self, SetupError> {
        let dpmcp = bus.objects()?.into_iter().find(|object| object.object_type == ObjectType::DPMCP);
        let portal = bus.open(dpmcp.unwrap_or(bus.container()))?;
        let mc = Mc::new(portal.command_portal()?).with_timeout(timeout);
        let dprc = Dprc::open(&mc, bus.container().id)?;
        let objects = dprc.objects()?;
        Ok(Self { bus, mc, dprc, objects, portal })
    }

    /// The bus.
    pub fn bus(&self) -> &B {
        &self.bus
    }

    /// The MC.
    pub fn mc(&self) -> &Mc {
        &self.mc
    }

    /// The container as an object.
    pub fn dprc(&self) -> &Dprc {
        &self.dprc
    }

    /// The object whose portal carries the commands: a dpmcp, or the container itself.
    pub fn portal(&self) -> ObjectId {
        self.portal.object()
    }

    /// What the container held when it was opened, sorted by type and number.
    pub fn objects(&self) -> &[ObjectDescriptor] {
        &self.objects
    }

    /// The objects of a type that a driver may use, by number.
    pub fn ids(&self, object_type: ObjectType) -> impl Iterator<Item = ObjectId> + '_ {
        let plugged = self.objects.iter().filter(|descriptor| descriptor.is_plugged());
        plugged.map(ObjectDescriptor::object).filter(move |object| object.object_type == object_type)
    }

    /// Opens an object on the bus and at the MC, for instance with [`crate::Dpni::open`]. The device must be kept for as
    /// long as the object is used.
    ///
    /// # Errors
    /// The object isn't there, or is in use.
    pub fn take<T>(
        &self,
        object: ObjectId,
        open: impl FnOnce(&Mc, u32) -> Result<T, McError>,
    ) -> Result<(B::Device, T), SetupError> {
        let device = self.bus.open(object)?;
        Ok((device, open(&self.mc, object.id)?))
    }
}
