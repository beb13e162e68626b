//! A coordinator's agents and an agent on the wire, and no more.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use rekeeper_coordinator::agents::{
    self, AgentsHandle, AgentsService, Connected, ConnectionId, FromAgents, Heard, server_builder,
};
use rekeeper_coordinator::limits::{Budget, Limits};
use rekeeper_proto::convert::event::numbered;
use rekeeper_proto::v1::agents_client::AgentsClient;
use rekeeper_proto::v1::{self, from_agent, from_coordinator};
use rekeeper_shared::PROTOCOL_VERSION;
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::step::{Command, Done, Event, Hello, Order, Outcome, SeenToken, StepKind};
use rekeeper_tls::{Admission, Refusals, Security};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// A coordinator with token 5.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    pub(crate) handle: AgentsHandle,
    heard: Heard,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) server: JoinHandle<()>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let own = SeenToken {
            token: 5,
            run: "own".into(),
        };
        let budget = Budget::new(Limits::default());
        let (service, handle, heard) = agents::new(own, [(4, "mine".to_owned())].into(), budget);
        // What `event` is about.
        handle.is_to_do(&host("h1"), &"m".parse().unwrap(), 3, agents::Subject::Other);
        let (address, stop, server) = serve(service).await;
        Self {
            address,
            handle,
            heard,
            stop,
            server,
        }
    }

    pub(crate) async fn hear(&mut self) -> FromAgents {
        soon(self.heard.recv()).await.unwrap()
    }

    pub(crate) async fn hear_connected(&mut self) -> Connected {
        match self.hear().await {
            FromAgents::Connected(connected) => connected,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn hear_gone(&mut self) -> (ConnectionId, bool) {
        match self.hear().await {
            FromAgents::Gone {
                connection, goodbye, ..
            } => (connection, goodbye),
            other => panic!("{other:?}"),
        }
    }

    /// Connects an agent that is expected to be taken in.
    pub(crate) async fn agent(&mut self, hello: Hello) -> (Agent, ConnectionId) {
        let agent = Agent::connect(self.address, hello).await.unwrap();
        (agent, self.hear_connected().await.connection)
    }
}

/// Serves on a port of loopback: where, how to stop it, and the server.
pub(crate) async fn serve(service: AgentsService) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        server_builder()
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(
                rekeeper_tls::incoming(listener, Security::Loopback, Admission::default(), Refusals::default()),
                stopped,
            )
            .await
            .unwrap();
    });
    (address, stop, server)
}

/// What an agent does on the wire, and no more.
pub(crate) struct Agent {
    outgoing: mpsc::Sender<v1::FromAgent>,
    incoming: Streaming<v1::FromCoordinator>,
    pub(crate) welcome: v1::Welcome,
}

impl Agent {
    pub(crate) async fn connect(address: SocketAddr, hello: Hello) -> Result<Self, Status> {
        Self::begin(address, from_agent::Kind::Hello(hello.into())).await
    }

    pub(crate) async fn begin(address: SocketAddr, first: from_agent::Kind) -> Result<Self, Status> {
        let mut client = AgentsClient::connect(format!("http://{address}")).await.unwrap();
        let (outgoing, messages) = mpsc::channel(16);
        outgoing.send(v1::FromAgent { kind: Some(first) }).await.unwrap();
        let mut incoming = soon(client.attend(ReceiverStream::new(messages))).await?.into_inner();
        match soon(incoming.message()).await?.and_then(|message| message.kind) {
            Some(from_coordinator::Kind::Welcome(welcome)) => Ok(Self {
                outgoing,
                incoming,
                welcome,
            }),
            other => panic!("{other:?} instead of welcome"),
        }
    }

    pub(crate) async fn say(&self, kind: from_agent::Kind) {
        self.outgoing.send(v1::FromAgent { kind: Some(kind) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<from_coordinator::Kind, Status> {
        Ok(soon(self.incoming.message())
            .await?
            .and_then(|message| message.kind)
            .unwrap())
    }

    /// The status that the coordinator ends the stream with.
    pub(crate) async fn refused(&mut self) -> Status {
        self.next().await.unwrap_err()
    }
}

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("did not happen in 20 s")
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(crate) fn hello(name: &str, server_id: &str) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: "0".into(),
        host: host(name),
        server_id: server_id.into(),
        clickhouse_version: "26.9".into(),
        seen: SeenToken::default(),
        attempts: vec![("m".parse().unwrap(), 3)],
        parallel_detach: 8,
        parallel_restore: 16,
    }
}

pub(crate) fn command(migration: &str) -> Command {
    Command {
        migration: migration.parse().unwrap(),
        attempt: 1,
        order: Order::Restart,
    }
}

pub(crate) fn event() -> Event {
    Event {
        migration: "m".parse().unwrap(),
        attempt: 3,
        step: Some(StepKind::Restart),
        outcome: Outcome::Done(Done::Plain),
        document: None,
    }
}

pub(crate) fn say_event(sequence: u64, event: Event) -> from_agent::Kind {
    from_agent::Kind::Event(numbered(sequence, event))
}

/// Passes bytes on until it is told to let them fall: like a cable that is cut, without a farewell of either side.
pub(crate) async fn cable(to: SocketAddr) -> (SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, is_cut) = oneshot::channel();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = is_cut => std::future::pending().await,
        }
    });
    (address, cut)
}
