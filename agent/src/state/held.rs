//! Of which tables merges are to stay stopped: from the attach without metadata until all replicas are accounted for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekeeper_shared::ids::MigrationName;
use rekeeper_shared::step::TableRef;

use super::{State, StateError, file_stem, lock, read_note, write_note};

const EXTENSION: &str = "held";

impl State {
    /// Notes that merges of the table are to stay stopped, whoever starts its server.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn hold_merges(&self, migration: &MigrationName, table: &TableRef) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        write_note(&self.held_file(migration, table), table)
    }

    /// Merges of the table may run again.
    ///
    /// # Errors
    /// When the disk refuses: the note may be there still.
    pub fn let_merges_go(&self, migration: &MigrationName, table: &TableRef) -> Result<(), StateError> {
        let (file, folder) = (self.held_file(migration, table), self.migration_folder(migration));
        let removed = match fs::remove_file(&file) {
            // A note that comes back after a power cut would stop merges that nobody starts any more.
            Ok(()) => File::open(&folder).and_then(|folder| folder.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|e| StateError::Disk(file, e))
    }

    /// Whether merges of the table are to stay stopped.
    #[must_use]
    pub fn holds_merges(&self, migration: &MigrationName, table: &TableRef) -> bool {
        self.held_file(migration, table).exists()
    }

    /// All tables of which merges are to stay stopped, each with its migration.
    ///
    /// # Errors
    /// When the state folder cannot be read, or a note in it is damaged.
    pub fn held_merges(&self) -> Result<Vec<(MigrationName, TableRef)>, StateError> {
        let mut held = Vec::new();
        for folder in entries(&self.inner.folder)?.into_iter().filter(|path| path.is_dir()) {
            let name = folder.file_name().and_then(|name| name.to_str());
            let Some(migration) = name.and_then(|name| name.parse::<MigrationName>().ok()) else {
                continue;
            };
            let notes = entries(&folder)?.into_iter();
            for note in notes.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)) {
                // It may have been let go in between.
                if let Some(table) = read_note(&note)? {
                    held.push((migration.clone(), table));
                }
            }
        }
        Ok(held)
    }

    /// To be held while merges of this held table are stopped or started, so that a stop never comes after the start.
    #[must_use]
    pub fn merges_turn(&self, table: &TableRef) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.inner.merges);
        Arc::clone(turns.entry(file_stem(table)).or_default())
    }

    fn held_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.{EXTENSION}", file_stem(table)))
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StateError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    read().map_err(|e| StateError::Disk(folder.to_owned(), e))
}
