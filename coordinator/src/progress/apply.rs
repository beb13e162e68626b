//! The one place where a record changes the progress of a migration.

use std::collections::BTreeMap;

use rekeeper_shared::plan::{HostIx, Plan, SetIx, TableIx};
use rekeeper_shared::problem::{Code, Problem};
use rekeeper_shared::settle::Unsettled;
use rekeeper_shared::step::{Done, Exported, Failure, Outcome, StepKind, Target};

use super::guard::{Guard, passes};
use crate::plan::{allowed, keep_order};

use super::{Intent, MAX_FAILURES, MAX_ROUNDS, ManifestFacts, OperatorOrder, Progress, Record, TableAt};

/// A record that cannot follow what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalTransition {
    /// Intents are numbered without gaps.
    #[error("intent {found} where {expected} was to come")]
    Attempt {
        /// What came.
        found: u64,
        /// What was to come.
        expected: u64,
    },
    /// The step is not safe now.
    #[error("{step} was ordered although {guard}")]
    Guarded {
        /// The step.
        step: StepKind,
        /// What does not hold.
        guard: Guard,
    },
    /// No intent of that number is under way.
    #[error("an event for attempt {0}, which is not under way")]
    NotInFlight(u64),
    /// The outcome is not one that the step can have.
    #[error("{0} cannot end like this")]
    Outcome(StepKind),
}

impl Progress {
    /// Applies a record.
    ///
    /// # Errors
    /// [`IllegalTransition`]; nothing has changed then.
    pub fn apply(&mut self, plan: &Plan, record: &Record) -> Result<(), IllegalTransition> {
        match record {
            Record::Ordered { order, .. } => self.apply_order(plan, order),
            Record::Intent(intent) => self.apply_intent(plan, *intent)?,
            Record::Event { attempt, outcome } => self.apply_event(plan, *attempt, outcome)?,
        }
        Ok(())
    }

    fn apply_order(&mut self, plan: &Plan, order: &OperatorOrder) {
        match order {
            OperatorOrder::Start { until } => {
                self.started = true;
                self.paused = false;
                // What is aborted is carried to its end, whatever barrier a later start names.
                self.until = until.filter(|_| !self.aborting);
            }
            OperatorOrder::Pause => self.paused = true,
            OperatorOrder::Resume => {
                self.paused = false;
                if self.proposals(plan).is_empty() && self.in_flight.is_empty() {
                    // It stood at its barrier: going on means going beyond it.
                    self.until = None;
                }
            }
            OperatorOrder::Retry { table, host } => {
                for ix in 0..plan.tables.len() {
                    let planned = &plan.tables[ix];
                    let chosen = table.as_ref().is_none_or(|t| *t == planned.name)
                        && host.as_ref().is_none_or(|h| *h == plan.hosts[planned.host].name);
                    if chosen {
                        self.forget_problems(planned.set, ix, planned.host);
                    }
                }
            }
            OperatorOrder::Skip { table } => {
                for set in plan.sets_of(table) {
                    if self.may_be_skipped(set) {
                        self.sets[set].skipped = true;
                        self.forget_problems_of_set(plan, set);
                    }
                }
            }
            OperatorOrder::Leave { host } => {
                if let Some(host) = plan.host_ix(host) {
                    self.leave(plan, host);
                }
            }
            OperatorOrder::LeaveTable { table, host } => {
                let replica = |&ix: &usize| {
                    let planned = &plan.tables[ix];
                    planned.name == *table && plan.hosts[planned.host].name == *host
                };
                if let Some(ix) = (0..plan.tables.len()).find(replica) {
                    self.leave_table(plan, ix);
                }
            }
            OperatorOrder::Abort => {
                self.aborting = true;
                self.started = true;
                self.paused = false;
                self.until = None;
            }
        }
    }

    /// Nothing is ordered of the host any more, and what comes of the steps that were is not waited for. The part set of
    /// record of a settled set is on every replica, so what is cleaned goes on with the others.
    fn leave(&mut self, plan: &Plan, host: HostIx) {
        let text = format!("{} was left out", plan.hosts[host].name);
        let of_host = &mut self.hosts[host];
        (of_host.left, of_host.problem, of_host.failures) = (Some(Problem::new(Code::HostLeft, text)), None, 0);
        let (lost, kept) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition(|(_, intent)| intent.host == host);
        self.in_flight = kept;
        let lost: BTreeMap<u64, Intent> = lost;
        for intent in lost.into_values() {
            self.busy.remove(&intent.target);
        }
        for set in plan.sets_on(host).collect::<Vec<_>>() {
            for table in plan.sets[set]
                .tables
                .iter()
                .copied()
                .filter(|&t| plan.tables[t].host == host)
            {
                let table = &mut self.tables[table];
                (table.problem, table.failures, table.stuck) = (None, 0, false);
            }
            if self.may_be_skipped(set) {
                self.sets[set].skipped = true;
                self.forget_problems_of_set(plan, set);
            }
        }
    }

