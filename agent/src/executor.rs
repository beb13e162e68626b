//! Takes commands, runs their steps side by side, and puts one event per command into the outbox.
//!
//! Nothing here knows of connections: what runs goes on when the coordinator is lost, and is never cancelled.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{About, Class, Command, Event, Failure, Order, Outcome, StepKind};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::clickhouse::is_zero_uuid;
use crate::config::Parallel;
use crate::doing::{Board, Doing};
use crate::outbox::Outbox;
use crate::state::State;
use crate::steps::state_failed;

/// What came of a step, and the document that it made.
pub type Answer = (Outcome, Option<Packed>);

/// What an agent tells of its server when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Equal for two agents of one server.
    pub server_id: String,
    /// Empty when it does not answer.
    pub clickhouse_version: String,
}

/// The host that the agent works on. Tests put their own in its place.
pub trait Host: Send + Sync + 'static {
    /// Waits until no statement of a former agent runs any more.
    fn ready(&self) -> BoxFuture<'_, ()>;

    /// Makes one attempt at a step.
    fn step<'a>(&'a self, command: &'a Command, doing: Arc<Doing>) -> BoxFuture<'a, Answer>;

    /// Tells its server from others.
    fn identity(&self) -> BoxFuture<'_, Identity>;

    /// The packed inventory, or why there is none.
    fn inspect(&self) -> BoxFuture<'_, Result<Vec<u8>, String>>;

    /// The packed list of what a command would change, or why that is not known; it changes nothing.
    fn rehearse<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Vec<u8>, String>>;
}

/// A handle to the executor, cheap to clone.
#[derive(Clone)]
pub struct Executor {
    inner: Arc<Inner>,
    commands: mpsc::Sender<Command>,
}

struct Inner {
    host: Arc<dyn Host>,
    state: State,
    outbox: Outbox,
    board: Board,
    classes: Classes,
    ready: watch::Receiver<bool>,
    taken: Mutex<HashSet<(MigrationName, u64)>>,
    targets: Mutex<HashMap<Key, Arc<Target>>>,
}

/// How many steps of a class run at a time.
struct Classes {
    tables: Semaphore,
    restores: Semaphore,
    clears: Semaphore,
    sets: Semaphore,
    restart: Semaphore,
}

/// Commands between the stream and the disk; more of them wait in the stream.
const QUEUE: usize = 1024;

/// What two steps must not work on at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Table(String),
    /// Ensemble and path: two ensembles may have the same path.
    Set(String, String),
    Host,
}

/// One step at a time, and none that is older than another that was commanded for the same target.
#[derive(Debug, Default)]
struct Target {
    turn: tokio::sync::Mutex<()>,
    latest: Mutex<HashMap<MigrationName, u64>>,
}

impl Executor {
    /// Starts it. Must be called within a runtime, which runs the steps as long as it lives.
    #[must_use]
    pub fn start(host: Arc<dyn Host>, state: State, parallel: Parallel) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (is_ready, ready) = watch::channel(false);
        let limit = |class: Class| {
            let at_a_time = class.at_a_time(parallel.detach.get(), parallel.restore.get());
            Semaphore::new(at_a_time.min(Semaphore::MAX_PERMITS))
        };
        let inner = Arc::new(Inner {
            host: Arc::clone(&host),
            state,
            outbox: Outbox::default(),
            board: Board::default(),
            classes: Classes {
                tables: limit(Class::Tables),
                restores: limit(Class::Restores),
                clears: limit(Class::Clears),
                sets: limit(Class::Sets),
                restart: limit(Class::Server),
            },
            ready,
            taken: Mutex::default(),
            targets: Mutex::default(),
        });
        tokio::spawn(async move {
            host.ready().await;
            is_ready.send_replace(true);
        });
        tokio::spawn(take(Arc::clone(&inner), queue));
        Self { inner, commands }
    }

    /// Takes a command, any number of times: while it runs, or its event waits in the outbox, it is not run again.
    pub async fn command(&self, command: Command) {
        // First a place in the queue: a connection that is lost while this waits must not leave an attempt behind that
        // is taken but never run. The other end lives as long as the runtime.
        let Ok(place) = self.commands.reserve().await else {
            tracing::error!("the executor has ended; the command is not obeyed");
            return;
        };
        let (migration, attempt) = (command.migration.clone(), command.attempt);
        let mut taken = lock(&self.inner.taken);
        if taken.contains(&(migration.clone(), attempt)) || self.inner.outbox.holds(&migration, attempt) {
            tracing::debug!(%migration, attempt, "command is known already");
            return;
        }
        taken.insert((migration, attempt));
        place.send(command);
    }

    /// Answers a command that cannot be obeyed.
    pub fn refuse(&self, migration: MigrationName, attempt: u64, why: impl Into<String>) {
        if self.inner.outbox.holds(&migration, attempt) {
            return;
        }
        let failure = Failure::lasting(Code::CommandRefused, why)
            .with_fix("install the same release of Rekeeper on the coordinator and on this host, then rekeeper retry");
        self.inner
            .answer((migration, attempt), None, (Outcome::Failed(failure), None));
    }

    /// The events that wait for their acknowledgement.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    /// What is being done.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.inner.board
    }
}

