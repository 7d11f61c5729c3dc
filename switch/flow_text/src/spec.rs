use crate::{Instructions, Match};

/// Priority of a rule that names none.
pub const DEFAULT_PRIORITY: u16 = 32768;
/// The last table; 255 means "all" in OpenFlow.
pub const MAX_TABLE: u8 = 254;

/// A rule, as `add-flow` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowSpec {
    /// The table it stands in, up to [`MAX_TABLE`].
    pub table: u8,
    /// Of several rules that match, the one with the highest counts.
    pub priority: u16,
    /// What the operator calls it; need not be unique.
    pub cookie: u64,
    /// Removed after so many seconds without a frame; 0 never.
    pub idle_timeout: u16,
    /// Removed after so many seconds; 0 never.
    pub hard_timeout: u16,
    /// How it is added.
    pub flags: Flags,
    /// The frames it is for.
    pub match_: Match,
    /// What happens to them.
    pub instructions: Instructions,
}

impl Default for FlowSpec {
    fn default() -> FlowSpec {
        FlowSpec {
            table: 0,
            priority: DEFAULT_PRIORITY,
            cookie: 0,
            idle_timeout: 0,
            hard_timeout: 0,
            flags: Flags::default(),
            match_: Match::default(),
            instructions: Instructions::default(),
        }
    }
}

/// Flags of an added rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Refuse the rule when another of the same priority matches some of the same frames.
    pub check_overlap: bool,
    /// A rule of the same match and priority is replaced: counters start anew instead of going on.
    pub reset_counts: bool,
}

/// Which rules are meant by `del-flows` and `mod-flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowFilter {
    /// The table; all when absent.
    pub table: Option<u8>,
    /// The priority; counts in strict use only.
    pub priority: u16,
    /// Value and mask of the cookie.
    pub cookie: Option<(u64, u64)>,
    /// Only rules that output to this port.
    pub out_port: Option<u16>,
    /// Strict use: this very match. Otherwise: this match or a narrower one.
    pub match_: Match,
}

impl Default for FlowFilter {
    fn default() -> FlowFilter {
        FlowFilter {
            table: None,
            priority: DEFAULT_PRIORITY,
            cookie: None,
            out_port: None,
            match_: Match::default(),
        }
    }
}

/// A change of rules, as `mod-flows` takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowChange {
    /// The rules to change.
    pub filter: FlowFilter,
    /// Their new cookie; the old one when absent.
    pub cookie: Option<u64>,
    /// Counters start anew.
    pub reset_counts: bool,
    /// What happens to their frames from now on.
    pub instructions: Instructions,
}
