//! How long a coordinator that was lost is tried again, and what is said about it.

use std::time::{Duration, Instant};

/// After this a lost coordinator is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is said that it is still being tried.
const REMIND: Duration = Duration::from_secs(10);
/// Between two tries.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Since when the coordinator is lost, if it is.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Lost {
    since: Instant,
    said: Instant,
}

/// What a failed call means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again; there may be something to say.
    Again(Option<String>),
    /// It took too long.
    GiveUp,
}

impl Patience {
    /// A call did not get through, for this reason.
    pub(crate) fn failed(&mut self, now: Instant, reason: &str) -> Verdict {
        let Some(lost) = &mut self.lost else {
            self.lost = Some(Lost { since: now, said: now });
            let limit = PATIENCE.as_secs();
            return Verdict::Again(Some(format!("coordinator lost, trying again for {limit} s: {reason}")));
        };
        let elapsed = now.saturating_duration_since(lost.since);
        if elapsed >= PATIENCE {
            return Verdict::GiveUp;
        }
        if now.saturating_duration_since(lost.said) < REMIND {
            return Verdict::Again(None);
        }
        lost.said = now;
        let left = (PATIENCE - elapsed).as_secs();
        Verdict::Again(Some(format!(
            "coordinator still lost, trying again for {left} s: {reason}"
        )))
    }

    /// A call got through; there may be something to say.
    pub(crate) fn succeeded(&mut self, now: Instant) -> Option<String> {
        let lost = self.lost.take()?;
        let seconds = now.saturating_duration_since(lost.since).as_secs();
        Some(format!("coordinator is back after {seconds} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_coordinator_is_tried_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        assert_eq!(patience.succeeded(at(0)), None);
        assert!(matches!(patience.failed(at(1), "x"), Verdict::Again(Some(text)) if text.contains("60 s")));
        assert_eq!(patience.failed(at(2), "x"), Verdict::Again(None));
        assert!(matches!(patience.failed(at(12), "x"), Verdict::Again(Some(text)) if text.contains("49 s")));
        assert!(matches!(patience.failed(at(60), "x"), Verdict::Again(Some(_))));
        assert_eq!(patience.failed(at(61), "x"), Verdict::GiveUp);
    }

    #[test]
    fn its_return_is_said_once_and_the_minute_begins_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        patience.failed(at(0), "x");
        assert_eq!(
            patience.succeeded(at(7)).as_deref(),
            Some("coordinator is back after 7 s")
        );
        assert_eq!(patience.succeeded(at(8)), None);
        assert!(matches!(patience.failed(at(100), "x"), Verdict::Again(Some(_))));
    }
}
