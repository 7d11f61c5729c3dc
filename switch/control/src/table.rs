//! Rows as aligned tables for people, and rates between two moments.

use std::fmt;

use crate::protocol::Answer;
use crate::rows::{
    BridgeRow, Bucket, CacheRow, FdbRow, FlowRow, GuestRow, HardwareRow, PartitionRow, PortRow, PuntRow,
    Snapshot, Status, Summary, WorkerRow,
};

/// Columns of text, aligned; printed with two spaces between them.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

impl Table {
    /// A table with these columns; a name that begins with `>` stands for a column aligned to the right.
    pub fn new<const N: usize>(columns: [&'static str; N]) -> Self {
        let column = |name: &'static str| match name.strip_prefix('>') {
            Some(name) => (name, Align::Right),
            None => (name, Align::Left),
        };
        Self { columns: columns.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |i: usize| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            cells.chain([self.columns[i].0.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, width), (_, align)) in cells.zip(&widths).zip(&self.columns) {
                let gap = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, &gap, "  "]),
                    Align::Right => line.extend([&gap, cell, "  "]),
                }
            }
            writeln!(f, "{}", line.trim_end())
        };
        line(&mut self.columns.iter().map(|(name, _)| *name))?;
        self.rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
    }
}

/// A number with a space between thousands: `1 234 567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of three digits and a decimal prefix: `1.23 M`.
pub fn scaled(number: f64) -> String {
    const PREFIXES: [&str; 5] = ["", " k", " M", " G", " T"];
    let mut number = number;
    let mut prefix = 0;
    // 999.5 would be printed as 1000.
    while number.abs() >= 999.5 && prefix + 1 < PREFIXES.len() {
        number /= 1000.0;
        prefix += 1;
    }
    let decimals = match (prefix, number.abs()) {
        (0, _) => 0,
        (_, ..9.995) => 2,
        (_, ..99.95) => 1,
        _ => 0,
    };
    format!("{number:.decimals$}{}", PREFIXES[prefix])
}

/// A part of a whole, as a percentage.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Ports.
pub fn ports(rows: &[PortRow]) -> String {
    let mut table = Table::new([
        "PORT",
        ">NO",
        "BRIDGE",
        "DRIVER",
        "STATE",
        "CORES",
        ">RX FRAMES",
        ">RX BYTES",
        ">TX FRAMES",
        ">TX BYTES",
        ">DROPPED",
    ]);
    for row in rows {
        let cores: Vec<_> = row.queues.iter().map(|queue| queue.core.to_string()).collect();
        table.row([
            row.name.clone(),
            row.number.to_string(),
            row.bridge.clone(),
            row.driver.clone(),
            row.state.name().to_owned(),
            or_dash(&cores.join(",")),
            grouped(row.rx_frames),
            grouped(row.rx_bytes),
            grouped(row.tx_frames),
            grouped(row.tx_bytes),
            grouped(row.dropped()),
        ]);
    }
    format!("{table}{}", details(rows))
}

/// What doesn't fit a port's line: why it isn't up, what it dropped and why, what it has used up.
fn details(rows: &[PortRow]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut lines = Vec::new();
        lines.extend(row.reason.clone());
        if !row.drops.is_empty() {
            let drops: Vec<_> =
                row.drops.iter().map(|(reason, n)| format!("{reason} {}", grouped(*n))).collect();
            lines.push(format!("dropped: {}", drops.join(", ")));
        }
        let beside = [("copies", row.copies), ("punted", row.punted), ("injected", row.injected)];
        let beside: Vec<_> = beside
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {}", grouped(*n)))
            .collect();
        if !beside.is_empty() {
            lines.push(beside.join(", "));
        }
        let limits = row.limits.iter().map(|limit| {
            let refused = match limit.refused {
                0 => String::new(),
                n => format!(" ({} refused)", grouped(n)),
            };
            match limit.used {
                Some(used) => {
                    format!("{} {} of {}{refused}", limit.name, grouped(used), grouped(limit.limit))
                }
                None => format!("{} up to {}{refused}", limit.name, grouped(limit.limit)),
            }
        });
        let limits: Vec<_> = limits.collect();
        if !limits.is_empty() {
            lines.push(format!("limits: {}", limits.join(", ")));
        }
        for line in lines {
            text.push_str(&format!("  {}: {line}\n", row.name));
        }
    }
    text
}

