//! The one place where a record changes the progress of a migration: intents and events here, what people order in
//! [`ordered`], what is found of a set in [`judged`].

mod judged;
mod ordered;

use rekeeper_shared::domain::plan::{HostIx, Plan, SetIx, TableIx};
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::domain::step::{Done, Exported, Failure, Outcome, StepKind, Target};

use super::guard::Guard;
use super::modes::{Leaves, row};
use super::{Fence, Intent, MAX_FAILURES, ManifestFacts, Progress, Record, SetAt, TableAt, WayBack};

/// A record that cannot follow what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum IllegalTransition {
    /// Intents are numbered without gaps.
    #[error("intent {found} where {expected} was to come")]
    Attempt {
        /// The number of the intent that came.
        found: u64,
        /// One more than that of the intent before.
        expected: u64,
    },
    /// The step is not safe now.
    #[error("{step} was ordered although {guard}")]
    Guarded {
        step: StepKind,
        /// The first of its guards that does not hold; it says why.
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

    fn apply_intent(&mut self, plan: &Plan, intent: Intent) -> Result<(), IllegalTransition> {
        if intent.attempt != self.next_attempt {
            return Err(IllegalTransition::Attempt {
                found: intent.attempt,
                expected: self.next_attempt,
            });
        }
        let guarded = |guard| IllegalTransition::Guarded {
            step: intent.step,
            guard,
        };
        let row = row(plan.request.mode, intent.step).ok_or_else(|| guarded(Guard::Target))?;
        self.may_by(plan, row, intent.target).map_err(guarded)?;
        self.next_attempt += 1;
        if row.passes {
            self.firsts.entry(row.leads_to).or_insert(intent);
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
        self.leave_behind(plan, row.leaves, intent.target);
        Ok(())
    }

    /// What an order may have done even if its event never comes.
    fn leave_behind(&mut self, plan: &Plan, leaves: Leaves, target: Target) {
        let (tables, sets): (Vec<TableIx>, Vec<SetIx>) = match target {
            Target::Table(table) => (vec![table], vec![plan.tables[table].set]),
            Target::Set(set) => (plan.sets[set].tables.clone(), vec![set]),
            Target::Host(host) => {
                let of_host = |&t: &TableIx| plan.tables[t].host == host;
                let tables = (0..plan.tables.len()).filter(of_host).collect();
                (tables, plan.sets_on(host).collect())
            }
        };
        match leaves {
            Leaves::Nothing => {}
            Leaves::Detached => {
                for table in tables {
                    self.tables[table].at = self.tables[table].at.max(TableAt::Detaching);
                }
            }
            Leaves::Reattached => {
                for table in tables {
                    self.tables[table].way_back = WayBack::Begun;
                }
            }
            Leaves::Fence => {
                for set in sets {
                    if self.sets[set].fence == Fence::Absent {
                        self.sets[set].fence = Fence::Possible;
                    }
                }
            }
            Leaves::NoRecord => sets.into_iter().for_each(|set| self.forget_record(plan, set)),
            Leaves::Deletion => {
                for set in sets {
                    self.sets[set].at = self.sets[set].at.max(SetAt::Cleaning);
                }
            }
            Leaves::Restart => {
                if let Target::Host(host) = target {
                    self.hosts[host].restarting = true;
                }
            }
        }
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
            if plan.allowed(set).diverged {
                // It is judged as it is: no further round will bring more.
                *failures = 0;
                self.synced(table);
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
            self.tables[table].way_back = WayBack::Failed;
        }
    }

    fn done(&mut self, plan: &Plan, intent: Intent, done: &Done) -> Result<(), IllegalTransition> {
        let wrong = IllegalTransition::Outcome(intent.step);
        match (done, intent.step, intent.target) {
            (Done::Plain, step, target) => self.done_plainly(plan, step, target).ok_or(wrong)?,
            (Done::Settled(reasons), StepKind::Settle, Target::Set(set)) => {
                self.sets[set].judged(reasons.is_empty());
                self.unsettled(plan, set, reasons);
            }
            (
                Done::Recorded {
                    digest,
                    unsettled,
                    order,
                    one_by_one,
                    export,
                },
                StepKind::Record,
                Target::Set(set),
            ) => {
                self.exported(set, intent.host, export.as_ref());
                self.sets[set].judged(unsettled.is_empty());
                if let Some(problem) = judged::out_of_order(plan, set, *one_by_one) {
                    self.sets[set].problem = Some(problem);
                    return Ok(());
                }
                self.recorded(plan, set, digest.as_ref(), unsettled, order);
                self.sets[set].one_by_one = *one_by_one;
            }
            (Done::Cleaned { znodes, export }, StepKind::Clean, Target::Set(set)) => {
                self.exported(set, intent.host, export.as_ref());
                let set = &mut self.sets[set];
                (set.at, set.fence) = (SetAt::Cleaned, Fence::Absent);
                set.znodes += znodes;
            }
            (Done::Restarted { at }, StepKind::Restart, Target::Host(host)) => {
                self.hosts[host].restarted_at = Some(at.clone());
            }
            (Done::Attached { digest, parts, rows }, StepKind::Attach, Target::Table(table)) => {
                let (digest, parts, rows) = (digest.clone(), *parts, *rows);
                self.attached(table, ManifestFacts { digest, parts, rows });
            }
            (Done::Restored { counts, account }, StepKind::Restore, Target::Table(table)) => {
                let table = &mut self.tables[table];
                table.at = TableAt::Accounted;
                (table.restored, table.account) = (Some(*counts), Some(account.clone()));
            }
            (
                Done::Settled(_)
                | Done::Recorded { .. }
                | Done::Cleaned { .. }
                | Done::Restarted { .. }
                | Done::Attached { .. }
                | Done::Restored { .. },
                ..,
            ) => return Err(wrong),
        }
        *self.trouble_of(intent.target).0 = 0;
        Ok(())
    }
    /// What comes of a step that tells nothing more than that it is done; none of one that tells more.
    fn done_plainly(&mut self, plan: &Plan, step: StepKind, target: Target) -> Option<()> {
        let (table, set) = match target {
            Target::Table(table) => (Some(table), Some(plan.tables[table].set)),
            Target::Set(set) => (None, Some(set)),
            Target::Host(_) => (None, None),
        };
        match step {
            StepKind::Sync => self.synced(table?),
            StepKind::Freeze => {
                self.sets[set?].fence = Fence::Frozen;
                // What came in between has to be caught up with too; from now on nothing comes.
                self.lag_again(plan, set?);
            }
            StepKind::Detach => self.tables[table?].at = TableAt::Detached,
            StepKind::Reattach => {
                let (table, set) = (&mut self.tables[table?], &mut self.sets[set?]);
                (table.at, table.way_back) = (TableAt::InService, WayBack::NotBegun);
                if set.at == SetAt::Judged {
                    set.at = SetAt::Gathering;
                }
            }
            StepKind::Attest => self.tables[table?].attested.clone_from(&self.sets[set?].record),
            StepKind::Release => {
                self.sets[set?].fence = Fence::Absent;
                self.forget_record(plan, set?);
                self.sets[set?].export = None;
            }
            StepKind::Witness => self.sets[set?].at = SetAt::Witnessed,
            StepKind::Clear => self.tables[table?].at = TableAt::Restored,
            StepKind::Finish => self.tables[table?].at = TableAt::Finished,
            StepKind::Settle
            | StepKind::Record
            | StepKind::Clean
            | StepKind::Restart
            | StepKind::Attach
            | StepKind::Restore => return None,
        }
        Some(())
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

    fn synced(&mut self, table: TableIx) {
        let at = &mut self.tables[table].at;
        *at = (*at).max(TableAt::Synced);
    }

    /// More has come in, or may have: the replicas that are in service have to catch up again.
    fn lag_again(&mut self, plan: &Plan, set: SetIx) {
        for &table in &plan.sets[set].tables {
            if self.tables[table].at == TableAt::Synced {
                self.tables[table].at = TableAt::InService;
            }
        }
    }

    /// What follows for the set once the step is off its tables.
    fn after(&mut self, plan: &Plan, intent: Intent) {
        let set = match intent.target {
            Target::Table(table) => plan.tables[table].set,
            Target::Set(set) => set,
            Target::Host(_) => return,
        };
        if self.sets[set].at == SetAt::Returning && self.is_in_service(plan, set) {
            self.sets[set].at = SetAt::Gathering;
            self.sets[set].rounds += 1;
            self.lag_again(plan, set);
        }
        if self.sets[set].skipped && self.is_over(plan, set) {
            // What failed on the way that it does not go any more is nobody's problem.
            self.forget_problems_of_set(plan, set);
        }
    }
}
