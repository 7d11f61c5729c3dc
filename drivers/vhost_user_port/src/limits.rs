//! Bounds on what a guest can make us spend. Time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A token bucket: `per_second` tokens a second, at most one second's worth saved up.
#[derive(Debug)]
pub struct Budget {
    per_second: u32,
    tokens: f64,
    filled: Option<Instant>,
}

impl Budget {
    /// A full bucket. A rate of 0 counts as 1.
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self { per_second, tokens: per_second.into(), filled: None }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Takes the next token, which may be one of the future, and returns how long to wait for it.
    pub fn reserve(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / f64::from(self.per_second))
    }

    fn fill(&mut self, now: Instant) {
        let rate = f64::from(self.per_second);
        let passed = self.filled.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.filled = Some(self.filled.map_or(now, |then| then.max(now)));
        self.tokens = (self.tokens + passed.as_secs_f64() * rate).min(rate);
    }
}

/// What a guest has made us spend since its port exists. Read at any time; written by its session.
#[derive(Debug, Default)]
pub struct Spent {
    /// Messages read, and connections accepted.
    pub messages: AtomicU64,
    /// Of those, the ones that had to wait for their turn.
    pub messages_delayed: AtomicU64,
    /// Log lines written.
    pub log_lines: AtomicU64,
    /// Log lines left out.
    pub log_lines_left_out: AtomicU64,
}

/// Keeps log lines that a guest can cause to a bounded rate, and counts the others.
#[derive(Debug)]
pub struct LogLimit {
    budget: Budget,
    suppressed: u64,
    spent: Arc<Spent>,
}

impl LogLimit {
    /// At most this many lines a second on average, with a burst of one second's worth.
    pub fn new(lines_per_second: u32) -> Self {
        Self { budget: Budget::new(lines_per_second), suppressed: 0, spent: Arc::default() }
    }

    /// What it counts, for others to read.
    pub fn spent(&self) -> &Arc<Spent> {
        &self.spent
    }

    /// Whether a line may be written now; then, how many were left out since the last one.
    pub fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.budget.take(now) {
            self.spent.log_lines.fetch_add(1, Relaxed);
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.spent.log_lines_left_out.fetch_add(1, Relaxed);
        self.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_a_second_is_free_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut budget = Budget::new(100);
        assert_eq!((0..150).filter(|_| budget.take(start)).count(), 100);
        assert!(!budget.take(start + Duration::from_millis(9)));
        assert!(budget.take(start + Duration::from_millis(11)));
        let hour = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| budget.take(hour)).count(), 100, "no more than a second is saved up");
        assert!(!budget.take(start), "a clock that goes back gives nothing");
        assert!(!budget.take(hour));
    }

    #[test]
    fn reserved_tokens_come_at_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(100);
        let waits: Vec<Duration> = (0..102).map(|_| budget.reserve(start)).collect();
        assert!(waits[..100].iter().all(Duration::is_zero));
        assert_eq!(waits[100..], [Duration::from_millis(10), Duration::from_millis(20)]);
    }

    #[test]
    fn suppressed_lines_are_counted_for_the_next_one() {
        let start = Instant::now();
        let mut log = LogLimit::new(2);
        assert_eq!(log.permit(start), Some(0));
        assert_eq!(log.permit(start), Some(0));
        assert_eq!(log.permit(start), None);
        assert_eq!(log.permit(start), None);
        assert_eq!(log.permit(start + Duration::from_secs(1)), Some(2));
        let spent = log.spent();
        assert_eq!((spent.log_lines.load(Relaxed), spent.log_lines_left_out.load(Relaxed)), (3, 2));
    }
}
