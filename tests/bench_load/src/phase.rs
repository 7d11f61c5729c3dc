//! One phase: send, receive, take times.

use anyhow::{Result, bail};
use bench::traffic::{Latency, Phase, PhaseResult, Stream, StreamResult};
use guest_host::Histogram;
use packet::cycles::now;

use crate::frames::Template;
use crate::port::{BATCH, Port};

/// Between two turns of the loop: longer, and somebody else had the core.
const AWAY_US: u64 = 30;
/// What is overdue by more is not made up for: a burst would only measure itself.
const BEHIND_US: u64 = 500;
/// After this long without a frame nothing more comes.
const QUIET_US: u64 = 20_000;
/// The longest anything is waited for at the end.
const DRAIN_US: u64 = 500_000;

/// A stream while it runs.
struct Running {
    from: usize,
    to: usize,
    template: Template,
    stamped: bool,
    pace: Pace,
    sent: u64,
    received: u64,
    times: Times,
}

/// When frames are due.
struct Pace {
    /// Ticks between frames; none when every frame is due at once.
    gap: Option<f64>,
    since: u64,
    sent: u64,
    behind: u64,
}

impl Pace {
    #[inline]
    fn due(&mut self, now: u64) -> usize {
        let Some(gap) = self.gap else { return BATCH };
        let elapsed = now.saturating_sub(self.since);
        let due = (elapsed as f64 / gap) as u64 + 1;
        let due = due.saturating_sub(self.sent);
        if due as f64 * gap > self.behind as f64 + gap {
            (self.since, self.sent) = (now, 0);
            return 1;
        }
        (due as usize).min(BATCH)
    }
}

/// Latencies in ticks.
struct Times {
    histogram: Histogram,
    left_out: u64,
    stall: u64,
}

/// The last time the core was somebody else's.
#[derive(Default)]
struct Away {
    from: u64,
    until: u64,
    ticks: u64,
}

/// Runs a phase on ports that are connected. `hz` is the counter's frequency.
pub fn run(ports: &mut [Port], phase: &Phase, hz: u64) -> Result<PhaseResult> {
    let ticks = |us: u64| hz / 1_000_000 * us;
    let mut streams = phase.streams.iter().map(|s| Running::new(s, ports, hz)).collect::<Result<Vec<_>>>()?;
    let mut away = Away::default();
    let start = now();
    let end = start + (phase.seconds * hz as f64) as u64;
    streams.iter_mut().for_each(|stream| stream.pace.since = start);
    let mut last = start;
    loop {
        let turn = now();
        away.note(last, turn, ticks(AWAY_US));
        last = turn;
        if turn >= end {
            break;
        }
        for stream in &mut streams {
            stream.send(ports, turn)?;
        }
        for stream in &mut streams {
            stream.receive(ports, &away)?;
        }
    }
    let seconds = (last - start) as f64 / hz as f64;
    let in_time: Vec<u64> = streams.iter().map(|stream| stream.received).collect();
    drain(ports, &mut streams, ticks(QUIET_US), ticks(DRAIN_US))?;
    let results = streams.iter().zip(in_time).map(|(stream, received_in_time)| StreamResult {
        sent: stream.sent,
        received_in_time,
        received: stream.received,
        seconds,
        latency: stream.stamped.then(|| stream.times.latency(hz)),
    });
    Ok(PhaseResult { streams: results.collect(), away: away.ticks as f64 / (last - start).max(1) as f64 })
}

/// Receives what is still on its way.
fn drain(ports: &mut [Port], streams: &mut [Running], quiet: u64, limit: u64) -> Result<()> {
    let start = now();
    let mut last_frame = start;
    // Everything from here on counts as measured with the load away: nobody measures while draining.
    let away = Away { from: start, until: u64::MAX, ticks: 0 };
    loop {
        let mut unsent = 0;
        for stream in &mut *streams {
            if stream.receive(ports, &away)? > 0 {
                last_frame = now();
            }
            unsent += ports[stream.from].unsent()?;
        }
        let time = now();
        if time > start + limit || unsent == 0 && time > last_frame + quiet {
            return Ok(());
        }
    }
}

