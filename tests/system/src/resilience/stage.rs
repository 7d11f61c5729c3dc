//! A switch on which something is done to one port before the eyes of two others.

use anyhow::{Context as _, Result, bail, ensure};
use guest_host::{GenerateRole, GuestConfig, Rate, Role, SocketMode};
use lab::hostile::Hostile;
use lab::switch::{Plan, PortKind, Ringway, Switch as _};
use lab::{Felt, Footprint, PlayedGuest, Traffic, TrafficOptions, wait_until};
use serde_json::Value;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;
use vhost_user::{Frontend, ProtocolFeatures};

use crate::Context;
use crate::command_line::balance;

/// The port to which things are done.
pub(super) const TENANT: &str = "vm2";
/// Ethernet address of the good guest on it.
const TENANT_MAC: [u8; 6] = [0x02, 0x52, 0x57, 0xfe, 0, 1];
/// Frames that a good guest must have answered to count as connected again.
const GREETINGS: u64 = 2;
/// For descriptors to be closed and memory to be unmapped after a connection has ended.
const TIDY_LIMIT: Duration = Duration::from_secs(2);
/// Without a change in this time the switch is at rest.
const REST_TIME: Duration = Duration::from_millis(100);

/// The switch: `vm0` and `vm1` talk to each other, `vm2` and `vm3` are joined. `vm2` is the [`TENANT`]'s.
pub(super) struct Stage {
    pub switch: Ringway,
    pub plan: Plan,
    audience: Traffic,
    speaker: Option<PlayedGuest>,
    calm: Footprint,
}

impl Stage {
    /// Starts the switch, the two in conversation, and a guest on `vm3` that talks to whoever is the tenant.
    pub fn set(context: &Context, listens: bool) -> Result<Self> {
        let mut stage =
            Self::set_for_two(context, |plan| plan.ports[2].kind = PortKind::VhostUser { listens })?;
        // So slowly that a good guest finds a quiet moment to leave in.
        let rate = Rate::Pps(NonZeroU64::new(50).expect("not zero"));
        let role = Role::Generate(GenerateRole { to: TENANT_MAC, rate, ..GenerateRole::default() });
        let socket = stage.plan.socket(3);
        stage.speaker =
            Some(PlayedGuest::start(GuestConfig::new("speaker", socket, SocketMode::Client, role)));
        stage.switch.wait_for_port("vm3", "up", is_up)?;
        stage.calm = settled(&stage.switch)?;
        Ok(stage)
    }

    /// Starts the switch and the two in conversation; `vm2` and `vm3` are free, and as `shape` makes them.
    pub fn set_for_two(context: &Context, shape: impl FnOnce(&mut Plan)) -> Result<Self> {
        let mut plan = Plan::with_guests(&context.dir, 4).join_first_two();
        plan.flows
            .extend(["in_port=vm2,actions=output:vm3", "in_port=vm3,actions=output:vm2"].map(String::from));
        shape(&mut plan);
        let switch = Ringway::start(&plan)?;
        let reflector_is_there = || switch.wait_for_port("vm1", "up", is_up).map(drop);
        let options = TrafficOptions::default();
        let audience = Traffic::start(&plan.socket(0), &plan.socket(1), options, reflector_is_there)?;
        switch.wait_for_port("vm0", "under traffic", |row| number(row, "rx_frames") > 1000)?;
        let calm = settled(&switch)?;
        Ok(Self { switch, plan, audience, speaker: None, calm })
    }

    /// Socket of the port to which things are done.
    pub fn socket(&self) -> PathBuf {
        self.plan.socket(2)
    }

    /// The row of `show ports` of that port.
    pub fn tenant(&self) -> Result<Value> {
        self.switch.port(TENANT)
    }

    /// Waits until nothing is left of what a connection brought: descriptors and mappings are those before it.
    pub fn wait_until_tidy(&self) -> Result<()> {
        let tidy = wait_until("all descriptors and mappings freed", TIDY_LIMIT, || {
            Ok((Footprint::of(self.switch.pid())? == self.calm).then_some(()))
        });
        tidy.with_context(|| {
            Footprint::of(self.switch.pid()).map_or_else(|e| e.to_string(), |now| now.difference(&self.calm))
        })
    }

    /// What the switch holds beyond what it held before the tenant came: descriptors, mapped memory files.
    pub fn held(&self) -> Result<(usize, usize)> {
        let now = Footprint::of(self.switch.pid())?;
        let more = |of: fn(&Footprint) -> usize| of(&now).saturating_sub(of(&self.calm));
        Ok((more(Footprint::descriptors), more(Footprint::mappings)))
    }

    /// A guest that keeps the rules connects to the port, answers some frames and leaves.
    pub fn greet(&self, options: TrafficOptions) -> Result<()> {
        let before = self.tenant()?;
        let guest = PlayedGuest::start(GuestConfig {
            mac: TENANT_MAC,
            packed: options.packed,
            mode: if options.server { SocketMode::Server } else { SocketMode::Client },
            ..GuestConfig::new("good", self.socket(), SocketMode::Client, Role::Reflect)
        });
        let answered = |key| move |row: &Value| number(row, key) >= number(&before, key) + GREETINGS;
        let (heard, said) = (answered.clone()("tx_frames"), answered("rx_frames"));
        self.switch
            .wait_for_port(TENANT, "a good guest answers", |row| is_up(row) && heard(row) && said(row))?;
        let report = guest.finish()?;
        ensure!(report.ring_faults == 0 && report.connections == 1, "the good guest: {report:?}");
        self.switch.wait_for_port(TENANT, "the good guest has left", is_waiting)?;
        self.wait_until_tidy()
    }

