//! Waiting longer after each failure, with jitter, so that many do not come back at once.

use std::time::Duration;

use rand::RngExt as _;

/// Doubles from a first delay up to a highest one.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    highest: Duration,
    failures: u32,
}

impl Backoff {
    /// Begins at `first` and never waits longer than `highest`.
    #[must_use]
    pub fn new(first: Duration, highest: Duration) -> Self {
        Self {
            first,
            highest,
            failures: 0,
        }
    }

    /// The next delay: between half and all of the doubled one.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(16)).min(self.highest);
        self.failures = self.failures.saturating_add(1);
        jittered(full)
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Between half and all of it.
#[must_use]
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays_below_the_highest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let delays: Vec<Duration> = (0..40).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= Duration::from_millis(100));
        assert!(delays[4] >= Duration::from_millis(800));
        assert!(delays.iter().all(|d| *d <= Duration::from_secs(2)));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