impl Running {
    fn new(stream: &Stream, ports: &mut [Port], hz: u64) -> Result<Running> {
        let &Stream { from, to, rate, size, headers, stamped } = stream;
        if from >= ports.len() || to >= ports.len() {
            bail!("a stream from {from} to {to}, and {} ports", ports.len());
        }
        // Another seed for each phase: what was random before is not to come again.
        let template = Template::new(headers, size, ports[from].address, ports[to].address, now());
        if stamped && template.stamp_at() + 8 > size {
            bail!("{size} bytes have no room for a time");
        }
        ports[from].fill(template.frame());
        let gap = rate.map(|rate| hz as f64 / rate);
        let pace = Pace { gap, since: 0, sent: 0, behind: hz / 1_000_000 * BEHIND_US };
        let times = Times { histogram: Histogram::new(), left_out: 0, stall: 0 };
        Ok(Running { from, to, template, stamped, pace, sent: 0, received: 0, times })
    }

    #[inline]
    fn send(&mut self, ports: &mut [Port], turn: u64) -> Result<()> {
        let due = self.pace.due(turn);
        if due > 0 {
            let stamp = self.stamped.then(now);
            let sent = ports[self.from].send(due, &mut self.template, stamp)? as u64;
            self.sent += sent;
            self.pace.sent += sent;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, ports: &mut [Port], away: &Away) -> Result<usize> {
        let stamp_at = self.stamped.then(|| self.template.stamp_at());
        let (times, mut arrived) = (&mut self.times, 0);
        let count = ports[self.to].receive(stamp_at, |stamp| {
            if arrived == 0 {
                arrived = now();
            }
            times.note(stamp, arrived, away);
        })?;
        self.received += count as u64;
        Ok(count)
    }
}

impl Away {
    #[inline]
    fn note(&mut self, last: u64, now: u64, limit: u64) {
        if now - last > limit {
            (self.from, self.until) = (last, now);
            self.ticks += now - last;
        }
    }
}

impl Times {
    #[inline]
    fn note(&mut self, sent: u64, arrived: u64, away: &Away) {
        if sent < away.until {
            self.left_out += 1;
            self.stall = self.stall.max(away.from.saturating_sub(sent));
        } else {
            let latency = arrived.saturating_sub(sent);
            self.histogram.record(latency);
            self.stall = self.stall.max(latency);
        }
    }

    fn latency(&self, hz: u64) -> Latency {
        let us = |ticks: u64| ticks as f64 * 1e6 / hz as f64;
        Latency {
            count: self.histogram.count(),
            left_out: self.left_out,
            p50_us: us(self.histogram.quantile(0.5)),
            p99_us: us(self.histogram.quantile(0.99)),
            p999_us: us(self.histogram.quantile(0.999)),
            max_us: us(self.histogram.max()),
            stall_us: us(self.stall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(gap: Option<f64>) -> Pace {
        Pace { gap, since: 1000, sent: 0, behind: 5000 }
    }

    #[test]
    fn frames_are_due_at_their_rate() {
        let mut pace = pace(Some(100.0));
        assert_eq!(pace.due(1000), 1);
        pace.sent = 1;
        assert_eq!((pace.due(1099), pace.due(1100), pace.due(1350)), (0, 1, 3));
    }

    #[test]
    fn what_is_far_overdue_is_forgotten() {
        let mut pace = pace(Some(100.0));
        assert_eq!(pace.due(9000), 1);
        assert_eq!((pace.since, pace.sent), (9000, 0));
    }

    #[test]
    fn without_a_rate_a_batch_is_always_due() {
        assert_eq!(pace(None).due(0), BATCH);
    }

    #[test]
    fn frames_on_their_way_while_the_core_was_lost_only_bound_the_stall() {
        let mut away = Away::default();
        away.note(100, 110, 20);
        assert_eq!(away.ticks, 0);
        away.note(200, 500, 20);
        let mut times = Times { histogram: Histogram::new(), left_out: 0, stall: 0 };
        times.note(150, 510, &away);
        assert_eq!((times.left_out, times.stall, times.histogram.count()), (1, 50, 0));
        times.note(505, 512, &away);
        assert_eq!((times.left_out, times.histogram.count(), times.histogram.max()), (1, 1, 7));
        times.note(600, 680, &away);
        assert_eq!(times.stall, 80);
    }
}
