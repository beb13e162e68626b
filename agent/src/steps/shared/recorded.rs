//! What a table holds is what is on record of it, no more and no less: seen before anything is restored.
//!
//! While a server is restarted, parts vanish or break. And where it finds no metadata it takes every folder for a part,
//! also those that ZooKeeper never had or has not any more: of an INSERT whose commit was lost (the client sends it again,
//! and its rows would be there twice), of a DROP PARTITION whose files were still there. With metadata ClickHouse sets
//! such parts aside as `detached/ignored_<part>`, unless they hold more than half of the rows, and so does this.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use crate::rules::settle::uncovered;
use rekeeper_shared::domain::document::{Manifest, ReplicaSnapshot};
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};

use super::folders::{free_aside, set_aside};
use super::read_only::attach_anew;
use crate::clickhouse::Statement;
use crate::steps::{Context, failed, state_failed};
use crate::words::some_of;

/// How often a table is attached anew in one attempt.
const ROUNDS: u32 = 4;

/// What is on record of a table.
pub(in crate::steps) struct Recorded {
    /// Parts that have to be active, each with its `hash_of_all_files`, where that is known.
    active: BTreeMap<String, Option<String>>,
    /// Parts that may be on the disk as well: outdated ones.
    outdated: BTreeSet<String>,
    /// Parts that count only with that hash.
    verified: BTreeSet<String>,
    /// This agent has found itself that it is so: what is not on record is set aside on no other word.
    is_attested: bool,
}

impl Recorded {
    /// What ZooKeeper had of a replica. Hashes are compared for parts that were missing before, and brought back.
    pub(in crate::steps) fn of_replica(
        replica: &ReplicaSnapshot,
        missing_before: &BTreeSet<String>,
        is_attested: bool,
    ) -> Self {
        let active = uncovered(&replica.parts).into_iter();
        Self {
            active: active.map(|part| (part.name.clone(), part.hash.clone())).collect(),
            outdated: replica.parts.iter().map(|part| part.name.clone()).collect(),
            verified: missing_before.clone(),
            is_attested,
        }
    }

    /// What was written down when it was attached.
    pub(in crate::steps) fn of_manifest(manifest: &Manifest) -> Self {
        let parts = || manifest.parts.iter();
        Self {
            active: parts()
                .map(|part| (part.name.clone(), Some(part.hash.clone())))
                .collect(),
            outdated: BTreeSet::new(),
            verified: parts().map(|part| part.name.clone()).collect(),
            // It was written by this agent.
            is_attested: true,
        }
    }

    fn is_known(&self, part: &str) -> bool {
        self.active.contains_key(part) || self.outdated.contains(part)
    }

    /// The parts that have to be active and are not, or are others.
    fn open(&self, active: &[ActivePart]) -> Vec<String> {
        let hashes: HashMap<&str, &str> = active.iter().map(|part| (&*part.name, &*part.hash)).collect();
        let is_open = |(name, hash): &(&String, &Option<String>)| match (hashes.get(name.as_str()), hash) {
            (None, _) => true,
            (Some(found), Some(hash)) => *found != hash && self.verified.contains(*name),
            (Some(_), None) => false,
        };
        let open = self.active.iter().filter(is_open);
        open.map(|(name, _)| name.clone()).collect()
    }
}

/// Makes sure that the attached table, read-only without metadata, holds what is on record. Parts that are not are set
/// aside; for parts that are missing it is attached anew once, since a server sees a folder that somebody has brought back
/// only when it loads the table.
///
/// # Errors
/// RECORDED_PARTS_MISSING, PARTS_NOT_ON_RECORD, ATTACH_FAILED.
pub(in crate::steps) async fn until_as_recorded(
    context: &Context,
    table: &TableRef,
    mut recorded: Recorded,
) -> Result<(), Failure> {
    let mut was_anew = false;
    for _ in 0..ROUNDS {
        let active = context.clickhouse.active_parts(&table.name).await;
        let active = active.map_err(failed(Code::AttachFailed))?;
        let others: Vec<&ActivePart> = active.iter().filter(|part| !recorded.is_known(&part.name)).collect();
        if !others.is_empty() {
            set_others_aside(context, table, &active, &others, recorded.is_attested).await?;
            continue;
        }
        let open = recorded.open(&active);
        if open.is_empty() {
            return Ok(());
        }
        recorded.verified.extend(open.iter().cloned());
        note_missing(context, table, &open)?;
        if was_anew {
            return Err(parts_missing(context, table, &recorded, &open).await);
        }
        attach_anew(context, table).await?;
        was_anew = true;
    }
    Err(Failure::lasting(
        Code::AttachFailed,
        format!(
            "{} shows other parts each time when it is attached: does somebody change its folder?",
            table.name
        ),
    ))
}

