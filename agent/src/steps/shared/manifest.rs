//! A table replica's own manifest: written once, at the agent and at the coordinator, so that one copy makes up for the
//! other. Which one is the right one is told by the digest alone, never by what the disk holds now.

use std::collections::{HashMap, HashSet};

use rekeeper_shared::domain::document::{Manifest, Packed, unpack};
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::domain::step::{Failure, TableRef};

use crate::state::StateError;
use crate::steps::{Context, failed, state_failed};
use crate::words::{in_full, some_of};

/// A manifest, packed and not.
pub(in crate::steps) struct Known {
    pub(in crate::steps) packed: Packed,
    pub(in crate::steps) manifest: Manifest,
}

/// The manifest that the coordinator has on record, from the agent's state folder. If that has lost it or holds another
/// one, it is put back from the copy that came with the command: RESTORE may have begun, so none can be made.
pub(in crate::steps) fn on_record(context: &Context, table: &TableRef, expected: &Packed) -> Result<Known, Failure> {
    let (state, migration) = (&context.state, &context.migration);
    let file = state.manifest_file(migration, table);
    let why = match state.manifest(migration, table) {
        Ok(Some(packed)) if packed.digest == expected.digest => return known(packed),
        Ok(Some(packed)) => format!(
            "{} holds the manifest {}, and {} is on record",
            file.display(),
            packed.digest,
            expected.digest
        ),
        Ok(None) => format!(
            "{} is lost, which held the manifest {}",
            file.display(),
            expected.digest
        ),
        Err(error @ StateError::Damaged(..)) => in_full(&error),
        Err(error) => return Err(state_failed(Code::ManifestLost)(error)),
    };
    let copy = copy_of(context, table, expected).map_err(|worse| lost(context, table, &format!("{why}; {worse}")))?;
    state
        .replace_manifest(migration, table, &copy.packed)
        .map_err(state_failed(Code::ManifestLost))?;
    tracing::warn!(%migration, table = %table.name, reason = why, "manifest put back from the coordinator's copy");
    Ok(copy)
}

/// The coordinator's copy, if it is what it says and this table's.
fn copy_of(context: &Context, table: &TableRef, expected: &Packed) -> Result<Known, String> {
    if expected.bytes.is_empty() {
        return Err("the coordinator has lost its copy, too".to_owned());
    }
    let manifest: Manifest = unpack(&expected.bytes, Some(&expected.digest))
        .map_err(|e| format!("and of the coordinator's copy: {}", in_full(&e)))?;
    let is_it = manifest.migration == context.migration
        && manifest.host == context.host
        && manifest.uuid == table.uuid
        && manifest.table == table.name;
    if !is_it {
        return Err(format!(
            "the coordinator's copy is that of {} on {}",
            manifest.table, manifest.host
        ));
    }
    Ok(Known {
        packed: expected.clone(),
        manifest,
    })
}

fn known(packed: Packed) -> Result<Known, Failure> {
    let manifest = unpack(&packed.bytes, None);
    let manifest = manifest.map_err(|e| Failure::lasting(Code::ManifestLost, in_full(&e)))?;
    Ok(Known { packed, manifest })
}

fn lost(context: &Context, table: &TableRef, why: &str) -> Failure {
    let file = context.state.manifest_file(&context.migration, table);
    let mut problem = Problem::new(
        Code::ManifestLost,
        format!("the manifest of {} is lost: {why}", table.name),
    );
    problem.fix = format!(
        "on this host put {} back from a backup of the agent's state_dir, or put the document back into the \
         coordinator's store (docs/runbook.md, STORED_DOCUMENT_LOST); then rekeeper retry {}; RESTORE may have begun, so \
         none is made anew",
        file.display(),
        context.migration
    );
    Failure { problem, retry: false }
}

/// The manifest that an earlier attempt wrote and of which the coordinator was not told, so that it cannot have
/// commanded RESTORE. One that is damaged is set aside: another can be made.
pub(in crate::steps) fn not_on_record(context: &Context, table: &TableRef) -> Result<Option<Known>, Failure> {
    let (state, migration) = (&context.state, &context.migration);
    match state.manifest(migration, table) {
        Ok(found) => found.map(known).transpose(),
        Err(StateError::Damaged(file, why)) => {
            tracing::warn!(%migration, table = %table.name, file = %file.display(), reason = why, "manifest set aside");
            state
                .set_manifest_aside(migration, table)
                .map_err(state_failed(Code::ManifestLost))?;
            Ok(None)
        }
        Err(error) => Err(state_failed(Code::ManifestLost)(error)),
    }
}

/// A manifest that nobody else has a digest of is that of the table which is there: its parts are active, or lie in
/// `detached/` since somebody's RESTORE was cut, and no other is there.
pub(in crate::steps) async fn check_against_disk(
    context: &Context,
    table: &TableRef,
    known: &Known,
) -> Result<(), Failure> {
    let (clickhouse, name) = (&context.clickhouse, &table.name);
    let detached = clickhouse.detached_parts(name).await;
    let detached = detached.map_err(failed(Code::AttachFailed))?;
    let active = clickhouse.active_parts(name).await;
    let active = active.map_err(failed(Code::AttachFailed))?;
    let detached: HashSet<String> = detached.into_iter().map(|part| part.name).collect();
    let others = differences(&known.manifest, &active, &detached);
    if others.is_empty() {
        return Ok(());
    }
    let file = context.state.manifest_file(&context.migration, table);
    let file = file.display();
    let mut problem = Problem::new(
        Code::ManifestLost,
        format!(
            "{file} is not the manifest of {name} as it is on the disk: {} of its parts differ ({}); nothing was restored",
            others.len(),
            some_of(&others)
        ),
    );
    problem.fix = format!(
        "look whether those parts are whole (system.parts, detached/); then on this host: mv '{file}' '{file}.old'; then \
         rekeeper retry {}, which writes it anew",
        context.migration
    );
    Err(Failure { problem, retry: false })
}

/// The parts that are active and not on the manifest like this, or on it and neither active nor moved to `detached/`.
fn differences(manifest: &Manifest, active: &[ActivePart], detached: &HashSet<String>) -> Vec<String> {
    let on_it: HashMap<&str, &ActivePart> = manifest.parts.iter().map(|part| (part.name.as_str(), part)).collect();
    let is_active: HashSet<&str> = active.iter().map(|part| part.name.as_str()).collect();
    let others = active.iter().filter(|part| on_it.get(part.name.as_str()) != Some(part));
    let was_there = |name: &String| manifest.detached_before.contains(name);
    let moved = |name: &String| detached.contains(name) && !was_there(name);
    let parts = manifest.parts.iter();
    let gone = parts.filter(|part| !is_active.contains(part.name.as_str()) && !moved(&part.name));
    others.chain(gone).map(|part| part.name.clone()).collect()
}
