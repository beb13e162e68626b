//! What comes of a step is taken with its document only, and with the right one: an agent that is not what it was speaks
//! for its own host, and what it says of a step leads to orders to others.
//!
//! Of a document only what tells whose it is is kept: it may be that of a million parts. Whether a part set of record is
//! true is not told by it; the agent of each replica attests that.

use std::collections::HashSet;

use rekeeper_shared::domain::document::{self, Packed};
use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, Outcome, Restored};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What an attempt is about, as far as a document tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A replica set, with the replicas of the plan.
    Set {
        /// The ensemble and chroot that the plan found; the record has to name the same.
        place: Place,
        /// Its path in ZooKeeper, without the chroot.
        path: ZkPath,
        /// Names of all replicas that are planned; the record has to name the same.
        replicas: Vec<String>,
    },
    /// A table replica, as it was planned.
    Table {
        /// Database and table.
        name: TableName,
        /// As it was when the plan was made: a table that was created anew has another one.
        uuid: String,
        /// Its name among the replicas of its path.
        replica_name: String,
        /// Digest and number of parts of its manifest, once it is on record.
        manifest: Option<(String, u64)>,
    },
    /// What has no document.
    Other,
}

/// Whose event it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) host: &'a HostName,
    pub(super) migration: &'a MigrationName,
    pub(super) attempt: u64,
    pub(super) subject: &'a Subject,
}

/// The digest of the document that an outcome rests on, if it rests on one.
#[must_use]
pub fn rests_on(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Done(Done::Recorded { digest, .. }) => digest.as_deref(),
        Outcome::Done(Done::Attached { digest, .. }) => Some(digest),
        Outcome::Done(Done::Restored { account, .. }) => Some(account),
        Outcome::Done(Done::Plain | Done::Settled(_) | Done::Cleaned { .. } | Done::Restarted { .. })
        | Outcome::Failed(_) => None,
    }
}

/// The end of an attempt whose evidence is not taken.
#[must_use]
pub fn refused(host: &HostName, why: &str) -> Outcome {
    let text = format!("what the agent of {host} tells is not taken: {why}");
    Outcome::Failed(Failure::lasting(Code::EvidenceRefused, text))
}

/// Looks whether a document is the one that the outcome rests on, and is about what was ordered.
///
/// # Errors
/// What is wrong with it.
pub(super) fn examine(whose: Whose<'_>, outcome: &Outcome, packed: &Packed) -> Result<(), String> {
    let expected = rests_on(outcome).unwrap_or_default();
    if packed.digest != expected {
        return Err(format!(
            "the document with it is {}, and it names {expected}",
            packed.digest
        ));
    }
    match outcome {
        Outcome::Done(Done::Recorded { order, one_by_one, .. }) => {
            record(whose, &unpacked(packed)?, order, *one_by_one)
        }
        Outcome::Done(Done::Attached { parts, rows, .. }) => manifest(whose, &unpacked(packed)?, *parts, *rows),
        Outcome::Done(Done::Restored { counts, .. }) => account(whose, &unpacked(packed)?, *counts),
        Outcome::Done(Done::Plain | Done::Settled(_) | Done::Cleaned { .. } | Done::Restarted { .. })
        | Outcome::Failed(_) => Ok(()),
    }
}

fn unpacked<T: serde::de::DeserializeOwned>(packed: &Packed) -> Result<T, String> {
    document::unpack(&packed.bytes, Some(&packed.digest))
        .map_err(|e| format!("the document with it is not acceptable: {e}"))
}

/// As much of a part set of record as tells whose it is.
#[derive(Deserialize)]
struct Record {
    migration: MigrationName,
    attempt: u64,
    snapshot: Snapshot,
    union: Union,
}

#[derive(Deserialize)]
struct Snapshot {
    place: Place,
    path: ZkPath,
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    name: String,
}

#[derive(Deserialize)]
struct Union {
    order: Vec<String>,
    shares: Vec<Share>,
}

#[derive(Deserialize)]
struct Share {
    parts: Vec<(IgnoredAny, Judged)>,
}

#[derive(Deserialize)]
struct Judged {
    verdict: Verdict,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Covered,
    Bring,
    Dropped,
}

