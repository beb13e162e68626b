//! What is answered to an order of people, in every state of a migration: one function, and nothing else decides it. What
//! an order is about (a table, a host) may stop it besides; that is judged where its words are made. docs/orders.md has
//! all of it as a table, which a test compares.

use std::collections::BTreeMap;
use std::ops::Bound;

use rekeeper_shared::domain::plan::Plan;
use rekeeper_shared::people::view::{State, Until};

use super::{Intent, OperatorOrder, Progress};

/// Where a migration stands, as far as orders tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// PLANNED: nothing was ordered yet.
    Planned,
    /// RUNNING, forward.
    Running,
    /// PAUSED by `pause`.
    Paused,
    /// PAUSED at its barrier.
    AtBarrier,
    /// FAILED: nothing can go on before people have done something.
    Failed,
    /// RUNNING, on the way that `abort` has set it on.
    Aborting,
    /// The same, PAUSED by `pause`.
    AbortPaused,
    /// The same, FAILED: what is cleaned is held by a problem.
    AbortFailed,
    /// ABORTED: for good, the name is used up.
    Aborted,
    /// COMPLETED: nothing is left to order.
    Completed,
}

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Derived from the log when the order comes in.
    pub standing: Standing,
    /// The status at which it stops; none runs to the end.
    pub until: Option<Until>,
    /// Nothing is left to do before the barrier in force: also when it was paused on the way there.
    pub at_barrier: bool,
    /// The first step that was ordered of what leads to each barrier.
    pub firsts: &'a BTreeMap<Until, Intent>,
}

impl Facts<'_> {
    /// The first step beyond a barrier that was ordered, if any was: then the barrier cannot hold any more.
    #[must_use]
    pub fn beyond(&self, until: Until) -> Option<Intent> {
        let beyond = self.firsts.range((Bound::Excluded(until), Bound::Unbounded));
        beyond.map(|(_, intent)| *intent).min_by_key(|intent| intent.attempt)
    }

    /// Whether this barrier is the one in force; `restored` is none.
    fn is_in_force(&self, until: Until) -> bool {
        restricting(Some(until)) == restricting(self.until)
    }
}

/// The answer to an order of people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is written down as this order, and has this effect.
    Taken {
        /// What is written down. It may say more than what was given: the barrier that is kept.
        order: OperatorOrder,
        /// What comes of it.
        effect: Effect,
    },
    /// It is so already: nothing is written down.
    Already(Already),
    /// Nothing changes, and this is why.
    Refused(Refusal),
}

/// What comes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It starts, to the barrier or to the end.
    Starts,
    /// It goes on, to the barrier or to the end.
    GoesOn(Option<Until>),
    /// It is paused no more, and stands at its barrier.
    StaysAt(Until),
    /// It runs, and will stop at this barrier.
    StopsAt(Until),
    /// It has failed; what `retry` sets going will stop at this barrier.
    WillStopAt(Until),
    /// It has no barrier any more.
    LiftsBarrier,
    /// It goes on with the abort.
    GoesOnAborting,
    /// It is paused.
    Pauses,
    /// The problems are forgotten, and what had them is tried again.
    Retries,
    /// The same, once it goes on.
    RetriesLater,
    /// A table, a host or a replica is left out.
    LeavesOut,
    /// Nothing was done yet: nothing has to be put back.
    AbortsPlanned,
    /// What is not cleaned goes back, what is goes forward.
    Aborts,
}

/// What is so already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Already {
    /// It runs.
    Running,
    /// It stands at this barrier.
    At(Until),
    /// It has failed, and stands until `retry`, `skip` or `abort`.
    Failed,
    /// It is completed.
    Completed,
    /// It is being aborted.
    Aborting,
    /// It is being aborted, and a problem holds that.
    AbortFailed,
    /// It is paused.
    Paused,
}

/// Why an order is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was never started.
    NotStarted,
    /// Nothing runs that could be paused.
    NotRunning,
    /// It is not paused, so it cannot be resumed.
    NotPaused,
    /// This step beyond the barrier was ordered already.
    Beyond(Until, Intent),
    /// What is aborted stops at no barrier.
    BarrierWhileAborting,
    /// It is completed.
    Completed,
    /// It was aborted.
    Aborted,
}

