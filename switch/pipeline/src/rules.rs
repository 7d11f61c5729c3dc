//! Snapshots as the workers' rules.

use std::sync::Arc;

use flow::{FlowKey, FlowMask};
use worker::{Outcome, Rules, Verdict};

use crate::{Evaluation, Snapshot};

/// Bits of a version that count a bridge's changes; those above say which bridge.
const VERSION_BITS: u32 = 40;

/// The rules of one bridge: a snapshot of its tables.
pub struct BridgeRules {
    snapshot: Arc<Snapshot>,
    uid: u64,
}

impl BridgeRules {
    /// A snapshot as workers take it. `uid`, below 2^24, tells the bridge from any other there was.
    pub fn new(snapshot: Arc<Snapshot>, uid: u64) -> BridgeRules {
        BridgeRules { snapshot, uid }
    }
}

impl Rules for BridgeRules {
    fn evaluate(&self, key: &FlowKey, verdict: &mut Verdict) {
        // The two have the same shape; the buffers travel, so nothing is allocated once they have grown.
        let mut evaluation = Evaluation {
            ops: std::mem::take(&mut verdict.ops),
            rules: std::mem::take(&mut verdict.rules),
            ..Evaluation::default()
        };
        self.snapshot.evaluate(key, &mut evaluation);
        verdict.ops = evaluation.ops;
        verdict.rules = evaluation.rules;
        verdict.mask = evaluation.mask;
        verdict.outcome = match evaluation.outcome {
            crate::Outcome::Done => Outcome::Done,
            crate::Outcome::NoRule => Outcome::NoRule,
            crate::Outcome::LimitExceeded => Outcome::Limit,
        };
    }

    fn fields(&self) -> FlowMask {
        self.snapshot.fields()
    }

    fn version(&self) -> u64 {
        self.uid << VERSION_BITS | self.snapshot.version()
    }

    fn changes_since(&self, version: u64, concern: &mut dyn FnMut(&FlowKey, &FlowMask)) -> bool {
        let same_tables = version >> VERSION_BITS == self.uid;
        same_tables && self.snapshot.changes_since(version & ((1 << VERSION_BITS) - 1), concern)
    }

    fn credit(&self, worker: usize, rule: u32, frames: u64, bytes: u64, now_secs: u32) {
        self.snapshot.stats().add(worker, rule, frames, bytes, now_secs);
    }
}
