//! Who is connected. Every host has at most one connection, every server at most one host.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rekeeper_proto::v1::{self, from_coordinator::Kind};
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::step::{Hello, SeenToken};
use rekeeper_shared::people::rehearsal::Action;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::admission::{ahead, objection};
use super::evidence::Subject;
use super::outgoing::Outgoing;
use super::{Connected, ConnectionId, Refused};

/// Messages that wait for one agent at most.
const OUTGOING: usize = 1_024;
/// How long a refused agent is told of; one that is still there tries again more often than this.
const REFUSED_FOR: Duration = Duration::from_secs(120);
/// How many are remembered: whoever has a certificate may give any name.
const REFUSED: usize = 1_000;

/// What an agent is asked; its answer is for whoever waits for it on this connection.
#[derive(Debug)]
enum Question {
    Inspection(oneshot::Sender<Inspected>),
    Rehearsal(oneshot::Sender<Rehearsed>),
}

type Inspected = Result<HostInventory, String>;
type Rehearsed = Result<Vec<Action>, String>;

/// What the attempts that were ordered of each host are about.
type Ordered = HashMap<(HostName, u64), Arc<Subject>>;

/// The connected agents.
#[derive(Debug)]
pub(super) struct Registry {
    /// Told to every agent, so that it can refuse a coordinator which knows less.
    own: SeenToken,
    /// What it was before, by token: the runs that went before on the same store.
    past: BTreeMap<u64, String>,
    /// Most bytes of a message, which agents are told.
    message_bytes: usize,
    state: Mutex<State>,
    /// The attempts that were ordered and have not ended, each of its host. An event of another one is not unpacked.
    ordered: Mutex<HashMap<MigrationName, Ordered>>,
}

#[derive(Debug, Default)]
struct State {
    next_connection: u64,
    next_request: u64,
    closed: bool,
    agents: BTreeMap<HostName, Agent>,
    refused: Vec<(Instant, Refused)>,
}

/// A connection as the registry holds it; dropped when the connection is over.
struct Agent {
    connected: Connected,
    outgoing: mpsc::Sender<v1::FromCoordinator>,
    closing: watch::Sender<Option<Status>>,
    /// Resolves when everything was told of the connection, [`super::FromAgents::Gone`] included.
    told: oneshot::Receiver<()>,
    questions: HashMap<u64, Question>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connected.fmt(f)
    }
}

/// What a connection begins with.
pub(super) struct Admitted {
    pub(super) connected: Connected,
    /// Set when the connection is to end.
    pub(super) closing: watch::Receiver<Option<Status>>,
    /// Dropped when everything was told of the connection.
    pub(super) told: oneshot::Sender<()>,
    /// The connection that this one replaces: resolves when everything was told of it.
    pub(super) replaced: Option<oneshot::Receiver<()>>,
}

