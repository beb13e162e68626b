//! What is around the replicated tables: disks, queues that stand still, and what else the server keeps in ZooKeeper. Some of it not every server has; what is not there is nothing.

use std::collections::HashMap;

use clickhouse::{RowOwned, RowRead};
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::{Around, Disk, Neighbour};

use super::neighbours::careless;
use crate::clickhouse::{ClickHouse, Error, code};

/// Seconds from which on an entry that failed more than once does not get over it: while a table is written to, fetches
/// fail now and then and are done a moment later.
const FAILING: u64 = 10;
/// After how many seconds an entry of a replication queue is old.
const OLD: u64 = 3_600;
/// How much of an exception people see.
const SHOWN: usize = 160;

/// Reads what is on the host beside its tables.
pub(super) async fn around(clickhouse: &ClickHouse, neighbours: Vec<Neighbour>) -> Result<Around, Error> {
    let disks: Vec<(String, u64)> = clickhouse
        .rows(
            "SELECT FROM system.disks",
            "SELECT name, toUInt64(free_space) FROM system.disks",
        )
        .await?;
    let pending: Vec<(String, String, u64)> = if_there(
        clickhouse,
        "SELECT FROM system.distribution_queue",
        "SELECT database, table, toUInt64(sum(data_files)) AS files FROM system.distribution_queue \
         GROUP BY database, table HAVING files > 0 ORDER BY database, table",
    )
    .await?;
    let users_in_zookeeper = if_there(
        clickhouse,
        "SELECT FROM system.user_directories",
        "SELECT name FROM system.user_directories WHERE toString(type) = 'replicated'",
    )
    .await?;
    let ddl_pending = if_there(
        clickhouse,
        "SELECT FROM system.distributed_ddl_queue",
        "SELECT concat(entry, ': ', any(query)) FROM system.distributed_ddl_queue \
         WHERE toString(status) != 'Finished' GROUP BY entry ORDER BY entry",
    )
    .await?;
    let mut detached = clickhouse.detached_tables().await?;
    detached.retain(|row| row.permanently);
    Ok(Around {
        disks: disks
            .into_iter()
            .map(|(name, free)| Disk {
                name,
                free,
                unwritable: None,
            })
            .collect(),
        distributed_pending: pending
            .into_iter()
            .map(|(database, table, files)| (TableName { database, table }, files))
            .collect(),
        users_in_zookeeper,
        ddl_pending,
        detached: detached.into_iter().map(|row| row.table).collect(),
        neighbours,
        careless: careless(clickhouse).await?,
        ..Around::default()
    })
}

/// The rows of a table or column that some servers do not have, or have not configured.
pub(super) async fn if_there<T: RowOwned + RowRead>(
    clickhouse: &ClickHouse,
    what: &'static str,
    sql: &str,
) -> Result<Vec<T>, Error> {
    match clickhouse.rows(what, sql).await {
        Err(error)
            if matches!(
                error.code(),
                Some(code::UNKNOWN_TABLE | code::UNKNOWN_IDENTIFIER | code::NO_ELEMENTS_IN_CONFIG)
            ) =>
        {
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}

/// Bytes of active parts per table and disk.
pub(super) async fn bytes_on(clickhouse: &ClickHouse) -> Result<HashMap<TableName, Vec<(String, u64)>>, Error> {
    let rows: Vec<(String, String, String, u64)> = clickhouse
        .rows(
            "SELECT FROM system.parts",
            "SELECT database, table, disk_name, toUInt64(sum(bytes_on_disk)) FROM system.parts \
             WHERE active GROUP BY database, table, disk_name ORDER BY disk_name",
        )
        .await?;
    Ok(by_table(rows.into_iter().map(|(database, table, disk, bytes)| {
        (TableName { database, table }, (disk, bytes))
    })))
}

/// Entries of replication queues that fail again and again or are old. Merges and mutations are left out: a set settles
/// with the former, and the latter have a check of their own.
pub(super) async fn stuck(clickhouse: &ClickHouse) -> Result<HashMap<TableName, Vec<String>>, Error> {
    type Row = (String, String, String, String, u64, u64, String);
    let rows: Vec<Row> = clickhouse
        .rows(
            "SELECT FROM system.replication_queue",
            &format!(
                "SELECT database, table, toString(type), new_part_name, toUInt64(num_tries), \
                 toUInt64(greatest(toInt64(now()) - toInt64(create_time), 0)) AS age, last_exception \
                 FROM system.replication_queue WHERE toString(type) NOT IN ('MERGE_PARTS', 'MUTATE_PART') \
                 AND ((num_tries > 1 AND last_exception != '' AND age > {FAILING}) OR age > {OLD}) \
                 ORDER BY create_time LIMIT 5 BY database, table"
            ),
        )
        .await?;
    Ok(by_table(rows.into_iter().map(|row| {
        let (database, table, kind, part, tries, age, exception) = row;
        let why: String = exception.chars().take(SHOWN).collect();
        let entry = format!("{kind} {part}, tried {tries} times, {age} s old: {why}");
        (TableName { database, table }, entry)
    })))
}

fn by_table<T>(rows: impl Iterator<Item = (TableName, T)>) -> HashMap<TableName, Vec<T>> {
    let mut found: HashMap<TableName, Vec<T>> = HashMap::new();
    for (table, row) in rows {
        found.entry(table).or_default().push(row);
    }
    found
}
