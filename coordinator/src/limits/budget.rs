//! What all callers together, and each of them, have under way. A caller is a certificate; without TLS a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use rekeeper_tls::{Peer, Who};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::Limits;

/// What a permit stands for: semaphores count in 32 bits.
const UNIT: usize = 1 << 10;
/// Callers that are remembered before those are forgotten that have nothing under way.
const CALLERS: usize = 1_024;

/// Counts what is under way.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    total: Arc<Semaphore>,
    callers: Mutex<HashMap<String, Arc<Caller>>>,
}

/// What one caller may have under way.
#[derive(Debug)]
pub(super) struct Caller {
    name: String,
    bytes: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

/// A message that is being received or was not dealt with yet; dropped when it was.
#[derive(Debug)]
pub struct Hold {
    _of_caller: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The holds of the messages of one call, in their order; among the extensions of its request.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<VecDeque<Hold>>>);

impl Held {
    pub(super) fn push(&self, hold: Hold) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(hold);
    }

    /// The hold of the next message, for whoever has read it.
    #[must_use]
    pub fn take(&self) -> Option<Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Budget {
    /// Nothing is under way.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            total: Arc::new(Semaphore::new(units(limits.total_bytes))),
            callers: Mutex::default(),
        })
    }

    /// The limits that it keeps to.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn caller(&self, peer: Option<&Peer>) -> Arc<Caller> {
        let name = match peer.map(|peer| (peer.who.as_ref(), peer.address)) {
            Some((Who::Bearer(identity), _)) => identity.to_string(),
            Some((Who::Unfit(_), Some(address))) => address.ip().to_string(),
            Some((Who::Anyone, Some(address))) => address.to_string(),
            Some((Who::Unfit(_) | Who::Anyone, None)) | None => "somebody".to_owned(),
        };
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= CALLERS {
            callers.retain(|_, caller| Arc::strong_count(caller) > 1);
        }
        let new = || Caller {
            name: name.clone(),
            bytes: Arc::new(Semaphore::new(units(self.limits.caller_bytes))),
            calls: Arc::new(Semaphore::new(self.limits.caller_calls)),
        };
        Arc::clone(callers.entry(name.clone()).or_insert_with(|| Arc::new(new())))
    }

    /// A call of the caller, as long as the permit is held.
    pub(super) fn begin(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&caller.calls).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{} has {} calls open already, as many as one caller may have (limits.caller_calls in coordinator.yaml); \
                 end one of them",
                caller.name, self.limits.caller_calls
            ))
        })
    }

    /// Waits until a message of that size fits.
    pub(super) async fn hold(self: Arc<Self>, caller: Arc<Caller>, bytes: usize) -> Result<Hold, Status> {
        let units = u32::try_from(units(bytes)).unwrap_or(u32::MAX);
        let stops = |_| Status::unavailable("the coordinator stops");
        // The caller's first: whoever waits for his own holds nothing of what others wait for.
        let of_caller = Arc::clone(&caller.bytes)
            .acquire_many_owned(units)
            .await
            .map_err(stops)?;
        let of_all = Arc::clone(&self.total).acquire_many_owned(units).await.map_err(stops)?;
        Ok(Hold {
            _of_caller: of_caller,
            _of_all: of_all,
        })
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_wait_for_those_before_them_of_one_caller_and_of_all() {
        let limits = Limits {
            message_bytes: 4 * UNIT,
            caller_bytes: 6 * UNIT,
            total_bytes: 8 * UNIT,
            ..Limits::default()
        };
        let budget = Budget::new(limits);
        let caller = |name: &str| {
            let address = format!("127.0.0.1:{name}").parse().ok();
            budget.caller(Some(&Peer {
                address,
                who: Arc::new(Who::Anyone),
            }))
        };
        let (one, other) = (caller("1"), caller("2"));
        let hold = |of: &Arc<Caller>, units: usize| {
            let held = Arc::clone(&budget).hold(Arc::clone(of), units * UNIT);
            async {
                tokio::time::timeout(std::time::Duration::from_millis(50), held)
                    .await
                    .ok()
            }
        };
        let first = hold(&one, 4).await.unwrap().unwrap();
        assert!(hold(&one, 3).await.is_none(), "the caller has 6");
        let second = hold(&other, 4).await.unwrap().unwrap();
        assert!(hold(&one, 1).await.is_none(), "all have 8");
        drop(second);
        let third = hold(&one, 2).await.unwrap().unwrap();
        drop((first, third));
        hold(&one, 6).await.unwrap().unwrap();
    }
}
