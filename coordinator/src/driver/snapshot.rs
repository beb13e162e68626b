//! What the driver knows that a plan rests on, all of one moment: one question, so that nothing changes between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::plan::{MeasuredWave, Plan};
use rekeeper_shared::domain::problem::{Code, Finding};
use rekeeper_shared::people::view::State;

use super::Driver;
use super::migration::Migration;
use crate::progress::Progress;
use crate::store::Store;

/// What is known at one moment, as seen by a migration of one name.
#[derive(Debug)]
pub struct Snapshot {
    /// The migration of that name, if there is one: its plan, and how far it is.
    pub migration: Option<(Arc<Plan>, Box<Progress>)>,
    /// On which hosts nothing may begin, since another migration is under way or an agent has seen more.
    pub overlaps: Overlaps,
    /// What the waves of all migrations took that are through, by which later ones are forecast.
    pub measured: Vec<MeasuredWave>,
}

/// Hosts on which nothing may begin.
#[derive(Debug, Default)]
pub struct Overlaps {
    behind: BTreeMap<HostName, Finding>,
    under_way: Vec<(HostName, Finding)>,
}

impl Overlaps {
    /// The hosts whose agents have seen more than this coordinator knows, by name.
    pub fn behind(&self) -> impl Iterator<Item = &HostName> {
        self.behind.keys()
    }

    /// What stops a migration on these hosts: agents that have seen more, and other migrations under way.
    #[must_use]
    pub fn on(&self, hosts: &[HostName]) -> Vec<Finding> {
        let chosen: BTreeSet<&HostName> = hosts.iter().collect();
        let behind = hosts.iter().filter_map(|host| self.behind.get(host));
        let under_way = self.under_way.iter().filter(|(host, _)| chosen.contains(host));
        behind.chain(under_way.map(|(_, finding)| finding)).cloned().collect()
    }
}

impl<S: Store> Driver<S> {
    pub(super) fn snapshot(&self, name: &MigrationName) -> Snapshot {
        let migration = self.migrations.get(name);
        Snapshot {
            migration: migration.map(|m| (Arc::clone(&m.plan), Box::new(m.progress.clone()))),
            overlaps: self.overlaps(name),
            measured: self.migrations.values().flat_map(Migration::measured).collect(),
        }
    }

    /// The hosts of migrations under way other than `name`, and those whose agents have seen more than is known here.
    pub(super) fn overlaps(&self, name: &MigrationName) -> Overlaps {
        let behind = self.hosts.iter().filter_map(|(host, known)| {
            let reason = known.blocked.clone()?;
            Some((host.clone(), Finding::new(Code::CoordinatorBehind, reason).on(host)))
        });
        let mut overlaps = Overlaps {
            behind: behind.collect(),
            under_way: Vec::new(),
        };
        for (other, migration) in self.migrations.iter().filter(|(other, _)| *other != name) {
            let state = migration.progress.state(&migration.plan);
            if state.is_final() || state == State::Planned {
                continue;
            }
            overlaps.under_way.extend(migration.plan.hosts.iter().map(|host| {
                let message = format!("migration {other} is not ended ({})", state.as_str());
                let finding = Finding::new(Code::MigrationOverlap, message).on(&host.name);
                (host.name.clone(), finding)
            }));
        }
        overlaps
    }
}