/// Ports, with what passes a second between two moments.
pub fn port_rates(before: &[PortRow], now: &[PortRow], seconds: f64) -> String {
    let mut table = Table::new([
        "PORT",
        "STATE",
        ">RX FRAMES/S",
        ">RX BIT/S",
        ">TX FRAMES/S",
        ">TX BIT/S",
        ">DROPS/S",
        ">DROPPED",
    ]);
    for row in now {
        // A port that is new, or was made anew, starts from zero.
        let old = before.iter().find(|old| old.name == row.name && old.rx_frames <= row.rx_frames);
        let rate = |count: fn(&PortRow) -> u64| {
            let passed = count(row).saturating_sub(old.map_or(0, count));
            if seconds > 0.0 { passed as f64 / seconds } else { 0.0 }
        };
        table.row([
            row.name.clone(),
            row.state.name().to_owned(),
            scaled(rate(|row| row.rx_frames)),
            scaled(8.0 * rate(|row| row.rx_bytes)),
            scaled(rate(|row| row.tx_frames)),
            scaled(8.0 * rate(|row| row.tx_bytes)),
            scaled(rate(PortRow::dropped)),
            grouped(row.dropped()),
        ]);
    }
    table.to_string()
}

/// Rules with what they counted, in the words of `ovs-ofctl dump-flows`.
pub fn flows(rows: &[FlowRow]) -> String {
    let mut text = String::new();
    let mut bridge = "";
    for row in rows {
        if row.bridge != bridge {
            bridge = &row.bridge;
            text.push_str(&format!("{bridge}:\n"));
        }
        text.push_str(&format!(
            " n_packets={}, n_bytes={}, duration={}s, idle_age={}, {}\n",
            row.frames, row.bytes, row.age_s, row.idle_s, row.flow,
        ));
    }
    text
}

/// Learned addresses.
pub fn fdb(rows: &[FdbRow]) -> String {
    let mut table = Table::new(["BRIDGE", "PORT", ">VLAN", "MAC", ">AGE"]);
    for row in rows {
        table.row([
            row.bridge.clone(),
            row.port.clone(),
            row.vlan.to_string(),
            row.mac.clone(),
            format!("{} s", row.age_s),
        ]);
    }
    table.to_string()
}

/// Partitions of ports' queues.
pub fn partitions(rows: &[PartitionRow]) -> String {
    let mut table = Table::new([
        "PORT",
        "PARTITION",
        "OWNER",
        "QUEUES",
        "POOL",
        "SORTED BY",
        ">MATCHED",
        ">DELIVERED",
        ">DROPPED",
        ">SENT",
        ">REFUSED",
    ]);
    for row in rows {
        let pool = row.pool.as_ref();
        table.row([
            row.port.clone(),
            row.name.clone(),
            row.owner.clone(),
            row.queues.clone(),
            pool.map_or("-".to_owned(), |pool| format!("{} {} of {}", pool.name, pool.free, pool.buffers)),
            row.sorted.clone(),
            grouped(row.matched),
            grouped(row.delivered),
            grouped(row.drops.values().sum()),
            grouped(row.sent),
            grouped(row.refused),
        ]);
    }
    let mut text = table.to_string();
    for row in rows {
        text.push_str(&format!("  {}: {}\n", row.name, row.rule.join(" | ")));
        if !row.drops.is_empty() {
            let drops: Vec<_> =
                row.drops.iter().map(|(reason, n)| format!("{reason} {}", grouped(*n))).collect();
            text.push_str(&format!("  {}: dropped: {}\n", row.name, drops.join(", ")));
        }
    }
    if rows.is_empty() {
        return text;
    }
    let mut queues =
        Table::new(["PORT", ">QUEUE", "PARTITION", ">MATCHED", ">DELIVERED", ">DROPPED", ">WAITING"]);
    for row in rows {
        for queue in &row.each_queue {
            queues.row([
                row.port.clone(),
                queue.queue.to_string(),
                row.name.clone(),
                grouped(queue.matched),
                grouped(queue.delivered),
                grouped(queue.drops.values().sum()),
                queue.depth.map_or("-".to_owned(), grouped),
            ]);
        }
    }
    text + &queues.to_string()
}

/// Workers.
pub fn workers(rows: &[WorkerRow]) -> String {
    let mut table = Table::new([
        ">CORE",
        ">BUSY",
        ">FRAMES",
        ">BURSTS",
        ">FRAMES/BURST",
        ">CYCLES/FRAME",
        ">TURNS",
        ">SLEEPS",
        "QUEUES",
    ]);
    for row in rows {
        let per = |what: u64, of: u64| {
            if of == 0 { "-".to_owned() } else { format!("{:.1}", what as f64 / of as f64) }
        };
        table.row([
            row.core.to_string(),
            percent(row.busy_cycles, row.busy_cycles + row.idle_cycles),
            grouped(row.frames),
            grouped(row.bursts),
            per(row.frames, row.bursts),
            per(row.busy_cycles, row.frames),
            grouped(row.turns),
            grouped(row.sleeps),
            or_dash(&row.queues.join(" ")),
        ]);
    }
    let mut text = table.to_string();
    for row in rows {
        for (name, buckets) in [("frames a burst", &row.burst_sizes), ("cycles a frame", &row.frame_cycles)] {
            if buckets.iter().any(|bucket| bucket.count > 0) {
                text.push_str(&format!("  core {}: bursts by {name}: {}\n", row.core, histogram(buckets)));
            }
        }
        if row.stage_frames > 0 {
            let stage =
                |name: &str, cycles: u64| format!("{name} {:.1}", cycles as f64 / row.stage_frames as f64);
            let stages: Vec<_> = row.stages.iter().map(|s| stage(&s.name, s.cycles)).collect();
            text.push_str(&format!("  core {}: cycles a frame by stage: {}\n", row.core, stages.join(", ")));
        }
    }
    text
}

