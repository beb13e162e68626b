//! All that settling and the record need of a table's nodes, read in one go.

use rekeeper_shared::domain::document::{LogEntry, Node, PartNode, QueueEntry, ReplicaSnapshot, SetSnapshot};
use rekeeper_shared::domain::place::ZkPath;
use sha2::{Digest, Sha256};
use zookeeper_client::Stat;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::log_entry::parse_log_entry;
use super::marker::Marker;

/// Digest of some contents, 128 bits of SHA-256 as hexadecimal; lengths go in, so that nothing can be shifted between
/// them.
pub(super) fn short_digest(contents: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for content in contents {
        hasher.update((content.len() as u64).to_be_bytes());
        hasher.update(content);
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// One more than the number of the highest log entry; 0 when there is none.
pub(super) fn log_end(names: &[String]) -> i64 {
    let numbers = names.iter().filter_map(|name| log_number(name));
    numbers.max().map_or(0, |highest| highest + 1)
}

/// 7 of `log-0000000007`.
pub(super) fn log_number(name: &str) -> Option<i64> {
    name.strip_prefix("log-")?.parse().ok()
}

pub(super) type Content = Option<(Vec<u8>, Stat)>;

pub(super) fn text(content: Content) -> String {
    content.map_or_else(String::new, |(bytes, _)| String::from_utf8_lossy(&bytes).into_owned())
}

/// A number in a node's content; none when the node is empty or absent.
pub(super) fn number(path: &str, content: Content) -> Result<Option<i64>, ZkError> {
    let content = text(content);
    if content.is_empty() {
        return Ok(None);
    }
    let unreadable = |_| ZkError::Unreadable {
        path: path.to_owned(),
        content: content.clone(),
        expected: "number",
    };
    content.trim().parse().map(Some).map_err(unreadable)
}

impl ZooKeeper {
    /// Reads the nodes of a replica set; none when its path does not exist. It changes nothing, and it is no
    /// transaction: only under the marker does nobody else change what it reads.
    ///
    /// # Errors
    /// [`ZkError::NotATable`] when something else is there (or a half-deleted table), [`ZkError::Unreadable`] when a
    /// node does not hold what it should, or ZooKeeper's failure.
    pub async fn snapshot(&self, path: &ZkPath) -> Result<Option<SetSnapshot>, ZkError> {
        let read = self.snapshot_of(path, None).await?;
        Ok(read.map(|(snapshot, _)| snapshot))
    }

    /// The same of one replica alone, or of all, with the names of all replicas that there are.
    ///
    /// # Errors
    /// As for [`Self::snapshot`].
    pub async fn snapshot_of(
        &self,
        path: &ZkPath,
        only: Option<&str>,
    ) -> Result<Option<(SetSnapshot, Vec<String>)>, ZkError> {
        let Some(node) = self.stat(path.as_str()).await? else {
            return Ok(None);
        };
        let not_a_table = |missing| ZkError::NotATable {
            path: path.to_string(),
            missing,
        };
        let lists = ["log", "mutations", "replicas"].map(|name| path.child(name)).to_vec();
        let mut lists = self.many_children(lists).await?.into_iter();
        let mut list = |missing| lists.next().flatten().ok_or_else(|| not_a_table(missing));
        let log = list("log")?;
        // The oldest tables have no mutations.
        let mut mutations = list("mutations").unwrap_or_default();
        let mut replicas = list("replicas")?;
        mutations.sort();
        replicas.sort();

        let wanted = ["metadata", "columns", "lost_part_count"]
            .map(|name| path.child(name))
            .to_vec();
        let mut contents = self.many_data(wanted).await?.into_iter();
        let mut content = || contents.next().flatten();
        let (metadata, columns, lost) = (content(), content(), content());
        let Some((_, stat)) = &metadata else {
            return Err(not_a_table("metadata"));
        };
        let version = stat.version;
        if columns.is_none() {
            return Err(not_a_table("columns"));
        }
        // ClickHouse counts lost parts per table, not per replica.
        let lost = number(&path.child("lost_part_count"), lost)?.unwrap_or(0);
        let lost_part_count = u64::try_from(lost).unwrap_or(0);

        let commands = mutations
            .iter()
            .map(|name| format!("{}/{name}", path.child("mutations")))
            .collect();
        let commands = self.many_data(commands).await?;
        let mut snapshots = Vec::with_capacity(replicas.len());
        for name in replicas.iter().filter(|&name| only.is_none_or(|only| only == name)) {
            snapshots.push(self.replica_snapshot(path, name.clone(), lost_part_count).await?);
        }
        let snapshot = SetSnapshot {
            place: self.place().clone(),
            path: path.clone(),
            czxid: node.czxid,
            metadata: text(metadata),
            columns: text(columns),
            version,
            log_end: log_end(&log),
            mutations: mutations
                .into_iter()
                .zip(commands)
                .filter_map(|(name, content)| {
                    content.map(|found| Node {
                        name,
                        content: text(Some(found)),
                    })
                })
                .collect(),
            replicas: snapshots,
        };
        Ok(Some((snapshot, replicas)))
    }

    /// Whether an attempt's own marker is on the path.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn is_held_by(&self, path: &ZkPath, marker: &Marker) -> Result<bool, ZkError> {
        Ok(self.stat(&path.child(&marker.to_string())).await?.is_some())
    }

    /// The entries of a table's log that are still there, in their sequence.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn log(&self, path: &ZkPath) -> Result<Vec<LogEntry>, ZkError> {
        let folder = path.child("log");
        let mut names = self.children(&folder).await?.unwrap_or_default();
        names.sort();
        let contents = names.iter().map(|name| format!("{folder}/{name}")).collect();
        let contents = self.many_data(contents).await?;
        let entries = names.iter().zip(contents).filter_map(|(name, content)| {
            let order = parse_log_entry(&text(Some(content?)));
            log_number(name).map(|number| LogEntry { number, order })
        });
        Ok(entries.collect())
    }

    async fn replica_snapshot(
        &self,
        path: &ZkPath,
        name: String,
        lost_part_count: u64,
    ) -> Result<ReplicaSnapshot, ZkError> {
        let replica = path.replica(&name);
        let nodes = [
            "is_active",
            "is_lost",
            "metadata",
            "columns",
            "log_pointer",
            "mutation_pointer",
        ];
        let wanted = nodes.map(|node| format!("{replica}/{node}")).to_vec();
        let mut contents = self.many_data(wanted).await?.into_iter();
        let mut content = || contents.next().flatten();
        let (is_active, is_lost, metadata) = (content(), content(), content());
        let (columns, log_pointer, mutation_pointer) = (content(), content(), content());
        Ok(ReplicaSnapshot {
            // A persistent is_active is a hold of Rekeeper's own, and no server.
            active: is_active.is_some_and(|(_, stat)| stat.ephemeral_owner != 0),
            lost: text(is_lost).trim() == "1",
            metadata: text(metadata),
            columns: text(columns),
            log_pointer: number(&format!("{replica}/log_pointer"), log_pointer)?,
            mutation_pointer: text(mutation_pointer),
            lost_part_count,
            queue: self.queue(&replica).await?,
            parts: self.parts(&replica).await?,
            name,
        })
    }

    /// The entries of a replica's queue, in their sequence.
    pub(super) async fn queue(&self, replica: &str) -> Result<Vec<QueueEntry>, ZkError> {
        let folder = format!("{replica}/queue");
        let mut names = self.children(&folder).await?.unwrap_or_default();
        names.sort();
        let contents = names.iter().map(|name| format!("{folder}/{name}")).collect();
        let contents = self.many_data(contents).await?;
        // An entry that was executed between the two reads is no entry any more.
        let entries = names.into_iter().zip(contents).filter(|(_, content)| content.is_some());
        Ok(entries
            .map(|(name, content)| {
                let content = text(content);
                QueueEntry {
                    name,
                    order: parse_log_entry(&content),
                    content,
                }
            })
            .collect())
    }

    async fn parts(&self, replica: &str) -> Result<Vec<PartNode>, ZkError> {
        let folder = format!("{replica}/parts");
        let mut names = self.children(&folder).await?.unwrap_or_default();
        names.sort();
        let contents = names.iter().map(|name| format!("{folder}/{name}")).collect();
        let contents = self.many_data(contents).await?;
        let mut parts = Vec::with_capacity(names.len());
        let mut old = Vec::new();
        for (name, content) in names.into_iter().zip(contents) {
            match content {
                None => {}
                Some((bytes, _)) if bytes.is_empty() => old.push(name),
                Some((bytes, _)) => parts.push(PartNode {
                    digest: short_digest(&[&bytes]),
                    hash: hash_of_all_files(&bytes),
                    name,
                }),
            }
        }
        if !old.is_empty() {
            parts.extend(self.old_parts(&folder, old).await?);
            parts.sort();
        }
        Ok(parts)
    }

    /// Parts in the format of before `use_minimalistic_part_header_in_zookeeper`: an empty node with two children.
    async fn old_parts(&self, folder: &str, names: Vec<String>) -> Result<Vec<PartNode>, ZkError> {
        let both = |name: &String| ["columns", "checksums"].map(|node| format!("{folder}/{name}/{node}"));
        let contents = self.many_data(names.iter().flat_map(both).collect()).await?;
        let mut contents = contents.into_iter();
        let mut bytes = || contents.next().flatten().map(|(bytes, _)| bytes).unwrap_or_default();
        Ok(names
            .into_iter()
            .map(|name| {
                let (columns, checksums) = (bytes(), bytes());
                PartNode {
                    name,
                    digest: short_digest(&[&columns, &checksums]),
                    hash: hash_of_all_files(&checksums),
                }
            })
            .collect())
    }
}

