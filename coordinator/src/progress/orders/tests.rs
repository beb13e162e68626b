//! Every order in every state, as docs/orders.md has it; and what barriers and pauses promise, at every point on the way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::plan::RestartPolicy;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Outcome, StepKind, Target};

use super::*;
use crate::progress::Record;
use crate::progress::modes::row;
use crate::progress::rehearsal::done;
use crate::progress::simulation::world::plan;

const BARRIERS: [Until; 3] = [Until::Detached, Until::ZkCleaned, Until::Restarted];

fn give(progress: &mut Progress, plan: &Plan, order: &OperatorOrder) -> Answer {
    let answer = answer(order, &progress.facts(plan));
    if let Answer::Taken { order, .. } = &answer {
        let (by, order) = ("anna".to_owned(), order.clone());
        progress.apply(plan, &Record::Ordered { by, order }).unwrap();
    }
    answer
}

fn start(until: Option<Until>) -> OperatorOrder {
    OperatorOrder::Start { until }
}

fn order_all(progress: &mut Progress, plan: &Plan, mut see: impl FnMut(&Progress)) {
    for proposal in progress.proposals(plan) {
        for (target, hosts) in proposal.members {
            let (attempt, step, host) = (progress.next_attempt, proposal.row.step, hosts[0]);
            let intent = Intent {
                attempt,
                host,
                step,
                target,
            };
            if progress.apply(plan, &Record::Intent(intent)).is_ok() {
                see(progress);
            }
        }
    }
}

/// Orders what can be ordered and lets it end well, one step after the other, until nothing is left to do; shows every
/// point on the way.
fn go(progress: &mut Progress, plan: &Plan, mut see: impl FnMut(&Progress)) {
    see(progress);
    loop {
        order_all(progress, plan, &mut see);
        let Some(intent) = progress.in_flight.values().next().copied() else {
            return;
        };
        end(progress, plan, intent.attempt, Outcome::Done(done(plan, intent)));
        see(progress);
    }
}

fn end(progress: &mut Progress, plan: &Plan, attempt: u64, outcome: Outcome) {
    progress.apply(plan, &Record::Event { attempt, outcome }).unwrap();
}

/// Everything that is under way fails for good, as far as anything can be ordered.
fn fail(progress: &mut Progress, plan: &Plan) {
    loop {
        order_all(progress, plan, |_| ());
        let Some(&attempt) = progress.in_flight.keys().next() else {
            return;
        };
        let failure = Failure::lasting(Code::SyncFailed, "a test");
        end(progress, plan, attempt, Outcome::Failed(failure));
    }
}

/// The same, whatever the cause is called: it comes to an end.
fn fail_for(progress: &mut Progress, plan: &Plan, code: Code) {
    for _ in 0..1_000 {
        order_all(progress, plan, |_| ());
        let Some(&attempt) = progress.in_flight.keys().next() else {
            return;
        };
        end(
            progress,
            plan,
            attempt,
            Outcome::Failed(Failure::passing(code, "a test")),
        );
    }
    panic!("it is tried again and again: {:?}", progress.in_flight);
}

/// Every point of a migration on its way to a barrier, or to its end.
fn points(plan: &Plan, until: Option<Until>) -> Vec<Progress> {
    let mut progress = Progress::new(plan);
    give(&mut progress, plan, &start(until));
    let mut points = Vec::new();
    go(&mut progress, plan, |at| points.push(at.clone()));
    points
}

fn each_way(mut check: impl FnMut(&Plan, Option<Until>, &Progress)) {
    for restart in [RestartPolicy::Once, RestartPolicy::Never] {
        let plan = plan(restart);
        for until in [None, Some(BARRIERS[0]), Some(BARRIERS[1]), Some(BARRIERS[2])] {
            for point in points(&plan, until) {
                check(&plan, until, &point);
            }
        }
    }
}

#[test]
fn what_keeps_failing_ends_whatever_its_cause_is_called() {
    each_way(|plan, _, point| {
        for code in [Code::ReleaseFailed, Code::ZookeeperAway, Code::ClickhouseAway] {
            for order in [None, Some(OperatorOrder::Abort)] {
                let mut progress = point.clone();
                if let Some(order) = order {
                    give(&mut progress, plan, &order);
                }
                fail_for(&mut progress, plan, code);
                // What was mended is tried again, also the way back.
                let retry = OperatorOrder::Retry {
                    table: None,
                    host: None,
                };
                give(&mut progress, plan, &retry);
                go(&mut progress, plan, |_| ());
                let standing = progress.facts(plan).standing;
                assert!(
                    !matches!(standing, Standing::Failed | Standing::AbortFailed),
                    "{standing:?}"
                );
            }
        }
    });
}

