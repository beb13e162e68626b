//! What the system tables say of one table and its parts.

use std::path::PathBuf;

use rekeeper_shared::ids::{TableName, quote_literal};
use rekeeper_shared::inventory::ActivePart;

use super::{ClickHouse, Error, TableSetting, code};

/// A row of `system.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// `is_readonly`.
    pub readonly: bool,
    /// `is_session_expired`.
    pub session_expired: bool,
    /// `zookeeper_path`, macros expanded.
    pub path: String,
    /// `replica_name`.
    pub replica_name: String,
    /// `zookeeper_exception`.
    pub zookeeper_exception: String,
    /// `last_queue_update_exception`.
    pub queue_exception: String,
    /// `queue_size`.
    pub queue_size: u64,
    /// The replica holds its `is_active`.
    pub active: bool,
}

impl Replica {
    /// Whether it does its work: `is_readonly` alone tells nothing, since it is 1 for a moment after every start.
    #[must_use]
    pub fn is_in_service(&self) -> bool {
        !self.readonly && !self.session_expired && self.active && self.zookeeper_exception.is_empty()
    }

    /// What keeps it from its work, for people.
    #[must_use]
    pub fn state(&self) -> String {
        let mut words = Vec::new();
        if self.readonly {
            words.push("read-only".to_owned());
        }
        if self.session_expired {
            words.push("session expired".to_owned());
        }
        if !self.active {
            words.push("not active in ZooKeeper".to_owned());
        }
        for exception in [&self.zookeeper_exception, &self.queue_exception] {
            if !exception.is_empty() {
                words.push(exception.clone());
            }
        }
        words.join(", ")
    }
}

/// A row of `system.detached_tables`, or that the server does not have this table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetachedTable {
    /// The server knows no detached table of that name.
    None,
    /// The server tells nothing of detached tables.
    NotTold,
    /// It is detached.
    Is {
        /// Its UUID.
        uuid: String,
        /// Also over a restart.
        permanently: bool,
    },
}

/// A folder under `detached/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedPart {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
}

/// `WHERE` for the system tables that call the table `table`.
fn of(table: &TableName) -> String {
    format!(
        "database = {} AND table = {}",
        quote_literal(&table.database),
        quote_literal(&table.table)
    )
}

