//! The agent's state folder: what must outlive the agent. Nothing in it is ever made anew silently.
//!
//! ```text
//! lock                                  held while an agent runs
//! coordinator.json                      highest fencing token and attempts seen
//! reserve                               room for these two (`room`)
//! known-tables.json                     every table that the server has told of (`known`)
//! migrations/<migration>/               of each migration:
//!     <table>.manifest                  packed manifest of a table replica, written once
//!     <table>.attested                  which record it has attested
//!     <table>.restore                   how far its restore has come
//!     <table>.account                   packed account of its parts, once all of them are accounted for
//!     <table>.held                      merges of it are to stay stopped
//!     <table>.reserve                   room for the files above (`room`)
//!     <attempt>.record                  packed record of a replica set
//!     <path>.<digest>.znodes            everything that was under a table's path before it was deleted
//!     <attempt>.restart                 when a restart was commanded
//!     <attempt>.<what>.output           what a hook or restart command printed
//! ```
//!
//! A `.manifest`, `.account` or `.record` is packed, and known by its digest, which is on record elsewhere; everything
//! else but `.znodes` and `.output` is a note with a checksum.
//!
//! All calls are short and wait for the disk.

mod error;
mod held;
mod layout;
mod notes;
mod room;
mod sealed;
mod seen;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rekeeper_shared::domain::document::{BadDocument, Manifest, Packed, as_packed, digest, unpack};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::{SetRef, TableRef};
use rekeeper_shared::tools::durable;
use serde::Serialize;

pub use error::StateError;
pub(crate) use error::make_room;
pub use held::Held;
pub use notes::{Accounted, AttestedNote, RestartNote, RestoreNote};
pub(crate) use sealed::{read_note, write_note};
pub use seen::Refusal;

use crate::clickhouse::is_zero_uuid;

/// How many characters of a path the name of its export has.
const EXPORT_NAME: usize = 100;

/// The state folder, cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// The folder that has those of all migrations.
    migrations: PathBuf,
    seen: Mutex<seen::Seen>,
    held: Mutex<held::AllHeld>,
    /// Who stops or starts merges of a table, by the stem of its files.
    merges: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Locked until the last clone is dropped, or the process ends in whatever way.
    _lock: File,
}

