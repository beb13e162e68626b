//! A clock that nobody sets: the time since this machine was started. Linux.

use std::fs::read_to_string;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, good as long as the machine runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Which start of the machine it is counted from.
    boot: String,
    /// The time since then, also while it slept; in steps of 10 ms.
    since_boot: Duration,
}

impl Moment {
    /// Now; none where the kernel does not say.
    #[must_use]
    pub fn now() -> Option<Self> {
        let boot = read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let uptime = read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            boot: boot.trim().to_owned(),
            since_boot: Duration::try_from_secs_f64(seconds).ok()?,
        })
    }

    /// How long ago it was; none when the machine was started since.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        let now = Self::now().filter(|now| now.boot == self.boot)?;
        now.since_boot.checked_sub(self.since_boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_another_start_of_the_machine_has_a_time_of_its_own() {
        let moment = Moment::now().unwrap();
        assert!(moment.elapsed().unwrap() < Duration::from_secs(60));
        let earlier = Moment {
            boot: "another".to_owned(),
            ..moment
        };
        assert_eq!(earlier.elapsed(), None);
    }
}
