//! Settle: reads a set's nodes and judges them. It changes nothing.

use crate::rules::settle::judge;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, SetRef};

use super::zookeeper_failed;
use crate::steps::{Context, StepResult};

/// Says what keeps a set from being settled.
///
/// # Errors
/// RECORD_FAILED.
pub async fn settle(context: &Context, set: &SetRef) -> StepResult {
    let code = Code::RecordFailed;
    let zookeeper = context.zookeeper.planned(&set.place, code).await?;
    context.doing(format!("reads the nodes of {}", set.path));
    let snapshot = zookeeper.snapshot(&set.path).await.map_err(zookeeper_failed(code))?;
    let snapshot =
        snapshot.ok_or_else(|| Failure::lasting(code, format!("{} does not exist at {}", set.path, set.place)))?;
    Ok(Done::Settled(judge(&snapshot, &set.replicas, set.allowed)).into())
}
