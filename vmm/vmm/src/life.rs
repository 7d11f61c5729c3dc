//! How a machine ends.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protocol::GuestCounts;

/// How a machine has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// In which way.
    pub kind: EndKind,
    /// What there is to say about it: where a guest that crashed was, who stopped it.
    pub detail: String,
    /// What the micro-guest has counted, if that was what ran.
    pub guest: Option<GuestCounts>,
}

/// In which way a machine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// The guest has powered off.
    PowerOff,
    /// The guest has ended with this code.
    Exit(u8),
    /// It was stopped from outside.
    Stopped,
    /// The guest has failed for good.
    Crashed,
    /// The machine could not be started or go on.
    Failed,
}

impl End {
    pub(crate) fn new(kind: EndKind, detail: impl Into<String>) -> End {
        End { kind, detail: detail.into(), guest: None }
    }

    /// Whether it is a failure, which a restart may cure.
    pub fn is_failure(&self) -> bool {
        match self.kind {
            EndKind::PowerOff | EndKind::Stopped | EndKind::Exit(0) => false,
            EndKind::Exit(_) | EndKind::Crashed | EndKind::Failed => true,
        }
    }

    /// The exit code of the machine's process: 0 for an end in order, the guest's code, 120 and 121 for a crash and
    /// a failure.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            EndKind::PowerOff | EndKind::Stopped => 0,
            EndKind::Exit(code) => code,
            EndKind::Crashed => 120,
            EndKind::Failed => 121,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EndKind::PowerOff => write!(f, "powered off")?,
            EndKind::Exit(code) => write!(f, "ended with code {code}")?,
            EndKind::Stopped => write!(f, "stopped")?,
            EndKind::Crashed => write!(f, "crashed")?,
            EndKind::Failed => write!(f, "failed")?,
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}
