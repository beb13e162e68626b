//! A report, for people: a line for each table, then what is not simply active, and what is left in `detached/`.

use std::fmt::Write as _;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::people::report::{ExportReport, PartFate, ReplicaRole, ReportView, TableReport};

use super::causes;
use super::status::{status_word, tables_of};
use super::text::{self, Table, WIDTH};

/// Parts and folders that are named for each table.
const NAMED: usize = 20;

pub(crate) fn table(report: &ReportView) -> String {
    let mut out = format!(
        "Report of migration {}: {}, {}\n\n",
        report.name,
        report.state.as_str(),
        tables_of(report.tables.len())
    );
    out.push_str(&summary(report));
    for table in &report.tables {
        details(&mut out, table);
    }
    exports(&mut out, &report.exports);
    out
}

/// Where what was in ZooKeeper lies.
fn exports(out: &mut String, exports: &[ExportReport]) {
    if exports.is_empty() {
        return;
    }
    out.push_str("\nExports of what was in ZooKeeper (rekeeper-agent znodes FILE lists one):\n");
    for ExportReport { zookeeper_path, export } in exports.iter().take(NAMED) {
        let _ = writeln!(out, "  {}", text::escape(zookeeper_path));
        let _ = writeln!(out, "    {} on {}", text::escape(&export.file), export.host);
        let _ = writeln!(
            out,
            "    {} znodes, {}, sha256 {}",
            export.nodes,
            text::bytes(export.bytes),
            export.sha256
        );
    }
    if let Some(more @ 1..) = exports.len().checked_sub(NAMED) {
        let _ = writeln!(out, "  ... and {more} more; -o json lists all");
    }
}

fn summary(report: &ReportView) -> String {
    const HEADS: [&str; 12] = [
        "TABLE", "HOST", "STATUS", "ROLE", ">PARTS", ">ROWS", ">ACTIVE", ">AGAIN", ">FETCHED", ">OTHER", ">OPEN",
        ">LEFT",
    ];
    let mut lines = Table::new(&HEADS);
    for table in &report.tables {
        let count = |fate: PartFate| table.fates.get(&fate).copied().unwrap_or(0);
        let shown = [
            PartFate::Active,
            PartFate::AttachedAgain,
            PartFate::Fetched,
            PartFate::Open,
        ];
        let other = table.fates.iter().filter(|(fate, _)| !shown.contains(fate));
        let other: u64 = other.map(|(_, number)| number).sum();
        let rows = table
            .parts
            .as_ref()
            .map(|parts| parts.iter().map(|part| part.rows).sum::<u64>());
        let known = |number: u64| match &table.parts {
            Some(_) => number.to_string(),
            None => "-".to_owned(),
        };
        lines.row([
            &name_of(table),
            table.host.as_str(),
            status_word(table.status),
            role(table.role),
            &known(table.fates.values().sum()),
            &known(rows.unwrap_or(0)),
            &known(count(PartFate::Active)),
            &known(count(PartFate::AttachedAgain)),
            &known(count(PartFate::Fetched)),
            &known(other),
            &known(count(PartFate::Open)),
            &table
                .detached
                .as_ref()
                .map_or_else(|| "-".to_owned(), |left| left.len().to_string()),
        ]);
    }
    lines.render()
}

fn details(out: &mut String, table: &TableReport) {
    let parts = table.parts.iter().flatten();
    // Of a table that is not restored all are open: the line above says so.
    let parts = parts.filter(|part| !matches!(part.fate, PartFate::Active | PartFate::Open));
    let parts: Vec<String> = parts
        .map(|part| {
            let now = part.now.as_ref().map(|now| format!(": {now}")).unwrap_or_default();
            format!("{} ({}), {}{now}", part.name, rows(part.rows), part.fate.as_str())
        })
        .collect();
    let folders = table.detached.iter().flatten();
    let folders: Vec<String> = folders
        .map(|folder| format!("{}: {}", folder.name, folder.text))
        .collect();
    if parts.is_empty() && folders.is_empty() && table.problem.is_none() {
        return;
    }
    let _ = writeln!(out, "\n{} on {}", text::escape(&name_of(table)), table.host);
    if let Some(problem) = &table.problem {
        let found = format!("problem {}: {}", problem.code, problem.message);
        out.push_str(&text::hanging(&found, "  ", WIDTH));
        out.push_str(&text::wrap(&format!("fix: {}", problem.fix), "  ", WIDTH));
        if let (Some(host), Some(words)) = (&problem.said_by, &problem.said) {
            out.push_str(&causes::said(&format!("{host} says"), words, "  "));
        }
    }
    list(out, "parts that are not active as the restore attached them:", &parts);
    list(out, "left in detached/:", &folders);
}

fn list(out: &mut String, head: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "  {head}");
    for line in lines.iter().take(NAMED) {
        let _ = writeln!(out, "    {}", text::escape(line));
    }
    if lines.len() > NAMED {
        let _ = writeln!(out, "    ... and {} more; -o json lists all", lines.len() - NAMED);
    }
}

fn rows(number: u64) -> String {
    format!("{number} {}", if number == 1 { "row" } else { "rows" })
}

fn name_of(table: &TableReport) -> String {
    TableName::new(&table.database, &table.table).to_string()
}

fn role(role: Option<ReplicaRole>) -> &'static str {
    match role {
        Some(ReplicaRole::Reference) => "reference",
        Some(ReplicaRole::Follower) => "follower",
        None => "-",
    }
}
