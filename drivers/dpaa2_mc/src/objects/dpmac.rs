//! Ethernet MACs.

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dpmac;
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::Object;
use crate::statistics::NamedCounter;

/// An Ethernet MAC. Usually it belongs to the root container, out of reach; an interface that is connected to it tells of
/// its link.
#[derive(Debug)]
pub struct Dpmac(Object);

impl Dpmac {
    /// Opens the object with this number.
    ///
    /// # Errors
    /// There is no such object in the container, or it is in use.
    pub fn open(mc: &Mc, id: u32) -> Result<Self, McError> {
        Object::open::<dpmac::Open>(mc, id).map(Self)
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
        self.0.api_version::<dpmac::Open>()
    }

    /// What it is.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn attributes(&self) -> Result<dpmac::Attributes, McError> {
        self.0.execute(&dpmac::GetAttributes {})
    }

    /// Its own address, in the order of the wire.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn mac_address(&self) -> Result<[u8; 6], McError> {
        self.0.execute(&dpmac::GetMacAddress {}).map(|field| field.address.octets())
    }

    /// Its counters. Those this firmware doesn't know are left out.
    ///
    /// # Errors
    /// The MC doesn't answer in time.
    pub fn counters(&self) -> Result<Vec<NamedCounter>, McError> {
        let mut counters = Vec::with_capacity(dpmac::COUNTERS.len());
        for (id, name) in (0..).zip(dpmac::COUNTERS) {
            match self.0.execute(&dpmac::GetCounter { id }) {
                Ok(counter) => counters.push(NamedCounter { name: name.into(), value: counter.value.get() }),
                Err(error) if error.status().is_some() => (),
                Err(error) => return Err(error),
            }
        }
        Ok(counters)
    }

    /// Closes it.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn close(self) -> Result<(), McError> {
        self.0.close()
    }
}
