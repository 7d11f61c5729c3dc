//! A guest comes and goes a hundred times: nothing is left behind, the others don't notice.

use anyhow::{Result, ensure};
use lab::hostile::Hostile;
use lab::switch::Switch as _;
use lab::{TrafficOptions, resident_bytes};
use std::os::unix::net::UnixListener;
use std::path::Path;
use vhost_user::{Frontend, ProtocolFeatures};

use super::stage::{Stage, TENANT, is_waiting, note_felt};
use crate::{Context, Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/reconnect-storm", &[Need::Ringway], |c| storm(c, true)),
    Scenario::new("resilience/reconnect-storm-switch-connects", &[Need::Ringway], |c| storm(c, false)),
];

/// Connections before memory is measured: the allocator keeps what it has had once.
const WARM_UP: u32 = 20;
const CONNECTIONS: u32 = 100;
/// Growth of resident memory that is no leak, in bytes: 100 connections of 2.6 KB each would show.
const GROWTH_MAX: u64 = 256 << 10;

fn storm(context: &Context, listens: bool) -> Result<()> {
    let stage = Stage::set(context, listens)?;
    let listener = if listens { None } else { Some(UnixListener::bind(stage.socket())?) };
    let pid = stage.switch.pid();
    let rounds =
        |count| (0..count).try_for_each(|round| come_and_go(&stage.socket(), listener.as_ref(), round));
    rounds(WARM_UP)?;
    stage.switch.wait_for_port(TENANT, "left alone", is_waiting)?;
    let before = resident_bytes(pid)?;
    rounds(CONNECTIONS)?;
    drop(listener);
    stage.switch.wait_for_port(TENANT, "left alone", is_waiting)?;
    stage.wait_until_tidy()?;
    let grown = resident_bytes(pid)?.saturating_sub(before);
    ensure!(grown <= GROWTH_MAX, "{grown} bytes more are resident after {CONNECTIONS} connections");
    stage.greet(TrafficOptions { server: !listens, ..TrafficOptions::default() })?;
    let felt = stage.finish()?;
    context.note(format!("{CONNECTIONS} connections, {} KiB of memory more", grown >> 10));
    note_felt(context, &felt);
    Ok(())
}

/// Connects, goes one of four ways up to running rings, and hangs up there.
fn come_and_go(socket: &Path, listener: Option<&UnixListener>, round: u32) -> Result<()> {
    let front = match listener {
        Some(listener) => Frontend::accept(listener)?,
        None => Frontend::connect(socket)?,
    };
    let protocol =
        ProtocolFeatures::MQ.or(ProtocolFeatures::INFLIGHT_SHMFD).or(ProtocolFeatures::BACKEND_REQ);
    let mut guest = Hostile::new(front, round.is_multiple_of(2), protocol, 0)?;
    match round / 2 % 4 {
        0 => guest.settle()?,
        1 => guest.show_memory()?,
        2 => guest.start()?,
        _ => {
            guest.start()?;
            drop((guest.front.inflight(2, 64)?, guest.front.open_channel()?));
        }
    }
    Ok(())
}
