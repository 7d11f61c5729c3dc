//! Why a command failed, in words.

use std::fmt;

use dpaa2_defs::mc::header::{Command, CommandId, Status};
use dpaa2_defs::mc::object::ObjectId;
use fslmc_bus::PortalError;

/// A command that failed.
#[derive(Debug)]
pub struct McError {
    /// The object it was for; none for commands to the MC itself.
    pub object: Option<ObjectId>,
    /// The command as people say it: "set pools".
    pub command: &'static str,
    /// Its number and version.
    pub id: CommandId,
    /// What happened.
    pub failure: Failure,
}

/// How a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The MC refused.
    Status(Status),
    /// There is no answer.
    Portal(PortalError),
    /// The answer makes no sense.
    Nonsense(&'static str),
    /// The commands went well, and what they were to bring about hasn't come about in time.
    StillEnabled,
}

impl McError {
    pub(crate) fn new<C: Command>(object: Option<ObjectId>, failure: Failure) -> Self {
        Self { object, command: C::NAME, id: C::CMD, failure }
    }

    /// The status, if the MC refused.
    pub fn status(&self) -> Option<Status> {
        match self.failure {
            Failure::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Whether this firmware doesn't know the command, or not in this version.
    pub fn is_unsupported(&self) -> bool {
        self.status() == Some(Status::UNSUPPORTED)
    }

    /// What an operator can do.
    pub fn remedy(&self) -> &'static str {
        match &self.failure {
            Failure::Status(status) => meaning(*status).1,
            Failure::Portal(PortalError::Timeout(_)) => {
                "look at the MC's log (`cat /dev/fsl_mc_console`, or /sys/kernel/debug) and restart the board if it has crashed"
            }
            Failure::Portal(PortalError::Stuck) => {
                "wait, or use another dpmcp: an earlier command is still unanswered"
            }
            Failure::Portal(PortalError::Bus(_)) => {
                "see what the system said; `ringway fslmc check` looks for its cause"
            }
            Failure::Nonsense(_) => {
                "check that the MC firmware is one this program knows: `ringway fslmc check`"
            }
            Failure::StillEnabled => {
                "check that something consumes its queues and confirmations; resetting the object empties them"
            }
        }
    }
}

/// What a status means, and what to do about it. NXP documents only the names: this is inferred from use.
fn meaning(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::READY => ("the MC hasn't finished", "try again"),
        Status::AUTHENTICATION => (
            "the object isn't open on this portal",
            "nothing else may close or reset the container's objects while they are used: end other users of it",
        ),
        Status::NO_PRIVILEGE => (
            "the container may not do this",
            "create the container with the option this takes (`restool dprc show` lists them), or do it with restool from dprc.1",
        ),
        Status::DMA => (
            "the MC can't reach memory it was given",
            "the memory must be mapped for the container's DMA for as long as the command runs",
        ),
        Status::CONFIGURATION => (
            "a parameter is wrong, or there is no such object",
            "compare with the object's attributes: `ringway fslmc show OBJECT`",
        ),
        Status::TIMEOUT => ("something inside the MC didn't answer", "try again, then restart the board"),
        Status::NO_RESOURCE => (
            "the container has none left of what this takes",
            "give the container more (`restool … create --container=`), or use fewer queues, pools or entries",
        ),
        Status::NO_MEMORY => (
            "the MC is out of memory",
            "use fewer objects, or larger MC memory in the boot loader (mcmemsize)",
        ),
        Status::BUSY => ("the object is in use", "end the other user of the object, or reset it"),
        Status::UNSUPPORTED => (
            "this firmware doesn't know the command, or not in this version",
            "load newer MC firmware (10.32 at least; `ringway fslmc check` shows the version)",
        ),
        Status::INVALID_STATE => {
            ("the object isn't in the state for it", "disable or reset the object first")
        }
        _ => (
            "a status this program doesn't know",
            "load MC firmware that this program knows (major version 10)",
        ),
    }
}

impl fmt::Display for McError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object {
            Some(object) => write!(f, "{object}: ")?,
            None => f.write_str("MC: ")?,
        }
        write!(f, "{} ({}): ", self.command, self.id)?;
        match &self.failure {
            Failure::Status(status) => write!(f, "{status}: {}", meaning(*status).0)?,
            Failure::Portal(error) => error.fmt(f)?,
            Failure::Nonsense(what) => write!(f, "the MC's answer makes no sense: {what}")?,
            Failure::StillEnabled => f.write_str("it still works after the time it has to stop")?,
        }
        write!(f, "; {}", self.remedy())
    }
}

impl std::error::Error for McError {}
