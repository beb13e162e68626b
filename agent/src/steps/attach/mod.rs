//! Attach: the table is there again, read-only, and what it holds is written down before anything can change it.

mod by_hand;

use std::time::Duration;

use rekeeper_shared::document::{Manifest, Packed, PartSetOfRecord, ReplicaSnapshot, pack, unpack};
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Done, Failure, TableRef, Witness};
use tokio::time::Instant;

use crate::steps::shared::attested::is_attested;

use crate::clickhouse::{Class, Replica, Statement, code};
use crate::clock::Moment;
use crate::state::StateError;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::shared::look::{Found, look, look_in_turn};
use crate::steps::shared::manifest::{Known, check_against_disk, not_on_record, on_record};
use crate::steps::shared::owners::at_path;
use crate::steps::shared::read_only::{attach_statement, metadata_is_missing, stop_merges, until_without_metadata};
use crate::steps::shared::recorded::{Recorded, until_as_recorded};
use crate::steps::shared::wait::{polls, until_alone};
use crate::steps::{Context, Finished, StepResult, failed, state_failed};

/// Attaches a table whose metadata was deleted, stops its merges and writes its manifest; a manifest that exists is used
/// as it is, and `manifest` is the one that the coordinator has on record.
///
/// # Errors
/// WITNESS_FAILED, PLACE_DIFFERS, PATH_EXISTS, ATTACH_FAILED, RECORD_DISPUTED, RECORDED_PARTS_MISSING, PARTS_NOT_ON_RECORD,
/// MANIFEST_LOST, TABLE_CHANGED, STORED_DOCUMENT_LOST.
pub async fn attach(
    context: &Context,
    table: &TableRef,
    witness: &Witness,
    record: &Packed,
    manifest: Option<&Packed>,
) -> StepResult {
    let is_attested = is_attested(context, table, record)?;
    let (record, replica) = recorded_replica(table, record)?;
    until_alone(context, table, Code::AttachFailed).await?;
    let existing = match manifest {
        Some(expected) => Some(on_record(context, table, expected)?),
        None => not_on_record(context, table)?,
    };
    let (found, turn) = look_in_turn(context, table, Code::AttachFailed).await?;
    let known = match existing {
        // The table was attached by an earlier attempt, and its restore may have begun: the place was proved then.
        Some(known) => {
            if let Found::Detached { .. } = found {
                attach_statement(context, table).await?;
            }
            stop_merges(context, table).await?;
            drop(turn);
            if manifest.is_none()
                && let Found::Attached(replica) = look(context, table, Code::AttachFailed).await?
                && replica.readonly
            {
                check_against_disk(context, table, &known).await?;
            }
            known
        }
        None => {
            context.zookeeper.check_witness(witness).await?;
            // Whom somebody has restored by hand meanwhile.
            let owners = at_path(context, witness, Some(table)).await?;
            let is_restored = owners.iter().any(|owner| owner.replica == table.replica_name);
            if !is_restored {
                by_hand::goes_first(table, &record, &owners)?;
            }
            if let Found::Detached { .. } = found {
                attach_statement(context, table).await?;
            }
            stop_merges(context, table).await?;
            drop(turn);
            if is_restored {
                let manifest = by_hand::manifest(context, table, &record, &replica).await?;
                write_manifest(context, table, manifest)?
            } else {
                until_without_metadata(context, table).await?;
                let note = context.state.restore_note(&context.migration, table);
                let missing = note.map_err(state_failed(Code::AttachFailed))?.missing;
                until_as_recorded(context, table, Recorded::of_replica(&replica, &missing, is_attested)).await?;
                let manifest = manifest_of(context, table, record.snapshot.version).await?;
                write_manifest(context, table, manifest)?
            }
        }
    };
    Ok(finished(known))
}

fn finished(known: Known) -> Finished {
    let done = Done::Attached {
        digest: known.packed.digest.clone(),
        parts: known.manifest.parts.len() as u64,
        rows: known.manifest.rows(),
    };
    Finished {
        done,
        document: Some(known.packed),
    }
}

/// The part set of record, and this replica in it.
fn recorded_replica(table: &TableRef, record: &Packed) -> Result<(PartSetOfRecord, ReplicaSnapshot), Failure> {
    let lost = |text: String| Failure::lasting(Code::StoredDocumentLost, text);
    let record: PartSetOfRecord = unpack(&record.bytes, Some(&record.digest))
        .map_err(|e| lost(format!("the part set of record of {}: {e}", table.path)))?;
    let replicas = record.snapshot.replicas.iter();
    let mut own = replicas.filter(|r| r.name == table.replica_name && record.snapshot.path == table.path);
    match own.next().cloned() {
        Some(replica) => Ok((record, replica)),
        None => Err(lost(format!(
            "the part set of record does not have replica {} of {}",
            table.replica_name, table.path
        ))),
    }
}

/// What the table holds now, while it is read-only without metadata.
async fn manifest_of(context: &Context, table: &TableRef, version: i32) -> Result<Manifest, Failure> {
    let clickhouse = &context.clickhouse;
    let lists = tokio::try_join!(
        clickhouse.active_parts(&table.name),
        clickhouse.detached_parts(&table.name)
    );
    let (parts, detached) = lists.map_err(failed(Code::AttachFailed))?;
    let folders = clickhouse.part_folders(&table.name).await;
    let (active, outdated) = folders.map_err(failed(Code::AttachFailed))?;
    let (checksums, outdated) = (digests_of_checksums(active).await, digests_of_checksums(outdated).await);
    // Nobody changes them while the table is read-only.
    let settings = clickhouse.settings(&table.name).await;
    let settings = settings.map_err(failed(Code::AttachFailed))?;
    // The lists were made by name: it was this table that they are of.
    let Found::Attached(replica) = look(context, table, Code::AttachFailed).await? else {
        return Err(Failure::passing(
            Code::AttachFailed,
            format!("{} was detached", table.name),
        ));
    };
    if !metadata_is_missing(&replica, table) {
        return Err(Failure::passing(
            Code::AttachFailed,
            format!("{} did not stay read-only without metadata", table.name),
        ));
    }
    Ok(Manifest {
        migration: context.migration.clone(),
        host: context.host.clone(),
        table: table.name.clone(),
        uuid: table.uuid.clone(),
        replica_name: table.replica_name.clone(),
        parts,
        detached_before: detached.into_iter().map(|part| part.name).collect(),
        checksums,
        outdated,
        settings,
        version,
    })
}

fn write_manifest(context: &Context, table: &TableRef, manifest: Manifest) -> Result<Known, Failure> {
    context.doing(format!("writes the manifest of {}", table.name));
    let packed = pack(&manifest)
        .map_err(|e| Failure::lasting(Code::AttachFailed, format!("the manifest cannot be packed: {e}")))?;
    let written = context.state.write_manifest(&context.migration, table, &packed);
    written.map_err(state_failed(Code::ManifestLost))?;
    Ok(Known { packed, manifest })
}
