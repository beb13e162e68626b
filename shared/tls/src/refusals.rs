//! Who was refused in the handshake, for the people who look: the caller never got as far as to say its name.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long one that does not come again is told of.
const KEPT: Duration = Duration::from_secs(3_600);
/// How many are remembered, and how many of them of one address: anybody who can connect can make them, and must not
/// push out those of others.
const MOST: usize = 256;
const MOST_OF_ONE: usize = 8;

/// Callers of one address that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Where they called from.
    pub address: IpAddr,
    /// Why they were refused, as in the log.
    pub reason: String,
    /// When the first of them was.
    pub first: SystemTime,
    /// When the last of them was.
    pub last: SystemTime,
    /// How many there were.
    pub count: u64,
}

/// The refusals of the last hour, a bounded number of them; all clones have the same.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<Vec<Refusal>>>);

impl Refusals {
    /// Remembers one.
    pub fn note(&self, address: IpAddr, reason: &str, now: SystemTime) {
        let mut known = self.lock(now);
        // The one that came last is the last of them.
        let known_as = known.iter().position(|r| r.address == address && r.reason == reason);
        let refusal = match known_as {
            Some(ix) => {
                let mut refusal = known.remove(ix);
                (refusal.last, refusal.count) = (now, refusal.count.saturating_add(1));
                refusal
            }
            None => Refusal {
                address,
                reason: reason.to_owned(),
                first: now,
                last: now,
                count: 1,
            },
        };
        if known.iter().filter(|r| r.address == address).count() >= MOST_OF_ONE {
            let oldest = known.iter().position(|r| r.address == address);
            oldest.map(|ix| known.remove(ix));
        } else if known.len() >= MOST {
            known.remove(0);
        }
        known.push(refusal);
    }

    /// Those of the last hour, the latest first.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<Refusal> {
        self.lock(now).iter().rev().cloned().collect()
    }

    fn lock(&self, now: SystemTime) -> MutexGuard<'_, Vec<Refusal>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back forgets nothing.
        known.retain(|r| now.duration_since(r.last).is_ok_and(|ago| ago < KEPT) || now < r.last);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 + seconds)
    }

    #[test]
    fn one_for_each_address_and_reason_for_an_hour() {
        let refusals = Refusals::default();
        let [here, there] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        refusals.note(here, "a", at(0));
        refusals.note(there, "a", at(1));
        refusals.note(here, "b", at(2));
        refusals.note(here, "a", at(3));
        let list = refusals.list(at(4));
        let shown: Vec<_> = list.iter().map(|r| (r.address, r.reason.as_str(), r.count)).collect();
        assert_eq!(shown, [(here, "a", 2), (here, "b", 1), (there, "a", 1)]);
        assert_eq!((list[0].first, list[0].last), (at(0), at(3)));
        // Those that came again are there longer.
        assert_eq!(refusals.list(at(3_602)).len(), 1);
        assert_eq!(refusals.list(at(3_603)), []);
    }

    #[test]
    fn a_caller_with_ever_new_reasons_takes_no_more_than_its_share() {
        let refusals = Refusals::default();
        let [loud, quiet] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        refusals.note(quiet, "a", at(0));
        for number in 0..1_000 {
            refusals.note(loud, &number.to_string(), at(1));
        }
        let list = refusals.list(at(2));
        assert_eq!(list.len(), MOST_OF_ONE + 1);
        assert_eq!(list[0].reason, "999");
        assert!(list.iter().any(|r| r.address == quiet));
        for last in 0..=255 {
            for other in 0..4 {
                refusals.note(IpAddr::from([10, 0, other, last]), "a", at(3));
            }
        }
        assert_eq!(refusals.list(at(4)).len(), MOST);
    }
}
