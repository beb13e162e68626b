//! The embedded store: one SQLite file in `data_dir`, one thread that writes, one connection that reads.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use rekeeper_shared::domain::document::{self, BadDocument, Packed};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;
use rekeeper_shared::tools::durable;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::IgnoredAny;
use tokio::sync::{oneshot, watch};

use super::room::Room;
use super::writer::{Entry, NewPlan, Request, Write, Writer, checkpoint};
use super::{Append, Pending, Store, StoreError, Stored, Written, schema};

const FILE: &str = "rekeeper.sqlite";
const LOCK: &str = "lock";
/// SQLite's log beside it: what was written last is only there.
const LOG: &str = "rekeeper.sqlite-wal";
/// There from the opening of the store to its closing, which takes the log away.
const OPEN: &str = "rekeeper.sqlite-open";
/// What a file of SQLite has at least.
const HEADER: u64 = 512;

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

/// The embedded store. Dropping it waits for the writes under way and frees the folder.
#[derive(Debug)]
pub struct SqliteStore {
    requests: mpsc::Sender<Request>,
    writer: Option<JoinHandle<()>>,
    reader: Arc<Reader>,
    failed: watch::Receiver<Option<String>>,
    commits: Arc<AtomicU64>,
    room: Arc<Room>,
    open: PathBuf,
    /// Held as long as the store is: the lock goes with the file.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store of a folder, creates both when they are not there, and takes the next fencing token.
    /// Blocks; a check of the whole file is part of it.
    ///
    /// # Errors
    /// When another process has it open, when a newer release wrote it, when it is damaged, or the disk refuses.
    pub fn open(data_dir: &Path) -> Result<(Self, Opened), StoreError> {
        let mut lock = lock(data_dir)?;
        let room = Arc::new(Room::before_opening(data_dir));
        let file = data_dir.join(FILE);
        let known = known_store(&mut lock, data_dir)?;
        check_there(&file, known.as_deref())?;
        check_log(data_dir, &file)?;
        let mut connection = schema::connect(&file)?;
        let begun = schema::begin(&mut connection, &file)?;
        note_store(&mut lock, data_dir, &file, known.as_deref(), &begun.store_id)?;
        // Begin with an empty log: its size is not known here, and the writer counts from nothing.
        checkpoint(&connection, "TRUNCATE").map_err(|e| schema::at_open(&file, e))?;
        note_open(data_dir)?;
        let last = last_records(&connection).map_err(|e| schema::at_open(&file, e))?;
        let reader = schema::connect(&file)?;
        reader
            .pragma_update(None, "query_only", true)
            .map_err(|e| schema::at_open(&file, e))?;

        let (requests, queue) = mpsc::channel();
        let (failing, failed) = watch::channel(None);
        let commits = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(
            connection,
            last,
            Arc::clone(&commits),
            failing,
            (data_dir.to_owned(), Arc::clone(&room)),
        );
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| StoreError::Folder {
                path: file.clone(),
                source,
            })?;
        let opened = Opened {
            token: begun.token,
            run: begun.run,
            past: begun.past,
        };
        tracing::info!(
            file = %file.display(),
            store = begun.store_id,
            token = opened.token,
            run = opened.run,
            "store opened"
        );
        let store = Self {
            requests,
            writer: Some(writer),
            reader: Arc::new(Reader(Mutex::new(reader))),
            failed,
            commits,
            room,
            open: data_dir.join(OPEN),
            _lock: lock,
        };
        if !store.has_room() {
            tracing::warn!(
                data_dir = %data_dir.display(),
                "STATE_DIR_FULL: no room can be kept for what has to be written later: nothing is detached or deleted until \
                 there is some"
            );
        }
        Ok((store, opened))
    }

    /// How many transactions were committed since it was opened; many appends share one.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Queues a write now; the future only waits.
    fn write(&self, write: Result<Write, StoreError>) -> Pending<Vec<Written>> {
        let write = match write {
            Ok(write) => write,
            Err(error) => return future::ready(Err(error)).boxed(),
        };
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Write(write, reply));
        let failed = self.failed.clone();
        async move {
            // Both mean that the writer is gone: after a panic, or because the store was closed.
            let gone = || StoreError::Failed(failed.borrow().clone().unwrap_or_else(writer_gone));
            sent.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        }
        .boxed()
    }

    /// Reads beside the runtime: a document may be large.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<T> {
        let reader = Arc::clone(&self.reader);
        async move {
            tokio::task::spawn_blocking(move || read(&reader.0.lock().unwrap_or_else(PoisonError::into_inner)))
                .await
                .unwrap_or(Err(StoreError::GivenUp))
        }
        .boxed()
    }
}

impl Store for SqliteStore {
    fn plans(&self) -> Pending<Vec<Plan>> {
        self.read(|connection| {
            let rows = connection
                .prepare("SELECT name, digest, plan FROM migration ORDER BY rowid")
                .and_then(|mut statement| {
                    statement
                        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                        .collect::<Result<Vec<(String, String, Vec<u8>)>, _>>()
                })
                .map_err(StoreError::Read)?;
            rows.into_iter()
                .map(|(name, digest, plan)| {
                    document::unpack(&plan, Some(&digest)).map_err(|source| StoreError::BadPlan { name, source })
                })
                .collect()
        })
    }

