//! A guest is killed with SIGKILL in the middle of its traffic, and another one takes its place.

use anyhow::{Result, ensure};
use lab::switch::PortKind;
use lab::{Testpmd, TestpmdOptions, VirtioUser};
use std::path::Path;
use std::time::Duration;

use super::stage::{Stage, is_up, is_waiting, note_felt};
use crate::{Context, Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/killed-testpmd-split", &[Need::Ringway], |c| testpmd(c, false, false)),
    Scenario::new("resilience/killed-testpmd-packed", &[Need::Ringway], |c| testpmd(c, false, true)),
    Scenario::new("resilience/killed-testpmd-switch-connects-split", &[Need::Ringway], |c| {
        testpmd(c, true, false)
    }),
    Scenario::new("resilience/killed-testpmd-switch-connects-packed", &[Need::Ringway], |c| {
        testpmd(c, true, true)
    }),
];

/// Fewer frames than this in [`TRAFFIC_TIME`] would not be forwarding by polling. Rates are not judged here.
const LEAST_FRAMES: u64 = 5_000;
const TRAFFIC_TIME: Duration = Duration::from_millis(500);

/// Two ports of a testpmd throw frames at each other; it is killed, and started again.
fn testpmd(context: &Context, guest_listens: bool, packed: bool) -> Result<()> {
    let stage = Stage::set_for_two(context, |plan| {
        for port in &mut plan.ports[2..] {
            port.kind = PortKind::VhostUser { listens: !guest_listens };
        }
    })?;
    let ports: Vec<_> = [2, 3]
        .into_iter()
        .map(|n| VirtioUser { server: guest_listens, packed, ..VirtioUser::new(&stage.plan.socket(n)) })
        .collect();
    let mut first = circulating(&context.dir, "guest", &ports)?;
    first.process().kill()?;
    for port in ["vm2", "vm3"] {
        let row = stage.switch.wait_for_port(port, "without its guest", is_waiting)?;
        ensure!(row["reason"] == "the front-end hung up", "{row}");
    }
    stage.wait_until_tidy()?;
    if guest_listens {
        // testpmd does not take the place of a socket that was left behind.
        for port in &ports {
            std::fs::remove_file(&port.socket)?;
        }
    }
    let second = circulating(&context.dir, "guest-again", &ports)?;
    for port in ["vm2", "vm3"] {
        stage.switch.wait_for_port(port, "up again", is_up)?;
    }
    second.quit()?;
    let felt = stage.finish()?;
    context.note(
        "testpmd was killed under traffic, its descriptors and memory were given back, the next one forwards",
    );
    note_felt(context, &felt);
    Ok(())
}

fn circulating(dir: &Path, name: &str, ports: &[VirtioUser]) -> Result<Testpmd> {
    let mut testpmd = Testpmd::start(dir, &TestpmdOptions::guest(name, 1, ports))?;
    testpmd.circulate(64, 4)?;
    let before = testpmd.received()?;
    std::thread::sleep(TRAFFIC_TIME);
    let frames = testpmd.received()? - before;
    ensure!(frames >= LEAST_FRAMES, "{frames} frames arrived");
    Ok(testpmd)
}
