//! The new process' part.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bridging::FdbEntry;
use control::TakeOverRow;
use control::handover::{Note, NoteKind, ask};
use flow_text::FlowSpec;
use pipeline::{Credit, SavedRule};
use port::{DropReason, PortCounters, PortId};
use switch_config::Config;
use switch_state::{Driver, OLDEST, STATE_BYTES_MAX, Stage, State, VERSION};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use worker::FaultSink;

use super::{COUNTERS, Descriptors, HELD_LIMIT, PREPARE_LIMIT, now_ns};
use crate::bridges::{file_rules, now, rule_changes};
use crate::dataplane::Begin;
use crate::dpaa2::Hardware;
use crate::hurry::Hurry;
use crate::ports::OpenPort;
use crate::switch::Switch;

/// How long the old process may take to close what the new one doesn't go on with.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// Between two attempts to open what it had.
const OPEN_EVERY: Duration = Duration::from_millis(20);

/// A running switch that is willing to be taken over.
pub(crate) struct Predecessor {
    stream: UnixStream,
    state: State,
    fds: Descriptors,
    asked_at: Instant,
}

/// A rule of the predecessor with its place in its list, as far as it goes on.
type Restored = Vec<Option<FlowSpec>>;

/// What can be done only when the old process has closed everything.
pub(crate) struct Rest {
    stream: UnixStream,
    late: Vec<Late>,
}

/// A port that needs what the old process has in use.
struct Late {
    config: switch_config::Port,
    /// What the old process counted, of a port of this name.
    was: Option<switch_state::Port>,
}

impl Predecessor {
    /// Asks the switch whose control socket is at `path`.
    ///
    /// # Errors
    /// There is none, or it refuses, or it is of another time.
    pub async fn meet(path: &Path) -> anyhow::Result<Predecessor> {
        let asked_at = Instant::now();
        let mut stream = ask(path, OLDEST, VERSION).await?;
        let note = expect(&mut stream, NoteKind::State, PREPARE_LIMIT).await?;
        let (state, fds) = read_state(note)?;
        Ok(Predecessor { stream, state, fds, asked_at })
    }

    /// Its listening control socket.
    ///
    /// # Errors
    /// It hasn't sent one.
    pub fn control_socket(&mut self) -> anyhow::Result<OwnedFd> {
        let number = self.state.control.context("the running switch sends no control socket")?;
        self.fds.take(number)
    }

