//! A table that is attached while its metadata is not there: read-only, with merges stopped.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};
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

/// What was seen of a table that was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Alone no proof: a table is so for a moment after every start.
    is_readonly: bool,
    /// The server has looked for the metadata, and not found it.
    is_missing: bool,
    /// It was attached, and lost its session with ZooKeeper right after that.
    has_lost_its_session: bool,
    /// It was started anew because of that.
    was_started_anew: bool,
    /// It may still be waited for.
    in_time: bool,
}

/// What is done next about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is read-only, without metadata.
    Done,
    StartAnew,
    Wait,
    /// It came into service: its metadata is there.
    Exists,
    /// The server does not say that its metadata is missing.
    NotTold,
}

fn next(seen: Seen) -> Next {
    if seen.has_lost_its_session && !seen.was_started_anew {
        Next::StartAnew
    } else if !seen.is_readonly {
        Next::Exists
    } else if seen.is_missing {
        Next::Done
    } else if seen.in_time {
        Next::Wait
    } else {
        Next::NotTold
    }
}

/// Waits until the server has looked for the metadata and not found it.
pub(in crate::steps) async fn until_without_metadata(context: &Context, table: &TableRef) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let (mut polls, mut was_started_anew) = (polls(), false);
    loop {
        let Found::Attached(replica) = look(context, table, Code::AttachFailed).await? else {
            let text = format!("{} does not stay attached", table.name);
            return Err(Failure::passing(Code::AttachFailed, text));
        };
        let seen = Seen {
            is_readonly: replica.readonly,
            is_missing: metadata_is_missing(&replica, table),
            has_lost_its_session: replica.has_lost_its_session(),
            was_started_anew,
            in_time: Instant::now() < deadline,
        };
        match next(seen) {
            Next::Done => return Ok(()),
            Next::StartAnew => {
                start_anew(context, table, Code::AttachFailed).await?;
                was_started_anew = true;
            }
            Next::Wait => {
                context.doing(format!("waits until {} is read-only without metadata", table.name));
                tokio::time::sleep(polls.next_delay()).await;
            }
            Next::Exists => {
                let text = format!(
                    "{} came into service: its metadata exists at {}",
                    table.name, replica.path
                );
                return Err(Failure::lasting(Code::PathExists, text));
            }
            Next::NotTold => {
                let text = format!(
                    "{} is {}, but the server does not say that its metadata is missing; does the root of its ZooKeeper \
                     configuration exist?",
                    table.name,
                    replica.state()
                );
                return Err(Failure::passing(Code::AttachFailed, text));
            }
        }
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

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::ids::TableName;
    use rekeeper_shared::domain::place::ZkPath;

    use super::*;

    #[test]
    fn a_table_is_without_metadata_when_the_server_says_so() {
        let seen = |flags: [bool; 5]| {
            let [is_readonly, is_missing, has_lost_its_session, was_started_anew, in_time] = flags;
            next(Seen {
                is_readonly,
                is_missing,
                has_lost_its_session,
                was_started_anew,
                in_time,
            })
        };
        let (yes, no) = (true, false);
        assert_eq!(seen([yes, yes, no, no, no]), Next::Done);
        assert_eq!(seen([yes, no, no, no, yes]), Next::Wait);
        assert_eq!(seen([yes, no, no, no, no]), Next::NotTold);
        assert_eq!(seen([no, no, no, no, yes]), Next::Exists);
        assert_eq!(seen([yes, no, yes, no, yes]), Next::StartAnew);
        // Once: what stays so is waited for.
        assert_eq!(seen([yes, no, yes, yes, yes]), Next::Wait);
        assert_eq!(seen([yes, no, yes, yes, no]), Next::NotTold);
        assert_eq!(seen([yes, yes, yes, yes, no]), Next::Done);
    }

    #[test]
    fn metadata_is_missing_at_this_very_path() {
        let table = TableRef {
            name: TableName::new("d", "t"),
            uuid: "u".into(),
            path: ZkPath::parse("/tables/01/d/t").unwrap(),
            replica_name: "r1".into(),
        };
        let is_missing = |readonly, exception: &str| {
            let replica = Replica {
                readonly,
                zookeeper_exception: exception.to_owned(),
                ..REPLICA
            };
            metadata_is_missing(&replica, &table)
        };
        let first = "Coordination error: No node, path /tables/01/d/t/log";
        let follower = "Coordination error: No node. (KEEPER_EXCEPTION)";
        assert!(is_missing(true, first) && is_missing(true, follower));
        assert!(!is_missing(false, first));
        for other in ["", "Session expired", "Coordination error: No node, path /other/log"] {
            assert!(!is_missing(true, other), "{other}");
        }
    }

    const REPLICA: Replica = Replica {
        readonly: true,
        session_expired: false,
        path: String::new(),
        replica_name: String::new(),
        zookeeper_exception: String::new(),
        queue_exception: String::new(),
        queue_size: 0,
        active: false,
    };
}
