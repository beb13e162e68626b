//! Random orders of events, crashes, resends and lost agents against the core; a model of the cluster checks every
//! command at the moment when it takes effect, and the core's invariants after every record.
//!
//! Each guard is taken out in turn, and the same check has to turn red: a guard that nothing needs is no guard.

mod ways;
mod wild;
pub(super) mod world;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use rekeeper_shared::domain::plan::{Mode, Plan, RestartPolicy, SetIx};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Outcome, StepKind, Target};
use rekeeper_shared::people::view::{State, TableStatus, Until};

use super::guard::Guard;
use super::modes::rows;
use super::{Intent, OperatorOrder, Progress, Record};
use world::{MAY_DIVERGE, Set, Table, World, plan};

thread_local! {
    /// The guard that is taken out.
    static WITHOUT: Cell<Option<Guard>> = const { Cell::new(None) };
    /// The steps that were proposed in this test.
    static PROPOSED: RefCell<BTreeSet<StepKind>> = const { RefCell::new(BTreeSet::new()) };
}

/// Whether the guard is taken out in this test.
pub(super) fn is_taken_out(guard: Guard) -> bool {
    WITHOUT.get() == Some(guard)
}

struct Simulation {
    plan: Plan,
    log: Vec<Record>,
    progress: Progress,
    world: World,
    commands: VecDeque<Intent>,
    events: VecDeque<(u64, Outcome)>,
    statuses: Vec<TableStatus>,
}

impl Simulation {
    fn new(restart: RestartPolicy) -> Self {
        let plan = plan(restart);
        let world = World {
            tables: vec![Table::InService; plan.tables.len()],
            synced: vec![false; plan.tables.len()],
            sets: vec![
                Set {
                    equal: true,
                    ..Set::default()
                };
                plan.sets.len()
            ],
            restarted: vec![false; plan.hosts.len()],
            manifests: vec![false; plan.tables.len()],
            left: vec![false; plan.hosts.len()],
        };
        let statuses = vec![TableStatus::Init; plan.tables.len()];
        let progress = Progress::new(&plan);
        Self {
            plan,
            log: vec![],
            progress,
            world,
            commands: VecDeque::new(),
            events: VecDeque::new(),
            statuses,
        }
    }

    fn write(&mut self, record: Record) -> Result<(), String> {
        let before = ways::stages(&self.progress);
        self.progress.apply(&self.plan, &record).map_err(|e| e.to_string())?;
        ways::note(&before, &self.progress)?;
        self.log.push(record);
        let has_problem = (0..self.plan.tables.len()).any(|t| self.progress.problem_of(&self.plan, t).is_some());
        if self.progress.state(&self.plan) == State::Failed && !has_problem {
            return Err("nothing can go on, and no problem says why".into());
        }
        if let Some(set) = self
            .progress
            .sets
            .iter()
            .position(|set| set.skipped && set.is_irreversible())
        {
            return Err(format!("set {set} is deleted although it is skipped"));
        }
        let irreversible: BTreeSet<SetIx> = (0..self.plan.sets.len())
            .filter(|&s| self.progress.sets[s].is_irreversible())
            .collect();
        for table in 0..self.plan.tables.len() {
            let now = self.progress.status_of(&self.plan, table);
            let before = std::mem::replace(&mut self.statuses[table], now);
            let back_by_attach = now == TableStatus::Init && !irreversible.contains(&self.plan.tables[table].set);
            if now < before && !back_by_attach {
                return Err(format!("table {table} went from {before:?} back to {now:?}"));
            }
        }
        Ok(())
    }

    fn order(&mut self, order: OperatorOrder) -> Result<(), String> {
        self.write(Record::Ordered {
            by: "test".into(),
            order,
        })
    }