impl Progress {
    /// What the answer to an order depends on.
    #[must_use]
    pub fn facts(&self, plan: &Plan) -> Facts<'_> {
        let standing = match (self.state(plan), self.aborting) {
            (State::Planned, _) => Standing::Planned,
            (State::Running, false) => Standing::Running,
            (State::Running, true) => Standing::Aborting,
            (State::Paused, _) if !self.paused => Standing::AtBarrier,
            (State::Paused, false) => Standing::Paused,
            (State::Paused, true) => Standing::AbortPaused,
            (State::Failed, false) => Standing::Failed,
            (State::Failed, true) => Standing::AbortFailed,
            (State::Completed, _) => Standing::Completed,
            (State::Aborted, _) => Standing::Aborted,
        };
        Facts {
            standing,
            until: self.until,
            at_barrier: standing == Standing::AtBarrier || standing == Standing::Paused && self.would_stand(plan),
            firsts: &self.firsts,
        }
    }

    /// Whether it would stand at its barrier, were it not paused.
    fn would_stand(&self, plan: &Plan) -> bool {
        let mut going = self.clone();
        going.paused = false;
        going.state(plan) == State::Paused
    }
}

/// The answer to an order.
#[must_use]
pub fn answer(order: &OperatorOrder, facts: &Facts<'_>) -> Answer {
    match order {
        OperatorOrder::Start { until } => start(*until, facts),
        OperatorOrder::Pause => pause(facts),
        OperatorOrder::Resume => resume(facts),
        OperatorOrder::Retry { .. } => match facts.standing {
            Standing::Planned => Answer::Refused(Refusal::NotStarted),
            Standing::Running | Standing::AtBarrier | Standing::Failed | Standing::Aborting | Standing::AbortFailed => {
                taken(order, Effect::Retries)
            }
            Standing::Paused | Standing::AbortPaused => taken(order, Effect::RetriesLater),
            Standing::Completed => Answer::Refused(Refusal::Completed),
            Standing::Aborted => Answer::Refused(Refusal::Aborted),
        },
        OperatorOrder::Skip { .. } => leave_out(order, facts, true),
        OperatorOrder::Leave { .. } | OperatorOrder::LeaveTable { .. } => leave_out(order, facts, false),
        OperatorOrder::Abort => match facts.standing {
            Standing::Planned => taken(order, Effect::AbortsPlanned),
            Standing::Running | Standing::Paused | Standing::AtBarrier | Standing::Failed => {
                taken(order, Effect::Aborts)
            }
            Standing::AbortPaused => taken(order, Effect::GoesOnAborting),
            Standing::Aborting => Answer::Already(Already::Aborting),
            Standing::AbortFailed => Answer::Already(Already::AbortFailed),
            Standing::Completed => Answer::Refused(Refusal::Completed),
            Standing::Aborted => Answer::Refused(Refusal::Aborted),
        },
    }
}

fn start(until: Option<Until>, facts: &Facts<'_>) -> Answer {
    let barrier = restricting(until);
    // Of what has not ended: a barrier beyond which something was ordered cannot hold any more.
    let too_late = || {
        let barrier = barrier?;
        Some(Answer::Refused(Refusal::Beyond(barrier, facts.beyond(barrier)?)))
    };
    let aborting = |going: Answer| match barrier {
        Some(_) => Answer::Refused(Refusal::BarrierWhileAborting),
        None => going,
    };
    match facts.standing {
        Standing::Planned => taken(&OperatorOrder::Start { until }, Effect::Starts),
        Standing::Running => too_late().unwrap_or_else(|| change_barrier(until, facts, Already::Running)),
        Standing::Failed => too_late().unwrap_or_else(|| change_barrier(until, facts, Already::Failed)),
        Standing::Paused => too_late().unwrap_or_else(|| unpause(until, facts)),
        Standing::AtBarrier => too_late().unwrap_or_else(|| match until {
            Some(until) if facts.is_in_force(until) => Answer::Already(Already::At(until)),
            Some(_) | None => to(until, Effect::GoesOn(barrier)),
        }),
        Standing::Aborting => aborting(Answer::Already(Already::Aborting)),
        Standing::AbortFailed => aborting(Answer::Already(Already::AbortFailed)),
        Standing::AbortPaused => aborting(to(None, Effect::GoesOnAborting)),
        Standing::Completed => match barrier {
            Some(_) => Answer::Refused(Refusal::Completed),
            None => Answer::Already(Already::Completed),
        },
        Standing::Aborted => Answer::Refused(Refusal::Aborted),
    }
}

