//! Questions about tables that are asked all the time: what many steps ask at the same time is one query.

use std::collections::BTreeSet;

use clickhouse::{RowOwned, RowRead};
use futures::future::BoxFuture;
use rekeeper_shared::domain::ids::{TableName, quote_literal};

use super::gather::Gather;
use super::rows::{DetachedPart, Part, Replica};
use super::{ClickHouse, Error};

/// What is asked about tables, several at a time. The first two columns are the table's database and name.
pub(super) struct Question {
    pub(super) columns: &'static str,
    pub(super) from: &'static str,
    /// The column that has the table's name.
    pub(super) name: &'static str,
    /// What else the rows have to be, and their sequence.
    pub(super) more: &'static str,
}

impl Question {
    /// The query about these tables. With several it may give rows of others too: each condition is about one column,
    /// so that the server looks only at what it is asked about.
    fn sql(&self, tables: &[TableName]) -> String {
        let Self {
            columns,
            from,
            name,
            more,
        } = self;
        let one_of = |column: &str, values: BTreeSet<&str>| {
            let values: Vec<String> = values.into_iter().map(quote_literal).collect();
            match values.as_slice() {
                [value] => format!("{column} = {value}"),
                values => format!("{column} IN ({})", values.join(", ")),
            }
        };
        let databases = one_of("database", tables.iter().map(|table| table.database.as_str()).collect());
        let names = one_of(name, tables.iter().map(|table| table.table.as_str()).collect());
        format!("SELECT {columns} FROM {from} WHERE {databases} AND {names}{more}")
    }
}

/// The questions about tables that are asked all the time; each kind is gathered.
#[derive(Default)]
pub(super) struct Questions {
    pub(super) uuids: Gather<TableName, String>,
    pub(super) names: Gather<String, TableName>,
    pub(super) engines: Gather<TableName, String>,
    pub(super) replicas: Gather<TableName, Replica>,
    pub(super) detached: Gather<TableName, (String, bool)>,
    pub(super) parts: Gather<TableName, Part>,
    pub(super) part_counts: Gather<TableName, (u64, u64)>,
    pub(super) detached_parts: Gather<TableName, DetachedPart>,
    pub(super) queued: Gather<TableName, String>,
    pub(super) versions: Gather<TableName, i32>,
    pub(super) ensembles: Gather<TableName, String>,
}

pub(super) fn named(database: String, table: String) -> TableName {
    TableName { database, table }
}

impl ClickHouse {
    /// The rows about one table; `of` tells of which table a row is.
    pub(super) async fn about<R, V>(
        &self,
        gather: &Gather<TableName, V>,
        table: &TableName,
        what: &'static str,
        question: &Question,
        of: fn(R) -> (TableName, V),
    ) -> Result<Vec<V>, Error>
    where
        R: RowOwned + RowRead + Send,
        V: Clone + Send,
    {
        let query = |tables: Vec<TableName>| -> BoxFuture<'_, Result<Vec<(TableName, V)>, Error>> {
            Box::pin(async move {
                let rows = self.rows::<R>(what, &question.sql(&tables)).await?;
                Ok(rows.into_iter().map(of).collect())
            })
        };
        gather.ask(table.clone(), query).await
    }
}
