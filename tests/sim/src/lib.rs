//! The whole switch in one thread: real workers, tables, bridges and rings, in virtual time, with seeded faults.
//!
//! A run is made from a seed alone. Peers send numbered frames and take theirs, control changes rules, ports and
//! queues meanwhile, kicks get lost, rings fill, stop and go on, guests leave, come back and overwrite their rings. After
//! each turn of a worker everything it did is compared with a model that knows no cache: each frame's fate by the
//! rules its worker had, every counter, the order and content of all that leaves and arrives.
//!
//! What holds in every run:
//! - received + copies + injected = sent + dropped + punted, each drop for the reason the model names;
//! - frames arrive unchanged but for what rules changed, in the order of their flow, none twice;
//! - a rule that was acknowledged decides every frame from then on;
//! - every descriptor and buffer comes back;
//! - nobody sleeps while something waits for it, unless a kick was lost;
//! - what one guest breaks ends its own queues and nobody else's.
//!
//! `cargo xtask sim --seeds 10000` runs many, `--seed N` shows one.

mod frames;
mod guest;
mod model;
mod observe;
mod rules;
mod stations;
mod switch;
mod trace;
mod traffic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use world::Summary;

use trace::Trace;
use world::World;

/// A run that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed that makes it again.
    pub seed: u64,
    /// What must not be.
    pub what: String,
    /// What the run did until then.
    pub trace: Vec<String>,
}

/// Runs a seed. One that fails is run again to be traced.
///
/// # Errors
/// What it found.
pub fn run(seed: u64) -> Result<Summary, Box<Failure>> {
    guarded(seed, &Trace::off()).or_else(|_| traced(seed).0.map_err(Box::new))
}

/// Runs a seed and keeps a line for each thing that happens.
pub fn traced(seed: u64) -> (Result<Summary, Failure>, Vec<String>) {
    let trace = Trace::on();
    let result = guarded(seed, &trace);
    let lines = trace.take();
    (result.map_err(|what| Failure { seed, what, trace: lines.clone() }), lines)
}

/// A panic is a finding too.
fn guarded(seed: u64, trace: &Trace) -> Result<Summary, String> {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, trace.clone()).run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}
