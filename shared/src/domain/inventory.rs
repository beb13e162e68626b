//! What an agent tells of its host when a plan is made.

use serde::{Deserialize, Serialize};

use crate::domain::document::ManifestPart;
use crate::domain::ids::{HostName, TableName};
use crate::domain::place::Place;

/// One host, inspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInventory {
    /// The host by the name in agent.yaml.
    pub host: HostName,
    /// `version()` of its server.
    pub clickhouse_version: String,
    /// Whether its agent has a restart command.
    pub can_restart: bool,
    /// Every table of a Replicated*MergeTree engine, attached at the time.
    pub tables: Vec<TableInventory>,
    /// What else is there that a migration should know of.
    pub around: Around,
}

/// What is on a host beside its replicated tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Around {
    /// The disks of `system.disks`.
    pub disks: Vec<Disk>,
    /// Distributed tables with blocks that are not sent yet, and how many.
    pub distributed_pending: Vec<(TableName, u64)>,
    /// `<user_directories>` that are kept in ZooKeeper.
    pub users_in_zookeeper: Vec<String>,
    /// ON CLUSTER statements that are not finished.
    pub ddl_pending: Vec<String>,
    /// Tables that are detached permanently, of whatever engine: the server does not tell.
    #[serde(default)]
    pub detached: Vec<TableName>,
    /// Its agent runs a hook before the server is restarted, which may move the whole server to another place.
    #[serde(default)]
    pub has_hook: bool,
    /// The server runs a node of ClickHouse Keeper itself (`<keeper_server>`), which is away while it is restarted.
    #[serde(default)]
    pub runs_keeper: bool,
    /// What else it keeps in ZooKeeper.
    #[serde(default)]
    pub kept: Vec<Kept>,
    /// What the server keeps from the agent's user.
    #[serde(default)]
    pub user: UserFacts,
    /// What writes into a table of the server, or reads from one, by itself.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
    /// Settings of clients by which the server forgets rows that it has acknowledged.
    #[serde(default)]
    pub careless: Vec<Careless>,
    /// Statements that have run for more than 30 seconds and may read one of its tables.
    #[serde(default)]
    pub long: Vec<LongStatement>,
    /// The nodes of the ensembles that its tables are in.
    #[serde(default)]
    pub nodes: Vec<EnsembleNode>,
}

/// A node of an ensemble.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EnsembleNode {
    /// `host:port`.
    pub node: String,
    /// `ZooKeeper 3.8.0` or `ClickHouse Keeper 25.8.1.5101`, if it says so.
    pub software: Option<String>,
}

/// A statement that has run for long already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongStatement {
    /// By which KILL QUERY ends it.
    pub query_id: String,
    /// For how many seconds it has run.
    pub seconds: u64,
    /// The beginning of its text.
    pub query: String,
    /// The replicated tables that it may read.
    pub tables: Vec<TableName>,
}

/// Something beside replicated tables that a server keeps in ZooKeeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What it is.
    pub kind: KeptKind,
    /// Its name, or its path.
    pub name: String,
}

/// What a server may keep in ZooKeeper beside its replicated tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptKind {
    /// A KeeperMap table: its rows.
    KeeperMap,
    /// An S3Queue or AzureQueue table: which files it has read.
    Queue,
    /// A database of engine Replicated: its tables' definitions.
    Database,
    /// Functions made by SQL.
    Functions,
    /// Users and their rights.
    Users,
    /// Named collections.
    NamedCollections,
    /// Statements ON CLUSTER.
    DdlQueue,
}

/// What a server keeps from the ClickHouse user of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserFacts {
    /// It refused a question of the inspection: its words. Nothing else is known of the host then.
    pub refused: Option<String>,
    /// Limits of its quotas.
    pub quotas: Vec<String>,
    /// Rights on the whole server that it lacks.
    pub not_granted: Vec<String>,
}

/// Something that writes into a table, or reads from it, by name: a Buffer, a view, a Distributed table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// Database and table.
    pub name: TableName,
    /// Its engine, as `system.tables` has it; `Dictionary` also for one of the configuration, which has no table.
    pub engine: String,
    /// Which way rows or definitions go between the two.
    pub relation: Relation,
    /// The table. Without a database it is the one of that name in the database that another server has by default.
    pub of: TableName,
}

/// What a neighbour does with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// What it gets it writes there.
    WritesInto,
    /// It reads from there.
    ReadsFrom,
}

/// The statements that empty a Buffer table, take it away and bring it back. DETACH by itself loses what comes in while it
/// runs: 4 clients that wrote all the time lost 147 of 3,381 rows in 40 DETACHes, after RENAME and OPTIMIZE 0 of 3,291, and 5
/// of 2,914 without the OPTIMIZE (26.9; held by tests/e2e/test_loss_writers_around.py).
#[must_use]
pub fn buffer_remedy(buffer: &TableName, then: &str) -> String {
    let name = buffer.sql();
    let away = TableName::new(&buffer.database, format!("{}_away", buffer.table)).sql();
    format!(
        "on this host: RENAME TABLE {name} TO {away}; when no INSERT into it runs any more (system.processes), OPTIMIZE TABLE \
         {away}; DETACH TABLE {away} PERMANENTLY SYNC; then {then}; when the migration has ended, ATTACH TABLE {away}; RENAME \
         TABLE {away} TO {name}; what is sent to it meanwhile is refused"
    )
}

