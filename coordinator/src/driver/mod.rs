//! The loop that turns what agents and people say into records, and records into commands.
//!
//! One task owns every migration. Each turn of the loop: take what waits, apply it, see what may be ordered now, write
//! all of it down in one group, and only then acknowledge, send and answer. What cannot be written down stops the
//! program: after a failed fsync nobody knows what is on the disk, so nothing may be promised any more.

mod behind;
mod command;
mod ended;
mod handle;
mod hosts;
mod loads;
mod migration;
mod orders;
mod pace;
mod snapshot;
mod told;
mod turn;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Event, Failure, Outcome, Target};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agents::{self, AgentsHandle, ConnectionId, FromAgents, Heard};
use crate::progress::modes::Needs;
use crate::progress::{IllegalTransition, Intent, Record};
use crate::store::{Append, Store, StoreError};

pub use command::build_without_documents;
use command::{Documents, Wanted};
use ended::{Refused, ended, truncated};
pub use handle::{DriverHandle, OperatorError, Request};
use hosts::{Hosts, Load};
use loads::{Loaded, Loads};
use migration::Migration;
pub use migration::name_of;
pub use snapshot::{Overlaps, Snapshot};
use turn::Turn;

/// How many messages are taken in one turn at most; they share one fsync.
const TURN: usize = 1_024;
/// Bytes of documents that are taken in one turn, but for the one that crosses the line.
const TURN_BYTES: usize = 32 << 20;
/// How long until waiting steps are looked at again, when nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// What is kept on the store's disk for each byte of a part set of record: a manifest and an account of each replica, in
/// SQLite's log and in its file.
const ROOM_OF_RECORD: u64 = 8;

/// The driver: owns every migration.
pub struct Driver<S> {
    store: Arc<S>,
    agents: AgentsHandle,
    migrations: BTreeMap<MigrationName, Migration>,
    hosts: Hosts,
    loads: Loads,
    changed: watch::Sender<u64>,
}

