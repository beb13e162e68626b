//! Clear: the caches of the server, which know parts by names that belong to other parts after a restore.
//!
//! Dropping them once is not enough. A statement that began before the parts got their new names holds the old ones,
//! and fills the caches for as long as it runs. Measured on 26.9: a SELECT that began between ATTACH and RESTORE and ended
//! after the caches were dropped left an entry in the query condition cache, after which SELECTs answered 1 for 10,001.

mod readers;

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, TableRef};
use tokio::time::Instant;

pub(crate) use readers::may_read;

use crate::clickhouse::{Cache, Running};
use crate::clock::Moment;
use crate::steps::shared::caches::drop_caches;
use crate::steps::shared::look::{Found, look};
use crate::steps::shared::wait::polls;
use crate::steps::{Context, StepResult, failed, state_failed};

/// How long statements of others may run on, in one attempt.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How exact the times of two clocks on one machine are taken to be; a statement also looks its tables up a while after
/// it began.
const MARGIN: Duration = Duration::from_secs(10);
/// How much of a statement is shown.
const SHOWN: usize = 120;

/// Drops the caches so that no answer is wrong from now on. A step of its own, so that the other replicas are restored while
/// this one waits for who reads it.
///
/// # Errors
/// OLD_READERS, RESTORE_FAILED, TABLE_CHANGED.
pub async fn clear(context: &Context, table: &TableRef) -> StepResult {
    let code = Code::RestoreFailed;
    match look(context, table, code).await? {
        Found::Attached(_) => until_caches_are_right(context, table, code).await?,
        Found::Detached { .. } => return Err(Failure::lasting(code, format!("{} is detached", table.name))),
    }
    Ok(Done::Plain.into())
}

/// Drops the caches so that nothing of former names comes back. By now every part has the name that it keeps.
///
/// When nobody is left who began before this, nobody holds an old part, and marks, indexes and blocks that are read
/// from now on are the right ones. Who was given wrong ones until then may still note in the query condition cache
/// what they made of them; hence the second round.
async fn until_caches_are_right(context: &Context, table: &TableRef, code: Code) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    until_readers_end(context, table, until, code).await?;
    drop_caches(context, &Cache::ALL, code).await?;
    until_readers_end(context, table, until, code).await?;
    drop_caches(context, &[Cache::QueryCondition], code).await
}

/// Waits until every statement of others has ended that runs now and may read the table, but not beyond `until`.
pub(in crate::steps) async fn until_readers_end(
    context: &Context,
    table: &TableRef,
    until: Instant,
    code: Code,
) -> Result<(), Failure> {
    let attached_at = context
        .state
        .restore_note(&context.migration, table)
        .map_err(state_failed(code))?
        .attached_at;
    let (began, mut polls) = (Instant::now(), polls());
    loop {
        // Before the question and after the answer, which may take a while: so nobody is excepted too early.
        let waited = began.elapsed();
        let running = context.clickhouse.running_of_others().await;
        let mut running = running.map_err(failed(code))?;
        // None when it is not known, or the machine was started since: then nobody is excepted.
        let attached = attached_at.as_ref().and_then(Moment::elapsed);
        running.retain(|statement| may_hold_old_parts(statement, waited, attached));
        let readers = readers_among(context, table, running, code).await?;
        let Some((oldest, why)) = readers.iter().max_by_key(|(statement, _)| statement.elapsed) else {
            return Ok(());
        };
        let text = format!(
            "{} statements run that may have begun to read {} before its parts got their new names; the oldest, for \
             {} s, has the query_id {} ({why}): {}",
            readers.len(),
            table.name,
            oldest.elapsed.as_secs(),
            oldest.query_id,
            oldest.query.chars().take(SHOWN).collect::<String>()
        );
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::lasting(Code::OldReaders, text));
        }
        context.doing(format!(
            "{}: waits for {} s more at most: {text}",
            table.name,
            left.as_secs()
        ));
        tokio::time::sleep(polls.next_delay()).await;
    }
}

/// Those that may read the table, each with the reason.
async fn readers_among(
    context: &Context,
    table: &TableRef,
    running: Vec<Running>,
    code: Code,
) -> Result<Vec<(Running, String)>, Failure> {
    if running.is_empty() {
        return Ok(Vec::new());
    }
    // Each time, since views are made all the time.
    let through = context.clickhouse.read_through().await.map_err(failed(code))?;
    let readers = running.into_iter().filter_map(|statement| {
        let why = may_read(&statement.query, &table.name, &through)?;
        Some((statement, why))
    });
    Ok(readers.collect())
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
