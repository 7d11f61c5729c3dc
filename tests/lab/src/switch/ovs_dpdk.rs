//! OVS-DPDK from Debian's package, with a database, directory and control sockets of its own.
//!
//! Facts that shaped this (OVS 3.1, DPDK 22.11):
//! - OVS adds `--in-memory` by itself unless it is told `--legacy-mem`, which is what `--no-huge` needs.
//! - Its shared pool wants 262,144 buffers, so without huge pages `-m 2048`; less, and ports fail when a guest connects.
//! - `dpdkvhostuser` (server mode, deprecated) puts its sockets into the run directory. The data path is that of client
//!   mode, but it shows `?` for its ports' counters.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Decided, Plan, PortCounters, PortKind, Switch, Work};
use crate::{Pages, Process, run_to_end, wait_until};

const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const BRIDGE: &str = "br0";
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// A hundred thousand rules take a while.
const FLOWS_LIMIT: Duration = Duration::from_secs(300);

/// A running ovs-vswitchd with its ovsdb-server.
pub struct OvsDpdk {
    daemon: Process,
    database: Process,
    dir: PathBuf,
    names: Vec<String>,
}

impl OvsDpdk {
    /// Starts both daemons and sets up bridge, ports and rules.
    ///
    /// # Errors
    /// When the plan has a port OVS is not asked to serve here, or a daemon does not get ready.
    pub fn start(plan: &Plan) -> Result<Self> {
        Self::start_with(plan, &[])
    }

    /// As [`OvsDpdk::start`], with more settings (`KEY=VALUE` of `other_config`).
    ///
    /// # Errors
    /// As [`OvsDpdk::start`].
    pub fn start_with(plan: &Plan, settings: &[&str]) -> Result<Self> {
        Self::start_below(plan, settings, &[])
    }

    /// As [`OvsDpdk::start_with`], with these variables (`NAME=value`) in the daemon's environment.
    ///
    /// # Errors
    /// As [`OvsDpdk::start`].
    pub fn start_below(plan: &Plan, settings: &[&str], environment: &[String]) -> Result<Self> {
        let dir = plan.dir.clone();
        let database = start_database(&dir)?;
        configure(&dir, plan, settings)?;
        let run_dir = format!("OVS_RUNDIR={}", dir.display());
        let wrap: Vec<&str> =
            ["env", &run_dir].into_iter().chain(environment.iter().map(String::as_str)).collect();
        let daemon = Process::start_as(
            "ovs-vswitchd",
            &dir,
            &wrap,
            DAEMON,
            &[
                database_address(&dir),
                format!("--unixctl={}", daemon_control(&dir)),
                "--pidfile=".to_owned() + &dir.join("ovs-vswitchd.pid").to_string_lossy(),
            ],
        )?;
        let names = plan.ports.iter().map(|port| port.name.clone()).collect();
        let mut ovs = Self { daemon, database, dir, names };
        ovs.add_ports(plan).with_context(|| format!("log of ovs-vswitchd:\n{}", ovs.daemon.tail()))?;
        Ok(ovs)
    }

    fn add_ports(&mut self, plan: &Plan) -> Result<()> {
        let mut args = vec!["add-br".to_owned(), BRIDGE.into()];
        args.extend(["--", "set", "bridge", BRIDGE, "datapath_type=netdev"].map(String::from));
        for (index, port) in plan.ports.iter().enumerate() {
            args.extend(["--", "add-port", BRIDGE, &port.name].map(String::from));
            args.extend(["--", "set", "Interface", &port.name].map(String::from));
            match port.kind {
                PortKind::VhostUser { listens: true } => args.push("type=dpdkvhostuser".into()),
                PortKind::VhostUser { listens: false } => {
                    args.push("type=dpdkvhostuserclient".into());
                    args.push(format!("options:vhost-server-path={}", plan.socket(index).display()));
                }
                PortKind::Dpni { number } => {
                    args.extend(["type=dpdk".into(), format!("options:dpdk-devargs=fslmc:dpni.{number}")]);
                }
                PortKind::Tap { .. } => bail!("OVS-DPDK is not asked to serve TAP devices"),
            }
            args.push(format!("mtu_request={}", port.mtu));
            // Counters are shown by number, and ports added together are numbered in no particular order.
            args.push(format!("ofport_request={}", index + 1));
        }
        vsctl(&self.dir, &args)?;
        for (index, port) in plan.ports.iter().enumerate() {
            if matches!(port.kind, PortKind::VhostUser { listens: true }) {
                let theirs = self.dir.join(&port.name);
                wait_until("socket of an OVS port", COMMAND_LIMIT, || Ok(theirs.exists().then_some(())))?;
                std::os::unix::fs::symlink(&theirs, plan.socket(index))?;
            }
        }
        if plan.flows.is_empty() { Ok(()) } else { self.replace_flows(&plan.flows) }
    }

