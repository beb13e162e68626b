//! What a store says when it does not do what it was asked. Which library it is built on is not told here: a caller
//! chooses by the kind, and people read the cause.

use std::path::PathBuf;

use rekeeper_shared::domain::document::BadDocument;
use rekeeper_shared::domain::ids::MigrationName;

/// What a store's own library has said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum StoreError {
    /// Another coordinator uses the folder.
    #[error("{} is in use by another coordinator that is still running", .0.display())]
    InUse(PathBuf),
    /// The folder or its lock cannot be used.
    #[error("{} cannot be used", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A newer release wrote the store.
    #[error("{} was written by a newer release (schema {found}, this one knows {known})", file.display())]
    Newer {
        file: PathBuf,
        found: i64,
        /// The highest schema that this release knows.
        known: i64,
    },
    /// The file is no store, or not a whole one.
    #[error(
        "{} is damaged or not a store of Rekeeper ({what}); restore data_dir from its latest copy, or move it away",
        file.display()
    )]
    Damaged { file: PathBuf, what: String },
    /// There is no room on the disk.
    #[error(
        "STATE_DIR_FULL: there is no room on the disk of {} ({source}): make some, then start the coordinator again, which \
         goes on where it was; nothing is lost, and no file is to be put back",
        folder.display()
    )]
    Full { folder: PathBuf, source: Cause },
    /// The file cannot be opened.
    #[error("{} cannot be opened", file.display())]
    Open {
        file: PathBuf,
        #[source]
        source: Cause,
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
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A plan that was stored cannot be read.
    #[error("the stored plan {name} cannot be read")]
    BadPlan {
        name: String,
        #[source]
        source: BadDocument,
    },
    /// A record that was stored cannot be read.
    #[error("the stored record {seq} of {migration} cannot be read")]
    BadRecord {
        migration: MigrationName,
        seq: u64,
        #[source]
        source: serde_json::Error,
    },
    /// A record is not what was stored.
    #[error(
        "the stored record {seq} of {migration} was changed: it does not have its checksum; restore data_dir from its latest copy"
    )]
    ChangedRecord { migration: MigrationName, seq: u64 },
    /// A record is gone.
    #[error("the stored record {seq} of {migration} is lost")]
    LostRecord { migration: MigrationName, seq: u64 },
    /// A document that was stored is not what was stored.
    #[error("the stored document {digest} is damaged")]
    BadDocument {
        /// The digest that it was stored under.
        digest: String,
        #[source]
        source: BadDocument,
    },
    /// The database could not be read.
    #[error("the store cannot be read")]
    Read(#[source] Cause),
    /// A read did not come to its end, because the program stops.
    #[error("the read was given up")]
    GivenUp,
    /// A write failed, this one or an earlier one. Whether it is on disk is not known.
    #[error("the store has failed and takes nothing any more: {0}")]
    Failed(String),
}
