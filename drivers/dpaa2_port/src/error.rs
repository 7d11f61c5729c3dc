//! Why a port can't be opened, or a request to it failed.

use dpaa2_defs::mc::object::ObjectId;
use dpaa2_mc::{McError, SetupError};
use dpaa2_qbman::PortalError;
use fslmc_bus::BusError;

/// What went wrong, with the object and what it said.
#[derive(Debug, thiserror::Error)]
pub enum Dpaa2Error {
    /// The container has no object of a type left.
    #[error(
        "{container} has no free {object_type}: {need}; create one in it with `restool {object_type} create \
         --container={container}`"
    )]
    NotEnough {
        /// The container.
        container: ObjectId,
        /// What is missing.
        object_type: &'static str,
        /// What it is for.
        need: &'static str,
    },
    /// The Management Complex refused a command, or didn't answer.
    #[error(transparent)]
    Mc(#[from] McError),
    /// The system refused something.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A software portal failed.
    #[error("{object}: {cause}")]
    Portal {
        /// The portal.
        object: ObjectId,
        /// How.
        cause: PortalError,
    },
    /// The firmware took a setting, and says another one when it is asked.
    #[error("{object}: {what} was set, but is not what it reads back")]
    ReadBack {
        /// The object.
        object: ObjectId,
        /// What, with both values where there are two.
        what: String,
    },
    /// The interface didn't stop when it was told to, and can't be used any more.
    #[error("the interface failed while it was stopped")]
    Lost,
    /// The configuration asks for what the object doesn't have.
    #[error("{object}: {what}")]
    Config {
        /// The object.
        object: ObjectId,
        /// What, with what is possible.
        what: String,
    },
}

impl From<SetupError> for Dpaa2Error {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Bus(error) => Dpaa2Error::Bus(error),
            SetupError::Mc(error) => Dpaa2Error::Mc(error),
        }
    }
}