fn record(whose: Whose<'_>, found: &Record, order: &[String], one_by_one: bool) -> Result<(), String> {
    let Subject::Set { place, path, replicas } = whose.subject else {
        return Err("a part set of record comes of no such step".to_owned());
    };
    let snapshot = &found.snapshot;
    let is_it = found.migration == *whose.migration
        && found.attempt == whose.attempt
        && snapshot.place == *place
        && snapshot.path == *path;
    if !is_it {
        return Err(format!(
            "the part set of record with it is that of {} at {}, attempt {} of migration {}",
            snapshot.path, snapshot.place, found.attempt, found.migration
        ));
    }
    let names: HashSet<&str> = snapshot.replicas.iter().map(|replica| replica.name.as_str()).collect();
    if let Some(missing) = replicas.iter().find(|name| !names.contains(name.as_str())) {
        return Err(format!(
            "the part set of record with it does not have replica {missing}"
        ));
    }
    let mut judged = found.union.shares.iter().flat_map(|share| &share.parts);
    let brings = judged.any(|(_, judged)| judged.verdict == Verdict::Bring);
    if found.union.order != order || brings != one_by_one {
        return Err("the part set of record with it is restored in another order".to_owned());
    }
    Ok(())
}

/// As much of a manifest as tells whose it is.
#[derive(Deserialize)]
struct Manifest {
    migration: MigrationName,
    host: HostName,
    table: TableName,
    uuid: String,
    replica_name: String,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    rows: u64,
}

fn manifest(whose: Whose<'_>, found: &Manifest, parts: u64, rows: u64) -> Result<(), String> {
    let Subject::Table {
        name,
        uuid,
        replica_name,
        ..
    } = whose.subject
    else {
        return Err("a manifest comes of no such step".to_owned());
    };
    let is_it = found.migration == *whose.migration
        && found.host == *whose.host
        && (&found.table, &found.uuid, &found.replica_name) == (name, uuid, replica_name);
    if !is_it {
        return Err(format!(
            "the manifest with it is that of {} ({}, replica {}) on {} in migration {}",
            found.table, found.uuid, found.replica_name, found.host, found.migration
        ));
    }
    let of_rows = found
        .parts
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(part.rows));
    if (found.parts.len() as u64, of_rows) != (parts, rows) {
        return Err(format!(
            "it tells of {parts} parts with {rows} rows, and the manifest with it has {} with {of_rows}",
            found.parts.len()
        ));
    }
    Ok(())
}

/// As much of an account as tells whose it is, and how many parts have which fate.
#[derive(Deserialize)]
struct RestoreAccount {
    migration: MigrationName,
    host: HostName,
    manifest: String,
    account: Account,
    attached_again: Vec<IgnoredAny>,
    #[serde(default)]
    unclear: Vec<IgnoredAny>,
    #[serde(default)]
    set_aside: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Account {
    fates: Vec<(IgnoredAny, Told)>,
}

#[derive(Deserialize)]
struct Told {
    fate: Fate,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Fate {
    Empty,
    Active,
    Covered,
    Merged,
    Dropped,
    Gone,
    Detached,
    Missing,
}

fn account(whose: Whose<'_>, found: &RestoreAccount, counts: Restored) -> Result<(), String> {
    let Subject::Table {
        manifest: Some((digest, parts)),
        ..
    } = whose.subject
    else {
        return Err("an account comes of no such step".to_owned());
    };
    let is_it = found.migration == *whose.migration && found.host == *whose.host && found.manifest == *digest;
    if !is_it {
        return Err(format!(
            "the account with it is that of the manifest {} on {} in migration {}",
            found.manifest, found.host, found.migration
        ));
    }
    let fates = &found.account.fates;
    let count = |wanted: &[Fate]| fates.iter().filter(|(_, told)| wanted.contains(&told.fate)).count() as u64;
    let (again, unclear) = (found.attached_again.len() as u64, found.unclear.len() as u64);
    let told = Restored {
        active: count(&[Fate::Active]).saturating_sub(again + unclear),
        attached_again: again,
        unclear,
        covered: count(&[Fate::Covered]),
        merged: count(&[Fate::Merged]),
        dropped: count(&[Fate::Dropped, Fate::Gone]),
        empty: count(&[Fate::Empty]),
        set_aside: found.set_aside.len() as u64,
    };
    let open = count(&[Fate::Detached, Fate::Missing]);
    if told != counts || open > 0 || fates.len() as u64 != *parts {
        return Err(format!(
            "the account with it has {} parts, {open} of them open, and not the counts that it tells; the manifest has {parts}",
            fates.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
