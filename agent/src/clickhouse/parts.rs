//! What the system tables say of the parts of one table.

use std::path::PathBuf;

use rekeeper_shared::domain::ids::{TableName, quote_literal};
use rekeeper_shared::domain::inventory::ActivePart;

use super::questions::{Question, named};
use super::rows::{DetachedPart, Part};
use super::{ClickHouse, Error};

/// Names of parts, with their folders.
pub(super) type Folders = Vec<(String, PathBuf)>;

impl ClickHouse {
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
}
