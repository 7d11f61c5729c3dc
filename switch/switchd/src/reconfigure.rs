//! From one configuration to another while the switch runs: all of it, or nothing.
//!
//! What can fail is done first, aside: rules are tried on tables of nobody's, ports are opened without moving a
//! frame. Only a port that needs the socket or device of one that goes has to wait until that one is gone; if it
//! can't be opened then, its predecessor is put back.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use pipeline::{FlowMod, Tables};
use port::PortId;
use switch_config::{Change, Config, Driver, Port, PortName};
use worker::Sorted;

use crate::bridges::{file_rules, now};
use crate::dataplane::Dataplane;
use crate::dpaa2::Hardware;
use crate::ports::OpenPort;
use crate::switch::Switch;

/// How long hardware sorts by a new table before workers rely on it.
const SETTLING: Duration = Duration::from_millis(100);

/// Puts another configuration into force, touching only what differs. Returns what was changed, a line each.
///
/// # Errors
/// It can't be done while the switch runs, a rule isn't taken or a port can't be opened: the switch goes on as
/// before. If a port's predecessor can't be put back, the error says that too.
pub(crate) async fn reconfigure(switch: &Rc<RefCell<Switch>>, new: Config) -> anyhow::Result<Vec<String>> {
    let changing = switch.borrow().changing.clone();
    let _turn = changing.lock().await;
    let plane = switch.borrow().plane.clone();
    let old = switch.borrow().config.clone();
    let diff = switch_config::diff(&old, &new);
    if !diff.refused.is_empty() {
        let refused: Vec<String> = diff.refused.iter().map(ToString::to_string).collect();
        anyhow::bail!("nothing was changed: {}", refused.join("; "));
    }
    let plan = Plan::of(&diff.changes, &old, &new);
    try_rules(&old, &new).context("nothing was changed")?;
    let hardware = switch.borrow().hardware.clone();
    let mut opened = open_all(&plan.early, &new, &hardware).context("nothing was changed")?;

    for name in &plan.guests_gone {
        let guest = switch.borrow_mut().guests.take(name);
        if let Some(guest) = guest {
            // It ends on a thread of its own, while this one goes on serving its connection.
            tokio::task::spawn_blocking(move || guest.end()).await?;
        }
    }
    stop_all(switch, &plane, &plan.gone).await;
    match open_all(&plan.late, &new, &hardware) {
        Ok(late) => opened.extend(late),
        Err(error) => {
            drop(opened);
            return Err(put_back(switch, &old, &plan, error));
        }
    }

    let (following, others): (Vec<_>, Vec<_>) =
        plan.divided.iter().partition(|name| switch.borrow().can_follow(name, &new));
    {
        let mut this = switch.borrow_mut();
        for name in &others {
            this.divisions.set_sorted(name, Sorted::BySoftware);
        }
        put_into_force(&mut this, &old, &new, &plan, opened)?;
        for name in following {
            follow(&mut this, name);
        }
    }
    sort_in_hardware(switch, &others).await;
    Ok(diff.changes.iter().map(ToString::to_string).collect())
}

/// Has the hardware of a port go over to the table that is in force in workers, entry by entry. It sorts all the while:
/// what lies in its queues goes to whom the table said that it is for when it came, and owners that aren't concerned don't
/// notice.
fn follow(switch: &mut Switch, name: &PortName) {
    if let Err(error) = switch.sort(name) {
        tracing::warn!(port = %name, "its partitions are sorted in software: {error:#}");
        switch.sorted(name, Sorted::BySoftware);
    }
}

/// Has the hardware of these ports sort by the table that is in force in workers, and then leave it to that. Workers sort
/// meanwhile: hardware has no order of going over to another key.
async fn sort_in_hardware(switch: &Rc<RefCell<Switch>>, ports: &[&PortName]) {
    let mut sorting = vec![];
    for name in ports {
        match switch.borrow().sort(name) {
            Ok(()) => sorting.push(name),
            Err(error) => tracing::warn!(port = %name, "its partitions are sorted in software: {error:#}"),
        }
    }
    if sorting.is_empty() {
        return;
    }
    // What was sorted by the old table, or while entries changed, is out of the queues by then.
    tokio::time::sleep(SETTLING).await;
    for name in sorting {
        switch.borrow_mut().sorted(name, Sorted::ByHardware);
    }
}

/// The part that doesn't wait for anything.
fn put_into_force(
    this: &mut Switch,
    old: &Config,
    new: &Config,
    plan: &Plan,
    opened: Vec<OpenPort>,
) -> anyhow::Result<()> {
    this.set_bridges(new);
    this.set_rules(new)?;
    for port in &plan.changed {
        this.change_port(port, old);
    }
    this.config = new.clone();
    for port in new.ports.iter().filter(|port| this.ports.contains_key(&PortId(port.number.get()))) {
        this.register(port, new);
    }
    // Bridges come before ports: a port that runs may have frames at once.
    this.publish();
    for port in opened {
        this.run_port(port, new);
    }
    this.publish();
    this.guests.start(&plan.guests_new, |_| true).context("guests")
}

