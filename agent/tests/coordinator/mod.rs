//! A coordinator that does what the test says, an agent whose steps do what the test says, and a line between them
//! that can go dead.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use rekeeper_agent::config::Parallel;
use rekeeper_agent::doing::Doing;
use rekeeper_agent::executor::{Answer, Executor, Host, Identity};
use rekeeper_agent::state::State;
use rekeeper_agent::stream::{Options, Stream};
use rekeeper_proto::v1::agents_server::{Agents, AgentsServer};
use rekeeper_proto::v1::{self, FromAgent, FromCoordinator, from_agent, from_coordinator};
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Command, Done, Failure, Order, Outcome, TableRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Waits for what has to come, and says what did not.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: waited for it in vain"),
    }
}

pub struct Coordinator {
    pub url: String,
    connections: mpsc::Receiver<Connection>,
}

/// One stream of the agent.
pub struct Connection {
    pub hello: v1::Hello,
    incoming: Streaming<FromAgent>,
    outgoing: mpsc::Sender<Result<FromCoordinator, Status>>,
}

struct Service(mpsc::Sender<Connection>);

#[tonic::async_trait]
impl Agents for Service {
    type AttendStream = ReceiverStream<Result<FromCoordinator, Status>>;

    async fn attend(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::AttendStream>, Status> {
        let mut incoming = request.into_inner();
        let Some(FromAgent {
            kind: Some(from_agent::Kind::Hello(hello)),
        }) = incoming.message().await?
        else {
            return Err(Status::invalid_argument("hello comes first"));
        };
        let (outgoing, messages) = mpsc::channel(16);
        let connection = Connection {
            hello,
            incoming,
            outgoing,
        };
        self.0
            .send(connection)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Coordinator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, connections) = mpsc::channel(16);
        let server = tonic::transport::Server::builder().add_service(AgentsServer::new(Service(sender)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url, connections }
    }

    /// The next stream, not welcomed yet.
    pub async fn connection(&mut self) -> Connection {
        soon("a stream of the agent", self.connections.recv()).await.unwrap()
    }

    /// The next stream, welcomed.
    pub async fn welcomed(&mut self, token: u64, run: &str) -> Connection {
        let connection = self.connection().await;
        connection.welcome(token, run).await;
        connection
    }
}

impl Connection {
    pub async fn send(&self, kind: from_coordinator::Kind) {
        self.outgoing
            .send(Ok(FromCoordinator { kind: Some(kind) }))
            .await
            .unwrap();
    }

    pub async fn welcome(&self, token: u64, run: &str) {
        self.welcome_with(token, run, 0).await;
    }

    /// Takes messages of so many bytes.
    pub async fn welcome_with(&self, token: u64, run: &str, message_bytes: u64) {
        let welcome = v1::Welcome {
            token,
            run: run.to_owned(),
            message_bytes,
        };
        self.send(from_coordinator::Kind::Welcome(welcome)).await;
    }

    /// Orders the detaching of a table of its own.
    pub async fn order(&self, attempt: u64) {
        self.order_of(attempt, attempt).await;
    }

    pub async fn order_of(&self, attempt: u64, table: u64) {
        let command = detach(attempt, table);
        self.send(from_coordinator::Kind::Command(command.into())).await;
    }

    pub async fn acknowledge(&self, sequence: u64) {
        self.send(from_coordinator::Kind::Acknowledged(v1::Acknowledged { sequence }))
            .await;
    }

    /// The next message; none when the stream ended, in whatever way.
    pub async fn message(&mut self) -> Option<from_agent::Kind> {
        let message = soon("a message of the agent", self.incoming.message()).await;
        message.ok().flatten().and_then(|message| message.kind)
    }

    /// The next event, texts left out.
    pub async fn event(&mut self) -> v1::Event {
        loop {
            match self.message().await {
                Some(from_agent::Kind::Event(event)) => return event,
                Some(from_agent::Kind::Doing(_)) => {}
                other => panic!("an event was expected, and {other:?} came"),
            }
        }
    }

    /// Waits until the step of an attempt has begun and said so.
    pub async fn doing(&mut self, attempt: u64) {
        loop {
            match self.message().await {
                Some(from_agent::Kind::Doing(doing)) if doing.attempt == attempt => return,
                Some(from_agent::Kind::Doing(_)) => {}
                other => panic!("a text was expected, and {other:?} came"),
            }
        }
    }

