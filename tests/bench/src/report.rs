//! The result: tables for the terminal and for Markdown, JSON for machines.

use crate::bare_copy::SIZES;
use anyhow::{Result, bail};
use lab::switch::System;
use lab::{Pages, Placement};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::measure::{Bench, Run};
use crate::section::{self, Better, Section};
use crate::{Results, cases};

/// Median and spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "a row exists because there was a run");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }
}

/// One case, one system, one placement.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    /// Which kind of row.
    section: String,
    system: String,
    placement: Placement,
    runs: usize,
    /// `mpps`, `cycles_per_frame` and others, by the kind of row.
    #[serde(flatten)]
    figures: BTreeMap<String, Spread>,
    /// How many times better than OVS-DPDK in the figure this kind of row compares; medians of the same case and placement.
    ratio_to_ovs_dpdk: Option<f64>,
    /// The same against testpmd.
    ratio_to_testpmd: Option<f64>,
    ping_pong_ns: Spread,
}

/// Where and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    processor: String,
    kernel: String,
    /// Day of the measurement, UTC, as `2026-11-21`.
    date: String,
    unix_time_s: u64,
    /// What was typed.
    command: String,
}

/// The place, and what the switches ran on there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    #[serde(flatten)]
    place: Place,
    pages: Pages,
}

/// Everything measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    machine: Machine,
    cases: Vec<Row>,
    /// TSC cycles to copy one frame of 64, 512 and 1518 bytes with nothing else around it.
    bare_copy_cycles: Vec<[f64; SIZES.len()]>,
    /// Runs left out because others had the cores, or nothing came through.
    left_out: u64,
    /// Starts and sessions that failed.
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(bench: &Bench<'_>, results: &Results) -> Self {
        let runs = &results.runs;
        let order = cases::names();
        let place = |name: &str| order.iter().position(|other| other == name);
        let mut keys: Vec<_> = runs.keys().collect();
        keys.sort_by_key(|(name, system, placement)| (place(name), *placement, *system));
        let rows = keys.into_iter().map(|key| {
            let (name, system, placement) = key;
            let list = &runs[key];
            let section = crate::cases::section_of(name);
            let ratio_to = |other: System| {
                let others = runs.get(&(name.clone(), other, *placement))?;
                ratio(section, list, others)
            };
            Row {
                name: name.clone(),
                section: section.name.to_owned(),
                system: system.name().to_owned(),
                placement: *placement,
                runs: list.len(),
                figures: spreads(list),
                ratio_to_ovs_dpdk: ratio_to(System::OvsDpdk).filter(|_| *system != System::OvsDpdk),
                ratio_to_testpmd: ratio_to(System::Testpmd).filter(|_| *system != System::Testpmd),
                ping_pong_ns: Spread::of(list.iter().flat_map(|run| run.ping_pong_ns)),
            }
        });
        Self {
            machine: Machine::of(&bench.options.command, bench.pages),
            cases: rows.collect(),
            bare_copy_cycles: results.bare_copies.clone(),
            left_out: results.left_out,
            failures: results.failures.clone(),
        }
    }

    /// Says whether a system failed to start or to be measured.
    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Puts the rows of several reports of one machine together. A row found in several is taken from the last.
    ///
    /// # Errors
    /// When there is none, or they are of different machines.
    pub fn merge(reports: Vec<Report>) -> Result<Report> {
        let mut reports = reports.into_iter();
        let Some(mut all) = reports.next() else { bail!("no report") };
        for report in reports {
            if report.machine.place.processor != all.machine.place.processor {
                bail!(
                    "a report of {}, and one of {}",
                    all.machine.place.processor,
                    report.machine.place.processor
                );
            }
            let is_new = |old: &Row| {
                report.cases.iter().any(|new| {
                    (&new.name, &new.system, new.placement) == (&old.name, &old.system, old.placement)
                })
            };
            all.cases.retain(|old| !is_new(old));
            all.cases.extend(report.cases);
            if !all.machine.place.command.contains(&report.machine.place.command) {
                write!(all.machine.place.command, "; {}", report.machine.place.command)?;
            }
            all.bare_copy_cycles.extend(report.bare_copy_cycles);
            all.left_out += report.left_out;
            all.failures.extend(report.failures);
            all.machine.place.date = all.machine.place.date.max(report.machine.place.date);
            all.machine.place.unix_time_s =
                all.machine.place.unix_time_s.max(report.machine.place.unix_time_s);
        }
        let order = cases::names();
        all.cases.sort_by_key(|row| {
            let place = order.iter().position(|name| *name == row.name);
            let system = crate::measure::ALL.iter().position(|system| system.name() == row.system);
            (place, row.placement, system)
        });
        Ok(all)
    }

    /// The tables for docs/benchmarks.md.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory");
        line(format_args!("{}\n\n{}", self.machine, self.bare_copies()));
        for (section, rows) in self.sections() {
            line(format_args!("\n### {}\n\n{}\n", section.title, section.note));
            let titles: String =
                section.columns.iter().map(|column| format!(" {} |", column.title)).collect();
            let rules = "---|".repeat(section.columns.len());
            let (ratio_titles, ratio_rules) = ratio_titles(section, &rows);
            line(format_args!("| case | cores | system | runs |{titles}{ratio_titles}"));
            line(format_args!("|---|---|---|---|{rules}{ratio_rules}"));
            for row in &rows {
                let cells: String = section
                    .columns
                    .iter()
                    .map(|column| match row.figures.get(column.figure) {
                        Some(spread) => format!(" {} |", spread.text(column.decimals)),
                        None => " |".to_owned(),
                    })
                    .collect();
                let ratios: String =
                    ratios(section, row, &rows).into_iter().map(|text| format!(" {text} |")).collect();
                line(format_args!(
                    "| {} | {} | {} | {} |{cells}{ratios}",
                    row.name, row.placement, row.system, row.runs
                ));
            }
        }
        text
    }

    /// What copying costs here, in a sentence.
    fn bare_copies(&self) -> String {
        let costs = SIZES.iter().enumerate().map(|(k, size)| {
            let cycles = Spread::of(self.bare_copy_cycles.iter().map(|sizes| sizes[k]));
            format!("{size} bytes {}", cycles.text(0))
        });
        let costs = costs.collect::<Vec<_>>().join(", ");
        format!(
            "A bare `memcpy` of a frame between buffers beyond the second-level cache, in cycles: {costs}."
        )
    }

    /// Rows by kind.
    fn sections(&self) -> impl Iterator<Item = (&'static Section, Vec<&Row>)> {
        section::ALL.into_iter().filter_map(|section| {
            let rows: Vec<&Row> = self.cases.iter().filter(|row| row.section == section.name).collect();
            (!rows.is_empty()).then_some((section, rows))
        })
    }
}

