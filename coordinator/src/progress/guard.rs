//! What must be true before a step is ordered: every precondition of every step, each with its name.
//!
//! These are the invariants of docs/invariants.md as far as the coordinator can hold them. Nothing else decides whether a
//! step is safe; [`super::next`] only decides which of the safe steps are wanted.

use rekeeper_shared::plan::{HostIx, Plan, SetIx, TableIx};
use rekeeper_shared::step::{StepKind, Target};
use rekeeper_shared::view::Until;

use super::{Direction, Progress, TableAt};

/// A precondition that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Guard {
    /// Only a started migration that is not paused orders anything.
    #[error("the migration is not started, or paused")]
    Going,
    /// The step lies beyond the barrier of `--until`.
    #[error("the step lies beyond the barrier")]
    Barrier,
    /// Steps on a set and on its tables never overlap, nor two on one target.
    #[error("another step of the same set is under way")]
    Exclusive,
    /// A step and its target do not fit, or the target does not exist.
    #[error("the step does not fit the target")]
    Target,
    /// After the first deletion nothing is attached on old metadata and no marker is taken away.
    #[error("a deletion was ordered: forward is the only way")]
    Reversible,
    /// A set that goes back is not driven forward.
    #[error("the set goes back into service")]
    Forward,
    /// No replica is detached before all of its set have caught up.
    #[error("a replica of the set has not caught up")]
    AllSynced,
    /// Nodes are judged, recorded and deleted only while every replica is detached.
    #[error("a replica of the set is not detached")]
    AllDetached,
    /// A marker is put only on a set that was found settled, or whose differences the plan allows.
    #[error("the set was not found settled")]
    Settled,
    /// A replica is put back only when no marker holds its path any more.
    #[error("a marker may hold the path")]
    Fenced,
    /// Nothing is deleted before the part set of record is saved.
    #[error("the part set of record is not saved")]
    Recorded,
    /// Nothing is deleted before the agent of every replica has found it on record as it reads it itself.
    #[error("the agent of a replica has not attested the part set of record")]
    Attested,
    /// A server is restarted when no set of it can still be cleaned.
    #[error("a set of the host may still be cleaned")]
    HostCleaned,
    /// No table is attached without metadata before its path is gone.
    #[error("the set is not cleaned")]
    Cleaned,
    /// No table is attached before all servers of its set run on their new configuration.
    #[error("a host of the set was not restarted")]
    HostsReady,
    /// No table is attached before the witness is written.
    #[error("the witness is not written")]
    Witnessed,
    /// Nothing is restored before every replica has a manifest.
    #[error("a replica of the set has no manifest")]
    Manifests,
    /// The reference goes first and alone; where others bring parts, so do they, one after another.
    #[error("the reference is not restored and accounted for")]
    ReferenceFirst,
    /// Caches are right for good only when every part has the name that it keeps.
    #[error("the replica is not accounted for")]
    Accounted,
    /// Merges start when all replicas are accounted for, and their caches right.
    #[error("a replica of the set is not restored")]
    AllRestored,
}

#[cfg(test)]
impl Guard {
    /// Every guard but [`Guard::Target`], without which a step has no meaning.
    pub(super) const ALL: &'static [Guard] = &[
        Guard::Going,
        Guard::Barrier,
        Guard::Exclusive,
        Guard::Reversible,
        Guard::Forward,
        Guard::AllSynced,
        Guard::AllDetached,
        Guard::Settled,
        Guard::Fenced,
        Guard::Recorded,
        Guard::Attested,
        Guard::HostCleaned,
        Guard::Cleaned,
        Guard::HostsReady,
        Guard::Witnessed,
        Guard::Manifests,
        Guard::ReferenceFirst,
        Guard::Accounted,
        Guard::AllRestored,
    ];
}

impl Progress {
    /// Whether the step may be ordered now.
    ///
    /// # Errors
    /// The first [`Guard`] that does not hold.
    pub fn may(&self, plan: &Plan, step: StepKind, target: Target) -> Result<(), Guard> {
        require(self.started && !self.paused, Guard::Going)?;
        require(
            self.until.is_none_or(|until| step_is_before(step, until)),
            Guard::Barrier,
        )?;
        match (step, target) {
            (StepKind::Restart, Target::Host(host)) if host < plan.hosts.len() => self.may_restart(plan, host),
            (
                StepKind::Sync
                | StepKind::Detach
                | StepKind::Reattach
                | StepKind::Attest
                | StepKind::Attach
                | StepKind::Restore
                | StepKind::Clear
                | StepKind::Finish,
                Target::Table(table),
            ) if table < plan.tables.len() => self.may_table(plan, step, table),
            (
                StepKind::Freeze
                | StepKind::Settle
                | StepKind::Record
                | StepKind::Clean
                | StepKind::Release
                | StepKind::Witness,
                Target::Set(set),
            ) if set < plan.sets.len() => self.may_set(plan, step, set),
            _ => Err(Guard::Target),
        }
    }

