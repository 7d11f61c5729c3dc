//! Sends numbered frames, and counts those that come back.

use virtio_defs::net::Header;
use virtqueue::driver::DriverError;

use crate::Probe;
use crate::clock::{self, MILLISECOND, SECOND};
use crate::config::{GenerateRole, Rate};
use crate::device::Device;
use crate::frame::Frame;
use crate::probe::Template;
use crate::report::{Latency, Report};
use crate::run::{Actor, Turn, rate};
use crate::sink::LOOK_BYTES;
use crate::stats::Arrivals;

/// Frames sent and received in a turn.
const TURN_MAX: u64 = 64;
/// Further behind than this, what is overdue is not made up for: a burst would only measure itself.
const BEHIND_MAX: u64 = 20 * MILLISECOND;
/// A window whose frames did not come back in this time is opened again: they are lost. Longer than a processor is
/// away from a busy machine's guest: frames that are only late would be joined by as many more, and rings overflow.
const WINDOW_TIMEOUT: u64 = SECOND;
/// When stopping, how long without a frame is the end.
const QUIET: u64 = SECOND;

pub struct Generate {
    template: Template,
    run: u16,
    pacing: Pacing,
    window: Option<u64>,
    numbers: Vec<u32>,
    next_flow: usize,
    frame: Frame,
    arrivals: Arrivals,
    /// Frames sent, and of those the ones that the window waits for no longer.
    sent: u64,
    given_up: u64,
    received: u64,
    foreign: u64,
    first_sent_at: u64,
    last_sent_at: u64,
    first_received_at: u64,
    last_received_at: u64,
    stopped_at: Option<u64>,
}

impl Generate {
    pub fn new(mac: [u8; 6], role: &GenerateRole, now: u64) -> Generate {
        // Two generators that start in the same 2^-16 of a second may share a number; their flows would be taken
        // for one. The process number makes that unlikely, too.
        let run = (now >> 14) as u16 ^ (std::process::id() as u16).rotate_left(5);
        Generate {
            template: Template::new(mac, role.to, role.ip, role.size.into(), run),
            run,
            pacing: Pacing::new(role.rate),
            window: role.window.map(u64::from),
            numbers: vec![0; role.flows as usize],
            next_flow: 0,
            frame: Frame::new(),
            arrivals: Arrivals::default(),
            sent: 0,
            given_up: 0,
            received: 0,
            foreign: 0,
            first_sent_at: 0,
            last_sent_at: 0,
            first_received_at: 0,
            last_received_at: 0,
            stopped_at: None,
        }
    }

    fn receive(&mut self, device: &mut Device) -> Result<bool, DriverError> {
        let mut arrived_at = 0;
        for _ in 0..TURN_MAX {
            if !device.next(&mut self.frame, LOOK_BYTES)? {
                break;
            }
            if arrived_at == 0 {
                arrived_at = clock::now();
            }
            match Probe::of_frame(self.frame.bytes()) {
                Some(probe) if probe.run == self.run => {
                    if self.received == 0 {
                        self.first_received_at = arrived_at;
                    }
                    self.received += 1;
                    self.last_received_at = arrived_at;
                    let latency = arrived_at.saturating_sub(probe.time_ns);
                    self.arrivals.note(probe.flow, probe.number, latency);
                }
                _ => self.foreign += 1,
            }
        }
        Ok(arrived_at != 0)
    }

    /// Frames that may be sent, as far as the window goes.
    fn window_room(&mut self, now: u64) -> u64 {
        let Some(window) = self.window else { return u64::MAX };
        let away = self.sent.saturating_sub(self.unique() + self.given_up);
        if away >= window && now > self.last_sent_at.max(self.last_received_at) + WINDOW_TIMEOUT {
            self.given_up += away;
            return window;
        }
        window.saturating_sub(away)
    }

    fn send(&mut self, device: &mut Device, now: u64, turn: &mut Turn) -> Result<(), DriverError> {
        let due = self.pacing.due(now);
        let count = due.min(self.window_room(now)).min(TURN_MAX);
        for _ in 0..count {
            let flow = self.next_flow;
            let number = self.numbers[flow];
            let frame = self.template.frame(flow as u16, number, now);
            if !device.send(flow % device.pairs(), &Header::default(), frame)? {
                turn.wants_room = true;
                break;
            }
            self.numbers[flow] = number.wrapping_add(1);
            self.next_flow = (flow + 1) % self.numbers.len();
            if self.sent == 0 {
                self.first_sent_at = now;
            }
            self.sent += 1;
            self.pacing.sent += 1;
            self.last_sent_at = now;
            turn.worked = true;
        }
        turn.wake_at = Some(if due == 0 { self.pacing.next_at() } else { now + MILLISECOND });
        Ok(())
    }

    /// Different frames that came back.
    fn unique(&self) -> u64 {
        self.received - self.arrivals.duplicated
    }
}

