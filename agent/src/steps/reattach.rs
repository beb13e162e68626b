//! Reattach: back into service on metadata that is still there.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, TableRef};

use super::shared::look::{Changed, Found, find, look_in_turn};
use super::shared::wait::{until_alone, until_in_service};
use super::{Context, StepResult, failed};
use crate::clickhouse::{Class, Statement, code};

/// How long a table may take to come into service.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attaches the table and waits until it does its work. One that somebody has dropped since has nothing to be put back,
/// and one that has another name is in service under that.
///
/// # Errors
/// ATTACH_FAILED, TABLE_CHANGED.
pub async fn reattach(context: &Context, table: &TableRef) -> StepResult {
    until_alone(context, table, Code::AttachFailed).await?;
    let renamed: TableRef;
    let table = match find(context, table, Code::AttachFailed).await? {
        Err(Changed::Gone { .. }) => {
            context.state.give_room_back(&context.migration, table);
            return Ok(Done::Plain.into());
        }
        Err(Changed::Renamed { to, .. }) => {
            renamed = TableRef {
                name: to,
                ..table.clone()
            };
            &renamed
        }
        Ok(_) | Err(Changed::Elsewhere(_)) => table,
    };
    let (found, turn) = look_in_turn(context, table, Code::AttachFailed).await?;
    if let Found::Detached { .. } = found {
        context.doing(format!("attaches {}", table.name));
        match context.clickhouse.execute(Statement::AttachTable(&table.name)).await {
            Ok(()) => {}
            // Somebody was quicker, or it is not known: the wait below finds out.
            Err(error) if error.code() == Some(code::TABLE_ALREADY_EXISTS) || error.class() == Class::Unknown => {}
            Err(error) => return Err(failed(Code::AttachFailed)(error)),
        }
        until_alone(context, table, Code::AttachFailed).await?;
    }
    drop(turn);
    match until_in_service(context, table, PATIENCE, Code::AttachFailed).await? {
        Ok(()) => {
            context.state.give_room_back(&context.migration, table);
            Ok(Done::Plain.into())
        }
        Err(state) => Err(Failure::passing(
            Code::AttachFailed,
            format!("{} is attached and not in service: {state}", table.name),
        )),
    }
}
