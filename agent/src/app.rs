//! The agent put together: state folder, ClickHouse, ZooKeeper, executor, stream.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rekeeper_shared::domain::document::{digest, pack};
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Command, Failure, Order, Outcome};
use rekeeper_shared::tools::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clickhouse::{Class, ClickHouse, Statement, Tag};
use crate::config::{Config, system_host_name};
use crate::doing::Doing;
use crate::executor::{Answer, Executor, Host, Identity};
use crate::inspect::inspect;
use crate::known::Known;
use crate::state::{State, StateError};
use crate::steps::{self, Configured, Context, Hooks, RestartCommand, Restore, ServerPlaces, StepResult, set};
use crate::stream::{KEEPALIVE, Options, Stream};
use crate::watch::watch as watch_merges;
use crate::words::in_full;
use crate::zookeeper::Connections;

/// How long the server may take to say who it is, before the agent connects without knowing.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(3);

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// The state folder cannot be used.
    #[error("the state folder cannot be used")]
    State(#[source] StateError),
    /// A note in it is damaged, and there is a remedy.
    #[error("{0}: {1}")]
    Damaged(StateError, String),
}

impl From<StateError> for CannotStart {
    fn from(error: StateError) -> Self {
        match error.remedy() {
            Some(remedy) => Self::Damaged(error, remedy),
            None => Self::State(error),
        }
    }
}

/// Runs an agent until `stop` is true.
///
/// # Errors
/// When it cannot start; once it runs it goes on whatever comes.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), CannotStart> {
    let state = State::open(&config.state_dir)?;
    let known = Known::open(&config.state_dir)?;
    tracing::info!(
        host = %config.host,
        coordinator = %config.coordinator,
        clickhouse = config.clickhouse.url,
        state_dir = %config.state_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "agent starts"
    );
    let options = Options {
        coordinator: config.coordinator.clone(),
        tls: config.tls.clone(),
        host: config.host.clone(),
        parallel: config.parallel,
        keepalive: KEEPALIVE,
    };
    let watched = watch_merges(ClickHouse::new(&config.clickhouse), state.clone());
    let merges = tokio::spawn(watched);
    let host: Arc<dyn Host> = Arc::new(ThisHost::new(config, state.clone(), known));
    let executor = Executor::start(Arc::clone(&host), state.clone(), options.parallel);
    Stream::new(options, executor, state, host, stop).run().await;
    merges.abort();
    tracing::info!("agent stops");
    Ok(())
}

/// The host that the agent runs on.
struct ThisHost {
    name: HostName,
    clickhouse: ClickHouse,
    clickhouse_url: String,
    /// ClickHouse's own configuration file.
    config: PathBuf,
    connections: Connections,
    state: State,
    known: Known,
    export_limit: u64,
    restart: Option<RestartCommand>,
    hooks: Hooks,
    /// What the server told the last time that it answered.
    server_id: Mutex<Option<String>>,
}

impl ThisHost {
    fn new(config: Config, state: State, known: Known) -> Self {
        Self {
            name: config.host,
            clickhouse: ClickHouse::limited(
                &config.clickhouse,
                config.parallel.detach.get(),
                config.parallel.restore.get(),
            ),
            clickhouse_url: config.clickhouse.url,
            config: config.clickhouse_config,
            connections: Connections::new(),
            state,
            known,
            export_limit: config.znodes_export_limit_bytes.get(),
            restart: config.restart.map(|run| RestartCommand {
                command: run.command,
                timeout: run.timeout,
            }),
            hooks: config.before_restart.map_or_else(Hooks::default, |run| Hooks {
                before_restart: vec![run.command],
                timeout: run.timeout,
            }),
            server_id: Mutex::default(),
        }
    }

    async fn run(&self, command: &Command, doing: Arc<Doing>) -> StepResult {
        let known = self
            .known
            .check_or_learn(&command.order, &self.clickhouse, &self.config);
        // It has the remedy of its cause.
        known.await?;
        let (migration, attempt) = (&command.migration, command.attempt);
        let context = Context {
            clickhouse: self.clickhouse.tagged(Tag::attempt(migration, attempt)),
            zookeeper: ServerPlaces::new(self.config.clone(), self.connections.clone()),
            state: self.state.clone(),
            host: self.name.clone(),
            migration: migration.clone(),
            attempt,
            export_limit: self.export_limit,
            report: Arc::new(move |text| doing.say(text)),
        };
        let context = &context;
        match &command.order {
            Order::Sync(table) => steps::sync(context, table).await,
            Order::Detach(table) => steps::detach(context, table).await,
            Order::Reattach(table) => steps::reattach(context, table).await,
            Order::Freeze(on) => set::freeze(context, on).await,
            Order::Settle(on) => set::settle(context, on).await,
            Order::Record(on) => set::record(context, on).await,
            Order::Attest { table, set, record } => steps::attest(context, table, set, record).await,
            Order::Clean(on) => set::clean(context, on).await,
            Order::Release(on) => set::release(context, on).await,
            Order::Restart => match &self.restart {
                Some(command) => steps::restart(context, command, &self.hooks).await,
                None => Err(Failure::lasting(
                    Code::RestartFailed,
                    "no restart.command is configured in agent.yaml of this host: add one, start the agent anew, then \
                     retry",
                )),
            },
            Order::Witness(witness) => set::witness(context, witness).await,
            Order::Attach {
                table,
                witness,
                record,
                manifest,
            } => steps::attach(context, table, witness, record, manifest.as_ref()).await,
            Order::Restore {
                table,
                role,
                manifest,
                witness,
                merges_keep_rows,
                keep_order,
                replicas,
            } => {
                let order = Restore {
                    table,
                    role,
                    manifest,
                    witness,
                    merges_keep_rows: *merges_keep_rows,
                    keep_order: *keep_order,
                    replicas,
                };
                steps::restore(context, &order).await
            }
            Order::Clear(table) => steps::clear(context, table).await,
            Order::Finish(table) => steps::finish(context, table).await,
        }
    }

