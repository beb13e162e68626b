//! A table that is attached while its metadata is not there: read-only, with merges stopped.

use std::time::Duration;

use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Failure, TableRef};
use tokio::time::Instant;

use super::look::{Found, look};
use super::wait::{polls, until_alone};
use crate::clickhouse::{Class, Replica, Statement, code};
use crate::clock::Moment;
use crate::state::StateError;
use crate::steps::{Context, failed, state_failed};

/// How long ClickHouse may take to find out that the metadata is missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// ATTACH TABLE; whoever is quicker has done it, too.
pub(in crate::steps) async fn attach_statement(context: &Context, table: &TableRef) -> Result<(), Failure> {
    note_attach(context, table).map_err(state_failed(Code::AttachFailed))?;
    context.doing(format!("attaches {}", table.name));
    match context.clickhouse.execute(Statement::AttachTable(&table.name)).await {
        Ok(()) => Ok(()),
        // Somebody was quicker, or it is not known: what follows finds out.
        Err(error) if error.code() == Some(code::TABLE_ALREADY_EXISTS) || error.class() == Class::Unknown => {
            until_alone(context, table, Code::AttachFailed).await
        }
        Err(error) => Err(failed(Code::AttachFailed)(error)),
    }
}

/// Nobody can have read the table's parts under the names that they have now before it is attached: those that may read
/// them when they get others began after this.
fn note_attach(context: &Context, table: &TableRef) -> Result<(), StateError> {
    let mut note = context.state.restore_note(&context.migration, table)?;
    if note.attached_at.is_none() {
        note.attached_at = Moment::now();
        context.state.write_restore_note(&context.migration, table, &note)?;
    }
    Ok(())
}

/// SYSTEM STOP MERGES, now and after every start of the server.
pub(in crate::steps) async fn stop_merges(context: &Context, table: &TableRef) -> Result<(), Failure> {
    let held = context.state.hold_merges(&context.migration, table);
    held.map_err(state_failed(Code::AttachFailed))?;
    let statement = Statement::StopMerges(&table.name);
    context
        .clickhouse
        .execute(statement)
        .await
        .map_err(failed(Code::AttachFailed))
}

/// SYSTEM RESTART REPLICA, after which merges are stopped again: it starts them.
pub(in crate::steps) async fn start_anew(context: &Context, table: &TableRef, code: Code) -> Result<(), Failure> {
    context.doing(format!("starts the replica of {} anew", table.name));
    let statement = Statement::RestartReplica(&table.name);
    context.clickhouse.execute(statement).await.map_err(failed(code))?;
    stop_merges(context, table).await
}

/// Waits until the server has looked for the metadata and not found it. Read-only alone is no proof: a table is so for a
/// moment after every start.
pub(in crate::steps) async fn until_without_metadata(context: &Context, table: &TableRef) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let (mut polls, mut started_anew) = (polls(), false);
    loop {
        let Found::Attached(replica) = look(context, table, Code::AttachFailed).await? else {
            return Err(Failure::passing(
                Code::AttachFailed,
                format!("{} does not stay attached", table.name),
            ));
        };
        if replica.has_lost_its_session() && !started_anew {
            start_anew(context, table, Code::AttachFailed).await?;
            started_anew = true;
            continue;
        }
        if !replica.readonly {
            return Err(Failure::lasting(
                Code::PathExists,
                format!(
                    "{} came into service: its metadata exists at {}",
                    table.name, replica.path
                ),
            ));
        }
        if metadata_is_missing(&replica, table) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::passing(
                Code::AttachFailed,
                format!(
                    "{} is {}, but the server does not say that its metadata is missing; does the root of its \
                     ZooKeeper configuration exist?",
                    table.name,
                    replica.state()
                ),
            ));
        }
        context.doing(format!("waits until {} is read-only without metadata", table.name));
        tokio::time::sleep(polls.next_delay()).await;
    }
}

/// Measured on 26.9: `Coordination error: No node, path /tables/01/d/t/log`; where another replica is at the path, and this
/// one is not, `Coordination error: No node. (KEEPER_EXCEPTION)`.
pub(in crate::steps) fn metadata_is_missing(replica: &Replica, table: &TableRef) -> bool {
    let exception = &replica.zookeeper_exception;
    let is_it = exception.contains(table.path.as_str()) || exception.contains("No node. (");
    replica.readonly && exception.contains("No node") && is_it
}

/// Detaches a table that is read-only without metadata, if it is attached, and attaches it again.
pub(in crate::steps) async fn attach_anew(context: &Context, table: &TableRef) -> Result<(), Failure> {
    if let Found::Attached(_) = look(context, table, Code::AttachFailed).await? {
        let detached = context.clickhouse.execute(Statement::DetachPermanently(&table.name));
        detached.await.map_err(failed(Code::AttachFailed))?;
    }
    attach_statement(context, table).await?;
    stop_merges(context, table).await?;
    until_without_metadata(context, table).await
}