impl Actor for Generate {
    fn turn(&mut self, device: &mut Device, now: u64) -> Result<Turn, DriverError> {
        let mut turn = Turn { worked: self.receive(device)?, ..Turn::default() };
        match self.stopped_at {
            None => self.send(device, now, &mut turn)?,
            Some(at) => {
                let all_back = self.unique() >= self.sent;
                let quiet = now > at.max(self.last_received_at) + QUIET;
                turn.done = device.unsent()? == 0 && (all_back || quiet);
            }
        }
        Ok(turn)
    }

    fn stop(&mut self, now: u64) {
        self.stopped_at = Some(now);
    }

    fn report(&self, report: &mut Report) {
        report.sent = self.sent;
        report.received = self.received;
        report.foreign = self.foreign;
        report.lost = (self.received > 0).then(|| self.sent.saturating_sub(self.unique()));
        report.duplicated = self.arrivals.duplicated;
        report.reordered = self.arrivals.reordered;
        report.sent_pps = rate(self.sent.saturating_sub(1), self.last_sent_at - self.first_sent_at);
        report.received_pps =
            rate(self.received.saturating_sub(1), self.last_received_at - self.first_received_at);
        report.latency = Latency::of(&self.arrivals.latency);
    }
}

/// When frames are due.
struct Pacing {
    rate: Option<u64>,
    /// Counting began here; 0 before the first frame.
    since: u64,
    sent: u64,
}

impl Pacing {
    fn new(rate: Rate) -> Pacing {
        let rate = match rate {
            Rate::Pps(pps) => Some(pps.get()),
            Rate::Max => None,
        };
        Pacing { rate, since: 0, sent: 0 }
    }

    /// Frames that should have been sent by now and were not.
    fn due(&mut self, now: u64) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        if self.since == 0 {
            (self.since, self.sent) = (now, 0);
        }
        let wanted =
            |since: u64| (u128::from(now - since) * u128::from(rate) / u128::from(SECOND)) as u64 + 1;
        let due = wanted(self.since).saturating_sub(self.sent);
        let overdue = (u128::from(due) * u128::from(SECOND) / u128::from(rate)) as u64;
        if due > 1 && overdue > BEHIND_MAX {
            (self.since, self.sent) = (now, 0);
            return 1;
        }
        due
    }

    /// When the next frame is due, if none is now.
    fn next_at(&self) -> u64 {
        let Some(rate) = self.rate else { return self.since };
        self.since + (u128::from(self.sent) * u128::from(SECOND)).div_ceil(u128::from(rate)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn pacing(pps: u64) -> Pacing {
        Pacing::new(Rate::Pps(NonZeroU64::new(pps).unwrap()))
    }

    #[test]
    fn frames_are_due_at_their_rate_from_the_first_on() {
        let mut pacing = pacing(1000);
        let start = 5 * SECOND;
        assert_eq!(pacing.due(start), 1);
        pacing.sent += 1;
        assert_eq!((pacing.due(start), pacing.next_at()), (0, start + MILLISECOND));
        assert_eq!(pacing.due(start + MILLISECOND - 1), 0);
        assert_eq!(pacing.due(start + MILLISECOND), 1);
        assert_eq!(pacing.due(start + 3 * MILLISECOND), 3);
    }

    #[test]
    fn a_second_has_as_many_as_asked_for_whenever_one_looks() {
        for pps in [1, 3, 999, 1_000_000] {
            let mut pacing = pacing(pps);
            let start = 7 * SECOND;
            let mut now = start;
            while now < start + SECOND {
                pacing.sent += pacing.due(now);
                now = pacing.next_at().max(now + 1);
            }
            assert_eq!(pacing.sent, pps);
        }
    }

    #[test]
    fn what_is_far_overdue_is_forgotten() {
        let mut pacing = pacing(100_000);
        pacing.sent += pacing.due(SECOND);
        assert_eq!(pacing.due(SECOND + 10 * MILLISECOND), 1000);
        assert_eq!(pacing.due(SECOND + 500 * MILLISECOND), 1);
    }

    #[test]
    fn a_window_waits_for_what_is_away_and_gives_up_what_is_lost() {
        let role = GenerateRole { window: Some(10), ..GenerateRole::default() };
        let mut generate = Generate::new([2, 0, 0, 0, 0, 1], &role, 1);
        assert_eq!(generate.window_room(0), 10);
        (generate.sent, generate.last_sent_at) = (10, SECOND);
        assert_eq!(generate.window_room(SECOND), 0);
        generate.received = 4;
        assert_eq!(generate.window_room(SECOND), 4);
        generate.sent = 14;
        assert_eq!(generate.window_room(SECOND), 0);
        assert_eq!(generate.window_room(SECOND + WINDOW_TIMEOUT + 1), 10);
        (generate.sent, generate.received) = (24, 14);
        assert_eq!(generate.window_room(SECOND + WINDOW_TIMEOUT + 2), 10, "the lost ones don't count again");
    }
}
