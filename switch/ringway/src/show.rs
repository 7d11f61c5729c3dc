//! `ringway show`: rows of a running switch, once or again and again.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use clap::error::ErrorKind;
use control::{Answer, Client, PortRow, Request};
use serde::{Serialize, Serializer};

use crate::args::{Cli, OnOff, ShowArgs, What};
use crate::change::{connect, unexpected};
use crate::failure::Outcome;
use crate::{output, table};

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Shows what was asked for; with `--watch` until the command is ended.
pub fn show(args: &ShowArgs) -> Outcome {
    refuse_what_does_not_fit(args);
    let mut client = connect(&args.switch)?;
    if let Some(Some(switched)) = args.stages {
        match client.call(Request::Stages { on: switched == OnOff::On })? {
            Answer::Changed(_) => {}
            _ => return Err(unexpected()),
        }
    }
    if !args.watch {
        let answer = client.call(request(args))?;
        return if args.json { output::json(&Rows(&answer)) } else { output::text(&text(answer, args)?) };
    }
    watch(&mut client, args)
}

fn refuse_what_does_not_fit(args: &ShowArgs) {
    let refuse = |flag: &str, fits: &str| {
        let message = format!("{flag} is for `show {fits}`");
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
    };
    if args.bridge.is_some() && !matches!(args.what, What::Flows | What::Fdb) {
        refuse("--bridge", "flows` and `show fdb");
    }
    if args.table.is_some() && args.what != What::Flows {
        refuse("--table", "flows");
    }
    if args.stages.is_some() && args.what != What::Workers {
        refuse("--stages", "workers");
    }
}

fn request(args: &ShowArgs) -> Request {
    let bridge = args.bridge.clone();
    match args.what {
        What::Status => Request::Status,
        What::Ports => Request::ShowPorts,
        What::Flows => Request::ShowFlows { bridge, table: args.table },
        What::Fdb => Request::ShowFdb { bridge },
        What::Workers => Request::ShowWorkers,
        What::Caches => Request::ShowCaches,
        What::Config => Request::ShowConfig,
        What::Controller => Request::ShowController,
    }
}

fn watch(client: &mut Client, args: &ShowArgs) -> Outcome {
    let redraws = std::io::stdout().is_terminal();
    let mut rates = PortRates::default();
    loop {
        let answer = client.call(request(args))?;
        if args.json {
            output::json_line(&Rows(&answer))?;
        } else {
            let text = match &answer {
                Answer::Ports(rows) => rates.table(rows),
                _ => text(answer, args)?,
            };
            // From the upper left corner, clearing what is there (ECMA-48: CUP, ED).
            output::text(&if redraws { format!("\x1b[H\x1b[2J{text}") } else { format!("{text}\n") })?;
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// An answer without its name, which says nothing that wasn't asked.
struct Rows<'a>(&'a Answer);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Answer::Status(status) => status.serialize(serializer),
            Answer::Ports(rows) => rows.serialize(serializer),
            Answer::Flows(rows) => rows.serialize(serializer),
            Answer::Fdb(rows) => rows.serialize(serializer),
            Answer::Workers(rows) => rows.serialize(serializer),
            Answer::Caches(rows) => rows.serialize(serializer),
            Answer::Config(config) => config.serialize(serializer),
            Answer::Controller(rows) => rows.serialize(serializer),
            Answer::Snapshot(snapshot) => snapshot.serialize(serializer),
            Answer::Changed(lines) => lines.serialize(serializer),
        }
    }
}

fn text(answer: Answer, args: &ShowArgs) -> anyhow::Result<String> {
    Ok(match answer {
        Answer::Status(status) => table::status(&status),
        Answer::Ports(rows) => table::ports(&rows),
        Answer::Flows(rows) => table::flows(&rows),
        Answer::Fdb(rows) => table::fdb(&rows),
        Answer::Workers(rows) if args.stages.is_some() => table::stages(&rows),
        Answer::Workers(rows) => table::workers(&rows),
        Answer::Caches(rows) => table::caches(&rows),
        Answer::Config(config) => config.text,
        Answer::Controller(rows) => table::punts(&rows),
        Answer::Snapshot(_) | Answer::Changed(_) => return Err(unexpected()),
    })
}

/// Rates of ports, from their counters now and before.
#[derive(Debug, Default)]
pub struct PortRates {
    before: HashMap<String, PortRow>,
    asked_at: Option<Instant>,
}

/// What passed a port per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Frames received per second.
    pub rx_pps: f64,
    /// Bits received per second.
    pub rx_bps: f64,
    /// Frames sent per second.
    pub tx_pps: f64,
    /// Bits sent per second.
    pub tx_bps: f64,
    /// Frames dropped per second.
    pub dropped_pps: f64,
}

impl PortRates {
    /// The ports with what passed since the last call.
    pub fn table(&mut self, rows: &[PortRow]) -> String {
        let now = Instant::now();
        let elapsed = self.asked_at.replace(now).map_or(Duration::ZERO, |before| now - before);
        table::port_rates(rows, &self.since(rows, elapsed))
    }

    fn since(&mut self, rows: &[PortRow], elapsed: Duration) -> Vec<Rate> {
        let rates = rows.iter().map(|now| match self.before.get(&now.name) {
            Some(before) if !elapsed.is_zero() => rate(before, now, elapsed.as_secs_f64()),
            _ => Rate::default(),
        });
        let rates = rates.collect();
        self.before = rows.iter().map(|row| (row.name.clone(), row.clone())).collect();
        rates
    }
}

fn rate(before: &PortRow, now: &PortRow, seconds: f64) -> Rate {
    // A port that was removed and added again counts from zero.
    let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    Rate {
        rx_pps: per_second(now.rx_frames, before.rx_frames),
        rx_bps: 8.0 * per_second(now.rx_bytes, before.rx_bytes),
        tx_pps: per_second(now.tx_frames, before.tx_frames),
        tx_bps: 8.0 * per_second(now.tx_bytes, before.tx_bytes),
        dropped_pps: per_second(now.dropped(), before.dropped()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(rx_frames: u64) -> PortRow {
        PortRow { name: "vm0".into(), rx_frames, rx_bytes: rx_frames * 100, ..PortRow::default() }
    }

    #[test]
    fn rates_are_differences_per_second() {
        let mut rates = PortRates::default();
        assert_eq!(
            rates.since(&[port(10)], Duration::ZERO),
            [Rate::default()],
            "nothing to compare with yet"
        );
        let [rate] = rates.since(&[port(30)], Duration::from_secs(2))[..] else { panic!("one port") };
        assert_eq!((rate.rx_pps, rate.rx_bps), (10.0, 8000.0));
    }

    #[test]
    fn a_port_that_counts_from_zero_again_has_no_rate() {
        let mut rates = PortRates::default();
        rates.since(&[port(30)], Duration::ZERO);
        assert_eq!(rates.since(&[port(1)], Duration::from_secs(1)), [Rate::default()]);
    }
}
