//! What must be true before a step is ordered: every precondition, each with its name and what it looks at. Which of them
//! a step has is said by its row (progress/modes).
//!
//! These are the invariants of docs/invariants.md as far as the coordinator can hold them. Nothing else decides whether a
//! step is safe; [`super::next`] only decides which of the safe steps are wanted.

use rekeeper_shared::domain::plan::{HostIx, Plan, SetIx, TableIx};
use rekeeper_shared::domain::step::{StepKind, Target};

use super::modes::{Row, row};
use super::{Direction, Fence, Progress, SetAt, SetProgress, TableAt, WayBack};

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
    /// No replica is put back while a step that drives another one of its set forward is under way.
    #[error("another step of the same set is under way")]
    NoneForward,
    /// Nothing is deleted before the part set of record is saved.
    #[error("the part set of record is not saved")]
    Recorded,
    /// Nothing is deleted before the agent of every replica has found it on record as it reads it itself.
    #[error("the agent of a replica has not attested the part set of record")]
    Attested,
    /// A server is restarted when no set of it can still be cleaned.
    #[error("a set of the host may still be cleaned")]
    HostCleaned,
    /// Of servers that run nodes of ClickHouse Keeper only one is away at a time: the others keep its majority.
    #[error("another server that runs a node of ClickHouse Keeper may be away")]
    OneKeeper,
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

impl Guard {
    /// What every step of every mode has, before its own.
    const ALWAYS: &'static [Guard] = &[Guard::Going, Guard::Barrier, Guard::Target];

