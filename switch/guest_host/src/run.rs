//! The loop: connect, take turns, sleep, report.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use guest_memory::MapError;
use headers::{Arp, Ethernet, MacAddr, ethertype};
use virtio_defs::net::Header;
use virtqueue::driver::DriverError;

use crate::clock::{self, MILLISECOND, SECOND};
use crate::config::{GuestConfig, Role};
use crate::device::{Device, Totals};
use crate::generate::Generate;
use crate::host::Host;
use crate::link::Link;
use crate::reflect::Reflect;
use crate::report::{Progress, Report};
use crate::sink::Sink;

/// Turns without work before sleeping: a switch on the same processor gets it in between.
const IDLE_TURNS: u32 = 8;
/// Longest sleep, so that `stop` is seen.
const SLEEP_MAX: u64 = 20 * MILLISECOND;
/// How often a busy guest looks whether the switch is still there.
const ALIVE_EVERY: u64 = 10 * MILLISECOND;
/// First and longest wait before another attempt to connect.
const RETRY_MIN: u64 = 20 * MILLISECOND;
const RETRY_MAX: u64 = SECOND;
/// How often the guest's address is announced: well below any bridge's ageing time.
const ANNOUNCE_EVERY: u64 = 60 * SECOND;
/// Longest time from `stop` to the end.
const DRAIN_MAX: u64 = 2 * SECOND;