fn histogram(buckets: &[Bucket]) -> String {
    let all: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let bucket = |bucket: &Bucket| match bucket.up_to {
        Some(up_to) => format!("≤{up_to} {}", percent(bucket.count, all)),
        None => format!("more {}", percent(bucket.count, all)),
    };
    let filled: Vec<_> = buckets.iter().filter(|b| b.count > 0).map(bucket).collect();
    filled.join(", ")
}

/// Caches.
pub fn caches(rows: &[CacheRow]) -> String {
    let mut table =
        Table::new([">CORE", ">SHORTCUT", ">EXACT", ">MEGAFLOW", ">RULES (MISSES)", ">HIT RATE", ">FLUSHES"]);
    for row in rows {
        let hits = row.shortcut_hits + row.exact_hits + row.megaflow_hits;
        table.row([
            row.core.to_string(),
            grouped(row.shortcut_hits),
            grouped(row.exact_hits),
            grouped(row.megaflow_hits),
            grouped(row.misses),
            percent(hits, hits + row.misses),
            grouped(row.flushes),
        ]);
    }
    table.to_string()
}

/// Frames that wait for a controller.
pub fn controller(rows: &[PuntRow]) -> String {
    let mut table = Table::new(["PORT", ">BYTES", "BEGINS WITH"]);
    for row in rows {
        let head: String = row.head.chars().take(84).collect();
        table.row([row.port.clone(), row.frame_bytes.to_string(), head]);
    }
    table.to_string()
}

