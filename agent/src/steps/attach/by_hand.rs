//! Tables that somebody has restored by hand before there was a manifest of them: who gave a migration up half-way and
//! finished without it.
//!
//! What ZooKeeper had of the replica before its nodes were deleted tells whether all of it is there. RESTORE gives parts
//! other names and does not change their content, so every part on record has to be found by its hash, active, or merged
//! since and still known. The manifest is then made of the record, and the restore accounts for it as for any other.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::rules::settle::uncovered;
use rekeeper_shared::domain::document::{Manifest, ManifestPart, PartSetOfRecord, ReplicaSnapshot};
use rekeeper_shared::domain::ids::quote_literal;
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};

use crate::clickhouse::Part;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::shared::wait::PATIENCE;
use crate::steps::shared::wait::until_in_service;
use crate::steps::{Context, failed, state_failed};
use crate::words::some_of;
use crate::zookeeper::Owner;

/// The replica that is to be first must not become a follower of one that somebody has restored before it, of which it
/// is not known what it had.
pub(super) fn not_first(table: &TableRef, owners: &[Owner]) -> Failure {
    let name = table.name.sql();
    let who: Vec<&str> = owners.iter().map(|owner| owner.replica.as_str()).collect();
    let text = format!(
        "{} was to be restored first, and somebody has restored replica {} before it",
        table.name,
        who.join(", ")
    );
    let fix = format!(
        "restore this one by hand as well: ATTACH TABLE {name}; SYSTEM RESTORE REPLICA {name}; SYSTEM STOP MERGES {name}; then \
         retry, which looks whether every part is there"
    );
    Failure::lasting(Code::AttachFailed, text).with_fix(fix)
}

/// The manifest of a table that somebody has restored.
pub(super) async fn manifest(
    context: &Context,
    table: &TableRef,
    record: &PartSetOfRecord,
    replica: &ReplicaSnapshot,
) -> Result<Manifest, Failure> {
    let in_service = until_in_service(context, table, PATIENCE, Code::AttachFailed).await?;
    in_service.map_err(|state| {
        let text = format!("{} was restored by somebody and is not in service: {state}", table.name);
        Failure::passing(Code::AttachFailed, text)
    })?;
    let clickhouse = &context.clickhouse;
    let lists = tokio::try_join!(clickhouse.parts(&table.name), clickhouse.detached_parts(&table.name));
    let (parts, detached) = lists.map_err(failed(Code::AttachFailed))?;
    let union = &record.union;
    let differs = union
        .share(&table.replica_name)
        .is_some_and(|share| !share.parts.is_empty());
    let (found, open) = by_content(replica, &parts);
    if !open.is_empty() || differs || union.brings() {
        return Err(unproved(context, table, &open));
    }
    let folders = found.iter().map(|(part, at)| (part.name.clone(), at.folder.clone()));
    let digests = digests_of_checksums(folders.collect()).await;
    let settings = clickhouse.settings(&table.name).await;
    let settings = settings.map_err(failed(Code::AttachFailed))?;
    let note = context.state.restore_note(&context.migration, table);
    let mut note = note.map_err(state_failed(Code::AttachFailed))?;
    (note.by_hand, note.sent) = (true, true);
    let noted = context.state.write_restore_note(&context.migration, table, &note);
    noted.map_err(state_failed(Code::AttachFailed))?;
    tracing::warn!(table = %table.name, "somebody has restored it by hand: every part on record is there");
    Ok(Manifest {
        migration: context.migration.clone(),
        host: context.host.clone(),
        table: table.name.clone(),
        uuid: table.uuid.clone(),
        replica_name: table.replica_name.clone(),
        parts: found.into_iter().map(|(part, _)| part).collect(),
        // Nothing that lies there is missing, so nothing of it is attached.
        detached_before: detached.into_iter().map(|part| part.name).collect(),
        checksums: digests,
        outdated: BTreeMap::new(), // RESTORE has run already
        settings,
        version: record.snapshot.version,
    })
}

/// The parts on record as a manifest would have had them, each with the part that has its content now; and those that no
/// part has. Of equal parts each needs its own.
fn by_content<'a>(replica: &ReplicaSnapshot, parts: &'a [Part]) -> (Vec<(ManifestPart, &'a Part)>, Vec<String>) {
    let mut there: HashMap<(String, String), VecDeque<&Part>> = HashMap::new();
    for active in [true, false] {
        for found in parts.iter().filter(|found| found.active == active) {
            let key = (found.part.partition_id.clone(), found.part.hash.clone());
            there.entry(key).or_default().push_back(found);
        }
    }
    let (mut known, mut open) = (Vec::new(), Vec::new());
    for node in uncovered(&replica.parts) {
        let partition = PartName::parse(&node.name).map(|name| name.partition);
        let key = partition.zip(node.hash.clone());
        match key.and_then(|key| there.get_mut(&key)?.pop_front()) {
            Some(found) => {
                let part = ManifestPart {
                    name: node.name.clone(),
                    ..found.part.clone()
                };
                known.push((part, found));
            }
            None => open.push(format!(
                "{} (hash_of_all_files {})",
                node.name,
                node.hash.as_deref().unwrap_or("not on record")
            )),
        }
    }
    known.sort_by(|(one, _), (other, _)| one.cmp(other));
    (known, open)
}

fn unproved(context: &Context, table: &TableRef, open: &[String]) -> Failure {
    let (name, migration) = (table.name.sql(), &context.migration);
    let why = if open.is_empty() {
        "the replicas did not have the same parts when their nodes were deleted".to_owned()
    } else {
        format!(
            "of what is on record of it no part has the content of {}",
            some_of(open)
        )
    };
    let text = format!(
        "{} was restored by somebody before its manifest was written, and that nothing is missing is not proved: {why}",
        table.name
    );
    let fix = format!(
        "compare with the other replicas: SELECT count() FROM {name}; SELECT name, rows, hash_of_all_files FROM system.parts \
         WHERE database = {database} AND table = {of} ORDER BY name; SELECT name FROM system.detached_parts WHERE database = \
         {database} AND table = {of}; if rows are missing and the part is in detached/: ALTER TABLE {name} ATTACH PART 'its name' SETTINGS insert_deduplicate = 0; \
         then rekeeper retry {migration}; if you know that none is missing: SYSTEM START MERGES {name}, and rekeeper skip \
         {migration} --host {host} ends the migration for this host",
        database = quote_literal(&table.name.database),
        of = quote_literal(&table.name.table),
        host = context.host,
    );
    Failure::lasting(Code::PartsUnaccounted, text).with_fix(fix)
}
