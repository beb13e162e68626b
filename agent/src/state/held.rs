//! Of which tables merges are to stay stopped: from the attach without metadata until all replicas are accounted for.
//!
//! A running agent has it in memory, so that a note that is lost under it is missed by nobody. The name of a note says of
//! which table it is, so that one that is damaged holds as well.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::TableRef;

use super::layout::entries;
use super::{State, StateError, file_stem, lock, read_note};

const EXTENSION: &str = "held";

/// By migration and stem of the table's files: the table, where its note can be read.
pub(super) type AllHeld = BTreeMap<(MigrationName, String), Option<TableRef>>;

/// A table of which merges are to stay stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which migration holds them.
    pub migration: MigrationName,
    /// What the table's files are called: its UUID, where it has one.
    pub stem: String,
    /// The table; none when its note is damaged.
    pub table: Option<TableRef>,
}

/// Reads all notes. One that is damaged is told, and stands for the table of its name.
pub(super) fn read_all(migrations: &Path) -> Result<AllHeld, StateError> {
    let mut held = AllHeld::new();
    for folder in entries(migrations)?.into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().and_then(|name| name.to_str());
        let Some(migration) = name.and_then(|name| name.parse::<MigrationName>().ok()) else {
            continue;
        };
        let notes = entries(&folder)?.into_iter();
        for note in notes.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)) {
            let Some(stem) = note.file_stem().and_then(|stem| stem.to_str()) else {
                continue;
            };
            let table = read_note(&note).unwrap_or_else(|error| {
                tracing::error!(
                    %migration,
                    error = crate::words::in_full(&error),
                    "merges of the table that the file is named after stay stopped all the same; the next step on the table \
                     writes it anew"
                );
                None
            });
            held.insert((migration.clone(), stem.to_owned()), table);
        }
    }
    Ok(held)
}

impl State {
    /// Notes that merges of the table are to stay stopped, whoever starts its server; a note that is there already and
    /// whole is left alone.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn hold_merges(&self, migration: &MigrationName, table: &TableRef) -> Result<(), StateError> {
        let file = self.held_file(migration, table);
        let is_noted = matches!(read_note::<TableRef>(&file), Ok(Some(noted)) if noted == *table);
        if !is_noted {
            self.make_migration_folder(migration)?;
            self.write_note(&file, table)?;
        }
        lock(&self.inner.held).insert(key(migration, table), Some(table.clone()));
        Ok(())
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
        removed.map_err(|e| StateError::Disk(file, e))?;
        lock(&self.inner.held).remove(&key(migration, table));
        Ok(())
    }

    /// Whether merges of the table are to stay stopped.
    #[must_use]
    pub fn holds_merges(&self, migration: &MigrationName, table: &TableRef) -> bool {
        lock(&self.inner.held).contains_key(&key(migration, table))
    }

    /// Whether they still are.
    #[must_use]
    pub fn still_holds(&self, held: &Held) -> bool {
        lock(&self.inner.held).contains_key(&(held.migration.clone(), held.stem.clone()))
    }

    /// All tables of which merges are to stay stopped.
    #[must_use]
    pub fn held_merges(&self) -> Vec<Held> {
        let held = lock(&self.inner.held);
        let one = |((migration, stem), table): (&(MigrationName, String), &Option<TableRef>)| Held {
            migration: migration.clone(),
            stem: stem.clone(),
            table: table.clone(),
        };
        held.iter().map(one).collect()
    }

    /// To be held while merges of this held table are stopped or started, so that a stop never comes after the start.
    #[must_use]
    pub fn merges_turn(&self, table: &TableRef) -> Arc<tokio::sync::Mutex<()>> {
        self.turn_of(file_stem(table))
    }

    /// The same for one that may be known by the name of its note alone.
    #[must_use]
    pub fn turn_of_held(&self, held: &Held) -> Arc<tokio::sync::Mutex<()>> {
        self.turn_of(held.stem.clone())
    }

    fn turn_of(&self, stem: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.inner.merges);
        Arc::clone(turns.entry(stem).or_default())
    }

    fn held_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.{EXTENSION}", file_stem(table)))
    }
}

fn key(migration: &MigrationName, table: &TableRef) -> (MigrationName, String) {
    (migration.clone(), file_stem(table))
}
