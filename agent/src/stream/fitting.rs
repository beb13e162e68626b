//! Messages that the coordinator would not take.

use rekeeper_proto::convert::event::numbered;
use rekeeper_proto::v1::{self, FromAgent, from_agent};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Event, Failure, Outcome};

/// What is said, or, where the coordinator would not take it, that it is too large: it would end the connection, and hear the
/// same on the next one.
pub(super) fn fitting(kind: from_agent::Kind, most: usize) -> from_agent::Kind {
    let message = FromAgent { kind: Some(kind) };
    let bytes = rekeeper_proto::size(&message);
    let why = |what: &str| {
        format!("{what} has {bytes} bytes, and the coordinator takes {most} (limits.message_bytes in coordinator.yaml)")
    };
    match message.kind.unwrap_or(from_agent::Kind::Goodbye(v1::Goodbye {})) {
        kind if bytes <= most => kind,
        from_agent::Kind::Event(event) => from_agent::Kind::Event(too_large(event, why("what came of the step"))),
        from_agent::Kind::Inspected(v1::Inspected { request, .. }) => from_agent::Kind::Inspected(v1::Inspected {
            request,
            inventory: Vec::new(),
            error: why("what is told of the host's tables"),
        }),
        from_agent::Kind::Rehearsed(v1::Rehearsed { request, .. }) => from_agent::Kind::Rehearsed(v1::Rehearsed {
            request,
            actions: Vec::new(),
            error: why("what the step would do"),
        }),
        // They are small.
        other @ (from_agent::Kind::Hello(_) | from_agent::Kind::Doing(_) | from_agent::Kind::Goodbye(_)) => other,
    }
}

/// The end of an attempt whose outcome cannot be told.
fn too_large(event: v1::Event, why: String) -> v1::Event {
    tracing::error!(
        migration = event.migration,
        attempt = event.attempt,
        why,
        "event too large"
    );
    match event.migration.parse() {
        Ok(migration) => numbered(
            event.sequence,
            Event {
                migration,
                attempt: event.attempt,
                step: event.step.parse().ok(),
                outcome: Outcome::Failed(Failure::lasting(Code::EventTooLarge, why)),
                document: None,
            },
        ),
        // No command had such a name.
        Err(_) => event,
    }
}
