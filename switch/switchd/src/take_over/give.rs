//! The old process' part.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use anyhow::Context;
use control::handover::{Note, NoteKind};
use control::{Refusal, RefusalKind};
use port::{DropReason, PortId};
use switch_state::{Address, Bridge, Credit, Driver, Metrics, Port, Rule, SessionMode, Stage, State};
use tap_port::TapHandle;
use tokio::net::UnixStream;
use vhost_user_port::PortControl;

use super::{COUNTERS, HELD_LIMIT, PREPARE_LIMIT, now_ns};
use crate::bridges::file_rules;
use crate::hurry::Hurry;
use crate::ports::RunningDriver;
use crate::switch::Switch;

/// A switch that is a successor's now. To be dropped when nothing is in use here any more: the successor waits for
/// that to open the ports that it doesn't go on with.
pub(crate) struct Handed {
    /// Names of the ports that it goes on with.
    pub kept: Vec<String>,
    _stream: UnixStream,
    _turn: Turn,
}

/// Hands the switch over, to one process at a time.
pub(crate) struct Giver {
    switch: Rc<RefCell<Switch>>,
}

/// Nothing changes while the switch is being handed over; dropped when that has failed.
struct Turn {
    switch: Rc<RefCell<Switch>>,
    _changing: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.switch.borrow_mut().is_handed_over = false;
    }
}

impl Giver {
    pub fn new(switch: Rc<RefCell<Switch>>) -> Giver {
        Giver { switch }
    }

    /// Whether a process that reads states of these versions can have the switch.
    ///
    /// # Errors
    /// It can't, or another one is about to have it, or it is being changed.
    pub fn accept(&self, oldest: u32, newest: u32) -> Result<u32, Refusal> {
        let written = switch_state::VERSION;
        if !(oldest..=newest).contains(&written) {
            let what = format!(
                "this switch hands over states of version {written}; the new process reads {oldest} to {newest}: \
                 take releases in between, or restart"
            );
            tracing::warn!("take-over refused: {what}");
            return Err(Refusal::new(RefusalKind::Version, what));
        }
        if self.switch.borrow().is_handed_over {
            return Err(Refusal::new(RefusalKind::Failed, "another process is taking the switch over"));
        }
        Ok(written)
    }

    /// Hands the switch over to the process at the other end. `None` when that has failed: the switch goes on, and
    /// both processes have been told why.
    pub async fn give(&self, mut stream: UnixStream) -> Option<Handed> {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or(0);
        tracing::info!(pid, "a process takes this switch over");
        match self.hand_over(&mut stream).await {
            Ok((kept, turn)) => {
                tracing::info!(pid, ports = kept.len(), "the switch was taken over");
                Some(Handed { kept, _stream: stream, _turn: turn })
            }
            Err(error) => {
                tracing::error!(pid, "the take-over failed, this process goes on: {error:#}");
                let note = Note::new(NoteKind::Failed, format!("{error:#}"));
                // A successor that has gone needs no answer.
                let _ = tokio::time::timeout(HELD_LIMIT, note.send(&mut stream)).await;
                None
            }
        }
    }

    async fn hand_over(&self, stream: &mut UnixStream) -> anyhow::Result<(Vec<String>, Turn)> {
        let changing = self.switch.borrow().changing.clone();
        let changing = changing.try_lock_owned().ok().context("the configuration is being changed")?;
        self.switch.borrow_mut().is_handed_over = true;
        let turn = Turn { switch: self.switch.clone(), _changing: changing };

        let (generations, state, fds) = self.describe(None).await?;
        Note::with_state(NoteKind::State, &state.to_bytes(), fds)?.send(stream).await?;
        expect(stream, NoteKind::Ready, PREPARE_LIMIT).await?;

        let plane = self.switch.borrow().plane.clone();
        let _hurry = Hurry::start();
        let since_ns = now_ns();
        plane.borrow_mut().hold();
        match self.hand_over_held(stream, since_ns, generations).await {
            Ok(kept) => Ok((kept, turn)),
            Err(error) => {
                for (_, control) in self.sessions() {
                    control.resume();
                    control.settle().await;
                }
                plane.borrow_mut().release();
                let paused_ms = now_ns().saturating_sub(since_ns) / 1_000_000;
                Err(error.context(format!("frames rested for {paused_ms} ms")))
            }
        }
    }

