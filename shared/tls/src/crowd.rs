//! How many callers may be at their handshake, or connected, at a time: whoever can reach the port can begin a handshake
//! and leave it at that, and must not keep others out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

/// Limits of what may be open before anybody has said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Handshakes at a time.
    pub handshakes: usize,
    /// Those of one address among them.
    pub of_address: usize,
    /// How long one may take.
    pub within: Duration,
    /// Connections of one certificate.
    pub connections: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            handshakes: 512,
            of_address: 64,
            within: Duration::from_secs(10),
            connections: 256,
        }
    }
}

/// The handshakes under way. Where there are too many, the oldest one gives way: of that address, or of the address that
/// has most of them.
#[derive(Debug, Clone)]
pub(super) struct Handshakes {
    limits: Admission,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    of: HashMap<IpAddr, BTreeSet<u64>>,
    all: BTreeMap<u64, (IpAddr, Option<AbortHandle>)>,
}

/// A handshake that is under way; dropped when it is over.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    under_way: Arc<Mutex<UnderWay>>,
}

impl Handshakes {
    pub(super) fn new(limits: Admission) -> Self {
        Self {
            limits,
            under_way: Arc::default(),
        }
    }

    /// One more of that address; and the address of the one that had to give way, if one had.
    pub(super) fn begin(&self, from: IpAddr) -> (Turn, Option<IpAddr>) {
        let from = counted(from);
        let mut under_way = lock(&self.under_way);
        let mine = under_way.of.get(&from).map_or(0, BTreeSet::len);
        let crowded = if mine >= self.limits.of_address {
            Some(from)
        } else if under_way.all.len() >= self.limits.handshakes {
            under_way.most()
        } else {
            None
        };
        if let Some(crowded) = crowded {
            under_way.give_up_oldest(crowded);
        }
        let number = under_way.next;
        under_way.next += 1;
        under_way.all.insert(number, (from, None));
        under_way.of.entry(from).or_default().insert(number);
        let turn = Turn {
            number,
            under_way: Arc::clone(&self.under_way),
        };
        (turn, crowded)
    }

    /// The task of a handshake, which is ended when it has to give way.
    pub(super) fn is_done_by(&self, number: u64, task: AbortHandle) {
        if let Some((_, known)) = lock(&self.under_way).all.get_mut(&number) {
            *known = Some(task);
        }
    }
}

impl Turn {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.under_way).remove(self.number);
    }
}

impl UnderWay {
    /// The address that has most of them; of several, the one whose oldest is the oldest.
    fn most(&self) -> Option<IpAddr> {
        let rank = |numbers: &BTreeSet<u64>| (numbers.len(), numbers.first().map(|oldest| u64::MAX - oldest));
        let most = self.of.iter().max_by_key(|(_, numbers)| rank(numbers));
        most.map(|(address, _)| *address)
    }

    fn give_up_oldest(&mut self, of: IpAddr) {
        let oldest = self.of.get(&of).and_then(|numbers| numbers.first().copied());
        if let Some((_, Some(task))) = oldest.and_then(|number| self.remove(number)) {
            task.abort();
        }
    }

    fn remove(&mut self, number: u64) -> Option<(IpAddr, Option<AbortHandle>)> {
        let removed = self.all.remove(&number)?;
        if let Some(numbers) = self.of.get_mut(&removed.0) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of.remove(&removed.0);
            }
        }
        Some(removed)
    }
}

/// Whoever has one address of IPv6 has all of its network.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// The connections of each certificate.
#[derive(Debug, Clone, Default)]
pub(super) struct Connected(Arc<Mutex<HashMap<String, usize>>>);

/// A connection that is counted; dropped when it is closed.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    connected: Connected,
}

impl Connected {
    /// One more of the bearer of that name, unless there are so many.
    pub(super) fn enter(&self, name: String, most: usize) -> Option<Place> {
        let mut of = lock(&self.0);
        let open = of.entry(name.clone()).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        Some(Place {
            name,
            connected: self.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = lock(&self.connected.0);
        if let Some(open) = of.get_mut(&self.name) {
            *open -= 1;
            if *open == 0 {
                of.remove(&self.name);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_of_whoever_has_most_gives_way() {
        let handshakes = Handshakes::new(Admission {
            handshakes: 4,
            of_address: 3,
            ..Admission::default()
        });
        let (many, other) = (address("10.0.0.1"), address("10.0.0.2"));
        let began = |from| {
            let (turn, crowded) = handshakes.begin(from);
            (turn.number(), turn, crowded)
        };
        let open = || lock(&handshakes.under_way).all.keys().copied().collect::<Vec<_>>();
        let turns: Vec<_> = (0..3).map(|_| began(many)).collect();
        let fourth = began(many);
        assert_eq!((fourth.2, open()), (Some(many), vec![1, 2, 3]));
        let honest = began(other);
        assert_eq!((honest.2, open()), (None, vec![1, 2, 3, 4]));
        let next = began(address("10.0.0.3"));
        assert_eq!((next.2, open()), (Some(many), vec![2, 3, 4, 5]));
        drop((turns, fourth, honest, next));
        assert_eq!(open(), [0; 0]);
        assert!(lock(&handshakes.under_way).of.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        assert_eq!(
            counted(address("2001:db8:1:2::7")),
            counted(address("2001:db8:1:2:ffff::1"))
        );
        assert_ne!(counted(address("2001:db8:1:2::7")), counted(address("2001:db8:1:3::7")));
        assert_eq!(counted(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    #[test]
    fn a_certificate_has_so_many_connections_and_no_more() {
        let connected = Connected::default();
        let enter = |name: &str| connected.enter(name.to_owned(), 2);
        let (one, _two) = (enter("anna").unwrap(), enter("anna").unwrap());
        assert!(enter("anna").is_none() && enter("bert").is_some());
        drop(one);
        assert!(enter("anna").is_some());
        assert_eq!(lock(&connected.0).len(), 1);
    }
}