    /// What the others have of its set is the part set of record. Where it was restored first, the next one is the first. It
    /// may have made the path already; where that is gone with the table, its place has to be proved anew.
    fn leave_table(&mut self, plan: &Plan, table: TableIx) {
        if self.may_be_left_alone(plan, table).is_err() {
            return;
        }
        let (set, host) = (plan.tables[table].set, &plan.hosts[plan.tables[table].host].name);
        let message = match self.tables[table].problem.take() {
            Some(problem) => problem.message,
            None => "it was restored, and the others do not find it at their path".to_owned(),
        };
        if matches!(self.tables[table].at, TableAt::Accounted | TableAt::Restored) {
            let is_absent = |t: TableIx| {
                let problem = self.tables[t].problem.as_ref();
                problem.is_some_and(|problem| problem.code == Code::PlaceDiffers)
            };
            let absent = self.with_hosts(plan, set).any(is_absent);
            self.sets[set].witnessed &= !absent;
            self.forget_problems_of_set(plan, set);
        }
        let mut problem = Problem::new(
            Code::TableChanged,
            format!("{message}; it was left out, and the others went on"),
        );
        problem.fix = format!(
            "nothing of it is deleted by this migration; where it still is, under whatever name, its rows are on the disk of \
             {host}, and SYSTEM RESTORE REPLICA makes it a replica again once the others are RESTORED"
        );
        (self.tables[table].left, self.tables[table].failures) = (Some(problem), 0);
    }

    fn forget_record(&mut self, plan: &Plan, set: SetIx) {
        (self.sets[set].record, self.sets[set].order) = (None, Vec::new());
        for &table in &plan.sets[set].tables {
            self.tables[table].attested = None;
        }
    }

    fn forget_problems(&mut self, set: SetIx, table: TableIx, host: usize) {
        let (table, set, host) = (&mut self.tables[table], &mut self.sets[set], &mut self.hosts[host]);
        (table.problem, table.failures, table.stuck) = (None, 0, false);
        (set.problem, set.failures, set.rounds, set.gave_up_sync) = (None, 0, 0, false);
        set.release_failed = false;
        (host.problem, host.failures) = (None, 0);
    }

    fn forget_problems_of_set(&mut self, plan: &Plan, set: SetIx) {
        for &table in &plan.sets[set].tables {
            let table = &mut self.tables[table];
            (table.problem, table.failures, table.stuck) = (None, 0, false);
        }
        let set = &mut self.sets[set];
        (set.problem, set.failures, set.release_failed) = (None, 0, false);
    }

    fn apply_intent(&mut self, plan: &Plan, intent: Intent) -> Result<(), IllegalTransition> {
        if intent.attempt != self.next_attempt {
            return Err(IllegalTransition::Attempt {
                found: intent.attempt,
                expected: self.next_attempt,
            });
        }
        self.may(plan, intent.step, intent.target)
            .map_err(|guard| IllegalTransition::Guarded {
                step: intent.step,
                guard,
            })?;
        self.next_attempt += 1;
        if let Some(barrier) = passes(intent.step) {
            self.firsts.entry(barrier).or_insert(intent);
        }
        self.in_flight.insert(intent.attempt, intent);
        self.busy.insert(intent.target, intent.attempt);
        match intent.target {
            Target::Table(table) => self.tables[table].attempts += 1,
            Target::Set(set) => {
                for &table in &plan.sets[set].tables {
                    self.tables[table].attempts += 1;
                }
            }
            Target::Host(_) => {}
        }
        // What an order may have done even if its event never comes.
        match (intent.step, intent.target) {
            (StepKind::Detach, Target::Table(table)) => self.tables[table].maybe_detached = true,
            (StepKind::Reattach, Target::Table(table)) => self.tables[table].maybe_attached = true,
            (StepKind::Freeze | StepKind::Record, Target::Set(set)) => self.sets[set].fenced = true,
            (StepKind::Clean, Target::Set(set)) => self.sets[set].irreversible = true,
            // Whoever goes forward again after that finds no marker, and records anew.
            (StepKind::Release, Target::Set(set)) => self.forget_record(plan, set),
            _ => {}
        }
        Ok(())
    }

    fn apply_event(&mut self, plan: &Plan, attempt: u64, outcome: &Outcome) -> Result<(), IllegalTransition> {
        let intent = *self
            .in_flight
            .get(&attempt)
            .ok_or(IllegalTransition::NotInFlight(attempt))?;
        match outcome {
            Outcome::Failed(failure) => self.failed(plan, intent, failure),
            Outcome::Done(done) => self.done(plan, intent, done)?,
        }
        self.in_flight.remove(&attempt);
        self.busy.remove(&intent.target);
        self.after(plan, intent);
        Ok(())
    }

