//! Rows as aligned tables for people.

use control::{CacheRow, FdbRow, FlowRow, GuestRow, PortRow, PuntRow, Status, WorkerRow};
use guest_host::{Latency, PingReport, Progress, Report, StreamReport};

use crate::show::Rate;

/// Where the text of a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

/// A heading and rows of as many cells.
struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(columns: [(&'static str, Align); N]) -> Self {
        Table { columns, rows: Vec::new() }
    }

    fn with(mut self, rows: impl IntoIterator<Item = [String; N]>) -> String {
        self.rows.extend(rows);
        self.render()
    }

    fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let heading = self.columns.map(|(name, _)| name.to_owned());
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let cells =
                row.iter().zip(widths).zip(self.columns).map(|((cell, width), (_, align))| match align {
                    Left => format!("{cell:<width$}"),
                    Right => format!("{cell:>width$}"),
                });
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

/// Ports with their counters.
pub fn ports(rows: &[PortRow]) -> String {
    let table = Table::new([
        ("PORT", Left),
        ("BRIDGE", Left),
        ("DRIVER", Left),
        ("STATE", Left),
        ("RX FRAMES", Right),
        ("RX BYTES", Right),
        ("TX FRAMES", Right),
        ("TX BYTES", Right),
        ("DROPPED", Left),
    ]);
    table.with(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.bridge.clone(),
            row.driver.clone(),
            state(row),
            count(row.rx_frames),
            count(row.rx_bytes),
            count(row.tx_frames),
            count(row.tx_bytes),
            drops(row),
        ]
    }))
}

/// Ports with what passed them in a run of so many seconds.
pub fn port_totals(rows: &[PortRow], seconds: f64) -> String {
    let table = Table::new([
        ("PORT", Left),
        ("DRIVER", Left),
        ("RX FRAMES", Right),
        ("RX BYTES", Right),
        ("RX BIT/S", Right),
        ("TX FRAMES", Right),
        ("TX BYTES", Right),
        ("TX BIT/S", Right),
        ("DROPPED", Left),
    ]);
    let mean = |bytes: u64| if seconds > 0.0 { si(8.0 * bytes as f64 / seconds) } else { "-".to_owned() };
    table.with(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.driver.clone(),
            count(row.rx_frames),
            count(row.rx_bytes),
            mean(row.rx_bytes),
            count(row.tx_frames),
            count(row.tx_bytes),
            mean(row.tx_bytes),
            drops(row),
        ]
    }))
}

/// Ports with what passes them now; `rates` are theirs, one each.
pub fn port_rates(rows: &[PortRow], rates: &[Rate]) -> String {
    let table = Table::new([
        ("PORT", Left),
        ("STATE", Left),
        ("RX FRAMES/S", Right),
        ("RX BIT/S", Right),
        ("TX FRAMES/S", Right),
        ("TX BIT/S", Right),
        ("DROPS/S", Right),
        ("RX FRAMES", Right),
        ("TX FRAMES", Right),
        ("DROPPED", Right),
    ]);
    table.with(rows.iter().zip(rates).map(|(row, rate)| {
        [
            row.name.clone(),
            row.state.name().to_owned(),
            si(rate.rx_pps),
            si(rate.rx_bps),
            si(rate.tx_pps),
            si(rate.tx_bps),
            si(rate.dropped_pps),
            count(row.rx_frames),
            count(row.tx_frames),
            count(row.dropped()),
        ]
    }))
}

fn state(row: &PortRow) -> String {
    match &row.reason {
        Some(reason) => format!("{} ({reason})", row.state.name()),
        None => row.state.name().to_owned(),
    }
}

