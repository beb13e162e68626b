//! What is around the replicated tables: disks, queues that stand still, what writes into the tables, and what else the
//! server keeps in ZooKeeper. Some of it not every server has; what is not there is nothing.

use std::collections::HashMap;

use clickhouse::{RowOwned, RowRead};
use rekeeper_shared::ids::TableName;
use rekeeper_shared::inventory::{Around, Disk};

use crate::clickhouse::{ClickHouse, Error, code};

/// Seconds from which on an entry that failed more than once does not get over it: while a table is written to, fetches
/// fail now and then and are done a moment later.
const FAILING: u64 = 10;
/// After how many seconds an entry of a replication queue is old.
const OLD: u64 = 3_600;
/// How much of an exception people see.
const SHOWN: usize = 160;
/// Engines that read from outside by themselves, into the views on them.
const STREAMS: &str = "'Kafka', 'RabbitMQ', 'NATS', 'S3Queue', 'AzureQueue', 'FileLog'";

/// Reads what is on the host beside its tables.
pub(super) async fn around(clickhouse: &ClickHouse) -> Result<Around, Error> {
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

/// The materialized views that write into each table.
pub(super) async fn written_by(clickhouse: &ClickHouse) -> Result<HashMap<TableName, Vec<String>>, Error> {
    let views: Vec<(String, String, String, String)> = clickhouse
        .rows(
            "SELECT FROM system.tables",
            "SELECT database, name, toString(uuid), create_table_query FROM system.tables \
             WHERE engine = 'MaterializedView' ORDER BY database, name",
        )
        .await?;
    if views.is_empty() {
        return Ok(HashMap::new());
    }
    let streams: Vec<(String, String, String, String, String)> = clickhouse
        .rows(
            "SELECT FROM system.tables",
            &format!(
                "SELECT database, name, engine, view.1, view.2 FROM system.tables \
                 ARRAY JOIN arrayZip(dependencies_database, dependencies_table) AS view WHERE engine IN ({STREAMS})"
            ),
        )
        .await?;
    let mut feeds: HashMap<TableName, String> = HashMap::new();
    for (database, name, engine, view_database, view) in streams {
        let stream = TableName::new(database, name);
        let view = TableName::new(view_database, view);
        feeds.insert(view, format!(", fed by {engine} table {stream}"));
    }
    Ok(by_table(views.into_iter().map(|(database, name, uuid, query)| {
        let target = target(&query, &database).unwrap_or_else(|| inner_table(&database, &name, &uuid));
        let view = TableName { database, table: name };
        let fed = feeds.get(&view).map(String::as_str).unwrap_or_default();
        (target, format!("{view} writes into it{fed}"))
    })))
}

/// The table that a view without TO makes for itself.
fn inner_table(database: &str, name: &str, uuid: &str) -> TableName {
    if crate::clickhouse::is_zero_uuid(uuid) {
        TableName::new(database, format!(".inner.{name}"))
    } else {
        TableName::new(database, format!(".inner_id.{uuid}"))
    }
}

/// The table after TO in the definition of a materialized view, as the server prints it: `CREATE MATERIALIZED VIEW db.v
/// [REFRESH ...] [UUID '...'] TO db.t ...`. Everything else with a word TO comes after the name.
fn target(query: &str, database: &str) -> Option<TableName> {
    let rest = query.strip_prefix("CREATE MATERIALIZED VIEW ")?;
    let (_, rest) = name(rest, database)?;
    // A definition by SELECT has its own words TO, so only what stands before it counts.
    let end = ["(", " AS SELECT ", " AS WITH "]
        .iter()
        .filter_map(|mark| rest.find(mark))
        .min();
    let head = &rest[..end.unwrap_or(rest.len())];
    let at = head.find(" TO ")? + " TO ".len();
    name(&rest[at..], database).map(|(found, _)| found)
}

/// `db.t`, `t`, either with backquotes, at the beginning of a text; and what follows it.
fn name<'a>(text: &'a str, database: &str) -> Option<(TableName, &'a str)> {
    let (first, rest) = identifier(text)?;
    match rest.strip_prefix('.') {
        None => Some((TableName::new(database, first), rest)),
        Some(rest) => {
            let (second, rest) = identifier(rest)?;
            Some((TableName::new(first, second), rest))
        }
    }
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('`') else {
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut found = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '`' => return Some((found, &quoted[at + 1..])),
            '\\' => found.push(letters.next()?.1),
            other => found.push(other),
        }
    }
    None
}

fn by_table<T>(rows: impl Iterator<Item = (TableName, T)>) -> HashMap<TableName, Vec<T>> {
    let mut found: HashMap<TableName, Vec<T>> = HashMap::new();
    for (table, row) in rows {
        found.entry(table).or_default().push(row);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_view_is_found_whatever_its_name() {
        let of = |query: &str| target(query, "d").map(|t| (t.database, t.table));
        let is = |database: &str, table: &str| Some((database.to_owned(), table.to_owned()));
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.mv TO d.t (`a` UInt64) AS SELECT a FROM d.s"),
            is("d", "t")
        );
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.`a TO b` TO `d x`.`it\\`s` (`a` UInt64) AS SELECT 1"),
            is("d x", "it`s")
        );
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.mv UUID 'u' TO t AS SELECT 1"),
            is("d", "t")
        );
        assert_eq!(
            of(
                "CREATE MATERIALIZED VIEW d.mv (`a` UInt64) ENGINE = MergeTree AS SELECT a AS x FROM s WHERE x = ' TO y'"
            ),
            None
        );
        assert_eq!(of("CREATE MATERIALIZED VIEW d.mv ENGINE = Log AS SELECT ' TO y'"), None);
    }
}
