//! What comes of the reading of a set's nodes: whether it may be migrated, goes back to catch up, or has a problem.

use rekeeper_shared::domain::plan::{Plan, SetIx, TableIx};
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::domain::unsettled::Unsettled;

use crate::progress::{MAX_ROUNDS, Progress, SetAt, SetProgress, Verdict};

impl Progress {
    pub(super) fn unsettled(&mut self, plan: &Plan, set: SetIx, reasons: &[Unsettled]) {
        let may_diverge = plan.allowed(set).diverged;
        let set = &mut self.sets[set];
        set.unsettled = reasons.to_vec();
        if reasons.is_empty() {
            return;
        }
        if set.rounds + 1 < MAX_ROUNDS && !set.gave_up_sync && reasons.iter().all(Unsettled::may_catch_up) {
            set.at = SetAt::Returning;
            return;
        }
        if may_diverge && reasons.iter().all(Unsettled::may_diverge) {
            (set.at, set.verdict) = (SetAt::Judged, Verdict::Diverged);
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

    /// Whoever judged it under the marker saved nothing where the union is not decided.
    pub(super) fn recorded(
        &mut self,
        plan: &Plan,
        set: SetIx,
        digest: Option<&String>,
        unsettled: &[Unsettled],
        names: &[String],
    ) {
        let decided = unsettled.is_empty() || self.sets[set].is_diverged();
        match digest.filter(|_| decided).zip(replicas_named(plan, set, names)) {
            Some((digest, order)) => {
                let set = &mut self.sets[set];
                (set.at, set.record, set.order) = (SetAt::Recorded, Some(digest.clone()), order);
                set.unsettled = unsettled.to_vec();
            }
            None if unsettled.is_empty() => {
                let text = format!("what was saved names the replicas {}", names.join(", "));
                self.sets[set].problem = Some(Problem::new(Code::RecordFailed, text));
            }
            None => self.unsettled(plan, set, unsettled),
        }
    }
}

impl SetProgress {
    /// Its nodes were read while all its replicas were detached.
    pub(super) fn judged(&mut self, settled: bool) {
        (self.at, self.verdict) = match (settled, self.is_diverged()) {
            (true, false) => (SetAt::Judged, Verdict::Settled),
            (true, true) => (SetAt::Judged, Verdict::DivergedThenSettled),
            (false, true) => (SetAt::Judged, Verdict::Diverged),
            (false, false) => (SetAt::Gathering, self.verdict),
        };
    }
}

/// Parts that are brought to others count as newer there, which matters to some engines: such a set is not recorded.
pub(super) fn out_of_order(plan: &Plan, set: SetIx, one_by_one: bool) -> Option<Problem> {
    let mut tables = plan.sets[set].tables.iter();
    let &table = tables.find(|&&table| one_by_one && plan.keep_order(table))?;
    let text = format!(
        "parts of several replicas of {} have to be brought together, and then they count as newer than the others, which \
         matters to {}",
        plan.tables[table].name, plan.tables[table].engine
    );
    Some(Problem::new(Code::PartsOutOfOrder, text))
}

/// The set's table replicas in the order of these replica names; none when they are not exactly the set's.
fn replicas_named(plan: &Plan, set: SetIx, names: &[String]) -> Option<Vec<TableIx>> {
    let tables = &plan.sets[set].tables;
    let named = |name: &String| tables.iter().copied().find(|&t| plan.tables[t].replica_name == *name);
    let order: Vec<TableIx> = names.iter().filter_map(named).collect();
    let every = order.len() == names.len() && tables.iter().all(|table| order.contains(table));
    (every && order.len() == tables.len()).then_some(order)
}
