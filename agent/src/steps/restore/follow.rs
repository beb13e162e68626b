//! A follower's way back: it clones the reference, and is only waited for.

use std::collections::HashSet;
use std::time::Duration;

use rekeeper_shared::accounting::{Account, Fate};
use rekeeper_shared::step::Failure;
use tokio::time::Instant;

use super::leftovers;
use super::work::{CODE, Work};
use crate::steps::failed;
use crate::steps::shared::wait::PATIENCE;
use crate::steps::shared::wait::{polls, sync_round};
use crate::words::some_of;

/// How long one statement waits for the queue.
const SYNC_ROUND: Duration = Duration::from_secs(20);
/// How long nothing may change where the parts are not all there.
const STANDSTILL: Duration = Duration::from_secs(60);

impl Work<'_> {
    /// A follower fetches and attaches by itself, and goes on by itself after it was interrupted: it is only waited for.
    pub(super) async fn follow(&self) -> Result<(), Failure> {
        let clickhouse = &self.context.clickhouse;
        let mut seen = (Vec::new(), Account::default());
        let (mut since, mut polls) = (Instant::now(), polls());
        // What was queued at the first look; users may write all the time, and a queue is never empty then.
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
            // What it has to bring itself is attached afterwards.
            let open = account.count(|fate| matches!(fate, Fate::Missing));
            if queued.is_empty() && open == 0 {
                return Ok(());
            }
            self.doing(format!(
                "{open} of {} parts are still to come, {} entries are queued",
                account.fates.len(),
                queued.len()
            ));
            let now = (queued, account);
            if now != seen {
                seen = now;
                since = Instant::now();
            } else if since.elapsed() >= STANDSTILL {
                return Err(if seen.0.is_empty() {
                    self.unaccounted(&seen.1).await
                } else {
                    let queue = some_of(&seen.0);
                    Failure::passing(
                        CODE,
                        format!("the queue of {} does not move on: {queue}", self.table.name),
                    )
                });
            }
            tokio::time::sleep(polls.next_delay()).await;
        }
    }
}
