//! Receives numbered frames and finds out what is wrong with them.

use virtqueue::driver::DriverError;

use crate::Probe;
use crate::clock::{self, MILLISECOND};
use crate::device::Device;
use crate::frame::Frame;
use crate::report::{Latency, Report};
use crate::run::{Actor, Turn, rate};
use crate::stats::{Arrivals, Histogram};

/// Frames in a turn.
const TURN_MAX: usize = 64;
/// Bytes of a frame that are looked at: two tags and all IPv4 options.
pub const LOOK_BYTES: usize = 128;
/// Generators told apart: memory that strangers can make us use is bounded.
const RUNS_MAX: usize = 16;
/// When stopping, how long without a frame is the end.
const QUIET: u64 = 50 * MILLISECOND;

pub struct Sink {
    mac: [u8; 6],
    frame: Frame,
    runs: Vec<(u16, Arrivals)>,
    foreign: u64,
    misdirected: u64,
    received: u64,
    first_at: u64,
    last_at: u64,
    stopped_at: Option<u64>,
}

impl Sink {
    pub fn new(mac: [u8; 6]) -> Sink {
        Sink {
            mac,
            frame: Frame::new(),
            runs: vec![],
            foreign: 0,
            misdirected: 0,
            received: 0,
            first_at: 0,
            last_at: 0,
            stopped_at: None,
        }
    }

    fn note(&mut self, probe: Probe, arrived_at: u64) {
        let place = match self.runs.iter().position(|(run, _)| *run == probe.run) {
            Some(place) => place,
            None if self.runs.len() < RUNS_MAX => {
                self.runs.push((probe.run, Arrivals::default()));
                self.runs.len() - 1
            }
            None => {
                self.foreign += 1;
                return;
            }
        };
        if self.received == 0 {
            self.first_at = arrived_at;
        }
        self.received += 1;
        self.last_at = arrived_at;
        let latency = arrived_at.saturating_sub(probe.time_ns);
        self.runs[place].1.note(probe.flow, probe.number, latency);
    }
}

impl Actor for Sink {
    fn turn(&mut self, device: &mut Device, now: u64) -> Result<Turn, DriverError> {
        let mut turn = Turn::default();
        let mut arrived_at = 0;
        for _ in 0..TURN_MAX {
            if !device.next(&mut self.frame, LOOK_BYTES)? {
                break;
            }
            if !turn.worked {
                // One look at the clock for all that lay there.
                (turn.worked, arrived_at) = (true, clock::now());
            }
            if self.frame.bytes().first_chunk().is_some_and(|to| *to != self.mac && to[0] & 1 == 0) {
                self.misdirected += 1;
            }
            match Probe::of_frame(self.frame.bytes()) {
                Some(probe) => self.note(probe, arrived_at),
                None => self.foreign += 1,
            }
        }
        turn.done = self.stopped_at.is_some_and(|at| now > at.max(self.last_at) + QUIET);
        Ok(turn)
    }

    fn stop(&mut self, now: u64) {
        self.stopped_at = Some(now);
    }

    fn report(&self, report: &mut Report) {
        let mut latency = Histogram::new();
        self.runs.iter().for_each(|(_, arrivals)| latency.add(&arrivals.latency));
        let sum = |of: fn(&Arrivals) -> u64| self.runs.iter().map(|(_, arrivals)| of(arrivals)).sum();
        report.received = self.received;
        report.foreign = self.foreign;
        report.misdirected = self.misdirected;
        report.lost = Some(sum(Arrivals::lost));
        report.duplicated = sum(|a| a.duplicated);
        report.reordered = sum(|a| a.reordered);
        report.received_pps = rate(self.received.saturating_sub(1), self.last_at - self.first_at);
        report.latency = Latency::of(&latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(sink: &mut Sink, run: u16, number: u32) {
        sink.note(Probe { run, flow: 0, number, time_ns: 100 }, 1100);
    }

    #[test]
    fn loss_duplicates_and_order_are_found_per_generator() {
        let mut sink = Sink::new([2; 6]);
        for number in [0, 1, 3, 3, 2, 7] {
            note(&mut sink, 1, number);
        }
        for number in [100, 101] {
            note(&mut sink, 2, number);
        }
        let mut report = Report::default();
        sink.report(&mut report);
        assert_eq!((report.received, report.lost), (8, Some(3)));
        assert_eq!((report.duplicated, report.reordered), (1, 1));
        let latency = report.latency.unwrap();
        assert_eq!((latency.count, latency.min_us, latency.p50_us), (8, 1.0, 1.0));
    }

    #[test]
    fn strangers_cannot_make_it_grow_without_bound() {
        let mut sink = Sink::new([2; 6]);
        for run in 0..1000 {
            note(&mut sink, run, 0);
        }
        assert_eq!((sink.runs.len(), sink.foreign), (RUNS_MAX, 1000 - RUNS_MAX as u64));
    }
}