fn drops(row: &PortRow) -> String {
    if row.drops.is_empty() {
        return "0".to_owned();
    }
    row.drops
        .iter()
        .map(|(reason, frames)| format!("{reason} {}", count(*frames)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Rules with their counters.
pub fn flows(rows: &[FlowRow]) -> String {
    let table = Table::new([
        ("BRIDGE", Left),
        ("TABLE", Right),
        ("PRIORITY", Right),
        ("COOKIE", Right),
        ("FRAMES", Right),
        ("BYTES", Right),
        ("AGE", Right),
        ("IDLE", Right),
        ("FLOW", Left),
    ]);
    table.with(rows.iter().map(|row| {
        [
            row.bridge.clone(),
            row.table.to_string(),
            row.priority.to_string(),
            format!("{:#x}", row.cookie),
            count(row.frames),
            count(row.bytes),
            format!("{} s", row.age_s),
            format!("{} s", row.idle_s),
            row.flow.clone(),
        ]
    }))
}

/// Learned addresses.
pub fn fdb(rows: &[FdbRow]) -> String {
    let table =
        Table::new([("BRIDGE", Left), ("VLAN", Right), ("ADDRESS", Left), ("PORT", Left), ("AGE", Right)]);
    table.with(rows.iter().map(|row| {
        [
            row.bridge.clone(),
            row.vlan.to_string(),
            row.mac.clone(),
            row.port.clone(),
            format!("{} s", row.age_s),
        ]
    }))
}

/// Workers with their load.
pub fn workers(rows: &[WorkerRow]) -> String {
    let table = Table::new([
        ("CORE", Right),
        ("BUSY", Right),
        ("FRAMES", Right),
        ("FRAMES/BURST", Right),
        ("CYCLES/FRAME", Right),
        ("SLEEPS", Right),
        ("QUEUES", Left),
    ]);
    table.with(rows.iter().map(|row| {
        let all_cycles = row.busy_cycles as f64 + row.idle_cycles as f64;
        [
            row.core.to_string(),
            ratio(100.0 * row.busy_cycles as f64, all_cycles, 1, " %"),
            count(row.frames),
            ratio(row.frames as f64, row.bursts as f64, 1, ""),
            ratio(row.busy_cycles as f64, row.frames as f64, 0, ""),
            count(row.sleeps),
            row.queues.join(" "),
        ]
    }))
}

/// Cycles per frame by stage of the path.
pub fn stages(rows: &[WorkerRow]) -> String {
    let table =
        Table::new([("CORE", Right), ("STAGE", Left), ("CYCLES/FRAME", Right), ("FRAMES TIMED", Right)]);
    table.with(rows.iter().flat_map(|row| {
        row.stages.iter().map(|stage| {
            [
                row.core.to_string(),
                stage.name.clone(),
                ratio(stage.cycles as f64, row.stage_frames as f64, 1, ""),
                count(row.stage_frames),
            ]
        })
    }))
}

/// Caches and which of them decided.
pub fn caches(rows: &[CacheRow]) -> String {
    let table = Table::new([
        ("CORE", Right),
        ("SHORTCUT", Right),
        ("EXACT", Right),
        ("MEGAFLOW", Right),
        ("MISSES", Right),
        ("DECIDED BY A CACHE", Right),
        ("FLUSHES", Right),
    ]);
    table.with(rows.iter().map(|row| {
        let hits = row.shortcut_hits as f64 + row.exact_hits as f64 + row.megaflow_hits as f64;
        [
            row.core.to_string(),
            count(row.shortcut_hits),
            count(row.exact_hits),
            count(row.megaflow_hits),
            count(row.misses),
            ratio(100.0 * hits, hits + row.misses as f64, 2, " %"),
            count(row.flushes),
        ]
    }))
}

/// Frames for the controller.
pub fn punts(rows: &[PuntRow]) -> String {
    let table = Table::new([("PORT", Left), ("BYTES", Right), ("HEAD", Left)]);
    table.with(rows.iter().map(|row| [row.port.clone(), row.frame_bytes.to_string(), row.head.clone()]))
}

/// The switch in short.
pub fn status(status: &Status) -> String {
    let Status { version, pid, uptime_s, .. } = status;
    let mut text = format!("ringway {version}, process {pid}, up {uptime_s} s");
    if let Some(path) = &status.path {
        text += &format!(", runs {}", path.display());
    }
    text += "\n\n";
    let table = Table::new([("BRIDGE", Left), ("PORTS", Right), ("RULES", Right), ("ADDRESSES", Right)]);
    text += &table.with(
        status
            .bridges
            .iter()
            .map(|row| [row.name.clone(), count(row.ports), count(row.rules), count(row.addresses)]),
    );
    for notice in &status.notices {
        text += &format!("\nnotice: {notice}\n");
    }
    text
}

/// Guests that the switch played.
pub fn guests(rows: &[GuestRow]) -> String {
    let table = Table::new([
        ("GUEST", Left),
        ("ROLE", Left),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("LOST", Right),
        ("THROUGHPUT", Right),
        ("NOTE", Left),
    ]);
    table.with(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.role.clone(),
            count(row.sent),
            count(row.received),
            count(row.lost),
            row.bits_per_second.map_or(String::new(), |rate| format!("{}bit/s", si_unit(rate))),
            row.note.clone().unwrap_or_default(),
        ]
    }))
}

/// How a guest is getting on, one line.
pub fn progress(progress: &Progress) -> String {
    let Progress { seconds, sent, received, .. } = progress;
    let state = match (&progress.trouble, progress.connected) {
        (_, true) => "connected".to_owned(),
        (Some(trouble), false) => format!("waiting: {trouble}"),
        (None, false) => "waiting for the switch".to_owned(),
    };
    format!(
        "{seconds:.0} s, {state}; sent {} ({}frames/s, {}bit/s), received {} ({}frames/s, {}bit/s)\n",
        count(*sent),
        si_unit(progress.sent_pps),
        si_unit(progress.sent_bps),
        count(*received),
        si_unit(progress.received_pps),
        si_unit(progress.received_bps),
    )
}

