use super::*;
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::step::StepKind;

fn received(outcome: Outcome) -> Event {
    let event = Event {
        migration: "m1".parse().unwrap(),
        attempt: 3,
        step: None,
        outcome,
        document: None,
    };
    Event::try_from(numbered(9, event)).unwrap()
}

#[test]
fn an_event_that_is_too_large_is_the_failure_of_its_attempt() {
    let export = Exported {
        file: "/".repeat(NAME_BYTES + 1),
        nodes: 7,
        bytes: 8,
        sha256: String::new(),
    };
    let long = || "x".repeat(NAME_BYTES + 1);
    let unsettled = vec![Unsettled::Log {
        replica: "x".repeat(EVENT_BYTES),
        pointer: 1,
        end: 2,
    }];
    let recorded = |digest: String, order: String| Done::Recorded {
        digest: Some(digest),
        unsettled: vec![],
        order: vec![order],
        one_by_one: false,
        export: None,
    };
    let (digest, parts, rows) = (long(), 1, 2);
    let counts = Restored::default();
    for done in [
        Done::Settled(unsettled),
        Done::Attached { digest, parts, rows },
        Done::Restarted { at: long() },
        Done::Restored {
            counts,
            account: long(),
        },
        recorded(long(), "r1".into()),
        recorded("d".into(), long()),
        Done::Cleaned {
            znodes: 1,
            export: Some(export),
        },
    ] {
        let event = received(Outcome::Done(done.clone()));
        let Outcome::Failed(failure) = event.outcome else {
            panic!("{done:?}")
        };
        assert_eq!(failure.problem.code, Code::EventTooLarge);
        assert_eq!((event.attempt, event.migration.as_str()), (3, "m1"));
    }
}

#[test]
fn texts_for_people_are_cut() {
    let failure = Failure::lasting(Code::NotSettled, "ä".repeat(TEXT_BYTES)).with_fix("x".repeat(TEXT_BYTES + 1));
    let Outcome::Failed(failure) = received(Outcome::Failed(failure)).outcome else {
        panic!()
    };
    let Problem { message, fix, .. } = failure.problem;
    assert!(message.len() < TEXT_BYTES + 64 && message.ends_with("(cut: it had 16384 bytes)"));
    assert!(fix.len() < TEXT_BYTES + 64 && fix.starts_with("xxx"));
}

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
                set_aside: 8,
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
            step: Some(StepKind::Record),
            outcome,
            document,
        };
        assert_eq!(Event::try_from(numbered(9, event.clone())).unwrap(), event);
    }
}
