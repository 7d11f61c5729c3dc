//! Ringway as a newcomer meets it: the demo without privileges, a file with mistakes, counters that add up.

use anyhow::{Context as _, Result, bail, ensure};
use lab::switch::{Plan, Ringway, ringway_binary};
use lab::{Process, Testpmd, TestpmdOptions, VirtioUser, workspace_root};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("command-line/demo-unprivileged", &[Need::Ringway], demo),
    Scenario::new("command-line/check-bad-configs", &[Need::Ringway], bad_configs),
    Scenario::new("command-line/check-good-configs", &[Need::Ringway], good_configs),
    Scenario::new("command-line/show-ports-adds-up", &[Need::Ringway], show_ports_adds_up),
    Scenario::new("command-line/ends-within-a-second", &[Need::Ringway], ends_within_a_second),
];

/// User and group `nobody`.
const NOBODY: &str = "65534";
const DEMO_LIMIT: Duration = Duration::from_secs(60);

/// A mistake in a file below `configs/bad` is announced by a comment with this word on the line it is on.
const MISTAKE_MARK: &str = "# error";

fn demo(context: &Context) -> Result<()> {
    // An ordinary user can read neither root's checkout nor its target directory.
    run("chmod", &["0777", &context.dir.to_string_lossy()])?;
    let binary = context.dir.join("ringway");
    let config = context.dir.join("demo.toml");
    std::fs::copy(ringway_binary(), &binary).context("copying the release binary")?;
    std::fs::copy(workspace_root().join("configs/demo.toml"), &config)?;
    run("chmod", &["0755", &binary.to_string_lossy()])?;
    run("chmod", &["0644", &config.to_string_lossy()])?;
    let setpriv = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    let wrap: &[&str] = if rustix::process::geteuid().is_root() { &setpriv } else { &[] };
    let args = ["run", &config.to_string_lossy(), "--for", "10", "--json"].map(String::from);
    let mut process = Process::start_as("demo", &context.dir, wrap, &binary.to_string_lossy(), &args)?;
    let status = process.wait(DEMO_LIMIT)?;
    ensure!(status.success(), "the demo ended with {status}");
    // Log lines share the file with the summary, which is the last line that is an object.
    let log = process.log();
    let summary: Value = log
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object))
        .or_else(|| serde_json::from_str(&log[log.find("{\n")?..]).ok())
        .context("the demo printed no summary")?;
    let ports = summary["ports"].as_array().context("no ports in the summary")?;
    ensure!(ports.len() >= 2, "the demo has {} ports", ports.len());
    for port in ports {
        for count in ["rx_frames", "tx_frames"] {
            ensure!(port[count].as_u64().is_some_and(|frames| frames > 0), "no {count} on {port}");
        }
    }
    let guests = summary["guests"].as_array().context("no guests in the summary")?;
    ensure!(!guests.is_empty(), "no guests in the summary");
    for guest in guests {
        ensure!(guest["lost"].as_u64() == Some(0), "{guest}");
    }
    context.note(format!("{} ports, {} guests, nothing lost", ports.len(), guests.len()));
    Ok(())
}

/// Each planted mistake is reported with the number of its line; nothing but planted lines is.
fn bad_configs(context: &Context) -> Result<()> {
    let files = config_files("configs/bad")?;
    ensure!(!files.is_empty(), "there are no bad configurations");
    let mut planted_total = 0;
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let planted: Vec<_> =
            (1u64..).zip(text.lines()).filter(|(_, line)| line.contains(MISTAKE_MARK)).collect();
        ensure!(!planted.is_empty(), "{} has no line marked `{MISTAKE_MARK}`", file.display());
        let output = Command::new(ringway_binary()).args(["check", "--json"]).arg(file).output()?;
        ensure!(!output.status.success(), "`check {}` found nothing", file.display());
        let report = String::from_utf8_lossy(&output.stdout);
        let parsed: Value = serde_json::from_str(&report)
            .with_context(|| format!("`check --json {}` printed:\n{report}", file.display()))?;
        let mut reported = Vec::new();
        collect_lines(&parsed, &mut reported);
        for (number, line) in &planted {
            ensure!(
                reported.contains(number),
                "{}:{number} is not reported: {line}\n{report}",
                file.display()
            );
        }
        planted_total += planted.len();
    }
    context.note(format!("{planted_total} mistakes in {} files, each reported with its line", files.len()));
    Ok(())
}

fn good_configs(context: &Context) -> Result<()> {
    let files = config_files("configs")?;
    ensure!(!files.is_empty(), "there are no example configurations");
    for file in &files {
        let output = Command::new(ringway_binary()).arg("check").arg(file).output()?;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`check {}`:\n{said}", file.display());
    }
    context.note(format!("{} examples", files.len()));
    Ok(())
}

