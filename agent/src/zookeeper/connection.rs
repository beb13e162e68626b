//! Sessions: one per place, cheap to clone, bounded in time and in what is under way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rekeeper_shared::domain::place::Place;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::{Acls, Client, Error as ClientError, SessionState};

use super::ensembles::Access;
use super::error::ZkError;
use super::tls::{Tls, server_name};

/// How long one node may take to answer; also how long a silent connection is believed in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one node may take to accept a connection, when it is only asked why there is no session.
const PROBE: Duration = Duration::from_secs(1);
/// How long a step waits at most for an ensemble that is away, however long its sessions may be.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it is back.
const AGAIN: Duration = Duration::from_millis(250);
/// Requests that may be under way on one session: the client itself queues without bound.
const IN_FLIGHT: usize = 1024;

/// A session with one place. Its methods are spread over this module: reading (`snapshot`, `path_facts`,
/// `restored_state`), fencing and deleting (`fence`, `release`, `delete`), and the witness.
#[derive(Clone)]
pub struct ZooKeeper {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    place: Place,
    acls: Acls<'static>,
    /// The name before the colon of the identity.
    user: Option<String>,
    in_flight: Semaphore,
    multi_read: AtomicBool,
}

impl std::fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZooKeeper")
            .field("place", &self.inner.place)
            .finish_non_exhaustive()
    }
}

impl ZooKeeper {
    /// Makes a session with a place; every node is tried once.
    ///
    /// # Errors
    /// [`ZkError::Unreachable`] when no node answers in time or the identity is refused, [`ZkError::NoChroot`] when the
    /// place's chroot does not exist.
    pub async fn connect(place: &Place, access: &Access) -> Result<Self, ZkError> {
        let zookeeper = Self::dial(place, access).await?;
        match zookeeper.knows_multi_read().await {
            Ok(()) => Ok(zookeeper),
            // ClickHouse Keeper before 22.10 ends the connection at a request that it does not know.
            Err(error) if error.may_pass() => {
                let again = Self::dial(place, access).await?;
                again.give_up_multi_read();
                Ok(again)
            }
            Err(error) => Err(error),
        }
    }

