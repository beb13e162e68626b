//! How far a migration is: derived from its records, and what may be ordered next. No I/O, no clock.
//!
//! [`Progress::apply`] is the one place where a record changes something; [`modes`] has the steps, a table per mode;
//! [`stages`] where tables and sets are on their way; [`guard`] every precondition of a step; [`next`] says which steps are
//! wanted now; [`orders`] what is answered to people; [`view`] is what they see of it.

mod apply;
pub mod guard;
pub mod modes;
pub mod next;
pub mod orders;
mod record;
mod rehearsal;
pub mod report;
#[cfg(test)]
mod simulation;
pub mod stages;
pub mod view;

use std::collections::{BTreeMap, HashMap};

use rekeeper_shared::domain::plan::{HostIx, Plan, SetIx, TableIx};
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::domain::step::{Exported, Restored, Target};
use rekeeper_shared::domain::unsettled::Unsettled;
use rekeeper_shared::people::view::Until;

pub use apply::IllegalTransition;
pub use record::{Intent, OperatorOrder, Record};
pub use rehearsal::rehearse;
pub use stages::{Fence, SetAt, TableAt, Verdict, WayBack};

/// A step that failed this often in a row gets a problem.
pub const MAX_FAILURES: u32 = 4;
/// A set that was attached, caught up and detached again this often without settling gets a problem.
pub const MAX_ROUNDS: u32 = 4;

/// How far a migration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `start` was ordered.
    pub started: bool,
    /// `pause` was ordered, and nothing since.
    pub paused: bool,
    /// `abort` was ordered.
    pub aborting: bool,
    /// The barrier given with the last `start`.
    pub until: Option<Until>,
    /// Number of the next intent.
    pub next_attempt: u64,
    /// The first step that was ordered of what leads to each barrier, without those that delete nothing and are taken back.
    pub firsts: BTreeMap<Until, Intent>,
    /// Intents without an event.
    pub in_flight: BTreeMap<u64, Intent>,
    /// Per table replica, in the plan's order.
    pub tables: Vec<TableProgress>,
    /// Per replica set, in the plan's order.
    pub sets: Vec<SetProgress>,
    /// Per host, in the plan's order.
    pub hosts: Vec<HostProgress>,
    busy: HashMap<Target, u64>,
}

/// How far a table replica is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableProgress {
    /// Where it is, by events.
    pub at: TableAt,
    /// Its way back into service, which may begin at [`TableAt::Detaching`] and at [`TableAt::Detached`].
    pub way_back: WayBack,
    /// Digest of the part set of record that its own agent has attested.
    pub attested: Option<String>,
    /// The parts that have to come back; none before it was attached on new metadata.
    pub manifest: Option<ManifestFacts>,
    /// Counts of parts by the way they came back; absent until RESTORED.
    pub restored: Option<Restored>,
    /// Digest of the account of its parts.
    pub account: Option<String>,
    /// Commands ordered for it or its set.
    pub attempts: u64,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed; absent again when one succeeds.
    pub problem: Option<Problem>,
    /// It was left out for good, as it is not what was planned any more: what people are told of it. Nothing is ordered of
    /// it, and nothing waits for it.
    pub left: Option<Problem>,
}

impl TableProgress {
    /// Whether it answers no query now, or refuses inserts.
    fn is_unavailable(&self) -> bool {
        (TableAt::Detaching..TableAt::Accounted).contains(&self.at)
    }
}

/// What is known of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFacts {
    /// Its digest; it never changes.
    pub digest: String,
    /// How many parts have to come back.
    pub parts: u64,
    /// How many rows these have together.
    pub rows: u64,
}

/// How far a replica set is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetProgress {
    /// Where it is, by events.
    pub at: SetAt,
    /// What was found when its nodes were read last.
    pub verdict: Verdict,
    /// What may hold its path. Beside the stage, since it is frozen before it is detached, and a step that failed may leave
    /// a marker at any stage before the deletion.
    pub fence: Fence,
    /// How often it was attached again to catch up.
    pub rounds: u32,
    /// What kept it from being settled, when it was read last.
    pub unsettled: Vec<Unsettled>,
    /// Digest of its part set of record.
    pub record: Option<String>,
    /// It is left out from here on, and goes back into service. Beside the stage, since people may order it at any before
    /// the deletion.
    pub skipped: bool,
    /// How many nodes were deleted, of all attempts.
    pub znodes: u64,
    /// The host that has all of its nodes in a file, and which.
    pub export: Option<(HostIx, Exported)>,
    /// A replica did not catch up, and the plan allows that: no further round is made.
    pub gave_up_sync: bool,
    /// The table replicas in the order in which they are restored, the reference first; empty before the record.
    pub order: Vec<TableIx>,
    /// They are restored one after another, since one of them brings parts of its own.
    pub one_by_one: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed; absent again when one succeeds.
    pub problem: Option<Problem>,
    /// Taking its marker away failed as often as it may, for whatever cause: not tried again before `retry`.
    pub release_failed: bool,
}