    /// Every guard but [`Guard::Target`], without which a step has no meaning.
    #[cfg(test)]
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
        Guard::NoneForward,
        Guard::Recorded,
        Guard::Attested,
        Guard::HostCleaned,
        Guard::OneKeeper,
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
        let row = row(plan.request.mode, step).ok_or(Guard::Target)?;
        self.may_by(plan, row, target)
    }

    /// The same, of a step of the plan's mode.
    pub(super) fn may_by(&self, plan: &Plan, row: &Row, target: Target) -> Result<(), Guard> {
        for &guard in Guard::ALWAYS.iter().chain(row.guards) {
            let holds = self.holds(plan, guard, row, target);
            #[cfg(test)]
            let holds = holds || super::simulation::is_taken_out(guard);
            if !holds {
                return Err(guard);
            }
        }
        Ok(())
    }

    /// Whether a guard holds. One that is about a set does not hold of a host, nor one of a table of a set.
    fn holds(&self, plan: &Plan, guard: Guard, row: &Row, target: Target) -> bool {
        let (table, set, host) = match target {
            Target::Table(table) => (Some(table), plan.tables.get(table).map(|planned| planned.set), None),
            Target::Set(set) => (None, Some(set), None),
            Target::Host(host) => (None, None, Some(host)),
        };
        let of_set = |is: &dyn Fn(&SetProgress) -> bool| set.is_some_and(|set| is(&self.sets[set]));
        let tables =
            |are: &dyn Fn(TableIx) -> bool| set.is_some_and(|set| plan.sets[set].tables.iter().all(|&t| are(t)));
        match guard {
            Guard::Going => self.started && !self.paused,
            Guard::Barrier => self.until.is_none_or(|until| row.leads_to <= until),
            Guard::Target => row.step.scope() == target.scope() && exists(plan, target),
            Guard::Exclusive => self.is_exclusive(plan, target),
            Guard::Reversible => of_set(&|set| !set.is_irreversible()),
            Guard::Forward => set.is_some_and(|set| self.direction(plan, set) == Direction::Forward),
            Guard::AllSynced => tables(&|t| self.tables[t].at >= TableAt::Synced),
            Guard::AllDetached => tables(&|t| self.tables[t].at == TableAt::Detached),
            Guard::Settled => of_set(&|set| set.at >= SetAt::Judged),
            Guard::Fenced => of_set(&|set| set.fence == Fence::Absent),
            Guard::NoneForward => tables(&|t| !self.goes_forward(plan, Target::Table(t))),
            Guard::Recorded => of_set(&|set| set.at >= SetAt::Recorded),
            Guard::Attested => set.is_some_and(|set| self.is_attested(plan, set)),
            Guard::HostCleaned => host.is_some_and(|host| self.host_is_cleaned(plan, host)),
            Guard::OneKeeper => host.is_some_and(|host| self.keepers_are_there(plan, host)),
            Guard::Cleaned => of_set(&|set| set.at >= SetAt::Cleaned),
            Guard::HostsReady => set.is_some_and(|set| self.hosts_are_ready(plan, set)),
            Guard::Witnessed => of_set(&|set| set.at == SetAt::Witnessed),
            Guard::Manifests => set.is_some_and(|set| self.has_manifests(plan, set)),
            Guard::ReferenceFirst => table.is_some_and(|table| self.is_its_turn(plan, table)),
            Guard::Accounted => table.is_some_and(|table| self.tables[table].at >= TableAt::Accounted),
            Guard::AllRestored => set.is_some_and(|set| self.all_at_least(plan, set, TableAt::Restored)),
        }
    }

    fn is_exclusive(&self, plan: &Plan, target: Target) -> bool {
        match target {
            Target::Table(table) => !self.is_busy(target) && !self.is_busy(Target::Set(plan.tables[table].set)),
            Target::Set(set) => !self.set_is_busy(plan, set),
            Target::Host(_) => !self.is_busy(target),
        }
    }

    /// Whether a step forward is under way on the target.
    fn goes_forward(&self, plan: &Plan, target: Target) -> bool {
        let attempt = self.busy.get(&target);
        let step = attempt.and_then(|attempt| Some(self.in_flight.get(attempt)?.step));
        let row = step.and_then(|step| row(plan.request.mode, step));
        row.is_some_and(|row| row.way == Direction::Forward)
    }

    fn host_is_cleaned(&self, plan: &Plan, host: HostIx) -> bool {
        plan.sets_on(host)
            .all(|set| self.sets[set].at >= SetAt::Cleaned || self.is_left(plan, set))
    }

    /// Whether no other server that runs a node of ClickHouse Keeper may be away, if this one does.
    fn keepers_are_there(&self, plan: &Plan, host: HostIx) -> bool {
        let away = |other: HostIx| plan.hosts[other].runs_keeper && self.hosts[other].may_be_away();
        !plan.hosts[host].runs_keeper || !(0..plan.hosts.len()).any(|other| other != host && away(other))
    }

    fn hosts_are_ready(&self, plan: &Plan, set: SetIx) -> bool {
        let hosts = self.hosts_of(plan, set);
        hosts.iter().all(|&host| self.host_is_ready(plan, host))
    }

    fn has_manifests(&self, plan: &Plan, set: SetIx) -> bool {
        let complete = |t: TableIx| self.tables[t].at >= TableAt::Attached && self.tables[t].manifest.is_some();
        self.with_hosts(plan, set).all(complete)
    }

    /// Whether those are accounted for that are restored before this one: the reference, or every earlier one.
    fn is_its_turn(&self, plan: &Plan, table: TableIx) -> bool {
        let set = plan.tables[table].set;
        let order = self.restore_order(plan, set);
        let before = order.iter().take_while(|&&other| other != table);
        let wanted = if self.sets[set].one_by_one { usize::MAX } else { 1 };
        let accounted = |&other: &TableIx| self.tables[other].at >= TableAt::Accounted;
        order.contains(&table) && before.take(wanted).all(accounted)
    }

    /// Whether the set cannot be cleaned any more without `retry`: in service, or held with a problem.
    #[must_use]
    pub fn is_left(&self, plan: &Plan, set: SetIx) -> bool {
        if self.sets[set].at >= SetAt::Cleaned || self.set_is_busy(plan, set) {
            return false;
        }
        let given_up = self.aborting || self.sets[set].skipped || self.set_has_problem(plan, set);
        let rests = self.sets[set].is_irreversible() || self.is_in_service(plan, set) || self.is_stuck_back(plan, set);
        given_up && rests
    }

    /// Whether the way back into service failed.
    fn is_stuck_back(&self, plan: &Plan, set: SetIx) -> bool {
        plan.sets[set]
            .tables
            .iter()
            .any(|&t| self.tables[t].way_back == WayBack::Failed)
            || (self.sets[set].fence != Fence::Absent && self.sets[set].failures > 0)
    }

    /// Whether the agents of all replicas have attested the part set of record that there is now.
    fn is_attested(&self, plan: &Plan, set: SetIx) -> bool {
        let record = &self.sets[set].record;
        let mut tables = plan.sets[set].tables.iter();
        !plan.attested || tables.all(|&table| self.tables[table].attested == *record)
    }
}

fn exists(plan: &Plan, target: Target) -> bool {
    match target {
        Target::Table(table) => table < plan.tables.len(),
        Target::Set(set) => set < plan.sets.len(),
        Target::Host(host) => host < plan.hosts.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ManifestFacts;
    use super::super::simulation::world::plan;
    use super::*;
    use rekeeper_shared::domain::plan::RestartPolicy;

    #[test]
    fn followers_are_restored_while_the_reference_waits_for_its_readers() {
        let plan = plan(RestartPolicy::Never);
        let set = plan.sets.iter().position(|set| set.tables.len() > 1).unwrap();
        let tables = plan.sets[set].tables.clone();
        let mut progress = Progress::new(&plan);
        progress.started = true;
        progress.sets[set].at = SetAt::Witnessed;
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
