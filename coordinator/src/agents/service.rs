//! The gRPC service that agents open their streams on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rekeeper_proto::v1::{self, agents_server::Agents, agents_server::AgentsServer};
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::step::SeenToken;
use rekeeper_tls::{Peer, Role, Seldom, Who};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::heard::{Heard, Told};
use super::outgoing::Outgoing;
use super::registry::Registry;
use super::stream;
use super::{AgentsHandle, Refused};
use crate::limits::{Budget, Calls, Held, Measured};

/// What agents have said and the driver has not heard yet; beyond it, agents wait.
const INCOMING: usize = 1_024;
/// How long an agent may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which a peer is asked for a sign of life, and how long it has for it: a dead one is found in 9 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Calls that are open on one connection; HTTP/2 lets a caller wait with more.
const CALLS_OF_CONNECTION: u32 = 64;

/// The agents of the coordinator that has this token, and had the runs of `past` by their tokens: the service to serve,
/// the handle to tell them something, and what they say.
#[must_use]
pub fn new(own: SeenToken, past: BTreeMap<u64, String>, budget: Arc<Budget>) -> (AgentsService, AgentsHandle, Heard) {
    let (told, heard) = mpsc::channel(INCOMING);
    let registry = Arc::new(Registry::new(own, past, budget.limits().message_bytes));
    let handle = AgentsHandle::new(Arc::clone(&registry));
    let service = AgentsService {
        registry,
        told,
        logged: Seldom::default(),
        budget,
    };
    (service, handle, Heard::new(heard))
}

/// A server that finds dead peers.
#[must_use]
pub fn server_builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(CALLS_OF_CONNECTION))
}

/// The service of [`v1::agents_server`].
#[derive(Debug)]
pub struct AgentsService {
    registry: Arc<Registry>,
    told: mpsc::Sender<Told>,
    logged: Seldom,
    budget: Arc<Budget>,
}

impl AgentsService {
    /// The service with the limits of the wire, to add to a [`server_builder`].
    #[must_use]
    pub fn into_server(self) -> Measured<AgentsServer<Self>> {
        let budget = self.budget();
        let service = AgentsServer::new(self)
            .max_decoding_message_size(budget.limits().message_bytes)
            .max_encoding_message_size(rekeeper_proto::MAX_MESSAGE_BYTES);
        Measured::new(service, Calls::OfAgents, budget)
    }

    /// What the callers have under way, of all services together.
    #[must_use]
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }
}

impl AgentsService {
    /// Refuses an agent that may not speak for the host, with a line in the log.
    fn authorize(&self, peer: Option<&Peer>, host: &HostName) -> Result<(), Status> {
        let Some(why) = objection(peer.map(|peer| peer.who.as_ref()), host) else {
            return Ok(());
        };
        let address = peer.and_then(|peer| peer.address);
        if address.is_none_or(|address| self.logged.is_due(address.ip(), &why)) {
            let address = address.map(|address| address.to_string());
            tracing::warn!(address, host = %host, reason = why, "agent refused");
        }
        self.registry.note(Refused {
            host: host.clone(),
            code: None,
            message: why.clone(),
        });
        Err(Status::permission_denied(why))
    }
}

/// Why the bearer of a certificate may not be the agent of the host, if so.
fn objection(who: Option<&Who>, host: &HostName) -> Option<String> {
    match who {
        // A connection that was taken by something that does not tell whose it is.
        None => Some("it is not known who calls; this is a fault of Rekeeper".to_owned()),
        Some(Who::Anyone) => None,
        Some(Who::Unfit(unfit)) => Some(unfit.to_string()),
        Some(Who::Bearer(identity)) => match identity.role {
            Role::Agent if identity.hosts.iter().any(|name| name == host.as_str()) => None,
            Role::Agent => Some(format!(
                "the agent says that it is that of {host}, and its certificate is for {}: give it a certificate with \
                 {host} among its subject alternative names, or the right host in its configuration",
                identity.hosts.join(", ")
            )),
            Role::Viewer | Role::Operator => Some(format!(
                "the certificate of {identity} is that of a person; an agent's has OU=rekeeper-agent in its subject"
            )),
        },
    }
}

#[async_trait]
impl Agents for AgentsService {
    type AttendStream = Outgoing;

    /// Answers once the agent has said hello, so the hello must not wait for the answer.
    async fn attend(&self, request: Request<Streaming<v1::FromAgent>>) -> Result<Response<Outgoing>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let held = request.extensions().get::<Held>().cloned().unwrap_or_default();
        let mut incoming = request.into_inner();
        let hello = timeout(HELLO_WITHIN, stream::first(&mut incoming))
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        drop(held.take());
        self.authorize(peer.as_ref(), &hello.host)?;
        let (admitted, outgoing) = self.registry.admit(hello)?;
        tokio::spawn(stream::attend(
            Arc::clone(&self.registry),
            self.told.clone(),
            admitted,
            stream::Incoming {
                messages: incoming,
                held,
                inventory_bytes: self.budget.limits().inventory_bytes,
            },
        ));
        Ok(Response::new(outgoing))
    }
}

#[cfg(test)]
mod tests {
    use rekeeper_tls::{Identity, Unfit};

    use super::*;

    #[test]
    fn an_agent_speaks_for_the_hosts_of_its_certificate_only() {
        let bearer = |role| {
            Some(Who::Bearer(Identity {
                name: "x".into(),
                role,
                hosts: vec!["ch-1".into(), "ch-2".into()],
            }))
        };
        for (who, host, may) in [
            (bearer(Role::Agent), "ch-1", true),
            (bearer(Role::Agent), "ch-2", true),
            (bearer(Role::Agent), "ch-3", false),
            (bearer(Role::Agent), "ch", false),
            (bearer(Role::Operator), "ch-1", false),
            (bearer(Role::Viewer), "ch-1", false),
            (Some(Who::Unfit(Unfit::Unreadable)), "ch-1", false),
            (Some(Who::Anyone), "ch-1", true),
            (None, "ch-1", false),
        ] {
            let why = objection(who.as_ref(), &host.parse().unwrap());
            assert_eq!(why.is_none(), may, "{who:?} {host} {why:?}");
        }
    }
}