    fn may_restart(&self, plan: &Plan, host: HostIx) -> Result<(), Guard> {
        require(!self.is_busy(Target::Host(host)), Guard::Exclusive)?;
        require(
            plan.sets_on(host)
                .all(|set| self.sets[set].cleaned || self.is_left(plan, set)),
            Guard::HostCleaned,
        )
    }

    /// Whether the set cannot be cleaned any more without `retry`: in service, or held with a problem.
    #[must_use]
    pub fn is_left(&self, plan: &Plan, set: SetIx) -> bool {
        if self.sets[set].cleaned || self.set_is_busy(plan, set) {
            return false;
        }
        let given_up = self.aborting || self.sets[set].skipped || self.set_has_problem(plan, set);
        let rests = self.sets[set].irreversible || self.is_in_service(plan, set) || self.is_stuck_back(plan, set);
        given_up && rests
    }

    /// Whether the way back into service failed.
    fn is_stuck_back(&self, plan: &Plan, set: SetIx) -> bool {
        plan.sets[set].tables.iter().any(|&t| self.tables[t].stuck)
            || (self.sets[set].fenced && self.sets[set].failures > 0)
    }

    fn may_table(&self, plan: &Plan, step: StepKind, table: TableIx) -> Result<(), Guard> {
        let set = plan.tables[table].set;
        require(
            !self.is_busy(Target::Table(table)) && !self.is_busy(Target::Set(set)),
            Guard::Exclusive,
        )?;
        let progress = &self.sets[set];
        match step {
            StepKind::Sync | StepKind::Detach => {
                require(!progress.irreversible, Guard::Reversible)?;
                require(self.direction(plan, set) == Direction::Forward, Guard::Forward)?;
                let synced = |&t: &TableIx| self.tables[t].synced || self.tables[t].at == TableAt::Detached;
                require(
                    step == StepKind::Sync || plan.sets[set].tables.iter().all(synced),
                    Guard::AllSynced,
                )
            }
            StepKind::Reattach => {
                require(!progress.irreversible, Guard::Reversible)?;
                require(!progress.fenced, Guard::Fenced)?;
                let forward = |&t: &TableIx| {
                    let attempt = self.busy.get(&Target::Table(t));
                    attempt
                        .and_then(|a| self.in_flight.get(a))
                        .is_some_and(|i| i.step != StepKind::Reattach)
                };
                require(!plan.sets[set].tables.iter().any(forward), Guard::Exclusive)
            }
            StepKind::Attest => {
                require(!progress.irreversible, Guard::Reversible)?;
                require(self.direction(plan, set) == Direction::Forward, Guard::Forward)?;
                require(self.all_detached(plan, set), Guard::AllDetached)?;
                require(progress.record.is_some(), Guard::Recorded)
            }
            StepKind::Attach => {
                require(progress.cleaned, Guard::Cleaned)?;
                require(
                    self.hosts_of(plan, set).iter().all(|&h| self.host_is_ready(plan, h)),
                    Guard::HostsReady,
                )?;
                require(progress.witnessed, Guard::Witnessed)
            }
            StepKind::Restore => {
                let complete = |t: TableIx| self.tables[t].at >= TableAt::Attached && self.tables[t].manifest.is_some();
                require(self.with_hosts(plan, set).all(complete), Guard::Manifests)?;
                require(progress.witnessed, Guard::Witnessed)?;
                let order = self.restore_order(plan, set);
                let mut before = order.iter().take_while(|&&other| other != table);
                let wanted = if progress.one_by_one { usize::MAX } else { 1 };
                require(
                    order.contains(&table)
                        && before
                            .by_ref()
                            .take(wanted)
                            .all(|&other| self.tables[other].at >= TableAt::Accounted),
                    Guard::ReferenceFirst,
                )
            }
            StepKind::Clear => require(self.tables[table].at >= TableAt::Accounted, Guard::Accounted),
            StepKind::Finish => require(self.all_at_least(plan, set, TableAt::Restored), Guard::AllRestored),
            StepKind::Freeze
            | StepKind::Settle
            | StepKind::Record
            | StepKind::Clean
            | StepKind::Release
            | StepKind::Restart
            | StepKind::Witness => Err(Guard::Target),
        }
    }

