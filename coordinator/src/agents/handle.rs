//! What the rest of the coordinator can do with the connected agents. No call waits for an agent.

use std::future::Future;
use std::sync::Arc;

use rekeeper_proto::v1::{self, from_coordinator::Kind};
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::step::Command;
use rekeeper_shared::people::rehearsal::Action;
use tokio::sync::oneshot;
use tonic::Status;

use super::evidence::Subject;
use super::registry::Registry;
use super::{Connected, ConnectionId, NotInspected, Refused};

/// The connected agents. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentsHandle(Arc<Registry>);

impl AgentsHandle {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self(registry)
    }

    /// Notes that an attempt is about to be ordered of a host: before its command is sent. Only then its event is heard
    /// with its document, if that is about the subject.
    pub fn is_to_do(&self, host: &HostName, migration: &MigrationName, attempt: u64, subject: Subject) {
        self.0.is_to_do(host, migration, attempt, subject);
    }

    /// Notes that an attempt has ended.
    pub fn has_done(&self, host: &HostName, migration: &MigrationName, attempt: u64) {
        self.0.has_done(host, migration, attempt);
    }

    /// Sends a command; false when that connection is gone, or closed now because the agent does not keep up, or when
    /// the agent is [`Connected::ahead`]. A command that was sent may be lost all the same: send it again when the
    /// agent connects again.
    ///
    /// The connection is part of it, so that nothing is ordered of an agent before its [`Connected`] was looked at.
    pub fn send(&self, host: &HostName, connection: ConnectionId, command: Command) -> bool {
        self.0.order(host, connection, command.into())
    }

    /// Tells an agent that its events up to this number are on disk.
    pub fn acknowledge(&self, host: &HostName, connection: ConnectionId, sequence: u64) {
        let acknowledged = Kind::Acknowledged(v1::Acknowledged { sequence });
        self.0.post(host, connection, acknowledged);
    }

    /// Inspects a host. The agent is asked by the call itself; how long to wait is the caller's business.
    ///
    /// # Errors
    /// [`NotInspected`] says why there is no inventory.
    pub fn inspect(
        &self,
        host: &HostName,
    ) -> impl Future<Output = Result<HostInventory, NotInspected>> + Send + 'static {
        answer(host.clone(), self.0.inspect(host))
    }

    /// Asks what a command would change if it were ordered. The agent is asked by the call itself.
    ///
    /// # Errors
    /// [`NotInspected`] says why it is not known.
    pub fn rehearse(
        &self,
        host: &HostName,
        command: Command,
    ) -> impl Future<Output = Result<Vec<Action>, NotInspected>> + Send + 'static {
        answer(host.clone(), self.0.rehearse(host, command.into()))
    }

    /// Ends a connection and tells the agent why.
    pub fn refuse(&self, host: &HostName, connection: ConnectionId, reason: impl Into<String>) {
        self.0.close(host, connection, Status::failed_precondition(reason));
    }

    /// Who is connected, by host name.
    #[must_use]
    pub fn connected(&self) -> Vec<Connected> {
        self.0.connected()
    }

    /// Agents that were refused not long ago, and that are not known to be gone or mended.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        self.0.refused()
    }

    /// Ends every connection and takes no new one, so that the server can stop.
    pub fn close_all(&self) {
        self.0.close_all();
    }
}

async fn answer<T>(host: HostName, asked: Option<oneshot::Receiver<Result<T, String>>>) -> Result<T, NotInspected> {
    match asked {
        None => Err(NotInspected::NotConnected(host)),
        Some(answer) => match answer.await {
            Ok(told) => told.map_err(NotInspected::Failed),
            Err(_) => Err(NotInspected::Lost(host)),
        },
    }
}
