//! The documents that outlive a step: the part set of record of a replica set and the manifest of a table replica.
//!
//! Both are written once, packed, and named by their digest, so that a lost or a different one is noticed.

#[cfg(test)]
pub(crate) mod snapshots;

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::ids::{HostName, MigrationName, TableName};
use crate::place::{Place, ZkPath};
use crate::union::Union;

/// What the nodes of a replica set said, read in one go. Under the marker it is the part set of record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSnapshot {
    /// Where it was read.
    pub place: Place,
    /// The table's path.
    pub path: ZkPath,
    /// Transaction that created the path's node; another one means that the path was made anew since.
    pub czxid: i64,
    /// `<path>/metadata`.
    pub metadata: String,
    /// `<path>/columns`.
    pub columns: String,
    /// Version of that node `metadata`, see [`crate::versions`]; 0 in records of earlier releases.
    #[serde(default)]
    pub version: i32,
    /// One more than the number of the highest entry of `<path>/log`; 0 when the log is empty.
    pub log_end: i64,
    /// `<path>/mutations`: name and content, commands included.
    pub mutations: Vec<Node>,
    /// The children of `<path>/replicas`, sorted by name.
    pub replicas: Vec<ReplicaSnapshot>,
}

/// What the nodes of one replica said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaSnapshot {
    /// The replica's name.
    pub name: String,
    /// An ephemeral `is_active` is there: some server has the table attached.
    pub active: bool,
    /// `is_lost` is set: the replica was given up and will clone another one when it starts.
    pub lost: bool,
    /// `metadata` of the replica.
    pub metadata: String,
    /// `columns` of the replica.
    pub columns: String,
    /// `log_pointer`: the number of the next log entry to take; none when the node is empty.
    pub log_pointer: Option<i64>,
    /// `mutation_pointer`, as text.
    pub mutation_pointer: String,
    /// `lost_part_count`: parts that ClickHouse itself gave up.
    pub lost_part_count: u64,
    /// `queue`: entries that the replica has taken and not executed.
    pub queue: Vec<QueueEntry>,
    /// `parts`, sorted by name.
    pub parts: Vec<PartNode>,
}

/// A node's name and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Last component of its path.
    pub name: String,
    /// Its content.
    pub content: String,
}

/// An entry of a replica's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// `queue-0000000007`.
    pub name: String,
    /// What it orders, parsed as far as settling needs it.
    pub order: QueueOrder,
    /// Its whole content, kept for the record.
    pub content: String,
}

/// An entry of a table's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// 7 of `log-0000000007`.
    pub number: i64,
    /// What it orders.
    pub order: QueueOrder,
}

/// What an entry of the log or of a queue orders (`ReplicatedMergeTreeLogEntry`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum QueueOrder {
    /// A merge that makes `new_part` of `sources`.
    Merge {
        /// The part that will be.
        new_part: String,
        /// The parts that it replaces.
        sources: Vec<String>,
    },
    /// A mutation of one part.
    Mutate {
        /// The part that will be.
        new_part: String,
        /// The part that it replaces.
        source: String,
    },
    /// A part to fetch or to attach (`get`, `attach`).
    Bring {
        /// The part.
        part: String,
    },
    /// DROP or DETACH of a part or a partition: all parts within the range go (`drop`, `detach`).
    Drop {
        /// A part's name, or one with the highest level for a whole range.
        range: String,
    },
    /// REPLACE PARTITION, ATTACH or MOVE PARTITION from another table (`REPLACE_RANGE`).
    Replace {
        /// What is dropped first; of level 0 when nothing is.
        range: String,
    },
    /// Anything else, by the word of its entry: `alter`, `clear_column` ...
    Other {
        /// The entry's own word.
        word: String,
    },
}

impl QueueOrder {
    /// What it is called in ClickHouse, or nearly so.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Merge { .. } => "merge",
            Self::Mutate { .. } => "mutate",
            Self::Bring { .. } => "get or attach",
            Self::Drop { .. } => "drop",
            Self::Replace { .. } => "REPLACE_RANGE",
            Self::Other { word } => word,
        }
    }
}

