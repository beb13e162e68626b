//! What people ask of the driver, and what it answers.

use std::collections::BTreeSet;

use rekeeper_shared::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::plan::RestartPolicy;
use rekeeper_shared::problem::{Code, Finding};
use rekeeper_shared::view::{HostView, MigrationLine, State};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::behind::{behind, refused};
use super::handle::{DriverHandle, OperatorError, Request};
use super::migration::Migration;
use super::waiting::{name_the_absent, rounded, running, waiting_for};
use super::{Driver, Turn};
use crate::progress::{OperatorOrder, Record};
use crate::store::{Append, Store, StoreError};

/// Questions that may wait; beyond it, callers do.
const REQUESTS: usize = 64;

impl<S: Store> Driver<S> {
    /// The way to ask this driver, and what to give to [`Driver::run`].
    #[must_use]
    pub fn handle(&self) -> (DriverHandle, mpsc::Receiver<Request>) {
        let (requests, asked) = mpsc::channel(REQUESTS);
        (DriverHandle::new(requests, self.changed.subscribe()), asked)
    }

    /// Whoever does not wait for the answer any more does not get it.
    pub(super) async fn answer(&mut self, request: Request, turn: &mut Turn) -> Result<(), StoreError> {
        match request {
            Request::Hosts(answer) => drop(answer.send(self.host_views())),
            Request::Migrations(answer) => drop(answer.send(self.lines())),
            Request::Status(name, answer) => {
                let view = self.migrations.get(&name).map(|migration| {
                    let connected =
                        |host: &HostName| self.hosts.get(host).is_some_and(super::hosts::Host::is_connected);
                    let mut view = migration.progress.status(&migration.plan, connected);
                    view.waiting_for = waiting_for(migration, &self.hosts);
                    view.running = running(migration, &self.hosts);
                    view.waves = migration.waves();
                    name_the_absent(&mut view, migration, &self.hosts);
                    view
                });
                drop(answer.send(view));
            }
            Request::Plan(name, answer) => {
                let plan = self.migrations.get(&name);
                drop(answer.send(plan.map(|m| (m.plan.clone(), m.progress.state(&m.plan)))));
            }
            Request::Progress(name, answer) => {
                let migration = self.migrations.get(&name);
                drop(answer.send(migration.map(|m| (m.plan.clone(), Box::new(m.progress.clone())))));
            }
            Request::Overlaps(name, hosts, answer) => drop(answer.send(self.overlaps(&name, &hosts))),
            Request::Measured(answer) => {
                drop(answer.send(self.migrations.values().flat_map(Migration::measured).collect()));
            }
            Request::Save(plan, answer) => {
                let saved = match self.store.save_plan(&plan).await {
                    Ok(()) => {
                        self.migrations.insert(plan.name.clone(), Migration::new(*plan));
                        Ok(())
                    }
                    Err(StoreError::NameTaken(name)) => Err(OperatorError::Exists(name)),
                    Err(e) => return Err(e),
                };
                drop(answer.send(saved));
            }
            Request::Order {
                name,
                by,
                order,
                answer,
            } => match self.order(&name, by, order, turn) {
                // Answered when it is on disk.
                Ok(notice) => turn.answers.push(Box::new(move || drop(answer.send(Ok(notice))))),
                Err(e) => drop(answer.send(Err(e))),
            },
        }
        Ok(())
    }

