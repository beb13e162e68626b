//! What the server holds in its memory for a table: rows in Buffer tables, and asynchronous inserts.

use futures::future::BoxFuture;
use rekeeper_shared::domain::ids::TableName;

use super::names::named;
use super::{ClickHouse, Error, Statement, code};

/// A Buffer table, and the table that its rows go into.
type Buffer = (TableName, TableName);

impl ClickHouse {
    /// The Buffer tables whose rows go straight into the table.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn buffers_of(&self, table: &TableName) -> Result<Vec<TableName>, Error> {
        let query = |_| -> BoxFuture<'_, Result<Vec<((), Buffer)>, Error>> {
            Box::pin(async move {
                let rows: Vec<(String, String, String)> = self
                    .rows(
                        "SELECT FROM system.tables",
                        "SELECT database, name, engine_full FROM system.tables WHERE engine = 'Buffer'",
                    )
                    .await?;
                let buffers = rows.into_iter().filter_map(|(database, name, engine_full)| {
                    let of = named("Buffer", &engine_full)?;
                    Some(((), (TableName::new(database, name), of)))
                });
                Ok(buffers.collect())
            })
        };
        let all = self.shared.buffers.ask((), query).await?;
        Ok(all
            .into_iter()
            .filter(|(_, of)| of == table)
            .map(|(name, _)| name)
            .collect())
    }

    /// Has the server write what asynchronous inserts have left in its memory. A server that has no such queue, or is too
    /// old for the statement, has nothing there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn flush_async_inserts(&self) -> Result<(), Error> {
        let flush = |_| -> BoxFuture<'_, Result<Vec<((), ())>, Error>> {
            Box::pin(async move {
                match self.execute(Statement::FlushAsyncInserts).await {
                    // "Cannot flush asynchronous insert queue because it is not initialized."
                    Err(error) if matches!(error.code(), Some(code::BAD_ARGUMENTS | code::SYNTAX_ERROR)) => {
                        Ok(Vec::new())
                    }
                    outcome => outcome.map(|()| Vec::new()),
                }
            })
        };
        self.shared.flushes.ask((), flush).await.map(|_| ())
    }
}
