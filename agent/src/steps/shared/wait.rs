//! Bounded waiting for a table.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};
use rekeeper_shared::tools::backoff::Backoff;
use tokio::time::Instant;

use super::look::{Found, look};
use crate::clickhouse::{Error, Statement, code};
use crate::steps::{Context, failed};

/// How long a table may take to come into service, and ZooKeeper to know of it.
pub(in crate::steps) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is looked at that changes by itself.
pub(in crate::steps) const POLL: Duration = Duration::from_millis(300);
/// The first time a state is looked at again, where it mostly changes at once.
const FIRST_POLL: Duration = Duration::from_millis(20);

/// How long to wait until each next look: soon at first, then every [`POLL`].
pub(in crate::steps) fn polls() -> Backoff {
    Backoff::new(FIRST_POLL, POLL)
}

/// Waits until an attached table does its work; answers whether it does.
pub(in crate::steps) async fn until_in_service(
    context: &Context,
    table: &TableRef,
    patience: Duration,
    code: Code,
) -> Result<Result<(), String>, Failure> {
    let deadline = Instant::now() + patience;
    let mut polls = polls();
    loop {
        let Found::Attached(replica) = look(context, table, code).await? else {
            return Err(Failure::lasting(
                code,
                format!("{} was detached by somebody", table.name),
            ));
        };
        if replica.is_in_service() {
            return Ok(Ok(()));
        }
        if Instant::now() >= deadline {
            return Ok(Err(replica.state()));
        }
        context.doing(format!(
            "{} waits to come into service: {}",
            table.name,
            replica.state()
        ));
        tokio::time::sleep(polls.next_delay()).await;
    }
}

/// SYSTEM SYNC REPLICA for a short while; answers whether it is in sync.
pub(in crate::steps) async fn sync_round(context: &Context, table: &TableRef, round: Duration) -> Result<bool, Error> {
    let seconds = round.as_secs().max(1).to_string();
    let settings = [("receive_timeout", seconds.as_str())];
    let clickhouse = &context.clickhouse;
    let lightweight = Statement::SyncReplicaLightweight(&table.name);
    let mut outcome = clickhouse.execute_with(lightweight, &settings).await;
    if outcome.as_ref().is_err_and(|e| e.code() == Some(code::SYNTAX_ERROR)) {
        let statement = Statement::SyncReplica(&table.name);
        outcome = clickhouse.execute_with(statement, &settings).await;
    }
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(code::TIMEOUT_EXCEEDED) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How long a server may be away that somebody starts again, such as systemd after a crash.
const AWAY: Duration = Duration::from_secs(60);

/// No statement of an earlier attempt on the table runs any more, and no restore of anybody. A server that is being
/// started again is waited for: attempts would be used up before it is there.
pub(in crate::steps) async fn until_alone(context: &Context, table: &TableRef, code: Code) -> Result<(), Failure> {
    let deadline = Instant::now() + AWAY;
    loop {
        let report = |text: String| context.doing(format!("{} {text}", table.name));
        match context.clickhouse.wait_out_statements_on(&table.name, report).await {
            Ok(()) => return Ok(()),
            // The question changes nothing, so it may be asked again also when it was cut off.
            Err(Error::Unreachable { .. } | Error::Unknown { .. }) if Instant::now() < deadline => {
                context.doing(format!("{} waits for the server, which cannot be reached", table.name));
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(failed(code)(error)),
        }
    }
}
