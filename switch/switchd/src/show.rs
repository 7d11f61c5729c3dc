//! What the switch says about itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use control::{
    BridgeRow, Bucket, CacheRow, FdbRow, FlowRow, HardwareRow, LimitRow, PartitionRow, PortRow, PortState,
    PuntRow, QueueRow, Snapshot, StageRow, Status, WorkerRow,
};
use port::{DropReason, PortCounters, PortId};
use vhost_user_port::Phase;
use worker::{BURST_BUCKETS, CYCLE_BUCKETS, Stage, WorkerStats};

use crate::bridges::now;
use crate::dpaa2::Waiting;
use crate::ports::{RunningDriver, RunningPort};
use crate::switch::Switch;

impl Switch {
    pub fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            path: Some(self.path.clone()),
            bridges: self.bridge_rows(),
            notices: self.notices.clone(),
            taken_over: self.taken_over.clone(),
        }
    }

    /// Whether the vhost-user ports with these sockets have running rings.
    pub fn are_up(&self, sockets: &[&switch_config::SocketPath]) -> bool {
        let up = |port: &RunningPort| match (&port.config.driver, &port.driver) {
            (switch_config::Driver::VhostUser(vhost), RunningDriver::VhostUser { state, .. }) => {
                !sockets.contains(&&vhost.socket) || state.borrow().phase == Phase::Running
            }
            _ => true,
        };
        self.ports.values().all(up)
    }

    pub fn bridge_rows(&self) -> Vec<BridgeRow> {
        let ports = |name: &switch_config::BridgeName| {
            self.config.ports.iter().filter(|port| port.bridge == *name).count() as u64
        };
        let row = |b: &crate::bridges::Bridge| BridgeRow {
            name: b.config.name.as_str().to_owned(),
            ports: ports(&b.config.name),
            rules: b.tables.len() as u64,
            addresses: b.fdb.len() as u64,
        };
        self.bridges.iter().map(row).collect()
    }

    pub fn port_rows(&self) -> Vec<PortRow> {
        self.ports.values().map(|port| self.port_row(port)).collect()
    }

    fn port_row(&self, port: &RunningPort) -> PortRow {
        let plane = self.plane.borrow();
        let counters = plane.counters(port.id);
        let sum = |f: fn(&PortCounters) -> u64| counters.iter().map(|c| f(c)).sum();
        let dropped = |&reason: &DropReason| {
            let n: u64 = counters.iter().map(|c| c.drops(reason)).sum();
            (n > 0).then(|| (reason.name().to_owned(), n))
        };
        let (state, reason) = state_of(port);
        let queue = |(queue, core): (u16, usize)| QueueRow { queue, core: core as u16 };
        PortRow {
            name: port.config.name.as_str().to_owned(),
            number: port.id.0,
            bridge: port.config.bridge.as_str().to_owned(),
            driver: port.config.driver.word().to_owned(),
            state,
            reason,
            mtu: port.config.mtu.get(),
            rx_frames: sum(|c| c.rx_frames.get()),
            rx_bytes: sum(|c| c.rx_bytes.get()),
            tx_frames: sum(|c| c.tx_frames.get()),
            tx_bytes: sum(|c| c.tx_bytes.get()),
            copies: sum(|c| c.copies.get()),
            punted: sum(|c| c.punted.get()),
            injected: sum(|c| c.injected.get()),
            kicks: sum(|c| c.kicks.get()),
            calls: sum(|c| c.calls.get()),
            drops: DropReason::ALL.iter().filter_map(dropped).collect(),
            queues: plane.placement(port.id).into_iter().map(queue).collect(),
            limits: self.limits(port),
        }
    }

    /// Asks the hardware below ports.
    pub fn hardware_rows(&self) -> anyhow::Result<Vec<HardwareRow>> {
        let mut rows = vec![];
        for port in self.ports.values() {
            if let RunningDriver::Dpaa2(dpaa2) = &port.driver {
                let row = dpaa2.row(&port.config.name);
                rows.push(row.with_context(|| format!("port {}", port.config.name))?);
            }
        }
        Ok(rows)
    }

    /// What the peer of a port can use up.
    fn limits(&self, port: &RunningPort) -> Vec<LimitRow> {
        let limit = |name: &str, used: u64, limit: u64, refused: u64| LimitRow {
            name: name.to_owned(),
            used: Some(used),
            limit,
            refused,
        };
        let rates = port.rates;
        let mut limits = vec![];
        if let Some(bridge) = self.bridges.iter().find(|b| b.config.name == port.config.bridge) {
            let learned = u64::from(bridge.fdb.learned_on(port.id));
            let most = u64::from(bridge.config.mac_limit_per_port);
            limits.push(limit("macs", learned, most, bridge.fdb.refused_on(port.id)));
        }
        if let RunningDriver::VhostUser { state, spent, .. } = &port.driver {
            let s = state.borrow();
            limits.push(limit("memory-regions", s.memory_regions as u64, s.memory_regions_max, 0));
            limits.push(limit("memory-bytes", s.memory_bytes, s.memory_bytes_max, 0));
            let delayed = spent.messages_delayed.load(Relaxed);
            let messages = u64::from(s.messages_per_second_max);
            limits.push(limit("messages-per-second", rates.messages, messages, delayed));
            let left_out = spent.log_lines_left_out.load(Relaxed);
            let lines = u64::from(s.log_lines_per_second_max);
            limits.push(limit("log-lines-per-second", rates.log_lines, lines, left_out));
        }
        let plane = self.plane.borrow();
        let uncached = plane.counters(port.id).iter().map(|c| c.uncached.get()).sum();
        let most = u64::from(worker::INSERTS_PER_MS) * plane.worker_count() as u64;
        limits.push(limit("cached-flows-per-ms", rates.cached.div_ceil(1000), most, uncached));
        limits
    }

    pub fn flow_rows(&self, bridge: Option<usize>, table: Option<u8>) -> Vec<FlowRow> {
        self.plane.borrow().sync();
        let names = switch_config::PortNumbers(&self.config.ports);
        let filter = flow_text::FlowFilter { table, ..flow_text::FlowFilter::default() };
        let mut rows = vec![];
        for (index, b) in self.bridges.iter().enumerate() {
            if bridge.is_some_and(|wanted| wanted != index) {
                continue;
            }
            for view in b.tables.dump(&filter, now()) {
                rows.push(FlowRow {
                    bridge: b.config.name.as_str().to_owned(),
                    table: view.spec.table,
                    priority: view.spec.priority,
                    cookie: view.spec.cookie,
                    frames: view.counters.frames,
                    bytes: view.counters.bytes,
                    age_s: view.counters.age.as_secs(),
                    idle_s: view.counters.idle_seconds,
                    flow: view.spec.shown(&names).to_string(),
                });
            }
        }
        rows
    }

    pub fn fdb_rows(&self, bridge: Option<usize>) -> Vec<FdbRow> {
        let now_secs = now().as_secs() as u32;
        let mut rows = vec![];
        for (index, b) in self.bridges.iter().enumerate() {
            if bridge.is_some_and(|wanted| wanted != index) {
                continue;
            }
            let mut entries = b.fdb.entries();
            entries.sort_by_key(|e| (e.vlan, e.mac));
            for entry in entries {
                rows.push(FdbRow {
                    bridge: b.config.name.as_str().to_owned(),
                    vlan: entry.vlan,
                    mac: mac_text(entry.mac),
                    port: self.port_name(entry.port),
                    age_s: u64::from(now_secs.saturating_sub(entry.seen_secs)),
                });
            }
        }
        rows
    }

    pub fn partition_rows(&self) -> Vec<PartitionRow> {
        let waiting = |name: &switch_config::PortName| {
            let id = self.config.port(name).map(|port| PortId(port.number.get()));
            match id.and_then(|id| self.ports.get(&id)).map(|port| &port.driver) {
                Some(RunningDriver::Dpaa2(running)) => running.waiting(),
                _ => Waiting::default(),
            }
        };
        self.divisions.rows(&self.config, &self.hardware, waiting)
    }

    fn port_name(&self, id: PortId) -> String {
        self.ports.get(&id).map_or_else(|| id.to_string(), |port| port.config.name.as_str().to_owned())
    }

    pub fn worker_rows(&self) -> Vec<WorkerRow> {
        let plane = self.plane.borrow();
        let hz = plane.clock().hz();
        let mut queues: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (id, port) in &self.ports {
            for (queue, core) in plane.placement(*id) {
                queues.entry(core).or_default().push(format!("{}/{queue}", port.config.name));
            }
        }
        let rows = plane
            .workers()
            .map(|(core, s)| worker_row(core, s, hz, queues.remove(&core).unwrap_or_default()));
        rows.collect()
    }

    pub fn cache_rows(&self) -> Vec<CacheRow> {
        let row = |(core, s): (usize, &WorkerStats)| CacheRow {
            core: core as u16,
            shortcut_hits: s.shortcut_hits.get(),
            exact_hits: s.exact_hits.get(),
            megaflow_hits: s.megaflow_hits.get(),
            misses: s.misses.get(),
            flushes: s.cache_flushes.get(),
        };
        self.plane.borrow().workers().map(row).collect()
    }

    /// Takes the frames that wait for a controller.
    pub fn punt_rows(&self) -> Vec<PuntRow> {
        let row = |punt: worker::Punt| PuntRow {
            port: self.port_name(punt.port),
            frame_bytes: punt.frame_len,
            head: punt.bytes().iter().map(|b| format!("{b:02x}")).collect(),
        };
        std::iter::from_fn(|| self.punts.pop()).map(row).collect()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bridges: self.bridge_rows(),
            ports: self.port_rows(),
            workers: self.worker_rows(),
            caches: self.cache_rows(),
            partitions: self.partition_rows(),
        }
    }
}

