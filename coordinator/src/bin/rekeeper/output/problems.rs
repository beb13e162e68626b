//! The problems of a migration, each with its remedy.

use std::collections::HashMap;
use std::fmt::Write as _;

use rekeeper_shared::ids::TableName;
use rekeeper_shared::problem::{Code, Problem};
use rekeeper_shared::view::{Phase, StatusView, TableStatus, TableStatusView};
use serde::Serialize;

use super::text::{self, Paint, WIDTH};

/// One table's problem, of `rekeeper problems -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Row<'a> {
    host: &'a str,
    table: String,
    zookeeper_path: &'a str,
    code: Code,
    message: String,
    fix: String,
    /// Statements on the table's host that bring it further by hand; `retry` goes on from there.
    by_hand: Vec<String>,
}

impl Row<'_> {
    /// In one line, without the remedy.
    pub(crate) fn line(&self, paint: Paint) -> String {
        let place = text::escape(&format!("{} on {}", self.table, self.host));
        format!(
            "{}  {place}: {}",
            paint.bad(self.code.as_str()),
            text::escape(&self.message)
        )
    }
}

/// A row for every table that has a problem.
pub(crate) fn rows(status: &StatusView) -> Vec<Row<'_>> {
    let tables = status.tables.iter();
    let away = |table: &TableStatusView| {
        let name = table.waits_for.as_ref()?;
        let host = status.hosts.iter().find(|host| host.host == *name)?;
        let fix = Code::HostAway.fix().replace("NAME", status.name.as_str());
        Some(Problem {
            code: Code::HostAway,
            message: format!(
                "waits for {name}: {}",
                host.away.as_deref().unwrap_or("it is not connected")
            ),
            fix: fix.replace("HOST", name.as_str()),
        })
    };
    tables
        .filter_map(|table| {
            let problem = table.problem.clone().or_else(|| away(table))?;
            Some(Row {
                host: table.host.as_str(),
                table: TableName::new(&table.database, &table.table).to_string(),
                zookeeper_path: &table.zookeeper_path,
                code: problem.code,
                by_hand: by_hand(status, table, problem.code),
                message: problem.message,
                fix: problem.fix,
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

/// How much of the problems is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Different problems.
    pub(crate) problems: usize,
    /// Tables named with each.
    pub(crate) tables: usize,
}

impl Limit {
    /// Everything.
    pub(crate) const NONE: Self = Self {
        problems: usize::MAX,
        tables: usize::MAX,
    };
    /// As much as a person reads among other things.
    pub(crate) const FEW: Self = Self {
        problems: 20,
        tables: 20,
    };
}

/// For people: what several tables suffer from is said once, with the tables it is about.
pub(crate) fn table(rows: &[Row<'_>], limit: Limit, paint: Paint) -> String {
    let mut groups: Vec<(&Row<'_>, Vec<String>)> = Vec::new();
    let mut known: HashMap<(Code, &str, &str, &[String]), usize> = HashMap::new();
    for row in rows {
        let group = *known
            .entry((row.code, &row.message, &row.fix, row.by_hand.as_slice()))
            .or_insert_with(|| {
                groups.push((row, Vec::new()));
                groups.len() - 1
            });
        groups[group]
            .1
            .push(text::escape(&format!("{} on {}", row.table, row.host)));
    }
    let mut out = String::new();
    for (row, places) in groups.iter().take(limit.problems) {
        let _ = writeln!(out, "{}", paint.bad(row.code.as_str()));
        for place in places.iter().take(limit.tables) {
            let _ = writeln!(out, "  {place}");
        }
        if places.len() > limit.tables {
            let _ = writeln!(
                out,
                "  ... and {} more",
                text::count(places.len() - limit.tables, "table")
            );
        }
        out.push_str(&text::wrap(&row.message, "    ", WIDTH));
        out.push_str(&text::wrap(&format!("fix: {}", row.fix), "    ", WIDTH));
        if !row.by_hand.is_empty() {
            // Nothing is ordered any more of a host that was left out.
            let then = if row.code == Code::HostLeft { "" } else { ", then retry" };
            let _ = writeln!(out, "    by hand, on the host{then}:");
        }
        for statement in &row.by_hand {
            let _ = writeln!(out, "      {};", text::escape(statement));
        }
    }
    if groups.len() > limit.problems {
        let more = text::count(groups.len() - limit.problems, "more problem");
        let _ = writeln!(out, "... and {more}; `rekeeper problems` lists all");
    }
    out
}