    /// People have to know that merges of the table are stopped, and how they are started.
    fn with_merges(&self, command: &Command, mut failure: Failure) -> Failure {
        if let Order::Attach { table, .. } | Order::Restore { table, .. } | Order::Clear(table) | Order::Finish(table) =
            &command.order
            && self.state.holds_merges(&command.migration, table)
        {
            failure.problem.fix.push_str(&format!(
                "; until then merges of the table stay stopped on all replicas (by hand, once no row is missing: {})",
                Statement::StartMerges(&table.name).sql()
            ));
        }
        failure
    }

    async fn inventory(&self) -> Result<Vec<u8>, String> {
        let mut inventory = inspect(
            &self.name,
            &self.clickhouse,
            &self.config,
            self.restart.is_some(),
            &self.connections,
        )
        .await
        .map_err(|failure| failure.problem.message)?;
        inventory.around.has_hook = !self.hooks.before_restart.is_empty();
        // On disk before the coordinator can command anything about what it is told here.
        self.known.add(&inventory).map_err(|e| {
            let remedy = e.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
            format!(
                "the tables could not be noted in the state folder: {}{remedy}",
                in_full(&e)
            )
        })?;
        let packed = pack(&inventory).map_err(|e| format!("the inventory cannot be packed: {e}"))?;
        Ok(packed.bytes)
    }

    async fn server_id(&self) -> String {
        let told = answer_in_time(self.clickhouse.server_id()).await;
        let mut known = self.server_id.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some() {
            known.clone_from(&told);
        }
        let id = known.clone().unwrap_or_else(|| {
            // Good enough to be told from other hosts until the server answers.
            format!("{}|{}", system_host_name().unwrap_or_default(), self.clickhouse_url)
        });
        digest(id.as_bytes())
    }
}

async fn answer_in_time<T, E>(question: impl Future<Output = Result<T, E>>) -> Option<T> {
    timeout(IDENTITY_TIMEOUT, question).await.ok()?.ok()
}

impl Host for ThisHost {
    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
            let waits = |text: String| tracing::info!(reason = text, "no step begins yet");
            while let Err(error) = self.clickhouse.wait_out_former_agent(waits).await {
                match error.class() {
                    Class::Unknown => {
                        tracing::warn!(error = error.in_full(), "cannot see what the server runs; trying again");
                        sleep(backoff.next_delay()).await;
                    }
                    // A server that is not there runs nothing. One that refuses the question refuses it in the steps
                    // as well, which look for statements on their own table, and there people see it.
                    Class::Passing | Class::Lasting => {
                        tracing::warn!(error = error.in_full(), "cannot see what the server runs");
                        return;
                    }
                }
            }
        })
    }

    fn step<'a>(&'a self, command: &'a Command, doing: Arc<Doing>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match self.run(command, doing).await {
                Ok(finished) => (Outcome::Done(finished.done), finished.document),
                Err(failure) => {
                    let failure = steps::by_cause(failure, &command.order, &self.clickhouse).await;
                    (Outcome::Failed(self.with_merges(command, failure)), None)
                }
            }
        })
    }

    fn identity(&self) -> BoxFuture<'_, Identity> {
        Box::pin(async {
            let (server_id, version) = tokio::join!(self.server_id(), answer_in_time(self.clickhouse.version()));
            Identity {
                server_id,
                clickhouse_version: version.unwrap_or_default(),
            }
        })
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(self.inventory())
    }

    fn rehearse<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let known = self
                .known
                .check_or_learn(&command.order, &self.clickhouse, &self.config);
            known.await.map_err(|failure| failure.problem.message)?;
            let places = ServerPlaces::new(self.config.clone(), self.connections.clone());
            let configured = Configured {
                places: &places,
                restart: self.restart.as_ref(),
                hooks: &self.hooks,
                state: &self.state,
            };
            let actions = steps::rehearse(configured, &command.migration, command.attempt, &command.order)
                .await
                .map_err(|failure| failure.problem.message)?;
            let packed = pack(&actions).map_err(|e| format!("the list of actions cannot be packed: {e}"))?;
            Ok(packed.bytes)
        })
    }
}
