//! Random orders of events, crashes, resends and lost agents against the core; a model of the cluster checks every
//! command at the moment when it takes effect, and the core's invariants after every record.
//!
//! Each guard is taken out in turn, and the same check has to turn red: a guard that nothing needs is no guard.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use rekeeper_shared::ids::TableName;
use rekeeper_shared::place::{Place, ZkPath};
use rekeeper_shared::plan::{Plan, PlanRequest, PlannedHost, PlannedSet, PlannedTable, RestartPolicy, SetIx};
use rekeeper_shared::problem::Code;
use rekeeper_shared::settle::Unsettled;
use rekeeper_shared::step::{Done, Failure, Outcome, Restored, StepKind, Target};
use rekeeper_shared::view::{State, TableStatus, Until};

use super::guard::Guard;
use super::{Intent, OperatorOrder, Progress, Record};

thread_local! {
    /// The guard that is taken out.
    static WITHOUT: Cell<Option<Guard>> = const { Cell::new(None) };
}

/// Whether the guard is taken out in this test.
pub(super) fn is_taken_out(guard: Guard) -> bool {
    WITHOUT.get() == Some(guard)
}

/// Two waves; the first ties three hosts together by two sets, one of them with three replicas.
fn plan(restart: RestartPolicy) -> Plan {
    let sets = [vec![0, 1, 2], vec![0, 1], vec![3, 4]];
    let mut tables = Vec::new();
    let mut planned_sets = Vec::new();
    for (ix, hosts) in sets.iter().enumerate() {
        let first = tables.len();
        for &host in hosts {
            tables.push(PlannedTable {
                host,
                name: TableName::new("d", format!("t{ix}")),
                uuid: format!("{ix}-{host}"),
                engine: "ReplicatedMergeTree".into(),
                set: ix,
                replica_name: format!("r{host}"),
            });
        }
        planned_sets.push(PlannedSet {
            place: Place {
                ensemble: "default".into(),
                nodes: vec![],
                secure: false,
                chroot: String::new(),
            },
            path: ZkPath::parse(&format!("/t{ix}")).unwrap(),
            tables: (first..tables.len()).collect(),
            wave: usize::from(ix == 2),
        });
    }
    Plan {
        name: "m".parse().unwrap(),
        created: String::new(),
        created_by: String::new(),
        request: PlanRequest {
            restart,
            ..PlanRequest::default()
        },
        hosts: (0..5)
            .map(|h| PlannedHost {
                name: format!("h{h}").parse().unwrap(),
                clickhouse_version: String::new(),
            })
            .collect(),
        tables,
        sets: planned_sets,
        waves: vec![vec![0, 1, 2], vec![3, 4]],
        warnings: vec![],
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    InService,
    Detached,
    ReadOnly,
    Restored,
    Finished,
}

#[derive(Debug, Clone, Default)]
struct Set {
    equal: bool,
    fence: Option<u64>,
    frozen: bool,
    recorded: bool,
    gone: bool,
    witness: bool,
}

/// The cluster as it really is.
struct World {
    tables: Vec<Table>,
    synced: Vec<bool>,
    sets: Vec<Set>,
    restarted: Vec<bool>,
    manifests: Vec<bool>,
}

impl World {
    /// Lets the command take effect; whoever reads this sees what must never happen.
    fn execute(&mut self, plan: &Plan, intent: Intent) -> Result<Done, String> {
        let check = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(format!("{intent:?}: {what}"))
            }
        };
        match (intent.step, intent.target) {
            (StepKind::Sync, Target::Table(t)) => {
                self.synced[t] = true;
                Ok(Done::Plain)
            }
            (StepKind::Detach, Target::Table(t)) => {
                let set = plan.tables[t].set;
                check(!self.sets[set].gone, "detached after the clean")?;
                for &other in &plan.sets[set].tables {
                    check(
                        self.synced[other] || self.tables[other] == Table::Detached,
                        "detached beside a laggard",
                    )?;
                }
                self.tables[t] = Table::Detached;
                Ok(Done::Plain)
            }
            (StepKind::Reattach, Target::Table(t)) => {
                let set = &self.sets[plan.tables[t].set];
                check(!set.gone, "put back on deleted metadata")?;
                check(
                    set.fence.is_none(),
                    "put back under a marker (ATTACH is refused with 253)",
                )?;
                self.tables[t] = Table::InService;
                self.synced[t] = false;
                Ok(Done::Plain)
            }
            (_, Target::Set(s)) => self.execute_on_set(plan, intent, s),
            (StepKind::Restart, Target::Host(h)) => {
                self.restarted[h] = true;
                Ok(Done::Restarted {
                    at: "2026-01-01T00:00:00Z".into(),
                })
            }
            (StepKind::Attach, Target::Table(t)) => {
                let set = plan.tables[t].set;
                check(self.sets[set].gone, "attached on metadata that is to be deleted")?;
                check(self.sets[set].witness, "attached without a witness")?;
                self.check_restarted(plan, set, intent)?;
                if self.tables[t] == Table::Detached {
                    self.tables[t] = Table::ReadOnly;
                }
                self.manifests[t] = true;
                Ok(Done::Attached {
                    digest: format!("d{t}"),
                    parts: 1,
                    rows: 1,
                    missing: vec![],
                })
            }
            (StepKind::Restore, Target::Table(t)) => {
                let set = plan.tables[t].set;
                let first = plan.sets[set].tables[0];
                check(
                    plan.sets[set].tables.iter().all(|&o| self.manifests[o]),
                    "restored before all manifests",
                )?;
                check(
                    t == first || matches!(self.tables[first], Table::Restored | Table::Finished),
                    "follower first",
                )?;
                if self.tables[t] == Table::ReadOnly {
                    self.tables[t] = Table::Restored;
                }
                Ok(Done::Restored(Restored::default()))
            }
            (StepKind::Finish, Target::Table(t)) => {
                for &other in &plan.sets[plan.tables[t].set].tables {
                    check(
                        matches!(self.tables[other], Table::Restored | Table::Finished),
                        "merges too early",
                    )?;
                }
                self.tables[t] = Table::Finished;
                Ok(Done::Plain)
            }
            _ => Err(format!("{intent:?} is no step")),
        }
    }

    fn check_restarted(&self, plan: &Plan, set: SetIx, intent: Intent) -> Result<(), String> {
        let ready = plan.request.restart == RestartPolicy::Never
            || plan.set_hosts(set).iter().all(|&host| self.restarted[host]);
        if ready {
            Ok(())
        } else {
            Err(format!("{intent:?}: before a host of the set was restarted"))
        }
    }

    fn execute_on_set(&mut self, plan: &Plan, intent: Intent, s: SetIx) -> Result<Done, String> {
        let check = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(format!("{intent:?}: {what}"))
            }
        };
        let detached = plan.sets[s].tables.iter().all(|&t| self.tables[t] == Table::Detached);
        let unequal = || {
            vec![Unsettled::Log {
                replica: "r".into(),
                pointer: 0,
                end: 1,
            }]
        };
        match intent.step {
            StepKind::Freeze => {
                check(!self.sets[s].gone, "frozen after the clean")?;
                let set = &plan.sets[s];
                check(
                    set.tables.iter().all(|&t| self.synced[t]),
                    "frozen before all have caught up",
                )?;
                self.sets[s].frozen = true;
                Ok(Done::Plain)
            }
            StepKind::Settle => {
                check(detached && !self.sets[s].gone, "settled what is in service or gone")?;
                Ok(Done::Settled(if self.sets[s].equal { vec![] } else { unequal() }))
            }
            StepKind::Record => {
                check(detached && !self.sets[s].gone, "recorded what is in service or gone")?;
                check(self.sets[s].equal, "a marker on a set that was not found settled")?;
                self.sets[s].fence = Some(intent.attempt);
                self.sets[s].recorded = true;
                Ok(Done::Recorded {
                    digest: Some(format!("r{s}")),
                    unsettled: vec![],
                })
            }
            StepKind::Clean => {
                check(detached, "deleted under an attached replica")?;
                check(self.sets[s].equal, "deleted while not settled")?;
                check(self.sets[s].recorded, "deleted without a record")?;
                (self.sets[s].fence, self.sets[s].gone) = (None, true);
                Ok(Done::Cleaned { znodes: 10 })
            }
            StepKind::Release => {
                check(!self.sets[s].gone, "marker taken away after the clean")?;
                (self.sets[s].fence, self.sets[s].recorded, self.sets[s].frozen) = (None, false, false);
                Ok(Done::Plain)
            }
            StepKind::Witness => {
                check(self.sets[s].gone, "witness before the clean")?;
                self.check_restarted(plan, s, intent)?;
                self.sets[s].witness = true;
                Ok(Done::Plain)
            }
            _ => Err(format!("{intent:?} is no step of a set")),
        }
    }
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
        self.progress.apply(&self.plan, &record).map_err(|e| e.to_string())?;
        self.log.push(record);
        let has_problem = (0..self.plan.tables.len()).any(|t| self.progress.problem_of(&self.plan, t).is_some());
        if self.progress.state(&self.plan) == State::Failed && !has_problem {
            return Err("nothing can go on, and no problem says why".into());
        }
        let irreversible: BTreeSet<SetIx> = (0..self.plan.sets.len())
            .filter(|&s| self.progress.sets[s].irreversible)
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
            if self.progress.paused {
                return Err("ordered while paused".into());
            }
            if self.progress.until == Some(Until::Detached) && proposal.step == StepKind::Record {
                return Err("went beyond the barrier".into());
            }
            for (target, hosts) in proposal.members {
                if let Target::Host(host) = target {
                    self.check_restart(host)?;
                }
                let attempt = self.progress.next_attempt;
                let intent = Intent {
                    attempt,
                    host: hosts[0],
                    step: proposal.step,
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
                if self.progress.may(&self.plan, proposal.step, target).is_ok() {
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
            let given_up = self.progress.aborting || self.progress.set_has_problem(&self.plan, set);
            if !self.world.sets[set].gone && !given_up {
                return Err(format!("host {host} is restarted before its set {set} is cleaned"));
            }
        }
        Ok(())
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
        let finished = |&t: &usize| self.world.tables[t] == Table::Finished;
        for set in &self.plan.sets {
            let all = set.tables.iter().all(finished);
            let back = set.tables.iter().all(|&t| self.world.tables[t] == Table::InService);
            if !(all || (back && self.progress.aborting)) {
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
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let input = (
        prop_oneof![Just(RestartPolicy::Once), Just(RestartPolicy::Never)],
        proptest::collection::vec(any::<u16>(), 0..600),
    );
    runner
        .run(&input, |(restart, choices)| {
            run(restart, &choices).map_err(TestCaseError::fail)
        })
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
