//! Frames a second of whole switches on the model.
//!
//! The model takes part in them: it runs on the switch's own core, called directly, or by a fault for each store where the
//! preload library stands for VFIO. So they compare switches that reach the model in the same way, and say nothing of boards.

use anyhow::{Context as _, Result, ensure};
use lab::dpaa2::shim;
use lab::switch::{OvsDpdk, Plan, Port, PortKind, Ringway, Switch, toml_of};
use lab::{Pages, Testpmd, TestpmdOptions, VirtioUser};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where from and to, the system, and how it is measured.
type Rate = (&'static str, &'static str, fn() -> Result<f64>);

/// All there are.
pub(super) const ALL: &[Rate] = &[
    (DPNI, "Ringway, model called", || between_dpnis(Reached::Called)),
    (DPNI, "Ringway, VFIO by preload library", || between_dpnis(Reached::Preloaded)),
    (VHOST, "Ringway, model called", || to_guest(Reached::Called)),
    (VHOST, "Ringway, VFIO by preload library", || to_guest(Reached::Preloaded)),
    (VHOST, "OVS-DPDK, VFIO by preload library", ovs_to_guest),
];
const DPNI: &str = "dpni to dpni";
const VHOST: &str = "dpni to vhost-user";

/// Until buffers and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(3);

const BOARD: &str = r#"
    soc = "lx2160a"
    [[container]]
    id = 2
    dpio = 10
    dpbp = 4
    dpcon = 4
    [[container.dpni]]
    id = 1
    mac = "02:00:00:00:00:01"
    [[container.dpni]]
    id = 2
    mac = "02:00:00:00:00:02"
    [[dpmac]]
    id = 1
    end = { kind = "generator", burst = 64 }
    [[dpmac]]
    id = 2
    [[connection]]
    a = "dpni.1"
    b = "dpmac.1"
    [[connection]]
    a = "dpni.2"
    b = "dpmac.2"
"#;

/// How a switch reaches the model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// By calls.
    Called,
    /// As VFIO devices that the preload library makes of it.
    Preloaded,
}

/// From `dpni.1` to another port.
fn plan(dir: &Path, to: Port) -> Plan {
    let from = Port { name: "wire1".into(), kind: PortKind::Dpni { number: 1 }, queues: 1, mtu: 1500 };
    let flow = format!("in_port={},actions=output:{}", from.name, to.name);
    let mut plan = Plan::with_guests(dir, 0);
    (plan.ports, plan.flows) = (vec![from, to], vec![flow]);
    plan.pages = Pages::Small;
    plan
}

/// Variables that make a program find the model as VFIO devices.
fn preload(dir: &Path) -> Result<Vec<String>> {
    Ok(vec![
        format!("DPAA2_MODEL={}", dir.join("board.toml").display()),
        "DPRC=dprc.2".into(),
        format!("TMPDIR={}", dir.display()),
        format!("LD_PRELOAD={}", shim()?.display()),
    ])
}

fn ringway(plan: &Plan, reached: Reached) -> Result<Ringway> {
    let (bus, environment) = match reached {
        Reached::Called => {
            (format!("bus = \"model\"\nboard = \"{}\"", plan.dir.join("board.toml").display()), vec![])
        }
        Reached::Preloaded => ("bus = \"vfio\"".to_owned(), preload(&plan.dir)?),
    };
    let file = format!("{}[fslmc]\n{bus}\ncontainer = \"dprc.2\"\n", toml_of(plan));
    Ringway::start_in(&plan.dir, &file, &environment)
}

/// A directory with the board's description.
fn dir() -> Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("rw-bench-").tempdir()?;
    std::fs::write(dir.path().join("board.toml"), BOARD)?;
    Ok(dir)
}

/// Thousand frames a second by what `count` says.
fn rate(mut count: impl FnMut() -> Result<u64>) -> Result<f64> {
    std::thread::sleep(WARM_UP);
    let (before, start) = (count()?, Instant::now());
    std::thread::sleep(TIME);
    let frames = count()? - before;
    ensure!(frames > 0, "no frame came through");
    Ok(frames as f64 / start.elapsed().as_secs_f64() / 1e3)
}

fn between_dpnis(reached: Reached) -> Result<f64> {
    let dir = dir()?;
    let to = Port { name: "wire2".into(), kind: PortKind::Dpni { number: 2 }, queues: 1, mtu: 1500 };
    let switch = ringway(&plan(dir.path(), to), reached)?;
    let sent = || switch.port("wire2")?["tx_frames"].as_u64().context("frames sent");
    let rate = rate(sent)?;
    switch.finish()?;
    Ok(rate)
}

fn guest_plan(dir: &Path) -> Plan {
    let kind = PortKind::VhostUser { listens: true };
    plan(dir, Port { name: "vm0".into(), kind, queues: 1, mtu: 1500 })
}

/// What a guest receives that does nothing else, on a core of its own.
fn received(plan: &Plan) -> Result<f64> {
    let mut load = TestpmdOptions::guest("load", plan.control_core, &[VirtioUser::new(&plan.socket(1))]);
    load.main_cores = vec![plan.control_core];
    load.arguments = vec!["--forward-mode=rxonly".into()];
    let mut load = Testpmd::start(&plan.dir, &load)?;
    load.command("start")?;
    let rate = rate(|| load.received())?;
    load.command("stop")?;
    load.quit()?;
    Ok(rate)
}

fn to_guest(reached: Reached) -> Result<f64> {
    let dir = dir()?;
    let plan = guest_plan(dir.path());
    let switch = ringway(&plan, reached)?;
    let rate = received(&plan)?;
    switch.finish()?;
    Ok(rate)
}

fn ovs_to_guest() -> Result<f64> {
    let dir = dir()?;
    let plan = guest_plan(dir.path());
    let switch = OvsDpdk::start_below(&plan, &[], &preload(dir.path())?)?;
    let rate = received(&plan)?;
    Box::new(switch).stop()?;
    Ok(rate)
}
