//! What the switch costs and how it feels when nothing is wrong: the measure of all other figures.

use anyhow::{Result, ensure};
use lab::switch::{Plan, Ringway, Switch as _};
use lab::{Traffic, TrafficOptions, cpu_time};
use std::time::Duration;

use super::stage::{Stage, is_up, note_felt, number};
use crate::{Context, Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/nothing-happens", &[Need::Ringway], nothing_happens),
    Scenario::new("resilience/idle", &[Need::Ringway], idle),
];

/// Of one core. Far above what is seen, far below a loop that polls.
const IDLE_PERCENT_MAX: f64 = 5.0;
const IDLE_TIME: Duration = Duration::from_secs(3);
/// Frames a second, so few that the worker sleeps before each.
const SPARSE: u32 = 20;

/// The audience without an act.
fn nothing_happens(context: &Context) -> Result<()> {
    let stage = Stage::set(context, true)?;
    std::thread::sleep(Duration::from_secs(3));
    let felt = stage.finish()?;
    note_felt(context, &felt);
    Ok(())
}

/// No processor without traffic; and the time that the first frame takes which ends the sleep.
fn idle(context: &Context) -> Result<()> {
    let plan = Plan::with_guests(&context.dir, 2).join_first_two();
    let switch = Ringway::start(&plan)?;
    let used = |of: &Ringway| cpu_time(of.pid());
    std::thread::sleep(Duration::from_millis(500));
    let before = used(&switch)?;
    std::thread::sleep(IDLE_TIME);
    let percent = 100.0 * (used(&switch)? - before).as_secs_f64() / IDLE_TIME.as_secs_f64();
    ensure!(percent <= IDLE_PERCENT_MAX, "{percent:.1} % of a core without traffic");
    context.note(format!("without traffic: {percent:.1} % of a core"));
    let felt = |rate| -> Result<_> {
        let options = TrafficOptions { rate, ..TrafficOptions::default() };
        let up = || switch.wait_for_port("vm1", "up", is_up).map(drop);
        let traffic = Traffic::start(&plan.socket(0), &plan.socket(1), options, up)?;
        let frames = u64::from(rate) * 2;
        let before = number(&switch.port("vm0")?, "rx_frames");
        switch.wait_for_port("vm0", "frames", |row| number(row, "rx_frames") >= before + frames)?;
        traffic.finish()
    };
    let sparse = felt(SPARSE)?;
    let dense = felt(TrafficOptions::default().rate)?;
    ensure!(sparse.lost == 0 && dense.lost == 0, "frames are lost: {sparse:?} {dense:?}");
    context.note(format!(
        "there and back, of frames that wake the switch and the guests: median {:.2} ms, longest {:.1} ms; \
         under traffic: median {:.2} ms",
        sparse.median_ms, sparse.longest_ms, dense.median_ms
    ));
    switch.finish().map(drop)
}
