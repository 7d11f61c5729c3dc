//! Guests that the switch's own process plays: `[[guest]]` in the file.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use control::GuestRow;
use guest_host::{GenerateRole, GuestConfig, HostRole, Ping, Progress, Report, Role, SocketMode};

/// Whether a guest sends on its own account: it is started after those that only answer, and ended before.
pub(crate) fn sends(guest: &switch_config::Guest) -> bool {
    matches!(guest.role, switch_config::Role::Generate(_) | switch_config::Role::Host(_))
}

/// Running guests, a thread each.
pub(crate) struct Guests(Vec<Guest>);

/// A running guest.
pub(crate) struct Guest {
    name: String,
    role: &'static str,
    stop: Arc<AtomicBool>,
    progress: Arc<Mutex<Option<Progress>>>,
    thread: Option<JoinHandle<anyhow::Result<Report>>>,
}

impl Guests {
    /// None.
    pub fn none() -> Guests {
        Guests(vec![])
    }

    /// Starts those among `configs` that `which` accepts.
    ///
    /// # Errors
    /// No threads.
    pub fn start(
        &mut self,
        configs: &[switch_config::Guest],
        which: impl Fn(&switch_config::Guest) -> bool,
    ) -> std::io::Result<()> {
        for config in configs.iter().filter(|config| which(config)) {
            self.0.push(start(config)?);
        }
        Ok(())
    }

    /// Takes the guest of this name out, still running.
    pub fn take(&mut self, name: &str) -> Option<Guest> {
        let i = self.0.iter().position(|guest| guest.name == name)?;
        Some(self.0.swap_remove(i))
    }

    /// Ends them, those that send first, so that what is under way still arrives; returns what each did. Those that
    /// take longer than `patience` are left to end with the process.
    pub fn finish(self, patience: Duration) -> Vec<GuestRow> {
        let deadline = Instant::now() + patience;
        let (senders, others): (Vec<&Guest>, Vec<&Guest>) =
            self.0.iter().partition(|g| matches!(g.role, "generate" | "host"));
        for half in [senders, others] {
            for guest in &half {
                guest.stop.store(true, Ordering::Relaxed);
            }
            while half.iter().any(|g| !g.is_finished()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.0.into_iter().map(Guest::row).collect()
    }
}

impl Guest {
    /// Ends it, and waits until it has.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        // What it did is nobody's concern any more.
        self.thread.map(JoinHandle::join);
    }

    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn row(mut self) -> GuestRow {
        let base = GuestRow { name: self.name.clone(), role: self.role.to_owned(), ..GuestRow::default() };
        if !self.is_finished() {
            let progress = self.progress.lock().ok().and_then(|p| p.clone());
            let (sent, received) = progress.map_or((0, 0), |p| (p.sent, p.received));
            return GuestRow { sent, received, note: Some("did not end in time".into()), ..base };
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Ok(report))) => row_of(base, &report),
            Some(Ok(Err(error))) => GuestRow { note: Some(format!("{error:#}")), ..base },
            Some(Err(_)) | None => GuestRow { note: Some("ended by a panic".into()), ..base },
        }
    }
}

fn row_of(base: GuestRow, report: &Report) -> GuestRow {
    let pings_lost: u64 = report.pings.iter().map(|p| p.lost).sum();
    let stream = report.stream_received.as_ref().or(report.stream_sent.as_ref());
    let latency = report.latency.as_ref();
    let ping = report.pings.first().and_then(|p| p.rtt.as_ref());
    let note = report.trouble.clone().or_else(|| {
        let l = latency.or(ping)?;
        Some(format!("latency p50 {:.0} us, p99 {:.0} us", l.p50_us, l.p99_us))
    });
    GuestRow {
        sent: report.sent,
        received: report.received,
        lost: report.lost.unwrap_or(pings_lost),
        bits_per_second: stream.map(|s| s.bits_per_second),
        note,
        ..base
    }
}

fn start(config: &switch_config::Guest) -> std::io::Result<Guest> {
    let guest = guest_config(config);
    let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let role = guest.role.name();
    let (their_stop, their_progress) = (stop.clone(), progress.clone());
    let thread = std::thread::Builder::new().name(format!("guest-{}", config.name)).spawn(move || {
        let report = guest_host::run(&guest, &their_stop, |p| {
            if let Ok(mut latest) = their_progress.lock() {
                *latest = Some(p.clone());
            }
        });
        report.map_err(anyhow::Error::from)
    })?;
    Ok(Guest { name: config.name.as_str().to_owned(), role, stop, progress, thread: Some(thread) })
}

/// A guest of the file as the guest library takes it.
pub fn guest_config(config: &switch_config::Guest) -> GuestConfig {
    let mode = match config.mode {
        switch_config::SocketMode::Server => SocketMode::Server,
        switch_config::SocketMode::Client => SocketMode::Client,
    };
    let role = match &config.role {
        switch_config::Role::Host(host) => Role::Host(HostRole {
            ping: host.ping.iter().map(|&(target, interval)| Ping { target, interval }).collect(),
            stream_to: host.stream_to,
            gateway: host.gateway,
            ..HostRole::new(host.address.addr, host.address.prefix)
        }),
        switch_config::Role::Reflect => Role::Reflect,
        switch_config::Role::Generate(generate) => {
            let default = GenerateRole::default();
            Role::Generate(GenerateRole {
                to: generate.to.map_or(default.to, |mac| mac.bytes()),
                rate: match generate.rate {
                    switch_config::Rate::Pps(pps) => guest_host::Rate::Pps(pps),
                    switch_config::Rate::Max => guest_host::Rate::Max,
                },
                size: generate.size.get(),
                flows: generate.flows.get(),
                window: generate.window.map(|window| window.get()),
                ip: generate.ip,
            })
        }
        switch_config::Role::Sink => Role::Sink,
    };
    GuestConfig {
        mac: config.mac.bytes(),
        packed: config.packed,
        ring_size: config.ring_size.get(),
        offloads: config.offloads,
        queue_pairs: config.queues.get(),
        mtu: config.mtu.get(),
        ..GuestConfig::new(config.name.as_str(), config.socket.as_path(), mode, role)
    }
}
