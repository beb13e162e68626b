//! What the system tables say of one table and its parts.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clickhouse::{RowOwned, RowRead};
use futures::future::BoxFuture;
use rekeeper_shared::document::FormerSettings;
use rekeeper_shared::ids::{TableName, quote_literal};
use rekeeper_shared::inventory::ActivePart;

use super::gather::Gather;
use super::rows::{DetachedPart, DetachedTable, Part, Replica};
use super::{ClickHouse, Error, TableSetting, code};

/// Names of parts, with their folders.
pub(super) type Folders = Vec<(String, PathBuf)>;

/// What is asked about tables, several at a time. The first two columns are the table's database and name.
struct Question {
    columns: &'static str,
    from: &'static str,
    /// The column that has the table's name.
    name: &'static str,
    /// What else the rows have to be, and their order.
    more: &'static str,
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
    uuids: Gather<TableName, String>,
    names: Gather<String, TableName>,
    engines: Gather<TableName, String>,
    replicas: Gather<TableName, Replica>,
    detached: Gather<TableName, (String, bool)>,
    parts: Gather<TableName, Part>,
    part_counts: Gather<TableName, (u64, u64)>,
    detached_parts: Gather<TableName, DetachedPart>,
    queued: Gather<TableName, String>,
    versions: Gather<TableName, i32>,
    ensembles: Gather<TableName, String>,
}

fn named(database: String, table: String) -> TableName {
    TableName { database, table }
}

impl ClickHouse {
    /// The rows about one table; `of` tells of which table a row is.
    async fn about<R, V>(
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

    /// Whether there is a database of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn has_database(&self, name: &str) -> Result<bool, Error> {
        let sql = format!("SELECT name FROM system.databases WHERE name = {}", quote_literal(name));
        let rows = self.rows::<String>("SELECT FROM system.databases", &sql).await?;
        Ok(!rows.is_empty())
    }