    async fn dial(place: &Place, access: &Access) -> Result<Self, ZkError> {
        let unreachable = |reason: String, source| ZkError::Unreachable {
            place: place.to_string(),
            reason,
            source,
        };
        let mut connector = Client::connector()
            .with_session_timeout(access.session_timeout)
            .with_password(access.password)
            .with_connection_timeout(CONNECT_TIMEOUT)
            // Only chooses how nodes are created: ClickHouse Keeper before 25.12 does not know Create2 (opcode 15).
            .with_server_version(3, 4, 0)
            .with_fail_eagerly();
        if let Some(identity) = &access.identity {
            connector = connector.with_auth("digest", identity.as_bytes());
        }
        let mut tls = None;
        if place.secure {
            // The client panics at names that no certificate can be for.
            for node in &place.nodes {
                server_name(node).map_err(|why| unreachable(why, None))?;
            }
            let read = access.tls.read().map_err(|why| unreachable(why, None))?;
            connector = connector.with_tls(read.options.clone());
            tls = Some(read);
        }
        let scheme = if place.secure { "tcp+tls" } else { "tcp" };
        let nodes: Vec<String> = place.nodes.iter().map(|node| format!("{scheme}://{node}")).collect();
        let nodes = nodes.join(",");
        let tries = u32::try_from(place.nodes.len()).unwrap_or(u32::MAX);
        let limit = CONNECT_TIMEOUT.saturating_mul(tries.saturating_add(1));
        let client = match timeout(limit, connector.connect(&nodes)).await {
            Ok(Ok(client)) => client,
            Ok(Err(ClientError::NoHosts)) => {
                let reason = Self::why_no_session(place, tls.as_ref()).await;
                return Err(unreachable(reason, None));
            }
            Ok(Err(ClientError::AuthFailed)) => {
                return Err(unreachable(
                    "it refused the <identity> of ClickHouse's configuration".to_owned(),
                    None,
                ));
            }
            Ok(Err(source)) => return Err(unreachable("connecting failed".to_owned(), Some(source))),
            Err(_) => return Err(unreachable(format!("no answer within {} s", limit.as_secs()), None)),
        };
        let client = Self::enter(client, place).await?;
        let acls = if access.identity.is_some() {
            Acls::creator_all()
        } else {
            Acls::anyone_all()
        };
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                place: place.clone(),
                acls,
                user: access.identity.as_ref().and_then(|identity| {
                    let (name, _) = identity.split_once(':')?;
                    Some(name.to_owned())
                }),
                in_flight: Semaphore::new(IN_FLIGHT),
                multi_read: AtomicBool::new(true),
            }),
        })
    }

    /// ClickHouse Keeper ends the connection at a wrong password without a word, which is all that a client sees of it.
    async fn why_no_session(place: &Place, tls: Option<&Tls>) -> String {
        if let Some(tls) = tls
            && let Some(why) = tls.trouble(&place.nodes).await
        {
            return why;
        }
        for node in &place.nodes {
            if matches!(timeout(PROBE, TcpStream::connect(node)).await, Ok(Ok(_))) {
                return format!(
                    "{node} takes connections, but ends them before there is a session: it has no leader, or it is a \
                     ClickHouse Keeper with a <password>, and the one in <zookeeper> of ClickHouse's configuration is \
                     another or missing"
                );
            }
        }
        "none of its nodes accepted a session".to_owned()
    }

    /// A missing chroot connects, and then every answer is "no such node": that must not be taken for "deleted".
    async fn enter(client: Client, place: &Place) -> Result<Client, ZkError> {
        if place.chroot.is_empty() {
            return Ok(client);
        }
        match client.check_stat(&place.chroot).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(ZkError::NoChroot {
                    chroot: place.chroot.clone(),
                    nodes: place.nodes.join(","),
                });
            }
            Err(source) => return Err(ZkError::new("look at", &place.chroot, source)),
        }
        client.chroot(place.chroot.clone()).map_err(|_| ZkError::Unreachable {
            place: place.to_string(),
            reason: format!("{} is no usable root", place.chroot),
            source: None,
        })
    }

    /// The place that this session is with.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.inner.place
    }

    /// Whether the session is over for good, so that a new connection is needed.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.inner.client.state().is_terminated()
    }

    fn is_connected(&self) -> bool {
        matches!(
            self.inner.client.state(),
            SessionState::SyncConnected | SessionState::ConnectedReadOnly
        )
    }

    pub(super) fn acls(&self) -> Acls<'static> {
        self.inner.acls
    }

    /// The user of the digest identity, if there is one.
    pub(super) fn user(&self) -> Option<&str> {
        self.inner.user.as_deref()
    }

    pub(super) fn session_id(&self) -> i64 {
        self.inner.client.session_id().0
    }

    pub(super) fn has_multi_read(&self) -> bool {
        self.inner.multi_read.load(Ordering::Relaxed)
    }

    pub(super) fn give_up_multi_read(&self) {
        self.inner.multi_read.store(false, Ordering::Relaxed);
    }

    /// Waits until the server of this session has what the leader had when this was asked. Servers of an ensemble may lag:
    /// what another agent was told to be done is not there yet otherwise.
    async fn catch_up(&self) -> Result<(), ZkError> {
        let operation = "catch up with the leader at";
        let answer = self
            .request(operation, "/", |client| async move { client.sync("/").await })
            .await?;
        answer.map_err(|source| ZkError::new(operation, "/", source))
    }

    /// Sends one request and waits for its answer; none is sent while the connection is down. The client's error is
    /// left to the caller, who knows which of them are answers.
    pub(super) async fn request<T, E, F>(
        &self,
        operation: &'static str,
        path: &str,
        send: impl FnOnce(Client) -> F,
    ) -> Result<Result<T, E>, ZkError>
    where
        F: Future<Output = Result<T, E>>,
    {
        let inner = &self.inner;
        let lost = |source| ZkError::Lost {
            operation,
            path: path.to_owned(),
            source,
        };
        let _permit = inner.in_flight.acquire().await.map_err(|_| lost(None))?;
        match inner.client.state() {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => {}
            SessionState::Disconnected => {
                return Err(ZkError::Disconnected {
                    place: inner.place.to_string(),
                    operation,
                    path: path.to_owned(),
                });
            }
            SessionState::Expired => return Err(ZkError::new(operation, path, ClientError::SessionExpired)),
            SessionState::AuthFailed => return Err(ZkError::new(operation, path, ClientError::AuthFailed)),
            SessionState::Closed => return Err(ZkError::new(operation, path, ClientError::ClientClosed)),
        }
        // The client answers every request at the latest when the session expires; this is the net below it.
        let limit = inner.client.session_timeout().saturating_mul(2);
        timeout(limit, send(inner.client.clone())).await.map_err(|_| lost(None))
    }

    /// Waits until the connection is back; false when the session ended or `limit` passed.
    pub(super) async fn reconnected(&self, limit: Duration) -> bool {
        let back = async {
            loop {
                match self.inner.client.state() {
                    SessionState::SyncConnected | SessionState::ConnectedReadOnly => return true,
                    SessionState::Disconnected => sleep(Duration::from_millis(50)).await,
                    SessionState::Expired | SessionState::AuthFailed | SessionState::Closed => return false,
                }
            }
        };
        timeout(limit, back).await.unwrap_or(false)
    }
}