/// Notes attempts on disk, as many at once as have come, and only then begins their steps.
async fn take(inner: Arc<Inner>, mut queue: mpsc::Receiver<Command>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        let mut highest: HashMap<MigrationName, u64> = HashMap::new();
        for command in &batch {
            let attempt = highest.entry(command.migration.clone()).or_default();
            *attempt = command.attempt.max(*attempt);
        }
        let state = inner.state.clone();
        let noted = tokio::task::spawn_blocking(move || {
            highest
                .iter()
                .try_for_each(|(migration, attempt)| state.note_attempt(migration, *attempt))
        });
        let cannot = |failure: Failure| {
            let found = failure.problem.message;
            let message = format!("the attempt could not be noted in the state folder: {found}");
            // A full disk is told at once; anything else may pass.
            let retry = failure.problem.code != Code::StateDirFull;
            let fix = match retry {
                true => "see whether the agent can write into its state_dir (rights), then rekeeper retry".to_owned(),
                false => failure.problem.fix,
            };
            let refused = Failure::passing(failure.problem.code, message).with_fix(fix);
            Failure { retry, ..refused }
        };
        let problem = match noted.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(cannot(state_failed(Code::CommandRefused)(error))),
            Err(error) => Some(cannot(Failure::passing(Code::CommandRefused, error.to_string()))),
        };
        // In the sequence of the coordinator, so that of two commands for one target the newer one is known as such.
        for command in batch.drain(..) {
            match &problem {
                None => inner.begin(command),
                Some(failure) => {
                    let outcome = Outcome::Failed(failure.clone());
                    inner.answer(
                        (command.migration, command.attempt),
                        Some(command.order.kind()),
                        (outcome, None),
                    );
                }
            }
        }
    }
}

