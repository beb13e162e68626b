//! The loop that turns what agents and people say into records, and records into commands.
//!
//! One task owns every migration. Each turn of the loop: take what waits, apply it, see what may be ordered now, write
//! all of it down in one group, and only then acknowledge, send and answer. What cannot be written down stops the
//! program: after a failed fsync nobody knows what is on the disk, so nothing may be promised any more.

mod behind;
mod command;
mod handle;
mod hosts;
mod migration;
mod orders;
mod pace;
mod told;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rekeeper_shared::ids::{HostName, MigrationName};
use rekeeper_shared::step::{Event, Outcome, Target};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agents::{AgentsHandle, ConnectionId, FromAgents};
use crate::progress::{IllegalTransition, Intent, Record};
use crate::store::{Append, Store, StoreError};

pub use command::build_without_documents;
use handle::Request;
pub use handle::{DriverHandle, OperatorError};
use hosts::{Hosts, Load};
use migration::Migration;
pub use migration::name_of;

/// How many messages are taken in one turn at most; they share one fsync.
const TURN: usize = 1_024;
/// How long until waiting steps are looked at again, when nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// The driver: owns every migration.
pub struct Driver<S> {
    store: Arc<S>,
    agents: AgentsHandle,
    migrations: BTreeMap<MigrationName, Migration>,
    hosts: Hosts,
    changed: watch::Sender<u64>,
}

/// What one turn of the loop has to write down, and what follows once it is on disk.
#[derive(Default)]
struct Turn {
    appends: Vec<Append>,
    acknowledge: HashMap<HostName, (ConnectionId, u64)>,
    commands: Vec<(MigrationName, Intent)>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
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
            migrations.insert(migration.plan.name.clone(), migration);
        }
        Ok(Self {
            store,
            agents,
            migrations,
            hosts: Hosts::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// Runs until the store fails or nobody can ask any more.
    ///
    /// # Errors
    /// The store's failure: the program must end with it.
    pub async fn run(
        mut self,
        mut heard: mpsc::Receiver<FromAgents>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), StoreError> {
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
                () = tokio::time::sleep(TICK) => {}
            }
            for _ in 0..TURN {
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
            self.send(&migration, intent).await?;
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
                self.hosts.doing(&host, migration, attempt, text);
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
            outcome,
            document,
        } = event;
        self.hosts.done(host, &name, attempt);
        let Some(migration) = self.migrations.get_mut(&name) else {
            tracing::warn!(%host, migration = %name, "event of a migration that is not known here: ignored");
            return;
        };
        let target = migration
            .progress
            .in_flight
            .get(&attempt)
            .map(|intent| (intent.step, intent.target, intent.host));
        if let Some((.., ordered_of)) = target
            && migration.plan.hosts[ordered_of].name != *host
        {
            tracing::error!(%host, migration = %name, attempt, "event of a step that was ordered of another host: ignored");
            return;
        }
        let record = Record::Event { attempt, outcome };
        match migration.progress.apply(&migration.plan, &record) {
            Ok(()) => {
                migration.look();
                if let (Some((step, target, _)), Record::Event { outcome, .. }) = (target, &record) {
                    migration.ended(attempt, step, target, outcome);
                    log_outcome(&name, host, &migration.name_of(target), step, outcome);
                }
                turn.appends.push(Append {
                    migration: name,
                    record,
                    document,
                });
            }
            // An event that was acknowledged to a connection that broke: it is on disk already.
            Err(IllegalTransition::NotInFlight(_)) => {
                tracing::debug!(migration = %name, attempt, "event again: it is on record");
            }
            Err(e) => tracing::error!(migration = %name, attempt, error = %e, "event refused"),
        }
    }

    /// Orders what may be ordered now, as far as hosts are connected and have room.
    fn propose(&mut self, turn: &mut Turn) {
        let now = Instant::now();
        for (name, migration) in &mut self.migrations {
            if migration.is_at_rest() || behind::behind(migration, &self.hosts).is_some() {
                continue;
            }
            let mut load = Load::of_all(migration);
            for proposal in migration.progress.proposals(&migration.plan) {
                let Some(chosen) = self.hosts.admit(migration, &proposal, &load, now) else {
                    continue;
                };
                for (target, host) in chosen {
                    let attempt = migration.progress.next_attempt;
                    let intent = Intent {
                        attempt,
                        host,
                        step: proposal.step,
                        target,
                    };
                    let record = Record::Intent(intent);
                    match migration.progress.apply(&migration.plan, &record) {
                        Ok(()) => {
                            migration.ordered(attempt, now);
                            load.add(host, proposal.step);
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

    /// Sends the command of an intent that is on disk. An intent whose documents are lost fails here.
    async fn send(&mut self, name: &MigrationName, intent: Intent) -> Result<(), StoreError> {
        let Some(migration) = self.migrations.get_mut(name) else {
            return Ok(());
        };
        let is_unheard = || behind::unheard(migration, &self.hosts, intent.step, intent.target).is_some();
        if behind::behind(migration, &self.hosts).is_some() || is_unheard() {
            return Ok(());
        }
        let host = &migration.plan.hosts[intent.host].name;
        let Some(connection) = self.hosts.connection(host) else {
            return Ok(());
        };
        match command::build(&migration.plan, &migration.progress, intent, &*self.store).await {
            Ok(command) => {
                self.agents.send(host, connection, command);
                Ok(())
            }
            Err(failure) => {
                let record = Record::Event {
                    attempt: intent.attempt,
                    outcome: Outcome::Failed(failure),
                };
                if migration.progress.apply(&migration.plan, &record).is_ok() {
                    self.store
                        .append(vec![Append {
                            migration: name.clone(),
                            record,
                            document: None,
                        }])
                        .await?;
                }
                Ok(())
            }
        }
    }
}

fn log_outcome(
    migration: &MigrationName,
    host: &HostName,
    target: &str,
    step: rekeeper_shared::step::StepKind,
    outcome: &Outcome,
) {
    match outcome {
        Outcome::Done(_) => tracing::info!(%migration, %host, target, %step, "done"),
        Outcome::Failed(failure) => {
            tracing::warn!(%migration, %host, target, %step, problem = %failure.problem, retry = failure.retry, "failed");
        }
    }
}
