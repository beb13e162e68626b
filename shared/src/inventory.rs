//! What an agent reports of its host when a plan is made.

use serde::{Deserialize, Serialize};

use crate::document::ManifestPart;
use crate::ids::{HostName, TableName};
use crate::place::Place;

/// One host, inspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInventory {
    /// The host.
    pub host: HostName,
    /// `version()` of its server.
    pub clickhouse_version: String,
    /// Whether its agent has a restart command.
    pub can_restart: bool,
    /// Every table of a Replicated*MergeTree engine, attached at the time.
    pub tables: Vec<TableInventory>,
}

/// One table replica, inspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInventory {
    /// The table.
    pub name: TableName,
    /// Its UUID, as text; all zeros in a database that gives none.
    pub uuid: String,
    /// Its engine.
    pub engine: String,
    /// Engine of its database.
    pub database_engine: String,
    /// The ensemble and chroot that its server uses for it; none when the configuration does not name the ensemble.
    pub place: Option<Place>,
    /// Its ZooKeeper path as `system.replicas` has it, macros expanded.
    pub zookeeper_path: String,
    /// Its replica name.
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
    /// Active patch parts.
    pub patch_parts: u64,
    /// Names under `detached/` that the restore would use: those of active and of outdated parts.
    pub collisions: Vec<String>,
    /// Commands of unfinished mutations.
    pub mutations: Vec<String>,
    /// Zero-copy replication is on for it.
    pub zero_copy: bool,
    /// What ZooKeeper says of it.
    pub zookeeper: ZookeeperFacts,
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
    /// The replicas.
    pub replicas: Vec<ReplicaFacts>,
}

/// One replica's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// Its name.
    pub name: String,
    /// Whether `is_active` is there.
    pub active: bool,
    /// Digest of its `metadata` and `columns`.
    pub definition: String,
}

/// The name, rows and hash of parts as `system.parts` shows them.
pub type ActivePart = ManifestPart;
