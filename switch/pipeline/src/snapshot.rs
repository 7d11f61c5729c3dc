use std::collections::VecDeque;
use std::sync::Arc;

use flow::{Field, FlowKey, FlowMask};

use crate::evaluate::Evaluation;
use crate::stats::RuleStats;
use crate::table::View;

/// One change of rules, as far as it can concern frames: those that have these bits when they arrive.
pub(crate) type Concern = (FlowKey, FlowMask);

/// Versions whose changes a snapshot remembers.
pub(crate) const REMEMBERED: usize = 64;

/// The rules of a bridge at one moment.
pub struct Snapshot {
    pub(crate) version: u64,
    pub(crate) tables: Box<[View]>,
    pub(crate) fields: FlowMask,
    pub(crate) stats: Arc<RuleStats>,
    /// Changes made with each of the last versions, this one's last.
    pub(crate) recent: VecDeque<(u64, Arc<[Concern]>)>,
}

impl Snapshot {
    pub(crate) fn table(&self, table: u8) -> Option<&View> {
        self.tables.get(usize::from(table))
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All bits that the evaluation of any frame may depend on: those that rules match on, and those that decide
    /// what an action does (whether there is a tag to write to, say).
    pub fn fields(&self) -> FlowMask {
        self.fields
    }

    /// The counters of the rules.
    pub fn stats(&self) -> &Arc<RuleStats> {
        &self.stats
    }

    /// The evaluation for all frames that come in by this port, if it depends on nothing else about them.
    pub fn shortcut(&self, in_port: u32) -> Option<Evaluation> {
        let mut key = FlowKey::default();
        key.set(Field::InPort, in_port.into());
        let mut out = Evaluation::default();
        self.evaluate(&key, &mut out);
        let mut port_only = FlowMask::default();
        port_only.add(Field::InPort, Field::InPort.full());
        port_only.contains(&out.mask).then_some(out)
    }

    /// Calls `concern` for every change since `version`, with bits that a frame must have on arrival for its
    /// evaluation to be another now. False when that is not known any more: then every frame may be concerned.
    pub fn changes_since(&self, version: u64, mut concern: impl FnMut(&FlowKey, &FlowMask)) -> bool {
        if version == self.version {
            return true;
        }
        let known = self.recent.front().is_some_and(|&(oldest, _)| oldest <= version + 1);
        if !known || version > self.version {
            return false;
        }
        for (_, changes) in self.recent.iter().filter(|(at, _)| *at > version) {
            for (key, mask) in changes.iter() {
                concern(key, mask);
            }
        }
        true
    }
}
