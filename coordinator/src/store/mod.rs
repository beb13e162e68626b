//! What the coordinator must not forget: plans, the records of every migration, and the documents they name.
//!
//! One trait, so that another store can take the place of the embedded one ([`SqliteStore`]). What the records mean
//! is not known here (see `progress`).

mod room;
mod schema;
mod sqlite;
mod writer;

use std::path::PathBuf;

use futures::future::BoxFuture;
use rekeeper_shared::domain::document::{BadDocument, Packed};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;

use crate::progress::Record;

pub use sqlite::{Opened, SqliteStore};

/// What a call to the store will answer.
///
/// A write is queued by the call itself, so writes keep the order of the calls, and dropping the future does not
/// take a write back.
pub type Pending<T> = BoxFuture<'static, Result<T, StoreError>>;

/// A durable store. What it has answered `Ok` to survives a crash of the program and of the machine.
pub trait Store: Send + Sync + 'static {
    /// Every plan that was saved, the oldest first.
    fn plans(&self) -> Pending<Vec<Plan>>;

    /// Saves a new plan, which is what is packed; [`StoreError::NameTaken`] when there is one of that name.
    fn save_plan(&self, plan: &Plan, packed: Packed) -> Pending<()>;

    /// The records of a migration with a higher number than `after`, at most `limit`, in order and without a gap.
    fn records(&self, migration: &MigrationName, after: u64, limit: usize) -> Pending<Vec<Stored>>;

    /// Appends records, all or none of them; answers what each was stored as, once all are on disk.
    fn append(&self, group: Vec<Append>) -> Pending<Vec<Written>>;

    /// The document of that digest, checked against it; none when none was ever stored.
    fn document(&self, digest: &str) -> Pending<Option<Packed>>;

    /// Whether room is kept on the disk for all that has to be written of the migrations under way. Where it is not, it is
    /// kept as soon as there is any.
    fn has_room(&self) -> bool;

    /// Keeps so many bytes more.
    fn keep_room(&self, more: u64);

    /// Resolves with the reason once the store has failed and takes nothing any more; the program has to stop then.
    fn failed(&self) -> BoxFuture<'static, String>;
}

/// A record to append, and the document that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The migration; its plan must have been saved.
    pub migration: MigrationName,
    /// The record.
    pub record: Record,
    /// A document that the record names by its digest. One that is stored already is left as it is.
    pub document: Option<Packed>,
}

/// Where a record was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its number in its migration, from 1 without gaps.
    pub seq: u64,
    /// When it was written, RFC 3339 UTC.
    pub time: String,
}

/// A record that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number in its migration, from 1 without gaps.
    pub seq: u64,
    /// When it was written, RFC 3339 UTC.
    pub time: String,
    /// The record.
    pub record: Record,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator uses the folder.
    #[error("{} is in use by another coordinator that is still running", .0.display())]
    InUse(PathBuf),
    /// The folder or its lock cannot be used.
    #[error("{} cannot be used", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A newer release wrote the store.
    #[error("{} was written by a newer release (schema {found}, this one knows {known})", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its schema.
        found: i64,
        /// The highest schema that this release knows.
        known: i64,
    },
    /// The file is no store, or not a whole one.
    #[error(
        "{} is damaged or not a store of Rekeeper ({what}); restore data_dir from its latest copy, or move it away",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// There is no room on the disk.
    #[error(
        "STATE_DIR_FULL: there is no room on the disk of {} ({source}): make some, then start the coordinator again, which \
         goes on where it was; nothing is lost, and no file is to be put back",
        folder.display()
    )]
    Full {
        /// The data_dir.
        folder: PathBuf,
        /// What the disk said.
        source: rusqlite::Error,
    },
    /// The file cannot be opened.
    #[error("{} cannot be opened", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// There is a plan of that name.
    #[error("there is a migration {0} already")]
    NameTaken(MigrationName),
    /// A record was to be appended to a migration without a plan.
    #[error("there is no migration {0}")]
    UnknownMigration(MigrationName),
    /// Something cannot be written as JSON.
    #[error("{what} cannot be packed")]
    Pack {
        /// What it was.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A plan that was stored cannot be read.
    #[error("the stored plan {name} cannot be read")]
    BadPlan {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: BadDocument,
    },
    /// A record that was stored cannot be read.
    #[error("the stored record {seq} of {migration} cannot be read")]
    BadRecord {
        /// The migration.
        migration: MigrationName,
        /// Its number.
        seq: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record is not what was stored.
    #[error(
        "the stored record {seq} of {migration} was changed: it does not have its checksum; restore data_dir from its latest copy"
    )]
    ChangedRecord {
        /// The migration.
        migration: MigrationName,
        /// Its number.
        seq: u64,
    },
    /// A record is gone.
    #[error("the stored record {seq} of {migration} is lost")]
    LostRecord {
        /// The migration.
        migration: MigrationName,
        /// Its number.
        seq: u64,
    },
    /// A document that was stored is not what was stored.
    #[error("the stored document {digest} is damaged")]
    BadDocument {
        /// The digest that it was stored under.
        digest: String,
        /// Why.
        #[source]
        source: BadDocument,
    },
    /// The database could not be read.
    #[error("the store cannot be read")]
    Read(#[source] rusqlite::Error),
    /// A read did not come to its end, because the program stops.
    #[error("the read was given up")]
    GivenUp,
    /// A write failed, this one or an earlier one. Whether it is on disk is not known.
    #[error("the store has failed and takes nothing any more: {0}")]
    Failed(String),
}
