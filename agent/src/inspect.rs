//! What the host has, for a plan: a handful of queries, however many tables there are, and what ZooKeeper says of each
//! path. Changes nothing.

mod around;
mod configured;
mod contents;
mod disks;
mod kept;
mod long;
mod neighbours;
mod parts;
mod user;
mod zookeeper;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::inventory::{
    Around, HostInventory, PartsGroup, TableInventory, ZookeeperFacts, is_too_old,
};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use self::configured::{Configured, Now, Running};
use self::neighbours::Neighbours;
use self::parts::{Names, PartSums};
use crate::clickhouse::{ClickHouse, Error};
use crate::steps::collisions;
use crate::words::in_full;
use crate::zookeeper::{Connections, Ensembles, software};

/// Inspects the host: every attached table of a Replicated*MergeTree engine. Whether its agent has a hook is not for
/// the server to say.
///
/// # Errors
/// INSPECTION_FAILED when the server does not answer, or a table was replaced meanwhile. A ZooKeeper that does not answer
/// is a fact of its tables, and what the agent's user is refused one of the host.
pub async fn inspect(
    host: &HostName,
    clickhouse: &ClickHouse,
    config: &Path,
    can_restart: bool,
    connections: &Connections,
) -> Result<HostInventory, Failure> {
    match look(host, clickhouse, config, connections).await {
        Ok(inventory) => Ok(HostInventory {
            can_restart,
            ..inventory
        }),
        Err(failure) if failure.problem.code == Code::UserRefused => {
            let version = clickhouse.bare_version().await.unwrap_or_default();
            let mut inventory = unseen(host, version);
            inventory.can_restart = can_restart;
            inventory.around.user.refused = Some(failure.problem.message);
            Ok(inventory)
        }
        Err(failure) => Err(failure),
    }
}

/// A host of which nothing else is known.
fn unseen(host: &HostName, clickhouse_version: String) -> HostInventory {
    HostInventory {
        host: host.clone(),
        clickhouse_version,
        can_restart: false,
        tables: Vec::new(),
        around: Around::default(),
    }
}

async fn look(
    host: &HostName,
    clickhouse: &ClickHouse,
    config: &Path,
    connections: &Connections,
) -> Result<HostInventory, Failure> {
    let failed = user::failed;
    // The server may be another one now, and its user may do something else.
    clickhouse.ask_settings_anew();
    let clickhouse_version = clickhouse.version().await.map_err(failed)?;
    if is_too_old(&clickhouse_version) {
        // It does not understand the questions that follow.
        return Ok(unseen(host, clickhouse_version));
    }
    let neighbours = Neighbours::read(clickhouse).await.map_err(failed)?;
    let views = neighbours.views();
    let mut around = around::around(clickhouse, neighbours.all).await.map_err(failed)?;
    let identities = Identity::all(clickhouse).await.map_err(failed)?;
    let facts = Facts::read(clickhouse, config, views).await.map_err(failed)?;
    // Everything but the identities is known by name only: a name that means another table now must not get its facts.
    let again = Identity::all(clickhouse).await.map_err(failed)?;
    for (name, identity) in &identities {
        if again.get(name).map(|now| &now.uuid) != Some(&identity.uuid) {
            return Err(Failure::passing(
                Code::InspectionFailed,
                format!("{name} was dropped, renamed or replaced while the host was inspected"),
            ));
        }
    }
    around.long = long::long(clickhouse, &identities).await.map_err(failed)?;
    let ensembles = Ensembles::read(config);
    let mut tables: Vec<TableInventory> = identities
        .into_iter()
        .filter_map(|(name, identity)| facts.table(name, identity, ensembles.as_ref().ok()))
        .collect();
    let unread = ensembles.as_ref().err().map(|e| in_full(e));
    disks::unwritable(clickhouse, &mut around.disks).await.map_err(failed)?;
    around.nodes = software(tables.iter().filter_map(|table| table.place.as_ref()).collect()).await;
    around.runs_keeper = ensembles.as_ref().is_ok_and(|e| e.own_keeper().is_some());
    around.kept = kept::kept(clickhouse, config).await.map_err(failed)?;
    around.user = user::user(clickhouse, &mut tables).await.map_err(failed)?;
    zookeeper::ask_zookeeper(&mut tables, ensembles.as_ref().ok(), unread.as_deref(), connections).await;
    Ok(HostInventory {
        host: host.clone(),
        clickhouse_version,
        can_restart: false,
        tables,
        around,
    })
}

