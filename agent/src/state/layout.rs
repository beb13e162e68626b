//! Where the files of a migration are: in a folder of its own, below one that has nothing else. So no name of a migration
//! is that of another file of the agent.
//!
//! Agents before 0.1.0 had these folders beside `coordinator.json`; they are moved when the state folder is opened, each by
//! one rename, so that an agent that is upgraded in the middle of a migration finds its notes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rekeeper_shared::domain::ids::MigrationName;

use super::{StateError, make_folder};

/// The folder that has those of all migrations.
pub(super) const FOLDER: &str = "migrations";
/// Where a migration that is itself called `migrations` waits until its folder can be moved; none can have this name.
const ASIDE: &str = ".migrations";
/// What the files of a migration end with.
const EXTENSIONS: [&str; 8] = [
    "manifest", "restore", "account", "held", "record", "znodes", "restart", "output",
];

/// Makes the folder of all migrations, moves what is still where it was before, and answers where it is.
///
/// # Errors
/// When the disk refuses, or one migration has files in both places.
pub(super) fn open(state_dir: &Path) -> Result<PathBuf, StateError> {
    let (all, aside) = (state_dir.join(FOLDER), state_dir.join(ASIDE));
    if has_files_of_a_migration(&all)? {
        rename(&all, &aside)?;
    }
    make_folder(&all)?;
    if aside.is_dir() {
        rename(&aside, &all.join(FOLDER))?;
    }
    for folder in entries(state_dir)?.into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // Somebody's else, such as lost+found where the folder is a disk.
        if name == FOLDER || name.parse::<MigrationName>().is_err() {
            continue;
        }
        if entries(&folder)?.is_empty() || has_files_of_a_migration(&folder)? {
            let to = all.join(name);
            rename(&folder, &to)?;
            tracing::info!(from = %folder.display(), to = %to.display(), "folder of a migration moved");
        }
    }
    Ok(all)
}

fn has_files_of_a_migration(folder: &Path) -> Result<bool, StateError> {
    if !folder.is_dir() {
        return Ok(false);
    }
    let is_of_one = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    Ok(entries(folder)?.iter().any(is_of_one))
}

fn rename(from: &Path, to: &Path) -> Result<(), StateError> {
    let disk = |e| StateError::Disk(from.to_owned(), e);
    match fs::rename(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            return Err(StateError::TwoFolders(from.to_owned(), to.to_owned()));
        }
        Err(error) => return Err(disk(error)),
    }
    for folder in [from.parent(), to.parent()].into_iter().flatten() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk)?;
    }
    Ok(())
}

/// What is in a folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, StateError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    read().map_err(|e| StateError::Disk(folder.to_owned(), e))
}