    /// Here, and not where it comes in, so that what an older release has written down is told as this one's.
    fn failed(&mut self, plan: &Plan, intent: Intent, failure: &Failure) {
        let (failures, problem) = self.trouble_of(intent.target);
        *failures += 1;
        if failure.retry && *failures < MAX_FAILURES {
            return;
        }
        if let (StepKind::Sync, Target::Table(table)) = (intent.step, intent.target) {
            let set = plan.tables[table].set;
            if allowed(plan, set).diverged {
                // It is judged as it is: no further round will bring more.
                *failures = 0;
                self.tables[table].synced = true;
                self.sets[set].gave_up_sync = true;
                return;
            }
        }
        *problem = Some(failure.problem.clone().told_by(&plan.hosts[intent.host].name));
        if let Target::Set(set) = intent.target {
            // A record that could not let go again says so by its code.
            let is_release = intent.step == StepKind::Release || failure.problem.code == Code::ReleaseFailed;
            self.sets[set].release_failed = is_release;
        }
        if let (StepKind::Reattach, Target::Table(table)) = (intent.step, intent.target) {
            self.tables[table].stuck = true;
        }
    }

    fn done(&mut self, plan: &Plan, intent: Intent, done: &Done) -> Result<(), IllegalTransition> {
        match (intent.step, intent.target, done) {
            (StepKind::Sync, Target::Table(table), Done::Plain) => self.tables[table].synced = true,
            (StepKind::Detach, Target::Table(table), Done::Plain) => self.tables[table].at = TableAt::Detached,
            (StepKind::Reattach, Target::Table(table), Done::Plain) => {
                let set = plan.tables[table].set;
                let table = &mut self.tables[table];
                (table.at, table.synced) = (TableAt::InService, false);
                (table.maybe_detached, table.maybe_attached) = (false, false);
                (self.sets[set].settled, self.sets[set].diverged) = (false, false);
            }
            (StepKind::Freeze, Target::Set(set), Done::Plain) => {
                self.sets[set].frozen = true;
                // What came in between has to be caught up with too; from now on nothing comes.
                for &table in &plan.sets[set].tables {
                    self.tables[table].synced = false;
                }
            }
            (StepKind::Settle, Target::Set(set), Done::Settled(reasons)) => {
                self.sets[set].settled = reasons.is_empty();
                self.unsettled(plan, set, reasons);
            }
            (
                StepKind::Record,
                Target::Set(set),
                Done::Recorded {
                    digest,
                    unsettled,
                    order: order_names,
                    one_by_one,
                    export,
                },
            ) => {
                self.exported(set, intent.host, export.as_ref());
                let order = replicas_named(plan, set, order_names);
                self.sets[set].settled = unsettled.is_empty();
                // Whoever judged it under the marker saved nothing where the union is not decided.
                let decided = unsettled.is_empty() || self.sets[set].diverged;
                let sensitive = plan.sets[set]
                    .tables
                    .iter()
                    .find(|&&t| *one_by_one && keep_order(plan, t));
                if let Some(&table) = sensitive {
                    let text = format!(
                        "parts of several replicas of {} have to be brought together, and then they count as newer than \
                         the others, which matters to {}",
                        plan.tables[table].name, plan.tables[table].engine
                    );
                    self.sets[set].problem = Some(Problem::new(Code::PartsOutOfOrder, text));
                    return Ok(());
                }
                match digest.clone().filter(|_| decided).zip(order) {
                    Some((digest, order)) => {
                        let set = &mut self.sets[set];
                        (set.record, set.order, set.one_by_one) = (Some(digest), order, *one_by_one);
                        set.unsettled = unsettled.clone();
                    }
                    None if unsettled.is_empty() => {
                        let text = format!("what was saved names the replicas {}", order_names.join(", "));
                        self.sets[set].problem = Some(Problem::new(Code::RecordFailed, text));
                    }
                    None => self.unsettled(plan, set, unsettled),
                }
            }
            (StepKind::Attest, Target::Table(table), Done::Plain) => {
                self.tables[table]
                    .attested
                    .clone_from(&self.sets[plan.tables[table].set].record);
            }
            (StepKind::Clean, Target::Set(set), Done::Cleaned { znodes, export }) => {
                self.exported(set, intent.host, export.as_ref());
                self.sets[set].cleaned = true;
                (self.sets[set].fenced, self.sets[set].frozen) = (false, false);
                self.sets[set].znodes += znodes;
            }
            (StepKind::Release, Target::Set(set), Done::Plain) => {
                (self.sets[set].fenced, self.sets[set].frozen) = (false, false);
                self.forget_record(plan, set);
                self.sets[set].export = None;
            }
            (StepKind::Restart, Target::Host(host), Done::Restarted { at }) => {
                self.hosts[host].restarted_at = Some(at.clone());
            }
            (StepKind::Witness, Target::Set(set), Done::Plain) => self.sets[set].witnessed = true,
            (StepKind::Attach, Target::Table(table), Done::Attached { digest, parts, rows }) => {
                self.attached(
                    table,
                    ManifestFacts {
                        digest: digest.clone(),
                        parts: *parts,
                        rows: *rows,
                    },
                );
            }
            (StepKind::Restore, Target::Table(table), Done::Restored { counts, account }) => {
                self.tables[table].at = TableAt::Accounted;
                self.tables[table].restored = Some(*counts);
                self.tables[table].account = Some(account.clone());
            }
            (StepKind::Clear, Target::Table(table), Done::Plain) => self.tables[table].at = TableAt::Restored,
            (StepKind::Finish, Target::Table(table), Done::Plain) => self.tables[table].at = TableAt::Finished,
            _ => return Err(IllegalTransition::Outcome(intent.step)),
        }
        *self.trouble_of(intent.target).0 = 0;
        Ok(())
    }

