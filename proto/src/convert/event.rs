//! Events.

use rekeeper_shared::problem::Problem;
use rekeeper_shared::settle::Unsettled;
use rekeeper_shared::step::{Done, Event, Exported, Failure, Outcome, Restored};

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
            account_digest,
        }),
        Outcome::Failed(Failure {
            problem: Problem { code, message, fix },
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
        document: event.document.map(Into::into),
        outcome: Some(outcome),
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = BadMessage;

    fn try_from(wire: v1::Event) -> Result<Self, BadMessage> {
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
                },
                account: account_digest,
            }),
            event::Outcome::Failed(failed) => Outcome::Failed(Failure {
                problem: Problem {
                    code: parse("failed.code", &failed.code)?,
                    message: failed.message,
                    fix: failed.fix,
                },
                retry: failed.retry,
            }),
        };
        Ok(Self {
            migration: parse("migration", &wire.migration)?,
            attempt: wire.attempt,
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
mod tests {
    use super::*;
    use rekeeper_shared::document::Packed;
    use rekeeper_shared::problem::Code;

    #[test]
    fn every_outcome_crosses_the_wire_unchanged() {
        let unsettled = vec![Unsettled::Log {
            replica: "r1".into(),
            pointer: 1,
            end: 2,
        }];
        let export = Exported {
            file: "/f".into(),
            nodes: 7,
            bytes: 8,
            sha256: "5c2b".into(),
        };
        let outcomes = vec![
            Outcome::Done(Done::Plain),
            Outcome::Done(Done::Settled(unsettled.clone())),
            Outcome::Done(Done::Recorded {
                digest: Some("d".into()),
                unsettled: vec![],
                order: vec!["r2".into(), "r1".into()],
                one_by_one: true,
                export: Some(export.clone()),
            }),
            Outcome::Done(Done::Recorded {
                digest: None,
                unsettled,
                order: vec![],
                one_by_one: false,
                export: None,
            }),
            Outcome::Done(Done::Cleaned {
                znodes: 5,
                export: Some(export),
            }),
            Outcome::Done(Done::Restarted {
                at: "2026-01-01T00:00:00Z".into(),
            }),
            Outcome::Done(Done::Attached {
                digest: "d".into(),
                parts: 1,
                rows: 2,
            }),
            Outcome::Done(Done::Restored {
                counts: Restored {
                    active: 1,
                    attached_again: 2,
                    covered: 3,
                    merged: 4,
                    dropped: 6,
                    empty: 5,
                    unclear: 7,
                },
                account: "a".into(),
            }),
            Outcome::Failed(Failure::lasting(Code::NotSettled, "x")),
        ];
        for outcome in outcomes {
            let document = Some(Packed {
                digest: "d".into(),
                bytes: vec![1],
            });
            let event = Event {
                migration: "m1".parse().unwrap(),
                attempt: 3,
                outcome,
                document,
            };
            assert_eq!(Event::try_from(numbered(9, event.clone())).unwrap(), event);
        }
    }
}
