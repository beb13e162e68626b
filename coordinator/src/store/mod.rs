//! What the coordinator must not forget: plans, the records of every migration, and the documents they name.
//!
//! One trait, so that another store can take the place of the embedded one ([`SqliteStore`]): whatever opens, passes the
//! conformance suite (`coordinator/tests/store/conformance.rs`) and is named in `app.rs` is one. What the records mean is
//! not known here (see `progress`).

mod error;
mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::BoxFuture;
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;

use crate::progress::Record;

pub use error::{Cause, StoreError};
pub use sqlite::SqliteStore;

/// What a call to the store will answer.
///
/// A write is queued by the call itself, so writes keep the order of the calls, and dropping the future does not
/// take a write back.
pub type Pending<T> = BoxFuture<'static, Result<T, StoreError>>;

/// A durable store. What it has answered `Ok` to survives a crash of the program and of the machine.
pub trait Store: Send + Sync + Sized + 'static {
    /// Opens the store of a folder, creates both when they are not there, and takes the next fencing token. Blocks; a
    /// check of the whole store is part of it. Dropping the store waits for the writes under way and frees the folder.
    ///
    /// # Errors
    /// When another process has it open, when a newer release wrote it, when it is damaged, or the disk refuses.
    fn open(data_dir: &Path) -> Result<(Self, Opened), StoreError>;

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

/// What an opening of the store made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The fencing token: one more than at the opening before, on disk already.
    pub token: u64,
    /// Drawn by this opening: tells it from that of a copy of the store.
    pub run: String,
    /// The runs of the openings before, by their tokens.
    pub past: BTreeMap<u64, String>,
}

/// A record to append, and the document that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The migration; its plan must have been saved.
    pub migration: MigrationName,
    /// What `Progress::apply` takes.
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
    /// What `Progress::apply` takes.
    pub record: Record,
}

/// The document that a record names.
///
/// # Errors
/// Why it cannot be had, in words for people: what it was, its digest, and what is wrong.
pub async fn document(store: &impl Store, digest: &str, what: &str) -> Result<Packed, String> {
    match store.document(digest).await {
        Ok(Some(document)) => Ok(document),
        Ok(None) => Err(format!("the {what} ({digest}) is not in the store")),
        Err(error) => Err(format!("the {what} ({digest}) cannot be read: {error}")),
    }
}