    fn order(
        &mut self,
        name: &MigrationName,
        by: String,
        order: OperatorOrder,
        turn: &mut Turn,
    ) -> Result<String, OperatorError> {
        let overlaps = match self.migrations.get(name) {
            Some(migration) => {
                let hosts: Vec<HostName> = migration.plan.hosts.iter().map(|host| host.name.clone()).collect();
                self.overlaps(name, &hosts)
            }
            None => return Err(OperatorError::Unknown(name.clone())),
        };
        let Some(migration) = self.migrations.get_mut(name) else {
            return Err(OperatorError::Unknown(name.clone()));
        };
        if let Some(finding) = behind(migration, &self.hosts) {
            return Err(refused(&finding));
        }
        let state = migration.progress.state(&migration.plan);
        let refuse = |what: &str| Err(OperatorError::State(format!("migration {name} {what}")));
        let unavailable = migration.progress.unavailable();
        let notice = match (&order, state) {
            (_, State::Completed) => return refuse_or_notice(&order, format!("migration {name} is completed already")),
            (_, State::Aborted) => return refuse_or_notice(&order, format!("migration {name} was aborted")),
            (OperatorOrder::Start { .. }, State::Running) => {
                return Ok(format!("migration {name} is running already: following it"));
            }
            (OperatorOrder::Start { .. }, State::Failed) => {
                return Ok(format!(
                    "migration {name} has failed: see `rekeeper problems {name}`, then `rekeeper retry {name}`"
                ));
            }
            (OperatorOrder::Start { .. }, State::Planned) => {
                if let Some(overlap) = overlaps.first() {
                    return Err(OperatorError::Blocked(format!("{}: {}", overlap.code, overlap.message)));
                }
                String::new()
            }
            (OperatorOrder::Start { .. }, State::Paused) => String::new(),
            (OperatorOrder::Pause, State::Running) => {
                let tables = count(unavailable, "table", "tables");
                format!("no new command is sent; unavailable meanwhile: {tables}")
            }
            (OperatorOrder::Pause, _) => return refuse("is not running, so it cannot be paused"),
            (OperatorOrder::Resume, State::Paused) => String::new(),
            (OperatorOrder::Resume, _) => return refuse("is not paused, so it cannot be resumed"),
            (OperatorOrder::Retry { .. }, State::Planned) => return refuse("was never started"),
            (OperatorOrder::Retry { table, host }, _) => retried(migration, table.as_ref(), host.as_ref())?,
            (OperatorOrder::Skip { table }, _) => skipped(migration, table)?,
            (OperatorOrder::Leave { .. }, State::Planned) => {
                return refuse("was never started: plan again without the host");
            }
            (OperatorOrder::Leave { host }, _) => left(migration, host)?,
            (OperatorOrder::LeaveTable { table, host }, _) => left_alone(migration, table, host)?,
            (OperatorOrder::Abort, State::Planned) => "it was never started: nothing had to be put back".to_owned(),
            (OperatorOrder::Abort, _) => abort_notice(migration),
        };
        let record = Record::Ordered { by, order };
        migration
            .progress
            .apply(&migration.plan, &record)
            .map_err(|e| OperatorError::State(format!("migration {name}: {e}")))?;
        migration.wait_no_longer();
        turn.appends.push(Append {
            migration: name.clone(),
            record,
            document: None,
        });
        Ok(notice)
    }

    /// Other migrations than `name` under way on one of the hosts, and hosts whose agents have seen more than this
    /// coordinator knows.
    fn overlaps(&self, name: &MigrationName, hosts: &[HostName]) -> Vec<Finding> {
        let blocked = hosts.iter().filter_map(|name| {
            let reason = self.hosts.get(name)?.blocked.as_ref()?;
            Some(Finding::new(Code::CoordinatorBehind, reason.clone()).on(name))
        });
        let mut found: Vec<Finding> = blocked.collect();
        for (other, migration) in self.migrations.iter().filter(|(other, _)| *other != name) {
            let state = migration.progress.state(&migration.plan);
            if state.is_final() || state == State::Planned {
                continue;
            }
            for host in migration.plan.hosts.iter().filter(|host| hosts.contains(&host.name)) {
                let message = format!("migration {other} is not ended ({})", state.as_str());
                found.push(Finding::new(Code::MigrationOverlap, message).on(&host.name));
            }
        }
        found
    }

