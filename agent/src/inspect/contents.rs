//! What the active parts of each table contain, so short that it can be sent for ten thousand tables.

use std::collections::HashMap;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::PartsGroup;

use crate::clickhouse::{ClickHouse, Error};

/// Parts are told apart by their content up to this number of a table; beyond it, in groups.
const GROUPS: u32 = 256;

/// Groups of active parts by the hash of their content, whatever their names are. Patch parts stop a plan anyway.
pub(super) async fn contents(clickhouse: &ClickHouse) -> Result<HashMap<TableName, Vec<PartsGroup>>, Error> {
    let rows: Vec<(String, String, u16, u64, u64)> = clickhouse
        .rows(
            "SELECT FROM system.parts",
            // A sum, and not the exclusive or: two equal parts would be none.
            &format!(
                "SELECT database, table, toUInt16(cityHash64(hash_of_all_files) % {GROUPS}) AS number, \
                 toUInt64(sum(cityHash64(hash_of_all_files))), toUInt64(sum(bytes_on_disk)) \
                 FROM system.parts WHERE active AND rows > 0 GROUP BY database, table, number ORDER BY number"
            ),
        )
        .await?;
    let mut found: HashMap<TableName, Vec<PartsGroup>> = HashMap::new();
    for (database, table, number, hash, bytes) in rows {
        let group = PartsGroup { number, hash, bytes };
        found.entry(TableName { database, table }).or_default().push(group);
    }
    Ok(found)
}