/// `start` of what is not paused: whoever only wants to look on lifts no barrier.
fn change_barrier(until: Option<Until>, facts: &Facts<'_>, so: Already) -> Answer {
    match until {
        None => Answer::Already(so),
        Some(until) if facts.is_in_force(until) => Answer::Already(so),
        Some(Until::Restored) => to(until, Effect::LiftsBarrier),
        Some(barrier @ (Until::Detached | Until::ZkCleaned | Until::Restarted)) => {
            let has_failed = so == Already::Failed;
            let stops = if has_failed {
                Effect::WillStopAt
            } else {
                Effect::StopsAt
            };
            to(until, stops(barrier))
        }
    }
}

/// `start` and `resume` of what was paused by `pause`. Without a barrier the one in force is kept, and one that was reached
/// meanwhile is not passed: who paused before it has not seen it.
fn unpause(until: Option<Until>, facts: &Facts<'_>) -> Answer {
    let until = until.or(facts.until);
    match restricting(until) {
        Some(barrier) if facts.at_barrier && facts.is_in_force(barrier) => to(until, Effect::StaysAt(barrier)),
        barrier => to(until, Effect::GoesOn(barrier)),
    }
}

fn to(until: Option<Until>, effect: Effect) -> Answer {
    taken(&OperatorOrder::Start { until }, effect)
}

fn pause(facts: &Facts<'_>) -> Answer {
    match facts.standing {
        Standing::Planned => Answer::Refused(Refusal::NotStarted),
        // Also at its barrier: what `retry` sets going would run up to there.
        Standing::Running | Standing::AtBarrier | Standing::Aborting => taken(&OperatorOrder::Pause, Effect::Pauses),
        Standing::Paused | Standing::AbortPaused => Answer::Already(Already::Paused),
        Standing::Failed | Standing::AbortFailed => Answer::Refused(Refusal::NotRunning),
        Standing::Completed => Answer::Refused(Refusal::Completed),
        Standing::Aborted => Answer::Refused(Refusal::Aborted),
    }
}

fn resume(facts: &Facts<'_>) -> Answer {
    match facts.standing {
        Standing::Planned => Answer::Refused(Refusal::NotStarted),
        Standing::Running | Standing::Failed | Standing::Aborting | Standing::AbortFailed => {
            Answer::Refused(Refusal::NotPaused)
        }
        // On record as `start` to that barrier: `resume` there would pass it.
        Standing::Paused if facts.at_barrier => unpause(None, facts),
        Standing::Paused => taken(&OperatorOrder::Resume, Effect::GoesOn(restricting(facts.until))),
        Standing::AtBarrier => taken(&OperatorOrder::Resume, Effect::GoesOn(None)),
        Standing::AbortPaused => taken(&OperatorOrder::Resume, Effect::GoesOnAborting),
        Standing::Completed => Answer::Refused(Refusal::Completed),
        Standing::Aborted => Answer::Refused(Refusal::Aborted),
    }
}

/// Whether what it is about can be left out is for others to judge.
fn leave_out(order: &OperatorOrder, facts: &Facts<'_>, also_planned: bool) -> Answer {
    match facts.standing {
        Standing::Planned if !also_planned => Answer::Refused(Refusal::NotStarted),
        Standing::Planned
        | Standing::Running
        | Standing::Paused
        | Standing::AtBarrier
        | Standing::Failed
        | Standing::Aborting
        | Standing::AbortPaused
        | Standing::AbortFailed => taken(order, Effect::LeavesOut),
        Standing::Completed => Answer::Refused(Refusal::Completed),
        Standing::Aborted => Answer::Refused(Refusal::Aborted),
    }
}

fn taken(order: &OperatorOrder, effect: Effect) -> Answer {
    Answer::Taken {
        order: order.clone(),
        effect,
    }
}

/// A barrier that stops anything: at `restored` is the end.
fn restricting(until: Option<Until>) -> Option<Until> {
    until.filter(|&until| until != Until::Restored)
}

#[cfg(test)]
mod tests;
