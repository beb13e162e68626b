//! What is below a table's path: nodes of its own, and those that no ReplicatedMergeTree makes: those of another application, or a leftover. They are
//! not the table's, so they do not go with it.
//!
//! Looked at are the children of the path and of each replica: below those, nobody but the table has anything to do. The
//! names are those of ClickHouse's StorageReplicatedMergeTree.cpp (createTableIfNotExists, createNewZooKeeperNodes,
//! createReplica, activateReplica), of all its releases, and of what else of it writes into the path.

use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::marker::{Marker, NOTE};

/// Nodes that ClickHouse makes directly below a table's path.
const TABLE_NODES: [&str; 23] = [
    "alter_partition_version",
    "async_blocks",
    "block_numbers",
    "blocks",
    "columns",
    "deduplication_hashes",
    "dropped",
    // EXPORT of parts by TTL, and EXPORT PARTITION of Altinity's builds.
    "export_ttl",
    "exports",
    "exports_cleanup_lock",
    "leader_election",
    "lightweight_updates",
    "log",
    "lost_part_count",
    "metadata",
    "mutations",
    "nonincrement_block_numbers",
    "part_moves_shard",
    "pinned_part_uuids",
    "quorum",
    "replicas",
    "table_shared_id",
    "temp",
];
/// How the locks of zero-copy replication begin: the kind of the disk follows.
const ZERO_COPY: &str = "zero_copy_";
/// Nodes that ClickHouse makes directly below a replica's.
const REPLICA_NODES: [&str; 14] = [
    "columns",
    "creator_info",
    "flags",
    "host",
    "is_active",
    "is_lost",
    "log_pointer",
    "max_processed_insert_time",
    "metadata",
    "metadata_version",
    "min_unprocessed_insert_time",
    "mutation_pointer",
    "parts",
    "queue",
];
/// Nodes without which a path is no whole table.
const ESSENTIAL: [&str; 4] = ["metadata", "columns", "log", "replicas"];
/// So many are named.
const NAMED: usize = 5;

/// Whether ClickHouse makes a child of a table's path that is called so.
pub(super) fn is_of_clickhouse(name: &str) -> bool {
    TABLE_NODES.contains(&name) || name.starts_with(ZERO_COPY)
}

/// The same, or Rekeeper does.
pub(super) fn is_of_table(name: &str) -> bool {
    is_of_clickhouse(name) || name == NOTE || Marker::parse(name).is_some()
}

/// Whether ClickHouse makes a child of a replica that is called so.
pub(super) fn is_of_replica(name: &str) -> bool {
    REPLICA_NODES.contains(&name)
}

/// What a whole table has and this path has not.
pub(super) fn not_whole(children: &[String]) -> Option<String> {
    if children.iter().any(|name| name == "dropped") {
        return Some("replicas, but a node dropped".to_owned());
    }
    let missing = ESSENTIAL.iter().find(|node| !children.iter().any(|name| name == *node));
    missing.map(|node| (*node).to_owned())
}

/// Whether at least one child is one that ClickHouse makes, or nothing is there but markers.
pub(super) fn is_table_or_rest(children: &[String]) -> bool {
    children.iter().any(|name| is_of_clickhouse(name)) || children.iter().all(|name| Marker::parse(name).is_some())
}

/// Whether a node with these children is a table's path.
pub(super) fn is_table(names: &[String]) -> bool {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    has("replicas") && (has("log") || has("metadata"))
}

impl ZooKeeper {
    /// The nodes below a table's path that are not the table's; `children` are those of the path.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub(super) async fn foreign_nodes(&self, path: &ZkPath, children: &[String]) -> Result<Vec<String>, ZkError> {
        let foreign = children.iter().filter(|name| !is_of_table(name));
        let mut found: Vec<String> = foreign.map(|name| path.child(name)).collect();
        let replicas = self.children(&path.child("replicas")).await?.unwrap_or_default();
        let replicas: Vec<String> = replicas.iter().map(|name| path.replica(name)).collect();
        let lists = self.many_children(replicas.clone()).await?;
        for (replica, names) in replicas.iter().zip(lists) {
            let foreign = names.into_iter().flatten().filter(|name| !is_of_replica(name));
            found.extend(foreign.map(|name| format!("{replica}/{name}")));
        }
        found.sort();
        Ok(found)
    }

    /// Another table's path below this one, as long as it is below a child that ClickHouse does not make.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub(super) async fn nested(&self, path: &ZkPath, children: &[String]) -> Result<Option<String>, ZkError> {
        let strange = |name: &&String| !is_of_table(name);
        let mut level: Vec<String> = children.iter().filter(strange).map(|name| path.child(name)).collect();
        while !level.is_empty() {
            let lists = self.many_children(level.clone()).await?;
            let mut below = Vec::new();
            for (node, names) in level.into_iter().zip(lists) {
                let names = names.unwrap_or_default();
                if is_table(&names) {
                    return Ok(Some(node));
                }
                below.extend(names.into_iter().map(|name| format!("{node}/{name}")));
            }
            level = below;
        }
        Ok(None)
    }
}

/// The first few of these nodes, as they are told.
pub(super) fn named(nodes: Vec<String>) -> String {
    let more = nodes.len().saturating_sub(NAMED);
    let named = nodes.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    match more {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
