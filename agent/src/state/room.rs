//! Room on the disk of the state folder that is kept for what has to be written once nodes are deleted.
//!
//! ```text
//! reserve                                  for the agent's own files, and for what commands print
//! migrations/<migration>/<table>.reserve   for manifest, account and notes of a table
//! ```
//!
//! The room is allocated before a table is detached, and given back when the table is in service or finished. A write that
//! finds the disk full takes as much of it as it needs. A power cut may lose a reserve: it is not synced, since it is only
//! a help, and what then finds no room stops and says so.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::TableRef;
use rekeeper_shared::tools::durable;
use rekeeper_shared::tools::reserve::{allocate, is_full, take};
use rustix::fs::FallocateFlags;

use super::{State, StateError, file_stem};

/// What is kept for the agent's own files: `coordinator.json` is written anew for every attempt.
const OWN: u64 = 1 << 20;
const OWN_FILE: &str = "reserve";
const EXTENSION: &str = "reserve";
/// What is kept for a table without parts, and for each part: digests do not get smaller by packing, and a note may have
/// each name several times, and is written beside the one before.
const TABLE: u64 = 64 << 10;
const PART: u64 = 160;
const NAMES: u64 = 6;
/// What a write takes more than its content, and what a command may print.
const MORE: u64 = 16 << 10;
const OUTPUT: u64 = 64 << 10;

/// Who takes from a reserve, one at a time.
static TAKING: Mutex<()> = Mutex::new(());

/// The error of a write.
pub(crate) fn refused(file: &Path, error: io::Error) -> StateError {
    match is_full(&error) {
        true => StateError::Full(file.to_owned(), error),
        false => StateError::Disk(file.to_owned(), error),
    }
}

/// Writes a file durably; when the disk is full, with room out of what is kept for the table that the file is of, or for
/// the agent. A file that could not be synced is written anew, as another one: what the kernel still has of the first is
/// not believed.
pub(crate) fn write(state_dir: &Path, file: &Path, content: &[u8]) -> Result<(), StateError> {
    let reserves = [file.with_extension(EXTENSION), state_dir.join(OWN_FILE)];
    let mut before = None;
    let written = loop {
        match durable::write(file, content) {
            Err(error) if is_full(&error) => {
                let _one = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
                let Some((from, had)) = reserves
                    .iter()
                    .find_map(|r| Some((r, take(r, content.len() as u64 + MORE)?)))
                else {
                    break Err(error);
                };
                tracing::warn!(file = %file.display(), reserve = %from.display(), "the disk is full: room was kept for this");
                before.get_or_insert((from, had));
            }
            other => break other,
        }
    };
    // What replaced a file has freed as much. Somebody may be quicker.
    if let Some((from, had)) = before {
        let _one = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = allocate(from, had.saturating_sub(content.len() as u64));
    }
    written.map_err(|e| refused(file, e))
}

/// What is kept for a table with so many parts, whose names have so many bytes together.
fn of_table(parts: u64, name_bytes: u64) -> u64 {
    TABLE
        .saturating_add(PART.saturating_mul(parts))
        .saturating_add(NAMES.saturating_mul(name_bytes))
}

impl State {
    /// Keeps room for the agent's own files, as far as there is any: where there is none, no table is detached.
    pub(super) fn keep_own_room(&self) {
        let reserve = self.inner.folder.join(OWN_FILE);
        if let Err(error) = allocate(&reserve, OWN) {
            tracing::warn!(reserve = %reserve.display(), %error, "no room is kept for what has to be written later");
        }
    }

    /// Keeps room for all that has to be written of a table once its nodes are deleted, and for the agent's own files. To
    /// be called as long as nothing was deleted.
    ///
    /// # Errors
    /// [`StateError::Full`] when there is none.
    pub fn keep_room(
        &self,
        migration: &MigrationName,
        table: &TableRef,
        parts: u64,
        name_bytes: u64,
    ) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        let _one = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.inner.folder.join(OWN_FILE);
        allocate(&own, OWN).map_err(|e| refused(&own, e))?;
        let reserve = self.reserve_file(migration, table);
        allocate(&reserve, of_table(parts, name_bytes)).map_err(|e| refused(&reserve, e))
    }

    /// Gives back what was kept for a table.
    pub fn give_room_back(&self, migration: &MigrationName, table: &TableRef) {
        let reserve = self.reserve_file(migration, table);
        match fs::remove_file(&reserve) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(reserve = %reserve.display(), %error, "cannot be removed"),
        }
    }

    /// Room for what a command prints into the file, so that a full disk does not end the command.
    pub fn room_for_output(&self, file: &File) {
        let _one = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let room = || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, OUTPUT);
        if room().is_err_and(|e| is_full(&e.into())) && take(&self.inner.folder.join(OWN_FILE), OUTPUT).is_some() {
            let _ = room();
        }
    }

    fn reserve_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.{EXTENSION}", file_stem(table)))
    }
}