impl SetProgress {
    /// Whether its nodes were read, and its replicas found equal in the end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.at >= SetAt::Judged && self.verdict != Verdict::Diverged
    }

    /// Whether its nodes were read, and its replicas found to differ for good, at first or to the end.
    #[must_use]
    pub fn is_diverged(&self) -> bool {
        self.at >= SetAt::Judged && self.verdict != Verdict::Settled
    }

    /// Whether a deletion was ordered.
    #[must_use]
    pub fn is_irreversible(&self) -> bool {
        self.at >= SetAt::Cleaning
    }

    /// Whether taking its marker away failed as often as it may.
    fn is_release_given_up(&self) -> bool {
        self.problem.is_some() && self.failures > 0 && self.release_failed
    }
}

/// How far a host is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostProgress {
    /// When its server started anew, RFC 3339 UTC.
    pub restarted_at: Option<String>,
    /// A restart was ordered: until a new server is known the host may have none.
    pub restarting: bool,
    /// It was left out for good: what people are told at its tables. Nothing is ordered of it, and nothing waits for it.
    pub left: Option<Problem>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed; absent again when one succeeds.
    pub problem: Option<Problem>,
}

impl HostProgress {
    /// Whether its server may be away, and somebody means to bring it back.
    fn may_be_away(&self) -> bool {
        self.restarting && self.restarted_at.is_none() && self.left.is_none()
    }
}

