//! What an order of people changes.

use std::collections::BTreeMap;

use rekeeper_shared::domain::plan::{HostIx, Plan, SetIx, TableIx};
use rekeeper_shared::domain::problem::{Code, Problem};

use crate::progress::{Intent, OperatorOrder, Progress, SetAt, TableAt, TableProgress, WayBack};

impl Progress {
    pub(super) fn apply_order(&mut self, plan: &Plan, order: &OperatorOrder) {
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
                table.forget_problem();
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
            if absent && self.sets[set].at == SetAt::Witnessed {
                self.sets[set].at = SetAt::Cleaned;
            }
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

    pub(super) fn forget_record(&mut self, plan: &Plan, set: SetIx) {
        let of_set = &mut self.sets[set];
        (of_set.record, of_set.order) = (None, Vec::new());
        if of_set.at == SetAt::Recorded {
            of_set.at = SetAt::Judged;
        }
        for &table in &plan.sets[set].tables {
            self.tables[table].attested = None;
        }
    }

    fn forget_problems(&mut self, set: SetIx, table: TableIx, host: usize) {
        let (table, set, host) = (&mut self.tables[table], &mut self.sets[set], &mut self.hosts[host]);
        table.forget_problem();
        (set.problem, set.failures, set.rounds, set.gave_up_sync) = (None, 0, 0, false);
        set.release_failed = false;
        (host.problem, host.failures) = (None, 0);
    }

    pub(super) fn forget_problems_of_set(&mut self, plan: &Plan, set: SetIx) {
        for &table in &plan.sets[set].tables {
            self.tables[table].forget_problem();
        }
        let set = &mut self.sets[set];
        (set.problem, set.failures, set.release_failed) = (None, 0, false);
    }
}

impl TableProgress {
    fn forget_problem(&mut self) {
        (self.problem, self.failures) = (None, 0);
        if self.way_back == WayBack::Failed {
            self.way_back = WayBack::Begun;
        }
    }
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::plan::RestartPolicy;
    use rekeeper_shared::domain::step::{StepKind, Target};

    use super::*;
    use crate::progress::simulation::world::plan;
    use crate::progress::{Fence, Record, Verdict};

    #[test]
    fn a_record_whose_marker_may_be_gone_does_not_count() {
        let plan = plan(RestartPolicy::Once);
        let mut progress = Progress::new(&plan);
        (progress.started, progress.aborting) = (true, true);
        let set = &mut progress.sets[0];
        (set.at, set.fence) = (SetAt::Recorded, Fence::Possible);
        (set.record, set.order) = (Some("r".into()), plan.sets[0].tables.clone());
        let release = Intent {
            attempt: 1,
            host: 0,
            step: StepKind::Release,
            target: Target::Set(0),
        };
        progress.apply(&plan, &Record::Intent(release)).unwrap();
        assert_eq!((progress.sets[0].at, &progress.sets[0].record), (SetAt::Judged, &None));
        assert!(progress.sets[0].order.is_empty());
    }

    #[test]
    fn a_host_is_not_left_out_of_a_set_whose_replicas_were_not_equal() {
        let plan = plan(RestartPolicy::Once);
        let mut progress = Progress::new(&plan);
        let host = plan.tables[plan.sets[0].tables[0]].host;
        progress.sets[0].verdict = Verdict::Diverged;
        for (at, held_by) in [
            (SetAt::Recorded, None),
            (SetAt::Cleaning, Some(0)),
            (SetAt::Witnessed, Some(0)),
        ] {
            progress.sets[0].at = at;
            assert_eq!(progress.may_not_be_left(&plan, host), held_by, "{at:?}");
        }
        progress.sets[0].verdict = Verdict::Settled;
        assert_eq!(progress.may_not_be_left(&plan, host), None);
    }
}