/// While frames flow, and after: what `show ports --json` says was received was sent, dropped or punted.
fn show_ports_adds_up(context: &Context) -> Result<()> {
    let plan = Plan::with_guests(&context.dir, 2).join_first_two();
    let switch = Ringway::start(&plan)?;
    let guests: Vec<_> = (0..2).map(|port| VirtioUser::new(&plan.socket(port))).collect();
    let mut testpmd = Testpmd::start(&context.dir, &TestpmdOptions::guest("guest", 1, &guests))?;
    testpmd.circulate(64, 4)?;
    let mut last = 0;
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        let received = balance(&switch.show("ports")?, IN_FLIGHT)?;
        ensure!(received > last, "no frame arrived within 300 ms");
        last = received;
    }
    testpmd.command("stop")?;
    testpmd.drain()?;
    let received = lab::wait_until("counters that add up exactly", Duration::from_secs(5), || {
        Ok(balance(&switch.show("ports")?, 0).ok())
    })?;
    context.note(format!("{received} frames accounted for"));
    testpmd.quit()?;
    let summary = switch.finish()?;
    ensure!(balance(&summary, 0)? == received, "the final summary differs from the last `show`");
    Ok(())
}

/// A snapshot of counters of a running worker may catch it within one burst on each of two ports.
const IN_FLIGHT: u64 = 64;

/// Checks `received + copies + injected = sent + dropped + punted` over all ports and returns `received`.
pub(crate) fn balance(shown: &Value, tolerance: u64) -> Result<u64> {
    let ports = shown.as_array().or_else(|| shown["ports"].as_array()).context("no ports shown")?;
    let sum = |key: &str| ports.iter().map(|port| port[key].as_u64().unwrap_or(0)).sum::<u64>();
    let drops = |port: &Value| -> u64 {
        port["drops"].as_object().map_or(0, |reasons| reasons.values().filter_map(Value::as_u64).sum())
    };
    let received = sum("rx_frames");
    let came = received + sum("copies") + sum("injected");
    let went = sum("tx_frames") + ports.iter().map(drops).sum::<u64>() + sum("punted");
    if came.abs_diff(went) > tolerance {
        bail!("{came} frames came in, {went} went somewhere:\n{shown:#}");
    }
    Ok(received)
}

fn ends_within_a_second(context: &Context) -> Result<()> {
    let plan = Plan::with_guests(&context.dir, 2);
    let mut switch = Ringway::start(&plan)?;
    let sockets = [plan.socket(0), plan.socket(1), switch.control_socket().to_path_buf()];
    for socket in &sockets {
        ensure!(socket.exists(), "{} is not there", socket.display());
    }
    switch.process().signal(rustix::process::Signal::TERM)?;
    let status = switch.process().wait(Duration::from_secs(1))?;
    ensure!(status.success(), "ended with {status}");
    for socket in &sockets {
        ensure!(!socket.exists(), "{} was left behind", socket.display());
    }
    Ok(())
}

fn config_files(dir: &str) -> Result<Vec<PathBuf>> {
    let dir = workspace_root().join(dir);
    let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

/// Collects every `line` member of a report, wherever it is.
fn collect_lines(report: &Value, into: &mut Vec<u64>) {
    match report {
        Value::Array(items) => items.iter().for_each(|item| collect_lines(item, into)),
        Value::Object(members) => {
            into.extend(members.get("line").and_then(Value::as_u64));
            members.values().for_each(|member| collect_lines(member, into));
        }
        _ => {}
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    lab::run_to_end(program, args, Duration::from_secs(10)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_found_however_deep() {
        let mut lines = Vec::new();
        collect_lines(&json!({"errors": [{"line": 3, "key": "a"}, {"at": {"line": 9}}]}), &mut lines);
        assert_eq!(lines, [3, 9]);
    }

    #[test]
    fn a_frame_that_went_nowhere_is_noticed() {
        let port =
            |rx, tx, dropped| json!({"rx_frames": rx, "tx_frames": tx, "drops": {"no_buffer": dropped}});
        assert_eq!(balance(&json!({"ports": [port(10, 4, 1), port(5, 9, 1)]}), 0).unwrap(), 15);
        assert!(balance(&json!([port(10, 4, 0), port(5, 9, 1)]), 0).is_err());
        let flooded = json!([{"rx_frames": 10, "copies": 11, "punted": 1, "tx_frames": 20}]);
        assert_eq!(balance(&flooded, 0).unwrap(), 10);
    }
}