    async fn hand_over_held(
        &self,
        stream: &mut UnixStream,
        since_ns: u64,
        generations: Vec<u64>,
    ) -> anyhow::Result<Vec<String>> {
        let (_, state, fds) = self.describe(Some((since_ns, generations))).await?;
        Note::with_state(NoteKind::Held, &state.to_bytes(), fds)?.send(stream).await?;
        let accepted = expect(stream, NoteKind::Accept, HELD_LIMIT).await?;
        let kept = accepted.text.lines().map(str::to_owned).collect();
        Note::new(NoteKind::Yours, "").send(stream).await.context("the new process is gone")?;
        Ok(kept)
    }

    fn sessions(&self) -> Vec<(PortId, PortControl)> {
        let sessions = |(&id, port): (&PortId, &crate::ports::RunningPort)| match &port.driver {
            RunningDriver::VhostUser { control, .. } => Some((id, control.clone())),
            _ => None,
        };
        self.switch.borrow().ports.iter().filter_map(sessions).collect()
    }

    /// The switch as a value: while it runs, or held since a moment, with what the MAC tables' generations were
    /// before. Returns these, too.
    async fn describe(
        &self,
        held: Option<(u64, Vec<u64>)>,
    ) -> anyhow::Result<(Vec<u64>, State, Vec<OwnedFd>)> {
        let mut saved = BTreeMap::new();
        for (id, control) in self.sessions() {
            let exported = match held {
                None => control.export().await,
                Some(_) => control.suspend().await,
            };
            saved.insert(id, exported.with_context(|| self.name(id))?);
        }
        let this = self.switch.borrow();
        // Counters are exact whenever a worker has answered; one that is held has.
        if held.is_none() {
            this.plane.borrow().sync();
        }
        let mut fds = Vec::new();
        let mut ports = Vec::new();
        for (&id, port) in &this.ports {
            let driver = match (&port.driver, &port.config.driver) {
                (RunningDriver::VhostUser { .. }, switch_config::Driver::VhostUser(vhost)) => {
                    let (session, own) = saved
                        .remove(&id)
                        .with_context(|| format!("port {} has just come", port.config.name))?;
                    let first_fd = fds.len();
                    fds.extend(own);
                    Driver::VhostUser {
                        socket: vhost.socket.as_path().to_owned(),
                        mode: match vhost.mode {
                            switch_config::SocketMode::Server => SessionMode::Server,
                            switch_config::SocketMode::Client => SessionMode::Client,
                        },
                        saved: Box::new(session),
                        first_fd,
                        fds: fds.len() - first_fd,
                    }
                }
                (RunningDriver::Tap(handle), switch_config::Driver::Tap(tap)) if held.is_none() => {
                    tap_driver(handle, tap, &mut fds)?
                }
                _ => Driver::Other,
            };
            let (counters, drops) = counters_of(&this, id);
            ports.push(Port {
                name: port.config.name.as_str().to_owned(),
                number: id.0,
                counters,
                drops,
                driver,
            });
        }
        let generations: Vec<u64> = this.bridges.iter().map(|bridge| bridge.fdb.generation()).collect();
        let before = held.as_ref().map(|(_, generations)| &generations[..]);
        let bridges = (0..this.bridges.len()).map(|i| {
            let unchanged = before.is_some_and(|before| before.get(i) == generations.get(i));
            describe_bridge(&this, i, held.is_some(), !unchanged)
        });
        let bridges = bridges.collect();
        let mut listener = |fd: &OwnedFd| -> anyhow::Result<usize> {
            fds.push(fd.as_fd().try_clone_to_owned()?);
            Ok(fds.len() - 1)
        };
        let (control, metrics) = match held {
            Some(_) => (None, None),
            None => {
                let metrics = this.listeners.metrics.as_ref();
                let metrics = metrics.map(|(address, fd)| {
                    anyhow::Ok(Metrics { address: address.to_string(), fd: listener(fd)? })
                });
                let metrics = metrics.transpose()?;
                (this.listeners.control.as_ref().map(&mut listener).transpose()?, metrics)
            }
        };
        let state = State {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            stage: match held {
                None => Stage::Running,
                Some((since_ns, _)) => Stage::Held { since_ns },
            },
            bridges,
            ports,
            control,
            metrics,
        };
        Ok((generations, state, fds))
    }