    fn save_plan(&self, plan: &Plan, packed: Packed) -> Pending<()> {
        let written = self.write(Ok(Write::Plan(NewPlan {
            name: plan.name.clone(),
            created: plan.created.clone(),
            packed,
        })));
        async move { written.await.map(|_| ()) }.boxed()
    }

    fn records(&self, migration: &MigrationName, after: u64, limit: usize) -> Pending<Vec<Stored>> {
        let migration = migration.clone();
        self.read(move |connection| records(connection, &migration, after, limit))
    }

    fn append(&self, group: Vec<Append>) -> Pending<Vec<Written>> {
        let entries = group.into_iter().map(|append| {
            let body = serde_json::to_string(&append.record).map_err(|source| StoreError::Pack {
                what: "a record",
                source: source.into(),
            })?;
            Ok(Entry {
                migration: append.migration,
                body,
                document: append.document,
            })
        });
        self.write(entries.collect::<Result<_, _>>().map(Write::Append))
    }

    fn document(&self, digest: &str) -> Pending<Option<Packed>> {
        let digest = digest.to_owned();
        self.read(move |connection| {
            let bytes: Option<Vec<u8>> = connection
                .query_row("SELECT bytes FROM document WHERE digest = ?", [&digest], |row| {
                    row.get(0)
                })
                .optional()
                .map_err(StoreError::Read)?;
            let Some(bytes) = bytes else { return Ok(None) };
            let checked: Result<IgnoredAny, BadDocument> = document::unpack(&bytes, Some(&digest));
            match checked {
                Ok(_) => Ok(Some(Packed { digest, bytes })),
                Err(source) => Err(StoreError::BadDocument { digest, source }),
            }
        })
    }

    fn has_room(&self) -> bool {
        self.room.is_whole()
    }

    fn keep_room(&self, more: u64) {
        self.room.more(more);
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        let mut failed = self.failed.clone();
        async move {
            match failed.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_else(writer_gone),
                Err(_) => writer_gone(),
            }
        }
        .boxed()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Before the log goes: a crash in between is one of a store that has its log.
        if let Err(error) = fs::remove_file(&self.open) {
            tracing::warn!(file = %self.open.display(), %error, "the note of a store that is open stays");
        }
        // Without a writer there is nothing to stop, and a writer that panicked has said so.
        drop(self.requests.send(Request::Stop));
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

/// The connection that reads; it sees what is committed, and only what is synced.
#[derive(Debug)]
struct Reader(Mutex<Connection>);

fn records(
    connection: &Connection,
    migration: &MigrationName,
    after: u64,
    limit: usize,
) -> Result<Vec<Stored>, StoreError> {
    let rows = connection
        .prepare_cached("SELECT seq, time, body, sum FROM record WHERE migration = ? AND seq > ? ORDER BY seq LIMIT ?")
        .and_then(|mut statement| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement
                .query_map(params![migration.as_str(), after, limit], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .collect::<Result<Vec<(u64, String, String, Option<String>)>, _>>()
        })
        .map_err(StoreError::Read)?;
    let mut expected = after;
    rows.into_iter()
        .map(|(seq, time, body, sum)| {
            expected += 1;
            if seq != expected {
                return Err(StoreError::LostRecord {
                    migration: migration.clone(),
                    seq: expected,
                });
            }
            if sum.is_some_and(|sum| sum != record_sum(migration, seq, &time, &body)) {
                return Err(StoreError::ChangedRecord {
                    migration: migration.clone(),
                    seq,
                });
            }
            let record = serde_json::from_str(&body).map_err(|source| StoreError::BadRecord {
                migration: migration.clone(),
                seq,
                source,
            })?;
            Ok(Stored { seq, time, record })
        })
        .collect()
}

pub(super) fn last_records(connection: &Connection) -> rusqlite::Result<HashMap<MigrationName, u64>> {
    let mut statement = connection
        .prepare("SELECT name, (SELECT coalesce(max(seq), 0) FROM record WHERE migration = name) FROM migration")?;
    let rows = statement.query_map([], |row| {
        let name: String = row.get(0)?;
        let name = MigrationName::try_from(name)
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e)))?;
        Ok((name, row.get(1)?))
    })?;
    rows.collect()
}

/// Which store the folder has had: its lock tells, so that a store that is gone is missed. None before the first one, and
/// where an older release made it.
fn known_store(lock: &mut File, data_dir: &Path) -> Result<Option<String>, StoreError> {
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
fn check_there(file: &Path, known: Option<&str>) -> Result<(), StoreError> {
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
fn check_log(data_dir: &Path, file: &Path) -> Result<(), StoreError> {
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

fn note_open(data_dir: &Path) -> Result<(), StoreError> {
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

fn note_store(lock: &mut File, data_dir: &Path, file: &Path, known: Option<&str>, is: &str) -> Result<(), StoreError> {
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
fn lock(data_dir: &Path) -> Result<File, StoreError> {
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

fn writer_gone() -> String {
    "the thread that writes has ended".to_owned()
}

/// The checksum of a record with all that tells where it belongs; records of older releases have none.
pub(super) fn record_sum(migration: &MigrationName, seq: u64, time: &str, body: &str) -> String {
    document::digest(format!("{migration}\n{seq}\n{time}\n{body}").as_bytes())
}

/// Something that nobody else draws.
pub(super) fn draw() -> String {
    format!("{:032x}", rand::random::<u128>())
}