impl State {
    /// Opens the folder and makes it if it is missing; its parent must exist. What an earlier release has left there is
    /// put where it is looked for now.
    ///
    /// # Errors
    /// When another agent has it, the disk refuses, a file in it is damaged, or a migration has files in two folders.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        make_folder(folder)?;
        let lock_file = folder.join("lock");
        let disk = |e| StateError::Disk(lock_file.clone(), e);
        let lock = durable::open_lock(&lock_file).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Taken(folder.to_owned())),
            Err(TryLockError::Error(e)) => return Err(disk(e)),
        }
        // First, since a folder of before may have the name of one of the files.
        let migrations = layout::open(folder)?;
        let seen = seen::Seen::read(&folder.join(seen::FILE))?;
        let inner = Inner {
            folder: folder.to_owned(),
            seen: Mutex::new(seen),
            held: Mutex::new(held::read_all(&migrations)?),
            migrations,
            merges: Mutex::default(),
            _lock: lock,
        };
        let state = Self { inner: Arc::new(inner) };
        state.keep_own_room();
        Ok(state)
    }

    /// The manifest of a table replica, if it was written.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn manifest(&self, migration: &MigrationName, table: &TableRef) -> Result<Option<Packed>, StateError> {
        let file = self.manifest_file(migration, table);
        let Some(bytes) = read(&file)? else {
            return Ok(None);
        };
        let packed = repack(&file, bytes)?;
        let manifest: Manifest = unpack(&packed.bytes, None).map_err(|e| damaged(&file, &e))?;
        if manifest.migration != *migration || manifest.uuid != table.uuid || manifest.table != table.name {
            return Err(StateError::Damaged(file, format!("it is that of {}", manifest.table)));
        }
        Ok(Some(packed))
    }

    /// Writes the manifest of a table replica, once and for all.
    ///
    /// # Errors
    /// When one with another content exists, or the disk refuses.
    pub fn write_manifest(
        &self,
        migration: &MigrationName,
        table: &TableRef,
        manifest: &Packed,
    ) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        self.write_once(&self.manifest_file(migration, table), manifest)
    }

    /// Puts a manifest, that was written once and is on record elsewhere, in the place of one that is not it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn replace_manifest(
        &self,
        migration: &MigrationName,
        table: &TableRef,
        manifest: &Packed,
    ) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        self.write(&self.manifest_file(migration, table), &manifest.bytes)
    }

    /// Renames a manifest that is damaged to `<its name>.damaged`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn set_manifest_aside(&self, migration: &MigrationName, table: &TableRef) -> Result<(), StateError> {
        set_aside(&self.manifest_file(migration, table))
    }

    /// The account of a table's parts, if it was made.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn account(&self, migration: &MigrationName, table: &TableRef) -> Result<Option<Packed>, StateError> {
        let file = self.account_file(migration, table);
        read(&file)?.map(|bytes| repack(&file, bytes)).transpose()
    }

    /// Saves the account of a table's parts.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_account(
        &self,
        migration: &MigrationName,
        table: &TableRef,
        account: &Packed,
    ) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        self.write(&self.account_file(migration, table), &account.bytes)
    }

    /// The record that this agent saved in that attempt.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn record(&self, migration: &MigrationName, attempt: u64) -> Result<Option<Packed>, StateError> {
        let file = self.record_file(migration, attempt);
        read(&file)?.map(|bytes| repack(&file, bytes)).transpose()
    }

    /// Saves a record, once per attempt.
    ///
    /// # Errors
    /// When one with another content exists, or the disk refuses.
    pub fn write_record(&self, migration: &MigrationName, attempt: u64, record: &Packed) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        self.write_once(&self.record_file(migration, attempt), record)
    }

    /// The file that takes the export of a set's nodes. A set has one: what was exported before it was let go again is
    /// replaced.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn export_file(&self, migration: &MigrationName, set: &SetRef) -> Result<PathBuf, StateError> {
        self.make_migration_folder(migration)?;
        Ok(self.export_file_name(migration, set))
    }

    /// The same, without making its folder.
    #[must_use]
    pub fn export_file_name(&self, migration: &MigrationName, set: &SetRef) -> PathBuf {
        // So that people find it: the end of a path says most of it.
        let readable: Vec<char> = set.path.as_str().trim_start_matches('/').chars().collect();
        let readable = readable[readable.len().saturating_sub(EXPORT_NAME)..].iter().map(|&c| {
            let is_plain = c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if is_plain { c } else { '_' }
        });
        let which = digest(format!("{}\0{}", set.place, set.path).as_bytes());
        let name = format!("{}.{which:.8}.znodes", readable.collect::<String>());
        self.migration_folder(migration).join(name)
    }

    /// The file that takes what a hook or a restart command prints.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn output_file(&self, migration: &MigrationName, attempt: u64, what: &str) -> Result<PathBuf, StateError> {
        self.make_migration_folder(migration)?;
        Ok(self
            .migration_folder(migration)
            .join(format!("{attempt}.{what}.output")))
    }

    fn write_once(&self, file: &Path, document: &Packed) -> Result<(), StateError> {
        if let Some(existing) = read(file)? {
            return if repack(file, existing)?.digest == document.digest {
                Ok(())
            } else {
                Err(StateError::Differs(file.to_owned()))
            };
        }
        self.write(file, &document.bytes)
    }

    fn write(&self, file: &Path, content: &[u8]) -> Result<(), StateError> {
        room::write(&self.inner.folder, file, content)
    }

    fn write_note<T: Serialize>(&self, file: &Path, value: &T) -> Result<(), StateError> {
        write_note(&self.inner.folder, file, value)
    }

    fn migration_folder(&self, migration: &MigrationName) -> PathBuf {
        self.inner.migrations.join(migration.as_str())
    }

    fn make_migration_folder(&self, migration: &MigrationName) -> Result<(), StateError> {
        make_folder(&self.migration_folder(migration))
    }

    /// Where the manifest of a table replica is, or would be.
    #[must_use]
    pub fn manifest_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.manifest", file_stem(table)))
    }

    fn account_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.account", file_stem(table)))
    }

    fn record_file(&self, migration: &MigrationName, attempt: u64) -> PathBuf {
        self.migration_folder(migration).join(format!("{attempt}.record"))
    }
}

/// A file name for a table: its UUID, or, where its database gives none, a digest of its name.
fn file_stem(table: &TableRef) -> String {
    let is_uuid = !table.uuid.is_empty() && table.uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_uuid && !is_zero_uuid(&table.uuid) {
        table.uuid.clone()
    } else {
        let name = format!("{}\0{}", table.name.database, table.name.table);
        format!("name-{}", digest(name.as_bytes()))
    }
}

/// The digest of a packed document as it lies on the disk.
fn repack(file: &Path, bytes: Vec<u8>) -> Result<Packed, StateError> {
    as_packed(bytes).map_err(|e| damaged(file, &e))
}

fn damaged(file: &Path, error: &BadDocument) -> StateError {
    StateError::Damaged(file.to_owned(), error.to_string())
}

fn make_folder(folder: &Path) -> Result<(), StateError> {
    let disk = |e| room::refused(folder, e);
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            // A folder that a power cut takes away takes its files with it.
            let parent = folder.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|f| f.sync_all())
                .map_err(disk)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(disk(e)),
    }
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, StateError> {
    durable::read(file).map_err(|e| StateError::Disk(file.to_owned(), e))
}

/// Renames a file that is damaged, so that somebody can look at it.
fn set_aside(file: &Path) -> Result<(), StateError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".damaged");
    let moved = std::fs::rename(file, PathBuf::from(name));
    let folder = file.parent().unwrap_or(Path::new("."));
    let synced = moved.and_then(|()| File::open(folder)?.sync_all());
    synced.map_err(|e| StateError::Disk(file.to_owned(), e))
}

/// A mutex whose holder panicked still guards what is on the disk.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
