//! Which steps are wanted now, wave by wave; whether they are safe is for [`super::guard`] to say.

use rekeeper_shared::domain::plan::{HostIx, Plan, RestartPolicy, SetIx, TableIx};
use rekeeper_shared::domain::step::{Scope, StepKind, Target};

use super::modes::{Row, rows};
use super::{Direction, Fence, Progress, SetAt, SetProgress, TableAt, TableProgress, WayBack};

/// Steps that go out together or not at all: the detaching of a set's replicas, so that little can be written to one
/// between the detaching of the others; otherwise one step.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The step, as the mode has it.
    pub row: &'static Row,
    /// Targets, each with the hosts that can do it; the first that is connected does.
    pub members: Vec<(Target, Vec<HostIx>)>,
}

impl Progress {
    /// The steps to order now. Waves run one after another: a later one begins when nothing of the earlier ones is
    /// under way or can be ordered before the barrier.
    #[must_use]
    pub fn proposals(&self, plan: &Plan) -> Vec<Proposal> {
        for wave in 0..plan.waves.len() {
            let wanted = self.wave_proposals(plan, wave);
            if !wanted.is_empty() || self.wave_is_busy(plan, wave) {
                return wanted;
            }
        }
        Vec::new()
    }

    /// Whether a step of the wave is under way.
    pub(crate) fn wave_is_busy(&self, plan: &Plan, wave: usize) -> bool {
        self.in_flight.values().any(|intent| match intent.target {
            Target::Table(table) => plan.sets[plan.tables[table].set].wave == wave,
            Target::Set(set) => plan.sets[set].wave == wave,
            Target::Host(host) => plan.waves[wave].contains(&host),
        })
    }

    fn wave_proposals(&self, plan: &Plan, wave: usize) -> Vec<Proposal> {
        let mut wanted = Vec::new();
        let rows = rows(plan.request.mode);
        for set in (0..plan.sets.len()).filter(|&s| plan.sets[s].wave == wave) {
            for row in rows {
                match row.step.scope() {
                    Scope::Set => self.propose(plan, row, [Target::Set(set)], &mut wanted),
                    Scope::Table => {
                        let tables = plan.sets[set].tables.iter().map(|&table| Target::Table(table));
                        self.propose(plan, row, tables, &mut wanted);
                    }
                    // A host has several sets.
                    Scope::Host => {}
                }
            }
        }
        for &host in &plan.waves[wave] {
            for row in rows.iter().filter(|row| row.step.scope() == Scope::Host) {
                self.propose(plan, row, [Target::Host(host)], &mut wanted);
            }
        }
        wanted
    }

    fn propose(
        &self,
        plan: &Plan,
        row: &'static Row,
        of: impl IntoIterator<Item = Target>,
        wanted: &mut Vec<Proposal>,
    ) {
        let members = of
            .into_iter()
            .filter(|&target| self.wants(plan, row, target) && self.may_by(plan, row, target).is_ok())
            .map(|target| (target, self.hosts_for(plan, target)));
        if row.together {
            let members: Vec<_> = members.collect();
            if !members.is_empty() {
                wanted.push(Proposal { row, members });
            }
        } else {
            wanted.extend(members.map(|member| Proposal {
                row,
                members: vec![member],
            }));
        }
    }

    fn hosts_for(&self, plan: &Plan, target: Target) -> Vec<HostIx> {
        match target {
            Target::Table(table) => vec![plan.tables[table].host],
            Target::Set(set) => self.hosts_of(plan, set),
            Target::Host(host) => vec![host],
        }
    }

    /// Whether the step would bring its target on, and nothing holds it up that only people can mend.
    fn wants(&self, plan: &Plan, row: &Row, target: Target) -> bool {
        let way_is_open = match (row.way, target) {
            (Direction::Forward, Target::Table(table)) => {
                self.tables[table].problem.is_none() && self.sets[plan.tables[table].set].problem.is_none()
            }
            (Direction::Forward, Target::Set(set)) => self.sets[set].problem.is_none(),
            (Direction::Forward, Target::Host(host)) => self.hosts[host].problem.is_none(),
            (Direction::Back, Target::Table(table)) => self.wants_back(plan, plan.tables[table].set),
            (Direction::Back, Target::Set(set)) => self.wants_back(plan, set),
            (Direction::Back, Target::Host(_)) => false,
        };
        way_is_open && self.lacks(plan, row.step, target)
    }

    /// Whether what the step brings about is not there yet. Nothing is lacking to what was left out.
    fn lacks(&self, plan: &Plan, step: StepKind, target: Target) -> bool {
        let of_table = |lacks: &dyn Fn(&TableProgress, SetIx) -> bool| match target {
            Target::Table(ix) => !self.is_left_out(plan, ix) && lacks(&self.tables[ix], plan.tables[ix].set),
            Target::Set(_) | Target::Host(_) => false,
        };
        let of_set = |lacks: &dyn Fn(&SetProgress, SetIx) -> bool| match target {
            Target::Set(ix) => !self.hosts_of(plan, ix).is_empty() && lacks(&self.sets[ix], ix),
            Target::Table(_) | Target::Host(_) => false,
        };
        match step {
            StepKind::Sync => of_table(&|table, _| table.at == TableAt::InService),
            StepKind::Freeze => of_set(&|_, ix| self.wants_freeze(plan, ix)),
            StepKind::Detach => of_table(&|table, set| table.at < TableAt::Detached && !self.wants_freeze(plan, set)),
            StepKind::Reattach => {
                of_table(&|table, _| table.at >= TableAt::Detaching && table.way_back != WayBack::Failed)
            }
            StepKind::Settle => of_set(&|set, _| set.at < SetAt::Judged),
            StepKind::Record => of_set(&|set, _| set.at < SetAt::Recorded),
            StepKind::Attest => of_table(&|table, set| plan.attested && table.attested != self.sets[set].record),
            StepKind::Clean => of_set(&|set, _| set.at < SetAt::Cleaned),
            StepKind::Release => of_set(&|set, _| set.fence != Fence::Absent && !set.is_release_given_up()),
            StepKind::Restart => self.wants_restart(plan, target),
            StepKind::Witness => {
                of_set(&|set, ix| set.at < SetAt::Witnessed && !self.all_at_least(plan, ix, TableAt::Accounted))
            }
            StepKind::Attach => of_table(&|table, _| table.at == TableAt::Detached),
            StepKind::Restore => of_table(&|table, _| table.at == TableAt::Attached),
            StepKind::Clear => of_table(&|table, _| matches!(table.at, TableAt::Attached | TableAt::Accounted)),
            StepKind::Finish => of_table(&|table, _| table.at == TableAt::Restored),
        }
    }

    fn wants_restart(&self, plan: &Plan, target: Target) -> bool {
        let Target::Host(host) = target else {
            return false;
        };
        let of_host = &self.hosts[host];
        let is_due = match plan.request.restart {
            RestartPolicy::Once => of_host.restarted_at.is_none() && of_host.left.is_none(),
            RestartPolicy::Never => false,
        };
        is_due && plan.sets_on(host).any(|set| self.sets[set].at >= SetAt::Cleaned)
    }

    /// A set that did not settle at once is written to faster than its replicas can be detached: the next time its log
    /// is frozen first.
    fn wants_freeze(&self, plan: &Plan, set: SetIx) -> bool {
        let progress = &self.sets[set];
        let in_service = |&t: &TableIx| self.tables[t].at < TableAt::Detached;
        progress.rounds > 0 && progress.fence != Fence::Frozen && plan.sets[set].tables.iter().all(in_service)
    }
}
