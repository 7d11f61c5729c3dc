//! `ringway check`: what is wrong with files, and what they would change.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use control::{Answer, Client, Request};
use serde::Serialize;
use switch_config::{Config, ConfigError, Context, Diff, LoadError};

use crate::args::CheckArgs;
use crate::change::unexpected;
use crate::failure::{Outcome, Verdict};
use crate::output;

/// Checks every file; any mistake in any of them is a bad verdict.
pub fn check(args: &CheckArgs) -> Outcome {
    let context = if args.any_machine { Context::default() } else { switch_config::this_machine() };
    let reports =
        args.files.iter().map(|file| report(file, &context, args)).collect::<anyhow::Result<Vec<_>>>()?;
    if args.json {
        output::json(&reports)?;
    } else {
        output::text(&reports.iter().map(ToString::to_string).collect::<String>())?;
    }
    let good = reports.iter().all(|report| report.ok);
    Ok(if good { Verdict::Good } else { Verdict::Bad })
}

/// Reads a configuration, or prints what is wrong with it on standard error.
pub fn load_or_explain(file: &Path, context: &Context) -> Option<Config> {
    match switch_config::load(file, context) {
        Ok(config) => Some(config),
        Err(error) => {
            let name = file.display().to_string();
            mistakes(error).iter().for_each(|mistake| eprintln!("{}", mistake.in_file(&name)));
            None
        }
    }
}

/// What there is to say about a file.
#[derive(Debug, Serialize)]
struct FileReport {
    file: String,
    ok: bool,
    errors: Vec<Mistake>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<DiffReport>,
}

/// A [`ConfigError`], or why there is no file to find one in.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Mistake {
    At(ConfigError),
    Whole { path: &'static str, what: String },
}

/// What the file would change.
#[derive(Debug, Serialize)]
struct DiffReport {
    changes: Vec<String>,
    /// With any of these nothing is changed.
    refused: Vec<String>,
}

impl From<Diff> for DiffReport {
    fn from(diff: Diff) -> Self {
        DiffReport {
            changes: diff.changes.iter().map(ToString::to_string).collect(),
            refused: diff.refused.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Mistake {
    /// `FILE:LINE:COLUMN: key: what (allowed: …)`, as compilers do it and editors read it.
    fn in_file(&self, file: &str) -> String {
        match self {
            Mistake::Whole { what, .. } => format!("{file}: {what}"),
            Mistake::At(ConfigError { path, line, column, what, allowed }) => {
                let key = if path.is_empty() { String::new() } else { format!("{path}: ") };
                let allowed = allowed.as_ref().map_or(String::new(), |a| format!(" (allowed: {a})"));
                format!("{file}:{line}:{column}: {key}{what}{allowed}")
            }
        }
    }
}

/// For people, with an end of line.
impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.errors {
            writeln!(f, "{}", mistake.in_file(&self.file))?;
        }
        let Some(DiffReport { changes, refused }) = &self.diff else {
            return if self.errors.is_empty() { writeln!(f, "{}: ok", self.file) } else { Ok(()) };
        };
        if changes.is_empty() && refused.is_empty() {
            return writeln!(f, "{}: nothing would change", self.file);
        }
        changes.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        refused.iter().try_for_each(|line| writeln!(f, "! {line}"))
    }
}

fn mistakes(error: LoadError) -> Vec<Mistake> {
    match error {
        LoadError::Invalid(errors) => errors.all().iter().cloned().map(Mistake::At).collect(),
        LoadError::Unreadable { cause, .. } => {
            vec![Mistake::Whole { path: "", what: format!("can't be read: {cause}") }]
        }
        LoadError::TooLarge { limit, .. } => {
            vec![Mistake::Whole { path: "", what: format!("is larger than {limit} bytes") }]
        }
    }
}

fn report(file: &Path, context: &Context, args: &CheckArgs) -> anyhow::Result<FileReport> {
    let name = file.display().to_string();
    let wrong = |error| FileReport { file: name.clone(), ok: false, errors: mistakes(error), diff: None };
    let config = match switch_config::load(file, context) {
        Ok(config) => config,
        Err(error) => return Ok(wrong(error)),
    };
    if !args.diff {
        return Ok(FileReport { file: name, ok: true, errors: Vec::new(), diff: None });
    }
    let old = match &args.against {
        Some(old) => switch_config::load(old, &Context::default())
            .with_context(|| format!("{} is to be compared with, and is wrong", old.display()))?,
        None => running(args.socket.as_deref().unwrap_or(config.control.socket.as_path()))?,
    };
    // Once more, with the numbers that its ports have now: a number that one of them takes may be another's.
    let new = match switch_config::load(file, &context.clone().after(&old)) {
        Ok(config) => config,
        Err(error) => return Ok(wrong(error)),
    };
    let diff = switch_config::diff(&old, &new);
    Ok(FileReport { file: name, ok: diff.refused.is_empty(), errors: Vec::new(), diff: Some(diff.into()) })
}

/// The configuration in force.
fn running(socket: &Path) -> anyhow::Result<Config> {
    let answer = Client::connect(socket)?.call(Request::ShowConfig)?;
    let Answer::Config(config) = answer else { return Err(unexpected()) };
    let text = switch_config::parse(&config.text, &Context::default());
    text.context(
        "this command and the running switch are of different versions: it can't read its configuration",
    )
}
