//! The agent's stream to the coordinator: opened, kept, and opened again for as long as the agent lives.
//!
//! What comes in goes to the executor, what goes out comes from its outbox; nothing is decided here but whether the
//! coordinator on the other end may be obeyed.

mod fitting;

use std::sync::Arc;
use std::time::Duration;

use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1::agents_client::AgentsClient;
use rekeeper_proto::v1::{self, FromAgent, FromCoordinator, from_agent, from_coordinator};
use rekeeper_shared::PROTOCOL_VERSION;
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::step::{Command, Hello, SeenToken};
use rekeeper_shared::tools::backoff::Backoff;
use rekeeper_tls::{ClientFiles, DialError, Dialer};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Status, Streaming};

use self::fitting::fitting;
use crate::config::{Parallel, TLS_FIELDS};
use crate::executor::{Executor, Host};
use crate::state::{Refusal, State};
use crate::words::in_full;

/// How the stream is opened and kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the coordinator listens.
    pub coordinator: Uri,
    /// What it is called with; none: without TLS, on loopback.
    pub tls: Option<ClientFiles>,
    /// As in agent.yaml and in the certificate.
    pub host: HostName,
    /// What the coordinator may send at a time.
    pub parallel: Parallel,
    /// How often the other end is asked whether it lives, and how long it may take to answer.
    pub keepalive: (Duration, Duration),
}

/// Asked every 5 s and given 4 s, a dead peer is found in about 10 s.
pub const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(4));
const FIRST_DELAY: Duration = Duration::from_millis(100);
const HIGHEST_DELAY: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A coordinator that lives says at once who it is.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a goodbye may take to get through.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two texts of what is being done.
const DOING_INTERVAL: Duration = Duration::from_millis(500);

/// Why a connection ended, or did not come about.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no connection to the coordinator")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the coordinator ended the stream ({}): {}", .0.code(), .0.message())]
    Status(Status),
    #[error("the stream ended without a word")]
    Ended,
    #[error("the coordinator did not say who it is within {} s", WELCOME_TIMEOUT.as_secs())]
    NoWelcome,
    #[error("the coordinator's first message was no welcome")]
    NotWelcome,
    #[error("this coordinator is not obeyed")]
    Refused(#[source] Refusal),
    #[error("the coordinator sent a message without content; is it of a newer release?")]
    Empty,
}

/// Keeps a connection to the coordinator for as long as the agent lives.
pub struct Stream {
    options: Options,
    executor: Executor,
    state: State,
    host: Arc<dyn Host>,
    stop: watch::Receiver<bool>,
    /// Held by the inspection under way: each is thousands of reads.
    inspection: Arc<Mutex<()>>,
}