/// A setting that makes the server lose rows that it has acknowledged, when their table is away for a while.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Careless {
    /// Which.
    pub setting: CarelessSetting,
    /// Where it is set: a profile, a user, or statements of a user.
    pub by: String,
    /// The table of the statement; none when it is set for whatever they write into.
    pub table: Option<TableName>,
}

/// See [`Careless`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarelessSetting {
    /// `wait_for_async_insert = 0`: acknowledged when it is in the server's memory.
    NoWaitForAsyncInsert,
    /// `materialized_views_ignore_errors = 1`: acknowledged although a view could not write.
    IgnoreErrorsOfViews,
}

/// A disk of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// As storage policies call it.
    pub name: String,
    /// Free bytes.
    pub free: u64,
    /// Why it takes no writes, when it does not.
    #[serde(default)]
    pub unwritable: Option<String>,
}

/// The oldest release that has SYSTEM RESTORE REPLICA.
pub const OLDEST_VERSION: (u32, u32) = (21, 8);

/// The first two numbers of a version.
#[must_use]
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut fields = text.split('.');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Whether the server is older than [`OLDEST_VERSION`].
#[must_use]
pub fn is_too_old(text: &str) -> bool {
    version(text).is_some_and(|version| version < OLDEST_VERSION)
}

/// One table replica, inspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInventory {
    /// Database and name on this host.
    pub name: TableName,
    /// Its UUID, as text; all zeros in a database that gives none.
    pub uuid: String,
    /// As `system.tables` has it, such as `ReplicatedMergeTree`.
    pub engine: String,
    /// Engine of its database.
    pub database_engine: String,
    /// The ensemble and chroot that its server uses for it; none when the configuration does not name the ensemble.
    pub place: Option<Place>,
    /// Its ZooKeeper path as `system.replicas` has it, macros expanded.
    pub zookeeper_path: String,
    /// Under which ZooKeeper has it below `replicas`.
    pub replica_name: String,
    /// `is_readonly`.
    pub readonly: bool,
    /// `zookeeper_exception` or `last_queue_update_exception`, whichever is set.
    pub exception: String,
    /// `lost_part_count`.
    pub lost_part_count: u64,
    /// Names of the disks of its storage policy.
    pub disks: Vec<String>,
    /// Active parts: how many.
    pub parts: u64,
    /// Active parts: rows.
    pub rows: u64,
    /// Active parts: bytes on disk.
    pub bytes: u64,
    /// What the active parts contain, by the group's number.
    #[serde(default)]
    pub contents: Vec<PartsGroup>,
    /// Active patch parts.
    pub patch_parts: u64,
    /// Names under `detached/` that the restore would use: those of active and of outdated parts.
    pub collisions: Vec<String>,
    /// Commands of unfinished mutations.
    pub mutations: Vec<String>,
    /// Zero-copy replication is on for it.
    pub zero_copy: bool,
    /// Bytes of its active parts per disk.
    pub bytes_on: Vec<(String, u64)>,
    /// Entries of its replication queue that fail again and again, or are old; merges and mutations left out.
    pub stuck: Vec<String>,
    /// Materialized views of the same server that write into it.
    pub written_by: Vec<String>,
    /// Rights on it that the agent's user lacks.
    #[serde(default)]
    pub not_granted: Vec<String>,
    /// What would be otherwise for it after the next start of the server, since the configuration was changed.
    #[serde(default)]
    pub restart_changes: Vec<String>,
    /// What ZooKeeper says of it.
    pub zookeeper: ZookeeperFacts,
}

/// Active parts of a table replica, as many as fall into one group by the hash of their content: mostly one. Two
/// replicas whose groups of a number have the same hash have the same content there, whatever the parts are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsGroup {
    /// By the hash of the parts' content: the same on every replica.
    pub number: u16,
    /// Sum of the hashes of its parts.
    pub hash: u64,
    /// Bytes of its parts on disk.
    pub bytes: u64,
}

/// What ZooKeeper says of a table's path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZookeeperFacts {
    /// It could not be asked.
    Unreachable(String),
    /// The path is not there.
    Absent,
    /// It is there.
    Present(PathFacts),
}

/// The nodes of a table's path, as far as a plan needs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFacts {
    /// Transaction that created the path's node: two hosts that see the same number see the same node.
    pub czxid: i64,
    /// The same for its time, in milliseconds.
    pub ctime: i64,
    /// Digest of the table's `metadata` and `columns`.
    pub definition: String,
    /// Every replica that ZooKeeper knows, of any host.
    pub replicas: Vec<ReplicaFacts>,
    /// Nodes below which the agent's identity may not delete or create.
    pub forbidden: Vec<String>,
    /// The agent's identity may not change the permissions of the log.
    pub no_admin: bool,
    /// Nodes below the path that no ReplicatedMergeTree makes.
    #[serde(default)]
    pub foreign: Vec<String>,
    /// Version of the node `metadata`; none from agents that do not tell.
    #[serde(default)]
    pub version: Option<i32>,
}

/// One replica's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// Below `replicas` of the path.
    pub name: String,
    /// Whether `is_active` is there.
    pub active: bool,
    /// Digest of its `metadata` and `columns`.
    pub definition: String,
    /// Its `metadata_version`, where that differs from the path's and no ALTER on its way is why.
    #[serde(default)]
    pub other_version: Option<i32>,
}

/// The name, rows and hash of parts as `system.parts` shows them.
pub type ActivePart = ManifestPart;