struct Identity {
    uuid: String,
    engine: String,
    engine_full: String,
    policy: String,
    database_engine: String,
}

impl Identity {
    async fn all(clickhouse: &ClickHouse) -> Result<BTreeMap<TableName, Self>, Error> {
        type Row = (String, String, String, String, String, String, String);
        let rows: Vec<Row> = clickhouse
            .rows(
                "SELECT FROM system.tables",
                "SELECT t.database, t.name, toString(t.uuid), t.engine, t.engine_full, t.storage_policy, d.engine \
                 FROM system.tables AS t INNER JOIN system.databases AS d ON d.name = t.database \
                 WHERE t.engine LIKE 'Replicated%MergeTree'",
            )
            .await?;
        Ok(rows
            .into_iter()
            .map(
                |(database, table, uuid, engine, engine_full, policy, database_engine)| {
                    let identity = Self {
                        uuid,
                        engine,
                        engine_full,
                        policy,
                        database_engine,
                    };
                    (TableName { database, table }, identity)
                },
            )
            .collect())
    }
}

struct ReplicaRow {
    ensemble: String,
    path: String,
    replica_name: String,
    readonly: bool,
    exception: String,
    lost_part_count: u64,
}

struct Facts {
    replicas: HashMap<TableName, ReplicaRow>,
    sums: HashMap<TableName, PartSums>,
    names: HashMap<TableName, Names>,
    mutations: HashMap<TableName, Vec<String>>,
    disks_of_policy: HashMap<String, Vec<String>>,
    remote_disks: Vec<String>,
    zero_copy_by_default: bool,
    contents: HashMap<TableName, Vec<PartsGroup>>,
    bytes_on: HashMap<TableName, Vec<(String, u64)>>,
    stuck: HashMap<TableName, Vec<String>>,
    written_by: HashMap<TableName, Vec<String>>,
    /// None when the file cannot be read.
    configured: Option<Configured>,
    running: Running,
}

impl Facts {
    async fn read(
        clickhouse: &ClickHouse,
        config: &Path,
        written_by: HashMap<TableName, Vec<String>>,
    ) -> Result<Self, Error> {
        let mut disks_of_policy: HashMap<String, Vec<String>> = HashMap::new();
        let volumes: Vec<(String, String)> = clickhouse
            .rows(
                "SELECT FROM system.storage_policies",
                "SELECT policy_name, arrayJoin(disks) FROM system.storage_policies",
            )
            .await?;
        for (policy, disk) in volumes {
            disks_of_policy.entry(policy).or_default().push(disk);
        }
        let remote_disks = clickhouse
            .rows(
                "SELECT FROM system.disks",
                "SELECT name FROM system.disks WHERE lower(toString(type)) NOT IN ('local', 'memory')",
            )
            .await?;
        let zero_copy: Vec<String> = clickhouse
            .rows(
                "SELECT FROM system.merge_tree_settings",
                &format!("SELECT value FROM system.merge_tree_settings WHERE name = '{ZERO_COPY}'"),
            )
            .await?;
        Ok(Self {
            replicas: replicas(clickhouse).await?,
            sums: parts::part_sums(clickhouse).await?,
            names: parts::names(clickhouse).await?,
            mutations: mutations(clickhouse).await?,
            disks_of_policy,
            remote_disks,
            zero_copy_by_default: zero_copy.iter().any(|value| is_on(value)),
            contents: contents::contents(clickhouse).await?,
            bytes_on: around::bytes_on(clickhouse).await?,
            stuck: around::stuck(clickhouse).await?,
            written_by,
            configured: Configured::read(config),
            running: Running::read(clickhouse).await?,
        })
    }