impl Inner {
    fn begin(self: &Arc<Self>, command: Command) {
        let target = Arc::clone(lock(&self.targets).entry(Key::of(&command.order)).or_default());
        {
            let mut latest = lock(&target.latest);
            let attempt = latest.entry(command.migration.clone()).or_default();
            *attempt = command.attempt.max(*attempt);
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let attempt = (command.migration.clone(), command.attempt);
            let step = Some(command.order.kind());
            let answer = inner.run(command, &target).await;
            inner.answer(attempt, step, answer);
        });
    }

    async fn run(self: &Arc<Self>, command: Command, target: &Target) -> Answer {
        let kind = command.order.kind();
        // Neither a lost sender nor a closed semaphore can happen: both live in `self`.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
        let _turn = target.turn.lock().await;
        let _permit = self.classes.of(kind.class()).acquire().await;
        let latest = lock(&target.latest).get(&command.migration).copied();
        if let Some(latest) = latest.filter(|latest| *latest > command.attempt) {
            let message = format!("attempt {latest} for the same target was ordered since: this older one is not run");
            let failure = Failure::lasting(Code::CommandRefused, message)
                .with_fix("wait for the newer attempt, or rekeeper retry");
            return (Outcome::Failed(failure), None);
        }
        // A task of its own, so that a panic ends the step and not the command.
        let inner = Arc::clone(self);
        let step = tokio::spawn(async move {
            let doing = Arc::new(inner.board.begin(command.migration.clone(), command.attempt));
            doing.say(describe(&command.order));
            tracing::info!(migration = %command.migration, attempt = command.attempt, step = %kind, "step begins");
            inner.host.step(&command, doing).await
        });
        match step.await {
            Ok(answer) => answer,
            Err(error) => {
                let message = format!("the step {kind} of the agent broke off ({error}); this is a fault of Rekeeper");
                (Outcome::Failed(Failure::lasting(kind.failure_code(), message)), None)
            }
        }
    }

    fn answer(&self, (migration, attempt): (MigrationName, u64), step: Option<StepKind>, (outcome, document): Answer) {
        match &outcome {
            Outcome::Done(_) => tracing::info!(%migration, attempt, "step done"),
            Outcome::Failed(failure) => {
                tracing::warn!(%migration, attempt, problem = %failure.problem, retry = failure.retry, "step failed");
            }
        }
        // Under the lock, so that at every moment the attempt is either taken or in the outbox.
        let mut taken = lock(&self.taken);
        self.outbox.add(Event {
            migration: migration.clone(),
            attempt,
            step,
            outcome,
            document,
        });
        taken.remove(&(migration, attempt));
    }
}

impl Classes {
    fn of(&self, class: Class) -> &Semaphore {
        match class {
            Class::Tables => &self.tables,
            Class::Restores => &self.restores,
            Class::Clears => &self.clears,
            Class::Sets => &self.sets,
            Class::Server => &self.restart,
        }
    }
}

impl Key {
    fn of(order: &Order) -> Self {
        match order.about() {
            About::Table(table) if is_zero_uuid(&table.uuid) => Self::Table(table.name.to_string()),
            About::Table(table) => Self::Table(table.uuid.clone()),
            About::Set { ensemble, path } => Self::Set(ensemble.to_owned(), path.to_string()),
            About::Host => Self::Host,
        }
    }
}

/// What a step is about, for people.
fn describe(order: &Order) -> String {
    let kind = order.kind();
    match order.about() {
        About::Table(table) => format!("{kind} {}", table.name),
        About::Set { path, .. } => format!("{kind} {path}"),
        About::Host => kind.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekeeper_shared::domain::ids::TableName;
    use rekeeper_shared::domain::place::{Place, ZkPath};
    use rekeeper_shared::domain::step::{SetRef, TableRef, Witness};
    use rekeeper_shared::domain::unsettled::Allowed;

    #[test]
    fn what_must_not_run_at_the_same_time_has_the_same_key() {
        let path = ZkPath::parse("/t").unwrap();
        let set = |ensemble: &str| SetRef {
            place: Place {
                ensemble: ensemble.into(),
                nodes: vec![],
                secure: false,
                chroot: String::new(),
            },
            path: path.clone(),
            replicas: vec![],
            allowed: Allowed::default(),
            recorded: false,
        };
        let witness = Witness {
            ensemble: "default".into(),
            path: path.clone(),
            node: "w".into(),
            content: "c".into(),
            replicas: vec![],
        };
        let key = Key::of(&Order::Clean(set("default")));
        assert_eq!(key, Key::of(&Order::Record(set("default"))));
        assert_eq!(key, Key::of(&Order::Witness(witness)));
        assert_ne!(key, Key::of(&Order::Clean(set("second"))));

        let table = |uuid: &str, name: &str| {
            Key::of(&Order::Detach(TableRef {
                name: TableName::new("d", name),
                uuid: uuid.into(),
                path: path.clone(),
                replica_name: "r1".into(),
            }))
        };
        let none = "00000000-0000-0000-0000-000000000000";
        assert_eq!(table("1-1", "old"), table("1-1", "new"));
        assert_ne!(table(none, "a"), table(none, "b"));
    }
}
