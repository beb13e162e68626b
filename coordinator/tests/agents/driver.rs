//! What the driver does with agents that have seen more than its store has, with events that are not theirs or cannot be,
//! and while its store is slow to read.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rekeeper_coordinator::agents;
use rekeeper_coordinator::driver::{Driver, DriverHandle, OperatorError};
use rekeeper_coordinator::limits::{Budget, Limits};
use rekeeper_coordinator::progress::OperatorOrder;
use rekeeper_coordinator::store::{Append, Opened, Pending, SqliteStore, Store, StoreError, Stored, Written};
use rekeeper_proto::v1::from_coordinator;
use rekeeper_shared::domain::document::{self, Packed};
use rekeeper_shared::domain::ids::{MigrationName, TableName};
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::plan::{Plan, PlanRequest, PlannedHost, PlannedSet, PlannedTable, RestartPolicy};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Command, Done, Event, Failure, Outcome, SeenToken, StepKind};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::evidence::{part_set, recorded};
use super::wire::{Agent, hello, host, say_event, serve, soon};

/// Longer than a few turns of the driver.
const A_WHILE: Duration = Duration::from_millis(800);

pub(crate) fn migration() -> MigrationName {
    "m".parse().unwrap()
}

/// One table with a replica on each of two hosts.
pub(crate) fn plan() -> Plan {
    let table = |host: usize| PlannedTable {
        host,
        name: TableName::new("d", "t"),
        uuid: format!("{host}-1"),
        engine: "ReplicatedMergeTree".into(),
        set: 0,
        replica_name: format!("r{}", host + 1),
    };
    let planned = |name: &str| PlannedHost {
        name: host(name),
        clickhouse_version: "26.9".into(),
        has_hook: false,
        runs_keeper: false,
    };
    Plan {
        name: migration(),
        created: "2026-01-01T00:00:00Z".into(),
        created_by: "anna".into(),
        request: PlanRequest {
            restart: RestartPolicy::Never,
            ..PlanRequest::default()
        },
        hosts: vec![planned("h1"), planned("h2")],
        tables: vec![table(0), table(1)],
        sets: vec![PlannedSet {
            place: Place {
                ensemble: "default".into(),
                nodes: vec!["zk:2181".into()],
                secure: false,
                chroot: String::new(),
            },
            path: ZkPath::parse("/t").unwrap(),
            tables: vec![0, 1],
            wave: 0,
        }],
        waves: vec![vec![0, 1]],
        warnings: vec![],
        forecasts: vec![],
        attested: true,
    }
}

/// A coordinator on a store, without operators.
pub(crate) struct Whole {
    address: SocketAddr,
    pub(crate) driver: DriverHandle,
    running: JoinHandle<()>,
    _server: (oneshot::Sender<()>, JoinHandle<()>),
}

impl Whole {
    pub(crate) async fn start(data_dir: &Path) -> Self {
        let (store, opened) = SqliteStore::open(data_dir).unwrap();
        Self::on(store, opened).await
    }

    async fn on(store: impl Store, opened: Opened) -> Self {
        let own = SeenToken {
            token: opened.token,
            run: opened.run,
        };
        let (service, handle, heard) = agents::new(own, opened.past, Budget::new(Limits::default()));
        let driver = Driver::load(Arc::new(store), handle).await.unwrap();
        let (operator, requests) = driver.handle();
        let running = tokio::spawn(async move { driver.run(heard, requests).await.unwrap() });
        let (address, stop, server) = serve(service).await;
        Self {
            address,
            driver: operator,
            running,
            _server: (stop, server),
        }
    }

    /// With the plan, started.
    pub(crate) async fn started(data_dir: &Path) -> Self {
        let whole = Self::start(data_dir).await;
        whole.begin().await;
        whole
    }

    pub(crate) async fn begin(&self) {
        let packed = document::pack(&plan()).unwrap();
        self.driver.save(plan(), packed).await.unwrap();
        let start = OperatorOrder::Start { until: None };
        self.driver.order(&migration(), "anna".into(), start).await.unwrap();
    }

    /// Its end, with the store closed.
    pub(crate) async fn end(self) {
        self.running.abort();
        assert!(self.running.await.unwrap_err().is_cancelled());
        let (stop, server) = self._server;
        drop((stop, self.driver));
        server.abort();
        assert!(server.await.is_err());
    }

