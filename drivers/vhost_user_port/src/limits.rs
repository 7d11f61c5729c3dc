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

    /// Takes a token, or says how long to wait for one.
    ///
    /// # Errors
    /// The bucket is empty; the next token comes after that time.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(self.per_second);
        let passed = self.filled.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.filled = Some(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate).min(rate);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / rate))
        }
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
        match self.budget.take(now) {
            Ok(()) => Some(std::mem::take(&mut self.suppressed)),
            Err(_) => {
                self.suppressed += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_a_second_is_free_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut budget = Budget::new(100);
        for _ in 0..100 {
            assert_eq!(budget.take(start), Ok(()));
        }
        let wait = budget.take(start).expect_err("used up");
        assert!(wait <= Duration::from_millis(10), "{wait:?}");
        assert_eq!(budget.take(start + wait + Duration::from_micros(1)), Ok(()));
        assert!(budget.take(start + wait).is_err(), "a clock that goes back gives nothing");
        let hour = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| budget.take(hour).is_ok()).count(), 100);
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
