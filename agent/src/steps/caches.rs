//! The caches of the server, which know parts by names that belong to other parts after a restore.
//!
//! Dropping them once is not enough. A statement that began before the parts got their new names holds the old ones,
//! and fills the caches for as long as it runs. Measured on 26.9: a SELECT that began between ATTACH and RESTORE and ended
//! after the caches were dropped left an entry in the query condition cache, after which SELECTs answered 1 for 10,001.

use std::time::Duration;

use rekeeper_shared::problem::Code;
use rekeeper_shared::step::Failure;
use tokio::time::Instant;

use super::failed;
use super::readers::may_read;
use super::restore::{CODE, Work};
use super::wait::polls;
use crate::clickhouse::{Cache, Running, code};
use crate::clock::Moment;

/// How long statements of others may run on, in one attempt.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How exact the times of two clocks on one machine are taken to be; a statement also looks its tables up a while after
/// it began.
const MARGIN: Duration = Duration::from_secs(10);
/// How much of a statement is shown.
const SHOWN: usize = 120;

impl Work<'_> {
    pub(super) async fn drop_caches(&self, caches: &[Cache]) -> Result<(), Failure> {
        for cache in caches {
            match self.context.clickhouse.drop_cache(*cache).await {
                Ok(()) => {}
                // An older server, which does not have this cache.
                Err(error) if matches!(error.code(), Some(code::SYNTAX_ERROR)) => {}
                Err(error) => return Err(failed(CODE)(error)),
            }
        }
        Ok(())
    }

    /// Drops the caches so that nothing of former names comes back. By now every part has the name that it keeps.
    ///
    /// When nobody is left who began before this, nobody holds an old part, and marks, indexes and blocks that are read
    /// from now on are the right ones. Who was given wrong ones until then may still note in the query condition cache
    /// what they made of them; hence the second round.
    pub(super) async fn until_caches_are_right(&self) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        self.until_readers_end(until).await?;
        self.drop_caches(&Cache::ALL).await?;
        self.until_readers_end(until).await?;
        self.drop_caches(&[Cache::QueryCondition]).await
    }

    /// Waits until every statement of others has ended that runs now and may read the table, but not beyond `until`.
    async fn until_readers_end(&self, until: Instant) -> Result<(), Failure> {
        let attached_at = self.restore_note()?.attached_at;
        let (began, mut polls) = (Instant::now(), polls());
        loop {
            // Before the question and after the answer, which may take a while: so nobody is excepted too early.
            let waited = began.elapsed();
            let running = self.context.clickhouse.running_of_others().await;
            let mut running = running.map_err(failed(CODE))?;
            // None when it is not known, or the machine was started since: then nobody is excepted.
            let attached = attached_at.as_ref().and_then(Moment::elapsed);
            running.retain(|statement| may_hold_old_parts(statement, waited, attached));
            let readers = self.readers_among(running).await?;
            let Some((oldest, why)) = readers.iter().max_by_key(|(statement, _)| statement.elapsed) else {
                return Ok(());
            };
            let text = format!(
                "{} statements run that may have begun to read {} before its parts got their new names; the oldest, for \
                 {} s, has the query_id {} ({why}): {}",
                readers.len(),
                self.table.name,
                oldest.elapsed.as_secs(),
                oldest.query_id,
                oldest.query.chars().take(SHOWN).collect::<String>()
            );
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::lasting(Code::OldReaders, text));
            }
            self.doing(format!("waits for {} s more at most: {text}", left.as_secs()));
            tokio::time::sleep(polls.next_delay()).await;
        }
    }

    /// Those that may read the table, each with the reason.
    async fn readers_among(&self, running: Vec<Running>) -> Result<Vec<(Running, String)>, Failure> {
        if running.is_empty() {
            return Ok(Vec::new());
        }
        // Each time, since views are made all the time.
        let through = self.context.clickhouse.read_through().await.map_err(failed(CODE))?;
        let readers = running.into_iter().filter_map(|statement| {
            let why = may_read(&statement.query, &self.table.name, &through)?;
            Some((statement, why))
        });
        Ok(readers.collect())
    }
}

/// Whether a statement that was looked at `waited` after the wait began, or a little later, ran already then and began
/// after the table was attached, so long ago. A table that is detached has no readers.
fn may_hold_old_parts(statement: &Running, waited: Duration, attached: Option<Duration>) -> bool {
    statement.elapsed >= waited && attached.is_none_or(|attached| statement.elapsed <= attached + MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waited_for_is_who_began_after_the_attach_and_before_the_wait() {
        let seconds = Duration::from_secs;
        let waits_for = |elapsed, waited, attached: Option<u64>| {
            let statement = Running {
                query_id: "q".into(),
                query: "SELECT 1".into(),
                elapsed: seconds(elapsed),
            };
            may_hold_old_parts(&statement, seconds(waited), attached.map(seconds))
        };
        assert!(waits_for(40, 5, Some(60)));
        // It began while others were waited for.
        assert!(!waits_for(4, 5, Some(60)));
        // The table was not there when it began: DETACH waits for those who use it.
        assert!(!waits_for(3600, 5, Some(60)));
        assert!(waits_for(61, 5, Some(60)));
        // Attached by somebody, nobody knows when.
        assert!(waits_for(3600, 5, None));
    }
}