/// What is brought back under their names has to be those parts, also for the next attempt.
fn note_missing(context: &Context, table: &TableRef, parts: &[String]) -> Result<(), Failure> {
    let (state, migration) = (&context.state, &context.migration);
    let note = state.restore_note(migration, table);
    let mut note = note.map_err(state_failed(Code::AttachFailed))?;
    note.missing.extend(parts.iter().cloned());
    let written = state.write_restore_note(migration, table, &note);
    written.map_err(state_failed(Code::AttachFailed))
}

async fn set_others_aside(
    context: &Context,
    table: &TableRef,
    active: &[ActivePart],
    others: &[&ActivePart],
    is_attested: bool,
) -> Result<(), Failure> {
    let rows = |parts: &mut dyn Iterator<Item = u64>| parts.sum::<u64>();
    let (all, of_others) = (
        rows(&mut active.iter().map(|part| part.rows)),
        rows(&mut others.iter().map(|part| part.rows)),
    );
    let names: Vec<String> = others.iter().map(|part| part.name.clone()).collect();
    let folders = context.clickhouse.part_folders(&table.name).await;
    let (mut folders, _) = folders.map_err(failed(Code::AttachFailed))?;
    folders.retain(|(name, _)| names.contains(name));
    may_be_set_aside(of_others, all, is_attested).map_err(|why| not_on_record(context, table, &folders, &why))?;
    tracing::warn!(table = %table.name, parts = some_of(&names), "parts that are not on record are set aside");
    context.doing(format!(
        "sets {} parts of {} aside that are not on record",
        names.len(),
        table.name
    ));
    note_set_aside(context, table, &folders)?;
    let detached = context.clickhouse.execute(Statement::DetachPermanently(&table.name));
    detached.await.map_err(failed(Code::AttachFailed))?;
    let moved = folders.iter().try_for_each(|(name, folder)| set_aside(name, folder));
    attach_anew(context, table).await?;
    moved.map_err(|(_, error)| {
        let why = format!("cannot be moved by the agent ({error})");
        not_on_record(context, table, &folders, &why)
    })
}

/// Whether parts that are not on record are set aside, or why not: rows of them, of all that the table holds.
fn may_be_set_aside(of_others: u64, all: u64, is_attested: bool) -> Result<(), String> {
    if of_others.saturating_mul(2) > all {
        return Err(format!("hold {of_others} of its {all} rows"));
    }
    // What DROP PARTITION leaves is empty, and nobody's loss.
    if !is_attested && of_others > 0 {
        let why = "may be on record all the same: the agent has lost its note of what it has attested";
        return Err(why.to_owned());
    }
    Ok(())
}

/// They lie in `detached/` from now on like what was there before, and are told apart from it by this.
fn note_set_aside(context: &Context, table: &TableRef, folders: &[(String, PathBuf)]) -> Result<(), Failure> {
    let (state, migration) = (&context.state, &context.migration);
    let note = state.restore_note(migration, table);
    let mut note = note.map_err(state_failed(Code::AttachFailed))?;
    let aside = folders.iter().map(|(name, folder)| free_aside(name, folder));
    let names = aside.filter_map(|aside| Some(aside.file_name()?.to_str()?.to_owned()));
    note.set_aside.extend(names);
    let written = state.write_restore_note(migration, table, &note);
    written.map_err(state_failed(Code::AttachFailed))
}

