//! The life of the switch, from its configuration to its summary.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use control::{Answer, ConfigText, ControlSocket, Refusal, RefusalKind, Request, Snapshot, Summary};
use pipeline::FlowMod;
use switch_config::{Config, PartitionPlace};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use worker::{FaultReport, FaultSink};

use crate::guests::{Guests, sends};
use crate::machines::{self, Machines};
use crate::privileges;
use crate::reconfigure::reconfigure;
use crate::switch::Switch;
use crate::take_over::{Giver, Handed, Predecessor, finish, take};

/// How long a switch that ends on its own waits for its guests to drain.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one that was told to end does: it must be gone within a second.
const PATIENCE_WHEN_TOLD: Duration = Duration::from_millis(400);

/// How long guests that send are held back for those that answer.
const GUESTS_START: Duration = Duration::from_secs(3);

/// Called twice a second with everything the switch counts.
pub type OnTick = Box<dyn FnMut(&Snapshot)>;

/// How to run.
#[derive(Default)]
pub struct RunOptions {
    /// The configuration's file: read again on SIGHUP.
    pub path: PathBuf,
    /// End by itself after this time.
    pub for_: Option<Duration>,
    /// Called twice a second.
    pub on_tick: Option<OnTick>,
    /// Go on with what the switch has that runs at the configuration's control socket.
    pub take_over: bool,
}

/// Runs the switch until it is told to end (SIGTERM, SIGINT) or its time is over.
///
/// # Errors
/// It can't start: the message says what is missing and what to do.
pub fn run(config: Config, options: RunOptions) -> anyhow::Result<Summary> {
    privileges::use_all_descriptors();
    let (runtime, result) = crate::runtime::block_on(live(config, options)).context("control thread")?;
    tracing::debug!(?runtime, "ended");
    result
}

enum Why {
    TimeIsOver,
    /// By whoever manages services: machines go on without the switch.
    Told,
    /// By somebody at the keyboard: all of it is to end.
    Interrupted,
    HandedOver(Handed),
}

