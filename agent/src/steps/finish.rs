//! Finish: merges again, and ALTERs for good.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, TableRef};

use super::shared::look::{Found, look};
use super::shared::versions::{Merges, agree};
use super::{Context, StepResult, failed, state_failed};
use crate::clickhouse::Statement;
use crate::state::StateError;

/// Starts merges. ClickHouse does not tell whether they are stopped, so the answer to the statement has to do, and
/// that the table was the planned one before and after it. By now no replica of the set is restored any more, which changes
/// the version of the definition; an ALTER that is to be waited for may wait for merges.
///
/// # Errors
/// MERGES_FAILED, METADATA_VERSION_DIFFERS, TABLE_CHANGED.
pub async fn finish(context: &Context, table: &TableRef) -> StepResult {
    let detached = || Failure::lasting(Code::MergesFailed, format!("{} is detached", table.name));
    let Found::Attached(_) = look(context, table, Code::MergesFailed).await? else {
        return Err(detached());
    };
    let turn = context.state.merges_turn(table);
    let held = turn.lock().await;
    context.doing(format!("starts merges of {}", table.name));
    let statement = Statement::StartMerges(&table.name);
    context
        .clickhouse
        .execute(statement)
        .await
        .map_err(failed(Code::MergesFailed))?;
    let_go(context, table).map_err(state_failed(Code::MergesFailed))?;
    drop(held);
    let ensemble = context.clickhouse.ensemble_of(&table.name).await;
    if let Some(ensemble) = ensemble.map_err(failed(Code::MergesFailed))? {
        // Restored replicas have the version of before the migration.
        agree(context, table, &ensemble, 0, Merges::Run).await?;
    }
    context.state.give_room_back(&context.migration, table);
    match look(context, table, Code::MergesFailed).await? {
        Found::Attached(_) => Ok(Done::Plain.into()),
        Found::Detached { .. } => Err(detached()),
    }
}

/// Also what a former migration noted that has left this host out, and that nobody else takes away: it would stop merges
/// again at every start of the server.
fn let_go(context: &Context, table: &TableRef) -> Result<(), StateError> {
    context.state.let_merges_go(&context.migration, table)?;
    for held in context.state.held_merges() {
        if let Some(of) = held.table.filter(|of| of.uuid == table.uuid && of.name == table.name) {
            context.state.let_merges_go(&held.migration, &of)?;
        }
    }
    Ok(())
}
