//! Freeze lets a set's replicas catch up although somebody writes.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, SetRef};

use super::clean_failed;
use crate::steps::{Context, StepResult};

/// Takes the permission to add to the table's log away; release gives it back.
///
/// # Errors
/// FREEZE_FAILED.
pub async fn freeze(context: &Context, set: &SetRef) -> StepResult {
    let zookeeper = context.zookeeper.planned(&set.place, Code::FreezeFailed).await?;
    context.doing(format!("freezes the log of {}", set.path));
    let frozen = zookeeper.freeze(set, &context.migration).await;
    frozen.map_err(clean_failed(Code::FreezeFailed))?;
    Ok(Done::Plain.into())
}