/// Changes of ports and guests, by what has to be done.
#[derive(Default)]
struct Plan {
    /// Ports that stop.
    gone: Vec<Port>,
    /// Ports to open while everything still runs.
    early: Vec<Port>,
    /// Ports that need what one of `gone` has.
    late: Vec<Port>,
    /// Ports that change as they run.
    changed: Vec<Port>,
    /// Ports on hardware that run on with another table of partitions.
    divided: Vec<PortName>,
    guests_gone: Vec<String>,
    guests_new: Vec<switch_config::Guest>,
}

impl Plan {
    fn of(changes: &[Change], old: &Config, new: &Config) -> Plan {
        let mut plan = Plan::default();
        let mut come = vec![];
        for change in changes {
            match change {
                Change::PortRemoved(name) => plan.gone.extend(old.port(name).cloned()),
                Change::PortReplaced { port, .. } => {
                    plan.gone.extend(old.port(&port.name).cloned());
                    come.push(port.clone());
                }
                Change::PortAdded(port) => come.push(port.clone()),
                Change::PortChanged { port, .. } => plan.changed.push(port.clone()),
                Change::GuestRemoved(name) => plan.guests_gone.push(name.as_str().to_owned()),
                Change::GuestAdded(guest) => plan.guests_new.push(guest.clone()),
                // Partitions take effect with what is published.
                Change::PartitionRemoved(_)
                | Change::PartitionChanged { .. }
                | Change::PartitionAdded(_)
                | Change::FlowRemoved(_)
                | Change::FlowAdded(_)
                | Change::BridgeRemoved(_)
                | Change::BridgeChanged { .. }
                | Change::BridgeAdded(_) => {}
            }
        }
        let waits = |port: &Port| plan.gone.iter().any(|gone| shares_resource(gone, port));
        let runs_on = |port: &&Port| {
            let stays = old.port(&port.name).is_some() && !come.iter().any(|other| other.name == port.name);
            stays && matches!(port.driver, Driver::Dpaa2(_))
        };
        let differs = |port: &&Port| !old.partitions_of(&port.name).eq(new.partitions_of(&port.name));
        let divided = new.ports.iter().filter(runs_on).filter(differs);
        plan.divided = divided.map(|port| port.name.clone()).collect();
        (plan.late, plan.early) = come.into_iter().partition(waits);
        plan
    }
}

/// Whether both need the same socket, device or file.
fn shares_resource(a: &Port, b: &Port) -> bool {
    match (&a.driver, &b.driver) {
        (Driver::VhostUser(a), Driver::VhostUser(b)) => a.socket == b.socket,
        (Driver::Tap(a), Driver::Tap(b)) => a.device == b.device && a.netns == b.netns,
        (Driver::Dpaa2(a), Driver::Dpaa2(b)) => a.dpni == b.dpni,
        (Driver::Pcap(a), Driver::Pcap(b)) => a.write.is_some() && a.write == b.write,
        _ => false,
    }
}

/// Tries whether tables take the new rules.
fn try_rules(old: &Config, new: &Config) -> anyhow::Result<()> {
    for bridge in &new.bridges {
        let rules = file_rules(new, bridge);
        if old.bridges.contains(bridge) && rules == file_rules(old, bridge) {
            continue;
        }
        let changes: Vec<FlowMod> = rules.into_iter().map(FlowMod::Add).collect();
        let tried = Tables::new(1).apply(&changes, now());
        tried.with_context(|| format!("rules of bridge {}", bridge.name))?;
    }
    Ok(())
}

fn open_all(ports: &[Port], file: &Config, hardware: &Hardware) -> anyhow::Result<Vec<OpenPort>> {
    ports.iter().map(|port| OpenPort::open(port, file, hardware)).collect()
}

async fn stop_all(switch: &Rc<RefCell<Switch>>, plane: &Rc<RefCell<Dataplane>>, ports: &[Port]) {
    for port in ports {
        let id = PortId(port.number.get());
        let running = switch.borrow_mut().ports.remove(&id);
        if let Some(running) = running {
            running.stop(plane).await;
        }
        switch.borrow().bridges.iter().for_each(|bridge| {
            bridge.fdb.flush(id);
        });
    }
}

/// Puts back the ports that were stopped for successors that can't be opened.
fn put_back(
    switch: &Rc<RefCell<Switch>>,
    old: &Config,
    plan: &Plan,
    mut error: anyhow::Error,
) -> anyhow::Error {
    let mut this = switch.borrow_mut();
    let mut whole = true;
    for port in &plan.gone {
        let opened = OpenPort::open(port, old, &this.hardware);
        match opened {
            Ok(port) => this.run_port(port, old),
            Err(lost) => {
                whole = false;
                error = error.context(format!("and it can't be put back: {lost:#}"));
            }
        }
    }
    let gone =
        old.guests.iter().filter(|guest| plan.guests_gone.iter().any(|name| guest.name.as_str() == name));
    if let Err(lost) = this.guests.start(&gone.cloned().collect::<Vec<_>>(), |_| true) {
        whole = false;
        error = error.context(format!("and its guests can't be put back: {lost}"));
    }
    this.publish();
    error.context(if whole { "nothing was changed" } else { "the switch goes on with what is left" })
}