/// Guests.
pub fn guests(rows: &[GuestRow]) -> String {
    let mut table = Table::new(["GUEST", "ROLE", ">SENT", ">RECEIVED", ">LOST", ">BIT/S", "NOTE"]);
    for row in rows {
        table.row([
            row.name.clone(),
            row.role.clone(),
            grouped(row.sent),
            grouped(row.received),
            grouped(row.lost),
            row.bits_per_second.map_or("-".to_owned(), scaled),
            row.note.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// Hardware below ports; of its counters those that are not 0.
pub fn hardware(rows: &[HardwareRow]) -> String {
    let mut ports = Table::new(["PORT", "OBJECT", "MAC", "LINK", ">MBIT/S", ">LONGEST FRAME"]);
    let mut counters = Table::new(["PORT", "COUNTER", ">COUNT"]);
    for row in rows {
        ports.row([
            row.port.clone(),
            row.object.clone(),
            row.mac.clone(),
            if row.is_up { "up" } else { "down" }.to_owned(),
            row.rate_mbps.to_string(),
            row.frame_max.to_string(),
        ]);
        for (name, count) in row.counters.iter().filter(|(_, count)| **count > 0) {
            counters.row([row.port.clone(), name.clone(), grouped(*count)]);
        }
    }
    format!("{ports}\n{counters}")
}

/// The switch in short.
pub fn status(status: &Status) -> String {
    let file = status.path.as_ref().map_or("no file".to_owned(), |path| path.display().to_string());
    let mut table = Table::new(["BRIDGE", ">PORTS", ">RULES", ">ADDRESSES"]);
    for BridgeRow { name, ports, rules, addresses } in &status.bridges {
        table.row([name.clone(), grouped(*ports), grouped(*rules), grouped(*addresses)]);
    }
    let notices: String = status.notices.iter().map(|notice| format!("note: {notice}\n")).collect();
    let taken_over = status.taken_over.as_ref().map_or(String::new(), |row| {
        format!(
            "taken over from process {} ({}): {} ports, frames rested for {:.1} ms\n",
            row.pid,
            row.version,
            row.ports,
            row.pause_us as f64 / 1000.0
        )
    });
    format!(
        "ringway {} runs {file} as process {} for {} s\n{taken_over}{table}{notices}",
        status.version, status.pid, status.uptime_s
    )
}

/// Any answer.
pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Status(row) => status(row),
        Answer::Ports(rows) => ports(rows),
        Answer::Hardware(rows) => hardware(rows),
        Answer::Flows(rows) => flows(rows),
        Answer::Fdb(rows) => fdb(rows),
        Answer::Partitions(rows) => partitions(rows),
        Answer::Workers(rows) => workers(rows),
        Answer::Caches(rows) => caches(rows),
        Answer::Config(config) => config.text.clone(),
        Answer::Controller(rows) => controller(rows),
        Answer::Snapshot(Snapshot { ports: p, workers: w, caches: c, .. }) => {
            format!("{}\n{}\n{}", ports(p), workers(w), caches(c))
        }
        Answer::Changed(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
        Answer::HandOver { version } => format!("a state of version {version} follows\n"),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ran for {:.1} s\n", self.seconds)?;
        writeln!(f, "{}\n{}", ports(&self.ports), workers(&self.workers))?;
        if !self.partitions.is_empty() {
            writeln!(f, "{}", partitions(&self.partitions))?;
        }
        if self.guests.is_empty() { Ok(()) } else { f.write_str(&guests(&self.guests)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{LimitRow, PortState, QueueRow};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", ">N"]);
        table.row(["ü".into(), "1".into()]);
        table.row(["longer".into(), "1234".into()]);
        assert_eq!(table.to_string(), "NAME       N\nü          1\nlonger  1234\n");
    }

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        let numbers = [0.0, 5.0, 999.4, 999.6, 1234.0, 12_345.0, 123_456.0, 1e6, 2.5e15];
        let texts = ["0", "5", "999", "1.00 k", "1.23 k", "12.3 k", "123 k", "1.00 M", "2500 T"];
        assert_eq!(numbers.map(scaled), texts);
    }

    #[test]
    fn hardware_shows_what_it_counted_and_nothing_that_is_zero() {
        let counters = [("ingress_all_frames".to_owned(), 1234), ("moved-frames".to_owned(), 0)];
        let row = HardwareRow {
            port: "wire1".into(),
            object: "dpni.1".into(),
            mac: "02:00:00:00:00:01".into(),
            is_up: true,
            rate_mbps: 10_000,
            frame_max: 1522,
            counters: counters.into(),
        };
        let text = hardware(&[row]);
        assert!(text.contains("wire1  dpni.1  02:00:00:00:00:01  up     10000           1522"), "{text}");
        assert!(text.contains("wire1  ingress_all_frames  1 234") && !text.contains("moved"), "{text}");
    }

    fn vm0() -> PortRow {
        PortRow {
            name: "vm0".into(),
            number: 1,
            bridge: "br0".into(),
            driver: "vhost-user".into(),
            state: PortState::Failed,
            reason: Some("a chain points outside memory (0x10)".into()),
            rx_frames: 1000,
            drops: [("rule".to_owned(), 3), ("tx-full".to_owned(), 4)].into(),
            queues: vec![QueueRow { queue: 0, core: 2 }],
            limits: vec![LimitRow { name: "macs".into(), used: Some(5), limit: 1024, refused: 6 }],
            ..PortRow::default()
        }
    }

    #[test]
    fn a_port_shows_why_it_is_not_up_and_what_it_dropped() {
        let text = ports(&[vm0()]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("vm0    1  br0     vhost-user  failed  2"), "{text}");
        assert!(lines[1].ends_with(" 7"), "{text}");
        assert_eq!(
            lines[2..],
            [
                "  vm0: a chain points outside memory (0x10)",
                "  vm0: dropped: rule 3, tx-full 4",
                "  vm0: limits: macs 5 of 1 024 (6 refused)",
            ]
        );
    }

    #[test]
    fn rates_are_those_between_two_moments() {
        let later = PortRow { rx_frames: 3000, ..vm0() };
        assert!(port_rates(&[vm0()], std::slice::from_ref(&later), 0.5).contains("4.00 k"));
        assert!(
            port_rates(&[], &[later], 0.0).contains("vm0"),
            "no time has passed, and nothing was there before"
        );
        let anew = PortRow { rx_frames: 10, ..vm0() };
        assert!(port_rates(&[vm0()], &[anew], 1.0).contains(" 10 "));
    }

    #[test]
    fn flows_stand_under_their_bridge_with_what_they_counted() {
        let row = |bridge: &str| FlowRow {
            bridge: bridge.into(),
            frames: 3,
            bytes: 180,
            flow: "priority=7,in_port=vm0 actions=drop".into(),
            ..FlowRow::default()
        };
        let line =
            " n_packets=3, n_bytes=180, duration=0s, idle_age=0, priority=7,in_port=vm0 actions=drop\n";
        assert_eq!(flows(&[row("a"), row("a"), row("b")]), format!("a:\n{line}{line}b:\n{line}"));
    }

    #[test]
    fn a_worker_that_did_nothing_divides_by_nothing() {
        let text = workers(&[WorkerRow::default()]);
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