impl ClickHouse {
    /// The UUID of the attached table of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn uuid_of(&self, table: &TableName) -> Result<Option<String>, Error> {
        let sql = format!(
            "SELECT toString(uuid) FROM system.tables WHERE database = {} AND name = {}",
            quote_literal(&table.database),
            quote_literal(&table.table)
        );
        let mut rows = self.rows::<String>("SELECT FROM system.tables", &sql).await?;
        Ok(rows.pop())
    }

    /// The name of the attached table of that UUID.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn name_of(&self, uuid: &str) -> Result<Option<TableName>, Error> {
        let sql = format!(
            "SELECT database, name FROM system.tables WHERE toString(uuid) = {}",
            quote_literal(uuid)
        );
        let mut rows = self.rows::<(String, String)>("SELECT FROM system.tables", &sql).await?;
        Ok(rows.pop().map(|(database, table)| TableName { database, table }))
    }

    /// Its row of `system.replicas`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn replica(&self, table: &TableName) -> Result<Option<Replica>, Error> {
        let sql = format!(
            "SELECT toUInt8(is_readonly), toUInt8(is_session_expired), zookeeper_path, replica_name, \
             zookeeper_exception, last_queue_update_exception, toUInt64(queue_size), \
             toUInt8(replica_is_active[replica_name]) FROM system.replicas WHERE {}",
            of(table)
        );
        type Row = (u8, u8, String, String, String, String, u64, u8);
        let mut rows = self.rows::<Row>("SELECT FROM system.replicas", &sql).await?;
        Ok(rows.pop().map(|row| Replica {
            readonly: row.0 != 0,
            session_expired: row.1 != 0,
            path: row.2,
            replica_name: row.3,
            zookeeper_exception: row.4,
            queue_exception: row.5,
            queue_size: row.6,
            active: row.7 != 0,
        }))
    }

    /// What the server says of a detached table of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn detached_table(&self, table: &TableName) -> Result<DetachedTable, Error> {
        let sql = format!(
            "SELECT toString(uuid), toUInt8(is_permanently) FROM system.detached_tables WHERE {}",
            of(table)
        );
        let found = self
            .rows::<(String, u8)>("SELECT FROM system.detached_tables", &sql)
            .await;
        match found {
            Ok(mut rows) => Ok(rows
                .pop()
                .map_or(DetachedTable::None, |(uuid, flag)| DetachedTable::Is {
                    uuid,
                    permanently: flag != 0,
                })),
            Err(error) if error.code() == Some(code::UNKNOWN_TABLE) => Ok(DetachedTable::NotTold),
            Err(error) => Err(error),
        }
    }

    /// Its active parts, sorted by name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn active_parts(&self, table: &TableName) -> Result<Vec<ActivePart>, Error> {
        let sql = format!(
            "SELECT name, partition_id, toUInt64(rows), hash_of_all_files FROM system.parts WHERE {} AND active",
            of(table)
        );
        let rows = self
            .rows::<(String, String, u64, String)>("SELECT FROM system.parts", &sql)
            .await?;
        let mut parts: Vec<ActivePart> = rows
            .into_iter()
            .map(|(name, partition_id, rows, hash)| ActivePart {
                name,
                partition_id,
                rows,
                hash,
            })
            .collect();
        parts.sort();
        Ok(parts)
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

    /// Names and folders of its active parts.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn active_part_folders(&self, table: &TableName) -> Result<Vec<(String, PathBuf)>, Error> {
        let sql = format!("SELECT name, path FROM system.parts WHERE {} AND active", of(table));
        let rows: Vec<(String, String)> = self.rows("SELECT FROM system.parts", &sql).await?;
        Ok(rows.into_iter().map(|(name, path)| (name, path.into())).collect())
    }

    /// Names of its parts that are not active any more and still on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn outdated_parts(&self, table: &TableName) -> Result<Vec<String>, Error> {
        let sql = format!("SELECT name FROM system.parts WHERE {} AND NOT active", of(table));
        self.rows("SELECT FROM system.parts", &sql).await
    }

    /// The folders under its `detached/`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn detached_parts(&self, table: &TableName) -> Result<Vec<DetachedPart>, Error> {
        let sql = format!(
            "SELECT name, path FROM system.detached_parts WHERE {} ORDER BY name",
            of(table)
        );
        let rows = self
            .rows::<(String, String)>("SELECT FROM system.detached_parts", &sql)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(name, path)| DetachedPart {
                name,
                path: path.into(),
            })
            .collect())
    }

    /// Entries of its queue that are no merges and no mutations, as `TYPE part`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn queued_but_merges(&self, table: &TableName) -> Result<Vec<String>, Error> {
        let sql = format!(
            "SELECT concat(toString(type), ' ', new_part_name) FROM system.replication_queue WHERE {} \
             AND toString(type) NOT IN ('MERGE_PARTS', 'MUTATE_PART')",
            of(table)
        );
        self.rows("SELECT FROM system.replication_queue", &sql).await
    }

    /// Its engine with all clauses and settings, while it is attached.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn engine_of(&self, table: &TableName) -> Result<Option<String>, Error> {
        let sql = format!(
            "SELECT engine_full FROM system.tables WHERE database = {} AND name = {}",
            quote_literal(&table.database),
            quote_literal(&table.table)
        );
        let mut rows = self.rows::<String>("SELECT FROM system.tables", &sql).await?;
        Ok(rows.pop())
    }

    /// A setting, if the table's own definition has it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn setting(&self, table: &TableName, wanted: TableSetting) -> Result<Option<u64>, Error> {
        let sql = format!(
            "SELECT engine_full FROM system.tables WHERE database = {} AND name = {}",
            quote_literal(&table.database),
            quote_literal(&table.table)
        );
        let engine: String = self.row("SELECT FROM system.tables", &sql).await?;
        Ok(setting(&engine, wanted.name()))
    }

    /// `version()`, in a form that also a server answers that is too old for everything else.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn version(&self) -> Result<String, Error> {
        self.text("SELECT version()").await
    }

    /// `uptime()`, whole seconds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn uptime(&self) -> Result<u64, Error> {
        self.row("SELECT uptime()", "SELECT toUInt64(uptime())").await
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
