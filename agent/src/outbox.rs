//! Events that the coordinator has not acknowledged yet. They outlive connections, not the agent: after a restart of
//! the agent the coordinator sends its commands again, and every step finds what is done already.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rekeeper_proto::convert::event::numbered;
use rekeeper_proto::v1;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::Event;
use tokio::sync::Notify;

/// How many events of one connection may wait for their acknowledgement.
pub const WINDOW: u64 = 64;

/// Events in the sequence in which they came to be.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// With the number that the event was sent under in this connection; the sent ones come first.
    events: VecDeque<(Event, Option<u64>)>,
    sent: u64,
    acknowledged: u64,
}

impl Outbox {
    /// Keeps an event until it is acknowledged.
    pub fn add(&self, event: Event) {
        self.queue().events.push_back((event, None));
        self.changed.notify_one();
    }

    /// Whether the event of an attempt waits here.
    #[must_use]
    pub fn holds(&self, migration: &MigrationName, attempt: u64) -> bool {
        let queue = self.queue();
        queue
            .events
            .iter()
            .any(|(event, _)| event.attempt == attempt && event.migration == *migration)
    }

    /// A new connection: everything is to be sent again, with numbers from 1.
    pub fn begin_connection(&self) {
        let mut queue = self.queue();
        (queue.sent, queue.acknowledged) = (0, 0);
        for (_, sequence) in &mut queue.events {
            *sequence = None;
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// The next event to send; none when all are sent, or too many wait for their acknowledgement.
    #[must_use]
    pub fn next_to_send(&self) -> Option<v1::Event> {
        let mut queue = self.queue();
        if queue.sent - queue.acknowledged >= WINDOW {
            return None;
        }
        let sequence = queue.sent + 1;
        let (event, number) = queue.events.iter_mut().find(|(_, number)| number.is_none())?;
        *number = Some(sequence);
        let message = numbered(sequence, event.clone());
        queue.sent = sequence;
        Some(message)
    }

    /// Everything up to this number of this connection is on the coordinator's disk.
    pub fn acknowledge(&self, sequence: u64) {
        let mut queue = self.queue();
        queue.acknowledged = queue.acknowledged.max(sequence.min(queue.sent));
        while queue
            .events
            .front()
            .and_then(|(_, number)| *number)
            .is_some_and(|number| number <= sequence)
        {
            queue.events.pop_front();
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Waits until there may be something to send. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekeeper_shared::domain::step::{Done, Outcome, StepKind};

    fn event(attempt: u64) -> Event {
        Event {
            migration: "m".parse().unwrap(),
            attempt,
            step: Some(StepKind::Sync),
            outcome: Outcome::Done(Done::Plain),
            document: None,
        }
    }

    fn sent(outbox: &Outbox) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| outbox.next_to_send())
            .map(|e| (e.sequence, e.attempt))
            .collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_with_new_numbers() {
        let outbox = Outbox::default();
        (1..=3).for_each(|attempt| outbox.add(event(attempt)));
        assert_eq!(sent(&outbox), [(1, 1), (2, 2), (3, 3)]);
        outbox.acknowledge(1);
        assert!(!outbox.holds(&"m".parse().unwrap(), 1) && outbox.holds(&"m".parse().unwrap(), 2));
        outbox.begin_connection();
        outbox.add(event(4));
        assert_eq!(sent(&outbox), [(1, 2), (2, 3), (3, 4)]);
        // A number that was never sent acknowledges only what was sent.
        outbox.begin_connection();
        outbox.acknowledge(9);
        assert_eq!(sent(&outbox), [(1, 2), (2, 3), (3, 4)]);
    }

    #[test]
    fn the_window_holds_back_and_opens_again() {
        let outbox = Outbox::default();
        (1..=WINDOW + 5).for_each(|attempt| outbox.add(event(attempt)));
        assert_eq!(sent(&outbox).len() as u64, WINDOW);
        outbox.acknowledge(2);
        assert_eq!(sent(&outbox), [(WINDOW + 1, WINDOW + 1), (WINDOW + 2, WINDOW + 2)]);
    }
}
