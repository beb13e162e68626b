//! What writes into tables, or reads from them, by itself: found by name, from what the server says of its tables.
//!
//! What becomes of their rows while a table is away is in docs/writers.md, with how it was measured.

use std::collections::{BTreeSet, HashMap};

use rekeeper_shared::domain::ids::{TableName, quote_literal};
use rekeeper_shared::domain::inventory::{Careless, CarelessSetting, Neighbour, Relation};

use crate::clickhouse::names::{arguments, inner_table, literal, named, target, whole_name};
use crate::clickhouse::{ClickHouse, Error};

/// What is to be known of the server's tables to tell who writes into which.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// All of them.
    pub all: Vec<Neighbour>,
}

impl Neighbours {
    /// Reads them, by a handful of questions, however many tables there are.
    pub(super) async fn read(clickhouse: &ClickHouse) -> Result<Self, Error> {
        let mut all = BTreeSet::new();
        all.extend(by_definition(clickhouse).await?);
        all.extend(pushed_to(clickhouse).await?);
        all.extend(merged(clickhouse).await?);
        all.extend(dictionaries(clickhouse).await?);
        Ok(Self {
            all: all.into_iter().collect(),
        })
    }

    /// For each table the materialized views that write into it, in words.
    pub(super) fn views(&self) -> HashMap<TableName, Vec<String>> {
        let mut found: HashMap<TableName, Vec<String>> = HashMap::new();
        for view in self.writers().filter(|it| VIEWS.contains(&it.engine.as_str())) {
            let fed = self.writers().find(|it| it.of == view.name && is_stream(&it.engine));
            let fed = fed.map(|stream| format!(", fed by {} table {}", stream.engine, stream.name));
            let text = format!("{} writes into it{}", view.name, fed.unwrap_or_default());
            found.entry(view.of.clone()).or_default().push(text);
        }
        found
    }

    fn writers(&self) -> impl Iterator<Item = &Neighbour> {
        self.all.iter().filter(|it| it.relation == Relation::WritesInto)
    }
}

/// Views that write what their source gets into another table.
const VIEWS: [&str; 2] = ["MaterializedView", "WindowView"];

/// Engines that read from outside by themselves, into the views on them.
fn is_stream(engine: &str) -> bool {
    ["Kafka", "RabbitMQ", "NATS", "S3Queue", "AzureQueue", "FileLog"].contains(&engine)
}

/// What names a table in its own definition.
async fn by_definition(clickhouse: &ClickHouse) -> Result<Vec<Neighbour>, Error> {
    type Row = (String, String, String, String, String, String);
    let rows: Vec<Row> = clickhouse
        .rows(
            "SELECT FROM system.tables",
            "SELECT database, name, toString(uuid), engine, engine_full, create_table_query FROM system.tables \
             WHERE engine IN ('MaterializedView', 'WindowView', 'Buffer', 'Distributed', 'Alias')",
        )
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(database, name, uuid, engine, engine_full, query)| {
            let of = if VIEWS.contains(&engine.as_str()) {
                Some(target(&query, &database).unwrap_or_else(|| inner_table(&database, &name, &uuid)))
            } else {
                named(&engine, &engine_full)
            };
            Some(Neighbour {
                name: TableName::new(database, name),
                engine,
                relation: Relation::WritesInto,
                of: of?,
            })
        })
        .collect())
}

/// The views that get what is written into a table.
async fn pushed_to(clickhouse: &ClickHouse) -> Result<Vec<Neighbour>, Error> {
    let rows: Vec<(String, String, String, String, String)> = clickhouse
        .rows(
            "SELECT FROM system.tables",
            "SELECT database, name, engine, view.1, view.2 FROM system.tables \
             ARRAY JOIN arrayZip(dependencies_database, dependencies_table) AS view",
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(database, name, engine, view_database, view)| Neighbour {
            name: TableName::new(database, name),
            engine,
            relation: Relation::WritesInto,
            of: TableName::new(view_database, view),
        })
        .collect())
}

/// Merge tables and the replicated tables that they read. Which those are is for the server to say, whose expressions
/// they are; one that it cannot read is left out, since such a table cannot be read either.
async fn merged(clickhouse: &ClickHouse) -> Result<Vec<Neighbour>, Error> {
    let rows: Vec<(String, String, String)> = clickhouse
        .rows(
            "SELECT FROM system.tables",
            "SELECT database, name, engine_full FROM system.tables WHERE engine = 'Merge'",
        )
        .await?;
    let mut found = Vec::new();
    for (database, name, engine_full) in rows {
        let arguments = arguments(&engine_full);
        let [of_database, of_table, ..] = arguments.as_slice() else {
            continue;
        };
        let expression = of_database
            .strip_prefix("REGEXP(")
            .and_then(|rest| rest.strip_suffix(')'));
        let condition = match (expression.map(literal), literal(of_database)) {
            (Some(Some(expression)), _) => format!("match(database, {})", quote_literal(&expression)),
            (None, Some(name)) => format!("database = {}", quote_literal(&name)),
            (Some(None), _) | (None, None) => continue,
        };
        let Some(of_table) = literal(of_table) else {
            continue;
        };
        let sql = format!(
            "SELECT database, name FROM system.tables WHERE engine LIKE 'Replicated%' AND {condition} \
             AND match(name, {})",
            quote_literal(&of_table)
        );
        let read: Vec<(String, String)> = if_told(clickhouse, "SELECT FROM system.tables", &sql).await?;
        found.extend(read.into_iter().map(|(of_database, of_table)| Neighbour {
            name: TableName::new(&database, &name),
            engine: "Merge".to_owned(),
            relation: Relation::ReadsFrom,
            of: TableName::new(of_database, of_table),
        }));
    }
    Ok(found)
}

