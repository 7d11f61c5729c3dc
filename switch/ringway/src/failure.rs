//! How the command ends: its exit code, and what it says when something failed.

use std::io;
use std::process::ExitCode;

/// What a command comes to.
pub type Outcome = anyhow::Result<Verdict>;

/// Whether what was asked for is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Good,
    /// It isn't, and the command has said why.
    Bad,
}

/// The exit code, as `ringway --help` documents it. Prints an error.
pub fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(1),
        // `ringway show … | head` has seen enough: no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
