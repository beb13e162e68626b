//! Detach: out of service, and no restart brings the table back.

use std::time::Duration;

use rekeeper_shared::domain::inventory::buffer_remedy;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, TableRef};
use tokio::time::Instant;

use super::shared::look::{Found, look_in_turn};
use super::shared::wait::{POLL, until_alone};
use super::{Context, StepResult, failed, state_failed};
use crate::clickhouse::{Class, Error, Statement, code};

/// For how long a table that is still used is tried again in one attempt. The rest of its set may be detached already.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long what is in the server's memory for the table may take to be written. Where the table's log is frozen it cannot
/// be before the table is detached, and is refused then.
const FLUSH: Duration = Duration::from_secs(10);

/// Detaches the table permanently. A table that is detached, but not permanently, would come back with the next
/// restart while its nodes are deleted under it; it is attached and detached again.
///
/// # Errors
/// DETACH_FAILED, TABLE_CHANGED, STATE_DIR_FULL; BUFFER_TABLE when a Buffer table writes into it that was not there when the
/// checks were made.
pub async fn detach(context: &Context, table: &TableRef) -> StepResult {
    keep_room(context, table).await?;
    let began = Instant::now();
    let mut detached_by_us = false;
    let mut last = String::from("it does not stay detached");
    loop {
        until_alone(context, table, Code::DetachFailed).await?;
        let (found, turn) = look_in_turn(context, table, Code::DetachFailed).await?;
        let outcome = match next(&found, detached_by_us) {
            Next::Done => return Ok(Done::Plain.into()),
            Next::AttachFirst => {
                context.doing(format!("attaches {} to detach it permanently", table.name));
                context.clickhouse.execute(Statement::AttachTable(&table.name)).await
            }
            Next::Detach => {
                no_buffer_holds_rows(context, table).await?;
                let outcome = match flush_async_inserts(context, table).await {
                    Ok(()) => {
                        context.doing(format!("detaches {}", table.name));
                        detach_statement(context, table).await
                    }
                    refused => refused,
                };
                detached_by_us = outcome.is_ok();
                outcome
            }
        };
        drop(turn);
        match outcome {
            Ok(()) => {}
            // Somebody was quicker, or it is not known: look again.
            Err(error) if error.code() == Some(code::UNKNOWN_TABLE) || error.class() == Class::Unknown => {
                last = error.in_full();
                tokio::time::sleep(POLL).await;
            }
            Err(error) if error.class() == Class::Passing => {
                last = error.in_full();
                context.doing(format!("tries again to detach {}: {last}", table.name));
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(failed(Code::DetachFailed)(error)),
        }
        if began.elapsed() >= PATIENCE {
            return Err(Failure::passing(Code::DetachFailed, last));
        }
    }
}

/// What a table needs next, so that no restart brings it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Done,
    AttachFirst,
    Detach,
}

fn next(found: &Found, detached_by_us: bool) -> Next {
    match found {
        Found::Attached(_) => Next::Detach,
        Found::Detached {
            permanently: Some(true),
        } => Next::Done,
        // A server that does not tell whether it is for good: the answer to our own statement has to do.
        Found::Detached { permanently: None } if detached_by_us => Next::Done,
        Found::Detached {
            permanently: Some(false) | None,
        } => Next::AttachFirst,
    }
}

/// For what has to be written of the table once its nodes are deleted: by then it cannot go back into service. A table
/// that is detached already has no parts that the server would tell of.
async fn keep_room(context: &Context, table: &TableRef) -> Result<(), Failure> {
    let parts = context.clickhouse.count_active_parts(&table.name).await;
    let (parts, name_bytes) = parts.map_err(failed(Code::DetachFailed))?;
    let kept = context.state.keep_room(&context.migration, table, parts, name_bytes);
    kept.map_err(state_failed(Code::DetachFailed))
}

/// What depends on the table (a dictionary that is loaded from it) does not forbid a detach that is undone later.
async fn detach_statement(context: &Context, table: &TableRef) -> Result<(), Error> {
    let statement = Statement::DetachPermanently(&table.name);
    match context.clickhouse.execute(statement).await {
        Err(error) if error.code() == Some(code::HAVE_DEPENDENT_OBJECTS) => {
            let settings = [("check_table_dependencies", "0")];
            context.clickhouse.execute_with(statement, &settings).await
        }
        outcome => outcome,
    }
}

/// The server throws away what a Buffer table holds when it finds no table to write it into (docs/writers.md). The checks
/// of the plan have looked for such tables; this one was made, or attached again, since.
async fn no_buffer_holds_rows(context: &Context, table: &TableRef) -> Result<(), Failure> {
    let buffers = context.clickhouse.buffers_of(&table.name).await;
    let buffers = buffers.map_err(failed(Code::DetachFailed))?;
    let Some(buffer) = buffers.first() else {
        return Ok(());
    };
    let text = format!("Buffer {buffer} writes into {}", table.name);
    let retry = format!("rekeeper retry {}", context.migration);
    Err(Failure::lasting(Code::BufferTable, text).with_fix(buffer_remedy(buffer, &retry)))
}

/// Rows that were accepted and are only in the server's memory are written while the table is there. What is accepted after
/// that and before the DETACH may be lost: the plan warns of clients that do not wait (INSERTS_NOT_WAITED_FOR).
async fn flush_async_inserts(context: &Context, table: &TableRef) -> Result<(), Error> {
    context.doing(format!(
        "has asynchronous inserts written before {} is detached",
        table.name
    ));
    let flush = context.clickhouse.flush_async_inserts();
    // It goes on, and ends when the table is detached at the latest.
    tokio::time::timeout(FLUSH, flush).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_detached_when_it_stays_so_over_a_restart() {
        let detached = |permanently, by_us| next(&Found::Detached { permanently }, by_us);
        for by_us in [true, false] {
            assert_eq!(detached(Some(true), by_us), Next::Done);
            assert_eq!(detached(Some(false), by_us), Next::AttachFirst);
        }
        assert_eq!(detached(None, true), Next::Done);
        assert_eq!(detached(None, false), Next::AttachFirst);
    }
}