async fn live(config: Config, mut options: RunOptions) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Before any thread is started: each begins with what its parent has left.
    let machines = Machines::start(&config.vms)?;
    privileges::give_up(&config);
    let path = config.control.socket.as_path().to_owned();
    let mut predecessor = match options.take_over {
        true => Some(Predecessor::meet(&path).await.context("take-over")?),
        false => None,
    };
    let socket = Rc::new(match &mut predecessor {
        Some(predecessor) => ControlSocket::adopt(predecessor.control_socket()?, &path)?,
        None => ControlSocket::bind(&path, config.control.mode.bits())?,
    });
    let metrics = metrics_listener(config.control.prometheus, predecessor.as_mut())?;
    let (report, mut faults) = tokio::sync::mpsc::unbounded_channel::<FaultReport>();
    let sink: FaultSink = Arc::new(move |fault| {
        // Nobody listens only while the switch ends.
        let _ = report.send(fault);
    });
    let (switch, rest) = match predecessor {
        Some(predecessor) => {
            let (switch, rest) = take(config, options.path.clone(), &sink, predecessor).await?;
            (switch, Some(rest))
        }
        None => (Switch::start(config, options.path.clone(), &sink)?, None),
    };
    socket.keep();
    let switch = Rc::new(RefCell::new(switch));
    if let Some(row) = &switch.borrow().taken_over {
        tracing::info!(
            from = row.pid,
            ports = row.ports,
            pause_us = row.pause_us,
            total_us = row.total_us,
            "the switch was taken over"
        );
    }
    switch.borrow_mut().listeners.control = Some(socket.listener().try_clone()?.into());
    for notice in &switch.borrow().notices {
        tracing::info!("{notice}");
    }
    let (hands, mut handed) = tokio::sync::mpsc::unbounded_channel();
    let handler = Rc::new(Handler { switch: switch.clone(), giver: Giver::new(switch.clone()), hands });
    let served = socket.clone();
    let server = tokio::task::spawn_local(async move {
        if let Err(error) = control::serve(&served, handler).await {
            tracing::error!(%error, "the control socket is dead");
        }
    });
    if let Some((address, listener)) = metrics {
        switch.borrow_mut().listeners.metrics = Some((address, listener.try_clone()?.into()));
        let shown = switch.clone();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let text = async move || {
            let (text, sockets) = {
                let switch = shown.borrow();
                let sockets: Vec<_> = switch.config.vms.iter().map(|vm| vm.control.clone()).collect();
                (control::metrics::render(&switch.snapshot()), sockets)
            };
            text + &machines::metrics(&sockets).await
        };
        tokio::task::spawn_local(control::metrics::serve(listener, text));
    }
    if let Some(rest) = rest {
        finish(&switch, rest).await;
    }
    let guest_configs = switch.borrow().config.guests.clone();
    switch.borrow_mut().guests.start(&guest_configs, |guest| !sends(guest)).context("guests")?;
    answering(&switch, &guest_configs).await;
    switch.borrow_mut().guests.start(&guest_configs, sends).context("guests")?;
    tracing::info!(
        pid = std::process::id(),
        socket = %switch.borrow().config.control.socket.as_path().display(),
        "running"
    );
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let end = async {
        match options.for_ {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let why = loop {
        tokio::select! {
            () = &mut end => break Why::TimeIsOver,
            _ = terminate.recv() => break Why::Told,
            _ = interrupt.recv() => break Why::Interrupted,
            _ = hang_up.recv() => match reload(&switch).await {
                Ok(done) => tracing::info!(changes = ?done, "configuration read again"),
                Err(error) => tracing::error!("configuration not changed: {error:#}"),
            },
            Some(handed) = handed.recv() => break Why::HandedOver(handed),
            Some(fault) = faults.recv() => switch.borrow_mut().queue_fault(fault),
            _ = second.tick() => switch.borrow_mut().expire(),
            _ = tick.tick(), if options.on_tick.is_some() => {
                if let Some(on_tick) = &mut options.on_tick {
                    on_tick(&switch.borrow().snapshot());
                }
            }
        }
    };
    let stops_machines = matches!(why, Why::TimeIsOver | Why::Interrupted);
    let patience = match why {
        Why::TimeIsOver => PATIENCE,
        Why::Told | Why::Interrupted => PATIENCE_WHEN_TOLD,
        Why::HandedOver(handed) => {
            server.abort();
            socket.leave();
            let mut summary = summary(&switch, started);
            let_go(&switch, handed).await;
            let guests = std::mem::replace(&mut switch.borrow_mut().guests, Guests::none());
            summary.guests = tokio::task::spawn_blocking(move || guests.finish(PATIENCE_WHEN_TOLD)).await?;
            return Ok(summary);
        }
    };
    // States as they were while it ran: when the guests have gone every port waits.
    let states: Vec<_> = switch.borrow().port_rows().into_iter().map(|row| (row.state, row.reason)).collect();
    let guests = std::mem::replace(&mut switch.borrow_mut().guests, Guests::none());
    // Guests end on threads of their own, while this one goes on serving their connections.
    let guests = tokio::task::spawn_blocking(move || {
        let mut rows = guests.finish(patience);
        if stops_machines {
            rows.extend(machines.stop());
        }
        rows
    })
    .await?;
    let mut summary = summary(&switch, started);
    for (row, (state, reason)) in summary.ports.iter_mut().zip(states) {
        (row.state, row.reason) = (state, reason);
    }
    summary.guests = guests;
    server.abort();
    // The socket's file goes with the task.
    let _ = server.await;
    let (plane, ports) = {
        let mut this = switch.borrow_mut();
        (this.plane.clone(), std::mem::take(&mut this.ports))
    };
    for (_, port) in ports {
        port.stop(&plane).await;
    }
    plane.borrow_mut().stop();
    switch.borrow_mut().close_hardware();
    Ok(summary)
}

fn summary(switch: &Rc<RefCell<Switch>>, started: Instant) -> Summary {
    let snapshot = switch.borrow().snapshot();
    Summary {
        seconds: started.elapsed().as_secs_f64(),
        ports: snapshot.ports,
        workers: snapshot.workers,
        partitions: snapshot.partitions,
        guests: vec![],
    }
}

/// The socket at which metrics are asked for, of the running switch where it is to be taken over.
fn metrics_listener(
    address: Option<SocketAddr>,
    predecessor: Option<&mut Predecessor>,
) -> anyhow::Result<Option<(SocketAddr, TcpListener)>> {
    let Some(address) = address else { return Ok(None) };
    let inherited = predecessor.map(|p| p.metrics(address)).transpose()?.flatten();
    let listener = match inherited {
        Some(fd) => TcpListener::from(fd),
        None => TcpListener::bind(address)
            .with_context(|| format!("control.prometheus: can't listen at {address}"))?,
    };
    listener.set_nonblocking(true)?;
    Ok(Some((address, listener)))
}

/// Closes everything, after a successor has taken what it goes on with.
async fn let_go(switch: &Rc<RefCell<Switch>>, handed: Handed) {
    let (plane, ports) = {
        let mut this = switch.borrow_mut();
        (this.plane.clone(), std::mem::take(&mut this.ports))
    };
    plane.borrow_mut().stop();
    for (_, port) in ports {
        match handed.kept.iter().any(|name| name == port.config.name.as_str()) {
            true => port.release().await,
            false => port.stop(&plane).await,
        }
    }
    // Before the successor is told that nothing is in use here.
    switch.borrow_mut().close_hardware();
}

/// Waits, not long, until the guests that only answer can be reached: what is sent to them before is lost.
async fn answering(switch: &Rc<RefCell<Switch>>, guests: &[switch_config::Guest]) {
    let deadline = Instant::now() + GUESTS_START;
    let sockets: Vec<_> = guests.iter().filter(|guest| !sends(guest)).map(|guest| &guest.socket).collect();
    while !switch.borrow().are_up(&sockets) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads the file again and puts it into force.
async fn reload(switch: &Rc<RefCell<Switch>>) -> anyhow::Result<Vec<String>> {
    let path = switch.borrow().path.clone();
    let context = switch_config::this_machine().after(&switch.borrow().config);
    let new = switch_config::load(&path, &context)?;
    reconfigure(switch, new).await
}

/// What is wrong with the keys of a port or partition to be added: they stand in no file, so places in one say nothing.
fn port_errors(errors: &switch_config::ConfigErrors) -> String {
    let say = |error: &switch_config::ConfigError| {
        let key = error.path.rsplit_once("].").map_or(error.path.as_str(), |(_, key)| key);
        let allowed = error.allowed.as_ref().map(|allowed| format!(" (allowed: {allowed})"));
        format!("{key}: {}{}", error.what, allowed.unwrap_or_default())
    };
    errors.all().iter().map(say).collect::<Vec<_>>().join("\n")
}

fn no_partition(name: &str) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no partition {name}"))
}

struct Handler {
    switch: Rc<RefCell<Switch>>,
    giver: Giver,
    /// Where a hand-over that has succeeded is told.
    hands: UnboundedSender<Handed>,
}

impl control::Handler for Handler {
    async fn handle(&self, request: Request) -> Result<Answer, Refusal> {
        let this = || self.switch.borrow();
        Ok(match request {
            Request::Status => Answer::Status(this().status()),
            Request::ShowPorts => Answer::Ports(this().port_rows()),
            Request::ShowHardware => {
                let rows = this().hardware_rows();
                let failed = |error: anyhow::Error| Refusal::new(RefusalKind::Failed, format!("{error:#}"));
                Answer::Hardware(rows.map_err(failed)?)
            }
            Request::ShowFlows { bridge, table } => {
                let bridge = bridge.map(|name| self.bridge(Some(&name))).transpose()?;
                Answer::Flows(this().flow_rows(bridge, table))
            }
            Request::ShowFdb { bridge } => {
                let bridge = bridge.map(|name| self.bridge(Some(&name))).transpose()?;
                Answer::Fdb(this().fdb_rows(bridge))
            }
            Request::ShowWorkers => Answer::Workers(this().worker_rows()),
            Request::ShowCaches => Answer::Caches(this().cache_rows()),
            Request::ShowPartitions => Answer::Partitions(this().partition_rows()),
            Request::ShowConfig => {
                let path = Some(this().path.clone());
                Answer::Config(ConfigText { path, text: switch_config::print(&this().config) })
            }
            Request::ShowController => Answer::Controller(this().punt_rows()),
            Request::Snapshot => Answer::Snapshot(this().snapshot()),
            Request::FlowAdd { bridge, flow } => {
                let spec = self.parse(&flow, |text, ports| flow_text::parse_add(text, ports))?;
                self.change(bridge, FlowMod::Add(spec))?
            }
            Request::FlowMod { bridge, flow, strict } => {
                let change = self.parse(&flow, |text, ports| flow_text::parse_mod(text, ports))?;
                self.change(bridge, FlowMod::Modify { change, strict })?
            }
            Request::FlowDel { bridge, flow, strict } => {
                let filter = self.parse(&flow, |text, ports| flow_text::parse_del(text, ports))?;
                self.change(bridge, FlowMod::Delete { filter, strict })?
            }
            Request::PortAdd { port } => {
                let text = format!("{}\n[[port]]\n{port}\n", switch_config::print(&this().config));
                let context = switch_config::this_machine().after(&this().config);
                let new = switch_config::parse(&text, &context)
                    .map_err(|errors| Refusal::new(RefusalKind::Invalid, port_errors(&errors)))?;
                self.reconfigure(new).await?
            }
            Request::PortDel { name } => {
                let mut new = this().config.clone();
                let before = new.ports.len();
                new.ports.retain(|port| port.name.as_str() != name);
                if new.ports.len() == before {
                    return Err(Refusal::new(RefusalKind::NotFound, format!("there is no port {name}")));
                }
                let names = |partition: &&switch_config::Partition| {
                    let owner = partition.owner_port.as_ref().is_some_and(|port| port.as_str() == name);
                    owner || partition.port.as_str() == name
                };
                if let Some(partition) = new.partitions.iter().find(names) {
                    let what = format!("partition {} names port {name}: remove it first", partition.name);
                    return Err(Refusal::new(RefusalKind::Invalid, what));
                }
                if let Some(flow) = new.flows.iter().find(|flow| {
                    flow_text::parse_add(&flow.text, &switch_config::PortNumbers(&new.ports)).is_err()
                }) {
                    let what =
                        format!("the flow `{}` of the file names port {name}: remove it first", flow.text);
                    return Err(Refusal::new(RefusalKind::Invalid, what));
                }
                self.reconfigure(new).await?
            }
            Request::PartitionAdd { partition, before } => {
                let place = before.as_deref().map_or(PartitionPlace::BeforeDefault, PartitionPlace::Before);
                let new = self.with_partition(&partition, place)?;
                self.reconfigure(new).await?
            }
            Request::PartitionMod { partition } => {
                let new = self.with_partition(&partition, PartitionPlace::Same)?;
                self.reconfigure(new).await?
            }
            Request::PartitionDel { name } => {
                let mut new = this().config.clone();
                new.partitions.retain(|partition| partition.name.as_str() != name);
                if new.partitions.len() == this().config.partitions.len() {
                    return Err(no_partition(&name));
                }
                let new = self.read_again(&switch_config::print(&new))?;
                self.reconfigure(new).await?
            }
            Request::Reload => match reload(&self.switch).await {
                Ok(done) => Answer::Changed(done),
                Err(error) => return Err(Refusal::new(RefusalKind::Invalid, format!("{error:#}"))),
            },
            Request::Stages { on } => {
                this().plane.borrow().time_stages(on);
                Answer::Changed(vec![format!("stages are {}timed", if on { "" } else { "not " })])
            }
            Request::TakeOver { oldest, newest } => {
                Answer::HandOver { version: self.giver.accept(oldest, newest)? }
            }
        })
    }

    async fn hand_over(&self, stream: UnixStream) {
        if let Some(handed) = self.giver.give(stream).await {
            // Nobody listens only when the switch ends anyway.
            let _ = self.hands.send(handed);
        }
    }
}

impl Handler {
    /// The bridge of this name, or the only one.
    fn bridge(&self, name: Option<&str>) -> Result<usize, Refusal> {
        let this = self.switch.borrow();
        let names: Vec<&str> = this.bridges.iter().map(|b| b.config.name.as_str()).collect();
        match name {
            Some(name) => names.iter().position(|n| *n == name).ok_or_else(|| {
                Refusal::new(
                    RefusalKind::NotFound,
                    format!("there is no bridge {name}; there are: {}", names.join(", ")),
                )
            }),
            None if names.len() == 1 => Ok(0),
            None => {
                let what = format!("which bridge? there are: {}", names.join(", "));
                Err(Refusal::new(RefusalKind::Invalid, what))
            }
        }
    }

    fn parse<T>(
        &self,
        text: &str,
        parser: impl FnOnce(&str, &dyn flow_text::Ports) -> Result<T, flow_text::ParseError>,
    ) -> Result<T, Refusal> {
        let this = self.switch.borrow();
        let names = switch_config::PortNumbers(&this.config.ports);
        parser(text, &names).map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))
    }

    fn change(&self, bridge: Option<String>, change: FlowMod) -> Result<Answer, Refusal> {
        let bridge = self.bridge(bridge.as_deref())?;
        if self.switch.borrow().is_handed_over {
            let what = "the switch is being taken over by another process: try again";
            return Err(Refusal::new(RefusalKind::Failed, what));
        }
        let applied = self.switch.borrow_mut().change_rules(bridge, change);
        let applied = applied.map_err(|error| Refusal::new(RefusalKind::Invalid, error.error.to_string()))?;
        Ok(Answer::Changed(vec![format!(
            "{} added, {} modified, {} removed",
            applied.added, applied.modified, applied.removed
        )]))
    }

    /// The configuration in force with a partition more, or another one.
    fn with_partition(&self, keys: &str, place: PartitionPlace<'_>) -> Result<Config, Refusal> {
        let text = switch_config::print_with_partition(&self.switch.borrow().config, keys, place);
        self.read_again(&text.ok_or_else(|| match place {
            PartitionPlace::Before(name) => no_partition(name),
            _ => no_partition("of this name"),
        })?)
    }

    fn read_again(&self, text: &str) -> Result<Config, Refusal> {
        let context = switch_config::this_machine().after(&self.switch.borrow().config);
        switch_config::parse(text, &context)
            .map_err(|errors| Refusal::new(RefusalKind::Invalid, port_errors(&errors)))
    }

    async fn reconfigure(&self, new: Config) -> Result<Answer, Refusal> {
        let done = reconfigure(&self.switch, new).await;
        done.map(Answer::Changed).map_err(|error| Refusal::new(RefusalKind::Failed, format!("{error:#}")))
    }
}
