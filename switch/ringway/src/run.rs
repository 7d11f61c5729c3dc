//! `ringway run`: the switch itself, with rates while it runs and a summary at its end.

use control::{Summary, table};
use switchd::{OnTick, RunOptions};

use crate::args::RunArgs;
use crate::check::load_or_explain;
use crate::failure::{Outcome, Verdict};
use crate::show::PortRates;
use crate::{live, output};

/// Runs the switch until it ends, and prints what it did.
pub fn run(args: &RunArgs) -> Outcome {
    let Some(config) = load_or_explain(&args.file, &switch_config::this_machine()) else {
        return Ok(Verdict::Bad);
    };
    let options = RunOptions {
        path: args.file.clone(),
        for_: args.for_,
        on_tick: live::is_terminal().then(draw_rates),
        take_over: args.take_over,
    };
    let summary = switchd::run(config, options);
    live::clear();
    let summary = summary?;
    if args.json { output::json(&summary) } else { output::text(&tables(&summary)) }
}

fn draw_rates() -> OnTick {
    let mut rates = PortRates::default();
    Box::new(move |snapshot| live::draw(&rates.table(&snapshot.ports)))
}

/// The summary for people.
fn tables(summary: &Summary) -> String {
    let means = table::port_rates(&[], &summary.ports, summary.seconds);
    format!("{summary}\nper second, over the whole run:\n{means}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::{GuestRow, PortRow};

    #[test]
    fn the_summary_names_ports_drops_guests_and_throughput() {
        let drops = [("no-buffer".to_owned(), 7)].into();
        let port = PortRow {
            name: "vm0".into(),
            rx_frames: 1_234_567,
            rx_bytes: 1_000_000,
            drops,
            ..PortRow::default()
        };
        let guest = GuestRow { name: "alice".into(), role: "host".into(), sent: 9, ..GuestRow::default() };
        let summary = Summary { seconds: 2.0, ports: vec![port], guests: vec![guest], ..Summary::default() };
        let text = tables(&summary);
        for part in ["vm0", "1 234 567", "4.00 M", "no-buffer 7", "alice", "host"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