    /// Nothing more comes: the stream ends, without a goodbye.
    pub async fn ended(&mut self) -> bool {
        self.message().await.is_none()
    }
}

/// A host whose steps wait until the test opens the gate.
pub struct FakeHost {
    pub runs: Mutex<Vec<u64>>,
    pub at_once: AtomicUsize,
    pub most_at_once: AtomicUsize,
    gate: watch::Sender<bool>,
    ready: watch::Sender<bool>,
}

impl FakeHost {
    fn new(open: bool, ready: bool) -> Arc<Self> {
        Arc::new(Self {
            runs: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            gate: watch::channel(open).0,
            ready: watch::channel(ready).0,
        })
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub fn be_ready(&self) {
        self.ready.send_replace(true);
    }

    pub fn runs(&self) -> Vec<u64> {
        self.runs.lock().unwrap().clone()
    }
}

/// An attempt that panics, and one that fails.
pub const PANICS: u64 = 666;
pub const FAILS: u64 = 13;

impl Host for FakeHost {
    fn ready(&self) -> BoxFuture<'_, ()> {
        let mut ready = self.ready.subscribe();
        Box::pin(async move {
            ready.wait_for(|ready| *ready).await.unwrap();
        })
    }

    fn step<'a>(&'a self, command: &'a Command, doing: Arc<Doing>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            self.runs.lock().unwrap().push(command.attempt);
            doing.say("is at it");
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            // Others get a chance to be there at the same time.
            tokio::task::yield_now().await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            let outcome = match command.attempt {
                PANICS => panic!("a fault"),
                FAILS => Outcome::Failed(Failure::passing(Code::DetachFailed, "no")),
                _ => Outcome::Done(Done::Plain),
            };
            (outcome, None)
        })
    }

    fn identity(&self) -> BoxFuture<'_, Identity> {
        Box::pin(async {
            Identity {
                server_id: "id".into(),
                clickhouse_version: "26.9".into(),
            }
        })
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async { Ok(b"inventory".to_vec()) })
    }

    fn rehearse<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async { Ok(format!("attempt {}", command.attempt).into_bytes()) })
    }
}

/// The command to detach a table.
pub fn detach(attempt: u64, table: u64) -> Command {
    Command {
        migration: "m".parse().unwrap(),
        attempt,
        order: Order::Detach(TableRef {
            name: TableName::new("d", format!("t{table}")),
            uuid: format!("{table:08x}-0000-4000-8000-000000000000"),
            path: ZkPath::parse("/t").unwrap(),
            replica_name: "r1".into(),
        }),
    }
}

/// An agent in this process.
pub struct Agent {
    pub host: Arc<FakeHost>,
    stop: watch::Sender<bool>,
    stream: JoinHandle<()>,
}

pub struct Start {
    pub host: &'static str,
    pub gate_open: bool,
    pub ready: bool,
    pub at_a_time: usize,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            host: "ch-1",
            gate_open: true,
            ready: true,
            at_a_time: 8,
        }
    }
}

impl Agent {
    pub fn start(url: &str, state_dir: &Path, how: Start) -> Self {
        let host = FakeHost::new(how.gate_open, how.ready);
        let state = State::open(state_dir).unwrap();
        let limit = NonZeroUsize::new(how.at_a_time).unwrap();
        let parallel = Parallel {
            detach: limit,
            restore: limit,
        };
        let executor = Executor::start(host.clone(), state.clone(), parallel);
        let options = Options {
            tls: None,
            coordinator: url.parse().unwrap(),
            host: how.host.parse().unwrap(),
            parallel,
            keepalive: (Duration::from_millis(300), Duration::from_millis(300)),
        };
        let (stop, stopped) = watch::channel(false);
        let stream = Stream::new(options, executor, state, host.clone(), stopped);
        Self {
            host,
            stop,
            stream: tokio::spawn(stream.run()),
        }
    }

    /// As a signal does it.
    pub fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    pub async fn stopped(self) {
        soon("the end of the agent's stream", self.stream).await.unwrap();
    }
}

/// A line to a coordinator. When it goes dead nothing passes any more, and nobody is told.
pub struct Line {
    pub url: String,
    dead: watch::Sender<usize>,
}

impl Line {
    pub async fn to(url: &str) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (dead, _) = watch::channel(0);
        let sender = dead.clone();
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                tokio::spawn(carry(agent, target.clone(), sender.subscribe()));
            }
        });
        Self { url, dead }
    }

    /// All connections of now go dead; later ones are alive.
    pub fn go_dead(&self) {
        self.dead.send_modify(|times| *times += 1);
    }
}

async fn carry(mut agent: TcpStream, target: String, mut dead: watch::Receiver<usize>) {
    let mut coordinator = TcpStream::connect(target).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut agent, &mut coordinator) => {}
        _ = dead.changed() => {
            // Held open, so that neither side sees an end.
            std::future::pending::<()>().await;
        }
    }
}
