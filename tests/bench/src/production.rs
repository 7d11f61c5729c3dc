//! A rule set of the size and shape published for a production OVS: how long it takes to load, what a look-up costs.
//!
//! The published figures are 103,302 rules in 40 tables that look at 31 fields (Tu, Wei, Antichi, Pfaff: Revisiting the Open
//! vSwitch Dataplane Ten Years Later, SIGCOMM 2021, table 3). The rules here are made up: in each table most are for other
//! traffic, in eight different shapes; the measured frames match one rule of low priority in every table and go on to the next.

use anyhow::{Context as _, Result, bail};
use lab::resident_bytes;
use lab::switch::{OvsDpdk, Ringway, Switch, System};
use std::time::Instant;

use crate::measure::{Bench, Measure, Outcome, cycles_per_frame, figures, one_way, work_since};
use crate::section::{PRODUCTION, Section};
use crate::traffic::Headers;

/// The name of its row.
pub(crate) const NAME: &str = "production-rules";

const RULES: usize = 103_302;
const TABLES: usize = 40;
const SHAPES_PER_TABLE: usize = 8;
/// Flows of the measured frames: 10.253.0.0 to 10.253.39.15.
const FLOWS: u32 = 10_000;
/// Networks of 256 addresses among them.
const NETWORKS: usize = 40;

/// The rule set.
pub(crate) struct Production;

impl Measure for Production {
    fn section(&self) -> &'static Section {
        &PRODUCTION
    }

    fn names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let plan = bench.plan(dir.path(), 2, Vec::new());
        let rules = rules();
        let (mut switch, load_s): (Box<dyn Switch>, f64) = match system {
            System::OvsDpdk => {
                let ovs = OvsDpdk::start(&plan)?;
                let start = Instant::now();
                ovs.replace_flows(&rules)?;
                (Box::new(ovs), start.elapsed().as_secs_f64())
            }
            _ => {
                let mut plan = plan.clone();
                plan.flows = rules;
                let start = Instant::now();
                let ringway = Ringway::start(&plan)?;
                let load_s = start.elapsed().as_secs_f64();
                let status = ringway.show("status")?;
                let loaded = status["bridges"][0]["rules"].as_u64().context("no number of rules")?;
                if loaded != RULES as u64 {
                    bail!("{loaded} rules are in force, {RULES} were asked for");
                }
                (Box::new(ringway), load_s)
            }
        };
        let mut traffic = bench.traffic(&plan, false)?;
        let outcome = bench.judged(switch.as_mut(), Some(traffic.pid()), |switch| {
            let mut pass = |headers| -> Result<(f64, f64)> {
                traffic.phase(&one_way(bench.seconds(1.0), None, 64, headers, false))?;
                let work = switch.work()?;
                let result = traffic.phase(&one_way(bench.seconds(1.5), None, 64, headers, false))?;
                let work = work_since(work, switch.work()?);
                Ok((result.streams[0].mpps(), cycles_per_frame(work)))
            };
            let (mpps, cycles) = pass(Headers::Flows(FLOWS))?;
            let (miss_mpps, miss_cycles) = pass(Headers::Random)?;
            Ok(figures([
                ("load_s", load_s),
                ("resident_mib", resident_bytes(switch.pid())? as f64 / f64::from(1 << 20)),
                ("mpps", mpps),
                ("cycles_per_frame", cycles),
                ("miss_mpps", miss_mpps),
                ("miss_cycles", miss_cycles),
            ]))
        })?;
        drop(traffic);
        switch.stop()?;
        Ok(vec![(NAME.to_owned(), outcome)])
    }
}

