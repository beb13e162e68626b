//! The version of a table's definition is the same everywhere: in ZooKeeper, in this replica and in its server.
//!
//! Measured on 26.9: after a change of `replicas/R/metadata_version` the server goes by the former version until SYSTEM
//! RESTART REPLICA. That waits for every SELECT that runs on the table, and meanwhile INSERTs are refused (733), so it
//! is sent only where nothing else helps.

use crate::rules::versions::Next;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};
use tokio::time::Instant;

use super::look::{Found, look};
use super::place;
use super::read_only::start_anew;
use super::wait::{PATIENCE, polls, until_in_service};
use crate::clickhouse::Statement;
use crate::steps::{Context, failed};
use crate::zookeeper::ZooKeeper;

const CODE: Code = Code::MetadataVersionDiffers;

/// What becomes of merges, which SYSTEM RESTART REPLICA starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::steps) enum Merges {
    /// They are stopped again.
    Held,
    /// They run already.
    Run,
}

/// Waits until one version is everywhere, and makes it so. `at_least` is the version of before the migration. Every change
/// depends on what was read, so it may be cut off and begun anew at any point, and users may ALTER meanwhile.
///
/// # Errors
/// METADATA_VERSION_DIFFERS, TABLE_CHANGED.
pub(in crate::steps) async fn agree(
    context: &Context,
    table: &TableRef,
    ensemble: &str,
    at_least: i32,
    merges: Merges,
) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let (mut polls, mut seen) = (polls(), None);
    loop {
        let (zookeeper, nodes) = context.zookeeper.definition_nodes(ensemble, &table.path).await?;
        let memory = context.clickhouse.definition_version(&table.name).await;
        let memory = memory.map_err(failed(CODE))?;
        let Some(nodes) = nodes else {
            return Err(absent(table));
        };
        let settable = ZooKeeper::highest_settable(&table.path);
        let next = nodes.versions.next(&table.replica_name, memory, at_least, settable);
        if matches!(next, Next::Agreed | Next::Coming) {
            return Ok(());
        }
        // What was asked by name was asked of this table, and nothing is changed for another one.
        let Found::Attached(_) = look(context, table, CODE).await? else {
            return Err(Failure::passing(CODE, format!("{} is detached", table.name)));
        };
        let text = format!("{}: {}", table.name, words(next, nodes.versions.node, memory));
        if Instant::now() >= deadline {
            return Err(Failure::passing(CODE, text));
        }
        context.doing(&*text);
        let changed = match next {
            Next::Table { version, with_own } => {
                let own = with_own.then_some(table.replica_name.as_str());
                zookeeper.set_table_version(&table.path, &nodes, version, own).await
            }
            Next::Replica(version) => {
                let replica = &table.replica_name;
                zookeeper
                    .set_replica_version(&table.path, &nodes, replica, version)
                    .await
            }
            // An ALTER that is just being executed may have changed one and not yet the other.
            Next::Restart if seen == Some(next) => {
                restart(context, table, merges).await?;
                Ok(true)
            }
            Next::Restart | Next::Wait(_) => Ok(false),
            Next::Absent => return Err(absent(table)),
            Next::Agreed | Next::Coming => Ok(true),
        };
        if changed.map_err(place::failed(CODE))? {
            tracing::info!(table = %table.name, ?next, node = nodes.versions.node, "version of the definition mended");
            continue;
        }
        seen = Some(next);
        tokio::time::sleep(polls.next_delay()).await;
    }
}

async fn restart(context: &Context, table: &TableRef, merges: Merges) -> Result<(), Failure> {
    match merges {
        Merges::Held => start_anew(context, table, CODE).await?,
        Merges::Run => {
            let statement = Statement::RestartReplica(&table.name);
            context.clickhouse.execute(statement).await.map_err(failed(CODE))?;
        }
    }
    let in_service = until_in_service(context, table, PATIENCE, CODE).await?;
    in_service.map_err(|state| Failure::passing(CODE, format!("{} is started anew, and is {state}", table.name)))
}

fn absent(table: &TableRef) -> Failure {
    let text = format!("replica {} is not registered at {}", table.replica_name, table.path);
    Failure::passing(CODE, text)
}

fn words(next: Next, node: i32, memory: Option<i32>) -> String {
    let memory = memory.map_or_else(|| "not told".to_owned(), |memory| memory.to_string());
    match next {
        Next::Table { version, .. } => {
            format!("its metadata in ZooKeeper has version {node}, and should have {version}")
        }
        Next::Replica(version) => format!("its replica has not got version {version} of its metadata"),
        Next::Restart => {
            format!("its server goes by another version of its metadata ({memory}) than ZooKeeper ({node})")
        }
        Next::Wait(version) => format!("it has still to execute the ALTER that makes version {version}"),
        Next::Agreed | Next::Coming | Next::Absent => String::new(),
    }
}
