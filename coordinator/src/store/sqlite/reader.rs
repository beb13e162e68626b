//! What is read, and the checks of what was read: nothing that somebody has changed is taken for what was stored.

use std::collections::HashMap;

use rekeeper_shared::domain::document::{BadDocument, Packed, unpack};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::IgnoredAny;

use super::record_sum;
use crate::store::{StoreError, Stored};

/// Every plan, the oldest first.
pub(super) fn plans(connection: &Connection) -> Result<Vec<Plan>, StoreError> {
    let rows = connection
        .prepare("SELECT name, digest, plan FROM migration ORDER BY rowid")
        .and_then(|mut statement| {
            statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<Vec<(String, String, Vec<u8>)>, _>>()
        })
        .map_err(unreadable)?;
    rows.into_iter()
        .map(|(name, digest, plan)| unpack(&plan, Some(&digest)).map_err(|source| StoreError::BadPlan { name, source }))
        .collect()
}

/// The records of a migration after one, each checked: that none is missing, and that each is what was stored.
pub(super) fn records(
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
        .map_err(unreadable)?;
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

/// The document of that digest, as it was packed.
pub(super) fn document(connection: &Connection, digest: String) -> Result<Option<Packed>, StoreError> {
    let bytes: Option<Vec<u8>> = connection
        .query_row("SELECT bytes FROM document WHERE digest = ?", [&digest], |row| {
            row.get(0)
        })
        .optional()
        .map_err(unreadable)?;
    let Some(bytes) = bytes else { return Ok(None) };
    let checked: Result<IgnoredAny, BadDocument> = unpack(&bytes, Some(&digest));
    match checked {
        Ok(_) => Ok(Some(Packed { digest, bytes })),
        Err(source) => Err(StoreError::BadDocument { digest, source }),
    }
}

/// The number of the last record of each migration.
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

fn unreadable(error: rusqlite::Error) -> StoreError {
    StoreError::Read(error.into())
}
