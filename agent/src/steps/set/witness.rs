//! Witness: a node at the place that the server is configured for now, by which the others find out that theirs is the
//! same.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Witness};

use super::zookeeper_failed;
use crate::steps::shared::owners::at_path;
use crate::steps::{Context, StepResult};

/// Writes the witness where the table is to be made anew, if nothing is there but what somebody has restored by hand.
///
/// # Errors
/// WITNESS_FAILED, PATH_EXISTS.
pub async fn witness(context: &Context, witness: &Witness) -> StepResult {
    let code = Code::WitnessFailed;
    context.doing(format!("writes the witness of {}", witness.path));
    at_path(context, witness, None).await?;
    let zookeeper = context.zookeeper.at(&witness.ensemble, code).await?;
    zookeeper.write_witness(witness).await.map_err(zookeeper_failed(code))?;
    Ok(Done::Plain.into())
}
