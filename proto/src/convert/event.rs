//! Events.

use prost::Message as _;
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::domain::step::{Done, Event, Exported, Failure, Outcome, Restored};
use rekeeper_shared::domain::unsettled::Unsettled;

use super::{BadMessage, parse, required};
use crate::v1::{self, event};

/// An event as it stands in a connection, with its number.
#[must_use]
pub fn numbered(sequence: u64, event: Event) -> v1::Event {
    let outcome = match event.outcome {
        Outcome::Done(Done::Plain) => event::Outcome::Done(v1::Plain {}),
        Outcome::Done(Done::Settled(unsettled)) => event::Outcome::Settled(v1::Settled {
            unsettled: reasons_out(&unsettled),
        }),
        Outcome::Done(Done::Recorded {
            digest,
            unsettled,
            order,
            one_by_one,
            export,
        }) => event::Outcome::Recorded(v1::Recorded {
            digest: digest.unwrap_or_default(),
            unsettled: reasons_out(&unsettled),
            order,
            one_by_one,
            export: export.map(export_out),
        }),
        Outcome::Done(Done::Cleaned { znodes, export }) => event::Outcome::Cleaned(v1::Cleaned {
            znodes,
            export: export.map(export_out),
        }),
        Outcome::Done(Done::Restarted { at }) => event::Outcome::Restarted(v1::Restarted { at }),
        Outcome::Done(Done::Attached { digest, parts, rows }) => {
            event::Outcome::Attached(v1::Attached { digest, parts, rows })
        }
        Outcome::Done(Done::Restored {
            counts:
                Restored {
                    active,
                    attached_again,
                    covered,
                    merged,
                    dropped,
                    empty,
                    unclear,
                    set_aside,
                },
            account: account_digest,
        }) => event::Outcome::Restored(v1::Restored {
            active,
            attached_again,
            covered,
            merged,
            dropped,
            empty,
            unclear,
            set_aside,
            account_digest,
        }),
        Outcome::Failed(Failure {
            problem: Problem { code, message, fix, .. },
            retry,
        }) => event::Outcome::Failed(v1::Failed {
            code: code.to_string(),
            message,
            fix,
            retry,
        }),
    };
    v1::Event {
        sequence,
        migration: event.migration.into(),
        attempt: event.attempt,
        step: event.step.map(|step| step.to_string()).unwrap_or_default(),
        document: event.document.map(Into::into),
        outcome: Some(outcome),
    }
}

/// Most bytes of an event without its document.
pub const EVENT_BYTES: usize = 1 << 20;
/// Most bytes of a text for people; what is longer is cut. The agents' own are a few thousand at most.
const TEXT_BYTES: usize = 8 << 10;
/// Most bytes of a name, a digest or a file's path.
const NAME_BYTES: usize = 4 << 10;

/// Why the event is larger than those of agents are, if so: it is not to be written down, and its attempt has failed.
fn too_large(wire: &v1::Event) -> Option<String> {
    let names: Vec<(&str, &str)> = match &wire.outcome {
        Some(event::Outcome::Recorded(recorded)) => {
            let file = recorded.export.iter().flat_map(names_of_export);
            let order = recorded.order.iter().map(|name| ("recorded.order", name.as_str()));
            let digest = std::iter::once(("recorded.digest", recorded.digest.as_str()));
            digest.chain(order).chain(file).collect()
        }
        Some(event::Outcome::Cleaned(cleaned)) => cleaned.export.iter().flat_map(names_of_export).collect(),
        Some(event::Outcome::Restarted(restarted)) => vec![("restarted.at", &restarted.at)],
        Some(event::Outcome::Attached(attached)) => vec![("attached.digest", &attached.digest)],
        Some(event::Outcome::Restored(restored)) => vec![("restored.account_digest", &restored.account_digest)],
        // Texts are cut, and reasons are within the limit of the event.
        Some(event::Outcome::Done(_) | event::Outcome::Settled(_) | event::Outcome::Failed(_)) | None => Vec::new(),
    };
    if let Some((field, name)) = names.iter().find(|(_, name)| name.len() > NAME_BYTES) {
        let bytes = name.len();
        return Some(format!("{field} has {bytes} bytes, and {NAME_BYTES} are allowed"));
    }
    let is_text = matches!(wire.outcome, Some(event::Outcome::Failed(_)));
    let document = wire.document.as_ref().map_or(0, |document| document.packed.len());
    let bytes = wire.encoded_len().saturating_sub(document);
    (!is_text && bytes > EVENT_BYTES)
        .then(|| format!("it has {bytes} bytes beside its document, and {EVENT_BYTES} are allowed"))
}

