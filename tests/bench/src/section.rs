//! Kinds of rows: their columns, and which figure is compared.

use std::collections::BTreeMap;

/// Figures of a run, by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// A kind of rows.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What a reader must know.
    pub note: &'static str,
    /// Figures shown.
    pub columns: &'static [Column],
    /// The figure ratios are made of; ratios say how many times better a system is.
    pub compared: Option<(&'static str, Better)>,
}

/// A figure as a column.
#[derive(Debug)]
pub(crate) struct Column {
    /// Its name in JSON, unit last.
    pub figure: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Digits behind the point.
    pub decimals: usize,
}

/// Which of two figures is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

impl Section {
    /// The figures in one line, for progress.
    pub(crate) fn line(&self, figures: &Figures) -> String {
        let shown = self.columns.iter().filter_map(|column| {
            let value = figures.get(column.figure)?;
            Some(format!("{} {value:.*}", column.title, column.decimals))
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

const fn column(figure: &'static str, title: &'static str, decimals: usize) -> Column {
    Column { figure, title, decimals }
}

const CYCLES: Column = column("cycles_per_frame", "cycles", 1);
const MPPS: Column = column("mpps", "Mpps", 2);
const P50: Column = column("p50_us", "p50 us", 1);
const P99: Column = column("p99_us", "p99 us", 1);
const P999: Column = column("p999_us", "p99.9 us", 1);
const LOST: Column = column("lost_percent", "lost %", 3);

pub(crate) static FORWARDING: Section = Section {
    name: "forwarding",
    title: "Forwarding",
    note: "Both directions together, load by testpmd. Cycles: TSC cycles per frame in rounds that moved frames, by each system's \
           own counters. Mpps is a lower bound where the load is slower than the switch, which then is not always busy.",
    columns: &[MPPS, CYCLES, column("busy_percent", "busy %", 0), column("burst", "frames/burst", 0)],
    compared: Some(("cycles_per_frame", Better::Less)),
};

pub(crate) static FLOWS: Section = Section {
    name: "flows",
    title: "Flows and masks",
    note: "64-byte frames whose flows are spread evenly over rules with this many different masks, which look at no other bits.",
    columns: &[MPPS, CYCLES],
    compared: Some(("cycles_per_frame", Better::Less)),
};

pub(crate) static LOOKUP: Section = Section {
    name: "lookup",
    title: "Look-up cost against number of masks",
    note: "70-byte IPv6 frames in one direction; a last rule looks at all of them. Hits: so many flows; misses: every frame has headers never seen, and only \
           a catch-all is for it. Shares say which cache answered (OVS: EMC and SMC count as exact).",
    columns: &[
        MPPS,
        CYCLES,
        column("exact_percent", "exact %", 1),
        column("megaflow_percent", "megaflow %", 1),
        column("miss_percent", "miss %", 1),
    ],
    compared: Some(("cycles_per_frame", Better::Less)),
};

pub(crate) static LATENCY: Section = Section {
    name: "latency",
    title: "Latency",
    note: "64-byte frames in one direction, evenly paced; from publication in the sender's ring to the poll that found them in \
           the receiver's. The shares are of what the same load gets through the same system at most.",
    columns: &[MPPS, P50, P99, P999, column("max_us", "max us", 1), LOST],
    compared: Some(("p99_us", Better::Less)),
};

pub(crate) static WAKE: Section = Section {
    name: "wake",
    title: "First frame out of idle",
    note: "One frame every 5 ms: Ringway has gone to sleep before each (its stated bound is 200 us), OVS-DPDK polls on.",
    columns: &[P50, P99, column("max_us", "max us", 1), column("sleeps_percent", "asleep %", 0)],
    compared: None,
};

pub(crate) static STREAM: Section = Section {
    name: "stream",
    title: "One TCP stream between two guests",
    note: "Both ends are `ringway guest --mode host` and share a core; both systems get the same two. Cycles: the switch's, per KiB received.",
    columns: &[column("gbit_per_s", "Gbit/s", 2), column("cycles_per_kib", "cycles/KiB", 1)],
    compared: Some(("gbit_per_s", Better::More)),
};

pub(crate) static FAIRNESS: Section = Section {
    name: "fairness",
    title: "A neighbour's flood",
    note: "On one worker: a port floods 64-byte frames of 100,000 flows while its neighbour sends 200,000 512-byte frames a second. The neighbour's \
           rate is in percent of what it was before, in the same run.",
    columns: &[
        column("neighbour_percent", "neighbour %", 2),
        LOST,
        P99,
        column("quiet_p99_us", "before us", 1),
        column("flood_mpps", "flood Mpps", 2),
        column("busy_percent", "busy %", 0),
    ],
    compared: Some(("neighbour_percent", Better::More)),
};

pub(crate) static HOSTILE: Section = Section {
    name: "hostile",
    title: "Random headers",
    note: "Rules with 64 masks; one port sends 100,000 frames of random headers a second, an established flow of 1,514-byte frames passes between two \
           others as fast as it can, on the same worker. Its throughput is in percent of the undisturbed one in the same run. \
           Attack: time of the worker the attacker's frames take. Growth: resident memory from before to after.",
    columns: &[
        column("victim_percent", "victim %", 1),
        column("victim_mpps", "victim Mpps", 2),
        column("attack_percent", "attack %", 1),
        column("attack_cycles", "cycles/attack frame", 0),
        column("growth_mib", "growth MiB", 1),
    ],
    compared: Some(("victim_percent", Better::More)),
};

pub(crate) static CHANGES: Section = Section {
    name: "changes",
    title: "Rule changes under load",
    note: "1,000 changes a second, each acknowledged before the next, while 500,000 frames a second of 1,000 flows pass 16 masks. Stall: the longest any frame \
           was kept; quiet: the same without changes, in the same run.",
    columns: &[
        column("changes_per_s", "changes/s", 0),
        column("stall_us", "stall us", 1),
        column("quiet_stall_us", "quiet us", 1),
        P99,
        P999,
        column("quiet_p999_us", "quiet p99.9", 1),
        LOST,
    ],
    compared: Some(("stall_us", Better::Less)),
};

pub(crate) static PRODUCTION: Section = Section {
    name: "production",
    title: "A rule set of production shape",
    note: "Synthetic, of the published shape (103,302 rules, 40 tables, 31 match fields; Tu et al., SIGCOMM 2021). Load: from the start of \
           loading to all rules in force. Frames of 10,000 flows pass all 40 tables; misses: random headers.",
    columns: &[
        column("load_s", "load s", 2),
        column("resident_mib", "resident MiB", 0),
        column("mpps", "Mpps", 2),
        column("cycles_per_frame", "cycles", 0),
        column("miss_mpps", "miss Mpps", 3),
        column("miss_cycles", "miss cycles", 0),
    ],
    compared: Some(("load_s", Better::Less)),
};

pub(crate) static IDLE: Section = Section {
    name: "idle",
    title: "Idle",
    note: "Two ports, nobody at them, no huge pages.",
    columns: &[column("resident_mib", "resident MiB", 1), column("cpu_percent", "CPU %", 2)],
    compared: Some(("resident_mib", Better::Less)),
};

/// All kinds, in the order of the report.
pub(crate) static ALL: [&Section; 11] = [
    &FORWARDING,
    &FLOWS,
    &LOOKUP,
    &LATENCY,
    &WAKE,
    &STREAM,
    &FAIRNESS,
    &HOSTILE,
    &CHANGES,
    &PRODUCTION,
    &IDLE,
];
