//! The gRPC service that agents open their streams on.

use std::sync::Arc;
use std::time::Duration;

use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1::{self, agents_server::Agents, agents_server::AgentsServer};
use rekeeper_shared::step::SeenToken;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::registry::Registry;
use super::stream::{self, Outgoing};
use super::{AgentsHandle, FromAgents};

/// What agents have said and the driver has not heard yet; beyond it, agents wait.
const INCOMING: usize = 1_024;
/// How long an agent may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which a peer is asked for a sign of life, and how long it has for it: a dead one is found in 9 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// The agents of the coordinator that has this token: the service to serve, the handle to tell them something, and
/// what they say.
#[must_use]
pub fn new(own: SeenToken) -> (AgentsService, AgentsHandle, mpsc::Receiver<FromAgents>) {
    let (told, heard) = mpsc::channel(INCOMING);
    let registry = Arc::new(Registry::new(own));
    let handle = AgentsHandle::new(Arc::clone(&registry));
    (AgentsService { registry, told }, handle, heard)
}

/// A server that finds dead peers.
#[must_use]
pub fn server_builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// The service of [`v1::agents_server`].
#[derive(Debug)]
pub struct AgentsService {
    registry: Arc<Registry>,
    told: mpsc::Sender<FromAgents>,
}

impl AgentsService {
    /// The service with the limits of the wire, to add to a [`server_builder`].
    #[must_use]
    pub fn into_server(self) -> AgentsServer<Self> {
        AgentsServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[async_trait]
impl Agents for AgentsService {
    type AttendStream = Outgoing;

    /// Answers once the agent has said hello, so the hello must not wait for the answer.
    async fn attend(&self, request: Request<Streaming<v1::FromAgent>>) -> Result<Response<Outgoing>, Status> {
        let mut incoming = request.into_inner();
        let hello = timeout(HELLO_WITHIN, stream::first(&mut incoming))
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let (admitted, outgoing) = self.registry.admit(hello)?;
        tokio::spawn(stream::attend(
            Arc::clone(&self.registry),
            self.told.clone(),
            admitted,
            incoming,
        ));
        Ok(Response::new(outgoing))
    }
}
