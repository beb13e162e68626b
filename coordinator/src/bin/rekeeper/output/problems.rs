//! The problems of a migration, each with its remedy.

use std::collections::HashMap;
use std::fmt::Write as _;

use rekeeper_shared::ids::TableName;
use rekeeper_shared::problem::Code;
use rekeeper_shared::view::StatusView;
use serde::Serialize;

use super::text::{self, WIDTH};

/// One table's problem, of `rekeeper problems -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Row<'a> {
    host: &'a str,
    table: String,
    zookeeper_path: &'a str,
    code: Code,
    message: &'a str,
    fix: &'a str,
}

impl Row<'_> {
    /// In one line, without the remedy.
    pub(crate) fn line(&self) -> String {
        text::escape(&format!(
            "{} on {}: {}: {}",
            self.table, self.host, self.code, self.message
        ))
    }
}

/// A row for every table that has a problem.
pub(crate) fn rows(status: &StatusView) -> Vec<Row<'_>> {
    let tables = status.tables.iter();
    tables
        .filter_map(|table| {
            let problem = table.problem.as_ref()?;
            Some(Row {
                host: table.host.as_str(),
                table: TableName::new(&table.database, &table.table).to_string(),
                zookeeper_path: &table.zookeeper_path,
                code: problem.code,
                message: &problem.message,
                fix: &problem.fix,
            })
        })
        .collect()
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
pub(crate) fn table(rows: &[Row<'_>], limit: Limit) -> String {
    let mut groups: Vec<(&Row<'_>, Vec<String>)> = Vec::new();
    let mut known: HashMap<(Code, &str, &str), usize> = HashMap::new();
    for row in rows {
        let group = *known.entry((row.code, row.message, row.fix)).or_insert_with(|| {
            groups.push((row, Vec::new()));
            groups.len() - 1
        });
        groups[group]
            .1
            .push(text::escape(&format!("{} on {}", row.table, row.host)));
    }
    let mut out = String::new();
    for (row, places) in groups.iter().take(limit.problems) {
        let _ = writeln!(out, "{}", row.code);
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
        out.push_str(&text::wrap(row.message, "    ", WIDTH));
        out.push_str(&text::wrap(&format!("fix: {}", row.fix), "    ", WIDTH));
    }
    if groups.len() > limit.problems {
        let more = text::count(groups.len() - limit.problems, "more problem");
        let _ = writeln!(out, "... and {more}; `rekeeper problems` lists all");
    }
    out
}
