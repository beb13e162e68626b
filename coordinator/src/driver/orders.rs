//! What people ask of the driver, and what it answers.

use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::people::view::{HostView, MigrationLine};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::behind::{behind, may_be_given, refused};
use super::handle::{DriverHandle, OperatorError, Request};
use super::migration::Migration;
use super::waiting::{name_the_absent, retries, rounded, running, waiting_for};
use super::{Driver, Turn, told};
use crate::progress::orders::{Answer, Effect, answer};
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
                    view.waiting_for = waiting_for(migration, &self.hosts, self.store.has_room());
                    view.running = running(migration, &self.hosts);
                    view.retries = retries(migration);
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
            Request::Snapshot(name, answer) => drop(answer.send(Box::new(self.snapshot(&name)))),
            Request::Save(plan, packed, answer) => {
                let saved = match self.store.save_plan(&plan, packed).await {
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
                // Answered when it is on disk, and what it rests on.
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
                let hosts = migration.plan.hosts.iter().zip(&migration.progress.hosts);
                let with = hosts.filter(|(_, progress)| progress.left.is_none());
                let hosts: Vec<HostName> = with.map(|(host, _)| host.name.clone()).collect();
                self.overlaps(name).on(&hosts)
            }
            None => return Err(OperatorError::Unknown(name.clone())),
        };
        let Some(migration) = self.migrations.get_mut(name) else {
            return Err(OperatorError::Unknown(name.clone()));
        };
        if let Some(finding) = behind(migration, &self.hosts)
            && !may_be_given(&order, &self.hosts)
        {
            return Err(refused(&finding));
        }
        let facts = migration.progress.facts(&migration.plan);
        let standing = facts.standing;
        let (order, effect) = match answer(&order, &facts) {
            Answer::Taken { order, effect } => (order, effect),
            Answer::Already(so) => return Ok(told::already(name, so, migration.progress.until)),
            Answer::Refused(why) => return Err(OperatorError::State(told::refused(migration, why))),
        };
        if let (Effect::Starts, Some(overlap)) = (effect, overlaps.first()) {
            return Err(OperatorError::Blocked(format!("{}: {}", overlap.code, overlap.message)));
        }
        if effect == Effect::Starts && !self.store.has_room() {
            return Err(OperatorError::Blocked(no_room()));
        }
        let notice = told::taken(migration, standing, &order, effect)?;
        let record = Record::Ordered { by, order };
        migration
            .progress
            .apply(&migration.plan, &record)
            .map_err(|e| OperatorError::State(format!("migration {name}: {e}")))?;
        migration.look();
        migration.wait_no_longer();
        turn.appends.push(Append {
            migration: name.clone(),
            record,
            document: None,
        });
        Ok(notice)
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

fn no_room() -> String {
    format!(
        "{}: there is no room on the disk of the coordinator's data_dir to keep for what has to be written later; make some, \
         then give the command again",
        Code::StateDirFull
    )
}
