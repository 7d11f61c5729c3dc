//! Exit statistics: for each processor and kind of exit how often, and how long it took.
//!
//! Each processor's thread owns its table and adds to it without locks; a reader takes a consistent copy of a row by
//! looking at its version before and after. Time in the guest is a kind, too: the rows of a processor add up to its
//! life. The layout follows the exit timing of KVM for PowerPC (count, min, max, sum, sum of squares); nanoseconds
//! and a histogram are new.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm::{KernelStats, Vcpu};
use serde::{Deserialize, Serialize};

/// Kinds of exits, and the time between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// Not an exit: in the guest, or in the kernel on its behalf.
    Guest,
    /// A read from a port.
    PortRead,
    /// A write to a port.
    PortWrite,
    /// A read from a device's memory.
    MmioRead,
    /// A write to a device's memory.
    MmioWrite,
    /// Waiting for an interrupt in this process.
    Halt,
    /// Called out by the monitor: to pause, say.
    Interrupted,
    /// Anything else.
    Other,
}

impl ExitKind {
    /// Every kind.
    pub const ALL: [ExitKind; 8] = [
        ExitKind::Guest,
        ExitKind::PortRead,
        ExitKind::PortWrite,
        ExitKind::MmioRead,
        ExitKind::MmioWrite,
        ExitKind::Halt,
        ExitKind::Interrupted,
        ExitKind::Other,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ExitKind::Guest => "guest",
            ExitKind::PortRead => "port-read",
            ExitKind::PortWrite => "port-write",
            ExitKind::MmioRead => "mmio-read",
            ExitKind::MmioWrite => "mmio-write",
            ExitKind::Halt => "halt",
            ExitKind::Interrupted => "interrupted",
            ExitKind::Other => "other",
        }
    }
}

/// Buckets of a histogram: bucket `n` counts durations of `n` significant bits.
const BUCKETS: usize = 65;

