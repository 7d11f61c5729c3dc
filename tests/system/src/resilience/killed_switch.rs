//! The switch is killed with SIGKILL and started again under guests that run on.

use anyhow::{Result, ensure};
use lab::switch::{Plan, PortKind, Ringway, Switch as _};
use lab::{PortStats, Testpmd, TestpmdOptions, Traffic, TrafficOptions, VirtioUser};
use std::time::Duration;

use super::stage::{is_up, number};
use crate::{Context, Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/killed-switch-split", &[Need::Ringway], |c| played(c, false, false)),
    Scenario::new("resilience/killed-switch-packed", &[Need::Ringway], |c| played(c, false, true)),
    Scenario::new("resilience/killed-switch-connects-split", &[Need::Ringway], |c| played(c, true, false)),
    Scenario::new("resilience/killed-switch-connects-packed", &[Need::Ringway], |c| played(c, true, true)),
    Scenario::new("resilience/killed-switch-testpmd-split", &[Need::Ringway], |c| testpmd(c, false)),
    Scenario::new("resilience/killed-switch-testpmd-packed", &[Need::Ringway], |c| testpmd(c, true)),
];

/// Each kill may hit another moment of a burst.
const KILLS: u32 = 5;
/// Frames the switch takes at once: those of a burst that were delivered and not yet taken from their sender are
/// delivered once more by the next switch. At most one burst in each direction and kill.
const BURST: u64 = 32;
const TESTPMD_KILLS: u32 = 3;
const TRAFFIC_TIME: Duration = Duration::from_millis(200);

/// Frames are numbered: each that is missing must be among those that a switch dropped by a reason it shows.
fn played(context: &Context, guests_listen: bool, packed: bool) -> Result<()> {
    let mut plan = Plan::with_guests(&context.dir, 2).join_first_two();
    for port in &mut plan.ports {
        port.kind = PortKind::VhostUser { listens: !guests_listen };
    }
    let mut switch = Ringway::start(&plan)?;
    let options =
        TrafficOptions { rate: 50_000, window: 256, packed, server: guests_listen, ..Default::default() };
    let up = || switch.wait_for_port("vm1", "up", is_up).map(drop);
    let traffic = Traffic::start(&plan.socket(0), &plan.socket(1), options, up)?;
    let mut dropped = 0;
    for _ in 0..KILLS {
        run_a_while(&switch)?;
        dropped += switch.counters()?.iter().map(|port| port.dropped()).sum::<u64>();
        switch.kill_and_start_again()?;
    }
    run_a_while(&switch)?;
    let felt = traffic.finish()?;
    dropped += switch.counters()?.iter().map(|port| port.dropped()).sum::<u64>();
    for report in [&felt.generator, &felt.reflector] {
        let connections = u64::from(KILLS) + 1;
        ensure!(report.connections == connections, "{} connections: {report:?}", report.connections);
    }
    let again = 2 * BURST * u64::from(KILLS);
    ensure!(felt.duplicated <= again, "{} frames came twice: {felt:?}", felt.duplicated);
    // A frame lost on its way there was lost on its way back too.
    ensure!(felt.lost <= dropped, "{} frames lost, only {dropped} dropped by a switch: {felt:?}", felt.lost);
    context.note(format!(
        "{KILLS} times: {} of {} frames lost, all shown as dropped while a guest was not back yet ({dropped}); \
         {} delivered twice; longest round trip {:.0} ms",
        felt.lost, felt.sent, felt.duplicated, felt.longest_ms
    ));
    switch.finish().map(drop)
}

/// testpmd listens, since only then it takes a switch that comes back (DPDK 22.11).
fn testpmd(context: &Context, packed: bool) -> Result<()> {
    let mut plan = Plan::with_guests(&context.dir, 2).join_first_two();
    for port in &mut plan.ports {
        port.kind = PortKind::VhostUser { listens: false };
    }
    let ports: Vec<_> =
        (0..2).map(|n| VirtioUser { server: true, packed, ..VirtioUser::new(&plan.socket(n)) }).collect();
    let options = TestpmdOptions::guest("guest", 1, &ports);
    let mut testpmd = Testpmd::launch(&context.dir, &options)?;
    let mut switch = Ringway::start(&plan)?;
    testpmd.wait_ready()?;
    testpmd.circulate(64, 4)?;
    let mut dropped = 0;
    for _ in 0..TESTPMD_KILLS {
        std::thread::sleep(TRAFFIC_TIME);
        dropped += switch.counters()?.iter().map(|port| port.dropped()).sum::<u64>();
        switch.kill_and_start_again()?;
        for port in ["vm0", "vm1"] {
            switch.wait_for_port(port, "up again", is_up)?;
        }
        // Those that circulated may all have been dropped before the second port was back.
        testpmd.command("stop")?;
        testpmd.circulate(64, 4)?;
    }
    std::thread::sleep(TRAFFIC_TIME);
    testpmd.command("stop")?;
    let stats = testpmd.drain()?;
    dropped += switch.counters()?.iter().map(|port| port.dropped()).sum::<u64>();
    let sum = |of: fn(&PortStats) -> u64| stats.iter().map(of).sum::<u64>();
    let (sent, received) = (sum(|port| port.tx_frames), sum(|port| port.rx_frames));
    let buffers = testpmd.close_and_count_buffers()?;
    ensure!(
        buffers == options.buffers,
        "{buffers} of {} buffers are back in testpmd's pool",
        options.buffers
    );
    let again = 2 * BURST * u64::from(TESTPMD_KILLS);
    ensure!(received <= sent + again, "{received} frames came of {sent}");
    // Of a packed ring testpmd itself drops what is in it ("packets on the fly will be dropped").
    let lost = sent.saturating_sub(received);
    ensure!(packed || lost <= dropped, "{lost} of {sent} frames lost, only {dropped} dropped by a switch");
    context.note(format!(
        "{TESTPMD_KILLS} times: {lost} of {sent} frames lost, {dropped} shown as dropped; all of testpmd's buffers are back"
    ));
    testpmd.quit()?;
    switch.finish().map(drop)
}

/// Waits until frames flow both ways, and some time more.
fn run_a_while(switch: &Ringway) -> Result<()> {
    for port in ["vm0", "vm1"] {
        switch.wait_for_port(port, "frames flow", |row| number(row, "rx_frames") > 1000)?;
    }
    std::thread::sleep(TRAFFIC_TIME);
    Ok(())
}
