//! What people see of a migration: state, phase, counts, and the whole status document.

use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::plan::{Plan, SetIx, TableIx};
use rekeeper_shared::people::view::{
    Counts, ExportStatus, HostStatus, Phase, SetStatus, State, StatusView, TableStatus, TableStatusView,
};

use super::{Direction, Progress, SetAt, TableAt};

impl Progress {
    /// The status of a table replica, one of the four that people know.
    #[must_use]
    pub fn status_of(&self, plan: &Plan, table: TableIx) -> TableStatus {
        match self.tables[table].at {
            TableAt::Restored | TableAt::Finished => TableStatus::Restored,
            _ if self.sets[plan.tables[table].set].at >= SetAt::Cleaned => TableStatus::ZkCleaned,
            TableAt::InService | TableAt::Synced | TableAt::Detaching => TableStatus::Init,
            TableAt::Detached | TableAt::Attached | TableAt::Accounted => TableStatus::Detached,
        }
    }

    /// The state of the migration.
    #[must_use]
    pub fn state(&self, plan: &Plan) -> State {
        if !self.started {
            return State::Planned;
        }
        let sets = || 0..plan.sets.len();
        let finished = |set: SetIx| self.is_over(plan, set);
        if self.in_flight.is_empty() && sets().all(finished) {
            // What `abort` has carried forward was given up all the same: the tables say how far each has come.
            return if self.aborting {
                State::Aborted
            } else {
                State::Completed
            };
        }
        if self.paused {
            return State::Paused;
        }
        if !self.in_flight.is_empty() || !self.proposals(plan).is_empty() {
            return State::Running;
        }
        if self.aborting {
            let ended = sets().all(|set| finished(set) || self.is_in_service(plan, set));
            return if ended { State::Aborted } else { State::Failed };
        }
        let at_barrier = |set: SetIx| !finished(set) && !self.is_held(plan, set);
        if self.until.is_some() && sets().any(at_barrier) {
            State::Paused
        } else {
            State::Failed
        }
    }

    /// Whether a problem of the set, of its tables or of its hosts keeps it from going on.
    fn is_held(&self, plan: &Plan, set: SetIx) -> bool {
        self.set_has_problem(plan, set)
            || plan.sets[set]
                .tables
                .iter()
                .any(|&t| self.problem_of(plan, t).is_some())
    }

    /// The phase of the migration: that of its furthest-behind set that can still move, in the wave that is under way.
    #[must_use]
    pub fn phase(&self, plan: &Plan) -> Phase {
        let unfinished = |&set: &SetIx| !self.is_over(plan, set);
        let moving = |&set: &SetIx| unfinished(&set) && !(self.is_held(plan, set) || self.aborting);
        let of = |sets: &dyn Fn(&SetIx) -> bool| {
            let wave = (0..plan.sets.len())
                .filter(|s| sets(s))
                .map(|s| plan.sets[s].wave)
                .min()?;
            (0..plan.sets.len())
                .filter(|s| sets(s) && plan.sets[*s].wave == wave)
                .map(|s| self.set_phase(plan, s))
                .min()
        };
        of(&moving).or_else(|| of(&unfinished)).unwrap_or(Phase::Done)
    }

    fn set_phase(&self, plan: &Plan, set: SetIx) -> Phase {
        let progress = &self.sets[set];
        let ready = self
            .hosts_of(plan, set)
            .iter()
            .all(|&host| self.host_is_ready(plan, host));
        if self.is_over(plan, set) {
            Phase::Done
        } else if self.all_at_least(plan, set, TableAt::Attached) {
            Phase::Restore
        } else if progress.at >= SetAt::Cleaned && ready {
            Phase::Attach
        } else if progress.at >= SetAt::Cleaned {
            Phase::Restart
        } else if progress.is_irreversible() || progress.is_settled() {
            Phase::Clean
        } else if self.all_at_least(plan, set, TableAt::Detached) && self.direction(plan, set) == Direction::Forward {
            Phase::Settle
        } else {
            Phase::Detach
        }
    }

    /// All tables, or those of one host, counted by status.
    #[must_use]
    pub fn counts(&self, plan: &Plan, host: Option<usize>) -> Counts {
        let mut counts = Counts::default();
        for (ix, planned) in plan.tables.iter().enumerate() {
            if host.is_none_or(|host| planned.host == host) {
                counts.add(self.status_of(plan, ix), self.shown_problem(plan, ix).is_some());
            }
        }
        counts
    }

    /// The tables of a wave, counted by status.
    #[must_use]
    pub fn counts_of_wave(&self, plan: &Plan, wave: usize) -> Counts {
        let mut counts = Counts::default();
        for ix in (0..plan.tables.len()).filter(|&ix| plan.sets[plan.tables[ix].set].wave == wave) {
            counts.add(self.status_of(plan, ix), self.shown_problem(plan, ix).is_some());
        }
        counts
    }

