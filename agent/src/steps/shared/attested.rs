//! Which record this agent has found true itself.

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};

use crate::steps::{Context, state_failed};

/// The record that is commanded is the one that this agent has attested; false when its note of that is lost.
///
/// # Errors
/// RECORD_DISPUTED when it is another one.
pub(in crate::steps) fn is_attested(context: &Context, table: &TableRef, record: &Packed) -> Result<bool, Failure> {
    let note = context.state.attested(&context.migration, table);
    match note.map_err(state_failed(Code::AttachFailed))? {
        None => Ok(false),
        Some(note) if note.record == record.digest => Ok(true),
        Some(note) => {
            let what = format!("it has attested the record {}", note.record);
            Err(disputed(context, table, record, &what))
        }
    }
}

/// Another record is commanded than this agent has found true.
pub(in crate::steps) fn disputed(context: &Context, table: &TableRef, record: &Packed, what: &str) -> Failure {
    let text = format!(
        "the agent of {} is told that the record {} has the parts of {}, and that is not so: {what}",
        context.host, record.digest, table.name
    );
    Failure::lasting(Code::RecordDisputed, text)
}