    /// Ends everything, and checks that the audience has lost nothing and the switch's counters add up.
    pub fn finish(self) -> Result<Felt> {
        let felt = self.audience.finish()?;
        self.speaker.map_or(Ok(()), |speaker| speaker.finish().map(drop))?;
        let summary = self.switch.finish()?;
        balance(&summary, 0)?;
        ensure!(felt.lost == 0 && felt.duplicated == 0, "the others felt it: {felt:?}");
        Ok(felt)
    }
}

/// What the switch holds when nothing changes any more: a guest that has just come up may bring another ring, and a
/// connection to the control socket may be about to be closed.
fn settled(switch: &Ringway) -> Result<Footprint> {
    let mut last = Footprint::of(switch.pid())?;
    wait_until("a switch at rest", TIDY_LIMIT, || {
        std::thread::sleep(REST_TIME);
        let before = std::mem::replace(&mut last, Footprint::of(switch.pid())?);
        Ok((before == last).then_some(before))
    })
}

/// What is done, and what must come of it.
pub(super) struct Case {
    name: &'static str,
    layouts: &'static [bool],
    protocol: ProtocolFeatures,
    without: u64,
    attack: fn(&mut Hostile) -> Result<()>,
    outcome: Outcome,
}

/// What must come of a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// The switch ends the connection; the reason contains this.
    Stops(&'static str),
    /// The connection stays, no ring runs; the reason contains this.
    Rests(&'static str),
    /// A request is refused, the port runs on; the reason contains this.
    Refuses(&'static str),
    /// A frame is dropped for this reason, the port runs on.
    Drops(&'static str),
    /// A frame passes.
    Passes,
    /// It costs the switch no more descriptors and mappings than these, and no more than that.
    Costs(usize, usize),
    /// Whatever it is, it is over when the guest has gone.
    Ends,
}

impl Case {
    /// With split rings, then with packed ones; no protocol features beside MQ, so that no request has an
    /// acknowledgement and a refusal ends the connection.
    pub const fn new(name: &'static str, attack: fn(&mut Hostile) -> Result<()>, outcome: Outcome) -> Self {
        Self { name, layouts: &[false, true], protocol: ProtocolFeatures::MQ, without: 0, attack, outcome }
    }

    /// Makes sense for split rings only.
    pub const fn split(mut self) -> Self {
        self.layouts = &[false];
        self
    }

    /// Makes sense for packed rings only.
    pub const fn packed(mut self) -> Self {
        self.layouts = &[true];
        self
    }

    /// With this protocol feature.
    pub const fn with(mut self, feature: ProtocolFeatures) -> Self {
        self.protocol = self.protocol.or(feature);
        self
    }

    /// Without these virtio features.
    pub const fn without(mut self, features: u64) -> Self {
        self.without = features;
        self
    }
}

/// Plays the cases one after another on one switch.
pub(super) fn play(context: &Context, cases: &[Case]) -> Result<()> {
    let stage = Stage::set(context, true)?;
    let mut count = 0;
    for case in cases {
        for &packed in case.layouts {
            let layout = if packed { "packed" } else { "split" };
            play_one(&stage, case, packed).with_context(|| format!("case {}, {layout}", case.name))?;
            count += 1;
        }
    }
    let felt = stage.finish()?;
    context.note(format!("{} cases, {count} with both ring layouts; each left nothing behind", cases.len()));
    note_felt(context, &felt);
    Ok(())
}

fn play_one(stage: &Stage, case: &Case, packed: bool) -> Result<()> {
    let before = stage.tenant()?;
    let mut hostile = Hostile::new(Frontend::connect(stage.socket())?, packed, case.protocol, case.without)?;
    (case.attack)(&mut hostile)?;
    let wait = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        stage.switch.wait_for_port(TENANT, what, wanted).map(drop)
    };
    let reason_has = |row: &Value, text: &str| row["reason"].as_str().is_some_and(|it| it.contains(text));
    match case.outcome {
        Outcome::Stops(reason) => {
            wait("stopped", &|row| is_waiting(row) && reason_has(row, reason))?;
            stage.wait_until_tidy()?;
        }
        Outcome::Rests(reason) => wait("at rest", &|row| is_waiting(row) && reason_has(row, reason))?,
        Outcome::Refuses(reason) => wait("refused", &|row| is_up(row) && reason_has(row, reason))?,
        Outcome::Drops(reason) => {
            let dropped = |row: &Value| row["drops"][reason].as_u64().unwrap_or(0);
            wait("dropped", &|row| is_up(row) && dropped(row) > dropped(&before))?;
        }
        Outcome::Passes => {
            wait("passed", &|row| is_up(row) && number(row, "rx_frames") > number(&before, "rx_frames"))?;
        }
        Outcome::Costs(descriptors, mappings) => {
            let held = stage.held()?;
            if held.0 > descriptors || held.1 > mappings {
                bail!("{} descriptors and {} mappings are held: too many", held.0, held.1);
            }
        }
        Outcome::Ends => {}
    }
    drop(hostile);
    stage.switch.wait_for_port(TENANT, "left alone", is_waiting)?;
    stage.wait_until_tidy()?;
    stage.greet(TrafficOptions { packed, ..TrafficOptions::default() })
}

/// Notes what the audience noticed.
pub(super) fn note_felt(context: &Context, felt: &Felt) {
    context.note(format!(
        "the others: {} of {} frames lost, longest round trip {:.1} ms (median {:.2} ms)",
        felt.lost, felt.sent, felt.longest_ms, felt.median_ms
    ));
}

/// Whether frames can pass a port, by its row.
pub(super) fn is_up(row: &Value) -> bool {
    row["state"] == "up"
}

/// Whether nobody is at a port's other end.
pub(super) fn is_waiting(row: &Value) -> bool {
    row["state"] == "waiting"
}

/// A counter of a row.
pub(super) fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or(0)
}