/// A node under `parts`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartNode {
    /// The part's name.
    pub name: String,
    /// Digest of what the node says about columns and checksums: equal parts, equal digest.
    pub digest: String,
    /// `hash_of_all_files` of system.parts, as far as the node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// The part set of record: a settled replica set's nodes, saved before the first of them is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSetOfRecord {
    /// The migration that saved it.
    pub migration: MigrationName,
    /// The attempt that held the marker while it was read.
    pub attempt: u64,
    /// What the nodes said.
    pub snapshot: SetSnapshot,
    /// How the set is restored by it.
    pub union: Union,
}

/// The active parts of a table replica, written once, before its restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The migration that wrote it.
    pub migration: MigrationName,
    /// The host that holds the parts.
    pub host: HostName,
    /// The table.
    pub table: TableName,
    /// The table's UUID.
    pub uuid: String,
    /// The replica's name.
    pub replica_name: String,
    /// The active parts, sorted by name.
    pub parts: Vec<ManifestPart>,
    /// Names that lay under `detached/` before the restore: they are nobody's but the operator's, and never touched.
    pub detached_before: Vec<String>,
    /// SHA-256 of the `checksums.txt` of the parts, by name, as far as the agent could read them: by these their folders
    /// are known under any name.
    pub checksums: BTreeMap<String, String>,
    /// The same of the outdated parts: up to ClickHouse 26.1 a restore leaves them in `detached/` under their names.
    #[serde(default)]
    pub outdated: BTreeMap<String, String>,
    /// The settings that are changed while parts are attached again.
    pub settings: FormerSettings,
    /// The version that the definition had before the nodes were deleted: it never goes back. 0 where it is not known.
    #[serde(default)]
    pub version: i32,
}

/// Settings of a table's own definition; none where it did not have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FormerSettings {
    /// `replicated_deduplication_window`.
    pub window: Option<u64>,
    /// `max_replicated_merges_in_queue`.
    pub merges: Option<u64>,
}

impl Manifest {
    /// Sum of the rows of all parts.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|p| p.rows).sum()
    }
}

/// One part as `system.parts` shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManifestPart {
    /// The part's name.
    pub name: String,
    /// Its partition id.
    pub partition_id: String,
    /// Its rows.
    pub rows: u64,
    /// `hash_of_all_files`, which does not change when a part is renamed.
    pub hash: String,
}

/// A packed document and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the JSON text, hexadecimal.
    pub digest: String,
    /// The JSON text, compressed with zstd.
    pub bytes: Vec<u8>,
}

/// A packed document that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    /// It is not a zstd frame.
    #[error("it cannot be unpacked")]
    Unpack(#[source] io::Error),
    /// The JSON text is not of the expected form.
    #[error("it is not of the expected form")]
    Form(#[source] serde_json::Error),
    /// The digest differs.
    #[error("its digest is {found}, and {expected} was written down")]
    Digest {
        /// What was written down.
        expected: String,
        /// What the bytes have.
        found: String,
    },
}

/// Packs a document.
///
/// # Errors
/// Only when a value cannot be written as JSON, or memory runs out.
pub fn pack<T: Serialize>(document: &T) -> io::Result<Packed> {
    let json = serde_json::to_vec(document)?;
    Ok(Packed {
        digest: digest(&json),
        bytes: zstd::encode_all(json.as_slice(), 3)?,
    })
}

/// Unpacks a document; with `expected`, only if its digest is that one.
///
/// # Errors
/// [`BadDocument`] says what is wrong with it.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8], expected: Option<&str>) -> Result<T, BadDocument> {
    let json = zstd::decode_all(bytes).map_err(BadDocument::Unpack)?;
    if let Some(expected) = expected {
        let found = digest(&json);
        if found != expected {
            return Err(BadDocument::Digest {
                expected: expected.to_owned(),
                found,
            });
        }
    }
    serde_json::from_slice(&json).map_err(BadDocument::Form)
}

/// SHA-256, hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_document_is_noticed() {
        let packed = pack(&vec!["a", "b"]).unwrap();
        assert_eq!(
            unpack::<Vec<String>>(&packed.bytes, Some(&packed.digest)).unwrap(),
            ["a", "b"]
        );
        let other = pack(&vec!["a", "c"]).unwrap();
        assert!(matches!(
            unpack::<Vec<String>>(&other.bytes, Some(&packed.digest)),
            Err(BadDocument::Digest { .. })
        ));
        assert!(unpack::<Vec<String>>(b"torn", None).is_err());
    }
}
