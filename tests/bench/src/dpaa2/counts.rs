//! Stores, lines and instructions of each driver.

use anyhow::{Context as _, Result, ensure};
use lab::dpaa2::{Control, OnModel, Options};
use lab::{run_to_end, target_dir, wait_until};
use serde_json::Value;
use std::time::Duration;

use super::{BURSTS, Cost, What};
use crate::instructions;

const LIMIT: Duration = Duration::from_secs(60);
/// Turns of our driver that are counted: buffers come and go in sevens, so a multiple of 7.
const TURNS: u32 = 1400;
/// Frames of DPDK's driver that are counted, at least.
const FRAMES: u64 = 20_000;
/// Buffers of DPDK's driver.
const BUFFERS: u64 = 4096;

/// What a frame costs with our driver.
pub(super) fn ringway(soc: &str, what: What, burst: u32) -> Result<Cost> {
    let program = target_dir().join("release/bench_dpaa2");
    let (burst, turns) = (burst.to_string(), TURNS.to_string());
    let text = run_to_end(&program.to_string_lossy(), &[soc, what.name(), &burst, &turns], LIMIT)?;
    let counted: Value = serde_json::from_str(&text).with_context(|| format!("from bench_dpaa2: {text}"))?;
    let count = |name: &str| counted[name].as_f64().with_context(|| format!("no {name} in {text}"));
    let frames = count("frames")?;
    Ok(Cost { stores: count("stores")? / frames, lines: count("lines")? / frames })
}

/// Our driver's instructions for a frame, counted by callgrind.
pub(super) fn instructions(soc: &str, what: What, burst: u32) -> Result<f64> {
    let program = target_dir().join("release/bench_dpaa2");
    // Accesses to windows are the model's part: entering them switches counting off, leaving them on again. Outside of turns
    // that is the other way round, so what is the same however many turns there are is taken off.
    let excluded = ["*ModelWindow*store*", "*ModelWindow*load*"];
    let total = |turns: u32| {
        let arguments = [soc, what.name(), &burst.to_string(), &turns.to_string()];
        instructions::count(&program, &excluded, &arguments)
    };
    let (few, many) = (total(7)?, total(7 + TURNS)?);
    Ok(many.saturating_sub(few) as f64 / f64::from(burst * TURNS))
}

/// What a frame costs with DPDK's driver, for each burst.
pub(super) fn dpdk(soc: &str, what: What) -> Result<[Option<Cost>; BURSTS.len()]> {
    let dir = tempfile::Builder::new().prefix("rw-bench-").tempdir()?;
    let (control, mut environment) = Control::of_own_model(dir.path(), &board(soc, what))?;
    environment.push("DPRC=dprc.2".into());
    let options = Options { environment: &environment, cores: 1, buffers: BUFFERS, ..Options::default() };
    let mut testpmd = OnModel::start("testpmd", dir.path(), control, &options)?;
    let mut costs = [None; BURSTS.len()];
    for (burst, of_burst) in BURSTS.into_iter().zip(&mut costs) {
        *of_burst = Some(cost(&mut testpmd, what, burst)?);
    }
    let violations = testpmd.quit()?["violations_total"].clone();
    ensure!(violations == 0, "{violations} rules were broken");
    Ok(costs)
}

/// An interface whose wire brings what the driver is to receive.
fn board(soc: &str, what: What) -> String {
    let end = match what {
        What::Forward => "{ kind = \"loop\" }",
        What::Receive => "{ kind = \"generator\", burst = 64 }",
        What::Transmit => "{ kind = \"quiet\" }",
    };
    format!(
        r#"
        soc = "{soc}"
        [[container]]
        id = 2
        dpio = 8
        dpbp = 4
        [[container.dpni]]
        id = 1
        mac = "02:00:00:00:00:01"
        [[dpmac]]
        id = 1
        end = {end}
        [[connection]]
        a = "dpni.1"
        b = "dpmac.1"
        "#
    )
}

/// Frames moved, stores and lines so far.
fn counts(testpmd: &OnModel, what: What) -> Result<[u64; 3]> {
    let report = testpmd.model.report()?;
    let frames = match what {
        What::Forward | What::Transmit => &report["enqueues"],
        What::Receive => &report["interfaces"]["dpni.1"]["rx_frames"],
    };
    let all = [frames, &report["stores"], &report["lines"]].map(Value::as_u64);
    all.into_iter()
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.try_into().ok())
        .context("counts of the model")
}

/// Waits until so many more frames were moved and returns the counts then.
fn after(testpmd: &OnModel, what: What, frames: u64) -> Result<[u64; 3]> {
    let goal = counts(testpmd, what)?[0] + frames;
    wait_until("frames of testpmd", LIMIT, || {
        Ok(Some(counts(testpmd, what)?).filter(|counts| counts[0] >= goal))
    })
}

fn cost(testpmd: &mut OnModel, what: What, burst: u32) -> Result<Cost> {
    let mode = match what {
        What::Forward => "io",
        What::Receive => "rxonly",
        What::Transmit => "txonly",
    };
    testpmd.command(&format!("set burst {burst}"))?;
    testpmd.command(&format!("set fwd {mode}"))?;
    // Frames enough in the loop that no poll finds it empty.
    testpmd.command(if what == What::Forward { "start tx_first 4" } else { "start" })?;
    // Caches of buffers are as full as they get.
    after(testpmd, what, FRAMES / 4)?;
    testpmd.model.ask("count-lines")?;
    after(testpmd, what, FRAMES / 4)?;
    let before = counts(testpmd, what)?;
    let after = after(testpmd, what, FRAMES)?;
    testpmd.command("stop")?;
    let [frames, stores, lines] = std::array::from_fn(|i| (after[i] - before[i]) as f64);
    Ok(Cost { stores: stores / frames, lines: lines / frames })
}