    /// The coordinator orders what it can.
    fn drive(&mut self) -> Result<(), String> {
        for proposal in self.progress.proposals(&self.plan) {
            PROPOSED.with_borrow_mut(|steps| steps.insert(proposal.row.step));
            if self.progress.paused {
                return Err("ordered while paused".into());
            }
            if self.progress.until == Some(Until::Detached) && proposal.row.step == StepKind::Record {
                return Err("went beyond the barrier".into());
            }
            for (target, hosts) in proposal.members {
                if self.world.left[hosts[0]] {
                    return Err(format!(
                        "{:?} of {target:?} is ordered of a host that was left out",
                        proposal.row.step
                    ));
                }
                if let Target::Host(host) = target {
                    self.check_restart(host)?;
                }
                let attempt = self.progress.next_attempt;
                let intent = Intent {
                    attempt,
                    host: hosts[0],
                    step: proposal.row.step,
                    target,
                };
                let set_of = |target| match target {
                    Target::Table(t) => Some(self.plan.tables[t].set),
                    Target::Set(s) => Some(s),
                    Target::Host(_) => None,
                };
                for other in self.progress.in_flight.values() {
                    let whole_set = matches!(other.target, Target::Set(_)) || matches!(target, Target::Set(_));
                    if other.target == target
                        || (whole_set && set_of(other.target) == set_of(target) && set_of(target).is_some())
                    {
                        return Err(format!("{intent:?} while {other:?} is under way"));
                    }
                }
                // An intent that the one before made impossible is left for the next round.
                if self.progress.may(&self.plan, proposal.row.step, target).is_ok() {
                    if intent.step == StepKind::Restart {
                        self.check_keepers(intent.host)?;
                    }
                    self.write(Record::Intent(intent))?;
                    self.commands.push_back(intent);
                }
            }
        }
        Ok(())
    }

    /// A server is restarted once, so every set of it that can still be cleaned has to be.
    fn check_restart(&self, host: usize) -> Result<(), String> {
        for set in self.plan.sets_on(host) {
            let given_up = self.progress.aborting
                || self.progress.sets[set].skipped
                || self.progress.set_has_problem(&self.plan, set);
            if !self.world.sets[set].gone && !given_up {
                return Err(format!("host {host} is restarted before its set {set} is cleaned"));
            }
        }
        Ok(())
    }

    /// Of the servers that run nodes of a Keeper only one may be away.
    fn check_keepers(&self, host: usize) -> Result<(), String> {
        let begun = |other: usize| {
            let ordered =
                |r: &&Record| matches!(r, Record::Intent(i) if i.step == StepKind::Restart && i.host == other);
            self.log.iter().any(|record| ordered(&record)) && self.progress.hosts[other].restarted_at.is_none()
        };
        let keeper = |other: usize| self.plan.hosts[other].runs_keeper && !self.world.left[other];
        let mut others = (0..self.plan.hosts.len()).filter(|&other| other != host && keeper(other));
        match others.find(|&other| keeper(host) && begun(other)) {
            Some(other) => Err(format!("host {host} is restarted while host {other} may be away")),
            None => Ok(()),
        }
    }

    /// One command arrives: it is done, fails before or after its effect, or the agent dies before or after it.
    fn deliver_command(&mut self, fate: u16) -> Result<(), String> {
        let Some(intent) = self.commands.pop_front() else {
            return Ok(());
        };
        if !self.progress.in_flight.contains_key(&intent.attempt) || self.events.iter().any(|e| e.0 == intent.attempt) {
            return Ok(()); // A resend of what ended meanwhile: the agent has it in its outbox.
        }
        let failure = |retry| Failure {
            retry,
            ..Failure::passing(Code::DetachFailed, "random")
        };
        match fate % 16 {
            0 => self.commands.push_back(intent), // The agent died before it began; the command is sent again.
            1 => {
                self.world.execute(&self.plan, intent)?;
                self.commands.push_back(intent); // It died after the effect, before its event left.
            }
            2 => self.events.push_back((intent.attempt, Outcome::Failed(failure(true)))),
            3 => self.events.push_back((intent.attempt, Outcome::Failed(failure(false)))),
            4 => {
                self.world.execute(&self.plan, intent)?;
                self.events.push_back((intent.attempt, Outcome::Failed(failure(true))));
            }
            _ => {
                let done = self.world.execute(&self.plan, intent)?;
                self.events.push_back((intent.attempt, Outcome::Done(done)));
            }
        }
        Ok(())
    }

