//! The OpenFlow tables of one bridge.
//!
//! Control changes rules in [`Tables`] and hands out a [`Snapshot`] after each change: an immutable value that
//! shares nearly everything with the one before. Workers evaluate a snapshot for the frames that their caches
//! don't know, and count the frames of each rule in [`RuleStats`], which outlives snapshots.
//!
//! A change is in force when every worker holds a snapshot of its [version](Snapshot::version) or a later one;
//! then control calls [`Tables::release_retired`], and places of removed rules are used again.
//!
//! Semantics: OpenFlow 1.3.5 section 5, with Open vSwitch's `resubmit` and registers. Time is handed in, counted
//! from any fixed moment.

mod evaluate;
mod filter;
mod rule;
mod rules;
mod snapshot;
mod stats;
mod table;
mod tables;

pub use evaluate::{DEPTH_MAX, Evaluation, LOOKUPS_MAX, OPS_MAX, Outcome};
pub use rules::BridgeRules;
pub use snapshot::Snapshot;
pub use stats::{Credit, RuleStats};
pub use tables::{Applied, FlowMod, Refused, RemovedRule, RuleView, SavedRule, TableError, Tables, Why};

/// Number of a rule's place in [`RuleStats`]. Dense, and used again once [released](Tables::release_retired).
pub type RuleSlot = u32;