fn spreads(runs: &[Run]) -> BTreeMap<String, Spread> {
    let names = runs.iter().flat_map(|run| run.figures.keys());
    let spread = |name: &String| Spread::of(runs.iter().filter_map(|run| run.figures.get(name).copied()));
    names.map(|name| (name.clone(), spread(name))).collect()
}

/// How many times better `own` is than `others`.
fn ratio(section: &Section, own: &[Run], others: &[Run]) -> Option<f64> {
    let (figure, better) = section.compared?;
    let (own, others) = (spreads(own).get(figure)?.median, spreads(others).get(figure)?.median);
    let ratio = match better {
        Better::Less => others / own,
        Better::More => own / others,
    };
    ratio.is_finite().then_some(ratio)
}

/// Headings of the columns of ratios there are, and the rules below them.
fn ratio_titles(section: &Section, rows: &[&Row]) -> (String, String) {
    let titles = ["x OVS", "x testpmd"];
    let shown: Vec<&str> =
        titles.into_iter().zip(has_ratios(section, rows)).filter(|(_, has)| *has).map(|(t, _)| t).collect();
    (shown.iter().map(|title| format!(" {title} |")).collect(), "---|".repeat(shown.len()))
}

/// Which ratios any row has.
fn has_ratios(section: &Section, rows: &[&Row]) -> [bool; 2] {
    let is_compared = section.compared.is_some();
    [
        is_compared && rows.iter().any(|row| row.ratio_to_ovs_dpdk.is_some()),
        is_compared && rows.iter().any(|row| row.ratio_to_testpmd.is_some()),
    ]
}

/// A row's ratios, for the columns there are.
fn ratios(section: &Section, row: &Row, rows: &[&Row]) -> Vec<String> {
    let text = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let cells = [text(row.ratio_to_ovs_dpdk), text(row.ratio_to_testpmd)];
    cells.into_iter().zip(has_ratios(section, rows)).filter(|(_, has)| *has).map(|(cell, _)| cell).collect()
}

impl Spread {
    /// The same in another unit.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }

    /// `median [min..max]`.
    pub(crate) fn text(&self, decimals: usize) -> String {
        format!("{:.decimals$} [{:.decimals$}..{:.decimals$}]", self.median, self.min, self.max)
    }
}

impl Place {
    /// This machine, now.
    pub(crate) fn this(command: &str) -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split_once(": "));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let unix_time_s = now.map_or(0, |since| since.as_secs());
        Self {
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            kernel: kernel.trim().to_owned(),
            date: date_of(unix_time_s),
            unix_time_s,
            command: command.to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { processor, kernel, date, command, .. } = self;
        write!(out, "{date}, {processor}, Linux {kernel}; `{command}`")
    }
}

impl Machine {
    /// This one, now.
    pub(crate) fn of(command: &str, pages: Pages) -> Self {
        Self { place: Place::this(command), pages }
    }

    fn pages_text(&self) -> &'static str {
        match self.pages {
            Pages::Huge => "2 MiB pages",
            Pages::Small => "4 KiB pages",
        }
    }
}

/// As it stands above tables.
impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { processor, kernel, date, command, .. } = &self.place;
        write!(out, "{date}, {processor}, Linux {kernel}, {}; `{command}`", self.pages_text())
    }
}