    fn trouble_of(&mut self, target: Target) -> (&mut u32, &mut Option<Problem>) {
        match target {
            Target::Table(table) => {
                let table = &mut self.tables[table];
                (&mut table.failures, &mut table.problem)
            }
            Target::Set(set) => {
                let set = &mut self.sets[set];
                (&mut set.failures, &mut set.problem)
            }
            Target::Host(host) => {
                let host = &mut self.hosts[host];
                (&mut host.failures, &mut host.problem)
            }
        }
    }

    /// An agent that has none of its own leaves what another one has told.
    fn exported(&mut self, set: SetIx, host: HostIx, export: Option<&Exported>) {
        if let Some(export) = export {
            self.sets[set].export = Some((host, export.clone()));
        }
    }

    fn unsettled(&mut self, plan: &Plan, set: SetIx, reasons: &[Unsettled]) {
        let may_diverge = allowed(plan, set).diverged;
        let set = &mut self.sets[set];
        set.unsettled = reasons.to_vec();
        if reasons.is_empty() {
            return;
        }
        if set.rounds + 1 < MAX_ROUNDS && !set.gave_up_sync && reasons.iter().all(Unsettled::may_catch_up) {
            set.returning = true;
            return;
        }
        if may_diverge && reasons.iter().all(Unsettled::may_diverge) {
            set.diverged = true;
            return;
        }
        const SHOWN: usize = 10;
        let mut found: Vec<String> = reasons.iter().take(SHOWN).map(ToString::to_string).collect();
        if reasons.len() > SHOWN {
            found.push(format!("and {} more", reasons.len() - SHOWN));
        }
        let undecided = |reason| matches!(reason, &Unsettled::Undecided { .. });
        let code = if reasons.iter().all(undecided) {
            Code::Diverged
        } else {
            Code::NotSettled
        };
        set.problem = Some(Problem::new(code, found.join("; ")));
    }

    fn attached(&mut self, table: TableIx, manifest: ManifestFacts) {
        let table = &mut self.tables[table];
        if let Some(known) = &table.manifest
            && known.digest != manifest.digest
        {
            table.problem = Some(Problem::new(
                Code::ManifestLost,
                format!(
                    "the agent has manifest {}, and {} was written down",
                    manifest.digest, known.digest
                ),
            ));
            return;
        }
        table.at = TableAt::Attached;
        table.manifest = Some(manifest);
    }

    /// What follows for the set once the step is off its tables.
    fn after(&mut self, plan: &Plan, intent: Intent) {
        let set = match intent.target {
            Target::Table(table) => plan.tables[table].set,
            Target::Set(set) => set,
            Target::Host(_) => return,
        };
        if self.sets[set].returning && self.is_in_service(plan, set) {
            self.sets[set].returning = false;
            self.sets[set].rounds += 1;
            for &table in &plan.sets[set].tables {
                self.tables[table].synced = false;
            }
        }
        if self.sets[set].skipped && self.is_over(plan, set) {
            // What failed on the way that it does not go any more is nobody's problem.
            self.forget_problems_of_set(plan, set);
        }
    }
}

/// The set's table replicas in the order of these replica names; none when they are not exactly the set's.
fn replicas_named(plan: &Plan, set: SetIx, names: &[String]) -> Option<Vec<TableIx>> {
    let tables = &plan.sets[set].tables;
    let named = |name: &String| tables.iter().copied().find(|&t| plan.tables[t].replica_name == *name);
    let order: Vec<TableIx> = names.iter().filter_map(named).collect();
    let every = order.len() == names.len() && tables.iter().all(|table| order.contains(table));
    (every && order.len() == tables.len()).then_some(order)
}