    fn deliver_event(&mut self, twice: bool) -> Result<(), String> {
        let Some((attempt, outcome)) = self.events.pop_front() else {
            return Ok(());
        };
        if !self.progress.in_flight.contains_key(&attempt) {
            return Ok(()); // Its host was left out meanwhile: the driver takes it for one that is on record already.
        }
        self.write(Record::Event {
            attempt,
            outcome: outcome.clone(),
        })?;
        if twice
            && self
                .progress
                .apply(&self.plan, &Record::Event { attempt, outcome })
                .is_ok()
        {
            return Err(format!("event {attempt} counted twice"));
        }
        Ok(())
    }

    /// The coordinator dies and starts again: what is under way is sent again, what was sent may still arrive.
    fn crash(&mut self) -> Result<(), String> {
        let mut again = Progress::new(&self.plan);
        for record in &self.log {
            again
                .apply(&self.plan, record)
                .map_err(|e| format!("the log cannot be read back: {e}"))?;
        }
        if again != self.progress {
            return Err("the log tells another story than the memory".into());
        }
        self.progress = again;
        self.commands.extend(self.progress.in_flight.values().copied());
        Ok(())
    }

    fn step(&mut self, choice: u16) -> Result<(), String> {
        let detail = choice / 32;
        match choice % 32 {
            0..=9 => self.drive(),
            10..=19 => self.deliver_command(detail),
            20..=26 => self.deliver_event(detail.is_multiple_of(4)),
            27 => self.crash(),
            28 => {
                // Somebody inserts into a replica in service: the others lag until they have caught up.
                let table = usize::from(detail) % self.world.tables.len();
                let set = self.plan.tables[table].set;
                if self.world.tables[table] == Table::InService && !self.world.sets[set].frozen {
                    self.world.sets[set].equal = detail.is_multiple_of(2);
                    self.world.sets[set].apart |= set == MAY_DIVERGE && detail % 16 == 8;
                }
                Ok(())
            }
            29 => self.order(OperatorOrder::Pause),
            30 => self.order(if detail.is_multiple_of(2) {
                OperatorOrder::Resume
            } else {
                OperatorOrder::Retry {
                    table: None,
                    host: None,
                }
            }),
            _ => match detail % 24 {
                0 => self.order(OperatorOrder::Abort),
                3 => {
                    let table = usize::from(detail / 24) % self.plan.tables.len();
                    let table = self.plan.tables[table].name.clone();
                    self.order(OperatorOrder::Skip { table })
                }
                4 => self.leave(usize::from(detail / 24) % self.plan.hosts.len()),
                1 => self.order(OperatorOrder::Start {
                    until: Some(Until::Detached),
                }),
                2 => self.order(OperatorOrder::Start {
                    until: Some(Until::ZkCleaned),
                }),
                _ => self.order(OperatorOrder::Start { until: None }),
            },
        }
    }

    /// A host never comes back, and the operator goes on without it.
    fn leave(&mut self, host: usize) -> Result<(), String> {
        let state = self.progress.state(&self.plan);
        if matches!(state, State::Completed | State::Aborted)
            || self.progress.may_not_be_left(&self.plan, host).is_some()
        {
            return Ok(()); // The driver refuses it.
        }
        let lost = |set: usize| {
            let of_others = self.plan.sets[set]
                .tables
                .iter()
                .filter(|&&t| self.plan.tables[t].host != host);
            let has_rows = |&&t: &&usize| !self.world.left[self.plan.tables[t].host];
            self.world.sets[set].apart && self.world.sets[set].gone && of_others.filter(has_rows).count() > 0
        };
        let unfinished = |set: &usize| !self.progress.is_over(&self.plan, *set);
        if let Some(set) = self.plan.sets_on(host).filter(unfinished).find(|&set| lost(set)) {
            return Err(format!(
                "host {host} is left out with rows of set {set} that no other has"
            ));
        }
        self.world.left[host] = true;
        let host = self.plan.hosts[host].name.clone();
        self.order(OperatorOrder::Leave { host })
    }

