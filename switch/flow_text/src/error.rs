use std::ops::Range;

/// What is wrong with a flow string, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` at {}..{}: {problem}{}", span.start, span.end, Allowed(allowed))]
pub struct ParseError {
    /// Bytes of the text that the problem is about.
    pub span: Range<usize>,
    /// The same as text.
    pub word: String,
    /// What is wrong with it.
    pub problem: String,
    /// What may stand there instead, when that can be said.
    pub allowed: Option<String>,
}

struct Allowed<'a>(&'a Option<String>);

impl std::fmt::Display for Allowed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(allowed) => write!(f, "; allowed: {allowed}"),
            None => Ok(()),
        }
    }
}
