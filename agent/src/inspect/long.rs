//! Statements that have run for long already: DETACH waits for those that read its table, and RESTORED for those that may.

use std::collections::BTreeMap;

use rekeeper_shared::domain::inventory::LongStatement;

use rekeeper_shared::domain::ids::TableName;

use crate::clickhouse::{ClickHouse, Error};
use crate::steps::may_read;

/// From which age on a statement is told, in seconds.
const LONG: u64 = 30;
/// How much of a statement is shown.
const SHOWN: usize = 120;
/// How many are told of one host, the oldest first.
const TOLD: usize = 10;

/// The statements of others that have run for more than 30 seconds and may read one of these tables.
pub(super) async fn long<T>(
    clickhouse: &ClickHouse,
    tables: &BTreeMap<TableName, T>,
) -> Result<Vec<LongStatement>, Error> {
    let mut running = clickhouse.running_of_others().await?;
    running.retain(|statement| statement.elapsed.as_secs() > LONG);
    if running.is_empty() {
        return Ok(Vec::new());
    }
    running.sort_by_key(|statement| std::cmp::Reverse(statement.elapsed));
    let through = clickhouse.read_through().await?;
    let told = running.into_iter().filter_map(|statement| {
        let may = |table: &&TableName| may_read(&statement.query, table, &through).is_some();
        let tables: Vec<TableName> = tables.keys().filter(may).cloned().collect();
        (!tables.is_empty()).then(|| LongStatement {
            query_id: statement.query_id,
            seconds: statement.elapsed.as_secs(),
            query: statement.query.chars().take(SHOWN).collect(),
            tables,
        })
    });
    Ok(told.take(TOLD).collect())
}