type Slot = Arc<Mutex<Option<(Access, ZooKeeper)>>>;

/// The sessions of an agent, one per place; one that ended is dropped and made anew.
#[derive(Clone, Default)]
pub struct Connections {
    slots: Arc<Mutex<HashMap<Place, Slot>>>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// No session yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The session with a place, made if there is none, that sees all that anybody was told to be done. Several callers
    /// share one attempt to connect.
    ///
    /// # Errors
    /// Those of [`ZooKeeper::connect`], or ZooKeeper's failure.
    pub async fn get(&self, place: &Place, access: &Access) -> Result<ZooKeeper, ZkError> {
        let zookeeper = self.session(place, access).await?;
        zookeeper.catch_up().await?;
        Ok(zookeeper)
    }

    async fn session(&self, place: &Place, access: &Access) -> Result<ZooKeeper, ZkError> {
        let slot = self.slots.lock().await.entry(place.clone()).or_default().clone();
        let mut session = slot.lock().await;
        if let Some((used, zookeeper)) = session.as_ref()
            && used == access
            && !zookeeper.is_ended()
        {
            return Ok(zookeeper.clone());
        }
        let zookeeper = ZooKeeper::connect(place, access).await?;
        *session = Some((access.clone(), zookeeper.clone()));
        Ok(zookeeper)
    }

    /// The same for a step: an ensemble that is away, because it elects another leader or is restarted, is waited for as
    /// long as ClickHouse is configured to keep a session, for 30 s at most.
    ///
    /// # Errors
    /// Those of [`ZooKeeper::connect`]. A session that is still not connected then says so at its first request.
    pub async fn get_patiently(&self, place: &Place, access: &Access) -> Result<ZooKeeper, ZkError> {
        let deadline = Instant::now() + access.session_timeout.min(PATIENCE);
        loop {
            let is_over = Instant::now() >= deadline;
            match self.get(place, access).await {
                Ok(zookeeper) if zookeeper.is_connected() || is_over => return Ok(zookeeper),
                Err(error) if is_over || !error.may_pass() => return Err(error),
                Ok(_) | Err(_) => sleep(AGAIN).await,
            }
        }
    }
}
