//! What the server keeps from the agent's user: what a profile or a quota says that no setting of a statement overrides,
//! and rights. Found here, since the first statement that is refused may be the one that attaches a table whose nodes are
//! deleted.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use rekeeper_shared::domain::ids::{TableName, quote_identifier};
use rekeeper_shared::domain::inventory::{TableInventory, UserFacts};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use crate::clickhouse::{ClickHouse, Error, Statement, code};

/// On each planned table. What needs which (measured on 26.9): ATTACH TABLE, DETACH TABLE, ATTACH PART, MODIFY SETTING,
/// then the SYSTEM statements of their names; STOP and START of MERGES and of REPLICATION QUEUES.
const OF_A_TABLE: [&str; 9] = [
    "CREATE TABLE",
    "DROP TABLE",
    "INSERT",
    "ALTER SETTINGS",
    "SYSTEM SYNC REPLICA",
    "SYSTEM RESTART REPLICA",
    "SYSTEM RESTORE REPLICA",
    "SYSTEM MERGES",
    "SYSTEM REPLICATION QUEUES",
];
/// Of the whole server: a cache is not a table's, nor is the queue of asynchronous inserts.
const OF_ALL: [&str; 5] = [
    "SYSTEM DROP MARK CACHE",
    "SYSTEM DROP PRIMARY INDEX CACHE",
    "SYSTEM DROP UNCOMPRESSED CACHE",
    "SYSTEM DROP QUERY CONDITION CACHE",
    "SYSTEM FLUSH ASYNC INSERT QUEUE",
];

/// What a question of the inspection that the server did not answer is told as.
pub(super) fn failed(error: Error) -> Failure {
    let refused = matches!(
        error.code(),
        Some(
            code::READONLY
                | code::QUOTA_EXCEEDED
                | code::QUERY_IS_PROHIBITED
                | code::SETTING_CONSTRAINT_VIOLATION
                | code::ACCESS_DENIED
        )
    );
    error.into_failure(if refused {
        Code::UserRefused
    } else {
        Code::InspectionFailed
    })
}

/// Limits and rights of the user; those on a table are noted with it.
pub(super) async fn user(clickhouse: &ClickHouse, tables: &mut [TableInventory]) -> Result<UserFacts, Error> {
    let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
    let mut lacking = on_tables(clickhouse, &names).await?;
    for (name, right) in on_engines(clickhouse, tables).await? {
        lacking.entry(name).or_default().push(right);
    }
    for table in tables {
        table.not_granted = lacking.remove(&table.name).unwrap_or_default();
    }
    let mut not_granted = Vec::new();
    for right in OF_ALL {
        if !has(clickhouse, right, "*.*").await? {
            not_granted.push(right.to_owned());
        }
    }
    Ok(UserFacts {
        refused: None,
        quotas: quotas(clickhouse).await?,
        not_granted,
    })
}

/// The rights that are lacking on each table. Mostly a user has them on everything: then that is one question.
async fn on_tables(clickhouse: &ClickHouse, tables: &[TableName]) -> Result<HashMap<TableName, Vec<String>>, Error> {
    let mut lacking: HashMap<TableName, Vec<String>> = HashMap::new();
    if has_all(clickhouse, "*.*").await? {
        return Ok(lacking);
    }
    let mut by_database: BTreeMap<&str, BTreeSet<&TableName>> = BTreeMap::new();
    for table in tables {
        by_database.entry(&table.database).or_default().insert(table);
    }
    for (database, tables) in by_database {
        if has_all(clickhouse, &format!("{}.*", quote_identifier(database))).await? {
            continue;
        }
        for table in tables {
            if has_all(clickhouse, &table.sql()).await? {
                continue;
            }
            for right in OF_A_TABLE {
                if !has(clickhouse, right, &table.sql()).await? {
                    lacking.entry(table.clone()).or_default().push(right.to_owned());
                }
            }
        }
    }
    Ok(lacking)
}