/// What a guest has to tell.
pub fn report(report: &Report) -> String {
    let mut lines = vec![
        ["guest".to_owned(), format!("{} ({})", report.name, report.role)],
        ["time".to_owned(), format!("{:.1} s, {} connection(s)", report.seconds, report.connections)],
        ["sent".to_owned(), passed(report.sent, report.sent_bytes, report.sent_pps)],
        ["received".to_owned(), passed(report.received, report.received_bytes, report.received_pps)],
    ];
    let mut line = |name: &str, text: String| lines.push([name.to_owned(), text]);
    if let Some(lost) = report.lost {
        let (twice, late) = (count(report.duplicated), count(report.reordered));
        line("lost", format!("{} ({twice} came twice, {late} out of order)", count(lost)));
    }
    if report.foreign > 0 {
        line("from others", format!("{} frames", count(report.foreign)));
    }
    if let Some(latency) = &report.latency {
        line("latency", percentiles(latency));
    }
    for ping in &report.pings {
        line("ping", pinged(ping));
    }
    if let Some(stream) = &report.stream_sent {
        line("stream sent", streamed(stream));
    }
    if let Some(stream) = &report.stream_received {
        line("stream received", streamed(stream));
    }
    if report.ring_faults + report.bad_frames > 0 {
        let text = format!("{} broken rings, {} broken frames", report.ring_faults, report.bad_frames);
        line("faults", text);
    }
    if let Some(trouble) = &report.trouble {
        line("trouble", trouble.clone());
    }
    let text = Table::new([("", Left), ("", Left)]).with(lines);
    text.trim_start_matches('\n').to_owned()
}

fn passed(frames: u64, bytes: u64, pps: f64) -> String {
    format!("{} frames, {} bytes, {}frames/s", count(frames), count(bytes), si_unit(pps))
}

fn percentiles(latency: &Latency) -> String {
    let Latency { count: _, min_us, mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = latency;
    format!(
        "min {min_us:.1} us, mean {mean_us:.1}, p50 {p50_us:.1}, p90 {p90_us:.1}, p99 {p99_us:.1}, \
         p99.9 {p999_us:.1}, max {max_us:.1}"
    )
}

fn pinged(ping: &PingReport) -> String {
    let PingReport { target, sent, received, lost, rtt } = ping;
    let rtt = rtt.as_ref().map_or(String::new(), |rtt| format!("; {}", percentiles(rtt)));
    format!("{target}: {sent} sent, {received} answered, {lost} lost{rtt}")
}

fn streamed(stream: &StreamReport) -> String {
    let rate = si_unit(stream.bits_per_second);
    let corrupt = match stream.corrupt {
        0 => String::new(),
        bytes => format!(", {} bytes wrong", count(bytes)),
    };
    format!("{} bytes in {:.1} s, {rate}bit/s{corrupt}", count(stream.bytes), stream.seconds)
}

/// A whole number with its thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate with three digits that count and the prefix of its thousands.
fn si(rate: f64) -> String {
    si_unit(rate).trim_end().to_owned()
}

/// As [`si`], to be followed by a unit.
fn si_unit(rate: f64) -> String {
    let (scaled, prefix) = match rate {
        r if r >= 999.5e6 => (r / 1e9, "G"),
        r if r >= 999.5e3 => (r / 1e6, "M"),
        r if r >= 999.5 => (r / 1e3, "k"),
        r => return format!("{r:.0} "),
    };
    let decimals = match scaled {
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {prefix}")
}

/// A quotient, or a dash if there is nothing to divide by.
fn ratio(part: f64, whole: f64, decimals: usize, unit: &str) -> String {
    if whole > 0.0 { format!("{:.decimals$}{unit}", part / whole) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let table = Table::new([("NAME", Left), ("N", Right), ("NOTE", Left)]);
        let cells = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned()];
        let text = table.with([cells("a", "1,000", ""), cells("größer", "2", "x")]);
        assert_eq!(text, "NAME        N  NOTE\na       1,000\ngrößer      2  x\n");
    }

    #[test]
    fn thousands_are_apart() {
        let shown = [0, 999, 1000, 123_456, 1_234_567].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn rates_have_three_digits_that_count() {
        let shown = [0.0, 999.4, 999.9, 1234.0, 9999.0, 14.88e6, 125.4e6, 9.1e9].map(si);
        assert_eq!(shown, ["0", "999", "1.00 k", "1.23 k", "10.0 k", "14.9 M", "125 M", "9.10 G"]);
    }

    #[test]
    fn a_worker_without_frames_divides_by_nothing() {
        let text = workers(&[WorkerRow::default()]);
        assert!(text.lines().nth(1).is_some_and(|line| line.contains('-')), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn a_report_tells_only_what_there_is() {
        let mut sink = Report { name: "s".into(), role: "sink", lost: Some(3), ..Report::default() };
        assert!(report(&sink).starts_with("guest"));
        assert!(report(&sink).contains("lost      3 "), "{}", report(&sink));
        sink.lost = None;
        assert!(!report(&sink).contains("lost"));
    }
}