/// Matches of traffic that is not measured, by the number of a rule of this shape in its table. Together, and with the rules for the
/// measured frames, they look at 31 fields.
const SHAPES: [fn(usize) -> String; 16] = [
    |n| format!("in_port=vm1,dl_src={},dl_dst={}", mac(n), mac(n + 7)),
    |n| format!("dl_vlan={},dl_vlan_pcp={}", n % 4000 + 1, n % 8),
    |n| format!("metadata={:#x},reg0={:#x}", n + 1, n + 1),
    |n| format!("ip,reg1={:#x},reg2={:#x}", n + 1, n % 16 + 1),
    |n| format!("reg3={:#x},reg4={:#x},reg5={:#x}", n + 1, n % 16 + 1, n % 8 + 1),
    |n| format!("reg6={:#x},reg7={:#x}", n + 1001, n % 16 + 1001),
    |n| format!("ip,nw_src={}/24,nw_dst={}", v4(172, n << 8), v4(192, n)),
    |n| format!("tcp,nw_src={},tp_dst={}", v4(172, n), n % 1000 + 1),
    |n| format!("tcp,nw_dst={},tp_src={},tcp_flags=0x02/0x12", v4(192, n), n % 1000 + 1),
    |n| format!("udp,nw_dst={},tp_dst={}", v4(192, n), n % 1000 + 1),
    |n| format!("udp,nw_src={}/28,nw_ttl={}", v4(172, n << 4), n % 60 + 1),
    |n| format!("icmp,nw_dst={},icmp_type={},icmp_code=0", v4(192, n), n % 2 * 8),
    |n| format!("ip,nw_dst={}/30,nw_tos={}", v4(192, n << 2), n % 60 * 4),
    |n| format!("arp,arp_op={},arp_tpa={}", n % 2 + 1, v4(10, n)),
    |n| format!("arp,arp_spa={},arp_sha={}", v4(10, n), mac(n)),
    |n| {
        let (high, low) = (n >> 16, n & 0xffff);
        if n.is_multiple_of(2) {
            format!("ipv6,ipv6_src=fd02::{high:x}:{low:x}")
        } else {
            format!("tcp6,ipv6_dst=fd03::{high:x}:{low:x},tp_dst=443")
        }
    },
];

fn mac(n: usize) -> String {
    let [.., a, b, c] = (n as u32).to_be_bytes();
    format!("06:00:00:{a:02x}:{b:02x}:{c:02x}")
}

fn v4(first: u8, n: usize) -> String {
    let [.., a, b, c] = (n as u32).to_be_bytes();
    format!("{first}.{a}.{b}.{c}")
}

/// All rules.
fn rules() -> Vec<String> {
    let mut rules: Vec<String> = (0..TABLES).flat_map(measured).collect();
    let rest = RULES - rules.len();
    rules.extend((0..rest).map(|index| {
        let (table, n) = (index % TABLES, index / TABLES);
        // Neighbouring tables share some shapes; all are used.
        let shape = (table * 3 + n % SHAPES_PER_TABLE) % SHAPES.len();
        let next = if table + 1 < TABLES { format!("resubmit(,{})", table + 1) } else { "drop".to_owned() };
        let match_ = SHAPES[shape](n / SHAPES_PER_TABLE);
        format!("table={table},priority={},{match_},actions={next}", 100 + shape)
    }));
    rules
}

/// Rules of a table for the measured frames and all others: every fourth table tells networks apart and writes a register, the
/// one behind it looks at that.
fn measured(table: usize) -> Vec<String> {
    let register = table / 4 % 8;
    let next = if table + 1 < TABLES { format!("resubmit(,{})", table + 1) } else { "output:vm1".to_owned() };
    let mut rules = vec![format!("table={table},priority=1,in_port=vm0,actions={next}")];
    let network = |n: usize| match table % 4 {
        1 => Some(format!(
            "table={table},priority=50,udp,nw_dst=10.253.{n}.0/24,actions=set_field:{:#x}->reg{register},{next}",
            n + 1
        )),
        2 => Some(format!("table={table},priority=50,reg{register}={:#x},actions={next}", n + 1)),
        _ => None,
    };
    rules.extend((0..NETWORKS).filter_map(network));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_rule_set_has_the_published_shape() {
        let rules = rules();
        assert_eq!(rules.len(), RULES);
        let matches: BTreeSet<&str> =
            rules.iter().map(|rule| rule.split_once(",actions").unwrap().0).collect();
        assert_eq!(matches.len(), RULES, "no two rules of a table and priority are for the same frames");
        let tables: BTreeSet<&str> = rules.iter().map(|rule| rule.split(',').next().unwrap()).collect();
        assert_eq!(tables.len(), TABLES);
        // dl_type and nw_proto are matched by the words for protocols.
        let mut fields = BTreeSet::from(["dl_type", "nw_proto"]);
        for rule in &rules {
            let pairs =
                rule.split_once(",actions").unwrap().0.split(',').filter_map(|pair| pair.split_once('='));
            fields.extend(pairs.map(|(name, _)| name).filter(|name| !["table", "priority"].contains(name)));
        }
        assert_eq!(fields.len(), 31, "{fields:?}");
    }
}