/// Why a guest can't run.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A value of the configuration is out of range.
    #[error("{0}")]
    Config(&'static str),
    /// The socket can't be made.
    #[error("can't listen at {}: {source}", path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Memory can't be had.
    #[error("guest memory: {0}")]
    Memory(#[from] MapError),
    /// The system refuses an event descriptor.
    #[error("event descriptor: {0}")]
    System(std::io::Error),
}

/// What a turn found.
#[derive(Debug, Default)]
pub struct Turn {
    /// Frames moved: take another turn at once.
    pub worked: bool,
    /// When there will be something to do even if no frame comes.
    pub wake_at: Option<u64>,
    /// Waits for room in a transmit ring.
    pub wants_room: bool,
    /// After `stop`: nothing is on its way any more.
    pub done: bool,
}

/// What a guest does with its device.
pub trait Actor {
    /// Does what there is to do now, a bounded amount.
    fn turn(&mut self, device: &mut Device, now: u64) -> Result<Turn, DriverError>;

    /// Begins nothing new from now on.
    fn stop(&mut self, now: u64);

    /// Adds its results.
    fn report(&self, report: &mut Report);
}

/// Runs a guest until `stop` is set or its duration is over, and tells how it went. Waits for the switch as long as
/// it takes. `progress` is called about once a second.
///
/// # Errors
/// The guest can't begin: its configuration, socket or memory.
pub fn run(
    config: &GuestConfig,
    stop: &AtomicBool,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, GuestError> {
    check(config)?;
    let started = clock::now();
    let mut guest = Guest {
        config,
        link: Link::new(config)?,
        device: None,
        actor: actor(config, started),
        retry_at: 0,
        retry_after: RETRY_MIN,
        alive_at: 0,
        announce_at: 0,
        idle_turns: 0,
        faults: 0,
        trouble: None,
        is_stopping: false,
    };
    let ends_at = config.duration.map(|d| started.saturating_add(d.as_nanos() as u64));
    let mut pace = Pace::new(started);
    let mut stopped_at = None;
    loop {
        let now = clock::now();
        if stopped_at.is_none() && (stop.load(Ordering::Relaxed) || ends_at.is_some_and(|end| now >= end)) {
            stopped_at = Some(now);
            guest.is_stopping = true;
            guest.actor.stop(now);
        }
        let done = guest.turn(now)?;
        if pace.is_due(now) {
            progress(&pace.progress(now, &guest));
        }
        let drained = |since: u64| done || guest.link.socket().is_none() || now > since + DRAIN_MAX;
        if stopped_at.is_some_and(drained) {
            break;
        }
    }
    let end = stopped_at.unwrap_or_else(clock::now);
    Ok(guest.report(end - started))
}

fn check(config: &GuestConfig) -> Result<(), GuestError> {
    let fail = |what| Err(GuestError::Config(what));
    if config.queue_pairs == 0 || config.queue_pairs > 128 {
        return fail("queue pairs: 1 to 128");
    }
    if !config.ring_size.is_power_of_two() || !(8..=32768).contains(&config.ring_size) {
        return fail("ring size: a power of two from 8 to 32768");
    }
    if config.mtu < 68 {
        return fail("MTU: 68 or more");
    }
    if let Role::Generate(role) = &config.role {
        if role.size < 60 || u32::from(role.size) > u32::from(config.mtu) + 14 {
            return fail("frame size: 60 to MTU + 14");
        }
        if !(1..=65536).contains(&role.flows) {
            return fail("flows: 1 to 65536");
        }
        if role.window == Some(0) {
            return fail("window: 1 or more");
        }
    }
    if let Role::Host(role) = &config.role {
        let bits = if role.address.is_ipv4() { 32 } else { 128 };
        if u32::from(role.prefix_len) > bits {
            return fail("prefix: at most as long as the address");
        }
        let least = if role.address.is_ipv4() { 576 } else { 1280 };
        if config.mtu < least {
            return fail("MTU of a host: 576 or more for IPv4, 1280 or more for IPv6");
        }
        let family = |address: &std::net::IpAddr| address.is_ipv4() == role.address.is_ipv4();
        let others = role.ping.iter().map(|p| &p.target).chain(&role.stream_to).chain(&role.gateway);
        if !others.into_iter().all(family) {
            return fail("addresses: all of the host's own family");
        }
    }
    Ok(())
}

fn actor(config: &GuestConfig, now: u64) -> Box<dyn Actor> {
    match &config.role {
        Role::Host(role) => Box::new(Host::new(config, role, now)),
        Role::Reflect => Box::new(Reflect::new(config.mac)),
        Role::Generate(role) => Box::new(Generate::new(config.mac, role, now)),
        Role::Sink => Box::new(Sink::new(config.mac)),
    }
}

struct Guest<'a> {
    config: &'a GuestConfig,
    link: Link,
    device: Option<Device>,
    actor: Box<dyn Actor>,
    retry_at: u64,
    retry_after: u64,
    alive_at: u64,
    announce_at: u64,
    idle_turns: u32,
    faults: u64,
    /// Why the switch isn't there.
    trouble: Option<String>,
    is_stopping: bool,
}

impl Guest<'_> {
    /// One turn of the loop, sleep included; true when a stopping actor is done.
    fn turn(&mut self, now: u64) -> Result<bool, GuestError> {
        let Some(device) = self.device.as_mut().filter(|_| self.link.socket().is_some()) else {
            self.connect(now);
            return Ok(false);
        };
        if now >= self.announce_at
            && device.send(0, &Header::default(), &announcement(self.config.mac)) == Ok(true)
        {
            self.announce_at = now + ANNOUNCE_EVERY;
        }
        let turn = self.actor.turn(device, now);
        device.flush();
        let turn = match turn {
            Ok(turn) => turn,
            Err(fault) => {
                // Nothing in these rings can be relied on: begin anew.
                self.faults += 1;
                self.trouble = Some(fault.to_string());
                self.rebuild()?;
                return Ok(false);
            }
        };
        if now >= self.alive_at {
            self.alive_at = now + ALIVE_EVERY;
            if !self.link.is_alive() {
                self.lose(now);
                return Ok(false);
            }
        }
        if turn.worked {
            self.idle_turns = 0;
        } else if self.idle_turns < IDLE_TURNS {
            self.idle_turns += 1;
            std::thread::yield_now();
        } else if !turn.done {
            self.sleep(&turn, now);
        }
        Ok(turn.done)
    }

    fn sleep(&mut self, turn: &Turn, now: u64) {
        let longest = if self.is_stopping { MILLISECOND } else { SLEEP_MAX };
        let mut sleep = turn.wake_at.map_or(longest, |at| at.saturating_sub(now)).min(longest);
        if turn.wants_room {
            // What is due can't be done before the switch has taken something, which wakes us.
            sleep = sleep.max(MILLISECOND);
        }
        if let (Some(device), Some(socket)) = (&mut self.device, self.link.socket())
            && sleep > 0
        {
            device.wait(socket, sleep, turn.wants_room);
            // A call or the switch's end woke us, or time: look at all.
            self.alive_at = 0;
        }
    }

    fn connect(&mut self, now: u64) {
        if now < self.retry_at {
            let sleep = (self.retry_at - now).min(SLEEP_MAX);
            std::thread::sleep(std::time::Duration::from_nanos(sleep));
            return;
        }
        match self.link.connect(self.config, &mut self.device) {
            Ok(true) => {
                self.trouble = None;
                self.retry_after = RETRY_MIN;
                (self.announce_at, self.idle_turns) = (0, 0);
            }
            Ok(false) => {
                self.trouble = Some("the switch has not connected yet".into());
                self.retry_at = now + RETRY_MIN;
            }
            Err(error) => {
                self.trouble = Some(error.to_string());
                self.retry_at = now + self.retry_after;
                self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
            }
        }
    }

    fn lose(&mut self, now: u64) {
        self.trouble = Some("the switch closed the connection".into());
        self.link.close();
        self.retry_at = now;
    }

    /// Ends the connection and makes new rings, keeping the counts.
    fn rebuild(&mut self) -> Result<(), GuestError> {
        self.link.close();
        if let Some(old) = self.device.take() {
            let mut new = Device::new(self.config, old.features(), old.pairs() as u16)?;
            new.set_totals(old.totals());
            self.device = Some(new);
            self.link.forget_positions();
        }
        Ok(())
    }

    fn totals(&self) -> Totals {
        self.device.as_ref().map(Device::totals).unwrap_or_default()
    }

    fn report(&self, duration: u64) -> Report {
        let totals = self.totals();
        let mut report = Report {
            name: self.config.name.clone(),
            role: self.config.role.name(),
            seconds: duration as f64 / SECOND as f64,
            connections: self.link.connections(),
            features: self.device.as_ref().map_or(0, Device::features),
            sent: totals.sent,
            received: totals.received,
            sent_bytes: totals.sent_bytes,
            received_bytes: totals.received_bytes,
            sent_pps: rate(totals.sent, duration),
            received_pps: rate(totals.received, duration),
            ring_faults: self.faults,
            bad_frames: totals.bad,
            trouble: self.trouble.clone(),
            ..Report::default()
        };
        self.actor.report(&mut report);
        report
    }
}

