//! Record: the set is held, judged again while nobody can change it, and what it says is saved.

use crate::rules::settle::judge;
use crate::rules::union::decide;
use rekeeper_shared::domain::document::{Packed, PartSetOfRecord, pack};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Exported, Failure, SetRef};
use rekeeper_shared::domain::union::Union;
use rekeeper_shared::domain::unsettled::Unsettled;

use super::export::export;
use super::{clean_failed, zookeeper_failed};
use crate::steps::{Context, Finished, StepResult, state_failed};
use crate::words::in_full;
use crate::zookeeper::{CleanError, ZooKeeper};

/// Fences the set for this attempt, saves its record and exports its nodes; a set that is not settled any more, or
/// cannot be recorded, is let go again.
///
/// # Errors
/// RECORD_FAILED, FOREIGN_NODES, EXPORT_FAILED, EXPORT_TOO_LARGE, ACL_DENIED, RELEASE_FAILED.
pub async fn record(context: &Context, set: &SetRef) -> StepResult {
    let zookeeper = context.zookeeper.planned(&set.place, Code::RecordFailed).await?;
    context.doing(format!("marks {}", set.path));
    match zookeeper.fence(set, &context.migration, context.attempt).await {
        Ok(()) => {}
        Err(CleanError::Active { replica, .. }) => {
            return unsettled(context, set, &zookeeper, vec![Unsettled::Active { replica }]).await;
        }
        Err(error) => return Err(clean_failed(Code::RecordFailed)(error)),
    }
    match under_marker(context, set, &zookeeper).await {
        Ok(Ok(saved)) => Ok(Finished {
            done: Done::Recorded {
                digest: Some(saved.packed.digest.clone()),
                unsettled: saved.differences,
                one_by_one: saved.union.brings(),
                order: saved.union.order,
                export: saved.export,
            },
            document: Some(saved.packed),
        }),
        Ok(Err(reasons)) => unsettled(context, set, &zookeeper, reasons).await,
        Err(mut failure) => {
            // Nothing was deleted, so the tables may be attached by hand: that must not fail at our marker.
            if let Err(error) = zookeeper.release(set, &context.migration, context.attempt).await {
                let message = &mut failure.problem.message;
                *message = format!("{message}; and the marker could not be taken away: {}", in_full(&error));
            }
            Err(failure)
        }
    }
}

async fn unsettled(context: &Context, set: &SetRef, zookeeper: &ZooKeeper, unsettled: Vec<Unsettled>) -> StepResult {
    let released = zookeeper.release(set, &context.migration, context.attempt).await;
    released.map_err(clean_failed(Code::ReleaseFailed))?;
    Ok(Done::Recorded {
        digest: None,
        unsettled,
        order: Vec::new(),
        one_by_one: false,
        export: None,
    }
    .into())
}

struct Saved {
    packed: Packed,
    union: Union,
    /// What keeps the set from being settled, and is allowed.
    differences: Vec<Unsettled>,
    export: Option<Exported>,
}

/// Judges and saves what nobody else can change now; an inner error is what keeps the set from being settled, or its
/// union from being decided.
async fn under_marker(
    context: &Context,
    set: &SetRef,
    zookeeper: &ZooKeeper,
) -> Result<Result<Saved, Vec<Unsettled>>, Failure> {
    let code = Code::RecordFailed;
    context.doing(format!("records the parts of {}", set.path));
    let snapshot = zookeeper.snapshot(&set.path).await.map_err(zookeeper_failed(code))?;
    let snapshot =
        snapshot.ok_or_else(|| Failure::lasting(code, format!("{} was deleted although it was marked", set.path)))?;
    let differences = judge(&snapshot, &set.replicas, set.allowed);
    let may_differ = set.allowed.diverged && differences.iter().all(Unsettled::may_diverge);
    if !differences.is_empty() && !may_differ {
        return Ok(Err(differences));
    }
    // A settled set has its whole story in the queues.
    let log = match differences.is_empty() {
        true => Vec::new(),
        false => zookeeper.log(&set.path).await.map_err(zookeeper_failed(code))?,
    };
    let union = match decide(&snapshot, &log) {
        Ok(union) => union,
        Err(undecided) => return Ok(Err(undecided)),
    };
    let document = PartSetOfRecord {
        migration: context.migration.clone(),
        attempt: context.attempt,
        snapshot,
        union: union.clone(),
    };
    let state = context.state.clone();
    // A million parts take a while to pack and to write.
    let saved = tokio::task::spawn_blocking(move || {
        let lasting = |text: String| Failure::lasting(code, text);
        let packed = pack(&document).map_err(|e| lasting(format!("the part set of record cannot be packed: {e}")))?;
        let (migration, attempt) = (&document.migration, document.attempt);
        state
            .write_record(migration, attempt, &packed)
            .map_err(state_failed(code))?;
        let read_back = state.record(migration, attempt).map_err(state_failed(code))?;
        match read_back {
            Some(found) if found == packed => Ok(packed),
            _ => Err(lasting(
                "the part set of record, read back from the state folder, is not what was written".to_owned(),
            )),
        }
    });
    match saved.await {
        Ok(Ok(packed)) => {
            // Now, and not only when the set is cleaned: what cannot be exported can still go back into service.
            let stage = zookeeper.stage(set).await.map_err(zookeeper_failed(code))?;
            Ok(Ok(Saved {
                packed,
                union,
                differences,
                export: export(context, set, zookeeper, stage).await?,
            }))
        }
        Ok(Err(failure)) => Err(failure),
        Err(error) => Err(Failure::lasting(
            code,
            format!("saving the part set of record broke off: {error}"),
        )),
    }
}