    /// Its listening socket for metrics, if it is at this address.
    ///
    /// # Errors
    /// It hasn't sent the socket it announced.
    pub fn metrics(&mut self, address: SocketAddr) -> anyhow::Result<Option<OwnedFd>> {
        match &self.state.metrics {
            Some(metrics) if metrics.address == address.to_string() => {
                let number = metrics.fd;
                self.fds.take(number).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Tells it that nothing came of it.
    pub async fn decline(&mut self, error: &anyhow::Error) {
        let note = Note::new(NoteKind::Failed, format!("{error:#}"));
        // One that has gone needs no answer.
        let _ = tokio::time::timeout(HELD_LIMIT, note.send(&mut self.stream)).await;
    }
}

async fn expect(stream: &mut UnixStream, kind: NoteKind, limit: Duration) -> anyhow::Result<Note> {
    let note = tokio::time::timeout(limit, Note::receive(stream)).await;
    let note = note.map_err(|_| anyhow::anyhow!("the running switch didn't answer within {limit:?}"))?;
    let note = note.context("the running switch hung up")?;
    match note.kind {
        NoteKind::Failed => anyhow::bail!("the running switch keeps its ports: {}", note.text),
        found if found != kind => anyhow::bail!("the running switch says {found:?} instead of {kind:?}"),
        _ => Ok(note),
    }
}

fn read_state(note: Note) -> anyhow::Result<(State, Descriptors)> {
    let (bytes, fds) = note.into_state(STATE_BYTES_MAX)?;
    Ok((State::parse(&bytes)?, Descriptors::new(fds)))
}

/// Takes the switch over. When this returns, its frames are forwarded here and nowhere else.
///
/// # Errors
/// Whatever can't be had or doesn't fit; the old process goes on.
pub(crate) async fn take(
    config: Config,
    path: PathBuf,
    faults: &FaultSink,
    mut predecessor: Predecessor,
) -> anyhow::Result<(Switch, Rest)> {
    match take_prepared(config, path, faults, &mut predecessor).await {
        Ok((switch, late)) => Ok((switch, Rest { stream: predecessor.stream, late })),
        Err(error) => {
            predecessor.decline(&error).await;
            Err(error.context("take-over: the running switch was left as it is"))
        }
    }
}

/// The ports of the file by how they come to run.
struct Ports {
    /// They go on; each with its place in the state.
    kept: Vec<(OpenPort, usize)>,
    /// They are new.
    fresh: Vec<OpenPort>,
    /// They need what the old process has in use.
    late: Vec<switch_config::Port>,
}

async fn take_prepared(
    config: Config,
    path: PathBuf,
    faults: &FaultSink,
    predecessor: &mut Predecessor,
) -> anyhow::Result<(Switch, Vec<Late>)> {
    let mut switch = Switch::prepare(&config, path, faults, Begin::Held)?;
    switch.set_bridges(&config);
    let restored = restore_rules(&mut switch, &config, &predecessor.state)?;
    restore_addresses(&switch, &config, &predecessor.state, &predecessor.state);
    switch.config = config.clone();
    let Ports { mut kept, fresh, late } =
        open_ports(&config, &predecessor.state, &mut predecessor.fds, &switch.hardware)?;
    let of_port = |port: &OpenPort| port.config().clone();
    for port in kept.iter().map(|(port, _)| of_port(port)).chain(fresh.iter().map(of_port)) {
        switch.register(&port, &config);
    }
    switch.publish();

    let hurry = Hurry::start();
    Note::new(NoteKind::Ready, "").send(&mut predecessor.stream).await?;
    let note = expect(&mut predecessor.stream, NoteKind::Held, PREPARE_LIMIT).await?;
    let arrived_ns = now_ns();
    let (held, mut fds) = read_state(note)?;
    let Stage::Held { since_ns } = held.stage else { anyhow::bail!("the running switch isn't held") };
    restore_addresses(&switch, &config, &held, &predecessor.state);
    restore_credits(&switch, &held, &restored);
    for (port, was) in &mut kept {
        let name = &predecessor.state.ports[*was].name;
        let now = held.ports.iter().find(|p| p.name == *name);
        let now = now.with_context(|| format!("port {name} is gone"))?;
        port.settle(&config, &now.driver, &mut fds, &switch.hardware)?;
        port.attach(&switch.plane)?;
        let plane = switch.plane.borrow();
        restore_counters(&plane.counters(PortId(port.config().number.get()))[0], now);
    }
    let prepared_ns = now_ns();
    let names: Vec<&str> = kept.iter().map(|(port, _)| port.config().name.as_str()).collect();
    Note::new(NoteKind::Accept, names.join("\n")).send(&mut predecessor.stream).await?;
    let ports = kept.len() as u64;
    // What has no session can't do any harm if it runs now: its workers are held.
    let (sessions, others): (Vec<OpenPort>, Vec<OpenPort>) =
        kept.into_iter().map(|(port, _)| port).partition(OpenPort::is_session);
    others.into_iter().for_each(|port| switch.run_port(port, &config));
    expect(&mut predecessor.stream, NoteKind::Yours, 2 * HELD_LIMIT).await?;
    let granted_ns = now_ns();
    switch.plane.borrow_mut().release();
    let passed_us = |to: u64, from: u64| to.saturating_sub(from) / 1000;
    tracing::debug!(
        held_us = passed_us(arrived_ns, since_ns),
        prepared_us = passed_us(prepared_ns, arrived_ns),
        granted_us = passed_us(granted_ns, prepared_ns),
        released_us = passed_us(now_ns(), granted_ns),
        "where the pause went"
    );
    let pause_us = now_ns().saturating_sub(since_ns) / 1000;
    drop(hurry);

    for port in sessions.into_iter().chain(fresh) {
        switch.run_port(port, &config);
    }
    switch.publish();
    switch.taken_over = Some(TakeOverRow {
        pid: predecessor.state.pid,
        version: predecessor.state.program.clone(),
        ports,
        pause_us,
        total_us: predecessor.asked_at.elapsed().as_micros() as u64,
    });
    let counted = |config: switch_config::Port| {
        let was = held.ports.iter().find(|was| was.name == config.name.as_str());
        Late { was: was.filter(|was| matches!(was.driver, Driver::Other)).cloned(), config }
    };
    Ok((switch, late.into_iter().map(counted).collect()))
}

/// Waits until the old process has closed everything, and opens the ports that needed that.
pub(crate) async fn finish(switch: &Rc<RefCell<Switch>>, mut rest: Rest) {
    let mut byte = [0];
    let closed = tokio::time::timeout(CLOSE_LIMIT, rest.stream.read(&mut byte)).await;
    if closed.is_err() {
        tracing::warn!("the process that ran the switch before doesn't end");
    }
    // Hardware is free only when the last of what the predecessor had there is closed.
    let deadline = Instant::now() + CLOSE_LIMIT;
    let config = switch.borrow().config.clone();
    for Late { config: port, was } in &rest.late {
        let opened = loop {
            let opened = OpenPort::open_again(port, &config, &switch.borrow().hardware);
            if opened.is_ok() || Instant::now() > deadline {
                break opened;
            }
            tokio::time::sleep(OPEN_EVERY).await;
        };
        let mut this = switch.borrow_mut();
        match opened {
            Ok(open) => {
                this.register(port, &config);
                if let Some(was) = was {
                    restore_counters(&this.plane.borrow().counters(PortId(port.number.get()))[0], was);
                }
                this.run_port(open, &config);
            }
            Err(error) => {
                tracing::error!("not opened after the take-over: {error:#}");
                this.notices.push(format!("{error:#}"));
            }
        }
    }
    switch.borrow_mut().publish();
}

fn open_ports(
    config: &Config,
    state: &State,
    fds: &mut Descriptors,
    hardware: &Hardware,
) -> anyhow::Result<Ports> {
    let mut ports = Ports { kept: vec![], fresh: vec![], late: vec![] };
    for port in &config.ports {
        let was = state.ports.iter().position(|was| was.name == port.name.as_str() && goes_on(port, was));
        if let Some(was) = was {
            ports
                .kept
                .push((OpenPort::take_over(port, config, &state.ports[was].driver, fds, hardware)?, was));
        } else if state.ports.iter().any(|was| needs_what_it_has(port, was)) {
            ports.late.push(port.clone());
        } else {
            ports.fresh.push(OpenPort::open(port, config, hardware)?);
        }
    }
    Ok(ports)
}

/// Whether the port of the file is the one of the state.
fn goes_on(port: &switch_config::Port, was: &switch_state::Port) -> bool {
    use switch_config::{Driver as D, SocketMode};
    use switch_state::SessionMode;
    match (&port.driver, &was.driver) {
        (D::VhostUser(vhost), Driver::VhostUser { socket, mode, .. }) => {
            let same_mode = matches!(
                (vhost.mode, mode),
                (SocketMode::Server, SessionMode::Server) | (SocketMode::Client, SessionMode::Client)
            );
            same_mode && vhost.socket.as_path() == socket
        }
        (D::Tap(tap), Driver::Tap { device, netns, .. }) => {
            tap.device.as_str() == device && tap.netns.as_ref().map(|n| n.as_str()) == netns.as_deref()
        }
        // They are made anew, and go on with their counters. Recording waits for the file.
        (D::Null | D::Loop, Driver::Other) => true,
        (D::Pcap(pcap), Driver::Other) => pcap.write.is_none(),
        _ => false,
    }
}

/// Whether the port of the file can only be opened when that of the state is closed.
fn needs_what_it_has(port: &switch_config::Port, was: &switch_state::Port) -> bool {
    use switch_config::Driver as D;
    match (&port.driver, &was.driver) {
        (D::VhostUser(vhost), Driver::VhostUser { socket, .. }) => vhost.socket.as_path() == socket,
        (D::Tap(tap), Driver::Tap { device, .. }) => tap.device.as_str() == device,
        // The container can't be opened twice.
        (D::Dpaa2(_), Driver::Other) => true,
        // Which file the other one wrote is not known: any may be.
        (D::Pcap(pcap), Driver::Other) => pcap.write.is_some(),
        _ => false,
    }
}

/// Gives bridges the rules they had, changed by what differs between the two files. A rule that names a port the new
/// file hasn't is left out, aloud.
fn restore_rules(switch: &mut Switch, config: &Config, state: &State) -> anyhow::Result<Vec<Restored>> {
    let names = switch_config::PortNumbers(&config.ports);
    let mut all = Vec::new();
    let mut left_out = Vec::new();
    for bridge in &mut switch.bridges {
        let was = state.bridges.iter().find(|was| was.name == bridge.config.name.as_str());
        let (mut restored, mut rules, mut old_file): (Restored, Vec<SavedRule>, Vec<FlowSpec>) =
            Default::default();
        if let Some(was) = was {
            for rule in &was.rules {
                let spec = flow_text::parse_add(&rule.flow, &names);
                if let Ok(spec) = &spec {
                    rules.push(SavedRule {
                        spec: spec.clone(),
                        created: Duration::from_nanos(rule.created_ns),
                        modified: Duration::from_nanos(rule.modified_ns),
                    });
                } else if !was.file_rules.contains(&rule.flow) {
                    left_out.push(format!("rule left out, a port it names is gone: {}", rule.flow));
                }
                restored.push(spec.ok());
            }
            old_file = was.file_rules.iter().filter_map(|f| flow_text::parse_add(f, &names).ok()).collect();
        }
        let name = &bridge.config.name;
        bridge.tables.restore(&rules).with_context(|| format!("rules of bridge {name}"))?;
        let changes = rule_changes(&old_file, &file_rules(config, &bridge.config));
        bridge.tables.apply(&changes, now()).with_context(|| format!("rules of bridge {name}"))?;
        all.push(restored);
    }
    for line in left_out {
        tracing::warn!("{line}");
        switch.notices.push(line);
    }
    Ok(all)
}

/// Gives bridges the addresses of `state`, as far as they follow and their ports are in the new file. Ports are
/// numbered as in `numbers`.
fn restore_addresses(switch: &Switch, config: &Config, state: &State, numbers: &State) {
    let number = |port: &switch_state::Port| {
        let stays = config.ports.iter().find(|p| p.name.as_str() == port.name)?;
        Some((port.number, PortId(stays.number.get())))
    };
    let numbers: BTreeMap<u16, PortId> = numbers.ports.iter().filter_map(number).collect();
    for bridge in &switch.bridges {
        let was = state.bridges.iter().find(|was| was.name == bridge.config.name.as_str());
        let Some(was) = was.filter(|was| was.addresses_follow) else { continue };
        bridge.fdb.flush_all();
        for address in &was.addresses {
            if let Some(&port) = numbers.get(&address.port) {
                let (vlan, mac, seen_secs) = (address.vlan, address.mac, address.seen_secs);
                bridge.fdb.put(FdbEntry { vlan, mac, port, seen_secs, is_static: false });
            }
        }
    }
}

fn restore_credits(switch: &Switch, held: &State, restored: &[Restored]) {
    for (bridge, rules) in switch.bridges.iter().zip(restored) {
        let Some(was) = held.bridges.iter().find(|was| was.name == bridge.config.name.as_str()) else {
            continue;
        };
        for (spec, credit) in rules.iter().zip(&was.credits) {
            let Some(spec) = spec else { continue };
            let (frames, bytes, last_used) = (credit.frames, credit.bytes, credit.last_used_secs);
            // A rule that the new file hasn't is gone, and its counters with it.
            let _ = bridge.tables.add_credit(spec, Credit { frames, bytes, last_used });
        }
    }
}

/// Starts counting where the old process stopped. No worker counts yet.
fn restore_counters(counters: &PortCounters, was: &switch_state::Port) {
    for (name, &n) in &was.counters {
        if let Some((_, counter)) = COUNTERS.iter().find(|(known, _)| known == name) {
            counter(counters).add(n);
        }
    }
    for (name, &n) in &was.drops {
        if let Some(&reason) = DropReason::ALL.iter().find(|reason| reason.name() == name) {
            counters.dropped(reason, n);
        }
    }
}
