//! The status file of ch-tools, made from a status: a list of tables for each host.

use rekeeper_shared::people::view::{StatusView, TableStatus, TableStatusView};
use serde::Serialize;

use crate::failure::Failure;

#[derive(Debug, Serialize)]
struct Row<'a> {
    db: &'a str,
    table: &'a str,
    status: u8,
    zk_path: &'a str,
}

pub(crate) fn file(status: &StatusView) -> Result<String, Failure> {
    let mut out = String::new();
    for (number, host) in status.hosts.iter().enumerate() {
        if number > 0 {
            out.push_str("---\n");
        }
        out.push_str("# ");
        out.push_str(host.host.as_str());
        out.push('\n');
        let tables = status.tables.iter().filter(|table| table.host == host.host);
        out.push_str(&super::yaml(&tables.map(row).collect::<Vec<_>>())?);
    }
    Ok(out)
}

fn row(table: &TableStatusView) -> Row<'_> {
    Row {
        db: &table.database,
        table: &table.table,
        status: number(table.status),
        zk_path: &table.zookeeper_path,
    }
}

/// The numbers that ch-tools has for the statuses.
fn number(status: TableStatus) -> u8 {
    match status {
        TableStatus::Init => 1,
        TableStatus::Detached => 2,
        TableStatus::ZkCleaned => 3,
        TableStatus::Restored => 4,
    }
}