/// The day of a Unix time in the Gregorian calendar.
fn date_of(unix_time_s: u64) -> String {
    // Days since 1 March 0000; years then end with the leap day.
    let days = unix_time_s / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{}, Linux {}, {}, {}",
            machine.place.processor,
            machine.place.kernel,
            machine.pages_text(),
            machine.place.date
        )?;
        for (section, rows) in self.sections() {
            writeln!(out, "\n{}: {}", section.title, section.note)?;
            let mut table =
                vec![vec!["case", "cores", "system", "runs"].into_iter().map(String::from).collect()];
            let header: &mut Vec<String> = &mut table[0];
            header.extend(section.columns.iter().map(|column| column.title.to_owned()));
            let titles = ["x OVS", "x testpmd"].into_iter().zip(has_ratios(section, &rows));
            header.extend(titles.filter(|(_, has)| *has).map(|(title, _)| title.to_owned()));
            for row in &rows {
                let mut cells = vec![
                    row.name.clone(),
                    row.placement.to_string(),
                    row.system.clone(),
                    row.runs.to_string(),
                ];
                cells.extend(section.columns.iter().map(|column| {
                    row.figures.get(column.figure).map_or("-".to_owned(), |s| s.text(column.decimals))
                }));
                cells.extend(ratios(section, row, &rows));
                table.push(cells);
            }
            write_aligned(out, &table)?;
        }
        writeln!(out, "\n{}", self.bare_copies())?;
        if self.left_out > 0 {
            writeln!(out, "\n{} runs were left out: the cores were not ours alone", self.left_out)?;
        }
        for failure in &self.failures {
            writeln!(out, "\nfailed: {failure}")?;
        }
        Ok(())
    }
}

/// The first three columns to the left, numbers to the right.
fn write_aligned(out: &mut fmt::Formatter<'_>, table: &[Vec<String>]) -> fmt::Result {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in table {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0..3 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::measure::figures;

    fn report() -> Report {
        let mut results = Results { bare_copies: vec![[8.0, 120.0, 390.0]], ..Results::default() };
        let mut add = |system, placement, values: &[f64]| {
            let run = |&cycles: &f64| Run {
                placement,
                ping_pong_ns: [100.0, 110.0],
                figures: figures([("mpps", 10.0), ("cycles_per_frame", cycles)]),
            };
            let list = values.iter().map(run).collect();
            results.runs.insert(("64-split-p2p".to_owned(), system, placement), list);
        };
        add(System::OvsDpdk, Placement::Near, &[150.0, 160.0, 155.0]);
        add(System::Ringway, Placement::Near, &[50.0, 51.0]);
        add(System::Ringway, Placement::Far, &[90.0]);
        let options = Options {
            systems: Vec::new(),
            quick: false,
            only: Vec::new(),
            runs: None,
            switch_core: 0,
            load_core: 1,
            huge_pages: false,
            command: "cargo xtask bench".into(),
        };
        Report::new(&Bench { options: &options, pages: Pages::Small }, &results)
    }

    #[test]
    fn medians_are_of_the_middle_and_states_are_not_pooled() {
        let report = report();
        let row = |placement| {
            report.cases.iter().find(|row| row.system == "ringway" && row.placement == placement).unwrap()
        };
        let near = row(Placement::Near);
        assert_eq!(near.figures["cycles_per_frame"], Spread { median: 50.5, min: 50.0, max: 51.0 });
        assert!((near.ratio_to_ovs_dpdk.unwrap() - 155.0 / 50.5).abs() < 1e-9);
        assert_eq!(near.ratio_to_testpmd, None);
        let far = row(Placement::Far);
        assert_eq!(far.ratio_to_ovs_dpdk, None, "a far run has no near run to be compared with");
    }

    #[test]
    fn tables_show_median_spread_and_ratio() {
        let report = report();
        let text = report.to_string();
        assert!(text.contains("50.5 [50.0..51.0]") && text.contains("3.07"), "{text}");
        let markdown = report.markdown();
        assert!(
            markdown.contains(
                "| 64-split-p2p | near | ringway | 2 | 10.00 [10.00..10.00] | 50.5 [50.0..51.0] | | | 3.07 |"
            ),
            "{markdown}"
        );
    }

    #[test]
    fn a_report_survives_its_json_and_is_merged_by_row() {
        let report = report();
        let text = serde_json::to_string(&report).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["cases"][0]["mpps"]["median"], 10.0);
        let mut again: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(again.markdown(), report.markdown());
        again.cases.truncate(1);
        again.cases[0].runs = 77;
        let merged = Report::merge(vec![report.clone(), again]).unwrap();
        assert_eq!(merged.cases.len(), report.cases.len());
        assert_eq!(merged.cases[0].runs, 77);
    }

    #[test]
    fn days_are_told_from_seconds() {
        for (seconds, date) in [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (1_795_219_200, "2026-11-21")]
        {
            assert_eq!(date_of(seconds), date);
        }
    }
}
