//! The parts of the tables: sums, and names that a restore could take for others.

use std::collections::HashMap;

use rekeeper_shared::domain::ids::TableName;

use crate::clickhouse::{ClickHouse, Error};

#[derive(Default)]
pub(super) struct PartSums {
    pub(super) parts: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) patch_parts: u64,
}

#[derive(Default)]
pub(super) struct Names {
    pub(super) active: Vec<String>,
    pub(super) outdated: Vec<String>,
    pub(super) detached: Vec<String>,
}

/// What the active parts of every table add up to.
pub(super) async fn part_sums(clickhouse: &ClickHouse) -> Result<HashMap<TableName, PartSums>, Error> {
    let rows: Vec<(String, String, u64, u64, u64, u64)> = clickhouse
        .rows(
            "SELECT FROM system.parts",
            "SELECT database, table, count(), toUInt64(sum(rows)), toUInt64(sum(bytes_on_disk)), \
             countIf(startsWith(partition_id, 'patch-')) FROM system.parts WHERE active GROUP BY database, table",
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(database, table, parts, rows, bytes, patch_parts)| {
            let sums = PartSums {
                parts,
                rows,
                bytes,
                patch_parts,
            };
            (TableName { database, table }, sums)
        })
        .collect())
}

/// All names of the tables that have anything under `detached/`.
pub(super) async fn names(clickhouse: &ClickHouse) -> Result<HashMap<TableName, Names>, Error> {
    let detached: Vec<(String, String, String)> = clickhouse
        .rows(
            "SELECT FROM system.detached_parts",
            "SELECT database, table, name FROM system.detached_parts",
        )
        .await?;
    let mut names: HashMap<TableName, Names> = HashMap::new();
    if detached.is_empty() {
        return Ok(names);
    }
    for (database, table, name) in detached {
        let of = names.entry(TableName { database, table }).or_default();
        of.detached.push(name);
    }
    let parts: Vec<(String, String, String, u8)> = clickhouse
        .rows(
            "SELECT FROM system.parts",
            "SELECT database, table, name, toUInt8(active) FROM system.parts \
             WHERE (database, table) IN (SELECT database, table FROM system.detached_parts)",
        )
        .await?;
    for (database, table, name, active) in parts {
        let of = names.entry(TableName { database, table }).or_default();
        if active != 0 {
            of.active.push(name);
        } else {
            of.outdated.push(name);
        }
    }
    Ok(names)
}
