//! The one thread that writes (group commit): everything that waits goes into one transaction, which costs one fsync.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::SystemTime;

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::MigrationName;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::{oneshot, watch};

use super::reader::last_records;
use super::record_sum;
use super::room::Room;
use super::schema::is_full;
use crate::store::{StoreError, Written};

/// Writes that share a transaction at most; more wait for the next one, so that the first are not kept waiting long.
const WRITES_PER_COMMIT: usize = 4_096;
/// Bytes that share a transaction at most, but for the group that crosses the line.
const BYTES_PER_COMMIT: usize = 16 << 20;
/// The log of SQLite is copied into its database file after so many commits, or so many bytes.
const COMMITS_PER_CHECKPOINT: usize = 512;
const BYTES_PER_CHECKPOINT: usize = 32 << 20;

/// A record, ready to be written.
pub(super) struct Entry {
    pub(super) migration: MigrationName,
    pub(super) body: String,
    pub(super) document: Option<Packed>,
}

/// A plan, ready to be written.
pub(super) struct NewPlan {
    pub(super) name: MigrationName,
    pub(super) created: String,
    pub(super) packed: Packed,
}

/// What is to be written.
pub(super) enum Write {
    /// Records, all or none.
    Append(Vec<Entry>),
    /// A new plan.
    Plan(NewPlan),
}

/// What the writer is asked for.
pub(super) enum Request {
    /// Write, and answer once it is on disk. A plan is answered with nothing.
    Write(Write, Reply),
    /// End, after everything that was asked for before.
    Stop,
}

type Reply = oneshot::Sender<Result<Vec<Written>, StoreError>>;

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(entries) => entries
                .iter()
                .map(|e| e.body.len() + e.document.as_ref().map_or(0, |d| d.bytes.len()))
                .sum(),
            Self::Plan(plan) => plan.packed.bytes.len(),
        }
    }
}

/// The writer's side of the store.
pub(super) struct Writer {
    connection: Connection,
    /// Number of the last record of each migration.
    last: HashMap<MigrationName, u64>,
    commits: Arc<AtomicU64>,
    failed: watch::Sender<Option<String>>,
    /// The folder of the store, and what is kept on its disk.
    room: (PathBuf, Arc<Room>),
    commits_since_checkpoint: usize,
    bytes_since_checkpoint: usize,
}

impl Writer {
    /// A writer that goes on where each migration's records end.
    pub(super) fn new(
        connection: Connection,
        last: HashMap<MigrationName, u64>,
        commits: Arc<AtomicU64>,
        failed: watch::Sender<Option<String>>,
        room: (PathBuf, Arc<Room>),
    ) -> Self {
        Self {
            connection,
            last,
            commits,
            failed,
            room,
            commits_since_checkpoint: 0,
            bytes_since_checkpoint: 0,
        }
    }

