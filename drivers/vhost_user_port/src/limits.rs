//! Bounds on what a guest can make us spend. Time is an argument.

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

/// Keeps log lines that a guest can cause to a bounded rate, and counts the others.
#[derive(Debug)]
pub struct LogLimit {
    budget: Budget,
    suppressed: u64,
}

impl LogLimit {
    /// At most this many lines a second on average, with a burst of one second's worth.
    pub fn new(lines_per_second: u32) -> Self {
        Self { budget: Budget::new(lines_per_second), suppressed: 0 }
    }

    /// Whether a line may be written now; then, how many were left out since the last one.
    pub fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.budget.take(now) {
            return Some(std::mem::take(&mut self.suppressed));
        }
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
    }
}
