//! A statement is waited for as long as the server runs it, however long that is.

use std::future::Future;
use std::time::Duration;

use rekeeper_shared::domain::ids::quote_literal;

use super::{ClickHouse, Error, settings};

/// How often a statement without an answer is looked for.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// How often in a row the server may fail to answer, or not know the statement, before it is given up.
const WATCH_STRIKES: u32 = 3;

impl ClickHouse {
    /// Waits for `run` as long as the server answers on another connection and lists the statement.
    pub(super) async fn watched<T>(
        &self,
        statement: &'static str,
        query_id: &str,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::pin!(run);
        let (mut silent, mut gone) = (0, 0);
        loop {
            tokio::select! {
                biased;
                outcome = &mut run => return outcome,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            let seen = tokio::select! {
                biased;
                outcome = &mut run => return outcome,
                seen = tokio::time::timeout(WATCH_INTERVAL, self.is_running(query_id)) => seen,
            };
            match seen {
                Ok(Ok(true)) => (silent, gone) = (0, 0),
                Ok(Ok(false)) => (silent, gone) = (0, gone + 1),
                // A server that refuses the question is alive.
                Ok(Err(Error::Server { .. })) => silent = 0,
                Ok(Err(_)) | Err(_) => silent += 1,
            }
            let reason = if silent >= WATCH_STRIKES {
                "the server does not answer any more"
            } else if gone >= WATCH_STRIKES {
                "the server does not run the statement any more"
            } else {
                continue;
            };
            return Err(Error::Unknown {
                statement,
                source: reason.into(),
            });
        }
    }

    /// Not watched itself.
    async fn is_running(&self, query_id: &str) -> Result<bool, Error> {
        let sql = format!(
            "SELECT count() FROM system.processes WHERE query_id = {}",
            quote_literal(query_id)
        );
        let known = self.shared.own.known();
        let own = known.as_deref().map_or(settings::ALWAYS, Vec::as_slice);
        let query = self.query(&sql, &self.next_query_id(), own);
        let count = query.fetch_one::<u64>().await;
        Ok(count.map_err(|e| self.error("SELECT FROM system.processes", e))? > 0)
    }
}