impl Stream {
    /// A stream that is not open yet; it ends when `stop` is true.
    #[must_use]
    pub fn new(
        options: Options,
        executor: Executor,
        state: State,
        host: Arc<dyn Host>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            options,
            executor,
            state,
            host,
            stop,
            inspection: Arc::default(),
        }
    }

    /// Keeps the stream open until the agent is stopped; then says goodbye.
    pub async fn run(self) {
        let mut backoff = Backoff::new(FIRST_DELAY, HIGHEST_DELAY);
        let mut told = String::new();
        let mut stop = self.stop.clone();
        loop {
            let begun = Instant::now();
            let lost = match self.attend().await {
                Ok(()) => return,
                Err(lost) => in_full(&lost),
            };
            // A coordinator that takes the agent and drops it at once is not asked ten times a second.
            if begun.elapsed() > HIGHEST_DELAY {
                backoff.reset();
                told.clear();
            }
            let coordinator = &self.options.coordinator;
            if lost == told {
                tracing::debug!(%coordinator, reason = lost, "no stream to the coordinator");
            } else {
                tracing::warn!(%coordinator, reason = lost, "no stream to the coordinator");
                told = lost;
            }
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// One connection, from dialing to its end; fine only when the agent was stopped.
    async fn attend(&self) -> Result<(), Lost> {
        let mut stop = self.stop.clone();
        let (outgoing, mut incoming, token, most) = tokio::select! {
            opened = self.open() => opened?,
            () = stopped(&mut stop) => return Ok(()),
        };
        let refused = self.state.may_obey(&token).err();
        let coordinator = &self.options.coordinator;
        match &refused {
            None => tracing::info!(%coordinator, "stream to the coordinator is open"),
            // It may ask what is on the host, so that people see what was left there; the first order ends it.
            Some(refusal) => tracing::warn!(%coordinator, reason = in_full(refusal), "this coordinator is not obeyed"),
        }
        self.executor.outbox().begin_connection();
        let (answers, answered) = mpsc::channel(1);
        tokio::select! {
            lost = self.receive(&mut incoming, &token, &answers) => return Err(lost),
            sent = self.send((&outgoing, most), answered, stop, refused.is_none()) => sent?,
        }
        // The goodbye is through when the coordinator ends its side as well.
        drop(outgoing);
        let ended = async { while let Ok(Some(_)) = incoming.message().await {} };
        if timeout(GOODBYE_TIMEOUT, ended).await.is_err() {
            tracing::debug!("the coordinator did not answer the goodbye");
        }
        Ok(())
    }

    /// Dials, says hello, and checks who answers.
    async fn open(&self) -> Result<(mpsc::Sender<FromAgent>, Streaming<FromCoordinator>, SeenToken, usize), Lost> {
        let (interval, limit) = self.options.keepalive;
        let endpoint = Endpoint::from(self.options.coordinator.clone())
            .tcp_nodelay(true)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(limit)
            .keep_alive_while_idle(true);
        let channel = match &self.options.tls {
            None => endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await,
            // The dialer has limits of its own, and says what it waited for.
            Some(files) => {
                let dialer = Dialer::new(files.clone(), TLS_FIELDS);
                endpoint.connect_with_connector(dialer).await
            }
        };
        let channel = channel.map_err(not_connected)?;
        let mut client = AgentsClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outgoing, messages) = mpsc::channel(16);
        let hello = from_agent::Kind::Hello(self.hello().await.into());
        outgoing
            .send(FromAgent { kind: Some(hello) })
            .await
            .map_err(|_| Lost::Ended)?;
        let welcomed = async {
            let answer = client
                .attend(ReceiverStream::new(messages))
                .await
                .map_err(Lost::Status)?;
            let mut incoming = answer.into_inner();
            match next(&mut incoming).await? {
                from_coordinator::Kind::Welcome(welcome) => Ok((incoming, welcome)),
                _ => Err(Lost::NotWelcome),
            }
        };
        let (incoming, welcome) = timeout(WELCOME_TIMEOUT, welcomed)
            .await
            .map_err(|_| Lost::NoWelcome)??;
        let v1::Welcome {
            token,
            run,
            message_bytes,
        } = welcome;
        let most = match usize::try_from(message_bytes) {
            Ok(most @ 1..MAX_MESSAGE_BYTES) => most,
            // It does not tell, or takes more than is ever sent.
            Ok(_) | Err(_) => MAX_MESSAGE_BYTES,
        };
        Ok((outgoing, incoming, SeenToken { token, run }, most))
    }

    async fn hello(&self) -> Hello {
        let identity = self.host.identity().await;
        Hello {
            protocol: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.options.host.clone(),
            server_id: identity.server_id,
            clickhouse_version: identity.clickhouse_version,
            seen: self.state.seen(),
            attempts: self.state.attempts(),
            parallel_detach: self.options.parallel.detach.get(),
            parallel_restore: self.options.parallel.restore.get(),
        }
    }

    async fn receive(
        &self,
        incoming: &mut Streaming<FromCoordinator>,
        token: &SeenToken,
        answers: &mpsc::Sender<FromAgent>,
    ) -> Lost {
        loop {
            match next(incoming).await {
                Ok(from_coordinator::Kind::Command(command)) => {
                    // On disk before anything is obeyed: an agent that forgets it could be commanded around by an older
                    // one. Not before the first command: one that knows too little to command anything locks nobody
                    // out.
                    if let Err(refusal) = self.state.obey(token) {
                        return Lost::Refused(refusal);
                    }
                    self.command(command).await;
                }
                Ok(from_coordinator::Kind::Inspect(v1::Inspect { request })) => {
                    self.inspect(request, answers.clone());
                }
                Ok(from_coordinator::Kind::Rehearse(question)) => self.rehearse(question, answers.clone()),
                Ok(from_coordinator::Kind::Acknowledged(v1::Acknowledged { sequence })) => {
                    self.executor.outbox().acknowledge(sequence);
                }
                Ok(from_coordinator::Kind::Welcome(_)) => return Lost::NotWelcome,
                Err(lost) => return lost,
            }
        }
    }

    async fn command(&self, wire: v1::Command) {
        let (migration, attempt) = (wire.migration.clone(), wire.attempt);
        match Command::try_from(wire) {
            Ok(command) => self.executor.command(command).await,
            Err(error) => match migration.parse() {
                Ok(migration) => self.executor.refuse(migration, attempt, error.to_string()),
                Err(_) => tracing::error!(migration, attempt, error = %error, "command cannot be understood"),
            },
        }
    }

    /// Inspects the host beside everything else; the answer is of use to this connection only.
    fn inspect(&self, request: u64, answers: mpsc::Sender<FromAgent>) {
        let (host, one_at_a_time) = (Arc::clone(&self.host), Arc::clone(&self.inspection));
        tokio::spawn(async move {
            let _turn = one_at_a_time.lock().await;
            // A task of its own, so that a panic ends the inspection and not the wait for it.
            let (inventory, error) = told(tokio::spawn(async move { host.inspect().await }).await);
            let answer = from_agent::Kind::Inspected(v1::Inspected {
                request,
                inventory,
                error,
            });
            tell(answers, answer).await;
        });
    }

    /// Tells what a command would change. It is not obeyed, so it is no sign of the coordinator that is to be obeyed.
    fn rehearse(&self, v1::Rehearse { request, command }: v1::Rehearse, answers: mpsc::Sender<FromAgent>) {
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            let rehearsed = match command.map(Command::try_from) {
                Some(Ok(command)) => tokio::spawn(async move { host.rehearse(&command).await }).await,
                Some(Err(error)) => Ok(Err(error.to_string())),
                None => Ok(Err("the question names no command".to_owned())),
            };
            let (actions, error) = told(rehearsed);
            let answer = from_agent::Kind::Rehearsed(v1::Rehearsed {
                request,
                actions,
                error,
            });
            tell(answers, answer).await;
        });
    }

    /// Sends what there is to send; fine only when the agent was stopped and the goodbye is on its way. What came of
    /// commands is for the coordinator that is obeyed.
    async fn send(
        &self,
        (outgoing, most): (&mpsc::Sender<FromAgent>, usize),
        mut answered: mpsc::Receiver<FromAgent>,
        mut stop: watch::Receiver<bool>,
        obeyed: bool,
    ) -> Result<(), Lost> {
        let (outbox, board) = (self.executor.outbox(), self.executor.board());
        let (mut told, mut next_texts) = (0, Instant::now());
        loop {
            while obeyed && let Some(event) = outbox.next_to_send() {
                put(outgoing, fitting(from_agent::Kind::Event(event), most)).await?;
            }
            tokio::select! {
                () = outbox.changed(), if obeyed => {}
                Some(answer) = answered.recv() => put(outgoing, answer.kind.map(|kind| fitting(kind, most))).await?,
                (version, texts) = async { sleep_until(next_texts).await; board.newer_than(told).await } => {
                    for text in texts {
                        put(outgoing, from_agent::Kind::Doing(text)).await?;
                    }
                    (told, next_texts) = (version, Instant::now() + DOING_INTERVAL);
                }
                () = stopped(&mut stop) => {
                    return put(outgoing, from_agent::Kind::Goodbye(v1::Goodbye {})).await;
                }
            }
        }
    }
}

