//! What was dropped since a restore, as the new path's log tells it, and what a reference replica has now.

use crate::rules::accounting::{Dropped, is_single};
use crate::rules::settle::uncovered;
use rekeeper_shared::domain::document::{PartNode, QueueOrder};
use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::snapshot::{number, text};

/// What ZooKeeper has of the replica that was restored first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceNow {
    /// UUID of the table that created the replica; empty before ClickHouse 22.
    pub created_by: String,
    /// Its parts, those left out that another one covers.
    pub parts: Vec<String>,
    /// It has entries to execute that are no merges: such as the fetch of a part that it found broken.
    pub waits: bool,
    /// ClickHouse gave up parts of this table.
    pub lost_parts: bool,
}

impl ZooKeeper {
    /// The entries of a table's log, from the number `from` on, that take parts away, and the number to go on with.
    /// The log forgets entries that all replicas have taken, but for the last ten.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn dropped_since(&self, path: &ZkPath, from: i64) -> Result<(Vec<Dropped>, i64), ZkError> {
        let folder = path.child("log");
        let mut entries: Vec<(i64, String)> = self
            .children(&folder)
            .await?
            .unwrap_or_default()
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix("log-")?.parse().ok()?, name)))
            .filter(|(number, _)| *number >= from)
            .collect();
        entries.sort();
        let next = entries.last().map_or(from, |(number, _)| number + 1);
        let nodes = entries.iter().map(|(_, name)| format!("{folder}/{name}")).collect();
        let contents = self.many_data(nodes).await?;
        let mut dropped: Vec<Dropped> = contents
            .into_iter()
            .filter_map(|content| parse(&text(content)))
            .collect();
        // ClickHouse puts an empty part in the place of one that it gave up, and drops it later: that is no user.
        if self.lost_parts(path).await? {
            dropped.retain(|entry| !is_single(&entry.range));
        }
        Ok((dropped, next))
    }

    /// What the replica has now; none when it is not registered.
    ///
    /// # Errors
    /// ZooKeeper's failure, or a node that does not hold what it should.
    pub async fn reference_now(&self, path: &ZkPath, name: &str) -> Result<Option<ReferenceNow>, ZkError> {
        let replica = path.replica(name);
        // What waits and what was lost before the parts: a part leaves `parts` and enters the queue at once.
        let queue = self.queue(&replica).await?;
        let waits = queue
            .iter()
            .any(|entry| !matches!(entry.order, QueueOrder::Merge { .. } | QueueOrder::Mutate { .. }));
        let lost_parts = self.lost_parts(path).await?;
        let creator = text(self.data(&format!("{replica}/creator_info")).await?);
        let Some(parts) = self.children(&format!("{replica}/parts")).await? else {
            return Ok(None);
        };
        let digest = String::new();
        let parts: Vec<PartNode> = parts
            .into_iter()
            .map(|name| PartNode {
                name,
                digest: digest.clone(),
                hash: None,
            })
            .collect();
        Ok(Some(ReferenceNow {
            created_by: creator.split('|').next().unwrap_or_default().to_owned(),
            parts: uncovered(&parts).into_iter().map(|part| part.name.clone()).collect(),
            waits,
            lost_parts,
        }))
    }

    async fn lost_parts(&self, path: &ZkPath) -> Result<bool, ZkError> {
        let node = path.child("lost_part_count");
        Ok(number(&node, self.data(&node).await?)?.unwrap_or(0) > 0)
    }
}

/// What an entry takes away: `drop` and `detach` name it in the next line, `REPLACE_RANGE` too, with a word before it.
fn parse(content: &str) -> Option<Dropped> {
    let lines: Vec<&str> = content.lines().collect();
    let word = lines
        .iter()
        .position(|line| ["drop", "detach", "REPLACE_RANGE"].contains(line))?;
    // The header's lines have colons, so the entry's own word is the first without one.
    if lines[..word].iter().any(|line| !line.contains(": ")) {
        return None;
    }
    let next = *lines.get(word + 1)?;
    Some(Dropped {
        range: next.strip_prefix("drop_range_name: ").unwrap_or(next).to_owned(),
        detached: lines[word] == "detach",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_26_9_are_read() {
        const HEAD: &str = "format version: 4\ncreate_time: 2026-11-25 04:35:49\nsource replica: r1\nblock_id: \n";
        let read = |rest: &str| parse(&format!("{HEAD}{rest}")).map(|found| (found.range, found.detached));
        let range = "0_0_3_999999999_2147483647";
        assert_eq!(read(&format!("drop\n{range}\n")), Some((range.into(), false)));
        assert_eq!(read("drop\n1_1_1_0\n"), Some(("1_1_1_0".into(), false)));
        assert_eq!(read("detach\n1_2_2_0\n"), Some(("1_2_2_0".into(), true)));
        let replace = format!("REPLACE_RANGE\ndrop_range_name: {range}\nfrom_database: d\nfrom_table: u\n");
        assert_eq!(read(&replace), Some((range.into(), false)));
        assert_eq!(read("attach\n0_1_1_0\npart_checksum: 390279AB\n"), None);
        assert_eq!(read("merge\n0_0_0_0\n0_1_1_0\ninto\n0_0_1_1\n"), None);
        assert_eq!(read("get\ndrop\n"), None);
    }
}