    /// The agent of a host that has seen this attempt of the migration; 0 is none.
    pub(crate) async fn agent(&self, name: &str, seen: u64) -> Agent {
        let mut said = hello(name, name);
        said.attempts = (seen > 0).then(|| (migration(), seen)).into_iter().collect();
        Agent::connect(self.address, said).await.unwrap()
    }

    pub(crate) async fn waiting_for(&self) -> String {
        let status = self.driver.status(&migration()).await.unwrap();
        status.waiting_for.unwrap_or_default()
    }
}

/// The next command, whatever is acknowledged before it.
pub(crate) async fn next_command(agent: &mut Agent) -> Command {
    loop {
        if let from_coordinator::Kind::Command(command) = agent.next().await.unwrap() {
            return command.try_into().unwrap();
        }
    }
}

pub(crate) async fn ordered(agent: &mut Agent, step: StepKind) -> u64 {
    let command = soon(next_command(agent)).await;
    assert_eq!(command.order.kind(), step, "{command:?}");
    command.attempt
}

pub(crate) async fn gets_nothing(agent: &mut Agent) {
    let got = timeout(A_WHILE, agent.next()).await;
    assert!(got.is_err(), "{got:?}");
}

pub(crate) async fn done(agent: &Agent, sequence: u64, attempt: u64, done: Done) {
    done_with(agent, sequence, attempt, done, None).await;
}

pub(crate) async fn done_with(agent: &Agent, sequence: u64, attempt: u64, done: Done, document: Option<Packed>) {
    let event = Event {
        migration: migration(),
        attempt,
        step: None,
        outcome: Outcome::Done(done),
        document,
    };
    agent.say(say_event(sequence, event)).await;
}

#[tokio::test]
async fn of_a_migration_nothing_is_ordered_of_any_host_once_one_agent_has_seen_more() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let mut ahead = whole.agent("h1", 9).await;
    let mut other = whole.agent("h2", 0).await;
    gets_nothing(&mut other).await;
    gets_nothing(&mut ahead).await;
    assert!(
        whole.waiting_for().await.contains("COORDINATOR_BEHIND on h1"),
        "{}",
        whole.waiting_for().await
    );
    let retry = OperatorOrder::Retry {
        table: None,
        host: None,
    };
    let refused = whole.driver.order(&migration(), "anna".into(), retry).await;
    assert!(matches!(refused, Err(OperatorError::Blocked(_))), "{refused:?}");
}

#[tokio::test]
async fn one_host_that_says_that_it_has_seen_more_is_left_out_and_stops_nobody_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    for (number, step) in [StepKind::Sync, StepKind::Detach].into_iter().enumerate() {
        for agent in [&mut first, &mut second] {
            let attempt = ordered(agent, step).await;
            done(agent, number as u64 + 1, attempt, Done::Plain).await;
        }
    }
    let mut said = hello("h1", "h1");
    said.attempts = vec![("nosuch".parse().unwrap(), 1)];
    let _liar = Agent::connect(whole.address, said.clone()).await.unwrap();
    acknowledged(&mut second, 2).await;
    gets_nothing(&mut second).await;
    let order = async |order| whole.driver.order(&migration(), "anna".into(), order).await;
    let leave = |name: &str| OperatorOrder::Leave { host: host(name) };
    for refused in [leave("h2"), OperatorOrder::Abort, OperatorOrder::Resume] {
        let refused = order(refused).await.unwrap_err().to_string();
        assert!(
            refused.contains("COORDINATOR_BEHIND") && refused.contains("skip NAME --host"),
            "{refused}"
        );
    }
    order(OperatorOrder::Pause).await.unwrap();
    order(leave("h1")).await.unwrap();
    order(OperatorOrder::Resume).await.unwrap();
    let attempt = ordered(&mut second, StepKind::Reattach).await;
    // Nor does it when it comes again.
    let _again = Agent::connect(whole.address, said).await.unwrap();
    gets_nothing(&mut second).await;
    done(&second, 3, attempt, Done::Plain).await;
    acknowledged(&mut second, 3).await;
    // Another one's word counts as before.
    let _second = whole.agent("h2", 99).await;
    tokio::time::sleep(A_WHILE).await;
    let refused = order(OperatorOrder::Abort).await.unwrap_err().to_string();
    assert!(refused.contains("COORDINATOR_BEHIND on h2"), "{refused}");
}

#[tokio::test]
async fn an_event_is_heard_of_the_host_that_it_was_ordered_of_only() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let (one, two) = (
        ordered(&mut first, StepKind::Sync).await,
        ordered(&mut second, StepKind::Sync).await,
    );
    done(&second, 1, one, Done::Plain).await;
    done(&second, 2, two, Done::Plain).await;
    gets_nothing(&mut first).await;
    done(&first, 1, one, Done::Plain).await;
    ordered(&mut first, StepKind::Detach).await;
}

