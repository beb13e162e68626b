//! What each step changes when nothing fails, without changing anything: the other files of this folder, told in advance.
//!
//! `test_dry_run` (tests/e2e) compares it with what a migration really sends and deletes.

use rekeeper_shared::domain::ids::{MigrationName, TableName};
use rekeeper_shared::domain::place::Place;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Order, Role, SetRef, Witness};
use rekeeper_shared::people::rehearsal::Action;

use super::restart::{Hooks, RestartCommand};
use super::shared::place::ServerPlaces;
use crate::clickhouse::{Cache, Statement};
use crate::state::State;
use crate::words::in_full;
use crate::zookeeper::{ZkError, ZooKeeper};

/// What the configuration of the agent adds to a command.
#[derive(Debug, Clone, Copy)]
pub struct Configured<'a> {
    /// ZooKeeper, as the server is configured for it now.
    pub places: &'a ServerPlaces,
    /// `restart.command` of agent.yaml.
    pub restart: Option<&'a RestartCommand>,
    /// `hooks` of agent.yaml.
    pub hooks: &'a Hooks,
    /// The state folder, where exports lie.
    pub state: &'a State,
}

/// What a command would change, in sequence. Reads nodes, and nothing else.
///
/// # Errors
/// When the nodes cannot be read.
pub async fn rehearse(
    configured: Configured<'_>,
    migration: &MigrationName,
    attempt: u64,
    order: &Order,
) -> Result<Vec<Action>, Failure> {
    Ok(match order {
        Order::Sync(table) => statements([Statement::SyncReplicaLightweight(&table.name)]),
        Order::Detach(table) => statements([Statement::FlushAsyncInserts, Statement::DetachPermanently(&table.name)]),
        Order::Reattach(table) => statements([Statement::AttachTable(&table.name)]),
        Order::Clear(_) => statements(Cache::ALL.map(Statement::DropCache)),
        Order::Finish(table) => statements([Statement::StartMerges(&table.name)]),
        Order::Attach { table, .. } => {
            statements([Statement::AttachTable(&table.name), Statement::StopMerges(&table.name)])
        }
        Order::Restore {
            table, role, witness, ..
        } => restore(configured, &table.name, role, witness)?,
        Order::Settle(_) | Order::Attest { .. } => Vec::new(),
        Order::Witness(witness) => vec![Action::CreateNode(witness_node(configured, witness)?)],
        Order::Restart => restart(configured),
        Order::Freeze(set) => zookeeper(configured, set).await?.rehearse_freeze(set),
        Order::Record(set) => {
            let found = zookeeper(configured, set)
                .await?
                .rehearse_fence(set, migration, attempt)
                .await;
            let mut actions = read(found)?;
            let export = configured.state.export_file_name(migration, set);
            actions.push(Action::WriteFile(export.display().to_string()));
            actions
        }
        Order::Clean(set) => read(
            zookeeper(configured, set)
                .await?
                .rehearse_delete(set, migration, attempt)
                .await,
        )?,
        Order::Release(set) => read(zookeeper(configured, set).await?.rehearse_release(set, migration).await)?,
    })
}

async fn zookeeper(configured: Configured<'_>, set: &SetRef) -> Result<ZooKeeper, Failure> {
    configured.places.planned(&set.place, Code::RecordFailed).await
}

fn read(found: Result<Vec<Action>, ZkError>) -> Result<Vec<Action>, Failure> {
    found.map_err(|error| Failure::lasting(Code::RecordFailed, in_full(&error)))
}

fn statements<const N: usize>(all: [Statement<'_>; N]) -> Vec<Action> {
    all.iter().map(|statement| Action::Statement(statement.sql())).collect()
}

fn restore(
    configured: Configured<'_>,
    table: &TableName,
    role: &Role,
    witness: &Witness,
) -> Result<Vec<Action>, Failure> {
    let drop_caches = || Cache::ALL.map(Statement::DropCache);
    let mut actions = statements([Statement::StopMerges(table)]);
    match role {
        Role::Reference => {
            let Place { chroot, .. } = configured.places.place(&witness.ensemble, Code::RestoreFailed)?;
            let gate = format!("{chroot}{}", witness.path);
            actions.push(Action::CreateNode(gate.clone()));
            actions.extend(statements([Statement::RestoreReplica(table)]));
            actions.extend(statements(drop_caches()));
            actions.push(Action::DeleteNode(gate));
            actions.extend(statements([Statement::StopMerges(table)]));
            actions.extend(statements(drop_caches()));
            actions.push(Action::DeleteNode(witness_node(configured, witness)?));
        }
        Role::Follower { .. } => {
            actions.extend(statements([
                Statement::StopQueue(table),
                Statement::RestoreReplica(table),
                Statement::StopMerges(table),
            ]));
            actions.extend(statements(drop_caches()));
            actions.extend(statements([Statement::StartQueue(table)]));
            actions.extend(statements([Statement::SyncReplicaLightweight(table)]));
            actions.extend(statements(drop_caches()));
        }
    }
    Ok(actions)
}

/// Where the server is configured for now; a hook may change that before it is written.
fn witness_node(configured: Configured<'_>, witness: &Witness) -> Result<String, Failure> {
    let Place { chroot, .. } = configured.places.place(&witness.ensemble, Code::WitnessFailed)?;
    Ok(format!("{chroot}/{}", witness.node))
}

fn restart(configured: Configured<'_>) -> Vec<Action> {
    let hooks = configured.hooks.before_restart.iter();
    let command = configured.restart.map(|restart| &restart.command);
    hooks.chain(command).map(|words| Action::Run(words.join(" "))).collect()
}
