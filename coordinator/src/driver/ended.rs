//! What came of an attempt.

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Outcome, StepKind};

use super::migration::Migration;
use crate::progress::{IllegalTransition, Record};
use crate::store::Append;

/// An outcome that cannot be taken, and why.
pub(super) struct Refused {
    pub(super) why: IllegalTransition,
    pub(super) outcome: Box<Outcome>,
}

/// Takes what came of an attempt, to be written down: of the step that was ordered, where the agent tells one.
///
/// # Errors
/// It cannot be; nothing has changed then.
pub(super) fn ended(
    migration: &mut Migration,
    attempt: u64,
    step: Option<StepKind>,
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
    if step.is_some_and(|step| step != intent.step) {
        let why = IllegalTransition::Outcome(intent.step);
        return Err(Refused {
            why,
            outcome: Box::new(outcome),
        });
    }
    let outcome = fitting(outcome);
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
    migration.ended(intent, &outcome);
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

/// Most bytes of what came of an attempt, as it is written down. An event has less by far (`proto`, convert/event.rs);
/// beyond what SQLite takes, one would end the program, and again each time when it is told.
const OUTCOME_BYTES: usize = 16 << 20;

/// What came of an attempt, or, where it is too large to be written down, its failure.
fn fitting(outcome: Outcome) -> Outcome {
    let bytes = serde_json::to_vec(&outcome).map_or(usize::MAX, |json| json.len());
    if bytes <= OUTCOME_BYTES {
        return outcome;
    }
    let text = format!("what came of it has {bytes} bytes to be written down, and {OUTCOME_BYTES} are allowed");
    Outcome::Failed(Failure::lasting(Code::EventTooLarge, text))
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

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::step::Done;
    use rekeeper_shared::domain::unsettled::Unsettled;

    use super::*;

    #[test]
    fn an_outcome_that_is_too_large_is_the_failure_of_its_attempt() {
        let of = |bytes: usize| {
            let replica = "\u{1}".repeat(bytes / 6);
            let (pointer, end) = (1, 2);
            Outcome::Done(Done::Settled(vec![Unsettled::Log { replica, pointer, end }]))
        };
        let small = of(OUTCOME_BYTES - 1_000);
        assert_eq!(fitting(small.clone()), small);
        let Outcome::Failed(failure) = fitting(of(OUTCOME_BYTES + 1_000)) else {
            panic!()
        };
        assert_eq!(failure.problem.code, Code::EventTooLarge);
        assert!(!failure.retry);
    }
}