#[tokio::test]
async fn what_an_agent_tells_that_has_seen_more_is_neither_heard_nor_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let one = ordered(&mut first, StepKind::Sync).await;
    ordered(&mut second, StepKind::Sync).await;
    drop(first);
    let mut ahead = whole.agent("h1", 9).await;
    done(&ahead, 1, one, Done::Plain).await;
    gets_nothing(&mut ahead).await;
    let (_, progress) = whole.driver.progress(&migration()).await.unwrap();
    assert!(progress.in_flight.contains_key(&one));
}

#[tokio::test]
async fn a_set_is_recorded_only_when_all_of_its_hosts_were_heard() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    for (number, step) in [StepKind::Sync, StepKind::Detach].into_iter().enumerate() {
        for agent in [&mut first, &mut second] {
            let attempt = ordered(agent, step).await;
            done(agent, number as u64 + 1, attempt, Done::Plain).await;
        }
    }
    let settle = ordered(&mut first, StepKind::Settle).await;
    whole.end().await;

    let whole = Whole::start(folder.path()).await;
    let mut first = whole.agent("h1", settle).await;
    assert_eq!(ordered(&mut first, StepKind::Settle).await, settle);
    done(&first, 1, settle, Done::Settled(vec![])).await;
    let acknowledged = first.next().await.unwrap();
    assert!(
        matches!(acknowledged, from_coordinator::Kind::Acknowledged(_)),
        "{acknowledged:?}"
    );
    gets_nothing(&mut first).await;
    assert!(
        whole.waiting_for().await.contains("the agent of h2 has not connected"),
        "{}",
        whole.waiting_for().await
    );
    let _second = whole.agent("h2", 4).await;
    ordered(&mut first, StepKind::Record).await;
}

/// Until this event is acknowledged, whatever is ordered before that.
pub(crate) async fn acknowledged(agent: &mut Agent, sequence: u64) {
    let wanted = |kind: &from_coordinator::Kind| matches!(kind, from_coordinator::Kind::Acknowledged(told) if told.sequence == sequence);
    while !wanted(&agent.next().await.unwrap()) {}
}

#[tokio::test]
async fn an_event_that_cannot_be_is_the_end_of_its_attempt_and_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, _second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let attempt = ordered(&mut first, StepKind::Sync).await;
    done(&first, 1, attempt, Done::Settled(vec![])).await;
    acknowledged(&mut first, 1).await;
    let (plan, refused) = whole.driver.progress(&migration()).await.unwrap();
    assert!(!refused.in_flight.contains_key(&attempt), "it stays under way for ever");
    let problem = refused.problem_of(&plan, 0).unwrap();
    assert_eq!(problem.code, Code::EventRefused);
    assert!(problem.message.contains("sync cannot end like this"), "{problem}");
    // Told again, rightly or not, it is what it was.
    done(&first, 2, attempt, Done::Plain).await;
    acknowledged(&mut first, 2).await;
    assert_eq!(
        whole.driver.progress(&migration()).await.unwrap().1.tables,
        refused.tables
    );
    whole.end().await;

    let whole = Whole::start(folder.path()).await;
    assert_eq!(
        whole.driver.progress(&migration()).await.unwrap().1.tables,
        refused.tables
    );
    let mut first = whole.agent("h1", attempt).await;
    let retry = OperatorOrder::Retry {
        table: None,
        host: None,
    };
    whole.driver.order(&migration(), "anna".into(), retry).await.unwrap();
    assert!(ordered(&mut first, StepKind::Sync).await > attempt);
}

#[tokio::test]
async fn what_came_of_another_step_is_not_taken_for_that_of_the_ordered_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, _second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let attempt = ordered(&mut first, StepKind::Sync).await;
    let event = Event {
        migration: migration(),
        attempt,
        step: Some(StepKind::Detach),
        outcome: Outcome::Done(Done::Plain),
        document: None,
    };
    first.say(say_event(1, event)).await;
    acknowledged(&mut first, 1).await;
    let (plan, progress) = whole.driver.progress(&migration()).await.unwrap();
    assert!(
        !progress.in_flight.contains_key(&attempt),
        "it stays under way for ever"
    );
    let problem = progress.problem_of(&plan, 0).unwrap();
    assert_eq!(problem.code, Code::EventRefused);
    assert!(problem.message.contains("sync cannot end like this"), "{problem}");
}