/// An Ethernet address as everybody writes it.
pub(crate) fn mac_text([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn state_of(port: &RunningPort) -> (PortState, Option<String>) {
    if !port.config.up {
        return (PortState::Down, None);
    }
    match &port.driver {
        RunningDriver::VhostUser { state, .. } => {
            let s = state.borrow();
            let shown = match s.phase {
                Phase::Running => PortState::Up,
                Phase::Waiting | Phase::Negotiating => PortState::Waiting,
            };
            (shown, s.last_error.clone())
        }
        RunningDriver::Dpaa2(dpaa2) if port.fault.is_none() && !dpaa2.has_link() => {
            (PortState::Down, Some("no link".to_owned()))
        }
        _ if port.fault.is_some() => (PortState::Failed, port.fault.clone()),
        _ => (PortState::Up, None),
    }
}

fn worker_row(core: usize, s: &WorkerStats, hz: u64, queues: Vec<String>) -> WorkerRow {
    let buckets = |limits: &[u64], counts: &[port::Counter]| -> Vec<Bucket> {
        let bounds = limits.iter().map(|&l| Some(l)).chain([None]);
        bounds.zip(counts).map(|(up_to, count)| Bucket { up_to, count: count.get() }).collect()
    };
    let stage =
        |stage: Stage| StageRow { name: stage.name().to_owned(), cycles: s.stages[stage as usize].get() };
    WorkerRow {
        core: core as u16,
        cycles_per_second: hz,
        busy_cycles: s.busy_cycles.get(),
        idle_cycles: s.idle_cycles.get(),
        frames: s.frames.get(),
        bursts: s.bursts.get(),
        turns: s.turns.get(),
        sleeps: s.sleeps.get(),
        burst_sizes: buckets(&BURST_BUCKETS, &s.burst_sizes),
        frame_cycles: buckets(&CYCLE_BUCKETS, &s.frame_cycles),
        stage_frames: s.stage_frames.get(),
        stages: Stage::ALL.into_iter().map(stage).collect(),
        queues,
    }
}
