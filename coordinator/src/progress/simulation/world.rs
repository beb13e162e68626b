//! A model of a cluster: what is really there, and what must never happen to it.

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::plan::{
    Plan, PlanRequest, PlannedHost, PlannedSet, PlannedTable, RestartPolicy, SetIx, TableIx,
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

impl World {
    /// Lets the command take effect; whoever reads this sees what must never happen.
    pub(super) fn execute(&mut self, plan: &Plan, intent: Intent) -> Result<Done, String> {
        let check = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(format!("{intent:?}: {what}"))
            }
        };
        match (intent.step, intent.target) {
            (StepKind::Sync, Target::Table(t)) => {
                self.synced[t] = true;
                Ok(Done::Plain)
            }
            (StepKind::Detach, Target::Table(t)) => {
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
            (StepKind::Reattach, Target::Table(t)) => {
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
            (StepKind::Attest, Target::Table(t)) => {
                let set = plan.tables[t].set;
                check(
                    self.sets[set].recorded && !self.sets[set].gone,
                    "attested what is not recorded, or gone",
                )?;
                self.sets[set].attested.push(t);
                Ok(Done::Plain)
            }
            (_, Target::Set(s)) => self.execute_on_set(plan, intent, s),
            (StepKind::Restart, Target::Host(h)) => {
                self.restarted[h] = true;
                Ok(Done::Restarted {
                    at: "2026-01-01T00:00:00Z".into(),
                })
            }
            (StepKind::Attach, Target::Table(t)) => {
                let set = plan.tables[t].set;
                check(self.sets[set].gone, "attached on metadata that is to be deleted")?;
                check(self.sets[set].witness, "attached without a witness")?;
                self.check_restarted(plan, set, intent)?;
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
            (StepKind::Restore, Target::Table(t)) => {
                let set = plan.tables[t].set;
                check(
                    self.there(plan, set).all(|o| self.manifests[o]),
                    "restored before all manifests",
                )?;
                let mut order = restore_order(plan, set);
                let is_restored = |o: TableIx| matches!(self.tables[o], Table::Restored | Table::Finished);
                // Of a set whose replicas are equal any will do. One that was restored before its host went may be
                // known as restored or not.
                order.retain(|&o| !self.left[plan.tables[o].host]);
                let before = order.iter().take_while(|&&other| other != t);
                let wanted = if self.sets[set].apart { usize::MAX } else { 1 };
                for &other in before.take(wanted) {
                    check(is_restored(other), "restored before one that goes first")?;
                }
                if self.tables[t] == Table::ReadOnly {
                    self.tables[t] = Table::Restored;
                }
                Ok(Done::Restored {
                    counts: Restored::default(),
                    account: String::new(),
                })
            }
            (StepKind::Clear, Target::Table(t)) => {
                check(
                    matches!(self.tables[t], Table::Restored | Table::Finished),
                    "caches dropped too early",
                )?;
                Ok(Done::Plain)
            }
            (StepKind::Finish, Target::Table(t)) => {
                for other in self.there(plan, plan.tables[t].set).collect::<Vec<_>>() {
                    check(
                        matches!(self.tables[other], Table::Restored | Table::Finished),
                        "merges too early",
                    )?;
                }
                self.tables[t] = Table::Finished;
                Ok(Done::Plain)
            }
            _ => Err(format!("{intent:?} is no step")),
        }
    }

    /// The tables of the set whose hosts are still there.
    fn there<'a>(&'a self, plan: &'a Plan, set: SetIx) -> impl Iterator<Item = TableIx> + 'a {
        let tables = plan.sets[set].tables.iter().copied();
        tables.filter(|&t| !self.left[plan.tables[t].host])
    }

    fn check_restarted(&self, plan: &Plan, set: SetIx, intent: Intent) -> Result<(), String> {
        let ready = plan.request.restart == RestartPolicy::Never
            || plan
                .set_hosts(set)
                .iter()
                .all(|&host| self.restarted[host] || self.left[host]);
        if ready {
            Ok(())
        } else {
            Err(format!("{intent:?}: before a host of the set was restarted"))
        }
    }

    fn execute_on_set(&mut self, plan: &Plan, intent: Intent, s: SetIx) -> Result<Done, String> {
        let check = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(format!("{intent:?}: {what}"))
            }
        };
        let detached = plan.sets[s].tables.iter().all(|&t| self.tables[t] == Table::Detached);
        let differs = || {
            vec![Unsettled::Content {
                one: "r0".into(),
                other: "r1".into(),
                part: "all_0_0_0".into(),
            }]
        };
        let unequal = || {
            vec![Unsettled::Log {
                replica: "r".into(),
                pointer: 0,
                end: 1,
            }]
        };
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
                check(detached && !self.sets[s].gone, "settled what is in service or gone")?;
                Ok(Done::Settled(if self.sets[s].apart {
                    differs()
                } else if self.sets[s].equal {
                    vec![]
                } else {
                    unequal()
                }))
            }
            StepKind::Record => {
                check(detached && !self.sets[s].gone, "recorded what is in service or gone")?;
                check(
                    self.sets[s].equal || s == MAY_DIVERGE,
                    "a marker on a set that was not found settled",
                )?;
                // What was not settled is restored one after another, whatever becomes of it later.
                let apart = self.sets[s].apart || !self.sets[s].equal;
                self.sets[s].apart = apart;
                let order = restore_order(plan, s);
                self.sets[s].fence = Some(intent.attempt);
                self.sets[s].recorded = true;
                self.sets[s].attested.clear();
                Ok(Done::Recorded {
                    digest: Some(format!("r{s}")),
                    unsettled: if apart { differs() } else { vec![] },
                    order: order.iter().map(|&t| plan.tables[t].replica_name.clone()).collect(),
                    one_by_one: apart,
                    export: None,
                })
            }
            StepKind::Clean => {
                check(detached, "deleted under an attached replica")?;
                check(self.sets[s].equal || s == MAY_DIVERGE, "deleted while not settled")?;
                check(self.sets[s].recorded, "deleted without a record")?;
                let attested = |table| self.sets[s].attested.contains(table);
                check(
                    plan.sets[s].tables.iter().all(attested),
                    "deleted before all have attested the record",
                )?;
                (self.sets[s].fence, self.sets[s].gone) = (None, true);
                Ok(Done::Cleaned {
                    znodes: 10,
                    export: None,
                })
            }
            StepKind::Release => {
                check(!self.sets[s].gone, "marker taken away after the clean")?;
                (self.sets[s].fence, self.sets[s].recorded, self.sets[s].frozen) = (None, false, false);
                self.sets[s].attested.clear();
                Ok(Done::Plain)
            }
            StepKind::Witness => {
                check(self.sets[s].gone, "witness before the clean")?;
                self.check_restarted(plan, s, intent)?;
                self.sets[s].witness = true;
                Ok(Done::Plain)
            }
            _ => Err(format!("{intent:?} is no step of a set")),
        }
    }
}

/// The last replica first, so that it is not the order of the plan.
fn restore_order(plan: &Plan, set: SetIx) -> Vec<TableIx> {
    plan.sets[set].tables.iter().rev().copied().collect()
}