/// A store of which documents are not read before it is let go: somebody else reads it.
struct Busy {
    store: SqliteStore,
    go: watch::Sender<bool>,
}

impl Store for Busy {
    fn open(data_dir: &Path) -> Result<(Self, Opened), StoreError> {
        let (store, opened) = SqliteStore::open(data_dir)?;
        let go = watch::Sender::new(false);
        Ok((Self { store, go }, opened))
    }

    fn plans(&self) -> Pending<Vec<Plan>> {
        self.store.plans()
    }

    fn save_plan(&self, plan: &Plan, packed: Packed) -> Pending<()> {
        self.store.save_plan(plan, packed)
    }

    fn records(&self, migration: &MigrationName, after: u64, limit: usize) -> Pending<Vec<Stored>> {
        self.store.records(migration, after, limit)
    }

    fn append(&self, group: Vec<Append>) -> Pending<Vec<Written>> {
        self.store.append(group)
    }

    fn document(&self, digest: &str) -> Pending<Option<Packed>> {
        let (read, mut let_go) = (self.store.document(digest), self.go.subscribe());
        async move {
            let_go.wait_for(|go| *go).await.unwrap();
            read.await
        }
        .boxed()
    }

    fn has_room(&self) -> bool {
        self.store.has_room()
    }

    fn keep_room(&self, more: u64) {
        self.store.keep_room(more);
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        self.store.failed()
    }
}

#[tokio::test]
async fn whoever_reads_the_store_holds_no_order_up() {
    let folder = tempfile::tempdir().unwrap();
    let (store, opened) = Busy::open(folder.path()).unwrap();
    let go = store.go.clone();
    let whole = Whole::on(store, opened).await;
    whole.begin().await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    for (number, step) in [StepKind::Sync, StepKind::Detach].into_iter().enumerate() {
        for agent in [&mut first, &mut second] {
            let attempt = ordered(agent, step).await;
            done(agent, number as u64 + 1, attempt, Done::Plain).await;
        }
    }
    let settle = ordered(&mut first, StepKind::Settle).await;
    done(&first, 3, settle, Done::Settled(vec![])).await;
    let attempt = ordered(&mut first, StepKind::Record).await;
    let (recorded, record) = recorded(&part_set(attempt));
    done_with(&first, 4, attempt, recorded, Some(record)).await;
    acknowledged(&mut first, 4).await;
    // Both are asked to attest the record now, which cannot be read. Questions and orders are answered all the same.
    let (_, progress) = soon(whole.driver.progress(&migration())).await.unwrap();
    let under_way: Vec<StepKind> = progress.in_flight.values().map(|intent| intent.step).collect();
    assert_eq!(under_way, [StepKind::Attest, StepKind::Attest]);
    let name = migration();
    let pause = whole.driver.order(&name, "anna".into(), OperatorOrder::Pause);
    assert!(soon(pause).await.unwrap().contains("no new command is sent"));
    go.send_replace(true);
    ordered(&mut first, StepKind::Attest).await;
    ordered(&mut second, StepKind::Attest).await;
}

#[tokio::test]
async fn an_event_that_is_too_large_fails_its_attempt_and_ends_no_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let attempt = ordered(&mut first, StepKind::Sync).await;
    ordered(&mut second, StepKind::Sync).await;
    // As JSON it has six times as many bytes, more than SQLite takes.
    for bytes in [180 << 20, 30 << 20] {
        let failure = Failure::lasting(Code::SyncFailed, "\u{1}".repeat(bytes));
        let event = Event {
            migration: migration(),
            attempt,
            step: None,
            outcome: Outcome::Failed(failure),
            document: None,
        };
        first.say(say_event(1, event)).await;
        match first.next().await {
            Err(refused) => {
                assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
                assert!(refused.message().contains("limits.message_bytes"), "{refused}");
                first = whole.agent("h1", 0).await;
                ordered(&mut first, StepKind::Sync).await;
            }
            Ok(acknowledged) => assert!(
                matches!(acknowledged, from_coordinator::Kind::Acknowledged(_)),
                "{acknowledged:?}"
            ),
        }
    }
    let status = whole.driver.status(&migration()).await.unwrap();
    let problem = status.tables[0].problem.as_ref().unwrap();
    assert!(problem.message.len() < 10_000, "{}", problem.message.len());
    assert!(!whole.running.is_finished());
}
