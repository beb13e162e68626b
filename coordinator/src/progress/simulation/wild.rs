//! Histories that no cluster would tell: agents that answer anything which their step may answer, people who order
//! anything that is taken. Nothing is claimed of them but that stages fit, and that they find every way.

use proptest::prelude::*;
use rekeeper_shared::domain::plan::{Plan, RestartPolicy};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, Outcome, StepKind, Target};
use rekeeper_shared::domain::unsettled::Unsettled;

use super::world::plan;
use super::{explore, ways};
use crate::progress::orders::{Answer, answer};
use crate::progress::rehearsal::done;
use crate::progress::{Intent, OperatorOrder, Progress, Record};

/// One random choice, of which several smaller ones are made.
struct Choice(u32);

impl Choice {
    fn of(&mut self, number: usize) -> usize {
        let number = u32::try_from(number).unwrap();
        let chosen = self.0 % number;
        self.0 /= number;
        usize::try_from(chosen).unwrap()
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.of(of.len())].clone())
    }
}

fn reasons(choice: &mut Choice) -> Vec<Unsettled> {
    let replica = || "r0".to_owned();
    let may_catch_up = Unsettled::Log {
        replica: replica(),
        pointer: 0,
        end: 1,
    };
    let may_diverge = Unsettled::Content {
        one: replica(),
        other: "r1".into(),
        part: "all_0_0_0".into(),
    };
    match choice.of(8) {
        0 => vec![may_catch_up],
        1 => vec![may_diverge],
        2 => vec![Unsettled::Lost { replica: replica() }],
        _ => Vec::new(),
    }
}

fn outcome(choice: &mut Choice, plan: &Plan, intent: Intent) -> Outcome {
    const CODES: [Code; 4] = [
        Code::ReleaseFailed,
        Code::TableChanged,
        Code::PlaceDiffers,
        Code::PathExists,
    ];
    if choice.of(8) == 0 {
        let failure = Failure::passing(CODES[choice.of(CODES.len())], "wild");
        let retry = choice.of(2) == 0;
        return Outcome::Failed(Failure { retry, ..failure });
    }
    Outcome::Done(match (intent.step, intent.target) {
        (StepKind::Settle, _) => Done::Settled(reasons(choice)),
        (StepKind::Record, Target::Set(set)) => Done::Recorded {
            unsettled: reasons(choice),
            digest: (choice.of(4) > 0).then(|| format!("r{}", intent.attempt)),
            order: plan.replica_names(set),
            one_by_one: choice.of(2) == 0,
            export: None,
        },
        _ => done(plan, intent),
    })
}

fn order(choice: &mut Choice, plan: &Plan, progress: &Progress) -> Option<OperatorOrder> {
    let table = choice.of(plan.tables.len());
    let host = plan.tables[table].host;
    let (name, host_name) = (plan.tables[table].name.clone(), plan.hosts[host].name.clone());
    let alone = (0..plan.tables.len()).find(|&table| progress.may_be_left_alone(plan, table).is_ok());
    let order = match (choice.of(24), alone) {
        (0, _) => OperatorOrder::Skip { table: name },
        (1, _) if choice.of(4) == 0 => OperatorOrder::Abort,
        (2, _) if progress.may_not_be_left(plan, host).is_none() => OperatorOrder::Leave { host: host_name },
        (3..=16, Some(table)) => OperatorOrder::LeaveTable {
            table: plan.tables[table].name.clone(),
            host: plan.hosts[plan.tables[table].host].name.clone(),
        },
        (3..=8, None) => return None,
        _ => OperatorOrder::Retry {
            table: None,
            host: None,
        },
    };
    match answer(&order, &progress.facts(plan)) {
        Answer::Taken { order, .. } => Some(order),
        Answer::Already(_) | Answer::Refused(_) => None,
    }
}

fn next(choice: &mut Choice, plan: &Plan, progress: &Progress) -> Option<Record> {
    Some(match choice.of(8) {
        0 => Record::Ordered {
            by: "anna".into(),
            order: order(choice, plan, progress)?,
        },
        1..=3 => {
            let (step, members) = {
                let proposals = progress.proposals(plan);
                let proposal = choice.one(&proposals)?;
                (proposal.row.step, proposal.members)
            };
            let (target, hosts) = choice.one(&members)?;
            Record::Intent(Intent {
                attempt: progress.next_attempt,
                host: hosts[0],
                step,
                target,
            })
        }
        _ => {
            let under_way: Vec<Intent> = progress.in_flight.values().copied().collect();
            let intent = choice.one(&under_way)?;
            Record::Event {
                attempt: intent.attempt,
                outcome: outcome(choice, plan, intent),
            }
        }
    })
}

fn history(choices: &[u32]) -> Result<(), String> {
    let plan = plan(RestartPolicy::Once);
    let mut progress = Progress::new(&plan);
    let start = Record::Ordered {
        by: "anna".into(),
        order: OperatorOrder::Start { until: None },
    };
    progress.apply(&plan, &start).map_err(|e| e.to_string())?;
    for &choice in choices {
        if let Some(record) = next(&mut Choice(choice), &plan, &progress) {
            let before = ways::stages(&progress);
            progress.apply(&plan, &record).map_err(|e| e.to_string())?;
            ways::note(&before, &progress)?;
        }
    }
    Ok(())
}

pub(super) fn check(cases: u32) -> Result<(), String> {
    let input = proptest::collection::vec(any::<u32>(), 300..500);
    explore(cases, &input, |choices| history(&choices))
}
