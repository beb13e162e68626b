//! What the server tells of detached tables.
//!
//! Measured: `system.detached_tables` asks every database that the query does not exclude, and of one foreign database
//! (Dictionary, Filesystem, PostgreSQL, SQLite, S3, Overlay) it fails as a whole: 48 "Cannot get detached tables for
//! DatabaseDictionary", on 24.8 to 26.7. So only databases that can hold a replicated table are asked about.

use rekeeper_shared::domain::ids::{TableName, quote_literal};

use super::{ClickHouse, Error, code};

/// The databases that can hold a replicated table.
const DATABASES: &str =
    "database IN (SELECT name FROM system.databases WHERE engine IN ('Atomic', 'Ordinary', 'Replicated'))";

/// A row of `system.detached_tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    /// Database and name that ATTACH takes.
    pub table: TableName,
    /// Its UUID; zeros in an Ordinary database.
    pub uuid: String,
    /// The file with its definition.
    pub metadata_path: String,
    /// Whether it stays detached when the server is started.
    pub permanently: bool,
}

impl ClickHouse {
    /// All detached tables that may be replicated, sorted by name; none also when the server (before 24.x) does not tell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn detached_tables(&self) -> Result<Vec<Detached>, Error> {
        self.detached_where("").await
    }

    /// The name of the detached table of that UUID; none also when the server (before 24.x) does not tell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn detached_name_of(&self, uuid: &str) -> Result<Option<TableName>, Error> {
        let is_it = format!(" AND toString(uuid) = {}", quote_literal(uuid));
        let mut rows = self.detached_where(&is_it).await?;
        Ok(rows.pop().map(|row| row.table))
    }

    /// What the server puts for the macro `{server_uuid}`; empty when it is too old to tell.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn server_uuid(&self) -> Result<String, Error> {
        match self.text("SELECT serverUUID()").await {
            Err(error) if error.code() == Some(code::UNKNOWN_FUNCTION) => Ok(String::new()),
            answer => answer,
        }
    }

    async fn detached_where(&self, more: &str) -> Result<Vec<Detached>, Error> {
        type Row = (String, String, String, String, u8);
        let sql = format!(
            "SELECT database, table, toString(uuid), metadata_path, toUInt8(is_permanently) FROM system.detached_tables \
             WHERE {DATABASES}{more} ORDER BY database, table"
        );
        let rows = match self.rows::<Row>("SELECT FROM system.detached_tables", &sql).await {
            Err(error) if error.code() == Some(code::UNKNOWN_TABLE) => Vec::new(),
            rows => rows?,
        };
        let of = |(database, table, uuid, metadata_path, permanently): Row| Detached {
            table: TableName { database, table },
            uuid,
            metadata_path,
            permanently: permanently != 0,
        };
        Ok(rows.into_iter().map(of).collect())
    }
}
