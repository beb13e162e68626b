//! The documents that outlive a step: the record of a replica set and the manifest of a table replica.
//!
//! Both are written once, packed, and named by their digest, so that a lost or a different one is noticed.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::ids::{HostName, MigrationName, TableName};
use crate::domain::place::{Place, ZkPath};
use crate::domain::union::Union;

/// What the nodes of a replica set said, read in one go. Under the marker it is the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSnapshot {
    /// Where it was read.
    pub place: Place,
    /// Path in ZooKeeper, without the chroot.
    pub path: ZkPath,
    /// Transaction that created the path's node; another one means that the path was made anew since.
    pub czxid: i64,
    /// `<path>/metadata`.
    pub metadata: String,
    /// `<path>/columns`.
    pub columns: String,
    /// Version of that node `metadata`; 0 in records of earlier releases.
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
    /// Name below `<path>/replicas`.
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
    /// What the node held, as text.
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
    /// Merge, mutation, fetch or what else the entry's `type` says.
    pub order: QueueOrder,
}

/// What an entry of the log or of a queue orders (`ReplicatedMergeTreeLogEntry`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum QueueOrder {
    /// A merge that makes `new_part` of `sources`.
    Merge {
        /// `new_part` of the entry: what the merge will make.
        new_part: String,
        /// `source_parts` of the entry: what it replaces.
        sources: Vec<String>,
    },
    /// A mutation of one part.
    Mutate {
        /// What the mutation will make.
        new_part: String,
        /// What it replaces.
        source: String,
    },
    /// A part to fetch or to attach (`get`, `attach`).
    Bring {
        /// The part that the replica is to get.
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
        /// `type` of the entry, as ClickHouse writes it.
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

/// The record: a settled replica set's nodes, saved before the first of them is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSetOfRecord {
    /// The migration that saved it.
    pub migration: MigrationName,
    /// The attempt that held the marker while it was read.
    pub attempt: u64,
    /// Replicas, queues and mutations, as the nodes said.
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
    /// Its name when the manifest was written: the UUID tells it also after a RENAME.
    pub table: TableName,
    /// As ClickHouse prints it; nil in a database that has none.
    pub uuid: String,
    /// Name below `<path>/replicas`.
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
    /// As in `system.parts`: the beginning of the part's name, which a restore keeps.
    pub partition_id: String,
    /// Its rows as `system.parts` has them.
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
#[allow(missing_docs, reason = "the message names each field")]
pub enum BadDocument {
    /// It is not a zstd frame.
    #[error("it cannot be unpacked")]
    Unpack(#[source] io::Error),
    /// It becomes larger than documents of its packed size are.
    #[error("it has {packed} bytes packed, and more than {allowed} unpacked, which no document has")]
    TooLarge { packed: usize, allowed: u64 },
    /// The JSON text is not of the expected form.
    #[error("it is not of the expected form")]
    Form(#[source] serde_json::Error),
    /// The text is whole, but is not the document that was asked for.
    #[error("its digest is {found}, and {expected} was written down")]
    Digest { expected: String, found: String },
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

/// Most bytes that a document may have unpacked. A million parts of three replicas have 400 MB.
pub const UNPACKED_BYTES: u64 = 1 << 30;
/// How many times its packed size a document may have unpacked. Every part has a digest of its own, so that honest ones
/// have 5 to 30 times; zstd goes up to 32,000.
pub const UNPACKED_RATIO: u64 = 500;
/// What any document may have unpacked: small ones may be repetitive.
pub const UNPACKED_ALWAYS: u64 = 8 << 20;
/// The largest window of zstd, as a power of two, for which memory is taken: packing takes 2 MiB, a frame may ask for 128.
const WINDOW_LOG: u32 = 24;

/// What a document of that packed size may have unpacked.
#[must_use]
pub fn allowed_unpacked(packed: usize) -> u64 {
    let packed = u64::try_from(packed).unwrap_or(u64::MAX);
    (packed.saturating_mul(UNPACKED_RATIO)).clamp(UNPACKED_ALWAYS, UNPACKED_BYTES)
}

/// Unpacks a document; with `expected`, only if its digest is that one. What it is made of is never in memory as a whole:
/// it is parsed as it is unpacked, and no further than [`allowed_unpacked`], so to look only whether it is a document
/// (`T` is `IgnoredAny`) takes no memory to speak of, whatever it is.
///
/// # Errors
/// [`BadDocument`] says what is wrong with it.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8], expected: Option<&str>) -> Result<T, BadDocument> {
    unpack_at_most(bytes, expected, allowed_unpacked(bytes.len()))
}

/// As [`unpack`], with another limit in bytes for what is unpacked; the lower one counts.
///
/// # Errors
/// [`BadDocument`] says what is wrong with it.
pub fn unpack_at_most<T: DeserializeOwned>(bytes: &[u8], expected: Option<&str>, limit: u64) -> Result<T, BadDocument> {
    let (parsed, found) = read(bytes, limit)?;
    if let Some(expected) = expected
        && found != expected
    {
        return Err(BadDocument::Digest {
            expected: expected.to_owned(),
            found,
        });
    }
    parsed.map_err(BadDocument::Form)
}

/// A packed document, as it was found, with the digest that it has.
///
/// # Errors
/// [`BadDocument`] when it is none.
pub fn as_packed(bytes: Vec<u8>) -> Result<Packed, BadDocument> {
    let (parsed, digest) = read::<IgnoredAny>(&bytes, UNPACKED_BYTES)?;
    parsed.map_err(BadDocument::Form)?;
    Ok(Packed { digest, bytes })
}

/// What a document says, and the digest of its text.
fn read<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Result<(serde_json::Result<T>, String), BadDocument> {
    let allowed = limit.min(allowed_unpacked(bytes.len()));
    let mut unpacked = zstd::Decoder::with_buffer(bytes).map_err(BadDocument::Unpack)?;
    unpacked.window_log_max(WINDOW_LOG).map_err(BadDocument::Unpack)?;
    let mut text = BufReader::with_capacity(64 << 10, Sieve::new(unpacked, allowed));
    let mut parser = serde_json::Deserializer::from_reader(&mut text);
    let parsed = T::deserialize(&mut parser).and_then(|document| parser.end().map(|()| document));
    // What is left belongs to the digest.
    let rest = io::copy(&mut text, &mut io::sink());
    let sieve = text.into_inner();
    if sieve.is_too_large {
        let packed = bytes.len();
        return Err(BadDocument::TooLarge { packed, allowed });
    }
    rest.map_err(BadDocument::Unpack)?;
    Ok((parsed, hexadecimal(&sieve.digest.finalize())))
}

/// Counts and digests what is read through it, and lets no more through than is allowed.
struct Sieve<R> {
    from: R,
    left: u64,
    is_too_large: bool,
    digest: Sha256,
}

impl<R> Sieve<R> {
    fn new(from: R, allowed: u64) -> Self {
        Self {
            from,
            left: allowed,
            is_too_large: false,
            digest: Sha256::new(),
        }
    }
}

impl<R: Read> Read for Sieve<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_too_large {
            return Err(io::Error::other("larger than allowed"));
        }
        let read = self.from.read(buffer)?;
        match self.left.checked_sub(u64::try_from(read).unwrap_or(u64::MAX)) {
            Some(left) => self.left = left,
            None => {
                self.is_too_large = true;
                return Err(io::Error::other("larger than allowed"));
            }
        }
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

/// SHA-256, hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