/// One kind's row. One writer.
#[derive(Debug)]
struct Row {
    /// Odd while it is being written.
    version: AtomicU64,
    count: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    sum: AtomicU64,
    /// A floating-point number's bits: squares of nanoseconds overflow integers.
    sum_of_squares: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Row {
    fn default() -> Row {
        Row {
            version: AtomicU64::new(0),
            count: AtomicU64::new(0),
            min: AtomicU64::new(0),
            max: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            sum_of_squares: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

/// A processor's table.
#[derive(Debug, Default)]
pub struct ExitTable {
    rows: [Row; ExitKind::ALL.len()],
    /// Raised by a reader that wants the table cleared; the writer does it.
    clear: AtomicU64,
    cleared: AtomicU64,
}

impl ExitTable {
    /// Adds a duration. Only the processor's own thread does.
    pub fn add(&self, kind: ExitKind, ns: u64) {
        let clear = self.clear.load(Ordering::Relaxed);
        if clear != self.cleared.load(Ordering::Relaxed) {
            self.rows.iter().for_each(|row| row.write(|row| row.zero()));
            self.cleared.store(clear, Ordering::Release);
        }
        self.rows[kind as usize].write(|row| row.add(ns));
    }

    /// Asks for the table to begin anew, at the next exit.
    pub fn clear(&self) {
        self.clear.fetch_add(1, Ordering::Relaxed);
    }

    /// The rows of all kinds that have happened.
    pub fn read(&self) -> Vec<ExitRow> {
        if self.clear.load(Ordering::Relaxed) != self.cleared.load(Ordering::Acquire) {
            return Vec::new();
        }
        ExitKind::ALL.into_iter().zip(&self.rows).filter_map(|(kind, row)| row.read(kind)).collect()
    }
}

impl Row {
    fn write(&self, change: impl FnOnce(&Row)) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        // Readers that see any of the changes see the odd version.
        fence(Ordering::Release);
        change(self);
        self.version.store(version + 2, Ordering::Release);
    }

    fn add(&self, ns: u64) {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let set = |cell: &AtomicU64, value| cell.store(value, Ordering::Relaxed);
        let count = get(&self.count);
        set(&self.min, if count == 0 { ns } else { ns.min(get(&self.min)) });
        set(&self.max, ns.max(get(&self.max)));
        set(&self.count, count + 1);
        set(&self.sum, get(&self.sum).wrapping_add(ns));
        let squares = f64::from_bits(get(&self.sum_of_squares)) + (ns as f64) * (ns as f64);
        set(&self.sum_of_squares, squares.to_bits());
        let bucket = &self.buckets[(u64::BITS - ns.leading_zeros()) as usize];
        set(bucket, get(bucket) + 1);
    }

    fn zero(&self) {
        let cells = [&self.count, &self.min, &self.max, &self.sum, &self.sum_of_squares];
        cells.into_iter().chain(&self.buckets).for_each(|cell| cell.store(0, Ordering::Relaxed));
    }

    fn read(&self, kind: ExitKind) -> Option<ExitRow> {
        loop {
            let version = self.version.load(Ordering::Acquire);
            if version % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
            let (count, min_ns, max_ns, sum_ns) =
                (get(&self.count), get(&self.min), get(&self.max), get(&self.sum));
            let squares = f64::from_bits(get(&self.sum_of_squares));
            let buckets = self.buckets.each_ref().map(get);
            // The values were read before the version is looked at again.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) != version {
                continue;
            }
            return (count > 0).then(|| {
                let mean = sum_ns as f64 / count as f64;
                let quantile = |fraction| quantile(&buckets, count, fraction).clamp(min_ns, max_ns);
                ExitRow {
                    kind,
                    count,
                    min_ns,
                    mean_ns: mean,
                    max_ns,
                    sum_ns,
                    stddev_ns: (squares / count as f64 - mean * mean).max(0.0).sqrt(),
                    p50_ns: quantile(0.5),
                    p99_ns: quantile(0.99),
                }
            });
        }
    }
}

/// The duration below which the fraction of all lies, from the bucket it is in: at most twice too long.
fn quantile(buckets: &[u64; BUCKETS], count: u64, fraction: f64) -> u64 {
    let wanted = (count as f64 * fraction).ceil() as u64;
    let mut seen = 0;
    for (bits, &bucket) in (0u32..).zip(buckets) {
        seen += bucket;
        if seen >= wanted {
            return u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(0);
        }
    }
    u64::MAX
}

/// All that is counted of a processor: here, and in the kernel where it tells.
#[derive(Debug)]
pub struct Exits {
    table: Arc<ExitTable>,
    kernel: Option<KernelStats>,
    /// The kernel's counters when it was asked to begin anew: they can't be reset.
    before: Mutex<BTreeMap<String, u64>>,
}

impl Exits {
    pub(crate) fn new(table: Arc<ExitTable>, vcpu: &Vcpu) -> Exits {
        let kernel =
            vcpu.kernel_stats().map_err(|error| tracing::debug!(%error, "no counters of the kernel's")).ok();
        Exits { table, kernel, before: Mutex::default() }
    }

    /// Begins anew.
    pub fn clear(&self) {
        self.table.clear();
        *self.before() = self.kernel_now();
    }

    /// What has happened since the start, or since it was told to begin anew.
    pub fn read(&self, vcpu: u32) -> VcpuExits {
        let before = self.before();
        let since = |(name, now): (String, u64)| {
            let count = now - before.get(&name).copied().unwrap_or(0).min(now);
            (count > 0).then_some((name, count))
        };
        VcpuExits {
            vcpu,
            rows: self.table.read(),
            kernel: self.kernel_now().into_iter().filter_map(since).collect(),
        }
    }

    fn before(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kernel_now(&self) -> BTreeMap<String, u64> {
        let counters = self.kernel.as_ref().and_then(|kernel| kernel.read().ok()).unwrap_or_default();
        counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// What there is to say about one kind of exit of one processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRow {
    /// Which kind.
    pub kind: ExitKind,
    /// How often.
    pub count: u64,
    /// The shortest, in nanoseconds, as all that follow.
    pub min_ns: u64,
    /// The mean.
    pub mean_ns: f64,
    /// The longest.
    pub max_ns: u64,
    /// All together.
    pub sum_ns: u64,
    /// Standard deviation.
    pub stddev_ns: f64,
    /// Half are not longer; from a histogram of powers of two.
    pub p50_ns: u64,
    /// 99 of 100 are not longer; likewise.
    pub p99_ns: u64,
}

/// A processor's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VcpuExits {
    /// Which processor.
    pub vcpu: u32,
    /// Its rows, kinds that never happened left out.
    pub rows: Vec<ExitRow>,
    /// What the kernel counts of it, by the kernel's names, without what never happened. Most of it is served in the
    /// kernel and is no row: `exits` counts both.
    pub kernel: BTreeMap<String, u64>,
}

/// The exits of a machine as Prometheus metrics: lines of samples, without types.
pub fn metrics(vm: &str, exits: &[VcpuExits]) -> String {
    let mut text = String::new();
    for VcpuExits { vcpu, rows, kernel } in exits {
        // Writing to a string doesn't fail.
        for row in rows {
            let labels = format!("{{vm=\"{vm}\",vcpu=\"{vcpu}\",kind=\"{}\"}}", row.kind.name());
            let _ = writeln!(text, "ringway_vm_exits_total{labels} {}", row.count);
            let _ = writeln!(text, "ringway_vm_exit_nanoseconds_total{labels} {}", row.sum_ns);
            let _ = writeln!(text, "ringway_vm_exit_nanoseconds_max{labels} {}", row.max_ns);
        }
        for (counter, count) in kernel {
            let labels = format!("{{vm=\"{vm}\",vcpu=\"{vcpu}\",counter=\"{counter}\"}}");
            let _ = writeln!(text, "ringway_vm_kernel_total{labels} {count}");
        }
    }
    text
}

/// Puts the samples of several machines together as the format wants it: all of a metric behind its type.
pub fn merge_metrics<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut by_metric: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in texts.into_iter().flat_map(str::lines) {
        if let Some((name, _)) = line.split_once('{') {
            by_metric.entry(name).or_default().push(line);
        }
    }
    let mut text = String::new();
    for (name, lines) in by_metric {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(text, "# TYPE {name} {kind}");
        lines.iter().for_each(|line| text.extend([line, "\n"]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_a_calculator_says() {
        let table = ExitTable::default();
        [100, 200, 600].into_iter().for_each(|ns| table.add(ExitKind::PortWrite, ns));
        let rows = table.read();
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(
            (row.kind, row.count, row.min_ns, row.max_ns, row.sum_ns),
            (ExitKind::PortWrite, 3, 100, 600, 900)
        );
        assert!((row.mean_ns - 300.0).abs() < 1e-9 && (row.stddev_ns - 216.024_689_946_928_75).abs() < 1e-6);
        // 200 has 8 bits, 600 has 10.
        assert_eq!((row.p50_ns, row.p99_ns), (255, 600));
    }

    #[test]
    fn the_longest_duration_overflows_nothing() {
        let table = ExitTable::default();
        [0, u64::MAX, u64::MAX].into_iter().for_each(|ns| table.add(ExitKind::Other, ns));
        let row = table.read().remove(0);
        assert_eq!((row.min_ns, row.max_ns, row.p99_ns), (0, u64::MAX, u64::MAX));
    }

    #[test]
    fn a_cleared_table_begins_anew() {
        let table = ExitTable::default();
        table.add(ExitKind::Guest, 5);
        table.clear();
        assert!(table.read().is_empty());
        table.add(ExitKind::Halt, 7);
        let rows = table.read();
        assert_eq!(rows.iter().map(|row| (row.kind, row.count)).collect::<Vec<_>>(), [(ExitKind::Halt, 1)]);
    }

    #[test]
    fn metrics_of_several_machines_stand_together_by_name() {
        let table = ExitTable::default();
        table.add(ExitKind::Halt, 7);
        let exits = |kernel| [VcpuExits { vcpu: 0, rows: table.read(), kernel }];
        let a = metrics("a", &exits(BTreeMap::from([("exits".to_owned(), 3)])));
        let b = metrics("b", &exits(BTreeMap::new()));
        let text = merge_metrics([a.as_str(), b.as_str()]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with('#')).count(), 4);
        let at = lines.iter().position(|line| *line == "# TYPE ringway_vm_exits_total counter").unwrap();
        assert_eq!(lines[at + 1], "ringway_vm_exits_total{vm=\"a\",vcpu=\"0\",kind=\"halt\"} 1");
        assert_eq!(lines[at + 2], "ringway_vm_exits_total{vm=\"b\",vcpu=\"0\",kind=\"halt\"} 1");
        assert!(
            text.contains("ringway_vm_kernel_total{vm=\"a\",vcpu=\"0\",counter=\"exits\"} 3\n"),
            "{text}"
        );
    }

    #[test]
    fn a_reader_never_sees_half_of_a_change() {
        let table = Arc::new(ExitTable::default());
        let writer = table.clone();
        let thread = std::thread::spawn(move || (0..200_000).for_each(|_| writer.add(ExitKind::Guest, 3)));
        while !thread.is_finished() {
            for row in table.read() {
                assert_eq!(row.sum_ns, row.count * 3);
            }
        }
        thread.join().unwrap();
    }
}