    fn lines(&self) -> Vec<MigrationLine> {
        let mut lines: Vec<MigrationLine> = self
            .migrations
            .iter()
            .map(|(name, migration)| MigrationLine {
                name: name.clone(),
                state: migration.progress.state(&migration.plan),
                phase: migration.progress.phase(&migration.plan),
                counts: migration.progress.counts(&migration.plan, None),
                created: migration.plan.created.clone(),
            })
            .collect();
        lines.sort_by(|a, b| a.created.cmp(&b.created));
        lines
    }

    fn host_views(&self) -> Vec<HostView> {
        let now = Instant::now();
        self.hosts
            .iter()
            .map(|(name, host)| HostView {
                host: name.clone(),
                connected: host.is_connected(),
                agent_version: host.hello.agent_version.clone(),
                clickhouse_version: host.hello.clickhouse_version.clone(),
                doing: host.blocked.clone().or_else(|| self.doing(name, now)),
                refused: None,
            })
            .collect()
    }

    fn doing(&self, host: &HostName, now: Instant) -> Option<String> {
        self.migrations.values().find_map(|migration| {
            let ix = migration.plan.host_ix(host)?;
            let mine: Vec<_> = migration
                .progress
                .in_flight
                .values()
                .filter(|intent| intent.host == ix)
                .collect();
            let first = mine.first()?;
            let since = migration
                .since(first.attempt)
                .map(|since| format!(", for {}", rounded(now - since)));
            let more = if mine.len() > 1 {
                format!(" and {} more", mine.len() - 1)
            } else {
                String::new()
            };
            Some(format!(
                "{}: {} of {}{}{more}",
                migration.plan.name,
                first.step,
                migration.name_of(first.target),
                since.unwrap_or_default()
            ))
        })
    }
}

/// `start` on what has ended is no mistake: it follows to the end that is there.
fn refuse_or_notice(order: &OperatorOrder, what: String) -> Result<String, OperatorError> {
    if matches!(order, OperatorOrder::Start { .. }) {
        Ok(what)
    } else {
        Err(OperatorError::State(what))
    }
}

fn retried(migration: &Migration, table: Option<&TableName>, host: Option<&HostName>) -> Result<String, OperatorError> {
    let plan = &migration.plan;
    let chosen: Vec<usize> = (0..plan.tables.len())
        .filter(|&t| table.is_none_or(|name| *name == plan.tables[t].name))
        .filter(|&t| host.is_none_or(|name| *name == plan.hosts[plan.tables[t].host].name))
        .collect();
    if chosen.is_empty() {
        return Err(OperatorError::Invalid(
            "the plan has no such table on such a host".to_owned(),
        ));
    }
    let with = chosen
        .iter()
        .filter(|&&t| migration.progress.problem_of(plan, t).is_some())
        .count();
    Ok(format!(
        "tried again: {}",
        count(with, "table with a problem", "tables with a problem")
    ))
}

fn skipped(migration: &Migration, table: &TableName) -> Result<String, OperatorError> {
    let (plan, progress) = (&migration.plan, &migration.progress);
    let (open, cleaned): (Vec<usize>, Vec<usize>) = plan.sets_of(table).partition(|&set| progress.may_be_skipped(set));
    let paths = |sets: &[usize]| {
        let paths: Vec<&str> = sets.iter().map(|&set| plan.sets[set].path.as_str()).collect();
        paths.join(", ")
    };
    let forward = format!(
        "forward is the only way for {table} ({}), since its deletion was ordered already: mend what holds it (`rekeeper \
         problems {name}` says how, also by hand), then `rekeeper retry {name} --table {table}`",
        paths(&cleaned),
        name = plan.name
    );
    if open.is_empty() {
        return Err(OperatorError::State(forward));
    }
    let left = format!(
        "left out from here on and put back into service: {table}, {} ({}){}",
        count(open.len(), "replica set", "replica sets"),
        paths(&open),
        left_behind(migration, &open)
    );
    Ok(if cleaned.is_empty() {
        left
    } else {
        format!("{left}; {forward}")
    })
}