    fn may_set(&self, plan: &Plan, step: StepKind, set: SetIx) -> Result<(), Guard> {
        require(!self.set_is_busy(plan, set), Guard::Exclusive)?;
        let progress = &self.sets[set];
        let all_detached = self.all_detached(plan, set);
        match step {
            StepKind::Freeze => {
                require(!progress.irreversible, Guard::Reversible)?;
                require(self.direction(plan, set) == Direction::Forward, Guard::Forward)?;
                // So that the log is frozen for no longer than the rest of the catching up takes.
                require(
                    plan.sets[set].tables.iter().all(|&t| self.tables[t].synced),
                    Guard::AllSynced,
                )
            }
            StepKind::Settle => {
                require(!progress.irreversible, Guard::Reversible)?;
                require(self.direction(plan, set) == Direction::Forward, Guard::Forward)?;
                require(all_detached, Guard::AllDetached)
            }
            StepKind::Record => {
                require(!progress.irreversible, Guard::Reversible)?;
                require(self.direction(plan, set) == Direction::Forward, Guard::Forward)?;
                require(all_detached, Guard::AllDetached)?;
                require(progress.settled || progress.diverged, Guard::Settled)
            }
            StepKind::Clean => {
                require(self.direction(plan, set) == Direction::Forward, Guard::Forward)?;
                require(all_detached, Guard::AllDetached)?;
                require(progress.settled || progress.diverged, Guard::Settled)?;
                require(progress.record.is_some(), Guard::Recorded)?;
                require(self.is_attested(plan, set), Guard::Attested)
            }
            StepKind::Release => require(!progress.irreversible, Guard::Reversible),
            StepKind::Witness => {
                require(progress.cleaned, Guard::Cleaned)?;
                require(
                    self.hosts_of(plan, set).iter().all(|&h| self.host_is_ready(plan, h)),
                    Guard::HostsReady,
                )
            }
            StepKind::Sync
            | StepKind::Detach
            | StepKind::Reattach
            | StepKind::Restart
            | StepKind::Attest
            | StepKind::Attach
            | StepKind::Restore
            | StepKind::Clear
            | StepKind::Finish => Err(Guard::Target),
        }
    }

    fn all_detached(&self, plan: &Plan, set: SetIx) -> bool {
        let mut tables = plan.sets[set].tables.iter();
        tables.all(|&table| self.tables[table].at == TableAt::Detached)
    }

    /// Whether the agents of all replicas have attested the part set of record that there is now.
    fn is_attested(&self, plan: &Plan, set: SetIx) -> bool {
        let record = &self.sets[set].record;
        let mut tables = plan.sets[set].tables.iter();
        !plan.attested || tables.all(|&table| self.tables[table].attested == *record)
    }
}

fn require(holds: bool, guard: Guard) -> Result<(), Guard> {
    #[cfg(test)]
    let holds = holds || super::simulation::is_taken_out(guard);
    if holds { Ok(()) } else { Err(guard) }
}

/// Whether the step belongs to what is done before the barrier.
fn step_is_before(step: StepKind, until: Until) -> bool {
    leads_to(step) <= until
}

/// The first barrier that the step lies before.
fn leads_to(step: StepKind) -> Until {
    match step {
        StepKind::Sync
        | StepKind::Freeze
        | StepKind::Detach
        | StepKind::Reattach
        | StepKind::Settle
        | StepKind::Release => Until::Detached,
        StepKind::Record | StepKind::Attest | StepKind::Clean => Until::ZkCleaned,
        StepKind::Restart => Until::Restarted,
        StepKind::Witness | StepKind::Attach | StepKind::Restore | StepKind::Clear | StepKind::Finish => {
            Until::Restored
        }
    }
}

/// The barrier that the step leads to; all before it are passed once it was ordered. None of steps that delete nothing and
/// are taken back: after a Record `detached` can still hold.
pub(super) fn passes(step: StepKind) -> Option<Until> {
    match step {
        StepKind::Record | StepKind::Attest => None,
        StepKind::Sync
        | StepKind::Freeze
        | StepKind::Detach
        | StepKind::Reattach
        | StepKind::Settle
        | StepKind::Release
        | StepKind::Clean
        | StepKind::Restart
        | StepKind::Witness
        | StepKind::Attach
        | StepKind::Restore
        | StepKind::Clear
        | StepKind::Finish => Some(leads_to(step)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ManifestFacts;
    use super::super::simulation::world::plan;
    use super::*;
    use rekeeper_shared::plan::RestartPolicy;

    #[test]
    fn followers_are_restored_while_the_reference_waits_for_its_readers() {
        let plan = plan(RestartPolicy::Never);
        let set = plan.sets.iter().position(|set| set.tables.len() > 1).unwrap();
        let tables = plan.sets[set].tables.clone();
        let mut progress = Progress::new(&plan);
        progress.started = true;
        (
            progress.sets[set].cleaned,
            progress.sets[set].irreversible,
            progress.sets[set].witnessed,
        ) = (true, true, true);
        progress.sets[set].order = tables.clone();
        for &table in &tables {
            progress.tables[table].at = TableAt::Attached;
            progress.tables[table].manifest = Some(ManifestFacts {
                digest: "d".into(),
                parts: 1,
                rows: 1,
            });
        }
        let (reference, follower) = (tables[0], tables[1]);
        let may = |progress: &Progress, step, table| progress.may(&plan, step, Target::Table(table));
        assert_eq!(may(&progress, StepKind::Restore, follower), Err(Guard::ReferenceFirst));
        assert_eq!(may(&progress, StepKind::Clear, reference), Err(Guard::Accounted));
        progress.tables[reference].at = TableAt::Accounted;
        assert_eq!(may(&progress, StepKind::Clear, reference), Ok(()));
        assert_eq!(may(&progress, StepKind::Restore, follower), Ok(()));
        progress.tables[follower].at = TableAt::Restored;
        assert_eq!(may(&progress, StepKind::Finish, follower), Err(Guard::AllRestored));
    }
}
