//! What a server says of itself.

use rekeeper_shared::domain::ids::{TableName, quote_literal};

use super::questions::named;
use super::tables::is_zero_uuid;
use super::{ClickHouse, Error};

impl ClickHouse {
    /// Whether there is a database of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn has_database(&self, name: &str) -> Result<bool, Error> {
        let sql = format!("SELECT name FROM system.databases WHERE name = {}", quote_literal(name));
        let rows = self.rows::<String>("SELECT FROM system.databases", &sql).await?;
        Ok(!rows.is_empty())
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