/// What a hook does to tables that stay on their old metadata.
fn left_behind(migration: &Migration, sets: &[usize]) -> String {
    let plan = &migration.plan;
    let restarts = |host: usize| {
        let has_hook = plan.hosts[host].has_hook && plan.request.restart == RestartPolicy::Once;
        has_hook && plan.sets_on(host).any(|set| !sets.contains(&set))
    };
    let hosts: BTreeSet<&str> = (sets.iter().flat_map(|&set| plan.set_hosts(set)))
        .filter(|&host| restarts(host))
        .map(|host| plan.hosts[host].name.as_str())
        .collect();
    if hosts.is_empty() {
        return String::new();
    }
    let hosts: Vec<&str> = hosts.into_iter().collect();
    format!(
        "; if the hook of {} moves its server to another place, it is read-only from the restart on (docs/runbook.md, `Tables \
         that a hook has left behind`)",
        hosts.join(", ")
    )
}

fn left(migration: &Migration, host: &HostName) -> Result<String, OperatorError> {
    let (plan, progress) = (&migration.plan, &migration.progress);
    let Some(ix) = plan.host_ix(host) else {
        return Err(OperatorError::Invalid(format!("the plan has no host {host}")));
    };
    if let Some(set) = progress.may_not_be_left(plan, ix) {
        return Err(OperatorError::State(format!(
            "{host} cannot be left out: the replicas of {} were not equal, and it may have what no other has; bring the \
             host back",
            plan.sets[set].path
        )));
    }
    let (forward, back): (Vec<usize>, Vec<usize>) = plan
        .sets_on(ix)
        .filter(|&set| !progress.is_over(plan, set))
        .partition(|&set| progress.sets[set].irreversible);
    Ok(format!(
        "{host} is left out for good; without its replicas {} go on, and {} go back into service; its own tables stay as \
         they are, and `rekeeper problems {}` says how they come back",
        count(forward.len(), "replica set", "replica sets"),
        count(back.len(), "replica set", "replica sets"),
        plan.name
    ))
}

fn left_alone(migration: &Migration, table: &TableName, host: &HostName) -> Result<String, OperatorError> {
    let plan = &migration.plan;
    let replica = |&ix: &usize| plan.tables[ix].name == *table && plan.hosts[plan.tables[ix].host].name == *host;
    let Some(ix) = (0..plan.tables.len()).find(replica) else {
        return Err(OperatorError::Invalid(format!(
            "the plan has no table {table} on {host}"
        )));
    };
    if let Err(why) = migration.progress.may_be_left_alone(plan, ix) {
        return Err(OperatorError::State(format!(
            "{table} on {host} is not left out: {why}"
        )));
    }
    Ok(format!(
        "{table} on {host} is left out for good; the other replicas of {} go on, with the same parts",
        plan.sets[plan.tables[ix].set].path
    ))
}

fn abort_notice(migration: &Migration) -> String {
    let (plan, progress) = (&migration.plan, &migration.progress);
    let forward: Vec<usize> = (0..plan.sets.len())
        .filter(|&s| progress.sets[s].irreversible)
        .collect();
    if forward.is_empty() {
        return "every table is put back into service on its old metadata".to_owned();
    }
    let has_problem = |set: usize| {
        let tables = &plan.sets[set].tables;
        tables.iter().any(|&t| progress.problem_of(plan, t).is_some())
    };
    let held = forward.iter().filter(|&&set| has_problem(set)).count();
    let retry = if held > 0 {
        format!(" ({held} of them once `rekeeper retry {}` is ordered)", plan.name)
    } else {
        String::new()
    };
    let sets = count(forward.len(), "replica set", "replica sets");
    format!("carried forward, since cleaned already: {sets}{retry}; the others are put back")
}

fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}
