//! Which steps are wanted now, wave by wave; whether they are safe is for [`super::guard`] to say.

use rekeeper_shared::plan::{HostIx, Plan, RestartPolicy, SetIx, TableIx};
use rekeeper_shared::step::{StepKind, Target};

use super::{Progress, TableAt};

/// Steps that go out together or not at all: the detaching of a set's replicas, so that little can be written to one
/// between the detaching of the others; otherwise one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The step.
    pub step: StepKind,
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
        for set in (0..plan.sets.len()).filter(|&s| plan.sets[s].wave == wave) {
            self.set_proposals(plan, set, &mut wanted);
        }
        for &host in &plan.waves[wave] {
            if self.wants_restart(plan, host) && self.may(plan, StepKind::Restart, Target::Host(host)).is_ok() {
                wanted.push(Proposal {
                    step: StepKind::Restart,
                    members: vec![(Target::Host(host), vec![host])],
                });
            }
        }
        wanted
    }

    fn wants_restart(&self, plan: &Plan, host: HostIx) -> bool {
        plan.request.restart == RestartPolicy::Once
            && self.hosts[host].restarted_at.is_none()
            && self.hosts[host].problem.is_none()
            && self.hosts[host].left.is_none()
            && plan.sets_on(host).any(|set| self.sets[set].cleaned)
    }

    fn set_proposals(&self, plan: &Plan, set: SetIx, wanted: &mut Vec<Proposal>) {
        for step in [
            StepKind::Freeze,
            StepKind::Settle,
            StepKind::Record,
            StepKind::Clean,
            StepKind::Release,
            StepKind::Witness,
        ] {
            let target = Target::Set(set);
            if self.wants_set_step(plan, step, set) && self.may(plan, step, target).is_ok() {
                wanted.push(Proposal {
                    step,
                    members: vec![(target, self.hosts_of(plan, set))],
                });
            }
        }
        for step in [
            StepKind::Sync,
            StepKind::Detach,
            StepKind::Reattach,
            StepKind::Attest,
            StepKind::Attach,
            StepKind::Restore,
            StepKind::Clear,
            StepKind::Finish,
        ] {
            let members: Vec<(Target, Vec<HostIx>)> = plan.sets[set]
                .tables
                .iter()
                .filter(|&&table| self.wants_table_step(plan, step, table))
                .filter(|&&table| self.may(plan, step, Target::Table(table)).is_ok())
                .map(|&table| (Target::Table(table), vec![plan.tables[table].host]))
                .collect();
            if step == StepKind::Detach && !members.is_empty() {
                wanted.push(Proposal { step, members });
            } else {
                wanted.extend(members.into_iter().map(|member| Proposal {
                    step,
                    members: vec![member],
                }));
            }
        }
    }

    fn wants_set_step(&self, plan: &Plan, step: StepKind, set: SetIx) -> bool {
        let progress = &self.sets[set];
        if self.hosts_of(plan, set).is_empty() {
            return false;
        }
        if step == StepKind::Release {
            let way_failed = progress.problem.is_some() && progress.failures > 0 && progress.release_failed;
            return progress.fenced && self.wants_back(plan, set) && !way_failed;
        }
        if progress.problem.is_some() {
            return false;
        }
        match step {
            StepKind::Freeze => self.wants_freeze(plan, set),
            StepKind::Settle => !progress.settled && !progress.diverged,
            StepKind::Record => progress.record.is_none(),
            StepKind::Clean => !progress.cleaned,
            StepKind::Witness => !progress.witnessed && !self.all_at_least(plan, set, TableAt::Accounted),
            _ => false,
        }
    }

    /// A set that did not settle at once is written to faster than its replicas can be detached: the next time its log
    /// is frozen first.
    fn wants_freeze(&self, plan: &Plan, set: SetIx) -> bool {
        let progress = &self.sets[set];
        progress.rounds > 0
            && !progress.frozen
            && plan.sets[set]
                .tables
                .iter()
                .all(|&t| self.tables[t].at == TableAt::InService)
    }

    fn wants_table_step(&self, plan: &Plan, step: StepKind, table: TableIx) -> bool {
        let progress = &self.tables[table];
        let set = plan.tables[table].set;
        if self.is_left_out(plan, table) {
            return false;
        }
        if step == StepKind::Reattach {
            return progress.maybe_detached && !progress.stuck && self.wants_back(plan, set);
        }
        if progress.problem.is_some() || self.sets[set].problem.is_some() {
            return false;
        }
        match step {
            StepKind::Sync => progress.at == TableAt::InService && !progress.synced,
            StepKind::Detach => progress.at == TableAt::InService && !self.wants_freeze(plan, set),
            StepKind::Attest => plan.attested && progress.attested != self.sets[set].record,
            StepKind::Attach => progress.at == TableAt::Detached,
            StepKind::Restore => progress.at == TableAt::Attached,
            StepKind::Clear => matches!(progress.at, TableAt::Attached | TableAt::Accounted),
            StepKind::Finish => progress.at == TableAt::Restored,
            _ => false,
        }
    }
}