    fn name(&self, id: PortId) -> String {
        let this = self.switch.borrow();
        this.ports.get(&id).map_or_else(|| id.to_string(), |port| format!("port {}", port.config.name))
    }
}

/// Waits for a note of this kind.
async fn expect(stream: &mut UnixStream, kind: NoteKind, limit: std::time::Duration) -> anyhow::Result<Note> {
    let note = tokio::time::timeout(limit, Note::receive(stream)).await;
    let note = note.map_err(|_| anyhow::anyhow!("the new process didn't answer within {limit:?}"))?;
    let note = note.context("the new process is gone")?;
    match note.kind {
        NoteKind::Failed => anyhow::bail!("the new process can't: {}", note.text),
        found if found != kind => anyhow::bail!("the new process says {found:?} instead of {kind:?}"),
        _ => Ok(note),
    }
}

fn tap_driver(
    handle: &TapHandle,
    tap: &switch_config::Tap,
    fds: &mut Vec<OwnedFd>,
) -> anyhow::Result<Driver> {
    let exported = handle.export()?;
    let mut add = |fd: OwnedFd| {
        fds.push(fd);
        fds.len() - 1
    };
    Ok(Driver::Tap {
        device: tap.device.as_str().to_owned(),
        netns: tap.netns.as_ref().map(|netns| netns.as_str().to_owned()),
        queues: exported.queues.into_iter().map(&mut add).collect(),
        socket: add(exported.socket),
        counters: exported.counters.map(&mut add),
    })
}

fn counters_of(this: &Switch, id: PortId) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let plane = this.plane.borrow();
    let all = plane.counters(id);
    let counters = COUNTERS.iter().map(|(name, counter)| {
        let n: u64 = all.iter().map(|c| counter(c).get()).sum();
        ((*name).to_owned(), n)
    });
    let drops = DropReason::ALL.iter().filter_map(|&reason| {
        let n: u64 = all.iter().map(|c| c.drops(reason)).sum();
        (n > 0).then(|| (reason.name().to_owned(), n))
    });
    (counters.collect(), drops.collect())
}

fn describe_bridge(this: &Switch, index: usize, held: bool, with_addresses: bool) -> Bridge {
    let bridge = &this.bridges[index];
    let names = switch_config::PortNumbers(&this.config.ports);
    let mut out = Bridge {
        name: bridge.config.name.as_str().to_owned(),
        addresses_follow: with_addresses,
        ..Bridge::default()
    };
    if with_addresses {
        let address = |e: bridging::FdbEntry| Address {
            vlan: e.vlan,
            mac: e.mac,
            port: e.port.0,
            seen_secs: e.seen_secs,
        };
        out.addresses = bridge.fdb.entries().into_iter().filter(|e| !e.is_static).map(address).collect();
    }
    let saved = bridge.tables.saved();
    if held {
        let credit =
            |c: pipeline::Credit| Credit { frames: c.frames, bytes: c.bytes, last_used_secs: c.last_used };
        out.credits = saved.into_iter().map(|(_, c)| credit(c)).collect();
    } else {
        let rule = |(rule, _): (pipeline::SavedRule, _)| Rule {
            flow: rule.spec.shown(&names).to_string(),
            created_ns: rule.created.as_nanos() as u64,
            modified_ns: rule.modified.as_nanos() as u64,
        };
        out.rules = saved.into_iter().map(rule).collect();
        let file = file_rules(&this.config, &bridge.config);
        out.file_rules = file.iter().map(|spec| spec.shown(&names).to_string()).collect();
    }
    out
}