    /// Whether a table of the wave answers no query now, or refuses inserts.
    #[must_use]
    pub fn wave_is_unavailable(&self, plan: &Plan, wave: usize) -> bool {
        let of_wave = |ix: &usize| plan.sets[plan.tables[*ix].set].wave == wave;
        (0..plan.tables.len())
            .filter(of_wave)
            .any(|ix| self.tables[ix].is_unavailable())
    }

    /// Whether nothing is left to do for any set of the wave.
    #[must_use]
    pub fn wave_is_over(&self, plan: &Plan, wave: usize) -> bool {
        (0..plan.sets.len())
            .filter(|&set| plan.sets[set].wave == wave)
            .all(|set| self.is_over(plan, set))
    }

    /// How many tables answer no query now, or refuse inserts.
    #[must_use]
    pub fn unavailable(&self) -> usize {
        self.tables.iter().filter(|table| table.is_unavailable()).count()
    }

    /// The status document, without what only the driver knows: what is under way for how long, and what is waited for.
    #[must_use]
    pub fn status(&self, plan: &Plan, connected: impl Fn(&HostName) -> bool) -> StatusView {
        StatusView {
            name: plan.name.clone(),
            state: self.state(plan),
            phase: self.phase(plan),
            until: self.until,
            waiting_for: None,
            running: Vec::new(),
            retries: Vec::new(),
            waves: Vec::new(),
            counts: self.counts(plan, None),
            hosts: plan
                .hosts
                .iter()
                .enumerate()
                .map(|(ix, host)| HostStatus {
                    host: host.name.clone(),
                    connected: connected(&host.name),
                    version: host.clickhouse_version.clone(),
                    restarted_at: self.hosts[ix].restarted_at.clone(),
                    counts: self.counts(plan, Some(ix)),
                    skipped: self.hosts[ix].left.is_some(),
                    away: None,
                })
                .collect(),
            replica_sets: (0..plan.sets.len()).map(|set| self.set_status(plan, set)).collect(),
            tables: (0..plan.tables.len())
                .map(|table| self.table_status(plan, table))
                .collect(),
        }
    }

    fn set_status(&self, plan: &Plan, set: SetIx) -> SetStatus {
        let progress = &self.sets[set];
        let settled = (progress.is_settled() || progress.is_irreversible()) && !progress.is_diverged();
        let differences: Vec<String> = progress.unsettled.iter().map(ToString::to_string).collect();
        let differences = differences.join("; ");
        let reason = match (progress.order.is_empty(), progress.is_diverged()) {
            (false, false) => {
                Some("settled: it holds the part set of record, with the fewest merges still to run".into())
            }
            (false, true) => Some(format!(
                "not settled, and allowed: of it the fewest parts have to be brought from the others; {differences}"
            )),
            (true, _) => (!differences.is_empty()).then_some(differences),
        };
        SetStatus {
            zookeeper_path: plan.sets[set].path.to_string(),
            settled,
            reference: self
                .restore_order(plan, set)
                .first()
                .map(|&table| plan.hosts[plan.tables[table].host].name.clone()),
            reason,
            znodes_deleted: progress.znodes,
            export: self.export_status(plan, set),
        }
    }

    /// Where the nodes of a set are exported to.
    #[must_use]
    pub fn export_status(&self, plan: &Plan, set: SetIx) -> Option<ExportStatus> {
        let (host, export) = self.sets[set].export.as_ref()?;
        Some(ExportStatus {
            host: plan.hosts[*host].name.clone(),
            file: export.file.clone(),
            nodes: export.nodes,
            bytes: export.bytes,
            sha256: export.sha256.clone(),
        })
    }

    fn table_status(&self, plan: &Plan, table: TableIx) -> TableStatusView {
        let planned = &plan.tables[table];
        let progress = &self.tables[table];
        TableStatusView {
            host: plan.hosts[planned.host].name.clone(),
            database: planned.name.database.clone(),
            table: planned.name.table.clone(),
            uuid: planned.uuid.clone(),
            zookeeper_path: plan.sets[planned.set].path.to_string(),
            replica_name: planned.replica_name.clone(),
            status: self.status_of(plan, table),
            attempts: progress.attempts,
            parts: progress.manifest.as_ref().map(|m| m.parts),
            set_aside: progress.restored.map(|counts| counts.set_aside),
            rows: progress.manifest.as_ref().map(|m| m.rows),
            skipped: self.sets[planned.set].skipped || self.is_left_out(plan, table),
            waits_for: None,
            problem: self.shown_problem(plan, table).cloned(),
        }
    }
}
