//! What a run did, line by line.

use std::fmt::Arguments;
use std::sync::{Arc, Mutex};

/// Collects lines when somebody wants them. Shared, so that they outlive a run that panics.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Mutex<Vec<String>>>>);

impl Trace {
    /// Forgets everything at once: costs nothing.
    pub fn off() -> Trace {
        Trace(None)
    }

    /// Keeps all lines.
    pub fn on() -> Trace {
        Trace(Some(Arc::default()))
    }

    /// Adds a line.
    pub fn line(&self, text: Arguments<'_>) {
        if let Some(lines) = &self.0 {
            lines.lock().expect("no holder panics").push(text.to_string());
        }
    }

    /// Takes the lines so far.
    pub fn take(&self) -> Vec<String> {
        self.0.as_ref().map_or(vec![], |lines| std::mem::take(&mut lines.lock().expect("no holder panics")))
    }
}