/// Dictionaries that are loaded from a table of the server, also those of the configuration.
async fn dictionaries(clickhouse: &ClickHouse) -> Result<Vec<Neighbour>, Error> {
    let rows: Vec<(String, String, String)> = if_told(
        clickhouse,
        "SELECT FROM system.dictionaries",
        "SELECT database, name, source FROM system.dictionaries WHERE startsWith(source, 'ClickHouse: ')",
    )
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(database, name, source)| {
            let source = source.strip_prefix("ClickHouse: ")?.split(", where: ").next()?;
            let (of_database, of_table) = source.split_once('.')?;
            Some(Neighbour {
                name: TableName::new(database, name),
                engine: "Dictionary".to_owned(),
                relation: Relation::ReadsFrom,
                of: TableName::new(of_database, of_table),
            })
        })
        .collect())
}

/// Settings by which rows are acknowledged that are not written: those of profiles and users, and of the statements of
/// the last hour. What the server does not tell, or not to this user, is not known.
pub(super) async fn careless(clickhouse: &ClickHouse) -> Result<Vec<Careless>, Error> {
    let set: Vec<(String, String)> = if_told(
        clickhouse,
        "SELECT FROM system.settings_profile_elements",
        "SELECT setting_name, multiIf(user_name != '', concat('user ', user_name), \
         role_name != '', concat('role ', role_name), concat('profile ', profile_name)) \
         FROM (SELECT ifNull(setting_name, '') AS setting_name, ifNull(value, '') AS value, \
         ifNull(user_name, '') AS user_name, ifNull(role_name, '') AS role_name, ifNull(profile_name, '') AS profile_name \
         FROM system.settings_profile_elements) \
         WHERE (setting_name = 'wait_for_async_insert' AND value IN ('0', 'false')) \
         OR (setting_name = 'materialized_views_ignore_errors' AND value IN ('1', 'true'))",
    )
    .await?;
    let used: Vec<(String, String, String)> = if_told(
        clickhouse,
        "SELECT FROM system.query_log",
        "SELECT DISTINCT setting, concat('statements of user ', user), written FROM (SELECT user, \
         arrayJoin(if(empty(tables), [''], tables)) AS written, arrayJoin(arrayFilter(name -> name != '', [\
         if(Settings['wait_for_async_insert'] IN ('0', 'false'), 'wait_for_async_insert', ''), \
         if(Settings['materialized_views_ignore_errors'] IN ('1', 'true'), 'materialized_views_ignore_errors', '')])) \
         AS setting FROM system.query_log WHERE event_date >= toDate(now() - 3600) AND event_time >= now() - 3600 \
         AND query_kind = 'Insert') SETTINGS max_execution_time = 10, timeout_overflow_mode = 'break'",
    )
    .await?;
    let set = set.into_iter().map(|(setting, by)| (setting, by, String::new()));
    let all = set.chain(used).filter_map(|(setting, by, table)| {
        let setting = match setting.as_str() {
            "wait_for_async_insert" => CarelessSetting::NoWaitForAsyncInsert,
            "materialized_views_ignore_errors" => CarelessSetting::IgnoreErrorsOfViews,
            _ => return None,
        };
        let table = whole_name(&table);
        Some(Careless { setting, by, table })
    });
    Ok(all.collect::<BTreeSet<_>>().into_iter().collect())
}

/// The rows of a table that a server may not have, not fill or not show to this user: none then. Only a server that
/// does not answer is an error.
async fn if_told<T: clickhouse::RowOwned + clickhouse::RowRead>(
    clickhouse: &ClickHouse,
    what: &'static str,
    sql: &str,
) -> Result<Vec<T>, Error> {
    match clickhouse.rows(what, sql).await {
        Err(Error::Server { code, text, .. }) => {
            tracing::info!(code, text, "the server does not tell: {what}");
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_tells_what_feeds_it() {
        let neighbour = |name: &str, engine: &str, of: &str| Neighbour {
            name: TableName::new("d", name),
            engine: engine.into(),
            relation: Relation::WritesInto,
            of: TableName::new("d", of),
        };
        let all = vec![
            neighbour("k", "Kafka", "v"),
            neighbour("s", "Null", "w"),
            neighbour("v", "MaterializedView", "t"),
            neighbour("w", "MaterializedView", "t"),
            neighbour("b", "Buffer", "t"),
        ];
        let views = Neighbours { all }.views();
        assert_eq!(
            views[&TableName::new("d", "t")],
            ["d.v writes into it, fed by Kafka table d.k", "d.w writes into it"]
        );
    }
}
