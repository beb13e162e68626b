//! Notes that steps leave for their next attempt, or for themselves after a crash.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::rules::accounting::Dropped;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::{Restored, TableRef};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;

use super::{State, StateError, file_stem, read_note};

/// How far the restart of an attempt has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartNote {
    /// When the command was first received, by this host's clock.
    pub ordered_at: SystemTime,
    /// When the hooks had run: only a server that started later has what they changed.
    pub ready_at: Option<SystemTime>,
}

/// How far the restore of a table replica has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreNote {
    /// When the table was first attached without metadata; none when somebody else did it.
    pub attached_at: Option<Moment>,
    /// Parts on record that were not on the disk when somebody looked.
    #[serde(default)]
    pub missing: BTreeSet<String>,
    /// Folders under `detached/` of parts that are not on record, and that were moved there, or were about to be.
    #[serde(default)]
    pub set_aside: BTreeSet<String>,
    /// SYSTEM RESTORE REPLICA was sent, or is about to be: what is found from now on may be its work.
    pub sent: bool,
    /// RESTORE had been sent, and the note of that was lost.
    #[serde(default)]
    pub lost: bool,
    /// Somebody had restored the table before there was a manifest, with everything that was on record.
    #[serde(default)]
    pub by_hand: bool,
    /// Parts of the manifest that lay in `detached/` already when it was sent.
    pub late: Vec<String>,
    /// What users dropped since, by the log of the new path, which forgets it soon.
    #[serde(default)]
    pub dropped: Vec<Dropped>,
    /// RESTORE joined the table of somebody else, who had the path by then, and may have been given these parts of it.
    #[serde(default)]
    pub foreign: Option<BTreeSet<String>>,
    /// RESTORE attached stale folders of `detached/` in place of parts of the manifest; what the log says of single parts
    /// may be about those.
    #[serde(default)]
    pub collided: bool,
    /// Parts of the manifest that were attached from `detached/`, one by one, or were about to be.
    #[serde(default)]
    pub attached: BTreeSet<String>,
    /// Somebody was told that rows of a dropped partition may be back: what is done about it is their business.
    #[serde(default)]
    pub told_of_drop: bool,
    /// Every part was accounted for, like this: what users do with the table since is their business. The whole account
    /// is in a file of its own.
    pub accounted: Option<Accounted>,
}

impl RestoreNote {
    /// Of a table that is writable: what an earlier attempt had noted is not here.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost || !self.sent
    }
}

/// Every part was accounted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounted {
    /// In which way.
    pub counts: Restored,
    /// Digest of the whole account.
    pub account: String,
}

/// The record that the agent has found to be what it read itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestedNote {
    /// Digest of the record that was found true.
    pub record: String,
}

impl State {
    /// Which record the agent has attested last for a table; none when it has not, or the note is lost.
    ///
    /// # Errors
    /// When the note cannot be read.
    pub fn attested(&self, migration: &MigrationName, table: &TableRef) -> Result<Option<AttestedNote>, StateError> {
        read_note(&self.attested_file(migration, table))
    }

    /// Notes that the agent has attested a record.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn note_attested(
        &self,
        migration: &MigrationName,
        table: &TableRef,
        note: &AttestedNote,
    ) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        self.write_note(&self.attested_file(migration, table), note)
    }

    fn attested_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.attested", file_stem(table)))
    }

    /// When the restart of that attempt was commanded: noted at the first call, and the same ever after.
    ///
    /// # Errors
    /// When the note cannot be read or written.
    pub fn restart_note(&self, migration: &MigrationName, attempt: u64) -> Result<RestartNote, StateError> {
        let file = self.restart_file(migration, attempt);
        if let Some(note) = read_note(&file)? {
            return Ok(note);
        }
        let note = RestartNote {
            ordered_at: SystemTime::now(),
            ready_at: None,
        };
        self.make_migration_folder(migration)?;
        self.write_note(&file, &note)?;
        Ok(note)
    }

    /// Notes that the hooks of that attempt's restart have run, now.
    ///
    /// # Errors
    /// When the note cannot be read or written.
    pub fn note_restart_ready(&self, migration: &MigrationName, attempt: u64) -> Result<RestartNote, StateError> {
        let mut note = self.restart_note(migration, attempt)?;
        if note.ready_at.is_none() {
            note.ready_at = Some(SystemTime::now());
            self.write_note(&self.restart_file(migration, attempt), &note)?;
        }
        Ok(note)
    }

    /// How far the restore of a table has come.
    ///
    /// # Errors
    /// When the note cannot be read.
    pub fn restore_note(&self, migration: &MigrationName, table: &TableRef) -> Result<RestoreNote, StateError> {
        Ok(read_note(&self.restore_file(migration, table))?.unwrap_or_default())
    }

    /// Notes how far it has come.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn write_restore_note(
        &self,
        migration: &MigrationName,
        table: &TableRef,
        note: &RestoreNote,
    ) -> Result<(), StateError> {
        self.make_migration_folder(migration)?;
        self.write_note(&self.restore_file(migration, table), note)
    }

    fn restart_file(&self, migration: &MigrationName, attempt: u64) -> PathBuf {
        self.migration_folder(migration).join(format!("{attempt}.restart"))
    }

    fn restore_file(&self, migration: &MigrationName, table: &TableRef) -> PathBuf {
        self.migration_folder(migration)
            .join(format!("{}.restore", file_stem(table)))
    }
}