fn not_on_record(context: &Context, table: &TableRef, folders: &[(String, PathBuf)], why: &str) -> Failure {
    let names: Vec<String> = folders.iter().map(|(name, _)| name.clone()).collect();
    let text = format!(
        "{} parts of {} that ZooKeeper did not have for this replica {why}: {}",
        folders.len(),
        table.name,
        some_of(&names)
    );
    let moves = folders.iter().map(|(name, folder)| {
        let to = folder.with_file_name("detached").join(format!("ignored_{name}"));
        format!("mv '{}' '{}'", folder.display(), to.display())
    });
    let fix = format!(
        "look whether their rows are in other parts, or were dropped; then on this host: DETACH TABLE {name} PERMANENTLY \
         SYNC; {}; ATTACH TABLE {name}; SYSTEM STOP MERGES {name}; rekeeper retry {}; rows of theirs that are missed can \
         be attached again when the table is RESTORED",
        moves.collect::<Vec<_>>().join("; "),
        context.migration,
        name = table.name.sql(),
    );
    Failure::lasting(Code::PartsNotOnRecord, text).with_fix(fix)
}

/// What a person can do about parts that are not on the disk of this replica.
async fn parts_missing(context: &Context, table: &TableRef, recorded: &Recorded, missing: &[String]) -> Failure {
    let name = &table.name;
    let with_hash = |part: &String| match recorded.active.get(part) {
        Some(Some(hash)) => format!("{part} (hash_of_all_files {hash})"),
        Some(None) | None => part.clone(),
    };
    let parts: Vec<String> = missing.iter().map(with_hash).collect();
    let mut text = format!(
        "{} parts of {name}, which are on record for this replica, are not active, or others are in their places: {}",
        missing.len(),
        some_of(&parts)
    );
    // What cannot be asked now is left out.
    let detached = context.clickhouse.detached_parts(name).await.unwrap_or_default();
    let is_copy = |folder: &String| {
        let is_of = |part: &String| {
            folder
                .strip_suffix(part.as_str())
                .is_some_and(|before| before.ends_with('_'))
        };
        !folder.starts_with("rekeeper-") && missing.iter().any(is_of)
    };
    let copies: Vec<String> = detached.into_iter().map(|folder| folder.name).filter(is_copy).collect();
    if !copies.is_empty() {
        text.push_str(&format!("; detached/ holds {}", some_of(&copies)));
    }
    let folders = context.clickhouse.data_folders(name).await.unwrap_or_default();
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let fix = format!(
        "see the server's log for why; bring the folders of these parts back into {}, owned by the server's user: from \
         detached/ if one is whole there, or, but for disks on object storage, from the table's folder on another replica \
         whose system.parts has the part with this very hash_of_all_files; then rekeeper retry {}, which attaches the \
         table anew, and takes no other part for it",
        folders.join(" or "),
        context.migration
    );
    Failure::lasting(Code::RecordedPartsMissing, text).with_fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_not_on_record_go_when_they_are_few_and_the_record_is_attested() {
        let is_refused = |of_others, all, is_attested| may_be_set_aside(of_others, all, is_attested).is_err();
        assert!(!is_refused(50, 100, true));
        assert!(is_refused(51, 100, true));
        assert!(is_refused(1, 100, false));
        for is_attested in [true, false] {
            assert!(!is_refused(0, 100, is_attested));
            assert!(!is_refused(0, 0, is_attested));
            assert!(is_refused(100, 100, is_attested));
        }
    }

    #[test]
    fn a_part_is_open_when_it_is_missing_or_another_where_that_counts() {
        let part = |name: &str, hash: &str| ActivePart {
            name: name.to_owned(),
            partition_id: "all".into(),
            rows: 1,
            hash: hash.to_owned(),
        };
        let [missing, verified, not_told] = ["all_0_0_0", "all_1_1_0", "all_2_2_0"].map(str::to_owned);
        let mut recorded = Recorded {
            active: BTreeMap::from([
                (missing.clone(), Some("a".to_owned())),
                (verified.clone(), Some("b".to_owned())),
                (not_told.clone(), None),
            ]),
            outdated: BTreeSet::new(),
            verified: BTreeSet::new(),
            is_attested: true,
        };
        let found = [part(&verified, "other"), part(&not_told, "c")];
        assert_eq!(recorded.open(&found), ["all_0_0_0"]);
        recorded.verified.insert(verified.clone());
        assert_eq!(recorded.open(&found), ["all_0_0_0", "all_1_1_0"]);
    }
}
