//! `ringway show`: rows of a running switch, once or again and again.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use clap::error::ErrorKind;
use control::{Answer, Client, PortRow, Request, table};
use serde::{Serialize, Serializer};

use crate::args::{Cli, OnOff, ShowArgs, What};
use crate::change::{connect, unexpected};
use crate::failure::Outcome;
use crate::output;

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Shows what was asked for; with `--watch` until the command is ended.
pub fn show(args: &ShowArgs) -> Outcome {
    refuse_what_does_not_fit(args);
    let mut client = connect(&args.switch)?;
    if let Some(switched) = args.stages {
        match client.call(Request::Stages { on: switched == OnOff::On })? {
            Answer::Changed(_) => {}
            _ => return Err(unexpected()),
        }
    }
    if !args.watch {
        let answer = client.call(request(args))?;
        return if args.json { output::json(&Rows(&answer)) } else { output::text(&table::answer(&answer)) };
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
        What::Partitions => Request::ShowPartitions,
        What::Hardware => Request::ShowHardware,
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
                _ => table::answer(&answer),
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
            Answer::Partitions(rows) => rows.serialize(serializer),
            Answer::Hardware(rows) => rows.serialize(serializer),
            Answer::Flows(rows) => rows.serialize(serializer),
            Answer::Fdb(rows) => rows.serialize(serializer),
            Answer::Workers(rows) => rows.serialize(serializer),
            Answer::Caches(rows) => rows.serialize(serializer),
            Answer::Config(config) => config.serialize(serializer),
            Answer::Controller(rows) => rows.serialize(serializer),
            Answer::Snapshot(snapshot) => snapshot.serialize(serializer),
            Answer::Changed(lines) => lines.serialize(serializer),
            Answer::HandOver { version } => version.serialize(serializer),
        }
    }
}

/// Rates of ports, from their counters now and before.
#[derive(Debug, Default)]
pub struct PortRates {
    before: Vec<PortRow>,
    asked_at: Option<Instant>,
}

impl PortRates {
    /// The ports with what passed since the last call.
    pub fn table(&mut self, rows: &[PortRow]) -> String {
        let now = Instant::now();
        let elapsed = self.asked_at.replace(now).map_or(Duration::ZERO, |before| now - before);
        let text = table::port_rates(&self.before, rows, elapsed.as_secs_f64());
        self.before = rows.to_vec();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_table_has_no_rates_to_show() {
        let port = PortRow { name: "vm0".into(), rx_frames: 1 << 40, ..PortRow::default() };
        let mut rates = PortRates::default();
        assert!(!rates.table(std::slice::from_ref(&port)).contains(" G"));
        assert_eq!(rates.before, [port]);
    }
}