    /// None when the table was detached or dropped between two queries.
    fn table(&self, name: TableName, identity: Identity, ensembles: Option<&Ensembles>) -> Option<TableInventory> {
        let replica = self.replicas.get(&name)?;
        let none = PartSums::default();
        let sums = self.sums.get(&name).unwrap_or(&none);
        let disks = self.disks_of_policy.get(&identity.policy).cloned().unwrap_or_default();
        let on_a_remote_disk = disks.iter().any(|disk| self.remote_disks.contains(disk));
        let zero_copy = own_zero_copy(&identity.engine_full).unwrap_or(self.zero_copy_by_default);
        let collisions = self.names.get(&name).map_or_else(Vec::new, |names| {
            collisions(
                names.active.iter().map(String::as_str),
                names.outdated.iter().map(String::as_str),
                names.detached.iter().map(String::as_str),
            )
        });
        let now = Now {
            name: &name,
            uuid: &identity.uuid,
            engine_full: &identity.engine_full,
            path: &replica.path,
            replica_name: &replica.replica_name,
            policy: &identity.policy,
            disks: &disks,
        };
        let configured = self.configured.as_ref();
        let restart_changes = configured.map_or_else(Vec::new, |c| c.changes(&now, &self.running));
        Some(TableInventory {
            restart_changes,
            uuid: identity.uuid,
            engine: identity.engine,
            database_engine: identity.database_engine,
            place: ensembles.and_then(|e| e.place(&replica.ensemble)),
            zookeeper_path: replica.path.clone(),
            replica_name: replica.replica_name.clone(),
            readonly: replica.readonly,
            exception: replica.exception.clone(),
            lost_part_count: replica.lost_part_count,
            disks,
            parts: sums.parts,
            rows: sums.rows,
            bytes: sums.bytes,
            contents: self.contents.get(&name).cloned().unwrap_or_default(),
            patch_parts: sums.patch_parts,
            collisions,
            mutations: self.mutations.get(&name).cloned().unwrap_or_default(),
            zero_copy: zero_copy && on_a_remote_disk,
            bytes_on: self.bytes_on.get(&name).cloned().unwrap_or_default(),
            stuck: self.stuck.get(&name).cloned().unwrap_or_default(),
            not_granted: Vec::new(),
            written_by: self.written_by.get(&name).cloned().unwrap_or_default(),
            zookeeper: ZookeeperFacts::Unreachable(format!(
                "the server's configuration names no ZooKeeper ensemble {}",
                replica.ensemble
            )),
            name,
        })
    }
}

const ZERO_COPY: &str = "allow_remote_fs_zero_copy_replication";

fn is_on(value: &str) -> bool {
    matches!(value, "1" | "true")
}

/// The table's own setting, which wins over the server's.
fn own_zero_copy(engine_full: &str) -> Option<bool> {
    let (_, after) = engine_full.rsplit_once(&format!("{ZERO_COPY} = "))?;
    let value = after.split([',', ' ', '\n']).next()?;
    Some(is_on(value.trim_matches('\'')))
}

async fn replicas(clickhouse: &ClickHouse) -> Result<HashMap<TableName, ReplicaRow>, Error> {
    type Row = (String, String, String, String, String, u8, String, String, u64);
    let rows: Vec<Row> = clickhouse
        .rows(
            "SELECT FROM system.replicas",
            "SELECT database, table, zookeeper_name, zookeeper_path, replica_name, toUInt8(is_readonly), \
             zookeeper_exception, last_queue_update_exception, toUInt64(lost_part_count) FROM system.replicas",
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let replica = ReplicaRow {
                ensemble: row.2,
                path: row.3,
                replica_name: row.4,
                readonly: row.5 != 0,
                exception: if row.6.is_empty() { row.7 } else { row.6 },
                lost_part_count: row.8,
            };
            (TableName::new(row.0, row.1), replica)
        })
        .collect())
}

async fn mutations(clickhouse: &ClickHouse) -> Result<HashMap<TableName, Vec<String>>, Error> {
    let rows: Vec<(String, String, String)> = clickhouse
        .rows(
            "SELECT FROM system.mutations",
            "SELECT database, table, command FROM system.mutations WHERE NOT is_done ORDER BY mutation_id",
        )
        .await?;
    let mut mutations: HashMap<TableName, Vec<String>> = HashMap::new();
    for (database, table, command) in rows {
        mutations
            .entry(TableName { database, table })
            .or_default()
            .push(command);
    }
    Ok(mutations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_own_setting_wins() {
        let engine = |value| format!("ReplicatedMergeTree('/a', 'r') ORDER BY x SETTINGS {ZERO_COPY} = {value}, a = 1");
        assert_eq!(own_zero_copy(&engine("1")), Some(true));
        assert_eq!(own_zero_copy(&engine("0")), Some(false));
        assert_eq!(own_zero_copy(&engine("true")), Some(true));
        assert_eq!(own_zero_copy("ReplicatedMergeTree ORDER BY x"), None);
    }
}
