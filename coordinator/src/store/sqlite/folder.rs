//! The folder of the store: who has it, and whether what is in it is what was there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rekeeper_shared::tools::durable;

use crate::store::StoreError;

/// The database.
pub(super) const FILE: &str = "rekeeper.sqlite";
const LOCK: &str = "lock";
/// SQLite's log beside it: what was written last is only there.
const LOG: &str = "rekeeper.sqlite-wal";
/// There from the opening of the store to its closing, which takes the log away.
pub(super) const OPEN: &str = "rekeeper.sqlite-open";
/// What a file of SQLite has at least.
const HEADER: u64 = 512;

/// Which store the folder has had: its lock tells, so that a store that is gone is missed. None before the first one, and
/// where an older release made it.
pub(super) fn known_store(lock: &mut File, data_dir: &Path) -> Result<Option<String>, StoreError> {
    let mut text = String::new();
    let read = lock.take(1_024).read_to_string(&mut text);
    read.map_err(|source| StoreError::Folder {
        path: data_dir.join(LOCK),
        source,
    })?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// SQLite makes a new store where there is none, and takes a file without a header for an empty one: neither may happen
/// to one that was there, since a coordinator that knows nothing would begin anew.
pub(super) fn check_there(file: &Path, known: Option<&str>) -> Result<(), StoreError> {
    let damaged = |what: String| {
        Err(StoreError::Damaged {
            file: file.to_owned(),
            what,
        })
    };
    let bytes = fs::metadata(file).map(|found| found.len()).ok();
    match (bytes, known) {
        (None, None) | (Some(0), None) => {}
        (None, Some(known)) => return damaged(format!("it is gone, and the folder has had the store {known}")),
        (Some(bytes @ 0..HEADER), _) => return damaged(format!("it has {bytes} bytes, and no store is so small")),
        (Some(_), _) => {}
    }
    // SQLite gives the files beside it the rights of this one.
    let made = fs::OpenOptions::new().append(true).create(true).open(file);
    let only_own = made.and_then(|made| made.set_permissions(fs::Permissions::from_mode(0o600)));
    only_own.map_err(|source| StoreError::Folder {
        path: file.to_owned(),
        source,
    })
}

/// SQLite opens a store without its log as if nothing had been written since it was last closed.
pub(super) fn check_log(data_dir: &Path, file: &Path) -> Result<(), StoreError> {
    if !data_dir.join(OPEN).exists() || data_dir.join(LOG).exists() {
        return Ok(());
    }
    Err(StoreError::Damaged {
        file: file.to_owned(),
        what: format!(
            "it was not closed, and {LOG} beside it, which has what was written last, is gone: put it back, or an intact copy of \
             the whole folder; if a program like sqlite3 has had the store open since, it has moved the log's content into it: \
             then remove {OPEN}"
        ),
    })
}

pub(super) fn note_open(data_dir: &Path) -> Result<(), StoreError> {
    let path = data_dir.join(OPEN);
    let made = File::create(&path).and_then(|made| {
        made.sync_all()?;
        File::open(data_dir)?.sync_all()
    });
    match made {
        // A store can be opened on a full disk; without the note a log that gets lost is not missed.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        made => made.map_err(|source| StoreError::Folder { path, source }),
    }
}

pub(super) fn note_store(
    lock: &mut File,
    data_dir: &Path,
    file: &Path,
    known: Option<&str>,
    is: &str,
) -> Result<(), StoreError> {
    match known {
        Some(known) if known == is => return Ok(()),
        Some(known) => {
            return Err(StoreError::Damaged {
                file: file.to_owned(),
                what: format!("it is the store {is}, and the folder has had the store {known}"),
            });
        }
        None => {}
    }
    let mut write = || {
        lock.rewind()?;
        writeln!(lock, "{is}")?;
        lock.sync_all()
    };
    write().map_err(|source| StoreError::Folder {
        path: data_dir.join(LOCK),
        source,
    })
}

/// Makes the folder and locks it. The lock goes when the process ends, however it ends.
pub(super) fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| StoreError::Folder { path, source }
    };
    create_folder(data_dir).map_err(failed(data_dir))?;
    let path = data_dir.join(LOCK);
    let file = durable::open_lock(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(&path)(source)),
    }
}

/// Makes a folder so that it stays: a new one could be lost with the acknowledged records in it, if its name in the
/// folder above were not synced.
fn create_folder(folder: &Path) -> io::Result<()> {
    match durable::create_folder(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        // Also when the folder above is not there: it may be a volume that is not mounted.
        Err(error) => return Err(error),
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}