fn names_of_export(export: &v1::Export) -> [(&'static str, &str); 2] {
    [("export.file", &export.file), ("export.sha256", &export.sha256)]
}

/// As much of a text for people as is taken.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES {
        let bytes = text.len();
        let end = (0..=TEXT_BYTES)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str(&format!("... (cut: it had {bytes} bytes)"));
    }
    text
}

impl TryFrom<v1::Event> for Event {
    type Error = BadMessage;

    fn try_from(wire: v1::Event) -> Result<Self, BadMessage> {
        if let Some(why) = too_large(&wire) {
            let text = format!("what the agent told is not taken: {why}");
            return Ok(Self {
                migration: parse("migration", &wire.migration)?,
                attempt: wire.attempt,
                step: None,
                outcome: Outcome::Failed(Failure::lasting(Code::EventTooLarge, text)),
                document: None,
            });
        }
        let outcome = match required("outcome", wire.outcome)? {
            event::Outcome::Done(v1::Plain {}) => Outcome::Done(Done::Plain),
            event::Outcome::Settled(settled) => Outcome::Done(Done::Settled(reasons_in(&settled.unsettled)?)),
            event::Outcome::Recorded(recorded) => Outcome::Done(Done::Recorded {
                digest: (!recorded.digest.is_empty()).then_some(recorded.digest),
                unsettled: reasons_in(&recorded.unsettled)?,
                order: recorded.order,
                one_by_one: recorded.one_by_one,
                export: recorded.export.map(export_in),
            }),
            event::Outcome::Cleaned(cleaned) => Outcome::Done(Done::Cleaned {
                znodes: cleaned.znodes,
                export: cleaned.export.map(export_in),
            }),
            event::Outcome::Restarted(restarted) => Outcome::Done(Done::Restarted { at: restarted.at }),
            event::Outcome::Attached(v1::Attached { digest, parts, rows }) => {
                Outcome::Done(Done::Attached { digest, parts, rows })
            }
            event::Outcome::Restored(v1::Restored {
                active,
                attached_again,
                covered,
                merged,
                dropped,
                empty,
                unclear,
                set_aside,
                account_digest,
            }) => Outcome::Done(Done::Restored {
                counts: Restored {
                    active,
                    attached_again,
                    covered,
                    merged,
                    dropped,
                    empty,
                    unclear,
                    set_aside,
                },
                account: account_digest,
            }),
            event::Outcome::Failed(failed) => Outcome::Failed(Failure {
                // Its words, until it is taken (`Problem::told_by`).
                problem: Problem {
                    fix: cut(failed.fix),
                    ..Problem::new(parse("failed.code", &failed.code)?, cut(failed.message))
                },
                retry: failed.retry,
            }),
        };
        Ok(Self {
            migration: parse("migration", &wire.migration)?,
            attempt: wire.attempt,
            step: match wire.step.as_str() {
                "" => None,
                step => Some(parse("step", step)?),
            },
            outcome,
            document: wire.document.map(Into::into),
        })
    }
}

fn reasons_out(reasons: &[Unsettled]) -> Vec<String> {
    // A reason is an enum of texts and numbers: writing it as JSON cannot fail.
    reasons
        .iter()
        .map(|reason| serde_json::to_string(reason).unwrap_or_default())
        .collect()
}

fn reasons_in(reasons: &[String]) -> Result<Vec<Unsettled>, BadMessage> {
    reasons
        .iter()
        .map(|text| {
            serde_json::from_str(text).map_err(|e| BadMessage {
                field: "unsettled",
                what: format!("not acceptable: {e}"),
            })
        })
        .collect()
}

fn export_out(export: Exported) -> v1::Export {
    let Exported {
        file,
        nodes,
        bytes,
        sha256,
    } = export;
    v1::Export {
        file,
        nodes,
        bytes,
        sha256,
    }
}

fn export_in(export: v1::Export) -> Exported {
    let v1::Export {
        file,
        nodes,
        bytes,
        sha256,
    } = export;
    Exported {
        file,
        nodes,
        bytes,
        sha256,
    }
}

#[cfg(test)]
mod tests;