#[test]
fn a_barrier_is_held_or_refused_with_a_step_that_is_beyond_it_wherever_it_is_given() {
    let (mut held, mut refused) = (0, 0);
    each_way(|plan, _, point| {
        for barrier in BARRIERS {
            let mut progress = point.clone();
            match give(&mut progress, plan, &start(Some(barrier))) {
                Answer::Taken { .. } | Answer::Already(Already::Running | Already::At(_)) => {
                    go(&mut progress, plan, |_| ());
                    let facts = progress.facts(plan);
                    assert_eq!((facts.standing, facts.until), (Standing::AtBarrier, Some(barrier)));
                    assert_eq!(facts.beyond(barrier), None);
                    let deleted = progress.sets.iter().any(|set| set.is_irreversible());
                    assert!(barrier > Until::Detached || !deleted);
                    held += 1;
                }
                Answer::Refused(Refusal::Beyond(until, intent)) => {
                    let row = row(plan.request.mode, intent.step).unwrap();
                    assert!(until == barrier && row.passes && row.leads_to > barrier, "{intent:?}");
                    refused += 1;
                }
                Answer::Refused(Refusal::Completed) => assert_eq!(point.state(plan), State::Completed),
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(held > 300 && refused > 300, "{held} {refused}");
}

#[test]
fn a_record_alone_is_not_beyond_the_barrier_before_the_delete() {
    let plan = plan(RestartPolicy::Never);
    let recording = |at: &&Progress| at.in_flight.values().any(|intent| intent.step == StepKind::Record);
    let all = points(&plan, None);
    let mut progress = all.iter().find(recording).unwrap().clone();
    give(&mut progress, &plan, &start(Some(Until::Detached)));
    go(&mut progress, &plan, |_| ());
    assert!(progress.sets.iter().any(|set| set.record.is_some()));
    assert!(progress.sets.iter().all(|set| !set.is_irreversible()));
}

#[test]
fn no_pause_resume_start_or_retry_on_the_way_lifts_a_barrier() {
    let all = OperatorOrder::Retry {
        table: None,
        host: None,
    };
    each_way(|plan, until, point| {
        let Some(barrier) = until.filter(|_| point.facts(plan).standing == Standing::Running) else {
            return;
        };
        for orders in [
            vec![start(None)],
            vec![all.clone(), start(None)],
            vec![OperatorOrder::Pause, OperatorOrder::Resume],
            vec![OperatorOrder::Pause, start(None)],
            vec![
                OperatorOrder::Pause,
                all.clone(),
                OperatorOrder::Pause,
                OperatorOrder::Resume,
            ],
        ] {
            let mut progress = point.clone();
            for order in &orders {
                let is_refused = matches!(give(&mut progress, plan, order), Answer::Refused(_));
                assert!(!is_refused, "{order:?} of {orders:?}");
                if *order == OperatorOrder::Pause {
                    // What is under way ends meanwhile, and may reach the barrier.
                    go(&mut progress, plan, |at| assert!(at.paused));
                }
            }
            go(&mut progress, plan, |_| ());
            let facts = progress.facts(plan);
            assert_eq!(
                (facts.standing, facts.until),
                (Standing::AtBarrier, Some(barrier)),
                "{orders:?}"
            );
            // What stands at it goes on with the next one.
            give(&mut progress, plan, &start(None));
            go(&mut progress, plan, |_| ());
            assert_eq!(progress.state(plan), State::Completed);
        }
    });
}

#[test]
fn what_is_aborted_anywhere_ends_aborted() {
    each_way(|plan, _, point| {
        let mut progress = point.clone();
        match give(&mut progress, plan, &OperatorOrder::Abort) {
            Answer::Taken { .. } => {
                go(&mut progress, plan, |_| ());
                assert_eq!(progress.state(plan), State::Aborted);
            }
            Answer::Refused(Refusal::Completed) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// A migration in every state that orders tell apart, with what people call it.
fn states(plan: &Plan) -> Vec<(&'static str, Standing, Progress)> {
    let after = |before: &Progress, orders: &[OperatorOrder]| {
        let mut progress = before.clone();
        for order in orders {
            let answer = give(&mut progress, plan, order);
            assert!(matches!(answer, Answer::Taken { .. }), "{order:?}: {answer:?}");
        }
        order_all(&mut progress, plan, |_| ());
        progress
    };
    let on = |before: &Progress, how: fn(&mut Progress, &Plan)| {
        let mut progress = before.clone();
        how(&mut progress, plan);
        progress
    };
    let well: fn(&mut Progress, &Plan) = |progress, plan| go(progress, plan, |_| ());
    let (pause, to) = (OperatorOrder::Pause, start(Some(Until::ZkCleaned)));
    let planned = Progress::new(plan);
    let running = after(&planned, &[start(None)]);
    let to_barrier = after(&planned, std::slice::from_ref(&to));
    let at_barrier = on(&to_barrier, well);
    let aborting = after(&at_barrier, &[OperatorOrder::Abort]);
    vec![
        ("PLANNED", Standing::Planned, planned),
        ("RUNNING without a barrier", Standing::Running, running.clone()),
        ("RUNNING before its barrier", Standing::Running, to_barrier.clone()),
        (
            "PAUSED by `pause` without a barrier",
            Standing::Paused,
            after(&running, std::slice::from_ref(&pause)),
        ),
        (
            "PAUSED by `pause` before its barrier",
            Standing::Paused,
            after(&to_barrier, std::slice::from_ref(&pause)),
        ),
        (
            "PAUSED by `pause` at its barrier",
            Standing::Paused,
            after(&at_barrier, std::slice::from_ref(&pause)),
        ),
        ("PAUSED at its barrier", Standing::AtBarrier, at_barrier),
        ("FAILED without a barrier", Standing::Failed, on(&running, fail)),
        ("FAILED before its barrier", Standing::Failed, on(&to_barrier, fail)),
        ("being aborted: RUNNING", Standing::Aborting, aborting.clone()),
        (
            "being aborted: PAUSED",
            Standing::AbortPaused,
            after(&aborting, &[pause]),
        ),
        ("being aborted: FAILED", Standing::AbortFailed, on(&aborting, fail)),
        ("ABORTED", Standing::Aborted, on(&aborting, well)),
        ("COMPLETED", Standing::Completed, on(&running, well)),
    ]
}

/// What may be ordered, with what people call it: of barriers one that can hold, the one in force, and one that cannot.
fn orders(facts: &Facts<'_>) -> Vec<(&'static str, Option<OperatorOrder>)> {
    let (table, host) = (TableName::new("d", "t0"), "h0".parse().unwrap());
    let holds = if facts.until.is_some() {
        Until::Restarted
    } else {
        Until::ZkCleaned
    };
    vec![
        ("start", Some(start(None))),
        ("start --until X, which can hold", Some(start(Some(holds)))),
        (
            "start --until X, the one in force",
            facts.until.map(|until| start(Some(until))),
        ),
        (
            "start --until X, too late",
            (facts.standing != Standing::Planned).then(|| start(Some(Until::Detached))),
        ),
        ("start --until restored", Some(start(Some(Until::Restored)))),
        ("pause", Some(OperatorOrder::Pause)),
        ("resume", Some(OperatorOrder::Resume)),
        (
            "retry, also with --table or --host",
            Some(OperatorOrder::Retry {
                table: None,
                host: None,
            }),
        ),
        ("skip --table", Some(OperatorOrder::Skip { table: table.clone() })),
        ("skip --host, also with --table", Some(OperatorOrder::Leave { host })),
        ("abort", Some(OperatorOrder::Abort)),
    ]
}

/// The exit code and the answer, as the table has them.
fn described(order: &OperatorOrder, facts: &Facts<'_>) -> (&'static str, String) {
    let follows = matches!(order, OperatorOrder::Start { .. });
    let answer = answer(order, facts);
    let exit = match (&answer, follows) {
        (Answer::Refused(_), _) => "2",
        (Answer::Taken { .. } | Answer::Already(_), true) => "as it ends",
        (Answer::Taken { .. } | Answer::Already(_), false) => "0",
    };
    let to = |until: Option<Until>| match until {
        None => "to the end",
        Some(until) if Some(until) == facts.until => "to the barrier in force",
        Some(_) => "to X",
    };
    let text = match answer {
        Answer::Taken { effect, .. } => match effect {
            Effect::Starts => "makes the checks again (3: blocked), and starts".to_owned(),
            Effect::GoesOn(until) => format!("goes on {}", to(until)),
            Effect::StaysAt(_) => "lifts the pause, and stands at its barrier; the next one goes beyond".to_owned(),
            Effect::StopsAt(_) => "sets X, and follows".to_owned(),
            Effect::WillStopAt(_) => "sets X for what `retry` sets going".to_owned(),
            Effect::LiftsBarrier => "lifts the barrier".to_owned(),
            Effect::GoesOnAborting => "goes on with the abort".to_owned(),
            Effect::Pauses => "nothing new is ordered, also after `retry`".to_owned(),
            Effect::Retries => "tried again, no further than the barrier in force".to_owned(),
            Effect::RetriesLater => "tried again once it goes on".to_owned(),
            Effect::LeavesOut => "left out, where it still can be; else refused (2)".to_owned(),
            Effect::AbortsPlanned => "ABORTED at once".to_owned(),
            Effect::Aborts => "puts back, carries forward; ABORTED in the end; a barrier is lifted".to_owned(),
        },
        Answer::Already(so) => match so {
            Already::Running => "follows; a barrier stays".to_owned(),
            Already::At(_) => "stands there".to_owned(),
            Already::Failed => "says that `retry` is needed; a barrier stays".to_owned(),
            Already::Completed => "says so".to_owned(),
            Already::Aborting if follows => "follows the abort".to_owned(),
            Already::Aborting => "says so".to_owned(),
            Already::AbortFailed => "says that `retry` is needed".to_owned(),
            Already::Paused => "says so".to_owned(),
        },
        Answer::Refused(why) => match why {
            Refusal::NotStarted => "refused: never started".to_owned(),
            Refusal::NotRunning => "refused: nothing runs".to_owned(),
            Refusal::NotPaused => "refused: not paused".to_owned(),
            Refusal::Beyond(..) => "refused, with the step beyond X that was ordered".to_owned(),
            Refusal::BarrierWhileAborting => "refused: an abort stops at no barrier".to_owned(),
            Refusal::Completed => "refused: completed already".to_owned(),
            Refusal::Aborted => "refused: plan anew under another name".to_owned(),
        },
    };
    (exit, text)
}

/// The states in one cell: those that differ only in the barrier are one, where they are answered alike.
fn grouped(states: &[&str]) -> String {
    let mut shown = states.join("; ");
    for (all, one) in [
        ("RUNNING without a barrier; RUNNING before its barrier", "RUNNING"),
        (
            "PAUSED by `pause` without a barrier; PAUSED by `pause` before its barrier; PAUSED by `pause` at its barrier",
            "PAUSED by `pause`",
        ),
        ("FAILED without a barrier; FAILED before its barrier", "FAILED"),
        (
            "being aborted: RUNNING; being aborted: PAUSED; being aborted: FAILED",
            "being aborted",
        ),
        (
            "RUNNING; PAUSED by `pause`; PAUSED at its barrier; FAILED",
            "RUNNING; PAUSED; FAILED",
        ),
    ] {
        shown = shown.replace(all, one);
    }
    shown
}

#[test]
fn every_order_in_every_state_is_answered_as_the_documentation_says() {
    let plan = plan(RestartPolicy::Once);
    let states = states(&plan);
    for (name, standing, progress) in &states {
        assert_eq!(progress.facts(&plan).standing, *standing, "{name}");
    }
    let beyond = Intent {
        attempt: 1,
        host: 0,
        step: StepKind::Finish,
        target: Target::Table(0),
    };
    let late = BTreeMap::from([(Until::Restored, beyond)]);
    let mut table = String::from("| order | state | answer | exit |\n| --- | --- | --- | --- |\n");
    let names: Vec<&str> = orders(&states[0].2.facts(&plan))
        .iter()
        .map(|(name, _)| *name)
        .collect();
    for (ix, name) in names.into_iter().enumerate() {
        let mut rows: Vec<(Vec<&str>, (&str, String))> = Vec::new();
        for (state, _, progress) in &states {
            let mut facts = progress.facts(&plan);
            let Some(order) = orders(&facts).swap_remove(ix).1 else {
                continue;
            };
            if name.ends_with("too late") {
                facts.firsts = &late;
            }
            let told = described(&order, &facts);
            match rows.iter_mut().find(|(_, other)| *other == told) {
                Some((states, _)) => states.push(state),
                None => rows.push((vec![state], told)),
            }
        }
        for (states, (exit, text)) in rows {
            let _ = writeln!(table, "| `{name}` | {} | {text} | {exit} |", grouped(&states));
        }
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/orders.md");
    let documented = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        documented.contains(&table),
        "docs/orders.md does not have this table:\n\n{table}"
    );
}
