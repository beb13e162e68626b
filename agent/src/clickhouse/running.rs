//! Statements that run already: those of an agent that is no more, restores of anybody, and those of users.

use std::time::Duration;

use futures::future::BoxFuture;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::tools::backoff::Backoff;

use super::{ClickHouse, Error, TAG_PREFIX};

/// A statement that the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// By which the server knows it.
    pub query_id: String,
    /// The text, as far as the server keeps it.
    pub query: String,
    /// For how long already.
    pub elapsed: Duration,
}

impl Running {
    /// It changes nothing. A SYNC ends by itself within a short while (KILL QUERY does not end it sooner: measured on
    /// 26.9, it looks at that only when its own time is up). A flush of asynchronous inserts only writes what was accepted,
    /// and ends when the table is detached at the latest.
    fn is_harmless(&self) -> bool {
        let words = self.words();
        ["SYSTEM SYNC REPLICA", "SYSTEM FLUSH ASYNC", "SELECT"]
            .iter()
            .any(|begin| words.starts_with(begin))
    }

    fn is_of_rekeeper(&self) -> bool {
        self.query_id.starts_with(TAG_PREFIX)
    }

    fn is_restore(&self) -> bool {
        self.words().starts_with("SYSTEM RESTORE REPLICA")
    }

    /// Its text begins with these words, in upper case and with single spaces.
    fn words(&self) -> String {
        let words = self.query.split_whitespace().take(3);
        words.map(str::to_ascii_uppercase).collect::<Vec<_>>().join(" ")
    }

    /// Whether it may be about the table; for statements of others, any that names it.
    fn concerns(&self, table: &TableName) -> bool {
        if self.is_of_rekeeper() {
            self.query.contains(&table.sql())
        } else {
            self.query.contains(&table.table)
        }
    }
}

/// How often running statements are looked at: first, since most end at once, and at last.
const FIRST_POLL: Duration = Duration::from_millis(20);
const POLL: Duration = Duration::from_millis(500);

impl ClickHouse {
    /// Statements of Rekeeper that change something, and restores of anybody, that the server runs now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn running(&self) -> Result<Vec<Running>, Error> {
        let all = self.processes().await?.into_iter();
        Ok(all
            .filter(|r| (r.is_of_rekeeper() && !r.is_harmless()) || r.is_restore())
            .collect())
    }

    /// Statements of others than Rekeeper that the server runs now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn running_of_others(&self) -> Result<Vec<Running>, Error> {
        let all = self.processes().await?.into_iter();
        Ok(all.filter(|r| !r.is_of_rekeeper()).collect())
    }

    /// The names of everything by which a statement can read tables that it does not name: views, Merge, Distributed and
    /// the like, tables that feed views, and functions of SQL with a SELECT.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_through(&self) -> Result<Vec<String>, Error> {
        // Tables of other databases are asked of other servers, which may not answer.
        self.rows(
            "SELECT FROM system.tables",
            "SELECT DISTINCT name FROM system.tables \
             WHERE database IN (SELECT name FROM system.databases WHERE engine IN ('Atomic', 'Ordinary', 'Replicated')) \
             AND database != 'system' AND ((engine NOT LIKE '%MergeTree' AND engine NOT IN \
             ('Memory', 'Log', 'StripeLog', 'TinyLog', 'Set', 'Join', 'Null', 'KeeperMap', 'EmbeddedRocksDB')) \
             OR notEmpty(dependencies_table)) \
             UNION ALL SELECT name FROM system.functions \
             WHERE toString(origin) = 'SQLUserDefined' AND positionCaseInsensitive(create_query, 'SELECT') > 0",
        )
        .await
    }

    async fn processes(&self) -> Result<Vec<Running>, Error> {
        let query = |_| -> BoxFuture<'_, Result<Vec<((), Running)>, Error>> {
            Box::pin(async move {
                let rows: Vec<(String, String, f64)> = self
                    .rows(
                        "SELECT FROM system.processes",
                        "SELECT toString(query_id), query, toFloat64(elapsed) FROM system.processes",
                    )
                    .await?;
                let all = rows.into_iter().map(|(query_id, query, elapsed)| Running {
                    query_id,
                    query,
                    elapsed: Duration::try_from_secs_f64(elapsed).unwrap_or_default(),
                });
                Ok(all.map(|running| ((), running)).collect())
            })
        };
        self.shared.processes.ask((), query).await
    }

    /// At the start of an agent: every statement of a former one that changes something is waited for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wait_out_former_agent(&self, doing: impl Fn(String)) -> Result<(), Error> {
        self.wait_out(|r| r.is_of_rekeeper(), doing).await
    }

    /// Before a step on a table: no statement of an earlier attempt on it runs any more, and no restore of anybody.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wait_out_statements_on(&self, table: &TableName, doing: impl Fn(String)) -> Result<(), Error> {
        self.wait_out(|r| r.concerns(table), doing).await
    }

    async fn wait_out(&self, concerned: impl Fn(&Running) -> bool, doing: impl Fn(String)) -> Result<(), Error> {
        let mut polls = Backoff::new(FIRST_POLL, POLL);
        loop {
            let running: Vec<Running> = self.running().await?.into_iter().filter(&concerned).collect();
            let Some(first) = running.first() else {
                return Ok(());
            };
            doing(format!(
                "waits for a statement that is still running since {} s: {}",
                first.elapsed.as_secs(),
                first.query
            ));
            tokio::time::sleep(polls.next_delay()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(query_id: &str, query: &str) -> Running {
        Running {
            query_id: query_id.into(),
            query: query.into(),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn what_changes_something_is_waited_for() {
        assert!(running("rekeeper-m-1-1", "system  sync replica `d`.`t` LIGHTWEIGHT").is_harmless());
        assert!(running("rekeeper-m-1-1", "SYSTEM FLUSH ASYNC INSERT QUEUE").is_harmless());
        for query in [
            "SYSTEM RESTORE REPLICA `d`.`t`",
            "DETACH TABLE `d`.`t`",
            "ALTER TABLE `d`.`t` X",
        ] {
            assert!(!running("rekeeper-m-1-1", query).is_harmless(), "{query}");
        }
    }

    #[test]
    fn own_statements_are_told_apart_by_the_exact_name() {
        let table = TableName::new("d", "t");
        assert!(running("rekeeper-m-1-1", "ATTACH TABLE `d`.`t`").concerns(&table));
        assert!(!running("rekeeper-m-1-1", "ATTACH TABLE `d`.`t2`").concerns(&table));
        assert!(running("x", "SYSTEM RESTORE REPLICA d.t").concerns(&table));
    }
}