    /// No more faults: everything has to come to an end.
    fn calm_down(&mut self) -> Result<State, String> {
        for set in &mut self.world.sets {
            set.equal = true;
        }
        for _ in 0..3 {
            self.order(OperatorOrder::Start { until: None })?;
            self.order(OperatorOrder::Retry {
                table: None,
                host: None,
            })?;
            for _ in 0..2_000 {
                self.drive()?;
                if self.commands.is_empty() && self.events.is_empty() {
                    break;
                }
                self.deliver_command(5)?;
                self.deliver_event(false)?;
            }
        }
        Ok(self.progress.state(&self.plan))
    }

    fn check_end(&self, state: State) -> Result<(), String> {
        let left = |t: usize| self.world.left[self.plan.tables[t].host];
        let finished = |&t: &usize| left(t) || self.world.tables[t] == Table::Finished;
        for (ix, set) in self.plan.sets.iter().enumerate() {
            let given_up = self.progress.aborting || self.progress.sets[ix].skipped;
            let all = set.tables.iter().all(finished);
            let back = set
                .tables
                .iter()
                .all(|&t| left(t) || self.world.tables[t] == Table::InService);
            if !(all || (back && given_up)) {
                return Err(format!(
                    "{} ended neither restored nor in service ({state:?}): {:?}",
                    set.path, self.world.tables
                ));
            }
        }
        if matches!(state, State::Completed | State::Aborted) {
            Ok(())
        } else {
            Err(format!("ended as {state:?}"))
        }
    }
}

fn run(restart: RestartPolicy, choices: &[u16]) -> Result<(), String> {
    let mut simulation = Simulation::new(restart);
    simulation.drive()?;
    if !simulation.progress.in_flight.is_empty() {
        return Err("ordered before it was started".into());
    }
    simulation.order(OperatorOrder::Start { until: None })?;
    for &choice in choices {
        simulation.step(choice)?;
    }
    simulation.crash()?;
    let state = simulation.calm_down()?;
    simulation.check_end(state)
}

fn check(cases: u32) -> Result<(), String> {
    let input = (
        prop_oneof![Just(RestartPolicy::Once), Just(RestartPolicy::Never)],
        proptest::collection::vec(any::<u16>(), 0..600),
    );
    explore(cases, &input, |(restart, choices)| run(restart, &choices))
}

/// Tells so many histories, the same ones each time.
fn explore<S: Strategy>(cases: u32, input: &S, history: impl Fn(S::Value) -> Result<(), String>) -> Result<(), String> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(input, |choices| history(choices).map_err(TestCaseError::fail))
        .map_err(|e| match e {
            TestError::Fail(reason, _) => reason.message().to_owned(),
            TestError::Abort(reason) => format!("aborted: {reason}"),
        })
}

#[test]
fn invariants_hold_in_any_order_of_events_crashes_and_resends() {
    check(300).unwrap();
}

#[test]
fn every_step_of_each_mode_is_proposed_in_some_history() {
    let mode = plan(RestartPolicy::Once).request.mode;
    check(100).unwrap();
    let proposed = PROPOSED.take();
    let of_mode: BTreeSet<StepKind> = rows(mode).iter().map(|row| row.step).collect();
    assert_eq!(of_mode, proposed);
    let unused = |step: &&StepKind| rows(Mode::Rebuild).iter().all(|row| row.step != **step);
    assert_eq!(StepKind::ALL.iter().find(unused), None, "in no mode");
}

#[test]
fn each_guard_turns_the_check_red_when_it_is_taken_out() {
    let mut useless = Vec::new();
    for &guard in Guard::ALL {
        WITHOUT.set(Some(guard));
        let found = check(300);
        WITHOUT.set(None);
        match found {
            Err(what) => println!("without {guard:?}: {what}"),
            Ok(()) => useless.push(guard),
        }
    }
    assert!(useless.is_empty(), "nothing turned red without {useless:?}");
}