impl Progress {
    /// A migration that was only planned.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self {
            started: false,
            paused: false,
            aborting: false,
            until: None,
            next_attempt: 1,
            firsts: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            tables: vec![TableProgress::default(); plan.tables.len()],
            sets: vec![SetProgress::default(); plan.sets.len()],
            hosts: vec![HostProgress::default(); plan.hosts.len()],
            busy: HashMap::new(),
        }
    }

    /// Whether a step on the target is under way.
    #[must_use]
    pub fn is_busy(&self, target: Target) -> bool {
        self.busy.contains_key(&target)
    }

    /// Whether anything of the set is under way: a step on it or on one of its tables.
    #[must_use]
    pub fn set_is_busy(&self, plan: &Plan, set: SetIx) -> bool {
        self.is_busy(Target::Set(set)) || plan.sets[set].tables.iter().any(|&t| self.is_busy(Target::Table(t)))
    }

    /// How often in a row a step on the target has failed, as long as it is tried again.
    #[must_use]
    pub fn failures_of(&self, target: Target) -> u32 {
        let (failures, problem) = match target {
            Target::Table(table) => (self.tables[table].failures, &self.tables[table].problem),
            Target::Set(set) => (self.sets[set].failures, &self.sets[set].problem),
            Target::Host(host) => (self.hosts[host].failures, &self.hosts[host].problem),
        };
        if problem.is_some() { 0 } else { failures }
    }

    /// Whether the set or one of its tables has a problem.
    #[must_use]
    pub fn set_has_problem(&self, plan: &Plan, set: SetIx) -> bool {
        self.sets[set].problem.is_some() || plan.sets[set].tables.iter().any(|&t| self.tables[t].problem.is_some())
    }

    /// The problem that people see at a table: its own, its set's, or its host's while the set waits for that host.
    #[must_use]
    pub fn problem_of<'a>(&'a self, plan: &Plan, table: TableIx) -> Option<&'a Problem> {
        let set = plan.tables[table].set;
        let waits_for_host = self.sets[set].at >= SetAt::Cleaned && self.tables[table].at < TableAt::Attached;
        let of_host = || {
            self.hosts[plan.tables[table].host]
                .problem
                .as_ref()
                .filter(|_| waits_for_host)
        };
        self.tables[table]
            .problem
            .as_ref()
            .or(self.sets[set].problem.as_ref())
            .or_else(of_host)
    }

    /// The problem that people see at a table: also that its host was left out, which holds nothing up.
    #[must_use]
    pub fn shown_problem<'a>(&'a self, plan: &Plan, table: TableIx) -> Option<&'a Problem> {
        let left = self.tables[table].left.as_ref();
        let left = left.or(self.hosts[plan.tables[table].host].left.as_ref());
        let (at, set) = (&self.tables[table], &self.sets[plan.tables[table].set]);
        // One that was never detached is in service as before.
        let needs_a_person = at.at != TableAt::Finished && (at.at >= TableAt::Detaching || set.is_irreversible());
        self.problem_of(plan, table).or_else(|| left.filter(|_| needs_a_person))
    }

    /// Whether the table replica was left out, by itself or with its host.
    #[must_use]
    pub fn is_left_out(&self, plan: &Plan, table: TableIx) -> bool {
        self.tables[table].left.is_some() || self.hosts[plan.tables[table].host].left.is_some()
    }

    /// The table replicas of the set that were not left out.
    fn with_hosts<'a>(&'a self, plan: &'a Plan, set: SetIx) -> impl Iterator<Item = TableIx> + 'a {
        let tables = plan.sets[set].tables.iter().copied();
        tables.filter(|&table| !self.is_left_out(plan, table))
    }

    /// The hosts of the set that have a replica of it that was not left out.
    #[must_use]
    pub fn hosts_of(&self, plan: &Plan, set: SetIx) -> Vec<HostIx> {
        let mut hosts = plan.set_hosts(set);
        hosts.retain(|&host| self.with_hosts(plan, set).any(|table| plan.tables[table].host == host));
        hosts
    }

    /// The order in which the set's replicas are restored: without those whose hosts were left out before they were, and
    /// without those that were left out by themselves: these are gone.
    #[must_use]
    pub fn restore_order(&self, plan: &Plan, set: SetIx) -> Vec<TableIx> {
        let order = self.sets[set].order.iter().copied();
        order
            .filter(|&table| {
                let of_table = &self.tables[table];
                of_table.left.is_none() && (of_table.at >= TableAt::Accounted || !self.is_left_out(plan, table))
            })
            .collect()
    }

    /// Why a host cannot be left out, if so: of a set whose replicas were not equal, its replica may have what no other
    /// has.
    #[must_use]
    pub fn may_not_be_left(&self, plan: &Plan, host: HostIx) -> Option<SetIx> {
        plan.sets_on(host).find(|&set| {
            let progress = &self.sets[set];
            progress.is_irreversible() && !progress.is_settled() && !self.is_over(plan, set)
        })
    }

    /// Whether the table replica can be left out by itself: it is not what was planned any more, or it was restored first
    /// and the others do not find it at their path; and they have what it had. As long as nothing of it is deleted, its
    /// whole set is skipped instead.
    ///
    /// # Errors
    /// Why it cannot, for people.
    pub fn may_be_left_alone(&self, plan: &Plan, table: TableIx) -> Result<(), &'static str> {
        let ix = plan.tables[table].set;
        let set = &self.sets[ix];
        let code = |t: TableIx| self.tables[t].problem.as_ref().map(|problem| problem.code);
        let misses_it = |t: TableIx| t != table && matches!(code(t), Some(Code::PlaceDiffers | Code::PathExists));
        let is_missed = matches!(self.tables[table].at, TableAt::Accounted | TableAt::Restored)
            && self.restore_order(plan, ix).first() == Some(&table)
            && self.with_hosts(plan, ix).any(misses_it);
        if !set.is_irreversible() {
            Err("none of its nodes was deleted yet: leave the table out on all hosts, with --table alone")
        } else if code(table) != Some(Code::TableChanged) && !is_missed {
            Err("only a replica that is not what was planned any more (TABLE_CHANGED) can be left out by itself")
        } else if !set.is_settled() {
            Err("the replicas of its set were not equal, and it may have what no other has")
        } else {
            Ok(())
        }
    }

    /// Whether all tables of the set are at least there.
    fn all_at_least(&self, plan: &Plan, set: SetIx, at: TableAt) -> bool {
        self.with_hosts(plan, set).all(|t| self.tables[t].at >= at)
    }

    /// Whether the set should go back into service on its old metadata; whether it still can is for a guard to say.
    #[must_use]
    pub fn wants_back(&self, plan: &Plan, set: SetIx) -> bool {
        // A way back that was begun is gone to its end, or what is attached would be taken for detached.
        let begun = plan.sets[set]
            .tables
            .iter()
            .any(|&t| self.tables[t].way_back != WayBack::NotBegun);
        let returns = self.sets[set].skipped || self.sets[set].at == SetAt::Returning;
        self.aborting || returns || begun || self.set_has_problem(plan, set)
    }

    /// Which way the set goes: after the first deletion, forward is the only one.
    #[must_use]
    pub fn direction(&self, plan: &Plan, set: SetIx) -> Direction {
        if self.wants_back(plan, set) && !self.sets[set].is_irreversible() {
            Direction::Back
        } else {
            Direction::Forward
        }
    }

    /// Whether the set is in service on its old metadata, with nothing of ours left in ZooKeeper.
    #[must_use]
    pub fn is_in_service(&self, plan: &Plan, set: SetIx) -> bool {
        self.sets[set].fence == Fence::Absent
            && self
                .with_hosts(plan, set)
                .all(|t| self.tables[t].at < TableAt::Detaching)
    }

    /// Whether nothing is left to do for the set: all of it is restored, or it is skipped and in service.
    #[must_use]
    pub fn is_over(&self, plan: &Plan, set: SetIx) -> bool {
        let skipped = self.sets[set].skipped && self.is_in_service(plan, set) && !self.set_is_busy(plan, set);
        skipped || self.all_at_least(plan, set, TableAt::Finished)
    }

    /// Whether the set can still be left out: until its deletion is ordered.
    #[must_use]
    pub fn may_be_skipped(&self, set: SetIx) -> bool {
        !self.sets[set].is_irreversible()
    }

    /// Whether the host was restarted, or need not be.
    #[must_use]
    pub fn host_is_ready(&self, plan: &Plan, host: HostIx) -> bool {
        match plan.request.restart {
            rekeeper_shared::domain::plan::RestartPolicy::Never => true,
            rekeeper_shared::domain::plan::RestartPolicy::Once => self.hosts[host].restarted_at.is_some(),
        }
    }
}

/// Which way a replica set goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards RESTORED.
    Forward,
    /// Back into service on its old metadata.
    Back,
}
