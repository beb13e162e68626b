//! Who is connected, what each host is doing, and whether it has room for another step.

use std::collections::{BTreeMap, HashMap};

use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::plan::HostIx;
use rekeeper_shared::domain::step::{Class, Hello, StepKind, Target};
use tokio::time::Instant;

use super::migration::Migration;
use crate::agents::{Connected, ConnectionId};
use crate::progress::modes::{Needs, row};
use crate::progress::next::Proposal;

/// Steps on sets that are ordered for each that a host does at a time: they are short, and so the agent never waits for the
/// next command.
const SETS_AHEAD: usize = 2;

/// The hosts that have been seen since the start.
#[derive(Default)]
pub(super) struct Hosts(BTreeMap<HostName, Host>);

pub(super) struct Host {
    pub(super) hello: Hello,
    /// The connection; none when the agent is gone.
    connection: Option<ConnectionId>,
    /// Why nothing may be ordered of it.
    pub(super) blocked: Option<String>,
    /// Since when it is connected, or gone.
    pub(super) since: Instant,
    doing: HashMap<(MigrationName, u64), String>,
}

impl Host {
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }
}

/// How many steps of a migration are under way on each host: counted once for all proposals of a turn, of which there
/// may be one for each of many tables.
pub(super) struct Load(HashMap<(HostIx, Class), usize>);

impl Load {
    pub(super) fn of_all(migration: &Migration) -> Self {
        let mut load = Self(HashMap::new());
        for intent in migration.progress.in_flight.values() {
            load.add(intent.host, intent.step);
        }
        load
    }

    pub(super) fn add(&mut self, host: HostIx, step: StepKind) {
        *self.0.entry((host, step.class())).or_default() += 1;
    }

    fn of(&self, host: HostIx, step: StepKind) -> usize {
        self.0.get(&(host, step.class())).copied().unwrap_or_default()
    }
}

impl Hosts {
    pub(super) fn connected(&mut self, connected: Connected, blocked: Option<String>) {
        let Connected { connection, hello, .. } = connected;
        let host = Host {
            connection: Some(connection),
            blocked,
            since: Instant::now(),
            doing: HashMap::new(),
            hello,
        };
        self.0.insert(host.hello.host.clone(), host);
    }

    pub(super) fn gone(&mut self, name: &HostName, connection: ConnectionId) {
        if let Some(host) = self.0.get_mut(name)
            && host.connection == Some(connection)
        {
            (host.connection, host.since) = (None, Instant::now());
            host.doing.clear();
        }
    }

    pub(super) fn doing(&mut self, name: &HostName, migration: MigrationName, attempt: u64, text: String) {
        if let Some(host) = self.0.get_mut(name) {
            host.doing.insert((migration, attempt), text);
        }
    }

    pub(super) fn done(&mut self, name: &HostName, migration: &MigrationName, attempt: u64) {
        if let Some(host) = self.0.get_mut(name) {
            host.doing.remove(&(migration.clone(), attempt));
        }
    }

    /// What the agent said it is doing for an attempt.
    pub(super) fn text_of(&self, name: &HostName, migration: &MigrationName, attempt: u64) -> Option<&str> {
        self.0
            .get(name)?
            .doing
            .get(&(migration.clone(), attempt))
            .map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HostName, &Host)> {
        self.0.iter()
    }

    pub(super) fn get(&self, name: &HostName) -> Option<&Host> {
        self.0.get(name)
    }

    /// The connection over which something may be ordered of the host.
    pub(super) fn connection(&self, name: &HostName) -> Option<ConnectionId> {
        self.0.get(name).filter(|host| host.blocked.is_none())?.connection
    }

    /// Which host does each member of the proposal: all of them, or none when one of them has no host that is connected
    /// and has room. So no replica is detached while the agent of another one of its set is away.
    pub(super) fn admit(
        &self,
        migration: &Migration,
        proposal: &Proposal,
        load: &Load,
        now: Instant,
    ) -> Option<Vec<(Target, HostIx)>> {
        let has_room = |&host: &HostIx| {
            let Some(known) = self.0.get(&migration.plan.hosts[host].name) else {
                return false;
            };
            let class = proposal.row.step.class();
            let at_a_time = class.at_a_time(known.hello.parallel_detach, known.hello.parallel_restore);
            let limit = match class {
                Class::Sets => at_a_time * SETS_AHEAD,
                Class::Tables | Class::Restores | Class::Clears | Class::Server => at_a_time,
            };
            self.connection(&migration.plan.hosts[host].name).is_some() && load.of(host, proposal.row.step) < limit
        };
        proposal
            .members
            .iter()
            .map(|(target, hosts)| {
                if migration.not_before(*target, now).is_some()
                    || self.unheard(migration, proposal.row.step, *target).is_some()
                {
                    return None;
                }
                hosts.iter().find(|host| has_room(host)).map(|&host| (*target, host))
            })
            .collect()
    }

    /// A host that has to have connected since the coordinator started before the step may be ordered of any host, and has
    /// not: what a set is recorded and deleted by is decided here, so whoever may know more has to be heard first.
    /// One that was left out for good is not waited for.
    pub(super) fn unheard<'a>(&self, migration: &'a Migration, step: StepKind, target: Target) -> Option<&'a HostName> {
        let plan = &migration.plan;
        let set = match (row(plan.request.mode, step)?.needs, target) {
            (Needs::RoomAndAllHeard, Target::Set(set)) => set,
            (Needs::RoomAndAllHeard, Target::Table(table)) => plan.tables[table].set,
            (Needs::RoomAndAllHeard, Target::Host(_)) | (Needs::Nothing | Needs::Room, _) => return None,
        };
        let of_set = migration.progress.hosts_of(plan, set);
        let mut names = of_set.into_iter().map(|host| &plan.hosts[host].name);
        names.find(|name| self.get(name).is_none())
    }
}