    /// Puts these rules in place of all others; returns when they are in force.
    ///
    /// # Errors
    /// When a rule is not understood, or the daemon does not answer.
    pub fn replace_flows(&self, flows: &[String]) -> Result<()> {
        let file = self.dir.join("flows.txt");
        std::fs::write(&file, flows.join("\n") + "\n")?;
        self.ofctl(&["del-flows"], &[])?;
        self.ofctl_within(FLOWS_LIMIT, &["add-flows"], &[&file.to_string_lossy()])?;
        Ok(())
    }

    fn ofctl(&self, before: &[&str], after: &[&str]) -> Result<String> {
        self.ofctl_within(COMMAND_LIMIT, before, after)
    }

    fn ofctl_within(&self, limit: Duration, before: &[&str], after: &[&str]) -> Result<String> {
        let bridge = format!("unix:{}", self.dir.join(format!("{BRIDGE}.mgmt")).display());
        let args: Vec<&str> =
            before.iter().copied().chain([bridge.as_str()]).chain(after.iter().copied()).collect();
        run_to_end("ovs-ofctl", &args, limit)
    }

    /// Asks the daemon, as `ovs-appctl` does.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn appctl(&self, args: &[&str]) -> Result<String> {
        let control = daemon_control(&self.dir);
        let args: Vec<&str> = ["-t", &control].into_iter().chain(args.iter().copied()).collect();
        run_to_end("ovs-appctl", &args, COMMAND_LIMIT)
    }
}

impl Switch for OvsDpdk {
    fn system(&self) -> &'static str {
        "ovs-dpdk"
    }

    fn counters(&mut self) -> Result<Vec<PortCounters>> {
        let text = self.ofctl(&["dump-ports"], &[])?;
        parse_ports(&text, &self.names)
    }

    fn work(&mut self) -> Result<Work> {
        let text = self.appctl(&["dpif-netdev/pmd-stats-show"])?;
        parse_work(&text).with_context(|| format!("no cycles in:\n{text}"))
    }

    fn decided(&mut self) -> Result<Decided> {
        let text = self.appctl(&["dpif-netdev/pmd-stats-show"])?;
        parse_decided(&text).with_context(|| format!("no hits in:\n{text}"))
    }

    fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.daemon.terminate(STOP_LIMIT)?;
        self.database.terminate(STOP_LIMIT)?;
        Ok(())
    }
}

fn start_database(dir: &Path) -> Result<Process> {
    let file = dir.join("conf.db");
    let file = file.to_string_lossy();
    run_to_end("ovsdb-tool", &["create", &file, SCHEMA], COMMAND_LIMIT)?;
    let socket = dir.join("db.sock");
    let database = Process::start(
        "ovsdb-server",
        dir,
        "ovsdb-server",
        &[
            file.to_string(),
            format!("--remote=punix:{}", socket.display()),
            format!("--unixctl={}", dir.join("ovsdb.ctl").display()),
        ],
    )?;
    wait_until("socket of ovsdb-server", COMMAND_LIMIT, || Ok(socket.exists().then_some(())))?;
    Ok(database)
}

fn configure(dir: &Path, plan: &Plan, settings: &[&str]) -> Result<()> {
    let memory = match plan.pages {
        Pages::Huge => "",
        Pages::Small => "--no-huge --legacy-mem -m 2048 ",
    };
    let file_prefix = format!("ovs-{}", std::process::id());
    let own = [
        "dpdk-init=true".to_owned(),
        format!("pmd-cpu-mask={:#x}", 1u64 << plan.core),
        format!("dpdk-lcore-mask={:#x}", 1u64 << plan.control_core),
        format!("dpdk-extra=\"{memory}--no-pci --no-telemetry --file-prefix {file_prefix}\""),
    ];
    let mut args: Vec<String> =
        ["--no-wait", "init", "--", "set", "Open_vSwitch", "."].map(String::from).into();
    let all = own.iter().map(String::as_str).chain(settings.iter().copied());
    args.extend(all.map(|setting| format!("other_config:{setting}")));
    vsctl(dir, &args)
}

fn vsctl(dir: &Path, args: &[String]) -> Result<()> {
    let database = format!("--db={}", database_address(dir));
    let args: Vec<&str> =
        ["--timeout=15", &database].into_iter().chain(args.iter().map(String::as_str)).collect();
    run_to_end("ovs-vsctl", &args, COMMAND_LIMIT)?;
    Ok(())
}

fn database_address(dir: &Path) -> String {
    format!("unix:{}", dir.join("db.sock").display())
}

