//! What the system tables say of one table.

use futures::future::BoxFuture;
use rekeeper_shared::domain::document::FormerSettings;
use rekeeper_shared::domain::ids::{TableName, quote_literal};

use super::questions::{Question, named};
use super::rows::{DetachedTable, Replica};
use super::{ClickHouse, Error, TableSetting, code};

impl ClickHouse {
    /// The UUID of the attached table of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn uuid_of(&self, table: &TableName) -> Result<Option<String>, Error> {
        const QUESTION: Question = Question {
            columns: "database, name, toString(uuid)",
            from: "system.tables",
            name: "name",
            more: "",
        };
        let of = |(database, table, uuid): (String, String, String)| (named(database, table), uuid);
        let gather = &self.shared.questions.uuids;
        let mut rows = self
            .about(gather, table, "SELECT FROM system.tables", &QUESTION, of)
            .await?;
        Ok(rows.pop())
    }

    /// The name of the attached table of that UUID.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn name_of(&self, uuid: &str) -> Result<Option<TableName>, Error> {
        let query = |uuids: Vec<String>| -> BoxFuture<'_, Result<Vec<(String, TableName)>, Error>> {
            Box::pin(async move {
                let uuids: Vec<String> = uuids.iter().map(|uuid| quote_literal(uuid)).collect();
                let sql = format!(
                    "SELECT database, name, toString(uuid) FROM system.tables WHERE toString(uuid) IN ({})",
                    uuids.join(", ")
                );
                type Row = (String, String, String);
                let rows = self.rows::<Row>("SELECT FROM system.tables", &sql).await?;
                Ok(rows
                    .into_iter()
                    .map(|(database, table, uuid)| (uuid, named(database, table)))
                    .collect())
            })
        };
        let mut rows = self.shared.questions.names.ask(uuid.to_owned(), query).await?;
        Ok(rows.pop())
    }

    /// Its row of `system.replicas`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn replica(&self, table: &TableName) -> Result<Option<Replica>, Error> {
        const QUESTION: Question = Question {
            // A row has eight columns at most here, so the flags are one number.
            columns: "database, table, \
                      toUInt8(is_readonly + 2 * is_session_expired + 4 * replica_is_active[replica_name]), \
                      zookeeper_path, replica_name, zookeeper_exception, last_queue_update_exception, \
                      toUInt64(queue_size)",
            from: "system.replicas",
            name: "table",
            more: "",
        };
        type Row = (String, String, u8, String, String, String, String, u64);
        let of =
            |(database, table, flags, path, replica_name, zookeeper_exception, queue_exception, queue_size): Row| {
                let replica = Replica {
                    readonly: flags & 1 != 0,
                    session_expired: flags & 2 != 0,
                    path,
                    replica_name,
                    zookeeper_exception,
                    queue_exception,
                    queue_size,
                    active: flags & 4 != 0,
                };
                (named(database, table), replica)
            };
        let gather = &self.shared.questions.replicas;
        let mut rows = self
            .about(gather, table, "SELECT FROM system.replicas", &QUESTION, of)
            .await?;
        Ok(rows.pop())
    }

    /// What the server says of a detached table of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn detached_table(&self, table: &TableName) -> Result<DetachedTable, Error> {
        const QUESTION: Question = Question {
            columns: "database, table, toString(uuid), toUInt8(is_permanently)",
            from: "system.detached_tables",
            name: "table",
            more: "",
        };
        type Row = (String, String, String, u8);
        let of = |(database, table, uuid, flag): Row| (named(database, table), (uuid, flag != 0));
        let gather = &self.shared.questions.detached;
        let what = "SELECT FROM system.detached_tables";
        match self.about(gather, table, what, &QUESTION, of).await {
            Ok(mut rows) => Ok(rows
                .pop()
                .map_or(DetachedTable::None, |(uuid, permanently)| DetachedTable::Is {
                    uuid,
                    permanently,
                })),
            Err(error) if error.code() == Some(code::UNKNOWN_TABLE) => Ok(DetachedTable::NotTold),
            Err(error) => Err(error),
        }
    }

    /// Its engine with all clauses and settings, while it is attached.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn engine_of(&self, table: &TableName) -> Result<Option<String>, Error> {
        const QUESTION: Question = Question {
            columns: "database, name, engine_full",
            from: "system.tables",
            name: "name",
            more: "",
        };
        let of = |(database, table, engine): (String, String, String)| (named(database, table), engine);
        let gather = &self.shared.questions.engines;
        let mut rows = self
            .about(gather, table, "SELECT FROM system.tables", &QUESTION, of)
            .await?;
        Ok(rows.pop())
    }

    /// The name of the ensemble that has its metadata, in the server's configuration.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensemble_of(&self, table: &TableName) -> Result<Option<String>, Error> {
        const QUESTION: Question = Question {
            columns: "database, table, zookeeper_name",
            from: "system.replicas",
            name: "table",
            more: "",
        };
        let of = |(database, table, ensemble): (String, String, String)| (named(database, table), ensemble);
        let gather = &self.shared.questions.ensembles;
        let mut rows = self
            .about(gather, table, "SELECT FROM system.replicas", &QUESTION, of)
            .await?;
        Ok(rows.pop())
    }

    /// The version of its definition that the server goes by; none while it is not attached, and of a server that does not
    /// tell (which has come with 25.x).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn definition_version(&self, table: &TableName) -> Result<Option<i32>, Error> {
        const QUESTION: Question = Question {
            columns: "database, name, metadata_version",
            from: "system.tables",
            name: "name",
            more: "",
        };
        let of = |(database, table, version): (String, String, i32)| (named(database, table), version);
        let gather = &self.shared.questions.versions;
        match self
            .about(gather, table, "SELECT FROM system.tables", &QUESTION, of)
            .await
        {
            Ok(mut rows) => Ok(rows.pop()),
            Err(error) if error.code() == Some(code::UNKNOWN_IDENTIFIER) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the table's own definition says of the settings that are changed while parts are attached again.
    ///
    /// # Errors
    /// See [`Error`]; also when the table is not attached.
    pub async fn settings(&self, table: &TableName) -> Result<FormerSettings, Error> {
        let engine = self.engine_of(table).await?.ok_or_else(|| Error::Answer {
            statement: "SELECT FROM system.tables",
            source: "the table is not attached".into(),
        })?;
        Ok(FormerSettings {
            window: setting(&engine, TableSetting::DeduplicationWindow.name()),
            merges: setting(&engine, TableSetting::MergesInQueue.name()),
        })
    }
}

/// Whether a UUID is that of tables in databases that give none.
#[must_use]
pub(crate) fn is_zero_uuid(uuid: &str) -> bool {
    uuid.bytes().all(|b| matches!(b, b'0' | b'-'))
}

/// Value of a numeric setting in `engine_full`, whose settings come last.
fn setting(engine_full: &str, name: &str) -> Option<u64> {
    let (_, settings) = engine_full.rsplit_once(" SETTINGS ")?;
    settings.split(", ").find_map(|pair| {
        let (key, value) = pair.split_once(" = ")?;
        (key == name).then(|| value.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_by_its_whole_name() {
        let engine = "ReplicatedMergeTree('/a', 'r') ORDER BY x SETTINGS replicated_deduplication_window_for_async_inserts = 1, \
                      replicated_deduplication_window = 7, index_granularity = 8192";
        assert_eq!(setting(engine, TableSetting::DeduplicationWindow.name()), Some(7));
        assert_eq!(
            setting(
                "ReplicatedMergeTree ORDER BY x",
                TableSetting::DeduplicationWindow.name()
            ),
            None
        );
    }
}
