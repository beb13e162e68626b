//! The tables, and what is checked before a file is taken for a store.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior, params};

use crate::store::StoreError;

/// Grows with every change of the tables.
const SCHEMA_VERSION: i64 = 1;

/// `meta` has one row; `only` and `schema_version` must stay what they are in all releases to come, so that an older
/// one can tell a newer store. Record bodies are plain JSON, to be read with the `sqlite3` program.
const TABLES: &str = "
    CREATE TABLE meta (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        schema_version INTEGER NOT NULL,
        store_id TEXT NOT NULL,
        token INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE migration (
        name TEXT PRIMARY KEY,
        created TEXT NOT NULL,
        digest TEXT NOT NULL,
        plan BLOB NOT NULL
    ) STRICT;
    CREATE TABLE record (
        migration TEXT NOT NULL REFERENCES migration (name),
        seq INTEGER NOT NULL,
        time TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (migration, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE document (
        digest TEXT PRIMARY KEY,
        bytes BLOB NOT NULL
    ) STRICT;
";

/// Every run that this store had, by its token. Beside the tables above: a store without it is one of before.
const RUNS: &str = "CREATE TABLE IF NOT EXISTS run (token INTEGER PRIMARY KEY, run TEXT NOT NULL) STRICT";

/// The checksum of each record. Beside the tables above: a store without it is one of before, and so are its records.
const SUMS: &str = "ALTER TABLE record ADD COLUMN sum TEXT";

/// What one opening of the store begins with.
pub(super) struct Begun {
    /// Drawn when the store was created.
    pub(super) store_id: String,
    /// Incremented by this opening, and on disk.
    pub(super) token: u64,
    /// Drawn by this opening, and on disk.
    pub(super) run: String,
    /// The runs of the openings before, by their tokens.
    pub(super) past: BTreeMap<u64, String>,
}

/// Opens a connection that writes as durably as SQLite can.
pub(super) fn connect(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(file).map_err(|e| at_open(file, e))?;
    configure(&connection).map_err(|e| at_open(file, e))?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // The first statement that touches the file; it fails when the file is no database.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // With WAL, NORMAL would sync at checkpoints only: a commit could be lost after it was acknowledged.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // SQLite ignores the errors of the checkpoints that it makes by itself; the writer makes them, and looks.
    connection.pragma_update(None, "wal_autocheckpoint", 0)
}

/// Creates the tables, or checks those that are there; then takes the next token.
pub(super) fn begin(connection: &mut Connection, file: &Path) -> Result<Begun, StoreError> {
    check(connection, file)?;
    take_token(connection).map_err(|e| at_open(file, e))
}

fn check(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged {
        file: file.to_owned(),
        what,
    };
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| at_open(file, e))?;
    if verdict != "ok" {
        return Err(damaged(verdict));
    }
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| at_open(file, e))?;
    if tables == 0 {
        return Ok(());
    }
    let version = connection
        .query_row("SELECT schema_version FROM meta", [], |row| row.get(0))
        .optional()
        .map_err(|e| damaged(e.to_string()))?;
    match version {
        None => Err(damaged("its table meta is empty".to_owned())),
        Some(SCHEMA_VERSION) => Ok(()),
        Some(found) if found > SCHEMA_VERSION => Err(StoreError::Newer {
            file: file.to_owned(),
            found,
            known: SCHEMA_VERSION,
        }),
        Some(found) => Err(damaged(format!("schema {found} never existed"))),
    }
}

fn take_token(connection: &mut Connection) -> rusqlite::Result<Begun> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.execute(
            "INSERT INTO meta (only, schema_version, store_id, token) VALUES (1, ?1, ?2, 0)",
            params![SCHEMA_VERSION, draw()],
        )?;
    }
    transaction.execute_batch(RUNS)?;
    let sums = "SELECT count(*) FROM pragma_table_info('record') WHERE name = 'sum'";
    if transaction.query_row(sums, [], |row| row.get::<_, i64>(0))? == 0 {
        transaction.execute_batch(SUMS)?;
    }
    let past = {
        let mut runs = transaction.prepare("SELECT token, run FROM run")?;
        let rows = runs.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<BTreeMap<u64, String>>>()?
    };
    let (store_id, token): (String, u64) = transaction.query_row(
        "UPDATE meta SET token = token + 1 RETURNING store_id, token",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let run = draw();
    transaction.execute("INSERT INTO run (token, run) VALUES (?1, ?2)", params![token, run])?;
    transaction.commit()?;
    Ok(Begun {
        store_id,
        token,
        run,
        past,
    })
}

/// Something that nobody else draws.
fn draw() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Whether SQLite found no room on the disk. Nothing of what it was asked to write is there then; a sync that fails is
/// another error.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Tells a file that is no (whole) database from one that cannot be opened.
pub(super) fn at_open(file: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged {
            file: file.to_owned(),
            what: error.to_string(),
        },
        _ if is_full(&error) => StoreError::Full {
            folder: file.parent().unwrap_or(file).to_owned(),
            source: error.into(),
        },
        _ => StoreError::Open {
            file: file.to_owned(),
            source: error.into(),
        },
    }
}
