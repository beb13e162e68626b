//! A follower's way back: it clones the reference, and is only waited for.

use std::collections::HashSet;
use std::time::Duration;

use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::step::Failure;
use tokio::time::Instant;

use super::leftovers;
use super::work::{CODE, Work};
use crate::steps::failed;
use crate::steps::shared::wait::{PATIENCE, polls, sync_round};
use crate::words::some_of;

/// How long one statement waits for the queue.
const SYNC_ROUND: Duration = Duration::from_secs(20);
/// How long nothing may change where the parts are not all there.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What was seen of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Entries that were queued at the first look, and are still; users may write all the time, and a queue is never empty
    /// then.
    queued: usize,
    /// Parts that are still to come; what it has to bring itself is attached afterwards.
    open: u64,
    /// How long nothing of this has changed.
    stands: Duration,
}

/// What is done next about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It has all that it can fetch.
    Done,
    Wait,
    /// Nothing brings what is open.
    Unaccounted,
    /// Its queue does not move on.
    Queue,
}

fn next(seen: Seen) -> Next {
    match (seen.queued, seen.open) {
        (0, 0) => Next::Done,
        (_, _) if seen.stands < STANDSTILL => Next::Wait,
        (0, _) => Next::Unaccounted,
        (_, _) => Next::Queue,
    }
}

impl Work<'_> {
    /// A follower fetches and attaches by itself, and goes on by itself after it was interrupted: it is only waited for.
    pub(super) async fn follow(&self) -> Result<(), Failure> {
        let clickhouse = &self.context.clickhouse;
        let mut former = (Vec::new(), Account::default());
        let (mut since, mut polls) = (Instant::now(), polls());
        let mut goal: Option<HashSet<String>> = None;
        loop {
            if let Err(error) = sync_round(self.context, self.table, SYNC_ROUND).await {
                return Err(failed(CODE)(error));
            }
            self.until_in_service(PATIENCE)
                .await?
                .map_err(|state| self.not_in_service(&state))?;
            let queued = clickhouse
                .queued_but_merges(&self.table.name)
                .await
                .map_err(failed(CODE))?;
            let goal = goal.get_or_insert_with(|| queued.iter().cloned().collect());
            let queued: Vec<String> = queued.into_iter().filter(|entry| goal.contains(entry)).collect();
            if queued.is_empty() {
                // Of what it has to bring itself, a server that was killed may have left a part under another name.
                leftovers::give_names_back(self).await?;
            }
            let account = self.account().await?;
            let open = account.count(|fate| matches!(fate, Fate::Missing));
            let now = (queued, account);
            if now != former {
                former = now;
                since = Instant::now();
            }
            let (queued, account) = &former;
            let seen = Seen {
                queued: queued.len(),
                open,
                stands: since.elapsed(),
            };
            match next(seen) {
                Next::Done => return Ok(()),
                Next::Unaccounted => return Err(self.unaccounted(account).await),
                Next::Queue => {
                    let text = format!("the queue of {} does not move on: {}", self.table.name, some_of(queued));
                    return Err(Failure::passing(CODE, text));
                }
                Next::Wait => self.doing(format!(
                    "{open} of {} parts are still to come, {} entries are queued",
                    account.fates.len(),
                    queued.len()
                )),
            }
            tokio::time::sleep(polls.next_delay()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_waited_for_as_long_as_something_comes() {
        let after = |queued, open, stands| next(Seen { queued, open, stands });
        let (moves, stands) = (Duration::ZERO, STANDSTILL);
        assert_eq!(after(0, 0, stands), Next::Done);
        assert_eq!(after(0, 1, moves), Next::Wait);
        assert_eq!(after(1, 0, moves), Next::Wait);
        assert_eq!(after(0, 1, stands), Next::Unaccounted);
        assert_eq!(after(1, 0, stands), Next::Queue);
        assert_eq!(after(1, 1, stands), Next::Queue);
    }
}