/// A document, or why there is none.
fn told(outcome: Result<Result<Vec<u8>, String>, JoinError>) -> (Vec<u8>, String) {
    match outcome {
        Ok(Ok(document)) => (document, String::new()),
        Ok(Err(error)) => (Vec::new(), error),
        Err(error) => (
            Vec::new(),
            format!("the agent broke off ({error}); this is a fault of Rekeeper"),
        ),
    }
}

async fn tell(answers: mpsc::Sender<FromAgent>, answer: from_agent::Kind) {
    if answers.send(FromAgent { kind: Some(answer) }).await.is_err() {
        tracing::debug!("the connection that asked is no more");
    }
}

/// The dialer's own words without those of the layers around it.
fn not_connected(error: tonic::transport::Error) -> Lost {
    Lost::Connect(match DialError::within(&error) {
        Some(words) => words.to_string().into(),
        None => error.into(),
    })
}

async fn put(outgoing: &mpsc::Sender<FromAgent>, kind: impl Into<Option<from_agent::Kind>>) -> Result<(), Lost> {
    if outgoing.send(FromAgent { kind: kind.into() }).await.is_ok() {
        return Ok(());
    }
    // The incoming side knows why, and usually says so within this time.
    sleep(Duration::from_secs(1)).await;
    Err(Lost::Ended)
}

async fn next(incoming: &mut Streaming<FromCoordinator>) -> Result<from_coordinator::Kind, Lost> {
    match incoming.message().await {
        Ok(Some(message)) => message.kind.ok_or(Lost::Empty),
        Ok(None) => Err(Lost::Ended),
        Err(status) => Err(Lost::Status(status)),
    }
}

/// Waits until the agent is to stop. A sender that is gone means that nobody can say so any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
