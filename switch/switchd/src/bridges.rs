//! A bridge as the control thread runs it: its rules and its MAC table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bridging::{Fdb, FdbLimits};
use flow_text::FlowSpec;
use pipeline::{BridgeRules, FlowMod, Tables};
use worker::Rules;

/// A bridge.
pub(crate) struct Bridge {
    /// What the file says of it.
    pub config: switch_config::Bridge,
    /// Its rules.
    pub tables: Tables,
    /// Its MAC table.
    pub fdb: Arc<Fdb>,
    /// Tells its snapshots' versions from those of any other bridge there was.
    uid: u64,
}

impl Bridge {
    /// A bridge without rules.
    pub fn new(config: &switch_config::Bridge, workers: usize, uid: u64, seed: u64) -> Bridge {
        Bridge { config: config.clone(), tables: Tables::new(workers), fdb: new_fdb(config, seed), uid }
    }

    /// Changes what the file says of it; what it learned stays, as far as there is room.
    pub fn change(&mut self, config: &switch_config::Bridge, seed: u64) {
        let limits = |config: &switch_config::Bridge| (config.mac_limit, config.mac_limit_per_port);
        if limits(&self.config) != limits(config) {
            let fdb = new_fdb(config, seed);
            for entry in self.fdb.entries() {
                fdb.put(entry);
            }
            self.fdb = fdb;
        }
        self.config = config.clone();
    }

    /// Its rules as the workers take them.
    pub fn rules(&self) -> Arc<dyn Rules> {
        Arc::new(BridgeRules::new(self.tables.snapshot(), self.uid))
    }
}

fn new_fdb(config: &switch_config::Bridge, seed: u64) -> Arc<Fdb> {
    let limits = FdbLimits { addresses: config.mac_limit, per_port: config.mac_limit_per_port };
    Arc::new(Fdb::new(limits, switch_config::PORTS_MAX + 1, seed))
}

/// The rule of a bridge for which the file has none.
pub(crate) fn normal_rule() -> FlowSpec {
    flow_text::parse_add("priority=0,actions=normal", &flow_text::NoPorts)
        .expect("a rule of ours is well-formed")
}

/// The rules that a file gives a bridge.
pub(crate) fn file_rules(config: &switch_config::Config, bridge: &switch_config::Bridge) -> Vec<FlowSpec> {
    let names = switch_config::PortNumbers(&config.ports);
    let texts = config.flows.iter().filter(|flow| flow.bridge == bridge.name);
    let mut rules: Vec<FlowSpec> =
        texts.filter_map(|flow| flow_text::parse_add(&flow.text, &names).ok()).collect();
    if rules.is_empty() {
        rules.push(normal_rule());
    }
    rules
}

/// What turns the rules of one file into those of another: rules that stay keep their counters.
pub(crate) fn rule_changes(old: &[FlowSpec], new: &[FlowSpec]) -> Vec<FlowMod> {
    let place = |rule: &FlowSpec| (rule.table, rule.priority, rule.match_);
    let new_places: HashSet<_> = new.iter().map(place).collect();
    // A file may say several rules of one place: all of them count as known.
    let mut known: HashMap<_, Vec<&FlowSpec>> = HashMap::new();
    for rule in old {
        known.entry(place(rule)).or_default().push(rule);
    }
    let gone = old.iter().filter(|rule| !new_places.contains(&place(rule))).map(|rule| FlowMod::Delete {
        filter: flow_text::FlowFilter {
            table: Some(rule.table),
            priority: rule.priority,
            match_: rule.match_,
            ..flow_text::FlowFilter::default()
        },
        strict: true,
    });
    let is_known = |rule: &FlowSpec| known.get(&place(rule)).is_some_and(|rules| rules.contains(&rule));
    let come = new.iter().filter(|rule| !is_known(rule)).map(|rule| FlowMod::Add(rule.clone()));
    gone.chain(come).collect()
}

/// The clock of tables and timeouts: that of the workers' seconds.
pub(crate) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
