//! Readers and the names of parts.
//!
//! RESTORE moves all parts to `detached/` and makes others of them, under names that others had. The caches of the server
//! know parts by their names: who reads a part of which they know another one is told nonsense, and ends the server (26.9:
//! an entry of the query condition cache has fewer marks than the part). Dropped before RESTORE they are filled again by
//! readers, and after it is too late.
//!
//! So RESTORE is held up in its middle: all parts are away, and none is made yet. Whoever begins to read now finds none.
//! When those have ended that began before, the caches are dropped, and RESTORE goes on. What holds up the reference is a
//! node at its path, its gate (`ZooKeeper::shut_gate`); a follower makes its parts out of its queue, which is stopped.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;
use tokio::time::Instant;

use super::work::{CODE, Work};
use crate::clickhouse::{Cache, Class, Error, Statement, code};
use crate::steps::clear::until_readers_end;
use crate::steps::failed;
use crate::steps::shared::caches::drop_caches;
use crate::steps::shared::owners::check_absent;
use crate::steps::shared::wait::{polls, until_alone};

/// How long readers are waited for. The table is out of service meanwhile, and most of those that may read it do not.
const PATIENCE: Duration = Duration::from_secs(60);

/// It has found the gate shut until it gave up; its parts are all in `detached/`.
pub(super) fn gave_up(error: &Error) -> bool {
    error.code() == Some(code::REPLICA_ALREADY_EXISTS)
}

impl Work<'_> {
    /// RESTORE of the reference. Who reads for longer than it waits at the gate is waited for after that.
    pub(super) async fn restore_at_the_gate(&self) -> Result<Result<(), Error>, Failure> {
        let (zookeeper, witness) = (&self.context.zookeeper, self.order.witness);
        if !zookeeper.shut_gate(witness).await? {
            check_absent(self.context, witness, Some(&self.table.name)).await?;
            let text = format!("somebody was at {} for a moment", self.table.path);
            return Err(Failure::passing(CODE, text));
        }
        let (statement, names) = (self.restore_statement(), self.until_names_are_free());
        tokio::pin!(statement, names);
        let (mut ended, freed) = tokio::select! {
            outcome = &mut statement => match outcome {
                Err(error) if gave_up(&error) => (Some(Err(error)), names.await),
                outcome => (Some(outcome), Ok(())),
            },
            freed = &mut names => (None, freed),
        };
        if freed.is_err() && ended.is_none() {
            ended = Some(statement.as_mut().await); // It gives up.
        }
        if let Some(Err(error)) = &ended
            && error.class() == Class::Unknown
        {
            // The answer was lost, and the server may still be at it: nobody waits for readers, so it has to give up.
            until_alone(self.context, self.table, CODE).await?;
        }
        let opened = self.open_gate().await;
        let outcome = match ended {
            Some(outcome) => outcome,
            None => statement.await,
        };
        freed?;
        opened?;
        Ok(outcome)
    }

    /// Also that of an agent that was killed.
    pub(super) async fn open_gate(&self) -> Result<(), Failure> {
        let witness = self.order.witness;
        self.context
            .zookeeper
            .open_gate(&witness.ensemble, &self.table.path)
            .await
    }

    pub(super) async fn restore_statement(&self) -> Result<(), Error> {
        let statement = Statement::RestoreReplica(&self.table.name);
        self.context.clickhouse.execute(statement).await
    }

    /// Until RESTORE has moved the parts away, and nobody reads them any more.
    async fn until_names_are_free(&self) -> Result<(), Failure> {
        let mut polls = polls();
        loop {
            let active = self.context.clickhouse.count_active_parts(&self.table.name).await;
            if active.map_err(failed(CODE))?.0 == 0 {
                break;
            }
            tokio::time::sleep(polls.next_delay()).await;
        }
        self.forget_former_names().await
    }

    /// A queue that is stopped keeps a follower from everything, and nobody else starts it.
    pub(super) async fn start_queue_again(&self) {
        if self.following.is_some()
            && let Err(failure) = self.execute(Statement::StartQueue(&self.table.name)).await
        {
            tracing::warn!(table = %self.table.name, error = %failure.problem, "its queue is not started");
        }
    }

    /// Drops the caches when nobody reads the former parts any more, who would fill them again.
    pub(super) async fn forget_former_names(&self) -> Result<(), Failure> {
        match until_readers_end(self.context, self.table, Instant::now() + PATIENCE, CODE).await {
            Err(late) if late.problem.code == Code::OldReaders => {
                tracing::warn!(table = %self.table.name, late = late.problem.message, "restored while it may be read");
            }
            outcome => outcome?,
        }
        drop_caches(self.context, &Cache::ALL, CODE).await
    }
}
