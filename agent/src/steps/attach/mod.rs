//! Attach: the table is there again, read-only, and what it holds is written down before anything can change it.

mod by_hand;

use rekeeper_shared::domain::document::{Manifest, Packed, PartSetOfRecord, ReplicaSnapshot, pack, unpack};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, TableRef, Witness};

use crate::steps::shared::attested::is_attested;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::shared::look::{Found, look, look_in_turn};
use crate::steps::shared::manifest::{Known, check_against_disk, not_on_record, on_record};
use crate::steps::shared::owners::at_path;
use crate::steps::shared::read_only::{attach_statement, metadata_is_missing, stop_merges, until_without_metadata};
use crate::steps::shared::recorded::{Recorded, until_as_recorded};
use crate::steps::shared::wait::until_alone;
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
    let mut owners = Vec::new();
    let seen = match existing {
        Some(known) => Seen::Manifest {
            known,
            is_on_record: manifest.is_some(),
        },
        None => {
            context.zookeeper.check_witness(witness).await?;
            owners = at_path(context, witness, Some(table)).await?;
            Seen::Nothing {
                is_restored: owners.iter().any(|owner| owner.replica == table.replica_name),
                others_are: !owners.is_empty(),
                goes_first: record.union.order.first() == Some(&table.replica_name),
            }
        }
    };
    let way = way(seen).map_err(|NotFirst| by_hand::not_first(table, &owners))?;
    if let Found::Detached { .. } = found {
        attach_statement(context, table).await?;
    }
    stop_merges(context, table).await?;
    drop(turn);
    let known = match way {
        Way::Keep(known) => known,
        Way::Compare(known) => {
            if let Found::Attached(replica) = look(context, table, Code::AttachFailed).await?
                && replica.readonly
            {
                check_against_disk(context, table, &known).await?;
            }
            known
        }
        Way::ByHand => {
            let manifest = by_hand::manifest(context, table, &record, &replica).await?;
            write_manifest(context, table, manifest)?
        }
        Way::New => {
            until_without_metadata(context, table).await?;
            let note = context.state.restore_note(&context.migration, table);
            let missing = note.map_err(state_failed(Code::AttachFailed))?.missing;
            until_as_recorded(context, table, Recorded::of_replica(&replica, &missing, is_attested)).await?;
            let manifest = manifest_of(context, table, record.snapshot.version).await?;
            write_manifest(context, table, manifest)?
        }
    };
    Ok(finished(known))
}

/// What there is of a table that is to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen<K> {
    /// A manifest: the table was attached by an earlier attempt, which proved the place, and its restore may have begun.
    Manifest {
        known: K,
        /// The coordinator was told of it.
        is_on_record: bool,
    },
    /// No manifest; at its path may be what somebody has restored by hand meanwhile.
    Nothing {
        /// This very replica.
        is_restored: bool,
        /// This one, or others of the set.
        others_are: bool,
        /// It is to be restored before the others.
        goes_first: bool,
    },
}

/// How its manifest is come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way<K> {
    /// It is the one that is there.
    Keep(K),
    /// The same, if it is that of the disk: nobody else has a digest of it.
    Compare(K),
    /// It is made of the record, since somebody has restored the table.
    ByHand,
    /// It is made of what the table holds, without metadata.
    New,
}

/// Others were restored before the replica that was to be first.
#[derive(Debug, PartialEq, Eq)]
struct NotFirst;

fn way<K>(seen: Seen<K>) -> Result<Way<K>, NotFirst> {
    match seen {
        Seen::Manifest {
            known,
            is_on_record: true,
        } => Ok(Way::Keep(known)),
        Seen::Manifest {
            known,
            is_on_record: false,
        } => Ok(Way::Compare(known)),
        Seen::Nothing { is_restored: true, .. } => Ok(Way::ByHand),
        Seen::Nothing {
            is_restored: false,
            others_are: true,
            goes_first: true,
        } => Err(NotFirst),
        Seen::Nothing { is_restored: false, .. } => Ok(Way::New),
    }
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

/// The record, and this replica in it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_kept_compared_or_made() {
        let with = |is_on_record| way(Seen::Manifest { known: 1, is_on_record });
        assert_eq!(with(true), Ok(Way::Keep(1)));
        assert_eq!(with(false), Ok(Way::Compare(1)));
        let without = |is_restored, others_are, goes_first| {
            way(Seen::<u8>::Nothing {
                is_restored,
                others_are,
                goes_first,
            })
        };
        for goes_first in [true, false] {
            assert_eq!(without(false, false, goes_first), Ok(Way::New));
            assert_eq!(without(true, true, goes_first), Ok(Way::ByHand));
        }
        assert_eq!(without(false, true, false), Ok(Way::New));
        assert_eq!(without(false, true, true), Err(NotFirst));
    }
}
