//! Nodes below a table's path that no ReplicatedMergeTree makes: those of another application, or a leftover. They are
//! not the table's, so they do not go with it.
//!
//! Looked at are the children of the path and of each replica: below those, nobody but the table has anything to do. The
//! names are those of ClickHouse's StorageReplicatedMergeTree.cpp (createTableIfNotExists, createNewZooKeeperNodes,
//! createReplica, activateReplica), of all its releases, and of what else of it writes into the path.

use rekeeper_shared::place::ZkPath;
use rekeeper_shared::step::SetRef;

use super::connection::ZooKeeper;
use super::error::{CleanError, ZkError};
use super::freeze::NOTE;
use super::marker::Marker;

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

fn is_of_replica(name: &str) -> bool {
    REPLICA_NODES.contains(&name)
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

    /// Nothing of a set is deleted together with what is not the table's, unless that was allowed.
    pub(super) async fn refuse_foreign(&self, set: &SetRef, children: &[String]) -> Result<(), CleanError> {
        if set.allowed.foreign_nodes {
            return Ok(());
        }
        refuse(&set.path, self.foreign_nodes(&set.path, children).await?)
    }
}

/// The same for a single node whose children were listed right before they are deleted: `replica` tells which names are
/// known.
pub(super) fn refuse_foreign_children(
    set: &SetRef,
    node: &str,
    replica: bool,
    children: &[String],
) -> Result<(), CleanError> {
    if set.allowed.foreign_nodes {
        return Ok(());
    }
    let is_known = |name: &str| {
        if replica {
            is_of_replica(name)
        } else {
            is_of_table(name)
        }
    };
    let foreign = children.iter().filter(|name| !is_known(name));
    refuse(&set.path, foreign.map(|name| format!("{node}/{name}")).collect())
}

fn refuse(path: &ZkPath, nodes: Vec<String>) -> Result<(), CleanError> {
    if nodes.is_empty() {
        return Ok(());
    }
    let more = nodes.len().saturating_sub(NAMED);
    let mut named = nodes.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        named = format!("{named} and {more} more");
    }
    Err(CleanError::ForeignNodes {
        path: path.to_string(),
        nodes: named,
    })
}
