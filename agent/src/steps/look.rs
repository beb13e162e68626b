//! What is really there: by UUID, path and replica name, not by name alone.

use rekeeper_shared::place::ZkPath;
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Failure, TableRef};

use super::{Context, failed};
use crate::clickhouse::{DetachedTable, Replica, is_zero_uuid};

/// How the server has a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Attached.
    Attached(Replica),
    /// Detached.
    Detached {
        /// Also over a restart; none when the server (before 24.x) does not tell.
        permanently: Option<bool>,
    },
}

/// Looks for the table; another table of its name, or it under another name, is a changed one. `code` is that of a
/// server that cannot be asked.
pub(super) async fn look(context: &Context, table: &TableRef, code: Code) -> Result<Found, Failure> {
    let (clickhouse, name) = (&context.clickhouse, &table.name);
    let changed = |text: String| Err(Failure::lasting(Code::TableChanged, text));
    let other_uuid = |uuid: &str| {
        changed(format!(
            "{name} has the UUID {uuid} now, the plan knows it as {}",
            table.uuid
        ))
    };
    if let Some(uuid) = clickhouse.uuid_of(name).await.map_err(failed(code))? {
        if uuid != table.uuid {
            return other_uuid(&uuid);
        }
        let replica = clickhouse.replica(name).await.map_err(failed(code))?;
        let Some(replica) = replica else {
            return changed(format!("{name} is no replicated table"));
        };
        let same_path = ZkPath::parse(&replica.path).is_ok_and(|path| path == table.path);
        if !same_path || replica.replica_name != table.replica_name {
            return changed(format!(
                "{name} is replica {} of {} now, and was planned as replica {} of {}",
                replica.replica_name, replica.path, table.replica_name, table.path
            ));
        }
        return Ok(Found::Attached(replica));
    }
    if !is_zero_uuid(&table.uuid)
        && let Some(other) = clickhouse.name_of(&table.uuid).await.map_err(failed(code))?
    {
        return changed(format!("{name} is called {other} now"));
    }
    match clickhouse.detached_table(name).await.map_err(failed(code))? {
        DetachedTable::Is { uuid, .. } if uuid != table.uuid => other_uuid(&uuid),
        DetachedTable::Is { permanently, .. } => Ok(Found::Detached {
            permanently: Some(permanently),
        }),
        DetachedTable::NotTold => Ok(Found::Detached { permanently: None }),
        DetachedTable::None => changed(format!("the server has no table {name}, neither attached nor detached")),
    }
}
