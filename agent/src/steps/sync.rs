//! Sync: what is to be fetched is fetched, before the table is detached.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, TableRef};
use tokio::time::Instant;

use super::shared::look::{Found, look};
use super::shared::wait::{sync_round, until_alone};
use super::{Context, StepResult, failed};

/// How long a replica may take to catch up.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long one statement waits: short, so that people see that something goes on.
const ROUND: Duration = Duration::from_secs(20);

/// Waits until the replica has fetched what it has to, at most ten minutes. A table that is detached already has
/// nothing to fetch; whether it has all it should is judged when its set is settled.
///
/// # Errors
/// SYNC_FAILED; passing when the replica is cut off from ZooKeeper at the moment.
pub async fn sync(context: &Context, table: &TableRef) -> StepResult {
    until_alone(context, table, Code::SyncFailed).await?;
    let began = Instant::now();
    loop {
        let replica = match look(context, table, Code::SyncFailed).await? {
            Found::Attached(replica) => replica,
            Found::Detached { .. } => return Ok(Done::Plain.into()),
        };
        if replica.readonly || replica.session_expired {
            return Err(Failure::passing(
                Code::SyncFailed,
                format!("{} cannot catch up: {}", table.name, replica.state()),
            ));
        }
        if began.elapsed() >= PATIENCE {
            let minutes = PATIENCE.as_secs() / 60;
            return Err(Failure::lasting(
                Code::SyncFailed,
                format!(
                    "{} did not catch up within {minutes} minutes; {} entries are queued {}",
                    table.name, replica.queue_size, replica.queue_exception
                ),
            ));
        }
        context.doing(format!(
            "{} catches up since {} s, {} entries are queued",
            table.name,
            began.elapsed().as_secs(),
            replica.queue_size
        ));
        let turn = context.clickhouse.table_turn().await;
        let round = ROUND.min(PATIENCE.saturating_sub(began.elapsed()));
        if sync_round(context, table, round)
            .await
            .map_err(failed(Code::SyncFailed))?
        {
            return Ok(Done::Plain.into());
        }
        drop(turn);
    }
}
