//! The problems of a migration, each with its remedy: one of each table. How they are told to people is in `causes`.

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::people::causes::Item;
use rekeeper_shared::people::view::{Phase, StatusView, TableStatus, TableStatusView};
use serde::Serialize;

/// One table's problem, of `rekeeper problems -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Row<'a> {
    host: &'a str,
    table: String,
    zookeeper_path: &'a str,
    code: Code,
    message: String,
    fix: String,
    /// The words of the agent that told it, and its host.
    said: Option<String>,
    said_by: Option<HostName>,
    /// Statements on the table's host that bring it further by hand; `retry` goes on from there.
    by_hand: Vec<String>,
    /// As statements name the table.
    #[serde(skip)]
    sql: String,
}

/// The same for people, who are told once what several tables suffer from.
pub(crate) fn items(rows: &[Row<'_>]) -> Vec<Item> {
    let item = |row: &Row<'_>| Item {
        code: row.code,
        table: Some(row.table.clone()),
        host: Some(row.host.to_owned()),
        message: row.message.clone(),
        fix: row.fix.clone(),
        said: (row.said_by.as_ref().map(ToString::to_string)).zip(row.said.clone()),
        by_hand: row.by_hand.clone(),
        own: vec![row.sql.clone(), row.zookeeper_path.to_owned()],
    };
    rows.iter().map(item).collect()
}

/// A row for every table that has a problem.
pub(crate) fn rows(status: &StatusView) -> Vec<Row<'_>> {
    let tables = status.tables.iter();
    let away = |table: &TableStatusView| {
        let name = table.waits_for.as_ref()?;
        let host = status.hosts.iter().find(|host| host.host == *name)?;
        let fix = Code::HostAway.fix().replace("NAME", status.name.as_str());
        let why = host.away.as_deref().unwrap_or("it is not connected");
        Some(Problem {
            fix: fix.replace("HOST", name.as_str()),
            ..Problem::new(Code::HostAway, format!("waits for {name}: {why}"))
        })
    };
    tables
        .filter_map(|table| {
            let problem = table.problem.clone().or_else(|| away(table))?;
            Some(Row {
                host: table.host.as_str(),
                table: TableName::new(&table.database, &table.table).to_string(),
                sql: TableName::new(&table.database, &table.table).sql(),
                zookeeper_path: &table.zookeeper_path,
                code: problem.code,
                by_hand: by_hand(status, table, problem.code),
                message: problem.message,
                fix: problem.fix,
                said: problem.said,
                said_by: problem.said_by,
            })
        })
        .collect()
}

/// The statements for a table in its present status. None where a statement would do harm or change nothing: while its
/// nodes are being deleted, before its server is at its new place, and where parts are missing.
fn by_hand(status: &StatusView, table: &TableStatusView, code: Code) -> Vec<String> {
    let name = TableName::new(&table.database, &table.table).sql();
    let set = status
        .replica_sets
        .iter()
        .find(|set| set.zookeeper_path == table.zookeeper_path);
    let reference = set.and_then(|set| set.reference.as_ref());
    let is_reference = reference == Some(&table.host);
    let reference_is_restored = status.tables.iter().any(|other| {
        other.zookeeper_path == table.zookeeper_path
            && Some(&other.host) == reference
            && other.status == TableStatus::Restored
    });
    match (code, table.status) {
        (Code::AttachFailed, TableStatus::Init | TableStatus::Detached) => vec![format!("ATTACH TABLE {name}")],
        // Its agent is away and its server may not be. What is restored without a manifest is compared with the record.
        (Code::HostAway, TableStatus::ZkCleaned)
            if table.waits_for.as_ref() == Some(&table.host)
                && matches!(status.phase, Phase::Attach | Phase::Restore)
                && (is_reference || reference_is_restored) =>
        {
            let attach = table.parts.is_none().then(|| format!("ATTACH TABLE {name}"));
            attach.into_iter().chain(restore(&name)).collect()
        }
        // Not RESTORE: the manifest is written before it.
        (Code::AttachFailed, TableStatus::ZkCleaned) => {
            vec![format!("ATTACH TABLE {name}"), format!("SYSTEM STOP MERGES {name}")]
        }
        (Code::RestoreFailed, TableStatus::ZkCleaned)
            if table.parts.is_some() && (is_reference || reference_is_restored) =>
        {
            restore(&name).collect()
        }
        // In service on its old metadata, once it is attached.
        (Code::HostLeft, TableStatus::Init | TableStatus::Detached) => vec![format!("ATTACH TABLE {name}")],
        // It joins the replicas that were restored without it, with what it has and they have too.
        (Code::HostLeft, TableStatus::ZkCleaned) => {
            let caches = ["MARK", "PRIMARY INDEX", "UNCOMPRESSED", "QUERY CONDITION"];
            let mut all = vec![format!("ATTACH TABLE {name}"), format!("SYSTEM RESTORE REPLICA {name}")];
            all.extend(caches.map(|cache| format!("SYSTEM DROP {cache} CACHE")));
            all
        }
        (Code::MergesFailed, _) => vec![format!("SYSTEM START MERGES {name}")],
        _ => Vec::new(),
    }
}

/// The statements that restore an attached table.
fn restore(name: &str) -> impl Iterator<Item = String> {
    let caches = ["MARK", "PRIMARY INDEX", "UNCOMPRESSED", "QUERY CONDITION"];
    let statements = [
        format!("SYSTEM STOP MERGES {name}"),
        format!("SYSTEM RESTORE REPLICA {name}"),
    ];
    let dropped = caches.map(|cache| format!("SYSTEM DROP {cache} CACHE"));
    statements.into_iter().chain(dropped)
}
