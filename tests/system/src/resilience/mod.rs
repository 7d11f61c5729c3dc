//! What the others feel when a guest is hostile, dies or moves, and when the switch is killed.
//!
//! Most scenarios are played before the same audience: two guests in conversation, whose frames are numbered. They lose
//! none, and the longest time that one of theirs took is noted: no pause was longer. docs/resilience.md is the table of
//! what these scenarios print.

mod hostile_messages;
mod hostile_rings;
mod idle;
mod killed_guest;
mod killed_switch;
mod linux_guests;
mod migration;
mod stage;
mod storm;

use crate::Scenario;

pub(crate) fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    let families = [
        idle::SCENARIOS,
        hostile_rings::SCENARIOS,
        hostile_messages::SCENARIOS,
        storm::SCENARIOS,
        killed_guest::SCENARIOS,
        killed_switch::SCENARIOS,
        linux_guests::SCENARIOS,
        migration::SCENARIOS,
    ];
    families.into_iter().flatten()
}
