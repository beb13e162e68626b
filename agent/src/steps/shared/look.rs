//! What is really there: by UUID, path and replica name, not by name alone.

use std::time::Duration;

use rekeeper_shared::domain::ids::{TableName, quote_identifier, quote_literal};
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::domain::step::{Failure, TableRef};
use tokio::time::Instant;

use crate::clickhouse::{DetachedTable, Replica, Turn, is_zero_uuid};
use crate::steps::{Context, failed};

/// How the server has a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::steps) enum Found {
    /// Attached.
    Attached(Replica),
    /// Detached.
    Detached {
        /// Also over a restart; none when the server (before 24.x) does not tell.
        permanently: Option<bool>,
    },
}

/// How long ago a look may be when a statement is sent because of it.
pub(in crate::steps) const FRESH: Duration = Duration::from_secs(1);

/// Looks for the table and waits for a turn; who waited for long looks again.
pub(in crate::steps) async fn look_in_turn(
    context: &Context,
    table: &TableRef,
    code: Code,
) -> Result<(Found, Turn), Failure> {
    let found = look(context, table, code).await?;
    let looked = Instant::now();
    let turn = context.clickhouse.table_turn().await;
    if looked.elapsed() <= FRESH {
        return Ok((found, turn));
    }
    Ok((look(context, table, code).await?, turn))
}

/// Looks for the table; another table of its name, or it under another name, is a changed one. `code` is that of a
/// server that cannot be asked.
pub(in crate::steps) async fn look(context: &Context, table: &TableRef, code: Code) -> Result<Found, Failure> {
    match find(context, table, code).await? {
        Ok(found) => Ok(found),
        Err(changed) => Err(changed.into_failure(context, table)),
    }
}

/// A table that is not as it was planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::steps) enum Changed {
    /// It is there under this name.
    Renamed { to: TableName, by: Renaming },
    /// The server does not have it any more; there may be another one of its name, of this UUID.
    Gone { other: Option<String> },
    /// It is a replica elsewhere, or none: what it is now.
    Elsewhere(String),
}

/// How a table came by another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::steps) enum Renaming {
    /// It was renamed.
    Table,
    /// Another table has its name now.
    Swap,
    /// The whole database has another name.
    Database,
}

/// The same as [`look`], with a changed table for an answer.
pub(in crate::steps) async fn find(
    context: &Context,
    table: &TableRef,
    code: Code,
) -> Result<Result<Found, Changed>, Failure> {
    let (clickhouse, name) = (&context.clickhouse, &table.name);
    let asked = tokio::try_join!(clickhouse.uuid_of(name), clickhouse.replica(name));
    let (attached, mut replica) = asked.map_err(failed(code))?;
    if attached.as_ref().is_some_and(|uuid| *uuid == table.uuid) {
        if replica.is_none() {
            // It may have been attached in between.
            replica = clickhouse.replica(name).await.map_err(failed(code))?;
        }
        let Some(replica) = replica else {
            return Ok(Err(Changed::Elsewhere("no replicated table".to_owned())));
        };
        let same_path = ZkPath::parse(&replica.path).is_ok_and(|path| path == table.path);
        if !same_path || replica.replica_name != table.replica_name {
            let now = format!("replica {} of {}", replica.replica_name, replica.path);
            return Ok(Err(Changed::Elsewhere(now)));
        }
        return Ok(Ok(Found::Attached(replica)));
    }
    if !is_zero_uuid(&table.uuid)
        && let Some(to) = clickhouse.name_of(&table.uuid).await.map_err(failed(code))?
    {
        let by = if attached.is_some() {
            Renaming::Swap
        } else {
            renaming(context, table, &to, code).await?
        };
        return Ok(Err(Changed::Renamed { to, by }));
    }
    if attached.is_some() {
        return Ok(Err(Changed::Gone { other: attached }));
    }
    Ok(match clickhouse.detached_table(name).await.map_err(failed(code))? {
        DetachedTable::Is { uuid, .. } if uuid != table.uuid => Err(Changed::Gone { other: Some(uuid) }),
        DetachedTable::Is { permanently, .. } => Ok(Found::Detached {
            permanently: Some(permanently),
        }),
        DetachedTable::NotTold => Ok(Found::Detached { permanently: None }),
        DetachedTable::None if is_zero_uuid(&table.uuid) => Err(Changed::Gone { other: None }),
        DetachedTable::None => match clickhouse.detached_name_of(&table.uuid).await.map_err(failed(code))? {
            Some(to) => {
                let by = renaming(context, table, &to, code).await?;
                Err(Changed::Renamed { to, by })
            }
            None => Err(Changed::Gone { other: None }),
        },
    })
}

/// Whether the table's own name was changed, or that of its database.
async fn renaming(context: &Context, table: &TableRef, to: &TableName, code: Code) -> Result<Renaming, Failure> {
    let (own, now) = (&table.name, to);
    if own.table != now.table || own.database == now.database {
        return Ok(Renaming::Table);
    }
    let is_there = context.clickhouse.has_database(&own.database).await;
    Ok(match is_there.map_err(failed(code))? {
        true => Renaming::Table,
        false => Renaming::Database,
    })
}

impl Changed {
    /// What to tell people: where the planned table is, and how it gets back.
    fn into_failure(self, context: &Context, table: &TableRef) -> Failure {
        let (name, migration) = (&table.name, &context.migration);
        let leave = format!(
            "as long as none of its nodes was deleted: rekeeper skip {migration} --table {}",
            quote_literal(&name.to_string())
        );
        let (text, fix) = match self {
            Self::Renamed { to, by } => {
                let back = match by {
                    Renaming::Swap => format!("EXCHANGE TABLES {} AND {}", name.sql(), to.sql()),
                    Renaming::Table => format!("RENAME TABLE {} TO {}", to.sql(), name.sql()),
                    Renaming::Database => format!(
                        "RENAME DATABASE {} TO {}",
                        quote_identifier(&to.database),
                        quote_identifier(&name.database)
                    ),
                };
                (
                    format!("{name} is called {to} now"),
                    format!("on this host: {back}; then rekeeper retry {migration}; or, {leave}"),
                )
            }
            Self::Gone { other } => {
                let now = match other {
                    Some(uuid) => format!("{name} has the UUID {uuid} now, the plan knows it as {}", table.uuid),
                    None => format!("the server has no table {name}, neither attached nor detached"),
                };
                let fix = format!(
                    "somebody has dropped the table that was planned: {leave}; after that its other replicas go on without \
                     this one: rekeeper skip {migration} --table {} --host {}",
                    quote_literal(&name.to_string()),
                    context.host
                );
                (now, fix)
            }
            Self::Elsewhere(now) => (
                format!(
                    "{name} is {now} now, and was planned as replica {} of {}",
                    table.replica_name, table.path
                ),
                format!("make it again what it was, then rekeeper retry {migration}; or, {leave}"),
            ),
        };
        let mut problem = Problem::new(Code::TableChanged, text);
        problem.fix = fix;
        Failure { problem, retry: false }
    }
}