async fn has_all(clickhouse: &ClickHouse, on: &str) -> Result<bool, Error> {
    has(clickhouse, &OF_A_TABLE.join(", "), on).await
}

/// What ATTACH TABLE needs beside a right on the table: one on its engine, where `table_engines_require_grant` is on, as in
/// the packages of ClickHouse (24.4 and later).
async fn on_engines(clickhouse: &ClickHouse, tables: &[TableInventory]) -> Result<Vec<(TableName, String)>, Error> {
    let mut known: HashMap<(&str, &str), Option<String>> = HashMap::new();
    let mut lacking = Vec::new();
    for table in tables {
        let right = match known.entry((&table.name.database, &table.engine)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(lacking_to_attach(clickhouse, table).await?),
        };
        lacking.extend(right.clone().map(|right| (table.name.clone(), right)));
    }
    Ok(lacking)
}

/// A server that is not able to tell is asked for something that it refuses anyhow.
async fn lacking_to_attach(clickhouse: &ClickHouse, table: &TableInventory) -> Result<Option<String>, Error> {
    let on_engine = format!("TABLE ENGINE ON {}", table.engine);
    if let Some(granted) = granted(clickhouse, &on_engine).await? {
        return Ok((!granted).then_some(on_engine));
    }
    match clickhouse
        .execute(Statement::CreateNothing(&table.name, &table.engine))
        .await
    {
        Err(error) if error.code() == Some(code::ACCESS_DENIED) && error.says("TABLE ENGINE") => Ok(Some(on_engine)),
        Err(error) if error.code() == Some(code::ACCESS_DENIED) => Ok(Some("CREATE TABLE".to_owned())),
        Err(error) if error.code().is_some() => Ok(None),
        outcome => outcome.map(|()| None),
    }
}

/// Whether the user has the rights; where the server is not able to tell they count as granted.
async fn has(clickhouse: &ClickHouse, rights: &str, on: &str) -> Result<bool, Error> {
    let granted = granted(clickhouse, &format!("{rights} ON {on}")).await?;
    Ok(granted.unwrap_or(true))
}

/// Servers before 24.11 or so are not able to tell, nor one that does not know a right.
async fn granted(clickhouse: &ClickHouse, rights: &str) -> Result<Option<bool>, Error> {
    let sql = format!("CHECK GRANT {rights}");
    match clickhouse.row::<u8>("CHECK GRANT", &sql).await {
        Ok(granted) => Ok(Some(granted != 0)),
        Err(error) if error.code() == Some(code::SYNTAX_ERROR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The limits of the quotas that the user has now. A user without SHOW QUOTAS is not told.
async fn quotas(clickhouse: &ClickHouse) -> Result<Vec<String>, Error> {
    const LIMITS: [&str; 8] = [
        "max_queries",
        "max_query_selects",
        "max_errors",
        "max_result_rows",
        "max_result_bytes",
        "max_read_rows",
        "max_read_bytes",
        "max_execution_time",
    ];
    let limits: Vec<String> = LIMITS
        .iter()
        .map(|limit| format!("('{limit}', toString({limit}))"))
        .collect();
    let sql = format!(
        "SELECT concat('quota ', quota_name, ': ', limit.1, ' = ', ifNull(limit.2, ''), ' in ', toString(ifNull(duration, 0)), ' s') \
         FROM (SELECT quota_name, duration, arrayJoin([{}]) AS limit FROM system.quota_usage) \
         WHERE isNotNull(limit.2) AND isNotNull(duration)",
        limits.join(", ")
    );
    match clickhouse.rows("SELECT FROM system.quota_usage", &sql).await {
        Err(error)
            if matches!(
                error.code(),
                Some(code::ACCESS_DENIED | code::UNKNOWN_TABLE | code::UNKNOWN_IDENTIFIER)
            ) =>
        {
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}