/// `hash_of_all_files` out of a part's node, or of its node `checksums` in the older format. ClickHouse:
/// ReplicatedMergeTreePartHeader.cpp (16 bytes of a hash of the columns, then the checksums), MergeTreeDataPartChecksum.cpp
/// (two numbers of files as varints, three hashes of 16 bytes).
fn hash_of_all_files(node: &[u8]) -> Option<String> {
    const HASH: usize = 16;
    let mut rest = match node.strip_prefix(b"part header format version: 1\n") {
        Some(header) => header.get(HASH..)?,
        None => node.strip_prefix(b"checksums format version: 5\n")?,
    };
    for _ in 0..2 {
        let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
        rest = rest.get(end + 1..)?;
    }
    if rest.len() != 3 * HASH {
        return None;
    }
    let hash = rest.iter().take(HASH).rev();
    Some(hash.map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_ends_behind_its_highest_number() {
        let names = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            log_end(&names(&["log-0000000007", "log-0000000018", "log-0000000009"])),
            19
        );
        assert_eq!(log_end(&[]), 0);
    }

    #[test]
    fn the_hash_of_a_part_is_in_its_node() {
        // Read from 26.9, together with hash_of_all_files.
        let (columns, hashes) = ([7_u8; 16], [9_u8; 32]);
        let hash = [
            0x34, 0xd6, 0x99, 0xda, 0x26, 0x17, 0x3d, 0xf5, 0xe5, 0xec, 0x0c, 0xe0, 0xc2, 0x51, 0x29, 0xbe,
        ];
        let header: Vec<u8> = [
            &b"part header format version: 1\n"[..],
            &columns,
            &[3, 2],
            &hash,
            &hashes,
        ]
        .concat();
        let expected = Some("be2951c2e00cece5f53d1726da99d634".to_owned());
        assert_eq!(hash_of_all_files(&header), expected);
        let many_files = [&b"checksums format version: 5\n"[..], &[0x87, 0x02, 2], &hash, &hashes].concat();
        assert_eq!(hash_of_all_files(&many_files), expected);
        assert_eq!(hash_of_all_files(&header[..header.len() - 1]), None);
        assert_eq!(hash_of_all_files(b"part header format version: 2\n"), None);
        assert_eq!(hash_of_all_files(b""), None);
    }

    #[test]
    fn contents_cannot_be_shifted_between_nodes() {
        assert_ne!(short_digest(&[b"ab", b"c"]), short_digest(&[b"a", b"bc"]));
        assert_eq!(short_digest(&[b"a"]).len(), 32);
    }
}
