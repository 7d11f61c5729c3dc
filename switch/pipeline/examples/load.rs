//! Loads a synthetic rule set of the size and shape published for production OVS (about 103,000 rules in 40 tables
//! that look at 31 fields, of which the key knows 29; Tu et al., "Revisiting the Open vSwitch Dataplane Ten Years Later", SIGCOMM 2021) and
//! prints what it took, what a change takes afterwards, and what an evaluation through all tables takes.

use std::time::{Duration, Instant};

use flow::{Field, FlowKey};
use flow_text::{Action, FlowSpec, Instructions, Match};
use pipeline::{Evaluation, FlowMod, Tables};

const RULES: usize = 103_302;
const TABLES: usize = 40;
const MASKS: usize = 8;

fn main() {
    let specs: Vec<FlowSpec> = (0..RULES).map(spec).collect();
    let mut tables = Tables::new(1);
    let start = Instant::now();
    let adds: Vec<FlowMod> = specs.iter().cloned().map(FlowMod::Add).collect();
    tables.apply(&adds, Duration::ZERO).expect("the rules fit");
    println!("one list of {RULES} rules: {:.3} s", start.elapsed().as_secs_f64());

    let mut one_by_one = Tables::new(1);
    let start = Instant::now();
    for add in &adds {
        one_by_one.apply(std::slice::from_ref(add), Duration::ZERO).expect("the rule fits");
    }
    println!("one by one, a snapshot each: {:.3} s", start.elapsed().as_secs_f64());

    let start = Instant::now();
    const CHANGES: usize = 1000;
    for n in 0..CHANGES {
        let mut spec = specs[n * 97 % RULES].clone();
        spec.cookie = 1;
        tables.apply(&[FlowMod::Add(spec)], Duration::ZERO).expect("a rule in place of itself");
    }
    println!("{CHANGES} changes, a snapshot each: {:.3} s", start.elapsed().as_secs_f64());

    let snapshot = tables.snapshot();
    let mut out = Evaluation::default();
    let start = Instant::now();
    const EVALUATIONS: usize = 2000;
    let mut visited = 0;
    for n in 0..EVALUATIONS {
        snapshot.evaluate(&key(n * TABLES), &mut out);
        visited += out.rules.len();
    }
    let each = start.elapsed().as_secs_f64() / EVALUATIONS as f64;
    println!("an evaluation: {:.2} us over {:.1} tables", each * 1e6, visited as f64 / EVALUATIONS as f64);
}

/// Values that differ from rule to rule.
fn value(n: usize, field: Field) -> u128 {
    (n as u128 * 0x9e37_79b9_7f4a_7c15 + field as u128 * 77) & field.full()
}

/// The frame that rule `n` of its table is for; any table's rule of the same number is for it, too.
fn key(n: usize) -> FlowKey {
    let mut key = FlowKey::default();
    for &field in Field::ALL {
        key.set(field, value(n / TABLES, field));
    }
    key
}

/// Rule `n`: each table has the same number of rules of eight masks, and goes on to the next one.
fn spec(n: usize) -> FlowSpec {
    let (table, shape) = (n % TABLES, n / TABLES % MASKS);
    let mut match_ = Match::default();
    let frame = key(n);
    for k in 0..4 {
        let field = Field::ALL[(table * 3 + shape * 5 + k * 7) % Field::ALL.len()];
        match_.set(field, frame.get(field), field.full());
    }
    let last = table == TABLES - 1;
    let instructions = Instructions {
        apply: if last { vec![Action::Output(1)] } else { Vec::new() },
        goto_table: (!last).then_some(table as u8 + 1),
        ..Instructions::default()
    };
    FlowSpec { table: table as u8, priority: 100 + shape as u16, match_, instructions, ..FlowSpec::default() }
}