    /// Serves requests until [`Request::Stop`].
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let mut stop = false;
        while !stop {
            let Ok(first) = requests.recv() else { return };
            let mut writes = Vec::new();
            let mut replies = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(request) = next {
                let Request::Write(write, reply) = request else {
                    stop = true;
                    break;
                };
                bytes += write.bytes();
                writes.push(write);
                replies.push(reply);
                let full = writes.len() >= WRITES_PER_COMMIT || bytes >= BYTES_PER_COMMIT;
                next = if full { None } else { requests.try_recv().ok() };
            }
            if !writes.is_empty() {
                self.serve(&writes, replies, bytes);
            }
        }
    }

    /// Commits, then answers. Whoever has dropped the receiver does not want to know.
    fn serve(&mut self, writes: &[Write], replies: Vec<Reply>, bytes: usize) {
        if self.failed.borrow().is_none() {
            match self.commit_with_room(writes, bytes) {
                Ok(results) => {
                    for (reply, result) in replies.into_iter().zip(results) {
                        drop(reply.send(result));
                    }
                    self.checkpoint_if_due(bytes);
                    return;
                }
                Err(error) => self.fail("a write failed", &error),
            }
        }
        let reason = self.failed.borrow().clone().unwrap_or_default();
        for reply in replies {
            drop(reply.send(Err(StoreError::Failed(reason.clone()))));
        }
    }

    /// Writes everything, where the disk is full with room that was kept.
    fn commit_with_room(
        &mut self,
        writes: &[Write],
        bytes: usize,
    ) -> rusqlite::Result<Vec<Result<Vec<Written>, StoreError>>> {
        loop {
            match self.commit(writes) {
                // The write was refused, and rolled back: nothing of it is in SQLite's log, and no sync has failed.
                Err(error) if is_full(&error) && self.room.1.give(needed(bytes)) => {
                    tracing::warn!(data_dir = %self.room.0.display(), "the disk is full: room was kept for this");
                    // The numbers were counted up.
                    self.last = last_records(&self.connection)?;
                }
                other => return other,
            }
        }
    }

    /// Writes everything in one transaction. What cannot be written for a reason of its own (the name is taken) is
    /// answered so, and nothing of it is in the transaction; the outer error is that of the disk.
    fn commit(&mut self, writes: &[Write]) -> rusqlite::Result<Vec<Result<Vec<Written>, StoreError>>> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            results.push(match write {
                Write::Append(entries) => append(&transaction, &mut self.last, entries, &time)?,
                Write::Plan(plan) => save_plan(&transaction, &mut self.last, plan)?,
            });
        }
        transaction.commit()?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(results)
    }

    /// Copies SQLite's log into the database file, so that the log stays small; after the answers, since nobody has
    /// to wait for it.
    fn checkpoint_if_due(&mut self, bytes: usize) {
        self.commits_since_checkpoint += 1;
        self.bytes_since_checkpoint += bytes;
        if self.commits_since_checkpoint < COMMITS_PER_CHECKPOINT && self.bytes_since_checkpoint < BYTES_PER_CHECKPOINT
        {
            return;
        }
        self.commits_since_checkpoint = 0;
        self.bytes_since_checkpoint = 0;
        loop {
            match checkpoint(&self.connection, "PASSIVE") {
                Ok(()) => return,
                Err(error) if is_full(&error) => {
                    if !self.room.1.give(needed(bytes)) {
                        // All of it is in the log still, which is synced.
                        tracing::warn!(data_dir = %self.room.0.display(), "the disk is full: SQLite's log is copied later");
                        return;
                    }
                }
                Err(error) => return self.fail("a checkpoint failed", &error),
            }
        }
    }

    /// Takes nothing any more, and tells the owner.
    ///
    /// A failed write must stop the program; trying it again would lie. After a failed fsync the kernel marks the
    /// pages as clean although they never reached the disk: the next fsync succeeds, and reading them back shows what
    /// should be there, until the page cache lets go of them. Memory (`last`, and whatever the owner derived from
    /// records that it believes written) may be ahead of the disk, too. Only a new process, which reads what is
    /// really there, knows where the migration stands; agents keep what was not acknowledged and send it again.
    fn fail(&self, what: &str, error: &rusqlite::Error) {
        let reason = if is_full(error) {
            format!(
                "STATE_DIR_FULL: {what}: there is no room on the disk of {} ({error}): make some, then start the coordinator \
                 again, which goes on where it was; nothing that was acknowledged is lost, and no file is to be put back",
                self.room.0.display()
            )
        } else {
            format!("{what}: {error}")
        };
        tracing::error!(error = %error, "{what}; the coordinator has to stop");
        self.failed.send_replace(Some(reason));
    }
}

/// What so many bytes may take: in SQLite's log, in its file, and the pages around them.
fn needed(bytes: usize) -> u64 {
    (1 << 20) + 2 * bytes as u64
}

fn append(
    transaction: &Transaction<'_>,
    last: &mut HashMap<MigrationName, u64>,
    entries: &[Entry],
    time: &str,
) -> rusqlite::Result<Result<Vec<Written>, StoreError>> {
    if let Some(unknown) = entries.iter().find(|e| !last.contains_key(&e.migration)) {
        return Ok(Err(StoreError::UnknownMigration(unknown.migration.clone())));
    }
    let mut insert =
        transaction.prepare_cached("INSERT INTO record (migration, seq, time, body, sum) VALUES (?, ?, ?, ?, ?)")?;
    let mut keep = transaction.prepare_cached("INSERT OR IGNORE INTO document (digest, bytes) VALUES (?, ?)")?;
    let mut written = Vec::with_capacity(entries.len());
    for entry in entries {
        let seq = last.entry(entry.migration.clone()).or_default();
        *seq += 1;
        let sum = record_sum(&entry.migration, *seq, time, &entry.body);
        insert.execute(params![entry.migration.as_str(), *seq, time, entry.body, sum])?;
        if let Some(document) = &entry.document {
            keep.execute(params![document.digest, document.bytes])?;
        }
        written.push(Written {
            seq: *seq,
            time: time.to_owned(),
        });
    }
    Ok(Ok(written))
}

fn save_plan(
    transaction: &Transaction<'_>,
    last: &mut HashMap<MigrationName, u64>,
    plan: &NewPlan,
) -> rusqlite::Result<Result<Vec<Written>, StoreError>> {
    if last.contains_key(&plan.name) {
        return Ok(Err(StoreError::NameTaken(plan.name.clone())));
    }
    transaction.execute(
        "INSERT INTO migration (name, created, digest, plan) VALUES (?, ?, ?, ?)",
        params![plan.name.as_str(), plan.created, plan.packed.digest, plan.packed.bytes],
    )?;
    last.insert(plan.name.clone(), 0);
    Ok(Ok(Vec::new()))
}

/// Copies SQLite's log into the database file. A reader that holds it up is no error: the next checkpoint goes on.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
