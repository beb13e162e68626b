//! The embedded store: one SQLite file in `data_dir`, one thread that writes, one connection that reads.

mod folder;
mod reader;
mod room;
mod schema;
mod writer;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use rekeeper_shared::domain::document::{self, Packed};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use self::room::Room;
use self::writer::{Entry, NewPlan, Request, Write, Writer, checkpoint};
use super::{Append, Opened, Pending, Store, StoreError, Stored, Written};

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore {
    requests: mpsc::Sender<Request>,
    writer: Option<JoinHandle<()>>,
    /// It sees what is committed, and only what is synced.
    reader: Arc<Mutex<Connection>>,
    failed: watch::Receiver<Option<String>>,
    commits: Arc<AtomicU64>,
    room: Arc<Room>,
    open: PathBuf,
    /// Held as long as the store is: the lock goes with the file.
    _lock: File,
}

impl SqliteStore {
    /// Starts the thread that writes.
    fn start(
        data_dir: &Path,
        connection: Connection,
        reader: Connection,
        (room, lock): (Arc<Room>, File),
    ) -> Result<Self, StoreError> {
        let last = reader::last_records(&connection).map_err(|e| schema::at_open(&data_dir.join(folder::FILE), e))?;
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
                path: data_dir.to_owned(),
                source,
            })?;
        Ok(Self {
            requests,
            writer: Some(writer),
            reader: Arc::new(Mutex::new(reader)),
            failed,
            commits,
            room,
            open: data_dir.join(folder::OPEN),
            _lock: lock,
        })
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
            tokio::task::spawn_blocking(move || read(&reader.lock().unwrap_or_else(PoisonError::into_inner)))
                .await
                .unwrap_or(Err(StoreError::GivenUp))
        }
        .boxed()
    }
}

impl Store for SqliteStore {
    fn open(data_dir: &Path) -> Result<(Self, Opened), StoreError> {
        let mut lock = folder::lock(data_dir)?;
        let room = Arc::new(Room::before_opening(data_dir));
        let file = data_dir.join(folder::FILE);
        let known = folder::known_store(&mut lock, data_dir)?;
        folder::check_there(&file, known.as_deref())?;
        folder::check_log(data_dir, &file)?;
        let mut connection = schema::connect(&file)?;
        let begun = schema::begin(&mut connection, &file)?;
        folder::note_store(&mut lock, data_dir, &file, known.as_deref(), &begun.store_id)?;
        // Begin with an empty log: its size is not known here, and the writer counts from nothing.
        checkpoint(&connection, "TRUNCATE").map_err(|e| schema::at_open(&file, e))?;
        folder::note_open(data_dir)?;
        let reader = schema::connect(&file)?;
        reader
            .pragma_update(None, "query_only", true)
            .map_err(|e| schema::at_open(&file, e))?;

        let store = Self::start(data_dir, connection, reader, (room, lock))?;
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
        if !store.has_room() {
            tracing::warn!(
                data_dir = %data_dir.display(),
                "STATE_DIR_FULL: no room can be kept for what has to be written later: nothing is detached or deleted until \
                 there is some"
            );
        }
        Ok((store, opened))
    }

    fn plans(&self) -> Pending<Vec<Plan>> {
        self.read(reader::plans)
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
        self.read(move |connection| reader::records(connection, &migration, after, limit))
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
        self.read(move |connection| reader::document(connection, digest))
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

fn writer_gone() -> String {
    "the thread that writes has ended".to_owned()
}

/// The checksum of a record with all that tells where it belongs; records of older releases have none.
fn record_sum(migration: &MigrationName, seq: u64, time: &str, body: &str) -> String {
    document::digest(format!("{migration}\n{seq}\n{time}\n{body}").as_bytes())
}
