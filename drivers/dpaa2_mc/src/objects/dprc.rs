//! Containers.

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dprc::{
    self, Connection, GetConnection, GetObject, GetObjectCount, GetObjectRegion, ObjectDescriptor,
    ObjectRegion,
};
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::Object;

/// A container.
#[derive(Debug)]
pub struct Dprc(Object);

impl Dprc {
    /// Opens the container with this number.
    ///
    /// # Errors
    /// The portal's container is neither it nor its parent.
    pub fn open(mc: &Mc, id: u32) -> Result<Self, McError> {
        Object::open::<dprc::Open>(mc, id).map(Self)
    }

    /// Which object it is.
    pub fn object(&self) -> ObjectId {
        self.0.id()
    }

    /// The open object, for commands without a method here.
    pub fn handle(&self) -> &Object {
        &self.0
    }

    /// The version of its commands.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn api_version(&self) -> Result<ApiVersion, McError> {
        self.0.api_version::<dprc::Open>()
    }

    /// What it is.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn attributes(&self) -> Result<dprc::Attributes, McError> {
        self.0.execute(&dprc::GetAttributes {})
    }

    /// The objects in it, sorted by type and number. One that vanishes while the list is read is left out.
    ///
    /// # Errors
    /// The MC refuses to count them, or doesn't answer in time.
    pub fn objects(&self) -> Result<Vec<ObjectDescriptor>, McError> {
        let count = self.0.execute(&GetObjectCount {})?.count.get();
        let mut objects = Vec::new();
        for index in 0..count {
            match self.0.execute(&GetObject { index: index.into() }) {
                Ok(descriptor) => objects.push(descriptor),
                // The list got shorter since it was counted.
                Err(error) if error.status().is_some() => break,
                Err(error) => return Err(error),
            }
        }
        objects.sort_unstable_by_key(ObjectDescriptor::object);
        Ok(objects)
    }

    /// What an object's interface is connected to: interface 0 but for switches and demultiplexers.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time. Some firmware refuses for objects that aren't connected.
    pub fn connection(&self, object: ObjectId, interface: u16) -> Result<Connection, McError> {
        self.0.execute(&GetConnection {
            id: object.id.into(),
            interface: interface.into(),
            object_type: object.object_type,
            ..Default::default()
        })
    }

    /// Where a region of an object is.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn region(&self, object: ObjectId, index: u8) -> Result<ObjectRegion, McError> {
        let api = self.api_version()?;
        let version = dprc::get_object_region_version(api.major.get(), api.minor.get());
        let command = GetObjectRegion {
            object_id: object.id.into(),
            index,
            object_type: object.object_type,
            ..Default::default()
        };
        self.0.execute_version(&command, version)
    }

    /// Lets its interrupt 0 fire on [`dprc::event`]s, from now on.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn arm_events(&self, events: u32) -> Result<(), McError> {
        self.0.arm_events(events)
    }

    /// The [`dprc::event`]s that have happened since this was asked last.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn take_events(&self) -> Result<u32, McError> {
        self.0.take_events()
    }

    /// Closes it.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn close(self) -> Result<(), McError> {
        self.0.close()
    }
}
