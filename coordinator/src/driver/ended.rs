//! What came of an attempt.

use rekeeper_shared::document::Packed;
use rekeeper_shared::ids::{HostName, MigrationName};
use rekeeper_shared::step::{Outcome, StepKind};

use super::migration::Migration;
use crate::progress::{IllegalTransition, Record};
use crate::store::Append;

/// An outcome that cannot be taken, and why.
pub(super) struct Refused {
    pub(super) why: IllegalTransition,
    pub(super) outcome: Box<Outcome>,
}

/// Takes what came of an attempt, to be written down.
///
/// # Errors
/// It cannot be; nothing has changed then.
pub(super) fn ended(
    migration: &mut Migration,
    attempt: u64,
    outcome: Outcome,
    document: Option<Packed>,
) -> Result<Append, Refused> {
    let Some(intent) = migration.progress.in_flight.get(&attempt).copied() else {
        let why = IllegalTransition::NotInFlight(attempt);
        return Err(Refused {
            why,
            outcome: Box::new(outcome),
        });
    };
    let record = Record::Event {
        attempt,
        outcome: outcome.clone(),
    };
    if let Err(why) = migration.progress.apply(&migration.plan, &record) {
        return Err(Refused {
            why,
            outcome: Box::new(outcome),
        });
    }
    migration.look();
    migration.ended(attempt, intent.step, intent.target, &outcome);
    log_outcome(
        &migration.plan.name,
        &migration.plan.hosts[intent.host].name,
        &migration.name_of(intent.target),
        intent.step,
        &outcome,
    );
    Ok(Append {
        migration: migration.plan.name.clone(),
        record,
        document,
    })
}

/// As much of a text as a problem has room for.
pub(super) fn truncated(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

fn log_outcome(migration: &MigrationName, host: &HostName, target: &str, step: StepKind, outcome: &Outcome) {
    match outcome {
        Outcome::Done(_) => tracing::info!(%migration, %host, target, %step, "done"),
        Outcome::Failed(failure) => {
            tracing::warn!(%migration, %host, target, %step, problem = %failure.problem, retry = failure.retry, "failed");
        }
    }
}