impl<S: Store> Driver<S> {
    /// Reads every migration back from the store.
    ///
    /// # Errors
    /// When the store cannot be read, or a log does not tell a possible story: then it was damaged or changed.
    pub async fn load(store: Arc<S>, agents: AgentsHandle) -> anyhow::Result<Self> {
        let mut migrations = BTreeMap::new();
        for plan in store.plans().await? {
            let migration = Migration::load(plan, &*store).await?;
            for (attempt, intent) in &migration.progress.in_flight {
                let host = &migration.plan.hosts[intent.host].name;
                let subject = command::subject(&migration.plan, &migration.progress, intent.target);
                agents.is_to_do(host, &migration.plan.name, *attempt, subject);
            }
            migrations.insert(migration.plan.name.clone(), migration);
        }
        Ok(Self {
            store,
            agents,
            migrations,
            hosts: Hosts::default(),
            loads: Loads::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// Runs until the store fails or nobody can ask any more.
    ///
    /// # Errors
    /// The store's failure: the program must end with it.
    pub async fn run(mut self, mut heard: Heard, mut requests: mpsc::Receiver<Request>) -> Result<(), StoreError> {
        loop {
            let mut turn = Turn::default();
            tokio::select! {
                said = heard.recv() => match said {
                    Some(said) => self.hear(said, &mut turn),
                    None => return Ok(()),
                },
                request = requests.recv() => match request {
                    Some(request) => self.answer(request, &mut turn).await?,
                    None => return Ok(()),
                },
                loaded = self.loads.next() => self.loaded(loaded, &mut turn),
                () = tokio::time::sleep(TICK) => {}
            }
            while let Some(loaded) = self.loads.next().now_or_never() {
                self.loaded(loaded, &mut turn);
            }
            for _ in 0..TURN {
                if turn.bytes() > TURN_BYTES {
                    break;
                }
                match heard.try_recv() {
                    Ok(said) => self.hear(said, &mut turn),
                    Err(_) => break,
                }
            }
            self.propose(&mut turn);
            self.commit(turn).await?;
        }
    }

    /// Writes the turn down; then, and only then, lets its consequences out.
    async fn commit(&mut self, turn: Turn) -> Result<(), StoreError> {
        if !turn.appends.is_empty() {
            self.store.append(turn.appends).await?;
            self.changed.send_modify(|changes| *changes += 1);
        }
        for (host, (connection, sequence)) in turn.acknowledge {
            self.agents.acknowledge(&host, connection, sequence);
        }
        for (migration, intent) in turn.commands {
            self.send(&migration, intent);
        }
        for answer in turn.answers {
            answer();
        }
        Ok(())
    }

    fn hear(&mut self, said: FromAgents, turn: &mut Turn) {
        match said {
            FromAgents::Connected(connected) => {
                let host = connected.hello.host.clone();
                let blocked = connected
                    .ahead
                    .clone()
                    .or_else(|| self.knows_less(&connected.hello.attempts));
                if let Some(reason) = &blocked {
                    tracing::error!(%host, reason, "the agent has obeyed a coordinator that knows more: nothing is ordered of it");
                } else {
                    tracing::info!(%host, agent = connected.hello.agent_version, "agent connected");
                }
                let is_new = self.hosts.get(&host).is_none();
                self.hosts.connected(connected, blocked);
                turn.commands.extend(self.in_flight_on(&host, is_new));
            }
            FromAgents::Gone {
                host,
                connection,
                goodbye,
            } => {
                tracing::info!(%host, goodbye, "agent gone");
                self.hosts.gone(&host, connection);
            }
            FromAgents::Doing {
                host,
                migration,
                attempt,
                text,
                ..
            } => {
                // Of what is under way on that host, and nothing else: there is an end to that.
                if self.is_under_way(&host, &migration, attempt) {
                    self.hosts.doing(&host, migration, attempt, text);
                }
            }
            FromAgents::Event {
                host,
                connection,
                sequence,
                event,
            } => {
                // What an agent tells that has seen more is about attempts of another coordinator. It is kept for that
                // one, since it is not acknowledged here.
                if self.hosts.get(&host).is_some_and(|known| known.blocked.is_some()) {
                    tracing::warn!(%host, migration = %event.migration, attempt = event.attempt, "event not heard");
                    return;
                }
                self.hear_event(&host, event, turn);
                turn.acknowledge.insert(host, (connection, sequence));
            }
        }
    }

    fn is_under_way(&self, host: &HostName, migration: &MigrationName, attempt: u64) -> bool {
        let migration = self.migrations.get(migration);
        migration.is_some_and(|migration| {
            let intent = migration.progress.in_flight.get(&attempt);
            intent.is_some_and(|intent| migration.plan.hosts[intent.host].name == *host)
        })
    }

    /// What is under way on a host that has connected; when it is the first time, also what waited for it elsewhere.
    fn in_flight_on(&self, host: &HostName, is_new: bool) -> Vec<(MigrationName, Intent)> {
        let of = |(name, migration): (&MigrationName, &Migration)| {
            let ix = migration.plan.host_ix(host)?;
            Some(
                migration
                    .progress
                    .in_flight
                    .values()
                    .filter(|intent| intent.host == ix || is_new && matches!(intent.target, Target::Set(_)))
                    .map(|intent| (name.clone(), *intent))
                    .collect::<Vec<_>>(),
            )
        };
        self.migrations.iter().filter_map(of).flatten().collect()
    }

    fn hear_event(&mut self, host: &HostName, event: Event, turn: &mut Turn) {
        let Event {
            migration: name,
            attempt,
            step,
            outcome,
            document,
        } = event;
        self.hosts.done(host, &name, attempt);
        let Some(migration) = self.migrations.get_mut(&name) else {
            tracing::warn!(%host, migration = %name, "event of a migration that is not known here: ignored");
            return;
        };
        if let Some(intent) = migration.progress.in_flight.get(&attempt)
            && migration.plan.hosts[intent.host].name != *host
        {
            tracing::error!(%host, migration = %name, attempt, "event of a step that was ordered of another host: ignored");
            return;
        }
        // Its document was not taken, or it came before it was ordered.
        let outcome = match agents::rests_on(&outcome) {
            Some(digest) if document.is_none() => agents::refused(
                host,
                &format!("the document {digest}, on which it rests, is not with it"),
            ),
            Some(_) | None => outcome,
        };
        if let Some(document) = &document
            && matches!(outcome, Outcome::Done(Done::Recorded { .. }))
        {
            self.store.keep_room(ROOM_OF_RECORD * document.bytes.len() as u64);
        }
        let Refused { why, outcome } = match ended(migration, attempt, step, outcome, document) {
            Ok(append) => {
                self.agents.has_done(host, &name, attempt);
                return turn.appends.push(append);
            }
            Err(refused) => refused,
        };
        self.agents.has_done(host, &name, attempt);
        match why {
            // An event that was acknowledged to a connection that broke: it is on disk already.
            IllegalTransition::NotInFlight(_) => {
                tracing::debug!(migration = %name, attempt, "event again: it is on record");
            }
            // It will be acknowledged, and nothing else will come of that attempt: so this is its end, and people learn of it.
            IllegalTransition::Outcome(_) | IllegalTransition::Attempt { .. } | IllegalTransition::Guarded { .. } => {
                let told = truncated(&format!("{outcome:?}"));
                tracing::error!(%host, migration = %name, attempt, error = %why, told, "event refused");
                let text = format!("the agent of {host} told {told}, but {why}");
                let failure = Failure::lasting(Code::EventRefused, text);
                match ended(migration, attempt, None, Outcome::Failed(failure), None) {
                    Ok(append) => turn.appends.push(append),
                    Err(Refused { why, .. }) => tracing::error!(migration = %name, attempt, error = %why, "not ended"),
                }
            }
        }
    }

    /// Orders what may be ordered now, as far as hosts are connected and have room.
    fn propose(&mut self, turn: &mut Turn) {
        let now = Instant::now();
        let has_room = self.store.has_room();
        for (name, migration) in &mut self.migrations {
            if migration.is_at_rest() || behind::behind(migration, &self.hosts).is_some() {
                continue;
            }
            let mut load = Load::of_all(migration);
            for proposal in migration.progress.proposals(&migration.plan) {
                if !has_room && proposal.row.needs >= Needs::Room {
                    continue;
                }
                let Some(chosen) = self.hosts.admit(migration, &proposal, &load, now) else {
                    continue;
                };
                for (target, host) in chosen {
                    let attempt = migration.progress.next_attempt;
                    let intent = Intent {
                        attempt,
                        host,
                        step: proposal.row.step,
                        target,
                    };
                    let record = Record::Intent(intent);
                    match migration.progress.apply(&migration.plan, &record) {
                        Ok(()) => {
                            migration.ordered(attempt, now);
                            let subject = command::subject(&migration.plan, &migration.progress, target);
                            self.agents
                                .is_to_do(&migration.plan.hosts[host].name, name, attempt, subject);
                            load.add(host, proposal.row.step);
                            migration.look();
                            turn.appends.push(Append {
                                migration: name.clone(),
                                record,
                                document: None,
                            });
                            turn.commands.push((name.clone(), intent));
                        }
                        // The intent before made this one impossible: it is proposed again when it can be.
                        Err(e) => tracing::debug!(migration = %name, error = %e, "not ordered"),
                    }
                }
            }
        }
    }

    /// Sends the command of an intent that is on disk: at once, or when the documents are read that it takes along.
    fn send(&mut self, name: &MigrationName, intent: Intent) {
        let Some(migration) = self
            .migrations
            .get(name)
            .filter(|_| self.receiver(name, intent).is_some())
        else {
            return;
        };
        let wanted = Wanted::of(&migration.plan, &migration.progress, intent);
        if !wanted.is_empty() {
            self.loads.add(name, intent, wanted, &self.store);
        } else if let Err(failure) = self.give(name, intent, Documents::default()) {
            // Written down with the next turn.
            self.loads.failed(name, intent, failure);
        }
    }

    /// Where the command of an intent may be sent now, if anywhere; when not, it is sent again once its agent connects.
    fn receiver(&self, name: &MigrationName, intent: Intent) -> Option<ConnectionId> {
        let migration = self.migrations.get(name)?;
        let has_ended = !migration.progress.in_flight.contains_key(&intent.attempt);
        let unheard = || self.hosts.unheard(migration, intent.step, intent.target);
        if has_ended || behind::behind(migration, &self.hosts).is_some() || unheard().is_some() {
            return None;
        }
        self.hosts.connection(&migration.plan.hosts[intent.host].name)
    }

    fn give(&self, name: &MigrationName, intent: Intent, documents: Documents) -> Result<(), Failure> {
        if let (Some(migration), Some(connection)) = (self.migrations.get(name), self.receiver(name, intent)) {
            let command = command::build(&migration.plan, &migration.progress, intent, documents)?;
            let host = &migration.plan.hosts[intent.host].name;
            self.agents.send(host, connection, command);
        }
        Ok(())
    }

    /// The documents of a command were read. Those that are lost are the end of its attempt.
    fn loaded(&mut self, loaded: Loaded, turn: &mut Turn) {
        let Loaded {
            migration: name,
            intent,
            wanted,
            documents,
        } = loaded;
        let Some(migration) = self.migrations.get(&name) else {
            return;
        };
        // A host may have been left out meanwhile, and another replica be the reference.
        if Wanted::of(&migration.plan, &migration.progress, intent) != wanted {
            self.send(&name, intent);
            return;
        }
        let given = documents.and_then(|documents| self.give(&name, intent, documents));
        if let (Err(failure), Some(migration)) = (given, self.migrations.get_mut(&name)) {
            match ended(migration, intent.attempt, None, Outcome::Failed(failure), None) {
                Ok(append) => turn.appends.push(append),
                Err(Refused { why, .. }) => tracing::debug!(migration = %name, error = %why, "it has ended meanwhile"),
            }
        }
    }
}
