//! Attach: the table is there again, read-only, and what it holds is written down before anything can change it.

pub(super) mod by_hand;

use std::time::Duration;

use rekeeper_shared::document::{Manifest, Packed, PartSetOfRecord, ReplicaSnapshot, pack, unpack};
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Done, Failure, TableRef, Witness};
use tokio::time::Instant;

use crate::steps::attest::is_attested;

use crate::clickhouse::{Class, Replica, Statement, code};
use crate::clock::Moment;
use crate::state::StateError;
use crate::steps::restore::leftovers::digests_of_checksums;
use crate::steps::shared::look::{Found, look, look_in_turn};
use crate::steps::shared::manifest::{Known, check_against_disk, not_on_record, on_record};
use crate::steps::shared::recorded::{Recorded, until_as_recorded};
use crate::steps::shared::wait::{polls, until_alone};
use crate::steps::{Context, Finished, StepResult, failed, state_failed};

/// How long ClickHouse may take to find out that the metadata is missing.
const PATIENCE: Duration = Duration::from_secs(60);

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
            let owners = by_hand::at_path(context, witness, Some(table)).await?;
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

async fn attach_statement(context: &Context, table: &TableRef) -> Result<(), Failure> {
    note_attach(context, table).map_err(state_failed(Code::AttachFailed))?;
    context.doing(format!("attaches {}", table.name));
    match context.clickhouse.execute(Statement::AttachTable(&table.name)).await {
        Ok(()) => Ok(()),
        // Somebody was quicker, or it is not known: what follows finds out.
        Err(error) if error.code() == Some(code::TABLE_ALREADY_EXISTS) || error.class() == Class::Unknown => {
            until_alone(context, table, Code::AttachFailed).await
        }
        Err(error) => Err(failed(Code::AttachFailed)(error)),
    }
}

/// Nobody can have read the table's parts under the names that they have now before it is attached: those that may read
/// them when they get others began after this.
fn note_attach(context: &Context, table: &TableRef) -> Result<(), StateError> {
    let mut note = context.state.restore_note(&context.migration, table)?;
    if note.attached_at.is_none() {
        note.attached_at = Moment::now();
        context.state.write_restore_note(&context.migration, table, &note)?;
    }
    Ok(())
}

async fn stop_merges(context: &Context, table: &TableRef) -> Result<(), Failure> {
    // So that they are stopped again whenever the server is started.
    let held = context.state.hold_merges(&context.migration, table);
    held.map_err(state_failed(Code::AttachFailed))?;
    let statement = Statement::StopMerges(&table.name);
    context
        .clickhouse
        .execute(statement)
        .await
        .map_err(failed(Code::AttachFailed))
}

/// SYSTEM RESTART REPLICA, after which merges are stopped again: it starts them.
pub(super) async fn start_anew(context: &Context, table: &TableRef, code: Code) -> Result<(), Failure> {
    context.doing(format!("starts the replica of {} anew", table.name));
    let statement = Statement::RestartReplica(&table.name);
    context.clickhouse.execute(statement).await.map_err(failed(code))?;
    stop_merges(context, table).await
}

/// Waits until the server has looked for the metadata and not found it. Read-only alone is no proof: a table is so for a
/// moment after every start.
pub(super) async fn until_without_metadata(context: &Context, table: &TableRef) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let (mut polls, mut started_anew) = (polls(), false);
    loop {
        let Found::Attached(replica) = look(context, table, Code::AttachFailed).await? else {
            return Err(Failure::passing(
                Code::AttachFailed,
                format!("{} does not stay attached", table.name),
            ));
        };
        if replica.has_lost_its_session() && !started_anew {
            start_anew(context, table, Code::AttachFailed).await?;
            started_anew = true;
            continue;
        }
        if !replica.readonly {
            return Err(Failure::lasting(
                Code::PathExists,
                format!(
                    "{} came into service: its metadata exists at {}",
                    table.name, replica.path
                ),
            ));
        }
        if metadata_is_missing(&replica, table) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::passing(
                Code::AttachFailed,
                format!(
                    "{} is {}, but the server does not say that its metadata is missing; does the root of its \
                     ZooKeeper configuration exist?",
                    table.name,
                    replica.state()
                ),
            ));
        }
        context.doing(format!("waits until {} is read-only without metadata", table.name));
        tokio::time::sleep(polls.next_delay()).await;
    }
}

/// Measured on 26.9: `Coordination error: No node, path /tables/01/d/t/log`; where another replica is at the path, and this
/// one is not, `Coordination error: No node. (KEEPER_EXCEPTION)`.
fn metadata_is_missing(replica: &Replica, table: &TableRef) -> bool {
    let exception = &replica.zookeeper_exception;
    let is_it = exception.contains(table.path.as_str()) || exception.contains("No node. (");
    replica.readonly && exception.contains("No node") && is_it
}

/// Detaches a table that is read-only without metadata, if it is attached, and attaches it again.
pub(super) async fn attach_anew(context: &Context, table: &TableRef) -> Result<(), Failure> {
    if let Found::Attached(_) = look(context, table, Code::AttachFailed).await? {
        let detached = context.clickhouse.execute(Statement::DetachPermanently(&table.name));
        detached.await.map_err(failed(Code::AttachFailed))?;
    }
    attach_statement(context, table).await?;
    stop_merges(context, table).await?;
    until_without_metadata(context, table).await
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