fn daemon_control(dir: &Path) -> String {
    dir.join("vswitchd.ctl").to_string_lossy().into_owned()
}

/// Reads `ovs-ofctl dump-ports`, where each port has an `rx` and a `tx` line. Ports are numbered from 1 in the plan's order.
fn parse_ports(text: &str, names: &[String]) -> Result<Vec<PortCounters>> {
    if text.contains("rx pkts=?") {
        bail!("OVS-DPDK counts frames in client mode only:\n{text}");
    }
    let mut by_name: BTreeMap<String, PortCounters> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some((label, _)) = line.split_once(": rx ") {
            current = label.split_whitespace().last().map(|name| name.trim_matches('"').to_owned());
        }
        let Some(name) = &current else { continue };
        let number = |key: &str| -> u64 {
            let digits = line.split_once(key).map_or("", |(_, rest)| rest);
            digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok()).unwrap_or(0)
        };
        let port = by_name.entry(name.clone()).or_default();
        let (frames, bytes) = (number("pkts="), number("bytes="));
        if line.contains("rx pkts=") {
            (port.rx_frames, port.rx_bytes) = (frames, bytes);
        } else if line.contains("tx pkts=") {
            (port.tx_frames, port.tx_bytes) = (frames, bytes);
        }
        port.drops.insert(if line.contains("rx ") { "rx".into() } else { "tx".into() }, number("drop="));
    }
    let find = |(index, name): (usize, &String)| {
        let port = by_name.remove(name).or_else(|| by_name.remove(&(index + 1).to_string()));
        let mut port = port.with_context(|| format!("no counters of {name} in:\n{text}"))?;
        port.name.clone_from(name);
        Ok(port)
    };
    names.iter().enumerate().map(find).collect()
}

/// Reads `dpif-netdev/pmd-stats-show` of the one PMD thread (the first section).
fn parse_work(text: &str) -> Option<Work> {
    Some(Work {
        busy_cycles: number_after(text, "processing cycles:")?,
        idle_cycles: number_after(text, "idle cycles:")?,
        frames: number_after(text, "packets received:")?,
        ..Work::default()
    })
}

/// As [`parse_work`]: the exact-match and the signature-match cache, the classifier, and upcalls.
fn parse_decided(text: &str) -> Option<Decided> {
    Some(Decided {
        exact: number_after(text, "emc hits:")? + number_after(text, "smc hits:")?,
        megaflow: number_after(text, "megaflow hits:")?,
        miss: number_after(text, "miss with success upcall:")?
            + number_after(text, "miss with failed upcall:")?,
    })
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    text.split_once(key)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_counters_are_found_by_name_or_number() {
        let text = "OFPST_PORT reply (xid=0x2): 3 ports\n  \
            port LOCAL: rx pkts=0, bytes=0, drop=0, errs=0, frame=0, over=0, crc=0\n           \
            tx pkts=0, bytes=0, drop=0, errs=0, coll=0\n  \
            port  vm0: rx pkts=12, bytes=768, drop=1, errs=0, frame=?, over=?, crc=?\n           \
            tx pkts=34, bytes=2176, drop=2, errs=?, coll=?\n  \
            port  2: rx pkts=5, bytes=320, drop=0, errs=0, frame=?, over=?, crc=?\n           \
            tx pkts=6, bytes=384, drop=0, errs=?, coll=?\n";
        let ports = parse_ports(text, &["vm0".into(), "vm1".into()]).unwrap();
        assert_eq!((ports[0].rx_frames, ports[0].tx_frames, ports[0].dropped()), (12, 34, 3));
        assert_eq!((ports[1].name.as_str(), ports[1].rx_frames, ports[1].tx_bytes), ("vm1", 5, 384));
        assert!(parse_ports(text, &["other".into(), "none".into(), "nobody".into()]).is_err());
    }

    #[test]
    fn work_is_that_of_the_pmd_thread() {
        let text = "pmd thread numa_id 0 core_id 0:\n  packets received: 9287040\n  idle cycles: 48755444 (1.29%)\n  \
            processing cycles: 3738886330 (98.71%)\nmain thread:\n  packets received: 1\n";
        let work = Work {
            busy_cycles: 3_738_886_330,
            idle_cycles: 48_755_444,
            frames: 9_287_040,
            ..Work::default()
        };
        assert_eq!(parse_work(text), Some(work));
    }

    #[test]
    fn hits_of_both_exact_caches_count_together() {
        let text = "  emc hits: 10\n  smc hits: 2\n  megaflow hits: 3\n  avg. subtable lookups per megaflow hit: 1.00\n  \
            miss with success upcall: 4\n  miss with failed upcall: 5\n";
        assert_eq!(parse_decided(text), Some(Decided { exact: 12, megaflow: 3, miss: 9 }));
    }
}
