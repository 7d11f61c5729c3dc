//! The MC: a command portal with many users.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dpaa2_defs::mc::common::Openable;
use dpaa2_defs::mc::header::{Command, Frame, Status};
use dpaa2_defs::mc::object::ObjectId;
use dpaa2_defs::mc::{dpmng, dprc};
use fslmc_bus::CommandPortal;

use crate::error::{Failure, McError};

/// How long the MC has to answer a command, unless something else is said. What the Linux kernel grants a command that
/// a program sends through it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// A command portal, shared by the objects opened through it. Clones share it; one command at a time passes.
#[derive(Clone)]
pub struct Mc {
    portal: Arc<Mutex<dyn CommandPortal>>,
    timeout: Duration,
}

impl fmt::Debug for Mc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mc").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Mc {
    /// Uses a portal.
    pub fn new(portal: impl CommandPortal) -> Self {
        Self { portal: Arc::new(Mutex::new(portal)), timeout: COMMAND_TIMEOUT }
    }

    /// The same, with another limit for each command.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends a command of this project's version, and gives the response's parameters.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub(crate) fn execute<C: Command>(
        &self,
        object: Option<ObjectId>,
        token: u16,
        command: &C,
    ) -> Result<C::Response, McError> {
        self.execute_version(object, token, command, C::CMD.version)
    }

    /// The same, in another version of the command.
    pub(crate) fn execute_version<C: Command>(
        &self,
        object: Option<ObjectId>,
        token: u16,
        command: &C,
        version: u8,
    ) -> Result<C::Response, McError> {
        let request = Frame::request_with_version(token, command, version);
        Ok(self.transact::<C>(object, &request)?.read())
    }

    fn transact<C: Command>(&self, object: Option<ObjectId>, request: &Frame) -> Result<Frame, McError> {
        let failed = |failure| McError::new::<C>(object, failure);
        // A thread that panicked within a portal's code left at most an unanswered command, which the portal knows of.
        let mut portal = self.portal.lock().unwrap_or_else(PoisonError::into_inner);
        let response =
            portal.execute(&request.words(), self.timeout).map_err(|error| failed(Failure::Portal(error)))?;
        let response = Frame::from_words(response);
        match response.header.status {
            Status::OK => Ok(response),
            status => Err(failed(Failure::Status(status))),
        }
    }

    /// Opens an object and gives its token.
    pub(crate) fn open<O: Openable>(&self, object: ObjectId) -> Result<u16, McError> {
        let response = self.transact::<O>(Some(object), &Frame::request(0, &O::with_id(object.id)))?;
        match response.header.token.get() {
            0 => Err(McError::new::<O>(Some(object), Failure::Nonsense("an open object without a token"))),
            token => Ok(token),
        }
    }

    /// The firmware's version.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn version(&self) -> Result<dpmng::Version, McError> {
        self.execute(None, 0, &dpmng::GetVersion {})
    }

    /// Which system-on-chip this is.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn soc_version(&self) -> Result<dpmng::SocVersion, McError> {
        self.execute(None, 0, &dpmng::GetSocVersion {})
    }

    /// The container that owns this portal.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn container_id(&self) -> Result<u32, McError> {
        self.execute(None, 0, &dprc::GetContainerId {}).map(|container| container.id.get())
    }
}
