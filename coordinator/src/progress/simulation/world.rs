//! A model of a cluster: what is really there, and what must never happen to it.

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::plan::{
    HostIx, Plan, PlanRequest, PlannedHost, PlannedSet, PlannedTable, RestartPolicy, SetIx, TableIx,
};
use rekeeper_shared::domain::step::{Done, Restored, StepKind, Target};
use rekeeper_shared::domain::unsettled::Unsettled;

use crate::progress::Intent;

/// The set that may be migrated although its replicas differ.
pub(super) const MAY_DIVERGE: SetIx = 0;

/// Two waves; the first ties three hosts together by two sets, one of them with three replicas.
pub(in crate::progress) fn plan(restart: RestartPolicy) -> Plan {
    let sets = [vec![0, 1, 2], vec![0, 1], vec![3, 4]];
    let mut tables = Vec::new();
    let mut planned_sets = Vec::new();
    for (ix, hosts) in sets.iter().enumerate() {
        let first = tables.len();
        for &host in hosts {
            tables.push(PlannedTable {
                host,
                name: TableName::new("d", format!("t{ix}")),
                uuid: format!("{ix}-{host}"),
                engine: "ReplicatedMergeTree".into(),
                set: ix,
                replica_name: format!("r{host}"),
            });
        }
        planned_sets.push(PlannedSet {
            place: Place {
                ensemble: "default".into(),
                nodes: vec![],
                secure: false,
                chroot: String::new(),
            },
            path: ZkPath::parse(&format!("/t{ix}")).unwrap(),
            tables: (first..tables.len()).collect(),
            wave: usize::from(ix == 2),
        });
    }
    Plan {
        name: "m".parse().unwrap(),
        created: String::new(),
        created_by: String::new(),
        request: PlanRequest {
            restart,
            allow: vec![format!("DIVERGED:d.t{MAY_DIVERGE}")].into(),
            ..PlanRequest::default()
        },
        hosts: (0..5)
            .map(|h| PlannedHost {
                name: format!("h{h}").parse().unwrap(),
                clickhouse_version: String::new(),
                has_hook: false,
                runs_keeper: h < 2,
            })
            .collect(),
        tables,
        sets: planned_sets,
        waves: vec![vec![0, 1, 2], vec![3, 4]],
        warnings: vec![],
        forecasts: vec![],
        attested: true,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    InService,
    Detached,
    ReadOnly,
    Restored,
    Finished,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Set {
    pub(super) equal: bool,
    /// Its replicas differ for good: no catching up helps.
    pub(super) apart: bool,
    pub(super) fence: Option<u64>,
    pub(super) frozen: bool,
    pub(super) recorded: bool,
    /// Whose agents have attested what is recorded.
    pub(super) attested: Vec<TableIx>,
    pub(super) gone: bool,
    pub(super) witness: bool,
}

/// The cluster as it really is.
pub(super) struct World {
    pub(super) tables: Vec<Table>,
    pub(super) synced: Vec<bool>,
    pub(super) sets: Vec<Set>,
    pub(super) restarted: Vec<bool>,
    pub(super) manifests: Vec<bool>,
    /// Hosts that never come back.
    pub(super) left: Vec<bool>,
}

/// What must never happen is the error.
fn check(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

impl World {
    /// Lets the command take effect; whoever reads this sees what must never happen.
    pub(super) fn execute(&mut self, plan: &Plan, intent: Intent) -> Result<Done, String> {
        let done = match intent.target {
            Target::Table(table) => self.execute_on_table(plan, intent.step, table),
            Target::Set(set) => self.execute_on_set(plan, intent, set),
            Target::Host(host) => self.execute_on_host(intent.step, host),
        };
        done.map_err(|what| format!("{intent:?}: {what}"))
    }

    fn execute_on_table(&mut self, plan: &Plan, step: StepKind, t: TableIx) -> Result<Done, &'static str> {
        match step {
            StepKind::Sync => {
                self.synced[t] = true;
                Ok(Done::Plain)
            }
            StepKind::Detach => self.detach(plan, t),
            StepKind::Reattach => self.reattach(plan, t),
            StepKind::Attest => {
                let set = &mut self.sets[plan.tables[t].set];
                check(set.recorded && !set.gone, "attested what is not recorded, or gone")?;
                set.attested.push(t);
                Ok(Done::Plain)
            }
            StepKind::Attach => self.attach(plan, t),
            StepKind::Restore => self.restore(plan, t),
            StepKind::Clear => {
                check(self.is_restored(t), "caches dropped too early")?;
                Ok(Done::Plain)
            }
            StepKind::Finish => {
                let all = self.there(plan, plan.tables[t].set).all(|o| self.is_restored(o));
                check(all, "merges too early")?;
                self.tables[t] = Table::Finished;
                Ok(Done::Plain)
            }
            StepKind::Freeze
            | StepKind::Settle
            | StepKind::Record
            | StepKind::Clean
            | StepKind::Release
            | StepKind::Restart
            | StepKind::Witness => Err("no step of a table"),
        }
    }

    fn detach(&mut self, plan: &Plan, t: TableIx) -> Result<Done, &'static str> {
        let set = plan.tables[t].set;
        check(!self.sets[set].gone, "detached after the clean")?;
        for &other in &plan.sets[set].tables {
            check(
                self.synced[other] || self.tables[other] == Table::Detached || set == MAY_DIVERGE,
                "detached beside a laggard",
            )?;
        }
        self.tables[t] = Table::Detached;
        Ok(Done::Plain)
    }

    fn reattach(&mut self, plan: &Plan, t: TableIx) -> Result<Done, &'static str> {
        let set = &self.sets[plan.tables[t].set];
        check(!set.gone, "put back on deleted metadata")?;
        check(
            set.fence.is_none(),
            "put back under a marker (ATTACH is refused with 253)",
        )?;
        self.tables[t] = Table::InService;
        self.synced[t] = false;
        Ok(Done::Plain)
    }

    fn attach(&mut self, plan: &Plan, t: TableIx) -> Result<Done, &'static str> {
        let set = plan.tables[t].set;
        check(self.sets[set].gone, "attached on metadata that is to be deleted")?;
        check(self.sets[set].witness, "attached without a witness")?;
        self.check_restarted(plan, set)?;
        if self.tables[t] == Table::Detached {
            self.tables[t] = Table::ReadOnly;
        }
        self.manifests[t] = true;
        Ok(Done::Attached {
            digest: format!("d{t}"),
            parts: 1,
            rows: 1,
        })
    }

    fn restore(&mut self, plan: &Plan, t: TableIx) -> Result<Done, &'static str> {
        let set = plan.tables[t].set;
        check(
            self.there(plan, set).all(|o| self.manifests[o]),
            "restored before all manifests",
        )?;
        let mut order = restore_order(plan, set);
        // Of a set whose replicas are equal any will do. One that was restored before its host went may be
        // known as restored or not.
        order.retain(|&o| !self.left[plan.tables[o].host]);
        let before = order.iter().take_while(|&&other| other != t);
        let wanted = if self.sets[set].apart { usize::MAX } else { 1 };
        for &other in before.take(wanted) {
            check(self.is_restored(other), "restored before one that goes first")?;
        }
        if self.tables[t] == Table::ReadOnly {
            self.tables[t] = Table::Restored;
        }
        Ok(Done::Restored {
            counts: Restored::default(),
            account: String::new(),
        })
    }

    fn is_restored(&self, t: TableIx) -> bool {
        matches!(self.tables[t], Table::Restored | Table::Finished)
    }

    /// The tables of the set whose hosts are still there.
    fn there<'a>(&'a self, plan: &'a Plan, set: SetIx) -> impl Iterator<Item = TableIx> + 'a {
        let tables = plan.sets[set].tables.iter().copied();
        tables.filter(|&t| !self.left[plan.tables[t].host])
    }

    fn check_restarted(&self, plan: &Plan, set: SetIx) -> Result<(), &'static str> {
        let ready = plan.request.restart == RestartPolicy::Never
            || plan
                .set_hosts(set)
                .iter()
                .all(|&host| self.restarted[host] || self.left[host]);
        check(ready, "before a host of the set was restarted")
    }

    fn execute_on_host(&mut self, step: StepKind, host: HostIx) -> Result<Done, &'static str> {
        check(step == StepKind::Restart, "no step of a host")?;
        self.restarted[host] = true;
        Ok(Done::Restarted {
            at: "2026-01-01T00:00:00Z".into(),
        })
    }

    fn execute_on_set(&mut self, plan: &Plan, intent: Intent, s: SetIx) -> Result<Done, &'static str> {
        let detached = plan.sets[s].tables.iter().all(|&t| self.tables[t] == Table::Detached);
        match intent.step {
            StepKind::Freeze => {
                check(!self.sets[s].gone, "frozen after the clean")?;
                let set = &plan.sets[s];
                check(
                    set.tables.iter().all(|&t| self.synced[t]) || s == MAY_DIVERGE,
                    "frozen before all have caught up",
                )?;
                self.sets[s].frozen = true;
                Ok(Done::Plain)
            }
            StepKind::Settle => {
                let set = &self.sets[s];
                check(detached && !set.gone, "settled what is in service or gone")?;
                Ok(Done::Settled(if set.apart {
                    vec![differs()]
                } else if set.equal {
                    vec![]
                } else {
                    vec![behind()]
                }))
            }
            StepKind::Record => {
                check(detached, "recorded what is in service")?;
                self.record(plan, intent.attempt, s)
            }
            StepKind::Clean => {
                check(detached, "deleted under an attached replica")?;
                self.clean(plan, s)
            }
            StepKind::Release => {
                let set = &mut self.sets[s];
                check(!set.gone, "marker taken away after the clean")?;
                (set.fence, set.recorded, set.frozen) = (None, false, false);
                set.attested.clear();
                Ok(Done::Plain)
            }
            StepKind::Witness => {
                check(self.sets[s].gone, "witness before the clean")?;
                self.check_restarted(plan, s)?;
                self.sets[s].witness = true;
                Ok(Done::Plain)
            }
            StepKind::Sync
            | StepKind::Detach
            | StepKind::Reattach
            | StepKind::Attest
            | StepKind::Restart
            | StepKind::Attach
            | StepKind::Restore
            | StepKind::Clear
            | StepKind::Finish => Err("no step of a set"),
        }
    }

    fn record(&mut self, plan: &Plan, attempt: u64, s: SetIx) -> Result<Done, &'static str> {
        let set = &mut self.sets[s];
        check(!set.gone, "recorded what is gone")?;
        check(
            set.equal || s == MAY_DIVERGE,
            "a marker on a set that was not found settled",
        )?;
        // What was not settled is restored one after another, whatever becomes of it later.
        set.apart |= !set.equal;
        set.fence = Some(attempt);
        set.recorded = true;
        set.attested.clear();
        let order = restore_order(plan, s);
        Ok(Done::Recorded {
            digest: Some(format!("r{s}")),
            unsettled: if set.apart { vec![differs()] } else { vec![] },
            order: order.iter().map(|&t| plan.tables[t].replica_name.clone()).collect(),
            one_by_one: set.apart,
            export: None,
        })
    }

    fn clean(&mut self, plan: &Plan, s: SetIx) -> Result<Done, &'static str> {
        let set = &mut self.sets[s];
        check(set.equal || s == MAY_DIVERGE, "deleted while not settled")?;
        check(set.recorded, "deleted without a record")?;
        check(
            plan.sets[s].tables.iter().all(|table| set.attested.contains(table)),
            "deleted before all have attested the record",
        )?;
        (set.fence, set.gone) = (None, true);
        Ok(Done::Cleaned {
            znodes: 10,
            export: None,
        })
    }
}

/// Two replicas that no catching up makes equal.
fn differs() -> Unsettled {
    Unsettled::Content {
        one: "r0".into(),
        other: "r1".into(),
        part: "all_0_0_0".into(),
    }
}

/// A replica that has not read all of the log, and may catch up.
fn behind() -> Unsettled {
    Unsettled::Log {
        replica: "r".into(),
        pointer: 0,
        end: 1,
    }
}

/// The last replica first, so that it is not the order of the plan.
fn restore_order(plan: &Plan, set: SetIx) -> Vec<TableIx> {
    plan.sets[set].tables.iter().rev().copied().collect()
}
