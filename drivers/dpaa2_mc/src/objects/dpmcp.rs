//! Command portals.

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dpmcp;
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::Object;

/// A command portal as an object; what it carries goes through [`Mc`].
#[derive(Debug)]
pub struct Dpmcp(Object);

impl Dpmcp {
    /// Opens the object with this number.
    ///
    /// # Errors
    /// There is no such object in the container, or it is in use.
    pub fn open(mc: &Mc, id: u32) -> Result<Self, McError> {
        Object::open::<dpmcp::Open>(mc, id).map(Self)
    }

    /// Which object it is.
    pub fn object(&self) -> ObjectId {
        self.0.id()
    }

    /// The version of its commands.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn api_version(&self) -> Result<ApiVersion, McError> {
        self.0.api_version::<dpmcp::Open>()
    }

    /// What it is.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn attributes(&self) -> Result<dpmcp::Attributes, McError> {
        self.0.execute(&dpmcp::GetAttributes {})
    }

    /// Closes it.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn close(self) -> Result<(), McError> {
        self.0.close()
    }
}