    /// All parts of it that the server knows, sorted by name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn parts(&self, table: &TableName) -> Result<Vec<Part>, Error> {
        const QUESTION: Question = Question {
            columns: "database, table, name, partition_id, toUInt64(rows), hash_of_all_files, path, toUInt8(active)",
            from: "system.parts",
            name: "table",
            more: "",
        };
        type Row = (String, String, String, String, u64, String, String, u8);
        let of = |(database, table, name, partition_id, rows, hash, folder, active): Row| {
            let part = Part {
                part: ActivePart {
                    name,
                    partition_id,
                    rows,
                    hash,
                },
                folder: folder.into(),
                active: active != 0,
            };
            (named(database, table), part)
        };
        let gather = &self.shared.questions.parts;
        let mut parts = self
            .about(gather, table, "SELECT FROM system.parts", &QUESTION, of)
            .await?;
        parts.sort_by(|a, b| a.part.cmp(&b.part));
        Ok(parts)
    }

    /// Its active parts, sorted by name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn active_parts(&self, table: &TableName) -> Result<Vec<ActivePart>, Error> {
        let parts = self.parts(table).await?.into_iter().filter(|part| part.active);
        Ok(parts.map(|part| part.part).collect())
    }

    /// How many active parts it has, and how many bytes their names.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count_active_parts(&self, table: &TableName) -> Result<(u64, u64), Error> {
        const QUESTION: Question = Question {
            columns: "database, table, count(), sum(length(name))",
            from: "system.parts",
            name: "table",
            more: " AND active GROUP BY database, table",
        };
        let of = |(database, table, parts, bytes): (String, String, u64, u64)| (named(database, table), (parts, bytes));
        let gather = &self.shared.questions.part_counts;
        let mut rows = self
            .about(gather, table, "SELECT FROM system.parts", &QUESTION, of)
            .await?;
        Ok(rows.pop().unwrap_or_default())
    }

    /// The folders that hold its parts, one per disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn data_folders(&self, table: &TableName) -> Result<Vec<PathBuf>, Error> {
        let sql = format!(
            "SELECT arrayJoin(data_paths) FROM system.tables WHERE database = {} AND name = {}",
            quote_literal(&table.database),
            quote_literal(&table.table)
        );
        let rows: Vec<String> = self.rows("SELECT FROM system.tables", &sql).await?;
        Ok(rows.into_iter().map(PathBuf::from).collect())
    }

    /// Names and folders of its active parts, and of its outdated ones.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn part_folders(&self, table: &TableName) -> Result<(Folders, Folders), Error> {
        let (active, outdated): (Vec<Part>, Vec<Part>) =
            self.parts(table).await?.into_iter().partition(|part| part.active);
        let folders = |parts: Vec<Part>| parts.into_iter().map(|part| (part.part.name, part.folder)).collect();
        Ok((folders(active), folders(outdated)))
    }

    /// The folders under its `detached/`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn detached_parts(&self, table: &TableName) -> Result<Vec<DetachedPart>, Error> {
        const QUESTION: Question = Question {
            columns: "database, table, name, path",
            from: "system.detached_parts",
            name: "table",
            more: " ORDER BY name",
        };
        type Row = (String, String, String, String);
        let of = |(database, table, name, path): Row| {
            let path = path.into();
            (named(database, table), DetachedPart { name, path })
        };
        let gather = &self.shared.questions.detached_parts;
        let what = "SELECT FROM system.detached_parts";
        self.about(gather, table, what, &QUESTION, of).await
    }

    /// Entries of its queue that are no merges and no mutations, as `TYPE part`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn queued_but_merges(&self, table: &TableName) -> Result<Vec<String>, Error> {
        const QUESTION: Question = Question {
            columns: "database, table, concat(toString(type), ' ', new_part_name)",
            from: "system.replication_queue",
            name: "table",
            more: " AND toString(type) NOT IN ('MERGE_PARTS', 'MUTATE_PART')",
        };
        let of = |(database, table, entry): (String, String, String)| (named(database, table), entry);
        let gather = &self.shared.questions.queued;
        let what = "SELECT FROM system.replication_queue";
        self.about(gather, table, what, &QUESTION, of).await
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

    /// `version()`, in a form that also a server answers that is too old for everything else.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn version(&self) -> Result<String, Error> {
        self.text("SELECT version()").await
    }

    /// The same without the settings that statements carry, which the agent's user may be refused.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn bare_version(&self) -> Result<String, Error> {
        self.text_with("SELECT version()", "SELECT version()", &[]).await
    }

    /// `uptime()`, whole seconds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn uptime(&self) -> Result<u64, Error> {
        self.row("SELECT uptime()", "SELECT toUInt64(uptime())").await
    }

    /// `uptime()`, and the tables of which parts are being merged: one question for both.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn uptime_and_merging(&self) -> Result<(u64, Vec<TableName>), Error> {
        let sql = "SELECT database, table, toUInt64(uptime()) FROM system.merges WHERE NOT is_mutation \
                   UNION ALL SELECT '', '', toUInt64(uptime())";
        let rows: Vec<(String, String, u64)> = self.rows("SELECT FROM system.merges", sql).await?;
        let uptime = rows.iter().map(|(_, _, uptime)| *uptime).min().unwrap_or_default();
        let merging = rows.into_iter().filter(|(database, _, _)| !database.is_empty());
        Ok((
            uptime,
            merging.map(|(database, table, _)| named(database, table)).collect(),
        ))
    }

    /// What tells this server from others: its UUID, or where it keeps its data.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn server_id(&self) -> Result<String, Error> {
        let sql = "SELECT toString(serverUUID()), hostName(), path FROM system.disks WHERE name = 'default'";
        let (uuid, host, path): (String, String, String) = self.row("SELECT serverUUID()", sql).await?;
        Ok(if is_zero_uuid(&uuid) {
            format!("{host}:{path}")
        } else {
            uuid
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