/// Events per second, of `count` in `ns`.
pub fn rate(count: u64, ns: u64) -> f64 {
    if ns == 0 { 0.0 } else { count as f64 * SECOND as f64 / ns as f64 }
}

/// Progress once a second.
struct Pace {
    started: u64,
    last_at: u64,
    last: Totals,
}

impl Pace {
    fn new(started: u64) -> Pace {
        Pace { started, last_at: started, last: Totals::default() }
    }

    fn is_due(&self, now: u64) -> bool {
        now >= self.last_at + SECOND
    }

    fn progress(&mut self, now: u64, guest: &Guest<'_>) -> Progress {
        let totals = guest.totals();
        let span = now - self.last_at;
        let last = std::mem::replace(&mut self.last, totals);
        self.last_at = now;
        Progress {
            seconds: (now - self.started) as f64 / SECOND as f64,
            connected: guest.link.socket().is_some(),
            trouble: guest.trouble.clone(),
            sent: totals.sent,
            received: totals.received,
            sent_pps: rate(totals.sent - last.sent, span),
            received_pps: rate(totals.received - last.received, span),
            sent_bps: rate((totals.sent_bytes - last.sent_bytes) * 8, span),
            received_bps: rate((totals.received_bytes - last.received_bytes) * 8, span),
        }
    }
}

/// Tells the switch where this address is: a reverse ARP request for oneself, as VMMs send it after a migration.
fn announcement(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    let (eth, rest) = Ethernet::split_mut(&mut frame).expect("60 bytes");
    (eth.dst, eth.src, eth.ethertype) = (MacAddr::BROADCAST, MacAddr(mac), ethertype::RARP.into());
    let (arp, _) = Arp::split_mut(rest).expect("46 bytes");
    (arp.hardware_type, arp.protocol_type) = (1.into(), ethertype::IPV4.into());
    (arp.hardware_len, arp.protocol_len) = (6, 4);
    arp.operation = 3.into();
    (arp.sha, arp.tha) = (MacAddr(mac), MacAddr(mac));
    frame
}
