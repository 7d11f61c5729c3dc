//! The rules software has to keep, and what it did against them.
//!
//! A model that lets a broken driver pass is worse than none. Whatever hardware would answer with corruption, a lost
//! frame or a hang is recorded here in words, and the model goes on as well as it can.

use std::collections::BTreeMap;
use std::fmt;

/// A rule of the hardware's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Every address given to hardware lies in a range mapped for DMA.
    DmaMapped,
    /// A buffer is in one place at a time: with software, in a pool, or in a queue.
    OneOwner,
    /// Producer indices move by at most the ring's size, and valid bits turn once per lap.
    RingDiscipline,
    /// Lines and registers that only hardware writes stay untouched.
    ReadOnly,
    /// One volatile dequeue at a time, with a token that isn't zero.
    VolatileDequeue,
    /// Only entries that were delivered are consumed, once.
    Consumption,
    /// Queues, channels and pools that a command names exist, in the portal's own container.
    Existence,
    /// A portal is configured and enabled before it is used.
    PortalReady,
    /// Frame descriptors and scatter-gather tables make sense.
    FrameFormat,
    /// Tokens come from "open" on the same portal and are closed.
    Token,
    /// Only registers and commands that exist are used.
    Known,
    /// An interface is configured only in the states that allow it.
    State,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DmaMapped => "addresses are mapped for DMA",
            Self::OneOwner => "a buffer has one owner",
            Self::RingDiscipline => "rings are filled in order",
            Self::ReadOnly => "what hardware writes is only read",
            Self::VolatileDequeue => "one volatile dequeue at a time",
            Self::Consumption => "entries are consumed once",
            Self::Existence => "what a command names exists",
            Self::PortalReady => "a portal is ready before its use",
            Self::FrameFormat => "frame descriptors make sense",
            Self::Token => "tokens are valid",
            Self::Known => "only what exists is used",
            Self::State => "the object's state allows the command",
        })
    }
}

/// One act against a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// By which object, and what exactly.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.rule)
    }
}

/// How many violations are kept in words; all are counted.
const KEPT: usize = 64;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    kept: Vec<Violation>,
    counts: BTreeMap<Rule, u64>,
    /// As in [`AuditReport`].
    pub(crate) abandoned_tokens: u64,
    /// As in [`AuditReport`].
    pub(crate) abandoned_bytes: u64,
}

impl Audit {
    pub(crate) fn violation(&mut self, rule: Rule, what: impl Into<String>) {
        *self.counts.entry(rule).or_default() += 1;
        if self.kept.len() < KEPT {
            self.kept.push(Violation { rule, what: what.into() });
        }
    }

    pub(crate) fn kept(&self) -> &[Violation] {
        &self.kept
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// Where the buffers of one pool are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolReport {
    /// Object number of the pool.
    pub dpbp: u32,
    /// The number frame descriptors carry.
    pub bpid: u16,
    /// In the pool.
    pub free: u64,
    /// Under way in frame queues.
    pub queued: u64,
    /// With software.
    pub software: u64,
    /// Distinct buffers ever released to it.
    pub seen: u64,
}

/// The state of the rules at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// The first violations, in the order they happened.
    pub violations: Vec<Violation>,
    /// How many there were in all.
    pub violations_total: u64,
    /// Where buffers are, by pool.
    pub pools: Vec<PoolReport>,
    /// Tokens that are open.
    pub open_tokens: u64,
    /// Frames in queues.
    pub queued_frames: u64,
    /// Bytes mapped for DMA.
    pub mapped_bytes: u64,
    /// Tokens that were open when their container was closed: of programs that leave without order.
    pub abandoned_tokens: u64,
    /// Bytes that were mapped for DMA when their container was closed.
    pub abandoned_bytes: u64,
}

impl AuditReport {
    /// Whether no rule was broken.
    pub fn is_clean(&self) -> bool {
        self.violations_total == 0
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "audit: {} violations, {} open tokens, {} queued frames, {} bytes mapped",
            self.violations_total, self.open_tokens, self.queued_frames, self.mapped_bytes
        )?;
        for violation in &self.violations {
            writeln!(f, "audit: violation: {violation}")?;
        }
        for pool in self.pools.iter().filter(|pool| pool.seen > 0) {
            writeln!(
                f,
                "audit: dpbp.{} (bpid {}): {} seen = {} free + {} queued + {} with software",
                pool.dpbp, pool.bpid, pool.seen, pool.free, pool.queued, pool.software
            )?;
        }
        Ok(())
    }
}