impl Registry {
    pub(super) fn new(own: SeenToken, past: BTreeMap<u64, String>, message_bytes: usize) -> Self {
        Self {
            own,
            past,
            message_bytes,
            state: Mutex::default(),
            ordered: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an attempt is about to be ordered of a host.
    pub(super) fn is_to_do(&self, host: &HostName, migration: &MigrationName, attempt: u64, subject: Subject) {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let of_migration = ordered.entry(migration.clone()).or_default();
        of_migration.insert((host.clone(), attempt), Arc::new(subject));
    }

    /// Notes that an attempt has ended.
    pub(super) fn has_done(&self, host: &HostName, migration: &MigrationName, attempt: u64) {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_migration) = ordered.get_mut(migration) {
            of_migration.remove(&(host.clone(), attempt));
        }
    }

    /// What the attempt is about, when it is one that the host was ordered to do and has not ended.
    pub(super) fn ordered(&self, host: &HostName, migration: &MigrationName, attempt: u64) -> Option<Arc<Subject>> {
        let ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        ordered.get(migration)?.get(&(host.clone(), attempt)).cloned()
    }

    /// Whether somebody waits for the answer to a question of this connection.
    pub(super) fn asks(&self, connected: &Connected, request: u64) -> bool {
        let mut state = self.state();
        let agent = state.agent(&connected.hello.host, connected.connection);
        agent.is_some_and(|agent| {
            agent
                .questions
                .get(&request)
                .is_some_and(|waiting| !waiting.is_dropped())
        })
    }

    /// Takes a connection in, or says why not. What the agent is sent begins with [`v1::Welcome`].
    pub(super) fn admit(&self, hello: Hello) -> Result<(Admitted, Outgoing), Status> {
        let mut state = self.state();
        if state.closed {
            return Err(Status::unavailable("the coordinator stops"));
        }
        if let Some((code, message)) = objection(state.agents.values().map(|agent| &agent.connected.hello), &hello) {
            tracing::warn!(host = %hello.host, code = %code, "agent refused: {message}");
            let status = Status::failed_precondition(message.clone());
            state.note(Refused {
                host: hello.host,
                code: Some(code),
                message,
            });
            return Err(status);
        }
        state.refused.retain(|(_, refused)| refused.host != hello.host);

        state.next_connection += 1;
        let connected = Connected {
            connection: ConnectionId(state.next_connection),
            ahead: ahead(&self.own, &self.past, &hello),
            hello,
        };
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (closing, closed) = watch::channel(None);
        let (tell, told) = oneshot::channel();
        let welcome = v1::Welcome {
            token: self.own.token,
            run: self.own.run.clone(),
            message_bytes: self.message_bytes as u64,
        };
        // The queue is new: there is room in it.
        drop(outgoing.try_send(message(Kind::Welcome(welcome))));
        let replaced = state.agents.insert(
            connected.hello.host.clone(),
            Agent {
                connected: connected.clone(),
                outgoing,
                closing,
                told,
                questions: HashMap::new(),
            },
        );
        let outgoing = Outgoing::new(queue, closed.clone());
        let admitted = Admitted {
            connected,
            closing: closed,
            told: tell,
            replaced: replaced.map(|old| {
                old.close(Status::aborted("the agent has connected again"));
                old.told
            }),
        };
        Ok((admitted, outgoing))
    }

    /// Forgets a connection that ended, unless another one is in its place already. With `status`, the agent is told.
    pub(super) fn leave(&self, connected: &Connected, status: Option<Status>) {
        let host = &connected.hello.host;
        let mut state = self.state();
        if state.agent(host, connected.connection).is_some()
            && let Some(agent) = state.agents.remove(host)
            && let Some(status) = status
        {
            agent.close(status);
        }
    }

    /// Sends a command, unless the agent has obeyed a coordinator that knows more than this one (invariant 13).
    pub(super) fn order(&self, host: &HostName, connection: ConnectionId, command: v1::Command) -> bool {
        let mut state = self.state();
        state
            .agent(host, connection)
            .is_some_and(|agent| agent.connected.ahead.is_none() && agent.post(Kind::Command(command)))
    }

    /// Sends anything else.
    pub(super) fn post(&self, host: &HostName, connection: ConnectionId, kind: Kind) -> bool {
        self.state()
            .agent(host, connection)
            .is_some_and(|agent| agent.post(kind))
    }

    /// Asks an agent to inspect its host; none when it is not connected.
    pub(super) fn inspect(&self, host: &HostName) -> Option<oneshot::Receiver<Inspected>> {
        let (tell, told) = oneshot::channel();
        let ask = |request| Kind::Inspect(v1::Inspect { request });
        self.ask(host, Question::Inspection(tell), ask).then_some(told)
    }

    /// Asks an agent what a command would change; none when it is not connected.
    pub(super) fn rehearse(&self, host: &HostName, command: v1::Command) -> Option<oneshot::Receiver<Rehearsed>> {
        let (tell, told) = oneshot::channel();
        let ask = |request| {
            Kind::Rehearse(v1::Rehearse {
                request,
                command: Some(command),
            })
        };
        self.ask(host, Question::Rehearsal(tell), ask).then_some(told)
    }

    fn ask(&self, host: &HostName, question: Question, ask: impl FnOnce(u64) -> Kind) -> bool {
        let mut state = self.state();
        state.next_request += 1;
        let request = state.next_request;
        let Some(agent) = state.agents.get_mut(host) else {
            return false;
        };
        if !agent.post(ask(request)) {
            return false;
        }
        // Nobody waits any more for those that were dropped.
        agent.questions.retain(|_, waiting| !waiting.is_dropped());
        agent.questions.insert(request, question);
        true
    }

    /// Hands an inspection to whoever waits for it.
    pub(super) fn inspected(&self, connected: &Connected, request: u64, result: Inspected) {
        if let Some(Question::Inspection(waiting)) = self.question(connected, request) {
            drop(waiting.send(result));
        }
    }

    /// Hands a rehearsal to whoever waits for it.
    pub(super) fn rehearsed(&self, connected: &Connected, request: u64, result: Rehearsed) {
        if let Some(Question::Rehearsal(waiting)) = self.question(connected, request) {
            drop(waiting.send(result));
        }
    }

    fn question(&self, connected: &Connected, request: u64) -> Option<Question> {
        let mut state = self.state();
        let agent = state.agent(&connected.hello.host, connected.connection)?;
        agent.questions.remove(&request)
    }

    pub(super) fn close(&self, host: &HostName, connection: ConnectionId, status: Status) {
        if let Some(agent) = self.state().agent(host, connection) {
            agent.close(status);
        }
    }

    pub(super) fn close_all(&self) {
        let mut state = self.state();
        state.closed = true;
        for agent in state.agents.values() {
            agent.close(Status::unavailable("the coordinator stops"));
        }
    }

    pub(super) fn connected(&self) -> Vec<Connected> {
        let state = self.state();
        let open = state.agents.values().filter(|agent| !agent.is_closing());
        open.map(|agent| agent.connected.clone()).collect()
    }

    /// Remembers an agent that was refused before it came here.
    pub(super) fn note(&self, refused: Refused) {
        self.state().note(refused);
    }

    pub(super) fn refused(&self) -> Vec<Refused> {
        let mut state = self.state();
        state.forget_refused();
        state.refused.iter().map(|(_, refused)| refused.clone()).collect()
    }
}

impl Question {
    fn is_dropped(&self) -> bool {
        match self {
            Self::Inspection(waiting) => waiting.is_closed(),
            Self::Rehearsal(waiting) => waiting.is_closed(),
        }
    }
}

impl State {
    fn agent(&mut self, host: &HostName, connection: ConnectionId) -> Option<&mut Agent> {
        self.agents
            .get_mut(host)
            .filter(|agent| agent.connected.connection == connection)
    }

    fn note(&mut self, new: Refused) {
        self.forget_refused();
        self.refused.retain(|(_, refused)| *refused != new);
        if self.refused.len() == REFUSED {
            self.refused.remove(0);
        }
        self.refused.push((Instant::now(), new));
    }

    fn forget_refused(&mut self) {
        self.refused.retain(|(at, _)| at.elapsed() < REFUSED_FOR);
    }
}

impl Agent {
    fn close(&self, status: Status) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            if first {
                *closing = Some(status);
            }
            first
        });
    }

    fn is_closing(&self) -> bool {
        self.closing.borrow().is_some()
    }

    /// Queues a message. An agent that lets its queue run full is slow or stuck: waiting for it would make all others
    /// wait, so it loses the connection; nothing is lost with it, since both sides send again what is open.
    fn post(&self, kind: Kind) -> bool {
        if self.is_closing() {
            return false;
        }
        match self.outgoing.try_send(message(kind)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                tracing::warn!(host = %self.connected.hello.host, "agent does not keep up, its connection is closed");
                self.close(Status::resource_exhausted("the agent does not take what it is sent"));
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

fn message(kind: Kind) -> v1::FromCoordinator {
    v1::FromCoordinator { kind: Some(kind) }
}
