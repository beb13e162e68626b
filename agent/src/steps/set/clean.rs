//! Clean deletes a set's nodes, release lets them go undeleted.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, SetRef};

use super::clean_failed;
use super::export::export;
use crate::steps::{Context, StepResult};
use crate::zookeeper::may_begin;

/// Deletes the set's path, under the attempt's own marker, after all that is under it is in a file of this host.
///
/// # Errors
/// CLEAN_FAILED, FOREIGN_NODES, EXPORT_FAILED, EXPORT_TOO_LARGE, ACL_DENIED.
pub async fn clean(context: &Context, set: &SetRef) -> StepResult {
    let zookeeper = context.zookeeper.planned(&set.place, Code::CleanFailed).await?;
    let begun = zookeeper.begin_deletion(set, &context.migration, context.attempt).await;
    let stage = begun.map_err(clean_failed(Code::CleanFailed))?;
    let export = export(context, set, &zookeeper, stage).await?;
    may_begin(set, stage, export.is_some()).map_err(clean_failed(Code::CleanFailed))?;
    let (report, path) = (context.report.clone(), set.path.clone());
    report(format!("deletes {path}"));
    let progress = move |deleted| report(format!("deletes {path}: {deleted} znodes so far"));
    let deleted = zookeeper
        .delete(set, &context.migration, context.attempt, &progress)
        .await;
    let znodes = deleted.map_err(clean_failed(Code::CleanFailed))?;
    Ok(Done::Cleaned { znodes, export }.into())
}

/// Takes marker, held `is_active` and frozen log away.
///
/// # Errors
/// RELEASE_FAILED.
pub async fn release(context: &Context, set: &SetRef) -> StepResult {
    let zookeeper = context.zookeeper.planned(&set.place, Code::ReleaseFailed).await?;
    context.doing(format!("takes the marker from {}", set.path));
    let released = zookeeper.release(set, &context.migration, context.attempt).await;
    released.map_err(clean_failed(Code::ReleaseFailed))?;
    let thawed = zookeeper.thaw(set, &context.migration).await;
    thawed.map_err(clean_failed(Code::ReleaseFailed))?;
    Ok(Done::Plain.into())
}
